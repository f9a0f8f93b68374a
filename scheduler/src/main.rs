//! `vgpud`: gives the host's VMs their turns on its GPUs.
mod admin;
mod allowance;
mod arrivals;
mod audit;
mod daemon;
mod edit;
mod gpu_errors;
mod hardstop;
mod held;
mod history;
mod inventory;
mod ledger;
mod limits;
mod lines;
mod page;
mod paging;
mod placement;
mod poller;
mod quarantine;
mod requests;
mod ring;
mod rungs;
mod scan;
mod sessions;
mod stats;
mod status;
mod store;
mod usage;
mod vm_gpus;
mod vm_page;
mod watch;
mod xid;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use inventory::{Inventory, News};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use scan::ScanOn;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::{Changes, Store};
use vgpu_program::Misconfigured;
use vgpu_program::arguments::number;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A century's.
const USAGE_DAYS_MAX: u64 = 36_525;
const HOURS_OF_A_DAY: u64 = 24;

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
    /// NVML, which lists the GPUs.
    #[arg(long, value_name = "PATH", default_value = "libnvidia-ml.so.1")]
    libnvidia_ml: PathBuf,
    /// The kernel's log, which tells whose work an error of a GPU was.
    #[arg(long, value_name = "PATH", default_value = "/dev/kmsg")]
    kmsg: PathBuf,
    /// For so many days it is kept what VMs used in each hour.
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = number("a number of days, such as 400", 1..=USAGE_DAYS_MAX))]
    usage_days: u64,
    /// When GPUs are looked for: words with commas between them.
    #[arg(long, value_enum, value_name = "WHEN", value_delimiter = ',', default_values = ["start", "change", "view"])]
    scan_on: Vec<ScanOn>,
    /// Members of this group may change things, as root and this program's own user may.
    #[arg(long, value_name = "NAME|GID", value_parser = admin::group)]
    admin_group: Option<u32>,
}

fn main() -> ExitCode {
    vgpu_program::log::builder().init();
    let mut words = std::env::args_os().skip(1);
    let (first, library) = (words.next(), PathBuf::from(words.next().unwrap_or_default()));
    match first {
        Some(first) if first == scan::LIST => return scan::list_for_parent(&library),
        Some(first) if first == watch::WATCH => return watch::watch_for_parent(&library),
        _ => {}
    }
    if let Some(code) = vgpu_program::manual::if_asked::<Arguments>() {
        return code;
    }
    let arguments = Arguments::parse();
    if let Err(why) = scan::can_be(&arguments.scan_on) {
        Arguments::command()
            .error(ErrorKind::ArgumentConflict, why)
            .exit();
    }
    vgpu_program::ended(run(arguments))
}

fn run(arguments: Arguments) -> Result<()> {
    // Each session needs two.
    vgpu_program::raise_descriptor_limit();
    let socket = arguments.socket.clone();
    let listener = listen(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    let result = serve(arguments, listener);
    // Nobody may take a socket without a listener for a scheduler that is about to answer.
    if let Err(error) = std::fs::remove_file(&socket) {
        log::warn!("{} stays: {error}", socket.display());
    }
    result
}

fn serve(arguments: Arguments, listener: OwnedFd) -> Result<()> {
    let (store, mut saved) = Store::open(&arguments.state_dir, arguments.usage_days * HOURS_OF_A_DAY)?;
    let mut inventory = Inventory::new(std::mem::take(&mut saved.gpus));
    let look = || scan::look(&arguments.libnvidia_ml);
    let mut news = News::default();
    let listing_failed = match arguments.scan_on.contains(&ScanOn::Start).then(look) {
        None => {
            inventory.expect_known();
            None
        }
        Some(Ok(gpus)) => {
            // To a host that is new all of them are.
            let is_new = inventory.is_empty();
            let found = inventory.update(gpus.clone());
            if !is_new {
                news = found;
            }
            store.write(Changes {
                gpus: Some(gpus),
                ..Changes::default()
            });
            None
        }
        // Programs that run on them may be waiting for their turn.
        Some(Err(error)) if !inventory.is_empty() => Some(format!("the GPUs cannot be listed: {error:#}")),
        Some(Err(error)) => return Err(error.context("the GPUs cannot be listed")),
    };
    let known = |uuid: &str| inventory.assignable(uuid);
    let map_text = vgpu_pool_map::read_text(&arguments.config)
        .with_context(|| format!("{}: cannot be read", arguments.config.display()))
        .map_err(Misconfigured::of)?;
    let map = vgpu_pool_map::PoolMap::parse(&map_text, Some(&known))
        .map_err(|error| Misconfigured::of(error.of_file(&arguments.config)))?;
    let mut daemon = daemon::Daemon::new(daemon::Setup {
        terminate: pipe_of(&[signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?,
        reload: pipe_of(&[signal_hook::consts::SIGHUP])?,
        listener,
        config: arguments.config,
        map,
        map_text,
        inventory,
        news,
        listing_failed,
        scan_on: arguments.scan_on,
        library: arguments.libnvidia_ml,
        kmsg: arguments.kmsg,
        admins: admin::Admins::new(arguments.admin_group),
        store,
        saved,
    })?;
    for line in daemon.degraded() {
        log::warn!("{line}");
    }
    log::info!("ready");
    daemon.run()
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
