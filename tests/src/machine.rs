//! Where a check runs CUDA programs: in a VM, or in this host's own processes with `VGPU_SOCKET`. A check
//! that is written for [`Machine`] holds for both.
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vgpu_vm::process::Process;
use vgpu_vm::{Artifacts, Output, Vm};

use crate::Stack;

/// How long a job may take to say or do what is waited for. Emulated guests are slow.
const LIMIT: Duration = Duration::from_secs(180);

/// A place where commands run that use one VM's GPU.
pub trait Machine {
    /// A command that runs.
    type Job;
    /// Starts a one-line shell command; the test programs are on the path.
    fn start(&mut self, command: &str) -> Result<Self::Job>;
    /// Waits until it has printed `text`.
    fn wait_for_output(&mut self, job: &Self::Job, text: &str) -> Result<()>;
    /// What it has printed so far.
    fn said(&self, job: &Self::Job) -> String;
    /// Waits for its end.
    fn wait(&mut self, job: Self::Job) -> Result<Output>;

    /// Starts a command whose process can be signalled: its process id comes with the job.
    fn start_with_pid(&mut self, command: &str) -> Result<(Self::Job, u32)> {
        let job = self.start(&format!("sh -c 'echo pid=$$; exec {command}'"))?;
        self.wait_for_output(&job, "pid=")?;
        let said = self.said(&job);
        let pid = said
            .lines()
            .find_map(|line| line.strip_prefix("pid=")?.parse().ok());
        Ok((job, pid.with_context(|| format!("no process id in {said:?}"))?))
    }

    /// Runs a command to its end.
    fn run(&mut self, command: &str) -> Result<Output> {
        let job = self.start(command)?;
        self.wait(job)
    }

    /// Runs a command that must succeed; what it printed.
    fn must(&mut self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        if !output.success() {
            bail!("`{command}` ended with {}:\n{}", output.status, output.text);
        }
        Ok(output.text)
    }
}

impl Machine for Vm {
    type Job = vgpu_vm::Job;

    fn start(&mut self, command: &str) -> Result<Self::Job> {
        Ok(Vm::start(self, command)?)
    }

    fn wait_for_output(&mut self, job: &Self::Job, text: &str) -> Result<()> {
        Ok(Vm::wait_for_output(self, job, text, LIMIT)?)
    }

    fn said(&self, job: &Self::Job) -> String {
        self.output_so_far(job)
    }

    fn wait(&mut self, job: Self::Job) -> Result<Output> {
        Ok(Vm::wait_for(self, job, LIMIT)?)
    }
}

/// This host, with the GPU of one VM of a [`Stack`].
pub struct Host {
    environment: Vec<(String, std::ffi::OsString)>,
}

impl Host {
    /// Programs of this host that use that VM's GPU.
    pub fn new(stack: &Stack, vm: u32) -> Self {
        let artifacts = stack.artifacts();
        Self::native(artifacts)
            .with("LD_LIBRARY_PATH", artifacts.guest_lib_dir())
            .with("VGPU_SOCKET", stack.socket(vm))
    }

    /// The same with one more variable in their environment.
    pub fn with(mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The same programs on the library that the services use, without them.
    pub fn beside(stack: &Stack) -> Self {
        stack
            .native_environment()
            .into_iter()
            .fold(Self::native(stack.artifacts()), |host, (name, value)| {
                host.with(name, value)
            })
    }

    /// The same programs on the machine's own library.
    pub fn native(artifacts: &Artifacts) -> Self {
        let mut path = artifacts.programs_dir().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Self {
            environment: vec![("PATH".into(), path)],
        }
    }
}

/// A command that runs on this host.
pub struct HostJob {
    process: Process,
    said: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Default)]
struct Said {
    text: String,
    ended: bool,
}

impl HostJob {
    fn until<T>(&self, what: &str, mut ready: impl FnMut(&Said) -> Option<T>) -> Result<T> {
        let end = Instant::now() + LIMIT;
        let (said, changed) = &*self.said;
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = ready(&said) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || said.ended {
                bail!("no {what}; it printed:\n{}", said.text);
            }
            said = changed
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Machine for Host {
    type Job = HostJob;

    fn start(&mut self, command: &str) -> Result<HostJob> {
        let mut shell = Command::new("/bin/sh");
        // `exec 2>&1` keeps the order of both; a single command then replaces the shell, so that a signal reaches it.
        shell
            .arg("-c")
            .arg(format!("exec 2>&1; {command}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn(shell).context("cannot start a shell")?;
        let output = process.child().stdout.take().context("no pipe")?;
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let sink = Arc::clone(&said);
        std::thread::Builder::new().name("output".into()).spawn(move || {
            let mut lines = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                let ended = !matches!(lines.read_until(b'\n', &mut line), Ok(1..));
                let mut said = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
                said.text += &String::from_utf8_lossy(&line);
                said.ended = ended;
                sink.1.notify_all();
                if ended {
                    return;
                }
            }
        })?;
        Ok(HostJob { process, said })
    }

    fn wait_for_output(&mut self, job: &HostJob, text: &str) -> Result<()> {
        job.until(&format!("output with {text:?}"), |said| {
            said.text.contains(text).then_some(())
        })
    }

    fn said(&self, job: &HostJob) -> String {
        job.said
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text
            .clone()
    }

    fn wait(&mut self, mut job: HostJob) -> Result<Output> {
        let text = job.until("end of the output", |said| said.ended.then(|| said.text.clone()))?;
        let status = job.process.child().wait()?;
        let status = std::os::unix::process::ExitStatusExt::signal(&status)
            .map_or_else(|| status.code().unwrap_or(-1), |signal| 128 + signal);
        Ok(Output { text, status })
    }
}
