//! Vectors, tiles, reductions, histograms, atomics, variables of the module.

use super::*;
use softgpu_cuda::driver::{abi::*, module::cuModuleGetGlobal_v2};

#[test]
fn vectors() {
    let n = 1000usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32 - 300.0).collect();
    let b: Vec<f32> = (0..n).map(|i| (i * 7 % 100) as f32 / 4.0).collect();
    each("linear", "vector_add", |kernel| {
        let (da, db, dc) = (upload(&a), upload(&b), zeros(n * 4));
        kernel.run(8, 128, 0, &[&da, &db, &dc, &(n as u32)]);
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(download::<f32>(dc, n), expected);
    });
    each("linear", "saxpy", |kernel| {
        let (dx, dy) = (upload(&a), upload(&b));
        // Fewer threads than elements.
        kernel.run(3, 64, 0, &[&2.5f32, &dx, &dy, &(n as u32)]);
        let expected: Vec<f32> = a.iter().zip(&b).map(|(x, y)| 2.5 * x + y).collect();
        assert_eq!(download::<f32>(dy, n), expected);
    });
    each("linear", "scale4", |kernel| {
        let data = upload(&a);
        kernel.run(4, 64, 0, &[&data, &0.5f32, &(n as u32 / 4 - 1)]);
        let got: Vec<f32> = download(data, n);
        let scaled = a[..n - 4].iter().map(|v| v / 2.0);
        let expected: Vec<f32> = scaled.chain(a[n - 4..].iter().copied()).collect();
        assert_eq!(got, expected);
    });
    each("linear", "positions", |kernel| {
        let out = zeros(12 * 10 * 6 * 4);
        kernel.run([3, 2, 2], [4, 5, 3], 0, &[&out]);
        for (at, got) in download::<u32>(out, 12 * 10 * 6).into_iter().enumerate() {
            let (x, y, z) = (at % 12, at / 12 % 10, at / 120);
            assert_eq!(got as usize, x | y << 8 | z << 16);
        }
    });
}

#[test]
fn matrix_product() {
    let side = 64usize;
    let a: Vec<f32> = (0..side * side).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
    let b: Vec<f32> = (0..side * side).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
    each("matmul", "matmul", |kernel| {
        let (da, db, dc) = (upload(&a), upload(&b), zeros(side * side * 4));
        kernel.run([4, 4, 1], [16, 16, 1], 0, &[&da, &db, &dc, &(side as i32)]);
        for (at, got) in download::<f32>(dc, side * side).into_iter().enumerate() {
            let (row, column) = (at / side, at % side);
            // Small integers: exact in any order.
            let sum: f32 = (0..side).map(|k| a[row * side + k] * b[k * side + column]).sum();
            assert_eq!(got, sum, "{row} {column}");
        }
    });
}

#[test]
fn reductions() {
    let n = 5000usize;
    let values: Vec<i32> = spread(1, 20, n).into_iter().map(|v| v as i32).collect();
    let floats: Vec<f32> = values.iter().map(|v| (v % 1000) as f32).collect();
    each("reduce", "block_sum", |kernel| {
        let (input, out) = (upload(&floats), zeros(4 * 4));
        kernel.run(4, 256, 8 * 4, &[&input, &out, &(n as u32)]);
        let total: f32 = download::<f32>(out, 4).iter().sum();
        assert_eq!(total, floats.iter().sum::<f32>());
    });
    each("reduce", "block_max", |kernel| {
        let (input, largest, place) = (upload(&values), zeros(8 * 4), zeros(8 * 4));
        kernel.run(8, 128, 128 * 8, &[&input, &largest, &place]);
        let (largest, place) = (download::<i32>(largest, 8), download::<u32>(place, 8));
        for (block, chunk) in values.chunks(128).take(8).enumerate() {
            assert_eq!(largest[block], *chunk.iter().max().unwrap());
            assert_eq!(values[place[block] as usize], largest[block]);
        }
    });
    each("reduce", "warp_scan", |kernel| {
        let wide = spread(2, 50, 256);
        let (input, out) = (upload(&wide), zeros(256 * 8));
        kernel.run(2, 128, 0, &[&input, &out]);
        let scan = |warp: &[i64]| {
            let mut sum = 0i64;
            warp.iter()
                .map(|v| {
                    sum += v;
                    sum
                })
                .collect::<Vec<i64>>()
        };
        let expected: Vec<i64> = wide.chunks(32).flat_map(scan).collect();
        assert_eq!(download::<i64>(out, 256), expected);
    });
}

#[test]
fn histograms() {
    let data: Vec<u8> = numbers(3)
        .map(|n| (n >> 20) as u8 & (n >> 40) as u8)
        .take(10_001)
        .collect();
    let mut expected = [0u32; 256];
    data.iter().for_each(|byte| expected[*byte as usize] += 1);
    each("atomics", "histogram", |kernel| {
        let (input, bins) = (upload(&data), zeros(256 * 4));
        kernel.run(5, 96, 0, &[&input, &(data.len() as u32), &bins]);
        assert_eq!(download::<u32>(bins, 256), expected);
    });
}

#[test]
fn atomics() {
    /// As in the source.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Results {
        sum: i32,
        least: i32,
        most: i32,
        subtracted: u32,
        least_u: u32,
        most_u: u32,
        and_bits: u32,
        or_bits: u32,
        xor_bits: u32,
        wrapped_up: u32,
        wrapped_down: u32,
        winner: u32,
        swaps: u32,
        sum_f: f32,
        sum_d: f64,
        sum_l: u64,
        most_l: u64,
        cas_sum: u64,
        least_l: i64,
        tickets: u32,
        spare: u32,
    }
    let threads = 4 * 100u32;
    let before = Results {
        least: 50,
        most: 50,
        least_u: 50,
        most_u: 50,
        and_bits: u32::MAX,
        wrapped_down: 3,
        ..Results::default()
    };
    each("atomics", "atomics", |kernel| {
        let (at, drawn) = (upload(&[before]), zeros(threads as usize * 4));
        kernel.run(4, 100, 0, &[&at, &drawn]);
        let after = download::<Results>(at, 1)[0];
        let each = || 0..threads;
        // Counts of atomicDec from 3, which goes on at 10 below 0.
        let down = each().fold(3u32, |v, _| if v == 0 { 10 } else { v - 1 });
        let expected = Results {
            sum: each().map(|i| i as i32 - 100).sum(),
            least: -100,
            most: threads as i32 - 101,
            subtracted: each().fold(0, |v, i| v - i as i64) as u32,
            least_u: 7,
            most_u: threads + 6,
            and_bits: !0x1fff,
            or_bits: 0x1fff,
            xor_bits: each().fold(0, |v, i| v ^ i.wrapping_mul(2_654_435_761)),
            wrapped_up: threads % 11,
            wrapped_down: down,
            winner: after.winner,
            swaps: 1,
            sum_f: threads as f32 / 2.0,
            sum_d: f64::from(threads) / 4.0,
            sum_l: each().map(|i| u64::from(i) << 30).sum(),
            most_l: u64::from(threads - 1) << 33,
            cas_sum: each().map(u64::from).sum(),
            least_l: -(i64::from(threads - 1) << 33),
            tickets: threads,
            spare: 0,
        };
        assert_eq!(after, expected);
        assert!((1..=threads).contains(&after.winner));
        assert_eq!(
            download::<u32>(drawn, threads as usize),
            vec![1; threads as usize]
        );
    });
}

#[test]
fn a_lock_is_taken_by_one_thread_at_a_time() {
    each("atomics", "locked_count", |kernel| {
        let (lock, count) = (zeros(4), zeros(4));
        kernel.run(4, 48, 0, &[&lock, &count]);
        assert_eq!(download::<u32>(count, 1), [4 * 48]);
    });
}

fn global(module: u64, name: &str) -> (u64, usize) {
    let name = CString::new(name).unwrap();
    let (mut address, mut len) = (0, 0);
    ok(cuModuleGetGlobal_v2(
        Out(&mut address),
        Out(&mut len),
        module,
        Text(name.as_ptr()),
    ));
    (address, len)
}

#[test]
fn variables_of_a_module() {
    each_module(&COMPILERS, "globals", |module| {
        let kernel = |name: &str| Kernel(function(module, &CString::new(name).unwrap()));
        let input: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let (at, out) = (upload(&input), zeros(24 * 4));
        let expected = |scale: f32| -> Vec<f32> {
            let steps = [1.0, -2.0, 3.0];
            let value = |i: usize| i as f32 * (1 << (i % 8)) as f32 * scale + 5.0 + steps[i % 3] * 0.5;
            (0..24).map(value).collect()
        };
        kernel("weigh").run(1, 24, 0, &[&at, &out]);
        assert_eq!(download::<f32>(out, 24), expected(1.0));
        // Constants are changed by the host between kernels.
        let (weights, len) = global(module, "weights");
        assert_eq!(len, 32);
        let doubled: Vec<f32> = (0..8).map(|i| 2.0 * (1 << i) as f32).collect();
        ok(softgpu_cuda::driver::transfer::cuMemcpyHtoD_v2(
            weights,
            doubled.as_ptr() as u64,
            32,
        ));
        kernel("weigh").run(1, 24, 0, &[&at, &out]);
        assert_eq!(download::<f32>(out, 24), expected(2.0));

        let old = zeros(64 * 4);
        kernel("count").run(1, 64, 0, &[&old]);
        let mut seen = download::<i32>(old, 64);
        seen.sort_unstable();
        assert_eq!(seen, (40..104).collect::<Vec<i32>>());
        let (counter, len) = global(module, "counter");
        assert_eq!((download::<i32>(counter, 1), len), (vec![104], 4));

        let out = zeros(6 * 4);
        let text = i32::from(b'v') + 256 * i32::from(b'u');
        kernel("look").run(1, 1, 0, &[&out]);
        assert_eq!(download::<i32>(out, 6), [4, 5, text, 0, 10, 6]);
        kernel("look").run(1, 1, 0, &[&out]);
        assert_eq!(download::<i32>(out, 6), [5, 6, text, 0, 10, 6]);
    });
}

#[test]
fn fat_binaries() {
    use softgpu_cuda::driver::module::{cuModuleLoadData, cuModuleLoadFatBinary};
    const PLAIN: &[u8] = include_bytes!("../../../../tests/kernels/fatbin/linear-plain.fatbin");
    const CUBIN: &[u8] = include_bytes!("../../../../tests/kernels/fatbin/linear-cubin.fatbin");
    let _ctx = Ctx::new();
    let check = |module: u64| {
        let data = upload(&[1.0f32, 2.0, 3.0, 4.0]);
        Kernel(function(module, c"scale4")).run(1, 1, 0, &[&data, &3.0f32, &1u32]);
        assert_eq!(download::<f32>(data, 4), [3.0, 6.0, 9.0, 12.0]);
    };
    let mut module = 0;
    ok(cuModuleLoadData(Out(&mut module), PLAIN.as_ptr().cast()));
    check(module);
    let wrapper = [0x1_4662_43b1u64, PLAIN.as_ptr() as u64, 0];
    ok(cuModuleLoadFatBinary(Out(&mut module), wrapper.as_ptr().cast()));
    check(module);
    assert_eq!(cuModuleLoadData(Out(&mut module), CUBIN.as_ptr().cast()), 209);
    // An entry that says it is longer than the container.
    let mut wrong = PLAIN.to_vec();
    wrong[16 + 9] = 0xff;
    assert_eq!(cuModuleLoadData(Out(&mut module), wrong.as_ptr().cast()), 200);
}

#[test]
fn compressed_fat_binaries() {
    use softgpu_cuda::driver::module::cuModuleLoadData;
    const LZ4: &[u8] = include_bytes!("../../../../tests/kernels/fatbin/add-one-lz4.fatbin");
    const ZSTD: &[u8] = include_bytes!("../../../../tests/kernels/fatbin/add-one-zstd.fatbin");
    let _ctx = Ctx::new();
    let mut module = 0;
    for image in [LZ4, ZSTD] {
        ok(cuModuleLoadData(Out(&mut module), image.as_ptr().cast()));
        let data = upload(&[41u32]);
        Kernel(function(module, c"add_one")).run(1, 1, 0, &[&data]);
        assert_eq!(download::<u32>(data, 1), [42]);
        // A first entry's sizes, compressed and not (too small, too large, far too large), and its first bytes.
        for (at, with) in [
            (16 + 16, &[1u8, 0, 0, 0][..]),
            (16 + 16, &[0xff, 0xff, 0, 0]),
            (16 + 56, &[0x20, 0, 0, 0, 0, 0, 0, 0]),
            (16 + 56, &[0x30, 1, 0, 0, 0, 0, 0, 0]),
            (16 + 56, &[0xff; 8]),
            (16 + 80, &[0xff; 16]),
        ] {
            let mut wrong = image.to_vec();
            wrong[at..at + with.len()].copy_from_slice(with);
            assert_eq!(
                cuModuleLoadData(Out(&mut module), wrong.as_ptr().cast()),
                200,
                "{at}: {with:?}"
            );
        }
    }
}
