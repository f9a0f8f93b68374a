//! What a program gets as the descriptor of memory that it exports: a file without a name that holds the host's token and what that
//! is of, and nothing else. It is passed on, inherited and closed as any descriptor. Whoever has it may import the memory, as natively.
use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use vgpu_protocol::host::SHARE_LEN;
use vgpu_protocol::result::{self, Code};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MAGIC: [u8; 8] = *b"vgpufile";
const VERSION: u32 = 2;
/// Nobody changes it, whoever has it: what one process imports is what another one exported.
const SEALS: libc::c_int = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// What a token is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Memory of `cuMemCreate`.
    Memory = 1,
    /// A pool.
    Pool,
}

/// What is in it.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Content {
    magic: [u8; 8],
    version: u32,
    what: u32,
    token: [u8; SHARE_LEN],
}

impl Content {
    fn of(what: What, token: [u8; SHARE_LEN]) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            what: what as u32,
            token,
        }
    }
}

/// Makes one for a token; the descriptor is the program's to close.
pub fn make(what: What, token: &[u8]) -> Result<libc::c_int, Code> {
    let token = token.try_into().map_err(|_| result::UNKNOWN)?;
    let failed = |_| result::OPERATING_SYSTEM;
    // SAFETY: the name is a terminated string.
    let made = unsafe {
        libc::memfd_create(
            c"vgpu-memory".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if made < 0 {
        return Err(result::OPERATING_SYSTEM);
    }
    // SAFETY: just made, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(made) };
    file.write_all(Content::of(what, token).as_bytes())
        .map_err(failed)?;
    // SAFETY: a call on a descriptor of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } != 0 {
        return Err(result::OPERATING_SYSTEM);
    }
    Ok(file.into_raw_fd())
}

/// What a program is told whose descriptor is none of memory, or of memory that is not there: NVIDIA's library tells them alike.
pub fn not_imported(code: Code) -> Code {
    match code {
        result::INVALID_VALUE => result::UNKNOWN,
        other => other,
    }
}

/// The token in the file of a descriptor that a program has passed in the place of a pointer. It stays the program's.
///
/// As natively, what is of the other kind is `NOT_SUPPORTED`, and all else `UNKNOWN`.
pub fn token(what: What, descriptor: usize) -> Result<[u8; SHARE_LEN], Code> {
    let descriptor = libc::c_int::try_from(descriptor).map_err(|_| result::UNKNOWN)?;
    // SAFETY: it is never closed here; a number that is no descriptor is an error of the calls below.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let bad = |_| result::UNKNOWN;
    // Of other files reading may take for ever.
    let metadata = file.metadata().map_err(bad)?;
    if !metadata.is_file() || metadata.len() != size_of::<Content>() as u64 {
        return Err(result::UNKNOWN);
    }
    let mut bytes = [0; size_of::<Content>()];
    file.read_exact_at(&mut bytes, 0).map_err(bad)?;
    let content = Content::read_from_bytes(&bytes).map_err(|_| result::UNKNOWN)?;
    let is_of = |what| content == Content::of(what, content.token);
    match [What::Memory, What::Pool].into_iter().find(|&what| is_of(what)) {
        Some(found) if found == what => Ok(content.token),
        Some(_) => Err(result::NOT_SUPPORTED),
        None => Err(result::UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    const TOKEN: [u8; SHARE_LEN] = [7; SHARE_LEN];

    fn file_of(bytes: &[u8]) -> OwnedFd {
        // SAFETY: the name is a terminated string, and the descriptor is new.
        let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
        file.write_all(bytes).unwrap();
        file.into()
    }

    #[test]
    fn a_token_is_read_again_and_nobody_changes_it() {
        // SAFETY: new, and nobody else's.
        let mut file = unsafe { File::from_raw_fd(make(What::Pool, &TOKEN).unwrap()) };
        for _ in 0..2 {
            assert_eq!(token(What::Pool, file.as_raw_fd() as usize), Ok(TOKEN));
        }
        assert_eq!(
            token(What::Memory, file.as_raw_fd() as usize),
            Err(result::NOT_SUPPORTED)
        );
        let copy = file.try_clone().unwrap();
        assert_eq!(token(What::Pool, copy.as_raw_fd() as usize), Ok(TOKEN));
        assert!(file.write(&[1]).is_err() && file.write_at(&[1], 0).is_err() && file.set_len(0).is_err());
        assert_eq!(token(What::Pool, file.as_raw_fd() as usize), Ok(TOKEN));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let good = Content::of(What::Pool, TOKEN);
        assert_eq!(
            token(What::Pool, file_of(good.as_bytes()).as_raw_fd() as usize),
            Ok(TOKEN)
        );
        let mut bad = vec![
            Vec::new(),
            good.as_bytes()[..79].to_vec(),
            [good.as_bytes(), &[0]].concat(),
        ];
        for at in [0, 7, 8, 12] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] ^= 1;
            bad.push(bytes);
        }
        for bytes in bad {
            let file = file_of(&bytes);
            assert_eq!(token(What::Pool, file.as_raw_fd() as usize), Err(result::UNKNOWN));
        }
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let device = File::open("/dev/zero").unwrap();
        for other in [socket.as_raw_fd(), device.as_raw_fd(), -1, 1 << 20] {
            assert_eq!(token(What::Pool, other as u32 as usize), Err(result::UNKNOWN));
        }
        assert_eq!(token(What::Pool, usize::MAX), Err(result::UNKNOWN));
    }
}
