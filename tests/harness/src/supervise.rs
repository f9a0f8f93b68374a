//! Leaves nothing behind, however the work ends: it is done by a second process of this program, whose temporary
//! files all lie in one folder; the first one removes that folder when the second has ended or a signal came.
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vgpu_vm::process::Process;

/// Set for the process that does the work.
const SUPERVISED: &str = "VGPU_HARNESS_SUPERVISED";
/// As a shell counts a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// How often the processes of the work are given time to end, before what they hold open stays.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Whether this is the process that does the work.
pub fn is_supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some()
}

/// Has the work done, and cleans up.
pub fn run() -> Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    // Users of their own work below it.
    let folder = tempfile::Builder::new()
        .prefix("vgpu-harness-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let mut work = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    work.args(std::env::args_os().skip(1))
        .env(SUPERVISED, "1")
        .env("TMPDIR", folder.path());
    let mut work = Process::spawn(work).context("cannot start this program again")?;
    let code = loop {
        if interrupted.load(Ordering::SeqCst) {
            work.kill();
            break ExitCode::from(INTERRUPTED);
        }
        if let Some(status) = work.child().try_wait()? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            break code.map_or(ExitCode::FAILURE, ExitCode::from);
        }
        std::thread::sleep(PAUSE);
    };
    // Services that were running end with the work, but not before it; one may still write a file.
    let folder = folder.keep();
    for _ in 0..ATTEMPTS {
        if std::fs::remove_dir_all(&folder).is_ok() || !folder.exists() {
            return Ok(code);
        }
        std::thread::sleep(PAUSE);
    }
    Err(anyhow::anyhow!("{} could not be removed", folder.display()))
}
