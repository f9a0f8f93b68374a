//! The session area: 64 KiB of words in guest RAM at the start of the session's arena, mapped in the guest
//! process and registered in its executor.
//!
//! Everything here is a hint to the host and a result to the guest: the guest (and its kernels) can write all
//! of it, so no word decides anything on the host beyond waking somebody early.
//!
//! | offset | words | written by | meaning |
//! | --- | --- | --- | --- |
//! | [`STATUS`] | i32 | host | 0, or the error that ended the session: final, every later call returns it |
//! | [`EVENTS`] | u32 | host | grows whenever a waiter should look again: a fence passed, a reply was written, a host function was posted, the status was set |
//! | [`WAITERS`] | u32 | guest | how many threads sleep; while it is 0 the host sends no event |
//! | [`CONTEXT_ERRORS`] | i32 × [`CONTEXTS_MAX`] | host sets, guest takes | first failure of a call that nobody waited for, by context |
//! | [`HOST_FUNCTIONS`] | [`HOST_FUNCTIONS_MAX`] × 16 bytes | both | host functions to run, and their acknowledgement |
//! | [`FENCES`] | u64 × [`STREAMS_MAX`] | GPU | the sequence number that each stream has reached |
use crate::limits::{AREA_LEN, CONTEXTS_MAX, HOST_FUNCTIONS_MAX, STREAMS_MAX};

/// Offset of the status word.
pub const STATUS: u64 = 0;
/// Offset of the count of events.
pub const EVENTS: u64 = 64;
/// Offset of the count of sleeping guest threads.
pub const WAITERS: u64 = 128;
/// Offset of the contexts' error words.
pub const CONTEXT_ERRORS: u64 = 4096;
/// Offset of the host-function slots: each a u64 cookie, then a u32 state ([`HOST_FN_FREE`],
/// [`HOST_FN_POSTED`], [`HOST_FN_DONE`]), then a zero u32.
pub const HOST_FUNCTIONS: u64 = 8192;
/// Offset of the fence words.
pub const FENCES: u64 = 16384;

/// A host-function slot is free; written by the host when it has seen [`HOST_FN_DONE`].
pub const HOST_FN_FREE: u32 = 0;
/// The host asks the guest to run the function with the slot's cookie; written after the cookie.
pub const HOST_FN_POSTED: u32 = 1;
/// The guest has run it.
pub const HOST_FN_DONE: u32 = 2;

/// Offset of a context's error word; `context` is below [`CONTEXTS_MAX`].
pub const fn context_error(context: u32) -> u64 {
    CONTEXT_ERRORS + 4 * (context % CONTEXTS_MAX) as u64
}
/// Offset of a host-function slot; `slot` is below [`HOST_FUNCTIONS_MAX`].
pub const fn host_function(slot: usize) -> u64 {
    HOST_FUNCTIONS + 16 * (slot % HOST_FUNCTIONS_MAX) as u64
}
/// Offset of a stream's fence word; `stream` is below [`STREAMS_MAX`].
pub const fn fence(stream: u32) -> u64 {
    FENCES + 8 * (stream % STREAMS_MAX) as u64
}

const _: () = assert!(CONTEXT_ERRORS + 4 * CONTEXTS_MAX as u64 <= HOST_FUNCTIONS);
const _: () = assert!(HOST_FUNCTIONS + 16 * HOST_FUNCTIONS_MAX as u64 <= FENCES);
const _: () = assert!(FENCES + 8 * STREAMS_MAX as u64 <= AREA_LEN);
