//! `VGPU_TRACE` has every call of the program told with its result: what a program asks for, and where it first fails. With
//! 1 it is told on standard error, with a path in the file of that name with the process' number behind it.
use crate::abi::CUresult;
use crate::lock;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

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

fn is_on() -> bool {
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

/// A call ended.
pub fn ended(name: &str, result: CUresult) {
    if is_on() {
        // SAFETY: takes nothing and always succeeds.
        let thread = unsafe { libc::gettid() };
        tell(&format!("{thread} {name} -> {result}"));
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
