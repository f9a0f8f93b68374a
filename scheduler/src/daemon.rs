//! The event loop around the core.
use crate::admin::Admins;
use crate::arrivals::Arrivals;
use crate::audit::Audit;
use crate::edit;
use crate::gpu_errors::GpuErrors;
use crate::hardstop::{AllHanded, HardStops, Order};
use crate::held::Held;
use crate::history::{History, now_s};
use crate::inventory::{Inventory, News};
use crate::ledger::Ledger;
use crate::limits::Ending;
use crate::page::{Taken, TurnPage};
use crate::poller::{Poller, Source};
use crate::quarantine;
use crate::scan::{Look, ScanOn};
use crate::stats::{Latencies, Statistics};
use crate::store::{Placed, Saved, Store, Usage};
use crate::usage::{self, Books};
use crate::vm_gpus::Busy;
use crate::vm_page::SharedPage;
use crate::watch::Watcher;
use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;
use vgpu_pool_map::PoolMap;
use vgpu_program::service::{self, Heartbeat};
use vgpu_sched_api::messages::{
    Answer, FromExec, GpuRungs, PACKET_LEN_MAX, Policy, Priority, QuarantineStatus, Refusal, Request, ToExec,
    TurnRecord,
};
use vgpu_sched_api::packet::{self, PacketError};
use vgpu_sched_api::turn::State;
use vgpu_sched_core::{Action, Core, End, Event, GpuSet, Level, Pool, Session, Standing};

/// How often usage is written, in microseconds.
const WRITE_US: u64 = 1_000_000;

/// Messages of an executor that has ended which are read at most.
const LAST_WORDS: usize = 64;

/// Clients at the control socket at most: a backend per VM, and tools.
const CLIENTS_MAX: usize = 1024;

/// What the daemon starts with.
pub struct Setup {
    pub config: PathBuf,
    pub map: PoolMap,
    /// What the map was read from.
    pub map_text: String,
    pub inventory: Inventory,
    /// The GPUs that came and went since an earlier run.
    pub news: News,
    /// Why the GPUs could not be listed.
    pub listing_failed: Option<String>,
    /// When they are looked for.
    pub scan_on: Vec<ScanOn>,
    /// NVML's.
    pub library: PathBuf,
    /// The kernel's log.
    pub kmsg: PathBuf,
    pub admins: Admins,
    pub store: Store,
    /// What VMs used and which sessions there were.
    pub saved: Saved,
    pub listener: OwnedFd,
    /// Readable once the program is to end.
    pub terminate: OwnedFd,
    /// Readable once the map is to be read again.
    pub reload: OwnedFd,
}

/// The scheduler and everybody it talks to.
pub struct Daemon {
    pub(crate) config: PathBuf,
    pub(crate) map: PoolMap,
    /// What it was read from, and the version of that.
    pub(crate) map_text: String,
    pub(crate) map_version: String,
    /// The file, if it was compared with that.
    pub(crate) compared: Option<edit::Compared>,
    pub(crate) inventory: Inventory,
    pub(crate) listing_failed: Option<String>,
    pub(crate) library: PathBuf,
    pub(crate) admins: Admins,
    pub(crate) scan_on: Vec<ScanOn>,
    /// The look at the GPUs that is under way.
    pub(crate) look: Option<Look>,
    /// When the last one began.
    pub(crate) looked_us: Option<u64>,
    /// The UUIDs of the GPUs that were there when an administrator who asked was last told.
    pub(crate) told_present: BTreeSet<String>,
    pub(crate) watcher: Watcher,
    pub(crate) gpu_errors: GpuErrors,
    /// Processes that ask NVML, were killed and may not have ended.
    pub(crate) put_away: Vec<Child>,
    pub(crate) core: Core,
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) sessions: BTreeMap<Session, Live>,
    /// The core's numbers of pools, by name; they stay for as long as this program runs.
    pub(crate) pools: BTreeMap<String, Pool>,
    /// The names of pools that are in `vgpu.db`, or were in the map since this program started.
    pub(crate) earlier_pools: BTreeSet<String>,
    pub(crate) ledger: Ledger,
    pub(crate) arrivals: Arrivals,
    pub(crate) statistics: Statistics,
    pub(crate) history: History,
    pub(crate) audit: Audit,
    /// What holds on GPUs, by UUID.
    pub(crate) rungs: BTreeMap<String, GpuRungs>,
    pub(crate) quarantines: BTreeMap<u32, QuarantineStatus>,
    /// When a VM broke its limits lately, in seconds since 1970.
    pub(crate) violations: BTreeMap<u32, VecDeque<u64>>,
    /// Of the VMs that have sessions.
    pub(crate) vm_pages: BTreeMap<u32, SharedPage>,
    /// How busy those are.
    pub(crate) busy: BTreeMap<u32, Busy>,
    pub(crate) hard: HardStops,
    /// Sessions that are to end.
    pub(crate) endings: BTreeMap<Session, Ending>,
    /// Sessions that were opened and are not over.
    pub(crate) placed: BTreeMap<Session, Placed>,
    /// What VMs used before the core knew them, and the calls of their sessions that ended.
    pub(crate) earlier: BTreeMap<u32, Usage>,
    pub(crate) listener: OwnedFd,
    pub(crate) terminate: OwnedFd,
    pub(crate) reload: OwnedFd,
    pub(crate) poller: Poller,
    pub(crate) store: Store,
    /// Answers that wait for it.
    pub(crate) held: Held,
    /// What VMs used and is not written.
    pub(crate) books: Books,
    /// When what they used was last entered there.
    pub(crate) settled_us: u64,
    /// VMs whose usage is to be written, and when it was last.
    pub(crate) unwritten: BTreeSet<u32>,
    pub(crate) written_us: u64,
    /// When what they only held was written last.
    pub(crate) held_written_us: u64,
    /// Sessions whose page is to be looked at.
    pub(crate) watched: BTreeSet<Session>,
    /// Sessions that have a turn and a limit on what they run and are not watched; and when their progress was last looked at.
    pub(crate) limited: BTreeSet<Session>,
    pub(crate) progress_us: u64,
    pub(crate) events: VecDeque<Event>,
    /// What is told to the service manager, and when it was last.
    heartbeat: Option<Heartbeat>,
    beat_us: u64,
    pub(crate) started: Instant,
    pub(crate) clients_so_far: u64,
    pub(crate) attachments: u64,
}

/// Somebody at the control socket.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) token: u64,
    /// The VM whose backend it is.
    pub(crate) vm: Option<u32>,
}

/// An attached session.
pub(crate) struct Live {
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) gpus: GpuSet,
    /// The client that attached it, which may be gone.
    pub(crate) client: u64,
    /// Tells this attachment from an earlier one of the same session.
    pub(crate) attachment: u64,
    pub(crate) page: TurnPage,
    pub(crate) socket: OwnedFd,
    pub(crate) socket_token: u64,
    pub(crate) pidfd: OwnedFd,
    pub(crate) pidfd_token: u64,
    /// The executor's process, 0 if it is not known.
    pub(crate) exec_pid: u32,
    /// It has a turn.
    pub(crate) seated: bool,
    pub(crate) contended: bool,
    /// Its page said idle when last looked at.
    pub(crate) idle: bool,
    /// Orders to stop and to resume that were not confirmed yet.
    pub(crate) orders: BTreeMap<u64, Order>,
    pub(crate) was_stopped: bool,
    /// Its slot in its VM's page.
    pub(crate) slot: usize,
    /// Its turn's number, or the last one's.
    pub(crate) turn: u64,
    /// The turn in which it last broke a limit.
    pub(crate) violated_in: Option<u64>,
    /// Its turn was asked back then, and is not over.
    pub(crate) asked_us: Option<u64>,
    /// The limit on what it runs, and its progress when last looked at.
    pub(crate) kernel_max_us: Option<u64>,
    pub(crate) progress: u64,
    /// What is needed to stop it from here.
    pub(crate) handed: AllHanded,
    /// What it handed over was refused.
    pub(crate) handed_nonsense: bool,
    /// It said that it ends in order.
    pub(crate) leaving: bool,
    /// It has said what holds on its GPU.
    pub(crate) has_proved: bool,
}

impl Live {
    /// Whether its page says that some of its work was done since this was last asked.
    pub(crate) fn has_progressed(&mut self) -> bool {
        let progress = self.page.progress();
        std::mem::replace(&mut self.progress, progress) != progress
    }

    /// What the core is told if its page says idle and nobody saw it.
    pub(crate) fn if_idle(&mut self, session: Session) -> Option<Event> {
        let unseen = self.seated && !self.idle && self.page.state() == State::Idle;
        unseen.then(|| self.idle_seen(session))
    }

    /// Its page says idle: what the core is told of it.
    fn idle_seen(&mut self, session: Session) -> Event {
        self.idle = true;
        let idle_us = self.page.idle_us();
        Event::IdleSeen { session, idle_us }
    }
}

impl Daemon {
    /// Gets ready; nobody is served yet.
    pub fn new(setup: Setup) -> Result<Self> {
        let mut poller = Poller::new().context("epoll")?;
        poller.add(&setup.listener, Source::Listener).context("epoll")?;
        poller.add(&setup.terminate, Source::Terminate).context("epoll")?;
        poller.add(&setup.reload, Source::Reload).context("epoll")?;
        poller.add(setup.store.done(), Source::Store).context("epoll")?;
        let gpu_errors = GpuErrors::new(&setup.kmsg, &setup.saved.events, &mut poller);
        let present = setup.inventory.present().into_iter();
        let told_present = present.map(|gpu| gpu.uuid.clone()).collect();
        let hard = HardStops::new().context("eventfd")?;
        poller.add(hard.done(), Source::HardStops).context("epoll")?;
        let books = Books::new(now_s() / usage::HOUR_S, usage::entered(&setup.saved));
        let mut daemon = Self {
            core: Core::new(setup.map.scheduler),
            config: setup.config,
            map: setup.map,
            map_version: edit::version(&setup.map_text),
            map_text: setup.map_text,
            compared: None,
            inventory: setup.inventory,
            listing_failed: setup.listing_failed,
            library: setup.library,
            admins: setup.admins,
            // Before time began.
            looked_us: setup.scan_on.contains(&ScanOn::Start).then_some(0),
            scan_on: setup.scan_on,
            look: None,
            told_present,
            watcher: Watcher::new(),
            gpu_errors,
            put_away: Vec::new(),
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pools: BTreeMap::new(),
            earlier_pools: setup.saved.pools,
            ledger: Ledger::default(),
            arrivals: Arrivals::default(),
            statistics: Statistics::default(),
            rungs: setup.saved.rungs,
            quarantines: setup.saved.quarantines,
            violations: quarantine::violations(&setup.saved.events),
            history: History::new(setup.saved.events),
            audit: Audit::new(setup.saved.changes),
            vm_pages: BTreeMap::new(),
            busy: BTreeMap::new(),
            hard,
            endings: BTreeMap::new(),
            limited: BTreeSet::new(),
            books,
            placed: setup.saved.sessions,
            earlier: setup.saved.usage,
            listener: setup.listener,
            terminate: setup.terminate,
            reload: setup.reload,
            poller,
            store: setup.store,
            held: Held::default(),
            settled_us: 0,
            unwritten: BTreeSet::new(),
            written_us: 0,
            held_written_us: 0,
            watched: BTreeSet::new(),
            progress_us: 0,
            events: VecDeque::new(),
            heartbeat: None,
            beat_us: 0,
            started: Instant::now(),
            clients_so_far: 0,
            attachments: 0,
        };
        daemon.set_pools();
        daemon.note_news(setup.news, ", which happened while vgpud did not run");
        Ok(daemon)
    }

    /// Serves until the program is to end.
    pub fn run(&mut self) -> Result<()> {
        self.heartbeat = service::ready(&self.doing());
        self.beat_us = self.now_us();
        loop {
            let timeout = self.next_time().map(|at| at.saturating_sub(self.now_us()));
            let sources = self.poller.wait(timeout).context("epoll")?;
            self.begin_hour();
            for source in sources {
                match source {
                    Source::Listener => self.accept(),
                    Source::Terminate => {
                        service::stopping();
                        self.end();
                        return Ok(());
                    }
                    Source::Reload => {
                        drain(&self.reload);
                        self.reload_unasked();
                    }
                    Source::Look => self.serve_look(),
                    Source::Watcher => self.serve_watcher(),
                    Source::KernelLog => self.serve_kernel_log(),
                    Source::HardStops => self.serve_hard_stops(),
                    Source::Store => self.serve_store(),
                    Source::Client(id) => self.serve_client(id),
                    Source::Executor(session, attachment) => self.serve_executor(session, attachment),
                    Source::Death(session, attachment) => {
                        // What it said last counts; behind that its socket is closed.
                        for _ in 0..LAST_WORDS {
                            self.serve_executor(session, attachment);
                        }
                        if self.is_attached(session, attachment) {
                            self.lost(session, "its executor ended");
                        }
                    }
                }
            }
            self.end_late_look();
            self.tend_watcher();
            self.tell_late_errors();
            self.look_at_pages();
            self.stop_from_here();
            self.end_late();
            self.end_quarantines();
            self.tell_late(self.now_us());
            let decides = self.core.deadline().is_some_and(|at| at <= self.now_us());
            // What has got on meanwhile is not late.
            if decides || self.next_progress_us().is_some_and(|at| at <= self.now_us()) {
                self.look_at_progress();
            }
            if decides {
                self.feed(Event::Tick);
            }
            if self.written_us + WRITE_US <= self.now_us() {
                self.write_usage();
            }
            self.beat();
        }
    }

    /// Tells the service manager, where one listens, that this loop goes round.
    fn beat(&mut self) {
        let now_us = self.now_us();
        if self.next_beat_us().is_none_or(|at| at > now_us) {
            return;
        }
        let doing = self.doing();
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.beat(doing);
        }
        self.beat_us = now_us;
    }

    fn next_beat_us(&self) -> Option<u64> {
        let heartbeat = self.heartbeat.as_ref()?;
        Some(self.beat_us + heartbeat.period().as_micros() as u64)
    }

    /// What this program does, in a line.
    fn doing(&self) -> String {
        let (gpus, pools) = (self.inventory.present().len(), self.map.pools.len());
        let sessions = self.sessions.len();
        format!("GPUs: {gpus}, pools: {pools}, sessions: {sessions}")
    }

    /// Microseconds since the start.
    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn next_time(&self) -> Option<u64> {
        let look = (!self.watched.is_empty()).then(|| self.now_us() + self.map.poll_us);
        // Those who have memory use it whatever else they do.
        let used = !self.unwritten.is_empty() || !self.sessions.is_empty();
        let write = used.then_some(self.written_us + WRITE_US);
        let give_up = self.look.as_ref().map(|look| look.until_us);
        let watch = Some(self.watcher.next_us());
        let times = [
            self.core.deadline(),
            look,
            write,
            give_up,
            watch,
            self.gpu_errors.next_us(),
            self.next_progress_us(),
            self.next_hard_us(),
            self.next_ending_us(),
            self.quarantine_ends_us(),
            self.next_beat_us(),
            self.next_late_us(),
            used.then(|| self.hour_ends_us()),
        ];
        times.into_iter().flatten().min()
    }

    /// Lets the core decide on an event, and on what follows from its decisions.
    pub(crate) fn feed(&mut self, event: Event) {
        self.events.push_back(event);
        let mut actions = Vec::new();
        while let Some(event) = self.events.pop_front() {
            if let Event::Want { session } = event
                && self.sessions.contains_key(&session)
            {
                self.arrivals.wanted(session, self.now_us());
            }
            self.core.step(self.now_us(), event, &mut actions);
            for action in actions.drain(..) {
                log::trace!("{action:?}");
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Grant { session } => {
                if let Some(live) = self.sessions.get(&session) {
                    let found = live.page.grant();
                    if found != State::None {
                        log::warn!(
                            "{} had the state {found:?} in its page without a turn",
                            name(session)
                        );
                    }
                }
            }
            Action::TakeIfIdle { session } => {
                self.take(session, TurnPage::take_if_idle);
            }
            Action::AskBack { session } => {
                if self.take(session, TurnPage::ask_back) == Some(Taken::No) {
                    self.asked_back(session);
                }
            }
            Action::SetContended { session, contended } => {
                if let Some(live) = self.sessions.get_mut(&session) {
                    live.contended = contended;
                    live.page.set_contended(contended);
                }
                self.watch(session);
            }
            Action::SetSlice {
                session,
                sequence,
                slice_us,
            } => {
                self.order(
                    session,
                    &ToExec::Slice {
                        sequence,
                        microseconds: slice_us,
                    },
                    Some(sequence),
                );
            }
            Action::SetWindow {
                session,
                operations,
                depth,
            } => {
                self.order(session, &ToExec::Window { operations, depth }, None);
            }
            Action::Stop {
                session,
                sequence,
                deadman_us,
            } => {
                self.log_stop(session);
                self.note_order(session, sequence, true, deadman_us);
                let deadman_ms = deadman_us.div_ceil(1000);
                self.order(session, &ToExec::Stop { sequence, deadman_ms }, Some(sequence));
            }
            Action::Resume { session, sequence } => {
                log::debug!("{}: to be resumed", name(session));
                self.note_order(session, sequence, false, 0);
                self.order(session, &ToExec::Resume { sequence }, Some(sequence));
            }
            Action::Suspend { session } => {
                log::debug!("{}: to be suspended", name(session));
                self.order(session, &ToExec::Suspend, None);
            }
            Action::Reached {
                session,
                limit,
                rung,
                climbed,
            } => self.reached(session, limit, rung, climbed),
            Action::EndSession { session, limit } => self.end_for(session, limit),
            Action::Began {
                session,
                turn,
                level,
                waited_us,
            } => {
                let now_us = self.now_us();
                let Some(live) = self.sessions.get_mut(&session) else {
                    return;
                };
                live.seated = true;
                live.idle = false;
                live.turn = turn;
                let gpus = live.gpus;
                let uuids = self.inventory.uuids(gpus);
                for gpu in gpus.iter() {
                    self.statistics.turn(gpu, session);
                }
                self.statistics.vm(session.vm).turn_wait.record(waited_us, 1);
                self.books.waited(session.vm, waited_us);
                let treated = self.treated(session, gpus);
                self.arrivals.began(session, now_us, waited_us, treated);
                self.ledger.begin(TurnRecord {
                    number: turn,
                    vm: session.vm,
                    session: session.number,
                    gpu: uuids.join(","),
                    priority: treated.priority,
                    policy: treated.policy,
                    level: (treated.policy == Policy::Priority).then(|| priority(level)),
                    granted_us: now_us,
                    waited_us,
                    held_us: None,
                    end: None,
                });
                log::debug!(
                    "{}: turn {turn} after {waited_us} us, at {level:?}",
                    name(session)
                );
                self.unwritten.insert(session.vm);
                self.watch(session);
            }
            Action::Ended {
                session,
                turn,
                held_us,
                charge,
                end,
            } => {
                let now_us = self.now_us();
                let word = end_name(end);
                self.ledger.end(turn, held_us, word);
                log::debug!(
                    "{}: turn {turn} {word} after {held_us} us, {} ns charged",
                    name(session),
                    charge.ns
                );
                let of_vm = self.statistics.vm(session.vm);
                if end == End::Stopped {
                    of_vm.stops += 1;
                }
                if let Some(live) = self.sessions.get_mut(&session) {
                    live.seated = false;
                    if let Some(asked_us) = live.asked_us.take() {
                        of_vm.preemption.record(now_us - asked_us, 1);
                    }
                }
                self.arrivals.used(session, charge.ns);
                self.settle_arrival(session, Some(end));
                self.unwritten.insert(session.vm);
                self.watch(session);
            }
        }
    }

    /// Takes a turn or asks for it; `None` if the session is gone.
    fn take(&mut self, session: Session, take: impl FnOnce(&TurnPage) -> Taken) -> Option<Taken> {
        let live = self.sessions.get_mut(&session)?;
        let taken = take(&live.page);
        if taken == Taken::Yes && !live.idle {
            let idle = live.idle_seen(session);
            self.events.push_back(idle);
        }
        self.events.push_back(match taken {
            Taken::Yes => Event::TakeResult { session, taken: true },
            Taken::No => Event::TakeResult {
                session,
                taken: false,
            },
            Taken::HadNone => Event::Released { session },
        });
        Some(taken)
    }

    /// A turn was asked back while its holder worked.
    fn asked_back(&mut self, session: Session) {
        let now_us = self.now_us();
        if let Some(live) = self.sessions.get_mut(&session)
            && live.asked_us.is_none()
        {
            live.asked_us = Some(now_us);
            self.statistics.vm(session.vm).preemptions += 1;
        }
    }

    /// Has a session's page looked at as its state asks for.
    pub(crate) fn watch(&mut self, session: Session) {
        let seated = self.sessions.get(&session).filter(|live| live.seated);
        let watched = seated.is_some_and(|live| live.contended);
        let limited = !watched && seated.is_some_and(|live| live.kernel_max_us.is_some());
        for (set, member) in [(&mut self.watched, watched), (&mut self.limited, limited)] {
            match member {
                true => set.insert(session),
                false => set.remove(&session),
            };
        }
    }

    /// Has the core know who is idle, and since when, of those as well that nobody watches.
    pub(crate) fn see_idle(&mut self, of: impl Fn(&Live) -> bool) {
        let mut idle = Vec::new();
        for (session, live) in &mut self.sessions {
            if of(live) {
                idle.extend(live.if_idle(*session));
            }
        }
        for event in idle {
            self.feed(event);
        }
    }

    fn look_at_pages(&mut self) {
        for session in self.watched.iter().copied().collect::<Vec<_>>() {
            let Some(live) = self.sessions.get_mut(&session) else {
                continue;
            };
            if !live.seated {
                continue;
            }
            let state = live.page.state();
            if live.has_progressed() {
                self.feed(Event::Progress { session });
            }
            let Some(live) = self.sessions.get_mut(&session) else {
                continue;
            };
            match state {
                // Its message comes as well; the sooner the better.
                State::None => self.feed(Event::Released { session }),
                State::Idle if !live.idle => {
                    let idle = live.idle_seen(session);
                    self.feed(idle);
                }
                State::Held if live.idle => {
                    live.idle = false;
                    self.feed(Event::BusySeen { session });
                }
                State::Idle | State::Held | State::Yield => {}
            }
        }
    }

    /// The first stop of a session is news; with long kernels and others waiting, every turn ends with one.
    fn log_stop(&mut self, session: Session) {
        // An order that is repeated keeps stopped what is.
        if self.core.standing(session) == Some(Standing::Stopped) {
            return;
        }
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        let level = if live.was_stopped {
            log::Level::Debug
        } else {
            log::Level::Info
        };
        live.was_stopped = true;
        log::log!(
            level,
            "{}: to be stopped: it does not give its turn back in time",
            name(session)
        );
    }

    /// Sends an order. One that cannot be sent has failed, unless it can be carried out from here.
    pub(crate) fn order(&mut self, session: Session, order: &ToExec, sequence: Option<u64>) {
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        let Err(error) = packet::send(&live.socket, order, &[]) else {
            return;
        };
        log::warn!("{}: order {order:?} not sent: {error:#}", name(session));
        let Some(sequence) = sequence.filter(|sequence| !self.is_done_from_here(session, *sequence)) else {
            return;
        };
        if let Some(live) = self.sessions.get_mut(&session) {
            live.orders.remove(&sequence);
        }
        self.events.push_back(Event::OrderDone {
            session,
            sequence,
            ok: false,
        });
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return,
            Err(error) => {
                log::error!("no new client can be accepted: {error}");
                return;
            }
        };
        if self.clients.len() >= CLIENTS_MAX {
            log::warn!("a client is turned away: there are {CLIENTS_MAX} already");
            return;
        }
        // An answer must fit; the kernel's default is smaller than the largest packet.
        if let Err(error) = sockopt::set_socket_send_buffer_size(&socket, PACKET_LEN_MAX) {
            log::warn!("a client's socket buffer cannot be enlarged: {error}");
        }
        self.clients_so_far += 1;
        let id = self.clients_so_far;
        match self.poller.add(&socket, Source::Client(id)) {
            Ok(token) => {
                self.clients.insert(
                    id,
                    Client {
                        socket,
                        token,
                        vm: None,
                    },
                );
            }
            Err(error) => log::error!("a new client cannot be served: {error}"),
        }
    }

    fn serve_client(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        match packet::receive::<Request>(&client.socket) {
            Ok((request, fds)) => {
                if let Some(answer) = self.answer(id, request, fds) {
                    self.send_answer(id, &answer);
                }
            }
            Err(PacketError::Io(Errno::AGAIN)) => {}
            Err(PacketError::Closed) => self.drop_client(id, "it closed the connection"),
            Err(error) => self.drop_client(id, &format!("{error:#}")),
        }
    }

    /// Answers a client, if it is still there.
    pub(crate) fn send_answer(&mut self, id: u64, answer: &Answer) {
        let sent = self
            .clients
            .get(&id)
            .map(|client| packet::send(&client.socket, answer, &[]));
        if let Some(Err(PacketError::TooLong)) = sent {
            let message = "the answer does not fit into a packet: there are too many VMs".to_owned();
            log::error!("{message}");
            let why = Refusal::Failed;
            return self.send_answer(id, &Answer::Refused { why, message });
        }
        if let Some(Err(error)) = sent {
            self.drop_client(id, &format!("it does not take its answer: {error:#}"));
        }
    }

    /// Ends a connection. The sessions of a backend go on until their executors end.
    pub(crate) fn drop_client(&mut self, id: u64, why: &str) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        self.poller.remove(&client.socket, client.token);
        match client.vm {
            Some(vm) => {
                log::info!("VM {vm}: its backend is gone: {why}");
                self.displace_opened(vm);
                self.forget_vm_if_unused(vm);
            }
            None => log::debug!("a client is gone: {why}"),
        }
    }

    fn serve_executor(&mut self, session: Session, attachment: u64) {
        if !self.is_attached(session, attachment) {
            return;
        }
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        match packet::receive::<FromExec>(&live.socket) {
            Ok((message, fds)) => self.told(session, message, fds),
            Err(PacketError::Io(Errno::AGAIN)) => {}
            Err(PacketError::Closed) => self.lost(session, "its executor closed the connection"),
            Err(error) => self.detach(session, &format!("its executor's message: {error:#}")),
        }
    }

    /// An executor says something.
    fn told(&mut self, session: Session, message: FromExec, fds: Vec<OwnedFd>) {
        match message {
            FromExec::Want => self.feed(Event::Want { session }),
            FromExec::Released => match self.sessions.get(&session).map(|live| live.page.state()) {
                Some(State::None) => self.feed(Event::Released { session }),
                // The page said so before the message came, and it has the next turn already.
                state => log::debug!("{}: gave a turn back that was over, now {state:?}", name(session)),
            },
            FromExec::Done {
                sequence,
                ok,
                microseconds,
            } => {
                if let Some(order) = self.order_done(session, sequence, ok) {
                    let what = if order.stop { "stop" } else { "resume" };
                    match ok {
                        true => log::debug!("{}: {what} took {microseconds} us", name(session)),
                        false => log::warn!("{}: {what} failed", name(session)),
                    }
                }
                self.feed(Event::OrderDone {
                    session,
                    sequence,
                    ok,
                });
            }
            FromExec::Proved {
                slices,
                stop,
                stop_us,
                resume_us,
                suspend,
            } => {
                let proved = GpuRungs {
                    slices,
                    stop,
                    stop_us,
                    resume_us,
                    suspend,
                    ..GpuRungs::default()
                };
                self.proved(session, &proved);
            }
            FromExec::Channels {
                client,
                subdevices,
                channels,
            } => self.hand_over(session, fds, client, subdevices, channels),
            FromExec::Latencies {
                wait,
                service,
                total,
                throttled_us,
                refused,
            } => {
                let said = Latencies {
                    wait,
                    service,
                    total,
                    throttled_us,
                    refused,
                };
                self.statistics.take(session.vm, &said);
                self.books.called(session.vm, &said.wait);
            }
            FromExec::Leaving => {
                if let Some(live) = self.sessions.get_mut(&session) {
                    live.leaving = true;
                }
            }
            FromExec::MemoryWanted => self.memory_asked(session),
            FromExec::Suspended {
                suspended,
                microseconds,
            } => {
                let before = self.core.standing(session);
                self.feed(Event::Suspended { session, suspended });
                if self.core.standing(session) != before {
                    let what = if suspended { "suspended" } else { "back" };
                    log::info!("{}: {what} after {microseconds} us", name(session));
                }
                self.settle_arrival(session, None);
            }
        }
    }

    pub(crate) fn is_attached(&self, session: Session, attachment: u64) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|live| live.attachment == attachment)
    }

    /// Writes what is not written yet. Sessions keep their turns: they outlive this process.
    fn end(&mut self) {
        drain(&self.terminate);
        self.unwritten.extend(self.sessions.keys().map(|id| id.vm));
        self.settle(true);
        self.write_usage();
        self.tell_rest();
        self.resume_all();
        log::info!("ended");
    }
}

/// How a session is called in the log.
pub(crate) fn name(session: Session) -> String {
    format!("VM {} session {}", session.vm, session.number)
}

/// The core's word for a priority.
pub(crate) fn level(priority: Priority) -> Level {
    match priority {
        Priority::Low => Level::Low,
        Priority::Medium => Level::Medium,
        Priority::High => Level::High,
    }
}

fn priority(level: Level) -> Priority {
    match level {
        Level::Low => Priority::Low,
        Level::Medium => Priority::Medium,
        Level::High => Priority::High,
    }
}

fn end_name(end: End) -> &'static str {
    match end {
        End::Released => "released",
        End::Yielded => "yielded",
        End::Taken => "taken",
        End::Stopped => "stopped",
        End::Gone => "gone",
    }
}

fn drain(pipe: &OwnedFd) {
    let mut bytes = [0u8; 64];
    // What matters is that a byte came, not how many.
    while matches!(rustix::io::read(pipe, &mut bytes), Ok(read) if read == bytes.len()) {}
}
