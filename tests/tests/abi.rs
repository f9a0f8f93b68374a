//! The guest's library exports what NVIDIA's does.
use vgpu_vm::Artifacts;

/// The functions that libcuda.so.1 of driver 580.159 exports, without the debugger's.
const SYMBOLS: &str = include_str!("abi-580.159.txt");

#[test]
fn every_abi_symbol_is_exported() {
    let library = Artifacts::from_env().guest_lib_dir().join("libcuda.so.1");
    // SAFETY: the library is ours; loading it runs no initialiser that touches anything but itself.
    let library = unsafe { libloading::Library::new(&library) }.unwrap();
    let missing: Vec<_> = SYMBOLS
        .lines()
        .filter(|name| {
            // SAFETY: the symbol is looked up, not called.
            unsafe { library.get::<*const ()>(name.as_bytes()) }.is_err()
        })
        .collect();
    assert!(SYMBOLS.lines().count() > 600);
    assert!(missing.is_empty(), "not exported: {missing:?}");
}
