//! A stand-in for `vgpu-exec`. It maps guest memory where it is told, and consumes rings in its own way: after a doorbell it
//! looks at the first data word of the ring, does what that says, copies the ring's head to its tail, and says "look".
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vgpu_protocol::host::{
    EXEC_SOCKET_FD, ExecHeader, ExecKind, ExecMap, ExecReply, ExecRun, REQUEST_LEN_MAX, Start,
};
use vgpu_protocol::limits::PAGE_LEN;
use vgpu_protocol::virtio::{RingCreate, RingDestroy, Status, Unmap};
use vgpu_protocol::{area, ring};
use vgpu_sched_api::messages::FromExec;
use vgpu_sched_api::packet;
use zerocopy::{FromBytes, IntoBytes};

/// The environment variable that makes this program an executor.
pub const MARK: &str = "VGPU_TEST_EXECUTOR";
/// A mapping of this length is never answered.
pub const HANGING_LEN: u64 = 13 * PAGE_LEN;
/// A mapping of this length is refused with `Limit`.
pub const REFUSED_LEN: u64 = 17 * PAGE_LEN;
/// The second message of a mapping of this length fails, and with it the whole mapping.
pub const FAILING_LEN: u64 = 23 * PAGE_LEN;
/// A mapping of this length is answered with nonsense.
pub const NONSENSE_LEN: u64 = 19 * PAGE_LEN;

/// In a ring's first data word: nothing but the echo.
pub const ECHO: u64 = 0;
/// End without a word.
pub const DIE: u64 = 1;
/// Sum up the words of the mapping whose address and length are in the next two words, each times its place from 1, into
/// the word after these.
pub const SUM: u64 = 2;

/// Consumes until the backend is gone.
pub fn run() {
    // SAFETY: the backend has put the socket there, and nothing else here uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(EXEC_SOCKET_FD) };
    let extra = std::fs::read_dir("/proc/self/fd")
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
                .filter(|&fd| fd > EXEC_SOCKET_FD)
                .count()
        })
        .unwrap_or(0);
    // One is the listing itself.
    assert!(extra <= 1, "{extra} descriptors came along");
    let mut executor = Executor {
        socket,
        window: 0,
        look: None,
        memory: Vec::new(),
        maps: BTreeMap::new(),
        rings: BTreeMap::new(),
        session: None,
    };
    while let Ok((bytes, fds)) = packet::receive_bytes(&executor.socket, REQUEST_LEN_MAX) {
        executor.serve(&bytes, fds);
    }
}

struct Executor {
    socket: OwnedFd,
    window: u64,
    look: Option<Arc<File>>,
    memory: Vec<(OwnedFd, u64)>,
    maps: BTreeMap<u64, u64>,
    rings: BTreeMap<u32, u64>,
    session: Option<OwnedFd>,
}

impl Executor {
    fn serve(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let (header, body) = ExecHeader::read_from_prefix(bytes).unwrap();
        let kind = ExecKind::from_u32(header.kind).unwrap();
        if kind == ExecKind::Map {
            let (map, _) = ExecMap::read_from_prefix(body).unwrap();
            if map.len == HANGING_LEN {
                eprintln!("executor hangs");
                loop {
                    std::thread::park();
                }
            }
            if map.len == NONSENSE_LEN {
                packet::send_bytes(&self.socket, b"what?", &[]).unwrap();
            }
        }
        let (status, value) = match self.act(kind, body, fds) {
            Ok(value) => (Status::Ok, value),
            Err(status) => (status, 0),
        };
        let reply = ExecReply {
            sequence: header.sequence,
            status: status as u32,
            value,
        };
        packet::send_bytes(&self.socket, reply.as_bytes(), &[]).unwrap();
    }

    fn act(&mut self, kind: ExecKind, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<u64, Status> {
        match kind {
            ExecKind::Start => {
                let start = Start::read_from_bytes(body).unwrap();
                self.look = Some(Arc::new(File::from(fds.remove(0))));
                self.window = start.windows[0];
                return Ok(self.window);
            }
            ExecKind::Memory => {
                let lens = body.chunks_exact(8).map(|len| u64::read_from_bytes(len).unwrap());
                self.memory = fds.into_iter().zip(lens).collect();
            }
            ExecKind::Scheduler => {
                assert_eq!(fds.len(), 2);
                packet::send(&fds[0], &FromExec::Want, &[]).unwrap();
                self.session = Some(fds.remove(0));
            }
            ExecKind::Map => return self.map(body),
            ExecKind::Unmap => {
                let unmap = Unmap::read_from_bytes(body).unwrap();
                let len = self.maps.remove(&unmap.addr).ok_or(Status::NotFound)?;
                // SAFETY: only this program's own mapping is there.
                unsafe { rustix::mm::munmap(unmap.addr as *mut _, len as usize).unwrap() };
            }
            ExecKind::RingCreate => {
                let create = RingCreate::read_from_bytes(body).unwrap();
                self.rings.insert(create.ring, create.addr);
                let (area, look) = (self.window, self.look.clone().unwrap());
                let doorbell = File::from(fds.remove(0));
                std::thread::spawn(move || consume(create.addr, area, doorbell, &look));
            }
            ExecKind::RingDestroy => {
                let destroy = RingDestroy::read_from_bytes(body).unwrap();
                self.rings.remove(&destroy.ring).ok_or(Status::NotFound)?;
            }
        }
        Ok(0)
    }

    fn map(&mut self, body: &[u8]) -> Result<u64, Status> {
        let (map, runs) = ExecMap::read_from_prefix(body).unwrap();
        if map.len == REFUSED_LEN {
            return Err(Status::Limit);
        }
        if map.len == FAILING_LEN && map.offset > 0 {
            let begun = self.maps.remove(&map.addr).unwrap();
            // SAFETY: only this program's own mapping is there.
            unsafe { rustix::mm::munmap(map.addr as *mut _, begun as usize).unwrap() };
            return Err(Status::HostError);
        }
        let mut at = map.addr + map.offset;
        for run in runs.chunks_exact(size_of::<ExecRun>()) {
            let run = ExecRun::read_from_bytes(run).unwrap();
            let (file, len) = &self.memory[run.region as usize];
            assert!(run.offset + run.len <= *len);
            let (flags, access) = (
                MapFlags::SHARED | MapFlags::FIXED_NOREPLACE,
                ProtFlags::READ | ProtFlags::WRITE,
            );
            // SAFETY: a new mapping, and never over another one.
            let mapped = unsafe {
                rustix::mm::mmap(
                    at as *mut _,
                    run.len as usize,
                    access,
                    flags,
                    file.as_fd(),
                    run.offset,
                )
            };
            mapped.map_err(|_| Status::HostError)?;
            at += run.len;
        }
        self.maps.insert(map.addr, at - map.addr);
        Ok(0)
    }
}

fn word(addr: u64) -> &'static AtomicU64 {
    // SAFETY: what the tests name is mapped, aligned, and stays so while it is used.
    unsafe { AtomicU64::from_ptr(addr as *mut u64) }
}

fn consume(ring_addr: u64, area_addr: u64, mut doorbell: File, look: &File) {
    loop {
        // The backend's descriptor does not block, so it is waited for.
        let mut fds = [rustix::event::PollFd::new(
            &doorbell,
            rustix::event::PollFlags::IN,
        )];
        if rustix::event::poll(&mut fds, None).is_err() || doorbell.read(&mut [0; 8]).is_err() {
            continue;
        }
        let data = ring_addr + ring::DATA;
        match word(data).load(Ordering::SeqCst) {
            DIE => std::process::exit(3),
            SUM => {
                let (addr, len) = (
                    word(data + 8).load(Ordering::SeqCst),
                    word(data + 16).load(Ordering::SeqCst),
                );
                let words = (1u64..).zip((addr..addr + len).step_by(8));
                let sum = words.fold(0u64, |sum, (place, addr)| {
                    sum.wrapping_add(word(addr).load(Ordering::SeqCst).wrapping_mul(place))
                });
                word(data + 24).store(sum, Ordering::SeqCst);
            }
            _ => {}
        }
        let head = word(ring_addr + ring::HEAD).load(Ordering::SeqCst);
        word(ring_addr + ring::TAIL).store(head, Ordering::SeqCst);
        // SAFETY: the area is mapped as long as the session lives.
        let events = unsafe { AtomicU32::from_ptr((area_addr + area::EVENTS) as *mut u32) };
        events.fetch_add(1, Ordering::SeqCst);
        rustix::io::write(look, &1u64.to_ne_bytes()).unwrap();
    }
}
