//! Arrays, and arrays of several levels; copies from and to arrays of one dimension.
use super::capture::refuse_in_capture;
use super::copy::copy;
use super::rows::rows;
use super::{cuda, cuda_pairs};
use crate::abi::{CUarray, CUdevice, CUdeviceptr, CUmipmappedArray, CUstream, Host, In, Out};
use crate::handles::{Entry, Found};
use crate::lock;
use crate::session::{Call, NullStream};
use std::collections::HashMap;
use std::ffi::c_uint;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls::{
    cuArray3DCreate, cuArray3DGetDescriptor, cuArrayDestroy, cuArrayGetDescriptor,
    cuArrayGetMemoryRequirements, cuArrayGetPlane, cuArrayGetSparseProperties, cuMipmappedArrayCreate,
    cuMipmappedArrayDestroy, cuMipmappedArrayGetLevel, cuMipmappedArrayGetMemoryRequirements,
    cuMipmappedArrayGetSparseProperties,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{
    Array3DDescriptor, ArrayDescriptor, ArrayMemory, ArraySparse, CopySide, Memcpy3D, MemcpySide,
};
use zerocopy::{FromBytes, IntoBytes};

/// An array.
pub struct Array {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    /// It is a part of another one, and ends with that.
    is_part: bool,
    /// Handles of its planes.
    parts: Parts,
}

/// An array of several levels.
pub struct Mipmapped {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    /// Handles of its levels.
    parts: Parts,
}

/// Parts that were asked for, by their index: each is one array, however often it is.
#[derive(Default)]
struct Parts(Mutex<HashMap<u32, CUarray>>);

impl Parts {
    fn get(
        &self,
        call: &Call,
        index: u32,
        context: u32,
        ask: impl FnOnce(u32) -> Result<(), Code>,
    ) -> Result<CUarray, Code> {
        let mut parts = lock(&self.0);
        if let Some(&part) = parts.get(&index) {
            return Ok(part);
        }
        let made = make(call, context, true, ask)?;
        parts.insert(index, made.handle());
        Ok(made.handle())
    }

    /// What they are parts of is gone.
    fn end(&self, call: &Call) {
        let arrays = &call.session.arrays;
        for (_, part) in lock(&self.0).drain() {
            if let Some(part) = arrays.remove(part) {
                arrays.release(part.id);
            }
        }
    }
}

/// The array of a handle.
pub(super) fn find_array(call: &Call, array: CUarray) -> Result<Found<Array>, Code> {
    call.session.arrays.get(array).ok_or(result::INVALID_HANDLE)
}

/// The array of several levels of a handle.
pub(super) fn find_mipmapped(call: &Call, array: CUmipmappedArray) -> Result<Found<Mipmapped>, Code> {
    call.session.mipmapped.get(array).ok_or(result::INVALID_HANDLE)
}

/// An array that `ask` has the host make under a new number.
fn make(
    call: &Call,
    context: u32,
    is_part: bool,
    ask: impl FnOnce(u32) -> Result<(), Code>,
) -> Result<Arc<Entry<Array>>, Code> {
    let arrays = &call.session.arrays;
    let id = arrays.reserve().ok_or(result::OUT_OF_MEMORY)?;
    if let Err(code) = ask(id) {
        arrays.release(id);
        return Err(code);
    }
    let array = Array {
        id,
        context,
        is_part,
        parts: Parts::default(),
    };
    Ok(arrays.insert(id, array))
}

fn create(place: Out<CUarray>, wanted: Array3DDescriptor) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?.id;
    place.check()?;
    let made = make(&call, context, false, |array| {
        let arguments = cuArray3DCreate::In { array };
        call.ask_with::<cuArray3DCreate::Call>(context, arguments, wanted.as_bytes())
            .map(drop)
    })?;
    place.set(made.handle())
}

/// What the host said of an array.
fn told<T: FromBytes>(place: Out<T>, answer: Result<((), Vec<u8>), Code>) -> Result<(), Code> {
    let (_, blob) = answer?;
    place.set(T::read_from_bytes(&blob).map_err(|_| result::UNKNOWN)?)
}

/// Asks of an array, whatever the call.
macro_rules! ask {
    ($call:ident, $place:ident, $op:ident $found:ident { $($field:ident: $value:expr),* }) => {{
        $place.check()?;
        let answer = $call.ask_with::<$op::Call>($found.context, $op::In { $($field: $value),* }, &[]);
        told($place, answer.map(|(_, blob)| ((), blob)))
    }};
}

/// One side of a copy of bytes.
enum Bytes {
    Array(CUarray, usize),
    Device(CUdeviceptr),
    Host(Host),
}

impl Bytes {
    fn side(&self) -> MemcpySide {
        match *self {
            Self::Array(array, x) => MemcpySide {
                memory: CopySide::ARRAY,
                array,
                x,
                ..MemcpySide::default()
            },
            Self::Device(device) => MemcpySide {
                memory: CopySide::DEVICE,
                device,
                ..MemcpySide::default()
            },
            Self::Host(host) => MemcpySide {
                memory: CopySide::HOST,
                host: host.addr() as usize,
                ..MemcpySide::default()
            },
        }
    }
}

/// Copies bytes: a row of them.
fn bytes(
    to: Bytes,
    from: Bytes,
    width: usize,
    stream: Option<CUstream>,
    null: NullStream,
) -> Result<(), Code> {
    if [&to, &from].iter().any(|side| matches!(side, Bytes::Array(0, _))) {
        return Err(result::INVALID_VALUE);
    }
    let raw = Memcpy3D {
        from: from.side(),
        to: to.side(),
        width,
        height: 1,
        depth: 1,
    };
    copy(stream, null, |job| rows(job, &raw))
}

cuda! {
    fn cuArray3DCreate_v2(array: Out<CUarray>, wanted: In<Array3DDescriptor>) {
        create(array, wanted.get()?)
    }

    fn cuArrayCreate_v2(array: Out<CUarray>, wanted: In<ArrayDescriptor>) {
        let ArrayDescriptor { width, height, format, channels } = wanted.get()?;
        create(array, Array3DDescriptor { width, height, format, channels, ..Array3DDescriptor::default() })
    }

    fn cuArrayDestroy(array: CUarray) {
        let call = Call::enter()?;
        let arrays = &call.session.arrays;
        if find_array(&call, array)?.is_part {
            return Err(result::INVALID_HANDLE);
        }
        refuse_in_capture(&call)?;
        let entry = arrays.remove(array).ok_or(result::INVALID_HANDLE)?;
        let destroyed = call.ask::<cuArrayDestroy::Call>(entry.context, cuArrayDestroy::In { array: entry.id });
        entry.parts.end(&call);
        arrays.release(entry.id);
        destroyed.map(drop)
    }

    fn cuArray3DGetDescriptor_v2(descriptor: Out<Array3DDescriptor>, array: CUarray) {
        let call = Call::enter()?;
        let array = find_array(&call, array)?;
        ask!(call, descriptor, cuArray3DGetDescriptor array { array: array.id })
    }

    fn cuArrayGetDescriptor_v2(descriptor: Out<ArrayDescriptor>, array: CUarray) {
        let call = Call::enter()?;
        let array = find_array(&call, array)?;
        ask!(call, descriptor, cuArrayGetDescriptor array { array: array.id })
    }

    fn cuArrayGetMemoryRequirements(memory: Out<ArrayMemory>, array: CUarray, device: CUdevice) {
        let call = Call::enter()?;
        super::device::gpu(&call, device)?;
        let array = find_array(&call, array)?;
        ask!(call, memory, cuArrayGetMemoryRequirements array { array: array.id, device: device as u32 })
    }

    fn cuArrayGetSparseProperties(properties: Out<ArraySparse>, array: CUarray) {
        let call = Call::enter()?;
        let array = find_array(&call, array)?;
        ask!(call, properties, cuArrayGetSparseProperties array { array: array.id })
    }

    fn cuArrayGetPlane(plane: Out<CUarray>, array: CUarray, index: c_uint) {
        let call = Call::enter()?;
        let array = find_array(&call, array)?;
        plane.check()?;
        let part = array.parts.get(&call, index, array.context, |plane| {
            let arguments = cuArrayGetPlane::In { array: array.id, index, plane };
            call.ask::<cuArrayGetPlane::Call>(array.context, arguments).map(drop)
        })?;
        plane.set(part)
    }

    fn cuMipmappedArrayCreate(place: Out<CUmipmappedArray>, wanted: In<Array3DDescriptor>, levels: c_uint) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        place.check()?;
        let wanted = wanted.get()?;
        let arrays = &call.session.mipmapped;
        let id = arrays.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = cuMipmappedArrayCreate::In { levels, mipmapped: id };
        if let Err(code) = call.ask_with::<cuMipmappedArrayCreate::Call>(context, arguments, wanted.as_bytes()) {
            arrays.release(id);
            return Err(code);
        }
        place.set(arrays.insert(id, Mipmapped { id, context, parts: Parts::default() }).handle())
    }

    fn cuMipmappedArrayDestroy(array: CUmipmappedArray) {
        let call = Call::enter()?;
        let arrays = &call.session.mipmapped;
        drop(find_mipmapped(&call, array)?);
        refuse_in_capture(&call)?;
        let entry = arrays.remove(array).ok_or(result::INVALID_HANDLE)?;
        let arguments = cuMipmappedArrayDestroy::In { mipmapped: entry.id };
        let destroyed = call.ask::<cuMipmappedArrayDestroy::Call>(entry.context, arguments);
        entry.parts.end(&call);
        arrays.release(entry.id);
        destroyed.map(drop)
    }

    fn cuMipmappedArrayGetLevel(place: Out<CUarray>, array: CUmipmappedArray, level: c_uint) {
        let call = Call::enter()?;
        let mipmapped = find_mipmapped(&call, array)?;
        place.check()?;
        let part = mipmapped.parts.get(&call, level, mipmapped.context, |array| {
            let arguments = cuMipmappedArrayGetLevel::In { mipmapped: mipmapped.id, level, array };
            call.ask::<cuMipmappedArrayGetLevel::Call>(mipmapped.context, arguments).map(drop)
        })?;
        place.set(part)
    }

    fn cuMipmappedArrayGetMemoryRequirements(memory: Out<ArrayMemory>, array: CUmipmappedArray, device: CUdevice) {
        let call = Call::enter()?;
        super::device::gpu(&call, device)?;
        let array = find_mipmapped(&call, array)?;
        ask!(call, memory, cuMipmappedArrayGetMemoryRequirements array { mipmapped: array.id, device: device as u32 })
    }

    fn cuMipmappedArrayGetSparseProperties(properties: Out<ArraySparse>, array: CUmipmappedArray) {
        let call = Call::enter()?;
        let array = find_mipmapped(&call, array)?;
        ask!(call, properties, cuMipmappedArrayGetSparseProperties array { mipmapped: array.id })
    }
}

cuda_pairs! {
    fn cuMemcpyAtoA_v2 / cuMemcpyAtoA_v2_ptds(
        to: CUarray, to_offset: usize, from: CUarray, from_offset: usize, len: usize,
    ) |null| {
        bytes(Bytes::Array(to, to_offset), Bytes::Array(from, from_offset), len, None, null)
    }

    fn cuMemcpyAtoD_v2 / cuMemcpyAtoD_v2_ptds(to: CUdeviceptr, from: CUarray, offset: usize, len: usize) |null| {
        bytes(Bytes::Device(to), Bytes::Array(from, offset), len, None, null)
    }

    fn cuMemcpyDtoA_v2 / cuMemcpyDtoA_v2_ptds(to: CUarray, offset: usize, from: CUdeviceptr, len: usize) |null| {
        bytes(Bytes::Array(to, offset), Bytes::Device(from), len, None, null)
    }

    fn cuMemcpyAtoH_v2 / cuMemcpyAtoH_v2_ptds(to: Host, from: CUarray, offset: usize, len: usize) |null| {
        bytes(Bytes::Host(to), Bytes::Array(from, offset), len, None, null)
    }

    fn cuMemcpyHtoA_v2 / cuMemcpyHtoA_v2_ptds(to: CUarray, offset: usize, from: Host, len: usize) |null| {
        bytes(Bytes::Array(to, offset), Bytes::Host(from), len, None, null)
    }

    fn cuMemcpyAtoHAsync_v2 / cuMemcpyAtoHAsync_v2_ptsz(
        to: Host, from: CUarray, offset: usize, len: usize, stream: CUstream,
    ) |null| {
        bytes(Bytes::Host(to), Bytes::Array(from, offset), len, Some(stream), null)
    }

    fn cuMemcpyHtoAAsync_v2 / cuMemcpyHtoAAsync_v2_ptsz(
        to: CUarray, offset: usize, from: Host, len: usize, stream: CUstream,
    ) |null| {
        bytes(Bytes::Array(to, offset), Bytes::Host(from), len, Some(stream), null)
    }
}
