//! The machine: runs the blocks of a launch one after the other, and the threads of a block in turns, each up
//! to its next barrier, warp operation or the end of its fuel. So threads which wait for each other in a loop
//! all get on.

mod call;
mod print;
mod warp;

use super::alu::Regs;
use super::ir::{Ins, Kernel, NONE, Reduce, Routine, Run};
use super::types::{Clock, Fixed, LaneMask, Space};
use call::Activation;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stretch of addresses that a kernel may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    pub writable: bool,
}

const NOWHERE: Span = Span {
    start: 0,
    end: 0,
    writable: false,
};

/// The memory kernels see, beside their own shared and local memory.
pub trait Memory {
    /// The accessible stretch around `address`, if there is one. What it names must stay mapped until the
    /// next [`Gate::pause`], and accesses to it from elsewhere must be atomic ones.
    fn span(&self, address: u64) -> Option<Span>;
}

/// Asked at safe points, every few thousand instructions.
pub trait Gate {
    /// Returns when the kernel may go on; an error ends it.
    fn pause(&self) -> Result<(), Aborted>;
}

/// The kernel must end, since its context is lost or going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// Why a kernel ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Aborted,
    Fault(Fault),
}

/// An exception of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// The address accessed.
    pub address: u64,
    /// Line of the PTX text.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    IllegalAddress,
    MisalignedAddress,
    /// A call of what is no function.
    InvalidPc,
    /// Calls nested too deeply.
    StackOverflow,
    Trap,
    Assert,
}

/// One launch.
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// In bytes, behind the kernel's static shared memory.
    pub dynamic_shared: usize,
    /// Local memory for recursion, in bytes per thread.
    pub stack: usize,
    /// The parameter buffer; at least [`Kernel::param_bytes`] long.
    pub params: &'a [u8],
    pub memory: &'a dyn Memory,
    pub gate: &'a dyn Gate,
    /// `%gridid`
    pub id: u64,
}

/// Jumps between two safe points. A loop has one jump at least, so this bounds their distance.
const FUEL: u32 = 2048;
/// Safe points that a block may pass while others are waiting.
const PATIENCE: u32 = 64;
/// Most blocks resident at once, and most memory they may take together.
const RESIDENT_BLOCKS: usize = 1024;
const RESIDENT_BYTES: usize = 256 << 20;
/// Threads of a warp.
const WARP: usize = 32;
const BARRIERS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// At a warp operation, which `pc` points to.
    Warp,
    /// At a barrier; `pc` points to it.
    Barrier,
    /// Until that many nanoseconds of [`now`].
    Sleeping(u64),
    Exited,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    pc: usize,
    state: State,
}

/// Nanoseconds since this library was first asked, on a clock that never goes back.
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds of wall-clock time, for `%globaltimer`.
fn global_timer() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as u64)
}

/// Runs a launch to its end. A block that takes long makes room for others, so that blocks which wait for
/// each other all get on, as far as they would be resident at once.
pub fn run(launch: &Launch<'_>) -> Result<(), Stop> {
    let mut machine = Machine::new(launch);
    let [nx, ny, nz] = launch.grid.map(u64::from);
    let mut unstarted = (0..nx * ny * nz).map(|n| [n % nx, n / nx % ny, n / nx / ny].map(|i| i as u32));
    let resident = (RESIDENT_BYTES / machine.block.bytes()).clamp(1, RESIDENT_BLOCKS);
    let mut waiting = VecDeque::new();
    loop {
        let next = if waiting.len() < resident {
            unstarted.next()
        } else {
            None
        };
        match next {
            Some(ctaid) => machine.start(ctaid),
            None => match waiting.pop_front() {
                Some(block) => machine.block = block,
                None => return Ok(()),
            },
        }
        let alone = waiting.is_empty() && unstarted.size_hint().0 == 0;
        if !machine.advance(alone)? {
            let fresh = Block::new(launch);
            waiting.push_back(std::mem::replace(&mut machine.block, fresh));
        }
    }
}

/// The state of a block.
struct Block {
    threads: Vec<Thread>,
    ctaid: [u32; 3],
    /// The slots of the kernel itself, one thread after the other.
    regs: Vec<u64>,
    /// For each thread the functions it is in, the latest last.
    calls: Vec<Vec<Activation>>,
    /// Bytes of their slots.
    called_bytes: usize,
    shared: Vec<u128>,
    local: Vec<u128>,
    arrived: [u32; BARRIERS],
}

/// Local memory of a thread in bytes.
fn local_len(launch: &Launch<'_>) -> usize {
    let kernel = launch.kernel;
    let stack = if kernel.recursive { launch.stack } else { 0 };
    (kernel.local_bytes + stack).next_multiple_of(16)
}

impl Block {
    fn new(launch: &Launch<'_>) -> Block {
        let kernel = launch.kernel;
        let count = launch.block.iter().map(|&n| n as usize).product::<usize>();
        let shared_len = kernel.dynamic_at + launch.dynamic_shared;
        Block {
            threads: vec![
                Thread {
                    pc: 0,
                    state: State::Ready
                };
                count
            ],
            ctaid: [0; 3],
            regs: vec![0; kernel.entry().template.len() * count],
            calls: (0..count).map(|_| Vec::new()).collect(),
            called_bytes: 0,
            shared: vec![0; shared_len.div_ceil(16).max(1)],
            local: vec![0; (local_len(launch) / 16 * count).max(1)],
            arrived: [0; BARRIERS],
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.regs[..]) + size_of_val(&self.shared[..]) + size_of_val(&self.local[..])
    }
}

struct Machine<'a> {
    launch: &'a Launch<'a>,
    kernel: &'a Kernel,
    /// The block being run.
    block: Block,
    shared_len: u64,
    local_len: usize,
    /// Slots of functions that have returned, for the next call.
    spare: Vec<Vec<u64>>,
    /// The stretches accessed last.
    cache: [Span; 4],
    evict: usize,
    fuel: u32,
    /// Safe points until it is another block's turn.
    patience: u32,
}

impl<'a> Machine<'a> {
    fn new(launch: &'a Launch<'a>) -> Machine<'a> {
        Machine {
            launch,
            kernel: launch.kernel,
            block: Block::new(launch),
            shared_len: (launch.kernel.dynamic_at + launch.dynamic_shared) as u64,
            local_len: local_len(launch),
            spare: Vec::new(),
            cache: [NOWHERE; 4],
            evict: 0,
            fuel: FUEL,
            patience: PATIENCE,
        }
    }

    /// The slots that the thread's instructions name now.
    fn regs(&mut self, thread: usize) -> Regs {
        let file = match self.block.calls[thread].last_mut() {
            Some(activation) => &mut activation.slots[..],
            None => {
                let slots = self.kernel.entry().template.len();
                &mut self.block.regs[thread * slots..(thread + 1) * slots]
            }
        };
        // SAFETY: the file has as many slots as the template of its routine, and only that routine's
        // instructions are run with it. The vector is never resized, and only this machine's thread touches it.
        unsafe { Regs::new(file.as_mut_ptr()) }
    }

    /// Makes the block the one at `ctaid`, at its beginning.
    fn start(&mut self, ctaid: [u32; 3]) {
        self.block.arrived = [0; BARRIERS];
        self.block.ctaid = ctaid;
        for thread in 0..self.block.threads.len() {
            self.block.threads[thread] = Thread {
                pc: 0,
                state: State::Ready,
            };
            self.start_thread(thread);
        }
    }

    /// Runs the block for a while, or if `alone` to its end; true if it has ended.
    fn advance(&mut self, alone: bool) -> Result<bool, Stop> {
        let warps = self.block.threads.len().div_ceil(WARP);
        self.patience = PATIENCE;
        while alone || self.patience > 0 {
            let mut ready = false;
            for warp in 0..warps {
                ready |= self.warp(warp)?;
            }
            if !ready {
                if self.block.threads.iter().all(|t| t.state == State::Exited) {
                    return Ok(true);
                }
                if !self.release_barriers() {
                    self.idle()?;
                }
            }
        }
        Ok(false)
    }

    fn start_thread(&mut self, thread: usize) {
        let Routine { template, fixed, .. } = self.kernel.entry();
        while let Some(activation) = self.block.calls[thread].pop() {
            self.spare.push(activation.slots);
        }
        self.block.called_bytes = 0;
        let slots = template.len();
        self.block.regs[thread * slots..(thread + 1) * slots].copy_from_slice(template);
        let regs = self.regs(thread);
        for &(slot, what) in fixed {
            regs.set(slot, self.fixed(thread, what, 0));
        }
    }

    /// The value of a special register, where the frame of the function begins at `frame`.
    fn fixed(&self, thread: usize, what: Fixed, frame: usize) -> u64 {
        let [nx, ny, _] = self.launch.block;
        let (x, y, z) = (
            thread as u32 % nx,
            thread as u32 / nx % ny,
            thread as u32 / nx / ny,
        );
        let lane = (thread % WARP) as u32;
        let value = match what {
            Fixed::Tid(axis) => [x, y, z][axis as usize],
            Fixed::Ntid(axis) => self.launch.block[axis as usize],
            Fixed::Ctaid(axis) => self.block.ctaid[axis as usize],
            Fixed::Nctaid(axis) => self.launch.grid[axis as usize],
            Fixed::LaneId => lane,
            Fixed::WarpId => (thread / WARP) as u32,
            Fixed::NwarpId => self.block.threads.len().div_ceil(WARP) as u32,
            Fixed::SmId => 0,
            Fixed::NsmId => 1,
            Fixed::GridId => return self.launch.id,
            Fixed::LaneMask(LaneMask::Eq) => 1 << lane,
            Fixed::LaneMask(LaneMask::Lt) => (1 << lane) - 1,
            Fixed::LaneMask(LaneMask::Le) => u32::MAX >> (31 - lane),
            Fixed::LaneMask(LaneMask::Ge) => u32::MAX << lane,
            Fixed::LaneMask(LaneMask::Gt) => !(u32::MAX >> (31 - lane)),
            Fixed::DynamicSharedSize => self.launch.dynamic_shared as u32,
            Fixed::TotalSharedSize => self.shared_len as u32,
            Fixed::Frame => return frame as u64,
        };
        u64::from(value)
    }

    /// Runs the threads of a warp until none of them is ready, or one ran out of fuel; true if some are
    /// still ready.
    fn warp(&mut self, warp: usize) -> Result<bool, Stop> {
        let lanes = warp * WARP..((warp + 1) * WARP).min(self.block.threads.len());
        loop {
            let mut ready = false;
            for thread in lanes.clone() {
                if let State::Sleeping(until) = self.block.threads[thread].state
                    && now() >= until
                {
                    self.block.threads[thread].state = State::Ready;
                }
                if self.block.threads[thread].state == State::Ready {
                    self.thread(thread)?;
                    ready |= self.block.threads[thread].state == State::Ready;
                }
            }
            if ready {
                return Ok(true);
            }
            if !self.resolve_warp(lanes.clone()) {
                return Ok(false);
            }
        }
    }

    fn safe_point(&mut self) -> Result<(), Stop> {
        self.fuel = FUEL;
        self.patience = self.patience.saturating_sub(1);
        // Memory may have gone while others ran.
        self.cache = [NOWHERE; 4];
        self.launch.gate.pause().map_err(|Aborted| Stop::Aborted)
    }

    /// Nobody can run: some sleep, or all wait for something that only an abort ends.
    fn idle(&mut self) -> Result<(), Stop> {
        let wake = self.block.threads.iter().filter_map(|t| match t.state {
            State::Sleeping(until) => Some(until),
            _ => None,
        });
        let pause = wake
            .min()
            .map_or(1_000_000, |until| until.saturating_sub(now()).min(200_000));
        std::thread::sleep(Duration::from_nanos(pause));
        self.safe_point()
    }

    /// Lets go the threads whose barrier is complete; true if there were any.
    fn release_barriers(&mut self) -> bool {
        let mut waiting = [0u32; BARRIERS];
        let mut expected = [0u32; BARRIERS];
        let live = self
            .block
            .threads
            .iter()
            .filter(|t| t.state != State::Exited)
            .count() as u32;
        for thread in 0..self.block.threads.len() {
            if self.block.threads[thread].state == State::Barrier {
                let (id, count) = self.barrier_of(thread);
                waiting[id] += 1;
                expected[id] = count.unwrap_or(live);
            }
        }
        let mut released = false;
        for id in 0..BARRIERS {
            if waiting[id] == 0 || waiting[id] + self.block.arrived[id] < expected[id] {
                continue;
            }
            released = true;
            self.block.arrived[id] = 0;
            self.release(id);
        }
        released
    }

    /// Barrier number and thread count of the barrier `thread` waits at.
    fn barrier_of(&mut self, thread: usize) -> (usize, Option<u32>) {
        let ins = self.kernel.code[self.block.threads[thread].pc];
        let regs = self.regs(thread);
        let count = (ins.b != NONE).then(|| regs.get(ins.b) as u32);
        (regs.get(ins.a) as usize % BARRIERS, count)
    }

    fn release(&mut self, id: usize) {
        let members: Vec<usize> = (0..self.block.threads.len())
            .filter(|&t| self.block.threads[t].state == State::Barrier && self.barrier_of(t).0 == id)
            .collect();
        let mut yes = 0;
        for &thread in &members {
            let ins = self.kernel.code[self.block.threads[thread].pc];
            if ins.c != NONE && self.regs(thread).get(ins.c) != 0 {
                yes += 1;
            }
        }
        for &thread in &members {
            let ins = self.kernel.code[self.block.threads[thread].pc];
            if let Run::BarrierReduce(_) = ins.run {
                // The result is left in the predicate's stead by the operation itself.
                let result = match ins.run {
                    Run::BarrierReduce(Reduce::Popc) => yes,
                    Run::BarrierReduce(Reduce::And) => u64::from(yes as usize == members.len()),
                    _ => u64::from(yes > 0),
                };
                self.regs(thread).set(ins.d, result);
            }
            self.block.threads[thread] = Thread {
                pc: self.block.threads[thread].pc + 1,
                state: State::Ready,
            };
        }
    }

    /// Runs one thread until it waits, ends or is out of fuel.
    fn thread(&mut self, thread: usize) -> Result<(), Stop> {
        let kernel = self.kernel;
        let code = &kernel.code[..];
        let mut regs = self.regs(thread);
        let mut pc = self.block.threads[thread].pc;
        self.fuel = self.fuel.saturating_sub(1);
        let state = loop {
            // Lowering ends every kernel with an exit, so this is never beyond the end.
            let ins = &code[pc];
            if !ins.enabled(regs) {
                pc += 1;
                continue;
            }
            match ins.run {
                Run::Alu(f) => f(regs, ins),
                Run::Jump => {
                    pc = ins.imm as usize;
                    if self.fuel == 0 {
                        break State::Ready;
                    }
                    self.fuel -= 1;
                    continue;
                }
                Run::Load {
                    space,
                    log_size,
                    signed,
                    lanes,
                } => {
                    let address = regs.get(ins.a).wrapping_add(ins.imm as u64);
                    let total = (lanes as u64) << log_size;
                    let at = self.locate(space, address, total, false, thread, ins)?;
                    if lanes == 1 {
                        regs.set(ins.d, load(at, log_size, signed));
                    } else {
                        for (n, slot) in ins.lanes().into_iter().take(lanes as usize).enumerate() {
                            regs.set(slot, load(at.wrapping_add(n << log_size), log_size, signed));
                        }
                    }
                }
                Run::Store {
                    space,
                    log_size,
                    lanes,
                } => {
                    let address = regs.get(ins.a).wrapping_add(ins.imm as u64);
                    let total = (lanes as u64) << log_size;
                    let at = self.locate(space, address, total, true, thread, ins)?;
                    if lanes == 1 {
                        store(at, log_size, regs.get(ins.d));
                    } else {
                        for (n, slot) in ins.lanes().into_iter().take(lanes as usize).enumerate() {
                            store(at.wrapping_add(n << log_size), log_size, regs.get(slot));
                        }
                    }
                }
                Run::Atomic { space, f, log_size } => {
                    let address = regs.get(ins.a).wrapping_add(ins.imm as u64);
                    let at = self.locate(space, address, 1 << log_size, true, thread, ins)?;
                    // SAFETY: `locate` found the address mapped, writable and aligned.
                    let old = unsafe { f(at, regs.get(ins.b), regs.get(ins.c)) };
                    if ins.d != NONE {
                        regs.set(ins.d, old);
                    }
                }
                Run::Call | Run::Return => {
                    pc = match ins.run {
                        Run::Call => self.call(thread, ins, pc)?,
                        _ => match self.go_back(thread) {
                            Some(pc) => pc,
                            None => break State::Exited,
                        },
                    };
                    regs = self.regs(thread);
                    if self.fuel == 0 {
                        break State::Ready;
                    }
                    self.fuel -= 1;
                    continue;
                }
                Run::Exit => break State::Exited,
                Run::Barrier | Run::BarrierReduce(_) => break State::Barrier,
                Run::Warp(_) => break State::Warp,
                Run::BarrierArrive => self.block.arrived[regs.get(ins.a) as usize % BARRIERS] += 1,
                Run::JumpTable => {
                    let table = &kernel.jump_tables[ins.imm as usize];
                    match table.get(regs.get(ins.a) as u32 as usize) {
                        Some(&target) => pc = target as usize,
                        None => return Err(fault(FaultKind::Trap, 0, ins)),
                    }
                    if self.fuel == 0 {
                        break State::Ready;
                    }
                    self.fuel -= 1;
                    continue;
                }
                Run::Trap => return Err(fault(FaultKind::Trap, 0, ins)),
                Run::Assert => {
                    self.say_assertion(thread, ins)?;
                    return Err(fault(FaultKind::Assert, 0, ins));
                }
                Run::Print => self.print(thread, ins)?,
                Run::Fence => std::sync::atomic::fence(Ordering::SeqCst),
                Run::ToGeneric(space) => {
                    regs.set(ins.d, regs.get(ins.a).wrapping_add(window_base(space)));
                }
                Run::FromGeneric(space) => {
                    regs.set(ins.d, regs.get(ins.a).wrapping_sub(window_base(space)));
                }
                Run::IsSpace(space) => {
                    let found = window_of(regs.get(ins.a)).map_or(Space::Global, |(space, _)| space);
                    let result = match space {
                        Space::Generic | Space::Const => found == Space::Global,
                        space => found == space,
                    };
                    regs.set(ins.d, u64::from(result));
                }
                Run::Clock(clock) => regs.set(ins.d, read_clock(clock)),
                Run::Sleep => {
                    pc += 1;
                    // PTX allows at most a millisecond.
                    break State::Sleeping(now() + regs.get(ins.a).min(1_000_000));
                }
            }
            pc += 1;
        };
        self.block.threads[thread] = Thread { pc, state };
        if self.fuel == 0 {
            self.safe_point()?;
        }
        Ok(())
    }

    /// Where a space other than global really is: its start and length.
    fn window(&self, space: Space, thread: usize) -> (u64, u64) {
        match space {
            Space::Shared => (self.block.shared.as_ptr() as u64, self.shared_len),
            Space::Local => {
                let bytes = self.local_len as u64;
                (self.block.local.as_ptr() as u64 + thread as u64 * bytes, bytes)
            }
            Space::Param => (self.launch.params.as_ptr() as u64, self.kernel.param_bytes as u64),
            _ => (0, 0),
        }
    }

    /// The memory behind an address, or the fault that an access to it is.
    #[inline]
    fn locate(
        &mut self,
        space: Space,
        address: u64,
        size: u64,
        write: bool,
        thread: usize,
        ins: &Ins,
    ) -> Result<*mut u8, Stop> {
        if address & (size - 1) != 0 {
            return Err(fault(FaultKind::MisalignedAddress, address, ins));
        }
        match space {
            Space::Generic if address >= WINDOWS => match window_of(address) {
                Some((space, offset)) => self.locate(space, offset, size, write, thread, ins),
                None => Err(fault(FaultKind::IllegalAddress, address, ins)),
            },
            Space::Generic | Space::Global | Space::Const => {
                for span in &self.cache {
                    if address >= span.start
                        && address < span.end
                        && size <= span.end - address
                        && (!write || span.writable)
                    {
                        return Ok(address as *mut u8);
                    }
                }
                self.locate_slow(address, size, write, ins)
            }
            _ => {
                let (start, len) = self.window(space, thread);
                if address >= len || size > len - address || (write && space == Space::Param) {
                    return Err(fault(FaultKind::IllegalAddress, address, ins));
                }
                Ok((start + address) as *mut u8)
            }
        }
    }

    #[cold]
    fn locate_slow(&mut self, address: u64, size: u64, write: bool, ins: &Ins) -> Result<*mut u8, Stop> {
        match self.launch.memory.span(address) {
            Some(span)
                if address >= span.start
                    && address < span.end
                    && size <= span.end - address
                    && (!write || span.writable) =>
            {
                self.cache[self.evict] = span;
                self.evict = (self.evict + 1) % self.cache.len();
                Ok(address as *mut u8)
            }
            _ => Err(fault(FaultKind::IllegalAddress, address, ins)),
        }
    }
}

/// Generic addresses from here on are those of shared and local memory and of parameters, 2^32 bytes each: a process
/// has nothing there.
const WINDOWS: u64 = 1 << 62;
const WINDOW_SPACES: [Space; 3] = [Space::Shared, Space::Local, Space::Param];

/// The generic address of the first byte of a space.
fn window_base(space: Space) -> u64 {
    match WINDOW_SPACES.iter().position(|s| *s == space) {
        Some(at) => WINDOWS + ((at as u64) << 32),
        None => 0,
    }
}

/// The space that a generic address is in, and the offset there; none if it is global.
fn window_of(address: u64) -> Option<(Space, u64)> {
    let offset = address.checked_sub(WINDOWS)?;
    let space = WINDOW_SPACES.get((offset >> 32) as usize)?;
    Some((*space, offset & 0xffff_ffff))
}

fn fault(kind: FaultKind, address: u64, ins: &Ins) -> Stop {
    Stop::Fault(Fault {
        kind,
        address,
        line: ins.line,
    })
}

fn read_clock(clock: Clock) -> u64 {
    match clock {
        Clock::Low => (now() * 2) & 0xffff_ffff,
        Clock::High => (now() * 2) >> 32,
        Clock::Full => now() * 2,
        Clock::Global => global_timer(),
        Clock::GlobalLow => global_timer() & 0xffff_ffff,
        Clock::GlobalHigh => global_timer() >> 32,
    }
}

/// Loads a value; `at` came from [`Machine::locate`].
#[inline(always)]
fn load(at: *mut u8, log_size: u8, signed: bool) -> u64 {
    // SAFETY: `locate` found the address mapped and aligned to the value's size. All threads of kernels
    // access such memory with atomics only.
    unsafe {
        match (log_size, signed) {
            (0, false) => u64::from(AtomicU8::from_ptr(at).load(Ordering::Relaxed)),
            (0, true) => AtomicU8::from_ptr(at).load(Ordering::Relaxed) as i8 as u64,
            (1, false) => u64::from(AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed)),
            (1, true) => AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed) as i16 as u64,
            (2, false) => u64::from(AtomicU32::from_ptr(at.cast()).load(Ordering::Acquire)),
            (2, true) => AtomicU32::from_ptr(at.cast()).load(Ordering::Acquire) as i32 as u64,
            _ => AtomicU64::from_ptr(at.cast()).load(Ordering::Acquire),
        }
    }
}

/// Stores a value; `at` came from [`Machine::locate`].
#[inline(always)]
fn store(at: *mut u8, log_size: u8, value: u64) {
    // SAFETY: as for `load`, and found writable.
    unsafe {
        match log_size {
            0 => AtomicU8::from_ptr(at).store(value as u8, Ordering::Relaxed),
            1 => AtomicU16::from_ptr(at.cast()).store(value as u16, Ordering::Relaxed),
            2 => AtomicU32::from_ptr(at.cast()).store(value as u32, Ordering::Release),
            _ => AtomicU64::from_ptr(at.cast()).store(value, Ordering::Release),
        }
    }
}
