//! The way through `/dev/vgpu`, the character device of the guest's kernel driver; its requests are those of
//! `guest-driver/kernel/uapi/vgpu.h`.
use crate::{ClosedInChildren, Transport, TransportError, reason};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use vgpu_protocol::gpus::{GpuName, Reply};
use vgpu_protocol::limits::{ARENA_LEN, GPUS_LEN_MAX, PAGE_LEN, WINDOW_CANDIDATES_MAX, WINDOW_LEN};
use vgpu_protocol::virtio::{Status, VERSION};

const PATH: &str = "/dev/vgpu";
/// The driver's ABI only grows; this is what a session needs.
const ABI_VERSION: u32 = 1;
const BUF_REGISTER: u32 = 1;

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Info {
    abi_version: u32,
    wire_version: u32,
    sessions_max: u32,
    rings_max: u32,
    runs_max: u32,
    page_len: u32,
    mapped_len_max: u64,
    window_len: u64,
    arena_len: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Open {
    windows_len: u32,
    wait_s: u32,
    windows: [u64; WINDOW_CANDIDATES_MAX],
    window: u64,
    session: u32,
    status: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct OpenGpus {
    open: Open,
    gpus: u64,
    gpus_len: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Alloc {
    addr: u64,
    len: u64,
    flags: u32,
    reserved: u32,
    offset: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Free {
    addr: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Pin {
    addr: u64,
    len: u64,
    flags: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Ring {
    ring: u32,
    reserved: u32,
    addr: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Gpus {
    addr: u64,
    len: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Wait {
    seen: u64,
    deadline_ns: u64,
}

/// A request of the driver: its number and what its argument is.
///
/// # Safety
/// The request of this number reads, and perhaps writes, an argument of exactly this type.
unsafe trait Request: Copy {
    /// The request's number.
    const NUMBER: libc::c_ulong;
}

/// `_IOC` of the kernel: direction (1 the kernel reads, 2 it writes), size, type 'V', number.
const fn number(direction: u64, size: usize, number: u64) -> libc::c_ulong {
    direction << 30 | (size as u64) << 16 | (b'V' as u64) << 8 | number
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct RingDestroy(Ring);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Doorbell(u32);

// SAFETY: as the driver's header declares them.
unsafe impl Request for Info {
    const NUMBER: libc::c_ulong = number(2, size_of::<Self>(), 0x40);
}
// SAFETY: as above.
unsafe impl Request for Open {
    const NUMBER: libc::c_ulong = number(3, size_of::<Self>(), 0x41);
}
// SAFETY: as above.
unsafe impl Request for Alloc {
    const NUMBER: libc::c_ulong = number(3, size_of::<Self>(), 0x42);
}
// SAFETY: as above.
unsafe impl Request for Free {
    const NUMBER: libc::c_ulong = number(1, size_of::<Self>(), 0x43);
}
// SAFETY: as above.
unsafe impl Request for Ring {
    const NUMBER: libc::c_ulong = number(1, size_of::<Self>(), 0x44);
}
// SAFETY: as above.
unsafe impl Request for RingDestroy {
    const NUMBER: libc::c_ulong = number(1, size_of::<Self>(), 0x45);
}
// SAFETY: as above.
unsafe impl Request for Doorbell {
    const NUMBER: libc::c_ulong = number(1, size_of::<Self>(), 0x46);
}
// SAFETY: as above.
unsafe impl Request for Wait {
    const NUMBER: libc::c_ulong = number(3, size_of::<Self>(), 0x47);
}
// SAFETY: as above; the memory that it names is the caller's to vouch for.
unsafe impl Request for Gpus {
    const NUMBER: libc::c_ulong = number(3, size_of::<Self>(), 0x48);
}
// SAFETY: as above; the memory that it names is the caller's to vouch for.
unsafe impl Request for OpenGpus {
    const NUMBER: libc::c_ulong = number(3, size_of::<Self>(), 0x4a);
}
// SAFETY: as above; the driver itself takes the pages of the range, and changes nothing there.
unsafe impl Request for Pin {
    const NUMBER: libc::c_ulong = number(1, size_of::<Self>(), 0x49);
}

/// An open `/dev/vgpu`.
pub struct Device {
    session: OnceLock<ClosedInChildren>,
    file: File,
}

impl Device {
    /// Opens the device and checks that it speaks our version.
    pub fn open() -> Result<Self, TransportError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .map_err(|error| reason::cannot_open(PATH, error))?;
        let device = Self {
            session: OnceLock::new(),
            file,
        };
        let mut info = Info::default();
        device
            .request(&mut info)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => TransportError::NoDevice(reason::gone(PATH)),
                _ => TransportError::NoDevice(format!("{PATH} is not a vgpu device: {error}")),
            })?;
        let is = (
            info.abi_version.min(ABI_VERSION),
            info.wire_version,
            u64::from(info.page_len),
            info.window_len,
            info.arena_len,
        );
        let wanted = (ABI_VERSION, VERSION, PAGE_LEN, WINDOW_LEN, ARENA_LEN);
        if is != wanted {
            return Err(TransportError::NoDevice(format!(
                "{PATH} speaks another version than this library: driver and library are to be of one package; \
                 (ABI, wire, page, window, arena) {is:?}, not {wanted:?}"
            )));
        }
        Ok(device)
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn request<R: Request>(&self, argument: &mut R) -> io::Result<()> {
        loop {
            // SAFETY: by `Request`'s contract the kernel accesses an argument of this type.
            let failed = unsafe { libc::ioctl(self.fd(), R::NUMBER, std::ptr::from_mut(argument)) };
            if failed >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Bytes of a huge page.
const HUGE_LEN: u64 = 2 << 20;

/// Has the kernel gather pages into huge ones, where it can: each run of pages that lie side by side costs the host a mapping,
/// and there may be only so many.
fn gather(addr: u64, len: u64) {
    let first = addr.next_multiple_of(HUGE_LEN);
    let last = (addr + len) / HUGE_LEN * HUGE_LEN;
    if first < last {
        // SAFETY: the advice changes nothing of what is there. A kernel from before Linux 6.1 does not know it.
        unsafe { libc::madvise(first as *mut _, (last - first) as usize, libc::MADV_COLLAPSE) };
    }
}

/// What the driver's error numbers mean for a program's own memory.
fn not_pinned(error: io::Error) -> TransportError {
    match error.raw_os_error() {
        Some(libc::EFAULT) => TransportError::NotItsOwn,
        Some(libc::EADDRINUSE) => TransportError::Refused(Status::Taken),
        // A driver that cannot, a host that does not know of it.
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL) => TransportError::Unsupported,
        _ => refused(error),
    }
}

/// What the driver's error numbers mean for requests other than opening.
fn refused(error: io::Error) -> TransportError {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => TransportError::NoMemory,
        Some(libc::ENOSPC) => TransportError::Refused(Status::Limit),
        Some(libc::ENODEV) => TransportError::Gone,
        _ => TransportError::Os(error),
    }
}

/// A mapping at a fixed address, which replaces what is there.
fn map(
    addr: u64,
    len: u64,
    protection: i32,
    flags: i32,
    fd: RawFd,
    offset: u64,
) -> Result<(), TransportError> {
    // SAFETY: the caller's part of the arena, which this process has reserved and uses for nothing else.
    let at = unsafe {
        libc::mmap(
            addr as *mut _,
            len as usize,
            protection,
            flags | libc::MAP_FIXED,
            fd,
            offset as libc::off_t,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(refused(io::Error::last_os_error()));
    }
    Ok(())
}

fn reserve(addr: u64, len: u64) -> Result<(), TransportError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map(addr, len, libc::PROT_NONE, flags, -1, 0)
}

impl Transport for Device {
    fn gpus(&self) -> Result<Reply, TransportError> {
        let mut bytes = vec![0u8; GPUS_LEN_MAX];
        let mut argument = Gpus {
            addr: bytes.as_mut_ptr() as u64,
            len: bytes.len() as u32,
            reserved: 0,
        };
        // The kernel writes no more than there is room for, into bytes that outlive the request.
        self.request(&mut argument)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EACCES) => TransportError::Refused(Status::Quarantined),
                Some(libc::EIO) => TransportError::Refused(Status::HostError),
                Some(libc::ENOTTY | libc::EINVAL) => TransportError::NoDevice(format!(
                    "{PATH}: its driver, or its host, tells nothing of GPUs"
                )),
                _ => refused(error),
            })?;
        let told = bytes.get(..argument.len as usize);
        told.and_then(Reply::decode)
            .ok_or(TransportError::Refused(Status::HostError))
    }

    fn open(&self, windows: &[u64], gpus: &[GpuName]) -> Result<u64, TransportError> {
        let windows = &windows[..windows.len().min(WINDOW_CANDIDATES_MAX)];
        let mut open = Open {
            windows_len: windows.len() as u32,
            ..Open::default()
        };
        open.windows[..windows.len()].copy_from_slice(windows);
        let opened = if gpus.is_empty() {
            self.request(&mut open)
        } else {
            let mut argument = OpenGpus {
                open,
                // The kernel only reads them, during the request.
                gpus: gpus.as_ptr() as u64,
                gpus_len: gpus.len() as u32,
                reserved: 0,
            };
            let opened = self.request(&mut argument);
            open = argument.open;
            opened
        };
        opened.map_err(|error| match Status::from_u32(open.status) {
                // The host has not refused: it was not asked, or answered what makes no sense.
                Status::Ok => match error.raw_os_error() {
                    Some(libc::ENOTTY) => TransportError::NoDevice(format!(
                        "{PATH}: its driver is older than this library, and cannot follow CUDA_VISIBLE_DEVICES: load the driver of \
                         the same package"
                    )),
                    Some(libc::ENODEV) => TransportError::NoDevice(reason::gone(PATH)),
                    Some(libc::EIO) => TransportError::Refused(Status::HostError),
                    _ => refused(error),
                },
                Status::Quarantined => TransportError::Quarantined(open.wait_s),
                status => TransportError::Refused(status),
            })?;
        self.session.get_or_init(|| ClosedInChildren::new(self.fd()));
        Ok(open.window)
    }

    fn alloc(&self, addr: u64, len: u64, register: bool) -> Result<(), TransportError> {
        let mut alloc = Alloc {
            addr,
            len,
            flags: if register { BUF_REGISTER } else { 0 },
            ..Alloc::default()
        };
        self.request(&mut alloc).map_err(refused)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        map(addr, len, protection, libc::MAP_SHARED, self.fd(), alloc.offset).inspect_err(|_| {
            // The program is told of the first failure; a buffer that cannot be freed ends with the file.
            let _ = self.request(&mut Free { addr });
        })
    }

    fn free(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        self.request(&mut Free { addr }).map_err(refused)?;
        reserve(addr, len)
    }

    fn pin(&self, addr: u64, len: u64) -> Result<(), TransportError> {
        gather(addr, len);
        let mut pin = Pin {
            addr,
            len,
            ..Pin::default()
        };
        self.request(&mut pin).map_err(not_pinned)
    }

    fn unpin(&self, addr: u64, _len: u64) -> Result<(), TransportError> {
        self.request(&mut Free { addr }).map_err(refused)
    }

    fn ring_create(&self, ring: u32, addr: u64) -> Result<(), TransportError> {
        let mut argument = Ring {
            ring,
            reserved: 0,
            addr,
        };
        self.request(&mut argument).map_err(refused)
    }

    fn ring_destroy(&self, ring: u32) -> Result<(), TransportError> {
        let argument = Ring {
            ring,
            ..Ring::default()
        };
        self.request(&mut RingDestroy(argument)).map_err(refused)
    }

    fn doorbell(&self, ring: u32) -> Result<(), TransportError> {
        self.request(&mut Doorbell(ring)).map_err(refused)
    }

    fn wait(&self, seen: u64, deadline_ns: u64) -> Result<u64, TransportError> {
        let mut wait = Wait { seen, deadline_ns };
        match self.request(&mut wait) {
            Ok(()) => Ok(wait.seen),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(seen),
            Err(error) => Err(refused(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that the C macros of the header come to.
    #[test]
    fn requests_have_the_headers_numbers() {
        assert_eq!(Info::NUMBER, 0x8030_5640);
        assert_eq!(Open::NUMBER, 0xc058_5641);
        assert_eq!(Alloc::NUMBER, 0xc020_5642);
        assert_eq!(Free::NUMBER, 0x4008_5643);
        assert_eq!(Ring::NUMBER, 0x4010_5644);
        assert_eq!(RingDestroy::NUMBER, 0x4010_5645);
        assert_eq!(Doorbell::NUMBER, 0x4004_5646);
        assert_eq!(Wait::NUMBER, 0xc010_5647);
        assert_eq!(Gpus::NUMBER, 0xc010_5648);
        assert_eq!(Pin::NUMBER, 0x4018_5649);
        assert_eq!(OpenGpus::NUMBER, 0xc068_564a);
    }
}
