//! Writing records into command rings and taking their replies.
//!
//! A thread has a ring of its own as long as there are enough of them; so its lock is hardly ever contended. Another thread
//! writes to it only to fence the owner's per-thread stream, or when rings are shared.
use crate::area::Shared;
use crate::lock;
use crate::objects::Stream;
use crate::session::Session;
use crate::thread::Thread;
use crate::wait::Wake;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use vgpu_protocol::calls::{Wire, cuThreadExchangeStreamCaptureMode};
use vgpu_protocol::limits::{RECORD_LEN_MAX, REPLY_LEN_MAX, RING_DATA_LEN, RINGS_MAX, WORDS_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{self as layout, RecordHeader, op, record_len, skip_before};
use vgpu_protocol::words::{Word, Words, handle};

/// A ring and its producer.
pub struct Ring {
    index: u32,
    memory: Shared,
    producer: Mutex<Producer>,
    /// Position after the last record whose call has returned (or is about to, if it asked for no answer).
    returned: AtomicU64,
    /// The per-thread default streams of this ring's consumer, by context.
    pub per_thread: Mutex<Vec<Arc<Stream>>>,
}

struct Producer {
    /// Position after the last record written.
    head: u64,
    /// Position that the consumer sees.
    published: u64,
    /// The consumer's position as last seen.
    tail: u64,
    /// The context that the consumer has current.
    context: u32,
    /// The consumer's capture mode.
    mode: u32,
    /// How far the consumer is known to wait for the other rings.
    named: Box<[u64; RINGS_MAX as usize]>,
}

/// Whose call a record is: the state that its consumer must be in.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The current context.
    pub context: u32,
    /// The thread's capture mode; `None` to leave the consumer's.
    pub mode: Option<u32>,
}

/// What a record says beside its words.
struct Record<'a> {
    op: u16,
    reply: bool,
    words: &'a [u64],
    blob_len: usize,
}

/// An answer's result, words and blob.
struct Reply {
    status: Code,
    words: [u64; WORDS_MAX],
    words_len: usize,
}

impl Ring {
    /// A ring that lies in zeroed `memory` and has never been used.
    pub fn new(index: u32, memory: Shared) -> Self {
        Self {
            index,
            memory,
            producer: Mutex::new(Producer {
                head: 0,
                published: 0,
                tail: 0,
                context: handle::CONTEXT_NONE,
                mode: 0,
                named: Box::new([0; RINGS_MAX as usize]),
            }),
            returned: AtomicU64::new(0),
            per_thread: Mutex::new(Vec::new()),
        }
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Writes a call that asks for no answer; `fill` writes its blob of `blob_len` bytes.
    pub fn submit_with<C: Wire>(
        &self,
        session: &Session,
        thread: &Thread,
        caller: Caller,
        arguments: &C::In,
        blob_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Code> {
        debug_assert!(!C::CALL.reply);
        let mut words = [0; WORDS_MAX];
        arguments.put(&mut words);
        let record = Record {
            op: C::OP,
            reply: false,
            words: &words[..C::In::LEN],
            blob_len,
        };
        let mut producer = lock(&self.producer);
        self.begin(session, thread, &mut producer, caller, !C::CALL.unordered)?;
        self.put(session, thread, &mut producer, &record, fill)?;
        self.publish(session, &mut producer)?;
        self.returned.store(producer.head, Ordering::Release);
        Ok(())
    }

    /// Writes a fence behind a stream's work.
    pub fn fence(
        &self,
        session: &Session,
        thread: &Thread,
        context: u32,
        stream: u64,
        slot: u32,
        sequence: u64,
    ) -> Result<(), Code> {
        let words = [stream, slot.to_word(), sequence];
        let record = Record {
            op: op::FENCE,
            reply: false,
            words: &words,
            blob_len: 0,
        };
        let caller = Caller { context, mode: None };
        let mut producer = lock(&self.producer);
        self.begin(session, thread, &mut producer, caller, true)?;
        self.put(session, thread, &mut producer, &record, |_| ())?;
        self.publish(session, &mut producer)?;
        self.returned.store(producer.head, Ordering::Release);
        Ok(())
    }

    /// Writes a call and waits for its answer, which any call may be asked for; `answer_blob` receives the answer's blob.
    pub fn call<C: Wire>(
        &self,
        session: &Session,
        thread: &Thread,
        caller: Caller,
        arguments: &C::In,
        blob: &[u8],
        answer_blob: &mut Vec<u8>,
    ) -> Result<C::Out, Code> {
        let mut words = [0; WORDS_MAX];
        arguments.put(&mut words);
        let record = Record {
            op: C::OP,
            reply: true,
            words: &words[..C::In::LEN],
            blob_len: blob.len(),
        };
        let reply = self.exchange(
            session,
            thread,
            caller,
            !C::CALL.unordered,
            &record,
            blob,
            answer_blob,
        )?;
        match reply.status {
            0 => C::Out::take(&reply.words[..reply.words_len]).ok_or(result::UNKNOWN),
            code => Err(code),
        }
    }

    /// Asks for the session's GPUs: the answer's blob.
    pub fn gpu_info(&self, session: &Session, thread: &Thread) -> Result<Vec<u8>, Code> {
        let caller = Caller {
            context: handle::CONTEXT_NONE,
            mode: None,
        };
        let record = Record {
            op: op::GPU_INFO,
            reply: true,
            words: &[],
            blob_len: 0,
        };
        let mut blob = Vec::new();
        let reply = self.exchange(session, thread, caller, false, &record, &[], &mut blob)?;
        match reply.status {
            0 => Ok(blob),
            code => Err(code),
        }
    }

    /// Asks for what kernels printed before what was waited for: text for standard output and for standard error, and whether
    /// there is more.
    pub fn text(
        &self,
        session: &Session,
        thread: &Thread,
        caller: Caller,
        (of, which): (u64, u64),
    ) -> Result<(Vec<u8>, Vec<u8>, bool), Code> {
        let record = Record {
            op: op::TEXT,
            reply: true,
            words: &[of, which],
            blob_len: 0,
        };
        let mut blob = Vec::new();
        let reply = self.exchange(session, thread, caller, true, &record, &[], &mut blob)?;
        if reply.status != result::SUCCESS {
            return Err(reply.status);
        }
        let [out, error, more] = reply.words[..3] else {
            return Err(result::UNKNOWN);
        };
        if reply.words_len != 3 || out.checked_add(error) != Some(blob.len() as u64) {
            return Err(result::UNKNOWN);
        }
        let error = blob.split_off(out as usize);
        Ok((blob, error, more != 0))
    }

    #[allow(clippy::too_many_arguments)]
    fn exchange(
        &self,
        session: &Session,
        thread: &Thread,
        caller: Caller,
        ordered: bool,
        record: &Record<'_>,
        blob: &[u8],
        answer_blob: &mut Vec<u8>,
    ) -> Result<Reply, Code> {
        let mut producer = lock(&self.producer);
        self.begin(session, thread, &mut producer, caller, ordered)?;
        self.put(session, thread, &mut producer, record, |to| {
            to.copy_from_slice(blob)
        })?;
        self.publish(session, &mut producer)?;
        let position = producer.head;
        let answered = self.memory.u64(layout::REPLY_POS);
        session.wait(thread, Wake::Event, || {
            (answered.load(Ordering::Acquire) >= position).then_some(())
        })?;
        let reply = self.take_reply(answer_blob)?;
        self.returned.store(position, Ordering::Release);
        Ok(reply)
    }

    fn take_reply(&self, blob: &mut Vec<u8>) -> Result<Reply, Code> {
        let status = self.memory.i32(layout::REPLY_STATUS).load(Ordering::Relaxed);
        let words_len = self.memory.u32(layout::REPLY_WORDS).load(Ordering::Relaxed) as usize;
        let blob_len = self.memory.u32(layout::REPLY_BLOB).load(Ordering::Relaxed) as usize;
        if words_len > WORDS_MAX || 8 * words_len + blob_len > REPLY_LEN_MAX as usize {
            return Err(result::UNKNOWN);
        }
        let mut words = [0; WORDS_MAX];
        for (i, word) in words[..words_len].iter_mut().enumerate() {
            *word = self
                .memory
                .u64(layout::REPLY + 8 * i as u64)
                .load(Ordering::Relaxed);
        }
        blob.clear();
        if blob_len > 0 {
            let from = self.memory.ptr(layout::REPLY + 8 * words_len as u64);
            // SAFETY: inside the reply buffer (checked above); the host has finished writing it (REPLY_POS) and writes
            // it again only after the next record, which needs the producer's lock that the caller holds.
            blob.extend_from_slice(unsafe { std::slice::from_raw_parts(from, blob_len) });
        }
        Ok(Reply {
            status,
            words,
            words_len,
        })
    }

    /// Brings the consumer into the caller's state, and behind what other threads' calls have done.
    fn begin(
        &self,
        session: &Session,
        thread: &Thread,
        producer: &mut Producer,
        caller: Caller,
        ordered: bool,
    ) -> Result<(), Code> {
        if producer.context != caller.context {
            let words = [caller.context.to_word()];
            let record = Record {
                op: op::SET_CONTEXT,
                reply: false,
                words: &words,
                blob_len: 0,
            };
            self.put(session, thread, producer, &record, |_| ())?;
            producer.context = caller.context;
        }
        if let Some(mode) = caller.mode.filter(|&mode| mode != producer.mode) {
            let words = [mode.to_word()];
            let record = Record {
                op: cuThreadExchangeStreamCaptureMode::OP,
                reply: false,
                words: &words,
                blob_len: 0,
            };
            self.put(session, thread, producer, &record, |_| ())?;
            producer.mode = mode;
        }
        let others = session.rings.in_use() & !(1 << self.index);
        if ordered && others != 0 {
            self.depend(session, thread, producer, others)?;
        }
        Ok(())
    }

    /// Names what has returned in `others` (a bit each) and was not named here before.
    fn depend(
        &self,
        session: &Session,
        thread: &Thread,
        producer: &mut Producer,
        mut others: u64,
    ) -> Result<(), Code> {
        let mut pairs = [0u64; 2 * RINGS_MAX as usize];
        let mut len = 0;
        while others != 0 {
            let index = others.trailing_zeros();
            others &= others - 1;
            let Some(ring) = session.rings.get(index) else {
                continue;
            };
            let position = ring.returned.load(Ordering::Acquire);
            let named = &mut producer.named[index as usize];
            if position > *named {
                *named = position;
                pairs[len] = index.into();
                pairs[len + 1] = position;
                len += 2;
            }
        }
        if len == 0 {
            return Ok(());
        }
        let record = Record {
            op: op::DEPS,
            reply: false,
            words: &[],
            blob_len: 8 * len,
        };
        self.put(session, thread, producer, &record, |to| {
            to.copy_from_slice(zerocopy::IntoBytes::as_bytes(&pairs[..len]));
        })
    }

    /// Writes a record without showing it to the consumer yet.
    fn put(
        &self,
        session: &Session,
        thread: &Thread,
        producer: &mut Producer,
        record: &Record<'_>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Code> {
        let len = record_len(record.words.len(), record.blob_len);
        if len > RECORD_LEN_MAX as usize {
            return Err(result::INVALID_VALUE);
        }
        let skip = skip_before(producer.head, len as u32);
        let end = producer.head + u64::from(skip.unwrap_or(0)) + len as u64;
        if end - producer.tail > u64::from(RING_DATA_LEN) {
            self.make_room(session, thread, producer, end)?;
        }
        if let Some(skip) = skip {
            // Length, operation and flags: the first 8 bytes of a header, which is all that may be left.
            let word = u64::from(skip) | u64::from(op::SKIP) << 32;
            self.data(producer.head, 8)[..8].copy_from_slice(&word.to_le_bytes());
            producer.head += u64::from(skip);
        }
        let header = RecordHeader {
            len: len as u32,
            op: record.op,
            flags: if record.reply { layout::FLAG_REPLY } else { 0 },
            words: record.words.len() as u16,
            reserved: 0,
            blob: record.blob_len as u32,
        };
        let to = self.data(producer.head, len);
        let (head, rest) = to.split_at_mut(layout::HEADER_LEN as usize);
        head.copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
        let (words, rest) = rest.split_at_mut(8 * record.words.len());
        words.copy_from_slice(zerocopy::IntoBytes::as_bytes(record.words));
        fill(&mut rest[..record.blob_len]);
        producer.head = end;
        Ok(())
    }

    /// The `len` bytes of the data at `position`, which do not wrap round its end.
    #[allow(clippy::mut_from_ref)]
    fn data(&self, position: u64, len: usize) -> &mut [u8] {
        let offset = position % u64::from(RING_DATA_LEN);
        debug_assert!(offset + len as u64 <= u64::from(RING_DATA_LEN));
        // SAFETY: inside the ring's memory. Called only with the producer's lock held, for bytes that lie between the
        // consumer's position and what was published: nobody else in this process touches them, and the host does not
        // read them before they are published.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr(layout::DATA + offset), len) }
    }

    /// Waits until a record may end at `end`.
    fn make_room(
        &self,
        session: &Session,
        thread: &Thread,
        producer: &mut Producer,
        end: u64,
    ) -> Result<(), Code> {
        let tail = self.memory.u64(layout::TAIL);
        producer.tail = tail.load(Ordering::Acquire);
        let fits = |tail: u64| end - tail <= u64::from(RING_DATA_LEN);
        if fits(producer.tail) {
            return Ok(());
        }
        // What is written so far may be what the consumer has to run before there is room.
        self.publish(session, producer)?;
        producer.tail = session.wait(thread, Wake::Nobody, || {
            Some(tail.load(Ordering::Acquire)).filter(|&tail| fits(tail))
        })?;
        Ok(())
    }

    /// Shows the consumer everything written so far.
    fn publish(&self, session: &Session, producer: &mut Producer) -> Result<(), Code> {
        if producer.published == producer.head {
            return Ok(());
        }
        self.memory
            .u64(layout::HEAD)
            .store(producer.head, Ordering::SeqCst);
        producer.published = producer.head;
        if self.memory.u32(layout::ASLEEP).load(Ordering::SeqCst) != 0 {
            session
                .transport
                .doorbell(self.index)
                .map_err(|error| session.code(&error))?;
        }
        Ok(())
    }
}

/// The rings of a session.
pub struct Rings {
    rings: [OnceLock<Arc<Ring>>; RINGS_MAX as usize],
    /// A bit for every ring there is.
    in_use: AtomicU64,
    pool: Mutex<Pool>,
    /// Where the next thread that has to share looks.
    next_shared: AtomicUsize,
}

struct Pool {
    idle: Vec<Arc<Ring>>,
    made: u32,
    /// The host or the guest's memory allows no more.
    full: bool,
}

const _: () = assert!(RINGS_MAX <= 64, "the set of rings is one word");

impl Rings {
    /// No ring yet.
    pub fn new() -> Self {
        Self {
            rings: [const { OnceLock::new() }; RINGS_MAX as usize],
            in_use: AtomicU64::new(0),
            pool: Mutex::new(Pool {
                idle: Vec::new(),
                made: 0,
                full: false,
            }),
            next_shared: AtomicUsize::new(0),
        }
    }

    /// The rings there are, one bit each.
    fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Acquire)
    }

    /// The ring with this index.
    pub fn get(&self, index: u32) -> Option<&Arc<Ring>> {
        self.rings.get(index as usize)?.get()
    }

    /// A ring for a thread: an idle one, a new one, or, when there can be no more, one that another thread has. The
    /// flag says whether it has to be given back.
    pub fn acquire(
        &self,
        create: impl FnOnce(u32) -> Result<Shared, Code>,
    ) -> Result<(Arc<Ring>, bool), Code> {
        let mut pool = lock(&self.pool);
        if let Some(ring) = pool.idle.pop() {
            return Ok((ring, true));
        }
        if pool.made < RINGS_MAX && !pool.full {
            match create(pool.made) {
                Ok(memory) => {
                    let index = pool.made;
                    let ring = Arc::new(Ring::new(index, memory));
                    let ring = self.rings[index as usize].get_or_init(|| ring).clone();
                    pool.made += 1;
                    self.in_use.fetch_or(1 << index, Ordering::AcqRel);
                    return Ok((ring, true));
                }
                Err(code) if pool.made == 0 => return Err(code),
                Err(_) => pool.full = true,
            }
        }
        let index = self.next_shared.fetch_add(1, Ordering::Relaxed) % pool.made as usize;
        let ring = self.get(index as u32).ok_or(result::UNKNOWN)?;
        Ok((ring.clone(), false))
    }

    /// Takes a ring back whose thread has ended.
    pub fn give_back(&self, ring: Arc<Ring>) {
        lock(&self.pool).idle.push(ring);
    }
}
