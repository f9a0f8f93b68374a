//! Values by number.
use crate::told::{Device, Handle, known};
use crate::{Result, Return, api, code, get, put};
use std::ffi::{c_int, c_longlong, c_uint};
use vgpu_protocol::gpus::Gpu;

/// `nvmlFieldValue_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FieldValue {
    field: c_uint,
    scope: c_uint,
    /// Microseconds since 1970.
    timestamp: c_longlong,
    /// Microseconds.
    latency: c_longlong,
    kind: c_uint,
    result: Return,
    value: [u8; 8],
}

const _: () = assert!(size_of::<FieldValue>() == 40);

/// The numbers that are known here.
const ECC_CURRENT: c_uint = 1;
const ECC_PENDING: c_uint = 2;
/// An unsigned number of 32 bits.
const KIND_UINT: c_uint = 1;
/// Values that may be asked for at once.
const COUNT_MAX: c_int = 4096;

fn value(gpu: &Gpu, field: c_uint) -> Result<u32> {
    match field {
        ECC_CURRENT | ECC_PENDING => known(gpu.ecc),
        _ => Err(code::NOT_SUPPORTED),
    }
}

api! {
    fn nvmlDeviceGetFieldValues(device: Handle, count: c_int, values: *mut FieldValue) {
        let device = Device::of(device)?;
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(code::INVALID_ARGUMENT);
        }
        for at in 0..count as usize {
            let place = values.wrapping_add(at);
            let mut asked = get(place)?;
            match value(device.gpu(), asked.field) {
                Ok(number) => {
                    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                    asked.timestamp = now.as_micros().try_into().unwrap_or(c_longlong::MAX);
                    asked.latency = 0;
                    asked.kind = KIND_UINT;
                    asked.value = u64::from(number).to_ne_bytes();
                    asked.result = code::SUCCESS;
                }
                Err(code) => asked.result = code,
            }
            put(place, asked)?;
        }
        Ok(())
    }
}
