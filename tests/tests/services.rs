//! The units of the host's services: that what they start is what the programs understand, and what the services tell the service
//! manager.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vgpu_vm::Artifacts;

const UNITS: [&str; 3] = ["vgpud.service", "vgpu-backend@.service", "vgpu-panel.service"];
/// After this long a test that waits has failed.
const LIMIT: Duration = Duration::from_secs(30);

fn unit(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host-package");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// What a unit says for this key, once.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key} in {unit}"));
    assert_eq!(values.next(), None, "{key} twice in {unit}");
    value
}

/// A host whose folders lie below one of the test's own, and that has a software GPU.
struct Host {
    root: tempfile::TempDir,
    manager: UnixDatagram,
    services: Vec<(String, Child)>,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc", "run/vm3", "state", "softgpu"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("etc/pools.toml"), "").unwrap();
        let manager = UnixDatagram::bind(root.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            root,
            manager,
            services: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A line of a unit with this host's paths, for VM 3, with these options.
    fn command(&self, line: &str, options: &[String]) -> Command {
        let artifacts = Artifacts::from_env();
        let at = |path: PathBuf| path.display().to_string();
        // There need not be the group.
        let line = line.replace("--admin-group vgpu-admin", "--admin-group root");
        let words = line.split_whitespace().filter(|word| *word != "$OPTIONS");
        let words = words.map(|word| {
            let word = word
                .replace("%i", "3")
                .replace("/etc/vgpu", &at(self.path("etc")))
                .replace("/run/vgpu", &at(self.path("run")))
                .replace("/var/lib/vgpu", &at(self.path("state")))
                .replace("/usr/libexec/vgpu", &at(artifacts.bin("")));
            match word.strip_prefix("/usr/bin/") {
                Some(name) => at(artifacts.bin(name)),
                None => word,
            }
        });
        let mut words = words.collect::<Vec<_>>().into_iter();
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(options)
            .stdin(Stdio::null())
            .env("VGPU_ADMIN_SOCKET", self.path("run/vgpud.sock"))
            .env("VGPU_SOFTGPU_DIR", self.path("softgpu"));
        command
    }

    /// Starts a service as its unit says, with a watchdog, and waits until it is ready; what it then says that it does.
    fn start(&mut self, name: &str, options: &[String]) -> String {
        let mut command = self.command(value(&unit(name), "ExecStart"), options);
        command
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "200000");
        self.services.push((name.to_owned(), command.spawn().unwrap()));
        let news = self.hear(name);
        assert!(news.contains(&"READY=1".to_owned()), "{name}: {news:?}");
        let status = news.iter().find_map(|line| line.strip_prefix("STATUS="));
        status.unwrap_or_else(|| panic!("{name}: {news:?}")).to_owned()
    }

    /// What is told next.
    #[track_caller]
    fn hear(&self, name: &str) -> Vec<String> {
        let mut bytes = [0; 4096];
        let len = self
            .manager
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("{name} tells nothing: {error}"));
        let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn until(&self, name: &str, wanted: &str) {
        let mut heard = Vec::new();
        // A beat every tenth of a second.
        while heard.len() < 300 {
            heard.extend(self.hear(name));
            if heard.iter().any(|line| line == wanted) {
                return;
            }
        }
        panic!("{name} does not tell {wanted}: {heard:?}");
    }

    /// Ends what was started last, which must say so and end well.
    fn end(&mut self) {
        let (name, mut child) = self.services.pop().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        self.until(&name, "STOPPING=1");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (_, child) in &mut self.services {
            // A test has failed; it may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn words(line: String) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn services_tell_when_they_are_ready_that_they_live_and_that_they_end() {
    let mut host = Host::new();
    let softgpu = Artifacts::existing(Artifacts::from_env().softgpu_lib_dir()).unwrap();
    let vgpud = unit("vgpud.service");
    let nvml = words(format!("--libnvidia-ml {}/libnvidia-ml.so.1", softgpu.display()));
    assert_eq!(
        host.start("vgpud.service", &nvml),
        "GPUs: 1, pools: 0, sessions: 0"
    );
    host.until("vgpud", "WATCHDOG=1");
    fs::write(
        host.path("etc/pools.toml"),
        "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\n",
    )
    .unwrap();
    let reloaded = host.command(value(&vgpud, "ExecReload"), &[]).output().unwrap();
    assert!(reloaded.status.success(), "{reloaded:?}");
    host.until("vgpud", "STATUS=GPUs: 1, pools: 1, sessions: 0");
    host.end();

    let libcuda = words(format!("--libcuda-dir {}", softgpu.display()));
    assert_eq!(host.start("vgpu-backend@.service", &libcuda), "front ends: 0");
    host.until("vgpu-backend", "WATCHDOG=1");
    assert!(host.path("run/vm3/vgpu.sock").exists());
    host.end();

    let doing = host.start("vgpu-panel.service", &words("--listen 127.0.0.1:0".to_owned()));
    assert!(doing.starts_with("listening at http://127.0.0.1:"), "{doing}");
    host.until("vgpu-panel", "WATCHDOG=1");
    host.end();
}

/// The journal is told how grave a line is, and no time; others are told both.
#[test]
fn the_journal_gets_the_level_of_each_line() {
    let host = Host::new();
    let log = fs::File::create(host.path("log")).unwrap();
    let found = log.metadata().unwrap();
    for (stream, start) in [
        (
            format!("{}:{}", found.dev(), found.ino()),
            "<4>WARN vgpu_panel: vgpud cannot be reached",
        ),
        ("1:2".to_owned(), "["),
    ] {
        fs::write(host.path("log"), "").unwrap();
        let line = value(&unit("vgpu-panel.service"), "ExecStart").to_owned();
        let mut command = host.command(&line, &words("--listen 127.0.0.1:0".to_owned()));
        command
            .env("NOTIFY_SOCKET", host.path("notify"))
            .env("JOURNAL_STREAM", stream)
            .stderr(fs::File::options().append(true).open(host.path("log")).unwrap());
        let mut panel = command.spawn().unwrap();
        host.until("vgpu-panel", "READY=1");
        kill_process(Pid::from_child(&panel), Signal::TERM).unwrap();
        assert!(panel.wait().unwrap().success());
        let log = fs::read_to_string(host.path("log")).unwrap();
        assert!(log.starts_with(start), "{log}");
    }
}

/// Each watches over its service, and has it end in order within what that may take.
#[test]
fn units_are_of_one_kind() {
    for name in UNITS {
        let unit = unit(name);
        assert_eq!(value(&unit, "Type"), "notify", "{name}");
        assert_eq!(value(&unit, "Restart"), "on-failure", "{name}");
        assert!(value(&unit, "WatchdogSec").parse::<u64>().unwrap() > 0, "{name}");
        for (key, wanted) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("SystemCallArchitectures", "native"),
            ("WantedBy", "multi-user.target"),
        ] {
            assert_eq!(value(&unit, key), wanted, "{name}: {key}");
        }
    }
}
