//! What counts as progress, and so whether a kernel is found to run too long.
mod support;

use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::*;
use vgpu_protocol::area;
use vgpu_protocol::calls::*;
use vgpu_protocol::words::handle::STREAM_LEGACY;

/// A session that may have many operations in flight, with a counter and streams 1 to 3. One kernel has run.
fn ready_with_streams() -> (Exec, u64) {
    let mut exec = ready();
    let word = counter(&mut exec);
    set_depth(&exec, 64);
    streams(&mut exec, 1..4);
    // The first kernel proves the controls, and that waits for everything.
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 0, 1);
    wait_until("progress", || exec.page().progress() == 1);
    exec.await_in_flight(0);
    (exec, word)
}

fn create_event(exec: &mut Exec, event: u32) {
    exec.call::<cuEventCreate::Call>(cuEventCreate::In { event, flags: 2 }, &[]);
}

fn record(exec: &mut Exec, event: u32, stream: u32) {
    let record = cuEventRecord::In {
        event,
        stream: stream.into(),
        slot: 0,
        sequence: 0,
    };
    exec.call::<cuEventRecord::Call>(record, &[]);
}

fn wait_event(exec: &mut Exec, stream: u32, event: u32) {
    let wait = cuStreamWaitEvent::In {
        stream: stream.into(),
        event,
        flags: 0,
    };
    exec.call::<cuStreamWaitEvent::Call>(wait, &[]);
}

#[test]
fn beside_an_endless_kernel_nothing_is_progress() {
    const KERNELS: u64 = 30;
    let (mut exec, word) = ready_with_streams();
    endless(&mut exec, 1);
    exec.await_in_flight(1);
    for kernel in 1..=KERNELS {
        // Work that follows it on its stream, and waits of other streams for it, make no difference.
        let stream = 2 + kernel % 2;
        bump(&mut exec, 0, stream, word);
        exec.fence(0, stream, stream as u32, kernel);
    }
    exec.await_in_flight(1);
    assert_eq!(exec.page().progress(), 1);
    // Nor does what is behind it, on its stream or on one that waits for it.
    create_event(&mut exec, 1);
    record(&mut exec, 1, 1);
    wait_event(&mut exec, 2, 1);
    bump(&mut exec, 0, 2, word);
    bump(&mut exec, 0, 1, word);
    bump(&mut exec, 0, 3, word);
    exec.fence(0, 3, 3, KERNELS + 1);
    exec.await_in_flight(5);
    assert_eq!(exec.page().progress(), 1);
    end_endless(&exec);
    exec.fence(0, 2, 2, KERNELS + 1);
    wait_until("progress", || exec.page().progress() > 1);
    exec.await_in_flight(0);
}

#[test]
fn a_stream_destroyed_under_its_endless_kernel_is_no_way_out() {
    const KERNELS: u64 = 30;
    let (mut exec, word) = ready_with_streams();
    endless(&mut exec, 1);
    exec.call::<cuStreamDestroy::Call>(cuStreamDestroy::In { stream: 1 }, &[]);
    exec.await_in_flight(1);
    for kernel in 1..=KERNELS {
        bump(&mut exec, 0, 2, word);
        exec.fence(0, 2, 2, kernel);
    }
    exec.await_in_flight(1);
    assert_eq!(exec.page().progress(), 1);
    end_endless(&exec);
    wait_until("progress", || exec.page().progress() == 2);
}

/// Two streams' work waits, for the guest and for each other, and is older than all that runs: what runs is progress.
#[test]
fn streams_that_wait_hold_no_progress_up() {
    const KERNELS: u64 = 30;
    let (mut exec, word) = ready_with_streams();
    create_event(&mut exec, 1);
    let function = cuLaunchHostFunc::In { stream: 1, cookie: 7 };
    exec.call::<cuLaunchHostFunc::Call>(function, &[]);
    for _ in 0..10 {
        bump(&mut exec, 0, 1, word);
    }
    record(&mut exec, 1, 1);
    bump(&mut exec, 0, 2, word);
    wait_event(&mut exec, 2, 1);
    bump(&mut exec, 0, 2, word);
    let posted = posted(&exec);
    exec.await_in_flight(14);
    for kernel in 1..=KERNELS {
        let before = exec.page().progress();
        bump(&mut exec, 0, 3, word);
        exec.fence(0, 3, 3, kernel);
        wait_until("progress", || exec.page().progress() > before);
    }
    let before = exec.page().progress();
    exec.memory.u32(posted + 8).store(area::HOST_FN_DONE, SeqCst);
    exec.fence(0, 2, 2, 1);
    wait_until("progress", || exec.page().progress() > before);
    assert_eq!(
        exec.memory.u32(PINNED.start).load(SeqCst),
        (1 + 10 + 2 + KERNELS as u32) * 128
    );
}

/// A stream waits for another one's long chain of kernels, each of which the guest lets go on: each is progress.
#[test]
fn a_long_chain_that_another_stream_waits_for_is_progress() {
    const KERNELS: u64 = 30;
    let (mut exec, word) = ready_with_streams();
    for event in 1..3 {
        create_event(&mut exec, event);
    }
    for cookie in 1..=KERNELS {
        let function = cuLaunchHostFunc::In { stream: 1, cookie };
        exec.call::<cuLaunchHostFunc::Call>(function, &[]);
        bump(&mut exec, 0, 1, word);
    }
    record(&mut exec, 1, 1);
    for stream in [2, 3] {
        wait_event(&mut exec, stream, 1);
        bump(&mut exec, 0, stream.into(), word);
    }
    bump(&mut exec, 0, STREAM_LEGACY, word);
    for cookie in 1..=KERNELS {
        let posted = posted(&exec);
        assert_eq!(exec.memory.u64(posted).load(SeqCst), cookie);
        let before = exec.page().progress();
        exec.memory.u32(posted + 8).store(area::HOST_FN_DONE, SeqCst);
        wait_until("progress", || exec.page().progress() > before);
    }
    for stream in [2, 3] {
        exec.fence(0, stream, stream as u32, 1);
    }
}
