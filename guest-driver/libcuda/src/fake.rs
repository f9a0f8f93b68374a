//! A host for tests: a transport whose buffers are plain memory of this process, and a thread per ring that imitates an
//! executor. Device memory is memory too; a kernel is one of the few that [`Fake`] knows by name.
use crate::area::Shared;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use vgpu_protocol::area;
use vgpu_protocol::calls;
use vgpu_protocol::gpus::{Gpu, GpuName, Gpus, Reply, padded};
use vgpu_protocol::limits::{ARENA_LEN, RINGS_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{self, FLAG_REPLY, GPU_ATTRIBUTES, GpuInfo, HEADER_LEN, RecordHeader, op};
use vgpu_protocol::words::{KernelParam, Words};
use vgpu_transport::{Transport, TransportError};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bytes of device memory.
const DEVICE_LEN: u64 = 256 << 20;
/// Its attribute HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED is 1.
pub const HOST_MEMORY: usize = 145;
/// Its attribute 1, MAX_THREADS_PER_BLOCK.
pub const THREADS_MAX: i32 = 1024;

/// The imitated host.
pub struct Fake {
    host: Arc<Host>,
}

#[derive(Default)]
struct Host {
    window: AtomicU64,
    device_used: AtomicU64,
    events: Mutex<u64>,
    event: Condvar,
    executed: Executed,
    objects: Mutex<Objects>,
    doorbells: Vec<(Mutex<bool>, Condvar)>,
    log: Mutex<Vec<(u32, u16)>>,
    /// The program's own pages that are mapped.
    pinned: Mutex<HashMap<u64, u64>>,
    /// It died: it takes no more records, and only the transport says so.
    dead: AtomicBool,
}

/// How far each ring's consumer has come.
struct Executed([AtomicU64; RINGS_MAX as usize]);

impl Default for Executed {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; RINGS_MAX as usize])
    }
}

#[derive(Default)]
struct Objects {
    /// Kernels' names by function id.
    functions: HashMap<u32, String>,
    /// Capturing streams, by word, with the records of their capture.
    captures: HashMap<u64, Vec<Captured>>,
    /// Streams that take part in a capture, by word, and events recorded there, with the word of the stream that it began on.
    capturing: HashMap<u64, u64>,
    captured_events: HashMap<u32, u64>,
    graphs: HashMap<u32, Vec<Captured>>,
    execs: HashMap<u32, Vec<Captured>>,
    /// Streams, by id; those whose creation failed are kept out.
    streams: Vec<u32>,
}

#[derive(Clone)]
struct Captured {
    op: u16,
    words: Vec<u64>,
    blob: Vec<u8>,
}

static HOST: Mutex<Option<Arc<Host>>> = Mutex::new(None);

impl Fake {
    /// A host with one GPU.
    pub fn new() -> Self {
        let host = Arc::new(Host {
            doorbells: (0..RINGS_MAX).map(|_| Default::default()).collect(),
            ..Host::default()
        });
        *crate::lock(&HOST) = Some(host.clone());
        Self { host }
    }
}

/// Flags with which it refuses to register memory.
pub const REFUSED: u64 = 8;

/// Pages of the program's own that are mapped.
pub fn pinned_pages() -> usize {
    let host = crate::lock(&HOST).clone().expect("a session is open");
    let pinned = crate::lock(&host.pinned);
    pinned.values().map(|len| (len / 4096) as usize).sum()
}

/// The host dies without a word.
pub fn die() {
    let host = crate::lock(&HOST).clone().expect("a session is open");
    host.dead.store(true, Ordering::SeqCst);
}

/// The operations that were run so far, as (current context, operation).
pub fn log() -> Vec<(u32, u16)> {
    let host = crate::lock(&HOST).clone().expect("a session is open");
    crate::lock(&host.log).clone()
}

fn map(addr: u64, len: u64, protection: i32) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: inside the window that the session has reserved.
    let at = unsafe { libc::mmap(addr as *mut _, len as usize, protection, flags, -1, 0) };
    assert_eq!(at as u64, addr);
}

impl Transport for Fake {
    fn gpus(&self) -> Result<Reply, TransportError> {
        let mut gpu = Gpu::new_zeroed();
        gpu.uuid = padded("GPU-fake");
        Ok(Reply {
            head: Gpus::new_zeroed(),
            gpus: vec![gpu],
            processes: Vec::new(),
        })
    }

    fn open(&self, windows: &[u64], _gpus: &[GpuName]) -> Result<u64, TransportError> {
        let window = windows[windows.len() / 2];
        self.host.window.store(window, Ordering::SeqCst);
        // Mapped when the session has kept the window: with its first buffer.
        Ok(window)
    }

    fn alloc(&self, addr: u64, len: u64, _register: bool) -> Result<(), TransportError> {
        let window = self.host.window.load(Ordering::SeqCst);
        assert!(addr >= window && addr + len <= window + ARENA_LEN);
        assert!(addr.is_multiple_of(4096) && len.is_multiple_of(4096));
        if len > 1 << 40 {
            return Err(TransportError::NoMemory);
        }
        if addr == window {
            map(window + ARENA_LEN, DEVICE_LEN, libc::PROT_READ | libc::PROT_WRITE);
        }
        map(addr, len, libc::PROT_READ | libc::PROT_WRITE);
        Ok(())
    }

    fn free(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        map(addr, len, libc::PROT_NONE);
        Ok(())
    }

    fn pin(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        assert!(addr.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0);
        let mut pinned = crate::lock(&self.host.pinned);
        assert!(pinned.insert(addr, len).is_none());
        Ok(())
    }

    fn unpin(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        assert_eq!(crate::lock(&self.host.pinned).remove(&addr), Some(len));
        Ok(())
    }

    fn ring_create(&self, ring: u32, addr: u64) -> Result<(), TransportError> {
        let host = self.host.clone();
        std::thread::spawn(move || {
            // SAFETY: rings are never freed.
            let memory = unsafe { Shared::new(addr) };
            Consumer {
                host,
                ring,
                memory,
                tail: 0,
                context: 0,
            }
            .run();
        });
        Ok(())
    }

    fn ring_destroy(&self, _ring: u32) -> Result<(), TransportError> {
        unreachable!("this library destroys no rings")
    }

    fn doorbell(&self, ring: u32) -> Result<(), TransportError> {
        let bell = &self.host.doorbells[ring as usize];
        *crate::lock(&bell.0) = true;
        bell.1.notify_one();
        Ok(())
    }

    fn wait(&self, seen: u64, _deadline_ns: u64) -> Result<u64, TransportError> {
        if self.host.dead.load(Ordering::SeqCst) {
            return Err(TransportError::Gone);
        }
        let events = crate::lock(&self.host.events);
        let (events, _) = self
            .host
            .event
            .wait_timeout_while(events, Duration::from_millis(100), |events| *events == seen)
            .expect("nobody panics with it");
        Ok(*events)
    }
}

impl Host {
    fn area(&self) -> Shared {
        // SAFETY: the session area lies at the window's base and is never freed.
        unsafe { Shared::new(self.window.load(Ordering::SeqCst)) }
    }

    fn wake(&self) {
        if self.area().u32(area::WAITERS).load(Ordering::SeqCst) > 0 {
            *crate::lock(&self.events) += 1;
            self.event.notify_all();
        }
    }

    fn gpu(&self) -> GpuInfo {
        let mut info = GpuInfo {
            name: [0; 128],
            uuid: [7; 16],
            pci: [0; 32],
            memory: DEVICE_LEN,
            driver_version: 12080,
            reserved: 0,
            attributes: [i32::MIN; GPU_ATTRIBUTES],
        };
        info.name[..4].copy_from_slice(b"Fake");
        info.pci[..16].copy_from_slice(b"00000000:17:00.0");
        info.attributes[1] = THREADS_MAX;
        info.attributes[2] = THREADS_MAX;
        info.attributes[75] = 9;
        info.attributes[76] = 0;
        info.attributes[115] = 1;
        info.attributes[HOST_MEMORY] = 1;
        info
    }
}

struct Consumer {
    host: Arc<Host>,
    ring: u32,
    memory: Shared,
    tail: u64,
    context: u32,
}

impl Consumer {
    fn run(mut self) {
        while !self.host.dead.load(Ordering::SeqCst) {
            let head = self.memory.u64(ring::HEAD).load(Ordering::SeqCst);
            if head != self.tail {
                self.next(head);
                continue;
            }
            // Asleep first, then one more look, then sleep until the doorbell.
            let bell = &self.host.doorbells[self.ring as usize];
            let asleep = self.memory.u32(ring::ASLEEP);
            asleep.store(1, Ordering::SeqCst);
            let mut rung = crate::lock(&bell.0);
            while !*rung && self.memory.u64(ring::HEAD).load(Ordering::SeqCst) == self.tail {
                rung = bell.1.wait(rung).expect("nobody panics with it");
            }
            *rung = false;
            asleep.store(0, Ordering::SeqCst);
        }
    }

    fn bytes(&self, position: u64, len: usize) -> Vec<u8> {
        let at = self
            .memory
            .ptr(ring::DATA + position % u64::from(vgpu_protocol::limits::RING_DATA_LEN));
        // SAFETY: inside the ring; the producer has published it.
        unsafe { std::slice::from_raw_parts(at, len) }.to_vec()
    }

    fn next(&mut self, head: u64) {
        ring::check_head(head, self.tail).expect("the producer's position is sound");
        let mut header = self.bytes(self.tail, 8);
        header.resize(16, 0);
        if u16::from_le_bytes([header[4], header[5]]) != op::SKIP {
            header = self.bytes(self.tail, 16);
        }
        let header = RecordHeader::read_from_bytes(&header).expect("16 bytes");
        let shape = ring::check_header(header, head, self.tail).expect("the record is sound");
        let body = self.bytes(self.tail, shape.len as usize);
        self.tail += u64::from(shape.len);
        self.memory.u64(ring::TAIL).store(self.tail, Ordering::SeqCst);
        if shape.op != op::SKIP {
            let words: Vec<u64> = (0..shape.words)
                .map(|i| {
                    u64::from_le_bytes(
                        body[HEADER_LEN as usize + 8 * i..][..8]
                            .try_into()
                            .expect("8 bytes"),
                    )
                })
                .collect();
            let blob = &body[HEADER_LEN as usize + 8 * shape.words..][..shape.blob];
            assert_eq!(header.flags & FLAG_REPLY != 0, shape.reply);
            crate::lock(&self.host.log).push((self.context, shape.op));
            let mut out = (Vec::new(), Vec::new());
            let code = self.execute(shape.op, &words, blob, &mut out).err().unwrap_or(0);
            if shape.reply {
                self.answer(code, &out.0, &out.1);
            } else if code != 0 {
                let error = self.host.area().i32(area::context_error(self.context));
                let _ = error.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
                self.host.wake();
            }
        }
        self.host.executed.0[self.ring as usize].store(self.tail, Ordering::SeqCst);
    }

    fn answer(&self, code: Code, words: &[u64], blob: &[u8]) {
        for (i, word) in words.iter().enumerate() {
            self.memory
                .u64(ring::REPLY + 8 * i as u64)
                .store(*word, Ordering::SeqCst);
        }
        let to = self.memory.ptr(ring::REPLY + 8 * words.len() as u64);
        // SAFETY: inside the reply buffer, which the producer does not read now.
        unsafe { std::ptr::copy_nonoverlapping(blob.as_ptr(), to, blob.len()) };
        self.memory.i32(ring::REPLY_STATUS).store(code, Ordering::SeqCst);
        self.memory
            .u32(ring::REPLY_WORDS)
            .store(words.len() as u32, Ordering::SeqCst);
        self.memory
            .u32(ring::REPLY_BLOB)
            .store(blob.len() as u32, Ordering::SeqCst);
        self.memory
            .u64(ring::REPLY_POS)
            .store(self.tail, Ordering::SeqCst);
        self.host.wake();
    }

    fn fence(&self, slot: u64, sequence: u64) {
        let word = self.host.area().u64(area::fence(slot as u32));
        let before = word.swap(sequence, Ordering::SeqCst);
        assert!(
            before < sequence,
            "slot {slot}: fence {sequence} came after {before}"
        );
        self.host.wake();
    }

    /// Runs one operation; results and the reply's blob go to `out`.
    fn execute(
        &mut self,
        op: u16,
        words: &[u64],
        blob: &[u8],
        out: &mut (Vec<u64>, Vec<u8>),
    ) -> Result<(), Code> {
        match op {
            op::DEPS => {
                for pair in blob.chunks(16) {
                    let word = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().expect("8 bytes"));
                    assert_ne!(word(0), u64::from(self.ring), "a ring waits for itself");
                    while self.host.executed.0[word(0) as usize].load(Ordering::SeqCst) < word(8) {
                        std::thread::yield_now();
                    }
                }
            }
            op::SET_CONTEXT => self.context = words[0] as u32,
            op::FENCE => {
                self.check_stream(words[0])?;
                assert!(
                    !crate::lock(&self.host.objects).captures.contains_key(&words[0]),
                    "fence in a capture"
                );
                self.fence(words[1], words[2]);
            }
            op::GPU_INFO => *out = (vec![1], self.host.gpu().as_bytes().to_vec()),
            calls::cuMemAlloc::OP => {
                let bytes = words[0].next_multiple_of(256);
                let used = self.host.device_used.fetch_add(bytes, Ordering::SeqCst);
                if used + bytes > DEVICE_LEN {
                    self.host.device_used.fetch_sub(bytes, Ordering::SeqCst);
                    return Err(result::OUT_OF_MEMORY);
                }
                out.0
                    .push(self.host.window.load(Ordering::SeqCst) + ARENA_LEN + used);
            }
            calls::cuMemHostRegister::OP => {
                let pinned = crate::lock(&self.host.pinned);
                let inside = |byte: u64| {
                    pinned
                        .iter()
                        .any(|(start, len)| (*start..start + len).contains(&byte))
                };
                assert!(
                    (words[0]..words[0] + words[1]).all(inside),
                    "not all of it is mapped"
                );
                if words[2] == REFUSED {
                    return Err(result::STREAM_CAPTURE_UNSUPPORTED);
                }
            }
            calls::cuMemHostUnregister::OP => {}
            calls::cuMemGetInfo::OP => out.0.extend([1 << 20, DEVICE_LEN]),
            calls::cuModuleLoadData::OP => {
                // SAFETY: the guest's buffer, mapped as long as the call.
                let image = unsafe { std::slice::from_raw_parts(words[0] as *const u8, words[1] as usize) };
                if image.first() != Some(&b'.') || image.last() != Some(&0) {
                    return Err(result::INVALID_IMAGE);
                }
            }
            calls::cuModuleGetFunction::OP => {
                let name = String::from_utf8(blob.to_vec()).expect("a name");
                let params: &[(u32, u32)] = match name.as_str() {
                    "fill" => &[(0, 8), (8, 4), (12, 4)],
                    "nothing" => &[],
                    _ => return Err(result::NOT_FOUND),
                };
                let params: Vec<_> = params
                    .iter()
                    .map(|&(offset, size)| KernelParam { offset, size })
                    .collect();
                crate::lock(&self.host.objects)
                    .functions
                    .insert(words[1] as u32, name);
                *out = (vec![params.len() as u64, 0], params.as_bytes().to_vec());
            }
            calls::cuFuncGetAttribute::OP => out.0.push(words[0] + 1),
            calls::cuStreamCreate::OP => crate::lock(&self.host.objects).streams.push(words[0] as u32),
            calls::cuStreamDestroy::OP => {
                self.check_stream(words[0])?;
                crate::lock(&self.host.objects)
                    .streams
                    .retain(|&s| u64::from(s) != words[0]);
            }
            calls::cuStreamBeginCapture::OP => {
                let mut objects = crate::lock(&self.host.objects);
                objects.captures.insert(words[0], Vec::new());
                objects.capturing.insert(words[0], words[0]);
            }
            calls::cuStreamEndCapture::OP => {
                let mut objects = crate::lock(&self.host.objects);
                let captured = objects.captures.remove(&words[0]).ok_or(result::ILLEGAL_STATE)?;
                objects.capturing.retain(|_, origin| *origin != words[0]);
                objects.graphs.insert(words[1] as u32, captured);
            }
            calls::cuGraphInstantiateWithParams::OP => {
                let mut objects = crate::lock(&self.host.objects);
                let graph = objects
                    .graphs
                    .get(&(words[0] as u32))
                    .cloned()
                    .ok_or(result::INVALID_VALUE)?;
                objects.execs.insert(words[2] as u32, graph);
                out.0.extend([0, 0, u64::from(u32::MAX)]);
            }
            calls::cuGraphLaunch::OP => {
                let nodes = crate::lock(&self.host.objects)
                    .execs
                    .get(&(words[0] as u32))
                    .cloned();
                for node in nodes.ok_or(result::INVALID_VALUE)? {
                    self.work(node.op, &node.words, &node.blob)?;
                }
            }
            calls::cuEventRecord::OP if words[3] != 0 => {
                self.check_stream(words[1])?;
                self.fence(words[2], words[3]);
            }
            calls::cuEventRecord::OP => {
                let mut objects = crate::lock(&self.host.objects);
                if let Some(&origin) = objects.capturing.get(&words[1]) {
                    objects.captured_events.insert(words[0] as u32, origin);
                }
            }
            calls::cuStreamWaitEvent::OP => {
                let mut objects = crate::lock(&self.host.objects);
                if let Some(&origin) = objects.captured_events.get(&(words[1] as u32)) {
                    objects.capturing.insert(words[0], origin);
                }
            }
            calls::cuStreamIsCapturing::OP => {
                let objects = crate::lock(&self.host.objects);
                out.0.push(objects.capturing.contains_key(&words[0]).into());
            }
            calls::cuStreamQuery::OP | calls::cuStreamSynchronize::OP => {
                if crate::lock(&self.host.objects).capturing.contains_key(&words[0]) {
                    return Err(result::STREAM_CAPTURE_UNSUPPORTED);
                }
            }
            calls::cuEventQuery::OP | calls::cuEventSynchronize::OP => {
                let objects = crate::lock(&self.host.objects);
                if objects.captured_events.contains_key(&(words[0] as u32)) {
                    return Err(result::CAPTURED_EVENT);
                }
            }
            calls::cuEventElapsedTime::OP => out.0.push(u64::from(1.5f32.to_bits())),
            _ => {
                if let Some(stream) = stream_of(op, words) {
                    self.check_stream(stream)?;
                    let mut objects = crate::lock(&self.host.objects);
                    if let Some(capture) = objects.captures.get_mut(&stream) {
                        capture.push(Captured {
                            op,
                            words: words.to_vec(),
                            blob: blob.to_vec(),
                        });
                        return Ok(());
                    }
                }
                self.work(op, words, blob)?;
            }
        }
        Ok(())
    }

    fn check_stream(&self, word: u64) -> Result<(), Code> {
        let objects = crate::lock(&self.host.objects);
        let known = word >= 1 << 32 || objects.streams.contains(&(word as u32));
        assert!(known, "a record names stream {word}, which is not there");
        Ok(())
    }

    /// Carries work out at once: every stream is done as soon as it is submitted.
    fn work(&self, op: u16, words: &[u64], blob: &[u8]) -> Result<(), Code> {
        match op {
            calls::cuMemcpyHtoDAsync::OP | calls::cuMemcpyDtoHAsync::OP | calls::cuMemcpyDtoDAsync::OP => {
                // SAFETY: memory of this process: device memory or a buffer, as the guest's library checked.
                unsafe { std::ptr::copy(words[1] as *const u8, words[0] as *mut u8, words[2] as usize) };
            }
            calls::cuMemsetD8Async::OP => {
                // SAFETY: as above.
                unsafe { std::ptr::write_bytes(words[0] as *mut u8, words[1] as u8, words[2] as usize) };
            }
            calls::cuMemsetD32Async::OP => fill(words[0], words[1] as u32, words[2] as usize),
            calls::cuLaunchKernel::OP => {
                let name = crate::lock(&self.host.objects)
                    .functions
                    .get(&(words[0] as u32))
                    .cloned();
                match name.expect("a record names a function that is there").as_str() {
                    "fill" => {
                        let u32_at =
                            |at: usize| u32::from_le_bytes(blob[at..at + 4].try_into().expect("4 bytes"));
                        let to = u64::from_le_bytes(blob[..8].try_into().expect("8 bytes"));
                        if to == 0 {
                            return Err(result::ILLEGAL_ADDRESS);
                        }
                        fill(to, u32_at(8), u32_at(12) as usize);
                    }
                    _ => assert!(blob.is_empty()),
                }
            }
            calls::cuLaunchHostFunc::OP => {
                let area = self.host.area();
                let at = area::host_function(self.ring as usize);
                area.u64(at).store(words[1], Ordering::SeqCst);
                area.u32(at + 8).store(area::HOST_FN_POSTED, Ordering::SeqCst);
                self.host.wake();
                while area.u32(at + 8).load(Ordering::SeqCst) != area::HOST_FN_DONE {
                    self.host.wake();
                    std::thread::sleep(Duration::from_micros(50));
                }
                area.u32(at + 8).store(area::HOST_FN_FREE, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The stream that a record's work belongs to.
fn stream_of(op: u16, words: &[u64]) -> Option<u64> {
    Some(match op {
        calls::cuMemcpyHtoDAsync::OP | calls::cuMemcpyDtoHAsync::OP | calls::cuMemcpyDtoDAsync::OP => {
            words[3]
        }
        calls::cuMemsetD8Async::OP | calls::cuMemsetD16Async::OP | calls::cuMemsetD32Async::OP => words[3],
        calls::cuLaunchKernel::OP => words[8],
        calls::cuLaunchHostFunc::OP => words[0],
        _ => return None,
    })
}

fn fill(to: u64, value: u32, count: usize) {
    // SAFETY: device memory of this process, which the guest's caller allocated with this size.
    unsafe { std::slice::from_raw_parts_mut(to as *mut u32, count) }.fill(value);
}

const _: () = assert!(calls::cuLaunchKernel::In::LEN == 9 && calls::cuMemcpyHtoDAsync::In::LEN == 4);
