//! What people are shown.
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{
    GpuState, GpuStatus, PoolStatus, SessionStatus, Status, TurnRecord, VmStatus,
};

/// Sessions of a VM that are shown at most.
const SESSIONS_MAX: usize = 3;
/// Characters of a program's name that are shown at most.
const PROGRAM_MAX: usize = 20;

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
        let line = if self.unicode { '─' } else { '-' };
        table.load_preset(presets::NOTHING);
        table.set_style(TableComponent::HeaderLines, line);
        table.set_style(TableComponent::MiddleHeaderIntersections, line);
        if let Some((columns, _)) = self.size {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
        table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
        for (column, name) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 1));
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
        text += &gpu_names(gpus, screen);
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
        text += &gpu_table(&status.gpus, screen);
    }
    for pool in &status.pools {
        text += "\n";
        text += &pool_text(pool, &status.gpus, screen);
    }
    if status
        .pools
        .iter()
        .flat_map(|pool| &pool.vms)
        .any(|vm| vm.estimated)
    {
        text += "~ partly an estimate: when VMs of several priorities run at once, their time is split by time slice\n";
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
    written(&table)
}

fn gpu_table(gpus: &[GpuStatus], screen: Screen) -> String {
    let columns = [
        ">GPU",
        "model",
        ">memory",
        "PCI address",
        "state",
        "pools",
        ">sessions",
    ];
    let mut table = screen.table(&columns);
    for gpu in gpus {
        // One that was never seen has nothing else to tell it by.
        let model = if gpu.model.is_empty() {
            &gpu.uuid
        } else {
            &gpu.model
        };
        table.add_row([
            index(gpu),
            model.clone(),
            memory(gpu),
            pci(gpu),
            state(gpu),
            match gpu.pools.as_slice() {
                [] => "-".to_owned(),
                pools => pools.join(", "),
            },
            gpu.sessions.to_string(),
        ]);
    }
    written(&table)
}

/// With the names that GPUs have besides their index.
fn gpu_names(gpus: &[GpuStatus], screen: Screen) -> String {
    let mut table = screen.table(&[">GPU", "model, UUID", ">memory", "PCI address", "state"]);
    for gpu in gpus {
        let names = format!("{}\n{}", gpu.model, gpu.uuid);
        table.add_row([
            index(gpu),
            names.trim_start().to_owned(),
            memory(gpu),
            pci(gpu),
            state(gpu),
        ]);
    }
    written(&table)
}

/// A table's lines, without the blanks that fill them.
fn written(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

fn index(gpu: &GpuStatus) -> String {
    gpu.index.map_or("-".to_owned(), |index| index.to_string())
}

fn memory(gpu: &GpuStatus) -> String {
    match gpu.memory {
        0 => "-".to_owned(),
        bytes => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

fn pci(gpu: &GpuStatus) -> String {
    match gpu.pci.split_once(':') {
        None => "-".to_owned(),
        // NVML writes a domain of eight digits, everybody else one of four.
        Some((domain, rest)) if domain.len() == 8 && domain.starts_with("0000") => {
            format!("{}:{rest}", &domain[4..])
        }
        Some(_) => gpu.pci.clone(),
    }
}

fn state(gpu: &GpuStatus) -> String {
    let state = match gpu.state {
        GpuState::Ready => "ready",
        GpuState::Unassigned => "free",
        GpuState::Missing => "MISSING",
        GpuState::Divided => "divided",
    };
    state.to_owned()
}

fn pool_text(pool: &PoolStatus, gpus: &[GpuStatus], screen: Screen) -> String {
    let mut text = format!("Pool {}: {}", pool.name, gpus_text(pool, gpus));
    if pool.ranges.is_empty() {
        let name = &pool.name;
        text += &format!(", no VM yet: vgpu-admin register-vm --vm-id VM --pool {name}\n");
        return text;
    }
    text += &format!(", VMs {}\n", pool.ranges.join(", "));
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
    let others = others(pool);
    if !others.is_empty() {
        let nothing = || "-".to_owned();
        table.add_row([
            others,
            vgpu_pool_map::DEFAULT_PRIORITY.to_string(),
            vgpu_pool_map::DEFAULT_WEIGHT.to_string(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            "never started".to_owned(),
        ]);
    }
    text + &written(&table)
}

/// "GPU 0", "GPUs 0, 1 (and 1 that is missing)".
fn gpus_text(pool: &PoolStatus, gpus: &[GpuStatus]) -> String {
    let own = gpus.iter().filter(|gpu| pool.gpus.contains(&gpu.uuid));
    let there: Vec<String> = own.filter_map(|gpu| Some(gpu.index?.to_string())).collect();
    let missing = pool.gpus.len() - there.len().min(pool.gpus.len());
    let text = match there.as_slice() {
        [] => "no GPU".to_owned(),
        [one] => format!("GPU {one}"),
        many => format!("GPUs {}", many.join(", ")),
    };
    match missing {
        0 => text,
        1 => text + " (and 1 that is missing)",
        many => format!("{text} (and {many} that are missing)"),
    }
}

/// The VMs of a pool that have no line of their own: nothing is set for them, and none was ever started.
fn others(pool: &PoolStatus) -> String {
    let mut others: Vec<VmRange> = pool
        .ranges
        .iter()
        .filter_map(|range| range.parse().ok())
        .collect();
    for vm in &pool.vms {
        others = others
            .iter()
            .flat_map(|range| range.without(vm.vm.into()))
            .collect();
    }
    let others: Vec<String> = others.iter().map(VmRange::to_string).collect();
    others.join(", ")
}

fn doing(vm: &VmStatus) -> String {
    if vm.sessions.is_empty() {
        return if vm.connected { "nothing" } else { "no backend" }.to_owned();
    }
    let one = |session: &SessionStatus| {
        let program = session.program.rsplit('/').next().unwrap_or_default();
        let program: String = printable(program).chars().take(PROGRAM_MAX).collect();
        let state = match session.state.as_str() {
            "out" => "not on the GPU",
            "asked" => "giving back",
            state => state,
        };
        format!("{program}: {}", printable(state))
    };
    let mut shown: Vec<String> = vm.sessions.iter().take(SESSIONS_MAX).map(one).collect();
    if vm.sessions.len() > SESSIONS_MAX {
        shown.push(format!("and {} more", vm.sessions.len() - SESSIONS_MAX));
    }
    shown.join("\n")
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
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched_api::messages::Priority;

    const SCREEN: Screen = Screen {
        size: Some((80, 24)),
        unicode: true,
    };
    const PLAIN: Screen = Screen {
        size: None,
        unicode: false,
    };

    fn session(program: &str, state: &str) -> SessionStatus {
        SessionStatus {
            session: 1,
            pid: 2,
            program: program.to_owned(),
            state: state.to_owned(),
            gpus: Vec::new(),
            queued: 0,
            calls: 0,
        }
    }

    fn vm(number: u32) -> VmStatus {
        VmStatus {
            vm: number,
            connected: true,
            priority: Priority::High,
            weight: 100,
            aging_ms: 1000,
            queue_depth: Some(64),
            queued: 12,
            calls: 123_456_789,
            turns: 99_999,
            gpu_microseconds: 7_265_000_000,
            estimated: true,
            sessions: vec![
                session("/usr/bin/saxpy", "running"),
                session("evil\x1b[2J", "out"),
                session("c", "waiting"),
                session("d", "waiting"),
                session("e", "idle"),
            ],
        }
    }

    fn host() -> Status {
        let gpu = |index, state| GpuStatus {
            index,
            uuid: format!("GPU-{index:?}"),
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            pci: "00000000:1B:00.0".to_owned(),
            driver: "580.159.04".to_owned(),
            memory: 85_520_809_984,
            state,
            pools: vec!["A".to_owned()],
            sessions: 5,
        };
        Status {
            schema_version: 2,
            version: "0.1.0".to_owned(),
            uptime_s: 100_000,
            config: "/etc/vgpu/pools.toml".to_owned(),
            degraded: vec!["pool A: its GPU GPU-None is missing".to_owned()],
            gpus: vec![gpu(Some(0), GpuState::Ready), gpu(None, GpuState::Missing)],
            pools: vec![PoolStatus {
                name: "A".to_owned(),
                gpus: vec!["GPU-Some(0)".to_owned(), "GPU-None".to_owned()],
                complete: false,
                ranges: vec!["1-7".to_owned(), "9".to_owned()],
                vms: vec![vm(3), vm(9)],
            }],
        }
    }

    #[test]
    fn all_is_on_one_screen() {
        let text = status(&host(), SCREEN);
        for line in text.lines().filter(|line| !line.starts_with('~')) {
            assert!(line.chars().count() <= 80, "{line}\n{text}");
        }
        for part in [
            "up 1d03h",
            "DEGRADED: pool A",
            "79.6 GiB",
            "MISSING",
            "Pool A: GPU 0 (and 1 that is missing), VMs 1-7, 9",
            "12/64",
            "123M",
            "~2h01m",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // Those without a line of their own.
        assert!(text.contains("\n1-2, 4-7  medium         1 "), "{text}");
        // Nothing is broken over lines that would fit.
        assert!(
            text.contains("NVIDIA H100 80GB HBM3  79.6 GiB  0000:1B:00.0  ready    A"),
            "{text}"
        );
    }

    /// A guest names its programs.
    #[test]
    fn a_guests_text_does_nothing_to_a_terminal() {
        let text = status(&host(), PLAIN);
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
        assert!(text.contains("evil\\u{1b}[2J: not on the GPU"), "{text}");
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

    #[test]
    fn times_and_counts_are_short() {
        let times = [0, 1500, 59_900_000, 61_000_000, 7_265_000_000, 200_000_000_000].map(duration);
        assert_eq!(times, ["0.0 ms", "1.5 ms", "59.9 s", "1m01s", "2h01m", "2d07h"]);
        assert_eq!([99_999, 100_000, 10_000_000].map(count), ["99999", "100k", "10M"]);
    }
}
