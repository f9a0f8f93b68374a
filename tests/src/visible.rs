//! What a program sees of its VM's GPUs is what `CUDA_VISIBLE_DEVICES` says, and its session has those alone. The host has
//! two software GPUs, and the VM both.
use anyhow::{Context, Result, ensure};
use vgpu_vm::Artifacts;

use crate::{Gpu, Machine, Stack, checks};

/// A host with two GPUs, of which each has one session at a time, for hours.
pub fn two_gpus(artifacts: &Artifacts, vm: u32) -> Result<Stack> {
    let map = format!(
        "[scheduler]\nquantum_ms = {{ low = 3600000, medium = 3600000, high = 3600000 }}\n\
         [[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [{vm}]\nexclusive = true\n"
    );
    let mut stack = Stack::start_host(artifacts, Gpu::Software, 2, &map)?;
    stack.start_backend(vm)?;
    Ok(stack)
}

fn uuids(stack: &Stack) -> Result<Vec<String>> {
    let gpus: Vec<String> = stack.status()?.gpus.into_iter().map(|gpu| gpu.uuid).collect();
    ensure!(gpus.len() == 2, "{gpus:?}");
    Ok(gpus)
}

/// What a program that is started with that setting of the variable says, and nothing else on its standard error.
fn seen<M: Machine>(machine: &mut M, setting: &str) -> Result<Vec<String>> {
    let text = machine.must(&format!("{setting} visible 2>&1"))?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let said = line.strip_prefix("visible: ");
        let said = said.with_context(|| format!("{setting}: something else was said: {text}"))?;
        lines.push(said.to_owned());
    }
    Ok(lines)
}

pub fn a_program_sees_the_gpus_that_it_asks_for<M: Machine>(stack: &Stack, machine: &mut M) -> Result<()> {
    let gpus = uuids(stack)?;
    let pci: Vec<String> = stack.status()?.gpus.into_iter().map(|gpu| gpu.pci).collect();
    let (whole, prefix) = (&gpus[1], &gpus[1][..gpus[1].len() - 8]);
    // The software GPUs' UUIDs differ before that.
    ensure!(!gpus[0].starts_with(prefix), "{gpus:?}");
    let cases: [(String, &[usize]); 15] = [
        ("env -u CUDA_VISIBLE_DEVICES".into(), &[0, 1]),
        ("CUDA_VISIBLE_DEVICES=0".into(), &[0]),
        ("CUDA_VISIBLE_DEVICES=1".into(), &[1]),
        ("CUDA_VISIBLE_DEVICES=1,0".into(), &[1, 0]),
        ("CUDA_VISIBLE_DEVICES=' 1 , 0'".into(), &[1, 0]),
        ("CUDA_VISIBLE_DEVICES=0,7,1".into(), &[0]),
        ("CUDA_VISIBLE_DEVICES=0,-1,1".into(), &[0]),
        (format!("CUDA_VISIBLE_DEVICES={whole}"), &[1]),
        (format!("CUDA_VISIBLE_DEVICES={prefix},{}", gpus[0]), &[1, 0]),
        // Ordinals and UUIDs are not mixed.
        (format!("CUDA_VISIBLE_DEVICES={prefix},0"), &[1]),
        // Both begin so.
        (format!("CUDA_VISIBLE_DEVICES={whole},GPU-76"), &[1]),
        ("CUDA_VISIBLE_DEVICES=".into(), &[]),
        ("CUDA_VISIBLE_DEVICES=-1".into(), &[]),
        ("CUDA_VISIBLE_DEVICES=7,0".into(), &[]),
        ("CUDA_VISIBLE_DEVICES=none".into(), &[]),
    ];
    for (setting, expected) in cases {
        let said = seen(machine, &setting)?;
        // NVML writes a domain with four digits more.
        let is = |place: usize, gpu: usize| format!("{place} is {}, {}", gpus[gpu], &pci[gpu][4..]);
        let wanted: Vec<String> = if expected.is_empty() {
            vec!["CUDA_ERROR_NO_DEVICE".into()]
        } else {
            let each = expected.iter().enumerate().map(|(place, gpu)| is(place, *gpu));
            std::iter::once(expected.len().to_string()).chain(each).collect()
        };
        ensure!(said == wanted, "{setting}: {said:?}, not {wanted:?}");
    }
    let said = seen(machine, "CUDA_VISIBLE_DEVICES=1,1")?;
    ensure!(said == ["CUDA_ERROR_INVALID_DEVICE"], "named twice: {said:?}");
    // Nothing is said, however often it is asked, and the tools' library is another matter.
    let text = machine.run("CUDA_VISIBLE_DEVICES= starts 3 2>&1")?.text;
    ensure!(text == "starts: CUDA_ERROR_NO_DEVICE\n".repeat(3), "{text}");
    let text = machine.must("CUDA_VISIBLE_DEVICES=1 nvml")?;
    ensure!(text.contains("nvml: 2 GPUs"), "{text}");
    Ok(())
}

/// Two processes with a GPU each run at once, where a GPU has one session at a time; a third one, with both, waits for both.
pub fn processes_with_a_gpu_each_do_not_wait<M: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
) -> Result<()> {
    let gpus = uuids(stack)?;
    let mut running = Vec::new();
    for gpu in [0, 1] {
        let (job, pid) = machine.start_with_pid(&format!("env CUDA_VISIBLE_DEVICES={gpu} spin 600000"))?;
        machine.wait_for_output(&job, "spin: running")?;
        running.push((job, pid));
    }
    let sessions = |stack: &Stack| -> Option<Vec<(Vec<String>, String)>> {
        let vms = stack.status().ok()?.pools.into_iter().flat_map(|pool| pool.vms);
        let vm = vms.into_iter().find(|status| status.vm == vm)?;
        Some(
            vm.sessions
                .into_iter()
                .map(|session| (session.gpus, session.state))
                .collect(),
        )
    };
    let both = [
        (vec![gpus[0].clone()], "running".to_owned()),
        (vec![gpus[1].clone()], "running".to_owned()),
    ];
    stack.until("both run at once", |stack| {
        sessions(stack).is_some_and(|sessions| sessions == both)
    })?;
    let turns = stack.turns(0)?;
    let open: Vec<_> = turns
        .iter()
        .filter(|turn| turn.end.is_none())
        .map(|turn| &turn.gpu)
        .collect();
    ensure!(open == [&gpus[0], &gpus[1]], "{turns:?}");
    let (waits, pid) = machine.start_with_pid("spin 600000")?;
    stack.until("a third one waits", |stack| {
        sessions(stack).is_some_and(|sessions| {
            sessions.len() == 3
                && sessions[..2] == both
                && sessions[2] == (gpus.clone(), "waiting".to_owned())
        })
    })?;
    running.push((waits, pid));
    for (_, pid) in &running {
        machine.must(&format!("kill {pid}"))?;
    }
    for (job, _) in running {
        machine.wait(job)?;
    }
    checks::nothing_left(stack, vm)
}

/// What is wrong with the VM is told as ever, unless the program wants no GPU anyhow.
pub fn why_there_is_no_gpu_is_told_to_who_wants_one<M: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
) -> Result<()> {
    let admin = |arguments: &[&str]| -> Result<()> {
        let output = stack.admin().args(arguments).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    };
    let vm = vm.to_string();
    let says = |machine: &mut M, value: &str, words: Option<&str>| -> Result<()> {
        let text = machine
            .run(&format!("CUDA_VISIBLE_DEVICES={value} starts 1 2>&1"))?
            .text;
        let right = text.ends_with("starts: CUDA_ERROR_NO_DEVICE\n")
            && match words {
                Some(words) => text.contains("vgpu: no CUDA device: ") && text.contains(words),
                None => text.lines().count() == 1,
            };
        ensure!(right, "{value:?}: wanted {words:?}: {text}");
        Ok(())
    };
    admin(&[
        "quarantine",
        "--vm-id",
        &vm,
        "--reason",
        "a test",
        "--seconds",
        "3600",
    ])?;
    says(machine, "1", Some("more seconds"))?;
    says(machine, "-1", None)?;
    admin(&["release", "--vm-id", &vm])?;
    let before = std::fs::read_to_string(stack.pool_map())?;
    admin(&["unregister-vm", "--vm-id", &vm])?;
    checks::until_said(machine, "CUDA_VISIBLE_DEVICES=0 starts 1 2>&1", |text| {
        text.contains("mapped this VM to no GPU")
    })?;
    says(machine, "", None)?;
    std::fs::write(stack.pool_map(), before)?;
    admin(&["reload"])?;
    checks::until_said(machine, "CUDA_VISIBLE_DEVICES=1 visible 2>&1", |text| {
        text.starts_with("visible: 1\n")
    })
    .map(drop)
}
