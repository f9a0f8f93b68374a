//! A live screen. What is known and what keys do is here, how it looks in [`crate::show`]; only [`run`] has to do with a terminal.
use crate::arguments::WATCH_S_MAX;
use crate::show;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use vgpu_client::client::Client;
use vgpu_client::failure::{Failure, Kind};
use vgpu_program::arguments::number;
use vgpu_sched_api::messages::{Stats, Status, VmStats, VmStatus};

/// Shares are of so much time, or of what there is between two samples if that is more.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a key may wait.
const TICK: Duration = Duration::from_millis(100);
/// How long it may take to see that a signal came.
const END_LIMIT: Duration = Duration::from_secs(1);
/// VMs that a page moves over.
const PAGE: usize = 10;

#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number("a number of seconds, such as 5", 1..=WATCH_S_MAX))]
    interval: u32,
}

/// What vgpud told at a moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since this program began.
    pub at: Duration,
    pub status: Status,
    pub stats: Stats,
}

/// By what VMs are sorted; what is most urgent comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Share,
    Vm,
    Priority,
    Queue,
    Wait,
}

impl Sort {
    /// Each with its key.
    pub const ALL: [(char, Self, &'static str); 5] = [
        ('g', Self::Share, "GPU"),
        ('v', Self::Vm, "VM"),
        ('p', Self::Priority, "priority"),
        ('u', Self::Queue, "queue"),
        ('w', Self::Wait, "wait"),
    ];
}

/// A VM, as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub vm: &'a VmStatus,
    /// `None`: it belongs to none.
    pub pool: Option<&'a str>,
    /// `None` if it has run nothing.
    pub stats: Option<&'a VmStats>,
    /// Thousandths of a GPU over the last seconds; `None` if that is not known yet.
    pub share: Option<u64>,
}

/// Everything that is known, and how it is to be shown.
#[derive(Debug)]
pub struct Top {
    /// The oldest first; never none.
    samples: VecDeque<Sample>,
    /// Why vgpud does not answer.
    gone: Option<String>,
    pub sort: Sort,
    /// VMs that are above what is shown.
    scroll: usize,
    /// VMs that there is room for.
    room: usize,
}

impl Top {
    pub fn new(first: Sample) -> Self {
        Self {
            samples: VecDeque::from([first]),
            gone: None,
            sort: Sort::Share,
            scroll: 0,
            room: 1,
        }
    }

    /// Takes what was told, or why nothing was.
    pub fn add(&mut self, told: Result<Sample, Failure>) {
        let sample = match told {
            Ok(sample) => sample,
            Err(failure) => {
                self.gone = Some(failure.message);
                return;
            }
        };
        self.gone = None;
        // One that was started again counts from 0 again.
        if sample.stats.uptime_s < self.now().stats.uptime_s {
            self.samples.clear();
        }
        let at = sample.at;
        self.samples.push_back(sample);
        // The first one that is kept began the window.
        while self.samples.len() > 2 && at.saturating_sub(self.samples[1].at) >= WINDOW {
            self.samples.pop_front();
        }
    }

    /// What was told last.
    pub fn now(&self) -> &Sample {
        &self.samples[self.samples.len() - 1]
    }

    /// Why vgpud does not answer, if it does not.
    pub fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    /// What a counter of microseconds has risen by since the first sample, in thousandths of the time that has gone by.
    fn share(&self, before: Option<u64>, now: Option<u64>) -> Option<u64> {
        let passed = self.now().at.saturating_sub(self.samples[0].at).as_millis();
        let risen = now?.checked_sub(before?)?;
        u64::try_from(u128::from(risen).checked_div(passed)?).ok()
    }

    /// How busy a GPU was over the last seconds, in thousandths.
    pub fn busy(&self, uuid: &str) -> Option<u64> {
        let of = |sample: &Sample| {
            let mut gpus = sample.stats.gpus.iter();
            Some(gpus.find(|gpu| gpu.uuid == uuid)?.busy_us)
        };
        let share = self.share(of(&self.samples[0]), of(self.now()));
        share.map(|share| share.min(1000))
    }

    /// All VMs of which there is something to tell, sorted.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let now = self.now();
        let [before, stats] = [&self.samples[0], now].map(|sample| -> BTreeMap<u32, &VmStats> {
            sample.stats.vms.iter().map(|vm| (vm.vm, vm)).collect()
        });
        let of_pools = now.status.pools.iter().flat_map(|pool| {
            let name = Some(pool.name.as_str());
            pool.vms.iter().map(move |vm| (name, vm))
        });
        let others = now.status.in_no_pool.iter().map(|vm| (None, vm));
        let mut rows: Vec<Row<'_>> = of_pools
            .chain(others)
            .map(|(pool, vm)| {
                let [before, stats] = [&before, &stats].map(|of| of.get(&vm.vm).copied());
                let used = |stats: &VmStats| stats.gpu_microseconds;
                Row {
                    vm,
                    pool,
                    stats,
                    share: self.share(before.map(used), stats.map(used)),
                }
            })
            .collect();
        rows.sort_by_key(|row| {
            let most = match self.sort {
                Sort::Share => row.share.unwrap_or(0),
                Sort::Vm => 0,
                Sort::Priority => row.vm.priority as u64,
                Sort::Queue => row.vm.queued,
                Sort::Wait => row.stats.map_or(0, |stats| stats.wait.p99),
            };
            (Reverse(most), row.vm.vm)
        });
        rows
    }

    /// The first VM that is shown, now that there is room for so many.
    pub fn first(&mut self, room: usize) -> usize {
        self.room = room;
        self.scroll = self.scroll.min(self.last());
        self.scroll
    }

    /// The first VM that is shown when the last one is.
    fn last(&self) -> usize {
        self.count().saturating_sub(self.room)
    }

    fn count(&self) -> usize {
        let status = &self.now().status;
        let in_pools = status.pools.iter().map(|pool| pool.vms.len());
        in_pools.sum::<usize>() + status.in_no_pool.len()
    }

    /// Does what a key means; whether to go on.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        let last = self.last();
        self.scroll = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char(char) => {
                let Some((_, sort, _)) = Sort::ALL.into_iter().find(|(key, ..)| *key == char) else {
                    return true;
                };
                self.sort = sort;
                0
            }
            KeyCode::Up => self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll + 1,
            KeyCode::PageUp => self.scroll.saturating_sub(PAGE),
            KeyCode::PageDown => self.scroll + PAGE,
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => self.scroll,
        }
        .min(last);
        true
    }
}

/// Shows it until a key or a signal ends that.
pub fn run(options: Options, json: bool, socket: &Path) -> Result<(), Failure> {
    if json {
        return Err(
            Failure::new(Kind::Usage, "--json and top cannot be used together")
                .hint("`vgpu-admin stats --watch --json` is for programs"),
        );
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            "expected a terminal as the standard input and output",
        )
        .hint("`vgpu-admin status --watch` and `stats --watch` need none"));
    }
    let began = Instant::now();
    let mut top = Top::new(sample(socket, began)?);
    let ended = Arc::new(AtomicBool::new(false));
    end_on_signals(ended.clone()).map_err(|error| broken("signals", &error))?;
    let told = samples(
        socket.to_owned(),
        began,
        Duration::from_secs(options.interval.into()),
    );
    let mut terminal = ratatui::try_init().map_err(|error| broken("the terminal", &error))?;
    let shown = follow(&mut terminal, &mut top, &told, &ended);
    ratatui::restore();
    shown.map_err(|error| broken("the terminal", &error))
}

/// Has a signal end it, also where the terminal is gone: waiting for a key then never returns, and takes all of a processor.
fn end_on_signals(ended: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            ended.store(true, Ordering::SeqCst);
            std::thread::sleep(END_LIMIT);
            ratatui::restore();
            std::process::exit(0);
        }
    });
    Ok(())
}

fn broken(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{what}: {error}"))
}

fn follow(
    terminal: &mut DefaultTerminal,
    top: &mut Top,
    told: &Receiver<Result<Sample, Failure>>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut is_new = true;
    while !ended.load(Ordering::SeqCst) {
        for told in told.try_iter() {
            top.add(told);
            is_new = true;
        }
        if is_new {
            terminal.draw(|frame| show::top(top, frame))?;
        }
        is_new = event::poll(TICK)?;
        if is_new
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && !top.key(key)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Looks again and again, so that a vgpud that is slow to answer holds no key up.
fn samples(socket: PathBuf, began: Instant, interval: Duration) -> Receiver<Result<Sample, Failure>> {
    let (sender, told) = channel();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(interval);
            if sender.send(sample(&socket, began)).is_err() {
                return;
            }
        }
    });
    told
}

fn sample(socket: &Path, began: Instant) -> Result<Sample, Failure> {
    let client = Client::connect(socket)?;
    let status = client.status()?;
    // Right before the counters are read.
    let at = began.elapsed();
    Ok(Sample {
        at,
        status,
        stats: client.stats()?,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use vgpu_client::fixture;
    use vgpu_sched_api::messages::{Percentiles, Priority};

    /// A host whose VM 3 has used so many milliseconds of a GPU by then, and VM 9 a tenth of that.
    pub fn sample(at_ms: u64, used_ms: u64) -> Sample {
        let mut status = fixture::host();
        let mut stats = fixture::stats();
        stats.uptime_s = at_ms / 1000;
        stats.gpus[0].uuid = status.gpus[0].uuid.clone();
        stats.gpus[0].busy_us = used_ms * 1100;
        let pool = &mut status.pools[0];
        pool.vms[1].priority = Priority::Low;
        pool.vms[1].queued = 60;
        pool.vms[1].quarantine = None;
        let stats_of = |vm: u32, gpu_microseconds, p99| VmStats {
            vm,
            gpu_microseconds,
            wait: Percentiles {
                count: 10,
                p50: 20,
                p99,
                ..Percentiles::default()
            },
            ..stats.vms[0].clone()
        };
        stats.vms = vec![
            stats_of(3, used_ms * 1000, 1500),
            stats_of(9, used_ms * 100, 2_000_000),
        ];
        Sample {
            at: Duration::from_millis(at_ms),
            status,
            stats,
        }
    }

    fn vms(top: &Top) -> Vec<u32> {
        top.rows().iter().map(|row| row.vm.vm).collect()
    }

    fn press(top: &mut Top, code: KeyCode) -> bool {
        top.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn shares_are_of_the_last_seconds() {
        let mut top = Top::new(sample(1000, 500));
        let shares = |top: &Top| {
            let rows = top.rows();
            let of = |vm| rows.iter().find(|row| row.vm.vm == vm).unwrap().share;
            [top.busy("GPU-Some(0)"), of(3), of(9), of(12)]
        };
        assert_eq!(shares(&top), [None; 4], "of one moment there is no share");
        top.add(Ok(sample(3000, 1500)));
        assert_eq!(shares(&top), [Some(550), Some(500), Some(50), None]);
        assert_eq!(top.busy("GPU-None"), None);
        // What was before the window is forgotten.
        top.add(Ok(sample(8000, 1500)));
        assert_eq!(shares(&top)[1], Some(0));
        // However far apart looks are, there are two.
        top.add(Ok(sample(60_000, 1500 + 13_000)));
        assert_eq!(shares(&top)[1], Some(250));
        // A vgpud that was started again counts anew.
        top.add(Ok(sample(500, 100)));
        assert_eq!(shares(&top), [None; 4]);
        top.add(Ok(sample(1500, 600)));
        assert_eq!(shares(&top)[1], Some(500));
    }

    #[test]
    fn a_vgpud_that_is_gone_leaves_what_was_known() {
        let mut top = Top::new(sample(1000, 0));
        top.add(Ok(sample(2000, 500)));
        top.add(Err(Failure::new(Kind::Unreachable, "it is gone")));
        assert_eq!((top.gone(), top.rows()[0].share), (Some("it is gone"), Some(500)));
        top.add(Ok(sample(9000, 500)));
        assert_eq!(top.gone(), None);
    }

    #[test]
    fn keys_sort_and_scroll() {
        let mut top = Top::new(sample(1000, 0));
        top.add(Ok(sample(2000, 500)));
        assert_eq!(vms(&top), [3, 9, 12]);
        let expected = [
            ('v', [3, 9, 12]),
            ('p', [3, 12, 9]),
            ('u', [9, 3, 12]),
            ('w', [9, 3, 12]),
            ('g', [3, 9, 12]),
        ];
        for (key, sorted) in expected {
            assert!(press(&mut top, KeyCode::Char(key)));
            assert_eq!(vms(&top), sorted, "{key}");
        }
        // Nothing is below the last one, and from there each key counts.
        for (room, key, first) in [
            (1, KeyCode::Down, 1),
            (1, KeyCode::PageDown, 2),
            (2, KeyCode::Down, 1),
            (2, KeyCode::Up, 0),
            (2, KeyCode::End, 1),
            (2, KeyCode::Down, 1),
            (2, KeyCode::Up, 0),
            (1, KeyCode::End, 2),
            (1, KeyCode::Home, 0),
            (99, KeyCode::End, 0),
            (1, KeyCode::PageUp, 0),
            (1, KeyCode::Up, 0),
            (1, KeyCode::Char('x'), 0),
        ] {
            top.first(room);
            assert!(press(&mut top, key));
            assert_eq!(top.first(room), first, "{key}");
        }
        assert!(!press(&mut top, KeyCode::Char('q')) && !press(&mut top, KeyCode::Esc));
        assert!(!top.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(press(&mut top, KeyCode::Char('c')));
    }

    #[test]
    fn each_order_has_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<char> = Sort::ALL.iter().map(|(key, ..)| *key).collect();
        assert_eq!(keys.len(), Sort::ALL.len());
        assert!(!keys.contains(&'q'));
    }
}
