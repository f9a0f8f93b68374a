//! Pinned chunks through which copies from and to pageable memory go.
//!
//! A chunk that was copied from is free again when its streams have done what was submitted to them; a fence is asked for only
//! when chunks run out. Small copies share a chunk.
use crate::lock;
use crate::objects::Stream;
use crate::session::Session;
use crate::thread::Thread;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use vgpu_protocol::result::Code;

/// Bytes of a chunk.
pub const CHUNK_LEN: usize = 1 << 20;
const CHUNKS: usize = 16;
/// Chunks that one copy to the host has under way.
pub const DEPTH: usize = 4;
/// Copies of up to this many bytes share a chunk.
const SMALL_LEN: usize = 64 << 10;

/// The chunks; allocated with the first copy that needs them.
#[derive(Default)]
pub struct Staging {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    base: u64,
    chunks: Vec<Chunk>,
    /// The chunk that small copies share.
    open: Option<usize>,
    takes: u64,
}

#[derive(Default)]
struct Chunk {
    /// Bytes given out since it was free.
    used: usize,
    /// Leases on it.
    users: u32,
    /// Work that still reads it.
    guards: Vec<Guard>,
    /// When it was last given out.
    age: u64,
}

/// A stream reads the chunk until this much of its work is done.
struct Guard {
    stream: Arc<Stream>,
    work: u64,
}

/// Part of a chunk, given out.
pub struct Lease<'a> {
    session: &'a Session,
    chunk: usize,
    /// Where it lies, for both sides.
    pub addr: u64,
}

impl Lease<'_> {
    /// Keeps the memory until `stream` has done what was submitted to it so far.
    pub fn guard(&self, stream: &Arc<Stream>) {
        let work = stream.work();
        let mut state = lock(&self.session.staging.state);
        let guards = &mut state.chunks[self.chunk].guards;
        match guards.iter_mut().find(|g| Arc::ptr_eq(&g.stream, stream)) {
            Some(guard) => guard.work = guard.work.max(work),
            None => guards.push(Guard {
                stream: stream.clone(),
                work,
            }),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let staging = &self.session.staging;
        lock(&staging.state).chunks[self.chunk].users -= 1;
        staging.freed.notify_one();
    }
}

impl Chunk {
    fn is_done(&self, session: &Session) -> bool {
        self.users == 0
            && self
                .guards
                .iter()
                .all(|g| g.stream.is_done(&session.area, g.work) == Some(true))
    }
}

impl Session {
    /// Memory for `len` bytes, at most [`CHUNK_LEN`]; waits until there is some.
    pub fn stage(&self, thread: &Thread, len: usize) -> Result<Lease<'_>, Code> {
        debug_assert!(len <= CHUNK_LEN);
        let staging = &self.staging;
        let mut state = lock(&staging.state);
        if state.chunks.is_empty() {
            state.base = self.alloc((CHUNKS * CHUNK_LEN) as u64, true)?;
            state.chunks.resize_with(CHUNKS, Chunk::default);
        }
        loop {
            self.area.status()?;
            if len <= SMALL_LEN
                && let Some(lease) = self.share(&mut state, len)
            {
                return Ok(lease);
            }
            let open = state.open;
            let idle = (0..CHUNKS).filter(|&i| open != Some(i) && state.chunks[i].users == 0);
            let Some(chunk) = idle.min_by_key(|&i| (!state.chunks[i].is_done(self), state.chunks[i].age))
            else {
                let wait = staging.freed.wait_timeout(state, Duration::from_millis(100));
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            state.takes += 1;
            let (age, addr) = (state.takes, state.base + (chunk * CHUNK_LEN) as u64);
            let taken = &mut state.chunks[chunk];
            taken.age = age;
            taken.users = 1;
            taken.used = len;
            let done = taken
                .guards
                .iter()
                .all(|g| g.stream.is_done(&self.area, g.work) == Some(true));
            let guards = std::mem::take(&mut taken.guards);
            if len <= SMALL_LEN && done {
                state.open = Some(chunk);
            }
            drop(state);
            let lease = Lease {
                session: self,
                chunk,
                addr,
            };
            if !done && let Err(code) = self.drain(thread, &guards) {
                // Perhaps still read: it stays guarded.
                lock(&staging.state).chunks[chunk].guards = guards;
                return Err(code);
            }
            return Ok(lease);
        }
    }

    /// Waits until nothing guards a chunk any more.
    fn drain(&self, thread: &Thread, guards: &[Guard]) -> Result<(), Code> {
        for Guard { stream, .. } in guards {
            let point = self.fence(thread, stream)?;
            self.wait_for(thread, stream.context, point)?;
            if !self.is_reached(point) && !stream.is_dead() {
                // What failed may be the fence itself.
                self.area.take_error(stream.context)?;
                self.wait_for(thread, stream.context, point)?;
            }
        }
        Ok(())
    }

    /// A place in the chunk that small copies share.
    fn share<'a>(&'a self, state: &mut State, len: usize) -> Option<Lease<'a>> {
        let index = state.open?;
        let addr = state.base + (index * CHUNK_LEN) as u64;
        let chunk = &mut state.chunks[index];
        if chunk.is_done(self) {
            chunk.guards.clear();
            chunk.used = 0;
        }
        let at = chunk.used.next_multiple_of(256);
        if at + len > CHUNK_LEN {
            state.open = None;
            return None;
        }
        chunk.used = at + len;
        chunk.users += 1;
        Some(Lease {
            session: self,
            chunk: index,
            addr: addr + at as u64,
        })
    }
}
