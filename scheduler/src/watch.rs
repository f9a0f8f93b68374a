//! Watching the GPUs. A process of its own asks NVML all the time, since the driver may hang or crash; it writes a line of
//! JSON for each thing it finds. Between its looks it is asked for the memory of processes, by a byte on its standard input:
//! an executor under a quota waits for the account of its first context.
use crate::daemon::Daemon;
use crate::inventory::{self, Found};
use crate::lines::Lines;
use crate::poller::Source;
use crate::scan::ScanOn;
use anyhow::{Context, Result};
use nvml_wrapper::EventSet;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{GpuMeasured, GpuReadings, ToExec};
use vgpu_sched_core::Session;

/// This program's first argument when it is to watch the GPUs; the second one is NVML's library.
pub const WATCH: &str = "--watch-gpus";
/// How often the watcher looks.
const LOOK: Duration = Duration::from_secs(1);
/// The watcher looks no sooner than this after it looked because it was asked to.
const ASKED_PAUSE: Duration = Duration::from_millis(20);
/// A session's asking has the watcher asked no sooner than this after it did, in microseconds; until then its answer comes with
/// the next look.
const ASK_US: u64 = 1_000_000;
/// Processes that it tells of at most.
const PROCESSES_MAX: usize = 4096;
/// Bytes of a line at most.
const LINE_MAX: usize = 256 * 1024;
/// A watcher that says nothing for so long hangs, in microseconds.
const SILENCE_US: u64 = 60_000_000;
/// What a look found is known for so long, in microseconds: a driver that hangs is not taken at its last word.
const KNOWN_US: u64 = 10_000_000;
/// How long to wait before the next watcher is started; twice as long after each that did not last.
const PAUSE_MIN_US: u64 = 1_000_000;
const PAUSE_MAX_US: u64 = 60_000_000;
/// An executor is told of its memory when that has changed by more, in bytes.
const WORTH_TELLING: u64 = 1 << 20;

/// What the watcher finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Finding {
    /// A look, which began at that time of the host's monotonic clock: by UUID, the GPUs and MIG instances that answer.
    Look {
        at_us: u64,
        gpus: BTreeMap<String, Seen>,
    },
    /// What a look finds that was asked for, which began at that time: by UUID, the processes.
    Memory {
        at_us: u64,
        gpus: BTreeMap<String, Processes>,
    },
    /// An Xid of a GPU.
    Xid { gpu: String, number: u64 },
    /// The last word: it cannot go on, and why.
    Failed { why: String },
}

/// The processes on a GPU with their memory in bytes, where that can be told.
type Processes = Option<Vec<(u32, u64)>>;

/// What a look finds of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    processes: Processes,
    readings: GpuReadings,
    measured: GpuMeasured,
}

/// Watches the GPUs for a parent process, until that ends.
pub fn watch_for_parent(library: &Path) -> ExitCode {
    // Else the pipe ends it with the next line.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        log::debug!("the end of the parent is not signalled: {error}");
    }
    match watch(library) {
        Ok(never) => match never {},
        Err(error) => {
            let why = format!("{error:#}");
            // Nobody may listen any longer, and then nobody need know.
            if let Err(error) = say(&Finding::Failed { why }) {
                log::debug!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn watch(library: &Path) -> Result<std::convert::Infallible> {
    // For as long as this process lives, whatever its threads do.
    let nvml: &'static Nvml = Box::leak(Box::new(inventory::open(library)?));
    std::thread::Builder::new()
        .name("asked".to_owned())
        .spawn(|| look_when_asked(nvml))?;
    let events = xid_events(nvml)
        .inspect_err(|error| log::warn!("NVML tells of no Xids: {error}"))
        .ok();
    let mut next = Instant::now();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            say(&look(nvml)?)?;
            next = Instant::now() + LOOK;
            continue;
        }
        let event = match &events {
            Some(events) => events.wait(left.as_millis() as u32 + 1),
            None => Err(NvmlError::NotSupported),
        };
        match event {
            Ok(event) => {
                if let (Ok(gpu), Some(XidError::Value(number))) = (event.device.uuid(), event.event_data) {
                    say(&Finding::Xid { gpu, number })?;
                }
            }
            Err(NvmlError::Timeout) => {}
            // It may fail at once, as when a GPU is lost.
            Err(_) => std::thread::sleep(left),
        }
    }
}

/// Looks for the memory of processes whenever that is asked for, until nobody can ask any longer.
fn look_when_asked(nvml: &Nvml) {
    let mut asked = [0; 1024];
    // Whoever asked before it begins is answered by one look.
    while matches!(std::io::stdin().read(&mut asked), Ok(1..)) {
        if let Err(error) = look_at_memory(nvml).and_then(|finding| say(&finding)) {
            // The next look of the other thread fails as well, and says why.
            log::debug!("a look that was asked for: {error:#}");
        }
        std::thread::sleep(ASKED_PAUSE);
    }
}

fn look_at_memory(nvml: &Nvml) -> Result<Finding> {
    let at_us = monotonic_us();
    let mut gpus = BTreeMap::new();
    let mut left = PROCESSES_MAX;
    for found in inventory::devices(nvml, |_, _| {})? {
        if let Ok(uuid) = found.device.uuid() {
            gpus.insert(uuid, processes(&found, &mut left));
        }
    }
    Ok(Finding::Memory { at_us, gpus })
}

/// The Xids of all GPUs that can tell of them.
fn xid_events(nvml: &Nvml) -> Result<EventSet<'_>, NvmlError> {
    let mut events = nvml.create_event_set()?;
    for found in inventory::devices(nvml, |_, _| {})? {
        let can = |device: &nvml_wrapper::Device<'_>| {
            let types = device.supported_event_types();
            types.is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR))
        };
        if !found.instance && can(&found.device) {
            let registered = found
                .device
                .register_events(EventTypes::CRITICAL_XID_ERROR, events);
            events = registered.map_err(|error| error.error)?;
        }
    }
    Ok(events)
}

fn look(nvml: &Nvml) -> Result<Finding> {
    let at_us = monotonic_us();
    let mut gpus = BTreeMap::new();
    let mut left = PROCESSES_MAX;
    for found in inventory::devices(nvml, |_, _| {})? {
        // One that does not answer now is lost.
        let Ok(uuid) = found.device.uuid() else { continue };
        let readings = inventory::readings(&found.device);
        let seen = Seen {
            processes: processes(&found, &mut left),
            measured: inventory::measured(&found.device, &readings),
            readings,
        };
        gpus.insert(uuid, seen);
    }
    Ok(Finding::Look { at_us, gpus })
}

/// Microseconds on the host's monotonic clock, which is the same for all processes.
pub(crate) fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// The memory of the processes on a GPU, those that share it through MPS included; `None` if it cannot be told, or there are
/// more than are left to be told of.
fn processes(found: &Found<'_>, left: &mut usize) -> Processes {
    // They are its instances'.
    if found.divided {
        return None;
    }
    let mut all = by_pid(found.device.running_compute_processes().ok()?)?;
    // Older libraries cannot tell them apart.
    let of_mps = found.device.mps_running_compute_processes();
    for (pid, bytes) in by_pid(of_mps.unwrap_or_default())? {
        // A process may be in both lists, with all its memory.
        let most = all.entry(pid).or_default();
        *most = bytes.max(*most);
    }
    *left = left.checked_sub(all.len())?;
    Some(all.into_iter().collect())
}

fn by_pid(processes: Vec<ProcessInfo>) -> Option<BTreeMap<u32, u64>> {
    let mut memory = BTreeMap::new();
    // One that cannot be seen from here has no pid.
    for process in processes.into_iter().filter(|process| process.pid != 0) {
        let UsedGpuMemory::Used(bytes) = process.used_gpu_memory else {
            return None;
        };
        let sum: &mut u64 = memory.entry(process.pid).or_default();
        *sum = sum.saturating_add(bytes);
    }
    Some(memory)
}

fn say(finding: &Finding) -> Result<()> {
    let line = line(finding)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("nobody listens")
}

fn line(finding: &Finding) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(finding)?;
    line.push(b'\n');
    Ok(line)
}

/// The watcher as `vgpud` knows it.
pub(crate) struct Watcher {
    running: Option<Running>,
    /// When to start one, if none runs.
    start_us: u64,
    pause_us: u64,
    /// It was said that the GPUs are not watched, and none has looked since.
    failing: bool,
    told: BTreeMap<Session, Told>,
    /// What was measured when it looked last, by UUID.
    measured: BTreeMap<String, (GpuReadings, GpuMeasured)>,
    /// Until when that is known.
    known_us: u64,
}

struct Running {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    token: u64,
    lines: Lines,
    since_us: u64,
    heard_us: u64,
    /// The GPUs that answered when it looked last.
    gpus: BTreeSet<String>,
}

/// What the executor of a session was told of its memory.
#[derive(Debug, Default)]
struct Told {
    /// By GPU.
    bytes: Vec<u64>,
    /// When, on the host's monotonic clock.
    at_us: u64,
    /// It is to be told once more: what it counts itself may have changed since the look before.
    again: bool,
    /// When it asked, if it was not told since what was seen later.
    asked_us: Option<u64>,
    /// When the watcher was last asked on its behalf.
    had_asked_us: Option<u64>,
}

impl Told {
    /// The memory that was seen at one time; whether it is to be told now, at another.
    fn is_to_be_told(&mut self, bytes: &[u64], seen_us: u64, now_us: u64) -> bool {
        let before = self.bytes.iter().copied().chain(std::iter::repeat(0));
        let is_news = bytes
            .iter()
            .zip(before)
            .any(|(now, before)| now.abs_diff(before) > WORTH_TELLING);
        let is_asked = self.asked_us.is_some_and(|at_us| at_us <= seen_us);
        // What was seen before it was last told says nothing new.
        if seen_us <= self.at_us || !(is_news || self.again || is_asked) {
            return false;
        }
        self.bytes = bytes.to_vec();
        self.at_us = now_us;
        self.again = is_news;
        self.asked_us = self.asked_us.filter(|_| !is_asked);
        true
    }

    /// It asks; whether the watcher is to be asked at once.
    fn asks(&mut self, now_us: u64) -> bool {
        self.asked_us = Some(now_us);
        let at_once = self.had_asked_us.is_none_or(|at_us| at_us + ASK_US <= now_us);
        if at_once {
            self.had_asked_us = Some(now_us);
        }
        at_once
    }
}

impl Watcher {
    /// None runs yet.
    pub(crate) fn new() -> Self {
        Self {
            running: None,
            start_us: 0,
            pause_us: PAUSE_MIN_US,
            failing: false,
            told: BTreeMap::new(),
            measured: BTreeMap::new(),
            known_us: 0,
        }
    }

    /// Whether one runs, and has found GPUs.
    pub(crate) fn looks(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| !running.gpus.is_empty())
    }

    /// What a GPU has measured lately: for its VMs, and for operators.
    pub(crate) fn measured(&self, uuid: &str, now_us: u64) -> (GpuReadings, GpuMeasured) {
        let known = self.measured.get(uuid).filter(|_| now_us < self.known_us);
        known.copied().unwrap_or_default()
    }

    /// What a look has found, at that time.
    fn look(&mut self, gpus: &BTreeMap<String, Seen>, now_us: u64) {
        let measured = |(uuid, seen): (&String, &Seen)| (uuid.clone(), (seen.readings, seen.measured));
        self.measured = gpus.iter().map(measured).collect();
        self.known_us = now_us + KNOWN_US;
    }

    /// When [`Daemon::tend_watcher`] has something to do.
    pub(crate) fn next_us(&self) -> u64 {
        match &self.running {
            Some(running) => running.heard_us + SILENCE_US,
            None => self.start_us,
        }
    }

    /// A session is over, or its executor is another one.
    pub(crate) fn forget(&mut self, session: Session) {
        self.told.remove(&session);
    }

    /// When to start the next one, after one that ran so long.
    fn pause(&mut self, now_us: u64, ran_us: u64) {
        if ran_us >= PAUSE_MAX_US {
            self.pause_us = PAUSE_MIN_US;
        }
        self.start_us = now_us + self.pause_us;
        self.pause_us = (self.pause_us * 2).min(PAUSE_MAX_US);
    }
}

impl Daemon {
    /// Starts the watcher if none runs, and gives one up that hangs.
    pub(crate) fn tend_watcher(&mut self) {
        let now_us = self.now_us();
        if self.watcher.next_us() > now_us {
            return;
        }
        if self.watcher.running.is_some() {
            return self.end_watcher("the process that watches them says nothing");
        }
        match self.start_watcher(now_us) {
            Ok(running) => self.watcher.running = Some(running),
            Err(error) => self.not_watched(&format!("{error:#}"), 0),
        }
    }

    /// There is no watcher for a while, after one that ran so long. That is said once, however often another one is tried.
    fn not_watched(&mut self, why: &str, ran_us: u64) {
        let now_us = self.now_us();
        self.watcher.pause(now_us, ran_us);
        let level = match std::mem::replace(&mut self.watcher.failing, true) {
            false => log::Level::Warn,
            true => log::Level::Debug,
        };
        log::log!(
            level,
            "the GPUs are not watched: {why}; this is tried again until they are"
        );
    }

    fn start_watcher(&mut self, now_us: u64) -> Result<Running> {
        // Also finds this program after its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        command.arg(WATCH).arg(&self.library);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        rustix::io::ioctl_fionbio(&input, true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Running {
            child,
            input,
            token: self.poller.add(&output, Source::Watcher)?,
            output,
            lines: Lines::new(LINE_MAX),
            since_us: now_us,
            heard_us: now_us,
            gpus: BTreeSet::new(),
        })
    }

    /// Reads what the watcher says.
    pub(crate) fn serve_watcher(&mut self) {
        let now_us = self.now_us();
        let Some(running) = &mut self.watcher.running else {
            return;
        };
        let mut bytes = [0; 16 * 1024];
        let read = match running.output.read(&mut bytes) {
            Ok(0) => return self.end_watcher("the process that watches them has ended"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => return self.end_watcher(&error.to_string()),
        };
        running.heard_us = now_us;
        for line in running.lines.push(&bytes[..read]) {
            match serde_json::from_slice(&line) {
                Ok(finding) => self.found_by_watcher(finding),
                Err(error) => {
                    return self
                        .end_watcher(&format!("the process that watches them speaks nonsense: {error}"));
                }
            }
        }
    }

    fn end_watcher(&mut self, why: &str) {
        let Some(running) = self.watcher.running.take() else {
            return;
        };
        self.poller.remove(&running.output, running.token);
        self.watcher.measured.clear();
        self.put_away(running.child);
        let told = self.watcher.told.iter_mut();
        let asked = told.filter_map(|(session, told)| told.asked_us.take().map(|_| *session));
        for session in asked.collect::<Vec<_>>() {
            self.memory_not_known(session);
        }
        self.not_watched(why, self.now_us() - running.since_us);
    }

    fn found_by_watcher(&mut self, finding: Finding) {
        match finding {
            Finding::Look { at_us, gpus } => {
                let uuids: BTreeSet<String> = gpus.keys().cloned().collect();
                self.compare_with_inventory(uuids);
                self.watcher.look(&gpus, self.now_us());
                let processes = |(uuid, seen): (String, Seen)| (uuid, seen.processes);
                self.tell_memory(at_us, gpus.into_iter().map(processes).collect());
                self.sample_use();
            }
            Finding::Memory { at_us, gpus } => self.tell_memory(at_us, gpus),
            Finding::Xid { gpu, number } => self.reported(&gpu, number),
            Finding::Failed { why } => self.end_watcher(&why),
        }
    }

    /// Has the GPUs listed if they are others than before and than those that are known.
    fn compare_with_inventory(&mut self, uuids: BTreeSet<String>) {
        let Some(running) = &mut self.watcher.running else {
            return;
        };
        if running.gpus.is_empty() {
            let level = match std::mem::take(&mut self.watcher.failing) {
                true => log::Level::Info,
                false => log::Level::Debug,
            };
            log::log!(level, "the GPUs are watched");
        }
        // What the list then says counts: it may leave out a GPU that answers here, but is made once.
        if running.gpus != uuids {
            let is_news = !self.inventory.are_present(&uuids);
            running.gpus = uuids;
            if is_news && self.scan_on.contains(&ScanOn::Change) {
                self.look_again();
            }
        }
    }

    /// An executor asks what the driver accounts to it. Nobody waits for what is not watched.
    pub(crate) fn memory_asked(&mut self, session: Session) {
        let Some(running) = &mut self.watcher.running else {
            return self.memory_not_known(session);
        };
        if !self.watcher.told.entry(session).or_default().asks(monotonic_us()) {
            return;
        }
        // Where it cannot be written, it has been asked already, or ends.
        if let Err(error) = running.input.write(&[0]) {
            log::debug!("the process that watches the GPUs is not asked: {error}");
        }
    }

    fn memory_not_known(&mut self, session: Session) {
        let (bytes, asked) = (Vec::new(), true);
        self.order(session, &ToExec::MemoryInUse { bytes, asked }, None);
    }

    /// Tells executors what the driver accounts to them, as was seen at that time.
    fn tell_memory(&mut self, seen_us: u64, gpus: BTreeMap<String, Processes>) {
        let by_pid = |processes: Vec<(u32, u64)>| processes.into_iter().collect();
        let gpus: BTreeMap<String, BTreeMap<u32, u64>> = gpus
            .into_iter()
            .filter_map(|(uuid, processes)| Some((uuid, by_pid(processes?))))
            .collect();
        let now_us = monotonic_us();
        let mut news = Vec::new();
        for (session, live) in &self.sessions {
            let Some(placed) = self.placed.get(session) else {
                continue;
            };
            let told = self.watcher.told.entry(*session).or_default();
            let on = |(place, uuid): (usize, &String)| match gpus.get(uuid) {
                // No process has the pid of an executor whose pid is not known.
                Some(by_pid) => by_pid.get(&live.exec_pid).copied().unwrap_or(0),
                None => told.bytes.get(place).copied().unwrap_or(0),
            };
            let bytes: Vec<u64> = placed.gpus.iter().enumerate().map(on).collect();
            let asked = told.asked_us.is_some();
            if told.is_to_be_told(&bytes, seen_us, now_us) {
                let is_said = placed.gpus.iter().any(|uuid| gpus.contains_key(uuid));
                let bytes = if is_said { bytes } else { Vec::new() };
                let asked = asked && told.asked_us.is_none();
                news.push((*session, ToExec::MemoryInUse { bytes, asked }));
            }
        }
        for (session, order) in news {
            self.order(session, &order, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_watcher_lasts() {
        let mut watcher = Watcher::new();
        assert_eq!(watcher.next_us(), 0);
        let mut pauses = |ran_us| {
            watcher.pause(5, ran_us);
            watcher.next_us() - 5
        };
        assert_eq!([0, 3, 0].map(&mut pauses), [1, 2, 4].map(|s| s * 1_000_000));
        for _ in 0..10 {
            pauses(0);
        }
        assert_eq!(pauses(0), PAUSE_MAX_US);
        assert_eq!([PAUSE_MAX_US, 0].map(&mut pauses), [1, 2].map(|s| s * 1_000_000));
    }

    #[test]
    fn memory_is_told_when_it_has_changed_and_once_more() {
        let mut told = Told::default();
        let (little, much) = (WORTH_TELLING, 5 * WORTH_TELLING);
        assert!(!told.is_to_be_told(&[little, 0], 1, 2), "too little");
        assert!(told.is_to_be_told(&[little, much], 3, 4));
        // Seen before that was told.
        assert!(!told.is_to_be_told(&[much, 0], 4, 5));
        assert!(told.is_to_be_told(&[little, much], 6, 7));
        assert!(!told.is_to_be_told(&[little, much], 8, 9));
        assert!(told.is_to_be_told(&[0, 0], 10, 11));
        assert!(told.is_to_be_told(&[0, 0], 12, 13));
        assert!(!told.is_to_be_told(&[0, little], 14, 15));
    }

    /// As much as can be known.
    fn measured(temperature: u32) -> GpuMeasured {
        GpuMeasured {
            temperature: Some(temperature),
            power_mw: Some(u32::MAX),
            power_limit_mw: Some(u32::MAX),
            utilisation: Some(100),
            memory_utilisation: Some(100),
            memory_used: Some(u64::MAX),
            memory_total: Some(u64::MAX),
            sm_clock_mhz: Some(u32::MAX),
            memory_clock_mhz: Some(u32::MAX),
            ecc: Some(false),
            ecc_volatile: Some(u64::MAX),
            ecc_aggregate: Some(u64::MAX),
            mig: Some(false),
        }
    }

    #[test]
    fn what_is_measured_is_known_for_a_while() {
        let mut watcher = Watcher::new();
        let seen = Seen {
            processes: None,
            readings: GpuReadings::default(),
            measured: measured(31),
        };
        assert_eq!(watcher.measured("GPU-a", 0), Default::default());
        watcher.look(&BTreeMap::from([("GPU-a".to_owned(), seen)]), 5);
        let of = |uuid, at| watcher.measured(uuid, at).1.temperature;
        assert_eq!(of("GPU-a", KNOWN_US), Some(31));
        assert_eq!(of("GPU-b", KNOWN_US), None);
        assert_eq!(of("GPU-a", KNOWN_US + 5), None);
    }

    #[test]
    fn who_asks_is_told_what_is_seen_from_then_on() {
        let mut told = Told::default();
        assert!(told.asks(10));
        assert!(!told.is_to_be_told(&[0], 9, 11), "seen before");
        assert!(told.is_to_be_told(&[0], 10, 12));
        assert!(!told.is_to_be_told(&[0], 13, 14), "it was told");
        // The driver is not kept busy, and the answer comes with the next look.
        assert!(!told.asks(9 + ASK_US));
        assert!(told.is_to_be_told(&[0], 20 + ASK_US, 21 + ASK_US));
        assert!(told.asks(10 + ASK_US));
    }

    #[test]
    fn a_finding_is_a_line() {
        let seen = |processes| Seen {
            processes,
            readings: GpuReadings {
                temperature: Some(31),
                ..GpuReadings::default()
            },
            measured: measured(31),
        };
        let finding = Finding::Look {
            at_us: 3,
            gpus: BTreeMap::from([
                ("GPU-a".to_owned(), seen(Some(vec![(7, 1 << 40)]))),
                ("GPU-b".to_owned(), seen(None)),
            ]),
        };
        let line = line(&finding).unwrap();
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(
            text.starts_with("{\"type\":\"look\",\"at_us\":3,\"gpus\":{"),
            "{text}"
        );
        assert!(
            text.contains("\"processes\":[[7,1099511627776]]") && text.ends_with("}\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        assert_eq!(serde_json::from_slice::<Finding>(&line).unwrap(), finding);
        // As many processes as there may be fit.
        let gpu = |number| format!("MIG-00000000-0000-0000-0000-{number:012}");
        let mut gpus: BTreeMap<_, _> = (0..100).map(|n| (gpu(n), seen(None))).collect();
        gpus.insert(gpu(100), seen(Some(vec![(u32::MAX, u64::MAX); PROCESSES_MAX])));
        let most = Finding::Look {
            at_us: u64::MAX,
            gpus,
        };
        assert!(serde_json::to_vec(&most).unwrap().len() < LINE_MAX);
    }
}
