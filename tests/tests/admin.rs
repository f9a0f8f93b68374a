//! The operator's command line on a whole host: what it prints, what it changes, and how it ends.
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json as value};
use vgpu_sched_api::messages::SCHEMA_VERSION;
use vgpu_tests::{Gpu, Host, Machine, Stack};
use vgpu_vm::Artifacts;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const UNREACHABLE: i32 = 4;
const DEGRADED: i32 = 5;

fn host(gpus: u32, pool_map: &str) -> Stack {
    Stack::start_host(&Artifacts::from_env(), Gpu::Software, gpus, pool_map).unwrap()
}

/// Runs the tool, which must end with that code; what it printed.
#[track_caller]
fn admin(stack: &Stack, command: &str, code: i32) -> String {
    let output = stack.admin().args(command.split_whitespace()).output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command}\n{out}\n{err}\n{}",
        stack.logs()
    );
    let failed = ![DONE, DEGRADED].contains(&code);
    assert_eq!(failed, !err.is_empty(), "{command}\n{err}");
    assert_eq!(failed, out.is_empty(), "{command}\n{out}");
    out + &err
}

/// The same with JSON, errors included.
#[track_caller]
fn json(stack: &Stack, command: &str, code: i32) -> Value {
    let output = stack
        .admin()
        .arg("--json")
        .args(command.split_whitespace())
        .output()
        .unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{command}\n{out}\n{err}");
    let value: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command}: {error}\n{out}"));
    assert_eq!(value["schema_version"], SCHEMA_VERSION, "{command}\n{out}");
    value
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// The first session of somebody who has read nothing but the usage.
#[test]
fn an_operator_sets_a_host_up() {
    let mut stack = host(2, "# Two GPUs.\n");
    assert!(admin(&stack, "status", DONE).contains("assign-gpu"));
    let scanned = json(&stack, "scan-gpus", DONE);
    assert_eq!(scanned["gpus"].as_array().unwrap().len(), 2);
    assert_eq!(scanned["gpus"][1]["state"], "unassigned");
    let second = scanned["gpus"][1]["uuid"].as_str().unwrap().to_owned();

    admin(&stack, "assign-gpu --gpu-id 0 --pool A", DONE);
    admin(&stack, &format!("assign-gpu --gpu-id {second} --pool B"), DONE);
    admin(&stack, "register-vm --vm-id 1-7 --pool A", DONE);
    let tried = json(
        &stack,
        "register-vm --vm-id 8-20 --pool B --weight 2 --dry-run",
        DONE,
    );
    assert_eq!(tried["dry_run"], true);
    assert_eq!(tried["changes"].as_array().unwrap().len(), 2, "{tried}");
    admin(
        &stack,
        "register-vm --vm-id 8-20 --pool B --queue-depth 64 --aging-ms 300",
        DONE,
    );
    let set = json(&stack, "set-priority --vm-id 1 --priority high", DONE);
    assert_eq!(
        set["changes"],
        serde_json::json!(["VM 1: priority high, was medium"])
    );
    assert_eq!(
        json(&stack, "set-priority --vm-id 1 --priority high", DONE)["changes"],
        serde_json::json!([])
    );
    admin(&stack, "set-weight --vm-id 1 --weight 4", DONE);

    // Who did it is kept, and the last of it is taken back.
    let map = fs::read_to_string(stack.pool_map()).unwrap();
    let number = json(&stack, "set-weight --vm-id 2-3 --weight 9", DONE)["number"]
        .as_u64()
        .unwrap();
    let audit = json(&stack, "audit --last 1", DONE)["changes"][0].clone();
    assert_eq!((&audit["number"], &audit["user"]), (&number.into(), &Value::Null));
    assert_eq!(audit["uid"], rustix::process::geteuid().as_raw());
    assert!(admin(&stack, "audit --diff", DONE).contains("    +weight = 9\n"));
    assert!(admin(&stack, &format!("undo {number} --dry-run"), DONE).contains("VMs 2-3: weight 1, was 9"));
    assert!(
        admin(&stack, &format!("undo {}", number - 1), FAILED)
            .contains("the last change of the pool map is ")
    );
    admin(&stack, &format!("undo {number}"), DONE);
    assert_eq!(fs::read_to_string(stack.pool_map()).unwrap(), map);
    assert!(admin(&stack, "undo 9999", NOT_FOUND).contains("hint: `vgpu-admin audit`"));

    // What it was told is so for a VM that starts now, and is counted.
    stack.start_backend(1).unwrap();
    Host::new(&stack, 1).must("vadd").unwrap();
    stack
        .until("the program's session is over", |stack| {
            stack.status().is_ok_and(|status| {
                status
                    .pools
                    .iter()
                    .flat_map(|pool| &pool.vms)
                    .all(|vm| vm.sessions.is_empty())
            })
        })
        .unwrap();
    let status = json(&stack, "status", DONE);
    assert_eq!(status["degraded"], serde_json::json!([]));
    let pools = &status["pools"];
    assert_eq!((&pools[0]["name"], &pools[1]["name"]), (&"A".into(), &"B".into()));
    assert_eq!(pools[0]["ranges"], serde_json::json!(["1-7"]));
    assert_eq!(pools[1]["ranges"], serde_json::json!(["8-20"]));
    assert_eq!(pools[1]["gpus"], serde_json::json!([second]));
    let vm = &pools[0]["vms"][0];
    assert_eq!(
        (&vm["vm"], &vm["priority"], &vm["weight"]),
        (&1.into(), &"high".into(), &4.into())
    );
    assert!(
        vm["calls"].as_u64().unwrap() > 0 && vm["turns"].as_u64().unwrap() > 0,
        "{vm}"
    );
    let other = &pools[1]["vms"][0];
    assert_eq!(
        (&other["queue_depth"], &other["aging_ms"]),
        (&64.into(), &300.into())
    );
    let turns = json(&stack, "turns --last 1", DONE);
    assert_eq!(turns["turns"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&turns["turns"][0]["vm"], &turns["turns"][0]["priority"]),
        (&1.into(), &"high".into())
    );

    let shown = admin(&stack, "status", DONE);
    for part in [
        "vgpu software GPU",
        "Pool A: GPU 0, VMs 1-7",
        "Pool B: GPU 1, VMs 8-20",
        "2-7",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert!(admin(&stack, "turns", DONE).contains("high"));
    let map = fs::read_to_string(stack.pool_map()).unwrap();
    assert!(map.starts_with("# Two GPUs.\n"), "{map}");
    admin(
        &stack,
        &format!("config check {}", stack.pool_map().display()),
        DONE,
    );

    // And back to nothing.
    admin(&stack, "register-vm --vm-id 8-20 --pool A --move", DONE);
    admin(&stack, "unassign-gpu --gpu-id 1 --pool B", DONE);
    admin(&stack, "unregister-vm --vm-id 1-20", DONE);
    admin(&stack, "unassign-gpu --gpu-id 0 --pool A", DONE);
    assert_eq!(
        fs::read_to_string(stack.pool_map()).unwrap().trim(),
        "# Two GPUs."
    );
}

#[test]
fn each_way_to_fail_has_its_exit_code_and_a_hint() {
    let mut stack = host(2, "");
    let cases = [
        ("set-weight --vm-id 1 --weight 0", USAGE),
        ("set-priority --vm-id 1 --priority hihg", USAGE),
        ("register-vm --vm-id 7-1 --pool A", USAGE),
        ("no-such-command", USAGE),
        ("register-vm --vm-id 8 --pool A", USAGE),
        ("unassign-gpu --gpu-id 0 --pool A", USAGE),
        ("config check /no/such/file", USAGE),
        ("set-pool --pool A", USAGE),
        ("set-pool --pool A --policy fair", USAGE),
        ("set-pool --pool A --gpus-per-vm 2", USAGE),
        ("set-pool --pool A --sharing mps --exclusive true", USAGE),
        ("set-limits --vm-id 1", USAGE),
        ("set-limits --vm-id 1 --gpu-share-max 101", USAGE),
        ("set-limits --vm-id 1 --call-burst 5", USAGE),
        ("quarantine --vm-id 1", USAGE),
        ("stats --prometheus --watch", USAGE),
        ("assign-gpu --gpu-id 7 --pool A", NOT_FOUND),
        ("register-vm --vm-id 30 --pool C", NOT_FOUND),
        ("set-weight --vm-id 30 --weight 2", NOT_FOUND),
        ("set-limits --vm-id 30 --call-rate 2", NOT_FOUND),
        ("set-pool --pool C --policy fifo", NOT_FOUND),
        ("quarantine --vm-id 30 --reason why", NOT_FOUND),
        ("release --vm-id 30", NOT_FOUND),
        ("unregister-vm --vm-id 30", NOT_FOUND),
    ];
    admin(&stack, "assign-gpu --gpu-id 0 --pool A", DONE);
    admin(&stack, "assign-gpu --gpu-id 1 --pool B", DONE);
    admin(&stack, "register-vm --vm-id 1-7 --pool A", DONE);
    admin(&stack, "register-vm --vm-id 8-20 --pool B", DONE);
    let before = fs::read_to_string(stack.pool_map()).unwrap();
    for (command, code) in cases {
        let said = admin(&stack, command, code);
        assert!(
            said.contains("hint: ") || said.contains("try '--help'"),
            "{command}\n{said}"
        );
        let error = &json(&stack, command, code)["error"];
        assert_eq!(error["exit_code"], code, "{error}");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{error}"
        );
        assert!(error["hint"].is_string(), "{error}");
    }
    assert_eq!(fs::read_to_string(stack.pool_map()).unwrap(), before);

    // A GPU falls off its bus: what there is to see is shown all the same.
    let lost = stack.dir().join("softgpu/lost-1");
    fs::write(&lost, "").unwrap();
    assert!(admin(&stack, "scan-gpus", DONE).contains("gone: GPU-"));
    assert!(admin(&stack, "status", DEGRADED).contains("DEGRADED: pool B"));
    assert_eq!(json(&stack, "status", DEGRADED)["pools"][1]["complete"], false);
    fs::remove_file(lost).unwrap();
    admin(&stack, "scan-gpus", DONE);
    admin(&stack, "status", DONE);

    stack.kill_vgpud();
    for command in [
        "status",
        "status --watch",
        "scan-gpus",
        "turns",
        "stats --prometheus",
        "events --follow",
        "probe",
        "record /nowhere",
        "release --vm-id 1",
        "reload",
        "unregister-vm --vm-id 1",
    ] {
        assert!(
            admin(&stack, command, UNREACHABLE).contains("hint: "),
            "{command}"
        );
    }
    assert_eq!(
        json(&stack, "status", UNREACHABLE)["error"]["kind"],
        "unreachable"
    );
    // A file can be checked without it.
    let check = format!("config check {} --offline", stack.pool_map().display());
    assert_eq!(json(&stack, &check, DONE)["gpus_compared"], false);
    stack.start_vgpud().unwrap();
    admin(&stack, "status", DONE);
}

#[test]
fn a_wrong_map_is_refused_and_the_old_one_stays() {
    let stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"1-7\"]\n");
    let good = fs::read_to_string(stack.pool_map()).unwrap();
    let unknown = "GPU-01234567-89ab-cdef-0123-456789abcdef";
    let cases = [
        (format!("{good}vmz = [8]\n"), 5, "unknown field `vmz`"),
        (good.replace("\"all\"", &format!("\"{unknown}\"")), 3, unknown),
        (good.replace("\"all\"", "\"GPU-1\""), 3, "expected a GPU's UUID"),
        (
            format!("{good}[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nvms = [7]\n"),
            8,
            "VM 7 is in pool \"A\"",
        ),
        (good.replace("1-7", "7-1"), 4, "expected \"1-7\""),
        (good.replace("1-7", ""), 4, "expected a VM's number"),
        (
            format!("{good}[vm.1]\npriority = \"hihg\"\n"),
            6,
            "expected one of `low`, `medium`, `high`",
        ),
        (
            format!("{good}[vm.1]\nqueue_depth = -1\n"),
            6,
            "expected a number from 1",
        ),
        (
            format!("{good}policy = \"fair\"\n"),
            5,
            "expected one of `priority`, `weighted`, `fifo`",
        ),
        (
            format!("{good}ladder = [\"stop\", \"stop\"]\n"),
            5,
            "listed twice",
        ),
        (
            format!("{good}[vm.1]\ncall_burst = 3\n"),
            6,
            "expected call_rate, too",
        ),
        (
            format!("{good}[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nexclusive = true\n"),
            8,
            "expected exclusive = false",
        ),
    ];
    let file = stack.pool_map().display().to_string();
    for (text, line, part) in cases {
        fs::write(stack.pool_map(), &text).unwrap();
        for command in ["reload", "reload --dry-run", &format!("config check {file}")] {
            let said = admin(&stack, command, USAGE);
            assert!(
                said.contains(&format!("{file}: line {line}: ")) && said.contains(part),
                "{said}\n{text}"
            );
        }
        let said = admin(&stack, "set-weight --vm-id 1 --weight 2", FAILED);
        assert!(
            said.contains("was changed by hand and is not in use yet"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(stack.pool_map()).unwrap(), text);
        assert_eq!(
            json(&stack, "status", DONE)["pools"][0]["ranges"],
            serde_json::json!(["1-7"])
        );
    }
    // A good one is tried first: what it says is not in use.
    fs::write(stack.pool_map(), good.replace("1-7", "1-8")).unwrap();
    let tried = json(&stack, "reload --dry-run", DONE);
    assert_eq!(
        (&tried["dry_run"], &tried["number"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(tried["changes"], value!(["VM 8: in pool A"]));
    assert_eq!(
        admin(&stack, "reload --dry-run", DONE),
        "would change (dry run):\n  VM 8: in pool A\n"
    );
    let ranges = |stack: &Stack| json(stack, "status", DONE)["pools"][0]["ranges"].clone();
    assert_eq!(ranges(&stack), serde_json::json!(["1-7"]));
    let said = admin(&stack, "reload", DONE);
    assert_eq!(said, format!("VM 8: in pool A\n{file} is in use: 1 pool\n"));
    assert_eq!(json(&stack, "reload", DONE)["dry_run"], false);
    assert!(admin(&stack, "audit --last 1", DONE).contains("VM 8: in pool A"));
    assert_eq!(ranges(&stack), serde_json::json!(["1-8"]));
    assert_eq!(
        admin(&stack, "reload --dry-run", DONE),
        "nothing to change: it is so already\n"
    );
    // Another host's GPUs are not known here.
    fs::write(stack.pool_map(), good.replace("all", unknown)).unwrap();
    admin(&stack, &format!("config check {file} --offline"), DONE);
    fs::write(stack.pool_map(), good).unwrap();
    admin(&stack, "reload", DONE);
}

/// How pools and VMs are treated is said, written, told of, and counts.
#[test]
fn pools_and_limits_are_set_while_the_host_runs() {
    let stack = host(
        1,
        "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"1-7\"] # ours\n\n[[pool]]\nname = \"B\"\ngpus = [\"all\"]\n",
    );
    let set = json(
        &stack,
        "set-pool --pool A --policy weighted --weight 2 --ladder stop,warn --gpu-memory-mib 512 --call-rate 1000",
        DONE,
    );
    let changes = value!([
        "pool A: policy weighted, was priority",
        "pool A: weight 2, was 1",
        "pool A: call_rate 1000, was no limit",
        "pool A: gpu_memory_mib 512, was no limit",
        "pool A: ladder warn, stop, was warn, deprioritise, stop, end, quarantine",
    ]);
    assert_eq!(set["changes"], changes);
    // Pools that share a GPU are made exclusive together.
    assert!(admin(&stack, "set-pool --pool A --exclusive true", USAGE).contains("shares every GPU"));
    admin(&stack, "set-pool --pool A --pool B --exclusive true", DONE);
    let tried = json(
        &stack,
        "set-limits --vm-id 3-5 --kernel-ms-max 2000 --dry-run",
        DONE,
    );
    assert_eq!(
        tried["changes"],
        value!(["VMs 3-5: kernel_ms_max 2000, was no limit"])
    );
    admin(
        &stack,
        "set-limits --vm-id 3-5 --kernel-ms-max 2000 --gpu-memory-mib 0",
        DONE,
    );
    admin(&stack, "register-vm --vm-id 8 --pool B --violations-max 3", DONE);
    let pools = json(&stack, "status", DONE)["pools"].clone();
    let a = &pools[0];
    assert_eq!(
        (&a["policy"], &a["exclusive"]),
        (&"weighted".into(), &true.into())
    );
    assert_eq!(
        (&a["weight"], &a["ladder"]),
        (&2.into(), &value!(["warn", "stop"]))
    );
    let limits = &a["vms"][0]["limits"];
    assert_eq!(
        (&limits["call_rate"], &limits["call_burst"]),
        (&1000.into(), &100.into())
    );
    assert_eq!(
        (&limits["kernel_ms_max"], &limits["gpu_memory_mib"]),
        (&2000.into(), &Value::Null)
    );
    let limits = &pools[1]["vms"][0]["limits"];
    assert_eq!(
        (&limits["violation_window_s"], &limits["quarantine_s"]),
        (&60.into(), &300.into())
    );
    let shown = admin(&stack, "status", DONE);
    for part in [
        "policy weighted, exclusive, weight 2\n",
        "only logged: deprioritise, end, quarantine\n",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let map = fs::read_to_string(stack.pool_map()).unwrap();
    assert!(
        map.contains("vms = [\"1-7\"] # ours\npolicy = \"weighted\"\n"),
        "{map}"
    );
}

/// It is neither forgotten nor out of reach.
#[test]
fn a_vm_that_is_unregistered_in_quarantine_is_released_all_the_same() {
    let stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2]\n");
    admin(&stack, "quarantine --vm-id 1 --reason loud", DONE);
    let said = admin(&stack, "unregister-vm --vm-id 1-2", DONE);
    assert_eq!(
        said,
        "VMs 1-2: no longer in pool A\nVM 1: stays in quarantine: vgpu-admin release --vm-id 1 ends that\n"
    );
    let shown = admin(&stack, "status", DONE);
    assert!(
        shown.contains("\nIn no pool:\n") && shown.contains("VM 1: QUARANTINED until it is released: loud\n"),
        "{shown}"
    );
    let status = json(&stack, "status", DONE);
    assert_eq!(status["in_no_pool"][0]["quarantine"]["why"], "loud");
    assert_eq!(admin(&stack, "release --vm-id 1-2", DONE), "VM 1: released\n");
    assert_eq!(json(&stack, "status", DONE)["in_no_pool"], value!([]));
    admin(&stack, "release --vm-id 1", NOT_FOUND);
}

/// Out of the way by hand, and back; both are remembered.
#[test]
fn a_quarantined_vm_works_again_when_it_is_released() {
    let mut stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2]\n");
    for vm in [1, 2] {
        stack.start_backend(vm).unwrap();
    }
    assert!(admin(&stack, "events", DONE).contains("Nothing has happened"));
    admin(&stack, "quarantine --vm-id 1 --reason loud --dry-run", DONE);
    Host::new(&stack, 1).must("vadd").unwrap();
    admin(&stack, "quarantine --vm-id 1 --reason loud", DONE);
    assert!(Host::new(&stack, 1).must("vadd").is_err());
    Host::new(&stack, 2).must("vadd").unwrap();
    assert!(admin(&stack, "status", DONE).contains("VM 1: QUARANTINED until it is released: loud\n"));
    let status = json(&stack, "status", DONE);
    assert_eq!(status["pools"][0]["vms"][0]["quarantine"]["why"], "loud");
    admin(&stack, "release --vm-id 1-2", DONE);
    Host::new(&stack, 1).must("vadd").unwrap();
    let events = json(&stack, "events --vm-id 1", DONE);
    let kinds: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["kind"])
        .collect();
    assert_eq!(kinds, ["quarantined", "released"], "{events}");
    assert_eq!(json(&stack, "events --vm-id 2", DONE)["events"], value!([]));

    // What they did is counted, for people and for machines.
    let stats = json(&stack, "stats", DONE);
    assert_eq!(
        (&stats["vms"][0]["vm"], &stats["vms"][1]["vm"]),
        (&1.into(), &2.into())
    );
    assert!(stats["vms"][0]["turns"].as_u64() > Some(0), "{stats}");
    assert!(admin(&stack, "stats", DONE).contains("throttled"));
    let text = admin(&stack, "stats --prometheus", DONE);
    assert!(
        text.contains("\nvgpu_vm_turns_total{vm=\"1\",pool=\"A\"} "),
        "{text}"
    );
    assert_eq!(json(&stack, "probe", DONE)["gpus"].as_array().unwrap().len(), 1);
}

/// For people, programs and Prometheus; what is not known is not 0.
#[test]
fn what_gpus_measure_is_told() {
    let stack = host(2, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n");
    let sensors = "temperature 41\npower 312500\npower_limit 700000\nutilization 87\nmemory_utilization 34\n\
        ecc 1\necc_volatile 2\n";
    fs::write(stack.dir().join("softgpu/sensors-1"), sensors).unwrap();
    stack
        .until("the sensors were read", |stack| {
            let status = stack.status();
            status.is_ok_and(|status| status.gpus[1].measured.ecc_volatile == Some(2))
        })
        .unwrap();
    let status = json(&stack, "status", DONE);
    let gpu = &status["gpus"][1]["measured"];
    assert_eq!(
        (&gpu["temperature"], &gpu["power_mw"], &gpu["ecc"]),
        (&41.into(), &312_500.into(), &true.into())
    );
    assert_eq!(
        (&gpu["sm_clock_mhz"], &gpu["memory_used"]),
        (&Value::Null, &0.into())
    );
    assert_eq!(status["gpus"][0]["measured"]["temperature"], Value::Null);
    assert!(admin(&stack, "status", DONE).contains("41 C, 312/700 W, 87 %"));
    let text = admin(&stack, "status --gpus", DONE);
    assert!(
        text.contains("41 C  312 W  700 W  87 %") && !text.contains("Pool A"),
        "{text}"
    );

    let text = admin(&stack, "stats --prometheus", DONE);
    let uuid = status["gpus"][1]["uuid"].as_str().unwrap();
    let hostname = status["hostname"].as_str().unwrap();
    let temperature = format!(
        "vgpu_gpu_temperature_celsius{{gpu=\"1\",UUID=\"{uuid}\",pci_bus_id=\"00000000:02:00.0\",device=\"nvidia1\",\
         modelName=\"vgpu software GPU\",hostname=\"{hostname}\"}} 41"
    );
    let told: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("vgpu_gpu_temperature_celsius"))
        .collect();
    assert_eq!(told, [temperature]);
    assert!(
        text.contains("\nvgpu_gpu_ecc_volatile_uncorrected_errors_total{gpu=\"1\","),
        "{text}"
    );
}

/// What comes while it is recorded is in the file, each line an arrival of its own.
#[test]
fn arrivals_are_recorded() {
    let mut stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n");
    stack.start_backend(1).unwrap();
    let file = stack.dir().join("arrivals");
    let mut command = stack.admin();
    command.args(["--json", "record"]).arg(&file);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    stack.until("it records", |_| file.exists()).unwrap();
    Host::new(&stack, 1).must("vadd").unwrap();
    stack
        .until("the session is over", |stack| {
            stack
                .status()
                .is_ok_and(|status| status.pools[0].vms[0].sessions.is_empty())
        })
        .unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(DONE), "{}", texts(&output).1);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["vgpu_record"], 1);
    assert!(lines.len() > 1, "{text}");
    assert_eq!(told["arrivals"], lines.len() - 1);
    assert!(
        lines[1..]
            .iter()
            .all(|line| line["vm"] == 1 && line["pool"] == "A"),
        "{text}"
    );
}

/// Both write through `vgpud`, one after the other.
#[test]
fn two_administrators_at_once_lose_nothing() {
    let stack = host(
        1,
        "# Ours.\n[[pool]]\nname = \"A\" # the only one\ngpus = [\"all\"]\n",
    );
    std::thread::scope(|scope| {
        for first in [1, 2] {
            let stack = &stack;
            scope.spawn(move || {
                // Every other VM, so that each edit joins what another one wrote.
                for vm in (first..=16).step_by(2) {
                    let command = format!("register-vm --vm-id {vm} --pool A --weight {}", vm + 1);
                    admin(stack, &command, DONE);
                }
            });
        }
    });
    let pool = &json(&stack, "status", DONE)["pools"][0];
    assert_eq!(pool["ranges"], serde_json::json!(["1-16"]));
    let weights: Vec<u64> = pool["vms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| vm["weight"].as_u64().unwrap())
        .collect();
    assert_eq!(weights, (2..=17).collect::<Vec<u64>>());
    let map = fs::read_to_string(stack.pool_map()).unwrap();
    assert!(
        map.starts_with("# Ours.\n[[pool]]\nname = \"A\" # the only one\n"),
        "{map}"
    );
}

#[test]
fn what_vgpud_may_not_write_stays() {
    let text = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n";
    let stack = host(1, text);
    fs::set_permissions(stack.pool_map(), Permissions::from_mode(0o444)).unwrap();
    let said = admin(&stack, "set-weight --vm-id 1 --weight 3", FAILED);
    assert!(
        said.contains("cannot be written") && said.contains("hint: "),
        "{said}"
    );
    assert_eq!(fs::read_to_string(stack.pool_map()).unwrap(), text);
    let weight = |stack: &Stack| json(stack, "status", DONE)["pools"][0]["vms"][0]["weight"].clone();
    assert_eq!(weight(&stack), Value::Null);
    fs::set_permissions(stack.pool_map(), Permissions::from_mode(0o644)).unwrap();
    admin(&stack, "set-weight --vm-id 1 --weight 3", DONE);
    assert_eq!(weight(&stack), 3);
}

/// Those who may ask may not change things, and others may not even ask. (Only root can be somebody else.)
#[test]
fn only_administrators_change_things() {
    let stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let code = |(uid, gid): (u32, u32), arguments: &[&str]| {
        let mut command = stack.admin();
        command.args(arguments).uid(uid).gid(gid).current_dir("/");
        command.output().unwrap().status.code()
    };
    let vm = stack.vm_user(1);
    assert_eq!(code(vm, &["status"]), Some(DONE));
    // What changes nothing he may ask, but for what is in the file and not in use.
    for arguments in [
        &["scan-gpus"][..],
        &["unregister-vm", "--vm-id", "1", "--dry-run"],
    ] {
        assert_eq!(code(vm, arguments), Some(DONE), "{arguments:?}");
    }
    for arguments in [
        &["reload"][..],
        &["reload", "--dry-run"],
        &["unregister-vm", "--vm-id", "1"],
    ] {
        assert_eq!(code(vm, arguments), Some(FAILED), "{arguments:?}");
    }
    let changes = json(&stack, "audit", DONE)["changes"].clone();
    let refused: Vec<_> = changes.as_array().unwrap().iter().collect();
    assert_eq!(refused.len(), 2, "{changes}");
    for record in refused {
        assert_eq!(record["uid"], vm.0, "{record}");
        assert!(record["refused"].is_string(), "{record}");
    }
    assert_eq!(code((65_534, 65_534), &["status"]), Some(UNREACHABLE));
    assert_eq!(
        json(&stack, "status", DONE)["pools"][0]["ranges"],
        serde_json::json!(["1"])
    );
}

/// What is not as it should be is told with what to do, by whoever asks, whether `vgpud` runs or not.
#[test]
fn a_host_is_looked_at() {
    let mut stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2]\n");
    for vm in [1, 2] {
        stack.start_backend(vm).unwrap();
    }
    // The QEMU that the tests have is found only with its libraries.
    let qemu = Artifacts::from_env().qemu_command().unwrap();
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in qemu.get_envs() {
        script += &format!("export {}='{}'\n", name.display(), value.unwrap().display());
    }
    let words = [qemu.get_program()].into_iter().chain(qemu.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
    script += &format!("exec {} \"$@\"\n", words.join(" "));
    let program = stack.dir().join("qemu");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let command = format!(
        "doctor --libnvidia-ml /no/such/library --qemu {}",
        program.display()
    );

    // A software GPU has no driver, so there is always something wrong.
    let told = json(&stack, &command, DEGRADED);
    let finding = |told: &Value, check: &str| {
        let all = told["findings"].as_array().unwrap();
        all.iter().find(|one| one["check"] == check).unwrap().clone()
    };
    assert_eq!(finding(&told, "NVIDIA driver")["level"], "wrong", "{told}");
    let gpus = finding(&told, "GPUs");
    assert_eq!(gpus["level"], "unseen");
    assert!(
        gpus["found"].as_str().unwrap().contains("/no/such/library"),
        "{gpus}"
    );
    for check in ["memfd", "QEMU", "vgpud"] {
        assert_eq!(finding(&told, check)["level"], "ok", "{told}");
        assert_eq!(finding(&told, check)["advice"], Value::Null);
    }
    let state = finding(&told, "state folder")["found"].clone();
    assert!(state.as_str().unwrap().contains("MiB free"), "{state}");
    if rustix::process::geteuid().is_root() {
        assert_eq!(finding(&told, "pool map")["level"], "ok", "{told}");
        let users = finding(&told, "backends' users");
        assert_eq!(users["found"], "2 backends, as users of their own");
        // Whoever may see less is told what he may not see, and the rest.
        let mut nobody = stack.admin();
        nobody
            .args(["--json", "doctor", "--libnvidia-ml", "/no/such/library"])
            .uid(65_534)
            .gid(65_534)
            .current_dir("/");
        let output = nobody.output().unwrap();
        assert_eq!(output.status.code(), Some(DEGRADED), "{}", texts(&output).1);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let vgpud = finding(&told, "vgpud");
        assert_eq!(vgpud["level"], "unseen");
        assert!(vgpud["found"].as_str().unwrap().contains("denied"), "{vgpud}");
        assert_eq!(finding(&told, "memfd")["level"], "ok");
    }
    fs::set_permissions(stack.pool_map(), Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        finding(&json(&stack, &command, DEGRADED), "pool map")["level"],
        "wrong"
    );
    let shown = admin(&stack, &command, DEGRADED);
    assert!(
        shown.contains("WRONG     pool map") && shown.contains("-> `chmod o-w "),
        "{shown}"
    );

    stack.kill_vgpud();
    let told = json(&stack, &command, DEGRADED);
    assert_eq!(finding(&told, "vgpud")["level"], "wrong");
    assert_eq!(finding(&told, "QEMU")["level"], "ok");
}

/// What a container is given leads its programs to the GPU; here they find at the host's paths what it has at its own.
#[test]
fn a_containers_programs_find_the_gpu_through_its_file() {
    let mut stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n");
    stack.start_backend(1).unwrap();
    let libraries = stack.artifacts().guest_lib_dir().canonicalize().unwrap();
    // Where its backend listens is seen.
    let command = format!("cdi --vm-id 1 --libraries {}", libraries.display());
    let file: Value = serde_json::from_str(&admin(&stack, &command, DONE)).unwrap();
    let edits = &file["devices"][0]["containerEdits"];
    let mut container = Host::native(stack.artifacts());
    for variable in edits["env"].as_array().unwrap() {
        let (name, value) = variable.as_str().unwrap().split_once('=').unwrap();
        let mounts = edits["mounts"].as_array().unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount["containerPath"] == value)
            .unwrap();
        container = container.with(name, mount["hostPath"].as_str().unwrap());
    }
    container.must("vadd").unwrap();
    let path = format!("path={}'", stack.socket(1).display());
    assert!(admin(&stack, "domain-xml --vm-id 1", DONE).contains(&path));
}

/// What a VM's program does is on the live screen while it does it; so is what was known last when `vgpud` is gone.
#[test]
fn the_live_screen_shows_what_goes_on() {
    let mut stack = host(1, "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n");
    stack.start_backend(1).unwrap();
    let mut machine = Host::new(&stack, 1);
    let _work = machine.start("exec work 3000 100000").unwrap();
    let has_session = |stack: &Stack| {
        let vms = stack.status().unwrap().pools.remove(0).vms;
        vms.iter().any(|vm| !vm.sessions.is_empty())
    };
    stack.until("the program has a session", has_session).unwrap();

    let top = stack.admin();
    let words = [top.get_program()].into_iter().chain(top.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
    // It makes a terminal.
    let mut script = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command"])
        .arg(format!("stty rows 24 cols 80; exec {} top", words.join(" ")))
        .arg("/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = script.stdout.take().unwrap();
    let mut shown = String::new();
    let mut until = |what: &str| {
        let mut bytes = [0; 4096];
        while !shown.contains(what) {
            // After that it is not slow, but stuck.
            let limit = Timespec {
                tv_sec: 60,
                tv_nsec: 0,
            };
            let mut readable = [PollFd::new(&screen, PollFlags::IN)];
            let ready = poll(&mut readable, Some(&limit)).unwrap();
            let read = screen.read(&mut bytes[..4096 * ready]).unwrap();
            assert_ne!(read, 0, "no {what} in {shown}");
            shown += &String::from_utf8_lossy(&bytes[..read]);
        }
    };
    until("work:");
    // There is a share as soon as it was looked twice.
    until("%");
    stack.kill_vgpud();
    until("ANSWER");
    script.stdin.take().unwrap().write_all(b"q").unwrap();
    // The screen that was there before is back.
    until("\x1b[?1049l");
    assert_eq!(script.wait().unwrap().code(), Some(DONE));
}

/// Whoever reads what it prints may stop, and what is shown again and again is an object per line.
#[test]
fn readers_come_and_go() {
    let stack = host(1, "");
    let start = |arguments: &[&str]| {
        let mut command = stack.admin();
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = start(&["status"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(DONE), "{}", texts(&output).1);

    let mut child = start(&["status", "--watch", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(status["schema_version"], SCHEMA_VERSION);
    }
    drop(lines);
    // It ends when it finds that nobody reads.
    assert_eq!(child.wait().unwrap().code(), Some(DONE));
}
