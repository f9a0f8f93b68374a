//! Sessions from their opening to their end, and what VMs have used.
use crate::daemon::{Daemon, Live, name};
use crate::page::TurnPage;
use crate::placement;
use crate::poller::Source;
use crate::store::{Changes, Placed, Usage};
use crate::vm_page::SharedPage;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use vgpu_sched_api::messages::{Refusal, ToExec};
use vgpu_sched_api::packet;
use vgpu_sched_api::vm_page::SLOTS;
use vgpu_sched_core::{Event, Found, GpuSet, Session};

/// Sessions of a VM at most that are opened and not attached.
const OPENED_MAX: usize = 1024;

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
    /// Gives a session that is about to start its GPUs, which it keeps until it ends: those of the VM's that it wishes for, or
    /// all.
    pub(crate) fn place(
        &mut self,
        session: Session,
        wish: &[String],
    ) -> Result<Vec<String>, (Refusal, String)> {
        self.must_not_be_quarantined(session.vm)?;
        // One that a backend left behind which is gone.
        self.detach(session, "its number was given to another one");
        self.displace(session);
        let opened = of_vm(&self.placed, session.vm).filter(|(id, _)| !self.sessions.contains_key(id));
        if opened.count() >= OPENED_MAX {
            return Err((
                Refusal::Invalid,
                format!(
                    "VM {} has {OPENED_MAX} sessions that were opened and not attached",
                    session.vm
                ),
            ));
        }
        let shown = self.next_gpus(session.vm)?;
        let gpus = placement::select(&shown, wish).map_err(|message| (Refusal::NotFound, message))?;
        let placed = Placed {
            shown,
            gpus: gpus.clone(),
            calls: 0,
        };
        self.placed.insert(session, placed);
        self.save_session(session);
        Ok(gpus)
    }

    /// The GPUs that a VM has: its next session gets them, or those of them that it wishes for.
    pub(crate) fn next_gpus(&self, vm: u32) -> Result<Vec<String>, (Refusal, String)> {
        let Some(pool) = self.map.pool_of(vm) else {
            return Err((Refusal::NotMapped, format!("VM {vm} is in no pool")));
        };
        let usable = self.inventory.usable(&pool.gpus);
        if usable.is_empty() {
            return Err((
                Refusal::NoGpu,
                format!("none of the GPUs of pool {} is there", pool.name),
            ));
        }
        let sessions = self.placed.iter();
        let sessions = sessions.map(|(id, placed)| placement::Placement {
            vm: id.vm,
            shown: &placed.shown,
            gpus: &placed.gpus,
        });
        Ok(placement::choose(&usable, pool.gpus_per_vm, vm, sessions))
    }

    /// The GPUs that a session was given when it was opened; those that it says it has if that is not known any longer.
    pub(crate) fn gpus_of(&mut self, session: Session, has: &[String]) -> Result<GpuSet, (Refusal, String)> {
        let uuids = match self.placed.get(&session) {
            Some(placed) => placed.gpus.clone(),
            None => self.place(session, has)?,
        };
        let numbers: Option<Vec<u32>> = uuids.iter().map(|uuid| self.inventory.number(uuid)).collect();
        match numbers {
            Some(numbers) if !numbers.is_empty() => Ok(numbers.into_iter().collect()),
            _ => Err((
                Refusal::NoGpu,
                "it has GPUs that are not known any longer".to_owned(),
            )),
        }
    }

    /// Takes a session in, in place of an earlier attachment of it.
    pub(crate) fn attach(&mut self, session: Session, new: Attachment) -> Result<(), String> {
        self.let_go(session, "it is attached anew");
        self.attachments += 1;
        let attachment = self.attachments;
        let slot = self.take_slot(session)?;
        let (socket_token, pidfd_token) = self.wait_for(session, attachment, &new).map_err(|error| {
            self.give_slot(session.vm, slot);
            format!("the session's descriptors cannot be waited for: {error}")
        })?;
        // Left over from before we started; the core sets it where it is needed.
        new.page.set_contended(false);
        let found = new.page.found();
        log::info!(
            "{}: attached: {} (pid {} in the VM), {}{}",
            name(session),
            new.program.escape_debug(),
            new.pid,
            match new.exec_pid {
                0 => "whose executor has ended or cannot be seen from here".to_owned(),
                pid => format!("executor {pid}"),
            },
            match found {
                Found::Nothing => "",
                Found::Held => ", in a turn that goes on",
                Found::Idle => ", in a turn that goes on, and idle",
                Found::Asked => ", in a turn that it was asked to end",
            }
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
                exec_pid: new.exec_pid,
                seated: false,
                contended: false,
                idle: false,
                orders: BTreeMap::new(),
                was_stopped: false,
                slot,
                turn: 0,
                violated_in: None,
                asked_us: None,
                kernel_max_us: self.terms_of(session.vm).kernel_max_us,
                progress: 0,
                handed: BTreeMap::new(),
                handed_nonsense: false,
                leaving: false,
                has_proved: false,
            },
        );
        self.hand_page(session);
        self.feed(Event::Attached { session, gpus, found });
        Ok(())
    }

    fn wait_for(&mut self, session: Session, attachment: u64, new: &Attachment) -> Result<(u64, u64), Errno> {
        rustix::io::ioctl_fionbio(&new.socket, true)?;
        let source = Source::Executor(session, attachment);
        let socket_token = self.poller.add(&new.socket, source)?;
        match self.poller.add(&new.pidfd, Source::Death(session, attachment)) {
            Ok(pidfd_token) => Ok((socket_token, pidfd_token)),
            Err(error) => {
                self.poller.remove(&new.socket, socket_token);
                Err(error)
            }
        }
    }

    /// A slot in its VM's page, which is made for the VM's first session.
    fn take_slot(&mut self, session: Session) -> Result<usize, String> {
        let vm = session.vm;
        let page = match self.vm_pages.entry(vm) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(place) => {
                let page = SharedPage::new(&self.map.settings_of(vm).limits);
                place.insert(page.map_err(|error| format!("no page for VM {vm}: {error}"))?)
            }
        };
        let gpus = self.placed.get(&session).map(|placed| placed.gpus.as_slice());
        let slot = page.take_slot(gpus.unwrap_or_default());
        slot.ok_or_else(|| format!("VM {vm} has {SLOTS} sessions, which is the most"))
    }

    fn give_slot(&mut self, vm: u32, slot: usize) {
        if let Entry::Occupied(mut page) = self.vm_pages.entry(vm) {
            page.get_mut().give_slot(slot);
            if page.get().is_unused() {
                page.remove();
            }
        }
    }

    /// Hands a session's executor its VM's page.
    fn hand_page(&self, session: Session) {
        let (Some(live), Some(page)) = (self.sessions.get(&session), self.vm_pages.get(&session.vm)) else {
            return;
        };
        let order = ToExec::VmPage {
            slot: live.slot as u32,
            columns: page
                .columns(live.slot)
                .iter()
                .map(|column| *column as u32)
                .collect(),
        };
        if let Err(error) = packet::send(&live.socket, &order, &[page.memfd()]) {
            log::error!("{}: its VM's page is not handed over: {error:#}", name(session));
        }
    }

    /// Ends a session's part in the scheduling. Should its executor still run, it has no turn any longer.
    pub(crate) fn detach(&mut self, session: Session, why: &str) {
        if self.let_go(session, why) {
            self.displace(session);
            self.forget_vm_if_unused(session.vm);
        }
    }

    fn let_go(&mut self, session: Session, why: &str) -> bool {
        self.count(session);
        self.let_go_on(session);
        let Some(mut live) = self.sessions.remove(&session) else {
            return false;
        };
        log::info!("{}: gone: {why}", name(session));
        self.watched.remove(&session);
        self.watcher.forget(session);
        let now_us = self.now_us();
        self.gpu_errors
            .note_end(now_us, live.exec_pid, session, live.gpus);
        self.limited.remove(&session);
        self.endings.remove(&session);
        // Time in which it had nothing to do, or others that it shared its turn with, is not charged.
        if let Some(idle) = live.if_idle(session) {
            self.feed(idle);
        }
        self.see_idle(|other| other.gpus.meets(live.gpus));
        live.page.revoke();
        self.poller.remove(&live.socket, live.socket_token);
        self.poller.remove(&live.pidfd, live.pidfd_token);
        self.give_slot(session.vm, live.slot);
        self.feed(Event::Gone { session });
        self.settle_arrival(session, None);
        true
    }

    /// A session is over: its GPUs are forgotten, its calls are its VM's.
    pub(crate) fn displace(&mut self, session: Session) {
        let Some(placed) = self.placed.remove(&session) else {
            return;
        };
        let usage = self.earlier.entry(session.vm).or_default();
        usage.calls = usage.calls.saturating_add(placed.calls);
        // At once, or after a crash the calls would count twice or not at all.
        self.write_ended(session);
    }

    /// Sessions of a VM that nobody will attach any more.
    pub(crate) fn displace_opened(&mut self, vm: u32) {
        let opened: Vec<_> = of_vm(&self.placed, vm)
            .map(|(id, _)| id)
            .filter(|id| !self.sessions.contains_key(id))
            .collect();
        for session in opened {
            self.displace(session);
        }
    }

    /// Takes over what a session's page says about its calls.
    pub(crate) fn count(&mut self, session: Session) {
        if let (Some(live), Some(placed)) = (self.sessions.get(&session), self.placed.get_mut(&session)) {
            placed.calls = placed.calls.max(live.page.counts().0);
        }
    }

    pub(crate) fn save_session(&self, session: Session) {
        self.store.write(Changes {
            sessions: BTreeMap::from([(session, self.placed.get(&session).cloned())]),
            ..Changes::default()
        });
    }

    /// What a VM has used in all; the calls of its ended sessions alone. None of it is less than it was when it was last entered
    /// in the books, whatever is charged no longer.
    pub(crate) fn usage(&self, vm: u32) -> Usage {
        let mut usage = self.earlier.get(&vm).copied().unwrap_or_default();
        if let Some((turns, charge)) = self.core.usage(vm) {
            usage.turns += turns;
            usage.ns += charge.ns;
            usage.estimated_ns += charge.estimated_ns;
        }
        usage.ns = usage.ns.max(self.books.gpu_ns(vm));
        usage
    }

    /// Calls done by all sessions of a VM, as last counted.
    pub(crate) fn calls(&self, vm: u32) -> u64 {
        let ended = self.earlier.get(&vm).map_or(0, |usage| usage.calls);
        calls(vm, ended, &self.placed)
    }

    pub(crate) fn forget_vm_if_unused(&mut self, vm: u32) {
        let has_backend = self.clients.values().any(|client| client.vm == Some(vm));
        if has_backend || self.sessions.keys().any(|session| session.vm == vm) {
            return;
        }
        let usage = self.usage(vm);
        self.earlier.insert(vm, usage);
        self.feed(Event::VmRemoved { vm });
    }
}

/// Calls done by all sessions of a VM: those that ended, and those that are there.
pub(crate) fn calls(vm: u32, ended: u64, placed: &BTreeMap<Session, Placed>) -> u64 {
    of_vm(placed, vm).fold(ended, |sum, (_, placed)| sum.saturating_add(placed.calls))
}

/// The sessions of a VM in a list.
pub(crate) fn of_vm<T>(sessions: &BTreeMap<Session, T>, vm: u32) -> impl Iterator<Item = (Session, &T)> {
    let first = Session { vm, number: 0 };
    let last = Session { vm, number: u32::MAX };
    sessions.range(first..=last).map(|(id, session)| (*id, session))
}
