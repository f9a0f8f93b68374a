//! Looking for GPUs. NVML is asked by a process of its own: it may take seconds, hang or crash over a GPU that fell off
//! the bus, and turns are given meanwhile.
use crate::daemon::Daemon;
use crate::history::Happened;
use crate::inventory::{self, Gpu, News};
use crate::poller::Source;
use crate::store::Changes;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use vgpu_sched_api::messages::{Answer, EventKind, Refusal, Scanned};

/// This program's first argument when it is to list the GPUs; the second one is NVML's library.
pub const LIST: &str = "--list-gpus";
/// How long a look may take, in microseconds.
const LOOK_US: u64 = 60_000_000;
/// How old a look is before somebody who views the status has another one made, in microseconds.
const VIEW_US: u64 = 60_000_000;

/// When GPUs are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScanOn {
    /// When vgpud starts. Without it, GPUs known from before count as missing until somebody looks.
    Start,
    /// When the driver has other GPUs than before.
    Change,
    /// When somebody views the status, and the last look is a minute old.
    View,
    /// Only when an administrator asks, which is always possible.
    Asked,
}

/// Whether they can be meant together.
pub fn can_be(scan_on: &[ScanOn]) -> Result<(), &'static str> {
    match scan_on.contains(&ScanOn::Asked) && scan_on.iter().any(|when| *when != ScanOn::Asked) {
        true => Err(
            "--scan-on: \"asked\" means that GPUs are looked for at no other time: expected it alone, or some of start, change and view",
        ),
        false => Ok(()),
    }
}

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
    /// Has the GPUs looked for; the client is answered later. Who may change nothing has no more looks made than who views them:
    /// the driver is not his to keep busy.
    pub(crate) fn scan(&mut self, client: u64) -> Result<Option<Answer>, (Refusal, String)> {
        let asker = self.who_asks(client)?;
        if asker.is_backend {
            return Err((
                Refusal::NotAllowed,
                "a VM's backend does not look for GPUs".to_owned(),
            ));
        }
        if asker.may_not.is_some() {
            self.look_on_view();
            match &mut self.look {
                Some(look) => look.waiting.push(client),
                None => {
                    let found = self.listing_failed.clone().map_or(Ok(()), Err);
                    self.tell(vec![client], found);
                }
            }
            return Ok(None);
        }
        if let Some(look) = &mut self.look {
            look.again = true;
            look.next.push(client);
            return Ok(None);
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

    /// Has the GPUs looked for if that is due when somebody views them.
    pub(crate) fn look_on_view(&mut self) {
        let due = |looked_us| self.now_us().saturating_sub(looked_us) >= VIEW_US;
        if self.scan_on.contains(&ScanOn::View) && self.look.is_none() && self.looked_us.is_none_or(due) {
            self.look_again();
        }
    }

    fn start_look(&mut self, waiting: Vec<u64>) -> Result<()> {
        log::debug!("GPUs are looked for");
        // One that cannot be made is not to be tried at every view.
        self.looked_us = Some(self.now_us());
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
                let answer = Answer::Scanned(Scanned {
                    gpus: self.gpu_status(),
                    appeared: present.difference(before).cloned().collect(),
                    vanished: before.difference(&present).cloned().collect(),
                });
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
        self.note_news(news, "");
        self.store.write(Changes {
            gpus: Some(gpus),
            ..Changes::default()
        });
        Ok(())
    }

    /// Notes which GPUs came and went, and how that is known.
    pub(crate) fn note_news(&mut self, news: News, how: &str) {
        for (uuids, what) in [(news.appeared, "here"), (news.vanished, "gone")] {
            for uuid in uuids {
                let message = format!("GPU {uuid} is {what}{how}");
                self.note_event(Happened::new(EventKind::GpuChanged, message).on(&[uuid]));
            }
        }
    }
}

fn unlisted(error: &anyhow::Error) -> String {
    format!("the GPUs cannot be listed: {error:#}")
}

#[cfg(test)]
mod tests {
    use super::ScanOn::{Asked, Change, Start, View};
    use super::can_be;

    #[test]
    fn only_when_somebody_asks_is_at_no_other_time() {
        for can in [&[][..], &[Asked], &[Asked, Asked], &[Start, Change, View]] {
            assert_eq!(can_be(can), Ok(()), "{can:?}");
        }
        for cannot in [&[Asked, Start], &[View, Asked]] {
            assert!(
                can_be(cannot).unwrap_err().contains("expected it alone"),
                "{cannot:?}"
            );
        }
    }
}
