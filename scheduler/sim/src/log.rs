//! What happened: a digest of all of it, and the last of it in full.
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use vgpu_sched_core::{Action, Event, Session};

/// How much of what happened last is kept.
const LAST: usize = 60;

#[derive(Clone, Debug)]
enum Entry {
    Event(Event),
    Action(Action),
}

/// The log of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    last: VecDeque<(u64, Entry)>,
    digest: DefaultHasher,
    pub(crate) events: u64,
    pub(crate) grants: u64,
    pub(crate) stops: u64,
}

impl Log {
    pub(crate) fn event(&mut self, now: u64, event: &Event) {
        self.events += 1;
        self.keep(now, Entry::Event(event.clone()));
    }

    pub(crate) fn action(&mut self, now: u64, action: &Action) {
        match action {
            Action::Grant { .. } => self.grants += 1,
            Action::Stop { .. } => self.stops += 1,
            _ => {}
        }
        now.hash(&mut self.digest);
        std::mem::discriminant(action).hash(&mut self.digest);
        self.digest.write_u64(key(action));
        session_of(action).hash(&mut self.digest);
        self.keep(now, Entry::Action(action.clone()));
    }

    fn keep(&mut self, now: u64, entry: Entry) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back((now, entry));
    }

    /// Equal for runs in which the scheduler did the same at the same times.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The last events and what was done about each, a line each, with the time in microseconds.
    pub(crate) fn last(&self) -> Vec<String> {
        let line = |(at, entry): &(u64, Entry)| match entry {
            Entry::Event(event) => format!("{at:>14} {event:?}"),
            Entry::Action(action) => format!("{at:>14}     -> {action:?}"),
        };
        self.last.iter().map(line).collect()
    }
}

/// Whom an action is for.
fn session_of(action: &Action) -> Session {
    match action {
        Action::Grant { session }
        | Action::TakeIfIdle { session }
        | Action::AskBack { session }
        | Action::SetContended { session, .. }
        | Action::SetSlice { session, .. }
        | Action::SetWindow { session, .. }
        | Action::Stop { session, .. }
        | Action::Resume { session, .. }
        | Action::Suspend { session }
        | Action::Reached { session, .. }
        | Action::EndSession { session, .. }
        | Action::Began { session, .. }
        | Action::Ended { session, .. } => *session,
    }
}

/// What tells it from others of its kind.
fn key(action: &Action) -> u64 {
    match action {
        Action::SetContended { contended, .. } => (*contended).into(),
        Action::SetSlice { sequence, .. }
        | Action::Stop { sequence, .. }
        | Action::Resume { sequence, .. } => *sequence,
        Action::SetWindow { operations, .. } => (*operations).into(),
        Action::Reached { rung, climbed, .. } => *rung as u64 * 2 + u64::from(*climbed),
        Action::Began { turn, waited_us, .. } => turn << 32 ^ waited_us,
        Action::Ended { turn, charge, .. } => turn << 32 ^ charge.ns,
        Action::Grant { .. }
        | Action::TakeIfIdle { .. }
        | Action::AskBack { .. }
        | Action::Suspend { .. }
        | Action::EndSession { .. } => 0,
    }
}
