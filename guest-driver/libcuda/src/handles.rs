//! Tables of objects: the ids that the wire uses, and the handles that the program holds.
//!
//! A handle carries its table's kind, an index and a number that no other handle ever has; so one that was destroyed, or
//! belongs to another kind of object, is recognised. Looking one up takes no lock.
use crate::lock;
use arc_swap::{ArcSwapOption, Guard};
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

const CHUNK: usize = 256;

/// An object with its handle.
pub struct Entry<T> {
    handle: usize,
    value: T,
}

impl<T> Entry<T> {
    /// The program's name of it.
    pub fn handle(&self) -> usize {
        self.handle
    }
}

impl<T> Deref for Entry<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Entry<T> {
    /// An object with a handle that is in no table.
    pub fn apart(handle: usize, value: T) -> Arc<Self> {
        Arc::new(Self { handle, value })
    }
}

/// An object that was looked up; it stays as long as this does.
pub struct Found<T>(Guard<Option<Arc<Entry<T>>>>);

impl<T> Deref for Found<T> {
    type Target = Arc<Entry<T>>;
    fn deref(&self) -> &Arc<Entry<T>> {
        match &*self.0 {
            Some(entry) => entry,
            None => unreachable!("made only of entries"),
        }
    }
}

type Slot<T> = ArcSwapOption<Entry<T>>;
/// Slots, made when the first of them is used.
type Chunk<T> = OnceLock<Box<[Slot<T>]>>;

/// Objects of one kind.
pub struct Table<T> {
    kind: usize,
    first: u32,
    end: u32,
    chunks: Box<[Chunk<T>]>,
    ids: Mutex<Ids>,
    made: AtomicU64,
}

struct Ids {
    /// Ids that were used and are free, oldest first.
    free: VecDeque<u32>,
    /// The first id that was never used.
    fresh: u32,
}

impl<T> Table<T> {
    /// A table with ids from `first` up to `end`, exclusive. Every table has a `kind` of its own, from 1 to 31.
    pub fn new(kind: usize, first: u32, end: u32) -> Self {
        Self {
            kind,
            first,
            end,
            chunks: (0..(end as usize).div_ceil(CHUNK))
                .map(|_| OnceLock::new())
                .collect(),
            ids: Mutex::new(Ids {
                free: VecDeque::new(),
                fresh: first,
            }),
            made: AtomicU64::new(1),
        }
    }

    /// Takes an id, if one is left.
    pub fn reserve(&self) -> Option<u32> {
        self.reserve_where(|_| true)
    }

    /// Takes an id, reusing only those of which `usable` says so.
    pub fn reserve_where(&self, usable: impl Fn(u32) -> bool) -> Option<u32> {
        let mut ids = lock(&self.ids);
        let reused = ids
            .free
            .iter()
            .position(|&id| usable(id))
            .and_then(|i| ids.free.remove(i));
        reused.or_else(|| {
            let id = ids.fresh;
            (id < self.end).then(|| {
                ids.fresh += 1;
                id
            })
        })
    }

    /// Gives an id back.
    pub fn release(&self, id: u32) {
        lock(&self.ids).free.push_back(id);
    }

    /// Puts an object under a reserved id.
    pub fn insert(&self, id: u32, value: T) -> Arc<Entry<T>> {
        self.insert_as(self.name(id), value)
    }

    /// A handle for a reserved id, under which [`Self::insert_as`] puts objects.
    pub fn name(&self, id: u32) -> usize {
        let number = self.made.fetch_add(1, Ordering::Relaxed) as usize;
        number << 28 | (id as usize) << 8 | self.kind << 3
    }

    /// Puts an object under a handle that [`Self::name`] made; again and again, one at a time.
    pub fn insert_as(&self, handle: usize, value: T) -> Arc<Entry<T>> {
        let entry = Arc::new(Entry { handle, value });
        if let Some(slot) = self.id(handle).and_then(|id| self.slot(id)) {
            slot.store(Some(entry.clone()));
        }
        entry
    }

    /// The object of a handle.
    pub fn get(&self, handle: usize) -> Option<Found<T>> {
        let guard = self.slot(self.id(handle)?)?.load();
        guard
            .as_ref()
            .is_some_and(|entry| entry.handle == handle)
            .then_some(Found(guard))
    }

    /// Takes the object of a handle out; of two callers one gets it. Its id stays reserved until [`Self::release`].
    pub fn remove(&self, handle: usize) -> Option<Arc<Entry<T>>> {
        let slot = self.slot(self.id(handle)?)?;
        let guard = slot.load();
        let entry = guard.as_ref().filter(|entry| entry.handle == handle)?.clone();
        let before = slot.compare_and_swap(&entry, None);
        (before.as_ref().is_some_and(|b| Arc::ptr_eq(b, &entry))).then_some(entry)
    }

    /// The object with that id.
    pub fn by_id(&self, id: u32) -> Option<Arc<Entry<T>>> {
        self.chunks.get(id as usize / CHUNK)?.get()?[id as usize % CHUNK].load_full()
    }

    /// All objects there are now, by rising id.
    pub fn all(&self) -> Vec<Arc<Entry<T>>> {
        let fresh = lock(&self.ids).fresh;
        (self.first..fresh).filter_map(|id| self.by_id(id)).collect()
    }

    fn id(&self, handle: usize) -> Option<u32> {
        (handle & 0xff == self.kind << 3).then_some((handle >> 8 & 0xf_ffff) as u32)
    }

    fn slot(&self, id: u32) -> Option<&Slot<T>> {
        let chunk = self.chunks.get(id as usize / CHUNK)?;
        let slots = chunk.get_or_init(|| (0..CHUNK).map(|_| ArcSwapOption::empty()).collect());
        slots.get(id as usize % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_finds_its_object_until_it_is_removed() {
        let table = Table::new(3, 1, 4);
        let id = table.reserve().unwrap();
        let entry = table.insert(id, "first");
        let handle = entry.handle();
        assert_eq!(table.get(handle).unwrap().value, "first");
        assert!(table.remove(handle).is_some());
        assert!(table.remove(handle).is_none());
        table.release(id);
        assert!(table.get(handle).is_none());
        let again = table.reserve().unwrap();
        assert_eq!(again, id);
        let other = table.insert(again, "second").handle();
        assert_ne!(other, handle);
        assert!(table.get(handle).is_none() && table.get(other).is_some());
    }

    #[test]
    fn strange_handles_find_nothing() {
        let table = Table::new(3, 0, 300);
        let id = table.reserve().unwrap();
        let handle = table.insert(id, ()).handle();
        let other: Table<()> = Table::new(4, 0, 300);
        let id = other.reserve().unwrap();
        let foreign = other.insert(id, ()).handle();
        for strange in [0, 1, 2, foreign, handle + 1, handle | 0xf_ffff << 8, usize::MAX] {
            assert!(table.get(strange).is_none(), "{strange:#x}");
        }
    }

    #[test]
    fn a_full_table_refuses_and_unusable_ids_wait() {
        let table: Table<()> = Table::new(3, 0, 2);
        let (a, b) = (table.reserve().unwrap(), table.reserve().unwrap());
        assert_eq!(table.reserve(), None);
        table.release(a);
        table.release(b);
        assert_eq!(table.reserve_where(|id| id == b), Some(b));
        assert_eq!(table.reserve_where(|_| false), None);
        assert_eq!(table.reserve(), Some(a));
    }
}
