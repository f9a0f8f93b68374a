//! What is to be said of what was seen.
use super::facts::{Compute, Facts, Gpu, Kvm, Node, Place, Qemu, Uvm};
use super::{Finding, Level};
use crate::services::{Limits, Service, User};
use std::collections::BTreeMap;
use std::path::Path;
use vgpu_client::failure::Failure;
use vgpu_sched_api::messages::{Sharing, Status};

/// The first driver that will do, by its first number.
const DRIVER_MIN: u32 = 570;
/// The first one for guests' programs of CUDA 13.
const DRIVER_CUDA_13: u32 = 580;
/// That with which everything was proved, by its first two numbers: docs/architecture.md.
const DRIVER_PROVED: [u32; 2] = [580, 159];
/// The device that VMs get, as QEMU calls it, and the first QEMU that lets a user create it.
const DEVICE: &str = "vhost-user-test-device-pci";
const QEMU_MIN: &str = "11.1";
/// Descriptors that an executor may have.
const FILES_MIN: u64 = 4096;
/// Bytes of stack that executors are started with, so that less is in the way of what guests register.
const STACK_MIN: u64 = 6 << 40;
/// What each version of Landlock brought that the jail of an executor uses, and the kernel that brought it.
const LANDLOCK: [(u32, &str, &str); 4] = [
    (1, "files", "5.13"),
    (4, "TCP", "6.7"),
    (5, "ioctl on devices", "6.10"),
    (6, "signals and abstract sockets", "6.12"),
];
/// Free bytes of the state folder: below the first nothing may be kept any longer, below the second it is time to look.
const STATE_MIN: u64 = 16 << 20;
const STATE_LOW: u64 = 256 << 20;
/// Permissions, as one digit of a mode has them, and where those of a file's owner and group are.
const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;
const OWNERS: u32 = 6;
const GROUPS: u32 = 3;
const STICKY: u32 = 0o1000;

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        check,
        level: Level::Ok,
        found: found.into(),
        advice: None,
    }
}

fn finding(
    check: &'static str,
    level: Level,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Finding {
    Finding {
        check,
        level,
        found: found.into(),
        advice: Some(advice.into()),
    }
}

/// Everything there is to say, the hardware first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let status = facts.vgpud.as_ref().ok();
    let mut all = hardware(facts);
    all.extend([
        memfd(&facts.memfd),
        landlock(&facts.landlock),
        seccomp(facts.seccomp),
        limits(facts.limits, &facts.backends),
        locked_memory(&facts.backends),
        kvm(&facts.kvm),
        qemu(&facts.qemu),
        vgpud(&facts.vgpud, facts.may_ask),
        state(&facts.state.0, &facts.state.1),
        pool_map(&facts.pool_map, facts.scheduler.as_ref()),
        users(&facts.backends, facts.scheduler.as_ref(), status),
    ]);
    all
}

/// NVIDIA's driver and its GPUs.
fn hardware(facts: &Facts) -> Vec<Finding> {
    if let (None, Ok(gpus)) = (&facts.driver, &facts.gpus)
        && !gpus.is_empty()
    {
        return vec![foreign(&facts.nvml, gpus.len())];
    }
    let services: Vec<&Service> = facts.scheduler.iter().chain(&facts.backends).collect();
    let mut all = vec![
        driver(facts.driver.as_deref()),
        nodes(facts.driver.is_some(), &facts.nodes, &services),
        uvm(facts.driver.is_some(), facts.uvm),
    ];
    match &facts.gpus {
        Ok(gpus) if gpus.is_empty() => all.push(finding(
            "GPUs",
            Level::Wrong,
            "the driver finds none",
            "`lspci -d 10de:` shows what is plugged in, `dmesg` what the driver has against it",
        )),
        Ok(gpus) => all.extend([persistence(gpus), mig(gpus), compute(gpus)]),
        Err(why) => all.push(finding(
            "GPUs",
            Level::Unseen,
            why,
            "persistence, MIG and compute mode are NVML's to tell: --libnvidia-ml names another library",
        )),
    }
    all
}

/// GPUs that a library lists without NVIDIA's driver are not its own, and what is to be so of it is not to be so of them.
fn foreign(nvml: &Path, gpus: usize) -> Finding {
    let (gpus, need) = match gpus {
        1 => ("the GPU".to_owned(), "needs"),
        many => (format!("the {many} GPUs"), "need"),
    };
    finding(
        "NVIDIA driver",
        Level::Warning,
        format!(
            "not loaded, and {gpus} that {} lists {need} none: no GPU of NVIDIA's is looked at",
            nvml.display()
        ),
        "a software GPU is for trying things out; for NVIDIA's, load its driver, and name its own library with --libnvidia-ml",
    )
}

/// The first two numbers of a version such as "580.159.04".
fn version(text: &str) -> Option<[u32; 2]> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}

fn driver(loaded: Option<&str>) -> Finding {
    const CHECK: &str = "NVIDIA driver";
    let [first, second] = DRIVER_PROVED;
    let install =
        format!("install NVIDIA's driver, {first}.{second} or a later {first}, and `modprobe nvidia`");
    let Some(text) = loaded else {
        return finding(CHECK, Level::Wrong, "not loaded", install);
    };
    match version(text) {
        None => finding(
            CHECK,
            Level::Unseen,
            format!("\"{text}\" is no version"),
            format!("expected one such as {first}.{second}.04"),
        ),
        Some(found) if found == DRIVER_PROVED => ok(CHECK, format!("{text}, with which this was proved")),
        Some([old, _]) if old < DRIVER_MIN => finding(
            CHECK,
            Level::Wrong,
            format!("{text} is too old: {DRIVER_MIN} or newer is needed"),
            install,
        ),
        Some([old, _]) if old < DRIVER_CUDA_13 => finding(
            CHECK,
            Level::Warning,
            format!("{text}: guests' programs of CUDA 13 need {DRIVER_CUDA_13}"),
            install,
        ),
        Some(_) => finding(
            CHECK,
            Level::Warning,
            format!("{text}: this was proved with {first}.{second} alone"),
            "run a program in a VM; then `vgpu-admin probe` shows what holds on this driver",
        ),
    }
}

fn nodes(driver: bool, nodes: &[Node], services: &[&Service]) -> Finding {
    const CHECK: &str = "device nodes";
    if !driver && nodes.is_empty() {
        return finding(CHECK, Level::Unseen, "there is no driver", "load it first");
    }
    let is_gpu = |node: &&Node| {
        let number = node.name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let has = |name: &str| nodes.iter().any(|node| node.name == name);
    let gpus: Vec<&Node> = nodes.iter().filter(is_gpu).collect();
    let mut missing: Vec<&str> = ["nvidiactl", "nvidia-uvm"]
        .into_iter()
        .filter(|name| !has(name))
        .collect();
    if gpus.is_empty() {
        missing.push("nvidia0");
    }
    if !missing.is_empty() {
        return finding(
            CHECK,
            Level::Wrong,
            format!("there is no /dev/{}", missing.join(", no /dev/")),
            "they must be there before the first session: `nvidia-modprobe -u -c=0` at boot makes them",
        );
    }
    let used = nodes
        .iter()
        .filter(|node| is_gpu(node) || ["nvidiactl", "nvidia-uvm"].contains(&node.name.as_str()));
    let refused = |node: &Node| {
        let mut services = services.iter();
        services.find(|service| !may(&service.user, (node.uid, node.gid), node.mode, READ | WRITE))
    };
    if let Some((node, service)) = used.clone().find_map(|node| Some((node, refused(node)?))) {
        return finding(
            CHECK,
            Level::Wrong,
            format!(
                "{}, user {}, may not open /dev/{}: mode {:04o}, of user {} and group {}",
                name(service),
                service.user.uid,
                node.name,
                node.mode,
                node.uid,
                node.gid
            ),
            "give the devices to a group that the services are in, as the units are in vgpu-gpu, with NVreg_DeviceFileGID and \
             mode 0660 for the module nvidia",
        );
    }
    let open: Vec<&str> = used
        .filter(|node| node.mode & (READ | WRITE) != 0)
        .map(|node| node.name.as_str())
        .collect();
    if !open.is_empty() {
        return finding(
            CHECK,
            Level::Warning,
            format!("every user may open /dev/{}", open.join(", /dev/")),
            "whoever may can stop the work of VMs: give them to a group of the services' users, mode 0660, as with \
             NVreg_DeviceFileMode and NVreg_DeviceFileGID for the module nvidia",
        );
    }
    ok(
        CHECK,
        match gpus.len() {
            1 => "there, of 1 GPU, and not for every user".to_owned(),
            many => format!("there, of {many} GPUs, and not for every user"),
        },
    )
}

fn uvm(driver: bool, uvm: Uvm) -> Finding {
    const CHECK: &str = "nvidia-uvm";
    const OPTION: &str = "`options nvidia-uvm uvm_disable_hmm=1` in a file of /etc/modprobe.d/ (Debian's own package calls it \
        nvidia-current-uvm), then load the module again";
    match uvm {
        Uvm::Missing if !driver => finding(CHECK, Level::Unseen, "there is no driver", "load it first"),
        Uvm::Missing => finding(
            CHECK,
            Level::Wrong,
            "not loaded",
            "`modprobe nvidia-uvm`, at each boot",
        ),
        Uvm::Loaded {
            hmm_disabled: Some(true),
        } => ok(CHECK, "loaded, without HMM"),
        Uvm::Loaded {
            hmm_disabled: Some(false),
        } => finding(
            CHECK,
            Level::Warning,
            "loaded with HMM allowed: where this machine's kernel has it, a guest's GPU kernels could reach all memory of their vgpu-exec, \
             which refuses such a GPU",
            OPTION,
        ),
        Uvm::Loaded { hmm_disabled: None } => finding(
            CHECK,
            Level::Unseen,
            "loaded; whether with HMM it does not say",
            OPTION,
        ),
    }
}

/// "GPU 1", "GPUs 0, 2".
fn named<'a>(gpus: impl Iterator<Item = &'a Gpu>) -> Option<String> {
    let indices: Vec<String> = gpus.map(|gpu| gpu.index.to_string()).collect();
    match indices.as_slice() {
        [] => None,
        [one] => Some(format!("GPU {one}")),
        many => Some(format!("GPUs {}", many.join(", "))),
    }
}

fn untold(check: &'static str, gpus: String) -> Finding {
    finding(
        check,
        Level::Unseen,
        format!("NVML does not tell of {gpus}"),
        "`nvidia-smi -q` may",
    )
}

fn persistence(gpus: &[Gpu]) -> Finding {
    const CHECK: &str = "persistence";
    if let Some(off) = named(gpus.iter().filter(|gpu| gpu.persistent == Some(false))) {
        return finding(
            CHECK,
            Level::Warning,
            format!("off on {off}: the first program after a pause waits until the GPU is set up"),
            "run nvidia-persistenced, or `nvidia-smi -pm 1`",
        );
    }
    match named(gpus.iter().filter(|gpu| gpu.persistent.is_none())) {
        Some(unknown) => untold(CHECK, unknown),
        None => ok(CHECK, "on"),
    }
}

fn mig(gpus: &[Gpu]) -> Finding {
    const CHECK: &str = "MIG";
    let with = |is: fn(&super::facts::Mig) -> bool| {
        named(gpus.iter().filter(|gpu| gpu.mig.as_ref().is_some_and(is)))
    };
    if let Some(changing) = with(|mig| mig.on != mig.will_be_on) {
        return finding(
            CHECK,
            Level::Warning,
            format!("the mode of {changing} changes with its next reset"),
            "`nvidia-smi --gpu-reset` while nobody uses it, or start the host again; then `vgpu-admin scan-gpus`",
        );
    }
    if let Some(empty) = with(|mig| mig.on && mig.instances == 0) {
        return finding(
            CHECK,
            Level::Wrong,
            format!("on without instances on {empty}: it can serve no pool"),
            "make instances (`nvidia-smi mig -cgi ... -C`), or turn it off (`nvidia-smi -mig 0`)",
        );
    }
    match with(|mig| mig.on) {
        Some(on) => finding(
            CHECK,
            Level::Warning,
            format!("on, with instances, on {on}: never tried with a real one"),
            "each instance serves pools like a GPU; of a pool each VM gets one",
        ),
        None => ok(CHECK, "off"),
    }
}

fn compute(gpus: &[Gpu]) -> Finding {
    const CHECK: &str = "compute mode";
    const ADVICE: &str = "`nvidia-smi -c DEFAULT`";
    if let Some(closed) = named(gpus.iter().filter(|gpu| gpu.compute == Some(Compute::Nobody))) {
        return finding(
            CHECK,
            Level::Wrong,
            format!("{closed}: prohibited to everybody"),
            ADVICE,
        );
    }
    if let Some(exclusive) = named(gpus.iter().filter(|gpu| gpu.compute == Some(Compute::Exclusive))) {
        return finding(
            CHECK,
            Level::Wrong,
            format!("{exclusive}: for one process at a time, and each program in a VM has one of its own"),
            ADVICE,
        );
    }
    match named(gpus.iter().filter(|gpu| gpu.compute.is_none())) {
        Some(unknown) => untold(CHECK, unknown),
        None => ok(CHECK, "for any number of processes"),
    }
}

fn memfd(made: &Result<(), String>) -> Finding {
    const CHECK: &str = "memfd";
    match made {
        Ok(()) => ok(CHECK, "can be made and sealed"),
        Err(why) => finding(
            CHECK,
            Level::Wrong,
            format!("cannot be made and sealed: {why}"),
            "VMs' memory and what the services share lie in such: `sysctl vm.memfd_noexec` is to be 0 or 1",
        ),
    }
}

fn landlock(version: &Result<u32, String>) -> Finding {
    const CHECK: &str = "Landlock";
    let missing = |has: u32| LANDLOCK.iter().filter(move |(from, ..)| *from > has);
    match version {
        Err(why) => finding(
            CHECK,
            Level::Warning,
            format!("not there ({why}): an executor's files are guarded by their owners and modes alone"),
            "use Linux 5.13 or newer with landlock in the list of `lsm=`; /sys/kernel/security/lsm shows it",
        ),
        Ok(has) => match missing(*has).next_back() {
            None => ok(CHECK, format!("version {has}")),
            Some((.., kernel)) => {
                let what: Vec<&str> = missing(*has).map(|(_, what, _)| *what).collect();
                finding(
                    CHECK,
                    Level::Warning,
                    format!(
                        "version {has}: the jail of executors is without {}",
                        what.join(", ")
                    ),
                    format!("Linux {kernel} has all of it"),
                )
            }
        },
    }
}

fn seccomp(there: bool) -> Finding {
    match there {
        true => ok("seccomp", "there"),
        false => finding(
            "seccomp",
            Level::Wrong,
            "not there: no executor starts without its filter of system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// Of those of backends that run, whoever asks; of this user's if none does.
fn limits(own: Option<Limits>, backends: &[Service]) -> Finding {
    const CHECK: &str = "limits";
    let of_backends: Vec<(String, Limits)> = backends
        .iter()
        .filter_map(|backend| Some((name(backend), backend.limits?)))
        .collect();
    let all = match (of_backends.is_empty(), own) {
        (false, _) => of_backends,
        (true, Some(own)) => vec![("this user".to_owned(), own)],
        (true, None) => {
            return finding(
                CHECK,
                Level::Unseen,
                "/proc/self/limits cannot be read",
                "is /proc mounted?",
            );
        }
    };
    let who = |lacks: fn(&Limits) -> bool| {
        let lacking: Vec<&str> = all
            .iter()
            .filter(|(_, limits)| lacks(limits))
            .map(|(who, _)| who.as_str())
            .collect();
        (!lacking.is_empty()).then(|| lacking.join(", "))
    };
    if let Some(who) = who(|limits| limits.addresses.is_some()) {
        return finding(
            CHECK,
            Level::Wrong,
            format!("of the address space of {who}: each executor reserves all of it, which takes no memory"),
            "LimitAS=infinity in the unit of the service, or `ulimit -v unlimited`",
        );
    }
    if let Some(who) = who(|limits| limits.files.is_some_and(|files| files < FILES_MIN)) {
        return finding(
            CHECK,
            Level::Warning,
            format!("fewer than {FILES_MIN} open files for {who}"),
            "LimitNOFILE=524288 in the unit of the service, or `ulimit -Hn`",
        );
    }
    if let Some(who) = who(|limits| limits.stack.is_some_and(|stack| stack < STACK_MIN)) {
        return finding(
            CHECK,
            Level::Warning,
            format!("of the stack of {who}: some memory of guests' programs cannot be registered"),
            "LimitSTACK=infinity in the unit of the service, or `ulimit -Hs unlimited`",
        );
    }
    let whose = match all.as_slice() {
        [(one, _)] => one.clone(),
        many => format!("{} backends", many.len()),
    };
    ok(
        CHECK,
        format!("high enough for {whose}: open files, stack, address space"),
    )
}

/// Of those backends that run: the limit of whoever asks is not theirs.
fn locked_memory(backends: &[Service]) -> Finding {
    const CHECK: &str = "locked memory";
    const ADVICE: &str = "LimitMEMLOCK=infinity in the unit of the service, or `ulimit -l unlimited`: a driver that counts what \
        VMs pin for the GPU refuses more than that";
    let limits: Vec<(&Service, Limits)> = backends
        .iter()
        .filter_map(|backend| Some((backend, backend.limits?)))
        .collect();
    let limited = limits
        .iter()
        .find_map(|(backend, limits)| Some((backend, limits.locked?)));
    match limited {
        Some((backend, bytes)) => finding(
            CHECK,
            Level::Warning,
            format!("at most {} KiB for {}", bytes >> 10, name(backend)),
            ADVICE,
        ),
        None if limits.is_empty() => finding(
            CHECK,
            Level::Unseen,
            "no vgpu-backend is seen to run whose limit it could be",
            "look again when one runs",
        ),
        None => ok(CHECK, "no limit"),
    }
}

fn kvm(kvm: &Kvm) -> Finding {
    const CHECK: &str = "/dev/kvm";
    match kvm {
        Kvm::Missing => finding(
            CHECK,
            Level::Warning,
            "not there: VMs run in emulation, far slower",
            "turn virtualisation on in the firmware, then `modprobe kvm_intel` or `kvm_amd`",
        ),
        Kvm::Usable { mode, gid } => ok(
            CHECK,
            format!("this user may use it; mode {mode:04o}, group {gid}"),
        ),
        Kvm::Refused { why, mode, gid } => finding(
            CHECK,
            Level::Warning,
            format!("this user may not use it: {why}; mode {mode:04o}, group {gid}"),
            format!("whoever runs QEMU must be in group {gid}"),
        ),
    }
}

fn qemu(qemu: &Qemu) -> Finding {
    const CHECK: &str = "QEMU";
    let program = qemu.program.display();
    let get =
        format!("QEMU {QEMU_MIN} or newer is needed (Debian: trixie-backports); --qemu names another one");
    match &qemu.told {
        Err(why) => finding(CHECK, Level::Unseen, format!("{program}: {why}"), get),
        Ok((version, devices)) if devices.contains(&format!("\"{DEVICE}\"")) => {
            ok(CHECK, format!("{program} has {DEVICE}: {version}"))
        }
        Ok((version, _)) => finding(
            CHECK,
            Level::Wrong,
            format!("{program} lets nobody create {DEVICE}: {version}"),
            get,
        ),
    }
}

fn vgpud(status: &Result<Status, Failure>, may_ask: bool) -> Finding {
    const CHECK: &str = "vgpud";
    let own = env!("CARGO_PKG_VERSION");
    match status {
        Err(failure) => finding(
            CHECK,
            if may_ask { Level::Wrong } else { Level::Unseen },
            &failure.message,
            failure.hint.clone().unwrap_or("look at what it logs".to_owned()),
        ),
        Ok(status) if status.version != own => finding(
            CHECK,
            Level::Wrong,
            format!("it is version {}, this tool {own}", status.version),
            "install both from one build, then start vgpud again: programs go on meanwhile",
        ),
        Ok(status) if !status.degraded.is_empty() => finding(
            CHECK,
            Level::Warning,
            format!("degraded: {}", status.degraded.join("; ")),
            "`vgpu-admin status` shows the GPUs and pools",
        ),
        Ok(_) => ok(CHECK, format!("answers, version {own}")),
    }
}

fn state(folder: &Path, free: &Result<u64, String>) -> Finding {
    const CHECK: &str = "state folder";
    let folder = folder.display();
    match free {
        Err(why) => finding(
            CHECK,
            Level::Unseen,
            format!("{folder}: {why}"),
            "--state-dir names what vgpud was given",
        ),
        Ok(free) => {
            let found = format!("{folder}: {} MiB free", free >> 20);
            let level = match *free {
                0..STATE_MIN => Level::Wrong,
                STATE_MIN..STATE_LOW => Level::Warning,
                _ => return ok(CHECK, found),
            };
            finding(
                CHECK,
                level,
                found,
                "vgpud keeps quarantines, counts and who changed what there: make room",
            )
        }
    }
}

/// Whether a user has these permissions for what has this owner, group and mode. Root has all.
fn may(user: &User, (uid, gid): (u32, u32), mode: u32, wanted: u32) -> bool {
    let class = match () {
        () if user.uid == 0 => return true,
        () if user.uid == uid => OWNERS,
        () if user.gids.contains(&gid) => GROUPS,
        () => 0,
    };
    mode >> class & wanted == wanted
}

/// What keeps vgpud from replacing its pool map, and what helps. It makes a new file beside the old one, with its owner, group
/// and mode, and gives it the old one's name.
fn cannot_replace(user: &User, [file, folder]: &[Place; 2]) -> Option<(String, String)> {
    let path = file.path.display();
    let is_root = user.uid == 0;
    if !may(user, (folder.uid, folder.gid), folder.mode, WRITE | SEARCH) {
        let folder = folder.path.display();
        let why = format!("make no file in {folder}");
        let advice = format!(
            "let a group of vgpud's own write there, and replace nothing of others': mode 1775 for {folder}"
        );
        return Some((why, advice));
    }
    if file.uid != user.uid && !is_root {
        let why = format!("not replace {path}, which is user {}'s", file.uid);
        return Some((why, format!("`chown {} {path}`", user.uid)));
    }
    if !user.gids.contains(&file.gid) && !is_root {
        let why = format!(
            "not replace {path}, which is of group {}, that it is not in",
            file.gid
        );
        return Some((why, format!("give {path} to a group of vgpud's own")));
    }
    let writable = may(user, (file.uid, file.gid), file.mode, WRITE);
    (!writable).then(|| (format!("not write {path}"), format!("`chmod u+w {path}`")))
}

fn pool_map(places: &Result<[Place; 2], String>, scheduler: Option<&Service>) -> Finding {
    const CHECK: &str = "pool map";
    let places = match places {
        Ok(places) => places,
        Err(why) => {
            return finding(
                CHECK,
                Level::Unseen,
                why,
                "--pool-map names it; an empty file is a map, too",
            );
        }
    };
    // In a sticky folder nobody replaces what is another's.
    let open = |place: &&Place| place.mode & WRITE != 0 && place.mode & STICKY == 0;
    if let Some(place) = places.iter().find(open) {
        return finding(
            CHECK,
            Level::Wrong,
            format!(
                "every user may write {}, and so map VMs to GPUs",
                place.path.display()
            ),
            format!("`chmod o-w {}`", place.path.display()),
        );
    }
    let [file, _] = places;
    let found = format!(
        "{}, mode {:04o}, of user {}",
        file.path.display(),
        file.mode,
        file.uid
    );
    let Some(vgpud) = scheduler else {
        return ok(CHECK, found);
    };
    match cannot_replace(&vgpud.user, places) {
        Some((why, advice)) => finding(
            CHECK,
            Level::Warning,
            format!(
                "vgpud, user {}, may {why}: vgpu-admin can change nothing",
                vgpud.user.uid
            ),
            advice,
        ),
        None => ok(CHECK, format!("{found}; vgpud may replace it")),
    }
}

/// "VM 3's backend".
fn name(service: &Service) -> String {
    match service.vm() {
        Some(vm) => format!("VM {vm}'s backend"),
        None if service.is("vgpud") => "vgpud".to_owned(),
        None => format!("the backend with pid {}", service.pid),
    }
}

fn users(backends: &[Service], scheduler: Option<&Service>, status: Option<&Status>) -> Finding {
    const CHECK: &str = "backends' users";
    const ADVICE: &str = "run each VM's vgpu-backend as a user of its own, in the group of vgpud's socket";
    if backends.is_empty() {
        return ok(CHECK, "no vgpu-backend is seen to run");
    }
    let whose = |backends: &[&Service]| {
        let names: Vec<String> = backends.iter().map(|backend| name(backend)).collect();
        names.join(", ")
    };
    let unjailed: Vec<&Service> = backends
        .iter()
        .filter(|backend| backend.arguments.iter().any(|argument| argument == "--no-jail"))
        .collect();
    if !unjailed.is_empty() {
        return finding(
            CHECK,
            Level::Wrong,
            format!("without a jail: {}", whose(&unjailed)),
            "start it without --no-jail, which is for finding faults",
        );
    }
    let mut by_user: BTreeMap<u32, Vec<&Service>> = BTreeMap::new();
    for backend in backends {
        by_user.entry(backend.user.uid).or_default().push(backend);
    }
    if let Some(of_root) = by_user.get(&0) {
        return finding(
            CHECK,
            Level::Wrong,
            format!("root runs {}", whose(of_root)),
            ADVICE,
        );
    }
    if let Some(of_vgpud) = scheduler.and_then(|vgpud| by_user.get(&vgpud.user.uid)) {
        return finding(
            CHECK,
            Level::Wrong,
            format!(
                "vgpud's user runs {}, and so may change everything",
                whose(of_vgpud)
            ),
            ADVICE,
        );
    }
    let shared =
        |of_one: &&Vec<&Service>| of_one.len() > 1 && !status.is_some_and(|status| share_mps(of_one, status));
    if let Some(of_one) = by_user.values().find(shared) {
        let found = format!("user {} runs {}", of_one[0].user.uid, whose(of_one));
        const EXCEPTION: &str = "only those of one pool with sharing = \"mps\" share one";
        return match status {
            Some(_) => finding(CHECK, Level::Wrong, found, format!("{ADVICE}; {EXCEPTION}")),
            None => finding(
                CHECK,
                Level::Unseen,
                format!("{found}; which pool their VMs are in vgpud does not say"),
                format!("look again when it does: {EXCEPTION}"),
            ),
        };
    }
    ok(
        CHECK,
        match backends.len() {
            1 => "1 backend, as a user of its own".to_owned(),
            many => format!("{many} backends, as users of their own"),
        },
    )
}

/// Whether those backends are of one pool's VMs, which share the GPU through MPS and so must share a user.
fn share_mps(backends: &[&Service], status: &Status) -> bool {
    let mut of_mps = status.pools.iter().filter(|pool| pool.sharing == Sharing::Mps);
    of_mps.any(|pool| {
        backends.iter().all(|backend| {
            let mut vms = pool.vms.iter();
            vms.any(|vm| Some(vm.vm) == backend.vm())
        })
    })
}

#[cfg(test)]
pub mod tests;
