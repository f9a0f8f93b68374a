//! Names and texts of results.
use super::cuda;
use crate::abi::{CUresult, Out};
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::OnceLock;
use vgpu_protocol::result::{self, Code};

struct Texts {
    name: CString,
    text: CString,
}

/// What is known of a result; the strings live as long as the process.
fn texts(code: Code) -> Option<&'static Texts> {
    static ALL: OnceLock<HashMap<Code, Texts>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let known = result::ALL.iter().filter_map(|&(code, name, text)| {
            let (name, text) = (CString::new(name).ok()?, CString::new(text).ok()?);
            Some((code, Texts { name, text }))
        });
        known.collect()
    });
    all.get(&code)
}

fn set(place: Out<*const c_char>, string: Option<&'static CString>) -> Result<(), Code> {
    match string {
        Some(string) => place.set(string.as_ptr()),
        None => {
            place.set(std::ptr::null())?;
            Err(result::INVALID_VALUE)
        }
    }
}

cuda! {
    fn cuGetErrorName(error: CUresult, name: Out<*const c_char>) {
        set(name, texts(error).map(|t| &t.name))
    }

    fn cuGetErrorString(error: CUresult, text: Out<*const c_char>) {
        set(text, texts(error).map(|t| &t.text))
    }
}
