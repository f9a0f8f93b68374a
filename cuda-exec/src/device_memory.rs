//! Device memory that a guest's pointers may name, by address; pure. What is not in this table is not the guest's.
use crate::calls::{Allocation, Pool};
use crate::limits::Charge;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use vgpu_protocol::limits::RESERVATIONS_MAX;
use vgpu_protocol::words::handle::CONTEXT_NONE;

/// Device memory that goes as a whole.
#[derive(Clone, Debug)]
pub struct Device {
    /// Bytes.
    pub len: u64,
    /// The context that it ends with; [`CONTEXT_NONE`] if it is no context's.
    pub context: u32,
    /// What it goes with.
    pub owner: Owner,
}

/// An allocation of a graph, at this address: kept by every graph that has it, and while it is allocated.
#[derive(Debug)]
pub struct GraphMemory(pub u64);

/// What device memory goes with.
#[derive(Clone, Debug)]
pub enum Owner {
    /// An allocation: itself.
    Allocated(Charge),
    /// A variable: the module with that number.
    Variable(u32),
    /// An allocation in the order of a stream: the pool counts it.
    Pool(Arc<Pool>),
    /// An allocation of a graph on that GPU. The address is the graph's, whether there is memory behind it or not, as long as any
    /// graph has the allocation, and then until it is freed. After that it may be anybody's.
    Graph(u32, Weak<GraphMemory>),
    /// Memory of a handle, mapped into a reserved range; `access` has a bit for each GPU that may access it.
    Mapped { _memory: Arc<Allocation>, access: u32 },
    /// Memory of another process of the VM, opened that often.
    Imported(u32),
}

impl Owner {
    /// Whether work may be submitted on it.
    fn is_accessible(&self) -> bool {
        match self {
            Self::Mapped { access, .. } => *access != 0,
            Self::Graph(_, graphs) => graphs.strong_count() > 0,
            _ => true,
        }
    }

    /// Whether the program frees it.
    fn is_allocation(&self) -> bool {
        matches!(self, Self::Allocated(_) | Self::Pool(_) | Self::Graph(..))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct DeviceTable {
    memory: BTreeMap<u64, Device>,
    /// Reserved ranges: address to bytes.
    reservations: BTreeMap<u64, u64>,
}

impl DeviceTable {
    /// The entry around an address.
    fn around(&self, addr: u64) -> Option<(u64, &Device)> {
        let (&start, device) = self.memory.range(..=addr).next_back()?;
        (addr - start < device.len).then_some((start, device))
    }

    /// The first entry that has a byte in a range.
    fn first_in(&self, addr: u64, len: u64) -> Option<(u64, &Device)> {
        let end = addr.saturating_add(len);
        let inside = || {
            self.memory
                .range(addr..end)
                .next()
                .map(|(&start, device)| (start, device))
        };
        self.around(addr).or_else(inside)
    }

    /// Whether a range lies in one entry, or in mappings side by side, and may be accessed.
    pub fn holds(&self, addr: u64, len: u64) -> bool {
        let Some(end) = addr.checked_add(len) else {
            return false;
        };
        let mut at = addr;
        loop {
            let Some((start, device)) = self.around(at).filter(|(_, device)| device.owner.is_accessible())
            else {
                return false;
            };
            at = start + device.len;
            if at >= end {
                return true;
            }
            if !matches!(device.owner, Owner::Mapped { .. }) {
                return false;
            }
        }
    }

    /// Adds an entry. libcuda has given its address: a graph's that lay there is gone.
    pub fn insert(&mut self, addr: u64, device: Device) {
        while let Some((start, _)) = self
            .first_in(addr, device.len)
            .filter(|(_, other)| matches!(other.owner, Owner::Graph(..)))
        {
            self.memory.remove(&start);
        }
        self.memory.insert(addr, device);
    }

    /// Takes an allocation out that starts there.
    pub fn remove_allocation(&mut self, addr: u64) -> Option<Device> {
        let device = self
            .memory
            .get(&addr)
            .filter(|device| device.owner.is_allocation())?;
        match &device.owner {
            Owner::Graph(_, graphs) if graphs.strong_count() > 0 => Some(device.clone()),
            _ => self.memory.remove(&addr),
        }
    }

    /// The start of the allocation around an address, if it is one of `cuMemAlloc`'s.
    pub fn allocation(&self, addr: u64) -> Option<u64> {
        let (start, device) = self.around(addr)?;
        matches!(device.owner, Owner::Allocated(_)).then_some(start)
    }

    /// Whether there is an allocation of a pool that was not freed.
    pub fn has_of_pool(&self, pool: &Arc<Pool>) -> bool {
        let mut owners = self.memory.values().map(|device| &device.owner);
        owners.any(|owner| matches!(owner, Owner::Pool(of) if Arc::ptr_eq(of, pool)))
    }

    /// The pool of an allocation that starts there, and its bytes.
    pub fn pooled(&self, addr: u64) -> Option<(u64, Arc<Pool>)> {
        let device = self.memory.get(&addr)?;
        let Owner::Pool(pool) = &device.owner else {
            return None;
        };
        Some((device.len, pool.clone()))
    }

    /// Another process' memory was opened; perhaps not for the first time.
    pub fn import(&mut self, addr: u64, len: u64, context: u32) {
        match self.memory.get_mut(&addr).map(|device| &mut device.owner) {
            Some(Owner::Imported(times)) => *times += 1,
            _ => {
                let owner = Owner::Imported(1);
                self.insert(addr, Device { len, context, owner });
            }
        }
    }

    /// Another process' memory is closed; how often it is open still.
    pub fn close_imported(&mut self, addr: u64) -> Option<u32> {
        let Owner::Imported(times) = &mut self.memory.get_mut(&addr)?.owner else {
            return None;
        };
        *times -= 1;
        let left = *times;
        if left == 0 {
            self.memory.remove(&addr);
        }
        Some(left)
    }

    /// Forgets the variables of a module.
    pub fn remove_module(&mut self, module: u32) {
        self.memory
            .retain(|_, device| !matches!(device.owner, Owner::Variable(of) if of == module));
    }

    /// Forgets all memory of a context; what of it is to be given back.
    pub fn remove_context(&mut self, context: u32) -> Vec<(u64, Device)> {
        let gone = self.memory.extract_if(.., |_, device| device.context == context);
        gone.filter(|(_, device)| !matches!(device.owner, Owner::Variable(_)))
            .collect()
    }

    /// Bytes of the addresses that graphs on a GPU have for their allocations.
    pub fn graph_bytes(&self, gpu: u32) -> u64 {
        let graphs = self.memory.values();
        let of = graphs.filter(|device| matches!(device.owner, Owner::Graph(on, _) if on == gpu));
        of.map(|device| device.len).sum()
    }

    /// The owner of the entry around an address.
    pub fn owner(&self, addr: u64) -> Option<&Owner> {
        self.around(addr).map(|(_, device)| &device.owner)
    }

    /// libcuda has reserved a range; whether there may be that many.
    pub fn reserve(&mut self, addr: u64, len: u64) -> bool {
        let room = self.reservations.len() < RESERVATIONS_MAX;
        if room {
            self.reservations.insert(addr, len);
        }
        room
    }

    /// Takes a reservation back, of which nothing is mapped.
    pub fn unreserve(&mut self, addr: u64, len: u64) -> bool {
        let is_free = self.reservations.get(&addr) == Some(&len) && self.first_in(addr, len).is_none();
        is_free && self.reservations.remove(&addr).is_some()
    }

    /// Whether a range lies inside a reservation.
    pub fn is_reserved(&self, addr: u64, len: u64) -> bool {
        let Some((&start, &whole)) = self.reservations.range(..=addr).next_back() else {
            return false;
        };
        addr - start <= whole && len <= whole - (addr - start)
    }

    /// Maps memory to a part of a reservation, of which nothing is mapped yet; nobody may access it yet.
    pub fn map(&mut self, addr: u64, len: u64, allocation: Arc<Allocation>) -> bool {
        let is_free = len > 0 && self.is_reserved(addr, len) && self.first_in(addr, len).is_none();
        if is_free {
            let device = Device {
                len,
                context: CONTEXT_NONE,
                owner: Owner::Mapped {
                    _memory: allocation,
                    access: 0,
                },
            };
            self.memory.insert(addr, device);
        }
        is_free
    }

    /// The starts of the mappings that a range consists of, if it does of whole ones.
    fn whole_mappings(&self, addr: u64, len: u64) -> Option<Vec<u64>> {
        let end = addr.checked_add(len).filter(|_| len > 0)?;
        let mut at = addr;
        let mut found = Vec::new();
        while at < end {
            let device = self.memory.get(&at)?;
            if !matches!(device.owner, Owner::Mapped { .. }) {
                return None;
            }
            found.push(at);
            at += device.len;
        }
        (at == end).then_some(found)
    }

    /// Takes the mappings out that a range consists of.
    pub fn unmap(&mut self, addr: u64, len: u64) -> Option<Vec<(u64, Device)>> {
        let starts = self.whole_mappings(addr, len)?;
        let taken = starts
            .into_iter()
            .map(|start| Some((start, self.memory.remove(&start)?)));
        taken.collect()
    }

    /// Whether a range consists of whole mappings.
    pub fn is_mapped(&self, addr: u64, len: u64) -> bool {
        self.whole_mappings(addr, len).is_some()
    }

    /// Who may access the mappings that a range consists of: the GPUs `may` of the GPUs `told`.
    pub fn set_access(&mut self, addr: u64, len: u64, told: u32, may: u32) {
        for start in self.whole_mappings(addr, len).unwrap_or_default() {
            if let Some(device) = self.memory.get_mut(&start)
                && let Owner::Mapped { access, .. } = &mut device.owner
            {
                *access = *access & !told | may;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn graph(len: u64, graphs: &Arc<GraphMemory>) -> Device {
        Device {
            len,
            context: 1,
            owner: Owner::Graph(0, Arc::downgrade(graphs)),
        }
    }

    fn variable(len: u64, module: u32) -> Device {
        Device {
            len,
            context: 1,
            owner: Owner::Variable(module),
        }
    }

    fn memory() -> Arc<Allocation> {
        Arc::new(Allocation::of_nothing())
    }

    #[test]
    fn a_range_lies_in_one_entry() {
        let mut table = DeviceTable::default();
        table.insert(MB, variable(100, 1));
        table.insert(MB + 100, variable(100, 1));
        assert!(table.holds(MB, 100) && table.holds(MB + 99, 1) && table.holds(MB + 100, 100));
        assert!(!table.holds(MB, 101), "two entries are not one");
        assert!(!table.holds(MB + 99, 2) && !table.holds(MB - 1, 1) && !table.holds(MB + 200, 0));
        assert!(!table.holds(MB, u64::MAX) && !table.holds(u64::MAX, 1));
    }

    #[test]
    fn mappings_side_by_side_are_one_range() {
        let mut table = DeviceTable::default();
        assert!(table.reserve(MB, 8 * MB));
        assert!(
            table.map(MB, MB, memory()) && table.map(2 * MB, MB, memory()) && table.map(4 * MB, MB, memory())
        );
        assert!(!table.holds(MB, 1), "nobody may access it yet");
        table.set_access(MB, 2 * MB, 1, 1);
        table.set_access(4 * MB, MB, 1, 1);
        assert!(table.holds(MB, 2 * MB) && table.holds(2 * MB - 8, 16));
        assert!(!table.holds(MB, 2 * MB + 1) && !table.holds(3 * MB, 1) && !table.holds(2 * MB, 3 * MB));
        table.set_access(2 * MB, MB, 1, 0);
        assert!(table.holds(MB, MB) && !table.holds(MB, MB + 1));
    }

    #[test]
    fn memory_is_mapped_only_into_what_is_reserved_and_free() {
        let mut table = DeviceTable::default();
        assert!(!table.map(MB, MB, memory()));
        assert!(table.reserve(MB, 4 * MB));
        assert!(
            !table.map(MB, 0, memory())
                && !table.map(MB, 5 * MB, memory())
                && !table.map(5 * MB, MB, memory())
        );
        assert!(table.map(2 * MB, MB, memory()));
        assert!(!table.map(MB, 2 * MB, memory()) && !table.map(2 * MB, MB, memory()));
        assert!(table.map(MB, MB, memory()) && table.map(3 * MB, MB, memory()));
        assert!(!table.unreserve(MB, 4 * MB), "something is mapped there");
        assert!(
            table.unmap(MB, MB / 2).is_none()
                && table.unmap(MB + MB / 2, MB).is_none()
                && table.unmap(MB, 0).is_none()
        );
        assert_eq!(table.unmap(MB, 3 * MB).map(|taken| taken.len()), Some(3));
        assert!(!table.unreserve(MB, 2 * MB) && table.unreserve(MB, 4 * MB) && !table.unreserve(MB, 4 * MB));
    }

    #[test]
    fn imported_memory_is_there_until_it_is_closed_as_often_as_it_was_opened() {
        let mut table = DeviceTable::default();
        table.import(MB, MB, 1);
        table.import(MB, MB, 1);
        assert!(table.remove_allocation(MB).is_none() && table.allocation(MB).is_none());
        assert_eq!(table.close_imported(MB), Some(1));
        assert!(table.holds(MB, MB));
        assert_eq!(table.close_imported(MB), Some(0));
        assert!(!table.holds(MB, 1) && table.close_imported(MB).is_none());
    }

    #[test]
    fn a_graphs_address_stays_until_something_else_lies_there() {
        let mut table = DeviceTable::default();
        let graphs = Arc::new(GraphMemory(MB));
        table.insert(MB, graph(2 * MB, &graphs));
        assert!(table.remove_allocation(MB).is_some() && table.remove_allocation(MB).is_some());
        assert!(table.holds(MB, 2 * MB));
        assert_eq!((table.graph_bytes(0), table.graph_bytes(1)), (2 * MB, 0));
        table.insert(2 * MB, variable(MB, 1));
        assert!(!table.holds(MB, 1) && table.holds(2 * MB, MB));
    }

    #[test]
    fn what_no_graph_has_any_more_can_only_be_freed() {
        let mut table = DeviceTable::default();
        let graphs = Arc::new(GraphMemory(MB));
        table.insert(MB, graph(2 * MB, &graphs));
        let copy = graphs.clone();
        drop(graphs);
        assert!(table.holds(MB, 2 * MB));
        drop(copy);
        assert!(!table.holds(MB, 1));
        assert_eq!(table.graph_bytes(0), 2 * MB, "it may still be there");
        assert!(table.remove_allocation(MB).is_some() && table.remove_allocation(MB).is_none());
        assert_eq!(table.graph_bytes(0), 0);
    }

    #[test]
    fn what_goes_with_a_module_or_a_context_goes_with_it() {
        let mut table = DeviceTable::default();
        table.insert(MB, variable(MB, 1));
        table.insert(2 * MB, variable(MB, 2));
        table.remove_module(1);
        assert!(!table.holds(MB, 1) && table.holds(2 * MB, 1));
        assert!(table.remove_allocation(2 * MB).is_none() && table.close_imported(2 * MB).is_none());
        assert!(table.reserve(8 * MB, MB) && table.map(8 * MB, MB, memory()));
        table.set_access(8 * MB, MB, 1, 1);
        assert!(
            table.remove_context(1).is_empty(),
            "a module's variables are its own"
        );
        assert!(!table.holds(2 * MB, 1) && table.holds(8 * MB, MB));
    }
}
