//! One executor on the software GPU, as its backend, its guest and vgpud see it.
mod support;

use support::*;
use vgpu_protocol::calls::*;
use vgpu_protocol::host::ExecKind;
use vgpu_protocol::result;
use vgpu_protocol::ring::{GpuInfo, RecordHeader, op};
use vgpu_protocol::virtio::Status;
use vgpu_protocol::words::{KernelParam, handle::STREAM_LEGACY};
use vgpu_sched_api::messages::FromExec;
use vgpu_sched_api::turn::State;
use zerocopy::{FromBytes, IntoBytes};

const KERNELS: &str = include_str!("kernels.ptx");
const N: usize = 1000;

/// Loads [`KERNELS`] as module 1 through plain guest memory.
fn load(exec: &mut Exec) {
    exec.memory.write(PLAIN.start, KERNELS.as_bytes());
    let image = cuModuleLoadData::In {
        image: WINDOW + PLAIN.start,
        bytes: KERNELS.len() as u64,
        module: 1,
    };
    exec.get::<cuModuleLoadData::Call>(image, &[]).unwrap();
}

/// Names a kernel of module 1; its parameters.
fn function(exec: &mut Exec, name: &str, function: u32) -> Vec<KernelParam> {
    let wanted = cuModuleGetFunction::In { module: 1, function };
    let (found, blob) = exec
        .get::<cuModuleGetFunction::Call>(wanted, name.as_bytes())
        .unwrap();
    let params = <[KernelParam]>::ref_from_bytes(&blob).unwrap().to_vec();
    assert_eq!(params.len(), found.params as usize);
    params
}

fn alloc(exec: &mut Exec, bytes: u64) -> u64 {
    exec.get::<cuMemAlloc::Call>(cuMemAlloc::In { bytes }, &[])
        .unwrap()
        .0
        .pointer
}

fn launch(function: u32, blocks: u32, stream: u64) -> cuLaunchKernel::In {
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
