//! What VMs used by hour or by day: how that is asked for, and a bill of it. `docs/operator.md` has the same list of the bill's
//! columns, and a test compares them.
use crate::failure::{Failure, Kind};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use std::str::FromStr;
use vgpu_sched_api::messages::{Period, UsageRecord, WantedUsage};

/// Hours, or days, that are told of if nobody says which: so many up to now.
const HOURS: u64 = 24;
const DAYS: u64 = 30;

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
pub fn parts(
    mut wanted: WantedUsage,
    read: impl Fn(&WantedUsage) -> Result<(Vec<UsageRecord>, Option<String>), Failure>,
    mut each: impl FnMut(Vec<UsageRecord>) -> Result<(), Failure>,
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

/// A column of a bill.
pub struct Column {
    /// With its unit at the end, if it has one.
    pub name: &'static str,
    /// What it is, without a full stop.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the operator's page is compared with it")
    )]
    about: &'static str,
    value: fn(&UsageRecord) -> String,
}

/// All of them.
#[rustfmt::skip]
pub const COLUMNS: [Column; 13] = [
    Column { name: "begin", about: "When the hour, or the day, began, in UTC", value: |used| moment(used.from_s) },
    Column { name: "end", about: "When the next one began", value: |used| moment(used.to_s) },
    Column { name: "vm", about: "The VM's number", value: |used| used.vm.to_string() },
    Column { name: "pool", about: "The pool that it was in then; empty if it was in none any longer", value: |used| used.pool.clone() },
    Column { name: "gpu_seconds", about: "GPU time: what its turns lasted, less idle and stopped time, times their GPUs", value: |used| seconds(used.gpu_microseconds) },
    Column { name: "estimated_gpu_seconds", about: "How much of that is an estimate: time in which several sessions worked on one GPU at once, split by their time slices", value: |used| seconds(used.estimated_microseconds) },
    Column { name: "turns", about: "Turns that it got", value: |used| used.turns.to_string() },
    Column { name: "turn_wait_seconds", about: "What its sessions waited for those, in all", value: |used| seconds(used.turn_wait_us) },
    Column { name: "turn_wait_max_seconds", about: "The longest of these waits", value: |used| seconds(used.turn_wait_max_us) },
    Column { name: "calls", about: "Calls done", value: |used| used.calls.to_string() },
    Column { name: "violations", about: "Limits that were broken", value: |used| used.violations.to_string() },
    Column { name: "refused_allocations", about: "Allocations that the limit on memory refused", value: |used| used.refused.to_string() },
    Column { name: "memory_gib_hours", about: "Memory on all its GPUs times how long it had it, looked at every second", value: |used| gib_hours(used.memory_byte_seconds) },
];

/// What a bill begins with, or a part of it that follows: comma-separated values as RFC 4180 has them.
pub fn csv(used: &[UsageRecord], is_first: bool) -> String {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let header = is_first.then(|| COLUMNS.iter().map(|column| column.name.to_owned()).collect());
    let rows = used
        .iter()
        .map(|used| COLUMNS.iter().map(|column| (column.value)(used)).collect());
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
                 violations,refused_allocations,memory_gib_hours",
                "2023-11-14T22:00:00Z,2023-11-14T23:00:00Z,3,A,3599.000001,0.500000,12,7.000000,2.500000,123456789,1,2,79.500000"
            ]
        );
        assert!(text.ends_with("\r\n"));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.len() == COLUMNS.len()));
        assert_eq!(rows[3][3], used[1].pool);
        assert_eq!(csv(&[], true).lines().count(), 1);
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
        let stuck = |_: &WantedUsage| Ok((Vec::new(), Some("1".to_owned())));
        assert_eq!(parts(wanted, stuck, |_| Ok(())), Ok(()));
    }

    /// The operator's page lists the columns that there are, in the same words.
    #[test]
    fn the_operators_page_lists_the_columns_of_a_bill() {
        let page = include_str!("../../../docs/operator.md");
        let expected: Vec<String> = COLUMNS
            .iter()
            .map(|column| format!("| `{}` | {} |", column.name, column.about))
            .collect();
        let rest = page
            .split("| column of a bill | what it is |\n| --- | --- |\n")
            .nth(1);
        let listed: Vec<&str> = rest
            .unwrap_or_default()
            .lines()
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_eq!(listed, expected, "the list is to be\n{}", expected.join("\n"));
    }
}
