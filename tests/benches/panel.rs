//! How long an operator waits on a large host: 8 software GPUs, 50 pools and 1,000 VMs, each of which has a backend, and 300 a
//! session. `vgpu-admin status` is timed, and in a browser the panel's page: until it is painted, until all of it is there,
//! from a change until it is seen, and what its updates cost.
//!
//! `cargo xtask bench`, which builds what it needs. Backends and executors are played by this program, as far as `vgpud` sees
//! them: turns are taken on all GPUs, and every session's figures change all the time.
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, setrlimit};
use serde_json::Value;
use vgpu_sched_api::messages::{Answer, FromExec, Request, ToExec, VERSION};
use vgpu_sched_api::packet;
use vgpu_sched_api::turn::{PAGE_LEN, Page as TurnPage, State, Word};
use vgpu_tests::browser::{Look, Page};
use vgpu_tests::{Gpu, Stack};
use vgpu_vm::Artifacts;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const GPUS: u32 = 8;
const POOLS: u32 = 50;
const VMS: u32 = 1000;
/// One of every so many VMs has a session.
const SESSION_EVERY: u32 = 3;
/// Sessions that take turns.
const WORKING: usize = 16;
/// A VM that is in sight when the page is opened, and of medium priority.
const SEEN: u32 = 2;
/// How often each thing is timed.
const RUNS: usize = 20;
/// How long updates are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Between two changes of what sessions show.
const TICK: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;

    let artifacts = Artifacts::from_env();
    let stack = Stack::start_host(&artifacts, Gpu::Software, GPUS, "")?;
    std::fs::write(stack.pool_map(), pool_map(&stack)?)?;
    admin(&stack, "reload")?;
    let vms = Vms::start(&stack)?;

    let status = timed(|| admin(&stack, "status").map(drop))?;
    show("vgpu-admin status", &status);
    println!("  {} bytes of text", admin(&stack, "status")?.len());

    let token = stack.panel_token("admin", "anna")?;
    let (panel, port) = stack.panel()?;
    let page = Page::open(&artifacts, port, Look::default());
    page.field("Token").fill(&token);
    page.button("Log in").click();
    page.text("Live.").until_shown();
    for path in ["status", "stats"] {
        let text = page.evaluate(&format!(
            "fetch('/api/v1/{path}').then((answer) => answer.text())"
        ));
        println!("/api/v1/{path}: {} bytes", text.as_str().ok_or("no text")?.len());
    }

    // What it is sent is seen before the page sees it.
    page.at_start(&format!(
        "window.sent = [];
         window.EventSource = class extends EventSource {{
           constructor(...given) {{
             super(...given);
             for (const name of ['status', 'status_patch', 'stats', 'stats_patch']) {{
               this.addEventListener(name, ({{ data }}) => sent.push({{ name, length: data.length, at: Date.now() }}));
             }}
           }}
         }};
         new MutationObserver((_, observer) => {{
           if (document.querySelectorAll('#pools tbody tr').length < {VMS}) return;
           observer.disconnect();
           requestAnimationFrame(() => setTimeout(() => {{ window.whole = performance.now(); }}));
         }}).observe(document, {{ childList: true, subtree: true }});"
    ));
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        page.reload();
        let painted = page.evaluate(
            "new Promise((done) => {
               const look = () => {
                 const [first] = performance.getEntriesByName('first-contentful-paint');
                 if (first && window.whole) done([first.startTime, window.whole]); else setTimeout(look, 5);
               };
               look();
             })",
        );
        first.push(number(&painted[0])?);
        whole.push(number(&painted[1])?);
    }
    show("the page, first contentful paint", &first);
    show("the page, all of it", &whole);

    // What is watched is a row that is in sight, until it is painted.
    page.evaluate(&format!(
        "window.cell = [...document.querySelectorAll('#pools tbody tr')].find((row) => row.firstChild.textContent.trim() === '{SEEN}')
           .querySelector('[data-label=Priority]');
         window.until = (text) => new Promise((done) => {{
           const look = () => cell.textContent.startsWith(text) && requestAnimationFrame(() => setTimeout(() => done(Date.now())));
           new MutationObserver(look).observe(cell, {{ childList: true, subtree: true, characterData: true }});
         }});"
    ));
    let priorities = ["high", "low"].into_iter().cycle().take(RUNS);
    let (mut answered, mut told, mut in_panel) = (Vec::new(), Vec::new(), Vec::new());
    for priority in priorities.clone() {
        let took = page.evaluate(&format!(
            "(async () => {{
               const seen = until('{priority}');
               const begun = Date.now();
               const answered = fetch('/api/v1/changes', {{ method: 'POST', headers: {{ 'Content-Type': 'application/json' }}, body: JSON.stringify(
                 {{ change: {{ verb: 'edit', edits: [{{ edit: 'set_vms', vms: '{SEEN}', settings: {{ priority: '{priority}' }} }}] }} }}) }}).then(() => Date.now());
               const at = await seen;
               const told = sent.findLast((one) => one.name.startsWith('status') && one.at <= at).at;
               return [await answered - begun, told - begun, at - begun];
             }})()"
        ));
        answered.push(number(&took[0])?);
        told.push(number(&took[1])?);
        in_panel.push(number(&took[2])?);
    }
    show("from a change through the panel until it is answered", &answered);
    show("from a change through the panel until the page is told", &told);
    show("from a change through the panel until it is seen", &in_panel);
    let mut by_command = Vec::new();
    for (at, priority) in priorities.enumerate() {
        // At another moment of the second each time.
        std::thread::sleep(Duration::from_millis(at as u64 * 50));
        page.evaluate(&format!("window.seen = until('{priority}'); 0"));
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3;
        admin(
            &stack,
            &format!("set-priority --vm-id {SEEN} --priority {priority}"),
        )?;
        by_command.push(number(&page.evaluate("window.seen"))? - begun);
    }
    show("from a change by vgpu-admin until it is seen", &by_command);

    page.evaluate(
        "window.tasks = []; new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)))
           .observe({ type: 'longtask' }); 0",
    );
    let pids = [
        ("vgpud", stack.vgpud_pid().ok_or("no vgpud")?),
        ("vgpu-panel", panel.id()),
    ];
    page.evaluate("sent.length = 0");
    let used = |pid| cpu_ms(pid);
    let before = (page.costs(), pids.map(|(_, pid)| used(pid)), Instant::now());
    std::thread::sleep(WATCHED);
    let (costs, seconds) = (page.costs(), before.2.elapsed().as_secs_f64());
    for name in [
        "TaskDuration",
        "ScriptDuration",
        "RecalcStyleDuration",
        "LayoutDuration",
    ] {
        let spent = number(&costs[name])? - number(&before.0[name])?;
        println!("the page, {name}: {:.1} ms per second", spent * 1e3 / seconds);
    }
    for ((name, pid), before) in pids.into_iter().zip(before.1) {
        println!(
            "{name}: {:.1} ms of CPU time per second",
            (used(pid)? - before?) / seconds
        );
    }
    for name in ["status", "status_patch", "stats", "stats_patch"] {
        let sent = page.evaluate(&format!(
            "sent.filter((one) => one.name === '{name}').map((one) => one.length)"
        ));
        let lengths = numbers(&sent)?;
        if !lengths.is_empty() {
            let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
            println!(
                "the page is sent {name} {} times, {mean:.0} bytes each",
                lengths.len()
            );
        }
    }
    let tasks = page.evaluate("tasks");
    let tasks = numbers(&tasks)?;
    if tasks.is_empty() {
        println!("the page was never busy for 50 ms at a stretch");
    } else {
        show(
            "the page, busy at a stretch (where that was 50 ms or more)",
            &tasks,
        );
    }
    drop(vms);
    Ok(())
}

/// 50 pools, each on one of the GPUs, with VMs of all levels.
fn pool_map(stack: &Stack) -> Result<String> {
    let gpus: Vec<String> = stack.status()?.gpus.into_iter().map(|gpu| gpu.uuid).collect();
    let each = VMS / POOLS;
    let mut map = String::new();
    for pool in 0..POOLS {
        let gpu = &gpus[pool as usize % gpus.len()];
        let (first, last) = (pool * each + 1, (pool + 1) * each);
        map += &format!(
            "[[pool]]\nname = \"tenant-{pool:02}\"\ngpus = [\"{gpu}\"]\nvms = [\"{first}-{last}\"]\n\n"
        );
    }
    for vm in (1..=VMS).step_by(7) {
        map += &format!(
            "[vm.{vm}]\npriority = \"{}\"\nweight = 2\n\n",
            ["low", "high"][vm as usize % 2]
        );
    }
    Ok(map)
}

fn admin(stack: &Stack, command: &str) -> Result<String> {
    let output = stack.admin().args(command.split_whitespace()).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!("{command}: {output:?}").into()),
    }
}

/// Milliseconds that it took, each time.
fn timed(mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let once = |_| {
        let begun = Instant::now();
        run()?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    (0..RUNS).map(once).collect()
}

fn number(value: &Value) -> Result<f64> {
    value
        .as_f64()
        .ok_or_else(|| format!("{value} is no number").into())
}

fn numbers(value: &Value) -> Result<Vec<f64>> {
    value.as_array().ok_or("no list")?.iter().map(number).collect()
}

/// Milliseconds of CPU time that a process has used.
fn cpu_ms(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind its name, which may have blanks: user's and system's time, in hundredths of a second.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or("no name")?
        .1
        .split_whitespace()
        .collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) * 10.0)
}

fn show(what: &str, milliseconds: &[f64]) {
    let mut sorted = milliseconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len()) - 1];
    println!(
        "{what}: median {:.1} ms, p95 {:.1} ms, max {:.1} ms, of {}",
        at(0.5),
        at(0.95),
        at(1.0),
        sorted.len()
    );
}

/// Backends of all VMs and the executors of some, as `vgpud` sees them.
struct Vms {
    _backends: Vec<OwnedFd>,
    /// What every executor's process is taken to be.
    process: Child,
    over: Arc<AtomicBool>,
    playing: Option<JoinHandle<()>>,
}

impl Vms {
    fn start(stack: &Stack) -> Result<Self> {
        let process = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        let (mut backends, mut executors) = (Vec::new(), Vec::new());
        for vm in 1..=VMS {
            let backend = stack.connect()?;
            ask(&backend, &Request::Hello { version: VERSION, vm }, &[])?;
            if vm % SESSION_EVERY == 0 {
                executors.push(Executor::start(&backend, vm, &process)?);
            }
            backends.push(backend);
        }
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let play = move || {
            let mut tick = 0;
            while !told.load(Ordering::Relaxed) {
                for (at, executor) in executors.iter_mut().enumerate() {
                    executor.play(tick, at < WORKING);
                }
                tick += 1;
                std::thread::sleep(TICK);
            }
        };
        Ok(Self {
            _backends: backends,
            process,
            over,
            playing: Some(std::thread::spawn(play)),
        })
    }
}

impl Drop for Vms {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(playing) = self.playing.take() {
            // What went wrong with it was printed.
            let _ = playing.join();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ask(socket: &OwnedFd, request: &Request, fds: &[&OwnedFd]) -> Result<Answer> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    packet::send(socket, request, &fds)?;
    match packet::receive(socket)?.0 {
        Answer::Refused { message, .. } => Err(message.into()),
        answer => Ok(answer),
    }
}

struct Executor {
    socket: OwnedFd,
    page: &'static TurnPage,
    calls: u64,
    wants: bool,
}

impl Executor {
    fn start(backend: &OwnedFd, vm: u32, process: &Child) -> Result<Self> {
        let program = format!("train-{}", vm % 10);
        let opening = Request::OpenSession {
            session: 1,
            pid: 100 + vm,
            program: program.clone(),
            gpus: Vec::new(),
        };
        ask(backend, &opening, &[])?;
        let memfd = rustix::fs::memfd_create("turn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, PAGE_LEN as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
        // SAFETY: a new mapping at an address of the kernel's choice. It is never unmapped, so it is good for 'static; a
        // `TurnPage` is atomics and padding, and as long as the file, which cannot shrink.
        let page = unsafe {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            let page = rustix::mm::mmap(std::ptr::null_mut(), PAGE_LEN, flags, MapFlags::SHARED, &memfd, 0)?;
            &*page.cast::<TurnPage>()
        };
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(process), PidfdFlags::empty())?;
        let attaching = Request::AttachSession {
            session: 1,
            pid: 100 + vm,
            program,
            gpus: Vec::new(),
            exec_pid: 1,
        };
        ask(backend, &attaching, &[&memfd, &theirs, &pidfd])?;
        Ok(Self {
            socket,
            page,
            calls: 0,
            wants: false,
        })
    }

    fn say(&self, message: &FromExec) {
        packet::send(&self.socket, message, &[]).expect("vgpud takes what its executors say");
    }

    /// A moment of its life: it has made calls, obeys, takes turns if it is one that works.
    fn play(&mut self, tick: u64, works: bool) {
        self.calls += 1 + self.calls % 3;
        self.page.show(self.calls, self.calls % 5);
        while let Ok((order, _)) = packet::receive::<ToExec>(&self.socket) {
            if let ToExec::Slice { sequence, .. }
            | ToExec::Stop { sequence, .. }
            | ToExec::Resume { sequence, .. } = order
            {
                self.say(&FromExec::Done {
                    sequence,
                    ok: true,
                    microseconds: 10,
                });
            }
        }
        if tick.is_multiple_of(50) {
            let took = |us| vec![(us + self.calls % 100, 20)];
            self.say(&FromExec::Latencies {
                wait: took(200),
                service: took(900),
                total: took(1100),
                throttled_us: 0,
                refused: 0,
            });
        }
        if !works {
            return;
        }
        let word = self.page.word();
        match word.state {
            State::None if !self.wants => {
                self.say(&FromExec::Want);
                self.wants = true;
            }
            State::Yield => {
                let none = Word {
                    state: State::None,
                    ..word
                };
                if self.page.change(word, none).is_ok() {
                    self.say(&FromExec::Released);
                    self.wants = false;
                }
            }
            _ => {}
        }
    }
}
