//! Arithmetic that rounds up, down or towards zero. The nearest result is computed with what it is off by, and
//! moved to its neighbour where that is on the wanted side of the exact one.
//!
//! In double precision what a result is off by must itself be representable: a quotient or a fused product below
//! 2^-960 may be rounded to the nearest.

use super::alu::{Flt, Regs};
use super::convert::Round;
use super::ir::Ins;

/// A value and, much smaller, by how much the exact one is more.
#[derive(Clone, Copy)]
struct Pair(f64, f64);

/// The exact sum.
fn sum(a: f64, b: f64) -> Pair {
    let s = a + b;
    let of_b = s - a;
    Pair(s, (a - (s - of_b)) + (b - of_b))
}

/// The exact product.
fn product(a: f64, b: f64) -> Pair {
    let p = a * b;
    if p.abs() < 2f64.powi(-900) && p.is_finite() {
        // What it is off by would be too small for a double; its sign alone matters, so both are made larger.
        let scale = |v: f64| v * 2f64.powi(550) * 2f64.powi(550);
        let (small, large) = if a.abs() < b.abs() { (a, b) } else { (b, a) };
        let off = scale(small).mul_add(large, -scale(p));
        return Pair(p, off.signum() * f64::from(off != 0.0) * f64::MIN_POSITIVE);
    }
    Pair(p, a.mul_add(b, -p))
}

/// a * b + c, with the sign of what it is off by.
fn fused(a: f64, b: f64, c: f64) -> Pair {
    let result = a.mul_add(b, c);
    let Pair(high, low) = product(a, b);
    let Pair(rest, tail) = sum(c, low);
    let Pair(head, middle) = sum(high, rest);
    Pair(result, ((head - result) + middle) + tail)
}

fn quotient(a: f64, b: f64) -> Pair {
    let q = a / b;
    Pair(q, (-q).mul_add(b, a) * b.signum())
}

fn root(a: f64) -> Pair {
    let s = a.sqrt();
    Pair(s, (-s).mul_add(s, a))
}

/// What can be rounded in a direction.
pub trait Directed: Flt {
    fn wide(self) -> f64;
    /// The value for a pair. `finite` says whether the operands are, so that only an overflow can be the reason
    /// for an infinite one.
    fn rounded(pair: (f64, f64), finite: bool, round: Round) -> Self;
}

/// Whether the neighbour above, or below, of `nearest` is the one wanted when the exact value is `off` more.
fn moved<T>(nearest: T, positive: bool, off: f64, round: Round, up: fn(T) -> T, down: fn(T) -> T) -> T {
    match round {
        Round::Up if off > 0.0 => up(nearest),
        Round::Down if off < 0.0 => down(nearest),
        Round::Zero if positive && off < 0.0 => down(nearest),
        Round::Zero if !positive && off > 0.0 => up(nearest),
        _ => nearest,
    }
}

impl Directed for f64 {
    fn wide(self) -> f64 {
        self
    }

    fn rounded((value, off): (f64, f64), finite: bool, round: Round) -> f64 {
        let off = if value.is_infinite() && finite {
            -value
        } else {
            off
        };
        if value == 0.0 && off == 0.0 || value.is_nan() {
            return value;
        }
        let positive = if value == 0.0 { off > 0.0 } else { value > 0.0 };
        moved(value, positive, off, round, f64::next_up, f64::next_down)
    }
}

impl Directed for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn rounded((value, off): (f64, f64), finite: bool, round: Round) -> f32 {
        let nearest = value as f32;
        if value.is_nan() || value.is_infinite() && !finite {
            return nearest;
        }
        // A double between two singles is off by more than what it is off by itself.
        let distance = value - f64::from(nearest);
        let off = if distance == 0.0 { off } else { distance };
        if value == 0.0 && off == 0.0 {
            return nearest;
        }
        let positive = if value == 0.0 { off > 0.0 } else { value > 0.0 };
        moved(nearest, positive, off, round, f32::next_up, f32::next_down)
    }
}

fn round_of(i: &Ins) -> Round {
    match i.imm {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        _ => Round::Nearest,
    }
}

/// The sum of operands that cancel is zero, negative when rounding down.
fn signed_zero(a: f64, b: f64, Pair(value, off): Pair, round: Round) -> Pair {
    let cancelled = value == 0.0 && off == 0.0 && a != 0.0 && b != 0.0;
    let opposite = value == 0.0 && a == 0.0 && b == 0.0 && a.is_sign_negative() != b.is_sign_negative();
    if cancelled || opposite {
        return Pair(if round == Round::Down { -0.0 } else { 0.0 }, 0.0);
    }
    Pair(value, off)
}

macro_rules! directed {
    ($($name:ident($($v:ident $slot:ident),*) $round:ident => $e:expr;)*) => {$(
        /// d = the result rounded as `imm` says: 1 towards zero, 2 down, 3 up.
        pub fn $name<T: Directed>(r: Regs, i: &Ins) {
            $(let $v = T::of(r.get(i.$slot)).wide();)*
            let $round = round_of(i);
            let finite = true $(&& $v.is_finite())*;
            let Pair(value, off) = $e;
            r.set(i.d, T::rounded((value, off), finite, $round).bits());
        }
    )*};
}

directed! {
    add(x a, y b) round => signed_zero(x, y, sum(x, y), round);
    sub(x a, y b) round => signed_zero(x, -y, sum(x, -y), round);
    mul(x a, y b) _round => product(x, y);
    fma(x a, y b, z c) round => signed_zero(x * y, z, fused(x, y, z), round);
    div(x a, y b) _round => if y == 0.0 { Pair(x / y, 0.0) } else { quotient(x, y) };
    rcp(x a) _round => if x == 0.0 { Pair(1.0 / x, 0.0) } else { quotient(1.0, x) };
    sqrt(x a) _round => root(x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(round: Round, of: fn(f64, f64) -> Pair, a: f32, b: f32) -> f32 {
        let Pair(value, off) = of(f64::from(a), f64::from(b));
        f32::rounded((value, off), true, round)
    }

    proptest! {
        /// Sums and products of singles of like size are exact as doubles.
        #[test]
        fn results_enclose_the_exact_one(a in -1.0e6f32..1.0e6, b in -1.0e6f32..1.0e6) {
            prop_assume!(a.abs() > 1.0 && b.abs() > 1.0);
            let (x, y) = (f64::from(a), f64::from(b));
            for (of, exact) in [(sum as fn(f64, f64) -> Pair, x + y), (product, x * y)] {
                let (low, high) = (at(Round::Down, of, a, b), at(Round::Up, of, a, b));
                prop_assert!(f64::from(low) <= exact && exact <= f64::from(high));
                prop_assert!(low == high || low.next_up() == high);
                prop_assert_eq!(low == high, f64::from(low) == exact);
                prop_assert_eq!(at(Round::Zero, of, a, b), if exact > 0.0 { low } else { high });
            }
        }
    }

    #[test]
    fn overflow_stops_at_the_largest_where_rounding_does_not_go_on() {
        assert_eq!(at(Round::Zero, product, 3e38, 2.0), f32::MAX);
        assert_eq!(at(Round::Up, product, 3e38, 2.0), f32::INFINITY);
        assert_eq!(f64::rounded((f64::MAX * 2.0, 0.0), true, Round::Down), f64::MAX);
        assert_eq!(
            f64::rounded((f64::INFINITY, 0.0), false, Round::Down),
            f64::INFINITY
        );
    }

    #[test]
    fn tiny_products_move_as_well() {
        let Pair(value, off) = product(f64::MIN_POSITIVE, 0.3);
        assert!(off != 0.0);
        let (down, up) = (
            f64::rounded((value, off), true, Round::Down),
            f64::rounded((value, off), true, Round::Up),
        );
        assert_eq!(down.next_up(), up);
        let Pair(value, off) = product(5e-324, 1e-10);
        assert_eq!(
            (value, f64::rounded((value, off), true, Round::Up)),
            (0.0, 5e-324)
        );
    }
}
