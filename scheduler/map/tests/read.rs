//! Maps are read, and wrong ones refused.
use vgpu_pool_map::{Assignable, PoolGpus, PoolMap, Settings};
use vgpu_sched_api::messages::{Limits, Priority};

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
        ("[inventory]\nsoftgpu = 1".to_owned(), 1, "unknown field `inventory`"),
        ("[[pool]\n".to_owned(), 1, ""),
    ];
    for (text, line, part) in cases {
        let error = PoolMap::parse(&text, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line}: ")), "{error}\n{text}");
        assert!(error.contains(part), "{error}\n{text}");
    }
}

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
}
