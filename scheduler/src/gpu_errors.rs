//! Errors of GPUs, and whose they are. The kernel's log names the process, so it comes first; NVML tells of an Xid without
//! one, for hosts whose log cannot be read. Both tell of the same Xid, in either order.
use crate::daemon::{Daemon, Live};
use crate::history::{Happened, now_s};
use crate::inventory::is_instance;
use crate::lines::Lines;
use crate::poller::{Poller, Source};
use crate::xid::{self, Xid};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use vgpu_sched_api::messages::{EventKind, EventRecord, XidStatus};
use vgpu_sched_core::{GpuSet, Session};

/// Bytes of a line of the kernel's log at most; what the driver writes about an Xid is shorter.
const LINE_MAX: usize = 4096;
/// Records of the log that are read before others get their turn.
const RECORDS: usize = 64;
/// How long NVML's word of an Xid waits for the kernel's, in microseconds.
const WAIT_US: u64 = 1_000_000;
/// Within this time the same Xid of the same GPU is one, in microseconds.
const SAME_US: u64 = 5_000_000;
/// How long the pid of an executor that ended still stands for its session, in microseconds: a fault often ends it before
/// the log tells of the fault.
const KEPT_US: u64 = 10_000_000;
/// Xids, and executors that ended, which are remembered at most.
const REMEMBERED: usize = 1024;
/// Xids of a GPU that operators are shown at most.
const SHOWN: usize = 8;

/// A PCI address: domain, bus and device.
type Address = [u32; 3];

/// The errors told lately, and where they come from.
pub(crate) struct GpuErrors {
    log: Option<KernelLog>,
    seen: Seen,
    ended: VecDeque<Ended>,
    latest: Latest,
}

/// The kernel's log.
struct KernelLog {
    file: OwnedFd,
    token: u64,
    lines: Lines,
}

/// An executor that ended.
struct Ended {
    until_us: u64,
    pid: u32,
    session: Session,
    gpus: GpuSet,
}

/// Whose an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Culprit {
    session: Session,
    gpus: GpuSet,
}

impl KernelLog {
    /// From its end on.
    fn open(path: &Path, poller: &mut Poller) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        match rustix::fs::seek(&file, SeekFrom::End(0)) {
            // A pipe has no past.
            Ok(_) | Err(Errno::SPIPE) => {}
            Err(error) => return Err(error).context("its end cannot be found"),
        }
        let token = poller
            .add(&file, Source::KernelLog)
            .context("it cannot be waited for")?;
        Ok(Self {
            file,
            token,
            lines: Lines::new(LINE_MAX),
        })
    }
}

impl GpuErrors {
    /// Reads the kernel's log there, if it can be read. Those events were noted in earlier runs.
    pub(crate) fn new(kmsg: &Path, noted: &[EventRecord], poller: &mut Poller) -> Self {
        let log = KernelLog::open(kmsg, poller).inspect_err(|error| {
            log::warn!(
                "{}: {error:#}; errors of GPUs are told to be a session's only if it alone has a turn",
                kmsg.display()
            );
        });
        Self {
            log: log.ok(),
            seen: Seen::default(),
            ended: VecDeque::new(),
            latest: Latest::of(noted),
        }
    }

    /// The Xids of a GPU, each number once, the latest first.
    pub(crate) fn xids(&self, uuid: &str) -> Vec<XidStatus> {
        self.latest.shown(uuid)
    }

    /// When something is to be told that waited for the kernel's log.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.seen.next_us()
    }

    /// A session's executor ended, or is about to.
    pub(crate) fn note_end(&mut self, now_us: u64, pid: u32, session: Session, gpus: GpuSet) {
        self.ended.retain(|ended| ended.until_us > now_us);
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended {
            until_us: now_us + KEPT_US,
            pid,
            session,
            gpus,
        });
    }
}

impl Daemon {
    /// Reads the kernel's log.
    pub(crate) fn serve_kernel_log(&mut self) {
        // A record is read at once or not at all; none is longer.
        let mut bytes = [0; 8192];
        for _ in 0..RECORDS {
            let Some(log) = &mut self.gpu_errors.log else {
                return;
            };
            match rustix::io::read(&log.file, &mut bytes) {
                Ok(0) => return self.end_kernel_log("it has ended"),
                Ok(read) => {
                    for line in log.lines.push(&bytes[..read]) {
                        if let Some(xid) = Xid::parse(&line) {
                            self.logged(&xid);
                        }
                    }
                }
                // Records were overwritten before they were read.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => return self.end_kernel_log(&error.to_string()),
            }
        }
    }

    fn end_kernel_log(&mut self, why: &str) {
        if let Some(log) = self.gpu_errors.log.take() {
            log::warn!("the kernel's log is not read any longer: {why}");
            self.poller.remove(&log.file, log.token);
        }
    }

    /// The kernel's log tells of an Xid.
    fn logged(&mut self, xid: &Xid) {
        let now_us = self.now_us();
        let seen = &mut self.gpu_errors.seen;
        if !seen.logged(now_us, xid.address, xid.number, xid.pid) {
            return;
        }
        let culprit = xid.pid.and_then(|pid| self.session_of_executor(pid));
        let gpu = self.gpu_at(xid.address, culprit);
        self.gpu_error(culprit, gpu, xid.number, &xid.details);
    }

    /// NVML tells of an Xid.
    pub(crate) fn reported(&mut self, gpu: &str, number: u64) {
        let Some(address) = self.inventory.address_of(gpu) else {
            log::warn!(
                "NVML tells of Xid {number} of an unknown GPU {}",
                gpu.escape_debug()
            );
            return;
        };
        // Who it was can be guessed now, and no longer when the time to wait is over.
        let report = Report {
            address,
            number,
            culprit: self.only_holder(gpu).filter(|_| xid::is_a_programs(number)),
        };
        let wait_us = if self.gpu_errors.log.is_some() { WAIT_US } else { 0 };
        let now_us = self.now_us();
        self.gpu_errors.seen.reported(now_us, now_us + wait_us, report);
        self.tell_late_errors();
    }

    /// Tells of the errors that waited for the kernel's log in vain.
    pub(crate) fn tell_late_errors(&mut self) {
        while let Some(report) = self.gpu_errors.seen.due(self.now_us()) {
            let gpu = self.gpu_at(report.address, report.culprit);
            self.gpu_error(report.culprit, gpu, report.number, "told by NVML");
        }
    }

    /// The session whose executor has or had that pid.
    fn session_of_executor(&self, pid: u32) -> Option<Culprit> {
        // That of executors whose pid is not known.
        if pid == 0 {
            return None;
        }
        let live = self.sessions.iter().find(|(_, live)| live.exec_pid == pid);
        if let Some((session, live)) = live {
            return Some(Culprit {
                session: *session,
                gpus: live.gpus,
            });
        }
        let now_us = self.now_us();
        let mut ended = self.gpu_errors.ended.iter().rev();
        let found = ended.find(|ended| ended.pid == pid && ended.until_us > now_us)?;
        Some(Culprit {
            session: found.session,
            gpus: found.gpus,
        })
    }

    /// The session that alone has a turn on a GPU.
    fn only_holder(&mut self, gpu: &str) -> Option<Culprit> {
        let number: GpuSet = self.inventory.number(gpu).into_iter().collect();
        let holds = |live: &Live| live.seated && live.gpus.meets(number);
        let mut holders = self.sessions.iter().filter(|(_, live)| holds(live));
        let (session, live) = holders.next()?;
        holders.next().is_none().then_some(Culprit {
            session: *session,
            gpus: live.gpus,
        })
    }

    /// The GPU at an address; the instance of it that the culprit has, if it is divided.
    fn gpu_at(&self, address: Address, culprit: Option<Culprit>) -> Option<String> {
        let theirs = culprit.map(|culprit| self.inventory.uuids(culprit.gpus));
        let mut theirs = theirs.into_iter().flatten();
        let instance =
            theirs.find(|uuid| is_instance(uuid) && self.inventory.address_of(uuid) == Some(address));
        instance.or_else(|| Some(self.inventory.at_address(address)?.uuid.clone()))
    }

    /// Notes an error of a GPU, after the last calls of the session whose it is.
    fn gpu_error(&mut self, culprit: Option<Culprit>, gpu: Option<String>, number: u64, details: &str) {
        if let Some(gpu) = &gpu {
            self.gpu_errors.latest.note(gpu, number, now_s());
        }
        let mut happened = Happened::new(EventKind::GpuError, message(number, details)).on(gpu.as_slice());
        if let Some(Culprit { session, .. }) = culprit {
            happened = happened.of(session).after(self.calls_of(session));
        }
        self.note_event(happened);
    }
}

fn message(number: u64, details: &str) -> String {
    match xid::meaning(number) {
        Some(meaning) => format!("Xid {number} ({meaning}): {details}"),
        None => format!("Xid {number}: {details}"),
    }
}

/// The number in such a message.
fn number(message: &str) -> Option<u64> {
    let rest = message.strip_prefix("Xid ")?;
    rest[..rest.find([' ', ':'])?].parse().ok()
}

/// When each Xid came last: by GPU and number, in seconds since 1970.
#[derive(Debug, Default)]
struct Latest(BTreeMap<String, BTreeMap<u64, u64>>);

impl Latest {
    /// As events tell of them.
    fn of(events: &[EventRecord]) -> Self {
        let mut latest = Self::default();
        for event in events.iter().filter(|event| event.kind == EventKind::GpuError) {
            if let (Some(gpu), Some(number)) = (&event.gpu, number(&event.message)) {
                latest.note(gpu, number, event.at_s);
            }
        }
        latest
    }

    fn note(&mut self, gpu: &str, number: u64, at_s: u64) {
        let numbers = self.0.entry(gpu.to_owned()).or_default();
        numbers.insert(number, at_s);
        if numbers.len() > REMEMBERED
            && let Some((oldest, _)) = numbers.iter().min_by_key(|(_, at_s)| **at_s)
        {
            let oldest = *oldest;
            numbers.remove(&oldest);
        }
    }

    fn shown(&self, gpu: &str) -> Vec<XidStatus> {
        let status = |(number, at_s): (&u64, &u64)| XidStatus {
            number: *number,
            meaning: xid::meaning(*number).map(str::to_owned),
            by_program: xid::is_a_programs(*number),
            at_s: *at_s,
        };
        let mut shown: Vec<_> = self.0.get(gpu).into_iter().flatten().map(status).collect();
        // Of one second, what programs meet follows from what the GPU had.
        shown.sort_by_key(|xid| (std::cmp::Reverse(xid.at_s), xid.by_program));
        shown.truncate(SHOWN);
        shown
    }
}

/// An Xid that NVML told of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    address: Address,
    number: u64,
    /// Whose it is, as far as can be guessed.
    culprit: Option<Culprit>,
}

/// Which Xids were told of, so that each is told once.
#[derive(Debug, Default)]
struct Seen {
    /// What was told, and when.
    told: VecDeque<(u64, Address, u64, Option<u32>)>,
    /// NVML's that wait for the kernel's, and until when.
    waiting: VecDeque<(u64, Report)>,
}

impl Seen {
    /// The kernel told of an Xid; whether that is news.
    fn logged(&mut self, now_us: u64, address: Address, number: u64, pid: Option<u32>) -> bool {
        self.waiting
            .retain(|(_, report)| (report.address, report.number) != (address, number));
        self.forget(now_us);
        let is_same =
            |told: &(u64, Address, u64, Option<u32>)| (told.1, told.2, told.3) == (address, number, pid);
        if self.told.iter().any(is_same) {
            return false;
        }
        self.note(now_us, address, number, pid);
        true
    }

    /// NVML told of an Xid, which is told at that time unless the kernel tells of it before.
    fn reported(&mut self, now_us: u64, due_us: u64, report: Report) {
        self.forget(now_us);
        let is_same = |address, number| (report.address, report.number) == (address, number);
        let told = self.told.iter().any(|told| is_same(told.1, told.2));
        let waits = self
            .waiting
            .iter()
            .any(|(_, other)| is_same(other.address, other.number));
        if !told && !waits && self.waiting.len() < REMEMBERED {
            self.waiting.push_back((due_us, report));
        }
    }

    /// One whose time to wait is over.
    fn due(&mut self, now_us: u64) -> Option<Report> {
        let (due_us, _) = self.waiting.front()?;
        if *due_us > now_us {
            return None;
        }
        let (_, report) = self.waiting.pop_front()?;
        self.note(now_us, report.address, report.number, None);
        Some(report)
    }

    fn next_us(&self) -> Option<u64> {
        self.waiting.front().map(|(due_us, _)| *due_us)
    }

    fn note(&mut self, now_us: u64, address: Address, number: u64, pid: Option<u32>) {
        if self.told.len() == REMEMBERED {
            self.told.pop_front();
        }
        self.told.push_back((now_us, address, number, pid));
    }

    fn forget(&mut self, now_us: u64) {
        self.told.retain(|told| told.0 + SAME_US > now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Address = [0, 1, 0];
    const THERE: Address = [0, 2, 0];

    fn report(address: Address, number: u64) -> Report {
        Report {
            address,
            number,
            culprit: None,
        }
    }

    #[test]
    fn an_xid_is_told_once_whoever_tells_of_it_first() {
        let mut seen = Seen::default();
        // The kernel first.
        assert!(seen.logged(10, HERE, 31, Some(7)));
        seen.reported(11, 100, report(HERE, 31));
        assert_eq!(seen.next_us(), None);
        // NVML first.
        seen.reported(20, 100, report(HERE, 43));
        seen.reported(21, 101, report(HERE, 43));
        assert_eq!((seen.next_us(), seen.due(99)), (Some(100), None));
        assert!(seen.logged(30, HERE, 43, Some(7)));
        assert_eq!(seen.due(1000), None);
        // NVML alone.
        seen.reported(40, 100, report(THERE, 43));
        assert_eq!(seen.due(100), Some(report(THERE, 43)));
        assert_eq!((seen.next_us(), seen.due(u64::MAX)), (None, None));
        // It was told, so it is not told again.
        seen.reported(101, 200, report(THERE, 43));
        assert_eq!(seen.next_us(), None);
    }

    #[test]
    fn one_of_another_process_or_gpu_or_time_is_another_one() {
        let mut seen = Seen::default();
        assert!(seen.logged(0, HERE, 31, Some(7)));
        assert!(!seen.logged(1, HERE, 31, Some(7)));
        assert!(seen.logged(2, HERE, 31, Some(8)));
        assert!(seen.logged(3, HERE, 31, None));
        assert!(seen.logged(4, HERE, 13, Some(7)));
        assert!(seen.logged(5, THERE, 31, Some(7)));
        assert!(!seen.logged(SAME_US - 1, HERE, 31, Some(7)));
        assert!(seen.logged(SAME_US, HERE, 31, Some(7)));
    }

    #[test]
    fn the_last_of_each_xid_is_shown_also_after_a_restart() {
        let event = |at_s, number, gpu: Option<&str>| EventRecord {
            number: at_s,
            at_s,
            kind: EventKind::GpuError,
            vm: None,
            session: None,
            gpu: gpu.map(str::to_owned),
            message: message(number, "pid=7, Xid 5: of it"),
            calls: Vec::new(),
        };
        let here = Some("GPU-a");
        let other = EventRecord {
            kind: EventKind::Lost,
            ..event(9, 48, here)
        };
        let events = [
            event(1, 31, here),
            event(2, 79, here),
            event(3, 31, here),
            event(4, 12345, here),
            event(4, 13, here),
            event(5, 13, Some("GPU-b")),
            event(6, 13, None),
            other,
        ];
        let mut latest = Latest::of(&events);
        let shown = |latest: &Latest, gpu: &str| -> Vec<(u64, u64)> {
            let shown = latest.shown(gpu).into_iter();
            shown.map(|xid| (xid.number, xid.at_s)).collect()
        };
        assert_eq!(shown(&latest, "GPU-a"), [(12345, 4), (13, 4), (31, 3), (79, 2)]);
        let [unknown, _, fault, lost] = &latest.shown("GPU-a")[..] else {
            panic!("{latest:?}")
        };
        assert_eq!((&unknown.meaning, unknown.by_program), (&None, false));
        assert!(fault.by_program && fault.meaning.is_some());
        assert!(!lost.by_program && lost.meaning.as_deref() == xid::meaning(79));
        latest.note("GPU-a", 79, 20);
        assert_eq!(shown(&latest, "GPU-a")[0], (79, 20));
        assert_eq!(shown(&latest, "GPU-b"), [(13, 5)]);
        // More are not shown, nor remembered for ever.
        for number in 0..2 * REMEMBERED as u64 {
            latest.note("GPU-c", number, number);
        }
        assert_eq!(latest.0["GPU-c"].len(), REMEMBERED);
        assert_eq!(latest.shown("GPU-c").len(), SHOWN);
        assert_eq!(latest.shown("GPU-c")[0].number, 2 * REMEMBERED as u64 - 1);
        for nonsense in ["", "Xid", "Xid x: y", "Xid 31", "an Xid 31: y"] {
            assert_eq!(number(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for number in 0..3 * REMEMBERED as u64 {
            seen.reported(0, 1, report(HERE, number));
            seen.logged(0, THERE, number, None);
        }
        assert_eq!((seen.told.len(), seen.waiting.len()), (REMEMBERED, REMEMBERED));
    }
}
