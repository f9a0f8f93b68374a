//! Texture and surface objects. Kernels get them as numbers, so that the numbers are libcuda's own.
use super::BAD_HANDLE;
use crate::dispatch::handlers_of;
use crate::handles::Context;
use crate::ring::{Consumer, Failure};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::limits::OBJECTS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{ResourceDesc, ResourceViewDesc, TextureDesc};
use zerocopy::{FromBytes, IntoBytes};

/// A texture or a surface.
pub struct Object {
    context: Arc<Context>,
    value: u64,
    kind: Kind,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Texture,
    Surface,
}

impl Drop for Object {
    fn drop(&mut self) {
        let session = self.context.session;
        let arrays = &session.cuda.arrays;
        let current = self.context.make_current();
        let destroy = || match self.kind {
            Kind::Texture => arrays.texture_destroy(self.value),
            Kind::Surface => arrays.surface_destroy(self.value),
        };
        session.survive(current.and_then(|()| session.relaxed(destroy)));
    }
}

/// A session's textures and surfaces, by their numbers.
#[derive(Default)]
pub struct TextureObjects(Mutex<HashMap<(u64, bool), Arc<Object>>>);

impl TextureObjects {
    fn all(&self) -> MutexGuard<'_, HashMap<(u64, bool), Arc<Object>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more, which `make` makes.
    fn add(
        &self,
        context: Arc<Context>,
        kind: Kind,
        make: impl FnOnce() -> Result<u64, Code>,
    ) -> Result<u64, Code> {
        if self.all().len() >= OBJECTS_MAX as usize {
            return Err(result::OUT_OF_MEMORY);
        }
        let value = make()?;
        let object = Arc::new(Object { context, value, kind });
        let mut all = self.all();
        // As for objects with ids: the end of the context does not find it any more. No lock is held while one is destroyed.
        let (replaced, added) = match object.context.is_destroyed() {
            true => (Some(object), Err(result::CONTEXT_IS_DESTROYED)),
            // libcuda gives no number twice.
            false => (all.insert((value, kind == Kind::Surface), object), Ok(value)),
        };
        drop(all);
        drop(replaced);
        added
    }

    fn get(&self, value: u64, kind: Kind) -> Option<Arc<Object>> {
        self.all().get(&(value, kind == Kind::Surface)).cloned()
    }

    fn remove(&self, value: u64, kind: Kind) -> Option<Arc<Object>> {
        self.all().remove(&(value, kind == Kind::Surface))
    }

    /// A context ends.
    pub fn remove_context(&self, context: &Arc<Context>) {
        let gone: Vec<_> = self
            .all()
            .extract_if(|_, object| Arc::ptr_eq(&object.context, context))
            .collect();
        drop(gone);
    }
}

/// What an object is to be of, as libcuda takes it, and what must be kept until it has.
fn resource(ring: &Consumer, wanted: &ResourceDesc) -> Result<(ResourceDesc, Option<Box<dyn Any>>), Failure> {
    let session = ring.session;
    let mut raw = wanted.cleaned().ok_or(result::INVALID_VALUE)?;
    let id = u32::try_from(wanted.words[0]);
    let kept: Option<Box<dyn Any>> = match wanted.kind {
        ResourceDesc::ARRAY => {
            let array = id
                .ok()
                .and_then(|id| session.objects.arrays.get(id))
                .ok_or(BAD_HANDLE)?;
            raw.words[0] = array.raw as u64;
            Some(Box::new(array))
        }
        ResourceDesc::MIPMAPPED_ARRAY => {
            let array = id
                .ok()
                .and_then(|id| session.objects.mipmapped.get(id))
                .ok_or(BAD_HANDLE)?;
            raw.words[0] = array.raw as u64;
            Some(Box::new(array))
        }
        _ => {
            // What kernels reach beyond their memory is the GPU's to refuse.
            let (address, _) = wanted.memory().ok_or(result::INVALID_VALUE)?;
            if !session.memory.view().is_device(address, 1) {
                return Err(result::INVALID_VALUE.into());
            }
            None
        }
    };
    Ok((raw, kept))
}

handlers_of! {
    cuTexObjectCreate(ring, _, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let bad = |_| result::INVALID_VALUE;
        let (wanted, rest) = ResourceDesc::read_from_prefix(blob).map_err(|_| result::INVALID_VALUE)?;
        let (texture, rest) = TextureDesc::read_from_prefix(rest).map_err(|_| result::INVALID_VALUE)?;
        let view = match rest {
            [] => None,
            view => Some(ResourceViewDesc::read_from_bytes(view).map_err(bad)?),
        };
        let view = view.as_ref().map_or(std::ptr::null(), |view| view);
        let (raw, _kept) = resource(ring, &wanted)?;
        let texture = session.objects.textures.add(context, Kind::Texture, || {
            let mut value = 0;
            // SAFETY: descriptors without pointers but those that were just looked up, and a place for the result, all of which
            // outlive the call.
            unsafe { session.cuda.arrays.texture_create(&mut value, &raw, &texture, view) }.map(|()| value)
        })?;
        Ok(Out { texture })
    }

    cuTexObjectDestroy(ring, a) {
        let removed = ring.session.objects.textures.remove(a.texture, Kind::Texture);
        removed.ok_or(BAD_HANDLE)?;
        Ok(Out {})
    }

    cuTexObjectGetTextureDesc(ring, a, _blob, reply) {
        let object = ring.session.objects.textures.get(a.texture, Kind::Texture).ok_or(BAD_HANDLE)?;
        object.context.make_current()?;
        let mut told = TextureDesc::default();
        // SAFETY: a place that outlives the call.
        unsafe { ring.session.cuda.arrays.texture_desc(&mut told, object.value) }?;
        reply.extend_from_slice(told.as_bytes());
        Ok(Out {})
    }

    cuTexObjectGetResourceViewDesc(ring, a, _blob, reply) {
        let object = ring.session.objects.textures.get(a.texture, Kind::Texture).ok_or(BAD_HANDLE)?;
        object.context.make_current()?;
        let mut told = ResourceViewDesc::default();
        // SAFETY: a place that outlives the call.
        unsafe { ring.session.cuda.arrays.texture_view(&mut told, object.value) }?;
        reply.extend_from_slice(told.as_bytes());
        Ok(Out {})
    }

    cuSurfObjectCreate(ring, _, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let wanted = ResourceDesc::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
        let (raw, _kept) = resource(ring, &wanted)?;
        let surface = session.objects.textures.add(context, Kind::Surface, || {
            let mut value = 0;
            // SAFETY: as above.
            unsafe { session.cuda.arrays.surface_create(&mut value, &raw) }.map(|()| value)
        })?;
        Ok(Out { surface })
    }

    cuSurfObjectDestroy(ring, a) {
        let removed = ring.session.objects.textures.remove(a.surface, Kind::Surface);
        removed.ok_or(BAD_HANDLE)?;
        Ok(Out {})
    }
}
