//! What is known of device memory, by address.
use crate::objects::serial;
use std::collections::BTreeMap;

/// Where device memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The program allocated it, or it is a module's variable.
    Own,
    /// The program allocated it of a pool, or another process did and it was imported.
    Pooled,
    /// A graph's allocation: the address is the graph's while that lives, whether the memory is freed or not.
    Graph,
    /// Memory that is mapped into a reserved range; what lies side by side is one range.
    Mapped,
    /// Another process' memory.
    Imported,
}

/// Memory of the device: an allocation, or a module's variable.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// Bytes.
    pub len: u64,
    /// The context that it goes with; 0 if it is no context's.
    pub context: u32,
    /// The module whose variable it is.
    pub module: Option<u32>,
    /// Where it comes from.
    pub origin: Origin,
    /// As what it may be exported (CUmemAllocationHandleType).
    pub handle_types: u32,
    /// What no other memory of this process ever has.
    pub serial: u64,
}

impl DeviceMemory {
    /// What the program allocated in a context.
    pub fn allocated(len: u64, context: u32) -> Self {
        Self {
            len,
            context,
            module: None,
            origin: Origin::Own,
            handle_types: 0,
            serial: serial(),
        }
    }

    /// Whether the program frees it.
    pub fn is_allocation(&self) -> bool {
        self.module.is_none() && matches!(self.origin, Origin::Own | Origin::Pooled | Origin::Graph)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct DeviceTable(BTreeMap<u64, DeviceMemory>);

impl DeviceTable {
    /// The memory around an address, with its own.
    pub fn around(&self, addr: u64) -> Option<(u64, DeviceMemory)> {
        let (&start, &found) = self.0.range(..=addr).next_back()?;
        (addr - start < found.len).then_some((start, found))
    }

    /// The memory that holds a whole range, or begins it if it is mapped side by side with the rest, with its address.
    pub fn holding(&self, addr: u64, len: u64) -> Option<(u64, DeviceMemory)> {
        let end = addr.checked_add(len)?;
        let (start, first) = self.around(addr)?;
        let (mut at, mut last) = (start + first.len, first);
        while at < end {
            let (next, found) = self.around(at)?;
            if last.origin != Origin::Mapped || found.origin != Origin::Mapped {
                return None;
            }
            (at, last) = (next + found.len, found);
        }
        Some((start, first))
    }

    /// The memory that starts at an address.
    pub fn get(&self, addr: &u64) -> Option<&DeviceMemory> {
        self.0.get(addr)
    }

    /// Adds memory. A graph's allocation that lay there is gone.
    pub fn insert(&mut self, addr: u64, memory: DeviceMemory) {
        let end = addr + memory.len;
        self.0.retain(|&start, other| {
            other.origin != Origin::Graph || start >= end || start + other.len <= addr
        });
        self.0.insert(addr, memory);
    }

    /// Takes memory out that starts there.
    pub fn remove(&mut self, addr: &u64) -> Option<DeviceMemory> {
        self.0.remove(addr)
    }

    /// Keeps what `which` says.
    pub fn retain(&mut self, which: impl FnMut(&u64, &mut DeviceMemory) -> bool) {
        self.0.retain(which);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(len: u64, origin: Origin) -> DeviceMemory {
        DeviceMemory {
            origin,
            ..DeviceMemory::allocated(len, 1)
        }
    }

    #[test]
    fn only_mappings_side_by_side_are_one_range() {
        let mut table = DeviceTable::default();
        for (addr, origin) in [
            (100, Origin::Own),
            (110, Origin::Own),
            (200, Origin::Mapped),
            (210, Origin::Mapped),
            (220, Origin::Own),
        ] {
            table.insert(addr, memory(10, origin));
        }
        let holds = |addr, len| table.holding(addr, len).is_some();
        assert!(holds(100, 10) && holds(109, 1) && holds(205, 15) && holds(200, 20));
        assert!(
            !holds(100, 11) && !holds(205, 16) && !holds(120, 1) && !holds(90, 20) && !holds(200, u64::MAX)
        );
    }

    #[test]
    fn a_graphs_address_goes_when_something_else_lies_there() {
        let mut table = DeviceTable::default();
        table.insert(100, memory(100, Origin::Graph));
        table.insert(300, memory(100, Origin::Graph));
        table.insert(150, memory(10, Origin::Own));
        assert!(table.around(100).is_none() && table.around(155).is_some() && table.around(399).is_some());
    }
}
