//! What libvirt runs before a domain starts and when it is over: the backend of a VM comes and goes with the VM's domain. libvirt
//! says what happens in the arguments, gives the domain's XML on the standard input, and starts no domain for which this fails.
use crate::launch::{self, QEMU};
use clap::Args;
use roxmltree::Document;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vgpu_client::failure::{Failure, Kind};

/// A domain's XML has so many bytes at most; libvirt's own limit is 4 MiB.
const XML_MAX: u64 = 16 << 20;
/// How long the service manager may take to start a backend or to end one, which its unit bounds, too.
const MANAGER_LIMIT: Duration = Duration::from_secs(100);
/// How long a backend that is started may take to listen. One that tells when it is ready listens by then.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// What libvirt says: its page "Hooks for specific system management" tells of each.
#[derive(Debug, Args)]
pub struct Hook {
    /// The domain's name
    domain: String,
    /// What happens to it: prepare, start, started, stopped, release or something else
    operation: String,
    /// begin or end
    sub_operation: String,
    /// Nothing yet: "-"
    extra: Option<String>,
    /// Where the folders of sockets and of what is known of domains lie
    #[arg(long, value_name = "DIR", default_value = "/run", hide = true)]
    run_dir: PathBuf,
}

/// What is to be done with the backends of a domain's VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Stop,
    Nothing,
}

impl Step {
    fn of(operation: &str, sub_operation: &str) -> Self {
        match (operation, sub_operation) {
            // Before anything of the domain is there.
            ("prepare", "begin") => Self::Start,
            // When nothing of it is there any longer, or it could not be started.
            ("release", "end") => Self::Stop,
            _ => Self::Nothing,
        }
    }
}

/// A domain, as far as this looks at it.
#[derive(Debug, PartialEq, Eq)]
struct Domain {
    uuid: String,
    /// The VMs that it is: one, if it has a GPU.
    vms: BTreeSet<u32>,
}

/// Does what libvirt wants done.
pub fn run(hook: &Hook) -> Result<(), Failure> {
    let step = Step::of(&hook.operation, &hook.sub_operation);
    if step == Step::Nothing {
        return Ok(());
    }
    let failed = |why: String| Failure::new(Kind::Failed, format!("domain {}: {why}", hook.domain));
    let mut xml = String::new();
    io::stdin()
        .take(XML_MAX)
        .read_to_string(&mut xml)
        .map_err(|error| failed(format!("its XML on the standard input: {error}")))?;
    let domain = domain(&xml, &hook.run_dir).map_err(&failed)?;
    for vm in &domain.vms {
        let backend = Backend {
            vm: *vm,
            run_dir: &hook.run_dir,
            holder: format!("{} {}", domain.uuid, hook.domain),
        };
        match step {
            Step::Start => backend.start(),
            _ => backend.stop(),
        }
        .map_err(&failed)?;
    }
    Ok(())
}

/// Reads a domain's XML. It is VM 3 if a character device of QEMU's leads to VM 3's socket: that is the backend that QEMU will
/// talk to, whatever else the domain says.
fn domain(xml: &str, run_dir: &Path) -> Result<Domain, String> {
    let document = Document::parse(xml).map_err(|error| format!("its XML: {error}"))?;
    let root = document.root_element();
    let uuid = root.children().find(|node| node.has_tag_name("uuid"));
    let uuid = uuid.and_then(|node| node.text()).map(str::trim);
    let uuid = uuid
        .filter(|uuid| !uuid.is_empty())
        .ok_or("its XML has no <uuid> in <domain>")?;
    let lines = root
        .children()
        .filter(|node| node.has_tag_name((QEMU, "commandline")));
    let arguments: Vec<&str> = lines
        .flat_map(|line| line.children())
        .filter(|node| node.has_tag_name((QEMU, "arg")))
        .filter_map(|node| node.attribute("value"))
        .collect();
    let chardevs = arguments
        .windows(2)
        .filter(|words| ["-chardev", "--chardev"].contains(&words[0]));
    let mut vms = BTreeSet::new();
    for words in chardevs {
        let options = options(words[1]);
        let path = options.iter().find_map(|option| option.strip_prefix("path="));
        if let (Some("socket"), Some(path)) = (options.first().map(String::as_str), path) {
            vms.extend(vm_of(Path::new(path), run_dir)?);
        }
    }
    let uuid = uuid.to_owned();
    Ok(Domain { uuid, vms })
}

/// The parts of an option of QEMU's, in which two commas stand for one that is meant.
fn options(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(char);
        }
    }
    parts
}

/// The VM whose backend's unit listens there; `None` if it is no place of ours.
fn vm_of(path: &Path, run_dir: &Path) -> Result<Option<u32>, String> {
    let Ok(inside) = path.strip_prefix(run_dir.join("vgpu")) else {
        return Ok(None);
    };
    let number = inside.to_str().and_then(|inside| {
        let number = inside.strip_prefix("vm")?.strip_suffix("/vgpu.sock")?;
        number.parse().ok()
    });
    match number.filter(|vm| launch::socket_in(run_dir, *vm) == path) {
        Some(vm) => Ok(Some(vm)),
        None => Err(format!(
            "{} is no backend's socket: expected {}, N being the VM's number",
            path.display(),
            run_dir.join("vgpu/vmN/vgpu.sock").display()
        )),
    }
}

/// The backend of a domain's VM.
struct Backend<'a> {
    vm: u32,
    run_dir: &'a Path,
    /// The domain's UUID and name.
    holder: String,
}

impl Backend<'_> {
    fn unit(&self) -> String {
        format!("vgpu-backend@{}.service", self.vm)
    }

    /// Where it is said which domain the backend runs for: a link that leads nowhere, which is made with its text at once or
    /// not at all. The folder is root's.
    fn claim(&self) -> PathBuf {
        self.run_dir.join(format!("vgpu-libvirt/vm{}", self.vm))
    }

    /// The domain that the backend runs for, if one of libvirt's does.
    fn claimed_by(&self) -> Result<Option<String>, String> {
        match std::fs::read_link(self.claim()) {
            Ok(holder) => Ok(Some(holder.to_string_lossy().into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.claim().display())),
        }
    }

    fn is_own(&self, holder: &str) -> bool {
        // The name may have changed.
        let uuid = |holder: &str| holder.split(' ').next().map(str::to_owned);
        uuid(holder) == uuid(&self.holder)
    }

    /// Starts it, and waits until it listens. Nothing is left of one that does not.
    fn start(&self) -> Result<(), String> {
        self.take()?;
        let started = self.start_unit().and_then(|()| self.await_listener());
        if started.is_err() {
            // What has gone wrong first is what there is to tell.
            let _ = self.stop();
        }
        started
    }

    /// Lets no other domain have it: a copy of a domain has the same socket, and when it ends, the backend would end.
    fn take(&self) -> Result<(), String> {
        let claim = self.claim();
        let what = |error: io::Error| format!("{}: {error}", claim.display());
        if let Some(folder) = claim.parent() {
            std::fs::create_dir_all(folder).map_err(what)?;
        }
        match symlink(&self.holder, &claim) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map_err(what),
        }
        match self.claimed_by()? {
            Some(holder) if !self.is_own(&holder) => Err(format!(
                "VM {} is another domain: {holder}. Each needs a number of its own in its socket's path; if that domain is \
                 gone, remove {}",
                self.vm,
                claim.display()
            )),
            // It was not told that this domain ended.
            _ => Ok(()),
        }
    }

    fn start_unit(&self) -> Result<(), String> {
        systemctl("start", &self.unit()).map_err(|why| {
            let said = last_line_of(&self.unit());
            let said = said.map_or(String::new(), |line| {
                format!(" Its last line in the journal: {line}")
            });
            format!(
                "{} does not start: {why}{said} (`journalctl -u {}` shows more)",
                self.unit(),
                self.unit()
            )
        })
    }

    fn await_listener(&self) -> Result<(), String> {
        let socket = launch::socket_in(self.run_dir, self.vm);
        let begin = Instant::now();
        loop {
            if self.is_served()? {
                return Ok(());
            }
            if begin.elapsed() > LISTEN_LIMIT {
                return Err(format!(
                    "{} runs, but nobody listens at {}: does its unit say so?",
                    self.unit(),
                    socket.display()
                ));
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// Whether somebody listens at its socket.
    fn is_served(&self) -> Result<bool, String> {
        let sockets =
            std::fs::read_to_string("/proc/net/unix").map_err(|error| format!("/proc/net/unix: {error}"))?;
        Ok(is_listening(&sockets, &launch::socket_in(self.run_dir, self.vm)))
    }

    /// Ends it if it runs for this domain.
    fn stop(&self) -> Result<(), String> {
        if !self.claimed_by()?.is_some_and(|holder| self.is_own(&holder)) {
            return Ok(());
        }
        let stopped = systemctl("stop", &self.unit());
        // Where nobody listens there is no backend to be kept from others, whatever the service manager says, or if there is none.
        if stopped.is_ok() || !self.is_served()? {
            let claim = self.claim();
            std::fs::remove_file(&claim).map_err(|error| format!("{}: {error}", claim.display()))?;
        }
        stopped.map_err(|why| format!("{} does not end: {why}", self.unit()))
    }
}

/// Whether somebody listens at a path, from the text of `/proc/net/unix`: number, users, protocol, flags, type, state, inode, path.
fn is_listening(sockets: &str, path: &Path) -> bool {
    /// The kernel's `__SO_ACCEPTCON`.
    const ACCEPTS: u32 = 1 << 16;
    sockets.lines().any(|line| {
        let mut words = line.split_whitespace();
        let flags = words.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let at = path
            .to_str()
            .is_some_and(|path| line.ends_with(&format!(" {path}")));
        at && flags.is_some_and(|flags| flags & ACCEPTS != 0)
    })
}

/// Has the service manager do something with a unit, and waits for it.
fn systemctl(verb: &str, unit: &str) -> Result<(), String> {
    let mut child = Command::new("systemctl")
        .args([verb, "--", unit])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("systemctl: {error}"))?;
    let begin = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() < MANAGER_LIMIT => std::thread::sleep(LOOK_PERIOD),
            Ok(None) => {
                // It may end by itself at this very moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not within {} s", MANAGER_LIMIT.as_secs()));
            }
            Err(error) => return Err(format!("systemctl: {error}")),
        }
    };
    if ended.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it cannot say it does not.
        let _ = stderr.read_to_string(&mut said);
    }
    match said.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => Err(line.trim().to_owned()),
        None => Err(format!("systemctl: {ended}")),
    }
}

/// What the processes of a unit said last, if the journal has it.
fn last_line_of(unit: &str) -> Option<String> {
    let journalctl = |arguments: &[&str]| {
        Command::new("journalctl")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
    };
    // What was said a moment ago may be under way; without it there is less to tell.
    let _ = journalctl(&["--sync"]);
    let matching = format!("_SYSTEMD_UNIT={unit}");
    let output = journalctl(&["--quiet", "--no-pager", "--lines=1", "--output=cat", &matching]).ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// As libvirt 9.0 gave it to this hook.
    const GIVEN: &str = include_str!("hook/domain.xml");

    fn vms(xml: &str) -> Result<Vec<u32>, String> {
        Ok(domain(xml, Path::new("/run"))?.vms.into_iter().collect())
    }

    #[test]
    fn a_domain_is_the_vm_whose_socket_it_has() {
        let read = domain(GIVEN, Path::new("/run")).unwrap();
        assert_eq!(read.vms, [3].into());
        assert_eq!(read.uuid, "8a7ad2cf-43a2-4d2b-9a0c-7f3a1f0a5b3e");
        // Those that are printed for other VMs, too.
        let printed = launch::domain(9, "/run/vgpu/vm9/vgpu.sock");
        let printed = printed.replace("</domain>", "<uuid>u</uuid></domain>");
        assert_eq!(vms(&printed), Ok(vec![9]));
        // The prefix is the domain's to choose.
        let renamed = printed
            .replace("qemu:", "q:")
            .replace("xmlns:q:", "xmlns:q")
            .replace("xmlns:qemu", "xmlns:q");
        assert!(renamed.contains("<q:commandline>"), "{renamed}");
        assert_eq!(vms(&renamed), Ok(vec![9]));
    }

    #[test]
    fn others_are_left_alone() {
        let with = |socket: &str| GIVEN.replace("/run/vgpu/vm3/vgpu.sock", socket);
        assert_eq!(vms(&with("/run/other/vm3/vgpu.sock")), Ok(vec![]));
        assert_eq!(vms(&with("/run/vgpux/vm3/vgpu.sock")), Ok(vec![]));
        let without = GIVEN.replace("-chardev", "-chardevs");
        assert_eq!(vms(&without), Ok(vec![]));
        let elsewhere = GIVEN.replace(QEMU, "http://example.org/qemu");
        assert_eq!(vms(&elsewhere), Ok(vec![]));
        let no_socket = GIVEN.replace("socket,id=vgpu,", "pipe,id=vgpu,");
        assert_eq!(vms(&no_socket), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for socket in [
            "/run/vgpu/vm03/vgpu.sock",
            "/run/vgpu/vm/vgpu.sock",
            "/run/vgpu/vm99999999999/vgpu.sock",
            "/run/vgpu/vm3/other.sock",
            "/run/vgpu/vm3//vgpu.sock/x",
        ] {
            let wrong = vms(&GIVEN.replace("/run/vgpu/vm3/vgpu.sock", socket)).unwrap_err();
            assert!(wrong.contains("expected /run/vgpu/vmN/vgpu.sock"), "{wrong}");
        }
        assert!(vms("<domain>").unwrap_err().starts_with("its XML: "));
        assert!(vms("<domain/>").unwrap_err().contains("no <uuid>"));
    }

    #[test]
    fn options_are_those_that_qemu_reads() {
        assert_eq!(
            options("socket,id=vgpu,path=/a,,b,,,x"),
            ["socket", "id=vgpu", "path=/a,b,", "x"]
        );
        assert_eq!(options(""), [""]);
    }

    #[test]
    fn two_moments_of_a_domain_count() {
        assert_eq!(Step::of("prepare", "begin"), Step::Start);
        assert_eq!(Step::of("release", "end"), Step::Stop);
        for (operation, sub_operation) in [
            ("start", "begin"),
            ("started", "begin"),
            ("stopped", "end"),
            ("reconnect", "begin"),
            ("migrate", "begin"),
            ("prepare", "end"),
        ] {
            assert_eq!(Step::of(operation, sub_operation), Step::Nothing);
        }
    }

    #[test]
    fn who_listens_is_seen_in_what_the_kernel_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a socket");
        let look = |path: &Path| is_listening(&std::fs::read_to_string("/proc/net/unix").unwrap(), path);
        assert!(!look(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(look(&path));
        assert!(!look(&dir.path().join("socket")));
        // A connection has the path, too, and does not listen.
        let client = UnixStream::connect(&path).unwrap();
        let (connection, _) = listener.accept().unwrap();
        drop(listener);
        assert!(!look(&path));
        drop((client, connection));
    }
}
