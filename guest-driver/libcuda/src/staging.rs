//! Pinned chunks through which copies from and to pageable memory go.
//!
//! A chunk that was copied from is free again when its streams have done what was submitted to them; a fence is asked for only
//! when chunks run out. Small copies share a chunk.
use crate::lock;
use crate::objects::{Point, Stream};
use crate::session::Session;
use crate::thread::Thread;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use vgpu_protocol::result::Code;

/// Bytes of a chunk.
pub const CHUNK_LEN: usize = 1 << 20;
const CHUNKS: usize = 16;
/// Chunks that one copy to the host has under way.
pub const DEPTH: usize = 4;
/// Copies of up to this many bytes share a chunk.
const SMALL_LEN: usize = 64 << 10;

/// Who waits for a chunk looks again after this long: the session may have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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

/// A stream uses the chunk until this much of its work is done.
struct Guard {
    stream: Arc<Stream>,
    work: u64,
    /// A fence behind that work, once there is one.
    point: Option<Point>,
}

impl Guard {
    /// Whether the work is known to be done; asks for nothing.
    fn is_done(&mut self, session: &Session) -> bool {
        if self.point.is_none() {
            self.point = self.stream.covering(self.work);
        }
        self.stream.is_dead() || self.point.is_some_and(|point| session.is_reached(point))
    }
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
            Some(guard) if guard.work >= work => {}
            Some(guard) => (guard.work, guard.point) = (work, None),
            None => guards.push(Guard {
                stream: stream.clone(),
                work,
                point: None,
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
    /// Whether nobody uses it, as far as is known.
    fn is_free(&mut self, session: &Session) -> bool {
        self.users == 0 && self.guards.iter_mut().all(|guard| guard.is_done(session))
    }
}

impl Session {
    /// Memory for `len` bytes, at most [`CHUNK_LEN`]; waits until there is some.
    pub fn stage(&self, thread: &Thread, len: usize) -> Result<Lease<'_>, Code> {
        loop {
            if let Some(lease) = self.try_stage(thread, len)? {
                return Ok(lease);
            }
            let state = lock(&self.staging.state);
            if state.chunks.iter().all(|chunk| chunk.users > 0) {
                drop(self.staging.freed.wait_timeout(state, LOOK_AGAIN));
            }
        }
    }

    /// The same without waiting for other threads to give chunks back. Who holds one must not wait for another: all
    /// could wait so.
    pub fn try_stage(&self, thread: &Thread, len: usize) -> Result<Option<Lease<'_>>, Code> {
        debug_assert!(len <= CHUNK_LEN);
        let staging = &self.staging;
        let mut state = lock(&staging.state);
        if state.chunks.is_empty() {
            state.base = self.alloc((CHUNKS * CHUNK_LEN) as u64, true)?;
            state.chunks.resize_with(CHUNKS, Chunk::default);
        }
        self.area.status()?;
        if len <= SMALL_LEN
            && let Some(lease) = self.share(&mut state, len)
        {
            return Ok(Some(lease));
        }
        let open = state.open;
        let mut best: Option<(bool, u64, usize)> = None;
        for (i, chunk) in state.chunks.iter_mut().enumerate() {
            if chunk.users == 0 && open != Some(i) {
                let candidate = (!chunk.is_free(self), chunk.age, i);
                best = Some(best.map_or(candidate, |best| best.min(candidate)));
            }
        }
        let Some((busy, _, chunk)) = best else {
            // The open one may be all that is left.
            state.open = None;
            return Ok(None);
        };
        state.takes += 1;
        let (age, addr) = (state.takes, state.base + (chunk * CHUNK_LEN) as u64);
        let taken = &mut state.chunks[chunk];
        (taken.age, taken.users, taken.used) = (age, 1, len);
        let guards = std::mem::take(&mut taken.guards);
        if len <= SMALL_LEN && !busy {
            state.open = Some(chunk);
        }
        drop(state);
        let lease = Lease {
            session: self,
            chunk,
            addr,
        };
        if busy && let Err(code) = self.drain(thread, &guards) {
            // Perhaps still in use: it stays guarded.
            lock(&staging.state).chunks[chunk].guards = guards;
            return Err(code);
        }
        Ok(Some(lease))
    }

    /// Waits until nothing guards a chunk any more.
    fn drain(&self, thread: &Thread, guards: &[Guard]) -> Result<(), Code> {
        for Guard { stream, point, .. } in guards {
            let point = match point {
                Some(point) => *point,
                None => self.fence(thread, stream)?,
            };
            if !stream.is_dead() {
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
        if chunk.is_free(self) {
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
