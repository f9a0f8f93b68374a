//! Requests at the control socket and their answers.
use crate::daemon::{Attachment, Daemon, uuids};
use crate::inventory::gpus_of;
use crate::page::TurnPage;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketType, sockopt};
use std::os::fd::{AsRawFd, OwnedFd};
use vgpu_sched_api::messages::{Answer, Refusal, Request, VERSION};
use vgpu_sched_core::Session;

/// Bytes of a program's name that are kept.
const PROGRAM_LEN_MAX: usize = 256;

/// Why a request is refused, and the details.
type Refused = (Refusal, String);

impl Daemon {
    /// The answer to a client's request.
    pub(crate) fn answer(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) -> Answer {
        let answer = match request {
            Request::Hello { version, vm } => self.hello(client, version, vm),
            Request::OpenSession {
                session,
                pid,
                program,
            } => self.open(client, session, pid, &program),
            Request::AttachSession {
                session,
                pid,
                program,
                exec_pid,
            } => self.attach_session(client, session, (pid, program, exec_pid), fds),
            Request::CloseSession { session } => self.close(client, session),
            Request::Status => Ok(Answer::Status(Box::new(self.status()))),
            Request::Turns { from } => {
                let (turns, next) = self.ledger.from(from);
                Ok(Answer::Turns { turns, next })
            }
            Request::Reload => match self.reload_map() {
                Ok(()) => Ok(Answer::Ok),
                Err(error) => Err((Refusal::BadConfig, format!("{error:#}"))),
            },
            Request::Scan | Request::Edit { .. } => {
                Err((Refusal::Invalid, "not known to this version".to_owned()))
            }
        };
        answer.unwrap_or_else(|(why, message)| {
            log::warn!("refused ({why:?}): {message}");
            Answer::Refused { why, message }
        })
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

    fn open(&mut self, client: u64, number: u32, pid: u32, program: &str) -> Result<Answer, Refused> {
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
        let gpus = self.gpus_for(session.vm)?;
        let program = program.escape_debug();
        log::info!(
            "VM {} session {number}: opens: {program} (pid {pid} in the VM)",
            session.vm
        );
        Ok(Answer::Gpus {
            uuids: uuids(&self.inventory, gpus),
        })
    }

    fn attach_session(
        &mut self,
        client: u64,
        number: u32,
        (pid, mut program, exec_pid): (u32, String, u32),
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Refused> {
        let session = self.session_of(client, number)?;
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
        if !is_pidfd(&pidfd) {
            return Err(invalid("the third descriptor is no pidfd".to_owned()));
        }
        // A session that was started when its VM was in a pool may go on.
        let gpus = match self.sessions.get(&session) {
            Some(live) => live.gpus,
            None => self.gpus_for(session.vm)?,
        };
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
        self.attach(session, attachment)
            .map_err(|error| invalid(format!("the session's descriptors cannot be waited for: {error}")))?;
        Ok(Answer::Ok)
    }

    fn close(&mut self, client: u64, number: u32) -> Result<Answer, Refused> {
        let session = self.session_of(client, number)?;
        // It may be gone already: its executor's end is often seen before the backend tells of it.
        self.detach(session, "closed");
        Ok(Answer::Ok)
    }

    fn session_of(&self, client: u64, number: u32) -> Result<Session, Refused> {
        match self.clients.get(&client).and_then(|client| client.vm) {
            Some(vm) => Ok(Session { vm, number }),
            None => Err((Refusal::Invalid, "a backend says hello first".to_owned())),
        }
    }

    fn gpus_for(&self, vm: u32) -> Result<vgpu_sched_core::GpuSet, Refused> {
        let Some(pool) = self.map.pool_of(vm) else {
            return Err((Refusal::NotMapped, format!("VM {vm} is in no pool")));
        };
        let gpus = gpus_of(&pool.gpus, &self.inventory);
        if gpus.is_empty() {
            return Err((
                Refusal::NoGpu,
                format!("none of the GPUs of pool {} is there", pool.name),
            ));
        }
        Ok(gpus)
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

/// Whether a descriptor stands for a process, which the kernel says in the descriptor's information.
fn is_pidfd(fd: &OwnedFd) -> bool {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
        .is_ok_and(|info| info.lines().any(|line| line.starts_with("Pid:")))
}
