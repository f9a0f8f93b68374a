//! The library's log. This library says what is wrong by its results alone, so that the log is empty: nobody is called back, and
//! what is dumped has no lines.
use super::cuda;
use crate::abi::{Host, Out, Text};
use crate::lock;
use std::collections::BTreeSet;
use std::ffi::{OsStr, c_char, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use vgpu_protocol::result::{self, Code};

/// A CUlogsCallback: never called.
type Callback = unsafe extern "C" fn();

/// Handles of callbacks: numbers that were not used before.
struct Callbacks {
    last: usize,
    registered: BTreeSet<usize>,
}

static CALLBACKS: Mutex<Callbacks> = Mutex::new(Callbacks {
    last: 0,
    registered: BTreeSet::new(),
});

fn no_flags(flags: c_uint) -> Result<(), Code> {
    if flags == 0 {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

cuda! {
    fn cuLogsRegisterCallback(callback: Option<Callback>, _data: Host, handle: Out<usize>) {
        callback.ok_or(result::INVALID_VALUE)?;
        handle.check()?;
        let mut callbacks = lock(&CALLBACKS);
        callbacks.last += 16;
        let new = callbacks.last;
        callbacks.registered.insert(new);
        handle.set(new)
    }

    fn cuLogsUnregisterCallback(handle: usize) {
        if lock(&CALLBACKS).registered.remove(&handle) { Ok(()) } else { Err(result::INVALID_VALUE) }
    }

    fn cuLogsCurrent(at: Out<c_uint>, flags: c_uint) {
        no_flags(flags)?;
        at.set(0)
    }

    fn cuLogsDumpToFile(_from: Out<c_uint>, path: Text, flags: c_uint) {
        no_flags(flags)?;
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        std::fs::File::create(path).map(drop).map_err(|_| result::OPERATING_SYSTEM)
    }

    fn cuLogsDumpToMemory(_from: Out<c_uint>, buffer: Out<c_char>, size: Out<usize>, flags: c_uint) {
        no_flags(flags)?;
        buffer.check()?;
        if size.get()? == 0 {
            return Err(result::INVALID_VALUE);
        }
        buffer.set(0)?;
        size.set(0)
    }
}
