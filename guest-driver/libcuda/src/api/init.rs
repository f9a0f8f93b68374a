//! Starting, versions, entry points.
use super::cuda;
use crate::abi::{CUuuid, In, Out, Text};
use crate::export_tables;
use crate::exports::{self, Lookup};
use crate::{session, trace};
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

/// The driver's version. It may be asked for before cuInit, and never claims more than the host has once that is known.
pub fn driver_version() -> u32 {
    let host = session::get().map_or(VERSION, |s| s.gpus[0].driver_version);
    VERSION.min(host)
}

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
    if said != FOUND {
        trace::not_found(name, version);
    }
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
        version.set(driver_version() as c_int)
    }

    fn cuGetProcAddress(symbol: Text, function: Out<usize>, version: c_int, flags: u64) {
        let status = Out::<c_int>::none();
        proc_address(symbol, function, version, flags, status)
    }

    fn cuGetProcAddress_v2(symbol: Text, function: Out<usize>, version: c_int, flags: u64, status: Out<c_int>) {
        proc_address(symbol, function, version, flags, status)
    }

    fn cuGetExportTable(table: Out<usize>, id: In<CUuuid>) {
        let found = export_tables::find(id.get()?);
        table.set(found.unwrap_or(0))?;
        // Callers of tables that are not offered fall back, or say so.
        found.map(drop).ok_or(result::INVALID_VALUE)
    }
}
