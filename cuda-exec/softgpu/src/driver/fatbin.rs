//! Fat binaries. Of what is in them only PTX can be loaded here.

use super::abi::In;
use super::error::{self, Result};
pub use vgpu_fatbin::{CONTAINER, WRAPPER};

/// Most bytes of decompressed PTX: far above what compilers emit, far below what would exhaust memory.
const MOST_TEXT: usize = 256 << 20;

/// The container that a wrapper points to.
pub fn unwrap(wrapper: In<u64>) -> Result<In<u8>> {
    Ok(In(wrapper.at(1)? as *const u8))
}

/// The PTX for the newest device.
pub fn ptx(container: In<u8>) -> Result<String> {
    let wrong = error::INVALID_IMAGE;
    let len = vgpu_fatbin::len(&container.bytes(vgpu_fatbin::HEADER)?).ok_or(wrong)?;
    let whole = container.bytes(len)?;
    let entries = vgpu_fatbin::entries(&whole).ok_or(wrong)?;
    // Of several for one device the first.
    let newest = entries
        .iter()
        .rev()
        .filter(|entry| entry.is_ptx)
        .max_by_key(|entry| entry.device);
    let Some(newest) = newest else {
        eprintln!("softgpu: a fat binary with machine code only, without PTX");
        return Err(error::NO_BINARY_FOR_GPU);
    };
    let text = newest.payload(MOST_TEXT).ok_or(wrong)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or(&text);
    String::from_utf8(text.to_vec()).map_err(|_| wrong)
}
