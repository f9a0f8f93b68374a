//! The completion thread. What the GPU writes wakes nobody, and what fails on it tells nobody; so this thread looks: at
//! the fence words while guest threads sleep, at our own events for errors and for idleness. It looks often only while
//! somebody waits, and not at all while nothing is in flight.
use crate::handles::Stream;
use crate::session::Session;
use crate::window::Progress;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::area;

/// Between two looks while somebody waits.
pub const FAST: Duration = Duration::from_micros(30);
/// Between two looks at whether somebody waits, while something is in flight.
const SLOW: Duration = Duration::from_micros(200);
/// Between two questions to the driver while nobody waits for the answer.
const CHECK: Duration = Duration::from_millis(1);
/// Looks at what is done, one after the other, when a fence was written: marks may lie a little behind it.
const LOOKS: u32 = 5;
/// How long to go on looking after the last work, before work must wake this thread.
const LINGER: Duration = Duration::from_millis(20);
/// How long it sleeps then, unless work wakes it: `vgpud` may have to be told something.
const REST: Duration = Duration::from_secs(1);

/// What is in flight.
#[derive(Default)]
pub struct Completion {
    watched: Mutex<Watched>,
    kick: Condvar,
}

#[derive(Default)]
struct Watched {
    streams: Vec<Arc<Stream>>,
    fences: Fences,
    buried: Vec<Arc<Stream>>,
    asleep: bool,
}

impl Watched {
    fn has_no_work(&self) -> bool {
        self.streams.is_empty() && self.fences.0.is_empty()
    }
}

/// Fence words that the GPU will write: by slot, the number last seen and the last one asked for.
#[derive(Default)]
struct Fences(BTreeMap<u32, (u64, u64)>);

impl Fences {
    fn add(&mut self, slot: u32, sequence: u64) {
        self.0.entry(slot).or_insert((0, 0)).1 = sequence;
    }

    /// Looks at the words; whether one moved. Those that have come as far as asked are forgotten.
    fn moved(&mut self, word: impl Fn(u32) -> u64) -> bool {
        let mut moved = false;
        self.0.retain(|&slot, (seen, target)| {
            let now = word(slot);
            moved |= now != *seen;
            *seen = now;
            now < *target
        });
        moved
    }
}

impl Completion {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut Watched)) {
        let mut watched = self.watched();
        f(&mut watched);
        if watched.asleep {
            watched.asleep = false;
            self.kick.notify_all();
        }
    }

    /// Work is in flight on a stream.
    pub fn add(&self, stream: Arc<Stream>) {
        self.change(|watched| watched.streams.push(stream));
    }

    /// The GPU will write a fence word; the work that does so is listed already.
    pub fn fence(&self, slot: u32, sequence: u64) {
        self.change(|watched| watched.fences.add(slot, sequence));
    }

    /// Lets go of a stream from where libcuda takes no calls: its last user may not be there.
    pub fn bury(&self, stream: Arc<Stream>) {
        self.change(|watched| watched.buried.push(stream));
    }

    /// Waits until all work of a stream is done.
    pub fn finish(&self, session: &Session, stream: &Arc<Stream>) {
        loop {
            session.survive(stream.mark());
            session.survive(stream.settle());
            if !stream.track().dirty() {
                break;
            }
            std::thread::sleep(FAST);
        }
        self.remove(stream);
    }

    /// Streams with work in flight.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.watched().streams.clone()
    }

    /// Takes a stream off the list, unless it has work again. Under the lock: who adds a fence behind its work must find it
    /// listed, or the fence would be taken for one that was written.
    fn remove(&self, stream: &Arc<Stream>) {
        self.watched()
            .streams
            .retain(|listed| !Arc::ptr_eq(listed, stream) || !stream.unlist());
    }

    /// Looks at the fence words; whether one moved.
    fn fences_moved(&self, session: &Session) -> bool {
        let Some(words) = session.area.words() else {
            return false;
        };
        self.watched()
            .fences
            .moved(|slot| words.u64(area::fence(slot)).load(SeqCst))
    }

    /// Asks the driver what is done, and forgets what is.
    pub fn check(&self, session: &Session) {
        for stream in self.streams() {
            session.survive(stream.mark());
            session.survive(stream.settle());
            if !stream.track().dirty() {
                self.remove(&stream);
            }
        }
    }

    /// Whether work may be on the compute engine; asks the driver.
    pub fn computing(&self, session: &Session) -> bool {
        let mut computing = false;
        for stream in self.streams() {
            session.survive(stream.mark());
            session.survive(stream.settle());
            computing |= stream.computing();
        }
        computing
    }

    /// Has `vgpud` see whether the session got on since the last look.
    fn show_progress(&self, session: &Session, progress: &mut Progress) {
        let streams = self.streams();
        let oldest = streams.iter().filter_map(|stream| stream.on_engine()).min();
        if progress.look(oldest, session.load.take_computed())
            && let Some(page) = session.turn.page()
        {
            page.progressed();
        }
    }

    /// Waits until what is in flight now is done. Work of streams that capture is not in flight.
    pub fn drain(&self, session: &Session) {
        for stream in self.streams() {
            let target = stream.track().submitted();
            loop {
                session.survive(stream.mark());
                session.survive(stream.settle());
                if stream.track().is_done(target) {
                    break;
                }
                std::thread::sleep(FAST);
            }
        }
    }

    /// Sleeps until there is work, or for a while.
    fn rest(&self, mut watched: MutexGuard<'_, Watched>) {
        // Work that came in between has woken nobody.
        if watched.has_no_work() {
            watched.asleep = true;
            let woken = self
                .kick
                .wait_timeout_while(watched, REST, |watched| watched.asleep);
            drop(woken);
        } else {
            drop(watched);
            std::thread::sleep(SLOW);
        }
    }

    /// Whether nothing is in flight or waited for, and nothing is left to be destroyed.
    pub fn is_quiet(&self) -> bool {
        let watched = self.watched();
        watched.has_no_work() && watched.buried.is_empty()
    }

    /// The thread's work. Never returns.
    pub fn run(&self, session: &'static Session) -> ! {
        session.relax_this_thread();
        let mut checked = Instant::now();
        let mut busy = checked;
        let mut progress = Progress::default();
        let mut looks = 0;
        loop {
            session.latencies.tell(session);
            session.preempt.tell_news(session);
            let Some(awake) = session.suspension.try_awake() else {
                self.rest(self.watched());
                continue;
            };
            let buried = std::mem::take(&mut self.watched().buried);
            drop(buried);
            if self.fences_moved(session) {
                session.area.wake();
                looks = LOOKS;
            }
            if looks > 0 {
                // What lies before the fence is done: when it was seen is what `latency` measures.
                let mut left = false;
                for stream in self.streams() {
                    session.survive(stream.settle());
                    left |= stream.track().dirty();
                }
                self.show_progress(session, &mut progress);
                looks = if left { looks - 1 } else { 0 };
            }
            let now = Instant::now();
            let urgent = session.turn.contended() && session.turn.is_held();
            if urgent || now - checked >= CHECK {
                checked = now;
                self.check(session);
                session.pooled.let_go(session);
                if self.streams().is_empty() {
                    crate::calls::settle_pools(session);
                }
                self.show_progress(session, &mut progress);
                session.show_load();
                if session.rings_are_dry() {
                    session.turn.idle(|| self.computing(session));
                }
            }
            drop(awake);
            let mut watched = self.watched();
            if watched.streams.is_empty() && now == checked && !watched.fences.0.is_empty() {
                // All work is done, so these were written; the guest has overwritten them, or they were added just now.
                let moved = watched.fences.moved(|_| u64::MAX);
                drop(watched);
                if moved {
                    session.area.wake();
                }
                continue;
            }
            if !watched.has_no_work() || session.turn.is_held() {
                busy = now;
            }
            if now - busy > LINGER {
                self.rest(watched);
                continue;
            }
            let awaited = !watched.fences.0.is_empty() && session.area.waiters();
            drop(watched);
            std::thread::sleep(if awaited || urgent || looks > 0 {
                FAST
            } else {
                SLOW
            });
        }
    }
}

/// Lets this thread wake up as soon as it asked to, not up to 50 us later.
pub fn wake_precisely() {
    // Fails only where the kernel does not know it, and then sleeps are longer.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1000));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_watched_until_it_has_come_as_far_as_asked() {
        let mut fences = Fences::default();
        fences.add(3, 1);
        fences.add(3, 4);
        assert!(!fences.moved(|_| 0));
        assert!(fences.moved(u64::from));
        assert!(!fences.moved(|_| 3));
        assert!(fences.moved(|_| 4));
        assert!(fences.0.is_empty());
        assert!(!fences.moved(|_| 5));
    }
}
