//! Plays the backend, the guest and vgpud for one `vgpu-exec` on the software GPU.
#![allow(dead_code, reason = "each test program uses some of it")]

pub mod program;
pub mod shares;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use vgpu_protocol::calls::{Wire, cuCtxCreate};
use vgpu_protocol::host::{ExecHeader, ExecKind, ExecMap, ExecReply, ExecRun, Start};
use vgpu_protocol::limits::{AREA_LEN, RING_DATA_LEN, WINDOW_CANDIDATES_MAX, WORDS_MAX};
use vgpu_protocol::result::Code;
use vgpu_protocol::ring::{self, RING_LEN, RecordHeader, op};
use vgpu_protocol::virtio::{MAP_REGISTER, RingCreate, RingDestroy, Status, Unmap};
use vgpu_protocol::words::Words;
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::packet;
use vgpu_sched_api::turn::{PAGE_LEN, Page, State, Word};
use vgpu_sched_api::vm_page::{self, VmPage};
use zerocopy::{FromBytes, IntoBytes};

/// The window that is proposed.
pub const WINDOW: u64 = 0x4000_0000_0000;
/// Where ring `n` lies.
pub const fn ring_at(n: u32) -> u64 {
    (1 << 20) * (1 + n as u64)
}
/// Pinned memory of the guest.
pub const PINNED: Range<u64> = 8 << 20..12 << 20;
/// Memory of the guest that is not pinned.
pub const PLAIN: Range<u64> = 12 << 20..16 << 20;
const MEMORY_LEN: u64 = 16 << 20;
/// Everything the software GPU does in these tests takes far less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that cannot shrink, and its mapping.
pub struct Memory {
    pub file: OwnedFd,
    base: *mut u8,
    len: u64,
}

impl Memory {
    pub fn new(len: u64) -> Self {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, len).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of the whole file, at an address of the kernel's choice.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len as usize, rw, MapFlags::SHARED, &file, 0) };
        Self {
            file,
            base: base.unwrap().cast(),
            len,
        }
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        assert!(offset + size_of::<T>() as u64 <= self.len);
        // SAFETY: inside the mapping.
        unsafe { self.base.add(offset as usize) }.cast()
    }
    pub fn u64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: mapped, and shared with another process, so accessed atomically.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }
    pub fn u32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }
    pub fn i32(&self, offset: u64) -> &AtomicI32 {
        // SAFETY: as above.
        unsafe { AtomicI32::from_ptr(self.at(offset)) }
    }
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len);
        // SAFETY: inside the mapping; the other side does not use these bytes now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        assert!(offset + len as u64 <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.at::<u8>(offset), len) }.to_vec()
    }
}

/// The page that the executors of a VM share.
pub struct SharedPage(Memory);

impl SharedPage {
    pub fn new() -> Self {
        let page = Self(Memory::new(vm_page::PAGE_LEN as u64));
        page.get().set_quota(None);
        page
    }

    pub fn get(&self) -> &VmPage {
        // SAFETY: the mapping is a page, zeroed at first, of atomics.
        unsafe { &*self.0.at::<VmPage>(0) }
    }
}

/// One executor, and all its neighbours in one.
pub struct Exec {
    pub child: Child,
    backend: OwnedFd,
    sequence: u32,
    pub memory: Memory,
    pub event: OwnedFd,
    /// What it asks of the backend's table; a test that lets it ask answers.
    pub shares: OwnedFd,
    doorbells: Vec<OwnedFd>,
    heads: [u64; 8],
    /// Calls made so far.
    calls: u64,
    page: Memory,
    pub scheduler: OwnedFd,
    window: u64,
    /// Where the processes on its software GPU meet.
    dir: Arc<tempfile::TempDir>,
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// A folder with the libcuda to use: the software GPU, which Cargo builds beside this test, or the one in
/// `VGPU_TEST_LIBCUDA_DIR`.
fn library(dir: &Path) -> PathBuf {
    if let Some(given) = std::env::var_os("VGPU_TEST_LIBCUDA_DIR") {
        return given.into();
    }
    let link = dir.join("libcuda.so.1");
    if link.exists() {
        return dir.into();
    }
    let built = std::env::current_exe()
        .unwrap()
        .with_file_name("libsoftgpu_cuda.so");
    std::os::unix::fs::symlink(built, link).unwrap();
    dir.into()
}

/// The program: Cargo's, or `VGPU_TEST_EXEC`.
fn program() -> std::ffi::OsString {
    std::env::var_os("VGPU_TEST_EXEC").unwrap_or_else(|| env!("CARGO_BIN_EXE_vgpu-exec").into())
}

impl Exec {
    /// Starts one; its session area is mapped, ring 0 runs, and it has the turn page.
    pub fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Starts another one on the same GPU.
    pub fn start_beside(other: &Self) -> Self {
        Self::start_in(other.dir.clone())
    }

    fn start_in(dir: Arc<tempfile::TempDir>) -> Self {
        let mut exec = Self::spawn(dir);
        let mut start = Start {
            vm: 1,
            session: 2,
            windows_len: 2,
            reserved: 0,
            windows: [0; WINDOW_CANDIDATES_MAX],
        };
        // The first is where executables lie, and never free.
        start.windows[..2].copy_from_slice(&[0x5400_0000_0000, WINDOW]);
        let event = exec.event.try_clone().unwrap();
        let (ours, shares) = pair();
        exec.shares = ours;
        let window = exec
            .ask(
                ExecKind::Start,
                start.as_bytes(),
                &[event.as_fd(), shares.as_fd()],
            )
            .unwrap();
        assert_eq!(window, WINDOW);
        let file = exec.memory.file.try_clone().unwrap();
        exec.ask(ExecKind::Memory, MEMORY_LEN.as_bytes(), &[file.as_fd()])
            .unwrap();
        exec.map(0, AREA_LEN, true).unwrap();
        exec.map(PINNED.start, PINNED.end - PINNED.start, true).unwrap();
        exec.map(PLAIN.start, PLAIN.end - PLAIN.start, false).unwrap();
        exec.ring_create(0).unwrap();
        exec
    }

    fn spawn(dir: Arc<tempfile::TempDir>) -> Self {
        let (backend, theirs) = pair();
        let library = library(dir.path());
        let mut command = Command::new(program());
        command
            .env_clear()
            .env("LD_LIBRARY_PATH", library)
            .env("VGPU_SOFTGPU_DIR", dir.path())
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or("info".into()))
            .stdin(Stdio::null());
        let socket = theirs.as_raw_fd();
        // SAFETY: only system calls, between fork and exec.
        unsafe {
            command.pre_exec(
                move || match libc::dup2(socket, vgpu_protocol::host::EXEC_SOCKET_FD) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                },
            )
        };
        let child = command.spawn().unwrap();
        let (scheduler, _) = pair();
        Self {
            child,
            backend,
            sequence: 0,
            shares: pair().0,
            memory: Memory::new(MEMORY_LEN),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
            doorbells: (0..8)
                .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
                .collect(),
            heads: [0; 8],
            calls: 0,
            page: Memory::new(PAGE_LEN as u64),
            scheduler,
            window: WINDOW,
            dir,
        }
    }

    /// Asks as the backend does.
    pub fn ask(&mut self, kind: ExecKind, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u64, Status> {
        self.sequence += 1;
        let header = ExecHeader {
            kind: kind as u32,
            sequence: self.sequence,
        };
        let message = [header.as_bytes(), body].concat();
        packet::send_bytes(&self.backend, &message, fds).unwrap();
        let (reply, _) = packet::receive_bytes(&self.backend, 64).unwrap();
        let reply = ExecReply::read_from_bytes(&reply).unwrap();
        assert_eq!(reply.sequence, self.sequence);
        match Status::from_u32(reply.status) {
            Status::Ok => Ok(reply.value),
            status => Err(status),
        }
    }

    /// Maps guest memory at the same offset in the window.
    pub fn map(&mut self, offset: u64, len: u64, register: bool) -> Result<u64, Status> {
        let map = ExecMap {
            addr: self.window + offset,
            len,
            offset: 0,
            flags: if register { MAP_REGISTER } else { 0 },
            runs_len: 1,
        };
        let run = ExecRun {
            region: 0,
            reserved: 0,
            offset,
            len,
        };
        self.ask(ExecKind::Map, &[map.as_bytes(), run.as_bytes()].concat(), &[])
    }

    pub fn unmap(&mut self, offset: u64) -> Result<u64, Status> {
        let addr = self.window + offset;
        self.ask(ExecKind::Unmap, Unmap { addr }.as_bytes(), &[])
    }

    pub fn ring_create(&mut self, ring: u32) -> Result<u64, Status> {
        let at = ring_at(ring);
        self.memory.write(at, &vec![0; RING_LEN as usize]);
        self.map(at, RING_LEN.next_multiple_of(4096), false)?;
        self.heads[ring as usize] = 0;
        self.ring_start(ring)
    }

    /// Has the executor consume a ring whose memory is as it is.
    pub fn ring_start(&mut self, ring: u32) -> Result<u64, Status> {
        let at = ring_at(ring);
        let body = RingCreate {
            ring,
            reserved: 0,
            addr: self.window + at,
        };
        let doorbell = self.doorbells[ring as usize].try_clone().unwrap();
        self.ask(ExecKind::RingCreate, body.as_bytes(), &[doorbell.as_fd()])
    }

    pub fn ring_destroy(&mut self, ring: u32) -> Result<u64, Status> {
        self.ask(
            ExecKind::RingDestroy,
            RingDestroy { ring, reserved: 0 }.as_bytes(),
            &[],
        )
    }

    /// Hands over the turn page and a socket, as when vgpud has started.
    pub fn connect(&mut self) {
        self.connect_with(None);
    }

    /// As [`Self::connect`], with a VM page and a slot in it that were sent before.
    pub fn connect_with(&mut self, vm: Option<(&SharedPage, u32)>) {
        let (ours, theirs) = pair();
        self.scheduler = ours;
        if let Some((page, slot)) = vm {
            let order = ToExec::VmPage {
                slot,
                columns: vec![0, 1],
            };
            packet::send(&self.scheduler, &order, &[page.0.file.as_fd()]).unwrap();
        }
        let page = self.page.file.try_clone().unwrap();
        self.ask(ExecKind::Scheduler, &[], &[theirs.as_fd(), page.as_fd()])
            .unwrap();
    }

    pub fn page(&self) -> &Page {
        // SAFETY: the mapping is a page, zeroed at first, of atomics.
        unsafe { &*self.page.at::<Page>(0) }
    }

    /// Grants the turn, as vgpud does.
    pub fn grant(&self) -> Word {
        let none = self.page().word();
        assert_eq!(none.state, State::None);
        let held = Word {
            generation: none.generation + 1,
            state: State::Held,
        };
        self.page().change(none, held).unwrap();
        self.page().ring_bell();
        held
    }

    /// The next message to vgpud, but for those about latencies, which come when a second is over.
    pub fn hear(&self) -> FromExec {
        loop {
            match self.hear_any() {
                FromExec::Latencies { .. } => {}
                other => return other,
            }
        }
    }

    /// The next message to vgpud.
    pub fn hear_any(&self) -> FromExec {
        readable(&self.scheduler);
        packet::receive::<FromExec>(&self.scheduler).unwrap().0
    }

    /// Waits until it has carried out every order so far; what it said meanwhile is lost.
    pub fn orders_are_done(&self) {
        self.order(&ToExec::Slice {
            sequence: 99,
            microseconds: 2_000,
        });
        wait_until("the order", || {
            matches!(self.hear(), FromExec::Done { sequence: 99, .. })
        });
    }

    pub fn order(&self, order: &ToExec) {
        packet::send(&self.scheduler, order, &[]).unwrap();
    }

    /// Waits until it shows that it has made all calls, and that so many operations are in flight.
    pub fn await_in_flight(&self, operations: u64) {
        wait_until("operations in flight", || {
            self.page().counts() == (self.calls, operations)
        });
    }

    /// Writes a record and rings the doorbell if the consumer sleeps; the position behind it.
    pub fn put(&mut self, ring: u32, op: u16, reply: bool, words: &[u64], blob: &[u8]) -> u64 {
        let len = ring::record_len(words.len(), blob.len()) as u32;
        let header = RecordHeader {
            len,
            op,
            flags: if reply { ring::FLAG_REPLY } else { 0 },
            words: words.len() as u16,
            reserved: 0,
            blob: blob.len() as u32,
        };
        self.put_raw(ring, header, words, blob)
    }

    /// As [`Self::put`] with a header that may be wrong.
    pub fn put_raw(&mut self, ring: u32, header: RecordHeader, words: &[u64], blob: &[u8]) -> u64 {
        let len = ring::record_len(words.len(), blob.len()) as u64;
        let head = &mut self.heads[ring as usize];
        if let Some(skip) = ring::skip_before(*head, len as u32) {
            let skipped = RecordHeader {
                len: skip,
                op: op::SKIP,
                flags: 0,
                words: 0,
                reserved: 0,
                blob: 0,
            };
            let at = ring_at(ring) + ring::DATA + *head % u64::from(RING_DATA_LEN);
            self.memory
                .write(at, &skipped.as_bytes()[..16.min(skip as usize)]);
            *head += u64::from(skip);
        }
        let tail = self.memory.u64(ring_at(ring) + ring::TAIL);
        wait_until("room in the ring", || {
            *head + len - tail.load(SeqCst) <= u64::from(RING_DATA_LEN)
        });
        let at = ring_at(ring) + ring::DATA + *head % u64::from(RING_DATA_LEN);
        self.memory.write(at, header.as_bytes());
        self.memory.write(at + 16, words.as_bytes());
        self.memory.write(at + 16 + 8 * words.len() as u64, blob);
        *head += len;
        let head = *head;
        self.publish(ring, head);
        head
    }

    /// Stores a ring's position.
    pub fn publish(&mut self, ring: u32, head: u64) {
        self.memory.u64(ring_at(ring) + ring::HEAD).store(head, SeqCst);
        if self.memory.u32(ring_at(ring) + ring::ASLEEP).load(SeqCst) == 1 {
            rustix::io::write(&self.doorbells[ring as usize], &1u64.to_ne_bytes()).unwrap();
        }
    }

    pub fn head(&self, ring: u32) -> u64 {
        self.heads[ring as usize]
    }

    /// The answer to the record before a position.
    pub fn answer(&mut self, ring: u32, position: u64) -> (Code, Vec<u64>, Vec<u8>) {
        let at = ring_at(ring);
        let memory = &self.memory;
        let child = &mut self.child;
        wait_until("an answer", || {
            assert!(child.try_wait().unwrap().is_none(), "the executor ended");
            memory.u64(at + ring::REPLY_POS).load(SeqCst) == position
        });
        let words = memory.u32(at + ring::REPLY_WORDS).load(SeqCst) as usize;
        let blob = memory.u32(at + ring::REPLY_BLOB).load(SeqCst) as usize;
        let bytes = memory.read(at + ring::REPLY, 8 * words + blob);
        let results = bytes[..8 * words]
            .chunks_exact(8)
            .map(|w| u64::from_le_bytes(w.try_into().unwrap()));
        (
            memory.i32(at + ring::REPLY_STATUS).load(SeqCst),
            results.collect(),
            bytes[8 * words..].to_vec(),
        )
    }

    /// Makes a call that nobody waits for.
    pub fn call_on<C: Wire>(&mut self, ring: u32, arguments: C::In, blob: &[u8]) -> u64 {
        self.calls += 1;
        let mut words = [0; WORDS_MAX];
        arguments.put(&mut words);
        self.put(ring, C::OP, C::CALL.reply, &words[..C::In::LEN], blob)
    }

    /// As [`Self::call_on`], on ring 0.
    pub fn call<C: Wire>(&mut self, arguments: C::In, blob: &[u8]) -> u64 {
        self.call_on::<C>(0, arguments, blob)
    }

    /// Makes a call and waits for its answer.
    pub fn get_on<C: Wire>(
        &mut self,
        ring: u32,
        arguments: C::In,
        blob: &[u8],
    ) -> Result<(C::Out, Vec<u8>), Code> {
        let position = self.call_on::<C>(ring, arguments, blob);
        let (code, words, blob) = self.answer(ring, position);
        if code != 0 {
            return Err(code);
        }
        Ok((C::Out::take(&words).unwrap(), blob))
    }

    /// As [`Self::get_on`], on ring 0.
    pub fn get<C: Wire>(&mut self, arguments: C::In, blob: &[u8]) -> Result<(C::Out, Vec<u8>), Code> {
        self.get_on::<C>(0, arguments, blob)
    }

    /// Creates context 1 and makes it current to ring 0.
    pub fn context(&mut self) {
        self.get::<cuCtxCreate::Call>(
            cuCtxCreate::In {
                flags: 0,
                device: 0,
                context: 1,
            },
            &[],
        )
        .unwrap();
        self.put(0, op::SET_CONTEXT, false, &[1], &[]);
    }

    /// Has a fence written and waits for it.
    pub fn fence(&mut self, ring: u32, stream: u64, slot: u32, sequence: u64) {
        self.put(ring, op::FENCE, false, &[stream, u64::from(slot), sequence], &[]);
        self.await_fence(slot, sequence);
    }

    pub fn await_fence(&mut self, slot: u32, sequence: u64) {
        let word = self.memory.u64(vgpu_protocol::area::fence(slot));
        let child = &mut self.child;
        wait_until("a fence", || {
            assert!(child.try_wait().unwrap().is_none(), "the executor ended");
            word.load(SeqCst) >= sequence
        });
    }

    /// The error that a context's calls left.
    pub fn context_error(&self, context: u32) -> Code {
        self.memory
            .i32(vgpu_protocol::area::context_error(context))
            .swap(0, SeqCst)
    }

    /// Waits for the executor to end; its exit status and the session's.
    pub fn end(&mut self) -> (Option<i32>, Code) {
        let status = wait_for("the executor's end", || self.child.try_wait().unwrap());
        (
            status.code(),
            self.memory.i32(vgpu_protocol::area::STATUS).load(SeqCst),
        )
    }

    /// Closes the backend's socket, and waits for the executor to end.
    pub fn close(mut self) -> Option<i32> {
        let (other, _) = pair();
        self.backend = other;
        self.end().0
    }
}

/// Waits until a descriptor can be read.
pub fn readable(fd: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "nothing to read");
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || look().then_some(()));
}
