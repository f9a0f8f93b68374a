//! Copies of bytes from and to arrays.

use super::abi::{CUarray, CUdeviceptr, CUstream, DefaultStream, stream_api};
use super::error::{self, Result};
use super::rows::{Copy3D, Side3D, copy, of};

/// `CU_MEMORYTYPE_HOST`, `_DEVICE` and `_ARRAY`
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;

fn array(array: CUarray, x: usize) -> Side3D {
    Side3D {
        memory: ARRAY,
        array,
        x,
        ..Side3D::default()
    }
}

fn device(device: CUdeviceptr) -> Side3D {
    Side3D {
        memory: DEVICE,
        device,
        ..Side3D::default()
    }
}

fn host(host: u64) -> Side3D {
    Side3D {
        memory: HOST,
        host,
        ..Side3D::default()
    }
}

fn bytes(to: Side3D, from: Side3D, width: usize, handle: Option<CUstream>, default: DefaultStream) -> Result {
    let (stream, sync) = of(handle, default)?;
    if [&to, &from]
        .iter()
        .any(|side| side.memory == ARRAY && side.array == 0)
    {
        return Err(error::INVALID_VALUE);
    }
    let whole = Copy3D {
        from,
        to,
        width,
        height: 1,
        depth: 1,
    };
    copy(&stream, whole, sync)
}

stream_api! { SYMBOLS, default;
    fn cuMemcpyAtoA_v2 | cuMemcpyAtoA_v2_ptds(to: CUarray, at: usize, from: CUarray, from_at: usize, len: usize) {
        bytes(array(to, at), array(from, from_at), len, None, default)
    }

    fn cuMemcpyAtoD_v2 | cuMemcpyAtoD_v2_ptds(to: CUdeviceptr, from: CUarray, at: usize, len: usize) {
        bytes(device(to), array(from, at), len, None, default)
    }

    fn cuMemcpyDtoA_v2 | cuMemcpyDtoA_v2_ptds(to: CUarray, at: usize, from: CUdeviceptr, len: usize) {
        bytes(array(to, at), device(from), len, None, default)
    }

    fn cuMemcpyAtoH_v2 | cuMemcpyAtoH_v2_ptds(to: u64, from: CUarray, at: usize, len: usize) {
        bytes(host(to), array(from, at), len, None, default)
    }

    fn cuMemcpyHtoA_v2 | cuMemcpyHtoA_v2_ptds(to: CUarray, at: usize, from: u64, len: usize) {
        bytes(array(to, at), host(from), len, None, default)
    }

    fn cuMemcpyAtoHAsync_v2 | cuMemcpyAtoHAsync_v2_ptsz(to: u64, from: CUarray, at: usize, len: usize, handle: CUstream) {
        bytes(host(to), array(from, at), len, Some(handle), default)
    }

    fn cuMemcpyHtoAAsync_v2 | cuMemcpyHtoAAsync_v2_ptsz(to: CUarray, at: usize, from: u64, len: usize, handle: CUstream) {
        bytes(array(to, at), host(from), len, Some(handle), default)
    }
}
