//! The library as crate nvml-wrapper uses it, and side by side with the software GPU's libcuda.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use softgpu_cuda::driver::{abi::Out, context, device, memory, runtime};
use std::ffi::{CStr, c_char};

/// The shared library that cargo built beside this test.
fn library() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    test.with_file_name("libsoftgpu_nvml.so")
}

fn text_of(get: impl FnOnce(*mut c_char) -> i32) -> String {
    let mut text = [0 as c_char; 64];
    assert_eq!(get(text.as_mut_ptr()), 0);
    // SAFETY: the functions of libcuda end what they store.
    unsafe { CStr::from_ptr(text.as_ptr()) }
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn both_libraries_show_the_same_gpus() {
    let directory = tempfile::TempDir::new().unwrap();
    // SAFETY: the only test of this program, and it has started no other thread that reads the environment.
    unsafe {
        std::env::set_var("VGPU_SOFTGPU_DIR", directory.path());
        std::env::set_var("VGPU_SOFTGPU_DEVICES", "3");
        std::env::set_var("VGPU_SOFTGPU_MEMORY", (1u64 << 30).to_string());
    }
    let nvml = Nvml::builder().lib_path(library().as_os_str()).init().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 3);
    assert!(nvml.sys_driver_version().unwrap().starts_with("softgpu"));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::InvalidArg)));
    // Nobody uses a device yet, and looking at it did not change that.
    let unused = nvml.device_by_index(0).unwrap().memory_info().unwrap();
    assert_eq!((unused.total, unused.used), (1 << 30, 0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    assert_eq!(runtime::cuInit(0), 0);
    for ordinal in 0..3 {
        let seen = nvml.device_by_index(ordinal).unwrap();
        let ordinal = ordinal as i32;
        assert_eq!(
            seen.name().unwrap(),
            text_of(|t| device::cuDeviceGetName(t, 64, ordinal))
        );
        let address = text_of(|t| device::cuDeviceGetPCIBusId(t, 64, ordinal));
        assert_eq!(seen.pci_info().unwrap().bus_id, format!("0000{address}"));
        let mut uuid = [0u8; 16];
        assert_eq!(device::cuDeviceGetUuid(Out(&mut uuid), ordinal), 0);
        let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = seen.uuid().unwrap();
        assert_eq!(text.strip_prefix("GPU-").unwrap().replace('-', ""), hex);
        assert_eq!(
            nvml.device_by_uuid(text).unwrap().index().unwrap(),
            ordinal as u32
        );
        assert_eq!(
            nvml.device_by_pci_bus_id(address).unwrap().index().unwrap(),
            ordinal as u32
        );
        assert!(matches!(seen.power_usage(), Err(NvmlError::NotSupported)));
        assert!(matches!(seen.utilization_rates(), Err(NvmlError::NotSupported)));
        assert!(matches!(
            seen.temperature(TemperatureSensor::Gpu),
            Err(NvmlError::NotSupported)
        ));
    }

    // Memory that a process takes is seen, on its device only, until it gives it back.
    let used = |index| nvml.device_by_index(index).unwrap().memory_info().unwrap().used;
    let (mut ctx, mut at) = (0, 0);
    assert_eq!(context::cuCtxCreate_v2(Out(&mut ctx), 0, 1), 0);
    assert_eq!(memory::cuMemAlloc_v2(Out(&mut at), 5 << 20), 0);
    assert_eq!((used(0), used(1)), (0, 5 << 20));
    let taken = nvml.device_by_index(1).unwrap().memory_info().unwrap();
    assert_eq!(taken.free, (1 << 30) - (5 << 20));
    let processes = |index| {
        let device = nvml.device_by_index(index).unwrap();
        device.running_compute_processes().unwrap()
    };
    assert_eq!(processes(0), []);
    let [process] = &processes(1)[..] else {
        panic!("{:?}", processes(1))
    };
    assert_eq!(process.pid, std::process::id());
    assert_eq!(process.used_gpu_memory, UsedGpuMemory::Used(5 << 20));
    assert_eq!(process.gpu_instance_id, None);
    assert_eq!(memory::cuMemFree_v2(at), 0);
    assert_eq!(used(1), 0);

    // A device has the sensors that it is given, and no others.
    let sensors = "temperature 41\npower 312500\nutilization 87\nmemory_utilization 34\nmemory_clock 2619\n\
        ecc 1\necc_aggregate 5\nvideo_clock fast\n";
    std::fs::write(directory.path().join("sensors-2"), sensors).unwrap();
    let seen = nvml.device_by_index(2).unwrap();
    assert_eq!(seen.temperature(TemperatureSensor::Gpu).unwrap(), 41);
    assert_eq!(seen.power_usage().unwrap(), 312_500);
    let utilization = seen.utilization_rates().unwrap();
    assert_eq!((utilization.gpu, utilization.memory), (87, 34));
    assert_eq!(seen.clock_info(Clock::Memory).unwrap(), 2619);
    assert!(seen.is_ecc_enabled().unwrap().currently_enabled);
    let lost = |since| seen.total_ecc_errors(MemoryError::Uncorrected, since);
    assert_eq!(lost(EccCounter::Aggregate).unwrap(), 5);
    let not_supported = [
        lost(EccCounter::Volatile).err(),
        seen.enforced_power_limit().err(),
        seen.clock_info(Clock::SM).err(),
        seen.clock_info(Clock::Video).err(),
        nvml.device_by_index(1).unwrap().power_usage().err(),
    ];
    for error in not_supported {
        assert!(matches!(error, Some(NvmlError::NotSupported)), "{error:?}");
    }
    nvml.shutdown().unwrap();
}
