//! Does an `ioctl` exported from a Rust program see what a libcuda opened with `dlopen` asks of
//! the driver, on every thread, and does it learn enough to slice, stop and resume the GPU work?
//!
//! Without arguments it runs each case in a process of its own and kills those that take too
//! long. Each result is one line: probe, case, what, value, separated by tabs.

mod cuda;
mod hook;
mod rm;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cuda::Cuda;

/// Name, `dlopen` flags, and whether the context is made on another thread.
const CASES: [(&str, i32, bool); 3] = [
    ("dlopen RTLD_LOCAL", libc::RTLD_LAZY | libc::RTLD_LOCAL, false),
    ("dlopen RTLD_GLOBAL", libc::RTLD_NOW | libc::RTLD_GLOBAL, false),
    (
        "RTLD_LOCAL, context of a thread",
        libc::RTLD_LAZY | libc::RTLD_LOCAL,
        true,
    ),
];
const LIMIT: Duration = Duration::from_secs(15);

fn main() -> Result<()> {
    if let Some(index) = std::env::args().nth(1) {
        let index: usize = index.parse().context("the number of a case")?;
        let (name, flags, threaded) = *CASES.get(index).context("no such case")?;
        // SAFETY: ends this process if the driver blocks it; the parent sees the signal.
        unsafe { libc::alarm(LIMIT.as_secs() as u32) };
        if let Err(e) = case(name, flags, threaded) {
            row(name, "!! FAILED", format_args!("{e:#}"));
        }
        return Ok(());
    }
    for (index, (name, ..)) in CASES.iter().enumerate() {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(index.to_string())
            .spawn()?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > LIMIT + Duration::from_secs(2) {
                child.kill()?;
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        match status {
            Some(status) if status.success() => {}
            Some(status) => row(name, "!! ENDED BADLY", status),
            None => row(name, "!! TIMED OUT", "killed"),
        }
    }
    Ok(())
}

fn row(case: &str, what: &str, value: impl std::fmt::Display) {
    println!("ioctl-export\t{case}\t{what}\t{value}");
}

/// The result and the time of a call, for a row.
fn timed<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T, u32>) -> String {
    let start = Instant::now();
    let result = call();
    let micros = start.elapsed().as_micros();
    match result {
        Ok(value) => format!("ok {value:?}, {micros} us"),
        Err(status) => format!("status {status:#x}, {micros} us"),
    }
}

fn case(name: &str, flags: i32, threaded: bool) -> Result<()> {
    let cuda = if threaded {
        thread::spawn(move || {
            hook::mark_thread();
            Cuda::open(flags)
        })
        .join()
        .expect("the thread does not panic")?
    } else {
        Cuda::open(flags)?
    };
    cuda.use_here()?;
    report_objects(name);

    // Calibrated: a kernel of about 0.5 s.
    const TRIAL: u64 = 20_000_000;
    cuda.start(TRIAL)?;
    cuda.synchronize()?;
    let start = Instant::now();
    cuda.start(TRIAL)?;
    cuda.synchronize()?;
    let iters = (TRIAL as f64 * 0.5 / start.elapsed().as_secs_f64()) as u64;

    let before = Instant::now();
    cuda.start(iters)?;
    cuda.synchronize()?;
    let alone = before.elapsed();

    row(
        name,
        "SET_TIMESLICE 1 ms on all groups",
        timed(|| rm::set_timeslice(1000)),
    );
    let start = Instant::now();
    cuda.start(iters)?;
    let first = cuda.progress();
    while cuda.progress() == first {
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "the kernel does not move"
        );
    }
    row(name, "DISABLE_CHANNELS 1", timed(|| rm::stop_channels(true)));
    thread::sleep(Duration::from_millis(2));
    let at_stop = cuda.progress();
    thread::sleep(Duration::from_millis(300));
    let at_resume = cuda.progress();
    // From another thread: the objects belong to the process, not to the thread.
    let resumed = thread::scope(|s| s.spawn(|| timed(|| rm::stop_channels(false))).join());
    row(
        name,
        "DISABLE_CHANNELS 0, other thread",
        resumed.expect("the thread does not panic"),
    );
    cuda.synchronize()?;
    let took = start.elapsed();
    row(
        name,
        "effect",
        format_args!(
            "{}; {} wrong results; alone {:.3} s, stopped 0.3 s {:.3} s",
            match (at_stop < iters, at_resume == at_stop) {
                (true, true) => "stood still and went on",
                (true, false) => "DID NOT STAND STILL",
                (false, _) => "ENDED BEFORE THE STOP",
            },
            cuda.wrong_results(iters)?,
            alone.as_secs_f64(),
            took.as_secs_f64()
        ),
    );
    Ok(())
}

fn report_objects(name: &str) {
    let objects = hook::objects();
    let calls = hook::calls();
    let total: u32 = calls.iter().map(|call| call.2).sum();
    let most: Vec<_> = calls
        .iter()
        .take(6)
        .map(|&(kind, nr, n)| format!("{}/{nr:#x} x{n}", char::from(kind).escape_default()))
        .collect();
    row(name, "ioctls seen", format_args!("{total}: {}", most.join(", ")));
    let engines: Vec<_> = objects
        .iter()
        .filter(|o| o.is_tsg())
        .map(|o| o.engine.to_string())
        .collect();
    let channels: Vec<_> = objects.iter().filter(|o| o.is_channel()).collect();
    row(
        name,
        "objects",
        format_args!(
            "{} groups (engines {}), {} channels (class {:#x}), {} of them compute, {} subdevices; {} made by the marked thread",
            engines.len(),
            engines.join(" "),
            channels.len(),
            channels.first().map_or(0, |c| c.class),
            rm::compute_channels().len(),
            objects.iter().filter(|o| o.is_subdevice()).count(),
            objects.iter().filter(|o| o.by_marked_thread).count(),
        ),
    );
}
