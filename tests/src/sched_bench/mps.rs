//! NVIDIA's Multi-Process Service, to compare with.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vgpu_vm::Artifacts;
use vgpu_vm::process::Process;

use crate::Host;

/// How long the daemon may take to listen, and to end.
const LIMIT: Duration = Duration::from_secs(10);
/// Where the tool lies, if it is not on the path.
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/nvidia/bin", "/usr/lib/nvidia"];

/// A running control daemon, which starts a server for its first client. Both end when it is dropped.
pub struct Mps {
    dir: tempfile::TempDir,
    tool: PathBuf,
    daemon: Process,
}

impl Mps {
    /// Starts one whose sockets nobody finds by accident.
    pub fn start() -> Result<Self> {
        Self::start_tool(tool()?)
    }

    fn start_tool(tool: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vgpu-mps-").tempdir()?;
        let mut command = in_folder(&dir, &tool);
        command
            .arg("-f")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let daemon = Process::spawn(command).context("cannot start nvidia-cuda-mps-control")?;
        let mut mps = Self { dir, tool, daemon };
        let end = Instant::now() + LIMIT;
        while !mps.dir.path().join("control").exists() {
            if let Some(status) = mps.daemon.child().try_wait()? {
                bail!("nvidia-cuda-mps-control ended with {status}");
            }
            if Instant::now() > end {
                bail!("nvidia-cuda-mps-control does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(mps)
    }

    /// A native client of it.
    pub fn host(&self, artifacts: &Artifacts) -> Host {
        Host::native(artifacts)
            .with("CUDA_MPS_PIPE_DIRECTORY", self.dir.path())
            .with("CUDA_MPS_LOG_DIRECTORY", self.dir.path())
    }

    /// What the daemon and its server wrote.
    pub fn logs(&self) -> String {
        ["control.log", "server.log"]
            .map(|name| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// Asks the daemon to end with its server, whatever their clients do.
    fn quit(&mut self) -> Result<()> {
        let mut command = in_folder(&self.dir, &self.tool);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut quit = Process::spawn(command)?;
        quit.child()
            .stdin
            .take()
            .context("no pipe")?
            .write_all(b"quit -t 2\n")?;
        let end = Instant::now() + LIMIT;
        while self.daemon.child().try_wait()?.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Mps {
    fn drop(&mut self) {
        if let Err(error) = self.quit() {
            println!("  MPS was not ended in order: {error:#}");
        }
    }
}

/// The tool, which looks for its server on the path.
fn in_folder(dir: &tempfile::TempDir, tool: &Path) -> Command {
    let mut path = tool.parent().unwrap_or(Path::new("")).as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(tool);
    command
        .env("PATH", path)
        .env("CUDA_MPS_PIPE_DIRECTORY", dir.path())
        .env("CUDA_MPS_LOG_DIRECTORY", dir.path());
    command
}

fn tool() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join("nvidia-cuda-mps-control"))
        .find(|tool| tool.exists())
        .context("no nvidia-cuda-mps-control on this machine")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Stands in for NVIDIA's tool: listens, and ends when it is told to; notes what it was told beside itself.
    const TOOL: &str = r#"#!/bin/sh
cd "$CUDA_MPS_PIPE_DIRECTORY" || exit 1
if [ "$1" = -f ]; then
    : >control
    until [ -e told ]; do sleep 0.01; done
    cp told "$0.told"
else
    cat >telling && mv telling told
fi
"#;

    #[test]
    fn the_daemon_listens_and_is_told_to_quit_or_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        fs::write(&tool, TOOL).unwrap();
        fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
        let mps = Mps::start_tool(tool).unwrap();
        drop(mps);
        let told = fs::read_to_string(folder.path().join("tool.told")).unwrap();
        assert_eq!(told, "quit -t 2\n");
        let error = Mps::start_tool("/bin/false".into()).err().unwrap();
        assert!(error.to_string().contains("ended"), "{error}");
    }
}
