//! libcuda's `ioctl` calls bind to this program's own only if it is in the dynamic symbol table.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol=ioctl");
}
