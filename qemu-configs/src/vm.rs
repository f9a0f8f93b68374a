//! A virtual machine: how it is started, commanded and ended.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::artifacts::Artifacts;
use crate::error::{Context, Error, Result};
use crate::initrd::Initrd;
use crate::process::Process;
use crate::wire::{Ear, Heard, JobRecord, JobState, Line, Output};

/// Longest guest command, in bytes: what the guest's terminal buffer takes at once.
pub const COMMAND_BYTES_MAX: usize = 3500;
/// The environment variable that chooses the accelerator: `tcg` (default) or `kvm`.
pub const ACCEL_ENV: &str = "VGPU_ACCEL";

/// Descriptors under which QEMU finds its lines to the launcher.
const CONSOLE_FD: i32 = 3;
const AGENT_FD: i32 = 4;
const QMP_FD: i32 = 5;

/// The virtio-vgpu device as QEMU is to present it.
const DEVICE: &str =
    "vhost-user-test-device-pci,id=vgpu,bus=rootport,virtio-id=21,num_vqs=3,vq_size=256,config_size=256";

/// A boot takes 3 s on a quiet machine; this is for one that is busy building.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long a command in a guest may take, unless a limit is given.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(180);
const QMP_LIMIT: Duration = Duration::from_secs(60);
/// Console lines that an error shows.
const CONSOLE_TAIL: usize = 30;

/// How QEMU runs guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// In software: works everywhere.
    Tcg,
    /// With the host's `/dev/kvm`.
    Kvm,
}

impl Accel {
    /// What `VGPU_ACCEL` asks for; TCG if it says nothing.
    pub fn from_env() -> Self {
        match std::env::var(ACCEL_ENV).as_deref() {
            Ok("kvm") => Self::Kvm,
            _ => Self::Tcg,
        }
    }
}

/// Collects what a virtual machine is to be.
#[derive(Debug)]
pub struct Builder {
    artifacts: Artifacts,
    name: String,
    memory_mib: u32,
    cpus: u32,
    accel: Accel,
    vhost_socket: Option<PathBuf>,
    user: Option<(u32, u32)>,
    vmlinux: PathBuf,
    initramfs: PathBuf,
    kernel_words: Vec<String>,
    files: Vec<(String, PathBuf)>,
    disks: Vec<PathBuf>,
    qemu_args: Vec<String>,
}

impl Builder {
    /// Guest memory in MiB; 512 unless told.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Number of virtual CPUs; 2 unless told.
    #[must_use]
    pub fn smp(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The accelerator; what `VGPU_ACCEL` says unless told.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Gives the guest a virtio-vgpu device, served by the vhost-user backend that listens on `socket`.
    #[must_use]
    pub fn vhost_socket(mut self, socket: impl Into<PathBuf>) -> Self {
        self.vhost_socket = Some(socket.into());
        self
    }

    /// Runs QEMU as this user and group; needs privileges. The vhost socket must let them connect.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Another kernel (an ELF image with a PVH entry).
    #[must_use]
    pub fn kernel(mut self, vmlinux: impl Into<PathBuf>) -> Self {
        self.vmlinux = vmlinux.into();
        self
    }

    /// Another initial file system.
    #[must_use]
    pub fn initrd(mut self, initramfs: impl Into<PathBuf>) -> Self {
        self.initramfs = initramfs.into();
        self
    }

    /// Adds a word to the kernel's command line. `vgpu_load=0` leaves `vgpu.ko` unloaded, and
    /// `vgpu_params=name=value,…` loads it with these parameters.
    #[must_use]
    pub fn kernel_word(mut self, word: impl Into<String>) -> Self {
        self.kernel_words.push(word.into());
        self
    }

    /// Puts a copy of the host file `from` into the guest, executable, under the absolute path `path`.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.files.push((path.into(), from.into()));
        self
    }

    /// Gives the guest a read-only disk with what is in the host file `image`: `/dev/vda` the first, `/dev/vdb` the next.
    #[must_use]
    pub fn disk(mut self, image: impl Into<PathBuf>) -> Self {
        self.disks.push(image.into());
        self
    }

    /// Adds an argument to QEMU's command line.
    #[must_use]
    pub fn qemu_arg(mut self, arg: impl Into<String>) -> Self {
        self.qemu_args.push(arg.into());
        self
    }

    /// The initial file system with the files of this VM appended.
    fn write_initrd(&self, folder: &TempDir) -> Result<PathBuf> {
        let base = Artifacts::existing(self.initramfs.clone())?;
        if self.files.is_empty() {
            return Ok(base);
        }
        let path = folder.path().join("initrd");
        let write = || -> std::io::Result<()> {
            std::fs::copy(&base, &path)?;
            let mut file = File::options().append(true).open(&path)?;
            // The kernel looks for the next archive at a multiple of four.
            let misaligned = (file.seek(SeekFrom::End(0))? % 4) as usize;
            file.write_all(&[0; 4][..(4 - misaligned) % 4])?;
            let mut archive = Initrd::new(file);
            for (path, from) in &self.files {
                archive.copy(path, 0o755, from)?;
            }
            archive.finish().map(drop)
        };
        write().context(|| format!("cannot write the initial file system of {}", self.name))?;
        Ok(path)
    }

    fn command(&self, initrd: &PathBuf) -> Result<Command> {
        let mut words = vec![
            "console=ttyS0",
            "loglevel=6",
            "oops=panic",
            "panic=0",
            // On a busy host an emulated processor may stand still for as long as a stuck one would.
            "watchdog_thresh=60",
            "rcupdate.rcu_cpu_stall_timeout=120",
            // And its timer may be so late that the kernel takes it for dead.
            "no_timer_check",
            "rdinit=/init",
        ];
        words.extend(self.kernel_words.iter().map(String::as_str));
        let accel = match self.accel {
            // 57-bit addresses would only make each walk of the software page tables longer.
            Accel::Tcg => ["-accel", "tcg,tb-size=128", "-cpu", "max,la57=off"],
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        };
        let mut command = self.artifacts.qemu_command()?;
        command.args(["-name", &self.name]).args(accel);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-machine", "q35,memory-backend=memory"]);
        // The backend maps guest memory, so it must be a shared memfd.
        command
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={}M,share=on",
                self.memory_mib
            ))
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        command
            .arg("-kernel")
            .arg(Artifacts::existing(self.vmlinux.clone())?)
            .arg("-initrd")
            .arg(initrd);
        command.args(["-append", &words.join(" ")]);
        for (id, fd) in [("console", CONSOLE_FD), ("agent", AGENT_FD), ("monitor", QMP_FD)] {
            command.arg("-chardev").arg(format!("socket,id={id},fd={fd}"));
        }
        command.args(["-serial", "chardev:console", "-serial", "chardev:agent"]);
        command.args(["-object", "monitor-qmp,id=qmp,chardev=monitor"]);
        command.args(["-device", "pcie-root-port,id=rootport,chassis=1,slot=1"]);
        if let Some(socket) = &self.vhost_socket {
            command
                .arg("-chardev")
                .arg(format!("socket,id=vgpu-chardev,path={}", socket.display()));
            command
                .arg("-device")
                .arg(format!("{DEVICE},chardev=vgpu-chardev"));
        }
        for (number, image) in self.disks.iter().enumerate() {
            let node = json!({
                "driver": "raw",
                "node-name": format!("disk{number}"),
                "read-only": true,
                "file": { "driver": "file", "filename": image },
            });
            command.arg("-blockdev").arg(node.to_string());
            command
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=disk{number}"));
        }
        command.args(&self.qemu_args);
        if let Some((uid, gid)) = self.user {
            command.gid(gid).uid(uid);
        }
        Ok(command)
    }

    /// Starts QEMU; the guest may not have booted yet when this returns.
    pub fn spawn(self) -> Result<Vm> {
        let what = || format!("cannot prepare {}", self.name);
        let folder = tempfile::Builder::new()
            .prefix("vgpu-vm-")
            .tempdir()
            .context(what)?;
        let initrd = self.write_initrd(&folder)?;
        if let Some((uid, gid)) = self.user {
            chown(folder.path(), Some(uid), Some(gid)).context(what)?;
        }
        let log_path = folder.path().join("qemu.log");
        let log = File::create(&log_path).context(what)?;
        let mut command = self.command(&initrd)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context(what)?)
            .stderr(log);

        let ear = Arc::new(Ear::default());
        let mut lines = Vec::new();
        let mut mappings = Vec::new();
        for (line, child_fd) in [
            (Line::Console, CONSOLE_FD),
            (Line::Agent, AGENT_FD),
            (Line::Qmp, QMP_FD),
        ] {
            let (ours, theirs) = UnixStream::pair().context(what)?;
            mappings.push(FdMapping {
                parent_fd: OwnedFd::from(theirs),
                child_fd,
            });
            lines.push((line, ours));
        }
        command
            .fd_mappings(mappings)
            .expect("the descriptors are distinct");
        let program = PathBuf::from(command.get_program());
        let process = Process::spawn(command).map_err(|source| Error::Spawn { program, source })?;
        for (line, stream) in &lines {
            ear.listen(*line, stream.try_clone().context(what)?)
                .context(what)?;
        }
        let [_, (_, agent), (_, qmp)] = <[_; 3]>::try_from(lines).expect("three lines were made");
        let mut vm = Vm {
            name: self.name,
            process,
            ear,
            agent,
            qmp,
            next_id: 1,
            log_path,
            _folder: folder,
        };
        vm.qmp("qmp_capabilities", json!({}))?;
        Ok(vm)
    }

    /// Starts QEMU and waits until the guest runs commands.
    pub fn boot(self) -> Result<Vm> {
        let mut vm = self.spawn()?;
        vm.wait_ready()?;
        Ok(vm)
    }
}

/// A guest command that was started and not yet waited for.
#[derive(Debug)]
#[must_use = "a job is waited for with Vm::wait"]
pub struct Job(u64);

/// A running virtual machine. Dropping it kills QEMU.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Process,
    ear: Arc<Ear>,
    agent: UnixStream,
    qmp: UnixStream,
    next_id: u64,
    log_path: PathBuf,
    /// Holds what this VM's QEMU reads; removed with it.
    _folder: TempDir,
}

impl Vm {
    /// A virtual machine of the given artifacts; its name appears in errors.
    pub fn builder(artifacts: &Artifacts, name: impl Into<String>) -> Builder {
        Builder {
            name: name.into(),
            memory_mib: 512,
            cpus: 2,
            accel: Accel::from_env(),
            vhost_socket: None,
            user: None,
            vmlinux: artifacts.vmlinux(),
            initramfs: artifacts.initramfs(),
            kernel_words: Vec::new(),
            files: Vec::new(),
            disks: Vec::new(),
            qemu_args: Vec::new(),
            artifacts: artifacts.clone(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything the guest has written to its console, one string per line.
    pub fn console(&self) -> Vec<String> {
        self.ear.heard().console.clone()
    }

    /// Console lines in which the kernel reports a fault of its own; a sound guest has none.
    pub fn kernel_complaints(&self) -> Vec<String> {
        const SIGNS: [&str; 7] = [
            "BUG:",
            "WARNING:",
            "Oops",
            "Call Trace",
            "Kernel panic",
            "refcount_t:",
            "rcu_sched self-detected",
        ];
        let complains = |line: &String| SIGNS.iter().any(|sign| line.contains(sign));
        self.console().into_iter().filter(complains).collect()
    }

    /// Waits until the guest runs commands for the first time.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_boots(1)
    }

    /// Waits until the guest has booted `boots` times since QEMU started.
    pub fn wait_boots(&mut self, boots: u32) -> Result<()> {
        self.wait_until("boot", BOOT_LIMIT, |heard| (heard.boots >= boots).then_some(()))
    }

    /// How often the guest has booted so far.
    pub fn boots(&self) -> u32 {
        self.ear.heard().boots
    }

    /// Waits for a console line with `text` in it, seen since QEMU started, and returns it.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("console line with {text:?}");
        self.wait_until(&what, limit, |heard| {
            heard.console.iter().find(|line| line.contains(text)).cloned()
        })
    }

    /// Runs a one-line shell command as the user `guest` and waits for its end.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_for(command, COMMAND_LIMIT)
    }

    /// The same, but waits at most for `limit`.
    pub fn run_for(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let job = self.start(command)?;
        self.wait_for(job, limit)
    }

    /// Runs a one-line shell command as root and waits for its end.
    pub fn run_as_root(&mut self, command: &str) -> Result<Output> {
        let job = self.start_as("root", command)?;
        self.wait(job)
    }

    /// Starts a one-line shell command as the user `guest`.
    pub fn start(&mut self, command: &str) -> Result<Job> {
        self.start_as("guest", command)
    }

    /// Starts a one-line shell command as the guest's user `user` (`guest` or `root`).
    pub fn start_as(&mut self, user: &str, command: &str) -> Result<Job> {
        if command.len() > COMMAND_BYTES_MAX || command.contains(['\n', '\r', '\0']) {
            return Err(Error::BadCommand);
        }
        let id = self.fresh_id();
        self.ear.heard().jobs.insert(id, JobRecord::default());
        log::debug!("{}: {user}: {command}", self.name);
        let sent = self
            .agent
            .write_all(format!("{id} {user} {command}\n").as_bytes());
        self.check_sent(sent)?;
        Ok(Job(id))
    }

    /// What a job has printed so far.
    pub fn output_so_far(&self, job: &Job) -> String {
        self.ear.heard().jobs[&job.0].text()
    }

    /// Waits until the output of a job has `text` in it, which may still run then.
    pub fn wait_for_output(&mut self, job: &Job, text: &str, limit: Duration) -> Result<()> {
        let vm = self.name.clone();
        self.wait_until(&format!("output with {text:?}"), limit, |heard| {
            let job = &heard.jobs[&job.0];
            if job.lines.iter().any(|line| line.contains(text)) {
                return Some(Ok(()));
            }
            match job.state {
                JobState::Running => None,
                JobState::Lost => Some(Err(Error::Reset { vm: vm.clone() })),
                JobState::Ended(status) => {
                    let (vm, text, output) = (vm.clone(), text.to_owned(), job.text());
                    Some(Err(Error::NotPrinted {
                        vm,
                        text,
                        status,
                        output,
                    }))
                }
            }
        })?
    }

    /// Waits for the end of a job.
    pub fn wait(&mut self, job: Job) -> Result<Output> {
        self.wait_for(job, COMMAND_LIMIT)
    }

    /// Waits for the end of a job, at most for `limit`.
    pub fn wait_for(&mut self, job: Job, limit: Duration) -> Result<Output> {
        let ended = self.wait_until("end of a command", limit, |heard| {
            match heard.jobs[&job.0].state {
                JobState::Running => None,
                JobState::Ended(status) => Some(Some(status)),
                JobState::Lost => Some(None),
            }
        })?;
        let record = self
            .ear
            .heard()
            .jobs
            .remove(&job.0)
            .expect("a job is waited for once");
        match ended {
            Some(status) => Ok(Output {
                text: record.text(),
                status,
            }),
            None => Err(Error::Reset {
                vm: self.name.clone(),
            }),
        }
    }

    /// Issues a QMP command and returns what it returned.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.fresh_id();
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        let sent = self.qmp.write_all(format!("{request}\n").as_bytes());
        self.check_sent(sent)?;
        let what = format!("answer to QMP {command}");
        let mut reply = self.wait_for_qemu(&what, |heard| heard.qmp_replies.remove(&id))?;
        match reply.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(Error::Qmp {
                vm: self.name.clone(),
                command: command.to_owned(),
                answer: reply["error"].to_string(),
            }),
        }
    }

    /// Waits for the next QMP event of this name, and takes it together with all before it.
    pub fn wait_for_event(&mut self, name: &str) -> Result<Value> {
        let what = format!("QMP event {name}");
        self.wait_for_qemu(&what, |heard| {
            let at = heard.qmp_events.iter().position(|event| event["event"] == name)?;
            heard.qmp_events.drain(..=at).next_back()
        })
    }

    /// Resets the machine without asking the guest, and waits until it has booted again. Jobs that ran are
    /// lost.
    pub fn reset(&mut self) -> Result<()> {
        let boots = self.boots();
        self.qmp("system_reset", json!({}))?;
        // A panic that made the reset necessary is over.
        self.ear.heard().panicked = false;
        self.wait_boots(boots + 1)
    }

    /// Unplugs the virtio-vgpu device, as a dead backend needs, and waits until it is gone.
    pub fn unplug_vgpu(&mut self) -> Result<()> {
        self.qmp("device_del", json!({ "id": "vgpu" }))?;
        // QEMU says it for the device's inner parts as well, which have no name.
        while self.wait_for_event("DEVICE_DELETED")?["data"]["device"] != "vgpu" {}
        self.qmp("chardev-remove", json!({ "id": "vgpu-chardev" }))
            .map(drop)
    }

    /// Plugs a virtio-vgpu device in, served by the backend that listens on `socket`.
    pub fn plug_vgpu(&mut self, socket: &std::path::Path) -> Result<()> {
        let address = json!({ "type": "unix", "data": { "path": socket } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        self.qmp("chardev-add", json!({ "id": "vgpu-chardev", "backend": backend }))?;
        let mut arguments = json!({ "chardev": "vgpu-chardev" });
        let mut words = DEVICE.split(',');
        arguments["driver"] = words.next().into();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            arguments[name] = value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
        }
        self.qmp("device_add", arguments).map(drop)
    }

    /// Kills QEMU, as a host that loses the VM would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn check_sent(&mut self, sent: std::io::Result<()>) -> Result<()> {
        match sent {
            Ok(()) => Ok(()),
            Err(_) => Err(self.gone()),
        }
    }

    /// Waits for something the guest does; its panic ends the wait, and so does the end of QEMU.
    fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&mut Heard) -> Option<T>,
    ) -> Result<T> {
        let found = self.wait_unless_closed(what, limit, |heard| match ready(heard) {
            Some(found) => Some(Some(found)),
            None => heard.panicked.then_some(None),
        })?;
        found.ok_or_else(|| Error::Panicked {
            vm: self.name.clone(),
            console: self.console_tail(),
        })
    }

    /// Waits for something that QEMU itself does, whatever has become of the guest.
    fn wait_for_qemu<T>(&mut self, what: &str, ready: impl FnMut(&mut Heard) -> Option<T>) -> Result<T> {
        self.wait_unless_closed(what, QMP_LIMIT, ready)
    }

    fn wait_unless_closed<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&mut Heard) -> Option<T>,
    ) -> Result<T> {
        let found = self.ear.wait(limit, |heard| match ready(heard) {
            Some(found) => Some(Some(found)),
            None => heard.closed.then_some(None),
        });
        match found {
            Some(Some(found)) => Ok(found),
            Some(None) => Err(self.gone()),
            None => Err(Error::TimedOut {
                vm: self.name.clone(),
                what: what.to_owned(),
                after: limit,
                console: self.console_tail(),
            }),
        }
    }

    fn console_tail(&self) -> String {
        let heard = self.ear.heard();
        heard.console[heard.console.len().saturating_sub(CONSOLE_TAIL)..].join("\n")
    }

    fn gone(&mut self) -> Error {
        // A closed line means that QEMU is ending; it holds nothing that could keep it.
        let status = self.process.child().wait();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let log = std::fs::read_to_string(&self.log_path).unwrap_or_default();
        let what = format!("QEMU ended ({status})\n{log}{}", self.console_tail());
        Error::Gone {
            vm: self.name.clone(),
            what,
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process.kill();
        // Ends the threads that listen.
        let _ = self.agent.shutdown(Shutdown::Both);
        let _ = self.qmp.shutdown(Shutdown::Both);
    }
}
