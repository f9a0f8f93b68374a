//! One executor on the software GPU, as its backend, its guest and vgpud see it.
mod support;

use std::sync::atomic::Ordering::SeqCst;
use support::program::*;
use support::*;
use vgpu_protocol::area;
use vgpu_protocol::calls::*;
use vgpu_protocol::limits::GRAPHS_WEIGHT_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{self, GpuInfo, op};
use vgpu_protocol::structs::graph::{ChildGraph, kind};
use vgpu_protocol::virtio::Status;
use vgpu_protocol::words::handle::STREAM_LEGACY;
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::turn::{State, Word};
use zerocopy::{FromBytes, IntoBytes};

const N: usize = 1000;

/// Makes executable graph 1 of a graph.
fn instantiate(exec: &mut Exec, graph: u32) -> Result<(), Code> {
    let arguments = cuGraphInstantiateWithParams::In {
        graph,
        flags: 0,
        exec: 1,
    };
    exec.get::<cuGraphInstantiateWithParams::Call>(arguments, &[])
        .map(drop)
}

/// c = a + b of floats through the GPU, from and to pinned memory; `ready` is called when everything is submitted.
fn add_vectors(exec: &mut Exec, ready: impl FnOnce(&mut Exec)) {
    let bytes = (N * 4) as u64;
    let (a, b) = (PINNED.start, PINNED.start + 0x10000);
    for i in 0..N {
        exec.memory.write(a + 4 * i as u64, &(i as f32).to_le_bytes());
        exec.memory
            .write(b + 4 * i as u64, &(2.0 * i as f32).to_le_bytes());
    }
    let params = function(exec, "add", 1);
    assert_eq!(params.len(), 4);
    let (da, db, dc) = (alloc(exec, bytes), alloc(exec, bytes), alloc(exec, bytes));
    let stream = STREAM_LEGACY;
    exec.call::<cuMemcpyHtoDAsync::Call>(
        cuMemcpyHtoDAsync::In {
            to: da,
            from: WINDOW + a,
            bytes,
            stream,
        },
        &[],
    );
    exec.call::<cuMemcpyHtoDAsync::Call>(
        cuMemcpyHtoDAsync::In {
            to: db,
            from: WINDOW + b,
            bytes,
            stream,
        },
        &[],
    );
    let mut blob = [0u8; 28];
    for (at, word) in [(0, da), (8, db), (16, dc), (24, N as u64)] {
        let len = if at == 24 { 4 } else { 8 };
        blob[at..at + len].copy_from_slice(&word.to_le_bytes()[..len]);
    }
    exec.call::<cuLaunchKernel::Call>(launch(1, N.div_ceil(128) as u32, stream), &blob);
    let to = PINNED.start + 0x20000;
    exec.call::<cuMemcpyDtoHAsync::Call>(
        cuMemcpyDtoHAsync::In {
            to: WINDOW + to,
            from: dc,
            bytes,
            stream,
        },
        &[],
    );
    exec.put(0, op::FENCE, false, &[stream, 5, 1], &[]);
    ready(exec);
    exec.await_fence(5, 1);
    for i in 0..N {
        let sum = f32::from_le_bytes(exec.memory.read(to + 4 * i as u64, 4).try_into().unwrap());
        assert_eq!(sum, 3.0 * i as f32, "element {i}");
    }
    assert_eq!(exec.context_error(1), 0);
}

#[test]
fn vectors_are_added_once_the_turn_is_granted() {
    let mut exec = Exec::start();
    exec.connect();
    exec.context();
    load(&mut exec);
    add_vectors(&mut exec, |exec| {
        assert_eq!(exec.hear(), FromExec::Want);
        assert_eq!(exec.page().word().state, State::None);
        exec.grant();
    });
    assert_eq!(exec.close(), Some(0));
}

#[test]
fn the_gpus_are_described() {
    let mut exec = Exec::start();
    let position = exec.put(0, op::GPU_INFO, true, &[], &[]);
    let (code, words, blob) = exec.answer(0, position);
    assert_eq!((code, words.len()), (0, 1));
    let gpus = <[GpuInfo]>::ref_from_bytes(&blob).unwrap();
    assert_eq!(gpus.len() as u64, words[0]);
    assert!(gpus[0].memory > 0 && gpus[0].name[0] != 0);
}

#[test]
fn a_turn_is_given_back_when_drained_and_asked_for_again() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    assert_proved(&proved(&exec));
    // Nothing is in flight: it says so by itself.
    wait_until("idleness", || exec.page().word().state == State::Idle);
    // New work takes the turn back into use, without a word.
    exec.memory.u32(PINNED.start + 64).store(0, SeqCst);
    function(&mut exec, "wait", 3);
    let flag = WINDOW + PINNED.start + 64;
    let mut spin = launch(3, 1, STREAM_LEGACY);
    spin.block_x = 1;
    exec.call::<cuLaunchKernel::Call>(spin, &flag.to_le_bytes());
    wait_until("work", || exec.page().word().state == State::Held);
    // Asked back while the kernel runs: it is not given back before the kernel ends.
    wait_until("the kernel", || {
        exec.memory.u32(PINNED.start + 68).load(SeqCst) > 0
    });
    let held = exec.page().word();
    exec.page()
        .change(
            held,
            Word {
                state: State::Yield,
                ..held
            },
        )
        .unwrap();
    exec.page().ring_bell();
    // This one waits for the next turn.
    bump(&mut exec, 0, STREAM_LEGACY, word);
    assert_eq!(exec.page().word().state, State::Yield);
    exec.memory.u32(PINNED.start + 64).store(1, SeqCst);
    assert_eq!(exec.hear(), FromExec::Released);
    assert_eq!(
        exec.page().word(),
        Word {
            state: State::None,
            ..held
        }
    );
    assert_eq!(exec.hear(), FromExec::Want);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 128);
    exec.grant();
    exec.fence(0, STREAM_LEGACY, 1, 2);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);
}

#[test]
fn a_sleeping_guest_thread_is_woken_by_a_fence_and_by_an_answer() {
    let mut exec = ready();
    exec.memory.u32(area::WAITERS).store(1, SeqCst);
    let word = counter(&mut exec);
    readable(&exec.event);
    rustix::io::read(&exec.event, &mut [0; 8]).unwrap();
    exec.memory.u32(PINNED.start + 64).store(0, SeqCst);
    function(&mut exec, "wait", 3);
    let mut spin = launch(3, 1, STREAM_LEGACY);
    spin.block_x = 1;
    exec.call::<cuLaunchKernel::Call>(spin, &(word + 64).to_le_bytes());
    let position = exec.put(0, op::FENCE, false, &[STREAM_LEGACY, 9, 1], &[]);
    wait_until("the fence's record", || {
        exec.memory.u64(ring_at(0) + ring::TAIL).load(SeqCst) == position
    });
    wait_until("the kernel", || {
        exec.memory.u32(PINNED.start + 68).load(SeqCst) > 0
    });
    let _ = rustix::io::read(&exec.event, &mut [0; 8]);
    let events = exec.memory.u32(area::EVENTS).load(SeqCst);
    exec.memory.u32(PINNED.start + 64).store(1, SeqCst);
    readable(&exec.event);
    assert!(exec.memory.u32(area::EVENTS).load(SeqCst) > events);
    exec.await_fence(9, 1);
}

#[test]
fn a_record_waits_for_what_it_names_in_another_ring() {
    let mut exec = ready();
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    let word = counter(&mut exec);
    // Ring 0 cannot go on before it has the turn; ring 1 names that position before it copies.
    exec.page()
        .change(
            exec.page().word(),
            Word {
                generation: 1,
                state: State::None,
            },
        )
        .unwrap();
    bump(&mut exec, 0, STREAM_LEGACY, word);
    let first = exec.head(0);
    exec.put(1, op::DEPS, false, &[], [0u64, first].as_bytes());
    exec.put(1, op::FENCE, false, &[STREAM_LEGACY, 2, 1], &[]);
    assert_eq!(exec.hear(), FromExec::Want);
    assert_eq!(exec.memory.u64(area::fence(2)).load(SeqCst), 0);
    exec.grant();
    exec.await_fence(2, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 128);
}

#[test]
fn a_capture_becomes_a_graph_that_runs_again_and_again() {
    let mut exec = ready();
    let word = counter(&mut exec);
    exec.call::<cuStreamCreate::Call>(
        cuStreamCreate::In {
            stream: 7,
            flags: 1,
            priority: 0,
        },
        &[],
    );
    exec.get::<cuStreamBeginCapture::Call>(cuStreamBeginCapture::In { stream: 7, mode: 0 }, &[])
        .unwrap();
    for _ in 0..3 {
        bump(&mut exec, 0, 7, word);
    }
    exec.call::<cuEventCreate::Call>(cuEventCreate::In { event: 1, flags: 2 }, &[]);
    let record = cuEventRecord::In {
        event: 1,
        stream: 7,
        slot: 7,
        sequence: 0,
    };
    exec.call::<cuEventRecord::Call>(record, &[]);
    exec.get::<cuStreamEndCapture::Call>(cuStreamEndCapture::In { stream: 7, graph: 1 }, &[])
        .unwrap();
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 0);
    instantiate(&mut exec, 1).unwrap();
    for _ in 0..5 {
        exec.call::<cuGraphLaunch::Call>(cuGraphLaunch::In { exec: 1, stream: 7 }, &[]);
    }
    exec.fence(0, 7, 7, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 5 * 3 * 128);
    exec.call::<cuGraphExecDestroy::Call>(cuGraphExecDestroy::In { exec: 1 }, &[]);
    exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 1 }, &[]);
    assert_eq!(exec.context_error(1), 0);
    assert_eq!(instantiate(&mut exec, 1), Err(result::INVALID_HANDLE));
}

/// Work of one thread goes to a stream on which another one begins and ends captures all the time: each kernel runs, or is in
/// a graph, and nobody looks into a graph that another one changes.
#[test]
fn work_beside_the_beginnings_and_ends_of_captures_is_in_a_graph_or_runs() {
    let mut exec = ready();
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    let word = counter(&mut exec);
    let (stream, flags, priority) = (7, 1, 0);
    let create = cuStreamCreate::In {
        stream,
        flags,
        priority,
    };
    exec.call::<cuStreamCreate::Call>(create, &[]);
    exec.fence(0, 7, 7, 1);
    let (mut launched, mut captured) = (0, 0);
    for round in 0..200 {
        for _ in 0..10 {
            bump(&mut exec, 1, 7, word);
        }
        launched += 10;
        // Relaxed: the other thread's calls are its own affair.
        exec.get::<cuStreamBeginCapture::Call>(cuStreamBeginCapture::In { stream: 7, mode: 2 }, &[])
            .unwrap();
        for _ in 0..3 {
            let named = cuStreamGetCaptureInfo::In {
                stream: 7,
                named: 1,
                first: 0,
            };
            exec.get::<cuStreamGetCaptureInfo::Call>(named, &[]).unwrap();
        }
        exec.get::<cuStreamEndCapture::Call>(cuStreamEndCapture::In { stream: 7, graph: 1 }, &[])
            .unwrap();
        let nodes = cuGraphGetNodes::In { graph: 1, first: 0 };
        captured += exec.get::<cuGraphGetNodes::Call>(nodes, &[]).unwrap().0.total;
        exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 1 }, &[]);
        exec.fence(1, 7, 7, round + 2);
    }
    assert!(captured > 0, "no work came while a capture was under way");
    let ran = exec.memory.u32(PINNED.start).load(SeqCst);
    assert_eq!(ran + captured * 128, launched * 128);
    assert_eq!(exec.context_error(1), 0);
}

/// The guest's names for a captured graph come and go; what its nodes name stays. A stream that is destroyed ends its capture.
#[test]
fn what_a_captured_graph_names_outlives_the_graphs_names() {
    let mut exec = ready();
    let word = counter(&mut exec);
    for stream in [7, 8] {
        let (flags, priority) = (1, 0);
        let create = cuStreamCreate::In {
            stream,
            flags,
            priority,
        };
        exec.call::<cuStreamCreate::Call>(create, &[]);
    }
    let begin = cuStreamBeginCapture::In { stream: 7, mode: 2 };
    let end = |graph| cuStreamEndCapture::In { stream: 7, graph };
    exec.get::<cuStreamBeginCapture::Call>(begin, &[]).unwrap();
    let named = cuStreamGetCaptureInfo::In {
        stream: 7,
        named: 1,
        first: 0,
    };
    exec.get::<cuStreamGetCaptureInfo::Call>(named, &[]).unwrap();
    bump(&mut exec, 0, 7, word);
    exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 1 }, &[]);
    exec.get::<cuStreamEndCapture::Call>(end(2), &[]).unwrap();
    // The module is the guest's no longer, and stays.
    exec.get::<cuModuleUnload::Call>(cuModuleUnload::In { module: 1 }, &[])
        .unwrap();
    instantiate(&mut exec, 2).unwrap();
    exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 2 }, &[]);
    exec.call::<cuGraphLaunch::Call>(cuGraphLaunch::In { exec: 1, stream: 8 }, &[]);
    exec.fence(0, 8, 8, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 128);

    // Another capture ends with its stream, and does not hold up what others do.
    exec.get::<cuStreamBeginCapture::Call>(begin, &[]).unwrap();
    exec.call::<cuStreamDestroy::Call>(cuStreamDestroy::In { stream: 7 }, &[]);
    let again = cuStreamCreate::In {
        stream: 7,
        flags: 1,
        priority: 0,
    };
    exec.call::<cuStreamCreate::Call>(again, &[]);
    let is_capturing = cuStreamIsCapturing::In { stream: 7 };
    let (out, _) = exec.get::<cuStreamIsCapturing::Call>(is_capturing, &[]).unwrap();
    assert_eq!(out.status, 0);
    exec.call::<cuGraphLaunch::Call>(cuGraphLaunch::In { exec: 1, stream: 7 }, &[]);
    exec.fence(0, 7, 7, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);
    assert_eq!(exec.context_error(1), 0);
}

/// A stream captures into a graph that is part of another one, whose capture goes on without a stream that joined it.
#[test]
fn what_is_captured_into_a_part_is_of_the_whole() {
    let mut exec = ready();
    let word = counter(&mut exec);
    streams(&mut exec, 7..9);
    for graph in [1, 2] {
        exec.get::<cuGraphCreate::Call>(cuGraphCreate::In { graph, flags: 0 }, &[])
            .unwrap();
    }
    let add = cuGraphAddNode::In {
        graph: 2,
        kind: kind::GRAPH,
        dependencies: 0,
    };
    let child = [1, ChildGraph::CLONE];
    let (added, _) = exec.get::<cuGraphAddNode::Call>(add, child.as_bytes()).unwrap();
    let node = added.node;
    let part = cuGraphChildGraphNodeGetGraph::In { node, graph: 3 };
    exec.get::<cuGraphChildGraphNodeGetGraph::Call>(part, &[])
        .unwrap();
    let begin = cuStreamBeginCaptureToGraph::In {
        stream: 7,
        graph: 3,
        mode: 2,
    };
    exec.get::<cuStreamBeginCaptureToGraph::Call>(begin, &[]).unwrap();
    // Another stream joins, does its part, and is gone before the capture ends.
    for (event, from, to) in [(1, 7, 8), (2, 8, 7)] {
        exec.call::<cuEventCreate::Call>(cuEventCreate::In { event, flags: 2 }, &[]);
        bump(&mut exec, 0, from, word);
        let record = cuEventRecord::In {
            event,
            stream: from,
            slot: 7,
            sequence: 0,
        };
        exec.call::<cuEventRecord::Call>(record, &[]);
        let wait = cuStreamWaitEvent::In {
            stream: to,
            event,
            flags: 0,
        };
        exec.call::<cuStreamWaitEvent::Call>(wait, &[]);
    }
    exec.call::<cuStreamDestroy::Call>(cuStreamDestroy::In { stream: 8 }, &[]);
    // Nothing that has it may go meanwhile.
    let destroy = exec.get::<cuGraphDestroyNode::Call>(cuGraphDestroyNode::In { node }, &[]);
    assert_eq!(destroy.err(), Some(result::NOT_PERMITTED));
    let moved = [2, ChildGraph::MOVE];
    let moved = exec.get::<cuGraphAddNode::Call>(cuGraphAddNode::In { graph: 1, ..add }, moved.as_bytes());
    assert_eq!(moved.err(), Some(result::NOT_SUPPORTED));
    let end = cuStreamEndCapture::In { stream: 7, graph: 3 };
    exec.get::<cuStreamEndCapture::Call>(end, &[]).unwrap();
    // The kernel's module stays with the whole.
    exec.get::<cuModuleUnload::Call>(cuModuleUnload::In { module: 1 }, &[])
        .unwrap();
    instantiate(&mut exec, 2).unwrap();
    exec.call::<cuGraphLaunch::Call>(cuGraphLaunch::In { exec: 1, stream: 7 }, &[]);
    exec.fence(0, 7, 7, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);

    // The whole is destroyed under a capture: it goes when that ends, and its ids are another's before.
    exec.get::<cuStreamBeginCaptureToGraph::Call>(begin, &[]).unwrap();
    exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 2 }, &[]);
    exec.get::<cuGraphCreate::Call>(cuGraphCreate::In { graph: 3, flags: 0 }, &[])
        .unwrap();
    let ended = exec.get::<cuStreamEndCapture::Call>(cuStreamEndCapture::In { graph: 4, ..end }, &[]);
    assert_eq!(ended.err(), Some(result::INVALID_HANDLE));
    let nodes = cuGraphGetNodes::In { graph: 3, first: 0 };
    assert_eq!(exec.get::<cuGraphGetNodes::Call>(nodes, &[]).unwrap().0.total, 0);
    assert_eq!(exec.context_error(1), 0);
}

/// A graph in a graph is a copy: a few calls would make more nodes than the host has memory for.
#[test]
fn graphs_are_weighed_with_the_graphs_in_them() {
    let mut exec = ready();
    let create = |exec: &mut Exec, graph| {
        let create = cuGraphCreate::In { graph, flags: 0 };
        exec.get::<cuGraphCreate::Call>(create, &[]).map(drop)
    };
    let add = |exec: &mut Exec, graph, kind, blob: &[u8]| {
        let add = cuGraphAddNode::In {
            graph,
            kind,
            dependencies: 0,
        };
        exec.get::<cuGraphAddNode::Call>(add, blob)
            .map(|(out, _)| out.node)
    };
    create(&mut exec, 0).unwrap();
    add(&mut exec, 0, kind::EMPTY, &[]).unwrap();
    // Each consists of the one before, many times: 1, 128, 8,256 and 528,448 nodes.
    for graph in 1..4u32 {
        create(&mut exec, graph).unwrap();
        for _ in 0..64 {
            add(
                &mut exec,
                graph,
                kind::GRAPH,
                [graph - 1, ChildGraph::CLONE].as_bytes(),
            )
            .unwrap();
        }
    }
    let again = |exec: &mut Exec| {
        let clone = cuGraphClone::In { graph: 3, clone: 6 };
        exec.get::<cuGraphClone::Call>(clone, &[]).map(drop)
    };
    create(&mut exec, 4).unwrap();
    assert_eq!(
        add(&mut exec, 4, kind::GRAPH, [3, ChildGraph::CLONE].as_bytes()),
        Err(result::OUT_OF_MEMORY)
    );
    assert_eq!(again(&mut exec), Err(result::OUT_OF_MEMORY));
    assert_eq!(instantiate(&mut exec, 3), Err(result::OUT_OF_MEMORY));
    // What is destroyed no longer counts.
    let node = add(&mut exec, 4, kind::GRAPH, [2, ChildGraph::CLONE].as_bytes()).unwrap();
    exec.get::<cuGraphDestroyNode::Call>(cuGraphDestroyNode::In { node }, &[])
        .unwrap();
    exec.call::<cuGraphDestroy::Call>(cuGraphDestroy::In { graph: 3 }, &[]);
    let full = (0..).find(|_| add(&mut exec, 4, kind::GRAPH, [2, ChildGraph::CLONE].as_bytes()).is_err());
    assert_eq!(full, Some((GRAPHS_WEIGHT_MAX - 8385) as u32 / 8257));
    assert_eq!(exec.context_error(1), 0);
}

#[test]
fn a_capture_in_global_mode_is_sound_beside_work_that_is_watched() {
    let mut exec = ready();
    let word = counter(&mut exec);
    // Blocking streams, so that nothing may touch the legacy stream meanwhile, on which there is work as well.
    for stream in [7, 8, 9] {
        exec.call::<cuStreamCreate::Call>(
            cuStreamCreate::In {
                stream,
                flags: 0,
                priority: 0,
            },
            &[],
        );
        exec.call::<cuEventCreate::Call>(
            cuEventCreate::In {
                event: stream,
                flags: 2,
            },
            &[],
        );
    }
    for _ in 0..100 {
        bump(&mut exec, 0, STREAM_LEGACY, word);
        bump(&mut exec, 0, 9, word);
    }
    exec.get::<cuStreamBeginCapture::Call>(cuStreamBeginCapture::In { stream: 7, mode: 0 }, &[])
        .unwrap();
    let record = |exec: &mut Exec, stream: u32| {
        let record = cuEventRecord::In {
            event: stream,
            stream: stream.into(),
            slot: stream,
            sequence: 0,
        };
        exec.call::<cuEventRecord::Call>(record, &[]);
    };
    let wait = |exec: &mut Exec, stream: u64, event| {
        exec.call::<cuStreamWaitEvent::Call>(
            cuStreamWaitEvent::In {
                stream,
                event,
                flags: 0,
            },
            &[],
        );
    };
    // Stream 8 joins the capture and leaves it; stream 9 goes on beside it, through more than a window.
    bump(&mut exec, 0, 7, word);
    record(&mut exec, 7);
    wait(&mut exec, 8, 7);
    for _ in 0..1000 {
        bump(&mut exec, 0, 8, word);
        bump(&mut exec, 0, 9, word);
    }
    record(&mut exec, 8);
    wait(&mut exec, 7, 8);
    exec.get::<cuStreamEndCapture::Call>(cuStreamEndCapture::In { stream: 7, graph: 1 }, &[])
        .unwrap();
    exec.fence(0, 9, 9, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 1200 * 128);
    instantiate(&mut exec, 1).unwrap();
    exec.call::<cuGraphLaunch::Call>(cuGraphLaunch::In { exec: 1, stream: 8 }, &[]);
    exec.fence(0, 8, 8, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), (1200 + 1001) * 128);
    assert_eq!(exec.context_error(1), 0);
}

#[test]
fn a_host_function_runs_in_the_guest_in_stream_order_and_holds_no_turn() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.call::<cuLaunchHostFunc::Call>(
        cuLaunchHostFunc::In {
            stream: STREAM_LEGACY,
            cookie: 0xc00c1e,
        },
        &[],
    );
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.put(0, op::FENCE, false, &[STREAM_LEGACY, 1, 1], &[]);
    let posted = posted(&exec);
    assert_eq!(exec.memory.u64(posted).load(SeqCst), 0xc00c1e);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 128);
    proved(&exec);
    // While the guest runs it, the GPU is not the session's: the turn can be had back at once.
    let held = wait_for("work behind it", || {
        Some(exec.page().word()).filter(|word| matches!(word.state, State::Held | State::Idle))
    });
    if exec
        .page()
        .change(
            Word {
                state: State::Held,
                ..held
            },
            Word {
                state: State::Yield,
                ..held
            },
        )
        .is_ok()
    {
        exec.page().ring_bell();
        assert_eq!(exec.hear(), FromExec::Released);
    } else {
        exec.page()
            .change(
                Word {
                    state: State::Idle,
                    ..held
                },
                Word {
                    state: State::None,
                    ..held
                },
            )
            .unwrap();
    }
    // What is behind the function waits for the turn.
    exec.memory.u32(posted + 8).store(area::HOST_FN_DONE, SeqCst);
    assert_eq!(exec.hear(), FromExec::Want);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 128);
    exec.grant();
    exec.await_fence(1, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 256);
    assert_eq!(exec.memory.u32(posted + 8).load(SeqCst), area::HOST_FN_FREE);
}

#[test]
fn a_running_kernel_is_stopped_and_resumed_by_order_and_by_the_dead_man() {
    let mut exec = ready();
    exec.memory.u64(PINNED.start).store(0, SeqCst);
    function(&mut exec, "wait", 3);
    let mut spin = launch(3, 1, STREAM_LEGACY);
    spin.block_x = 1;
    exec.call::<cuLaunchKernel::Call>(spin, &(WINDOW + PINNED.start).to_le_bytes());
    assert_proved(&proved(&exec));
    let count = |exec: &Exec| exec.memory.u32(PINNED.start + 4).load(SeqCst);
    let moves = |exec: &Exec| {
        let from = count(exec);
        wait_until("the kernel", || count(exec) != from);
    };
    moves(&exec);
    let done = |exec: &Exec| match exec.hear() {
        FromExec::Done { sequence, ok, .. } => (sequence, ok),
        other => panic!("{other:?}"),
    };
    exec.order(&ToExec::Slice {
        sequence: 1,
        microseconds: 1000,
    });
    assert_eq!(done(&exec), (1, true));
    exec.order(&ToExec::Stop {
        sequence: 2,
        deadman_ms: 60_000,
    });
    assert_eq!(done(&exec), (2, true));
    // A write of the kernel's that was on its way may still arrive; then nothing moves, however often we look.
    for _ in 0..1000 {
        count(&exec);
    }
    let settled = count(&exec);
    assert!((0..100_000).all(|_| count(&exec) == settled));
    // The order that is to keep it stopped is no second stop: drivers count them.
    for _ in 0..3 {
        exec.order(&ToExec::Stop {
            sequence: 2,
            deadman_ms: 60_000,
        });
        assert_eq!(done(&exec), (2, true));
    }
    exec.order(&ToExec::Resume { sequence: 3 });
    assert_eq!(done(&exec), (3, true));
    moves(&exec);
    exec.order(&ToExec::Stop {
        sequence: 4,
        deadman_ms: 1,
    });
    assert_eq!(done(&exec), (4, true));
    moves(&exec);
    exec.memory.u32(PINNED.start).store(1, SeqCst);
    exec.fence(0, STREAM_LEGACY, 1, 1);
}

#[test]
fn a_fault_ends_the_session_with_its_code() {
    let mut exec = ready();
    counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, 0x10);
    assert_eq!(exec.end(), (Some(3), result::ILLEGAL_ADDRESS));
}

/// The guest's library has looked its program's handle up, and another thread of the program destroys what it names.
#[test]
fn what_is_gone_fails_and_the_session_goes_on() {
    let mut exec = Exec::start();
    exec.context();
    let event = cuEventCreate::In { event: 1, flags: 0 };
    let failed = |exec: &mut Exec| {
        exec.get::<cuCtxSynchronize::Call>(cuCtxSynchronize::In {}, &[])
            .unwrap();
        exec.context_error(1)
    };
    exec.call::<cuLaunchKernel::Call>(launch(3, 1, STREAM_LEGACY), &[]);
    assert_eq!(failed(&mut exec), result::INVALID_HANDLE);
    exec.call::<cuEventRecord::Call>(
        cuEventRecord::In {
            event: 1,
            stream: STREAM_LEGACY,
            slot: 0,
            sequence: 0,
        },
        &[],
    );
    assert_eq!(failed(&mut exec), result::INVALID_HANDLE);
    // A fence of a stream that is gone never comes.
    exec.put(0, op::FENCE, false, &[7, 0, 1], &[]);
    assert_eq!(failed(&mut exec), result::INVALID_HANDLE);
    exec.call::<cuEventCreate::Call>(event, &[]);
    assert_eq!(failed(&mut exec), 0);
    exec.call::<cuEventCreate::Call>(event, &[]);
    assert_eq!(failed(&mut exec), result::INVALID_HANDLE);
    // A context that is gone may be current; nothing can be done in it.
    exec.put(0, op::SET_CONTEXT, false, &[5], &[]);
    exec.call::<cuEventCreate::Call>(cuEventCreate::In { event: 2, flags: 0 }, &[]);
    exec.put(0, op::SET_CONTEXT, false, &[1], &[]);
    assert_eq!(failed(&mut exec), 0);
    assert_eq!(exec.context_error(5), result::CONTEXT_IS_DESTROYED);
    exec.fence(0, STREAM_LEGACY, 0, 1);
}

#[test]
fn pointers_outside_the_guests_memory_are_refused() {
    let mut exec = ready();
    let device = alloc(&mut exec, 4096);
    let stream = STREAM_LEGACY;
    let host = WINDOW + PINNED.start;
    let mut refused = |to, from, bytes| {
        exec.call::<cuMemcpyHtoDAsync::Call>(
            cuMemcpyHtoDAsync::In {
                to,
                from,
                bytes,
                stream,
            },
            &[],
        );
        exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
        exec.context_error(1)
    };
    assert_eq!(refused(device, host, 4096), 0);
    assert_eq!(refused(device, host, 4097), result::INVALID_VALUE);
    assert_eq!(refused(device + 4096, host, 1), result::INVALID_VALUE);
    assert_eq!(refused(device, host, u64::MAX), result::INVALID_VALUE);
    assert_eq!(
        refused(device, WINDOW + PLAIN.end - 4095, 4096),
        result::INVALID_VALUE
    );
    // This process' own memory, wherever it is.
    assert_eq!(refused(0x5555_5555_4000, host, 8), result::INVALID_VALUE);
    assert_eq!(refused(device, 0x5555_5555_4000, 8), result::INVALID_VALUE);
    // The guest's memory that is not pinned is no device memory.
    assert_eq!(refused(WINDOW + PLAIN.start, host, 8), result::INVALID_VALUE);
    assert_eq!(refused(host + 64, host, 8), 0);
    let memset = cuMemsetD32Async::In {
        to: device,
        value: 1,
        count: 1025,
        stream,
    };
    exec.call::<cuMemsetD32Async::Call>(memset, &[]);
    let image = cuModuleLoadData::In {
        image: WINDOW + PLAIN.end - 8,
        bytes: 16,
        module: 9,
    };
    assert_eq!(
        exec.get::<cuModuleLoadData::Call>(image, &[]).err(),
        Some(result::INVALID_VALUE)
    );
    assert_eq!(exec.context_error(1), result::INVALID_VALUE);
    let free = |pointer| cuMemFree::In { pointer };
    assert_eq!(
        exec.get::<cuMemFree::Call>(free(device + 8), &[]).err(),
        Some(result::INVALID_VALUE)
    );
    exec.get::<cuMemFree::Call>(free(device), &[]).unwrap();
    assert_eq!(
        exec.get::<cuMemFree::Call>(free(device), &[]).err(),
        Some(result::INVALID_VALUE)
    );
}

#[test]
fn unknown_handles_are_answered_where_the_guest_waits() {
    let mut exec = ready();
    let get = cuModuleGetFunction::In {
        module: 77,
        function: 1,
    };
    assert_eq!(
        exec.get::<cuModuleGetFunction::Call>(get, b"add").err(),
        Some(result::INVALID_HANDLE)
    );
    let again = cuCtxCreate::In {
        flags: 0,
        device: 0,
        context: 1,
    };
    assert_eq!(
        exec.get::<cuCtxCreate::Call>(again, &[]).err(),
        Some(result::INVALID_HANDLE)
    );
    let begin = cuStreamBeginCapture::In { stream: 3, mode: 0 };
    assert_eq!(
        exec.get::<cuStreamBeginCapture::Call>(begin, &[]).err(),
        Some(result::INVALID_HANDLE)
    );
    let missing = cuModuleGetFunction::In {
        module: 1,
        function: 1,
    };
    assert_eq!(
        exec.get::<cuModuleGetFunction::Call>(missing, b"none").err(),
        Some(result::NOT_FOUND)
    );
    let (found, _) = exec
        .get::<cuModuleGetGlobal::Call>(cuModuleGetGlobal::In { module: 1 }, b"answer")
        .unwrap();
    assert_eq!(found.bytes, 4);
}

#[test]
fn a_context_goes_with_all_that_is_in_it_and_can_be_made_again() {
    let mut exec = ready();
    let device = alloc(&mut exec, 1 << 20);
    exec.call::<cuStreamCreate::Call>(
        cuStreamCreate::In {
            stream: 3,
            flags: 0,
            priority: 0,
        },
        &[],
    );
    let (before, _) = exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
    exec.get::<cuCtxDestroy::Call>(cuCtxDestroy::In { context: 1 }, &[])
        .unwrap();
    let nothing = exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).err();
    assert_eq!(nothing, Some(result::CONTEXT_IS_DESTROYED));
    // It is the ring's current one without being said to be: it has the same id.
    let again = cuCtxCreate::In {
        flags: 0,
        device: 0,
        context: 1,
    };
    exec.get::<cuCtxCreate::Call>(again, &[]).unwrap();
    let (after, _) = exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
    assert!(after.free >= before.free + (1 << 20));
    let gone = exec
        .get::<cuMemFree::Call>(cuMemFree::In { pointer: device }, &[])
        .err();
    assert_eq!(gone, Some(result::INVALID_VALUE));
    load(&mut exec);
    add_vectors(&mut exec, |_| {});
    // A second one at the same time, of another id.
    exec.get::<cuCtxCreate::Call>(
        cuCtxCreate::In {
            flags: 0,
            device: 0,
            context: 2,
        },
        &[],
    )
    .unwrap();
    exec.put(0, op::SET_CONTEXT, false, &[2], &[]);
    alloc(&mut exec, 4096);
    exec.get::<cuCtxDestroy::Call>(cuCtxDestroy::In { context: 2 }, &[])
        .unwrap();
}

#[test]
fn mappings_are_checked_and_taken_back() {
    let mut exec = ready();
    // The area stays; a ring's memory stays while the ring runs; overlaps and strangers are refused.
    assert_eq!(exec.unmap(0), Err(Status::Invalid));
    assert_eq!(exec.unmap(ring_at(0)), Err(Status::Invalid));
    assert_eq!(exec.unmap(4096), Err(Status::NotFound));
    assert_eq!(exec.map(PINNED.start + 4096, 4096, true), Err(Status::Invalid));
    assert_eq!(exec.map(1 << 40, 4096, true), Err(Status::Invalid));
    assert_eq!(exec.ring_start(0), Err(Status::Invalid));
    assert_eq!(exec.ring_start(1), Err(Status::Invalid));
    assert_eq!(exec.ring_destroy(5), Err(Status::NotFound));
    exec.unmap(PINNED.start).unwrap();
    let device = alloc(&mut exec, 4096);
    let from = WINDOW + PINNED.start;
    let copy = cuMemcpyHtoDAsync::In {
        to: device,
        from,
        bytes: 8,
        stream: STREAM_LEGACY,
    };
    exec.call::<cuMemcpyHtoDAsync::Call>(copy, &[]);
    exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
    assert_eq!(exec.context_error(1), result::INVALID_VALUE);
    exec.map(PINNED.start, PINNED.end - PINNED.start, true).unwrap();
    add_vectors(&mut exec, |_| {});
    exec.ring_destroy(0).unwrap();
    exec.unmap(ring_at(0)).unwrap();
    exec.ring_create(0).unwrap();
    let position = exec.put(0, op::GPU_INFO, true, &[], &[]);
    assert_eq!(exec.answer(0, position).0, 0);
}

#[test]
fn a_session_goes_on_when_vgpud_was_restarted() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    proved(&exec);
    exec.scheduler = exec.event.try_clone().unwrap();
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 2);
    exec.connect();
    assert_proved(&exec.hear());
    // A new vgpud takes what is idle, and is asked for it again.
    let idle = wait_for("idleness", || {
        Some(exec.page().word()).filter(|word| word.state == State::Idle)
    });
    exec.page()
        .change(
            idle,
            Word {
                state: State::None,
                ..idle
            },
        )
        .unwrap();
    bump(&mut exec, 0, STREAM_LEGACY, word);
    assert_eq!(exec.hear(), FromExec::Want);
    exec.grant();
    exec.fence(0, STREAM_LEGACY, 1, 3);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 3 * 128);
}

#[test]
fn more_launches_than_the_window_all_run() {
    let mut exec = ready();
    let word = counter(&mut exec);
    exec.order(&ToExec::Window {
        operations: 4,
        depth: None,
    });
    for _ in 0..2000 {
        bump(&mut exec, 0, STREAM_LEGACY, word);
    }
    exec.fence(0, STREAM_LEGACY, 1, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 2000 * 128);
}

#[test]
fn never_more_than_the_depth_is_in_flight_over_all_streams() {
    for depth in [1, 3] {
        let mut exec = ready();
        let word = counter(&mut exec);
        set_depth(&exec, depth);
        streams(&mut exec, 1..6);
        let mut seen = 0;
        for round in 0..200u64 {
            for stream in 1..6 {
                bump(&mut exec, 0, stream, word);
            }
            if round % 10 == 9 {
                // The guest's own events among streams that wait for one another.
                let event = (round / 10) as u32 + 1;
                exec.call::<cuEventCreate::Call>(cuEventCreate::In { event, flags: 2 }, &[]);
                let record = cuEventRecord::In {
                    event,
                    stream: 1,
                    slot: 2,
                    sequence: round,
                };
                exec.call::<cuEventRecord::Call>(record, &[]);
                let wait = cuStreamWaitEvent::In {
                    stream: 2,
                    event,
                    flags: 0,
                };
                exec.call::<cuStreamWaitEvent::Call>(wait, &[]);
            }
            seen = seen.max(exec.page().counts().1);
        }
        for stream in 1..6 {
            exec.fence(0, stream, 10 + stream as u32, 1);
        }
        assert!(seen <= u64::from(depth), "{seen} in flight");
        assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 1000 * 128);
        // At rest nothing is in flight, and every call is counted: fences are none.
        let before = exec.page().counts().0;
        wait_until("rest", || exec.page().counts().1 == 0);
        exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
        wait_until("the count", || exec.page().counts().0 > before);
        assert!(
            exec.page().counts().0 > 1000 + 5 + 3 * 20,
            "{:?}",
            exec.page().counts()
        );
    }
}

/// What a host function waits for may be behind a thread that would wait for the depth.
#[test]
fn a_host_function_that_waits_does_not_use_the_depth_up() {
    let mut exec = ready();
    let word = counter(&mut exec);
    set_depth(&exec, 4);
    streams(&mut exec, 1..3);
    // The first kernel proves the controls, and that waits for everything.
    bump(&mut exec, 0, 2, word);
    exec.fence(0, 2, 2, 1);
    let function = cuLaunchHostFunc::In { stream: 1, cookie: 7 };
    exec.call::<cuLaunchHostFunc::Call>(function, &[]);
    for _ in 0..20 {
        bump(&mut exec, 0, 1, word);
    }
    bump(&mut exec, 0, 2, word);
    exec.fence(0, 2, 2, 2);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 2 * 128);
    let posted = posted(&exec);
    exec.memory.u32(posted + 8).store(area::HOST_FN_DONE, SeqCst);
    exec.fence(0, 1, 1, 1);
    assert_eq!(exec.memory.u32(PINNED.start).load(SeqCst), 22 * 128);
}

#[test]
fn a_context_made_while_the_session_is_stopped_does_not_run_either() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    proved(&exec);
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    exec.order(&ToExec::Stop {
        sequence: 1,
        deadman_ms: 60_000,
    });
    assert!(matches!(
        exec.hear(),
        FromExec::Done {
            sequence: 1,
            ok: true,
            ..
        }
    ));
    // Creating a context, loading into it and launching there may each wait for the resume, so nobody waits for them.
    exec.call::<cuCtxCreate::Call>(
        cuCtxCreate::In {
            flags: 0,
            device: 0,
            context: 2,
        },
        &[],
    );
    exec.put(0, op::SET_CONTEXT, false, &[2], &[]);
    let image = cuModuleLoadData::In {
        image: WINDOW + PLAIN.start,
        bytes: KERNELS.len() as u64,
        module: 2,
    };
    exec.call::<cuModuleLoadData::Call>(image, &[]);
    let wanted = cuModuleGetFunction::In {
        module: 2,
        function: 20,
    };
    let found = exec.call::<cuModuleGetFunction::Call>(wanted, b"bump");
    exec.memory.u32(PINNED.start + 256).store(0, SeqCst);
    exec.call::<cuLaunchKernel::Call>(launch(20, 1, STREAM_LEGACY), &(word + 256).to_le_bytes());
    exec.put(0, op::FENCE, false, &[STREAM_LEGACY, 3, 1], &[]);
    // The old one's new work stands as well.
    bump(&mut exec, 1, STREAM_LEGACY, word);
    let (tail, launched) = (ring_at(1) + ring::TAIL, exec.head(1));
    wait_until("the launch", || exec.memory.u64(tail).load(SeqCst) == launched);
    let ran = |exec: &Exec, at| exec.memory.u32(PINNED.start + at).load(SeqCst);
    assert!((0..100_000).all(|_| (ran(&exec, 0), ran(&exec, 256)) == (128, 0)));
    exec.order(&ToExec::Resume { sequence: 2 });
    assert!(matches!(
        exec.hear(),
        FromExec::Done {
            sequence: 2,
            ok: true,
            ..
        }
    ));
    assert_eq!(exec.answer(0, found).0, 0);
    exec.await_fence(3, 1);
    exec.fence(1, STREAM_LEGACY, 2, 1);
    assert_eq!((ran(&exec, 0), ran(&exec, 256)), (256, 128));
}
