//! Helpers over the raw functions.
#![allow(dead_code)]

use softgpu_cuda::driver::abi::*;
use softgpu_cuda::driver::{context::*, launch::*, memory::*, module::*, runtime::*, transfer::*};
use std::ffi::{CStr, CString, c_void};
use std::sync::Mutex;

/// Kernels that the tests use.
pub const PTX: &str = include_str!("../kernels.ptx");

/// Panics unless a call succeeded.
#[track_caller]
pub fn ok(code: i32) {
    assert_eq!(code, 0, "CUDA error {code}");
}

/// A context, current while this lives.
pub struct Ctx(pub u64);

impl Ctx {
    pub fn new() -> Ctx {
        ok(cuInit(0));
        let mut handle = 0;
        ok(cuCtxCreate_v2(Out(&mut handle), 0, 0));
        Ctx(handle)
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        cuCtxDestroy_v2(self.0);
    }
}

pub fn load(ptx: &str) -> u64 {
    let image = CString::new(ptx).unwrap();
    let mut module = 0;
    ok(cuModuleLoadData(Out(&mut module), image.as_ptr().cast()));
    module
}

pub fn function(module: u64, name: &CStr) -> u64 {
    let mut f = 0;
    ok(cuModuleGetFunction(Out(&mut f), module, Text(name.as_ptr())));
    f
}

/// A kernel argument.
pub trait Arg {
    fn pointer(&self) -> *const u8;
}

impl<T: Copy> Arg for T {
    fn pointer(&self) -> *const u8 {
        (self as *const T).cast()
    }
}

pub fn try_launch(
    f: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    args: &[&dyn Arg],
) -> i32 {
    let pointers: Vec<*const u8> = args.iter().map(|a| (**a).pointer()).collect();
    let [gx, gy, gz] = grid;
    let [bx, by, bz] = block;
    let params = In(pointers.as_ptr());
    cuLaunchKernel(
        f,
        gx,
        gy,
        gz,
        bx,
        by,
        bz,
        shared,
        stream,
        params,
        In(std::ptr::null()),
    )
}

#[track_caller]
pub fn launch(f: u64, grid: [u32; 3], block: [u32; 3], shared: u32, stream: u64, args: &[&dyn Arg]) {
    ok(try_launch(f, grid, block, shared, stream, args));
}

#[track_caller]
pub fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    ok(cuMemAlloc_v2(Out(&mut address), bytes));
    address
}

pub fn upload<T: Copy>(data: &[T]) -> u64 {
    let address = alloc(size_of_val(data));
    ok(cuMemcpyHtoD_v2(address, data.as_ptr() as u64, size_of_val(data)));
    address
}

pub fn download<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut data = vec![T::default(); count];
    ok(cuMemcpyDtoH_v2(
        data.as_mut_ptr() as u64,
        address,
        size_of_val(&data[..]),
    ));
    data
}

/// Tests that stop kernels of the whole process do not run beside others.
pub static WHOLE_PROCESS: Mutex<()> = Mutex::new(());

pub type Callback = extern "C" fn(*mut c_void);
