//! The instructions the machine runs. Every operand is a slot of the thread's register file: the registers
//! of the text first, then temporaries, literals and the special registers which do not change, so that
//! no instruction has to ask what kind of operand it has.

use super::alu::{AluFn, Regs};
use super::atomics::AtomicFn;
use super::types::{Clock, Fixed, Space};
use std::collections::HashMap;

/// Marks an operand that is not there.
pub const NONE: u16 = u16::MAX;

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Ins {
    /// What to do.
    pub run: Run,
    /// Slot of the predicate that decides whether to do it, or [`NONE`].
    pub guard: u16,
    /// Do it when the predicate is false.
    pub negate: bool,
    /// Destination.
    pub d: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    /// A fifth operand: second destination or fourth source.
    pub e: u16,
    /// Jump target, address offset, lookup table or packed options.
    pub imm: i64,
    /// Line of the text, for fault messages.
    pub line: u32,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// Computes on slots alone.
    Alu(AluFn),
    /// Goes on at `imm`.
    Jump,
    /// Goes on at table entry `a` of the `imm`-th jump table.
    JumpTable,
    /// Calls as the `imm`-th call site says.
    Call,
    /// Goes back to where the function was called.
    Return,
    /// The thread ends.
    Exit,
    /// The kernel fails.
    Trap,
    /// The kernel fails, since a condition that it asserts does not hold: as the `imm`-th call site says.
    Assert,
    /// Prints as the `imm`-th call site says.
    Print,
    /// Loads `lanes` values of `1 << log_size` bytes from `a + imm` into d, b, c, e.
    Load {
        space: Space,
        log_size: u8,
        signed: bool,
        lanes: u8,
    },
    /// Stores `lanes` values from d, b, c, e at `a + imm`.
    Store {
        space: Space,
        log_size: u8,
        lanes: u8,
    },
    /// Atomic read-modify-write at `a + imm` with operands b, c; the old value to d unless [`NONE`].
    Atomic {
        space: Space,
        f: AtomicFn,
        log_size: u8,
    },
    Fence,
    /// Offset in a state space to generic address, and back.
    ToGeneric(Space),
    FromGeneric(Space),
    /// d = whether generic address a lies in the space.
    IsSpace(Space),
    Clock(Clock),
    /// Sleeps about a nanoseconds.
    Sleep,
    /// Waits at barrier a until b threads (all, if [`NONE`]) have come.
    Barrier,
    /// Counts at barrier a without waiting.
    BarrierArrive,
    /// As `Barrier`, and d = a reduction of predicate c over the threads that came.
    BarrierReduce(Reduce),
    /// Exchanges with other threads of the warp.
    Warp(WarpOp),
}

/// How a barrier combines predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Popc,
    And,
    Or,
}

/// What the threads of a warp do together. The member mask is slot `imm`, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarpOp {
    /// d, e = value of a in another lane and whether it exists; b, c as in PTX.
    Shuffle(Shuffle),
    /// d = vote over predicate a.
    VoteAll,
    VoteAny,
    VoteUniform,
    Ballot,
    /// d = lanes with the same a.
    MatchAny,
    /// d = members if all have the same a, and e = whether they do.
    MatchAll,
    /// d = reduction of a over the members.
    Redux(Redux),
    /// Only waits.
    Sync,
    /// d = lanes that came here together. Has no mask.
    ActiveMask,
}

/// How a shuffle finds its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// An integer reduction over a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// A kernel ready to run, with all the functions that it may call.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    /// The name for C.
    pub c_name: std::ffi::CString,
    /// The instructions of all routines.
    pub code: Vec<Ins>,
    /// The kernel itself, then the functions.
    pub routines: Vec<Routine>,
    pub calls: Vec<CallSite>,
    /// The routine behind the address of a function.
    pub addresses: HashMap<u64, u32>,
    pub jump_tables: Vec<Vec<u32>>,
    /// Offset and size of each parameter in the parameter buffer, in bytes.
    pub params: Vec<(usize, usize)>,
    /// Size of the parameter buffer in bytes.
    pub param_bytes: usize,
    /// Statically declared shared memory in bytes.
    pub shared_bytes: usize,
    /// Where dynamic shared memory starts.
    pub dynamic_at: usize,
    /// Local memory that a thread needs, in bytes; what recursion needs is beyond that.
    pub local_bytes: usize,
    /// Whether functions may call each other in a circle.
    pub recursive: bool,
    /// Most threads per block.
    pub max_threads: u32,
    /// Threads per block in each dimension, if the kernel runs with no others.
    pub required_threads: Option<[u32; 3]>,
    /// Registers in the text, as an answer to `CU_FUNC_ATTRIBUTE_NUM_REGS`.
    pub registers: u32,
}

/// A kernel or function. Each of its activations has a file of slots and a frame in local memory.
#[derive(Clone, Debug, Default)]
pub struct Routine {
    /// Its first instruction.
    pub start: u32,
    /// Initial content of the slots: zeros and literals.
    pub template: Vec<u64>,
    /// Slots which hold special registers.
    pub fixed: Vec<(u16, Fixed)>,
    /// Size of the frame in bytes: parameters and results first, then variables.
    pub frame_bytes: usize,
}

/// What a call does.
#[derive(Clone, Debug)]
pub struct CallSite {
    pub target: Target,
    /// What is copied into the frame of the function, and what from there when it returns.
    pub inputs: Vec<Passed>,
    pub outputs: Vec<Passed>,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Routine(u32),
    /// The function whose address is in a slot.
    Pointer(u16),
}

/// An argument or a result.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub here: Place,
    /// Offset in the frame of the function.
    pub there: usize,
    /// In bytes.
    pub size: usize,
}

/// Where the caller has it.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Slot(u16),
    /// Offset in its frame.
    Frame(usize),
}

impl Kernel {
    /// The slots with which a thread of the kernel starts.
    pub fn entry(&self) -> &Routine {
        &self.routines[0]
    }
}

impl Ins {
    /// An instruction with no operands.
    pub fn new(run: Run, line: u32) -> Ins {
        Ins {
            run,
            guard: NONE,
            negate: false,
            d: NONE,
            a: NONE,
            b: NONE,
            c: NONE,
            e: NONE,
            imm: 0,
            line,
        }
    }

    /// Whether every slot it names, or uses without asking, is one of a file of `slots`.
    pub fn is_sound(&self, slots: usize) -> bool {
        let real = |slot: u16| (slot as usize) < slots;
        let used: &[u16] = match self.run {
            Run::Alu(_) | Run::ToGeneric(_) | Run::FromGeneric(_) | Run::IsSpace(_) => &[self.d, self.a],
            Run::Clock(_) => &[self.d],
            Run::JumpTable | Run::Sleep | Run::Barrier | Run::BarrierArrive => &[self.a],
            Run::BarrierReduce(_) => &[self.d, self.a, self.c],
            Run::Atomic { .. } => &[self.a, self.b, self.c],
            Run::Load { lanes, .. } | Run::Store { lanes, .. } => {
                return real(self.a) && self.lanes()[..lanes as usize].iter().all(|s| real(*s));
            }
            Run::Warp(WarpOp::Shuffle(_)) => &[self.a, self.b, self.c],
            Run::Warp(WarpOp::Sync | WarpOp::ActiveMask) => &[],
            Run::Warp(_) => &[self.a],
            Run::Jump
            | Run::Call
            | Run::Return
            | Run::Exit
            | Run::Trap
            | Run::Assert
            | Run::Print
            | Run::Fence => &[],
        };
        let named = [self.guard, self.d, self.a, self.b, self.c, self.e];
        used.iter().all(|s| real(*s)) && named.iter().all(|s| *s == NONE || real(*s))
    }

    /// The slots that `lanes` memory operands use, in order.
    #[inline(always)]
    pub fn lanes(&self) -> [u16; 4] {
        [self.d, self.b, self.c, self.e]
    }

    /// Whether the guard lets it run.
    #[inline(always)]
    pub fn enabled(&self, regs: Regs) -> bool {
        self.guard == NONE || (regs.get(self.guard) != 0) != self.negate
    }
}
