//! The control panel on a whole host: what it tells is what the command line tells, while a VM works.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgpu_sched_api::messages::Priority;
use vgpu_tests::{Gpu, Stack, VmSpec};
use vgpu_vm::Artifacts;

/// After this long what was to come is not coming.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer's status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
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
