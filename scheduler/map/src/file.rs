//! The file as it is written, before it is checked.
use crate::error::MapError;
use crate::limits::{self, LIMITS};
use crate::range::VmRange;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use toml::Spanned;
use vgpu_sched_api::messages::{Limits, Policy, Priority, Rung, Sharing};
use vgpu_sched_api::vm_page;
use vgpu_sched_core::{Config, PerLevel};

/// The most a number of milliseconds can be: an hour.
pub const MS_MAX: u64 = 3_600_000;
/// What a weight can be at most.
pub const WEIGHT_MAX: u32 = 100;
/// What a queue's depth can be at most.
pub const QUEUE_DEPTH_MAX: u32 = 65_536;
/// How many GPUs a VM can get at most.
pub const GPUS_PER_VM_MAX: u32 = vm_page::GPUS as u32;

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

/// Declares a table: its own keys, and those that can be set for all VMs, for a pool's and for one. (They are listed
/// in full, since serde can either flatten a table or tell which of its keys is unknown, and where.)
macro_rules! table {
    ($(#[$attribute:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
            #[serde(default)]
            aging_ms: Number,
            #[serde(default)]
            queue_depth: Number,
            #[serde(default)]
            call_rate: Number,
            #[serde(default)]
            call_burst: Number,
            #[serde(default)]
            driver_call_rate: Number,
            #[serde(default)]
            driver_call_burst: Number,
            #[serde(default)]
            gpu_share_max: Number,
            #[serde(default)]
            gpu_memory_mib: Number,
            #[serde(default)]
            turn_ms_max: Number,
            #[serde(default)]
            kernel_ms_max: Number,
            #[serde(default)]
            suspend_after_s: Number,
            #[serde(default)]
            violations_max: Number,
            #[serde(default)]
            violation_window_s: Number,
            #[serde(default)]
            quarantine_s: Number,
        }

        impl $name {
            /// What those of its keys say that others have, too; wider tables say `wider`.
            fn common(&self, text: &str, wider: &Own) -> Result<Own, MapError> {
                // In the order of the list.
                let numbers = [
                    &self.call_rate,
                    &self.call_burst,
                    &self.driver_call_rate,
                    &self.driver_call_burst,
                    &self.gpu_share_max,
                    &self.gpu_memory_mib,
                    &self.turn_ms_max,
                    &self.kernel_ms_max,
                    &self.suspend_after_s,
                    &self.violations_max,
                    &self.violation_window_s,
                    &self.quarantine_s,
                ];
                Ok(Own {
                    aging_ms: self.aging_ms.milliseconds(text, "aging_ms")?,
                    queue_depth: self.queue_depth.within(text, "queue_depth", 1, QUEUE_DEPTH_MAX)?,
                    limits: limits_of(text, numbers, &wider.limits)?,
                    ..Own::default()
                })
            }
        }
    };
}

table! {
    #[derive(Default)]
    Scheduler {
        #[serde(default)]
        quantum_ms: Levels,
        #[serde(default)]
        active_hold_ms: Number,
        #[serde(default)]
        grace_ms: Number,
        #[serde(default)]
        deadman_ms: Number,
        #[serde(default)]
        slice_us: Levels,
        #[serde(default)]
        window: Levels,
        #[serde(default)]
        poll_us: Number,
    }
}

table! {
    Pool {
        pub name: Spanned<String>,
        pub gpus: Spanned<Vec<Spanned<String>>>,
        #[serde(default)]
        pub vms: Vec<Spanned<VmNumbers>>,
        pub policy: Option<Spanned<Policy>>,
        pub exclusive: Option<Spanned<bool>>,
        pub sharing: Option<Spanned<Sharing>>,
        #[serde(default)]
        weight: Number,
        #[serde(default)]
        gpus_per_vm: Number,
        ladder: Option<Vec<Spanned<Rung>>>,
    }
}

table! {
    Vm {
        priority: Option<Priority>,
        #[serde(default)]
        weight: Number,
    }
}

fn limits_of(text: &str, numbers: [&Number; LIMITS.len()], wider: &Limits) -> Result<Limits, MapError> {
    let mut own = Limits::default();
    for (limit, number) in LIMITS.iter().zip(numbers) {
        (limit.set)(&mut own, number.within(text, limit.key, 0, limit.most)?);
    }
    if let Some((burst, rate)) = limits::burst_without_rate(&own, &limits::merged(&own, wider)) {
        let number = LIMITS.iter().zip(numbers).find(|(limit, _)| limit.key == burst);
        let span = number.and_then(|(_, number)| number.span()).unwrap_or_default();
        return Err(MapError::at(
            text,
            span,
            format!("{burst} without a rate: expected {rate}, too"),
        ));
    }
    Ok(own)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Levels {
    low: Number,
    medium: Number,
    high: Number,
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
    fn span(&self) -> Option<Range<usize>> {
        self.0.as_ref().map(Spanned::span)
    }

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
    pub limits: Limits,
}

impl Own {
    /// This, and where it says nothing what a wider table says.
    pub fn or(&self, wider: &Self) -> Self {
        Self {
            priority: self.priority.or(wider.priority),
            weight: self.weight.or(wider.weight),
            aging_ms: self.aging_ms.or(wider.aging_ms),
            queue_depth: self.queue_depth.or(wider.queue_depth),
            limits: limits::merged(&self.limits, &wider.limits),
        }
    }
}

impl Scheduler {
    pub fn own(&self, text: &str) -> Result<Own, MapError> {
        self.common(text, &Own::default())
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
    pub fn own(&self, text: &str, wider: &Own) -> Result<Own, MapError> {
        self.common(text, wider)
    }

    pub fn weight(&self, text: &str) -> Result<Option<u32>, MapError> {
        self.weight.within(text, "weight", 1, WEIGHT_MAX)
    }

    /// How many GPUs a VM gets, of those that are listed if they are.
    pub fn gpus_per_vm(&self, text: &str, listed: Option<usize>) -> Result<Option<u32>, MapError> {
        let number = self.gpus_per_vm.within(text, "gpus_per_vm", 0, GPUS_PER_VM_MAX)?;
        let Some(number) = number.filter(|number| *number > 0) else {
            return Ok(None);
        };
        match (listed, self.gpus_per_vm.span()) {
            (Some(listed), Some(span)) if number as usize > listed => Err(MapError::at(
                text,
                span,
                format!("gpus_per_vm = {number}: expected no more than the pool has, {listed}"),
            )),
            _ => Ok(Some(number)),
        }
    }

    /// The rungs that are climbed, in rising order, if that is said.
    pub fn ladder(&self, text: &str) -> Result<Option<Vec<Rung>>, MapError> {
        let Some(rungs) = &self.ladder else {
            return Ok(None);
        };
        let mut ladder = BTreeSet::new();
        for rung in rungs {
            if !ladder.insert(*rung.get_ref()) {
                let message = format!("\"{}\" is listed twice", rung.get_ref());
                return Err(MapError::at(text, rung.span(), message));
            }
        }
        Ok(Some(ladder.into_iter().collect()))
    }
}

impl Vm {
    pub fn own(&self, text: &str, wider: &Own) -> Result<Own, MapError> {
        Ok(Own {
            priority: self.priority,
            weight: self.weight.within(text, "weight", 1, WEIGHT_MAX)?,
            ..self.common(text, wider)?
        })
    }
}
