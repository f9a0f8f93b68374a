//! Stream capture: operations become nodes of a graph instead of being run.
//!
//! Calls which could not be captured are forbidden meanwhile, by the rules of CUDA: which calls those are
//! depends on the mode the capture was begun with and on the mode of the calling thread.

use super::abi::{CUgraph, CUgraphNode, CUstream, In, Out, api, stream_api};
use super::context::{Context, current};
use super::error::{self, Result};
use super::graph::{After, EdgeData, Graph, Op, PLAIN};
use super::registry::new_handle;
use super::runtime::{Runtime, runtime};
use super::stream::{Kind, Stream, stream};
use super::work::Work;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::ThreadId;

/// `CUstreamCaptureMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn named(value: i32) -> Result<Mode> {
        match value {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(error::INVALID_VALUE),
        }
    }
}

/// `CUstreamCaptureStatus`
const STATUS_NONE: i32 = 0;
const STATUS_ACTIVE: i32 = 1;
const STATUS_INVALIDATED: i32 = 2;

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// One capture, from its beginning on one stream to its end there.
pub struct Session {
    id: u64,
    mode: Mode,
    thread: ThreadId,
    origin: Weak<Stream>,
    invalid: AtomicBool,
    graph: Arc<Graph>,
    /// The graph is the program's: the capture only adds to it.
    given: bool,
    /// Nodes that its streams made and that must have come together when it ends.
    open: Mutex<Vec<CUgraphNode>>,
    members: Mutex<Vec<Weak<Stream>>>,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub struct Capturing {
    session: Arc<Session>,
    /// The nodes which its next node comes after.
    frontier: After,
    /// What was last told of it, for as long as nothing else is.
    told: (Vec<CUgraphNode>, Vec<EdgeData>),
}

/// The captures going on in the process.
#[derive(Default)]
pub struct Captures {
    active: Mutex<Vec<Arc<Session>>>,
    count: AtomicUsize,
}

impl Session {
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
        if !self.given {
            self.graph.lose();
        }
    }

    fn is_valid(&self) -> bool {
        !self.invalid.load(Ordering::Acquire)
    }

    fn open(&self) -> MutexGuard<'_, Vec<CUgraphNode>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn members(&self) -> Vec<Arc<Stream>> {
        let members = self.members.lock().unwrap_or_else(|e| e.into_inner());
        members.iter().filter_map(Weak::upgrade).collect()
    }

    fn add_member(&self, stream: &Arc<Stream>) {
        self.members
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(Arc::downgrade(stream));
    }
}

impl Captures {
    fn active(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.active.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn begin(&self, session: Arc<Session>) {
        let mut active = self.active();
        active.push(session);
        self.count.store(active.len(), Ordering::Release);
    }

    fn end(&self, session: &Arc<Session>) {
        let mut active = self.active();
        active.retain(|s| !Arc::ptr_eq(s, session));
        self.count.store(active.len(), Ordering::Release);
    }

    fn none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn refuse(&self, code: error::CuError, which: impl Fn(&Session) -> bool) -> Result {
        if self.none() {
            return Ok(());
        }
        let mut found = false;
        for session in self.active().iter().filter(|s| which(s)) {
            session.invalidate();
            found = true;
        }
        if found { Err(code) } else { Ok(()) }
    }

    /// Called by functions which are potentially unsafe while something is being captured: refuses them
    /// where the modes say so, and invalidates the captures they would have disturbed.
    pub fn forbid(&self) -> Result {
        let mode = MODE.get();
        let me = std::thread::current().id();
        self.refuse(error::STREAM_CAPTURE_UNSUPPORTED, |session| match mode {
            Mode::Relaxed => false,
            Mode::ThreadLocal => session.thread == me && session.mode != Mode::Relaxed,
            Mode::Global => {
                session.mode == Mode::Global || (session.thread == me && session.mode != Mode::Relaxed)
            }
        })
    }

    /// Refuses to wait for a context in which a stream is capturing.
    pub fn forbid_in_context(&self, context: &Context) -> Result {
        self.refuse(error::STREAM_CAPTURE_UNSUPPORTED, |session| {
            session.members().iter().any(|s| s.belongs_to(context.handle))
        })
    }

    /// Refuses the legacy stream while a blocking stream of the context is capturing.
    pub fn forbid_legacy(&self, context: &Context) -> Result {
        self.refuse(error::STREAM_CAPTURE_IMPLICIT, |session| {
            implicit(session, context)
        })
    }

    fn has_implicit(&self, context: &Context) -> bool {
        !self.none() && self.active().iter().any(|session| implicit(session, context))
    }
}

fn implicit(session: &Session, context: &Context) -> bool {
    session
        .members()
        .iter()
        .any(|s| s.is_blocking() && s.belongs_to(context.handle))
}

fn capturing(stream: &Stream) -> MutexGuard<'_, Option<Capturing>> {
    stream.capture.lock().unwrap_or_else(|e| e.into_inner())
}

/// Refuses a call on a stream that is being captured, and invalidates the capture.
pub(crate) fn forbid_on(stream: &Arc<Stream>) -> Result {
    if let Some(state) = &*capturing(stream) {
        state.session.invalidate();
        return Err(error::STREAM_CAPTURE_UNSUPPORTED);
    }
    legacy_allowed(stream)
}

fn legacy_allowed(stream: &Stream) -> Result {
    if stream.kind == Kind::Legacy {
        let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
        return runtime()?.captures.forbid_legacy(&context);
    }
    Ok(())
}

/// Makes an operation a node if the stream is being captured; false if it is to be run.
pub(crate) fn add(stream: &Arc<Stream>, work: &Work) -> Result<bool> {
    add_node(stream, || Op::captured(runtime()?, work))
}

/// The same for what is made only then.
pub(crate) fn add_node(stream: &Arc<Stream>, op: impl FnOnce() -> Result<Op>) -> Result<bool> {
    let mut state = capturing(stream);
    let Some(state) = &mut *state else {
        legacy_allowed(stream)?;
        return Ok(false);
    };
    if !state.session.is_valid() {
        return Err(error::STREAM_CAPTURE_INVALIDATED);
    }
    let after = std::mem::take(&mut state.frontier);
    let node = state.session.graph.add(runtime()?, op()?, after.clone())?;
    let mut open = state.session.open();
    open.retain(|node| !after.iter().any(|(before, _)| before == node));
    open.push(node);
    state.frontier = vec![(node, PLAIN)];
    Ok(true)
}

/// The capture of a stream and the nodes its next one would follow, for an event recorded there.
pub(crate) fn frontier(stream: &Arc<Stream>) -> Result<Option<(Arc<Session>, After)>> {
    let state = capturing(stream);
    match &*state {
        Some(state) if !state.session.is_valid() => Err(error::STREAM_CAPTURE_INVALIDATED),
        Some(state) => Ok(Some((state.session.clone(), state.frontier.clone()))),
        None => legacy_allowed(stream).map(|()| None),
    }
}

/// A stream waits for an event recorded in a capture, and so becomes part of it.
pub(crate) fn join(
    stream: &Arc<Stream>,
    session: &Arc<Session>,
    frontier: &[(CUgraphNode, EdgeData)],
) -> Result {
    if !session.is_valid() {
        return Err(error::STREAM_CAPTURE_INVALIDATED);
    }
    if !runtime()?
        .captures
        .active()
        .iter()
        .any(|s| Arc::ptr_eq(s, session))
    {
        return Err(error::CAPTURED_EVENT);
    }
    let mut state = capturing(stream);
    match &mut *state {
        Some(own) if Arc::ptr_eq(&own.session, session) => {
            own.frontier.extend(frontier);
            own.frontier.sort_unstable();
            own.frontier.dedup();
            Ok(())
        }
        Some(own) => {
            own.session.invalidate();
            session.invalidate();
            Err(error::STREAM_CAPTURE_MERGE)
        }
        None if stream.kind == Kind::Legacy => {
            session.invalidate();
            Err(error::STREAM_CAPTURE_IMPLICIT)
        }
        None => {
            *state = Some(Capturing {
                session: session.clone(),
                frontier: frontier.to_vec(),
                told: Default::default(),
            });
            session.add_member(stream);
            Ok(())
        }
    }
}

/// A captured stream may not wait for work outside the capture.
pub(crate) fn isolate(stream: &Arc<Stream>) -> Result {
    if let Some(state) = &*capturing(stream) {
        state.session.invalidate();
        return Err(error::STREAM_CAPTURE_ISOLATION);
    }
    legacy_allowed(stream)
}

/// A stream is destroyed while it is being captured. The capture that began on it ends; another one goes on, and misses what has
/// not come back from it.
pub(crate) fn abandon(runtime: &Runtime, stream: &Arc<Stream>) {
    let state = capturing(stream).take();
    if let Some(state) = state
        && state.session.origin.ptr_eq(&Arc::downgrade(stream))
    {
        state.session.invalidate();
        finish(runtime, &state.session, false);
    }
}

/// Ends a capture; `kept` if its graph stays.
fn finish(runtime: &Runtime, session: &Arc<Session>, kept: bool) {
    if !kept && !session.given {
        session.graph.forget(runtime);
    }
    runtime.captures.end(session);
    for member in session.members() {
        let mut state = capturing(&member);
        if state.as_ref().is_some_and(|s| Arc::ptr_eq(&s.session, session)) {
            *state = None;
        }
    }
}

/// Begins a capture, to a new graph or behind nodes of a given one.
fn begin(stream: &Arc<Stream>, mode: Mode, given: Option<(Arc<Graph>, After)>) -> Result {
    let runtime = runtime()?;
    if stream.kind == Kind::Legacy {
        return Err(error::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut state = capturing(stream);
    if let Some(state) = &*state {
        state.session.invalidate();
        return Err(error::ILLEGAL_STATE);
    }
    let is_given = given.is_some();
    let (graph, frontier) = given.unwrap_or_else(|| {
        let graph = Graph::new(false);
        runtime.graphs.add(graph.handle, graph.clone());
        (graph, Vec::new())
    });
    let session = Arc::new(Session {
        id: new_handle(),
        mode,
        thread: std::thread::current().id(),
        origin: Arc::downgrade(stream),
        invalid: AtomicBool::new(false),
        graph,
        given: is_given,
        open: Mutex::default(),
        members: Mutex::new(vec![Arc::downgrade(stream)]),
    });
    *state = Some(Capturing {
        session: session.clone(),
        frontier,
        told: Default::default(),
    });
    runtime.captures.begin(session);
    Ok(())
}

fn end(stream: &Arc<Stream>, out: Out<CUgraph>) -> Result {
    let runtime = runtime()?;
    let Some(state) = capturing(stream).clone() else {
        return Err(error::ILLEGAL_STATE);
    };
    let session = state.session;
    if !session.origin.ptr_eq(&Arc::downgrade(stream)) {
        session.invalidate();
        return Err(error::STREAM_CAPTURE_UNMATCHED);
    }
    if session.mode != Mode::Relaxed && session.thread != std::thread::current().id() {
        return Err(error::STREAM_CAPTURE_WRONG_THREAD);
    }
    // What forked off must have come back: nothing ends elsewhere than here.
    let joined = session
        .open()
        .iter()
        .all(|node| state.frontier.iter().any(|(leaf, _)| leaf == node));
    let ended = match (session.is_valid(), joined) {
        (false, _) => Err(error::STREAM_CAPTURE_INVALIDATED),
        (true, false) => Err(error::STREAM_CAPTURE_UNJOINED),
        (true, true) => Ok(session.graph.handle),
    };
    finish(runtime, &session, ended.is_ok());
    // Who gave the graph has it, and whoever does not want it loses it.
    if !out.0.is_null() {
        out.set(ended.unwrap_or(0))?;
    }
    ended.map(|_| ())
}

fn status(stream: &Arc<Stream>) -> Result<(i32, u64)> {
    match &*capturing(stream) {
        Some(state) if state.session.is_valid() => Ok((STATUS_ACTIVE, state.session.id)),
        Some(state) => Ok((STATUS_INVALIDATED, state.session.id)),
        None => {
            let context = current()?;
            if stream.kind == Kind::Legacy && runtime()?.captures.has_implicit(&context) {
                return Err(error::STREAM_CAPTURE_IMPLICIT);
            }
            Ok((STATUS_NONE, 0))
        }
    }
}

/// Where what is known of a capture goes.
struct Info {
    status: Out<i32>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    nodes: Out<In<CUgraphNode>>,
    /// Where those go who can take other edges than plain ones.
    edges: Out<In<EdgeData>>,
    count: Out<usize>,
}

impl Info {
    fn tell(&self, stream: &Arc<Stream>) -> Result {
        let (status, id) = status(stream)?;
        self.status.set(status)?;
        let mut state = capturing(stream);
        let Some(state) = state.as_mut().filter(|_| status == STATUS_ACTIVE) else {
            return Ok(());
        };
        let plain = state.frontier.iter().all(|(_, edge)| *edge == PLAIN);
        if self.edges.0.is_null() && !self.nodes.0.is_null() && !plain {
            return Err(error::LOSSY_QUERY);
        }
        self.id.set_if_wanted(id);
        self.graph.set_if_wanted(state.session.graph.handle);
        state.told = state.frontier.iter().copied().unzip();
        self.nodes.set_if_wanted(In(state.told.0.as_ptr()));
        self.edges.set_if_wanted(In(if plain {
            std::ptr::null()
        } else {
            state.told.1.as_ptr()
        }));
        self.count.set_if_wanted(state.frontier.len());
        Ok(())
    }
}

/// Nodes with the edges from them, as a caller lists them.
pub(crate) fn after(nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize) -> Result<After> {
    let edge = |n| if edges.is_null() { Ok(PLAIN) } else { edges.at(n) };
    (0..count).map(|n| Ok((nodes.at(n)?, edge(n)?))).collect()
}

/// Changes what a stream's next node comes after: to `after`, or to that as well.
fn update(stream: &Arc<Stream>, after: After, flags: u32) -> Result {
    let mut state = capturing(stream);
    let state = state.as_mut().ok_or(error::ILLEGAL_STATE)?;
    if !state.session.is_valid() {
        return Err(error::STREAM_CAPTURE_INVALIDATED);
    }
    let known = |node: &CUgraphNode| state.session.graph.nodes().contains_key(node);
    if flags > 1 || !after.iter().all(|(node, _)| known(node)) {
        return Err(error::INVALID_VALUE);
    }
    if flags == 1 {
        // What is left out on purpose need not come back.
        let left = std::mem::take(&mut state.frontier);
        let is_left =
            |node: &CUgraphNode| left.iter().any(|(n, _)| n == node) && !after.iter().any(|(n, _)| n == node);
        state.session.open().retain(|node| !is_left(node));
    }
    state.frontier.extend(after);
    state.frontier.sort_unstable();
    state.frontier.dedup();
    Ok(())
}

api! { SYMBOLS;
    fn cuThreadExchangeStreamCaptureMode(mode: Out<i32>) {
        let new = Mode::named(mode.get()?)?;
        mode.set(MODE.replace(new) as i32)
    }
}

const NOWHERE: *mut In<EdgeData> = std::ptr::null_mut();

stream_api! { STREAM_SYMBOLS, default;
    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(handle: CUstream, mode: i32) {
        begin(&stream(handle, default)?, Mode::named(mode)?, None)
    }

    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz(
        handle: CUstream, graph: CUgraph, nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize, mode: i32,
    ) {
        let graph = runtime()?.graphs.named(graph)?;
        let after = after(nodes, edges, count)?;
        if !after.iter().all(|(node, _)| graph.nodes().contains_key(node)) {
            return Err(error::INVALID_VALUE);
        }
        begin(&stream(handle, default)?, Mode::named(mode)?, Some((graph, after)))
    }

    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(handle: CUstream, out: Out<CUgraph>) {
        end(&stream(handle, default)?, out)
    }

    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(handle: CUstream, out: Out<i32>) {
        out.set(status(&stream(handle, default)?)?.0)
    }

    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(
        handle: CUstream, status: Out<i32>, id: Out<u64>, graph: Out<CUgraph>, nodes: Out<In<CUgraphNode>>,
        count: Out<usize>,
    ) {
        Info { status, id, graph, nodes, edges: Out(NOWHERE), count }.tell(&stream(handle, default)?)
    }

    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz(
        handle: CUstream, status: Out<i32>, id: Out<u64>, graph: Out<CUgraph>, nodes: Out<In<CUgraphNode>>,
        edges: Out<In<EdgeData>>, count: Out<usize>,
    ) {
        Info { status, id, graph, nodes, edges, count }.tell(&stream(handle, default)?)
    }

    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz(
        handle: CUstream, nodes: In<CUgraphNode>, count: usize, flags: u32,
    ) {
        update(&stream(handle, default)?, after(nodes, In(std::ptr::null()), count)?, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz(
        handle: CUstream, nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize, flags: u32,
    ) {
        update(&stream(handle, default)?, after(nodes, edges, count)?, flags)
    }
}
