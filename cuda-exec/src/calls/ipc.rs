//! Memory and events that processes of a VM share by their handles.
use super::BAD_HANDLE;
use super::shares::{NOTHING, What, bytes_of, token};
use crate::cuda::IpcHandle;
use crate::dispatch::handlers_of;
use crate::handles::Event;
use crate::ring::Failure;
use crate::session::Session;
use vgpu_protocol::host::SHARE_LEN;
use vgpu_protocol::result::{self, Code};

/// CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, without which no memory can be opened.
const LAZY_ENABLE_PEER_ACCESS: u32 = 1;
/// Opens another process' memory; its address and length.
fn open(session: &Session, handle: IpcHandle, flags: u32) -> Result<(u64, u64), Code> {
    let memories = &session.cuda.memories;
    let mut pointer = 0;
    // SAFETY: a place that outlives the call.
    unsafe { memories.ipc_open_mem(&mut pointer, handle, flags) }?;
    let bytes = bytes_of(session, pointer);
    let bytes = bytes.inspect_err(|_| session.survive(memories.ipc_close_mem(pointer)))?;
    Ok((pointer, bytes))
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
        let handle = || {
            let mut handle = IpcHandle([0; SHARE_LEN]);
            // SAFETY: a place that outlives the call; the pointer was just looked up, and libcuda only looks it up as well.
            unsafe { session.cuda.memories.ipc_get_mem(&mut handle, pointer) }?;
            Ok(handle.0)
        };
        reply.extend_from_slice(&session.shares.publish_memory(What::Memory, start, 0, NOTHING, handle)?);
        Ok(Out {})
    }

    cuIpcOpenMemHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        if arguments.flags != LAZY_ENABLE_PEER_ACCESS {
            return Err(result::INVALID_VALUE.into());
        }
        let handle = session.shares.find(What::Memory, token(blob)?)?.handle;
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
        session.relaxed(|| session.cuda.memories.ipc_close_mem(arguments.pointer))?;
        Ok(Out { left })
    }

    cuIpcGetEventHandle(ring, arguments, _blob, reply) {
        let session = ring.session;
        let event = ring.event(arguments.event)?;
        let mut handle = IpcHandle([0; SHARE_LEN]);
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.memories.ipc_get_event(&mut handle, event.raw?) }?;
        reply.extend_from_slice(&session.shares.publish(What::Event, handle.0)?);
        Ok(Out {})
    }

    cuIpcOpenEventHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let events = &session.objects.events;
        events.check_new(arguments.event).map_err(|_| BAD_HANDLE)?;
        let handle = session.shares.find(What::Event, token(blob)?)?.handle;
        let mut raw = 0;
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.memories.ipc_open_event(&mut raw, IpcHandle(handle)) }?;
        events.insert(arguments.event, Event { context, raw: Ok(raw) }).map_err(|_| BAD_HANDLE)?;
        Ok::<Out, Failure>(Out {})
    }
}
