//! Watching the GPUs. A process of its own asks NVML all the time, since the driver may hang or crash; it writes a line of
//! JSON for each thing it finds.
use crate::daemon::Daemon;
use crate::inventory::{self, Found};
use crate::lines::Lines;
use crate::poller::Source;
use anyhow::{Context, Result};
use nvml_wrapper::EventSet;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::ToExec;
use vgpu_sched_core::Session;

/// This program's first argument when it is to watch the GPUs; the second one is NVML's library.
pub const WATCH: &str = "--watch-gpus";
/// How often the watcher looks.
const LOOK: Duration = Duration::from_secs(1);
/// Processes on a GPU that it tells of at most.
const PROCESSES_MAX: usize = 4096;
/// Bytes of a line at most.
const LINE_MAX: usize = 256 * 1024;
/// A watcher that says nothing for so long hangs, in microseconds.
const SILENCE_US: u64 = 60_000_000;
/// How long to wait before the next watcher is started; twice as long after each that did not last.
const PAUSE_MIN_US: u64 = 1_000_000;
const PAUSE_MAX_US: u64 = 60_000_000;
/// An executor is told of its memory when that has changed by more, in bytes.
const WORTH_TELLING: u64 = 1 << 20;

/// What the watcher finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Finding {
    /// The UUIDs of the GPUs and MIG instances that answer; with every look.
    Gpus { uuids: BTreeSet<String> },
    /// The processes on a GPU with their memory in bytes, by pid; with every look.
    Memory { gpu: String, processes: Vec<(u32, u64)> },
    /// An Xid of a GPU.
    Xid { gpu: String, number: u64 },
}

/// Watches the GPUs for a parent process, until that ends.
pub fn watch_for_parent(library: &Path) -> ExitCode {
    // Else the pipe ends it with the next line.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        log::debug!("the end of the parent is not signalled: {error}");
    }
    match watch(library, &mut std::io::stdout().lock()) {
        Ok(never) => match never {},
        Err(error) => {
            log::warn!("the GPUs are not watched any longer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch(library: &Path, out: &mut impl Write) -> Result<std::convert::Infallible> {
    let nvml = inventory::open(library)?;
    let events = xid_events(&nvml)
        .inspect_err(|error| log::warn!("NVML tells of no Xids: {error}"))
        .ok();
    let mut next = Instant::now();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            look(&nvml, out)?;
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
                    say(out, &Finding::Xid { gpu, number })?;
                }
            }
            Err(NvmlError::Timeout) => {}
            // It may fail at once, as when a GPU is lost.
            Err(_) => std::thread::sleep(left),
        }
    }
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

fn look(nvml: &Nvml, out: &mut impl Write) -> Result<()> {
    let mut uuids = BTreeSet::new();
    for found in inventory::devices(nvml, |_, _| {})? {
        // One that does not answer now is lost.
        let Ok(uuid) = found.device.uuid() else { continue };
        uuids.insert(uuid.clone());
        if !found.divided {
            say(
                out,
                &Finding::Memory {
                    gpu: uuid,
                    processes: processes(&found),
                },
            )?;
        }
    }
    say(out, &Finding::Gpus { uuids })
}

/// The memory of the processes on a GPU, those that share it through MPS included.
fn processes(found: &Found<'_>) -> Vec<(u32, u64)> {
    let running = found.device.running_compute_processes().unwrap_or_default();
    let of_mps = found.device.mps_running_compute_processes().unwrap_or_default();
    let memory = |processes: Vec<nvml_wrapper::struct_wrappers::device::ProcessInfo>| {
        let mut memory = BTreeMap::new();
        for process in processes {
            if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
                let sum: &mut u64 = memory.entry(process.pid).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        memory
    };
    let mut all = memory(running);
    for (pid, bytes) in memory(of_mps) {
        // A process may be in both lists, with all its memory.
        let most = all.entry(pid).or_default();
        *most = bytes.max(*most);
    }
    all.into_iter().take(PROCESSES_MAX).collect()
}

fn say(out: &mut impl Write, finding: &Finding) -> Result<()> {
    let mut line = serde_json::to_vec(finding)?;
    line.push(b'\n');
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("nobody listens")
}

/// The watcher as `vgpud` knows it.
pub(crate) struct Watcher {
    running: Option<Running>,
    /// When to start one, if none runs.
    start_us: u64,
    pause_us: u64,
    /// What the driver says of the executors' memory.
    memory: BTreeMap<Session, Memory>,
}

struct Running {
    child: Child,
    output: ChildStdout,
    token: u64,
    lines: Lines,
    since_us: u64,
    heard_us: u64,
    /// The GPUs that answered when it looked last.
    gpus: BTreeSet<String>,
}

/// A session's memory by GPU, in bytes, and what its executor was told of it.
struct Memory {
    bytes: Vec<u64>,
    told: Vec<u64>,
}

impl Watcher {
    /// None runs yet.
    pub(crate) fn new() -> Self {
        Self {
            running: None,
            start_us: 0,
            pause_us: PAUSE_MIN_US,
            memory: BTreeMap::new(),
        }
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
        self.memory.remove(&session);
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
            return self.end_watcher("it says nothing");
        }
        match self.start_watcher(now_us) {
            Ok(running) => self.watcher.running = Some(running),
            Err(error) => {
                log::warn!("the GPUs cannot be watched: {error:#}");
                self.watcher.pause(now_us, 0);
            }
        }
    }

    fn start_watcher(&mut self, now_us: u64) -> Result<Running> {
        // Also finds this program after its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        command.arg(WATCH).arg(&self.library);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no pipe")?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Running {
            child,
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
            Ok(0) => return self.end_watcher("it has ended"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => return self.end_watcher(&error.to_string()),
        };
        running.heard_us = now_us;
        for line in running.lines.push(&bytes[..read]) {
            match serde_json::from_slice(&line) {
                Ok(finding) => self.found_by_watcher(finding),
                Err(error) => return self.end_watcher(&format!("it speaks nonsense: {error}")),
            }
        }
    }

    fn end_watcher(&mut self, why: &str) {
        let Some(running) = self.watcher.running.take() else {
            return;
        };
        self.poller.remove(&running.output, running.token);
        self.put_away(running.child);
        let now_us = self.now_us();
        self.watcher.pause(now_us, now_us - running.since_us);
        let pause_s = (self.watcher.start_us - now_us) / 1_000_000;
        log::warn!("the process that watches the GPUs: {why}; another one starts in {pause_s} s");
    }

    fn found_by_watcher(&mut self, finding: Finding) {
        match finding {
            Finding::Gpus { uuids } => {
                let Some(running) = &mut self.watcher.running else {
                    return;
                };
                if running.gpus.is_empty() {
                    log::debug!("the GPUs are watched");
                }
                // What a look then finds counts: it may see a GPU otherwise, but is made once.
                if running.gpus != uuids {
                    let is_news = !self.inventory.are_present(&uuids);
                    running.gpus = uuids;
                    if is_news {
                        self.look_again();
                    }
                }
            }
            Finding::Memory { gpu, processes } => self.tell_memory(&gpu, &processes),
            Finding::Xid { gpu, number } => self.reported(&gpu, number),
        }
    }

    /// Tells executors what the driver accounts to them on a GPU.
    fn tell_memory(&mut self, gpu: &str, processes: &[(u32, u64)]) {
        let mut by_pid: BTreeMap<u32, u64> = processes.iter().copied().collect();
        // That of executors whose pid is not known.
        by_pid.remove(&0);
        let mut news = Vec::new();
        for (session, live) in &self.sessions {
            let Some(placed) = self.placed.get(session) else {
                continue;
            };
            let Some(place) = placed.gpus.iter().position(|uuid| uuid == gpu) else {
                continue;
            };
            let new = || Memory {
                bytes: vec![0; placed.gpus.len()],
                told: vec![0; placed.gpus.len()],
            };
            let memory = self.watcher.memory.entry(*session).or_insert_with(new);
            let (Some(bytes), Some(told)) = (memory.bytes.get_mut(place), memory.told.get(place)) else {
                continue;
            };
            *bytes = by_pid.get(&live.exec_pid).copied().unwrap_or(0);
            if bytes.abs_diff(*told) > WORTH_TELLING {
                memory.told = memory.bytes.clone();
                news.push((*session, memory.bytes.clone()));
            }
        }
        for (session, bytes) in news {
            self.order(session, &ToExec::MemoryInUse { bytes }, None);
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
    fn a_finding_is_a_line() {
        let mut line = Vec::new();
        let finding = Finding::Memory {
            gpu: "GPU-a".to_owned(),
            processes: vec![(7, 1 << 40)],
        };
        say(&mut line, &finding).unwrap();
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            "{\"type\":\"memory\",\"gpu\":\"GPU-a\",\"processes\":[[7,1099511627776]]}\n"
        );
        assert_eq!(serde_json::from_slice::<Finding>(&line).unwrap(), finding);
        // As many processes as there may be fit.
        let most = Finding::Memory {
            gpu: "MIG-00000000-0000-0000-0000-000000000000".to_owned(),
            processes: vec![(u32::MAX, u64::MAX); PROCESSES_MAX],
        };
        assert!(serde_json::to_vec(&most).unwrap().len() < LINE_MAX);
    }
}
