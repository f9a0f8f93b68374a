//! The library's calls against an imitated host. All tests share one session, as the threads of one process do.
use super::*;
use crate::abi::{
    CUcontext, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, Host, In, Out, Text,
};
use crate::fake;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use vgpu_protocol::calls;
use vgpu_protocol::ring::op;
use vgpu_protocol::structs::{AllocationProps, HANDLE_TYPE_FILE, Location};

fn text(text: &'static std::ffi::CStr) -> Text {
    // SAFETY: a C string of the whole program's.
    unsafe { Text::new(text.as_ptr() as usize) }
}

fn host<T>(memory: &mut [T]) -> Host {
    // SAFETY: the test keeps the memory until it has synchronised.
    unsafe { Host::new(memory.as_mut_ptr() as usize) }
}

fn at(addr: usize) -> Host {
    // SAFETY: an address that the test got from the library.
    unsafe { Host::new(addr) }
}

fn ok(result: CUresult) {
    assert_eq!(result, result::SUCCESS);
}

/// Held for writing by a test that counts what others would change.
static OTHERS: RwLock<()> = RwLock::new(());

/// A context of this test's thread; the others' errors are not its own.
struct Test<Guard = RwLockReadGuard<'static, ()>> {
    context: CUcontext,
    _others: Guard,
}

impl Test {
    fn start() -> Self {
        Self::beside(OTHERS.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Test<RwLockWriteGuard<'static, ()>> {
    fn alone() -> Self {
        Self::beside(OTHERS.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<Guard> Test<Guard> {
    fn beside(others: Guard) -> Self {
        ok(cuInit(0));
        let mut context = 0;
        ok(cuCtxCreate_v4(Out::to(&mut context), In::none(), 0, 0));
        Self {
            context,
            _others: others,
        }
    }
    fn alloc(&self, bytes: usize) -> CUdeviceptr {
        let mut pointer = 0;
        ok(cuMemAlloc_v2(Out::to(&mut pointer), bytes));
        pointer
    }
    fn function(&self, name: &'static std::ffi::CStr) -> CUfunction {
        let (mut module, mut function): (CUmodule, CUfunction) = (0, 0);
        ok(cuModuleLoadData(
            Out::to(&mut module),
            at(c".version 7.8".as_ptr() as usize),
        ));
        ok(cuModuleGetFunction(Out::to(&mut function), module, text(name)));
        function
    }
    fn stream(&self) -> CUstream {
        let mut stream = 0;
        ok(cuStreamCreate(Out::to(&mut stream), 1));
        stream
    }
}

impl<Guard> Drop for Test<Guard> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ok(cuCtxDestroy_v2(self.context));
        }
    }
}

fn fill(
    function: CUfunction,
    stream: CUstream,
    mut to: CUdeviceptr,
    mut value: u32,
    mut count: u32,
) -> CUresult {
    let (to, value, count) = (&raw mut to, &raw mut value, &raw mut count);
    let params = [at(to as usize), at(value as usize), at(count as usize)];
    cuLaunchKernel(
        function,
        1,
        1,
        1,
        32,
        1,
        1,
        0,
        stream,
        In::from(&params),
        In::none(),
    )
}

fn read(from: CUdeviceptr, count: usize) -> Vec<u32> {
    let mut data = vec![0u32; count];
    ok(cuMemcpyDtoH_v2(host(&mut data), from, 4 * count));
    data
}

#[test]
fn pageable_memory_goes_there_and_back() {
    let test = Test::start();
    // More than all staging holds, and no whole number of chunks.
    let count = 5_000_003;
    let mut data: Vec<u32> = (0..count as u32).collect();
    let pointer = test.alloc(4 * count);
    ok(cuMemcpyHtoD_v2(pointer, host(&mut data), 4 * count));
    let expected = data.clone();
    data.fill(0);
    assert_eq!(read(pointer, count), expected);
    for _ in 0..3000 {
        ok(cuMemcpyHtoDAsync_v2(pointer, host(&mut data), 4096, 0));
    }
    assert_eq!(read(pointer, 1025)[1023..], [0, 1024]);
    // A range past the end is refused before anything is touched.
    let end = pointer + 4 * count as u64;
    assert_eq!(
        cuMemcpyDtoH_v2(host(&mut data), end - 4, 8),
        result::INVALID_VALUE
    );
    assert_eq!(
        cuMemcpyHtoD_v2(end - 4, host(&mut data), 8),
        result::INVALID_VALUE
    );
    assert_eq!(cuMemsetD8_v2(end - 4, 0, 5), result::INVALID_VALUE);
    ok(cuMemFree_v2(pointer));
    assert_eq!(cuMemFree_v2(pointer), result::INVALID_VALUE);
    assert_eq!(
        cuMemcpyHtoD_v2(pointer, host(&mut data), 8),
        result::INVALID_VALUE
    );
}

#[test]
fn more_copies_than_staging_holds_go_on_at_once() {
    let test = Test::start();
    let context = test.context;
    std::thread::scope(|scope| {
        for i in 0..8u32 {
            scope.spawn(move || {
                ok(cuCtxSetCurrent(context));
                let count = 2_000_000;
                let mut pointer = 0;
                ok(cuMemAlloc_v2(Out::to(&mut pointer), 4 * count));
                ok(cuMemsetD32_v2(pointer, i, count));
                for _ in 0..3 {
                    assert!(read(pointer, count).iter().all(|&value| value == i));
                }
            });
        }
    });
}

#[test]
fn registered_memory_is_pinned_where_it_lies() {
    let test = Test::start();
    let pointer = test.alloc(20_000);
    let mut data = vec![9u8; 40_000];
    let start = data.as_mut_ptr() as usize;
    // Both begin and end inside of pages, and the second one in the page in which the first one ends.
    let (one, other) = (start + 5000, start + 15_000);
    assert_eq!(cuMemHostUnregister(at(one)), result::HOST_MEMORY_NOT_REGISTERED);
    assert_eq!(cuMemHostRegister_v2(at(0), 10, 0), result::INVALID_VALUE);
    assert_eq!(cuMemHostRegister_v2(at(one), 0, 0), result::INVALID_VALUE);
    assert_eq!(
        cuMemHostRegister_v2(at(one), usize::MAX, 0),
        result::INVALID_VALUE
    );
    assert_eq!(cuMemHostRegister_v2(at(one), 10, 16), result::INVALID_VALUE);
    assert_eq!(cuMemHostRegister_v2(at(one), 10, 4), result::INVALID_VALUE);
    assert_eq!(
        cuMemHostRegister_v2(at(pointer as usize), 10, 0),
        result::INVALID_VALUE
    );
    ok(cuMemHostRegister_v2(at(one), 10_000, 0));
    ok(cuMemHostRegister_v2(at(other), 10, 3));
    let pages = (start + 15_010).div_ceil(4096) - one / 4096;
    assert_eq!(crate::fake::pinned_pages(), pages);
    let refused = crate::fake::REFUSED as u32;
    assert_eq!(
        cuMemHostRegister_v2(at(start + 30_000), 10, refused),
        result::STREAM_CAPTURE_UNSUPPORTED
    );
    assert_eq!(crate::fake::pinned_pages(), pages);
    assert_eq!(
        cuMemHostRegister_v2(at(one + 9_999), 10, 0),
        result::HOST_MEMORY_ALREADY_REGISTERED
    );
    let mut device = 0;
    ok(cuMemHostGetDevicePointer_v2(Out::to(&mut device), at(one + 7), 0));
    assert_eq!(device, one as u64 + 7);
    assert_eq!(
        cuMemHostGetDevicePointer_v2(Out::to(&mut device), at(start), 0),
        result::INVALID_VALUE
    );
    ok(cuMemsetD8_v2(pointer, 7, 100));
    ok(cuMemcpyDtoH_v2(at(one), pointer, 100));
    ok(cuMemsetD8_v2(one as u64 + 100, 8, 100));
    assert_eq!(
        data[4999..5201],
        [vec![9], vec![7; 100], vec![8; 100], vec![9]].concat()
    );
    assert_eq!(cuMemsetD8_v2(start as u64, 8, 100), result::INVALID_VALUE);
    assert_eq!(cuMemFreeHost(at(one)), result::INVALID_VALUE);
    assert_eq!(cuMemHostUnregister(at(one + 1)), result::INVALID_VALUE);
    ok(cuMemHostUnregister(at(one)));
    assert_eq!(crate::fake::pinned_pages(), 1);
    assert_eq!(cuMemHostUnregister(at(one)), result::HOST_MEMORY_NOT_REGISTERED);
    ok(cuMemHostUnregister(at(other)));
    assert_eq!(crate::fake::pinned_pages(), 0);
}

#[test]
fn pinned_memory_is_copied_by_address_and_in_any_direction() {
    let test = Test::start();
    let (mut pinned, mut flags) = (0usize, 0);
    ok(cuMemHostAlloc(Out::to(&mut pinned), 10_000, 1));
    assert_eq!(pinned % (2 << 20), 0);
    ok(cuMemHostGetFlags(Out::to(&mut flags), at(pinned + 5)));
    assert_eq!(flags, 3);
    let mut device = 0;
    ok(cuMemHostGetDevicePointer_v2(Out::to(&mut device), at(pinned), 0));
    assert_eq!(device, pinned as u64);
    let pointer = test.alloc(10_000);
    let mut data = vec![9u8; 10_000];
    ok(cuMemcpy(pinned as u64, data.as_mut_ptr() as u64, 10_000));
    ok(cuMemcpy(pointer, pinned as u64, 10_000));
    ok(cuMemsetD8_v2(pointer, 7, 100));
    ok(cuMemcpy(data.as_mut_ptr() as u64, pointer, 10_000));
    assert_eq!((data[99], data[100]), (7, 9));
    assert_eq!(
        cuMemcpyHtoD_v2(pointer, at(pinned), 10_001),
        result::INVALID_VALUE
    );
    ok(cuMemFreeHost(at(pinned)));
    assert_eq!(cuMemFreeHost(at(pinned)), result::INVALID_VALUE);
    assert_eq!(
        cuMemHostAlloc(Out::to(&mut pinned), 1 << 41, 0),
        result::OUT_OF_MEMORY
    );
}

#[test]
fn kernels_run_with_their_parameters_in_either_form() {
    let test = Test::start();
    let (function, nothing) = (test.function(c"fill"), test.function(c"nothing"));
    let pointer = test.alloc(4096);
    let stream = test.stream();
    ok(fill(function, stream, pointer, 11, 10));
    let mut packed = Vec::new();
    packed.extend_from_slice(&(pointer + 40).to_le_bytes());
    packed.extend_from_slice(&12u32.to_le_bytes());
    packed.extend_from_slice(&10u32.to_le_bytes());
    let size = packed.len();
    let extra = [1, packed.as_ptr() as usize, 2, &raw const size as usize, 0];
    ok(cuLaunchKernel(
        function,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream,
        In::none(),
        In::from(&extra),
    ));
    ok(cuLaunchKernel(
        nothing,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream,
        In::none(),
        In::none(),
    ));
    ok(cuStreamSynchronize(stream));
    assert_eq!(read(pointer, 20), [[11; 10], [12; 10]].concat());
    let launch =
        |block, params| cuLaunchKernel(function, 1, 1, 1, block, 1, 1, 0, stream, params, In::none());
    assert_eq!(launch(1, In::none()), result::INVALID_VALUE);
    assert_eq!(fill(nothing + 1, stream, pointer, 1, 1), result::INVALID_HANDLE);
    assert_eq!(fill(function, stream + 1, pointer, 1, 1), result::INVALID_HANDLE);
    let params = [at(0); 3];
    assert_eq!(
        launch(fake::THREADS_MAX as u32 + 1, In::from(&params)),
        result::INVALID_VALUE
    );
    ok(cuStreamDestroy_v2(stream));
    assert_eq!(fill(function, stream, pointer, 1, 1), result::INVALID_HANDLE);
}

#[test]
fn more_records_than_a_ring_holds_are_run() {
    let test = Test::start();
    let function = test.function(c"fill");
    let pointer = test.alloc(4096);
    for i in 0..20_000 {
        ok(fill(function, 0, pointer, i, 1));
    }
    assert_eq!(read(pointer, 1), [19_999]);
}

#[test]
fn a_failure_that_nobody_waited_for_is_told_once() {
    let test = Test::alone();
    let function = test.function(c"fill");
    // A kernel's first launch is waited for.
    assert_eq!(fill(function, 0, 0, 1, 1), result::ILLEGAL_ADDRESS);
    ok(fill(function, 0, test.alloc(64), 1, 1));
    ok(cuCtxSynchronize());
    ok(fill(function, 0, 0, 1, 1));
    assert_eq!(cuCtxSynchronize(), result::ILLEGAL_ADDRESS);
    ok(cuCtxSynchronize());
}

#[test]
fn events_stand_for_points_in_streams() {
    let test = Test::start();
    let (one, other) = (test.stream(), test.stream());
    let (mut start, mut end): (CUevent, CUevent) = (0, 0);
    ok(cuEventCreate(Out::to(&mut start), 0));
    ok(cuEventCreate(Out::to(&mut end), 0));
    let mut milliseconds = 0.0;
    assert_eq!(
        cuEventElapsedTime_v2(Out::to(&mut milliseconds), start, end),
        result::INVALID_HANDLE
    );
    ok(cuEventQuery(start));
    ok(cuEventRecord(start, one));
    ok(cuStreamWaitEvent(other, start, 0));
    ok(cuEventRecord(end, other));
    ok(cuEventSynchronize(end));
    ok(cuEventQuery(start));
    ok(cuEventElapsedTime_v2(Out::to(&mut milliseconds), start, end));
    assert_eq!(milliseconds, 1.5);
    ok(cuEventDestroy_v2(start));
    assert_eq!(cuEventQuery(start), result::INVALID_HANDLE);
}

/// Another thread destroys a stream that this one is about to wait for.
#[test]
fn a_stream_that_is_destroyed_is_fenced_no_more() {
    let test = Test::start();
    let call = Call::enter().unwrap();
    let handle = test.stream();
    let stream = call.stream(handle, NullStream::Legacy).unwrap();
    stream.did_submit();
    ok(cuStreamDestroy_v2(handle));
    let last = stream.last_fence();
    // What this thread has submitted meanwhile.
    stream.did_submit();
    call.finish_stream(&stream).unwrap();
    assert_eq!(stream.last_fence(), last);
}

#[test]
fn a_capture_is_replayed_and_asks_for_no_fence() {
    let test = Test::alone();
    let function = test.function(c"fill");
    let pointer = test.alloc(4096);
    let stream = test.stream();
    let mut status: c_int = 9;
    ok(fill(function, stream, pointer, 1, 1));
    ok(cuStreamBeginCapture_v2(stream, 0));
    ok(cuStreamIsCapturing(stream, Out::to(&mut status)));
    assert_eq!(status, 1);
    for i in 0..10 {
        ok(fill(function, stream, pointer + 4 * i, 5, 1));
    }
    let mut event: CUevent = 0;
    ok(cuEventCreate(Out::to(&mut event), 2));
    ok(cuEventRecord(event, stream));
    assert_eq!(cuEventQuery(event), result::CAPTURED_EVENT);
    assert_eq!(cuStreamSynchronize(stream), result::STREAM_CAPTURE_UNSUPPORTED);
    let mut pinned = 0usize;
    ok(cuMemHostAlloc(Out::to(&mut pinned), 4, 0));
    // SAFETY: memory of that size, which is never freed, and no other thread uses.
    let data = unsafe { &*(pinned as *const AtomicU32) };
    ok(cuMemcpyDtoHAsync_v2(at(pinned), pointer, 4, stream));
    ok(cuCtxSynchronize());
    assert_eq!((read(pointer, 1), data.load(Ordering::SeqCst)), (vec![1], 0));
    let (mut graph, mut exec): (CUgraph, CUgraphExec) = (0, 0);
    ok(cuStreamEndCapture(stream, Out::to(&mut graph)));
    assert_eq!(
        cuStreamEndCapture(stream, Out::to(&mut graph)),
        result::ILLEGAL_STATE
    );
    ok(cuGraphInstantiateWithFlags(Out::to(&mut exec), graph, 0));
    ok(cuGraphDestroy(graph));
    ok(cuGraphLaunch(exec, stream));
    ok(cuStreamSynchronize(stream));
    assert_eq!((read(pointer, 10), data.load(Ordering::SeqCst)), (vec![5; 10], 5));
    ok(cuGraphExecDestroy(exec));
}

#[test]
fn a_stream_joins_a_capture_through_an_event() {
    let test = Test::alone();
    let (origin, joined) = (test.stream(), test.stream());
    let mut event: CUevent = 0;
    ok(cuEventCreate(Out::to(&mut event), 2));
    ok(cuStreamBeginCapture_v2(origin, 1));
    ok(cuEventRecord(event, origin));
    ok(cuStreamWaitEvent(joined, event, 0));
    let mut status: c_int = 0;
    ok(cuStreamIsCapturing(joined, Out::to(&mut status)));
    assert_eq!(status, 1);
    let mut graph: CUgraph = 0;
    ok(cuStreamEndCapture(origin, Out::to(&mut graph)));
    ok(cuStreamIsCapturing(joined, Out::to(&mut status)));
    assert_eq!(status, 0);
}

static RUNS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count(data: *mut c_void) {
    // A host function may make no calls.
    let mut free = 0usize;
    let refused = cuMemGetInfo_v2(Out::to(&mut free), Out::none());
    RUNS.fetch_add(
        if refused == result::NOT_PERMITTED {
            data as u32
        } else {
            1000
        },
        Ordering::SeqCst,
    );
}

#[test]
fn host_functions_run_in_their_streams_order() {
    let test = Test::start();
    let stream = test.stream();
    for i in 1..=3 {
        ok(cuLaunchHostFunc(stream, Some(count), at(i)));
    }
    ok(cuStreamSynchronize(stream));
    assert_eq!(RUNS.load(Ordering::SeqCst), 6);
    assert_eq!(cuLaunchHostFunc(stream, None, at(0)), result::INVALID_VALUE);
}

static GRAPH_RUNS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count_in_graph(_: *mut c_void) {
    GRAPH_RUNS.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn host_functions_of_a_graph_go_with_it() {
    let test = Test::alone();
    let stream = test.stream();
    let (mut graph, mut exec): (CUgraph, CUgraphExec) = (0, 0);
    let registered = || crate::session::get().unwrap().host_functions.registered();
    ok(cuStreamBeginCapture_v2(stream, 0));
    ok(cuLaunchHostFunc(stream, Some(count_in_graph), at(0)));
    ok(cuStreamEndCapture(stream, Out::to(&mut graph)));
    ok(cuGraphInstantiateWithFlags(Out::to(&mut exec), graph, 0));
    ok(cuGraphDestroy(graph));
    for _ in 0..3 {
        ok(cuGraphLaunch(exec, stream));
    }
    assert_eq!(registered(), 1);
    ok(cuStreamSynchronize(stream));
    assert_eq!(GRAPH_RUNS.load(Ordering::SeqCst), 3);
    ok(cuGraphLaunch(exec, stream));
    // What is under way is still run.
    ok(cuGraphExecDestroy(exec));
    ok(cuStreamSynchronize(stream));
    assert_eq!(GRAPH_RUNS.load(Ordering::SeqCst), 4);
    // A capture that makes no graph keeps nothing; looking at one that is gone lets the others go.
    ok(cuStreamBeginCapture_v2(stream, 0));
    ok(cuLaunchHostFunc(stream, Some(count_in_graph), at(0)));
    ok(cuStreamEndCapture(stream, Out::to(&mut graph)));
    ok(cuGraphInstantiateWithFlags(Out::to(&mut exec), graph, 0));
    ok(cuGraphExecDestroy(exec));
    ok(cuGraphDestroy(graph));
    assert_eq!(registered(), 0);
}

#[test]
fn what_another_thread_did_before_comes_before() {
    let test = Test::start();
    let function = test.function(c"fill");
    let pointer = test.alloc(4096);
    for round in 0..200u32 {
        // Created and used in one thread, used in another, without a word to the host in between.
        let stream = test.stream();
        ok(fill(function, stream, pointer, round, 1));
        let context = test.context;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                ok(cuCtxSetCurrent(context));
                ok(fill(function, stream, pointer + 4, round, 1));
                ok(cuStreamSynchronize(stream));
                assert_eq!(read(pointer, 2), [round; 2]);
                ok(cuStreamDestroy_v2(stream));
            });
        });
    }
}

#[test]
fn more_threads_than_rings_share() {
    let test = Test::start();
    let function = test.function(c"fill");
    let pointer = test.alloc(4096);
    let context = test.context;
    let barrier = std::sync::Barrier::new(80);
    std::thread::scope(|scope| {
        for i in 0..80u32 {
            let barrier = &barrier;
            scope.spawn(move || {
                ok(cuCtxSetCurrent(context));
                for _ in 0..20 {
                    ok(fill(
                        function,
                        abi::CU_STREAM_PER_THREAD,
                        pointer + 4 * u64::from(i),
                        i,
                        1,
                    ));
                }
                // All threads hold their rings now.
                barrier.wait();
                ok(cuStreamSynchronize_ptsz(0));
            });
        }
    });
    ok(cuCtxSynchronize());
    assert_eq!(read(pointer, 80), (0..80).collect::<Vec<_>>());
}

#[test]
fn nothing_is_asked_of_the_host_when_nothing_was_submitted() {
    let test = Test::alone();
    let stream = test.stream();
    let function = test.function(c"nothing");
    let session = crate::session::get().expect("open");
    let id = session.contexts.get(test.context).expect("a context").id;
    let count = |wanted| {
        fake::log()
            .iter()
            .filter(|&&(context, op)| context == id && op == wanted)
            .count()
    };
    let fences = || count(op::FENCE);
    ok(cuCtxSynchronize());
    ok(cuStreamSynchronize(stream));
    let (before, launches) = (fences(), count(calls::cuLaunchKernel::OP));
    ok(cuCtxSynchronize());
    ok(cuStreamQuery(stream));
    assert_eq!(fences(), before);
    for _ in 0..100 {
        ok(cuLaunchKernel(
            function,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            stream,
            In::none(),
            In::none(),
        ));
    }
    ok(cuStreamSynchronize(stream));
    assert_eq!(fences(), before + 1);
    ok(cuCtxSynchronize());
    assert_eq!(fences(), before + 1);
    assert_eq!(count(calls::cuLaunchKernel::OP), launches + 100);
}

#[test]
fn contexts_are_a_stack_per_thread() {
    let test = Test::start();
    let (mut current, mut popped, mut device) = (0, 0, 9);
    ok(cuCtxGetCurrent(Out::to(&mut current)));
    assert_eq!(current, test.context);
    let mut second = 0;
    ok(cuCtxCreate_v2(Out::to(&mut second), 0, 0));
    ok(cuCtxGetDevice(Out::to(&mut device)));
    assert_eq!(device, 0);
    ok(cuCtxPopCurrent_v2(Out::to(&mut popped)));
    assert_eq!(popped, second);
    let stream = test.stream();
    ok(cuCtxPushCurrent_v2(second));
    assert_eq!(
        cuLaunchKernel(1, 1, 1, 1, 1, 1, 1, 0, stream, In::none(), In::none()),
        result::INVALID_HANDLE
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut none = 7;
            ok(cuCtxGetCurrent(Out::to(&mut none)));
            assert_eq!(none, 0);
            assert_eq!(cuCtxSynchronize(), result::INVALID_CONTEXT);
            ok(cuCtxSetCurrent(second));
            ok(cuCtxDestroy_v2(second));
        });
    });
    assert_eq!(cuCtxSynchronize(), result::CONTEXT_IS_DESTROYED);
    assert_eq!(cuCtxSetCurrent(second), result::INVALID_CONTEXT);
    ok(cuCtxPopCurrent_v2(Out::none()));
    assert_eq!(cuCtxCreate_v2(Out::to(&mut second), 0, 1), result::INVALID_DEVICE);
}

#[test]
fn devices_are_described_without_asking() {
    let _test = Test::start();
    let mut name = [0; 8];
    let mut name_place = name[0];
    ok(cuDeviceGetName(Out::to(&mut name_place), 1, 0));
    assert_eq!(name_place, 0);
    // SAFETY: the place of the first element of an array of the length that is passed.
    let place: Out<std::ffi::c_char> = unsafe { std::mem::transmute(name.as_mut_ptr()) };
    assert_eq!(cuDeviceGetPCIBusId(place, 8, 0), result::INVALID_VALUE);
    assert_eq!(name.map(|c| c as u8), *b"0000:17\0");
    let (mut value, mut bytes, mut device, mut version) = (5, 0, 5, 0);
    ok(cuDeviceGetAttribute(Out::to(&mut value), 75, 0));
    assert_eq!(value, 9);
    ok(cuDeviceGetAttribute(Out::to(&mut value), 115, 0));
    let pools = calls::find_name("cuMemAllocAsync").expect("a row").mode != calls::Mode::None;
    assert_eq!(value, i32::from(pools));
    assert_eq!(
        cuDeviceGetAttribute(Out::to(&mut value), 20, 0),
        result::INVALID_VALUE
    );
    ok(cuDeviceTotalMem_v2(Out::to(&mut bytes), 0));
    assert_eq!(bytes, 256 << 20);
    ok(cuDeviceGetByPCIBusId(Out::to(&mut device), text(c"17:00.0")));
    assert_eq!(device, 0);
    ok(cuDriverGetVersion(Out::to(&mut version)));
    assert_eq!(version, 12080);
}

#[test]
fn a_bad_image_and_an_unknown_name_are_refused() {
    let _test = Test::start();
    let (mut module, mut function) = (0, 0);
    assert_eq!(
        cuModuleLoadData(Out::to(&mut module), at(c"not ptx".as_ptr() as usize)),
        result::INVALID_IMAGE
    );
    assert_eq!(
        cuModuleLoad(Out::to(&mut module), text(c"/nowhere")),
        result::FILE_NOT_FOUND
    );
    ok(cuModuleLoadData(
        Out::to(&mut module),
        at(c".version 7.8".as_ptr() as usize),
    ));
    assert_eq!(
        cuModuleGetFunction(Out::to(&mut function), module, text(c"none")),
        result::NOT_FOUND
    );
    ok(cuModuleGetFunction(Out::to(&mut function), module, text(c"fill")));
    let mut value = 0;
    ok(cuFuncGetAttribute(Out::to(&mut value), 3, function));
    assert_eq!(value, 4);
    ok(cuModuleUnload(module));
    assert_eq!(
        cuModuleGetFunction(Out::to(&mut function), module, text(c"fill")),
        result::INVALID_HANDLE
    );
    assert_eq!(
        cuFuncGetAttribute(Out::to(&mut value), 3, function),
        result::INVALID_HANDLE
    );
}

#[test]
fn results_have_names() {
    let mut name = std::ptr::null();
    ok(cuGetErrorName(700, Out::to(&mut name)));
    // SAFETY: the library gave a C string.
    let said = unsafe { std::ffi::CStr::from_ptr(name) };
    assert_eq!(said, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(cuGetErrorName(-5, Out::to(&mut name)), result::INVALID_VALUE);
    assert!(name.is_null());
    assert_eq!(cuGetErrorName(700, Out::none()), result::INVALID_VALUE);
}

#[test]
fn entry_points_are_found_by_name_and_version() {
    let (mut function, mut status) = (1, 9);
    let find = |name, version, flags, function: &mut usize, status: &mut c_int| {
        cuGetProcAddress_v2(name, Out::to(function), version, flags, Out::to(status))
    };
    ok(find(text(c"cuMemAlloc"), 13000, 0, &mut function, &mut status));
    assert_eq!((function, status), (cuMemAlloc_v2 as *const () as usize, 0));
    ok(find(text(c"cuMemAlloc"), 2000, 0, &mut function, &mut status));
    assert_eq!((function, status), (0, 2));
    ok(find(text(c"cuFly"), 13000, 0, &mut function, &mut status));
    assert_eq!(status, 1);
    ok(find(
        text(c"cuGetProcAddress"),
        13000,
        2,
        &mut function,
        &mut status,
    ));
    assert_eq!(function, cuGetProcAddress_v2 as *const () as usize);
    assert_eq!(
        find(text(c"cuInit"), 13000, 4, &mut function, &mut status),
        result::INVALID_VALUE
    );
}

#[test]
fn blocks_are_used_again_and_never_overlap() {
    let _test = Test::alone();
    let session = crate::session::Call::enter().unwrap().session;
    let sizes = [1, 5000, 4096, 1 << 20, (1 << 20) + 1, 100_000, 1];
    let mut taken = sizes.map(|bytes| session.take_block(bytes).unwrap());
    assert!(taken.iter().zip(sizes).all(|(block, bytes)| block.len >= bytes));
    taken.sort_by_key(|block| block.addr);
    assert!(
        taken
            .windows(2)
            .all(|two| two[0].addr + two[0].len <= two[1].addr)
    );
    let one = session.take_block(70_000).unwrap();
    session.give_block(one);
    assert_eq!(session.take_block(65_537).unwrap(), one);
}

/// In a process of its own, since a test's fork has only the forking thread.
#[test]
fn a_forked_child_has_no_session() {
    let _test = Test::start();
    // SAFETY: the child only makes calls that take no lock another thread may hold: each ends at the first check.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = cuCtxSynchronize() == result::NOT_INITIALIZED && cuInit(0) == result::NOT_INITIALIZED;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    ok(cuCtxSynchronize());
}

/// A thread that waits for room in its ring learns that the host has died. In a process of its own, whose session ends by that;
/// it is killed if it hangs.
#[test]
fn a_full_ring_of_a_dead_host_is_told() {
    const ITSELF: &str = "VGPU_TEST_DEAD_HOST";
    if std::env::var_os(ITSELF).is_none() {
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "api::tests::a_full_ring_of_a_dead_host_is_told"])
            .env(ITSELF, "")
            .output()
            .unwrap();
        assert!(ended.status.success(), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // SAFETY: it only has a signal sent, whose default is to end this process.
    unsafe { libc::alarm(60) };
    let test = Test::start();
    let pointer = test.alloc(4);
    ok(cuCtxSynchronize());
    fake::die();
    let told = std::iter::repeat_with(|| cuMemsetD8Async(pointer, 0, 4, 0))
        .find(|&result| result != result::SUCCESS);
    assert_eq!(told, Some(result::UNKNOWN));
    assert_eq!(cuCtxSynchronize(), result::UNKNOWN);
    // Its context cannot be destroyed any more.
    std::mem::forget(test);
}

/// Whoever looks or tries finds that there is no memory of the host's by handle, whatever the host's driver has.
#[test]
fn memory_of_the_host_is_not_offered_by_handle() {
    let _test = Test::start();
    let mut offered = -1;
    ok(cuDeviceGetAttribute(
        Out::to(&mut offered),
        fake::HOST_MEMORY as c_int,
        0,
    ));
    assert_eq!(offered, 0);
    for kind in [Location::HOST, *Location::HOST_NUMA.start()] {
        let props = AllocationProps::new(Location { kind, id: 0 }, 0, 0, 0, HANDLE_TYPE_FILE);
        // SAFETY: what it points to lives longer.
        let props = unsafe { In::new(&raw const props as usize) };
        let created = cuMemCreate(Out::to(&mut 0), 2 << 20, props, 0);
        assert_eq!(created, result::NOT_SUPPORTED);
    }
}
