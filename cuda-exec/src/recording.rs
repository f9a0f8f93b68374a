//! What graphs hold on to: the objects that their nodes name, and how many nodes they have.
//!
//! libcuda's graphs hold the handles of functions, events, arrays and pools, and do not keep them; and a graph in a graph is a
//! copy, so that a few calls make any number of nodes. Both are kept account of here, from the moment at which a node is made
//! or captured until all that has it is gone.
use crate::device_memory::GraphMemory;
use crate::handles::Stream;
use crate::session::Session;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vgpu_protocol::limits::GRAPHS_WEIGHT_MAX;
use vgpu_protocol::result::{self, Code};

/// An object that a node names.
pub type Named = Arc<dyn Any + Send + Sync>;

/// Each of them once, by its address.
#[derive(Clone, Default)]
pub struct Kept(HashMap<usize, Named>);

impl Kept {
    /// Keeps these as well.
    pub fn add(&mut self, named: impl IntoIterator<Item = Named>) {
        // The same object is at the same place as long as it is kept.
        let by_address = |named: Named| (Arc::as_ptr(&named).cast::<()>() as usize, named);
        self.0.extend(named.into_iter().map(by_address));
    }

    /// All of them.
    pub fn all(&self) -> Vec<Named> {
        self.0.values().cloned().collect()
    }
}

/// Nodes of something that has nodes; they count for the session until it is gone.
#[derive(Debug)]
pub struct Weight {
    session: &'static AtomicU64,
    nodes: u64,
}

impl Weight {
    /// None yet. `session` is what all of the session's count.
    pub fn none(session: &'static AtomicU64) -> Self {
        Self { session, nodes: 0 }
    }

    /// How many.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// That many more, unless the session would have too many.
    pub fn grow(&mut self, nodes: u64) -> Result<(), Code> {
        let more = |all: u64| all.checked_add(nodes).filter(|&all| all <= GRAPHS_WEIGHT_MAX);
        // A number that stands for itself.
        self.session
            .fetch_update(Relaxed, Relaxed, more)
            .map_err(|_| result::OUT_OF_MEMORY)?;
        self.nodes += nodes;
        Ok(())
    }

    /// That many less; there are not always as many.
    pub fn shrink(&mut self, nodes: u64) {
        let nodes = nodes.min(self.nodes);
        self.session.fetch_sub(nodes, Relaxed);
        self.nodes -= nodes;
    }

    /// Takes over what another one has.
    pub fn absorb(&mut self, other: &mut Self) {
        self.nodes += std::mem::take(&mut other.nodes);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.session.fetch_sub(self.nodes, Relaxed);
    }
}

/// What a graph has, whoever puts it there: a call that adds a node, or a capture, which may outlive the guest's name for the graph.
pub struct Recorded {
    pub kept: Kept,
    /// Its allocations.
    pub memory: Vec<Arc<GraphMemory>>,
    /// The addresses of allocations that it frees.
    pub frees: Vec<u64>,
    /// How many nodes, those of graphs in it included.
    pub weight: Weight,
}

impl Recorded {
    /// Nothing yet.
    pub fn nothing(session: &'static Session) -> Self {
        Self {
            kept: Kept::default(),
            memory: Vec::new(),
            frees: Vec::new(),
            weight: Weight::none(session.graphs.weight()),
        }
    }

    /// It is gone: its allocations are no longer the guest's to name, unless others have them. Until this returns somebody
    /// may still be looking at them.
    pub fn forget_memory(&mut self, session: &Session) {
        if !self.memory.is_empty() {
            self.memory.clear();
            session.memory.device(|_| ());
        }
    }

    /// Takes over what another graph has that becomes part of this one.
    pub fn absorb(&mut self, other: &mut Self) {
        self.kept.add(std::mem::take(&mut other.kept).all());
        self.memory.append(&mut other.memory);
        self.frees.append(&mut other.frees);
        self.weight.absorb(&mut other.weight);
    }

    /// What a copy of the graph has; whether the session may have that many nodes.
    pub fn copy(&self, session: &'static Session) -> Result<Self, Code> {
        let mut copy = Self::nothing(session);
        copy.weight.grow(self.weight.nodes())?;
        copy.kept = self.kept.clone();
        copy.memory.clone_from(&self.memory);
        copy.frees.clone_from(&self.frees);
        Ok(copy)
    }
}

/// Where libcuda takes an operation that is submitted to a stream.
pub enum To<'a> {
    /// To the GPU, behind the stream's other work.
    Gpu,
    /// Into the graph that the stream captures.
    Graph(&'a mut Recorded),
}

impl To<'_> {
    /// The operation names this object: a graph has to keep it.
    pub fn keep<T: Any + Send + Sync>(&mut self, object: &Arc<T>) {
        if let Self::Graph(recorded) = self {
            recorded.kept.add([object.clone() as Named]);
        }
    }

    /// Whether it goes into a graph.
    pub fn is_graph(&self) -> bool {
        matches!(self, Self::Graph(_))
    }
}

/// Whether a stream captures now. While [`Session::still`] is held, that stays so.
pub fn captures(session: &Session, stream: &Stream) -> Result<bool, Code> {
    Ok(session.captures() && session.cuda.stream_is_capturing(stream.raw()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_kept_once() {
        let object = Arc::new(String::from("a function"));
        let mut kept = Kept::default();
        kept.add([object.clone() as Named, object.clone() as Named]);
        kept.add([object.clone() as Named]);
        assert_eq!((Arc::strong_count(&object), kept.all().len()), (2, 1));
        let copy = kept.clone();
        drop(kept);
        assert_eq!(Arc::strong_count(&object), 2);
        drop(copy);
        assert_eq!(Arc::strong_count(&object), 1);
    }

    #[test]
    fn nodes_count_until_what_has_them_is_gone() {
        static ALL: AtomicU64 = AtomicU64::new(0);
        let all = || ALL.load(Relaxed);
        let mut graph = Weight::none(&ALL);
        graph.grow(GRAPHS_WEIGHT_MAX / 2).unwrap();
        let mut copy = Weight::none(&ALL);
        copy.grow(graph.nodes()).unwrap();
        assert_eq!(graph.grow(1), Err(result::OUT_OF_MEMORY));
        assert_eq!(graph.grow(u64::MAX), Err(result::OUT_OF_MEMORY));
        copy.shrink(10);
        graph.grow(10).unwrap();
        assert_eq!(all(), GRAPHS_WEIGHT_MAX);
        graph.absorb(&mut copy);
        assert_eq!((all(), graph.nodes()), (GRAPHS_WEIGHT_MAX, GRAPHS_WEIGHT_MAX));
        graph.shrink(u64::MAX);
        assert_eq!((all(), graph.nodes()), (0, 0));
        graph.grow(3).unwrap();
        drop(graph);
        assert_eq!(all(), 0);
    }
}
