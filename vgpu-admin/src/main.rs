//! `vgpu-admin`: the operator's command line. A thin client of `vgpud`, which alone changes the pool map's file.
mod arguments;
mod doctor;
mod hook;
mod launch;
mod record;
mod replay;
mod services;
mod show;
mod told;
mod top;

use arguments::{Arguments, Change, Cloudstack, Command, Config, Events, Planned, Usage};
use clap::Parser;
use launch::Container;
use record::record;
use show::Screen;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use told::{Error, Told};
use vgpu_client::client::{Client, last, pages, unexpected};
use vgpu_client::failure::{DEGRADED, Failure, Kind};
use vgpu_client::statistics;
use vgpu_client::usage::{self as bill, Billed};
use vgpu_pool_map::{Assignable, PoolMap, VmRange};
use vgpu_sched_api::messages::{
    Answer, Change as Verb, ChangeRecord, Changed, EventRecord, GpuState, Request, Wanted, WantedUsage,
};

/// How often it is looked whether something happened.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(code) = vgpu_program::manual::if_asked::<Arguments>() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version, too, are told this way.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            let _ = error.print();
            if std::env::args().any(|argument| argument == "--json") {
                let message = what_is_wrong(&error.render().to_string());
                tell_json(&Failure::new(Kind::Usage, message).hint("`vgpu-admin help` shows the usage"));
            }
            return Kind::Usage.code().into();
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(failure) => {
            note(&format!("vgpu-admin: {}", failure.message));
            if let Some(hint) = &failure.hint {
                note(&format!("hint: {hint}"));
            }
            if arguments.json {
                tell_json(&failure);
            }
            failure.kind.code().into()
        }
    }
}

/// What the arguments' reader says is wrong, in a line: what it says first, without what it adds on usage.
fn what_is_wrong(told: &str) -> String {
    let first = told.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

/// Tells a program what failed.
fn tell_json(failure: &Failure) {
    let exit_code = failure.kind.code();
    let error = Error { exit_code, failure };
    // There is no one left to be told of a failure of this.
    let _ = print(&Told::Error { error }.json(true));
}

/// Tells the person or the program that asked.
fn say(arguments: &Arguments, told: &Told<'_>, text: impl FnOnce() -> String) -> Result<(), Failure> {
    print(&if arguments.json { told.json(true) } else { text() })
}

/// Writes a line to the standard error. Nobody need read it.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes to the standard output. Whoever reads it may stop doing so.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Failure::new(Kind::Failed, format!("the standard output: {error}"))),
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let connect = || {
        Ok::<_, Failure>(Client::connect(&arguments.socket)?.saying(|line| note(&format!("note: {line}"))))
    };
    if let Some(planned) = arguments.command.change() {
        let (dry_run, changed) = (planned.dry_run, change(&connect()?, planned)?);
        let told = Told::Changed {
            dry_run,
            changed: &changed,
        };
        say(arguments, &told, || show::changes(&changed.changes, dry_run))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &arguments.command {
        Command::ScanGpus => {
            let scanned = connect()?.scan()?;
            say(arguments, &Told::Scanned(&scanned), || {
                show::scanned(&scanned, Screen::now())
            })?;
        }
        Command::Status { gpus, again } => {
            let status = show(
                arguments,
                again.watch,
                Client::status,
                |status| Told::Status(status),
                if *gpus { show::gpus } else { show::status },
            )?;
            if !status.degraded.is_empty() {
                return Ok(DEGRADED.into());
            }
        }
        Command::Stats { prometheus: true, .. } => {
            not_json(arguments, "--prometheus", "stats")?;
            let client = connect()?;
            let text = statistics::prometheus(&client.status()?, &client.stats()?)
                .map_err(|error| Failure::new(Kind::Failed, format!("the statistics: {error}")))?;
            print(&text)?;
        }
        Command::Stats { again, .. } => {
            show(
                arguments,
                again.watch,
                Client::stats,
                |stats| Told::Stats(stats),
                show::stats,
            )?;
        }
        Command::Usage(wanted) => usage(arguments, wanted)?,
        Command::Turns { last: count, again } => {
            let read = |client: &Client| Ok(last(*count as usize, |from| client.turns(from))?.0);
            show(
                arguments,
                again.watch,
                read,
                |turns| Told::Turns { turns },
                |turns, screen| show::turns(turns, screen),
            )?;
        }
        Command::Events(wanted) => events(arguments, wanted)?,
        Command::Audit {
            last: count,
            diff,
            again,
        } => {
            let read = |client: &Client| Ok(last(*count as usize, |from| client.changes(from))?.0);
            let text = |changes: &Vec<ChangeRecord>, screen| show::audit(changes, *diff, screen);
            show(
                arguments,
                again.watch,
                read,
                |changes| Told::Audit { changes },
                text,
            )?;
        }
        Command::Probe { again } => {
            let read = |client: &Client| match client.ask(&Request::Probe)? {
                Answer::Probe { gpus } => Ok(gpus),
                other => Err(unexpected(&other)),
            };
            show(
                arguments,
                again.watch,
                read,
                |gpus| Told::Probed { gpus },
                |gpus, screen| show::probe(gpus, screen),
            )?;
        }
        Command::Record { file, seconds } => {
            let recorded = record(&connect()?, file, seconds.map(Duration::from_secs))?;
            let file = file.display().to_string();
            if recorded.missed > 0 {
                note(&format!(
                    "note: {} arrivals are missing: they came faster than they could be read",
                    recorded.missed
                ));
            }
            let text = format!("{file}: {} arrivals\n", recorded.arrivals);
            say(arguments, &Told::Recorded { file, recorded }, || text)?;
        }
        Command::Replay(wanted) => {
            let replayed = replay::run(wanted)?;
            say(arguments, &Told::Replayed(&replayed), || {
                replay::text(&replayed, Screen::now())
            })?;
        }
        Command::Top(options) => top::run(*options, arguments.json, &arguments.socket)?,
        Command::Doctor(wanted) => {
            let findings = doctor::run(wanted, &arguments.socket);
            say(arguments, &Told::Examined { findings: &findings }, || {
                show::doctor(&findings, Screen::now())
            })?;
            if doctor::is_wrong(&findings) {
                return Ok(DEGRADED.into());
            }
        }
        Command::Cdi(Container {
            backend,
            libraries,
            cdi_version,
        }) => {
            let (vm, socket) = (backend.vm_id, backend.socket(&arguments.socket));
            warn_of_no_pool(arguments, vm);
            for warning in launch::missing(Path::new(&socket), Path::new(libraries)) {
                note(&warning);
            }
            let cdi = &launch::cdi(cdi_version, vm, &socket, libraries);
            say(arguments, &Told::Container { vm, cdi }, || cdi.file())?;
        }
        Command::DomainXml(backend) => {
            let (vm, vm_socket) = (backend.vm_id, &backend.socket(&arguments.socket));
            warn_of_no_pool(arguments, vm);
            let xml = &launch::domain(vm, vm_socket);
            say(arguments, &Told::Domain { vm, vm_socket, xml }, || xml.clone())?;
        }
        Command::LibvirtHook(wanted) => hook::run(wanted)?,
        Command::Cloudstack {
            command: Cloudstack::ExtraConfig(backend),
        } => {
            let (vm, vm_socket) = (backend.vm_id, &backend.socket(&arguments.socket));
            let config = &launch::extra_config(vm_socket);
            let told = Told::ExtraConfig {
                vm,
                vm_socket,
                config,
            };
            say(arguments, &told, || launch::encoded(config) + "\n")?;
        }
        Command::Cloudstack {
            command: Cloudstack::Discovery,
        } => {
            let found = &launch::discovery(&connect()?.status()?.gpus, Path::new("/sys"));
            say(arguments, &Told::Discovered(found), || found.text())?;
        }
        Command::Reload {
            change: Change { dry_run },
        } => {
            let (client, dry_run) = (connect()?, *dry_run);
            let wanted = Wanted {
                dry_run,
                ..Verb::Reload {}.into()
            };
            let changed = client.change(wanted)?;
            let status = client.status()?;
            let told = Told::Reloaded {
                config: &status.config,
                pools: status.pools.len(),
                dry_run,
                changed: &changed,
            };
            say(arguments, &told, || match dry_run {
                true => show::changes(&changed.changes, true),
                false => {
                    let in_use = format!("{} is in use: {}\n", status.config, pools(status.pools.len()));
                    show::changes(&changed.changes, false) + &in_use
                }
            })?;
        }
        Command::Config {
            command: Config::Check { file, offline },
        } => check(arguments, file, *offline)?,
        // Those that change something.
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What is printed as something else is not printed as JSON.
fn not_json(arguments: &Arguments, option: &str, command: &str) -> Result<(), Failure> {
    if !arguments.json {
        return Ok(());
    }
    let message = format!("--json and {option} cannot be used together");
    let hint = format!("`vgpu-admin help {command}` shows the usage");
    Err(Failure::new(Kind::Usage, message).hint(hint))
}

/// Shows what was used, or prints a bill, part by part.
fn usage(arguments: &Arguments, wanted: &Usage) -> Result<(), Failure> {
    let now = jiff::Timestamp::now().as_second();
    let asked = wanted.query().at(u64::try_from(now).unwrap_or(0))?;
    if wanted.csv {
        not_json(arguments, "--csv", "usage")?;
    }
    let client = Client::connect(&arguments.socket)?;
    let WantedUsage { by, from_s, to_s, .. } = asked;
    if wanted.gpus {
        let read = |wanted: &WantedUsage| client.gpu_usage(wanted);
        let Some(gpus) = &told_part_by_part(asked, wanted.csv, read)? else {
            return Ok(());
        };
        let told = Told::GpuUsage {
            by,
            from_s,
            to_s,
            gpus,
        };
        return say(arguments, &told, || show::gpu_usage(gpus, by, Screen::now()));
    }
    let read = |wanted: &WantedUsage| client.usage(wanted);
    let Some(usage) = &told_part_by_part(asked, wanted.csv, read)? else {
        return Ok(());
    };
    let told = Told::Usage {
        by,
        from_s,
        to_s,
        usage,
    };
    say(arguments, &told, || match wanted.waits {
        true => show::waits(usage, by, Screen::now()),
        false => show::usage(usage, by, Screen::now()),
    })
}

/// All that was asked for; nothing if that was printed as a bill.
fn told_part_by_part<R: Billed>(
    asked: WantedUsage,
    csv: bool,
    read: impl Fn(&WantedUsage) -> Result<(Vec<R>, Option<String>), Failure>,
) -> Result<Option<Vec<R>>, Failure> {
    if csv {
        let mut is_first = true;
        bill::parts(asked, read, |part| {
            print(&bill::csv(&part, std::mem::take(&mut is_first)))
        })?;
        return Ok(None);
    }
    let mut all = Vec::new();
    bill::parts(asked, read, |part| {
        all.extend(part);
        Ok(())
    })?;
    Ok(Some(all))
}

/// Shows what happened, and goes on with it if that is wanted. Once `vgpud` was there, it may go away for a while.
fn events(arguments: &Arguments, wanted: &Events) -> Result<(), Failure> {
    let read = |client: &Client, from| client.events(from, wanted.vm_id);
    let (events, mut from) = {
        let client = Client::connect(&arguments.socket)?;
        last(wanted.last, |from| read(&client, from))?
    };
    let tell = |events: &[EventRecord]| {
        if arguments.json {
            let lines = events.iter().map(|event| Told::Event(event).json(false));
            return print(&lines.collect::<String>());
        }
        print(&show::events(events, wanted.calls, Screen::now()))
    };
    if !wanted.follow {
        let told = Told::Events { events: &events };
        return say(arguments, &told, || match events.as_slice() {
            [] if wanted.last > 0 => "Nothing has happened.\n".to_owned(),
            events => show::events(events, wanted.calls, Screen::now()),
        });
    }
    tell(&events)?;
    loop {
        std::thread::sleep(FOLLOW_INTERVAL);
        let now = Client::connect(&arguments.socket).and_then(|client| {
            let mut new = Vec::new();
            from = pages(
                from,
                |from| read(&client, from),
                |page| {
                    new.extend(page);
                    Ok(())
                },
            )?;
            Ok(new)
        });
        match now {
            Ok(new) => tell(&new)?,
            Err(failure) => note(&format!("vgpu-admin: {}; trying again", failure.message)),
        }
    }
}

fn change(client: &Client, planned: Planned) -> Result<Changed, Failure> {
    let wanted = Wanted {
        dry_run: planned.dry_run,
        ..planned.change.into()
    };
    client.change(wanted).map_err(|failure| match failure.kind {
        _ if failure.hint.is_some() => failure,
        Kind::NotFound => failure.hint(planned.hint_not_found),
        Kind::Usage => failure.hint(planned.hint),
        Kind::Failed | Kind::Conflict | Kind::Unreachable => failure
            .hint("vgpud writes the pool map's file: its user must be able to write to it and its folder"),
    })
}

/// Shows what is read once, or every so many seconds until interrupted. Once `vgpud` was there, it may go away for a while.
fn show<T>(
    arguments: &Arguments,
    watch: Option<u32>,
    read: impl Fn(&Client) -> Result<T, Failure>,
    told: impl Fn(&T) -> Told<'_>,
    text: impl Fn(&T, Screen) -> String,
) -> Result<T, Failure> {
    let mut last = read(&Client::connect(&arguments.socket)?)?;
    let Some(seconds) = watch else {
        say(arguments, &told(&last), || text(&last, Screen::now()))?;
        return Ok(last);
    };
    let interval = Duration::from_secs(seconds.into());
    loop {
        if arguments.json {
            print(&told(&last).json(false))?;
        } else {
            let screen = Screen::now();
            print(&screen.repaint(&text(&last, screen)))?;
        }
        last = loop {
            std::thread::sleep(interval);
            match Client::connect(&arguments.socket).and_then(|client| read(&client)) {
                Ok(read) => break read,
                Err(failure) => note(&format!("vgpu-admin: {}; trying again", failure.message)),
            }
        };
    }
}

/// Says if a VM's programs would find no GPU. Where vgpud is not there, nobody knows.
fn warn_of_no_pool(arguments: &Arguments, vm: u32) {
    let Ok(status) = Client::connect(&arguments.socket).and_then(|client| client.status()) else {
        return;
    };
    let mut ranges = status.pools.iter().flat_map(|pool| &pool.ranges);
    if !ranges.any(|range| range.parse().is_ok_and(|range: VmRange| range.contains(vm))) {
        note(&format!(
            "warning: VM {vm} is in no pool, so its programs find no GPU\nhint: `vgpu-admin register-vm --vm-id {vm} --pool NAME`"
        ));
    }
}

fn check(arguments: &Arguments, file: &Path, offline: bool) -> Result<(), Failure> {
    let status = match offline {
        true => None,
        false => Client::connect(&arguments.socket)
            .and_then(|client| client.status())
            .ok(),
    };
    let known = |uuid: &str| {
        let mut gpus = status.iter().flat_map(|status| &status.gpus);
        match gpus.find(|gpu| gpu.uuid == uuid).map(|gpu| gpu.state) {
            None => Assignable::Unknown,
            Some(GpuState::Divided) => Assignable::Divided,
            Some(GpuState::Ready | GpuState::Unassigned | GpuState::Missing) => Assignable::Yes,
        }
    };
    let compared = status.is_some();
    let map = PoolMap::load(file, compared.then_some(&known)).map_err(|error| {
        let hint = match error.message() {
            message if message.starts_with("there is no GPU") => {
                "`vgpu-admin scan-gpus` lists the GPUs; --offline checks a file for another host"
            }
            _ if error.is_unreadable() => "`vgpu-admin status` says which file vgpud uses",
            _ => "docs/operator.md lists every key",
        };
        Failure::new(Kind::Usage, error.to_string()).hint(hint)
    })?;
    let told = Told::Checked {
        file: file.display().to_string(),
        pools: map.pools.len(),
        gpus_compared: compared,
    };
    if !compared && !offline {
        note("note: vgpud cannot be reached, so the GPUs were not compared with the host's");
    }
    say(arguments, &told, || {
        format!("{}: right, {}\n", file.display(), pools(map.pools.len()))
    })
}

fn pools(count: usize) -> String {
    match count {
        1 => "1 pool".to_owned(),
        count => format!("{count} pools"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_arguments_is_told_with_their_names() {
        let wrong = |line: &str| {
            let words = ["vgpu-admin"].into_iter().chain(line.split_whitespace());
            what_is_wrong(&Arguments::try_parse_from(words).unwrap_err().render().to_string())
        };
        assert_eq!(
            wrong("set-weight --vm-id 1 --weight 0"),
            "invalid value '0' for '--weight <WEIGHT>': expected a weight, from 1 to 100"
        );
        assert_eq!(
            wrong("assign-gpu --gpu-id 0"),
            "the following required arguments were not provided: --pool <NAME>"
        );
        let empty = Arguments::try_parse_from(["vgpu-admin", "quarantine", "--vm-id", "1", "--reason", ""]);
        assert_eq!(
            what_is_wrong(&empty.unwrap_err().render().to_string()),
            "invalid value '' for '--reason <TEXT>': expected a reason: one line of 1 to 500 characters"
        );
    }
}
