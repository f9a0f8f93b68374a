//! What differs between two maps is told in lines for people.
use vgpu_pool_map::{PoolMap, differences};

const BEFORE: &str = r#"[scheduler]
quantum_ms = { low = 5 }
call_rate = 100

[[pool]]
name = "A"
gpus = ["GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000b"]
vms = ["1-7", 9]
queue_depth = 8

[[pool]]
name = "B"
gpus = ["all"]
vms = ["20-4294967295"]

[vm.1]
priority = "high"
queue_depth = 8

[vm.2]
priority = "high"

[vm.9]
weight = 3
"#;

fn told(before: &str, after: &str) -> Vec<String> {
    let [before, after] = [before, after].map(|text| PoolMap::parse(text, None).unwrap());
    differences(&before, &after)
}

#[test]
fn everything_that_counts_is_told() {
    let after = r#"
[scheduler]
quantum_ms = { low = 6, high = 20 }
aging_ms = 1000
poll_us = 500
call_rate = 200

[[pool]]
name = "C"
gpus = ["GPU-00000000-0000-0000-0000-00000000000c", "GPU-00000000-0000-0000-0000-00000000000d"]
vms = [30]
policy = "fifo"
call_rate = 0

[[pool]]
name = "A"
gpus = ["GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000c"]
vms = ["1-2", "3-5", 8]
ladder = []
call_rate = 200

[vm.1]
priority = "low"

[vm.2]
priority = "low"
queue_depth = 4
aging_ms = 1000
"#;
    let expected = [
        "scheduler: quantum_ms.low 6, was 5",
        "scheduler: poll_us 500, was 250",
        "all VMs: call_rate 200, was 100",
        "pool B: removed, with all GPUs",
        "pool C: new, with GPUs GPU-00000000-0000-0000-0000-00000000000c, GPU-00000000-0000-0000-0000-00000000000d",
        "pool C: policy fifo",
        "pool C: call_rate no limit",
        "pool A: gets GPU GPU-00000000-0000-0000-0000-00000000000c",
        "pool A: loses GPU GPU-00000000-0000-0000-0000-00000000000b",
        "pool A: queue_depth unlimited, was 8",
        "pool A: call_rate 200, was 100",
        "pool A: ladder none, was warn, deprioritise, stop, end, quarantine",
        "VM 30: from pool B to pool C",
        "VM 8: in pool A",
        "VMs 6-7, 9: no longer in pool A",
        "VMs 20-29, 31-4294967295: no longer in pool B",
        "VM 9: its settings are removed",
        "VMs 1-2: priority low, was high",
        "VM 2: aging_ms 1000, whatever is set for its pool",
        "VM 1: queue_depth unlimited, was 8",
        "VM 2: queue_depth 4, was 8",
    ];
    assert_eq!(told(BEFORE, after), expected);
}

/// What is set to what counts anyway, or is no longer, is told: it is what a later change of the pool spares, or does not.
#[test]
fn what_is_set_is_told_also_where_it_counts_already() {
    let own = BEFORE.replace("[vm.2]\npriority = \"high\"\n", "");
    let own = own.replace("priority = \"high\"\nqueue_depth = 8\n", "priority = \"high\"\n");
    let expected = [
        "VM 2: priority medium, was high",
        "VM 1: queue_depth 8, as is set for its pool",
    ];
    assert_eq!(told(BEFORE, &own), expected);
    let listed = BEFORE.replace("\"all\"", "\"GPU-00000000-0000-0000-0000-00000000000c\"");
    let one = "GPU GPU-00000000-0000-0000-0000-00000000000c";
    assert_eq!(told(BEFORE, &listed), [format!("pool B: {one}, was all GPUs")]);
    assert_eq!(told(&listed, BEFORE), [format!("pool B: all GPUs, was {one}")]);
}

#[test]
fn how_a_map_is_written_does_not_count() {
    let otherwise = BEFORE
        .replace("[\"1-7\", 9]", "[9, \"3-7\", 1, \"2\"] # ours")
        .replace("[vm.1]", "[vm.007]\n\n[vm.01]")
        .replace("weight = 3", "weight = 3\npriority = \"medium\"");
    assert_eq!(told(BEFORE, &otherwise), [""; 0]);
}
