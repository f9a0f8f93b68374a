//! The limits of VMs, each with its bounds: the one list of them.
use crate::file::MS_MAX;
use vgpu_sched_api::messages::Limits;

/// The most a number of seconds can be: a year.
pub const SECONDS_MAX: u64 = 31_536_000;
/// Characters of a reason at most.
pub const REASON_LEN_MAX: usize = 500;
/// Calls per second at most.
const RATE_MAX: u64 = 10_000_000;
/// Calls at once at most.
const BURST_MAX: u64 = 1_000_000;
/// How long violations count if nothing is said, in seconds.
const DEFAULT_VIOLATION_WINDOW_S: u64 = 60;
/// How long a quarantine lasts if nothing is said, in seconds.
const DEFAULT_QUARANTINE_S: u64 = 300;
const NO_LIMIT: &str = "no limit";

/// What is left of a reason without blanks around it, or what was expected.
pub fn reason(text: &str) -> Result<&str, String> {
    let reason = text.trim();
    let fits = (1..=REASON_LEN_MAX).contains(&reason.chars().count());
    match fits && !reason.chars().any(char::is_control) {
        true => Ok(reason),
        false => Err(format!(
            "expected a reason: one line of 1 to {REASON_LEN_MAX} characters"
        )),
    }
}

/// A limit that can be set for all VMs, for a pool's and for one. The narrower one counts.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Its key in the pool map, the name of its field of [`Limits`].
    pub key: &'static str,
    /// The most that it can be; the least is 0.
    pub most: u64,
    /// What it means that it is 0.
    pub zero: &'static str,
    /// What it means that it is not set.
    pub unset: &'static str,
    /// What it says, without a full stop.
    pub about: &'static str,
    /// Reads it.
    pub get: fn(&Limits) -> Option<u64>,
    /// Writes it. A number beyond [`Limit::most`] may count as none.
    pub set: fn(&mut Limits, Option<u64>),
}

macro_rules! limit {
    ($key:ident, $most:expr, $unset:expr, $zero:expr, $about:expr) => {
        Limit {
            key: stringify!($key),
            most: $most,
            zero: $zero,
            unset: $unset,
            about: $about,
            get: |limits| limits.$key.map(u64::from),
            set: |limits, value| limits.$key = value.and_then(|value| value.try_into().ok()),
        }
    };
}

/// All of them.
#[rustfmt::skip]
pub const LIMITS: [Limit; 12] = [
    limit!(call_rate, RATE_MAX, NO_LIMIT, NO_LIMIT, "Calls per second, over all its processes"),
    limit!(call_burst, BURST_MAX, "a tenth of the rate", "a tenth of the rate", "Calls at once, after a pause"),
    limit!(driver_call_rate, RATE_MAX, NO_LIMIT, NO_LIMIT,
        "Driver-heavy calls per second: contexts, registrations, allocations, modules"),
    limit!(driver_call_burst, BURST_MAX, "a tenth of the rate", "a tenth of the rate", "Such calls at once, after a pause"),
    limit!(gpu_share_max, 100, NO_LIMIT, NO_LIMIT, "Percent of each GPU's time, averaged over a second"),
    limit!(gpu_memory_mib, 16_777_216, NO_LIMIT, NO_LIMIT, "MiB of memory on each GPU, its contexts' own included"),
    limit!(turn_ms_max, MS_MAX, NO_LIMIT, NO_LIMIT, "Milliseconds of the longest turn while others wait"),
    limit!(kernel_ms_max, MS_MAX, NO_LIMIT, NO_LIMIT, "Milliseconds on the GPU of the longest kernel, or launch of a graph"),
    limit!(suspend_after_s, SECONDS_MAX, NO_LIMIT, NO_LIMIT,
        "Seconds without work after which its GPU memory is moved to the host, until its next call; not while it shares memory with other processes"),
    limit!(violations_max, 1_000_000, NO_LIMIT, NO_LIMIT,
        "Violations after which it is quarantined, within the window"),
    limit!(violation_window_s, SECONDS_MAX, "60", "60", "Seconds for which a violation counts"),
    limit!(quarantine_s, SECONDS_MAX, "300", "until it is released", "Seconds that a quarantine lasts"),
];

impl Limit {
    /// What a value of it means, for people.
    pub fn text(&self, value: Option<u64>) -> String {
        match value {
            None => self.unset.to_owned(),
            Some(0) => self.zero.to_owned(),
            Some(value) => value.to_string(),
        }
    }
}

/// The narrower ones, and where they say nothing the wider ones.
pub fn merged(narrow: &Limits, wide: &Limits) -> Limits {
    let mut merged = *narrow;
    for limit in &LIMITS {
        (limit.set)(&mut merged, (limit.get)(narrow).or_else(|| (limit.get)(wide)));
    }
    merged
}

/// What the limits come to: `None` for no limit, and for a quarantine until it is released. What several numbers make
/// up has all of them, or none.
pub fn in_force(set: &Limits) -> Limits {
    let mut limits = *set;
    for limit in &LIMITS {
        (limit.set)(&mut limits, (limit.get)(set).filter(|value| *value > 0));
    }
    let burst = |rate: Option<u64>, burst: Option<u64>| rate.map(|rate| burst.unwrap_or((rate / 10).max(1)));
    limits.call_burst = burst(limits.call_rate, limits.call_burst);
    limits.driver_call_burst = burst(limits.driver_call_rate, limits.driver_call_burst);
    if limits.violations_max.is_none() {
        limits.violation_window_s = None;
        limits.quarantine_s = None;
        return limits;
    }
    limits.violation_window_s = limits.violation_window_s.or(Some(DEFAULT_VIOLATION_WINDOW_S));
    if set.quarantine_s.is_none() {
        limits.quarantine_s = Some(DEFAULT_QUARANTINE_S);
    }
    limits
}

/// The keys of a burst that `own` sets and that has no rate, in `all`, which `own` is a part of.
pub fn burst_without_rate(own: &Limits, all: &Limits) -> Option<(&'static str, &'static str)> {
    let without = |burst: Option<u64>, rate: Option<u64>| burst.unwrap_or(0) > 0 && rate.unwrap_or(0) == 0;
    if without(own.call_burst, all.call_rate) {
        Some(("call_burst", "call_rate"))
    } else if without(own.driver_call_burst, all.driver_call_rate) {
        Some(("driver_call_burst", "driver_call_rate"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field of the message is in the list, once, and what is written is read.
    #[test]
    fn the_list_is_whole() {
        let mut limits = Limits::default();
        for (value, limit) in (1..).zip(&LIMITS) {
            (limit.set)(&mut limits, Some(value));
        }
        for (value, limit) in (1..).zip(&LIMITS) {
            assert_eq!((limit.get)(&limits), Some(value), "{}", limit.key);
        }
        let Limits {
            call_rate,
            call_burst,
            driver_call_rate,
            driver_call_burst,
            gpu_share_max,
            gpu_memory_mib,
            turn_ms_max,
            kernel_ms_max,
            suspend_after_s,
            violations_max,
            violation_window_s,
            quarantine_s,
        } = limits;
        let fields = [
            call_rate,
            call_burst,
            driver_call_rate,
            driver_call_burst,
            gpu_share_max.map(u64::from),
            gpu_memory_mib,
            turn_ms_max,
            kernel_ms_max,
            suspend_after_s,
            violations_max.map(u64::from),
            violation_window_s,
            quarantine_s,
        ];
        assert_eq!(fields.to_vec(), (1..=12).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn defaults_are_filled_in_and_zero_is_no_limit() {
        assert_eq!(in_force(&Limits::default()), Limits::default());
        let told = |key: &str| LIMITS.iter().find(|limit| limit.key == key).unwrap().text(None);
        assert_eq!(told("violation_window_s"), DEFAULT_VIOLATION_WINDOW_S.to_string());
        assert_eq!(told("quarantine_s"), DEFAULT_QUARANTINE_S.to_string());
        let set = Limits {
            call_rate: Some(5),
            driver_call_rate: Some(1000),
            gpu_share_max: Some(0),
            violations_max: Some(3),
            ..Limits::default()
        };
        let expected = Limits {
            call_burst: Some(1),
            driver_call_burst: Some(100),
            gpu_share_max: None,
            violation_window_s: Some(60),
            quarantine_s: Some(300),
            ..set
        };
        assert_eq!(in_force(&set), expected);
        let forever = Limits {
            call_burst: Some(7),
            violation_window_s: Some(0),
            quarantine_s: Some(0),
            ..set
        };
        let expected = Limits {
            call_burst: Some(7),
            quarantine_s: None,
            ..expected
        };
        assert_eq!(in_force(&forever), expected);
        // Without a maximum, nobody is quarantined for violations.
        let unlimited = Limits {
            violations_max: Some(0),
            quarantine_s: Some(9),
            ..Limits::default()
        };
        assert_eq!(in_force(&unlimited), Limits::default());
    }
}
