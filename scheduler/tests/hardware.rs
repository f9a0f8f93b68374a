//! What `vgpud` learns about the GPUs while it runs: memory, errors, GPUs that come and go, MIG instances.
#[allow(dead_code)]
mod common;

use common::{Daemon, Exec, map, wanted};
use rustix::process::{Pid, Signal};
use softgpu_device::{DeviceShare, Part};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{
    Answer, Change, Edit, EventKind, FromExec, GpuMeasured, GpuState, Refusal, Request,
};

const MIB: u64 = 1 << 20;
/// A process that runs this test takes memory of the GPU of this number.
const GPU_USER: &str = "VGPU_TEST_GPU_USER";
/// What it says once it has it.
const TAKEN: &str = "taken";

/// Not a test but a program: it takes as much memory of a GPU as each line of its input says.
#[test]
fn gpu_user() {
    let Ok(number) = std::env::var(GPU_USER) else {
        return;
    };
    let share = DeviceShare::open(Part::whole(number.parse().unwrap()));
    let slot = share.claim().unwrap();
    for line in std::io::stdin().lines() {
        assert!(share.reserve(slot, line.unwrap().parse().unwrap()));
        println!("{TAKEN}");
    }
}

/// A process that uses a GPU, as an executor.
struct GpuUser {
    exec: Exec,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl GpuUser {
    fn start(daemon: &Daemon, gpu: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gpu_user", "--nocapture"])
            .env(GPU_USER, gpu.to_string())
            .env("VGPU_SOFTGPU_DIR", daemon.softgpu_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            exec: Exec::of(child),
        }
    }

    /// Takes more memory, in bytes.
    fn take(&mut self, bytes: u64) {
        writeln!(self.input, "{bytes}").unwrap();
        let mut lines = self.output.by_ref().lines();
        lines
            .find(|line| line.as_ref().unwrap().ends_with(TAKEN))
            .unwrap()
            .unwrap();
    }
}

/// The process that watches the GPUs for a daemon.
fn watcher(daemon: &Daemon) -> Option<Pid> {
    let parent = format!("PPid:\t{}\n", daemon.pid());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter(|process| {
        let read = |file| std::fs::read(process.path().join(file)).unwrap_or_default();
        let is_child = String::from_utf8_lossy(&read("status")).contains(&parent);
        is_child && String::from_utf8_lossy(&read("cmdline")).contains("--watch-gpus")
    });
    let mut pids = found.map(|process| process.file_name().to_str().unwrap().parse().unwrap());
    pids.next().and_then(Pid::from_raw)
}

/// Waits until what is listed in that place measures what is expected.
fn until_measured(daemon: &Daemon, gpu: usize, expected: &GpuMeasured) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let gpus = daemon.status().gpus;
        if gpus[gpu].measured == *expected {
            return;
        }
        assert!(Instant::now() < end, "{expected:?} is not measured: {gpus:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn fault(pid: u32, bus: u32) -> String {
    format!(
        "4,1234,567890,-;NVRM: Xid (PCI:0000:{bus:02x}:00): 31, pid={pid}, name=fault, channel 0x0000001e, \
         intr 00000000. MMU Fault: ENGINE GRAPHICS"
    )
}

fn scan(daemon: &Daemon) -> (Vec<String>, Vec<String>) {
    match daemon.ask(&Request::Scan) {
        Answer::Scanned(scanned) => (scanned.appeared, scanned.vanished),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_executor_is_told_of_the_memory_that_the_driver_accounts_to_it() {
    let mut daemon = Daemon::with_gpus(2, &map(&[(1, "low")], ""));
    let backend = daemon.backend(1);
    let (mut user, other) = (GpuUser::start(&daemon, 1), GpuUser::start(&daemon, 0));
    assert_eq!(backend.open(1), daemon.gpus());
    user.take(5 * MIB);
    backend.attach(1, &mut user.exec);
    assert!(!user.exec.until_memory(&[0, 5 * MIB]));
    // A little more is not worth telling.
    user.take(MIB / 2);
    user.take(3 * MIB);
    assert!(!user.exec.until_memory(&[0, 8 * MIB + MIB / 2]));

    // The watcher may die.
    let pid = watcher(&daemon).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    daemon.until_logged("the GPUs are not watched", 0);
    user.take(2 * MIB);
    assert!(!user.exec.until_memory(&[0, 10 * MIB + MIB / 2]));
    // And so may vgpud, whose watcher ends with it.
    assert_eq!(daemon.end(Signal::KILL), None);
    daemon.restart();
    let backend = daemon.backend(1);
    backend.attach(1, &mut user.exec);
    assert!(!user.exec.until_memory(&[0, 10 * MIB + MIB / 2]));
    drop(other);
}

/// What a GPU does not tell, and what a driver that hangs told before, is not known: it is not 0.
#[test]
fn what_gpus_measure_is_shown_as_long_as_they_tell() {
    let daemon = Daemon::with_instances(2, "1:2", &map(&[(1, "low")], ""));
    let memory = |total, mig| GpuMeasured {
        memory_used: Some(0),
        memory_total: Some(total),
        mig,
        ..GpuMeasured::default()
    };
    until_measured(&daemon, 0, &memory(4096 * MIB, None));
    until_measured(&daemon, 1, &memory(4096 * MIB, Some(true)));
    until_measured(&daemon, 2, &memory(2048 * MIB, None));
    let mut user = GpuUser::start(&daemon, 0);
    user.take(5 * MIB);
    daemon.set_sensors(
        0,
        "temperature 41\npower 312500\npower_limit 700000\nutilization 0\nmemory_utilization 34\nsm_clock 1980\n\
         memory_clock 2619\necc 1\necc_volatile 0\necc_aggregate 5\n",
    );
    let all = GpuMeasured {
        temperature: Some(41),
        power_mw: Some(312_500),
        power_limit_mw: Some(700_000),
        utilisation: Some(0),
        memory_utilisation: Some(34),
        memory_used: Some(5 * MIB),
        memory_total: Some(4096 * MIB),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        ecc: Some(true),
        ecc_volatile: Some(0),
        ecc_aggregate: Some(5),
        mig: None,
    };
    until_measured(&daemon, 0, &all);
    let named = Command::new("uname").arg("-n").output().unwrap();
    assert_eq!(daemon.status().hostname.as_bytes(), named.stdout.trim_ascii_end());

    // It hangs.
    let pid = watcher(&daemon).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    until_measured(&daemon, 0, &GpuMeasured::default());
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    until_measured(&daemon, 0, &all);
    // It falls off its bus.
    daemon.lose_gpu(0, true);
    until_measured(&daemon, 0, &memory(4096 * MIB, Some(true)));
}

/// Who asks is answered, also where nothing has changed and where nobody can say.
#[test]
fn an_executor_that_asks_is_told_of_its_memory() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let backend = daemon.backend(1);
    let (first, second) = (backend.session(1), backend.session(2));
    for exec in [&first, &second, &first] {
        exec.say(&FromExec::MemoryWanted);
        assert!(exec.until_memory(&[0]));
    }
    daemon.replace_nvml(Some("no library"));
    rustix::process::kill_process(watcher(&daemon).unwrap(), Signal::KILL).unwrap();
    daemon.until_logged("the GPUs are not watched", 0);
    second.say(&FromExec::MemoryWanted);
    assert!(second.until_memory(&[]));
}

#[test]
fn gpus_that_cannot_be_watched_are_told_of_once_until_they_can() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    daemon.until_logged("the GPUs are watched", 0);
    daemon.replace_nvml(Some("no library"));
    let kill = |pid| rustix::process::kill_process(pid, Signal::KILL).unwrap();
    kill(watcher(&daemon).unwrap());
    let (first, after) = daemon.until_logged("the GPUs are not watched", 0);
    assert!(first.contains("WARN") && first.contains("has ended"), "{first}");
    let (second, after) = daemon.until_logged("the GPUs are not watched", after);
    assert!(
        second.contains("DEBUG") && second.contains("NVML") && second.contains("--libnvidia-ml"),
        "{second}"
    );
    daemon.replace_nvml(Some("nvml"));
    let (again, after) = daemon.until_logged("the GPUs are watched", after);
    assert!(again.contains("INFO"), "{again}");
    // Then it is news again.
    kill(watcher(&daemon).unwrap());
    let (third, _) = daemon.until_logged("the GPUs are not watched", after);
    assert!(third.contains("WARN"), "{third}");
}

/// The error of a GPU that the log tells of next, from that place on: whose it is, which GPU's, what it is; and the place
/// behind it.
fn next_error(daemon: &Daemon, from: usize) -> (Option<(u32, u32)>, Option<String>, String, usize) {
    let (_, after) = daemon.until_logged("Xid", from);
    let mut errors = daemon
        .events(None)
        .into_iter()
        .filter(|event| event.kind == EventKind::GpuError);
    let error = errors.next_back().unwrap();
    (error.vm.zip(error.session), error.gpu, error.message, after)
}

#[test]
fn a_fault_is_told_to_be_its_sessions() {
    let daemon = Daemon::with_kmsg(2, "", &map(&[(1, "low"), (2, "low")], ""));
    daemon.until_logged("the GPUs are watched", 0);
    let gpu = |number: usize| Some(daemon.gpus()[number].clone());
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, mut second) = (one.session(4), two.session(1));
    let was = (first.pid(), second.pid());
    // What a program writes into the log is not the driver's word.
    daemon.write_kmsg(&fault(was.0, 1).replacen('4', "12", 1));
    daemon.write_kmsg("6,1,2,-;NVRM: something else");
    daemon.write_kmsg(&fault(was.1, 2));
    let (whose, where_, what, after) = next_error(&daemon, 0);
    assert_eq!((whose, where_), (Some((2, 1)), gpu(1)));
    assert!(
        what.starts_with("Xid 31 (access to memory that is not mapped): pid=") && what.ends_with("GRAPHICS"),
        "{what}"
    );
    // NVML tells of it as well.
    daemon.inject_xid(1, 31);
    // The fault has ended the process before the log tells of it.
    second.kill();
    second.wait_hung_up();
    daemon.write_kmsg(&fault(was.1, 1));
    let (whose, where_, _, after) = next_error(&daemon, after);
    assert_eq!((whose, where_), (Some((2, 1)), gpu(0)));
    // A process that is no executor.
    daemon.write_kmsg(&fault(std::process::id(), 1).replace(": 31,", ": 13,"));
    let (whose, where_, what, after) = next_error(&daemon, after);
    assert_eq!((whose, where_), (None, gpu(0)));
    assert!(what.starts_with("Xid 13 ("), "{what}");
    // NVML alone tells of this one, after the other one.
    daemon.inject_xid(1, 79);
    let (whose, where_, what, _) = next_error(&daemon, after);
    assert_eq!((whose, where_), (None, gpu(1)));
    assert_eq!(what, "Xid 79 (the GPU has fallen off the bus): told by NVML");
    assert_eq!(daemon.events(None).len(), 4);
}

#[test]
fn without_the_kernels_log_an_xid_is_the_only_holders() {
    let mut daemon = Daemon::with_kmsg(1, "", &map(&[(1, "low"), (2, "high")], ""));
    daemon.end_kmsg();
    let (_, after) = daemon.until_logged("the kernel's log is not read any longer", 0);
    daemon.until_logged("the GPUs are watched", 0);
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (low, high) = (one.session(1), two.session(1));
    low.take_turn();
    daemon.inject_xid(0, 31);
    let (whose, _, what, after) = next_error(&daemon, after);
    assert_eq!(whose, Some((1, 1)));
    assert!(what.contains("told by NVML"), "{what}");
    // A GPU that falls off its bus is nobody's doing.
    daemon.inject_xid(0, 79);
    let (whose, _, _, after) = next_error(&daemon, after);
    assert_eq!(whose, None);
    // With two at once it cannot be told.
    high.take_turn();
    daemon.inject_xid(0, 13);
    assert_eq!(next_error(&daemon, after).0, None);
    // Each is shown with the GPU, also by the next vgpud.
    let shown = |daemon: &Daemon| {
        let xids = daemon.status().gpus[0].xids.clone();
        assert!(xids.iter().all(|xid| xid.at_s > 1_700_000_000), "{xids:?}");
        let mut shown: Vec<_> = xids.iter().map(|xid| (xid.number, xid.by_program)).collect();
        shown.sort_unstable();
        shown
    };
    let expected = [(13, true), (31, true), (79, false)];
    assert_eq!(shown(&daemon), expected);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    assert_eq!(shown(&daemon), expected);
}

#[test]
fn a_gpu_that_falls_off_is_noticed_unasked() {
    let daemon = Daemon::with_gpus(2, &map(&[(1, "low")], ""));
    let gpus = daemon.gpus();
    daemon.until_logged("the GPUs are watched", 0);
    daemon.lose_gpu(0, true);
    let (_, after) = daemon.until_logged(&format!("GPU {} is gone", gpus[0]), 0);
    assert_eq!(daemon.status().gpus[1].state, GpuState::Missing);
    assert_eq!(daemon.backend(1).open(1), gpus[1..]);
    // Who asks is told all the same.
    assert_eq!(scan(&daemon), (vec![], gpus[..1].to_vec()));
    daemon.lose_gpu(0, false);
    daemon.until_logged(&format!("GPU {} is here", gpus[0]), after);
    assert_eq!(daemon.gpus(), gpus);
    let changes = daemon.events(None).into_iter();
    let changes: Vec<_> = changes.map(|event| (event.kind, event.gpu)).collect();
    let change = (EventKind::GpuChanged, Some(gpus[0].clone()));
    assert_eq!(changes, [change.clone(), change]);
    assert_eq!(scan(&daemon), (gpus[..1].to_vec(), vec![]));
    assert_eq!(scan(&daemon), (vec![], vec![]));
}

#[test]
fn gpus_are_looked_for_when_it_was_said() {
    let mut daemon = Daemon::with_gpus(1, &map(&[(1, "low")], ""));
    let gpus = daemon.gpus();
    let until_ready = |daemon: &Daemon| {
        let limit = Instant::now() + Duration::from_secs(20);
        while daemon.status().gpus[0].state != GpuState::Ready {
            assert!(Instant::now() < limit);
        }
    };
    let again = |daemon: &mut Daemon, scan_on| {
        assert_eq!(daemon.end(Signal::TERM), Some(0));
        daemon.scan_on = scan_on;
        daemon.restart();
    };
    again(&mut daemon, "asked");
    // The GPU is news to who watches, and somebody views it.
    daemon.until_logged("the GPUs are watched", 0);
    assert_eq!(daemon.status().gpus[0].state, GpuState::Missing);
    assert_eq!(scan(&daemon), (gpus.clone(), vec![]));
    assert_eq!(daemon.status().gpus[0].state, GpuState::Ready);
    daemon.until_logged("GPUs are looked for", 0);
    assert_eq!(daemon.logged().matches("GPUs are looked for").count(), 1);

    again(&mut daemon, "change");
    until_ready(&daemon);

    again(&mut daemon, "view");
    until_ready(&daemon);
    // It was there all the time.
    assert_eq!(daemon.events(None), []);
}

#[test]
fn instances_are_assigned_in_place_of_their_gpu() {
    let daemon = Daemon::with_instances(2, "0:2", &map(&[(1, "low"), (2, "low")], ""));
    let gpus = daemon.status().gpus;
    let [divided, whole, first, second] = &gpus[..] else {
        panic!("{gpus:?}")
    };
    let states = [divided, whole, first, second].map(|gpu| gpu.state);
    assert_eq!(
        states,
        [
            GpuState::Divided,
            GpuState::Ready,
            GpuState::Ready,
            GpuState::Ready
        ]
    );
    assert!(first.uuid.starts_with("MIG-") && divided.uuid.starts_with("GPU-"));
    assert_eq!((first.index, &first.pci), (Some(2), &divided.pci));
    assert_eq!(first.model, format!("{} MIG 1g.2gb", divided.model));
    assert_eq!(first.memory, divided.memory / 2);
    assert!(
        gpus.iter().all(|gpu| gpu.driver.starts_with("softgpu-")),
        "{gpus:?}"
    );
    let uuids = |gpus: &[&vgpu_sched_api::messages::GpuStatus]| -> Vec<String> {
        gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
    };
    let status = daemon.status();
    assert_eq!(status.pools[0].gpus, uuids(&[whole, first, second]));
    assert!(status.pools[0].complete && status.degraded.is_empty());

    let pool = |uuid: &str| format!("[[pool]]\nname = \"A\"\ngpus = [\"{uuid}\"]\nvms = [\"1-9\"]\n");
    daemon.write_map(&pool(&divided.uuid));
    let Answer::Refused { why, message } = daemon.ask(&wanted(Change::Reload {})) else {
        panic!("a divided GPU serves a pool")
    };
    assert_eq!(why, Refusal::BadConfig);
    assert!(
        message.contains("line 3: ") && message.contains("in MIG mode"),
        "{message}"
    );
    daemon.load(&pool(&first.uuid));
    assert_eq!(daemon.backend(1).open(1), uuids(&[first]));
    let assign = |gpu: &str| {
        daemon.ask(&wanted(Change::Edit {
            edits: vec![Edit::AssignGpu {
                gpu: gpu.to_owned(),
                pool: "A".to_owned(),
            }],
        }))
    };
    assert!(matches!(assign("3"), Answer::Changed(_)));
    assert_eq!(daemon.status().pools[0].gpus, uuids(&[first, second]));
    // By the address it is the GPU that is meant.
    for name in ["0", &divided.pci] {
        let answer = assign(name);
        assert!(
            matches!(&answer, Answer::Refused { message, .. } if message.contains("in MIG mode")),
            "{answer:?}"
        );
    }
}

/// The driver names the GPU's address; the session's instance of it is what matters.
#[test]
fn a_fault_on_an_instance_is_told_to_be_the_instances() {
    let daemon = Daemon::with_kmsg(1, "0:2", &map(&[(1, "low"), (2, "low")], ""));
    let gpus = daemon.gpus();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (_first, second) = (one.session(1), two.session(1));
    let line = fault(second.pid(), 1).replace(":01:00)", ":01:00 GPU-I:01)");
    daemon.write_kmsg(&line);
    let (whose, where_, _, after) = next_error(&daemon, 0);
    assert_eq!((whose, where_), (Some((2, 1)), Some(gpus[2].clone())));
    // Nobody's is the GPU's.
    daemon.write_kmsg(&fault(std::process::id(), 1));
    let (whose, where_, ..) = next_error(&daemon, after);
    assert_eq!((whose, where_), (None, Some(gpus[0].clone())));
}

/// libcuda shows a process one instance at most, so that VMs are spread over a pool's.
#[test]
fn vms_are_spread_over_instances_and_a_vms_sessions_stay_together() {
    let mut daemon = Daemon::with_instances(1, "0:3", &map(&[(1, "low"), (2, "low"), (3, "low")], ""));
    let instances = daemon.gpus()[1..].to_vec();
    let only = |place: usize| instances[place..=place].to_vec();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    assert_eq!(one.open(1), only(0));
    assert_eq!(two.open(1), only(1));
    let (mut first, mut second) = (Exec::new(), Exec::new());
    one.attach(1, &mut first);
    two.attach(1, &mut second);
    assert_eq!((one.open(2), two.open(2)), (only(0), only(1)));

    assert_eq!(daemon.end(Signal::KILL), None);
    daemon.restart();
    let (one, two, three) = (daemon.backend(1), daemon.backend(2), daemon.backend(3));
    two.attach(1, &mut second);
    // One whose backend has not come back yet counts as well.
    assert_eq!(three.open(1), only(2));
    assert_eq!(two.open(3), only(1));
    one.attach(1, &mut first);
    assert_eq!(one.open(3), only(0));
    // With its last session, what it had is forgotten.
    for session in 1..=3 {
        assert_eq!(two.ask(&Request::CloseSession { session }), Answer::Ok);
    }
    for session in 1..=3 {
        assert_eq!(one.ask(&Request::CloseSession { session }), Answer::Ok);
    }
    assert_eq!(two.open(4), only(0));
    assert_eq!(one.open(4), only(1));
}

#[test]
fn a_vm_gets_as_many_gpus_as_its_pool_says() {
    let text = |count: u32| {
        let numbers = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"1-9\"]\ngpus_per_vm = ";
        format!("{numbers}{count}\n")
    };
    let mut daemon = Daemon::with_gpus(3, &text(2));
    let gpus = daemon.gpus();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let mut exec = one.session(1);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[..2]);
    assert_eq!(two.open(1), [gpus[0].clone(), gpus[2].clone()]);
    // With another number the next sessions have others, and those that run keep theirs.
    daemon.load(&text(1));
    assert_eq!(one.open(2), gpus[1..2]);
    assert_eq!(one.open(3), gpus[1..2]);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[..2]);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let one = daemon.backend(1);
    one.attach(1, &mut exec);
    assert_eq!(one.open(4), gpus[1..2]);
    daemon.load(&text(2));
    assert_eq!(one.open(5), gpus[..2]);
}
