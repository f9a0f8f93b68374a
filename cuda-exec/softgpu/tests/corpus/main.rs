//! The kernels of `tests/kernels`, as each compiler emits them: every one must give what the same computation
//! gives here.

mod arithmetic;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod functions;
mod integers;
mod memory;
mod threads;

use common::*;
use std::ffi::CString;
use std::path::PathBuf;

/// The folders of `tests/kernels/ptx`.
const COMPILERS: [&str; 5] = ["nvcc", "nvcc-debug", "nvrtc", "clang-O0", "clang-O3"];

/// The PTX that a compiler made of a source.
fn ptx(compiler: &str, source: &str) -> String {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kernels/ptx"));
    let path = root.join(compiler).join(source).with_extension("ptx");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One kernel, as one compiler made it.
struct Kernel(u64);

impl Kernel {
    /// Runs it, and waits for its end.
    #[track_caller]
    fn run(&self, grid: impl Into<Dim>, block: impl Into<Dim>, shared: u32, args: &[&dyn Arg]) {
        launch(self.0, grid.into().0, block.into().0, shared, 0, args);
        ok(softgpu_cuda::driver::context::cuCtxSynchronize());
    }
}

/// One to three dimensions.
struct Dim([u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Dim {
        Dim([x, 1, 1])
    }
}

impl From<[u32; 3]> for Dim {
    fn from(all: [u32; 3]) -> Dim {
        Dim(all)
    }
}

/// Checks a kernel as each compiler made it. Which one it is stands in the output of a test that fails.
fn each(source: &str, name: &str, check: impl Fn(Kernel)) {
    each_of(&COMPILERS, source, name, check);
}

/// The same for some of the compilers.
fn each_of(compilers: &[&str], source: &str, name: &str, check: impl Fn(Kernel)) {
    let kernel = |module| Kernel(function(module, &CString::new(name).unwrap()));
    each_module(compilers, source, |module| check(kernel(module)));
}

/// The same for a whole module.
fn each_module(compilers: &[&str], source: &str, check: impl Fn(u64)) {
    let _ctx = Ctx::new();
    for compiler in compilers {
        println!("{source} by {compiler}");
        check(load(&ptx(compiler, source)));
    }
}

/// Numbers that look random and are always the same.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Integers of all magnitudes below 2^`bits`, with either sign.
fn spread(seed: u64, bits: u32, count: usize) -> Vec<i64> {
    let wide = numbers(seed).map(move |n| {
        let magnitude = (n >> 1) >> (64 - bits + (n % u64::from(bits)) as u32).min(63);
        if n & 1 << 8 == 0 {
            magnitude as i64
        } else {
            -(magnitude as i64)
        }
    });
    wide.take(count).collect()
}

/// Every source is there for every compiler, and loads.
#[test]
fn all_of_them_load() {
    let sources = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kernels"));
    let mut count = 0;
    for entry in std::fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "cu") {
            let source = path.file_stem().unwrap().to_str().unwrap().to_owned();
            each_module(&COMPILERS, &source, |module| assert_ne!(module, 0));
            count += 1;
        }
    }
    assert!(count >= 15);
}
