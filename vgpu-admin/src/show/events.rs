//! What happened, and the turns that were given.
use super::{Screen, duration, latency, moment, printable};
use vgpu_sched_api::messages::{CallRecord, EventRecord, TurnRecord};

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
            priority(turn),
            turn.session.to_string(),
            duration(turn.waited_us),
            turn.held_us.map_or("so far".to_owned(), duration),
            printable(turn.end.as_deref().unwrap_or("-")),
            turn.gpu.clone(),
        ]);
    }
    table.written()
}

/// The VM's priority, and what came first in its place if that was something else.
fn priority(turn: &TurnRecord) -> String {
    let own = turn.priority;
    match turn.level {
        Some(level) if level == own => own.to_string(),
        Some(level) => format!("{own}, as {level}"),
        None => format!("{own} ({})", turn.policy),
    }
}

/// What happened, the oldest first, some lines each; with the last calls of the session if they are wanted.
pub fn events(events: &[EventRecord], calls: bool, screen: Screen) -> String {
    events.iter().map(|event| one(event, calls, screen)).collect()
}

fn one(event: &EventRecord, calls: bool, screen: Screen) -> String {
    let vm = event.vm.map_or(String::new(), |vm| format!("VM {vm} "));
    let mut said = format!("{vm}{}: {}", event.kind, printable(&event.message));
    let session = event.session.map(|session| format!("session {session}"));
    let gpus = event
        .gpu
        .as_deref()
        .map(|gpus| printable(gpus).replace(',', ", "));
    let place: Vec<String> = session.into_iter().chain(gpus).collect();
    if !place.is_empty() {
        said += &format!("\n{}", place.join(", "));
    }
    let mut text = screen.row(&[event.number.to_string(), moment(event.at_s), said]);
    if calls && !event.calls.is_empty() {
        text += &indented(&call_table(&event.calls, screen.indented(4)));
    }
    text
}

fn call_table(calls: &[CallRecord], screen: Screen) -> String {
    let mut table = screen.table(&["call", ">before", ">took", ">thread"]);
    for call in calls {
        table.add_row([
            printable(&call.name),
            latency(call.before_us),
            call.took_us.map_or("so far".to_owned(), latency),
            call.ring.to_string(),
        ]);
    }
    table.written()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, SCREEN, fits};
    use super::*;
    use vgpu_client::fixture::event;
    use vgpu_sched_api::messages::{EventKind, Policy, Priority};

    #[test]
    fn a_turn_has_its_vms_priority_and_what_counted_instead() {
        let turn = |policy, level| TurnRecord {
            number: 1,
            vm: 3,
            session: 1,
            gpu: "GPU-0".to_owned(),
            priority: Priority::Low,
            policy,
            level,
            granted_us: 1_000_000,
            waited_us: 20_000,
            held_us: None,
            end: None,
        };
        let all = [
            turn(Policy::Priority, Some(Priority::Low)),
            turn(Policy::Priority, Some(Priority::Medium)),
            turn(Policy::Weighted, None),
        ];
        let shown = turns(&all, PLAIN);
        let rows: Vec<&str> = shown.lines().skip(2).collect();
        for (row, told) in rows.iter().zip(["low     ", "low, as medium", "low (weighted)"]) {
            assert!(row.contains(told), "{shown}");
        }
    }

    #[test]
    fn an_event_is_a_line_and_its_calls_a_table() {
        let line = [
            "1  2023-11-14T22:13:20Z  VM 3 ended: a kernel of \\u{1b}[2J ran too long\n",
            "                         session 7, GPU-0\n",
        ]
        .concat();
        assert_eq!(events(&[event(1)], false, SCREEN), line);
        let long = EventRecord {
            message: "it ran ".repeat(20),
            gpu: Some(["GPU-76677075-736f-6674-8000-0000ba646770"; 2].join(",")),
            ..event(1)
        };
        fits(&events(&[long], false, SCREEN));
        let with_calls = events(&[event(1), event(2)], true, SCREEN);
        fits(&with_calls);
        let table = [
            "    call                 before    took  thread\n",
            "    ────────────────────────────────────────────\n",
            "    cuLaunchKernel         2.5s    12us       3\n",
            "    cuStreamSynchronize    2.5s  so far       3\n",
        ]
        .concat();
        assert!(
            with_calls.starts_with(&format!("{line}{table}2  2023-")),
            "{with_calls}"
        );
        assert!(events(&[event(1)], true, PLAIN).is_ascii());
        let of_the_host = EventRecord {
            vm: None,
            session: None,
            gpu: None,
            kind: EventKind::GpuChanged,
            message: "it came".to_owned(),
            ..event(9)
        };
        assert_eq!(
            events(&[of_the_host], false, SCREEN),
            "9  2023-11-14T22:13:20Z  gpu changed: it came\n"
        );
    }
}
