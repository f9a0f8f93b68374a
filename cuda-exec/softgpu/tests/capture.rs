//! Stream capture and graphs. A capture in global mode concerns all threads, so these tests run one at a
//! time.

mod common;

use common::*;
use softgpu_cuda::driver::abi::*;
use softgpu_cuda::driver::{
    capture::*, context::*, error::*, event::*, graph::*, launch::*, memory::*, stream::*, stream_memory::*,
    transfer::*,
};
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};

const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn end(s: u64) -> std::result::Result<u64, i32> {
    let mut graph = 0;
    match cuStreamEndCapture(s, Out(&mut graph)) {
        0 => Ok(graph),
        code => Err(code),
    }
}

fn instantiate(graph: u64) -> u64 {
    let mut exec = 0;
    ok(cuGraphInstantiateWithFlags(Out(&mut exec), graph, 0));
    exec
}

fn nodes(graph: u64) -> usize {
    let mut count = 0;
    ok(cuGraphGetNodes(graph, Out(std::ptr::null_mut()), Out(&mut count)));
    count
}

fn status(s: u64) -> i32 {
    let mut status = -1;
    ok(cuStreamIsCapturing(s, Out(&mut status)));
    status
}

fn exchange(mode: i32) -> i32 {
    let mut mode = mode;
    ok(cuThreadExchangeStreamCaptureMode(Out(&mut mode)));
    mode
}

/// Runs on another thread, with the context current there.
fn elsewhere<T: Send + 'static>(ctx: &Ctx, f: impl FnOnce() -> T + Send + 'static) -> T {
    let handle = ctx.0;
    std::thread::spawn(move || {
        ok(cuCtxSetCurrent(handle));
        f()
    })
    .join()
    .unwrap()
}

extern "C" fn bump(data: *mut c_void) {
    // SAFETY: the test passes the address of a pinned word.
    let word = unsafe { std::sync::atomic::AtomicU64::from_ptr(data.cast()) };
    word.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
}

#[test]
fn a_captured_stream_is_replayed() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let digit = kernel(c"digit");
    let host = Pinned::new();
    let device = zeros(16);
    let s = stream(NON_BLOCKING);
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    assert_eq!(status(s), 1);
    launch1(digit, s, &[&device, &1u64]);
    ok(cuMemcpyDtoDAsync_v2(device + 8, device, 8, s));
    launch1(digit, s, &[&device, &2u64]);
    ok(cuMemcpyDtoHAsync_v2(host.at(0), device, 16, s));
    ok(cuMemsetD32Async(device + 8, 0, 2, s));
    ok(cuLaunchHostFunc(s, Some(bump), host.at(2) as *mut c_void));
    ok(cuStreamWriteValue64_v2(s, host.at(3), 5, 0));
    let graph = end(s).unwrap();
    assert_eq!((status(s), nodes(graph)), (0, 7));
    // Nothing has run.
    assert_eq!((download::<u64>(device, 1)[0], host.get(3)), (0, 0));
    let exec = instantiate(graph);
    ok(cuGraphDestroy(graph));
    for (round, expected) in [(1u64, [12, 1]), (2, [1212, 121]), (3, [121_212, 12_121])] {
        ok(cuGraphLaunch(exec, s));
        ok(cuStreamSynchronize(s));
        assert_eq!([host.get(0), host.get(1)], expected);
        assert_eq!((host.get(2), host.get(3)), (round, 5));
    }
    ok(cuGraphExecDestroy(exec));
    assert_eq!(cuGraphLaunch(exec, s), INVALID_VALUE.0);
}

#[test]
fn a_graph_launch_is_ordered_with_its_stream() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let (wait, digit) = (kernel(c"wait_for"), kernel(c"digit"));
    let host = Pinned::new();
    let (s, other) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    launch1(digit, s, &[&host.at(0), &2u64]);
    launch1(digit, s, &[&host.at(0), &3u64]);
    let exec = instantiate(end(s).unwrap());
    launch1(wait, s, &[&host.at(8), &host.at(1), &1u64]);
    launch1(digit, s, &[&host.at(0), &1u64]);
    ok(cuGraphLaunch(exec, s));
    launch1(digit, s, &[&host.at(0), &4u64]);
    // The same graph elsewhere comes after the launch before it.
    ok(cuGraphLaunch(exec, other));
    assert_eq!(host.get(0), 0);
    host.set(1, 1);
    ok(cuStreamSynchronize(s));
    ok(cuStreamSynchronize(other));
    // 4 and the second launch are on different streams.
    assert!(
        [123_423, 123_234, 123_243].contains(&host.get(0)),
        "{}",
        host.get(0)
    );
}

#[test]
fn streams_fork_and_join_in_a_capture() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let digit = kernel(c"digit");
    let host = Pinned::new();
    let (s, side) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (fork, join) = (event(), event());
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    launch1(digit, s, &[&host.at(0), &1u64]);
    ok(cuEventRecord(fork, s));
    ok(cuStreamWaitEvent(side, fork, 0));
    assert_eq!(status(side), 1);
    launch1(digit, side, &[&host.at(1), &7u64]);
    launch1(digit, s, &[&host.at(0), &2u64]);
    ok(cuEventRecord(join, side));
    ok(cuStreamWaitEvent(s, join, 0));
    launch1(digit, s, &[&host.at(0), &3u64]);
    assert_eq!(cuStreamEndCapture(s, Out(&mut 0)), 0);
    // Once more, ended on the wrong stream, and then with the fork left open.
    assert_eq!(status(side), 0);
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    ok(cuEventRecord(fork, s));
    ok(cuStreamWaitEvent(side, fork, 0));
    launch1(digit, side, &[&host.at(1), &7u64]);
    assert_eq!(end(side), Err(STREAM_CAPTURE_UNMATCHED.0));
    assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    ok(cuEventRecord(fork, s));
    ok(cuStreamWaitEvent(side, fork, 0));
    launch1(digit, side, &[&host.at(1), &7u64]);
    assert_eq!(end(s), Err(STREAM_CAPTURE_UNJOINED.0));
    assert_eq!((status(s), status(side)), (0, 0));
    launch1(digit, side, &[&host.at(1), &9u64]);
    ok(cuCtxSynchronize());
    assert_eq!(host.get(1), 9);
}

#[test]
fn unsafe_calls_break_a_global_capture_from_any_thread() {
    let _alone = alone();
    let ctx = Ctx::new();
    let s = stream(NON_BLOCKING);
    let e = event();
    let host = Pinned::new();
    for call in [
        (|_| cuMemAlloc_v2(Out(&mut 0), 8)) as fn(u64) -> i32,
        |e| cuEventQuery(e),
        |_| cuMemHostAlloc(Out(&mut 0), 8, 0),
        |_| cuStreamSynchronize(STREAM_PER_THREAD),
        |_| cuCtxSynchronize(),
    ] {
        ok(cuStreamBeginCapture_v2(s, GLOBAL));
        assert_eq!(elsewhere(&ctx, move || call(e)), STREAM_CAPTURE_UNSUPPORTED.0);
        assert_eq!(status(s), 2);
        assert_eq!(
            cuStreamWriteValue64_v2(s, host.at(0), 1, 0),
            STREAM_CAPTURE_INVALIDATED.0
        );
        assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    }
}

#[test]
fn the_modes_decide_who_is_forbidden_what() {
    let _alone = alone();
    let ctx = Ctx::new();
    let s = stream(NON_BLOCKING);
    let allocate = || cuMemAlloc_v2(Out(&mut 0), 8);
    // A helper in relaxed mode may do all.
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    let helper = elsewhere(&ctx, move || (exchange(RELAXED), allocate(), exchange(GLOBAL)));
    assert_eq!(helper, (GLOBAL, 0, RELAXED));
    // And one in thread-local mode, which captures nothing itself.
    assert_eq!(
        elsewhere(&ctx, move || (exchange(THREAD_LOCAL), allocate())),
        (GLOBAL, 0)
    );
    end(s).unwrap();
    // A thread-local capture concerns its own thread only.
    ok(cuStreamBeginCapture_v2(s, THREAD_LOCAL));
    assert_eq!(elsewhere(&ctx, allocate), 0);
    assert_eq!(status(s), 1);
    assert_eq!(allocate(), STREAM_CAPTURE_UNSUPPORTED.0);
    assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    // A relaxed one nobody.
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    assert_eq!((allocate(), elsewhere(&ctx, allocate)), (0, 0));
    end(s).unwrap();
    // Only the thread that began one of the stricter ones ends it.
    ok(cuStreamBeginCapture_v2(s, THREAD_LOCAL));
    assert_eq!(
        elsewhere(&ctx, move || end(s)),
        Err(STREAM_CAPTURE_WRONG_THREAD.0)
    );
    end(s).unwrap();
}

#[test]
fn the_capturing_stream_itself_cannot_be_waited_for() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let (s, other) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (inside, outside) = (event(), event());
    let host = Pinned::new();
    exchange(RELAXED);
    for call in [cuStreamSynchronize as extern "C" fn(u64) -> i32, cuStreamQuery] {
        ok(cuStreamBeginCapture_v2(s, RELAXED));
        assert_eq!(call(s), STREAM_CAPTURE_UNSUPPORTED.0);
        assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    }
    // An event recorded in a capture stands for nothing that could be waited for.
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    ok(cuEventRecord(inside, s));
    assert_eq!(cuEventQuery(inside), CAPTURED_EVENT.0);
    assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    // And the capture may not wait for work outside.
    ok(cuEventRecord(outside, other));
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    assert_eq!(cuStreamWaitEvent(s, outside, 0), STREAM_CAPTURE_ISOLATION.0);
    assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    // Two captures do not meet.
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    ok(cuStreamBeginCapture_v2(other, RELAXED));
    ok(cuStreamWriteValue64_v2(s, host.at(0), 1, 0));
    ok(cuEventRecord(inside, s));
    assert_eq!(cuStreamWaitEvent(other, inside, 0), STREAM_CAPTURE_MERGE.0);
    assert_eq!(end(s), Err(STREAM_CAPTURE_INVALIDATED.0));
    assert_eq!(end(other), Err(STREAM_CAPTURE_INVALIDATED.0));
    assert_eq!(end(other), Err(ILLEGAL_STATE.0));
    exchange(GLOBAL);
}

#[test]
fn the_legacy_stream_is_forbidden_while_a_blocking_stream_captures() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let host = Pinned::new();
    let (blocking, other) = (stream(BLOCKING), stream(NON_BLOCKING));
    exchange(RELAXED);
    ok(cuStreamBeginCapture_v2(blocking, RELAXED));
    assert_eq!(cuStreamIsCapturing(0, Out(&mut 0)), STREAM_CAPTURE_IMPLICIT.0);
    assert_eq!(status(blocking), 1);
    assert_eq!(
        cuStreamWriteValue64_v2(0, host.at(0), 1, 0),
        STREAM_CAPTURE_IMPLICIT.0
    );
    assert_eq!(end(blocking), Err(STREAM_CAPTURE_INVALIDATED.0));
    ok(cuStreamBeginCapture_v2(other, RELAXED));
    ok(cuStreamWriteValue64_v2(0, host.at(0), 1, 0));
    ok(cuStreamSynchronize(0));
    end(other).unwrap();
    assert_eq!(cuStreamBeginCapture_v2(0, RELAXED), STREAM_CAPTURE_UNSUPPORTED.0);
    exchange(GLOBAL);
}

#[test]
fn capture_info_has_status_and_id() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let s = stream(NON_BLOCKING);
    let info = || {
        let (mut status, mut id) = (-1, 0);
        let (graph, nodes, edges) = (
            Out(std::ptr::null_mut()),
            Out(std::ptr::null_mut()),
            Out(std::ptr::null_mut()),
        );
        let count = Out(std::ptr::null_mut());
        ok(cuStreamGetCaptureInfo_v3(
            s,
            Out(&mut status),
            Out(&mut id),
            graph,
            nodes,
            edges,
            count,
        ));
        (status, id)
    };
    assert_eq!(info(), (0, 0));
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    let (status, first) = info();
    assert_eq!(status, 1);
    end(s).unwrap();
    ok(cuStreamBeginCapture_v2(s, RELAXED));
    assert_ne!(info().1, first);
    // A stream that goes while it is captured ends the capture.
    ok(cuStreamDestroy_v2(s));
    let mut address = 0;
    ok(cuMemAlloc_v2(Out(&mut address), 8));
}

#[test]
fn a_graph_can_be_captured_into_another() {
    let _alone = alone();
    let _ctx = Ctx::new();
    let digit = kernel(c"digit");
    let host = Pinned::new();
    let s = stream(NON_BLOCKING);
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    launch1(digit, s, &[&host.at(0), &2u64]);
    launch1(digit, s, &[&host.at(0), &3u64]);
    let inner = instantiate(end(s).unwrap());
    ok(cuStreamBeginCapture_v2(s, GLOBAL));
    launch1(digit, s, &[&host.at(0), &1u64]);
    ok(cuGraphLaunch(inner, s));
    launch1(digit, s, &[&host.at(0), &4u64]);
    let graph = end(s).unwrap();
    assert_eq!(nodes(graph), 3);
    ok(cuGraphLaunch(instantiate(graph), s));
    ok(cuStreamSynchronize(s));
    assert_eq!(host.get(0), 1234);
}
