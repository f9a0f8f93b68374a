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
//! | [`TEXT`] | u32 | host | what the guest should know of text that kernels print |
//! | [`CONTEXT_ERRORS`] | i32 × [`CONTEXTS_MAX`] | host sets, guest takes | first failure of a call that nobody waited for, by context |
//! | [`HOST_FUNCTIONS`] | [`HOST_FUNCTIONS_MAX`] × 16 bytes | both | host functions to run, and their acknowledgement |
//! | [`FENCES`] | u64 × [`STREAMS_MAX`] | GPU | the sequence number that each stream has reached |
//! | [`LAST_TEXT`] | u32, u32, bytes | host | the last text of a session that ended: bytes for standard output and for standard error, then both |
use crate::limits::{AREA_LEN, CONTEXTS_MAX, HOST_FUNCTIONS_MAX, STREAMS_MAX};

/// Offset of the status word.
pub const STATUS: u64 = 0;
/// Offset of the count of events.
pub const EVENTS: u64 = 64;
/// Offset of the count of sleeping guest threads.
pub const WAITERS: u64 = 128;
/// Offset of the word about text: bits below. While any is set the guest asks for text ([`crate::ring::op::TEXT`]) behind
/// what it waits for.
pub const TEXT: u64 = 192;
/// There is text.
pub const TEXT_IS_THERE: u32 = 1;
/// A module was loaded whose kernels print.
pub const TEXT_PRINTS: u32 = 2;
/// A module was loaded whose kernels may: the host is looking.
pub const TEXT_MAY_PRINT: u32 = 4;
/// Offset of the contexts' error words.
pub const CONTEXT_ERRORS: u64 = 4096;
/// Offset of the host-function slots: each a u64 cookie, then a u32 state ([`HOST_FN_FREE`],
/// [`HOST_FN_POSTED`], [`HOST_FN_DONE`]), then a zero u32.
pub const HOST_FUNCTIONS: u64 = 8192;
/// Offset of the fence words.
pub const FENCES: u64 = 16384;

/// Offset of the last text.
pub const LAST_TEXT: u64 = FENCES + 8 * STREAMS_MAX as u64;
/// Bytes of it at most, behind its two lengths.
pub const LAST_TEXT_LEN: usize = 8192;

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
const _: () = assert!(LAST_TEXT + 8 + LAST_TEXT_LEN as u64 <= AREA_LEN);
