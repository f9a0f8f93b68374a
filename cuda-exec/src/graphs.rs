//! Graphs, and the names of their nodes.
//!
//! libcuda's graphs are not safe to use from several threads, and it follows a node's handle wherever that points. So every
//! call that looks into a graph, or changes one, is made while [`Graphs`] is locked, what captures record included; and a
//! node has a name here, which is found only while the node is known to exist.
//!
//! What a node names stays as long as any graph that has it ([`crate::recording`]).
//!
//! The host names nodes, as captures and copies of graphs make nodes that no call names: a node gets the next number when
//! the guest is first told of it. It loses it when it is destroyed, or the graph that it is in.
use crate::cuda::Raw;
use crate::cuda::graph::{CAPTURE_ACTIVE, Dependencies};
use crate::handles::{Context, Stream, report};
use crate::recording::{Kept, Named, Recorded};
use crate::session::Session;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vgpu_protocol::limits::GRAPH_NODES_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{Dependency, GRAPH_NONE};
use zerocopy::FromBytes;

/// A graph.
pub struct Graph {
    pub context: Arc<Context>,
    /// The guest's id.
    pub id: u32,
    pub raw: Raw,
    hold: Mutex<Hold>,
    /// The names of its nodes.
    nodes: Mutex<Vec<u32>>,
    /// The ids of graphs that are part of it, each with its node's name.
    parts: Mutex<Vec<(u32, u32)>>,
    /// The values that conditional nodes of it may look at.
    values: Mutex<Vec<u64>>,
    /// What it has, its parts included; a capture into it has that, too.
    recorded: Record,
}

/// See [`Recorded`].
type Record = Arc<Mutex<Recorded>>;

/// What a graph's existence depends on.
#[derive(Clone)]
enum Hold {
    /// The guest destroys it.
    Owned,
    /// It is part of another one.
    Part(Arc<Graph>),
    /// A stream captures it. Once the capture has ended it is the guest's, or part of that graph.
    Captured(Weak<Stream>, Option<Arc<Graph>>),
    /// It is gone, or nobody knows whether it is.
    Lost,
}

impl Hold {
    /// What the graph is part of.
    fn whole(&self) -> Option<&Arc<Graph>> {
        match self {
            Self::Part(of) | Self::Captured(_, Some(of)) => Some(of),
            _ => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Graph {
    fn new(context: Arc<Context>, id: u32, raw: Raw, hold: Hold, recorded: Record) -> Self {
        Self {
            context,
            id,
            raw,
            hold: Mutex::new(hold),
            nodes: Mutex::default(),
            parts: Mutex::default(),
            values: Mutex::default(),
            recorded,
        }
    }

    /// One that the guest destroys, with what it has.
    pub fn owned(context: Arc<Context>, id: u32, raw: Raw, recorded: Recorded) -> Self {
        Self::new(context, id, raw, Hold::Owned, Arc::new(Mutex::new(recorded)))
    }

    /// What the whole that it is part of has.
    fn record(&self) -> Record {
        match self.hold().whole() {
            Some(of) => of.record(),
            None => self.recorded.clone(),
        }
    }

    /// Does something with what the whole that it is part of has.
    pub fn recorded<R>(&self, f: impl FnOnce(&mut Recorded) -> R) -> R {
        f(&mut lock(&self.record()))
    }

    /// Runs of it need these as well.
    pub fn name(&self, named: impl IntoIterator<Item = Named>) {
        self.recorded(|recorded| recorded.kept.add(named));
    }

    /// What runs of it need.
    pub fn named(&self) -> Vec<Named> {
        self.recorded(|recorded| recorded.kept.all())
    }

    /// Nodes of it and of what it is part of.
    pub fn nodes(&self) -> u64 {
        self.recorded(|recorded| recorded.weight.nodes())
    }

    /// What it has, to be let go of when nobody waits for it: that may wait for the GPU.
    pub fn all_that_it_has(&self) -> impl Sized + use<> {
        self.recorded.clone()
    }

    /// A conditional node of it may look at this value.
    pub fn add_value(&self, value: u64) {
        lock(&self.values).push(value);
    }

    /// Whether a conditional node of it may look at this value.
    pub fn has_value(&self, value: u64) -> bool {
        lock(&self.values).contains(&value)
    }

    fn hold(&self) -> Hold {
        lock(&self.hold).clone()
    }

    /// Whether it is that graph, or what that is part of.
    pub fn contains(&self, graph: &Graph) -> bool {
        std::ptr::eq(self, graph) || graph.hold().whole().is_some_and(|of| self.contains(of))
    }

    /// What it is part of.
    fn whole(&self) -> Option<Arc<Graph>> {
        self.hold().whole().cloned()
    }

    /// Whether it is the guest's, and no stream captures it.
    pub fn is_owned(&self) -> bool {
        matches!(self.hold(), Hold::Owned)
    }

    /// Whether the capture that it was of has failed.
    pub fn is_lost(&self) -> bool {
        matches!(self.hold(), Hold::Lost)
    }

    /// Whether a stream captures it, or what it is part of.
    pub fn is_captured(&self) -> bool {
        match self.hold() {
            Hold::Part(of) => of.is_captured(),
            hold => matches!(hold, Hold::Captured(..)),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Hold::Owned = self.hold() {
            lock(&self.recorded).forget_memory(self.context.session);
            report(
                self.context.session.cuda.graphs.graph_destroy(self.raw),
                "cuGraphDestroy",
            );
        }
    }
}

/// An executable graph.
pub struct GraphExec {
    pub context: Arc<Context>,
    pub raw: Raw,
    /// Held while it is launched or changed.
    pub busy: Mutex<()>,
    recorded: Mutex<Recorded>,
}

impl GraphExec {
    /// What was made of a graph that has this.
    pub fn new(context: Arc<Context>, raw: Raw, recorded: Recorded) -> Self {
        Self {
            context,
            raw,
            busy: Mutex::default(),
            recorded: Mutex::new(recorded),
        }
    }

    /// Does something with what it has.
    pub fn recorded<R>(&self, f: impl FnOnce(&mut Recorded) -> R) -> R {
        f(&mut lock(&self.recorded))
    }

    /// Runs of it need these as well.
    pub fn name(&self, named: impl IntoIterator<Item = Named>) {
        lock(&self.recorded).kept.add(named);
    }

    /// Runs of it need these from now on; what they needed before.
    pub fn name_instead(&self, named: impl IntoIterator<Item = Named>) -> Kept {
        let mut recorded = lock(&self.recorded);
        let before = std::mem::take(&mut recorded.kept);
        recorded.kept.add(named);
        before
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        lock(&self.recorded).forget_memory(self.context.session);
        let session = self.context.session;
        let destroy = || session.cuda.graphs.graph_exec_destroy(self.raw);
        report(session.relaxed(destroy), "cuGraphExecDestroy");
    }
}

/// All that is known of graphs' nodes.
#[derive(Default)]
pub struct Graphs {
    nodes: Mutex<Nodes>,
    /// How many all graphs and executable graphs have.
    weight: AtomicU64,
}

impl Graphs {
    /// Nobody else uses a graph until the result is dropped.
    pub fn lock(&self) -> MutexGuard<'_, Nodes> {
        lock(&self.nodes)
    }

    /// How many nodes all graphs and executable graphs have.
    pub fn weight(&self) -> &AtomicU64 {
        &self.weight
    }
}

/// See [`Graphs`].
#[derive(Default)]
pub struct Nodes {
    last: u32,
    by_id: HashMap<u32, Node>,
    by_raw: HashMap<Raw, u32>,
    /// Graphs that streams capture, and for which the guest has an id.
    captured: Vec<(u32, Arc<Graph>)>,
    /// What each graph has that a capture may be adding to.
    recorded: HashMap<Raw, Record>,
}

#[derive(Clone)]
struct Node {
    raw: Raw,
    graph: Arc<Graph>,
    /// As how many nodes it counts, as far as is known.
    weight: u64,
}

impl Nodes {
    /// The graph with that id, if it exists.
    pub fn graph(&self, session: &Session, id: u32) -> Result<Arc<Graph>, Code> {
        let graph = session.objects.graphs.get(id).ok_or(result::INVALID_HANDLE)?;
        exists(&graph)?;
        Ok(graph)
    }

    /// The node with that name, and its graph.
    pub fn node(&self, id: u32) -> Result<(Raw, Arc<Graph>), Code> {
        let node = self.by_id.get(&id).ok_or(result::INVALID_VALUE)?;
        exists(&node.graph)?;
        Ok((node.raw, node.graph.clone()))
    }

    /// The node with that name, which must be one of that graph.
    pub fn node_in(&self, id: u32, graph: &Arc<Graph>) -> Result<Raw, Code> {
        let (raw, of) = self.node(id)?;
        if Arc::ptr_eq(&of, graph) {
            Ok(raw)
        } else {
            Err(result::INVALID_VALUE)
        }
    }

    /// Whether a node may get a name, of those that [`Self::name`] gives.
    pub fn has_room(&self) -> Result<(), Code> {
        match self.by_id.len() < GRAPH_NODES_MAX && self.last < u32::MAX - 1 {
            true => Ok(()),
            false => Err(result::OUT_OF_MEMORY),
        }
    }

    /// The name of a node of that graph.
    pub fn name(&mut self, graph: &Arc<Graph>, raw: Raw) -> Result<u32, Code> {
        if let Some(&id) = self.by_raw.get(&raw) {
            let known = self
                .by_id
                .get(&id)
                .is_some_and(|node| Arc::ptr_eq(&node.graph, graph));
            if known {
                return Ok(id);
            }
            // Its graph was lost without anybody knowing, and another node lies there now.
            self.by_id.remove(&id);
        }
        self.has_room()?;
        // No name comes twice, so that an old one names nothing.
        self.last += 1;
        let graph = graph.clone();
        lock(&graph.nodes).push(self.last);
        self.by_raw.insert(raw, self.last);
        let weight = 1;
        self.by_id.insert(self.last, Node { raw, graph, weight });
        Ok(self.last)
    }

    /// The name of a new node, which counts as that many.
    pub fn name_new(&mut self, graph: &Arc<Graph>, raw: Raw, weight: u64) -> Result<u32, Code> {
        let id = self.name(graph, raw)?;
        if let Some(node) = self.by_id.get_mut(&id) {
            node.weight = weight;
        }
        Ok(id)
    }

    /// The names of nodes of that graph.
    pub fn names(&mut self, graph: &Arc<Graph>, raw: &[Raw]) -> Result<Vec<u32>, Code> {
        raw.iter().map(|&raw| self.name(graph, raw)).collect()
    }

    /// The nodes of a graph that a record's blob names.
    pub fn dependencies(&self, graph: &Arc<Graph>, blob: &[u8]) -> Result<Dependencies, Code> {
        let named = <[Dependency]>::ref_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
        let mut all = Dependencies::default();
        for one in named {
            all.push(self.node_in(one.node, graph)?, one.data);
        }
        Ok(all)
    }

    /// A node is destroyed: it has no name any more, nor have the graphs in it.
    pub fn forget_node(&mut self, session: &Session, id: u32) {
        let Some(node) = self.by_id.remove(&id) else {
            return;
        };
        self.by_raw.remove(&node.raw);
        // What is part of a node counts with that.
        if node.graph.whole().is_none() {
            node.graph
                .recorded(|recorded| recorded.weight.shrink(node.weight));
        }
        lock(&node.graph.nodes).retain(|&other| other != id);
        let parts: Vec<_> = lock(&node.graph.parts)
            .extract_if(.., |(_, of)| *of == id)
            .collect();
        self.forget_parts(session, parts);
    }

    /// A graph is destroyed, or is no longer the guest's: nothing in it has a name.
    pub fn forget(&mut self, session: &Session, graph: &Graph) {
        for id in lock(&graph.nodes).drain(..) {
            if let Some(node) = self.by_id.remove(&id) {
                self.by_raw.remove(&node.raw);
            }
        }
        let parts = std::mem::take(&mut *lock(&graph.parts));
        self.forget_parts(session, parts);
        // Its id may soon be another graph's.
        let whole = graph.whole();
        if let Some(of) = &whole {
            lock(&of.parts).retain(|(id, _)| *id != graph.id);
        }
        // What a stream captures into a part of goes when the capture has ended.
        self.captured.retain_mut(|(id, captured)| {
            let is_this = std::ptr::eq(&**captured, graph);
            if is_this {
                *id = GRAPH_NONE;
            }
            !is_this || whole.is_some()
        });
    }

    /// Whether a stream captures into that graph, or a graph in it.
    pub fn captures_within(&self, graph: &Graph) -> bool {
        self.captured.iter().any(|(_, captured)| graph.contains(captured))
    }

    fn forget_parts(&mut self, session: &Session, parts: Vec<(u32, u32)>) {
        for (part, _) in parts {
            if let Some(part) = session.objects.graphs.remove(part) {
                self.forget(session, &part);
            }
        }
    }

    /// Gives the guest an id for a graph that is part of the graph of a node.
    pub fn add_part(&mut self, session: &Session, node: u32, id: u32, raw: Raw) -> Result<(), Code> {
        let (_, of) = self.node(node)?;
        let part = Graph::new(
            of.context.clone(),
            id,
            raw,
            Hold::Part(of.clone()),
            of.recorded.clone(),
        );
        let added = session.objects.graphs.insert(id, part);
        added.map_err(|_| result::INVALID_HANDLE)?;
        lock(&of.parts).push((id, node));
        Ok(())
    }

    /// A graph of the guest's has become part of another one, as a node of it.
    pub fn moved(&mut self, child: &Graph, graph: &Arc<Graph>, node: u32) {
        let mut recorded = lock(&child.recorded);
        *lock(&child.hold) = Hold::Part(graph.clone());
        if let Some(node) = self.by_id.get_mut(&node) {
            node.weight += recorded.weight.nodes();
        }
        graph.recorded(|whole| whole.absorb(&mut recorded));
        lock(&graph.parts).push((child.id, node));
    }

    /// A graph that a stream captures, under the id that the guest has for it or gives it.
    pub fn captured_by(
        &mut self,
        session: &'static Session,
        stream: &Arc<Stream>,
        id: u32,
        raw: Raw,
    ) -> Result<Arc<Graph>, Code> {
        self.capture_ended(None);
        if let Some((known, graph)) = self.captured.iter().find(|(_, graph)| graph.raw == raw) {
            let same = *known == id && session.objects.graphs.get(id).is_some();
            return if same {
                Ok(graph.clone())
            } else {
                Err(result::INVALID_HANDLE)
            };
        }
        let hold = Hold::Captured(Arc::downgrade(stream), None);
        let recorded = self.record_of(session, raw);
        let graph = Graph::new(stream.context.clone(), id, raw, hold, recorded);
        let graph = session.objects.graphs.insert(id, graph);
        let graph = graph.map_err(|_| result::INVALID_HANDLE)?;
        self.captured.push((id, graph.clone()));
        Ok(graph)
    }

    /// What a graph has that is captured.
    fn record_of(&mut self, session: &'static Session, raw: Raw) -> Record {
        let nothing = || Arc::new(Mutex::new(Recorded::nothing(session)));
        self.recorded.entry(raw).or_insert_with(nothing).clone()
    }

    /// Does something with what the graph has that a stream captures, to which the caller adds a node.
    pub fn record<R>(
        &mut self,
        session: &'static Session,
        stream: Raw,
        f: impl FnOnce(&mut Recorded) -> Result<R, Code>,
    ) -> Result<R, Code> {
        // One that has failed has no graph any more, and a stream that may not be touched now has none: what is submitted there
        // is libcuda's to refuse.
        let graph = session
            .cuda
            .graphs
            .captured_graph(stream)
            .ok()
            .flatten()
            .unwrap_or(0);
        let record = self.record_of(session, graph);
        let mut recorded = lock(&record);
        recorded.weight.grow(1)?;
        f(&mut recorded)
    }

    /// The graph that is captured and that libcuda knows as this, if the guest has an id for it.
    pub fn captured_graph(&self, raw: Raw) -> Option<Arc<Graph>> {
        let found = self.captured.iter().find(|(_, graph)| graph.raw == raw);
        found.map(|(_, graph)| graph.clone())
    }

    /// Whether that is the id of a graph that is captured.
    pub fn is_captured(&self, id: u32) -> bool {
        self.captured.iter().any(|(known, _)| *known == id)
    }

    /// A stream captures into a graph of the guest's.
    pub fn capture_into(&mut self, id: u32, graph: &Arc<Graph>, stream: &Arc<Stream>) {
        *lock(&graph.hold) = Hold::Captured(Arc::downgrade(stream), graph.whole());
        self.recorded.insert(graph.raw, graph.record());
        self.captured.push((id, graph.clone()));
    }

    /// What captures that failed have put into their graphs, once none is under way that may be theirs: to be let go of when
    /// nobody waits for it.
    pub fn take_failed(&mut self, session: &Session) -> impl Sized + use<> {
        match session.captures() {
            true => HashMap::new(),
            false => std::mem::take(&mut self.recorded),
        }
    }

    /// The guest's graph of a capture that has ended.
    pub fn graph_of_capture(
        &mut self,
        session: &'static Session,
        context: &Arc<Context>,
        id: u32,
        raw: Raw,
    ) -> Graph {
        let recorded = self.record_of(session, raw);
        self.recorded.remove(&raw);
        Graph::new(context.clone(), id, raw, Hold::Owned, recorded)
    }

    /// A capture has ended with this graph, if it made one. The id that the guest had for it.
    pub fn capture_ended(&mut self, raw: Option<Raw>) -> Option<u32> {
        let over: Vec<_> = self
            .captured
            .extract_if(.., |(_, graph)| Some(graph.raw) == raw || exists(graph).is_err())
            .collect();
        let mut owned = None;
        for (id, graph) in over {
            let is_made = Some(graph.raw) == raw;
            if is_made {
                self.recorded.remove(&graph.raw);
            }
            let whole = graph.whole();
            *lock(&graph.hold) = match is_made {
                true => whole.map_or(Hold::Owned, Hold::Part),
                false => Hold::Lost,
            };
            owned = owned.or(is_made.then_some(id));
        }
        owned
    }
}

/// Refuses a graph that is gone. One that is captured may go whenever its capture fails; one that was captured into is not
/// known to be left then.
fn exists(graph: &Graph) -> Result<(), Code> {
    match graph.hold() {
        Hold::Owned => Ok(()),
        Hold::Part(of) => exists(&of),
        Hold::Lost => Err(result::INVALID_VALUE),
        Hold::Captured(stream, whole) => {
            whole.as_deref().map_or(Ok(()), exists)?;
            let session = graph.context.session;
            let info = stream
                .upgrade()
                .and_then(|stream| session.cuda.graphs.capture_info(stream.raw().ok()?).ok());
            match info {
                Some(info) if info.status == CAPTURE_ACTIVE && info.graph == graph.raw => Ok(()),
                _ => {
                    *lock(&graph.hold) = Hold::Lost;
                    Err(result::INVALID_VALUE)
                }
            }
        }
    }
}
