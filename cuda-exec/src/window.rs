//! How much of what was submitted to a stream is done, as far as the host knows: counts, and marks (events of our own)
//! behind some of the work. Pure; what a mark is, and whether it has come, is the caller's.
//!
//! Where the marks lie decides how soon it is seen that work goes on, and so whether a kernel is found to run too long: a
//! mark lies behind every kernel and copy, but for those of a stream whose work is done so quickly that a mark behind each
//! would slow it down. Should long ones follow all at once, the first few of them ([`SPARSE`]) look like one.
//!
//! A session gets on when the oldest of its work that may be on the compute engine is done ([`Progress`]), whatever else is:
//! nothing may run for ever beside others that are short. Work can only wait for what was submitted before it, so the oldest
//! can always run, unless something else than the compute engine holds its stream up: a copy, a host function, or an event
//! that itself waits for such a one. So a mark lies before and behind every wait for an event, and a stream whose next mark
//! has no compute work before it has none on the engine. Only a wait for a value in memory may be ended by work that is
//! submitted after it: while there is one, no bound on what is in flight may keep that work out.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Operations in flight per stream unless the scheduler says otherwise. libcuda blocks the caller at about 1,000.
pub const WINDOW_DEFAULT: u32 = 512;
/// Kernels and copies from one mark to the next while they are short.
pub const SPARSE: u32 = 4;
/// Kernels and copies are short that take less than this, in nanoseconds.
const SHORT_NS: u64 = 100_000;

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The compute engine, and so the turn.
    Compute,
    /// A copy engine.
    Copy,
    /// Neither: it waits for an event, which may be another stream's.
    Wait,
    /// Neither: it waits for a value in memory, which work that is submitted later may write, or nobody ever.
    Value,
    /// Neither: events, fences, host functions.
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
    /// When the oldest of the compute work that was seen to be done lately was submitted; [`u64::MAX`] if there is none.
    computed: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            // Until the scheduler says more: its orders come when the turn may be had already.
            depth: AtomicU32::new(1),
            computed: AtomicU64::new(u64::MAX),
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

    /// Work for the compute engine that was submitted at that time was seen to be done.
    pub fn computed(&self, submitted: u64) {
        self.computed.fetch_min(submitted, Relaxed);
    }

    /// When the oldest of such work since this was last asked was submitted, if there was any.
    pub fn take_computed(&self) -> Option<u64> {
        Some(self.computed.swap(u64::MAX, Relaxed)).filter(|&submitted| submitted != u64::MAX)
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
    /// When the first operation for the compute engine behind the last mark was submitted.
    first: Option<u64>,
    /// A wait lies behind the last mark.
    waits: bool,
    /// Operations up to the last wait for a value.
    value: u64,
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
    /// When the first operation for the compute engine between the mark before and this one was submitted.
    first: Option<u64>,
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
    /// When the first of them that needed the compute engine was submitted.
    pub computed: Option<u64>,
    /// The times of the last kernel or copy among them.
    pub sample: Option<Times>,
}

impl<M> Default for Track<M> {
    fn default() -> Self {
        Self {
            submitted: 0,
            done: 0,
            compute: 0,
            first: None,
            waits: false,
            value: 0,
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
            self.first.get_or_insert(times.submitted);
        }
        self.waits |= matches!(work, Work::Wait | Work::Value);
        if work == Work::Value {
            self.value = self.submitted;
        }
        if matches!(work, Work::Compute | Work::Copy) {
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

    /// Whether a wait for a value may be in flight.
    pub fn waits_for_value(&self) -> bool {
        self.done < self.value
    }

    /// When the oldest work that may be on the compute engine now was submitted; `None` if there is none: what the stream is
    /// at is something else, or nothing.
    pub fn on_engine(&self) -> Option<u64> {
        self.marks.front().map_or(self.first, |mark| mark.first)
    }

    fn marked(&self) -> u64 {
        self.marks.back().map_or(self.done, |mark| mark.operations)
    }

    /// Whether work lies behind the last mark.
    pub fn unmarked(&self) -> bool {
        self.marked() < self.submitted
    }

    /// Whether a mark is wanted now: there is one every half window, one behind each wait, and one behind each kernel and copy
    /// or, while they are short, behind every [`SPARSE`] of them.
    pub fn wants_mark(&self, window: u32) -> bool {
        let few = if self.short { SPARSE } else { 1 };
        self.waits
            || self.unmarked_data >= few
            || self.submitted - self.marked() >= u64::from(window / 2).max(1)
    }

    /// Whether a mark is wanted before that work: what is before a wait may be done long before the wait is.
    pub fn wants_mark_before(&self, work: Work) -> bool {
        matches!(work, Work::Wait | Work::Value) && self.first.is_some()
    }

    /// Whether as much is in flight as a window allows; while a wait for a value is, as much as any window would.
    pub fn full(&self, window: u32) -> bool {
        let window = if self.waits_for_value() {
            WINDOW_DEFAULT
        } else {
            window.max(1)
        };
        self.submitted - self.done >= u64::from(window)
    }

    /// A mark lies behind all operations so far.
    pub fn mark(&mut self, mark: M) {
        self.unmarked_data = 0;
        self.waits = false;
        self.marks.push_back(Mark {
            operations: self.submitted,
            first: self.first.take(),
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
            first,
            sample,
            mark,
        } = self.marks.pop_front()?;
        let news = operations.saturating_sub(self.done);
        self.done += news;
        Some(Reached {
            mark,
            operations: news,
            computed: first,
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

/// Whether a session gets on.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the oldest work on the compute engine was submitted, when it was last looked; `None` if nothing was on it.
    oldest: Option<u64>,
}

impl Progress {
    /// Whether it got on since the last look: of all streams' work on the compute engine the oldest is now `oldest`, and
    /// `computed` the oldest that was seen to be done on it meanwhile.
    pub fn look(&mut self, oldest: Option<u64>, computed: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.oldest, oldest);
        let before = before.into_iter().chain(computed).min();
        before.is_some_and(|before| oldest.is_none_or(|now| now > before))
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
        prop_oneof![
            Just(Work::Compute),
            Just(Work::Copy),
            Just(Work::Wait),
            Just(Work::Value),
            Just(Work::Other)
        ]
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
                let window = if track.waits_for_value() { WINDOW_DEFAULT } else { window };
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

    /// One operation of a model GPU's stream.
    #[derive(Clone, Copy, Debug)]
    struct Operation {
        work: Work,
        at: u64,
        /// What it waits for: that many operations of that stream.
        until: Option<(usize, u64)>,
    }

    /// A stream of the model, with what is known of it.
    #[derive(Default)]
    struct Modelled {
        track: Track<u64>,
        operations: Vec<Operation>,
        done: u64,
    }

    impl Modelled {
        fn submit(&mut self, operation: Operation) {
            let track = &mut self.track;
            if track.wants_mark_before(operation.work) {
                track.mark(track.submitted());
            }
            let times = Times {
                taken: operation.at,
                submitted: operation.at,
            };
            track.submit(operation.work, times);
            self.operations.push(operation);
            if track.wants_mark(WINDOW_DEFAULT) {
                track.mark(track.submitted());
            }
        }

        /// Its next operation, unless that waits for another stream.
        fn next(&self, done: &[u64]) -> Option<Operation> {
            let next = self.operations.get(self.done as usize).copied();
            next.filter(|next| next.until.is_none_or(|(stream, count)| done[stream] >= count))
        }

        /// Looks which marks have come, once everything has one.
        fn settle(&mut self, load: &Load) {
            if self.track.unmarked() {
                self.track.mark(self.track.submitted());
            }
            while self.track.oldest().is_some_and(|&mark| mark <= self.done) {
                let computed = self.track.reached().unwrap().computed;
                computed.into_iter().for_each(|at| load.computed(at));
            }
        }
    }

    /// Four streams, of which every other one is known to have short work.
    fn streams() -> Vec<Modelled> {
        let stream = |on| {
            let mut stream = Modelled::default();
            stream.track.short = on % 2 == 1;
            stream
        };
        (0..4).map(stream).collect()
    }

    /// Submits an operation, or has a stream run its next one. Waits are for all that another stream has so far.
    fn step(streams: &mut [Modelled], (what, on, work): (u8, usize, Work), at: u64, endless: Option<u64>) {
        if what < 2 {
            let of = (on + usize::from(what) + 1) % streams.len();
            let until = (work == Work::Wait).then(|| (of, streams[of].operations.len() as u64));
            streams[on].submit(Operation { work, at, until });
        } else {
            let done: Vec<u64> = streams.iter().map(|stream| stream.done).collect();
            if streams[on]
                .next(&done)
                .is_some_and(|next| Some(next.at) != endless)
            {
                streams[on].done += 1;
            }
        }
    }

    fn look(progress: &mut Progress, streams: &mut [Modelled]) -> bool {
        let load = Load::default();
        streams.iter_mut().for_each(|stream| stream.settle(&load));
        let oldest = streams.iter().filter_map(|stream| stream.track.on_engine()).min();
        progress.look(oldest, load.take_computed())
    }

    type Steps = Vec<(u8, usize, Work)>;

    fn steps() -> impl Strategy<Value = Steps> {
        proptest::collection::vec((0u8..4, 0usize..4, work()), 0..120)
    }

    proptest! {
        /// However many others come and go beside and before it: once a kernel that never ends runs, nothing is progress but
        /// what is older and could not run before.
        #[test]
        fn beside_an_endless_kernel_progress_stops(before in steps(), after in steps()) {
            let mut streams = streams();
            let mut progress = Progress::default();
            let mut at = 0;
            for step_of in before {
                at += 1;
                step(&mut streams, step_of, at, None);
                look(&mut progress, &mut streams);
            }
            at += 1;
            let endless = at;
            streams[0].submit(Operation { work: Work::Compute, at, until: None });
            // What was submitted before is at most so many times progress.
            let older = streams.iter().map(|stream| stream.track.in_flight()).sum::<u64>();
            let before_it = streams[0].operations.len() as u64 - 1;
            let mut seen = 0;
            for step_of in after {
                at += 1;
                // While a copy or a wait holds its stream up, the kernel does not run, and others may get on.
                let runs = streams[0].done == before_it;
                step(&mut streams, step_of, at, Some(endless));
                seen += u64::from(look(&mut progress, &mut streams) && runs);
            }
            prop_assert!(seen <= older, "{seen} > {older}");
        }

        /// Whatever waits for whatever: what is submitted is done in the end, in the order of submission at the latest, and
        /// every kernel that is alone before its mark is progress then.
        #[test]
        fn work_that_can_run_gets_on(all in steps()) {
            let mut streams = streams();
            let mut progress = Progress::default();
            for (at, step_of) in all.into_iter().enumerate() {
                step(&mut streams, step_of, at as u64, None);
                look(&mut progress, &mut streams);
            }
            loop {
                let done: Vec<u64> = streams.iter().map(|stream| stream.done).collect();
                let next = (0..4).filter_map(|on| Some((streams[on].operations.get(done[on] as usize)?.at, on)));
                let Some((at, on)) = next.min() else { break };
                prop_assert!(streams[on].next(&done).is_some(), "the oldest operation waits");
                let track = &streams[on].track;
                let alone = track.on_engine() == Some(at) && track.oldest() == Some(&(done[on] + 1));
                streams[on].done += 1;
                let got_on = look(&mut progress, &mut streams);
                prop_assert!(got_on || !alone);
            }
            prop_assert!(streams.iter().all(|stream| stream.track.on_engine().is_none()));
        }
    }

    #[test]
    fn a_stream_that_waits_has_nothing_on_the_engine() {
        let mut track = Track::default();
        let at = |submitted| Times { taken: 0, submitted };
        track.short = true;
        track.submit(Work::Compute, at(1));
        assert_eq!(track.on_engine(), Some(1));
        assert!(!track.wants_mark(WINDOW_DEFAULT) && track.wants_mark_before(Work::Wait));
        track.mark("the kernel");
        track.submit(Work::Wait, at(2));
        assert!(track.wants_mark(WINDOW_DEFAULT));
        track.mark("the wait");
        track.submit(Work::Compute, at(3));
        assert_eq!(track.on_engine(), Some(1));
        track.reached();
        assert!(track.computing());
        assert_eq!(track.on_engine(), None);
        track.reached();
        assert_eq!(track.on_engine(), Some(3));
    }

    #[test]
    fn progress_is_that_the_oldest_is_done() {
        let mut progress = Progress::default();
        assert!(!progress.look(None, None));
        assert!(progress.look(None, Some(1)));
        // Done between two looks, but not the oldest.
        assert!(!progress.look(Some(5), Some(6)));
        assert!(!progress.look(Some(5), None));
        assert!(!progress.look(Some(5), Some(7)));
        // One that waited is older; then the one that was the oldest before is done as well.
        assert!(!progress.look(Some(3), Some(8)));
        assert!(progress.look(Some(5), Some(3)));
        assert!(progress.look(Some(6), Some(5)));
        assert!(progress.look(None, Some(6)));
        assert!(!progress.look(None, None));
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
        assert_eq!(track.reached().unwrap().computed, Some(0));
        assert!(track.dirty() && !track.computing());
        track.mark(());
        assert_eq!(track.reached().unwrap().computed, None);
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
