//! Gives the shared library the name programs look for, and keeps it loaded: worker threads may
//! still run when somebody calls `dlclose`, and NVIDIA's library stays loaded as well.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
