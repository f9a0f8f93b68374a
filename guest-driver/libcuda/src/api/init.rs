//! Starting, versions, entry points.
use super::cuda;
use crate::abi::{CUuuid, In, Out, Text};
use crate::exports::{self, Lookup};
use crate::session;
use std::ffi::{c_int, c_uint};
use vgpu_protocol::result::{self, Code};

/// The newest CUDA version of which the library has all symbols.
const VERSION: u32 = exports::NEWEST;

/// CU_GET_PROC_ADDRESS_LEGACY_STREAM and CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM.
const FLAG_LEGACY: u64 = 1;
const FLAG_PER_THREAD: u64 = 2;

/// CUdriverProcAddressQueryResult.
const FOUND: c_int = 0;
const SYMBOL_NOT_FOUND: c_int = 1;
const VERSION_NOT_SUFFICIENT: c_int = 2;

fn proc_address(
    symbol: Text,
    function: Out<usize>,
    version: c_int,
    flags: u64,
    status: Out<c_int>,
) -> Result<(), Code> {
    let name = symbol.get()?;
    function.check()?;
    if flags & !(FLAG_LEGACY | FLAG_PER_THREAD) != 0 || flags == FLAG_LEGACY | FLAG_PER_THREAD {
        return Err(result::INVALID_VALUE);
    }
    let version = u32::try_from(version).map_err(|_| result::INVALID_VALUE)?;
    let (address, said) = match exports::find(name.to_bytes(), version, flags == FLAG_PER_THREAD) {
        Lookup::Found(address) => (address, FOUND),
        Lookup::TooNew => (0, VERSION_NOT_SUFFICIENT),
        Lookup::Unknown => (0, SYMBOL_NOT_FOUND),
    };
    function.set(address)?;
    // Who asks for the status is told there, and the call itself has not failed.
    if said == FOUND || !status.is_null() {
        status.set_if_wanted(said);
        Ok(())
    } else {
        Err(result::NOT_FOUND)
    }
}

cuda! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        session::open().map(drop)
    }

    fn cuDriverGetVersion(version: Out<c_int>) {
        // It may be asked before cuInit, and never claims more than the host has once that is known.
        let host = session::get().map_or(VERSION, |s| s.gpus[0].driver_version);
        version.set(VERSION.min(host) as c_int)
    }

    fn cuGetProcAddress(symbol: Text, function: Out<usize>, version: c_int, flags: u64) {
        let status = Out::<c_int>::none();
        proc_address(symbol, function, version, flags, status)
    }

    fn cuGetProcAddress_v2(symbol: Text, function: Out<usize>, version: c_int, flags: u64, status: Out<c_int>) {
        proc_address(symbol, function, version, flags, status)
    }

    fn cuGetExportTable(table: Out<usize>, id: In<CUuuid>) {
        // None of the private tables is offered: their callers fall back or say so.
        id.get()?;
        table.set(0)?;
        Err(result::INVALID_VALUE)
    }
}
