//! What a hostile guest tries beside calls: operations of a ring that are none, positions that move, and messages in the
//! control queue.
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use anyhow::{Context, Result, ensure};
use vgpu_protocol::calls::{self, OP_END, OP_FIRST};
use vgpu_protocol::gpus::{self, GpuName};
use vgpu_protocol::limits::{
    ADDRESS_END, AREA_LEN, ARENA_LEN, CONTEXTS_MAX, CONTROL_LEN_MAX, DEPS_MAX, GPUS_MAX, MAP_LEN_MAX,
    PAGE_LEN, RECORD_LEN_MAX, RING_DATA_LEN, RINGS_MAX, RUNS_PER_MESSAGE_MAX, STREAMS_MAX, WINDOW_LEN,
};
use vgpu_protocol::result;
use vgpu_protocol::ring::{self, RING_LEN, RecordHeader, op};
use vgpu_protocol::virtio::{
    ControlKind, MAP_PROGRAM, Map, RingCreate, RingDestroy, Run, SessionOpen, Status, Unmap,
};
use vgpu_protocol::words::handle::STREAM_LEGACY;
use zerocopy::IntoBytes;

use super::cases::{self, Fixture, Found};
use super::{Outcome, PINNED_AT, PLAIN_AT, PLAIN_LEN, PROGRAM_AT, Random, Session, Vm, WINDOW, ring_at, row};

/// The last page of the address space.
const LAST_PAGE: u64 = !(PAGE_LEN - 1);

/// Operations that are no calls: number, name, the words of a good record, whether it is answered.
const OPERATIONS: [(u16, &str, &[u64], bool); 6] = [
    (op::SKIP, "SKIP", &[], false),
    (op::DEPS, "DEPS", &[], false),
    (op::SET_CONTEXT, "SET_CONTEXT", &[0], false),
    (op::FENCE, "FENCE", &[STREAM_LEGACY, 0, 1], false),
    (op::GPU_INFO, "GPU_INFO", &[], true),
    (op::TEXT, "TEXT", &[op::TEXT_OF_NOTHING, 0], true),
];

/// Every operation that is no call, broken as calls are and in its own ways; and operations that there are not.
pub fn try_operations(vm: &Vm) -> Result<Found> {
    let mut found = Found::default();
    for (op, name, good, reply) in OPERATIONS {
        let one = cases::try_broken(vm, name, &cases::broken(op, None, good, reply))?;
        found.cases += one.cases;
        found.ended.extend(one.ended);
    }
    let too_many = vec![[1u64, 0]; DEPS_MAX + 1];
    // Numbers rise in sections, with room between them: the first that no call has, and the first behind them all.
    let first_unknown = (OP_FIRST..=OP_END)
        .find(|&op| calls::find_op(op).is_none())
        .context("every number is a call's")?;
    let streams = u64::from(STREAMS_MAX);
    let ending: Vec<(u16, bool, Vec<u64>, Vec<u8>)> = vec![
        (op::DEPS, false, vec![], [0u64, 8].as_bytes().to_vec()),
        (
            op::DEPS,
            false,
            vec![],
            [u64::from(RINGS_MAX), 8].as_bytes().to_vec(),
        ),
        (op::DEPS, false, vec![], [u64::MAX, 8].as_bytes().to_vec()),
        (
            op::DEPS,
            false,
            vec![],
            [1u64, u64::from(RING_DATA_LEN + RECORD_LEN_MAX) + 8]
                .as_bytes()
                .to_vec(),
        ),
        (op::DEPS, false, vec![], [1u64, u64::MAX].as_bytes().to_vec()),
        (op::DEPS, false, vec![], [1u64, 0, 1].as_bytes().to_vec()),
        (op::DEPS, false, vec![], too_many.as_bytes().to_vec()),
        (op::SET_CONTEXT, false, vec![u64::from(CONTEXTS_MAX)], vec![]),
        (op::SET_CONTEXT, false, vec![1 << 32], vec![]),
        (op::SET_CONTEXT, false, vec![u64::MAX], vec![]),
        (op::FENCE, false, vec![STREAM_LEGACY, streams, 1], vec![]),
        (op::FENCE, false, vec![STREAM_LEGACY, u64::MAX, 1], vec![]),
        (op::TEXT, true, vec![op::TEXT_OF_EVENT + 1, 0], vec![]),
        (op::TEXT, true, vec![u64::MAX, 0], vec![]),
        (op::TEXT, true, vec![op::TEXT_OF_EVENT, u64::MAX], vec![]),
        (0, false, vec![], vec![]),
        (7, true, vec![], vec![]),
        (OP_FIRST - 1, true, vec![0], vec![]),
        (first_unknown, true, vec![0, 0], vec![]),
        (OP_END, true, vec![0, 0], vec![]),
        (u16::MAX, true, vec![], vec![0; 64]),
    ];
    for (op, reply, words, blob) in ending {
        let mut session = vm.open()?;
        session.ring_create(1)?;
        session.put(0, op, reply, &words, &blob)?;
        session
            .ended()
            .with_context(|| format!("operation {op:#x} with {words:x?} and {} bytes", blob.len()))?;
        found.cases += 1;
        found.ended.push(session.number);
        session.close()?;
    }
    // What names nothing that is there fails, and the session goes on.
    let mut session = vm.open()?;
    let handle = Outcome::Failed(result::INVALID_HANDLE);
    for (op, words, expected) in [
        (op::SET_CONTEXT, vec![1], Outcome::Done),
        (
            op::FENCE,
            vec![STREAM_LEGACY, 0, 1],
            Outcome::Failed(result::CONTEXT_IS_DESTROYED),
        ),
        (op::FENCE, vec![1, 0, 1], handle),
        (op::SET_CONTEXT, vec![0], Outcome::Done),
        (
            op::FENCE,
            vec![STREAM_LEGACY, 0, 1],
            Outcome::Failed(result::INVALID_CONTEXT),
        ),
        (op::FENCE, vec![u64::MAX, 0, 1], handle),
    ] {
        session.put(0, op, false, &words, &[])?;
        let outcome = session.settle()?;
        ensure!(
            outcome == expected,
            "operation {op:#x} with {words:x?}: {outcome:?}"
        );
        found.cases += 1;
    }
    session.close()?;
    // A SKIP that reaches to the end is right wherever it starts, and a record behind it is at the data's start.
    let mut session = vm.open()?;
    for _ in 0..3 {
        let to_end = u64::from(RING_DATA_LEN) - session.head(0) % u64::from(RING_DATA_LEN);
        session.skip(to_end as u32)?;
        ensure!(
            session.settle()? == Outcome::Done,
            "a SKIP to the end of the data"
        );
    }
    session.close()?;
    Ok(found)
}

/// Rings whose positions and records are rewritten all the while they are read.
pub fn try_moving(vm: &Vm, seed: u64, rounds: usize) -> Result<Found> {
    let mut found = Found::default();
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let session = vm.open()?;
        let end = AtomicBool::new(false);
        let mut other = random.clone();
        std::thread::scope(|scope| -> Result<()> {
            let (session, end) = (&session, &end);
            // One rewrites headers and words, the other moves the position.
            scope.spawn(move || {
                while !end.load(Relaxed) && session.status() == 0 {
                    let at = ring_at(0) + ring::DATA + 8 * (other.any() % 64);
                    let word = match other.any() % 3 {
                        0 => 0x0003_0000_0018,
                        1 => u64::from(op::GPU_INFO) << 32 | 1 << 48 | 16,
                        _ => other.any(),
                    };
                    session.u64(at).store(word, SeqCst);
                }
            });
            let header = RecordHeader {
                len: 16,
                op: op::GPU_INFO,
                flags: ring::FLAG_REPLY,
                words: 0,
                reserved: 0,
                blob: 0,
            };
            let mut position = 0;
            for _ in 0..200 {
                if session.status() != 0 {
                    break;
                }
                position += 16;
                session.write_record(0, header.as_bytes());
                session.publish(0, position)?;
                session.publish(0, random.any() % 512 * 8)?;
            }
            session.publish(0, random.any() | 1)?;
            let ended = session.ended();
            end.store(true, Relaxed);
            ended.map(drop)
        })?;
        found.cases += 1;
        found.ended.push(session.number);
        session.close()?;
    }
    Ok(found)
}

/// Sessions whose rings wait for what never comes: each can be taken down all the same.
pub fn try_stuck(vm: &Vm) -> Result<Found> {
    let mut found = Found::default();
    let launch = |function, blocks| [function, blocks, 1, 1, 1, 1, 1, 0, cases::STREAM];
    for what in ["another ring", "a host function", "a kernel"] {
        let mut session = vm.open()?;
        let fixture = Fixture::make(&mut session)?;
        session.ring_create(1)?;
        match what {
            "another ring" => {
                // Position 8 of a ring that nothing is written to.
                session.put(0, op::DEPS, false, &[], [1u64, 8].as_bytes())?;
            }
            "a host function" => {
                session.put(0, row("cuLaunchHostFunc").op, false, &[cases::STREAM, 1], &[])?;
                session.put(0, row("cuStreamSynchronize").op, true, &[cases::STREAM], &[])?;
            }
            _ => {
                let function = fixture.function(&mut session, 2, "wait")?;
                let word = (WINDOW + PINNED_AT).to_le_bytes();
                session.put(0, row("cuLaunchKernel").op, false, &launch(function, 1), &word)?;
                session.put(0, row("cuStreamSynchronize").op, true, &[cases::STREAM], &[])?;
            }
        }
        // The ring that waits takes no other with it, and neither what is behind it.
        let position = session.put(1, op::GPU_INFO, true, &[], &[])?;
        let other = session.answer(1, position)?;
        ensure!(
            other == Outcome::Done,
            "beside a ring that waits for {what}: {other:?}"
        );
        found.cases += 1;
        session
            .close()
            .with_context(|| format!("a ring waits for {what}"))?;
    }
    Ok(found)
}

/// What a control message must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Fail,
    Any,
}

/// Every control message, with everything in it wrong that can be. Sessions stay what they were.
pub fn try_control(vm: &Vm, seed: u64, random_cases: usize) -> Result<Found> {
    let mut found = Found::default();
    let mut session = vm.open()?;
    let number = session.number;
    let spare = vm.spare(1 << 20)?;
    let place = super::gpa(spare);
    let mut tried = std::collections::BTreeSet::new();
    for (kind, body) in good_messages(place) {
        tried.insert(kind as u32);
        let kind = kind as u32;
        let (right, wrong) = if without_session(kind) {
            (0, number)
        } else {
            (number, 0)
        };
        let mut messages: Vec<(String, u32, u32, Vec<u8>, Must)> = Vec::new();
        let mut add =
            |why: String, session, body: Vec<u8>, must| messages.push((why, kind, session, body, must));
        for len in (0..body.len())
            .step_by(4)
            .chain([1, body.len().saturating_sub(1)])
        {
            if len < body.len() {
                add(
                    format!("{len} of {} bytes", body.len()),
                    right,
                    body[..len].to_vec(),
                    Must::Fail,
                );
            }
        }
        for more in [1, 4, 8, 16, 4096] {
            add(
                format!("{more} bytes more"),
                right,
                [&body[..], &vec![0; more]].concat(),
                Must::Fail,
            );
        }
        for wrong in [number + 1000, u32::MAX, wrong] {
            add(format!("session {wrong}"), wrong, body.clone(), Must::Fail);
        }
        // Each word of it, anything.
        for word in (0..body.len() / 8).take(12) {
            for value in [
                0,
                1,
                PAGE_LEN - 1,
                u64::from(u32::MAX),
                1 << 47,
                u64::MAX - 4095,
                u64::MAX,
            ] {
                let mut body = body.clone();
                body[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
                add(format!("word {word} is {value:#x}"), right, body, Must::Any);
            }
        }
        for (why, kind, to, body, must) in messages {
            let (status, reply) = vm.request(kind, to, &body)?;
            ensure!(
                must == Must::Any || status != Status::Ok,
                "control message {kind}, {why}: it was done"
            );
            found.cases += 1;
            undo(vm, kind, number, &body, status, &reply)?;
        }
    }
    let all: Vec<u32> = (0..=u32::from(u8::MAX))
        .filter(|&kind| ControlKind::from_u32(kind).is_some() && kind != ControlKind::SessionClose as u32)
        .collect();
    ensure!(tried.into_iter().eq(all), "a control message was left out");

    for (why, bytes) in [
        ("nothing", vec![]),
        ("a part of a header", vec![1, 0, 0]),
        ("zeros", vec![0; 64]),
        ("as many bytes as there may be", vec![0xff; CONTROL_LEN_MAX]),
    ] {
        let (status, _) = vm.control(&bytes)?;
        ensure!(status != Status::Ok, "{why} as a control message: it was done");
        found.cases += 1;
    }
    for kind in [0, 8, 9, 255, u32::MAX] {
        let (status, _) = vm.request(kind, number, &[0; 32])?;
        ensure!(status == Status::Invalid, "control message {kind}: {status:?}");
        found.cases += 1;
    }
    // However often it is asked, everybody else gets on.
    for _ in 0..1000 {
        let (status, reply) = vm.request(ControlKind::Gpus as u32, 0, &[])?;
        ensure!(
            status == Status::Ok && gpus::Reply::decode(&reply).is_some_and(|told| !told.gpus.is_empty()),
            "what is told of the GPUs: {status:?}"
        );
        found.cases += 1;
    }
    for (why, names, expected) in openings(vm)? {
        let (_, open) = &good_messages(place)[0];
        let body = [&open[..], &names].concat();
        let (status, reply) = vm.request(ControlKind::SessionOpen as u32, 0, &body)?;
        ensure!(status == expected, "a session with {why}: {status:?}");
        found.cases += 1;
        undo(vm, ControlKind::SessionOpen as u32, number, &body, status, &reply)?;
    }
    for (why, map, runs, expected) in bad_maps(place) {
        let body = [map.as_bytes(), runs.as_bytes()].concat();
        let (status, _) = vm.request(ControlKind::Map as u32, number, &body)?;
        ensure!(expected.contains(&status), "a mapping {why}: {status:?}");
        found.cases += 1;
    }
    for ring in [0, 1, RINGS_MAX - 1, RINGS_MAX, u32::MAX] {
        for addr in [
            0,
            WINDOW + ring_at(0),
            WINDOW + PLAIN_AT,
            WINDOW + PLAIN_AT + PLAIN_LEN - PAGE_LEN,
            WINDOW + ring_at(1) + 8,
            WINDOW - PAGE_LEN,
            WINDOW + ARENA_LEN,
            u64::MAX - RING_LEN,
            LAST_PAGE,
        ] {
            // At ring 0's own place a second consumer would be the guest's own doing.
            let own = ring != 0 && ring < RINGS_MAX && addr == WINDOW + ring_at(0);
            let body = RingCreate {
                ring,
                reserved: 0,
                addr,
            };
            if !own {
                let (status, _) = vm.request(ControlKind::RingCreate as u32, number, body.as_bytes())?;
                ensure!(status != Status::Ok, "ring {ring} at {addr:#x} was made");
                found.cases += 1;
            }
        }
        vm.doorbell(number, ring)?;
        vm.doorbell(number.wrapping_add(ring), ring)?;
    }
    for at in [
        WINDOW,
        WINDOW + ring_at(0),
        WINDOW + 8,
        0,
        u64::MAX,
        WINDOW + PLAIN_AT + PAGE_LEN,
    ] {
        let (status, _) = vm.request(ControlKind::Unmap as u32, number, Unmap { addr: at }.as_bytes())?;
        ensure!(status != Status::Ok, "{at:#x} was unmapped");
        found.cases += 1;
    }
    let mut random = Random::new(seed);
    for _ in 0..random_cases {
        // Not a close of this session, which is right.
        let kind = *random.of(&[1, 3, 3, 3, 4, 5, 6, 7, 8]);
        let whole_words = !random.any().is_multiple_of(4);
        let len = (random.any() % 160) as usize & if whole_words { !7 } else { !0 };
        let mut body: Vec<u8> = (0..len).map(|_| random.any() as u8).collect();
        for word in body.chunks_exact_mut(8) {
            let value = match random.any() % 4 {
                0 => random.any(),
                1 => random.any() % 4,
                2 => WINDOW + (random.any() % 64) * PAGE_LEN,
                _ => place + (random.any() % 64) * PAGE_LEN,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        let to = if without_session(kind) { 0 } else { number };
        let (status, reply) = vm.request(kind, to, &body)?;
        found.cases += 1;
        undo(vm, kind, number, &body, status, &reply)?;
    }
    ensure!(
        session.settle()? == Outcome::Done,
        "a session that bad messages were sent to"
    );
    session.close()?;
    let (status, _) = vm.request(ControlKind::SessionClose as u32, number, &[])?;
    ensure!(status == Status::NotFound, "closed twice: {status:?}");
    Ok(found)
}

/// Memory of a program's own: at every address that is not free in the executor, over what it has there, and while it is
/// registered, mapped and unmapped by several at once.
pub fn try_program(
    vm: &Vm,
    seed: u64,
    rounds: usize,
    executor_of: &dyn Fn(u32) -> Result<u32>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut session = vm.open()?;
    let fixture = Fixture::make(&mut session)?;
    let number = session.number;
    let spare = vm.spare(1 << 20)?;
    let map = |at, len| vm.map(number, at, spare, len, MAP_PROGRAM);
    let unmap = |at: u64| -> Result<Status> {
        Ok(vm
            .request(ControlKind::Unmap as u32, number, Unmap { addr: at }.as_bytes())?
            .0)
    };
    let own = cases::places_of(executor_of(number)?)?;
    for &place in &own {
        for (at, len) in [
            (place, PAGE_LEN),
            (place.saturating_sub(PAGE_LEN), 2 * PAGE_LEN),
            (place & !0xf_ffff, 1 << 20),
        ] {
            let status = map(at, len)?;
            ensure!(
                matches!(status, Status::Taken | Status::Invalid),
                "the executor's {place:#x} was asked for: {status:?}"
            );
            found.cases += 1;
        }
    }
    ensure!(
        own == cases::places_of(executor_of(number)?)?,
        "the executor's memory is another"
    );
    for (at, expected) in [
        (ADDRESS_END - PAGE_LEN, Status::Taken),
        (0, Status::Invalid),
        (PAGE_LEN, Status::Invalid),
        (WINDOW, Status::Invalid),
        (WINDOW + PINNED_AT, Status::Invalid),
        (WINDOW + WINDOW_LEN - PAGE_LEN, Status::Invalid),
        (ADDRESS_END, Status::Invalid),
        (0xffff_8000_0000_0000, Status::Invalid),
        (LAST_PAGE, Status::Invalid),
    ] {
        let status = map(at, PAGE_LEN)?;
        ensure!(status == expected, "a program's memory at {at:#x}: {status:?}");
        found.cases += 1;
    }
    // Low, where nothing is reserved, and high: as often as it likes, and never over itself.
    for at in [1 << 30, WINDOW + PROGRAM_AT + (1 << 30)] {
        for _ in 0..3 {
            ensure!(map(at, 4 * PAGE_LEN)? == Status::Ok, "free addresses at {at:#x}");
            ensure!(map(at, 4 * PAGE_LEN)? == Status::Invalid, "twice at {at:#x}");
            ensure!(
                map(at + 3 * PAGE_LEN, 4 * PAGE_LEN)? == Status::Invalid,
                "over its end at {at:#x}"
            );
            ensure!(
                unmap(at + PAGE_LEN)? == Status::NotFound,
                "from its middle at {at:#x}"
            );
            ensure!(unmap(at)? == Status::Ok, "taken back at {at:#x}");
            ensure!(unmap(at)? == Status::NotFound, "taken back twice at {at:#x}");
            ensure!(
                map(at + 2 * PAGE_LEN, 4 * PAGE_LEN)? == Status::Ok,
                "partly free before at {at:#x}"
            );
            ensure!(unmap(at + 2 * PAGE_LEN)? == Status::Ok, "taken back at {at:#x}");
            found.cases += 8;
        }
    }
    // What is registered stays mapped.
    let at = WINDOW + PROGRAM_AT;
    fixture.must(&mut session, "cuMemHostRegister", &[], &[])?;
    ensure!(unmap(at)? == Status::Invalid, "registered memory was unmapped");
    fixture.must(&mut session, "cuMemHostUnregister", &[], &[])?;
    ensure!(
        unmap(at)? == Status::Invalid,
        "of two ranges one is registered still"
    );
    fixture.must(&mut session, "cuMemHostUnregister", &[("pointer", at + 10)], &[])?;
    ensure!(unmap(at)? == Status::Ok, "nothing is registered any more");
    // Two rings and the control queue at once: whatever each comes to, the session goes on.
    session.ring_create(1)?;
    session.put(1, op::SET_CONTEXT, false, &[1], &[])?;
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let mut last = [0; 2];
        for step in 0..16 {
            let pointer = at + random.any() % 4 * PAGE_LEN;
            let ring = (step % 2) as u32;
            last[step % 2] = if random.any().is_multiple_of(2) {
                let words = [pointer, 1 + random.any() % (2 * PAGE_LEN), 0];
                session.put(ring, row("cuMemHostRegister").op, true, &words, &[])?
            } else {
                session.put(ring, row("cuMemHostUnregister").op, true, &[pointer], &[])?
            };
            let status = if random.any().is_multiple_of(2) {
                map(at, 4 * PAGE_LEN)?
            } else {
                unmap(at)?
            };
            ensure!(status != Status::Lost, "the session is lost");
            found.cases += 2;
        }
        for (ring, position) in (0..).zip(last) {
            let outcome = session.answer(ring, position)?;
            ensure!(
                !matches!(outcome, Outcome::Ended(_)),
                "the session ended: {outcome:?}"
            );
        }
    }
    ensure!(
        session.settle()? == Outcome::Done,
        "a session whose memory came and went"
    );
    session.close()?;
    Ok(found)
}

/// Whether a message of that kind is about no session.
fn without_session(kind: u32) -> bool {
    [ControlKind::SessionOpen, ControlKind::Gpus]
        .map(|kind| kind as u32)
        .contains(&kind)
}

/// Takes back what a message did that was right by chance.
fn undo(vm: &Vm, kind: u32, session: u32, body: &[u8], status: Status, reply: &[u8]) -> Result<()> {
    if status != Status::Ok {
        return Ok(());
    }
    let word = |at: usize| body.get(at..at + 8).map(|bytes| bytes.to_vec());
    match ControlKind::from_u32(kind) {
        Some(ControlKind::SessionOpen) => {
            let number = u32::from_le_bytes(reply[..4].try_into()?);
            vm.request(ControlKind::SessionClose as u32, number, &[])?;
        }
        Some(ControlKind::Map) => {
            let addr = word(0).context("a mapping has an address")?;
            vm.request(ControlKind::Unmap as u32, session, &addr)?;
        }
        Some(ControlKind::RingCreate) => {
            let ring = RingDestroy {
                ring: u32::from_le_bytes(body[..4].try_into()?),
                reserved: 0,
            };
            vm.request(ControlKind::RingDestroy as u32, session, ring.as_bytes())?;
        }
        // Ring 0 was there before.
        Some(ControlKind::RingDestroy) if body.starts_with(&[0; 4]) => {
            let ring = RingCreate {
                ring: 0,
                reserved: 0,
                addr: WINDOW + ring_at(0),
            };
            vm.request(ControlKind::RingCreate as u32, session, ring.as_bytes())?;
        }
        _ => {}
    }
    Ok(())
}

/// A message of each kind that would be right in a session; a close is right with any session.
fn good_messages(place: u64) -> Vec<(ControlKind, Vec<u8>)> {
    let open = SessionOpen {
        pid: 1,
        windows_len: 1,
        windows: [WINDOW + WINDOW_LEN; 8],
        name: [b'x'; 32],
    };
    let map = Map {
        addr: WINDOW + (64 << 20),
        len: 2 * PAGE_LEN,
        offset: 0,
        flags: 0,
        runs_len: 2,
    };
    let runs = [0, 1].map(|page| Run {
        gpa: place + page * PAGE_LEN,
        len: PAGE_LEN,
    });
    let create = RingCreate {
        ring: 1,
        reserved: 0,
        addr: WINDOW + ring_at(1),
    };
    vec![
        (ControlKind::SessionOpen, open.as_bytes().to_vec()),
        (ControlKind::Map, [map.as_bytes(), runs.as_bytes()].concat()),
        (ControlKind::Unmap, Unmap { addr: WINDOW + 1 }.as_bytes().to_vec()),
        (ControlKind::RingCreate, create.as_bytes().to_vec()),
        (
            ControlKind::RingDestroy,
            RingDestroy { ring: 3, reserved: 0 }.as_bytes().to_vec(),
        ),
        (ControlKind::Gpus, vec![]),
    ]
}

/// GPUs that a session may be asked for with, as they come behind its opening, and what is answered.
fn openings(vm: &Vm) -> Result<Vec<(&'static str, Vec<u8>, Status)>> {
    let (status, reply) = vm.request(ControlKind::Gpus as u32, 0, &[])?;
    ensure!(status == Status::Ok, "{status:?}");
    let told = gpus::Reply::decode(&reply).context("what is told of the GPUs")?;
    let own = told.gpus.first().context("no GPU")?.uuid;
    let named = |text: &str| gpus::padded::<{ size_of::<GpuName>() }>(text);
    let mut longer = own;
    longer[size_of::<GpuName>() - 1] = b'x';
    let mut beginning = own;
    beginning[8..].fill(0);
    let strange = "GPU-00000000-0000-0000-0000-000000000000";
    let both = format!("{},{strange}", gpus::text(&own));
    let names = |names: &[GpuName]| names.as_bytes().to_vec();
    Ok(vec![
        ("the VM's own GPU", names(&[own]), Status::Ok),
        ("the same twice", names(&[own, own]), Status::Invalid),
        ("nobody's", names(&[named(strange)]), Status::NotFound),
        (
            "nobody's behind its own",
            names(&[own, named(strange)]),
            Status::NotFound,
        ),
        // What the executor's library would take for a GPU of the host, or for several.
        ("an ordinal", names(&[named("0")]), Status::NotFound),
        ("how its own begins", names(&[beginning]), Status::NotFound),
        ("two in one name", names(&[named(&both)]), Status::Invalid),
        ("no name", names(&[named("")]), Status::Invalid),
        (
            "no name behind its own",
            names(&[own, named("")]),
            Status::Invalid,
        ),
        ("something behind a name", names(&[longer]), Status::Invalid),
        ("a line", names(&[named("GPU-0\nERROR")]), Status::Invalid),
        ("no text", names(&[[0xff; size_of::<GpuName>()]]), Status::Invalid),
        (
            "half a name",
            own[..size_of::<GpuName>() / 2].to_vec(),
            Status::Invalid,
        ),
        ("too many", names(&[own; GPUS_MAX as usize + 1]), Status::Invalid),
    ])
}

/// Mappings that are refused, and how.
fn bad_maps(place: u64) -> Vec<(&'static str, Map, Vec<Run>, &'static [Status])> {
    let at = WINDOW + (64 << 20);
    let map = |addr, len, offset, flags, runs_len| Map {
        addr,
        len,
        offset,
        flags,
        runs_len,
    };
    let run = |gpa, len| Run { gpa, len };
    let page = vec![run(place, PAGE_LEN)];
    let many = vec![run(place, PAGE_LEN); RUNS_PER_MESSAGE_MAX + 1];
    let invalid: &[Status] = &[Status::Invalid];
    vec![
        (
            "over the area",
            map(WINDOW, AREA_LEN, 0, 1, 1),
            vec![run(place, AREA_LEN)],
            invalid,
        ),
        (
            "over a ring",
            map(WINDOW + ring_at(0), PAGE_LEN, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "across a mapping",
            map(WINDOW + PLAIN_AT - PAGE_LEN, 2 * PAGE_LEN, 0, 0, 1),
            vec![run(place, 2 * PAGE_LEN)],
            invalid,
        ),
        (
            "before the window",
            map(WINDOW - PAGE_LEN, PAGE_LEN, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "behind the arena",
            map(WINDOW + ARENA_LEN, PAGE_LEN, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "across the arena's end",
            map(WINDOW + ARENA_LEN - PAGE_LEN, 2 * PAGE_LEN, 0, 0, 1),
            vec![run(place, 2 * PAGE_LEN)],
            invalid,
        ),
        (
            "at the top of the address space",
            map(LAST_PAGE, PAGE_LEN, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "longer than one may be",
            map(at, MAP_LEN_MAX + PAGE_LEN, 0, 0, 1),
            page.clone(),
            &[Status::Limit],
        ),
        (
            "as long as the address space",
            map(at, LAST_PAGE, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        ("of no bytes", map(at, 0, 0, 0, 1), page.clone(), invalid),
        (
            "not aligned",
            map(at + 8, PAGE_LEN, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "of a length not aligned",
            map(at, PAGE_LEN + 8, 0, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "that starts in its middle",
            map(at, 2 * PAGE_LEN, PAGE_LEN, 0, 1),
            page.clone(),
            invalid,
        ),
        (
            "with an unknown flag",
            map(at, PAGE_LEN, 0, 4, 1),
            page.clone(),
            invalid,
        ),
        (
            "of a program's own memory in the arena",
            map(at, PAGE_LEN, 0, 2, 1),
            page.clone(),
            invalid,
        ),
        (
            "with both flags",
            map(at, PAGE_LEN, 0, 3, 1),
            page.clone(),
            invalid,
        ),
        ("of no runs", map(at, PAGE_LEN, 0, 0, 0), vec![], invalid),
        (
            "with more runs than it has",
            map(at, PAGE_LEN, 0, 0, u32::MAX),
            page.clone(),
            invalid,
        ),
        (
            "with more runs than a message may",
            map(at, PAGE_LEN * many.len() as u64, 0, 0, many.len() as u32),
            many,
            invalid,
        ),
        (
            "of less than its runs",
            map(at, PAGE_LEN, 0, 0, 1),
            vec![run(place, 2 * PAGE_LEN)],
            invalid,
        ),
        (
            "of no memory",
            map(at, PAGE_LEN, 0, 0, 1),
            vec![run(0, PAGE_LEN)],
            invalid,
        ),
        (
            "of memory past the end",
            map(at, 2 * PAGE_LEN, 0, 0, 1),
            vec![run(super::gpa(super::MEMORY_LEN) - PAGE_LEN, 2 * PAGE_LEN)],
            invalid,
        ),
        (
            "of memory at the top",
            map(at, PAGE_LEN, 0, 0, 1),
            vec![run(LAST_PAGE, PAGE_LEN)],
            invalid,
        ),
        (
            "of a run of no bytes",
            map(at, PAGE_LEN, 0, 0, 1),
            vec![run(place, 0)],
            invalid,
        ),
        (
            "of a run not aligned",
            map(at, PAGE_LEN, 0, 0, 1),
            vec![run(place + 8, PAGE_LEN)],
            invalid,
        ),
        (
            "whose runs overflow",
            map(at, 2 * PAGE_LEN, 0, 0, 2),
            vec![run(place, LAST_PAGE), run(place, 2 * PAGE_LEN)],
            invalid,
        ),
    ]
}

impl Session<'_> {
    /// Writes a SKIP of that length.
    fn skip(&mut self, len: u32) -> Result<()> {
        let header = RecordHeader {
            len,
            op: op::SKIP,
            flags: 0,
            words: 0,
            reserved: 0,
            blob: 0,
        };
        self.write_record(0, &header.as_bytes()[..16.min(len as usize)]);
        self.heads[0] += u64::from(len);
        self.publish(0, self.heads[0])
    }
}
