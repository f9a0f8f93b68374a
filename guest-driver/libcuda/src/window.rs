//! Reserving address windows: ranges that nothing else in this process may use.
use vgpu_protocol::limits::{WINDOW_CANDIDATES_MAX, WINDOW_LEN};

/// Bases that are worth proposing, best first: away from where Linux puts programs, heaps, libraries and stacks,
/// and spread, since sanitizers and other allocators own some.
const CANDIDATES: [u64; WINDOW_CANDIDATES_MAX] = [
    0x4000_0000_0000,
    0x7000_0000_0000,
    0x2000_0000_0000,
    0x3000_0000_0000,
    0x1400_0000_0000,
    0x5000_0000_0000,
    0x6400_0000_0000,
    0x7400_0000_0000,
];

/// Where NVIDIA's library puts queues and doorbells in the executor, whatever else is free: no pointer of this process
/// may mean something else there.
const FIXED: (u64, u64) = (0x2_0000_0000, 0x3_0020_0000);

/// Address space that this process has set aside; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    base: u64,
    len: u64,
}

impl Reservation {
    /// Sets a range aside, if nothing is there.
    fn new(base: u64, len: u64) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping that replaces none; a kernel that does not know the flag takes the address as a
        // hint, which the comparison below sees.
        let at = unsafe { libc::mmap(base as *mut _, len as usize, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        let here = Self { base: at as u64, len };
        (here.base == base).then_some(here)
    }

    /// Its first address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Leaves it in place for as long as the process lives.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` and is nobody else's.
        unsafe { libc::munmap(self.base as *mut _, self.len as usize) };
    }
}

/// Sets all candidates aside that are free here.
pub fn candidates() -> Vec<Reservation> {
    CANDIDATES
        .iter()
        .filter_map(|&base| Reservation::new(base, WINDOW_LEN))
        .collect()
}

/// What limits this process' addresses, to be told when none are free.
pub fn limit() -> &'static str {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a place for the limit; if it cannot be asked for there is none.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    if limit.rlim_cur == libc::RLIM_INFINITY {
        ""
    } else {
        ", since `ulimit -v` limits it: addresses take no memory"
    }
}

/// Sets the driver's fixed range aside where it is free. What already lies there stays: only a program that puts
/// memory there itself could mistake one pointer for another.
pub fn reserve_fixed() {
    if let Some(range) = Reservation::new(FIXED.0, FIXED.1 - FIXED.0) {
        range.keep();
    }
}
