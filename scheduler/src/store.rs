//! `vgpu.db`: what happened. Written by a thread of its own, so that giving turns never waits for a disk.
use crate::inventory::Gpu;
use anyhow::{Context, Result, bail};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Version of the tables.
const SCHEMA_VERSION: u32 = 1;

/// What a VM has used since its first turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Turns begun.
    pub turns: u64,
    /// GPU time in nanoseconds.
    pub ns: u64,
    /// Whether part of it is an estimate.
    pub estimated: bool,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    sender: Option<Sender<BTreeMap<u32, Usage>>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the database of a state folder, notes the inventory and reads each VM's usage.
    pub fn open(state_dir: &Path, inventory: &[Gpu]) -> Result<(Self, BTreeMap<u32, Usage>)> {
        std::fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        let path = state_dir.join("vgpu.db");
        let open = || {
            let mut connection = Connection::open(&path)?;
            prepare(&mut connection)?;
            write_inventory(&mut connection, inventory)?;
            let usage = read_usage(&connection)?;
            Ok::<_, anyhow::Error>((connection, usage))
        };
        let (connection, usage) = open().with_context(|| format!("cannot use {}", path.display()))?;
        let (sender, receiver) = channel();
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(connection, &receiver))?;
        Ok((
            Self {
                sender: Some(sender),
                writer: Some(writer),
            },
            usage,
        ))
    }

    /// Has these VMs' usage written.
    pub fn write(&self, usage: BTreeMap<u32, Usage>) {
        if let Some(sender) = &self.sender
            && sender.send(usage).is_err()
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

fn prepare(connection: &mut Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        SCHEMA_VERSION => return Ok(()),
        0 => {}
        other => bail!("it has schema version {other}, and this program knows {SCHEMA_VERSION}"),
    }
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE gpu (
             uuid TEXT PRIMARY KEY, place INTEGER, model TEXT NOT NULL, pci TEXT NOT NULL, memory INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE usage (
             vm INTEGER PRIMARY KEY, turns INTEGER NOT NULL, gpu_ns INTEGER NOT NULL, estimated INTEGER NOT NULL
         ) STRICT;",
    )?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// Notes the GPUs that are there; those that were there once keep their row, without a place.
fn write_inventory(connection: &mut Connection, inventory: &[Gpu]) -> Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("UPDATE gpu SET place = NULL", [])?;
    for (place, gpu) in inventory.iter().enumerate() {
        transaction.execute(
            "INSERT INTO gpu (uuid, place, model, pci, memory) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (uuid) DO UPDATE SET place = ?2, model = ?3, pci = ?4, memory = ?5",
            params![gpu.uuid, place as i64, gpu.model, gpu.pci, gpu.memory as i64],
        )?;
    }
    transaction.commit()?;
    Ok(())
}

fn read_usage(connection: &Connection) -> Result<BTreeMap<u32, Usage>> {
    let mut statement = connection.prepare("SELECT vm, turns, gpu_ns, estimated FROM usage")?;
    let rows = statement.query_map([], |row| {
        let (turns, ns) = (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
        Ok((
            row.get(0)?,
            Usage {
                turns: turns as u64,
                ns: ns as u64,
                estimated: row.get(3)?,
            },
        ))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn write_usage(connection: &mut Connection, usage: &BTreeMap<u32, Usage>) -> Result<()> {
    let transaction = connection.transaction()?;
    for (vm, usage) in usage {
        transaction.execute(
            "INSERT INTO usage (vm, turns, gpu_ns, estimated) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (vm) DO UPDATE SET turns = ?2, gpu_ns = ?3, estimated = ?4",
            params![vm, usage.turns as i64, usage.ns as i64, usage.estimated],
        )?;
    }
    transaction.commit()?;
    Ok(())
}

fn write_all(mut connection: Connection, receiver: &Receiver<BTreeMap<u32, Usage>>) {
    let mut unwritten = BTreeMap::new();
    while let Ok(usage) = receiver.recv() {
        // Later numbers replace earlier ones, so nothing is lost by a write that fails and is repeated.
        unwritten.extend(usage);
        while let Ok(usage) = receiver.try_recv() {
            unwritten.extend(usage);
        }
        match write_usage(&mut connection, &unwritten) {
            Ok(()) => unwritten.clear(),
            Err(error) => log::error!("vgpu.db cannot be written: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_survives_and_a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = crate::inventory::discover(Some(2)).unwrap();
        let used = Usage {
            turns: 3,
            ns: 1 << 40,
            estimated: true,
        };
        let (store, usage) = Store::open(dir.path(), &inventory).unwrap();
        assert_eq!(usage, BTreeMap::new());
        store.write(BTreeMap::from([(1, Usage::default()), (2, used)]));
        store.write(BTreeMap::from([(1, used)]));
        drop(store);

        let (store, usage) = Store::open(dir.path(), &inventory[1..]).unwrap();
        assert_eq!(usage, BTreeMap::from([(1, used), (2, used)]));
        drop(store);
        let connection = Connection::open(dir.path().join("vgpu.db")).unwrap();
        let places = "SELECT uuid FROM gpu WHERE place = 0";
        assert_eq!(
            connection
                .query_row(places, [], |row| row.get::<_, String>(0))
                .unwrap(),
            inventory[1].uuid
        );

        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
        drop(connection);
        let error = Store::open(dir.path(), &inventory).unwrap_err();
        assert!(format!("{error:#}").contains("schema version"), "{error:#}");
    }
}
