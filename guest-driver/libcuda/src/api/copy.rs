//! Copies between host and device. Pinned memory is copied by address; pageable memory goes through staging.
use super::cuda_pairs;
use super::graph_copy;
use crate::abi::{CUdeviceptr, CUstream, Host};
use crate::fence::refuse_capture;
use crate::objects::{Point, Stream};
use crate::session::{Call, NullStream};
use crate::staging::{CHUNK_LEN, DEPTH, Lease};
use crate::text::Waited;
use std::collections::VecDeque;
use std::sync::Arc;
use vgpu_protocol::calls::{Wire, cuMemcpyDtoDAsync, cuMemcpyDtoHAsync, cuMemcpyHtoDAsync};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::MemcpySide;

/// A side of a copy of so many bytes, for a graph.
fn linear(memory: u64, address: u64, len: usize) -> MemcpySide {
    MemcpySide::at(memory, address, len as u64, 1)
}

/// Copies of ordinary memory to the device of up to this many bytes are not waited for.
pub(super) const WITH_THE_COMMAND: usize = 64 << 10;

/// One side of a copy between unlike memories: what kind of host memory it is.
pub(super) enum HostKind {
    Pinned,
    Pageable,
    /// Pageable, for a capture: a graph touches it when it runs, where the staging holds it only now.
    Captured,
}

/// A copy's stream and whether the call returns only when it is done.
pub(super) struct Job {
    pub(super) call: Call,
    pub(super) stream: Arc<Stream>,
    pub(super) sync: bool,
    /// The stream is not the current context's: the host says whether it may be used.
    pub(super) foreign: bool,
}

impl Job {
    pub(super) fn host_kind(&self, host: Host, len: usize) -> Result<HostKind, Code> {
        let session = self.call.session;
        // Nothing of this process lies where the device's memory does.
        if host.is_null() || session.is_device(host.addr()) {
            return Err(result::INVALID_VALUE);
        }
        if session.find_pinned(host.addr(), len as u64).is_some() {
            Ok(HostKind::Pinned)
        } else if session.is_in_arena(host.addr()) {
            // Past the end of pinned memory, or in none.
            Err(result::INVALID_VALUE)
        } else {
            if self.stream.capture() != 0 {
                return Ok(HostKind::Captured);
            }
            refuse_capture(&self.stream)?;
            Ok(HostKind::Pageable)
        }
    }

    /// Ends a copy of pinned memory: waits for it if the call promises that.
    pub(super) fn finish(&self) -> Result<(), Code> {
        if self.sync {
            self.call.finish_stream(&self.stream)
        } else {
            Ok(())
        }
    }

    /// Waits for what was submitted before, to copy here.
    pub(super) fn wait_before(&self) -> Result<(), Code> {
        self.call.may_wait_for(&self.stream)?;
        self.call.finish_stream(&self.stream)
    }

    /// Ends a copy that is not waited for unless the host may look at once at what it wrote.
    fn finish_at(&self, to: u64) -> Result<(), Code> {
        if self.call.session.is_reached_host(to) {
            self.finish()
        } else {
            Ok(())
        }
    }

    fn submit<C: Wire>(&self, arguments: C::In) -> Result<(), Code> {
        if self.foreign {
            self.call
                .submit_answered::<C>(self.stream.context, arguments, &[])?;
        } else {
            self.call.submit::<C>(self.stream.context, arguments)?;
        }
        self.stream.did_submit();
        Ok(())
    }

    fn submit_to_device(&self, to: u64, from: u64, bytes: u64) -> Result<(), Code> {
        let stream = self.stream.word;
        self.submit::<cuMemcpyHtoDAsync::Call>(cuMemcpyHtoDAsync::In {
            to,
            from,
            bytes,
            stream,
        })
    }

    fn submit_to_host(&self, to: u64, from: u64, bytes: u64) -> Result<(), Code> {
        let stream = self.stream.word;
        self.submit::<cuMemcpyDtoHAsync::Call>(cuMemcpyDtoHAsync::In {
            to,
            from,
            bytes,
            stream,
        })
    }

    /// Has a capture take a copy from or to pageable memory.
    fn capture(&self, [from, to]: [u64; 2], len: usize, to_host: bool) -> Result<(), Code> {
        let (from_kind, to_kind) = match to_host {
            false => (MemcpySide::HOST, MemcpySide::DEVICE),
            true => (MemcpySide::DEVICE, MemcpySide::HOST),
        };
        let (from, to) = (linear(from_kind, from, len), linear(to_kind, to, len));
        let size = [len as u64, 1, 1];
        graph_copy::capture(&self.call, &self.stream, [from, to], [!to_host, to_host], size)
    }

    fn to_device(&self, to: CUdeviceptr, from: Host, len: usize) -> Result<(), Code> {
        if len == 0 {
            return Ok(());
        }
        self.call.session.check_device(to, len as u64)?;
        match self.host_kind(from, len)? {
            HostKind::Pinned => {
                self.submit_to_device(to, from.addr(), len as u64)?;
                self.finish()
            }
            HostKind::Captured => self.capture([from.addr(), to], len, false),
            HostKind::Pageable => {
                // The source may be reused as soon as it is staged. A call that is synchronous waits for what is more than natively
                // goes with the command itself: programs go on in streams that do not wait for this one.
                for offset in (0..len).step_by(CHUNK_LEN) {
                    let part = CHUNK_LEN.min(len - offset);
                    let lease = self.call.session.stage(self.call.thread, part)?;
                    // SAFETY: the lease is `part` bytes of mapped memory that only this call writes; it is in the
                    // arena, where the source is not.
                    unsafe { from.copy_out(offset, lease.addr as *mut u8, part) };
                    self.submit_to_device(to + offset as u64, lease.addr, part as u64)?;
                    lease.guard(&self.stream);
                }
                if len > WITH_THE_COMMAND {
                    self.finish()
                } else {
                    self.finish_at(to)
                }
            }
        }
    }

    fn to_host(&self, to: Host, from: CUdeviceptr, len: usize) -> Result<(), Code> {
        if len == 0 {
            return Ok(());
        }
        self.call.session.check_device(from, len as u64)?;
        match self.host_kind(to, len)? {
            HostKind::Pinned => {
                self.submit_to_host(to.addr(), from, len as u64)?;
                self.finish()
            }
            HostKind::Captured => self.capture([from, to.addr()], len, true),
            // The call cannot return before the data is there, asynchronous or not: nothing else would unstage it.
            HostKind::Pageable => {
                let mut under_way = VecDeque::with_capacity(DEPTH);
                for offset in (0..len).step_by(CHUNK_LEN) {
                    let part = CHUNK_LEN.min(len - offset);
                    if under_way.len() == DEPTH {
                        self.unstage(to, under_way.pop_front())?;
                    }
                    let lease = loop {
                        let (session, thread) = (self.call.session, self.call.thread);
                        if under_way.is_empty() {
                            break session.stage(thread, part)?;
                        }
                        match session.try_stage(thread, part)? {
                            Some(lease) => break lease,
                            None => self.unstage(to, under_way.pop_front())?,
                        }
                    };
                    self.submit_to_host(lease.addr, from + offset as u64, part as u64)?;
                    let mut staged = Staged {
                        lease,
                        stream: &self.stream,
                        offset,
                        len: part,
                        point: None,
                    };
                    staged.point = Some(self.call.session.fence(self.call.thread, &self.stream)?);
                    under_way.push_back(staged);
                }
                while !under_way.is_empty() {
                    self.unstage(to, under_way.pop_front())?;
                }
                self.call.print(self.stream.context, Waited::Stream(&self.stream));
                self.call.take_errors(self.stream.context)
            }
        }
    }

    /// Waits for a staged part and copies it to where it belongs.
    fn unstage(&self, to: Host, staged: Option<Staged<'_>>) -> Result<(), Code> {
        let Some(mut staged) = staged else {
            return Ok(());
        };
        let session = self.call.session;
        if let Some(point) = staged.point {
            session.wait_for(self.call.thread, self.stream.context, point)?;
            // What the host refused to copy must not be taken for what the device had.
            self.call.take_errors(self.stream.context)?;
        }
        // SAFETY: the lease is `len` bytes of mapped memory that the device has finished writing; it is in the arena,
        // where the destination is not.
        unsafe { to.copy_in(staged.offset, staged.lease.addr as *const u8, staged.len) };
        staged.len = 0;
        Ok(())
    }

    pub(super) fn on_device(&self, to: CUdeviceptr, from: CUdeviceptr, len: usize) -> Result<(), Code> {
        if len == 0 {
            return Ok(());
        }
        self.call.session.check_device(to, len as u64)?;
        self.call.session.check_device(from, len as u64)?;
        self.submit::<cuMemcpyDtoDAsync::Call>(cuMemcpyDtoDAsync::In {
            to,
            from,
            bytes: len as u64,
            stream: self.stream.word,
        })?;
        self.finish_at(to)
    }

    /// A copy whose direction follows from the addresses.
    pub(super) fn any(&self, to: u64, from: u64, len: usize) -> Result<(), Code> {
        if len == 0 {
            return Ok(());
        }
        let session = self.call.session;
        if [to, from]
            .iter()
            .any(|addr| addr.checked_add(len as u64).is_none())
        {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: the caller of cuMemcpy promised that an address which is not the device's is host memory of this size.
        let host = |addr: u64| unsafe { Host::new(addr as usize) };
        let captured = self.stream.capture() != 0;
        if captured {
            let is_pageable = |addr: u64| match session.is_device(addr) {
                true => Ok(false),
                false => self
                    .host_kind(host(addr), len)
                    .map(|kind| matches!(kind, HostKind::Captured)),
            };
            let pageable = [is_pageable(from)?, is_pageable(to)?];
            if pageable != [false, false] {
                let sides = [from, to].map(|addr| linear(MemcpySide::UNIFIED, addr, len));
                return graph_copy::capture(&self.call, &self.stream, sides, pageable, [len as u64, 1, 1]);
            }
        }
        match (session.is_device(to), session.is_device(from)) {
            (true, true) => self.on_device(to, from, len),
            (true, false) => self.to_device(to, host(from), len),
            (false, true) => self.to_host(host(to), from, len),
            (false, false) => {
                let pinned = [to, from].map(|addr| session.find_pinned(addr, len as u64));
                if let [Some((_, into)), Some((_, out_of))] = pinned
                    && (captured || into.managed || out_of.managed)
                {
                    return self.on_device(to, from, len);
                }
                let (to, from) = (host(to), host(from));
                if to.is_null() || from.is_null() {
                    return Err(result::INVALID_VALUE);
                }
                // Behind the stream's work, as every copy, and as every copy between memories of the host done when the call is.
                self.wait_before()?;
                to.copy_from(from, len);
                Ok(())
            }
        }
    }
}

/// Runs a copy on a stream; a call without one runs on the null stream and is synchronous.
pub(super) fn copy(
    stream: Option<CUstream>,
    null: NullStream,
    run: impl FnOnce(&Job) -> Result<(), Code>,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    let sync = stream.is_none();
    let stream = call.stream(stream.unwrap_or(0), null)?;
    if sync {
        call.may_wait_for(&stream)?;
    }
    let foreign = stream.context != context.id;
    run(&Job {
        call,
        stream,
        sync,
        foreign,
    })
}

/// A part of a copy to the host that is under way.
struct Staged<'a> {
    lease: Lease<'a>,
    stream: &'a Arc<Stream>,
    offset: usize,
    /// Bytes; 0 once they are where they belong.
    len: usize,
    point: Option<Point>,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.len > 0 {
            // Given up, but the device may still write it.
            self.lease.guard(self.stream);
        }
    }
}

cuda_pairs! {
    fn cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds(to: CUdeviceptr, from: Host, bytes: usize) |null| {
        copy(None, null, |job| job.to_device(to, from, bytes))
    }

    fn cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz(to: CUdeviceptr, from: Host, bytes: usize, stream: CUstream) |null| {
        copy(Some(stream), null, |job| job.to_device(to, from, bytes))
    }

    fn cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds(to: Host, from: CUdeviceptr, bytes: usize) |null| {
        copy(None, null, |job| job.to_host(to, from, bytes))
    }

    fn cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz(to: Host, from: CUdeviceptr, bytes: usize, stream: CUstream) |null| {
        copy(Some(stream), null, |job| job.to_host(to, from, bytes))
    }

    fn cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) |null| {
        copy(None, null, |job| job.on_device(to, from, bytes))
    }

    fn cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz(
        to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream,
    ) |null| {
        copy(Some(stream), null, |job| job.on_device(to, from, bytes))
    }

    fn cuMemcpy / cuMemcpy_ptds(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) |null| {
        copy(None, null, |job| job.any(to, from, bytes))
    }

    fn cuMemcpyAsync / cuMemcpyAsync_ptsz(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) |null| {
        copy(Some(stream), null, |job| job.any(to, from, bytes))
    }
}
