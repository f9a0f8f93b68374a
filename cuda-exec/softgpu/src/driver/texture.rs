//! Texture and surface objects: what they are of and how they are read. No kernel here reads one.

use super::abi::{CUcontext, In, Out, api};
use super::context::current;
use super::error::{self, Result};
use super::registry::new_handle;
use super::runtime::{Runtime, runtime};
use std::sync::Arc;

/// `CUDA_RESOURCE_DESC`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Resource {
    kind: u32,
    words: [u64; 16],
    flags: u32,
}

const ARRAY: u32 = 0;
const MIPMAPPED: u32 = 1;
const LINEAR: u32 = 2;
const PITCH_2D: u32 = 3;

/// `CUDA_TEXTURE_DESC` and `CUDA_RESOURCE_VIEW_DESC`
pub type Reading = [u32; 26];
pub type View = [u64; 14];

/// A texture or a surface.
pub struct Object {
    pub context: CUcontext,
    resource: Resource,
    /// A texture's.
    reading: Option<Reading>,
    view: Option<View>,
}

fn check(runtime: &Runtime, resource: &Resource) -> Result {
    let [address, format, width, height, pitch, ..] = resource.words;
    if resource.flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    let len = match resource.kind {
        ARRAY => return runtime.arrays.get(address).map(drop),
        MIPMAPPED => return runtime.mipmapped.get(address).map(drop),
        LINEAR => Some(width),
        PITCH_2D if format >> 32 != 0 && height != 0 => pitch.checked_mul(height - 1).map(|len| len + 1),
        _ => None,
    };
    let known = len.is_some_and(|len| len != 0 && runtime.memory.is_accessible(address, len, None));
    if known { Ok(()) } else { Err(error::INVALID_VALUE) }
}

fn create(out: Out<u64>, resource: Resource, reading: Option<Reading>, view: Option<View>) -> Result {
    let context = current()?.handle;
    let runtime = runtime()?;
    runtime.captures.forbid()?;
    check(runtime, &resource)?;
    if let Some([modes @ .., filter]) = reading.as_ref().map(|reading| &reading[..4])
        && (modes.iter().any(|mode| *mode > 3) || *filter > 1)
    {
        return Err(error::INVALID_VALUE);
    }
    let handle = new_handle();
    out.set(handle)?;
    let object = Object {
        context,
        resource,
        reading,
        view,
    };
    runtime.textures.add(handle, Arc::new(object));
    Ok(())
}

/// The texture, or the surface, of a handle.
fn find(handle: u64, is_texture: bool) -> Result<Arc<Object>> {
    let object = runtime()?.textures.get(handle)?;
    if object.reading.is_some() == is_texture {
        Ok(object)
    } else {
        Err(error::INVALID_HANDLE)
    }
}

fn destroy(handle: u64, is_texture: bool) -> Result {
    find(handle, is_texture)?;
    let runtime = runtime()?;
    runtime.captures.forbid()?;
    runtime.textures.remove(handle).map(drop)
}

api! { SYMBOLS;
    fn cuTexObjectCreate(out: Out<u64>, resource: In<Resource>, reading: In<Reading>, view: In<View>) {
        let view = if view.is_null() { None } else { Some(view.get()?) };
        create(out, resource.get()?, Some(reading.get()?), view)
    }

    fn cuTexObjectDestroy(handle: u64) {
        destroy(handle, true)
    }

    fn cuTexObjectGetResourceDesc(out: Out<Resource>, handle: u64) {
        out.set(find(handle, true)?.resource)
    }

    fn cuTexObjectGetTextureDesc(out: Out<Reading>, handle: u64) {
        out.set(find(handle, true)?.reading.ok_or(error::INVALID_HANDLE)?)
    }

    fn cuTexObjectGetResourceViewDesc(out: Out<View>, handle: u64) {
        out.set(find(handle, true)?.view.unwrap_or_default())
    }

    fn cuSurfObjectCreate(out: Out<u64>, resource: In<Resource>) {
        let resource = resource.get()?;
        if resource.kind != ARRAY {
            return Err(error::INVALID_VALUE);
        }
        create(out, resource, None, None)
    }

    fn cuSurfObjectDestroy(handle: u64) {
        destroy(handle, false)
    }

    fn cuSurfObjectGetResourceDesc(out: Out<Resource>, handle: u64) {
        out.set(find(handle, false)?.resource)
    }
}
