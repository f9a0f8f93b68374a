//! Linking at run time: of PTX alone, into more PTX.

use super::abi::{CUlinkState, In, Out, Text, api};
use super::context::current;
use super::error::{self, Result};
use super::module::{ErrorLog, image_text};
use super::registry::new_handle;
use super::runtime::{Runtime, runtime};
use crate::ptx::parse;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

/// `CUjitInputType`
const CUBIN: i32 = 0;
const PTX: i32 = 1;
const FATBINARY: i32 = 2;

/// A link that was begun.
pub struct Link {
    inputs: Mutex<Vec<String>>,
    /// The result; the program reads it until it destroys the link.
    image: Mutex<Option<CString>>,
    /// Where its options are, which the program keeps as long as the link.
    options: (usize, usize, usize),
}

impl Link {
    fn log(&self) -> ErrorLog {
        let (options, values, len) = self.options;
        ErrorLog(In(options as *const i32), In(values as *const u64), len)
    }

    /// Says why, and that it is so.
    fn refuse(&self, why: &str, code: error::CuError) -> error::CuError {
        eprintln!("softgpu: link: {why}");
        self.log().write(why);
        code
    }
}

fn find(runtime: &Runtime, link: CUlinkState) -> Result<Arc<Link>> {
    runtime.links.get(link)
}

fn create(len: u32, options: In<i32>, values: In<u64>, out: Out<CUlinkState>) -> Result {
    current()?;
    let handle = new_handle();
    out.set(handle)?;
    let link = Link {
        inputs: Mutex::default(),
        image: Mutex::default(),
        options: (options.0 as usize, values.0 as usize, len as usize),
    };
    runtime()?.links.add(handle, Arc::new(link));
    Ok(())
}

fn add(link: &Link, kind: i32, text: String) -> Result {
    if kind != PTX && kind != FATBINARY && kind != CUBIN {
        return Err(error::INVALID_VALUE);
    }
    parse::parse(&text).map_err(|why| link.refuse(&format!("PTX {why}\n"), error::INVALID_PTX))?;
    link.inputs.lock().unwrap_or_else(|e| e.into_inner()).push(text);
    Ok(())
}

/// PTX without what stands once in a file.
fn body(text: &str) -> String {
    let heads = [".version", ".target", ".address_size"];
    let kept = text
        .lines()
        .filter(|line| !heads.iter().any(|head| line.trim_start().starts_with(head)));
    kept.map(|line| format!("{line}\n")).collect()
}

fn complete(link: &Link, image: Out<*const c_void>, len: Out<usize>) -> Result {
    let inputs = link.inputs.lock().unwrap_or_else(|e| e.into_inner());
    let mut done = link.image.lock().unwrap_or_else(|e| e.into_inner());
    let (first, more) = inputs.split_first().ok_or(error::INVALID_VALUE)?;
    let mut whole = first.clone();
    whole.extend(more.iter().map(|text| body(text)));
    parse::parse(&whole).map_err(|why| link.refuse(&format!("PTX {why}\n"), error::INVALID_IMAGE))?;
    let whole = CString::new(whole).map_err(|_| error::INVALID_IMAGE)?;
    let whole = done.insert(whole);
    image.set(whole.as_ptr().cast())?;
    len.set_if_wanted(whole.as_bytes_with_nul().len());
    Ok(())
}

api! { SYMBOLS;
    fn cuLinkCreate_v2(len: u32, options: In<i32>, values: In<u64>, out: Out<CUlinkState>) {
        create(len, options, values, out)
    }

    fn cuLinkAddData_v2(
        link: CUlinkState, kind: i32, data: *const c_void, len: usize, _name: Text, _options_len: u32, _options: In<i32>,
        _values: In<u64>,
    ) {
        let link = find(runtime()?, link)?;
        let text = match kind {
            FATBINARY => image_text(data)?,
            _ => {
                let bytes = In(data.cast::<u8>()).bytes(len)?;
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                String::from_utf8(bytes[..end].to_vec()).map_err(|_| error::INVALID_IMAGE)?
            }
        };
        add(&link, kind, text)
    }

    fn cuLinkAddFile_v2(
        link: CUlinkState, kind: i32, path: Text, _options_len: u32, _options: In<i32>, _values: In<u64>,
    ) {
        let link = find(runtime()?, link)?;
        let text = std::fs::read_to_string(path.get()?).map_err(|_| error::FILE_NOT_FOUND)?;
        add(&link, kind, text)
    }

    fn cuLinkComplete(link: CUlinkState, image: Out<*const c_void>, len: Out<usize>) {
        complete(&*find(runtime()?, link)?, image, len)
    }

    fn cuLinkDestroy(link: CUlinkState) {
        runtime()?.links.remove(link).map(|_| ())
    }
}
