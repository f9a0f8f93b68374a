//! What the programs print, as numbers, and the table and file of all that was measured.
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::HIGH_US;

/// The last line that begins so.
fn line<'t>(text: &'t str, start: &str) -> Result<&'t str> {
    text.lines()
        .rfind(|line| line.starts_with(start))
        .with_context(|| format!("no line \"{start}...\" in {text:?}"))
}

/// The number behind a word.
pub fn number(line: &str, word: &str) -> Result<f64> {
    let mut words = line.split_whitespace();
    words
        .find(|one| *one == word)
        .and_then(|_| words.next()?.trim_end_matches(',').parse().ok())
        .with_context(|| format!("no number behind {word:?} in {line:?}"))
}

/// What `latency` measured, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub calls: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    /// How long it went on.
    pub seconds: f64,
}

impl Latency {
    /// Of all calls.
    pub fn of(text: &str) -> Result<Self> {
        Self::in_line(text, "latency: ")
    }

    /// Of those that came right after another one.
    pub fn of_later(text: &str) -> Result<Self> {
        Self::in_line(text, "those that came right after another: ")
    }

    fn in_line(text: &str, start: &str) -> Result<Self> {
        let of_calls = line(text, start)?;
        let calls = of_calls[start.len()..].split(' ').next().unwrap_or_default();
        Ok(Self {
            calls: calls
                .parse()
                .with_context(|| format!("no number of calls in {of_calls:?}"))?,
            p50: number(of_calls, "p50")?,
            p99: number(of_calls, "p99")?,
            max: number(of_calls, "max")?,
            seconds: number(line(text, "measured for ")?, "for")?,
        })
    }

    pub fn figures(&self) -> [(&'static str, f64); 4] {
        [
            ("calls", self.calls),
            ("p50_us", self.p50),
            ("p99_us", self.p99),
            ("max_us", self.max),
        ]
    }

    /// Seconds of the GPU that its kernels took.
    fn used(&self) -> f64 {
        self.calls * f64::from(HIGH_US) / 1e6
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max, .. } = self;
        write!(f, "H p50 {p50:.0} p99 {p99:.0} max {max:.0} us")
    }
}

/// What `busy` did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    pub kernels: f64,
    pub seconds: f64,
}

impl Busy {
    pub fn of(text: &str) -> Result<Self> {
        let line = line(text, "busy: ")?;
        Ok(Self {
            kernels: number(line, "busy:")?,
            seconds: number(line, "in")?,
        })
    }

    /// Milliseconds for each kernel.
    pub fn ms_each(&self) -> f64 {
        self.seconds * 1e3 / self.kernels
    }
}

/// How much of the GPU time that H left a low one used, in percent, when a kernel takes `alone_ms` of it. What it lost, it
/// lost while H was there, which may be less than it ran.
pub fn kept(low: &Busy, alone_ms: f64, high: &Latency) -> f64 {
    let lost = low.seconds - low.kernels * alone_ms / 1e3 - high.used();
    100.0 * (1.0 - lost / (high.seconds - high.used()))
}

/// How much several low ones did together of what one alone does in the time that H left, in percent. They may lose to each
/// other as long as they run.
pub fn together(low: &[Busy], alone_ms: f64, high: &Latency) -> f64 {
    let useful: f64 = low.iter().map(|one| one.kernels * alone_ms / 1e3).sum();
    let ran = low.iter().map(|one| one.seconds).fold(0.0, f64::max);
    100.0 * useful / (ran - high.used())
}

/// The figures that most cases have, and their columns.
const COLUMNS: [(&str, &str); 4] = [
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("max_us", "max us"),
    (KEPT, "kept %"),
];
/// What [`kept`] and [`together`] give.
pub const KEPT: &str = "low_kept_percent";

/// Everything that was measured.
pub struct Figures {
    folder: Option<PathBuf>,
    rows: Vec<(String, Vec<(String, f64)>)>,
}

impl Figures {
    /// None yet; they go to `sched.json` in that folder.
    pub fn new(folder: Option<PathBuf>) -> Self {
        let rows = Vec::new();
        Self { folder, rows }
    }

    /// Adds what one case gave, and writes all so far: a run that is cut short leaves what it had.
    pub fn add(&mut self, case: &str, figures: &[(&str, f64)]) {
        let figures = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        self.rows.push((case.to_owned(), figures));
        if let Some(folder) = &self.folder {
            let path = folder.join("sched.json");
            if let Err(error) = std::fs::write(&path, format!("{:#}\n", self.json())) {
                println!("  {} cannot be written: {error}", path.display());
            }
        }
    }

    fn json(&self) -> Value {
        let row = |(case, figures): &(String, Vec<(String, f64)>)| {
            let mut row = Map::new();
            row.insert("case".to_owned(), json!(case));
            row.extend(figures.iter().map(|(name, value)| (name.clone(), json!(value))));
            Value::Object(row)
        };
        Value::Array(self.rows.iter().map(row).collect())
    }

    /// A line for each case.
    pub fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        let head = COLUMNS.map(|(_, head)| format!("{head:>7}")).join(" ");
        println!("\n{:<48} {head}  other figures", "case");
        for (case, figures) in &self.rows {
            let find = |name: &str| figures.iter().find(|(own, _)| own == name);
            let columns =
                COLUMNS.map(|(name, _)| find(name).map_or("-".to_owned(), |(_, value)| short(*value)));
            let others = figures
                .iter()
                .filter(|(name, _)| COLUMNS.iter().all(|(column, _)| column != name))
                .map(|(name, value)| format!("{name} {}", short(*value)));
            println!(
                "{case:<48} {}  {}",
                columns.map(|one| format!("{one:>7}")).join(" "),
                others.collect::<Vec<_>>().join(", ")
            );
        }
    }
}

/// A number with as many digits as are worth reading.
fn short(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "latency: running\nthe slowest calls, with their numbers: 500 us (2)\nmeasured for 6.500000 s\n\
        those that came right after another: 594 calls, us: p50 60 p99 61 max 62\n\
        latency: 600 calls, us: p50 214 p99 300 max 500\n";

    #[test]
    fn what_the_programs_print_is_read() {
        let all = Latency::of(SAID).unwrap();
        assert_eq!(
            (all.calls, all.p50, all.p99, all.max, all.seconds),
            (600.0, 214.0, 300.0, 500.0, 6.5)
        );
        let later = Latency::of_later(SAID).unwrap();
        assert_eq!((later.calls, later.p99), (594.0, 61.0));
        let busy = Busy::of("busy: ready\nbusy: running\nbusy: 46 kernels right in 1.150000 s\n").unwrap();
        assert_eq!((busy.kernels, busy.ms_each()), (46.0, 25.0));
        assert!(Latency::of("latency: running\n").is_err() && Busy::of("busy: ready\n").is_err());
    }

    #[test]
    fn what_is_kept_leaves_out_what_high_used_and_the_time_without_it() {
        let high = Latency {
            calls: 2000.0,
            p50: 0.0,
            p99: 0.0,
            max: 0.0,
            seconds: 1.1,
        };
        let ran = |kernels, seconds| Busy { kernels, seconds };
        // H used 0.1 s of the 1.1 s: all that it left was used, then half of it, and the same in a run of twice that time.
        assert!((kept(&ran(100.0, 1.1), 10.0, &high) - 100.0).abs() < 1e-9);
        assert!((kept(&ran(50.0, 1.1), 10.0, &high) - 50.0).abs() < 1e-9);
        assert!((kept(&ran(150.0, 2.1), 10.0, &high) - 50.0).abs() < 1e-9);
        // Two that do 1.5 s of work in the 2 s that are theirs.
        assert!((together(&[ran(70.0, 2.1), ran(80.0, 2.0)], 10.0, &high) - 75.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.5, 3.0, 12.345, 1234.5].map(short),
            ["0.50", "3", "12.35", "1234"]
        );
    }
}
