//! The command line.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vgpu_pool_map::{MS_MAX, QUEUE_DEPTH_MAX, VmRange, WEIGHT_MAX};
use vgpu_sched_api::messages::{Edit, Priority, VmSettings};

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
4 vgpud cannot be reached, 5 `status` found something degraded."
)]
pub struct Arguments {
    /// vgpud's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "VGPU_ADMIN_SOCKET",
        default_value = "/run/vgpu/vgpud.sock"
    )]
    pub socket: PathBuf,
    /// Print JSON, errors included: one object on the standard output
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
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
        /// low, medium or high
        #[arg(long)]
        priority: Level,
        #[command(flatten)]
        change: Change,
    },
    /// Set the weight of VMs
    SetWeight {
        #[command(flatten)]
        vms: Vms,
        /// How many quanta a turn lasts while others of the level wait, 1 to 100
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
        weight: u32,
        #[command(flatten)]
        change: Change,
    },
    /// Show GPUs, pools and VMs on one screen
    Status {
        /// Show it again and again, every so many seconds, until interrupted
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
            value_parser = clap::value_parser!(u32).range(1..=3600))]
        watch: Option<u32>,
    },
    /// Show the order in which turns were given
    Turns {
        /// How many of the last ones
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
    },
    /// Have vgpud read the pool map's file again
    Reload,
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

#[derive(Debug, Args)]
pub struct GpuInPool {
    /// Its index in `scan-gpus`, its UUID or its PCI address
    #[arg(long, value_name = "GPU")]
    gpu_id: String,
    /// The pool's name
    #[arg(long, value_name = "NAME")]
    pool: String,
}

#[derive(Debug, Args)]
pub struct Vms {
    /// A VM's number, or a range such as 1-7
    #[arg(long, value_name = "VM")]
    vm_id: VmRange,
}

#[derive(Debug, Args)]
pub struct Register {
    #[command(flatten)]
    vms: Vms,
    /// The pool's name
    #[arg(long, value_name = "NAME")]
    pool: String,
    /// low, medium or high; medium unless set
    #[arg(long)]
    priority: Option<Level>,
    /// How many quanta a turn lasts while others of the level wait, 1 to 100; 1 unless set
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    weight: Option<u32>,
    /// Operations in flight on its GPUs at most; the pool's limit unless set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(QUEUE_DEPTH_MAX)))]
    queue_depth: Option<u32>,
    /// Milliseconds of waiting after which it counts as one level higher; the pool's unless set
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=MS_MAX))]
    aging_ms: Option<u64>,
    /// Move those that are in another pool
    #[arg(long = "move")]
    move_from_other: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Change {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    Low,
    Medium,
    High,
}

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        match level {
            Level::Low => Self::Low,
            Level::Medium => Self::Medium,
            Level::High => Self::High,
        }
    }
}

/// A change of the pool map, whether it is only tried, and what helps if it is refused.
pub struct Planned {
    pub edit: Edit,
    pub dry_run: bool,
    pub hint: &'static str,
}

const GPUS_HINT: &str = "`vgpu-admin scan-gpus` lists the GPUs, `vgpu-admin status` the pools";
const VMS_HINT: &str = "`vgpu-admin status` lists the pools and their VMs";

impl Command {
    /// The change of the pool map that this asks for, if it does.
    pub fn edit(&self) -> Option<Planned> {
        let (edit, change, hint) = match self {
            Self::AssignGpu { gpu, change } => {
                let edit = Edit::AssignGpu {
                    gpu: gpu.gpu_id.clone(),
                    pool: gpu.pool.clone(),
                };
                (edit, change, GPUS_HINT)
            }
            Self::UnassignGpu { gpu, change } => {
                let edit = Edit::UnassignGpu {
                    gpu: gpu.gpu_id.clone(),
                    pool: gpu.pool.clone(),
                };
                (edit, change, GPUS_HINT)
            }
            Self::RegisterVm(register) => {
                let edit = Edit::RegisterVms {
                    vms: register.vms.text(),
                    pool: register.pool.clone(),
                    settings: VmSettings {
                        priority: register.priority.map(Priority::from),
                        weight: register.weight,
                        queue_depth: register.queue_depth,
                        aging_ms: register.aging_ms,
                        ..VmSettings::default()
                    },
                    move_from_other: register.move_from_other,
                };
                let hint = match register.move_from_other {
                    true => VMS_HINT,
                    false => {
                        "`vgpu-admin status` lists the pools and their VMs; --move moves VMs from one pool to another"
                    }
                };
                (edit, &register.change, hint)
            }
            Self::UnregisterVm { vms, change } => (Edit::UnregisterVms { vms: vms.text() }, change, VMS_HINT),
            Self::SetPriority {
                vms,
                priority,
                change,
            } => {
                let settings = VmSettings {
                    priority: Some((*priority).into()),
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
            Self::ScanGpus
            | Self::Status { .. }
            | Self::Turns { .. }
            | Self::Reload
            | Self::Config { .. } => {
                return None;
            }
        };
        Some(Planned {
            edit,
            dry_run: change.dry_run,
            hint,
        })
    }
}

const REGISTER_HINT: &str = "`vgpu-admin register-vm --vm-id VM --pool NAME` puts a VM into a pool";

fn set(vms: &Vms, settings: VmSettings) -> Edit {
    Edit::SetVms {
        vms: vms.text(),
        settings,
    }
}

impl Vms {
    fn text(&self) -> String {
        self.vm_id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
