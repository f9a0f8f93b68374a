//! What the processes that use one software GPU share: a small file, mapped by all, that says whose turn it
//! is and how much memory each context has.
//!
//! Any process may be killed at any moment. The kernel then releases its lock on the state (a robust mutex)
//! and the record lock that each context has on a byte of the file: a context whose byte is not locked is
//! dead, and whoever notices first takes its turn and memory away. Record locks also tell the truth between
//! process namespaces, where process ids would not.

use super::Part;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Contexts of all processes on one device.
const SLOTS: usize = 512;
/// Changes whenever the layout does.
const MAGIC: u64 = u64::from_le_bytes(*b"softgpu2");
/// Where the record locks are: behind the data.
const LOCKS: i64 = 1 << 20;
/// How often a waiting context looks whether the one before it still lives.
const PATIENCE: Duration = Duration::from_millis(20);

/// A context's number on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(usize);

/// The content of the file. All of it may be zero, except for the mutex.
#[repr(C)]
struct Shared {
    magic: AtomicU64,
    mutex: MaybeUninit<libc::pthread_mutex_t>,
    /// Memory of the device, in bytes: the first process decides.
    total: AtomicU64,
    /// The slot whose turn it is, plus 1; or 0.
    turn: AtomicU32,
    /// How many slots want the turn or have it.
    wanting: AtomicU32,
    slots: [Entry; SLOTS],
}

#[repr(C)]
struct Entry {
    state: AtomicU32,
    /// Counts the turns given; waited on.
    turns: AtomicU32,
    /// Device memory of the context, in bytes.
    memory: AtomicU64,
    /// The process of the context, as it calls itself.
    pid: AtomicU32,
}

/// States of an entry.
const FREE: u32 = 0;
const IDLE: u32 = 1;
const WANTS: u32 = 2;

/// A device as this process sees it.
pub struct DeviceShare {
    part: Part,
    shared: NonNull<Shared>,
    /// The file, unless the device is this process' own.
    file: Option<OwnedFd>,
    /// Slots of this process.
    own: Mutex<BTreeSet<Slot>>,
}

// SAFETY: the shared part consists of atomics, and of a mutex made for use between threads and processes.
unsafe impl Send for DeviceShare {}
// SAFETY: as above.
unsafe impl Sync for DeviceShare {}

/// Descriptors that a forked child must close, so that its parent's locks end with its parent.
static DESCRIPTORS: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

extern "C" fn close_in_child() {
    for descriptor in &DESCRIPTORS {
        let fd = descriptor.load(Ordering::Relaxed);
        if fd != 0 {
            // SAFETY: closing is allowed after fork; the child has no runtime that could use it.
            unsafe { libc::close(fd as RawFd - 1) };
        }
    }
}

impl DeviceShare {
    /// The share of a device, or of an instance of one. Where the file cannot be had it is this process' own.
    pub fn open(part: Part) -> Arc<DeviceShare> {
        let (shared, file) =
            match open_file(part).and_then(|fd| Ok((map(Some(&fd), Access::Write)?, Some(fd)))) {
                Ok(found) => found,
                Err(error) => {
                    eprintln!("softgpu: {part:?} is not shared with other processes: {error}");
                    (map(None, Access::Write).unwrap_or_else(|_| fallback()), None)
                }
            };
        let share = DeviceShare {
            part,
            shared,
            file,
            own: Mutex::default(),
        };
        share.initialise();
        if let Some(file) = &share.file {
            let first = DESCRIPTORS.iter().all(|d| d.load(Ordering::Relaxed) == 0);
            let descriptor = file.as_raw_fd() as usize + 1;
            let mut places = DESCRIPTORS.iter();
            places.find(|place| {
                let taken = place.compare_exchange(0, descriptor, Ordering::Relaxed, Ordering::Relaxed);
                taken.is_ok()
            });
            if first {
                // SAFETY: the handler only reads atomics and closes descriptors.
                unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) };
            }
        }
        Arc::new(share)
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped for as long as the process lives, and all of its fields may be shared.
        unsafe { self.shared.as_ref() }
    }

    /// Makes the state anew if no other process uses it, then marks it as used.
    fn initialise(&self) {
        let alone = match &self.file {
            // SAFETY: a call on an open descriptor.
            Some(file) => unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 },
            None => true,
        };
        if alone {
            self.reset();
        }
        if let Some(file) = &self.file {
            // SAFETY: as above. This waits for another process that is making the state anew.
            unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) };
        }
        if self.shared().magic.load(Ordering::Acquire) != MAGIC {
            // Between the exclusive and the shared lock another process may have come and gone.
            self.reset();
        }
    }

    fn reset(&self) {
        // SAFETY: nobody else uses the state; zero is a valid value of every field but the mutex, which is
        // made before the magic number says that it can be used.
        unsafe {
            std::ptr::write_bytes(self.shared.as_ptr().cast::<u8>(), 0, size_of::<Shared>());
            let mut attributes = MaybeUninit::zeroed();
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(self.mutex(), attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        }
        self.shared()
            .total
            .store(self.part.configured_memory(), Ordering::Relaxed);
        self.shared().magic.store(MAGIC, Ordering::Release);
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        // SAFETY: the place of a field of a mapped structure; nothing is read.
        unsafe { (&raw mut (*self.shared.as_ptr()).mutex).cast() }
    }

    /// Locks the state. A process that died with it locked may have left a count behind that is off, so
    /// everything that is counted is counted anew.
    fn lock(&self) -> Locked<'_> {
        // SAFETY: the mutex was initialised, and is unlocked by the thread that locked it.
        let result = unsafe { libc::pthread_mutex_lock(self.mutex()) };
        let locked = Locked { share: self };
        if result == libc::EOWNERDEAD {
            // SAFETY: this thread has the mutex.
            unsafe { libc::pthread_mutex_consistent(self.mutex()) };
            locked.bury();
        }
        locked
    }

    /// A slot for a new context.
    pub fn claim(&self) -> Option<Slot> {
        let locked = self.lock();
        let free = |state: u32| {
            (0..SLOTS)
                .find(|&n| self.shared().slots[n].state.load(Ordering::Relaxed) == state)
                .map(Slot)
        };
        let slot = match free(FREE) {
            Some(slot) => slot,
            None => {
                locked.bury();
                free(FREE)?
            }
        };
        if let Some(file) = &self.file {
            set_record_lock(file, slot, libc::F_WRLCK);
        }
        self.own().insert(slot);
        locked.entry(slot).memory.store(0, Ordering::Relaxed);
        locked
            .entry(slot)
            .pid
            .store(std::process::id(), Ordering::Relaxed);
        locked.set(slot, IDLE);
        Some(slot)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, BTreeSet<Slot>> {
        self.own.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives a slot up.
    pub fn abandon(&self, slot: Slot) {
        let locked = self.lock();
        if self.own().remove(&slot) {
            locked.clear(slot);
            if let Some(file) = &self.file {
                set_record_lock(file, slot, libc::F_UNLCK);
            }
        }
    }

    /// Waits for the turn of a slot.
    pub fn acquire(&self, slot: Slot) {
        let entry = &self.shared().slots[slot.0];
        let mut seen = entry.turns.load(Ordering::Acquire);
        {
            let locked = self.lock();
            locked.set(slot, WANTS);
            if self.shared().turn.load(Ordering::Relaxed) == 0 {
                locked.grant(slot);
            }
        }
        while self.shared().turn.load(Ordering::Acquire) != slot.0 as u32 + 1 {
            if !futex_wait(&entry.turns, seen, PATIENCE) {
                self.lock().bury();
            }
            seen = entry.turns.load(Ordering::Acquire);
        }
    }

    /// Gives the turn of a slot to the next that wants it.
    pub fn release(&self, slot: Slot) {
        let locked = self.lock();
        locked.set(slot, IDLE);
        locked.pass_on(slot);
    }

    /// Whether other slots want the turn that `_slot` has.
    pub fn others_wait(&self, _slot: Slot) -> bool {
        self.shared().wanting.load(Ordering::Relaxed) > 1
    }

    /// Memory of the device, in bytes.
    pub fn total_memory(&self) -> u64 {
        self.shared().total.load(Ordering::Relaxed)
    }

    /// Memory that no context has, in bytes.
    pub fn free_memory(&self) -> u64 {
        let locked = self.lock();
        locked.bury();
        self.total_memory().saturating_sub(locked.used())
    }

    /// Takes memory for a context; false if there is not enough.
    pub fn reserve(&self, slot: Slot, bytes: u64) -> bool {
        let locked = self.lock();
        let fits = || {
            locked
                .used()
                .checked_add(bytes)
                .is_some_and(|sum| sum <= self.total_memory())
        };
        let granted = fits() || {
            locked.bury();
            fits()
        };
        if granted {
            locked.entry(slot).memory.fetch_add(bytes, Ordering::Relaxed);
        }
        granted
    }

    /// Gives memory of a context back.
    pub fn unreserve(&self, slot: Slot, bytes: u64) {
        let locked = self.lock();
        locked.entry(slot).memory.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How much memory a device has, and how much of it contexts have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
}

/// A process that has contexts on a device, and their memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub memory: u64,
}

/// Memory, for one who only looks: takes no part in it, and changes nothing.
pub fn usage(part: Part) -> Usage {
    look(part, |shared, contexts| Usage {
        total: shared.total.load(Ordering::Relaxed),
        used: contexts
            .iter()
            .map(|entry| entry.memory.load(Ordering::Relaxed))
            .fold(0, u64::saturating_add),
    })
    .unwrap_or_else(|| Usage {
        total: part.configured_memory(),
        used: 0,
    })
}

/// The processes that have contexts there, for one who only looks.
pub fn processes(part: Part) -> Vec<Process> {
    let by_pid = look(part, |_, contexts| {
        let mut by_pid = BTreeMap::new();
        for entry in contexts {
            let memory: &mut u64 = by_pid.entry(entry.pid.load(Ordering::Relaxed)).or_default();
            *memory = memory.saturating_add(entry.memory.load(Ordering::Relaxed));
        }
        by_pid
    });
    let all = by_pid.into_iter().flatten();
    all.map(|(pid, memory)| Process { pid, memory }).collect()
}

/// What can be seen of the state and of the contexts that live; `None` if there are none.
fn look<T>(part: Part, see: impl FnOnce(&Shared, &[&Entry]) -> T) -> Option<T> {
    let file = std::fs::File::open(path(part)).ok()?;
    if file.metadata().ok()?.len() < size_of::<Shared>() as u64 {
        return None;
    }
    let file = OwnedFd::from(file);
    let place = map(Some(&file), Access::Read).ok()?;
    // SAFETY: just mapped, never shrunk, and what is read of it are atomics.
    let shared = unsafe { place.as_ref() };
    let live = |slot: usize| {
        let entry = &shared.slots[slot];
        let taken = entry.state.load(Ordering::Relaxed) != FREE && has_record_lock(&file, Slot(slot));
        taken.then_some(entry)
    };
    let contexts: Vec<&Entry> = (0..SLOTS).filter_map(live).collect();
    let made = shared.magic.load(Ordering::Acquire) == MAGIC && !contexts.is_empty();
    let seen = made.then(|| see(shared, &contexts));
    // SAFETY: the mapping made above, which nothing refers to any more.
    unsafe { libc::munmap(place.as_ptr().cast(), size_of::<Shared>()) };
    seen
}

/// The state, while no other thread of any process changes it.
struct Locked<'a> {
    share: &'a DeviceShare,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: this thread locked it.
        unsafe { libc::pthread_mutex_unlock(self.share.mutex()) };
    }
}

impl Locked<'_> {
    fn entry(&self, slot: Slot) -> &Entry {
        &self.share.shared().slots[slot.0]
    }

    fn state(&self, slot: Slot) -> u32 {
        self.entry(slot).state.load(Ordering::Relaxed)
    }

    fn set(&self, slot: Slot, state: u32) {
        let before = self.entry(slot).state.swap(state, Ordering::Relaxed);
        let wanting = &self.share.shared().wanting;
        match (before == WANTS, state == WANTS) {
            (false, true) => wanting.fetch_add(1, Ordering::Relaxed),
            (true, false) => wanting.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }

    fn used(&self) -> u64 {
        (0..SLOTS)
            .filter(|&n| self.state(Slot(n)) != FREE)
            .map(|n| self.entry(Slot(n)).memory.load(Ordering::Relaxed))
            .fold(0, u64::saturating_add)
    }

    fn grant(&self, slot: Slot) {
        self.share
            .shared()
            .turn
            .store(slot.0 as u32 + 1, Ordering::Release);
        self.entry(slot).turns.fetch_add(1, Ordering::Release);
        futex_wake(&self.entry(slot).turns);
    }

    /// If `from` has the turn, another gets it.
    fn pass_on(&self, from: Slot) {
        if self.share.shared().turn.load(Ordering::Relaxed) == from.0 as u32 + 1 {
            self.grant_after(from);
        }
    }

    /// The turn goes to the next slot round, behind `from`, that wants it and lives.
    fn grant_after(&self, from: Slot) {
        let shared = self.share.shared();
        let mut round = (1..=SLOTS).map(|n| Slot((from.0 + n) % SLOTS));
        let next = loop {
            if shared.wanting.load(Ordering::Relaxed) == 0 {
                break None;
            }
            match round.find(|slot| self.state(*slot) == WANTS) {
                Some(slot) if self.is_dead(slot) => self.forget(slot),
                found => break found,
            }
        };
        match next {
            Some(slot) => self.grant(slot),
            None => shared.turn.store(0, Ordering::Release),
        }
    }

    /// Whether the process of a slot has ended.
    fn is_dead(&self, slot: Slot) -> bool {
        match &self.share.file {
            // A descriptor does not see its own locks.
            Some(file) => !self.share.own().contains(&slot) && !has_record_lock(file, slot),
            None => false,
        }
    }

    fn forget(&self, slot: Slot) {
        self.entry(slot).memory.store(0, Ordering::Relaxed);
        self.set(slot, FREE);
    }

    fn clear(&self, slot: Slot) {
        self.forget(slot);
        self.pass_on(slot);
    }

    /// Takes everything away from contexts whose process has ended.
    fn bury(&self) {
        for slot in (0..SLOTS).map(Slot) {
            if self.state(slot) != FREE && self.is_dead(slot) {
                self.clear(slot);
            }
        }
        // A process that died in the middle of a change may have left the count wrong, or the turn with
        // nobody.
        let wanting = (0..SLOTS).filter(|&n| self.state(Slot(n)) == WANTS).count();
        self.share
            .shared()
            .wanting
            .store(wanting as u32, Ordering::Relaxed);
        let turn = self.share.shared().turn.load(Ordering::Relaxed) as usize;
        let holder = turn.checked_sub(1).filter(|n| *n < SLOTS).map(Slot);
        if holder.is_none_or(|slot| self.state(slot) != WANTS) {
            self.grant_after(holder.unwrap_or(Slot(0)));
        }
    }
}

/// The directory of the files.
fn directory() -> String {
    std::env::var("VGPU_SOFTGPU_DIR").unwrap_or_else(|_| {
        // SAFETY: has no preconditions.
        format!("/dev/shm/vgpu-softgpu-{}", unsafe { libc::getuid() })
    })
}

/// Whether device `number` has fallen off its bus: there is a file `lost-<number>` in the directory.
pub fn is_lost(number: u32) -> bool {
    std::path::Path::new(&directory())
        .join(format!("lost-{number}"))
        .exists()
}

/// What a sensor of device `number` says: there is a line `name value` in the file `sensors-<number>` in the directory.
pub fn sensor(number: u32, name: &str) -> Option<u64> {
    sensor_in(
        &std::fs::read_to_string(format!("{}/sensors-{number}", directory())).ok()?,
        name,
    )
}

/// A line that does not read as a name and a number says nothing.
fn sensor_in(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(of, _)| *of == name)?;
    value.trim().parse().ok()
}

/// The first Xid of device `number` that was injected after the first `seen`, and how many there are up to it. With
/// `seen` of `None` only how many there are.
pub fn xid_after(number: u32, seen: Option<usize>) -> (Option<u64>, usize) {
    let text = std::fs::read_to_string(format!("{}/xid-{number}", directory())).unwrap_or_default();
    // One that is being written has no end of its line yet.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = || whole.lines();
    let Some(seen) = seen else {
        return (None, lines().count());
    };
    match lines().nth(seen) {
        Some(line) => (line.trim().parse().ok(), seen + 1),
        None => (None, seen),
    }
}

/// The file of a device, or of an instance of one.
fn path(part: Part) -> String {
    let directory = directory();
    match part.instance {
        None => format!("{directory}/gpu{}", part.device),
        Some(instance) => format!("{directory}/gpu{}-mig{instance}", part.device),
    }
}

fn open_file(part: Part) -> std::io::Result<OwnedFd> {
    let directory = directory();
    if let Err(error) = std::fs::create_dir(&directory)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let path = CString::new(path(part))?;
    // In a directory with the sticky bit the kernel refuses O_CREAT for a file that exists and belongs to
    // somebody else, so the two cases are told apart.
    for flags in [0, libc::O_CREAT | libc::O_EXCL, 0] {
        // SAFETY: the path is a terminated string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | flags, 0o666) };
        if fd >= 0 {
            // SAFETY: just opened, and owned by nothing else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if flags != 0 {
                // The directory says who may use the device, not the umask of the first process.
                // SAFETY: a call on an open descriptor.
                unsafe { libc::fchmod(fd.as_raw_fd(), 0o666) };
            }
            // SAFETY: as above. Never shrinks the file, since all versions of it have this size.
            if unsafe { libc::ftruncate(fd.as_raw_fd(), size_of::<Shared>() as i64) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            return Ok(fd);
        }
        let error = std::io::Error::last_os_error();
        if !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists
        ) {
            return Err(error);
        }
    }
    Err(std::io::Error::last_os_error())
}

/// What a mapping of the state is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

fn map(file: Option<&OwnedFd>, access: Access) -> std::io::Result<NonNull<Shared>> {
    let (flags, fd) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let protection = match access {
        Access::Read => libc::PROT_READ,
        Access::Write => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: a new mapping wherever there is room touches nothing that exists.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<Shared>(),
            protection,
            flags,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

/// Where not even a page can be mapped, the heap must do.
fn fallback() -> NonNull<Shared> {
    let zeroed = Box::new(MaybeUninit::<Shared>::zeroed());
    NonNull::from(Box::leak(zeroed)).cast()
}

fn record_lock(slot: Slot, kind: libc::c_int) -> libc::flock {
    // SAFETY: zero is a valid value of every field.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = LOCKS + slot.0 as i64;
    lock.l_len = 1;
    lock
}

fn set_record_lock(file: &OwnedFd, slot: Slot, kind: libc::c_int) {
    let lock = record_lock(slot, kind);
    // SAFETY: a call on an open descriptor with a valid structure.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } != 0 {
        eprintln!("softgpu: record lock: {}", std::io::Error::last_os_error());
    }
}

fn has_record_lock(file: &OwnedFd, slot: Slot) -> bool {
    let mut lock = record_lock(slot, libc::F_WRLCK);
    // SAFETY: as above. Where the question fails, nobody is taken for dead.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } == 0;
    !asked || lock.l_type != libc::F_UNLCK as libc::c_short
}

/// False if the time was up.
fn futex_wait(word: &AtomicU32, seen: u32, patience: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    // SAFETY: the word and the time are valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            seen,
            &timeout,
            0usize,
            0u32,
        )
    };
    result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is valid for the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            i32::MAX,
            0usize,
            0usize,
            0u32,
        )
    };
}
