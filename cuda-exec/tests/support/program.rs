//! What a guest's program does in these tests: its kernels, and calls that several tests make.
use super::*;
use vgpu_protocol::area;
use vgpu_protocol::calls::*;
use vgpu_protocol::limits::HOST_FUNCTIONS_MAX;
use vgpu_protocol::words::KernelParam;

pub const KERNELS: &str = include_str!("../kernels.ptx");

/// Loads [`KERNELS`] as module 1 through plain guest memory.
pub fn load(exec: &mut Exec) {
    exec.memory.write(PLAIN.start, KERNELS.as_bytes());
    let image = cuModuleLoadData::In {
        image: WINDOW + PLAIN.start,
        bytes: KERNELS.len() as u64,
        module: 1,
    };
    exec.get::<cuModuleLoadData::Call>(image, &[]).unwrap();
}

/// Names a kernel of module 1; its parameters.
pub fn function(exec: &mut Exec, name: &str, function: u32) -> Vec<KernelParam> {
    let wanted = cuModuleGetFunction::In { module: 1, function };
    let (found, blob) = exec
        .get::<cuModuleGetFunction::Call>(wanted, name.as_bytes())
        .unwrap();
    let params: Vec<_> = blob
        .chunks_exact(8)
        .map(|param| KernelParam::read_from_bytes(param).unwrap())
        .collect();
    assert_eq!(params.len(), found.params as usize);
    params
}

pub fn alloc(exec: &mut Exec, bytes: u64) -> u64 {
    exec.get::<cuMemAlloc::Call>(cuMemAlloc::In { bytes }, &[])
        .unwrap()
        .0
        .pointer
}

pub fn launch(function: u32, blocks: u32, stream: u64) -> cuLaunchKernel::In {
    cuLaunchKernel::In {
        function,
        grid_x: blocks,
        grid_y: 1,
        grid_z: 1,
        block_x: 128,
        block_y: 1,
        block_z: 1,
        shared: 0,
        stream,
    }
}

/// A counter in pinned memory, and a kernel that adds 1 to it for each of 128 threads, as function 2.
pub fn counter(exec: &mut Exec) -> u64 {
    function(exec, "bump", 2);
    exec.memory.u32(PINNED.start).store(0, SeqCst);
    WINDOW + PINNED.start
}

pub fn bump(exec: &mut Exec, ring: u32, stream: u64, word: u64) {
    exec.call_on::<cuLaunchKernel::Call>(ring, launch(2, 1, stream), &word.to_le_bytes());
}

/// Starts a session with a context, the kernels and the turn.
pub fn ready() -> Exec {
    let mut exec = Exec::start();
    make_ready(&mut exec, None);
    exec
}

/// The same for a session that was started, with a place in a VM page.
pub fn make_ready(exec: &mut Exec, vm: Option<(&SharedPage, u32)>) {
    exec.connect_with(vm);
    exec.context();
    load(exec);
    exec.grant();
}

/// Two executors of one VM, with its page.
pub fn two_of_a_vm() -> (SharedPage, Exec, Exec) {
    let page = SharedPage::new();
    let mut one = Exec::start();
    let mut two = Exec::start_beside(&one);
    make_ready(&mut one, Some((&page, 0)));
    make_ready(&mut two, Some((&page, 1)));
    (page, one, two)
}

/// A kernel that runs until word 64 of the pinned memory is set, as function 3; it counts in the word behind.
pub fn endless(exec: &mut Exec, stream: u64) {
    exec.memory.u32(PINNED.start + 64).store(0, SeqCst);
    exec.memory.u32(PINNED.start + 68).store(0, SeqCst);
    function(exec, "wait", 3);
    let mut spin = launch(3, 1, stream);
    spin.block_x = 1;
    let flag = WINDOW + PINNED.start + 64;
    exec.call::<cuLaunchKernel::Call>(spin, &flag.to_le_bytes());
    wait_until("the kernel", || {
        exec.memory.u32(PINNED.start + 68).load(SeqCst) > 0
    });
}

/// Ends it.
pub fn end_endless(exec: &Exec) {
    exec.memory.u32(PINNED.start + 64).store(1, SeqCst);
}

/// Limits the operations in flight over all streams, and waits until that is so.
pub fn set_depth(exec: &Exec, depth: u32) {
    exec.order(&ToExec::Window {
        operations: 64,
        depth: Some(depth),
    });
    exec.orders_are_done();
}

/// Creates streams that nothing but their own work holds up.
pub fn streams(exec: &mut Exec, streams: std::ops::Range<u32>) {
    for stream in streams {
        let create = cuStreamCreate::In {
            stream,
            flags: 1,
            priority: 0,
        };
        exec.call::<cuStreamCreate::Call>(create, &[]);
    }
}

/// Waits until a host function is posted; where its slot lies.
pub fn posted(exec: &Exec) -> u64 {
    wait_for("a host function", || {
        (0..HOST_FUNCTIONS_MAX)
            .map(area::host_function)
            .find(|slot| exec.memory.u32(slot + 8).load(SeqCst) == area::HOST_FN_POSTED)
    })
}

/// Free memory and memory of the GPU, as the program sees it.
pub fn memory_info(exec: &mut Exec) -> (u64, u64) {
    let (info, _) = exec.get::<cuMemGetInfo::Call>(cuMemGetInfo::In {}, &[]).unwrap();
    (info.free, info.total)
}

/// Every rung is proved on the software GPU.
pub fn assert_proved(message: &FromExec) {
    let FromExec::Proved {
        slices: true,
        stop: true,
        stop_us,
        resume_us,
        suspend: true,
    } = message
    else {
        panic!("{message:?}");
    };
    assert!(*stop_us < 60_000_000 && *resume_us < 60_000_000);
}

pub fn proved(exec: &Exec) -> FromExec {
    loop {
        match exec.hear() {
            FromExec::Want => {}
            other => return other,
        }
    }
}
