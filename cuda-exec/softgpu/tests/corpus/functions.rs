//! Functions, and what a thread has for itself.

use super::*;

#[test]
fn functions_that_call_themselves_and_each_other() {
    let input: Vec<u32> = (0..16).collect();
    let fibonacci = |n: u32| (0..n).fold((0u64, 1), |(a, b), _| (b, a + b)).0;
    each("calls", "recursion", |kernel| {
        let (at, out) = (upload(&input), zeros(16 * 8));
        kernel.run(1, 16, 0, &[&at, &out]);
        let expected: Vec<u64> = input
            .iter()
            .map(|n| fibonacci(*n) * 10 + u64::from(n % 2 == 0))
            .collect();
        assert_eq!(download::<u64>(out, 16), expected);
    });
}

#[test]
fn functions_called_by_address() {
    let which: Vec<i32> = (0..48).map(|i| i * 7 % 3).collect();
    let x: Vec<f32> = (0..48).map(|i| i as f32 / 2.0).collect();
    each("calls", "by_address", |kernel| {
        let (dw, dx, out) = (upload(&which), upload(&x), zeros(48 * 4));
        kernel.run(1, 48, 0, &[&dw, &dx, &out]);
        let value = |(which, x): (&i32, &f32)| [2.0 * x, x + 10.0, x - 10.0][*which as usize];
        let expected: Vec<f32> = which.iter().zip(&x).map(value).collect();
        assert_eq!(download::<f32>(out, 48), expected);
    });
    each("calls", "virtual_calls", |kernel| {
        let (dx, out) = (upload(&x), zeros(48 * 4));
        kernel.run(1, 48, 0, &[&dx, &out]);
        let value = |i: usize| {
            if i.is_multiple_of(3) {
                x[i] * x[i] * 10.0 + 4.0
            } else {
                30.0 * x[i] * x[i]
            }
        };
        assert_eq!(download::<f32>(out, 48), (0..48).map(value).collect::<Vec<f32>>());
    });
}

#[test]
fn threads_meet_in_a_function() {
    each("calls", "barrier_in_function", |kernel| {
        let out = zeros(64 * 4);
        kernel.run(1, 64, 0, &[&out]);
        let mut values: Vec<u32> = (0..64).map(|t| (t ^ 1) * 3).collect();
        for k in 0..3 {
            values = (0..64).map(|t: usize| values[t ^ 1] + k).collect();
        }
        assert_eq!(download::<u32>(out, 64), values);
    });
}

#[test]
fn arrays_of_a_thread() {
    let data: Vec<i32> = spread(22, 20, 16 * 64).into_iter().map(|v| v as i32).collect();
    each("locals", "sort16", |kernel| {
        let at = upload(&data);
        kernel.run(2, 32, 0, &[&at]);
        let mut expected = data.clone();
        expected.chunks_mut(16).for_each(|chunk| chunk.sort_unstable());
        assert_eq!(download::<i32>(at, data.len()), expected);
    });
}

#[test]
fn structures_by_value() {
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Body {
        mass: f64,
        place: [f32; 3],
        kind: i8,
        tags: [i16; 5],
    }
    let heavier = |mut body: Body, shift: [f32; 3]| {
        body.mass *= 2.0;
        body.place
            .iter_mut()
            .zip(shift)
            .for_each(|(place, by)| *place += by);
        body.tags[body.kind as usize % 5] = 99;
        body
    };
    let body = |i: i16| Body {
        mass: f64::from(i) + 0.25,
        place: [f32::from(i), 1.0, -2.0],
        kind: i as i8,
        tags: [i, i + 1, i + 2, i + 3, i + 4],
    };
    let input: Vec<Body> = (0..40).map(body).collect();
    let shift = [1.5f32, -0.5, 8.0];
    each("locals", "structures", |kernel| {
        let (at, out) = (upload(&input), zeros(40 * size_of::<Body>()));
        kernel.run(1, 40, 0, &[&at, &out, &shift[0], &shift[1], &shift[2]]);
        let value = |(i, body): (usize, &Body)| {
            let once = heavier(*body, shift);
            if i % 2 == 1 {
                heavier(once, once.place)
            } else {
                once
            }
        };
        let expected: Vec<Body> = input.iter().enumerate().map(value).collect();
        assert_eq!(download::<Body>(out, 40), expected);
    });
}

#[test]
fn pointers_into_any_memory() {
    let data: Vec<i32> = (0..64).map(|i| 3000 + i).collect();
    each("locals", "anywhere", |kernel| {
        let (at, out) = (upload(&data), zeros(64 * 4));
        kernel.run(1, 64, 0, &[&at, &out]);
        let value = |t: i32| match t % 3 {
            0 => (1000 + (t + 1) % 64) * 10 + 1,
            1 => (2000 + t % 4 + t) * 10 + 2,
            _ => (3000 + t) * 10 + 3,
        };
        assert_eq!(download::<i32>(out, 64), (0..64).map(value).collect::<Vec<i32>>());
    });
}
