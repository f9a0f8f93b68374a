//! Graphs: their nodes, the edges between them, and the parameters of nodes.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No node, where an answer may name one.
pub const NODE_NONE: u32 = u32::MAX;
/// No graph, where an argument may name one.
pub const GRAPH_NONE: u32 = u32::MAX;

/// A CUgraphEdgeData.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EdgeData {
    /// What of the earlier node triggers the edge.
    pub from_port: u8,
    /// What of the later node depends on it.
    pub to_port: u8,
    /// A CUgraphDependencyType.
    pub kind: u8,
    /// Nothing.
    pub reserved: [u8; 5],
}

/// A node that another one depends on, or that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dependency {
    /// The node.
    pub node: u32,
    /// Nothing.
    pub reserved: u32,
    /// The edge between them.
    pub data: EdgeData,
}

/// An edge of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Edge {
    /// The earlier node.
    pub from: u32,
    /// The later one.
    pub to: u32,
    /// What the edge means.
    pub data: EdgeData,
}

/// Kinds of nodes (CUgraphNodeType).
pub mod kind {
    /// A kernel.
    pub const KERNEL: u32 = 0;
    /// A copy.
    pub const MEMCPY: u32 = 1;
    /// A fill.
    pub const MEMSET: u32 = 2;
    /// A function of the program.
    pub const HOST: u32 = 3;
    /// Another graph.
    pub const GRAPH: u32 = 4;
    /// Nothing.
    pub const EMPTY: u32 = 5;
    /// Waits for an event.
    pub const WAIT_EVENT: u32 = 6;
    /// Records an event.
    pub const EVENT_RECORD: u32 = 7;
    /// Allocates memory.
    pub const MEM_ALLOC: u32 = 10;
    /// Frees memory.
    pub const MEM_FREE: u32 = 11;
    /// Operations on words of memory.
    pub const BATCH_MEM_OP: u32 = 12;
    /// Graphs that run as a value of the GPU says.
    pub const CONDITIONAL: u32 = 13;
}

/// Another graph that is to be part of a graph (CUDA_CHILD_GRAPH_NODE_PARAMS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChildGraph {
    /// The graph.
    pub graph: u32,
    /// A CUgraphChildGraphNodeOwnership: [`Self::CLONE`] or [`Self::MOVE`].
    pub ownership: u32,
}

impl ChildGraph {
    /// A copy of the graph.
    pub const CLONE: u32 = 0;
    /// The graph itself, which is then no longer the program's to destroy.
    pub const MOVE: u32 = 1;
}

/// What a kernel node is made of; its packed parameters follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelNode {
    /// The kernel.
    pub function: u32,
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// What a node of operations on words of memory is made of; its [`crate::structs::BatchMemOp`]s follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchMemOpNode {
    /// The context.
    pub context: u64,
    /// Flags of all of them.
    pub flags: u32,
    /// Nothing.
    pub reserved: u32,
}

/// A CUDA_MEMSET_NODE_PARAMS_v2, with a context's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemsetNode {
    /// Where to.
    pub to: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// The element.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: u32,
    /// Elements of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// The context.
    pub context: u64,
}

/// A CUDA_MEMCPY3D with arrays' ids, and the context's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemcpyNode {
    /// Where from.
    pub from: MemcpySide,
    /// Where to.
    pub to: MemcpySide,
    /// Bytes of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// Slices.
    pub depth: u64,
    /// The context.
    pub context: u64,
}

/// One side of a three-dimensional copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemcpySide {
    /// Bytes to the first column.
    pub x: u64,
    /// The first row.
    pub y: u64,
    /// The first slice.
    pub z: u64,
    /// Nothing.
    pub lod: u64,
    /// A CUmemorytype.
    pub memory: u64,
    /// The address, if it is host memory.
    pub host: u64,
    /// The address, if it is device memory.
    pub device: u64,
    /// The array, if it is one.
    pub array: u64,
    /// Nothing.
    pub reserved: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Rows from slice to slice.
    pub rows: u64,
}

impl MemcpySide {
    /// CU_MEMORYTYPE_HOST.
    pub const HOST: u64 = 1;
    /// CU_MEMORYTYPE_DEVICE.
    pub const DEVICE: u64 = 2;
    /// CU_MEMORYTYPE_ARRAY.
    pub const ARRAY: u64 = 3;
    /// CU_MEMORYTYPE_UNIFIED.
    pub const UNIFIED: u64 = 4;

    /// Memory of that kind, which is no array, at an address.
    pub fn at(memory: u64, address: u64, pitch: u64, rows: u64) -> Self {
        let (host, device) = match memory {
            Self::HOST => (address, 0),
            _ => (0, address),
        };
        Self {
            memory,
            host,
            device,
            pitch,
            rows,
            ..Self::default()
        }
    }

    /// The range that a copy of this extent touches: its address and its bytes, if that can be told.
    pub fn range(&self, width: u64, height: u64, depth: u64) -> Option<(u64, u64)> {
        if width == 0 || height == 0 || depth == 0 {
            return Some((self.address(), 0));
        }
        // A pitch of 0 is that of rows without gaps.
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.rows == 0 { height } else { self.rows };
        let row = |z: u64, y: u64| {
            z.checked_mul(rows)?
                .checked_add(y)?
                .checked_mul(pitch)?
                .checked_add(self.x)
        };
        let first = row(self.z, self.y)?;
        let last = row(self.z.checked_add(depth - 1)?, self.y.checked_add(height - 1)?)?;
        let len = last.checked_add(width)?.checked_sub(first)?;
        Some((self.address().checked_add(first)?, len))
    }

    /// The address of its first byte, without the offsets.
    pub fn address(&self) -> u64 {
        if self.memory == Self::HOST {
            self.host
        } else {
            self.device
        }
    }
}

/// What an allocating node is made of: memory of a device, for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemAllocNode {
    /// Bytes.
    pub bytes: u64,
    /// The device.
    pub device: u32,
    /// Nothing.
    pub reserved: u32,
}

/// What a conditional node is made of; the ids of its graphs follow, `size` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConditionalNode {
    /// The value that decides.
    pub handle: u64,
    /// A CUgraphConditionalNodeType.
    pub kind: u32,
    /// How many graphs.
    pub size: u32,
    /// The context.
    pub context: u32,
    /// Nothing.
    pub reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn side() -> impl Strategy<Value = MemcpySide> {
        let small = 0u64..40;
        (small.clone(), small.clone(), small.clone(), 0u64..80, 0u64..80).prop_map(
            |(x, y, z, pitch, rows)| MemcpySide {
                x,
                y,
                z,
                lod: 0,
                memory: MemcpySide::DEVICE,
                host: 0,
                device: 1 << 40,
                array: 0,
                reserved: 0,
                pitch,
                rows,
            },
        )
    }

    proptest! {
        #[test]
        fn a_range_holds_every_byte_of_a_copy(side in side(), width in 1u64..40, height in 1u64..9, depth in 1u64..9) {
            let (start, len) = side.range(width, height, depth).unwrap();
            let pitch = if side.pitch == 0 { width } else { side.pitch };
            let rows = if side.rows == 0 { height } else { side.rows };
            for z in 0..depth {
                for y in 0..height {
                    let at = side.device + ((side.z + z) * rows + side.y + y) * pitch + side.x;
                    // Rows that overlap are refused elsewhere.
                    if pitch >= width && rows >= height {
                        prop_assert!(at >= start && at + width <= start + len);
                    }
                }
            }
        }

        #[test]
        fn no_extent_overflows(fields in any::<[u64; 11]>(), extent in any::<[u64; 3]>()) {
            let side = MemcpySide::read_from_bytes(fields.as_bytes()).unwrap();
            if let Some((start, len)) = side.range(extent[0], extent[1], extent[2]) {
                prop_assert!(len == 0 || start.checked_add(len).is_some() || start >= side.address());
            }
        }
    }
}
