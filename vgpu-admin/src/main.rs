//! `vgpu-admin`: the operator's command line. A thin client of `vgpud`, which alone changes the pool map's file.
mod arguments;
mod client;
mod failure;
mod show;

use arguments::{Arguments, Command, Config, Planned};
use clap::Parser;
use client::{Client, unexpected};
use failure::{DEGRADED, Failure, Kind};
use serde::Serialize;
use show::Screen;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use vgpu_pool_map::{Assignable, PoolMap};
use vgpu_sched_api::messages::{Answer, GpuState, GpuStatus, Request, SCHEMA_VERSION, Status, TurnRecord};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version, too, are told this way.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            let _ = error.print();
            if std::env::args().any(|argument| argument == "--json") {
                let message = error.kind().to_string();
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

/// What programs are told, `schema_version` in front.
#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    /// With a version of its own.
    Status(&'a Status),
    Changed {
        dry_run: bool,
        changes: &'a [String],
    },
    Scanned {
        gpus: &'a [GpuStatus],
        appeared: &'a [String],
        vanished: &'a [String],
    },
    Turns {
        turns: &'a [TurnRecord],
    },
    Reloaded {
        config: &'a str,
        pools: usize,
    },
    Checked {
        file: String,
        pools: usize,
        gpus_compared: bool,
    },
    Error {
        error: Error<'a>,
    },
}

#[derive(Serialize)]
struct Error<'a> {
    exit_code: u8,
    #[serde(flatten)]
    failure: &'a Failure,
}

impl Told<'_> {
    /// As JSON, over many lines or in one.
    fn json(&self, lines: bool) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            schema_version: Option<u32>,
            #[serde(flatten)]
            told: &'a Told<'a>,
        }
        let versioned = Versioned {
            schema_version: (!matches!(self, Self::Status(_))).then_some(SCHEMA_VERSION),
            told: self,
        };
        let json = match lines {
            true => serde_json::to_string_pretty(&versioned),
            false => serde_json::to_string(&versioned),
        };
        // All keys are strings, so there is nothing that JSON cannot say.
        json.expect("JSON") + "\n"
    }
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
    let connect = || Client::connect(&arguments.socket);
    if let Some(planned) = arguments.command.edit() {
        let changes = edit(&connect()?, &planned)?;
        let told = Told::Changed {
            dry_run: planned.dry_run,
            changes: &changes,
        };
        say(arguments, &told, || show::changes(&changes, planned.dry_run))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &arguments.command {
        Command::ScanGpus => {
            let answer = connect()?.ask(&Request::Scan)?;
            let Answer::Scanned {
                gpus,
                appeared,
                vanished,
            } = &answer
            else {
                return Err(unexpected(&answer));
            };
            let told = Told::Scanned {
                gpus,
                appeared,
                vanished,
            };
            say(arguments, &told, || {
                show::scanned(gpus, appeared, vanished, Screen::now())
            })?;
        }
        Command::Status { watch: None } => {
            let status = connect()?.status()?;
            say(arguments, &Told::Status(&status), || {
                show::status(&status, Screen::now())
            })?;
            if !status.degraded.is_empty() {
                return Ok(DEGRADED.into());
            }
        }
        Command::Status { watch: Some(seconds) } => watch(arguments, Duration::from_secs((*seconds).into()))?,
        Command::Turns { last } => {
            let turns = &connect()?.turns(*last)?;
            say(arguments, &Told::Turns { turns }, || {
                show::turns(turns, Screen::now())
            })?;
        }
        Command::Reload => {
            let client = connect()?;
            client.ask(&Request::Reload)?;
            let status = client.status()?;
            let told = Told::Reloaded {
                config: &status.config,
                pools: status.pools.len(),
            };
            say(arguments, &told, || {
                format!("{} is in use: {}\n", status.config, pools(status.pools.len()))
            })?;
        }
        Command::Config {
            command: Config::Check { file, offline },
        } => check(arguments, file, *offline)?,
        // Those that change the map.
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn edit(client: &Client, planned: &Planned) -> Result<Vec<String>, Failure> {
    let request = Request::Edit {
        edits: vec![planned.edit.clone()],
        dry_run: planned.dry_run,
    };
    match client.ask(&request) {
        Ok(Answer::Edited { changes }) => Ok(changes),
        Ok(other) => Err(unexpected(&other)),
        Err(failure) if failure.hint.is_some() => Err(failure),
        Err(failure) => Err(match failure.kind {
            Kind::NotFound | Kind::Usage => failure.hint(planned.hint),
            Kind::Failed | Kind::Unreachable => failure.hint(
                "vgpud writes the pool map's file: its user must be able to write to it and its folder",
            ),
        }),
    }
}

/// Shows the status until interrupted. Once it was there, it may go away for a while.
fn watch(arguments: &Arguments, interval: Duration) -> Result<(), Failure> {
    let mut last = Client::connect(&arguments.socket)?.status()?;
    loop {
        if arguments.json {
            print(&Told::Status(&last).json(false))?;
        } else {
            let screen = Screen::now();
            print(&screen.repaint(&show::status(&last, screen)))?;
        }
        last = loop {
            std::thread::sleep(interval);
            match Client::connect(&arguments.socket).and_then(|client| client.status()) {
                Ok(status) => break status,
                Err(failure) => note(&format!("vgpu-admin: {}; trying again", failure.message)),
            }
        };
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
        let hint = match error.message().starts_with("there is no GPU") {
            true => "`vgpu-admin scan-gpus` lists the GPUs; --offline checks a file for another host",
            false => "docs/operator.md lists every key",
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
