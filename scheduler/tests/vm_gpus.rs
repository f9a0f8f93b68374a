//! What a VM is told of its GPUs, with backends and executors played by the test.
#[allow(dead_code)]
mod common;

use common::{Backend, Daemon};
use softgpu_device::Part;
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{Answer, Change, Refusal, Request, VmGpus, VmProcess};

const MIB: u64 = 1 << 20;

fn told(backend: &Backend) -> VmGpus {
    match backend.ask(&Request::VmGpus) {
        Answer::VmGpus { gpus } => *gpus,
        other => panic!("{other:?}"),
    }
}

fn refusal(backend: &Backend) -> Refusal {
    match backend.ask(&Request::VmGpus) {
        Answer::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vm_is_told_of_its_own_gpus_memory_and_processes_alone() {
    let uuids = [0, 1].map(|gpu| Part::whole(gpu).uuid_text());
    let pool =
        |name, uuid: &str, vms| format!("[[pool]]\nname = \"{name}\"\ngpus = [\"{uuid}\"]\nvms = [{vms}]\n");
    let map = pool("A", &uuids[0], "1, 2") + &pool("B", &uuids[1], "3") + "[vm.1]\ngpu_memory_mib = 512\n";
    let daemon = Daemon::with_gpus(2, &map);
    let (one, two, three) = (daemon.backend(1), daemon.backend(2), daemon.backend(3));
    let before = told(&one);
    assert_eq!(before.gpus.len(), 1);
    assert_eq!(before.processes, []);
    let gpu = &before.gpus[0];
    assert_eq!((gpu.memory, gpu.used), (512 * MIB, 0));
    assert_eq!(gpu.uuid, uuids[0]);
    assert_eq!(gpu.model, "vgpu software GPU");
    assert!(gpu.facts.compute.is_some() && gpu.facts.cuda_version.is_some());
    assert!(!before.driver.is_empty());
    // The software GPU has no sensor.
    assert_eq!(gpu.readings.temperature, None);

    let (first, second) = (one.session(1), one.session(2));
    let others = two.session(1);
    for (exec, bytes) in [(&first, 100), (&second, 30), (&others, 7)] {
        let (page, slot) = exec.vm_page();
        assert!(page.take_memory(slot, 0, bytes * MIB));
    }
    let own = told(&one);
    assert_eq!(own.gpus[0].used, 130 * MIB);
    let memory = |gpus: &VmGpus| -> Vec<u64> {
        let processes: &[VmProcess] = &gpus.processes;
        assert!(processes.iter().all(|process| process.gpu == 0));
        processes.iter().map(|process| process.memory).collect()
    };
    assert_eq!(memory(&own), [100 * MIB, 30 * MIB]);
    let other = told(&two);
    assert_eq!((other.gpus[0].used, memory(&other)), (7 * MIB, vec![7 * MIB]));
    // Without a quota it is all of the GPU's.
    assert_eq!(other.gpus[0].memory, 4096 * MIB);
    let elsewhere = told(&three);
    assert_eq!((&elsewhere.gpus[0].uuid, elsewhere.gpus[0].used), (&uuids[1], 0));
    assert_eq!(elsewhere.processes, []);
    // A session that is over has nothing any longer.
    one.ask(&Request::CloseSession { session: 1 });
    assert_eq!(memory(&told(&one)), [30 * MIB]);
}

/// One VM works and another one only has a session.
#[test]
fn a_vm_is_told_how_busy_it_is_itself() {
    let map = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2]\n";
    let daemon = Daemon::start(map);
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (exec, _idle) = (one.session(1), two.session(1));
    // A session without memory uses no GPU yet.
    assert_eq!(told(&one).processes, []);
    exec.take_turn();
    exec.show(1, 1);
    let end = Instant::now() + Duration::from_secs(20);
    while told(&one).gpus[0].utilisation != Some(100) {
        assert!(Instant::now() < end, "{:?}", told(&one));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(told(&two).gpus[0].utilisation, Some(0));
}

#[test]
fn who_has_no_gpu_is_told_why() {
    let map = |gpus: &str| format!("[[pool]]\nname = \"A\"\ngpus = [{gpus}]\nvms = [1]\n");
    let daemon = Daemon::start(&map("\"all\""));
    let backend = daemon.backend(1);
    assert_eq!(told(&backend).gpus.len(), 1);
    let vms = "1".to_owned();
    daemon.change(Change::Quarantine {
        vms: vms.clone(),
        why: "a test".to_owned(),
        seconds: None,
    });
    assert_eq!(refusal(&backend), Refusal::Quarantined { wait_s: None });
    daemon.change(Change::Release { vms });
    assert_eq!(told(&backend).gpus.len(), 1);
    daemon.load(&map("\"all\"").replace("vms = [1]", "vms = [2]"));
    assert_eq!(refusal(&backend), Refusal::NotMapped);
    // Nobody else may ask: a tool has no VM.
    assert!(matches!(
        daemon.ask(&Request::VmGpus),
        Answer::Refused {
            why: Refusal::Invalid,
            ..
        }
    ));
}
