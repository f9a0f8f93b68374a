//! What concerns whole processes: faults, stop and resume, time slices, death. Each test, and each part of
//! one, is the test binary run again as a process of its own.

mod common;

use common::*;
use softgpu_cuda::driver::abi::*;
use softgpu_cuda::driver::{
    checkpoint::*, context::*, device::*, error::*, event::*, memory::*, module::*, runtime::*, stream::*,
    stream_memory::*, transfer::*,
};
use softgpu_cuda::vgpu_softgpu_control as control;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use tempfile::TempDir;

const STOP: u32 = 1;
const RESUME: u32 = 2;
const SET_SLICE: u32 = 3;
const BUSY: u32 = 4;

const SQUARES: u64 = 3_000_000;

/// What the kernel `squares` gives for `n`.
fn squares(n: u64) -> u64 {
    (0..n).fold(0, |sum, i: u64| sum.wrapping_add(i.wrapping_mul(i)))
}

#[test]
fn a_fault_is_sticky_for_the_whole_process() {
    in_child("a_fault_is_sticky_for_the_whole_process", || {
        let ctx = Ctx::new();
        let (module, s, e, address) = (load(PTX), stream(NON_BLOCKING), event(), alloc(64));
        let host = Pinned::new();
        let (store, digit) = (function(module, c"store"), function(module, c"digit"));
        launch1(digit, s, &[&host.at(0), &1u64]);
        // Behind the allocation, rounded up as it is.
        launch1(store, s, &[&(address + 512), &1u64]);
        let lost = ILLEGAL_ADDRESS.0;
        // It may be lost before.
        let behind = try_launch(digit, [1; 3], [1; 3], 0, s, &[&host.at(0), &2u64]);
        assert!([0, lost].contains(&behind), "{behind}");
        assert_eq!(cuStreamSynchronize(s), lost);
        // What was behind it has not run.
        assert_eq!(host.get(0), 1);
        let mut out = 0;
        assert_eq!(cuStreamQuery(s), lost);
        assert_eq!(cuEventRecord(e, s), lost);
        assert_eq!(cuEventQuery(e), lost);
        assert_eq!(cuMemAlloc_v2(Out(&mut out), 8), lost);
        assert_eq!(cuMemcpyDtoH_v2(host.at(0), address, 8), lost);
        assert_eq!(
            try_launch(digit, [1; 3], [1; 3], 0, s, &[&host.at(0), &2u64]),
            lost
        );
        assert_eq!(cuCtxSynchronize(), lost);
        assert_eq!(cuModuleUnload(module), lost);
        // Also in another context of the process.
        assert_eq!(cuCtxDestroy_v2(ctx.0), lost);
        assert_eq!(cuCtxCreate_v2(Out(&mut out), 0, 0), lost);
        assert_eq!(cuDevicePrimaryCtxRetain(Out(&mut out), 0), lost);
        // What concerns no context still answers.
        let mut count = 0;
        ok(cuDeviceGetCount(Out(&mut count)));
        ok(cuInit(0));
        let mut version = 0;
        ok(cuDriverGetVersion(Out(&mut version)));
        assert_eq!(version, 13000);
    });
}

#[test]
fn other_faults_have_their_own_codes() {
    const NAME: &str = "other_faults_have_their_own_codes";
    let body = |offset: u64, expected: CuError| {
        let _ctx = Ctx::new();
        let f = load(
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry trap() { trap; }\n\
             .entry store(.param .u64 a) { .reg .b64 %rd<2>; ld.param.u64 %rd1, [a]; st.global.u64 [%rd1], 1; ret; }",
        );
        if offset == 0 {
            launch1(function(f, c"trap"), 0, &[]);
        } else {
            launch1(function(f, c"store"), 0, &[&(alloc(64) + offset)]);
        }
        assert_eq!(cuCtxSynchronize(), expected.0);
    };
    match role().as_deref() {
        Some("trap") => body(0, LAUNCH_FAILED),
        Some("misaligned") => body(4, MISALIGNED_ADDRESS),
        _ => {
            for role in ["trap", "misaligned"] {
                let directory = TempDir::new().unwrap();
                succeed(child(NAME, role).env("VGPU_SOFTGPU_DIR", directory.path()));
            }
        }
    }
}

#[test]
fn a_kernel_may_not_touch_other_contexts_or_unregistered_memory() {
    const NAME: &str = "a_kernel_may_not_touch_other_contexts_or_unregistered_memory";
    let body = |own: bool| {
        let _other = Ctx::new();
        let foreign = zeros(8);
        let _ctx = Ctx::new();
        let plain = 0u64;
        let address = if own { &raw const plain as u64 } else { foreign };
        launch1(kernel(c"store"), 0, &[&address, &1u64]);
        assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS.0);
        assert_eq!(plain, 0);
    };
    match role().as_deref() {
        Some("own") => body(true),
        Some("foreign") => body(false),
        _ => {
            for role in ["own", "foreign"] {
                let directory = TempDir::new().unwrap();
                succeed(child(NAME, role).env("VGPU_SOFTGPU_DIR", directory.path()));
            }
        }
    }
}

#[test]
fn nothing_works_before_initialisation() {
    in_child("nothing_works_before_initialisation", || {
        let mut count = 0;
        assert_eq!(cuDeviceGetCount(Out(&mut count)), NOT_INITIALIZED.0);
        assert_eq!(cuCtxSynchronize(), NOT_INITIALIZED.0);
        assert_eq!(cuInit(1), INVALID_VALUE.0);
        assert_eq!(cuCtxGetCurrent(Out(&mut 0)), NOT_INITIALIZED.0);
        // Stop and resume need no device.
        assert_eq!((control(STOP, 0), control(RESUME, 0), control(77, 0)), (0, 0, -1));
    });
}

#[test]
fn a_stopped_kernel_stands_still_and_goes_on_where_it_was() {
    in_child("a_stopped_kernel_stands_still_and_goes_on_where_it_was", || {
        let _ctx = Ctx::new();
        let (count, sum) = (kernel(c"count_until"), kernel(c"squares"));
        let (s, copies) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let host = Pinned::new();
        launch1(count, s, &[&host.at(0), &host.at(1)]);
        launch1(sum, s, &[&host.at(2), &SQUARES]);
        for round in 1..=20u64 {
            let before = host.get(0);
            while host.get(0) == before {
                std::thread::yield_now();
            }
            assert_eq!(control(STOP, 0), 0);
            let (stood, busy) = (host.get(0), control(BUSY, 0));
            // Other engines go on.
            ok(cuStreamWriteValue64_v2(copies, host.at(3), round, 0));
            ok(cuMemcpyAsync(host.at(4), host.at(3), 8, copies));
            ok(cuStreamSynchronize(copies));
            assert_eq!(host.get(4), round);
            assert_eq!(control(STOP, 0), 0);
            assert_eq!((host.get(0), control(BUSY, 0)), (stood, busy));
            assert_eq!(control(RESUME, 0), 0);
            assert_eq!(control(RESUME, 0), 0);
        }
        // Stopped in the middle of the second kernel as well.
        host.set(1, 1);
        for _ in 0..20 {
            assert_eq!(control(STOP, 0), 0);
            assert_eq!(control(RESUME, 0), 0);
        }
        // Kernels launched while stopped wait.
        assert_eq!(control(STOP, 0), 0);
        launch1(kernel(c"digit"), copies, &[&host.at(5), &3u64]);
        assert_eq!((cuStreamQuery(copies), host.get(5)), (NOT_READY.0, 0));
        assert_eq!(control(RESUME, 0), 0);
        ok(cuCtxSynchronize());
        assert_eq!((host.get(2), host.get(5)), (squares(SQUARES), 3));
        let mut micros = 0u64;
        assert_eq!(control(BUSY, &raw mut micros as u64), 0);
        assert!(micros > 0 && control(BUSY, 0) as u64 == micros);
    });
}

#[test]
fn registered_memory_can_go_while_kernels_run() {
    in_child("registered_memory_can_go_while_kernels_run", || {
        let _busy = Ctx::new();
        let host = Pinned::new();
        let s = stream(NON_BLOCKING);
        launch1(kernel(c"count_until"), s, &[&host.at(0), &host.at(1)]);
        // Another context's memory: only its own work is waited for.
        let _ctx = Ctx::new();
        let page = Pinned::new();
        launch1(kernel(c"store"), 0, &[&page.at(0), &1u64]);
        ok(cuMemFreeHost(page.0));
        host.set(1, 1);
        ok(cuStreamSynchronize(s));
    });
}

/// A process that keeps the device busy: counts rounds of `squares` in a word shared with its parent.
fn busy_process(slice: u64) {
    assert_eq!(control(SET_SLICE, slice), 0);
    let _ctx = Ctx::new();
    let sum = kernel(c"squares");
    let out = zeros(8);
    println!("ready");
    loop {
        launch1(sum, 0, &[&out, &100_000u64]);
        ok(cuCtxSynchronize());
        assert_eq!(download::<u64>(out, 1)[0], squares(100_000));
        println!("round");
    }
}

/// Reads what a child says up to a line.
fn read_until(lines: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while line.trim_end() != wanted && !line.ends_with(&format!("{wanted}\n")) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended");
    }
}

#[test]
fn processes_take_turns_by_their_slices() {
    const NAME: &str = "processes_take_turns_by_their_slices";
    if role().as_deref() == Some("busy") {
        return busy_process(300);
    }
    if role().as_deref() == Some(NAME) {
        // A long kernel of this process runs beside the other's; both get on.
        let mut other = child(NAME, "busy").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap());
        let other = Killed(other);
        read_until(&mut lines, "ready");
        assert_eq!(control(SET_SLICE, 500), 0);
        let _ctx = Ctx::new();
        let host = Pinned::new();
        let s = stream(NON_BLOCKING);
        launch1(kernel(c"count_until"), s, &[&host.at(0), &host.at(1)]);
        for _ in 0..20 {
            let before = host.get(0);
            read_until(&mut lines, "round");
            while host.get(0) == before {
                std::thread::yield_now();
            }
        }
        host.set(1, 1);
        ok(cuStreamSynchronize(s));
        drop(other);
        return;
    }
    in_child(NAME, || ());
}

#[test]
fn only_one_process_runs_at_a_time() {
    const NAME: &str = "only_one_process_runs_at_a_time";
    if role().as_deref() == Some("counter") {
        // A kernel that never ends by itself, in a slice that outlasts the test.
        assert_eq!(control(SET_SLICE, 3_600_000_000), 0);
        let _ctx = Ctx::new();
        let host = Pinned::new();
        launch1(kernel(c"count_until"), 0, &[&host.at(0), &host.at(1)]);
        while host.get(0) == 0 {
            std::thread::yield_now();
        }
        println!("ready");
        // The parent's word: stop, and say so.
        let mut word = String::new();
        std::io::stdin().read_line(&mut word).unwrap();
        assert_eq!(control(STOP, 0), 0);
        println!("stopped");
        std::io::stdin().read_line(&mut word).unwrap();
        return;
    }
    in_child(NAME, || {
        let mut other = child(NAME, "counter")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut say = other.stdin.take().unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap());
        let other = Killed(other);
        read_until(&mut lines, "ready");
        let _ctx = Ctx::new();
        let host = Pinned::new();
        launch1(kernel(c"store"), 0, &[&host.at(0), &1u64]);
        // The other has the turn, so this has not run, however long one looks.
        for _ in 0..1000 {
            assert_eq!((cuStreamQuery(0), host.get(0)), (NOT_READY.0, 0));
            std::thread::yield_now();
        }
        // Copies do not need the compute engine.
        let copies = stream(NON_BLOCKING);
        ok(cuStreamWriteValue64_v2(copies, host.at(1), 2, 0));
        ok(cuStreamSynchronize(copies));
        // A process that is stopped gives the engine up.
        std::io::Write::write_all(&mut say, b"stop\n").unwrap();
        read_until(&mut lines, "stopped");
        ok(cuStreamSynchronize(0));
        assert_eq!(host.get(0), 1);
        drop(other);
    });
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    const NAME: &str = "a_killed_process_leaves_nothing_behind";
    if role().as_deref() == Some("victim") {
        assert_eq!(control(SET_SLICE, 3_600_000_000), 0);
        let _ctx = Ctx::new();
        let host = Pinned::new();
        alloc(3 << 30);
        launch1(kernel(c"count_until"), 0, &[&host.at(0), &host.at(1)]);
        while host.get(0) == 0 {
            std::thread::yield_now();
        }
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    if role().as_deref() == Some(NAME) {
        let _ctx = Ctx::new();
        let host = Pinned::new();
        let f = kernel(c"store");
        for round in 1..=5u64 {
            let mut victim = child(NAME, "victim").stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(victim.stdout.take().unwrap());
            let victim = Killed(victim);
            read_until(&mut lines, "ready");
            let mut address = 0;
            assert_eq!(cuMemAlloc_v2(Out(&mut address), 3 << 30), OUT_OF_MEMORY.0);
            launch1(f, 0, &[&host.at(0), &round]);
            // Killed with its kernel running, and this process waiting for the turn.
            drop(victim);
            ok(cuStreamSynchronize(0));
            assert_eq!(host.get(0), round);
            ok(cuMemAlloc_v2(Out(&mut address), 3 << 30));
            ok(cuMemFree_v2(address));
        }
        return;
    }
    in_child(NAME, || ());
}

#[test]
fn processes_killed_at_any_moment_do_not_hold_up_others() {
    const NAME: &str = "processes_killed_at_any_moment_do_not_hold_up_others";
    let hectic = |rounds: usize| {
        let _ctx = Ctx::new();
        let host = Pinned::new();
        let f = kernel(c"store");
        println!("ready");
        for round in 0..rounds {
            let memory = alloc(1 << 20);
            launch1(f, 0, &[&host.at(0), &(round as u64)]);
            ok(cuCtxSynchronize());
            assert_eq!(host.get(0), round as u64);
            ok(cuMemFree_v2(memory));
        }
    };
    match role().as_deref() {
        Some("victim") => hectic(usize::MAX),
        Some(NAME) => {
            assert_eq!(control(SET_SLICE, 1), 0);
            for round in 0..15 {
                let mut victims = Vec::new();
                for _ in 0..2 {
                    let mut victim = child(NAME, "victim").stdout(Stdio::piped()).spawn().unwrap();
                    let lines = BufReader::new(victim.stdout.take().unwrap());
                    victims.push((Killed(victim), lines));
                }
                for (_, lines) in &mut victims {
                    read_until(lines, "ready");
                }
                // They are killed in the middle of whatever they do then.
                hectic(10 + 7 * round);
                drop(victims);
            }
            let _ctx = Ctx::new();
            let (mut free, mut total) = (0, 0);
            ok(cuMemGetInfo_v2(Out(&mut free), Out(&mut total)));
            assert_eq!(free, total);
        }
        _ => in_child(NAME, || ()),
    }
}

#[test]
fn everything_fits_into_the_window_that_is_left() {
    in_child("everything_fits_into_the_window_that_is_left", || {
        let window = 1u64 << 42;
        // SAFETY: reserving free address space touches nothing that exists.
        let start = unsafe { reserve_all_but(0x4000_0000_0000, window) };
        let _ctx = Ctx::new();
        let inside = |address: u64| (start..start + window).contains(&address);
        let (device, host) = (zeros(1 << 20), Pinned::new());
        assert!(inside(device) && inside(host.0), "{device:#x} {:#x}", host.0);
        launch1(kernel(c"store"), 0, &[&host.at(0), &1u64]);
        ok(cuMemcpyDtoH_v2(host.at(1), device, 8));
        ok(cuCtxSynchronize());
        assert_eq!(host.get(0), 1);
    });
}

/// Takes all free address space above 64 GiB except a window; gives where that begins.
///
/// # Safety
/// None needed beyond that of reserving: nothing mapped is replaced.
unsafe fn reserve_all_but(start: u64, len: u64) -> u64 {
    let reserve = |at: u64, len: u64| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: fails where something is mapped.
        let got = unsafe { libc::mmap(at as *mut _, len as usize, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(got, libc::MAP_FAILED, "{at:#x} {len:#x}");
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut taken: Vec<(u64, u64)> = maps
        .lines()
        .map(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let end = rest.split(' ').next().unwrap();
            let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
            // The stack must be able to grow.
            let room = if line.ends_with("[stack]") { 16 << 20 } else { 0 };
            (hex(start) - room, hex(end))
        })
        .filter(|(start, _)| *start < 0x7fff_ffff_f000)
        .collect();
    taken.push((start, start + len));
    taken.push((0, 64 << 20));
    taken.sort_unstable();
    for pair in taken.windows(2) {
        if pair[0].1 < pair[1].0 {
            reserve(pair[0].1, pair[1].0 - pair[0].1);
        }
    }
    let last = taken.last().unwrap().1;
    if last < 0x7fff_ffff_f000 {
        reserve(last, 0x7fff_ffff_f000 - last);
    }
    start
}

#[test]
fn several_devices_and_their_memory() {
    const NAME: &str = "several_devices_and_their_memory";
    match role().as_deref() {
        Some("devices") => {
            init();
            let mut count = 0;
            ok(cuDeviceGetCount(Out(&mut count)));
            assert_eq!(count, 3);
            let uuid = |ordinal| {
                let mut uuid = [0u8; 16];
                ok(cuDeviceGetUuid_v2(Out(&mut uuid), ordinal));
                uuid
            };
            assert!(uuid(0) != uuid(1) && uuid(1) != uuid(2));
            let mut total = 0;
            ok(cuDeviceTotalMem_v2(Out(&mut total), 2));
            assert_eq!(total, 64 << 20);
            let mut ctx = 0;
            ok(cuCtxCreate_v2(Out(&mut ctx), 0, 2));
            let mut address = 0;
            assert_eq!(cuMemAlloc_v2(Out(&mut address), 65 << 20), OUT_OF_MEMORY.0);
            ok(cuMemAlloc_v2(Out(&mut address), 64 << 20));
            ok(cuCtxDestroy_v2(ctx));
        }
        Some("hidden") => {
            init();
            let mut count = 0;
            ok(cuDeviceGetCount(Out(&mut count)));
            let mut uuid = [0u8; 16];
            ok(cuDeviceGetUuid_v2(Out(&mut uuid), 0));
            assert_eq!((count, uuid[11]), (1, 2));
        }
        _ => {
            for (role, visible) in [("devices", None), ("hidden", Some("2"))] {
                let directory = TempDir::new().unwrap();
                let mut command = child(NAME, role);
                command
                    .env("VGPU_SOFTGPU_DIR", directory.path())
                    .env("VGPU_SOFTGPU_DEVICES", "3");
                command.env("VGPU_SOFTGPU_MEMORY", (64 << 20).to_string());
                if let Some(visible) = visible {
                    command.env("CUDA_VISIBLE_DEVICES", visible);
                }
                succeed(&mut command);
            }
        }
    }
}

#[test]
fn a_forked_child_has_no_driver() {
    in_child("a_forked_child_has_no_driver", || {
        let _ctx = Ctx::new();
        launch1(kernel(c"store"), 0, &[&Pinned::new().at(0), &1u64]);
        ok(cuCtxSynchronize());
        // SAFETY: the child only makes one call and exits.
        let status = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(cuCtxSynchronize());
            }
            let mut status = 0;
            libc::waitpid(pid, &mut status, 0);
            status
        };
        assert_eq!(libc::WEXITSTATUS(status), NOT_INITIALIZED.0);
    });
}

/// Free memory of device 0.
fn free_memory() -> usize {
    let (mut free, mut total) = (0, 0);
    ok(cuMemGetInfo_v2(Out(&mut free), Out(&mut total)));
    free
}

/// Takes the memory of device 0 in two parts, so that what another process has decides whether there is room.
#[test]
fn a_process_that_is_checkpointed_has_its_memory_on_the_host() {
    const TEST: &str = "a_process_that_is_checkpointed_has_its_memory_on_the_host";
    const WORDS: usize = 100_000;
    let none = || In(std::ptr::null());
    if role().as_deref() == Some("neighbour") {
        // Has as much as it is told, until it is told something else.
        let _ctx = Ctx::new();
        let mut told = std::io::stdin().lines();
        let bytes = told.next().unwrap().unwrap();
        let taken = alloc(bytes.parse().unwrap());
        println!("taken");
        told.next().unwrap().unwrap();
        ok(cuMemFree_v2(taken));
        println!("freed");
        return;
    }
    in_child(TEST, || {
        let pid = std::process::id() as i32;
        let state = || {
            let mut state = -1;
            ok(cuCheckpointProcessGetState(pid, Out(&mut state)));
            state
        };
        let _ctx = Ctx::new();
        let data: Vec<u64> = (0..WORDS as u64).map(|i| i * i).collect();
        let all = free_memory();
        let (address, small) = (upload(&data), upload(&[7u32]));
        let used = all - free_memory();
        let s = stream(NON_BLOCKING);

        assert_eq!(cuCheckpointProcessCheckpoint(pid, none()), ILLEGAL_STATE.0);
        assert_eq!(cuCheckpointProcessUnlock(pid, none()), ILLEGAL_STATE.0);
        assert_eq!(cuCheckpointProcessLock(pid + 1, none()), NOT_SUPPORTED.0);
        ok(cuCheckpointProcessLock(pid, none()));
        assert_eq!((state(), cuCtxSynchronize()), (1, ILLEGAL_STATE.0));
        ok(cuCheckpointProcessUnlock(pid, none()));
        ok(cuCtxSynchronize());
        ok(cuCheckpointProcessLock(pid, none()));
        ok(cuCheckpointProcessCheckpoint(pid, none()));
        assert_eq!(state(), 2);
        let mut out = 0;
        assert_eq!(cuMemAlloc_v2(Out(&mut out), 8), ILLEGAL_STATE.0);
        assert_eq!(cuStreamQuery(s), ILLEGAL_STATE.0);
        assert_eq!(softgpu_device::usage(softgpu_device::Part::whole(0)).used, 0);

        // Its memory is another's now, and it cannot have it back before that one frees some.
        let mut neighbour = child(TEST, "neighbour");
        let neighbour = neighbour
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut neighbour = Killed(neighbour);
        let mut says = BufReader::new(neighbour.0.stdout.take().unwrap()).lines();
        let mut tell = neighbour.0.stdin.take().unwrap();
        let mut ask = |what: String, answer: &str| {
            writeln!(tell, "{what}").unwrap();
            assert!(says.any(|line| line.unwrap().contains(answer)));
        };
        ask((all - used + 512).to_string(), "taken");
        assert_eq!(cuCheckpointProcessRestore(pid, none()), OUT_OF_MEMORY.0);
        assert_eq!(state(), 2);
        ask("free".into(), "freed");
        ok(cuCheckpointProcessRestore(pid, none()));
        assert_eq!((state(), cuCtxSynchronize()), (1, ILLEGAL_STATE.0));
        ok(cuCheckpointProcessUnlock(pid, none()));

        // As it was, at the same addresses.
        assert_eq!(all - free_memory(), used);
        assert_eq!(download::<u64>(address, WORDS), data);
        assert_eq!(download::<u32>(small, 1), [7]);
        ok(cuStreamQuery(s));
        ok(cuMemFree_v2(small));
        ok(cuMemFree_v2(address));
        assert_eq!(free_memory(), all);
    });
}
