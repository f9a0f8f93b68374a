//! How VMs are treated, told to the core; and what is done about sessions that break a limit.
use crate::daemon::{Daemon, level, name};
use crate::history::Happened;
use crate::sessions::of_vm;
use rustix::process::Signal;
use vgpu_pool_map::Settings;
use vgpu_protocol::result;
use vgpu_sched_api::messages::{self, Answer, EventKind, Limits, Sharing, ToExec};
use vgpu_sched_core::{Event, Limit, Policy, Pool, PoolTerms, Rung, Session, Standing, Terms};

/// How long an executor that was told to end may take, in microseconds, before its backend is told to kill it.
const END_US: u64 = 2_000_000;
/// The number of an order whose outcome does not matter.
const UNCOUNTED: u64 = u64::MAX;
/// How long the backend may take before the executor is killed from here.
const KILL_US: u64 = 1_000_000;
/// The progress of what runs under a limit, and that nobody waits for, is looked at this often at least, in microseconds; so
/// that there are [`LOOKS`] within the limit, but not more often than that.
const PROGRESS_US: u64 = 20_000;
const PROGRESS_US_MIN: u64 = 4_000;
const LOOKS: u64 = 8;

/// A session that is to end.
pub(crate) struct Ending {
    code: i32,
    /// Its backend was told to kill it.
    told: bool,
    /// When the next thing is done.
    at_us: u64,
}

impl Daemon {
    /// Has the core treat pools as the map says.
    pub(crate) fn set_pools(&mut self) {
        let pools = self.map.pools.iter();
        let pools: Vec<_> = pools.map(|pool| (pool.name.clone(), pool_terms(pool))).collect();
        for (name, terms) in pools {
            // For as long as this program runs: arrivals refer to it.
            let next = self.pools.len() as Pool;
            let pool = *self.pools.entry(name).or_insert(next);
            self.feed(Event::PoolSet { pool, terms });
        }
    }

    /// Has the core, and the VM's executors, treat a VM as the map says.
    pub(crate) fn set_terms(&mut self, vm: u32) {
        let terms = self.terms_of(vm);
        if let Some(page) = self.vm_pages.get(&vm) {
            page.set(&self.map.settings_of(vm).limits);
        }
        let sessions = of_vm(&self.sessions, vm).map(|(session, _)| session);
        for session in sessions.collect::<Vec<_>>() {
            if let Some(live) = self.sessions.get_mut(&session) {
                live.kernel_max_us = terms.kernel_max_us;
            }
            self.watch(session);
        }
        self.feed(Event::VmSet { vm, terms });
    }

    /// How the map says that a VM is to be treated.
    pub(crate) fn terms_of(&self, vm: u32) -> Terms {
        let pool = self.map.pool_of(vm).and_then(|pool| self.pools.get(&pool.name));
        terms(&self.map.settings_of(vm), pool.copied().unwrap_or_default())
    }

    /// When the progress of what runs under a limit and is not watched is looked at next.
    pub(crate) fn next_progress_us(&self) -> Option<u64> {
        let limited = self
            .limited
            .iter()
            .filter_map(|session| self.sessions.get(session));
        let shortest = limited.filter_map(|live| live.kernel_max_us).min()?;
        Some(self.progress_us + (shortest / LOOKS).clamp(PROGRESS_US_MIN, PROGRESS_US))
    }

    /// Tells the core whose work gets on, of those.
    pub(crate) fn look_at_progress(&mut self) {
        self.progress_us = self.now_us();
        let mut progressed = Vec::new();
        for session in &self.limited {
            let Some(live) = self.sessions.get_mut(session) else {
                continue;
            };
            // Nobody waits for it, so it does not say that it is idle; but where nothing is in flight nothing is late.
            if live.has_progressed() || live.page.counts().1 == 0 {
                progressed.push(*session);
            }
        }
        for session in progressed {
            self.feed(Event::Progress { session });
        }
    }

    /// A session has reached a rung of the ladder.
    pub(crate) fn reached(&mut self, session: Session, limit: Limit, rung: Rung, climbed: bool) {
        let limits = self.map.settings_of(session.vm).limits;
        let (kind, word) = match rung {
            Rung::Warn => (EventKind::Warned, messages::Rung::Warn),
            Rung::Deprioritise => (EventKind::Deprioritised, messages::Rung::Deprioritise),
            Rung::Stop => (EventKind::Stopped, messages::Rung::Stop),
            Rung::End => (EventKind::Ended, messages::Rung::End),
        };
        let pool = self.map.pool_of(session.vm);
        let done = match pool.is_some_and(|pool| pool.ladder.contains(&word)) {
            _ if climbed => Done::Yes,
            true => Done::CannotBe,
            false => Done::NotWanted,
        };
        let happened = Happened::new(kind, sentence(limit, &limits, rung, done)).of(session);
        let uuids = self.uuids_of(session);
        let calls = self.calls_of(session);
        self.note_event(happened.on(&uuids).after(calls));
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        // A session that ends for a limit was reported for the stop before. One per turn, however many limits it broke.
        if rung == Rung::Stop && live.violated_in.replace(live.turn) != Some(live.turn) {
            self.violation(session.vm);
        }
    }

    /// Has a session end, which it broke a limit for.
    pub(crate) fn end_for(&mut self, session: Session, limit: Limit) {
        let limits = self.map.settings_of(session.vm).limits;
        let why = format!("it exceeded {}", limit_text(limit, &limits));
        self.end_session(session, result::LAUNCH_TIMEOUT, &why);
    }

    /// Has a session end: by its executor, else by its backend, else by a signal. Its program gets this CUDA error.
    pub(crate) fn end_session(&mut self, session: Session, code: i32, why: &str) {
        let at_us = self.now_us() + END_US;
        if !self.sessions.contains_key(&session) || self.endings.contains_key(&session) {
            return;
        }
        log::warn!("{}: to end with CUDA error {code}: {why}", name(session));
        let ending = Ending {
            code,
            told: false,
            at_us,
        };
        self.endings.insert(session, ending);
        let why = why.to_owned();
        // A process that runs something without end takes seconds to be gone, one that is stopped a tenth of one.
        let stop = ToExec::Stop {
            sequence: UNCOUNTED,
            deadman_ms: END_US / 1000,
        };
        self.order(session, &stop, None);
        self.order(session, &ToExec::End { code, why }, None);
    }

    /// Goes on with those that were told to end and are still there.
    pub(crate) fn end_late(&mut self) {
        let now_us = self.now_us();
        let late = self.endings.iter().filter(|(_, ending)| ending.at_us <= now_us);
        for session in late.map(|(session, _)| *session).collect::<Vec<_>>() {
            let (Some(live), Some(ending)) = (self.sessions.get(&session), self.endings.get_mut(&session))
            else {
                continue;
            };
            if self.clients.contains_key(&live.client) && !ending.told {
                log::warn!("{}: does not end: its backend is to kill it", name(session));
                ending.told = true;
                ending.at_us = now_us + KILL_US;
                // The backend tells the guest the code before it kills.
                let answer = Answer::End {
                    session: session.number,
                    code: ending.code,
                };
                let client = live.client;
                self.send_answer(client, &answer);
                continue;
            }
            ending.at_us = u64::MAX;
            match rustix::process::pidfd_send_signal(&live.pidfd, Signal::KILL) {
                Ok(()) => log::warn!("{}: killed: it did not end", name(session)),
                Err(error) => log::error!("{}: does not end and cannot be killed: {error}", name(session)),
            }
        }
    }

    /// When [`Daemon::end_late`] has something to do.
    pub(crate) fn next_ending_us(&self) -> Option<u64> {
        let times = self.endings.values().map(|ending| ending.at_us);
        times.filter(|at| *at != u64::MAX).min()
    }

    /// An executor ended by itself.
    pub(crate) fn lost(&mut self, session: Session, why: &str) {
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        let waited = matches!(
            self.core.standing(session),
            Some(Standing::Waiting | Standing::Stopped)
        );
        let in_flight = live.page.counts().1;
        let in_order = live.leaving || self.endings.contains_key(&session);
        if !in_order && (waited || in_flight > 0) {
            let message = format!("{why} while it had work; operations in flight: {in_flight}");
            let uuids = self.uuids_of(session);
            let calls = self.calls_of(session);
            let happened = Happened::new(EventKind::Lost, message).of(session);
            self.note_event(happened.on(&uuids).after(calls));
        }
        self.detach(session, why);
    }
}

/// The core's word for how a VM is treated.
fn terms(settings: &Settings, pool: Pool) -> Terms {
    let limits = &settings.limits;
    let us = |value: Option<u64>, unit: u64| {
        let value = value.filter(|value| *value > 0);
        value.map(|value| value.saturating_mul(unit))
    };
    Terms {
        pool,
        level: level(settings.priority),
        weight: settings.weight,
        aging_us: settings.aging_ms.saturating_mul(1000),
        depth: settings.queue_depth,
        share_max: limits
            .gpu_share_max
            .filter(|percent| *percent > 0)
            .map(|percent| percent.saturating_mul(10)),
        turn_max_us: us(limits.turn_ms_max, 1000),
        kernel_max_us: us(limits.kernel_ms_max, 1000),
        suspend_after_us: us(limits.suspend_after_s, 1_000_000),
    }
}

fn pool_terms(pool: &vgpu_pool_map::Pool) -> PoolTerms {
    let rung = |rung: &messages::Rung| match rung {
        messages::Rung::Warn => Some(Rung::Warn),
        messages::Rung::Deprioritise => Some(Rung::Deprioritise),
        messages::Rung::Stop => Some(Rung::Stop),
        messages::Rung::End => Some(Rung::End),
        // Not the core's.
        messages::Rung::Quarantine => None,
    };
    PoolTerms {
        policy: match pool.policy {
            messages::Policy::Priority => Policy::Priority,
            messages::Policy::Weighted => Policy::Weighted,
            messages::Policy::Fifo => Policy::Fifo,
        },
        exclusive: pool.exclusive,
        turns: pool.sharing == Sharing::Turns,
        weight: pool.weight,
        rungs: pool.ladder.iter().filter_map(rung).collect(),
    }
}

/// A limit with its value, as the pool map names it.
fn limit_text(limit: Limit, limits: &Limits) -> String {
    let (name, value) = match limit {
        Limit::Kernel => ("kernel_ms_max", limits.kernel_ms_max),
        Limit::Turn => ("turn_ms_max", limits.turn_ms_max),
    };
    // The map may have been changed since.
    value.map_or_else(|| name.to_owned(), |value| format!("{name} = {value}"))
}

/// Whether what a rung asks for is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    /// The pool's ladder leaves it out.
    NotWanted,
    /// Nothing was proved to have that effect.
    CannotBe,
}

/// What an event says about a limit that is reached, or nearly.
fn sentence(limit: Limit, limits: &Limits, rung: Rung, done: Done) -> String {
    let what = match limit {
        Limit::Kernel => "what it runs has shown no progress for",
        Limit::Turn => "it keeps its turn from others for",
    };
    let (part, action, word) = match rung {
        Rung::Warn => ("half of", "this is the warning", "warn"),
        Rung::Deprioritise => (
            "three quarters of",
            "its VM counts as low until its turn ends",
            "deprioritise",
        ),
        Rung::Stop => ("all of", "it is stopped", "stop"),
        Rung::End => (
            "five quarters of",
            "it ends with CUDA_ERROR_LAUNCH_TIMEOUT",
            "end",
        ),
    };
    let limit = limit_text(limit, limits);
    match done {
        Done::Yes => format!("{what} {part} {limit}: {action}"),
        Done::NotWanted => {
            format!("{what} {part} {limit}; only logged: its pool's ladder has no \"{word}\"")
        }
        Done::CannotBe => format!("{what} {part} {limit}; only logged: it cannot be stopped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_pool_map::PoolMap;
    use vgpu_sched_api::messages::Priority;
    use vgpu_sched_core::{Level, Rungs};

    #[test]
    fn terms_are_the_settings_in_the_cores_units() {
        let limits = Limits {
            gpu_share_max: Some(25),
            turn_ms_max: Some(3),
            kernel_ms_max: Some(2000),
            suspend_after_s: Some(60),
            ..Limits::default()
        };
        let settings = Settings {
            priority: Priority::High,
            weight: 4,
            aging_ms: 70,
            queue_depth: Some(9),
            limits,
        };
        let expected = Terms {
            pool: 2,
            level: Level::High,
            weight: 4,
            aging_us: 70_000,
            depth: Some(9),
            share_max: Some(250),
            turn_max_us: Some(3000),
            kernel_max_us: Some(2_000_000),
            suspend_after_us: Some(60_000_000),
        };
        assert_eq!(terms(&settings, 2), expected);
        let none = Limits {
            gpu_share_max: Some(0),
            turn_ms_max: Some(0),
            kernel_ms_max: Some(0),
            suspend_after_s: Some(0),
            ..Limits::default()
        };
        let unlimited = terms(
            &Settings {
                limits: none,
                ..settings
            },
            2,
        );
        assert_eq!(
            unlimited,
            terms(
                &Settings {
                    limits: Limits::default(),
                    ..settings
                },
                2
            )
        );
        assert_eq!((unlimited.share_max, unlimited.turn_max_us), (None, None));
    }

    #[test]
    fn a_pools_terms_are_the_maps() {
        let map = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n";
        let mut pool = PoolMap::parse(map, None).unwrap().pools.remove(0);
        assert_eq!(pool_terms(&pool), PoolTerms::default());
        pool.policy = messages::Policy::Weighted;
        pool.exclusive = true;
        pool.sharing = Sharing::Mps;
        pool.weight = 7;
        pool.ladder = vec![
            messages::Rung::Warn,
            messages::Rung::End,
            messages::Rung::Quarantine,
        ];
        let expected = PoolTerms {
            policy: Policy::Weighted,
            exclusive: true,
            turns: false,
            weight: 7,
            rungs: Rungs::from_iter([Rung::Warn, Rung::End]),
        };
        assert_eq!(pool_terms(&pool), expected);
    }

    #[test]
    fn an_event_says_which_limit_and_what_is_done() {
        let limits = Limits {
            kernel_ms_max: Some(2000),
            ..Limits::default()
        };
        assert_eq!(
            sentence(Limit::Kernel, &limits, Rung::Stop, Done::Yes),
            "what it runs has shown no progress for all of kernel_ms_max = 2000: it is stopped"
        );
        assert_eq!(
            sentence(Limit::Turn, &limits, Rung::End, Done::NotWanted),
            "it keeps its turn from others for five quarters of turn_ms_max; only logged: its pool's ladder has no \"end\""
        );
    }
}
