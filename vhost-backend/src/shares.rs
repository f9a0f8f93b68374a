//! What sessions of this VM share with each other: memory, pools and events of which one has asked for a handle that another may
//! open.
//!
//! NVIDIA's handles stay on the host. A guest gets a random token instead, which means something to this VM's sessions only, and
//! only as long as the session lives that it is of. One session has at most [`SHARES_MAX`].
//!
//! Some handles are descriptors, which are kept open here until the token is withdrawn or its session ends. All of a VM's sessions
//! together have at most [`SHARED_FILES_MAX`] of them, and half of the descriptors that this process may have.
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareReply, ShareRequest};
use vgpu_protocol::limits::{SHARED_FILES_MAX, SHARES_MAX};
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::packet::{self, PacketError};
use vgpu_sched_api::rm;
use zerocopy::{FromBytes, IntoBytes};

type Bytes = [u8; SHARE_LEN];

/// Something that a session shares.
#[derive(Clone, Debug)]
struct Share {
    session: u32,
    what: u32,
    len: u64,
    handle: Bytes,
    of: Bytes,
    file: Option<Arc<OwnedFd>>,
}

impl Share {
    /// Whether a handle is published again. Each descriptor is a new one.
    fn is_again(&self, other: &Self) -> bool {
        let key = |share: &Self| (share.session, share.what, share.len, share.handle, share.of);
        self.file.is_none() && other.file.is_none() && key(self) == key(other)
    }
}

/// What is answered.
#[derive(Debug)]
struct Found {
    len: u64,
    bytes: Bytes,
    file: Option<Arc<OwnedFd>>,
}

impl Found {
    fn only(bytes: Bytes) -> Self {
        Self {
            len: 0,
            bytes,
            file: None,
        }
    }
}

/// All of a VM's.
#[derive(Debug)]
pub struct Shares {
    all: Mutex<HashMap<Bytes, Share>>,
    files_max: usize,
}

impl Default for Shares {
    fn default() -> Self {
        let may_have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            all: Mutex::default(),
            files_max: SHARED_FILES_MAX.min(usize::try_from(may_have / 2).unwrap_or(usize::MAX)),
        }
    }
}

/// Whether an executor may have a descriptor kept here, and so handed to others: the driver's control node, as which its library
/// exports memory, or a plain file, as which the software GPU does. Of the driver's other nodes none may outlive its executor:
/// the DMA of a process that was killed goes on as long as somebody has them.
fn may_be_kept(file: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return false;
    };
    let node = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => node == (rm::MAJOR, rm::CONTROL_MINOR),
        FileType::RegularFile => true,
        _ => false,
    }
}

impl Shares {
    fn all(&self) -> MutexGuard<'_, HashMap<Bytes, Share>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what the executor of a session has asked; whether it may ask again.
    pub fn serve(&self, session: u32, socket: &OwnedFd) -> bool {
        let (bytes, files) = match packet::receive_bytes(socket, size_of::<ShareRequest>()) {
            Ok(received) => received,
            Err(PacketError::Io(Errno::AGAIN)) => return true,
            Err(_) => return false,
        };
        let Ok(request) = ShareRequest::read_from_bytes(&bytes) else {
            return false;
        };
        let (status, found) = match self.answer(session, &request, files) {
            Ok(found) => (Status::Ok, found),
            Err(status) => (status, Found::only([0; SHARE_LEN])),
        };
        let reply = ShareReply {
            status: status as u32,
            reserved: 0,
            len: found.len,
            bytes: found.bytes,
        };
        let files: Vec<_> = found.file.iter().map(|file| file.as_fd()).collect();
        packet::send_bytes(socket, reply.as_bytes(), &files).is_ok()
    }

    fn answer(&self, session: u32, request: &ShareRequest, files: Vec<OwnedFd>) -> Result<Found, Status> {
        let kind = ShareKind::from_u32(request.kind).ok_or(Status::Invalid)?;
        let mut files = files.into_iter();
        let file = files.next();
        let misplaced = file.is_some() && kind != ShareKind::Publish;
        if misplaced || files.next().is_some() || !file.as_ref().is_none_or(may_be_kept) {
            return Err(Status::Invalid);
        }
        let mut shares = self.all();
        match kind {
            ShareKind::Publish => {
                let share = Share {
                    session,
                    what: request.what,
                    len: request.len,
                    handle: request.bytes,
                    of: request.of,
                    file: file.map(Arc::new),
                };
                if let Some((token, _)) = shares.iter().find(|(_, other)| other.is_again(&share)) {
                    return Ok(Found::only(*token));
                }
                let own = shares.values().filter(|other| other.session == session).count();
                let files = shares.values().filter(|other| other.file.is_some()).count();
                if own >= SHARES_MAX || (share.file.is_some() && files >= self.files_max) {
                    return Err(Status::Limit);
                }
                let token = random().map_err(|error| {
                    log::error!("no random bytes for a token: {error}");
                    Status::HostError
                })?;
                shares.insert(token, share);
                Ok(Found::only(token))
            }
            ShareKind::Find => {
                let found = shares.get(&request.bytes).ok_or(Status::NotFound)?;
                if (found.what, found.of) != (request.what, request.of) {
                    return Err(Status::NotFound);
                }
                Ok(Found {
                    len: found.len,
                    bytes: found.handle,
                    file: found.file.clone(),
                })
            }
            ShareKind::Withdraw => {
                let is_own = |share: &Share| (share.session, share.what) == (session, request.what);
                if !shares.get(&request.bytes).is_some_and(is_own) {
                    return Err(Status::NotFound);
                }
                shares.remove(&request.bytes);
                Ok(Found::only([0; SHARE_LEN]))
            }
        }
    }

    /// Forgets what a session shared.
    pub fn forget(&self, session: u32) {
        self.all().retain(|_, share| share.session != session);
    }
}

fn random() -> std::io::Result<Bytes> {
    let mut bytes = [0; SHARE_LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: ShareKind, what: u32, bytes: Bytes) -> ShareRequest {
        ShareRequest {
            kind: kind as u32,
            what,
            len: 0,
            bytes,
            of: [0; SHARE_LEN],
        }
    }

    fn ask(shares: &Shares, session: u32, kind: ShareKind, what: u32, bytes: Bytes) -> Result<Bytes, Status> {
        let found = shares.answer(session, &request(kind, what, bytes), Vec::new());
        found.map(|found| found.bytes)
    }

    /// A file without a name, as which the software GPU exports memory.
    fn file() -> OwnedFd {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    fn publish(shares: &Shares, session: u32, file: OwnedFd) -> Result<Bytes, Status> {
        let request = ShareRequest {
            len: 4096,
            ..request(ShareKind::Publish, 1, [0; SHARE_LEN])
        };
        shares
            .answer(session, &request, vec![file])
            .map(|found| found.bytes)
    }

    #[test]
    fn a_descriptor_is_handed_out_until_its_session_ends() {
        let shares = Shares::default();
        let own = file();
        let inode = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_ino;
        let expected = inode(&own);
        let token = publish(&shares, 1, own).unwrap();
        assert_ne!(publish(&shares, 1, file()), Ok(token), "another one");
        let find = request(ShareKind::Find, 1, token);
        let found = shares.answer(2, &find, Vec::new()).unwrap();
        assert_eq!((found.len, inode(&found.file.unwrap())), (4096, expected));
        assert_eq!(
            shares.answer(2, &find, vec![file()]).unwrap_err(),
            Status::Invalid
        );
        let two = shares.answer(1, &request(ShareKind::Publish, 1, token), vec![file(), file()]);
        assert_eq!(two.unwrap_err(), Status::Invalid);
        shares.forget(1);
        assert_eq!(shares.answer(2, &find, Vec::new()).unwrap_err(), Status::NotFound);
    }

    #[test]
    fn only_what_may_outlive_its_executor_is_kept() {
        let shares = Shares::default();
        let device = |path| OwnedFd::from(File::open(path).unwrap());
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        for other in [device("/dev/null"), device("/dev"), OwnedFd::from(socket)] {
            assert_eq!(publish(&shares, 1, other), Err(Status::Invalid));
        }
    }

    #[test]
    fn the_sessions_of_a_vm_have_so_many_descriptors_kept_and_no_more() {
        let shares = Shares {
            files_max: 3,
            ..Shares::default()
        };
        let first = publish(&shares, 1, file()).unwrap();
        for session in [1, 2] {
            publish(&shares, session, file()).unwrap();
        }
        assert_eq!(publish(&shares, 3, file()), Err(Status::Limit));
        assert!(ask(&shares, 3, ShareKind::Publish, 1, [1; SHARE_LEN]).is_ok());
        assert!(ask(&shares, 1, ShareKind::Withdraw, 1, first).is_ok());
        assert!(publish(&shares, 3, file()).is_ok());
    }

    #[test]
    fn a_part_is_found_with_what_it_is_a_part_of() {
        let shares = Shares::default();
        let whole = publish(&shares, 1, file()).unwrap();
        let publish = ShareRequest {
            of: whole,
            ..request(ShareKind::Publish, 2, [3; SHARE_LEN])
        };
        let part = shares.answer(1, &publish, Vec::new()).unwrap().bytes;
        let find = |of| ShareRequest {
            of,
            ..request(ShareKind::Find, 2, part)
        };
        for other in [[0; SHARE_LEN], part] {
            assert_eq!(
                shares.answer(2, &find(other), Vec::new()).unwrap_err(),
                Status::NotFound
            );
        }
        assert_eq!(
            shares.answer(2, &find(whole), Vec::new()).unwrap().bytes,
            [3; SHARE_LEN]
        );
    }

    #[test]
    fn a_handle_is_found_by_its_token_while_its_session_lives() {
        let shares = Shares::default();
        let handle = [7; SHARE_LEN];
        let token = ask(&shares, 1, ShareKind::Publish, 1, handle).unwrap();
        assert_ne!(token, handle);
        assert_eq!(
            ask(&shares, 1, ShareKind::Publish, 1, handle),
            Ok(token),
            "it is the same"
        );
        assert_ne!(ask(&shares, 2, ShareKind::Publish, 1, handle), Ok(token));
        assert_eq!(ask(&shares, 2, ShareKind::Find, 1, token), Ok(handle));
        assert_eq!(ask(&shares, 2, ShareKind::Find, 2, token), Err(Status::NotFound));
        assert_eq!(ask(&shares, 2, ShareKind::Find, 1, handle), Err(Status::NotFound));
        // Withdrawn by who has it, as what it is.
        for (session, what) in [(2, 1), (1, 2)] {
            assert_eq!(
                ask(&shares, session, ShareKind::Withdraw, what, token),
                Err(Status::NotFound)
            );
        }
        shares.forget(2);
        assert_eq!(ask(&shares, 3, ShareKind::Find, 1, token), Ok(handle));
        shares.forget(1);
        assert_eq!(ask(&shares, 3, ShareKind::Find, 1, token), Err(Status::NotFound));
    }

    #[test]
    fn a_session_shares_so_much_and_no_more() {
        let shares = Shares::default();
        let numbered = |n: usize| {
            let mut bytes = [0; SHARE_LEN];
            bytes[..8].copy_from_slice(&n.to_ne_bytes());
            bytes
        };
        let first = ask(&shares, 1, ShareKind::Publish, 1, numbered(0)).unwrap();
        for n in 1..SHARES_MAX {
            ask(&shares, 1, ShareKind::Publish, 1, numbered(n)).unwrap();
        }
        let more = numbered(SHARES_MAX);
        assert_eq!(ask(&shares, 1, ShareKind::Publish, 1, more), Err(Status::Limit));
        assert!(ask(&shares, 2, ShareKind::Publish, 1, more).is_ok());
        assert!(ask(&shares, 1, ShareKind::Withdraw, 1, first).is_ok());
        assert!(ask(&shares, 1, ShareKind::Publish, 1, more).is_ok());
    }
}
