//! What is printed: steps with their time, and turns.

use std::fmt::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use vgpu_sched_api::messages::TurnRecord;
use vgpu_tests::{Gpu, Stack};

/// Turns that are shown one by one.
const TURNS_SHOWN: usize = 16;

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

/// The GPUs that `vgpud` has.
pub fn gpus(stack: &Stack, gpu: Gpu) -> Result<String> {
    let kind = match gpu {
        Gpu::Software => "software GPU",
        Gpu::Nvidia => "NVIDIA GPU",
    };
    let status = stack.status()?;
    let models: Vec<String> = status
        .gpus
        .iter()
        .map(|gpu| format!("{} ({})", gpu.model, gpu.uuid))
        .collect();
    Ok(format!("{kind}: {}", models.join(", ")))
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e3
}

/// A table of turns; where there are many, of the last ones.
pub fn turns_table(turns: &[TurnRecord]) -> String {
    let mut table = format!(
        "{:>8} {:>4} {:>8} {:>8} {:>10} {:>10}  {}\n",
        "turn", "vm", "priority", "session", "waited ms", "held ms", "ended by"
    );
    if let Some(left_out @ 1..) = turns.len().checked_sub(TURNS_SHOWN) {
        writeln!(table, "{:>8} ({left_out} earlier ones)", "...").expect("a string takes all");
    }
    for turn in &turns[turns.len().saturating_sub(TURNS_SHOWN)..] {
        let held = turn
            .held_us
            .map_or("held".to_owned(), |held| format!("{:.1}", milliseconds(held)));
        writeln!(
            table,
            "{:>8} {:>4} {:>8} {:>8} {:>10.1} {:>10}  {}",
            turn.number,
            turn.vm,
            turn.priority,
            turn.session,
            milliseconds(turn.waited_us),
            held,
            turn.end.as_deref().unwrap_or("-"),
        )
        .expect("a string takes all");
    }
    table
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
    use vgpu_sched_api::messages::Priority;

    use super::*;

    fn turn(number: u64, vm: u32, waited_us: u64, held_us: Option<u64>) -> TurnRecord {
        TurnRecord {
            number,
            vm,
            session: 7,
            gpu: "GPU-0".to_owned(),
            priority: Priority::Low,
            granted_us: 0,
            waited_us,
            held_us,
            end: held_us.map(|_| "idle".to_owned()),
        }
    }

    #[test]
    fn only_the_last_turns_are_listed() {
        let turns: Vec<TurnRecord> = (0..20).map(|number| turn(number, 1, 0, Some(1500))).collect();
        let table = turns_table(&turns);
        assert_eq!(table.lines().count(), 1 + 1 + TURNS_SHOWN);
        assert!(table.contains("(4 earlier ones)"));
        assert!(table.lines().last().unwrap().contains("1.5  idle"));
        assert_eq!(turns_table(&turns[..1]).lines().count(), 2);
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
