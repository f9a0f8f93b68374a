//! Requests at the control socket and their answers.
use crate::daemon::Daemon;
use crate::page::TurnPage;
use crate::sessions::Attachment;
use crate::store::Of;
use crate::usage;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketType, sockopt};
use std::os::fd::{AsRawFd, OwnedFd};
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{Answer, Refusal, Request, Sharing, VERSION};
use vgpu_sched_core::Session;

/// Bytes of a program's name that are kept.
const PROGRAM_LEN_MAX: usize = 256;

/// Pools, or ranges of VMs, that a message names at most.
const NAMED_MAX: usize = 12;

/// Why a request is refused, and the details.
pub(crate) type Refused = (Refusal, String);

/// Who asks for something.
pub(crate) struct Asker {
    /// The user, as the kernel says.
    pub(crate) uid: u32,
    /// It is a VM's backend.
    pub(crate) is_backend: bool,
    /// Why he may change nothing, if that is so.
    pub(crate) may_not: Option<&'static str>,
}

impl Daemon {
    /// The answer to a client's request; `None` if it comes later.
    pub(crate) fn answer(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) -> Option<Answer> {
        let answer = self.try_answer(client, request, fds);
        answer.unwrap_or_else(|(why, message)| {
            log::warn!("refused ({why:?}): {message}");
            Some(Answer::Refused { why, message })
        })
    }

    fn try_answer(
        &mut self,
        client: u64,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Answer>, Refused> {
        let answer = match request {
            Request::Hello { version, vm } => self.hello(client, version, vm),
            Request::OpenSession {
                session,
                pid,
                program,
                gpus,
            } => {
                let answer = self.open(client, session, (pid, &program), &gpus)?;
                self.tell_once_kept(client, answer);
                return Ok(None);
            }
            Request::AttachSession {
                session,
                pid,
                program,
                gpus,
                exec_pid: _,
            } => self.attach_session(client, session, (pid, program), &gpus, fds),
            Request::CloseSession { session } => self.close(client, session),
            Request::VmGpus => self.vm_gpus(client),
            Request::Status { from_vm } => {
                self.tell_once_stored(client, |daemon| daemon.status(from_vm));
                return Ok(None);
            }
            Request::Turns { from } => {
                let (turns, next) = self.ledger.from(from);
                Ok(Answer::Turns { turns, next })
            }
            Request::Scan => return self.scan(client),
            Request::Change(wanted) => return self.change(client, wanted),
            Request::Changes { from } => {
                let (changes, next) = self.audit.from(from);
                Ok(Answer::Changes { changes, next })
            }
            Request::Events { from, vm } => {
                if let Some(vm) = vm
                    && !self.history.has_of(vm)
                {
                    self.must_be_known(Some(vm.into()), None)?;
                }
                let (events, next) = self.history.from(from, vm);
                Ok(Answer::Events { events, next })
            }
            Request::Stats { from_vm } => {
                self.tell_once_stored(client, |daemon| daemon.stats(from_vm));
                return Ok(None);
            }
            Request::Usage(wanted) => {
                let question = usage::question(Of::Vms, wanted)?;
                self.must_be_known(question.vms, question.pool.as_deref())?;
                self.tell_stored(client, question);
                return Ok(None);
            }
            Request::GpuUsage(wanted) => {
                self.tell_stored(client, usage::question(Of::Gpus, wanted)?);
                return Ok(None);
            }
            Request::Probe => Ok(Answer::Probe { gpus: self.probe() }),
            Request::Arrivals { from } => {
                let (arrivals, next) = self.arrivals_from(from);
                Ok(Answer::Arrivals { arrivals, next })
            }
        };
        answer.map(Some)
    }

    /// Who asks about what neither the pool map nor `vgpu.db` knows has mistaken a name, and is not told that nothing was used.
    fn must_be_known(&self, vms: Option<VmRange>, pool: Option<&str>) -> Result<(), Refused> {
        let pools = &self.map.pools;
        let is_known =
            |name: &str| pools.iter().any(|pool| pool.name == name) || self.earlier_pools.contains(name);
        if let Some(name) = pool.filter(|name| !is_known(name)) {
            let there = some(pools.iter().map(|pool| pool.name.clone()));
            return Err((
                Refusal::NotFound,
                format!("there is no pool {name}: there is {there}"),
            ));
        }
        let is_known = |vms: VmRange| {
            let mut ranges = pools.iter().flat_map(|pool| &pool.ranges);
            ranges.any(|range| range.and(vms).is_some())
                || self.known_vms().any(|vm| vms.contains(vm))
                || self.quarantines.range(vms.iter()).next().is_some()
        };
        if let Some(vms) = vms.filter(|vms| !is_known(*vms)) {
            let ranges = pools.iter().flat_map(|pool| &pool.ranges);
            let there = some(ranges.map(ToString::to_string));
            let message = format!(
                "{}: in no pool, and never was started: in pools is {there}",
                vms.name()
            );
            return Err((Refusal::NotFound, message));
        }
        Ok(())
    }

    fn hello(&mut self, client: u64, version: u32, vm: u32) -> Result<Answer, Refused> {
        if version != VERSION {
            let message = format!("version {version} of the messages is not known here, expected {VERSION}");
            return Err((Refusal::Invalid, message));
        }
        let pool = match self.map.pool_of(vm) {
            Some(pool) => pool.name.clone(),
            None => return Err((Refusal::NotMapped, format!("VM {vm} is in no pool"))),
        };
        let already = self.clients.get(&client).and_then(|client| client.vm);
        if let Some(already) = already {
            return Err((
                Refusal::Invalid,
                format!("this backend said already that it serves VM {already}"),
            ));
        }
        let other = self
            .clients
            .iter()
            .find(|(_, client)| client.vm == Some(vm))
            .map(|(id, _)| *id);
        if let Some(other) = other {
            // Its end and this request may have come at once.
            if !self.has_hung_up(other) {
                return Err((Refusal::Duplicate, format!("VM {vm} has a backend")));
            }
            self.drop_client(other, "it closed the connection");
        }
        let priority = self.map.priority_of(vm);
        if let Some(client) = self.clients.get_mut(&client) {
            client.vm = Some(vm);
        }
        log::info!("VM {vm}: a backend is here; pool {pool}, priority {priority}");
        self.set_terms(vm);
        Ok(Answer::Welcome { pool, priority })
    }

    fn open(
        &mut self,
        client: u64,
        number: u32,
        (pid, program): (u32, &str),
        wish: &[String],
    ) -> Result<Answer, Refused> {
        let session = self.session_of(client, number)?;
        // One that a backend left behind which is gone: the new one takes the number over when it attaches.
        if self
            .sessions
            .get(&session)
            .is_some_and(|live| live.client == client)
        {
            return Err((
                Refusal::Duplicate,
                format!("VM {} has a session {number}", session.vm),
            ));
        }
        let uuids = self.place(session, wish)?;
        let program = program.escape_debug();
        log::info!(
            "VM {} session {number}: opens: {program} (pid {pid} in the VM)",
            session.vm
        );
        let mps = self
            .map
            .pool_of(session.vm)
            .is_some_and(|pool| pool.sharing == Sharing::Mps);
        Ok(Answer::Gpus { uuids, mps })
    }

    fn attach_session(
        &mut self,
        client: u64,
        number: u32,
        (pid, mut program): (u32, String),
        has: &[String],
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Refused> {
        let session = self.session_of(client, number)?;
        self.must_not_be_quarantined(session.vm)?;
        let invalid = |message: String| (Refusal::Invalid, message);
        let [page, socket, pidfd] = <[OwnedFd; 3]>::try_from(fds).map_err(|fds| {
            invalid(format!(
                "{} descriptors, expected a turn page, a socket and a pidfd",
                fds.len()
            ))
        })?;
        let page = TurnPage::map(page).map_err(|error| invalid(error.to_string()))?;
        if sockopt::socket_type(&socket) != Ok(SocketType::SEQPACKET) {
            return Err(invalid("the second descriptor is no SEQPACKET socket".to_owned()));
        }
        let Some(exec_pid) = process_of(&pidfd) else {
            return Err(invalid("the third descriptor is no pidfd".to_owned()));
        };
        let gpus = self.gpus_of(session, has)?;
        program.truncate(program.floor_char_boundary(PROGRAM_LEN_MAX));
        let attachment = Attachment {
            client,
            pid,
            program,
            exec_pid,
            gpus,
            page,
            socket,
            pidfd,
        };
        self.attach(session, attachment).map_err(invalid)?;
        Ok(Answer::Ok)
    }

    fn close(&mut self, client: u64, number: u32) -> Result<Answer, Refused> {
        let session = self.session_of(client, number)?;
        // It may be gone already: its executor's end is often seen before the backend tells of it.
        self.detach(session, "closed");
        self.displace(session);
        Ok(Answer::Ok)
    }

    fn session_of(&self, client: u64, number: u32) -> Result<Session, Refused> {
        match self.clients.get(&client).and_then(|client| client.vm) {
            Some(vm) => Ok(Session { vm, number }),
            None => Err((Refusal::Invalid, "a backend says hello first".to_owned())),
        }
    }

    /// Who a client is, and whether he may change things.
    pub(crate) fn who_asks(&self, client: u64) -> Result<Asker, Refused> {
        let Some(client) = self.clients.get(&client) else {
            return Err((Refusal::NotAllowed, "it is gone".to_owned()));
        };
        let peer = self.admins.find(&client.socket).map_err(|error| {
            let message = format!("it cannot be told who asks: {error:#}");
            (Refusal::NotAllowed, message)
        })?;
        let is_backend = client.vm.is_some();
        let may_not = match (is_backend, peer.is_admin) {
            (true, _) => Some("a VM's backend changes nothing"),
            (false, true) => None,
            (false, false) => {
                Some("only root, vgpud's own user and members of its --admin-group change anything")
            }
        };
        Ok(Asker {
            uid: peer.uid,
            is_backend,
            may_not,
        })
    }

    fn has_hung_up(&self, client: u64) -> bool {
        let Some(client) = self.clients.get(&client) else {
            return true;
        };
        let mut fds = [PollFd::new(&client.socket, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().intersects(PollFlags::HUP))
    }
}

/// The first ones of some, as a message has them.
fn some(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let named = all.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => "none".to_owned(),
        len if len > NAMED_MAX => format!("{named} and {} more", len - NAMED_MAX),
        _ => named,
    }
}

/// The process that a descriptor stands for, as the kernel says in the descriptor's information: 0 if it has ended, or
/// cannot be seen from here; `None` if it stands for none.
fn process_of(fd: &OwnedFd) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    Some(pid.trim().parse().unwrap_or(0))
}
