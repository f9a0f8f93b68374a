//! Host functions: functions of the guest's program that its streams call. A thread of libcuda's comes here, asks the guest
//! through a slot in the session area, and waits for the slot's acknowledgement.
use crate::dispatch::Handle;
use crate::handles::Stream;
use crate::ring::{Consumer, Failure};
use crate::session::{self, Session};
use crate::window::Work;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::area;
use vgpu_protocol::calls::cuLaunchHostFunc;
use vgpu_protocol::limits::HOST_FUNCTIONS_MAX;

/// Slots that no host function uses. Which they are is known here alone: the guest can write the area.
pub struct Slots {
    free: Mutex<Vec<usize>>,
    freed: Condvar,
    /// Functions that are called once and were not yet. libcuda gets their numbers: should it call one again, that finds
    /// nothing here.
    once: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: usize,
    functions: HashMap<usize, Once>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            free: Mutex::new((0..HOST_FUNCTIONS_MAX).collect()),
            freed: Condvar::new(),
            once: Mutex::default(),
        }
    }
}

impl Slots {
    fn take(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| free.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        free.pop().expect("waited until there is one")
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a function until it is called: its number.
    fn add(&self, once: Once) -> usize {
        let mut waiting = self.waiting();
        waiting.last += 1;
        let number = waiting.last;
        waiting.functions.insert(number, once);
        number
    }

    /// The function with that number, if it was not called yet.
    fn take_once(&self, number: usize) -> Option<Once> {
        self.waiting().functions.remove(&number)
    }

    fn give(&self, slot: usize) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
        self.freed.notify_one();
    }
}

/// A host function that is called once.
struct Once {
    stream: Arc<Stream>,
    cookie: u64,
}

impl Handle for cuLaunchHostFunc::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuLaunchHostFunc::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuLaunchHostFunc::Out, Failure> {
        let cuLaunchHostFunc::In { stream, cookie } = arguments;
        let session = ring.session;
        let stream = ring.stream(stream)?;
        ring.submit(&stream, Work::Other, |raw, to| {
            if to.is_graph() {
                let user = std::ptr::without_provenance_mut(cookie as usize);
                // SAFETY: the cookie is not dereferenced, and the function may be called any number of times.
                return unsafe { session.cuda.launch_host_fn(raw, run_captured, user) };
            }
            let number = session.host_functions.add(Once {
                stream: stream.clone(),
                cookie,
            });
            let user = std::ptr::without_provenance_mut(number);
            // SAFETY: the number is not dereferenced, and the function may be called any number of times.
            let launched = unsafe { session.cuda.launch_host_fn(raw, run_once, user) };
            if launched.is_err() {
                session.host_functions.take_once(number);
            }
            launched
        })?;
        Ok(cuLaunchHostFunc::Out {})
    }
}

extern "C" fn run_once(user: *mut c_void) {
    let Some(session) = session::current() else { return };
    let Some(once) = session.host_functions.take_once(user.addr()) else {
        return;
    };
    // Until the guest acknowledges, what is behind this function is not on the GPU, and must not get there after the turn
    // was given up meanwhile.
    once.stream.park(true);
    ask(session, once.cookie);
    let turn = if once.stream.may_have_compute_work() {
        session.turn.reenter().ok()
    } else {
        None
    };
    once.stream.park(false);
    drop(turn);
    // The last user of a stream must not destroy it in a callback, where libcuda takes no calls.
    session.completion.bury(once.stream);
}

/// A host function in a graph: the guest is asked for the one with this cookie.
pub extern "C" fn run_captured(user: *mut c_void) {
    if let Some(session) = session::current() {
        ask(session, user as usize as u64);
    }
}

/// Has the guest run the function with that cookie, and waits until it has.
fn ask(session: &'static Session, cookie: u64) {
    let Some(words) = session.area.words() else { return };
    let index = session.host_functions.take();
    let slot = area::host_function(index);
    let state = words.u32(slot + 8);
    words.u64(slot).store(cookie, SeqCst);
    state.store(area::HOST_FN_POSTED, SeqCst);
    session.area.wake();
    while state.load(SeqCst) != area::HOST_FN_DONE {
        std::thread::sleep(crate::completion::FAST);
    }
    state.store(area::HOST_FN_FREE, SeqCst);
    session.host_functions.give(index);
}
