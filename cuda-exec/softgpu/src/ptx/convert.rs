//! `cvt`: conversion between the scalar types.

use super::alu::{AluFn, Int, Regs, Val};
use super::ir::Ins;
use super::types::{Class, Ty};

/// Which way a result is rounded that cannot be represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// What a `cvt` does beside changing the type.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub round: Round,
    /// Round a float to an integral value even if the result is a float.
    pub integral: bool,
    /// Clamp: integers to the range of the result, floats to 0..=1.
    pub saturate: bool,
}

/// The function for a conversion and the options it wants in [`Ins::imm`].
pub fn select(dst: Ty, src: Ty, options: Options) -> (AluFn, i64) {
    if !dst.is_float() && !src.is_float() && !options.saturate {
        return (extend(dst, src), 0);
    }
    (general, pack(dst, src, options))
}

fn extend(dst: Ty, src: Ty) -> AluFn {
    fn to<D: Val, S: Int>(r: Regs, i: &Ins) {
        r.set(i.d, D::of(S::of(r.get(i.a)).wide() as u64).bits());
    }
    fn from<S: Int>(bits: u8) -> AluFn {
        match bits {
            8 => to::<u8, S>,
            16 => to::<u16, S>,
            32 => to::<u32, S>,
            _ => to::<u64, S>,
        }
    }
    // A signed narrow result is kept zero-extended as well: every reader narrows what it reads. Only a
    // conversion to s8 or s16 whose register is wider shows the sign, so it is extended to 32 bits.
    match (src.is_signed(), src.bits) {
        (true, 8) => from::<i8>(widen(dst)),
        (true, 16) => from::<i16>(widen(dst)),
        (true, 32) if dst.bits >= 32 => from::<i32>(dst.bits),
        (true, 64) if dst.bits >= 32 => from::<i64>(dst.bits),
        (_, _) if dst.is_signed() && dst.bits < 32 => match dst.bits {
            8 => from::<i8>(32),
            _ => from::<i16>(32),
        },
        (false, 8) => from::<u8>(dst.bits),
        (false, 16) => from::<u16>(dst.bits),
        (_, 32) => from::<u32>(dst.bits),
        _ => from::<u64>(dst.bits),
    }
}

fn widen(dst: Ty) -> u8 {
    if dst.is_signed() {
        dst.bits.max(32)
    } else {
        dst.bits
    }
}

fn pack(dst: Ty, src: Ty, o: Options) -> i64 {
    let ty = |t: Ty| {
        let class = match t.class {
            Class::Signed => 1,
            Class::Float => 2,
            Class::Brain => 3,
            _ => 0,
        };
        class << 8 | i64::from(t.bits)
    };
    ty(dst) | ty(src) << 16 | (o.round as i64) << 32 | (o.integral as i64) << 36 | (o.saturate as i64) << 37
}

fn unpack(imm: i64) -> (Ty, Ty, Options) {
    let ty = |v: i64| {
        let class = match v >> 8 & 0xf {
            1 => Class::Signed,
            2 => Class::Float,
            3 => Class::Brain,
            _ => Class::Unsigned,
        };
        Ty::new(class, v as u8)
    };
    let round = match imm >> 32 & 0xf {
        0 => Round::Nearest,
        1 => Round::Zero,
        2 => Round::Down,
        _ => Round::Up,
    };
    let options = Options {
        round,
        integral: imm >> 36 & 1 != 0,
        saturate: imm >> 37 & 1 != 0,
    };
    (ty(imm & 0xffff), ty(imm >> 16 & 0xffff), options)
}

fn general(r: Regs, i: &Ins) {
    let (dst, src, o) = unpack(i.imm);
    let bits = r.get(i.a);
    let result = match (src.is_float(), dst.is_float()) {
        (true, true) => {
            let mut v = read_float(bits, src);
            if o.integral {
                v = integral(v, o.round);
            }
            if o.saturate {
                v = if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) };
            }
            write_float(v, dst, o.round)
        }
        (true, false) => float_to_int(integral(read_float(bits, src), o.round), dst),
        (false, true) => int_to_float(read_int(bits, src), dst, o.round),
        (false, false) => {
            let v = read_int(bits, src);
            let (low, high) = range(dst);
            v.clamp(low, high) as u64
        }
    };
    r.set(i.d, result);
}

fn read_int(bits: u64, ty: Ty) -> i128 {
    let spare = 64 - u32::from(ty.bits);
    if ty.is_signed() {
        i128::from((bits << spare) as i64 >> spare)
    } else {
        i128::from(bits << spare >> spare)
    }
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = u32::from(ty.bits);
    if ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

fn float_to_int(v: f64, ty: Ty) -> u64 {
    let (low, high) = range(ty);
    // `as` clamps and turns NaN into 0, as the device does.
    let clamped = (v as i128).clamp(low, high);
    clamped as u64
        & if ty.bits == 64 {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        }
}

fn integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

fn int_to_float(v: i128, ty: Ty, round: Round) -> u64 {
    match (ty.class, ty.bits) {
        (Class::Float, 64) => {
            let near = v as f64;
            let off = near as i128 - v;
            directed(off, round, near, f64::next_up, f64::next_down).to_bits()
        }
        (Class::Float, 32) => {
            let near = v as f32;
            let off = near as i128 - v;
            u64::from(directed(off, round, near, f32::next_up, f32::next_down).to_bits())
        }
        // Integers beyond 53 bits overflow a half anyway, and a bf16 is decided by far fewer bits.
        _ => write_float(v as f64, ty, round),
    }
}

/// Corrects the nearest value, which is `off` too large, for another rounding.
fn directed<T>(off: i128, round: Round, near: T, up: fn(T) -> T, down: fn(T) -> T) -> T
where
    T: Copy + PartialOrd + Default,
{
    let positive = near > T::default();
    match round {
        Round::Up if off < 0 => up(near),
        Round::Down if off > 0 => down(near),
        Round::Zero if positive && off > 0 => down(near),
        Round::Zero if !positive && off < 0 => up(near),
        _ => near,
    }
}

/// A float of any width as a double, exactly.
pub fn read_float(bits: u64, ty: Ty) -> f64 {
    match (ty.class, ty.bits) {
        (Class::Brain, _) => f64::from(f32::from_bits((bits as u32) << 16)),
        (_, 16) => half_to_f64(bits as u16),
        (_, 32) => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// The bits of `v` as a float of any width.
pub fn write_float(v: f64, ty: Ty, round: Round) -> u64 {
    match (ty.class, ty.bits) {
        (Class::Brain, _) => u64::from((rounded(v, 7, -126, round) as f32).to_bits() >> 16),
        (_, 16) => u64::from(half_bits(rounded(v, 10, -14, round), round)),
        (_, 32) if round == Round::Nearest => u64::from((v as f32).to_bits()),
        (_, 32) => u64::from((rounded(v, 23, -126, round) as f32).to_bits()),
        _ => v.to_bits(),
    }
}

/// `v` rounded to `mantissa` bits after the leading one, with exponents from `least`.
fn rounded(v: f64, mantissa: i32, least: i32, round: Round) -> f64 {
    if v == 0.0 || !v.is_finite() {
        return v;
    }
    let exponent = ((v.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least);
    let ulp = 2f64.powi(exponent - mantissa);
    (integral(v / ulp, round) * ulp).copysign(v)
}

/// `v` must have been rounded to a half's precision.
fn half_bits(v: f64, round: Round) -> u16 {
    let sign = ((v.to_bits() >> 63) as u16) << 15;
    let magnitude = v.abs();
    if v.is_nan() {
        return 0x7fff;
    }
    if magnitude > 65504.0 {
        let towards_zero = match round {
            Round::Nearest => false,
            Round::Zero => true,
            Round::Down => sign == 0,
            Round::Up => sign != 0,
        };
        return sign
            | if towards_zero && v.is_finite() {
                0x7bff
            } else {
                0x7c00
            };
    }
    if magnitude < 2f64.powi(-14) {
        return sign | (magnitude * 2f64.powi(24)) as u16;
    }
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) as i32 - 1023 + 15;
    sign | (exponent as u16) << 10 | (bits >> 42) as u16 & 0x3ff
}

fn half_to_f64(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15),
    };
    if bits >> 15 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F16: Ty = Ty::new(Class::Float, 16);
    const F32: Ty = Ty::new(Class::Float, 32);

    #[test]
    fn every_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let v = read_float(u64::from(bits), F16);
            if !v.is_nan() {
                assert_eq!(write_float(v, F16, Round::Nearest) as u16, bits);
            }
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        for v in [16_777_217i128, -16_777_217, i64::MAX as i128, 0, 5] {
            let at = |round| f64::from(f32::from_bits(int_to_float(v, F32, round) as u32));
            assert!(at(Round::Down) as i128 <= v && at(Round::Up) as i128 >= v);
            assert!((at(Round::Zero) as i128).abs() <= v.abs());
        }
        let third = 1.0 / 3.0;
        let down = f32::from_bits(write_float(third, F32, Round::Down) as u32);
        let up = f32::from_bits(write_float(third, F32, Round::Up) as u32);
        assert_eq!(down.next_up(), up);
        assert!(f64::from(down) < third && third < f64::from(up));
    }

    #[test]
    fn float_to_integer_clamps() {
        let s32 = Ty::new(Class::Signed, 32);
        assert_eq!(float_to_int(1e30, s32), i32::MAX as u64);
        assert_eq!(float_to_int(-1e30, s32) as i32, i32::MIN);
        assert_eq!(float_to_int(f64::NAN, s32), 0);
        assert_eq!(float_to_int(-1.0, Ty::new(Class::Unsigned, 32)), 0);
    }
}
