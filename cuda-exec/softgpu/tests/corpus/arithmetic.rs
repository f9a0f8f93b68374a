//! Floating point.

use super::*;

fn doubles(seed: u64, count: usize) -> Vec<f64> {
    let value = |n: u64| ((n >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * 2f64.powi((n % 61) as i32 - 30);
    numbers(seed).map(value).take(count).collect()
}

#[track_caller]
fn near(got: f64, expected: f64, tolerance: f64, what: &str) {
    let off = (got - expected).abs();
    assert!(
        off <= tolerance * (1.0 + expected.abs()),
        "{what}: {got:e}, not {expected:e}"
    );
}

#[test]
fn polynomial() {
    // Exact whether or not products and sums are fused.
    let coefficients = [3.0, -2.0, 0.5, 7.0, -1.0];
    let x: Vec<f64> = (0..100).map(|i| f64::from(i) / 4.0 - 10.0).collect();
    each("doubles", "polynomial", |kernel| {
        let (c, dx, dy) = (upload(&coefficients), upload(&x), zeros(100 * 8));
        kernel.run(2, 64, 0, &[&c, &5i32, &dx, &dy, &100i32]);
        let value = |x: &f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
        assert_eq!(
            download::<f64>(dy, 100),
            x.iter().map(value).collect::<Vec<f64>>()
        );
    });
}

#[test]
fn double_precision_is_exact() {
    let (a, b) = (doubles(4, 500), doubles(5, 500));
    each("doubles", "exact_f64", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(5000 * 8));
        kernel.run(4, 128, 0, &[&da, &db, &out, &500i32]);
        for (at, got) in download::<[f64; 10]>(out, 500).into_iter().enumerate() {
            let (a, b) = (a[at], b[at]);
            let expected = [
                a + b,
                a - b,
                a * b,
                a / b,
                a.abs().sqrt(),
                a.mul_add(b, 1.5),
                a.floor(),
                a.round_ties_even(),
                a.min(b),
                a.trunc() + f64::from(b as f32),
            ];
            assert_eq!(got, expected, "{a:e} {b:e}");
        }
    });
}

#[test]
fn functions_in_double_precision() {
    let x: Vec<f64> = doubles(6, 200).iter().map(|v| v.abs() % 90.0 + 0.01).collect();
    each("doubles", "functions_f64", |kernel| {
        let (dx, out) = (upload(&x), zeros(1600 * 8));
        kernel.run(2, 128, 0, &[&dx, &out, &200i32]);
        for (x, got) in x.iter().zip(download::<[f64; 8]>(out, 200)) {
            let expected = [
                (x / 100.0).exp(),
                x.ln(),
                x.sin(),
                (x * 1_000_000.0).cos(),
                x.powf(0.3),
                x.atan2(3.0),
                x.cbrt(),
                (x / 10.0).tanh(),
            ];
            for (which, (got, expected)) in got.iter().zip(expected).enumerate() {
                near(*got, expected, 1e-15, &format!("{which} of {x}"));
            }
        }
    });
}

/// The single at or next to an exact value, on one side of it.
fn single(exact: f64, up: bool) -> f32 {
    let nearest = exact as f32;
    match (f64::from(nearest) < exact, f64::from(nearest) > exact) {
        (true, _) if up => nearest.next_up(),
        (_, true) if !up => nearest.next_down(),
        _ => nearest,
    }
}

#[test]
fn single_precision_is_exact_in_every_direction() {
    // Multiples of 2^-16 below 1000: their sums, products and products plus 1.5 are exact as doubles.
    let value = |n: u64| ((n >> 30) % (2000 << 16)) as f32 / 65536.0 - 1000.0;
    let quantised = |v: f32| (v * 256.0).trunc() / 256.0;
    let pick = |seed| -> Vec<f32> { numbers(seed).map(|n| quantised(value(n))).take(500).collect() };
    let (mut a, b) = (pick(7), pick(8));
    a.iter_mut().step_by(5).for_each(|v| *v /= 1024.0);
    each("singles", "exact_f32", |kernel| {
        let (da, db, out) = (upload(&a), upload(&b), zeros(6000 * 4));
        kernel.run(4, 128, 0, &[&da, &db, &out, &500i32]);
        for (at, got) in download::<[f32; 12]>(out, 500).into_iter().enumerate() {
            let (a, b) = (a[at], b[at]);
            let (x, y) = (f64::from(a), f64::from(b));
            let expected = [
                a + b,
                a * b,
                a / b,
                a.abs().sqrt(),
                a.mul_add(b, 1.5),
                single(x + y, false),
                single(x + y, true),
                single(x * y, x * y < 0.0),
                single(x * y + 1.5, true),
                single(x * y + 1.5, false),
                a.clamp(0.0, 1.0),
                a.max(b),
            ];
            assert_eq!(got, expected, "{a:e} {b:e}");
        }
    });
}

#[test]
fn conversions() {
    let value = |n: u64| ((n >> 20) % 2_000_000) as f32 / 10.0 - 100_000.0;
    let mut x: Vec<f32> = numbers(9).map(value).take(300).collect();
    x.extend([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    let n = x.len();
    each("singles", "conversions", |kernel| {
        let (dx, out) = (upload(&x), zeros(n * 32));
        kernel.run(3, 128, 0, &[&dx, &out, &(n as i32)]);
        for (x, got) in x.iter().zip(download::<[i32; 8]>(out, n)) {
            let whole = *x as i32;
            let product = i64::from(whole.wrapping_mul(16777));
            let toward_zero = single(product as f64, product < 0);
            let expected = [
                whole,
                x.abs() as u32 as i32,
                x.round_ties_even() as i32,
                x.ceil() as i32,
                i32::from(whole as i8),
                i32::from(whole as u16),
                toward_zero.to_bits() as i32,
                (*x as i64 as u64 as f32).to_bits() as i32,
            ];
            assert_eq!(got, expected, "{x}");
        }
    });
}

#[test]
fn functions_in_single_precision() {
    let x: Vec<f32> = doubles(10, 200)
        .iter()
        .map(|v| (v.abs() % 90.0) as f32 + 0.01)
        .collect();
    each("singles", "functions_f32", |kernel| {
        let (dx, out) = (upload(&x), zeros(1600 * 4));
        kernel.run(2, 128, 0, &[&dx, &out, &200i32]);
        for (x, got) in x.iter().zip(download::<[f32; 8]>(out, 200)) {
            let (tenth, v) = (f64::from(x / 10.0), f64::from(*x));
            let expected = [
                tenth.exp(),
                v.ln(),
                v.sin(),
                f64::from(x * 100_000.0).cos(),
                v.powf(f64::from(0.3f32)),
                tenth.exp(),
                1.0 / v.sqrt(),
                tenth.tanh(),
            ];
            for (which, (got, expected)) in got.iter().zip(expected).enumerate() {
                near(f64::from(*got), expected, 2e-6, &format!("{which} of {x}"));
            }
        }
    });
}
