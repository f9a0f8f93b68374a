//! How much of what was submitted to a stream is done, as far as the host knows: counts, and marks (events of our own)
//! behind some of the work. Pure; what a mark is, and whether it has come, is the caller's.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Operations in flight per stream unless the scheduler says otherwise. libcuda blocks the caller at about 1,000.
pub const WINDOW_DEFAULT: u32 = 512;

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
    marks: VecDeque<(u64, M)>,
}

impl<M> Default for Track<M> {
    fn default() -> Self {
        Self {
            submitted: 0,
            done: 0,
            compute: 0,
            marks: VecDeque::new(),
        }
    }
}

impl<M> Track<M> {
    /// libcuda has taken one operation; `compute` if it needs the compute engine.
    pub fn submit(&mut self, compute: bool) {
        self.submitted += 1;
        if compute {
            self.compute = self.submitted;
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

    /// Whether work lies behind the last mark.
    pub fn unmarked(&self) -> bool {
        self.marks.back().map_or(self.done, |(at, _)| *at) < self.submitted
    }

    /// Whether a window of that many operations wants a mark now: one every half window.
    pub fn wants_mark(&self, window: u32) -> bool {
        let marked = self.marks.back().map_or(self.done, |(at, _)| *at);
        self.submitted - marked >= u64::from(window / 2).max(1)
    }

    /// Whether as much is in flight as a window allows.
    pub fn full(&self, window: u32) -> bool {
        self.submitted - self.done >= u64::from(window.max(1))
    }

    /// A mark lies behind the first `operations` operations.
    pub fn mark(&mut self, operations: u64, mark: M) {
        debug_assert!(operations <= self.submitted);
        self.marks.push_back((operations, mark));
    }

    /// The oldest mark that has not come.
    pub fn oldest(&self) -> Option<&M> {
        self.marks.front().map(|(_, mark)| mark)
    }

    /// The oldest mark has come; the mark, and how many operations are known to be done by it.
    pub fn reached(&mut self) -> Option<(M, u64)> {
        let (operations, mark) = self.marks.pop_front()?;
        let news = operations.saturating_sub(self.done);
        self.done += news;
        Some((mark, news))
    }

    /// Gives all marks up.
    pub fn take_marks(&mut self) -> impl Iterator<Item = M> + '_ {
        self.marks.drain(..).map(|(_, mark)| mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However marks come, no more than a window is ever in flight, and what counts as done was marked.
        #[test]
        fn the_window_bounds_what_is_in_flight(window in 1u32..64, steps in proptest::collection::vec((any::<bool>(), 0usize..4), 1..400)) {
            let mut track = Track::default();
            for (compute, reach) in steps {
                while track.full(window) {
                    if track.oldest().is_none() {
                        track.mark(track.submitted(), track.submitted());
                    }
                    track.reached();
                }
                track.submit(compute);
                prop_assert!(track.submitted() - track.done <= u64::from(window));
                if track.wants_mark(window) {
                    track.mark(track.submitted(), track.submitted());
                }
                for _ in 0..reach {
                    if let Some((at, _)) = track.reached() {
                        prop_assert!(track.is_done(at));
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
            depth in 1u32..16, steps in proptest::collection::vec((0usize..4, 0u8..4, any::<bool>()), 1..400)
        ) {
            let load = Load::default();
            load.set_depth(Some(depth));
            let mut tracks: Vec<Track<u64>> = (0..4).map(|_| Track::default()).collect();
            let mut waiting = Vec::new();
            for (stream, what, compute) in steps {
                let track = &mut tracks[stream];
                match what {
                    0 | 1 => match load.try_start() {
                        Some(room) if what == 0 => {
                            track.submit(compute);
                            room.taken();
                        }
                        Some(room) => waiting.push(room),
                        None => prop_assert_eq!(load.in_flight(), depth),
                    },
                    2 => {
                        if track.unmarked() {
                            track.mark(track.submitted(), track.submitted());
                        }
                        if let Some((_, news)) = track.reached() {
                            load.done(news);
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
                track.mark(track.submitted(), track.submitted());
                while let Some((_, news)) = track.reached() {
                    load.done(news);
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
        track.submit(false);
        assert!(track.dirty() && !track.computing());
        track.submit(true);
        track.mark(2, ());
        track.submit(false);
        assert!(track.computing() && track.unmarked());
        track.reached();
        assert!(track.dirty() && !track.computing());
    }
}
