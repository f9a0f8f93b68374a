//! The VM's limits as they hold here: rates of calls and the quota of GPU memory, kept in the page that the VM's executors
//! share ([`vgpu_sched_api::vm_page`]).
//!
//! Memory is counted in two parts. Allocations are counted exactly, before libcuda makes them. What contexts and modules
//! take, only the driver knows: it is estimated by the change of free memory where that can be asked, and corrected by what
//! the driver accounts to this process ([`Limits::told`]).
use crate::clock::now_ns;
use crate::sealed::{check_sealed, map_for_good};
use crate::turn::Stopped;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vgpu_protocol::calls::Call;
use vgpu_protocol::result::{self, Code};
use vgpu_sched_api::vm_page::{Bucket, GPUS, PAGE_LEN, SLOTS, UNLIMITED, VmPage};

/// A thread that is held back looks again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// From this size on libcuda takes memory from the driver in [`GRANULE`]s; smaller allocations share blocks of that size.
const LARGE: u64 = 1 << 20;
/// How long a context that cannot be measured waits for the driver's account of it.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);
/// Bytes.
const GRANULE: u64 = 2 << 20;
/// Smaller allocations are multiples of this, in bytes.
const SMALL: u64 = 512;

/// What an allocation of that many bytes takes of the quota; `None` if there is no such memory. (The block that the first
/// small allocation takes, and what of it is not in use, are not counted here but with what the driver accounts.)
fn taken_by(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(if bytes < LARGE { SMALL } else { GRANULE })
}

/// Memory that is counted, to be given back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    gpu: usize,
    bytes: u64,
    part: Part,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Allocated,
    Estimated,
}

impl Charge {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What the session has on one GPU, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// Which column of a slot is for the GPU.
    column: usize,
    allocated: u64,
    estimated: u64,
    /// Bounds of `allocated` since the driver's account was last told.
    least: u64,
    most: u64,
}

impl Counted {
    fn allocated(&mut self, bytes: u64) {
        self.allocated = bytes;
        self.least = self.least.min(bytes);
        self.most = self.most.max(bytes);
    }

    fn total(&self) -> u64 {
        self.allocated + self.estimated
    }

    /// The driver accounts that many bytes to this process. It looked at some time since it was last told, and what was
    /// allocated then lay within the bounds: the estimate is moved as far as that says for sure.
    fn told(&mut self, bytes: u64) {
        let (low, high) = (bytes.saturating_sub(self.most), bytes.saturating_sub(self.least));
        self.estimated = self.estimated.clamp(low, high);
        (self.least, self.most) = (self.allocated, self.allocated);
    }
}

/// Which column of a slot is for which GPU, by ordinal, each for one: these for the first GPUs, and for GPUs that there should not
/// be those that are left; `None` if one is none or comes twice.
fn columns(first: &[u32]) -> Option<[usize; GPUS]> {
    let mut columns: Vec<usize> = first.iter().map(|&column| column as usize).collect();
    // So there are as many as it has room for exactly if each is there once.
    columns.extend((0..GPUS).filter(|&column| !first.contains(&(column as u32))));
    columns.try_into().ok()
}

/// The page is there, and what this session has in it.
#[derive(Default)]
struct Account {
    /// Device and inode of the page's file.
    page: Option<(u64, u64)>,
    slot: usize,
    /// By ordinal. One for which there is none has no column either.
    gpus: [Counted; GPUS],
    /// The memory is on the host, and not counted meanwhile.
    suspended: bool,
    /// The driver does not account memory to processes.
    silent: bool,
    /// What was asked for was told.
    answered: bool,
}

impl Account {
    /// The column of a GPU, if it can have one.
    fn column(&self, gpu: usize) -> Option<usize> {
        self.gpus.get(gpu).map(|counted| counted.column)
    }
}

/// See the module.
#[derive(Default)]
pub struct Limits {
    /// The VM page; null before there is one. Pages are never unmapped.
    page: AtomicPtr<VmPage>,
    account: Mutex<Account>,
    /// The driver's account was told.
    told: Condvar,
    throttled_us: AtomicU64,
    refused: AtomicU64,
}

impl Limits {
    /// Takes the VM page, and which slot of it is this session's, with which columns; again whenever `vgpud` was restarted.
    pub fn connect(&self, page: OwnedFd, slot: u32, columns: &[u32]) -> std::io::Result<()> {
        let stat = check_sealed(&page, PAGE_LEN)?;
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < SLOTS);
        let slot = slot.ok_or_else(|| std::io::Error::other("no such slot"))?;
        let columns = self::columns(columns).ok_or_else(|| std::io::Error::other("no such columns"))?;
        let mut account = self.account();
        if account.page != Some((stat.st_dev, stat.st_ino)) {
            self.page.store(map_for_good(&page, PAGE_LEN)?.cast(), SeqCst);
            account.page = Some((stat.st_dev, stat.st_ino));
        }
        account.slot = slot;
        for (counted, column) in account.gpus.iter_mut().zip(columns) {
            counted.column = column;
        }
        if let Some(page) = self.page() {
            // What it has already counts, whatever the quota is.
            page.clear(slot);
            for counted in account.gpus.iter().filter(|_| !account.suspended) {
                page.add_memory(slot, counted.column, counted.total());
            }
        }
        Ok(())
    }

    fn page(&self) -> Option<&VmPage> {
        // SAFETY: null, or a page that stays mapped; its words are atomics.
        unsafe { self.page.load(Acquire).as_ref() }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a call may be made; it is `now_ns` now. `held_back` is told when the wait begins and when it ends.
    pub fn admit(
        &self,
        call: &Call,
        now_ns: u64,
        held_back: impl Fn(bool),
        stop: impl Fn() -> bool,
    ) -> Result<(), Stopped> {
        let now_ns = self.wait_for(VmPage::calls, now_ns, &held_back, &stop)?;
        if call.driver {
            self.wait_for(VmPage::driver_calls, now_ns, &held_back, &stop)?;
        }
        Ok(())
    }

    /// Waits until a driver-heavy call that is none of the guest's program's may be made, at most that long; whether it may.
    pub fn admit_driver_call(&self, at_most: Duration) -> bool {
        let start = now_ns();
        let late = || Duration::from_nanos(now_ns() - start) >= at_most;
        self.wait_for(VmPage::driver_calls, start, |_| {}, late).is_ok()
    }

    /// Takes a token; the time then.
    fn wait_for(
        &self,
        bucket: fn(&VmPage) -> &Bucket,
        mut now: u64,
        held_back: impl Fn(bool),
        stop: impl Fn() -> bool,
    ) -> Result<u64, Stopped> {
        let mut waits = false;
        let outcome = loop {
            // Looked up anew each time: `vgpud` may lift the limit, or bring another page.
            let taken = self.page().map_or(Ok(()), |page| bucket(page).take(now));
            let Err(wait) = taken else { break Ok(now) };
            if stop() {
                break Err(Stopped);
            }
            if !std::mem::replace(&mut waits, true) {
                held_back(true);
            }
            std::thread::sleep(wait.min(LOOK_AGAIN));
            let before = std::mem::replace(&mut now, now_ns());
            self.throttled_us
                .fetch_add(now.saturating_sub(before) / 1000, Relaxed);
        };
        if waits {
            held_back(false);
        }
        outcome
    }

    /// Takes memory for an allocation of that many bytes; `make_room` gives back what nobody needs, if there is too little.
    pub fn allocate(&self, gpu: u32, bytes: u64, make_room: impl FnOnce()) -> Result<Charge, Code> {
        let bytes = taken_by(bytes).ok_or(result::OUT_OF_MEMORY)?;
        let charge = self.take(gpu as usize, bytes).or_else(|| {
            make_room();
            self.take(gpu as usize, bytes)
        });
        charge.ok_or_else(|| self.refuse())
    }

    fn take(&self, gpu: usize, bytes: u64) -> Option<Charge> {
        let mut account = self.account();
        let slot = account.slot;
        let counted = account.gpus.get_mut(gpu)?;
        let total = counted.allocated.checked_add(bytes)?;
        if self
            .page()
            .is_some_and(|page| !page.take_memory(slot, counted.column, bytes))
        {
            return None;
        }
        counted.allocated(total);
        Some(Charge {
            gpu,
            bytes,
            part: Part::Allocated,
        })
    }

    /// What a call is answered that gets no memory, which is counted: once for each such call, however often it tried.
    pub fn refuse(&self) -> Code {
        self.refused.fetch_add(1, Relaxed);
        result::OUT_OF_MEMORY
    }

    /// Nothing yet of something that grows by [`Self::grow`] and [`Self::recount`].
    pub fn nothing(gpu: u32) -> Charge {
        Charge {
            gpu: gpu as usize,
            bytes: 0,
            part: Part::Allocated,
        }
    }

    /// Takes that much more memory for something that is counted, if the quota has room for it.
    pub fn grow(&self, charge: &mut Charge, bytes: u64) -> bool {
        let more = taken_by(bytes).and_then(|bytes| self.take(charge.gpu, bytes));
        charge.bytes += more.map_or(0, |more| more.bytes);
        more.is_some()
    }

    /// Something that is counted has been found to take that many bytes: they are counted, whatever the quota is.
    pub fn recount(&self, charge: &mut Charge, bytes: u64) {
        if bytes < charge.bytes {
            let less = Charge {
                bytes: charge.bytes - bytes,
                ..*charge
            };
            self.give(less);
        } else if bytes > charge.bytes {
            let mut account = self.account();
            let slot = account.slot;
            let Some(counted) = account.gpus.get_mut(charge.gpu) else {
                return;
            };
            let more = bytes - charge.bytes;
            counted.allocated(counted.allocated.saturating_add(more));
            if let Some(page) = self.page() {
                page.add_memory(slot, counted.column, more);
            }
        }
        charge.bytes = bytes;
    }

    /// Makes something that takes memory which only the driver knows: `free` tells the GPU's free memory, if it can be asked,
    /// as it can once there is a context. Else `ask` has the driver's account told.
    /// It is undone, and there is no memory, if it does not fit under the quota; it is not made if nothing does.
    pub fn make<T>(
        &self,
        gpu: u32,
        free: impl Fn() -> Option<u64>,
        ask: impl Fn(),
        mut make: impl FnMut() -> Result<T, Code>,
        undo: impl Fn(T),
    ) -> Result<(T, Charge), Code> {
        let mut again = true;
        while self.fits(gpu, 1) {
            let (before, estimated) = (free(), Self::estimated(&self.account(), gpu));
            let made = make()?;
            let Some(before) = before else {
                let charge = self.accounted(gpu, estimated, &ask);
                if self.fits(gpu, 0) {
                    return Ok((made, charge));
                }
                undo(made);
                self.give(charge);
                break;
            };
            let after = free().unwrap_or(before);
            let took = before.saturating_sub(after);
            if self.fits(gpu, took) {
                return Ok((made, self.estimate(gpu, took)));
            }
            undo(made);
            // Others allocate on this GPU, too: what comes back tells whether it was that much.
            let back = free().map_or(took, |free| free.saturating_sub(after));
            if !std::mem::take(&mut again) || !self.fits(gpu, took.min(back)) {
                break;
            }
        }
        Err(self.refuse())
    }

    fn estimated(account: &Account, gpu: u32) -> u64 {
        let counted = account.gpus.get(gpu as usize);
        counted.map_or(0, |counted| counted.estimated)
    }

    /// What the driver accounts for something that was made when `before` was estimated. Asks and waits for its account of
    /// the first such thing if there is a quota.
    fn accounted(&self, gpu: u32, before: u64, ask: impl Fn()) -> Charge {
        let unknown = |account: &mut Account| {
            Self::estimated(account, gpu) == 0 && !account.silent && !account.answered
        };
        let mut account = self.account();
        account.answered = false;
        if self.page().is_some_and(|page| page.quota() != UNLIMITED) && unknown(&mut account) {
            drop(account);
            ask();
            account = self.account();
            let waited = self.told.wait_timeout_while(account, ACCOUNT_WAIT, unknown);
            account = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Charge {
            gpu: gpu as usize,
            bytes: Self::estimated(&account, gpu).saturating_sub(before),
            part: Part::Estimated,
        }
    }

    /// Whether the VM may take that much more.
    pub fn fits(&self, gpu: u32, bytes: u64) -> bool {
        self.page().is_none_or(|page| {
            let column = self.account().column(gpu as usize);
            let used = column.map_or(0, |column| page.used(column));
            used.saturating_add(bytes) <= page.quota()
        })
    }

    fn estimate(&self, gpu: u32, bytes: u64) -> Charge {
        let gpu = gpu as usize;
        let mut account = self.account();
        let slot = account.slot;
        if let Some(counted) = account.gpus.get_mut(gpu) {
            counted.estimated += bytes;
            if let Some(page) = self.page() {
                page.add_memory(slot, counted.column, bytes);
            }
        }
        Charge {
            gpu,
            bytes,
            part: Part::Estimated,
        }
    }

    /// What was counted is free again.
    pub fn give(&self, charge: Charge) {
        let mut account = self.account();
        let slot = account.slot;
        let Some(counted) = account.gpus.get_mut(charge.gpu) else {
            return;
        };
        let before = counted.total();
        match charge.part {
            Part::Allocated => counted.allocated(counted.allocated.saturating_sub(charge.bytes)),
            // The driver's account may have shown that it was less.
            Part::Estimated => counted.estimated = counted.estimated.saturating_sub(charge.bytes),
        }
        let given = before - counted.total();
        if let Some(page) = self.page() {
            page.give_memory(slot, counted.column, given);
        }
    }

    /// What the driver accounts to this process, by GPU, in bytes; nothing if it does not say. It may be told because it was
    /// asked.
    pub fn told(&self, bytes: &[u64], asked: bool) {
        let mut account = self.account();
        let (slot, suspended) = (account.slot, account.suspended);
        if suspended {
            return;
        }
        account.silent = bytes.is_empty();
        account.answered |= asked;
        self.told.notify_all();
        for (counted, &bytes) in account.gpus.iter_mut().zip(bytes) {
            let before = counted.total();
            counted.told(bytes);
            let now = counted.total();
            if let Some(page) = self.page() {
                page.add_memory(slot, counted.column, now.saturating_sub(before));
                page.give_memory(slot, counted.column, before.saturating_sub(now));
            }
        }
    }

    /// Free memory and memory of a GPU as the guest's program sees it.
    pub fn memory(&self, gpu: u32, free: u64, total: u64) -> (u64, u64) {
        let column = self.account().column(gpu as usize);
        let (Some(page), Some(column)) = (self.page(), column) else {
            return (free, total);
        };
        let quota = page.quota();
        if quota == UNLIMITED {
            return (free, total);
        }
        (
            free.min(quota.saturating_sub(page.used(column))),
            total.min(quota),
        )
    }

    /// The session's memory goes to the host: it does not count.
    pub fn suspend(&self) {
        let mut account = self.account();
        account.suspended = true;
        if let Some(page) = self.page() {
            page.clear(account.slot);
        }
    }

    /// It is to come back; whether the quota has room for it, and then it counts.
    pub fn resume(&self) -> bool {
        let mut account = self.account();
        let Some(page) = self.page() else {
            account.suspended = false;
            return true;
        };
        let slot = account.slot;
        for counted in &account.gpus {
            if !page.take_memory(slot, counted.column, counted.total()) {
                page.clear(slot);
                return false;
            }
        }
        account.suspended = false;
        true
    }

    /// Microseconds for which calls were held back, and calls refused for want of memory, since the last time.
    pub fn take_counts(&self) -> (u64, u64) {
        (self.throttled_us.swap(0, Relaxed), self.refused.swap(0, Relaxed))
    }

    /// They were not told.
    pub fn add_counts(&self, throttled_us: u64, refused: u64) {
        self.throttled_us.fetch_add(throttled_us, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::sync::atomic::AtomicBool;
    use vgpu_protocol::calls::{Wire, cuMemAlloc, cuMemGetInfo};

    fn page_file(len: usize, seals: SealFlags) -> OwnedFd {
        let file = rustix::fs::memfd_create("vm", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, len as u64).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn limits(file: &OwnedFd, slot: u32) -> Limits {
        let limits = Limits::default();
        limits.connect(file.try_clone().unwrap(), slot, &[]).unwrap();
        limits
    }

    #[test]
    fn a_page_that_could_vanish_and_a_slot_that_is_none_are_refused() {
        let limits = Limits::default();
        let unsealed = page_file(PAGE_LEN, SealFlags::GROW);
        assert!(limits.connect(unsealed, 0, &[]).is_err());
        assert!(limits.connect(page_file(8, SealFlags::SHRINK), 0, &[]).is_err());
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let connect = |slot, columns: &[u32]| limits.connect(file.try_clone().unwrap(), slot, columns);
        assert!(connect(SLOTS as u32, &[]).is_err());
        for columns in [&[GPUS as u32][..], &[1, 1], &[0; GPUS + 1]] {
            assert!(connect(0, columns).is_err());
        }
        assert!(limits.page().is_none());
        assert!(connect(SLOTS as u32 - 1, &[GPUS as u32 - 1, 0]).is_ok());
    }

    #[test]
    fn what_is_counted_is_counted_where_the_gpus_column_is() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let (first, second) = (limits(&file, 0), Limits::default());
        second.connect(file.try_clone().unwrap(), 1, &[1]).unwrap();
        let page = first.page().unwrap();
        page.set_quota(Some(3 * GRANULE));
        first.allocate(1, 2 * GRANULE, || ()).unwrap();
        // The first one's second GPU is the second one's first.
        assert!(second.allocate(0, 2 * GRANULE, || ()).is_err());
        assert_eq!(second.memory(0, 1 << 40, 1 << 40), (GRANULE, 3 * GRANULE));
        assert!(second.fits(0, GRANULE) && !second.fits(0, GRANULE + 1));
        let charge = second.allocate(0, GRANULE, || ()).unwrap();
        assert_eq!((page.used_by(1, 1), page.used_by(1, 0)), (GRANULE, 0));
        second.told(&[5 * GRANULE], false);
        assert_eq!((page.used_by(1, 1), page.used_by(1, 0)), (5 * GRANULE, 0));
        second.give(charge);
        assert_eq!(page.used_by(1, 1), 4 * GRANULE);
        // With another scheduler, in other columns.
        second.connect(file.try_clone().unwrap(), 1, &[6]).unwrap();
        assert_eq!((page.used_by(1, 1), page.used_by(1, 6)), (0, 4 * GRANULE));
        second.suspend();
        assert_eq!(page.used(6), 0);
        page.set_quota(None);
        assert!(second.resume());
        assert_eq!(page.used(6), 4 * GRANULE);
    }

    #[test]
    fn allocations_count_as_the_driver_takes_them_and_move_to_a_new_page() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let limits = limits(&file, 3);
        let page = limits.page().unwrap();
        page.set_quota(Some(6 * GRANULE));
        let small = limits.allocate(0, 1, || ()).unwrap();
        assert_eq!(page.used_by(3, 0), SMALL);
        let large = limits.allocate(0, LARGE, || ()).unwrap();
        assert_eq!(page.used_by(3, 0), SMALL + GRANULE);
        assert_eq!(limits.allocate(0, 5 * GRANULE, || ()), Err(result::OUT_OF_MEMORY));
        assert_eq!(limits.allocate(0, u64::MAX, || ()), Err(result::OUT_OF_MEMORY));
        // What is made room for is not refused.
        assert!(limits.allocate(0, 5 * GRANULE, || limits.give(small)).is_ok());
        assert_eq!(limits.memory(0, u64::MAX, u64::MAX), (0, 6 * GRANULE));
        let other = page_file(PAGE_LEN, SealFlags::SHRINK);
        limits.connect(other, 5, &[]).unwrap();
        assert_eq!(limits.page().unwrap().used_by(5, 0), 6 * GRANULE);
        limits.give(large);
        assert_eq!(limits.page().unwrap().used_by(5, 0), 5 * GRANULE);
        // What was asked for beyond all numbers is no matter of the quota.
        assert_eq!(limits.take_counts(), (0, 1));
    }

    #[test]
    fn what_the_driver_takes_is_undone_if_it_does_not_fit_and_tried_again_if_that_was_a_neighbours() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let limits = limits(&file, 0);
        limits.page().unwrap().set_quota(Some(1000));
        let free = std::cell::Cell::new(10_000u64);
        let (made, undone) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let attempt = |takes: u64, neighbour: u64| {
            limits.make(
                0,
                || Some(free.get()),
                || unreachable!(),
                || {
                    made.set(made.get() + 1);
                    let disturbed = if made.get() == 1 { neighbour } else { 0 };
                    free.set(free.get() - takes - disturbed);
                    Ok(())
                },
                |()| {
                    undone.set(undone.get() + 1);
                    free.set(free.get() + takes);
                },
            )
        };
        assert_eq!(attempt(1001, 0), Err(result::OUT_OF_MEMORY));
        assert_eq!((made.take(), undone.take(), free.get()), (1, 1, 10_000));
        let ((), charge) = attempt(600, 500).unwrap();
        assert_eq!((made.take(), undone.take()), (2, 1));
        assert_eq!(limits.page().unwrap().used(0), 600);
        assert_eq!(limits.allocate(0, 512, || ()), Err(result::OUT_OF_MEMORY));
        limits.give(charge);
        assert_eq!(limits.page().unwrap().used(0), 0);
        assert!(limits.allocate(0, 512, || ()).is_ok());
    }

    #[test]
    fn what_cannot_be_measured_is_what_the_driver_accounts() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let limits = limits(&file, 0);
        let page = limits.page().unwrap();
        let (undone, asked) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let attempt = |made: &AtomicBool| {
            let make = || {
                made.store(true, SeqCst);
                Ok(())
            };
            let ask = || asked.set(asked.get() + 1);
            limits.make(1, || None, ask, make, |()| undone.set(undone.get() + 1))
        };
        // Its account is told once it is made.
        let attempt_told = |account: &[u64], answered| {
            let made = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !made.load(SeqCst) {
                        std::thread::yield_now();
                    }
                    limits.told(account, answered);
                });
                attempt(&made)
            })
        };
        // Nobody asks and waits where there is no quota, nor where the driver does not say.
        page.set_quota(None);
        let ((), charge) = attempt(&AtomicBool::new(false)).unwrap();
        limits.give(charge);
        page.set_quota(Some(1000));
        limits.told(&[], false);
        attempt(&AtomicBool::new(false)).unwrap();
        assert_eq!((page.used(1), undone.get(), asked.get()), (0, 0, 0));
        for (takes, fits) in [(1000, true), (1001, false)] {
            limits.told(&[0, 0], false);
            let outcome = attempt_told(&[0, takes], false);
            assert_eq!(outcome.is_ok(), fits, "{takes}");
            if let Ok(((), charge)) = outcome {
                assert_eq!(page.used(1), takes);
                limits.give(charge);
            }
            assert_eq!(page.used(1), 0);
        }
        assert_eq!((undone.get(), asked.get()), (1, 2));
        // One that takes nothing is not waited for any longer than until that is told.
        limits.told(&[0, 0], false);
        attempt_told(&[0, 0], true).unwrap();
        assert_eq!(page.used(1), 0);
    }

    #[test]
    fn what_grows_is_counted_as_it_is_found_and_never_twice() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let limits = limits(&file, 0);
        let page = limits.page().unwrap();
        page.set_quota(Some(3 * GRANULE));
        let mut charge = Limits::nothing(0);
        assert!(limits.grow(&mut charge, GRANULE));
        assert!(!limits.grow(&mut charge, 3 * GRANULE));
        limits.recount(&mut charge, 2 * GRANULE);
        assert_eq!(page.used(0), 2 * GRANULE);
        limits.recount(&mut charge, 5 * GRANULE);
        assert_eq!(page.used(0), 5 * GRANULE);
        assert!(!limits.fits(0, 0), "it is counted all the same");
        limits.recount(&mut charge, 512);
        assert_eq!(page.used(0), 512);
        limits.give(charge);
        assert_eq!(page.used(0), 0);
    }

    #[test]
    fn what_is_suspended_does_not_count_and_comes_back_when_there_is_room() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let (one, two) = (limits(&file, 0), limits(&file, 1));
        let page = one.page().unwrap();
        page.set_quota(Some(2 * GRANULE));
        one.allocate(0, 2 * GRANULE, || ()).unwrap();
        assert!(two.allocate(0, LARGE, || ()).is_err());
        one.suspend();
        one.told(&[u64::MAX], false);
        assert_eq!(page.used(0), 0);
        let theirs = two.allocate(0, LARGE, || ()).unwrap();
        assert!(!one.resume());
        assert_eq!(page.used_by(0, 0), 0);
        two.give(theirs);
        assert!(one.resume());
        assert_eq!(page.used_by(0, 0), 2 * GRANULE);
    }

    #[test]
    fn a_call_waits_for_its_buckets_until_the_limit_is_lifted_or_it_is_stopped() {
        let file = page_file(PAGE_LEN, SealFlags::SHRINK);
        let limits = limits(&file, 0);
        let page = limits.page().unwrap();
        let (light, heavy) = (cuMemGetInfo::Call::CALL, cuMemAlloc::Call::CALL);
        let held = std::cell::Cell::new(0);
        let admit = |call, stop: bool| {
            let count = |begins: bool| held.set(held.get() + if begins { 1 } else { 10 });
            limits.admit(call, now_ns(), count, || stop)
        };
        page.driver_calls().set(Some((1, 1)));
        assert_eq!(admit(heavy, true), Ok(()));
        assert_eq!(admit(heavy, true), Err(Stopped));
        assert_eq!(admit(light, true), Ok(()));
        assert!(!limits.admit_driver_call(Duration::ZERO));
        assert_eq!(held.get(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while limits.throttled_us.load(Relaxed) == 0 {
                    std::thread::yield_now();
                }
                page.driver_calls().set(None);
            });
            assert_eq!(admit(heavy, false), Ok(()));
        });
        assert_eq!(held.get(), 11);
        assert!(limits.take_counts().0 > 0);
    }

    proptest! {
        /// Whatever is allocated and freed between two looks of the driver's, the estimate never exceeds what contexts and
        /// modules really take; and once the session is quiet for one look, it is exact.
        #[test]
        fn the_drivers_account_corrects_the_estimate(real in 0u64..1000, looks in proptest::collection::vec(
            (proptest::collection::vec(0u64..1000, 1..5), any::<proptest::sample::Index>()), 1..20)) {
            let mut counted = Counted::default();
            for (amounts, when) in &looks {
                let mut seen = 0;
                for (i, &amount) in amounts.iter().enumerate() {
                    counted.allocated(amount);
                    if i == when.index(amounts.len()) {
                        seen = amount + real;
                    }
                }
                counted.told(seen);
                prop_assert!(counted.estimated <= real);
            }
            counted.told(counted.allocated + real);
            prop_assert_eq!(counted.total(), counted.allocated + real);
        }
    }
}
