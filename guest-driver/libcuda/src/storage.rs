//! Context-local storage: what NVIDIA's runtime keeps with each context. It reads its own value on nearly every call, so a thread
//! remembers what it read last.
use crate::lock;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Called with context, key and value when the context ends.
pub type Destructor = unsafe extern "C" fn(usize, *mut c_void, *mut c_void);

/// A value with what is to be called at the end.
#[derive(Clone, Copy)]
struct Value {
    value: usize,
    destructor: Option<Destructor>,
}

/// Values by context handle and key.
#[derive(Default)]
pub struct Storage {
    values: Mutex<HashMap<(usize, usize), Value>>,
    /// Grows with every change, after it was made.
    changes: AtomicU64,
}

/// A value that was read.
#[derive(Clone, Copy)]
struct Read {
    at: (usize, usize),
    changes: u64,
    value: usize,
}

thread_local! {
    static LAST: Cell<Read> = const { Cell::new(Read { at: (0, 0), changes: u64::MAX, value: 0 }) };
}

impl Storage {
    /// Keeps a value.
    pub fn put(&self, context: usize, key: usize, value: usize, destructor: Option<Destructor>) {
        lock(&self.values).insert((context, key), Value { value, destructor });
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Forgets one; whether there was one.
    pub fn delete(&self, context: usize, key: usize) -> bool {
        let found = lock(&self.values).remove(&(context, key)).is_some();
        self.changes.fetch_add(1, Ordering::Release);
        found
    }

    /// The value.
    pub fn get(&self, context: usize, key: usize) -> Option<usize> {
        let changes = self.changes.load(Ordering::Acquire);
        let last = LAST.get();
        if last.at == (context, key) && last.changes == changes {
            return Some(last.value);
        }
        let value = lock(&self.values).get(&(context, key))?.value;
        LAST.set(Read {
            at: (context, key),
            changes,
            value,
        });
        Some(value)
    }

    /// The context ends, and its values with it.
    pub fn end(&self, context: usize) {
        let gone: Vec<_> = lock(&self.values)
            .extract_if(|(of, _), _| *of == context)
            .collect();
        self.changes.fetch_add(1, Ordering::Release);
        for ((_, key), Value { value, destructor }) in gone {
            if let Some(destructor) = destructor {
                // SAFETY: whoever kept the value asked for this call, once.
                unsafe { destructor(context, key as *mut c_void, value as *mut c_void) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_until_it_changes_and_ends_with_its_context() {
        static ENDED: Mutex<Vec<(usize, usize, usize)>> = Mutex::new(Vec::new());
        unsafe extern "C" fn ended(context: usize, key: *mut c_void, value: *mut c_void) {
            lock(&ENDED).push((context, key as usize, value as usize));
        }
        let storage = Storage::default();
        assert_eq!(storage.get(1, 2), None);
        storage.put(1, 2, 3, Some(ended));
        storage.put(2, 2, 4, Some(ended));
        assert_eq!((storage.get(1, 2), storage.get(1, 2)), (Some(3), Some(3)));
        storage.put(1, 2, 5, Some(ended));
        assert_eq!(storage.get(1, 2), Some(5));
        storage.put(1, 7, 8, None);
        assert!(storage.delete(1, 7) && !storage.delete(1, 7));
        storage.end(1);
        assert_eq!(storage.get(1, 2), None);
        assert_eq!(storage.get(2, 2), Some(4));
        assert_eq!(*lock(&ENDED), [(1, 2, 5)]);
    }
}
