//! What VMs used by hour or by day.
use super::{ESTIMATE, Screen, count, duration, latency, printable};
use jiff::Timestamp;
use vgpu_sched_api::messages::{Period, UsageRecord};

/// All of it, the oldest first, and what it adds up to.
pub fn usage(used: &[UsageRecord], by: Period, screen: Screen) -> String {
    if used.is_empty() {
        return "Nothing was used in that time.\n".to_owned();
    }
    let mut table = screen.table(&[
        "begin (UTC)",
        ">VM",
        "pool",
        ">GPU\ntime",
        ">waits\nsum",
        ">\nlongest",
        ">calls",
        ">memory\nGiB h",
    ]);
    for record in used {
        let begin = begin(record.from_s, by);
        table.add_row(row(begin, record.vm.to_string(), printable(&record.pool), record));
    }
    if used.len() > 1 {
        let sum = used
            .iter()
            .fold(UsageRecord::default(), |sum, record| UsageRecord {
                gpu_microseconds: sum.gpu_microseconds.saturating_add(record.gpu_microseconds),
                estimated_microseconds: sum
                    .estimated_microseconds
                    .saturating_add(record.estimated_microseconds),
                turn_wait_us: sum.turn_wait_us.saturating_add(record.turn_wait_us),
                turn_wait_max_us: sum.turn_wait_max_us.max(record.turn_wait_max_us),
                calls: sum.calls.saturating_add(record.calls),
                memory_byte_seconds: sum.memory_byte_seconds.saturating_add(record.memory_byte_seconds),
                ..sum
            });
        table.add_row(row("in all".to_owned(), String::new(), String::new(), &sum));
    }
    let mut text = table.written();
    if used.iter().any(|record| record.estimated_microseconds > 0) {
        text += ESTIMATE;
    }
    text
}

fn row(begin: String, vm: String, pool: String, used: &UsageRecord) -> [String; 8] {
    let mark = if used.estimated_microseconds > 0 { "~" } else { "" };
    [
        begin,
        vm,
        pool,
        format!("{mark}{}", duration(used.gpu_microseconds)),
        duration(used.turn_wait_us),
        latency(used.turn_wait_max_us),
        count(used.calls),
        format!(
            "{:.1}",
            used.memory_byte_seconds as f64 / f64::from(1 << 30) / 3600.0
        ),
    ]
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
        used[1].pool = "a pool of many words".to_owned();
        used[1].estimated_microseconds = 0;
        let text = usage(&used, Period::Hour, SCREEN);
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].starts_with("2023-11-14 22h     3  A"), "{text}");
        assert!(
            lines[3].contains("~59m59s   7.0 s     2.5s   123M    79.5"),
            "{text}"
        );
        assert!(
            lines[5].starts_with("in all") && lines[5].contains("~1h59m  14.0 s     2.5s   246M   159.0"),
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
            calls: u64::MAX,
            memory_byte_seconds: u64::MAX,
            ..fixture::usage(1)
        };
        let text = usage(&[evil.clone(), evil], Period::Hour, PLAIN);
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
        assert_eq!(
            usage(&[], Period::Hour, SCREEN),
            "Nothing was used in that time.\n"
        );
    }
}
