//! The real `vgpu-backend` between a real front end (the guest library's socket transport, or a small VMM) and,
//! in the place of `vgpud` and `vgpu-exec`, stand-ins that do what a test tells them.
//!
//! This program is also the executor that the backend starts, and a guest process that can be killed: which one it is
//! is decided before the tests' own `main`.

mod executor;
mod guest;
mod host;
mod scheduler;
mod stops;
mod tests;
mod vmm;

/// Run by the C library before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    if std::env::var_os(executor::MARK).is_some() {
        executor::run();
        std::process::exit(0);
    }
    if let Some(socket) = std::env::var_os(guest::MARK) {
        guest::run(socket.as_ref());
        std::process::exit(0);
    }
}
