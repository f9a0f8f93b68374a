//! Read-modify-write operations. They are real atomic instructions of the CPU, since the memory may be
//! shared with other kernels of the process, with its host threads and with other processes.

use super::types::{Class, Ty};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

/// An operation on the value at an address: takes operands b and c, gives the old value.
pub type AtomicFn = unsafe fn(*mut u8, u64, u64) -> u64;

macro_rules! op {
    ($u:ty, $name:ident, $cell:ident $b:ident $c:ident => $e:expr) => {
        /// # Safety
        /// As for `cell`.
        pub unsafe fn $name(at: *mut u8, b: u64, c: u64) -> u64 {
            // SAFETY: passed on.
            let $cell = unsafe { cell(at) };
            let ($b, $c) = (b as $u, c as $u);
            let _ = ($b, $c);
            u64::from($e)
        }
    };
}

macro_rules! width {
    ($module:ident, $atomic:ty, $u:ty, $s:ty) => {
        mod $module {
            use super::*;

            /// # Safety
            /// `at` must be aligned, and valid for reads and writes of its width.
            unsafe fn cell<'a>(at: *mut u8) -> &'a $atomic {
                // SAFETY: the caller's promise; all accesses to kernel memory are atomic ones.
                unsafe { <$atomic>::from_ptr(at.cast()) }
            }

            fn update(cell: &$atomic, f: impl Fn($u) -> $u) -> u64 {
                match cell.fetch_update(SeqCst, SeqCst, |old| Some(f(old))) {
                    Ok(old) | Err(old) => u64::from(old),
                }
            }

            op!($u, add, m b c => m.fetch_add(b, SeqCst));
            op!($u, and, m b c => m.fetch_and(b, SeqCst));
            op!($u, or, m b c => m.fetch_or(b, SeqCst));
            op!($u, xor, m b c => m.fetch_xor(b, SeqCst));
            op!($u, exch, m b c => m.swap(b, SeqCst));
            op!($u, umin, m b c => m.fetch_min(b, SeqCst));
            op!($u, umax, m b c => m.fetch_max(b, SeqCst));
            op!($u, smin, m b c => update(m, |old| (old as $s).min(b as $s) as $u));
            op!($u, smax, m b c => update(m, |old| (old as $s).max(b as $s) as $u));
            op!($u, inc, m b c => update(m, |old| if old >= b { 0 } else { old + 1 }));
            op!($u, dec, m b c => update(m, |old| if old == 0 || old > b { b } else { old - 1 }));
            op!($u, cas, m b c => match m.compare_exchange(b, c, SeqCst, SeqCst) { Ok(old) | Err(old) => old });
        }
    };
}

width!(w32, AtomicU32, u32, i32);
width!(w64, AtomicU64, u64, i64);

macro_rules! float_op {
    ($name:ident, $atomic:ty, $f:ty, $u:ty, $a:ident $b:ident => $e:expr) => {
        /// # Safety
        /// `at` must be aligned, and valid for reads and writes of its width.
        unsafe fn $name(at: *mut u8, b: u64, _: u64) -> u64 {
            // SAFETY: the caller's promise.
            let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
            let $b = <$f>::from_bits(b as $u);
            let result = cell.fetch_update(SeqCst, SeqCst, |old| {
                let $a = <$f>::from_bits(old);
                Some(($e).to_bits())
            });
            match result {
                Ok(old) | Err(old) => u64::from(old),
            }
        }
    };
}

float_op!(add_f32, AtomicU32, f32, u32, a b => a + b);
float_op!(add_f64, AtomicU64, f64, u64, a b => a + b);

/// # Safety
/// `at` must be aligned, and valid for reads and writes of its width.
unsafe fn cas_u16(at: *mut u8, b: u64, c: u64) -> u64 {
    // SAFETY: the caller's promise.
    let cell = unsafe { AtomicU16::from_ptr(at.cast()) };
    match cell.compare_exchange(b as u16, c as u16, SeqCst, SeqCst) {
        Ok(old) | Err(old) => u64::from(old),
    }
}

/// The function for `atom.<op>.<ty>`, if there is such an operation.
pub fn select(op: &str, ty: Ty) -> Option<AtomicFn> {
    if ty.class == Class::Float {
        return match (op, ty.bits) {
            ("add", 32) => Some(add_f32),
            ("add", 64) => Some(add_f64),
            _ => None,
        };
    }
    macro_rules! table {
        ($m:ident) => {
            match (op, ty.is_signed()) {
                ("add", _) => $m::add,
                ("and", _) => $m::and,
                ("or", _) => $m::or,
                ("xor", _) => $m::xor,
                ("exch", _) => $m::exch,
                ("cas", _) => $m::cas,
                ("min", true) => $m::smin,
                ("min", false) => $m::umin,
                ("max", true) => $m::smax,
                ("max", false) => $m::umax,
                ("inc", _) => $m::inc,
                ("dec", _) => $m::dec,
                _ => return None,
            }
        };
    }
    Some(match ty.bits {
        16 if op == "cas" => cas_u16,
        32 => table!(w32),
        64 => table!(w64),
        _ => return None,
    })
}
