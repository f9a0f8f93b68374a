//! The statistics that there are: what each is called, what it counts, and where it comes from. `docs/operator.md` has the
//! same list, and a test compares them.
use Value::{Counter, Gauge, Summary};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Result, TextEncoder};
use vgpu_sched_api::messages::{GpuStats, Percentiles, Stats, VmStats};

/// A statistic.
pub struct Statistic {
    /// As Prometheus calls it, with the unit at its end.
    pub name: &'static str,
    /// What it is, without a full stop.
    pub help: &'static str,
    of: Of,
}

/// What it is of, and how it is read.
enum Of {
    Host(fn(&Stats) -> Value),
    /// Labelled with the GPU's UUID.
    Gpu(fn(&GpuStats) -> Value),
    /// Labelled with the VM's number and its pool.
    Vm(fn(&VmStats) -> Value),
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

/// All of them.
#[rustfmt::skip]
pub const STATISTICS: [Statistic; 20] = [
    Statistic {
        name: "vgpu_uptime_seconds",
        help: "Time since vgpud started",
        of: Of::Host(|stats| Gauge(stats.uptime_s as f64)),
    },
    Statistic {
        name: "vgpu_gpu_busy_seconds_total",
        help: "Time for which somebody had a turn on the GPU and was not idle",
        of: Of::Gpu(|gpu| Counter(seconds(gpu.busy_us))),
    },
    Statistic {
        name: "vgpu_gpu_switches_total",
        help: "Turns on the GPU that went to another session than the one before",
        of: Of::Gpu(|gpu| Counter(gpu.switches as f64)),
    },
    Statistic {
        name: "vgpu_gpu_waiting_sessions",
        help: "Sessions that wait for a turn on the GPU",
        of: Of::Gpu(|gpu| Gauge(gpu.waiting.into())),
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
        of: Of::Vm(|vm| Gauge(f64::from(u8::from(vm.estimated)))),
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
pub fn prometheus(stats: &Stats) -> Result<String> {
    let families = STATISTICS.iter().map(|statistic| statistic.family(stats));
    // A family without a member cannot be said.
    let families: Vec<MetricFamily> = families
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

impl Statistic {
    /// Its values, each with the labels of what it is of.
    fn values(&self, stats: &Stats) -> Vec<(Vec<LabelPair>, Value)> {
        match self.of {
            Of::Host(read) => vec![(Vec::new(), read(stats))],
            Of::Gpu(read) => stats
                .gpus
                .iter()
                .map(|gpu| (vec![label("gpu", &gpu.uuid)], read(gpu)))
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

    fn family(&self, stats: &Stats) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        let mut metrics = Vec::new();
        for (labels, value) in self.values(stats) {
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

    /// Each number of the message, of which no two are the same, is told once, in its base unit.
    #[test]
    fn every_number_of_the_message_is_told() {
        let stats = fixture::stats();
        let mut told = Vec::new();
        for statistic in &STATISTICS {
            match statistic.values(&stats).pop().unwrap().1 {
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
        let json = serde_json::to_value(&stats).unwrap();
        let mut keys = 0;
        for item in [&json, &json["gpus"][0], &json["vms"][0]] {
            for (key, value) in item.as_object().unwrap() {
                let number = match value.get("count").unwrap_or(value) {
                    serde_json::Value::Bool(flag) => f64::from(u8::from(*flag)),
                    number if number.is_u64() => number.as_f64().unwrap(),
                    // Names and lists.
                    _ => continue,
                };
                if ["schema_version", "vm"].contains(&key.as_str()) {
                    continue;
                }
                let is_time = key.ends_with("_us") || key.ends_with("_microseconds");
                let number = if is_time { number / 1e6 } else { number };
                assert_eq!(told.iter().filter(|value| **value == number).count(), 1, "{key}");
                keys += 1;
            }
        }
        assert_eq!(keys, STATISTICS.len());
    }

    #[test]
    fn prometheus_is_told_in_its_format() {
        let text = prometheus(&fixture::stats()).unwrap();
        let gpu = "\
# HELP vgpu_gpu_busy_seconds_total Time for which somebody had a turn on the GPU and was not idle
# TYPE vgpu_gpu_busy_seconds_total counter
vgpu_gpu_busy_seconds_total{gpu=\"GPU-0\"} 1.5
";
        assert!(text.contains(gpu), "{text}");
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
        let empty = prometheus(&Stats::default()).unwrap();
        assert_eq!(empty.lines().last(), Some("vgpu_uptime_seconds 0"));
    }

    /// The operator's page lists what there is, in the same words.
    #[test]
    fn the_operators_page_lists_the_statistics() {
        let page = include_str!("../../../docs/operator.md");
        let stats = fixture::stats();
        let rows = STATISTICS.iter().map(|statistic| {
            let Statistic { name, help, .. } = statistic;
            let kind = format!("{:?}", statistic.family(&stats).get_field_type()).to_lowercase();
            format!("| `{name}` | {kind} | {help} |")
        });
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `vgpu_")).collect();
        let expected: Vec<String> = rows.collect();
        assert_eq!(listed, expected, "the list is to be\n{}", expected.join("\n"));
    }
}
