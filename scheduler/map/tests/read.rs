//! Maps are read, and wrong ones refused.
use proptest::prelude::*;
use std::os::fd::AsRawFd;
use std::path::Path;
use vgpu_pool_map::{Assignable, LIMITS, PoolGpus, PoolMap, Settings};
use vgpu_sched_api::messages::{Limits, Policy, Priority, Rung, Sharing};

const GOOD: &str = r#"
[scheduler]
quantum_ms = { low = 30 }
aging_ms = 500
queue_depth = 64

[[pool]]
name = "A"
gpus = ["all"]
vms = ["1-7", 9, "12"]

[[pool]]
name = "B"
gpus = ["GPU-00000000-0000-0000-0000-000000000001"]
vms = [8, 10]
aging_ms = 700
queue_depth = 8

[vm.1]
priority = "high"
weight = 3

[vm.10]
aging_ms = 100
queue_depth = 9
"#;

#[test]
fn a_map_is_read() {
    let map = PoolMap::parse(GOOD, None).unwrap();
    assert_eq!(map.scheduler.quantum_us.low, 30_000);
    assert_eq!(map.scheduler.quantum_us.high, 20_000);
    for (vm, pool) in [(1, "A"), (7, "A"), (8, "B"), (9, "A"), (12, "A")] {
        assert_eq!(map.pool_of(vm).unwrap().name, pool, "VM {vm}");
    }
    assert!(map.pool_of(11).is_none());
    assert_eq!(map.priority_of(1), Priority::High);
    assert_eq!(map.priority_of(2), Priority::Medium);
    assert_eq!(map.pools[0].gpus, PoolGpus::All);
    let medium = Settings {
        priority: Priority::Medium,
        weight: 1,
        aging_ms: 500,
        queue_depth: Some(64),
        limits: Limits::default(),
    };
    let of_vm_1 = Settings {
        priority: Priority::High,
        weight: 3,
        ..medium
    };
    assert_eq!(map.settings_of(1), of_vm_1);
    assert_eq!(map.settings_of(2), medium);
    let of_b = Settings {
        aging_ms: 700,
        queue_depth: Some(8),
        ..medium
    };
    assert_eq!(map.settings_of(8), of_b);
    let of_vm_10 = Settings {
        aging_ms: 100,
        queue_depth: Some(9),
        ..of_b
    };
    assert_eq!(map.settings_of(10), of_vm_10);
    assert_eq!(map.vms_with_settings().collect::<Vec<_>>(), [1, 10]);
    let ranges: Vec<String> = map.pools[0]
        .ranges
        .iter()
        .map(|range| range.to_string())
        .collect();
    assert_eq!(ranges, ["1-7", "9", "12"]);
}

const GPU: &str = "GPU-00000000-0000-0000-0000-000000000001";

#[test]
fn a_pools_own_keys_are_read() {
    let text = format!(
        r#"
[[pool]]
name = "A"
gpus = ["{GPU}", "MIG-00000000-0000-0000-0000-00000000000A"]
policy = "weighted"
exclusive = true
sharing = "turns"
weight = 3
gpus_per_vm = 2
ladder = ["stop", "warn"]

[[pool]]
name = "B"
gpus = ["GPU-00000000-0000-0000-0000-000000000002"]
sharing = "mps"
policy = "priority"
gpus_per_vm = 0
ladder = []

[[pool]]
name = "C"
gpus = ["GPU-00000000-0000-0000-0000-000000000003"]
policy = "fifo"
"#
    );
    let map = PoolMap::parse(&text, None).unwrap();
    let [a, b, c] = &map.pools[..] else {
        panic!("{map:?}")
    };
    let gpus = [GPU, "MIG-00000000-0000-0000-0000-00000000000a"].map(str::to_owned);
    assert_eq!(a.gpus, PoolGpus::Uuids(gpus.to_vec()));
    assert_eq!(
        (a.policy, a.exclusive, a.sharing),
        (Policy::Weighted, true, Sharing::Turns)
    );
    assert_eq!((a.weight, a.gpus_per_vm), (3, Some(2)));
    assert_eq!(a.ladder, [Rung::Warn, Rung::Stop]);
    assert_eq!(
        (b.policy, b.exclusive, b.sharing),
        (Policy::Priority, false, Sharing::Mps)
    );
    assert_eq!((b.weight, b.gpus_per_vm, b.ladder.len()), (1, None, 0));
    assert_eq!(
        (c.policy, c.exclusive, c.sharing),
        (Policy::Fifo, false, Sharing::Turns)
    );
    assert_eq!(c.ladder, Rung::ALL);
}

/// The narrower limit counts, 0 takes away a wider one, and what several numbers make up is filled in.
#[test]
fn limits_are_those_of_the_narrowest_table() {
    let text = r#"
[scheduler]
call_rate = 1000
driver_call_rate = 5
kernel_ms_max = 2000
gpu_share_max = 50

[[pool]]
name = "A"
gpus = ["all"]
vms = ["1-3"]
driver_call_burst = 7
kernel_ms_max = 0
gpu_memory_mib = 4096

[vm.1]
call_rate = 20000
call_burst = 64
gpu_memory_mib = 0
turn_ms_max = 100
suspend_after_s = 600
violations_max = 3

[vm.2]
call_rate = 0
violations_max = 2
violation_window_s = 10
quarantine_s = 0
"#;
    let map = PoolMap::parse(text, None).unwrap();
    let of_pool = Limits {
        call_rate: Some(1000),
        call_burst: Some(100),
        driver_call_rate: Some(5),
        driver_call_burst: Some(7),
        gpu_share_max: Some(50),
        gpu_memory_mib: Some(4096),
        ..Limits::default()
    };
    assert_eq!(map.settings_of(3).limits, of_pool);
    let of_vm_1 = Limits {
        call_rate: Some(20_000),
        call_burst: Some(64),
        gpu_memory_mib: None,
        turn_ms_max: Some(100),
        suspend_after_s: Some(600),
        violations_max: Some(3),
        violation_window_s: Some(60),
        quarantine_s: Some(300),
        ..of_pool
    };
    assert_eq!(map.settings_of(1).limits, of_vm_1);
    let of_vm_2 = Limits {
        call_rate: None,
        call_burst: None,
        violations_max: Some(2),
        violation_window_s: Some(10),
        quarantine_s: None,
        ..of_pool
    };
    assert_eq!(map.settings_of(2).limits, of_vm_2);
}

/// Every limit has bounds, in every table.
#[test]
fn a_limit_beyond_its_bounds_is_refused() {
    let pool = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n";
    for limit in LIMITS {
        for table in [
            "[scheduler]\n".to_owned(),
            pool.to_owned(),
            format!("{pool}[vm.1]\n"),
        ] {
            let rates = match limit.key.strip_suffix("_burst") {
                Some(name) => format!("{name}_rate = 1\n"),
                None => String::new(),
            };
            let text = |value: i64| format!("{table}{rates}{} = {value}\n", limit.key);
            PoolMap::parse(&text(0), None).unwrap();
            PoolMap::parse(&text(limit.most as i64), None).unwrap();
            for value in [-1, limit.most as i64 + 1] {
                let text = text(value);
                let error = PoolMap::parse(&text, None).unwrap_err();
                assert_eq!(error.line(), Some(text.lines().count()), "{error}\n{text}");
                let (key, most) = (limit.key, limit.most);
                assert_eq!(
                    error.message(),
                    format!("{key} = {value}: expected a number from 0 to {most}")
                );
            }
        }
    }
}

/// Pools that share a GPU are told what they must have in common, whatever way they come to share it.
#[test]
fn pools_that_share_a_gpu_agree() {
    let pool = |name: &str, gpu: &str, rest: &str| {
        format!("[[pool]]\nname = \"{name}\"\ngpus = [\"{gpu}\"]\n{rest}\n")
    };
    let other = "GPU-00000000-0000-0000-0000-000000000002";
    for (key, value) in [("exclusive", "true"), ("sharing", "\"mps\"")] {
        let set = format!("{key} = {value}");
        for (first, second) in [(GPU, GPU), ("all", GPU), (GPU, "all"), ("all", "all")] {
            let agreed = pool("A", first, &set) + &pool("B", second, &set);
            PoolMap::parse(&agreed, None).unwrap();
            for (texts, line) in [
                (pool("A", first, &set) + &pool("B", second, ""), 6),
                (pool("A", first, "") + &pool("B", second, &set), 8),
            ] {
                let error = PoolMap::parse(&texts, None).unwrap_err().to_string();
                let start = format!("line {line}: pool \"B\" shares ");
                assert!(error.starts_with(&start), "{error}\n{texts}");
                assert!(error.contains(" with pool \"A\": expected "), "{error}");
                assert!(error.contains(key), "{error}");
            }
        }
        let apart = pool("A", GPU, &set) + &pool("B", other, "");
        PoolMap::parse(&apart, None).unwrap();
    }
}

/// Wrong maps, the line that the error names, and a part of it.
#[test]
fn a_wrong_map_is_refused_with_its_line_and_what_was_expected() {
    let pool = |rest: &str| format!("[[pool]]\nname = \"A\"\ngpus = [\"all\"]\n{rest}");
    let cases = [
        (pool("vms = [\"7-1\"]"), 4, "reversed"),
        (pool("vms = [\"1-\"]"), 4, "range of them such as"),
        (pool("vms = [\"\"]"), 4, "VM's number"),
        (pool("vms = [\"+3\"]"), 4, "VM's number"),
        (pool("vms = [1.5]"), 4, "VM's number"),
        (pool("vms = [-1]"), 4, "VM's number"),
        (pool("vms = [1]\nvmz = [2]"), 5, "unknown field `vmz`"),
        (
            pool("vms = [\n  \"1-4\",\n  \"3\"\n]"),
            6,
            "VM 3 is in pool \"A\" already",
        ),
        (
            pool("vms = [1]\n[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nvms = [\"1-2\"]"),
            8,
            "VM 1 is in pool \"A\"",
        ),
        (
            pool("vms = [1]\n[[pool]]\nname = \"A\"\ngpus = [\"all\"]"),
            6,
            "two pools named",
        ),
        (
            pool("vms = [1]\n[vm.1]\npriority = \"hihg\""),
            6,
            "expected one of `low`, `medium`, `high`",
        ),
        (
            pool("vms = [1]\n[vm.2]\npriority = \"high\""),
            5,
            "VM 2 is in no pool",
        ),
        (
            pool("vms = [7]\n[vm.07]\nweight = 1\n[vm.7]\nweight = 2"),
            7,
            "another spelling",
        ),
        (pool("vms = [7]\n[vm.+7]"), 5, ""),
        (pool("vms = [7]\n[vm.\"+7\"]"), 5, "such as [vm.7]"),
        (
            pool("vms = [7]\n[vm.7]\nweight = 0"),
            6,
            "weight = 0: expected a number from 1 to 100",
        ),
        (
            pool("vms = [7]\n[vm.7]\nqueue_depth = -4"),
            6,
            "queue_depth = -4: expected a number from 1 to 65536",
        ),
        (
            pool("vms = [7]\n[vm.7]\nqueue_depth = 4294967297"),
            6,
            "expected a number from 1 to 65536",
        ),
        (
            pool("vms = [7]\naging_ms = -1"),
            5,
            "aging_ms = -1: expected a number from 1",
        ),
        (
            pool("vms = [7]\nqueue_depth = \"many\""),
            5,
            "expected a whole number",
        ),
        (
            pool("vms = [7]\n[vm.7]\npriorty = \"high\""),
            6,
            "unknown field `priorty`, expected one of `priority`",
        ),
        (
            pool("vms = [1]\n[vm.one]\npriority = \"high\""),
            5,
            "expected a VM's number",
        ),
        ("[[pool]]\nname = \"A\"\ngpus = []".to_owned(), 3, "needs a GPU"),
        (
            "[[pool]]\nname = \"A\"\ngpus = [\"0\"]".to_owned(),
            3,
            "expected a GPU's UUID",
        ),
        (
            "[[pool]]\nname = \"A\"\ngpus = [\"all\", \"GPU-1\"]".to_owned(),
            3,
            "stands alone",
        ),
        (
            "[[pool]]\nname = \"A\"\ngpus = [\"GPU-00000000-0000-0000-0000-000000000001\", \"GPU-00000000-0000-0000-0000-000000000001\"]".to_owned(),
            3,
            "twice",
        ),
        (
            "[[pool]]\nname = \"\"\ngpus = [\"all\"]".to_owned(),
            2,
            "cannot be empty",
        ),
        ("[[pool]]\ngpus = [\"all\"]".to_owned(), 1, "missing field `name`"),
        (
            "\n[scheduler]\nquantum = 3".to_owned(),
            3,
            "unknown field `quantum`",
        ),
        (
            "[scheduler]\naging_ms = 0".to_owned(),
            2,
            "aging_ms = 0: expected a number from 1 to 3600000",
        ),
        (
            "[scheduler]\nslice_us = { low = 1 }".to_owned(),
            2,
            "slice_us.low = 1: expected a number from 100",
        ),
        (
            pool("policy = \"wieghted\""),
            4,
            "expected one of `priority`, `weighted`, `fifo`",
        ),
        (pool("exclusive = 1"), 4, "expected a boolean"),
        (pool("sharing = \"slices\""), 4, "expected `turns` or `mps`"),
        (pool("weight = 0"), 4, "weight = 0: expected a number from 1 to 100"),
        (
            pool("gpus_per_vm = 9"),
            4,
            "gpus_per_vm = 9: expected a number from 0 to 8",
        ),
        (
            format!("[[pool]]\nname = \"A\"\ngpus = [\"{GPU}\"]\ngpus_per_vm = 2"),
            4,
            "gpus_per_vm = 2: expected no more than the pool has, 1",
        ),
        (
            pool("ladder = [\n  \"warn\",\n  \"kill\",\n]"),
            6,
            "expected one of `warn`, `deprioritise`, `stop`, `end`, `quarantine`",
        ),
        (
            pool("ladder = [\n  \"warn\",\n  \"end\",\n  \"warn\",\n]"),
            7,
            "\"warn\" is listed twice",
        ),
        (
            pool("sharing = \"mps\"\nexclusive = true"),
            4,
            "expected no exclusive = true",
        ),
        (
            pool("policy = \"fifo\"\nsharing = \"mps\""),
            5,
            "expected no other policy than \"priority\"",
        ),
        (
            pool("call_burst = 5"),
            4,
            "call_burst without a rate: expected call_rate, too",
        ),
        (
            pool("call_rate = 5\nvms = [1]\n[vm.1]\ncall_rate = 0\ncall_burst = 5"),
            8,
            "call_burst without a rate: expected call_rate, too",
        ),
        (
            "[scheduler]\ndriver_call_burst = 5".to_owned(),
            2,
            "driver_call_burst without a rate: expected driver_call_rate, too",
        ),
        ("[inventory]\nsoftgpu = 1".to_owned(), 1, "unknown field `inventory`"),
        ("[[pool]\n".to_owned(), 1, ""),
    ];
    for (text, line, part) in cases {
        let error = PoolMap::parse(&text, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line}: ")), "{error}\n{text}");
        assert!(error.contains(part), "{error}\n{text}");
    }
}

proptest! {
    /// However a map is spoilt, it is read, or the error says where it is wrong.
    #[test]
    fn a_spoilt_map_is_read_or_refused_with_its_line(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..6usize, 0..PARTS.len()), 1..5),
    ) {
        let mut text = GOOD.to_owned();
        for (at, length, part) in cuts {
            let start = at.index(text.len() + 1);
            let end = text.len().min(start + length);
            text.replace_range(start..end, PARTS[part]);
        }
        if let Err(error) = PoolMap::parse(&text, None) {
            let line = error.line();
            prop_assert!(line.is_some_and(|line| (1..=text.lines().count() + 1).contains(&line)), "{error}\n{text}");
            prop_assert!(!error.message().is_empty());
        }
    }
}

/// What a map is spoilt with.
const PARTS: [&str; 14] = [
    "",
    "\n",
    "[",
    "]",
    "\"",
    "=",
    "-1",
    "99999999999999999999",
    "[vm.3]\n",
    "[[pool]]\n",
    "call_burst = 3\n",
    "ladder = [\"warn\"]\n",
    "sharing = \"mps\"\n",
    "gpus_per_vm = 2\n",
];

/// A UUID that nobody knows is refused only where it can be told.
#[test]
fn an_unknown_gpu_is_refused_where_the_gpus_are_known() {
    let there = "GPU-00000000-0000-0000-0000-00000000000a";
    let text = |uuid: &str| format!("[[pool]]\nname = \"A\"\ngpus = [\n  \"{there}\",\n  \"{uuid}\",\n]\n");
    let divided = "GPU-00000000-0000-0000-0000-00000000000c";
    let known = |uuid: &str| match uuid {
        _ if uuid == there || uuid.starts_with("MIG-") => Assignable::Yes,
        _ if uuid == divided => Assignable::Divided,
        _ => Assignable::Unknown,
    };
    let other = text("GPU-00000000-0000-0000-0000-00000000000b");
    PoolMap::parse(&other, None).unwrap();
    let error = PoolMap::parse(&other, Some(&known)).unwrap_err().to_string();
    assert!(error.starts_with("line 5: there is no GPU GPU-0"), "{error}");
    // One that is divided serves no pool, its instances do.
    let error = PoolMap::parse(&text(divided), Some(&known)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("line 5: GPU {divided} is in MIG mode: expected the UUIDs of its instances, \"MIG-…\"")
    );
    let map = PoolMap::parse(&text("MIG-00000000-0000-0000-0000-00000000000D"), Some(&known)).unwrap();
    let instance = "MIG-00000000-0000-0000-0000-00000000000d";
    assert_eq!(
        map.pools[0].gpus,
        PoolGpus::Uuids(vec![there.to_owned(), instance.to_owned()])
    );
    // Digits are the same in upper case.
    let twice = text("GPU-00000000-0000-0000-0000-00000000000A");
    let error = PoolMap::parse(&twice, Some(&known)).unwrap_err().to_string();
    assert!(
        error.starts_with("line 5: ") && error.contains("listed twice"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let path = std::path::Path::new("/nowhere/pools.toml");
    let error = PoolMap::load(path, None).unwrap_err().to_string();
    assert!(
        error.starts_with("/nowhere/pools.toml: cannot be read: "),
        "{error}"
    );
    let error = PoolMap::parse("[pools]", None).unwrap_err().of_file(path);
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/pools.toml: line 1: unknown field `pools`"),
        "{error}"
    );
}

/// What the operator's page shows is a map, and it tells of every key there is.
#[test]
fn the_operators_page_is_right() {
    let page = include_str!("../../../docs/operator.md");
    let example = page
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let map = PoolMap::parse(example, None).unwrap();
    assert_eq!(map.settings_of(1).weight, 4);
    for table in [
        "[scheduler]",
        "[[pool]]\nname = \"B\"\ngpus = [\"all\"]",
        "[vm.1]",
    ] {
        let table = if table == "[vm.1]" {
            format!("{example}\n")
        } else {
            format!("{table}\n")
        };
        let error = PoolMap::parse(&(table + "no_such_key = 1\n"), None).unwrap_err();
        let keys: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert!(keys.len() > 3, "{error}");
        for key in keys {
            let named = [
                format!("`{key}`"),
                format!("`{key}.low"),
                format!("`[[pool]]` `{key}`"),
            ];
            assert!(
                named.iter().any(|name| page.contains(name)),
                "{key} is not told of"
            );
        }
    }
    for limit in LIMITS {
        let start = format!("| `{}` | {} | 1 to {}; 0", limit.key, limit.about, limit.most);
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row begins with: {start}"));
        assert!(row.contains(limit.zero) && row.contains(limit.unset), "{row}");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
    for path in ["/dev/zero", &pipe] {
        let error = PoolMap::load(Path::new(path), None).unwrap_err().to_string();
        assert!(
            error.ends_with("cannot be read: a regular file is expected"),
            "{error}"
        );
    }
}
