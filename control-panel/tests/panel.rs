//! The program against a `vgpud` that only answers: what each route says, what is refused, and what is told as it
//! happens.
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vgpu_client::{fixture, statistics};
use vgpu_sched_api::messages::{Answer, EventRecord, Refusal, Request, SCHEMA_VERSION, Stats, Status};
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
}

/// Something that answers requests on a socket, and the panel that asks it.
struct Panel {
    host: Arc<Mutex<Host>>,
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Panel {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Mutex::new(Host {
            status: fixture::host(),
            stats: fixture::stats(),
            events: (1..=5).map(fixture::event).collect(),
            down: false,
            asked: 0,
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
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = log.next().expect("it ended").unwrap();
            if let Some((_, address)) = line.split_once("listening at http://127.0.0.1:") {
                break address.trim_end_matches('/').parse().unwrap();
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self {
            host,
            child,
            port,
            _dir: dir,
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
            // A panel that only reads asks for nothing else.
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
}

/// A stream of server-sent events.
struct Followed {
    lines: std::io::Lines<BufReader<TcpStream>>,
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
        data
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
        statistics::prometheus(&fixture::stats()).unwrap(),
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
    for wrong in ["?from=x", "?from=-1", "?form=1", "?vm="] {
        let error = panel.get(&format!("/api/v1/events{wrong}")).json(400);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("expected from=NUMBER, vm=NUMBER"), "{message}");
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
    assert_eq!(followed.expect("status")["pools"][0]["vms"][0]["queued"], 7);
    // At most once a second.
    for queued in 8..11 {
        panel.change(|host| host.status.pools[0].vms[0].queued = queued);
        followed.expect("status");
    }
    assert!(
        begin.elapsed() > Duration::from_millis(2500),
        "{:?}",
        begin.elapsed()
    );
    panel.change(|host| host.stats.gpus[0].waiting = 77);
    assert_eq!(followed.expect("stats")["gpus"][0]["waiting"], 77);
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
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        for path in paths {
            let response = panel.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!(response.head.contains("\r\nallow: get, head"), "{response:?}");
            response.json(405);
        }
    }
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
        ("0.0.0.0:0", "no authentication"),
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
