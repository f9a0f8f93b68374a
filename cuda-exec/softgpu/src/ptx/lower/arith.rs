//! Everything that computes on registers alone.

use super::{Frame, Lowering, Op};
use crate::ptx::PtxError;
use crate::ptx::alu::{self, AluFn, Cmp};
use crate::ptx::convert::{self, Options, Round};
use crate::ptx::ir::NONE;
use crate::ptx::parse::Arg;
use crate::ptx::rounding;
use crate::ptx::types::{Class, Special, Ty};

const PRED: Ty = Ty::new(Class::Pred, 1);
const U32: Ty = Ty::new(Class::Unsigned, 32);

/// The instance of an integer function for a type; bits count as unsigned.
macro_rules! int_fn {
    ($ty:expr, $f:ident) => {
        match ($ty.class, $ty.bits) {
            (Class::Signed, 16) => Some(alu::$f::<i16> as AluFn),
            (Class::Signed, 32) => Some(alu::$f::<i32> as AluFn),
            (Class::Signed, 64) => Some(alu::$f::<i64> as AluFn),
            (Class::Unsigned | Class::Bits, 16) => Some(alu::$f::<u16> as AluFn),
            (Class::Unsigned | Class::Bits, 32) => Some(alu::$f::<u32> as AluFn),
            (Class::Unsigned | Class::Bits, 64) => Some(alu::$f::<u64> as AluFn),
            _ => None,
        }
    };
}

macro_rules! float_fn {
    ($ty:expr, $f:ident) => {
        match ($ty.class, $ty.bits) {
            (Class::Float, 32) => Some(alu::$f::<f32> as AluFn),
            (Class::Float, 64) => Some(alu::$f::<f64> as AluFn),
            (Class::Float, 16) => Some(alu::$f::<alu::F16> as AluFn),
            (Class::Brain, 16) => Some(alu::$f::<alu::BF16> as AluFn),
            _ => None,
        }
    };
}

macro_rules! any_fn {
    ($ty:expr, $int:ident, $float:ident) => {
        if $ty.is_float() {
            float_fn!($ty, $float)
        } else {
            int_fn!($ty, $int)
        }
    };
}

macro_rules! bit_fn {
    ($ty:expr, $f:ident) => {
        match $ty.bits {
            1 => Some(alu::$f::<u8> as AluFn),
            16 => Some(alu::$f::<u16> as AluFn),
            32 => Some(alu::$f::<u32> as AluFn),
            64 => Some(alu::$f::<u64> as AluFn),
            _ => None,
        }
    };
}

/// Qualifiers of arithmetic that are honoured, or change nothing here (flushing denormals, and how precise
/// an approximation has to be).
const QUALIFIERS: &[&str] = &[
    "rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "lo", "hi", "wide", "cc", "NaN", "l", "r",
    "wrap", "clamp", "shiftamt", "f16x2", "bf16x2",
];

/// The instance of an operation that rounds in a direction.
fn directed_fn(name: &str, ty: Ty) -> Option<AluFn> {
    macro_rules! of {
        ($t:ty) => {
            match name {
                "add" => rounding::add::<$t>,
                "sub" => rounding::sub::<$t>,
                "mul" => rounding::mul::<$t>,
                "fma" | "mad" => rounding::fma::<$t>,
                "div" => rounding::div::<$t>,
                "rcp" => rounding::rcp::<$t>,
                "sqrt" => rounding::sqrt::<$t>,
                _ => return None,
            }
        };
    }
    Some(match (ty.class, ty.bits) {
        (Class::Float, 32) => of!(f32),
        (Class::Float, 64) => of!(f64),
        _ => return None,
    })
}

/// The type of each half, if the instruction works on two in one register.
fn packed_type(op: &Op<'_>) -> Option<Ty> {
    let names = [
        ("f16x2", Ty::new(Class::Float, 16)),
        ("bf16x2", Ty::new(Class::Brain, 16)),
    ];
    names.into_iter().find(|(name, _)| op.has(name)).map(|(_, ty)| ty)
}

/// A slot as an operand of the body being lowered.
fn as_arg(frame: &Frame<'_>, slot: u16) -> Arg {
    Arg::Reg(u32::from(slot - frame.base))
}

/// The options of a `cvt`; none if it has some that are not supported.
fn cvt_options(op: &Op<'_>) -> Option<Options> {
    let mut options = Options {
        round: Round::Nearest,
        integral: false,
        saturate: op.has("sat"),
    };
    for qual in &op.quals {
        (options.round, options.integral) = match *qual {
            "rn" => (Round::Nearest, false),
            "rz" => (Round::Zero, false),
            "rm" => (Round::Down, false),
            "rp" => (Round::Up, false),
            "rni" => (Round::Nearest, true),
            "rzi" => (Round::Zero, true),
            "rmi" => (Round::Down, true),
            "rpi" => (Round::Up, true),
            "ftz" | "sat" => continue,
            q if Ty::named(q).is_some() => continue,
            _ => return None,
        };
    }
    Some(options)
}

impl<'m> Lowering<'m> {
    /// Lowers arithmetic; false if `op` is something else, or has a form that is not supported.
    pub(super) fn arith(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        match op.name {
            "mov" => return self.mov(frame, op, args),
            "cvt" => return self.cvt(frame, op, args),
            "setp" => return self.setp(frame, op, args),
            "set" => return self.set(frame, op, args),
            "lop3" => {
                let Some(imm) = self.constant(args.get(4)) else {
                    return Ok(false);
                };
                if op.types.first().is_none_or(|t| t.bits != 32) {
                    return Ok(false);
                }
                return self.simple(frame, Some(alu::lop3), &args[..4], &[U32; 3], imm);
            }
            "testp" => {
                let Some(&ty) = op.types.first() else {
                    return Ok(false);
                };
                let imm = match op.quals.first() {
                    Some(&"finite") => 0,
                    Some(&"infinite") => 1,
                    Some(&"number") => 2,
                    Some(&"notanumber") => 3,
                    _ => return Ok(false),
                };
                return self.simple(frame, float_fn!(ty, testp), args, &[ty], imm);
            }
            _ => {}
        }
        if let Some(part) = packed_type(op) {
            return self.packed(frame, op, args, part);
        }
        match op.types.last() {
            Some(&ty) => self.scalar(frame, op, args, ty),
            None => Ok(false),
        }
    }

    /// Arithmetic on one value of type `ty`.
    fn scalar(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg], ty: Ty) -> Result<bool, PtxError> {
        if !op
            .quals
            .iter()
            .all(|q| QUALIFIERS.contains(q) || Ty::named(q).is_some())
        {
            return Ok(false);
        }
        let direction = op.quals.iter().find_map(|q| match *q {
            "rz" => Some(Round::Zero),
            "rm" => Some(Round::Down),
            "rp" => Some(Round::Up),
            _ => None,
        });
        let saturated = op.has("sat");
        if let Some(round) = direction.filter(|_| ty.is_float()) {
            let f = directed_fn(op.name, ty);
            let count = match op.name {
                "fma" | "mad" => 3,
                "rcp" | "sqrt" => 1,
                _ => 2,
            };
            let done = self.simple(frame, f, args, &[ty; 3][..count], round as i64)?;
            return Ok(done && (!saturated || self.saturate(frame, args, ty)?));
        }
        let (f, types): (Option<AluFn>, &[Ty]) = match op.name {
            "add" if saturated && !ty.is_float() => (Some(alu::add_sat), &[ty; 2]),
            "sub" if saturated && !ty.is_float() => (Some(alu::sub_sat), &[ty; 2]),
            "add" | "addc" | "sub" | "subc" if op.name.ends_with('c') || op.has("cc") => {
                return self.with_carry(frame, op, args, ty);
            }
            "mad" | "madc" if op.has("cc") || op.name == "madc" => {
                return self.mad_carry(frame, op, args, ty);
            }
            "add" => (any_fn!(ty, add, fadd), &[ty; 2]),
            "sub" => (any_fn!(ty, sub, fsub), &[ty; 2]),
            "mul" if ty.is_float() => (float_fn!(ty, fmul), &[ty; 2]),
            "mul" if op.has("hi") => (int_fn!(ty, mul_hi), &[ty; 2]),
            "mul" if op.has("wide") && ty.bits <= 32 => (int_fn!(ty, mul_wide), &[ty; 2]),
            "mul" if op.has("lo") => (int_fn!(ty, mul), &[ty; 2]),
            "mad" | "fma" if ty.is_float() => (float_fn!(ty, fma), &[ty; 3]),
            "mad" if op.has("hi") => (int_fn!(ty, mad_hi), &[ty; 3]),
            "mad" if op.has("wide") && ty.bits <= 32 => {
                let wide = Ty::new(ty.class, ty.bits * 2);
                return self.simple(frame, int_fn!(ty, mad_wide), args, &[ty, ty, wide], 0);
            }
            "mad" if op.has("lo") => (int_fn!(ty, mad), &[ty; 3]),
            "mul24" if op.has("lo") => (int_fn!(ty, mul24), &[ty; 2]),
            "mad24" if op.has("lo") => (int_fn!(ty, mad24), &[ty; 3]),
            "sad" => (int_fn!(ty, sad), &[ty; 3]),
            "div" => (any_fn!(ty, div, fdiv), &[ty; 2]),
            "rem" => (int_fn!(ty, rem), &[ty; 2]),
            "neg" => (any_fn!(ty, neg, fneg), &[ty]),
            "abs" => (any_fn!(ty, abs, fabs), &[ty]),
            "min" if op.has("NaN") => (float_fn!(ty, fmin_nan), &[ty; 2]),
            "max" if op.has("NaN") => (float_fn!(ty, fmax_nan), &[ty; 2]),
            "min" => (any_fn!(ty, min, fmin), &[ty; 2]),
            "max" => (any_fn!(ty, max, fmax), &[ty; 2]),
            "sqrt" => (float_fn!(ty, fsqrt), &[ty]),
            "rcp" => (float_fn!(ty, frcp), &[ty]),
            "rsqrt" => (float_fn!(ty, frsqrt), &[ty]),
            "sin" => (float_fn!(ty, fsin), &[ty]),
            "cos" => (float_fn!(ty, fcos), &[ty]),
            "ex2" => (float_fn!(ty, fex2), &[ty]),
            "lg2" => (float_fn!(ty, flg2), &[ty]),
            "tanh" => (float_fn!(ty, ftanh), &[ty]),
            "copysign" => (float_fn!(ty, fcopysign), &[ty; 2]),
            "and" => (bit_fn!(ty, and), &[ty; 2]),
            "or" => (bit_fn!(ty, or), &[ty; 2]),
            "xor" => (bit_fn!(ty, xor), &[ty; 2]),
            "not" if ty.class == Class::Pred => (Some(alu::not_pred), &[ty]),
            "not" => (bit_fn!(ty, not), &[ty]),
            "cnot" => (bit_fn!(ty, cnot), &[ty]),
            "shl" => (int_fn!(ty, shl), &[ty, U32]),
            "shr" => (int_fn!(ty, shr), &[ty, U32]),
            "shf" => {
                let imm = i64::from(op.has("r")) | i64::from(op.has("clamp")) << 1;
                return self.simple(frame, Some(alu::shf), args, &[U32; 3], imm);
            }
            "prmt" if op.quals.len() == 1 => (Some(alu::prmt), &[U32; 3]),
            "popc" => (bit_fn!(ty, popc), &[ty]),
            "clz" => (int_fn!(ty, clz), &[ty]),
            "brev" => (int_fn!(ty, brev), &[ty]),
            "bfind" => {
                let imm = i64::from(op.has("shiftamt"));
                return self.simple(frame, int_fn!(ty, bfind), args, &[ty], imm);
            }
            "dp4a" => {
                let imm = i64::from(op.types[0].is_signed()) | (i64::from(ty.is_signed()) << 1);
                return self.simple(frame, Some(alu::dp4a), args, &[U32; 3], imm);
            }
            "bfe" => (int_fn!(ty, bfe), &[ty, U32, U32]),
            "bfi" => (int_fn!(ty, bfi), &[ty, ty, U32, U32]),
            "selp" => (Some(alu::selp), &[ty, ty, PRED]),
            "slct" => {
                // slct.dtype.ctype: the last type is that of the operand compared with zero.
                let f = if ty.is_float() {
                    alu::slct_float
                } else {
                    alu::slct_int
                };
                return self.simple(frame, Some(f), args, &[op.types[0], op.types[0], ty], 0);
            }
            _ => return Ok(false),
        };
        if f.is_none() {
            return Ok(false);
        }
        self.simple(frame, f, args, types, 0)?;
        Ok(!(saturated && ty.is_float()) || self.saturate(frame, args, ty)?)
    }

    /// Clamps the result to 0..=1.
    fn saturate(&mut self, frame: &Frame<'m>, args: &[Arg], ty: Ty) -> Result<bool, PtxError> {
        let d = self.dest(frame, self.arg(args, 0)?)?;
        let Some(clamp) = float_fn!(ty, fsat) else {
            return Ok(false);
        };
        self.alu(clamp, d, &[d], 0)?;
        Ok(true)
    }

    /// Arithmetic on two halves at once: taken apart, computed one by one, put together.
    fn packed(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg], part: Ty) -> Result<bool, PtxError> {
        const OPS: [&str; 9] = ["add", "sub", "mul", "fma", "neg", "abs", "min", "max", "ex2"];
        if !OPS.contains(&op.name) {
            return Ok(false);
        }
        let d = self.dest(frame, self.arg(args, 0)?)?;
        let bits = Ty::new(Class::Bits, 32);
        let wholes: Result<Vec<u16>, PtxError> = args[1..]
            .iter()
            .map(|arg| self.source(frame, arg, bits))
            .collect();
        let wholes = wholes?;
        let mut halves = [NONE; 2];
        for (n, half) in halves.iter_mut().enumerate() {
            let mut parts = Vec::new();
            for &whole in &wholes {
                let slot = self.slot(0)?;
                self.alu(alu::extract, slot, &[whole], (n as i64 * 16) | (16 << 8))?;
                parts.push(as_arg(frame, slot));
            }
            *half = self.slot(0)?;
            parts.insert(0, as_arg(frame, *half));
            if !self.scalar(frame, op, &parts, part)? {
                return Ok(false);
            }
        }
        self.alu_sparse(alu::pack, d, [halves[0], halves[1], NONE, NONE], 16)?;
        Ok(true)
    }

    /// d = f(sources of the given types)
    fn simple(
        &mut self,
        frame: &Frame<'m>,
        f: Option<AluFn>,
        args: &[Arg],
        types: &[Ty],
        imm: i64,
    ) -> Result<bool, PtxError> {
        let Some(f) = f else { return Ok(false) };
        if args.len() != types.len() + 1 {
            return self.error(format!(
                "{} operands where {} belong",
                args.len(),
                types.len() + 1
            ));
        }
        let d = self.dest(frame, &args[0])?;
        let mut sources = [NONE; 4];
        for (slot, (arg, ty)) in sources.iter_mut().zip(args[1..].iter().zip(types)) {
            *slot = self.source(frame, arg, *ty)?;
        }
        self.alu(f, d, &sources, imm)?;
        Ok(true)
    }

    fn constant(&self, arg: Option<&Arg>) -> Option<i64> {
        match arg {
            Some(Arg::Literal(literal)) => Some(self.bits(*literal, U32) as i64),
            _ => None,
        }
    }

    fn mov(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        let Some(&ty) = op.types.first() else {
            return Ok(false);
        };
        if ty.bits > 64 {
            return Ok(false);
        }
        match (self.arg(args, 0)?, self.arg(args, 1)?) {
            (Arg::Vector(parts), whole) => {
                if !matches!(parts.len(), 2 | 4) {
                    return Ok(false);
                }
                let a = self.source(frame, whole, ty)?;
                let width = i64::from(ty.bits) / parts.len() as i64;
                // The whole may be one of the parts, so it is read from a copy.
                let copy = self.slot(0)?;
                self.alu(alu::mov, copy, &[a], 0)?;
                for (n, part) in parts.iter().enumerate() {
                    if *part != Arg::Sink {
                        let d = self.dest(frame, part)?;
                        self.alu(alu::extract, d, &[copy], (n as i64 * width) | (width << 8))?;
                    }
                }
            }
            (d, Arg::Vector(parts)) => {
                if !matches!(parts.len(), 2 | 4) {
                    return Ok(false);
                }
                let d = self.dest(frame, d)?;
                let width = ty.bits / parts.len() as u8;
                let mut sources = [NONE; 4];
                for (slot, part) in sources.iter_mut().zip(parts) {
                    *slot = self.source(frame, part, Ty::new(Class::Bits, width))?;
                }
                self.alu_sparse(alu::pack, d, sources, i64::from(width))?;
            }
            (d, Arg::Special(Special::Clock(clock))) => {
                let d = self.dest(frame, d)?;
                self.clock(*clock, d)?;
            }
            (d, a) => {
                let d = self.dest(frame, d)?;
                let a = self.source(frame, a, ty)?;
                self.alu(alu::mov, d, &[a], 0)?;
            }
        }
        Ok(true)
    }

    fn cvt(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        let [dst, src] = op.types[..] else {
            return Ok(false);
        };
        let Some(options) = cvt_options(op) else {
            return Ok(false);
        };
        match (packed_type(op), args) {
            // The first operand goes into the upper half.
            (Some(part), [d, high, low]) if src.is_float() => {
                let (f, imm) = convert::select(part, src, options);
                let d = self.dest(frame, d)?;
                let mut halves = [NONE; 2];
                for (half, arg) in halves.iter_mut().zip([low, high]) {
                    let a = self.source(frame, arg, src)?;
                    *half = self.slot(0)?;
                    self.alu(f, *half, &[a], imm)?;
                }
                self.alu_sparse(alu::pack, d, [halves[0], halves[1], NONE, NONE], 16)?;
                Ok(true)
            }
            (None, [_, _]) => {
                let (f, imm) = convert::select(dst, src, options);
                self.simple(frame, Some(f), args, &[src], imm)
            }
            _ => Ok(false),
        }
    }

    fn compare(&self, op: &Op<'_>, ty: Ty) -> Option<AluFn> {
        let cmp = match *op.quals.first()? {
            "eq" => Cmp::Eq,
            "ne" => Cmp::Ne,
            "lt" | "lo" => Cmp::Lt,
            "le" | "ls" => Cmp::Le,
            "gt" | "hi" => Cmp::Gt,
            "ge" | "hs" => Cmp::Ge,
            "equ" => Cmp::EqU,
            "neu" => Cmp::NeU,
            "ltu" => Cmp::LtU,
            "leu" => Cmp::LeU,
            "gtu" => Cmp::GtU,
            "geu" => Cmp::GeU,
            "num" => Cmp::Num,
            "nan" => Cmp::Nan,
            _ => return None,
        };
        match (ty.class, ty.bits) {
            (Class::Float, 32) => alu::setp_float::<f32>(cmp),
            (Class::Float, 64) => alu::setp_float::<f64>(cmp),
            (Class::Signed, 16) => alu::setp_int::<i16>(cmp),
            (Class::Signed, 32) => alu::setp_int::<i32>(cmp),
            (Class::Signed, 64) => alu::setp_int::<i64>(cmp),
            (Class::Unsigned | Class::Bits, 16) => alu::setp_int::<u16>(cmp),
            (Class::Unsigned | Class::Bits, 32) => alu::setp_int::<u32>(cmp),
            (Class::Unsigned | Class::Bits, 64) => alu::setp_int::<u64>(cmp),
            _ => None,
        }
    }

    fn combine(op: &Op<'_>) -> Option<AluFn> {
        if op.has("and") {
            Some(alu::and::<u8>)
        } else if op.has("or") {
            Some(alu::or::<u8>)
        } else if op.has("xor") {
            Some(alu::xor::<u8>)
        } else {
            None
        }
    }

    fn setp(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        let Some(&ty) = op.types.last() else {
            return Ok(false);
        };
        let Some(f) = self.compare(op, ty) else {
            return Ok(false);
        };
        let (d, e) = self.dest_pair(frame, self.arg(args, 0)?)?;
        let a = self.source(frame, self.arg(args, 1)?, ty)?;
        let b = self.source(frame, self.arg(args, 2)?, ty)?;
        let combine = Self::combine(op);
        if combine.is_none() && e == NONE {
            self.alu(f, d, &[a, b], 0)?;
            return Ok(true);
        }
        let raw = self.slot(0)?;
        self.alu(f, raw, &[a, b], 0)?;
        let third = match combine {
            Some(combine) => Some((combine, self.source(frame, self.arg(args, 3)?, PRED)?)),
            None => None,
        };
        // The second destination takes the opposite of the comparison. It is computed before the first
        // destination is written, which may be the third operand.
        let opposite = self.slot(0)?;
        self.alu(alu::not_pred, opposite, &[raw], 0)?;
        if let Some((combine, c)) = third {
            self.alu(combine, opposite, &[opposite, c], 0)?;
            self.alu(combine, raw, &[raw, c], 0)?;
        }
        self.alu(alu::mov, d, &[raw], 0)?;
        if e != NONE {
            self.alu(alu::mov, e, &[opposite], 0)?;
        }
        Ok(true)
    }

    fn set(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg]) -> Result<bool, PtxError> {
        let [dst, src] = op.types[..] else {
            return Ok(false);
        };
        let Some(f) = self.compare(op, src) else {
            return Ok(false);
        };
        let d = self.dest(frame, self.arg(args, 0)?)?;
        let a = self.source(frame, self.arg(args, 1)?, src)?;
        let b = self.source(frame, self.arg(args, 2)?, src)?;
        let raw = self.slot(0)?;
        self.alu(f, raw, &[a, b], 0)?;
        if let Some(combine) = Self::combine(op) {
            let c = self.source(frame, self.arg(args, 3)?, PRED)?;
            self.alu(combine, raw, &[raw, c], 0)?;
        }
        let yes = match (dst.class, dst.bits) {
            (Class::Float, 32) => u64::from(1f32.to_bits()),
            (Class::Float, _) => return Ok(false),
            _ => u64::from(u32::MAX),
        };
        let (yes, no) = (self.literal(yes)?, self.literal(0)?);
        self.alu(alu::selp, d, &[yes, no, raw], 0)?;
        Ok(true)
    }

    fn with_carry(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg], ty: Ty) -> Result<bool, PtxError> {
        let f = if op.name.starts_with("add") {
            int_fn!(ty, add_carry)
        } else {
            int_fn!(ty, sub_borrow)
        };
        let Some(f) = f.filter(|_| ty.bits >= 32) else {
            return Ok(false);
        };
        let d = self.dest(frame, self.arg(args, 0)?)?;
        let a = self.source(frame, self.arg(args, 1)?, ty)?;
        let b = self.source(frame, self.arg(args, 2)?, ty)?;
        let carry = self.carry()?;
        let carry_in = if op.name.ends_with('c') { carry } else { NONE };
        let carry_out = if op.has("cc") { carry } else { NONE };
        self.alu_sparse(f, d, [a, b, carry_in, carry_out], 0)?;
        Ok(true)
    }

    /// A product, and then an addition with carry.
    fn mad_carry(&mut self, frame: &Frame<'m>, op: &Op<'_>, args: &[Arg], ty: Ty) -> Result<bool, PtxError> {
        let product = if op.has("hi") {
            int_fn!(ty, mul_hi)
        } else {
            int_fn!(ty, mul)
        };
        let (Some(product), Some(sum)) = (product, int_fn!(ty, add_carry)) else {
            return Ok(false);
        };
        if ty.bits < 32 {
            return Ok(false);
        }
        let d = self.dest(frame, self.arg(args, 0)?)?;
        let a = self.source(frame, self.arg(args, 1)?, ty)?;
        let b = self.source(frame, self.arg(args, 2)?, ty)?;
        let c = self.source(frame, self.arg(args, 3)?, ty)?;
        let carry = self.carry()?;
        let partial = self.slot(0)?;
        self.alu(product, partial, &[a, b], 0)?;
        let carry_in = if op.name == "madc" { carry } else { NONE };
        let carry_out = if op.has("cc") { carry } else { NONE };
        self.alu_sparse(sum, d, [partial, c, carry_in, carry_out], 0)?;
        Ok(true)
    }
}
