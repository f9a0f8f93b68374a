//! Integers.

use super::*;

/// 1-based place of the lowest bit set; 0 if there is none.
fn ffs(v: u64) -> i64 {
    if v == 0 {
        0
    } else {
        i64::from(v.trailing_zeros()) + 1
    }
}

#[test]
fn in_64_bits() {
    let a = spread(11, 62, 400);
    let b: Vec<i64> = spread(12, 62, 400)
        .into_iter()
        .map(|v| if v == 0 { 7 } else { v })
        .collect();
    each("integers", "integers_64", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(4800 * 8));
        kernel.run(4, 128, 0, &[&da, &db, &out, &400i32]);
        for (at, got) in download::<[i64; 12]>(out, 400).into_iter().enumerate() {
            let (x, y) = (a[at], b[at]);
            let (ux, uy) = (x as u64, y as u64);
            let shift = (y & 63) as u32;
            let expected = [
                x / y,
                x % y,
                (ux / uy) as i64,
                (ux % uy) as i64,
                ((i128::from(x) * i128::from(y)) >> 64) as i64,
                ((u128::from(ux) * u128::from(uy)) >> 64) as i64,
                x >> shift,
                ux.rotate_right(shift) as i64,
                i64::from(ux.count_ones()) + 100 * i64::from(ux.leading_zeros()) + 10000 * ffs(ux),
                ux.reverse_bits() as i64,
                (x - y).abs(),
                i64::from(x < y) + 2 * i64::from(ux < uy) + 4 * i64::from(x == y),
            ];
            assert_eq!(got, expected, "{x} {y}");
        }
    });
}

#[test]
fn in_32_bits() {
    let narrow = |seed| -> Vec<i32> { spread(seed, 30, 400).into_iter().map(|v| v as i32).collect() };
    let a = narrow(13);
    let b: Vec<i32> = narrow(14)
        .into_iter()
        .map(|v| if v == 0 { -3 } else { v })
        .collect();
    each("integers", "integers_32", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(5600 * 4));
        kernel.run(4, 128, 0, &[&da, &db, &out, &400i32]);
        for (at, got) in download::<[i32; 14]>(out, 400).into_iter().enumerate() {
            let (x, y) = (a[at], b[at]);
            let (ux, uy) = (x as u32, y as u32);
            let (bx, by) = (ux.to_le_bytes(), uy.to_le_bytes());
            let both = u64::from(uy) << 32 | u64::from(ux);
            let expected = [
                x / y,
                x % y,
                (ux / uy) as i32,
                (ux % uy) as i32,
                ((i64::from(x) * i64::from(y)) >> 32) as i32,
                ((u64::from(ux) * u64::from(uy)) >> 32) as i32,
                i32::from_le_bytes([bx[0], by[0], bx[2], by[2]]),
                ((both << (y & 31)) >> 32) as i32,
                (ux.count_ones() + 100 * ux.leading_zeros()) as i32 + 10000 * ffs(u64::from(ux)) as i32,
                ux.reverse_bits() as i32,
                (x - y).abs() + 5,
                (x.unsigned_abs() / 7).wrapping_add(ux % 10) as i32,
                ((ux >> 5 & 0x7ff) | (uy & 0x1f) << 20) as i32,
                x.min(y) ^ ux.max(uy) as i32,
            ];
            assert_eq!(got, expected, "{x} {y}");
        }
    });
}

#[test]
fn in_narrow_types() {
    let a: Vec<i8> = numbers(15).map(|n| (n >> 9) as i8).take(200).collect();
    let b: Vec<u16> = numbers(16).map(|n| (n >> 9) as u16).take(200).collect();
    each("integers", "narrow", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(600 * 2));
        kernel.run(2, 128, 0, &[&da, &db, &out, &200i32]);
        for (at, got) in download::<[i16; 3]>(out, 200).into_iter().enumerate() {
            let (x, y) = (i32::from(a[at]), i32::from(b[at]));
            let smaller = i16::from((x << 1) as i8) < y as i16;
            let expected = [
                (x * i32::from(y as i16)) as i16,
                i16::from((x + y) as u8),
                if smaller { -1 } else { (x >> 2) as i16 },
            ];
            assert_eq!(got, expected, "{x} {y}");
        }
    });
}

#[test]
fn in_128_bits() {
    let pairs = |seed| -> Vec<u128> {
        let halves: Vec<u64> = numbers(seed).take(64).collect();
        halves
            .chunks(2)
            .map(|h| u128::from(h[1]) << 64 | u128::from(h[0]))
            .collect()
    };
    let (a, b) = (pairs(17), pairs(18));
    each("integers", "wide", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(32 * 32));
        kernel.run(1, 32, 0, &[&da, &db, &out]);
        let expected: Vec<u128> = a
            .iter()
            .zip(&b)
            .flat_map(|(a, b)| [a.wrapping_mul(*b), a.wrapping_add(*b)])
            .collect();
        assert_eq!(download::<u128>(out, 64), expected);
    });
}
