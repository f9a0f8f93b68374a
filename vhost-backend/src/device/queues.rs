//! A virtqueue as the device uses it: whole descriptor chains out, used entries in.
//!
//! Chains are answered by other threads, later, and perhaps after the ring was stopped and started again by
//! another driver. Each ring therefore counts its *epochs*: what was taken in one is never answered in another.
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vgpu_protocol::limits::QUEUE_LEN;
use vgpu_protocol::virtio::{ControlReply, Status};
use vhost_user_backend::{VringRwLock, VringState, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use zerocopy::IntoBytes;

/// The guest's memory.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// A piece of guest memory that a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address; nothing says that it is memory.
    pub addr: GuestAddress,
    /// Bytes.
    pub len: u32,
}

/// A descriptor chain, its descriptors copied once.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    epoch: u64,
    /// What the device may read.
    pub readable: Vec<Segment>,
    /// What it may write.
    pub writable: Vec<Segment>,
    /// Whether the chain came to its proper end: no loop, no descriptor out of bounds, readable before writable.
    pub whole: bool,
}

impl Chain {
    /// Bytes that the device may write.
    pub fn room(&self) -> u64 {
        self.writable.iter().map(|segment| u64::from(segment.len)).sum()
    }
}

/// What a ring gave.
#[derive(Debug)]
pub enum Taken {
    /// A chain.
    Chain(Chain),
    /// There is none now.
    Empty,
    /// The ring's own structures make no sense; the driver must reset the device.
    Broken,
}

/// One virtqueue.
#[derive(Debug)]
pub struct VirtQueue {
    memory: GuestMemory,
    ring: OnceLock<Ring>,
    epoch: AtomicU64,
}

struct Ring(VringRwLock);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl VirtQueue {
    /// A queue whose ring is not known yet.
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            ring: OnceLock::new(),
            epoch: AtomicU64::new(0),
        }
    }

    /// Says which ring it is. The first call counts; there is one ring per queue.
    pub fn attach(&self, ring: &VringRwLock) {
        self.ring.get_or_init(|| Ring(ring.clone()));
    }

    /// The ring stopped: nothing taken from it before is answered any more.
    pub fn stopped(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The position of the next chain in the available ring; 0 in a ring that a driver has just set up.
    pub fn next_avail(&self) -> Option<u16> {
        Some(self.ring.get()?.0.get_ref().get_queue().next_avail())
    }

    /// Takes the next chain.
    pub fn take(&self) -> Taken {
        let Some(Ring(ring)) = self.ring.get() else {
            return Taken::Empty;
        };
        let mut state = ring.get_mut();
        if !runs(&state) {
            return Taken::Empty;
        }
        let memory = self.memory.memory();
        // Read while the ring is locked and ready: a stop comes before or after, not in between.
        let epoch = self.epoch.load(Ordering::SeqCst);
        let chain = match state.get_queue_mut().iter(memory) {
            Ok(mut chains) => chains.next(),
            Err(_) => return Taken::Broken,
        };
        drop(state);
        let Some(descriptors) = chain else {
            return Taken::Empty;
        };
        let mut chain = Chain {
            head: descriptors.head_index(),
            epoch,
            readable: Vec::new(),
            writable: Vec::new(),
            whole: false,
        };
        let mut ordered = true;
        for descriptor in descriptors {
            let segment = Segment {
                addr: descriptor.addr(),
                len: descriptor.len(),
            };
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else {
                ordered &= chain.writable.is_empty();
                chain.readable.push(segment);
            }
            // A chain that loops or leaves the table ends early, with a descriptor that names a next one.
            chain.whole = ordered && !descriptor.has_next();
        }
        Taken::Chain(chain)
    }

    /// Copies what a chain holds for the device, if it is `len_max` bytes at most and all of it is memory.
    pub fn read(&self, chain: &Chain, len_max: usize) -> Option<Vec<u8>> {
        let len = chain
            .readable
            .iter()
            .map(|segment| u64::from(segment.len))
            .sum::<u64>();
        let len = usize::try_from(len).ok().filter(|&len| len <= len_max)?;
        let mut bytes = vec![0; len];
        let mut rest = &mut bytes[..];
        let memory = self.memory.memory();
        for segment in &chain.readable {
            let (piece, after) = rest.split_at_mut(segment.len as usize);
            memory.read_slice(piece, segment.addr).ok()?;
            rest = after;
        }
        Some(bytes)
    }

    /// Writes `bytes` into a chain, as much as fits, and gives the chain back to the driver, which is interrupted if it
    /// wants to be. Nothing happens if the ring was stopped in the meantime. One that is being stopped is no
    /// longer ready, but takes answers until [`Self::stopped`].
    pub fn give_back(&self, chain: &Chain, bytes: &[u8]) {
        let Some(Ring(ring)) = self.ring.get() else {
            return;
        };
        let mut state = ring.get_mut();
        if self.epoch.load(Ordering::SeqCst) != chain.epoch {
            return;
        }
        let memory = self.memory.memory();
        let mut rest = bytes;
        for segment in &chain.writable {
            let (piece, after) = rest.split_at(rest.len().min(segment.len as usize));
            if memory.write_slice(piece, segment.addr).is_err() {
                break;
            }
            rest = after;
        }
        let written = u32::try_from(bytes.len() - rest.len()).unwrap_or(0);
        // Both fail only if the ring does not lie in guest memory: then there is nobody to tell.
        if state
            .get_queue_mut()
            .add_used(memory.deref(), chain.head, written)
            .is_ok()
            && state
                .get_queue_mut()
                .needs_notification(memory.deref())
                .unwrap_or(true)
        {
            let _ = state.signal_used_queue();
        }
    }

    /// Asks for kicks (or no kicks) from the driver. Whether there are chains to take that came in the meantime: none in a ring
    /// that does not run, which is looked at anyway when it does again.
    pub fn want_kicks(&self, wanted: bool) -> bool {
        let Some(Ring(ring)) = self.ring.get() else {
            return false;
        };
        let mut state = ring.get_mut();
        if !runs(&state) {
            return false;
        }
        if wanted {
            state.enable_notification().unwrap_or(false)
        } else {
            let _ = state.disable_notification();
            false
        }
    }
}

/// Whether chains may be taken. A front end that stops a device first disables all rings, and then has them stopped one by one.
fn runs(state: &VringState<GuestMemory>) -> bool {
    state.is_enabled() && state.get_queue().ready()
}

/// The control requests that wait for their answer.
#[derive(Debug)]
pub struct Unanswered {
    queue: Arc<VirtQueue>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    so_far: u64,
    chains: BTreeMap<u64, Chain>,
}

impl Unanswered {
    /// None yet; answers go into `queue`.
    pub fn new(queue: Arc<VirtQueue>) -> Arc<Self> {
        Arc::new(Self {
            queue,
            waiting: Mutex::default(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a chain. `None`, and the chain is given back with `Limit`, if more requests wait for their answer than a driver
    /// that keeps to the queue's size can have made.
    pub fn add(self: &Arc<Self>, chain: Chain) -> Option<Reply> {
        let mut waiting = self.waiting();
        if waiting.chains.len() >= usize::from(QUEUE_LEN) {
            drop(waiting);
            self.give_back(&chain, Status::Limit, 0, &[]);
            return None;
        }
        waiting.so_far += 1;
        let number = waiting.so_far;
        waiting.chains.insert(number, chain);
        Some(Reply {
            unanswered: self.clone(),
            number,
        })
    }

    /// Answers all that still wait.
    pub fn answer_all(&self, status: Status) {
        let mut waiting = self.waiting();
        for chain in std::mem::take(&mut waiting.chains).values() {
            self.give_back(chain, status, 0, &[]);
        }
    }

    fn answer(&self, number: u64, status: Status, wait_s: u32, body: &[u8]) {
        // What was answered has also been given back before others may say that all are.
        let mut waiting = self.waiting();
        if let Some(chain) = waiting.chains.remove(&number) {
            self.give_back(&chain, status, wait_s, body);
        }
    }

    fn give_back(&self, chain: &Chain, status: Status, wait_s: u32, body: &[u8]) {
        let header = ControlReply {
            status: status as u32,
            wait_s,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        self.queue.give_back(chain, &bytes);
    }
}

/// The right to answer one control request, unless all were answered before. One that is dropped without an answer answers that
/// the host failed.
#[derive(Debug)]
pub struct Reply {
    unanswered: Arc<Unanswered>,
    number: u64,
}

impl Reply {
    /// Answers.
    pub fn send(self, status: Status, body: &[u8]) {
        self.unanswered.answer(self.number, status, 0, body);
    }

    /// Refuses, for so many seconds.
    pub fn refuse(self, status: Status, wait_s: u32) {
        self.unanswered.answer(self.number, status, wait_s, &[]);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.unanswered.answer(self.number, Status::HostError, 0, &[]);
    }
}
