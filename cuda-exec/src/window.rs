//! How much of what was submitted to a stream is done, as far as the host knows: counts, and marks (events of our own)
//! behind some of the work. Pure; what a mark is, and whether it has come, is the caller's.
use std::collections::VecDeque;

/// Operations in flight per stream unless the scheduler says otherwise. libcuda blocks the caller at about 1,000.
pub const WINDOW_DEFAULT: u32 = 512;

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

    /// The oldest mark has come; the mark.
    pub fn reached(&mut self) -> Option<M> {
        let (operations, mark) = self.marks.pop_front()?;
        self.done = self.done.max(operations);
        Some(mark)
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
                    if let Some(at) = track.reached() {
                        prop_assert!(track.is_done(at));
                    }
                }
                prop_assert!(track.done <= track.submitted());
                prop_assert!(!track.computing() || track.dirty());
            }
        }
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
