//! Recorded arrivals under another policy: what becomes of each percentile.
use crate::arguments::{POLICIES, PRIORITIES, one_of};
use crate::show::{Screen, latency};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use vgpu_client::failure::{Failure, Kind};
use vgpu_pool_map::{MS_MAX, VmRange, WEIGHT_MAX};
use vgpu_program::arguments::number;
use vgpu_sched_api::messages::{Arrival, Policy, Priority};
use vgpu_sched_sim::{GpuSet, Level, Outcome, PerLevel, Percentiles, Setup, Times, replay};

/// Version of the file.
const VERSION: u32 = 1;

#[derive(Debug, Args)]
pub struct Replay {
    /// What `record` wrote
    file: PathBuf,
    /// The policy of every pool
    #[arg(long, value_parser = one_of(POLICIES))]
    policy: Policy,
    /// The policy of every pool that it is compared with; unless given, that of each pool when it was recorded
    #[arg(long, value_name = "POLICY", value_parser = one_of(POLICIES))]
    recorded_policy: Option<Policy>,
    /// One session at a time on a GPU, whatever its level
    #[arg(long)]
    exclusive: bool,
    /// How long a turn lasts while others wait, in milliseconds
    #[arg(long, value_name = "MS", value_parser = number("a number of milliseconds, such as 20", 1..=MS_MAX))]
    quantum_ms: Option<u64>,
    /// Another weight of VMs, such as 1-7=4; for each of several, again
    #[arg(long, value_name = "VMS=WEIGHT", value_parser = weight_of)]
    weight: Vec<(VmRange, u32)>,
    /// Another priority of VMs, such as 1-7=high; for each of several, again
    #[arg(long, value_name = "VMS=LEVEL", value_parser = level_of)]
    priority: Vec<(VmRange, Level)>,
}

/// What is different under the other policy.
#[derive(Debug, PartialEq, Serialize)]
pub struct Replayed {
    arrivals: u64,
    /// `None`: several.
    recorded_policy: Option<Policy>,
    policy: Policy,
    /// Arrivals that were not done long after the last one.
    unfinished: Change<u64>,
    /// Of all VMs, then of each.
    times: Vec<OfVm>,
}

#[derive(Debug, PartialEq, Serialize)]
struct OfVm {
    /// `None`: all together.
    vm: Option<u32>,
    count: u64,
    /// Until an arrival first ran.
    wait_us: Change<Parts>,
    /// Until it was done.
    completion_us: Change<Parts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Change<T> {
    before: T,
    after: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Parts {
    p50: u64,
    p95: u64,
    p99: u64,
    max: u64,
}

#[derive(Deserialize)]
struct Header {
    vgpu_record: u32,
}

/// Reads the record and runs it twice.
pub fn run(arguments: &Replay) -> Result<Replayed, Failure> {
    let path = arguments.file.display();
    let wrong = |why: String| {
        Failure::new(Kind::Usage, format!("{path}: {why}")).hint("`vgpu-admin record` writes such files")
    };
    let text = std::fs::read_to_string(&arguments.file).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => wrong("it is a folder, expected a record's file".to_owned()),
        ErrorKind::InvalidData => wrong("it is no text, expected a record".to_owned()),
        _ => Failure::new(Kind::Usage, format!("{path}: {error}")),
    })?;
    let record = read(&text, arguments.recorded_policy).map_err(wrong)?;
    let before = replay(&record.arrivals, &Setup::default());
    let after = replay(&record.arrivals, &arguments.setup(&record.arrivals));
    Ok(compare(arguments, &record, &before, &after))
}

/// For people: each percentile before and after, and its change.
pub fn text(replayed: &Replayed, screen: Screen) -> String {
    let mut table = screen.table(&["VM", ">arrivals", "time to", ">p50", ">p95", ">p99", ">max"]);
    for times in &replayed.times {
        let vm = times.vm.map_or("all".to_owned(), |vm| vm.to_string());
        let rows = [("run", times.wait_us), ("finish", times.completion_us)];
        for (what, Change { before, after }) in rows {
            table.add_row([
                vm.clone(),
                times.count.to_string(),
                what.to_owned(),
                change(before.p50, after.p50),
                change(before.p95, after.p95),
                change(before.p99, after.p99),
                change(before.max, after.max),
            ]);
        }
    }
    let Change { before, after } = replayed.unfinished;
    let left = match (before, after) {
        (0, 0) => String::new(),
        _ => format!("not done long after the last arrival: {before} -> {after}\n"),
    };
    let recorded = replayed.recorded_policy;
    let recorded = recorded.map_or("several policies".to_owned(), |policy| policy.to_string());
    format!(
        "{} arrivals, {recorded} -> {}\n{}{left}",
        replayed.arrivals,
        replayed.policy,
        table.written()
    )
}

/// A time before and after, and by how much it changed.
fn change(before: u64, after: u64) -> String {
    let by = match before {
        0 if after == 0 => "0%".to_owned(),
        0 => "new".to_owned(),
        before => format!("{:+.0}%", (after as f64 / before as f64 - 1.0) * 100.0),
    };
    format!("{} -> {} ({by})", latency(before), latency(after))
}

impl Replay {
    fn setup(&self, arrivals: &[vgpu_sched_sim::Arrival]) -> Setup {
        let mut setup = Setup {
            policy: Some(policy(self.policy)),
            exclusive: self.exclusive,
            ..Setup::default()
        };
        if let Some(ms) = self.quantum_ms {
            let us = ms * 1000;
            setup.config.quantum_us = PerLevel {
                low: us,
                medium: us,
                high: us,
            };
        }
        // Of the VMs that were recorded: a range may name more than there can be.
        for vm in arrivals.iter().map(|arrival| arrival.vm) {
            let is_in = |vms: &VmRange| (vms.first()..=vms.last()).contains(&vm);
            if let Some((_, weight)) = self.weight.iter().rev().find(|(vms, _)| is_in(vms)) {
                setup.weights.insert(vm, *weight);
            }
            if let Some((_, level)) = self.priority.iter().rev().find(|(vms, _)| is_in(vms)) {
                setup.levels.insert(vm, *level);
            }
        }
        setup
    }
}

/// What was recorded, and how VMs were treated then.
#[derive(Debug)]
struct Record {
    arrivals: Vec<vgpu_sched_sim::Arrival>,
    policies: Vec<Policy>,
}

/// What a record says, under another policy if one is given. The error says where it is wrong, and what was expected there.
fn read(text: &str, recorded_policy: Option<Policy>) -> Result<Record, String> {
    if text.is_empty() {
        return Err("it is empty, expected a record".to_owned());
    }
    // A line is written as a whole, unless its disk had no room for that.
    let cut = (!text.ends_with('\n')).then(|| text.lines().count());
    let mut lines = (1..).zip(text.lines());
    let header = lines.next().and_then(|(_, line)| serde_json::from_str(line).ok());
    match header {
        Some(Header { vgpu_record: VERSION }) => {}
        Some(Header { vgpu_record }) => {
            return Err(format!(
                "line 1: a record of version {vgpu_record}, expected {VERSION}"
            ));
        }
        None => return Err(format!("line 1: expected {{\"vgpu_record\":{VERSION}}}")),
    }
    let mut gpus = BTreeMap::new();
    let mut pools = BTreeMap::new();
    let (mut arrivals, mut policies) = (Vec::new(), Vec::new());
    for (number, line) in lines {
        let arrival: Arrival =
            serde_json::from_str(line).map_err(|error| match error.is_eof() && cut == Some(number) {
                true => {
                    format!("line {number}, the last one, is cut off: without it the rest can be replayed")
                }
                false => {
                    format!("line {number}: expected an arrival, as {{\"number\":1,\"vm\":3,...}}: {error}")
                }
            })?;
        let mut on = Vec::new();
        for uuid in arrival.gpus {
            let next = gpus.len() as u32;
            on.push(*gpus.entry(uuid).or_insert(next));
        }
        if gpus.len() > GpuSet::MAX as usize {
            return Err(format!(
                "line {number}: expected at most {} GPUs in all",
                GpuSet::MAX
            ));
        }
        if on.is_empty() {
            return Err(format!("line {number}: expected a GPU at least"));
        }
        let Some(recorded) = recorded_policy.or(arrival.policy) else {
            return Err(format!(
                "line {number}: it does not say under which policy it was recorded: expected --recorded-policy"
            ));
        };
        if !policies.contains(&recorded) {
            policies.push(recorded);
        }
        let next = pools.len() as u32;
        arrivals.push(vgpu_sched_sim::Arrival {
            vm: arrival.vm,
            session: arrival.session,
            pool: *pools.entry(arrival.pool).or_insert(next),
            policy: policy(recorded),
            gpus: on.into_iter().collect(),
            level: level(arrival.priority),
            weight: arrival.weight,
            at_us: arrival.at_us,
            used_us: arrival.used_us,
        });
    }
    if arrivals.is_empty() {
        return Err("it has no arrivals: nothing wanted a GPU while it was recorded".to_owned());
    }
    Ok(Record { arrivals, policies })
}

fn compare(arguments: &Replay, record: &Record, before: &Outcome, after: &Outcome) -> Replayed {
    let of = |vm: Option<u32>, before: Times, after: Times| OfVm {
        vm,
        count: before.wait.count,
        wait_us: Change {
            before: parts(before.wait),
            after: parts(after.wait),
        },
        completion_us: Change {
            before: parts(before.completion),
            after: parts(after.completion),
        },
    };
    let mut times = vec![of(None, before.all, after.all)];
    for (vm, before) in &before.by_vm {
        let after = after.by_vm.get(vm).copied().unwrap_or_default();
        times.push(of(Some(*vm), *before, after));
    }
    Replayed {
        arrivals: record.arrivals.len() as u64,
        recorded_policy: match record.policies.as_slice() {
            [one] => Some(*one),
            _ => arguments.recorded_policy,
        },
        policy: arguments.policy,
        unfinished: Change {
            before: before.unfinished,
            after: after.unfinished,
        },
        times,
    }
}

fn parts(of: Percentiles) -> Parts {
    Parts {
        p50: of.p50,
        p95: of.p95,
        p99: of.p99,
        max: of.max,
    }
}

fn policy(policy: Policy) -> vgpu_sched_sim::Policy {
    match policy {
        Policy::Priority => vgpu_sched_sim::Policy::Priority,
        Policy::Weighted => vgpu_sched_sim::Policy::Weighted,
        Policy::Fifo => vgpu_sched_sim::Policy::Fifo,
    }
}

fn level(priority: Priority) -> Level {
    match priority {
        Priority::Low => Level::Low,
        Priority::Medium => Level::Medium,
        Priority::High => Level::High,
    }
}

fn weight_of(text: &str) -> Result<(VmRange, u32), String> {
    let expected = || format!("expected VMs and a weight of 1 to {WEIGHT_MAX}, such as 1-7=4");
    let (vms, weight) = text.split_once('=').ok_or_else(expected)?;
    let weight = weight.parse().map_err(|_| expected())?;
    match weight {
        1..=WEIGHT_MAX => Ok((vms.parse()?, weight)),
        _ => Err(expected()),
    }
}

fn level_of(text: &str) -> Result<(VmRange, Level), String> {
    let expected = || "expected VMs and low, medium or high, such as 1-7=high".to_owned();
    let (vms, name) = text.split_once('=').ok_or_else(expected)?;
    let found = PRIORITIES.iter().find(|priority| priority.to_string() == name);
    Ok((vms.parse()?, level(*found.ok_or_else(expected)?)))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;
    use vgpu_client::fixture::arrival;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        replay: Replay,
    }

    fn parse(line: &str) -> Result<Replay, clap::Error> {
        let words = ["replay"].into_iter().chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.replay)
    }

    /// A low VM with half a second of work, and a high one with a little every 10 ms.
    fn record() -> String {
        let mut low = arrival(1);
        (low.vm, low.priority, low.used_us) = (9, Priority::Low, 500_000);
        let mut lines = vec!["{\"vgpu_record\":1,\"schema_version\":3}".to_owned()];
        lines.push(serde_json::to_string(&low).unwrap());
        for number in 2..20 {
            let mut high = arrival(number);
            high.at_us = number * 10_000;
            lines.push(serde_json::to_string(&high).unwrap());
        }
        lines.join("\n") + "\n"
    }

    /// A record replayed under another policy.
    pub fn replayed() -> Replayed {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(record().as_bytes()).unwrap();
        let line = format!("{} --policy fifo --quantum-ms 10", file.path().display());
        run(&parse(&line).unwrap()).unwrap()
    }

    #[test]
    fn each_percentile_is_told_before_and_after() {
        let replayed = replayed();
        assert_eq!(
            (
                replayed.arrivals,
                replayed.unfinished.before,
                replayed.unfinished.after
            ),
            (19, 0, 0)
        );
        let vms: Vec<_> = replayed.times.iter().map(|times| times.vm).collect();
        assert_eq!(vms, [None, Some(3), Some(9)]);
        let high = &replayed.times[1];
        assert_eq!(high.count, 18);
        assert!(high.wait_us.before.max < 1_000, "{high:?}");
        assert!(high.wait_us.after.max > 300_000, "{high:?}");
        let text = text(&replayed, Screen::now());
        assert!(text.starts_with("19 arrivals, priority -> fifo\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("3 ")).unwrap();
        let p99 = change(high.wait_us.before.p99, high.wait_us.after.p99);
        assert!(row.contains(&p99), "{text}");
        assert!(!text.contains("not done"), "{text}");
    }

    #[test]
    fn a_record_is_compared_with_what_it_was_recorded_under() {
        let with = |policy: &str, more: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let recorded = record().replace("\"policy\":\"priority\"", policy);
            file.write_all(recorded.as_bytes()).unwrap();
            run(&parse(&format!("{} --policy weighted{more}", file.path().display())).unwrap())
        };
        let (weighted, one) = ("\"policy\":\"weighted\"", ",\"pool\":\"B\"");
        // Nothing is different where the policy is the same.
        let same = with(weighted, "").unwrap();
        assert_eq!(same.recorded_policy, Some(Policy::Weighted));
        assert!(
            same.times
                .iter()
                .all(|times| times.wait_us.before == times.wait_us.after)
        );
        let said = with(weighted, " --recorded-policy priority").unwrap();
        assert_eq!(said, with("\"policy\":\"priority\"", "").unwrap());
        assert_ne!(said.times[1].wait_us.before, said.times[1].wait_us.after);
        // An older record does not say it.
        let error = with("\"policy\":null", "").unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(
            error.message.ends_with(
                "line 2: it does not say under which policy it was recorded: expected --recorded-policy"
            ),
            "{error:?}"
        );
        assert_eq!(
            with("\"policy\":null", " --recorded-policy priority").unwrap(),
            said
        );
        // Of pools each has its own.
        let two = record().replacen("\"policy\":\"priority\"", weighted, 1);
        let two = two.replacen(",\"pool\":\"A\"", one, 1);
        assert_eq!(
            read(&two, None).unwrap().policies,
            [Policy::Weighted, Policy::Priority]
        );
    }

    #[test]
    fn changes_are_told_in_percent() {
        assert_eq!(change(100, 250), "100us -> 250us (+150%)");
        assert_eq!(change(2_000, 500), "2.0ms -> 500us (-75%)");
        assert_eq!(change(0, 0), "0us -> 0us (0%)");
        assert_eq!(change(0, 5), "0us -> 5us (new)");
    }

    #[test]
    fn terms_are_changed_for_the_vms_that_are_named() {
        let line = "f --policy weighted --weight 1-5=4 --weight 3=7 --priority 9=high --exclusive";
        let setup = parse(line)
            .unwrap()
            .setup(&read(&record(), None).unwrap().arrivals);
        assert_eq!(setup.weights, BTreeMap::from([(3, 7)]));
        assert_eq!(setup.levels, BTreeMap::from([(9, Level::High)]));
        assert!(setup.exclusive);
        for wrong in [
            "f",
            "f --policy fair",
            "f --policy fifo --weight 1=0",
            "f --policy fifo --weight 1=101",
            "f --policy fifo --weight 4",
            "f --policy fifo --priority 1=urgent",
            "f --policy fifo --quantum-ms 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_record_is_refused_with_its_line() {
        let good = record();
        assert_eq!(read(&good, None).unwrap().arrivals.len(), 19);
        let refused = |text: &str, part: &str| {
            let error = read(text, None).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused("", "it is empty, expected a record");
        refused("x\n", "line 1: expected {\"vgpu_record\":1}");
        refused("{\"vgpu_record\":1}\n", "it has no arrivals");
        let cut = good.trim_end().rsplit_once(',').unwrap().0;
        refused(cut, "line 20, the last one, is cut off: without it");
        // Cut off in a place that is not the last one it is not.
        refused(&format!("{cut}\n{{}}\n"), "line 20: expected an arrival, as {");
        refused("{\"vgpu_record\":2}\n", "version 2, expected 1");
        refused(&(good.clone() + "{}\n"), "line 21: expected an arrival");
        refused(&good.replace("[\"GPU-0\"]", "[]"), "line 2: expected a GPU");
        let many: Vec<_> = (0..65).map(|n| format!("\"GPU-{n}\"")).collect();
        refused(
            &good.replace("\"GPU-0\"", &many.join(",")),
            "line 2: expected at most 64 GPUs",
        );
    }

    /// What is no record at all is told as what it is.
    #[test]
    fn what_is_no_records_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: PathBuf| {
            let arguments = Replay {
                file: path,
                policy: Policy::Fifo,
                recorded_policy: None,
                exclusive: false,
                quantum_ms: None,
                weight: Vec::new(),
                priority: Vec::new(),
            };
            run(&arguments).unwrap_err().message
        };
        let told = refused(dir.path().to_owned());
        assert!(
            told.ends_with(": it is a folder, expected a record's file"),
            "{told}"
        );
        let file = dir.path().join("file");
        std::fs::write(&file, [0xff; 9]).unwrap();
        let told = refused(file);
        assert!(told.ends_with("file: it is no text, expected a record"), "{told}");
    }
}
