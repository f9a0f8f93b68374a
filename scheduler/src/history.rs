//! What happened, for operators: kept in `vgpu.db`, and here to be read.
use crate::allowance::Allowances;
use crate::daemon::Daemon;
use crate::ring::Ring;
use crate::store::Changes;
use std::time::{SystemTime, UNIX_EPOCH};
use vgpu_protocol::calls::find_op;
use vgpu_sched_api::messages::{CallRecord, EventKind, EventRecord};
use vgpu_sched_api::turn::Recorded;
use vgpu_sched_core::Session;

/// Events kept.
pub const KEPT: usize = 10_000;
/// Bytes of an event's sentence at most.
const MESSAGE_LEN_MAX: usize = 2000;
/// What a VM does is told so often at once, and then once in this many microseconds: one that breaks its limits all the time
/// must not drive out what happened to others.
const BURST: u64 = 60;
const INTERVAL_US: u64 = 5_000_000;

/// Something that just happened.
#[derive(Debug)]
pub(crate) struct Happened {
    kind: EventKind,
    vm: Option<u32>,
    session: Option<u32>,
    gpu: Option<String>,
    message: String,
    calls: Vec<CallRecord>,
}

impl Happened {
    /// Of this kind, as a sentence.
    pub(crate) fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            vm: None,
            session: None,
            gpu: None,
            message: message.into(),
            calls: Vec::new(),
        }
    }

    /// It is a VM's doing, or done to it.
    pub(crate) fn of_vm(self, vm: u32) -> Self {
        Self { vm: Some(vm), ..self }
    }

    /// It is a session's doing, or done to it.
    pub(crate) fn of(self, session: Session) -> Self {
        Self {
            session: Some(session.number),
            ..self.of_vm(session.vm)
        }
    }

    /// On these GPUs, by UUID.
    pub(crate) fn on(self, uuids: &[String]) -> Self {
        Self {
            gpu: (!uuids.is_empty()).then(|| uuids.join(",")),
            ..self
        }
    }

    /// After these calls.
    pub(crate) fn after(self, calls: Vec<CallRecord>) -> Self {
        Self { calls, ..self }
    }
}

/// The last events.
#[derive(Debug)]
pub struct History {
    events: Ring<EventRecord>,
    /// By VM.
    allowances: Allowances,
}

impl History {
    /// Goes on from those of earlier runs.
    pub fn new(saved: Vec<EventRecord>) -> Self {
        Self {
            events: Ring::new(saved, KEPT),
            allowances: Allowances::new(BURST, INTERVAL_US),
        }
    }

    /// Whether to tell it: not if its VM does too much, which is then said by the next one that is told.
    fn admits(&mut self, happened: &mut Happened, now_us: u64) -> bool {
        use EventKind::{Deprioritised, Ended, Lost, Stopped, Warned};
        let (Some(vm), Warned | Deprioritised | Stopped | Ended | Lost) = (happened.vm, happened.kind) else {
            return true;
        };
        let left_out = self.allowances.take(vm, now_us);
        if let Some(left_out @ 1..) = left_out {
            happened.message += &format!(" ({left_out} events of this VM were left out before)");
        }
        left_out.is_some()
    }

    fn add(&mut self, happened: Happened, at_s: u64) -> &EventRecord {
        let mut message = happened.message;
        message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
        self.events.add(EventRecord {
            number: 0,
            at_s,
            kind: happened.kind,
            vm: happened.vm,
            session: happened.session,
            gpu: happened.gpu,
            message,
            calls: happened.calls,
        })
    }

    /// Whether anything of a VM is kept.
    pub fn has_of(&self, vm: u32) -> bool {
        self.events.all().any(|event| event.vm == Some(vm))
    }

    /// The events from a number on, of one VM or of all: as many as one answer holds, and the number to go on with.
    pub fn from(&self, number: u64, vm: Option<u32>) -> (Vec<EventRecord>, u64) {
        self.events.from(number, |event| vm.is_none() || event.vm == vm)
    }
}

impl Daemon {
    /// Notes something that happened: in the log, in `vgpu.db`, and for who asks.
    pub(crate) fn note_event(&mut self, mut happened: Happened) {
        if !self.history.admits(&mut happened, self.now_us()) {
            return;
        }
        let event = self.history.add(happened, now_s());
        let level = match event.kind {
            EventKind::Released | EventKind::GpuChanged => log::Level::Info,
            _ => log::Level::Warn,
        };
        let who = match (event.vm, event.session) {
            (Some(vm), Some(session)) => format!("VM {vm} session {session}: "),
            (Some(vm), None) => format!("VM {vm}: "),
            _ => String::new(),
        };
        log::log!(level, "{who}{}: {}", event.kind, event.message);
        self.store.write(Changes {
            events: vec![event.clone()],
            ..Changes::default()
        });
    }

    /// The last calls of a session, as its page remembers them.
    pub(crate) fn calls_of(&self, session: Session) -> Vec<CallRecord> {
        let Some(live) = self.sessions.get(&session) else {
            return Vec::new();
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_us = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        let calls = live.page.recorded().into_iter();
        calls.map(|call| call_record(call, now_us)).collect()
    }

    /// The GPUs of a session, by UUID.
    pub(crate) fn uuids_of(&self, session: Session) -> Vec<String> {
        let live = self.sessions.get(&session);
        live.map_or_else(Vec::new, |live| self.inventory.uuids(live.gpus))
    }
}

/// An executor may have written anything.
fn call_record(call: Recorded, now_us: u64) -> CallRecord {
    CallRecord {
        name: find_op(call.op).map_or_else(|| format!("operation {:#x}", call.op), |row| row.name.to_owned()),
        before_us: now_us.saturating_sub(call.at_us),
        took_us: call.took_us.map(u64::from),
        ring: call.ring.into(),
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched_api::messages::{Answer, PACKET_LEN_MAX};
    use vgpu_sched_api::turn::RECORDED;

    fn happened(vm: u32) -> Happened {
        let call = CallRecord {
            name: "cuLaunchKernel".to_owned(),
            before_us: u64::MAX,
            took_us: Some(u64::from(u32::MAX)),
            ring: u32::from(u16::MAX),
        };
        Happened::new(EventKind::Stopped, "\u{7}".repeat(5000))
            .of(Session { vm, number: 3 })
            .on(&["GPU-a".to_owned(), "GPU-b".to_owned()])
            .after(vec![call; RECORDED])
    }

    fn read_all(history: &History, vm: Option<u32>) -> Vec<EventRecord> {
        let (mut read, mut next) = (Vec::new(), 0);
        loop {
            let (events, after) = history.from(next, vm);
            let answer = Answer::Events {
                events: events.clone(),
                next: after,
            };
            assert!(serde_json::to_vec(&answer).unwrap().len() <= PACKET_LEN_MAX);
            if events.is_empty() {
                return read;
            }
            assert!(after > next);
            read.extend(events);
            next = after;
        }
    }

    #[test]
    fn events_are_read_in_parts_that_fit_into_an_answer() {
        let mut history = History::new(Vec::new());
        assert_eq!(history.from(0, None), (vec![], 1));
        for number in 1..=40 {
            history.add(happened(number % 2), 1_700_000_000);
        }
        let all = read_all(&history, None);
        let numbers: Vec<u64> = all.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
        assert_eq!(all[0].message.len(), MESSAGE_LEN_MAX);
        assert_eq!(all[0].gpu.as_deref(), Some("GPU-a,GPU-b"));
        let odd: Vec<u64> = read_all(&history, Some(1))
            .iter()
            .map(|event| event.number)
            .collect();
        assert_eq!(odd, (1..=40).step_by(2).collect::<Vec<_>>());
        assert_eq!(history.from(7, Some(9)), (vec![], 41));
        assert_eq!(history.from(100, None), (vec![], 100));
    }

    #[test]
    fn the_last_events_are_kept_and_numbers_go_on() {
        let mut saved = History::new(Vec::new());
        for _ in 0..KEPT + 7 {
            saved.add(Happened::new(EventKind::GpuChanged, "it is here"), 1);
        }
        let mut history = History::new(read_all(&saved, None));
        history.add(Happened::new(EventKind::GpuChanged, "it is gone"), 2);
        let all = read_all(&history, None);
        assert_eq!((all.len(), all[0].number), (KEPT, 9));
        assert_eq!(all[KEPT - 1].number, KEPT as u64 + 8);
    }

    #[test]
    fn a_vm_that_does_too_much_is_not_told_all_the_time() {
        let mut history = History::new(Vec::new());
        let mut told = |vm, at_us| {
            let mut happened = Happened::new(EventKind::Stopped, "it is stopped").of_vm(vm);
            history.admits(&mut happened, at_us).then_some(happened.message)
        };
        let at_once = (0..1000).filter(|_| told(1, 7).is_some()).count();
        assert_eq!(at_once as u64, BURST);
        assert_eq!(told(2, 7).as_deref(), Some("it is stopped"));
        assert_eq!(told(1, 6 + INTERVAL_US), None);
        let next = told(1, 7 + INTERVAL_US).unwrap();
        assert_eq!(next, "it is stopped (941 events of this VM were left out before)");
        // After a pause all is as before.
        let later = 7 + 1000 * INTERVAL_US;
        assert!((0..BURST).all(|_| told(1, later).is_some()));
        assert_eq!(told(1, later), None);
        // What is done to it is always told.
        let mut quarantined = Happened::new(EventKind::Quarantined, "").of_vm(1);
        assert!(history.admits(&mut quarantined, later));
    }

    #[test]
    fn calls_have_their_names_whatever_the_page_says() {
        let call = Recorded {
            at_us: 70,
            op: vgpu_protocol::calls::find_name("cuLaunchKernel").unwrap().op,
            ring: 2,
            took_us: None,
        };
        let record = call_record(call, 100);
        assert_eq!(
            (record.name.as_str(), record.before_us, record.took_us),
            ("cuLaunchKernel", 30, None)
        );
        let nonsense = Recorded {
            at_us: u64::MAX,
            op: u16::MAX,
            ..call
        };
        let record = call_record(nonsense, 100);
        assert_eq!((record.name.as_str(), record.before_us), ("operation 0xffff", 0));
    }
}
