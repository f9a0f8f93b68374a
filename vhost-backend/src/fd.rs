//! Small helpers around descriptors.
use anyhow::Context;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// A socket that this program was started with.
#[derive(Debug)]
pub enum Inherited {
    /// One that front ends connect to.
    Listening(UnixListener),
    /// One behind which a front end is.
    Connected(UnixStream),
}

/// Takes an inherited descriptor that must be a Unix socket.
pub fn inherited_socket(number: RawFd) -> anyhow::Result<Inherited> {
    anyhow::ensure!(number > 2, "--fd {number}: not a descriptor of a socket");
    // SAFETY: the caller of this program says that the descriptor is ours; borrowing it to look at it is
    // harmless even if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let listening = rustix::net::sockopt::socket_acceptconn(borrowed)
        .with_context(|| format!("--fd {number}: not a socket"))?;
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as just seen, and nobody else in this process uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(if listening {
        Inherited::Listening(UnixListener::from(socket))
    } else {
        Inherited::Connected(UnixStream::from(socket))
    })
}

/// Creates memory of `len` bytes that can neither grow nor shrink.
pub fn sealed_memory(name: &str, len: u64) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, len)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

/// Another descriptor of the same thing, close-on-exec.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// An eventfd: wakes who polls it. Close-on-exec, and never blocks.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    pub fn new() -> io::Result<Self> {
        use rustix::event::EventfdFlags;
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // It fails only when it was rung 2^64 - 2 times and nobody looked: then it is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable.
    pub fn clear(&self) {
        // It fails only when nobody rang.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
