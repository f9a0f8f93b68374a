//! The turn: work for the compute engine is submitted only while the turn word says Held.
//!
//! Whoever submits holds the gate for reading from looking at the word until libcuda has taken the work and it is counted;
//! whoever gives the turn up, or says that it is idle, holds it for writing while it makes sure that nothing is in flight.
//! What is in flight is judged by events of our own in the driver, never by a word that a guest can write.
//!
//! A drain that does not end (a kernel that runs long, or work that waits for an event which only a thread that waits for
//! the turn would record) is not cut short here: `vgpud` sees that the turn does not come back and stops the session.
use crate::clock::now_ns;
use crate::sealed::{check_sealed, map_for_good};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;
use vgpu_sched_api::messages::FromExec;
use vgpu_sched_api::packet;
use vgpu_sched_api::turn::{PAGE_LEN, Page, State, Word};

/// A thread that waits looks again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a turn was not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// The session's side of the turn page and of its socket to `vgpud`.
#[derive(Default)]
pub struct Turn {
    /// The turn page; null before there is one. Pages are never unmapped.
    page: AtomicPtr<Page>,
    gate: RwLock<()>,
    link: Mutex<Link>,
    linked: Condvar,
    /// Threads that wait for the turn.
    wanting: AtomicU32,
}

#[derive(Default)]
struct Link {
    socket: Option<OwnedFd>,
    /// Device and inode of the page's file.
    page: Option<(u64, u64)>,
    /// The last generation whose end was answered with `Want`.
    asked: Option<u64>,
}

/// The turn is held, and is not given up while this lives.
pub struct Entered<'a>(#[allow(dead_code)] RwLockReadGuard<'a, ()>);

impl Turn {
    /// Takes the turn page and the socket to `vgpud`; again whenever it was restarted.
    pub fn connect(&self, socket: OwnedFd, page: OwnedFd) -> std::io::Result<()> {
        let stat = check_sealed(&page, PAGE_LEN)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.page != Some((stat.st_dev, stat.st_ino)) {
            self.page.store(map_for_good(&page, PAGE_LEN)?.cast(), SeqCst);
            link.page = Some((stat.st_dev, stat.st_ino));
        }
        link.socket = Some(socket);
        link.asked = None;
        self.linked.notify_all();
        Ok(())
    }

    /// The page, if there is one.
    pub fn page(&self) -> Option<&Page> {
        // SAFETY: null, or a page that stays mapped; its words are atomics.
        unsafe { self.page.load(SeqCst).as_ref() }
    }

    /// Waits until the turn is held. Ends early when `stop` says so.
    pub fn enter(&self, stop: impl Fn() -> bool) -> Result<Entered<'_>, Stopped> {
        self.wait_to_enter(false, stop)
    }

    /// As [`Self::enter`] for work that libcuda has already: it may also go on while the turn is being given back, and is
    /// waited for then.
    pub fn reenter(&self) -> Result<Entered<'_>, Stopped> {
        self.wait_to_enter(true, || false)
    }

    fn wait_to_enter(&self, while_yielding: bool, stop: impl Fn() -> bool) -> Result<Entered<'_>, Stopped> {
        loop {
            if let Some(entered) = self.try_enter(while_yielding) {
                return Ok(entered);
            }
            self.wanting.fetch_add(1, SeqCst);
            self.wait();
            self.wanting.fetch_sub(1, SeqCst);
            if stop() {
                return Err(Stopped);
            }
        }
    }

    fn try_enter(&self, while_yielding: bool) -> Option<Entered<'_>> {
        let guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let page = self.page()?;
        let word = page.word();
        let held = match word.state {
            State::Held => true,
            State::Idle => page
                .change(
                    word,
                    Word {
                        state: State::Held,
                        ..word
                    },
                )
                .is_ok(),
            State::Yield => while_yielding,
            State::None => false,
        };
        held.then_some(Entered(guard))
    }

    /// Sleeps until the page may have changed, asking for the turn if nobody has.
    fn wait(&self) {
        let Some(page) = self.page() else {
            let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            // Whatever ends the wait, the caller looks again.
            let _ = self.linked.wait_timeout(link, LOOK_AGAIN);
            return;
        };
        let seen = page.bell().load(SeqCst);
        let word = page.word();
        match word.state {
            State::None => self.want(word.generation),
            State::Yield => {}
            State::Held | State::Idle => return,
        }
        page.sleep(seen, LOOK_AGAIN);
    }

    /// Asks for the turn, once per time it was lost: a thread that comes late may have seen the end of an earlier one.
    fn want(&self, generation: u64) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.asked.is_none_or(|asked| asked < generation) && link.send(&FromExec::Want, &[]) {
            link.asked = Some(generation);
        }
    }

    /// Tells `vgpud` something; whether it was sent. Lost if it is not there: it asks again when it is back.
    pub fn tell(&self, message: &FromExec) -> bool {
        self.tell_with(message, &[])
    }

    /// As [`Self::tell`], with descriptors.
    pub fn tell_with(&self, message: &FromExec, fds: &[BorrowedFd<'_>]) -> bool {
        self.link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message, fds)
    }

    /// As [`Self::tell`] without waiting for whoever is telling something; `None` if somebody is.
    pub fn try_tell(&self, message: &FromExec) -> Option<bool> {
        Some(self.link.try_lock().ok()?.send(message, &[]))
    }

    /// Gives the turn back whenever it is asked back. `computing` looks whether work may be on the compute engine, and
    /// makes sure that a later look can tell. Never returns.
    pub fn give_back(&self, computing: impl Fn() -> bool) -> ! {
        loop {
            let Some(page) = self.page() else {
                self.wait();
                continue;
            };
            let seen = page.bell().load(SeqCst);
            let word = page.word();
            if word.state == State::Yield {
                self.drain(page, word, &computing);
            } else {
                page.sleep(seen, LOOK_AGAIN);
            }
        }
    }

    fn drain(&self, page: &Page, word: Word, computing: &impl Fn() -> bool) {
        // Whoever was submitting is through; whoever comes now sees Yield.
        drop(self.close_gate());
        while computing() {
            std::thread::sleep(crate::completion::FAST);
            if page.word() != word {
                return;
            }
        }
        {
            let _nobody = self.close_gate();
            // A host function may have come back in between, with work behind it.
            if computing() {
                return;
            }
            // Whoever sees the turn gone asks for it again, through this link: not before it is said to be given back.
            let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            let none = Word {
                state: State::None,
                ..word
            };
            if page.change(word, none).is_err() {
                return;
            }
            link.send(&FromExec::Released, &[]);
        }
        if self.wanting.load(SeqCst) > 0 {
            self.want(word.generation);
        }
    }

    /// Waits until nobody is submitting. Does not queue for the lock: that would keep out a host function which a thread
    /// that is submitting may be waiting for.
    fn close_gate(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            match self.gate.try_write() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(crate::completion::FAST),
            }
        }
    }

    /// Says that nothing is on the compute engine, if that is so. Does not wait.
    pub fn idle(&self, computing: impl Fn() -> bool) {
        let Some(page) = self.page() else { return };
        let word = page.word();
        if word.state != State::Held || self.wanting.load(SeqCst) > 0 {
            return;
        }
        let Ok(_nobody) = self.gate.try_write() else {
            return;
        };
        if !computing() {
            page.set_idle_since(now_ns() / 1000);
            // Refused only if the turn was asked back this moment.
            let _ = page.change(
                word,
                Word {
                    state: State::Idle,
                    ..word
                },
            );
        }
    }

    /// Whether the turn is held and not said to be idle.
    pub fn is_held(&self) -> bool {
        self.page().is_some_and(|page| page.word().state == State::Held)
    }

    /// Whether somebody waits for this GPU.
    pub fn contended(&self) -> bool {
        self.page().is_some_and(Page::contended)
    }
}

impl Link {
    fn send(&self, message: &FromExec, fds: &[BorrowedFd<'_>]) -> bool {
        let Some(socket) = &self.socket else { return false };
        match packet::send(socket, message, fds) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("vgpud does not hear {message:?}: {error}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn page_file(len: u64, seals: SealFlags) -> OwnedFd {
        let file = rustix::fs::memfd_create("turn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_page_that_could_vanish_is_refused() {
        let turn = Turn::default();
        assert!(
            turn.connect(pair().0, page_file(PAGE_LEN as u64, SealFlags::GROW))
                .is_err()
        );
        assert!(turn.connect(pair().0, page_file(8, SealFlags::SHRINK)).is_err());
        assert!(turn.page().is_none());
        assert!(
            turn.connect(pair().0, page_file(PAGE_LEN as u64, SealFlags::SHRINK))
                .is_ok()
        );
    }

    /// Threads that submit, a `vgpud` that grants the turn and takes it back over and over, and work that ends piece by piece
    /// as it is looked for: while the session has no turn, nobody is submitting and nothing is in flight.
    #[test]
    fn nothing_is_submitted_or_in_flight_without_the_turn() {
        const TURNS: u64 = 50;
        let turn = Arc::new(Turn::default());
        let (vgpud, ours) = pair();
        turn.connect(ours, page_file(PAGE_LEN as u64, SealFlags::SHRINK))
            .unwrap();
        let (inside, in_flight) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let over = Arc::new(AtomicBool::new(false));
        let submitters: Vec<_> = (0..4)
            .map(|_| {
                let (turn, inside) = (turn.clone(), inside.clone());
                let (in_flight, over) = (in_flight.clone(), over.clone());
                std::thread::spawn(move || {
                    while let Ok(entered) = turn.enter(|| over.load(SeqCst)) {
                        inside.fetch_add(1, SeqCst);
                        // As much as a window allows.
                        let _ = in_flight.fetch_update(SeqCst, SeqCst, |n| (n < 4).then_some(n + 1));
                        assert_ne!(turn.page().unwrap().word().state, State::None);
                        inside.fetch_sub(1, SeqCst);
                        drop(entered);
                        std::thread::yield_now();
                        if over.load(SeqCst) {
                            break;
                        }
                    }
                })
            })
            .collect();
        let (drained, work) = (turn.clone(), in_flight.clone());
        // It never returns: the thread ends with the process.
        std::thread::spawn(move || {
            drained.give_back(|| work.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok())
        });
        let hear = || packet::receive::<FromExec>(&vgpud).unwrap().0;
        let page = turn.page().unwrap();
        for generation in 1..=TURNS {
            assert_eq!(hear(), FromExec::Want);
            assert_eq!((inside.load(SeqCst), in_flight.load(SeqCst)), (0, 0));
            let none = page.word();
            assert_eq!(
                none,
                Word {
                    generation: generation - 1,
                    state: State::None
                }
            );
            let held = Word {
                generation,
                state: State::Held,
            };
            page.change(none, held).unwrap();
            page.ring_bell();
            while in_flight.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            if generation == TURNS {
                over.store(true, SeqCst);
            }
            page.change(
                held,
                Word {
                    state: State::Yield,
                    ..held
                },
            )
            .unwrap();
            page.ring_bell();
            assert_eq!(hear(), FromExec::Released);
            assert_eq!((inside.load(SeqCst), in_flight.load(SeqCst)), (0, 0));
        }
        for submitter in submitters {
            submitter.join().unwrap();
        }
    }

    #[test]
    fn idleness_is_said_only_when_nothing_computes() {
        let turn = Turn::default();
        let (_vgpud, ours) = pair();
        turn.connect(ours, page_file(PAGE_LEN as u64, SealFlags::SHRINK))
            .unwrap();
        let page = turn.page().unwrap();
        let held = Word {
            generation: 1,
            state: State::Held,
        };
        page.change(page.word(), held).unwrap();
        turn.idle(|| true);
        assert_eq!(page.word(), held);
        let entered = turn.enter(|| false).unwrap();
        turn.idle(|| false);
        assert_eq!(page.word(), held);
        drop(entered);
        assert_eq!(page.idle_since(), 0);
        let before_us = now_ns() / 1000;
        turn.idle(|| false);
        assert_eq!(page.word().state, State::Idle);
        assert!((before_us..=now_ns() / 1000).contains(&page.idle_since()));
        // Whoever submits next has it again without a word.
        drop(turn.enter(|| false).unwrap());
        assert_eq!(page.word(), held);
    }
}
