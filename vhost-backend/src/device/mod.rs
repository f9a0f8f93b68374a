//! The virtio-vgpu device of one front end.
//!
//! What ends its sessions, before the front end is answered:
//!
//! | what happens | what QEMU sends | where it is seen |
//! | --- | --- | --- |
//! | the driver resets the device, the guest reboots, the VM is paused, the device is unplugged | `GET_VRING_BASE` for each ring | [`VhostUserBackend::stop_vring`] |
//! | (other front ends) | `RESET_DEVICE` | [`VhostUserBackend::reset_device`] |
//! | memory is plugged, unplugged or moved | `SET_MEM_TABLE`, `ADD_MEM_REG`, `REM_MEM_REG` | [`VhostUserBackend::update_memory`] |
//! | the front end ends | it disconnects | [`Device::end`] |
//!
//! When the rings start again where they stopped (the VM was only paused), the driver still knows its sessions: they
//! are shown to it as lost. When they start anew they are forgotten.

mod area;
mod control;
mod events;
mod maps;
mod memory;
mod queues;
mod session;
mod spawn;

use crate::fd::Bell;
use crate::host::Host;
use crate::worker;
use control::{Opening, Request, SessionRequest};
use events::Events;
use memory::Memory;
use queues::{Chain, GuestMemory, Reply, Taken, Unanswered, VirtQueue};
use session::{Entered, Handle, Sessions, Surroundings, lock};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::limits::{
    ARENA_LEN, CONTROL_LEN_MAX, MAPPED_LEN_MAX, QUEUE_LEN, RINGS_MAX, RUNS_MAX, RUNS_PER_MESSAGE_MAX,
    SESSIONS_MAX, WINDOW_LEN,
};
use vgpu_protocol::virtio::{
    Config, ControlReply, Doorbell, MAGIC, QUEUE_CONTROL, QUEUE_DOORBELL, QUEUE_EVENT, QUEUES, Status,
    VERSION,
};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringRwLock};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};
use zerocopy::{FromBytes, IntoBytes};

/// How long all sessions together may take to end. They end side by side, so little longer than one executor.
pub const STOP_WAIT: Duration = spawn::REAP_WAIT.saturating_add(Duration::from_secs(3));
/// Sessions that the device has ended and that are remembered for their driver.
const LOST_MAX: usize = 16 * SESSIONS_MAX as usize;
/// How long the queue thread may take to come round.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// Chains taken from one queue before the others get their turn.
const BATCH: usize = 2 * QUEUE_LEN as usize;

/// Tokens of the device's own events on the queue thread; those up to the number of queues are taken.
const TOKEN_FLUSH: u64 = QUEUES as u64 + 1;
/// The first of one per queue: look at it again.
const TOKEN_AGAIN: u64 = TOKEN_FLUSH + 1;

/// The device that one front end sees.
#[derive(Debug)]
pub struct Device {
    host: Arc<Host>,
    guest: GuestMemory,
    memory: Mutex<Arc<Memory>>,
    queues: [Arc<VirtQueue>; QUEUES],
    again: [Bell; QUEUES],
    flush: Flush,
    events: Arc<Events>,
    unanswered: Arc<Unanswered>,
    sessions: Arc<Mutex<Sessions>>,
    /// Events that end the queue thread, which vhost-user-backend never closes. Whoever waits for them has this device.
    exits: Mutex<Vec<OwnedFd>>,
}

/// Waits until the queue thread has handled everything it was told of before.
#[derive(Debug)]
struct Flush {
    bell: Bell,
    passes: Mutex<u64>,
    passed: Condvar,
}

impl Flush {
    /// One pass may come in the middle of the events that the thread has already fetched; the second comes after them.
    fn run(&self) -> bool {
        (0..2).all(|_| {
            let mut passes = lock(&self.passes);
            let before = *passes;
            self.bell.ring();
            let until = Instant::now() + FLUSH_WAIT;
            while *passes == before {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                passes = self
                    .passed
                    .wait_timeout(passes, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            true
        })
    }

    fn pass(&self) {
        self.bell.clear();
        *lock(&self.passes) += 1;
        self.passed.notify_all();
    }
}

impl Device {
    /// A device without a front end yet.
    pub fn new(host: Arc<Host>, guest: GuestMemory) -> io::Result<Self> {
        let queues: [_; QUEUES] = std::array::from_fn(|_| Arc::new(VirtQueue::new(guest.clone())));
        Ok(Self {
            host,
            memory: Mutex::new(Arc::new(Memory::default())),
            again: [Bell::new()?, Bell::new()?, Bell::new()?],
            flush: Flush {
                bell: Bell::new()?,
                passes: Mutex::new(0),
                passed: Condvar::new(),
            },
            events: Arc::new(Events::new(queues[QUEUE_EVENT as usize].clone())),
            unanswered: Unanswered::new(queues[QUEUE_CONTROL as usize].clone()),
            sessions: Arc::default(),
            exits: Mutex::default(),
            guest,
            queues,
        })
    }

    /// Has the queue thread watch the device's own events: `register` takes a descriptor and a token.
    pub fn watch(&self, mut register: impl FnMut(RawFd, u64) -> io::Result<()>) -> io::Result<()> {
        register(self.flush.bell.as_fd().as_raw_fd(), TOKEN_FLUSH)?;
        for (token, bell) in (TOKEN_AGAIN..).zip(&self.again) {
            register(bell.as_fd().as_raw_fd(), token)?;
        }
        Ok(())
    }

    /// The front end is gone: ends all sessions. What it asked for last may still be under way to here.
    pub fn end(&self) {
        lock(&self.sessions).over = true;
        self.stop();
    }

    fn stop(&self) {
        for queue in &self.queues {
            queue.stopped();
        }
        self.end_sessions();
    }

    /// Ends all sessions; returns when no executor uses guest memory any more, or was written off.
    fn end_sessions(&self) {
        // They stay where requests find them: the rings may run. What comes late is answered as for one that is lost.
        let ending = {
            let mut sessions = lock(&self.sessions);
            let mut ending = sessions.running.clone();
            // Who was told before has ended, or was written off.
            ending.retain(|_, handle| !handle.stop());
            sessions.lost.extend(ending.keys().map(|&number| (number, None)));
            while sessions.lost.len() > LOST_MAX {
                sessions.lost.pop_first();
            }
            ending
        };
        let until = Instant::now() + STOP_WAIT;
        for (&number, handle) in &ending {
            if !handle.wait_ended(until) {
                let handle = handle.clone();
                self.host
                    .write_off(number, "it does not end", move |_| handle.has_left());
            }
        }
        // What they still had to say is void.
        self.events.forget(ending.keys());
        let mut sessions = lock(&self.sessions);
        sessions.stopped = true;
        for (number, handle) in &ending {
            // Unless it was closed in the meantime: then its pages are the guest's again.
            if let Some(area) = sessions.lost.get_mut(number) {
                *area = handle.area();
            }
        }
    }

    /// The rings run. If they stopped before: is it the same driver, which is told what it lost, or a new one?
    fn started(&self) {
        let mut sessions = lock(&self.sessions);
        if !sessions.stopped {
            return;
        }
        sessions.stopped = false;
        let anew = self.queues[QUEUE_CONTROL as usize].next_avail() == Some(0);
        if anew {
            sessions.lost.clear();
        }
        self.tell_lost(&sessions);
    }

    fn tell_lost(&self, sessions: &Sessions) {
        for page in sessions.lost.values().flatten() {
            area::mark_lost(&self.guest, *page, vgpu_protocol::result::UNKNOWN);
        }
        self.events.raise(sessions.lost.keys());
    }

    fn control(&self, chain: Chain) {
        let queue = &self.queues[QUEUE_CONTROL as usize];
        if chain.room() < size_of::<ControlReply>() as u64 {
            self.warn(format_args!("a control request without room for an answer"));
            return queue.give_back(&chain, &[]);
        }
        let room = chain.room();
        let bytes = if chain.whole {
            queue.read(&chain, CONTROL_LEN_MAX)
        } else {
            None
        };
        let Some(reply) = self.unanswered.add(chain) else {
            return self.warn(format_args!("more control requests than the queue holds"));
        };
        let request = bytes
            .as_deref()
            .ok_or("its descriptors are malformed or too long")
            .and_then(control::decode);
        let request = match request {
            Ok(request) if room >= control::reply_len(&request) as u64 => request,
            Ok(_) => {
                self.warn(format_args!(
                    "a control request is refused: no room for its answer"
                ));
                return reply.send(Status::Invalid, &[]);
            }
            Err(why) => {
                self.warn(format_args!("a control request is refused: {why}"));
                return reply.send(Status::Invalid, &[]);
            }
        };
        match request {
            Request::Open(opening) => self.open(opening, reply),
            Request::Gpus => {
                let host = self.host.clone();
                self.host.scheduler.gpus(move |told| match told {
                    Ok(body) => reply.send(Status::Ok, &body),
                    Err(status) => reply.refuse(status, host.scheduler.wait_s(status)),
                });
            }
            Request::Session { session, what } => self.pass_on(session, what, reply),
        }
    }

    /// Passes a request on to its session, or answers for one that does not run.
    fn pass_on(&self, session: u32, what: SessionRequest, reply: Reply) {
        let mut sessions = lock(&self.sessions);
        if let Some(handle) = sessions.running.get(&session) {
            // In the lock: what a session was given before it is taken out, it answers.
            return handle.request(what, reply);
        }
        if !sessions.lost.contains_key(&session) {
            self.warn(format_args!("a request to session {session}, which is not open"));
            reply.send(Status::NotFound, &[]);
        } else if what == SessionRequest::Close {
            sessions.close(session, &self.host, reply);
        } else {
            reply.send(Status::Lost, &[]);
        }
    }

    fn open(&self, opening: Opening, reply: Reply) {
        if !self.host.written_off().is_empty() {
            self.warn(format_args!(
                "no session is opened: one was written off and has not ended"
            ));
            return reply.send(Status::HostError, &[]);
        }
        let mut sessions = lock(&self.sessions);
        if sessions.over {
            return;
        }
        if sessions.running.len() >= SESSIONS_MAX as usize {
            drop(sessions);
            self.warn(format_args!("a session is refused: {SESSIONS_MAX} are open"));
            return reply.send(Status::Limit, &[]);
        }
        let Some(number) = self.host.session_number() else {
            return reply.send(Status::Limit, &[]);
        };
        let handle = match Handle::new(number) {
            Ok(handle) => handle,
            Err(error) => {
                log::error!("vm {} session {number}: {error}", self.host.vm);
                return reply.send(Status::HostError, &[]);
            }
        };
        sessions.running.insert(number, handle.clone());
        drop(sessions);
        let around = Surroundings {
            host: self.host.clone(),
            guest: self.guest.clone(),
            memory: lock(&self.memory).clone(),
            events: self.events.clone(),
            sessions: self.sessions.clone(),
        };
        let entered = Entered { handle, around };
        let name = format!("session-{number}");
        if let Err(error) = worker::spawn(name, move || session::run(&entered, &opening, reply)) {
            // What is dropped with the closure has answered, and has taken it out again.
            log::error!("vm {} session {number}: start its thread: {error}", self.host.vm);
        }
    }

    fn doorbell(&self, chain: Chain) {
        let queue = &self.queues[QUEUE_DOORBELL as usize];
        let bytes = if chain.whole {
            queue.read(&chain, size_of::<Doorbell>())
        } else {
            None
        };
        // Given back first: the driver may reuse the buffer while the executor wakes up.
        queue.give_back(&chain, &[]);
        let Some(doorbell) = bytes.and_then(|bytes| Doorbell::read_from_bytes(&bytes).ok()) else {
            return self.warn(format_args!("a doorbell is malformed"));
        };
        // One that nobody hears is no fault: the session may just have been lost.
        let handle = lock(&self.sessions).running.get(&doorbell.session).cloned();
        if let Some(handle) = handle {
            handle.doorbell(doorbell.ring);
        }
    }

    /// Handles what is in a queue of requests, but not endlessly: then the queue's turn comes again.
    fn drain(&self, index: u16, handle: impl Fn(Chain)) {
        let queue = &self.queues[usize::from(index)];
        queue.want_kicks(false);
        for _ in 0..BATCH {
            match queue.take() {
                Taken::Chain(chain) => handle(chain),
                Taken::Empty => {
                    if !queue.want_kicks(true) {
                        return;
                    }
                }
                Taken::Broken => {
                    queue.want_kicks(true);
                    return self.warn(format_args!(
                        "queue {index} is broken: its positions make no sense"
                    ));
                }
            }
        }
        self.again[usize::from(index)].ring();
    }

    fn look(&self, index: u16) {
        match index {
            QUEUE_CONTROL => self.drain(QUEUE_CONTROL, |chain| self.control(chain)),
            QUEUE_DOORBELL => self.drain(QUEUE_DOORBELL, |chain| self.doorbell(chain)),
            QUEUE_EVENT => self.events.deliver(),
            _ => {}
        }
    }

    fn warn(&self, message: std::fmt::Arguments<'_>) {
        self.host
            .quiet
            .warn(format_args!("vm {}: {message}", self.host.vm));
    }

    fn config() -> Config {
        Config {
            magic: MAGIC,
            version: VERSION,
            sessions_max: SESSIONS_MAX,
            rings_max: RINGS_MAX,
            runs_max: RUNS_MAX,
            runs_per_message_max: RUNS_PER_MESSAGE_MAX as u32,
            mapped_len_max: MAPPED_LEN_MAX,
            window_len: WINDOW_LEN,
            arena_len: ARENA_LEN,
        }
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_LEN)
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = Self::config();
        let mut bytes = config.as_bytes().to_vec();
        bytes.drain(..bytes.len().min(offset as usize));
        // The front end says how large the space is; what is past ours reads as zero.
        bytes.resize(size as usize, 0);
        bytes
    }

    fn update_memory(&self, guest: GuestMemory) -> io::Result<()> {
        let memory = Memory::of(&guest.memory()).map_err(|error| {
            log::error!("vm {}: {error}", self.host.vm);
            io::Error::other(error)
        })?;
        let changed = {
            let mut now = lock(&self.memory);
            let changed = !now.same(&memory);
            if changed {
                *now = Arc::new(memory);
            }
            changed
        };
        if changed && !lock(&self.sessions).running.is_empty() {
            log::warn!("vm {}: guest memory changes: its sessions end", self.host.vm);
            // The rings go on: requests under way are answered, and the driver learns at once.
            self.end_sessions();
            let mut sessions = lock(&self.sessions);
            sessions.stopped = false;
            self.tell_lost(&sessions);
        }
        Ok(())
    }

    fn reset_device(&self) {
        self.flush.run();
        self.stop();
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        let event = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()?;
        // SAFETY: vhost-user-backend 0.24 takes it out of its owner at once, gives it to an epoll, and never closes it.
        lock(&self.exits).push(unsafe { OwnedFd::from_raw_fd(event.0.as_raw_fd()) });
        Some(event)
    }

    fn stop_vring(&self, queue_index: u32) -> io::Result<()> {
        log::debug!("vm {}: queue {queue_index} stops", self.host.vm);
        // An event of this ring that the queue thread has already fetched must not meet the ring's next kick
        // descriptor: the thread would find nothing to read there and end.
        if !self.flush.run() {
            log::error!("vm {}: the queue thread does not come round", self.host.vm);
        }
        self.end_sessions();
        // A guest that goes on later goes on waiting for its answers, so all are given before the ring has stopped. After that, what
        // was taken from it is not answered any more.
        if queue_index == u32::from(QUEUE_CONTROL) {
            self.unanswered.answer_all(Status::HostError);
        }
        if let Some(queue) = self.queues.get(queue_index as usize) {
            queue.stopped();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        device_event: u16,
        _events: EventSet,
        rings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        // An error here would end the queue thread, so there is none.
        worker::contain("queues", || {
            for (queue, ring) in self.queues.iter().zip(rings) {
                queue.attach(ring);
            }
            let token = u64::from(device_event);
            if token == TOKEN_FLUSH {
                return self.flush.pass();
            }
            if let Some(index) = token.checked_sub(TOKEN_AGAIN) {
                if let Some(bell) = self.again.get(index as usize) {
                    bell.clear();
                    self.look(index as u16);
                }
                return;
            }
            if device_event == QUEUE_CONTROL {
                self.started();
            }
            self.look(device_event);
        });
        Ok(())
    }
}
