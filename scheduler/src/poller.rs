//! Waiting for descriptors and for the time.
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use vgpu_sched_core::Session;

/// The timer's token. It needs no source: that the wait is over says it all.
const TIMER: u64 = 0;

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// New clients.
    Listener,
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Reload,
    /// What a look at the GPUs has found.
    Look,
    /// What the watcher of the GPUs says.
    Watcher,
    /// The kernel's log.
    KernelLog,
    /// Something was done by [`crate::hardstop`].
    HardStops,
    /// Something was done by [`crate::store`].
    Store,
    /// A client of the control socket.
    Client(u64),
    /// A session's executor, with the number of its attachment.
    Executor(Session, u64),
    /// The end of a session's executor.
    Death(Session, u64),
}

/// Descriptors being waited for.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// By the token given to epoll, which is not reused.
    sources: BTreeMap<u64, Source>,
    tokens: u64,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// Waits for nothing yet.
    pub fn new() -> rustix::io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            sources: BTreeMap::new(),
            tokens: TIMER,
            events: Vec::with_capacity(64),
        })
    }

    /// Waits for a descriptor to be readable. Returns what [`Poller::remove`] takes.
    pub fn add(&mut self, fd: impl AsFd, source: Source) -> rustix::io::Result<u64> {
        self.tokens += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(self.tokens), EventFlags::IN)?;
        self.sources.insert(self.tokens, source);
        Ok(self.tokens)
    }

    /// Forgets a descriptor.
    pub fn remove(&mut self, fd: impl AsFd, token: u64) {
        self.sources.remove(&token);
        // It may be shared with a process that keeps it open, so closing ours would not be enough.
        if let Err(error) = epoll::delete(&self.epoll, fd) {
            log::debug!("a descriptor was not waited for: {error}");
        }
    }

    /// Waits until something is readable, or that many microseconds have passed.
    pub fn wait(&mut self, timeout_us: Option<u64>) -> rustix::io::Result<Vec<Source>> {
        // Zero would disarm the timer.
        let us = timeout_us.map_or(0, |us| us.max(1));
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: (us / 1_000_000) as _,
            tv_nsec: (us % 1_000_000 * 1000) as _,
        };
        let times = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)?;
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let sources = self
            .events
            .iter()
            .filter_map(|event| self.sources.get(&event.data.u64()).copied());
        Ok(sources.collect())
    }
}
