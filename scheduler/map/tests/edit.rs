//! Maps are edited, and what is not edited stays as it is written.
use vgpu_pool_map::{EditError, Named, PoolMap, apply};
use vgpu_sched_api::messages::{Edit, Limits, Policy, PoolSettings, Priority, Rung, Sharing, VmSettings};

const GPUS: [&str; 3] = [
    "GPU-00000000-0000-0000-0000-00000000000a",
    "GPU-00000000-0000-0000-0000-00000000000b",
    "GPU-00000000-0000-0000-0000-00000000000c",
];

fn resolve(gpu: &str) -> Named {
    let index = gpu.parse::<usize>().ok();
    let found = index.and_then(|index| GPUS.get(index).copied());
    let found = found.or_else(|| GPUS.into_iter().find(|uuid| *uuid == gpu));
    Named {
        present: found.map(str::to_owned),
        missing: Vec::new(),
    }
}

fn assign(gpu: &str, pool: &str) -> Edit {
    Edit::AssignGpu {
        gpu: gpu.to_owned(),
        pool: pool.to_owned(),
    }
}

fn unassign(gpu: &str, pool: &str) -> Edit {
    Edit::UnassignGpu {
        gpu: gpu.to_owned(),
        pool: pool.to_owned(),
    }
}

fn register(vms: &str, pool: &str) -> Edit {
    Edit::RegisterVms {
        vms: vms.to_owned(),
        pool: pool.to_owned(),
        settings: VmSettings::default(),
        move_from_other: false,
    }
}

fn unregister(vms: &str) -> Edit {
    Edit::UnregisterVms { vms: vms.to_owned() }
}

fn set(vms: &str, settings: VmSettings) -> Edit {
    Edit::SetVms {
        vms: vms.to_owned(),
        settings,
    }
}

fn set_pool(pool: &str, settings: PoolSettings) -> Edit {
    Edit::SetPool {
        pool: pool.to_owned(),
        settings,
    }
}

fn limits(limits: Limits) -> VmSettings {
    VmSettings {
        limits,
        ..VmSettings::default()
    }
}

fn exclusive(exclusive: bool) -> PoolSettings {
    PoolSettings {
        exclusive: Some(exclusive),
        ..PoolSettings::default()
    }
}

fn ladder(rungs: &[Rung]) -> PoolSettings {
    PoolSettings {
        ladder: Some(rungs.to_vec()),
        ..PoolSettings::default()
    }
}

fn priority(priority: Priority) -> VmSettings {
    VmSettings {
        priority: Some(priority),
        ..VmSettings::default()
    }
}

/// A whole host from an empty file.
#[test]
fn an_empty_file_becomes_a_map() {
    let moved = Edit::RegisterVms {
        vms: "7".to_owned(),
        pool: "B".to_owned(),
        settings: VmSettings {
            weight: Some(4),
            ..priority(Priority::Low)
        },
        move_from_other: true,
    };
    let edits = [
        assign("0", "A"),
        assign("1", "B"),
        assign("2", "A"),
        register("1-6", "A"),
        register("8-20", "B"),
        register("7", "A"),
        set("1-2", priority(Priority::High)),
        moved,
    ];
    let edited = apply("", &edits, &resolve).unwrap();
    let expected = r#"[[pool]]
name = "A"
gpus = ["GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000c"]
vms = ["1-6"]

[[pool]]
name = "B"
gpus = ["GPU-00000000-0000-0000-0000-00000000000b"]
vms = ["7-20"]

[vm.1]
priority = "high"

[vm.2]
priority = "high"

[vm.7]
priority = "low"
weight = 4
"#;
    assert_eq!(edited.text, expected);
    let changes = [
        "pool A: new, with GPU GPU-00000000-0000-0000-0000-00000000000a",
        "pool B: new, with GPU GPU-00000000-0000-0000-0000-00000000000b",
        "pool A: gets GPU GPU-00000000-0000-0000-0000-00000000000c",
        "VMs 1-6: in pool A",
        "VMs 8-20: in pool B",
        "VM 7: in pool A",
        "VMs 1-2: priority high, was medium",
        "VM 7: from pool A to pool B",
        "VM 7: priority low, was medium",
        "VM 7: weight 4, was 1",
    ];
    assert_eq!(edited.changes, changes);
    // Once more: all is so already. (But for the VM, which the sixth edit would take back.)
    let again: Vec<Edit> = edits
        .into_iter()
        .enumerate()
        .filter(|(i, _)| *i != 5)
        .map(|(_, e)| e)
        .collect();
    let again = apply(&edited.text, &again, &resolve).unwrap();
    assert_eq!((again.text, again.changes.len()), (edited.text, 0));
}

const COMMENTED: &str = r#"# The map of host 12.

# Turns are short here.
[scheduler]
quantum_ms = { low = 5 } # for the batch jobs
aging_ms = 500

# The web team.
[[pool]]
name = "A" # A as in web
gpus = ["GPU-00000000-0000-0000-0000-00000000000a"]
vms = [
    "1-7", # the front ends
    9,     # the one in between

    # spare ones
    "12-20",
]

# Research.
[[pool]]
gpus   =   [ 'GPU-00000000-0000-0000-0000-00000000000B' ]
name = 'B'

# Bob's.
[vm.3]
priority = "high" # he pays

# Eve's.
[vm.04]
weight = 2
"#;

#[test]
fn what_is_not_edited_stays_as_it_is_written() {
    let edits = [
        unregister("3"),
        register("8", "A"),
        register("30-31", "B"),
        set("4", priority(Priority::Low)),
    ];
    let edited = apply(COMMENTED, &edits, &resolve).unwrap();
    let expected = COMMENTED
        .replace(
            "    \"1-7\", # the front ends\n    9,     # the one in between\n",
            "    \"1-2\", # the front ends\n    \"4-9\",\n    # the one in between\n",
        )
        .replace("name = 'B'\n", "name = 'B'\nvms = [\"30-31\"]\n")
        .replace("[vm.3]\npriority = \"high\" # he pays\n", "")
        .replace("weight = 2\n", "weight = 2\npriority = \"low\"\n");
    pretty(&edited.text, &expected);
}

/// Comments at the ends of lines and within a list stay, too.
#[test]
fn a_pool_is_set() {
    let text = r#"# Ours.
[[pool]]
name = "A"
gpus = ["all"]
policy = "priority" # as it was
ladder = [
    "warn", # they read it
    "stop",
    # not yet: "end"
    "quarantine",
]
vms = [1]

[vm.1]
weight = 2
"#;
    let settings = PoolSettings {
        policy: Some(Policy::Weighted),
        exclusive: Some(true),
        sharing: Some(Sharing::Turns),
        weight: Some(3),
        gpus_per_vm: Some(2),
        ladder: Some(vec![Rung::End, Rung::Warn, Rung::Deprioritise, Rung::Stop]),
        limits: Limits {
            call_rate: Some(1000),
            call_burst: Some(50),
            gpu_memory_mib: Some(2048),
            quarantine_s: Some(0),
            turn_ms_max: Some(0),
            ..Limits::default()
        },
    };
    let edit = [set_pool("A", settings)];
    let edited = apply(text, &edit, &resolve).unwrap();
    let expected = r#"# Ours.
[[pool]]
name = "A"
gpus = ["all"]
policy = "weighted" # as it was
ladder = [
    "warn", # they read it
    "deprioritise",
    "stop",
    # not yet: "end"
    "end",
]
vms = [1]
exclusive = true
weight = 3
gpus_per_vm = 2
call_rate = 1000
call_burst = 50
gpu_memory_mib = 2048
turn_ms_max = 0
quarantine_s = 0

[vm.1]
weight = 2
"#;
    pretty(&edited.text, expected);
    let changes = [
        "pool A: policy weighted, was priority",
        "pool A: exclusive true, was false",
        "pool A: weight 3, was 1",
        "pool A: gpus_per_vm 2, was all",
        "pool A: call_rate 1000, was no limit",
        "pool A: call_burst 50, was a tenth of the rate",
        "pool A: gpu_memory_mib 2048, was no limit",
        "pool A: turn_ms_max no limit, whatever is set for all",
        "pool A: quarantine_s until it is released, was 300",
        "pool A: ladder warn, deprioritise, stop, end, was warn, stop, quarantine",
    ];
    assert_eq!(edited.changes, changes);
    let again = apply(&edited.text, &edit, &resolve).unwrap();
    assert_eq!((again.text, again.changes.len()), (edited.text.clone(), 0));
    let none = apply(&edited.text, &[set_pool("A", ladder(&[]))], &resolve).unwrap();
    assert_eq!(
        none.changes,
        ["pool A: ladder none, was warn, deprioritise, stop, end"]
    );
    for comment in ["# they read it", "# not yet: \"end\"", "# as it was"] {
        assert!(none.text.contains(comment), "{}", none.text);
    }
}

#[test]
fn limits_are_set_for_the_vms_that_have_others() {
    let text = r#"[scheduler]
call_rate = 500

[[pool]]
name = "A"
gpus = ["all"]
vms = ["1-4"]
gpu_memory_mib = 1024

[vm.2]
gpu_memory_mib = 2048 # a big one
"#;
    let wanted = limits(Limits {
        gpu_memory_mib: Some(2048),
        call_rate: Some(0),
        ..Limits::default()
    });
    let edited = apply(text, &[set("1-3", wanted)], &resolve).unwrap();
    let expected = text.replace("# a big one\n", "# a big one\ncall_rate = 0\n")
        + "\n[vm.1]\ncall_rate = 0\ngpu_memory_mib = 2048\n\n[vm.3]\ncall_rate = 0\ngpu_memory_mib = 2048\n";
    pretty(&edited.text, &expected);
    let changes = [
        "VMs 1-3: call_rate no limit, was 500",
        "VM 1: gpu_memory_mib 2048, was 1024",
        "VM 3: gpu_memory_mib 2048, was 1024",
    ];
    assert_eq!(edited.changes, changes);
    let register = Edit::RegisterVms {
        vms: "9".to_owned(),
        pool: "A".to_owned(),
        settings: limits(Limits {
            kernel_ms_max: Some(2000),
            violations_max: Some(3),
            quarantine_s: Some(300),
            ..Limits::default()
        }),
        move_from_other: false,
    };
    let edited = apply(text, &[register], &resolve).unwrap();
    let changes = [
        "VM 9: in pool A",
        "VM 9: kernel_ms_max 2000, was no limit",
        "VM 9: violations_max 3, was no limit",
        "VM 9: quarantine_s 300, whatever is set for its pool",
    ];
    assert_eq!(edited.changes, changes);
    assert!(
        edited
            .text
            .ends_with("[vm.9]\nkernel_ms_max = 2000\nviolations_max = 3\nquarantine_s = 300\n"),
        "{}",
        edited.text
    );
}

/// A pool's list is not written anew for VMs that it has, though something else is set for them.
#[test]
fn a_list_that_has_the_vms_stays_as_it_was_written() {
    let text = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2, \"3\", \"4-6\"]\n";
    let again = Edit::RegisterVms {
        vms: "2-5".to_owned(),
        pool: "A".to_owned(),
        settings: VmSettings {
            weight: Some(3),
            ..VmSettings::default()
        },
        move_from_other: false,
    };
    let edited = apply(text, &[again], &resolve).unwrap();
    assert_eq!(edited.changes, ["VMs 2-5: weight 3, was 1"]);
    assert!(edited.text.starts_with(text), "{}", edited.text);
}

/// What is said to be a VM's, or a pool's, stays so when a wider table comes to say something else.
#[test]
fn a_limit_that_is_what_counts_already_is_written() {
    let text = r#"[[pool]]
name = "A"
gpus = ["all"]
vms = ["1-4"]
kernel_ms_max = 500
"#;
    let none = limits(Limits {
        call_rate: Some(0),
        kernel_ms_max: Some(500),
        ..Limits::default()
    });
    let none = VmSettings {
        aging_ms: Some(1000),
        ..none
    };
    let edited = apply(text, &[set("1-2", none)], &resolve).unwrap();
    let changes = [
        "VMs 1-2: aging_ms 1000, whatever is set for its pool",
        "VMs 1-2: call_rate no limit, whatever is set for its pool",
        "VMs 1-2: kernel_ms_max 500, whatever is set for its pool",
    ];
    assert_eq!(edited.changes, changes);
    let again = apply(&edited.text, &[set("1-2", none)], &resolve).unwrap();
    assert_eq!((again.changes.as_slice(), &again.text), (&[][..], &edited.text));

    let of_pool = |call_rate| {
        let limits = Limits {
            call_rate: Some(call_rate),
            ..Limits::default()
        };
        let settings = PoolSettings {
            limits,
            ..PoolSettings::default()
        };
        set_pool("A", settings)
    };
    let later = apply(&edited.text, &[of_pool(7)], &resolve).unwrap();
    let map = PoolMap::parse(&later.text, None).unwrap();
    let rates = [1, 2, 3].map(|vm| map.settings_of(vm).limits.call_rate);
    assert_eq!(rates, [None, None, Some(7)]);
    let of_all = apply(text, &[of_pool(0)], &resolve).unwrap();
    assert_eq!(
        of_all.changes,
        ["pool A: call_rate no limit, whatever is set for all"]
    );
}

/// What an edit of something else makes wrong is told as well, and nothing is changed.
#[test]
fn what_would_make_the_map_wrong_is_refused() {
    let text = format!(
        "[[pool]]\nname = \"A\"\ngpus = [\"{}\", \"{}\"]\ngpus_per_vm = 2\nvms = [1]\ncall_rate = 5\n\
        [[pool]]\nname = \"B\"\ngpus = [\"{}\"]\nexclusive = true\n[vm.1]\ncall_burst = 2\n",
        GPUS[0], GPUS[1], GPUS[2]
    );
    let moved = Edit::RegisterVms {
        vms: "1".to_owned(),
        pool: "B".to_owned(),
        settings: VmSettings::default(),
        move_from_other: true,
    };
    let cases = [
        (
            unassign("0", "A"),
            "gpus_per_vm = 2: expected no more than the pool has, 1",
        ),
        (
            assign("2", "A"),
            "pool \"B\" shares GPU-00000000-0000-0000-0000-00000000000c with pool \"A\": expected exclusive = false",
        ),
        (moved, "call_burst without a rate"),
    ];
    for (edit, part) in cases {
        let error = apply(&text, &[edit], &resolve).unwrap_err();
        assert!(matches!(error, EditError::Refused(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Pools that share a GPU are changed together: one after the other they would not agree.
#[test]
fn pools_that_share_a_gpu_are_set_at_once() {
    let text = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\n[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nexclusive = false\n";
    for pool in ["A", "B"] {
        let error = apply(text, &[set_pool(pool, exclusive(true))], &resolve).unwrap_err();
        assert!(matches!(error, EditError::Refused(_)), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("pool \"B\" shares every GPU with pool \"A\": expected exclusive = "),
            "{error}"
        );
    }
    let both = ["A", "B"].map(|pool| set_pool(pool, exclusive(true)));
    let edited = apply(text, &both, &resolve).unwrap();
    assert_eq!(edited.text.matches("exclusive = true").count(), 2);
    assert_eq!(edited.changes.len(), 2);
}

fn pretty(found: &str, expected: &str) {
    assert_eq!(found, expected, "\n--- found\n{found}\n--- expected\n{expected}");
}

#[test]
fn a_pool_goes_with_its_last_gpu_unless_it_has_vms() {
    let refused = apply(COMMENTED, &[unassign("0", "A")], &resolve).unwrap_err();
    assert!(
        matches!(&refused, EditError::Refused(why) if why.contains("VMs 1-7, 9, 12-20")),
        "{refused}"
    );
    let edited = apply(COMMENTED, &[unassign("1", "B")], &resolve).unwrap();
    assert!(!edited.text.contains("'B'"), "{}", edited.text);
    assert!(
        edited.text.contains("# Research.\n\n# Bob's.\n[vm.3]"),
        "{}",
        edited.text
    );
    let last = apply(&edited.text, &[unregister("0-100"), unassign("0", "A")], &resolve).unwrap();
    for comment in [
        "# The map of host 12.",
        "# The web team.",
        "# Research.",
        "# Bob's.",
        "# Eve's.",
    ] {
        assert!(last.text.contains(comment), "{}", last.text);
    }
    assert!(!last.text.contains("pool"), "{}", last.text);
}

#[test]
fn what_cannot_be_is_refused() {
    let all = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"1-7\"]\n[[pool]]\nname = \"B\"\ngpus = [\"all\"]\nvms = [8]\n";
    let weight = |weight| VmSettings {
        weight: Some(weight),
        ..VmSettings::default()
    };
    let not_found = [
        (assign("7", "A"), "there is no GPU 7"),
        (unassign("7", "B"), "\"all\""),
        (register("9", "C"), "there is no pool C: there is A, B"),
        (unregister("9-12"), "VMs 9-12: in no pool"),
        (set("7-9", weight(2)), "VM 9: in no pool"),
        (
            set_pool("C", exclusive(true)),
            "there is no pool C: there is A, B",
        ),
    ];
    let nothing = apply(all, &[], &resolve).unwrap_err();
    assert_eq!(
        nothing,
        EditError::Refused("no edit is given: expected at least one".to_owned())
    );
    for (edit, part) in not_found {
        let error = apply(all, std::slice::from_ref(&edit), &resolve).unwrap_err();
        let is_all = matches!(edit, Edit::UnassignGpu { .. });
        assert_eq!(matches!(error, EditError::NotFound(_)), !is_all, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let refused = [
        (assign("0", ""), "cannot be empty"),
        (assign("0", "a\nb"), "without control characters"),
        (register("7-8", "A"), "VM 8: in pool B already"),
        (register("8-7", "A"), "reversed"),
        (register("x", "A"), "expected a VM's number"),
        (set("1", weight(0)), "weight = 0: expected a number from 1 to 100"),
        (set("1", weight(101)), "weight = 101"),
        (set("1", VmSettings::default()), "no setting"),
        (set("0-4294967295", weight(2)), "at most 4096"),
        (
            set(
                "1",
                VmSettings {
                    aging_ms: Some(u64::MAX),
                    ..VmSettings::default()
                },
            ),
            "aging_ms = 18446744073709551615",
        ),
        (
            set(
                "1",
                VmSettings {
                    queue_depth: Some(65_537),
                    ..VmSettings::default()
                },
            ),
            "queue_depth = 65537",
        ),
        (
            set(
                "1",
                limits(Limits {
                    gpu_share_max: Some(101),
                    ..Limits::default()
                }),
            ),
            "gpu_share_max = 101: expected a number from 0 to 100",
        ),
        (
            set(
                "1",
                limits(Limits {
                    call_burst: Some(5),
                    ..Limits::default()
                }),
            ),
            "call_burst without a rate: expected call_rate, too",
        ),
        (set_pool("A", PoolSettings::default()), "no setting"),
        (
            set_pool("A", ladder(&[Rung::End, Rung::Stop, Rung::End])),
            "end is listed twice",
        ),
        (
            set_pool(
                "A",
                PoolSettings {
                    gpus_per_vm: Some(9),
                    ..PoolSettings::default()
                },
            ),
            "gpus_per_vm = 9: expected a number from 0 to 8",
        ),
        (
            set_pool(
                "A",
                PoolSettings {
                    weight: Some(0),
                    ..PoolSettings::default()
                },
            ),
            "weight = 0: expected a number from 1 to 100",
        ),
        (
            set_pool(
                "A",
                PoolSettings {
                    limits: Limits {
                        turn_ms_max: Some(u64::MAX),
                        ..Limits::default()
                    },
                    ..PoolSettings::default()
                },
            ),
            "turn_ms_max = 18446744073709551615",
        ),
        (
            set_pool(
                "A",
                PoolSettings {
                    sharing: Some(Sharing::Mps),
                    policy: Some(Policy::Fifo),
                    ..PoolSettings::default()
                },
            ),
            "expected no other policy",
        ),
    ];
    for (edit, part) in refused {
        let error = apply(all, &[edit], &resolve).unwrap_err();
        assert!(matches!(error, EditError::Refused(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = apply("[pol]", &[assign("0", "A")], &resolve).unwrap_err();
    assert!(
        matches!(&error, EditError::Map(error) if error.line() == Some(1)),
        "{error}"
    );
}

#[test]
fn comments_of_an_empty_file_stay_above() {
    let edited = apply("# Ours.\n", &[assign("0", "A")], &resolve).unwrap();
    assert!(
        edited.text.starts_with("# Ours.\n\n[[pool]]\nname = \"A\"\n"),
        "{}",
        edited.text
    );
    let back = apply(&edited.text, &[unassign("0", "A")], &resolve).unwrap();
    assert_eq!(back.text.trim(), "# Ours.");
}

/// A GPU that is gone has no index, and is still taken out of its pool.
#[test]
fn a_missing_gpu_can_be_unassigned() {
    let nobody = |_: &str| Named::default();
    let edited = apply(COMMENTED, &[unassign(GPUS[1], "B")], &nobody).unwrap();
    assert_eq!(edited.changes.len(), 1);
    let error = apply(COMMENTED, &[unassign("1", "B")], &nobody).unwrap_err();
    assert!(matches!(error, EditError::NotFound(_)), "{error}");
}

/// By its address, too, also if another one has taken its place since.
#[test]
fn a_missing_gpu_is_named_by_its_address() {
    let at = |present: &[usize], missing: &[usize]| Named {
        present: present.first().map(|gpu| GPUS[*gpu].to_owned()),
        missing: missing.iter().map(|gpu| GPUS[*gpu].to_owned()).collect(),
    };
    let text = format!(
        "[[pool]]\nname = \"A\"\ngpus = [\"{}\", \"{}\"]\n",
        GPUS[0], GPUS[1]
    );
    let of = |edit: Edit, named: Named| apply(&text, &[edit], &|_: &str| named.clone());
    let unassigned = |named| of(unassign("01:00.0", "A"), named).map(|edited| edited.changes);
    let loses = |gpu: usize| Ok(vec![format!("pool A: loses GPU {}", GPUS[gpu])]);
    assert_eq!(unassigned(at(&[], &[1])), loses(1));
    assert_eq!(unassigned(at(&[2], &[1])), loses(1));
    assert_eq!(unassigned(at(&[0], &[2])), loses(0));
    assert_eq!(unassigned(at(&[2], &[])), Ok(vec![]));
    assert!(matches!(unassigned(at(&[], &[])), Err(EditError::NotFound(_))));
    let assigned = |named| of(assign("01:00.0", "A"), named).map(|edited| edited.changes);
    let gets = format!("pool A: gets GPU {}", GPUS[2]);
    assert_eq!(assigned(at(&[2], &[0, 1])), Ok(vec![gets.clone()]));
    assert_eq!(assigned(at(&[], &[2])), Ok(vec![gets]));
    for error in [unassigned(at(&[0], &[1])), assigned(at(&[], &[1, 2]))] {
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("several GPUs") && error.contains(GPUS[1]),
            "{error}"
        );
    }
}

#[test]
fn other_ways_to_write_a_map_are_kept() {
    let inline = "pool = [{ name = \"A\", gpus = [\"all\"], vms = [1, 2] }]\nvm = { 1 = { weight = 2 } }\n";
    let edits = [
        assign("0", "B"),
        register("5", "B"),
        unregister("1"),
        set("2", priority(Priority::Low)),
    ];
    let edited = apply(inline, &edits, &resolve).unwrap();
    assert!(!edited.text.contains("[["), "{}", edited.text);
    let ladder = set_pool("A", ladder(&[Rung::Warn]));
    let edited = apply(inline, &[ladder], &resolve).unwrap();
    assert!(
        edited.text.contains("ladder = [\"warn\"]") && !edited.text.contains("[["),
        "{}",
        edited.text
    );
    let dotted =
        "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1, 2]\n[vm]\n1.weight = 2 # twice\n2.weight = 3\n";
    let edits = [set("1", priority(Priority::Low)), unregister("2")];
    let edited = apply(dotted, &edits, &resolve).unwrap();
    let expected = dotted
        .replace("[1, 2]", "[1]")
        .replace("2.weight = 3\n", "")
        .replace("# twice\n", "# twice\n1.priority = \"low\"\n");
    pretty(&edited.text, &expected);
    // Line ends as some editors write them.
    let edited = apply(&COMMENTED.replace('\n', "\r\n"), &[unregister("3")], &resolve).unwrap();
    assert!(edited.text.contains("# the front ends"), "{}", edited.text);
}
