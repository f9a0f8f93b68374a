//! Fat binaries: a container with PTX and machine code for several devices, as they are or compressed. Whatever the bytes,
//! reading them ends with an answer or with nothing. What was read can be put into a container again.
use ruzstd::decoding::StreamingDecoder;
use std::borrow::Cow;
use std::io::Read;

/// The first word of a container, and of the structure that points to one.
pub const CONTAINER: u32 = 0xba55_ed50;
/// See [`CONTAINER`].
pub const WRAPPER: u32 = 0x4662_43b1;
/// Bytes of what [`len`] reads.
pub const HEADER: usize = 16;

/// An entry that is PTX.
const KIND_PTX: u16 = 1;
/// Flags of an entry whose payload is compressed: an LZ4 block, or a zstd frame.
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// What is read of the header of an entry, in bytes.
const ENTRY_HEADER: usize = 48;
/// The same of one that is compressed: the size of what it contains comes last.
const COMPRESSED_HEADER: usize = 64;

/// One part of a container.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Text, or else machine code.
    pub is_ptx: bool,
    /// The device that it is for: 90 for 9.0.
    pub device: u32,
    header: usize,
    bytes: &'a [u8],
}

/// Bytes of the whole container that begins so, its header included.
pub fn len(container: &[u8]) -> Option<usize> {
    if u32_at(container, 0)? != CONTAINER {
        return None;
    }
    size_at(container, 8)?.checked_add(u16_at(container, 6)?.into())
}

/// The entries of a container.
pub fn entries(container: &[u8]) -> Option<Vec<Entry<'_>>> {
    let whole = container.get(..len(container)?)?;
    let mut rest = whole.get(usize::from(u16_at(container, 6)?)..)?;
    let mut entries = Vec::new();
    while rest.len() >= ENTRY_HEADER {
        let header = u32_at(rest, 4)? as usize;
        let end = header.checked_add(size_at(rest, 8)?)?;
        if header < ENTRY_HEADER || end > rest.len() {
            return None;
        }
        entries.push(Entry {
            is_ptx: u16_at(rest, 0)? == KIND_PTX,
            device: u32_at(rest, 28)?,
            header,
            bytes: &rest[..end],
        });
        rest = &rest[end..];
    }
    Some(entries)
}

/// A container like another one, with these entries.
pub fn with_entries(container: &[u8], entries: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let header = u16_at(container, 6).map_or(HEADER, usize::from);
    let mut made = container.get(..header.max(HEADER)).unwrap_or_default().to_vec();
    entries.for_each(|entry| made.extend_from_slice(&entry));
    let len = (made.len().saturating_sub(header) as u64).to_le_bytes();
    if let Some(place) = made.get_mut(8..16) {
        place.copy_from_slice(&len);
    }
    made
}

impl<'a> Entry<'a> {
    /// All of it, with its header.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// One that differs in what it contains, which is not compressed.
    pub fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let mut made = self.bytes[..self.header].to_vec();
        let flags = u64_at(self.bytes, 40).unwrap_or(0) & !(LZ4 | ZSTD);
        let len = payload.len().next_multiple_of(8);
        made[8..16].copy_from_slice(&(len as u64).to_le_bytes());
        made[16..20].fill(0);
        made[40..48].copy_from_slice(&flags.to_le_bytes());
        // The size of what is compressed.
        if let Some(place) = made.get_mut(56..64) {
            place.fill(0);
        }
        made.extend_from_slice(payload);
        made.resize(self.header + len, 0);
        made
    }

    /// What it contains, decompressed; `None` if that is malformed, or more than `most` bytes.
    pub fn payload(&self, most: usize) -> Option<Cow<'a, [u8]>> {
        let stored = self.bytes.get(self.header..)?;
        let compression = u64_at(self.bytes, 40)? & (LZ4 | ZSTD);
        if compression == 0 {
            return Some(Cow::Borrowed(stored));
        }
        // Padding follows the compressed bytes.
        let packed = stored.get(..u32_at(self.bytes, 16)? as usize)?;
        let len = size_at(self.bytes, 56)?;
        if self.header < COMPRESSED_HEADER || len > most {
            return None;
        }
        let mut found = Vec::new();
        match compression {
            LZ4 => found = lz4_flex::block::decompress(packed, len).ok()?,
            ZSTD => {
                let frame = StreamingDecoder::new(packed).ok()?;
                // One byte more than there should be tells a frame that is longer.
                frame.take(len as u64 + 1).read_to_end(&mut found).ok()?;
            }
            _ => return None,
        }
        (found.len() == len).then_some(Cow::Owned(found))
    }
}

fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64_at(bytes, at)?).ok()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../../tests/kernels/fatbin/linear-plain.fatbin");
    const ZSTD: &[u8] = include_bytes!("../../../tests/kernels/fatbin/add-one-zstd.fatbin");
    const LZ4: &[u8] = include_bytes!("../../../tests/kernels/fatbin/add-one-lz4.fatbin");

    #[test]
    fn ptx_is_found_however_it_is_packed() {
        for container in [PLAIN, ZSTD, LZ4] {
            let entries = entries(container).unwrap();
            let ptx = entries.iter().find(|entry| entry.is_ptx).unwrap();
            let text = ptx.payload(1 << 20).unwrap();
            assert!(text.windows(8).any(|part| part == b".version"));
        }
    }

    #[test]
    fn more_than_may_be_is_not_unpacked() {
        for container in [ZSTD, LZ4] {
            let entries = entries(container).unwrap();
            assert!(entries.iter().any(|entry| entry.payload(16).is_none()));
        }
    }

    #[test]
    fn a_container_is_made_of_entries_and_of_what_they_contain() {
        for container in [PLAIN, ZSTD, LZ4] {
            let before = entries(container).unwrap();
            let same = with_entries(container, before.iter().map(|entry| entry.bytes().to_vec()));
            assert_eq!(same, container[..len(container).unwrap()]);
            let payloads = before.iter().map(|entry| entry.payload(1 << 20).unwrap());
            let payloads: Vec<_> = payloads.collect();
            let unpacked = before
                .iter()
                .zip(&payloads)
                .map(|(entry, it)| entry.with_payload(it));
            let unpacked = with_entries(container, unpacked);
            let after = entries(&unpacked).unwrap();
            assert_eq!(after.len(), before.len());
            for ((one, other), payload) in before.iter().zip(&after).zip(&payloads) {
                assert_eq!((one.is_ptx, one.device), (other.is_ptx, other.device));
                let found = other.payload(1 << 20).unwrap();
                assert_eq!(&found[..payload.len()], &payload[..]);
                assert!(found[payload.len()..].iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_or_read() {
        for container in [PLAIN, ZSTD, LZ4] {
            for cut in (0..container.len()).step_by(7) {
                assert!(entries(&container[..cut]).is_none());
            }
            for at in 0..container.len().min(400) {
                let mut changed = container.to_vec();
                changed[at] ^= 0xff;
                for entry in entries(&changed).unwrap_or_default() {
                    let _ = entry.payload(1 << 20);
                }
            }
        }
    }
}
