//! What an operator sees and changes while programs run, over the whole path without a VM.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use vgpu_sched_api::messages::{Answer, Change, Edit, Request, VmSettings, VmStatus};
use vgpu_tests::{Gpu, Host, Machine, Stack};
use vgpu_vm::Artifacts;

/// A host with two GPUs: VMs 1-7 on the first one, 8-20 on the second one.
fn host() -> Stack {
    let stack = Stack::start_host(&Artifacts::from_env(), Gpu::Software, 2, "").unwrap();
    let pool = |gpu: &str, pool: &str, vms: &str| {
        [
            Edit::AssignGpu {
                gpu: gpu.to_owned(),
                pool: pool.to_owned(),
            },
            register(vms, pool),
        ]
    };
    edit(&stack, [pool("0", "A", "1-7"), pool("1", "B", "8-20")].concat());
    stack
}

fn register(vms: &str, pool: &str) -> Edit {
    Edit::RegisterVms {
        vms: vms.to_owned(),
        pool: pool.to_owned(),
        settings: VmSettings::default(),
        move_from_other: true,
    }
}

fn edit(stack: &Stack, edits: Vec<Edit>) {
    let request = Request::Change(Change::Edit { edits }.into());
    match stack.ask(&request).unwrap() {
        Answer::Changed(_) => {}
        other => panic!("{other:?}\n{}", stack.logs()),
    }
}

fn set(vm: u32, settings: VmSettings) -> Edit {
    Edit::SetVms {
        vms: vm.to_string(),
        settings,
    }
}

/// How a VM is, if `vgpud` knows it.
fn look(stack: &Stack, vm: u32) -> Option<VmStatus> {
    let pools = stack.status().unwrap().pools;
    let mut vms = pools.into_iter().flat_map(|pool| pool.vms);
    vms.find(|other| other.vm == vm)
}

fn vm(stack: &Stack, vm: u32) -> VmStatus {
    look(stack, vm).unwrap()
}

#[test]
fn never_more_than_the_queue_depth_is_in_flight() {
    const DEPTH: u32 = 2;
    let mut stack = host();
    stack.start_backend(1).unwrap();
    let depth = VmSettings {
        queue_depth: Some(DEPTH),
        ..VmSettings::default()
    };
    edit(&stack, vec![set(1, depth)]);
    let stack = &stack;
    let ended = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(SeqCst) {
                most = most.max(vm(stack, 1).queued);
            }
            most
        });
        let mut machine = Host::new(stack, 1);
        for program in ["streams", "threads 4", "many 60", "capture", "work 3000 40"] {
            if let Err(error) = machine.must(program) {
                ended.store(true, SeqCst);
                panic!("{program}: {error:#}\n{}", stack.logs());
            }
        }
        ended.store(true, SeqCst);
        watch.join().unwrap()
    });
    // Behind a host function that waits for the guest nothing is on the GPU, and more may be queued there.
    if let Err(error) = Host::new(stack, 1).must("hostfn") {
        panic!("{error:#}\n{}", stack.logs());
    }
    assert!((1..=u64::from(DEPTH)).contains(&most), "{most} in flight");
    stack
        .until("nothing is in flight", |stack| vm(stack, 1).queued == 0)
        .unwrap();
    let after = vm(stack, 1);
    assert_eq!(after.queue_depth, Some(DEPTH));
    // 40 rounds of three calls, to name one program alone.
    assert!(after.calls > 120 && after.turns > 0, "{after:?}");
}

/// Two VMs work on the first GPU, one of them is moved to the second one, and `vgpud` is killed in the midst of it.
#[test]
fn vgpud_may_die_after_an_edit() {
    let mut stack = host();
    let gpus: Vec<String> = stack
        .status()
        .unwrap()
        .gpus
        .into_iter()
        .map(|gpu| gpu.uuid)
        .collect();
    for vm in [1, 2, 8] {
        stack.start_backend(vm).unwrap();
    }
    let (mut one, mut two, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2), Host::new(&stack, 8));
    let result = (|| {
        let jobs = [one.start("work 3000 150")?, two.start("work 3000 150")?];
        one.wait_for_output(&jobs[0], "running")?;
        two.wait_for_output(&jobs[1], "running")?;
        let before = vm(&stack, 1).calls;
        edit(&stack, vec![register("1", "B")]);
        anyhow::ensure!(vm(&stack, 1).sessions[0].gpus == gpus[..1], "it was moved");
        stack.kill_vgpud();
        stack.start_vgpud()?;
        stack.until("the session is attached again", |stack| {
            look(stack, 1).is_some_and(|vm| !vm.sessions.is_empty())
        })?;
        let again = vm(&stack, 1);
        anyhow::ensure!(again.sessions[0].gpus == gpus[..1], "it was moved: {again:?}");
        anyhow::ensure!(again.calls >= before, "{before} calls, then {}", again.calls);
        // Changed while it works.
        let weight = VmSettings {
            weight: Some(4),
            ..VmSettings::default()
        };
        edit(&stack, vec![set(2, weight)]);
        let [first, second] = jobs;
        for ended in [one.wait(first)?, two.wait(second)?] {
            anyhow::ensure!(ended.success(), "{}", ended.text);
        }
        let turns = stack.turns(0)?;
        let on_second = turns.iter().filter(|turn| turn.gpu == gpus[1]).count();
        anyhow::ensure!(!turns.is_empty() && on_second == 0, "{turns:?}");
        // The next program of the VM that was moved runs where its pool is, beside the VM that was there.
        one.must("vadd")?;
        other.must("vadd")?;
        let turns = stack.turns(turns.len() as u64 + 1)?;
        anyhow::ensure!(
            turns.iter().any(|turn| turn.vm == 1) && turns.iter().all(|turn| turn.gpu == gpus[1]),
            "{turns:?}"
        );
        Ok(())
    })();
    if let Err(error) = result {
        panic!("{error:?}\n{}", stack.logs());
    }
}
