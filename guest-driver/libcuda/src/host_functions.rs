//! Host functions: the host posts a cookie in the session area, a thread of this library runs the function.
use crate::abi::HostCall;
use crate::lock;
use crate::objects::Point;
use crate::session::Session;
use crate::thread::Thread;
use crate::wait::Wake;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use vgpu_protocol::limits::HOST_FUNCTIONS_MAX;
use vgpu_protocol::result::{self, Code};

/// Functions that the host may ask for.
pub struct HostFunctions {
    state: Mutex<State>,
    added: Condvar,
    start: Once,
}

#[derive(Default)]
struct State {
    last: u64,
    calls: HashMap<u64, Registered>,
    /// Functions of graphs that are gone, with the points where the last of their runs are over.
    retired: Vec<(Vec<Kept>, Vec<Point>)>,
}

/// A function that a graph may ask for any number of times: registered as long as this is.
pub struct KeptFunction {
    functions: &'static HostFunctions,
    cookie: u64,
}

/// One that graphs share.
pub type Kept = Arc<KeptFunction>;

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
            start: Once::new(),
        }
    }
}

impl HostFunctions {
    /// Registers a function; its cookie. Starts the thread that will run it.
    pub fn add(&self, session: &'static Session, call: HostCall, keep: bool) -> Result<u64, Code> {
        let mut started = Ok(());
        self.start.call_once(|| {
            started = std::thread::Builder::new()
                .name("vgpu-host-fn".into())
                .spawn(move || run(session))
                .map(drop);
        });
        started.map_err(|_| result::OPERATING_SYSTEM)?;
        let mut state = lock(&self.state);
        state.last += 1;
        let cookie = state.last;
        state.calls.insert(cookie, Registered { call, keep });
        self.added.notify_one();
        Ok(cookie)
    }

    /// Has a registered function kept until the result is dropped.
    pub fn keep(&'static self, cookie: u64) -> Kept {
        Arc::new(KeptFunction {
            functions: self,
            cookie,
        })
    }

    /// Keeps functions of a graph that is gone until its last runs, which end at those points, are over.
    pub fn retire(&self, session: &Session, functions: Vec<Kept>, points: Vec<Point>) {
        let mut state = lock(&self.state);
        state.retired.push((functions, points));
        let over = |points: &[Point]| points.iter().all(|&point| session.is_reached(point));
        let gone: Vec<_> = state.retired.extract_if(.., |(_, points)| over(points)).collect();
        // Dropping them takes the lock.
        drop(state);
        drop(gone);
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
