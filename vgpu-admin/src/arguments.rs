//! The command line.
mod limits;

use crate::doctor::Doctor;
use crate::hook::Hook;
use crate::launch::{Backend, Container};
use crate::replay::Replay;
use crate::top;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use limits::LimitOptions;
use std::path::PathBuf;
use vgpu_client::usage::{Query, When};
use vgpu_pool_map::{GPUS_PER_VM_MAX, MS_MAX, QUEUE_DEPTH_MAX, SECONDS_MAX, VmRange, WEIGHT_MAX};
use vgpu_program::arguments::number;
use vgpu_sched_api::messages::{
    Change as Wanted, Edit, Period, Policy, PoolSettings, Priority, Rung, Sharing, VmSettings,
};

pub const PRIORITIES: &[Priority] = &[Priority::Low, Priority::Medium, Priority::High];
pub const POLICIES: &[Policy] = &[Policy::Priority, Policy::Weighted, Policy::Fifo];
const PERIODS: &[Period] = &[Period::Hour, Period::Day];
/// Seconds between two looks at most.
pub const WATCH_S_MAX: u32 = 3600;
const SHARINGS: &[Sharing] = &[Sharing::Turns, Sharing::Mps];

/// Shows and changes how virtual machines share the GPUs of this host.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
From nothing to a running pool:
  vgpu-admin scan-gpus
  vgpu-admin assign-gpu --gpu-id 0 --pool A
  vgpu-admin register-vm --vm-id 1-7 --pool A
  vgpu-admin set-priority --vm-id 1 --priority high
  vgpu-admin status

Exit codes: 0 done, 1 vgpud could not or would not, 2 wrong usage or pool map, 3 no such GPU, pool or VM,
4 vgpud cannot be reached, 5 `status` found something degraded or `doctor` something wrong."
)]
pub struct Arguments {
    /// vgpud's socket; the environment's VGPU_ADMIN_SOCKET, if that is set
    #[arg(long, global = true, value_name = "PATH", default_value_os_t = usual_socket(), display_order = 900)]
    pub socket: PathBuf,
    /// Print JSON, errors included: one object on the standard output
    #[arg(long, global = true, display_order = 901)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// Where vgpud listens unless an argument says otherwise. The arguments' reader, which could look into the environment itself,
/// would take the option for one that was given, and show it in every usage line.
fn usual_socket() -> PathBuf {
    let named = std::env::var_os("VGPU_ADMIN_SOCKET").filter(|named| !named.is_empty());
    named.map_or_else(|| "/run/vgpu/vgpud.sock".into(), PathBuf::from)
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for GPUs again, and list them
    ScanGpus,
    /// Let a GPU serve a pool; a pool that is not there is created
    AssignGpu {
        #[command(flatten)]
        gpu: GpuInPool,
        #[command(flatten)]
        change: Change,
    },
    /// Take a GPU from a pool; an empty pool goes with its last GPU
    UnassignGpu {
        #[command(flatten)]
        gpu: GpuInPool,
        #[command(flatten)]
        change: Change,
    },
    /// Put VMs into a pool, and set how they are treated
    RegisterVm(Register),
    /// Take VMs out of their pools
    UnregisterVm {
        #[command(flatten)]
        vms: Vms,
        #[command(flatten)]
        change: Change,
    },
    /// Set the priority of VMs
    SetPriority {
        #[command(flatten)]
        vms: Vms,
        /// Which level they are of
        #[arg(long, value_name = "LEVEL", value_parser = one_of(PRIORITIES))]
        priority: Priority,
        #[command(flatten)]
        change: Change,
    },
    /// Set the weight of VMs
    SetWeight {
        #[command(flatten)]
        vms: Vms,
        /// How many quanta a turn lasts while others of the level wait, 1 to 100
        #[arg(long, value_parser = number("a weight", 1..=WEIGHT_MAX))]
        weight: u32,
        #[command(flatten)]
        change: Change,
    },
    /// Limit what VMs may use; a limit of theirs counts before their pool's
    SetLimits {
        #[command(flatten)]
        vms: Vms,
        #[command(flatten)]
        limits: LimitOptions,
        #[command(flatten)]
        change: Change,
    },
    /// Set how a pool's GPUs are shared
    SetPool(SetPool),
    /// End the sessions of VMs, and open none of theirs
    Quarantine {
        #[command(flatten)]
        vms: Vms,
        /// Why, for the log and for those who look at it
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// For so many seconds; until they are released unless set
        #[arg(long, value_name = "N", value_parser = number("a number of seconds, such as 300", 1..=SECONDS_MAX))]
        seconds: Option<u64>,
        #[command(flatten)]
        change: Change,
    },
    /// End the quarantine of VMs
    Release {
        #[command(flatten)]
        vms: Vms,
        #[command(flatten)]
        change: Change,
    },
    /// Take the last change of the pool map back
    Undo {
        /// Its number, as `audit` has it
        #[arg(value_parser = number::<u64>("a change's number, such as 20, which `vgpu-admin audit` has", ..))]
        number: u64,
        #[command(flatten)]
        change: Change,
    },
    /// Show GPUs, pools and VMs on one screen
    Status {
        /// Show the GPUs alone, with all that they measure and the errors that they had
        #[arg(long)]
        gpus: bool,
        #[command(flatten)]
        again: Again,
    },
    /// Show what every VM waited for and used
    Stats {
        #[command(flatten)]
        again: Again,
        /// Print the text that Prometheus reads
        #[arg(long, conflicts_with = "watch")]
        prometheus: bool,
    },
    /// Show what VMs used by hour or by day, what they waited, or for how long GPUs were in use; or print a bill of it
    Usage(Usage),
    /// Show what goes on as it changes, the VMs that use the GPUs most first, until q is pressed
    Top(top::Options),
    /// Show the order in which turns were given
    Turns {
        /// How many of the last ones
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<u32>("a number of turns, such as 20", 1..))]
        last: u32,
        #[command(flatten)]
        again: Again,
    },
    /// Show what happened: limits that were broken, quarantines, errors of GPUs
    Events(Events),
    /// Show who changed what, or was refused
    Audit {
        /// How many of the last ones
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<u32>("a number of changes, such as 20", 1..))]
        last: u32,
        /// Show the lines of the pool map that went and came under each
        #[arg(long)]
        diff: bool,
        #[command(flatten)]
        again: Again,
    },
    /// Show which means of preemption were proved on each GPU
    Probe {
        #[command(flatten)]
        again: Again,
    },
    /// Record when work came and how much GPU time it needed, until interrupted
    Record {
        /// A new file for it
        file: PathBuf,
        /// For so many seconds only
        #[arg(long, value_name = "N", value_parser = number("a number of seconds, such as 300", 1..=SECONDS_MAX))]
        seconds: Option<u64>,
    },
    /// Run what was recorded under another policy, and show what changes
    Replay(Replay),
    /// Look at this host, and say what is not as it should be; changes nothing, and needs neither root nor vgpud
    Doctor(Doctor),
    /// Print what a VM's libvirt domain needs for its GPU
    DomainXml(Backend),
    /// Start the backend of a VM before its libvirt domain starts, and end it with the domain: for libvirt's hooks, not for people
    LibvirtHook(Hook),
    /// Print what CloudStack needs, of version 4.21 or newer with KVM
    Cloudstack {
        #[command(subcommand)]
        command: Cloudstack,
    },
    /// Print what a container on this host needs for the GPU of a VM's number, as a file of /etc/cdi
    Cdi(Container),
    /// Have vgpud read the pool map's file again, and say what that changes
    Reload {
        #[command(flatten)]
        change: Change,
    },
    /// Work with a pool map's file
    Config {
        #[command(subcommand)]
        command: Config,
    },
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say what is wrong with a pool map; changes nothing
    Check {
        file: PathBuf,
        /// Do not compare the GPUs that it names with those that vgpud knows
        #[arg(long)]
        offline: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Cloudstack {
    /// The extra configuration of a VM, encoded as the parameter extraconfig of CloudStack's API
    ExtraConfig(Backend),
    /// This host's GPUs, as CloudStack's gpudiscovery.sh is to print them: none of them is to be handed out
    Discovery,
}

#[derive(Debug, Args)]
pub struct GpuInPool {
    /// Its index in `scan-gpus`, its UUID, or its PCI address, such as 0000:01:00.0
    #[arg(long, value_name = "GPU")]
    gpu_id: String,
    /// The pool's name
    #[arg(long, value_name = "NAME")]
    pool: String,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Vms {
    /// A VM's number, or a range such as 1-7
    #[arg(long, value_name = "VM")]
    pub vm_id: VmRange,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Again {
    /// Show it again and again, every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = number("a number of seconds, such as 5", 1..=WATCH_S_MAX))]
    pub watch: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Usage {
    /// Of these VMs alone: a number, or a range such as 1-7
    #[arg(long, value_name = "VM")]
    vm_id: Option<VmRange>,
    /// Of VMs that were in this pool then
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// From then on: a day such as 2026-11-30, a moment such as 2026-11-30T14:00Z, or how long ago it was, such as 36h or 7d.
    /// A day ago unless set, with --by day a month
    #[arg(long, value_name = "WHEN")]
    from: Option<When>,
    /// Up to then; up to now unless set
    #[arg(long, value_name = "WHEN")]
    to: Option<When>,
    /// What is summed up; hours and days are those of UTC
    #[arg(long, value_name = "PERIOD", value_parser = one_of(PERIODS), default_value = "hour")]
    by: Period,
    /// Print comma-separated values, with the units in the header
    #[arg(long)]
    pub csv: bool,
    /// Show what was waited for turns and by calls
    #[arg(long, conflicts_with = "csv")]
    pub waits: bool,
    /// Show for how long each GPU was in use, by all VMs
    #[arg(long, conflicts_with_all = ["vm_id", "pool", "waits"])]
    pub gpus: bool,
}

impl Usage {
    /// What is asked.
    pub fn query(&self) -> Query {
        Query {
            vms: self.vm_id.map(|vms| vms.to_string()),
            pool: self.pool.clone(),
            from: self.from,
            to: self.to,
            by: self.by,
        }
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Events {
    /// Those of this VM alone
    #[arg(long, value_name = "VM", value_parser = vm_number())]
    pub vm_id: Option<u32>,
    /// How many of the last ones; with --follow none, too
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<usize>("a number of events, such as 20", ..))]
    pub last: usize,
    /// Show the session's last calls under each, where they were recorded
    #[arg(long)]
    pub calls: bool,
    /// Go on with what happens, until interrupted
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct Register {
    #[command(flatten)]
    vms: Vms,
    /// The pool's name
    #[arg(long, value_name = "NAME")]
    pool: String,
    /// Which level they are of; medium unless set
    #[arg(long, value_name = "LEVEL", value_parser = one_of(PRIORITIES))]
    priority: Option<Priority>,
    /// How many quanta a turn lasts while others of the level wait, 1 to 100; 1 unless set
    #[arg(long, value_parser = number("a weight", 1..=WEIGHT_MAX))]
    weight: Option<u32>,
    /// Operations in flight on its GPUs at most; the pool's limit unless set
    #[arg(long, value_name = "N", value_parser = number("a number of operations, such as 64", 1..=QUEUE_DEPTH_MAX))]
    queue_depth: Option<u32>,
    /// Milliseconds of waiting after which it counts as one level higher; the pool's unless set
    #[arg(long, value_name = "MS", value_parser = number("a number of milliseconds, such as 1000", 1..=MS_MAX))]
    aging_ms: Option<u64>,
    #[command(flatten)]
    limits: LimitOptions,
    /// Move those that are in another pool
    #[arg(long = "move")]
    move_from_other: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub struct SetPool {
    /// The pool's name. Given several times, all of them are set at once, as pools that share a GPU must be
    #[arg(long = "pool", value_name = "NAME", required = true)]
    pools: Vec<String>,
    /// How its GPUs go from one VM to the next
    #[arg(long, value_parser = one_of(POLICIES))]
    policy: Option<Policy>,
    /// Whether there is one session at a time on a GPU, whatever its level
    #[arg(long, value_name = "BOOL")]
    exclusive: Option<bool>,
    /// Whether VMs take turns, or all run at once through NVIDIA's MPS
    #[arg(long, value_parser = one_of(SHARINGS))]
    sharing: Option<Sharing>,
    /// Its part of the GPUs that it shares with other pools, 1 to 100
    #[arg(long, value_parser = number("a weight", 1..=WEIGHT_MAX))]
    weight: Option<u32>,
    /// How many of its GPUs a VM gets; 0: all
    #[arg(long, value_name = "N", value_parser = number("a number of GPUs", 0..=GPUS_PER_VM_MAX))]
    gpus_per_vm: Option<u32>,
    /// What is done about VMs that break a limit; the rest is only logged. Some of warn,deprioritise,stop,end,quarantine,
    /// or none
    #[arg(long, value_name = "RUNGS", value_parser = ladder)]
    ladder: Option<Ladder>,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    change: Change,
}

/// The rungs of a ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ladder(Vec<Rung>);

/// Reads "warn,stop", or "none".
fn ladder(text: &str) -> Result<Ladder, String> {
    if text == "none" {
        return Ok(Ladder(Vec::new()));
    }
    let rung = |name: &str| {
        let found = Rung::ALL.into_iter().find(|rung| rung.to_string() == name.trim());
        found.ok_or_else(|| {
            let names = Rung::ALL.map(|rung| rung.to_string()).join(", ");
            format!("\"{name}\": expected some of {names}, or none")
        })
    };
    Ok(Ladder(text.split(',').map(rung).collect::<Result<_, _>>()?))
}

fn reason(text: &str) -> Result<String, String> {
    vgpu_pool_map::reason(text).map(str::to_owned)
}

/// A VM's number.
pub fn vm_number() -> impl TypedValueParser<Value = u32> {
    number::<u32>("a VM's number, such as 3", ..)
}

/// One of these, by its name.
pub fn one_of<T: Copy + ToString + Send + Sync>(all: &'static [T]) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(T::to_string));
    names.try_map(|name| {
        let found = all.iter().find(|one| one.to_string() == name);
        found.copied().ok_or("not one of them")
    })
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Change {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A change that is asked for, whether it is only tried, and what helps if it is refused.
pub struct Planned {
    pub change: Wanted,
    pub dry_run: bool,
    pub hint: &'static str,
    /// The same if what it names is not there.
    pub hint_not_found: &'static str,
}

const GPUS_HINT: &str = "`vgpu-admin scan-gpus` lists the GPUs, `vgpu-admin status` the pools";
const LIMITS_HINT: &str = "`vgpu-admin help set-limits` lists the limits; `vgpu-admin register-vm --vm-id VM --pool NAME` puts a VM into a pool";
const POOL_HINT: &str = "`vgpu-admin help set-pool` lists the settings, `vgpu-admin status` the pools; \
    pools that share a GPU are set together, with --pool for each";
const UNDO_HINT: &str = "`vgpu-admin audit` lists the changes";
const VMS_HINT: &str = "`vgpu-admin status` lists the pools and their VMs";

impl Command {
    /// The change that this asks for, if it does.
    pub fn change(&self) -> Option<Planned> {
        let planned = |wanted, change: &Change, hint| {
            Some(Planned {
                change: wanted,
                dry_run: change.dry_run,
                hint,
                hint_not_found: match self {
                    // Nothing that could be moved there.
                    Self::RegisterVm(_) => VMS_HINT,
                    _ => hint,
                },
            })
        };
        let (edits, change, hint) = match self {
            Self::AssignGpu { gpu, change } => {
                let edit = Edit::AssignGpu {
                    gpu: gpu.gpu_id.clone(),
                    pool: gpu.pool.clone(),
                };
                (vec![edit], change, GPUS_HINT)
            }
            Self::UnassignGpu { gpu, change } => {
                let edit = Edit::UnassignGpu {
                    gpu: gpu.gpu_id.clone(),
                    pool: gpu.pool.clone(),
                };
                (vec![edit], change, GPUS_HINT)
            }
            Self::RegisterVm(register) => {
                let edit = Edit::RegisterVms {
                    vms: register.vms.text(),
                    pool: register.pool.clone(),
                    settings: VmSettings {
                        priority: register.priority,
                        weight: register.weight,
                        queue_depth: register.queue_depth,
                        aging_ms: register.aging_ms,
                        limits: register.limits.0,
                    },
                    move_from_other: register.move_from_other,
                };
                let hint = match register.move_from_other {
                    true => VMS_HINT,
                    false => {
                        "`vgpu-admin status` lists the pools and their VMs; --move moves those that are in another pool"
                    }
                };
                (vec![edit], &register.change, hint)
            }
            Self::UnregisterVm { vms, change } => {
                (vec![Edit::UnregisterVms { vms: vms.text() }], change, VMS_HINT)
            }
            Self::SetPriority {
                vms,
                priority,
                change,
            } => {
                let settings = VmSettings {
                    priority: Some(*priority),
                    ..VmSettings::default()
                };
                (set(vms, settings), change, REGISTER_HINT)
            }
            Self::SetWeight { vms, weight, change } => {
                let settings = VmSettings {
                    weight: Some(*weight),
                    ..VmSettings::default()
                };
                (set(vms, settings), change, REGISTER_HINT)
            }
            Self::SetLimits { vms, limits, change } => {
                let settings = VmSettings {
                    limits: limits.0,
                    ..VmSettings::default()
                };
                (set(vms, settings), change, LIMITS_HINT)
            }
            Self::SetPool(set) => (set.edits(), &set.change, POOL_HINT),
            Self::Quarantine {
                vms,
                reason,
                seconds,
                change,
            } => {
                let wanted = Wanted::Quarantine {
                    vms: vms.text(),
                    why: reason.clone(),
                    seconds: *seconds,
                };
                return planned(wanted, change, VMS_HINT);
            }
            Self::Release { vms, change } => {
                return planned(Wanted::Release { vms: vms.text() }, change, VMS_HINT);
            }
            Self::Undo { number, change } => {
                return planned(Wanted::Undo { number: *number }, change, UNDO_HINT);
            }
            Self::ScanGpus
            | Self::Audit { .. }
            | Self::Status { .. }
            | Self::Stats { .. }
            | Self::Usage(_)
            | Self::Turns { .. }
            | Self::Events(_)
            | Self::Probe { .. }
            | Self::Record { .. }
            | Self::Replay(_)
            | Self::Top(_)
            | Self::Doctor(_)
            | Self::DomainXml(_)
            | Self::LibvirtHook(_)
            | Self::Cloudstack { .. }
            | Self::Cdi(_)
            | Self::Reload { .. }
            | Self::Config { .. } => {
                return None;
            }
        };
        planned(Wanted::Edit { edits }, change, hint)
    }
}

const REGISTER_HINT: &str = "`vgpu-admin register-vm --vm-id VM --pool NAME` puts a VM into a pool";

fn set(vms: &Vms, settings: VmSettings) -> Vec<Edit> {
    vec![Edit::SetVms {
        vms: vms.text(),
        settings,
    }]
}

impl SetPool {
    fn edits(&self) -> Vec<Edit> {
        let settings = PoolSettings {
            policy: self.policy,
            exclusive: self.exclusive,
            sharing: self.sharing,
            weight: self.weight,
            gpus_per_vm: self.gpus_per_vm,
            ladder: self.ladder.clone().map(|Ladder(rungs)| rungs),
            limits: self.limits.0,
        };
        let edit = |pool: &String| Edit::SetPool {
            pool: pool.clone(),
            settings: settings.clone(),
        };
        self.pools.iter().map(edit).collect()
    }
}

impl Vms {
    /// As `vgpud` is told.
    pub fn text(&self) -> String {
        self.vm_id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use vgpu_pool_map::LIMITS;
    use vgpu_sched_api::messages::Limits;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = ["vgpu-admin"].into_iter().chain(line.split_whitespace());
        Ok(Arguments::try_parse_from(words)?.command)
    }

    fn edits(line: &str) -> Vec<Edit> {
        match parse(line).unwrap().change().unwrap().change {
            Wanted::Edit { edits } => edits,
            other => panic!("{other:?}"),
        }
    }

    /// Every limit has its option, in each of the three commands.
    #[test]
    fn limits_are_options() {
        for limit in LIMITS {
            let option = format!("--{} {}", limit.key.replace('_', "-"), limit.most);
            let mut expected = Limits::default();
            (limit.set)(&mut expected, Some(limit.most));
            match &edits(&format!("set-limits --vm-id 3-5 {option}"))[..] {
                [Edit::SetVms { vms, settings }] => {
                    assert_eq!((vms.as_str(), settings.limits), ("3-5", expected));
                }
                other => panic!("{other:?}"),
            }
            match &edits(&format!("register-vm --vm-id 3 --pool A {option}"))[..] {
                [Edit::RegisterVms { settings, .. }] => assert_eq!(settings.limits, expected),
                other => panic!("{other:?}"),
            }
            match &edits(&format!("set-pool --pool A {option}"))[..] {
                [Edit::SetPool { settings, .. }] => assert_eq!(settings.limits, expected),
                other => panic!("{other:?}"),
            }
            let option = format!("--{} {}", limit.key.replace('_', "-"), limit.most + 1);
            assert!(
                parse(&format!("set-limits --vm-id 3 {option}")).is_err(),
                "{option}"
            );
        }
    }

    #[test]
    fn pools_are_set_together() {
        let line = "set-pool --pool A --pool B --policy weighted --exclusive true --sharing turns --weight 2 \
            --gpus-per-vm 0 --ladder stop,warn --dry-run";
        let settings = PoolSettings {
            policy: Some(Policy::Weighted),
            exclusive: Some(true),
            sharing: Some(Sharing::Turns),
            weight: Some(2),
            gpus_per_vm: Some(0),
            ladder: Some(vec![Rung::Stop, Rung::Warn]),
            limits: Limits::default(),
        };
        let expected = ["A", "B"].map(|pool| Edit::SetPool {
            pool: pool.to_owned(),
            settings: settings.clone(),
        });
        assert_eq!(edits(line), expected);
        assert!(parse(line).unwrap().change().unwrap().dry_run);
        assert_eq!(ladder("none"), Ok(Ladder(Vec::new())));
        for wrong in [
            "set-pool",
            "set-pool --pool A --policy fair",
            "set-pool --pool A --ladder warn,kill",
            "set-pool --pool A --exclusive maybe",
            "set-pool --pool A --gpus-per-vm 9",
            "quarantine --vm-id 3",
            "stats --watch --prometheus",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(reason("a\nb").is_err() && reason(" ").is_err() && reason("ran wild").is_ok());
        let expected = |line: &str| {
            let said = parse(line).unwrap_err().to_string();
            let first = said.lines().next().unwrap_or_default();
            first.split(": expected ").nth(1).unwrap_or(first).to_owned()
        };
        for (line, said) in [
            ("audit --last x", "a number of changes, such as 20, from 1 on"),
            ("turns --last 1.5", "a number of turns, such as 20, from 1 on"),
            ("events --last x", "a number of events, such as 20"),
            ("events --vm-id 1-3", "a VM's number, such as 3"),
            ("domain-xml --vm-id 1-3", "a VM's number, such as 3"),
            ("cdi --vm-id x", "a VM's number, such as 3"),
            (
                "undo x",
                "a change's number, such as 20, which `vgpu-admin audit` has",
            ),
            (
                "status --watch=x",
                "a number of seconds, such as 5, from 1 to 3600",
            ),
            (
                "top --interval 0",
                "a number of seconds, such as 5, from 1 to 3600",
            ),
            (
                "record f --seconds x",
                "a number of seconds, such as 300, from 1 to 31536000",
            ),
            ("set-weight --vm-id 1 --weight x", "a weight, from 1 to 100"),
            (
                "set-limits --vm-id 1 --call-rate x",
                "a number, from 0 to 10000000",
            ),
        ] {
            assert_eq!(expected(line), said, "{line}");
        }
        for line in [
            "audit --last 7",
            "turns --last 7",
            "events --last 7 --vm-id 3",
            "undo 7",
            "status --watch=7",
            "top --interval 7",
            "record f --seconds 7",
            "quarantine --vm-id 1 --reason x --seconds 7",
            "register-vm --vm-id 1 --pool A --weight 7 --queue-depth 7 --aging-ms 7",
            "replay f --policy fifo --quantum-ms 7",
            "cdi --vm-id 7",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        let said = parse("turns --last 0").unwrap_err().to_string();
        assert!(said.contains("--last <N>"), "{said}");
        assert!(parse("audit --last 0").is_err() && parse("events --last 0 --follow").is_ok());
    }
}
