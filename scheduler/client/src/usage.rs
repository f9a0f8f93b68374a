//! What VMs used by hour or by day, and for how long GPUs were in use: how that is asked for, and a bill of it.
//! `docs/operator.md` has the same lists of the bills' columns, and a test compares them.
use crate::failure::{Failure, Kind};
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use std::str::FromStr;
use vgpu_sched_api::messages::{GpuUsageRecord, Period, UsageRecord, WantedUsage};

/// Hours, or days, that are told of if nobody says which: so many up to now.
const HOURS: u64 = 24;
const DAYS: u64 = 30;

/// Hours that a time zone is ahead of UTC, or behind it, at most.
const ZONE_HOURS_MAX: i32 = 14;

/// What somebody wants to know.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// A VM's number, or a range of them.
    pub vms: Option<String>,
    pub pool: Option<String>,
    pub from: Option<When>,
    pub to: Option<When>,
    pub by: Period,
}

/// A moment, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Seconds since 1970.
    At(u64),
    /// So many seconds ago.
    Ago(u64),
}

impl When {
    fn at_s(self, now_s: u64) -> u64 {
        match self {
            Self::At(at_s) => at_s,
            Self::Ago(seconds) => now_s.saturating_sub(seconds),
        }
    }
}

impl FromStr for When {
    type Err = String;

    /// The error says what was expected.
    fn from_str(text: &str) -> Result<Self, String> {
        let zone = Pieces::parse(text)
            .ok()
            .and_then(|pieces| pieces.to_numeric_offset());
        if zone.is_some_and(|zone| zone.seconds().abs() > ZONE_HOURS_MAX * 3600) {
            return Err(format!(
                "\"{text}\": expected a time zone of at most {ZONE_HOURS_MAX} hours from UTC, such as +01:00, or Z for UTC"
            ));
        }
        let at = Timestamp::from_str(text).ok();
        // Without a time zone it is UTC.
        let at = at.or_else(|| {
            let civil = DateTime::from_str(text).ok()?;
            TimeZone::UTC.to_timestamp(civil).ok()
        });
        if let Some(at) = at.and_then(|at| u64::try_from(at.as_second()).ok()) {
            return Ok(Self::At(at));
        }
        let ago = Span::from_str(text).ok();
        let ago = ago.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
        if let Some(ago) = ago {
            return Ok(Self::Ago(ago.unsigned_abs().as_secs()));
        }
        Err(format!(
            "\"{text}\": expected a day such as 2026-11-30, a moment such as 2026-11-30T14:00Z, or how long ago it was, such as 36h or 7d"
        ))
    }
}

impl Query {
    /// As `vgpud` is asked at that time.
    pub fn at(&self, now_s: u64) -> Result<WantedUsage, Failure> {
        // What is going on now is told of, too.
        let to_s = self.to.map_or(now_s + 1, |when| when.at_s(now_s));
        let (len_s, count) = match self.by {
            Period::Hour => (Period::Hour.len_s(), HOURS),
            Period::Day => (Period::Day.len_s(), DAYS),
        };
        let last_s = to_s.saturating_sub(1) / len_s * len_s;
        let first_s = last_s.saturating_sub((count - 1) * len_s);
        let from_s = self.from.map_or(first_s, |when| when.at_s(now_s));
        if from_s >= to_s {
            let message = format!(
                "from {} to {}: expected an end behind the beginning",
                moment(from_s),
                moment(to_s)
            );
            return Err(Failure::new(Kind::Usage, message));
        }
        Ok(WantedUsage {
            vms: self.vms.clone(),
            pool: self.pool.clone(),
            from_s,
            to_s,
            by: self.by,
            next: None,
        })
    }
}

/// Reads all parts of what is wanted.
pub fn parts<R>(
    mut wanted: WantedUsage,
    read: impl Fn(&WantedUsage) -> Result<(Vec<R>, Option<String>), Failure>,
    mut each: impl FnMut(Vec<R>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let (part, next) = read(&wanted)?;
        each(part)?;
        // One that says the same again never gets on.
        if next.is_none() || next == wanted.next {
            return Ok(());
        }
        wanted.next = next;
    }
}

/// What there is a bill of.
pub trait Billed: Sized + 'static {
    /// How a bill's file is called, in front of whose it is.
    const BILL: &'static str;
    /// What each record is told with.
    const COLUMNS: &'static [Column<Self>];
}

/// A column of a bill.
pub struct Column<R> {
    /// With its unit at the end, if it has one.
    pub name: &'static str,
    /// What it is, without a full stop.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the operator's page is compared with it")
    )]
    about: &'static str,
    value: fn(&R) -> String,
}

#[rustfmt::skip]
impl Billed for UsageRecord {
    const BILL: &'static str = "vgpu-usage";
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "begin", about: "When the hour, or the day, began, in UTC", value: |record| moment(record.from_s) },
        Column { name: "end", about: "When the next one began", value: |record| moment(record.to_s) },
        Column { name: "vm", about: "The VM's number", value: |record| record.vm.to_string() },
        Column { name: "pool", about: "The pool that it was in then; empty if it was in none any longer", value: |record| record.pool.clone() },
        Column { name: "gpu_seconds", about: "GPU time: what its turns lasted, less idle and stopped time, times their GPUs", value: |record| seconds(record.used.gpu_microseconds) },
        Column { name: "estimated_gpu_seconds", about: "How much of that is an estimate: time in which several sessions worked on one GPU at once, split by their time slices", value: |record| seconds(record.used.estimated_microseconds) },
        Column { name: "turns", about: "Turns that it got", value: |record| record.used.turns.to_string() },
        Column { name: "turn_wait_seconds", about: "What its sessions waited for those, in all", value: |record| seconds(record.used.turn_wait_us) },
        Column { name: "turn_wait_max_seconds", about: "The longest of these waits", value: |record| seconds(record.used.turn_wait_max_us) },
        Column { name: "calls", about: "Calls done", value: |record| record.used.calls.to_string() },
        Column { name: "violations", about: "Limits that were broken", value: |record| record.used.violations.to_string() },
        Column { name: "refused_allocations", about: "Allocations that the limit on memory refused", value: |record| record.used.refused.to_string() },
        Column { name: "memory_gib_hours", about: "Memory on all its GPUs times how long it had it, looked at every second", value: |record| gib_hours(record.used.memory_byte_seconds) },
        Column { name: "turn_wait_p50_seconds", about: "The median of its waits for turns; of a day the highest of its hours'", value: |record| seconds(record.used.turn_wait_p50_us) },
        Column { name: "turn_wait_p99_seconds", about: "Their 99th percentile; of a day the highest of its hours'", value: |record| seconds(record.used.turn_wait_p99_us) },
        Column { name: "call_waits", about: "Calls that needed the GPU and waited, from being taken from the VM until NVIDIA's library had them", value: |record| record.used.call_waits.to_string() },
        Column { name: "call_wait_p50_seconds", about: "The median of these waits; of a day the highest of its hours'", value: |record| seconds(record.used.call_wait_p50_us) },
        Column { name: "call_wait_p99_seconds", about: "Their 99th percentile; of a day the highest of its hours'", value: |record| seconds(record.used.call_wait_p99_us) },
        Column { name: "call_wait_max_seconds", about: "The longest of them", value: |record| seconds(record.used.call_wait_max_us) },
    ];
}

#[rustfmt::skip]
impl Billed for GpuUsageRecord {
    const BILL: &'static str = "vgpu-gpu-usage";
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "begin", about: "When the hour, or the day, began, in UTC", value: |record| moment(record.from_s) },
        Column { name: "end", about: "When the next one began", value: |record| moment(record.to_s) },
        Column { name: "gpu", about: "The GPU's UUID", value: |record| record.uuid.clone() },
        Column { name: "busy_seconds", about: "Time for which somebody had a turn on it and was not idle", value: |record| seconds(record.busy_us) },
    ];
}

/// What a bill begins with, or a part of it that follows: comma-separated values as RFC 4180 has them.
pub fn csv<R: Billed>(records: &[R], is_first: bool) -> String {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let header = is_first.then(|| R::COLUMNS.iter().map(|column| column.name.to_owned()).collect());
    let rows = records
        .iter()
        .map(|record| R::COLUMNS.iter().map(|column| (column.value)(record)).collect());
    for row in header.into_iter().chain(rows) {
        let row: Vec<String> = row;
        // Into memory, and of one length.
        writer.write_record(row).expect("a row");
    }
    let bytes = writer.into_inner().expect("rows in memory");
    String::from_utf8(bytes).expect("text made of texts")
}

/// In UTC, as ISO 8601 has it; seconds since 1970 if that has no words for it.
pub fn moment(seconds: u64) -> String {
    let moment = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| seconds.to_string(), |moment| moment.to_string())
}

fn seconds(microseconds: u64) -> String {
    format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000)
}

/// Byte seconds as GiB hours, rounded down.
fn gib_hours(byte_seconds: u64) -> String {
    let millionths = u128::from(byte_seconds) * 1_000_000 / (3600 << 30);
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn moments_are_named_in_several_ways() {
        let when = |text: &str| text.parse::<When>();
        let day = 1_700_006_400;
        for text in [
            "2023-11-15",
            "2023-11-15T00:00",
            "2023-11-15 00:00:00",
            "2023-11-15T00:00Z",
            "2023-11-15T01:00:00+01:00",
        ] {
            assert_eq!(when(text), Ok(When::At(day)), "{text}");
        }
        for text in ["36h", "1d 12h", "36 hours", "36h ago", "PT36H"] {
            assert_eq!(when(text), Ok(When::Ago(36 * 3600)), "{text}");
        }
        assert_eq!(when("2w"), Ok(When::Ago(14 * 86_400)));
        for text in ["", "yesterday", "7", "2023-13-01", "1969-01-01", "1 month"] {
            let error = when(text).unwrap_err();
            assert!(error.contains("expected a day such as"), "{error}");
        }
        for text in ["2023-11-15T00:00+25:00", "2023-11-15T00:00:00-14:01"] {
            let error = when(text).unwrap_err();
            assert!(
                error.contains("expected a time zone of at most 14 hours"),
                "{error}"
            );
        }
        assert_eq!(when("2023-11-15T14:00+14:00"), Ok(When::At(day)));
    }

    #[test]
    fn without_a_beginning_it_is_the_last_day_or_month() {
        let now_s = 1_700_006_400 + 5_000;
        let wanted = |by, from: Option<&str>, to: Option<&str>| {
            let when = |text: &str| text.parse().unwrap();
            Query {
                by,
                from: from.map(when),
                to: to.map(when),
                ..Query::default()
            }
            .at(now_s)
        };
        let of =
            |wanted: Result<WantedUsage, Failure>| wanted.map(|wanted| (wanted.from_s, wanted.to_s)).unwrap();
        let hour = 1_700_006_400 + 3_600;
        assert_eq!(
            of(wanted(Period::Hour, None, None)),
            (hour - 23 * 3600, now_s + 1)
        );
        assert_eq!(
            of(wanted(Period::Day, None, None)),
            (1_700_006_400 - 29 * 86_400, now_s + 1)
        );
        // A month that is over ends before the next one begins.
        let month = of(wanted(Period::Day, Some("2023-10-01"), Some("2023-11-01")));
        assert_eq!(month, (1_696_118_400, 1_698_796_800));
        assert_eq!(
            of(wanted(Period::Hour, None, Some("2023-11-15"))),
            (1_700_006_400 - 86_400, 1_700_006_400)
        );
        assert_eq!(of(wanted(Period::Hour, Some("2h"), None)).0, now_s - 7200);
        let failure = wanted(Period::Hour, Some("2023-11-15"), Some("2023-11-14")).unwrap_err();
        assert_eq!(
            failure.message,
            "from 2023-11-15T00:00:00Z to 2023-11-14T00:00:00Z: expected an end behind the beginning"
        );
    }

    #[test]
    fn a_bill_is_read_as_it_was_written() {
        let mut used = vec![fixture::usage(3), fixture::usage(4)];
        used[1].pool = "A, \"big\"\none".to_owned();
        let text = csv(&used, true) + &csv(&used, false);
        let first = text.split("\r\n").take(2).collect::<Vec<_>>();
        assert_eq!(
            first,
            [
                "begin,end,vm,pool,gpu_seconds,estimated_gpu_seconds,turns,turn_wait_seconds,turn_wait_max_seconds,calls,\
                 violations,refused_allocations,memory_gib_hours,turn_wait_p50_seconds,turn_wait_p99_seconds,call_waits,\
                 call_wait_p50_seconds,call_wait_p99_seconds,call_wait_max_seconds",
                "2023-11-14T22:00:00Z,2023-11-14T23:00:00Z,3,A,3599.000001,0.500000,12,7.000000,2.500000,123456789,1,2,79.500000,\
                 0.250000,2.400000,4000,0.000012,0.031200,1.000000"
            ]
        );
        assert!(text.ends_with("\r\n"));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.len() == UsageRecord::COLUMNS.len()));
        assert_eq!(rows[3][3], used[1].pool);
        assert_eq!(csv::<UsageRecord>(&[], true).lines().count(), 1);
        assert_eq!(
            csv(&[fixture::gpu_usage("GPU-0")], true),
            "begin,end,gpu,busy_seconds\r\n2023-11-14T22:00:00Z,2023-11-14T23:00:00Z,GPU-0,1800.000001\r\n"
        );
        assert_eq!(
            (gib_hours(u64::MAX), seconds(7)),
            ("4772185.884444".to_owned(), "0.000007".to_owned())
        );
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn all_parts_are_read_and_none_for_ever() {
        let wanted = Query::default().at(1_700_000_000).unwrap();
        let read = |wanted: &WantedUsage| {
            let part = wanted
                .next
                .as_ref()
                .map_or(0, |next| next.parse::<u32>().unwrap());
            let records = (0..part % 2).map(|_| fixture::usage(part)).collect();
            Ok((records, (part < 3).then(|| (part + 1).to_string())))
        };
        let mut vms = Vec::new();
        let each = |part: Vec<UsageRecord>| {
            vms.extend(part.iter().map(|used| used.vm));
            Ok(())
        };
        assert_eq!(parts(wanted.clone(), read, each), Ok(()));
        assert_eq!(vms, [1, 3]);
        let stuck = |_: &WantedUsage| Ok((Vec::<UsageRecord>::new(), Some("1".to_owned())));
        assert_eq!(parts(wanted, stuck, |_| Ok(())), Ok(()));
    }

    /// The operator's page lists the columns that there are, in the same words.
    #[track_caller]
    fn is_listed<R: Billed>(heading: &str) {
        let page = include_str!("../../../docs/operator.md");
        let expected: Vec<String> = R::COLUMNS
            .iter()
            .map(|column| format!("| `{}` | {} |", column.name, column.about))
            .collect();
        let rest = page
            .split(&format!("| {heading} | what it is |\n| --- | --- |\n"))
            .nth(1);
        let listed: Vec<&str> = rest
            .unwrap_or_default()
            .lines()
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_eq!(listed, expected, "the list is to be\n{}", expected.join("\n"));
    }

    #[test]
    fn the_operators_page_lists_the_columns_of_a_bill() {
        is_listed::<UsageRecord>("column of a bill");
        is_listed::<GpuUsageRecord>("column of a bill of GPUs");
    }
}
