//! `vgpu.db`: what happened. Written by a thread of its own, so that giving turns never waits for a disk.
use crate::inventory::Gpu;
use anyhow::{Context, Result, bail};
use rusqlite::{Connection, Transaction, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use vgpu_sched_core::Session;

/// How the tables came to be: a version's tables are those of all steps up to it.
const STEPS: [&str; 2] = [
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
];

/// What a VM has used since its first turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Turns begun.
    pub turns: u64,
    /// GPU time in nanoseconds.
    pub ns: u64,
    /// Whether part of it is an estimate.
    pub estimated: bool,
    /// Calls done by sessions that ended.
    pub calls: u64,
}

/// A session that has not ended, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The UUIDs of the GPUs that it was given.
    pub gpus: Vec<String>,
    /// Calls it has done.
    pub calls: u64,
}

/// What the database held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Each VM's usage.
    pub usage: BTreeMap<u32, Usage>,
    /// The sessions that there were.
    pub sessions: BTreeMap<Session, Placed>,
    /// The GPUs that were ever there.
    pub gpus: Vec<Gpu>,
}

/// What is to be written. What is not named stays.
#[derive(Debug, Default)]
pub struct Changes {
    pub usage: BTreeMap<u32, Usage>,
    /// `None` for a session that ended.
    pub sessions: BTreeMap<Session, Option<Placed>>,
    /// All that are there.
    pub gpus: Option<Vec<Gpu>>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.usage.is_empty() && self.sessions.is_empty() && self.gpus.is_none()
    }

    fn extend(&mut self, later: Self) {
        self.usage.extend(later.usage);
        self.sessions.extend(later.sessions);
        self.gpus = later.gpus.or(self.gpus.take());
    }
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    sender: Option<Sender<Changes>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the database of a state folder and reads it.
    pub fn open(state_dir: &Path) -> Result<(Self, Saved)> {
        std::fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        let path = state_dir.join("vgpu.db");
        let open = || {
            let mut connection = Connection::open(&path)?;
            prepare(&mut connection)?;
            let saved = read(&connection)?;
            Ok::<_, anyhow::Error>((connection, saved))
        };
        let (connection, saved) = open().with_context(|| format!("cannot use {}", path.display()))?;
        let (sender, receiver) = channel();
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(connection, &receiver))?;
        Ok((
            Self {
                sender: Some(sender),
                writer: Some(writer),
            },
            saved,
        ))
    }

    /// Has something written.
    pub fn write(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        if let Some(sender) = &self.sender
            && sender.send(changes).is_err()
        {
            log::error!("vgpu.db is not written any longer: its thread has ended");
        }
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

/// Brings the tables to this program's version.
fn prepare(connection: &mut Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = STEPS.get(found as usize..) else {
        bail!(
            "it has schema version {found}, and this program knows {}",
            STEPS.len()
        );
    };
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
    let mut statement = connection.prepare("SELECT vm, turns, gpu_ns, estimated, calls FROM usage")?;
    let rows = statement.query_map([], |row| {
        let usage = Usage {
            turns: row.get::<_, i64>(1)? as u64,
            ns: row.get::<_, i64>(2)? as u64,
            estimated: row.get(3)?,
            calls: row.get::<_, i64>(4)? as u64,
        };
        Ok((row.get(0)?, usage))
    })?;
    saved.usage = rows.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare("SELECT vm, number, gpus, calls FROM session")?;
    let rows = statement.query_map([], |row| {
        let session = Session {
            vm: row.get(0)?,
            number: row.get(1)?,
        };
        let gpus: String = row.get(2)?;
        let placed = Placed {
            gpus: gpus.split_whitespace().map(str::to_owned).collect(),
            calls: row.get::<_, i64>(3)? as u64,
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
            driver: String::new(),
            divided: false,
        })
    })?;
    saved.gpus = rows.collect::<Result<_, _>>()?;
    Ok(saved)
}

fn write(connection: &mut Connection, changes: &Changes) -> Result<()> {
    let transaction = connection.transaction()?;
    for (vm, usage) in &changes.usage {
        transaction.execute(
            "INSERT INTO usage (vm, turns, gpu_ns, estimated, calls) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (vm) DO UPDATE SET turns = ?2, gpu_ns = ?3, estimated = ?4, calls = ?5",
            params![
                vm,
                signed(usage.turns),
                signed(usage.ns),
                usage.estimated,
                signed(usage.calls)
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
    transaction.commit()?;
    Ok(())
}

fn write_session(transaction: &Transaction<'_>, session: Session, placed: Option<&Placed>) -> Result<()> {
    let Session { vm, number } = session;
    match placed {
        Some(placed) => transaction.execute(
            "INSERT OR REPLACE INTO session (vm, number, gpus, calls) VALUES (?1, ?2, ?3, ?4)",
            params![vm, number, placed.gpus.join(" "), signed(placed.calls)],
        )?,
        None => transaction.execute(
            "DELETE FROM session WHERE vm = ?1 AND number = ?2",
            params![vm, number],
        )?,
    };
    Ok(())
}

fn write_all(mut connection: Connection, receiver: &Receiver<Changes>) {
    let mut unwritten = Changes::default();
    while let Ok(changes) = receiver.recv() {
        // Later ones replace earlier ones, so nothing is lost by a write that fails and is repeated.
        unwritten.extend(changes);
        while let Ok(changes) = receiver.try_recv() {
            unwritten.extend(changes);
        }
        match write(&mut connection, &unwritten) {
            Ok(()) => unwritten = Changes::default(),
            Err(error) => log::error!("vgpu.db cannot be written: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::gpu;

    const USED: Usage = Usage {
        turns: 3,
        ns: 1 << 40,
        estimated: true,
        calls: 7,
    };

    fn session(number: u32) -> Session {
        Session { vm: 1, number }
    }

    #[test]
    fn what_is_written_is_read_again_and_a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, saved) = Store::open(dir.path()).unwrap();
        assert_eq!(saved, Saved::default());
        let gpus = vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")];
        let placed = Placed {
            gpus: vec!["GPU-a".to_owned(), "GPU-b".to_owned()],
            calls: u64::MAX,
        };
        store.write(Changes {
            usage: BTreeMap::from([(1, Usage::default()), (2, USED)]),
            sessions: BTreeMap::from([
                (session(1), Some(placed.clone())),
                (session(2), Some(placed.clone())),
            ]),
            gpus: Some(gpus.clone()),
        });
        store.write(Changes {
            usage: BTreeMap::from([(1, USED)]),
            sessions: BTreeMap::from([(session(2), None)]),
            gpus: None,
        });
        drop(store);

        let (store, saved) = Store::open(dir.path()).unwrap();
        let placed = Placed {
            calls: i64::MAX as u64,
            ..placed
        };
        let expected = Saved {
            usage: BTreeMap::from([(1, USED), (2, USED)]),
            sessions: BTreeMap::from([(session(1), placed)]),
            gpus: gpus.clone(),
        };
        assert_eq!(saved, expected);
        store.write(Changes {
            gpus: Some(vec![gpu(0, "GPU-b")]),
            ..Changes::default()
        });
        drop(store);
        let (store, saved) = Store::open(dir.path()).unwrap();
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
        let error = Store::open(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("schema version"), "{error:#}");
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
        let (_store, saved) = Store::open(dir.path()).unwrap();
        assert_eq!(saved.usage, BTreeMap::from([(4, Usage { calls: 0, ..USED })]));
        assert_eq!(saved.sessions, BTreeMap::new());
    }
}
