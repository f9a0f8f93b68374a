//! Attacks beside honest work: services of a host, hostile guests in two VMs, and in the same VMs and a third one guests that do
//! nothing wrong and must not notice.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use vgpu_protocol::calls::{CALLS, Mode};
use vgpu_vm::Artifacts;

use super::cases::{self, Found, Row};
use super::{Vm, honest, messages};
use crate::{Gpu, Host, Machine, Stack, VmSpec};

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
            bail!("vm {vm}: {line}");
        }
    }
    Ok(())
}

/// What an attack has to work with: the services, its VM, and its share of the calls.
#[derive(Clone, Copy)]
struct Attack<'a> {
    stack: &'a Stack,
    vm: &'a Vm,
    rows: &'a [Row],
}

/// Cases that were tried, by what they were about.
type Tried = BTreeMap<&'static str, usize>;

/// Runs `attack` in two VMs, each with its share of the calls, while honest sessions of the same VMs and programs of
/// another VM work; whatever happens, they must not notice.
fn beside_honest_ones(
    artifacts: &Artifacts,
    gpu: Gpu,
    attack: impl Fn(Attack<'_>) -> Result<Vec<(&'static str, Found)>> + Sync,
) -> Result<Tried> {
    let specs = [VmSpec::LOW, VmSpec::OTHER_LOW, VmSpec::HIGH];
    let stack = Stack::start(artifacts, gpu, &specs)?;
    let connect = |vm: VmSpec| Vm::connect(&stack.socket(vm.id), vm.id);
    let vms = [connect(VmSpec::LOW)?, connect(VmSpec::OTHER_LOW)?];
    let end = AtomicBool::new(false);
    let tried = Mutex::new(Tried::new());
    let outcome: Result<()> = std::thread::scope(|scope| {
        let (stack, end, attack, tried) = (&stack, &end, &attack, &tried);
        let program = scope.spawn(move || {
            let mut host = Host::new(stack, VmSpec::HIGH.id);
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
        let attacks: Vec<_> = vms
            .iter()
            .enumerate()
            .map(|(which, vm)| {
                let rows: Vec<Row> = cases::rows().into_iter().skip(which).step_by(2).collect();
                scope.spawn(move || {
                    let found = attack(Attack {
                        stack,
                        vm,
                        rows: &rows,
                    })?;
                    let ended: Vec<u32> = found.iter().flat_map(|(_, found)| found.ended.clone()).collect();
                    ended_in_order(stack, vm.id, &ended)?;
                    let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
                    for (name, found) in found {
                        *tried.entry(name).or_default() += found.cases;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let attacked: Vec<_> = attacks.into_iter().map(|one| joined(one.join())).collect();
        end.store(true, SeqCst);
        let noticed: Vec<_> = neighbours.into_iter().map(|one| joined(one.join())).collect();
        let program = joined(program.join());
        let wrong: Vec<String> = attacked
            .into_iter()
            .filter_map(|one| Some(format!("{:#}", one.err()?)))
            .collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        program.context("a program of another VM noticed")?;
        for rounds in noticed {
            rounds.context("an honest session of the same VM noticed")?;
        }
        Ok(())
    });
    outcome.with_context(|| stack.logs())?;
    Ok(tried.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A panic in a thread is a failure like others.
fn joined<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|_| bail!("a thread panicked"))
}

/// Nothing of the table was left out, and nothing else tried.
fn every_call(tried: &Tried) -> Result<String> {
    let all = CALLS.iter().filter(|call| call.mode == Mode::Call);
    let expected: BTreeSet<&str> = all.map(|call| call.name).collect();
    let tried_calls: BTreeSet<&str> = tried.keys().copied().collect();
    ensure!(
        tried_calls == expected,
        "calls that were not tried, or are none: {:?}",
        expected.symmetric_difference(&tried_calls)
    );
    Ok(summary(tried))
}

fn summary(tried: &Tried) -> String {
    format!(
        "{} cases over {} kinds",
        tried.values().sum::<usize>(),
        tried.len()
    )
}

/// For every call, records that fit its row and whose arguments name what is not the guest's, and `random_cases` with any
/// arguments.
pub fn arguments(artifacts: &Artifacts, gpu: Gpu, seed: u64, random_cases: usize) -> Result<String> {
    let tried = beside_honest_ones(artifacts, gpu, |attack| {
        let Attack { stack, vm, rows } = attack;
        let executor = |session| executor_of(stack, vm.id, session);
        let (mut all, mut wrong) = (Vec::new(), Vec::new());
        for row in rows {
            match cases::try_arguments(vm, row, seed, random_cases, &executor) {
                Ok(found) => all.push((row.call.name, found)),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        // Each call that is wrong, and not the first one alone.
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(all)
    })?;
    every_call(&tried)
}

/// For every call, records that break a rule of the wire.
pub fn records(artifacts: &Artifacts, gpu: Gpu) -> Result<String> {
    let tried = beside_honest_ones(artifacts, gpu, |attack| {
        let one = |row: &Row| {
            let words = vec![0; row.arguments.len()];
            let broken = cases::broken(row.call.op, Some(row), &words, row.call.reply);
            Ok((
                row.call.name,
                cases::try_broken(attack.vm, row.call.name, &broken)?,
            ))
        };
        attack.rows.iter().map(one).collect()
    })?;
    every_call(&tried)
}

/// Operations of rings that are no calls, positions that move, and messages in the control queue.
pub fn operations_and_messages(
    artifacts: &Artifacts,
    gpu: Gpu,
    seed: u64,
    random_cases: usize,
) -> Result<String> {
    let tried = beside_honest_ones(artifacts, gpu, |attack| {
        let Attack { stack, vm, .. } = attack;
        let executor = |session| executor_of(stack, vm.id, session);
        let seed = seed ^ u64::from(vm.id) << 48;
        Ok(vec![
            ("control", messages::try_control(vm, seed, 20 * random_cases)?),
            ("operations", messages::try_operations(vm)?),
            ("moving", messages::try_moving(vm, seed, random_cases)?),
            ("stuck", messages::try_stuck(vm)?),
            (
                "program",
                messages::try_program(vm, seed, random_cases, &executor)?,
            ),
        ])
    })?;
    Ok(summary(&tried))
}

/// Kernels that write to addresses of the executor's own memory.
pub fn kernels(artifacts: &Artifacts, gpu: Gpu) -> Result<String> {
    let tried = beside_honest_ones(artifacts, gpu, |attack| {
        let Attack { stack, vm, .. } = attack;
        let executor = |session| executor_of(stack, vm.id, session);
        Ok(vec![("kernels", cases::try_kernels(vm, &executor)?)])
    })?;
    Ok(summary(&tried))
}
