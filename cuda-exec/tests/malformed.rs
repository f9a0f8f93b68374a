//! What a guest may not write into a ring: the session ends for it, and nothing else happens.
mod support;

use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::*;
use vgpu_protocol::area;
use vgpu_protocol::calls::*;
use vgpu_protocol::limits::{CONTEXTS_MAX, RING_DATA_LEN};
use vgpu_protocol::result;
use vgpu_protocol::ring::{self, RecordHeader, op};
use vgpu_protocol::words::handle::STREAM_LEGACY;
use zerocopy::IntoBytes;

/// Writes a record that breaks a rule, and sees the session end for it.
fn ends_the_session(write: impl FnOnce(&mut Exec)) {
    let mut exec = Exec::start();
    write(&mut exec);
    assert_eq!(exec.end(), (Some(2), result::UNKNOWN));
    // The guest is told.
    readable(&exec.event);
    assert!(exec.memory.u32(area::EVENTS).load(SeqCst) > 0);
}

fn header(len: u32, op: u16, words: u16, blob: u32) -> RecordHeader {
    RecordHeader {
        len,
        op,
        flags: 0,
        words,
        reserved: 0,
        blob,
    }
}

#[test]
fn a_record_of_a_wrong_length_ends_the_session() {
    ends_the_session(|exec| {
        exec.put_raw(0, header(20, op::SET_CONTEXT, 1, 0), &[0], &[]);
    });
    ends_the_session(|exec| {
        exec.put_raw(0, header(1 << 20, op::SET_CONTEXT, 1, 0), &[0], &[]);
    });
    ends_the_session(|exec| {
        exec.put_raw(0, header(24, op::SET_CONTEXT, 2, 0), &[0], &[]);
    });
}

#[test]
fn an_unknown_operation_ends_the_session() {
    ends_the_session(|exec| {
        exec.put(0, 0xfff, true, &[], &[]);
    });
}

#[test]
fn a_call_with_other_arguments_than_its_row_says_ends_the_session() {
    ends_the_session(|exec| {
        exec.put(0, cuMemGetInfo::OP, true, &[1], &[]);
    });
    ends_the_session(|exec| {
        exec.put(0, cuMemGetInfo::OP, false, &[], &[]);
    });
    ends_the_session(|exec| {
        exec.put(0, cuMemFree::OP, true, &[1], b"blob");
    });
}

#[test]
fn a_context_that_cannot_be_ends_the_session() {
    for context in [u64::from(CONTEXTS_MAX), 1 << 32 | 1] {
        ends_the_session(|exec| {
            exec.put(0, op::SET_CONTEXT, false, &[context], &[]);
        });
    }
}

#[test]
fn a_position_that_jumps_ends_the_session() {
    ends_the_session(|exec| exec.publish(0, 1 << 20));
    ends_the_session(|exec| exec.publish(0, 12));
    ends_the_session(|exec| {
        let position = exec.put(0, op::SET_CONTEXT, false, &[0], &[]);
        let tail = ring_at(0) + ring::TAIL;
        wait_until("the record", || exec.memory.u64(tail).load(SeqCst) == position);
        exec.publish(0, 8);
    });
}

#[test]
fn waiting_for_what_no_ring_can_hold_ends_the_session() {
    ends_the_session(|exec| {
        exec.put(0, op::DEPS, false, &[], [0u64, 8].as_bytes());
    });
    ends_the_session(|exec| {
        exec.ring_create(1).unwrap();
        exec.put(0, op::DEPS, false, &[], [1u64, 1 << 40].as_bytes());
    });
}

#[test]
fn a_record_that_is_rewritten_while_it_is_read_is_used_as_it_was_checked() {
    let mut exec = ready();
    let device = alloc(&mut exec, 4096);
    let inside = device + 4000;
    // What is written is 96 bytes: inside at one of the two addresses, across the end at the other.
    let outside = device + 4001;
    exec.get::<cuMemAlloc::Call>(cuMemAlloc::In { bytes: 4096 }, &[])
        .unwrap();
    let (mut done, mut refused) = (0, 0);
    for round in 0..300 {
        let memset = cuMemsetD8Async::In {
            to: inside,
            value: 1,
            count: 96,
            stream: STREAM_LEGACY,
        };
        let at = ring_at(0) + ring::DATA + exec.head(0) % u64::from(RING_DATA_LEN) + 16;
        // The guest rewrites the address while the executor may be reading it.
        exec.call::<cuMemsetD8Async::Call>(memset, &[]);
        for i in 0..round % 40 {
            exec.memory
                .u64(at)
                .store(if i % 2 == 0 { outside } else { inside }, SeqCst);
        }
        exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
        match exec.context_error(1) {
            0 => done += 1,
            result::INVALID_VALUE => refused += 1,
            other => panic!("CUDA error {other}"),
        }
    }
    assert_eq!(done + refused, 300);
    assert!(done > 0);
    assert!(exec.child.try_wait().unwrap().is_none());
}
