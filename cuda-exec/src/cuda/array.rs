//! Arrays, textures, surfaces.
use super::Raw;
use super::group::group;
use vgpu_protocol::structs::{
    Array3DDescriptor, ArrayDescriptor, ArrayMemory, ArraySparse, ResourceDesc, ResourceViewDesc, TextureDesc,
};

group! {
    /// Functions of these topics.
    Arrays {
        raw create = "cuArray3DCreate_v2" (array: *mut Raw, descriptor: *const Array3DDescriptor);
        raw descriptor_3d = "cuArray3DGetDescriptor_v2" (descriptor: *mut Array3DDescriptor, array: Raw);
        raw descriptor = "cuArrayGetDescriptor_v2" (descriptor: *mut ArrayDescriptor, array: Raw);
        plain destroy = "cuArrayDestroy" (array: Raw);
        raw memory = "cuArrayGetMemoryRequirements" (memory: *mut ArrayMemory, array: Raw, device: i32);
        raw sparse = "cuArrayGetSparseProperties" (properties: *mut ArraySparse, array: Raw);
        first plane = "cuArrayGetPlane" (array: Raw, plane: u32) -> Raw;
        raw mipmapped_create = "cuMipmappedArrayCreate" (array: *mut Raw, descriptor: *const Array3DDescriptor, levels: u32);
        plain mipmapped_destroy = "cuMipmappedArrayDestroy" (array: Raw);
        first level = "cuMipmappedArrayGetLevel" (array: Raw, level: u32) -> Raw;
        raw mipmapped_memory = "cuMipmappedArrayGetMemoryRequirements" (memory: *mut ArrayMemory, array: Raw, device: i32);
        raw mipmapped_sparse = "cuMipmappedArrayGetSparseProperties" (properties: *mut ArraySparse, array: Raw);
        raw texture_create = "cuTexObjectCreate" (object: *mut u64, resource: *const ResourceDesc, texture: *const TextureDesc,
            view: *const ResourceViewDesc);
        plain texture_destroy = "cuTexObjectDestroy" (object: u64);
        raw texture_desc = "cuTexObjectGetTextureDesc" (desc: *mut TextureDesc, object: u64);
        raw texture_view = "cuTexObjectGetResourceViewDesc" (view: *mut ResourceViewDesc, object: u64);
        raw surface_create = "cuSurfObjectCreate" (object: *mut u64, resource: *const ResourceDesc);
        plain surface_destroy = "cuSurfObjectDestroy" (object: u64);
    }
}
