//! How much of what was submitted to a stream is done, as far as the host knows: counts, and marks (events of our own)
//! behind some of the work. Pure; what a mark is, and whether it has come, is the caller's.
//!
//! Where the marks lie decides how soon it is seen that work goes on, and so whether a kernel is found to run too long: a
//! mark lies behind every kernel and copy, but for those of a stream whose work is done so quickly that a mark behind each
//! would slow it down ([`SPARSE`]).
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Operations in flight per stream unless the scheduler says otherwise. libcuda blocks the caller at about 1,000.
pub const WINDOW_DEFAULT: u32 = 512;
/// Kernels and copies from one mark to the next while they are short.
pub const SPARSE: u32 = 8;
/// Kernels and copies are short that take less than this, in nanoseconds.
const SHORT_NS: u64 = 100_000;

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The compute engine, and so the turn.
    Compute,
    /// A copy engine.
    Copy,
    /// Neither: events, waits, fences, host functions.
    Other,
}

impl Work {
    /// What moves or computes data; `turn` if it needs the compute engine.
    pub fn data(turn: bool) -> Self {
        if turn { Self::Compute } else { Self::Copy }
    }
}

/// When an operation was taken from its ring, and when libcuda had it, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub taken: u64,
    pub submitted: u64,
}

/// What a session has had done, and how much of it is in flight over all its streams: operations that libcuda took and
/// that are not known to be done, and those about to be given to it. The numbers stand for themselves, no other memory is
/// read by them: relaxed is enough.
#[derive(Debug)]
pub struct Load {
    calls: AtomicU64,
    in_flight: AtomicU32,
    depth: AtomicU32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            // Until the scheduler says more: its orders come when the turn may be had already.
            depth: AtomicU32::new(1),
        }
    }
}

impl Load {
    /// A call was carried out.
    pub fn call_done(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// Calls carried out so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Operations that may be in flight at most.
    pub fn depth(&self) -> u32 {
        self.depth.load(Relaxed)
    }

    /// Allows that many, one at least; `None` for any number.
    pub fn set_depth(&self, depth: Option<u32>) {
        self.depth.store(depth.unwrap_or(u32::MAX).max(1), Relaxed);
    }

    /// Makes room for one more operation, if there is any.
    pub fn try_start(&self) -> Option<Started<'_>> {
        self.in_flight
            .fetch_update(Relaxed, Relaxed, |n| (n < self.depth()).then(|| n + 1))
            .ok()
            .map(|_| Started(self))
    }

    /// As [`Self::try_start`], whether there is room or not.
    pub fn start(&self) -> Started<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        Started(self)
    }

    /// So many operations that were started are done.
    pub fn done(&self, operations: u64) {
        self.in_flight.fetch_sub(operations as u32, Relaxed);
    }
}

/// Room for one operation. Given back when this is dropped, unless libcuda took the operation.
#[derive(Debug)]
pub struct Started<'a>(&'a Load);

impl Started<'_> {
    /// libcuda took it: from now on a track counts it.
    pub fn taken(self) {
        std::mem::forget(self);
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.0.done(1);
    }
}

/// One stream's work.
#[derive(Debug)]
pub struct Track<M> {
    submitted: u64,
    done: u64,
    compute: u64,
    /// Kernels and copies behind the last mark.
    unmarked_data: u32,
    /// The last of them, if it is behind the last mark.
    last: Option<Times>,
    /// Work is so short that marks may be few.
    short: bool,
    /// When something was last seen to be done, in nanoseconds.
    seen_ns: u64,
    marks: VecDeque<Mark<M>>,
}

#[derive(Debug)]
struct Mark<M> {
    /// Operations before it.
    operations: u64,
    /// The last of them that needs the compute engine.
    compute: u64,
    /// The last kernel or copy before it, if no other mark lies between.
    sample: Option<Times>,
    mark: M,
}

/// What is known since a mark has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Reached<M> {
    pub mark: M,
    /// Operations that are known to be done by it.
    pub operations: u64,
    /// Whether any of them needed the compute engine.
    pub computed: bool,
    /// The times of the last kernel or copy among them.
    pub sample: Option<Times>,
}

impl<M> Default for Track<M> {
    fn default() -> Self {
        Self {
            submitted: 0,
            done: 0,
            compute: 0,
            unmarked_data: 0,
            last: None,
            short: false,
            seen_ns: 0,
            marks: VecDeque::new(),
        }
    }
}

impl<M> Track<M> {
    /// libcuda has taken one operation.
    pub fn submit(&mut self, work: Work, times: Times) {
        if !self.dirty() {
            self.seen_ns = times.submitted;
        }
        self.submitted += 1;
        if work == Work::Compute {
            self.compute = self.submitted;
        }
        if work != Work::Other {
            self.unmarked_data = self.unmarked_data.saturating_add(1);
            self.last = Some(times);
        }
    }

    /// Operations taken so far.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Whether the first `operations` operations are known to be done.
    pub fn is_done(&self, operations: u64) -> bool {
        self.done >= operations
    }

    /// Operations not known to be done.
    pub fn in_flight(&self) -> u64 {
        self.submitted - self.done
    }

    /// Whether any work may be in flight.
    pub fn dirty(&self) -> bool {
        self.done < self.submitted
    }

    /// Whether work for the compute engine may be in flight.
    pub fn computing(&self) -> bool {
        self.done < self.compute
    }

    fn marked(&self) -> u64 {
        self.marks.back().map_or(self.done, |mark| mark.operations)
    }

    /// Whether work lies behind the last mark.
    pub fn unmarked(&self) -> bool {
        self.marked() < self.submitted
    }

    /// Whether a mark is wanted now: there is one every half window, and one behind each kernel and copy or, while they are
    /// short, behind every [`SPARSE`] of them.
    pub fn wants_mark(&self, window: u32) -> bool {
        let few = if self.short { SPARSE } else { 1 };
        self.unmarked_data >= few || self.submitted - self.marked() >= u64::from(window / 2).max(1)
    }

    /// Whether as much is in flight as a window allows.
    pub fn full(&self, window: u32) -> bool {
        self.submitted - self.done >= u64::from(window.max(1))
    }

    /// A mark lies behind all operations so far.
    pub fn mark(&mut self, mark: M) {
        self.unmarked_data = 0;
        self.marks.push_back(Mark {
            operations: self.submitted,
            compute: self.compute,
            sample: self.last.take(),
            mark,
        });
    }

    /// The oldest mark that has not come.
    pub fn oldest(&self) -> Option<&M> {
        self.marks.front().map(|mark| &mark.mark)
    }

    /// The oldest mark has come.
    pub fn reached(&mut self) -> Option<Reached<M>> {
        let Mark {
            operations,
            compute,
            sample,
            mark,
        } = self.marks.pop_front()?;
        let computed = compute > self.done;
        let news = operations.saturating_sub(self.done);
        self.done += news;
        Some(Reached {
            mark,
            operations: news,
            computed,
            sample,
        })
    }

    /// So many operations were seen to be done in one look at that time: judges by it how long they take.
    pub fn looked(&mut self, operations: u64, now_ns: u64) {
        let Some(each) = now_ns.saturating_sub(self.seen_ns).checked_div(operations) else {
            return;
        };
        self.short = each < SHORT_NS;
        self.seen_ns = now_ns;
    }

    /// Gives all marks up.
    pub fn take_marks(&mut self) -> impl Iterator<Item = M> + '_ {
        self.marks.drain(..).map(|mark| mark.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEVER: Times = Times {
        taken: 0,
        submitted: 0,
    };

    fn work() -> impl Strategy<Value = Work> {
        prop_oneof![Just(Work::Compute), Just(Work::Copy), Just(Work::Other)]
    }

    proptest! {
        /// However marks come, no more than a window is ever in flight, and what counts as done was marked.
        #[test]
        fn the_window_bounds_what_is_in_flight(window in 1u32..64, steps in proptest::collection::vec((work(), 0usize..4), 1..400)) {
            let mut track = Track::default();
            for (work, reach) in steps {
                while track.full(window) {
                    if track.oldest().is_none() {
                        track.mark(track.submitted());
                    }
                    track.reached();
                }
                track.submit(work, NEVER);
                prop_assert!(track.submitted() - track.done <= u64::from(window));
                if track.wants_mark(window) {
                    track.mark(track.submitted());
                }
                for _ in 0..reach {
                    if let Some(reached) = track.reached() {
                        prop_assert!(track.is_done(reached.mark));
                    }
                }
                prop_assert!(track.done <= track.submitted());
                prop_assert!(!track.computing() || track.dirty());
            }
        }
    }

    proptest! {
        /// Streams that share a depth, threads that give up what they had room for, work that is done in any order: never
        /// more than the depth is in flight, and what is counted is what the tracks and the threads have.
        #[test]
        fn the_depth_bounds_what_is_in_flight_over_all_streams(
            depth in 1u32..16, steps in proptest::collection::vec((0usize..4, 0u8..4, work()), 1..400)
        ) {
            let load = Load::default();
            load.set_depth(Some(depth));
            let mut tracks: Vec<Track<u64>> = (0..4).map(|_| Track::default()).collect();
            let mut waiting = Vec::new();
            for (stream, what, work) in steps {
                let track = &mut tracks[stream];
                match what {
                    0 | 1 => match load.try_start() {
                        Some(room) if what == 0 => {
                            track.submit(work, NEVER);
                            room.taken();
                        }
                        Some(room) => waiting.push(room),
                        None => prop_assert_eq!(load.in_flight(), depth),
                    },
                    2 => {
                        if track.unmarked() {
                            track.mark(track.submitted());
                        }
                        if let Some(reached) = track.reached() {
                            load.done(reached.operations);
                        }
                    }
                    _ => drop(waiting.pop()),
                }
                prop_assert!(load.in_flight() <= depth);
                let tracked: u64 = tracks.iter().map(Track::in_flight).sum();
                prop_assert_eq!(u64::from(load.in_flight()), tracked + waiting.len() as u64);
            }
            waiting.clear();
            for track in &mut tracks {
                track.mark(track.submitted());
                while let Some(reached) = track.reached() {
                    load.done(reached.operations);
                }
            }
            prop_assert_eq!(load.in_flight(), 0);
        }
    }

    #[test]
    fn threads_that_start_at_once_stay_below_the_depth() {
        let load = Load::default();
        load.set_depth(Some(3));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(room) = load.try_start() {
                            assert!(load.in_flight() <= 3);
                            drop(room);
                        }
                    }
                });
            }
        });
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn only_work_up_to_the_last_compute_operation_needs_the_engine() {
        let mut track = Track::default();
        track.submit(Work::Copy, NEVER);
        assert!(track.dirty() && !track.computing());
        track.submit(Work::Compute, NEVER);
        track.mark(());
        track.submit(Work::Copy, NEVER);
        assert!(track.computing() && track.unmarked());
        assert!(track.reached().unwrap().computed);
        assert!(track.dirty() && !track.computing());
        track.mark(());
        assert!(!track.reached().unwrap().computed);
    }

    #[test]
    fn work_is_marked_one_by_one_until_it_is_seen_to_be_short() {
        let mut track = Track::default();
        track.submit(Work::Other, NEVER);
        assert!(!track.wants_mark(WINDOW_DEFAULT));
        track.submit(Work::Compute, NEVER);
        assert!(track.wants_mark(WINDOW_DEFAULT));
        track.mark(());
        let news = track.reached().unwrap().operations;
        track.looked(news, 2 * SHORT_NS - 1);
        for _ in 1..SPARSE {
            track.submit(Work::Copy, NEVER);
            assert!(!track.wants_mark(WINDOW_DEFAULT));
        }
        track.submit(Work::Compute, NEVER);
        assert!(track.wants_mark(WINDOW_DEFAULT));
        track.mark(());
        let news = track.reached().unwrap().operations;
        track.looked(news, 1_000_000_000);
        track.submit(Work::Compute, NEVER);
        assert!(track.wants_mark(WINDOW_DEFAULT));
    }

    #[test]
    fn the_last_kernel_or_copy_before_a_mark_is_the_sample() {
        let mut track = Track::default();
        let at = |taken| Times {
            taken,
            submitted: taken + 1,
        };
        track.submit(Work::Compute, at(1));
        track.submit(Work::Copy, at(2));
        track.submit(Work::Other, at(3));
        track.mark(());
        track.submit(Work::Other, at(4));
        track.mark(());
        assert_eq!(track.reached().unwrap().sample, Some(at(2)));
        assert_eq!(track.reached().unwrap().sample, None);
    }
}
