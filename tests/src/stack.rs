//! The services of one host: `vgpud` and a `vgpu-backend` for each VM, in a folder of their own, as users of
//! their own where this process is root.
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vgpu_sched_api::messages::{Answer, EventRecord, Priority, Request, Status, TurnRecord, VmStats};
use vgpu_sched_api::packet;
use vgpu_vm::Artifacts;
use vgpu_vm::process::Process;

/// How long a service may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The group that may talk to the services, and the first of the users they run as. No such accounts need
/// exist.
const GROUP: u32 = 61_000;
const VGPUD_USER: u32 = 61_001;
const VM_USER: u32 = 61_100;

/// The folder, named by the environment, in which what the services said is kept.
const KEPT_LOGS: &str = "VGPU_TEST_LOGS";

/// Which GPU the services use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// The software GPU.
    Software,
    /// The machine's NVIDIA GPUs.
    Nvidia,
}

impl Gpu {
    /// The machine's NVIDIA GPU if it has one, else the software GPU. `VGPU_GPU=software` or `nvidia` decides.
    pub fn detect() -> Result<Self> {
        let device = Path::new("/dev/nvidia0").exists();
        match std::env::var("VGPU_GPU").as_deref() {
            Ok("software") => Ok(Self::Software),
            Ok("nvidia") if device => Ok(Self::Nvidia),
            Ok("nvidia") => bail!("VGPU_GPU=nvidia: this machine has no /dev/nvidia0"),
            Ok(other) => bail!("VGPU_GPU={other}: expected \"software\" or \"nvidia\""),
            Err(_) if device => Ok(Self::Nvidia),
            Err(_) => Ok(Self::Software),
        }
    }
}

/// A VM that has a backend.
#[derive(Clone, Copy, Debug)]
pub struct VmSpec {
    /// Its number.
    pub id: u32,
    /// Its priority.
    pub priority: Priority,
}

impl VmSpec {
    /// The VMs that checks speak of.
    pub const LOW: Self = Self {
        id: 1,
        priority: Priority::Low,
    };
    /// Another one of the same level.
    pub const OTHER_LOW: Self = Self {
        id: 2,
        priority: Priority::Low,
    };
    /// One above them.
    pub const HIGH: Self = Self {
        id: 9,
        priority: Priority::High,
    };
}

/// Running services.
pub struct Stack {
    dir: tempfile::TempDir,
    artifacts: Artifacts,
    gpu: Gpu,
    software_gpus: u32,
    vgpud: Option<Process>,
    backends: BTreeMap<u32, Process>,
}

impl Stack {
    /// Starts `vgpud` with a pool map of these VMs, which share one GPU, and their backends.
    pub fn start(artifacts: &Artifacts, gpu: Gpu, vms: &[VmSpec]) -> Result<Self> {
        Self::start_as(artifacts, gpu, vms, "", |_| String::new())
    }

    /// The same with more lines in the pool's table, and in that of each VM.
    pub fn start_as(
        artifacts: &Artifacts,
        gpu: Gpu,
        vms: &[VmSpec],
        pool: &str,
        own: impl Fn(VmSpec) -> String,
    ) -> Result<Self> {
        let mut stack = Self::start_host(artifacts, gpu, 1, &pool_map(vms, pool, own))?;
        for vm in vms {
            stack.start_backend(vm.id)?;
        }
        Ok(stack)
    }

    /// Starts `vgpud` with that pool map, with as many GPUs if they are software GPUs. No VM has a backend.
    pub fn start_host(artifacts: &Artifacts, gpu: Gpu, software_gpus: u32, pool_map: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vgpu-").tempdir()?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let artifacts = artifacts.readable_by_others(dir.path())?;
        let mut stack = Self {
            dir,
            artifacts,
            gpu,
            software_gpus,
            vgpud: None,
            backends: BTreeMap::new(),
        };
        stack.folder("vgpud", VGPUD_USER)?;
        stack.folder("logs", 0)?;
        stack.folder("softgpu", 0)?;
        fs::set_permissions(stack.dir.path().join("softgpu"), Permissions::from_mode(0o1777))?;
        fs::write(stack.pool_map(), pool_map)?;
        if rustix::process::geteuid().is_root() {
            chown(stack.pool_map(), Some(VGPUD_USER), Some(GROUP))?;
        }
        stack.start_vgpud()?;
        Ok(stack)
    }

    /// The software that runs, where the services' users can read it.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The GPU that the services use.
    pub fn gpu(&self) -> Gpu {
        self.gpu
    }

    /// A folder that lives as long as the services.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The pool map's file; `vgpud` may replace it.
    pub fn pool_map(&self) -> PathBuf {
        self.dir.path().join("vgpud/pools.toml")
    }

    /// The vhost-user socket of a VM.
    pub fn socket(&self, vm: u32) -> PathBuf {
        self.dir.path().join(format!("vm{vm}/vgpu.sock"))
    }

    /// The user that a VM's backend runs as, and its QEMU may.
    pub fn vm_user(&self, vm: u32) -> (u32, u32) {
        (VM_USER + vm, GROUP)
    }

    /// `vgpud`'s process, to send signals to.
    pub fn vgpud_pid(&self) -> Option<u32> {
        self.vgpud.as_ref().map(Process::id)
    }

    /// A backend's process.
    pub fn backend_pid(&self, vm: u32) -> Option<u32> {
        self.backends.get(&vm).map(Process::id)
    }

    /// The executors that a VM's backend has now.
    pub fn executors(&self, vm: u32) -> Vec<u32> {
        let Some(backend) = self.backend_pid(vm) else {
            return Vec::new();
        };
        let tasks = fs::read_dir(format!("/proc/{backend}/task"))
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|children| {
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect()
    }

    /// Starts `vgpud`; it must not run.
    pub fn start_vgpud(&mut self) -> Result<()> {
        let mut command = self.service("vgpud", "vgpud", VGPUD_USER)?;
        command.arg("--config").arg(self.pool_map());
        command.arg("--socket").arg(self.vgpud_socket());
        command.arg("--state-dir").arg(self.dir.path().join("vgpud"));
        if self.gpu == Gpu::Software {
            let library = self.artifacts.softgpu_lib_dir().join("libnvidia-ml.so.1");
            command.arg("--libnvidia-ml").arg(Artifacts::existing(library)?);
            command.envs(self.softgpu_environment());
        }
        self.vgpud = Some(Process::spawn(command).context("cannot start vgpud")?);
        self.until("vgpud listens", |stack| {
            stack.vgpud_pid().is_none_or(has_ended) || stack.ask(&Request::Status { from_vm: 0 }).is_ok()
        })?;
        self.alive("vgpud", self.vgpud_pid())
    }

    /// What a program needs in its environment to use the services' library itself, beside the services.
    pub fn native_environment(&self) -> Vec<(&'static str, String)> {
        match self.gpu {
            Gpu::Nvidia => Vec::new(),
            Gpu::Software => {
                let folder = self.artifacts.softgpu_lib_dir().display().to_string();
                let mut all = vec![("LD_LIBRARY_PATH", folder)];
                all.extend(self.softgpu_environment());
                all
            }
        }
    }

    fn softgpu_environment(&self) -> [(&'static str, String); 2] {
        let shared = self.dir.path().join("softgpu");
        [
            ("VGPU_SOFTGPU_DIR", shared.display().to_string()),
            ("VGPU_SOFTGPU_DEVICES", self.software_gpus.to_string()),
        ]
    }

    /// Kills `vgpud` as a crash would.
    pub fn kill_vgpud(&mut self) {
        self.vgpud = None;
    }

    /// Kills a VM's backend as a crash would.
    pub fn kill_backend(&mut self, vm: u32) {
        self.backends.remove(&vm);
        // So that the next one is known to listen once it is there.
        let _ = fs::remove_file(self.socket(vm));
    }

    /// Starts a VM's backend, which must not run; the VM is in the pool map.
    pub fn start_backend(&mut self, vm: u32) -> Result<()> {
        let executor = self.artifacts.bin("vgpu-exec");
        self.start_backend_with(vm, &executor)
    }

    /// The same, with another executor, whose file the services' users can run.
    pub fn start_backend_with(&mut self, vm: u32, executor: &Path) -> Result<()> {
        self.folder(&format!("vm{vm}"), VM_USER + vm)?;
        let mut command = self.service("vgpu-backend", &format!("backend-{vm}"), VM_USER + vm)?;
        command.arg("--socket-path").arg(self.socket(vm));
        command.args(["--vm-id", &vm.to_string()]);
        command.arg("--vgpud").arg(self.vgpud_socket());
        command.arg("--exec").arg(executor);
        if self.gpu == Gpu::Software {
            command.arg("--libcuda-dir").arg(self.artifacts.softgpu_lib_dir());
            for (name, value) in self.softgpu_environment() {
                command.args(["--exec-env", &format!("{name}={value}")]);
            }
        }
        self.backends
            .insert(vm, Process::spawn(command).context("cannot start vgpu-backend")?);
        self.until(&format!("backend-{vm} listens"), |stack| {
            stack.backend_pid(vm).is_none_or(has_ended) || stack.socket(vm).exists()
        })?;
        self.alive(&format!("backend-{vm}"), self.backend_pid(vm))
    }

    fn alive(&self, service: &str, pid: Option<u32>) -> Result<()> {
        if pid.is_none_or(has_ended) {
            bail!("{service} ended at once; it said:\n{}", self.log(service));
        }
        Ok(())
    }

    /// A C program of `programs/`, to run in this host's own process with the GPU of that VM.
    pub fn program(&self, vm: u32, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.artifacts.program(name));
        command
            .args(arguments)
            .env("VGPU_SOCKET", self.socket(vm))
            .env("LD_LIBRARY_PATH", self.artifacts.guest_lib_dir());
        command
    }

    /// The operator's tool, to run with arguments.
    pub fn admin(&self) -> Command {
        let mut command = Command::new(self.artifacts.bin("vgpu-admin"));
        command.arg("--socket").arg(self.vgpud_socket());
        command
    }

    /// Makes a token for the control panel.
    pub fn panel_token(&self, role: &str, name: &str) -> Result<String> {
        let file = self.dir().join("panel-tokens");
        let mut command = Command::new(self.artifacts.bin("vgpu-panel"));
        command.args(["token", "--role", role, "--name", name, "--tokens"]);
        let output = command.arg(&file).output()?;
        ensure!(output.status.success(), "vgpu-panel token: {output:?}");
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(VGPUD_USER), Some(GROUP))?;
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts the control panel, as `vgpud`'s user, with the tokens that were made: the process, and the port that it listens at.
    pub fn panel(&self) -> Result<(Process, u16)> {
        let mut command = self.service("vgpu-panel", "panel", VGPUD_USER)?;
        command.args(["--listen", "127.0.0.1:0", "--socket"]);
        command.arg(self.vgpud_socket());
        let tokens = self.dir().join("panel-tokens");
        if tokens.exists() {
            command.arg("--tokens").arg(tokens);
        }
        let process = Process::spawn(command).context("cannot start vgpu-panel")?;
        let port = |stack: &Self| {
            let log = stack.log("panel");
            let (_, rest) = log.split_once("http://127.0.0.1:")?;
            rest.split_once('/')?.0.parse().ok()
        };
        self.until("vgpu-panel listens", |stack| {
            has_ended(process.id()) || port(stack).is_some()
        })?;
        match port(self) {
            Some(port) => Ok((process, port)),
            None => bail!("vgpu-panel ended at once; it said:\n{}", self.log("panel")),
        }
    }

    /// Asks `vgpud` one thing.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let socket = self.connect()?;
        packet::send(&socket, request, &[])?;
        Ok(packet::receive(&socket)?.0)
    }

    /// `vgpud`'s view of everything.
    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status { from_vm: 0 })? {
            Answer::Status { status, .. } => Ok(*status),
            other => bail!("vgpud answered {other:?} to a request for its status"),
        }
    }

    /// The turns that were given, from that number on.
    pub fn turns(&self, mut from: u64) -> Result<Vec<TurnRecord>> {
        let mut all = Vec::new();
        loop {
            match self.ask(&Request::Turns { from })? {
                Answer::Turns { turns, .. } if turns.is_empty() => return Ok(all),
                Answer::Turns { turns, next } => {
                    all.extend(turns);
                    from = next;
                }
                other => bail!("vgpud answered {other:?} to a request for turns"),
            }
        }
    }

    /// Every statistic of a VM.
    pub fn stats(&self, vm: u32) -> Result<VmStats> {
        match self.ask(&Request::Stats { from_vm: vm })? {
            Answer::Stats { stats, .. } => stats
                .vms
                .into_iter()
                .find(|one| one.vm == vm)
                .with_context(|| format!("no statistics of VM {vm}")),
            other => bail!("vgpud answered {other:?} to a request for statistics"),
        }
    }

    /// What happened to a VM, the oldest first.
    pub fn events(&self, vm: u32) -> Result<Vec<EventRecord>> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            match self.ask(&Request::Events { from, vm: Some(vm) })? {
                Answer::Events { events, .. } if events.is_empty() => return Ok(all),
                Answer::Events { events, next } => {
                    all.extend(events);
                    from = next;
                }
                other => bail!("vgpud answered {other:?} to a request for events"),
            }
        }
    }

    /// What a service has written to its log.
    pub fn log(&self, service: &str) -> String {
        fs::read_to_string(self.log_path(service)).unwrap_or_default()
    }

    /// All logs, for a failed test to show.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let names = self.backends.keys().map(|vm| format!("backend-{vm}"));
        for name in std::iter::once("vgpud".to_owned()).chain(names) {
            all += &format!("--- {name}\n{}", self.log(&name));
        }
        all
    }

    /// Waits until `done`, at most as long as a service may take; the logs are in the error.
    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        while !done(self) {
            if Instant::now() > end {
                bail!(
                    "{what}: not so after {} s\n{}",
                    START_LIMIT.as_secs(),
                    self.logs()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The socket of `vgpud`.
    pub fn vgpud_socket(&self) -> PathBuf {
        self.dir.path().join("vgpud/vgpud.sock")
    }

    /// A connection to `vgpud`.
    pub fn connect(&self) -> Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(self.vgpud_socket())?)?;
        Ok(socket)
    }

    fn log_path(&self, service: &str) -> PathBuf {
        self.dir.path().join("logs").join(format!("{service}.log"))
    }

    fn folder(&self, name: &str, user: u32) -> Result<()> {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path)?;
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(user), Some(if user == 0 { 0 } else { GROUP }))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn service(&self, program: &str, log: &str, user: u32) -> Result<Command> {
        let mut command = Command::new(Artifacts::existing(self.artifacts.bin(program))?);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(log))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        if rustix::process::geteuid().is_root() {
            command.uid(user).gid(GROUP);
        }
        Ok(command)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let kept = std::env::var_os(KEPT_LOGS).map(|folder| (folder, self.logs()));
        // Backends first: with vgpud alive they end their sessions in order.
        self.backends.clear();
        self.vgpud = None;
        if let Some((folder, logs)) = kept {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("stack-{:02}.log", COUNT.fetch_add(1, Ordering::Relaxed));
            // Only for whoever looks for the cause of something.
            if let Err(error) = fs::write(PathBuf::from(folder).join(&name), logs) {
                eprintln!("{name} is not kept: {error}");
            }
        }
    }
}

/// Whether a child of this process has ended, and was not waited for.
fn has_ended(pid: u32) -> bool {
    let state = |stat: String| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z'));
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| state(stat).unwrap_or(true))
}

fn pool_map(vms: &[VmSpec], pool: &str, own: impl Fn(VmSpec) -> String) -> String {
    let numbers = vms
        .iter()
        .map(|vm| format!("\"{}\"", vm.id))
        .collect::<Vec<_>>()
        .join(", ");
    let mut map = format!("[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [{numbers}]\n{pool}\n");
    for vm in vms {
        map += &format!("\n[vm.{}]\npriority = \"{}\"\n{}\n", vm.id, vm.priority, own(*vm));
    }
    map
}
