//! A host for tests, and the tests of the interface.
use crate::told::Handle;
use crate::{code, device, events, fields, memory, refused, system, topology};
use std::ffi::{CStr, CString, c_char, c_uint, c_ulong};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_protocol::gpus::{Gpu, Gpus, Process, Reply, UNKNOWN, padded};
use vgpu_protocol::virtio::Status;
use vgpu_transport::TransportError;
use zerocopy::FromZeros;

/// What it tells; without it there is no device.
static HOST: Mutex<Option<Result<Reply, Status>>> = Mutex::new(None);
/// One test at a time uses the library.
static ALONE: Mutex<()> = Mutex::new(());

/// Stands in for [`vgpu_transport::gpus`].
pub fn gpus() -> Result<Reply, TransportError> {
    let host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*host {
        None => Err(TransportError::NoDevice("none".into())),
        Some(Ok(reply)) => Ok(reply.clone()),
        Some(Err(status)) => Err(TransportError::Refused(*status)),
    }
}

fn alone() -> MutexGuard<'static, ()> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    while system::nvmlShutdown() == code::SUCCESS {}
    alone
}

/// Has the host tell this, and the library start anew; how that went.
fn start(told: Option<Result<Reply, Status>>) -> crate::Return {
    *HOST.lock().unwrap() = told;
    while system::nvmlShutdown() == code::SUCCESS {}
    system::nvmlInit_v2()
}

fn gpu(number: u32) -> Gpu {
    let mut gpu = Gpu::new_zeroed();
    gpu.name = padded("a model");
    gpu.uuid = padded(&format!("GPU-{number}"));
    gpu.pci = padded(&format!("00000000:{:02X}:00.0", number + 0x3a));
    (gpu.memory, gpu.used) = (1000, 400);
    gpu.utilisation = 37;
    gpu.compute = [9, 0];
    gpu.ecc = UNKNOWN;
    gpu.clocks = [100, 101, 102, 103];
    gpu.pcie_max = [5, 16];
    (gpu.temperature, gpu.power) = (31, UNKNOWN);
    gpu
}

fn reply(gpus: Vec<Gpu>) -> Reply {
    let mut head = Gpus::new_zeroed();
    head.driver = padded("580.159.04");
    head.cuda_version = 13_000;
    let process = |pid, gpu| Process { pid, gpu, memory: 50 };
    Reply {
        head,
        gpus,
        processes: vec![process(7, 0), process(7, 1), process(8, 1)],
    }
}

fn handle(index: c_uint) -> Handle {
    let mut handle = 0;
    assert_eq!(
        system::nvmlDeviceGetHandleByIndex_v2(index, &mut handle),
        code::SUCCESS
    );
    handle
}

/// A text that a function stores.
fn text(f: impl Fn(*mut c_char, c_uint) -> crate::Return) -> String {
    let mut bytes = [1u8; 96];
    assert_eq!(f(bytes.as_mut_ptr().cast(), 96), code::SUCCESS);
    CStr::from_bytes_until_nul(&bytes)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// A value that a function stores.
fn value<T: Default>(f: impl Fn(*mut T) -> crate::Return) -> Result<T, crate::Return> {
    let mut value = T::default();
    match f(&mut value) {
        code::SUCCESS => Ok(value),
        code => Err(code),
    }
}

#[test]
fn starting_says_why_there_is_nothing() {
    let _alone = alone();
    assert_eq!(start(None), code::DRIVER_NOT_LOADED);
    // A host from before there was such a question.
    assert_eq!(start(Some(Err(Status::Invalid))), code::DRIVER_NOT_LOADED);
    assert_eq!(start(Some(Err(Status::Quarantined))), code::NO_PERMISSION);
    assert_eq!(start(Some(Err(Status::HostError))), code::UNKNOWN);
    assert_eq!(
        value(|p| system::nvmlDeviceGetCount_v2(p)),
        Err(code::UNINITIALIZED)
    );
    let mut empty = reply(vec![]);
    (empty.head.driver, empty.head.cuda_version, empty.processes) = ([0; 32], UNKNOWN, vec![]);
    assert_eq!(start(Some(Ok(empty))), code::SUCCESS);
    assert_eq!(value(|p| system::nvmlDeviceGetCount_v2(p)), Ok(0));
    assert_eq!(
        value(|p| system::nvmlSystemGetCudaDriverVersion(p)),
        Err(code::UNKNOWN)
    );
    assert_eq!(
        value(|p| system::nvmlDeviceGetHandleByIndex(0, p)),
        Err(code::INVALID_ARGUMENT)
    );
}

#[test]
fn every_start_takes_an_end() {
    let _alone = alone();
    assert_eq!(start(Some(Ok(reply(vec![gpu(1)])))), code::SUCCESS);
    assert_eq!(system::nvmlInitWithFlags(0), code::SUCCESS);
    assert_eq!(system::nvmlShutdown(), code::SUCCESS);
    assert_eq!(value(|p| system::nvmlDeviceGetCount(p)), Ok(1));
    assert_eq!(system::nvmlShutdown(), code::SUCCESS);
    assert_eq!(system::nvmlShutdown(), code::UNINITIALIZED);
    assert_eq!(refused::nvmlDeviceSetPersistenceMode(), code::UNINITIALIZED);
}

#[test]
fn a_gpu_is_found_by_what_it_is_called() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1), gpu(2)]))));
    let second = handle(1);
    let by_uuid = |uuid: &str| {
        let uuid = CString::new(uuid).unwrap();
        value(|p| system::nvmlDeviceGetHandleByUUID(uuid.as_ptr(), p))
    };
    assert_eq!(by_uuid("GPU-2"), Ok(second));
    assert_eq!(by_uuid("GPU-3"), Err(code::NOT_FOUND));
    let by_pci = |id: &str| {
        let id = CString::new(id).unwrap();
        value(|p| system::nvmlDeviceGetHandleByPciBusId_v2(id.as_ptr(), p))
    };
    for id in ["0000:3c:00.0", "00000000:3C:00.0", "3c:00.0"] {
        assert_eq!(by_pci(id), Ok(second), "{id}");
    }
    assert_eq!(by_pci("3d:00.0"), Err(code::NOT_FOUND));
    assert_eq!(by_pci("nonsense"), Err(code::INVALID_ARGUMENT));
    assert_eq!(value(|p| device::nvmlDeviceGetIndex(second, p)), Ok(1));
    assert_eq!(text(|p, len| device::nvmlDeviceGetUUID(second, p, len)), "GPU-2");
    // The handle is the GPU's, whatever else is there; one that was taken away is lost, and back when it is.
    start(Some(Ok(reply(vec![gpu(2)]))));
    assert_eq!(value(|p| device::nvmlDeviceGetIndex(second, p)), Ok(0));
    start(Some(Ok(reply(vec![gpu(1)]))));
    assert_eq!(
        value(|p| device::nvmlDeviceGetIndex(second, p)),
        Err(code::GPU_IS_LOST)
    );
    for nonsense in [0, 1000, usize::MAX] {
        assert_eq!(
            value(|p| device::nvmlDeviceGetIndex(nonsense, p)),
            Err(code::INVALID_ARGUMENT)
        );
    }
}

#[test]
fn what_is_told_is_answered_and_the_rest_is_not_supported() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1)]))));
    let gpu = handle(0);
    assert_eq!(
        text(|p, len| system::nvmlSystemGetDriverVersion(p, len)),
        "580.159.04"
    );
    assert_eq!(
        text(|p, len| system::nvmlSystemGetNVMLVersion(p, len)),
        "13.580.159.04"
    );
    assert_eq!(
        value(|p| system::nvmlSystemGetCudaDriverVersion_v2(p)),
        Ok(13_000)
    );
    assert_eq!(text(|p, len| device::nvmlDeviceGetName(gpu, p, len)), "a model");
    let short = &mut [0; 4];
    assert_eq!(
        device::nvmlDeviceGetName(gpu, short.as_mut_ptr(), 4),
        code::INSUFFICIENT_SIZE
    );
    assert_eq!(
        value(|p| device::nvmlDeviceGetUtilizationRates(gpu, p)),
        Ok([37, 0])
    );
    assert_eq!(value(|p| device::nvmlDeviceGetClockInfo(gpu, 2, p)), Ok(102));
    assert_eq!(
        value(|p| device::nvmlDeviceGetClockInfo(gpu, 4, p)),
        Err(code::INVALID_ARGUMENT)
    );
    assert_eq!(value(|p| device::nvmlDeviceGetTemperature(gpu, 0, p)), Ok(31));
    assert_eq!(
        value(|p| device::nvmlDeviceGetCurrPcieLinkGeneration(gpu, p)),
        Ok(5)
    );
    assert_eq!(value(|p| device::nvmlDeviceGetCurrPcieLinkWidth(gpu, p)), Ok(16));
    assert_eq!(
        value(|p| device::nvmlDeviceGetPowerUsage(gpu, p)),
        Err(code::NOT_SUPPORTED)
    );
    assert_eq!(
        device::nvmlDeviceGetPowerUsage(gpu, std::ptr::null_mut()),
        code::NOT_SUPPORTED
    );
    assert_eq!(
        device::nvmlDeviceGetIndex(gpu, std::ptr::null_mut()),
        code::INVALID_ARGUMENT
    );
    let (mut major, mut minor) = (0, 0);
    assert_eq!(
        device::nvmlDeviceGetCudaComputeCapability(gpu, &mut major, &mut minor),
        code::SUCCESS
    );
    assert_eq!((major, minor), (9, 0));
    let own = text(|p, len| system::nvmlSystemGetProcessName(std::process::id(), p, len));
    assert!(std::env::args().next().unwrap().starts_with(&own), "{own}");
    assert_eq!(
        value(|p| system::nvmlSystemGetProcessName(u32::MAX, p, 8)),
        Err(code::NOT_FOUND)
    );
}

#[test]
fn structures_carry_their_version() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1)]))));
    let gpu = handle(0);
    let mut memory = [0u32; 10];
    assert_eq!(
        memory::nvmlDeviceGetMemoryInfo_v2(gpu, memory.as_mut_ptr().cast()),
        code::ARGUMENT_VERSION_MISMATCH
    );
    memory[0] = 40 | 2 << 24;
    assert_eq!(
        memory::nvmlDeviceGetMemoryInfo_v2(gpu, memory.as_mut_ptr().cast()),
        code::SUCCESS
    );
    assert_eq!([2, 4, 6, 8].map(|at| memory[at]), [1000, 0, 600, 400]);
    let mut fabric = [7u8; 48];
    fabric[..4].copy_from_slice(&0x0200_0024u32.to_ne_bytes());
    assert_eq!(
        topology::nvmlDeviceGetGpuFabricInfoV(gpu, fabric.as_mut_ptr()),
        code::SUCCESS
    );
    assert!(fabric[4..36].iter().all(|byte| *byte == 0) && fabric[36..].iter().all(|byte| *byte == 7));
    fabric[3] = 9;
    assert_eq!(
        topology::nvmlDeviceGetGpuFabricInfoV(gpu, fabric.as_mut_ptr()),
        code::ARGUMENT_VERSION_MISMATCH
    );
}

#[test]
fn lists_are_stored_where_there_is_room() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1), gpu(2)]))));
    let second = handle(1);
    let list = |room: c_uint, places: &mut [[u64; 3]]| {
        let mut count = room;
        let out = places.as_mut_ptr().cast();
        let code = memory::nvmlDeviceGetComputeRunningProcesses_v3(second, &mut count, out);
        (code, count)
    };
    let mut places = [[0u64; 3]; 2];
    assert_eq!(list(1, &mut places), (code::INSUFFICIENT_SIZE, 2));
    assert_eq!(places, [[0; 3]; 2]);
    assert_eq!(list(2, &mut places), (code::SUCCESS, 2));
    // Half of the first word is padding.
    let stored = places.map(|[pid, used, instances]| (pid as u32, used, instances));
    assert_eq!(stored, [(7, 50, u64::MAX), (8, 50, u64::MAX)]);
    let mut count = 0;
    let none = std::ptr::null_mut();
    assert_eq!(
        memory::nvmlDeviceGetGraphicsRunningProcesses_v3(second, &mut count, none),
        code::SUCCESS
    );
    assert_eq!(count, 0);
}

#[test]
fn gpus_of_a_vm_are_far_apart() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1), gpu(2)]))));
    let (one, other) = (handle(0), handle(1));
    assert_eq!(
        value(|p| topology::nvmlDeviceGetTopologyCommonAncestor(one, one, p)),
        Ok(0)
    );
    assert_eq!(
        value(|p| topology::nvmlDeviceGetTopologyCommonAncestor(one, other, p)),
        Ok(50)
    );
    assert_eq!(
        value(|p| topology::nvmlDeviceGetP2PStatus(one, other, 0, p)),
        Ok(5)
    );
    assert_eq!(
        value(|p| topology::nvmlDeviceGetP2PStatus(one, other, 5, p)),
        Err(code::INVALID_ARGUMENT)
    );
    let mut cpus = [0 as c_ulong; 1024];
    assert_eq!(
        topology::nvmlDeviceGetCpuAffinity(one, 1024, cpus.as_mut_ptr()),
        code::SUCCESS
    );
    let bits: u32 = cpus.iter().map(|word| word.count_ones()).sum();
    assert!(bits >= 1 && cpus[0] & 1 == 1, "{bits}");
    assert_eq!(
        topology::nvmlDeviceGetCpuAffinity(one, 0, std::ptr::null_mut()),
        code::INSUFFICIENT_SIZE
    );
}

#[test]
fn who_reaches_whom_is_told_as_the_host_tells_it() {
    let _alone = alone();
    let (mut first, second) = (gpu(1), gpu(2));
    first.peers = 1 << 1;
    start(Some(Ok(reply(vec![first, second]))));
    let (one, other) = (handle(0), handle(1));
    let status =
        |from, to| [0, 1, 2, 3, 4].map(|kind| value(|p| topology::nvmlDeviceGetP2PStatus(from, to, kind, p)));
    // To read and to write; of NVLink, atomics and PCI nothing is known.
    assert_eq!(status(one, other), [0, 0, 5, 5, 5].map(Ok));
    assert_eq!(status(other, one), [Ok(5); 5]);
    assert_eq!(status(one, one), [Ok(5); 5]);
}

#[test]
fn fields_are_answered_one_by_one() {
    let _alone = alone();
    let mut with_ecc = gpu(1);
    with_ecc.ecc = 1;
    start(Some(Ok(reply(vec![with_ecc]))));
    let gpu = handle(0);
    let mut values = [[0u32; 10]; 2];
    (values[0][0], values[1][0]) = (1, 186);
    assert_eq!(
        fields::nvmlDeviceGetFieldValues(gpu, 2, values.as_mut_ptr().cast()),
        code::SUCCESS
    );
    assert_eq!([values[0][7], values[0][8]], [code::SUCCESS, 1]);
    assert_eq!(values[1][7], code::NOT_SUPPORTED);
    for count in [0, -1, i32::MAX] {
        assert_eq!(
            fields::nvmlDeviceGetFieldValues(gpu, count, values.as_mut_ptr().cast()),
            code::INVALID_ARGUMENT
        );
    }
}

#[test]
fn nothing_is_changed_and_no_event_comes() {
    let _alone = alone();
    start(Some(Ok(reply(vec![gpu(1)]))));
    let gpu = handle(0);
    assert_eq!(refused::nvmlDeviceSetGpuLockedClocks(), code::NO_PERMISSION);
    assert_eq!(refused::nvmlDeviceSetMigMode(), code::NO_PERMISSION);
    assert_eq!(refused::nvmlDeviceGetFanSpeed(), code::NOT_SUPPORTED);
    let set = value(|p| events::nvmlEventSetCreate(p)).unwrap();
    assert_eq!(value(|p| events::nvmlDeviceGetSupportedEventTypes(gpu, p)), Ok(0));
    assert_eq!(events::nvmlDeviceRegisterEvents(gpu, 8, set), code::NOT_SUPPORTED);
    assert_eq!(
        events::nvmlEventSetWait_v2(set, std::ptr::null_mut(), 1),
        code::TIMEOUT
    );
    assert_eq!(events::nvmlEventSetFree(set), code::SUCCESS);
    assert_eq!(events::nvmlEventSetFree(set), code::INVALID_ARGUMENT);
    // SAFETY: a text that the library holds for good.
    let what = |code| unsafe { CStr::from_ptr(system::nvmlErrorString(code)) };
    assert_eq!(
        (what(code::NO_PERMISSION), what(12345)),
        (c"Insufficient Permissions", c"Unknown Error")
    );
}
