//! Changing a map as its file is written: comments, order and layout of everything that is not changed stay.
//!
//! Comments above a header that goes move to the next one; those within a table that goes, go with it.
mod array;
mod document;

use crate::error::MapError;
use crate::file::{GPUS_PER_VM_MAX, MS_MAX, QUEUE_DEPTH_MAX, WEIGHT_MAX};
use crate::limits::{LIMITS, Limit};
use crate::range::{VmRange, rows};
use crate::{Pool, PoolGpus, PoolMap, check_name, uuid};
use document::Document;
use toml_edit::Value;
use vgpu_sched_api::messages::{Edit, Limits, PoolSettings, Rung, VmSettings};

/// VMs that can be given settings at once: each of them gets a table of its own.
const SET_MAX: u64 = 4096;

/// A map's text after edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The whole text.
    pub text: String,
    /// What has changed, a line each, for people; empty if all was so already.
    pub changes: Vec<String>,
}

/// Why an edit cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There is no such pool, VM or GPU.
    #[error("{0}")]
    NotFound(String),
    /// The edit makes no sense, or not with this map.
    #[error("{0}")]
    Refused(String),
    /// The text is no map to begin with.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Makes edits to a map's text, one after another; all of them or none. `resolve` gives the UUID of a GPU that is there
/// and is named by its index, UUID or PCI address.
pub fn apply(
    text: &str,
    edits: &[Edit],
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<Edited, EditError> {
    PoolMap::parse(text, None)?;
    if edits.is_empty() {
        return Err(EditError::Refused(
            "no edit is given: expected at least one".to_owned(),
        ));
    }
    let mut edited = Edited {
        text: text.to_owned(),
        changes: Vec::new(),
    };
    for edit in edits {
        let mut step = Step::new(&edited.text, resolve)?;
        match edit {
            Edit::AssignGpu { gpu, pool } => step.assign(gpu, pool)?,
            Edit::UnassignGpu { gpu, pool } => step.unassign(gpu, pool)?,
            Edit::RegisterVms {
                vms,
                pool,
                settings,
                move_from_other,
            } => {
                let vms = range(vms)?;
                check(vms, settings)?;
                step.register(vms, pool, *move_from_other)?;
                // What its new pool says counts from here on.
                step = step.next()?;
                step.set(vms, settings);
            }
            Edit::UnregisterVms { vms } => step.unregister(range(vms)?)?,
            Edit::SetVms { vms, settings } => {
                let vms = range(vms)?;
                check(vms, settings)?;
                if *settings == VmSettings::default() {
                    return Err(EditError::Refused("no setting is given".to_owned()));
                }
                step.must_have_pools(vms)?;
                step.set(vms, settings);
            }
            Edit::SetPool { pool, settings } => {
                check_pool(settings)?;
                step.set_pool(pool, settings)?;
            }
        }
        let step = step.next()?;
        edited.changes.extend(step.changes);
        edited.text = step.text;
    }
    // Pools that share a GPU may be made to agree by several edits.
    PoolMap::parse(&edited.text, None).map_err(refused)?;
    Ok(edited)
}

/// One edit: the map before it, and the text on its way.
struct Step<'a> {
    resolve: &'a dyn Fn(&str) -> Option<String>,
    text: String,
    map: PoolMap,
    document: Document,
    changes: Vec<String>,
}

impl<'a> Step<'a> {
    fn new(text: &str, resolve: &'a dyn Fn(&str) -> Option<String>) -> Result<Self, MapError> {
        Ok(Self {
            resolve,
            text: text.to_owned(),
            map: PoolMap::read(text, None)?.0,
            document: Document::parse(text)?,
            changes: Vec::new(),
        })
    }

    /// From what is there now.
    fn next(self) -> Result<Self, EditError> {
        if self.changes.is_empty() {
            return Ok(self);
        }
        let next = Self::new(&self.document.text(), self.resolve).map_err(refused)?;
        Ok(Self {
            changes: self.changes,
            ..next
        })
    }

    fn assign(&mut self, gpu: &str, pool: &str) -> Result<(), EditError> {
        let uuid = (self.resolve)(gpu).ok_or_else(|| no_gpu(gpu))?;
        let Some(index) = self.index_of(pool) else {
            check_name(pool).map_err(EditError::Refused)?;
            self.document.add_pool(pool, &uuid);
            self.changes.push(format!("pool {pool}: new, with GPU {uuid}"));
            return Ok(());
        };
        if !self.has_gpu(index, &uuid) {
            self.document.add_gpu(index, &uuid);
            self.changes.push(format!("pool {pool}: gets GPU {uuid}"));
        }
        Ok(())
    }

    fn unassign(&mut self, gpu: &str, pool: &str) -> Result<(), EditError> {
        let index = self.index_of(pool).ok_or_else(|| self.no_pool(pool))?;
        let found = &self.map.pools[index];
        let PoolGpus::Uuids(uuids) = &found.gpus else {
            return Err(EditError::Refused(format!(
                "pool {pool} has \"all\" GPUs of the host; to leave one out, list the others in the file instead"
            )));
        };
        // One that is missing has no index, and can be named by what the file calls it.
        let listed = uuid(gpu).filter(|uuid| uuids.contains(uuid));
        let uuid_of_it = (self.resolve)(gpu).or(listed).ok_or_else(|| no_gpu(gpu))?;
        if !uuids.contains(&uuid_of_it) {
            return Ok(());
        }
        if uuids.len() > 1 {
            let is = |text: &str| uuid(text).as_ref() == Some(&uuid_of_it);
            self.document.remove_gpu(index, is);
            self.changes.push(format!("pool {pool}: loses GPU {uuid_of_it}"));
            return Ok(());
        }
        if !found.ranges.is_empty() {
            return Err(EditError::Refused(format!(
                "pool {pool} has {} and no other GPU than {uuid_of_it}: assign another one first, or unregister the VMs",
                list(&found.ranges)
            )));
        }
        self.document.remove_pool(index);
        self.changes
            .push(format!("pool {pool}: removed with its last GPU {uuid_of_it}"));
        Ok(())
    }

    fn register(&mut self, vms: VmRange, pool: &str, move_from_other: bool) -> Result<(), EditError> {
        let to = self.index_of(pool).ok_or_else(|| self.no_pool(pool))?;
        let Self {
            map,
            document,
            changes,
            ..
        } = self;
        let mut fresh = vec![vms];
        for (index, other) in map.pools.iter().enumerate() {
            let theirs: Vec<VmRange> = other.ranges.iter().filter_map(|range| range.and(vms)).collect();
            for range in &theirs {
                fresh = fresh.iter().flat_map(|part| part.without(*range)).collect();
            }
            if index == to || theirs.is_empty() {
                continue;
            }
            let moved = list(&theirs);
            if !move_from_other {
                return Err(EditError::Refused(format!(
                    "{moved}: in pool {} already; a VM belongs to one pool",
                    other.name
                )));
            }
            document.remove_vms(index, vms);
            changes.push(format!("{moved}: from pool {} to pool {pool}", other.name));
        }
        if !fresh.is_empty() {
            changes.push(format!("{}: in pool {pool}", list(&fresh)));
        }
        if !changes.is_empty() {
            document.add_vms(to, vms);
        }
        Ok(())
    }

    fn unregister(&mut self, vms: VmRange) -> Result<(), EditError> {
        let Self {
            map,
            document,
            changes,
            ..
        } = self;
        for (index, pool) in map.pools.iter().enumerate() {
            let theirs: Vec<VmRange> = pool.ranges.iter().filter_map(|range| range.and(vms)).collect();
            if !theirs.is_empty() {
                document.remove_vms(index, vms);
                changes.push(format!("{}: no longer in pool {}", list(&theirs), pool.name));
            }
        }
        if changes.is_empty() {
            return Err(EditError::NotFound(format!("{}: in no pool", list(&[vms]))));
        }
        for vm in map.vms_with_settings().filter(|vm| vms.contains(*vm)) {
            document.remove_vm(vm);
            changes.push(format!("VM {vm}: its settings are removed"));
        }
        Ok(())
    }

    fn must_have_pools(&self, vms: VmRange) -> Result<(), EditError> {
        let without = vms.iter().find(|vm| self.map.pool_of(*vm).is_none());
        match without {
            Some(vm) => Err(EditError::NotFound(format!("VM {vm}: in no pool"))),
            None => Ok(()),
        }
    }

    fn set(&mut self, vms: VmRange, wanted: &VmSettings) {
        let VmSettings {
            priority,
            weight,
            queue_depth,
            aging_ms,
            limits,
        } = wanted;
        self.set_one(
            vms,
            priority.map(|wanted| Setting::name("priority", wanted)),
            |map, vm| Now::only(map.settings_of(vm).priority),
        );
        self.set_one(
            vms,
            weight.map(|wanted| Setting::number("weight", wanted)),
            |map, vm| Now::only(map.settings_of(vm).weight),
        );
        self.set_one(
            vms,
            aging_ms.map(|wanted| Setting::number("aging_ms", wanted)),
            |map, vm| Now {
                text: map.settings_of(vm).aging_ms.to_string(),
                own: map.own_of_vm(vm).aging_ms.is_some(),
            },
        );
        self.set_one(
            vms,
            queue_depth.map(|wanted| Setting::number("queue_depth", wanted)),
            |map, vm| Now {
                text: match map.settings_of(vm).queue_depth {
                    Some(depth) => depth.to_string(),
                    None => "unlimited".to_owned(),
                },
                own: map.own_of_vm(vm).queue_depth.is_some(),
            },
        );
        for (wanted, limit) in Setting::limits(limits) {
            self.set_one(vms, Some(wanted), |map, vm| Now {
                text: limit.text((limit.get)(&map.own(vm).limits)),
                own: (limit.get)(&map.own_of_vm(vm).limits).is_some(),
            });
        }
    }

    /// Sets a key for those VMs of which it does not say so already.
    fn set_one(&mut self, vms: VmRange, wanted: Option<Setting>, now: impl Fn(&PoolMap, u32) -> Now) {
        let Some(wanted) = wanted else {
            return;
        };
        // VMs in a row with the same value so far make one line.
        let mut said: Vec<(u32, String)> = Vec::new();
        for vm in vms.iter() {
            let now = now(&self.map, vm);
            if now.says(&wanted) {
                continue;
            }
            self.document.set_vm(vm, wanted.key, wanted.value.clone());
            said.push((vm, wanted.instead_of(&now, "its pool")));
        }
        let lines = rows(said)
            .into_iter()
            .map(|(row, was)| format!("{}: {} {}, {was}", row.name(), wanted.key, wanted.text));
        self.changes.extend(lines);
    }

    fn set_pool(&mut self, name: &str, wanted: &PoolSettings) -> Result<(), EditError> {
        let index = self.index_of(name).ok_or_else(|| self.no_pool(name))?;
        let Self {
            map,
            document,
            changes,
            ..
        } = self;
        let pool = &map.pools[index];
        let PoolSettings {
            policy,
            exclusive,
            sharing,
            weight,
            gpus_per_vm,
            ladder,
            limits,
        } = wanted;
        let mut set = |wanted: Option<Setting>, now: Now| {
            let Some(wanted) = wanted.filter(|wanted| !now.says(wanted)) else {
                return;
            };
            let was = wanted.instead_of(&now, "all");
            changes.push(format!("pool {name}: {} {}, {was}", wanted.key, wanted.text));
            document.set_pool(index, wanted.key, wanted.value);
        };
        set(
            policy.map(|wanted| Setting::name("policy", wanted)),
            Now::only(pool.policy),
        );
        set(
            exclusive.map(|wanted| Setting::flag("exclusive", wanted)),
            Now::only(pool.exclusive),
        );
        set(
            sharing.map(|wanted| Setting::name("sharing", wanted)),
            Now::only(pool.sharing),
        );
        set(
            weight.map(|wanted| Setting::number("weight", wanted)),
            Now::only(pool.weight),
        );
        let of_all = |number: u32| match number {
            0 => "all".to_owned(),
            number => number.to_string(),
        };
        set(
            gpus_per_vm.map(|wanted| Setting {
                text: of_all(wanted),
                ..Setting::number("gpus_per_vm", wanted)
            }),
            Now::only(of_all(pool.gpus_per_vm.unwrap_or(0))),
        );
        let own = map.own_of_pool(Some(pool)).limits;
        for (wanted, limit) in Setting::limits(limits) {
            let now = Now {
                text: limit.text((limit.get)(&own)),
                own: (limit.get)(&pool.own.limits).is_some(),
            };
            set(Some(wanted), now);
        }
        if let Some(wanted) = ladder {
            let mut wanted = wanted.clone();
            wanted.sort_unstable();
            if wanted != pool.ladder {
                document.set_ladder(index, &wanted);
                let line = format!(
                    "pool {name}: ladder {}, was {}",
                    rungs(&wanted),
                    rungs(&pool.ladder)
                );
                changes.push(line);
            }
        }
        Ok(())
    }

    fn index_of(&self, pool: &str) -> Option<usize> {
        self.map.pools.iter().position(|other| other.name == pool)
    }

    fn has_gpu(&self, index: usize, uuid: &String) -> bool {
        match &self.map.pools[index].gpus {
            PoolGpus::All => true,
            PoolGpus::Uuids(uuids) => uuids.contains(uuid),
        }
    }

    fn no_pool(&self, pool: &str) -> EditError {
        let names: Vec<&str> = self
            .map
            .pools
            .iter()
            .map(|pool: &Pool| pool.name.as_str())
            .collect();
        let there = match names.as_slice() {
            [] => "there is none yet".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        EditError::NotFound(format!(
            "there is no pool {pool}: {there}; assigning a GPU to a pool creates it"
        ))
    }
}

/// A key and what it is to be.
struct Setting {
    key: &'static str,
    value: Value,
    /// The value, for people.
    text: String,
}

impl Setting {
    fn name(key: &'static str, name: impl ToString) -> Self {
        let text = name.to_string();
        Self {
            key,
            value: text.as_str().into(),
            text,
        }
    }

    fn flag(key: &'static str, flag: bool) -> Self {
        Self {
            key,
            value: flag.into(),
            text: flag.to_string(),
        }
    }

    fn number(key: &'static str, number: impl Into<u64>) -> Self {
        let number = number.into();
        Self {
            key,
            // Bounded before, so it fits.
            value: (number as i64).into(),
            text: number.to_string(),
        }
    }

    /// What it takes the place of, for people. What came to the same is from now on whatever is set for `wider`.
    fn instead_of(&self, now: &Now, wider: &str) -> String {
        match now.text == self.text {
            true => format!("whatever is set for {wider}"),
            false => format!("was {}", now.text),
        }
    }

    /// Those limits that are wanted, and how each is told of.
    fn limits(wanted: &Limits) -> impl Iterator<Item = (Self, &'static Limit)> {
        LIMITS.iter().filter_map(|limit| {
            let value = (limit.get)(wanted)?;
            let setting = Self {
                text: limit.text(Some(value)),
                ..Self::number(limit.key, value)
            };
            Some((setting, limit))
        })
    }
}

/// What counts now.
struct Now {
    /// For people.
    text: String,
    /// It stays so whatever a wider table comes to say.
    own: bool,
}

impl Now {
    /// Of a key that no wider table has.
    fn only(value: impl ToString) -> Self {
        Self {
            text: value.to_string(),
            own: true,
        }
    }

    /// Whether there is nothing to write.
    fn says(&self, wanted: &Setting) -> bool {
        self.own && self.text == wanted.text
    }
}

/// What an edit made of a map that was right.
fn refused(error: MapError) -> EditError {
    EditError::Refused(error.message().to_owned())
}

/// "warn, stop", "none".
fn rungs(ladder: &[Rung]) -> String {
    match ladder {
        [] => "none".to_owned(),
        rungs => rungs.iter().map(Rung::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn no_gpu(gpu: &str) -> EditError {
    EditError::NotFound(format!(
        "there is no GPU {gpu}: expected the index, the UUID or the PCI address of one of this host"
    ))
}

fn range(vms: &str) -> Result<VmRange, EditError> {
    vms.parse().map_err(EditError::Refused)
}

/// Whether settings are within their bounds, and not for too many.
fn check(vms: VmRange, settings: &VmSettings) -> Result<(), EditError> {
    if *settings == VmSettings::default() {
        return Ok(());
    }
    if vms.count() > SET_MAX {
        return Err(EditError::Refused(format!(
            "{} VMs cannot be given settings at once; at most {SET_MAX}",
            vms.count()
        )));
    }
    within("weight", settings.weight, 1, WEIGHT_MAX)?;
    within("queue_depth", settings.queue_depth, 1, QUEUE_DEPTH_MAX)?;
    within("aging_ms", settings.aging_ms, 1, MS_MAX)?;
    check_limits(&settings.limits)
}

fn check_pool(settings: &PoolSettings) -> Result<(), EditError> {
    if *settings == PoolSettings::default() {
        return Err(EditError::Refused("no setting is given".to_owned()));
    }
    within("weight", settings.weight, 1, WEIGHT_MAX)?;
    within("gpus_per_vm", settings.gpus_per_vm, 0, GPUS_PER_VM_MAX)?;
    let ladder = settings.ladder.as_deref().unwrap_or_default();
    let twice = Rung::ALL
        .iter()
        .find(|rung| ladder.iter().filter(|other| other == rung).count() > 1);
    if let Some(rung) = twice {
        return Err(EditError::Refused(format!("ladder: {rung} is listed twice")));
    }
    check_limits(&settings.limits)
}

fn check_limits(limits: &Limits) -> Result<(), EditError> {
    let mut each = LIMITS.iter();
    each.try_for_each(|limit| within(limit.key, (limit.get)(limits), 0, limit.most))
}

fn within<T: Into<u64>>(key: &str, value: Option<T>, least: u64, most: T) -> Result<(), EditError> {
    let (value, most) = (value.map(Into::into), most.into());
    match value.filter(|value| !(least..=most).contains(value)) {
        Some(value) => Err(EditError::Refused(format!(
            "{key} = {value}: expected a number from {least} to {most}"
        ))),
        None => Ok(()),
    }
}

/// "VM 3", "VMs 1-7", "VMs 1-7, 9".
fn list(ranges: &[VmRange]) -> String {
    let one = ranges.iter().map(|range| range.count()).sum::<u64>() == 1;
    let ranges: Vec<String> = ranges.iter().map(VmRange::to_string).collect();
    format!("{} {}", if one { "VM" } else { "VMs" }, ranges.join(", "))
}
