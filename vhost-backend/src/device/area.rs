//! The words of a session area that the backend itself writes.
use super::queues::GuestMemory;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use vgpu_protocol::{area, result};
use vm_memory::{Address, GuestAddress, GuestAddressSpace, GuestMemoryBackend, VolatileMemory};

/// Tells the guest that a session is lost: its status becomes that error unless it was one, and waiters look again.
/// `page` is where the area's first page lies.
pub fn mark_lost(guest: &GuestMemory, page: GuestAddress, code: result::Code) {
    let memory = guest.memory();
    let word = |offset: u64| {
        memory
            .get_slice(page.unchecked_add(offset), size_of::<u32>())
            .ok()
    };
    // The page was guest memory when it was mapped; if it is not any more nobody can be told.
    if let Some(slice) = word(area::STATUS)
        && let Ok(status) = slice.get_atomic_ref::<AtomicI32>(0)
    {
        let _ = status.compare_exchange(result::SUCCESS, code, Ordering::SeqCst, Ordering::SeqCst);
    }
    if let Some(slice) = word(area::EVENTS)
        && let Ok(events) = slice.get_atomic_ref::<AtomicU32>(0)
    {
        events.fetch_add(1, Ordering::SeqCst);
    }
}
