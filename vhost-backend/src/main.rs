//! `vgpu-backend`: the vhost-user device of one VM.
//!
//! It serves the virtqueues, knows the guest's memory, and keeps one `vgpu-exec` per guest process. It makes no
//! CUDA call, so that nothing a session does can end it: a front end cannot reconnect a dead backend.

mod budget;
mod device;
mod fd;
mod front_ends;
mod gpus;
mod host;
mod quiet;
mod relay;
mod scheduler;
mod shares;
mod worker;

use anyhow::Context;
use clap::Parser;
use device::{Device, STOP_WAIT};
use fd::Inherited;
use host::{End, ExecOptions, Host};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use vgpu_program::arguments::number;
use vgpu_program::service;
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::Error::HandleRequest;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// The vhost-user backend of a virtio-vgpu device: one process per VM.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen for the front end (QEMU, or a process with VGPU_SOCKET).
    #[arg(long, value_name = "PATH", required_unless_present_any = ["fd", "print_capabilities"], conflicts_with = "fd")]
    socket_path: Option<PathBuf>,
    /// An inherited socket to use instead: a listening one, or one that is connected to the front end.
    #[arg(long, value_name = "NUMBER")]
    fd: Option<RawFd>,
    /// The VM's number, as the pool map names it.
    #[arg(
        long,
        value_name = "NUMBER",
        required_unless_present = "print_capabilities",
        value_parser = number::<u32>("a VM's number, such as 3", ..)
    )]
    vm_id: Option<u32>,
    /// The control socket of vgpud.
    #[arg(long, value_name = "PATH", required_unless_present = "print_capabilities")]
    vgpud: Option<PathBuf>,
    /// The vgpu-exec to run for each session.
    #[arg(long, value_name = "PATH", required_unless_present = "print_capabilities")]
    exec: Option<PathBuf>,
    /// A folder in which executors look for libcuda.so.1 first.
    #[arg(long, value_name = "DIR")]
    libcuda_dir: Option<PathBuf>,
    /// A variable in the executors' environment, which is empty otherwise. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    exec_env: Vec<(String, String)>,
    /// The folder of the sockets of NVIDIA's MPS control daemon, for pools that share their GPUs through MPS.
    #[arg(long, value_name = "DIR", default_value = "/tmp/nvidia-mps")]
    mps_pipe_dir: PathBuf,
    /// Run executors without their jail. For debugging only: then little more than its user stands between a guest that takes
    /// one over and this host.
    #[arg(long)]
    no_jail: bool,
    /// Print what this backend can do, as JSON, and exit.
    #[arg(long)]
    print_capabilities: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// Removes the socket that a dead backend left at `path`; refuses whatever else lies there.
fn clear_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let what = || format!("listen on {}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(what),
        Ok(found) if !found.file_type().is_socket() => {
            anyhow::bail!("{}: there is a file that is no socket", path.display())
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).with_context(what)
        }
        Err(error) => Err(error).with_context(what),
        Ok(_) => anyhow::bail!("{}: somebody listens there already", path.display()),
    }
}

/// What a session will need must be there before a VM relies on it.
fn check_paths(exec: &Path, libcuda_dir: Option<&Path>) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(exec).with_context(|| format!("--exec {}", exec.display()))?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        anyhow::bail!("--exec {}: expected an executable file", exec.display());
    }
    if let Some(dir) = libcuda_dir.filter(|dir| !dir.join("libcuda.so.1").exists()) {
        anyhow::bail!(
            "--libcuda-dir {}: expected a folder with a libcuda.so.1",
            dir.display()
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    // The queue library logs an error per malformed ring, which a guest could use to flood the log; what it
    // finds is reported by the device itself, limited in rate.
    vgpu_program::log::builder()
        .filter_module("virtio_queue", log::LevelFilter::Off)
        .init();
    if let Some(code) = vgpu_program::manual::if_asked::<Arguments>() {
        return code;
    }
    vgpu_program::ended(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.print_capabilities {
        println!("{}", serde_json::json!({ "type": "misc", "features": [] }));
        return Ok(());
    }
    let (Some(vm), Some(vgpud), Some(exec)) = (arguments.vm_id, arguments.vgpud, arguments.exec) else {
        anyhow::bail!("--vm-id, --vgpud and --exec are required");
    };
    check_paths(&exec, arguments.libcuda_dir.as_deref())?;
    // Executors run in a folder of their own, and are not looked for in PATH.
    let exec = std::path::absolute(exec)?;
    let libcuda_dir = arguments.libcuda_dir.map(std::path::absolute).transpose()?;
    let mps_pipe_dir = std::path::absolute(arguments.mps_pipe_dir)?;
    if arguments.no_jail {
        log::warn!("vm {vm}: --no-jail: executors run without their jail");
    }
    let (end, ended) = channel();
    // Before there is anything that would be left behind.
    end_on_signals(end.clone()).context("signals")?;
    let mut once = false;
    let mut listener = match (&arguments.socket_path, arguments.fd) {
        (Some(path), None) => {
            clear_stale(path)?;
            Listener::new(path, false).with_context(|| format!("listen on {}", path.display()))?
        }
        (None, Some(number)) => Listener::from(match fd::inherited_socket(number)? {
            Inherited::Listening(listener) => listener,
            Inherited::Connected(front_end) => {
                once = true;
                relay::listener_for(front_end).with_context(|| format!("--fd {number}"))?
            }
        }),
        _ => anyhow::bail!("one of --socket-path and --fd is required"),
    };
    vgpu_program::raise_descriptor_limit();
    let host = Host::start(
        vm,
        vgpud,
        ExecOptions {
            path: exec,
            libcuda_dir,
            env: arguments.exec_env,
            jail: !arguments.no_jail,
            mps_pipe_dir,
        },
        end,
    )?;
    let ending = host.clone();
    worker::spawn("end".into(), move || {
        if let Some(why) = watch_over(&ending, &ended) {
            service::stopping();
            end_with(why, &ending, arguments.socket_path.as_deref());
        }
    })
    .context("start a thread")?;
    log::info!("vm {vm}: listening");
    loop {
        let front_end = FrontEnd::accept(&host, &mut listener)?;
        if once {
            front_end.serve();
            return Ok(());
        }
        worker::spawn("front-end".into(), move || front_end.serve()).context("start a thread")?;
    }
}

/// Has `end` told of the signals that end a program.
fn end_on_signals(end: Sender<End>) -> anyhow::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    worker::spawn("signals".into(), move || {
        if let Err(error) = reader.read_exact(&mut [0]) {
            log::error!("signals: {error}");
        }
        // Nobody hears it if this program ends anyhow.
        let _ = end.send(Ok(()));
    })?;
    Ok(())
}

/// Tells the service manager of what this program does, until it is to end; `None` if nobody can say any longer that it is to.
/// Who hangs with what every front end needs is not alive.
fn watch_over(host: &Host, ended: &Receiver<End>) -> Option<End> {
    let doing = || format!("front ends: {}", host.front_ends.count());
    let mut heartbeat = service::ready(&doing());
    loop {
        let period = heartbeat
            .as_ref()
            .map_or(Duration::MAX, |heartbeat| heartbeat.period());
        match ended.recv_timeout(period) {
            Ok(why) => return Some(why),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(heartbeat) = &mut heartbeat {
            heartbeat.beat(doing());
        }
    }
}

/// Ends this program, whatever its other threads do: nobody new can connect, those that are connected are hung up on, and their
/// sessions end as if they had left by themselves.
fn end_with(why: End, host: &Host, socket: Option<&Path>) -> ! {
    if let Some(path) = socket
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("vm {}: {} stays: {error}", host.vm, path.display());
    }
    host.front_ends.end(Instant::now() + STOP_WAIT);
    match why {
        Ok(()) => {
            log::info!("vm {}: ended", host.vm);
            std::process::exit(0)
        }
        Err(why) => {
            eprintln!("error: {why}");
            std::process::exit(1)
        }
    }
}

/// A front end and its device.
struct FrontEnd {
    number: u64,
    device: Arc<Device>,
    daemon: VhostUserDaemon<Arc<Device>>,
    host: Arc<Host>,
}

impl FrontEnd {
    /// Waits for the next one. Fails only if there is no use in listening again.
    fn accept(host: &Arc<Host>, listener: &mut Listener) -> anyhow::Result<Self> {
        let vm = host.vm;
        host.front_ends.admit();
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
        let device = Arc::new(Device::new(host.clone(), memory.clone())?);
        // A daemon is good for one connection: it keeps who owns the device, and the rings' state.
        let mut daemon = VhostUserDaemon::new(format!("vhost-{vm}"), device.clone(), memory)
            .map_err(|e| anyhow::anyhow!("create the device: {e}"))?;
        let handlers = daemon.get_epoll_handlers();
        let queues = handlers.first().context("the device has no queue thread")?;
        device.watch(|fd, token| queues.register_listener(fd, vmm_sys_util::epoll::EventSet::IN, token))?;
        daemon
            .start(listener)
            .map_err(|e| anyhow::anyhow!("accept a front end: {e}"))?;
        let connection = daemon
            .shutdown_handle()
            .context("the front end has no connection")?;
        log::info!("vm {vm}: front end connected");
        Ok(Self {
            number: host.front_ends.connected(move || connection.shutdown()),
            device,
            daemon,
            host: host.clone(),
        })
    }

    /// Serves it until it disconnects.
    fn serve(mut self) {
        let vm = self.host.vm;
        let end = self.daemon.wait();
        // Said before it is counted out, so that the end of this program is the last that is said.
        self.host.front_ends.leave(self.number, || {
            self.device.end();
            match end {
                // A process just ends, wherever it is.
                Ok(()) | Err(HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
                    log::info!("vm {vm}: front end disconnected");
                }
                Err(e) => log::warn!("vm {vm}: front end disconnected: {e}"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_dead_backends_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        clear_stale(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(clear_stale(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(clear_stale(&path).is_err());
        drop(listener);
        clear_stale(&path).unwrap();
        assert!(!path.exists());
    }
}
