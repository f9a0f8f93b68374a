//! Control requests: their bytes, once copied from the guest, become a [`Request`] or are refused.
use vgpu_protocol::gpus::GpuName;
use vgpu_protocol::limits::{
    ADDRESS_END, GPUS_LEN_MAX, GPUS_MAX, PAGE_LEN, RINGS_MAX, RUNS_PER_MESSAGE_MAX, WINDOW_CANDIDATES_MAX,
    WINDOW_LEN,
};
use vgpu_protocol::virtio::{
    ControlHeader, ControlKind, ControlReply, MAP_PROGRAM, MAP_REGISTER, Map, RingCreate, RingDestroy, Run,
    SessionOpen, SessionOpened, Unmap,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A well-formed control request.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Open a session.
    Open(Opening),
    /// Tell of the VM's GPUs.
    Gpus,
    /// Something about an open one.
    Session { session: u32, what: SessionRequest },
}

/// A session's opening.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// Who opens it, and where its window may lie.
    pub open: SessionOpen,
    /// The GPUs that it is to have, by UUID, each once; all of the VM's if none is named. Whether they are the VM's is `vgpud`'s
    /// to say.
    pub gpus: Vec<String>,
}

/// What is asked of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionRequest {
    /// End it.
    Close,
    /// Map pages; alignment and run lengths are checked, places are not.
    Map { map: Map, runs: Vec<Run> },
    /// Undo a mapping.
    Unmap(Unmap),
    /// Consume a ring.
    RingCreate(RingCreate),
    /// Stop consuming it.
    RingDestroy(RingDestroy),
}

/// Windows start at multiples of this.
const WINDOW_ALIGN: u64 = 2 << 20;

/// Decodes a request. What is wrong with a malformed one is said in words.
pub fn decode(bytes: &[u8]) -> Result<Request, &'static str> {
    let (header, body) = ControlHeader::read_from_prefix(bytes).map_err(|_| "shorter than its header")?;
    let kind = ControlKind::from_u32(header.kind).ok_or("unknown kind")?;
    let what = match kind {
        ControlKind::SessionOpen | ControlKind::Gpus if header.session != 0 => {
            return Err("names a session where there is none");
        }
        ControlKind::SessionOpen => return Ok(Request::Open(decode_open(body)?)),
        ControlKind::Gpus if body.is_empty() => return Ok(Request::Gpus),
        ControlKind::Gpus => return Err("wrong length"),
        ControlKind::SessionClose if body.is_empty() => SessionRequest::Close,
        ControlKind::SessionClose => return Err("wrong length"),
        ControlKind::Map => decode_map(body)?,
        ControlKind::Unmap => SessionRequest::Unmap(exact(body)?),
        ControlKind::RingCreate => {
            let ring: RingCreate = exact(body)?;
            if ring.ring >= RINGS_MAX || ring.reserved != 0 || !ring.addr.is_multiple_of(PAGE_LEN) {
                return Err("ring number or address out of bounds");
            }
            SessionRequest::RingCreate(ring)
        }
        ControlKind::RingDestroy => {
            let ring: RingDestroy = exact(body)?;
            if ring.ring >= RINGS_MAX || ring.reserved != 0 {
                return Err("ring number out of bounds");
            }
            SessionRequest::RingDestroy(ring)
        }
    };
    Ok(Request::Session {
        session: header.session,
        what,
    })
}

/// Bytes that the guest must have room for to get the answer to this request.
pub fn reply_len(request: &Request) -> usize {
    size_of::<ControlReply>()
        + match request {
            Request::Open(_) => size_of::<SessionOpened>(),
            Request::Gpus => GPUS_LEN_MAX,
            Request::Session { .. } => 0,
        }
}

fn exact<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<T, &'static str> {
    T::read_from_bytes(body).map_err(|_| "wrong length")
}

fn decode_open(body: &[u8]) -> Result<Opening, &'static str> {
    let (open, names) = SessionOpen::read_from_prefix(body).map_err(|_| "wrong length")?;
    let (names, rest) = names.as_chunks::<{ size_of::<GpuName>() }>();
    if !rest.is_empty() {
        return Err("wrong length");
    }
    if names.len() > GPUS_MAX as usize {
        return Err("number of GPUs out of bounds");
    }
    let mut gpus = Vec::with_capacity(names.len());
    for name in names {
        let name = gpu_name(name).ok_or("a GPU's name that is none")?;
        if gpus.contains(&name) {
            return Err("the same GPU twice");
        }
        gpus.push(name);
    }
    Ok(Opening {
        open: check_open(open)?,
        gpus,
    })
}

/// A GPU's name as text: what UUIDs are made of, and nothing behind it.
fn gpu_name(name: &GpuName) -> Option<String> {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let (name, padding) = name.split_at(len);
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let is_one = !name.is_empty() && name.iter().all(fits) && padding.iter().all(|&byte| byte == 0);
    is_one.then(|| String::from_utf8_lossy(name).into_owned())
}

fn check_open(open: SessionOpen) -> Result<SessionOpen, &'static str> {
    let len = open.windows_len as usize;
    if len == 0 || len > WINDOW_CANDIDATES_MAX {
        return Err("number of windows out of bounds");
    }
    let usable = |&base: &u64| {
        base != 0
            && base % WINDOW_ALIGN == 0
            && base.checked_add(WINDOW_LEN).is_some_and(|end| end <= ADDRESS_END)
    };
    if !open.windows[..len].iter().all(usable) {
        return Err("a window out of bounds");
    }
    Ok(open)
}

fn decode_map(body: &[u8]) -> Result<SessionRequest, &'static str> {
    let (map, rest) = Map::read_from_prefix(body).map_err(|_| "wrong length")?;
    let count = map.runs_len as usize;
    if count == 0 || count > RUNS_PER_MESSAGE_MAX {
        return Err("number of runs out of bounds");
    }
    if rest.len() != count * size_of::<Run>() {
        return Err("wrong length");
    }
    if !matches!(map.flags, 0 | MAP_REGISTER | MAP_PROGRAM) {
        return Err("unknown flag");
    }
    if map.addr % PAGE_LEN != 0 || map.len % PAGE_LEN != 0 || map.offset % PAGE_LEN != 0 || map.len == 0 {
        return Err("mapping not aligned to pages");
    }
    let runs = <[Run]>::ref_from_bytes(rest).map(<[Run]>::to_vec).or_else(|_| {
        // The copy of the guest's bytes need not be aligned for a slice of runs.
        rest.chunks_exact(size_of::<Run>())
            .map(|chunk| Run::read_from_bytes(chunk).map_err(|_| "wrong length"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    if runs
        .iter()
        .any(|run| run.gpa % PAGE_LEN != 0 || run.len % PAGE_LEN != 0 || run.len == 0)
    {
        return Err("run not aligned to pages");
    }
    Ok(SessionRequest::Map { map, runs })
}

/// A program's name for the log and the operator: no control characters, as guests choose it.
pub fn program_name(name: &[u8]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end])
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vgpu_protocol::gpus::text;
    use zerocopy::IntoBytes;

    fn message(kind: u32, session: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ControlHeader { kind, session }.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn open() -> SessionOpen {
        SessionOpen {
            pid: 7,
            windows_len: 1,
            windows: [1 << 44, 0, 0, 0, 0, 0, 0, 0],
            name: [0; 32],
        }
    }

    fn name(text: &[u8]) -> GpuName {
        let mut name = [0; 64];
        name[..text.len()].copy_from_slice(text);
        name
    }

    fn map(runs: &[Run]) -> Vec<u8> {
        let map = Map {
            addr: 1 << 44,
            len: 8192,
            offset: 0,
            flags: MAP_REGISTER,
            runs_len: runs.len() as u32,
        };
        let mut body = map.as_bytes().to_vec();
        body.extend_from_slice(runs.as_bytes());
        message(3, 1, &body)
    }

    #[test]
    fn well_formed_requests_are_understood() {
        let opening = |gpus: &[&str]| {
            Ok(Request::Open(Opening {
                open: open(),
                gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
            }))
        };
        let decode_open =
            |gpus: &[GpuName]| decode(&message(1, 0, &[open().as_bytes(), gpus.as_bytes()].concat()));
        assert_eq!(decode_open(&[]), opening(&[]));
        let gpus = [name(b"GPU-1"), name(b"MIG-0a")];
        assert_eq!(decode_open(&gpus), opening(&["GPU-1", "MIG-0a"]));
        let all: Vec<GpuName> = (0..GPUS_MAX as u8).map(|n| [b'a' + n; 64]).collect();
        assert!(decode_open(&all).is_ok());
        let close = Request::Session {
            session: 3,
            what: SessionRequest::Close,
        };
        assert_eq!(decode(&message(2, 3, &[])), Ok(close));
        assert_eq!(decode(&message(7, 0, &[])), Ok(Request::Gpus));
        let runs = [Run { gpa: 4096, len: 8192 }];
        match decode(&map(&runs)) {
            Ok(Request::Session {
                session: 1,
                what: SessionRequest::Map { runs: got, .. },
            }) => assert_eq!(got, runs),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_malformed_request_is_refused() {
        let run = Run { gpa: 4096, len: 4096 };
        let mut wrong = vec![
            vec![],
            message(0, 0, &[]),
            message(8, 0, &[]),
            message(7, 1, &[]),
            message(7, 0, &[0; 8]),
            message(1, 1, open().as_bytes()),
            message(1, 0, &open().as_bytes()[1..]),
            message(2, 1, &[0]),
            message(4, 1, &[0; 7]),
            message(
                5,
                1,
                RingCreate {
                    ring: RINGS_MAX,
                    reserved: 0,
                    addr: 0,
                }
                .as_bytes(),
            ),
            message(
                5,
                1,
                RingCreate {
                    ring: 0,
                    reserved: 1,
                    addr: 0,
                }
                .as_bytes(),
            ),
            message(
                5,
                1,
                RingCreate {
                    ring: 0,
                    reserved: 0,
                    addr: 8,
                }
                .as_bytes(),
            ),
            message(
                6,
                1,
                RingDestroy {
                    ring: RINGS_MAX,
                    reserved: 0,
                }
                .as_bytes(),
            ),
            map(&[]),
            map(&[Run { gpa: 1, ..run }]),
            map(&[Run { len: 0, ..run }]),
            map(&[Run { len: 100, ..run }]),
        ];
        let mut cut = map(&[run, run]);
        cut.pop();
        wrong.push(cut);
        for (windows_len, window) in [
            (0, 1 << 44),
            (9, 1 << 44),
            (1, 0),
            (1, 4096),
            (1, 1 << 47),
            (1, u64::MAX << 21),
        ] {
            let mut open = open();
            open.windows_len = windows_len;
            open.windows[0] = window;
            wrong.push(message(1, 0, open.as_bytes()));
        }
        let many: Vec<GpuName> = (0..=GPUS_MAX as u8).map(|n| [b'a' + n; 64]).collect();
        let wrong_gpus: [&[GpuName]; 8] = [
            &[name(b"")],
            &[name(b"GPU-1"), name(b"")],
            &[name(b"GPU-1"), name(b"GPU-1")],
            &[name(b"GPU-1\0GPU-2")],
            &[name(b"GPU-1,GPU-2")],
            &[name(b"GPU\n1")],
            &[[0xff; 64]],
            &many,
        ];
        for gpus in wrong_gpus {
            wrong.push(message(1, 0, &[open().as_bytes(), gpus.as_bytes()].concat()));
        }
        let gpu = name(b"GPU-1");
        wrong.push(message(1, 0, &[open().as_bytes(), &gpu[..63]].concat()));
        wrong.push(message(1, 0, &[open().as_bytes(), &gpu[..], &[0]].concat()));
        for bytes in wrong {
            assert!(decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn names_cannot_forge_log_lines() {
        assert_eq!(program_name(b"a.out\0junk"), "a.out");
        assert!(!program_name(b"x\nERROR y").contains('\n'));
        assert_eq!(program_name(b"\xff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn gpus_of_a_decoded_opening_are_names_each_once(names in proptest::collection::vec("[a-c,\\x00-]{1,3}", 0..5)) {
            let names: Vec<GpuName> = names.iter().map(|text| name(text.as_bytes())).collect();
            let bytes = message(1, 0, &[open().as_bytes(), names.as_bytes()].concat());
            if let Ok(Request::Open(opening)) = decode(&bytes) {
                prop_assert_eq!(opening.gpus.len(), names.len());
                for (place, gpu) in opening.gpus.iter().enumerate() {
                    prop_assert!(!gpu.is_empty() && !gpu.contains([',', '\0']));
                    prop_assert!(!opening.gpus[..place].contains(gpu));
                    prop_assert_eq!(&text(&names[place]), gpu);
                }
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(kind in 0u32..9, session: u32, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&body);
            let _ = decode(&message(kind, session, &body));
        }

        #[test]
        fn a_decoded_map_is_aligned(addr: u64, len: u64, offset: u64, flags in 0u32..4, gpa: u64, run_len: u64) {
            let map = Map { addr, len, offset, flags, runs_len: 1 };
            let mut body = map.as_bytes().to_vec();
            body.extend_from_slice(Run { gpa, len: run_len }.as_bytes());
            if let Ok(Request::Session { what: SessionRequest::Map { map, runs }, .. }) = decode(&message(3, 1, &body)) {
                for value in [map.addr, map.len, map.offset, runs[0].gpa, runs[0].len] {
                    prop_assert_eq!(value % PAGE_LEN, 0);
                }
            }
        }
    }
}
