//! What the VM may know of its GPUs: as `vgpud` told last, for a little while, and told anew when somebody asks after
//! that. However often a guest asks, `vgpud` hears of it only so often.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::gpus::{Gpu, Gpus, Process, Reply, UNKNOWN, padded};
use vgpu_protocol::limits::{FRONT_ENDS_MAX, GPUS_AGE_MS, GPUS_MAX, QUEUE_LEN};
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::messages::{VmGpu, VmGpus};
use zerocopy::FromZeros;

/// A reply's body, or how the request failed.
pub type Told = Result<Arc<[u8]>, Status>;
/// As many as front ends can have asked, each as often as its queue has room. (One whose device is reset may ask again.)
const WAITING_MAX: usize = FRONT_ENDS_MAX as usize * QUEUE_LEN as usize;
/// Who waits for it.
type Waiting = Box<dyn FnOnce(Told) + Send>;

/// See the module.
#[derive(Default)]
pub struct Known {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    told: Option<(Instant, Told)>,
    /// `vgpud` is asked, and has not answered.
    asked: bool,
    waiting: Vec<Waiting>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `answer` called with what is known, now or when it is told. Whether `vgpud` is to be asked.
    pub fn want(&self, now: Instant, answer: Waiting) -> bool {
        let mut state = self.state();
        let age_max = Duration::from_millis(GPUS_AGE_MS);
        let fresh = state
            .told
            .as_ref()
            .filter(|(at, _)| now.saturating_duration_since(*at) < age_max);
        if let Some((_, told)) = fresh {
            let told = told.clone();
            drop(state);
            answer(told);
            return false;
        }
        if state.waiting.len() >= WAITING_MAX {
            drop(state);
            answer(Err(Status::Limit));
            return false;
        }
        state.waiting.push(answer);
        !std::mem::replace(&mut state.asked, true)
    }

    /// `vgpud` answered, or cannot be asked.
    pub fn tell(&self, now: Instant, told: Told) {
        let mut state = self.state();
        state.told = Some((now, told.clone()));
        state.asked = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for answer in waiting {
            answer(told.clone());
        }
    }
}

/// A refusal as an answer: a VM without GPUs has a list without entries.
pub fn refused(status: Status) -> Told {
    match status {
        Status::NoPool | Status::NoGpu => Ok(encode(&VmGpus::default()).into()),
        status => Err(status),
    }
}

/// The body of a reply that says this.
pub fn encode(told: &VmGpus) -> Vec<u8> {
    let mut head = Gpus::new_zeroed();
    head.driver = padded(&told.driver);
    let cuda_versions = told.gpus.iter().filter_map(|gpu| gpu.facts.cuda_version);
    head.cuda_version = cuda_versions.min().unwrap_or(UNKNOWN);
    let known = told.gpus.len().min(GPUS_MAX as usize) as u32;
    let processes = told.processes.iter().filter(|process| process.gpu < known);
    let reply = Reply {
        head,
        gpus: told.gpus.iter().map(gpu).collect(),
        processes: processes
            .map(|process| Process {
                pid: process.pid,
                gpu: process.gpu,
                memory: process.memory,
            })
            .collect(),
    };
    reply.encode()
}

fn gpu(told: &VmGpu) -> Gpu {
    let number = |number: Option<u32>| number.unwrap_or(UNKNOWN);
    let (facts, readings) = (&told.facts, &told.readings);
    Gpu {
        name: padded(&told.model),
        peers: told
            .peers
            .iter()
            .filter_map(|place| 1u32.checked_shl(*place))
            .fold(0, std::ops::BitOr::bitor),
        uuid: padded(&told.uuid),
        pci: padded(&told.pci),
        memory: told.memory,
        used: told.used,
        utilisation: number(told.utilisation),
        pci_device: number(facts.pci_device),
        pci_subsystem: number(facts.pci_subsystem),
        compute: facts.compute.unwrap_or([UNKNOWN; 2]),
        architecture: number(facts.architecture),
        brand: number(facts.brand),
        cores: number(facts.cores),
        bus_width: number(facts.bus_width),
        ecc: number(facts.ecc.map(u32::from)),
        clocks_max: facts.clocks_max.map(number),
        pcie_max: facts.pcie_max.map(number),
        clocks: readings.clocks.map(number),
        temperature: number(readings.temperature),
        power: number(readings.power),
        power_limit: number(readings.power_limit),
        performance: number(readings.performance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::gpus::text;
    use vgpu_sched_api::messages::{GpuFacts, VmProcess};

    #[test]
    fn vgpud_is_asked_once_for_all_who_wait_and_again_after_a_while() {
        let (known, start) = (Known::default(), Instant::now());
        let answers = Arc::new(Mutex::new(Vec::new()));
        let answer = |name: u32| -> Waiting {
            let answers = answers.clone();
            Box::new(move |told| {
                answers
                    .lock()
                    .unwrap()
                    .push((name, told.map(|told| told.to_vec())))
            })
        };
        assert!(known.want(start, answer(1)));
        assert!(!known.want(start, answer(2)));
        assert!(answers.lock().unwrap().is_empty());
        known.tell(start, Ok(vec![7].into()));
        let age = Duration::from_millis(GPUS_AGE_MS);
        assert!(!known.want(start + age / 2, answer(3)));
        let expected = [1, 2, 3].map(|name| (name, Ok(vec![7])));
        assert_eq!(*answers.lock().unwrap(), expected);
        // A failure is told again for as long.
        assert!(known.want(start + age, answer(4)));
        known.tell(start + age, Err(Status::Quarantined));
        assert!(!known.want(start + age + age / 2, answer(5)));
        let last = answers.lock().unwrap().split_off(3);
        assert_eq!(last, [4, 5].map(|name| (name, Err(Status::Quarantined))));
    }

    #[test]
    fn what_vgpud_tells_is_a_reply() {
        let told = VmGpus {
            driver: "580.159.04".to_owned(),
            gpus: vec![
                VmGpu {
                    uuid: "GPU-a".to_owned(),
                    model: "m".repeat(1000),
                    memory: 5,
                    utilisation: Some(50),
                    peers: vec![1, 3, 99],
                    facts: GpuFacts {
                        cuda_version: Some(13_000),
                        ..GpuFacts::default()
                    },
                    ..VmGpu::default()
                };
                GPUS_MAX as usize + 3
            ],
            processes: [0, GPUS_MAX]
                .map(|gpu| VmProcess {
                    pid: 3,
                    gpu,
                    memory: 9,
                })
                .into(),
        };
        let reply = Reply::decode(&encode(&told)).unwrap();
        assert_eq!(reply.gpus.len(), GPUS_MAX as usize);
        assert_eq!(
            reply.processes,
            [Process {
                pid: 3,
                gpu: 0,
                memory: 9
            }]
        );
        assert_eq!(
            (text(&reply.head.driver).as_str(), reply.head.cuda_version),
            ("580.159.04", 13_000)
        );
        let gpu = &reply.gpus[0];
        assert_eq!((text(&gpu.uuid).as_str(), text(&gpu.name).len()), ("GPU-a", 91));
        assert_eq!(gpu.peers, 0b1010);
        assert_eq!((gpu.memory, gpu.utilisation, gpu.power), (5, 50, UNKNOWN));
    }

    #[test]
    fn a_vm_without_gpus_has_an_empty_list() {
        for why in [Status::NoGpu, Status::NoPool] {
            let reply = Reply::decode(&refused(why).unwrap()).unwrap();
            assert!(reply.gpus.is_empty() && reply.processes.is_empty());
            assert_eq!(reply.head.cuda_version, UNKNOWN);
        }
        assert_eq!(refused(Status::Quarantined), Err(Status::Quarantined));
    }
}
