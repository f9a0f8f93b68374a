//! What there is to see.
use crate::daemon::{Daemon, uuids};
use crate::inventory::gpus_of;
use std::collections::BTreeSet;
use vgpu_pool_map::{Pool, PoolGpus};
use vgpu_sched_api::messages::{
    GpuState, GpuStatus, PoolStatus, SCHEMA_VERSION, SessionStatus, Status, VmStatus,
};
use vgpu_sched_core::{Event, Session, Standing};

impl Daemon {
    /// Everything.
    pub(crate) fn status(&mut self) -> Status {
        // Turns that are held are charged up to now.
        self.feed(Event::Tick);
        let pools: Vec<_> = self.map.pools.iter().map(|pool| self.pool_status(pool)).collect();
        let gpus = self.gpu_status();
        let mut degraded = Vec::new();
        for pool in &pools {
            for uuid in &pool.gpus {
                if gpus
                    .iter()
                    .any(|gpu| gpu.uuid == *uuid && gpu.state == GpuState::Missing)
                {
                    degraded.push(format!("pool {}: its GPU {uuid} is missing", pool.name));
                }
            }
        }
        Status {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.now_us() / 1_000_000,
            config: self.config.display().to_string(),
            degraded,
            gpus,
            pools,
        }
    }

    /// The GPUs that are there, then those that pools name and that are not.
    pub(crate) fn gpu_status(&self) -> Vec<GpuStatus> {
        let pools_of = |uuid: &str| -> Vec<String> {
            let serves = |pool: &&Pool| match &pool.gpus {
                PoolGpus::All => self.inventory.iter().any(|gpu| gpu.uuid == uuid),
                PoolGpus::Uuids(uuids) => uuids.iter().any(|other| other == uuid),
            };
            let pools = self.map.pools.iter().filter(serves);
            pools.map(|pool| pool.name.clone()).collect()
        };
        let mut gpus: Vec<_> = (0..)
            .zip(&self.inventory)
            .map(|(index, gpu)| {
                let pools = pools_of(&gpu.uuid);
                GpuStatus {
                    index: Some(index),
                    uuid: gpu.uuid.clone(),
                    model: gpu.model.clone(),
                    pci: gpu.pci.clone(),
                    memory: gpu.memory,
                    state: if pools.is_empty() {
                        GpuState::Unassigned
                    } else {
                        GpuState::Ready
                    },
                    pools,
                    sessions: self
                        .sessions
                        .values()
                        .filter(|live| live.gpus.iter().any(|gpu| gpu == index))
                        .count() as u32,
                }
            })
            .collect();
        let named: BTreeSet<&String> = self
            .map
            .pools
            .iter()
            .filter_map(|pool| match &pool.gpus {
                PoolGpus::All => None,
                PoolGpus::Uuids(uuids) => Some(uuids),
            })
            .flatten()
            .collect();
        for uuid in named {
            if !self.inventory.iter().any(|gpu| gpu.uuid == *uuid) {
                gpus.push(GpuStatus {
                    index: None,
                    uuid: uuid.clone(),
                    model: String::new(),
                    pci: String::new(),
                    memory: 0,
                    state: GpuState::Missing,
                    pools: pools_of(uuid),
                    sessions: 0,
                });
            }
        }
        gpus
    }

    fn pool_status(&self, pool: &Pool) -> PoolStatus {
        let there = uuids(&self.inventory, gpus_of(&pool.gpus, &self.inventory));
        let gpus = match &pool.gpus {
            PoolGpus::All => there.clone(),
            PoolGpus::Uuids(uuids) => uuids.clone(),
        };
        let clients = self.clients.values().filter_map(|client| client.vm);
        let vms: BTreeSet<u32> = clients
            .chain(self.sessions.keys().map(|session| session.vm))
            .chain(self.earlier.keys().copied())
            .chain(self.map.vms_with_settings())
            .filter(|vm| pool.has(*vm))
            .collect();
        PoolStatus {
            name: pool.name.clone(),
            complete: gpus.len() == there.len(),
            gpus,
            ranges: pool.ranges.iter().map(ToString::to_string).collect(),
            vms: vms.into_iter().map(|vm| self.vm_status(vm)).collect(),
        }
    }

    fn vm_status(&self, vm: u32) -> VmStatus {
        let usage = self.usage(vm);
        let settings = self.map.settings_of(vm);
        let first = Session { vm, number: 0 };
        let last = Session { vm, number: u32::MAX };
        let sessions = self.sessions.range(first..=last).map(|(session, live)| {
            let (calls, queued) = live.page.counts();
            SessionStatus {
                session: session.number,
                pid: live.pid,
                program: live.program.clone(),
                state: self.core.standing(*session).map_or("", standing_name).to_owned(),
                gpus: uuids(&self.inventory, live.gpus),
                queued,
                calls,
            }
        });
        let sessions: Vec<_> = sessions.collect();
        VmStatus {
            vm,
            connected: self.clients.values().any(|client| client.vm == Some(vm)),
            priority: settings.priority,
            weight: settings.weight,
            aging_ms: settings.aging_ms,
            queue_depth: settings.queue_depth,
            queued: sum(sessions.iter().map(|session| session.queued)),
            calls: sum(sessions.iter().map(|session| session.calls)),
            turns: usage.turns,
            gpu_microseconds: usage.ns / 1000,
            estimated: usage.estimated,
            sessions,
        }
    }
}

/// What executors say of themselves need not make sense.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Out => "out",
        Standing::Waiting => "waiting",
        Standing::Running => "running",
        Standing::Idle => "idle",
        Standing::Asked => "asked",
        Standing::Stopped => "stopped",
    }
}
