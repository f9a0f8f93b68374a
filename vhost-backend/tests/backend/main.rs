//! The real `vgpu-backend` between a real front end (the guest library's socket transport, or a small VMM) and,
//! in the place of `vgpud` and `vgpu-exec`, stand-ins that do what a test tells them.
//!
//! This program is also the executor that the backend starts: see [`executor`].

mod executor;
mod guest;
mod host;
mod scheduler;
mod tests;
#[path = "../../../guest-driver/libcuda/src/transport/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the tests use only the transport over a socket"
)]
mod transport;
mod vmm;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::env::var_os(executor::MARK).is_some() {
        return executor::run();
    }
    if let Some(socket) = std::env::var_os(guest::MARK) {
        return guest::run(socket.as_ref());
    }
    let trials = tests::ALL
        .iter()
        .map(|&(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
