//! The way to the backend's table of what the sessions of a VM share. What libcuda calls a handle, a descriptor among them, never
//! leaves the host: the backend keeps it, and the guest gets a token for it.
use crate::session::Session;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareReply, ShareRequest};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::packet;
use zerocopy::{FromBytes, IntoBytes};

/// A handle, or the token for one.
pub type Bytes = [u8; SHARE_LEN];

/// No handle, where a descriptor is one; and what is no part of anything.
pub const NOTHING: Bytes = [0; SHARE_LEN];

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An allocation of `cuMemAlloc`.
    Memory = 1,
    Event,
    /// Memory of `cuMemCreate`: a descriptor.
    Allocation,
    /// A pool: a descriptor.
    Pool,
    /// An allocation of a pool, found with the pool's token only.
    Pointer,
}

/// Something that another session shares.
#[derive(Debug)]
pub struct Found {
    /// The handle.
    pub handle: Bytes,
    /// Bytes of memory, by the other executor's word: good enough to count them, and for nothing else.
    pub len: u64,
    file: Option<OwnedFd>,
}

impl Found {
    /// The descriptor.
    pub fn file(&self) -> Result<&OwnedFd, Code> {
        self.file.as_ref().ok_or(result::UNKNOWN)
    }
}

/// See the module.
#[derive(Default)]
pub struct Shares {
    /// Where there is none, nothing is shared.
    socket: OnceLock<Mutex<OwnedFd>>,
    /// Tokens of the allocations that are shared, by address.
    published: Mutex<HashMap<u64, (What, Bytes)>>,
    /// How many [`Part`]s there are.
    parts: AtomicUsize,
}

/// What this session has together with other processes by a descriptor, while this lives.
#[derive(Debug)]
pub struct Part(&'static AtomicUsize);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// How long the backend may take to answer.
const BACKEND_WAIT: Duration = Duration::from_secs(10);

/// The token of something that is shared by a descriptor: made when it is first wanted, withdrawn with the thing itself.
#[derive(Debug, Default)]
pub struct Token(Mutex<Option<(Bytes, Part)>>);

impl Token {
    fn token(&self) -> MutexGuard<'_, Option<(Bytes, Part)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token, if it was made.
    pub fn made(&self) -> Option<Bytes> {
        self.token().as_ref().map(|(token, _)| *token)
    }

    /// The token; `export` makes the descriptor that it stands for.
    pub fn get(
        &self,
        shares: &'static Shares,
        what: What,
        len: u64,
        export: impl FnOnce() -> Result<OwnedFd, Code>,
    ) -> Result<Bytes, Code> {
        let mut made = self.token();
        if let Some((token, _)) = &*made {
            return Ok(*token);
        }
        let request = request(ShareKind::Publish, what, NOTHING);
        let token = shares
            .ask(&ShareRequest { len, ..request }, Some(export()?))?
            .handle;
        *made = Some((token, shares.part()));
        Ok(token)
    }

    /// Nobody finds it any more, and the backend has closed the descriptor.
    pub fn withdraw(&self, shares: &Shares, what: What) {
        if let Some((token, _part)) = self.token().take() {
            shares.forget(what, token);
        }
    }
}

fn request(kind: ShareKind, what: What, bytes: Bytes) -> ShareRequest {
    ShareRequest {
        kind: kind as u32,
        what: what as u32,
        len: 0,
        bytes,
        of: NOTHING,
    }
}

impl Shares {
    /// Takes the socket to the backend's table. Once.
    pub fn connect(&self, socket: OwnedFd) -> std::io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&socket, Timeout::Recv, Some(BACKEND_WAIT))?;
        // The only caller.
        let _ = self.socket.set(Mutex::new(socket));
        Ok(())
    }

    fn ask(&self, request: &ShareRequest, file: Option<OwnedFd>) -> Result<Found, Code> {
        let socket = self.socket.get().ok_or(result::NOT_SUPPORTED)?;
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        packet::send_bytes(&*socket, request.as_bytes(), &files).map_err(|error| lost(&error))?;
        let (bytes, files) =
            packet::receive_bytes(&*socket, size_of::<ShareReply>()).map_err(|error| lost(&error))?;
        let reply = ShareReply::read_from_bytes(&bytes).map_err(|_| result::UNKNOWN)?;
        match Status::from_u32(reply.status) {
            Status::Ok => Ok(Found {
                handle: reply.bytes,
                len: reply.len,
                file: files.into_iter().next(),
            }),
            Status::Limit => Err(result::OUT_OF_MEMORY),
            Status::NotFound => Err(result::INVALID_VALUE),
            _ => Err(result::UNKNOWN),
        }
    }

    /// Lets the VM's other sessions find a handle; its token.
    pub fn publish(&self, what: What, handle: Bytes) -> Result<Bytes, Code> {
        let found = self.ask(&request(ShareKind::Publish, what, handle), None)?;
        Ok(found.handle)
    }

    /// Does so with the handle of an allocation that starts at `pointer`, until it is freed: the token, which is made once.
    /// `of` is the token of the pool that it is of.
    pub fn publish_memory(
        &self,
        what: What,
        pointer: u64,
        len: u64,
        of: Bytes,
        handle: impl FnOnce() -> Result<Bytes, Code>,
    ) -> Result<Bytes, Code> {
        if let Some((_, token)) = self.published().get(&pointer) {
            return Ok(*token);
        }
        let request = request(ShareKind::Publish, what, handle()?);
        let token = self.ask(&ShareRequest { len, of, ..request }, None)?.handle;
        self.published().insert(pointer, (what, token));
        Ok(token)
    }

    /// What a token stands for.
    pub fn find(&self, what: What, token: Bytes) -> Result<Found, Code> {
        self.ask(&request(ShareKind::Find, what, token), None)
    }

    /// The same of a part of something.
    pub fn find_part(&self, what: What, token: Bytes, of: Bytes) -> Result<Found, Code> {
        let request = request(ShareKind::Find, what, token);
        self.ask(&ShareRequest { of, ..request }, None)
    }

    /// Something that other processes may have, or that is of one of them.
    pub fn part(&'static self) -> Part {
        self.parts.fetch_add(1, SeqCst);
        Part(&self.parts)
    }

    /// Whether other processes may have memory of this session's, or it has imported theirs.
    pub fn has_shared(&self) -> bool {
        self.parts.load(SeqCst) > 0 || !self.published().is_empty()
    }

    fn published(&self) -> MutexGuard<'_, HashMap<u64, (What, Bytes)>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An allocation is gone: nobody finds it any more.
    pub fn withdraw(&self, pointer: u64) {
        let token = self.published().remove(&pointer);
        if let Some((what, token)) = token {
            self.forget(what, token);
        }
    }

    fn forget(&self, what: What, token: Bytes) {
        if let Err(code) = self.ask(&request(ShareKind::Withdraw, what, token), None) {
            log::debug!("what was shared stays in the table: error {code}");
        }
    }
}

fn lost(error: &packet::PacketError) -> Code {
    log::error!("the backend's table of what is shared: {error}");
    result::OPERATING_SYSTEM
}

/// The bytes of memory that libcuda has just imported to an address, if that lies where the guest left room.
pub fn bytes_of(session: &Session, pointer: u64) -> Result<u64, Code> {
    let (mut base, mut bytes) = (0, 0);
    // SAFETY: two places that outlive the call.
    let range = unsafe {
        session
            .cuda
            .memories
            .address_range(&mut base, &mut bytes, pointer)
    };
    let (bytes, room) = (bytes as u64, session.memory.room());
    let end = pointer.checked_add(bytes);
    if range.is_ok() && base == pointer && pointer >= room.start && end.is_some_and(|end| end <= room.end) {
        return Ok(bytes);
    }
    log::error!("shared memory at {pointer:#x} is {bytes} bytes at {base:#x}: not where the guest left room");
    Err(result::OUT_OF_MEMORY)
}

/// The token in a blob.
pub fn token(blob: &[u8]) -> Result<Bytes, Code> {
    Bytes::try_from(blob).map_err(|_| result::INVALID_VALUE)
}
