//! What there is to show, for tests.
use vgpu_sched_api::messages::{
    Arrival, CallRecord, Change, ChangeRecord, Edit, EventKind, EventRecord, GpuMeasured, GpuState, GpuStats,
    GpuStatus, GpuUsageRecord, Limits, Percentiles, Policy, PoolStatus, Priority, QuarantineStatus, Rung,
    SCHEMA_VERSION, SessionStatus, Sharing, Stats, Status, UsageRecord, Used, VmSettings, VmStats, VmStatus,
    XidStatus,
};

fn session(program: &str, state: &str) -> SessionStatus {
    SessionStatus {
        session: 1,
        pid: 2,
        program: program.to_owned(),
        state: state.to_owned(),
        memory: 40 << 30,
        gpus: Vec::new(),
        queued: 0,
        calls: 0,
    }
}

fn vm(number: u32) -> VmStatus {
    VmStatus {
        vm: number,
        connected: true,
        priority: Priority::High,
        weight: 100,
        aging_ms: 1000,
        queue_depth: Some(64),
        queued: 12,
        calls: 123_456_789,
        turns: 99_999,
        gpu_microseconds: 7_265_000_000,
        estimated: true,
        limits: Limits::default(),
        violations: 2,
        quarantine: Some(QuarantineStatus {
            why: "it ran\nwild".to_owned(),
            since_s: 1_700_000_000,
            until_s: Some(1_700_000_300),
        }),
        sessions: vec![
            session("/usr/bin/saxpy", "running"),
            session("evil\x1b[2J", "out"),
            session("c", "waiting"),
            session("d", "waiting"),
            session("e", "idle"),
        ],
    }
}

/// Everything that there is to measure, and no number twice.
pub fn measured() -> GpuMeasured {
    GpuMeasured {
        temperature: Some(41),
        power_mw: Some(312_500),
        power_limit_mw: Some(700_000),
        utilisation: Some(87),
        memory_utilisation: Some(34),
        memory_used: Some(65_712_160_768),
        memory_total: Some(85_520_809_984),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        ecc: Some(true),
        ecc_volatile: Some(42),
        ecc_aggregate: Some(43),
        mig: Some(false),
    }
}

fn xids() -> Vec<XidStatus> {
    let xid = |number, meaning: &str, by_program| XidStatus {
        number,
        meaning: Some(meaning.to_owned()),
        by_program,
        at_s: 1_700_000_000,
    };
    vec![
        xid(79, "the GPU has fallen off the bus", false),
        xid(31, "access to memory that is not mapped", true),
    ]
}

/// A host that has everything there is to show, in its widest form.
pub fn host() -> Status {
    let gpu = |index, state| GpuStatus {
        index,
        uuid: format!("GPU-{index:?}"),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        pci: "00000000:1B:00.0".to_owned(),
        driver: "580.159.04".to_owned(),
        memory: 85_520_809_984,
        state,
        pools: vec!["A".to_owned()],
        sessions: 5,
        measured: index.map(|_: u32| measured()).unwrap_or_default(),
        xids: index.map(|_| xids()).unwrap_or_default(),
    };
    Status {
        schema_version: SCHEMA_VERSION,
        version: "0.1.0".to_owned(),
        uptime_s: 100_000,
        hostname: "gpu1".to_owned(),
        config: "/etc/vgpu/pools.toml".to_owned(),
        map_version: "0123456789abcdef".to_owned(),
        degraded: vec!["pool A: its GPU GPU-None is missing".to_owned()],
        map_differs: Some("the pool map in /etc/vgpu/pools.toml differs from the one in use".to_owned()),
        gpus: vec![gpu(Some(0), GpuState::Ready), gpu(None, GpuState::Missing)],
        pools: vec![PoolStatus {
            name: "A".to_owned(),
            gpus: vec!["GPU-Some(0)".to_owned(), "GPU-None".to_owned()],
            complete: false,
            ranges: vec!["1-7".to_owned(), "9".to_owned()],
            policy: Policy::Weighted,
            exclusive: true,
            sharing: Sharing::Mps,
            weight: 100,
            gpus_per_vm: 1,
            ladder: vec![Rung::Warn, Rung::Stop],
            vms: vec![vm(3), vm(9)],
        }],
        in_no_pool: vec![vm(12)],
    }
}

/// An event with two calls, one of which had not returned.
pub fn event(number: u64) -> EventRecord {
    let call = |name: &str, took_us| CallRecord {
        name: name.to_owned(),
        before_us: 2_500_000,
        took_us,
        ring: 3,
    };
    EventRecord {
        number,
        at_s: 1_700_000_000,
        kind: EventKind::Ended,
        vm: Some(3),
        session: Some(7),
        gpu: Some("GPU-0".to_owned()),
        message: "a kernel of \x1b[2J ran too long".to_owned(),
        calls: vec![
            call("cuLaunchKernel", Some(12)),
            call("cuStreamSynchronize", None),
        ],
    }
}

/// Somebody has changed the pool map.
pub fn change(number: u64) -> ChangeRecord {
    ChangeRecord {
        number,
        at_s: 1_700_000_000,
        uid: Some(990),
        user: Some("anna".to_owned()),
        change: Change::Edit {
            edits: vec![Edit::SetVms {
                vms: "1".to_owned(),
                settings: VmSettings {
                    priority: Some(Priority::High),
                    ..VmSettings::default()
                },
            }],
        },
        changes: vec!["VM 1: priority high, was medium".to_owned()],
        diff: "--- original\n+++ modified\n@@ -7 +7 @@\n-priority = \"medium\"\n+priority = \"high\"\n"
            .to_owned(),
        map_version: "0123456789abcdef".to_owned(),
        refused: None,
    }
}

/// What a VM used in an hour.
pub fn usage(vm: u32) -> UsageRecord {
    UsageRecord {
        from_s: 1_699_999_200,
        to_s: 1_700_002_800,
        vm,
        pool: "A".to_owned(),
        used: Used {
            gpu_microseconds: 3_599_000_001,
            estimated_microseconds: 500_000,
            turns: 12,
            turn_wait_us: 7_000_000,
            turn_wait_p50_us: 250_000,
            turn_wait_p99_us: 2_400_000,
            turn_wait_max_us: 2_500_000,
            call_waits: 4_000,
            call_wait_p50_us: 12,
            call_wait_p99_us: 31_200,
            call_wait_max_us: 1_000_000,
            calls: 123_456_789,
            violations: 1,
            refused: 2,
            memory_byte_seconds: (3600 << 30) * 159 / 2,
        },
    }
}

/// For how long a GPU was in use in an hour.
pub fn gpu_usage(uuid: &str) -> GpuUsageRecord {
    GpuUsageRecord {
        from_s: 1_699_999_200,
        to_s: 1_700_002_800,
        uuid: uuid.to_owned(),
        busy_us: 1_800_000_001,
    }
}

pub fn arrival(number: u64) -> Arrival {
    Arrival {
        number,
        vm: 3,
        session: 1,
        pool: "A".to_owned(),
        gpus: vec!["GPU-0".to_owned()],
        priority: Priority::High,
        weight: 2,
        policy: Some(Policy::Priority),
        at_us: 10,
        waited_us: 20,
        used_us: 30,
    }
}

/// With a GPU and a VM, and no number twice.
pub fn stats() -> Stats {
    let times = |first: u64| Percentiles {
        count: first,
        p50: first + 1,
        p95: first + 2,
        p99: first + 3,
        max: first + 4,
        sum: first + 5,
    };
    Stats {
        schema_version: SCHEMA_VERSION,
        uptime_s: 77,
        gpus: vec![GpuStats {
            uuid: "GPU-Some(0)".to_owned(),
            busy_us: 1_500_000,
            switches: 2,
            waiting: 3,
        }],
        vms: vec![VmStats {
            vm: 7,
            pool: "A \"big\"\n\\one".to_owned(),
            wait: times(100),
            service: times(200),
            total: times(300),
            turn_wait: times(400),
            preemption: times(0),
            calls: 500,
            queued: 501,
            turns: 502,
            preemptions: 503,
            stops: 504,
            gpu_microseconds: 505,
            estimated: true,
            throttled_us: 506,
            violations: 507,
            refused: 508,
            memory: 509,
        }],
    }
}
