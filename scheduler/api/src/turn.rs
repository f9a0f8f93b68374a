//! The turn page: one page shared by `vgpud` and one session's executor, and by nobody else.
//!
//! | offset | word | written by |
//! | --- | --- | --- |
//! | 0 | u64 turn word: generation in the upper 56 bits, [`State`] in the low 8 | both, by compare-and-swap |
//! | 64 | u32 bell: grows after every change by `vgpud`; a futex | vgpud |
//! | 128 | u32 contended: 1 while somebody waits for this GPU | vgpud |
//! | 192 | u64 calls done so far | executor |
//! | 200 | u64 operations in flight: taken from the rings for a stream, and not known to be done | executor |
//! | 208 | u64 progress: grows whenever the oldest work on the compute engine is seen to be done | executor |
//! | 216 | u64 calls recorded so far: the next one goes to entry `n mod` [`RECORDED`] | executor |
//! | 224 | u64 since when it is idle, if the turn word says so, in microseconds of the host's monotonic clock | executor |
//! | 1024 | [`RECORDED`] × {u64 when, in microseconds of the host's monotonic clock; u64 operation in the low 16 bits, ring in the 16 above, microseconds it took, at most `u32::MAX`, in the upper 32}: the last calls | executor |
//!
//! | from | to | by | when |
//! | --- | --- | --- | --- |
//! | None | Held | vgpud | granted, after the executor said `Want`; the generation rises by one |
//! | Held | Idle | executor | nothing of it is in flight on the GPU, seen by the driver's own events |
//! | Idle | Held | executor | it has work again |
//! | Idle | None | vgpud | taken back without a word |
//! | Held | Yield | vgpud | asked back |
//! | Yield | None | executor | it stopped submitting and drained; then it says `Released` |
//!
//! An executor submits work for the compute engine only while the word says Held. After storing or seeing a state
//! from which it would sleep, the executor reads the bell first, the word second, and sleeps on the bell's value.
//! While contended is 0 nobody looks whether it is idle, and it takes its time to say so.
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of the page.
pub const PAGE_LEN: usize = 4096;
/// Calls that the page remembers.
pub const RECORDED: usize = 64;

/// Who has the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The session has no turn.
    None = 0,
    /// It has, and may submit.
    Held = 1,
    /// It has, and has nothing in flight.
    Idle = 2,
    /// It has, and was asked to give it back.
    Yield = 3,
}

/// A value of the turn word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Counts grants.
    pub generation: u64,
    /// The state.
    pub state: State,
}

impl Word {
    /// The word as a number.
    pub fn to_u64(self) -> u64 {
        self.generation << 8 | self.state as u64
    }

    /// The word with that number; an unknown state reads as [`State::None`].
    pub fn from_u64(word: u64) -> Self {
        let state = match word as u8 {
            1 => State::Held,
            2 => State::Idle,
            3 => State::Yield,
            _ => State::None,
        };
        Self {
            generation: word >> 8,
            state,
        }
    }
}

/// The page's content; lies at the start of the mapped page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page {
    word: AtomicU64,
    _pad0: [u8; 56],
    bell: AtomicU32,
    _pad1: [u8; 60],
    contended: AtomicU32,
    _pad2: [u8; 60],
    calls: AtomicU64,
    queued: AtomicU64,
    progress: AtomicU64,
    recorded: AtomicU64,
    idle_since: AtomicU64,
    _pad3: [u8; 1024 - 232],
    records: [[AtomicU64; 2]; RECORDED],
}

/// A call that was made, as the page remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When it began, in microseconds of the host's monotonic clock.
    pub at_us: u64,
    /// The operation's number in the table of calls.
    pub op: u16,
    /// The ring it came from.
    pub ring: u16,
    /// How long carrying it out took, in microseconds. Of a call that has not returned: `None`.
    pub took_us: Option<u32>,
}

const _: () = assert!(size_of::<Page>() == PAGE_LEN);
const _: () = assert!(std::mem::offset_of!(Page, bell) == 64);
const _: () = assert!(std::mem::offset_of!(Page, contended) == 128);
const _: () = assert!(std::mem::offset_of!(Page, calls) == 192);
const _: () = assert!(std::mem::offset_of!(Page, queued) == 200);
const _: () = assert!(std::mem::offset_of!(Page, progress) == 208);
const _: () = assert!(std::mem::offset_of!(Page, idle_since) == 224);
const _: () = assert!(std::mem::offset_of!(Page, records) == 1024);

impl Default for Page {
    fn default() -> Self {
        Self {
            word: AtomicU64::new(0),
            _pad0: [0; 56],
            bell: AtomicU32::new(0),
            _pad1: [0; 60],
            contended: AtomicU32::new(0),
            _pad2: [0; 60],
            calls: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            _pad3: [0; 1024 - 232],
            records: [const { [AtomicU64::new(0), AtomicU64::new(0)] }; RECORDED],
        }
    }
}

impl Page {
    /// The turn word now.
    pub fn word(&self) -> Word {
        Word::from_u64(self.word.load(Ordering::SeqCst))
    }

    /// Moves from exactly `from` to `to`; the word found instead if it was another.
    pub fn change(&self, from: Word, to: Word) -> Result<(), Word> {
        self.word
            .compare_exchange(from.to_u64(), to.to_u64(), Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| ())
            .map_err(Word::from_u64)
    }

    /// The bell, to sleep on.
    pub fn bell(&self) -> &AtomicU32 {
        &self.bell
    }

    /// Whether somebody waits for this GPU.
    pub fn contended(&self) -> bool {
        self.contended.load(Ordering::SeqCst) != 0
    }

    /// Says whether somebody waits for this GPU; `vgpud` alone. Ring the bell after setting it.
    pub fn set_contended(&self, contended: bool) {
        self.contended.store(u32::from(contended), Ordering::SeqCst);
    }

    /// Calls done so far, and operations in flight. What an executor says of itself: to be shown, and nothing is decided
    /// by it.
    pub fn counts(&self) -> (u64, u64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.queued.load(Ordering::Relaxed),
        )
    }

    /// Sets what [`Page::counts`] reads; the executor alone.
    pub fn show(&self, calls: u64, queued: u64) {
        self.calls.store(calls, Ordering::Relaxed);
        self.queued.store(queued, Ordering::Relaxed);
    }

    /// A number that grows whenever the oldest work on the compute engine is seen to be done. What an executor says of
    /// itself: one that lies is not found to run a kernel too long, and is still charged for, and loses its turn, by the clock.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::SeqCst)
    }

    /// The oldest work on the compute engine was seen to be done; the executor alone.
    pub fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }

    /// Since when the session is idle, if its word says that it is, in microseconds of the host's monotonic clock. What an
    /// executor says of itself, like the word: it decides what is charged, and nobody waits the longer for it.
    pub fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::SeqCst)
    }

    /// Sets what [`Page::idle_since`] reads, before the word says idle; the executor alone.
    pub fn set_idle_since(&self, at_us: u64) {
        self.idle_since.store(at_us, Ordering::SeqCst);
    }

    /// Notes a call that begins; the executor alone. The entry's number is for [`Page::record_end`].
    pub fn record(&self, at_us: u64, op: u16, ring: u16) -> u64 {
        let number = self.recorded.fetch_add(1, Ordering::Relaxed);
        let [when, what] = &self.records[number as usize % RECORDED];
        when.store(at_us, Ordering::Relaxed);
        what.store(
            u64::from(u32::MAX) << 32 | u64::from(ring) << 16 | u64::from(op),
            Ordering::Relaxed,
        );
        number
    }

    /// Notes that a call has returned.
    pub fn record_end(&self, number: u64, took_us: u64) {
        // Others have overwritten the entry.
        if self.recorded.load(Ordering::Relaxed) > number + RECORDED as u64 {
            return;
        }
        let what = &self.records[number as usize % RECORDED][1];
        let took = took_us.min(u64::from(u32::MAX - 1));
        let words = what.load(Ordering::Relaxed) & u64::from(u32::MAX);
        what.store(took << 32 | words, Ordering::Relaxed);
    }

    /// The last calls, the oldest first. Read while they are written, so an entry may be of two calls; to be shown only.
    pub fn recorded(&self) -> Vec<Recorded> {
        let next = self.recorded.load(Ordering::Relaxed);
        let first = next.saturating_sub(RECORDED as u64);
        let entry = |number: u64| {
            let [when, what] = &self.records[number as usize % RECORDED];
            let what = what.load(Ordering::Relaxed);
            let took = (what >> 32) as u32;
            Recorded {
                at_us: when.load(Ordering::Relaxed),
                op: what as u16,
                ring: (what >> 16) as u16,
                took_us: (took != u32::MAX).then_some(took),
            }
        };
        (first..next).map(entry).collect()
    }

    /// Wakes the executor to look at the page; `vgpud` alone.
    pub fn ring_bell(&self) {
        self.bell.fetch_add(1, Ordering::SeqCst);
        // A wake-up that fails would leave the executor asleep for one poll interval: it re-checks.
        // The kernel takes the count as a signed number: a larger one would wake a single thread.
        let all = i32::MAX as u32;
        let _ = rustix::thread::futex::wake(&self.bell, rustix::thread::futex::Flags::empty(), all);
    }

    /// Sleeps until the bell differs from `seen` or the time is over. Returns early on a signal.
    pub fn sleep(&self, seen: u32, timeout: std::time::Duration) {
        let timeout = rustix::thread::futex::Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: i64::from(timeout.subsec_nanos()) as _,
        };
        // Every outcome (woken, changed already, timed out, interrupted) means: look again.
        let _ = rustix::thread::futex::wait(
            &self.bell,
            rustix::thread::futex::Flags::empty(),
            seen,
            Some(&timeout),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_round_trip_and_unknown_states_are_none(word: u64) {
            let w = Word::from_u64(word);
            prop_assert_eq!(Word::from_u64(w.to_u64()), w);
            if word as u8 > 3 {
                prop_assert_eq!(w.state, State::None);
            }
        }
    }

    #[test]
    fn a_change_from_another_word_is_refused() {
        let page = Page::default();
        let held = Word {
            generation: 1,
            state: State::Held,
        };
        page.change(
            Word {
                generation: 0,
                state: State::None,
            },
            held,
        )
        .unwrap();
        assert_eq!(
            page.change(
                Word {
                    generation: 0,
                    state: State::Held
                },
                held
            ),
            Err(held)
        );
        assert_eq!(page.word(), held);
    }
}
