//! Fat binaries: a container with PTX and machine code for several devices. Of those only uncompressed PTX can be
//! loaded here.

use super::abi::In;
use super::error::{self, Result};

/// The first word of the container, and of the structure that points to one.
pub const CONTAINER: u32 = 0xba55_ed50;
pub const WRAPPER: u32 = 0x4662_43b1;

/// An entry that is PTX.
const KIND_PTX: u16 = 1;
/// Flags of an entry whose payload is compressed, in one way or another.
const COMPRESSED: u64 = 0x2000 | 0x8000;
/// What is read of the header of an entry, in bytes.
const ENTRY_HEADER: usize = 48;

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
    let size = u64_at(&header, 8)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(error::INVALID_IMAGE)?;
    let whole = container.bytes(start.checked_add(size).ok_or(error::INVALID_IMAGE)?)?;
    choose(&whole[start..])
}

fn choose(mut entries: &[u8]) -> Result<String> {
    let mut best: Option<(u32, &[u8])> = None;
    let mut compressed = false;
    while entries.len() >= ENTRY_HEADER {
        let wrong = error::INVALID_IMAGE;
        let header = u32_at(entries, 4).ok_or(wrong)? as usize;
        let size = u64_at(entries, 8)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or(wrong)?;
        let end = header.checked_add(size).ok_or(wrong)?;
        if header < ENTRY_HEADER || end > entries.len() {
            return Err(wrong);
        }
        let device = u32_at(entries, 28).ok_or(wrong)?;
        if u16_at(entries, 0) == Some(KIND_PTX) {
            if u64_at(entries, 40).is_none_or(|flags| flags & COMPRESSED != 0) {
                compressed = true;
            } else if best.is_none_or(|(other, _)| other < device) {
                best = Some((device, &entries[header..end]));
            }
        }
        entries = &entries[end..];
    }
    let Some((_, text)) = best else {
        let what = if compressed { "compressed PTX" } else { "no PTX" };
        eprintln!("softgpu: a fat binary with {what}");
        return Err(error::NO_BINARY_FOR_GPU);
    };
    let text = text.split(|byte| *byte == 0).next().unwrap_or(text);
    String::from_utf8(text.to_vec()).map_err(|_| error::INVALID_IMAGE)
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
