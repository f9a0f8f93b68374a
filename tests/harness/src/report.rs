//! What is printed: steps with their time, what others said, and turns in short.

use std::time::Instant;

use anyhow::{Context, Result};
use vgpu_sched_api::messages::TurnRecord;

/// Says what is being done, and how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what} ...");
    let start = Instant::now();
    let result = work().with_context(|| format!("{what}: failed"))?;
    println!("    done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// The last line of what a program printed: its own summary.
pub fn last_line(text: &str) -> &str {
    text.trim_end().lines().next_back().unwrap_or("")
}

/// Each line a little to the right.
pub fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("      {line}").trim_end().to_owned() + "\n")
        .collect()
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e3
}

/// One VM's turns in one line.
pub fn turns_of(vm: u32, turns: &[TurnRecord]) -> String {
    let own: Vec<&TurnRecord> = turns.iter().filter(|turn| turn.vm == vm).collect();
    let held: u64 = own.iter().filter_map(|turn| turn.held_us).sum();
    let longest = own.iter().map(|turn| turn.waited_us).max().unwrap_or(0);
    format!(
        "{} turns, held for {:.0} ms, longest wait {:.1} ms",
        own.len(),
        milliseconds(held),
        milliseconds(longest)
    )
}

#[cfg(test)]
mod tests {
    use vgpu_sched_api::messages::{Policy, Priority};

    use super::*;

    fn turn(number: u64, vm: u32, waited_us: u64, held_us: Option<u64>) -> TurnRecord {
        TurnRecord {
            number,
            vm,
            session: 7,
            gpu: "GPU-0".to_owned(),
            priority: Priority::Low,
            policy: Policy::Priority,
            level: Some(Priority::Low),
            granted_us: 0,
            waited_us,
            held_us,
            end: held_us.map(|_| "idle".to_owned()),
        }
    }

    #[test]
    fn turns_are_summed_by_vm() {
        let turns = [
            turn(0, 1, 2500, Some(1000)),
            turn(1, 2, 9000, Some(1)),
            turn(2, 1, 0, None),
        ];
        assert_eq!(turns_of(1, &turns), "2 turns, held for 1 ms, longest wait 2.5 ms");
    }

    #[test]
    fn a_program_sums_itself_up_last() {
        assert_eq!(last_line("running\nall right\n\n"), "all right");
        assert_eq!(last_line(""), "");
    }
}
