//! What an operator does with `vgpud`: looks at it, looks for GPUs, edits the pool map while VMs work, restarts it.
#[allow(dead_code)]
mod common;

use common::{Daemon, ask, map, wanted};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use vgpu_sched_api::messages::{
    Answer, Change, Changed, Edit, GpuState, Priority, Refusal, Request, SCHEMA_VERSION, VmSettings, Wanted,
};
use vgpu_sched_api::turn::State;

fn refusal(answer: Answer) -> (Refusal, String) {
    match answer {
        Answer::Refused { why, message } => (why, message),
        other => panic!("{other:?}"),
    }
}

fn edit(daemon: &Daemon, edits: &[Edit], dry_run: bool) -> Vec<String> {
    let change = Change::Edit {
        edits: edits.to_vec(),
    };
    match daemon.ask(&Request::Change(Wanted {
        dry_run,
        ..change.into()
    })) {
        Answer::Changed(Changed { changes, number, .. }) => {
            assert_eq!(number.is_some(), !dry_run && !changes.is_empty());
            changes
        }
        other => panic!("{other:?}"),
    }
}

fn reload(dry_run: bool) -> Request {
    Request::Change(Wanted {
        dry_run,
        ..Change::Reload {}.into()
    })
}

fn refused_edit(daemon: &Daemon, one: Edit) -> (Refusal, String) {
    refusal(daemon.ask(&wanted(Change::Edit { edits: vec![one] })))
}

fn scan(daemon: &Daemon) -> (Vec<String>, Vec<String>) {
    match daemon.ask(&Request::Scan) {
        Answer::Scanned(scanned) => (scanned.appeared, scanned.vanished),
        other => panic!("{other:?}"),
    }
}

/// A pool of each of these GPUs: A has VMs 1-7, B has 8-20, C has 21 and so on.
fn pools(gpus: &[String]) -> String {
    let vms = ["1-7", "8-20", "21"];
    let pool = |(n, gpu): (usize, &String)| {
        let name = ["A", "B", "C"][n];
        format!(
            "[[pool]]\nname = \"{name}\"\ngpus = [\"{gpu}\"]\nvms = [\"{}\"]\n",
            vms[n]
        )
    };
    gpus.iter().enumerate().map(pool).collect()
}

fn move_vms(vms: &str, pool: &str) -> Edit {
    Edit::RegisterVms {
        vms: vms.to_owned(),
        pool: pool.to_owned(),
        settings: VmSettings::default(),
        move_from_other: true,
    }
}

#[test]
fn status_shows_what_there_is() {
    let daemon = Daemon::with_gpus(2, &map(&[(1, "high"), (9, "low")], "queue_depth = 12"));
    let status = daemon.status();
    assert_eq!(status.schema_version, SCHEMA_VERSION);
    assert!(status.config.ends_with("pools.toml"));
    assert_eq!(status.degraded, [""; 0]);
    let [first, second] = &status.gpus[..] else {
        panic!("{:?}", status.gpus)
    };
    assert_eq!((first.index, second.index), (Some(0), Some(1)));
    assert_eq!(
        (first.state, &first.pools[..]),
        (GpuState::Ready, &["A".to_owned()][..])
    );
    assert!(first.model.contains("software") && !first.pci.is_empty() && first.memory > 0);
    let pool = &status.pools[0];
    assert!(pool.complete);
    assert_eq!(pool.ranges, ["1", "9"]);
    // Both have settings of their own.
    assert_eq!(pool.vms.iter().map(|vm| vm.vm).collect::<Vec<_>>(), [1, 9]);
    assert!(!pool.vms[0].connected);

    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.take_turn();
    exec.show(7, 3);
    let vm = daemon.vm(1);
    assert!(vm.connected);
    assert_eq!((vm.priority, vm.weight, vm.aging_ms), (Priority::High, 1, 1000));
    assert_eq!((vm.queue_depth, vm.queued, vm.calls), (Some(12), 3, 7));
    assert_eq!((vm.sessions[0].queued, vm.sessions[0].calls), (3, 7));
    assert_eq!(vm.sessions[0].gpus, daemon.gpus());
    assert_eq!(daemon.status().gpus[1].sessions, 1);
}

/// Many VMs are shown in parts, each of which fits into a packet.
#[test]
fn many_vms_are_shown_in_parts() {
    let vms: Vec<(u32, &str)> = (1..=1500).map(|vm| (vm, "low")).collect();
    let daemon = Daemon::start(&map(&vms, ""));
    let (mut from_vm, mut seen, mut parts) = (0, Vec::new(), 0);
    loop {
        let answer = daemon.ask(&Request::Status { from_vm });
        let Answer::Status { status, next_vm } = answer else {
            panic!("{answer:?}")
        };
        seen.extend(status.pools[0].vms.iter().map(|vm| vm.vm));
        parts += 1;
        match next_vm {
            Some(next) => from_vm = next,
            None => break,
        }
    }
    assert!(parts > 1);
    assert!(seen.into_iter().eq(1..=1500));
    let backends: Vec<_> = [7, 9].map(|vm| daemon.backend(vm)).into();
    let Answer::Stats { stats, next_vm: None } = daemon.ask(&Request::Stats { from_vm: 8 }) else {
        panic!()
    };
    assert_eq!(stats.vms.iter().map(|vm| vm.vm).collect::<Vec<_>>(), [9]);
    drop(backends);
}

#[test]
fn the_sessions_of_a_vm_share_its_queue_depth() {
    let daemon = Daemon::start(&map(&[(1, "low")], "queue_depth = 9"));
    let backend = daemon.backend(1);
    let first = backend.session(1);
    first.until_depth(Some(9));
    let second = backend.session(2);
    first.until_depth(Some(4));
    second.until_depth(Some(4));
    // Live, by a reload.
    daemon.load(&map(&[(1, "low")], "queue_depth = 30"));
    first.until_depth(Some(15));
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    second.until_depth(Some(30));
    daemon.load(&map(&[(1, "low")], ""));
    second.until_depth(None);
}

#[test]
fn calls_are_counted_over_sessions_and_restarts() {
    let mut daemon = Daemon::start(&map(&[(1, "low")], ""));
    let backend = daemon.backend(1);
    let first = backend.session(1);
    first.show(10, 4);
    assert_eq!((daemon.vm(1).calls, daemon.vm(1).queued), (10, 4));
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    assert_eq!((daemon.vm(1).calls, daemon.vm(1).queued), (10, 0));
    let mut second = backend.session(2);
    second.show(5, 1);
    assert_eq!(daemon.vm(1).calls, 15);

    // What a session that goes on has done counts once.
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    second.show(6, 1);
    daemon.restart();
    let backend = daemon.backend(1);
    backend.attach(2, &mut second);
    assert_eq!(daemon.vm(1).calls, 16);
    daemon.end(Signal::KILL);
    daemon.restart();
    let backend = daemon.backend(1);
    backend.attach(2, &mut second);
    assert_eq!(daemon.vm(1).calls, 16);

    // One that ended meanwhile keeps what it had done, and the next of its number begins at zero.
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let backend = daemon.backend(1);
    assert_eq!(daemon.vm(1).calls, 16);
    let third = backend.session(2);
    third.show(3, 0);
    assert_eq!(daemon.vm(1).calls, 19);
    // What an executor says of itself need not make sense.
    third.show(u64::MAX, u64::MAX);
    assert_eq!((daemon.vm(1).calls, daemon.vm(1).queued), (u64::MAX, u64::MAX));
}

#[test]
fn an_edit_changes_the_file_and_what_runs() {
    let daemon = Daemon::with_gpus(2, &map(&[], ""));
    let gpus = daemon.gpus();
    // Comments stay, and so do owner and mode.
    let text = format!("# ours\n{}", pools(&gpus));
    daemon.load(&text);
    let mode = |mode| std::fs::set_permissions(daemon.map_path(), std::fs::Permissions::from_mode(mode));
    mode(0o640).unwrap();
    let backend = daemon.backend(3);
    let (first, _second) = (backend.session(1), backend.session(2));
    first.take_turn();
    first.until_depth(None);

    let edits = [
        move_vms("3", "B"),
        Edit::SetVms {
            vms: "3".to_owned(),
            settings: VmSettings {
                priority: Some(Priority::High),
                weight: Some(5),
                queue_depth: Some(8),
                aging_ms: Some(70),
                ..VmSettings::default()
            },
        },
    ];
    let planned = edit(&daemon, &edits, true);
    assert!(
        planned
            .iter()
            .any(|line| line == "VM 3: its 2 sessions stay on their GPUs until they end"),
        "{planned:?}"
    );
    assert_eq!(daemon.read_map(), text);
    assert_eq!(daemon.vm(3).priority, Priority::Medium);

    assert_eq!(edit(&daemon, &edits, false), planned);
    let edited = daemon.read_map();
    assert!(edited.starts_with("# ours\n"), "{edited}");
    let now = std::fs::metadata(daemon.map_path()).unwrap().permissions().mode();
    assert_eq!(now & 0o7777, 0o640);
    // At once for what runs: the slice of its level, and its depth.
    assert_eq!(first.slice(), 20_000);
    first.until_depth(Some(4));
    let vm = daemon.vm(3);
    assert_eq!(
        (vm.priority, vm.weight, vm.aging_ms, vm.queue_depth),
        (Priority::High, 5, 70, Some(8))
    );
    // The running sessions stay where they are, and the next one starts elsewhere.
    assert_eq!(first.state(), State::Held);
    assert_eq!(vm.sessions[0].gpus, gpus[..1]);
    assert_eq!(backend.open(3), gpus[1..]);
    assert_eq!(daemon.status().pools[1].vms[0].vm, 3);
    // All is so already.
    assert_eq!(edit(&daemon, &edits, false), [""; 0]);
    assert_eq!(daemon.read_map(), edited);
}

#[test]
fn a_gpu_is_assigned_by_index_address_or_uuid() {
    let daemon = Daemon::with_gpus(3, &map(&[], ""));
    let gpus = daemon.status().gpus;
    daemon.load("");
    assert!(
        daemon
            .status()
            .gpus
            .iter()
            .all(|gpu| gpu.state == GpuState::Unassigned)
    );
    for name in ["0", &gpus[1].pci, &gpus[2].uuid] {
        let assign = Edit::AssignGpu {
            gpu: name.to_owned(),
            pool: "A".to_owned(),
        };
        assert_eq!(edit(&daemon, &[assign], false).len(), 1);
    }
    let share = Edit::AssignGpu {
        gpu: "2".to_owned(),
        pool: "B".to_owned(),
    };
    edit(&daemon, &[share], false);
    let status = daemon.status();
    assert_eq!(status.pools[0].gpus, daemon.gpus());
    assert_eq!(status.gpus[2].pools, ["A", "B"]);
}

#[test]
fn edits_that_make_no_sense_change_nothing() {
    let daemon = Daemon::with_gpus(2, &map(&[], ""));
    let text = pools(&daemon.gpus());
    daemon.load(&text);
    let set = |vms: &str, weight| Edit::SetVms {
        vms: vms.to_owned(),
        settings: VmSettings {
            weight: Some(weight),
            ..VmSettings::default()
        },
    };
    let assign = |gpu: &str, pool: &str| Edit::AssignGpu {
        gpu: gpu.to_owned(),
        pool: pool.to_owned(),
    };
    for (one, why) in [
        (assign("7", "A"), Refusal::NotFound),
        (assign("0", ""), Refusal::Invalid),
        (move_vms("1", "Z"), Refusal::NotFound),
        (move_vms("7-1", "A"), Refusal::Invalid),
        (set("99", 2), Refusal::NotFound),
        (set("1", 0), Refusal::Invalid),
        (set("1", 101), Refusal::Invalid),
    ] {
        let (refused, message) = refused_edit(&daemon, one.clone());
        assert_eq!(refused, why, "{one:?}: {message}");
    }
    // All or none.
    let both = vec![set("1", 2), assign("7", "A")];
    let answer = daemon.ask(&wanted(Change::Edit { edits: both }));
    assert_eq!(refusal(answer).0, Refusal::NotFound);
    assert_eq!(daemon.read_map(), text);

    // What is wrong in the file is said with its line, and what is in use stays in use.
    daemon.write_map(&format!("{text}nonsense = 1\n"));
    for dry_run in [true, false] {
        let (why, message) = refusal(daemon.ask(&reload(dry_run)));
        assert_eq!(why, Refusal::BadConfig);
        assert!(message.contains("pools.toml: line 9"), "{message}");
    }
    std::fs::remove_file(daemon.map_path()).unwrap();
    let (why, message) = refused_edit(&daemon, set("1", 2));
    assert_eq!(why, Refusal::Failed);
    assert!(message.contains("pools.toml: cannot be read"), "{message}");
    assert_eq!(daemon.status().pools.len(), 2);
}

#[test]
fn a_gpu_that_falls_off_is_missing_until_it_is_back() {
    let mut daemon = Daemon::with_gpus(2, &map(&[], ""));
    let gpus = daemon.gpus();
    daemon.load(&(pools(&gpus) + "[[pool]]\nname = \"both\"\ngpus = [\"all\"]\nvms = [30]\n"));
    let (one, both) = (daemon.backend(1), daemon.backend(30));
    let (mut first, mut second) = (one.session(1), both.session(1));
    first.take_turn();
    assert_eq!(scan(&daemon), (vec![], vec![]));

    daemon.lose_gpu(0, true);
    assert_eq!(scan(&daemon), (vec![], gpus[..1].to_vec()));
    let check = |daemon: &Daemon| {
        let status = daemon.status();
        // The one that is there comes first.
        assert_eq!(status.gpus[0].index, Some(1));
        let missing = &status.gpus[1];
        assert_eq!((missing.index, missing.state), (None, GpuState::Missing));
        assert_eq!((&missing.uuid, missing.sessions), (&gpus[0], 2));
        assert!(missing.model.contains("software"), "known from before");
        assert!(!status.pools[0].complete && status.pools[1].complete);
        assert!(status.degraded[0].contains(&gpus[0]), "{:?}", status.degraded);
        // What runs stays where it was; nobody is moved to another GPU.
        assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[..1]);
        assert_eq!(daemon.vm(30).sessions[0].gpus, gpus);
    };
    check(&daemon);
    assert!(!daemon.status().pools[2].complete);
    assert_eq!(both.open(2), gpus[1..]);
    let open = Request::OpenSession {
        session: 2,
        pid: 1,
        program: String::new(),
        gpus: Vec::new(),
    };
    assert_eq!(refusal(one.ask(&open)).0, Refusal::NoGpu);

    // The same after a restart, also if NVML does not answer at all any longer.
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let (one, both) = (daemon.backend(1), daemon.backend(30));
    one.attach(1, &mut first);
    both.attach(1, &mut second);
    check(&daemon);
    assert_eq!(first.state(), State::Held);
    // They share the GPU that one of them holds.
    second.want();
    first.until_contended();
    assert_eq!(second.state(), State::None);

    daemon.replace_nvml(Some("no library"));
    let (why, message) = refusal(daemon.ask(&Request::Scan));
    assert_eq!(why, Refusal::Failed);
    assert!(message.contains("cannot be listed"), "{message}");
    check_degraded(&daemon, "cannot be listed");
    assert_eq!(both.open(2), gpus[1..]);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    check_degraded(&daemon, "cannot be listed");
    let one = daemon.backend(1);
    one.attach(1, &mut first);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[..1]);

    daemon.replace_nvml(Some("nvml"));
    daemon.lose_gpu(0, false);
    assert_eq!(scan(&daemon), (gpus.clone(), vec![]));
    assert_eq!(daemon.status().degraded, [""; 0]);
    assert_eq!(one.open(2), gpus[..1]);
}

/// What happened while nobody looked is told by who looks next; to a new host all its GPUs are no news.
#[test]
fn a_gpu_that_went_while_vgpud_did_not_run_is_told_of() {
    let mut daemon = Daemon::with_gpus(2, &map(&[], ""));
    let gpus = daemon.gpus();
    let told = |daemon: &Daemon| -> Vec<String> {
        daemon
            .events(None)
            .into_iter()
            .map(|event| event.message)
            .collect()
    };
    assert_eq!(told(&daemon), [""; 0]);
    let restart = |daemon: &mut Daemon, lost: bool| {
        assert_eq!(daemon.end(Signal::TERM), Some(0));
        daemon.lose_gpu(1, lost);
        daemon.restart();
    };
    let news = ["gone", "here"].map(|what| {
        format!(
            "GPU {} is {what}, which happened while vgpud did not run",
            gpus[1]
        )
    });
    restart(&mut daemon, true);
    assert_eq!(told(&daemon), news[..1]);
    // Once.
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    assert_eq!(told(&daemon), news[..1]);
    restart(&mut daemon, false);
    assert_eq!(told(&daemon), news);
    assert_eq!(daemon.events(None)[0].gpu.as_ref(), Some(&gpus[1]));
}

/// Also after a restart, when it is known from before alone.
#[test]
fn a_gpu_that_is_missing_is_named_by_its_address() {
    let mut daemon = Daemon::with_gpus(2, &map(&[], ""));
    let gpus = daemon.status().gpus;
    daemon.load(&format!(
        "[[pool]]\nname = \"A\"\ngpus = [\"{}\", \"{}\"]\nvms = [1]\n",
        gpus[0].uuid, gpus[1].uuid
    ));
    daemon.lose_gpu(1, true);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let unassign = Edit::UnassignGpu {
        gpu: gpus[1].pci.clone(),
        pool: "A".to_owned(),
    };
    assert_eq!(
        edit(&daemon, &[unassign], false),
        [format!("pool A: loses GPU {}", gpus[1].uuid)]
    );
    assert_eq!(daemon.status().degraded, [""; 0]);
}

fn check_degraded(daemon: &Daemon, text: &str) {
    let degraded = daemon.status().degraded;
    assert!(degraded.iter().any(|line| line.contains(text)), "{degraded:?}");
}

#[test]
fn without_any_gpu_ever_nothing_starts() {
    let mut daemon = Daemon::start(&map(&[], ""));
    daemon.end(Signal::KILL);
    daemon.replace_nvml(None);
    std::fs::remove_dir_all(daemon.state_dir()).unwrap();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--libnvidia-ml"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// What is wrong is said in one line, whatever the environment asks for.
#[test]
fn a_mistake_is_told_in_one_line() {
    let mut daemon = Daemon::start(&map(&[], ""));
    daemon.end(Signal::TERM);
    std::fs::write(daemon.socket_path(), "precious").unwrap();
    let output = daemon.command().env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let socket = daemon.socket_path();
    let expected = format!(
        "error: cannot listen at {}: there is a file that is no socket\n",
        socket.display()
    );
    assert_eq!(
        (said.as_ref(), output.status.code()),
        (expected.as_str(), Some(1))
    );
    assert_eq!(std::fs::read_to_string(socket).unwrap(), "precious");
}

/// Whoever started it sees by the code that it does not help to start it again.
#[test]
fn a_wrong_map_is_told_by_a_code_of_its_own() {
    let mut daemon = Daemon::start(&map(&[], ""));
    daemon.end(Signal::TERM);
    let path = daemon.map_path();
    let told = |what: &str| {
        let output = daemon.command().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("error: {}: {what}", path.display());
        assert!(said.starts_with(&expected), "{said}");
        assert_eq!(output.status.code(), Some(78));
        assert!(!daemon.socket_path().exists());
    };
    std::fs::write(&path, "[[pool]]\nnonsense = 1\n").unwrap();
    told("line 2: ");
    std::fs::remove_file(&path).unwrap();
    told("cannot be read: No such file");
}

/// A session's GPUs are those it was given, whatever the map says when it comes back.
#[test]
fn sessions_keep_their_gpus_over_an_edit_and_a_restart() {
    let mut daemon = Daemon::with_gpus(2, &map(&[], ""));
    let gpus = daemon.gpus();
    daemon.load(&pools(&gpus));
    let (one, other) = (daemon.backend(1), daemon.backend(8));
    let (mut moved, mut stays) = (one.session(1), other.session(1));
    moved.take_turn();
    moved.show(40, 2);
    let mut opened = common::Exec::new();
    assert_eq!(one.open(2), gpus[..1]);
    edit(&daemon, &[move_vms("1", "B")], false);
    one.attach(2, &mut opened);
    assert_eq!(daemon.vm(1).sessions[1].gpus, gpus[..1]);
    // It is on the GPU of the other pool, so both work at once.
    stays.take_turn();

    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let (one, other) = (daemon.backend(1), daemon.backend(8));
    one.attach(1, &mut moved);
    other.attach(1, &mut stays);
    let vm = daemon.vm(1);
    assert_eq!(vm.sessions[0].gpus, gpus[..1]);
    assert_eq!((vm.calls, vm.queued), (40, 2));
    assert_eq!((moved.state(), stays.state()), (State::Held, State::Held));
    // A new one of the moved VM shares the GPU with the other VM.
    let new = one.session(3);
    assert_eq!(daemon.vm(1).sessions[1].gpus, gpus[1..]);
    new.want();
    stays.until_contended();
    assert_eq!(new.state(), State::None);
    assert!(!moved.contended());
}

fn set_weight(vms: &str, weight: u32) -> Edit {
    Edit::SetVms {
        vms: vms.to_owned(),
        settings: VmSettings {
            weight: Some(weight),
            ..VmSettings::default()
        },
    }
}

/// A change by somebody whom a tool knows, who has seen that version of the map.
fn by_anna(change: Change, seen: &str) -> Request {
    Request::Change(Wanted {
        seen: Some(seen.to_owned()),
        user: Some("anna".to_owned()),
        ..change.into()
    })
}

#[test]
fn who_changed_what_is_kept() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let before = daemon.status().map_version;
    let weight = Change::Edit {
        edits: vec![set_weight("1", 3)],
    };
    edit(&daemon, &[set_weight("1", 3)], true);
    let Answer::Changed(changed) = daemon.ask(&by_anna(weight.clone(), &before)) else {
        panic!()
    };
    assert_eq!(changed.number, Some(1));
    assert_eq!(changed.map_version, daemon.status().map_version);
    assert_ne!(changed.map_version, before);
    // What was so already is no change; what was refused is told with why.
    edit(&daemon, &[set_weight("1", 3)], false);
    refused_edit(&daemon, set_weight("99", 3));
    daemon.change(Change::Quarantine {
        vms: "1-2".to_owned(),
        why: "a test".to_owned(),
        seconds: None,
    });
    daemon.write_map(&daemon.read_map().replace("weight = 3", "weight = 4"));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap(),
        Signal::HUP,
    )
    .unwrap();
    daemon.until_logged("changed (4): ", 0);
    let changes = daemon.changes();
    let uid = rustix::process::geteuid().as_raw();
    let of = |number: usize| {
        let record = &changes[number - 1];
        assert_eq!(record.number, number as u64);
        assert!(record.at_s > 1_700_000_000);
        (record.uid, record.user.as_deref(), record.refused.as_deref())
    };
    assert_eq!(of(1), (Some(uid), Some("anna"), None));
    assert_eq!(changes[0].change, weight);
    assert_eq!(changes[0].changes, ["VM 1: weight 3, was 1"]);
    assert!(changes[0].diff.contains("\n+weight = 3\n"), "{}", changes[0].diff);
    assert_eq!(changes[0].map_version, changed.map_version);
    assert_eq!(of(2), (Some(uid), None, Some("VM 99: in no pool")));
    assert_eq!(of(3), (Some(uid), None, None));
    assert_eq!(changes[2].changes, ["VMs 1-2: quarantined until it is released"]);
    assert_eq!(changes[2].diff, "");
    // Nobody is known to have sent a signal.
    assert_eq!(of(4), (None, None, None));
    assert_eq!(changes[3].changes, ["VM 1: weight 4, was 3"]);
    assert!(
        changes[3].diff.contains("\n-weight = 3\n+weight = 4\n"),
        "{}",
        changes[3].diff
    );
    // A name that could be taken for something else is none.
    let wrong = Request::Change(Wanted {
        user: Some("anna\nroot".to_owned()),
        ..Change::Reload {}.into()
    });
    assert_eq!(refusal(daemon.ask(&wrong)).0, Refusal::Invalid);

    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    assert_eq!(daemon.changes(), changes);
    daemon.change(Change::Release { vms: "1".to_owned() });
    assert_eq!(daemon.changes()[4].number, 5);
}

/// What somebody has not seen he does not overwrite.
#[test]
fn a_change_of_what_has_changed_since_is_refused() {
    let daemon = Daemon::start(&map(&[(1, "low")], "# ours"));
    let seen = daemon.status().map_version;
    let to = |weight| Change::Edit {
        edits: vec![set_weight("1", weight)],
    };
    edit(&daemon, &[set_weight("1", 3)], false);
    let text = daemon.read_map();
    for change in [to(4), Change::Reload {}, Change::Release { vms: "1".to_owned() }] {
        let (why, message) = refusal(daemon.ask(&by_anna(change, &seen)));
        assert_eq!(why, Refusal::Conflict);
        assert!(
            message.contains("expected version") && !message.contains("by hand"),
            "{message}"
        );
    }
    assert_eq!(daemon.read_map(), text);
    assert!(matches!(
        daemon.ask(&by_anna(to(4), &daemon.status().map_version)),
        Answer::Changed(_)
    ));
    let (why, message) = refusal(daemon.ask(&by_anna(to(4), "0\n")));
    assert_eq!(why, Refusal::Invalid);
    assert!(message.contains("seen: expected a version"), "{message}");
    // Also of what is not in use yet.
    let by_hand = daemon.read_map().replace("# ours", "# ours and yours");
    daemon.write_map(&by_hand);
    let (why, message) = refusal(daemon.ask(&by_anna(to(5), &daemon.status().map_version)));
    assert_eq!(why, Refusal::Conflict);
    assert!(message.contains("by hand"), "{message}");
    assert_eq!(daemon.read_map(), by_hand);
    daemon.change(Change::Reload {});
    assert!(matches!(
        daemon.ask(&by_anna(to(5), &daemon.status().map_version)),
        Answer::Changed(_)
    ));
    assert_eq!(daemon.vm(1).weight, 5);
}

/// What somebody has changed in the file goes into use when that is asked for, not with somebody else's next change; and it
/// is said, before and after.
#[test]
fn what_was_changed_by_hand_is_told_and_used_by_a_reload_alone() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let in_use = daemon.status().map_version;
    assert_eq!(daemon.status().map_differs, None);
    let by_hand = daemon.read_map().replacen("\"low\"", "\"high\"", 1) + "weight = 3\n";
    daemon.write_map(&by_hand);
    let differs = || daemon.status().map_differs.unwrap_or_default();
    let path = daemon.map_path();
    let told = format!(
        "the pool map in {} differs from the one in use: vgpu-admin reload (or reload --dry-run to see)",
        path.display()
    );
    // However often it is asked, and however soon after it has changed.
    assert_eq!([differs(), differs()], [told.clone(), told]);
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    assert!(
        differs().contains("cannot be read, and the one in use stays: "),
        "{}",
        differs()
    );
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    let undo = wanted(Change::Undo { number: 1 });
    let tried = Request::Change(Wanted {
        dry_run: true,
        ..Change::Edit {
            edits: vec![set_weight("1", 3)],
        }
        .into()
    });
    for request in [
        tried,
        wanted(Change::Edit {
            edits: vec![set_weight("1", 3)],
        }),
        undo,
    ] {
        let (why, message) = refusal(daemon.ask(&request));
        assert_eq!(why, Refusal::Conflict);
        assert!(
            message.contains("pools.toml was changed by hand") && message.contains("`vgpu-admin reload`"),
            "{message}"
        );
    }
    assert_eq!((daemon.read_map(), daemon.vm(1).weight), (by_hand, 1));
    // VMs have nothing to do with it.
    daemon.change(Change::Quarantine {
        vms: "2".to_owned(),
        why: "a test".to_owned(),
        seconds: Some(60),
    });

    let told = ["VM 1: priority high, was low", "VM 2: weight 3, was 1"];
    let Answer::Changed(tried) = daemon.ask(&reload(true)) else {
        panic!()
    };
    assert_eq!(
        (tried.changes.as_slice(), tried.number),
        (&told.map(str::to_owned)[..], None)
    );
    assert_ne!(tried.map_version, in_use);
    assert_eq!(
        (daemon.status().map_version, daemon.vm(2).weight),
        (in_use.clone(), 1)
    );
    // What was looked at is what is used, or nothing.
    let changed_again = by_anna(Change::Reload {}, &in_use);
    assert_eq!(refusal(daemon.ask(&changed_again)).0, Refusal::Conflict);
    let Answer::Changed(done) = daemon.ask(&by_anna(Change::Reload {}, &tried.map_version)) else {
        panic!()
    };
    assert_eq!(
        (done.changes, &done.map_version),
        (tried.changes, &tried.map_version)
    );
    assert_eq!((daemon.vm(1).priority, daemon.vm(2).weight), (Priority::High, 3));
    assert_eq!(daemon.status().map_differs, None);
    let record = daemon.changes().pop().unwrap();
    assert_eq!(
        (Some(record.number), record.user.as_deref()),
        (done.number, Some("anna"))
    );
    assert_eq!(record.changes, told);
    assert!(record.diff.contains("\n+weight = 3\n"), "{}", record.diff);
    edit(&daemon, &[set_weight("1", 3)], false);

    // A comment is kept as well, so that no text that was in use is missing.
    daemon.write_map(&(daemon.read_map() + "# his\n"));
    let done = daemon.change(Change::Reload {});
    assert_eq!(
        done.changes,
        ["the pool map's file: comments, order or layout, and nothing that counts"]
    );
    assert_eq!(daemon.change(Change::Reload {}).changes, [""; 0]);
    daemon.change(Change::Undo {
        number: done.number.unwrap(),
    });
    assert!(!daemon.read_map().contains("# his"));
}

#[test]
fn the_last_change_of_the_map_is_taken_back_and_no_other() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], "# ours"));
    let first = daemon.read_map();
    edit(&daemon, &[set_weight("1", 3)], false);
    let second = daemon.read_map();
    edit(&daemon, &[set_weight("1-2", 4)], false);
    daemon.change(Change::Quarantine {
        vms: "1".to_owned(),
        why: "a test".to_owned(),
        seconds: None,
    });
    let undo = |daemon: &Daemon, number| daemon.ask(&wanted(Change::Undo { number }));
    // Not one that others came after, nor one that was none of the map, nor one that there was not.
    let uid = rustix::process::geteuid().as_raw();
    let last =
        format!("the last change of the pool map is 2 (VM 1: weight 4, was 3, and 1 more; by uid {uid}, 2");
    for (number, expected) in [
        (1, Refusal::Conflict),
        (3, Refusal::Invalid),
        (99, Refusal::NotFound),
    ] {
        let (why, message) = refusal(undo(&daemon, number));
        assert_eq!(why, expected, "{message}");
        assert!(message.contains(&last) && message.ends_with("Z)"), "{message}");
    }
    // Over a restart as well.
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let Answer::Changed(undone) = undo(&daemon, 2) else {
        panic!()
    };
    assert_eq!(undone.changes, ["VM 1: weight 3, was 4", "VM 2: weight 1, was 4"]);
    assert_eq!(daemon.read_map(), second);
    assert_eq!((daemon.vm(1).weight, daemon.vm(2).weight), (3, 1));
    // The map is what it was after the first one, which is the last now; and what was taken back can be done again.
    let again = undone.number.unwrap();
    undo(&daemon, 1);
    assert_eq!(daemon.read_map(), first);
    assert_eq!(refusal(undo(&daemon, again)).0, Refusal::Conflict);
    let last = daemon.changes().len() as u64 - 1;
    assert!(matches!(undo(&daemon, last), Answer::Changed(_)));
    assert_eq!(daemon.read_map(), second);
    assert!(matches!(undo(&daemon, again), Answer::Changed(_)));
    assert_eq!((daemon.vm(1).weight, daemon.vm(2).weight), (4, 4));
}

#[test]
fn only_administrators_change_anything() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    edit(&daemon, &[set_weight("1", 2)], false);
    let changes = [
        Change::Edit {
            edits: vec![set_weight("1", 3)],
        },
        Change::Undo { number: 1 },
        Change::Quarantine {
            vms: "1".to_owned(),
            why: "a test".to_owned(),
            seconds: None,
        },
        Change::Release { vms: "1".to_owned() },
        Change::Reload {},
    ];
    let tried = |change: &Change| {
        Request::Change(Wanted {
            dry_run: true,
            ..change.clone().into()
        })
    };
    let own = rustix::process::geteuid().as_raw();
    // A backend is none, whoever it runs as.
    let backend = daemon.backend(1);
    for change in &changes {
        for request in [wanted(change.clone()), tried(change)] {
            assert_eq!(refusal(backend.ask(&request)).0, Refusal::NotAllowed);
        }
    }
    assert_eq!(refusal(backend.ask(&Request::Scan)).0, Refusal::NotAllowed);
    // What was to be changed is kept, with whose doing it was.
    let kept = |uid: u32| -> Vec<Change> {
        let records = daemon.changes().into_iter();
        let refused = records.filter(|record| record.uid == Some(uid) && record.refused.is_some());
        refused.map(|record| record.change).collect()
    };
    assert_eq!(kept(own), changes);
    if own != 0 {
        return;
    }
    daemon.open_to_all();
    // Threads have users of their own, and the one that connects counts.
    let as_user = |group: u32, request: &Request| {
        let (daemon, request) = (&daemon, request.clone());
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(group)]).unwrap();
                let nobody = (
                    rustix::process::Gid::from_raw(65534),
                    rustix::process::Uid::from_raw(65534),
                );
                rustix::thread::set_thread_gid(nobody.0).unwrap();
                rustix::thread::set_thread_uid(nobody.1).unwrap();
                ask(&daemon.connect(), &request, &[])
            });
            thread.join().unwrap()
        })
    };
    let (reader, admin) = (4241, 4242);
    // Everybody may ask what there is, and what a change would do; but for what the file says that is not in use.
    for request in [Request::Scan, Request::Scan, Request::Status { from_vm: 0 }] {
        let answer = as_user(reader, &request);
        assert!(!matches!(answer, Answer::Refused { .. }), "{answer:?}");
    }
    for change in &changes {
        let answer = as_user(reader, &tried(change));
        let is_told = matches!(&answer, Answer::Changed(changed) if changed.number.is_none());
        assert_eq!(is_told, !matches!(change, Change::Reload {}), "{answer:?}");
    }
    let many = Change::Edit {
        edits: vec![set_weight("1", 3); 17],
    };
    assert_eq!(refusal(as_user(reader, &tried(&many))).0, Refusal::NotAllowed);
    assert_eq!(kept(65534), []);
    assert_eq!(daemon.vm(1).weight, 2);
    for change in &changes {
        assert_eq!(
            refusal(as_user(reader, &wanted(change.clone()))).0,
            Refusal::NotAllowed
        );
    }
    assert_eq!(kept(65534), changes);
    // He cannot fill it.
    for _ in 0..20 {
        let (why, message) = refusal(as_user(reader, &wanted(changes[3].clone())));
        assert_eq!(why, Refusal::NotAllowed);
        assert!(message.ends_with("--admin-group change anything"), "{message}");
    }
    assert_eq!(kept(65534).len(), 20);
    let before = daemon.changes().len();
    let changed = changes.iter().rev().chain([&many]);
    for request in changed
        .map(|change| wanted(change.clone()))
        .chain([Request::Scan])
    {
        let answer = as_user(admin, &request);
        assert!(!matches!(answer, Answer::Refused { .. }), "{answer:?}");
    }
    // Who it was is the kernel's word.
    let done = &daemon.changes()[before..];
    assert!(done.len() > 1 && done.iter().all(|record| record.uid == Some(65534)));
}
