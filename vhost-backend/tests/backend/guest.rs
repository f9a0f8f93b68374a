//! A guest process in this process, or in one of its own that can be killed.
use crate::executor::HANGING_LEN;
use crate::host::deadline_ns;
use rustix::mm::{MapFlags, ProtFlags};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vgpu_protocol::limits::{AREA_LEN, PAGE_LEN, WINDOW_LEN};
use vgpu_protocol::virtio::Status;
use vgpu_protocol::{area, ring};
use vgpu_transport::socket::Socket;
use vgpu_transport::{Transport, TransportError};

/// The environment variable that makes this program a guest process that hangs in a request.
pub const MARK: &str = "VGPU_TEST_GUEST";
/// Bytes of the window that tests use.
const RESERVED_LEN: u64 = 64 << 20;
/// Bytes of shared memory.
const MEMORY_LEN: u64 = 64 << 20;
/// Bytes of a buffer that holds a ring.
pub const RING_BUFFER_LEN: u64 = ring::RING_LEN.next_multiple_of(PAGE_LEN);

/// A session with its area.
pub struct Guest {
    pub transport: Socket,
    pub window: u64,
    seen: u64,
}

/// A window that no other test of this process uses, partly reserved.
pub fn window() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(4);
    let base = NEXT.fetch_add(1, Ordering::SeqCst) * WINDOW_LEN;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a new mapping, and never over another one.
    unsafe {
        rustix::mm::mmap_anonymous(base as *mut _, RESERVED_LEN as usize, ProtFlags::empty(), flags).unwrap()
    };
    base
}

impl Guest {
    /// Connects and opens a session.
    pub fn open(socket: &Path) -> Self {
        let transport = Socket::connect_with(socket, MEMORY_LEN).unwrap();
        let window = window();
        assert_eq!(
            transport.open(&[window, window + 4 * WINDOW_LEN], &[]).unwrap(),
            window
        );
        transport.alloc(window, AREA_LEN, true).unwrap();
        Self {
            transport,
            window,
            seen: 0,
        }
    }

    /// An address in the window.
    pub fn at(&self, offset: u64) -> u64 {
        self.window + AREA_LEN + offset
    }

    /// A 64-bit word in a buffer.
    pub fn word(&self, addr: u64) -> &AtomicU64 {
        assert!(addr.is_multiple_of(8) && addr >= self.window);
        // SAFETY: what the tests name is mapped, and aligned.
        unsafe { AtomicU64::from_ptr(addr as *mut u64) }
    }

    /// The area's status word.
    pub fn status(&self) -> i32 {
        // SAFETY: the area is mapped, and the word aligned.
        let word = unsafe { AtomicU32::from_ptr((self.window + area::STATUS) as *mut u32) };
        word.load(Ordering::SeqCst) as i32
    }

    /// Allocates a buffer at `addr` and has a ring in it consumed.
    pub fn ring(&self, number: u32, addr: u64) {
        self.transport.alloc(addr, RING_BUFFER_LEN, false).unwrap();
        self.transport.ring_create(number, addr).unwrap();
    }

    /// Waits for the next event.
    pub fn wait(&mut self) {
        let now = self.transport.wait(self.seen, deadline_ns()).unwrap();
        assert_ne!(now, self.seen, "no event came");
        self.seen = now;
    }

    /// Waits until the session has ended: its status.
    pub fn wait_lost(&mut self) -> i32 {
        while self.status() == 0 {
            self.wait();
        }
        self.status()
    }

    /// Writes a command into a ring, rings, and waits until it was consumed.
    pub fn command(&mut self, number: u32, addr: u64, command: &[u64]) {
        for (index, &word) in command.iter().enumerate() {
            self.word(addr + ring::DATA + 8 * index as u64)
                .store(word, Ordering::SeqCst);
        }
        let head = self.word(addr + ring::HEAD).fetch_add(64, Ordering::SeqCst) + 64;
        self.transport.doorbell(number).unwrap();
        while self.word(addr + ring::TAIL).load(Ordering::SeqCst) != head {
            self.wait();
        }
    }
}

/// Whether the host refused with this status.
pub fn refused<T>(result: Result<T, TransportError>, expected: Status) -> bool {
    match result {
        Err(TransportError::Refused(status)) => status == expected,
        Err(TransportError::Quarantined(wait_s)) => {
            expected == Status::Quarantined && wait_s == QUARANTINE_WAIT_S
        }
        _ => false,
    }
}

/// For how long a VM is quarantined in these tests.
pub const QUARANTINE_WAIT_S: u32 = 42;

/// Starts a guest process that makes a request which is never answered.
pub fn spawn_hanging(socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(MARK, socket)
        .spawn()
        .unwrap()
}

/// Counts the threads of a guest process that opens a session and drops it again.
pub fn threads_left(socket: &Path) -> String {
    let command = Command::new(std::env::current_exe().unwrap())
        .env(MARK, socket)
        .env("VGPU_TEST_DROP", "1")
        .output()
        .unwrap();
    String::from_utf8(command.stdout).unwrap()
}

/// That process.
pub fn run(socket: &Path) {
    let guest = Guest::open(socket);
    if std::env::var_os("VGPU_TEST_DROP").is_some() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        drop(guest);
        print!("{before} then {}", threads());
        return;
    }
    let _ = guest.transport.alloc(guest.at(0), HANGING_LEN, false);
}
