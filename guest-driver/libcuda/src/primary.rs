//! The devices' primary contexts: one per device, shared by all that retain it, with a handle that stays the same whether it
//! exists or not.
use crate::handles::{Entry, Table};
use crate::lock;
use crate::objects::Context;
use std::sync::{Arc, Mutex, MutexGuard};
use vgpu_protocol::limits::GPUS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::GpuInfo;

/// A device's primary context.
#[derive(Default)]
pub struct Primary {
    /// Its number on the wire and its handle, once somebody asked for it.
    name: Option<(u32, usize)>,
    /// How often it is retained.
    pub retained: u32,
    /// The flags that it gets, or has.
    pub flags: u32,
    /// The context, while it exists.
    pub context: Option<Arc<Entry<Context>>>,
    /// What stands for it while it does not.
    idle: Option<Arc<Entry<Context>>>,
}

/// The primary contexts by the devices' ordinals.
pub struct Primaries(Box<[Slot]>);

#[derive(Default)]
struct Slot {
    /// Held while the context is made or destroyed.
    change: Mutex<()>,
    primary: Mutex<Primary>,
}

impl Default for Primaries {
    fn default() -> Self {
        Self((0..GPUS_MAX).map(|_| Slot::default()).collect())
    }
}

impl Primaries {
    /// That of a device, which must exist. Not to be held over a call to the program or to the host.
    pub fn of(&self, device: usize) -> MutexGuard<'_, Primary> {
        lock(&self.0[device].primary)
    }

    /// The primary context with that handle, existing or not, if there is one.
    pub fn find(&self, gpus: &[GpuInfo], handle: usize) -> Option<Arc<Entry<Context>>> {
        gpus.iter().enumerate().find_map(|(device, info)| {
            let mut primary = self.of(device);
            let (id, _) = primary.name.filter(|(_, own)| *own == handle)?;
            let existing = primary.context.clone();
            let idle = || Entry::apart(handle, Context::idle(id, device, info));
            Some(existing.unwrap_or_else(|| primary.idle.get_or_insert_with(idle).clone()))
        })
    }

    /// Has no other thread make or destroy that of a device while the result is held.
    pub fn change(&self, device: usize) -> MutexGuard<'_, ()> {
        lock(&self.0[device].change)
    }
}

impl Primary {
    /// Its number on the wire and its handle, whether it exists or not.
    pub fn name(&mut self, contexts: &Table<Context>) -> Result<(u32, usize), Code> {
        if let Some(name) = self.name {
            return Ok(name);
        }
        let id = contexts.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let name = (id, contexts.name(id));
        self.name = Some(name);
        Ok(name)
    }
}
