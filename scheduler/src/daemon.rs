//! The event loop around the core.
use crate::inventory::{self, Gpu};
use crate::ledger::Ledger;
use crate::page::{Taken, TurnPage};
use crate::poller::{Poller, Source};
use crate::store::{Store, Usage};
use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;
use vgpu_pool_map::PoolMap;
use vgpu_sched_api::messages::{FromExec, PACKET_LEN_MAX, Priority, Request, ToExec, TurnRecord};
use vgpu_sched_api::packet::{self, PacketError};
use vgpu_sched_api::turn::State;
use vgpu_sched_core::{Action, Core, End, Event, GpuSet, Level, Session, Standing, Terms};

/// How often usage is written, in microseconds.
const WRITE_US: u64 = 1_000_000;

/// Clients at the control socket at most: a backend per VM, and tools.
const CLIENTS_MAX: usize = 1024;

/// What the daemon starts with.
pub struct Setup {
    pub config: PathBuf,
    pub map: PoolMap,
    pub inventory: Vec<Gpu>,
    pub state_dir: PathBuf,
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
    pub(crate) inventory: Vec<Gpu>,
    pub(crate) core: Core,
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) sessions: BTreeMap<Session, Live>,
    pub(crate) ledger: Ledger,
    /// What VMs used before the core knew them.
    pub(crate) earlier: BTreeMap<u32, Usage>,
    listener: OwnedFd,
    terminate: OwnedFd,
    reload: OwnedFd,
    poller: Poller,
    store: Store,
    /// VMs whose usage is to be written, and when it was last.
    unwritten: BTreeSet<u32>,
    written_us: u64,
    /// Sessions whose page is to be looked at.
    watched: BTreeSet<Session>,
    events: VecDeque<Event>,
    started: Instant,
    clients_so_far: u64,
    attachments: u64,
}

/// Somebody at the control socket.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    token: u64,
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
    attachment: u64,
    pub(crate) page: TurnPage,
    socket: OwnedFd,
    socket_token: u64,
    pidfd: OwnedFd,
    pidfd_token: u64,
    /// It has a turn.
    seated: bool,
    contended: bool,
    /// Its page said idle when last looked at.
    idle: bool,
    /// Orders to stop and to resume that were not confirmed yet.
    orders: BTreeMap<u64, &'static str>,
    was_stopped: bool,
}

/// A new attachment, checked.
pub(crate) struct Attachment {
    pub(crate) client: u64,
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) exec_pid: u32,
    pub(crate) gpus: GpuSet,
    pub(crate) page: TurnPage,
    pub(crate) socket: OwnedFd,
    pub(crate) pidfd: OwnedFd,
}

impl Daemon {
    /// Gets ready; nobody is served yet.
    pub fn new(setup: Setup) -> Result<Self> {
        let mut poller = Poller::new().context("epoll")?;
        poller.add(&setup.listener, Source::Listener).context("epoll")?;
        poller.add(&setup.terminate, Source::Terminate).context("epoll")?;
        poller.add(&setup.reload, Source::Reload).context("epoll")?;
        let (store, earlier) = Store::open(&setup.state_dir, &setup.inventory)?;
        Ok(Self {
            core: Core::new(setup.map.scheduler),
            config: setup.config,
            map: setup.map,
            inventory: setup.inventory,
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ledger: Ledger::default(),
            earlier,
            listener: setup.listener,
            terminate: setup.terminate,
            reload: setup.reload,
            poller,
            store,
            unwritten: BTreeSet::new(),
            written_us: 0,
            watched: BTreeSet::new(),
            events: VecDeque::new(),
            started: Instant::now(),
            clients_so_far: 0,
            attachments: 0,
        })
    }

    /// Serves until the program is to end.
    pub fn run(&mut self) -> Result<()> {
        loop {
            let timeout = self.next_time().map(|at| at.saturating_sub(self.now_us()));
            for source in self.poller.wait(timeout).context("epoll")? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Terminate => {
                        self.end();
                        return Ok(());
                    }
                    Source::Reload => {
                        drain(&self.reload);
                        if let Err(error) = self.reload_map() {
                            log::error!("the pool map stays as it was: {error:#}");
                        }
                    }
                    Source::Client(id) => self.serve_client(id),
                    Source::Executor(session, attachment) => self.serve_executor(session, attachment),
                    Source::Death(session, attachment) => {
                        if self.is_attached(session, attachment) {
                            self.detach(session, "its executor ended");
                        }
                    }
                }
            }
            self.look_at_pages();
            if self.core.deadline().is_some_and(|at| at <= self.now_us()) {
                self.feed(Event::Tick);
            }
            if self.written_us + WRITE_US <= self.now_us() {
                self.write_usage();
            }
        }
    }

    /// Microseconds since the start.
    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn next_time(&self) -> Option<u64> {
        let look = (!self.watched.is_empty()).then(|| self.now_us() + self.map.poll_us);
        let write = (!self.unwritten.is_empty()).then_some(self.written_us + WRITE_US);
        [self.core.deadline(), look, write].into_iter().flatten().min()
    }

    /// Lets the core decide on an event, and on what follows from its decisions.
    pub(crate) fn feed(&mut self, event: Event) {
        self.events.push_back(event);
        let mut actions = Vec::new();
        while let Some(event) = self.events.pop_front() {
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
            Action::TakeIfIdle { session } => self.take(session, TurnPage::take_if_idle),
            Action::AskBack { session } => self.take(session, TurnPage::ask_back),
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
                self.note_order(session, sequence, "stop");
                let deadman_ms = deadman_us.div_ceil(1000);
                self.order(session, &ToExec::Stop { sequence, deadman_ms }, Some(sequence));
            }
            Action::Resume { session, sequence } => {
                log::debug!("{}: to be resumed", name(session));
                self.note_order(session, sequence, "resume");
                self.order(session, &ToExec::Resume { sequence }, Some(sequence));
            }
            Action::Began {
                session,
                turn,
                level,
                waited_us,
            } => {
                let Some(live) = self.sessions.get_mut(&session) else {
                    return;
                };
                live.seated = true;
                live.idle = false;
                let uuids = uuids(&self.inventory, live.gpus);
                self.ledger.begin(TurnRecord {
                    number: turn,
                    vm: session.vm,
                    session: session.number,
                    gpu: uuids.join(","),
                    priority: priority(level),
                    granted_us: self.started.elapsed().as_micros() as u64,
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
                let end = end_name(end);
                self.ledger.end(turn, held_us, end);
                log::debug!(
                    "{}: turn {turn} {end} after {held_us} us, {} ns charged",
                    name(session),
                    charge.ns
                );
                if let Some(live) = self.sessions.get_mut(&session) {
                    live.seated = false;
                }
                self.unwritten.insert(session.vm);
                self.watch(session);
            }
        }
    }

    fn take(&mut self, session: Session, take: impl FnOnce(&TurnPage) -> Taken) {
        let Some(live) = self.sessions.get(&session) else {
            return;
        };
        self.events.push_back(match take(&live.page) {
            Taken::Yes => Event::TakeResult { session, taken: true },
            Taken::No => Event::TakeResult {
                session,
                taken: false,
            },
            Taken::HadNone => Event::Released { session },
        });
    }

    fn watch(&mut self, session: Session) {
        if self
            .sessions
            .get(&session)
            .is_some_and(|live| live.seated && live.contended)
        {
            self.watched.insert(session);
        } else {
            self.watched.remove(&session);
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
            match live.page.state() {
                // Its message comes as well; the sooner the better.
                State::None => self.feed(Event::Released { session }),
                State::Idle if !live.idle => {
                    live.idle = true;
                    self.feed(Event::IdleSeen { session });
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

    fn note_order(&mut self, session: Session, sequence: u64, what: &'static str) {
        if let Some(live) = self.sessions.get_mut(&session) {
            live.orders.insert(sequence, what);
        }
    }

    /// Sends an order. One that cannot be sent has failed.
    fn order(&mut self, session: Session, order: &ToExec, sequence: Option<u64>) {
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        if let Err(error) = packet::send(&live.socket, order, &[]) {
            log::warn!("{}: order {order:?} not sent: {error:#}", name(session));
            if let Some(sequence) = sequence {
                live.orders.remove(&sequence);
                self.events.push_back(Event::OrderDone {
                    session,
                    sequence,
                    ok: false,
                });
            }
        }
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
                let answer = self.answer(id, request, fds);
                let sent = self
                    .clients
                    .get(&id)
                    .map(|client| packet::send(&client.socket, &answer, &[]));
                if let Some(Err(error)) = sent {
                    self.drop_client(id, &format!("it does not take its answer: {error:#}"));
                }
            }
            Err(PacketError::Io(Errno::AGAIN)) => {}
            Err(PacketError::Closed) => self.drop_client(id, "it closed the connection"),
            Err(error) => self.drop_client(id, &format!("{error:#}")),
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
                self.forget_vm_if_unused(vm);
            }
            None => log::debug!("a client is gone: {why}"),
        }
    }

    fn serve_executor(&mut self, session: Session, attachment: u64) {
        if !self.is_attached(session, attachment) {
            return;
        }
        let Some(live) = self.sessions.get_mut(&session) else {
            return;
        };
        match packet::receive::<FromExec>(&live.socket) {
            Ok((FromExec::Want, _)) => self.feed(Event::Want { session }),
            Ok((FromExec::Released, _)) => match live.page.state() {
                State::None => self.feed(Event::Released { session }),
                // The page said so before the message came, and it has the next turn already.
                state => log::debug!("{}: gave a turn back that was over, now {state:?}", name(session)),
            },
            Ok((
                FromExec::Done {
                    sequence,
                    ok,
                    microseconds,
                },
                _,
            )) => {
                match live.orders.remove(&sequence) {
                    Some(what) if ok => log::debug!("{}: {what} took {microseconds} us", name(session)),
                    Some(what) => log::warn!("{}: {what} failed", name(session)),
                    None => {}
                }
                self.feed(Event::OrderDone {
                    session,
                    sequence,
                    ok,
                });
            }
            Ok((FromExec::Proved { slices, stop }, _)) => {
                let has = |proved| if proved { "works" } else { "does not work" };
                log::info!(
                    "{}: slicing {}, stopping {}",
                    name(session),
                    has(slices),
                    has(stop)
                );
                self.feed(Event::Proved {
                    session,
                    slices,
                    stop,
                });
            }
            Err(PacketError::Io(Errno::AGAIN)) => {}
            Err(PacketError::Closed) => self.detach(session, "its executor closed the connection"),
            Err(error) => self.detach(session, &format!("its executor's message: {error:#}")),
        }
    }

    fn is_attached(&self, session: Session, attachment: u64) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|live| live.attachment == attachment)
    }

    /// Takes a session in, in place of an earlier attachment of it.
    pub(crate) fn attach(&mut self, session: Session, new: Attachment) -> Result<(), Errno> {
        if self.sessions.contains_key(&session) {
            self.detach(session, "it is attached anew");
        }
        self.attachments += 1;
        let attachment = self.attachments;
        rustix::io::ioctl_fionbio(&new.socket, true)?;
        let socket_token = self
            .poller
            .add(&new.socket, Source::Executor(session, attachment))?;
        let pidfd_token = match self.poller.add(&new.pidfd, Source::Death(session, attachment)) {
            Ok(token) => token,
            Err(error) => {
                self.poller.remove(&new.socket, socket_token);
                return Err(error);
            }
        };
        // Left over from before we started; the core sets it where it is needed.
        new.page.set_contended(false);
        let found = new.page.found();
        log::info!(
            "{}: attached: {} (pid {} in the VM), executor {}, {found:?}",
            name(session),
            new.program.escape_debug(),
            new.pid,
            new.exec_pid
        );
        let gpus = new.gpus;
        self.sessions.insert(
            session,
            Live {
                pid: new.pid,
                program: new.program,
                gpus,
                client: new.client,
                attachment,
                page: new.page,
                socket: new.socket,
                socket_token,
                pidfd: new.pidfd,
                pidfd_token,
                seated: false,
                contended: false,
                idle: false,
                orders: BTreeMap::new(),
                was_stopped: false,
            },
        );
        self.feed(Event::Attached { session, gpus, found });
        Ok(())
    }

    /// Ends a session's part in the scheduling. Should its executor still run, it has no turn any longer.
    pub(crate) fn detach(&mut self, session: Session, why: &str) {
        let Some(live) = self.sessions.remove(&session) else {
            return;
        };
        log::info!("{}: gone: {why}", name(session));
        self.watched.remove(&session);
        live.page.revoke();
        self.poller.remove(&live.socket, live.socket_token);
        self.poller.remove(&live.pidfd, live.pidfd_token);
        self.feed(Event::Gone { session });
        self.forget_vm_if_unused(session.vm);
    }

    /// What a VM has used in all.
    pub(crate) fn usage(&self, vm: u32) -> Usage {
        let mut usage = self.earlier.get(&vm).copied().unwrap_or_default();
        if let Some((turns, charge)) = self.core.usage(vm) {
            usage.turns += turns;
            usage.ns += charge.ns;
            usage.estimated |= charge.estimated;
        }
        usage
    }

    fn forget_vm_if_unused(&mut self, vm: u32) {
        let has_backend = self.clients.values().any(|client| client.vm == Some(vm));
        if has_backend || self.sessions.keys().any(|session| session.vm == vm) {
            return;
        }
        let usage = self.usage(vm);
        self.earlier.insert(vm, usage);
        self.feed(Event::VmRemoved { vm });
    }

    /// Has the core treat a VM as the map says.
    pub(crate) fn set_terms(&mut self, vm: u32) {
        let settings = self.map.settings_of(vm);
        let terms = Terms {
            level: level(settings.priority),
            weight: settings.weight,
            aging_us: settings.aging_ms.saturating_mul(1000),
            depth: settings.queue_depth,
        };
        self.feed(Event::VmSet { vm, terms });
    }

    /// Reads the pool map again; the old one stays if the new one is wrong.
    pub(crate) fn reload_map(&mut self) -> Result<()> {
        let map = PoolMap::load(&self.config, None)?;
        if map.softgpu != self.map.softgpu {
            anyhow::bail!(
                "{}: a change of [inventory] needs a restart",
                self.config.display()
            );
        }
        for (pool, uuid) in inventory::missing(&map, &self.inventory) {
            log::warn!("pool {pool}: there is no GPU {uuid}");
        }
        self.map = map;
        log::info!("pool map loaded: {} pools", self.map.pools.len());
        self.feed(Event::Configured(self.map.scheduler));
        let clients = self.clients.values().filter_map(|client| client.vm);
        let vms: BTreeSet<u32> = clients
            .chain(self.sessions.keys().map(|session| session.vm))
            .collect();
        for vm in vms {
            // The sessions of a VM that is in no pool any longer run on as they were; it gets no new ones.
            if self.map.pool_of(vm).is_some() {
                self.set_terms(vm);
            }
        }
        Ok(())
    }

    fn write_usage(&mut self) {
        self.written_us = self.now_us();
        let vms = std::mem::take(&mut self.unwritten);
        if vms.is_empty() {
            return;
        }
        self.store
            .write(vms.iter().map(|vm| (*vm, self.usage(*vm))).collect());
        // Turns that are still held go on.
        self.unwritten = self
            .sessions
            .iter()
            .filter(|(_, live)| live.seated)
            .map(|(id, _)| id.vm)
            .collect();
    }

    /// Writes what is not written yet. Sessions keep their turns: they outlive this process.
    fn end(&mut self) {
        drain(&self.terminate);
        self.feed(Event::Tick);
        self.write_usage();
        log::info!("ended");
    }
}

/// How a session is called in the log.
pub(crate) fn name(session: Session) -> String {
    format!("VM {} session {}", session.vm, session.number)
}

/// The UUIDs of GPUs.
pub(crate) fn uuids(inventory: &[Gpu], gpus: GpuSet) -> Vec<String> {
    gpus.iter()
        .filter_map(|gpu| inventory.get(gpu as usize))
        .map(|gpu| gpu.uuid.clone())
        .collect()
}

/// The core's word for a priority.
fn level(priority: Priority) -> Level {
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
