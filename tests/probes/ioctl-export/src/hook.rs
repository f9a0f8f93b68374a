//! The exported `ioctl`: passes every call on, counts it, and notes the resource manager objects
//! it creates. It takes no lock and makes no other call, so it can run on any thread, and the
//! caller's `errno` is what the system call left.

use std::cell::Cell;
use std::ffi::{c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

/// Calls by type (bits 8 to 15) and number (bits 0 to 7) of the request.
static CALLS: [AtomicU32; 1 << 16] = [const { AtomicU32::new(0) }; 1 << 16];

/// `NV_ESC_RM_ALLOC`: type `F`, this number.
const RM_ALLOC: u32 = 0x2b;
const NVIDIA: u32 = b'F' as u32;

/// An object that the resource manager made for this process.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// The descriptor it was made through; controls go the same way.
    pub fd: c_int,
    pub client: u32,
    pub parent: u32,
    pub handle: u32,
    pub class: u32,
    /// The engine type of a channel group (1 to 8: graphics and compute); 0 for other classes.
    pub engine: u32,
    /// Whether it was made by a thread that had called [`mark_thread`].
    pub by_marked_thread: bool,
}

const TSG: u32 = 0xa06c;
const SUBDEVICE: u32 = 0x2080;

impl Object {
    pub fn is_tsg(&self) -> bool {
        self.class == TSG
    }
    pub fn is_channel(&self) -> bool {
        self.class > TSG && self.class & 0xff == 0x6f
    }
    pub fn is_subdevice(&self) -> bool {
        self.class == SUBDEVICE
    }
    pub fn is_compute_tsg(&self) -> bool {
        self.is_tsg() && (1..=8).contains(&self.engine)
    }
}

/// One slot per object, filled once. `ready` is set last.
struct Slot {
    words: [AtomicU32; 7],
    ready: AtomicU32,
}

const SLOTS: usize = 2048;
static OBJECTS: [Slot; SLOTS] = [const {
    Slot {
        words: [const { AtomicU32::new(0) }; 7],
        ready: AtomicU32::new(0),
    }
}; SLOTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

/// Marks the objects that this thread makes from now on.
pub fn mark_thread() {
    MARKED.set(true);
}

/// The parameters of `NV_ESC_RM_ALLOC`, as far as both of its forms agree.
#[repr(C)]
struct RmAlloc {
    client: u32,
    parent: u32,
    handle: u32,
    class: u32,
    params: u64,
}

/// The executable's `ioctl`. The C prototype is variadic; on x86-64 a variadic integer or pointer
/// argument travels like a named one, so this definition receives the third argument as it is.
///
/// # Safety
/// As for the system call: `arg` must be what `request` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, arg) } as c_int;
    let key = request as u32 & 0xffff;
    CALLS[key as usize].fetch_add(1, Relaxed);
    if result == 0 && key == NVIDIA << 8 | RM_ALLOC {
        // SAFETY: the driver accepted `arg` as the parameters of this request; their size is in
        // bits 16 to 29.
        unsafe { note_alloc(fd, arg.cast(), (request as usize >> 16) & 0x3fff) };
    }
    result
}

/// # Safety
/// `arg` points to `size` readable bytes that `NV_ESC_RM_ALLOC` accepted.
unsafe fn note_alloc(fd: c_int, arg: *const u32, size: usize) {
    // The status is the last but one word of the long form (padded), the last of the short one.
    let status_at = if size >= 48 { 10 } else { 7 };
    if size < 32 {
        return;
    }
    // SAFETY: both forms have at least 32 bytes and begin with the fields of `RmAlloc`; the long
    // one has 48.
    let (alloc, status) = unsafe { (&*arg.cast::<RmAlloc>(), *arg.add(status_at)) };
    let mut object = Object {
        fd,
        client: alloc.client,
        parent: alloc.parent,
        handle: alloc.handle,
        class: alloc.class,
        engine: 0,
        by_marked_thread: MARKED.try_with(Cell::get).unwrap_or(false),
    };
    if status != 0 || !(object.is_tsg() || object.is_channel() || object.is_subdevice()) {
        return;
    }
    if object.is_tsg() && alloc.params != 0 {
        // SAFETY: the driver just read the group's parameters there; the engine type is word 3.
        object.engine = unsafe { *(alloc.params as *const u32).add(3) };
    }
    let Some(slot) = OBJECTS.get(NEXT.fetch_add(1, Relaxed)) else {
        return;
    };
    let words = [
        object.fd as u32,
        object.client,
        object.parent,
        object.handle,
        object.class,
        object.engine,
        u32::from(object.by_marked_thread),
    ];
    for (to, word) in slot.words.iter().zip(words) {
        to.store(word, Relaxed);
    }
    slot.ready.store(1, Release);
}

/// The objects made so far.
pub fn objects() -> Vec<Object> {
    OBJECTS
        .iter()
        .filter(|slot| slot.ready.load(Acquire) == 1)
        .map(|slot| {
            let word = |i: usize| slot.words[i].load(Relaxed);
            Object {
                fd: word(0) as c_int,
                client: word(1),
                parent: word(2),
                handle: word(3),
                class: word(4),
                engine: word(5),
                by_marked_thread: word(6) == 1,
            }
        })
        .collect()
}

/// (type, number, how often) of the requests seen, the most frequent first.
pub fn calls() -> Vec<(u8, u8, u32)> {
    let mut seen: Vec<_> = CALLS
        .iter()
        .enumerate()
        .map(|(key, n)| ((key >> 8) as u8, key as u8, n.load(Relaxed)))
        .filter(|call| call.2 > 0)
        .collect();
    seen.sort_by_key(|call| std::cmp::Reverse(call.2));
    seen
}
