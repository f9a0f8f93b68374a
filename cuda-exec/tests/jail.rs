//! The jail of a running executor, while it makes CUDA calls.
mod support;

use support::program::*;
use vgpu_protocol::calls::*;

/// A field of a thread's status, for each thread.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap_or_else(|| panic!("no {field} in {status}"))
            .trim()
            .to_owned()
    };
    tasks.map(status).collect()
}

#[test]
fn every_thread_of_an_executor_that_works_is_jailed() {
    let mut exec = ready();
    let word = counter(&mut exec);
    bump(&mut exec, 0, vgpu_protocol::words::handle::STREAM_LEGACY, word);
    alloc(&mut exec, 1 << 20);
    // Another context is made in the jail, and whatever it opens.
    let another = cuCtxCreate::In {
        flags: 0,
        device: 0,
        context: 2,
    };
    exec.get::<cuCtxCreate::Call>(another, &[]).unwrap();
    let pid = exec.child.id();
    let threads = of_threads(pid, "Seccomp:");
    assert!(threads.len() > 3, "{threads:?}");
    // 2: filtered.
    assert!(threads.iter().all(|mode| mode == "2"), "{threads:?}");
    let privileges = of_threads(pid, "NoNewPrivs:");
    assert!(privileges.iter().all(|none| none == "1"), "{privileges:?}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(1).unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert!(limit("Max open files").parse::<u64>().unwrap() <= 4096);
}
