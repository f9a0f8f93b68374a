//! Each finding, from facts.
use super::super::facts::Mig;
use super::*;
use Level::{Ok as Fine, Unseen, Warning, Wrong};
use vgpu_client::failure::Kind;
use vgpu_client::fixture;

/// A host on which all is well.
fn good() -> Facts {
    let place = |path: &str, mode| Place {
        path: path.into(),
        mode,
        uid: 990,
        gid: 990,
    };
    Facts {
        driver: Some("580.159.04".to_owned()),
        nodes: nodes_with(0o660),
        nvml: "libnvidia-ml.so.1".into(),
        uvm: Uvm::Loaded {
            hmm_disabled: Some(true),
        },
        gpus: Ok(vec![gpu(0), gpu(1)]),
        limits: Some(enough()),
        memfd: Ok(()),
        landlock: Ok(7),
        seccomp: true,
        kvm: Kvm::Usable {
            mode: 0o660,
            gid: 104,
        },
        qemu: Qemu {
            program: "qemu-system-x86_64".into(),
            told: Ok((
                "QEMU emulator version 11.1.3".to_owned(),
                "name \"vhost-user-test-device-pci\", bus PCI\n".to_owned(),
            )),
        },
        vgpud: Ok(Status {
            degraded: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..fixture::host()
        }),
        may_ask: true,
        scheduler: Some(service(990, &["/usr/bin/vgpud"])),
        backends: vec![backend(1001, 3), backend(1002, 9)],
        state: ("/var/lib/vgpu".into(), Ok(1 << 40)),
        pool_map: Ok([place("/etc/vgpu/pools.toml", 0o644), place("/etc/vgpu", 0o755)]),
    }
}

/// The group of the driver's devices, in which the services are.
const DEVICES: u32 = 995;

fn nodes_with(mode: u32) -> Vec<Node> {
    let names = [
        "nvidia-caps-imex",
        "nvidia-uvm",
        "nvidia0",
        "nvidia1",
        "nvidiactl",
    ];
    names
        .map(|name| Node {
            name: name.to_owned(),
            mode,
            uid: 0,
            gid: DEVICES,
        })
        .to_vec()
}

fn gpu(index: u32) -> Gpu {
    Gpu {
        index,
        persistent: Some(true),
        mig: Some(Mig {
            on: false,
            will_be_on: false,
            instances: 0,
        }),
        compute: Some(Compute::Shared),
    }
}

fn enough() -> Limits {
    Limits {
        files: Some(524_288),
        ..Limits::default()
    }
}

fn service(uid: u32, arguments: &[&str]) -> Service {
    Service {
        pid: 7,
        user: User {
            uid,
            gids: vec![uid, DEVICES],
        },
        arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
        folder: "/".into(),
        limits: Some(enough()),
    }
}

fn backend(uid: u32, vm: u32) -> Service {
    service(uid, &["vgpu-backend", "--vm-id", &vm.to_string()])
}

/// What is said of a host that differs from a good one in this.
#[track_caller]
fn said(change: impl FnOnce(&mut Facts), check: &str, level: Level, part: &str) {
    let mut facts = good();
    change(&mut facts);
    let all = examine(&facts);
    let found = all.iter().find(|finding| finding.check == check).unwrap();
    assert_eq!(found.level, level, "{found:?}");
    assert!(found.found.contains(part), "{found:?}");
    // Whatever is not as it should be comes with what to do, and nothing else does.
    assert_eq!(found.advice.is_some(), level != Fine, "{found:?}");
}

#[test]
fn on_a_good_host_all_is_well() {
    let all = examine(&good());
    assert!(all.iter().all(|finding| finding.level == Fine), "{all:#?}");
    assert!(!super::super::is_wrong(&all));
    assert_eq!(all.len(), 17);
}

/// On a host without anything each thing is still told of.
#[test]
fn what_is_not_there_is_told() {
    let facts = Facts {
        driver: None,
        nodes: Vec::new(),
        uvm: Uvm::Missing,
        gpus: Err("NVML is not there".to_owned()),
        limits: None,
        landlock: Err("Function not implemented".to_owned()),
        kvm: Kvm::Missing,
        vgpud: Err(Failure::new(Kind::Unreachable, "vgpud cannot be reached").hint("start it")),
        scheduler: None,
        backends: Vec::new(),
        state: ("/s".into(), Err("No such file or directory".to_owned())),
        pool_map: Err("/p: No such file or directory".to_owned()),
        qemu: Qemu {
            program: "q".into(),
            told: Err("No such file or directory".to_owned()),
        },
        ..good()
    };
    let all = examine(&facts);
    assert!(super::super::is_wrong(&all));
    let levels: Vec<(&str, Level)> = all
        .iter()
        .filter(|finding| finding.level != Fine)
        .map(|finding| (finding.check, finding.level))
        .collect();
    let expected = [
        ("NVIDIA driver", Wrong),
        ("device nodes", Unseen),
        ("nvidia-uvm", Unseen),
        ("GPUs", Unseen),
        ("Landlock", Warning),
        ("limits", Unseen),
        ("locked memory", Unseen),
        ("/dev/kvm", Warning),
        ("QEMU", Unseen),
        ("vgpud", Wrong),
        ("state folder", Unseen),
        ("pool map", Unseen),
    ];
    assert_eq!(levels, expected);
}

#[test]
fn each_driver_is_judged() {
    let with = |version: &str, level, part| {
        said(
            |facts| facts.driver = Some(version.to_owned()),
            "NVIDIA driver",
            level,
            part,
        );
    };
    with("580.159.04", Fine, "proved");
    with("580.95.05", Warning, "proved with 580.159 alone");
    with("595.10", Warning, "proved with 580.159 alone");
    with("575.57.08", Warning, "CUDA 13");
    with("535.216.01", Wrong, "too old");
    with("N/A", Unseen, "no version");
}

/// What is proved is what the documents say.
#[test]
fn the_documents_name_the_same_versions() {
    let [first, second] = DRIVER_PROVED;
    let architecture = include_str!("../../../../docs/architecture.md");
    assert!(architecture.contains(&format!("driver {first}.{second}.")));
    let readme = include_str!("../../../../README.md");
    assert!(readme.contains(&format!("R{DRIVER_MIN} or newer")));
    assert!(readme.contains(&format!("proved on {first}.{second};")));
    assert!(readme.contains(&format!("CUDA 13 need {DRIVER_CUDA_13}")));
    assert!(readme.contains(&format!("QEMU **{QEMU_MIN} or newer**")));
    let launching = include_str!("../../../../docs/platforms.md");
    assert!(launching.contains(&format!("-device {DEVICE},")));
    assert!(launching.contains(&format!("QEMU {QEMU_MIN} or newer")));
}

/// What is enough is what the services themselves ask for.
#[test]
fn the_services_have_the_same_numbers() {
    let jail = include_str!("../../../../cuda-exec/src/jail.rs");
    assert!(jail.contains(&format!("FILES_MAX: u64 = {FILES_MIN};")));
    let newest = jail.split("LANDLOCK: ABI = ABI::V").nth(1).unwrap();
    let newest: u32 = newest.split(';').next().unwrap().parse().unwrap();
    assert!(LANDLOCK.iter().all(|(version, ..)| *version <= newest));
    let spawn = include_str!("../../../../vhost-backend/src/device/spawn.rs");
    assert!(spawn.contains("STACK_ROOM: u64 = 6 << 40;") && STACK_MIN == 6 << 40);
}

#[test]
fn device_nodes_are_there_and_not_for_everybody() {
    let without =
        |name: &'static str| move |facts: &mut Facts| facts.nodes.retain(|node| !node.name.starts_with(name));
    said(without("nvidiactl"), "device nodes", Wrong, "/dev/nvidiactl");
    said(without("nvidia-uvm"), "device nodes", Wrong, "/dev/nvidia-uvm");
    let no_gpu = |facts: &mut Facts| {
        without("nvidia0")(facts);
        without("nvidia1")(facts);
    };
    said(no_gpu, "device nodes", Wrong, "/dev/nvidia0");
    let open = |facts: &mut Facts| facts.nodes = nodes_with(0o666);
    said(
        open,
        "device nodes",
        Warning,
        "every user may open /dev/nvidia-uvm, /dev/nvidia0, /dev/nvidia1, /dev/nvidiactl",
    );
    said(|_| {}, "device nodes", Fine, "2 GPUs");
}

#[test]
fn services_may_open_the_device_nodes() {
    let check = "device nodes";
    let group = |at: usize| move |facts: &mut Facts| facts.nodes[at].gid = 7;
    said(
        group(1),
        check,
        Wrong,
        "vgpud, user 990, may not open /dev/nvidia-uvm: mode 0660, of user 0 and group 7",
    );
    // Those that are not used are nobody's business.
    said(group(0), check, Fine, "2 GPUs");
    said(
        |facts| facts.backends[1].user.gids.truncate(1),
        check,
        Wrong,
        "VM 9's backend, user 1002, may not open",
    );
    said(|facts| facts.nodes = nodes_with(0o640), check, Wrong, "mode 0640");
    let of_root = |facts: &mut Facts| {
        group(1)(facts);
        facts.backends.clear();
        facts.scheduler.as_mut().unwrap().user.uid = 0;
    };
    said(of_root, check, Fine, "2 GPUs");
    let unseen = |facts: &mut Facts| {
        group(1)(facts);
        facts.backends.clear();
        facts.scheduler = None;
    };
    said(unseen, check, Fine, "2 GPUs");
}

/// Nothing is said of a driver that the GPUs do without.
#[test]
fn a_software_gpu_is_called_one() {
    let software = |facts: &mut Facts| {
        facts.driver = None;
        facts.nodes.clear();
        facts.uvm = Uvm::Missing;
        facts.nvml = "/opt/softgpu/libnvidia-ml.so.1".into();
        facts.gpus.as_mut().unwrap()[0].persistent = None;
    };
    said(
        software,
        "NVIDIA driver",
        Warning,
        "not loaded, and the 2 GPUs that /opt/softgpu/libnvidia-ml.so.1 lists need none:",
    );
    let mut facts = good();
    software(&mut facts);
    let all = examine(&facts);
    let others = all.iter().filter(|finding| finding.level != Fine);
    assert_eq!(others.count(), 1, "{all:#?}");
    for check in ["device nodes", "nvidia-uvm", "persistence", "MIG"] {
        assert!(all.iter().all(|finding| finding.check != check), "{check}");
    }
    // A driver that finds none is another matter.
    facts.gpus = Ok(Vec::new());
    assert!(super::super::is_wrong(&examine(&facts)));
}

#[test]
fn uvm_is_to_be_without_hmm() {
    let with = |hmm_disabled, level, part| {
        said(
            |facts| facts.uvm = Uvm::Loaded { hmm_disabled },
            "nvidia-uvm",
            level,
            part,
        );
    };
    with(Some(false), Warning, "HMM allowed");
    with(None, Unseen, "does not say");
    said(
        |facts| facts.uvm = Uvm::Missing,
        "nvidia-uvm",
        Wrong,
        "not loaded",
    );
}

#[test]
fn each_mode_of_a_gpu_is_judged() {
    let with = |change: fn(&mut Gpu), check, level, part| {
        said(
            |facts| change(&mut facts.gpus.as_mut().unwrap()[1]),
            check,
            level,
            part,
        );
    };
    with(
        |gpu| gpu.persistent = Some(false),
        "persistence",
        Warning,
        "off on GPU 1",
    );
    with(|gpu| gpu.persistent = None, "persistence", Unseen, "of GPU 1");
    with(
        |gpu| gpu.compute = Some(Compute::Exclusive),
        "compute mode",
        Wrong,
        "one process",
    );
    with(
        |gpu| gpu.compute = Some(Compute::Nobody),
        "compute mode",
        Wrong,
        "prohibited",
    );
    with(|gpu| gpu.compute = None, "compute mode", Unseen, "of GPU 1");
    let mig = |on, will_be_on, instances| {
        move |facts: &mut Facts| {
            for gpu in facts.gpus.as_mut().unwrap() {
                gpu.mig = Some(Mig {
                    on,
                    will_be_on,
                    instances,
                });
            }
        }
    };
    said(mig(true, true, 0), "MIG", Wrong, "GPUs 0, 1");
    said(mig(true, true, 2), "MIG", Warning, "never tried");
    said(mig(false, true, 0), "MIG", Warning, "next reset");
    with(|gpu| gpu.mig = None, "MIG", Fine, "off");
    said(|facts| facts.gpus = Ok(Vec::new()), "GPUs", Wrong, "none");
}

#[test]
fn the_jail_needs_what_the_kernel_has() {
    said(
        |facts| facts.landlock = Ok(5),
        "Landlock",
        Warning,
        "without signals",
    );
    said(
        |facts| facts.landlock = Ok(3),
        "Landlock",
        Warning,
        "without TCP, ioctl",
    );
    said(|facts| facts.landlock = Ok(6), "Landlock", Fine, "version 6");
    said(|facts| facts.seccomp = false, "seccomp", Wrong, "not there");
    said(
        |facts| facts.memfd = Err("Permission denied".to_owned()),
        "memfd",
        Wrong,
        "Permission",
    );
}

#[test]
fn limits_are_those_of_the_backends() {
    let with = |limits: Limits, level, part| {
        said(
            |facts| facts.backends[1].limits = Some(limits),
            "limits",
            level,
            part,
        );
        let alone = |facts: &mut Facts| {
            facts.backends.clear();
            facts.limits = Some(limits);
        };
        said(
            alone,
            "limits",
            level,
            if level == Fine { "this user" } else { part },
        );
    };
    let few = Limits {
        files: Some(1024),
        ..enough()
    };
    with(few, Warning, "fewer than 4096 open files for ");
    let stack = Limits {
        stack: Some(8 << 20),
        ..enough()
    };
    with(stack, Warning, "the stack of ");
    let addresses = Limits {
        addresses: Some(1 << 40),
        ..enough()
    };
    with(addresses, Wrong, "the address space of ");
    said(|_| {}, "limits", Fine, "2 backends");
    said(|facts| facts.limits = Some(few), "limits", Fine, "2 backends");
}

/// Whoever asks has a limit of his own, which is none of the services'.
#[test]
fn the_limit_of_locked_memory_is_the_backends() {
    let check = "locked memory";
    let limited = Limits {
        locked: Some(8 << 20),
        ..enough()
    };
    said(|facts| facts.limits = Some(limited), check, Fine, "no limit");
    said(
        |facts| facts.backends[1].limits = Some(limited),
        check,
        Warning,
        "at most 8192 KiB for VM 9's backend",
    );
    let nobody = |facts: &mut Facts| facts.backends.clear();
    said(nobody, check, Unseen, "no vgpu-backend is seen");
    let hidden = |facts: &mut Facts| {
        for backend in &mut facts.backends {
            backend.limits = None;
        }
    };
    said(hidden, check, Unseen, "no vgpu-backend is seen");
}

#[test]
fn what_runs_vms_is_judged() {
    let refused = Kvm::Refused {
        why: "Permission denied".to_owned(),
        mode: 0o660,
        gid: 104,
    };
    said(
        |facts| facts.kvm = refused,
        "/dev/kvm",
        Warning,
        "mode 0660, group 104",
    );
    let old = |facts: &mut Facts| {
        facts.qemu.told = Ok((
            "QEMU emulator version 10.0.2".to_owned(),
            "name \"vhost-user-blk-pci\", bus PCI\n".to_owned(),
        ));
    };
    said(old, "QEMU", Wrong, "version 10.0.2");
}

#[test]
fn vgpud_is_to_answer_and_to_be_of_this_version() {
    let status = |change: fn(&mut Status)| move |facts: &mut Facts| change(facts.vgpud.as_mut().unwrap());
    said(
        status(|status| status.version = "9.9.9".to_owned()),
        "vgpud",
        Wrong,
        "it is version 9.9.9",
    );
    said(
        status(|status| status.degraded = vec!["pool A: gone".to_owned()]),
        "vgpud",
        Warning,
        "pool A: gone",
    );
    let silent = |facts: &mut Facts| facts.vgpud = Err(Failure::new(Kind::Failed, "nonsense"));
    said(silent, "vgpud", Wrong, "nonsense");
    let refused = |facts: &mut Facts| {
        silent(facts);
        facts.may_ask = false;
    };
    said(refused, "vgpud", Unseen, "nonsense");
}

#[test]
fn the_state_folder_is_to_have_room() {
    let with = |free, level| {
        said(
            |facts| facts.state.1 = Ok(free),
            "state folder",
            level,
            "/var/lib/vgpu",
        )
    };
    with(STATE_LOW, Fine);
    with(STATE_LOW - 1, Warning);
    with(STATE_MIN - 1, Wrong);
}

#[test]
fn the_pool_map_is_vgpuds_and_nobody_elses() {
    let mode = |at: usize, mode| move |facts: &mut Facts| facts.pool_map.as_mut().unwrap()[at].mode = mode;
    said(
        mode(0, 0o666),
        "pool map",
        Wrong,
        "every user may write /etc/vgpu/pools.toml",
    );
    said(
        mode(1, 0o777),
        "pool map",
        Wrong,
        "every user may write /etc/vgpu,",
    );
    said(mode(1, 0o1777), "pool map", Fine, "vgpud may replace it");
    said(
        mode(0, 0o444),
        "pool map",
        Warning,
        "user 990, may not write /etc/vgpu/pools.toml",
    );
    // As the package has it, the folder is root's.
    let uid = |at: usize, uid| move |facts: &mut Facts| facts.pool_map.as_mut().unwrap()[at].uid = uid;
    let packaged = |facts: &mut Facts| {
        uid(1, 0)(facts);
        mode(1, 0o1775)(facts);
    };
    said(packaged, "pool map", Fine, "vgpud may replace it");
    let closed = |facts: &mut Facts| {
        uid(1, 0)(facts);
        mode(1, 0o755)(facts);
    };
    said(
        closed,
        "pool map",
        Warning,
        "vgpud, user 990, may make no file in /etc/vgpu:",
    );
    // The new file is to have the old one's owner and group, whoever may write to that.
    let of_another = |facts: &mut Facts| {
        uid(0, 0)(facts);
        mode(0, 0o664)(facts);
    };
    said(
        of_another,
        "pool map",
        Warning,
        "may not replace /etc/vgpu/pools.toml, which is user 0's",
    );
    said(
        |facts| facts.pool_map.as_mut().unwrap()[0].gid = 7,
        "pool map",
        Warning,
        "may not replace /etc/vgpu/pools.toml, which is of group 7",
    );
    said(
        |facts| facts.scheduler = None,
        "pool map",
        Fine,
        "mode 0644, of user 990",
    );
    let root = |facts: &mut Facts| {
        of_another(facts);
        facts.scheduler.as_mut().unwrap().user.uid = 0;
    };
    said(root, "pool map", Fine, "vgpud may replace it");
}

#[test]
fn each_backend_is_to_have_a_user_of_its_own() {
    let check = "backends' users";
    said(
        |facts| facts.backends[0].user.uid = 0,
        check,
        Wrong,
        "root runs VM 3's backend",
    );
    said(
        |facts| facts.backends[0].user.uid = 990,
        check,
        Wrong,
        "vgpud's user runs VM 3's",
    );
    let not_jailed = |facts: &mut Facts| facts.backends[1].arguments.push("--no-jail".to_owned());
    said(not_jailed, check, Wrong, "without a jail: VM 9's backend");
    said(|facts| facts.backends.clear(), check, Fine, "no vgpu-backend");
    let shared = |facts: &mut Facts| facts.backends[1].user.uid = 1001;
    // The fixture's pool shares through MPS.
    said(shared, check, Fine, "2 backends");
    let in_turns = |facts: &mut Facts| {
        shared(facts);
        facts.vgpud.as_mut().unwrap().pools[0].sharing = Sharing::Turns;
    };
    said(
        in_turns,
        check,
        Wrong,
        "user 1001 runs VM 3's backend, VM 9's backend",
    );
    let unknown = |facts: &mut Facts| {
        shared(facts);
        facts.vgpud = Err(Failure::new(Kind::Unreachable, "gone"));
    };
    said(
        unknown,
        check,
        Unseen,
        "user 1001 runs VM 3's backend, VM 9's backend",
    );
    let other_vm = |facts: &mut Facts| {
        facts.backends[1] = backend(1001, 99);
    };
    said(other_vm, check, Wrong, "VM 99's backend");
}
