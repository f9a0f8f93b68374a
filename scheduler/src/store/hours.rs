//! What VMs used, by hour.
use super::signed;
use crate::paging;
use crate::usage::{Entry, HOUR_S, Used, next};
use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};
use std::collections::BTreeMap;
use std::ops::Range;
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{Answer, Period, Refusal, UsageRecord};

/// Records in an answer at most. More than fit into one with the shortest numbers.
const RECORDS_MAX: usize = 2_000;
/// Hours that are looked at for an answer at most, of those in which anything was used: it is to be short, since nothing is
/// written meanwhile.
const LOOKED_MAX: u64 = 1_000;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Of all if it is `None`.
    pub vms: Option<VmRange>,
    pub pool: Option<String>,
    pub hours: Range<u64>,
    pub by: Period,
    /// Where the answer before this one ended: of the period that begins in this hour.
    pub next: Option<Entry>,
}

const COLUMNS: &str =
    "gpu_us, estimated_us, turns, turn_wait_us, turn_wait_max_us, calls, violations, refused, memory_byte_s";

/// Those columns from that one on.
fn used(row: &Row<'_>, from: usize) -> rusqlite::Result<Used> {
    let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(from + at)? as u64);
    Ok(Used {
        gpu_us: number(0)?,
        estimated_us: number(1)?,
        turns: number(2)?,
        turn_wait_us: number(3)?,
        turn_wait_max_us: number(4)?,
        calls: number(5)?,
        violations: number(6)?,
        refused: number(7)?,
        memory_byte_s: number(8)?,
    })
}

/// Adds what was used. Of the hours up to the last of it so many are kept.
pub fn add(transaction: &Transaction<'_>, hours: &BTreeMap<Entry, Used>, kept: u64) -> Result<()> {
    let Some((last, _)) = hours.last_key_value() else {
        return Ok(());
    };
    let select = format!("SELECT {COLUMNS} FROM hour WHERE hour = ?1 AND vm = ?2 AND pool = ?3");
    let mut select = transaction.prepare_cached(&select)?;
    let replace = format!(
        "INSERT OR REPLACE INTO hour (hour, vm, pool, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    );
    let mut replace = transaction.prepare_cached(&replace)?;
    for (Entry { hour, vm, pool }, more) in hours {
        let there = select.query_row(params![signed(*hour), vm, pool], |row| used(row, 0));
        let sum = there.optional()?.unwrap_or_default().plus(*more);
        replace.execute(params![
            signed(*hour),
            vm,
            pool,
            signed(sum.gpu_us),
            signed(sum.estimated_us),
            signed(sum.turns),
            signed(sum.turn_wait_us),
            signed(sum.turn_wait_max_us),
            signed(sum.calls),
            signed(sum.violations),
            signed(sum.refused),
            signed(sum.memory_byte_s)
        ])?;
    }
    if let Some(old) = last.hour.checked_sub(kept) {
        transaction.execute("DELETE FROM hour WHERE hour <= ?1", [signed(old)])?;
    }
    Ok(())
}

/// The answer to a question.
pub fn answer(connection: &Connection, question: &Question) -> Answer {
    match read(connection, question) {
        Ok((usage, next)) => Answer::Usage { usage, next },
        Err(error) => Answer::Refused {
            why: Refusal::Failed,
            message: format!("vgpu.db cannot be read: {error:#}"),
        },
    }
}

/// As much as an answer holds, and where the next one begins.
fn read(connection: &Connection, question: &Question) -> Result<(Vec<UsageRecord>, Option<String>)> {
    let span = question.by.len_s() / HOUR_S;
    let hours = &question.hours;
    let mut hour = match &question.next {
        Some(next) => hours.start.max(next.hour),
        None => hours.start,
    };
    let mut records = Vec::new();
    let mut looked = 0;
    while records.len() < RECORDS_MAX && looked < LOOKED_MAX {
        let Some(found) = first_from(connection, hour)?.filter(|found| *found < hours.end) else {
            return Ok(fit(records, span, None));
        };
        let begin = found - found % span;
        let sums = sums(
            connection,
            question,
            begin.max(hours.start)..(begin + span).min(hours.end),
        )?;
        let is_next = |vm: u32, pool: &str| {
            let next = question.next.as_ref().filter(|next| next.hour == begin);
            next.is_none_or(|next| (next.vm, next.pool.as_str()) <= (vm, pool))
        };
        let sums = sums.into_iter().filter(|((vm, pool), _)| is_next(*vm, pool));
        records.extend(sums.map(|((vm, pool), used)| record(begin, span, vm, pool, used)));
        looked += span;
        hour = begin + span;
    }
    let rest = Entry {
        hour,
        vm: 0,
        pool: String::new(),
    };
    Ok(fit(records, span, Some(rest)))
}

/// What of it fits into an answer, and where the rest begins.
fn fit(mut records: Vec<UsageRecord>, span: u64, rest: Option<Entry>) -> (Vec<UsageRecord>, Option<String>) {
    let fit = paging::that_fit(records.iter()).len();
    let rest = match records.get(fit) {
        Some(first) => Some(Entry {
            hour: first.from_s / (span * HOUR_S) * span,
            vm: first.vm,
            pool: first.pool.clone(),
        }),
        None => rest,
    };
    records.truncate(fit);
    (records, rest.as_ref().map(next))
}

/// The first hour from that one on in which anything was used.
fn first_from(connection: &Connection, hour: u64) -> Result<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT MIN(hour) FROM hour WHERE hour >= ?1")?;
    let first: Option<i64> = statement.query_row([signed(hour)], |row| row.get(0))?;
    Ok(first.map(|hour| hour as u64))
}

/// What was used in these hours, by VM and pool.
fn sums(
    connection: &Connection,
    question: &Question,
    hours: Range<u64>,
) -> Result<BTreeMap<(u32, String), Used>> {
    let select = format!(
        "SELECT vm, pool, {COLUMNS} FROM hour
         WHERE hour = :hour AND vm BETWEEN :first AND :last AND (:pool IS NULL OR pool = :pool)"
    );
    let mut select = connection.prepare_cached(&select)?;
    let (first, last) = question
        .vms
        .map_or((0, u32::MAX), |vms| (vms.first(), vms.last()));
    let mut sums: BTreeMap<(u32, String), Used> = BTreeMap::new();
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

fn record(hour: u64, span: u64, vm: u32, pool: String, used: Used) -> UsageRecord {
    UsageRecord {
        from_s: hour * HOUR_S,
        to_s: (hour + span) * HOUR_S,
        vm,
        pool,
        gpu_microseconds: used.gpu_us,
        estimated_microseconds: used.estimated_us,
        turns: used.turns,
        turn_wait_us: used.turn_wait_us,
        turn_wait_max_us: used.turn_wait_max_us,
        calls: used.calls,
        violations: used.violations,
        refused: used.refused,
        memory_byte_seconds: used.memory_byte_s,
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::{Changes, Store};
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use vgpu_sched_api::messages::PACKET_LEN_MAX;

    fn ask(store: &mut Store, question: Question) -> (Vec<UsageRecord>, Option<String>) {
        let ticket = store.tell(Some(question));
        let mut fds = [PollFd::new(store.done(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        let done = store.take_done().pop().unwrap();
        assert_eq!(done.ticket, ticket);
        let answer = done.answer.unwrap();
        assert!(serde_json::to_vec(&answer).unwrap().len() <= PACKET_LEN_MAX);
        match answer {
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
            question.next = crate::usage::question(wanted).unwrap().next;
        }
    }

    fn everything(by: Period) -> Question {
        Question {
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
                    gpu_us: hour,
                    turn_wait_us: 1,
                    turn_wait_max_us: hour,
                    calls: u64::MAX,
                    ..Used::default()
                };
                changes.hours.insert(Entry { hour, vm, pool }, used);
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
            (records[0].gpu_microseconds, records[0].calls, records[0].to_s),
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
            .map(|day| (day.from_s / HOUR_S, day.gpu_microseconds, day.turn_wait_max_us))
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
            .map(|record| (record.from_s / HOUR_S, record.turn_wait_us))
            .collect();
        let expected: Vec<(u64, u64)> = (6..16)
            .map(|hour| (hour, if hour == 14 { 2 } else { 1 }))
            .collect();
        assert_eq!(hours, expected);
        // Nothing can be counted so high that it is not written.
        assert_eq!(records[0].calls, i64::MAX as u64);
    }
}
