//! Texture and surface objects. Their values are the host library's, as kernels take them.
use super::array::{find_array, find_mipmapped};
use super::capture::refuse_in_capture;
use super::cuda;
use crate::abi::{CUsurfObject, CUtexObject, In, Out};
use crate::lock;
use crate::session::Call;
use std::collections::HashMap;
use std::sync::Mutex;
use vgpu_protocol::calls::{
    cuSurfObjectCreate, cuSurfObjectDestroy, cuTexObjectCreate, cuTexObjectDestroy,
    cuTexObjectGetResourceViewDesc, cuTexObjectGetTextureDesc,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{ResourceDesc, ResourceViewDesc, TextureDesc};
use zerocopy::{FromBytes, IntoBytes};

/// What the program knows of a texture or a surface: its context, and what it is of, with the program's handles.
#[derive(Clone, Copy)]
struct Known {
    context: u32,
    resource: ResourceDesc,
}

/// Objects of one kind, by their values.
#[derive(Default)]
pub struct Objects(Mutex<HashMap<u64, Known>>);

impl Objects {
    fn get(&self, object: u64) -> Result<Known, Code> {
        lock(&self.0).get(&object).copied().ok_or(result::INVALID_HANDLE)
    }

    /// A context is gone, and they with it.
    pub fn forget_context(&self, context: u32) {
        lock(&self.0).retain(|_, known| known.context != context);
    }
}

/// A resource as it crosses the wire: the array's number for its handle. Its memory must be the device's.
fn on_wire(call: &Call, resource: In<ResourceDesc>) -> Result<(ResourceDesc, ResourceDesc), Code> {
    let given = resource.get()?.cleaned().ok_or(result::INVALID_VALUE)?;
    let mut wire = given;
    let handle = given.words[0] as usize;
    match given.kind {
        ResourceDesc::ARRAY => wire.words[0] = find_array(call, handle)?.id.into(),
        ResourceDesc::MIPMAPPED_ARRAY => wire.words[0] = find_mipmapped(call, handle)?.id.into(),
        _ => {
            // It may reach beyond its memory, as long as nobody looks there.
            let (address, _) = given.memory().ok_or(result::INVALID_VALUE)?;
            call.session.check_device(address, 1)?;
        }
    }
    Ok((given, wire))
}

cuda! {
    fn cuTexObjectCreate(
        object: Out<CUtexObject>, resource: In<ResourceDesc>, texture: In<TextureDesc>, view: In<ResourceViewDesc>,
    ) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        object.check()?;
        let (resource, wire) = on_wire(&call, resource)?;
        let mut blob = [wire.as_bytes(), texture.get()?.as_bytes()].concat();
        if !view.is_null() {
            blob.extend_from_slice(view.get()?.as_bytes());
        }
        let (out, _) = call.ask_with::<cuTexObjectCreate::Call>(context, cuTexObjectCreate::In {}, &blob)?;
        lock(&call.session.textures.0).insert(out.texture, Known { context, resource });
        object.set(out.texture)
    }

    fn cuTexObjectDestroy(texture: CUtexObject) {
        let call = Call::enter()?;
        call.session.textures.get(texture)?;
        refuse_in_capture(&call)?;
        let known = lock(&call.session.textures.0).remove(&texture).ok_or(result::INVALID_HANDLE)?;
        call.submit::<cuTexObjectDestroy::Call>(known.context, cuTexObjectDestroy::In { texture })
    }

    fn cuTexObjectGetResourceDesc(resource: Out<ResourceDesc>, texture: CUtexObject) {
        let call = Call::enter()?;
        resource.set(call.session.textures.get(texture)?.resource)
    }

    fn cuTexObjectGetTextureDesc(desc: Out<TextureDesc>, texture: CUtexObject) {
        let call = Call::enter()?;
        desc.check()?;
        let known = call.session.textures.get(texture)?;
        let arguments = cuTexObjectGetTextureDesc::In { texture };
        let (_, said) = call.ask_with::<cuTexObjectGetTextureDesc::Call>(known.context, arguments, &[])?;
        desc.set(TextureDesc::read_from_bytes(&said).map_err(|_| result::UNKNOWN)?)
    }

    fn cuTexObjectGetResourceViewDesc(view: Out<ResourceViewDesc>, texture: CUtexObject) {
        let call = Call::enter()?;
        view.check()?;
        let known = call.session.textures.get(texture)?;
        let arguments = cuTexObjectGetResourceViewDesc::In { texture };
        let (_, said) = call.ask_with::<cuTexObjectGetResourceViewDesc::Call>(known.context, arguments, &[])?;
        view.set(ResourceViewDesc::read_from_bytes(&said).map_err(|_| result::UNKNOWN)?)
    }

    fn cuSurfObjectCreate(object: Out<CUsurfObject>, resource: In<ResourceDesc>) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        object.check()?;
        let (resource, wire) = on_wire(&call, resource)?;
        let (out, _) = call.ask_with::<cuSurfObjectCreate::Call>(context, cuSurfObjectCreate::In {}, wire.as_bytes())?;
        lock(&call.session.surfaces.0).insert(out.surface, Known { context, resource });
        object.set(out.surface)
    }

    fn cuSurfObjectDestroy(surface: CUsurfObject) {
        let call = Call::enter()?;
        call.session.surfaces.get(surface)?;
        refuse_in_capture(&call)?;
        let known = lock(&call.session.surfaces.0).remove(&surface).ok_or(result::INVALID_HANDLE)?;
        call.submit::<cuSurfObjectDestroy::Call>(known.context, cuSurfObjectDestroy::In { surface })
    }

    fn cuSurfObjectGetResourceDesc(resource: Out<ResourceDesc>, surface: CUsurfObject) {
        let call = Call::enter()?;
        resource.set(call.session.surfaces.get(surface)?.resource)
    }
}
