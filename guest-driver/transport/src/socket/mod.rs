//! The device of a process on the host itself, without a VM: the process is its own vhost-user front end to a
//! `vgpu-backend`, over memory of its own, and the backend cannot tell it from a VM.
//!
//! The environment variable `VGPU_SOCKET` names the backend's socket; `VGPU_SOCKET_MEMORY` says how much memory the
//! process shares with it at most (see [`memory::len_from`]). Only pages in use take memory. Memory of its own that it
//! registers is part of that while it is registered (see [`own`]).

pub mod link;
pub mod memory;
mod own;
pub mod queue;

use link::Link;

use crate::{ClosedInChildren, Transport, TransportError};
use memory::Extent;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use vgpu_protocol::gpus::{GpuName, Reply};
use vgpu_protocol::limits::{PAGE_LEN, RUNS_PER_MESSAGE_MAX, WINDOW_CANDIDATES_MAX};
use vgpu_protocol::virtio::{
    ControlKind, MAP_PROGRAM, MAP_REGISTER, Map, RingCreate, RingDestroy, Run, SessionOpen, SessionOpened,
    Status, Unmap,
};
use zerocopy::{FromBytes, IntoBytes};

/// A session over a socket.
pub struct Socket {
    session: OnceLock<(u32, ClosedInChildren)>,
    link: Link,
    buffers: Mutex<BTreeMap<u64, Vec<Extent>>>,
}

impl Socket {
    /// Connects to the backend at `path`, sharing as much memory as the environment says.
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        let len = std::env::var("VGPU_SOCKET_MEMORY").ok();
        Self::connect_with(path, memory::len_from(len.as_deref())?)
    }

    /// Connects to the backend at `path`, sharing `memory_len` bytes at most.
    pub fn connect_with(path: &Path, memory_len: u64) -> Result<Self, TransportError> {
        Ok(Self {
            link: Link::connect(path, memory_len)?,
            session: OnceLock::new(),
            buffers: Mutex::new(BTreeMap::new()),
        })
    }

    fn session(&self) -> Result<u32, TransportError> {
        let session = self.session.get().ok_or(TransportError::Gone)?;
        Ok(session.0)
    }

    fn request(&self, kind: ControlKind, body: &[u8]) -> Result<(), TransportError> {
        self.link.request(kind, self.session()?, body, 0).map(drop)
    }

    fn buffers(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Extent>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the host map the extents, one after the other, at `addr`. It keeps nothing of a mapping that fails.
    fn map(&self, addr: u64, len: u64, flags: u32, extents: &[Extent]) -> Result<(), TransportError> {
        let mut offset = 0;
        for part in extents.chunks(RUNS_PER_MESSAGE_MAX) {
            let map = Map {
                addr,
                len,
                offset,
                flags,
                runs_len: part.len() as u32,
            };
            let mut body = map.as_bytes().to_vec();
            let mut covered = offset;
            for extent in part {
                let run = Run {
                    gpa: link::gpa(extent.offset),
                    len: extent.len,
                };
                body.extend_from_slice(run.as_bytes());
                covered += extent.len;
            }
            if let Err(error) = self.request(ControlKind::Map, &body) {
                // A message that is refused takes nothing; what earlier ones covered is undone.
                if offset > 0 {
                    self.request(ControlKind::Unmap, Unmap { addr }.as_bytes())?;
                }
                return Err(error);
            }
            offset = covered;
        }
        Ok(())
    }
}

impl Transport for Socket {
    fn gpus(&self) -> Result<Reply, TransportError> {
        self.link.gpus()
    }

    fn open(&self, windows: &[u64], gpus: &[GpuName]) -> Result<u64, TransportError> {
        if self.session.get().is_some() || windows.is_empty() {
            return Err(TransportError::Refused(Status::Invalid));
        }
        let mut open = SessionOpen {
            pid: std::process::id(),
            windows_len: 0,
            windows: [0; WINDOW_CANDIDATES_MAX],
            name: [0; 32],
        };
        for (place, window) in open.windows.iter_mut().zip(windows) {
            *place = *window;
            open.windows_len += 1;
        }
        // A process without a name is shown without one.
        let name = std::fs::read("/proc/self/comm").unwrap_or_default();
        for (place, byte) in open.name.iter_mut().zip(name.trim_ascii_end()) {
            *place = *byte;
        }
        let body = self.link.request(
            ControlKind::SessionOpen,
            0,
            &[open.as_bytes(), gpus.as_bytes()].concat(),
            size_of::<SessionOpened>(),
        )?;
        let opened = SessionOpened::read_from_bytes(&body)
            .map_err(|_| TransportError::NoDevice("the backend's answer is too short".into()))?;
        // Open is called once; a second one that raced would only have been refused later.
        let closed = || ClosedInChildren::new(self.link.descriptor());
        self.session.get_or_init(|| (opened.session, closed()));
        Ok(opened.window)
    }

    fn alloc(&self, addr: u64, len: u64, register: bool) -> Result<(), TransportError> {
        let valid = addr.is_multiple_of(PAGE_LEN) && len.is_multiple_of(PAGE_LEN) && len > 0;
        if !valid || self.buffers().contains_key(&addr) {
            return Err(TransportError::Refused(Status::Invalid));
        }
        self.session()?;
        let memory = self.link.memory();
        let extents = memory.allocate(len).ok_or(TransportError::NoMemory)?;
        let flags = if register { MAP_REGISTER } else { 0 };
        let mapped = memory
            .map(addr, &extents)
            .map_err(TransportError::Os)
            .and_then(|()| self.map(addr, len, flags, &extents));
        if let Err(error) = mapped {
            memory.unmap(addr, len)?;
            // Where the host did not even answer, the pages stay out of use.
            if let TransportError::Refused(_) | TransportError::Os(_) = error {
                memory.release(extents)?;
            }
            return Err(match error {
                TransportError::Refused(Status::Limit) => TransportError::NoMemory,
                error => error,
            });
        }
        self.buffers().insert(addr, extents);
        Ok(())
    }

    fn free(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        // Taken out first, so that a second call for the same buffer finds none.
        let extents = self.buffers().remove(&addr);
        let extents = extents.ok_or(TransportError::Refused(Status::NotFound))?;
        if extents.iter().map(|extent| extent.len).sum::<u64>() != len {
            self.buffers().insert(addr, extents);
            return Err(TransportError::Refused(Status::Invalid));
        }
        let body = Unmap { addr };
        if let Err(error) = self.request(ControlKind::Unmap, body.as_bytes()) {
            // The host may still use the pages: they stay out of use.
            self.buffers().insert(addr, extents);
            return Err(error);
        }
        let memory = self.link.memory();
        memory.unmap(addr, len)?;
        memory.release(extents)?;
        Ok(())
    }

    fn pin(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        self.session()?;
        own::check_allocated(addr, len)?;
        let memory = self.link.memory();
        let extents = memory.allocate(len).ok_or(TransportError::NoMemory)?;
        if let Err(error) = self.map(addr, len, MAP_PROGRAM, &extents) {
            if let TransportError::Refused(_) = error {
                memory.release(extents)?;
            }
            return Err(error);
        }
        let replaced = own::replace(memory, &extents, addr, len);
        self.buffers().insert(addr, extents);
        replaced.map_err(|error| {
            // What can be undone is; what cannot stays the host's until the process ends.
            let _ = self.unpin(addr, len);
            TransportError::Os(error)
        })
    }

    fn unpin(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        let extents = self.buffers().remove(&addr);
        let extents = extents.ok_or(TransportError::Refused(Status::NotFound))?;
        let undone = self
            .request(ControlKind::Unmap, Unmap { addr }.as_bytes())
            .and_then(|()| own::restore(addr, len).map_err(TransportError::Os));
        if let Err(error) = undone {
            // The host, or this process, still uses the pages: they stay out of use.
            self.buffers().insert(addr, extents);
            return Err(error);
        }
        self.link.memory().release(extents)?;
        Ok(())
    }

    fn ring_create(&self, ring: u32, addr: u64) -> Result<(), TransportError> {
        let body = RingCreate {
            ring,
            reserved: 0,
            addr,
        };
        self.request(ControlKind::RingCreate, body.as_bytes())
    }

    fn ring_destroy(&self, ring: u32) -> Result<(), TransportError> {
        let body = RingDestroy { ring, reserved: 0 };
        self.request(ControlKind::RingDestroy, body.as_bytes())
    }

    fn doorbell(&self, ring: u32) -> Result<(), TransportError> {
        self.link.doorbell(self.session()?, ring)
    }

    fn wait(&self, seen: u64, deadline_ns: u64) -> Result<u64, TransportError> {
        self.link.wait(seen, deadline_ns)
    }
}
