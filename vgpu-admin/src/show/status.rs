//! GPUs, pools and VMs as they are.
use super::{ESTIMATE, Screen, bytes, count, duration, moment, printable};
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{
    GpuState, GpuStatus, Policy, PoolStatus, Rung, Scanned, SessionStatus, Sharing, Status, VmStatus,
};

/// Sessions of a VM that are shown at most.
const SESSIONS_MAX: usize = 3;
/// Characters of a program's name that are shown at most.
const PROGRAM_MAX: usize = 20;

/// The GPUs after a look for them.
pub fn scanned(scanned: &Scanned, screen: Screen) -> String {
    let Scanned {
        gpus,
        appeared,
        vanished,
    } = scanned;
    let mut text = String::new();
    if gpus.is_empty() {
        text += "There is no GPU.\n";
    } else {
        text += &gpu_names(gpus, screen);
    }
    for (uuids, what) in [(appeared, "new"), (vanished, "gone")] {
        for uuid in uuids {
            text += &format!("{what}: {uuid}\n");
        }
    }
    let unassigned = gpus.iter().find(|gpu| gpu.state == GpuState::Unassigned);
    if let Some(index) = unassigned.and_then(|gpu| gpu.index) {
        text += &format!("A GPU can serve a pool: vgpu-admin assign-gpu --gpu-id {index} --pool NAME\n");
    }
    text
}

/// The GPUs alone, with all that they measure.
pub fn gpus(status: &Status, screen: Screen) -> String {
    let mut text = heading(status, screen);
    if !status.gpus.is_empty() {
        text += "\n";
        text += &measured_table(&status.gpus, screen);
        text += "\n";
        text += &memory_table(&status.gpus, screen);
    }
    if status.gpus.iter().any(|gpu| !gpu.xids.is_empty()) {
        text += "\nErrors that the driver reported, each as it came last\n";
        text += &xid_table(&status.gpus, screen);
    }
    text
}

/// What vgpud is.
pub fn headline(status: &Status) -> String {
    format!(
        "vgpud {}, up {}, pool map {}",
        printable(&status.version),
        duration(status.uptime_s.saturating_mul(1_000_000)),
        printable(&status.config)
    )
}

/// What is wrong, or to be known, a line each.
pub fn wrong(status: &Status) -> Vec<String> {
    let degraded = status
        .degraded
        .iter()
        .map(|line| format!("DEGRADED: {}", printable(line)));
    let differs = status
        .map_differs
        .iter()
        .map(|line| format!("NOTE: {}", printable(line)));
    degraded.chain(differs).collect()
}

/// What vgpud is, what is wrong, and the GPUs.
fn heading(status: &Status, screen: Screen) -> String {
    let mut text = headline(status) + "\n";
    for line in wrong(status) {
        text += &format!("{line}\n");
    }
    text += "\n";
    if status.gpus.is_empty() {
        text += "There is no GPU.\n";
    } else {
        text += &gpu_table(&status.gpus, screen);
    }
    text
}

/// Everything on one screen.
pub fn status(status: &Status, screen: Screen) -> String {
    let mut text = heading(status, screen);
    for pool in &status.pools {
        text += "\n";
        text += &pool_text(pool, &status.gpus, screen);
    }
    if !status.in_no_pool.is_empty() {
        text += "\nIn no pool:\n";
        text += &vms_text(&status.in_no_pool, "", screen);
    }
    let in_pools = status.pools.iter().flat_map(|pool| &pool.vms);
    if in_pools.chain(&status.in_no_pool).any(|vm| vm.estimated) {
        text += ESTIMATE;
    }
    if status.pools.is_empty() {
        text += "\nThere is no pool yet: vgpu-admin assign-gpu --gpu-id 0 --pool NAME makes one\n";
    }
    text
}

fn gpu_table(gpus: &[GpuStatus], screen: Screen) -> String {
    let columns = [
        ">GPU",
        "model\ntemp, power, use",
        ">memory\nused",
        "PCI address",
        "state",
        "pools",
        ">sessions",
    ];
    let mut table = screen.table(&columns);
    for gpu in gpus {
        table.add_row([
            index(gpu),
            below(
                model(gpu),
                gpu,
                [temperature(gpu), power_of_limit(gpu), utilisation(gpu)].join(", "),
            ),
            below(&memory(gpu), gpu, known(gpu.measured.memory_used, bytes)),
            pci(gpu),
            state(gpu),
            pools(gpu),
            gpu.sessions.to_string(),
        ]);
    }
    table.written()
}

/// A cell with what a GPU measures below it; one that is missing measures nothing.
fn below(cell: &str, gpu: &GpuStatus, measured: String) -> String {
    match gpu.state {
        GpuState::Missing => cell.to_owned(),
        _ => format!("{cell}\n{measured}"),
    }
}

fn measured_table(gpus: &[GpuStatus], screen: Screen) -> String {
    let columns = [
        ">GPU",
        ">temp",
        ">power",
        ">limit",
        ">use",
        ">memory\nuse",
        ">used",
        ">total",
        ">SM\nclock",
        ">memory\nclock",
    ];
    let mut table = screen.table(&columns);
    for gpu in gpus {
        let measured = &gpu.measured;
        let mhz = |clock: u32| format!("{clock} MHz");
        table.add_row([
            index(gpu),
            temperature(gpu),
            known(measured.power_mw, watts),
            known(measured.power_limit_mw, watts),
            utilisation(gpu),
            known(measured.memory_utilisation, percent),
            known(measured.memory_used, bytes),
            known(measured.memory_total, bytes),
            known(measured.sm_clock_mhz, mhz),
            known(measured.memory_clock_mhz, mhz),
        ]);
    }
    table.written()
}

fn memory_table(gpus: &[GpuStatus], screen: Screen) -> String {
    let columns = [
        ">GPU",
        "MIG",
        "ECC",
        ">uncorrected errors\nsince driver loaded",
        ">\never",
    ];
    let mut table = screen.table(&columns);
    let on = |is: bool| if is { "on" } else { "off" }.to_owned();
    for gpu in gpus {
        table.add_row([
            index(gpu),
            known(gpu.measured.mig, on),
            known(gpu.measured.ecc, on),
            known(gpu.measured.ecc_volatile, count),
            known(gpu.measured.ecc_aggregate, count),
        ]);
    }
    table.written()
}

fn xid_table(gpus: &[GpuStatus], screen: Screen) -> String {
    let mut table = screen.table(&[">GPU", ">Xid", "last", "what it is"]);
    for gpu in gpus {
        for xid in &gpu.xids {
            table.add_row([
                // One that is missing has no index.
                gpu.index
                    .map_or_else(|| gpu.uuid.clone(), |index| index.to_string()),
                xid.number.to_string(),
                moment(xid.at_s),
                xid.meaning.as_deref().map_or("-".to_owned(), printable),
            ]);
        }
    }
    table.written()
}

/// What is not known is not 0.
fn known<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or("-".to_owned(), text)
}

fn watts(milliwatts: u32) -> String {
    format!("{:.0} W", f64::from(milliwatts) / 1e3)
}

fn percent(percent: u32) -> String {
    format!("{percent} %")
}

pub fn temperature(gpu: &GpuStatus) -> String {
    known(gpu.measured.temperature, |celsius| format!("{celsius} C"))
}

pub fn utilisation(gpu: &GpuStatus) -> String {
    known(gpu.measured.utilisation, percent)
}

pub fn power(gpu: &GpuStatus) -> String {
    known(gpu.measured.power_mw, watts)
}

/// "312/700 W"
fn power_of_limit(gpu: &GpuStatus) -> String {
    match (gpu.measured.power_mw, gpu.measured.power_limit_mw) {
        (Some(power), Some(limit)) => format!("{:.0}/{}", f64::from(power) / 1e3, watts(limit)),
        _ => power(gpu),
    }
}

/// With the names that GPUs have besides their index.
fn gpu_names(gpus: &[GpuStatus], screen: Screen) -> String {
    let mut table = screen.table(&[">GPU", "model, UUID", ">memory", "PCI address", "state"]);
    for gpu in gpus {
        let names = format!("{}\n{}", gpu.model, gpu.uuid);
        table.add_row([
            index(gpu),
            names.trim_start().to_owned(),
            memory(gpu),
            pci(gpu),
            state(gpu),
        ]);
    }
    table.written()
}

/// One that was never seen has nothing else to tell it by than its UUID.
pub fn model(gpu: &GpuStatus) -> &str {
    match gpu.model.as_str() {
        "" => &gpu.uuid,
        model => model,
    }
}

/// The pools that a GPU serves.
pub fn pools(gpu: &GpuStatus) -> String {
    match gpu.pools.as_slice() {
        [] => "-".to_owned(),
        pools => pools.join(", "),
    }
}

pub fn index(gpu: &GpuStatus) -> String {
    gpu.index.map_or("-".to_owned(), |index| index.to_string())
}

fn memory(gpu: &GpuStatus) -> String {
    match gpu.memory {
        0 => "-".to_owned(),
        memory => bytes(memory),
    }
}

fn pci(gpu: &GpuStatus) -> String {
    match gpu.pci.split_once(':') {
        None => "-".to_owned(),
        // NVML writes a domain of eight digits, everybody else one of four.
        Some((domain, rest)) if domain.len() == 8 && domain.starts_with("0000") => {
            format!("{}:{rest}", &domain[4..])
        }
        Some(_) => gpu.pci.clone(),
    }
}

pub fn state(gpu: &GpuStatus) -> String {
    let state = match gpu.state {
        GpuState::Ready => "ready",
        GpuState::Unassigned => "unassigned",
        GpuState::Missing => "MISSING",
        GpuState::Divided => "divided",
    };
    state.to_owned()
}

fn pool_text(pool: &PoolStatus, gpus: &[GpuStatus], screen: Screen) -> String {
    let mut text = format!("Pool {}: {}", pool.name, gpus_text(pool, gpus));
    if pool.ranges.is_empty() {
        let name = &pool.name;
        text += &format!(", no VM yet: vgpu-admin register-vm --vm-id VM --pool {name}\n");
    } else {
        text += &format!(", VMs {}\n", pool.ranges.join(", "));
    }
    for line in treated(pool) {
        text += &format!("  {line}\n");
    }
    if !pool.ranges.is_empty() {
        text += &vms_text(&pool.vms, &others(pool), screen);
    }
    text
}

/// A table of VMs, with a row for those of which nothing is known, then those in quarantine.
fn vms_text(vms: &[VmStatus], others: &str, screen: Screen) -> String {
    let mut table = screen.table(&[
        ">VM",
        "priority",
        ">weight",
        ">queue",
        ">calls",
        ">turns",
        ">GPU time",
        "doing",
    ]);
    for vm in vms {
        table.add_row([
            vm.vm.to_string(),
            vm.priority.to_string(),
            vm.weight.to_string(),
            queue(vm),
            count(vm.calls),
            count(vm.turns),
            // An estimate is marked.
            format!(
                "{}{}",
                if vm.estimated { "~" } else { "" },
                duration(vm.gpu_microseconds)
            ),
            doing(vm),
        ]);
    }
    if !others.is_empty() {
        let nothing = || "-".to_owned();
        table.add_row([
            others.to_owned(),
            vgpu_pool_map::DEFAULT_PRIORITY.to_string(),
            vgpu_pool_map::DEFAULT_WEIGHT.to_string(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            "never started".to_owned(),
        ]);
    }
    let mut text = table.written();
    for vm in vms {
        if let Some(quarantine) = &vm.quarantine {
            let until = match quarantine.until_s {
                Some(until) => format!("until {}", moment(until)),
                None => "until it is released".to_owned(),
            };
            text += &format!(
                "VM {}: QUARANTINED {until}: {}\n",
                vm.vm,
                printable(&quarantine.why)
            );
        }
    }
    text
}

/// Lines about how the pool is treated, as far as that is not the usual way.
fn treated(pool: &PoolStatus) -> Vec<String> {
    let mut words = Vec::new();
    if pool.policy != Policy::Priority {
        words.push(format!("policy {}", pool.policy));
    }
    if pool.exclusive {
        words.push("exclusive".to_owned());
    }
    if pool.sharing != Sharing::Turns {
        words.push(format!("sharing {}", pool.sharing));
    }
    if pool.weight != vgpu_pool_map::DEFAULT_WEIGHT {
        words.push(format!("weight {}", pool.weight));
    }
    match pool.gpus_per_vm {
        0 => {}
        1 => words.push("1 GPU per VM".to_owned()),
        many => words.push(format!("{many} GPUs per VM")),
    }
    let mut lines = Vec::new();
    if !words.is_empty() {
        lines.push(words.join(", "));
    }
    let left_out = Rung::ALL.into_iter().filter(|rung| !pool.ladder.contains(rung));
    let left_out: Vec<String> = left_out.map(|rung| rung.to_string()).collect();
    if !left_out.is_empty() {
        lines.push(format!("only logged: {}", left_out.join(", ")));
    }
    lines
}

/// "GPU 0", "GPUs 0, 1 (and 1 that is missing)".
fn gpus_text(pool: &PoolStatus, gpus: &[GpuStatus]) -> String {
    let own = gpus.iter().filter(|gpu| pool.gpus.contains(&gpu.uuid));
    let there: Vec<String> = own.filter_map(|gpu| Some(gpu.index?.to_string())).collect();
    let missing = pool.gpus.len() - there.len().min(pool.gpus.len());
    let text = match there.as_slice() {
        [] => "no GPU".to_owned(),
        [one] => format!("GPU {one}"),
        many => format!("GPUs {}", many.join(", ")),
    };
    match missing {
        0 => text,
        1 => text + " (and 1 that is missing)",
        many => format!("{text} (and {many} that are missing)"),
    }
}

/// The VMs of a pool that have no line of their own: nothing is set for them, and none was ever started.
fn others(pool: &PoolStatus) -> String {
    let mut others: Vec<VmRange> = pool
        .ranges
        .iter()
        .filter_map(|range| range.parse().ok())
        .collect();
    for vm in &pool.vms {
        others = others
            .iter()
            .flat_map(|range| range.without(vm.vm.into()))
            .collect();
    }
    let others: Vec<String> = others.iter().map(VmRange::to_string).collect();
    others.join(", ")
}

fn doing(vm: &VmStatus) -> String {
    let mut lines = about(vm);
    lines.extend(programs(vm));
    lines.join("\n")
}

/// What there is to say of a VM besides its programs.
pub fn about(vm: &VmStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if vm.quarantine.is_some() {
        lines.push("quarantined".to_owned());
    }
    match vm.violations {
        0 => {}
        1 => lines.push("1 violation".to_owned()),
        many => lines.push(format!("{} violations", count(many))),
    }
    let memory = vm.sessions.iter().map(|session| session.memory);
    match memory.fold(0, u64::saturating_add) {
        0 => {}
        memory => lines.push(format!("{} of memory", bytes(memory))),
    }
    lines
}

/// What a VM's programs are doing.
pub fn programs(vm: &VmStatus) -> Vec<String> {
    if vm.sessions.is_empty() {
        return vec![if vm.connected { "nothing" } else { "no backend" }.to_owned()];
    }
    let one = |session: &SessionStatus| {
        let program = session.program.rsplit('/').next().unwrap_or_default();
        let program: String = printable(program).chars().take(PROGRAM_MAX).collect();
        let state = match session.state.as_str() {
            "out" => "not on the GPU",
            "asked" => "giving back",
            state => state,
        };
        format!("{program}: {}", printable(state))
    };
    let mut lines: Vec<String> = vm.sessions.iter().take(SESSIONS_MAX).map(one).collect();
    if vm.sessions.len() > SESSIONS_MAX {
        lines.push(format!("and {} more", vm.sessions.len() - SESSIONS_MAX));
    }
    lines
}

/// The calls that were taken from a VM and are not done, and the limit if there is one.
pub fn queue(vm: &VmStatus) -> String {
    match vm.queue_depth {
        Some(depth) => format!("{}/{depth}", vm.queued),
        None => vm.queued.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, SCREEN, fits};
    use super::*;
    use vgpu_client::fixture::host;
    use vgpu_sched_api::messages::XidStatus;

    #[test]
    fn all_is_on_one_screen() {
        let text = status(&host(), SCREEN);
        fits(&text);
        for part in [
            "up 1d03h",
            "DEGRADED: pool A",
            "\nNOTE: the pool map in /etc/vgpu/pools.toml differs from the one in use\n",
            "79.6 GiB",
            "MISSING",
            "Pool A: GPU 0 (and 1 that is missing), VMs 1-7, 9",
            "12/64",
            "123M",
            "~2h01m",
            "  policy weighted, exclusive, sharing mps, weight 100, 1 GPU per VM\n",
            "  only logged: deprioritise, end, quarantine\n",
            "200.0 GiB of memory\n",
            "2 violations",
            "VM 9: QUARANTINED until 2023-11-14T22:18:20Z: it ran\\nwild\n",
            "\n\nIn no pool:\n",
            "VM 12: QUARANTINED until",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // Those without a line of their own.
        assert!(text.contains("\n1-2, 4-7  medium         1 "), "{text}");
        // Nothing is broken over lines that would fit.
        assert!(
            text.contains("NVIDIA H100 80GB HBM3  79.6 GiB  0000:1B:00.0  ready    A"),
            "{text}"
        );
    }

    /// What a GPU does not tell is not known, and is not shown as 0.
    #[test]
    fn what_gpus_measure_is_shown() {
        let mut host = host();
        let text = gpus(&host, SCREEN);
        fits(&text);
        let expected = "\
GPU  model                    memory  PCI address   state    pools  sessions
     temp, power, use           used
─────────────────────────────────────────────────────────────────────────────
  0  NVIDIA H100 80GB HBM3  79.6 GiB  0000:1B:00.0  ready    A             5
     41 C, 312/700 W, 87 %  61.2 GiB
  -  NVIDIA H100 80GB HBM3  79.6 GiB  0000:1B:00.0  MISSING  A             5

GPU  temp  power  limit   use  memory      used     total        SM    memory
                                  use                         clock     clock
──────────────────────────────────────────────────────────────────────────────
  0  41 C  312 W  700 W  87 %    34 %  61.2 GiB  79.6 GiB  1980 MHz  2619 MHz
  -     -      -      -     -       -         -         -         -         -

GPU  MIG  ECC   uncorrected errors
               since driver loaded  ever
─────────────────────────────────────────
  0  off  on                    42    43
  -  -    -                      -     -

Errors that the driver reported, each as it came last
GPU  Xid  last                  what it is
────────────────────────────────────────────────────────────────────
  0   79  2023-11-14T22:13:20Z  the GPU has fallen off the bus
  0   31  2023-11-14T22:13:20Z  access to memory that is not mapped
";
        assert!(text.contains(expected), "{text}");
        host.gpus.truncate(1);
        host.gpus[0].measured = Default::default();
        host.gpus[0].measured.utilisation = Some(0);
        host.gpus[0].xids = Vec::new();
        let text = gpus(&host, SCREEN);
        assert!(text.contains("\n     -, -, 0 %  "), "{text}");
        let unknown = "  0     -      -      -  0 %       -     -      -      -       -\n";
        assert!(text.contains(unknown) && !text.contains("Errors"), "{text}");
        // Why one is missing its last error may tell.
        host.gpus[0].xids = vec![XidStatus {
            number: 12345,
            meaning: None,
            by_program: false,
            at_s: 1_700_000_000,
        }];
        host.gpus[0].index = None;
        let text = gpus(&host, SCREEN);
        assert!(
            text.ends_with("GPU-Some(0)  12345  2023-11-14T22:13:20Z  -\n"),
            "{text}"
        );
        host.gpus.clear();
        assert!(gpus(&host, SCREEN).ends_with("\nThere is no GPU.\n"));
    }

    /// A guest names its programs.
    #[test]
    fn a_guests_text_does_nothing_to_a_terminal() {
        let text = status(&host(), PLAIN);
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
        assert!(text.contains("evil\\u{1b}[2J: not on the GPU"), "{text}");
    }

    /// What is as usual is not told of.
    #[test]
    fn a_usual_pool_has_one_line() {
        let mut usual = host();
        let pool = &mut usual.pools[0];
        pool.policy = Policy::Priority;
        pool.exclusive = false;
        pool.sharing = Sharing::Turns;
        pool.weight = 1;
        pool.gpus_per_vm = 0;
        pool.ladder = Rung::ALL.to_vec();
        assert_eq!(treated(pool), [""; 0]);
    }
}
