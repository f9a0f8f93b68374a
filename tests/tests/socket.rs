//! The whole path without a VM: guest library, backend, executor, `vgpud`, software GPU, all as the processes
//! they are in production.
use vgpu_tests::{Gpu, Host, Machine, Stack, VmSpec, checks, same};
use vgpu_vm::Artifacts;

fn stack(vms: &[VmSpec]) -> Stack {
    Stack::start(&Artifacts::from_env(), Gpu::Software, vms).unwrap()
}

/// Runs a check; what the services said is in the message if it fails.
fn hold(stack: &Stack, result: anyhow::Result<()>) {
    if let Err(error) = result {
        panic!("{error:?}\n{}", stack.logs());
    }
}

#[test]
fn results_are_right() {
    let stack = stack(&[VmSpec::LOW]);
    hold(&stack, checks::results_are_right(&mut Host::new(&stack, 1)));
    hold(&stack, checks::nothing_left(&stack, 1));
}

#[test]
fn more_threads_than_rings_share() {
    let stack = stack(&[VmSpec::LOW]);
    hold(&stack, Host::new(&stack, 1).must("threads 72").map(drop));
}

#[test]
fn runs_in_a_row() {
    let stack = stack(&[VmSpec::LOW]);
    hold(
        &stack,
        checks::runs_in_a_row(&stack, 1, &mut Host::new(&stack, 1), 40),
    );
}

#[test]
fn a_killed_process_leaves_nothing() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    hold(
        &stack,
        checks::a_killed_process_leaves_nothing(&stack, 1, &mut one, &mut other),
    );
}

#[test]
fn a_fault_stays_alone() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    hold(&stack, checks::a_fault_stays_alone(&mut one, &mut other));
}

#[test]
fn two_machines_take_turns() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    hold(
        &stack,
        checks::two_machines_take_turns(&stack, (1, 2), &mut one, &mut other),
    );
}

/// A high VM's calls end while a low VM's one long kernel still runs: it need not wait for the low turn's end.
#[test]
fn a_high_vm_is_let_in_beside_a_low_kernel() {
    let stack = stack(&[VmSpec::LOW, VmSpec::HIGH]);
    let (mut low, mut high) = (Host::new(&stack, 1), Host::new(&stack, 9));
    hold(
        &stack,
        (|| {
            let long = low.start("spin 20000")?;
            low.wait_for_output(&long, "running")?;
            let start = std::time::Instant::now();
            high.must("vadd")?;
            anyhow::ensure!(
                start.elapsed().as_secs() < 15,
                "the high VM waited for the low kernel"
            );
            let long = low.wait(long)?;
            anyhow::ensure!(long.success(), "{}", long.text);
            Ok(())
        })(),
    );
}

/// `vgpud` is killed and comes back while programs run: nothing in flight is lost, and turns are given again.
#[test]
fn vgpud_may_die() {
    let mut stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    let result = (|| {
        let first = one.start("work 3000 150")?;
        let second = other.start("work 3000 150")?;
        one.wait_for_output(&first, "running")?;
        other.wait_for_output(&second, "running")?;
        stack.kill_vgpud();
        stack.start_vgpud()?;
        for ended in [one.wait(first)?, other.wait(second)?] {
            anyhow::ensure!(ended.success(), "{}", ended.text);
        }
        one.must("vadd")?;
        anyhow::ensure!(!stack.turns(0)?.is_empty(), "no turn since the restart");
        Ok(())
    })();
    hold(&stack, result);
}

/// A VM that no pool has gets no GPU, and its program a clear word.
#[test]
fn a_vm_in_no_pool_gets_no_device() {
    let stack = stack(&[VmSpec::LOW]);
    hold(
        &stack,
        (|| {
            std::fs::write(
                stack.pool_map(),
                "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"5-7\"]\n",
            )?;
            stack.ask(&vgpu_sched_api::messages::Request::Reload)?;
            let output = Host::new(&stack, 1).run("vadd")?;
            anyhow::ensure!(
                !output.success() && output.text.contains("NO_DEVICE"),
                "{}",
                output.text
            );
            Ok(())
        })(),
    );
}

#[test]
fn a_running_kernel_is_stopped_and_resumed() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    let result = checks::a_running_kernel_is_stopped_and_resumed(Gpu::Software, &mut one, &mut other);
    hold(&stack, result.map(drop));
}

#[test]
fn answers_are_the_native_librarys() {
    let stack = stack(&[VmSpec::LOW]);
    hold(&stack, same::answers_are_the_native_librarys(&stack, 1).map(drop));
}
