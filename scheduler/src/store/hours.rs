//! What VMs used, and for how long GPUs were in use, by hour.
use super::signed;
use crate::paging;
use crate::usage::{Entry, HOUR_S, Spent, Waits, next};
use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{Answer, GpuUsageRecord, Period, Refusal, UsageRecord, Used};

/// Records in an answer at most. More than fit into one with the shortest numbers.
const RECORDS_MAX: usize = 2_000;
/// Hours that are looked at for an answer at most, of those in which anything was used: it is to be short, since nothing is
/// written meanwhile.
const LOOKED_MAX: u64 = 1_000;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub of: Of,
    /// Of all if it is `None`.
    pub vms: Option<VmRange>,
    pub pool: Option<String>,
    pub hours: Range<u64>,
    pub by: Period,
    /// Where the answer before this one ended: of the period that begins in this hour. A GPU's name is in the pool's place.
    pub next: Option<Entry>,
}

/// Whose hours they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Vms,
    Gpus,
}

impl Of {
    fn table(self) -> &'static str {
        match self {
            Self::Vms => "hour",
            Self::Gpus => "gpu_hour",
        }
    }
}

/// The waits of the hours that are written now, of which the database has the percentiles alone.
#[derive(Debug, Default)]
pub struct Running(BTreeMap<Entry, Hour>);

#[derive(Debug, Default)]
struct Hour {
    waits: Waits,
    /// What the database had of that hour before: an earlier run's.
    before: Option<Used>,
}

impl Running {
    /// Takes the waits over; what else was used stays.
    pub fn take(&mut self, hours: &mut BTreeMap<Entry, Spent>) {
        for (entry, spent) in hours {
            let waits = std::mem::take(&mut spent.waits);
            if !waits.is_empty() {
                self.0.entry(entry.clone()).or_default().waits.add(waits);
            }
        }
    }

    /// A sum with the percentiles of all that was waited in its hour; of several runs of this program the highest.
    fn told(&mut self, entry: &Entry, there: Used, sum: Used) -> Used {
        let Some(hour) = self.0.get_mut(entry) else {
            return sum;
        };
        let before = *hour.before.get_or_insert(there);
        let now = hour.waits.told(Used::default());
        Used {
            turn_wait_p50_us: now.turn_wait_p50_us.max(before.turn_wait_p50_us),
            turn_wait_p99_us: now.turn_wait_p99_us.max(before.turn_wait_p99_us),
            call_wait_p50_us: now.call_wait_p50_us.max(before.call_wait_p50_us),
            call_wait_p99_us: now.call_wait_p99_us.max(before.call_wait_p99_us),
            ..sum
        }
    }

    /// The hours before these are over, but for the last one: a clock may be set back.
    pub fn forget(&mut self, written: &BTreeMap<Entry, Spent>) {
        if let Some((last, _)) = written.last_key_value() {
            self.0.retain(|entry, _| entry.hour + 1 >= last.hour);
        }
    }
}

const COLUMNS: &str = "gpu_us, estimated_us, turns, turn_wait_us, turn_wait_p50_us, turn_wait_p99_us, turn_wait_max_us, \
    call_waits, call_wait_p50_us, call_wait_p99_us, call_wait_max_us, calls, violations, refused, memory_byte_s";

/// Those columns from that one on.
fn used(row: &Row<'_>, from: usize) -> rusqlite::Result<Used> {
    let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(from + at)? as u64);
    Ok(Used {
        gpu_microseconds: number(0)?,
        estimated_microseconds: number(1)?,
        turns: number(2)?,
        turn_wait_us: number(3)?,
        turn_wait_p50_us: number(4)?,
        turn_wait_p99_us: number(5)?,
        turn_wait_max_us: number(6)?,
        call_waits: number(7)?,
        call_wait_p50_us: number(8)?,
        call_wait_p99_us: number(9)?,
        call_wait_max_us: number(10)?,
        calls: number(11)?,
        violations: number(12)?,
        refused: number(13)?,
        memory_byte_seconds: number(14)?,
    })
}

/// Adds what was used. Of the hours up to the last of it so many are kept.
pub fn add(
    transaction: &Transaction<'_>,
    hours: &BTreeMap<Entry, Spent>,
    running: &mut Running,
    kept: u64,
) -> Result<()> {
    let Some((last, _)) = hours.last_key_value() else {
        return Ok(());
    };
    let select = format!("SELECT {COLUMNS} FROM hour WHERE hour = ?1 AND vm = ?2 AND pool = ?3");
    let mut select = transaction.prepare_cached(&select)?;
    let replace = format!(
        "INSERT OR REPLACE INTO hour (hour, vm, pool, {COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
    );
    let mut replace = transaction.prepare_cached(&replace)?;
    for (entry, more) in hours {
        let Entry { hour, vm, pool } = entry;
        let there = select.query_row(params![signed(*hour), vm, pool], |row| used(row, 0));
        let there = there.optional()?.unwrap_or_default();
        let sum = running.told(entry, there, there.plus(more.used));
        replace.execute(params![
            signed(*hour),
            vm,
            pool,
            signed(sum.gpu_microseconds),
            signed(sum.estimated_microseconds),
            signed(sum.turns),
            signed(sum.turn_wait_us),
            signed(sum.turn_wait_p50_us),
            signed(sum.turn_wait_p99_us),
            signed(sum.turn_wait_max_us),
            signed(sum.call_waits),
            signed(sum.call_wait_p50_us),
            signed(sum.call_wait_p99_us),
            signed(sum.call_wait_max_us),
            signed(sum.calls),
            signed(sum.violations),
            signed(sum.refused),
            signed(sum.memory_byte_seconds)
        ])?;
    }
    let mut name = transaction.prepare_cached("INSERT OR IGNORE INTO pool (name) VALUES (?1)")?;
    for pool in hours.keys().map(|entry| &entry.pool).collect::<BTreeSet<_>>() {
        name.execute([pool])?;
    }
    if let Some(old) = last.hour.checked_sub(kept) {
        transaction.execute("DELETE FROM hour WHERE hour <= ?1", [signed(old)])?;
    }
    Ok(())
}

/// The same of GPUs.
pub fn add_gpus(
    transaction: &Transaction<'_>,
    hours: &BTreeMap<(u64, String), u64>,
    kept: u64,
) -> Result<()> {
    let Some(((last, _), _)) = hours.last_key_value() else {
        return Ok(());
    };
    let mut add = transaction.prepare_cached(
        "INSERT INTO gpu_hour (hour, uuid, busy_us) VALUES (?1, ?2, ?3)
         ON CONFLICT (hour, uuid) DO UPDATE SET busy_us = busy_us + ?3",
    )?;
    for ((hour, uuid), busy_us) in hours {
        add.execute(params![signed(*hour), uuid, signed(*busy_us)])?;
    }
    if let Some(old) = last.checked_sub(kept) {
        transaction.execute("DELETE FROM gpu_hour WHERE hour <= ?1", [signed(old)])?;
    }
    Ok(())
}

/// The answer to a question.
pub fn answer(connection: &Connection, question: &Question) -> Answer {
    let answer = match question.of {
        Of::Vms => {
            read(connection, question, sums, record).map(|(usage, next)| Answer::Usage { usage, next })
        }
        Of::Gpus => read(connection, question, gpu_sums, gpu_record)
            .map(|(gpus, next)| Answer::GpuUsage { gpus, next }),
    };
    answer.unwrap_or_else(|error| Answer::Refused {
        why: Refusal::Failed,
        message: format!("vgpu.db cannot be read: {error:#}"),
    })
}

/// A VM and its pool, or no VM and a GPU.
type Name = (u32, String);

/// As much as an answer holds, and where the next one begins.
fn read<S, R: Serialize>(
    connection: &Connection,
    question: &Question,
    sums: impl Fn(&Connection, &Question, Range<u64>) -> Result<BTreeMap<Name, S>>,
    record: impl Fn(Range<u64>, Name, S) -> R,
) -> Result<(Vec<R>, Option<String>)> {
    let span = question.by.len_s() / HOUR_S;
    let hours = &question.hours;
    let mut hour = match &question.next {
        Some(next) => hours.start.max(next.hour),
        None => hours.start,
    };
    let (mut records, mut places) = (Vec::new(), Vec::new());
    let mut looked = 0;
    while records.len() < RECORDS_MAX && looked < LOOKED_MAX {
        let found = first_from(connection, question.of, hour)?.filter(|found| *found < hours.end);
        let Some(found) = found else {
            return Ok(fit(records, places, None));
        };
        let begin = found - found % span;
        let sums = sums(
            connection,
            question,
            begin.max(hours.start)..(begin + span).min(hours.end),
        )?;
        for ((vm, pool), sum) in sums {
            let place = Entry {
                hour: begin,
                vm,
                pool: pool.clone(),
            };
            if question.next.as_ref().is_none_or(|next| *next <= place) {
                let seconds = begin * HOUR_S..(begin + span) * HOUR_S;
                records.push(record(seconds, (vm, pool), sum));
                places.push(place);
            }
        }
        looked += span;
        hour = begin + span;
    }
    let rest = Entry {
        hour,
        vm: 0,
        pool: String::new(),
    };
    Ok(fit(records, places, Some(rest)))
}

/// What of it fits into an answer, and where the rest begins.
fn fit<R: Serialize>(
    mut records: Vec<R>,
    places: Vec<Entry>,
    rest: Option<Entry>,
) -> (Vec<R>, Option<String>) {
    let fit = paging::that_fit(records.iter()).len();
    let rest = places.into_iter().nth(fit).or(rest);
    records.truncate(fit);
    (records, rest.as_ref().map(next))
}

/// The first hour from that one on in which anything was used.
fn first_from(connection: &Connection, of: Of, hour: u64) -> Result<Option<u64>> {
    let select = format!("SELECT MIN(hour) FROM {} WHERE hour >= ?1", of.table());
    let mut statement = connection.prepare_cached(&select)?;
    let first: Option<i64> = statement.query_row([signed(hour)], |row| row.get(0))?;
    Ok(first.map(|hour| hour as u64))
}

/// What was used in these hours, by VM and pool.
fn sums(connection: &Connection, question: &Question, hours: Range<u64>) -> Result<BTreeMap<Name, Used>> {
    let select = format!(
        "SELECT vm, pool, {COLUMNS} FROM hour
         WHERE hour = :hour AND vm BETWEEN :first AND :last AND (:pool IS NULL OR pool = :pool)"
    );
    let mut select = connection.prepare_cached(&select)?;
    let (first, last) = question
        .vms
        .map_or((0, u32::MAX), |vms| (vms.first(), vms.last()));
    let mut sums: BTreeMap<Name, Used> = BTreeMap::new();
    for hour in hours {
        let named =
            named_params! {":hour": signed(hour), ":first": first, ":last": last, ":pool": question.pool};
        let mut rows = select.query(named)?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry((row.get(0)?, row.get(1)?)).or_default();
            *sum = sum.plus(used(row, 2)?);
        }
    }
    Ok(sums)
}

fn record(seconds: Range<u64>, (vm, pool): Name, used: Used) -> UsageRecord {
    UsageRecord {
        from_s: seconds.start,
        to_s: seconds.end,
        vm,
        pool,
        used,
    }
}

/// For how long each GPU was in use in these hours, in microseconds.
fn gpu_sums(connection: &Connection, _: &Question, hours: Range<u64>) -> Result<BTreeMap<Name, u64>> {
    let mut select = connection.prepare_cached(
        "SELECT uuid, SUM(busy_us) FROM gpu_hour WHERE hour >= ?1 AND hour < ?2 GROUP BY uuid",
    )?;
    let rows = select.query_map([signed(hours.start), signed(hours.end)], |row| {
        Ok(((0, row.get(0)?), row.get::<_, i64>(1)? as u64))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn gpu_record(seconds: Range<u64>, (_, uuid): Name, busy_us: u64) -> GpuUsageRecord {
    GpuUsageRecord {
        from_s: seconds.start,
        to_s: seconds.end,
        uuid,
        busy_us,
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::{Changes, Store};
    use super::*;
    use crate::usage::{Books, Counters};
    use rustix::event::{PollFd, PollFlags, poll};
    use vgpu_sched_api::messages::PACKET_LEN_MAX;

    fn answered(store: &mut Store, question: Question) -> Answer {
        let ticket = store.tell(Some(question));
        let mut fds = [PollFd::new(store.done(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        let done = store.take_done().pop().unwrap();
        assert_eq!(done.ticket, ticket);
        let answer = done.answer.unwrap();
        assert!(serde_json::to_vec(&answer).unwrap().len() <= PACKET_LEN_MAX);
        answer
    }

    fn ask(store: &mut Store, question: Question) -> (Vec<UsageRecord>, Option<String>) {
        match answered(store, question) {
            Answer::Usage { usage, next } => (usage, next),
            other => panic!("{other:?}"),
        }
    }

    /// All parts of an answer, and how many there were.
    fn parts(store: &mut Store, mut question: Question) -> (Vec<UsageRecord>, usize) {
        let (mut all, mut parts) = (Vec::new(), 0);
        loop {
            let (records, next) = ask(store, question.clone());
            all.extend(records);
            parts += 1;
            let Some(next) = next else { return (all, parts) };
            let wanted = vgpu_sched_api::messages::WantedUsage {
                vms: None,
                pool: None,
                from_s: 0,
                to_s: 1,
                by: question.by,
                next: Some(next),
            };
            question.next = crate::usage::question(question.of, wanted).unwrap().next;
        }
    }

    fn everything(by: Period) -> Question {
        Question {
            of: Of::Vms,
            vms: None,
            pool: None,
            hours: 0..u64::MAX,
            by,
            next: None,
        }
    }

    pub fn read_all(store: &mut Store, by: Period) -> Vec<UsageRecord> {
        parts(store, everything(by)).0
    }

    /// In each of these hours, of each of these VMs, in a pool of its own every third hour.
    fn fill(store: &Store, hours: Range<u64>, vms: Range<u32>) {
        let mut changes = Changes::default();
        for hour in hours {
            for vm in vms.clone() {
                let pool = format!("pool {}", hour % 3);
                let used = Used {
                    gpu_microseconds: hour,
                    turn_wait_us: 1,
                    turn_wait_max_us: hour,
                    calls: u64::MAX,
                    ..Used::default()
                };
                let spent = Spent {
                    used,
                    ..Spent::default()
                };
                changes.hours.insert(Entry { hour, vm, pool }, spent);
            }
        }
        store.write(changes);
    }

    #[test]
    fn hours_are_read_in_parts_that_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), 1_000_000).unwrap();
        // Some hours with many VMs, and later more hours with few than are looked at for one answer.
        fill(&store, 100..102, 0..2_000);
        fill(&store, 5_000..6_500, 5..7);
        let (records, count) = parts(&mut store, everything(Period::Hour));
        assert!(count > 5, "{count}");
        let places: Vec<(u64, u32)> = records
            .iter()
            .map(|record| (record.from_s / HOUR_S, record.vm))
            .collect();
        let of = |hours: Range<u64>, vms: Range<u32>| {
            hours.flat_map(move |hour| vms.clone().map(move |vm| (hour, vm)))
        };
        let expected: Vec<_> = of(100..102, 0..2_000).chain(of(5_000..6_500, 5..7)).collect();
        assert_eq!(places, expected);
        assert_eq!(
            (
                records[0].used.gpu_microseconds,
                records[0].used.calls,
                records[0].to_s
            ),
            (100, i64::MAX as u64, 101 * HOUR_S)
        );

        let some = Question {
            vms: Some("6".parse().unwrap()),
            pool: Some("pool 1".to_owned()),
            hours: 100..5_011,
            ..everything(Period::Hour)
        };
        let hours: Vec<u64> = parts(&mut store, some.clone())
            .0
            .iter()
            .map(|record| record.from_s / HOUR_S)
            .collect();
        assert_eq!(hours, [100, 5_002, 5_005, 5_008]);
        // Of days that are asked for in part, that part counts.
        let days = parts(
            &mut store,
            Question {
                by: Period::Day,
                ..some
            },
        )
        .0;
        let days: Vec<_> = days
            .iter()
            .map(|day| {
                (
                    day.from_s / HOUR_S,
                    day.used.gpu_microseconds,
                    day.used.turn_wait_max_us,
                )
            })
            .collect();
        assert_eq!(days, [(96, 100, 100), (4_992, 5_002 + 5_005 + 5_008, 5_008)]);
    }

    #[test]
    fn hours_are_added_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), 10).unwrap();
        fill(&store, 0..15, 1..2);
        fill(&store, 14..16, 1..2);
        drop(store);
        let (mut store, _) = Store::open(dir.path(), 10).unwrap();
        let records = read_all(&mut store, Period::Hour);
        let hours: Vec<(u64, u64)> = records
            .iter()
            .map(|record| (record.from_s / HOUR_S, record.used.turn_wait_us))
            .collect();
        let expected: Vec<(u64, u64)> = (6..16)
            .map(|hour| (hour, if hour == 14 { 2 } else { 1 }))
            .collect();
        assert_eq!(hours, expected);
        // Nothing can be counted so high that it is not written.
        assert_eq!(records[0].used.calls, i64::MAX as u64);
    }

    /// A VM's waits in an hour: turns waited so long, and calls.
    fn wait(store: &Store, hour: u64, turns: &[u64], calls: &[u64]) {
        let mut books = Books::new(hour, []);
        turns.iter().for_each(|us| books.waited(1, *us));
        let calls: Vec<_> = calls.iter().map(|us| (*us, 1)).collect();
        books.called(1, &calls);
        let counters = Counters {
            turns: turns.len() as u64,
            ..Counters::default()
        };
        books.enter(1, "A", counters);
        store.write(books.take(&BTreeSet::from([1])));
    }

    fn percentiles(used: Used) -> [[u64; 4]; 2] {
        [
            [
                used.turns,
                used.turn_wait_p50_us,
                used.turn_wait_p99_us,
                used.turn_wait_max_us,
            ],
            [
                used.call_waits,
                used.call_wait_p50_us,
                used.call_wait_p99_us,
                used.call_wait_max_us,
            ],
        ]
    }

    /// Those of an hour are of all its waits, however often they were written; after a restart, and of a day, they are the
    /// highest.
    #[test]
    fn percentiles_are_those_of_an_hours_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), 1_000).unwrap();
        let told = |store: &mut Store, by| -> Vec<_> {
            let records = read_all(store, by);
            records.iter().map(|record| percentiles(record.used)).collect()
        };
        // The slow ones first: what is told then is not what counts in the end.
        wait(&store, 48, &[100], &[90; 9]);
        assert_eq!(
            told(&mut store, Period::Hour),
            [[[1, 100, 100, 100], [9, 90, 90, 90]]]
        );
        wait(&store, 48, &[3, 3], &[1; 990]);
        wait(&store, 48, &[], &[110]);
        let first = [[3, 3, 100, 100], [1_000, 1, 1, 110]];
        assert_eq!(told(&mut store, Period::Hour), [first]);
        wait(&store, 49, &[7], &[]);
        let second = [[1, 7, 7, 7], [0; 4]];
        // The clock is set back, and on again.
        wait(&store, 48, &[3], &[]);
        let first = [[4, 3, 100, 100], first[1]];
        assert_eq!(told(&mut store, Period::Hour), [first, second]);
        drop(store);
        let (mut store, saved) = Store::open(dir.path(), 1_000).unwrap();
        assert_eq!(saved.pools, BTreeSet::from(["A".to_owned()]));
        wait(&store, 49, &[5; 9], &[2]);
        wait(&store, 49, &[6], &[]);
        let second = [[11, 7, 7, 7], [1, 2, 2, 2]];
        assert_eq!(told(&mut store, Period::Hour), [first, second]);
        assert_eq!(
            told(&mut store, Period::Day),
            [[[15, 7, 100, 100], [1_001, 2, 2, 110]]]
        );
        // Nothing longer than the longest is told, and all to a hundredth.
        wait(&store, 60, &[1_000_003, 2_000_003], &[u64::MAX]);
        let [turns, calls] = told(&mut store, Period::Hour)[2];
        assert!(
            turns[1].abs_diff(1_000_003) <= 10_000 && turns[2..] == [2_000_003; 2],
            "{turns:?}"
        );
        assert_eq!(calls, [1, 3_600_000_000, 3_600_000_000, 3_600_000_000]);
    }

    #[test]
    fn gpus_are_told_of_by_hour_and_by_day() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), 1_000).unwrap();
        let mut books = Books::new(47, []);
        let mut enter = |hour, gpu, ns| {
            books.begin(hour);
            books.enter_gpu(gpu, ns);
            store.write(books.take(&BTreeSet::new()));
        };
        enter(47, "GPU-a", 5_900);
        // It falls, and is more than it was later.
        enter(48, "GPU-a", 4_000);
        enter(48, "GPU-a", 7_100);
        enter(49, "GPU-b", 3_000);
        enter(49, "GPU-a", 9_000);
        let mut told = |by, hours: Range<u64>, next: Option<Entry>| {
            let question = Question {
                of: Of::Gpus,
                hours,
                next,
                ..everything(by)
            };
            match answered(&mut store, question) {
                Answer::GpuUsage { gpus, next } => {
                    let gpus = gpus.into_iter();
                    let gpus: Vec<_> = gpus
                        .map(|gpu| (gpu.from_s / HOUR_S, gpu.uuid, gpu.busy_us))
                        .collect();
                    (gpus, next)
                }
                other => panic!("{other:?}"),
            }
        };
        let of = |hour, gpu: &str, us| (hour, gpu.to_owned(), us);
        let hours = vec![
            of(47, "GPU-a", 5),
            of(48, "GPU-a", 2),
            of(49, "GPU-a", 2),
            of(49, "GPU-b", 3),
        ];
        assert_eq!(told(Period::Hour, 0..u64::MAX, None), (hours.clone(), None));
        let days = vec![of(24, "GPU-a", 5), of(48, "GPU-a", 4), of(48, "GPU-b", 3)];
        assert_eq!(told(Period::Day, 0..u64::MAX, None), (days, None));
        assert_eq!(told(Period::Hour, 48..49, None).0, hours[1..2]);
        let next = Entry {
            hour: 49,
            vm: 0,
            pool: "GPU-b".to_owned(),
        };
        assert_eq!(told(Period::Hour, 0..u64::MAX, Some(next)).0, hours[3..]);
    }
}
