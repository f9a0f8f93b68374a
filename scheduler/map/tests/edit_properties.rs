//! Random edits of random maps, against a model: the result is a map, it means what the edits say and nothing else
//! changed, comments stay. And what differs between random maps is told: from what one means and what is told, one has what
//! the other means.
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use vgpu_pool_map::{EditError, LIMITS, Named, PoolGpus, PoolMap, Settings, VmRange, apply, differences};
use vgpu_sched_api::messages::{Edit, Limits, Policy, PoolSettings, Priority, Rung, Sharing, VmSettings};

/// VMs that maps are made of.
const VMS: u32 = 24;
/// GPUs that are there; edits also name another one.
const GPUS: usize = 3;
const POOLS: [&str; 4] = ["A", "B", "C", "D"];

fn gpu(index: usize) -> String {
    format!("GPU-00000000-0000-0000-0000-{index:012}")
}

fn resolve(name: &str) -> Option<String> {
    let index = name.parse::<usize>().ok().filter(|index| *index < GPUS);
    index.map(gpu)
}

fn named(name: &str) -> Named {
    Named {
        present: resolve(name),
        missing: Vec::new(),
    }
}

/// What a map means.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    pools: Vec<Pool>,
    /// `[vm.N]`.
    own: BTreeMap<u32, VmSettings>,
}

#[derive(Clone, Debug, PartialEq)]
struct Pool {
    name: String,
    gpus: Vec<String>,
    vms: BTreeSet<u32>,
    aging_ms: Option<u64>,
    queue_depth: Option<u32>,
    /// What its table says; the ladder in rising order.
    own: PoolSettings,
}

/// How an edit fails.
#[derive(Debug, PartialEq)]
enum Wrong {
    NotFound,
    Refused,
}

/// What is set for a VM: the narrower counts.
fn narrower(own: &Limits, pool: &Limits) -> Limits {
    let mut limits = *own;
    for limit in LIMITS {
        (limit.set)(&mut limits, (limit.get)(own).or((limit.get)(pool)));
    }
    limits
}

/// The limits as they count.
fn in_force(set: Limits) -> Limits {
    let some = |value: Option<u64>| value.filter(|value| *value != 0);
    let call_rate = some(set.call_rate);
    let violations_max = set.violations_max.filter(|value| *value != 0);
    Limits {
        call_rate,
        call_burst: call_rate.map(|rate| some(set.call_burst).unwrap_or(1.max(rate / 10))),
        gpu_memory_mib: some(set.gpu_memory_mib),
        violations_max,
        violation_window_s: violations_max.map(|_| 60),
        quarantine_s: violations_max.and_then(|_| some(Some(set.quarantine_s.unwrap_or(300)))),
        ..Limits::default()
    }
}

/// Limits are written whatever counts now: that may come from a wider table, which may change.
fn set_limits(own: &mut Limits, wanted: &Limits) {
    for limit in LIMITS {
        (limit.set)(own, (limit.get)(wanted).or((limit.get)(own)));
    }
}

impl Pool {
    fn policy(&self) -> Policy {
        self.own.policy.unwrap_or(Policy::Priority)
    }

    fn exclusive(&self) -> bool {
        self.own.exclusive.unwrap_or(false)
    }

    fn sharing(&self) -> Sharing {
        self.own.sharing.unwrap_or(Sharing::Turns)
    }

    fn weight(&self) -> u32 {
        self.own.weight.unwrap_or(1)
    }

    /// None for all.
    fn gpus_per_vm(&self) -> Option<u32> {
        self.own.gpus_per_vm.filter(|number| *number != 0)
    }

    fn ladder(&self) -> Vec<Rung> {
        self.own.ladder.clone().unwrap_or(Rung::ALL.to_vec())
    }

    fn set(&mut self, wanted: &PoolSettings) {
        if wanted.policy.is_some_and(|new| new != self.policy()) {
            self.own.policy = wanted.policy;
        }
        if wanted.exclusive.is_some_and(|new| new != self.exclusive()) {
            self.own.exclusive = wanted.exclusive;
        }
        if wanted.sharing.is_some_and(|new| new != self.sharing()) {
            self.own.sharing = wanted.sharing;
        }
        if wanted.weight.is_some_and(|new| new != self.weight()) {
            self.own.weight = wanted.weight;
        }
        let new = wanted.gpus_per_vm;
        if new.is_some_and(|new| new != self.gpus_per_vm().unwrap_or(0)) {
            self.own.gpus_per_vm = new;
        }
        if let Some(rungs) = &wanted.ladder {
            let rungs: BTreeSet<Rung> = rungs.iter().copied().collect();
            let rungs: Vec<Rung> = rungs.into_iter().collect();
            if rungs != self.ladder() {
                self.own.ladder = Some(rungs);
            }
        }
        set_limits(&mut self.own.limits, &wanted.limits);
    }

    fn is_right(&self) -> bool {
        let mps = self.sharing() == Sharing::Mps;
        self.gpus_per_vm().unwrap_or(0) as usize <= self.gpus.len()
            && !(mps && (self.exclusive() || self.policy() != Policy::Priority))
            && has_rate(&self.own.limits, &self.own.limits)
    }
}

/// Whether a burst that `own` has comes with a rate.
fn has_rate(own: &Limits, all: &Limits) -> bool {
    own.call_burst.unwrap_or(0) == 0 || all.call_rate.unwrap_or(0) > 0
}

impl Model {
    /// What a map may not say is not there.
    fn is_right(&self) -> bool {
        let agree = |a: &Pool, b: &Pool| {
            let share = a.gpus.iter().any(|gpu| b.gpus.contains(gpu));
            !share || (a.exclusive() == b.exclusive() && a.sharing() == b.sharing())
        };
        self.pools
            .iter()
            .all(|pool| pool.is_right() && self.pools.iter().all(|other| agree(pool, other)))
            && self.bursts_have_rates()
    }

    fn bursts_have_rates(&self) -> bool {
        self.own
            .iter()
            .all(|(vm, own)| has_rate(&own.limits, &self.limits(*vm)))
    }

    fn limits(&self, vm: u32) -> Limits {
        let own = self.own.get(&vm).copied().unwrap_or_default().limits;
        let pool = self.pools.iter().find(|pool| pool.vms.contains(&vm));
        narrower(&own, &pool.map(|pool| pool.own.limits).unwrap_or_default())
    }

    fn settings(&self, vm: u32) -> Settings {
        let own = self.own.get(&vm).copied().unwrap_or_default();
        let pool = self.pools.iter().find(|pool| pool.vms.contains(&vm));
        Settings {
            priority: own.priority.unwrap_or(Priority::Medium),
            weight: own.weight.unwrap_or(1),
            aging_ms: own
                .aging_ms
                .or(pool.and_then(|pool| pool.aging_ms))
                .unwrap_or(700),
            queue_depth: own.queue_depth.or(pool.and_then(|pool| pool.queue_depth)),
            limits: in_force(self.limits(vm)),
        }
    }

    fn pool(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.name == name)
    }

    fn set(&mut self, vms: VmRange, wanted: &VmSettings) {
        for vm in vms.iter() {
            let now = self.settings(vm);
            let mut own = self.own.get(&vm).copied().unwrap_or_default();
            own.priority = wanted
                .priority
                .filter(|new| *new != now.priority)
                .or(own.priority);
            own.weight = wanted.weight.filter(|new| *new != now.weight).or(own.weight);
            own.aging_ms = wanted.aging_ms.or(own.aging_ms);
            own.queue_depth = wanted.queue_depth.or(own.queue_depth);
            set_limits(&mut own.limits, &wanted.limits);
            if own != VmSettings::default() {
                self.own.insert(vm, own);
            }
        }
    }

    fn apply(&mut self, edit: &Edit) -> Result<(), Wrong> {
        match edit {
            Edit::AssignGpu { gpu, pool: name } => {
                let uuid = resolve(gpu).ok_or(Wrong::NotFound)?;
                match self.pool(name) {
                    Some(pool) if pool.gpus.contains(&uuid) => {}
                    Some(pool) => pool.gpus.push(uuid),
                    None => self.pools.push(Pool {
                        name: name.clone(),
                        gpus: vec![uuid],
                        vms: BTreeSet::new(),
                        aging_ms: None,
                        queue_depth: None,
                        own: PoolSettings::default(),
                    }),
                }
            }
            Edit::UnassignGpu { gpu, pool: name } => {
                let pool = self.pool(name).ok_or(Wrong::NotFound)?;
                let uuid = resolve(gpu).ok_or(Wrong::NotFound)?;
                if pool.gpus == [uuid.clone()] {
                    if !pool.vms.is_empty() {
                        return Err(Wrong::Refused);
                    }
                    self.pools.retain(|pool| pool.name != *name);
                } else {
                    pool.gpus.retain(|gpu| *gpu != uuid);
                }
            }
            Edit::RegisterVms {
                vms,
                pool: name,
                settings,
                move_from_other,
            } => {
                let vms: VmRange = vms.parse().unwrap();
                self.pool(name).ok_or(Wrong::NotFound)?;
                for pool in &mut self.pools {
                    if pool.name != *name {
                        if pool.vms.iter().any(|vm| vms.contains(*vm)) && !move_from_other {
                            return Err(Wrong::Refused);
                        }
                        pool.vms.retain(|vm| !vms.contains(*vm));
                    }
                }
                self.pool(name).unwrap().vms.extend(vms.iter());
                if !self.bursts_have_rates() {
                    return Err(Wrong::Refused);
                }
                self.set(vms, settings);
            }
            Edit::UnregisterVms { vms } => {
                let vms: VmRange = vms.parse().unwrap();
                let mut found = false;
                for pool in &mut self.pools {
                    found |= pool.vms.iter().any(|vm| vms.contains(*vm));
                    pool.vms.retain(|vm| !vms.contains(*vm));
                }
                self.own.retain(|vm, _| !vms.contains(*vm));
                if !found {
                    return Err(Wrong::NotFound);
                }
            }
            Edit::SetVms { vms, settings } => {
                if *settings == VmSettings::default() {
                    return Err(Wrong::Refused);
                }
                let vms: VmRange = vms.parse().unwrap();
                if vms
                    .iter()
                    .any(|vm| !self.pools.iter().any(|pool| pool.vms.contains(&vm)))
                {
                    return Err(Wrong::NotFound);
                }
                self.set(vms, settings);
            }
            Edit::SetPool { pool, settings } => {
                if *settings == PoolSettings::default() {
                    return Err(Wrong::Refused);
                }
                self.pool(pool).ok_or(Wrong::NotFound)?.set(settings);
            }
        }
        if self.is_right() {
            Ok(())
        } else {
            Err(Wrong::Refused)
        }
    }

    /// Whether a text means this.
    fn is_meant_by(&self, text: &str) -> Result<(), TestCaseError> {
        let map =
            PoolMap::parse(text, None).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let pools = map.pools.iter().map(|pool| {
            let PoolGpus::Uuids(gpus) = &pool.gpus else {
                panic!("{:?}", pool.gpus)
            };
            let vms: BTreeSet<u32> = pool.ranges.iter().flat_map(|range| range.iter()).collect();
            (pool.name.clone(), gpus.clone(), vms)
        });
        let expected = self
            .pools
            .iter()
            .map(|pool| (pool.name.clone(), pool.gpus.clone(), pool.vms.clone()));
        prop_assert_eq!(
            pools.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "{}",
            text
        );
        for (found, expected) in map.pools.iter().zip(&self.pools) {
            prop_assert_eq!(
                (
                    found.policy,
                    found.exclusive,
                    found.sharing,
                    found.weight,
                    found.gpus_per_vm
                ),
                (
                    expected.policy(),
                    expected.exclusive(),
                    expected.sharing(),
                    expected.weight(),
                    expected.gpus_per_vm()
                ),
                "{}",
                text
            );
            prop_assert_eq!(&found.ladder, &expected.ladder(), "{}", text);
        }
        for vm in 0..VMS + 4 {
            prop_assert_eq!(map.settings_of(vm), self.settings(vm), "VM {}\n{}", vm, text);
        }
        let with_settings: Vec<u32> = map.vms_with_settings().collect();
        prop_assert_eq!(
            with_settings,
            self.own.keys().copied().collect::<Vec<_>>(),
            "{}",
            text
        );
        Ok(())
    }
}

/// Writes a model with a comment wherever one can be, in a layout made of `choices`.
struct Writer<'a> {
    text: String,
    choices: std::iter::Cycle<std::slice::Iter<'a, bool>>,
    /// What each comment is in: a pool's table, a VM's, or neither.
    comments: Vec<(String, Option<String>)>,
}

impl Writer<'_> {
    fn choose(&mut self) -> bool {
        *self.choices.next().unwrap()
    }

    fn comment(&mut self, inside: Option<&str>) -> String {
        let comment = format!("#{};", self.comments.len());
        self.comments.push((comment.clone(), inside.map(str::to_owned)));
        comment
    }

    /// A line, perhaps with a comment at its end.
    fn line(&mut self, line: &str, inside: &str) {
        self.text += line;
        if self.choose() {
            let comment = self.comment(Some(inside));
            let _ = write!(self.text, "  {comment}");
        }
        self.text += "\n";
    }

    /// Lines before a header.
    fn above(&mut self) {
        for _ in 0..2 {
            if self.choose() {
                let comment = self.comment(None);
                let _ = writeln!(self.text, "{comment}");
            }
            if self.choose() {
                self.text += "\n";
            }
        }
    }

    fn array(&mut self, key: &str, values: &[String], inside: &str) {
        if self.choose() {
            return self.line(&format!("{key} = [{}]", values.join(", ")), inside);
        }
        self.line(&format!("{key} = ["), inside);
        for (index, value) in values.iter().enumerate() {
            if self.choose() {
                let comment = self.comment(Some(inside));
                let _ = writeln!(self.text, "  {comment}");
            }
            let comma = index + 1 < values.len() || self.choose();
            self.line(&format!("  {value}{}", if comma { "," } else { "" }), inside);
        }
        self.line("]", inside);
    }

    fn limits(&mut self, limits: &Limits, inside: &str) {
        for limit in LIMITS {
            if let Some(value) = (limit.get)(limits) {
                self.line(&format!("{} = {value}", limit.key), inside);
            }
        }
    }

    fn pool_settings(&mut self, own: &PoolSettings, inside: &str) {
        if let Some(policy) = own.policy {
            self.line(&format!("policy = \"{policy}\""), inside);
        }
        if let Some(exclusive) = own.exclusive {
            self.line(&format!("exclusive = {exclusive}"), inside);
        }
        if let Some(sharing) = own.sharing {
            self.line(&format!("sharing = \"{sharing}\""), inside);
        }
        if let Some(weight) = own.weight {
            self.line(&format!("weight = {weight}"), inside);
        }
        if let Some(number) = own.gpus_per_vm {
            self.line(&format!("gpus_per_vm = {number}"), inside);
        }
        if let Some(rungs) = &own.ladder {
            let mut rungs: Vec<String> = rungs.iter().map(|rung| format!("\"{rung}\"")).collect();
            if self.choose() {
                rungs.reverse();
            }
            self.array("ladder", &rungs, inside);
        }
        self.limits(&own.limits, inside);
    }

    fn write(&mut self, model: &Model) {
        self.above();
        self.text += "[scheduler]\n";
        self.line("aging_ms = 700", "scheduler");
        for pool in &model.pools {
            self.above();
            self.text += "[[pool]]\n";
            let inside = format!("pool {}", pool.name);
            self.line(&format!("name = \"{}\"", pool.name), &inside);
            let gpus: Vec<String> = pool.gpus.iter().map(|gpu| format!("\"{gpu}\"")).collect();
            self.array("gpus", &gpus, &inside);
            let mut ranges: Vec<VmRange> = Vec::new();
            for vm in &pool.vms {
                let join = self.choose() || self.choose();
                match ranges.last_mut() {
                    Some(last) if last.last() + 1 == *vm && join => {
                        *last = VmRange::new(last.first(), *vm).unwrap();
                    }
                    _ => ranges.push((*vm).into()),
                }
            }
            let written: Vec<String> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
            if !written.is_empty() || self.choose() {
                self.array("vms", &written, &inside);
            }
            if let Some(ms) = pool.aging_ms {
                self.line(&format!("aging_ms = {ms}"), &inside);
            }
            if let Some(depth) = pool.queue_depth {
                self.line(&format!("queue_depth = {depth}"), &inside);
            }
            self.pool_settings(&pool.own, &inside);
        }
        for (vm, own) in &model.own {
            self.above();
            let inside = format!("vm {vm}");
            let zero = if self.choose() { "0" } else { "" };
            self.text += &format!("[vm.{zero}{vm}]\n");
            if let Some(priority) = own.priority {
                self.line(&format!("priority = \"{priority}\""), &inside);
            }
            if let Some(weight) = own.weight {
                self.line(&format!("weight = {weight}"), &inside);
            }
            if let Some(ms) = own.aging_ms {
                self.line(&format!("aging_ms = {ms}"), &inside);
            }
            if let Some(depth) = own.queue_depth {
                self.line(&format!("queue_depth = {depth}"), &inside);
            }
            self.limits(&own.limits, &inside);
        }
        self.above();
    }
}

/// The text of each table, from its header to its last line, by header and name.
fn blocks(text: &str) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().chain(["[end]"]) {
        if line.starts_with('[') {
            let is_filler = |line: &&str| line.trim().is_empty() || line.starts_with('#');
            while lines.last().is_some_and(is_filler) {
                lines.pop();
            }
            if let Some(header) = lines.first().filter(|line| line.starts_with('[')) {
                let name = lines
                    .get(1)
                    .filter(|_| *header == "[[pool]]")
                    .and_then(|line| line.split('"').nth(1));
                let number = header
                    .trim_matches(['[', ']'])
                    .trim_start_matches("vm.")
                    .parse::<u32>();
                let key = name.map_or(format!("vm {number:?}"), |name| format!("pool {name}"));
                blocks.insert(key, lines.join("\n"));
            }
            lines.clear();
        }
        lines.push(line);
    }
    blocks
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = |values: &'static [u64]| prop::option::weighted(0.2, prop::sample::select(values));
    (
        few(&[0, 5, 100]),
        few(&[0, 7, 10]),
        few(&[0, 1024, 2048]),
        few(&[0, 1, 2]),
        few(&[0, 300, 600]),
    )
        .prop_map(
            |(call_rate, call_burst, gpu_memory_mib, violations, quarantine_s)| Limits {
                call_rate,
                call_burst,
                gpu_memory_mib,
                violations_max: violations.map(|number| number as u32),
                quarantine_s,
                ..Limits::default()
            },
        )
}

fn settings() -> impl Strategy<Value = VmSettings> {
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Medium), Just(Priority::High)];
    let rarely = |strategy: std::ops::Range<u32>| prop::option::weighted(0.3, strategy);
    (
        prop::option::of(priority),
        rarely(1..4),
        rarely(1..3),
        rarely(1..3),
        limits(),
    )
        .prop_map(|(priority, weight, queue_depth, aging, limits)| VmSettings {
            priority,
            weight,
            queue_depth,
            aging_ms: aging.map(|aging| u64::from(aging) * 350),
            limits,
        })
}

/// Each is right by itself.
fn pool_settings() -> impl Strategy<Value = PoolSettings> {
    let policy = prop_oneof![Just(Policy::Priority), Just(Policy::Weighted), Just(Policy::Fifo)];
    let sharing = prop_oneof![3 => Just(Sharing::Turns), 1 => Just(Sharing::Mps)];
    (
        prop::option::weighted(0.3, policy),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, sharing),
        prop::option::weighted(0.3, 1..4u32),
        prop::option::weighted(0.3, 0..=GPUS as u32),
        prop::option::weighted(0.4, prop::sample::subsequence(&Rung::ALL[..], 0..=5)),
        limits(),
    )
        .prop_map(
            |(policy, exclusive, sharing, weight, gpus_per_vm, ladder, limits)| PoolSettings {
                policy,
                exclusive,
                sharing,
                weight,
                gpus_per_vm,
                ladder,
                limits,
            },
        )
}

fn model() -> impl Strategy<Value = Model> {
    let pool = (
        prop::collection::btree_set(0..GPUS, 1..=GPUS),
        prop::option::of(Just(350)),
        prop::option::of(1..3u32),
        pool_settings(),
    );
    let of_vms = prop::collection::vec(0..5usize, VMS as usize);
    let own = prop::collection::vec(prop::option::weighted(0.2, settings()), VMS as usize);
    (prop::collection::vec(pool, 0..4), of_vms, own).prop_map(|(pools, of_vms, own)| {
        let mut model = Model {
            pools: Vec::new(),
            own: BTreeMap::new(),
        };
        for (index, (gpus, aging_ms, queue_depth, own)) in (0..).zip(pools) {
            model.pools.push(Pool {
                name: POOLS[index].to_owned(),
                gpus: gpus.into_iter().map(gpu).collect(),
                vms: (0..VMS).filter(|vm| of_vms[*vm as usize] == index).collect(),
                aging_ms,
                queue_depth,
                own,
            });
            // What does not fit the others is left out.
            if !model.is_right() {
                model.pools[index].own = PoolSettings::default();
            }
            if !model.is_right() {
                model.pools.pop();
                break;
            }
        }
        for (vm, own) in (0..).zip(own) {
            let in_a_pool = model.pools.iter().any(|pool| pool.vms.contains(&vm));
            let Some(own) = own.filter(|_| in_a_pool) else {
                continue;
            };
            model.own.insert(vm, own);
            if !model.is_right() {
                model.own.remove(&vm);
            }
        }
        model
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let vms = (0..VMS, 0..6u32)
        .prop_map(|(first, more)| VmRange::new(first, first + more / 2).unwrap().to_string());
    let pool = prop::sample::select(&POOLS[..]).prop_map(str::to_owned);
    let gpu = (0..GPUS + 1).prop_map(|index| index.to_string());
    prop_oneof![
        (gpu.clone(), pool.clone()).prop_map(|(gpu, pool)| Edit::AssignGpu { gpu, pool }),
        (gpu, pool.clone()).prop_map(|(gpu, pool)| Edit::UnassignGpu { gpu, pool }),
        (vms.clone(), pool.clone(), settings(), any::<bool>()).prop_map(
            |(vms, pool, settings, move_from_other)| {
                Edit::RegisterVms {
                    vms,
                    pool,
                    settings,
                    move_from_other,
                }
            }
        ),
        vms.clone().prop_map(|vms| Edit::UnregisterVms { vms }),
        (vms, settings()).prop_map(|(vms, settings)| Edit::SetVms { vms, settings }),
        (pool, pool_settings()).prop_map(|(pool, settings)| Edit::SetPool { pool, settings }),
    ]
}

/// What a model's text is in a layout made of `choices`.
fn text_of(model: &Model, choices: &[bool]) -> String {
    let mut writer = Writer {
        text: String::new(),
        choices: choices.iter().cycle(),
        comments: Vec::new(),
    };
    writer.write(model);
    writer.text
}

/// The parts of a map that lines can be followed in: pools, VMs, and what counts for them whatever a wider table says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    gpus: BTreeMap<String, BTreeSet<String>>,
    pools: BTreeMap<u32, String>,
    /// By "pool A" or "VM 3", and key.
    settings: BTreeMap<(String, String), String>,
}

const USUAL: [(&str, &str); 6] = [
    ("policy", "priority"),
    ("exclusive", "false"),
    ("sharing", "turns"),
    ("weight", "1"),
    ("gpus_per_vm", "all"),
    ("ladder", "warn, deprioritise, stop, end, quarantine"),
];

impl Followed {
    fn of(model: &Model) -> Self {
        let mut followed = Self::default();
        for pool in &model.pools {
            followed.add_pool(&pool.name, pool.gpus.iter().cloned().collect());
            for vm in &pool.vms {
                followed.pools.insert(*vm, pool.name.clone());
            }
            let rungs: Vec<String> = pool.ladder().iter().map(Rung::to_string).collect();
            let number = pool.gpus_per_vm().map(|number| number.to_string());
            let said = [
                ("policy", pool.policy().to_string()),
                ("exclusive", pool.exclusive().to_string()),
                ("sharing", pool.sharing().to_string()),
                ("weight", pool.weight().to_string()),
                ("gpus_per_vm", number.unwrap_or("all".to_owned())),
                (
                    "ladder",
                    if rungs.is_empty() {
                        "none".to_owned()
                    } else {
                        rungs.join(", ")
                    },
                ),
            ];
            for (key, text) in said {
                let table = format!("pool {}", pool.name);
                followed.settings.insert((table, key.to_owned()), text);
            }
        }
        for (vm, own) in &model.own {
            followed.set_vm(
                *vm,
                "priority",
                own.priority.unwrap_or(Priority::Medium).to_string(),
            );
            followed.set_vm(*vm, "weight", own.weight.unwrap_or(1).to_string());
        }
        followed
    }

    fn add_pool(&mut self, name: &str, gpus: BTreeSet<String>) {
        self.gpus.insert(name.to_owned(), gpus);
        for (key, usual) in USUAL {
            self.settings
                .insert((format!("pool {name}"), key.to_owned()), usual.to_owned());
        }
    }

    /// What is so for every VM unless it is set is left out.
    fn set_vm(&mut self, vm: u32, key: &str, text: String) {
        let at = (format!("VM {vm}"), key.to_owned());
        match (key, text.as_str()) {
            ("priority", "medium") | ("weight", "1") => drop(self.settings.remove(&at)),
            _ => drop(self.settings.insert(at, text)),
        }
    }

    /// Does what a line says, and holds it to what it says was so.
    fn follow(&mut self, line: &str) -> Option<()> {
        let (name, said) = line.split_once(": ")?;
        let gpu = |said: &str| said.strip_prefix("GPU ").map(str::to_owned);
        if let Some(pool) = name.strip_prefix("pool ") {
            let of_pool = |key: &str| (name.to_owned(), key.to_owned());
            if let Some(gpus) = said.strip_prefix("new, with ") {
                let gpus = gpus.trim_start_matches("GPUs ").trim_start_matches("GPU ");
                self.add_pool(pool, gpus.split(", ").map(str::to_owned).collect());
            } else if let Some(gpus) = said.strip_prefix("removed, with ") {
                let gone = self.gpus.remove(pool)?;
                gone.iter().all(|gpu| gpus.contains(gpu)).then_some(())?;
                self.settings.retain(|(table, _), _| table != name);
            } else if let Some(gets) = said.strip_prefix("gets ") {
                self.gpus.get_mut(pool)?.insert(gpu(gets)?).then_some(())?;
            } else if let Some(loses) = said.strip_prefix("loses ") {
                self.gpus.get_mut(pool)?.remove(&gpu(loses)?).then_some(())?;
            } else {
                let (key, text) = said.split_once(' ')?;
                if USUAL.iter().any(|(usual, _)| *usual == key) {
                    let (text, was) = text
                        .split_once(", was ")
                        .map_or((text, None), |(text, was)| (text, Some(was)));
                    let before = self.settings.insert(of_pool(key), text.to_owned())?;
                    was.is_none_or(|was| was == before).then_some(())?;
                }
            }
            return Some(());
        }
        let ranges = name
            .strip_prefix("VMs ")
            .or(name.strip_prefix("VM "))?
            .split(", ");
        let ranges: Vec<VmRange> = ranges.map(|range| range.parse().ok()).collect::<Option<_>>()?;
        for vm in ranges.iter().flat_map(|range| range.iter()) {
            if let Some(pool) = said.strip_prefix("in pool ") {
                self.pools.insert(vm, pool.to_owned()).is_none().then_some(())?;
            } else if let Some(pool) = said.strip_prefix("no longer in pool ") {
                (self.pools.remove(&vm)? == pool).then_some(())?;
            } else if let Some(pools) = said.strip_prefix("from pool ") {
                let (from, to) = pools.split_once(" to pool ")?;
                (self.pools.insert(vm, to.to_owned())? == from).then_some(())?;
            } else if said.ends_with("settings are removed") {
                self.settings.retain(|(table, _), _| *table != format!("VM {vm}"));
            } else if let Some((key @ ("priority" | "weight"), text)) = said.split_once(' ') {
                self.set_vm(vm, key, text.split_once(", was ")?.0.to_owned());
            }
        }
        Some(())
    }
}

/// What a map means, however it is written: what is as it would be without a word is not said, the order does not count.
fn meaning(model: &Model) -> Model {
    let mut model = model.clone();
    model.pools.sort_by(|one, other| one.name.cmp(&other.name));
    for pool in &mut model.pools {
        pool.gpus.sort();
        pool.own = PoolSettings {
            policy: Some(pool.policy()),
            exclusive: Some(pool.exclusive()),
            sharing: Some(pool.sharing()),
            weight: Some(pool.weight()),
            gpus_per_vm: Some(pool.gpus_per_vm().unwrap_or(0)),
            ladder: Some(pool.ladder()),
            limits: pool.own.limits,
        };
    }
    for own in model.own.values_mut() {
        own.priority = own.priority.filter(|priority| *priority != Priority::Medium);
        own.weight = own.weight.filter(|weight| *weight != 1);
    }
    model.own.retain(|_, own| *own != VmSettings::default());
    model
}

/// Two maps, often such as differ little or not at all.
fn two_models() -> impl Strategy<Value = (Model, Model)> {
    let edits = prop::collection::vec(edit(), 0..3);
    (model(), model(), edits, any::<bool>(), 0..3u32).prop_map(|(before, other, edits, turned, kind)| {
        if kind == 0 {
            return (before, other);
        }
        let mut after = before.clone();
        for edit in edits {
            let mut next = after.clone();
            if next.apply(&edit).is_ok() {
                after = next;
            }
        }
        if turned {
            after.pools.reverse();
        }
        (before, after)
    })
}

proptest! {
    #[test]
    fn what_differs_between_maps_is_told(
        (before, after) in two_models(),
        choices in prop::collection::vec(any::<bool>(), 1..60),
        others in prop::collection::vec(any::<bool>(), 1..60),
    ) {
        let texts = [text_of(&before, &choices), text_of(&after, &others)];
        let [old, new] = [&texts[0], &texts[1]].map(|text| PoolMap::parse(text, None).unwrap());
        let (lines, back) = (differences(&old, &new), differences(&new, &old));
        let same = meaning(&before) == meaning(&after);
        prop_assert_eq!(lines.is_empty(), same, "{:?}\n{}\n{}", lines, texts[0], texts[1]);
        prop_assert_eq!(back.is_empty(), same, "{:?}\n{}\n{}", back, texts[0], texts[1]);
        for (from, to, lines) in [(&before, &after, &lines), (&after, &before, &back)] {
            let mut followed = Followed::of(from);
            for line in lines {
                prop_assert!(followed.follow(line).is_some(), "{}\n{:?}\n{}\n{}", line, followed, texts[0], texts[1]);
            }
            prop_assert_eq!(&followed, &Followed::of(to), "{:?}\n{}\n{}", lines, texts[0], texts[1]);
            // Nothing is told twice.
            prop_assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "{:?}", lines);
        }
    }

    #[test]
    fn edits_mean_what_they_say_and_leave_the_rest_alone(
        model in model(),
        choices in prop::collection::vec(any::<bool>(), 1..60),
        edits in prop::collection::vec(edit(), 1..12),
    ) {
        let mut writer = Writer { text: String::new(), choices: choices.iter().cycle(), comments: Vec::new() };
        writer.write(&model);
        let (mut text, comments) = (writer.text, writer.comments);
        model.is_meant_by(&text)?;
        let mut model = model;
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for edit in edits {
            let mut next = model.clone();
            let edited = match (next.apply(&edit), apply(&text, std::slice::from_ref(&edit), &named)) {
                (Ok(()), Ok(edited)) => edited,
                (Err(Wrong::NotFound), Err(EditError::NotFound(_))) => continue,
                (Err(Wrong::Refused), Err(EditError::Refused(_))) => continue,
                (expected, found) => {
                    return Err(TestCaseError::fail(format!("{edit:?}: {expected:?}, {found:?}\n{text}")));
                }
            };
            next.is_meant_by(&edited.text)?;
            // It is said what changed, if anything has, and nothing else is touched.
            prop_assert_eq!(edited.changes.is_empty(), next == model, "{:?}\n{}", edit, text);
            prop_assert_eq!(edited.changes.is_empty(), edited.text == text, "{:?}\n{}", edit, text);
            let (before, after) = (blocks(&text), blocks(&edited.text));
            for pool in model.pools.iter().filter(|pool| next.pools.contains(pool)) {
                let key = format!("pool {}", pool.name);
                prop_assert!(before.contains_key(&key));
                prop_assert_eq!(before.get(&key), after.get(&key));
            }
            for (vm, _) in model.own.iter().filter(|(vm, own)| next.own.get(vm) == Some(own)) {
                let key = format!("vm {:?}", Ok::<_, std::num::ParseIntError>(*vm));
                prop_assert!(before.contains_key(&key));
                prop_assert_eq!(before.get(&key), after.get(&key), "{}\n{}", text, edited.text);
            }
            let inside_of = |model: &Model| -> BTreeSet<String> {
                let pools = model.pools.iter().map(|pool| format!("pool {}", pool.name));
                pools.chain(model.own.keys().map(|vm| format!("vm {vm}"))).collect()
            };
            gone.extend(&inside_of(&model) - &inside_of(&next));
            for (comment, inside) in &comments {
                let expected = usize::from(inside.as_ref().is_none_or(|inside| !gone.contains(inside)));
                prop_assert_eq!(
                    edited.text.matches(comment.as_str()).count(), expected,
                    "{} after {:?}\n{}\n{}", comment, edit, text, edited.text
                );
            }
            (model, text) = (next, edited.text);
        }
    }
}
