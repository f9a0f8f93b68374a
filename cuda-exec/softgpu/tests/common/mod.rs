//! Helpers over the raw functions.
#![allow(dead_code)]

use softgpu_cuda::driver::abi::*;
use softgpu_cuda::driver::{
    context::*, event::*, launch::*, memory::*, module::*, runtime::*, stream::*, transfer::*,
};
use std::ffi::{CStr, CString, c_void};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};
use tempfile::TempDir;

/// Kernels that the tests use.
pub const PTX: &str = include_str!("../kernels.ptx");

/// Panics unless a call succeeded.
#[track_caller]
pub fn ok(code: i32) {
    assert_eq!(code, 0, "CUDA error {code}");
}

/// Initialises the driver, on a device which only this process and its children share.
pub fn init() {
    static ONCE: Once = Once::new();
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    ONCE.call_once(|| {
        if std::env::var_os("VGPU_SOFTGPU_DIR").is_none() {
            let directory = DIRECTORY.get_or_init(|| TempDir::new().unwrap());
            // SAFETY: the tests read the environment only through the standard library, which locks.
            unsafe { std::env::set_var("VGPU_SOFTGPU_DIR", directory.path()) };
        }
        ok(cuInit(0));
    });
}

/// Runs `body` in a process of its own: the test binary again, with this one test. `name` must be that of
/// the test.
pub fn in_child(name: &str, body: impl FnOnce()) {
    if std::env::var("SOFTGPU_TEST_CHILD").is_ok_and(|v| v == name) {
        return body();
    }
    let directory = TempDir::new().unwrap();
    succeed(child(name, name).env("VGPU_SOFTGPU_DIR", directory.path()));
}

/// Runs a child to its end; shows what it said if it failed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&text)
    );
}

/// The command that runs test `test` as the process `role`.
pub fn child(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTGPU_TEST_CHILD", role);
    command
}

/// The role of this process, if it is such a child.
pub fn role() -> Option<String> {
    std::env::var("SOFTGPU_TEST_CHILD").ok()
}

/// A child that is killed when the test ends.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A context, current while this lives.
pub struct Ctx(pub u64);

impl Ctx {
    pub fn new() -> Ctx {
        init();
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

pub fn try_load(ptx: &str) -> Result<u64, i32> {
    let image = CString::new(ptx).unwrap();
    let mut module = 0;
    match cuModuleLoadData(Out(&mut module), image.as_ptr().cast()) {
        0 => Ok(module),
        code => Err(code),
    }
}

pub fn load(ptx: &str) -> u64 {
    try_load(ptx).unwrap()
}

pub fn function(module: u64, name: &CStr) -> u64 {
    let mut f = 0;
    ok(cuModuleGetFunction(Out(&mut f), module, Text(name.as_ptr())));
    f
}

/// A kernel of the tests.
pub fn kernel(name: &CStr) -> u64 {
    function(load(PTX), name)
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

/// One thread.
#[track_caller]
pub fn launch1(f: u64, stream: u64, args: &[&dyn Arg]) {
    launch(f, [1; 3], [1; 3], 0, stream, args);
}

#[track_caller]
pub fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    ok(cuMemAlloc_v2(Out(&mut address), bytes));
    address
}

/// Zeros on the device.
#[track_caller]
pub fn zeros(bytes: usize) -> u64 {
    let address = alloc(bytes);
    ok(cuMemsetD8_v2(address, 0, bytes));
    ok(cuCtxSynchronize());
    address
}

pub fn upload<T: Copy>(data: &[T]) -> u64 {
    let address = alloc(size_of_val(data));
    ok(cuMemcpyHtoD_v2(address, data.as_ptr() as u64, size_of_val(data)));
    address
}

#[track_caller]
pub fn download<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut data = vec![T::default(); count];
    ok(cuMemcpyDtoH_v2(
        data.as_mut_ptr() as u64,
        address,
        size_of_val(&data[..]),
    ));
    data
}

pub fn stream(flags: u32) -> u64 {
    let mut handle = 0;
    ok(cuStreamCreate(Out(&mut handle), flags));
    handle
}

pub const BLOCKING: u32 = 0;
pub const NON_BLOCKING: u32 = 1;

pub fn event() -> u64 {
    let mut handle = 0;
    ok(cuEventCreate(Out(&mut handle), 0));
    handle
}

/// Pinned memory of 512 words, seen by host, kernels and streams.
pub struct Pinned(pub u64);

impl Pinned {
    pub fn new() -> Pinned {
        let mut address = 0;
        ok(cuMemHostAlloc(Out(&mut address), 4096, 2));
        Pinned(address)
    }

    pub fn at(&self, index: usize) -> u64 {
        assert!(index < 512);
        self.0 + index as u64 * 8
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: pinned memory of that size, freed only with its context, which outlives this.
        unsafe { AtomicU64::from_ptr(self.at(index) as *mut u64) }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Waits until a word has a value.
    pub fn wait(&self, index: usize, value: u64) {
        while self.get(index) != value {
            std::thread::yield_now();
        }
    }
}

pub type Callback = extern "C" fn(*mut c_void);
