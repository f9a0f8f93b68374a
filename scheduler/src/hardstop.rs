//! Stopping a session from here, and resuming it, when its executor does not answer: with the driver's descriptor and the
//! handles that the executor had handed over before.
//!
//! The resource manager does not check whose channels a client names, so an executor that names another's has them stopped.
//! It could as well do that itself: see the threat model. What is handed over is bounded, and nothing is ever asked of a
//! descriptor that is not the driver's control node.
use crate::daemon::{Daemon, name};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use vgpu_sched_api::rm::{
    CHANNELS_MAX, CONTROL_MINOR, Control, DISABLE_CHANNELS, DisableChannels, MAJOR, RM_CONTROL, request,
};
use vgpu_sched_core::{Event, Session, Standing};

/// How long an executor may take to carry out a stop or a resume, in microseconds, before it is done from here.
const PATIENCE_US: u64 = 50_000;
/// The same where it cannot be done from here; then it has failed.
const PATIENCE_ALONE_US: u64 = 2_000_000;
/// A resume that failed is repeated after this long.
const AGAIN_US: u64 = 1_000_000;
/// How long the end of this program may wait for resumes.
const END_WAIT: Duration = Duration::from_secs(1);

/// Clients of the resource manager that a session may hand over.
const CLIENTS_MAX: usize = 64;
/// Channels over all its clients.
const SESSION_CHANNELS_MAX: usize = 1024;
/// Subdevices of a client.
const SUBDEVICES_MAX: usize = 64;
/// What may be to be done for an attachment.
const JOBS_MAX: usize = 16;

/// The resource manager does not know the object: it was freed with its parent.
const GONE: [u32; 2] = [0x33, 0x57];
/// The system call failed: no status of the resource manager's.
const FAILED: u32 = u32::MAX;

/// What an executor handed over for one client.
#[derive(Debug)]
pub(crate) struct Handed {
    fd: OwnedFd,
    client: u32,
    subdevices: Vec<u32>,
    channels: Vec<u32>,
}

/// By client.
pub(crate) type AllHanded = BTreeMap<u32, Arc<Handed>>;

/// An order to stop or to resume that its executor has not carried out yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) stop: bool,
    /// When what is stopped goes on by itself.
    deadman_us: u64,
}

/// What is done from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Stop what runs, for so many microseconds at most.
    Stop { deadman_us: u64 },
    /// Stop what was made while all else is stopped.
    StopNew,
    /// Resume everything.
    Resume,
    /// See whether the driver does what it is asked: resume what is not stopped.
    Try,
}

/// It, for a session.
#[derive(Debug)]
struct Job {
    session: Session,
    attachment: u64,
    handed: Vec<Arc<Handed>>,
    task: Task,
    /// The core's order that it carries out.
    sequence: Option<u64>,
}

/// How the first job of an attachment went.
#[derive(Debug)]
struct Outcome {
    attachment: u64,
    ok: bool,
    took: Duration,
}

/// What is done from here. One thing at a time per attachment, in a thread of its own: the driver may hold a call for long.
pub(crate) struct HardStops {
    sender: Sender<Outcome>,
    receiver: Receiver<Outcome>,
    /// Readable when something is done.
    done: Arc<OwnedFd>,
    /// By attachment: what is being done, and what is to be done after it.
    jobs: BTreeMap<u64, VecDeque<Job>>,
    /// Orders that are not carried out, by when they have waited long enough, and their sequence numbers.
    patience: BTreeMap<(u64, u64), (Session, u64)>,
    /// Sessions that were stopped from here, and when they are resumed.
    stopped: BTreeMap<Session, u64>,
}

impl HardStops {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (sender, receiver) = channel();
        Ok(Self {
            sender,
            receiver,
            done: Arc::new(rustix::event::eventfd(0, flags)?),
            jobs: BTreeMap::new(),
            patience: BTreeMap::new(),
            stopped: BTreeMap::new(),
        })
    }

    /// Readable when something is done.
    pub(crate) fn done(&self) -> &OwnedFd {
        &self.done
    }

    /// Does something, after what is already to be done for its attachment; false if that is too much.
    fn add(&mut self, job: Job) -> bool {
        let attachment = job.attachment;
        let jobs = self.jobs.entry(attachment).or_default();
        if jobs.len() >= JOBS_MAX {
            return false;
        }
        jobs.push_back(job);
        if jobs.len() == 1 {
            self.start(attachment);
        }
        true
    }

    /// Starts what is to be done first.
    fn start(&self, attachment: u64) {
        let Some(job) = self.jobs.get(&attachment).and_then(VecDeque::front) else {
            return;
        };
        let stop = matches!(job.task, Task::Stop { .. } | Task::StopNew);
        let handed = job.handed.clone();
        let (sender, done) = (self.sender.clone(), self.done.clone());
        let finish = move |ok, took| {
            let outcome = Outcome { attachment, ok, took };
            // The daemon has ended if nobody receives it.
            let _ = sender.send(outcome);
            let _ = rustix::io::write(&*done, &1u64.to_ne_bytes());
        };
        let failed = finish.clone();
        let run = move || {
            let start = Instant::now();
            // The driver counts stops: there may be one from here and one of the executor's. More resumes than stops do no harm.
            let times = if stop { 1 } else { 2 };
            let done = |handed: &Arc<Handed>| (0..times).all(|_| disable_all(handed, stop));
            finish(
                handed.iter().filter(|handed| !done(handed)).count() == 0,
                start.elapsed(),
            );
        };
        if let Err(error) = std::thread::Builder::new().name("stop".to_owned()).spawn(run) {
            log::error!("no thread to stop or resume a session: {error}");
            failed(false, Duration::ZERO);
        }
    }
}

impl Daemon {
    /// An executor was ordered to stop, or to resume.
    pub(crate) fn note_order(&mut self, session: Session, sequence: u64, stop: bool, deadman_us: u64) {
        let now_us = self.now_us();
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        live.orders.insert(sequence, Order { stop, deadman_us });
        if stop && let Some(until) = self.hard.stopped.get_mut(&session) {
            *until = now_us.saturating_add(deadman_us);
        }
        let attachment = live.attachment;
        let patience_us = if live.handed.is_empty() {
            PATIENCE_ALONE_US
        } else {
            PATIENCE_US
        };
        let waits = (now_us + patience_us, sequence);
        self.hard.patience.insert(waits, (session, attachment));
        // A stop from here that is still under way would come after the executor's resume.
        if !stop && self.hard.jobs.contains_key(&attachment) {
            self.hard_job(session, Task::Resume, None);
        }
    }

    /// Whether an order that could not be sent is carried out from here, once its time is over.
    pub(crate) fn is_done_from_here(&self, session: Session, sequence: u64) -> bool {
        let live = self.sessions.get(&session);
        live.is_some_and(|live| live.orders.contains_key(&sequence) && !live.handed.is_empty())
    }

    /// How an executor has carried out an order; `None` if that is known already.
    pub(crate) fn order_done(&mut self, session: Session, sequence: u64, ok: bool) -> Option<Order> {
        let live = self.sessions.get_mut(&session)?;
        let order = live.orders.remove(&sequence)?;
        if ok && !order.stop && self.hard.stopped.contains_key(&session) {
            // The driver counts stops: that from here ends only from here. It is known as stopped until that is done.
            self.hard_job(session, Task::Resume, None);
        }
        Some(order)
    }

    /// Takes what an executor hands over, if it is what it should be.
    pub(crate) fn hand_over(
        &mut self,
        session: Session,
        fds: Vec<OwnedFd>,
        client: u32,
        subdevices: Vec<u32>,
        channels: Vec<u32>,
    ) {
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        if channels.is_empty() {
            live.handed.remove(&client);
            return;
        }
        match checked(&live.handed, fds, client, subdevices, channels) {
            Ok(handed) => {
                live.handed.insert(client, Arc::new(handed));
                let has_turn = live.seated || self.core.standing(session) == Some(Standing::Stopped);
                if self.hard.stopped.contains_key(&session) {
                    self.hard_job(session, Task::StopNew, None);
                } else if !has_turn && !self.could_stop(session) {
                    self.hard_job(session, Task::Try, None);
                }
            }
            Err(why) if !live.handed_nonsense => {
                live.handed_nonsense = true;
                log::warn!("{}: what it hands over is refused: {why}", name(session));
            }
            Err(_) => {}
        }
    }

    /// Does what executors had to do and did not in time, and resumes what was stopped from here for long enough.
    pub(crate) fn stop_from_here(&mut self) {
        let now_us = self.now_us();
        while let Some((key, (session, attachment))) =
            self.hard.patience.first_key_value().map(|(k, v)| (*k, *v))
        {
            let (at_us, sequence) = key;
            if at_us > now_us {
                break;
            }
            self.hard.patience.remove(&key);
            if !self.is_attached(session, attachment) {
                continue;
            }
            let Some(order) = self
                .sessions
                .get_mut(&session)
                .and_then(|live| live.orders.remove(&sequence))
            else {
                continue;
            };
            if order.stop && self.hard.stopped.contains_key(&session) {
                // It is stopped from here already, and for longer since the order was given.
                self.feed(Event::OrderDone {
                    session,
                    sequence,
                    ok: true,
                });
                continue;
            }
            let what = if order.stop { "stop" } else { "resume" };
            let task = match order.stop {
                true => Task::Stop {
                    deadman_us: order.deadman_us,
                },
                false => Task::Resume,
            };
            if self.hard_job(session, task, Some(sequence)) {
                log::info!("{}: does not {what}: it is done from here", name(session));
            } else {
                log::warn!(
                    "{}: does not {what}, and it cannot be done from here",
                    name(session)
                );
                self.feed(Event::OrderDone {
                    session,
                    sequence,
                    ok: false,
                });
            }
        }
        let stopped = self.hard.stopped.iter().filter(|(_, until)| **until <= now_us);
        for session in stopped.map(|(session, _)| *session).collect::<Vec<_>>() {
            log::warn!("{}: nobody resumed what was stopped: it goes on", name(session));
            self.hard.stopped.insert(session, now_us + AGAIN_US);
            if !self.hard_job(session, Task::Resume, None) {
                // It has taken back what it handed over: its channels are gone.
                self.hard.stopped.remove(&session);
            }
        }
    }

    /// When [`Daemon::stop_from_here`] has something to do.
    pub(crate) fn next_hard_us(&self) -> Option<u64> {
        let patience = self.hard.patience.keys().next().map(|(at_us, _)| *at_us);
        self.hard.stopped.values().copied().chain(patience).min()
    }

    /// Does something for a session from here; false if that cannot be done.
    fn hard_job(&mut self, session: Session, task: Task, sequence: Option<u64>) -> bool {
        let Some(live) = self.sessions.get(&session) else {
            return false;
        };
        let job = Job {
            session,
            attachment: live.attachment,
            handed: live.handed.values().cloned().collect(),
            task,
            sequence,
        };
        !job.handed.is_empty() && self.hard.add(job)
    }

    /// Takes note of what was done from here.
    pub(crate) fn serve_hard_stops(&mut self) {
        // That something came matters, not what.
        let _ = rustix::io::read(&*self.hard.done, &mut [0u8; 8]);
        while let Ok(outcome) = self.hard.receiver.try_recv() {
            self.hard_stop_done(&outcome);
        }
    }

    fn hard_stop_done(&mut self, outcome: &Outcome) {
        let Outcome { attachment, ok, took } = *outcome;
        let Some(jobs) = self.hard.jobs.get_mut(&attachment) else {
            return;
        };
        let Some(job) = jobs.pop_front() else { return };
        if jobs.is_empty() {
            self.hard.jobs.remove(&attachment);
        } else {
            self.hard.start(attachment);
        }
        let what = match job.task {
            Task::Stop { .. } | Task::StopNew => "stopped",
            Task::Resume => "resumed",
            Task::Try => "reached",
        };
        match ok {
            true => log::debug!("{}: {what} from here in {took:?}", name(job.session)),
            false => log::error!("{}: cannot be {what} from here", name(job.session)),
        }
        if !self.is_attached(job.session, attachment) {
            return;
        }
        if ok {
            self.can_stop(job.session);
        }
        let now_us = self.now_us();
        match job.task {
            // Even if it failed: some of it may stand still.
            Task::Stop { deadman_us } => {
                let until = now_us.saturating_add(deadman_us);
                self.hard.stopped.insert(job.session, until);
            }
            Task::Resume if ok => drop(self.hard.stopped.remove(&job.session)),
            Task::Resume => drop(self.hard.stopped.insert(job.session, now_us + AGAIN_US)),
            Task::StopNew | Task::Try => {}
        }
        if let Some(sequence) = job.sequence {
            self.feed(Event::OrderDone {
                session: job.session,
                sequence,
                ok,
            });
        }
    }

    /// A session is forgotten: what was stopped from here must not stay so, unless its process is gone.
    pub(crate) fn let_go_on(&mut self, session: Session) {
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        let has_ended = || {
            let mut fds = [PollFd::new(&live.pidfd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        };
        let stopped = self.hard.stopped.remove(&session).is_some();
        if stopped && !has_ended() {
            self.hard_job(session, Task::Resume, None);
        }
    }

    /// Resumes all that was stopped from here, and waits for it a little: this program ends.
    pub(crate) fn resume_all(&mut self) {
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.let_go_on(session);
        }
        let until = Instant::now() + END_WAIT;
        while !self.hard.jobs.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(outcome) = self.hard.receiver.recv_timeout(left) else {
                log::error!("what was stopped from here is not resumed in time");
                return;
            };
            self.hard_stop_done(&outcome);
        }
    }
}

/// What is handed over, if it is bounded and the descriptor is the driver's control node.
fn checked(
    others: &AllHanded,
    fds: Vec<OwnedFd>,
    client: u32,
    subdevices: Vec<u32>,
    channels: Vec<u32>,
) -> Result<Handed, String> {
    let [fd] =
        <[OwnedFd; 1]>::try_from(fds).map_err(|fds| format!("{} descriptors, expected one", fds.len()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| format!("its descriptor: {error}"))?;
    let node = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || node != (MAJOR, CONTROL_MINOR) {
        return Err("its descriptor is not the driver's control node".to_owned());
    }
    check_bounds(others, client, &subdevices, &channels)?;
    Ok(Handed {
        fd,
        client,
        subdevices,
        channels,
    })
}

fn check_bounds(others: &AllHanded, client: u32, subdevices: &[u32], channels: &[u32]) -> Result<(), String> {
    let others = others.iter().filter(|(other, _)| **other != client);
    let (clients, of_others) = others.fold((1, 0), |(clients, all), (_, other)| {
        (clients + 1, all + other.channels.len())
    });
    if clients > CLIENTS_MAX {
        return Err(format!("more than {CLIENTS_MAX} clients"));
    }
    if of_others + channels.len() > SESSION_CHANNELS_MAX {
        return Err(format!("more than {SESSION_CHANNELS_MAX} channels"));
    }
    if subdevices.is_empty() || subdevices.len() > SUBDEVICES_MAX {
        return Err(format!(
            "{} subdevices, expected 1 to {SUBDEVICES_MAX}",
            subdevices.len()
        ));
    }
    Ok(())
}

/// Stops all channels of a client, or resumes them.
fn disable_all(handed: &Handed, stop: bool) -> bool {
    let client = handed.client;
    let issue =
        |subdevice, params: &mut DisableChannels| control(handed.fd.as_fd(), client, subdevice, params);
    let chunks = handed.channels.chunks(CHANNELS_MAX);
    let failed = chunks.filter(|some| !disable(&issue, handed, some, stop)).count();
    failed == 0
}

/// Stops some channels, [`CHANNELS_MAX`] at most, or resumes them; those that are gone count as done.
fn disable(
    issue: &impl Fn(u32, &mut DisableChannels) -> Result<(), u32>,
    handed: &Handed,
    channels: &[u32],
    stop: bool,
) -> bool {
    let mut status = FAILED;
    for subdevice in &handed.subdevices {
        let named = channels.iter().map(|channel| (handed.client, *channel));
        match issue(*subdevice, &mut DisableChannels::new(stop, named)) {
            Ok(()) => return true,
            Err(error) => status = error,
        }
    }
    if let [_] = channels {
        return GONE.contains(&status);
    }
    // One of them is gone, perhaps: the others one by one.
    let one_by_one = channels.chunks(1);
    let failed = one_by_one
        .filter(|one| !disable(issue, handed, one, stop))
        .count();
    failed == 0
}

/// Issues the control; its error is the resource manager's status.
fn control(fd: BorrowedFd<'_>, client: u32, subdevice: u32, params: &mut DisableChannels) -> Result<(), u32> {
    let mut call = Control {
        client,
        object: subdevice,
        cmd: DISABLE_CHANNELS,
        flags: 0,
        params: &raw mut *params as u64,
        params_len: size_of::<DisableChannels>() as u32,
        status: 0,
    };
    let request = request(RM_CONTROL, size_of::<Control>());
    // SAFETY: `fd` was seen to be the driver's control node, for which this request takes a `Control`; it and the parameters
    // that it points to have the driver's layout and outlive the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut call) };
    match (result, call.status) {
        (0, 0) => Ok(()),
        (0, status) => Err(status),
        _ => Err(FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn handed(client: u32, subdevices: &[u32], channels: u32) -> Handed {
        Handed {
            // Nothing is asked of it in these tests.
            fd: std::fs::File::open("/dev/null").unwrap().into(),
            client,
            subdevices: subdevices.to_vec(),
            channels: (0..channels).collect(),
        }
    }

    #[test]
    fn only_the_drivers_control_node_is_taken() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let file = || OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        let take = |fds: Vec<OwnedFd>| checked(&AllHanded::new(), fds, 1, vec![2], vec![3]).unwrap_err();
        assert!(take(vec![null()]).contains("control node"));
        assert!(take(vec![file()]).contains("control node"));
        assert!(take(vec![]).contains("0 descriptors"));
        assert!(take(vec![null(), null()]).contains("2 descriptors"));
    }

    #[test]
    fn what_is_handed_over_is_bounded() {
        let mut others = AllHanded::new();
        let long = vec![0; SESSION_CHANNELS_MAX];
        assert!(check_bounds(&others, 1, &[2], &long).is_ok());
        assert!(check_bounds(&others, 1, &[2], &[0; SESSION_CHANNELS_MAX + 1]).is_err());
        assert!(check_bounds(&others, 1, &[], &[1]).is_err());
        assert!(check_bounds(&others, 1, &[0; SUBDEVICES_MAX + 1], &[1]).is_err());
        for client in 0..CLIENTS_MAX as u32 {
            assert!(check_bounds(&others, client, &[2], &[1]).is_ok());
            others.insert(client, Arc::new(handed(client, &[2], 1)));
        }
        assert!(check_bounds(&others, 100, &[2], &[1]).is_err());
        // One that says it anew takes its own place.
        assert!(check_bounds(&others, 7, &[2], &long[CLIENTS_MAX - 1..]).is_ok());
        assert!(check_bounds(&others, 7, &[2], &long[CLIENTS_MAX - 2..]).is_err());
    }

    #[test]
    fn channels_are_stopped_in_one_go_and_those_that_are_gone_do_not_matter() {
        let calls = RefCell::new(Vec::new());
        let with = |gone: &'static [u32], status: u32, handed: &Handed| {
            calls.borrow_mut().clear();
            let issue = |subdevice: u32, params: &mut DisableChannels| {
                let channels: Vec<u32> = params.channels().map(|(_, channel)| channel).collect();
                let fails = subdevice == 8 || channels.iter().any(|channel| gone.contains(channel));
                calls.borrow_mut().push((subdevice, channels.len()));
                if fails { Err(status) } else { Ok(()) }
            };
            disable(&issue, handed, &handed.channels, true)
        };
        let three = handed(1, &[9], 3);
        assert!(with(&[], 0, &three));
        assert_eq!(*calls.borrow(), [(9, 3)]);
        assert!(with(&[1], GONE[1], &three));
        assert_eq!(*calls.borrow(), [(9, 3), (9, 1), (9, 1), (9, 1)]);
        assert!(!with(&[1], 0x1f, &three), "it is there and cannot be stopped");
        assert_eq!(calls.borrow().len(), 4, "the others are stopped all the same");
        // The subdevice is the GPU's on which the channels are.
        assert!(with(&[], GONE[0], &handed(1, &[8, 9], 2)));
        assert_eq!(*calls.borrow(), [(8, 2), (9, 2)]);
        assert!(!with(&[], FAILED, &handed(1, &[8], 1)));
    }

    /// A descriptor that is no driver's refuses, which is an outcome like others: each is told, one after the other.
    #[test]
    fn what_is_to_be_done_is_done_in_order_and_bounded() {
        let mut hard = HardStops::new().unwrap();
        let job = |n: usize| Job {
            session: Session { vm: 1, number: 1 },
            attachment: 5,
            handed: vec![Arc::new(handed(1, &[2], 1))],
            task: Task::Resume,
            sequence: Some(n as u64),
        };
        let added = (0..JOBS_MAX + 3).filter(|n| hard.add(job(*n))).count();
        assert_eq!(added, JOBS_MAX);
        for n in 0..JOBS_MAX {
            let outcome = hard.receiver.recv().unwrap();
            assert_eq!((outcome.attachment, outcome.ok), (5, false));
            let jobs = hard.jobs.get_mut(&5).unwrap();
            assert_eq!(jobs.pop_front().unwrap().sequence, Some(n as u64));
            assert_eq!(jobs.len(), JOBS_MAX - n - 1);
            assert!(hard.receiver.try_recv().is_err(), "one at a time");
            hard.start(5);
        }
        let mut fds = [PollFd::new(hard.done(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, None), Ok(1));
    }
}
