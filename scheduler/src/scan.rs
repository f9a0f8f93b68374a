//! Looking for GPUs. NVML is asked by a process of its own: it may take seconds, hang or crash over a GPU that fell off
//! the bus, and turns are given meanwhile.
use crate::daemon::Daemon;
use crate::history::Happened;
use crate::inventory::{self, Gpu};
use crate::poller::Source;
use crate::store::Changes;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use vgpu_sched_api::messages::{Answer, EventKind, Refusal};

/// This program's first argument when it is to list the GPUs; the second one is NVML's library.
pub const LIST: &str = "--list-gpus";
/// How long a look may take, in microseconds.
const LOOK_US: u64 = 60_000_000;

/// Who may change nothing has no other look begun this long after one, in microseconds: the driver is not his to keep busy.
const SINCE_US: u64 = 1_000_000;

/// A look that is under way.
pub(crate) struct Look {
    child: Child,
    output: ChildStdout,
    token: u64,
    text: Vec<u8>,
    /// When it has taken too long.
    pub(crate) until_us: u64,
    /// The clients that wait for it.
    waiting: Vec<u64>,
    /// What has happened since it began may have escaped it, so there is to be another one.
    again: bool,
    /// The clients that wait for that.
    next: Vec<u64>,
}

/// Lists the GPUs for a parent process.
pub fn list_for_parent(library: &Path) -> ExitCode {
    let listed = inventory::list(library).and_then(|gpus| {
        serde_json::to_writer(std::io::stdout(), &gpus).context("the list cannot be written")?;
        Ok(())
    });
    match listed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list(library: &Path) -> Command {
    // Also finds this program after its file was replaced.
    let mut command = Command::new("/proc/self/exe");
    command.arg(LIST).arg(library);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn read(text: &[u8]) -> Result<Vec<Gpu>> {
    match serde_json::from_slice(text) {
        Ok(gpus) => Ok(gpus),
        Err(_) if text.is_empty() => bail!("the process that lists them ended without a word"),
        Err(_) => bail!("{}", String::from_utf8_lossy(text).trim()),
    }
}

/// Looks once, and waits for it.
pub fn look(library: &Path) -> Result<Vec<Gpu>> {
    read(&list(library).stderr(Stdio::inherit()).output()?.stdout)
}

impl Daemon {
    /// Has the GPUs looked for; the client is answered later. Who may change nothing is content with a look that is under way,
    /// or has just ended.
    pub(crate) fn scan(&mut self, client: u64) -> Result<Option<Answer>, (Refusal, String)> {
        let asker = self.who_asks(client)?;
        if asker.is_backend {
            return Err((
                Refusal::NotAllowed,
                "a VM's backend does not look for GPUs".to_owned(),
            ));
        }
        let is_recent = self.looked_us.is_some_and(|at| self.now_us() < at + SINCE_US);
        match (&mut self.look, asker.may_not) {
            (Some(look), None) => {
                look.again = true;
                look.next.push(client);
                return Ok(None);
            }
            (Some(look), Some(_)) => {
                look.waiting.push(client);
                return Ok(None);
            }
            (None, Some(_)) if is_recent => {
                let found = self.listing_failed.clone().map_or(Ok(()), Err);
                self.tell(vec![client], found);
                return Ok(None);
            }
            (None, _) => {}
        }
        match self.start_look(vec![client]) {
            Ok(()) => Ok(None),
            Err(error) => Err((Refusal::Failed, unlisted(&error))),
        }
    }

    /// Has the GPUs looked for, unasked.
    pub(crate) fn look_again(&mut self) {
        if let Some(look) = &mut self.look {
            look.again = true;
        } else if let Err(error) = self.start_look(Vec::new()) {
            log::error!("{}", unlisted(&error));
        }
    }

    fn start_look(&mut self, waiting: Vec<u64>) -> Result<()> {
        let mut child = list(&self.library).spawn()?;
        let output = child.stdout.take().context("no pipe")?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let token = self.poller.add(&output, Source::Look)?;
        self.look = Some(Look {
            child,
            output,
            token,
            text: Vec::new(),
            until_us: self.now_us() + LOOK_US,
            waiting,
            again: false,
            next: Vec::new(),
        });
        Ok(())
    }

    /// Kills a process that asks NVML. It may be beyond being killed, so nobody waits for it.
    pub(crate) fn put_away(&mut self, mut child: Child) {
        if let Err(error) = child.kill() {
            log::debug!("a process that asks NVML: {error}");
        }
        self.put_away.push(child);
        self.put_away
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Reads what the look has found so far.
    pub(crate) fn serve_look(&mut self) {
        let Some(look) = &mut self.look else { return };
        let mut bytes = [0; 4096];
        match look.output.read(&mut bytes) {
            Ok(0) => self.end_look(None),
            Ok(read) => look.text.extend_from_slice(&bytes[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.end_look(Some(&error.to_string())),
        }
    }

    /// Gives a look up that takes too long.
    pub(crate) fn end_late_look(&mut self) {
        if self
            .look
            .as_ref()
            .is_some_and(|look| look.until_us <= self.now_us())
        {
            self.end_look(Some("NVML does not answer"));
        }
    }

    fn end_look(&mut self, failed: Option<&str>) {
        let Some(look) = self.look.take() else { return };
        self.poller.remove(&look.output, look.token);
        self.put_away(look.child);
        let found = match failed {
            Some(why) => Err(anyhow::Error::msg(why.to_owned())),
            None => read(&look.text),
        };
        let found = self.take_over(found);
        self.looked_us = Some(self.now_us());
        self.tell(look.waiting, found);
        if look.again
            && let Err(error) = self.start_look(look.next.clone())
        {
            let message = unlisted(&error);
            log::error!("{message}");
            self.tell(look.next, Err(message));
        }
    }

    /// Tells clients what a look has found.
    fn tell(&mut self, clients: Vec<u64>, found: Result<(), String>) {
        if clients.is_empty() {
            return;
        }
        let answer = match found {
            Ok(()) => {
                let present = self.inventory.present();
                let present: BTreeSet<String> = present.into_iter().map(|gpu| gpu.uuid.clone()).collect();
                let before = &self.told_present;
                let answer = Answer::Scanned {
                    gpus: self.gpu_status(),
                    appeared: present.difference(before).cloned().collect(),
                    vanished: before.difference(&present).cloned().collect(),
                };
                // It stays news for administrators until one of them was told.
                let is_admin =
                    |client: &u64| self.who_asks(*client).is_ok_and(|asker| asker.may_not.is_none());
                if clients.iter().any(is_admin) {
                    self.told_present = present;
                }
                answer
            }
            Err(message) => Answer::Refused {
                why: Refusal::Failed,
                message,
            },
        };
        for client in clients {
            self.send_answer(client, &answer);
        }
    }

    /// Takes over what a look has found, or says why there is nothing.
    fn take_over(&mut self, found: Result<Vec<Gpu>>) -> Result<(), String> {
        let gpus = match found {
            Ok(gpus) => gpus,
            Err(error) => {
                let message = unlisted(&error);
                log::error!("{message}");
                self.listing_failed = Some(message.clone());
                return Err(message);
            }
        };
        self.listing_failed = None;
        let news = self.inventory.update(gpus.clone());
        for (uuids, what) in [(news.appeared, "here"), (news.vanished, "gone")] {
            for uuid in uuids {
                let message = format!("GPU {uuid} is {what}");
                self.note_event(Happened::new(EventKind::GpuChanged, message).on(&[uuid]));
            }
        }
        self.store.write(Changes {
            gpus: Some(gpus),
            ..Changes::default()
        });
        Ok(())
    }
}

fn unlisted(error: &anyhow::Error) -> String {
    format!("the GPUs cannot be listed: {error:#}")
}
