//! What sessions of this VM share with each other: memory and events of which one has asked for a handle that another may open.
//!
//! NVIDIA's handles stay on the host. A guest gets a random token instead, which means something to this VM's sessions only, and
//! only as long as the session lives that it is of. One session has at most [`SHARES_MAX`].
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareReply, ShareRequest};
use vgpu_protocol::limits::SHARES_MAX;
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::packet::{self, PacketError};
use zerocopy::{FromBytes, IntoBytes};

type Bytes = [u8; SHARE_LEN];

/// Something that a session shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    session: u32,
    what: u32,
    handle: Bytes,
}

/// All of a VM's.
#[derive(Debug, Default)]
pub struct Shares(Mutex<HashMap<Bytes, Share>>);

impl Shares {
    fn all(&self) -> MutexGuard<'_, HashMap<Bytes, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what the executor of a session has asked; whether it may ask again.
    pub fn serve(&self, session: u32, socket: &OwnedFd) -> bool {
        let bytes = match packet::receive_bytes(socket, size_of::<ShareRequest>()) {
            Ok((bytes, _)) => bytes,
            Err(PacketError::Io(Errno::AGAIN)) => return true,
            Err(_) => return false,
        };
        let Ok(request) = ShareRequest::read_from_bytes(&bytes) else {
            return false;
        };
        let (status, bytes) = match self.answer(session, &request) {
            Ok(bytes) => (Status::Ok, bytes),
            Err(status) => (status, [0; SHARE_LEN]),
        };
        let reply = ShareReply {
            status: status as u32,
            reserved: 0,
            bytes,
        };
        packet::send_bytes(socket, reply.as_bytes(), &[]).is_ok()
    }

    fn answer(&self, session: u32, request: &ShareRequest) -> Result<Bytes, Status> {
        let mut shares = self.all();
        match ShareKind::from_u32(request.kind) {
            Some(ShareKind::Publish) => {
                let share = Share {
                    session,
                    what: request.what,
                    handle: request.bytes,
                };
                if let Some((token, _)) = shares.iter().find(|(_, other)| **other == share) {
                    return Ok(*token);
                }
                if shares.values().filter(|other| other.session == session).count() >= SHARES_MAX {
                    return Err(Status::Limit);
                }
                let token = random().map_err(|error| {
                    log::error!("no random bytes for a token: {error}");
                    Status::HostError
                })?;
                shares.insert(token, share);
                Ok(token)
            }
            Some(ShareKind::Find) => {
                let found = shares
                    .get(&request.bytes)
                    .filter(|share| share.what == request.what);
                found.map(|share| share.handle).ok_or(Status::NotFound)
            }
            Some(ShareKind::Withdraw) => {
                let own = shares
                    .get(&request.bytes)
                    .is_some_and(|share| share.session == session);
                let withdrawn = if own { shares.remove(&request.bytes) } else { None };
                withdrawn.map(|_| [0; SHARE_LEN]).ok_or(Status::NotFound)
            }
            None => Err(Status::Invalid),
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

    fn ask(shares: &Shares, session: u32, kind: ShareKind, what: u32, bytes: Bytes) -> Result<Bytes, Status> {
        shares.answer(
            session,
            &ShareRequest {
                kind: kind as u32,
                what,
                bytes,
            },
        )
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
        assert_eq!(
            ask(&shares, 2, ShareKind::Withdraw, 1, token),
            Err(Status::NotFound)
        );
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
