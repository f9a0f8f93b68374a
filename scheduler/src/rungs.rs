//! What holds on each GPU, as sessions proved it by its effect. Kept in `vgpu.db` until the driver is another one.
use crate::daemon::{Daemon, name};
use crate::history::now_s;
use crate::store::Changes;
use std::collections::BTreeMap;
use vgpu_sched_api::messages::GpuRungs;
use vgpu_sched_core::{Event, Session};

impl Daemon {
    /// A session has tried what holds. It does not say on which of its GPUs: they are of one driver.
    pub(crate) fn proved(&mut self, session: Session, proved: &GpuRungs) {
        if let Some(live) = self.sessions.get_mut(&session)
            && !std::mem::replace(&mut live.has_proved, true)
        {
            self.note_proof(session, proved);
        }
        self.feed(Event::Proved {
            session,
            slices: proved.slices,
            stop: proved.stop,
        });
    }

    fn note_proof(&mut self, session: Session, proved: &GpuRungs) {
        let has = |proved| if proved { "works" } else { "does not work" };
        log::info!(
            "{}: slicing {}, stopping {}, suspending {}",
            name(session),
            has(proved.slices),
            has(proved.stop),
            has(proved.suspend)
        );
        for uuid in self.uuids_of(session) {
            let rungs = GpuRungs {
                driver: self.inventory.driver(&uuid).to_owned(),
                proved_s: Some(now_s()),
                stop_by_vgpud: self.rungs_of(&uuid).stop_by_vgpud,
                uuid,
                ..proved.clone()
            };
            self.save_rungs(rungs);
        }
    }

    /// The driver did what `vgpud` asked it to do with a session's channels.
    pub(crate) fn can_stop(&mut self, session: Session) {
        for uuid in self.uuids_of(session) {
            let rungs = self.rungs_of(&uuid);
            if !rungs.stop_by_vgpud {
                self.save_rungs(GpuRungs {
                    stop_by_vgpud: true,
                    ..rungs
                });
            }
        }
    }

    /// Whether the driver ever did so on all of a session's GPUs.
    pub(crate) fn could_stop(&self, session: Session) -> bool {
        let uuids = self.uuids_of(session);
        uuids.iter().all(|uuid| self.rungs_of(uuid).stop_by_vgpud)
    }

    /// What is known of every GPU that is there.
    pub(crate) fn probe(&self) -> Vec<GpuRungs> {
        let present = self.inventory.present();
        present.into_iter().map(|gpu| self.rungs_of(&gpu.uuid)).collect()
    }

    /// What is known of a GPU; what was proved with another driver is not.
    fn rungs_of(&self, uuid: &str) -> GpuRungs {
        let driver = self.inventory.driver(uuid);
        let known = self.rungs.get(uuid).filter(|rungs| rungs.driver == driver);
        known.cloned().unwrap_or_else(|| GpuRungs {
            uuid: uuid.to_owned(),
            driver: driver.to_owned(),
            ..GpuRungs::default()
        })
    }

    fn save_rungs(&mut self, rungs: GpuRungs) {
        self.store.write(Changes {
            rungs: BTreeMap::from([(rungs.uuid.clone(), rungs.clone())]),
            ..Changes::default()
        });
        self.rungs.insert(rungs.uuid.clone(), rungs);
    }
}
