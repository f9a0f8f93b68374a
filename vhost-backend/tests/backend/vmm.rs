//! A small VMM: a front end with two memory regions, whose rings a test can stop, start, and fill with anything.
use crate::scheduler::PATIENCE;
use queue::Queue;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vgpu_protocol::limits::{AREA_LEN, CONTROL_LEN_MAX};
use vgpu_protocol::virtio::{
    ControlHeader, ControlKind, ControlReply, Doorbell, Event, Map, Run, SessionOpen, SessionOpened, Status,
};
use vgpu_protocol::{area, virtio};
use vgpu_transport::socket::queue;
pub use vgpu_transport::socket::queue::Buffer;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The low region starts at 0, the high one right after it.
const LOW_LEN: u64 = 16 << 20;
const HIGH_LEN: u64 = 48 << 20;
/// Of each control slot: a request, then an answer.
const SLOT_LEN: u64 = 128 << 10;
const SLOTS: u64 = 8;
/// Where the first slot's request lies.
pub const REQUEST_PLACE: u64 = 1 << 20;
const REPLY_OFFSET: u64 = 48 << 10;
const DOORBELL_PLACE: u64 = 512 << 10;
const EVENT_PLACE: u64 = 516 << 10;
/// A window for sessions that this process takes no part in.
pub const WINDOW: u64 = 4 << 42;
/// Areas of sessions, by their number.
const AREAS: u64 = 4 << 20;

const _: () = assert!(CONTROL_LEN_MAX as u64 <= REPLY_OFFSET);

pub struct Vmm {
    frontend: Frontend,
    low: Region,
    high: Region,
    queues: Vec<Queue>,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    slots: Vec<u64>,
    answers: HashMap<u64, u32>,
}

struct Region {
    file: OwnedFd,
    len: u64,
    place: NonNull<u8>,
}

impl Region {
    fn new(len: u64, sealed: bool) -> Self {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        if sealed {
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses; it stays until the test program ends.
        let place = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len as usize,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
            .unwrap()
        };
        Self {
            file,
            len,
            place: NonNull::new(place.cast()).unwrap(),
        }
    }

    fn info(&self, gpa: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: gpa,
            memory_size: self.len,
            userspace_addr: self.place.as_ptr() as u64,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }
}

fn greet(mut frontend: Frontend) -> Frontend {
    frontend.set_owner().unwrap();
    let features = frontend.get_features().unwrap();
    frontend.get_protocol_features().unwrap();
    frontend
        .set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIG)
        .unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let wanted = 1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    frontend.set_features(features & wanted).unwrap();
    frontend
}

impl Vmm {
    /// Connects, and starts the rings.
    pub fn connect(socket: &Path) -> Self {
        Self::over(Frontend::connect(socket, 3).unwrap())
    }

    /// Starts the rings over a connection.
    pub fn over(frontend: Frontend) -> Self {
        let mut vmm = Self {
            frontend: greet(frontend),
            low: Region::new(LOW_LEN, true),
            high: Region::new(HIGH_LEN, true),
            queues: Vec::new(),
            kicks: Vec::new(),
            calls: Vec::new(),
            slots: Vec::new(),
            answers: HashMap::new(),
        };
        vmm.set_memory(false).unwrap();
        vmm.start([0; 3]);
        vmm
    }

    /// Connects, and has memory refused that is not sealed.
    pub fn refused(socket: &Path) {
        let frontend = greet(Frontend::connect(socket, 3).unwrap());
        let region = Region::new(LOW_LEN, false);
        frontend.set_mem_table(&[region.info(0)]).unwrap_err();
    }

    /// Says where the memory is; with `moved` at other addresses than before.
    pub fn set_memory(&mut self, moved: bool) -> vhost::Result<()> {
        self.frontend.set_mem_table(&self.regions(moved)).map(drop)
    }

    fn regions(&self, moved: bool) -> [VhostUserMemoryRegionInfo; 2] {
        let shift = if moved { 1 << 40 } else { 0 };
        [self.low.info(0), self.high.info(LOW_LEN + shift)]
    }

    /// Says from another thread that the memory is at other addresses.
    pub fn move_memory(&self) -> std::thread::JoinHandle<vhost::Result<()>> {
        let (frontend, regions) = (self.frontend.clone(), self.regions(true));
        std::thread::spawn(move || frontend.set_mem_table(&regions).map(drop))
    }

    /// Stops all rings as QEMU does; where they stood.
    pub fn stop(&mut self) -> [u16; 3] {
        self.disable();
        self.bases()
    }

    /// The first half of a stop: the device is to leave the rings alone.
    pub fn disable(&mut self) {
        for index in 0..3 {
            self.frontend.set_vring_enable(index, false).unwrap();
        }
    }

    /// The second half of a stop: where the rings stand.
    pub fn bases(&mut self) -> [u16; 3] {
        [0, 1, 2].map(|index| self.frontend.get_vring_base(index).unwrap() as u16)
    }

    /// Starts all rings: anew if they are to start at 0, else where they stopped.
    pub fn start(&mut self, bases: [u16; 3]) {
        if bases == [0; 3] {
            let rings = 3 * queue::RINGS_LEN as usize;
            // SAFETY: inside the low region, and the rings do not run.
            unsafe { std::ptr::write_bytes(self.low.place.as_ptr(), 0, rings) };
            self.queues = (0..3usize)
                .map(|index| {
                    // SAFETY: zeroed just now, each queue its own, mapped until the program ends.
                    unsafe { Queue::new(self.low.place.add(index * queue::RINGS_LEN as usize)) }
                })
                .collect();
            self.slots = (0..SLOTS).collect();
            self.answers.clear();
        }
        let event_fd = || EventFd::new(EFD_NONBLOCK).unwrap();
        self.kicks = (0..3).map(|_| event_fd()).collect();
        self.calls = (0..3).map(|_| event_fd()).collect();
        let user = self.low.place.as_ptr() as u64;
        for (index, base) in bases.into_iter().enumerate() {
            let rings = user + index as u64 * queue::RINGS_LEN;
            let place = VringConfigData {
                queue_max_size: queue::LEN,
                queue_size: queue::LEN,
                flags: 0,
                desc_table_addr: rings,
                avail_ring_addr: rings + queue::AVAILABLE,
                used_ring_addr: rings + queue::USED,
                log_addr: None,
            };
            self.frontend.set_vring_num(index, queue::LEN).unwrap();
            self.frontend.set_vring_addr(index, &place).unwrap();
            self.frontend.set_vring_base(index, base).unwrap();
            self.frontend.set_vring_call(index, &self.calls[index]).unwrap();
            self.frontend.set_vring_kick(index, &self.kicks[index]).unwrap();
            self.frontend.set_vring_enable(index, true).unwrap();
        }
    }

    fn available(&self, index: usize) -> u16 {
        self.ring_word(index, queue::AVAILABLE + 2)
    }

    fn ring_word(&self, index: usize, offset: u64) -> u16 {
        let at = index as u64 * queue::RINGS_LEN + offset;
        // SAFETY: inside the low region, and aligned.
        unsafe { AtomicU16::from_ptr(self.low.place.as_ptr().add(at as usize).cast()) }.load(Ordering::SeqCst)
    }

    /// A guest-physical address in the high region.
    pub fn high(&self, offset: u64) -> u64 {
        LOW_LEN + offset
    }

    fn at(&self, gpa: u64, len: u64) -> *mut u8 {
        let (region, offset) = if gpa < LOW_LEN {
            (&self.low, gpa)
        } else {
            (&self.high, gpa - LOW_LEN)
        };
        assert!(offset + len <= region.len);
        // SAFETY: inside the region, as just checked.
        unsafe { region.place.as_ptr().add(offset as usize) }
    }

    /// A word of guest memory.
    pub fn word(&self, gpa: u64) -> &AtomicU64 {
        assert_eq!(gpa % 8, 0);
        // SAFETY: inside the region, aligned, and mapped until the program ends.
        unsafe { AtomicU64::from_ptr(self.at(gpa, 8).cast()) }
    }

    /// Where a session's area lies.
    pub fn area(&self, session: u32) -> u64 {
        AREAS + u64::from(session) * AREA_LEN
    }

    /// The status word of a session's area.
    pub fn status_word(&self, session: u32) -> i32 {
        let at = self.at(self.area(session) + area::STATUS, 4);
        // SAFETY: inside the region, and aligned.
        unsafe { AtomicI32::from_ptr(at.cast()) }.load(Ordering::SeqCst)
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        // SAFETY: inside the region; the device does not use it now.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(gpa, bytes.len() as u64), bytes.len())
        }
    }

    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: inside the region; the device does not use it now.
        unsafe { std::ptr::copy_nonoverlapping(self.at(gpa, len as u64), bytes.as_mut_ptr(), len) }
        bytes
    }

    /// Where the answer to the first slot's request goes.
    pub fn reply_place(&self) -> u64 {
        REQUEST_PLACE + REPLY_OFFSET
    }

    /// The status in that place.
    pub fn last_status(&self) -> Status {
        let reply = self.read(self.reply_place(), size_of::<ControlReply>());
        Status::from_u32(ControlReply::read_from_bytes(&reply).unwrap().status)
    }

    fn kick(&mut self, index: usize) {
        self.kicks[index].write(1).unwrap();
    }

    /// Waits until the device has used a chain.
    fn take(&mut self, index: usize) -> (u16, u32) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.queues[index].take_used() {
                return used;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "queue {index}: nothing comes back");
            poll(&self.calls[index], left);
            let _ = self.calls[index].read();
        }
    }

    /// Makes a request without waiting for its answer.
    pub fn begin(&mut self, kind: ControlKind, session: u32, body: &(impl IntoBytes + Immutable)) -> u64 {
        let header = ControlHeader {
            kind: kind as u32,
            session,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body.as_bytes());
        self.begin_bytes(&bytes)
    }

    /// Asks for a mapping without waiting for the answer.
    pub fn begin_map(&mut self, session: u32, map: Map, runs: &[Run]) -> u64 {
        let header = ControlHeader {
            kind: ControlKind::Map as u32,
            session,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(map.as_bytes());
        bytes.extend_from_slice(runs.as_bytes());
        self.begin_bytes(&bytes)
    }

    fn begin_bytes(&mut self, bytes: &[u8]) -> u64 {
        let slot = self.slots.pop().unwrap();
        let place = REQUEST_PLACE + slot * SLOT_LEN;
        self.write(place, bytes);
        let request = Buffer {
            gpa: place,
            len: bytes.len() as u32,
            writable: false,
        };
        let reply = Buffer {
            gpa: place + REPLY_OFFSET,
            len: (SLOT_LEN - REPLY_OFFSET) as u32,
            writable: true,
        };
        self.queues[0].describe(2 * slot as u16, &[request, reply]);
        self.queues[0].publish(2 * slot as u16);
        self.kick(0);
        slot
    }

    fn finish_bytes(&mut self, slot: u64) -> Vec<u8> {
        let written = loop {
            if let Some(written) = self.answers.remove(&slot) {
                break written;
            }
            let (first, written) = self.take(0);
            self.answers.insert(u64::from(first / 2), written);
        };
        self.slots.push(slot);
        self.read(REQUEST_PLACE + slot * SLOT_LEN + REPLY_OFFSET, written as usize)
    }

    /// Waits for the answer to a request.
    pub fn finish(&mut self, slot: u64) -> Status {
        let reply = self.finish_bytes(slot);
        Status::from_u32(ControlReply::read_from_prefix(&reply).unwrap().0.status)
    }

    /// Makes a request: any bytes.
    pub fn exchange(&mut self, bytes: &[u8]) -> (Status, Vec<u8>) {
        let slot = self.begin_bytes(bytes);
        let reply = self.finish_bytes(slot);
        let (header, body) = ControlReply::read_from_prefix(&reply).unwrap();
        (Status::from_u32(header.status), body.to_vec())
    }

    /// Makes a request.
    pub fn request(
        &mut self,
        kind: ControlKind,
        session: u32,
        body: &(impl IntoBytes + Immutable),
    ) -> Status {
        let slot = self.begin(kind, session, body);
        self.finish(slot)
    }

    /// Opens a session.
    pub fn open(&mut self, window: u64) -> Result<u32, Status> {
        let mut open = SessionOpen {
            pid: 1,
            windows_len: 1,
            windows: [0; 8],
            name: [0; 32],
        };
        open.windows[0] = window;
        let slot = self.begin(ControlKind::SessionOpen, 0, &open);
        let reply = self.finish_bytes(slot);
        let (header, body) = ControlReply::read_from_prefix(&reply).unwrap();
        match Status::from_u32(header.status) {
            Status::Ok => Ok(SessionOpened::read_from_bytes(body).unwrap().session),
            status => Err(status),
        }
    }

    /// Maps runs.
    pub fn map(&mut self, session: u32, map: Map, runs: &[Run]) -> Status {
        let slot = self.begin_map(session, map, runs);
        self.finish(slot)
    }

    /// Puts any chain into the control queue; how many bytes the device says it wrote.
    pub fn chain(&mut self, chain: &[Buffer]) -> u32 {
        let first = 2 * SLOTS as u16;
        self.write(self.reply_place(), &[0xff; 8]);
        self.write(REQUEST_PLACE, &[0; 8]);
        self.queues[0].describe(first, chain);
        self.queues[0].publish(first);
        self.kick(0);
        self.take(0).1
    }

    /// Puts a chain into the control queue that never ends.
    pub fn looping_chain(&mut self) {
        let request = Buffer {
            gpa: REQUEST_PLACE,
            len: 8,
            writable: false,
        };
        self.queues[0].describe(100, &[request, request]);
        // The second descriptor's successor is the first.
        let place = 101 * 16;
        self.write(place + 12, &1u16.to_le_bytes());
        self.write(place + 14, &100u16.to_le_bytes());
        self.queues[0].publish(100);
        self.kick(0);
        assert_eq!(self.take(0), (100, 0));
    }

    /// Puts a chain into the control queue that starts outside the table. It cannot be given back.
    pub fn head_outside(&mut self) {
        self.queues[0].publish(queue::LEN);
        self.kick(0);
    }

    /// Moves a queue's available index by `by`.
    pub fn jump(&mut self, index: usize, by: u16) {
        let at = index as u64 * queue::RINGS_LEN + queue::AVAILABLE + 2;
        let next = self.available(index).wrapping_add(by);
        self.write(at, &next.to_le_bytes());
        self.kick(index);
    }

    /// Publishes one request to open a session, with a useless window, many times.
    pub fn publish_same_request(&mut self, times: u16) {
        let header = ControlHeader {
            kind: ControlKind::SessionOpen as u32,
            session: 0,
        };
        self.write(REQUEST_PLACE, header.as_bytes());
        self.write(REQUEST_PLACE + 8, &[0; size_of::<SessionOpen>()]);
        let request = Buffer {
            gpa: REQUEST_PLACE,
            len: (8 + size_of::<SessionOpen>()) as u32,
            writable: false,
        };
        let reply = Buffer {
            gpa: REQUEST_PLACE + REPLY_OFFSET,
            len: 64,
            writable: true,
        };
        self.queues[0].describe(0, &[request, reply]);
        for _ in 0..times {
            self.queues[0].publish(0);
        }
        self.kick(0);
    }

    /// Takes that many used chains.
    pub fn wait_used(&mut self, count: u16) {
        for _ in 0..count {
            self.take(0);
        }
    }

    /// Rings a doorbell.
    pub fn doorbell(&mut self, session: u32, ring: u32) {
        self.write(DOORBELL_PLACE, Doorbell { session, ring }.as_bytes());
        let buffer = Buffer {
            gpa: DOORBELL_PLACE,
            len: size_of::<Doorbell>() as u32,
            writable: false,
        };
        self.queues[1].describe(0, &[buffer]);
        self.queues[1].publish(0);
        self.kick(1);
        self.take(1);
    }

    /// Keeps a queue full of what its descriptors say, until told to end.
    pub fn flood(&self, index: usize) -> Flood {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let kick = self.kicks[index].try_clone().unwrap();
        let rings = self.low.place.as_ptr() as usize + index * queue::RINGS_LEN as usize;
        let thread = std::thread::spawn(move || {
            // SAFETY: both are inside the low region, aligned, and mapped until the program ends.
            let (available, used) = unsafe {
                (
                    AtomicU16::from_ptr((rings + queue::AVAILABLE as usize + 2) as *mut u16),
                    AtomicU16::from_ptr((rings + queue::USED as usize + 2) as *mut u16),
                )
            };
            while !end.load(Ordering::SeqCst) {
                let _ = kick.write(1);
                // Faster than the device takes them.
                for _ in 0..10_000 {
                    let full = used.load(Ordering::SeqCst).wrapping_add(queue::LEN);
                    available.store(full, Ordering::SeqCst);
                }
            }
        });
        Flood { ended, thread }
    }

    /// Gives the device one buffer for an event.
    pub fn give_event_buffer(&mut self) {
        self.give_event_buffer_of(size_of::<Event>() as u32);
    }

    /// The same of so many bytes.
    pub fn give_event_buffer_of(&mut self, len: u32) {
        let buffer = Buffer {
            gpa: EVENT_PLACE,
            len,
            writable: true,
        };
        self.queues[2].describe(0, &[buffer]);
        self.queues[2].publish(0);
        self.kick(2);
    }

    /// Whether an event has come.
    pub fn has_event(&self) -> bool {
        self.events_used() != 0
    }

    /// How many buffers for events the device has used, modulo 65,536.
    pub fn events_used(&self) -> u16 {
        self.ring_word(2, queue::USED + 2)
    }

    /// Waits for an event: which session it is for.
    pub fn wait_event(&mut self) -> u32 {
        self.take(virtio::QUEUE_EVENT as usize);
        let event = self.read(EVENT_PLACE, size_of::<Event>());
        Event::read_from_bytes(&event).unwrap().session
    }
}

/// A thread that keeps a queue full.
pub struct Flood {
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flood {
    /// Ends it.
    pub fn end(self) {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

fn poll(call: &EventFd, timeout: Duration) {
    let timeout = rustix::event::Timespec {
        tv_sec: timeout.as_secs() as _,
        tv_nsec: timeout.subsec_nanos() as _,
    };
    // SAFETY: the descriptor is open as long as it is borrowed.
    let call = unsafe { std::os::fd::BorrowedFd::borrow_raw(call.as_raw_fd()) };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        call,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
}
