//! Which of its pool's GPUs a VM gets.
use crate::inventory::is_instance;
use std::collections::BTreeSet;
use vgpu_sched_api::vm_page::GPUS;

/// A session that there is: whose it is, the GPUs that its VM had when it was opened, and those of them that it has.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    pub vm: u32,
    pub shown: &'a [String],
    pub gpus: &'a [String],
}

/// The GPUs of a VM, as a session that starts now is shown them: `per_vm` of those that are usable, or all; [`GPUS`] at most,
/// and in their order. `sessions` are all that there are, of every pool, the oldest of a VM first.
///
/// A VM has the same GPUs as long as it has sessions, whichever of them each session has. At first it gets those
/// that the fewest VMs have, then the fewest sessions, then those that come first. Of a pool with MIG instances it
/// gets one GPU, since libcuda shows a process one instance at most, and nothing beside it.
pub fn choose<'a>(
    usable: &[String],
    per_vm: Option<u32>,
    vm: u32,
    sessions: impl Iterator<Item = Placement<'a>> + Clone,
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
    let own = sessions.clone().filter(|session| session.vm == vm);
    if let Some(gpus) = own.map(|session| session.shown).filter(fits).last() {
        return gpus.to_vec();
    }
    let load = |uuid: &String| {
        let had = sessions.clone().filter(|session| session.shown.contains(uuid));
        let vms: BTreeSet<u32> = had.map(|session| session.vm).collect();
        let on_it = sessions.clone().filter(|session| session.gpus.contains(uuid));
        (vms.len(), on_it.count())
    };
    let mut by_load: Vec<_> = usable.iter().enumerate().collect();
    by_load.sort_by_cached_key(|(place, uuid)| (load(uuid), *place));
    by_load.truncate(count);
    by_load.sort();
    by_load.into_iter().map(|(_, uuid)| uuid.clone()).collect()
}

/// Those of a VM's GPUs that a session wishes for, in its order; all if it names none. What is wrong with a wish is said in words.
pub fn select(shown: &[String], wish: &[String]) -> Result<Vec<String>, String> {
    if wish.is_empty() {
        return Ok(shown.to_vec());
    }
    for (place, uuid) in wish.iter().enumerate() {
        if !shown.contains(uuid) {
            return Err(format!("{} is none of the VM's GPUs", uuid.escape_debug()));
        }
        if wish[..place].contains(uuid) {
            return Err(format!("it wishes for {uuid} twice"));
        }
    }
    Ok(wish.to_vec())
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
        choose(&names(usable), per_vm, vm, sessions.iter().map(whole))
    }

    /// A session that has all of its VM's GPUs.
    fn whole((vm, gpus): &(u32, Vec<String>)) -> Placement<'_> {
        Placement {
            vm: *vm,
            shown: gpus,
            gpus,
        }
    }

    #[test]
    fn a_wish_changes_neither_what_its_vm_has_nor_what_others_get() {
        let usable = names(&["a", "b", "c", "d"]);
        let (shown, gpus) = (names(&["b", "c"]), names(&["c"]));
        let session = Placement {
            vm: 1,
            shown: &shown,
            gpus: &gpus,
        };
        let next = |vm, per_vm| choose(&usable, Some(per_vm), vm, [session].into_iter());
        assert_eq!(next(1, 2), shown);
        assert_eq!(next(2, 2), ["a", "d"], "it has the one that it does not use");
        // Among as many VMs, those count that are on it.
        assert_eq!(next(2, 3), ["a", "b", "d"]);
    }

    #[test]
    fn a_wish_is_for_the_vms_gpus_each_once() {
        let shown = names(&["a", "b", "c"]);
        let select = |wish: &[&str]| select(&shown, &names(wish));
        assert_eq!(select(&[]), Ok(shown.clone()));
        assert_eq!(select(&["c", "a"]), Ok(names(&["c", "a"])));
        assert!(select(&["a", "x"]).unwrap_err().contains("x is none"));
        assert!(select(&["a", "b", "a"]).unwrap_err().contains("twice"));
        assert!(select(&[""]).is_err());
        assert!(
            select(&["\n"]).unwrap_err().starts_with("\\n"),
            "no line of its own"
        );
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
        fn what_a_session_gets_is_its_wish_and_its_vms(shown in 1..9u32, wish in prop::collection::vec(0..12u32, 0..12)) {
            let shown: Vec<String> = (0..shown).map(|n| n.to_string()).collect();
            let wish: Vec<String> = wish.iter().map(u32::to_string).collect();
            if let Ok(gpus) = select(&shown, &wish) {
                prop_assert!(gpus.iter().all(|gpu| shown.contains(gpu)));
                prop_assert_eq!(gpus.iter().collect::<BTreeSet<_>>().len(), gpus.len());
                prop_assert_eq!(&gpus, if wish.is_empty() { &shown } else { &wish });
            } else {
                let distinct = wish.iter().collect::<BTreeSet<_>>().len() == wish.len();
                prop_assert!(!distinct || wish.iter().any(|gpu| !shown.contains(gpu)));
            }
        }

        #[test]
        fn vms_are_spread_evenly(gpus in 1..10usize, per_vm in 1..10u32, vms in 1..40u32) {
            let usable: Vec<String> = (0..gpus).map(|n| n.to_string()).collect();
            let mut sessions: Vec<(u32, Vec<String>)> = Vec::new();
            for vm in 0..vms {
                for _ in 0..2 {
                    let chosen = choose(&usable, Some(per_vm), vm, sessions.iter().map(whole));
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
