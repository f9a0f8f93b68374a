//! What a quarantine, or its end, does to VMs, said before it is done.
use vgpu_client::failure::{Failure, Kind};
use vgpu_pool_map::VmRange;
use vgpu_sched_api::messages::{Status, VmStatus};

/// A line for each VM, or for those in a row of which nothing is known yet.
pub fn quarantined(status: &Status, vms: VmRange, seconds: Option<u64>) -> Result<Vec<String>, Failure> {
    let until = match seconds {
        Some(1) => "for 1 second".to_owned(),
        Some(seconds) => format!("for {seconds} seconds"),
        None => "until it is released".to_owned(),
    };
    let mut lines = Vec::new();
    for (range, vm) in members(status, vms)? {
        match vm {
            None => lines.push(format!("{}: quarantined {until}", name(range))),
            Some(vm) => {
                let sessions = match vm.sessions.len() {
                    0 => String::new(),
                    1 => ", and its session ends".to_owned(),
                    many => format!(", and its {many} sessions end"),
                };
                lines.push(format!("VM {}: quarantined {until}{sessions}", vm.vm));
            }
        }
    }
    Ok(lines)
}

/// A line for each VM whose quarantine ends.
pub fn released(status: &Status, vms: VmRange) -> Result<Vec<String>, Failure> {
    let members = members(status, vms)?;
    let held = members
        .iter()
        .filter_map(|(_, vm)| vm.filter(|vm| vm.quarantine.is_some()));
    Ok(held.map(|vm| format!("VM {}: released", vm.vm)).collect())
}

/// The VMs of that range that are in a pool, or that `vgpud` knows though they are in none: in rows where nothing is known of
/// them, and each other one.
fn members(status: &Status, vms: VmRange) -> Result<Vec<(VmRange, Option<&VmStatus>)>, Failure> {
    let mut members = Vec::new();
    for pool in &status.pools {
        let ranges = pool
            .ranges
            .iter()
            .filter_map(|range| range.parse::<VmRange>().ok());
        let mut others: Vec<VmRange> = ranges.filter_map(|range| range.and(vms)).collect();
        for vm in pool.vms.iter().filter(|vm| vms.contains(vm.vm)) {
            others = others
                .iter()
                .flat_map(|range| range.without(vm.vm.into()))
                .collect();
            members.push((vm.vm.into(), Some(vm)));
        }
        members.extend(others.into_iter().map(|range| (range, None)));
    }
    let in_no_pool = status.in_no_pool.iter().filter(|vm| vms.contains(vm.vm));
    members.extend(in_no_pool.map(|vm| (vm.vm.into(), Some(vm))));
    if members.is_empty() {
        return Err(Failure::new(Kind::NotFound, format!("{}: in no pool", name(vms)))
            .hint("`vgpu-admin status` lists the pools and their VMs"));
    }
    members.sort_by_key(|(range, _)| *range);
    Ok(members)
}

/// "VM 3", "VMs 1-7".
fn name(range: VmRange) -> String {
    match range.count() {
        1 => format!("VM {range}"),
        _ => format!("VMs {range}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_client::fixture;

    fn vms(text: &str) -> VmRange {
        text.parse().unwrap()
    }

    /// VMs 1 to 7 and 9 are in the pool, 12 is in none; 3, 9 and 12 have sessions, and are quarantined.
    #[test]
    fn it_is_said_what_would_be_done() {
        let mut host = fixture::host();
        host.pools[0].vms[1].sessions.clear();
        assert_eq!(
            quarantined(&host, vms("2-20"), None).unwrap(),
            [
                "VM 2: quarantined until it is released",
                "VM 3: quarantined until it is released, and its 5 sessions end",
                "VMs 4-7: quarantined until it is released",
                "VM 9: quarantined until it is released",
                "VM 12: quarantined until it is released, and its 5 sessions end",
            ]
        );
        assert_eq!(
            quarantined(&host, vms("1"), Some(60)).unwrap(),
            ["VM 1: quarantined for 60 seconds"]
        );
        assert_eq!(
            released(&host, vms("0-100")).unwrap(),
            ["VM 3: released", "VM 9: released", "VM 12: released"]
        );
        host.pools[0].vms[0].quarantine = None;
        assert_eq!(released(&host, vms("1-5")).unwrap(), [""; 0]);
        let nobody = quarantined(&host, vms("8"), None).unwrap_err();
        assert_eq!(
            (nobody.kind, nobody.message.as_str()),
            (Kind::NotFound, "VM 8: in no pool")
        );
        assert_eq!(released(&host, vms("12")).unwrap(), ["VM 12: released"]);
        assert!(released(&host, vms("10-11")).is_err());
    }
}
