//! The pool map: what the operator wants, a TOML file.
use anyhow::{Result, anyhow, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::Spanned;
use vgpu_sched_api::messages::Priority;
use vgpu_sched_core::{Config, PerLevel};

/// The priority of a VM that has no `[vm.N]` table with another one.
const DEFAULT_PRIORITY: Priority = Priority::Medium;
/// Stands for every GPU of the host in a pool's list.
const ALL_GPUS: &str = "all";

/// A pool map that was read and checked.
#[derive(Debug)]
pub struct PoolMap {
    /// How turns are given.
    pub scheduler: Config,
    /// How often contended turn pages are looked at, in microseconds.
    pub poll_us: u64,
    /// How many software GPUs there are; `None` for the host's NVIDIA GPUs.
    pub softgpu: Option<u32>,
    /// In the file's order.
    pub pools: Vec<Pool>,
    /// The VMs of each pool, disjoint, by their first number.
    ranges: Vec<(RangeInclusive<u32>, usize)>,
    priorities: BTreeMap<u32, Priority>,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Unique.
    pub name: String,
    /// Its GPUs.
    pub gpus: PoolGpus,
}

/// The GPUs of a pool.
#[derive(Debug, PartialEq, Eq)]
pub enum PoolGpus {
    /// Every GPU of the host.
    All,
    /// Those with these UUIDs.
    Uuids(Vec<String>),
}

impl PoolMap {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow!("{}: cannot be read: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    /// Reads the text of one. The error says the line and what was expected there.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => anyhow!("line {}: {}", line(text, &span), error.message()),
            None => anyhow!("{}", error.message()),
        })?;
        let mut map = Self {
            scheduler: file.scheduler.config(text)?,
            poll_us: file.scheduler.poll_us.within(text, "poll_us", 50, 100_000, 250)?,
            softgpu: match &file.inventory.softgpu {
                Some(count) if !(1..=64).contains(count.get_ref()) => {
                    bail!(
                        "line {}: softgpu is a number from 1 to 64",
                        line(text, &count.span())
                    )
                }
                count => count.as_ref().map(|count| *count.get_ref()),
            },
            pools: Vec::new(),
            ranges: Vec::new(),
            priorities: BTreeMap::new(),
        };
        for pool in file.pool {
            map.add_pool(text, pool)?;
        }
        for (number, entry) in file.vm {
            let at = line(text, &number.span());
            let vm = number
                .get_ref()
                .parse()
                .map_err(|_| anyhow!("line {at}: [vm.{}]: expected a VM's number", number.get_ref()))?;
            if map.pool_of(vm).is_none() {
                bail!("line {at}: [vm.{vm}]: VM {vm} is in no pool");
            }
            map.priorities.insert(vm, entry.priority);
        }
        Ok(map)
    }

    /// The pool of a VM.
    pub fn pool_of(&self, vm: u32) -> Option<&Pool> {
        let (_, pool) = self.ranges.iter().find(|(range, _)| range.contains(&vm))?;
        self.pools.get(*pool)
    }

    /// The priority of a VM.
    pub fn priority_of(&self, vm: u32) -> Priority {
        self.priorities.get(&vm).copied().unwrap_or(DEFAULT_PRIORITY)
    }

    fn add_pool(&mut self, text: &str, pool: FilePool) -> Result<()> {
        let index = self.pools.len();
        let name = pool.name.get_ref();
        let at = line(text, &pool.name.span());
        if name.is_empty() {
            bail!("line {at}: a pool's name cannot be empty");
        }
        if self.pools.iter().any(|other| other.name == *name) {
            bail!("line {at}: there are two pools named \"{name}\"");
        }
        let gpus = pool_gpus(text, &pool.gpus)?;
        for numbers in &pool.vms {
            let at = line(text, &numbers.span());
            let range = numbers
                .get_ref()
                .range()
                .map_err(|why| anyhow!("line {at}: {why}"))?;
            let met =
                |other: &RangeInclusive<u32>| other.start() <= range.end() && range.start() <= other.end();
            if let Some((other, other_pool)) = self.ranges.iter().find(|(other, _)| met(other)) {
                let vm = range.start().max(other.start());
                let elsewhere = self.pools.get(*other_pool).map_or(name, |pool| &pool.name);
                bail!(
                    "line {at}: VM {vm} is in pool \"{elsewhere}\" already; a VM belongs to one pool, once"
                );
            }
            self.ranges.push((range, index));
        }
        self.pools.push(Pool {
            name: pool.name.into_inner(),
            gpus,
        });
        Ok(())
    }
}

fn pool_gpus(text: &str, gpus: &Spanned<Vec<Spanned<String>>>) -> Result<PoolGpus> {
    let all = gpus.get_ref().iter().any(|gpu| gpu.get_ref() == ALL_GPUS);
    match gpus.get_ref().as_slice() {
        [] => bail!(
            "line {}: a pool needs a GPU: its UUID, or \"all\"",
            line(text, &gpus.span())
        ),
        [_] if all => return Ok(PoolGpus::All),
        _ if all => bail!("line {}: \"all\" stands alone", line(text, &gpus.span())),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for gpu in gpus.get_ref() {
        let uuid = gpu.get_ref();
        let at = line(text, &gpu.span());
        if !uuid.starts_with("GPU-") {
            bail!("line {at}: \"{uuid}\": expected a GPU's UUID, which begins with \"GPU-\", or \"all\"");
        }
        if !seen.insert(uuid) {
            bail!("line {at}: {uuid} is listed twice");
        }
    }
    Ok(PoolGpus::Uuids(
        gpus.get_ref().iter().map(|gpu| gpu.get_ref().clone()).collect(),
    ))
}

/// The line of a place in the text, from 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    text.bytes()
        .take(span.start)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    scheduler: FileScheduler,
    #[serde(default)]
    inventory: FileInventory,
    #[serde(default)]
    pool: Vec<FilePool>,
    #[serde(default)]
    vm: BTreeMap<Spanned<String>, FileVm>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileScheduler {
    quantum_ms: Levels<u64>,
    aging_ms: Option<Spanned<u64>>,
    active_hold_ms: Option<Spanned<u64>>,
    grace_ms: Option<Spanned<u64>>,
    deadman_ms: Option<Spanned<u64>>,
    slice_us: Levels<u64>,
    window: Levels<u32>,
    poll_us: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Levels<T> {
    low: Option<Spanned<T>>,
    medium: Option<Spanned<T>>,
    high: Option<Spanned<T>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileInventory {
    softgpu: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePool {
    name: Spanned<String>,
    gpus: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    vms: Vec<Spanned<VmNumbers>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVm {
    #[serde(default = "default_priority")]
    priority: Priority,
}

fn default_priority() -> Priority {
    DEFAULT_PRIORITY
}

/// `7`, `"7"` or `"1-7"`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a VM's number, or a range of them such as \"1-7\""
)]
enum VmNumbers {
    One(u32),
    Text(String),
}

impl VmNumbers {
    fn range(&self) -> Result<RangeInclusive<u32>> {
        let text = match self {
            Self::One(vm) => return Ok(*vm..=*vm),
            Self::Text(text) => text,
        };
        let number = |part: &str| {
            let part = part.trim();
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits).ok_or_else(|| {
                anyhow!("\"{text}\": expected a VM's number, or a range of them such as \"1-7\"")
            })
        };
        match text.split_once('-') {
            None => number(text).map(|vm| vm..=vm),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    bail!("\"{text}\": the range is reversed, expected \"{last}-{first}\"");
                }
                Ok(first..=last)
            }
        }
    }
}

impl<T> Default for Levels<T> {
    fn default() -> Self {
        Self {
            low: None,
            medium: None,
            high: None,
        }
    }
}

/// A setting that may be missing and has bounds.
trait Bounded<T> {
    fn within(&self, text: &str, name: &str, least: T, most: T, default: T) -> Result<T>;
}

impl<T: Copy + PartialOrd + Display> Bounded<T> for Option<Spanned<T>> {
    fn within(&self, text: &str, name: &str, least: T, most: T, default: T) -> Result<T> {
        let Some(value) = self else { return Ok(default) };
        if !(least..=most).contains(value.get_ref()) {
            bail!(
                "line {}: {name} is a number from {least} to {most}",
                line(text, &value.span())
            );
        }
        Ok(*value.get_ref())
    }
}

impl<T: Copy + PartialOrd + Display> Levels<T> {
    fn within(&self, text: &str, name: &str, least: T, most: T, default: PerLevel<T>) -> Result<PerLevel<T>> {
        let one = |level: &str, value: &Option<Spanned<T>>, default| {
            value.within(text, &format!("{name}.{level}"), least, most, default)
        };
        Ok(PerLevel {
            low: one("low", &self.low, default.low)?,
            medium: one("medium", &self.medium, default.medium)?,
            high: one("high", &self.high, default.high)?,
        })
    }
}

impl FileScheduler {
    fn config(&self, text: &str) -> Result<Config> {
        let default = Config::default();
        let ms = |name: &str, value: &Option<Spanned<u64>>, default_us: u64| {
            Ok::<_, anyhow::Error>(value.within(text, name, 1, 3_600_000, default_us / 1000)? * 1000)
        };
        let PerLevel { low, medium, high } = default.quantum_us;
        let default_quantum = PerLevel {
            low: low / 1000,
            medium: medium / 1000,
            high: high / 1000,
        };
        let quantum = self
            .quantum_ms
            .within(text, "quantum_ms", 1, 3_600_000, default_quantum)?;
        Ok(Config {
            quantum_us: PerLevel {
                low: quantum.low * 1000,
                medium: quantum.medium * 1000,
                high: quantum.high * 1000,
            },
            aging_us: ms("aging_ms", &self.aging_ms, default.aging_us)?,
            active_hold_us: ms("active_hold_ms", &self.active_hold_ms, default.active_hold_us)?,
            grace_us: ms("grace_ms", &self.grace_ms, default.grace_us)?,
            deadman_us: ms("deadman_ms", &self.deadman_ms, default.deadman_us)?,
            // Shorter slices starve their owner while another context is always runnable.
            slice_us: self
                .slice_us
                .within(text, "slice_us", 100, 1_000_000, default.slice_us)?,
            window: self.window.within(text, "window", 1, 1024, default.window)?,
            look_us: default.look_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[scheduler]
quantum_ms = { low = 30 }
aging_ms = 500

[[pool]]
name = "A"
gpus = ["all"]
vms = ["1-7", 9, "12"]

[[pool]]
name = "B"
gpus = ["GPU-00000000-0000-0000-0000-000000000001"]
vms = [8]

[vm.1]
priority = "high"
"#;

    #[test]
    fn a_map_is_read() {
        let map = PoolMap::parse(GOOD).unwrap();
        assert_eq!(map.scheduler.quantum_us.low, 30_000);
        assert_eq!(map.scheduler.quantum_us.high, 20_000);
        assert_eq!(map.scheduler.aging_us, 500_000);
        for (vm, pool) in [(1, "A"), (7, "A"), (8, "B"), (9, "A"), (12, "A")] {
            assert_eq!(map.pool_of(vm).unwrap().name, pool, "VM {vm}");
        }
        assert!(map.pool_of(10).is_none());
        assert_eq!(map.priority_of(1), Priority::High);
        assert_eq!(map.priority_of(2), Priority::Medium);
        assert_eq!(map.pools[0].gpus, PoolGpus::All);
        assert_eq!(map.softgpu, None);
    }

    /// Wrong maps, the line that the error names, and a part of it.
    #[test]
    fn a_wrong_map_is_refused_with_its_line_and_what_was_expected() {
        let pool = |rest: &str| format!("[[pool]]\nname = \"A\"\ngpus = [\"all\"]\n{rest}");
        let cases = [
            (pool("vms = [\"7-1\"]"), 4, "reversed"),
            (pool("vms = [\"1-\"]"), 4, "range of them such as"),
            (pool("vms = [\"\"]"), 4, "VM's number"),
            (pool("vms = [\"+3\"]"), 4, "VM's number"),
            (pool("vms = [1.5]"), 4, "VM's number"),
            (pool("vms = [-1]"), 4, "VM's number"),
            (pool("vms = [1]\nvmz = [2]"), 5, "unknown field `vmz`"),
            (
                pool("vms = [\n  \"1-4\",\n  \"3\"\n]"),
                6,
                "VM 3 is in pool \"A\" already",
            ),
            (
                pool("vms = [1]\n[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nvms = [\"1-2\"]"),
                8,
                "VM 1 is in pool \"A\"",
            ),
            (
                pool("vms = [1]\n[[pool]]\nname = \"A\"\ngpus = [\"all\"]"),
                6,
                "two pools named",
            ),
            (
                pool("vms = [1]\n[vm.1]\npriority = \"hihg\""),
                6,
                "expected one of `low`, `medium`, `high`",
            ),
            (
                pool("vms = [1]\n[vm.2]\npriority = \"high\""),
                5,
                "VM 2 is in no pool",
            ),
            (
                pool("vms = [1]\n[vm.one]\npriority = \"high\""),
                5,
                "expected a VM's number",
            ),
            ("[[pool]]\nname = \"A\"\ngpus = []".to_owned(), 3, "needs a GPU"),
            (
                "[[pool]]\nname = \"A\"\ngpus = [\"0\"]".to_owned(),
                3,
                "expected a GPU's UUID",
            ),
            (
                "[[pool]]\nname = \"A\"\ngpus = [\"all\", \"GPU-1\"]".to_owned(),
                3,
                "stands alone",
            ),
            (
                "[[pool]]\nname = \"A\"\ngpus = [\"GPU-1\", \"GPU-1\"]".to_owned(),
                3,
                "twice",
            ),
            (
                "[[pool]]\nname = \"\"\ngpus = [\"all\"]".to_owned(),
                2,
                "cannot be empty",
            ),
            ("[[pool]]\ngpus = [\"all\"]".to_owned(), 1, "missing field `name`"),
            (
                "\n[scheduler]\nquantum = 3".to_owned(),
                3,
                "unknown field `quantum`",
            ),
            (
                "[scheduler]\naging_ms = 0".to_owned(),
                2,
                "aging_ms is a number from 1",
            ),
            (
                "[scheduler]\nslice_us = { low = 1 }".to_owned(),
                2,
                "slice_us.low is a number from 100",
            ),
            ("[inventory]\nsoftgpu = 65".to_owned(), 2, "from 1 to 64"),
            ("[[pool]\n".to_owned(), 1, ""),
        ];
        for (text, line, part) in cases {
            let error = PoolMap::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: ")), "{error}\n{text}");
            assert!(error.contains(part), "{error}\n{text}");
        }
    }
}
