//! The whole path without a VM: guest library, backend, executor, `vgpud`, software GPU, all as the processes
//! they are in production.
use vgpu_sched_api::messages::{Change, Request};
use vgpu_tests::{Gpu, Host, Machine, Stack, VmSpec, checks, lifecycle, reasons, same, visible};
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

/// The same program and library with the oldest C library that a guest may have, its loader included.
#[test]
fn programs_run_with_the_oldest_c_library() {
    let stack = stack(&[VmSpec::LOW]);
    let artifacts = stack.artifacts();
    let (glibc, ours) = (artifacts.oldest_glibc_dir(), artifacts.guest_lib_dir());
    let (glibc, ours) = (glibc.display(), ours.display());
    let mut host = Host::new(&stack, 1);
    let result = ["vadd", "threads 4", "hostfn", "fault"]
        .iter()
        .try_for_each(|program| {
            let (name, arguments) = program.split_once(' ').unwrap_or((program, ""));
            let path = artifacts.program(name);
            host.must(&format!(
                "{glibc}/ld-linux-x86-64.so.2 --library-path {ours}:{glibc} {} {arguments}",
                path.display()
            ))
            .map(drop)
        });
    hold(&stack, result);
}

#[test]
fn runtime_programs_are_right() {
    let stack = stack(&[VmSpec::LOW]);
    hold(
        &stack,
        checks::runtime_programs_are_right(&mut Host::new(&stack, 1)),
    );
    hold(&stack, checks::nothing_left(&stack, 1));
}

#[test]
fn more_threads_than_rings_share() {
    let stack = stack(&[VmSpec::LOW]);
    hold(&stack, Host::new(&stack, 1).must("threads 72").map(drop));
}

/// A full ring is no reason to end a session, neither for its own calls nor for those that come after what is in it. The limit
/// keeps the ring full.
#[test]
fn a_thread_submits_faster_than_the_host_takes() {
    let rate = |_| "call_rate = 200\n".to_owned();
    let vms = [VmSpec::LOW];
    let stack = Stack::start_as(&Artifacts::from_env(), Gpu::Software, &vms, "", rate).unwrap();
    hold(&stack, Host::new(&stack, 1).must("full").map(drop));
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
fn processes_end_in_any_way() {
    let stack = stack(&[VmSpec::LOW]);
    let result = lifecycle::processes_end_in_any_way(&stack, 1, &mut Host::new(&stack, 1));
    hold(&stack, result);
}

#[test]
fn the_library_can_be_closed_and_opened_again() {
    let stack = stack(&[VmSpec::LOW]);
    let result = lifecycle::the_library_can_be_closed_and_opened_again(&stack, 1, &mut Host::new(&stack, 1));
    hold(&stack, result);
}

#[test]
fn forked_processes_are_told() {
    let stack = stack(&[VmSpec::LOW]);
    let result = lifecycle::forked_processes_are_told(&stack, 1, &mut Host::new(&stack, 1));
    hold(&stack, result);
}

#[test]
fn a_session_does_not_outlive_its_process() {
    let stack = stack(&[VmSpec::LOW]);
    let result = lifecycle::a_session_does_not_outlive_its_process(&stack, 1, &mut Host::new(&stack, 1));
    hold(&stack, result);
}

#[test]
fn a_stopped_program_goes_on() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    let result = lifecycle::a_stopped_program_goes_on(&stack, 1, &mut one, &mut other);
    hold(&stack, result);
}

#[test]
fn what_is_short_is_told() {
    let stack = stack(&[VmSpec::LOW]);
    let mut host = Host::new(&stack, 1).with("VGPU_SOCKET_MEMORY", "128M");
    hold(&stack, lifecycle::what_is_short_is_told(&stack, 1, &mut host));
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

#[test]
fn a_vm_sees_its_own_gpus_memory_and_processes() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    let result = checks::a_vm_sees_its_own_gpus_memory_and_processes(&stack, (1, 2), &mut one, &mut other);
    hold(&stack, result);
}

/// A descriptor of one VM's memory is nothing in another VM.
#[test]
fn exported_memory_stays_in_its_vm() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let mut host = Host::new(&stack, 1);
    let other = stack.socket(2);
    let result = host.must(&format!("shared foreign {}", other.display()));
    hold(&stack, result.map(drop));
}

/// What `libnvidia-ml.so.1` says where a VM has a quota, is quarantined, or has no GPU or no device at all.
#[test]
fn a_vm_is_shown_what_it_may_have() {
    let quota = |_| "gpu_memory_mib = 512".to_owned();
    let artifacts = Artifacts::from_env();
    let mut stack = Stack::start_as(&artifacts, Gpu::Software, &[VmSpec::LOW], "", quota).unwrap();
    let result = (|| {
        let mut host = Host::new(&stack, 1);
        let text = host.must("nvml")?;
        anyhow::ensure!(text.contains("total 536870912, used 0"), "{text}");
        host.must("nvml check")?;
        host.must("leaves 320")?;
        // What a VM is told may be some tenths of a second old.
        let says = |host: &mut Host, what: &str| {
            checks::until_said(host, "nvml", |text| text.contains(what)).map(drop)
        };
        let admin = |arguments: &[&str]| {
            let output = stack.admin().args(arguments).output()?;
            anyhow::ensure!(output.status.success(), "{output:?}");
            Ok(())
        };
        admin(&["quarantine", "--vm-id", "1", "--reason", "a test"])?;
        says(&mut host, "nvmlInit_v2 gave 4 (Insufficient Permissions)")?;
        admin(&["release", "--vm-id", "1"])?;
        says(&mut host, "nvml: 1 GPUs, 0 processes")?;
        admin(&["unregister-vm", "--vm-id", "1"])?;
        says(&mut host, "nvml: 0 GPUs, 0 processes")?;
        let mut nobody = Host::new(&stack, 1).with("VGPU_SOCKET", "/nonexistent/socket");
        says(&mut nobody, "nvmlInit_v2 gave 9 (Driver Not Loaded)")
    })();
    hold(&stack, result);
    stack.kill_vgpud();
    let mut host = Host::new(&stack, 1);
    let without = |text: &str| text.contains("nvmlInit_v2 gave 999");
    hold(&stack, checks::until_said(&mut host, "nvml", without).map(drop));
}

#[test]
fn a_program_sees_the_gpus_that_it_asks_for() {
    let stack = visible::two_gpus(&Artifacts::from_env(), 1).unwrap();
    let mut host = Host::new(&stack, 1);
    hold(
        &stack,
        visible::a_program_sees_the_gpus_that_it_asks_for(&stack, &mut host),
    );
}

#[test]
fn processes_with_a_gpu_each_do_not_wait() {
    let stack = visible::two_gpus(&Artifacts::from_env(), 1).unwrap();
    let mut host = Host::new(&stack, 1);
    hold(
        &stack,
        visible::processes_with_a_gpu_each_do_not_wait(&stack, 1, &mut host),
    );
}

#[test]
fn why_there_is_no_gpu_is_told_to_who_wants_one() {
    let stack = visible::two_gpus(&Artifacts::from_env(), 1).unwrap();
    let mut host = Host::new(&stack, 1);
    hold(
        &stack,
        visible::why_there_is_no_gpu_is_told_to_who_wants_one(&stack, 1, &mut host),
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
            stack.ask(&Request::Change(Change::Reload {}.into()))?;
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
fn the_hosts_refusals_are_told() {
    let mut stack = stack(&[VmSpec::LOW]);
    let mut host = Host::new(&stack, 1);
    let mut astray = Host::new(&stack, 1).with("VGPU_SOCKET", stack.vgpud_socket());
    let result = reasons::another_services_socket_is_told(&mut astray)
        .and_then(|()| reasons::the_hosts_refusals_are_told(&stack, 1, &mut host))
        .and_then(|()| reasons::a_scheduler_that_is_gone_is_told(&mut stack, &mut host))
        .and_then(|()| reasons::a_backend_that_is_gone_is_told(&mut stack, 1, &mut host));
    hold(&stack, result);
}

#[test]
fn a_running_kernel_is_stopped_and_resumed() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    let result = checks::a_running_kernel_is_stopped_and_resumed(Gpu::Software, &mut one, &mut other);
    hold(&stack, result.map(drop));
}

/// What kernels print is the program's output, and which assertion failed is said to it alone.
#[test]
fn kernels_print() {
    let stack = stack(&[VmSpec::LOW]);
    let result = (|| {
        let text = Host::new(&stack, 1).must("t0_print waited_for")?;
        let (first, last) = (
            text.find("thread 1 of 1: a word,  3.14, 10000000000, A%"),
            text.find("thread 6 of 1"),
        );
        let (between, order) = (text.find("not yet"), text.find("thread 5 of 1"));
        anyhow::ensure!(first.is_some() && last.is_some() && between < order, "{text}");
        let said = "file.cu:12: void check(int): block: [0,0,0], thread: [0,0,0] Assertion `x == 1` failed.";
        // Several threads of the executor find at once that the context is lost: the text is left by one, whole.
        for time in 0..20 {
            let failed = Host::new(&stack, 1).run("t0_print a_failed_assertion")?.text;
            anyhow::ensure!(
                failed.contains(said) && failed.contains("cuCtxSynchronize() = ASSERT"),
                "time {time}: {failed}"
            );
        }
        Ok(())
    })();
    hold(&stack, result);
}

#[test]
fn answers_are_the_native_librarys() {
    let stack = stack(&[VmSpec::LOW]);
    hold(
        &stack,
        same::answers_are_the_native_librarys(&stack, 1, same::PROGRAMS).map(drop),
    );
}

/// What a program of a guest registers lies at the top of its addresses, as everything that it allocates.
#[test]
fn executors_keep_out_of_their_guests_way() {
    let stack = stack(&[VmSpec::LOW]);
    let mut host = Host::new(&stack, 1);
    let result = host.start_with_pid("spin 600000").and_then(|(job, pid)| {
        host.wait_for_output(&job, "spin: running")?;
        checks::executors_keep_out_of_their_guests_way(&stack, 1)?;
        host.must(&format!("kill {pid}"))?;
        host.wait(job).map(drop)
    });
    hold(&stack, result);
}
