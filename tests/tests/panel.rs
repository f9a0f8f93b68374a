//! The control panel on a whole host: what it tells is what the command line tells, while a VM works.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json as value};
use vgpu_sched_api::messages::Priority;
use vgpu_tests::{Gpu, Stack, VmSpec};
use vgpu_vm::Artifacts;
use vgpu_vm::process::Process;

/// After this long what was to come is not coming.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer's status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    asked(
        port,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

/// Has the panel change something for whom the token is of.
fn change(port: u16, token: &str, order: &Value) -> (u16, Value) {
    let body = order.to_string();
    let (status, answer) = asked(
        port,
        &format!(
            "POST /api/v1/changes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    (status, serde_json::from_str(&answer).unwrap())
}

fn asked(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Asks until the answer is what is waited for.
fn until(port: u16, path: &str, done: impl Fn(u16, &str) -> bool) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let (status, body) = get(port, path);
        if done(status, &body) {
            return body;
        }
        assert!(Instant::now() < end, "{path}: {status} {body}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What the operator's tool prints.
fn admin(stack: &Stack, arguments: &[&str]) -> String {
    let output = stack.admin().args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap();
    // It passes between one question and the next.
    if let Some(object) = value.as_object_mut() {
        object.remove("uptime_s");
    }
    value
}

#[test]
fn it_tells_what_the_command_line_tells() {
    let vm = VmSpec {
        id: 1,
        priority: Priority::High,
    };
    let mut stack = Stack::start(&Artifacts::from_env(), Gpu::Software, &[vm]).unwrap();
    let (_panel, port) = stack.panel().unwrap();

    // While a program works it is seen to, and afterwards what it used. It works for many times as long as the panel's answers
    // may be old.
    let mut program = stack.program(1, "work", &["2000", "600"]).spawn().unwrap();
    until(port, "/api/v1/status", |_, body| {
        let status = json(body);
        let session = &status["pools"][0]["vms"][0]["sessions"][0];
        session["program"] == "work" && session["calls"].as_u64() > Some(0)
    });
    assert!(program.wait().unwrap().success(), "{}", stack.logs());
    until(port, "/api/v1/status", |_, body| {
        body.contains("\"sessions\":[]") && json(body) == json(&admin(&stack, &["status", "--json"]))
    });
    until(port, "/api/v1/stats", |_, body| {
        json(body) == json(&admin(&stack, &["stats", "--json"]))
    });
    let but_time = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("vgpu_uptime"));
        lines.map(str::to_owned).collect()
    };
    until(port, "/metrics", |_, body| {
        but_time(body) == but_time(&admin(&stack, &["stats", "--prometheus"]))
    });

    // What it used by hour adds up to what it used, and the bill is the tool's.
    let used = json(&get(port, "/api/v1/usage?from=2000-01-01").1);
    let stats = json(&get(port, "/api/v1/stats").1);
    for key in ["gpu_microseconds", "turns", "calls"] {
        let hours = used["usage"].as_array().unwrap().iter();
        let sum: u64 = hours.map(|hour| hour[key].as_u64().unwrap()).sum();
        assert!(sum > 0);
        assert_eq!(sum, stats["vms"][0][key], "{used} {stats}");
    }
    let told = json(&admin(&stack, &["usage", "--from", "2000-01-01", "--json"]));
    assert_eq!(told["usage"], used["usage"]);
    let bill = admin(&stack, &["usage", "--from", "2000-01-01", "--csv"]);
    assert!(bill.lines().count() >= 2, "{bill}");
    // It comes in one chunk.
    let downloaded = get(port, "/api/v1/usage?from=2000-01-01&format=csv").1;
    assert!(downloaded.contains(&bill), "{downloaded}");
    // So are GPUs, of which there is one.
    let gpus = json(&get(port, "/api/v1/usage/gpus?from=2000-01-01").1);
    let told = json(&admin(
        &stack,
        &["usage", "--gpus", "--from", "2000-01-01", "--json"],
    ));
    assert_eq!(told["gpus"], gpus["gpus"]);
    let hours = gpus["gpus"].as_array().unwrap().iter();
    let busy: u64 = hours.map(|hour| hour["busy_us"].as_u64().unwrap()).sum();
    assert_eq!(busy, stats["gpus"][0]["busy_us"], "{gpus} {stats}");
    let downloaded = get(port, "/api/v1/usage/gpus?from=2000-01-01&format=csv").1;
    assert!(
        downloaded.contains("begin,end,gpu,busy_seconds\r\n"),
        "{downloaded}"
    );

    // What nobody knows is not said to have used nothing.
    for (path, told) in [
        ("/api/v1/usage?pool=nine", "there is no pool nine: there is "),
        ("/api/v1/usage?vms=900-999", "VMs 900-999: in no pool"),
        ("/api/v1/events?vm=999", "VM 999: in no pool"),
    ] {
        let (status, body) = get(port, path);
        assert_eq!(status, 404, "{body}");
        let error = &json(&body)["error"];
        assert!(error["message"].as_str().unwrap().starts_with(told), "{error}");
    }

    admin(&stack, &["quarantine", "--vm-id", "1", "--reason", "it ran wild"]);
    let events = json(&get(port, "/api/v1/events?from=0").1);
    assert_eq!(
        events["events"],
        json(&admin(&stack, &["events", "--json"]))["events"]
    );
    assert_eq!(events["events"][0]["kind"], "quarantined");

    // It outlives vgpud, and says that it is gone.
    stack.kill_vgpud();
    let error = until(port, "/api/v1/status", |status, _| status == 503);
    let error = &json(&error)["error"];
    assert_eq!(error["kind"], "unreachable");
    assert!(
        error["hint"].as_str().unwrap().contains("start vgpud again"),
        "{error}"
    );
    assert_eq!(get(port, "/healthz"), (200, "ok\n".to_owned()));
    stack.start_vgpud().unwrap();
    until(port, "/api/v1/status", |status, body| {
        status == 200 && body.contains("it ran wild")
    });
}

/// A host with two GPUs and no pool, its panel, and tokens of an administrator and of somebody who only looks.
fn with_tokens() -> (Stack, Process, u16, [String; 2]) {
    let stack = Stack::start_host(&Artifacts::from_env(), Gpu::Software, 2, "# Ours.\n").unwrap();
    let tokens =
        [("admin", "anna"), ("read-only", "bob")].map(|(role, name)| stack.panel_token(role, name).unwrap());
    let (panel, port) = stack.panel().unwrap();
    (stack, panel, port, tokens)
}

fn edits(edits: Value) -> Value {
    value!({ "verb": "edit", "edits": edits })
}

#[test]
fn it_changes_what_the_command_line_changes_and_tells_whose_change_it_was() {
    let (stack, _panel, port, [anna, bob]) = with_tokens();
    let read_map = || std::fs::read_to_string(stack.pool_map()).unwrap();
    let must = |order: Value| {
        let (status, answer) = change(port, &anna, &order);
        assert_eq!(status, 200, "{order}: {answer}\n{}", stack.logs());
        answer
    };
    // What would change is said in the same words, and nothing changes.
    let assign = edits(value!([
        {"edit": "assign_gpu", "gpu": "0", "pool": "A"},
        {"edit": "register_vms", "vms": "1-7", "pool": "A", "settings": {"priority": "high"}},
    ]));
    let tried = must(value!({"change": assign, "dry_run": true}));
    assert_eq!(
        (&tried["dry_run"], &tried["number"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(read_map(), "# Ours.\n");
    let done = must(value!({"change": assign, "seen": tried["map_version"]}));
    assert_eq!(done["changes"], tried["changes"]);
    assert_eq!(done["number"], 1);
    let status = json(&admin(&stack, &["status", "--json"]));
    assert_eq!(status["pools"][0]["ranges"], value!(["1-7"]));
    assert_eq!(status["map_version"], done["map_version"]);
    let set = edits(
        value!([{"edit": "set_vms", "vms": "1-3", "settings": {"weight": 4, "limits": {"kernel_ms_max": 500}}}]),
    );
    let tried = must(value!({"change": set, "dry_run": true}));
    let by_hand = [
        "set-limits",
        "--vm-id",
        "1-3",
        "--kernel-ms-max",
        "500",
        "--dry-run",
        "--json",
    ];
    assert_eq!(tried["changes"][1], json(&admin(&stack, &by_hand))["changes"][0]);
    // What was seen is not so any longer: nothing is overwritten.
    admin(&stack, &["set-weight", "--vm-id", "1", "--weight", "2"]);
    let before = read_map();
    let order = value!({"change": set, "seen": tried["map_version"]});
    let (status, error) = change(port, &anna, &order);
    assert_eq!(
        (status, &error["error"]["kind"]),
        (409, &"conflict".into()),
        "{error}"
    );
    assert_eq!(read_map(), before);
    let done = must(value!({"change": set}));
    assert_ne!(read_map(), before);
    // The last change is taken back, to the letter.
    let undo = value!({"change": {"verb": "undo", "number": done["number"]}});
    must(undo.clone());
    assert_eq!(read_map(), before);
    assert_eq!(change(port, &anna, &undo).0, 409);

    must(value!({"change": {"verb": "quarantine", "vms": "1-2", "why": "it ran wild", "seconds": 600}}));
    assert!(admin(&stack, &["status"]).contains("VM 1: QUARANTINED until "));
    let released = must(value!({"change": {"verb": "release", "vms": "1-7"}}));
    assert_eq!(released["changes"], value!(["VMs 1-2: released"]));
    // Who may only look changes nothing, and what is wrong is told with what was expected.
    let release = value!({"change": {"verb": "release", "vms": "1"}});
    assert_eq!(change(port, &bob, &release).0, 403);
    assert_eq!(change(port, "vgpu_0", &release).0, 401);
    for (wrong, expected) in [
        (
            value!([{"edit": "set_vms", "vms": "1", "settings": {"weight": 101}}]),
            "expected a number from 1 to 100",
        ),
        (value!([]), "expected at least one"),
    ] {
        let (status, error) = change(port, &anna, &value!({ "change": edits(wrong) }));
        assert_eq!(status, 400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
    }

    // All of it is kept, with who it was: by the panel's word, and by the kernel's.
    let audit = json(&admin(&stack, &["audit", "--json"]))["changes"].clone();
    let who: Vec<(&Value, bool)> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (&record["user"], record["refused"].is_null()))
        .collect();
    let (anna_did, anna_was_refused) = ((&"anna".into(), true), (&"anna".into(), false));
    assert_eq!(
        who,
        [
            anna_did,
            (&Value::Null, true),
            anna_was_refused,
            anna_did,
            anna_did,
            anna_was_refused,
            anna_did,
            anna_did,
            anna_was_refused,
            anna_was_refused
        ]
    );
    let uids: Vec<&Value> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["uid"])
        .collect();
    assert!(uids.iter().all(|uid| uid.is_u64()), "{uids:?}");
    if rustix::process::geteuid().is_root() {
        // The panel is not root, and cannot say that it is.
        assert_eq!((uids[0].as_u64() == Some(0), uids[1].as_u64()), (false, Some(0)));
    }
    let shown = admin(&stack, &["audit", "--last", "10", "--diff"]);
    assert!(
        shown.contains("+kernel_ms_max = 500") && shown.contains("anna (uid "),
        "{shown}"
    );
}

/// One through the panel, who looks before each change, and one at the command line.
#[test]
fn the_panel_and_the_command_line_at_once_lose_nothing() {
    let (stack, _panel, port, [anna, _]) = with_tokens();
    admin(&stack, &["assign-gpu", "--gpu-id", "0", "--pool", "A"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for vm in (1..=16).step_by(2) {
                admin(
                    &stack,
                    &["register-vm", "--vm-id", &vm.to_string(), "--pool", "A"],
                );
            }
        });
        scope.spawn(|| {
            let end = Instant::now() + LIMIT;
            for vm in (2..=16).step_by(2) {
                let register = edits(value!([{"edit": "register_vms", "vms": vm.to_string(), "pool": "A"}]));
                loop {
                    let (status, seen) = change(port, &anna, &value!({"change": register, "dry_run": true}));
                    assert_eq!(status, 200, "{seen}");
                    let order = value!({"change": register, "seen": seen["map_version"]});
                    match change(port, &anna, &order) {
                        (200, _) => break,
                        (status, error) => assert_eq!(status, 409, "{error}"),
                    }
                    assert!(Instant::now() < end, "somebody else is always faster");
                }
            }
        });
    });
    let status = json(&admin(&stack, &["status", "--json"]));
    assert_eq!(status["pools"][0]["ranges"], value!(["1-16"]));
}
