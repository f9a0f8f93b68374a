//! What programs are told.
use crate::doctor::Finding;
use crate::launch::{Cdi, Discovery};
use crate::record::Recorded;
use crate::replay::Replayed;
use serde::Serialize;
use vgpu_client::failure::Failure;
use vgpu_sched_api::messages::{
    ChangeRecord, Changed, EventRecord, GpuRungs, GpuUsageRecord, Period, SCHEMA_VERSION, Scanned, Stats,
    Status, TurnRecord, UsageRecord,
};

/// An object, `schema_version` in front.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Told<'a> {
    /// With a version of its own, as the next one.
    Status(&'a Status),
    Stats(&'a Stats),
    Changed {
        dry_run: bool,
        #[serde(flatten)]
        changed: &'a Changed,
    },
    Audit {
        changes: &'a [ChangeRecord],
    },
    Scanned(&'a Scanned),
    Usage {
        by: Period,
        from_s: u64,
        to_s: u64,
        usage: &'a [UsageRecord],
    },
    GpuUsage {
        by: Period,
        from_s: u64,
        to_s: u64,
        gpus: &'a [GpuUsageRecord],
    },
    Turns {
        turns: &'a [TurnRecord],
    },
    Events {
        events: &'a [EventRecord],
    },
    Event(&'a EventRecord),
    Probed {
        gpus: &'a [GpuRungs],
    },
    Recorded {
        file: String,
        #[serde(flatten)]
        recorded: Recorded,
    },
    Replayed(&'a Replayed),
    Reloaded {
        config: &'a str,
        pools: usize,
        dry_run: bool,
        #[serde(flatten)]
        changed: &'a Changed,
    },
    Checked {
        file: String,
        pools: usize,
        gpus_compared: bool,
    },
    Examined {
        findings: &'a [Finding],
    },
    /// What is said in it is the Container Device Interface's.
    Container {
        vm: u32,
        cdi: &'a Cdi,
    },
    Domain {
        vm: u32,
        vm_socket: &'a str,
        xml: &'a str,
    },
    /// Before it is encoded.
    ExtraConfig {
        vm: u32,
        vm_socket: &'a str,
        config: &'a str,
    },
    /// What is said in it is CloudStack's.
    Discovered(&'a Discovery),
    Error {
        error: Error<'a>,
    },
}

#[derive(Serialize)]
pub struct Error<'a> {
    pub exit_code: u8,
    #[serde(flatten)]
    pub failure: &'a Failure,
}

impl Told<'_> {
    /// As JSON, over many lines or in one.
    pub fn json(&self, lines: bool) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            schema_version: Option<u32>,
            #[serde(flatten)]
            told: &'a Told<'a>,
        }
        let versioned = Versioned {
            schema_version: (!matches!(self, Self::Status(_) | Self::Stats(_))).then_some(SCHEMA_VERSION),
            told: self,
        };
        let json = match lines {
            true => serde_json::to_string_pretty(&versioned),
            false => serde_json::to_string(&versioned),
        };
        // All keys are strings, so there is nothing that JSON cannot say.
        json.expect("JSON") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::replay;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use vgpu_client::failure::Kind;
    use vgpu_client::fixture;
    use vgpu_sched_api::messages::{Policy, Priority};

    fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    found.insert(key.clone());
                    keys(value, found);
                }
            }
            Value::Array(all) => all.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    /// The operator's page tells of every key of JSON that is printed, and of the version.
    #[test]
    fn the_operators_page_tells_of_every_key() {
        let status = fixture::host();
        let stats = fixture::stats();
        let replayed = replay::tests::replayed();
        let failure = Failure::new(Kind::Failed, "it failed");
        let turn = TurnRecord {
            number: 1,
            vm: 3,
            session: 1,
            gpu: "GPU-0".to_owned(),
            priority: Priority::Low,
            policy: Policy::Priority,
            level: Some(Priority::Low),
            granted_us: 0,
            waited_us: 0,
            held_us: None,
            end: None,
        };
        let all = [
            Told::Status(&status),
            Told::Stats(&stats),
            Told::Replayed(&replayed),
            Told::Changed {
                dry_run: true,
                changed: &Changed::default(),
            },
            Told::Audit {
                changes: &[fixture::change(1)],
            },
            Told::Scanned(&Scanned::default()),
            Told::Usage {
                by: Period::Day,
                from_s: 1,
                to_s: 2,
                usage: &[fixture::usage(3)],
            },
            Told::GpuUsage {
                by: Period::Day,
                from_s: 1,
                to_s: 2,
                gpus: &[fixture::gpu_usage("GPU-0")],
            },
            Told::Turns { turns: &[turn] },
            Told::Events {
                events: &[fixture::event(1)],
            },
            Told::Probed {
                gpus: &[GpuRungs::default()],
            },
            Told::Recorded {
                file: String::new(),
                recorded: Recorded::default(),
            },
            Told::Reloaded {
                config: "",
                pools: 1,
                dry_run: false,
                changed: &Changed::default(),
            },
            Told::Checked {
                file: String::new(),
                pools: 1,
                gpus_compared: true,
            },
            Told::Examined {
                findings: &[Finding {
                    check: "QEMU",
                    level: Level::Unseen,
                    found: String::new(),
                    advice: None,
                }],
            },
            Told::Domain {
                vm: 3,
                vm_socket: "",
                xml: "",
            },
            Told::ExtraConfig {
                vm: 3,
                vm_socket: "",
                config: "",
            },
            Told::Error {
                error: Error {
                    exit_code: 1,
                    failure: &failure,
                },
            },
        ];
        let mut found = BTreeSet::new();
        for told in &all {
            let value: Value = serde_json::from_str(&told.json(true)).unwrap();
            assert_eq!(value["schema_version"], SCHEMA_VERSION, "{value}");
            keys(&value, &mut found);
            let line = told.json(false);
            assert_eq!(
                (
                    line.lines().count(),
                    serde_json::from_str::<Value>(&line).unwrap()
                ),
                (1, value)
            );
        }
        keys(&serde_json::to_value(fixture::arrival(1)).unwrap(), &mut found);
        let page = include_str!("../../docs/operator.md");
        let untold: Vec<&String> = found
            .iter()
            .filter(|key| !page.contains(&format!("`{key}`")))
            .collect();
        assert!(untold.is_empty(), "{untold:?}");
        assert!(page.contains(&format!("`schema_version`, now {SCHEMA_VERSION}")));
    }
}
