//! Control flow, and what threads do together.

use super::*;

#[test]
fn loops_of_different_lengths() {
    let input: Vec<u32> = (1..=300).collect();
    let steps = |start: &u32| {
        let mut value = u64::from(*start);
        let mut count = 0;
        while value != 1 {
            value = if value % 2 == 1 { 3 * value + 1 } else { value / 2 };
            count += 1;
        }
        count
    };
    each("control", "collatz", |kernel| {
        let (at, out) = (upload(&input), zeros(300 * 4));
        kernel.run(3, 128, 0, &[&at, &out, &300u32]);
        assert_eq!(
            download::<u32>(out, 300),
            input.iter().map(steps).collect::<Vec<u32>>()
        );
    });
}

/// As in the source.
fn branches(value: i32) -> i32 {
    match value % 9 {
        0 => 7 * value,
        1 => value - 1 + 1000,
        2 => 1000,
        3 => (0..value)
            .take_while(|k| k % 3 == 1 || *k <= 40)
            .filter(|k| k % 3 != 1)
            .sum(),
        4 => !value,
        5 => {
            let mut result = 0;
            for k in 0..5 {
                for l in k..5 {
                    if k * l == value % 7 {
                        return result * 2;
                    }
                    result += k ^ l;
                }
            }
            -result * 2
        }
        7 if value > 50 && (value & 4 != 0 || value % 5 == 0) => 77,
        7 => {
            if value < 20 {
                1
            } else {
                2
            }
        }
        _ => -1,
    }
}

#[test]
fn switches() {
    let input: Vec<i32> = (0..250).collect();
    each("control", "branches", |kernel| {
        let (at, out) = (upload(&input), zeros(250 * 4));
        kernel.run(2, 128, 0, &[&at, &out, &250i32]);
        let expected: Vec<i32> = input.iter().map(|v| branches(*v)).collect();
        assert_eq!(download::<i32>(out, 250), expected);
    });
}

#[test]
fn threads_that_parted_meet_at_the_barrier() {
    let value = |t: u32| (0..t % 7).fold(t, |v, _| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    each("control", "meet", |kernel| {
        let out = zeros(256 * 4);
        kernel.run(1, 256, 0, &[&out]);
        let expected: Vec<u32> = (0..256).map(|t| value((t + 1) % 256) ^ value(t)).collect();
        assert_eq!(download::<u32>(out, 256), expected);
    });
}

/// Values of which some are equal, in two warps; the first has small ones only.
fn ballots() -> Vec<i32> {
    let first = numbers(19).map(|n| (n >> 40) as i32 % 12 - 3).take(32);
    first
        .chain(numbers(20).map(|n| (n >> 40) as i32 % 5000).take(32))
        .collect()
}

#[test]
fn votes_matches_and_shuffles() {
    let input = ballots();
    each("votes", "votes", |kernel| {
        let (at, out) = (upload(&input), zeros(64 * 12 * 4));
        kernel.run(1, 64, 0, &[&at, &out]);
        for (thread, got) in download::<[u32; 12]>(out, 64).into_iter().enumerate() {
            let lane = thread % 32;
            let warp = &input[thread - lane..][..32];
            let lanes = |fits: &dyn Fn(i32) -> bool| {
                (0..32)
                    .filter(|l| fits(warp[*l]))
                    .fold(0u32, |mask, l| mask | 1 << l)
            };
            let value = warp[lane];
            let same = warp.iter().all(|v| v / 1000 == warp[0] / 1000);
            let odd = if lane % 2 == 1 {
                lanes(&|v| v > 10) & 0xaaaa_aaaa
            } else {
                0
            };
            let expected = [
                lanes(&|v| v > 0),
                u32::from(warp.contains(&5)),
                u32::from(warp.iter().all(|v| *v < 1000)),
                lanes(&|v| v % 4 == value % 4),
                if same { u32::MAX } else { 0 },
                u32::from(same),
                warp[lane * 7 % 32] as u32,
                warp[lane ^ 5] as u32,
                warp[if lane % 8 >= 3 { lane - 3 } else { lane }] as u32,
                warp[if lane % 16 < 14 { lane + 2 } else { lane }] as u32,
                32,
                odd,
            ];
            assert_eq!(got, expected, "thread {thread}");
        }
    });
}

#[test]
fn reductions_over_a_warp() {
    let input = ballots();
    // Clang's headers are wrong there.
    each_of(&COMPILERS[..3], "votes", "warp_reductions", |kernel| {
        let (at, out) = (upload(&input), zeros(64 * 6 * 4));
        kernel.run(1, 64, 0, &[&at, &out]);
        for (thread, got) in download::<[i32; 6]>(out, 64).into_iter().enumerate() {
            let warp = &input[thread / 32 * 32..][..32];
            let expected = [
                warp.iter().sum(),
                *warp.iter().min().unwrap(),
                warp.iter().map(|v| *v as u32).max().unwrap() as i32,
                warp.iter().fold(-1, |m, v| m & v),
                warp.iter().fold(0, |m, v| m | v),
                warp.iter().fold(0, |m, v| m ^ v),
            ];
            assert_eq!(got, expected);
        }
    });
}

#[test]
fn barriers_that_count() {
    let input: Vec<i32> = spread(21, 11, 128).into_iter().map(|v| v as i32).collect();
    each("votes", "counting_barriers", |kernel| {
        let (at, out) = (upload(&input), zeros(128 * 4));
        kernel.run(1, 128, 0, &[&at, &out]);
        let positive = input.iter().filter(|v| **v > 0).count() as i32;
        let all = i32::from(input.iter().all(|v| *v > -1000));
        let any = i32::from(input.iter().any(|v| *v > 1000));
        assert_eq!(
            download::<i32>(out, 128),
            vec![positive * 10 + all * 2 + any; 128]
        );
    });
}

#[test]
fn clocks_go_on() {
    each("timers", "spin", |kernel| {
        let out = zeros(32);
        kernel.run(1, 1, 0, &[&200_000u64, &out]);
        let got = download::<u64>(out, 4);
        assert!(got[1] - got[0] >= 200_000, "{got:?}");
        assert!(got[2] as i64 > 0 && got[3] == 1, "{got:?}");
        // Nanoseconds since 1970, as on hardware.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(
            u128::from(got[1]) <= now.as_nanos() && now.as_nanos() - u128::from(got[0]) < 600_000_000_000
        );
    });
}

#[test]
fn a_thread_waits_for_what_another_stores() {
    each("timers", "sleeper", |kernel| {
        let (flag, out) = (zeros(4), zeros(4));
        kernel.run(1, 64, 0, &[&flag, &out]);
        assert_eq!(download::<u32>(out, 1), [42]);
    });
}
