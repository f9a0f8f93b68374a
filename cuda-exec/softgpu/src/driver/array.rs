//! Arrays: rows of elements one after the other, in memory of the device.

use super::abi::{CUarray, CUcontext, CUmipmappedArray, In, Out, api};
use super::context::current;
use super::error::{self, Result};
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// `CUDA_ARRAY3D_LAYERED`, `_SURFACE_LDST`, `_CUBEMAP` and `_TEXTURE_GATHER`.
const LAYERED: u32 = 1;
const FLAGS: u32 = LAYERED | 2 | 4 | 8;

/// `CUDA_ARRAY3D_DESCRIPTOR`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Descriptor3D {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Descriptor {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

/// `CUDA_ARRAY_MEMORY_REQUIREMENTS` and `CUDA_ARRAY_SPARSE_PROPERTIES`, which no array here has.
pub type Requirements = [u64; 4];
pub type Sparse = [u64; 6];

/// An array, or a level of one.
pub struct Array {
    pub context: CUcontext,
    wanted: Descriptor3D,
    pub address: u64,
    /// It is a level: its memory is another one's.
    is_level: bool,
}

/// An array of several levels.
pub struct Mipmapped {
    pub context: CUcontext,
    levels: Vec<(Descriptor3D, u64)>,
    /// Handles given out so far.
    handles: Mutex<HashMap<u32, CUarray>>,
}

/// Bytes of an element of an array or a texture, if there can be such.
pub fn element(format: u32, channels: u32) -> Option<usize> {
    let number = match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => return None,
    };
    matches!(channels, 1 | 2 | 4).then_some(number * channels as usize)
}

impl Descriptor3D {
    fn check(&self) -> Result {
        let depth_is_alone = self.depth > 0 && self.height == 0 && self.flags & LAYERED == 0;
        let known = self.element().is_some() && self.flags & !FLAGS == 0;
        if self.width == 0 || depth_is_alone || !known {
            return Err(error::INVALID_VALUE);
        }
        Ok(())
    }

    /// Bytes of an element.
    fn element(&self) -> Option<usize> {
        element(self.format, self.channels)
    }

    /// Bytes of a row, rows and slices.
    pub fn size(&self) -> [usize; 3] {
        [
            self.width * self.element().unwrap_or(1),
            self.height.max(1),
            self.depth.max(1),
        ]
    }

    fn bytes(&self) -> Result<u64> {
        let [row, rows, slices] = self.size();
        let bytes = row.checked_mul(rows).and_then(|slice| slice.checked_mul(slices));
        bytes.map(|bytes| bytes as u64).ok_or(error::INVALID_VALUE)
    }

    /// The level below.
    fn halved(&self) -> Self {
        let half = |n: usize| if n == 0 { 0 } else { (n / 2).max(1) };
        Self {
            width: half(self.width),
            height: half(self.height),
            depth: if self.flags & LAYERED == 0 {
                half(self.depth)
            } else {
                self.depth
            },
            ..*self
        }
    }
}

impl Array {
    /// Bytes of a row, rows and slices.
    pub fn size(&self) -> [usize; 3] {
        self.wanted.size()
    }
}

fn create(out: Out<CUarray>, wanted: Descriptor3D) -> Result {
    let context = current()?;
    let runtime = runtime()?;
    runtime.captures.forbid()?;
    wanted.check()?;
    let handle = new_handle();
    out.set(handle)?;
    let address = runtime.memory.allocate(&context, wanted.bytes()?)?;
    let array = Array {
        context: context.handle,
        wanted,
        address,
        is_level: false,
    };
    runtime.arrays.add(handle, Arc::new(array));
    Ok(())
}

fn mipmapped(out: Out<CUmipmappedArray>, wanted: Descriptor3D, count: u32) -> Result {
    let context = current()?;
    let runtime = runtime()?;
    runtime.captures.forbid()?;
    wanted.check()?;
    let longest = wanted
        .width
        .max(wanted.height)
        .max(if wanted.flags & LAYERED == 0 {
            wanted.depth
        } else {
            0
        });
    if count == 0 {
        return Err(error::INVALID_VALUE);
    }
    // As many as there can be, if more are asked for.
    let count = count.min(longest.ilog2() + 1);
    let (mut levels, mut level, mut bytes) = (Vec::new(), wanted, 0u64);
    for _ in 0..count {
        levels.push((level, bytes));
        bytes = level.bytes()?.checked_add(bytes).ok_or(error::INVALID_VALUE)?;
        level = level.halved();
    }
    let handle = new_handle();
    out.set(handle)?;
    let address = runtime.memory.allocate(&context, bytes)?;
    levels.iter_mut().for_each(|(_, at)| *at += address);
    let array = Mipmapped {
        context: context.handle,
        levels,
        handles: Mutex::default(),
    };
    runtime.mipmapped.add(handle, Arc::new(array));
    Ok(())
}

fn level(runtime: &Runtime, array: &Mipmapped, index: u32) -> Result<CUarray> {
    let &(wanted, address) = array.levels.get(index as usize).ok_or(error::INVALID_VALUE)?;
    let mut handles = array.handles.lock().unwrap_or_else(|e| e.into_inner());
    Ok(*handles.entry(index).or_insert_with(|| {
        let handle = new_handle();
        let level = Array {
            context: array.context,
            wanted,
            address,
            is_level: true,
        };
        runtime.arrays.add(handle, Arc::new(level));
        handle
    }))
}

api! { SYMBOLS;
    fn cuArray3DCreate_v2(out: Out<CUarray>, wanted: In<Descriptor3D>) {
        create(out, wanted.get()?)
    }

    fn cuArrayCreate_v2(out: Out<CUarray>, wanted: In<Descriptor>) {
        let Descriptor { width, height, format, channels } = wanted.get()?;
        create(out, Descriptor3D { width, height, depth: 0, format, channels, flags: 0 })
    }

    fn cuArray3DGetDescriptor_v2(out: Out<Descriptor3D>, array: CUarray) {
        out.set(runtime()?.arrays.get(array)?.wanted)
    }

    fn cuArrayGetDescriptor_v2(out: Out<Descriptor>, array: CUarray) {
        let Descriptor3D { width, height, format, channels, .. } = runtime()?.arrays.get(array)?.wanted;
        out.set(Descriptor { width, height, format, channels })
    }

    fn cuArrayDestroy(array: CUarray) {
        let context = current()?;
        let runtime = initialised()?;
        runtime.captures.forbid()?;
        if runtime.arrays.get(array)?.is_level {
            return Err(error::INVALID_HANDLE);
        }
        let array = runtime.arrays.remove(array)?;
        context.drain();
        runtime.check()?;
        runtime.memory.free(runtime, array.address)
    }

    fn cuArrayGetMemoryRequirements(_out: Out<Requirements>, array: CUarray, _device: i32) {
        runtime()?.arrays.get(array)?;
        Err(error::INVALID_VALUE)
    }

    fn cuArrayGetSparseProperties(_out: Out<Sparse>, array: CUarray) {
        runtime()?.arrays.get(array)?;
        Err(error::INVALID_VALUE)
    }

    fn cuArrayGetPlane(_out: Out<CUarray>, array: CUarray, _index: u32) {
        runtime()?.arrays.get(array)?;
        Err(error::INVALID_VALUE)
    }

    fn cuMipmappedArrayCreate(out: Out<CUmipmappedArray>, wanted: In<Descriptor3D>, levels: u32) {
        mipmapped(out, wanted.get()?, levels)
    }

    fn cuMipmappedArrayDestroy(array: CUmipmappedArray) {
        let context = current()?;
        let runtime = initialised()?;
        runtime.captures.forbid()?;
        let array = runtime.mipmapped.remove(array)?;
        context.drain();
        runtime.check()?;
        for (_, level) in array.handles.lock().unwrap_or_else(|e| e.into_inner()).drain() {
            runtime.arrays.remove(level)?;
        }
        runtime.memory.free(runtime, array.levels[0].1)
    }

    fn cuMipmappedArrayGetLevel(out: Out<CUarray>, array: CUmipmappedArray, index: u32) {
        let runtime = runtime()?;
        out.set(level(runtime, &*runtime.mipmapped.get(array)?, index)?)
    }

    fn cuMipmappedArrayGetMemoryRequirements(_out: Out<Requirements>, array: CUmipmappedArray, _device: i32) {
        runtime()?.mipmapped.get(array)?;
        Err(error::INVALID_VALUE)
    }

    fn cuMipmappedArrayGetSparseProperties(_out: Out<Sparse>, array: CUmipmappedArray) {
        runtime()?.mipmapped.get(array)?;
        Err(error::INVALID_VALUE)
    }
}
