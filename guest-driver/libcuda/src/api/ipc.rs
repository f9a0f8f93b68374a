//! Memory and events that processes of this VM share. A handle is a token that the host gave for it; it means nothing to other VMs.
use super::cuda;
use crate::abi::{CUdeviceptr, CUevent, IpcHandle, Out};
use crate::device_memory::{DeviceMemory, Origin};
use crate::objects::{Event, Recorded};
use crate::session::Call;
use std::ffi::c_uint;
use std::sync::Mutex;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, without which no memory can be opened.
const LAZY_ENABLE_PEER_ACCESS: c_uint = 1;

/// The token in an answer.
pub(super) fn handle(bytes: &[u8]) -> Result<IpcHandle, Code> {
    bytes.try_into().map(IpcHandle).map_err(|_| result::UNKNOWN)
}

cuda! {
    fn cuIpcGetMemHandle(place: Out<IpcHandle>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        place.check()?;
        let known = call.session.find_device(pointer, 1);
        let is_own = known.is_some_and(|(_, memory)| memory.origin == Origin::Own && memory.module.is_none());
        if !is_own {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuIpcGetMemHandle::In { pointer };
        let (_, token) = call.ask_with::<calls::cuIpcGetMemHandle::Call>(context, arguments, &[])?;
        place.set(handle(&token)?)
    }

    fn cuIpcOpenMemHandle_v2(place: Out<CUdeviceptr>, token: IpcHandle, flags: c_uint) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        place.check()?;
        if flags != LAZY_ENABLE_PEER_ACCESS {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuIpcOpenMemHandle::In { flags };
        let (out, _) = call.ask_with::<calls::cuIpcOpenMemHandle::Call>(context, arguments, &token.0)?;
        let memory = DeviceMemory {
            origin: Origin::Imported,
            ..DeviceMemory::allocated(out.bytes, context)
        };
        call.session.device_memory().insert(out.pointer, memory);
        place.set(out.pointer)
    }

    fn cuIpcCloseMemHandle(pointer: CUdeviceptr) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        let known = call.session.device_memory().get(&pointer).copied();
        if known.is_none_or(|memory| memory.origin != Origin::Imported) {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuIpcCloseMemHandle::In { pointer };
        if call.ask::<calls::cuIpcCloseMemHandle::Call>(context, arguments)?.left == 0 {
            call.session.device_memory().remove(&pointer);
        }
        Ok(())
    }

    fn cuIpcGetEventHandle(place: Out<IpcHandle>, event: CUevent) {
        let call = Call::enter()?;
        place.check()?;
        let event = call.session.events.get(event).ok_or(result::INVALID_HANDLE)?;
        if !event.shared {
            return Err(result::INVALID_HANDLE);
        }
        let arguments = calls::cuIpcGetEventHandle::In { event: event.id };
        let (_, token) = call.ask_with::<calls::cuIpcGetEventHandle::Call>(event.context, arguments, &[])?;
        place.set(handle(&token)?)
    }

    fn cuIpcOpenEventHandle(place: Out<CUevent>, token: IpcHandle) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        place.check()?;
        let events = &call.session.events;
        let id = events.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuIpcOpenEventHandle::In { event: id };
        if let Err(code) = call.ask_with::<calls::cuIpcOpenEventHandle::Call>(context, arguments, &token.0) {
            events.release(id);
            return Err(code);
        }
        // Another process records it: only the host knows when it is done.
        let event = Event {
            id,
            context,
            timing: false,
            shared: true,
            recorded: Mutex::new(Recorded::AtHost),
        };
        place.set(events.insert(id, event).handle())
    }
}
