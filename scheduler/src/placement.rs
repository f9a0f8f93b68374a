//! Which of its pool's GPUs a VM gets.
use crate::inventory::is_instance;
use std::collections::BTreeSet;
use vgpu_sched_api::vm_page::GPUS;

/// The GPUs of a VM's next session: `per_vm` of those that are usable, or all; [`GPUS`] at most, and in their order.
/// `sessions` are all that there are, of every pool: their VMs and GPUs, the oldest of a VM first.
///
/// A VM's sessions have the same GPUs, so that they can share memory, and its limits hold on each. Its first one gets those
/// that the fewest VMs have, then the fewest sessions, then those that come first. Of a pool with MIG instances a session
/// gets one GPU, since libcuda shows a process one instance at most, and nothing beside it.
pub fn choose<'a>(
    usable: &[String],
    per_vm: Option<u32>,
    vm: u32,
    sessions: impl Iterator<Item = (u32, &'a [String])> + Clone,
) -> Vec<String> {
    let most = match usable.iter().any(|uuid| is_instance(uuid)) {
        true => 1,
        false => GPUS,
    };
    let count = per_vm.map_or(most, |count| most.min(count as usize).max(1));
    if count >= usable.len() {
        return usable.to_vec();
    }
    let fits = |gpus: &&[String]| gpus.len() == count && gpus.iter().all(|uuid| usable.contains(uuid));
    let own = sessions.clone().filter(|(owner, _)| *owner == vm);
    if let Some(gpus) = own.map(|(_, gpus)| gpus).filter(fits).last() {
        return gpus.to_vec();
    }
    let load = |uuid: &String| {
        let on_it = sessions.clone().filter(|(_, gpus)| gpus.contains(uuid));
        let vms: BTreeSet<u32> = on_it.clone().map(|(owner, _)| owner).collect();
        (vms.len(), on_it.count())
    };
    let mut by_load: Vec<_> = usable.iter().enumerate().collect();
    by_load.sort_by_cached_key(|(place, uuid)| (load(uuid), *place));
    by_load.truncate(count);
    by_load.sort();
    by_load.into_iter().map(|(_, uuid)| uuid.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The choice among these GPUs, with sessions of VMs on GPUs.
    fn choose_among(
        usable: &[&str],
        per_vm: Option<u32>,
        vm: u32,
        sessions: &[(u32, &[&str])],
    ) -> Vec<String> {
        let sessions: Vec<_> = sessions.iter().map(|(vm, gpus)| (*vm, names(gpus))).collect();
        let sessions = sessions.iter().map(|(vm, gpus)| (*vm, gpus.as_slice()));
        choose(&names(usable), per_vm, vm, sessions)
    }

    #[test]
    fn a_vm_gets_the_least_loaded() {
        let usable = ["c", "a", "b"];
        let one = |sessions: &[(u32, &[&str])]| choose_among(&usable, Some(1), 1, sessions);
        assert_eq!(one(&[]), ["c"], "in the inventory's order");
        assert_eq!(one(&[(2, &["c"])]), ["a"]);
        // A VM with many sessions is one VM; among as many VMs, sessions count.
        let busy: &[(u32, &[&str])] = &[(2, &["c"]), (2, &["c"]), (3, &["a"]), (4, &["a"]), (5, &["b"])];
        assert_eq!(one(busy), ["b"]);
        assert_eq!(one(&[(2, &["c"]), (2, &["c"]), (3, &["a", "b"])]), ["a"]);
        // Those of other pools count where the GPU is shared.
        assert_eq!(one(&[(2, &["c", "x"]), (3, &["x"])]), ["a"]);
        let two = choose_among(&usable, Some(2), 1, &[(2, &["c"])]);
        assert_eq!(two, ["a", "b"]);
        assert_eq!(choose_among(&usable, Some(2), 1, &[(2, &["a"])]), ["c", "b"]);
    }

    #[test]
    fn its_later_sessions_get_the_same() {
        let usable = ["a", "b", "c"];
        let next = |per_vm, sessions: &[(u32, &[&str])]| choose_among(&usable, Some(per_vm), 1, sessions);
        assert_eq!(next(1, &[(1, &["b"]), (2, &["b"])]), ["b"]);
        assert_eq!(next(2, &[(1, &["b", "c"]), (2, &["b", "c"])]), ["b", "c"]);
        // Not if one of them is gone, or belongs to another pool, or it is to have more or fewer.
        assert_eq!(next(1, &[(1, &["x"])]), ["a"]);
        assert_eq!(next(2, &[(1, &["b", "x"])]), ["a", "c"]);
        assert_eq!(next(2, &[(1, &["a"])]), ["b", "c"]);
        // The latest one's, should they differ.
        assert_eq!(next(1, &[(1, &["b"]), (1, &["c"])]), ["c"]);
    }

    #[test]
    fn without_a_number_it_gets_all_up_to_the_limit() {
        let all = ["a", "b", "c"];
        assert_eq!(choose_among(&all, None, 1, &[(1, &["b"])]), all);
        assert_eq!(choose_among(&all, Some(7), 1, &[]), all);
        let many: Vec<String> = (0..GPUS + 2).map(|n| format!("{n:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(choose_among(&many, None, 1, &[]), many[..GPUS]);
        assert_eq!(choose_among(&many, Some(20), 1, &[(2, &["00", "01"])]), many[2..]);
    }

    #[test]
    fn of_instances_it_gets_one() {
        let usable = ["GPU-a", "MIG-b", "MIG-c"];
        for per_vm in [None, Some(1), Some(2)] {
            assert_eq!(
                choose_among(&usable, per_vm, 1, &[(2, &["GPU-a"]), (3, &["MIG-b"])]),
                ["MIG-c"]
            );
        }
    }

    proptest! {
        #[test]
        fn vms_are_spread_evenly(gpus in 1..10usize, per_vm in 1..10u32, vms in 1..40u32) {
            let usable: Vec<String> = (0..gpus).map(|n| n.to_string()).collect();
            let mut sessions: Vec<(u32, Vec<String>)> = Vec::new();
            for vm in 0..vms {
                for _ in 0..2 {
                    let placed = sessions.iter().map(|(vm, gpus)| (*vm, gpus.as_slice()));
                    let chosen = choose(&usable, Some(per_vm), vm, placed);
                    prop_assert_eq!(chosen.len(), gpus.min(per_vm as usize).min(GPUS));
                    prop_assert!(chosen.is_sorted());
                    let first = sessions.iter().find(|(owner, _)| *owner == vm);
                    prop_assert!(first.is_none_or(|(_, gpus)| *gpus == chosen));
                    sessions.push((vm, chosen));
                }
            }
            let count = |uuid: &String| sessions.iter().filter(|(_, gpus)| gpus.contains(uuid)).count() / 2;
            let counts: Vec<usize> = usable.iter().map(count).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
        }
    }
}
