//! Calls. What is passed lies in the frame of the function that is called, parameters first, then results; the
//! caller copies it there, and from there.

use super::{Frame, Lowering, Place};
use crate::ptx::PtxError;
use crate::ptx::ir::{self, CallSite, Ins, Passed, Run, Target};
use crate::ptx::parse::{Arg, Function, Literal, Param};
use crate::ptx::types::{Class, Fixed, Space, Ty};

const U64: Ty = Ty::new(Class::Unsigned, 64);

/// Where the results of a function begin in its frame.
fn results_at(params: &[Param]) -> usize {
    end(params).next_multiple_of(16)
}

fn end(params: &[Param]) -> usize {
    params.iter().map(|p| p.offset + p.size).max().unwrap_or(0)
}

impl<'m> Lowering<'m> {
    /// Lays out the start of a function's frame and has what is passed in registers read from there.
    pub(super) fn enter(&mut self, frame: &mut Frame<'m>, function: &'m Function) -> Result<(), PtxError> {
        let results = results_at(&function.params);
        self.frame_end = results + end(&function.returns);
        for (list, base) in [(&function.params, 0), (&function.returns, results)] {
            for param in list {
                frame
                    .places
                    .insert(&param.name, Place::Local((base + param.offset) as u64));
            }
        }
        self.pass_registers(frame, &function.params, 0, true)
    }

    /// Leaves what is returned in registers in the frame, and goes back.
    pub(super) fn leave(&mut self, frame: &Frame<'m>, function: &'m Function) -> Result<(), PtxError> {
        self.pass_registers(frame, &function.returns, results_at(&function.params), false)?;
        self.run(Run::Return)
    }

    fn pass_registers(
        &mut self,
        frame: &Frame<'m>,
        params: &[Param],
        base: usize,
        load: bool,
    ) -> Result<(), PtxError> {
        for param in params {
            let Some(register) = param.register else { continue };
            let (space, log_size) = (Space::Local, param.size.trailing_zeros() as u8);
            let run = if load {
                Run::Load {
                    space,
                    log_size,
                    signed: false,
                    lanes: 1,
                }
            } else {
                Run::Store {
                    space,
                    log_size,
                    lanes: 1,
                }
            };
            let ins = Ins {
                d: frame.base + register as u16,
                a: self.fixed(Fixed::Frame)?,
                imm: (base + param.offset) as i64,
                ..self.ins(run)
            };
            self.emit(ins)?;
        }
        Ok(())
    }

    /// `call (results), function, (arguments), prototype`
    pub(super) fn call(&mut self, frame: &Frame<'m>, args: &[Arg]) -> Result<(), PtxError> {
        let (results, rest) = match args.first() {
            Some(Arg::List(list)) => (list.as_slice(), &args[1..]),
            _ => (&[][..], args),
        };
        let inputs = match rest.get(1) {
            Some(Arg::List(list)) => list.as_slice(),
            _ => &[],
        };
        let (target, params, returns) = match rest.first() {
            Some(Arg::Symbol(name, 0)) => match self.routine(name) {
                Some((index, function)) => (Target::Routine(index), &function.params, &function.returns),
                None if name == "__assertfail" => return self.outside(frame, Run::Assert, inputs, results),
                None if name == "vprintf" && inputs.len() == 2 => {
                    return self.outside(frame, Run::Print, inputs, results);
                }
                None => return self.error(format!("call of unknown function {name}")),
            },
            Some(pointer @ Arg::Reg(_)) => {
                let Some(Arg::Symbol(label, 0)) = rest.last() else {
                    return self.error("a call through a pointer needs a prototype");
                };
                let Some(prototype) = frame.function.prototypes.get(label) else {
                    return self.error(format!("unknown prototype {label}"));
                };
                let slot = self.source(frame, pointer, U64)?;
                (Target::Pointer(slot), &prototype.params, &prototype.returns)
            }
            _ => return self.error("expected a function"),
        };
        if returns.len() != results.len() || params.len() != inputs.len() {
            return self.error("call with a wrong number of operands");
        }
        let inputs = self.passed(frame, params, inputs, 0)?;
        let outputs = self.passed(frame, returns, results, results_at(params))?;
        let imm = self.calls.len() as i64;
        self.calls.push(CallSite {
            target,
            inputs,
            outputs,
        });
        let ins = Ins {
            imm,
            ..self.ins(Run::Call)
        };
        self.emit(ins)
    }

    /// A call of a function that is none of the module's: `run` carries it out. Each argument and each result has 8 bytes at
    /// most.
    fn outside(
        &mut self,
        frame: &Frame<'m>,
        run: Run,
        inputs: &[Arg],
        results: &[Arg],
    ) -> Result<(), PtxError> {
        let mut passed = |list: &[Arg]| -> Result<Vec<Passed>, PtxError> {
            let mut all = Vec::with_capacity(list.len());
            for actual in list {
                let here = self.actual(frame, actual)?;
                all.push(Passed {
                    here,
                    there: 0,
                    size: 8,
                });
            }
            Ok(all)
        };
        let (inputs, outputs) = (passed(inputs)?, passed(results)?);
        let imm = self.calls.len() as i64;
        // Nothing of the module's is called.
        let target = Target::Routine(0);
        self.calls.push(CallSite {
            target,
            inputs,
            outputs,
        });
        let ins = Ins { imm, ..self.ins(run) };
        self.emit(ins)
    }

    /// Where what is passed is with the caller.
    fn actual(&mut self, frame: &Frame<'m>, actual: &Arg) -> Result<ir::Place, PtxError> {
        Ok(match actual {
            Arg::Symbol(name, 0) => match self.place(frame, name)? {
                Place::Local(at) => ir::Place::Frame(at as usize),
                _ => return self.error(format!("{name} cannot be passed")),
            },
            Arg::Literal(Literal::Int(bits)) => ir::Place::Slot(self.literal(*bits)?),
            actual => ir::Place::Slot(self.dest(frame, actual)?),
        })
    }

    fn passed(
        &mut self,
        frame: &Frame<'m>,
        params: &[Param],
        actuals: &[Arg],
        base: usize,
    ) -> Result<Vec<Passed>, PtxError> {
        let mut passed = Vec::with_capacity(params.len());
        for (param, actual) in params.iter().zip(actuals) {
            let here = self.actual(frame, actual)?;
            if matches!(here, ir::Place::Slot(_)) && param.size > 8 {
                return self.error("a register cannot hold that argument");
            }
            passed.push(Passed {
                here,
                there: base + param.offset,
                size: param.size,
            });
        }
        Ok(passed)
    }

    /// How much local memory a thread needs, and whether functions may call each other in a circle.
    pub(super) fn depth(&self) -> (usize, bool) {
        let mut depths = vec![Depth::Unknown; self.routines.len()];
        let mut recursive = false;
        let bytes = self.depth_of(0, &mut depths, &mut recursive);
        (bytes, recursive)
    }

    fn depth_of(&self, routine: usize, depths: &mut [Depth], recursive: &mut bool) -> usize {
        match depths[routine] {
            Depth::Known(bytes) => return bytes,
            Depth::Open => {
                *recursive = true;
                return 0;
            }
            Depth::Unknown => depths[routine] = Depth::Open,
        }
        let end = self
            .routines
            .get(routine + 1)
            .map_or(self.code.len(), |r| r.start as usize);
        let mut below = 0;
        for ins in &self.code[self.routines[routine].start as usize..end] {
            let Run::Call = ins.run else { continue };
            match self.calls[ins.imm as usize].target {
                Target::Routine(callee) => {
                    below = below.max(self.depth_of(callee as usize, depths, recursive))
                }
                Target::Pointer(_) => {
                    for &callee in self.addresses.values() {
                        below = below.max(self.depth_of(callee as usize, depths, recursive));
                    }
                }
            }
        }
        let bytes = self.routines[routine].frame_bytes + below;
        depths[routine] = Depth::Known(bytes);
        bytes
    }
}

#[derive(Clone, Copy)]
enum Depth {
    Unknown,
    /// Being computed.
    Open,
    Known(usize),
}
