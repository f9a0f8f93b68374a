//! The limits of a VM, and what an executor tells about its work, as its backend, its guest and vgpud see them.
mod support;

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::program::*;
use support::*;
use vgpu_protocol::calls::*;
use vgpu_protocol::result;
use vgpu_protocol::ring::{GpuInfo, op};
use vgpu_protocol::words::handle::STREAM_LEGACY;
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::packet;
use zerocopy::FromBytes;

/// What cuMemAlloc takes at a time.
const GRANULE: u64 = 2 << 20;

/// What the driver accounts on the only GPU.
fn in_use(bytes: u64, asked: bool) -> ToExec {
    let bytes = vec![bytes];
    ToExec::MemoryInUse { bytes, asked }
}

fn try_alloc(exec: &mut Exec, bytes: u64) -> Result<u64, i32> {
    let allocated = exec.get::<cuMemAlloc::Call>(cuMemAlloc::In { bytes }, &[]);
    allocated.map(|(out, _)| out.pointer)
}

fn free(exec: &mut Exec, pointer: u64) {
    exec.get::<cuMemFree::Call>(cuMemFree::In { pointer }, &[])
        .unwrap();
}

/// Adds up what an executor tells about its latencies until `enough` says so.
fn latencies(exec: &Exec, enough: impl Fn(&Told) -> bool) -> Told {
    let mut told = Told::default();
    while !enough(&told) {
        told.add(exec.hear_any());
    }
    told
}

/// How often each kind of latency was measured, the microseconds held back, the calls refused.
#[derive(Debug, Default, PartialEq)]
struct Told {
    measured: [u64; 3],
    throttled_us: u64,
    refused: u64,
}

impl Told {
    fn add(&mut self, message: FromExec) {
        if let FromExec::Latencies {
            wait,
            service,
            total,
            throttled_us,
            refused,
        } = message
        {
            let count = |samples: &[(u64, u64)]| samples.iter().map(|sample| sample.1).sum::<u64>();
            let longest = |samples: &[(u64, u64)]| samples.last().map_or(0, |sample| sample.0);
            assert!(longest(&total) >= longest(&wait).max(longest(&service)));
            self.measured[0] += count(&wait);
            self.measured[1] += count(&service);
            self.measured[2] += count(&total);
            self.throttled_us += throttled_us;
            self.refused += refused;
        }
    }
}

/// Adds up all that an executor has told when it has ended.
fn told_in_the_end(scheduler: &OwnedFd) -> Told {
    let mut told = Told::default();
    while let Ok((message, _)) = packet::receive(scheduler) {
        told.add(message);
    }
    told
}

#[test]
fn the_rate_of_calls_holds_over_all_sessions_of_a_vm() {
    const BURST: u64 = 10;
    const CALLS: u64 = 20;
    let (page, mut one, mut two) = two_of_a_vm();
    let done = |one: &Exec, two: &Exec| one.page().counts().0 + two.page().counts().0;
    // Each has made a context and loaded a module, which is shown when its ring is dry.
    let before = 4;
    wait_until("rest", || done(&one, &two) == before);
    page.get().calls().set(Some((1, BURST)));
    let start = Instant::now();
    let mut last = [0, 0];
    for _ in 0..CALLS {
        last[0] = one.call::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]);
        last[1] = two.call::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]);
    }
    wait_until("the burst", || done(&one, &two) - before >= BURST);
    // A token comes back every second; a call that is being made may count already.
    let so_far = done(&one, &two) - before;
    assert!(so_far <= BURST + start.elapsed().as_secs() + 1, "{so_far}");
    let told = [&one, &two].map(|exec| latencies(exec, |told| told.throttled_us > 0));
    assert!(told.iter().all(|told| told.refused == 0), "{told:?}");
    page.get().calls().set(None);
    assert_eq!(one.answer(0, last[0]).0, 0);
    assert_eq!(two.answer(0, last[1]).0, 0);
}

#[test]
fn driver_heavy_calls_have_a_limit_of_their_own() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 0)));
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    exec.unmap(PINNED.start).unwrap();
    page.get().driver_calls().set(Some((1, 1)));
    let bytes = 4096;
    let mut last = 0;
    for _ in 0..100 {
        last = exec.call::<cuMemAlloc::Call>(cuMemAlloc::In { bytes }, &[]);
    }
    // Other calls go on, while that many take a minute and a half.
    for _ in 0..100 {
        exec.get_on::<cuMemGetInfo::Call>(1, cuMemGetInfo::In {}, &[])
            .unwrap();
    }
    let at = ring_at(0) + vgpu_protocol::ring::REPLY_POS;
    assert!(exec.memory.u64(at).load(SeqCst) < last);
    page.get().driver_calls().set(None);
    assert_eq!(exec.answer(0, last).0, 0);
    assert_eq!(latencies(&exec, |told| told.throttled_us > 0).refused, 0);
    // Registering memory is such a call, and taking it back; mapping is not. The bucket is empty at a time of ours, so
    // how long a token taken at that time would have to wait tells how many were taken since.
    let bucket = page.get().driver_calls();
    bucket.set(Some((1, 100)));
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let empty_at = clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64;
    while bucket.take(empty_at).is_ok() {}
    let wait = bucket.take(empty_at).unwrap_err();
    for offset in (8192..128 * 4096).step_by(4096) {
        exec.map(PINNED.start + offset, 4096, false).unwrap();
    }
    assert_eq!(bucket.take(empty_at), Err(wait));
    exec.map(PINNED.start, 4096, true).unwrap();
    assert_eq!(bucket.take(empty_at), Err(wait + Duration::from_secs(1)));
}

#[test]
fn the_quota_of_memory_is_exact_and_shared_and_shown() {
    let (page, mut one, mut two) = two_of_a_vm();
    let (real_free, real_total) = memory_info(&mut one);
    let modules = page.get().used(0);
    assert_eq!(real_total - real_free, modules, "a module's variables count");
    let quota = modules + 4 * GRANULE;
    page.get().set_quota(Some(quota));
    assert_eq!(memory_info(&mut one), (4 * GRANULE, quota));
    let position = two.put(0, op::GPU_INFO, true, &[], &[]);
    let (_, _, blob) = two.answer(0, position);
    let (gpu, _) = GpuInfo::read_from_prefix(&blob).unwrap();
    assert_eq!(gpu.memory, quota);

    // The last byte fits, and not one more, whoever asks.
    let large = try_alloc(&mut one, 2 * GRANULE - 1).unwrap();
    try_alloc(&mut two, GRANULE).unwrap();
    let last = try_alloc(&mut two, GRANULE).unwrap();
    assert_eq!(memory_info(&mut one), (0, quota));
    assert_eq!(try_alloc(&mut one, 1), Err(result::OUT_OF_MEMORY));
    assert_eq!(try_alloc(&mut two, 1), Err(result::OUT_OF_MEMORY));
    assert_eq!(try_alloc(&mut two, u64::MAX), Err(result::OUT_OF_MEMORY));
    free(&mut two, last);
    assert_eq!(try_alloc(&mut one, GRANULE + 1), Err(result::OUT_OF_MEMORY));
    let last = try_alloc(&mut one, GRANULE).unwrap();
    free(&mut one, last);
    // What libcuda refuses takes nothing.
    assert_eq!(try_alloc(&mut one, 0), Err(result::INVALID_VALUE));
    assert_eq!(page.get().used(0), quota - GRANULE);

    // What a module takes is known when it is loaded: too much is undone.
    let load_big = |exec: &mut Exec, module: u32, bytes: u64| {
        let ptx = format!(
            ".version 6.0\n.target sm_50\n.address_size 64\n.visible .global .align 8 .b8 big[{bytes}];\n"
        );
        exec.memory.write(PLAIN.start, ptx.as_bytes());
        let image = cuModuleLoadData::In {
            image: WINDOW + PLAIN.start,
            bytes: ptx.len() as u64,
            module,
        };
        exec.get::<cuModuleLoadData::Call>(image, &[]).map(drop)
    };
    assert_eq!(load_big(&mut one, 2, GRANULE + 512), Err(result::OUT_OF_MEMORY));
    assert_eq!(page.get().used(0), quota - GRANULE);
    load_big(&mut one, 2, GRANULE).unwrap();
    assert_eq!(page.get().used(0), quota);
    exec_unload(&mut one, 2);
    assert_eq!(page.get().used(0), quota - GRANULE);

    // A context goes with all it has.
    one.get::<cuCtxDestroy::Call>(cuCtxDestroy::In { context: 1 }, &[])
        .unwrap();
    assert_eq!(page.get().used_by(0, 0), 0);
    assert_eq!(latencies(&one, |told| told.refused >= 3).refused, 3);
    assert_eq!(latencies(&two, |told| told.refused >= 1).refused, 1);
    one.context();
    assert_eq!(
        one.get::<cuMemFree::Call>(cuMemFree::In { pointer: large }, &[])
            .err(),
        Some(result::INVALID_VALUE)
    );
    let left = quota - page.get().used(0);
    let all = try_alloc(&mut one, left / GRANULE * GRANULE).unwrap();
    free(&mut one, all);
}

/// The heap and the printf buffer of a context's kernels are memory of the device.
#[test]
fn buffers_of_a_context_count() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 0)));
    let second = cuCtxCreate::In {
        flags: 0,
        device: 0,
        context: 2,
    };
    exec.get::<cuCtxCreate::Call>(second, &[]).unwrap();
    exec.put(0, op::SET_CONTEXT, false, &[2], &[]);
    let used = page.get().used(0);
    page.get().set_quota(Some(used + 8 * GRANULE));
    // CU_LIMIT_PRINTF_FIFO_SIZE and CU_LIMIT_MALLOC_HEAP_SIZE.
    let (fifo, heap) = (1, 2);
    let get = |exec: &mut Exec, limit| {
        let get = cuCtxGetLimit::In { limit };
        exec.get::<cuCtxGetLimit::Call>(get, &[]).unwrap().0.value
    };
    let set = |exec: &mut Exec, limit, value| {
        let set = cuCtxSetLimit::In { limit, value };
        exec.get::<cuCtxSetLimit::Call>(set, &[]).map(drop)
    };
    let first = [get(&mut exec, fifo), get(&mut exec, heap)];
    set(&mut exec, heap, first[1] + 6 * GRANULE).unwrap();
    assert_eq!(page.get().used(0), used + 6 * GRANULE);
    assert_eq!(
        set(&mut exec, fifo, first[0] + 3 * GRANULE),
        Err(result::OUT_OF_MEMORY)
    );
    assert_eq!(
        (get(&mut exec, fifo), page.get().used(0)),
        (first[0], used + 6 * GRANULE)
    );
    set(&mut exec, fifo, first[0] + 2 * GRANULE).unwrap();
    assert_eq!(try_alloc(&mut exec, 1), Err(result::OUT_OF_MEMORY));
    set(&mut exec, heap, first[1]).unwrap();
    assert_eq!(page.get().used(0), used + 2 * GRANULE);
    exec.get::<cuCtxDestroy::Call>(cuCtxDestroy::In { context: 2 }, &[])
        .unwrap();
    assert!(page.get().used(0) <= used, "its buffers go with the context");
}

/// Room is made before something is refused, which is one refusal however it was tried; libcuda's own refusals are none.
#[test]
fn what_the_quota_refuses_is_counted_once_for_each_call() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 0)));
    let default = cuDeviceGetDefaultMemPool::In { device: 0, pool: 1 };
    exec.get::<cuDeviceGetDefaultMemPool::Call>(default, &[]).unwrap();
    page.get().set_quota(Some(page.get().used(0) + 2 * GRANULE));
    let of_pool = |exec: &mut Exec, bytes: u64| {
        let arguments = cuMemAllocFromPoolAsync::In {
            bytes,
            pool: 1,
            stream: STREAM_LEGACY,
        };
        let allocated = exec.get::<cuMemAllocFromPoolAsync::Call>(arguments, &[]);
        allocated.map(|(out, _)| out.pointer)
    };
    assert_eq!(of_pool(&mut exec, 64 * GRANULE), Err(result::OUT_OF_MEMORY));
    assert_eq!(try_alloc(&mut exec, 3 * GRANULE), Err(result::OUT_OF_MEMORY));
    // CU_LIMIT_MALLOC_HEAP_SIZE
    let heap = cuCtxSetLimit::In {
        limit: 2,
        value: 64 * GRANULE,
    };
    let heap = exec.get::<cuCtxSetLimit::Call>(heap, &[]);
    assert_eq!(heap.err(), Some(result::OUT_OF_MEMORY));
    assert_eq!(try_alloc(&mut exec, 0), Err(result::INVALID_VALUE));
    let all = try_alloc(&mut exec, 2 * GRANULE).unwrap();
    free(&mut exec, all);
    let scheduler = exec.scheduler.try_clone().unwrap();
    assert_eq!(exec.close(), Some(0));
    assert_eq!(told_in_the_end(&scheduler).refused, 3);
}

fn exec_unload(exec: &mut Exec, module: u32) {
    exec.get::<cuModuleUnload::Call>(cuModuleUnload::In { module }, &[])
        .unwrap();
}

#[test]
fn what_the_driver_accounts_counts_and_moves_to_another_page() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 7)));
    let allocated = alloc(&mut exec, GRANULE);
    page.get().set_quota(Some(16 * GRANULE));
    let account = |exec: &Exec, bytes| {
        exec.order(&in_use(bytes, false));
        exec.orders_are_done();
    };
    account(&exec, 10 * GRANULE);
    // Once more, since the allocation lay between this look and the one before.
    account(&exec, 10 * GRANULE);
    assert_eq!(page.get().used_by(7, 0), 10 * GRANULE);
    assert_eq!(memory_info(&mut exec).0, 6 * GRANULE);
    assert_eq!(try_alloc(&mut exec, 7 * GRANULE), Err(result::OUT_OF_MEMORY));
    // A vgpud that was restarted brings a page of its own.
    let other = SharedPage::new();
    other.get().set_quota(Some(12 * GRANULE));
    exec.connect_with(Some((&other, 3)));
    assert_eq!(other.get().used_by(3, 0), 10 * GRANULE);
    assert_eq!(memory_info(&mut exec), (2 * GRANULE, 12 * GRANULE));
    free(&mut exec, allocated);
    account(&exec, 0);
    account(&exec, 0);
    assert_eq!(other.get().used_by(3, 0), 0);
}

#[test]
fn a_first_context_counts_before_anything_is_allocated() {
    const CONTEXT: u64 = 4 * GRANULE;
    let page = SharedPage::new();
    let mut exec = Exec::start();
    exec.connect_with(Some((&page, 0)));
    let create = |exec: &mut Exec, quota: u64| {
        page.get().set_quota(Some(quota));
        let create = cuCtxCreate::In {
            flags: 0,
            device: 0,
            context: 1,
        };
        let position = exec.call::<cuCtxCreate::Call>(create, &[]);
        // It asks, and is told what is so from then on.
        wait_until("asking", || exec.hear() == FromExec::MemoryWanted);
        exec.order(&in_use(CONTEXT, true));
        exec.answer(0, position).0
    };
    assert_eq!(create(&mut exec, CONTEXT - 1), result::OUT_OF_MEMORY);
    // It has gone again.
    exec.order(&in_use(0, false));
    exec.orders_are_done();
    assert_eq!(page.get().used(0), 0);
    assert_eq!(create(&mut exec, CONTEXT + GRANULE), result::SUCCESS);
    assert_eq!(page.get().used(0), CONTEXT);
    exec.put(0, op::SET_CONTEXT, false, &[1], &[]);
    assert_eq!(memory_info(&mut exec).0, GRANULE);
    assert_eq!(try_alloc(&mut exec, 2 * GRANULE), Err(result::OUT_OF_MEMORY));
    try_alloc(&mut exec, GRANULE).unwrap();
}

#[test]
fn an_order_ends_the_session_with_its_code() {
    let mut exec = ready();
    endless(&mut exec, STREAM_LEGACY);
    exec.order(&ToExec::End {
        code: result::LAUNCH_TIMEOUT,
        why: "a kernel ran for 2 s".into(),
    });
    assert_eq!(exec.end(), (Some(5), result::LAUNCH_TIMEOUT));
}

#[test]
fn progress_is_seen_with_every_kernel_and_not_while_one_runs() {
    let mut exec = ready();
    let word = counter(&mut exec);
    for kernel in 1..=20 {
        bump(&mut exec, 0, STREAM_LEGACY, word);
        exec.fence(0, STREAM_LEGACY, 1, kernel);
        wait_until("progress", || exec.page().progress() == kernel);
    }
    // Copies and events are none.
    let device = alloc(&mut exec, 4096);
    let copy = cuMemcpyHtoDAsync::In {
        to: device,
        from: word,
        bytes: 4096,
        stream: STREAM_LEGACY,
    };
    exec.call::<cuMemcpyHtoDAsync::Call>(copy, &[]);
    exec.fence(0, STREAM_LEGACY, 1, 21);
    endless(&mut exec, STREAM_LEGACY);
    assert_eq!(exec.page().progress(), 20);
    let counted = |exec: &Exec| exec.memory.u32(PINNED.start + 68).load(SeqCst);
    let from = counted(&exec);
    wait_until("the kernel", || counted(&exec) > from.saturating_add(100));
    assert_eq!(exec.page().progress(), 20);
    end_endless(&exec);
    wait_until("progress", || exec.page().progress() == 21);
}

#[test]
fn the_last_calls_are_recorded_and_how_long_they_took() {
    let mut exec = ready();
    let word = counter(&mut exec);
    exec.ring_create(1).unwrap();
    exec.put(1, op::SET_CONTEXT, false, &[1], &[]);
    bump(&mut exec, 0, STREAM_LEGACY, word);
    exec.fence(0, STREAM_LEGACY, 1, 1);
    exec.get_on::<cuMemGetInfo::Call>(1, cuMemGetInfo::In {}, &[])
        .unwrap();
    alloc(&mut exec, 64);
    let ended = |exec: &Exec| {
        let calls = exec.page().recorded();
        calls.iter().all(|call| call.took_us.is_some()).then_some(calls)
    };
    let calls = wait_for("the calls' ends", || ended(&exec));
    let which: Vec<_> = calls.iter().map(|call| (call.op, call.ring)).collect();
    assert_eq!(
        which,
        [
            (cuCtxCreate::OP, 0),
            (cuModuleLoadData::OP, 0),
            (cuModuleGetFunction::OP, 0),
            (cuLaunchKernel::OP, 0),
            (cuMemGetInfo::OP, 1),
            (cuMemAlloc::OP, 0),
        ]
    );
    assert!(calls.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
    // One that cannot go on has not ended.
    let held = exec.page().word();
    let none = vgpu_sched_api::turn::Word {
        state: vgpu_sched_api::turn::State::None,
        ..held
    };
    exec.page().change(held, none).unwrap();
    bump(&mut exec, 0, STREAM_LEGACY, word);
    let last = wait_for("the launch", || {
        let last = exec.page().recorded().pop();
        last.filter(|call| call.op == cuLaunchKernel::OP)
    });
    assert_eq!(last.took_us, None);
}

#[test]
fn latencies_are_told_and_add_up() {
    const KERNELS: u64 = 30;
    let mut exec = ready();
    let word = counter(&mut exec);
    for kernel in 1..=KERNELS {
        bump(&mut exec, 0, STREAM_LEGACY, word);
        exec.fence(0, STREAM_LEGACY, 1, kernel);
        // Seen to be done before the next one is there: so each is the last one before its mark.
        wait_until("progress", || exec.page().progress() == kernel);
    }
    let told = latencies(&exec, |told| told.measured[2] >= KERNELS);
    assert_eq!(
        told,
        Told {
            measured: [KERNELS; 3],
            throttled_us: 0,
            refused: 0
        }
    );
}

/// However it ends in good order, nothing is lost that was measured in its last second.
#[test]
fn what_was_not_told_yet_is_told_at_the_end() {
    const KERNELS: u64 = 30;
    for ordered in [false, true] {
        let mut exec = ready();
        let word = counter(&mut exec);
        for kernel in 1..=KERNELS {
            bump(&mut exec, 0, STREAM_LEGACY, word);
            exec.fence(0, STREAM_LEGACY, 1, kernel);
            wait_until("progress", || exec.page().progress() == kernel);
        }
        let scheduler = exec.scheduler.try_clone().unwrap();
        if ordered {
            let why = "a test".into();
            let code = result::LAUNCH_TIMEOUT;
            exec.order(&ToExec::End { code, why });
            assert_eq!(exec.end(), (Some(5), result::LAUNCH_TIMEOUT));
        } else {
            assert_eq!(exec.close(), Some(0));
        }
        assert_eq!(told_in_the_end(&scheduler).measured, [KERNELS; 3]);
    }
}

#[test]
fn what_is_stopped_goes_on_when_vgpud_is_gone() {
    let mut exec = ready();
    endless(&mut exec, STREAM_LEGACY);
    let count = |exec: &Exec| exec.memory.u32(PINNED.start + 68).load(SeqCst);
    exec.order(&ToExec::Stop {
        sequence: 1,
        deadman_ms: 60_000,
    });
    wait_until("the stop", || {
        matches!(
            exec.hear(),
            FromExec::Done {
                sequence: 1,
                ok: true,
                ..
            }
        )
    });
    wait_until("the last write", || {
        let settled = count(&exec);
        (0..100_000).all(|_| count(&exec) == settled)
    });
    let settled = count(&exec);
    exec.scheduler = exec.event.try_clone().unwrap();
    wait_until("the kernel", || count(&exec) != settled);
    end_endless(&exec);
    exec.fence(0, STREAM_LEGACY, 1, 1);
}
