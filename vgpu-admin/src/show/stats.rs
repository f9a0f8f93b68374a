//! What every VM waited for and used.
use super::{ESTIMATE, Screen, bytes, count, duration, latency, printable};
use vgpu_sched_api::messages::{Percentiles, Stats};

/// All statistics, in tables that fit a terminal of the usual width.
pub fn stats(stats: &Stats, screen: Screen) -> String {
    let mut text = format!("up {}\n", duration(stats.uptime_s.saturating_mul(1_000_000)));
    if !stats.gpus.is_empty() {
        text += "\n";
        text += &gpus(stats, screen);
    }
    if stats.vms.is_empty() {
        return text + "\nNo VM has run anything since vgpud started.\n";
    }
    text += "\nWork: what was done, and what is in hand\n";
    text += &work(stats, screen);
    text += "\nCalls that need the GPU: waiting for it, at work on it, and both\n";
    text += &calls(stats, screen);
    text += "\nTurns: waiting for one, and giving it back before the work is done\n";
    text += &turns(stats, screen);
    if stats.vms.iter().any(|vm| vm.estimated) {
        text += ESTIMATE;
    }
    text
}

fn gpus(stats: &Stats, screen: Screen) -> String {
    let mut table = screen.table(&["GPU", ">busy", ">switches", ">waiting"]);
    for gpu in &stats.gpus {
        table.add_row([
            printable(&gpu.uuid),
            duration(gpu.busy_us),
            count(gpu.switches),
            gpu.waiting.to_string(),
        ]);
    }
    table.written()
}

fn work(stats: &Stats, screen: Screen) -> String {
    let mut table = screen.table(&[
        ">VM",
        "pool",
        ">calls",
        ">queue",
        ">GPU time",
        ">memory",
        ">throttled",
        ">limits\nbroken",
        ">refused",
    ]);
    for vm in &stats.vms {
        table.add_row([
            vm.vm.to_string(),
            printable(&vm.pool),
            count(vm.calls),
            count(vm.queued),
            format!(
                "{}{}",
                if vm.estimated { "~" } else { "" },
                duration(vm.gpu_microseconds)
            ),
            bytes(vm.memory),
            duration(vm.throttled_us),
            count(vm.violations),
            count(vm.refused),
        ]);
    }
    table.written()
}

fn calls(stats: &Stats, screen: Screen) -> String {
    let mut table = screen.table(&[
        ">VM",
        ">wait\np50",
        ">\np95",
        ">\np99",
        ">work\np50",
        ">\np95",
        ">\np99",
        ">both\np50",
        ">\np95",
        ">\np99",
    ]);
    for vm in &stats.vms {
        let percentiles = [&vm.wait, &vm.service, &vm.total].into_iter().flat_map(three);
        table.add_row([vm.vm.to_string()].into_iter().chain(percentiles));
    }
    table.written()
}

fn turns(stats: &Stats, screen: Screen) -> String {
    let mut table = screen.table(&[
        ">VM",
        ">turns",
        ">wait\np50",
        ">\np95",
        ">\np99",
        ">asked\nback",
        ">in\np50",
        ">\np95",
        ">\np99",
        ">stopped",
    ]);
    for vm in &stats.vms {
        let mut row = vec![vm.vm.to_string(), count(vm.turns)];
        row.extend(three(&vm.turn_wait));
        row.push(count(vm.preemptions));
        row.extend(three(&vm.preemption));
        row.push(count(vm.stops));
        table.add_row(row);
    }
    table.written()
}

fn three(percentiles: &Percentiles) -> [String; 3] {
    [percentiles.p50, percentiles.p95, percentiles.p99].map(|value| match percentiles.count {
        0 => "-".to_owned(),
        _ => latency(value),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, SCREEN, fits};
    use super::*;
    use vgpu_sched_api::messages::{GpuStats, VmStats};

    fn host() -> Stats {
        let wide = Percentiles {
            count: 1,
            p50: 99_900,
            p95: 99_900,
            p99: 99_900,
            max: 99_900,
            sum: 1,
        };
        let vm = |vm: u32| VmStats {
            vm,
            pool: "research".to_owned(),
            wait: wide,
            service: wide,
            total: wide,
            turn_wait: wide,
            preemption: if vm == 3 { Percentiles::default() } else { wide },
            calls: 123_456_789,
            queued: 65_536,
            turns: 99_999,
            preemptions: 1_234_567,
            stops: 99_999,
            gpu_microseconds: 7_265_000_000,
            estimated: true,
            throttled_us: 59_900_000,
            violations: 99_999,
            refused: 99_999,
            memory: 85_520_809_984,
        };
        Stats {
            schema_version: 3,
            uptime_s: 100_000,
            gpus: vec![GpuStats {
                uuid: "GPU-76677075-736f-6674-8000-0000ba646770".to_owned(),
                busy_us: 7_265_000_000,
                switches: 10_000_000,
                waiting: 16,
            }],
            vms: vec![vm(3), vm(9_999)],
        }
    }

    #[test]
    fn statistics_fit_a_terminal() {
        let text = stats(&host(), SCREEN);
        fits(&text);
        for part in ["up 1d03h", "79.6 GiB", "99.9ms", "~2h01m", "1234k"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // A row each, nothing of it on a line of its own.
        assert_eq!(
            text.lines().filter(|line| line.starts_with("9999 ")).count(),
            3,
            "{text}"
        );
        assert_eq!(text.lines().count(), 27, "{text}");
        // Nothing was measured.
        assert!(text.contains(" 1234k       -       -       -"), "{text}");
        let mut evil = host();
        evil.vms[0].pool = "\x1b[2J".to_owned();
        let text = stats(&evil, PLAIN);
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
        let none = Stats {
            vms: Vec::new(),
            ..host()
        };
        assert!(stats(&none, SCREEN).ends_with("\nNo VM has run anything since vgpud started.\n"));
    }
}
