//! Layout of a command ring, of the records in it and of their replies.
//!
//! A ring is [`RING_LEN`] bytes of guest RAM: one page of positions, the reply buffer, then the data.
//! One guest thread writes records, one executor thread runs them in order. Positions are bytes since the
//! ring's creation, 64-bit, never wrapping; the byte at position p lies at `DATA + p % RING_DATA_LEN`. A record
//! never wraps round the end of the data: a [`op::SKIP`] record fills what is left.
//!
//! | offset | word | written by | meaning |
//! | --- | --- | --- | --- |
//! | [`HEAD`] | u64 | guest | position after the last whole record; stored with release order |
//! | [`TAIL`] | u64 | host | position up to which records were copied out: their bytes may be overwritten |
//! | [`ASLEEP`] | u32 | host | 1 while the consumer sleeps: after moving `HEAD` the guest then rings the doorbell |
//! | [`REPLY_POS`] | u64 | host | position after the record that was answered; stored last, with release order |
//! | [`REPLY_STATUS`] | i32 | host | the call's CUresult |
//! | [`REPLY_WORDS`] | u32 | host | result words in the reply buffer |
//! | [`REPLY_BLOB`] | u32 | host | bytes of the blob after them |
//! | [`REPLY`] | [`REPLY_LEN_MAX`] bytes | host | result words, then the blob |
//!
//! To sleep, the consumer sets `ASLEEP` to 1, then looks at `HEAD` once more (both sequentially consistent); the
//! producer stores `HEAD`, then looks at `ASLEEP`. So one of them always sees the other.
//!
//! A record is a [`RecordHeader`], its argument words, its blob, and padding to 8 bytes. The host copies the
//! header once and checks it, then copies the record once into memory of its own and checks that; the ring is
//! not read again for it. Whatever does not fit the rules ends the session.
use crate::limits::{RECORD_LEN_MAX, REPLY_LEN_MAX, RING_DATA_LEN, WORDS_MAX};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Offset of the producer's position.
pub const HEAD: u64 = 0;
/// Offset of the consumer's position.
pub const TAIL: u64 = 64;
/// Offset of the sleep flag.
pub const ASLEEP: u64 = 128;
/// Offset of the answered position.
pub const REPLY_POS: u64 = 192;
/// Offset of the answered call's result.
pub const REPLY_STATUS: u64 = 200;
/// Offset of the count of result words.
pub const REPLY_WORDS: u64 = 204;
/// Offset of the length of the reply's blob.
pub const REPLY_BLOB: u64 = 208;
/// Offset of the reply buffer.
pub const REPLY: u64 = 4096;
/// Offset of the data.
pub const DATA: u64 = REPLY + REPLY_LEN_MAX as u64;
/// Bytes of a whole ring.
pub const RING_LEN: u64 = DATA + RING_DATA_LEN as u64;

/// In [`RecordHeader::flags`]: the producer waits for a reply.
pub const FLAG_REPLY: u16 = 1;

/// Starts every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHeader {
    /// Bytes of the record: header, words, blob and padding; a multiple of 8.
    pub len: u32,
    /// An operation: one of [`op`], or a call's number in [`crate::calls`].
    pub op: u16,
    /// [`FLAG_REPLY`] or 0.
    pub flags: u16,
    /// Argument words after the header.
    pub words: u16,
    /// Zero.
    pub reserved: u16,
    /// Bytes of the blob after the words.
    pub blob: u32,
}

/// Bytes of a record's header.
pub const HEADER_LEN: u32 = size_of::<RecordHeader>() as u32;
const _: () = assert!(HEADER_LEN == 16);

/// Operations that are not CUDA calls.
pub mod op {
    /// Fills the data up to its end. No words; the record's length reaches to the end.
    pub const SKIP: u16 = 1;
    /// Wait until other rings have come as far. Words: (ring, position) pairs, from 1 up to
    /// [`crate::limits::DEPS_MAX`]; as a blob of u64 pairs, since they may be more than a call's words.
    pub const DEPS: u16 = 2;
    /// The calling thread's current context. Words: context (0 for none).
    pub const SET_CONTEXT: u16 = 3;
    /// Write a fence behind a stream's work. Words: stream, slot (below `STREAMS_MAX`), sequence number.
    pub const FENCE: u16 = 4;
    /// What kernels printed. Words: what the guest has waited for, so that the host waits for the same ([`TEXT_OF_NOTHING`] to
    /// [`TEXT_OF_EVENT`]), and the stream's word or the event's id, else 0. Needs a reply: three words, the bytes for standard
    /// output, those for standard error, and 1 if there is more; then a blob of both.
    pub const TEXT: u16 = 6;
    /// In [`TEXT`]: nothing, the current context, a stream, an event.
    pub const TEXT_OF_NOTHING: u64 = 0;
    /// See [`TEXT_OF_NOTHING`].
    pub const TEXT_OF_CONTEXT: u64 = 1;
    /// See [`TEXT_OF_NOTHING`].
    pub const TEXT_OF_STREAM: u64 = 2;
    /// See [`TEXT_OF_NOTHING`].
    pub const TEXT_OF_EVENT: u64 = 3;
    /// What there is to know of the session's GPUs. Needs a reply: one word, the count of GPUs, then a blob of that many
    /// [`super::GpuInfo`].
    pub const GPU_INFO: u16 = 5;
}

/// A record's header that passed every check that needs no more than the header and the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordShape {
    /// Bytes of the record.
    pub len: u32,
    /// The operation.
    pub op: u16,
    /// Whether the producer waits for a reply.
    pub reply: bool,
    /// Argument words.
    pub words: usize,
    /// Bytes of the blob.
    pub blob: usize,
}

/// What is wrong with a ring's content. It ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// `HEAD` moved backwards, by more than the ring holds, or is no multiple of 8.
    Position { head: u64, tail: u64 },
    /// A record's length is no multiple of 8, out of bounds, past `HEAD` or past the end of the data.
    Length { len: u32, available: u64 },
    /// Words and blob do not fill the record: more than it holds, or 8 bytes or more short of it.
    Shape { len: u32, words: u16, blob: u32 },
    /// A flag or a reserved field is set that this version does not know.
    Reserved,
    /// No such operation.
    Op(u16),
    /// An operation has other arguments than its row in the table says.
    Arguments { op: u16 },
}

impl std::fmt::Display for RingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Position { head, tail } => {
                write!(
                    f,
                    "ring position jumped: head {head} with tail {tail}, ring of {RING_DATA_LEN} bytes"
                )
            }
            Self::Length { len, available } => {
                write!(
                    f,
                    "record length {len}: expected a multiple of 8 from {HEADER_LEN} to {RECORD_LEN_MAX} and at most {available}"
                )
            }
            Self::Shape { len, words, blob } => {
                write!(
                    f,
                    "record of {len} bytes does not hold {words} words and a blob of {blob} bytes"
                )
            }
            Self::Reserved => write!(f, "a reserved field or flag of a record is set"),
            Self::Op(op) => write!(f, "unknown operation {op:#06x}"),
            Self::Arguments { op } => write!(f, "wrong arguments for operation {op:#06x}"),
        }
    }
}
impl std::error::Error for RingError {}

/// Checks a producer's position against the consumer's own.
pub fn check_head(head: u64, tail: u64) -> Result<(), RingError> {
    match head.checked_sub(tail) {
        Some(n) if n <= u64::from(RING_DATA_LEN) && n % 8 == 0 => Ok(()),
        _ => Err(RingError::Position { head, tail }),
    }
}

/// Checks the header of the record at `tail`, once copied; `head` has passed [`check_head`].
pub fn check_header(header: RecordHeader, head: u64, tail: u64) -> Result<RecordShape, RingError> {
    let to_end = u64::from(RING_DATA_LEN) - tail % u64::from(RING_DATA_LEN);
    let available = head.saturating_sub(tail).min(to_end);
    let RecordHeader {
        len,
        op,
        flags,
        words,
        reserved,
        blob,
    } = header;
    let skip = op == op::SKIP;
    let shortest = if skip { 8 } else { HEADER_LEN };
    if len % 8 != 0 || len < shortest || u64::from(len) > available || (!skip && len > RECORD_LEN_MAX) {
        return Err(RingError::Length { len, available });
    }
    if skip {
        return if u64::from(len) == to_end {
            Ok(RecordShape {
                len,
                op,
                reply: false,
                words: 0,
                blob: 0,
            })
        } else {
            Err(RingError::Length { len, available })
        };
    }
    if flags & !FLAG_REPLY != 0 || reserved != 0 {
        return Err(RingError::Reserved);
    }
    let full = u64::from(HEADER_LEN) + 8 * u64::from(words) + u64::from(blob);
    if usize::from(words) > WORDS_MAX || full > u64::from(len) || u64::from(len) - full >= 8 {
        return Err(RingError::Shape { len, words, blob });
    }
    Ok(RecordShape {
        len,
        op,
        reply: flags & FLAG_REPLY != 0,
        words: usize::from(words),
        blob: blob as usize,
    })
}

/// Bytes of a record with that many words and bytes of blob.
pub const fn record_len(words: usize, blob: usize) -> usize {
    (HEADER_LEN as usize + 8 * words + blob).next_multiple_of(8)
}

/// Where a producer that stands at `head` writes a record of `len` bytes: `None` if it fits before the end of
/// the data, else the length of the SKIP record that must come first.
///
/// A SKIP shorter than a header is written as its first 8 bytes only (length, op, flags).
pub fn skip_before(head: u64, len: u32) -> Option<u32> {
    let to_end = u64::from(RING_DATA_LEN) - head % u64::from(RING_DATA_LEN);
    (u64::from(len) > to_end).then_some(to_end as u32)
}

/// What a session may know of one GPU, as the reply to [`op::GPU_INFO`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpuInfo {
    /// Device name, zero-padded.
    pub name: [u8; 128],
    /// UUID.
    pub uuid: [u8; 16],
    /// PCI bus id as text ("00000000:17:00.0"), zero-padded.
    pub pci: [u8; 32],
    /// Bytes of memory.
    pub memory: u64,
    /// The driver's CUDA version, such as 13000.
    pub driver_version: u32,
    /// Zero.
    pub reserved: u32,
    /// Device attributes by their number (CUdevice_attribute); entry 0 is unused, ones that the driver does not know are `i32::MIN`.
    pub attributes: [i32; GPU_ATTRIBUTES],
}

/// Device attributes that are fetched: numbers 1 up to this, exclusive.
pub const GPU_ATTRIBUTES: usize = 160;
const _: () = assert!(size_of::<GpuInfo>() * crate::limits::GPUS_MAX as usize <= REPLY_LEN_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(len: u32, words: u16, blob: u32) -> RecordHeader {
        RecordHeader {
            len,
            op: 0x100,
            flags: 0,
            words,
            reserved: 0,
            blob,
        }
    }

    #[test]
    fn a_position_that_jumps_is_refused() {
        assert!(check_head(16, 0).is_ok());
        assert!(check_head(0, 16).is_err());
        assert!(check_head(u64::from(RING_DATA_LEN) + 8, 0).is_err());
        assert!(check_head(12, 0).is_err());
    }

    #[test]
    fn a_record_past_head_or_past_the_end_is_refused() {
        assert!(check_header(header(24, 1, 0), 24, 0).is_ok());
        assert!(check_header(header(24, 1, 0), 16, 0).is_err());
        let end = u64::from(RING_DATA_LEN) - 16;
        assert!(check_header(header(24, 1, 0), end + 64, end).is_err());
        assert!(check_header(header(24, 2, 0), 24, 0).is_err());
        assert!(check_header(header(32, 1, 0), 32, 0).is_err());
        assert!(check_header(header(24, 0, 1), 24, 0).is_ok());
    }

    proptest! {
        #[test]
        fn any_header_is_refused_or_lies_within_the_data(len: u32, op: u16, flags: u16, words: u16, reserved: u16, blob: u32,
                                                       tail in 0u64..1 << 40, ahead in 0u64..=u64::from(RING_DATA_LEN)) {
            let tail = tail / 8 * 8;
            let head = tail + ahead / 8 * 8;
            check_head(head, tail).unwrap();
            if let Ok(shape) = check_header(RecordHeader { len, op, flags, words, reserved, blob }, head, tail) {
                prop_assert!(tail + u64::from(shape.len) <= head);
                prop_assert!(tail % u64::from(RING_DATA_LEN) + u64::from(shape.len) <= u64::from(RING_DATA_LEN));
                if op != op::SKIP {
                    prop_assert!(HEADER_LEN as usize + 8 * shape.words + shape.blob <= shape.len as usize);
                }
            }
        }

        #[test]
        fn what_a_producer_writes_is_accepted(words in 0usize..=WORDS_MAX, blob in 0usize..40_000, start in 0u64..1 << 30) {
            let mut head = start / 8 * 8;
            let len = record_len(words, blob) as u32;
            if let Some(skip) = skip_before(head, len) {
                let h = RecordHeader { len: skip, op: op::SKIP, flags: 0, words: 0, reserved: 0, blob: 0 };
                prop_assert!(check_header(h, head + u64::from(skip), head).is_ok());
                head += u64::from(skip);
            }
            let shape = check_header(header(len, words as u16, blob as u32), head + u64::from(len), head).unwrap();
            prop_assert_eq!((shape.words, shape.blob), (words, blob));
        }
    }
}
