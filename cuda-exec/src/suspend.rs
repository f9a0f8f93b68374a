//! A session that has nothing to do can be suspended: libcuda moves its GPU memory to the host and gives the GPU up, until
//! there is work again. Whoever calls libcuda is awake meanwhile, and whoever is awake is not suspended.
//!
//! Not awake are those who find nothing to call libcuda for while nothing is in flight: the thread that gives turns back, and
//! orders for time slices, which go to the driver and not to libcuda.
use crate::session::Session;
use crate::turn::Stopped;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use vgpu_protocol::result;
use vgpu_sched_api::messages::FromExec;
use vgpu_sched_api::turn::State;

/// Set in the word while the session is suspended, or about to be.
const CLOSED: u32 = 1 << 31;
/// How often, and how long apart, a moment is looked for in which nobody is awake: the completion thread is now and then.
const TRIES: u32 = 100;
const BETWEEN: Duration = Duration::from_micros(50);
/// Between two attempts to get memory back: the first pause and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Whether the session is suspended, and how many are awake.
#[derive(Default)]
pub struct Suspension {
    word: AtomicU32,
    /// Held while it is suspended or brought back.
    change: Mutex<()>,
}

/// The session is not suspended while this lives.
pub struct Awake<'a>(&'a AtomicU32);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Suspension {
    /// The session, unless it is suspended.
    pub fn try_awake(&self) -> Option<Awake<'_>> {
        let before = self.word.fetch_add(1, SeqCst);
        let awake = Awake(&self.word);
        (before & CLOSED == 0).then_some(awake)
    }

    /// The session, brought back if it is suspended. Waits for memory; ends early when `stop` says so.
    pub fn awake(&self, session: &Session, stop: impl Fn() -> bool) -> Result<Awake<'_>, Stopped> {
        loop {
            if let Some(awake) = self.try_awake() {
                return Ok(awake);
            }
            self.bring_back(session, &stop)?;
        }
    }

    /// There is a new connection to `vgpud`, which does not know whether the session is suspended.
    pub fn connected(&self, session: &Session) {
        if self.is_closed() {
            session.turn.tell(&FromExec::Suspended {
                suspended: true,
                microseconds: 0,
            });
        }
    }

    fn changing(&self, stop: &impl Fn() -> bool) -> Result<MutexGuard<'_, ()>, Stopped> {
        loop {
            match self.change.try_lock() {
                Ok(change) => return Ok(change),
                Err(TryLockError::Poisoned(change)) => return Ok(change.into_inner()),
                Err(TryLockError::WouldBlock) if stop() => return Err(Stopped),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSES.0),
            }
        }
    }

    /// Suspends the session if it has nothing to do, and tells `vgpud` whether it is.
    pub fn suspend(&self, session: &Session) {
        let start = Instant::now();
        let suspended = self.try_suspend(session);
        session.turn.tell(&FromExec::Suspended {
            suspended,
            microseconds: start.elapsed().as_micros() as u64,
        });
    }

    fn try_suspend(&self, session: &Session) -> bool {
        let Ok(_change) = self.changing(&|| false) else {
            return false;
        };
        if self.is_closed() {
            return true;
        }
        let closed = (0..TRIES).any(|_| {
            let closed = self.close();
            if !closed {
                std::thread::sleep(BETWEEN);
            }
            closed
        });
        if !closed {
            return false;
        }
        let suspended = has_nothing_to_do(session) && {
            let done = session.cuda.suspend();
            if let Err(code) = done {
                session.look_at(code);
                log::warn!("the session cannot be suspended: CUDA error {code}");
            }
            done.is_ok()
        };
        if suspended {
            session.limits.suspend();
            session.preempt.suspended();
            log::info!("suspended");
        } else {
            self.open();
        }
        suspended
    }

    /// From now on nobody wakes up; only if nobody is awake.
    fn close(&self) -> bool {
        self.word.compare_exchange(0, CLOSED, SeqCst, SeqCst).is_ok()
    }

    fn open(&self) {
        self.word.fetch_and(!CLOSED, SeqCst);
    }

    fn is_closed(&self) -> bool {
        self.word.load(SeqCst) & CLOSED != 0
    }

    fn bring_back(&self, session: &Session, stop: &impl Fn() -> bool) -> Result<(), Stopped> {
        let _change = self.changing(stop)?;
        if !self.is_closed() {
            return Ok(());
        }
        let start = Instant::now();
        let mut pauses = Pauses::new();
        while !session.limits.resume() {
            pauses.next("under its quota", stop)?;
        }
        loop {
            match session.cuda.restore() {
                Ok(()) => break,
                Err(result::OUT_OF_MEMORY) => {
                    if let Err(stopped) = pauses.next("on the GPU", stop) {
                        session.limits.suspend();
                        return Err(stopped);
                    }
                }
                Err(code) => session.lost(code, "the session cannot be brought back"),
            }
        }
        session.preempt.refresh();
        self.open();
        log::info!("back after {} ms", start.elapsed().as_millis());
        session.turn.tell(&FromExec::Suspended {
            suspended: false,
            microseconds: start.elapsed().as_micros() as u64,
        });
        Ok(())
    }
}

/// Whether nothing of the session is on the GPU or on its way there. Nobody is awake.
fn has_nothing_to_do(session: &Session) -> bool {
    let turn = session.turn.page().map_or(State::None, |page| page.word().state);
    session.cuda.can_suspend()
        && matches!(turn, State::None | State::Idle)
        && session.load.in_flight() == 0
        && session.completion.is_quiet()
        && !session.pooled.is_leaving()
        && !session.captures()
        && !session.preempt.is_stopped()
        // It would not give up what others have, and get other memory back.
        && !session.shares.has_shared()
}

/// Pauses that grow.
struct Pauses {
    next: Duration,
    said: bool,
}

impl Pauses {
    fn new() -> Self {
        Self {
            next: PAUSES.0,
            said: false,
        }
    }

    fn next(&mut self, place: &str, stop: &impl Fn() -> bool) -> Result<(), Stopped> {
        if stop() {
            return Err(Stopped);
        }
        if !std::mem::replace(&mut self.said, true) {
            log::warn!("the session has work again, and there is no memory for it {place}: it waits");
        }
        std::thread::sleep(self.next);
        self.next = (self.next * 2).min(PAUSES.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Threads that wake up and go to sleep all the time, and one that closes and opens: closed, nobody is awake.
    #[test]
    fn nobody_is_awake_while_it_is_closed() {
        const CLOSINGS: u32 = 200;
        let suspension = Suspension::default();
        let (inside, over) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        if let Some(awake) = suspension.try_awake() {
                            inside.fetch_add(1, SeqCst);
                            inside.fetch_sub(1, SeqCst);
                            drop(awake);
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let mut closings = 0;
            while closings < CLOSINGS {
                if suspension.close() {
                    for _ in 0..100 {
                        assert_eq!(inside.load(SeqCst), 0);
                        assert!(suspension.try_awake().is_none());
                    }
                    suspension.open();
                    closings += 1;
                }
                std::thread::yield_now();
            }
            over.store(true, SeqCst);
        });
        let awake = suspension.try_awake().unwrap();
        assert!(!suspension.close());
        drop(awake);
        assert!(suspension.close());
    }
}
