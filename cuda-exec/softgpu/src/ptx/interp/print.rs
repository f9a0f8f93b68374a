//! `vprintf`, and what is said of an assertion that failed.

use super::{Machine, Stop, load};
use crate::fifo;
use crate::ptx::ir::{Ins, Place};
use crate::ptx::types::{Fixed, Space};
use std::ffi::{CString, c_int};

/// Bytes of a text that is read, and of what a conversion makes of its value.
const TEXT_MAX: usize = 1024;
/// Arguments that CUDA prints of one call.
const ARGUMENTS_MAX: usize = 32;

/// A conversion of a format.
#[derive(Debug, PartialEq, Eq)]
struct Conversion {
    /// Flags, width and precision.
    how: String,
    /// Whether the value has 8 bytes.
    long: bool,
    /// The letter.
    what: u8,
    /// Bytes of the format that it takes.
    len: usize,
}

/// The conversion at the start of `format`, behind its percent sign; `next` gives the numbers that stars stand for.
fn conversion<E>(format: &[u8], mut next: impl FnMut() -> Result<u64, E>) -> Result<Option<Conversion>, E> {
    let (mut how, mut long) = (String::new(), false);
    for (at, &byte) in format.iter().enumerate() {
        match byte {
            b'-' | b'+' | b' ' | b'#' | b'.' | b'0'..=b'9' => how.push(byte.into()),
            b'*' => how += &(next()? as i32).to_string(),
            b'h' => {}
            b'l' | b'z' | b't' | b'j' | b'L' => long = true,
            what @ (b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' | b's' | b'p' | b'f' | b'F' | b'e'
            | b'E' | b'g' | b'G' | b'a' | b'A' | b'%') => {
                return Ok(Some(Conversion {
                    how,
                    long,
                    what,
                    len: at + 1,
                }));
            }
            _ => return Ok(None),
        }
        if how.len() > 40 {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Has the C library format one value.
fn formatted(spec: &str, print: impl FnOnce(*mut i8, usize, *const i8) -> c_int) -> Vec<u8> {
    let Ok(spec) = CString::new(spec) else {
        return Vec::new();
    };
    let mut text = vec![0u8; TEXT_MAX];
    let len = print(text.as_mut_ptr().cast(), text.len(), spec.as_ptr());
    text.truncate(usize::try_from(len).unwrap_or(0).min(TEXT_MAX - 1));
    text
}

impl Conversion {
    /// What it makes of a value that is no text.
    fn of(&self, value: u64) -> Vec<u8> {
        let (how, what) = (&self.how, char::from(self.what));
        // SAFETY: in each case a buffer with its length, and a specification of one argument of the type that is passed.
        unsafe {
            match self.what {
                b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                    formatted(&format!("%{how}{what}"), |to, len, spec| {
                        libc::snprintf(to, len, spec, f64::from_bits(value))
                    })
                }
                b'p' => formatted(&format!("%{how}p"), |to, len, spec| {
                    libc::snprintf(to, len, spec, value)
                }),
                _ if self.long => formatted(&format!("%{how}ll{what}"), |to, len, spec| {
                    libc::snprintf(to, len, spec, value)
                }),
                _ => formatted(&format!("%{how}{what}"), |to, len, spec| {
                    libc::snprintf(to, len, spec, value as u32)
                }),
            }
        }
    }

    fn of_text(&self, text: Vec<u8>) -> Vec<u8> {
        let Ok(text) = CString::new(text) else {
            return Vec::new();
        };
        // SAFETY: as above, with a text.
        formatted(&format!("%{}s", self.how), |to, len, spec| unsafe {
            libc::snprintf(to, len, spec, text.as_ptr())
        })
    }
}

impl Machine<'_> {
    /// Prints as the call at `ins` says.
    pub(super) fn print(&mut self, thread: usize, ins: &Ins) -> Result<(), Stop> {
        let site = &self.kernel.calls[ins.imm as usize];
        let format = self.argument(thread, &site.inputs[0].here);
        let mut values = self.argument(thread, &site.inputs[1].here);
        let format = self.text(thread, format, ins)?;
        let (mut made, mut at, mut count) = (Vec::new(), 0, 0);
        while let Some(percent) = format[at..].iter().position(|&byte| byte == b'%') {
            made.extend_from_slice(&format[at..at + percent]);
            at += percent + 1;
            let mut value = |machine: &mut Self, size: u64| {
                count += 1;
                values = values.next_multiple_of(size);
                let place = machine.locate(Space::Generic, values, size, false, thread, ins)?;
                values += size;
                Ok::<u64, Stop>(load(place, size.ilog2() as u8, false))
            };
            let Some(found) = conversion(&format[at..], || value(self, 4))? else {
                made.push(b'%');
                continue;
            };
            at += found.len;
            match found.what {
                b'%' => made.push(b'%'),
                b's' => {
                    let text = value(self, 8)?;
                    let text = self.text(thread, text, ins)?;
                    made.extend_from_slice(&found.of_text(text));
                }
                b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' if !found.long => {
                    made.extend_from_slice(&found.of(value(self, 4)?));
                }
                _ => made.extend_from_slice(&found.of(value(self, 8)?)),
            }
            if count > ARGUMENTS_MAX {
                break;
            }
        }
        made.extend_from_slice(&format[at..]);
        fifo::add(&made);
        if let Some(result) = site.outputs.first() {
            self.set_result(thread, &result.here, count as u32);
        }
        Ok(())
    }

    /// Says which assertion failed.
    pub(super) fn say_assertion(&mut self, thread: usize, ins: &Ins) -> Result<(), Stop> {
        let site = &self.kernel.calls[ins.imm as usize];
        if site.inputs.len() < 4 {
            return Ok(());
        }
        let arguments: Vec<u64> = site
            .inputs
            .iter()
            .map(|input| self.argument(thread, &input.here))
            .collect();
        let mut text = |at: usize| {
            let text = self.text(thread, arguments[at], ins)?;
            Ok::<_, Stop>(String::from_utf8_lossy(&text).into_owned())
        };
        let (message, file, function) = (text(0)?, text(1)?, text(3)?);
        let axes = |of: fn(u8) -> Fixed| [0, 1, 2].map(|axis| self.fixed(thread, of(axis), 0));
        let ([bx, by, bz], [tx, ty, tz]) = (axes(Fixed::Ctaid), axes(Fixed::Tid));
        let line = arguments[2] as u32;
        eprintln!(
            "{file}:{line}: {function}: block: [{bx},{by},{bz}], thread: [{tx},{ty},{tz}] Assertion `{message}` failed."
        );
        Ok(())
    }

    /// What is passed to a function that is none of the module's.
    fn argument(&mut self, thread: usize, here: &Place) -> u64 {
        match *here {
            Place::Slot(slot) => self.regs(thread).get(slot),
            Place::Frame(at) => {
                let from = self.block.calls[thread].last().map_or(0, |a| a.frame()) + at;
                let bytes = self.local(thread).get(from..).unwrap_or_default();
                let mut value = [0; 8];
                let len = bytes.len().min(8);
                value[..len].copy_from_slice(&bytes[..len]);
                u64::from_le_bytes(value)
            }
        }
    }

    fn set_result(&mut self, thread: usize, here: &Place, value: u32) {
        match *here {
            Place::Slot(slot) => self.regs(thread).set(slot, value.into()),
            Place::Frame(at) => {
                let to = self.block.calls[thread].last().map_or(0, |a| a.frame()) + at;
                if let Some(place) = self.local(thread).get_mut(to..to + 4) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }

    /// The text at a generic address, up to its end.
    fn text(&mut self, thread: usize, address: u64, ins: &Ins) -> Result<Vec<u8>, Stop> {
        let mut text = Vec::new();
        while text.len() < TEXT_MAX {
            let at = address.wrapping_add(text.len() as u64);
            let place = self.locate(Space::Generic, at, 1, false, thread, ins)?;
            match load(place, 0, false) as u8 {
                0 => break,
                byte => text.push(byte),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: &str) -> Conversion {
        conversion::<()>(format.as_bytes(), || Ok(7)).unwrap().unwrap()
    }

    #[test]
    fn values_are_formatted_as_c_does() {
        assert_eq!(of("d").of(-5i64 as u64), b"-5");
        assert_eq!(of("5d|").of(42), b"   42");
        assert_eq!(of("-*d|").of(42), b"42     ");
        assert_eq!(of("08.3f").of(1.5f64.to_bits()), b"0001.500");
        assert_eq!(of("llx").of(1 << 40), b"10000000000");
        assert_eq!(of("#x").of(255), b"0xff");
        assert_eq!(of("c").of(65), b"A");
        assert_eq!(of(".2s").of_text(b"text".to_vec()), b"te");
        assert_eq!(conversion::<()>(b"k", || Ok(0)), Ok(None));
        assert_eq!(conversion::<()>(b"", || Ok(0)), Ok(None));
    }
}
