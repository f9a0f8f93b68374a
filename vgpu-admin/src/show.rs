//! What people are shown.
mod audit;
mod doctor;
mod events;
mod probe;
mod stats;
mod status;
mod top;
mod usage;

pub use audit::audit;
pub use doctor::doctor;
pub use events::{events, turns};
pub use probe::probe;
pub use stats::stats;
pub use status::{gpus, scanned, status};
pub use top::top;
pub use usage::{gpu_usage, usage, waits};

use comfy_table::{CellAlignment, ContentArrangement, TableComponent, presets};
use jiff::Timestamp;
use std::borrow::Cow;
use unicode_truncate::UnicodeTruncateStr;
use unicode_width::UnicodeWidthStr;

/// What the mark of a GPU time means.
const ESTIMATE: &str = "~ partly an estimate: while several sessions work on one GPU at once, its time is split by their time slices\n";

/// What is written to.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Columns and lines; `None` if it is no terminal, and lines may be of any length.
    size: Option<(u16, u16)>,
    /// It can show lines and not only ASCII.
    unicode: bool,
}

impl Screen {
    /// The standard output as it is now.
    pub fn now() -> Self {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            size: size
                .filter(|size| size.ws_col > 0 && size.ws_row > 0)
                .map(|size| (size.ws_col, size.ws_row)),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// The text in place of what a terminal shows now, as much as fits.
    pub fn repaint(self, text: &str) -> String {
        let Some((columns, rows)) = self.size else {
            return format!("{text}\n");
        };
        let rows = usize::from(rows).saturating_sub(1);
        let all = text.lines().count();
        let shown = if all > rows { rows.saturating_sub(1) } else { all };
        let mut painted = "\x1b[H".to_owned();
        for line in text.lines().take(shown) {
            // A line that is shorter than what was there leaves none of it.
            painted += &format!("{}\x1b[K\n", self.cut(line, columns.into()));
        }
        if shown < all {
            painted += &format!("... and {} more lines\x1b[K\n", all - shown);
        }
        painted + "\x1b[J"
    }

    /// A table; a column whose name begins with '>' is aligned to the right.
    pub fn table(self, columns: &[&'static str]) -> Table {
        Table {
            screen: self,
            columns: columns.to_owned(),
            rows: Vec::new(),
            is_prose: false,
        }
    }

    /// Cells beside each other, without a header; what is too long goes on below.
    fn row(self, cells: &[String]) -> String {
        let mut table = self.bare();
        self.let_flow(&mut table);
        table.add_row(cells);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt() + "\n"
    }

    fn bare(self) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING);
        table
    }

    /// Has what is too long go on below.
    fn let_flow(self, table: &mut comfy_table::Table) {
        if let Some((columns, _)) = self.size {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
    }

    /// The same, with room for so many columns before it.
    fn indented(self, by: u16) -> Self {
        let size = self
            .size
            .map(|(columns, rows)| (columns.saturating_sub(by), rows));
        Self { size, ..self }
    }

    /// As much of a line as fits, marked where something is left out.
    fn cut(self, line: &str, columns: usize) -> Cow<'_, str> {
        if line.width() <= columns {
            return line.into();
        }
        let mark = if self.unicode { "…" } else { ".." };
        let mark = mark.unicode_truncate(columns).0;
        let (kept, _) = line.unicode_truncate(columns - mark.width());
        format!("{}{mark}", kept.trim_end()).into()
    }
}

/// A table that fits the screen: lines of the widest column are cut until it does, and none is ever broken.
pub struct Table {
    screen: Screen,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    is_prose: bool,
}

impl Table {
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// With what is too long going on below instead: for prose.
    fn prose(self) -> Self {
        Self {
            is_prose: true,
            ..self
        }
    }

    /// Its lines, without the blanks that fill them.
    pub fn written(&self) -> String {
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|name| name.trim_start_matches('>').to_owned())
            .collect();
        let widths = self.widths(&header);
        let cut = |cells: &[String]| {
            let cells = cells.iter().zip(&widths);
            let cut = cells.map(|(cell, width)| {
                let lines = cell.split('\n').map(|line| self.screen.cut(line, *width));
                lines.collect::<Vec<_>>().join("\n")
            });
            cut.collect::<Vec<_>>()
        };
        let mut table = self.screen.bare();
        if self.is_prose {
            self.screen.let_flow(&mut table);
        }
        let line = if self.screen.unicode { '─' } else { '-' };
        table.set_style(TableComponent::HeaderLines, line);
        table.set_style(TableComponent::MiddleHeaderIntersections, line);
        table.set_header(cut(&header));
        for row in &self.rows {
            table.add_row(cut(row));
        }
        for (column, name) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, 1));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt() + "\n"
    }

    /// How wide each column may be.
    fn widths(&self, header: &[String]) -> Vec<usize> {
        let mut widths = vec![0; self.columns.len()];
        for cells in std::iter::once(header).chain(self.rows.iter().map(Vec::as_slice)) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.split('\n').map(str::width).fold(*width, usize::max);
            }
        }
        let Some((columns, _)) = self.screen.size.filter(|_| !self.is_prose) else {
            return widths;
        };
        // A blank behind each, and one between two.
        let blanks = (2 * widths.len()).saturating_sub(1);
        let room = usize::from(columns).saturating_sub(blanks);
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().max() {
                Some(widest) if *widest > 1 => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// What an edit changed or would change.
pub fn changes(changes: &[String], dry_run: bool) -> String {
    match (changes, dry_run) {
        ([], _) => "nothing to change: it is so already\n".to_owned(),
        (lines, true) => format!("would change (dry run):\n  {}\n", lines.join("\n  ")),
        (lines, false) => lines.join("\n") + "\n",
    }
}

/// A text from a guest, which may be meant to do something to a terminal.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars() {
        match char {
            // They do nothing to a terminal.
            '"' | '\'' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    shown
}

/// A number with as many digits as say something.
fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        100_000..10_000_000 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

/// Bytes with as many digits as say something.
fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        1..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A moment, from seconds since 1970, in UTC.
fn moment(seconds: u64) -> String {
    let moment = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or("-".to_owned(), |moment| moment.to_string())
}

/// A short time, in at most six characters: nine of them fit on a line.
pub fn latency(microseconds: u64) -> String {
    let us = microseconds as f64;
    match microseconds {
        0..1000 => format!("{microseconds}us"),
        1000..99_950 => format!("{:.1}ms", us / 1e3),
        99_950..999_500 => format!("{:.0}ms", us / 1e3),
        999_500..99_950_000 => format!("{:.1}s", us / 1e6),
        _ => format!("{:.0}s", us / 1e6),
    }
}

/// A time in its two largest units.
fn duration(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    match seconds {
        0 => format!("{:.1} ms", microseconds as f64 / 1e3),
        1..60 => format!("{:.1} s", microseconds as f64 / 1e6),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const SCREEN: Screen = Screen {
        size: Some((80, 24)),
        unicode: true,
    };
    pub const PLAIN: Screen = Screen {
        size: None,
        unicode: false,
    };

    /// Lines fit a terminal of the usual width, but for footnotes.
    #[track_caller]
    pub fn fits(text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('~')) {
            assert!(line.chars().count() <= 80, "{line}\n{text}");
        }
    }

    #[test]
    fn a_terminal_is_painted_over_with_what_fits() {
        let text: String = (1..=30).map(|line| format!("{line}\n")).collect();
        let painted = SCREEN.repaint(&text);
        assert_eq!(painted.lines().count(), 24);
        assert!(
            painted.contains("22\x1b[K\n... and 8 more lines\x1b[K\n\x1b[J"),
            "{painted:?}"
        );
        assert!(!SCREEN.repaint("1\n").contains("more"));
        assert_eq!(PLAIN.repaint("1\n"), "1\n\n");
    }

    /// The widest column is cut, however many lines its cells have, and no line is broken.
    #[test]
    fn a_table_fits_the_screen() {
        let table = |screen: Screen| {
            let mut table = screen.table(&["GPU", ">turns", "doing"]);
            table.add_row([
                "GPU-76677075-736f-6674".into(),
                "99999".into(),
                "a: runs\nb: waits".into(),
            ]);
            table.written()
        };
        let of_width = |columns| Screen {
            size: Some((columns, 24)),
            ..SCREEN
        };
        let cut = "\
GPU             turns  doing
────────────────────────────────
GPU-76677075-…  99999  a: runs
                       b: waits
";
        assert_eq!(table(of_width(32)), cut);
        let narrower = table(of_width(24));
        assert!(
            narrower.contains("GPU-76…  99999  a: runs\n                b: wai…\n"),
            "{narrower}"
        );
        for columns in 1..60 {
            let text = table(of_width(columns));
            assert_eq!(text.lines().count(), 4, "{text}");
            // Below this there is no room for the blanks.
            if columns >= 8 {
                assert!(
                    text.lines().all(|line| line.width() <= columns.into()),
                    "{columns}\n{text}"
                );
            }
        }
        // What is no terminal may have lines of any length.
        assert!(table(PLAIN).contains("GPU-76677075-736f-6674  99999  a: runs\n"));
        assert!(
            table(Screen {
                unicode: false,
                ..of_width(32)
            })
            .contains("GPU-76677075..  99999")
        );
        // Wide characters take two columns.
        assert_eq!(SCREEN.cut("漢漢漢", 5), "漢漢…");
        assert_eq!(
            (SCREEN.cut("漢漢漢", 6), SCREEN.cut("ab", 1)),
            ("漢漢漢".into(), "…".into())
        );
        // On a screen that is painted over, what is no table is cut as well.
        assert!(of_width(8).repaint("0123456789\n").contains("0123456…\x1b[K\n"));
    }

    #[test]
    fn times_and_counts_are_short() {
        let times = [0, 1500, 59_900_000, 61_000_000, 7_265_000_000, 200_000_000_000].map(duration);
        assert_eq!(times, ["0.0 ms", "1.5 ms", "59.9 s", "1m01s", "2h01m", "2d07h"]);
        assert_eq!([99_999, 100_000, 10_000_000].map(count), ["99999", "100k", "10M"]);
        let latencies = [
            0,
            999,
            99_949,
            99_950,
            999_499,
            999_500,
            99_949_999,
            3_600_000_000,
        ]
        .map(latency);
        assert_eq!(
            latencies,
            [
                "0us", "999us", "99.9ms", "100ms", "999ms", "1.0s", "99.9s", "3600s"
            ]
        );
        assert_eq!(
            [0, 1, 1 << 20, (1 << 30) - 1, 3 << 29].map(bytes),
            ["0", "1 KiB", "1 MiB", "1023 MiB", "1.5 GiB"]
        );
        assert_eq!(moment(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(moment(u64::MAX), "-");
    }
}
