//! Loads, stores, atomics and addresses.

use super::{Frame, Lowering, Op, Place};
use crate::ptx::PtxError;
use crate::ptx::alu;
use crate::ptx::atomics;
use crate::ptx::ir::{Ins, NONE, Run};
use crate::ptx::parse::Arg;
use crate::ptx::types::{Class, Fixed, Space, Ty};

const U64: Ty = Ty::new(Class::Unsigned, 64);

impl<'m> Lowering<'m> {
    /// Lowers an instruction that touches memory or its addresses; false if `op` is something else.
    pub(super) fn memory(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        match op.name {
            "ld" | "ldu" => self.load(frame, op, args)?,
            "st" => self.store(frame, op, args)?,
            "atom" | "red" => return self.atomic(frame, op, args),
            "cvta" => {
                let Some(space) = op.space() else { return Ok(false) };
                let d = self.dest(frame, self.arg(args, 0)?)?;
                let a = self.source(frame, self.arg(args, 1)?, U64)?;
                match (space, op.has("to")) {
                    (Space::Global | Space::Const, _) => self.alu(alu::mov, d, &[a], 0)?,
                    (space, to) => {
                        let run = if to {
                            Run::FromGeneric(space)
                        } else {
                            Run::ToGeneric(space)
                        };
                        let ins = Ins {
                            d,
                            a,
                            ..self.ins(run)
                        };
                        self.emit(ins)?;
                    }
                }
            }
            "isspacep" => {
                let Some(space) = op.space() else { return Ok(false) };
                let d = self.dest(frame, self.arg(args, 0)?)?;
                let a = self.source(frame, self.arg(args, 1)?, U64)?;
                let ins = Ins {
                    d,
                    a,
                    ..self.ins(Run::IsSpace(space))
                };
                self.emit(ins)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Slot and offset of an address operand, and the space it is really in.
    fn address(&mut self, frame: &Frame<'m>, arg: &Arg, space: Space) -> Result<(u16, i64, Space), PtxError> {
        let Arg::Address(base, offset) = arg else {
            return self.error("expected an address");
        };
        let place = match &**base {
            Arg::Symbol(name, _) => Some(self.place(frame, name)?),
            _ => None,
        };
        match (space, place) {
            // Arguments of calls and parameters of functions are variables of the thread.
            (Space::Param | Space::Local, Some(Place::Local(at))) => {
                let frame_at = self.fixed(Fixed::Frame)?;
                Ok((frame_at, (at as i64).wrapping_add(*offset), Space::Local))
            }
            (Space::Param, None) if !frame.function.is_entry => {
                Ok((self.source(frame, base, U64)?, *offset, Space::Local))
            }
            (space, _) => Ok((self.source(frame, base, U64)?, *offset, space)),
        }
    }

    /// Number of lanes, element type and its size as a power of two.
    fn shape(&self, op: &Op<'_>) -> Result<(u8, Ty, u8), PtxError> {
        let lanes = if op.has("v2") {
            2
        } else if op.has("v4") {
            4
        } else {
            1
        };
        match op.types.last() {
            Some(ty) if ty.bits <= 64 && ty.class != Class::Pred && !op.has("v8") => {
                Ok((lanes, *ty, ty.size().trailing_zeros() as u8))
            }
            _ => self.unsupported(op),
        }
    }

    fn lane_args<'a>(&self, arg: &'a Arg, lanes: u8) -> Result<Vec<&'a Arg>, PtxError> {
        match arg {
            Arg::Vector(args) if args.len() == lanes as usize => Ok(args.iter().collect()),
            Arg::Vector(_) => self.error("vector of the wrong length"),
            arg if lanes == 1 => Ok(vec![arg]),
            _ => self.error("expected a vector"),
        }
    }

    fn load(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<(), PtxError> {
        let (lanes, ty, log_size) = self.shape(op)?;
        let mut slots = [NONE; 4];
        for (slot, arg) in slots.iter_mut().zip(self.lane_args(self.arg(args, 0)?, lanes)?) {
            *slot = self.dest(frame, arg)?;
        }
        let (a, imm, space) =
            self.address(frame, self.arg(args, 1)?, op.space().unwrap_or(Space::Generic))?;
        let [d, b, c, e] = slots;
        let run = Run::Load {
            space,
            log_size,
            signed: ty.is_signed(),
            lanes,
        };
        let ins = Ins {
            d,
            a,
            b,
            c,
            e,
            imm,
            ..self.ins(run)
        };
        self.emit(ins)
    }

    fn store(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<(), PtxError> {
        let (lanes, ty, log_size) = self.shape(op)?;
        let (a, imm, space) =
            self.address(frame, self.arg(args, 0)?, op.space().unwrap_or(Space::Generic))?;
        let mut slots = [NONE; 4];
        for (slot, arg) in slots.iter_mut().zip(self.lane_args(self.arg(args, 1)?, lanes)?) {
            *slot = self.source(frame, arg, ty)?;
        }
        let [d, b, c, e] = slots;
        let ins = Ins {
            d,
            a,
            b,
            c,
            e,
            imm,
            ..self.ins(Run::Store {
                space,
                log_size,
                lanes,
            })
        };
        self.emit(ins)
    }

    fn atomic(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        let Some(&ty) = op.types.last() else {
            return Ok(false);
        };
        const OPS: [&str; 12] = [
            "add", "and", "or", "xor", "exch", "cas", "min", "max", "inc", "dec", "async", "v2",
        ];
        let Some(name) = op.quals.iter().find(|q| OPS.contains(q)) else {
            return Ok(false);
        };
        let Some(f) = atomics::select(name, ty) else {
            return Ok(false);
        };
        let (d, args) = if op.name == "atom" {
            (self.dest(frame, self.arg(args, 0)?)?, &args[1..])
        } else {
            (NONE, args)
        };
        let (a, imm, space) =
            self.address(frame, self.arg(args, 0)?, op.space().unwrap_or(Space::Generic))?;
        let b = self.source(frame, self.arg(args, 1)?, ty)?;
        let c = if *name == "cas" {
            self.source(frame, self.arg(args, 2)?, ty)?
        } else {
            b
        };
        let run = Run::Atomic {
            space,
            f,
            log_size: ty.size().trailing_zeros() as u8,
        };
        let ins = Ins {
            d,
            a,
            b,
            c,
            imm,
            ..self.ins(run)
        };
        self.emit(ins)?;
        Ok(true)
    }
}
