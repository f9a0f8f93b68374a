//! `VGPU_TRACE` has every call of the program told with its arguments, its result and how long it took: what a program asks for,
//! where it first fails, and what it waits for. With 1 it is told on standard error, with a path in the file of that name with the
//! process' number behind it.
use crate::abi::CUresult;
use crate::lock;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
/// Where it is told, if not on standard error.
static FILE: OnceLock<Option<Mutex<File>>> = OnceLock::new();

#[cold]
fn look() -> u8 {
    let wanted = std::env::var_os("VGPU_TRACE").filter(|value| !value.is_empty() && value != "0");
    let state = if wanted.is_some() { ON } else { OFF };
    FILE.get_or_init(|| {
        let mut path = wanted
            .filter(|path| path.as_encoded_bytes().contains(&b'/'))?
            .into_vec();
        path.extend(format!(".{}", std::process::id()).bytes());
        let path = PathBuf::from(std::ffi::OsString::from_vec(path));
        // What cannot be written there is told on standard error.
        File::create(path).ok().map(Mutex::new)
    });
    STATE.store(state, Ordering::Relaxed);
    state
}

pub fn is_on() -> bool {
    let state = match STATE.load(Ordering::Relaxed) {
        UNKNOWN => look(),
        state => state,
    };
    state == ON
}

#[cold]
fn tell(line: &str) {
    // A trace that cannot be written is no reason to fail the program.
    let _ = match FILE.get() {
        Some(Some(file)) => writeln!(lock(file), "{line}"),
        _ => writeln!(std::io::stderr(), "vgpu: {line}"),
    };
}

/// A call's arguments as they are told, if they are, and when it began.
pub type Said = Option<(String, Instant)>;

/// An argument: a number, a handle or a pointer. What is larger is not told.
pub fn argument<T: 'static>(argument: &T) -> String {
    let len = size_of::<T>();
    let mut word = [0; size_of::<u64>()];
    if len > word.len() {
        return "...".into();
    }
    // SAFETY: arguments have no padding, and this one fits.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(argument).cast(), word.as_mut_ptr(), len) };
    format!("{:#x}", u64::from_le_bytes(word))
}

/// The arguments of a call.
macro_rules! said {
    ($($arg:ident),*) => {
        $crate::trace::is_on().then(|| {
            let arguments: &[String] = &[$($crate::trace::argument(&$arg)),*];
            (arguments.join(", "), std::time::Instant::now())
        })
    };
}
pub(crate) use said;

/// A call ended.
pub fn ended(name: &str, said: Said, result: CUresult) {
    if let Some((said, began)) = said {
        let took = began.elapsed().as_micros();
        // SAFETY: takes nothing and always succeeds.
        let thread = unsafe { libc::gettid() };
        tell(&format!("{thread} {name}({said}) -> {result} in {took} us"));
    }
}

/// A function was asked for that a driver of that version has not.
pub fn not_found(name: &CStr, version: u32) {
    if is_on() {
        tell(&format!(
            "no function {} of version {version}",
            name.to_string_lossy()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_as_numbers() {
        let place = 0u64;
        assert_eq!(argument(&-1i32), "0xffffffff");
        assert_eq!(argument(&7usize), "0x7");
        assert_eq!(argument(&std::ptr::from_ref(&place)), format!("{:p}", &place));
        assert_eq!(argument(&[0u8; 64]), "...");
    }
}
