//! Branches, calls, barriers and what threads of a warp do together.

use super::{Frame, Lowering, Op};
use crate::ptx::PtxError;
use crate::ptx::alu;
use crate::ptx::ir::{Ins, NONE, Reduce, Redux, Run, Shuffle, WarpOp};
use crate::ptx::parse::{Arg, Stmt};
use crate::ptx::types::{Class, Ty};

const U32: Ty = Ty::new(Class::Unsigned, 32);
const PRED: Ty = Ty::new(Class::Pred, 1);

impl<'m> Lowering<'m> {
    /// Lowers control flow; false if `op` is something else.
    pub(super) fn control(
        &mut self,
        frame: &mut Frame<'m>,
        stmt: &'m Stmt,
        op: &Op<'_>,
        args: &[Arg],
    ) -> Result<bool, PtxError> {
        match op.name {
            "bra" => {
                let target = self.label(frame, self.arg(args, 0)?, stmt.scope)?;
                frame.jumps.push((self.code.len(), target));
                self.run(Run::Jump)?;
            }
            "brx" => {
                let index = self.source(frame, self.arg(args, 0)?, U32)?;
                let table = self.label(frame, self.arg(args, 1)?, stmt.scope)?;
                let function = frame.function;
                let Some(list) = function.body.get(table).filter(|s| s.op == ".branchtargets") else {
                    return self.error("brx.idx needs a .branchtargets list");
                };
                let targets: Result<Vec<usize>, PtxError> = list
                    .args
                    .iter()
                    .map(|t| self.label(frame, t, stmt.scope))
                    .collect();
                frame.tables.push((self.jump_tables.len(), targets?));
                let imm = self.jump_tables.len() as i64;
                self.jump_tables.push(Vec::new());
                let ins = Ins {
                    a: index,
                    imm,
                    ..self.ins(Run::JumpTable)
                };
                self.emit(ins)?;
            }
            ".branchtargets" => {}
            "ret" if !frame.function.is_entry => {
                frame.jumps.push((self.code.len(), frame.function.body.len()));
                self.run(Run::Jump)?;
            }
            "ret" | "exit" => self.run(Run::Exit)?,
            "call" => self.call(frame, args)?,
            "trap" | "brkpt" => self.run(Run::Trap)?,
            "bar" if op.quals.first() == Some(&"warp") => {
                let mask = self.source(frame, self.arg(args, 0)?, U32)?;
                self.warp(WarpOp::Sync, NONE, NONE, &[], Some(mask))?;
            }
            "bar" | "barrier" => self.barrier(frame, op, args)?,
            "membar" | "fence" => self.run(Run::Fence)?,
            "nanosleep" => {
                let a = self.source(frame, self.arg(args, 0)?, U32)?;
                let ins = Ins {
                    a,
                    ..self.ins(Run::Sleep)
                };
                self.emit(ins)?;
            }
            // Hints, and events for tools.
            "prefetch" | "prefetchu" | "discard" | "applypriority" | "pmevent" | "griddepcontrol"
            | "setmaxnreg" => {}
            "shfl" => {
                let mode = match op.quals.iter().find(|q| **q != "sync") {
                    Some(&"up") => Shuffle::Up,
                    Some(&"down") => Shuffle::Down,
                    Some(&"bfly") => Shuffle::Bfly,
                    Some(&"idx") => Shuffle::Idx,
                    _ => return Ok(false),
                };
                let (d, e) = self.dest_pair(frame, self.arg(args, 0)?)?;
                let sources = self.sources(frame, &args[1..], 3, U32)?;
                let mask = self.member_mask(frame, op, args.get(4))?;
                self.warp(WarpOp::Shuffle(mode), d, e, &sources, Some(mask))?;
            }
            "vote" => {
                let what = match op.quals.iter().find(|q| **q != "sync") {
                    Some(&"all") => WarpOp::VoteAll,
                    Some(&"any") => WarpOp::VoteAny,
                    Some(&"uni") => WarpOp::VoteUniform,
                    Some(&"ballot") => WarpOp::Ballot,
                    _ => return Ok(false),
                };
                let d = self.dest(frame, self.arg(args, 0)?)?;
                let a = self.source(frame, self.arg(args, 1)?, PRED)?;
                let mask = self.member_mask(frame, op, args.get(2))?;
                self.warp(what, d, NONE, &[a], Some(mask))?;
            }
            "match" => {
                let what = if op.has("any") {
                    WarpOp::MatchAny
                } else {
                    WarpOp::MatchAll
                };
                let (d, e) = self.dest_pair(frame, self.arg(args, 0)?)?;
                let ty = op.types.first().copied().unwrap_or(U32);
                let a = self.source(frame, self.arg(args, 1)?, ty)?;
                let narrow = self.slot(0)?;
                self.alu(
                    if ty.bits == 64 {
                        alu::mov
                    } else {
                        alu::trunc::<u32>
                    },
                    narrow,
                    &[a],
                    0,
                )?;
                let mask = self.member_mask(frame, op, args.get(2))?;
                self.warp(what, d, e, &[narrow], Some(mask))?;
            }
            "redux" => {
                let signed = op.types.first().is_some_and(|t| t.is_signed());
                let what = match (op.quals.iter().find(|q| **q != "sync"), signed) {
                    (Some(&"add"), _) => Redux::Add,
                    (Some(&"min"), false) => Redux::MinU,
                    (Some(&"max"), false) => Redux::MaxU,
                    (Some(&"min"), true) => Redux::MinS,
                    (Some(&"max"), true) => Redux::MaxS,
                    (Some(&"and"), _) => Redux::And,
                    (Some(&"or"), _) => Redux::Or,
                    (Some(&"xor"), _) => Redux::Xor,
                    _ => return Ok(false),
                };
                if op.types.first().is_none_or(|t| t.is_float()) {
                    return Ok(false);
                }
                let d = self.dest(frame, self.arg(args, 0)?)?;
                let a = self.source(frame, self.arg(args, 1)?, U32)?;
                let mask = self.member_mask(frame, op, args.get(2))?;
                self.warp(WarpOp::Redux(what), d, NONE, &[a], Some(mask))?;
            }
            "activemask" => {
                let d = self.dest(frame, self.arg(args, 0)?)?;
                self.warp(WarpOp::ActiveMask, d, NONE, &[], None)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn run(&mut self, run: Run) -> Result<(), PtxError> {
        let ins = self.ins(run);
        self.emit(ins)
    }

    fn warp(
        &mut self,
        what: WarpOp,
        d: u16,
        e: u16,
        sources: &[u16],
        mask: Option<u16>,
    ) -> Result<(), PtxError> {
        let at = |n: usize| sources.get(n).copied().unwrap_or(NONE);
        let imm = i64::from(mask.unwrap_or(NONE));
        let ins = Ins {
            d,
            e,
            a: at(0),
            b: at(1),
            c: at(2),
            imm,
            ..self.ins(Run::Warp(what))
        };
        self.emit(ins)
    }

    /// The mask operand of the `.sync` forms; the old forms mean the whole warp.
    fn member_mask(&mut self, frame: &Frame<'m>, op: &Op<'_>, arg: Option<&Arg>) -> Result<u16, PtxError> {
        match arg {
            Some(arg) => self.source(frame, arg, U32),
            None if op.has("sync") => self.error("too few operands"),
            None => self.literal(u64::from(u32::MAX)),
        }
    }

    fn sources(
        &mut self,
        frame: &Frame<'m>,
        args: &[Arg],
        count: usize,
        ty: Ty,
    ) -> Result<Vec<u16>, PtxError> {
        (0..count)
            .map(|n| self.source(frame, self.arg(args, n)?, ty))
            .collect()
    }

    /// The statement a label stands before, looked up from the inner scope outwards.
    fn label(&self, frame: &Frame<'m>, arg: &Arg, scope: u32) -> Result<usize, PtxError> {
        let Arg::Symbol(name, 0) = arg else {
            return self.error("expected a label");
        };
        let mut scope = scope;
        loop {
            if let Some(&at) = frame.function.labels.get(&(scope, name.clone())) {
                return Ok(at);
            }
            let outer = frame.function.scopes[scope as usize];
            if outer == scope {
                return self.error(format!("unknown label {name}"));
            }
            scope = outer;
        }
    }

    fn barrier(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<(), PtxError> {
        let what = op.quals.iter().find(|q| **q != "cta").copied().unwrap_or("");
        let reduce = what == "red";
        let (d, args) = match args {
            [d, rest @ ..] if reduce => (self.dest(frame, d)?, rest),
            args => (NONE, args),
        };
        let a = self.source(frame, self.arg(args, 0)?, U32)?;
        let with_count = if reduce { args.len() == 3 } else { args.len() == 2 };
        let b = if with_count {
            self.source(frame, &args[1], U32)?
        } else {
            NONE
        };
        let run = match what {
            "sync" => Run::Barrier,
            "arrive" if with_count => Run::BarrierArrive,
            "red" if op.has("popc") => Run::BarrierReduce(Reduce::Popc),
            "red" if op.has("and") => Run::BarrierReduce(Reduce::And),
            "red" if op.has("or") => Run::BarrierReduce(Reduce::Or),
            _ => return self.unsupported(op),
        };
        let mut ins = Ins {
            d,
            a,
            b,
            ..self.ins(run)
        };
        if reduce {
            let Some(predicate) = args.last() else {
                return self.error("too few operands");
            };
            ins.c = self.source(frame, predicate, PRED)?;
        }
        self.emit(ins)
    }
}
