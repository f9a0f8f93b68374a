//! A front end on a socket that is connected already.
//!
//! The vhost-user library only serves connections that it has accepted itself. So a connected socket is served through one
//! that it can accept: a private listening socket whose only client is a pair of threads that pass messages on, each
//! way one. Only messages of the handshake go this way, never data.
use crate::worker;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use vgpu_sched_api::packet::{self, PacketError};

/// Bytes of a message's header; the last four of them say how many bytes follow.
const HEADER_LEN: usize = 12;
/// Bytes that may follow: more than any message of the protocol has.
const BODY_LEN_MAX: usize = 64 << 10;

/// A listening socket on which one connection waits, behind which is `front_end`.
pub fn listener_for(front_end: UnixStream) -> io::Result<UnixListener> {
    let dir = std::env::temp_dir().join(format!("vgpu-backend-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    let path = dir.join("socket");
    let connected = UnixListener::bind(&path).and_then(|listener| {
        let inner = UnixStream::connect(&path)?;
        Ok((listener, inner))
    });
    // The name has served its purpose, or none.
    let _ = std::fs::remove_file(&path);
    std::fs::remove_dir(&dir)?;
    let (listener, inner) = connected?;
    let ways = [
        ("relay-in", front_end.try_clone()?, inner.try_clone()?),
        ("relay-out", inner, front_end),
    ];
    for (name, from, to) in ways {
        worker::spawn(name.into(), move || {
            let why = pass(&from, &to);
            log::debug!("{name}: {why}");
            for end in [from, to] {
                // The other thread may have done it.
                let _ = end.shutdown(Shutdown::Both);
            }
        })?;
    }
    Ok(listener)
}

/// Passes whole messages on, each with its descriptors at its start, until one side is gone: why it ended.
fn pass(from: &UnixStream, to: &UnixStream) -> PacketError {
    loop {
        if let Err(error) = pass_one(from, to) {
            return error;
        }
    }
}

fn pass_one(from: &UnixStream, to: &UnixStream) -> Result<(), PacketError> {
    let (mut message, fds) = packet::receive_bytes(from, HEADER_LEN)?;
    fill(from, &mut message, HEADER_LEN)?;
    let len = message
        .last_chunk::<4>()
        .map(|len| u32::from_le_bytes(*len) as usize)
        .filter(|&len| len <= BODY_LEN_MAX)
        .ok_or(PacketError::TooLong)?;
    fill(from, &mut message, HEADER_LEN + len)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    packet::send_bytes(to, &message, &fds)
}

/// Receives until there are `len` bytes.
fn fill(from: &UnixStream, message: &mut Vec<u8>, len: usize) -> Result<(), PacketError> {
    while message.len() < len {
        let (more, _) = packet::receive_bytes(from, len - message.len())?;
        message.extend_from_slice(&more);
    }
    Ok(())
}
