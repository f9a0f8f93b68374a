//! Host functions: the host posts a cookie in the session area, a thread of this library runs the function.
use crate::abi::{CUevent, HostCall};
use crate::lock;
use crate::objects::Point;
use crate::session::Session;
use crate::thread::Thread;
use crate::user_objects::References;
use crate::wait::Wake;
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use vgpu_protocol::limits::HOST_FUNCTIONS_MAX;
use vgpu_protocol::result::{self, Code};

/// Functions that the host may ask for.
pub struct HostFunctions {
    state: Mutex<State>,
    added: Condvar,
    /// How many are retired.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// The thread that runs them is there.
    started: bool,
    last: u64,
    calls: HashMap<u64, Registered>,
    /// Functions of graphs that are gone, with the points where the last of their runs are over.
    retired: Vec<(Vec<Kept>, Vec<Point>)>,
}

/// A function that a graph may ask for any number of times: registered as long as this is.
pub struct KeptFunction {
    functions: &'static HostFunctions,
    cookie: u64,
    /// What its argument points to, if it is a function of this library's.
    _data: Option<Arc<dyn Any + Send + Sync>>,
}

/// What runs of a graph need, which graphs share.
#[derive(Clone)]
pub enum Kept {
    /// A function.
    Function(#[expect(dead_code, reason = "it is kept, not used")] Arc<KeptFunction>),
    /// An event that they record.
    Event(CUevent),
    /// References to a user object.
    Object(Arc<References>),
}

impl Kept {
    /// The event that it is.
    pub fn event(&self) -> Option<CUevent> {
        match self {
            Self::Function(_) | Self::Object(_) => None,
            Self::Event(event) => Some(*event),
        }
    }
}

impl Drop for KeptFunction {
    fn drop(&mut self) {
        self.functions.remove(self.cookie);
    }
}

#[derive(Clone, Copy)]
struct Registered {
    call: HostCall,
    /// A graph may ask for it any number of times.
    keep: bool,
}

impl Default for HostFunctions {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::default()),
            added: Condvar::new(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl HostFunctions {
    /// Registers a function; its cookie. Starts the thread that will run it.
    pub fn add(&self, session: &'static Session, call: HostCall, keep: bool) -> Result<u64, Code> {
        let mut state = lock(&self.state);
        // Where that fails it is tried again by the next one: without the thread none would ever run.
        if !state.started {
            let thread = std::thread::Builder::new().name("vgpu-host-fn".into());
            thread
                .spawn(move || run(session))
                .map_err(|_| result::OPERATING_SYSTEM)?;
            state.started = true;
        }
        state.last += 1;
        let cookie = state.last;
        state.calls.insert(cookie, Registered { call, keep });
        self.added.notify_one();
        Ok(cookie)
    }

    /// Has a registered function kept until the result is dropped, and with it what its argument points to.
    pub fn keep(&'static self, cookie: u64, data: Option<Arc<dyn Any + Send + Sync>>) -> Kept {
        Kept::Function(Arc::new(KeptFunction {
            functions: self,
            cookie,
            _data: data,
        }))
    }

    /// Keeps functions of a graph that is gone until its last runs, which end at those points, are over.
    pub fn retire(&self, session: &Session, functions: Vec<Kept>, points: Vec<Point>) {
        lock(&self.state).retired.push((functions, points));
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.sweep(session);
    }

    /// Lets go of what no run needs any more.
    pub fn sweep(&self, session: &Session) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let over = |points: &[Point]| points.iter().all(|&point| session.is_reached(point));
        let gone: Vec<_> = state.retired.extract_if(.., |(_, points)| over(points)).collect();
        self.waiting.fetch_sub(gone.len(), Ordering::AcqRel);
        // Dropping them takes the lock, and may call the program.
        drop(state);
        drop(gone);
    }

    /// The function with that cookie, if it is registered.
    pub fn find(&self, cookie: u64) -> Option<HostCall> {
        lock(&self.state)
            .calls
            .get(&cookie)
            .map(|registered| registered.call)
    }

    /// How many are registered.
    #[cfg(test)]
    pub fn registered(&self) -> usize {
        lock(&self.state).calls.len()
    }

    /// Forgets a function that will not be asked for.
    pub fn remove(&self, cookie: u64) {
        lock(&self.state).calls.remove(&cookie);
    }

    fn take(&self, cookie: u64) -> Option<HostCall> {
        let mut state = lock(&self.state);
        let registered = *state.calls.get(&cookie)?;
        if !registered.keep {
            state.calls.remove(&cookie);
        }
        Some(registered.call)
    }

    /// Sleeps while there is nothing that the host could ask for.
    fn wait_for_work(&self) {
        let mut state = lock(&self.state);
        while state.calls.is_empty() {
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread: runs what the host asks for until the session ends.
fn run(session: &'static Session) {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: a valid place for the set, then a filled set; the program's signals are for its own threads.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
    let thread = Thread::current();
    thread.runs_host_functions.set(true);
    let posted = || {
        (0..HOST_FUNCTIONS_MAX).find_map(|slot| session.area.host_function(slot).map(|cookie| (slot, cookie)))
    };
    loop {
        session.host_functions.wait_for_work();
        let Ok((slot, cookie)) = session.wait(thread, Wake::Event, posted) else {
            return;
        };
        if let Some(call) = session.host_functions.take(cookie) {
            call.run();
        }
        session.area.host_function_done(slot);
    }
}
