//! Who may change things: root, the user that this program runs as, and a group's members.
use anyhow::{Context, Result};
use rustix::net::sockopt;
use std::os::fd::{AsRawFd, OwnedFd};

/// The administrators.
#[derive(Clone, Copy, Debug)]
pub struct Admins {
    uid: u32,
    gid: Option<u32>,
}

impl Admins {
    /// With the members of a group, if one is given.
    pub fn new(gid: Option<u32>) -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid,
        }
    }

    /// The user of the process that opened this connection, and whether he is one.
    pub fn find(&self, socket: &OwnedFd) -> Result<Peer> {
        let peer = sockopt::socket_peercred(socket)?;
        let uid = peer.uid.as_raw();
        let is_member =
            |gid| Ok::<_, std::io::Error>(peer.gid.as_raw() == gid || peer_groups(socket)?.contains(&gid));
        let is_admin = uid == 0 || uid == self.uid || self.gid.map_or(Ok(false), is_member)?;
        Ok(Peer { uid, is_admin })
    }
}

/// A user at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub uid: u32,
    pub is_admin: bool,
}

/// A group's number, by its name or number.
pub fn group(text: &str) -> Result<u32> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let found = nix::unistd::Group::from_name(text)?;
    let group = found.with_context(|| format!("there is no group \"{text}\""))?;
    Ok(group.gid.as_raw())
}

/// The supplementary groups of the process that opened a connection.
fn peer_groups(socket: &OwnedFd) -> std::io::Result<Vec<u32>> {
    // As many as the kernel lets a process have.
    let mut groups = vec![0u32; 65_536];
    let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the buffer and its length in bytes are valid for writing, and groups are u32.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if got != 0 {
        return Err(std::io::Error::last_os_error());
    }
    groups.truncate(len as usize / size_of::<u32>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_by_name_or_number() {
        assert_eq!(group("root").unwrap(), 0);
        assert_eq!(group("4242").unwrap(), 4242);
        assert!(group("no-such-group").is_err());
    }
}
