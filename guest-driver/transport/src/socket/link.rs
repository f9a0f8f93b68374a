//! The connection to a backend: the vhost-user handshake, the three queues, and the thread that watches them.
use super::memory::Memory;
use super::queue::{self, Buffer, Queue};
use crate::TransportError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_protocol::gpus;
use vgpu_protocol::limits::{CONTROL_LEN_MAX, GPUS_LEN_MAX, PAGE_LEN};
use vgpu_protocol::virtio::{
    Config, ControlHeader, ControlKind, ControlReply, Doorbell, Event, MAGIC, QUEUE_CONTROL, QUEUE_DOORBELL,
    QUEUE_EVENT, QUEUES, SessionOpened, Status, VERSION,
};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, IntoBytes};

/// How long the backend may take to greet. It serves many processes at a time, and one more when one of them is gone.
const GREETING_WAIT: Duration = Duration::from_secs(30);
/// What is said of another service's socket.
const NO_VGPU: &str = "it is no virtio-vgpu device";
/// Guest-physical address of the shared memory's start.
const GPA_BASE: u64 = 1 << 32;
/// VIRTIO_F_VERSION_1.
const FEATURE_VERSION_1: u64 = 1 << 32;
/// Bytes of the largest control reply.
const REPLY_LEN_MAX: usize = size_of::<ControlReply>() + GPUS_LEN_MAX;
/// Buffers in the event queue; a session's events are merged while they wait, so few are needed.
const EVENT_BUFFERS: u16 = 16;

/// The shared memory starts with the queues' rings, then their buffers, page by page.
const REQUEST: u64 = QUEUES as u64 * queue::RINGS_LEN;
const REPLY: u64 = REQUEST + (CONTROL_LEN_MAX as u64).next_multiple_of(PAGE_LEN);
const DOORBELLS: u64 = REPLY + (REPLY_LEN_MAX as u64).next_multiple_of(PAGE_LEN);
const EVENTS: u64 = DOORBELLS + PAGE_LEN;
/// Bytes of the part that holds queues and their buffers.
const QUEUES_LEN: u64 = EVENTS + PAGE_LEN;

const _: () = assert!(size_of::<SessionOpened>() <= GPUS_LEN_MAX);
const _: () = assert!(queue::LEN as usize * size_of::<Doorbell>() <= PAGE_LEN as usize);
const _: () = assert!(EVENT_BUFFERS as usize * size_of::<Event>() <= PAGE_LEN as usize);

/// The guest-physical address of a place in the shared memory.
pub fn gpa(offset: u64) -> u64 {
    GPA_BASE + offset
}

/// A connection to a backend.
pub struct Link {
    memory: Memory,
    control: Mutex<Control>,
    doorbells: Mutex<Doorbells>,
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    /// The connection, which the thread owns.
    descriptor: RawFd,
    /// The process that opened it: no other, such as a forked child, may use it.
    process: u32,
    /// Keeps the queues mapped; dropped last.
    mapping: Arc<Mapping>,
}

/// What the watching thread and the callers share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable for good once the connection is gone: who waits for a queue watches this too.
    gone: EventFd,
    /// Ends the thread.
    stop: EventFd,
    /// The greeting is over.
    greeted: EventFd,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Events so far.
    events: u64,
    gone: bool,
}

struct Control {
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    /// A request was abandoned: its answer may still come, and be taken for another's.
    broken: bool,
}

struct Doorbells {
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    free: Vec<u16>,
}

struct Watcher {
    shared: Arc<Shared>,
    socket: UnixStream,
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    _mapping: Arc<Mapping>,
}

/// The part of the shared memory that holds queues and buffers, mapped.
struct Mapping(NonNull<u8>);

// SAFETY: a place in memory; who uses which part of it when is said where the parts are given out.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(memory: &Memory) -> io::Result<Self> {
        // SAFETY: a new mapping at a place that the kernel chooses.
        let place = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                QUEUES_LEN as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory.file(),
                0,
            )?
        };
        NonNull::new(place.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn at(&self, offset: u64) -> NonNull<u8> {
        assert!(offset < QUEUES_LEN);
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.0.add(offset as usize) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= QUEUES_LEN);
        // SAFETY: inside the mapping, as just checked; the buffer is the caller's until it is published.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset).as_ptr(), bytes.len()) }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        assert!(offset + bytes.len() as u64 <= QUEUES_LEN);
        // SAFETY: inside the mapping, as just checked; the device has given the buffer back.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset).as_ptr(), bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and whoever uses it holds it alive. Nothing can be done if it fails.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), QUEUES_LEN as usize) };
    }
}

fn event_fd() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event descriptor is open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until one of the descriptors is readable: which ones are.
fn poll<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs() as _,
        tv_nsec: i64::from(timeout.subsec_nanos()) as _,
    });
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref()))?;
    Ok(fds.map(|fd| !fd.revents().is_empty()))
}

impl Link {
    /// Connects to the backend at `path`, sharing `memory_len` bytes.
    pub fn connect(path: &Path, memory_len: u64) -> Result<Self, TransportError> {
        let no_device =
            |error: &dyn std::fmt::Display| TransportError::NoDevice(format!("{}: {error}", path.display()));
        let socket = UnixStream::connect(path).map_err(|error| match error.raw_os_error() {
            // It says nothing about the backend.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => TransportError::Os(error),
            // Another service's socket, which takes packets.
            Some(libc::EPROTOTYPE) => no_device(&NO_VGPU),
            _ => no_device(&error),
        })?;
        let memory = Memory::new(memory_len, QUEUES_LEN)?;
        let mapping = Arc::new(Mapping::new(&memory)?);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            gone: event_fd()?,
            stop: event_fd()?,
            greeted: event_fd()?,
        });
        let [mut control, mut doorbells, mut events] =
            [QUEUE_CONTROL, QUEUE_DOORBELL, QUEUE_EVENT].map(|index| {
                // SAFETY: zeroed pages, each queue its own, mapped as long as `mapping`, which outlives the queue.
                unsafe { Queue::new(mapping.at(u64::from(index) * queue::RINGS_LEN)) }
            });
        control.describe(
            0,
            &[
                Buffer {
                    gpa: gpa(REQUEST),
                    len: CONTROL_LEN_MAX as u32,
                    writable: false,
                },
                Buffer {
                    gpa: gpa(REPLY),
                    len: REPLY_LEN_MAX as u32,
                    writable: true,
                },
            ],
        );
        for index in 0..queue::LEN {
            doorbells.describe(index, &[doorbell_buffer(index)]);
        }
        for index in 0..EVENT_BUFFERS {
            events.describe(index, &[event_buffer(index)]);
            events.publish(index);
        }
        let kicks = [event_fd()?, event_fd()?, event_fd()?];
        let calls = [event_fd()?, event_fd()?, event_fd()?];
        let watcher = Watcher {
            shared: shared.clone(),
            socket: socket.try_clone()?,
            queue: events,
            kick: kicks[QUEUE_EVENT as usize].try_clone()?,
            call: calls[QUEUE_EVENT as usize].try_clone()?,
            _mapping: mapping.clone(),
        };
        let mut link = Self {
            memory,
            control: Mutex::new(Control {
                queue: control,
                kick: kicks[QUEUE_CONTROL as usize].try_clone()?,
                call: calls[QUEUE_CONTROL as usize].try_clone()?,
                broken: false,
            }),
            doorbells: Mutex::new(Doorbells {
                queue: doorbells,
                kick: kicks[QUEUE_DOORBELL as usize].try_clone()?,
                call: calls[QUEUE_DOORBELL as usize].try_clone()?,
                free: (0..queue::LEN).collect(),
            }),
            shared,
            watcher: None,
            descriptor: watcher.socket.as_raw_fd(),
            process: std::process::id(),
            mapping,
        };
        let thread = std::thread::Builder::new().name("vgpu-events".into());
        let begun = Instant::now();
        link.watcher = Some(thread.spawn(move || watcher.run())?);
        // From here on a failure drops the link, which ends the thread.
        link.greet(socket, &kicks, &calls).map_err(|error| {
            if begun.elapsed() < GREETING_WAIT {
                no_device(&error)
            } else {
                no_device(&"it does not answer")
            }
        })?;
        link.shared.greeted.write(1)?;
        Ok(link)
    }

    /// The vhost-user handshake, after which the rings run.
    fn greet(&self, socket: UnixStream, kicks: &[EventFd], calls: &[EventFd]) -> Result<(), GreetError> {
        let mut frontend = Frontend::from_stream(socket, QUEUES as u64);
        frontend.set_owner()?;
        let wanted = FEATURE_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if frontend.get_features()? & wanted != wanted {
            return Err(GreetError::Device(NO_VGPU));
        }
        let protocol = VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK;
        if !frontend.get_protocol_features()?.contains(protocol) {
            return Err(GreetError::Device(NO_VGPU));
        }
        frontend.set_protocol_features(protocol)?;
        // Every step is confirmed, so that a refusal is noticed.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(wanted)?;
        let empty = [0; size_of::<Config>()];
        let (_, config) =
            frontend.get_config(0, empty.len() as u32, VhostUserConfigFlags::empty(), &empty)?;
        match Config::read_from_bytes(&config) {
            Ok(config) if config.magic == MAGIC && config.version == VERSION => {}
            Ok(config) if config.magic == MAGIC => {
                return Err(GreetError::Device("it speaks another version"));
            }
            _ => return Err(GreetError::Device(NO_VGPU)),
        }
        let base = self.mapping.0.as_ptr() as u64;
        frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: GPA_BASE,
            memory_size: self.memory.len(),
            userspace_addr: base,
            mmap_offset: 0,
            mmap_handle: self.memory.file().as_raw_fd(),
        }])?;
        for (index, (kick, call)) in kicks.iter().zip(calls).enumerate() {
            let rings = base + index as u64 * queue::RINGS_LEN;
            frontend.set_vring_num(index, queue::LEN)?;
            let place = VringConfigData {
                queue_max_size: queue::LEN,
                queue_size: queue::LEN,
                flags: 0,
                desc_table_addr: rings,
                avail_ring_addr: rings + queue::AVAILABLE,
                used_ring_addr: rings + queue::USED,
                log_addr: None,
            };
            frontend.set_vring_addr(index, &place)?;
            frontend.set_vring_base(index, 0)?;
            frontend.set_vring_call(index, call)?;
            frontend.set_vring_kick(index, kick)?;
            frontend.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// The connection's descriptor.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// The shared memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Makes a control request and waits for its answer: `reply_len` bytes after the status.
    pub fn request(
        &self,
        kind: ControlKind,
        session: u32,
        body: &[u8],
        reply_len: usize,
    ) -> Result<Vec<u8>, TransportError> {
        let mut reply = self.ask(kind, session, body)?;
        if reply.len() < reply_len {
            return Err(TransportError::Refused(Status::HostError));
        }
        reply.truncate(reply_len);
        Ok(reply)
    }

    /// What the VM may know of its GPUs. No session is needed.
    pub fn gpus(&self) -> Result<gpus::Reply, TransportError> {
        let body = self.ask(ControlKind::Gpus, 0, &[])?;
        gpus::Reply::decode(&body).ok_or(TransportError::Refused(Status::HostError))
    }

    /// Makes a control request: all that comes after the status.
    fn ask(&self, kind: ControlKind, session: u32, body: &[u8]) -> Result<Vec<u8>, TransportError> {
        let header = ControlHeader {
            kind: kind as u32,
            session,
        };
        let mut message = header.as_bytes().to_vec();
        message.extend_from_slice(body);
        let reply = self.exchange(&message)?;
        let Ok((header, body)) = ControlReply::read_from_prefix(&reply) else {
            return Err(TransportError::Refused(Status::HostError));
        };
        match Status::from_u32(header.status) {
            Status::Ok => Ok(body.to_vec()),
            Status::Quarantined => Err(TransportError::Quarantined(header.wait_s)),
            status => Err(TransportError::Refused(status)),
        }
    }

    /// Puts a message into the control queue and waits for what comes back.
    pub fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, TransportError> {
        self.check()?;
        if message.len() > CONTROL_LEN_MAX {
            return Err(TransportError::Refused(Status::Invalid));
        }
        let mut control = lock(&self.control);
        if control.broken {
            return Err(TransportError::Gone);
        }
        self.mapping.write(REQUEST, message);
        let request = Buffer {
            gpa: gpa(REQUEST),
            len: message.len() as u32,
            writable: false,
        };
        let reply = Buffer {
            gpa: gpa(REPLY),
            len: REPLY_LEN_MAX as u32,
            writable: true,
        };
        control.queue.describe(0, &[request, reply]);
        if control.queue.publish(0) {
            control.kick.write(1)?;
        }
        control.broken = true;
        let written = loop {
            if let Some((_, written)) = control.queue.take_used() {
                break written;
            }
            let [call, gone] = poll([borrow(&control.call), borrow(&self.shared.gone)], None)?;
            if gone {
                return Err(TransportError::Gone);
            }
            if call {
                // It fails only if there is nothing to clear.
                let _ = control.call.read();
            }
        };
        control.broken = false;
        let mut reply = vec![0; REPLY_LEN_MAX.min(written as usize)];
        self.mapping.read(REPLY, &mut reply);
        Ok(reply)
    }

    /// Rings a ring's doorbell.
    pub fn doorbell(&self, session: u32, ring: u32) -> Result<(), TransportError> {
        self.check()?;
        let mut doorbells = lock(&self.doorbells);
        let index = loop {
            while let Some((index, _)) = doorbells.queue.take_used() {
                doorbells.free.push(index);
            }
            if let Some(index) = doorbells.free.pop() {
                break index;
            }
            // The backend has all of them still to read: it will say when it has read one.
            let [_, gone] = poll([borrow(&doorbells.call), borrow(&self.shared.gone)], None)?;
            if gone {
                return Err(TransportError::Gone);
            }
            let _ = doorbells.call.read();
        };
        let message = Doorbell { session, ring };
        self.mapping.write(
            DOORBELLS + u64::from(index) * size_of::<Doorbell>() as u64,
            message.as_bytes(),
        );
        if doorbells.queue.publish(index) {
            doorbells.kick.write(1)?;
        }
        Ok(())
    }

    /// Sleeps until the count of events differs from `seen` or until `deadline_ns` (CLOCK_MONOTONIC, 0 for none); the count now.
    pub fn wait(&self, seen: u64, deadline_ns: u64) -> Result<u64, TransportError> {
        self.check()?;
        let mut state = lock(&self.shared.state);
        loop {
            if state.gone {
                return Err(TransportError::Gone);
            }
            if state.events != seen {
                return Ok(state.events);
            }
            if deadline_ns == 0 {
                state = self
                    .shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let left = deadline_ns.saturating_sub(now_ns());
            if left == 0 {
                return Ok(state.events);
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn check(&self) -> Result<(), TransportError> {
        if self.process == std::process::id() {
            Ok(())
        } else {
            Err(TransportError::Gone)
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // In a forked child the thread does not exist, and the connection is the parent's.
        if self.check().is_err() {
            std::mem::forget(self.watcher.take());
            return;
        }
        // It fails only if it is full, which is as good.
        let _ = self.shared.stop.write(1);
        if let Some(watcher) = self.watcher.take() {
            // A panic in it has been reported by then.
            let _ = watcher.join();
        }
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn doorbell_buffer(index: u16) -> Buffer {
    Buffer {
        gpa: gpa(DOORBELLS + u64::from(index) * size_of::<Doorbell>() as u64),
        len: size_of::<Doorbell>() as u32,
        writable: false,
    }
}

fn event_buffer(index: u16) -> Buffer {
    Buffer {
        gpa: gpa(EVENTS + u64::from(index) * size_of::<Event>() as u64),
        len: size_of::<Event>() as u32,
        writable: true,
    }
}

/// Why the handshake failed.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("{0}")]
    Vhost(#[from] vhost::Error),
    #[error("{0}")]
    Device(&'static str),
}

impl Watcher {
    fn run(mut self) {
        let stopped = self.greeting();
        if !stopped {
            // It ends because it is told to, because the backend is gone, or because polling fails: then nothing can be
            // waited for any more either.
            while let Ok([stop, call, socket]) = poll(
                [borrow(&self.shared.stop), borrow(&self.call), self.socket.as_fd()],
                None,
            ) {
                if stop || socket {
                    break;
                }
                if call {
                    self.events();
                }
            }
        }
        lock(&self.shared.state).gone = true;
        self.shared.changed.notify_all();
        let _ = self.shared.gone.write(1);
        // The backend reaps the session when it sees the end of the connection, of which others may hold copies.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Waits for the end of the greeting, and ends the connection if it takes too long. Whether the link ended.
    fn greeting(&self) -> bool {
        let fds = [borrow(&self.shared.stop), borrow(&self.shared.greeted)];
        !matches!(poll(fds, Some(GREETING_WAIT)), Ok([false, true]))
    }

    fn events(&mut self) {
        let _ = self.call.read();
        let mut count = 0;
        let mut kick = false;
        while let Some((index, _)) = self.queue.take_used() {
            // What an event says is in the session area; which session it is for is clear, as there is one.
            count += 1;
            kick |= self.queue.publish(index);
        }
        if kick {
            let _ = self.kick.write(1);
        }
        if count > 0 {
            lock(&self.shared.state).events += count;
            self.shared.changed.notify_all();
        }
    }
}
