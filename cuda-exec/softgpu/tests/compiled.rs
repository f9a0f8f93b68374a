//! Kernels as a compiler emits them; their source is `compiled.cu`.

mod common;

use common::*;

const COMPILED: &str = include_str!("compiled.ptx");

#[test]
fn matrix_product_in_tiles() {
    let _ctx = Ctx::new();
    let n = 64usize;
    let value = |i: usize| (i * 7 % 11) as f32 - 5.0;
    let a: Vec<f32> = (0..n * n).map(value).collect();
    let b: Vec<f32> = (0..n * n).map(|i| value(i + 3)).collect();
    let (da, db, dc) = (upload(&a), upload(&b), alloc(n * n * 4));
    launch(
        function(load(COMPILED), c"matmul"),
        [4, 4, 1],
        [16, 16, 1],
        0,
        0,
        &[&da, &db, &dc, &(n as i32)],
    );
    let c: Vec<f32> = download(dc, n * n);
    for (at, got) in c.iter().enumerate() {
        let (y, x) = (at / n, at % n);
        // Small integers: exact in any order.
        let sum: f32 = (0..n).map(|k| a[y * n + k] * b[k * n + x]).sum();
        assert_eq!(*got, sum, "{y} {x}");
    }
}

#[test]
fn sum_by_shuffles_and_atomics() {
    let _ctx = Ctx::new();
    let data: Vec<i32> = (0..10_000).map(|i| i * 31 % 1000 - 300).collect();
    let (input, out) = (upload(&data), zeros(4));
    launch(
        function(load(COMPILED), c"sum"),
        [8, 1, 1],
        [256, 1, 1],
        0,
        0,
        &[&input, &out, &10_000i32],
    );
    assert_eq!(download::<i32>(out, 1)[0], data.iter().sum::<i32>());
}

#[test]
fn calls_and_local_arrays() {
    let _ctx = Ctx::new();
    let out = zeros(32 * 4);
    launch(
        function(load(COMPILED), c"calls"),
        [1; 3],
        [32, 1, 1],
        0,
        0,
        &[&out],
    );
    let fibonacci = |n: i32| (0..n).fold((0i32, 1i32), |(a, b), _| (b, a.wrapping_add(b))).0;
    for (thread, got) in download::<i32>(out, 32).into_iter().enumerate() {
        let mut local = [0; 8];
        for i in 0..8 {
            local[i * 3 % 8] = fibonacci((i + thread) as i32);
        }
        let expected = (0..8).fold(0i32, |s, i| {
            s.wrapping_mul(3).wrapping_add(local[(i + thread) % 8])
        });
        assert_eq!(got, expected, "thread {thread}");
    }
}

#[test]
fn packed_halves() {
    let _ctx = Ctx::new();
    // 1.5 * -2 + 1.5 and 0.25 * 4 + 0.25, as halves.
    let (a, b) = (upload(&[0x3e00u16, 0x3400]), upload(&[0xc000u16, 0x4400]));
    let c = zeros(4);
    launch(
        function(load(COMPILED), c"halves"),
        [1; 3],
        [32, 1, 1],
        0,
        0,
        &[&a, &b, &c, &1i32],
    );
    assert_eq!(download::<u16>(c, 2), [0xbe00, 0x3d00]);
}

#[test]
fn structures_as_parameters() {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Options {
        a: i32,
        b: f64,
        c: [i16; 3],
    }
    let _ctx = Ctx::new();
    let f = function(load(COMPILED), c"by_value");
    let out = zeros(8);
    let run = |a: i32, b: f64| {
        launch1(
            f,
            0,
            &[
                &Options {
                    a,
                    b,
                    c: [0x0f0f, 255, -7],
                },
                &out,
            ],
        );
        download::<f64>(out, 1)[0]
    };
    assert_eq!(run(0, 2.5), 2.5 / 3.0);
    assert_eq!(run(1, 0.0), -7.0);
    assert_eq!(run(2, 123.456), (123_456 % 77) as f64);
    assert_eq!(run(3, 2.0), 2f64.sqrt());
    assert_eq!(run(4, 0.0), 32.0);
    assert_eq!(
        run(5, 4_000_000_007.0),
        (4_000_000_007u64.wrapping_mul(5_000_000_000) % 1000) as f64
    );
    assert_eq!(run(9, 0.0), -1.0);
}
