//! Graphs and executable graphs, and the handles of nodes.
use crate::abi::CUgraphNode;
use crate::handles::Entry;
use crate::host_functions::Kept;
use crate::lock;
use crate::objects::Stream;
use crate::user_objects::{References, UserObject};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::NODE_NONE;
use vgpu_protocol::words::KernelParam;
use zerocopy::IntoBytes;

/// The kind of a node's handle, as [`crate::handles`] has them. The host names nodes, so there is no table of them.
const NODE_KIND: usize = 17;

/// The handle of a node.
pub fn node_handle(id: u32) -> CUgraphNode {
    (id as usize) << 8 | NODE_KIND << 3
}

/// The node that a handle names, if it can be one.
pub fn node_id(handle: CUgraphNode) -> Result<u32, Code> {
    if handle & 0xff != NODE_KIND << 3 {
        return Err(result::INVALID_VALUE);
    }
    u32::try_from(handle >> 8).map_err(|_| result::INVALID_VALUE)
}

/// A graph.
pub struct Graph {
    /// Its number on the wire.
    pub id: u32,
    /// The context it was made in.
    pub context: u32,
    /// The graph that it is part of.
    part_of: OnceLock<Arc<Entry<Graph>>>,
    /// The program destroys it: it is part of no other, and no capture's.
    owned: AtomicBool,
    /// What runs of it need.
    needs: Mutex<Needs>,
    /// Its nodes that the program has graphs of.
    pub parts: Mutex<Vec<u32>>,
    /// What the program was told of its kernels' parameters and of operations on words, by node: it may look at it until that changes.
    pub params: Mutex<HashMap<u32, Params>>,
}

/// A kernel's parameters, or other bytes of a node, where a program can look at them.
pub struct Params {
    /// They are aligned as a kernel's buffer is.
    packed: Box<[u128]>,
    len: usize,
    each: Box<[usize]>,
}

impl Params {
    /// A copy of packed parameters, which lie where `params` says.
    pub fn new(packed: &[u8], params: &[KernelParam]) -> Self {
        let mut words = vec![0u128; packed.len().div_ceil(16)].into_boxed_slice();
        words.as_mut_bytes()[..packed.len()].copy_from_slice(packed);
        let start = words.as_ptr() as usize;
        Self {
            packed: words,
            len: packed.len(),
            each: params.iter().map(|param| start + param.offset as usize).collect(),
        }
    }

    /// Whether these are the same.
    pub fn are(&self, packed: &[u8]) -> bool {
        self.packed.as_bytes()[..self.len] == *packed
    }

    /// Where they lie.
    pub fn addr(&self) -> usize {
        self.packed.as_ptr() as usize
    }

    /// The address of an array of pointers to each; 0 if there are none.
    pub fn each(&self) -> usize {
        if self.each.is_empty() {
            0
        } else {
            self.each.as_ptr() as usize
        }
    }
}

impl Graph {
    /// One that the program destroys.
    pub fn owned(id: u32, context: u32, needs: Needs) -> Self {
        Self {
            id,
            context,
            part_of: OnceLock::new(),
            owned: AtomicBool::new(true),
            needs: Mutex::new(needs),
            parts: Mutex::default(),
            params: Mutex::default(),
        }
    }

    /// One that is part of another.
    pub fn part(id: u32, of: Arc<Entry<Graph>>) -> Self {
        let part = Self::owned(id, of.context, Needs::default());
        part.move_to(of);
        part
    }

    /// It becomes part of another one.
    pub fn move_to(&self, of: Arc<Entry<Graph>>) {
        self.owned.store(false, Ordering::Release);
        let needs = std::mem::take(&mut *lock(&self.needs));
        of.change(|whole| whole.0.extend(needs.0));
        // It is part of no other: the program owned it.
        let _ = self.part_of.set(of);
    }

    /// One that a stream captures.
    pub fn captured(id: u32, context: u32) -> Self {
        Self {
            owned: AtomicBool::new(false),
            ..Self::owned(id, context, Needs::default())
        }
    }

    /// Whether the program may destroy it.
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }

    /// Its capture has ended: from now on the program destroys it, unless it is part of another one.
    pub fn give(&self) {
        self.owned.store(self.part_of.get().is_none(), Ordering::Release);
    }

    fn change<R>(&self, f: impl FnOnce(&mut Needs) -> R) -> R {
        match self.part_of.get() {
            Some(whole) => whole.change(f),
            None => f(&mut lock(&self.needs)),
        }
    }

    /// Runs of it need that as well.
    pub fn keep(&self, kept: impl IntoIterator<Item = Kept>) {
        self.keep_for(NODE_NONE, kept);
    }

    /// Runs of it need that for a node, and no longer what they needed for it.
    pub fn keep_for(&self, node: u32, kept: impl IntoIterator<Item = Kept>) {
        // What nobody needs any more may call the program.
        drop(self.change(|needs| needs.set(node, kept)));
    }

    /// What runs of it need.
    pub fn needs(&self) -> Needs {
        self.change(|needs| needs.clone())
    }
}

/// What runs of a graph need, each with the node because of which they do, if that is known.
#[derive(Clone, Default)]
pub struct Needs(Vec<(u32, Kept)>);

impl Needs {
    /// All of it.
    pub fn all(&self) -> Vec<Kept> {
        self.0.iter().map(|(_, kept)| kept.clone()).collect()
    }

    /// That is needed for a node; what was.
    fn set(&mut self, node: u32, kept: impl IntoIterator<Item = Kept>) -> Vec<Kept> {
        let gone = self
            .0
            .extract_if(.., |(of, _)| *of == node && node != NODE_NONE)
            .map(|(_, kept)| kept)
            .collect();
        self.0.extend(kept.into_iter().map(|kept| (node, kept)));
        gone
    }
}

impl Graph {
    /// Takes references to a user object away; executable graphs that were made of it keep theirs.
    pub fn release_object(&self, object: &Arc<Entry<UserObject>>, count: u32) -> Result<(), Code> {
        // The last reference calls the program.
        self.change(|needs| needs.release(object, count)).map(drop)
    }
}

impl Needs {
    /// Takes references to a user object out.
    fn release(
        &mut self,
        object: &Arc<Entry<UserObject>>,
        mut count: u32,
    ) -> Result<impl Sized + use<>, Code> {
        let is_of = |(_, kept): &(u32, Kept)| match kept {
            Kept::Object(held) if Arc::ptr_eq(held.object(), object) => held.count(),
            _ => 0,
        };
        let kept = &mut self.0;
        let there: u64 = kept.iter().map(|kept| u64::from(is_of(kept))).sum();
        if count == 0 || u64::from(count) > there {
            return Err(result::INVALID_VALUE);
        }
        let mut gone = Vec::new();
        while count > 0
            && let Some(i) = kept.iter().position(|kept| is_of(kept) > 0)
        {
            let held = is_of(&kept[i]);
            let left = held.saturating_sub(count);
            count -= held - left;
            if left > 0 {
                let rest = References::take(object.clone(), left, false)?;
                kept.push((NODE_NONE, Kept::Object(Arc::new(rest))));
            }
            gone.push(kept.swap_remove(i));
        }
        Ok(gone)
    }
}

/// An executable graph.
pub struct GraphExec {
    /// Its number on the wire.
    pub id: u32,
    /// The context it was made in.
    pub context: u32,
    /// The flags it was made with.
    pub flags: u64,
    /// What runs of it need.
    needs: Mutex<Needs>,
    /// The streams that it was launched on, if it needs anything.
    pub launched: Mutex<Vec<Arc<Stream>>>,
}

impl GraphExec {
    /// One that was not launched yet.
    pub fn new(id: u32, context: u32, flags: u64, needs: Needs) -> Self {
        Self {
            id,
            context,
            flags,
            needs: Mutex::new(needs),
            launched: Mutex::default(),
        }
    }

    /// From now on runs of it need that for a node; what those before needed.
    pub fn keep_for(&self, node: u32, kept: impl IntoIterator<Item = Kept>) -> Vec<Kept> {
        lock(&self.needs).set(node, kept)
    }

    /// From now on runs of it need that; what those before needed.
    pub fn keep_instead(&self, needs: Needs) -> Vec<Kept> {
        std::mem::replace(&mut *lock(&self.needs), needs).all()
    }

    /// Runs of it may need that as well, from now on.
    pub fn keep(&self, needs: Needs) {
        lock(&self.needs).0.extend(needs.0);
    }

    /// What runs of it need.
    pub fn kept(&self) -> Vec<Kept> {
        lock(&self.needs).all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_where_the_program_is_told() {
        let layout = [(0, 8), (8, 4), (12, 4)].map(|(offset, size)| KernelParam { offset, size });
        let packed: Vec<u8> = (0..16).collect();
        let params = Params::new(&packed, &layout);
        assert!(params.are(&packed) && !params.are(&[0; 16]));
        for (i, param) in layout.iter().enumerate() {
            // SAFETY: an array of three pointers, to bytes that are there.
            let first = unsafe { *(*(params.each() as *const usize).add(i) as *const u8) };
            assert_eq!(u32::from(first), param.offset);
        }
        assert_eq!(Params::new(&[], &[]).each(), 0);
    }

    #[test]
    fn a_nodes_handle_names_it_and_nothing_else_does() {
        for id in [0, 1, 0xffff, u32::MAX - 1] {
            assert_eq!(node_id(node_handle(id)), Ok(id));
        }
        for strange in [
            0,
            1,
            2,
            node_handle(5) + 1,
            node_handle(5) | 1 << 60,
            usize::MAX,
            6 << 3,
        ] {
            assert_eq!(node_id(strange), Err(result::INVALID_VALUE), "{strange:#x}");
        }
    }
}
