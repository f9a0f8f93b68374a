//! A device that is divided into MIG instances, and the events of its neighbour.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use softgpu_cuda::driver::{abi::Out, context, device, memory, runtime};
use std::fs::OpenOptions;
use std::io::Write;

/// The shared library that cargo built beside this test.
fn library() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    test.with_file_name("libsoftgpu_nvml.so")
}

#[test]
fn instances_are_devices_of_their_own_and_xids_are_events() {
    let directory = tempfile::TempDir::new().unwrap();
    let inject = |text: &str| {
        let path = directory.path().join("xid-1");
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let nvml = {
        // SAFETY: the only test of this program, and it has started no other thread that reads the environment.
        unsafe {
            std::env::set_var("VGPU_SOFTGPU_DIR", directory.path());
            std::env::set_var("VGPU_SOFTGPU_DEVICES", "2");
            std::env::set_var("VGPU_SOFTGPU_MIG", "0:4");
            std::env::set_var("VGPU_SOFTGPU_MEMORY", (8u64 << 30).to_string());
        }
        Nvml::builder().lib_path(library().as_os_str()).init().unwrap()
    };
    // Counted are whole devices.
    assert_eq!(nvml.device_count().unwrap(), 2);
    let (divided, whole) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    assert_eq!(divided.mig_mode().unwrap().current, 1);
    assert!(matches!(whole.mig_mode(), Err(NvmlError::NotSupported)));
    assert_eq!(divided.mig_device_count().unwrap(), 4);
    assert!(matches!(divided.mig_device_by_index(4), Err(NvmlError::NotFound)));
    let third = divided.mig_device_by_index(2).unwrap();
    assert!(third.mig_is_mig_device_handle().unwrap() && !divided.mig_is_mig_device_handle().unwrap());
    assert_eq!(third.name().unwrap(), "vgpu software GPU MIG 1g.2gb");
    let uuid = third.uuid().unwrap();
    assert!(uuid.starts_with("MIG-"), "{uuid}");
    assert_eq!(nvml.device_by_uuid(&*uuid).unwrap().index().unwrap(), 2);
    assert_eq!(third.pci_info().unwrap(), divided.pci_info().unwrap());
    assert_eq!(third.mig_parent_device().unwrap().index().unwrap(), 0);
    assert_eq!(third.memory_info().unwrap().total, 2 << 30);

    // libcuda shows the one that is named, and has its memory.
    // SAFETY: as above.
    unsafe { std::env::set_var("CUDA_VISIBLE_DEVICES", &uuid) };
    assert_eq!(runtime::cuInit(0), 0);
    let (mut count, mut ctx, mut at, mut total) = (0, 0, 0, 0);
    assert_eq!(device::cuDeviceGetCount(Out(&mut count)), 0);
    assert_eq!(count, 1);
    assert_eq!(device::cuDeviceTotalMem_v2(Out(&mut total), 0), 0);
    assert_eq!(total, 2 << 30);
    assert_eq!(context::cuCtxCreate_v2(Out(&mut ctx), 0, 0), 0);
    assert_eq!(memory::cuMemAlloc_v2(Out(&mut at), 3 << 20), 0);
    assert_eq!(third.memory_info().unwrap().used, 3 << 20);
    let other = divided.mig_device_by_index(1).unwrap();
    assert_eq!(other.memory_info().unwrap().used, 0);
    assert_eq!(other.running_compute_processes().unwrap(), []);
    for seen_from in [&divided, &third] {
        let [process] = &seen_from.running_compute_processes().unwrap()[..] else {
            panic!("not one process")
        };
        assert_eq!(
            (process.pid, process.gpu_instance_id),
            (std::process::id(), Some(2))
        );
        assert_eq!(process.used_gpu_memory, UsedGpuMemory::Used(3 << 20));
    }

    // What came before the set was made is no event.
    inject("13\n");
    let xid = EventTypes::CRITICAL_XID_ERROR;
    let set = nvml.create_event_set().unwrap();
    let set = divided.register_events(xid, set).unwrap();
    let set = whole.register_events(xid, set).unwrap();
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    inject("31\n4");
    let event = set.wait(10_000).unwrap();
    assert_eq!(event.device.index().unwrap(), 1);
    assert_eq!(event.event_data, Some(XidError::Value(31)));
    assert!(
        matches!(set.wait(0), Err(NvmlError::Timeout)),
        "the line has no end yet"
    );
    inject("5\n");
    let event = set.wait(10_000).unwrap();
    assert_eq!(event.event_data, Some(XidError::Value(45)));
    set.release_events().unwrap();
}
