//! A hostile guest: a vhost-user front end in this process that puts whatever it likes into the control queue and into
//! the rings of its sessions, and sees what becomes of them. [`cases`] makes the cases from the table of calls.
pub mod beside;
pub mod cases;
pub mod graphs;
pub mod honest;
pub mod messages;
mod random;

use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use random::Random;
use rustix::mm::{MapFlags, ProtFlags};
use vgpu_protocol::calls::Call;
use vgpu_protocol::limits::{AREA_LEN, RING_DATA_LEN};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{self, RING_LEN, RecordHeader, op};
use vgpu_protocol::virtio::{
    ControlHeader, ControlKind, ControlReply, MAP_PROGRAM, MAP_REGISTER, Map, RingCreate, RingDestroy, Run,
    SessionOpen, SessionOpened, Status,
};
use vgpu_protocol::{area, calls};
use vgpu_transport::TransportError;
use vgpu_transport::socket::link::{Link, gpa};
use zerocopy::{FromBytes, IntoBytes};

/// The window that every session asks for: this process need not have it free, as it maps nothing there.
pub const WINDOW: u64 = 1 << 44;
/// Where ring `n` lies, from the window's start.
pub const fn ring_at(n: u32) -> u64 {
    RINGS_AT + n as u64 * RING_LEN
}
/// Rings that a session's mapping has room for.
pub const RINGS: u32 = 2;
/// Registered memory of the guest, from the window's start.
pub const PINNED_AT: u64 = 4 << 20;
/// Bytes of it.
pub const PINNED_LEN: u64 = 64 << 10;
/// Memory of the guest that is not registered, from the window's start.
pub const PLAIN_AT: u64 = 8 << 20;
/// Bytes of it.
pub const PLAIN_LEN: u64 = 64 << 10;
/// Memory of a program's own, from the window's start: outside of it.
pub const PROGRAM_AT: u64 = 1 << 43;
/// Bytes of it.
pub const PROGRAM_LEN: u64 = 64 << 10;
const RINGS_AT: u64 = 1 << 20;
const RINGS_LEN: u64 = RINGS as u64 * RING_LEN;
/// All of a session's memory, part after part: area, rings, pinned, plain, a program's own.
const SESSION_LEN: u64 = AREA_LEN + RINGS_LEN + PINNED_LEN + PLAIN_LEN + PROGRAM_LEN;
/// Bytes of the guest's memory.
const MEMORY_LEN: u64 = 1 << 30;
/// What is waited for comes much sooner, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest.
pub struct Vm {
    link: Link,
    base: NonNull<u8>,
    /// Its number, as the log has it.
    pub id: u32,
}

// SAFETY: the memory stays mapped, and is touched atomically or by whose part of it it is.
unsafe impl Send for Vm {}
// SAFETY: as above.
unsafe impl Sync for Vm {}

impl Vm {
    /// Connects to the backend of the VM with that number.
    pub fn connect(socket: &Path, id: u32) -> Result<Self> {
        let link = Link::connect(socket, MEMORY_LEN)?;
        // SAFETY: a new mapping at a place that the kernel chooses; it stays until the process ends.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                MEMORY_LEN as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                link.memory().file(),
                0,
            )
        }?;
        Ok(Self {
            link,
            base: NonNull::new(base.cast()).context("a mapping at 0")?,
            id,
        })
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        assert!(offset + size_of::<T>() as u64 <= MEMORY_LEN);
        // SAFETY: inside the mapping.
        unsafe { self.base.as_ptr().add(offset as usize) }.cast()
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= MEMORY_LEN);
        // SAFETY: inside the mapping. The other side copes with whatever it reads.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(offset + len as u64 <= MEMORY_LEN);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Puts any bytes into the control queue: the status that comes back, and what follows it.
    pub fn control(&self, message: &[u8]) -> Result<(Status, Vec<u8>)> {
        let reply = self.link.exchange(message)?;
        let Ok((header, body)) = ControlReply::read_from_prefix(&reply) else {
            bail!("a reply of {} bytes", reply.len());
        };
        Ok((Status::from_u32(header.status), body.to_vec()))
    }

    /// Makes a control request with that body.
    pub fn request(&self, kind: u32, session: u32, body: &[u8]) -> Result<(Status, Vec<u8>)> {
        let header = ControlHeader { kind, session };
        self.control(&[header.as_bytes(), body].concat())
    }

    /// Rings any doorbell.
    pub fn doorbell(&self, session: u32, ring: u32) -> Result<()> {
        Ok(self.link.doorbell(session, ring)?)
    }

    /// Opens a session without any mapping: its number.
    pub fn open_bare(&self, window: u64) -> Result<Result<u32, Status>> {
        let mut open = SessionOpen {
            pid: std::process::id(),
            windows_len: 1,
            windows: [0; 8],
            name: [0; 32],
        };
        open.windows[0] = window;
        open.name[..7].copy_from_slice(b"hostile");
        match self.request(ControlKind::SessionOpen as u32, 0, open.as_bytes())? {
            (Status::Ok, body) => {
                let opened = SessionOpened::read_from_bytes(&body)
                    .ok()
                    .context("a short answer")?;
                ensure!(opened.window == window, "another window was chosen");
                Ok(Ok(opened.session))
            }
            (status, _) => Ok(Err(status)),
        }
    }

    /// Maps a part of the guest's memory that lies side by side.
    pub fn map(&self, session: u32, addr: u64, place: u64, len: u64, flags: u32) -> Result<Status> {
        let map = Map {
            addr,
            len,
            offset: 0,
            flags,
            runs_len: 1,
        };
        let run = Run { gpa: gpa(place), len };
        let body = [map.as_bytes(), run.as_bytes()].concat();
        Ok(self.request(ControlKind::Map as u32, session, &body)?.0)
    }

    /// A guest-physical address of memory that nothing else uses.
    pub fn spare(&self, len: u64) -> Result<u64> {
        let extents = self.link.memory().allocate(len).context("no guest memory")?;
        let [extent] = extents[..] else {
            bail!("guest memory is scattered");
        };
        Ok(extent.offset)
    }

    /// Opens a session with its mappings and its first ring.
    pub fn open(&self) -> Result<Session<'_>> {
        let extents = self
            .link
            .memory()
            .allocate(SESSION_LEN)
            .context("no guest memory")?;
        let [extent] = extents[..] else {
            bail!("guest memory is scattered");
        };
        let number = self
            .open_bare(WINDOW)?
            .map_err(|status| anyhow::anyhow!("no session: {status:?}"))?;
        let session = Session {
            vm: self,
            number,
            place: extent.offset,
            heads: [0; RINGS as usize],
        };
        let mut place = extent.offset;
        for (at, len, flags) in [
            (0, AREA_LEN, MAP_REGISTER),
            (RINGS_AT, RINGS_LEN, 0),
            (PINNED_AT, PINNED_LEN, MAP_REGISTER),
            (PLAIN_AT, PLAIN_LEN, 0),
            (PROGRAM_AT, PROGRAM_LEN, MAP_PROGRAM),
        ] {
            let status = self.map(number, WINDOW + at, place, len, flags)?;
            ensure!(status == Status::Ok, "a mapping at {at:#x}: {status:?}");
            place += len;
        }
        // Someone sleeps, always: so every change is an event.
        session.u32(area::WAITERS).store(1, SeqCst);
        session.ring_create(0)?;
        Ok(session)
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// The call failed with that code.
    Failed(Code),
    /// The session ended, with that status.
    Ended(Code),
}

/// A session of a hostile guest.
pub struct Session<'a> {
    vm: &'a Vm,
    /// Its number.
    pub number: u32,
    place: u64,
    heads: [u64; RINGS as usize],
}

impl Session<'_> {
    fn offset(&self, at: u64) -> u64 {
        let parts = [
            (0, AREA_LEN),
            (RINGS_AT, RINGS_LEN),
            (PINNED_AT, PINNED_LEN),
            (PLAIN_AT, PLAIN_LEN),
            (PROGRAM_AT, PROGRAM_LEN),
        ];
        let mut place = self.place;
        for (start, len) in parts {
            if (start..start + len).contains(&at) {
                return place + at - start;
            }
            place += len;
        }
        panic!("nothing is mapped at {at:#x}");
    }

    /// A word of its memory, by its place in the window.
    pub fn u64(&self, at: u64) -> &AtomicU64 {
        // SAFETY: mapped, aligned as its callers' layouts are, and shared, so accessed atomically.
        unsafe { AtomicU64::from_ptr(self.vm.at(self.offset(at))) }
    }
    /// As [`Self::u64`].
    pub fn u32(&self, at: u64) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.vm.at(self.offset(at))) }
    }
    fn i32(&self, at: u64) -> &AtomicI32 {
        // SAFETY: as above.
        unsafe { AtomicI32::from_ptr(self.vm.at(self.offset(at))) }
    }
    /// Writes its memory.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.vm.write(self.offset(at), bytes);
    }
    /// Reads its memory.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.vm.read(self.offset(at), len)
    }

    /// 0, or the code that ended it.
    pub fn status(&self) -> Code {
        self.i32(area::STATUS).load(SeqCst)
    }

    /// Has a ring consumed.
    pub fn ring_create(&self, ring: u32) -> Result<()> {
        let body = RingCreate {
            ring,
            reserved: 0,
            addr: WINDOW + ring_at(ring),
        };
        let kind = ControlKind::RingCreate as u32;
        let (status, _) = self.vm.request(kind, self.number, body.as_bytes())?;
        ensure!(status == Status::Ok, "a ring: {status:?}");
        Ok(())
    }

    /// Where a ring's next record goes, from its creation.
    pub fn head(&self, ring: u32) -> u64 {
        self.heads[ring as usize]
    }

    /// Writes bytes where a ring's next record goes. They may not reach past the ring's end.
    pub fn write_record(&self, ring: u32, bytes: &[u8]) {
        let at = ring_at(ring) + ring::DATA + self.head(ring) % u64::from(RING_DATA_LEN);
        self.write(at, bytes);
    }

    /// Stores any position as a ring's head, and rings.
    pub fn publish(&self, ring: u32, head: u64) -> Result<()> {
        self.u64(ring_at(ring) + ring::HEAD).store(head, SeqCst);
        if self.u32(ring_at(ring) + ring::ASLEEP).load(SeqCst) == 1 {
            self.vm.doorbell(self.number, ring)?;
        }
        Ok(())
    }

    /// Writes a well-formed record; the position behind it.
    pub fn put(&mut self, ring: u32, op: u16, reply: bool, words: &[u64], blob: &[u8]) -> Result<u64> {
        let len = ring::record_len(words.len(), blob.len());
        if let Some(skip) = ring::skip_before(self.head(ring), len as u32) {
            let header = RecordHeader {
                len: skip,
                op: op::SKIP,
                flags: 0,
                words: 0,
                reserved: 0,
                blob: 0,
            };
            self.write_record(ring, &header.as_bytes()[..16.min(skip as usize)]);
            self.heads[ring as usize] += u64::from(skip);
        }
        let end = self.head(ring) + len as u64;
        let tail = self.u64(ring_at(ring) + ring::TAIL);
        self.until("room in a ring", || {
            end.saturating_sub(tail.load(SeqCst)) <= u64::from(RING_DATA_LEN) || self.status() != 0
        })?;
        let header = RecordHeader {
            len: len as u32,
            op,
            flags: if reply { ring::FLAG_REPLY } else { 0 },
            words: words.len() as u16,
            reserved: 0,
            blob: blob.len() as u32,
        };
        let mut bytes = [header.as_bytes(), words.as_bytes(), blob].concat();
        bytes.resize(len, 0);
        self.write_record(ring, &bytes);
        self.heads[ring as usize] = end;
        self.publish(ring, end)?;
        Ok(end)
    }

    /// Waits until something is so, acknowledging the host functions that the host asks for meanwhile.
    fn until(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let deadline = monotonic_ns() + PATIENCE.as_nanos() as u64;
        loop {
            // No count of events is this one, so the count comes at once.
            let seen = self.vm.link.wait(u64::MAX, 0)?;
            if done() {
                return Ok(());
            }
            self.acknowledge();
            match self.vm.link.wait(seen, deadline) {
                Err(TransportError::Gone) => bail!("the backend is gone"),
                other => other?,
            };
            ensure!(
                done() || Instant::now() < end,
                "session {}: {what} does not come: {}",
                self.number,
                self.state()
            );
        }
    }

    /// Where its rings stand, for who wonders why nothing comes.
    fn state(&self) -> String {
        let of = |ring: u32| {
            let word = |at| self.u64(ring_at(ring) + at).load(SeqCst);
            let asleep = self.u32(ring_at(ring) + ring::ASLEEP).load(SeqCst);
            format!(
                "ring {ring} written up to {}, read up to {}, answered up to {}, asleep {asleep}",
                word(ring::HEAD),
                word(ring::TAIL),
                word(ring::REPLY_POS)
            )
        };
        let events = self.u32(area::EVENTS).load(SeqCst);
        format!("status {}, {events} events; {}; {}", self.status(), of(0), of(1))
    }

    fn acknowledge(&self) {
        for slot in 0..vgpu_protocol::limits::HOST_FUNCTIONS_MAX {
            let state = self.u32(area::host_function(slot) + 8);
            let _ = state.compare_exchange(area::HOST_FN_POSTED, area::HOST_FN_DONE, SeqCst, SeqCst);
        }
    }

    /// Waits for the answer to the record before `position`.
    pub fn answer(&self, ring: u32, position: u64) -> Result<Outcome> {
        let at = ring_at(ring);
        let answered = self.u64(at + ring::REPLY_POS);
        let end = Instant::now() + PATIENCE;
        loop {
            self.until("an answer", || {
                answered.load(SeqCst) == position || self.status() != 0
            })?;
            if answered.load(SeqCst) == position {
                return Ok(match self.i32(at + ring::REPLY_STATUS).load(SeqCst) {
                    result::SUCCESS => Outcome::Done,
                    code => Outcome::Failed(code),
                });
            }
            // It may be the guest's own work that wrote the status.
            if self.is_lost()? {
                return Ok(Outcome::Ended(self.status()));
            }
            ensure!(Instant::now() < end, "session {}: no answer comes", self.number);
        }
    }

    /// Whether the host says that it ended: the guest can write the status as well.
    fn is_lost(&self) -> Result<bool> {
        let ring = RINGS - 1;
        let create = RingCreate {
            ring,
            reserved: 0,
            addr: WINDOW + ring_at(ring),
        };
        let destroy = RingDestroy { ring, reserved: 0 };
        let ask = |kind: ControlKind, body: &[u8]| self.vm.request(kind as u32, self.number, body);
        let (mut status, _) = ask(ControlKind::RingCreate, create.as_bytes())?;
        if status == Status::Ok {
            (status, _) = ask(ControlKind::RingDestroy, destroy.as_bytes())?;
        }
        Ok(status == Status::Lost)
    }

    /// The result words of the last answer.
    pub fn results(&self, ring: u32) -> Vec<u64> {
        let at = ring_at(ring);
        let count = self.u32(at + ring::REPLY_WORDS).load(SeqCst).min(24);
        (0..u64::from(count))
            .map(|i| self.u64(at + ring::REPLY + 8 * i).load(SeqCst))
            .collect()
    }

    /// The last answer's blob.
    pub fn blob(&self, ring: u32) -> Vec<u8> {
        let at = ring_at(ring);
        let words = u64::from(self.u32(at + ring::REPLY_WORDS).load(SeqCst).min(24));
        let len = self.u32(at + ring::REPLY_BLOB).load(SeqCst).min(4096);
        self.read(at + ring::REPLY + 8 * words, len as usize)
    }

    /// Waits until the session has ended: its status.
    pub fn ended(&self) -> Result<Code> {
        self.until("the session's end", || self.status() != 0)?;
        Ok(self.status())
    }

    /// Makes any call, and waits until it is known what became of it.
    pub fn call(&mut self, call: &Call, words: &[u64], blob: &[u8]) -> Result<Outcome> {
        if call.reply {
            let position = self.put(0, call.op, true, words, blob)?;
            return self.answer(0, position);
        }
        self.take_failures();
        self.put(0, call.op, false, words, blob)?;
        self.settle()
    }

    /// Waits until everything written was looked at, and how it went if nobody waited for it.
    pub fn settle(&mut self) -> Result<Outcome> {
        let position = self.put(0, op::GPU_INFO, true, &[], &[])?;
        match self.answer(0, position)? {
            Outcome::Done => Ok(match self.take_failures() {
                result::SUCCESS => Outcome::Done,
                code => Outcome::Failed(code),
            }),
            other => Ok(other),
        }
    }

    fn take_failures(&self) -> Code {
        let codes = (0..vgpu_protocol::limits::CONTEXTS_MAX)
            .map(|context| self.i32(area::context_error(context)).swap(0, SeqCst));
        codes.fold(0, |first, code| if first == 0 { code } else { first })
    }

    /// Closes it.
    pub fn close(self) -> Result<()> {
        let kind = ControlKind::SessionClose as u32;
        let (status, _) = self.vm.request(kind, self.number, &[])?;
        ensure!(
            matches!(status, Status::Ok | Status::NotFound),
            "closing session {}: {status:?}",
            self.number
        );
        let memory = self.vm.link.memory();
        memory.release(vec![vgpu_transport::socket::memory::Extent {
            offset: self.place,
            len: SESSION_LEN,
        }])?;
        Ok(())
    }
}

/// The row of a call of the table.
pub fn row(name: &str) -> &'static Call {
    calls::find_name(name).unwrap_or_else(|| panic!("{name} is not in the table"))
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
