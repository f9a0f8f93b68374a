//! Events for the guest: which sessions should look at their area. An event waits here while the guest has no
//! buffer for it; a session waits at most once.
use super::queues::{Taken, VirtQueue};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::limits::QUEUE_LEN;
use vgpu_protocol::virtio::Event;
use zerocopy::IntoBytes;

/// Events on their way to the guest.
#[derive(Debug)]
pub struct Events {
    queue: Arc<VirtQueue>,
    pending: Mutex<BTreeSet<u32>>,
}

impl Events {
    /// Nothing to say yet; events go into `queue`.
    pub fn new(queue: Arc<VirtQueue>) -> Self {
        Self {
            queue,
            pending: Mutex::new(BTreeSet::new()),
        }
    }

    /// Tells the guest to look at sessions' areas, now or when it has buffers for that.
    pub fn raise<'a>(&self, sessions: impl IntoIterator<Item = &'a u32>) {
        let mut pending = self.lock();
        pending.extend(sessions);
        self.flush(&mut pending);
    }

    /// The guest gave buffers.
    pub fn deliver(&self) {
        self.flush(&mut self.lock());
    }

    /// Forgets what was not delivered of these sessions.
    pub fn forget<'a>(&self, sessions: impl IntoIterator<Item = &'a u32>) {
        let mut pending = self.lock();
        for session in sessions {
            pending.remove(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, pending: &mut BTreeSet<u32>) {
        // A hostile guest's buffers may be useless; each is given back empty, and costs the guest a buffer. It may not have this
        // thread busy with more than it can have given at a time.
        let mut useless = 0;
        let mut looked_again = false;
        while let Some(&session) = pending.first() {
            let chain = match self.queue.take() {
                Taken::Chain(chain) => chain,
                // The driver kicks when it adds buffers, unless it did so since the last look. Buffers that are there and
                // cannot be taken are none.
                Taken::Empty if !looked_again && self.queue.want_kicks(true) => {
                    looked_again = true;
                    continue;
                }
                Taken::Empty | Taken::Broken => return,
            };
            looked_again = false;
            if chain.room() < size_of::<Event>() as u64 {
                self.queue.give_back(&chain, &[]);
                useless += 1;
                if useless > QUEUE_LEN {
                    self.queue.want_kicks(true);
                    return;
                }
                continue;
            }
            pending.remove(&session);
            let event = Event { session, reserved: 0 };
            self.queue.give_back(&chain, event.as_bytes());
        }
    }
}
