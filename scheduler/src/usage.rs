//! What VMs used, by hour: each growth of a VM's counters is entered once, in the hour and for the pool in which it came.
//!
//! An hour of the books is over when this program says so, which it does as soon as it gets to it after the clock's hour is
//! over. What was charged up to then is the old hour's, all of it, and what comes after the new one's; so hours add up to what
//! the counters have grown by, to the microsecond, whatever clocks do.
use crate::daemon::Daemon;
use crate::history::now_s;
use crate::requests::Refused;
use crate::sessions::{calls, of_vm};
use crate::stats::Times;
use crate::store::{Changes, Of, Question, Saved};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vgpu_sched_api::messages::{Refusal, Sample, Used, WantedUsage};
use vgpu_sched_core::Session;

/// Seconds of an hour.
pub const HOUR_S: u64 = 3600;
/// How often what is only held, as memory is, is written, in microseconds.
const WRITE_HELD_US: u64 = 60_000_000;
/// Bytes of a part's name at most: two numbers and a pool's name.
const NEXT_LEN_MAX: usize = 128;

/// Significant digits of an hour's waits: their percentiles are exact to a hundredth.
const WAIT_DIGITS: u8 = 2;

/// What a VM used in some time. Percentiles of its waits are known once all of an hour's are together.
#[derive(Debug, Default)]
pub struct Spent {
    pub used: Used,
    pub waits: Waits,
}

impl Spent {
    /// What comes to it in the same hour.
    pub fn add(&mut self, more: Self) {
        self.used = self.used.plus(more.used);
        self.waits.add(more.waits);
    }
}

/// How long was waited.
#[derive(Debug, Default)]
pub struct Waits {
    /// For turns.
    turns: Times<WAIT_DIGITS>,
    /// By calls that need the GPU.
    calls: Times<WAIT_DIGITS>,
}

impl Waits {
    /// As many times as both together.
    pub fn add(&mut self, more: Self) {
        self.turns.add(more.turns);
        self.calls.add(more.calls);
    }

    /// Whether nobody waited.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.calls.is_empty()
    }

    /// What was used, with the percentiles of these.
    pub fn told(&self, used: Used) -> Used {
        let (turns, calls) = (self.turns.percentiles(), self.calls.percentiles());
        Used {
            turn_wait_p50_us: turns.p50,
            turn_wait_p99_us: turns.p99,
            call_wait_p50_us: calls.p50,
            call_wait_p99_us: calls.p99,
            ..used
        }
    }
}

/// Counters of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub gpu_ns: u64,
    pub estimated_ns: u64,
    pub turns: u64,
    pub calls: u64,
    pub violations: u64,
    pub refused: u64,
}

/// Whose it is, and when that was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Since 1970.
    pub hour: u64,
    pub vm: u32,
    /// Empty if it was in none.
    pub pool: String,
}

/// A VM's.
#[derive(Debug, Default)]
struct Account {
    /// Its counters, as far as they are entered. None falls: GPU time that turns out to have been idle is no longer charged
    /// once it is entered, and what comes is entered when it is more than that again.
    entered: Counters,
    /// What it waited for turns that are not entered, in all and at most.
    waited_us: u64,
    waited_max_us: u64,
    /// Those waits and those of calls.
    waits: Waits,
    /// Memory times microseconds that are not entered.
    held: u128,
}

impl Account {
    /// What is to be entered.
    fn take(&mut self, now: Counters) -> Spent {
        let was = self.entered;
        let gpu_ns = was.gpu_ns.max(now.gpu_ns);
        let gpu_us = gpu_ns / 1000 - was.gpu_ns / 1000;
        // No more of it is an estimate than there is; the rest of that is entered later.
        let estimated_us = (now.estimated_ns / 1000).saturating_sub(was.estimated_ns / 1000);
        let estimated_us = estimated_us.min(gpu_us);
        self.entered = Counters {
            gpu_ns,
            estimated_ns: was.estimated_ns + estimated_us * 1000,
            turns: was.turns.max(now.turns),
            calls: was.calls.max(now.calls),
            violations: was.violations.max(now.violations),
            refused: was.refused.max(now.refused),
        };
        let memory = self.held / 1_000_000;
        self.held %= 1_000_000;
        let waits = std::mem::take(&mut self.waits);
        let used = Used {
            gpu_microseconds: gpu_us,
            estimated_microseconds: estimated_us,
            turns: self.entered.turns - was.turns,
            turn_wait_us: std::mem::take(&mut self.waited_us),
            turn_wait_max_us: std::mem::take(&mut self.waited_max_us),
            call_waits: waits.calls.count(),
            call_wait_max_us: waits.calls.most(),
            calls: self.entered.calls - was.calls,
            violations: self.entered.violations - was.violations,
            refused: self.entered.refused - was.refused,
            memory_byte_seconds: u64::try_from(memory).unwrap_or(u64::MAX),
            ..Used::default()
        };
        Spent { used, waits }
    }
}

/// What all VMs used and is not written yet.
#[derive(Debug, Default)]
pub struct Books {
    hour: u64,
    accounts: BTreeMap<u32, Account>,
    entries: BTreeMap<Entry, Spent>,
    /// For how long each GPU was in use, by UUID, in nanoseconds: as far as it is entered.
    gpus: BTreeMap<String, u64>,
    /// The same of each hour, in microseconds.
    gpu_entries: BTreeMap<(u64, String), u64>,
}

impl Books {
    /// Goes on from counters that are entered already, in this hour.
    pub fn new(hour: u64, entered: impl IntoIterator<Item = (u32, Counters)>) -> Self {
        let account = |(vm, entered)| {
            let account = Account {
                entered,
                ..Account::default()
            };
            (vm, account)
        };
        Self {
            hour,
            accounts: entered.into_iter().map(account).collect(),
            ..Self::default()
        }
    }

    /// The hour in which everything is entered.
    pub fn hour(&self) -> u64 {
        self.hour
    }

    /// What comes now is another hour's.
    pub fn begin(&mut self, hour: u64) {
        self.hour = hour;
    }

    /// The GPU time of a VM that is entered, in nanoseconds.
    pub fn gpu_ns(&self, vm: u32) -> u64 {
        self.accounts.get(&vm).map_or(0, |account| account.entered.gpu_ns)
    }

    /// A VM waited so long for a turn.
    pub fn waited(&mut self, vm: u32, us: u64) {
        let account = self.accounts.entry(vm).or_default();
        account.waited_us = account.waited_us.saturating_add(us);
        account.waited_max_us = account.waited_max_us.max(us);
        account.waits.turns.record(us, 1);
    }

    /// Calls of a VM waited so long, as an executor says.
    pub fn called(&mut self, vm: u32, waits: &[Sample]) {
        self.accounts.entry(vm).or_default().waits.calls.take(waits);
    }

    /// A VM had so much memory for so long.
    pub fn held(&mut self, vm: u32, bytes: u64, us: u64) {
        let account = self.accounts.entry(vm).or_default();
        // Its bytes are an executor's word.
        account.held = account.held.saturating_add(u128::from(bytes) * u128::from(us));
    }

    /// Enters what a VM used up to now, for the pool in which it is.
    pub fn enter(&mut self, vm: u32, pool: &str, now: Counters) {
        let spent = self.accounts.entry(vm).or_default().take(now);
        if spent.used == Used::default() && spent.waits.is_empty() {
            return;
        }
        let entry = Entry {
            hour: self.hour,
            vm,
            pool: pool.to_owned(),
        };
        self.entries.entry(entry).or_default().add(spent);
    }

    /// Enters for how long a GPU was in use up to now, since this program started. It may fall, as what VMs used may.
    pub fn enter_gpu(&mut self, uuid: &str, busy_ns: u64) {
        let was = self.gpus.get(uuid).copied().unwrap_or_default();
        let busy_us = (busy_ns / 1000).saturating_sub(was / 1000);
        if busy_us > 0 {
            self.gpus.insert(uuid.to_owned(), busy_ns);
            let entered = self.gpu_entries.entry((self.hour, uuid.to_owned())).or_default();
            *entered += busy_us;
        }
    }

    /// The VMs of which something is not written.
    pub fn vms(&self) -> BTreeSet<u32> {
        self.entries.keys().map(|entry| entry.vm).collect()
    }

    /// Whether anything but memory of a VM is to be entered.
    fn has_grown(&self, vm: u32, now: Counters) -> bool {
        let Some(account) = self.accounts.get(&vm) else {
            return now != Counters::default();
        };
        let was = account.entered;
        now.gpu_ns / 1000 > was.gpu_ns / 1000
            || now.turns > was.turns
            || now.calls > was.calls
            || now.violations > was.violations
            || now.refused > was.refused
            || !account.waits.is_empty()
    }

    /// The VMs that held memory which is not entered.
    fn holders(&self) -> Vec<u32> {
        let holds = |(vm, account): (&u32, &Account)| (account.held > 0).then_some(*vm);
        self.accounts.iter().filter_map(holds).collect()
    }

    /// What is to be written of these VMs, and of GPUs, which it then is.
    pub fn take(&mut self, vms: &BTreeSet<u32>) -> Changes {
        let (hours, left) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(entry, _)| vms.contains(&entry.vm));
        self.entries = left;
        Changes {
            hours,
            gpu_hours: std::mem::take(&mut self.gpu_entries),
            ..Changes::default()
        }
    }
}

impl Daemon {
    /// Enters what VMs used up to now, and for what is over the hour that it was of.
    pub(crate) fn begin_hour(&mut self) {
        let hour = now_s() / HOUR_S;
        if hour != self.books.hour() {
            self.settle(true);
            self.books.begin(hour);
        }
    }

    /// When the hour is over, as far as the clock can be foreseen.
    pub(crate) fn hour_ends_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let hour = Duration::from_secs((since.as_secs() / HOUR_S + 1) * HOUR_S);
        self.now_us() + hour.saturating_sub(since).as_micros() as u64
    }

    /// Enters what VMs used up to now; what they only held, too, if that is wanted.
    pub(crate) fn settle(&mut self, held: bool) {
        self.look_at_all();
        let now_us = self.now_us();
        let passed_us = now_us - std::mem::replace(&mut self.settled_us, now_us);
        for (vm, page) in &self.vm_pages {
            self.books.held(*vm, page.used(), passed_us);
        }
        let known = self.sessions.keys().map(|session| session.vm);
        let vms: BTreeSet<u32> = known.chain(self.unwritten.iter().copied()).collect();
        for vm in vms {
            if held || self.books.has_grown(vm, self.counters(vm)) {
                self.enter(vm);
            }
        }
        if held {
            for vm in self.books.holders() {
                self.enter(vm);
            }
        }
        for (gpu, uuid) in self.inventory.numbered() {
            self.books.enter_gpu(uuid, self.core.busy_ns(gpu));
        }
    }

    fn enter(&mut self, vm: u32) {
        let now = self.counters(vm);
        let pool = self.map.pool_of(vm).map_or("", |pool| &pool.name);
        self.books.enter(vm, pool, now);
    }

    /// What is counted of a VM.
    fn counters(&self, vm: u32) -> Counters {
        let usage = self.usage(vm);
        Counters {
            gpu_ns: usage.ns,
            estimated_ns: usage.estimated_ns,
            turns: usage.turns,
            calls: self.calls(vm),
            violations: usage.violations,
            refused: self.statistics.refused(vm),
        }
    }

    /// Has everything written that VMs used up to now.
    pub(crate) fn write_usage(&mut self) {
        self.written_us = self.now_us();
        let held = self.held_written_us + WRITE_HELD_US <= self.written_us;
        if held {
            self.held_written_us = self.written_us;
        }
        self.settle(held);
        let mut vms = std::mem::take(&mut self.unwritten);
        vms.extend(self.books.vms());
        self.write_vms(&vms, None);
        // Turns that are still held go on.
        let seated = self.sessions.iter().filter(|(_, live)| live.seated);
        self.unwritten = seated.map(|(id, _)| id.vm).collect();
    }

    /// Has written what a VM used, one of whose sessions is over.
    pub(crate) fn write_ended(&mut self, ended: Session) {
        self.enter(ended.vm);
        self.write_vms(&BTreeSet::from([ended.vm]), Some(ended));
    }

    /// Counters, what of them is entered by hour, and the sessions whose calls are counted among them are written together, so
    /// that they are of one moment however this program ends.
    fn write_vms(&mut self, vms: &BTreeSet<u32>, ended: Option<Session>) {
        let sessions = vms.iter().flat_map(|vm| of_vm(&self.placed, *vm));
        let sessions = sessions.map(|(id, placed)| (id, Some(placed.clone())));
        self.store.write(Changes {
            usage: vms.iter().map(|vm| (*vm, self.usage(*vm))).collect(),
            sessions: sessions.chain(ended.map(|id| (id, None))).collect(),
            ..self.books.take(vms)
        });
    }
}

/// What was entered when all this was saved.
pub fn entered(saved: &Saved) -> impl Iterator<Item = (u32, Counters)> {
    let vms = saved.sessions.keys().map(|session| session.vm);
    let vms: BTreeSet<u32> = vms.chain(saved.usage.keys().copied()).collect();
    vms.into_iter().map(|vm| {
        let usage = saved.usage.get(&vm).copied().unwrap_or_default();
        let counters = Counters {
            gpu_ns: usage.ns,
            estimated_ns: usage.estimated_ns,
            turns: usage.turns,
            calls: calls(vm, usage.calls, &saved.sessions),
            violations: usage.violations,
            // Since this program started.
            refused: 0,
        };
        (vm, counters)
    })
}

/// What is asked of the hours of these, if it makes sense.
pub fn question(of: Of, wanted: WantedUsage) -> Result<Question, Refused> {
    let invalid = |message: String| (Refusal::Invalid, message);
    if of == Of::Gpus && (wanted.vms.is_some() || wanted.pool.is_some()) {
        let message = "what GPUs were used is told of all VMs together: expected neither VMs nor a pool";
        return Err(invalid(message.to_owned()));
    }
    let vms = match wanted.vms {
        Some(vms) => Some(vms.parse().map_err(|error| invalid(format!("vms: {error}")))?),
        None => None,
    };
    let (from_s, to_s) = (wanted.from_s, wanted.to_s);
    if from_s >= to_s {
        let message = format!("from {from_s} to {to_s}: expected an end behind the beginning");
        return Err(invalid(message));
    }
    let next = wanted.next.map(|text| {
        place(&text).ok_or_else(|| invalid("next: expected what the answer before this one has".to_owned()))
    });
    Ok(Question {
        of,
        vms,
        pool: wanted.pool,
        hours: from_s / HOUR_S..to_s.div_ceil(HOUR_S),
        by: wanted.by,
        next: next.transpose()?,
    })
}

/// Where an answer ended, as the next question has it.
pub fn next(entry: &Entry) -> String {
    format!("{} {} {}", entry.hour, entry.vm, entry.pool)
}

fn place(next: &str) -> Option<Entry> {
    let mut words = next.splitn(3, ' ');
    let (hour, vm, pool) = (words.next()?, words.next()?, words.next()?);
    (next.len() <= NEXT_LEN_MAX).then_some(Entry {
        hour: hour.parse().ok()?,
        vm: vm.parse().ok()?,
        pool: pool.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::hours::tests::read_all;
    use crate::store::{Store, Usage};
    use proptest::prelude::*;
    use vgpu_sched_api::messages::Period;

    const VMS: u32 = 3;
    const POOLS: [&str; 3] = ["", "A", "B"];

    /// What comes to a VM, or to the program.
    #[derive(Clone, Debug)]
    enum Step {
        /// Nanoseconds, and how much of them is an estimate; calls, turns and violations.
        Grow(u32, u64, u64, u64),
        /// What was charged turns out to have been idle time.
        Fall(u32, u64),
        Wait(u32, u64),
        Hold(u32, u64, u64),
        /// It is unregistered, or registered again, maybe elsewhere, or its pool gets another name.
        Move(u32, usize),
        /// The clock says another hour, also an earlier one.
        Hour(u64),
        /// Everything is written.
        Write,
        /// The program is killed, and started anew.
        Kill,
    }

    fn step() -> impl Strategy<Value = Step> {
        let vm = 0..VMS;
        prop_oneof![
            6 => (vm.clone(), 0..5_000_000_000u64, 0..5_000_000_000u64, 0..9u64)
                .prop_map(|(vm, ns, estimated, count)| Step::Grow(vm, ns, estimated, count)),
            2 => (vm.clone(), 0..3_000_000_000u64).prop_map(|(vm, ns)| Step::Fall(vm, ns)),
            2 => (vm.clone(), 0..9_000_000u64).prop_map(|(vm, us)| Step::Wait(vm, us)),
            2 => (vm.clone(), 0..1u64 << 40, 0..60_000_000u64).prop_map(|(vm, bytes, us)| Step::Hold(vm, bytes, us)),
            2 => (vm, 0..POOLS.len()).prop_map(|(vm, pool)| Step::Move(vm, pool)),
            2 => (1_000..1_004u64).prop_map(Step::Hour),
            3 => Just(Step::Write),
            1 => Just(Step::Kill),
        ]
    }

    /// The program, as far as it counts.
    struct Program {
        store: Store,
        books: Books,
        live: BTreeMap<u32, Counters>,
        pools: [&'static str; VMS as usize],
        /// What was written last, of each VM.
        told: BTreeMap<u32, Usage>,
        waited: BTreeMap<u32, (u64, u64)>,
        told_waits: BTreeMap<u32, (u64, u64)>,
        hour: u64,
    }

    impl Program {
        fn start(dir: &std::path::Path, hour: u64) -> Self {
            let (store, saved) = Store::open(dir, 1_000).unwrap();
            let live = entered(&saved).collect::<BTreeMap<_, _>>();
            Self {
                store,
                books: Books::new(hour, live.clone()),
                live,
                pools: ["A"; VMS as usize],
                told: saved.usage,
                waited: BTreeMap::new(),
                told_waits: BTreeMap::new(),
                hour,
            }
        }

        fn settle(&mut self) {
            for vm in 0..VMS {
                let mut live = self.live.get(&vm).copied().unwrap_or_default();
                live.gpu_ns = live.gpu_ns.max(self.books.gpu_ns(vm));
                self.books.enter(vm, self.pools[vm as usize], live);
            }
        }

        fn write(&mut self) {
            self.settle();
            let usage = |vm| {
                let live = self.live.get(&vm).copied().unwrap_or_default();
                Usage {
                    turns: live.turns,
                    ns: live.gpu_ns.max(self.books.gpu_ns(vm)),
                    estimated_ns: live.estimated_ns,
                    calls: live.calls,
                    violations: live.violations,
                }
            };
            let vms: BTreeSet<u32> = (0..VMS).collect();
            self.told = vms.iter().map(|vm| (*vm, usage(*vm))).collect();
            self.told_waits = self.waited.clone();
            self.store.write(Changes {
                usage: self.told.clone(),
                ..self.books.take(&vms)
            });
        }

        fn take(&mut self, step: &Step) {
            match *step {
                Step::Grow(vm, ns, estimated, count) => {
                    let live = self.live.entry(vm).or_default();
                    live.gpu_ns += ns;
                    live.estimated_ns += estimated.min(ns);
                    live.turns += count;
                    live.calls += 2 * count;
                    live.violations += count / 4;
                }
                Step::Fall(vm, ns) => {
                    let live = self.live.entry(vm).or_default();
                    live.gpu_ns = live.gpu_ns.saturating_sub(ns);
                    live.estimated_ns = live.estimated_ns.min(live.gpu_ns);
                }
                Step::Wait(vm, us) => {
                    self.books.waited(vm, us);
                    let (sum, most) = self.waited.entry(vm).or_default();
                    *sum += us;
                    *most = us.max(*most);
                }
                Step::Hold(vm, bytes, us) => self.books.held(vm, bytes, us),
                Step::Move(vm, pool) => {
                    self.settle();
                    self.pools[vm as usize] = POOLS[pool];
                }
                Step::Hour(hour) => {
                    self.settle();
                    self.books.begin(hour);
                    self.hour = hour;
                }
                Step::Write => self.write(),
                Step::Kill => {}
            }
        }

        /// By VM: what its hours add up to.
        fn sums(&mut self, by: Period) -> BTreeMap<u32, Used> {
            let mut sums: BTreeMap<u32, Used> = BTreeMap::new();
            for record in read_all(&mut self.store, by) {
                let sum = sums.entry(record.vm).or_default();
                *sum = sum.plus(record.used);
            }
            sums
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Over restarts, ends of hours, clocks that are set back, and VMs that come and go.
        #[test]
        fn hours_add_up_to_what_the_counters_have_grown_by(steps in prop::collection::vec(step(), 0..60)) {
            let dir = tempfile::tempdir().unwrap();
            let mut program = Program::start(dir.path(), 1_000);
            let mut waits: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for step in steps.iter().chain([&Step::Write, &Step::Kill]) {
                if !matches!(step, Step::Kill) {
                    program.take(step);
                    continue;
                }
                let (told, hour, pools) = (program.told.clone(), program.hour, program.pools);
                for (vm, (sum, most)) in std::mem::take(&mut program.told_waits) {
                    let all = waits.entry(vm).or_default();
                    *all = (all.0 + sum, all.1.max(most));
                }
                drop(program);
                program = Program::start(dir.path(), hour);
                program.pools = pools;
                prop_assert_eq!(&program.told, &told, "what was written last is there, and nothing else");
                let sums = program.sums(Period::Hour);
                prop_assert_eq!(&program.sums(Period::Day), &sums);
                for vm in 0..VMS {
                    let (sum, total) = (sums.get(&vm).copied().unwrap_or_default(), told.get(&vm).copied());
                    let total = total.unwrap_or_default();
                    prop_assert_eq!(sum.gpu_microseconds, total.ns / 1000);
                    prop_assert!(sum.estimated_microseconds <= sum.gpu_microseconds);
                    prop_assert_eq!(
                        (sum.turns, sum.calls, sum.violations),
                        (total.turns, total.calls, total.violations)
                    );
                    let waited = (sum.turn_wait_us, sum.turn_wait_max_us);
                    prop_assert_eq!(waited, waits.get(&vm).copied().unwrap_or_default());
                }
            }
        }
    }

    #[test]
    fn what_is_used_is_its_hours_and_its_pools() {
        let mut books = Books::new(
            7,
            [(
                1,
                Counters {
                    gpu_ns: 5_000_999,
                    ..Counters::default()
                },
            )],
        );
        let at = |gpu_ns| Counters {
            gpu_ns,
            estimated_ns: 2_000_000,
            turns: 1,
            ..Counters::default()
        };
        books.waited(1, 9);
        books.waited(1, 4);
        books.enter(1, "A", at(6_000_000));
        // Fell, and then grew by less than it fell; an hour is over.
        books.enter(1, "A", at(5_500_000));
        books.begin(8);
        books.enter(1, "A", at(5_900_000));
        books.held(1, 3_000_000, 500_000);
        books.held(1, 1, 999_999);
        assert!(!books.has_grown(1, at(6_000_000)) && books.has_grown(1, at(6_001_000)));
        books.enter(1, "B", at(7_000_000));
        books.enter(2, "", at(0));
        let entry = |hour, vm, pool: &str| Entry {
            hour,
            vm,
            pool: pool.to_owned(),
        };
        let taken = |books: &mut Books| -> BTreeMap<Entry, Used> {
            let hours = books.take(&BTreeSet::from([1])).hours;
            hours
                .into_iter()
                .map(|(entry, spent)| (entry, spent.used))
                .collect()
        };
        let expected = [
            (
                entry(7, 1, "A"),
                Used {
                    gpu_microseconds: 1_000,
                    estimated_microseconds: 1_000,
                    turns: 1,
                    turn_wait_us: 13,
                    turn_wait_max_us: 9,
                    ..Used::default()
                },
            ),
            (
                entry(8, 1, "B"),
                Used {
                    gpu_microseconds: 1_000,
                    estimated_microseconds: 1_000,
                    memory_byte_seconds: 1_500_000,
                    ..Used::default()
                },
            ),
        ];
        assert_eq!(books.vms(), BTreeSet::from([1, 2]));
        assert_eq!(taken(&mut books), BTreeMap::from(expected));
        assert_eq!(books.vms(), BTreeSet::from([2]));
        assert_eq!(books.gpu_ns(1), 7_000_000);
        // What an executor says may be anything.
        books.held(1, u64::MAX, u64::MAX);
        books.held(1, u64::MAX, u64::MAX);
        books.enter(1, "B", at(7_000_000));
        assert_eq!(taken(&mut books)[&entry(8, 1, "B")].memory_byte_seconds, u64::MAX);
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused() {
        let wanted = WantedUsage {
            vms: Some("1-7".to_owned()),
            pool: None,
            from_s: 7_199,
            to_s: 7_201,
            by: Period::Hour,
            next: Some(next(&Entry {
                hour: 2,
                vm: 3,
                pool: "a b".to_owned(),
            })),
        };
        let asked = question(Of::Vms, wanted.clone()).unwrap();
        assert_eq!(asked.hours, 1..3);
        assert_eq!(asked.next.unwrap().pool, "a b");
        let refused = |wanted| question(Of::Vms, wanted).unwrap_err().1;
        let vms = WantedUsage {
            vms: Some("7-1".to_owned()),
            ..wanted.clone()
        };
        assert!(refused(vms).starts_with("vms: \"7-1\""));
        let backwards = WantedUsage {
            to_s: 7_199,
            ..wanted.clone()
        };
        assert!(refused(backwards).contains("expected an end behind the beginning"));
        for next in [
            "",
            "1",
            "1 2",
            "a 1 A",
            &format!("1 2 {}", "A".repeat(NEXT_LEN_MAX)),
        ] {
            let next = WantedUsage {
                next: Some(next.to_owned()),
                ..wanted.clone()
            };
            assert!(refused(next).contains("expected what the answer before"));
        }
    }
}
