//! Arrays, and arrays of several levels.
use super::BAD_HANDLE;
use crate::cuda::Raw;
use crate::dispatch::handlers_of;
use crate::handles::Context;
use crate::limits::Charge;
use crate::ring::{Consumer, Failure};
use std::sync::Arc;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Array3DDescriptor, ArrayDescriptor, ArrayMemory, ArraySparse};
use zerocopy::{FromBytes, IntoBytes};

/// An array.
pub struct Array {
    pub context: Arc<Context>,
    pub raw: Raw,
    hold: Hold,
}

/// What an array's memory goes with.
enum Hold {
    /// Itself.
    Own(Charge),
    /// The array of which it is a plane.
    Plane(Arc<Array>),
    /// The array of which it is a level.
    Level(Arc<Mipmapped>),
}

/// An array of several levels.
pub struct Mipmapped {
    pub context: Arc<Context>,
    pub raw: Raw,
    charge: Charge,
}

impl Drop for Array {
    fn drop(&mut self) {
        if let Hold::Own(charge) = self.hold {
            let session = self.context.session;
            let current = self.context.make_current();
            let destroy = || session.cuda.arrays.destroy(self.raw);
            session.survive(current.and_then(|()| session.relaxed(destroy)));
            session.limits.give(charge);
        }
    }
}

impl Drop for Mipmapped {
    fn drop(&mut self) {
        let session = self.context.session;
        let current = self.context.make_current();
        let destroy = || session.cuda.arrays.mipmapped_destroy(self.raw);
        session.survive(current.and_then(|()| session.relaxed(destroy)));
        session.limits.give(self.charge);
    }
}

fn find(ring: &Consumer, id: u32) -> Result<Arc<Array>, Failure> {
    let array = ring.session.objects.arrays.get(id).ok_or(BAD_HANDLE)?;
    array.context.make_current()?;
    Ok(array)
}

fn find_mipmapped(ring: &Consumer, id: u32) -> Result<Arc<Mipmapped>, Failure> {
    let array = ring.session.objects.mipmapped.get(id).ok_or(BAD_HANDLE)?;
    array.context.make_current()?;
    Ok(array)
}

/// What an array is to be. One that gets its memory piece by piece cannot get any.
fn wanted(blob: &[u8]) -> Result<Array3DDescriptor, Code> {
    let wanted = Array3DDescriptor::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
    if wanted.flags & Array3DDescriptor::WITHOUT_MEMORY != 0 {
        return Err(result::NOT_SUPPORTED);
    }
    Ok(Array3DDescriptor {
        reserved: 0,
        ..wanted
    })
}

/// Has libcuda fill in an answer.
fn tell<T: Default + IntoBytes + zerocopy::Immutable>(
    reply: &mut Vec<u8>,
    ask: impl FnOnce(&mut T) -> Result<(), Code>,
) -> Result<(), Failure> {
    let mut told = T::default();
    ask(&mut told)?;
    reply.extend_from_slice(told.as_bytes());
    Ok(())
}

/// A device of the guest's, as libcuda numbers it.
fn device(ring: &Consumer, device: u32) -> Result<i32, Code> {
    ring.session.cuda.device(device)
}

handlers_of! {
    cuArray3DCreate(ring, a, blob, _reply) {
        let context = ring.context()?;
        let session = ring.session;
        let (arrays, cuda) = (&session.objects.arrays, &session.cuda.arrays);
        arrays.check_new(a.array).map_err(|_| BAD_HANDLE)?;
        let wanted = wanted(blob)?;
        let create = || {
            let mut raw = 0;
            // SAFETY: a descriptor, and a place for the result, that outlive the call.
            unsafe { cuda.create(&mut raw, &wanted) }.map(|()| raw)
        };
        let (raw, charge) = context.make(create, |raw| cuda.destroy(raw))?;
        let array = Array { context, raw, hold: Hold::Own(charge) };
        arrays.insert(a.array, array).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuArrayDestroy(ring, a) {
        let arrays = &ring.session.objects.arrays;
        let array = arrays.get(a.array).filter(|array| matches!(array.hold, Hold::Own(_))).ok_or(BAD_HANDLE)?;
        arrays.remove(a.array);
        arrays.remove_all(|plane| matches!(&plane.hold, Hold::Plane(of) if Arc::ptr_eq(of, &array)));
        Ok(Out {})
    }

    cuArray3DGetDescriptor(ring, a, _blob, reply) {
        let array = find(ring, a.array)?;
        // SAFETY: a place that outlives the call, as below.
        tell(reply, |told: &mut Array3DDescriptor| unsafe {
            ring.session.cuda.arrays.descriptor_3d(told, array.raw)
        })?;
        Ok(Out {})
    }

    cuArrayGetDescriptor(ring, a, _blob, reply) {
        let array = find(ring, a.array)?;
        // SAFETY: as above.
        tell(reply, |told: &mut ArrayDescriptor| unsafe { ring.session.cuda.arrays.descriptor(told, array.raw) })?;
        Ok(Out {})
    }

    cuArrayGetMemoryRequirements(ring, a, _blob, reply) {
        let (array, device) = (find(ring, a.array)?, device(ring, a.device)?);
        // SAFETY: as above.
        tell(reply, |told: &mut ArrayMemory| unsafe { ring.session.cuda.arrays.memory(told, array.raw, device) })?;
        Ok(Out {})
    }

    cuArrayGetSparseProperties(ring, a, _blob, reply) {
        let array = find(ring, a.array)?;
        // SAFETY: as above.
        tell(reply, |told: &mut ArraySparse| unsafe { ring.session.cuda.arrays.sparse(told, array.raw) })?;
        Ok(Out {})
    }

    cuArrayGetPlane(ring, a) {
        let array = find(ring, a.array)?;
        let arrays = &ring.session.objects.arrays;
        arrays.check_new(a.plane).map_err(|_| BAD_HANDLE)?;
        let raw = ring.session.cuda.arrays.plane(array.raw, a.index)?;
        let plane = Array { context: array.context.clone(), raw, hold: Hold::Plane(array) };
        arrays.insert(a.plane, plane).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMipmappedArrayCreate(ring, a, blob, _reply) {
        let context = ring.context()?;
        let session = ring.session;
        let (arrays, cuda) = (&session.objects.mipmapped, &session.cuda.arrays);
        arrays.check_new(a.mipmapped).map_err(|_| BAD_HANDLE)?;
        let wanted = wanted(blob)?;
        let create = || {
            let mut raw = 0;
            // SAFETY: a descriptor, and a place for the result, that outlive the call.
            unsafe { cuda.mipmapped_create(&mut raw, &wanted, a.levels) }.map(|()| raw)
        };
        let (raw, charge) = context.make(create, |raw| cuda.mipmapped_destroy(raw))?;
        arrays.insert(a.mipmapped, Mipmapped { context, raw, charge }).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMipmappedArrayDestroy(ring, a) {
        let objects = &ring.session.objects;
        let array = objects.mipmapped.remove(a.mipmapped).ok_or(BAD_HANDLE)?;
        objects.arrays.remove_all(|level| matches!(&level.hold, Hold::Level(of) if Arc::ptr_eq(of, &array)));
        Ok(Out {})
    }

    cuMipmappedArrayGetLevel(ring, a) {
        let mipmapped = find_mipmapped(ring, a.mipmapped)?;
        let arrays = &ring.session.objects.arrays;
        arrays.check_new(a.array).map_err(|_| BAD_HANDLE)?;
        let raw = ring.session.cuda.arrays.level(mipmapped.raw, a.level)?;
        let level = Array { context: mipmapped.context.clone(), raw, hold: Hold::Level(mipmapped) };
        arrays.insert(a.array, level).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMipmappedArrayGetMemoryRequirements(ring, a, _blob, reply) {
        let (array, device) = (find_mipmapped(ring, a.mipmapped)?, device(ring, a.device)?);
        // SAFETY: as above.
        tell(reply, |told: &mut ArrayMemory| unsafe {
            ring.session.cuda.arrays.mipmapped_memory(told, array.raw, device)
        })?;
        Ok(Out {})
    }

    cuMipmappedArrayGetSparseProperties(ring, a, _blob, reply) {
        let array = find_mipmapped(ring, a.mipmapped)?;
        // SAFETY: as above.
        tell(reply, |told: &mut ArraySparse| unsafe {
            ring.session.cuda.arrays.mipmapped_sparse(told, array.raw)
        })?;
        Ok(Out {})
    }
}
