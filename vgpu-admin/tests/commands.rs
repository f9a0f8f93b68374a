//! The program against a `vgpud` that only answers: what it asks, what it prints, and how it ends.
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use vgpu_sched_api::messages::*;
use vgpu_sched_api::packet;

/// What is answered.
type Answers = Arc<Mutex<dyn FnMut(&Request) -> Answer + Send>>;

/// What the fixture's host answers.
fn fixture(request: &Request) -> Answer {
    match request {
        Request::Status { .. } => Answer::Status {
            status: Box::new(vgpu_client::fixture::host()),
            next_vm: None,
        },
        Request::Stats { .. } => Answer::Stats {
            stats: Box::new(vgpu_client::fixture::stats()),
            next_vm: None,
        },
        other => panic!("{other:?}"),
    }
}

/// Something that answers requests on a socket, and tells of each before.
struct Vgpud {
    dir: TempDir,
    asked: Receiver<Request>,
}

impl Vgpud {
    fn start(answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = SocketAddrUnix::new(dir.path().join("socket")).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let (sender, asked) = channel();
        let answer: Answers = Arc::new(Mutex::new(answer));
        std::thread::spawn(move || {
            while let Ok(client) = rustix::net::accept(&listener) {
                let (answer, sender) = (answer.clone(), sender.clone());
                std::thread::spawn(move || serve(&client, &answer, &sender));
            }
        });
        Self { dir, asked }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-admin"));
        command
            .arg("--socket")
            .arg(self.path("socket"))
            .args(arguments)
            .current_dir(self.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs it to its end, which must be a good one; what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        done(self.spawn(arguments).wait_with_output().unwrap())
    }

    fn all_asked(&self) -> Vec<Request> {
        self.asked.try_iter().collect()
    }
}

fn serve(client: &OwnedFd, answer: &Answers, asked: &Sender<Request>) {
    while let Ok((request, _)) = packet::receive::<Request>(client) {
        let answer = (answer.lock().unwrap())(&request);
        // The test may be over.
        let _ = asked.send(request);
        if packet::send(client, &answer, &[]).is_err() {
            return;
        }
    }
}

#[track_caller]
fn done(output: Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert_eq!(err, "", "{out}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn event(number: u64, vm: u32) -> EventRecord {
    EventRecord {
        number,
        at_s: 1_700_000_000,
        kind: EventKind::Stopped,
        vm: Some(vm),
        session: None,
        gpu: None,
        message: format!("event {number}"),
        calls: vec![CallRecord {
            name: "cuLaunchKernel".to_owned(),
            before_us: 5,
            took_us: None,
            ring: 0,
        }],
    }
}

/// Pages of two, of the numbers from 1 to `last`.
fn page(from: u64, last: u64) -> (Vec<u64>, u64) {
    let numbers: Vec<u64> = (from.max(1)..=last).take(2).collect();
    let next = numbers.last().map_or(from.max(1), |number| number + 1);
    (numbers, next)
}

#[test]
fn the_last_events_are_read_page_by_page() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Events { from, vm } => {
            let (numbers, next) = page(*from, 5);
            let events = numbers.into_iter().map(|number| event(number, vm.unwrap_or(9)));
            Answer::Events {
                events: events.collect(),
                next,
            }
        }
        other => panic!("{other:?}"),
    });
    let shown = vgpud.run(&["events", "--last", "2", "--vm-id", "3"]);
    let line = |number: u64| format!("{number}  2023-11-14T22:13:20Z  VM 3 stopped: event {number}\n");
    assert_eq!(shown, line(4) + &line(5));
    let vm = Some(3);
    let asked = [0, 3, 5, 6].map(|from| Request::Events { from, vm });
    assert_eq!(vgpud.all_asked(), asked);
    assert!(vgpud.run(&["events", "--calls"]).contains("cuLaunchKernel"));
    let json: Value = serde_json::from_str(&vgpud.run(&["events", "--json"])).unwrap();
    assert_eq!(json["schema_version"], SCHEMA_VERSION);
    assert_eq!(json["events"].as_array().unwrap().len(), 5);
    assert_eq!(json["events"][4]["calls"][0]["took_us"], Value::Null);
    assert_eq!(vgpud.run(&["events", "--last", "0"]), "");
}

/// One that is stopped, say: who only asks is not kept waiting.
#[test]
fn a_vgpud_that_hangs_is_given_up_on() {
    let (hangs, until) = channel::<()>();
    let until = Mutex::new(until);
    let vgpud = Vgpud::start(move |request| {
        // Until the test is over.
        let _ = until.lock().unwrap().recv();
        fixture(request)
    });
    let commands = [&["status"][..], &["usage", "--by", "day"], &["audit"]];
    let children = commands.map(|command| vgpud.spawn(command));
    for child in children {
        let output = child.wait_with_output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{err}");
        assert!(
            err.contains("did not answer within 5 s\nhint: it is busy or hangs"),
            "{err}"
        );
    }
    drop(hangs);
}

#[test]
fn a_bill_is_printed_part_by_part() {
    let part = |request: &Request| match request {
        Request::Usage(wanted) => {
            let vm = wanted.next.as_ref().map_or(1, |next| next.parse().unwrap());
            Answer::Usage {
                usage: vec![vgpu_client::fixture::usage(vm)],
                next: (vm < 3).then(|| (vm + 1).to_string()),
            }
        }
        other => panic!("{other:?}"),
    };
    let vgpud = Vgpud::start(part);
    let records = [1, 2, 3].map(vgpu_client::fixture::usage);
    let words = "usage --from 2023-11-14 --to 2023-11-15 --vm-id 1-3 --pool A --by day";
    let words: Vec<&str> = words.split(' ').collect();
    let with = |option: &'static str| words.iter().copied().chain([option]).collect::<Vec<_>>();
    assert_eq!(vgpud.run(&with("--csv")), vgpu_client::usage::csv(&records, true));
    let wanted = |next: Option<&str>| WantedUsage {
        vms: Some("1-3".to_owned()),
        pool: Some("A".to_owned()),
        from_s: 1_699_920_000,
        to_s: 1_700_006_400,
        by: Period::Day,
        next: next.map(str::to_owned),
    };
    let asked = [None, Some("2"), Some("3")].map(|next| Request::Usage(wanted(next)));
    assert_eq!(vgpud.all_asked(), asked);
    let json: Value = serde_json::from_str(&vgpud.run(&with("--json"))).unwrap();
    assert_eq!(
        json,
        json!({
            "schema_version": SCHEMA_VERSION, "by": "day", "from_s": 1_699_920_000u64, "to_s": 1_700_006_400u64,
            "usage": records,
        })
    );
    let shown = vgpud.run(&words);
    assert!(
        shown.contains("\n2023-11-14") && shown.contains("\nin all"),
        "{shown}"
    );
    // What is wrong is said before anybody is asked.
    drop(vgpud.all_asked());
    for (wrong, expected) in [
        (
            &["usage", "--from", "yesterday"][..],
            "expected a day such as 2026-11-30",
        ),
        (
            &["usage", "--from", "1h", "--to", "2h"],
            "expected an end behind the beginning",
        ),
        (&["usage", "--by", "week"], "[possible values: hour, day]"),
        (&["usage", "--vm-id", "x"], "expected a VM's number"),
        (&["usage", "--csv", "--json"], "cannot be used together"),
    ] {
        let output = vgpud.spawn(wrong).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
    assert_eq!(vgpud.all_asked(), []);
}

/// One event per line, each once, over many connections.
#[test]
fn events_are_followed() {
    let last = Arc::new(AtomicU64::new(1));
    let there = last.clone();
    let vgpud = Vgpud::start(move |request| match request {
        Request::Events { from, .. } => {
            let (numbers, next) = page(*from, there.load(SeqCst));
            Answer::Events {
                events: numbers.into_iter().map(|number| event(number, 3)).collect(),
                next,
            }
        }
        other => panic!("{other:?}"),
    });
    let mut child = vgpud.spawn(&["events", "--follow", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut number = || {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["schema_version"], SCHEMA_VERSION);
        event["number"].as_u64()
    };
    assert_eq!(number(), Some(1));
    last.store(4, SeqCst);
    assert_eq!([number(), number(), number()], [Some(2), Some(3), Some(4)]);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn arrival(number: u64) -> Arrival {
    Arrival {
        number,
        vm: 3,
        session: 1,
        pool: "A".to_owned(),
        gpus: vec!["GPU-0".to_owned()],
        priority: Priority::High,
        weight: 2,
        policy: Some(Policy::Priority),
        at_us: 10 * number,
        waited_us: 20,
        used_us: 30,
    }
}

/// Two arrivals are there already; three come whenever it was asked about those before, up to the eighth.
fn arriving() -> Vgpud {
    let mut last = 2;
    Vgpud::start(move |request| match request {
        Request::Arrivals { from } => {
            let (numbers, next) = page(*from, last);
            if numbers.is_empty() {
                last = 8.min(last + 3);
            }
            Answer::Arrivals {
                arrivals: numbers.into_iter().map(arrival).collect(),
                next,
            }
        }
        other => panic!("{other:?}"),
    })
}

/// What comes after it began is recorded, to its end, when it is interrupted.
#[test]
fn a_record_has_what_came_until_it_was_interrupted() {
    let vgpud = arriving();
    let child = vgpud.spawn(&["record", "arrivals"]);
    let until = Request::Arrivals { from: 9 };
    while vgpud.asked.recv().unwrap() != until {}
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(done(child.wait_with_output().unwrap()), "arrivals: 6 arrivals\n");
    let text = fs::read_to_string(vgpud.path("arrivals")).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(header).unwrap(),
        json!({"vgpu_record": 1, "schema_version": SCHEMA_VERSION})
    );
    let read: Vec<Arrival> = rest
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read, (3..=8).map(arrival).collect::<Vec<_>>());

    // Another one does not write over it.
    let output = vgpud.spawn(&["record", "arrivals"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(self::text(&output.stderr).contains("hint: "), "{output:?}");
    assert_eq!(fs::read_to_string(vgpud.path("arrivals")).unwrap(), text);
}

/// What was read before vgpud went is in the file, and no more is said to be.
#[test]
fn a_record_ends_whole_when_vgpud_does() {
    let mut last = 2;
    let vgpud = Vgpud::start(move |request| match request {
        // Whoever serves the connection ends, and hangs up.
        Request::Arrivals { from: 7 } => std::panic::resume_unwind(Box::new(())),
        Request::Arrivals { from } => {
            let (numbers, next) = page(*from, last);
            if numbers.is_empty() {
                last = 6;
            }
            Answer::Arrivals {
                arrivals: numbers.into_iter().map(arrival).collect(),
                next,
            }
        }
        other => panic!("{other:?}"),
    });
    let output = vgpud.spawn(&["record", "arrivals"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = text(&output.stderr);
    assert!(
        said.contains("the record ends here. arrivals is whole: it has what came before, 4 arrivals\n")
            && said.contains("hint: the next vgpud's is a record of its own"),
        "{said}"
    );
    let text = fs::read_to_string(vgpud.path("arrivals")).unwrap();
    let read = text
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).unwrap());
    assert_eq!(
        read.collect::<Vec<Arrival>>(),
        (3..=6).map(arrival).collect::<Vec<_>>()
    );
}

/// Where there is no pool for it, that is said beside what is asked for, which may come first.
#[test]
fn a_vm_in_no_pool_is_warned_of() {
    let vgpud = Vgpud::start(fixture);
    let folder = vgpud.path("");
    fs::write(vgpud.path("libcuda.so.1"), "").unwrap();
    for command in [
        &["cdi", "--libraries", folder.to_str().unwrap()][..],
        &["domain-xml"],
    ] {
        let said = |vm: &str| {
            let socket = vgpud.path("socket");
            let own = ["--vm-id", vm, "--vm-socket", socket.to_str().unwrap()];
            let child = vgpud.spawn(&[command, &own].concat());
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert!(!output.stdout.is_empty());
            text(&output.stderr)
        };
        assert_eq!(said("3"), "");
        let warned = said("4000");
        assert!(
            warned.starts_with("warning: VM 4000 is in no pool") && warned.contains("hint: "),
            "{warned}"
        );
    }
}

#[test]
fn a_record_ends_with_its_time() {
    let vgpud = arriving();
    let told: Value =
        serde_json::from_str(&vgpud.run(&["record", "arrivals", "--seconds", "1", "--json"])).unwrap();
    assert_eq!((&told["file"], &told["missed"]), (&json!("arrivals"), &json!(0)));
    let text = fs::read_to_string(vgpud.path("arrivals")).unwrap();
    assert_eq!(told["arrivals"], text.lines().count() - 1, "{text}");
}

fn stats() -> Stats {
    let vm = |vm| VmStats {
        vm,
        pool: "A".to_owned(),
        calls: 42,
        ..VmStats::default()
    };
    Stats {
        schema_version: SCHEMA_VERSION,
        uptime_s: 5,
        gpus: Vec::new(),
        vms: vec![vm(3), vm(70), vm(71)],
    }
}

/// The statistics of one VM, from that number on.
fn part(from_vm: u32) -> Answer {
    let mut stats = stats();
    stats.vms.retain(|vm| vm.vm >= from_vm);
    let next_vm = stats.vms.get(1).map(|vm| vm.vm);
    stats.vms.truncate(1);
    Answer::Stats {
        stats: Box::new(stats),
        next_vm,
    }
}

#[test]
fn statistics_are_told_in_three_ways() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Stats { from_vm } => part(*from_vm),
        Request::Status { .. } => Answer::Status {
            status: Box::new(vgpu_client::fixture::host()),
            next_vm: None,
        },
        other => panic!("{other:?}"),
    });
    assert!(vgpud.run(&["stats"]).contains("throttled"));
    let json: Stats = serde_json::from_str(&vgpud.run(&["--json", "stats"])).unwrap();
    assert_eq!(json, stats());
    let text = vgpud.run(&["stats", "--prometheus"]);
    assert!(
        text.contains("\nvgpu_vm_calls_total{vm=\"3\",pool=\"A\"} 42\n"),
        "{text}"
    );
    assert!(
        text.contains("\nvgpu_gpu_temperature_celsius{gpu=\"0\",UUID="),
        "{text}"
    );
    let mut child = vgpud.spawn(&["stats", "--json", "--watch"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let json: Stats = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(json, stats());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let both = vgpud
        .spawn(&["stats", "--json", "--prometheus"])
        .wait_with_output()
        .unwrap();
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

#[test]
fn what_was_proved_is_told() {
    let gpu = GpuRungs {
        uuid: "GPU-0".to_owned(),
        driver: "580".to_owned(),
        proved_s: Some(1),
        slices: true,
        ..GpuRungs::default()
    };
    let gpus = vec![gpu];
    let answer = gpus.clone();
    let vgpud = Vgpud::start(move |request| match request {
        Request::Probe => Answer::Probe { gpus: answer.clone() },
        other => panic!("{other:?}"),
    });
    assert!(vgpud.run(&["probe"]).contains("GPU-0"));
    let json: Value = serde_json::from_str(&vgpud.run(&["probe", "--json"])).unwrap();
    assert_eq!(json["gpus"], serde_json::to_value(gpus).unwrap());
}

fn status() -> Status {
    let vm = VmStatus {
        vm: 3,
        connected: true,
        priority: Priority::Low,
        weight: 1,
        aging_ms: 1000,
        queue_depth: None,
        queued: 0,
        calls: 0,
        turns: 0,
        gpu_microseconds: 0,
        estimated: false,
        limits: Limits::default(),
        violations: 0,
        quarantine: Some(QuarantineStatus {
            why: "it ran wild".to_owned(),
            since_s: 1_700_000_000,
            until_s: None,
        }),
        sessions: Vec::new(),
    };
    Status {
        schema_version: SCHEMA_VERSION,
        version: "0.1.0".to_owned(),
        uptime_s: 1,
        hostname: "gpu1".to_owned(),
        config: "/etc/vgpu/pools.toml".to_owned(),
        map_version: "0123456789abcdef".to_owned(),
        degraded: Vec::new(),
        map_differs: None,
        gpus: Vec::new(),
        pools: vec![PoolStatus {
            name: "A".to_owned(),
            gpus: Vec::new(),
            complete: true,
            ranges: vec!["1-7".to_owned()],
            policy: Policy::Fifo,
            exclusive: false,
            sharing: Sharing::Turns,
            weight: 1,
            gpus_per_vm: 0,
            ladder: Rung::ALL.to_vec(),
            vms: vec![vm],
        }],
        in_no_pool: Vec::new(),
    }
}

/// A change as it is asked for.
fn wanted(change: Change, dry_run: bool) -> Request {
    Request::Change(Wanted {
        dry_run,
        ..change.into()
    })
}

fn changed(changes: &[&str]) -> Answer {
    Answer::Changed(Changed {
        changes: changes.iter().map(|line| (*line).to_owned()).collect(),
        number: Some(7),
        map_version: "0f".to_owned(),
    })
}

/// What they do is `vgpud`'s to say, before and after.
#[test]
fn quarantines_are_ordered_and_tried() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Status { .. } => Answer::Status {
            status: Box::new(status()),
            next_vm: None,
        },
        Request::Change(Wanted { change, .. }) => match change {
            Change::Quarantine { .. } => changed(&["VM 2: quarantined for 60 seconds"]),
            Change::Release { vms } if vms == "1" => changed(&[]),
            Change::Release { vms } if vms == "8" => Answer::Refused {
                why: Refusal::NotFound,
                message: "VM 8: in no pool".to_owned(),
            },
            _ => changed(&["VM 3: released"]),
        },
        other => panic!("{other:?}"),
    });
    let quarantine = [
        "quarantine",
        "--vm-id",
        "2",
        "--reason",
        "too loud",
        "--seconds",
        "60",
    ];
    let ordered = |dry_run| {
        let change = Change::Quarantine {
            vms: "2".to_owned(),
            why: "too loud".to_owned(),
            seconds: Some(60),
        };
        [wanted(change, dry_run)]
    };
    let tried = vgpud.run(&[&quarantine[..], &["--dry-run"]].concat());
    assert_eq!(
        tried,
        "would change (dry run):\n  VM 2: quarantined for 60 seconds\n"
    );
    assert_eq!(vgpud.all_asked(), ordered(true));
    assert_eq!(vgpud.run(&quarantine), "VM 2: quarantined for 60 seconds\n");
    assert_eq!(vgpud.all_asked(), ordered(false));
    let told: Value = serde_json::from_str(&vgpud.run(&["release", "--vm-id", "1-7", "--json"])).unwrap();
    assert_eq!(
        told,
        json!({
            "schema_version": SCHEMA_VERSION, "dry_run": false, "changes": ["VM 3: released"], "number": 7, "map_version": "0f"
        })
    );
    let release = Change::Release {
        vms: "1-7".to_owned(),
    };
    assert_eq!(vgpud.all_asked(), [wanted(release, false)]);
    assert!(
        vgpud
            .run(&["release", "--vm-id", "1"])
            .starts_with("nothing to change")
    );
    assert!(
        vgpud
            .run(&["status"])
            .contains("VM 3: QUARANTINED until it is released: it ran wild\n")
    );
    let nobody = vgpud
        .spawn(&["release", "--vm-id", "8"])
        .wait_with_output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    assert!(text(&nobody.stderr).contains("hint: "), "{nobody:?}");
}

/// Who changed what is read page by page, too.
#[test]
fn the_last_changes_are_told() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Changes { from } => {
            let (numbers, next) = page(*from, 5);
            let changes = numbers.into_iter().map(vgpu_client::fixture::change).collect();
            Answer::Changes { changes, next }
        }
        other => panic!("{other:?}"),
    });
    let told: Value = serde_json::from_str(&vgpud.run(&["audit", "--last", "3", "--json"])).unwrap();
    let expected: Vec<ChangeRecord> = (3..=5).map(vgpu_client::fixture::change).collect();
    assert_eq!(told["changes"], json!(expected));
    let shown = vgpud.run(&["audit", "--last", "1", "--diff"]);
    assert!(
        shown.contains("anna (uid 990)") && shown.contains("+priority = \"high\""),
        "{shown}"
    );
}

/// The options become one request.
#[test]
fn pools_and_limits_are_set() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Change(_) => changed(&["it is changed"]),
        other => panic!("{other:?}"),
    });
    vgpud.run(&[
        "set-pool",
        "--pool",
        "A",
        "--pool",
        "B",
        "--exclusive",
        "true",
        "--ladder",
        "none",
    ]);
    let set = |pool: &str| Edit::SetPool {
        pool: pool.to_owned(),
        settings: PoolSettings {
            exclusive: Some(true),
            ladder: Some(Vec::new()),
            ..PoolSettings::default()
        },
    };
    let asked = |edits: Vec<Edit>, dry_run: bool| [wanted(Change::Edit { edits }, dry_run)];
    assert_eq!(vgpud.all_asked(), asked(vec![set("A"), set("B")], false));
    vgpud.run(&[
        "set-limits",
        "--vm-id",
        "3-5",
        "--gpu-memory-mib",
        "2048",
        "--call-rate",
        "0",
        "--dry-run",
    ]);
    let settings = VmSettings {
        limits: Limits {
            gpu_memory_mib: Some(2048),
            call_rate: Some(0),
            ..Limits::default()
        },
        ..VmSettings::default()
    };
    let edit = Edit::SetVms {
        vms: "3-5".to_owned(),
        settings,
    };
    assert_eq!(vgpud.all_asked(), asked(vec![edit], true));
}

/// On a terminal it shows what goes on, until vgpud is gone, and until q is pressed.
#[test]
fn the_live_screen_is_left_as_it_was() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::{Read, Write};

    /// After that it is not slow, but stuck.
    const LIMIT: Timespec = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let vgpud = Vgpud::start(fixture);
    // Where there is no terminal it says so.
    let output = vgpud.spawn(&["top"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("expected a terminal") && said.contains("hint: "),
        "{said}"
    );

    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options()
        .read(true)
        .write(true)
        .open(path.to_str().unwrap())
        .unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let before = rustix::termios::tcgetattr(&slave).unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-admin"));
        command.arg("--socket").arg(vgpud.path("socket")).arg("top");
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut terminal = fs::File::from(master);
    let until = |what: &str, terminal: &mut fs::File| {
        let (mut shown, mut bytes) = (String::new(), [0; 4096]);
        while !shown.contains(what) {
            let mut readable = [PollFd::new(terminal, PollFlags::IN)];
            let count = poll(&mut readable, Some(&LIMIT)).unwrap();
            assert!(count > 0, "no {what} in {shown:?}");
            let read = terminal.read(&mut bytes).unwrap();
            shown += &String::from_utf8_lossy(&bytes[..read]);
        }
    };
    let ended = |child: Child, terminal: &mut fs::File| {
        // The screen that was there before is back.
        until("\x1b[?1049l", terminal);
        assert_eq!(done(child.wait_with_output().unwrap()), "");
        let after = rustix::termios::tcgetattr(&slave).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
    };
    // A signal ends it as a key does.
    let child = start();
    until("q quit", &mut terminal);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    ended(child, &mut terminal);

    let child = start();
    until("q quit", &mut terminal);
    fs::remove_file(vgpud.path("socket")).unwrap();
    until("ANSWER", &mut terminal);
    terminal.write_all(b"q").unwrap();
    ended(child, &mut terminal);
}

/// Whatever shows how things are shows it again and again, an object per line.
#[test]
fn what_is_shown_is_shown_again() {
    let vgpud = Vgpud::start(|request| match request {
        Request::Turns { from } => Answer::Turns {
            turns: Vec::new(),
            next: *from,
        },
        Request::Changes { from } => {
            let (numbers, next) = page(*from, 3);
            let changes = numbers.into_iter().map(vgpu_client::fixture::change);
            Answer::Changes {
                changes: changes.collect(),
                next,
            }
        }
        Request::Probe => Answer::Probe {
            gpus: vec![GpuRungs::default()],
        },
        other => fixture(other),
    });
    let commands = [
        ("status", "pools"),
        ("stats", "vms"),
        ("turns", "turns"),
        ("audit", "changes"),
        ("probe", "gpus"),
    ];
    let children = commands.map(|(command, key)| (vgpud.spawn(&[command, "--watch", "--json"]), key));
    for (mut child, key) in children {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let told: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(told["schema_version"], SCHEMA_VERSION);
            assert!(told[key].is_array(), "{told}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // And once without it.
    assert_eq!(vgpud.run(&["turns"]), "No turn was given since vgpud started.\n");
    assert_eq!(vgpud.run(&["audit", "--last", "2"]).matches("anna").count(), 2);
}

/// What needs no `vgpud` asks none.
#[track_caller]
fn alone(arguments: &[&str], code: i32) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-admin"));
    command.args(["--socket", "/no/such/socket"]).args(arguments);
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

/// What the environment says is no option that was given.
#[test]
fn usage_is_told_as_it_is_whatever_the_environment_says() {
    let run = |socket: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-admin"));
        let output = command.env("VGPU_ADMIN_SOCKET", socket).args(arguments).output();
        let output = output.unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let usage = run("/s", &["set-weight"]);
    assert!(
        usage.contains("Usage: vgpu-admin set-weight --vm-id <VM> --weight <WEIGHT>\n"),
        "{usage}"
    );
    assert!(run("/s", &["status"]).contains("vgpud cannot be reached at /s: "));
    assert!(run("", &["help", "status"]).contains("[default: /run/vgpu/vgpud.sock]"));
}

#[test]
fn a_domain_is_told_of_without_vgpud() {
    let (xml, _) = alone(&["domain-xml", "--vm-id", "9"], 0);
    assert!(xml.contains("path=/run/vgpu/vm9/vgpu.sock'"), "{xml}");
    let arguments = ["domain-xml", "--vm-id", "9", "--vm-socket", "/s", "--json"];
    let told: Value = serde_json::from_str(&alone(&arguments, 0).0).unwrap();
    assert_eq!((&told["vm"], &told["vm_socket"]), (&json!(9), &json!("/s")));
    assert!(told["xml"].as_str().unwrap().contains("path=/s'"), "{told}");
    for wrong in [
        &["--vm-id", "1-7"][..],
        &["--vm-id", "9", "--vm-socket", "s"],
        &[],
    ] {
        let (_, err) = alone(&[&["domain-xml"], wrong].concat(), 2);
        assert!(err.contains("--vm-"), "{err}");
    }
}

#[test]
fn a_containers_file_is_told_of_without_vgpud() {
    let (file, err) = alone(&["cdi", "--vm-id", "9", "--libraries", "/l"], 0);
    assert!(
        err.contains("warning: there is no socket /run/vgpu/vm9/vgpu.sock"),
        "{err}"
    );
    assert!(err.contains("warning: /l has no libcuda.so.1"), "{err}");
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["devices"][0]["name"], "vm9");
    let mounts = &file["devices"][0]["containerEdits"]["mounts"];
    assert_eq!(mounts[0]["hostPath"], "/run/vgpu/vm9/vgpu.sock");
    assert_eq!(mounts[1]["hostPath"], "/l");
    assert_eq!(mounts[2]["containerPath"], "/dev/nvidiactl");
    let (told, _) = alone(&["cdi", "--vm-id", "9", "--libraries", "/l", "--json"], 0);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["schema_version"], &told["cdi"]),
        (&json!(SCHEMA_VERSION), &file)
    );
    let (older, _) = alone(&["cdi", "--vm-id", "9", "--cdi-version", "0.5.0"], 0);
    let older: Value = serde_json::from_str(&older).unwrap();
    assert_eq!(
        (&older["cdiVersion"], &file["cdiVersion"]),
        (&json!("0.5.0"), &json!("0.6.0"))
    );
    alone(&["cdi", "--vm-id", "9", "--cdi-version", "9.9.9"], 2);
    for wrong in [&["--libraries", "l"][..], &["--vm-socket", "s"]] {
        let (_, err) = alone(&[&["cdi", "--vm-id", "9"], wrong].concat(), 2);
        assert!(err.contains("expected a path from / on"), "{err}");
    }
}

#[test]
fn cloudstack_is_told_what_it_needs() {
    let (encoded, _) = alone(&["cloudstack", "extra-config", "--vm-id", "9"], 0);
    assert!(encoded.starts_with("vgpu%3A%0A%3CmemoryBacking%3E"), "{encoded}");
    assert_eq!(encoded.lines().count(), 1);
    let arguments = ["cloudstack", "extra-config", "--vm-id", "9", "--json"];
    let told: Value = serde_json::from_str(&alone(&arguments, 0).0).unwrap();
    let config = told["config"].as_str().unwrap();
    assert!(config.contains("path=/run/vgpu/vm9/vgpu.sock\""), "{config}");
    alone(&["cloudstack", "extra-config"], 2);

    let vgpud = Vgpud::start(fixture);
    let found: Value = serde_json::from_str(&vgpud.run(&["cloudstack", "discovery"])).unwrap();
    let gpu = &found["gpus"][0];
    assert_eq!(
        (&gpu["device"], &gpu["full_passthrough"]["enabled"]),
        (&json!("NVIDIA H100 80GB HBM3"), &json!(0))
    );
    let told: Value = serde_json::from_str(&vgpud.run(&["cloudstack", "discovery", "--json"])).unwrap();
    assert_eq!(
        (&told["schema_version"], &told["gpus"]),
        (&json!(SCHEMA_VERSION), &found["gpus"])
    );
    alone(&["cloudstack", "discovery"], 4);
}

/// A host on which a test says what the service manager does.
struct Hooked {
    dir: TempDir,
}

impl Hooked {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("vgpu/vm3")).unwrap();
        let script = dir.path().join("systemctl");
        // It fails as long as there is something to say.
        let text = "#!/bin/sh\necho \"$*\" >>\"${0%/*}/asked\"\n[ \"$1\" = stop ] || ! cat \"${0%/*}/failing\" >&2\n";
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn domain(&self, uuid: &str) -> String {
        let arguments = ["domain-xml", "--vm-id", "3", "--vm-socket"];
        let socket = self.path("vgpu/vm3/vgpu.sock");
        let (xml, _) = alone(&[&arguments[..], &[socket.to_str().unwrap()]].concat(), 0);
        xml.replace("</domain>", &format!("<uuid>{uuid}</uuid></domain>"))
    }

    /// What libvirt runs; what it says if it fails.
    fn hook(&self, xml: &str, line: &str) -> Result<(), String> {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_vgpu-admin"))
            .arg("libvirt-hook")
            .arg("--run-dir")
            .arg(self.dir.path())
            .arg("--")
            .args(line.split(' '))
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It need not read what does not concern it.
        let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
        let output = child.wait_with_output().unwrap();
        // libvirt would take what is there for the domain's XML.
        assert_eq!(text(&output.stdout), "");
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) => Err(text(&output.stderr)),
            other => panic!("{other:?}: {}", text(&output.stderr)),
        }
    }

    /// What the service manager was asked for since.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.path("asked"));
        asked.lines().map(str::to_owned).collect()
    }
}

const START: &str = "start -- vgpu-backend@3.service";
const STOP: &str = "stop -- vgpu-backend@3.service";

#[test]
fn a_backend_comes_and_goes_with_its_domain() {
    let host = Hooked::new();
    let _listener = UnixListener::bind(host.path("vgpu/vm3/vgpu.sock")).unwrap();
    let (xml, copy) = (host.domain("one"), host.domain("two"));
    assert_eq!(host.hook(&xml, "a prepare begin -"), Ok(()));
    assert_eq!(host.asked(), [START]);
    for other in [
        "start begin -",
        "started begin -",
        "stopped end -",
        "reconnect begin -",
    ] {
        assert_eq!(host.hook(&xml, &format!("a {other}")), Ok(()));
    }
    assert_eq!(host.asked(), [""; 0]);

    // A copy of it neither gets the backend nor ends it.
    let why = host.hook(&copy, "copy prepare begin -").unwrap_err();
    assert!(
        why.contains("domain copy: VM 3 is another domain: one a."),
        "{why}"
    );
    assert_eq!(host.hook(&copy, "copy release end -"), Ok(()));
    assert_eq!(host.asked(), [""; 0]);

    // Whoever has crashed may come again, also under another name.
    assert_eq!(host.hook(&xml, "b prepare begin -"), Ok(()));
    assert_eq!(host.hook(&xml, "b release end -"), Ok(()));
    assert_eq!(host.asked(), [START, STOP]);
    assert_eq!(host.hook(&xml, "b release end -"), Ok(()));
    assert_eq!(host.asked(), [""; 0]);
    assert_eq!(host.hook(&copy, "copy prepare begin -"), Ok(()));
    assert_eq!(host.asked(), [START]);
}

/// Where the service manager does nothing, or is not there, a VM's number is free again once nobody serves it.
#[test]
fn a_claim_does_not_outlive_the_service_manager() {
    let host = Hooked::new();
    let (xml, copy) = (host.domain("one"), host.domain("two"));
    let script = "#!/bin/sh\necho System has not been booted with systemd >&2\nexit 1\n";
    fs::write(host.path("systemctl"), script).unwrap();
    for xml in [&xml, &copy] {
        let why = host.hook(xml, "a prepare begin -").unwrap_err();
        assert!(
            why.contains("does not start: System has not been booted"),
            "{why}"
        );
    }
    assert_eq!(fs::read_dir(host.path("vgpu-libvirt")).unwrap().count(), 0);

    // One that does not end is kept from others as long as it listens.
    fs::write(host.path("systemctl"), "#!/bin/sh\n[ \"$1\" = start ]\n").unwrap();
    let listener = UnixListener::bind(host.path("vgpu/vm3/vgpu.sock")).unwrap();
    assert_eq!(host.hook(&xml, "a prepare begin -"), Ok(()));
    for _ in 0..2 {
        let why = host.hook(&xml, "a release end -").unwrap_err();
        assert!(why.contains("does not end: "), "{why}");
        assert!(host.hook(&copy, "b prepare begin -").is_err());
    }
    drop(listener);
    assert!(host.hook(&xml, "a release end -").is_err());
    assert_eq!(fs::read_dir(host.path("vgpu-libvirt")).unwrap().count(), 0);
}

#[test]
fn why_a_domain_does_not_start_is_told() {
    let host = Hooked::new();
    let xml = host.domain("one");
    fs::write(host.path("failing"), "\nJob for it failed.\nSee elsewhere.\n").unwrap();
    let why = host.hook(&xml, "a prepare begin -").unwrap_err();
    let expected = "vgpu-admin: domain a: vgpu-backend@3.service does not start: Job for it failed.";
    assert!(why.starts_with(expected), "{why}");
    assert_eq!(host.asked(), [START, STOP]);

    // It is started, and does not listen where it should.
    fs::remove_file(host.path("failing")).unwrap();
    let why = host.hook(&xml, "a prepare begin -").unwrap_err();
    assert!(why.contains("runs, but nobody listens at "), "{why}");
    assert_eq!(host.asked(), [START, STOP]);
    assert_eq!(fs::read_dir(host.path("vgpu-libvirt")).unwrap().count(), 0);

    for (xml, expected) in [
        ("<domain>", "domain a: its XML: "),
        ("<domain/>", "domain a: its XML has no <uuid>"),
    ] {
        let why = host.hook(xml, "a prepare begin -").unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
    // Another domain is none of ours.
    assert_eq!(
        host.hook("<domain><uuid>u</uuid></domain>", "a prepare begin -"),
        Ok(())
    );
    assert_eq!(host.asked(), [""; 0]);
}
