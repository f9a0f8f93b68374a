//! `vgpud`: gives the host's VMs their turns on its GPUs.
mod daemon;
mod inventory;
mod ledger;
mod page;
mod poller;
mod requests;
mod status;
mod store;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The host-wide GPU scheduler.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The pool map, a TOML file; read again on SIGHUP.
    #[arg(long)]
    config: PathBuf,
    /// The control socket to listen at.
    #[arg(long)]
    socket: PathBuf,
    /// The folder of vgpu.db; created if it is not there.
    #[arg(long)]
    state_dir: PathBuf,
    /// Use this many software GPUs instead of the host's NVIDIA GPUs, whatever the pool map says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    softgpu: Option<u32>,
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let arguments = Arguments::parse();
    raise_descriptor_limit();
    let map = vgpu_pool_map::PoolMap::load(&arguments.config, None)?;
    let inventory = inventory::discover(arguments.softgpu.or(map.softgpu))?;
    for (pool, uuid) in inventory::missing(&map, &inventory) {
        log::warn!("pool {pool}: there is no GPU {uuid}");
    }
    let mut daemon = daemon::Daemon::new(daemon::Setup {
        terminate: pipe_of(&[signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?,
        reload: pipe_of(&[signal_hook::consts::SIGHUP])?,
        listener: listen(&arguments.socket)
            .with_context(|| format!("cannot listen at {}", arguments.socket.display()))?,
        config: arguments.config,
        state_dir: arguments.state_dir,
        map,
        inventory,
    })?;
    log::info!("ready");
    // Without a service manager that asked for it this does nothing.
    if let Err(error) = sd_notify::notify(true, &[sd_notify::NotifyState::Ready]) {
        log::warn!("the service manager is not told: {error}");
    }
    let result = daemon.run();
    // Nobody may take a socket without a listener for a scheduler that is about to answer.
    if let Err(error) = std::fs::remove_file(&arguments.socket) {
        log::warn!("{} stays: {error}", arguments.socket.display());
    }
    result
}

/// Each session needs two descriptors, and the usual soft limit is meant for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open files stays as it is: {error}");
    }
}

/// A pipe that becomes readable with those signals.
fn pipe_of(signals: &[i32]) -> Result<OwnedFd> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader.into())
}

/// Listens at a path, for the user and the group. A socket that a dead scheduler left there is replaced.
fn listen(path: &Path) -> Result<OwnedFd> {
    let new = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
    };
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::connect(new()?, &address) {
        Err(Errno::NOENT) => {}
        Err(Errno::CONNREFUSED) if !std::fs::symlink_metadata(path)?.file_type().is_socket() => {
            bail!("there is a file that is no socket")
        }
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path)?,
        Ok(()) | Err(Errno::AGAIN) => bail!("a scheduler listens there already"),
        Err(error) => return Err(error.into()),
    }
    let listener = new()?;
    rustix::net::bind(&listener, &address)?;
    // Before listening, so that nobody gets in who may not.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
