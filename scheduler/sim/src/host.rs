//! A host played in virtual time: sessions with their turn pages and orders, messages that take a while, and a
//! scheduler that may be down.
use crate::check::Checker;
use crate::hardware::{Done, Hardware};
use crate::log::Log;
use crate::program::{Program, Work};
use oorandom::Rand64;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use vgpu_sched_core::{Action, Config, Core, Event, Found, Gpu, GpuSet, Pool, PoolTerms, Session, Terms, Vm};

/// How long an executor takes to stop what runs, and to resume it, in microseconds.
pub(crate) const STOP_US: u64 = 600;
pub(crate) const RESUME_US: u64 = 300;
/// How long it takes to move a session's memory to the host, or back.
const SUSPEND_US: u64 = 200_000;
/// Work of one stream that is in flight, in nanoseconds, unless one kernel is longer: the window is adaptive.
const IN_FLIGHT_NS: u64 = 1_000_000;
/// After how long a liar says that it is idle, in microseconds.
const LIE_US: u64 = 1_000;
/// How long the executor of a session that was ended takes to go.
const KILL_US: u64 = 2_000;
/// The time slice of a context for which none was set, in microseconds.
const DEFAULT_SLICE_US: u64 = 2_000;

/// What is wrong with an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It gives its turn back only when all its work is done.
    Deaf,
    /// It never says that it is idle.
    Hoards,
    /// It says that it is idle while it works.
    Lies,
    /// It asks for a turn twice, and answers orders that nobody gave.
    Babbles,
    /// Its orders to stop fail.
    FailsToStop,
}

/// The state in a turn page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    None,
    Held,
    Idle,
    Yield,
}

/// A session before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) gpus: GpuSet,
    /// How long its messages take.
    pub(crate) lag_us: u64,
    pub(crate) slices: bool,
    pub(crate) stop: bool,
    pub(crate) fault: Fault,
    pub(crate) program: Program,
}

/// A piece of work that a program gave to its executor.
#[derive(Clone, Copy, Debug)]
struct Piece {
    work: Work,
    since: u64,
    /// When it first ran.
    began: Option<u64>,
}

/// A session as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    pub(crate) member: Member,
    pub(crate) page: Page,
    /// It said that it wants a turn, and got none since.
    pub(crate) wants: bool,
    contended: bool,
    slice_us: u64,
    /// When it resumes by itself, while it is stopped.
    pub(crate) stopped_until: Option<u64>,
    /// When its last order will be executed: they are in order.
    orders_until: u64,
    pub(crate) suspended: bool,
    /// It moves its memory.
    moving: bool,
    pub(crate) ending: bool,
    pieces: VecDeque<Piece>,
    /// What is left of the first piece when it gives its turn back.
    drained_at_ns: u64,
    /// What is left of it when the hardware has done what it was given.
    runs_to_ns: u64,
    /// When its last kernel was done, or it got work.
    progress_at: u64,
    /// The kernels of the first piece that are left.
    kernels_left: u64,
    /// A kernel was done since it last said so.
    moved_on: bool,
    /// Which life of the session this is: what was to happen to an earlier one does not.
    life: u64,
}

/// A piece of work that is done. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) vm: Vm,
    pub(crate) wait_us: u64,
    pub(crate) total_us: u64,
}

#[derive(Clone, Debug)]
enum What {
    /// The program gives it work.
    Arrives(Work),
    /// Its GPUs have done what it had.
    Worked(u64),
    /// A message of it arrives at the scheduler of that number, or is lost with that one.
    Says(u64, Event),
    /// The order comes from the scheduler of that number.
    Stop {
        sequence: u64,
        deadman_us: u64,
        scheduler: u64,
    },
    Resume,
    DeadMan,
    Lie,
    /// It is looked at for progress.
    Look,
    Suspended(bool),
    /// It is no more.
    Dies,
    /// It, or one in its place, starts.
    Starts(Box<Member>),
}

#[derive(Debug)]
struct Timer {
    at: u64,
    number: u64,
    session: Session,
    life: u64,
    what: What,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The scheduler and the host around it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) core: Core,
    /// Whether the scheduler runs.
    pub(crate) up: bool,
    /// How many schedulers there were before.
    scheduler: u64,
    pub(crate) now: u64,
    pub(crate) config: Config,
    pub(crate) pools: BTreeMap<Pool, PoolTerms>,
    pub(crate) vms: BTreeMap<Vm, Terms>,
    pub(crate) sessions: BTreeMap<Session, Real>,
    pub(crate) hardware: Hardware,
    pub(crate) random: Rand64,
    /// Programs have no new work.
    pub(crate) quiet: bool,
    pub(crate) log: Log,
    pub(crate) finished: Vec<Finished>,
    checker: Option<Checker>,
    timers: BinaryHeap<Reverse<Timer>>,
    numbers: u64,
    lives: u64,
    /// Events of this very moment.
    at_once: VecDeque<Event>,
    done: Vec<Done>,
}

impl Host {
    pub(crate) fn new(config: Config, gpus: Gpu, seed: u64, checker: Option<Checker>) -> Self {
        Self {
            core: Core::new(config),
            up: true,
            scheduler: 0,
            now: 0,
            config,
            pools: BTreeMap::new(),
            vms: BTreeMap::new(),
            sessions: BTreeMap::new(),
            hardware: Hardware::new(gpus),
            random: Rand64::new(seed.into()),
            quiet: false,
            log: Log::default(),
            finished: Vec::new(),
            checker,
            timers: BinaryHeap::new(),
            numbers: 0,
            lives: 0,
            at_once: VecDeque::new(),
            done: Vec::new(),
        }
    }

    /// What is wrong, once something is.
    pub(crate) fn violation(&self) -> Option<&str> {
        self.checker.as_ref()?.violation()
    }

    /// When that was.
    pub(crate) fn violated_at(&self) -> Option<u64> {
        self.checker.as_ref()?.violated_at()
    }

    /// What is checked only now and then, and what only holds in the end.
    pub(crate) fn check_all(&mut self, is_end: bool) {
        if let Some(mut checker) = self.checker.take() {
            checker.all(self, is_end);
            self.checker = Some(checker);
        }
    }

    /// Lets everything happen up to then, unless something is wrong before.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation().is_none() {
            let timer = self.timers.peek().map(|Reverse(timer)| timer.at);
            let tick = self.core.deadline().filter(|_| self.up);
            let Some(at) = timer.into_iter().chain(tick).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = at;
            if tick == Some(at) {
                self.tell(Event::Tick);
            } else if let Some(Reverse(timer)) = self.timers.pop() {
                self.happen(timer);
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn set_pool(&mut self, pool: Pool, terms: PoolTerms) {
        self.pools.insert(pool, terms);
        self.tell(Event::PoolSet { pool, terms });
    }

    pub(crate) fn set_vm(&mut self, vm: Vm, terms: Terms) {
        self.vms.insert(vm, terms);
        self.tell(Event::VmSet { vm, terms });
    }

    /// A VM is shut down, and all its programs with it.
    pub(crate) fn remove_vm(&mut self, vm: Vm) {
        for session in self.sessions_of(vm) {
            self.forget(session);
        }
        self.vms.remove(&vm);
        self.tell(Event::VmRemoved { vm });
    }

    pub(crate) fn configure(&mut self, config: Config) {
        self.config = config;
        self.tell(Event::Configured(config));
    }

    pub(crate) fn sessions_of(&self, vm: Vm) -> Vec<Session> {
        let all = Session { vm, number: 0 }..=Session { vm, number: u32::MAX };
        self.sessions.range(all).map(|(id, _)| *id).collect()
    }

    /// A session starts after that time, unless there is one of its number then.
    pub(crate) fn start_later(&mut self, session: Session, member: Member, after_us: u64) {
        self.set_timer(self.now + after_us, session, 0, What::Starts(Box::new(member)));
    }

    /// A program starts in its VM.
    pub(crate) fn start(&mut self, session: Session, member: Member) {
        if !self.vms.contains_key(&session.vm) || self.sessions.contains_key(&session) {
            return;
        }
        self.lives += 1;
        let real = Real {
            member,
            page: Page::None,
            wants: false,
            contended: false,
            slice_us: DEFAULT_SLICE_US,
            stopped_until: None,
            orders_until: 0,
            suspended: false,
            moving: false,
            ending: false,
            pieces: VecDeque::new(),
            drained_at_ns: 0,
            runs_to_ns: 0,
            progress_at: self.now,
            kernels_left: 0,
            moved_on: false,
            life: self.lives,
        };
        self.sessions.insert(session, real);
        if self.up {
            self.attach(session);
        }
        self.next_work(session);
    }

    /// The scheduler is told of a session that is there.
    fn attach(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        real.contended = false;
        let found = match real.page {
            Page::None => Found::Nothing,
            Page::Held => Found::Held,
            Page::Idle => Found::Idle,
            Page::Yield => Found::Asked,
        };
        let gpus = real.member.gpus;
        let (slices, stop) = (real.member.slices, real.member.stop);
        let suspended = real.suspended;
        real.wants = real.page == Page::None && !real.pieces.is_empty() && !suspended && !real.moving;
        let wants = real.wants;
        self.tell(Event::Attached { session, gpus, found });
        self.tell(Event::Proved {
            session,
            slices,
            stop,
        });
        if suspended {
            self.tell(Event::Suspended { session, suspended });
        }
        if wants {
            self.tell(Event::Want { session });
        }
    }

    /// A session ends, whatever it does.
    pub(crate) fn end(&mut self, session: Session) {
        if self.forget(session) {
            self.tell(Event::Gone { session });
        }
    }

    fn forget(&mut self, session: Session) -> bool {
        self.hardware.halt(self.now, session, &mut self.done);
        self.note_done();
        let there = self.sessions.remove(&session).is_some();
        if there && let Some(checker) = &mut self.checker {
            checker.gone(session);
        }
        there
    }

    /// The scheduler dies.
    pub(crate) fn go_down(&mut self) {
        self.up = false;
        self.scheduler += 1;
        self.core = Core::new(self.config);
        if let Some(checker) = &mut self.checker {
            checker.restart(self.now);
        }
        for real in self.sessions.values_mut() {
            real.wants = false;
        }
    }

    /// It is started anew.
    pub(crate) fn come_up(&mut self) {
        self.up = true;
        self.hardware.restart_idle(self.now);
        for (pool, terms) in self.pools.clone() {
            self.tell(Event::PoolSet { pool, terms });
        }
        for (vm, terms) in self.vms.clone() {
            self.tell(Event::VmSet { vm, terms });
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.attach(session);
        }
    }

    /// Takes an event to the scheduler, and all that follows from it in this very moment.
    fn tell(&mut self, event: Event) {
        if !self.up || self.violation().is_some() {
            return;
        }
        self.at_once.push_back(event);
        while let Some(event) = self.at_once.pop_front() {
            if self.violation().is_some() {
                return;
            }
            let mut checker = self.checker.take();
            self.log.event(self.now, &event);
            if let Some(checker) = &mut checker {
                checker.before(self, &event);
            }
            let mut actions = Vec::new();
            self.core.step(self.now, event.clone(), &mut actions);
            for action in actions {
                self.log.action(self.now, &action);
                if let Some(checker) = &mut checker {
                    checker.action(self, &action);
                }
                self.act(action);
            }
            if let Some(checker) = &mut checker {
                checker.after(self, &event);
            }
            self.checker = checker;
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Grant { session } => {
                if let Some(real) = self.sessions.get_mut(&session) {
                    real.wants = false;
                    real.page = Page::Held;
                    self.look_for_progress(session);
                    self.run(session);
                    self.maybe_idle(session);
                }
            }
            Action::TakeIfIdle { session } => self.take(session, false),
            Action::AskBack { session } => self.take(session, true),
            Action::SetContended { session, contended } => {
                let Some(real) = self.sessions.get_mut(&session) else {
                    return;
                };
                real.contended = contended;
                if contended && real.member.fault == Fault::Lies {
                    let life = real.life;
                    self.set_timer(now + LIE_US, session, life, What::Lie);
                }
                self.maybe_idle(session);
            }
            Action::SetSlice {
                session,
                sequence,
                slice_us,
            } => {
                let Some(real) = self.sessions.get_mut(&session) else {
                    return;
                };
                let ok = real.member.slices;
                if ok {
                    real.slice_us = slice_us.max(1);
                    self.run(session);
                }
                let done = Event::OrderDone {
                    session,
                    sequence,
                    ok,
                };
                self.say(session, done);
            }
            Action::Stop {
                session,
                sequence,
                deadman_us,
            } => {
                let stop = What::Stop {
                    sequence,
                    deadman_us,
                    scheduler: self.scheduler,
                };
                self.order(session, STOP_US, stop);
            }
            Action::Resume { session, .. } => self.order(session, RESUME_US, What::Resume),
            Action::Suspend { session } => {
                let Some(real) = self.sessions.get_mut(&session) else {
                    return;
                };
                if real.page == Page::None && real.pieces.is_empty() && !real.moving {
                    real.moving = true;
                    self.order(session, SUSPEND_US, What::Suspended(true));
                } else {
                    let suspended = real.suspended;
                    self.say(session, Event::Suspended { session, suspended });
                }
            }
            Action::EndSession { session, .. } => {
                if let Some(real) = self.sessions.get_mut(&session) {
                    real.ending = true;
                    let life = real.life;
                    self.set_timer(now + KILL_US, session, life, What::Dies);
                }
            }
            Action::SetWindow { .. }
            | Action::Reached { .. }
            | Action::Began { .. }
            | Action::Ended { .. } => {}
        }
    }

    /// Takes a turn if its page says idle; else asks for it, if so told.
    fn take(&mut self, session: Session, ask: bool) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let taken = real.page == Page::Idle;
        if taken {
            real.page = Page::None;
            self.run(session);
            // A liar's work is still there.
            self.want_if_work(session);
        } else if ask && real.page == Page::Held {
            real.page = Page::Yield;
            let left = self.hardware.left_ns(session, self.now);
            if let Some(real) = self.sessions.get_mut(&session) {
                real.drained_at_ns = real.left_after_drain(left);
            }
            self.run(session);
            self.maybe_drained(session);
        }
        self.at_once.push_back(Event::TakeResult { session, taken });
    }

    fn happen(&mut self, timer: Timer) {
        let (session, life) = (timer.session, timer.life);
        if let What::Starts(member) = timer.what {
            self.start(session, *member);
            return;
        }
        if self.sessions.get(&session).is_none_or(|real| real.life != life) {
            return;
        }
        match timer.what {
            What::Arrives(work) => self.arrives(session, work),
            What::Worked(generation) => self.worked(session, generation),
            What::Says(scheduler, event) => {
                if scheduler == self.scheduler {
                    self.tell(event);
                }
            }
            What::Stop {
                sequence,
                deadman_us,
                scheduler,
            } => self.stopped(session, sequence, deadman_us, scheduler),
            What::Resume => self.resumed(session),
            What::DeadMan => {
                let due = |until| until <= self.now;
                if self.sessions[&session].stopped_until.is_some_and(due) {
                    self.resumed(session);
                }
            }
            What::Lie => {
                if let Some(real) = self.sessions.get_mut(&session)
                    && real.page == Page::Held
                    && real.contended
                {
                    real.page = Page::Idle;
                    self.say(session, Event::IdleSeen { session, idle_us: 0 });
                }
            }
            What::Look => self.look_for_progress(session),
            What::Suspended(suspended) => {
                if let Some(real) = self.sessions.get_mut(&session) {
                    real.moving = false;
                    real.suspended = suspended;
                    self.say(session, Event::Suspended { session, suspended });
                    self.want_if_work(session);
                }
            }
            What::Dies => self.end(session),
            What::Starts(_) => {}
        }
    }

    fn arrives(&mut self, session: Session, work: Work) {
        let now = self.now;
        if self.quiet {
            return;
        }
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let piece = Piece {
            work,
            since: now,
            began: None,
        };
        real.pieces.push_back(piece);
        let first = real.pieces.len() == 1;
        let open = real.member.program.is_open();
        if first {
            real.progress_at = now;
            real.kernels_left = work.ns.div_ceil(work.kernel_ns.max(1));
            match real.page {
                Page::None => self.want_if_work(session),
                Page::Idle => {
                    real.page = Page::Held;
                    self.run(session);
                    self.say(session, Event::BusySeen { session });
                }
                Page::Held => self.run(session),
                Page::Yield => {}
            }
        }
        if open {
            self.next_work(session);
        }
    }

    /// Asks for a turn if there is work and no turn; a suspended session comes back first.
    fn want_if_work(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.page != Page::None || real.wants || real.moving || real.pieces.is_empty() {
            return;
        }
        if real.suspended {
            real.moving = true;
            self.order(session, SUSPEND_US, What::Suspended(false));
            return;
        }
        if !self.up {
            // It asks when it is attached anew.
            return;
        }
        real.wants = true;
        let babbles = real.member.fault == Fault::Babbles;
        self.say(session, Event::Want { session });
        if babbles {
            let sequence = self.random.rand_range(0..1 << 20) + (1 << 40);
            self.say(session, Event::Want { session });
            let made_up = Event::OrderDone {
                session,
                sequence,
                ok: false,
            };
            self.say(session, made_up);
            self.say(session, Event::Progress { session });
        }
    }

    /// The GPUs have done what a session had up to its next point.
    fn worked(&mut self, session: Session, generation: u64) {
        if !self.hardware.is_current(session, generation) {
            return;
        }
        self.run(session);
        self.maybe_drained(session);
    }

    /// Takes note of work that is done.
    fn maybe_finished(&mut self, session: Session) {
        let now = self.now;
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.pieces.front().is_some_and(|piece| piece.work.ns == 0)
            && let Some(piece) = real.pieces.pop_front()
        {
            self.finished.push(Finished {
                vm: session.vm,
                wait_us: piece.began.unwrap_or(now) - piece.since,
                total_us: now - piece.since,
            });
            if let Some(next) = real.pieces.front() {
                real.kernels_left = next.work.ns.div_ceil(next.work.kernel_ns.max(1));
            }
            if !real.member.program.is_open() {
                self.next_work(session);
            }
            self.maybe_idle(session);
        }
    }

    /// A session that was asked back gives its turn back, if it has done what it had in flight.
    fn maybe_drained(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let left = real.pieces.front().map_or(0, |piece| piece.work.ns);
        if real.page != Page::Yield || real.stopped_until.is_some() || left > real.drained_at_ns {
            return;
        }
        real.page = Page::None;
        self.hardware.halt(self.now, session, &mut self.done);
        self.note_done();
        // Now and then another thread asks for the next turn before this one is given back.
        if self.random.rand_range(0..10) == 0 {
            self.want_if_work(session);
            self.say(session, Event::Released { session });
        } else {
            self.say(session, Event::Released { session });
            self.want_if_work(session);
        }
    }

    /// A holder that somebody watches says that it has nothing to do.
    fn maybe_idle(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let honest = real.member.fault != Fault::Hoards;
        if real.page == Page::Held && real.contended && real.pieces.is_empty() && honest {
            real.page = Page::Idle;
            self.say(session, Event::IdleSeen { session, idle_us: 0 });
        }
    }

    fn stopped(&mut self, session: Session, sequence: u64, deadman_us: u64, scheduler: u64) {
        let now = self.now;
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let ok = real.member.fault != Fault::FailsToStop;
        if ok {
            real.stopped_until = Some(now + deadman_us);
            let life = real.life;
            self.set_timer(now + deadman_us, session, life, What::DeadMan);
            self.run(session);
        }
        let done = Event::OrderDone {
            session,
            sequence,
            ok,
        };
        if scheduler == self.scheduler {
            self.say(session, done);
        }
    }

    fn resumed(&mut self, session: Session) {
        if let Some(real) = self.sessions.get_mut(&session) {
            real.stopped_until = None;
            self.run(session);
            self.maybe_drained(session);
        }
    }

    /// Has the hardware run what a session may run now, and nothing else.
    fn run(&mut self, session: Session) {
        let now = self.now;
        let left = self.hardware.halt(now, session, &mut self.done);
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if let Some(left) = left {
            real.set_left(left, now);
            self.maybe_finished(session);
        }
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let (gpus, slice_us) = (real.member.gpus, real.slice_us);
        let has_turn = match real.page {
            Page::None => false,
            Page::Held | Page::Yield => true,
            Page::Idle => real.member.fault == Fault::Lies,
        };
        let held = real.stopped_until.is_some() || real.suspended || real.moving;
        let until_ns = match real.page {
            Page::Yield => real.drained_at_ns,
            _ => 0,
        };
        real.runs_to_ns = until_ns;
        if has_turn
            && !held
            && let Some(piece) = real.pieces.front_mut()
            && piece.work.ns > until_ns
        {
            piece.began.get_or_insert(now);
            let left_ns = piece.work.ns - until_ns;
            self.hardware
                .run(now, session, gpus, slice_us, left_ns, &mut self.done);
        }
        self.note_done();
    }

    /// Sets the timers of work that will be done at another time than was thought.
    fn note_done(&mut self) {
        for done in std::mem::take(&mut self.done) {
            if let Some(real) = self.sessions.get(&done.session) {
                let life = real.life;
                self.set_timer(done.at, done.session, life, What::Worked(done.generation));
            }
        }
    }

    /// Has a session say whether it got on, as often as its VM's limit needs.
    fn look_for_progress(&mut self, session: Session) {
        let limit = self.vms.get(&session.vm).and_then(|terms| terms.kernel_max_us);
        let left = self.hardware.left_ns(session, self.now);
        let now = self.now;
        let (Some(limit), Some(real)) = (limit, self.sessions.get_mut(&session)) else {
            return;
        };
        if real.page == Page::None {
            return;
        }
        if let Some(left) = left {
            real.set_left(left, now);
        }
        let life = real.life;
        // Where there is nothing to do, nothing is late.
        if std::mem::take(&mut real.moved_on) || real.pieces.is_empty() {
            self.say(session, Event::Progress { session });
        }
        self.set_timer(now + look_us(limit), session, life, What::Look);
    }

    fn next_work(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let life = real.life;
        if let Some((at, work)) = real.member.program.next(self.now, &mut self.random) {
            self.set_timer(at, session, life, What::Arrives(work));
        }
    }

    fn order(&mut self, session: Session, takes_us: u64, what: What) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        let life = real.life;
        real.orders_until = real.orders_until.max(self.now) + takes_us;
        let at = real.orders_until;
        self.set_timer(at, session, life, what);
    }

    fn say(&mut self, session: Session, event: Event) {
        // What is said while nobody listens is lost; all that counts is in the page.
        let Some(real) = self.sessions.get(&session).filter(|_| self.up) else {
            return;
        };
        let (at, life) = (self.now + real.member.lag_us, real.life);
        self.set_timer(at, session, life, What::Says(self.scheduler, event));
    }

    fn set_timer(&mut self, at: u64, session: Session, life: u64, what: What) {
        self.numbers += 1;
        self.timers.push(Reverse(Timer {
            at,
            number: self.numbers,
            session,
            life,
            what,
        }));
    }
}

impl Real {
    pub(crate) fn has_work(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Notes what the hardware has left to do, and whether a kernel was done.
    fn set_left(&mut self, hardware_ns: u64, now: u64) {
        let left = hardware_ns + self.runs_to_ns;
        if let Some(piece) = self.pieces.front_mut() {
            piece.work.ns = left;
            let kernels = left.div_ceil(piece.work.kernel_ns.max(1));
            if kernels < self.kernels_left {
                self.kernels_left = kernels;
                self.progress_at = now;
                self.moved_on = true;
            }
        }
    }

    /// For how long its kernel has run, in nanoseconds.
    pub(crate) fn kernel_ran_ns(&self, hardware_ns: Option<u64>) -> u64 {
        self.pieces.front().map_or(0, |piece| {
            let left = hardware_ns.map_or(piece.work.ns, |ns| ns + self.runs_to_ns);
            let kernel_ns = piece.work.kernel_ns.max(1);
            left.div_ceil(kernel_ns) * kernel_ns - left
        })
    }

    /// What will be left of the first piece when what is in flight is done, if it is asked back now.
    fn left_after_drain(&self, hardware_ns: Option<u64>) -> u64 {
        let Some(piece) = self.pieces.front().filter(|_| self.member.fault != Fault::Deaf) else {
            return 0;
        };
        let left = hardware_ns.map_or(piece.work.ns, |ns| ns + self.runs_to_ns);
        let kernel_ns = piece.work.kernel_ns.max(1);
        let in_flight = 1 + IN_FLIGHT_NS / kernel_ns;
        left.div_ceil(kernel_ns).saturating_sub(in_flight) * kernel_ns
    }
}

/// How often an executor looks for progress under that limit.
fn look_us(limit_us: u64) -> u64 {
    (limit_us / 16).max(1_000)
}
