//! Gives the library its name, and keeps it loaded.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // Its threads and its per-thread destructors outlive a dlclose; the session ends with the process.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
