//! Arithmetic on slots. Each function is monomorphic in its type, so that an instruction costs one indirect
//! call and no decision.

use super::convert::{self, Round};
use super::ir::Ins;
use super::types::{Class, Ty};

/// A function that computes on slots.
pub type AluFn = fn(Regs, &Ins);

/// A thread's register file, as a pointer to its first slot.
#[derive(Clone, Copy, Debug)]
pub struct Regs {
    base: *mut u64,
}

impl Regs {
    /// Wraps a register file.
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of as many slots as the kernel's template has for as long
    /// as the value is used, and every instruction used with it must have come from that kernel: lowering
    /// gives out no slot number beyond the template, except [`super::ir::NONE`] where it is not read.
    pub unsafe fn new(base: *mut u64) -> Regs {
        Regs { base }
    }

    /// The bits in a slot.
    #[inline(always)]
    pub fn get(self, slot: u16) -> u64 {
        // SAFETY: `new`'s contract: the slot is one of the kernel's.
        unsafe { *self.base.add(slot as usize) }
    }

    /// Sets the bits in a slot.
    #[inline(always)]
    pub fn set(self, slot: u16, bits: u64) {
        // SAFETY: `new`'s contract: the slot is one of the kernel's.
        unsafe { *self.base.add(slot as usize) = bits }
    }

    #[inline(always)]
    fn val<T: Val>(self, slot: u16) -> T {
        T::of(self.get(slot))
    }

    #[inline(always)]
    fn put<T: Val>(self, slot: u16, v: T) {
        self.set(slot, v.bits());
    }
}

/// A value which fits a slot; bits above its width are zero.
pub trait Val: Copy {
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
}

/// What integers of all widths can do.
pub trait Int: Val + Ord {
    const BITS: u32;
    const SIGNED: bool;
    fn wide(self) -> i128;
    fn narrow(v: i128) -> Self;
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn div(self, o: Self) -> Self;
    fn rem(self, o: Self) -> Self;
    fn shl(self, n: u32) -> Self;
    fn shr(self, n: u32) -> Self;
}

/// What floats of both widths can do.
pub trait Flt: Val + PartialOrd {
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn div(self, o: Self) -> Self;
    fn fma(self, b: Self, c: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn min(self, o: Self) -> Self;
    fn max(self, o: Self) -> Self;
    fn sqrt(self) -> Self;
    fn one() -> Self;
    fn zero() -> Self;
    fn nan() -> Self;
    fn is_nan(self) -> bool;
    fn copysign(self, sign: Self) -> Self;
    fn map(self, f: fn(f64) -> f64) -> Self;
}

macro_rules! int {
    ($($t:ty, $u:ty, $signed:expr);*) => {$(
        impl Val for $t {
            #[inline(always)]
            fn of(bits: u64) -> Self { bits as $t }
            #[inline(always)]
            fn bits(self) -> u64 { self as $u as u64 }
        }
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn wide(self) -> i128 { self as i128 }
            #[inline(always)]
            fn narrow(v: i128) -> Self { v as $t }
            #[inline(always)]
            fn add(self, o: Self) -> Self { self.wrapping_add(o) }
            #[inline(always)]
            fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
            #[inline(always)]
            fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
            // Division by zero has no defined result on the device; these are what it gives.
            #[inline(always)]
            fn div(self, o: Self) -> Self { if o == 0 { !0 } else { self.wrapping_div(o) } }
            #[inline(always)]
            fn rem(self, o: Self) -> Self { if o == 0 { self } else { self.wrapping_rem(o) } }
            #[inline(always)]
            fn shl(self, n: u32) -> Self { self.checked_shl(n).unwrap_or(0) }
            #[inline(always)]
            fn shr(self, n: u32) -> Self { self >> n.min(if $signed { <$t>::BITS - 1 } else { 127 }).min(<$t>::BITS - 1) }
        }
    )*};
}

int!(u8, u8, false; i8, u8, true; u16, u16, false; i16, u16, true;
     u32, u32, false; i32, u32, true; u64, u64, false; i64, u64, true);

macro_rules! flt {
    ($($t:ty, $u:ty);*) => {$(
        impl Val for $t {
            #[inline(always)]
            fn of(bits: u64) -> Self { <$t>::from_bits(bits as $u) }
            #[inline(always)]
            fn bits(self) -> u64 { u64::from(self.to_bits()) }
        }
        impl Flt for $t {
            #[inline(always)]
            fn add(self, o: Self) -> Self { self + o }
            #[inline(always)]
            fn sub(self, o: Self) -> Self { self - o }
            #[inline(always)]
            fn mul(self, o: Self) -> Self { self * o }
            #[inline(always)]
            fn div(self, o: Self) -> Self { self / o }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self { self.mul_add(b, c) }
            #[inline(always)]
            fn neg(self) -> Self { -self }
            #[inline(always)]
            fn abs(self) -> Self { <$t>::abs(self) }
            #[inline(always)]
            fn min(self, o: Self) -> Self { <$t>::min(self, o) }
            #[inline(always)]
            fn max(self, o: Self) -> Self { <$t>::max(self, o) }
            #[inline(always)]
            fn sqrt(self) -> Self { <$t>::sqrt(self) }
            #[inline(always)]
            fn one() -> Self { 1.0 }
            #[inline(always)]
            fn zero() -> Self { 0.0 }
            #[inline(always)]
            fn nan() -> Self { <$t>::NAN }
            #[inline(always)]
            fn is_nan(self) -> bool { <$t>::is_nan(self) }
            #[inline(always)]
            fn copysign(self, sign: Self) -> Self { <$t>::copysign(self, sign) }
            #[inline(always)]
            fn map(self, f: fn(f64) -> f64) -> Self { f(f64::from(self)) as $t }
        }
    )*};
}

flt!(f32, u32; f64, u64);

/// A 16-bit float, computed with as a double and rounded when it is stored. Twice the 11 bits of precision
/// and two more are enough for the results of the basic operations to be rounded right.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub struct F16(f64);

/// The same with the exponent of a single.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub struct BF16(f64);

macro_rules! small_flt {
    ($($t:ident, $ty:expr);*) => {$(
        impl Val for $t {
            fn of(bits: u64) -> Self { $t(convert::read_float(bits, $ty)) }
            fn bits(self) -> u64 { convert::write_float(self.0, $ty, Round::Nearest) }
        }
        impl Flt for $t {
            fn add(self, o: Self) -> Self { $t(self.0 + o.0) }
            fn sub(self, o: Self) -> Self { $t(self.0 - o.0) }
            fn mul(self, o: Self) -> Self { $t(self.0 * o.0) }
            fn div(self, o: Self) -> Self { $t(self.0 / o.0) }
            fn fma(self, b: Self, c: Self) -> Self { $t(self.0.mul_add(b.0, c.0)) }
            fn neg(self) -> Self { $t(-self.0) }
            fn abs(self) -> Self { $t(self.0.abs()) }
            fn min(self, o: Self) -> Self { $t(self.0.min(o.0)) }
            fn max(self, o: Self) -> Self { $t(self.0.max(o.0)) }
            fn sqrt(self) -> Self { $t(self.0.sqrt()) }
            fn one() -> Self { $t(1.0) }
            fn zero() -> Self { $t(0.0) }
            fn nan() -> Self { $t(f64::NAN) }
            fn is_nan(self) -> bool { self.0.is_nan() }
            fn copysign(self, sign: Self) -> Self { $t(self.0.copysign(sign.0)) }
            fn map(self, f: fn(f64) -> f64) -> Self { $t(f(self.0)) }
        }
    )*};
}

small_flt!(F16, Ty::new(Class::Float, 16); BF16, Ty::new(Class::Brain, 16));

pub fn mov(r: Regs, i: &Ins) {
    r.set(i.d, r.get(i.a));
}

/// Truncates to the type's width.
pub fn trunc<T: Val>(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<T>(i.a));
}

/// mov.b32 d, {a, b} of 16 bits each, and the wider ones: `imm` is the width of a part.
pub fn pack(r: Regs, i: &Ins) {
    let width = i.imm as u32;
    let mask = u64::MAX >> (64 - width);
    let parts = [i.a, i.b, i.c, i.e];
    let mut whole = 0;
    for (at, &slot) in parts.iter().enumerate() {
        if slot != super::ir::NONE {
            whole |= (r.get(slot) & mask) << (at as u32 * width);
        }
    }
    r.set(i.d, whole);
}

/// d = part of a that starts at bit `imm & 0xff` and is `imm >> 8` bits wide.
pub fn extract(r: Regs, i: &Ins) {
    let (shift, width) = (i.imm as u32 & 0xff, (i.imm >> 8) as u32);
    r.set(i.d, r.get(i.a) >> shift & (u64::MAX >> (64 - width)));
}

pub fn selp(r: Regs, i: &Ins) {
    r.set(i.d, if r.get(i.c) != 0 { r.get(i.a) } else { r.get(i.b) });
}

pub fn slct_int(r: Regs, i: &Ins) {
    r.set(
        i.d,
        if r.val::<i32>(i.c) >= 0 {
            r.get(i.a)
        } else {
            r.get(i.b)
        },
    );
}

pub fn slct_float(r: Regs, i: &Ins) {
    r.set(
        i.d,
        if r.val::<f32>(i.c) >= 0.0 {
            r.get(i.a)
        } else {
            r.get(i.b)
        },
    );
}

macro_rules! binary {
    ($($name:ident, $bound:ident, $method:ident);*) => {$(
        pub fn $name<T: $bound>(r: Regs, i: &Ins) {
            r.put(i.d, r.val::<T>(i.a).$method(r.val::<T>(i.b)));
        }
    )*};
}

binary!(add, Int, add; sub, Int, sub; mul, Int, mul; div, Int, div; rem, Int, rem; min, Int, min; max, Int, max;
        fadd, Flt, add; fsub, Flt, sub; fmul, Flt, mul; fdiv, Flt, div; fmin, Flt, min; fmax, Flt, max);

/// PTX orders the operands of copysign the other way round: the sign comes from a.
pub fn fcopysign<T: Flt>(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<T>(i.b).copysign(r.val::<T>(i.a)));
}

pub fn fmin_nan<T: Flt>(r: Regs, i: &Ins) {
    let (a, b) = (r.val::<T>(i.a), r.val::<T>(i.b));
    r.put(
        i.d,
        if a.is_nan() || b.is_nan() {
            T::nan()
        } else {
            a.min(b)
        },
    );
}

pub fn fmax_nan<T: Flt>(r: Regs, i: &Ins) {
    let (a, b) = (r.val::<T>(i.a), r.val::<T>(i.b));
    r.put(
        i.d,
        if a.is_nan() || b.is_nan() {
            T::nan()
        } else {
            a.max(b)
        },
    );
}

pub fn add_sat(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<i32>(i.a).saturating_add(r.val(i.b)));
}

pub fn sub_sat(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<i32>(i.a).saturating_sub(r.val(i.b)));
}

/// With carry: in from slot c unless NONE, out to slot e unless NONE.
pub fn add_carry<T: Int>(r: Regs, i: &Ins) {
    let mask = u64::MAX >> (64 - T::BITS);
    let carry = if i.c == super::ir::NONE {
        0
    } else {
        r.get(i.c) as u128
    };
    let sum = (r.get(i.a) & mask) as u128 + (r.get(i.b) & mask) as u128 + carry;
    if i.e != super::ir::NONE {
        r.set(i.e, (sum >> T::BITS) as u64);
    }
    r.set(i.d, sum as u64 & mask);
}

/// With borrow: in from slot c unless NONE, out to slot e unless NONE.
pub fn sub_borrow<T: Int>(r: Regs, i: &Ins) {
    let mask = u64::MAX >> (64 - T::BITS);
    let borrow = if i.c == super::ir::NONE {
        0
    } else {
        r.get(i.c) as i128
    };
    let difference = (r.get(i.a) & mask) as i128 - (r.get(i.b) & mask) as i128 - borrow;
    if i.e != super::ir::NONE {
        r.set(i.e, (difference < 0) as u64);
    }
    r.set(i.d, difference as u64 & mask);
}

pub fn mul_hi<T: Int>(r: Regs, i: &Ins) {
    let product = high::<T>(r.val(i.a), r.val(i.b));
    r.put(i.d, product);
}

fn high<T: Int>(a: T, b: T) -> T {
    if T::BITS == 64 && !T::SIGNED {
        // The product of two unsigned 64-bit values can exceed i128.
        let product = u128::from(a.bits()) * u128::from(b.bits());
        return T::of((product >> 64) as u64);
    }
    T::narrow((a.wide() * b.wide()) >> T::BITS)
}

/// Result twice as wide as the operands.
pub fn mul_wide<T: Int>(r: Regs, i: &Ins) {
    r.set(i.d, wide_product::<T>(r, i));
}

#[inline(always)]
fn wide_product<T: Int>(r: Regs, i: &Ins) -> u64 {
    let product = if T::BITS == 32 && !T::SIGNED {
        (r.get(i.a) as u32 as u64) * (r.get(i.b) as u32 as u64)
    } else {
        (r.val::<T>(i.a).wide() as i64).wrapping_mul(r.val::<T>(i.b).wide() as i64) as u64
    };
    if T::BITS == 16 {
        product & 0xffff_ffff
    } else {
        product
    }
}

pub fn mad<T: Int>(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<T>(i.a).mul(r.val(i.b)).add(r.val(i.c)));
}

pub fn mad_hi<T: Int>(r: Regs, i: &Ins) {
    r.put(i.d, high::<T>(r.val(i.a), r.val(i.b)).add(r.val(i.c)));
}

pub fn mad_wide<T: Int>(r: Regs, i: &Ins) {
    let sum = wide_product::<T>(r, i).wrapping_add(r.get(i.c));
    r.set(i.d, if T::BITS == 16 { sum & 0xffff_ffff } else { sum });
}

/// The low 32 bits of a 24-bit product.
pub fn mul24<T: Int>(r: Regs, i: &Ins) {
    r.put(i.d, T::narrow(low24::<T>(r.val(i.a)) * low24::<T>(r.val(i.b))));
}

pub fn mad24<T: Int>(r: Regs, i: &Ins) {
    let product = T::narrow(low24::<T>(r.val(i.a)) * low24::<T>(r.val(i.b)));
    r.put(i.d, product.add(r.val(i.c)));
}

fn low24<T: Int>(v: T) -> i128 {
    let low = v.bits() as u32 & 0xff_ffff;
    if T::SIGNED {
        i128::from((low << 8) as i32 >> 8)
    } else {
        i128::from(low)
    }
}

pub fn sad<T: Int>(r: Regs, i: &Ins) {
    let (a, b) = (r.val::<T>(i.a), r.val::<T>(i.b));
    r.put(i.d, if a < b { b.sub(a) } else { a.sub(b) }.add(r.val(i.c)));
}

pub fn neg<T: Int>(r: Regs, i: &Ins) {
    r.put(i.d, T::narrow(0).sub(r.val(i.a)));
}

pub fn abs<T: Int>(r: Regs, i: &Ins) {
    let a = r.val::<T>(i.a);
    let zero = T::narrow(0);
    r.put(i.d, if a < zero { zero.sub(a) } else { a });
}

pub fn fma<T: Flt>(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<T>(i.a).fma(r.val(i.b), r.val(i.c)));
}

macro_rules! funary {
    ($($name:ident, $v:ident => $e:expr);*) => {$(
        pub fn $name<T: Flt>(r: Regs, i: &Ins) {
            let $v = r.val::<T>(i.a);
            r.put(i.d, $e);
        }
    )*};
}

funary!(fneg, v => v.neg(); fabs, v => v.abs(); fsqrt, v => v.sqrt(); frcp, v => T::one().div(v);
        frsqrt, v => T::one().div(v.sqrt()); fsin, v => v.map(f64::sin); fcos, v => v.map(f64::cos);
        fex2, v => v.map(f64::exp2); flg2, v => v.map(f64::log2); ftanh, v => v.map(f64::tanh);
        fsat, v => if v.is_nan() { T::zero() } else { v.max(T::zero()).min(T::one()) });

macro_rules! bits {
    ($($name:ident, $a:ident, $b:ident => $e:expr);*) => {$(
        pub fn $name<T: Val>(r: Regs, i: &Ins) {
            let ($a, $b) = (r.get(i.a), r.get(i.b));
            r.put(i.d, T::of($e));
        }
    )*};
}

bits!(and, a, b => a & b; or, a, b => a | b; xor, a, b => a ^ b);

pub fn not<T: Val>(r: Regs, i: &Ins) {
    r.put(i.d, T::of(!r.get(i.a)));
}

pub fn not_pred(r: Regs, i: &Ins) {
    r.set(i.d, (r.get(i.a) == 0) as u64);
}

pub fn cnot<T: Val>(r: Regs, i: &Ins) {
    r.set(i.d, (r.val::<T>(i.a).bits() == 0) as u64);
}

pub fn shl<T: Int>(r: Regs, i: &Ins) {
    r.put(i.d, r.val::<T>(i.a).shl(r.get(i.b) as u32));
}

pub fn shr<T: Int>(r: Regs, i: &Ins) {
    let n = r.get(i.b) as u32;
    r.put(
        i.d,
        if n >= T::BITS && !T::SIGNED {
            T::narrow(0)
        } else {
            r.val::<T>(i.a).shr(n)
        },
    );
}

/// Funnel shift; `imm` bit 0: right, bit 1: clamp instead of wrap.
pub fn shf(r: Regs, i: &Ins) {
    let both = r.val::<u32>(i.b) as u64 as u128 as u64;
    let value = both << 32 | u64::from(r.val::<u32>(i.a));
    let n = r.val::<u32>(i.c);
    let n = if i.imm & 2 != 0 { n.min(32) } else { n & 31 };
    let result = if i.imm & 1 != 0 {
        (value >> n) as u32
    } else if n == 0 {
        (value >> 32) as u32
    } else {
        (value >> (32 - n)) as u32
    };
    r.put(i.d, result);
}

/// Any function of three bits, `imm` its truth table.
pub fn lop3(r: Regs, i: &Ins) {
    let (a, b, c) = (r.val::<u32>(i.a), r.val::<u32>(i.b), r.val::<u32>(i.c));
    let mut result = 0;
    for row in 0..8 {
        if i.imm >> row & 1 != 0 {
            let pick = |v: u32, bit: u32| if row & bit != 0 { v } else { !v };
            result |= pick(a, 4) & pick(b, 2) & pick(c, 1);
        }
    }
    r.put(i.d, result);
}

pub fn prmt(r: Regs, i: &Ins) {
    let bytes = u64::from(r.val::<u32>(i.b)) << 32 | u64::from(r.val::<u32>(i.a));
    let selector = r.val::<u32>(i.c);
    let mut result = 0u32;
    for at in 0..4 {
        let pick = selector >> (at * 4) & 0xf;
        let byte = (bytes >> ((pick & 7) * 8)) as u8;
        let byte = if pick & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        result |= u32::from(byte) << (at * 8);
    }
    r.put(i.d, result);
}

pub fn popc<T: Val>(r: Regs, i: &Ins) {
    r.set(i.d, u64::from(r.val::<T>(i.a).bits().count_ones()));
}

pub fn clz<T: Int>(r: Regs, i: &Ins) {
    r.set(
        i.d,
        u64::from(r.val::<T>(i.a).bits().leading_zeros() - (64 - T::BITS)),
    );
}

pub fn brev<T: Int>(r: Regs, i: &Ins) {
    r.set(i.d, r.val::<T>(i.a).bits().reverse_bits() >> (64 - T::BITS));
}

/// Highest bit that differs from the sign; `imm` 1: as a shift amount.
pub fn bfind<T: Int>(r: Regs, i: &Ins) {
    let v = r.val::<T>(i.a);
    let v = if T::SIGNED && v.wide() < 0 {
        T::narrow(!v.wide())
    } else {
        v
    };
    let bits = v.bits();
    let at = if bits == 0 {
        u32::MAX
    } else {
        63 - bits.leading_zeros()
    };
    r.set(
        i.d,
        u64::from(if i.imm == 1 && at != u32::MAX {
            T::BITS - 1 - at
        } else {
            at
        }),
    );
}

pub fn bfe<T: Int>(r: Regs, i: &Ins) {
    let value = r.val::<T>(i.a);
    let (pos, len) = (r.get(i.b) as u32 & 0xff, r.get(i.c) as u32 & 0xff);
    let field = if pos >= T::BITS {
        if T::SIGNED {
            value.wide() >> (T::BITS - 1)
        } else {
            0
        }
    } else {
        value.wide() >> pos
    };
    let result = if len == 0 {
        0
    } else if len >= T::BITS {
        field
    } else {
        let raw = field & ((1i128 << len) - 1);
        if T::SIGNED {
            (raw << (128 - len)) >> (128 - len)
        } else {
            raw
        }
    };
    r.put(i.d, T::narrow(result));
}

/// d = a inserted into b at position c, length e.
pub fn bfi<T: Int>(r: Regs, i: &Ins) {
    let (pos, len) = (r.get(i.c) as u32 & 0xff, r.get(i.e) as u32 & 0xff);
    let (a, b) = (r.val::<T>(i.a).bits(), r.val::<T>(i.b).bits());
    let mask = if pos >= T::BITS || len == 0 {
        0
    } else {
        (u64::MAX >> (64 - len.min(64))) << pos & (u64::MAX >> (64 - T::BITS))
    };
    let shifted = if pos >= 64 { 0 } else { a << pos };
    r.set(i.d, b & !mask | shifted & mask);
}

/// d = c + the products of the four bytes of a and b; `imm` bit 0: a is signed, bit 1: b is.
pub fn dp4a(r: Regs, i: &Ins) {
    let byte = |v: u32, at: u32, signed: bool| {
        let byte = (v >> (at * 8)) as u8;
        if signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    let (a, b) = (r.val::<u32>(i.a), r.val::<u32>(i.b));
    let products = (0..4).map(|at| byte(a, at, i.imm & 1 != 0) * byte(b, at, i.imm & 2 != 0));
    r.put(i.d, products.fold(r.val::<i32>(i.c), i32::wrapping_add));
}

/// How operands are compared; the unordered ones are true when one is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqU,
    NeU,
    LtU,
    LeU,
    GtU,
    GeU,
    Num,
    Nan,
}

macro_rules! compare {
    ($bound:ident, $pick:ident, $($variant:ident $name:ident $a:ident $b:ident => $e:expr);*) => {
        $(fn $name<T: $bound>(r: Regs, i: &Ins) {
            let ($a, $b) = (r.val::<T>(i.a), r.val::<T>(i.b));
            r.set(i.d, $e as u64);
        })*
        /// The function that sets predicate d to a comparison of a and b, if the type has it.
        pub fn $pick<T: $bound>(cmp: Cmp) -> Option<AluFn> {
            Some(match cmp { $(Cmp::$variant => $name::<T>,)* #[allow(unreachable_patterns)] _ => return None })
        }
    };
}

compare!(Int, setp_int,
    Eq eq a b => a == b; Ne ne a b => a != b; Lt lt a b => a < b; Le le a b => a <= b; Gt gt a b => a > b; Ge ge a b => a >= b);
compare!(Flt, setp_float,
    Eq feq a b => a == b; Ne fne a b => !unordered(a, b) && a != b;
    Lt flt a b => a < b; Le fle a b => a <= b; Gt fgt a b => a > b; Ge fge a b => a >= b;
    EqU fequ a b => unordered(a, b) || a == b; NeU fneu a b => a != b;
    LtU fltu a b => unordered(a, b) || a < b; LeU fleu a b => unordered(a, b) || a <= b;
    GtU fgtu a b => unordered(a, b) || a > b; GeU fgeu a b => unordered(a, b) || a >= b;
    Num fnum a b => !unordered(a, b); Nan fnan a b => unordered(a, b));

#[inline(always)]
fn unordered<T: Flt>(a: T, b: T) -> bool {
    a.is_nan() || b.is_nan()
}

/// Whether a belongs to a class of floats, by `imm`: finite, infinite, a number, not a number.
pub fn testp<T: Flt>(r: Regs, i: &Ins) {
    let v = r.val::<T>(i.a);
    // Only infinities and NaNs are not 0 when taken from themselves.
    let finite = !v.sub(v).is_nan();
    let result = match i.imm {
        0 => finite,
        1 => !finite && !v.is_nan(),
        2 => !v.is_nan(),
        _ => v.is_nan(),
    };
    r.set(i.d, result as u64);
}
