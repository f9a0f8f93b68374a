//! Fat binaries: a container with PTX and machine code for several devices. Of those only PTX can be
//! loaded here, as it is or compressed.

use super::abi::In;
use super::error::{self, Result};
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;

/// The first word of the container, and of the structure that points to one.
pub const CONTAINER: u32 = 0xba55_ed50;
pub const WRAPPER: u32 = 0x4662_43b1;

/// An entry that is PTX.
const KIND_PTX: u16 = 1;
/// Flags of an entry whose payload is compressed: an LZ4 block, or a zstd frame.
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// What is read of the header of an entry, in bytes.
const ENTRY_HEADER: usize = 48;
/// The same of one that is compressed: the size of what it contains comes last.
const COMPRESSED_HEADER: usize = 64;
/// Most bytes of decompressed PTX: far above what compilers emit, far below what would exhaust memory.
const MOST_TEXT: usize = 256 << 20;

/// The container that a wrapper points to.
pub fn unwrap(wrapper: In<u64>) -> Result<In<u8>> {
    Ok(In(wrapper.at(1)? as *const u8))
}

/// The PTX for the newest device.
pub fn ptx(container: In<u8>) -> Result<String> {
    let header = container.bytes(16)?;
    if u32_at(&header, 0) != Some(CONTAINER) {
        return Err(error::INVALID_IMAGE);
    }
    let start = u16_at(&header, 6).map_or(16, usize::from);
    let size = size_at(&header, 8)?;
    let whole = container.bytes(start.checked_add(size).ok_or(error::INVALID_IMAGE)?)?;
    choose(&whole[start..])
}

fn choose(mut entries: &[u8]) -> Result<String> {
    let wrong = error::INVALID_IMAGE;
    let mut best: Option<(u32, &[u8])> = None;
    while entries.len() >= ENTRY_HEADER {
        let header = u32_at(entries, 4).ok_or(wrong)? as usize;
        let size = size_at(entries, 8)?;
        let end = header.checked_add(size).ok_or(wrong)?;
        if header < ENTRY_HEADER || end > entries.len() {
            return Err(wrong);
        }
        let device = u32_at(entries, 28).ok_or(wrong)?;
        if u16_at(entries, 0) == Some(KIND_PTX) && best.is_none_or(|(other, _)| other < device) {
            best = Some((device, &entries[..end]));
        }
        entries = &entries[end..];
    }
    let Some((_, entry)) = best else {
        eprintln!("softgpu: a fat binary with machine code only, without PTX");
        return Err(error::NO_BINARY_FOR_GPU);
    };
    let text = payload(entry)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or(&text);
    String::from_utf8(text.to_vec()).map_err(|_| wrong)
}

/// What an entry contains, decompressed. Its header lies within it.
fn payload(entry: &[u8]) -> Result<Vec<u8>> {
    let wrong = error::INVALID_IMAGE;
    let header = u32_at(entry, 4).ok_or(wrong)? as usize;
    let stored = entry.get(header..).ok_or(wrong)?;
    let compression = u64_at(entry, 40).ok_or(wrong)? & (LZ4 | ZSTD);
    if compression == 0 {
        return Ok(stored.to_vec());
    }
    // Padding follows the compressed bytes.
    let packed = u32_at(entry, 16)
        .and_then(|n| stored.get(..n as usize))
        .ok_or(wrong)?;
    let len = size_at(entry, 56)?;
    if header < COMPRESSED_HEADER || len > MOST_TEXT {
        return Err(wrong);
    }
    let mut text = Vec::new();
    match compression {
        LZ4 => text = lz4_flex::block::decompress(packed, len).map_err(|_| wrong)?,
        ZSTD => {
            let frame = StreamingDecoder::new(packed).map_err(|_| wrong)?;
            // One byte more than there should be tells a frame that is longer.
            let bound = len as u64 + 1;
            frame.take(bound).read_to_end(&mut text).map_err(|_| wrong)?;
        }
        _ => return Err(wrong),
    }
    if text.len() == len { Ok(text) } else { Err(wrong) }
}

fn size_at(bytes: &[u8], at: usize) -> Result<usize> {
    let size = u64_at(bytes, at).ok_or(error::INVALID_IMAGE)?;
    usize::try_from(size).map_err(|_| error::INVALID_IMAGE)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}
