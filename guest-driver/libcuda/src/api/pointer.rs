//! What there is to know of an address: all of it is known here.
use super::cuda;
use crate::abi::{CUdeviceptr, Host, In, Out};
use crate::device_memory::Origin;
use crate::session::Call;
use std::ffi::{c_int, c_uint, c_void};
use vgpu_protocol::result::{self, Code};

/// CUpointer_attribute.
const CONTEXT: c_int = 1;
const MEMORY_TYPE: c_int = 2;
const DEVICE_POINTER: c_int = 3;
const HOST_POINTER: c_int = 4;
const P2P_TOKENS: c_int = 5;
const SYNC_MEMOPS: c_int = 6;
const BUFFER_ID: c_int = 7;
const IS_MANAGED: c_int = 8;
const DEVICE_ORDINAL: c_int = 9;
const IS_LEGACY_IPC_CAPABLE: c_int = 10;
const RANGE_START: c_int = 11;
const RANGE_SIZE: c_int = 12;
const MAPPED: c_int = 13;
const ALLOWED_HANDLE_TYPES: c_int = 14;
const IS_RDMA_CAPABLE: c_int = 15;
const ACCESS_FLAGS: c_int = 16;
const MEMPOOL_HANDLE: c_int = 17;
const MAPPING_SIZE: c_int = 18;
const MAPPING_BASE: c_int = 19;
const MEMORY_BLOCK_ID: c_int = 20;
const IS_HW_DECOMPRESS_CAPABLE: c_int = 21;

/// CUmemorytype.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
/// CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE.
const READ_WRITE: u32 = 3;

/// Memory that the device reaches.
struct Memory {
    kind: u32,
    start: u64,
    len: u64,
    context: u32,
    managed: bool,
    /// It is of `cuMemAlloc`, or a variable.
    own: bool,
    handle_types: u32,
    serial: u64,
}

/// An attribute's value, of its size in C, where a boolean is an int: the runtime reads four bytes of it.
enum Value {
    Word(u32),
    Long(u64),
}

impl Value {
    /// Stores it.
    fn set(self, place: Out<c_void>) -> Result<(), Code> {
        match self {
            Self::Word(value) => place.cast::<u32>().set(value),
            Self::Long(value) => place.cast::<u64>().set(value),
        }
    }

    /// What stands for it where there is no such memory.
    fn none(attribute: c_int) -> Result<Self, Code> {
        Ok(match attribute {
            CONTEXT | DEVICE_POINTER | HOST_POINTER | BUFFER_ID | RANGE_START | RANGE_SIZE
            | ALLOWED_HANDLE_TYPES | MEMPOOL_HANDLE | MAPPING_SIZE | MAPPING_BASE | MEMORY_BLOCK_ID => {
                Self::Long(0)
            }
            // CU_DEVICE_INVALID
            DEVICE_ORDINAL => Self::Word(-2i32 as u32),
            MEMORY_TYPE
            | ACCESS_FLAGS
            | SYNC_MEMOPS
            | IS_MANAGED
            | IS_LEGACY_IPC_CAPABLE
            | MAPPED
            | IS_RDMA_CAPABLE
            | IS_HW_DECOMPRESS_CAPABLE => Self::Word(0),
            P2P_TOKENS => return Err(result::NOT_SUPPORTED),
            _ => return Err(result::INVALID_VALUE),
        })
    }
}

fn find(call: &Call, pointer: CUdeviceptr) -> Option<Memory> {
    let session = call.session;
    let device = session.find_device(pointer, 1).map(|(start, memory)| Memory {
        kind: DEVICE,
        start,
        len: memory.len,
        context: memory.context,
        managed: false,
        own: memory.origin == Origin::Own,
        handle_types: memory.handle_types,
        serial: memory.serial,
    });
    device.or_else(|| {
        session.find_pinned(pointer, 1).map(|(start, memory)| Memory {
            kind: HOST,
            start,
            len: memory.len,
            context: memory.context,
            managed: memory.managed,
            own: false,
            handle_types: 0,
            serial: memory.serial,
        })
    })
}

fn attribute(call: &Call, attribute: c_int, pointer: CUdeviceptr, memory: &Memory) -> Result<Value, Code> {
    let context = || {
        let contexts = call.session.contexts.all();
        contexts.into_iter().find(|context| context.id == memory.context)
    };
    Ok(match attribute {
        CONTEXT => Value::Long(context().map_or(0, |context| context.handle() as u64)),
        MEMORY_TYPE => Value::Word(memory.kind),
        DEVICE_POINTER => Value::Long(pointer),
        HOST_POINTER if memory.kind == HOST => Value::Long(pointer),
        HOST_POINTER => return Err(result::INVALID_VALUE),
        SYNC_MEMOPS => Value::Word(0),
        BUFFER_ID | MEMORY_BLOCK_ID => Value::Long(memory.serial),
        IS_MANAGED => Value::Word(memory.managed.into()),
        IS_RDMA_CAPABLE | IS_HW_DECOMPRESS_CAPABLE => Value::Word(0),
        DEVICE_ORDINAL => Value::Word(context().map_or(0, |context| context.device as u32)),
        IS_LEGACY_IPC_CAPABLE => {
            let offered = vgpu_protocol::calls::find_name("cuIpcGetMemHandle");
            let offered = offered.is_some_and(|row| row.mode != vgpu_protocol::calls::Mode::None);
            Value::Word((memory.own && offered).into())
        }
        RANGE_START | MAPPING_BASE => Value::Long(memory.start),
        RANGE_SIZE | MAPPING_SIZE => Value::Long(memory.len),
        MAPPED => Value::Word(1),
        ALLOWED_HANDLE_TYPES => Value::Long(memory.handle_types.into()),
        MEMPOOL_HANDLE => Value::Long(0),
        ACCESS_FLAGS => Value::Word(READ_WRITE),
        other => return Value::none(other),
    })
}

cuda! {
    fn cuPointerGetAttribute(place: Out<c_void>, number: c_int, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        place.check()?;
        let none = Value::none(number)?;
        let memory = find(&call, pointer).ok_or(result::INVALID_VALUE)?;
        if number == HOST_POINTER {
            // It is the answer beside the error, too.
            none.set(place)?;
        }
        attribute(&call, number, pointer, &memory)?.set(place)
    }

    fn cuPointerGetAttributes(len: c_uint, numbers: In<c_int>, places: In<Out<c_void>>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        let memory = find(&call, pointer);
        for i in 0..len as usize {
            let (number, place) = (numbers.at(i)?, places.at(i)?);
            place.check()?;
            // Of memory that is not known, or has no such thing, the answer is nothing.
            let none = Value::none(number)?;
            let value = match (&memory, number) {
                (Some(memory), _) => attribute(&call, number, pointer, memory).unwrap_or(none),
                // What is not known is taken for the program's own memory, which has no range.
                (None, HOST_POINTER) => Value::Long(pointer),
                (None, RANGE_START | RANGE_SIZE) => continue,
                (None, _) => none,
            };
            value.set(place)?;
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: Host, number: c_int, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        let set = value.bytes(size_of::<c_uint>())?;
        find(&call, pointer).ok_or(result::INVALID_VALUE)?;
        match number {
            // It is off.
            SYNC_MEMOPS if set.iter().all(|&byte| byte == 0) => Ok(()),
            SYNC_MEMOPS => Err(result::NOT_SUPPORTED),
            _ => Err(result::INVALID_VALUE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boolean_is_an_int() {
        let mut place = [u32::MAX; 2];
        Value::none(IS_MANAGED)
            .and_then(|value| value.set(Out::to(&mut place[0]).cast()))
            .unwrap();
        assert_eq!(place, [0, u32::MAX]);
    }
}
