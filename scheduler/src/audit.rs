//! Who changed what: kept in `vgpu.db`, and here to be read and taken back.
use crate::allowance::Allowances;
use crate::daemon::Daemon;
use crate::edit::Done;
use crate::history::now_s;
use crate::requests::Refused;
use crate::ring::Ring;
use crate::store::Changes;
use jiff::Timestamp;
use vgpu_sched_api::messages::{Answer, Change, ChangeRecord, Changed, EDITS_TRIED_MAX, Refusal, Wanted};

/// Changes kept.
pub const KEPT: usize = 2_000;
/// Bytes of a change at most, as JSON.
const CHANGE_LEN_MAX: usize = 16 * 1024;
/// Bytes of what has changed that are kept at most, and of a pool map's lines that went and came.
const LINES_LEN_MAX: usize = 16 * 1024;
const DIFF_LEN_MAX: usize = 64 * 1024;
/// Bytes of a refusal that are kept at most.
const REFUSAL_LEN_MAX: usize = 2_000;
/// Bytes of a user's name at most.
const USER_LEN_MAX: usize = 64;
/// Bytes of a version at most.
const SEEN_LEN_MAX: usize = 64;
/// What a user may not do is kept so often at once, and then once in this many microseconds: who asks all the time must not
/// drive out what others did.
const BURST: u64 = 20;
const INTERVAL_US: u64 = 3_600_000_000;

/// The last changes.
#[derive(Debug)]
pub struct Audit {
    records: Ring<ChangeRecord>,
    /// Of users, by number, who may not change anything.
    allowances: Allowances,
}

impl Audit {
    /// Goes on from those of earlier runs.
    pub fn new(saved: Vec<ChangeRecord>) -> Self {
        Self {
            records: Ring::new(saved, KEPT),
            allowances: Allowances::new(BURST, INTERVAL_US),
        }
    }

    /// The record of that number, if it is kept.
    pub fn get(&self, number: u64) -> Option<&ChangeRecord> {
        self.records.get(number)
    }

    /// The records from a number on: as many as one answer holds, and the number to go on with.
    pub fn from(&self, number: u64) -> (Vec<ChangeRecord>, u64) {
        self.records.from(number, |_| true)
    }

    /// Keeps a record, under the next number.
    fn add(&mut self, mut record: ChangeRecord) -> &ChangeRecord {
        bound(&mut record);
        self.records.add(record)
    }

    /// Why a user may not do what he asks for, as it is to be kept; `None` if it is not, since he asks too often.
    fn not_allowed(&mut self, uid: u32, why: &str, now_us: u64) -> Option<String> {
        let left_out = self.allowances.take(uid, now_us)?;
        Some(match left_out {
            0 => why.to_owned(),
            many => format!("{why} ({many} refusals of this user were left out before)"),
        })
    }
}

/// Leaves out what is too long to be kept.
fn bound(record: &mut ChangeRecord) {
    let mut left = LINES_LEN_MAX;
    let fit = record.changes.iter().take_while(|line| {
        left = left.saturating_sub(line.len());
        left > 0
    });
    let (fit, all) = (fit.count(), record.changes.len());
    if fit < all {
        record.changes.truncate(fit);
        record.changes.push(format!("and {} more lines", all - fit));
    }
    if record.diff.len() > DIFF_LEN_MAX {
        record.diff.clear();
    }
    if let Some(why) = &mut record.refused {
        why.truncate(why.floor_char_boundary(REFUSAL_LEN_MAX));
    }
}

/// Why somebody who may change nothing may not even try it. What most changes would do tells no more than a status and the audit
/// do.
fn may_not_try(change: &Change) -> Option<String> {
    match change {
        Change::Edit { edits } if edits.len() > EDITS_TRIED_MAX => Some(format!(
            "only administrators try so many edits at once: expected {EDITS_TRIED_MAX} at most"
        )),
        Change::Reload {} => Some(
            "only administrators are told what the pool map's file says that is not in use yet".to_owned(),
        ),
        Change::Edit { .. } | Change::Undo { .. } | Change::Quarantine { .. } | Change::Release { .. } => {
            None
        }
    }
}

/// What is to be known of a change that was made and could not be stored.
fn unstored(change: &Change) -> &'static str {
    match change {
        Change::Quarantine { .. } | Change::Release { .. } => {
            "this is in force, but not stored: it is lost if vgpud ends before vgpu.db can be written"
        }
        Change::Edit { .. } | Change::Undo { .. } | Change::Reload {} => {
            "this is done, but who did it is not stored: the audit forgets it if vgpud ends before vgpu.db can be written"
        }
    }
}

/// A change in a line: what, who and when.
fn line(record: &ChangeRecord) -> String {
    let what = match record.changes.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first, others @ ..] => format!("{first}, and {} more", others.len()),
    };
    let uid = match record.uid {
        Some(uid) => format!("uid {uid}"),
        None => "a signal".to_owned(),
    };
    let who = match &record.user {
        Some(user) => format!("{user} ({uid})"),
        None => uid,
    };
    let at = i64::try_from(record.at_s)
        .ok()
        .and_then(|at_s| Timestamp::from_second(at_s).ok());
    let when = at.map_or_else(String::new, |at| format!(", {at}"));
    format!("{} ({what}; by {who}{when})", record.number)
}

impl Daemon {
    /// Which change of the pool map is the last one, as a refusal tells it.
    pub(crate) fn last_of_map(&self) -> String {
        let last = self.audit.records.all().rev().find(|record| {
            let of_map = matches!(
                record.change,
                Change::Edit { .. } | Change::Undo { .. } | Change::Reload {}
            );
            of_map && record.refused.is_none()
        });
        match last {
            Some(last) => format!("the last change of the pool map is {}", line(last)),
            None => "no change of the pool map is kept".to_owned(),
        }
    }

    /// Does what an administrator asks for, and keeps that, and how it went; or says what it would do. The answer comes later if
    /// there is something to be stored first.
    pub(crate) fn change(&mut self, client: u64, wanted: Wanted) -> Result<Option<Answer>, Refused> {
        let user = wanted.user.as_deref();
        if let Some(user) = user
            && (user.is_empty() || user.len() > USER_LEN_MAX || user.chars().any(char::is_control))
        {
            let message =
                format!("user: expected a name of 1 to {USER_LEN_MAX} bytes without control characters");
            return Err((Refusal::Invalid, message));
        }
        let is_version =
            |seen: &str| seen.len() <= SEEN_LEN_MAX && seen.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !wanted.seen.as_deref().is_none_or(is_version) {
            let message = "seen: expected a version of the pool map, as a status has it".to_owned();
            return Err((Refusal::Invalid, message));
        }
        if serde_json::to_vec(&wanted.change).map_or(true, |json| json.len() > CHANGE_LEN_MAX) {
            let message = format!("expected a change of at most {CHANGE_LEN_MAX} bytes: make it in parts");
            return Err((Refusal::Invalid, message));
        }
        let asker = self.who_asks(client)?;
        let uid = asker.uid;
        let may_not = match asker.may_not {
            Some(_) if wanted.dry_run && !asker.is_backend => may_not_try(&wanted.change),
            may_not => may_not.map(str::to_owned),
        };
        if let Some(why) = may_not {
            if !wanted.dry_run
                && let Some(kept) = self.audit.not_allowed(uid, &why, self.now_us())
            {
                self.keep(Some(uid), &wanted, &Err((Refusal::NotAllowed, kept)));
            }
            return Err((Refusal::NotAllowed, why));
        }
        let outcome = self.carry_out(&wanted);
        let number = match wanted.dry_run {
            true => None,
            false => self.keep(Some(uid), &wanted, &outcome),
        };
        let done = outcome?;
        let changed = Changed {
            changes: [done.changes, done.notes].concat(),
            number,
            map_version: done.tried.unwrap_or_else(|| self.map_version.clone()),
        };
        if number.is_none() {
            return Ok(Some(Answer::Changed(changed)));
        }
        self.tell_once_kept_or_not(client, changed, unstored(&wanted.change));
        Ok(None)
    }

    fn carry_out(&mut self, wanted: &Wanted) -> Result<Done, Refused> {
        let (dry_run, seen) = (wanted.dry_run, wanted.seen.as_deref());
        match &wanted.change {
            Change::Edit { edits } => self.edit(&self.read_map_in_use(seen)?, edits, dry_run),
            Change::Undo { number } => self.undo(&self.read_map_in_use(seen)?, *number, dry_run),
            Change::Reload {} => self.reload(self.read_map(seen)?, dry_run),
            Change::Quarantine { vms, why, seconds } => {
                self.has_seen(seen)?;
                Ok(Done::of(self.quarantine_vms(vms, why, *seconds, dry_run)?))
            }
            Change::Release { vms } => {
                self.has_seen(seen)?;
                Ok(Done::of(self.release_vms(vms, dry_run)?))
            }
        }
    }

    /// Whether the pool map is the one that was seen; who names none need not have seen it.
    fn has_seen(&self, seen: Option<&str>) -> Result<(), Refused> {
        match seen {
            Some(_) => self.read_map(seen).map(drop),
            None => Ok(()),
        }
    }

    /// Reads the pool map again at a signal's word.
    pub(crate) fn reload_unasked(&mut self) {
        let wanted = Change::Reload {}.into();
        let outcome = self.carry_out(&wanted);
        if let Err((_, message)) = &outcome {
            log::error!("the pool map stays as it was: {message}");
        }
        self.keep(None, &wanted, &outcome);
    }

    /// Keeps what was changed, or was to be, and says under which number it is; what changed nothing is not kept.
    fn keep(&mut self, uid: Option<u32>, wanted: &Wanted, outcome: &Result<Done, Refused>) -> Option<u64> {
        let (changes, diff, refused) = match outcome {
            Ok(done) if done.changes.is_empty() => return None,
            Ok(done) => (done.changes.clone(), done.diff.clone(), None),
            Err((_, message)) => (Vec::new(), String::new(), Some(message.clone())),
        };
        let record = self.audit.add(ChangeRecord {
            number: 0,
            at_s: now_s(),
            uid,
            user: wanted.user.clone(),
            change: wanted.change.clone(),
            changes,
            diff,
            map_version: self.map_version.clone(),
            refused,
        });
        for change in &record.changes {
            log::info!("changed ({}): {change}", record.number);
        }
        self.store.write(Changes {
            changes: vec![record.clone()],
            ..Changes::default()
        });
        Some(record.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched_api::messages::PACKET_LEN_MAX;

    fn record() -> ChangeRecord {
        ChangeRecord {
            number: 0,
            at_s: 1_700_000_000,
            uid: Some(1000),
            user: None,
            change: Change::Release { vms: "1".to_owned() },
            changes: vec!["VM 1: released".to_owned()],
            diff: String::new(),
            map_version: String::new(),
            refused: None,
        }
    }

    #[test]
    fn the_last_changes_are_kept_and_read_in_parts_that_fit() {
        let mut audit = Audit::new(Vec::new());
        assert_eq!(audit.from(0), (Vec::new(), 1));
        let large = ChangeRecord {
            changes: vec!["\"".repeat(1000); 100],
            diff: "\"".repeat(DIFF_LEN_MAX),
            refused: Some("ä".repeat(5000)),
            ..record()
        };
        for _ in 0..KEPT {
            audit.add(record());
        }
        for _ in 0..7 {
            audit.add(large.clone());
        }
        let (mut read, mut next) = (Vec::new(), 0);
        loop {
            let (changes, after) = audit.from(next);
            let answer = Answer::Changes {
                changes: changes.clone(),
                next: after,
            };
            assert!(serde_json::to_vec(&answer).unwrap().len() <= PACKET_LEN_MAX);
            if changes.is_empty() {
                break;
            }
            read.extend(changes);
            next = after;
        }
        let numbers: Vec<u64> = read.iter().map(|record| record.number).collect();
        assert_eq!(numbers, (8..=KEPT as u64 + 7).collect::<Vec<_>>());
        let last = read.last().unwrap();
        assert_eq!(last.changes.len(), 17);
        assert_eq!(last.changes.last().unwrap(), "and 84 more lines");
        assert_eq!(audit.get(KEPT as u64 + 7), Some(last));
        assert_eq!(audit.get(7), None);
        // Too much to be taken back later.
        let larger = ChangeRecord {
            diff: "x".repeat(DIFF_LEN_MAX + 1),
            ..large
        };
        assert_eq!(audit.add(larger).diff, "");
    }
}
