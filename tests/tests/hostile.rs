//! Hostile guests on the whole path: nothing that one writes hurts the backend, the executor's own memory, or anybody else.
//! `VGPU_HOSTILE_SEED` and `VGPU_HOSTILE_CASES` (random cases for each call) have them try other things, and more.
use std::sync::{Mutex, MutexGuard, PoisonError};

use vgpu_tests::Gpu;
use vgpu_tests::hostile::beside;
use vgpu_vm::Artifacts;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text}: expected a number")),
        Err(_) => default,
    }
}

/// Seed, and random cases of each call; shown if the test fails.
fn settings() -> (u64, usize) {
    let (seed, cases) = (setting("VGPU_HOSTILE_SEED", 1), setting("VGPU_HOSTILE_CASES", 20));
    println!("VGPU_HOSTILE_SEED={seed} VGPU_HOSTILE_CASES={cases}");
    (seed, cases as usize)
}

/// Each of them has the machine for itself: they start thousands of processes, and honest guests beside them must get on in time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hold(outcome: anyhow::Result<String>) {
    println!("{}", outcome.unwrap_or_else(|error| panic!("{error:?}")));
}

#[test]
fn arguments_that_are_not_the_guests_are_refused_for_every_call() {
    let _alone = alone();
    let (seed, cases) = settings();
    hold(beside::arguments(
        &Artifacts::from_env(),
        Gpu::Software,
        seed,
        cases,
    ));
}

#[test]
fn records_that_break_a_rule_end_the_session_for_every_call() {
    let _alone = alone();
    hold(beside::records(&Artifacts::from_env(), Gpu::Software));
}

#[test]
fn operations_and_messages_that_break_a_rule_hurt_only_their_session() {
    let _alone = alone();
    let (seed, cases) = settings();
    hold(beside::operations_and_messages(
        &Artifacts::from_env(),
        Gpu::Software,
        seed,
        cases,
    ));
}

#[test]
fn kernels_cannot_reach_the_executors_memory() {
    let _alone = alone();
    hold(beside::kernels(&Artifacts::from_env(), Gpu::Software));
}
