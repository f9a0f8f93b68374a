//! `vgpu.db`: what happened. Written by a thread of its own, so that giving turns never waits for a disk.
pub mod hours;

pub use hours::{Of, Question};

use crate::audit;
use crate::history::KEPT;
use crate::inventory::Gpu;
use crate::usage::{Entry, Spent};
use anyhow::{Context, Result, anyhow, bail};
use hours::Running;
use rusqlite::{Connection, ErrorCode, Transaction, params};
use rustix::event::EventfdFlags;
use rustix::fs::{FlockOperation, flock};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use vgpu_sched_api::messages::{Answer, ChangeRecord, EventRecord, GpuFacts, GpuRungs, QuarantineStatus};
use vgpu_sched_core::Session;

/// How the tables came to be: a version's tables are those of all steps up to it.
const STEPS: [&str; 7] = [
    "CREATE TABLE gpu (
         uuid TEXT PRIMARY KEY, place INTEGER, model TEXT NOT NULL, pci TEXT NOT NULL, memory INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE usage (
         vm INTEGER PRIMARY KEY, turns INTEGER NOT NULL, gpu_ns INTEGER NOT NULL, estimated INTEGER NOT NULL
     ) STRICT;",
    "ALTER TABLE usage ADD COLUMN calls INTEGER NOT NULL DEFAULT 0;
     CREATE TABLE session (
         vm INTEGER, number INTEGER, gpus TEXT NOT NULL, calls INTEGER NOT NULL, PRIMARY KEY (vm, number)
     ) STRICT;",
    "ALTER TABLE usage ADD COLUMN violations INTEGER NOT NULL DEFAULT 0;
     CREATE TABLE event (
         number INTEGER PRIMARY KEY, at_s INTEGER NOT NULL, kind TEXT NOT NULL, vm INTEGER, session INTEGER, gpu TEXT,
         message TEXT NOT NULL, calls TEXT NOT NULL
     ) STRICT;
     CREATE TABLE quarantine (
         vm INTEGER PRIMARY KEY, why TEXT NOT NULL, since_s INTEGER NOT NULL, until_s INTEGER
     ) STRICT;
     CREATE TABLE rungs (
         uuid TEXT PRIMARY KEY, driver TEXT NOT NULL, proved_s INTEGER, slices INTEGER NOT NULL, stop INTEGER NOT NULL,
         stop_us INTEGER NOT NULL, resume_us INTEGER NOT NULL, suspend INTEGER NOT NULL, stop_by_vgpud INTEGER NOT NULL
     ) STRICT;",
    "CREATE TABLE change (
         number INTEGER PRIMARY KEY, at_s INTEGER NOT NULL, uid INTEGER, user TEXT, change TEXT NOT NULL,
         changes TEXT NOT NULL, diff TEXT NOT NULL, map_version TEXT NOT NULL, refused TEXT
     ) STRICT;",
    "ALTER TABLE session ADD COLUMN shown TEXT NOT NULL DEFAULT '';
     UPDATE session SET shown = gpus;",
    // How much was an estimate was not kept: it may be all of it.
    "ALTER TABLE usage ADD COLUMN estimated_ns INTEGER NOT NULL DEFAULT 0;
     UPDATE usage SET estimated_ns = gpu_ns WHERE estimated;
     ALTER TABLE usage DROP COLUMN estimated;
     CREATE TABLE hour (
         hour INTEGER, vm INTEGER, pool TEXT, gpu_us INTEGER NOT NULL, estimated_us INTEGER NOT NULL, turns INTEGER NOT NULL,
         turn_wait_us INTEGER NOT NULL, turn_wait_max_us INTEGER NOT NULL, calls INTEGER NOT NULL, violations INTEGER NOT NULL,
         refused INTEGER NOT NULL, memory_byte_s INTEGER NOT NULL, PRIMARY KEY (hour, vm, pool)
     ) STRICT, WITHOUT ROWID;",
    "ALTER TABLE hour ADD COLUMN turn_wait_p50_us INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE hour ADD COLUMN turn_wait_p99_us INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE hour ADD COLUMN call_waits INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE hour ADD COLUMN call_wait_p50_us INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE hour ADD COLUMN call_wait_p99_us INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE hour ADD COLUMN call_wait_max_us INTEGER NOT NULL DEFAULT 0;
     CREATE TABLE gpu_hour (
         hour INTEGER, uuid TEXT, busy_us INTEGER NOT NULL, PRIMARY KEY (hour, uuid)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE pool (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
     INSERT INTO pool SELECT DISTINCT pool FROM hour;",
];

/// What a VM has used since its first turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Turns begun.
    pub turns: u64,
    /// GPU time in nanoseconds.
    pub ns: u64,
    /// How much of it is an estimate.
    pub estimated_ns: u64,
    /// Calls done by sessions that ended.
    pub calls: u64,
    /// Limits broken.
    pub violations: u64,
}

/// A session that has not ended, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The UUIDs of the GPUs that its VM had when it was opened.
    pub shown: Vec<String>,
    /// Those of them that it was given.
    pub gpus: Vec<String>,
    /// Calls it has done.
    pub calls: u64,
}

/// What the database held.
#[derive(Debug, Default, PartialEq)]
pub struct Saved {
    /// Each VM's usage.
    pub usage: BTreeMap<u32, Usage>,
    /// The sessions that there were.
    pub sessions: BTreeMap<Session, Placed>,
    /// The GPUs that were ever there.
    pub gpus: Vec<Gpu>,
    /// The last events, the oldest first.
    pub events: Vec<EventRecord>,
    /// The VMs that are quarantined.
    pub quarantines: BTreeMap<u32, QuarantineStatus>,
    /// What holds on GPUs, by UUID.
    pub rungs: BTreeMap<String, GpuRungs>,
    /// The last changes that were made by hand, the oldest first.
    pub changes: Vec<ChangeRecord>,
    /// The names of pools for whose VMs anything was ever entered.
    pub pools: BTreeSet<String>,
}

/// What is to be written. What is not named stays.
#[derive(Debug, Default)]
pub struct Changes {
    pub usage: BTreeMap<u32, Usage>,
    /// `None` for a session that ended.
    pub sessions: BTreeMap<Session, Option<Placed>>,
    /// All that are there.
    pub gpus: Option<Vec<Gpu>>,
    /// New ones; the oldest are dropped for them.
    pub events: Vec<EventRecord>,
    /// `None` for one that is over.
    pub quarantines: BTreeMap<u32, Option<QuarantineStatus>>,
    /// By UUID.
    pub rungs: BTreeMap<String, GpuRungs>,
    /// New ones; the oldest are dropped for them.
    pub changes: Vec<ChangeRecord>,
    /// What is to be added by hour; the oldest are dropped for them.
    pub hours: BTreeMap<Entry, Spent>,
    /// For how long GPUs were in use, by hour and UUID, in microseconds: to be added as well.
    pub gpu_hours: BTreeMap<(u64, String), u64>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.usage.is_empty()
            && self.sessions.is_empty()
            && self.gpus.is_none()
            && self.events.is_empty()
            && self.quarantines.is_empty()
            && self.rungs.is_empty()
            && self.changes.is_empty()
            && self.hours.is_empty()
            && self.gpu_hours.is_empty()
    }

    fn extend(&mut self, later: Self) {
        self.usage.extend(later.usage);
        self.sessions.extend(later.sessions);
        self.gpus = later.gpus.or(self.gpus.take());
        self.events.extend(later.events);
        // More are not kept anyway.
        let old = self.events.len().saturating_sub(KEPT);
        self.events.drain(..old);
        self.quarantines.extend(later.quarantines);
        self.rungs.extend(later.rungs);
        self.changes.extend(later.changes);
        let old = self.changes.len().saturating_sub(audit::KEPT);
        self.changes.drain(..old);
        for (entry, spent) in later.hours {
            self.hours.entry(entry).or_default().add(spent);
        }
        for (hour, busy_us) in later.gpu_hours {
            *self.gpu_hours.entry(hour).or_default() += busy_us;
        }
    }
}

/// What the thread is to do, one after the other.
#[derive(Debug)]
enum Job {
    Write(Box<Changes>),
    /// Say so once it gets here, with what is asked, if anything is.
    Done(u64, Option<Question>),
}

/// What was to be done is, and what was asked.
#[derive(Debug)]
pub struct Done {
    pub ticket: u64,
    pub answer: Option<Answer>,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    /// The state folder, locked for as long as this lives.
    _folder: File,
    sender: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    receiver: Receiver<Done>,
    /// Readable when something is received.
    done: Arc<OwnedFd>,
    tickets: u64,
    failing: Failing,
}

/// Why the last write failed, if it did.
type Failing = Arc<Mutex<Option<String>>>;

impl Store {
    /// Opens or creates the database of a state folder and reads it. Of what was used by hour so many of the last hours are kept.
    pub fn open(state_dir: &Path, hours_kept: u64) -> Result<(Self, Saved)> {
        std::fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        // Two schedulers would give the same GPUs away twice, each by its own book.
        let folder = File::open(state_dir).with_context(|| format!("cannot open {}", state_dir.display()))?;
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("{} is in use by another vgpud", state_dir.display());
        }
        let path = state_dir.join("vgpu.db");
        let open = || {
            let mut connection = Connection::open(&path)?;
            prepare(&mut connection)?;
            let saved = read(&connection)?;
            Ok::<_, anyhow::Error>((connection, saved))
        };
        let (connection, saved) = open().map_err(|error| {
            let path = path.display();
            match advice(&error) {
                Some(advice) => anyhow!("cannot use {path}: {error}: {advice}"),
                None => anyhow!("cannot use {path}: {error:#}"),
            }
        })?;
        let (sender, jobs) = channel();
        let (answers, receiver) = channel();
        let done = Arc::new(rustix::event::eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?);
        let failing = Failing::default();
        let worker = Worker {
            connection,
            hours_kept,
            running: Running::default(),
            jobs,
            answers,
            done: done.clone(),
            failing: failing.clone(),
        };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.work())?;
        Ok((
            Self {
                _folder: folder,
                sender: Some(sender),
                writer: Some(writer),
                receiver,
                done,
                tickets: 0,
                failing,
            },
            saved,
        ))
    }

    /// Why nothing can be written, if that is so. It is tried again with all that comes.
    pub fn failing(&self) -> Option<String> {
        self.failing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has something written.
    pub fn write(&self, changes: Changes) {
        if !changes.is_empty() {
            self.send(Job::Write(Box::new(changes)));
        }
    }

    /// Has it said when all that was to be written so far is, or cannot be; and what is asked then, if anything is.
    pub fn tell(&mut self, question: Option<Question>) -> u64 {
        self.tickets += 1;
        self.send(Job::Done(self.tickets, question));
        self.tickets
    }

    fn send(&self, job: Job) {
        if let Some(sender) = &self.sender
            && sender.send(job).is_err()
        {
            log::error!("vgpu.db is not written any longer: its thread has ended");
        }
    }

    /// Readable when something is done.
    pub fn done(&self) -> &OwnedFd {
        &self.done
    }

    /// What is done since this was asked last.
    pub fn take_done(&self) -> Vec<Done> {
        // Before what it stands for is taken, or what comes between would not be told of.
        let _ = rustix::io::read(&*self.done, &mut [0u8; 8]);
        self.receiver.try_iter().collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The thread writes what it was sent, then ends.
        self.sender = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            log::error!("the thread that writes vgpu.db has panicked");
        }
    }
}

/// Said of a database that cannot be used at all.
const MOVE_AWAY: &str = "move it away, with the files -wal and -shm beside it, and vgpud begins a new one. That knows nothing of what \
    VMs used, of events, changes and quarantines so far; the pool map is not in it";

/// What to do about an error in opening the database.
fn advice(error: &anyhow::Error) -> Option<String> {
    let error = error.downcast_ref::<rusqlite::Error>()?;
    Some(match error.sqlite_error_code()? {
        ErrorCode::DiskFull => {
            "there is no room left where it lies: make some, a few MiB, and start vgpud again".to_owned()
        }
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => {
            format!("it is damaged, or none of vgpud's: put a copy of it back that is whole, or {MOVE_AWAY}")
        }
        ErrorCode::SystemIoFailure => {
            "where it lies cannot be read or written, or is full: look at the kernel's log and at how much room there is".to_owned()
        }
        ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
            "vgpud's user must be able to read and write it and its folder".to_owned()
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => "another program has it open: end that first".to_owned(),
        _ => return None,
    })
}

/// Brings the tables to this program's version.
fn prepare(connection: &mut Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = STEPS.get(found as usize..) else {
        bail!(
            "it has schema version {found}, and this program knows {}: a newer vgpud made it. Start that one again; or {MOVE_AWAY}",
            STEPS.len()
        );
    };
    // What is up to date needs no room.
    if steps.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len() as u32)?;
    transaction.commit()?;
    Ok(())
}

/// SQLite has no unsigned numbers. An executor may have counted anything.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read(connection: &Connection) -> Result<Saved> {
    let mut saved = Saved::default();
    let mut statement =
        connection.prepare("SELECT vm, turns, gpu_ns, estimated_ns, calls, violations FROM usage")?;
    let rows = statement.query_map([], |row| {
        let usage = Usage {
            turns: row.get::<_, i64>(1)? as u64,
            ns: row.get::<_, i64>(2)? as u64,
            estimated_ns: row.get::<_, i64>(3)? as u64,
            calls: row.get::<_, i64>(4)? as u64,
            violations: row.get::<_, i64>(5)? as u64,
        };
        Ok((row.get(0)?, usage))
    })?;
    saved.usage = rows.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare("SELECT vm, number, shown, gpus, calls FROM session")?;
    let rows = statement.query_map([], |row| {
        let session = Session {
            vm: row.get(0)?,
            number: row.get(1)?,
        };
        let uuids = |column| {
            let text: String = row.get(column)?;
            Ok::<_, rusqlite::Error>(text.split_whitespace().map(str::to_owned).collect())
        };
        let placed = Placed {
            shown: uuids(2)?,
            gpus: uuids(3)?,
            calls: row.get::<_, i64>(4)? as u64,
        };
        Ok((session, placed))
    })?;
    saved.sessions = rows.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare("SELECT uuid, place, model, pci, memory FROM gpu")?;
    let rows = statement.query_map([], |row| {
        Ok(Gpu {
            uuid: row.get(0)?,
            index: row.get(1)?,
            model: row.get(2)?,
            pci: row.get(3)?,
            memory: row.get::<_, i64>(4)? as u64,
            divided: false,
            driver: None,
            facts: GpuFacts::default(),
            peers: Vec::new(),
        })
    })?;
    saved.gpus = rows.collect::<Result<_, _>>()?;
    saved.events = read_events(connection)?;
    let mut statement = connection.prepare("SELECT vm, why, since_s, until_s FROM quarantine")?;
    let rows = statement.query_map([], |row| {
        let quarantine = QuarantineStatus {
            why: row.get(1)?,
            since_s: row.get::<_, i64>(2)? as u64,
            until_s: row.get::<_, Option<i64>>(3)?.map(|until| until as u64),
        };
        Ok((row.get(0)?, quarantine))
    })?;
    saved.quarantines = rows.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare(
        "SELECT uuid, driver, proved_s, slices, stop, stop_us, resume_us, suspend, stop_by_vgpud FROM rungs",
    )?;
    let rows = statement.query_map([], |row| {
        let uuid: String = row.get(0)?;
        let rungs = GpuRungs {
            uuid: uuid.clone(),
            driver: row.get(1)?,
            proved_s: row.get::<_, Option<i64>>(2)?.map(|proved| proved as u64),
            slices: row.get(3)?,
            stop: row.get(4)?,
            stop_us: row.get::<_, i64>(5)? as u64,
            resume_us: row.get::<_, i64>(6)? as u64,
            suspend: row.get(7)?,
            stop_by_vgpud: row.get(8)?,
        };
        Ok((uuid, rungs))
    })?;
    saved.rungs = rows.collect::<Result<_, _>>()?;
    saved.changes = read_changes(connection)?;
    let mut statement = connection.prepare("SELECT name FROM pool")?;
    saved.pools = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(saved)
}

fn read_events(connection: &Connection) -> Result<Vec<EventRecord>> {
    let mut statement = connection
        .prepare("SELECT number, at_s, kind, vm, session, gpu, message, calls FROM event ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, calls): (String, String) = (row.get(2)?, row.get(7)?);
        events.push(EventRecord {
            number: row.get::<_, i64>(0)? as u64,
            at_s: row.get::<_, i64>(1)? as u64,
            kind: serde_json::from_value(kind.into()).context("an event's kind")?,
            vm: row.get(3)?,
            session: row.get(4)?,
            gpu: row.get(5)?,
            message: row.get(6)?,
            calls: serde_json::from_str(&calls).context("an event's calls")?,
        });
    }
    Ok(events)
}

fn read_changes(connection: &Connection) -> Result<Vec<ChangeRecord>> {
    let mut statement = connection.prepare(
        "SELECT number, at_s, uid, user, change, changes, diff, map_version, refused FROM change ORDER BY number",
    )?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let (change, changes): (String, String) = (row.get(4)?, row.get(5)?);
        records.push(ChangeRecord {
            number: row.get::<_, i64>(0)? as u64,
            at_s: row.get::<_, i64>(1)? as u64,
            uid: row.get(2)?,
            user: row.get(3)?,
            change: serde_json::from_str(&change).context("a change")?,
            changes: serde_json::from_str(&changes).context("a change's lines")?,
            diff: row.get(6)?,
            map_version: row.get(7)?,
            refused: row.get(8)?,
        });
    }
    Ok(records)
}

fn write(
    connection: &mut Connection,
    changes: &Changes,
    running: &mut Running,
    hours_kept: u64,
) -> Result<()> {
    let transaction = connection.transaction()?;
    for (vm, usage) in &changes.usage {
        transaction.execute(
            "INSERT INTO usage (vm, turns, gpu_ns, estimated_ns, calls, violations) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (vm) DO UPDATE
             SET turns = ?2, gpu_ns = ?3, estimated_ns = ?4, calls = ?5, violations = ?6",
            params![
                vm,
                signed(usage.turns),
                signed(usage.ns),
                signed(usage.estimated_ns),
                signed(usage.calls),
                signed(usage.violations)
            ],
        )?;
    }
    for (session, placed) in &changes.sessions {
        write_session(&transaction, *session, placed.as_ref())?;
    }
    if let Some(gpus) = &changes.gpus {
        // Those that were there once keep their row, without a place.
        transaction.execute("UPDATE gpu SET place = NULL", [])?;
        for gpu in gpus {
            transaction.execute(
                "INSERT INTO gpu (uuid, place, model, pci, memory) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (uuid) DO UPDATE SET place = ?2, model = ?3, pci = ?4, memory = ?5",
                params![gpu.uuid, gpu.index, gpu.model, gpu.pci, signed(gpu.memory)],
            )?;
        }
    }
    write_events(&transaction, &changes.events)?;
    for (vm, quarantine) in &changes.quarantines {
        match quarantine {
            Some(quarantine) => transaction.execute(
                "INSERT OR REPLACE INTO quarantine (vm, why, since_s, until_s) VALUES (?1, ?2, ?3, ?4)",
                params![
                    vm,
                    quarantine.why,
                    signed(quarantine.since_s),
                    quarantine.until_s.map(signed)
                ],
            )?,
            None => transaction.execute("DELETE FROM quarantine WHERE vm = ?1", [vm])?,
        };
    }
    for rungs in changes.rungs.values() {
        transaction.execute(
            "INSERT OR REPLACE INTO rungs
                 (uuid, driver, proved_s, slices, stop, stop_us, resume_us, suspend, stop_by_vgpud)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                rungs.uuid,
                rungs.driver,
                rungs.proved_s.map(signed),
                rungs.slices,
                rungs.stop,
                signed(rungs.stop_us),
                signed(rungs.resume_us),
                rungs.suspend,
                rungs.stop_by_vgpud
            ],
        )?;
    }
    write_changes(&transaction, &changes.changes)?;
    hours::add(&transaction, &changes.hours, running, hours_kept)?;
    hours::add_gpus(&transaction, &changes.gpu_hours, hours_kept)?;
    transaction.commit()?;
    Ok(())
}

fn write_changes(transaction: &Transaction<'_>, records: &[ChangeRecord]) -> Result<()> {
    for record in records {
        transaction.execute(
            "INSERT OR REPLACE INTO change (number, at_s, uid, user, change, changes, diff, map_version, refused)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                signed(record.number),
                signed(record.at_s),
                record.uid,
                record.user,
                serde_json::to_string(&record.change)?,
                serde_json::to_string(&record.changes)?,
                record.diff,
                record.map_version,
                record.refused
            ],
        )?;
    }
    if let Some(last) = records.last() {
        let oldest = signed(last.number) - audit::KEPT as i64;
        transaction.execute("DELETE FROM change WHERE number <= ?1", [oldest])?;
    }
    Ok(())
}

fn write_events(transaction: &Transaction<'_>, events: &[EventRecord]) -> Result<()> {
    for event in events {
        // A word, as everywhere else where it is written.
        let kind = serde_json::to_value(event.kind)?;
        transaction.execute(
            "INSERT OR REPLACE INTO event (number, at_s, kind, vm, session, gpu, message, calls)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                signed(event.number),
                signed(event.at_s),
                kind.as_str(),
                event.vm,
                event.session,
                event.gpu,
                event.message,
                serde_json::to_string(&event.calls)?
            ],
        )?;
    }
    if let Some(last) = events.last() {
        let oldest = signed(last.number) - KEPT as i64;
        transaction.execute("DELETE FROM event WHERE number <= ?1", [oldest])?;
    }
    Ok(())
}

fn write_session(transaction: &Transaction<'_>, session: Session, placed: Option<&Placed>) -> Result<()> {
    let Session { vm, number } = session;
    match placed {
        Some(placed) => transaction.execute(
            "INSERT OR REPLACE INTO session (vm, number, shown, gpus, calls) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                vm,
                number,
                placed.shown.join(" "),
                placed.gpus.join(" "),
                signed(placed.calls)
            ],
        )?,
        None => transaction.execute(
            "DELETE FROM session WHERE vm = ?1 AND number = ?2",
            params![vm, number],
        )?,
    };
    Ok(())
}

/// The thread that has the database.
struct Worker {
    connection: Connection,
    hours_kept: u64,
    running: Running,
    jobs: Receiver<Job>,
    answers: Sender<Done>,
    done: Arc<OwnedFd>,
    failing: Failing,
}

impl Worker {
    /// Does what it is sent, until nobody sends any more.
    fn work(mut self) {
        let mut unwritten = Changes::default();
        while let Ok(job) = self.jobs.recv() {
            let mut next = Some(job);
            while let Some(Job::Write(mut changes)) = next {
                self.running.take(&mut changes.hours);
                // What is said of anything later replaces what was said earlier, and hours are added only if all is written, so
                // nothing is lost or counted twice by a write that fails and is repeated.
                unwritten.extend(*changes);
                next = self.jobs.try_recv().ok();
            }
            if !unwritten.is_empty() {
                let failed = match write(
                    &mut self.connection,
                    &unwritten,
                    &mut self.running,
                    self.hours_kept,
                ) {
                    Ok(()) => {
                        self.running.forget(&unwritten.hours);
                        unwritten = Changes::default();
                        None
                    }
                    Err(error) => {
                        let message = format!("vgpu.db cannot be written: {error}");
                        log::error!("{message}");
                        Some(message)
                    }
                };
                *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failed;
            }
            if let Some(Job::Done(ticket, question)) = next {
                let answer = question.map(|question| hours::answer(&self.connection, &question));
                // The daemon has ended if nobody receives it.
                let _ = self.answers.send(Done { ticket, answer });
                let _ = rustix::io::write(&*self.done, &1u64.to_ne_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::gpu;
    use vgpu_sched_api::messages::{CallRecord, Change, EventKind, Period, Used};

    const USED: Usage = Usage {
        turns: 3,
        ns: 1 << 40,
        estimated_ns: 1 << 40,
        calls: 7,
        violations: 2,
    };

    fn session(number: u32) -> Session {
        Session { vm: 1, number }
    }

    #[test]
    fn that_nothing_can_be_written_is_known_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), 24).unwrap();
        let other = Connection::open(dir.path().join("vgpu.db")).unwrap();
        let mut written = |gpus: Vec<Gpu>| {
            store.write(Changes {
                gpus: Some(gpus),
                ..Changes::default()
            });
            let ticket = store.tell(None);
            while store.take_done().iter().all(|done| done.ticket != ticket) {
                std::thread::yield_now();
            }
            store.failing()
        };
        assert_eq!(written(vec![gpu(0, "GPU-a")]), None);
        other.execute_batch("ALTER TABLE gpu RENAME TO away").unwrap();
        let failing = written(vec![gpu(0, "GPU-b")]).unwrap();
        assert!(failing.starts_with("vgpu.db cannot be written: "), "{failing}");
        other.execute_batch("ALTER TABLE away RENAME TO gpu").unwrap();
        // What could not be written is not lost.
        assert_eq!(written(vec![gpu(0, "GPU-c")]), None);
    }

    #[test]
    fn what_is_written_is_read_again_and_a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, saved) = Store::open(dir.path(), 24).unwrap();
        assert_eq!(saved, Saved::default());
        let second = Store::open(dir.path(), 24).unwrap_err();
        assert!(format!("{second:#}").contains("another vgpud"), "{second:#}");
        let gpus = vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")];
        let placed = Placed {
            shown: vec!["GPU-a".to_owned(), "GPU-b".to_owned(), "GPU-c".to_owned()],
            gpus: vec!["GPU-b".to_owned(), "GPU-a".to_owned()],
            calls: u64::MAX,
        };
        store.write(Changes {
            usage: BTreeMap::from([(1, Usage::default()), (2, USED)]),
            sessions: BTreeMap::from([
                (session(1), Some(placed.clone())),
                (session(2), Some(placed.clone())),
            ]),
            gpus: Some(gpus.clone()),
            ..Changes::default()
        });
        store.write(Changes {
            usage: BTreeMap::from([(1, USED)]),
            sessions: BTreeMap::from([(session(2), None)]),
            ..Changes::default()
        });
        drop(store);

        let (store, saved) = Store::open(dir.path(), 24).unwrap();
        let placed = Placed {
            calls: i64::MAX as u64,
            ..placed
        };
        let expected = Saved {
            usage: BTreeMap::from([(1, USED), (2, USED)]),
            sessions: BTreeMap::from([(session(1), placed)]),
            gpus: gpus.clone(),
            ..Saved::default()
        };
        assert_eq!(saved, expected);
        store.write(Changes {
            gpus: Some(vec![gpu(0, "GPU-b")]),
            ..Changes::default()
        });
        drop(store);
        let (store, saved) = Store::open(dir.path(), 24).unwrap();
        let gone = Gpu {
            index: None,
            ..gpus[0].clone()
        };
        assert_eq!(saved.gpus, [gone, gpu(0, "GPU-b")]);
        drop(store);

        let connection = Connection::open(dir.path().join("vgpu.db")).unwrap();
        connection
            .pragma_update(None, "user_version", STEPS.len() as u32 + 1)
            .unwrap();
        drop(connection);
        let error = Store::open(dir.path(), 24).unwrap_err();
        assert!(format!("{error:#}").contains("schema version"), "{error:#}");
        assert!(
            format!("{error:#}").contains("a newer vgpud made it"),
            "{error:#}"
        );
    }

    /// What an operator finds who has to do something about it.
    #[test]
    fn what_to_do_about_a_broken_database_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vgpu.db");
        let refused = || format!("{:#}", Store::open(dir.path(), 24).unwrap_err());
        std::fs::write(
            &path,
            "no database at all, and longer than its header".repeat(100),
        )
        .unwrap();
        let said = refused();
        assert!(
            said.contains("vgpu.db: file is not a database: it is damaged"),
            "{said}"
        );
        assert!(
            said.contains("move it away") && said.contains("the pool map is not in it"),
            "{said}"
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let said = refused();
        assert!(said.contains("must be able to read and write it"), "{said}");
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = rusqlite::Error::SqliteFailure(full, None).into();
        assert!(advice(&full).unwrap().starts_with("there is no room left"));
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("vgpu.db")).unwrap();
        connection.execute_batch(STEPS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
            .execute(
                "INSERT INTO usage (vm, turns, gpu_ns, estimated) VALUES (4, 3, 1099511627776, 1)",
                [],
            )
            .unwrap();
        drop(connection);
        let (_store, saved) = Store::open(dir.path(), 24).unwrap();
        assert_eq!(
            saved.usage,
            BTreeMap::from([(
                4,
                Usage {
                    calls: 0,
                    violations: 0,
                    ..USED
                }
            )])
        );
        assert_eq!(saved.sessions, BTreeMap::new());
    }

    /// What was used before there were waits and GPUs stays, and is added to.
    #[test]
    fn hours_of_the_sixth_version_are_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("vgpu.db")).unwrap();
        for step in &STEPS[..6] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", 6).unwrap();
        let old = "INSERT INTO hour VALUES (7, 1, 'A', 10, 2, 3, 40, 30, 5, 6, 8, 9), (8, 1, '', 1, 0, 0, 0, 0, 0, 0, 0, 0)";
        connection.execute(old, []).unwrap();
        drop(connection);
        let (mut store, saved) = Store::open(dir.path(), 24).unwrap();
        assert_eq!(saved.pools, BTreeSet::from([String::new(), "A".to_owned()]));
        let used = Used {
            gpu_microseconds: 10,
            estimated_microseconds: 2,
            turns: 3,
            turn_wait_us: 40,
            turn_wait_max_us: 30,
            calls: 5,
            violations: 6,
            refused: 8,
            memory_byte_seconds: 9,
            ..Used::default()
        };
        let records = hours::tests::read_all(&mut store, Period::Hour);
        assert_eq!((records.len(), records[0].used), (2, used));
        let entry = Entry {
            hour: 7,
            vm: 1,
            pool: "A".to_owned(),
        };
        let spent = Spent {
            used,
            ..Spent::default()
        };
        store.write(Changes {
            hours: BTreeMap::from([(entry, spent)]),
            ..Changes::default()
        });
        let records = hours::tests::read_all(&mut store, Period::Hour);
        assert_eq!(records[0].used, used.plus(used));
    }

    #[test]
    fn a_session_from_before_there_were_wishes_has_all_that_its_vm_had() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("vgpu.db")).unwrap();
        for step in &STEPS[..3] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", 3).unwrap();
        let old = "INSERT INTO session (vm, number, gpus, calls) VALUES (1, 4, 'GPU-a GPU-b', 9)";
        connection.execute(old, []).unwrap();
        drop(connection);
        let (_store, saved) = Store::open(dir.path(), 24).unwrap();
        let gpus = vec!["GPU-a".to_owned(), "GPU-b".to_owned()];
        let placed = Placed {
            shown: gpus.clone(),
            gpus,
            calls: 9,
        };
        assert_eq!(saved.sessions, BTreeMap::from([(session(4), placed)]));
    }

    fn event(number: u64) -> EventRecord {
        EventRecord {
            number,
            at_s: 1_700_000_000,
            kind: EventKind::GpuError,
            vm: Some(7),
            session: None,
            gpu: Some("GPU-a".to_owned()),
            message: "it has \"fallen\" off".to_owned(),
            calls: vec![CallRecord {
                name: "cuLaunchKernel".to_owned(),
                before_us: 7,
                took_us: None,
                ring: 3,
            }],
        }
    }

    fn change(number: u64) -> ChangeRecord {
        ChangeRecord {
            number,
            at_s: 1_700_000_000,
            uid: number.is_multiple_of(2).then_some(u32::MAX),
            user: Some("anna \"a\"".to_owned()),
            change: Change::Undo { number: u64::MAX },
            changes: vec!["one".to_owned(), "an\nother".to_owned()],
            diff: "-a\n+b\n".to_owned(),
            map_version: "0f".to_owned(),
            refused: number.is_multiple_of(2).then(|| "no".to_owned()),
        }
    }

    #[test]
    fn changes_are_kept_and_the_oldest_of_them_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), 24).unwrap();
        for numbers in [1..=20, 21..=audit::KEPT as u64 + 5] {
            store.write(Changes {
                changes: numbers.map(change).collect(),
                ..Changes::default()
            });
        }
        drop(store);
        let (_store, saved) = Store::open(dir.path(), 24).unwrap();
        let expected: Vec<ChangeRecord> = (6..=audit::KEPT as u64 + 5).map(change).collect();
        assert_eq!(saved.changes, expected);
    }

    #[test]
    fn what_happened_is_kept_and_the_oldest_of_it_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), 24).unwrap();
        let quarantine = QuarantineStatus {
            why: "it floods".to_owned(),
            since_s: 1,
            until_s: None,
        };
        let rungs = GpuRungs {
            uuid: "GPU-a".to_owned(),
            driver: "580.1".to_owned(),
            proved_s: Some(5),
            stop: true,
            stop_us: u64::MAX,
            ..GpuRungs::default()
        };
        store.write(Changes {
            events: (1..=20).map(event).collect(),
            quarantines: BTreeMap::from([(1, Some(quarantine.clone())), (2, Some(quarantine.clone()))]),
            rungs: BTreeMap::from([("GPU-a".to_owned(), rungs.clone())]),
            ..Changes::default()
        });
        store.write(Changes {
            events: (21..=KEPT as u64 + 5).map(event).collect(),
            quarantines: BTreeMap::from([(2, None)]),
            ..Changes::default()
        });
        drop(store);
        let (_store, saved) = Store::open(dir.path(), 24).unwrap();
        assert_eq!(saved.quarantines, BTreeMap::from([(1, quarantine)]));
        let rungs = GpuRungs {
            stop_us: i64::MAX as u64,
            ..rungs
        };
        assert_eq!(saved.rungs, BTreeMap::from([("GPU-a".to_owned(), rungs)]));
        assert_eq!(saved.events.len(), KEPT);
        assert_eq!(
            (&saved.events[0], saved.events[KEPT - 1].number),
            (&event(6), KEPT as u64 + 5)
        );
    }
}
