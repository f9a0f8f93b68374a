//! The driver API, through the functions it exports. Tests that stop the whole process, or lose it, are in
//! `process.rs`.

mod common;

use common::*;
use softgpu_cuda::driver::abi::*;
use softgpu_cuda::driver::{
    context::*, device::*, error::*, event::*, export::*, launch::*, memory::*, module::*, stream::*,
    stream_memory::*, transfer::*,
};
use std::ffi::{CStr, c_void};

fn code(error: CuError) -> i32 {
    error.0
}

#[test]
fn vector_add() {
    let _ctx = Ctx::new();
    let f = kernel(c"vadd");
    let n = 1000usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 2.0 * i as f32).collect();
    let (da, db, dc) = (upload(&a), upload(&b), alloc(n * 4));
    launch(f, [8, 1, 1], [128, 1, 1], 0, 0, &[&dc, &da, &db, &(n as u32)]);
    let c: Vec<f32> = download(dc, n);
    assert!(c.iter().enumerate().all(|(i, v)| *v == 3.0 * i as f32));
}

#[test]
fn parameters_may_come_as_one_buffer() {
    let _ctx = Ctx::new();
    let f = kernel(c"saxpy");
    let mut layout = Vec::new();
    for index in 0.. {
        let (mut offset, mut size) = (0, 0);
        match cuFuncGetParamInfo(f, index, Out(&mut offset), Out(&mut size)) {
            0 => layout.push((offset, size)),
            end => {
                assert_eq!(end, code(INVALID_VALUE));
                break;
            }
        }
    }
    assert_eq!(layout, [(0, 4), (4, 4), (8, 8), (16, 8)]);
    let (x, y) = (upload(&[1f32, 2.0]), upload(&[10f32, 20.0]));
    let mut buffer = Vec::new();
    buffer.extend(2u32.to_le_bytes());
    buffer.extend(3f32.to_le_bytes());
    buffer.extend(x.to_le_bytes());
    buffer.extend(y.to_le_bytes());
    let len = buffer.len();
    let extra = [1, buffer.as_ptr() as u64, 2, &raw const len as u64, 0];
    let none = In(std::ptr::null());
    ok(cuLaunchKernel(
        f,
        1,
        1,
        1,
        32,
        1,
        1,
        0,
        0,
        none,
        In(extra.as_ptr()),
    ));
    assert_eq!(download::<f32>(y, 2), [13.0, 26.0]);
}

#[test]
fn launches_are_checked() {
    let _ctx = Ctx::new();
    let f = kernel(c"reverse");
    let data = upload(&[1u32, 2, 3, 4]);
    let refused = |grid, block, shared| try_launch(f, grid, block, shared, 0, &[&data]);
    assert_eq!(refused([0, 1, 1], [1, 1, 1], 0), 1);
    assert_eq!(refused([1, 1, 1], [1025, 1, 1], 0), 1);
    assert_eq!(refused([1, 70000, 1], [1, 1, 1], 0), 1);
    assert_eq!(refused([1, 1, 1], [4, 1, 1], 60_000), 1);
    assert_eq!(
        try_launch(0xdead, [1; 3], [1; 3], 0, 0, &[]),
        code(INVALID_HANDLE)
    );
    assert_eq!(
        try_launch(f, [1; 3], [1; 3], 0, 0xdead, &[&data]),
        code(INVALID_HANDLE)
    );
    ok(cuFuncSetAttribute(f, 8, 60_000));
    launch(f, [1; 3], [4, 1, 1], 60_000, 0, &[&data]);
    assert_eq!(download::<u32>(data, 4), [4, 3, 2, 1]);
}

#[test]
fn modules_have_variables() {
    let _ctx = Ctx::new();
    let module = load(PTX);
    let (mut address, mut len) = (0, 0);
    ok(cuModuleGetGlobal_v2(
        Out(&mut address),
        Out(&mut len),
        module,
        Text(c"counter".as_ptr()),
    ));
    assert_eq!((len, download::<u64>(address, 1)[0]), (8, 40));
    let out = zeros(8);
    launch1(function(module, c"globals"), 0, &[&out]);
    assert_eq!(download::<u64>(address, 1)[0], 41);
    assert_eq!(download::<f32>(out, 1)[0], 2.5);
    let missing = cuModuleGetGlobal_v2(Out(&mut address), Out(&mut len), module, Text(c"no".as_ptr()));
    assert_eq!(missing, code(NOT_FOUND));
    let f = function(module, c"globals");
    ok(cuModuleUnload(module));
    assert_eq!(try_launch(f, [1; 3], [1; 3], 0, 0, &[&out]), code(INVALID_HANDLE));
}

#[test]
fn images_that_cannot_be_loaded() {
    let _ctx = Ctx::new();
    assert_eq!(try_load("\x7fELF\x02"), Err(code(NO_BINARY_FOR_GPU)));
    assert_eq!(try_load("not PTX"), Err(code(INVALID_PTX)));
    let unknown = ".version 8.0\n.target sm_90\n.address_size 64\n.entry k() { tcgen05.wait; ret; }";
    assert_eq!(try_load(unknown), Err(code(INVALID_PTX)));
}

#[test]
fn work_of_a_stream_is_in_order_and_the_host_goes_on() {
    let _ctx = Ctx::new();
    let (wait, digit) = (kernel(c"wait_for"), kernel(c"digit"));
    let s = stream(NON_BLOCKING);
    let host = Pinned::new();
    let out = zeros(8);
    launch1(wait, s, &[&host.at(8), &host.at(0), &1u64]);
    launch1(digit, s, &[&out, &4u64]);
    ok(cuMemcpyDtoHAsync_v2(host.at(1), out, 8, s));
    launch1(digit, s, &[&out, &2u64]);
    ok(cuMemcpyDtoHAsync_v2(host.at(2), out, 8, s));
    // The first kernel cannot end before this.
    assert_eq!(cuStreamQuery(s), code(NOT_READY));
    host.set(0, 1);
    ok(cuStreamSynchronize(s));
    ok(cuStreamQuery(s));
    assert_eq!((host.get(1), host.get(2)), (4, 42));
}

#[test]
fn streams_run_beside_each_other() {
    let _ctx = Ctx::new();
    let wait = kernel(c"wait_for");
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let host = Pinned::new();
    let f = kernel(c"store");
    // Kernel on a waits for what the kernel on b stores.
    launch1(wait, a, &[&host.at(1), &host.at(0), &7u64]);
    launch1(f, b, &[&host.at(0), &7u64]);
    ok(cuStreamSynchronize(a));
    assert_eq!(host.get(1), 1);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    let _ctx = Ctx::new();
    let (wait, digit) = (kernel(c"wait_for"), kernel(c"digit"));
    let host = Pinned::new();
    let (blocking, other) = (stream(BLOCKING), stream(NON_BLOCKING));
    // A non-blocking stream's work does not hold it up.
    launch1(wait, other, &[&host.at(8), &host.at(0), &1u64]);
    launch1(digit, 0, &[&host.at(1), &5u64]);
    ok(cuStreamSynchronize(0));
    assert_eq!(host.get(1), 5);
    // A blocking stream's does, and later work there waits for the legacy stream.
    launch1(wait, blocking, &[&host.at(8), &host.at(2), &1u64]);
    launch1(digit, 0, &[&host.at(1), &6u64]);
    launch1(digit, blocking, &[&host.at(1), &7u64]);
    launch1(digit, other, &[&host.at(3), &9u64]);
    assert_eq!(cuStreamQuery(0), code(NOT_READY));
    assert_eq!(host.get(1), 5);
    host.set(2, 1);
    ok(cuStreamSynchronize(blocking));
    assert_eq!(host.get(1), 567);
    host.set(0, 1);
    ok(cuCtxSynchronize());
    assert_eq!(host.get(3), 9);
}

#[test]
fn per_thread_default_streams_differ_between_threads() {
    let ctx = Ctx::new();
    let wait = kernel(c"wait_for");
    let host = Pinned::new();
    launch1(wait, STREAM_PER_THREAD, &[&host.at(1), &host.at(0), &1u64]);
    let (context, out) = (ctx.0, host.at(2));
    let f = kernel(c"store");
    std::thread::spawn(move || {
        ok(cuCtxSetCurrent(context));
        launch1(f, STREAM_PER_THREAD, &[&out, &3u64]);
        ok(cuStreamSynchronize_ptsz(0));
    })
    .join()
    .unwrap();
    assert_eq!(host.get(2), 3);
    assert_eq!(cuStreamQuery_ptsz(0), code(NOT_READY));
    host.set(0, 1);
    ok(cuStreamSynchronize(STREAM_PER_THREAD));
}

#[test]
fn a_full_queue_blocks_the_submitter() {
    let ctx = Ctx::new();
    let (wait, digit) = (kernel(c"wait_for"), kernel(c"store"));
    let s = stream(NON_BLOCKING);
    let host = Pinned::new();
    launch1(wait, s, &[&host.at(1), &host.at(0), &1u64]);
    let (context, progress, target) = (ctx.0, host.at(2), host.at(3));
    let submitter = std::thread::spawn(move || {
        ok(cuCtxSetCurrent(context));
        // SAFETY: pinned memory that lives longer than this thread.
        let progress = unsafe { std::sync::atomic::AtomicU64::from_ptr(progress as *mut u64) };
        for n in 1..=1500u64 {
            launch1(digit, s, &[&target, &n]);
            progress.store(n, std::sync::atomic::Ordering::Release);
        }
    });
    // The kernel that waits and these make 1024.
    host.wait(2, 1023);
    assert!(!submitter.is_finished());
    host.set(0, 1);
    submitter.join().unwrap();
    ok(cuStreamSynchronize(s));
    assert_eq!(host.get(3), 1500);
}

#[test]
fn events_order_and_time() {
    let _ctx = Ctx::new();
    let (wait, digit) = (kernel(c"wait_for"), kernel(c"digit"));
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (begin, end, fresh) = (event(), event(), event());
    let host = Pinned::new();
    ok(cuEventQuery(fresh));
    ok(cuEventRecord(begin, a));
    launch1(wait, a, &[&host.at(8), &host.at(0), &1u64]);
    launch1(digit, a, &[&host.at(1), &1u64]);
    ok(cuEventRecord(end, a));
    ok(cuStreamWaitEvent(b, end, 0));
    launch1(digit, b, &[&host.at(1), &2u64]);
    assert_eq!(cuEventQuery(end), code(NOT_READY));
    let mut ms = -1.0;
    assert_eq!(cuEventElapsedTime_v2(Out(&mut ms), begin, end), code(NOT_READY));
    assert_eq!(
        cuEventElapsedTime_v2(Out(&mut ms), fresh, end),
        code(INVALID_HANDLE)
    );
    host.set(0, 1);
    ok(cuEventSynchronize(end));
    ok(cuEventElapsedTime_v2(Out(&mut ms), begin, end));
    assert!(ms >= 0.0);
    ok(cuStreamSynchronize(b));
    assert_eq!(host.get(1), 12);
    // An event may go while it is used; its work is still done.
    ok(cuEventDestroy_v2(end));
    assert_eq!(cuEventQuery(end), code(INVALID_HANDLE));
}

#[test]
fn stream_memory_operations() {
    let _ctx = Ctx::new();
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let host = Pinned::new();
    let digit = kernel(c"digit");
    // b waits for a value that a writes, at least 5 in cyclic order.
    ok(cuStreamWaitValue32_v2(b, host.at(0), 5, 0));
    launch1(digit, b, &[&host.at(1), &1u64]);
    ok(cuStreamWriteValue64_v2(b, host.at(2), 77, 0));
    assert_eq!(cuStreamQuery(b), code(NOT_READY));
    ok(cuStreamWriteValue32_v2(a, host.at(0), 6, 0));
    host.wait(2, 77);
    assert_eq!(host.get(1), 1);
    assert_eq!(
        cuStreamWriteValue64_v2(a, host.at(0) + 4, 1, 0),
        code(INVALID_VALUE)
    );
    assert_eq!(cuStreamWriteValue64_v2(a, 0x10, 1, 0), code(INVALID_VALUE));
    assert_eq!(cuStreamWaitValue64_v2(a, host.at(0), 1, 9), code(INVALID_VALUE));
}

#[test]
fn registered_memory_is_seen_by_kernels_at_its_own_address() {
    let _ctx = Ctx::new();
    // Pages that another mapping shares, as another process would.
    // SAFETY: new mappings of a new file, not used by anything else.
    let (first, second) = unsafe {
        let fd = libc::memfd_create(c"pages".as_ptr(), 0);
        assert_eq!(libc::ftruncate(fd, 8192), 0);
        let map = || {
            let at = libc::mmap(std::ptr::null_mut(), 8192, 3, libc::MAP_SHARED, fd, 0);
            assert_ne!(at, libc::MAP_FAILED);
            at
        };
        let maps = (map(), map());
        libc::close(fd);
        maps
    };
    let address = first as u64;
    let f = kernel(c"store");
    let mut device = 0;
    assert_eq!(
        cuMemHostGetDevicePointer_v2(Out(&mut device), address, 0),
        code(INVALID_VALUE)
    );
    assert_eq!(cuMemHostUnregister(address), code(HOST_MEMORY_NOT_REGISTERED));
    ok(cuMemHostRegister_v2(address, 8192, 3));
    assert_eq!(
        cuMemHostRegister_v2(address + 4096, 4096, 3),
        code(HOST_MEMORY_ALREADY_REGISTERED)
    );
    ok(cuMemHostGetDevicePointer_v2(Out(&mut device), address, 0));
    assert_eq!(device, address);
    launch1(f, 0, &[&(address + 8184), &0x1234u64]);
    ok(cuStreamWriteValue64_v2(0, address, 5, 0));
    ok(cuCtxSynchronize());
    // SAFETY: both addresses lie in the mapping.
    let seen = unsafe {
        (
            (second as *const u64).read_volatile(),
            (second as *const u64).add(1023).read_volatile(),
        )
    };
    assert_eq!(seen, (5, 0x1234));
    ok(cuMemHostUnregister(address));
    assert_eq!(cuStreamWriteValue64_v2(0, address, 5, 0), code(INVALID_VALUE));
    // SAFETY: nothing uses the mappings any more.
    unsafe { libc::mprotect(first, 8192, libc::PROT_NONE) };
    assert_eq!(cuMemHostRegister_v2(address, 8192, 3), code(INVALID_VALUE));
    // SAFETY: as above.
    unsafe {
        libc::munmap(first, 8192);
        libc::munmap(second, 8192);
    }
}

#[test]
fn copies_are_checked_against_live_allocations() {
    let _ctx = Ctx::new();
    let data = [7u8; 64];
    let host = data.as_ptr() as u64;
    let device = alloc(1024);
    assert_eq!(device % 512, 0);
    ok(cuMemcpyHtoD_v2(device + 960, host, 64));
    assert_eq!(cuMemcpyHtoD_v2(device + 1000, host, 64), code(INVALID_VALUE));
    assert_eq!(cuMemcpyHtoD_v2(host, host, 64), code(INVALID_VALUE));
    assert_eq!(cuMemcpyDtoH_v2(host, 0x1000, 4), code(INVALID_VALUE));
    assert_eq!(cuMemcpy(device, 0, 4), code(INVALID_VALUE));
    assert_eq!(cuMemsetD32_v2(device + 2, 0, 4), code(INVALID_VALUE));
    assert_eq!(cuMemsetD8_v2(device, 0, 2000), code(INVALID_VALUE));
    ok(cuMemcpyHtoD_v2(device, host, 0));
    ok(cuMemsetD16_v2(device, 0x0102, 4));
    assert_eq!(download::<u8>(device, 4), [2, 1, 2, 1]);
    ok(cuMemcpyDtoDAsync_v2(device + 8, device + 960, 8, 0));
    assert_eq!(download::<u8>(device + 8, 8), [7; 8]);
    assert_eq!(cuMemFree_v2(device + 512), code(INVALID_VALUE));
    ok(cuMemFree_v2(device));
    assert_eq!(cuMemFree_v2(device), code(INVALID_VALUE));
    assert_eq!(cuMemcpyHtoD_v2(device, host, 64), code(INVALID_VALUE));
}

#[test]
fn pageable_memory_may_change_once_the_call_returned() {
    let _ctx = Ctx::new();
    let s = stream(NON_BLOCKING);
    let host = Pinned::new();
    let device = zeros(8);
    launch1(kernel(c"wait_for"), s, &[&host.at(1), &host.at(0), &1u64]);
    let mut value = 11u64;
    ok(cuMemcpyHtoDAsync_v2(device, &raw const value as u64, 8, s));
    value = 12;
    host.set(0, 1);
    ok(cuStreamSynchronize(s));
    assert_eq!((download::<u64>(device, 1)[0], value), (11, 12));
}

#[test]
fn memory_runs_out_and_comes_back() {
    let _ctx = Ctx::new();
    let (mut free, mut total) = (0, 0);
    ok(cuMemGetInfo_v2(Out(&mut free), Out(&mut total)));
    assert!(free <= total);
    let mut address = 0;
    assert_eq!(cuMemAlloc_v2(Out(&mut address), total + 1), code(OUT_OF_MEMORY));
    assert_eq!(cuMemAlloc_v2(Out(&mut address), usize::MAX), code(OUT_OF_MEMORY));
    assert_eq!(cuMemAlloc_v2(Out(&mut address), 0), code(INVALID_VALUE));
    // Other tests allocate little; most of the memory can be had, twice in a row but not at once.
    let most = total / 4 * 3;
    for _ in 0..2 {
        ok(cuMemAlloc_v2(Out(&mut address), most));
        let mut second = 0;
        assert_eq!(cuMemAlloc_v2(Out(&mut second), most), code(OUT_OF_MEMORY));
        ok(cuMemFree_v2(address));
    }
}

#[test]
fn pointers_say_what_they_are() {
    let ctx = Ctx::new();
    let (device, host) = (alloc(100), Pinned::new());
    let ask = |attribute: i32, address: u64| {
        let mut value = 0u64;
        let code = cuPointerGetAttribute((&raw mut value).cast::<c_void>(), attribute, address);
        (code == 0).then_some(value)
    };
    assert_eq!(ask(2, device + 99), Some(2));
    assert_eq!(ask(2, host.at(3)), Some(1));
    assert_eq!(ask(1, device), Some(ctx.0));
    assert_eq!(ask(3, device + 5), Some(device + 5));
    assert_eq!(ask(2, 0x1234), None);
    let (mut base, mut len) = (0, 0);
    ok(cuMemGetAddressRange_v2(
        Out(&mut base),
        Out(&mut len),
        device + 50,
    ));
    assert_eq!(base, device);
}

extern "C" fn note(data: *mut c_void) {
    let words = data as *mut u64;
    // SAFETY: the test passes the address of pinned words: a flag to wait for, and a place to answer.
    let (flag, answer) = unsafe {
        (
            std::sync::atomic::AtomicU64::from_ptr(words),
            std::sync::atomic::AtomicU64::from_ptr(words.add(1)),
        )
    };
    while flag.load(std::sync::atomic::Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    answer.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
}

#[test]
fn host_functions_run_in_stream_order_and_hold_it() {
    let _ctx = Ctx::new();
    let s = stream(NON_BLOCKING);
    let host = Pinned::new();
    let digit = kernel(c"digit");
    launch1(digit, s, &[&host.at(4), &1u64]);
    ok(cuLaunchHostFunc(s, Some(note), host.at(0) as *mut c_void));
    launch1(digit, s, &[&host.at(4), &2u64]);
    host.wait(4, 1);
    assert_eq!(cuStreamQuery(s), code(NOT_READY));
    assert_eq!((host.get(1), host.get(4)), (0, 1));
    // Another stream is not held.
    ok(cuStreamWriteValue64_v2(stream(NON_BLOCKING), host.at(5), 9, 0));
    host.wait(5, 9);
    host.set(0, 1);
    ok(cuStreamSynchronize(s));
    assert_eq!((host.get(1), host.get(4)), (1, 12));
}

#[test]
fn contexts_are_a_stack() {
    let first = Ctx::new();
    let second = Ctx::new();
    let current = || {
        let mut handle = 0;
        ok(cuCtxGetCurrent(Out(&mut handle)));
        handle
    };
    assert_eq!(current(), second.0);
    let mut popped = 0;
    ok(cuCtxPopCurrent_v2(Out(&mut popped)));
    assert_eq!((popped, current()), (second.0, first.0));
    ok(cuCtxPushCurrent_v2(second.0));
    ok(cuCtxSetCurrent(first.0));
    assert_eq!(current(), first.0);
    assert_eq!(cuCtxSetCurrent(0xdead), code(INVALID_CONTEXT));
    let gone = second.0;
    drop(second);
    assert_eq!(cuCtxSetCurrent(gone), code(INVALID_CONTEXT));
    std::thread::spawn(|| {
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(Out(&mut address), 8), code(INVALID_CONTEXT));
        assert_eq!(cuCtxGetDevice(Out(&mut 0)), code(INVALID_CONTEXT));
        let (mut major, mut minor) = (0, 0);
        ok(cuDeviceComputeCapability(Out(&mut major), Out(&mut minor), 0));
        assert_eq!((major, minor), (9, 0));
    })
    .join()
    .unwrap();
}

#[test]
fn primary_contexts_are_counted() {
    init();
    let (mut a, mut b, mut flags, mut active) = (0, 0, 0, 0);
    ok(cuDevicePrimaryCtxRetain(Out(&mut a), 0));
    ok(cuDevicePrimaryCtxRetain(Out(&mut b), 0));
    assert_eq!(a, b);
    assert_eq!(cuCtxDestroy_v2(a), code(INVALID_CONTEXT));
    ok(cuDevicePrimaryCtxRelease_v2(0));
    ok(cuDevicePrimaryCtxGetState(0, Out(&mut flags), Out(&mut active)));
    assert_eq!(active, 1);
    ok(cuDevicePrimaryCtxRelease_v2(0));
    ok(cuDevicePrimaryCtxGetState(0, Out(&mut flags), Out(&mut active)));
    assert_eq!(active, 0);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), code(INVALID_CONTEXT));
}

#[test]
fn a_destroyed_context_takes_its_objects_along() {
    let outer = Ctx::new();
    let inner = Ctx::new();
    let (s, e, m, address) = (stream(BLOCKING), event(), load(PTX), alloc(64));
    drop(inner);
    ok(cuCtxSetCurrent(outer.0));
    assert_eq!(cuStreamSynchronize(s), code(INVALID_HANDLE));
    assert_eq!(cuEventQuery(e), code(INVALID_HANDLE));
    assert_eq!(cuModuleUnload(m), code(INVALID_HANDLE));
    assert_eq!(cuMemFree_v2(address), code(INVALID_VALUE));
}

#[test]
fn devices_describe_themselves() {
    init();
    let mut count = 0;
    ok(cuDeviceGetCount(Out(&mut count)));
    assert_eq!(count, 1);
    let attribute = |id: i32| {
        let mut value = -1;
        ok(cuDeviceGetAttribute(Out(&mut value), id, 0));
        value
    };
    assert_eq!((attribute(75), attribute(76)), (9, 0));
    assert_eq!((attribute(88), attribute(91), attribute(89)), (0, 1, 0));
    let mut device = -1;
    assert_eq!(cuDeviceGet(Out(&mut device), 1), code(INVALID_DEVICE));
    let mut name = [0i8; 64];
    ok(cuDeviceGetName(name.as_mut_ptr(), 64, 0));
    // SAFETY: the call terminated the string.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"vgpu software GPU");
    let mut id = [0i8; 16];
    ok(cuDeviceGetPCIBusId(id.as_mut_ptr(), 16, 0));
    ok(cuDeviceGetByPCIBusId(Out(&mut device), Text(id.as_ptr())));
    assert_eq!(device, 0);
}

#[test]
fn functions_are_found_by_name_and_version() {
    init();
    let find = |name: &CStr, version: i32, flags: u64| {
        let (mut address, mut status) = (std::ptr::null(), -1);
        let result = cuGetProcAddress_v2(
            Text(name.as_ptr()),
            Out(&mut address),
            version,
            flags,
            Out(&mut status),
        );
        assert_eq!(result == 0, status == 0);
        address
    };
    assert_eq!(find(c"cuMemAlloc", 13000, 0), cuMemAlloc_v2 as *const ());
    assert_eq!(find(c"cuLaunchKernel", 13000, 0), cuLaunchKernel as *const ());
    assert_eq!(
        find(c"cuLaunchKernel", 13000, 2),
        cuLaunchKernel_ptsz as *const ()
    );
    assert_eq!(find(c"cuMemcpyHtoD", 13000, 2), cuMemcpyHtoD_v2_ptds as *const ());
    assert_eq!(find(c"cuCtxSynchronize", 12080, 0), cuCtxSynchronize as *const ());
    assert_eq!(
        find(c"cuCtxSynchronize", 13000, 0),
        cuCtxSynchronize_v2 as *const ()
    );
    assert!(find(c"cuNoSuchThing", 13000, 0).is_null());
}

#[test]
fn errors_have_names() {
    let name = |code: i32| {
        let mut text = Text(std::ptr::null());
        (cuGetErrorName(code, Out(&mut text)), text.get())
    };
    assert_eq!(name(700), (0, Ok("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned())));
    assert_eq!(name(0), (0, Ok("CUDA_SUCCESS".to_owned())));
    assert_eq!(name(12345).0, code(INVALID_VALUE));
}

#[test]
fn the_error_log_names_instruction_and_line() {
    let _ctx = Ctx::new();
    let text = c".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() {\n frobnicate.u32;\n}";
    let mut log = [0x55u8; 64];
    let mut module = 0;
    let load = |module: &mut u64, log: &mut [u8]| {
        let (options, values) = ([6, 5], [log.len() as u64, log.as_mut_ptr() as u64]);
        cuModuleLoadDataEx(
            Out(module),
            text.as_ptr().cast(),
            2,
            In(options.as_ptr()),
            In(values.as_ptr()),
        )
    };
    assert_eq!(load(&mut module, &mut log), 218);
    let said = std::ffi::CStr::from_bytes_until_nul(&log)
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(said, "PTX line 5: unknown instruction frobnicate.u32\n");
    // No more is written than there is room for.
    let (room, rest) = log.split_at_mut(9);
    rest.fill(0x55);
    assert_eq!(load(&mut module, room), 218);
    assert_eq!((&room[..], rest[0]), (&b"PTX line\0"[..], 0x55));
}
