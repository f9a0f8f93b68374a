//! A stand-in for `vgpu-exec` that maps nothing, for tests of who asks: what it answers is decided by a mapping's length.
use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd};
use vgpu_protocol::host::{EXEC_SOCKET_FD, ExecHeader, ExecKind, ExecMap, ExecReply, REQUEST_LEN_MAX, Start};
use vgpu_protocol::limits::PAGE_LEN;
use vgpu_protocol::virtio::{Status, Unmap};
use vgpu_sched_api::packet;
use zerocopy::{FromBytes, IntoBytes};

/// A mapping of this length is taken back only when that is asked for again: at first it is refused with `Limit`.
const KEPT_LEN: u64 = 13 * PAGE_LEN;
/// A mapping of this length ends the executor before it answers.
const FATAL_LEN: u64 = 17 * PAGE_LEN;
/// A mapping of this length fails.
const FAILING_LEN: u64 = 19 * PAGE_LEN;

fn main() {
    // SAFETY: the backend has put the socket there, and nothing else here uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(EXEC_SOCKET_FD) };
    // What comes along is kept: the connection to vgpud among it.
    let mut came = Vec::new();
    let mut lens = HashMap::new();
    while let Ok((bytes, fds)) = packet::receive_bytes(&socket, REQUEST_LEN_MAX) {
        came.extend(fds);
        let (header, body) = ExecHeader::read_from_prefix(&bytes).expect("a header");
        let (status, value) = match ExecKind::from_u32(header.kind) {
            Some(ExecKind::Start) => {
                let start = Start::read_from_bytes(body).expect("a start");
                (Status::Ok, start.windows[0])
            }
            Some(ExecKind::Map) => {
                let (map, _) = ExecMap::read_from_prefix(body).expect("a mapping");
                (answer_map(&map, &mut lens), 0)
            }
            Some(ExecKind::Unmap) => {
                let unmap = Unmap::read_from_bytes(body).expect("an address");
                (answer_unmap(unmap.addr, &mut lens), 0)
            }
            _ => (Status::Ok, 0),
        };
        let reply = ExecReply {
            sequence: header.sequence,
            status: status as u32,
            value,
        };
        packet::send_bytes(&socket, reply.as_bytes(), &[]).expect("the backend listens");
    }
}

fn answer_map(map: &ExecMap, lens: &mut HashMap<u64, u64>) -> Status {
    match map.len {
        FATAL_LEN => std::process::exit(0),
        FAILING_LEN => Status::HostError,
        len => {
            lens.insert(map.addr, len);
            Status::Ok
        }
    }
}

fn answer_unmap(addr: u64, lens: &mut HashMap<u64, u64>) -> Status {
    match lens.get_mut(&addr) {
        Some(len) if *len == KEPT_LEN => {
            *len = 0;
            Status::Limit
        }
        Some(_) => {
            lens.remove(&addr);
            Status::Ok
        }
        None => Status::NotFound,
    }
}
