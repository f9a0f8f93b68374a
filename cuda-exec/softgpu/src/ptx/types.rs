//! The scalar types of PTX, the state spaces and the special registers.

/// What the bits of a value mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `.b`: untyped bits.
    Bits,
    /// `.u`
    Unsigned,
    /// `.s`
    Signed,
    /// `.f`
    Float,
    /// `.bf`
    Brain,
    /// `.pred`
    Pred,
}

/// A scalar type: its class and its width in bits (a predicate has width 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    pub class: Class,
    pub bits: u8,
}

impl Ty {
    /// A type of `class` and `bits`.
    pub const fn new(class: Class, bits: u8) -> Ty {
        Ty { class, bits }
    }

    /// The type named by a qualifier such as `u32` (no dot).
    pub fn named(name: &str) -> Option<Ty> {
        use Class::*;
        let (class, bits) = match name {
            "pred" => (Pred, 1),
            "b8" => (Bits, 8),
            "b16" => (Bits, 16),
            "b32" => (Bits, 32),
            "b64" => (Bits, 64),
            "b128" => (Bits, 128),
            "u8" => (Unsigned, 8),
            "u16" => (Unsigned, 16),
            "u32" => (Unsigned, 32),
            "u64" => (Unsigned, 64),
            "s8" => (Signed, 8),
            "s16" => (Signed, 16),
            "s32" => (Signed, 32),
            "s64" => (Signed, 64),
            "f16" => (Float, 16),
            "f32" => (Float, 32),
            "f64" => (Float, 64),
            "bf16" => (Brain, 16),
            // Packed halves move as 32 bits; arithmetic takes them apart.
            "f16x2" | "bf16x2" => (Bits, 32),
            _ => return None,
        };
        Some(Ty { class, bits })
    }

    /// Size in memory, in bytes.
    pub fn size(self) -> usize {
        (self.bits as usize).div_ceil(8)
    }

    /// Whether values are floating point.
    pub fn is_float(self) -> bool {
        matches!(self.class, Class::Float | Class::Brain)
    }

    /// Whether values are signed integers.
    pub fn is_signed(self) -> bool {
        self.class == Class::Signed
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    /// The space named by a qualifier such as `shared::cta` (no dot).
    pub fn named(name: &str) -> Option<Space> {
        Some(match name {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" => Space::Shared,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            _ => return None,
        })
    }
}

/// A special register whose value is fixed while a thread lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LaneMask(LaneMask),
    DynamicSharedSize,
    TotalSharedSize,
    /// Where the frame begins in local memory; no register of PTX.
    Frame,
}

/// Which lanes a `%lanemask_*` register names, relative to the own lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

/// A special register which changes as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// `%clock`: low half of `%clock64`.
    Low,
    /// `%clock_hi`
    High,
    /// `%clock64`: cycles, here nanoseconds times two (a 2 GHz device).
    Full,
    /// `%globaltimer`: nanoseconds.
    Global,
    /// `%globaltimer_lo`
    GlobalLow,
    /// `%globaltimer_hi`
    GlobalHigh,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Fixed(Fixed),
    Clock(Clock),
}

impl Special {
    /// The special register called `name` (with its `%`).
    pub fn named(name: &str) -> Option<Special> {
        use Special::{Clock as C, Fixed as F};
        if let Some((base, axis)) = name.rsplit_once('.') {
            let axis = match axis {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            };
            return Some(F(match base {
                "%tid" => Fixed::Tid(axis),
                "%ntid" => Fixed::Ntid(axis),
                "%ctaid" => Fixed::Ctaid(axis),
                "%nctaid" => Fixed::Nctaid(axis),
                _ => return None,
            }));
        }
        Some(match name {
            "%laneid" => F(Fixed::LaneId),
            "%warpid" => F(Fixed::WarpId),
            "%nwarpid" => F(Fixed::NwarpId),
            "%smid" => F(Fixed::SmId),
            "%nsmid" => F(Fixed::NsmId),
            "%gridid" => F(Fixed::GridId),
            "%lanemask_eq" => F(Fixed::LaneMask(LaneMask::Eq)),
            "%lanemask_le" => F(Fixed::LaneMask(LaneMask::Le)),
            "%lanemask_lt" => F(Fixed::LaneMask(LaneMask::Lt)),
            "%lanemask_ge" => F(Fixed::LaneMask(LaneMask::Ge)),
            "%lanemask_gt" => F(Fixed::LaneMask(LaneMask::Gt)),
            "%dynamic_smem_size" => F(Fixed::DynamicSharedSize),
            "%total_smem_size" => F(Fixed::TotalSharedSize),
            "%clock" => C(Clock::Low),
            "%clock_hi" => C(Clock::High),
            "%clock64" => C(Clock::Full),
            "%globaltimer" => C(Clock::Global),
            "%globaltimer_lo" => C(Clock::GlobalLow),
            "%globaltimer_hi" => C(Clock::GlobalHigh),
            _ => return None,
        })
    }
}
