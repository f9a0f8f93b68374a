//! The pool map: which GPUs make up a pool, which VMs belong to it, and how each VM is treated. A TOML file that people
//! edit, described in `docs/operator.md`. Pure: text in, a map or an error out.
//!
//! * [`PoolMap::parse`] reads and checks one; [`PoolMap::settings_of`] says how a VM is treated, after all defaults.
//! * [`differences`] says in lines for people what one map says otherwise than another.
//! * [`apply`] makes edits to its text: `apply(text, &edits, &resolve_gpu) -> Result<Edited, EditError>`. It changes
//!   nothing but the text, which whoever owns the file writes.
mod difference;
mod edit;
mod error;
mod file;
mod limits;
mod range;

pub use difference::differences;
pub use edit::{EditError, Edited, Named, Resolve, apply};
pub use error::MapError;
pub use file::{GPUS_PER_VM_MAX, MS_MAX, QUEUE_DEPTH_MAX, WEIGHT_MAX};
pub use limits::{LIMITS, Limit, REASON_LEN_MAX, SECONDS_MAX, reason};
pub use range::{VmRange, rows};

use file::{File, Own};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use vgpu_sched_api::messages::{Limits, Policy, Priority, Rung, Sharing};
use vgpu_sched_core::Config;

/// The priority of a VM that has none of its own.
pub const DEFAULT_PRIORITY: Priority = Priority::Medium;
/// The weight of a VM that has none of its own.
pub const DEFAULT_WEIGHT: u32 = 1;
/// How long a VM that has no aging of its own waits, in milliseconds, before it counts as of the level above.
const DEFAULT_AGING_MS: u64 = 1_000;
/// Stands for every GPU of the host in a pool's list.
const ALL_GPUS: &str = "all";
/// Bytes of a pool's name at most.
const NAME_LEN_MAX: usize = 64;

/// Tells what is known of a GPU with that UUID. If given, a map is refused that names one which is not assignable.
pub type Known<'a> = Option<&'a dyn Fn(&str) -> Assignable>;

/// Whether a GPU can serve pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignable {
    /// It is there or was, and serves pools.
    Yes,
    /// It is in MIG mode: its instances are assigned in its place.
    Divided,
    /// It was never there.
    Unknown,
}

/// A pool map that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMap {
    /// How turns are given.
    pub scheduler: Config,
    /// How often contended turn pages are looked at, in microseconds.
    pub poll_us: u64,
    /// In the file's order.
    pub pools: Vec<Pool>,
    /// What `[scheduler]` sets for all VMs.
    common: Own,
    /// What `[vm.N]` sets.
    vms: BTreeMap<u32, Own>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique.
    pub name: String,
    /// Its GPUs.
    pub gpus: PoolGpus,
    /// Its VMs as the file lists them; no VM is in two ranges of the map.
    pub ranges: Vec<VmRange>,
    /// How its GPUs go from one VM to the next.
    pub policy: Policy,
    /// One session at a time on a GPU, whatever its level.
    pub exclusive: bool,
    /// How its VMs share a GPU.
    pub sharing: Sharing,
    /// Its part of the GPUs that it shares with other pools.
    pub weight: u32,
    /// How many of its GPUs a VM gets; all if `None`.
    pub gpus_per_vm: Option<u32>,
    /// The rungs that are climbed, in rising order; the others are only logged.
    pub ladder: Vec<Rung>,
    own: Own,
}

/// The GPUs of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolGpus {
    /// Every GPU of the host.
    All,
    /// Those with these UUIDs: "GPU-", or "MIG-" for a MIG instance, and lower-case hexadecimal digits.
    Uuids(Vec<String>),
}

/// How a VM is treated, after all defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its level.
    pub priority: Priority,
    /// Its turns are this many quanta long while others of its level wait.
    pub weight: u32,
    /// How long it waits, in milliseconds, before it counts as of the level above.
    pub aging_ms: u64,
    /// Operations in flight on its GPUs at most; `None` if only the windows of its streams limit them.
    pub queue_depth: Option<u32>,
    /// Its limits; `None` is no limit, and a quarantine of no length lasts until it is released. Where a limit needs
    /// several numbers, it has all of them: a rate's burst is a tenth of a second's calls, and quarantines have a window
    /// and a length.
    pub limits: Limits,
}

/// The text of a pool map's file.
pub fn read_text(path: &Path) -> io::Result<String> {
    let kind = std::fs::metadata(path)?.file_type();
    // A pipe would be waited for, and a device may have no end.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a regular file is expected",
        ));
    }
    std::fs::read_to_string(path)
}

impl PoolMap {
    /// Reads a file.
    pub fn load(path: &Path, known: Known<'_>) -> Result<Self, MapError> {
        let text = read_text(path).map_err(|error| MapError::unreadable(path, &error))?;
        Self::parse(&text, known).map_err(|error| error.of_file(path))
    }

    /// Reads the text of one. The error says the line and what was expected there.
    pub fn parse(text: &str, known: Known<'_>) -> Result<Self, MapError> {
        let (map, file) = Self::read(text, known)?;
        for (index, pool) in file.pool.iter().enumerate() {
            map.check_sharing(text, index, pool)?;
        }
        Ok(map)
    }

    /// Reads and checks all but whether pools that share a GPU agree.
    fn read(text: &str, known: Known<'_>) -> Result<(Self, File), MapError> {
        let file: File = toml::from_str(text).map_err(|error| MapError::of_reader(text, &error))?;
        let mut map = Self {
            scheduler: file.scheduler.config(text)?,
            poll_us: file.scheduler.poll_us(text)?,
            pools: Vec::new(),
            common: file.scheduler.own(text)?,
            vms: BTreeMap::new(),
        };
        for pool in &file.pool {
            map.add_pool(text, pool, known)?;
        }
        // In the file's order, so that of two spellings of a number the second is refused.
        let mut vms: Vec<_> = file.vm.iter().collect();
        vms.sort_by_key(|(number, _)| number.span().start);
        for (number, vm) in vms {
            map.add_vm(text, number, vm)?;
        }
        Ok((map, file))
    }

    /// The pool of a VM.
    pub fn pool_of(&self, vm: u32) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.has(vm))
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// How a VM is treated: what `[vm.N]` says, or its pool, or `[scheduler]`.
    pub fn settings_of(&self, vm: u32) -> Settings {
        let own = self.own(vm);
        Settings {
            priority: own.priority.unwrap_or(DEFAULT_PRIORITY),
            weight: own.weight.unwrap_or(DEFAULT_WEIGHT),
            aging_ms: own.aging_ms.unwrap_or(DEFAULT_AGING_MS),
            queue_depth: own.queue_depth,
            limits: limits::in_force(&own.limits),
        }
    }

    /// What is set for a VM, by itself or by a wider table.
    fn own(&self, vm: u32) -> Own {
        self.own_of_vm(vm).or(&self.own_of_pool(self.pool_of(vm)))
    }

    /// What is set for a VM by itself.
    fn own_of_vm(&self, vm: u32) -> Own {
        self.vms.get(&vm).copied().unwrap_or_default()
    }

    /// What is set for a pool's VMs, or for all.
    fn own_of_pool(&self, pool: Option<&Pool>) -> Own {
        pool.map(|pool| pool.own).unwrap_or_default().or(&self.common)
    }

    /// The priority of a VM.
    pub fn priority_of(&self, vm: u32) -> Priority {
        self.settings_of(vm).priority
    }

    /// The VMs that have settings of their own, in rising order.
    pub fn vms_with_settings(&self) -> impl Iterator<Item = u32> {
        self.vms.keys().copied()
    }

    fn add_pool(&mut self, text: &str, pool: &file::Pool, known: Known<'_>) -> Result<(), MapError> {
        let name = pool.name.get_ref();
        let wrong = |message: String| Err(MapError::at(text, pool.name.span(), message));
        if let Err(message) = check_name(name) {
            return wrong(message);
        }
        if self.pool(name).is_some() {
            return wrong(format!("there are two pools named \"{name}\""));
        }
        let mut new = Pool::new(name.clone(), pool_gpus(text, &pool.gpus, known)?);
        if let Some(policy) = &pool.policy {
            new.policy = *policy.get_ref();
        }
        if let Some(exclusive) = &pool.exclusive {
            new.exclusive = *exclusive.get_ref();
        }
        if let Some(sharing) = &pool.sharing {
            new.sharing = *sharing.get_ref();
        }
        new.weight = pool.weight(text)?.unwrap_or(new.weight);
        if let Some(ladder) = pool.ladder(text)? {
            new.ladder = ladder;
        }
        new.own = pool.own(text, &self.common)?;
        let listed = match &new.gpus {
            PoolGpus::All => None,
            PoolGpus::Uuids(uuids) => Some(uuids.len()),
        };
        new.gpus_per_vm = pool.gpus_per_vm(text, listed)?;
        if let (Sharing::Mps, Some(sharing)) = (new.sharing, &pool.sharing) {
            let wrong = |message: &str| Err(MapError::at(text, sharing.span(), message));
            if new.exclusive {
                return wrong("sharing = \"mps\": expected no exclusive = true, since all run at once");
            }
            if new.policy != Policy::Priority {
                return wrong(
                    "sharing = \"mps\": expected no other policy than \"priority\", since there are no turns",
                );
            }
        }
        for numbers in &pool.vms {
            let wrong = |message: String| Err(MapError::at(text, numbers.span(), message));
            let range = match numbers.get_ref().range() {
                Ok(range) => range,
                Err(message) => return wrong(message),
            };
            let pools = self.pools.iter().chain([&new]);
            let clash = pools
                .filter_map(|other| Some((&other.name, other.first_of(range)?)))
                .next();
            if let Some((other, vm)) = clash {
                return wrong(format!(
                    "VM {vm} is in pool \"{other}\" already; a VM belongs to one pool, once"
                ));
            }
            new.ranges.push(range);
        }
        self.pools.push(new);
        Ok(())
    }

    /// Whether the pool is treated like those before it that it shares a GPU with, in what only all can have.
    fn check_sharing(&self, text: &str, index: usize, written: &file::Pool) -> Result<(), MapError> {
        let pool = &self.pools[index];
        let name = written.name.span();
        for other in &self.pools[..index] {
            let Some(gpu) = pool.gpus.first_of(&other.gpus) else {
                continue;
            };
            let shared = format!("pool \"{}\" shares {gpu} with pool \"{}\"", pool.name, other.name);
            let wrong = |span: Option<Range<usize>>, message: String| {
                Err(MapError::at(text, span.unwrap_or_else(|| name.clone()), message))
            };
            if pool.exclusive != other.exclusive {
                let span = written.exclusive.as_ref().map(Spanned::span);
                let expected = other.exclusive;
                return wrong(
                    span,
                    format!("{shared}: expected exclusive = {expected}, as there"),
                );
            }
            if pool.sharing != other.sharing {
                let span = written.sharing.as_ref().map(Spanned::span);
                let expected = other.sharing;
                return wrong(
                    span,
                    format!("{shared}: expected sharing = \"{expected}\", as there"),
                );
            }
        }
        Ok(())
    }

    fn add_vm(&mut self, text: &str, number: &Spanned<String>, vm: &file::Vm) -> Result<(), MapError> {
        let name = number.get_ref();
        let wrong = |message: String| Err(MapError::at(text, number.span(), message));
        let Some(vm_number) = range::number(name) else {
            return wrong(format!("[vm.{name}]: expected a VM's number, such as [vm.7]"));
        };
        if self.pool_of(vm_number).is_none() {
            return wrong(format!("[vm.{name}]: VM {vm_number} is in no pool"));
        }
        let own = vm.own(text, &self.own_of_pool(self.pool_of(vm_number)))?;
        if self.vms.insert(vm_number, own).is_some() {
            return wrong(format!(
                "[vm.{name}]: VM {vm_number} has settings already, under another spelling of its number"
            ));
        }
        Ok(())
    }
}

impl Pool {
    /// Without VMs, and as it is unless something is set.
    fn new(name: String, gpus: PoolGpus) -> Self {
        Self {
            name,
            gpus,
            ranges: Vec::new(),
            policy: Policy::Priority,
            exclusive: false,
            sharing: Sharing::Turns,
            weight: DEFAULT_WEIGHT,
            gpus_per_vm: None,
            ladder: Rung::ALL.to_vec(),
            own: Own::default(),
        }
    }

    /// Whether a VM belongs to it.
    pub fn has(&self, vm: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(vm))
    }

    /// The first VM of the range that belongs to it.
    fn first_of(&self, range: VmRange) -> Option<u32> {
        self.ranges
            .iter()
            .filter_map(|own| own.and(range))
            .map(VmRange::first)
            .min()
    }
}

impl PoolGpus {
    /// A GPU that both have.
    fn first_of<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        match (self, other) {
            (Self::All, Self::All) => Some("every GPU"),
            (Self::All, Self::Uuids(uuids)) | (Self::Uuids(uuids), Self::All) => {
                uuids.first().map(String::as_str)
            }
            (Self::Uuids(own), Self::Uuids(others)) => {
                own.iter().find(|uuid| others.contains(uuid)).map(String::as_str)
            }
        }
    }
}

/// A GPU's UUID, or that of a MIG instance, in the spelling that is compared: "GPU-" or "MIG-", and digits in lower case.
fn uuid(text: &str) -> Option<String> {
    let (kind, digits) = text.split_at_checked(4)?;
    let groups: Vec<&str> = digits.split('-').collect();
    let right = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (right && matches!(kind, "GPU-" | "MIG-")).then(|| format!("{kind}{}", digits.to_ascii_lowercase()))
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a pool's name cannot be empty".to_owned());
    }
    if name.len() > NAME_LEN_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "expected a pool's name of at most {NAME_LEN_MAX} bytes without control characters"
        ));
    }
    Ok(())
}

fn pool_gpus(
    text: &str,
    gpus: &Spanned<Vec<Spanned<String>>>,
    known: Known<'_>,
) -> Result<PoolGpus, MapError> {
    let all = gpus.get_ref().iter().any(|gpu| gpu.get_ref() == ALL_GPUS);
    let wrong = |message: &str| Err(MapError::at(text, gpus.span(), message));
    match gpus.get_ref().as_slice() {
        [] => return wrong("a pool needs a GPU: its UUID, or \"all\""),
        [_] if all => return Ok(PoolGpus::All),
        _ if all => return wrong("\"all\" stands for every GPU and stands alone"),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    let mut uuids = Vec::new();
    for gpu in gpus.get_ref() {
        let name = gpu.get_ref();
        let wrong = |message: String| Err(MapError::at(text, gpu.span(), message));
        let Some(uuid) = uuid(name) else {
            return wrong(format!(
                "\"{name}\": expected a GPU's UUID, or a MIG instance's, such as \"GPU-01234567-89ab-cdef-0123-456789abcdef\", or \"all\""
            ));
        };
        match known.map_or(Assignable::Yes, |known| known(&uuid)) {
            Assignable::Yes => {}
            Assignable::Divided => {
                return wrong(format!(
                    "GPU {uuid} is in MIG mode: expected the UUIDs of its instances, \"MIG-…\""
                ));
            }
            Assignable::Unknown => {
                return wrong(format!(
                    "there is no GPU {uuid}: expected the UUID of a GPU of this host"
                ));
            }
        }
        if !seen.insert(uuid.clone()) {
            return wrong(format!("{uuid} is listed twice"));
        }
        uuids.push(uuid);
    }
    Ok(PoolGpus::Uuids(uuids))
}
