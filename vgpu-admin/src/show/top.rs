//! The live screen.
use super::status::{
    about, headline, index, model, pools, power, programs, queue, state, temperature, utilisation, wrong,
};
use super::{latency, printable};
use crate::top::{Row, Sort, Top};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table};
use vgpu_sched_api::messages::GpuStatus;

/// Characters of the bar that shows how busy a GPU was.
const BAR: usize = 6;

/// Draws what is known.
pub fn top(top: &mut Top, frame: &mut Frame<'_>) {
    let status = &top.now().status;
    let lines = frame.area().height;
    // A row each, with a header; where there are many of them, VMs get their half.
    let gpus = u16::try_from(status.gpus.len() + 1)
        .unwrap_or(u16::MAX)
        .min(lines / 2);
    let [head, _, gpu_area, _, vm_area, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(gpus),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(top)), head);
    frame.render_widget(gpu_table(top), gpu_area);
    let room = usize::from(vm_area.height.saturating_sub(1));
    let first = top.first(room);
    let rows = top.rows();
    let shown = first..rows.len().min(first + room);
    frame.render_widget(vm_table(top.sort, &rows[shown.clone()]), vm_area);
    let place = match rows.len() {
        0 => "no VM yet".to_owned(),
        count => format!("VM {}-{} of {count}", shown.start + 1, shown.end),
    };
    frame.render_widget(keys(&place), foot);
}

fn marked() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// What vgpud is, and what is wrong with it or its pools.
fn heading(top: &Top) -> Text<'static> {
    let status = &top.now().status;
    let wrong = match (top.gone(), wrong(status).as_slice()) {
        (Some(why), _) => Line::styled(
            format!("NO ANSWER, last known state: {}", printable(why)),
            marked(),
        ),
        (None, []) => Line::default(),
        (None, [one]) => Line::styled(one.clone(), marked()),
        (None, [first, others @ ..]) => {
            Line::styled(format!("{first} (and {} more)", others.len()), marked())
        }
    };
    Text::from(vec![Line::raw(headline(status)), wrong])
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Text::raw(text.into()).right_aligned())
}

/// Thousandths as a percentage.
fn percent(share: Option<u64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{}.{}%", share / 10, share % 10))
}

fn gpu_table(top: &Top) -> Table<'static> {
    let row = |gpu: &GpuStatus| {
        let busy = top.busy(&gpu.uuid);
        let full = usize::try_from(busy.unwrap_or(0)).unwrap_or(0) * BAR / 1000;
        let stats = &top.now().stats.gpus;
        let waiting = stats.iter().find(|stats| stats.uuid == gpu.uuid);
        Cells::new([
            right(index(gpu)),
            Cell::from(printable(model(gpu))),
            Cell::from(format!("[{:BAR$}]", "|".repeat(full))),
            right(percent(busy)),
            // Room is short here.
            right(utilisation(gpu).replace(' ', "")),
            right(temperature(gpu).replace(' ', "")),
            right(power(gpu).replace(' ', "")),
            right(waiting.map_or("-".to_owned(), |stats| stats.waiting.to_string())),
            Cell::from(state(gpu)),
            Cell::from(printable(&pools(gpu))),
        ])
    };
    let header = [
        right("GPU"),
        Cell::from("model"),
        Cell::from("busy"),
        right(""),
        right("use"),
        right("temp"),
        right("power"),
        right("wait"),
        Cell::from("state"),
        Cell::from("pools"),
    ];
    let widths = [
        Constraint::Length(3),
        Constraint::Max(21),
        Constraint::Length(BAR as u16 + 2),
        Constraint::Length(6),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Length(4),
        Constraint::Length(10),
        Constraint::Fill(1),
    ];
    Table::new(top.now().status.gpus.iter().map(row), widths).header(Cells::new(header).style(marked()))
}

fn vm_table(sort: Sort, rows: &[Row<'_>]) -> Table<'static> {
    let row = |row: &Row<'_>| {
        let waited = |read: fn(&vgpu_sched_api::messages::Percentiles) -> u64| {
            let wait = row.stats.map(|stats| stats.wait).filter(|wait| wait.count > 0);
            right(wait.map_or("-".to_owned(), |wait| latency(read(&wait))))
        };
        let doing = match row.vm.quarantine {
            Some(_) => [about(row.vm), programs(row.vm)].concat(),
            None => [programs(row.vm), about(row.vm)].concat(),
        };
        Cells::new([
            right(row.vm.vm.to_string()),
            Cell::from(printable(row.pool.unwrap_or("-"))),
            Cell::from(row.vm.priority.to_string()),
            right(percent(row.share)),
            right(queue(row.vm)),
            waited(|wait| wait.p50),
            waited(|wait| wait.p99),
            Cell::from(doing.join(", ")),
        ])
    };
    // The column that they are sorted by is marked.
    let mark = |of: Sort, name: &str| match of == sort {
        true => format!("{name}*"),
        false => name.to_owned(),
    };
    let header = [
        right(mark(Sort::Vm, "VM")),
        Cell::from("pool"),
        Cell::from(mark(Sort::Priority, "priority")),
        right(mark(Sort::Share, "GPU")),
        right(mark(Sort::Queue, "queue")),
        right("wait p50"),
        right(mark(Sort::Wait, "p99")),
        Cell::from("doing"),
    ];
    let widths = [
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    Table::new(rows.iter().map(row), widths).header(Cells::new(header).style(marked()))
}

fn keys(place: &str) -> Paragraph<'static> {
    let sorts = Sort::ALL.map(|(key, _, name)| format!("{key} {name}"));
    Paragraph::new(format!("q quit, sort by: {}  {place}", sorts.join(", "))).style(marked())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::tests::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyModifiers};
    use vgpu_client::failure::{Failure, Kind};

    /// What is on a terminal of that size, line by line.
    fn drawn(known: &mut Top, (columns, lines): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| top(known, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..lines).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn two_samples() -> Top {
        let mut known = Top::new(sample(1000, 0));
        known.add(Ok(sample(2000, 500)));
        known
    }

    #[test]
    fn all_is_on_a_small_terminal() {
        let screen = drawn(&mut two_samples(), (80, 24));
        let expected = "\
vgpud 0.1.0, up 1d03h, pool map /etc/vgpu/pools.toml
DEGRADED: pool A: its GPU GPU-None is missing (and 1 more)

GPU model                 busy             use temp power wait state      pools
  0 NVIDIA H100 80GB HBM3 [|||   ]  55.0%  87%  41C  312W    3 ready      A
  - NVIDIA H100 80GB HBM3 [      ]      -    -    -     -    - MISSING    A

   VM pool     priority    GPU*    queue wait p50    p99 doing
    3 A        high       50.0%    12/64     20us  1.5ms quarantined, 2 violatio
    9 A        low         5.0%    60/64     20us   2.0s saxpy: running, evil\\u{
   12 -        high           -    12/64        -      - quarantined, 2 violatio";
        assert_eq!(screen[..11].join("\n"), expected, "{screen:#?}");
        assert_eq!(
            screen[23],
            "q quit, sort by: g GPU, v VM, p priority, u queue, w wait  VM 1-3 of 3"
        );
    }

    /// However small, and whichever VMs are shown.
    #[test]
    fn it_fits_what_terminal_there_is() {
        let mut known = two_samples();
        for size in [(80, 24), (200, 60), (40, 10), (20, 5), (1, 1)] {
            assert_eq!(drawn(&mut known, size).len(), usize::from(size.1));
        }
        known.key(ratatui::crossterm::event::KeyEvent::new(
            KeyCode::Down,
            KeyModifiers::NONE,
        ));
        let screen = drawn(&mut known, (80, 10));
        assert!(
            screen[7].trim_start().starts_with("9 A") || screen[8].trim_start().starts_with("9 A"),
            "{screen:#?}"
        );
        assert!(screen[9].contains("VM 2-"), "{screen:#?}");
        assert!(
            drawn(&mut known, (200, 24))
                .iter()
                .any(|line| line.contains("not on the GPU, c: waiting"))
        );
    }

    #[test]
    fn a_vgpud_that_is_gone_is_told_of_with_what_was_known() {
        let mut known = two_samples();
        known.add(Err(Failure::new(Kind::Unreachable, "vgpud cannot be reached")));
        let screen = drawn(&mut known, (80, 24));
        assert_eq!(screen[1], "NO ANSWER, last known state: vgpud cannot be reached");
        assert!(screen[8].contains("50.0%"), "{screen:#?}");
    }
}
