//! GPU time.
use crate::{Charge, Core, Gpu, Place, SessionState};
use std::collections::BTreeMap;

/// The time slice of contexts for which none was set, in microseconds.
const DEFAULT_SLICE_US: u64 = 2_000;

impl Charge {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            ns: self.ns + other.ns,
            estimated: self.estimated || other.estimated,
        }
    }
}

impl Core {
    /// For how long, in nanoseconds, somebody had a turn on a GPU and was not idle, up to the last step.
    pub fn busy_ns(&self, gpu: Gpu) -> u64 {
        self.busy.get(&gpu).copied().unwrap_or(0)
    }

    /// Charges the time since the last step to those who were seated and not idle, before anything changes.
    pub(crate) fn account(&mut self, now: u64) {
        let passed_ns = (now - self.now) * 1000;
        if passed_ns == 0 {
            return;
        }
        let works = |session: &SessionState| session.seat().is_some_and(|seat| !seat.idle);
        let mut slices = BTreeMap::new();
        for session in self
            .seated
            .iter()
            .filter_map(|id| self.sessions.get(id))
            .filter(|s| works(s))
        {
            for gpu in session.gpus.iter() {
                *slices.entry(gpu).or_insert(0) += session.slice_in_force();
            }
        }
        for gpu in slices.keys() {
            *self.busy.entry(*gpu).or_insert(0) += passed_ns;
        }
        for id in &self.seated {
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            if !works(session) {
                continue;
            }
            let slice = session.slice_in_force();
            let gpus = session.gpus;
            let Place::Seated(seat) = &mut session.place else {
                continue;
            };
            for gpu in gpus.iter() {
                let all = slices.get(&gpu).copied().unwrap_or(slice).max(1);
                seat.charge.ns += (u128::from(passed_ns) * u128::from(slice) / u128::from(all)) as u64;
                seat.charge.estimated |= all != slice;
            }
        }
    }
}

impl SessionState {
    fn slice_in_force(&self) -> u64 {
        match self.slice {
            Some((slice, _)) if self.slices_work => slice.max(1),
            _ => DEFAULT_SLICE_US,
        }
    }
}
