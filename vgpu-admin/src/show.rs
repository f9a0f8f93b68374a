//! What people are shown.
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;
use vgpu_sched_api::messages::{
    GpuState, GpuStatus, PoolStatus, SessionStatus, Status, TurnRecord, VmStatus,
};

/// Sessions of a VM that are shown at most.
const SESSIONS_MAX: usize = 3;

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
        let Some((_, rows)) = self.size else {
            return format!("{text}\n");
        };
        let rows = usize::from(rows).saturating_sub(1);
        let all = text.lines().count();
        let shown = if all > rows { rows.saturating_sub(1) } else { all };
        let mut painted = "\x1b[H".to_owned();
        for line in text.lines().take(shown) {
            // A line that is shorter than what was there leaves none of it.
            painted += &format!("{line}\x1b[K\n");
        }
        if shown < all {
            painted += &format!("... and {} more lines\x1b[K\n", all - shown);
        }
        painted + "\x1b[J"
    }

    /// A table; a column whose name begins with '>' is aligned to the right.
    fn table(self, columns: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(match self.unicode {
            true => presets::UTF8_FULL_CONDENSED,
            false => presets::ASCII_FULL_CONDENSED,
        });
        if let Some((columns, _)) = self.size {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
        table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
        for (column, name) in table.column_iter_mut().zip(columns) {
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
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

/// The GPUs after a look for them.
pub fn scanned(gpus: &[GpuStatus], appeared: &[String], vanished: &[String], screen: Screen) -> String {
    let mut text = String::new();
    if gpus.is_empty() {
        text += "There is no GPU.\n";
    } else {
        text += &gpu_table(gpus, true, screen);
    }
    for (uuids, what) in [(appeared, "new"), (vanished, "gone")] {
        for uuid in uuids {
            text += &format!("{what}: {uuid}\n");
        }
    }
    let free = gpus.iter().find(|gpu| gpu.state == GpuState::Unassigned);
    if let Some(index) = free.and_then(|gpu| gpu.index) {
        text += &format!("A GPU can serve a pool: vgpu-admin assign-gpu --gpu-id {index} --pool NAME\n");
    }
    text
}

/// Everything on one screen.
pub fn status(status: &Status, screen: Screen) -> String {
    let mut text = format!(
        "vgpud {}, up {}, pool map {}\n",
        status.version,
        duration(status.uptime_s.saturating_mul(1_000_000)),
        status.config
    );
    for line in &status.degraded {
        text += &format!("DEGRADED: {line}\n");
    }
    text += "\n";
    if status.gpus.is_empty() {
        text += "There is no GPU.\n";
    } else {
        text += &gpu_table(&status.gpus, false, screen);
    }
    for pool in &status.pools {
        text += "\n";
        text += &pool_text(pool, &status.gpus, screen);
    }
    if status.pools.is_empty() {
        text += "\nThere is no pool yet: vgpu-admin assign-gpu --gpu-id 0 --pool NAME makes one\n";
    }
    text
}

/// The turns, the oldest first.
pub fn turns(turns: &[TurnRecord], screen: Screen) -> String {
    if turns.is_empty() {
        return "No turn was given since vgpud started.\n".to_owned();
    }
    let mut table = screen.table(&[
        ">turn", ">at", ">VM", "priority", ">session", ">waited", ">held", "ended by", "GPU",
    ]);
    for turn in turns {
        table.add_row([
            turn.number.to_string(),
            duration(turn.granted_us),
            turn.vm.to_string(),
            turn.priority.to_string(),
            turn.session.to_string(),
            duration(turn.waited_us),
            turn.held_us.map_or("so far".to_owned(), duration),
            printable(turn.end.as_deref().unwrap_or("-")),
            turn.gpu.clone(),
        ]);
    }
    format!("{table}\n")
}

fn gpu_table(gpus: &[GpuStatus], uuids: bool, screen: Screen) -> String {
    let mut columns = vec![
        ">GPU",
        "model",
        ">memory",
        "PCI address",
        "state",
        "pools",
        ">sessions",
    ];
    if uuids {
        columns.push("UUID");
    }
    let mut table = screen.table(&columns);
    for gpu in gpus {
        let mut row = vec![
            gpu.index.map_or("-".to_owned(), |index| index.to_string()),
            // One that is missing has nothing else to tell it by.
            match gpu.model.is_empty() && !uuids {
                true => gpu.uuid.clone(),
                false => gpu.model.clone(),
            },
            match gpu.memory {
                0 => "-".to_owned(),
                bytes => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            },
            match gpu.pci.as_str() {
                "" => "-".to_owned(),
                pci => pci.to_owned(),
            },
            match gpu.state {
                GpuState::Ready => "ready",
                GpuState::Unassigned => "unassigned",
                GpuState::Missing => "MISSING",
            }
            .to_owned(),
            match gpu.pools.as_slice() {
                [] => "-".to_owned(),
                pools => pools.join(", "),
            },
            gpu.sessions.to_string(),
        ];
        if uuids {
            row.push(gpu.uuid.clone());
        }
        table.add_row(row);
    }
    format!("{table}\n")
}

fn pool_text(pool: &PoolStatus, gpus: &[GpuStatus], screen: Screen) -> String {
    let indices: Vec<String> = gpus
        .iter()
        .filter(|gpu| pool.gpus.contains(&gpu.uuid))
        .map(|gpu| {
            gpu.index
                .map_or("a missing one".to_owned(), |index| index.to_string())
        })
        .collect();
    let mut text = format!("Pool {}: ", pool.name);
    let _ = match indices.as_slice() {
        [] => write!(text, "no GPU"),
        [one] => write!(text, "GPU {one}"),
        many => write!(text, "GPUs {}", many.join(", ")),
    };
    if pool.ranges.is_empty() {
        let name = &pool.name;
        text += &format!(", no VM yet: vgpu-admin register-vm --vm-id VM --pool {name}\n");
        return text;
    }
    text += &format!(", VMs {}\n", pool.ranges.join(", "));
    if pool.vms.is_empty() {
        text += "  None of them has a backend yet.\n";
        return text;
    }
    let mut table = screen.table(&[
        ">VM",
        "priority",
        ">weight",
        ">queue",
        ">calls",
        ">turns",
        ">GPU time",
        "doing",
    ]);
    for vm in &pool.vms {
        table.add_row([
            vm.vm.to_string(),
            vm.priority.to_string(),
            vm.weight.to_string(),
            match vm.queue_depth {
                Some(depth) => format!("{}/{depth}", vm.queued),
                None => vm.queued.to_string(),
            },
            count(vm.calls),
            count(vm.turns),
            // An estimate is marked.
            format!(
                "{}{}",
                if vm.estimated { "~" } else { "" },
                duration(vm.gpu_microseconds)
            ),
            doing(vm),
        ]);
    }
    format!("{text}{table}\n")
}

fn doing(vm: &VmStatus) -> String {
    if vm.sessions.is_empty() {
        return if vm.connected { "nothing" } else { "no backend" }.to_owned();
    }
    let one = |session: &SessionStatus| {
        let program = session.program.rsplit('/').next().unwrap_or_default();
        let state = match session.state.as_str() {
            "out" => "not on the GPU",
            "asked" => "giving back",
            state => state,
        };
        format!("{}: {}", printable(program), printable(state))
    };
    let mut shown: Vec<String> = vm.sessions.iter().take(SESSIONS_MAX).map(one).collect();
    if vm.sessions.len() > SESSIONS_MAX {
        shown.push(format!("and {} more", vm.sessions.len() - SESSIONS_MAX));
    }
    shown.join(", ")
}

/// A text from a guest, which may be meant to do something to a terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

/// A number with as many digits as say something.
fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        100_000..10_000_000 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

/// A time in its two largest units.
fn duration(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    match seconds {
        0 => format!("{:.1} ms", microseconds as f64 / 1e3),
        1..60 => format!("{:.1} s", microseconds as f64 / 1e6),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
