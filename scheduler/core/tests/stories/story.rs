//! A core whose time is told to the microsecond.
use vgpu_sched_core::{
    Action, Charge, Config, Core, End, Event, Found, Gpu, Level, Session, Standing, Terms, Vm,
};

/// A core, the time, and what was to be done since last asked.
pub struct Story {
    pub core: Core,
    pub now: u64,
    pub actions: Vec<Action>,
}

pub const fn session(vm: Vm, number: u32) -> Session {
    Session { vm, number }
}

impl Story {
    /// VMs with their level and one session each on GPU 0, or on those given.
    pub fn new(config: Config, vms: &[(Vm, Level)]) -> Self {
        let mut story = Self::empty(config);
        for (vm, level) in vms {
            story.add(*vm, *level, &[0]);
        }
        story.actions.clear();
        story
    }

    pub fn empty(config: Config) -> Self {
        Self {
            core: Core::new(config),
            now: 0,
            actions: Vec::new(),
        }
    }

    pub fn add(&mut self, vm: Vm, level: Level, gpus: &[Gpu]) {
        self.set(vm, Terms::at(level));
        self.attach(session(vm, 1), gpus);
    }

    pub fn attach(&mut self, session: Session, gpus: &[Gpu]) {
        let gpus = gpus.iter().copied().collect();
        self.event(Event::Attached {
            session,
            gpus,
            found: Found::Nothing,
        });
    }

    pub fn set(&mut self, vm: Vm, terms: Terms) {
        self.event(Event::VmSet { vm, terms });
    }

    pub fn event(&mut self, event: Event) {
        self.core.step(self.now, event, &mut self.actions);
    }

    /// Lets time pass with a tick at every deadline.
    pub fn until(&mut self, at: u64) {
        while let Some(deadline) = self.core.deadline().filter(|deadline| *deadline <= at) {
            self.now = deadline;
            self.event(Event::Tick);
        }
        self.now = at;
    }

    pub fn want(&mut self, session: Session) {
        self.event(Event::Want { session });
    }

    pub fn refuse_taking(&mut self, session: Session) {
        self.event(Event::TakeResult {
            session,
            taken: false,
        });
    }

    pub fn release(&mut self, session: Session) {
        self.event(Event::Released { session });
    }

    /// What was to be done, without the books and without who cares about whom.
    pub fn done(&mut self) -> Vec<Action> {
        let quiet = |action: &Action| {
            matches!(
                action,
                Action::Began { .. }
                    | Action::Ended { .. }
                    | Action::SetContended { .. }
                    | Action::SetWindow { .. }
            )
        };
        std::mem::take(&mut self.actions)
            .into_iter()
            .filter(|action| !quiet(action))
            .collect()
    }

    pub fn ended(&mut self) -> (End, Charge) {
        let ends: Vec<_> = std::mem::take(&mut self.actions)
            .into_iter()
            .filter_map(|action| match action {
                Action::Ended { end, charge, .. } => Some((end, charge)),
                _ => None,
            })
            .collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends[0]
    }

    pub fn standing(&self, session: Session) -> Standing {
        self.core.standing(session).unwrap()
    }
}

pub const A: Session = session(1, 1);
pub const B: Session = session(2, 1);
pub const C: Session = session(3, 1);
