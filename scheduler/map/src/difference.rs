//! What differs between two maps, in lines for people: what an edit changes, and what a file that was changed by hand does.
use crate::file::Own;
use crate::limits::{LIMITS, Limit};
use crate::range::{VmRange, rows};
use crate::{DEFAULT_AGING_MS, Pool, PoolGpus, PoolMap};
use std::collections::BTreeSet;
use vgpu_sched_api::messages::{Limits, Rung};
use vgpu_sched_core::{Config, PerLevel};

/// A line for each thing that one map says and the other says otherwise; none if they mean the same. What a wider table
/// says is told of that one, not of each VM that it counts for. The order of pools, GPUs and VMs means nothing.
pub fn differences(before: &PoolMap, after: &PoolMap) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(changed("scheduler", scheduler(before), scheduler(after), ""));
    let of_all = |map: &PoolMap| widest(&map.common);
    lines.extend(changed("all VMs", of_all(before), of_all(after), ""));
    for pool in &before.pools {
        if after.pool(&pool.name).is_none() {
            lines.push(format!("pool {}: removed, with {}", pool.name, gpus(&pool.gpus)));
        }
    }
    for pool in &after.pools {
        let name = &format!("pool {}", pool.name);
        let settings = pool_settings(after, pool);
        match before.pool(&pool.name) {
            None => {
                lines.push(format!("{name}: new, with {}", gpus(&pool.gpus)));
                let usual = pool_settings(after, &Pool::new(pool.name.clone(), pool.gpus.clone()));
                let unusual = settings.iter().zip(&usual).filter(|(said, usual)| said != usual);
                lines.extend(unusual.map(|(said, _)| format!("{name}: {} {}", said.key, said.text)));
            }
            Some(old) => {
                lines.extend(changed_gpus(name, &old.gpus, &pool.gpus));
                lines.extend(changed(name, pool_settings(before, old), settings, "all"));
            }
        }
    }
    lines.extend(changed_members(before, after));
    lines.extend(changed_vms(before, after));
    lines
}

/// What a table says of a key.
#[derive(Clone, PartialEq, Eq)]
struct Said {
    key: &'static str,
    /// What counts, for people.
    text: String,
    /// It counts whatever a wider table says.
    own: bool,
}

impl Said {
    /// Of a key that no wider table has.
    fn only(key: &'static str, value: impl ToString) -> Self {
        Self {
            key,
            text: value.to_string(),
            own: true,
        }
    }

    /// The same, as if no wider table had it.
    fn alone(self) -> Self {
        Self { own: true, ..self }
    }

    /// What this became, as in "weight 3, was 1"; `None` if it is the same, or is now another one only where a wider table is.
    fn became(&self, now: &Self, wider: &str) -> Option<String> {
        let Self { key, text, own } = now;
        match (self.own, own, self.text == *text) {
            (false, false, _) | (true, true, true) => None,
            (_, _, false) => Some(format!("{key} {text}, was {}", self.text)),
            (false, true, true) => Some(format!("{key} {text}, whatever is set for {wider}")),
            (true, false, true) => Some(format!("{key} {text}, as is set for {wider}")),
        }
    }
}

/// Lines of a table that both maps have. They say the same keys in the same order.
fn changed<'a>(
    name: &'a str,
    before: Vec<Said>,
    after: Vec<Said>,
    wider: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let pairs = before.into_iter().zip(after);
    pairs.filter_map(move |(before, after)| Some(format!("{name}: {}", before.became(&after, wider)?)))
}

fn scheduler(map: &PoolMap) -> Vec<Said> {
    let Config {
        quantum_us,
        active_hold_us,
        grace_us,
        deadman_us,
        slice_us,
        window,
        // Those that no key sets.
        look_us: _,
        share_window_us: _,
        burst_us: _,
        burst_gap_us: _,
        burst_us_max: _,
    } = map.scheduler;
    let PerLevel { low, medium, high } = quantum_us;
    vec![
        Said::only("quantum_ms.low", low / 1000),
        Said::only("quantum_ms.medium", medium / 1000),
        Said::only("quantum_ms.high", high / 1000),
        Said::only("active_hold_ms", active_hold_us / 1000),
        Said::only("grace_ms", grace_us / 1000),
        Said::only("deadman_ms", deadman_us / 1000),
        Said::only("slice_us.low", slice_us.low),
        Said::only("slice_us.medium", slice_us.medium),
        Said::only("slice_us.high", slice_us.high),
        Said::only("window.low", window.low),
        Said::only("window.medium", window.medium),
        Said::only("window.high", window.high),
        Said::only("poll_us", map.poll_us),
    ]
}

/// What is set for all VMs.
fn widest(own: &Own) -> Vec<Said> {
    let said = common(own, &Own::default());
    said.into_iter().map(Said::alone).collect()
}

/// The keys that can be set for all VMs, for a pool's and for one.
fn common(own: &Own, wider: &Own) -> Vec<Said> {
    let all = own.or(wider);
    let unlimited = |depth: u32| depth.to_string();
    let aging = Said {
        key: "aging_ms",
        text: all.aging_ms.unwrap_or(DEFAULT_AGING_MS).to_string(),
        own: own.aging_ms.is_some(),
    };
    let depth = Said {
        key: "queue_depth",
        text: all.queue_depth.map_or("unlimited".to_owned(), unlimited),
        own: own.queue_depth.is_some(),
    };
    let limits = LIMITS
        .iter()
        .map(|limit| of_limit(limit, &own.limits, &all.limits));
    [aging, depth].into_iter().chain(limits).collect()
}

fn of_limit(limit: &Limit, own: &Limits, all: &Limits) -> Said {
    Said {
        key: limit.key,
        text: limit.text((limit.get)(all)),
        own: (limit.get)(own).is_some(),
    }
}

fn pool_settings(map: &PoolMap, pool: &Pool) -> Vec<Said> {
    let Pool {
        name: _,
        gpus: _,
        ranges: _,
        policy,
        exclusive,
        sharing,
        weight,
        gpus_per_vm,
        ladder,
        own,
    } = pool;
    let mut said = vec![
        Said::only("policy", policy),
        Said::only("exclusive", exclusive),
        Said::only("sharing", sharing),
        Said::only("weight", weight),
        Said::only(
            "gpus_per_vm",
            gpus_per_vm.map_or("all".to_owned(), |n| n.to_string()),
        ),
    ];
    said.extend(common(own, &map.common));
    said.push(Said::only("ladder", rungs(ladder)));
    said
}

/// What is said of a VM, if what is set for it by itself were so in a map.
fn vm_settings(own: &Own, map: &PoolMap, vm: u32) -> Vec<Said> {
    let mut said = vec![
        Said::only("priority", own.priority.unwrap_or(crate::DEFAULT_PRIORITY)),
        Said::only("weight", own.weight.unwrap_or(crate::DEFAULT_WEIGHT)),
    ];
    said.extend(common(own, &map.own_of_pool(map.pool_of(vm))));
    said
}

/// Lines for the VMs that have other settings of their own; those in a row of which the same is said make one.
fn changed_vms(before: &PoolMap, after: &PoolMap) -> Vec<String> {
    let name = |map: &PoolMap, vm| map.pool_of(vm).map(|pool| pool.name.clone());
    let vms: BTreeSet<u32> = before.vms.keys().chain(after.vms.keys()).copied().collect();
    // By key, and in its order: a key's VMs make rows.
    let mut said: Vec<Vec<(u32, String)>> = Vec::new();
    let mut removed = Vec::new();
    for vm in vms {
        let (old, new) = (before.own_of_vm(vm), after.own_of_vm(vm));
        if old == new {
            continue;
        }
        if after.pool_of(vm).is_none() {
            removed.push((vm, String::new()));
            continue;
        }
        // One that has come into its pool is compared with what would count for it there.
        let stayed = name(before, vm) == name(after, vm);
        let old = vm_settings(&old, if stayed { before } else { after }, vm);
        let new = vm_settings(&new, after, vm);
        said.resize(new.len(), Vec::new());
        for ((old, new), said) in old.iter().zip(&new).zip(&mut said) {
            said.extend(old.became(new, "its pool").map(|became| (vm, became)));
        }
    }
    let removed = rows(removed).into_iter().map(|(vms, _)| match vms.count() {
        1 => format!("{}: its settings are removed", vms.name()),
        _ => format!("{}: their settings are removed", vms.name()),
    });
    let said = said.into_iter().flat_map(rows);
    removed
        .chain(said.map(|(vms, became)| format!("{}: {became}", vms.name())))
        .collect()
}

/// Lines for the VMs that belong to another pool, or to one at last, or to none.
fn changed_members(before: &PoolMap, after: &PoolMap) -> Vec<String> {
    let ranges = |map: &PoolMap| -> Vec<(String, Vec<VmRange>)> {
        let pools = map.pools.iter();
        pools
            .map(|pool| (pool.name.clone(), VmRange::merged(&pool.ranges)))
            .collect()
    };
    let all = |map: &PoolMap| -> Vec<VmRange> {
        let ranges = map.pools.iter().flat_map(|pool| &pool.ranges);
        VmRange::merged(&ranges.copied().collect::<Vec<_>>())
    };
    let (old, new) = (ranges(before), ranges(after));
    let mut lines = Vec::new();
    for (from, theirs) in &old {
        for (to, now) in new.iter().filter(|(to, _)| to != from) {
            let moved = VmRange::in_both(theirs, now);
            if !moved.is_empty() {
                lines.push(format!("{}: from pool {from} to pool {to}", list(&moved)));
            }
        }
    }
    for (pool, theirs) in &new {
        let fresh = VmRange::in_first_alone(theirs, &all(before));
        if !fresh.is_empty() {
            lines.push(format!("{}: in pool {pool}", list(&fresh)));
        }
    }
    for (pool, theirs) in &old {
        let gone = VmRange::in_first_alone(theirs, &all(after));
        if !gone.is_empty() {
            lines.push(format!("{}: no longer in pool {pool}", list(&gone)));
        }
    }
    lines
}

fn changed_gpus(pool: &str, before: &PoolGpus, after: &PoolGpus) -> Vec<String> {
    let (old, new) = match (before, after) {
        (PoolGpus::Uuids(old), PoolGpus::Uuids(new)) => (old, new),
        (before, after) if before == after => return Vec::new(),
        (before, after) => return vec![format!("{pool}: {}, was {}", gpus(after), gpus(before))],
    };
    let come = new.iter().filter(|uuid| !old.contains(uuid));
    let gone = old.iter().filter(|uuid| !new.contains(uuid));
    come.map(|uuid| format!("{pool}: gets GPU {uuid}"))
        .chain(gone.map(|uuid| format!("{pool}: loses GPU {uuid}")))
        .collect()
}

/// "GPU GPU-...", "GPUs GPU-..., GPU-...", "all GPUs".
fn gpus(gpus: &PoolGpus) -> String {
    match gpus {
        PoolGpus::All => "all GPUs".to_owned(),
        PoolGpus::Uuids(uuids) if uuids.len() == 1 => format!("GPU {}", uuids.join("")),
        PoolGpus::Uuids(uuids) => format!("GPUs {}", uuids.join(", ")),
    }
}

/// "warn, stop", "none".
fn rungs(ladder: &[Rung]) -> String {
    match ladder {
        [] => "none".to_owned(),
        rungs => rungs.iter().map(Rung::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// "VM 3", "VMs 1-7", "VMs 1-7, 9".
pub(crate) fn list(ranges: &[VmRange]) -> String {
    let one = ranges.iter().map(|range| range.count()).sum::<u64>() == 1;
    let ranges: Vec<String> = ranges.iter().map(VmRange::to_string).collect();
    format!("{} {}", if one { "VM" } else { "VMs" }, ranges.join(", "))
}
