//! Changing a map as its file is written: comments, order and layout of everything that is not changed stay.
//!
//! Comments above a header that goes move to the next one; those within a table that goes, go with it.
mod array;
mod document;

use crate::error::MapError;
use crate::file::{MS_MAX, QUEUE_DEPTH_MAX, WEIGHT_MAX};
use crate::range::VmRange;
use crate::{Pool, PoolGpus, PoolMap, Settings, check_name, uuid};
use document::Document;
use std::fmt::Display;
use toml_edit::Value;
use vgpu_sched_api::messages::{Edit, VmSettings};

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
            Edit::SetPool { .. } => return Err(EditError::Refused("not yet".to_owned())),
        }
        let step = step.next()?;
        edited.changes.extend(step.changes);
        edited.text = step.text;
    }
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
            map: PoolMap::parse(text, None)?,
            document: Document::parse(text)?,
            changes: Vec::new(),
        })
    }

    /// From what is there now.
    fn next(self) -> Result<Self, MapError> {
        if self.changes.is_empty() {
            return Ok(self);
        }
        let next = Self::new(&self.document.text(), self.resolve)?;
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
        let priority = wanted.priority.map(|priority| priority.to_string());
        self.set_one(vms, "priority", priority, |now| now.priority.to_string());
        self.set_one(vms, "weight", wanted.weight.map(i64::from), |now| {
            now.weight.to_string()
        });
        // Bounded before, so it fits.
        let aging_ms = wanted.aging_ms.map(|ms| ms as i64);
        self.set_one(vms, "aging_ms", aging_ms, |now| now.aging_ms.to_string());
        let queue_depth = wanted.queue_depth.map(i64::from);
        self.set_one(vms, "queue_depth", queue_depth, |now| match now.queue_depth {
            Some(depth) => depth.to_string(),
            None => "unlimited".to_owned(),
        });
    }

    /// Sets a key for those VMs that are treated otherwise now; both as they are written.
    fn set_one<T: Clone + Display + Into<Value>>(
        &mut self,
        vms: VmRange,
        key: &str,
        wanted: Option<T>,
        now: impl Fn(Settings) -> String,
    ) {
        let Some(wanted) = wanted else { return };
        // VMs in a row with the same value so far make one line.
        let mut rows: Vec<(VmRange, String)> = Vec::new();
        for vm in vms.iter() {
            let was = now(self.map.settings_of(vm));
            if was == wanted.to_string() {
                continue;
            }
            self.document.set_vm(vm, key, wanted.clone().into());
            match rows.last_mut() {
                Some((row, value)) if *value == was && row.last() + 1 == vm => {
                    *row = row.joined(vm.into()).unwrap_or(*row);
                }
                _ => rows.push((vm.into(), was)),
            }
        }
        let lines = rows
            .iter()
            .map(|(row, was)| format!("{}: {key} {wanted}, was {was}", list(&[*row])));
        self.changes.extend(lines);
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

fn no_gpu(gpu: &str) -> EditError {
    EditError::NotFound(format!("there is no GPU {gpu}"))
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
    let within = |name: &str, value: Option<u64>, most: u64| match value {
        Some(value) if !(1..=most).contains(&value) => Err(EditError::Refused(format!(
            "{name} = {value}: expected a number from 1 to {most}"
        ))),
        _ => Ok(()),
    };
    within("weight", settings.weight.map(u64::from), WEIGHT_MAX.into())?;
    within(
        "queue_depth",
        settings.queue_depth.map(u64::from),
        QUEUE_DEPTH_MAX.into(),
    )?;
    within("aging_ms", settings.aging_ms, MS_MAX)
}

/// "VM 3", "VMs 1-7", "VMs 1-7, 9".
fn list(ranges: &[VmRange]) -> String {
    let one = ranges.iter().map(|range| range.count()).sum::<u64>() == 1;
    let ranges: Vec<String> = ranges.iter().map(VmRange::to_string).collect();
    format!("{} {}", if one { "VM" } else { "VMs" }, ranges.join(", "))
}
