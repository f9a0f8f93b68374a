//! The event loop around the core.
use crate::admin::Admins;
use crate::gpu_errors::GpuErrors;
use crate::inventory::Inventory;
use crate::ledger::Ledger;
use crate::page::{Taken, TurnPage};
use crate::poller::{Poller, Source};
use crate::scan::Look;
use crate::sessions::of_vm;
use crate::store::{Changes, Placed, Saved, Store, Usage};
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
use vgpu_sched_api::messages::{Answer, FromExec, PACKET_LEN_MAX, Priority, Request, ToExec, TurnRecord};
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
    pub inventory: Inventory,
    /// Why the GPUs could not be listed.
    pub listing_failed: Option<String>,
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
    pub(crate) inventory: Inventory,
    pub(crate) listing_failed: Option<String>,
    pub(crate) library: PathBuf,
    pub(crate) admins: Admins,
    /// The look at the GPUs that is under way.
    pub(crate) look: Option<Look>,
    /// The UUIDs of the GPUs that were there when somebody who asked was last told.
    pub(crate) told_present: BTreeSet<String>,
    pub(crate) watcher: Watcher,
    pub(crate) gpu_errors: GpuErrors,
    /// Processes that ask NVML, were killed and may not have ended.
    pub(crate) put_away: Vec<Child>,
    pub(crate) core: Core,
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) sessions: BTreeMap<Session, Live>,
    pub(crate) ledger: Ledger,
    /// Sessions that were opened and are not over.
    pub(crate) placed: BTreeMap<Session, Placed>,
    /// What VMs used before the core knew them, and the calls of their sessions that ended.
    pub(crate) earlier: BTreeMap<u32, Usage>,
    pub(crate) listener: OwnedFd,
    pub(crate) terminate: OwnedFd,
    pub(crate) reload: OwnedFd,
    pub(crate) poller: Poller,
    pub(crate) store: Store,
    /// VMs whose usage is to be written, and when it was last.
    pub(crate) unwritten: BTreeSet<u32>,
    pub(crate) written_us: u64,
    /// Sessions whose page is to be looked at.
    pub(crate) watched: BTreeSet<Session>,
    pub(crate) events: VecDeque<Event>,
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
    pub(crate) orders: BTreeMap<u64, &'static str>,
    pub(crate) was_stopped: bool,
}

impl Daemon {
    /// Gets ready; nobody is served yet.
    pub fn new(setup: Setup) -> Result<Self> {
        let mut poller = Poller::new().context("epoll")?;
        poller.add(&setup.listener, Source::Listener).context("epoll")?;
        poller.add(&setup.terminate, Source::Terminate).context("epoll")?;
        poller.add(&setup.reload, Source::Reload).context("epoll")?;
        let gpu_errors = GpuErrors::new(&setup.kmsg, &mut poller);
        let present = setup.inventory.present().into_iter();
        let told_present = present.map(|gpu| gpu.uuid.clone()).collect();
        Ok(Self {
            core: Core::new(setup.map.scheduler),
            config: setup.config,
            map: setup.map,
            inventory: setup.inventory,
            listing_failed: setup.listing_failed,
            library: setup.library,
            admins: setup.admins,
            look: None,
            told_present,
            watcher: Watcher::new(),
            gpu_errors,
            put_away: Vec::new(),
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ledger: Ledger::default(),
            placed: setup.saved.sessions,
            earlier: setup.saved.usage,
            listener: setup.listener,
            terminate: setup.terminate,
            reload: setup.reload,
            poller,
            store: setup.store,
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
                    Source::Look => self.serve_look(),
                    Source::Watcher => self.serve_watcher(),
                    Source::KernelLog => self.serve_kernel_log(),
                    Source::Client(id) => self.serve_client(id),
                    Source::Executor(session, attachment) => self.serve_executor(session, attachment),
                    Source::Death(session, attachment) => {
                        if self.is_attached(session, attachment) {
                            self.detach(session, "its executor ended");
                        }
                    }
                }
            }
            self.end_late_look();
            self.tend_watcher();
            self.tell_late_errors();
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
        let give_up = self.look.as_ref().map(|look| look.until_us);
        let watch = Some(self.watcher.next_us());
        let times = [
            self.core.deadline(),
            look,
            write,
            give_up,
            watch,
            self.gpu_errors.next_us(),
        ];
        times.into_iter().flatten().min()
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
            Action::Suspend { .. } | Action::Reached { .. } | Action::EndSession { .. } => {}
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
                let uuids = self.inventory.uuids(live.gpus);
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
    pub(crate) fn order(&mut self, session: Session, order: &ToExec, sequence: Option<u64>) {
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
            Ok((FromExec::Channels { .. } | FromExec::Latencies { .. } | FromExec::Suspended { .. }, _)) => {}
            Ok((FromExec::Proved { slices, stop, .. }, _)) => {
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

    /// Has the core treat a VM as the map says.
    pub(crate) fn set_terms(&mut self, vm: u32) {
        let settings = self.map.settings_of(vm);
        let terms = Terms {
            level: level(settings.priority),
            weight: settings.weight,
            aging_us: settings.aging_ms.saturating_mul(1000),
            depth: settings.queue_depth,
            ..Terms::at(level(settings.priority))
        };
        self.feed(Event::VmSet { vm, terms });
    }

    fn write_usage(&mut self) {
        self.written_us = self.now_us();
        let vms = std::mem::take(&mut self.unwritten);
        if vms.is_empty() {
            return;
        }
        let sessions: Vec<_> = vms
            .iter()
            .flat_map(|vm| of_vm(&self.sessions, *vm).map(|(id, _)| id))
            .collect();
        for session in &sessions {
            self.count(*session);
        }
        let saved = |id: Session| (id, self.placed.get(&id).cloned());
        let changes = Changes {
            usage: vms.iter().map(|vm| (*vm, self.usage(*vm))).collect(),
            sessions: sessions.into_iter().map(saved).collect(),
            gpus: None,
        };
        self.store.write(changes);
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
        self.unwritten = self
            .sessions
            .keys()
            .map(|id| id.vm)
            .chain(std::mem::take(&mut self.unwritten))
            .collect();
        self.write_usage();
        log::info!("ended");
    }
}

/// How a session is called in the log.
pub(crate) fn name(session: Session) -> String {
    format!("VM {} session {}", session.vm, session.number)
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
