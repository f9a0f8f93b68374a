//! What comes over the lines between the launcher and a guest: console, agent and QMP.
//!
//! The agent gets lines `<job> <user> <command>` and sends lines `<job> <output>`; a job ends with the line
//! `<job> @exit <status>`, which follows a line break of its own, so that output without a final line break
//! can be told from output with one. After each boot it sends `@ready`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a guest command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output and standard error, in the order written.
    pub text: String,
    /// The exit status; 128 and above is a signal, as a shell counts.
    pub status: i32,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

#[derive(Debug, Default)]
pub(crate) enum JobState {
    #[default]
    Running,
    Ended(i32),
    /// The guest was reset under it.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct JobRecord {
    pub(crate) lines: Vec<String>,
    pub(crate) state: JobState,
}

impl JobRecord {
    /// The output as the command wrote it: the line before the end mark was cut off by the mark's own break.
    pub(crate) fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Everything heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) console: Vec<String>,
    /// How often the agent said that it is ready: once per boot.
    pub(crate) boots: u32,
    pub(crate) jobs: HashMap<u64, JobRecord>,
    pub(crate) qmp_replies: HashMap<u64, Value>,
    pub(crate) qmp_events: Vec<Value>,
    /// QEMU has closed its end of a line.
    pub(crate) closed: bool,
    pub(crate) panicked: bool,
}

impl Heard {
    fn console_line(&mut self, line: String) {
        // The kernel says it twice; the second time may come after a reset has already been asked for.
        self.panicked |= line.contains("] Kernel panic - not syncing");
        self.console.push(line);
    }

    fn agent_line(&mut self, line: &str) {
        if line == "@ready" {
            self.boots += 1;
            self.panicked = false;
            for job in self.jobs.values_mut() {
                if matches!(job.state, JobState::Running) {
                    job.state = JobState::Lost;
                }
            }
            return;
        }
        let (id, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some(job) = id.parse().ok().and_then(|id: u64| self.jobs.get_mut(&id)) else {
            return;
        };
        match rest.strip_prefix("@exit ").and_then(|status| status.parse().ok()) {
            Some(status) => job.state = JobState::Ended(status),
            None => job.lines.push(rest.to_owned()),
        }
    }

    fn qmp_line(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            return;
        };
        if message.get("event").is_some() {
            self.qmp_events.push(message);
        } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
            self.qmp_replies.insert(id, message);
        }
    }
}

/// Which line a reader thread listens to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    Console,
    Agent,
    Qmp,
}

/// What was heard, shared with the threads that listen.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something, at most for `limit`. `None` when the time is over.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut(&mut Heard) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        let mut heard = self.heard();
        loop {
            if let Some(found) = ready(&mut heard) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            heard = self
                .changed
                .wait_timeout(heard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Starts the thread that listens to one line until QEMU closes it.
    pub(crate) fn listen(self: &Arc<Self>, line: Line, stream: UnixStream) -> std::io::Result<()> {
        let ear = Arc::clone(self);
        thread::Builder::new()
            .name(format!("vm-{line:?}"))
            .spawn(move || ear.hear(line, stream))
            .map(drop)
    }

    fn hear(&self, line: Line, stream: impl Read) {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            // A reset QEMU is a closed line, too.
            let closed = !matches!(reader.read_until(b'\n', &mut bytes), Ok(1..));
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches(['\n', '\r']);
            let mut heard = self.heard();
            match line {
                _ if closed => heard.closed = true,
                Line::Console => heard.console_line(text.to_owned()),
                Line::Agent => heard.agent_line(text),
                Line::Qmp => heard.qmp_line(text),
            }
            drop(heard);
            self.changed.notify_all();
            if closed {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(line: Line, text: &str, jobs: &[u64]) -> Heard {
        let ear = Ear::default();
        ear.heard()
            .jobs
            .extend(jobs.iter().map(|&id| (id, JobRecord::default())));
        ear.hear(line, text.as_bytes());
        ear.heard.into_inner().unwrap()
    }

    #[test]
    fn output_keeps_its_last_line_break_or_its_lack() {
        let heard = hear(
            Line::Agent,
            "1 a\n2 x\n1 b\n1 \n1 @exit 0\n2 y\n2 @exit 7\n",
            &[1, 2],
        );
        assert_eq!(heard.jobs[&1].text(), "a\nb\n");
        assert!(matches!(heard.jobs[&1].state, JobState::Ended(0)));
        assert_eq!(heard.jobs[&2].text(), "x\ny");
        assert!(matches!(heard.jobs[&2].state, JobState::Ended(7)));
    }

    #[test]
    fn a_reset_loses_running_jobs_only() {
        let heard = hear(Line::Agent, "1 @exit 0\n2 cut off in the mid\n@ready\n", &[1, 2]);
        assert_eq!(heard.boots, 1);
        assert!(matches!(heard.jobs[&1].state, JobState::Ended(0)));
        assert!(matches!(heard.jobs[&2].state, JobState::Lost));
    }

    #[test]
    fn replies_and_events_are_told_apart() {
        let heard = hear(
            Line::Qmp,
            "{\"QMP\": {}}\r\n{\"event\": \"RESET\"}\r\n{\"return\": {}, \"id\": 4}\r\nnonsense\r\n",
            &[],
        );
        assert_eq!(heard.qmp_events.len(), 1);
        assert!(heard.qmp_replies[&4].get("return").is_some());
        assert!(heard.closed);
    }

    #[test]
    fn a_panic_is_noticed() {
        assert!(hear(Line::Console, "[ 1.0] Kernel panic - not syncing: x\n", &[]).panicked);
    }
}
