//! A session that shares its GPU through MPS.
mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::*;
use vgpu_protocol::words::handle::STREAM_LEGACY;
use vgpu_sched_api::messages::FromExec;

/// Its channels are the server's, so that nothing is tried and nothing is promised.
#[test]
fn a_session_under_mps_works_and_promises_no_preemption() {
    let dir = tempfile::tempdir().unwrap();
    let with_mps = dir.path().join("vgpu-exec");
    let text = format!("#!/bin/sh\nexec {} --mps\n", env!("CARGO_BIN_EXE_vgpu-exec"));
    std::fs::write(&with_mps, text).unwrap();
    std::fs::set_permissions(&with_mps, std::fs::Permissions::from_mode(0o755)).unwrap();
    // SAFETY: the only test of this program, and it has started no other thread that reads the environment.
    unsafe { std::env::set_var("VGPU_TEST_EXEC", &with_mps) };

    let mut exec = Exec::start();
    exec.connect();
    exec.context();
    load(&mut exec);
    exec.grant();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    let nothing = FromExec::Proved {
        slices: false,
        stop: false,
        stop_us: 0,
        resume_us: 0,
        suspend: false,
    };
    assert_eq!(proved(&exec), nothing);
    exec.await_fence(1, 1);
    assert_ne!(exec.memory.u32(PINNED.start).load(SeqCst), 0);
}
