//! Changing a map as its file is written: comments, order and layout of everything that is not changed stay.
//!
//! Comments above a header that goes move to the next one; those within a table that goes, go with it.
mod array;
mod document;

use crate::difference::{differences, list};
use crate::error::MapError;
use crate::file::{GPUS_PER_VM_MAX, MS_MAX, QUEUE_DEPTH_MAX, WEIGHT_MAX};
use crate::limits::LIMITS;
use crate::range::VmRange;
use crate::{Pool, PoolGpus, PoolMap, check_name, uuid};
use document::Document;
use std::collections::BTreeSet;
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

/// The GPUs that a name may mean, by UUID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The one that is there.
    pub present: Option<String>,
    /// Those that were, and are missing: a GPU may have taken another one's place.
    pub missing: Vec<String>,
}

/// Tells which GPUs are named by an index, UUID or PCI address.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Named;

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

/// Makes edits to a map's text, one after another; all of them or none. `resolve` gives the UUIDs of the GPUs that
/// a name may mean. What they change is told in the words of [`differences`].
pub fn apply(text: &str, edits: &[Edit], resolve: Resolve<'_>) -> Result<Edited, EditError> {
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
    resolve: Resolve<'a>,
    text: String,
    map: PoolMap,
    document: Document,
    changes: Vec<String>,
}

impl<'a> Step<'a> {
    fn new(text: &str, resolve: Resolve<'a>) -> Result<Self, MapError> {
        Ok(Self {
            resolve,
            text: text.to_owned(),
            map: PoolMap::read(text, None)?.0,
            document: Document::parse(text)?,
            changes: Vec::new(),
        })
    }

    /// From what is there now.
    fn next(mut self) -> Result<Self, EditError> {
        let next = Self::new(&self.document.text(), self.resolve).map_err(refused)?;
        let changes = differences(&self.map, &next.map);
        // The text of a map that means the same is not touched.
        if changes.is_empty() {
            return Ok(self);
        }
        self.changes.extend(changes);
        Ok(Self {
            changes: self.changes,
            ..next
        })
    }

    fn assign(&mut self, gpu: &str, pool: &str) -> Result<(), EditError> {
        let Named { present, missing } = (self.resolve)(gpu);
        let found = present.map_or(missing, |uuid| vec![uuid]);
        let uuid = only(gpu, &found)?.ok_or_else(|| no_gpu(gpu))?.clone();
        let Some(index) = self.index_of(pool) else {
            check_name(pool).map_err(EditError::Refused)?;
            self.document.add_pool(pool, &uuid);
            return Ok(());
        };
        if !self.has_gpu(index, &uuid) {
            self.document.add_gpu(index, &uuid);
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
        let Named { present, missing } = (self.resolve)(gpu);
        // One that nobody has ever seen can be named by what the file calls it.
        let written = uuid(gpu).filter(|uuid| uuids.contains(uuid));
        let named: BTreeSet<String> = present.into_iter().chain(missing).chain(written).collect();
        if named.is_empty() {
            return Err(no_gpu(gpu));
        }
        let of_pool: Vec<String> = named.into_iter().filter(|uuid| uuids.contains(uuid)).collect();
        let Some(uuid_of_it) = only(gpu, &of_pool)?.cloned() else {
            return Ok(());
        };
        if uuids.len() > 1 {
            let is = |text: &str| uuid(text).as_ref() == Some(&uuid_of_it);
            self.document.remove_gpu(index, is);
            return Ok(());
        }
        if !found.ranges.is_empty() {
            return Err(EditError::Refused(format!(
                "pool {pool} has {} and no other GPU than {uuid_of_it}: assign another one first, or unregister the VMs",
                list(&found.ranges)
            )));
        }
        self.document.remove_pool(index);
        Ok(())
    }

    fn register(&mut self, vms: VmRange, pool: &str, move_from_other: bool) -> Result<(), EditError> {
        let to = self.index_of(pool).ok_or_else(|| self.no_pool(pool))?;
        for (index, other) in self.map.pools.iter().enumerate() {
            let theirs = VmRange::in_both(&other.ranges, &[vms]);
            if index == to || theirs.is_empty() {
                continue;
            }
            if !move_from_other {
                return Err(EditError::Refused(format!(
                    "{}: in pool {} already; a VM belongs to one pool",
                    list(&theirs),
                    other.name
                )));
            }
            self.document.remove_vms(index, vms);
        }
        // A list that has them all stays as it was written.
        if !VmRange::in_first_alone(&[vms], &self.map.pools[to].ranges).is_empty() {
            self.document.add_vms(to, vms);
        }
        Ok(())
    }

    fn unregister(&mut self, vms: VmRange) -> Result<(), EditError> {
        let mut found = false;
        for (index, pool) in self.map.pools.iter().enumerate() {
            if pool.first_of(vms).is_some() {
                self.document.remove_vms(index, vms);
                found = true;
            }
        }
        if !found {
            return Err(EditError::NotFound(format!("{}: in no pool", list(&[vms]))));
        }
        for vm in self.map.vms_with_settings().filter(|vm| vms.contains(*vm)) {
            self.document.remove_vm(vm);
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
        self.set_one(vms, "priority", priority.map(|it| it.to_string()), |map, vm| {
            Some(map.settings_of(vm).priority.to_string())
        });
        self.set_one(vms, "weight", weight.map(i64::from), |map, vm| {
            Some(map.settings_of(vm).weight.into())
        });
        self.set_one(vms, "aging_ms", aging_ms.map(integer), |map, vm| {
            map.own_of_vm(vm).aging_ms.map(integer)
        });
        self.set_one(vms, "queue_depth", queue_depth.map(i64::from), |map, vm| {
            map.own_of_vm(vm).queue_depth.map(i64::from)
        });
        for limit in &LIMITS {
            self.set_one(vms, limit.key, (limit.get)(limits).map(integer), |map, vm| {
                (limit.get)(&map.own_of_vm(vm).limits).map(integer)
            });
        }
    }

    /// Sets a key for those VMs of which the map does not say so already, whatever a wider table comes to say.
    fn set_one<T: Clone + PartialEq + Into<Value>>(
        &mut self,
        vms: VmRange,
        key: &str,
        wanted: Option<T>,
        now: impl Fn(&PoolMap, u32) -> Option<T>,
    ) {
        let Some(value) = &wanted else {
            return;
        };
        for vm in vms.iter().filter(|vm| now(&self.map, *vm) != wanted) {
            self.document.set_vm(vm, key, value.clone().into());
        }
    }

    fn set_pool(&mut self, name: &str, wanted: &PoolSettings) -> Result<(), EditError> {
        let index = self.index_of(name).ok_or_else(|| self.no_pool(name))?;
        let (pool, document) = (&self.map.pools[index], &mut self.document);
        let PoolSettings {
            policy,
            exclusive,
            sharing,
            weight,
            gpus_per_vm,
            ladder,
            limits,
        } = wanted;
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                document.set_pool(index, key, value);
            }
        };
        let other = |wanted: &Option<u32>, now: u32| wanted.filter(|wanted| *wanted != now).map(i64::from);
        let policy = policy.filter(|wanted| *wanted != pool.policy);
        set("policy", policy.map(|policy| policy.to_string().into()));
        let exclusive = exclusive.filter(|wanted| *wanted != pool.exclusive);
        set("exclusive", exclusive.map(Value::from));
        let sharing = sharing.filter(|wanted| *wanted != pool.sharing);
        set("sharing", sharing.map(|sharing| sharing.to_string().into()));
        set("weight", other(weight, pool.weight).map(Value::from));
        let gpus_per_vm = other(gpus_per_vm, pool.gpus_per_vm.unwrap_or(0));
        set("gpus_per_vm", gpus_per_vm.map(Value::from));
        for limit in &LIMITS {
            let now = (limit.get)(&pool.own.limits);
            let wanted = (limit.get)(limits).filter(|wanted| Some(*wanted) != now);
            set(limit.key, wanted.map(|wanted| integer(wanted).into()));
        }
        if let Some(wanted) = ladder {
            let mut wanted = wanted.clone();
            wanted.sort_unstable();
            if wanted != pool.ladder {
                document.set_ladder(index, &wanted);
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

/// A number as the file has it. It was bounded before, so it fits.
fn integer(number: u64) -> i64 {
    number as i64
}

/// What an edit made of a map that was right.
fn refused(error: MapError) -> EditError {
    EditError::Refused(error.message().to_owned())
}

/// The one that is meant, if there is one.
fn only<'a>(name: &str, found: &'a [String]) -> Result<Option<&'a String>, EditError> {
    match found {
        [_, _, ..] => Err(EditError::Refused(format!(
            "{name} is the address of several GPUs that are there or were, {}: expected the UUID of one of them",
            found.join(" and ")
        ))),
        found => Ok(found.first()),
    }
}

fn no_gpu(gpu: &str) -> EditError {
    EditError::NotFound(format!(
        "there is no GPU {gpu}: expected the index, the UUID or the PCI address of one that this host has or had"
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
