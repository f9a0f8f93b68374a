//! Handles: numbers which no object shares and none reuses.

use super::error::{self, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// The objects of one kind.
pub struct Registry<T> {
    objects: RwLock<HashMap<u64, Arc<T>>>,
}

/// A handle for a new object, unlike every other and unlike the handles that CUDA reserves.
pub fn new_handle() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    NEXT.fetch_add(0x10, Ordering::Relaxed)
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry {
            objects: RwLock::default(),
        }
    }
}

impl<T> Registry<T> {
    /// Adds an object under its handle.
    pub fn add(&self, handle: u64, object: Arc<T>) {
        self.objects
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(handle, object);
    }

    /// The object of a handle.
    pub fn get(&self, handle: u64) -> Result<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(|e| e.into_inner());
        objects.get(&handle).cloned().ok_or(error::INVALID_HANDLE)
    }

    /// The object of a handle, in calls about graphs, where a strange one is a wrong value.
    pub fn named(&self, handle: u64) -> Result<Arc<T>> {
        self.get(handle).map_err(|_| error::INVALID_VALUE)
    }

    /// All objects now.
    pub fn all(&self) -> Vec<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(|e| e.into_inner());
        objects.values().cloned().collect()
    }

    /// Takes an object out.
    pub fn remove(&self, handle: u64) -> Result<Arc<T>> {
        let mut objects = self.objects.write().unwrap_or_else(|e| e.into_inner());
        objects.remove(&handle).ok_or(error::INVALID_HANDLE)
    }

    /// Takes out the objects that `which` names.
    pub fn retain(&self, mut which: impl FnMut(&T) -> bool) {
        self.objects
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|_, object| which(object));
    }
}
