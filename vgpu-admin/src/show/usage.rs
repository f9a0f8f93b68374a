//! What VMs used by hour or by day, what they waited, and for how long GPUs were in use. Each column has one unit.
use super::{ESTIMATE, Screen, printable};
use jiff::Timestamp;
use vgpu_sched_api::messages::{GpuUsageRecord, Period, UsageRecord, Used};

const NOTHING: &str = "Nothing was used in that time.\n";

/// What was used, the oldest first, and what it adds up to.
pub fn usage(records: &[UsageRecord], by: Period, screen: Screen) -> String {
    let columns = [
        ">GPU\ntime, s",
        ">waits\nsum, s",
        ">longest\nms",
        ">calls",
        ">memory\nGiB h",
    ];
    let cells = |used: &Used| {
        let mark = if used.estimated_microseconds > 0 { "~" } else { "" };
        [
            format!("{mark}{}", seconds(used.gpu_microseconds)),
            seconds(used.turn_wait_us),
            milliseconds(used.turn_wait_max_us),
            used.calls.to_string(),
            format!(
                "{:.1}",
                used.memory_byte_seconds as f64 / f64::from(1 << 30) / 3600.0
            ),
        ]
    };
    let mut text = table(records, by, screen, columns, cells);
    if records
        .iter()
        .any(|record| record.used.estimated_microseconds > 0)
    {
        text += ESTIMATE;
    }
    text
}

/// What was waited, for turns and by calls.
pub fn waits(records: &[UsageRecord], by: Period, screen: Screen) -> String {
    let columns = ["waits of", ">number", ">p50\nms", ">p99\nms", ">longest\nms"];
    let cells = |used: &Used| {
        let both = |turns, calls| format!("{}\n{}", milliseconds(turns), milliseconds(calls));
        [
            "turns\ncalls".to_owned(),
            format!("{}\n{}", used.turns, used.call_waits),
            both(used.turn_wait_p50_us, used.call_wait_p50_us),
            both(used.turn_wait_p99_us, used.call_wait_p99_us),
            both(used.turn_wait_max_us, used.call_wait_max_us),
        ]
    };
    table(records, by, screen, columns, cells)
}

fn table<const N: usize>(
    records: &[UsageRecord],
    by: Period,
    screen: Screen,
    columns: [&'static str; N],
    cells: impl Fn(&Used) -> [String; N],
) -> String {
    if records.is_empty() {
        return NOTHING.to_owned();
    }
    let mut table = screen.table(&[&["begin (UTC)", ">VM", "pool"], &columns[..]].concat());
    let mut add = |first: [String; 3], used| table.add_row(first.into_iter().chain(cells(used)));
    for record in records {
        let vm = record.vm.to_string();
        add(
            [begin(record.from_s, by), vm, printable(&record.pool)],
            &record.used,
        );
    }
    if records.len() > 1 {
        let sum = records
            .iter()
            .map(|record| record.used)
            .fold(Used::default(), Used::plus);
        add(["in all".to_owned(), String::new(), String::new()], &sum);
    }
    table.written()
}

/// For how long each GPU was in use.
pub fn gpu_usage(records: &[GpuUsageRecord], by: Period, screen: Screen) -> String {
    if records.is_empty() {
        return NOTHING.to_owned();
    }
    let mut table = screen.table(&["begin (UTC)", "GPU", ">in use\ns", ">\n%"]);
    for record in records {
        let all_s = record.to_s.saturating_sub(record.from_s).max(1);
        table.add_row([
            begin(record.from_s, by),
            printable(&record.uuid),
            seconds(record.busy_us),
            format!("{:.1}", record.busy_us as f64 / 1e4 / all_s as f64),
        ]);
    }
    table.written()
}

fn seconds(microseconds: u64) -> String {
    format!("{:.1}", microseconds as f64 / 1e6)
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.2}", microseconds as f64 / 1e3)
}

/// Of an hour, and of a day.
fn begin(from_s: u64, by: Period) -> String {
    let begin = i64::try_from(from_s)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let format = match by {
        Period::Hour => "%Y-%m-%d %Hh",
        Period::Day => "%Y-%m-%d",
    };
    begin.map_or("-".to_owned(), |begin| begin.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, SCREEN, fits};
    use super::*;
    use vgpu_client::fixture;

    #[test]
    fn what_was_used_fits_a_terminal_and_adds_up() {
        let mut used = vec![fixture::usage(3), fixture::usage(9_999)];
        used[1].pool = "a pool".to_owned();
        used[1].used.estimated_microseconds = 0;
        used[1].used.turn_wait_max_us = 40;
        let text = usage(&used, Period::Hour, SCREEN);
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].starts_with("2023-11-14 22h     3  A"), "{text}");
        let cells = |line: &str| {
            line.split_whitespace()
                .rev()
                .take(5)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            cells(lines[3]),
            ["79.5", "123456789", "2500.00", "7.0", "~3599.0"],
            "{text}"
        );
        assert_eq!(cells(lines[4])[2..], ["0.04", "7.0", "3599.0"], "{text}");
        assert!(lines[5].starts_with("in all"), "{text}");
        assert_eq!(
            cells(lines[5]),
            ["159.0", "246913578", "2500.00", "14.0", "~7198.0"],
            "{text}"
        );
        assert!(text.ends_with(ESTIMATE));
        // Of one there is no sum, and of days no hour.
        let day = usage(&used[1..], Period::Day, PLAIN);
        assert!(
            day.contains("\n2023-11-14   9999  a pool") && !day.contains("in all"),
            "{day}"
        );
        let evil = UsageRecord {
            pool: "\x1b[2J".to_owned(),
            used: Used {
                calls: u64::MAX,
                memory_byte_seconds: u64::MAX,
                ..used[0].used
            },
            ..fixture::usage(1)
        };
        let text = usage(&[evil.clone(), evil], Period::Hour, PLAIN);
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
        assert_eq!(usage(&[], Period::Hour, SCREEN), NOTHING);
    }

    #[test]
    fn what_was_waited_and_how_long_gpus_were_in_use_fit_a_terminal() {
        let used = [fixture::usage(3), fixture::usage(9_999)];
        let text = waits(&used, Period::Hour, SCREEN);
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let all = ["in", "all", "turns", "24", "250.00", "2400.00", "2500.00"];
        assert_eq!(words(lines[lines.len() - 2]), all, "{text}");
        assert_eq!(
            words(lines[lines.len() - 1]),
            ["calls", "8000", "0.01", "31.20", "1000.00"],
            "{text}"
        );
        let gpu = fixture::gpu_usage("GPU-76677075-736f-6674-8000-0000ba646770");
        let text = gpu_usage(&[gpu], Period::Hour, SCREEN);
        fits(&text);
        assert!(
            text.ends_with("2023-11-14 22h  GPU-76677075-736f-6674-8000-0000ba646770  1800.0  50.0\n"),
            "{text}"
        );
        assert_eq!(
            (waits(&[], Period::Day, PLAIN), gpu_usage(&[], Period::Day, PLAIN)),
            (NOTHING.into(), NOTHING.into())
        );
    }
}
