//! Memory and events that processes of a VM share. What libcuda calls a handle never leaves the host: the backend keeps it, and the
//! guest gets a token for it.
use super::{BAD_HANDLE, unknown};
use crate::cuda::IpcHandle;
use crate::dispatch::handlers_of;
use crate::handles::Event;
use crate::ring::Failure;
use crate::session::Session;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use vgpu_protocol::calls::{cuIpcGetEventHandle, cuIpcOpenEventHandle};
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareReply, ShareRequest};
use vgpu_protocol::limits::{ARENA_LEN, WINDOW_LEN};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::packet;
use zerocopy::{FromBytes, IntoBytes};

type Bytes = [u8; SHARE_LEN];

/// What a token stands for.
const MEMORY: u32 = 1;
const EVENT: u32 = 2;
/// CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, without which no memory can be opened.
const LAZY_ENABLE_PEER_ACCESS: u32 = 1;
/// How long the backend may take to answer.
const BACKEND_WAIT: Duration = Duration::from_secs(10);

/// The way to the backend's table.
#[derive(Default)]
pub struct Shares {
    /// Where there is none, nothing is shared.
    socket: OnceLock<Mutex<OwnedFd>>,
    /// Tokens of the allocations that are shared, by address.
    published: Mutex<HashMap<u64, Bytes>>,
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

    fn ask(&self, kind: ShareKind, what: u32, bytes: Bytes) -> Result<Bytes, Code> {
        let socket = self.socket.get().ok_or(result::NOT_SUPPORTED)?;
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kind as u32;
        let request = ShareRequest { kind, what, bytes };
        packet::send_bytes(&*socket, request.as_bytes(), &[]).map_err(|error| lost(&error))?;
        let (bytes, _) =
            packet::receive_bytes(&*socket, size_of::<ShareReply>()).map_err(|error| lost(&error))?;
        let reply = ShareReply::read_from_bytes(&bytes).map_err(|_| result::UNKNOWN)?;
        match Status::from_u32(reply.status) {
            Status::Ok => Ok(reply.bytes),
            Status::Limit => Err(result::OUT_OF_MEMORY),
            Status::NotFound => Err(result::INVALID_VALUE),
            _ => Err(result::UNKNOWN),
        }
    }

    /// An allocation is gone: nobody finds it any more.
    pub fn withdraw(&self, pointer: u64) {
        let published = || self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let token = published().remove(&pointer);
        if let Some(token) = token
            && let Err(code) = self.ask(ShareKind::Withdraw, MEMORY, token)
        {
            log::debug!("what was shared at {pointer:#x} stays in the table: error {code}");
        }
    }
}

fn lost(error: &packet::PacketError) -> Code {
    log::error!("the backend's table of what is shared: {error}");
    result::OPERATING_SYSTEM
}

fn token(blob: &[u8]) -> Result<Bytes, Code> {
    Bytes::try_from(blob).map_err(|_| result::INVALID_VALUE)
}

/// Opens another process' memory; its address and length.
fn open(session: &Session, handle: IpcHandle, flags: u32) -> Result<(u64, u64), Code> {
    let memories = &session.cuda.memories;
    let (mut pointer, mut base, mut bytes) = (0, 0, 0);
    // SAFETY: a place that outlives the call.
    unsafe { memories.ipc_open_mem(&mut pointer, handle, flags) }?;
    // SAFETY: two places that outlive the call.
    let range = unsafe { memories.address_range(&mut base, &mut bytes, pointer) };
    let room = session.memory.window() + ARENA_LEN..session.memory.window() + WINDOW_LEN;
    let end = pointer.checked_add(bytes as u64);
    if range.is_ok() && base == pointer && pointer >= room.start && end.is_some_and(|end| end <= room.end) {
        return Ok((pointer, bytes as u64));
    }
    log::error!("shared memory at {pointer:#x} is {bytes} bytes at {base:#x}: not where the guest left room");
    session.survive(memories.ipc_close_mem(pointer));
    Err(result::OUT_OF_MEMORY)
}

handlers_of! {
    cuIpcGetMemHandle(ring, arguments, _blob, reply) {
        let session = ring.session;
        let _context = ring.context()?;
        let pointer = arguments.pointer;
        let start = {
            let view = session.memory.view();
            let found = view.device().allocation(pointer);
            found.ok_or(result::INVALID_VALUE)?
        };
        let mut handle = IpcHandle([0; SHARE_LEN]);
        // SAFETY: a place that outlives the call; the pointer was just looked up, and libcuda only looks it up as well.
        unsafe { session.cuda.memories.ipc_get_mem(&mut handle, pointer) }?;
        let token = session.shares.ask(ShareKind::Publish, MEMORY, handle.0)?;
        session.shares.published.lock().unwrap_or_else(PoisonError::into_inner).insert(start, token);
        reply.extend_from_slice(&token);
        Ok(Out {})
    }

    cuIpcOpenMemHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        if arguments.flags != LAZY_ENABLE_PEER_ACCESS {
            return Err(result::INVALID_VALUE.into());
        }
        let handle = session.shares.ask(ShareKind::Find, MEMORY, token(blob)?)?;
        let (pointer, bytes) = open(session, IpcHandle(handle), arguments.flags)?;
        session.memory.device(|device| device.import(pointer, bytes, context.id));
        super::memory::still_there(session, &context, pointer)?;
        Ok(Out { pointer, bytes })
    }

    cuIpcCloseMemHandle(ring, arguments) {
        let session = ring.session;
        let _context = ring.context()?;
        let left = session.memory.device(|device| device.close_imported(arguments.pointer));
        let left = left.ok_or(result::INVALID_VALUE)?;
        session.cuda.memories.ipc_close_mem(arguments.pointer)?;
        Ok(Out { left })
    }

    cuIpcGetEventHandle(ring, arguments, _blob, reply) {
        let session = ring.session;
        let event = ring.event(cuIpcGetEventHandle::OP, arguments.event).map_err(|_| BAD_HANDLE)?;
        let mut handle = IpcHandle([0; SHARE_LEN]);
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.memories.ipc_get_event(&mut handle, event.raw?) }?;
        reply.extend_from_slice(&session.shares.ask(ShareKind::Publish, EVENT, handle.0)?);
        Ok(Out {})
    }

    cuIpcOpenEventHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let events = &session.objects.events;
        let taken = |_| unknown(cuIpcOpenEventHandle::OP, arguments.event);
        events.check_new(arguments.event).map_err(|_| BAD_HANDLE)?;
        let handle = session.shares.ask(ShareKind::Find, EVENT, token(blob)?)?;
        let mut raw = 0;
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.memories.ipc_open_event(&mut raw, IpcHandle(handle)) }?;
        events.insert(arguments.event, Event { context, raw: Ok(raw) }).map_err(taken)?;
        Ok::<Out, Failure>(Out {})
    }
}
