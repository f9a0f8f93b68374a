//! Turns the statements of a kernel, and of the functions that it may call, into instructions.

mod arith;
mod call;
mod control;
mod memory;
mod reach;

pub use reach::code_address;

use super::PtxError;
use super::alu::{self, AluFn};
use super::ir::{CallSite, Ins, Kernel, NONE, Routine, Run};
use super::parse::{Arg, Function, Literal, Module, Stmt};
use super::types::{Clock, Fixed, Space, Special, Ty};
use reach::Reach;
use std::collections::HashMap;

/// Where the module's global and constant variables lie, and its functions ([`code_address`]).
pub type Symbols = HashMap<String, u64>;

/// A thread may have this many slots; beyond, operand numbers would not fit.
const MAX_SLOTS: usize = 65_000;
/// Instructions of one kernel with all it calls.
const MAX_CODE: usize = 4_000_000;
/// The frame of one function may have this many bytes.
const MAX_FRAME: usize = 512 * 1024;

/// Lowers the kernel `function` of `module`.
pub fn lower(module: &Module, function: &Function, symbols: &Symbols) -> Result<Kernel, PtxError> {
    let reach = Reach::of(module, function)?;
    let mut lowering = Lowering {
        symbols,
        reach: &reach,
        code: Vec::new(),
        routines: Vec::new(),
        calls: Vec::new(),
        addresses: HashMap::new(),
        jump_tables: Vec::new(),
        template: Vec::new(),
        literals: HashMap::new(),
        fixed: HashMap::new(),
        frame_end: 0,
        carry: None,
        guard: (NONE, false),
        line: function.line,
    };
    for (index, function) in reach.functions.iter().enumerate() {
        if let Some(address) = code_address(module, &function.name) {
            lowering.addresses.insert(address, index as u32);
        }
        lowering.function(function)?;
    }
    let (local_bytes, recursive) = lowering.depth();
    let params = || function.params.iter();
    Ok(Kernel {
        name: function.name.clone(),
        c_name: std::ffi::CString::new(function.name.as_str()).unwrap_or_default(),
        code: lowering.code,
        routines: lowering.routines,
        calls: lowering.calls,
        addresses: lowering.addresses,
        jump_tables: lowering.jump_tables,
        params: params().map(|p| (p.offset, p.size)).collect(),
        param_bytes: params().map(|p| p.offset + p.size).max().unwrap_or(0),
        shared_bytes: reach.shared_bytes,
        dynamic_at: reach.dynamic_at,
        local_bytes,
        recursive,
        max_threads: function.max_threads.unwrap_or(1024),
        required_threads: function.required_threads,
        registers: function.registers.min(255),
    })
}

/// Where a name of a body lies.
#[derive(Clone, Copy, Debug)]
enum Place {
    Shared(u64),
    Local(u64),
    /// In the kernel's parameter buffer.
    Param(u64),
    Global(u64),
}

/// One function body being lowered.
struct Frame<'m> {
    function: &'m Function,
    /// Slot of its register 0.
    base: u16,
    places: HashMap<&'m str, Place>,
    /// Jumps to patch: instruction and the statement it goes to.
    jumps: Vec<(usize, usize)>,
    /// Jump tables to patch.
    tables: Vec<(usize, Vec<usize>)>,
}

struct Lowering<'m> {
    symbols: &'m Symbols,
    reach: &'m Reach<'m>,
    code: Vec<Ins>,
    routines: Vec<Routine>,
    calls: Vec<CallSite>,
    addresses: HashMap<u64, u32>,
    jump_tables: Vec<Vec<u32>>,
    // Of the function being lowered:
    template: Vec<u64>,
    literals: HashMap<u64, u16>,
    fixed: HashMap<Fixed, u16>,
    frame_end: usize,
    /// The slot of the carry flag.
    carry: Option<u16>,
    guard: (u16, bool),
    line: u32,
}

/// A mnemonic taken apart.
struct Op<'s> {
    text: &'s str,
    name: &'s str,
    quals: Vec<&'s str>,
    /// The type qualifiers, in order.
    types: Vec<Ty>,
}

impl<'s> Op<'s> {
    fn new(text: &'s str) -> Op<'s> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or("");
        let quals: Vec<&str> = parts.collect();
        let types = quals.iter().filter_map(|q| Ty::named(q)).collect();
        Op {
            text,
            name,
            quals,
            types,
        }
    }

    fn has(&self, qual: &str) -> bool {
        self.quals.contains(&qual)
    }

    fn space(&self) -> Option<Space> {
        self.quals.iter().find_map(|q| Space::named(q))
    }
}

impl<'m> Lowering<'m> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError::new(self.line, message))
    }

    fn unsupported<T>(&self, op: &Op<'_>) -> Result<T, PtxError> {
        self.error(format!("unknown instruction {}", op.text))
    }

    /// A new slot whose initial content is `bits`.
    fn slot(&mut self, bits: u64) -> Result<u16, PtxError> {
        if self.template.len() >= MAX_SLOTS {
            return self.error("too many registers");
        }
        self.template.push(bits);
        Ok((self.template.len() - 1) as u16)
    }

    fn literal(&mut self, bits: u64) -> Result<u16, PtxError> {
        if let Some(&slot) = self.literals.get(&bits) {
            return Ok(slot);
        }
        let slot = self.slot(bits)?;
        self.literals.insert(bits, slot);
        Ok(slot)
    }

    fn fixed(&mut self, what: Fixed) -> Result<u16, PtxError> {
        if let Some(&slot) = self.fixed.get(&what) {
            return Ok(slot);
        }
        let slot = self.slot(0)?;
        self.fixed.insert(what, slot);
        Ok(slot)
    }

    fn carry(&mut self) -> Result<u16, PtxError> {
        match self.carry {
            Some(slot) => Ok(slot),
            None => {
                let slot = self.slot(0)?;
                self.carry = Some(slot);
                Ok(slot)
            }
        }
    }

    fn emit(&mut self, mut ins: Ins) -> Result<(), PtxError> {
        if self.code.len() >= MAX_CODE {
            return self.error("kernel too large");
        }
        (ins.guard, ins.negate) = self.guard;
        ins.line = self.line;
        self.code.push(ins);
        Ok(())
    }

    fn ins(&self, run: Run) -> Ins {
        Ins::new(run, self.line)
    }

    /// d = f(a, b, c). Sources that are not given are slots all the same, so that no function can read
    /// what is not there.
    fn alu(&mut self, f: AluFn, d: u16, sources: &[u16], imm: i64) -> Result<(), PtxError> {
        let mut all = [d; 4];
        for (place, &source) in all.iter_mut().zip(sources.iter().filter(|s| **s != NONE)) {
            *place = source;
        }
        self.alu_sparse(f, d, all, imm)
    }

    /// The same for a function which asks whether a source is [`NONE`].
    fn alu_sparse(&mut self, f: AluFn, d: u16, sources: [u16; 4], imm: i64) -> Result<(), PtxError> {
        let [a, b, c, e] = sources;
        let ins = Ins {
            d,
            a,
            b,
            c,
            e,
            imm,
            ..self.ins(Run::Alu(f))
        };
        self.emit(ins)
    }

    fn place_local(&mut self, align: usize, size: usize) -> Result<u64, PtxError> {
        let at = self.frame_end.next_multiple_of(align.max(1));
        self.frame_end = at + size;
        if self.frame_end > MAX_FRAME {
            return self.error("too much local memory");
        }
        Ok(at as u64)
    }

    /// The function of a name, and its routine.
    fn routine(&self, name: &str) -> Option<(u32, &'m Function)> {
        let is_it = |f: &&Function| !f.is_entry && f.name == name;
        let index = self.reach.functions.iter().position(is_it)?;
        Some((index as u32, self.reach.functions[index]))
    }

    /// Lowers a kernel or function.
    fn function(&mut self, function: &'m Function) -> Result<(), PtxError> {
        let start = self.code.len();
        self.template.clear();
        self.literals.clear();
        self.fixed.clear();
        self.frame_end = 0;
        self.carry = None;
        self.line = function.line;
        let mut frame = Frame {
            function,
            base: 0,
            places: HashMap::new(),
            jumps: Vec::new(),
            tables: Vec::new(),
        };
        for _ in 0..function.registers {
            self.slot(0)?;
        }
        if function.is_entry {
            let params = function.params.iter();
            frame.places = params
                .map(|p| (p.name.as_str(), Place::Param(p.offset as u64)))
                .collect();
        } else {
            self.enter(&mut frame, function)?;
        }
        self.body(&mut frame)?;
        if function.is_entry {
            self.run(Run::Exit)?;
        } else {
            self.leave(&frame, function)?;
        }
        let code = &self.code[start..];
        if let Some(bad) = code.iter().find(|ins| !ins.is_sound(self.template.len())) {
            return Err(PtxError::new(bad.line, "operand missing"));
        }
        self.routines.push(Routine {
            start: start as u32,
            template: self.template.clone(),
            fixed: self.fixed.iter().map(|(what, slot)| (*slot, *what)).collect(),
            frame_bytes: self.frame_end.next_multiple_of(16),
        });
        Ok(())
    }

    /// Lowers a body; control leaves it at its end.
    fn body(&mut self, frame: &mut Frame<'m>) -> Result<(), PtxError> {
        let function = frame.function;
        for var in &function.vars {
            let place = match var.space {
                Space::Shared => {
                    Place::Shared(self.reach.shared[&(Some(function.name.as_str()), var.name.as_str())])
                }
                Space::Local | Space::Param => Place::Local(self.place_local(var.align, var.size)?),
                _ => return self.error(format!("{}: variables of that space belong outside", var.name)),
            };
            frame.places.insert(&var.name, place);
        }
        let mut starts = Vec::with_capacity(function.body.len() + 1);
        for stmt in &function.body {
            starts.push(self.code.len());
            self.line = stmt.line;
            self.statement(frame, stmt)?;
        }
        starts.push(self.code.len());
        for (ins, stmt) in std::mem::take(&mut frame.jumps) {
            self.code[ins].imm = starts[stmt] as i64;
        }
        for (table, stmts) in std::mem::take(&mut frame.tables) {
            self.jump_tables[table] = stmts.into_iter().map(|s| starts[s] as u32).collect();
        }
        Ok(())
    }

    fn statement(&mut self, frame: &mut Frame<'m>, stmt: &'m Stmt) -> Result<(), PtxError> {
        let first = self.code.len();
        self.guard = match stmt.guard {
            Some((register, negated)) => (frame.base + register as u16, negated),
            None => (NONE, false),
        };
        let op = Op::new(&stmt.op);
        let args = &stmt.args;
        let done = self.control(frame, stmt, &op, args)?
            || self.memory(frame, &op, args)?
            || self.arith(frame, &op, args)?;
        if !done {
            return self.unsupported(&op);
        }
        self.settle_guard(first)?;
        self.guard = (NONE, false);
        Ok(())
    }

    /// Where one statement became several instructions and one of them sets their guard, the others must
    /// still see what it was.
    fn settle_guard(&mut self, first: usize) -> Result<(), PtxError> {
        let guard = self.guard.0;
        let several = &self.code[first..];
        if guard == NONE || several.len() < 2 || several.iter().all(|i| i.d != guard && i.e != guard) {
            return Ok(());
        }
        let saved = self.slot(0)?;
        for ins in &mut self.code[first..] {
            ins.guard = saved;
        }
        let copy = Ins {
            d: saved,
            a: guard,
            ..Ins::new(Run::Alu(alu::mov), self.line)
        };
        self.code.insert(first, copy);
        Ok(())
    }

    /// Bits of a literal read as `ty`.
    fn bits(&self, literal: Literal, ty: Ty) -> u64 {
        match (literal, ty.is_float(), ty.bits) {
            (Literal::F64(v), true, 32) => u64::from((f64::from_bits(v) as f32).to_bits()),
            (Literal::F64(v), true, 16) => {
                super::convert::write_float(f64::from_bits(v), ty, super::convert::Round::Nearest)
            }
            (Literal::F32(v), true, 64) => f64::from(f32::from_bits(v)).to_bits(),
            (Literal::Int(v), true, 32) => u64::from((v as i64 as f32).to_bits()),
            (Literal::Int(v), true, 64) => (v as i64 as f64).to_bits(),
            (Literal::Int(v), _, _) => v,
            (Literal::F32(v), _, _) => u64::from(v),
            (Literal::F64(v), _, _) => v,
        }
    }

    fn place(&self, frame: &Frame<'m>, name: &str) -> Result<Place, PtxError> {
        if let Some(&place) = frame.places.get(name) {
            return Ok(place);
        }
        if let Some(&at) = self.reach.shared.get(&(None, name)) {
            return Ok(Place::Shared(at));
        }
        match self.symbols.get(name) {
            Some(&address) => Ok(Place::Global(address)),
            None => self.error(format!("unknown symbol {name}")),
        }
    }

    /// The slot which holds an operand, read as `ty`.
    fn source(&mut self, frame: &Frame<'m>, arg: &Arg, ty: Ty) -> Result<u16, PtxError> {
        match arg {
            Arg::Reg(register) => Ok(frame.base + *register as u16),
            Arg::NotReg(register) => {
                let d = self.slot(0)?;
                self.alu(alu::not_pred, d, &[frame.base + *register as u16], 0)?;
                Ok(d)
            }
            Arg::Literal(literal) => {
                let bits = self.bits(*literal, ty);
                self.literal(bits)
            }
            Arg::Special(Special::Fixed(what)) => self.fixed(*what),
            Arg::Special(Special::Clock(clock)) => {
                let d = self.slot(0)?;
                self.clock(*clock, d)?;
                Ok(d)
            }
            Arg::Symbol(name, offset) => match self.place(frame, name)? {
                Place::Local(at) => {
                    let d = self.slot(0)?;
                    let start = self.fixed(Fixed::Frame)?;
                    let distance = self.literal(at.wrapping_add(*offset as u64))?;
                    self.alu(alu::add::<u64>, d, &[start, distance], 0)?;
                    Ok(d)
                }
                Place::Shared(at) | Place::Param(at) | Place::Global(at) => {
                    self.literal(at.wrapping_add(*offset as u64))
                }
            },
            _ => self.error("operand not possible here"),
        }
    }

    fn clock(&mut self, clock: Clock, d: u16) -> Result<(), PtxError> {
        let ins = Ins {
            d,
            ..self.ins(Run::Clock(clock))
        };
        self.emit(ins)
    }

    /// The slot a result goes to.
    fn dest(&mut self, frame: &Frame<'m>, arg: &Arg) -> Result<u16, PtxError> {
        match arg {
            Arg::Reg(register) => Ok(frame.base + *register as u16),
            Arg::Sink => self.slot(0),
            _ => self.error("destination must be a register"),
        }
    }

    /// The slots of `d|p`, the second [`NONE`] if absent.
    fn dest_pair(&mut self, frame: &Frame<'m>, arg: &Arg) -> Result<(u16, u16), PtxError> {
        match arg {
            Arg::Pair(first, second) => Ok((self.dest(frame, first)?, self.dest(frame, second)?)),
            arg => Ok((self.dest(frame, arg)?, NONE)),
        }
    }

    fn arg<'s>(&self, args: &'s [Arg], index: usize) -> Result<&'s Arg, PtxError> {
        match args.get(index) {
            Some(arg) => Ok(arg),
            None => self.error("too few operands"),
        }
    }
}
