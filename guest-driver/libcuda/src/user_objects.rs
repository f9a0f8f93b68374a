//! User objects: things of the program's that graphs keep alive, counted here; with the last reference its destructor runs.
use crate::abi::HostCall;
use crate::handles::Entry;
use crate::lock;
use crate::session::{self, Session};
use crate::thread::Thread;
use std::sync::{Arc, Mutex};
use vgpu_protocol::result::{self, Code};

/// An object.
pub struct UserObject {
    id: u32,
    destroy: HostCall,
    /// References to it, of the program's and of graphs.
    count: Mutex<u64>,
}

/// References that something of this library holds until it is dropped: a graph, or an executable one.
pub struct References {
    object: Arc<Entry<UserObject>>,
    count: u32,
}

impl Session {
    /// Makes an object with that many references, all of them the caller's: its handle.
    pub fn make_user_object(&self, destroy: HostCall, count: u32) -> Result<usize, Code> {
        check(count)?;
        let id = self.user_objects.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let object = UserObject {
            id,
            destroy,
            count: Mutex::new(count.into()),
        };
        Ok(self.user_objects.insert(id, object).handle())
    }

    /// The object of a handle.
    pub fn user_object(&self, handle: usize) -> Result<Arc<Entry<UserObject>>, Code> {
        let found = self.user_objects.get(handle).ok_or(result::INVALID_VALUE)?;
        Ok(found.clone())
    }
}

/// Refuses what is no number of references.
fn check(count: u32) -> Result<(), Code> {
    if (1..=i32::MAX as u32).contains(&count) {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

impl Entry<UserObject> {
    /// Adds references.
    pub fn retain(&self, count: u32) -> Result<(), Code> {
        check(count)?;
        *lock(&self.count) += u64::from(count);
        Ok(())
    }

    /// Takes references away. With the last the object goes, and its destructor runs.
    pub fn release(&self, count: u32) -> Result<(), Code> {
        check(count)?;
        {
            let mut left = lock(&self.count);
            *left = left.checked_sub(count.into()).ok_or(result::INVALID_VALUE)?;
            if *left > 0 {
                return Ok(());
            }
        }
        if let Ok(session) = session::get()
            && session.user_objects.remove(self.handle()).is_some()
        {
            session.user_objects.release(self.id);
        }
        // As in a host function, it may make no calls.
        let calls = &Thread::current().runs_host_functions;
        let before = calls.replace(true);
        self.destroy.run();
        calls.set(before);
        Ok(())
    }
}

impl References {
    /// Holds references for a graph: the caller's own, or new ones.
    pub fn take(object: Arc<Entry<UserObject>>, count: u32, callers_own: bool) -> Result<Self, Code> {
        if callers_own {
            check(count)?;
            if *lock(&object.count) < u64::from(count) {
                return Err(result::INVALID_VALUE);
            }
        } else {
            object.retain(count)?;
        }
        Ok(Self { object, count })
    }

    /// The object.
    pub fn object(&self) -> &Arc<Entry<UserObject>> {
        &self.object
    }

    /// How many they are.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl Drop for References {
    fn drop(&mut self) {
        if self.count > 0 {
            // More than there are is held by nobody.
            let _ = self.object.release(self.count);
        }
    }
}
