//! The statistics that there are: what each is called, what it counts, and where it comes from. `docs/operator.md` has the
//! same list, and a test compares them.
use Value::{Counter, Gauge, Summary};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Result, TextEncoder};
use vgpu_sched_api::messages::{
    GpuState, GpuStats, GpuStatus, Percentiles, Stats, Status, VmStats, XidStatus,
};

/// A statistic.
pub struct Statistic {
    /// As Prometheus calls it, with the unit at its end.
    pub name: &'static str,
    /// What it is, without a full stop.
    pub help: &'static str,
    of: Of,
}

/// What it is of, and how it is read. What is not known is left out: it is not 0.
enum Of {
    Host(fn(&Status, &Stats) -> Value),
    /// Labelled as [`gpu_labels`] says.
    Gpu(fn(&Gpu<'_>) -> Option<Value>),
    /// The same, and with the Xid's number and what usually causes it, `program` or `gpu`.
    Xid(fn(&XidStatus) -> Value),
    /// Labelled with the VM's number and its pool.
    Vm(fn(&VmStats) -> Value),
}

/// What is known of a GPU.
struct Gpu<'a> {
    status: &'a GpuStatus,
    /// `None` for one that is missing.
    stats: Option<&'a GpuStats>,
}

/// What is read, in base units.
enum Value {
    /// Only rises.
    Counter(f64),
    Gauge(f64),
    Summary(Percentiles),
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// So many of a smaller unit.
fn thousandths(count: Option<u32>) -> Option<Value> {
    count.map(|count| Gauge(f64::from(count) / 1e3))
}

fn hundredths(count: Option<u32>) -> Option<Value> {
    count.map(|count| Gauge(f64::from(count) / 1e2))
}

fn millions(count: Option<u32>) -> Option<Value> {
    count.map(|count| Gauge(f64::from(count) * 1e6))
}

/// Whether something is so: 1 or 0.
fn flag(is: bool) -> Value {
    Gauge(f64::from(u8::from(is)))
}

/// All of them.
#[rustfmt::skip]
pub const STATISTICS: [Statistic; 36] = [
    Statistic {
        name: "vgpu_uptime_seconds",
        help: "Time since vgpud started",
        of: Of::Host(|_, stats| Gauge(stats.uptime_s as f64)),
    },
    Statistic {
        name: "vgpu_degraded",
        help: "Things that are not as the pool map wants them, or keep vgpud from its work, as a vgpu.db that cannot be written",
        of: Of::Host(|status, _| Gauge(status.degraded.len() as f64)),
    },
    Statistic {
        name: "vgpu_gpu_busy_seconds_total",
        help: "Time for which somebody had a turn on the GPU and was not idle",
        of: Of::Gpu(|gpu| gpu.stats.map(|stats| Counter(seconds(stats.busy_us)))),
    },
    Statistic {
        name: "vgpu_gpu_switches_total",
        help: "Turns on the GPU that went to another session than the one before",
        of: Of::Gpu(|gpu| gpu.stats.map(|stats| Counter(stats.switches as f64))),
    },
    Statistic {
        name: "vgpu_gpu_waiting_sessions",
        help: "Sessions that wait for a turn on the GPU",
        of: Of::Gpu(|gpu| gpu.stats.map(|stats| Gauge(stats.waiting.into()))),
    },
    Statistic {
        name: "vgpu_gpu_missing",
        help: "1 if a pool names the GPU and it is not there, else 0",
        of: Of::Gpu(|gpu| Some(flag(gpu.status.state == GpuState::Missing))),
    },
    Statistic {
        name: "vgpu_gpu_temperature_celsius",
        help: "Temperature of the GPU",
        of: Of::Gpu(|gpu| gpu.status.measured.temperature.map(|celsius| Gauge(celsius.into()))),
    },
    Statistic {
        name: "vgpu_gpu_power_watts",
        help: "Power that the GPU takes",
        of: Of::Gpu(|gpu| thousandths(gpu.status.measured.power_mw)),
    },
    Statistic {
        name: "vgpu_gpu_power_limit_watts",
        help: "Power that the GPU may take",
        of: Of::Gpu(|gpu| thousandths(gpu.status.measured.power_limit_mw)),
    },
    Statistic {
        name: "vgpu_gpu_utilisation_ratio",
        help: "Part of the time, up to a second, in which a kernel ran, as the driver says",
        of: Of::Gpu(|gpu| hundredths(gpu.status.measured.utilisation)),
    },
    Statistic {
        name: "vgpu_gpu_memory_utilisation_ratio",
        help: "Part of that time in which memory was read or written, as the driver says",
        of: Of::Gpu(|gpu| hundredths(gpu.status.measured.memory_utilisation)),
    },
    Statistic {
        name: "vgpu_gpu_memory_used_bytes",
        help: "Memory in use, the driver's own included",
        of: Of::Gpu(|gpu| gpu.status.measured.memory_used.map(|bytes| Gauge(bytes as f64))),
    },
    Statistic {
        name: "vgpu_gpu_memory_total_bytes",
        help: "Memory that there is",
        of: Of::Gpu(|gpu| gpu.status.measured.memory_total.map(|bytes| Gauge(bytes as f64))),
    },
    Statistic {
        name: "vgpu_gpu_sm_clock_hertz",
        help: "Clock of the multiprocessors",
        of: Of::Gpu(|gpu| millions(gpu.status.measured.sm_clock_mhz)),
    },
    Statistic {
        name: "vgpu_gpu_memory_clock_hertz",
        help: "Clock of the memory",
        of: Of::Gpu(|gpu| millions(gpu.status.measured.memory_clock_mhz)),
    },
    Statistic {
        name: "vgpu_gpu_ecc_enabled",
        help: "1 if memory errors are found and corrected (ECC), else 0",
        of: Of::Gpu(|gpu| gpu.status.measured.ecc.map(flag)),
    },
    Statistic {
        name: "vgpu_gpu_ecc_volatile_uncorrected_errors_total",
        help: "Memory errors that could not be corrected, since the driver was loaded",
        of: Of::Gpu(|gpu| gpu.status.measured.ecc_volatile.map(|errors| Counter(errors as f64))),
    },
    Statistic {
        name: "vgpu_gpu_ecc_aggregate_uncorrected_errors_total",
        help: "Memory errors that could not be corrected, in the GPU's life",
        of: Of::Gpu(|gpu| gpu.status.measured.ecc_aggregate.map(|errors| Counter(errors as f64))),
    },
    Statistic {
        name: "vgpu_gpu_mig_enabled",
        help: "1 if the GPU is in MIG mode, else 0",
        of: Of::Gpu(|gpu| gpu.status.measured.mig.map(flag)),
    },
    Statistic {
        name: "vgpu_gpu_xid_timestamp_seconds",
        help: "When the driver last reported the error xid, in seconds since 1970; cause is what it usually comes from",
        of: Of::Xid(|xid| Gauge(xid.at_s as f64)),
    },
    Statistic {
        name: "vgpu_vm_call_wait_seconds",
        help: "Calls that need the GPU: from being taken from the VM until NVIDIA's library had them",
        of: Of::Vm(|vm| Summary(vm.wait)),
    },
    Statistic {
        name: "vgpu_vm_call_service_seconds",
        help: "Calls that need the GPU: from then until they were seen to be done",
        of: Of::Vm(|vm| Summary(vm.service)),
    },
    Statistic {
        name: "vgpu_vm_call_seconds",
        help: "Calls that need the GPU: from being taken from the VM until they were seen to be done",
        of: Of::Vm(|vm| Summary(vm.total)),
    },
    Statistic {
        name: "vgpu_vm_turn_wait_seconds",
        help: "Turns: from wanting one to having it",
        of: Of::Vm(|vm| Summary(vm.turn_wait)),
    },
    Statistic {
        name: "vgpu_vm_preemption_seconds",
        help: "Turns that were asked back: from being asked for to being given back",
        of: Of::Vm(|vm| Summary(vm.preemption)),
    },
    Statistic {
        name: "vgpu_vm_calls_total",
        help: "Calls done",
        of: Of::Vm(|vm| Counter(vm.calls as f64)),
    },
    Statistic {
        name: "vgpu_vm_queued_calls",
        help: "Calls that were taken from the VM and are not known to be done",
        of: Of::Vm(|vm| Gauge(vm.queued as f64)),
    },
    Statistic {
        name: "vgpu_vm_turns_total",
        help: "Turns that the VM got",
        of: Of::Vm(|vm| Counter(vm.turns as f64)),
    },
    Statistic {
        name: "vgpu_vm_preemptions_total",
        help: "Turns that were asked back before their work was done",
        of: Of::Vm(|vm| Counter(vm.preemptions as f64)),
    },
    Statistic {
        name: "vgpu_vm_stops_total",
        help: "Turns that were ended by stopping what ran",
        of: Of::Vm(|vm| Counter(vm.stops as f64)),
    },
    Statistic {
        name: "vgpu_vm_gpu_seconds_total",
        help: "GPU time: what the VM's turns lasted, less idle and stopped time",
        of: Of::Vm(|vm| Counter(seconds(vm.gpu_microseconds))),
    },
    Statistic {
        name: "vgpu_vm_gpu_seconds_estimated",
        help: "1 if part of the GPU time is an estimate, split by time slice, else 0",
        of: Of::Vm(|vm| flag(vm.estimated)),
    },
    Statistic {
        name: "vgpu_vm_throttled_seconds_total",
        help: "Time for which calls were held back by a limit on their rate",
        of: Of::Vm(|vm| Counter(seconds(vm.throttled_us))),
    },
    Statistic {
        name: "vgpu_vm_violations_total",
        help: "Limits that were broken",
        of: Of::Vm(|vm| Counter(vm.violations as f64)),
    },
    Statistic {
        name: "vgpu_vm_refused_total",
        help: "Allocations that the limit on memory refused",
        of: Of::Vm(|vm| Counter(vm.refused as f64)),
    },
    Statistic {
        name: "vgpu_vm_memory_bytes",
        help: "Memory of the VM's sessions on all its GPUs",
        of: Of::Vm(|vm| Gauge(vm.memory as f64)),
    },
];

/// The statistics in the text format of Prometheus.
pub fn prometheus(status: &Status, stats: &Stats) -> Result<String> {
    let families = STATISTICS.iter().map(|statistic| statistic.family(status, stats));
    // A family without a member cannot be said.
    let families: Vec<MetricFamily> = families
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

impl Statistic {
    /// Its values, each with the labels of what it is of.
    fn values(&self, status: &Status, stats: &Stats) -> Vec<(Vec<LabelPair>, Value)> {
        let gpus = status.gpus.iter().map(|gpu| Gpu {
            status: gpu,
            stats: stats.gpus.iter().find(|stats| stats.uuid == gpu.uuid),
        });
        let labels = |gpu: &GpuStatus| gpu_labels(&status.hostname, gpu);
        match self.of {
            Of::Host(read) => vec![(Vec::new(), read(status, stats))],
            Of::Gpu(read) => gpus
                .filter_map(|gpu| Some((labels(gpu.status), read(&gpu)?)))
                .collect(),
            Of::Xid(read) => gpus
                .flat_map(|gpu| gpu.status.xids.iter().map(move |xid| (gpu.status, xid)))
                .map(|(gpu, xid)| {
                    let cause = if xid.by_program { "program" } else { "gpu" };
                    let own = [label("xid", &xid.number.to_string()), label("cause", cause)];
                    (labels(gpu).into_iter().chain(own).collect(), read(xid))
                })
                .collect(),
            Of::Vm(read) => stats
                .vms
                .iter()
                .map(|vm| {
                    let labels = vec![label("vm", &vm.vm.to_string()), label("pool", &vm.pool)];
                    (labels, read(vm))
                })
                .collect(),
        }
    }

    fn family(&self, status: &Status, stats: &Stats) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        let mut metrics = Vec::new();
        for (labels, value) in self.values(status, stats) {
            let mut metric = Metric::from_label(labels);
            family.set_field_type(value.kind());
            value.into_metric(&mut metric);
            metrics.push(metric);
        }
        family.set_metric(metrics);
        family
    }
}

impl Value {
    fn kind(&self) -> MetricType {
        match self {
            Counter(_) => MetricType::COUNTER,
            Gauge(_) => MetricType::GAUGE,
            Summary(_) => MetricType::SUMMARY,
        }
    }

    fn into_metric(self, metric: &mut Metric) {
        match self {
            Counter(value) => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Gauge(value) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Summary(percentiles) => {
                let Percentiles {
                    count,
                    p50,
                    p95,
                    p99,
                    max,
                    sum,
                } = percentiles;
                let quantiles = [(0.5, p50), (0.95, p95), (0.99, p99), (1.0, max)].map(|(of, value)| {
                    let mut quantile = proto::Quantile::default();
                    quantile.set_quantile(of);
                    // Of nothing there is no quantile.
                    quantile.set_value(if count == 0 { f64::NAN } else { seconds(value) });
                    quantile
                });
                let mut summary = proto::Summary::default();
                summary.set_quantile(quantiles.to_vec());
                summary.set_sample_count(count);
                summary.set_sample_sum(seconds(sum));
                metric.set_summary(summary);
            }
        }
    }
}

/// The labels of a GPU's statistics. They are those of NVIDIA's dcgm-exporter, so that its metrics and these can be joined;
/// what is not known is left out. A MIG instance has the index and UUID that it has everywhere here.
fn gpu_labels(hostname: &str, gpu: &GpuStatus) -> Vec<LabelPair> {
    let index = gpu.index.map(|index| index.to_string()).unwrap_or_default();
    let device = match gpu.uuid.starts_with("GPU-") && !index.is_empty() {
        true => format!("nvidia{index}"),
        false => String::new(),
    };
    let labels = [
        ("gpu", index.as_str()),
        ("UUID", &gpu.uuid),
        ("pci_bus_id", &gpu.pci),
        ("device", &device),
        ("modelName", &gpu.model),
        ("hostname", hostname),
    ];
    let known = labels.into_iter().filter(|(_, value)| !value.is_empty());
    known.map(|(name, value)| label(name, value)).collect()
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use std::collections::BTreeSet;

    /// Each number of the messages is told once, in its base unit.
    #[test]
    fn every_number_of_the_messages_is_told() {
        let (status, stats) = (fixture::host(), fixture::stats());
        let mut told = Vec::new();
        for statistic in &STATISTICS {
            match statistic.values(&status, &stats).swap_remove(0).1 {
                Counter(value) => {
                    assert!(statistic.name.ends_with("_total"), "{}", statistic.name);
                    told.push(value);
                }
                Gauge(value) => {
                    assert!(!statistic.name.ends_with("_total"), "{}", statistic.name);
                    told.push(value);
                }
                Summary(percentiles) => {
                    assert!(statistic.name.ends_with("_seconds"), "{}", statistic.name);
                    told.push(percentiles.count as f64);
                }
            }
        }
        // There is one thing that is degraded, and the first GPU is not missing.
        let mut there_is = vec![1.0, 0.0, status.gpus[0].xids[0].at_s as f64];
        let stats = serde_json::to_value(&stats).unwrap();
        let measured = serde_json::to_value(status.gpus[0].measured).unwrap();
        for item in [&stats, &stats["gpus"][0], &stats["vms"][0], &measured] {
            for (key, value) in item.as_object().unwrap() {
                let number = match value.get("count").unwrap_or(value) {
                    serde_json::Value::Bool(flag) => f64::from(u8::from(*flag)),
                    number if number.is_u64() => number.as_f64().unwrap(),
                    // Names and lists.
                    _ => continue,
                };
                let units = [
                    ("_us", 1e-6),
                    ("_microseconds", 1e-6),
                    ("_mw", 1e-3),
                    ("utilisation", 1e-2),
                    ("_mhz", 1e6),
                ];
                let unit = units.iter().find(|(end, _)| key.ends_with(end));
                if !["schema_version", "vm"].contains(&key.as_str()) {
                    there_is.push(number * unit.map_or(1.0, |(_, unit)| *unit));
                }
            }
        }
        let sorted = |mut numbers: Vec<f64>| {
            numbers.sort_by(f64::total_cmp);
            numbers
                .iter()
                .map(|number| format!("{number:.7}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(sorted(told), sorted(there_is));
    }

    #[test]
    fn prometheus_is_told_in_its_format() {
        let text = prometheus(&fixture::host(), &fixture::stats()).unwrap();
        let model = "pci_bus_id=\"00000000:1B:00.0\",device=\"nvidia0\",modelName=\"NVIDIA H100 80GB HBM3\"";
        let gpu = format!("gpu=\"0\",UUID=\"GPU-Some(0)\",{model},hostname=\"gpu1\"");
        let busy = format!(
            "\
# HELP vgpu_gpu_busy_seconds_total Time for which somebody had a turn on the GPU and was not idle
# TYPE vgpu_gpu_busy_seconds_total counter
vgpu_gpu_busy_seconds_total{{{gpu}}} 1.5
"
        );
        assert!(text.contains(&busy), "{text}");
        let xid = format!("\nvgpu_gpu_xid_timestamp_seconds{{{gpu},xid=\"79\",cause=\"gpu\"}} 1700000000\n");
        assert!(text.contains(&xid), "{text}");
        // One that is missing has no index and nothing that it measures.
        let missing = "UUID=\"GPU-None\",pci_bus_id=\"00000000:1B:00.0\",modelName=\"NVIDIA H100 80GB HBM3\",hostname=\"gpu1\"";
        let of_missing: Vec<&str> = text.lines().filter(|line| line.contains("GPU-None")).collect();
        assert_eq!(of_missing, [format!("vgpu_gpu_missing{{{missing}}} 1")]);
        // A pool's name is its operator's choice.
        let labels = "vm=\"7\",pool=\"A \\\"big\\\"\\n\\\\one\"";
        let wait = format!(
            "# TYPE vgpu_vm_call_wait_seconds summary
vgpu_vm_call_wait_seconds{{{labels},quantile=\"0.5\"}} 0.000101
vgpu_vm_call_wait_seconds{{{labels},quantile=\"0.95\"}} 0.000102
vgpu_vm_call_wait_seconds{{{labels},quantile=\"0.99\"}} 0.000103
vgpu_vm_call_wait_seconds{{{labels},quantile=\"1\"}} 0.000104
vgpu_vm_call_wait_seconds_sum{{{labels}}} 0.000105
vgpu_vm_call_wait_seconds_count{{{labels}}} 100
"
        );
        assert!(text.contains(&wait), "{text}");
        assert!(text.contains(&format!(
            "vgpu_vm_preemption_seconds{{{labels},quantile=\"1\"}} NaN\n"
        )));
        assert!(
            text.contains(&format!("\nvgpu_vm_memory_bytes{{{labels}}} 509\n")),
            "{text}"
        );
        let names: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert_eq!(names, STATISTICS.iter().map(|statistic| statistic.name).collect());
        // Before the first VM came there is less to tell.
        let none = Status {
            gpus: Vec::new(),
            ..fixture::host()
        };
        let empty = prometheus(&none, &Stats::default()).unwrap();
        assert_eq!(empty.lines().last(), Some("vgpu_degraded 1"));
    }

    /// The operator's page lists what there is, in the same words.
    #[test]
    fn the_operators_page_lists_the_statistics() {
        let page = include_str!("../../../docs/operator.md");
        let (status, stats) = (fixture::host(), fixture::stats());
        let rows = STATISTICS.iter().map(|statistic| {
            let Statistic { name, help, .. } = statistic;
            let kind = format!("{:?}", statistic.family(&status, &stats).get_field_type()).to_lowercase();
            format!("| `{name}` | {kind} | {help} |")
        });
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `vgpu_")).collect();
        let expected: Vec<String> = rows.collect();
        assert_eq!(listed, expected, "the list is to be\n{}", expected.join("\n"));
    }
}
