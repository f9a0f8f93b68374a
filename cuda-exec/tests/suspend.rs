//! A session whose GPU memory is moved to the host, as its backend, its guest and vgpud see it.
mod support;

use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::shares::Table;
use support::*;
use vgpu_protocol::calls::*;
use vgpu_protocol::host::ShareKind;
use vgpu_protocol::ring::{self, op};
use vgpu_protocol::structs::HANDLE_TYPE_FILE;
use vgpu_protocol::words::handle::STREAM_LEGACY;
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::turn::State;

const MIB: u64 = 1 << 20;

/// The next message about a suspension.
fn suspended(exec: &Exec) -> bool {
    loop {
        if let FromExec::Suspended { suspended, .. } = exec.hear() {
            return suspended;
        }
    }
}

/// Suspends a session as soon as it says that it is idle.
fn suspend(exec: &Exec) {
    wait_until("idleness", || {
        let counts = exec.page().counts();
        exec.page().word().state == State::Idle && counts.1 == 0
    });
    // The thread that looks what is done may be about to.
    wait_until("the suspension", || {
        exec.order(&ToExec::Suspend);
        suspended(exec)
    });
}

/// Fills device memory with a pattern through pinned memory.
fn fill(exec: &mut Exec, device: u64, bytes: u64) -> Vec<u8> {
    let pattern: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    exec.memory.write(PINNED.start + 4096, &pattern);
    let copy = cuMemcpyHtoDAsync::In {
        to: device,
        from: WINDOW + PINNED.start + 4096,
        bytes,
        stream: STREAM_LEGACY,
    };
    exec.call::<cuMemcpyHtoDAsync::Call>(copy, &[]);
    pattern
}

fn read_back(exec: &mut Exec, device: u64, bytes: u64) {
    exec.memory.write(PINNED.start + 4096, &vec![0; bytes as usize]);
    let copy = cuMemcpyDtoHAsync::In {
        to: WINDOW + PINNED.start + 4096,
        from: device,
        bytes,
        stream: STREAM_LEGACY,
    };
    exec.call::<cuMemcpyDtoHAsync::Call>(copy, &[]);
}

#[test]
fn a_suspended_session_has_nothing_on_the_gpu_and_is_as_it_was_on_its_next_call() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    let mut other = Exec::start_beside(&exec);
    make_ready(&mut exec, Some((&page, 0)));
    make_ready(&mut other, None);
    let before = memory_info(&mut other).0;
    let word = counter(&mut exec);
    let device = alloc(&mut exec, 2 * MIB);
    let pattern = fill(&mut exec, device, 2 * MIB);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    assert_eq!(memory_info(&mut other).0, before - 2 * MIB);
    let used = page.get().used(0);
    suspend(&exec);
    assert_eq!(page.get().used(0), 0);
    assert!(
        memory_info(&mut other).0 > before,
        "its module's variables went as well"
    );
    // A second order finds it so.
    exec.order(&ToExec::Suspend);
    assert!(suspended(&exec));

    read_back(&mut exec, device, 2 * MIB);
    exec.fence(0, STREAM_LEGACY, 1, 2);
    assert!(!suspended(&exec));
    assert_eq!(exec.memory.read(PINNED.start + 4096, 2 * MIB as usize), pattern);
    assert_eq!(page.get().used(0), used);
    assert_eq!(memory_info(&mut other).0, before - 2 * MIB);
    // Its kernels, its turn and its pinned memory, too.
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 3);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);
    assert_eq!(exec.context_error(1), 0);
}

#[test]
fn a_session_that_works_is_not_suspended() {
    let mut exec = ready();
    let word = counter(&mut exec);
    endless(&mut exec, STREAM_LEGACY);
    exec.order(&ToExec::Suspend);
    assert!(!suspended(&exec));
    end_endless(&exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    // Nor one that captures.
    let create = cuStreamCreate::In {
        stream: 7,
        flags: 1,
        priority: 0,
    };
    exec.call::<cuStreamCreate::Call>(create, &[]);
    exec.get::<cuStreamBeginCapture::Call>(cuStreamBeginCapture::In { stream: 7, mode: 2 }, &[])
        .unwrap();
    wait_until("idleness", || exec.page().word().state == State::Idle);
    exec.order(&ToExec::Suspend);
    assert!(!suspended(&exec));
    exec.get::<cuStreamEndCapture::Call>(cuStreamEndCapture::In { stream: 7, graph: 1 }, &[])
        .unwrap();
    suspend(&exec);
}

#[test]
fn a_suspended_session_waits_for_its_memory() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    let mut other = Exec::start_beside(&exec);
    make_ready(&mut exec, Some((&page, 0)));
    let device = alloc(&mut exec, 2 * MIB);
    let pattern = fill(&mut exec, device, 2 * MIB);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    make_ready(&mut other, Some((&page, 1)));
    let (free, total) = memory_info(&mut other);
    // First the quota is another session's, then the GPU itself.
    for quota in [Some(total - free), None] {
        page.get().set_quota(quota);
        suspend(&exec);
        let (free, _) = memory_info(&mut other);
        let taken = alloc(&mut other, free - free % (2 * MIB));
        read_back(&mut exec, device, 2 * MIB);
        let position = exec.put(0, op::FENCE, false, &[STREAM_LEGACY, 2, 1], &[]);
        // It cannot go on: others work, and it does not.
        for _ in 0..100 {
            memory_info(&mut other);
        }
        let executed = exec.memory.u64(ring_at(0) + ring::TAIL).load(SeqCst);
        assert!(executed < position);
        other
            .get::<cuMemFree::Call>(cuMemFree::In { pointer: taken }, &[])
            .unwrap();
        exec.await_fence(2, 1);
        assert!(!suspended(&exec));
        assert_eq!(exec.memory.read(PINNED.start + 4096, 2 * MIB as usize), pattern);
        exec.memory.u64(vgpu_protocol::area::fence(2)).store(0, SeqCst);
    }
}

#[test]
fn a_mapping_is_taken_back_and_a_ring_destroyed_while_the_session_is_suspended() {
    let mut exec = ready();
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    let word = counter(&mut exec);
    const PER_THREAD: u64 = vgpu_protocol::words::handle::STREAM_PER_THREAD;
    bump(&mut exec, 1, PER_THREAD, word);
    exec.fence(1, PER_THREAD, 1, 1);
    suspend(&exec);
    // Neither a ring nor plain memory needs the GPU.
    exec.ring_destroy(1).unwrap();
    exec.unmap(ring_at(1)).unwrap();
    exec.unmap(PLAIN.start).unwrap();
    // Pinned memory does.
    exec.unmap(PINNED.start).unwrap();
    assert!(!suspended(&exec));
    exec.map(PINNED.start, PINNED.end - PINNED.start, true).unwrap();
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 2);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);
}

#[test]
fn a_vgpud_that_was_restarted_learns_that_a_session_is_suspended() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    suspend(&exec);
    exec.connect();
    assert!(suspended(&exec));
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 2);
    assert!(!suspended(&exec));
    exec.connect();
    assert_proved(&exec.hear());
    exec.orders_are_done();
}

/// Memory that others may have would not be theirs any more once it is back.
#[test]
fn a_session_that_shares_memory_is_not_suspended() {
    let mut table = Table::default();
    let mut exec = Exec::start();
    make_ready(&mut exec, None);
    let create = cuMemCreate::In {
        bytes: 2 * MIB,
        device: 0,
        compression: 0,
        rdma: 0,
        usage: 0,
        handle_types: HANDLE_TYPE_FILE,
        allocation: 1,
    };
    exec.get::<cuMemCreate::Call>(create, &[]).unwrap();
    let export = cuMemExportToShareableHandle::In { allocation: 1 };
    table
        .get::<cuMemExportToShareableHandle::Call>(&mut exec, export, &[], ShareKind::Publish)
        .unwrap();
    for _ in 0..5 {
        exec.order(&ToExec::Suspend);
        assert!(!suspended(&exec));
    }
    let release = cuMemRelease::In { allocation: 1 };
    table
        .get::<cuMemRelease::Call>(&mut exec, release, &[], ShareKind::Withdraw)
        .unwrap();
    suspend(&exec);
}
