//! The pages that the executors of a VM share, so that its limits hold over all its processes: made here, one for each VM
//! that has sessions, and handed to their executors with a slot each.
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use vgpu_sched_api::messages::Limits;
use vgpu_sched_api::vm_page::{GPUS, PAGE_LEN, SLOTS, VmPage};

/// A VM's page, mapped, and who has which slot and which columns of it.
#[derive(Debug)]
pub struct SharedPage {
    page: NonNull<VmPage>,
    memfd: OwnedFd,
    /// By slot that is taken: the columns of its session's GPUs, in the session's order.
    taken: [Option<Vec<usize>>; SLOTS],
    /// Which GPU each column is for, or was last.
    columns: [String; GPUS],
    /// Where the search for a free slot goes on. An executor that was attached anew may write to its old slot for a
    /// moment longer, so that one is the last to be given to another.
    next: usize,
}

impl SharedPage {
    /// A new page, with these limits.
    pub fn new(limits: &Limits) -> rustix::io::Result<Self> {
        let memfd = rustix::fs::memfd_create("vgpu-vm", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, PAGE_LEN as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals)?;
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memfd,
                0,
            )
        }?;
        let page = NonNull::new(address.cast()).ok_or(rustix::io::Errno::FAULT)?;
        let shared = Self {
            page,
            memfd,
            taken: [const { None }; SLOTS],
            columns: Default::default(),
            next: 0,
        };
        shared.set(limits);
        Ok(shared)
    }

    fn page(&self) -> &VmPage {
        // SAFETY: mapped by `new` until drop, page-aligned, of a size that cannot shrink (sealed); a `VmPage` is
        // atomics and padding, for which every content is valid.
        unsafe { self.page.as_ref() }
    }

    /// The descriptor to hand over.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Has these limits hold from now on.
    pub fn set(&self, limits: &Limits) {
        let page = self.page();
        page.calls().set(bucket(limits.call_rate, limits.call_burst));
        page.driver_calls()
            .set(bucket(limits.driver_call_rate, limits.driver_call_burst));
        let mib = limits.gpu_memory_mib.filter(|mib| *mib > 0);
        page.set_quota(mib.map(|mib| mib.saturating_mul(1 << 20)));
    }

    /// A slot for a session with these GPUs, cleared; `None` if all are taken.
    pub fn take_slot(&mut self, gpus: &[String]) -> Option<usize> {
        let mut slots = (0..SLOTS).map(|n| (self.next + n) % SLOTS);
        let slot = slots.find(|slot| self.taken[*slot].is_none())?;
        let columns = gpus.iter().take(GPUS).fold(Vec::new(), |mut columns, gpu| {
            columns.extend(self.column(gpu, &columns));
            columns
        });
        self.taken[slot] = Some(columns);
        self.next = (slot + 1) % SLOTS;
        self.page().clear(slot);
        Some(slot)
    }

    /// The column of a GPU, for a session that has these already.
    fn column(&mut self, gpu: &str, own: &[usize]) -> Option<usize> {
        let free = |column: &usize| !own.contains(column);
        let of_nobody = |column: &usize| !self.taken.iter().flatten().any(|other| other.contains(column));
        let mut columns = (0..GPUS).filter(free);
        if let Some(column) = columns.clone().find(|column| self.columns[*column] == gpu) {
            return Some(column);
        }
        if let Some(column) = columns.clone().find(of_nobody) {
            self.columns[column] = gpu.to_owned();
            return Some(column);
        }
        // Its pool's GPUs were exchanged under a VM that has sessions on all the former ones: until those end two GPUs count as
        // one, so that no quota is exceeded.
        columns.next()
    }

    /// The columns of a slot's session.
    pub fn columns(&self, slot: usize) -> &[usize] {
        self.taken
            .get(slot)
            .and_then(Option::as_deref)
            .unwrap_or_default()
    }

    /// The session of a slot is over: it has no memory any longer.
    pub fn give_slot(&mut self, slot: usize) {
        self.taken[slot] = None;
        self.page().clear(slot);
    }

    /// Whether no session has a slot.
    pub fn is_unused(&self) -> bool {
        self.taken.iter().all(Option::is_none)
    }

    /// Bytes that a session has, on all its GPUs.
    pub fn used_by(&self, slot: usize) -> u64 {
        if slot >= SLOTS {
            return 0;
        }
        // Of all columns: what it wrote where it should not counts as well.
        (0..GPUS).fold(0, |sum, column| {
            sum.saturating_add(self.page().used_by(slot, column))
        })
    }

    /// Bytes that a session has on one of its GPUs, by their order.
    pub fn used_on(&self, slot: usize, gpu: usize) -> u64 {
        let column = self.columns(slot).get(gpu);
        column.map_or(0, |column| self.page().used_by(slot, *column))
    }

    /// Bytes that all sessions have, on all GPUs.
    pub fn used(&self) -> u64 {
        (0..GPUS).fold(0, |sum, gpu| sum.saturating_add(self.page().used(gpu)))
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrowed from it outlives `self`.
        // Failure would only leave the page mapped.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), PAGE_LEN) };
    }
}

/// A bucket's rate per second and its size.
fn bucket(rate: Option<u64>, burst: Option<u64>) -> Option<(u64, u64)> {
    let rate = rate.filter(|rate| *rate > 0)?;
    Some((rate, burst.unwrap_or(rate / 10).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(call_rate: u64, mib: u64) -> Limits {
        Limits {
            call_rate: Some(call_rate),
            call_burst: Some(2),
            gpu_memory_mib: Some(mib),
            ..Limits::default()
        }
    }

    #[test]
    fn limits_are_set_and_changed_and_taken_away() {
        let shared = SharedPage::new(&limits(1, 3)).unwrap();
        let page = shared.page();
        assert_eq!(page.quota(), 3 << 20);
        let now = 1_000_000_000_000;
        let taken = |n: u32| (0..n).filter(|_| page.calls().take(now).is_ok()).count();
        assert_eq!(taken(5), 2);
        assert_eq!(page.driver_calls().take(now), Ok(()));
        shared.set(&limits(0, 0));
        assert_eq!(taken(5), 5, "0 is no limit");
        assert_eq!(page.quota(), vgpu_sched_api::vm_page::UNLIMITED);
        // A rate without a burst has one of its own.
        assert_eq!(bucket(Some(1000), None), Some((1000, 100)));
        assert_eq!(bucket(Some(5), None), Some((5, 1)));
        assert_eq!(bucket(None, Some(7)), None);
    }

    #[test]
    fn each_session_has_a_slot_of_its_own_and_it_is_clear() {
        let mut shared = SharedPage::new(&Limits::default()).unwrap();
        let gpus: Vec<String> = (0..GPUS).map(|n| n.to_string()).collect();
        let first = shared.take_slot(&gpus).unwrap();
        shared.page().add_memory(first, 1, 100);
        shared.page().add_memory(first, 7, 11);
        let second = shared.take_slot(&gpus).unwrap();
        shared.page().add_memory(second, 1, 5);
        assert_eq!((shared.used_by(first), shared.used()), (111, 116));
        shared.give_slot(first);
        assert_eq!(shared.used(), 5);
        // What a session that is gone still writes is nobody's.
        shared.page().add_memory(first, 0, 1 << 40);
        let others: Vec<_> = (1..SLOTS).map(|_| shared.take_slot(&gpus).unwrap()).collect();
        assert_eq!(others.last(), Some(&first), "the last to be given again");
        assert_eq!(shared.used(), 5);
        assert_eq!(shared.take_slot(&gpus), None);
        for slot in others.into_iter().chain([second]) {
            shared.give_slot(slot);
        }
        assert!(shared.is_unused());
        assert_eq!(shared.used(), 0);
    }

    #[test]
    fn a_gpu_has_one_column_whoever_has_it_and_in_whatever_order() {
        let mut shared = SharedPage::new(&Limits::default()).unwrap();
        let names = |text: &str| -> Vec<String> { text.split_terminator(' ').map(str::to_owned).collect() };
        let slot = |shared: &mut SharedPage, gpus: &str| {
            let slot = shared.take_slot(&names(gpus)).unwrap();
            (slot, shared.columns(slot).to_vec())
        };
        let (both, columns) = slot(&mut shared, "a b");
        assert_eq!(columns, [0, 1]);
        let (second, columns) = slot(&mut shared, "b");
        assert_eq!(columns, [1]);
        assert_eq!(slot(&mut shared, "b c a").1, [1, 2, 0]);
        // The session's own order counts where it is asked about its GPUs.
        shared.page().add_memory(both, 1, 3);
        shared.page().add_memory(second, 1, 4);
        assert_eq!((shared.used_on(both, 1), shared.used_on(both, 0)), (3, 0));
        assert_eq!((shared.used_on(second, 0), shared.used_on(second, 1)), (4, 0));
        assert_eq!((shared.used_by(second), shared.page().used(1)), (4, 7));
        assert_eq!(shared.used_on(SLOTS, 0), 0);
    }

    #[test]
    fn columns_are_used_again_and_shared_rather_than_refused() {
        let mut shared = SharedPage::new(&Limits::default()).unwrap();
        let names = |first: usize| -> Vec<String> { (first..first + GPUS).map(|n| n.to_string()).collect() };
        let all: Vec<usize> = (0..GPUS).collect();
        let old = shared.take_slot(&names(0)).unwrap();
        let new = shared.take_slot(&names(100)).unwrap();
        assert_eq!(shared.columns(new), all, "distinct for each of its GPUs");
        shared.give_slot(old);
        shared.give_slot(new);
        let one = shared.take_slot(&names(200)[..1]).unwrap();
        let other = shared.take_slot(&names(300)[..1]).unwrap();
        assert_ne!(shared.columns(one), shared.columns(other));
        assert_eq!(shared.columns(old), [0; 0]);
    }
}
