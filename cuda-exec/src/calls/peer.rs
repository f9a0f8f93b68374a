//! What one GPU of the session may do with the memory of another.
use super::BAD_HANDLE;
use crate::dispatch::handlers_of;
use crate::handles::Context;
use crate::ring::{Consumer, Failure};
use std::sync::Arc;
use vgpu_protocol::limits::ATOMIC_OPERATIONS_MAX;
use vgpu_protocol::result::{self, Code};
use zerocopy::{FromBytes, IntoBytes};

/// The context with that id. It stays while libcuda looks at it.
fn context_of(ring: &Consumer, id: u32) -> Result<Arc<Context>, Failure> {
    ring.session.objects.contexts.get(id).ok_or(BAD_HANDLE)
}

/// Asks what can be done of each of the operations in a blob; `ask` gets a place for the answers, the operations, and how many they are.
pub(super) fn atomics(
    blob: &[u8],
    reply: &mut Vec<u8>,
    ask: impl FnOnce(*mut u32, *const u32, u32) -> Result<(), Code>,
) -> Result<(), Code> {
    let operations = <[u32]>::ref_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
    if operations.is_empty() || operations.len() > ATOMIC_OPERATIONS_MAX {
        return Err(result::INVALID_VALUE);
    }
    let mut can = vec![0u32; operations.len()];
    ask(can.as_mut_ptr(), operations.as_ptr(), operations.len() as u32)?;
    reply.extend_from_slice(can.as_bytes());
    Ok(())
}

handlers_of! {
    cuCtxEnablePeerAccess(ring, arguments) {
        let _context = ring.context()?;
        let peer = context_of(ring, arguments.context)?;
        ring.session.cuda.memories.enable_peer(peer.raw, arguments.flags)?;
        Ok(Out {})
    }

    cuCtxDisablePeerAccess(ring, arguments) {
        let _context = ring.context()?;
        let peer = context_of(ring, arguments.context)?;
        ring.session.cuda.memories.disable_peer(peer.raw)?;
        Ok(Out {})
    }

    cuDeviceCanAccessPeer(ring, arguments) {
        let cuda = &ring.session.cuda;
        let can = cuda.memories.can_access_peer(cuda.device(arguments.device)?, cuda.device(arguments.peer)?)?;
        Ok(Out { can })
    }

    cuDeviceGetP2PAttribute(ring, arguments) {
        let cuda = &ring.session.cuda;
        let (device, peer) = (cuda.device(arguments.device)?, cuda.device(arguments.peer)?);
        let value = cuda.memories.p2p_attribute(arguments.attribute, device, peer)?;
        Ok(Out { value })
    }

    cuDeviceGetP2PAtomicCapabilities(ring, arguments, blob, reply) {
        let cuda = &ring.session.cuda;
        let (device, peer) = (cuda.device(arguments.device)?, cuda.device(arguments.peer)?);
        atomics(blob, reply, |can, operations, len| {
            // SAFETY: two arrays that are as long as is said and outlive the call.
            unsafe { cuda.memories.p2p_atomics(can, operations, len, device, peer) }
        })?;
        Ok(Out {})
    }
}
