//! Pools, virtual memory, copies and fills of rows, other GPUs' memory.
use super::Raw;
use super::group::group;
use std::ffi::c_void;
use vgpu_protocol::host::SHARE_LEN;
use vgpu_protocol::structs::{Access, AllocationProps, Location, Memcpy3D, PoolProps};

/// A CUipcMemHandle or a CUipcEventHandle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IpcHandle(pub [u8; SHARE_LEN]);

/// A CUmemPoolPtrExportData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PointerData(pub [u8; SHARE_LEN]);

group! {
    /// Functions of these topics.
    Memories {
        first default_pool = "cuDeviceGetDefaultMemPool" (device: i32) -> Raw;
        raw pool_create = "cuMemPoolCreate" (pool: *mut Raw, props: *const PoolProps);
        plain pool_destroy = "cuMemPoolDestroy" (pool: Raw);
        plain pool_trim = "cuMemPoolTrimTo" (pool: Raw, keep: usize);
        raw pool_get_attribute = "cuMemPoolGetAttribute" (pool: Raw, attribute: i32, value: *mut u64);
        raw pool_set_attribute = "cuMemPoolSetAttribute" (pool: Raw, attribute: i32, value: *mut u64);
        raw pool_get_access = "cuMemPoolGetAccess" (flags: *mut u32, pool: Raw, location: *const Location);
        raw pool_set_access = "cuMemPoolSetAccess" (pool: Raw, accesses: *const Access, len: usize);
        first alloc_from_pool = "cuMemAllocFromPoolAsync" (bytes: usize, pool: Raw, stream: Raw) -> u64;
        /// The pointer is in the table of device memory.
        plain free_async = "cuMemFreeAsync" (pointer: u64, stream: Raw);
        raw graph_memory_attribute = "cuDeviceGetGraphMemAttribute" (device: i32, attribute: i32, value: *mut u64);
        plain graph_memory_trim = "cuDeviceGraphMemTrim" (device: i32);
        first address_reserve = "cuMemAddressReserve" (bytes: usize, alignment: usize, wanted: u64, flags: u64) -> u64;
        /// The range was reserved by [`Self::address_reserve`].
        plain address_free = "cuMemAddressFree" (pointer: u64, bytes: usize);
        raw create = "cuMemCreate" (handle: *mut u64, bytes: usize, props: *const AllocationProps, flags: u64);
        plain release = "cuMemRelease" (handle: u64);
        /// The range lies in a reserved one.
        plain map = "cuMemMap" (pointer: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
        /// The range was mapped by [`Self::map`].
        plain unmap = "cuMemUnmap" (pointer: u64, bytes: usize);
        raw set_access = "cuMemSetAccess" (pointer: u64, bytes: usize, accesses: *const Access, len: usize);
        raw get_access = "cuMemGetAccess" (flags: *mut u64, location: *const Location, pointer: u64);
        raw export_handle = "cuMemExportToShareableHandle" (place: *mut c_void, handle: u64, kind: u32, flags: u64);
        /// A descriptor is a number in the place of a pointer: one that is not libcuda's is an error.
        first import_handle = "cuMemImportFromShareableHandle" (descriptor: usize, kind: u32) -> u64;
        raw properties = "cuMemGetAllocationPropertiesFromHandle" (props: *mut AllocationProps, handle: u64);
        raw pool_export = "cuMemPoolExportToShareableHandle" (place: *mut c_void, pool: Raw, kind: u32, flags: u64);
        /// As [`Self::import_handle`].
        first pool_import = "cuMemPoolImportFromShareableHandle" (descriptor: usize, kind: u32, flags: u64) -> Raw;
        raw pool_export_pointer = "cuMemPoolExportPointer" (data: *mut PointerData, pointer: u64);
        raw pool_import_pointer = "cuMemPoolImportPointer" (pointer: *mut u64, pool: Raw, data: *mut PointerData);
        raw granularity = "cuMemGetAllocationGranularity" (bytes: *mut usize, props: *const AllocationProps, option: u32);
        plain enable_peer = "cuCtxEnablePeerAccess" (context: Raw, flags: u32);
        plain disable_peer = "cuCtxDisablePeerAccess" (context: Raw);
        first can_access_peer = "cuDeviceCanAccessPeer" (device: i32, peer: i32) -> i32;
        first p2p_attribute = "cuDeviceGetP2PAttribute" (attribute: i32, device: i32, peer: i32) -> i32;
        raw p2p_atomics = "cuDeviceGetP2PAtomicCapabilities"
            (can: *mut u32, operations: *const u32, len: u32, device: i32, peer: i32);
        raw ipc_get_mem = "cuIpcGetMemHandle" (handle: *mut IpcHandle, pointer: u64);
        raw ipc_open_mem = "cuIpcOpenMemHandle_v2" (pointer: *mut u64, handle: IpcHandle, flags: u32);
        /// The pointer is in the table of device memory, as one that was imported.
        plain ipc_close_mem = "cuIpcCloseMemHandle" (pointer: u64);
        raw ipc_get_event = "cuIpcGetEventHandle" (handle: *mut IpcHandle, event: Raw);
        raw ipc_open_event = "cuIpcOpenEventHandle" (event: *mut Raw, handle: IpcHandle);
        raw pointer_attribute = "cuPointerGetAttribute" (value: *mut c_void, attribute: i32, pointer: u64);
        raw address_range = "cuMemGetAddressRange_v2" (base: *mut u64, bytes: *mut usize, pointer: u64);
        raw memcpy_3d = "cuMemcpy3DAsync_v2" (copy: *const Memcpy3D, stream: Raw);
        raw memset_2d_d8 = "cuMemsetD2D8Async" (to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Raw);
        raw memset_2d_d16 = "cuMemsetD2D16Async" (to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Raw);
        raw memset_2d_d32 = "cuMemsetD2D32Async" (to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Raw);
    }
}

/// CU_POINTER_ATTRIBUTE_IS_MANAGED.
const IS_MANAGED: i32 = 8;

impl Memories {
    /// Whether memory is libcuda's own managed memory.
    pub fn is_managed(&self, pointer: u64) -> bool {
        let mut value = 0u64;
        // SAFETY: a place that outlives the call, and holds more than any attribute takes.
        let told = unsafe { self.pointer_attribute((&raw mut value).cast(), IS_MANAGED, pointer) };
        told.is_ok() && value != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys;
    use std::mem::offset_of;

    #[test]
    fn structures_are_as_in_c() {
        assert_eq!(size_of::<Access>(), size_of::<sys::CUmemAccessDesc>());
        assert_eq!(offset_of!(Access, flags), offset_of!(sys::CUmemAccessDesc, flags));
        assert_eq!(size_of::<Location>(), size_of::<sys::CUmemLocation>());
        assert_eq!(size_of::<IpcHandle>(), size_of::<sys::CUipcMemHandle>());
        assert_eq!(size_of::<IpcHandle>(), size_of::<sys::CUipcEventHandle>());
        assert_eq!(size_of::<PointerData>(), size_of::<sys::CUmemPoolPtrExportData>());
        assert_eq!(size_of::<PoolProps>(), size_of::<sys::CUmemPoolProps>());
        assert_eq!(
            offset_of!(PoolProps, location),
            offset_of!(sys::CUmemPoolProps, location)
        );
        assert_eq!(
            offset_of!(PoolProps, most),
            offset_of!(sys::CUmemPoolProps, maxSize)
        );
        assert_eq!(
            size_of::<AllocationProps>(),
            size_of::<sys::CUmemAllocationProp>()
        );
        assert_eq!(
            offset_of!(AllocationProps, compression),
            offset_of!(sys::CUmemAllocationProp, allocFlags)
        );
        assert_eq!(size_of::<Memcpy3D>(), size_of::<sys::CUDA_MEMCPY3D>());
        for (own, theirs) in [
            (
                offset_of!(Memcpy3D, from.memory),
                offset_of!(sys::CUDA_MEMCPY3D, srcMemoryType),
            ),
            (
                offset_of!(Memcpy3D, from.host),
                offset_of!(sys::CUDA_MEMCPY3D, srcHost),
            ),
            (
                offset_of!(Memcpy3D, from.array),
                offset_of!(sys::CUDA_MEMCPY3D, srcArray),
            ),
            (
                offset_of!(Memcpy3D, from.rows),
                offset_of!(sys::CUDA_MEMCPY3D, srcHeight),
            ),
            (
                offset_of!(Memcpy3D, to.x),
                offset_of!(sys::CUDA_MEMCPY3D, dstXInBytes),
            ),
            (
                offset_of!(Memcpy3D, to.device),
                offset_of!(sys::CUDA_MEMCPY3D, dstDevice),
            ),
            (
                offset_of!(Memcpy3D, to.pitch),
                offset_of!(sys::CUDA_MEMCPY3D, dstPitch),
            ),
            (
                offset_of!(Memcpy3D, width),
                offset_of!(sys::CUDA_MEMCPY3D, WidthInBytes),
            ),
        ] {
            assert_eq!(own, theirs);
        }
    }
}
