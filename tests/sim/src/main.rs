//! `vgpu-sim`: the scheduler in a host that is played in virtual time, with faults, restarts and reloads. Everything
//! follows from a seed; when a rule is broken, it says which, what came before, and how to see it again.
use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;
use vgpu_sched_sim::{Policy, Scenario, Summary, Violation, run};

/// Runs the scheduler through a seeded scenario in virtual time
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Everything follows from it
    #[arg(long)]
    seed: u64,
    /// So many scenarios, of this seed and those after it
    #[arg(long, default_value_t = 1)]
    runs: u64,
    #[arg(long, default_value_t = 24)]
    vms: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    gpus: u32,
    /// Virtual time; a minute unless set
    #[arg(long)]
    hours: Option<f64>,
    /// Of every pool; each has another one, and they change, unless set
    #[arg(long)]
    policy: Option<PolicyName>,
    /// One session at a time on a GPU
    #[arg(long)]
    exclusive: bool,
    /// All sessions at once, as through MPS
    #[arg(long, conflicts_with = "exclusive")]
    no_turns: bool,
    /// Programs of a VM at most
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: u32,
    /// How many programs work at once, about
    #[arg(long, default_value_t = 8)]
    active: u32,
    /// The first VMs, this many, work all the time on the first GPU
    #[arg(long, default_value_t = 0)]
    steady: u32,
    /// Each session has one GPU
    #[arg(long)]
    no_gangs: bool,
    /// No executor is deaf, lies or dies
    #[arg(long)]
    no_faults: bool,
    /// The scheduler is not restarted
    #[arg(long)]
    no_restarts: bool,
    /// Nothing is set anew, VMs stay, and GPUs too
    #[arg(long)]
    no_changes: bool,
    /// VMs have no limits
    #[arg(long)]
    no_limits: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyName {
    Priority,
    Weighted,
    Fifo,
}

impl Arguments {
    fn scenario(&self, seed: u64) -> Scenario {
        let minute = Scenario::new(seed).length_us;
        Scenario {
            seed,
            vms: self.vms,
            gpus: self.gpus,
            length_us: self.hours.map_or(minute, |hours| (hours * 3.6e9) as u64),
            policy: self.policy.map(|policy| match policy {
                PolicyName::Priority => Policy::Priority,
                PolicyName::Weighted => Policy::Weighted,
                PolicyName::Fifo => Policy::Fifo,
            }),
            exclusive: self.exclusive,
            turns: !self.no_turns,
            sessions: self.sessions,
            active: self.active,
            gangs: !self.no_gangs,
            steady: self.steady,
            faults: !self.no_faults,
            restarts: !self.no_restarts,
            changes: !self.no_changes,
            limits: !self.no_limits,
        }
    }

    /// The command that runs one of its scenarios again.
    fn command(&self, seed: u64) -> String {
        let mut command = format!(
            "cargo run -p vgpu-sim -- --seed {seed} --vms {} --gpus {} --sessions {} --active {}",
            self.vms, self.gpus, self.sessions, self.active
        );
        if let Some(hours) = self.hours {
            command += &format!(" --hours {hours}");
        }
        if let Some(policy) = self.policy.and_then(|policy| policy.to_possible_value()) {
            command += &format!(" --policy {}", policy.get_name());
        }
        if self.steady > 0 {
            command += &format!(" --steady {}", self.steady);
        }
        let switches = [
            (self.exclusive, "--exclusive"),
            (self.no_turns, "--no-turns"),
            (self.no_gangs, "--no-gangs"),
            (self.no_faults, "--no-faults"),
            (self.no_restarts, "--no-restarts"),
            (self.no_changes, "--no-changes"),
            (self.no_limits, "--no-limits"),
        ];
        for (_, switch) in switches.iter().filter(|(on, _)| *on) {
            command += &format!(" {switch}");
        }
        command
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = 0;
    for seed in (arguments.seed..).take(arguments.runs as usize) {
        let scenario = arguments.scenario(seed);
        let start = Instant::now();
        match run(&scenario) {
            Ok(summary) => {
                let took_s = start.elapsed().as_secs_f64();
                print!("{}", told(&scenario, &summary, took_s));
            }
            Err(violation) => {
                failed += 1;
                print!("{}", accused(seed, &violation, &arguments.command(seed)));
            }
        }
    }
    if arguments.runs > 1 {
        println!("{failed} of {} seeds broke a rule", arguments.runs);
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn told(scenario: &Scenario, summary: &Summary, took_s: f64) -> String {
    let virtual_s = scenario.length_us as f64 / 1e6;
    let busy: Vec<String> = summary
        .busy
        .iter()
        .map(|part| format!("{:.0}%", part * 100.0))
        .collect();
    let mut text = format!(
        "seed {}: all rules held over {virtual_s:.0} s of virtual time, {took_s:.1} s of ours\n  \
         {} steps, {} turns granted, {} stops ordered, {} programs died, {} restarts; GPUs busy: {}; digest {:016x}\n",
        scenario.seed,
        summary.events,
        summary.grants,
        summary.stops,
        summary.deaths,
        summary.restarts,
        busy.join(" "),
        summary.digest,
    );
    for (level, waits) in &summary.waits {
        text += &format!(
            "  {level:?}: {} pieces of work, waited p50 {} p95 {} p99 {} max {} us\n",
            waits.count, waits.p50, waits.p95, waits.p99, waits.max
        );
    }
    text
}

fn accused(seed: u64, violation: &Violation, command: &str) -> String {
    format!(
        "seed {seed}: a rule was broken {:.6} s into the run\n  {}\nwhat came before (microseconds):\n{}\nto see it again:\n  {command}\n",
        violation.at_us as f64 / 1e6,
        violation.what,
        violation.last.join("\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_rule_is_told_with_the_command_that_shows_it_again() {
        let given = [
            "vgpu-sim", "--seed", "7", "--vms", "9", "--hours", "0.5", "--policy", "fifo", "--no-gangs",
            "--steady", "2",
        ];
        let arguments = Arguments::parse_from(given);
        let violation = Violation {
            at_us: 1_500_000,
            what: "VM 1 waited".to_owned(),
            last: vec!["1400000 Tick".to_owned()],
        };
        let command = arguments.command(8);
        let text = accused(8, &violation, &command);
        for part in ["seed 8", "1.500000 s", "VM 1 waited", "1400000 Tick", &command] {
            assert!(text.contains(part), "{text}");
        }
        let again = command.strip_prefix("cargo run -p vgpu-sim -- ").unwrap();
        let again = Arguments::parse_from(std::iter::once("vgpu-sim").chain(again.split(' ')));
        assert_eq!(again.scenario(8), arguments.scenario(8));
    }
}
