//! Streams that wait for values in memory: what ends a wait may be submitted after it, and no limit may keep it out.
mod support;

use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::*;
use vgpu_protocol::calls::{
    cuStreamBatchMemOp, cuStreamWaitValue32, cuStreamWriteValue32, cuStreamWriteValue64,
};
use vgpu_protocol::result;
use vgpu_protocol::structs::BatchMemOp;
use vgpu_sched_api::turn::State;
use zerocopy::IntoBytes;

/// Where the word lies that is waited for.
const WORD: u64 = PINNED.start + 128;

fn wait(exec: &mut Exec, stream: u64) {
    let wait = cuStreamWaitValue32::In {
        stream,
        word: WINDOW + WORD,
        value: 1,
        flags: 0,
    };
    exec.call::<cuStreamWaitValue32::Call>(wait, &[]);
}

fn write(exec: &mut Exec, stream: u64) {
    let write = cuStreamWriteValue32::In {
        stream,
        word: WINDOW + WORD,
        value: 1,
        flags: 0,
    };
    exec.call::<cuStreamWriteValue32::Call>(write, &[]);
}

#[test]
fn what_ends_a_wait_is_submitted_however_much_waits() {
    let mut exec = ready();
    let word = counter(&mut exec);
    exec.memory.u32(WORD).store(0, SeqCst);
    set_depth(&exec, 1);
    streams(&mut exec, 1..6);
    // The first kernel proves the controls, and that waits for everything.
    bump(&mut exec, 0, 5, word);
    exec.fence(0, 5, 5, 1);
    for stream in 1..5 {
        wait(&mut exec, stream);
        for _ in 0..20 {
            bump(&mut exec, 0, stream, word);
        }
    }
    bump(&mut exec, 0, 5, word);
    exec.fence(0, 5, 5, 2);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 2 * 128);
    write(&mut exec, 5);
    for stream in 1..5 {
        exec.fence(0, stream, stream as u32, 1);
    }
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 82 * 128);
}

/// A stream that waits for ever holds no turn, and ends with its session.
#[test]
fn a_wait_for_ever_holds_no_turn() {
    let mut exec = ready();
    exec.memory.u32(WORD).store(0, SeqCst);
    let word = counter(&mut exec);
    streams(&mut exec, 1..3);
    wait(&mut exec, 1);
    exec.put(0, vgpu_protocol::ring::op::FENCE, false, &[1, 1, 1], &[]);
    // A kernel of another stream takes the turn, which is idle again behind it.
    bump(&mut exec, 0, 2, word);
    exec.fence(0, 2, 2, 1);
    wait_until("idleness", || exec.page().word().state == State::Idle);
    assert_eq!(exec.memory.u64(vgpu_protocol::area::fence(1)).load(SeqCst), 0);
    assert_eq!(exec.close(), Some(0));
}

#[test]
fn words_that_are_not_the_guests_are_refused() {
    let mut exec = ready();
    streams(&mut exec, 1..2);
    let mut sequence = 0;
    let mut expect = |word: u64, code| {
        let write = cuStreamWriteValue64::In {
            stream: 1,
            word,
            value: 1,
            flags: 0,
        };
        exec.call::<cuStreamWriteValue64::Call>(write, &[]);
        sequence += 1;
        exec.fence(0, 1, 1, sequence);
        assert_eq!(exec.context_error(1), code, "{word:#x}");
        let operation = BatchMemOp {
            operation: BatchMemOp::WRITE_64,
            address: word,
            value: 1,
            ..BatchMemOp::default()
        };
        let batch = cuStreamBatchMemOp::In { stream: 1, flags: 0 };
        exec.call::<cuStreamBatchMemOp::Call>(batch, operation.as_bytes());
        sequence += 1;
        exec.fence(0, 1, 1, sequence);
        assert_eq!(exec.context_error(1), code, "{word:#x}");
    };
    expect(WINDOW + PINNED.start, result::SUCCESS);
    expect(WINDOW + PINNED.start + 4, result::INVALID_VALUE);
    expect(WINDOW + PLAIN.start, result::INVALID_VALUE);
    expect(0, result::INVALID_VALUE);
    expect(WINDOW + PINNED.end - 4, result::INVALID_VALUE);
}
