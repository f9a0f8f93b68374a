//! Hostile guests on the whole path: nothing that one writes hurts the backend, the executor's own memory, or anybody else.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vgpu_protocol::calls::{CALLS, Mode};
use vgpu_tests::hostile::cases::{self, Found, Row};
use vgpu_tests::hostile::{Vm, honest, messages};
use vgpu_tests::{Gpu, Host, Machine, Stack, VmSpec};
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

/// The executor of a session, by the backend's log.
fn executor_of(stack: &Stack, vm: u32, session: u32) -> Result<u32> {
    let log = stack.log(&format!("backend-{vm}"));
    let line = log
        .lines()
        .find(|line| line.contains(&format!("vm {vm} session {session}: opened")))
        .context("the log does not say that the session was opened")?;
    let pid = line
        .split("executor ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    Ok(pid.context("no executor in the log")?.parse()?)
}

/// Sessions that ended did so because the executor saw to it: none crashed, and no program met a bug of its own.
fn ended_in_order(stack: &Stack, vm: u32, ended: &[u32]) -> Result<()> {
    let log = stack.log(&format!("backend-{vm}"));
    let said: BTreeSet<&str> = log
        .lines()
        .filter(|line| line.contains("; the session ends"))
        .filter_map(|line| {
            line.split(&format!("vgpu-exec vm {vm} session "))
                .nth(1)?
                .split(':')
                .next()
        })
        .collect();
    for session in ended {
        ensure!(
            said.contains(session.to_string().as_str()),
            "session {session} of vm {vm} ended, and its executor did not say why"
        );
    }
    for bad in [
        "panicked",
        "internal error",
        "signal:",
        "is written off",
        "exit status: 4",
    ] {
        if let Some(line) = log.lines().find(|line| line.contains(bad)) {
            anyhow::bail!("vm {vm}: {line}");
        }
    }
    Ok(())
}

/// Runs `attack` in the VMs 1 and 2, each with its share of the calls, while honest sessions of the same VMs and
/// programs of another VM work; whatever happens, they must not notice.
fn beside_honest_ones(
    attack: impl Fn(&Stack, &Vm, &[Row]) -> Result<Vec<(&'static str, Found)>> + Sync,
) -> BTreeMap<&'static str, usize> {
    let stack = Stack::start(
        &Artifacts::from_env(),
        Gpu::Software,
        &[VmSpec::LOW, VmSpec::OTHER_LOW, VmSpec::HIGH],
    )
    .unwrap();
    let end = AtomicBool::new(false);
    let tried: Mutex<BTreeMap<&str, usize>> = Mutex::default();
    let vms = [VmSpec::LOW, VmSpec::OTHER_LOW].map(|vm| Vm::connect(&stack.socket(vm.id), vm.id).unwrap());
    let outcome: Result<()> = std::thread::scope(|scope| {
        let end = &end;
        let program = scope.spawn(|| {
            let mut host = Host::new(&stack, VmSpec::HIGH.id);
            while !end.load(SeqCst) {
                host.must("vadd 20000")?;
                host.must("work 300 5")?;
            }
            anyhow::Ok(())
        });
        let neighbours: Vec<_> = vms
            .iter()
            .map(|vm| scope.spawn(move || honest::work(vm, end)))
            .collect();
        let rows = cases::rows();
        let (stack, attack, tried) = (&stack, &attack, &tried);
        let attacks: Vec<_> = vms
            .iter()
            .enumerate()
            .map(|(which, vm)| {
                let share: Vec<Row> = rows.iter().copied().skip(which).step_by(2).collect();
                scope.spawn(move || {
                    let found = attack(stack, vm, &share)?;
                    let ended: Vec<u32> = found.iter().flat_map(|(_, found)| found.ended.clone()).collect();
                    ended_in_order(stack, vm.id, &ended)?;
                    let mut tried = tried.lock().unwrap();
                    for (name, found) in found {
                        *tried.entry(name).or_default() += found.cases;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let attacked: Vec<Result<()>> = attacks.into_iter().map(|one| one.join().unwrap()).collect();
        end.store(true, SeqCst);
        let noticed: Vec<Result<u64>> = neighbours.into_iter().map(|one| one.join().unwrap()).collect();
        let program = program.join().unwrap();
        for outcome in attacked {
            outcome?;
        }
        program.context("a program of another VM noticed")?;
        for rounds in noticed {
            rounds.context("an honest session of the same VM noticed")?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error:?}\n{}", stack.logs());
    }
    let tried = tried.into_inner().unwrap();
    println!(
        "{} cases over {} kinds",
        tried.values().sum::<usize>(),
        tried.len()
    );
    tried
}

/// Nothing of the table was left out, and nothing else tried.
fn every_call(tried: &BTreeMap<&str, usize>) {
    let expected: BTreeSet<&str> = CALLS
        .iter()
        .filter(|call| call.mode == Mode::Call)
        .map(|call| call.name)
        .collect();
    let all: BTreeSet<&str> = tried.keys().copied().collect();
    assert_eq!(all, expected, "calls that were not tried, or are none");
}

#[test]
fn arguments_that_are_not_the_guests_are_refused_for_every_call() {
    let seed = setting("VGPU_HOSTILE_SEED", 1);
    let random_cases = setting("VGPU_HOSTILE_CASES", 20) as usize;
    println!("VGPU_HOSTILE_SEED={seed} VGPU_HOSTILE_CASES={random_cases}");
    let tried = beside_honest_ones(|stack, vm, rows| {
        rows.iter()
            .map(|row| {
                let start = Instant::now();
                let executor = |session| executor_of(stack, vm.id, session);
                let found = cases::try_arguments(vm, row, seed, random_cases, &executor)?;
                println!(
                    "{}: {} cases, {} sessions ended, {:.1} s",
                    row.call.name,
                    found.cases,
                    found.ended.len(),
                    start.elapsed().as_secs_f64()
                );
                Ok((row.call.name, found))
            })
            .collect()
    });
    every_call(&tried);
}

#[test]
fn records_that_break_a_rule_end_the_session_for_every_call() {
    let tried = beside_honest_ones(|_, vm, rows| {
        rows.iter()
            .map(|row| {
                let start = Instant::now();
                let words = vec![0; row.arguments.len()];
                let broken = cases::broken(row.call.op, Some(row), &words, row.call.reply);
                let found = cases::try_broken(vm, row.call.name, &broken)?;
                println!(
                    "{}: {} cases, {:.1} s",
                    row.call.name,
                    found.cases,
                    start.elapsed().as_secs_f64()
                );
                Ok((row.call.name, found))
            })
            .collect()
    });
    every_call(&tried);
}

#[test]
fn operations_and_messages_that_break_a_rule_hurt_only_their_session() {
    let seed = setting("VGPU_HOSTILE_SEED", 1);
    let random_cases = setting("VGPU_HOSTILE_CASES", 20) as usize;
    println!("VGPU_HOSTILE_SEED={seed} VGPU_HOSTILE_CASES={random_cases}");
    beside_honest_ones(|_, vm, _| {
        let seed = seed ^ u64::from(vm.id) << 48;
        Ok(vec![
            ("control", messages::try_control(vm, seed, 20 * random_cases)?),
            ("operations", messages::try_operations(vm)?),
            ("moving", messages::try_moving(vm, seed, random_cases)?),
        ])
    });
}
