//! Answers that tell counters, or a session's GPUs, wait until these are in `vgpu.db`: what somebody was told is never less, or
//! another one, later, however this program ends. Nobody else waits for the disk.
use crate::daemon::Daemon;
use crate::store::Question;
use std::collections::BTreeMap;
use vgpu_sched_api::messages::{Answer, Changed, Refusal};

/// Later than this an answer is told all the same, in microseconds: it must not hang on a disk that does.
const STORED_LATE_US: u64 = 1_000_000;
/// So long the database may take to answer itself: less than a tool waits.
const READ_LATE_US: u64 = 4_000_000;

/// Answers that are told when `vgpu.db` has come so far, by the tickets it gave for that.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<u64, Late>);

#[derive(Debug)]
struct Late {
    client: u64,
    /// What it is told if nothing else is known by then.
    answer: Answer,
    /// What it is told as well if that could not be stored.
    unstored: &'static str,
    until_us: u64,
}

impl Late {
    /// The answer, where what it tells of could not be stored.
    fn without(self, why: &str) -> Answer {
        let mut answer = self.answer;
        if let Answer::Changed(changed) = &mut answer {
            changed.changes.push(format!("WARNING: {}: {why}", self.unstored));
        }
        answer
    }
}

impl Daemon {
    /// Tells a client something once what VMs used up to now is stored.
    pub(crate) fn tell_once_stored(&mut self, client: u64, answer: impl FnOnce(&mut Self) -> Answer) {
        self.write_usage();
        let answer = answer(self);
        self.tell_once_kept(client, answer);
    }

    /// Tells a client something once all that was to be written by now is stored.
    pub(crate) fn tell_once_kept(&mut self, client: u64, answer: Answer) {
        self.hold(client, answer, "", None, STORED_LATE_US);
    }

    /// Tells a client what has changed once that is stored, or cannot be.
    pub(crate) fn tell_once_kept_or_not(&mut self, client: u64, changed: Changed, unstored: &'static str) {
        self.hold(client, Answer::Changed(changed), unstored, None, STORED_LATE_US);
    }

    /// Tells a client what is in the database, with what VMs used up to now.
    pub(crate) fn tell_stored(&mut self, client: u64, question: Question) {
        self.write_usage();
        let message = format!(
            "vgpu.db does not answer within {} s: what it lies on is slow, or full of work",
            READ_LATE_US / 1_000_000
        );
        let late = Answer::Refused {
            why: Refusal::Failed,
            message,
        };
        self.hold(client, late, "", Some(question), READ_LATE_US);
    }

    fn hold(
        &mut self,
        client: u64,
        answer: Answer,
        unstored: &'static str,
        question: Option<Question>,
        late_us: u64,
    ) {
        let ticket = self.store.tell(question);
        let until_us = self.now_us() + late_us;
        let late = Late {
            client,
            answer,
            unstored,
            until_us,
        };
        self.held.0.insert(ticket, late);
    }

    pub(crate) fn serve_store(&mut self) {
        for done in self.store.take_done() {
            // It may have been told already, late.
            if let Some(late) = self.held.0.remove(&done.ticket) {
                self.tell_held(late, done.answer);
            }
        }
    }

    /// Tells all that waits still, when this program ends: what the database was sent is written before it has.
    pub(crate) fn tell_rest(&mut self) {
        for late in std::mem::take(&mut self.held.0).into_values() {
            self.tell_held(late, None);
        }
    }

    fn tell_held(&mut self, late: Late, answer: Option<Answer>) {
        let client = late.client;
        let answer = answer.unwrap_or_else(|| match self.store.failing() {
            Some(why) => late.without(&why),
            None => late.answer,
        });
        self.send_answer(client, &answer);
    }

    /// When the next answer is late.
    pub(crate) fn next_late_us(&self) -> Option<u64> {
        self.held.0.values().map(|late| late.until_us).min()
    }

    /// Tells what is late by that time.
    pub(crate) fn tell_late(&mut self, now_us: u64) {
        let late = self.held.0.extract_if(.., |_, late| late.until_us <= now_us);
        for late in late.map(|(_, late)| late).collect::<Vec<_>>() {
            let why = "vgpu.db is slow";
            log::warn!("{why}: what it was to have first is told without");
            let client = late.client;
            self.send_answer(client, &late.without(why));
        }
    }
}
