//! The VM page: what the executors of one VM share, so that its limits hold over all its processes. A memfd of
//! [`PAGE_LEN`] bytes that `vgpud` makes, one per VM, and hands to each of its executors
//! ([`crate::messages::ToExec::VmPage`]) with a slot of its own in it. The VM's sessions need not have the same GPUs, nor in the
//! same order: each is told which column of its slot is for which of its GPUs.
//!
//! | offset | words | written by |
//! | --- | --- | --- |
//! | 0 | bucket of all calls: u64 nanoseconds per call (0: unlimited), u64 burst in nanoseconds, u64 state | vgpud; the state by executors |
//! | 64 | bucket of driver-heavy calls: the same | as above |
//! | 128 | u64 GPU memory in bytes that the VM may have on each of its GPUs; `u64::MAX` if unlimited | vgpud |
//! | 1024 | [`SLOTS`] × [`GPUS`] × {u64 bytes in use, u64 bytes being taken}: a session's memory, by the VM's GPUs (columns) | that session's executor; `vgpud` clears it when the session is over |
//!
//! The executors of a VM are as trustworthy as the VM: one that breaks the rules here cheats itself and the other processes
//! of its VM. Turns, shares and the memory that the driver accounts to its process are watched elsewhere.
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Bytes of the page.
pub const PAGE_LEN: usize = 16 * 1024;
/// Sessions of a VM at most.
pub const SLOTS: usize = 64;
/// GPUs of a session at most, and of a VM at a time.
pub const GPUS: usize = 8;
/// How far apart two executors' looks at the clock may lie before a bucket's state is taken for nonsense.
const SLACK_NS: u64 = 1_000_000_000;
/// No quota.
pub const UNLIMITED: u64 = u64::MAX;

/// A token bucket, kept as the time at which it will be full again (the generic cell rate algorithm): one word of
/// state, changed by compare-and-swap, that several processes share without a lock.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Bucket {
    /// Nanoseconds that one token takes to come back; 0 for no limit.
    interval_ns: AtomicU64,
    /// Nanoseconds that a full bucket lasts, beyond the one token that may always be taken when it is full.
    burst_ns: AtomicU64,
    /// When it will be full, on the host's monotonic clock.
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Sets the rate per second and how many tokens a full bucket holds (one at least); `None` for no limit.
    pub fn set(&self, limit: Option<(u64, u64)>) {
        let (interval, burst) = match limit {
            None => (0, 0),
            Some((rate, burst)) => {
                let interval = (1_000_000_000 / rate.max(1)).max(1);
                (interval, interval.saturating_mul(burst.max(1) - 1))
            }
        };
        self.burst_ns.store(burst, SeqCst);
        self.interval_ns.store(interval, SeqCst);
    }

    /// Takes a token at that time, or says how long to wait before trying again.
    pub fn take(&self, now_ns: u64) -> Result<(), Duration> {
        let interval = self.interval_ns.load(SeqCst);
        if interval == 0 {
            return Ok(());
        }
        let burst = self.burst_ns.load(SeqCst);
        let mut full_at = self.full_at_ns.load(SeqCst);
        loop {
            // A state much further off than a full bucket can leave is nonsense of a sibling's, or the limit was changed; one
            // a little further off is that of a sibling who looked at the clock later.
            let bound = now_ns.saturating_add(burst).saturating_add(interval);
            let sane = if full_at > bound.saturating_add(SLACK_NS) {
                bound
            } else {
                full_at
            };
            let start = sane.max(now_ns);
            let wait = (start - now_ns).saturating_sub(burst);
            let next = if wait > 0 {
                sane
            } else {
                start.saturating_add(interval)
            };
            if next != full_at
                && let Err(other) = self.full_at_ns.compare_exchange(full_at, next, SeqCst, SeqCst)
            {
                full_at = other;
                continue;
            }
            return if wait > 0 {
                Err(Duration::from_nanos(wait))
            } else {
                Ok(())
            };
        }
    }
}

/// A session's memory on one GPU.
#[derive(Debug)]
#[repr(C)]
struct Taken {
    used: AtomicU64,
    taking: AtomicU64,
}

/// The page's content.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct VmPage {
    calls: Bucket,
    driver_calls: Bucket,
    quota: AtomicU64,
    _pad: [u8; 1024 - 136],
    taken: [[Taken; GPUS]; SLOTS],
    _rest: [u8; PAGE_LEN - 1024 - SLOTS * GPUS * 16],
}

const _: () = assert!(size_of::<VmPage>() == PAGE_LEN);
const _: () = assert!(std::mem::offset_of!(VmPage, driver_calls) == 64);
const _: () = assert!(std::mem::offset_of!(VmPage, quota) == 128);
const _: () = assert!(std::mem::offset_of!(VmPage, taken) == 1024);

impl VmPage {
    /// The bucket of all calls.
    pub fn calls(&self) -> &Bucket {
        &self.calls
    }

    /// The bucket of calls that take driver-wide locks: contexts, registrations, allocations, modules.
    pub fn driver_calls(&self) -> &Bucket {
        &self.driver_calls
    }

    /// The memory that the VM may have on each of its GPUs, in bytes.
    pub fn quota(&self) -> u64 {
        self.quota.load(SeqCst)
    }

    /// Sets the quota; `vgpud` alone.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.quota.store(bytes.unwrap_or(UNLIMITED), SeqCst);
    }

    /// What all sessions of the VM have on the GPU of a column, in bytes.
    pub fn used(&self, gpu: usize) -> u64 {
        let used = self.taken.iter().map(|slot| slot[gpu].used.load(SeqCst));
        used.fold(0, u64::saturating_add)
    }

    /// What one session has there, in bytes.
    pub fn used_by(&self, slot: usize, gpu: usize) -> u64 {
        self.taken[slot][gpu].used.load(SeqCst)
    }

    /// A session is over, or its executor new: it has nothing.
    pub fn clear(&self, slot: usize) {
        for taken in &self.taken[slot] {
            taken.used.store(0, SeqCst);
            taken.taking.store(0, SeqCst);
        }
    }

    /// Takes memory for a session, if the quota has room for it: exactly, also while other sessions try the same. One
    /// thread per slot at a time.
    pub fn take_memory(&self, slot: usize, gpu: usize, bytes: u64) -> bool {
        const ATTEMPTS: u32 = 10_000;
        let own = &self.taken[slot][gpu];
        for attempt in 0..ATTEMPTS {
            let quota = self.quota();
            if quota == UNLIMITED {
                break;
            }
            own.taking.store(bytes, SeqCst);
            let trying = self.taken.iter().map(|slot| slot[gpu].taking.load(SeqCst));
            let trying = trying.fold(0, u64::saturating_add);
            let used = self.used(gpu);
            if used.saturating_add(trying) <= quota {
                break;
            }
            own.taking.store(0, SeqCst);
            if used.saturating_add(bytes) > quota {
                return false;
            }
            // There is room, but not for all who try: each lets the others go first for another while.
            if attempt + 1 == ATTEMPTS {
                return false;
            }
            for _ in 0..(slot + 1) * 16 {
                std::hint::spin_loop();
            }
            if attempt % 16 == 15 {
                std::thread::sleep(Duration::from_micros(slot as u64 + 1));
            }
        }
        own.used.fetch_add(bytes, SeqCst);
        own.taking.store(0, SeqCst);
        true
    }

    /// Counts memory that a session has in any case, such as its contexts'.
    pub fn add_memory(&self, slot: usize, gpu: usize, bytes: u64) {
        self.taken[slot][gpu].used.fetch_add(bytes, SeqCst);
    }

    /// Gives memory back.
    pub fn give_memory(&self, slot: usize, gpu: usize, bytes: u64) {
        let used = &self.taken[slot][gpu].used;
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // Always `Some`, so it succeeds.
        let _ = used.fetch_update(SeqCst, SeqCst, less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Box<VmPage> {
        let zero = || AtomicU64::new(0);
        let bucket = || Bucket {
            interval_ns: zero(),
            burst_ns: zero(),
            full_at_ns: zero(),
        };
        let taken = || Taken {
            used: zero(),
            taking: zero(),
        };
        Box::new(VmPage {
            calls: bucket(),
            driver_calls: bucket(),
            quota: AtomicU64::new(UNLIMITED),
            _pad: [0; 1024 - 136],
            taken: std::array::from_fn(|_| std::array::from_fn(|_| taken())),
            _rest: [0; PAGE_LEN - 1024 - SLOTS * GPUS * 16],
        })
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate_and_never_more() {
        let page = page();
        let bucket = page.calls();
        assert_eq!(bucket.take(0), Ok(()), "without a limit");
        bucket.set(Some((1000, 10)));
        let mut now = 1_000_000_000;
        for _ in 0..10 {
            assert_eq!(bucket.take(now), Ok(()));
        }
        assert_eq!(bucket.take(now), Err(Duration::from_millis(1)));
        // Whoever waits as long as told gets one, and a second's worth is the rate.
        let (end, mut given) = (now + 1_000_000_000, 0);
        while now < end {
            match bucket.take(now) {
                Ok(()) => given += 1,
                Err(wait) => now += wait.as_nanos() as u64,
            }
        }
        assert_eq!(given, 999);
        // A long pause fills it, and not more.
        now += 60_000_000_000;
        let burst = (0..100).filter(|_| bucket.take(now).is_ok()).count();
        assert_eq!(burst, 10);
    }

    #[test]
    fn nonsense_in_a_bucket_costs_at_most_a_full_burst() {
        let page = page();
        page.calls().set(Some((1000, 10)));
        page.calls().full_at_ns.store(u64::MAX, SeqCst);
        let wait = page.calls().take(0).unwrap_err();
        assert!(wait <= Duration::from_millis(1), "{wait:?}");
        assert_eq!(page.calls().take(wait.as_nanos() as u64 + 1), Ok(()));
    }

    #[test]
    fn processes_that_share_a_bucket_share_its_rate() {
        let page = page();
        page.calls().set(Some((1000, 50)));
        let (given, clock) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let now = clock.fetch_add(25_000, SeqCst);
                        if now > 1_000_000_000 {
                            break;
                        }
                        if page.calls().take(now).is_ok() {
                            given.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
        });
        assert!(given.load(SeqCst) <= 1050, "{given:?}");
        assert!(given.load(SeqCst) >= 1000, "{given:?}");
    }

    #[test]
    fn a_quota_is_never_exceeded_and_never_refuses_what_fits() {
        let page = page();
        page.set_quota(Some(1000));
        std::thread::scope(|scope| {
            for slot in 0..8 {
                let page = &page;
                scope.spawn(move || {
                    for _ in 0..500 {
                        // All of them together fit.
                        assert!(page.take_memory(slot, 3, 125), "slot {slot}");
                        assert!(page.used(3) <= 1000);
                        page.give_memory(slot, 3, 125);
                    }
                });
            }
        });
        assert_eq!(page.used(3), 0);
        assert!(page.take_memory(0, 0, 1000));
        assert!(!page.take_memory(1, 0, 1));
        assert!(page.take_memory(1, 1, 1000), "each GPU has its own");
        page.clear(0);
        assert!(page.take_memory(1, 0, 1000));
        page.set_quota(None);
        assert!(page.take_memory(2, 0, 1 << 50));
    }
}
