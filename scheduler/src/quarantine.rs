//! Violations of limits, and the VMs that may start no work for a while because of them, or because somebody said so.
use crate::daemon::Daemon;
use crate::history::{Happened, now_s};
use crate::requests::Refused;
use crate::sessions::of_vm;
use crate::store::Changes;
use std::collections::{BTreeMap, VecDeque};
use vgpu_pool_map::{SECONDS_MAX, VmRange};
use vgpu_protocol::result;
use vgpu_sched_api::messages::{EventKind, EventRecord, QuarantineStatus, Refusal, Rung};
use vgpu_sched_core::Session;

/// VMs in one request at most.
const VMS_MAX: u64 = 1000;
/// The clock of the day may be set while we wait for a quarantine's end: it is looked at this often, in seconds.
const LOOK_S: u64 = 60;

impl Daemon {
    /// A VM broke a limit.
    pub(crate) fn violation(&mut self, vm: u32) {
        let usage = self.earlier.entry(vm).or_default();
        usage.violations = usage.violations.saturating_add(1);
        self.unwritten.insert(vm);
        let limits = self.map.settings_of(vm).limits;
        let Some(max) = limits.violations_max.filter(|max| *max > 0) else {
            return;
        };
        let window_s = limits.violation_window_s.unwrap_or(0);
        let recent = self.violations.entry(vm).or_default();
        if !too_many(recent, now_s(), window_s, max) {
            return;
        }
        let why = match max {
            1 => "a violation of its limits".to_owned(),
            max => format!("{max} violations of its limits within {window_s} s"),
        };
        let pool = self.map.pool_of(vm);
        if pool.is_some_and(|pool| pool.ladder.contains(&Rung::Quarantine)) {
            let seconds = limits.quarantine_s.filter(|seconds| *seconds > 0);
            self.quarantine(vm, &why, seconds);
        } else {
            let message = format!("{why}; only logged: its pool's ladder has no \"quarantine\"");
            self.note_event(Happened::new(EventKind::Warned, message).of_vm(vm));
        }
    }

    /// Ends the sessions of a VM, and has it open none for so many seconds, or until it is released.
    fn quarantine(&mut self, vm: u32, why: &str, seconds: Option<u64>) {
        let since_s = now_s();
        let quarantine = QuarantineStatus {
            why: why.to_owned(),
            since_s,
            until_s: seconds.map(|seconds| since_s.saturating_add(seconds)),
        };
        let how_long = match seconds {
            Some(seconds) => format!("for {seconds} s"),
            None => "until it is released".to_owned(),
        };
        self.save_quarantine(vm, Some(quarantine));
        let message = format!("quarantined {how_long}: {why}");
        self.note_event(Happened::new(EventKind::Quarantined, message).of_vm(vm));
        let sessions: Vec<Session> = of_vm(&self.sessions, vm).map(|(session, _)| session).collect();
        for session in sessions {
            self.end_session(session, result::UNKNOWN, "its VM is quarantined");
        }
    }

    fn release(&mut self, vm: u32, why: &str) {
        self.save_quarantine(vm, None);
        self.violations.remove(&vm);
        self.note_event(Happened::new(EventKind::Released, why).of_vm(vm));
    }

    fn save_quarantine(&mut self, vm: u32, quarantine: Option<QuarantineStatus>) {
        match &quarantine {
            Some(quarantine) => self.quarantines.insert(vm, quarantine.clone()),
            None => self.quarantines.remove(&vm),
        };
        self.store.write(Changes {
            quarantines: BTreeMap::from([(vm, quarantine)]),
            ..Changes::default()
        });
    }

    /// Whether a VM may start work.
    pub(crate) fn must_not_be_quarantined(&self, vm: u32) -> Result<(), (Refusal, String)> {
        match self.quarantines.get(&vm) {
            None => Ok(()),
            Some(quarantine) => Err((
                Refusal::Quarantined {
                    wait_s: quarantine.until_s.map(|until| until.saturating_sub(now_s())),
                },
                format!("VM {vm} is quarantined: {}", quarantine.why),
            )),
        }
    }

    /// Releases those whose time is over.
    pub(crate) fn end_quarantines(&mut self) {
        if self.quarantines.is_empty() {
            return;
        }
        let now_s = now_s();
        let over = |quarantine: &QuarantineStatus| quarantine.until_s.is_some_and(|until| until <= now_s);
        let over = self.quarantines.iter().filter(|(_, quarantine)| over(quarantine));
        for vm in over.map(|(vm, _)| *vm).collect::<Vec<_>>() {
            self.release(vm, "its quarantine is over");
        }
    }

    /// When to look for quarantines that are over, in microseconds since the start.
    pub(crate) fn quarantine_ends_us(&self) -> Option<u64> {
        let until = self
            .quarantines
            .values()
            .filter_map(|quarantine| quarantine.until_s);
        let left = until.min()?.saturating_sub(now_s()).clamp(1, LOOK_S);
        Some(self.now_us() + left * 1_000_000)
    }

    /// Quarantines VMs at somebody's request, or says what that would do.
    pub(crate) fn quarantine_vms(
        &mut self,
        vms: &str,
        why: &str,
        seconds: Option<u64>,
        dry_run: bool,
    ) -> Result<Vec<String>, Refused> {
        let range = range(vms)?;
        let why = vgpu_pool_map::reason(why).map_err(|message| (Refusal::Invalid, message))?;
        if seconds.is_some_and(|seconds| !(1..=SECONDS_MAX).contains(&seconds)) {
            let message = format!(
                "expected 1 to {SECONDS_MAX} seconds; none are said for a quarantine until they are released"
            );
            return Err((Refusal::Invalid, message));
        }
        let until = match seconds {
            Some(1) => "for 1 second".to_owned(),
            Some(seconds) => format!("for {seconds} seconds"),
            None => "until it is released".to_owned(),
        };
        // One that left its pool may still have sessions, or be in quarantine.
        let members = |vm: &u32| {
            self.map.pool_of(*vm).is_some()
                || self.quarantines.contains_key(vm)
                || of_vm(&self.sessions, *vm).next().is_some()
        };
        let members: Vec<u32> = range.iter().filter(members).collect();
        if members.is_empty() {
            return Err((Refusal::NotFound, format!("{}: in no pool", range.name())));
        }
        let done = |vm| {
            let sessions = match of_vm(&self.sessions, vm).count() {
                0 => String::new(),
                1 => ", and its session ends".to_owned(),
                many => format!(", and its {many} sessions end"),
            };
            format!("quarantined {until}{sessions}")
        };
        let lines = lines(members.iter().map(|vm| (*vm, done(*vm))));
        if !dry_run {
            for vm in members {
                self.quarantine(vm, why, seconds);
            }
        }
        Ok(lines)
    }

    /// Ends that, or says what that would do.
    pub(crate) fn release_vms(&mut self, vms: &str, dry_run: bool) -> Result<Vec<String>, Refused> {
        let range = range(vms)?;
        let quarantined = self.quarantines.range(range.iter()).map(|(vm, _)| *vm);
        let quarantined: Vec<u32> = quarantined.collect();
        if quarantined.is_empty() && !range.iter().any(|vm| self.map.pool_of(vm).is_some()) {
            return Err((Refusal::NotFound, format!("{}: in no pool", range.name())));
        }
        let lines = lines(quarantined.iter().map(|vm| (*vm, "released".to_owned())));
        if !dry_run {
            for vm in quarantined {
                self.release(vm, "released by hand");
            }
        }
        Ok(lines)
    }
}

/// A line for each VM; those in a row of which the same is said have one together.
fn lines(vms: impl Iterator<Item = (u32, String)>) -> Vec<String> {
    let line = |(row, said): (VmRange, String)| format!("{}: {said}", row.name());
    vgpu_pool_map::rows(vms).into_iter().map(line).collect()
}

fn range(vms: &str) -> Result<VmRange, (Refusal, String)> {
    let range: VmRange = vms
        .parse()
        .map_err(|message: String| (Refusal::Invalid, message))?;
    if range.count() > VMS_MAX {
        let message = format!("{range}: expected {VMS_MAX} VMs at most");
        return Err((Refusal::Invalid, message));
    }
    Ok(range)
}

/// When VMs broke their limits since they were last quarantined, in seconds since 1970, as the events of earlier runs say.
pub fn violations(events: &[EventRecord]) -> BTreeMap<u32, VecDeque<u64>> {
    let mut violations: BTreeMap<u32, VecDeque<u64>> = BTreeMap::new();
    for event in events {
        let Some(vm) = event.vm else { continue };
        match event.kind {
            EventKind::Stopped => violations.entry(vm).or_default().push_back(event.at_s),
            EventKind::Quarantined | EventKind::Released => drop(violations.remove(&vm)),
            _ => {}
        }
    }
    violations
}

/// Notes a violation; whether it is the last that was left within the window. Then counting begins anew.
fn too_many(recent: &mut VecDeque<u64>, now_s: u64, window_s: u64, max: u32) -> bool {
    while recent
        .front()
        .is_some_and(|at| at.saturating_add(window_s) < now_s)
    {
        recent.pop_front();
    }
    recent.push_back(now_s);
    let reached = recent.len() >= max as usize;
    if reached {
        recent.clear();
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_count_within_their_window() {
        let mut recent = VecDeque::new();
        let mut violate = |at| too_many(&mut recent, at, 100, 3);
        assert_eq!([0, 90, 120, 130].map(&mut violate), [false, false, false, true]);
        assert_eq!([131, 132, 133].map(&mut violate), [false, false, true]);
        assert_eq!([200, 400, 600, 800].map(&mut violate), [false; 4]);
        assert!(too_many(&mut recent, 0, 0, 1));
    }

    #[test]
    fn violations_of_earlier_runs_count_unless_they_were_dealt_with() {
        let event = |vm, kind, at_s| EventRecord {
            number: at_s,
            at_s,
            kind,
            vm: Some(vm),
            session: None,
            gpu: None,
            message: String::new(),
            calls: vec![],
        };
        let events = [
            event(1, EventKind::Stopped, 1),
            event(1, EventKind::Quarantined, 2),
            event(1, EventKind::Stopped, 3),
            event(1, EventKind::Released, 4),
            event(2, EventKind::Stopped, 5),
            event(1, EventKind::Stopped, 6),
            event(2, EventKind::Ended, 7),
            event(2, EventKind::Stopped, 8),
        ];
        let expected = BTreeMap::from([(1, VecDeque::from([6])), (2, VecDeque::from([5, 8]))]);
        assert_eq!(violations(&events), expected);
    }

    #[test]
    fn vms_in_a_row_have_one_line() {
        let same = |vms: &[u32]| lines(vms.iter().map(|vm| (*vm, "released".to_owned())));
        assert_eq!(same(&[1]), ["VM 1: released"]);
        assert_eq!(same(&[1, 2, 3, 5]), ["VMs 1-3: released", "VM 5: released"]);
        let two = lines([(1, "a".to_owned()), (2, "b".to_owned()), (3, "b".to_owned())].into_iter());
        assert_eq!(two, ["VM 1: a", "VMs 2-3: b"]);
        assert_eq!(same(&[]), [""; 0]);
    }

    #[test]
    fn a_range_is_bounded() {
        assert_eq!(range("3-7").unwrap().count(), 5);
        for wrong in ["", "x", "7-3", "0-4294967295", "0-1000"] {
            assert_eq!(range(wrong).unwrap_err().0, Refusal::Invalid, "{wrong}");
        }
        assert!(range("1-1000").is_ok());
    }
}
