//! The file as it is written, before it is checked.
use crate::error::MapError;
use crate::range::VmRange;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use toml::Spanned;
use vgpu_sched_api::messages::Priority;
use vgpu_sched_core::{Config, PerLevel};

/// The most a number of milliseconds can be: an hour.
pub const MS_MAX: u64 = 3_600_000;
/// What a weight can be at most.
pub const WEIGHT_MAX: u32 = 100;
/// What a queue's depth can be at most.
pub const QUEUE_DEPTH_MAX: u32 = 65_536;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub scheduler: Scheduler,
    #[serde(default)]
    pub pool: Vec<Pool>,
    #[serde(default)]
    pub vm: BTreeMap<Spanned<String>, Vm>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduler {
    quantum_ms: Levels,
    aging_ms: Number,
    queue_depth: Number,
    active_hold_ms: Number,
    grace_ms: Number,
    deadman_ms: Number,
    slice_us: Levels,
    window: Levels,
    poll_us: Number,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Levels {
    low: Number,
    medium: Number,
    high: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: Spanned<String>,
    pub gpus: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub vms: Vec<Spanned<VmNumbers>>,
    #[serde(default)]
    aging_ms: Number,
    #[serde(default)]
    queue_depth: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    priority: Option<Priority>,
    #[serde(default)]
    weight: Number,
    #[serde(default)]
    aging_ms: Number,
    #[serde(default)]
    queue_depth: Number,
}

/// `7`, `"7"` or `"1-7"`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a VM's number, or a range of them such as \"1-7\""
)]
pub enum VmNumbers {
    One(u32),
    Text(String),
}

impl VmNumbers {
    pub fn range(&self) -> Result<VmRange, String> {
        match self {
            Self::One(vm) => Ok((*vm).into()),
            Self::Text(text) => text.parse(),
        }
    }
}

/// A number that may be missing and that has bounds, which are checked once its name is known.
#[derive(Default)]
struct Number(Option<Spanned<i64>>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// An integer, or what there is instead, in words of the file.
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a whole number")]
        enum Integer {
            Is(i64),
        }
        let spanned = Spanned::<Integer>::deserialize(deserializer)?;
        let span = spanned.span();
        let Integer::Is(number) = spanned.into_inner();
        Ok(Self(Some(Spanned::new(span, number))))
    }
}

impl Number {
    fn within<T: Copy + TryFrom<i64> + Into<u64>>(
        &self,
        text: &str,
        name: &str,
        least: T,
        most: T,
    ) -> Result<Option<T>, MapError> {
        let Some(value) = &self.0 else { return Ok(None) };
        let found = *value.get_ref();
        let (low, high): (u64, u64) = (least.into(), most.into());
        let inside = u64::try_from(found).is_ok_and(|found| (low..=high).contains(&found));
        match T::try_from(found) {
            Ok(number) if inside => Ok(Some(number)),
            _ => Err(MapError::at(
                text,
                value.span(),
                format!("{name} = {found}: expected a number from {low} to {high}"),
            )),
        }
    }

    fn milliseconds(&self, text: &str, name: &str) -> Result<Option<u64>, MapError> {
        self.within(text, name, 1, MS_MAX)
    }

    fn queue_depth(&self, text: &str) -> Result<Option<u32>, MapError> {
        self.within(text, "queue_depth", 1, QUEUE_DEPTH_MAX)
    }
}

impl Levels {
    fn within<T: Copy + TryFrom<i64> + Into<u64>>(
        &self,
        text: &str,
        name: &str,
        (least, most): (T, T),
        default: PerLevel<T>,
    ) -> Result<PerLevel<T>, MapError> {
        let one = |level: &str, number: &Number, default| {
            let number = number.within(text, &format!("{name}.{level}"), least, most)?;
            Ok(number.unwrap_or(default))
        };
        Ok(PerLevel {
            low: one("low", &self.low, default.low)?,
            medium: one("medium", &self.medium, default.medium)?,
            high: one("high", &self.high, default.high)?,
        })
    }
}

/// What can be set for all VMs, for a pool's and for one; the narrower one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub priority: Option<Priority>,
    pub weight: Option<u32>,
    pub aging_ms: Option<u64>,
    pub queue_depth: Option<u32>,
}

impl Scheduler {
    pub fn own(&self, text: &str) -> Result<Own, MapError> {
        Ok(Own {
            aging_ms: self.aging_ms.milliseconds(text, "aging_ms")?,
            queue_depth: self.queue_depth.queue_depth(text)?,
            ..Own::default()
        })
    }

    pub fn poll_us(&self, text: &str) -> Result<u64, MapError> {
        Ok(self
            .poll_us
            .within(text, "poll_us", 50, 100_000u64)?
            .unwrap_or(250))
    }

    pub fn config(&self, text: &str) -> Result<Config, MapError> {
        let default = Config::default();
        let ms = |name: &str, number: &Number, default_us: u64| {
            let number = number.milliseconds(text, name)?;
            Ok::<_, MapError>(number.map_or(default_us, |ms| ms * 1000))
        };
        let PerLevel { low, medium, high } = default.quantum_us;
        let default_quantum = PerLevel {
            low: low / 1000,
            medium: medium / 1000,
            high: high / 1000,
        };
        let quantum = self
            .quantum_ms
            .within(text, "quantum_ms", (1, MS_MAX), default_quantum)?;
        Ok(Config {
            quantum_us: PerLevel {
                low: quantum.low * 1000,
                medium: quantum.medium * 1000,
                high: quantum.high * 1000,
            },
            active_hold_us: ms("active_hold_ms", &self.active_hold_ms, default.active_hold_us)?,
            grace_us: ms("grace_ms", &self.grace_ms, default.grace_us)?,
            deadman_us: ms("deadman_ms", &self.deadman_ms, default.deadman_us)?,
            // Shorter slices starve their owner while another context is always runnable.
            slice_us: self
                .slice_us
                .within(text, "slice_us", (100, 1_000_000), default.slice_us)?,
            window: self.window.within(text, "window", (1, 1024), default.window)?,
            ..default
        })
    }
}

impl Pool {
    pub fn own(&self, text: &str) -> Result<Own, MapError> {
        Ok(Own {
            aging_ms: self.aging_ms.milliseconds(text, "aging_ms")?,
            queue_depth: self.queue_depth.queue_depth(text)?,
            ..Own::default()
        })
    }
}

impl Vm {
    pub fn own(&self, text: &str) -> Result<Own, MapError> {
        Ok(Own {
            priority: self.priority,
            weight: self.weight.within(text, "weight", 1, WEIGHT_MAX)?,
            aging_ms: self.aging_ms.milliseconds(text, "aging_ms")?,
            queue_depth: self.queue_depth.queue_depth(text)?,
        })
    }
}
