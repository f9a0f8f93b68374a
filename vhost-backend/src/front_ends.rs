//! The front ends that are served at a time. A VM has one, QEMU; without a VM each process that uses the device is its
//! own, and they are one VM to everybody else.
use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::limits::FRONT_ENDS_MAX;

/// Who waits looks again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub struct FrontEnds {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    served: u32,
    /// Those of them that are gone, and whose sessions may still have something.
    ending: u32,
    /// Those that are connected, each by a number of its own.
    connected: BTreeMap<u64, HangUp>,
    so_far: u64,
    /// This program ends: nobody is served any more.
    over: bool,
}

/// Ends the connection to a front end.
struct HangUp(Box<dyn Fn() + Send>);

impl Debug for HangUp {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("HangUp")
    }
}

impl FrontEnds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more, and counts it in.
    pub fn admit(&self) {
        let mut state = self.state();
        while state.served >= FRONT_ENDS_MAX {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.served += 1;
    }

    /// One that was admitted is connected, and `hang_up` ends that; its number.
    pub fn connected(&self, hang_up: impl Fn() + Send + 'static) -> u64 {
        let mut state = self.state();
        if state.over {
            hang_up();
        }
        state.so_far += 1;
        let number = state.so_far;
        state.connected.insert(number, HangUp(Box::new(hang_up)));
        number
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        self.state().connected.len()
    }

    /// The one with that number is gone: `end` ends what it had.
    pub fn leave(&self, number: u64, end: impl FnOnce()) {
        let mut state = self.state();
        state.connected.remove(&number);
        state.ending += 1;
        drop(state);
        let _left = Left(self);
        end();
    }

    /// Hangs up on all of them, and waits until they have nothing any longer, but no longer than `until`.
    pub fn end(&self, until: Instant) {
        let mut state = self.state();
        state.over = true;
        state.connected.values().for_each(|hang_up| (hang_up.0)());
        let left = until.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(state, left, |state| {
            !state.connected.is_empty() || state.ending > 0
        }));
    }

    /// Waits until those that are gone have nothing any longer, so that who comes after them finds what they had free; no
    /// longer than `until`, nor than `give_up` says no.
    pub fn settle(&self, until: Instant, give_up: impl Fn() -> bool) {
        let mut state = self.state();
        while state.ending > 0 && !give_up() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .changed
                .wait_timeout(state, left.min(LOOK_AGAIN))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// One has left when this is dropped, even if its end failed.
struct Left<'a>(&'a FrontEnds);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ending -= 1;
        state.served -= 1;
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn one_more_than_are_served_waits_for_room() {
        let front_ends = Arc::new(FrontEnds::default());
        (0..FRONT_ENDS_MAX).for_each(|_| front_ends.admit());
        let (admitted, more) = (Arc::new(AtomicBool::new(false)), front_ends.clone());
        let mark = admitted.clone();
        let thread = std::thread::spawn(move || {
            more.admit();
            mark.store(true, Ordering::SeqCst);
        });
        let number = front_ends.connected(|| ());
        assert_eq!(front_ends.count(), 1);
        front_ends.leave(number, || assert!(!admitted.load(Ordering::SeqCst)));
        thread.join().unwrap();
        assert_eq!(front_ends.count(), 0);
        assert_eq!(front_ends.state().served, FRONT_ENDS_MAX);
    }

    #[test]
    fn who_comes_later_waits_for_the_end_of_who_is_gone() {
        let front_ends = FrontEnds::default();
        let later = Instant::now() + Duration::from_secs(60);
        front_ends.admit();
        front_ends.settle(later, || panic!("nobody is gone"));
        let number = front_ends.connected(|| ());
        front_ends.leave(number, || {
            front_ends.settle(Instant::now(), || false);
            front_ends.settle(later, || true);
            assert_eq!(front_ends.state().ending, 1);
        });
        front_ends.settle(later, || panic!("nobody is ending any longer"));
        assert_eq!(front_ends.state().served, 0);
    }

    #[test]
    fn in_the_end_all_are_hung_up_on_and_waited_for() {
        let front_ends = Arc::new(FrontEnds::default());
        let later = Instant::now() + Duration::from_secs(60);
        let ended = Arc::new(AtomicBool::new(false));
        front_ends.admit();
        let (hang_up, hung_up) = std::sync::mpsc::channel();
        let number = front_ends.connected(move || hang_up.send(()).unwrap());
        let (served, mark) = (front_ends.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            hung_up.recv().unwrap();
            served.leave(number, || mark.store(true, Ordering::SeqCst));
        });
        // One that waits to be connected is not waited for.
        front_ends.admit();
        front_ends.end(later);
        assert!(ended.load(Ordering::SeqCst));
        thread.join().unwrap();
        // It comes too late.
        let (hang_up, hung_up) = std::sync::mpsc::channel();
        front_ends.connected(move || hang_up.send(()).unwrap());
        hung_up.try_recv().unwrap();
        front_ends.end(Instant::now());
    }
}
