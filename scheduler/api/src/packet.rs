//! One JSON object per `SOCK_SEQPACKET` packet, descriptors as ancillary data.
use crate::messages::PACKET_LEN_MAX;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors in one packet at most.
pub const FDS_MAX: usize = 32;

/// Why a packet could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket failed.
    #[error("socket")]
    Io(#[from] rustix::io::Errno),
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The packet or its descriptors exceed the limit and were cut off.
    #[error("packet longer than {PACKET_LEN_MAX} bytes or with more than {FDS_MAX} descriptors")]
    TooLong,
    /// It is not the message expected here.
    #[error("message not understood")]
    Json(#[from] serde_json::Error),
}

/// Sends one message with descriptors. Never raises SIGPIPE.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
    let json = serde_json::to_vec(message)?;
    if json.len() > PACKET_LEN_MAX || fds.len() > FDS_MAX {
        return Err(PacketError::TooLong);
    }
    send_bytes(socket, &json, fds)
}

/// Receives one message and its descriptors (close-on-exec); blocks unless the socket does not.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), PacketError> {
    let (bytes, fds) = receive_bytes(socket, PACKET_LEN_MAX)?;
    Ok((serde_json::from_slice(&bytes)?, fds))
}

/// Sends one packet of plain bytes with descriptors. Never raises SIGPIPE.
pub fn send_bytes(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::TooLong);
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one packet of plain bytes, `len_max` at most, and its descriptors (close-on-exec).
pub fn receive_bytes(socket: impl AsFd, len_max: usize) -> Result<(Vec<u8>, Vec<OwnedFd>), PacketError> {
    let mut bytes = vec![0; len_max];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(PacketError::TooLong);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{FromExec, Request};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_message_and_its_descriptors_arrive() {
        let (a, b) = pair();
        let sent = Request::Hello {
            version: crate::messages::VERSION,
            vm: 7,
        };
        send(&a, &sent, &[a.as_fd(), b.as_fd()]).unwrap();
        let (got, fds) = receive::<Request>(&b).unwrap();
        assert_eq!(got, sent);
        assert_eq!(fds.len(), 2);
    }

    #[test]
    fn a_closed_end_and_a_wrong_message_are_told_apart() {
        let (a, b) = pair();
        send(&a, &FromExec::Want, &[]).unwrap();
        assert!(matches!(receive::<Request>(&b), Err(PacketError::Json(_))));
        drop(a);
        assert!(matches!(receive::<Request>(&b), Err(PacketError::Closed)));
    }

    #[test]
    fn a_packet_that_is_too_long_is_refused() {
        let (a, b) = pair();
        send_bytes(&a, &[0; 100], &[]).unwrap();
        assert!(matches!(receive_bytes(&b, 10), Err(PacketError::TooLong)));
    }
}
