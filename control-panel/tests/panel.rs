//! The program against a `vgpud` that only answers: what each route says, what is refused, and what is told as it
//! happens.
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use vgpu_client::{fixture, statistics, usage};
use vgpu_sched_api::messages::{
    Answer, Change, Changed, EventRecord, Period, Refusal, Request, SCHEMA_VERSION, Scanned, Stats, Status,
    Wanted, WantedUsage,
};
use vgpu_sched_api::packet;

/// After this long a test that waits has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// What is answered, and how often it was asked.
struct Host {
    status: Status,
    stats: Stats,
    /// Numbered from 1; two of them fit into an answer.
    events: Vec<EventRecord>,
    /// It hangs up instead.
    down: bool,
    asked: usize,
    usage_asked: Vec<WantedUsage>,
    /// The changes that were asked for, and the answer to the next one.
    wanted: Vec<Wanted>,
    answer: Answer,
}

impl Host {
    /// Of three VMs, one in an answer.
    fn usage(&mut self, wanted: &WantedUsage) -> Answer {
        self.usage_asked.push(wanted.clone());
        let vm = wanted.next.as_ref().map_or(1, |next| next.parse().unwrap());
        Answer::Usage {
            usage: vec![fixture::usage(vm)],
            next: (vm < 3).then(|| (vm + 1).to_string()),
        }
    }
}

/// Something that answers requests on a socket, and the panel that asks it.
struct Panel {
    host: Arc<Mutex<Host>>,
    child: Child,
    port: u16,
    /// Also of its tokens.
    dir: TempDir,
}

impl Panel {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[])
    }

    /// With tokens of an administrator and of somebody who only looks.
    fn with_tokens() -> (Self, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens").display().to_string();
        let (anna, bob) = (token(&file, "admin", "anna"), token(&file, "read-only", "bob"));
        (Self::start_with(dir, &["--tokens", &file]), anna, bob)
    }

    fn start_with(dir: TempDir, arguments: &[&str]) -> Self {
        let host = Arc::new(Mutex::new(Host {
            status: fixture::host(),
            stats: fixture::stats(),
            events: (1..=5).map(fixture::event).collect(),
            down: false,
            asked: 0,
            usage_asked: Vec::new(),
            wanted: Vec::new(),
            answer: Answer::Ok,
        }));
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let socket = dir.path().join("socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let answering = host.clone();
        std::thread::spawn(move || {
            while let Ok(client) = rustix::net::accept(&listener) {
                let host = answering.clone();
                std::thread::spawn(move || serve(&client, &host));
            }
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_vgpu-panel"))
            .args(["--listen", "127.0.0.1:0", "--socket"])
            .arg(&socket)
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = log.next().expect("it ended").unwrap();
            if let Some((_, address)) = line.split_once("://127.0.0.1:") {
                break address.trim_end_matches('/').parse().unwrap();
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self {
            host,
            child,
            port,
            dir,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Host)) {
        change(&mut self.host.lock().unwrap());
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends that text and reads the answer to its end.
    fn send(&self, text: &str) -> Response {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Response {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Response {
        self.send(&request(path))
    }

    /// Waits until an answer is no longer one from before.
    fn until(&self, path: &str, done: impl Fn(&Response) -> bool) -> Response {
        let end = Instant::now() + LIMIT;
        loop {
            let response = self.get(path);
            if done(&response) {
                return response;
            }
            assert!(Instant::now() < end, "{path}: {response:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn follow(&self) -> Followed {
        let mut stream = self.connect();
        stream.write_all(request("/api/v1/live").as_bytes()).unwrap();
        Followed {
            lines: BufReader::new(stream).lines(),
            known: HashMap::new(),
        }
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn serve(client: &OwnedFd, host: &Mutex<Host>) {
    while let Ok((request, _)) = packet::receive::<Request>(client) {
        let mut host = host.lock().unwrap();
        if host.down {
            return;
        }
        host.asked += 1;
        let answer = match request {
            Request::Status { from_vm: 0 } => Answer::Status {
                status: Box::new(host.status.clone()),
                next_vm: None,
            },
            Request::Stats { from_vm: 0 } => Answer::Stats {
                stats: Box::new(host.stats.clone()),
                next_vm: None,
            },
            Request::Events { from, vm } => {
                let wanted = host.events.iter().filter(|event| event.number >= from);
                let events: Vec<EventRecord> = wanted
                    .filter(|event| vm.is_none() || event.vm == vm)
                    .take(2)
                    .cloned()
                    .collect();
                let next = events.last().map_or(from.max(1), |event| event.number + 1);
                Answer::Events { events, next }
            }
            Request::Changes { from } => Answer::Changes {
                changes: (from.max(1)..=3).map(fixture::change).take(2).collect(),
                next: (from.max(1) + 2).min(4),
            },
            Request::Change(wanted) => {
                host.wanted.push(wanted);
                host.answer.clone()
            }
            Request::Scan => Answer::Scanned(Scanned {
                gpus: host.status.gpus.clone(),
                appeared: vec!["GPU-0".to_owned()],
                vanished: Vec::new(),
            }),
            Request::Usage(wanted) => host.usage(&wanted),
            Request::GpuUsage(wanted) => {
                host.usage_asked.push(wanted);
                Answer::GpuUsage {
                    gpus: vec![fixture::gpu_usage("GPU-0")],
                    next: None,
                }
            }
            // It asks for nothing else.
            other => Answer::Refused {
                why: Refusal::Invalid,
                message: format!("{other:?}"),
            },
        };
        drop(host);
        if packet::send(client, &answer, &[]).is_err() {
            return;
        }
    }
}

/// Makes a token.
fn token(file: &str, role: &str, name: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-panel"));
    command.args(["token", "--tokens", file, "--role", role, "--name", name]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An object is sent, with these headers.
fn sent(path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

#[derive(Debug)]
struct Response {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Response {
    #[track_caller]
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(
            self.head.contains("\r\ncontent-type: application/json\r\n"),
            "{self:?}"
        );
        serde_json::from_str(&self.body).unwrap()
    }

    /// The cookie that a browser would send from now on.
    #[track_caller]
    fn cookie(&self) -> &str {
        let (_, set) = self.head.split_once("\r\nset-cookie: ").unwrap();
        set.split(';').next().unwrap()
    }
}

/// A stream of server-sent events.
struct Followed {
    lines: std::io::Lines<BufReader<TcpStream>>,
    /// What was told, by the event's name.
    known: HashMap<String, Value>,
}

impl Followed {
    /// The next event, and what it says.
    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let line = self.lines.next().expect("it ended").unwrap();
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    #[track_caller]
    fn expect(&mut self, name: &str) -> Value {
        let (event, data) = self.next();
        assert_eq!(event, name, "{data}");
        self.known.insert(event, data.clone());
        data
    }

    /// What the next event makes of what is known.
    #[track_caller]
    fn expect_patch(&mut self, name: &str) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(self.expect(&format!("{name}_patch"))).unwrap();
        let known = self.known.get_mut(name).unwrap();
        json_patch::patch(known, &patch).unwrap();
        known.clone()
    }
}

#[test]
fn each_route_answers_as_its_tool_does() {
    let panel = Panel::start();
    assert_eq!(
        panel.get("/api/v1/status").json(200),
        serde_json::to_value(fixture::host()).unwrap()
    );
    assert_eq!(
        panel.get("/api/v1/stats").json(200),
        serde_json::to_value(fixture::stats()).unwrap()
    );
    let metrics = panel.get("/metrics");
    assert_eq!(
        metrics.body,
        statistics::prometheus(&fixture::host(), &fixture::stats()).unwrap(),
        "{metrics:?}"
    );
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"));
    let document = panel.get("/api/v1/openapi.json").json(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(panel.get("/healthz").body, "ok\n");
    for (path, kind) in [
        ("/", "text/html"),
        ("/panel.js", "text/javascript"),
        ("/panel.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let response = panel.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert!(
            response.head.contains(&format!("content-type: {kind}")),
            "{response:?}"
        );
    }
    let nothing = panel.get("/api/v2?x=y").json(404);
    assert_eq!(nothing["error"]["kind"], "not_found");
    let message = nothing["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("there is nothing at /api/v2: expected / or one of /api/v1/status, "),
        "{message}"
    );
}

#[test]
fn events_are_read_page_by_page() {
    let panel = Panel::start();
    let page = |query: &str| panel.get(&format!("/api/v1/events{query}")).json(200);
    let first = page("");
    assert_eq!(first["schema_version"], SCHEMA_VERSION);
    assert_eq!(first["events"], json!([fixture::event(1), fixture::event(2)]));
    assert_eq!(first["next"], 3);
    assert_eq!(page("?from=5")["events"], json!([fixture::event(5)]));
    assert_eq!(
        page("?from=6"),
        json!({"schema_version": SCHEMA_VERSION, "events": [], "next": 6})
    );
    assert_eq!(page("?vm=4")["events"], json!([]));
    // What happened to a GPU has a part of its own.
    let of_a_gpu = EventRecord {
        vm: None,
        session: None,
        ..fixture::event(6)
    };
    panel.change(|host| host.events.push(of_a_gpu.clone()));
    assert_eq!(page("?vm=none&last=3")["events"], json!([of_a_gpu]));
    assert_eq!(
        page("?vm=none"),
        json!({"schema_version": SCHEMA_VERSION, "events": [], "next": 3})
    );
    for wrong in ["?from=x", "?from=-1", "?form=1", "?vm="] {
        let error = panel.get(&format!("/api/v1/events{wrong}")).json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("expected from=NUMBER, vm=NUMBER"), "{message}");
    }
}

#[test]
fn the_last_events_are_read_at_once() {
    let panel = Panel::start();
    let numbers = |query: &str| {
        let page = panel.get(&format!("/api/v1/events?{query}")).json(200);
        let events = page["events"].as_array().unwrap().clone();
        let numbers: Vec<u64> = events
            .iter()
            .map(|event| event["number"].as_u64().unwrap())
            .collect();
        (numbers, page["next"].as_u64().unwrap())
    };
    assert_eq!(numbers("vm=3&last=3"), (vec![3, 4, 5], 6));
    assert_eq!(numbers("last=1000&from=4"), (vec![4, 5], 6));
    assert_eq!(numbers("vm=4&last=3").0, [0; 0]);
    for wrong in ["last=0", "last=1001", "last=few"] {
        let error = panel.get(&format!("/api/v1/events?{wrong}")).json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("expected from=NUMBER, vm=NUMBER or none, last=1 to 1000"),
            "{message}"
        );
    }
}

#[test]
fn what_vms_used_is_read_page_by_page_or_all_of_it_as_a_bill() {
    let panel = Panel::start();
    let page = |next: &str| {
        panel
            .get(&format!(
                "/api/v1/usage?vms=1-3&from=2023-11-14&to=2023-11-15{next}"
            ))
            .json(200)
    };
    let first = page("");
    assert_eq!(
        first,
        json!({
            "schema_version": SCHEMA_VERSION, "by": "hour", "from_s": 1_699_920_000u64, "to_s": 1_700_006_400u64,
            "usage": [fixture::usage(1)], "next": "2",
        })
    );
    assert_eq!(page("&next=3")["next"], Value::Null);
    panel.change(|host| {
        let asked = host.usage_asked.pop().unwrap();
        assert_eq!(
            (asked.vms.as_deref(), asked.by, asked.next.as_deref()),
            (Some("1-3"), Period::Hour, Some("3"))
        );
    });

    let accepting = "GET /api/v1/usage?by=day&pool=A HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Accept: text/html, Text/CSV;q=0.9\r\n\r\n";
    let expected = usage::csv(&[1, 2, 3].map(fixture::usage), true);
    for response in [
        panel.send(accepting),
        panel.get("/api/v1/usage?by=day&pool=A&format=csv"),
    ] {
        assert_eq!(response.status, 200);
        for header in [
            "content-type: text/csv; charset=utf-8; header=present",
            "filename=\"vgpu-usage-pool-a-20",
            "-by-day.csv\"",
        ] {
            assert!(response.head.contains(header), "{response:?}");
        }
        assert_eq!(unchunked(&response.body), expected);
    }
    panel.change(|host| {
        let asked = host.usage_asked.pop().unwrap();
        assert_eq!((asked.pool.as_deref(), asked.by), (Some("A"), Period::Day));
    });

    let gpus = panel.get("/api/v1/usage/gpus?by=day&from=2023-11-14").json(200);
    assert_eq!(
        (&gpus["gpus"], &gpus["next"]),
        (&json!([fixture::gpu_usage("GPU-0")]), &Value::Null)
    );
    let bill = panel.get("/api/v1/usage/gpus?format=csv");
    assert!(bill.head.contains("filename=\"vgpu-gpu-usage-all-20"), "{bill:?}");
    assert_eq!(
        unchunked(&bill.body),
        usage::csv(&[fixture::gpu_usage("GPU-0")], true)
    );

    for (query, expected) in [
        ("from=yesterday", "from: \"yesterday\": expected a day such as"),
        (
            "from=2023-11-15&to=2023-11-14",
            "expected an end behind the beginning",
        ),
        ("by=week", "by=hour or day"),
        ("vm=3", "vms=1-7"),
        ("format=xml", "format=json or csv"),
    ] {
        let error = panel.get(&format!("/api/v1/usage?{query}")).json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
    }
    panel.change(|host| host.down = true);
    assert_eq!(
        panel.get("/api/v1/usage?format=csv").json(503)["error"]["kind"],
        "unreachable"
    );
}

/// What was sent in chunks, whose end must be there.
fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    loop {
        let (len, rest) = body.split_once("\r\n").unwrap();
        let (chunk, rest) = rest.split_at(usize::from_str_radix(len, 16).unwrap());
        if chunk.is_empty() {
            return whole;
        }
        whole += chunk;
        body = rest.strip_prefix("\r\n").unwrap();
    }
}

#[test]
fn vgpud_is_asked_once_a_second_whoever_wants_to_know() {
    let panel = Panel::start();
    let begin = Instant::now();
    for _ in 0..40 {
        panel.get("/api/v1/status").json(200);
        panel.get("/metrics");
    }
    // Each look is two questions.
    let most = 2 * (2 + begin.elapsed().as_millis() / 900) as usize;
    let asked = panel.host.lock().unwrap().asked;
    assert!(asked <= most, "{asked} in {:?}", begin.elapsed());
}

#[test]
fn without_vgpud_it_says_so_and_shows_what_was_known() {
    let panel = Panel::start();
    panel.get("/api/v1/status").json(200);
    panel.change(|host| host.down = true);
    panel.until("/api/v1/status", |response| response.status == 503);
    for path in ["/api/v1/status", "/api/v1/stats", "/api/v1/events", "/metrics"] {
        let error = panel.get(path).json(503);
        assert_eq!(error["schema_version"], SCHEMA_VERSION);
        assert_eq!(error["error"]["kind"], "unreachable");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("hung up"), "{message}");
    }
    assert_eq!(panel.get("/healthz").status, 200);
    // A page that is opened now shows the last known state, and how old it is.
    let mut followed = panel.follow();
    assert_eq!(
        followed.expect("status"),
        serde_json::to_value(fixture::host()).unwrap()
    );
    followed.expect("stats");
    let down = followed.expect("down");
    assert_eq!(down["error"]["kind"], "unreachable");
    assert!(down["last_known_age_s"].as_u64().unwrap() < 20, "{down}");
    panel.change(|host| host.down = false);
    followed.expect("up");
    panel.get("/api/v1/status").json(200);
}

#[test]
fn a_new_status_is_told_when_it_changed() {
    let panel = Panel::start();
    let mut followed = panel.follow();
    followed.expect("status");
    followed.expect("stats");
    followed.expect("up");
    // Time alone is nothing new.
    panel.change(|host| host.status.uptime_s += 1);
    std::thread::sleep(Duration::from_millis(1500));
    let begin = Instant::now();
    panel.change(|host| host.status.pools[0].vms[0].queued = 7);
    let is_known =
        |status: Value| panel.change(|host| assert_eq!(status, serde_json::to_value(&host.status).unwrap()));
    is_known(followed.expect_patch("status"));
    // At most once a second.
    for queued in 8..11 {
        panel.change(|host| host.status.pools[0].vms[0].queued = queued);
        is_known(followed.expect_patch("status"));
    }
    assert!(
        begin.elapsed() > Duration::from_millis(2500),
        "{:?}",
        begin.elapsed()
    );
    panel.change(|host| host.stats.gpus[0].waiting = 77);
    assert_eq!(followed.expect_patch("stats")["gpus"][0]["waiting"], 77);
    // VMs that come and go.
    panel.change(|host| {
        let vm = host.status.pools[0].vms.remove(0);
        host.status.in_no_pool.push(vm);
    });
    is_known(followed.expect_patch("status"));
    // Whoever comes, or comes back, is told all of it.
    is_known(panel.follow().expect("status"));
}

/// A host whose GPUs measure something else every second is not sent whole every second.
#[test]
fn what_gpus_measure_is_a_small_change() {
    let panel = Panel::start();
    let mut followed = panel.follow();
    let whole = followed.expect("status").to_string().len();
    followed.expect("stats");
    followed.expect("up");
    panel.change(|host| {
        let measured = &mut host.status.gpus[0].measured;
        (measured.temperature, measured.power_mw) = (Some(1), Some(2));
    });
    let patch = followed.expect("status_patch");
    assert_eq!(
        patch,
        json!([
            {"op": "replace", "path": "/gpus/0/measured/power_mw", "value": 2},
            {"op": "replace", "path": "/gpus/0/measured/temperature", "value": 1},
        ])
    );
    assert!(patch.to_string().len() < whole / 20, "{whole}");
}

#[test]
fn so_many_may_follow_and_no_more() {
    let panel = Panel::start();
    let mut all: Vec<Followed> = (0..16).map(|_| panel.follow()).collect();
    for followed in &mut all {
        followed.expect("status");
    }
    let error = panel.get("/api/v1/live").json(503);
    assert!(
        error["error"]["message"].as_str().unwrap().contains("16"),
        "{error}"
    );
    // Others are answered, and who goes makes room.
    panel.get("/api/v1/status").json(200);
    all.pop();
    let end = Instant::now() + LIMIT;
    loop {
        let first = panel.follow().lines.next().unwrap().unwrap();
        if first.contains("200") {
            return;
        }
        assert!(Instant::now() < end, "{first}");
        // Its going is noticed with the next event that is sent to it.
        panel.change(|host| host.stats.uptime_s += 1);
        panel.change(|host| host.stats.gpus[0].busy_us += 1);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A page elsewhere, whose name was made to mean this host, is told nothing; nobody changes anything.
#[test]
fn what_is_not_to_be_asked_is_refused() {
    let panel = Panel::start();
    let paths = ["/", "/api/v1/status", "/api/v1/live", "/metrics", "/nothing"];
    for host in [
        "Host: evil.example",
        "Host: localhost.evil.example:8460",
        "Host: 0.0.0.0",
        "X: y",
    ] {
        for path in paths {
            let response = panel.send(&format!("GET {path} HTTP/1.1\r\n{host}\r\n\r\n"));
            let error = response.json(421);
            assert!(
                error["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("expected localhost")
            );
            assert!(!response.body.contains("H100"), "{response:?}");
        }
    }
    for host in ["localhost:1234", "127.0.0.1", "[::1]:8460"] {
        let response = panel.send(&format!(
            "GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ));
        assert_eq!(response.status, 200, "{host}");
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        for path in paths {
            let response = panel.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!(response.head.contains("\r\nallow: get, head"), "{response:?}");
            response.json(405);
        }
    }
    // What only shows does nothing, and nobody is known who may have something done.
    for path in &paths[..4] {
        let response = panel.send(&sent(path, &[], "{}"));
        assert!(response.head.contains("\r\nallow: get,head\r\n"), "{response:?}");
        response.json(405);
    }
    let release = r#"{"change": {"verb": "release", "vms": "1"}}"#;
    let error = panel.send(&sent("/api/v1/changes", &[], release)).json(403);
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("--tokens FILE"), "{error}");
    assert_eq!(panel.host.lock().unwrap().wanted, []);
    let body = "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nxyz";
    let error = panel.send(body).json(400);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("expected one without"), "{message}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    let mut stream = panel.connect();
    let mut answer = Vec::new();
    // It is hung up on before all of it is read, which may be all that is seen of it.
    let _ = stream.write_all(long.as_bytes());
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer:?}"
    );
    panel.get("/api/v1/status").json(200);
}

#[test]
fn every_answer_tells_the_browser_what_it_may_not() {
    let panel = Panel::start();
    let refused = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    for response in ["/", "/panel.js", "/api/v1/status", "/metrics", "/nothing"]
        .map(|path| panel.get(path))
        .into_iter()
        .chain([panel.send(refused)])
    {
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(response.head.contains(header), "{header}: {response:?}");
        }
        assert!(!response.head.contains("access-control-allow"), "{response:?}");
        assert!(!response.head.contains("unsafe-"), "{response:?}");
    }
}

/// Guests name their programs.
#[test]
fn a_guests_text_is_only_text() {
    const HOSTILE: &str =
        "</script><img src=x onerror=alert(1)>\u{202e}\n\ndata: {}\r\nevent: down\u{2028}\"'\u{0}";
    let panel = Panel::start();
    panel.change(|host| {
        host.status.pools[0].vms[0].sessions[0].program = HOSTILE.to_owned();
        host.stats.vms[0].pool = HOSTILE.to_owned();
    });
    let status = panel.until("/api/v1/status", |response| response.body.contains("onerror"));
    let program = &status.json(200)["pools"][0]["vms"][0]["sessions"][0]["program"];
    assert_eq!(program, HOSTILE);
    let mut followed = panel.follow();
    // In the stream it is one line, and no event of its own.
    let event = followed.expect("status");
    assert_eq!(event["pools"][0]["vms"][0]["sessions"][0]["program"], HOSTILE);
    followed.expect("stats");
    followed.expect("up");
    // The page is the same whatever guests say.
    assert!(!panel.get("/").body.contains("onerror"));
    let metrics = panel.get("/metrics").body;
    assert!(
        metrics
            .lines()
            .all(|line| line.starts_with('#') || line.starts_with("vgpu_")),
        "{metrics}"
    );
}

/// What is wrong is said in one line, whatever the environment asks for.
#[test]
fn a_mistake_is_told_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_vgpu-panel"))
        .args(["--listen", &address])
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with(&format!("error: cannot listen at {address}: ")),
        "{said}"
    );
    assert_eq!(
        (said.lines().count(), output.status.code()),
        (1, Some(1)),
        "{said}"
    );
}

#[test]
fn only_loopback_is_listened_at() {
    for (listen, told) in [
        ("0.0.0.0:0", "--behind-proxy"),
        ("[::]:0", "expected a loopback address"),
        ("localhost", "such as 127.0.0.1:8460"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vgpu-panel"))
            .args(["--listen", listen])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(told), "{text}");
    }
}

/// Each path of the document answers to the methods that it has there, and to no other.
#[test]
fn the_document_says_what_is_answered() {
    let panel = Panel::start();
    let document = panel.get("/api/v1/openapi.json").json(200);
    for (path, methods) in document["paths"].as_object().unwrap() {
        // It has no end.
        if path == "/api/v1/live" {
            continue;
        }
        for (method, text) in [("get", request(path)), ("post", sent(path, &[], "[]"))] {
            let status = panel.send(&text).status;
            let there = methods.as_object().unwrap().contains_key(method);
            assert_eq!(status == 405, !there, "{method} {path}: {status}");
            assert!(status < 500 && status != 404, "{method} {path}: {status}");
        }
    }
}

#[test]
fn changes_are_made_for_those_who_may_in_their_names() {
    let (panel, anna, bob) = Panel::with_tokens();
    let done = Changed {
        changes: vec!["VM 3: released".to_owned()],
        number: Some(7),
        map_version: "0f".to_owned(),
    };
    panel.change(|host| host.answer = Answer::Changed(done));
    let order = r#"{"change": {"verb": "release", "vms": "3"}, "dry_run": true, "seen": "0e"}"#;
    let as_somebody = |token: &str| panel.send(&sent("/api/v1/changes", &[&bearer(token)], order));
    assert_eq!(
        as_somebody(&anna).json(200),
        json!({
            "schema_version": SCHEMA_VERSION, "dry_run": true, "changes": ["VM 3: released"], "number": 7, "map_version": "0f"
        })
    );
    let wanted = Wanted {
        change: Change::Release { vms: "3".to_owned() },
        dry_run: true,
        seen: Some("0e".to_owned()),
        user: Some("anna".to_owned()),
    };
    assert_eq!(panel.host.lock().unwrap().wanted, [wanted]);
    let error = as_somebody(&bob).json(403);
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("bob may look"),
        "{error}"
    );
    let response = as_somebody("vgpu_0000");
    assert!(
        response.head.contains("\r\nwww-authenticate: bearer"),
        "{response:?}"
    );
    response.json(401);
    panel.send(&sent("/api/v1/changes", &[], order)).json(401);
    // Nobody speaks in another one's name, and what makes no sense is told with what was expected.
    for (wrong, told) in [
        (
            r#"{"change": {"verb": "release", "vms": "3"}, "user": "bob"}"#,
            "expected one of `change`, `dry_run`, `seen`",
        ),
        (
            r#"{"change": {"verb": "free", "vms": "3"}}"#,
            "expected one of `edit`",
        ),
        (
            r#"{"change": {"verb": "release", "vms": 3}}"#,
            "expected a string",
        ),
        (
            r#"{"change": {"verb": "edit", "edits": [{"edit": "set_vms", "vms": "3", "settings": {"weigth": 1}}]}}"#,
            "expected one of `priority`",
        ),
        ("", "EOF"),
        ("{}", "missing field `change`"),
    ] {
        let error = panel
            .send(&sent("/api/v1/changes", &[&bearer(&anna)], wrong))
            .json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(told) && message.contains("openapi.json"),
            "{message}"
        );
    }
    let long = format!("{{\"change\": \"{}\"}}", "x".repeat(70_000));
    panel
        .send(&sent("/api/v1/changes", &[&bearer(&anna)], &long))
        .json(413);
    assert_eq!(panel.host.lock().unwrap().wanted.len(), 1);
    // What vgpud refuses is told with its kind.
    for (why, status, kind) in [
        (Refusal::Conflict, 409, "conflict"),
        (Refusal::NotFound, 404, "not_found"),
        (Refusal::Invalid, 400, "usage"),
        (Refusal::NotAllowed, 502, "failed"),
    ] {
        panel.change(|host| {
            host.answer = Answer::Refused {
                why,
                message: "no".to_owned(),
            };
        });
        assert_eq!(as_somebody(&anna).json(status)["error"]["kind"], kind);
    }
    let scanned = panel
        .send(&sent("/api/v1/scan", &[&bearer(&anna)], "{}"))
        .json(200);
    assert_eq!(scanned["appeared"], json!(["GPU-0"]));
    panel
        .send(&sent("/api/v1/scan", &[&bearer(&bob)], "{}"))
        .json(403);
}

#[test]
fn where_there_are_tokens_nothing_is_told_without_one() {
    let (panel, _, bob) = Panel::with_tokens();
    let with = |path: &str| {
        let header = format!("{}\r\nConnection", bearer(&bob));
        panel.send(&request(path).replace("Connection", &header))
    };
    for path in [
        "/api/v1/status",
        "/api/v1/stats",
        "/api/v1/events",
        "/api/v1/changes",
        "/api/v1/me",
        "/metrics",
    ] {
        let response = panel.get(path);
        assert!(!response.body.contains("GPU-"), "{response:?}");
        response.json(401);
        assert_eq!(with(path).status, 200, "{path}");
    }
    panel.get("/api/v1/live").json(401);
    // The page itself tells nothing.
    for path in ["/", "/panel.js", "/healthz", "/api/v1/openapi.json"] {
        assert_eq!(panel.get(path).status, 200, "{path}");
    }
    let page = with("/api/v1/changes?from=2").json(200);
    assert_eq!(page["changes"], json!([fixture::change(2), fixture::change(3)]));
    assert_eq!(page["next"], 4);
    assert_eq!(with("/api/v1/me").json(200)["role"], "read-only");
}

#[test]
fn a_browser_logs_in_and_out() {
    let (panel, anna, _) = Panel::with_tokens();
    let log_in = |token: &str, headers: &[&str]| {
        panel.send(&sent(
            "/api/v1/login",
            headers,
            &json!({ "token": token }).to_string(),
        ))
    };
    log_in("nonsense", &[]).json(401);
    // Another site's page logs nobody in.
    log_in(&anna, &["Origin: http://evil.example"]).json(403);
    let response = log_in(
        &anna,
        &["Origin: http://localhost", "Sec-Fetch-Site: same-origin"],
    );
    assert_eq!(response.json(200)["user"], "anna");
    let cookie = response.cookie();
    let cookie = format!("Cookie: {cookie}");
    let asked = request("/api/v1/me").replace("Connection", &format!("{cookie}\r\nConnection"));
    assert_eq!(
        panel.send(&asked).json(200),
        json!({"schema_version": SCHEMA_VERSION, "user": "anna", "role": "admin", "asks": true})
    );
    // The cookie alone changes nothing for a page elsewhere.
    let release = r#"{"change": {"verb": "release", "vms": "1"}}"#;
    for from in [
        "Origin: http://localhost:3000",
        "Origin: null",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site",
    ] {
        panel
            .send(&sent("/api/v1/changes", &[&cookie, from], release))
            .json(403);
    }
    let form = sent("/api/v1/changes", &[&cookie], release).replace("application/json", "text/plain");
    panel.send(&form).json(415);
    assert_eq!(panel.host.lock().unwrap().wanted, []);
    panel.change(|host| host.answer = Answer::Changed(Changed::default()));
    panel
        .send(&sent(
            "/api/v1/changes",
            &[&cookie, "Origin: http://localhost"],
            release,
        ))
        .json(200);
    assert_eq!(panel.host.lock().unwrap().wanted[0].user.as_deref(), Some("anna"));
    let gone = panel.send(&sent("/api/v1/logout", &[&cookie], "{}"));
    assert!(gone.head.contains("max-age=0"), "{gone:?}");
    panel.send(&asked).json(401);
    // And whoever loses his token loses his session.
    let response = log_in(&anna, &[]);
    let cookie = response.cookie();
    let asked = request("/api/v1/me").replace("Connection", &format!("Cookie: {cookie}\r\nConnection"));
    panel.send(&asked).json(200);
    std::fs::write(panel.dir.path().join("tokens"), "").unwrap();
    panel.send(&asked).json(401);
}

#[test]
fn what_is_said_through_tls_is_for_the_browser_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (tokens, certificate, key) = (file("tokens"), file("cert.pem"), file("key.pem"));
    let anna = token(&tokens, "admin", "anna");
    let made = rcgen::generate_simple_self_signed(["panel.example".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let arguments = [
        "--tokens",
        &tokens,
        "--host",
        "panel.example",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ];
    // A key that others could read is none.
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-panel"));
    let output = command
        .args(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("expected 0600 or 0640"),
        "{output:?}"
    );
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let panel = Panel::start_with(dir, &arguments);

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "panel.example".try_into().unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, panel.connect());
    let login = sent(
        "/api/v1/login",
        &["Origin: https://panel.example"],
        &json!({ "token": anna }).to_string(),
    );
    stream
        .write_all(login.replace("Host: localhost", "Host: panel.example").as_bytes())
        .unwrap();
    let mut answer = String::new();
    // It need not say goodbye.
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("set-cookie: __Host-vgpu-panel=") && answer.contains("; Secure"),
        "{answer}"
    );
    // Without TLS there is nothing to be heard.
    let mut plain = panel.connect();
    plain.write_all(request("/").as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
}
