//! The backend's messages: one at a time, in order, each answered.
use crate::confine;
use crate::cuda::Cuda;
use crate::jail;
use crate::journal::LABEL;
use crate::memory::{Memory, Region};
use crate::ring::{Consumer, RingState};
use crate::session::{self, Exit, Session, spawn};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use vgpu_protocol::host::{ExecHeader, ExecKind, ExecMap, ExecReply, ExecRun, REQUEST_LEN_MAX, Start};
use vgpu_protocol::limits::RINGS_MAX;
use vgpu_protocol::ring::RING_LEN;
use vgpu_protocol::virtio::{MAP_REGISTER, RingCreate, RingDestroy, Status, Unmap};
use vgpu_sched_api::packet::{self, PacketError};
use zerocopy::{FromBytes, IntoBytes};

/// The control thread's state.
pub struct Control {
    socket: Arc<OwnedFd>,
    session: Option<&'static Session>,
    rings: HashMap<u32, (Arc<RingState>, JoinHandle<()>)>,
    /// What of the jail is in force; `None` if there is to be none.
    jailed: Option<String>,
}

impl Control {
    /// Takes messages from the backend. `jailed` says what of the jail is in force; with `None` the rest is left out as well.
    pub fn new(socket: OwnedFd, jailed: Option<String>) -> Self {
        Self {
            socket: Arc::new(socket),
            session: None,
            rings: HashMap::new(),
            jailed,
        }
    }

    /// Serves the backend until it closes the socket. That is noticed even while a message is being carried out.
    pub fn run(mut self) -> Exit {
        let socket = self.socket.clone();
        spawn("hangup", move || {
            use rustix::event::{PollFd, PollFlags, poll};
            let mut fds = [PollFd::new(&*socket, PollFlags::RDHUP)];
            while !matches!(poll(&mut fds, None), Ok(n) if n > 0) {}
            session::exit(Exit::Closed)
        });
        loop {
            match packet::receive_bytes(&*self.socket, REQUEST_LEN_MAX) {
                Ok((bytes, fds)) => {
                    let Ok((header, body)) = ExecHeader::read_from_prefix(&bytes) else {
                        log::error!("a message of {} bytes from the backend", bytes.len());
                        return Exit::Start;
                    };
                    let outcome = self.carry_out(header.kind, body, fds);
                    let (status, value) = match outcome {
                        Ok(value) => (Status::Ok, value),
                        Err(status) => (status, 0),
                    };
                    let reply = ExecReply {
                        sequence: header.sequence,
                        status: status as u32,
                        value,
                    };
                    if let Err(error) = packet::send_bytes(&*self.socket, reply.as_bytes(), &[]) {
                        log::info!("the backend is gone: {error}");
                        return Exit::Closed;
                    }
                }
                Err(PacketError::Closed) => return Exit::Closed,
                Err(error) => {
                    log::error!("receiving from the backend: {error}");
                    return Exit::Start;
                }
            }
        }
    }

    fn carry_out(&mut self, kind: u32, body: &[u8], fds: Vec<OwnedFd>) -> Result<u64, Status> {
        let kind = ExecKind::from_u32(kind).ok_or(Status::Invalid)?;
        let done = |result: Result<(), Status>| result.map(|()| 0);
        match (kind, self.session) {
            (ExecKind::Start, None) => self.start(body, fds),
            (ExecKind::Memory, Some(session)) => done(memory(session, body, fds)),
            (ExecKind::Map, Some(session)) => done(map(session, body)),
            (ExecKind::Unmap, Some(session)) => {
                let Unmap { addr } = whole(body)?;
                done(session.unmap(addr))
            }
            (ExecKind::RingCreate, Some(session)) => done(self.ring_create(session, body, fds)),
            (ExecKind::RingDestroy, Some(session)) => done(self.ring_destroy(session, body)),
            (ExecKind::Scheduler, Some(session)) => done(scheduler(session, body, fds)),
            (ExecKind::Start, Some(_)) | (_, None) => Err(Status::Invalid),
        }
    }

    fn start(&mut self, body: &[u8], fds: Vec<OwnedFd>) -> Result<u64, Status> {
        let start: Start = whole(body)?;
        let [event, shares]: [OwnedFd; 2] = fds.try_into().map_err(|_| Status::Invalid)?;
        let candidates = start
            .windows
            .get(..start.windows_len as usize)
            .ok_or(Status::Invalid)?;
        if candidates.is_empty() || start.reserved != 0 {
            return Err(Status::Invalid);
        }
        // Set once: a second Start is refused.
        let _ = LABEL.set((start.vm, start.session));
        let window = confine::confine(candidates).map_err(|error| {
            log::error!("confining this process: {error}");
            Status::HostError
        })?;
        let (window, reserved) = window.ok_or(Status::NoWindow)?;
        let cuda = Cuda::load().map_err(|error| {
            log::error!("libcuda: {error}");
            if self.jailed.is_some() {
                log::info!("whether the jail is why, vgpu-backend --no-jail tells");
            }
            match error {
                crate::cuda::LoadError::NoGpu => Status::NoGpu,
                _ => Status::HostError,
            }
        })?;
        let jail = self.close_jail()?;
        log::info!(
            "started with {} GPU(s), window at {window:#x}; jail: {jail}",
            cuda.gpus().len()
        );
        let session = Session::start(cuda, Memory::new(window, reserved), event);
        session.shares.connect(shares).map_err(|error| {
            log::error!("the socket to the backend's table of what is shared: {error}");
            Status::HostError
        })?;
        // What this thread does is never the guest's call, whatever is captured when.
        session.relax_this_thread();
        self.session = Some(session);
        Ok(window)
    }

    /// Closes the rest of the jail: nothing of the guest's was read yet. What is in force.
    fn close_jail(&self) -> Result<String, Status> {
        let Some(files) = &self.jailed else {
            log::warn!("there is no jail (--no-jail): for debugging only");
            return Ok("none".into());
        };
        match jail::close_calls() {
            Ok(calls) => Ok(format!("{files}; {calls}")),
            Err(error) => {
                log::error!("jail: {error}");
                Err(Status::HostError)
            }
        }
    }

    fn ring_create(
        &mut self,
        session: &'static Session,
        body: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Status> {
        let RingCreate { ring, reserved, addr } = whole(body)?;
        let [doorbell]: [OwnedFd; 1] = fds.try_into().map_err(|_| Status::Invalid)?;
        if ring >= RINGS_MAX
            || reserved != 0
            || self.rings.contains_key(&ring)
            || session.area.words().is_none()
        {
            return Err(Status::Invalid);
        }
        let memory = session.memory.hold_ring(addr, RING_LEN)?;
        let state = Arc::new(RingState::new(addr, doorbell));
        session.set_ring(ring, Some(state.clone()));
        let consumer = Consumer::new(session, ring, state.clone(), memory);
        let thread = spawn(&format!("ring-{ring}"), move || consumer.run());
        self.rings.insert(ring, (state, thread));
        Ok(())
    }

    fn ring_destroy(&mut self, session: &'static Session, body: &[u8]) -> Result<(), Status> {
        let RingDestroy { ring, reserved } = whole(body)?;
        if reserved != 0 {
            return Err(Status::Invalid);
        }
        let (state, thread) = self.rings.remove(&ring).ok_or(Status::NotFound)?;
        state.stop();
        // A panic in it has ended the process.
        let _ = thread.join();
        session.set_ring(ring, None);
        session.memory.drop_ring(state.addr());
        Ok(())
    }
}

/// A body that is exactly one structure.
fn whole<T: FromBytes>(body: &[u8]) -> Result<T, Status> {
    T::read_from_bytes(body).map_err(|_| Status::Invalid)
}

fn memory(session: &Session, body: &[u8], fds: Vec<OwnedFd>) -> Result<(), Status> {
    let lens = body.chunks_exact(8);
    if !lens.remainder().is_empty() || lens.len() != fds.len() || fds.is_empty() {
        return Err(Status::Invalid);
    }
    let lens = lens.map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("chunks of 8 bytes")));
    let regions = fds
        .into_iter()
        .zip(lens)
        .map(|(file, len)| Region::new(file, len));
    session.memory.set_regions(regions.collect::<Result<_, _>>()?)
}

fn map(session: &Session, body: &[u8]) -> Result<(), Status> {
    let (map, rest) = ExecMap::read_from_prefix(body).map_err(|_| Status::Invalid)?;
    if rest.len() % size_of::<ExecRun>() != 0 {
        return Err(Status::Invalid);
    }
    let runs: Vec<ExecRun> = rest
        .chunks_exact(size_of::<ExecRun>())
        .map(|run| ExecRun::read_from_bytes(run).expect("chunks of a run's size"))
        .collect();
    if session.memory.map(&map, &runs)? {
        session.publish(map.addr, map.len, map.flags & MAP_REGISTER != 0)?;
    }
    Ok(())
}

fn scheduler(session: &'static Session, body: &[u8], fds: Vec<OwnedFd>) -> Result<(), Status> {
    let [socket, page]: [OwnedFd; 2] = fds.try_into().map_err(|_| Status::Invalid)?;
    if !body.is_empty() {
        return Err(Status::Invalid);
    }
    session.connect(socket, page).map_err(|error| {
        log::error!("the scheduler's page or socket: {error}");
        Status::HostError
    })
}
