//! The launcher against a real guest, without a GPU. One machine, since each boot takes seconds.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vgpu_vm::{Artifacts, COMMAND_BYTES_MAX, Error, Vm};

/// A user without privileges; no such account need exist.
const NOBODY: u32 = 65_534;
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn a_guest_boots_and_obeys() {
    let scratch = tempfile::tempdir().unwrap();
    set_mode(scratch.path(), 0o755);
    let artifacts = Artifacts::from_env().readable_by_others(scratch.path()).unwrap();
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), "#!/bin/sh\necho payload \"$1\"\n").unwrap();
    let mut builder = Vm::builder(&artifacts, "boot")
        .memory_mib(256)
        .initrd(artifacts.root().join("boot/initramfs-bare.cpio"))
        .file("/usr/bin/payload", payload.path());
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        builder = builder.user(NOBODY, NOBODY);
    }
    let mut vm = builder.boot().unwrap();
    let qemu = std::fs::metadata(format!("/proc/{}", vm.pid())).unwrap();
    assert!(!is_root || (qemu.uid(), qemu.gid()) == (NOBODY, NOBODY));

    commands(&mut vm);
    jobs_at_once(&mut vm);
    monitor(&mut vm);
    assert_eq!(vm.kernel_complaints(), [""; 0]);
    reset(&mut vm);
    panic_and_recovery(&mut vm);

    vm.kill();
    assert!(matches!(vm.run("true"), Err(Error::Gone { .. })));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What only root can read is copied, what everybody can stays where it is.
#[test]
fn artifacts_are_made_readable() {
    let (home, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(home.path().join("bin")).unwrap();
    std::fs::write(home.path().join("bin/tool"), "x").unwrap();
    let artifacts = Artifacts::new(home.path());
    set_mode(home.path(), 0o700);
    let copy = artifacts.readable_by_others(scratch.path()).unwrap();
    assert!(copy.root().starts_with(scratch.path()));
    assert_eq!(std::fs::read(copy.bin("tool")).unwrap(), b"x");
    set_mode(home.path(), 0o755);
    let same = artifacts.readable_by_others(scratch.path()).unwrap();
    assert_eq!(same.root(), home.path().canonicalize().unwrap());
}

fn commands(vm: &mut Vm) {
    let output = vm
        .run("uname -s; id -un; payload 'a  b' >&2; printf end; exit 3")
        .unwrap();
    assert_eq!(output.text, "Linux\nguest\npayload a  b\nend");
    assert_eq!(output.status, 3);
    assert_eq!(vm.run_as_root("id -u").unwrap().text, "0\n");
    assert_eq!(
        vm.run(r#"echo "back\\slash" '$HOME' "it's""#).unwrap().text,
        "back\\slash $HOME it's\n"
    );
    assert_eq!(vm.run("true").unwrap().text, "");
    assert_eq!(vm.run("kill -9 $$").unwrap().status, 137);
    assert_eq!(vm.run("sh -c 'exit 5'").unwrap().status, 5);
    let many = vm.run("seq 2000").unwrap().text;
    assert!(many.lines().eq((1..=2000).map(|n: u32| n.to_string())));

    let long = format!("echo {}", "x".repeat(COMMAND_BYTES_MAX - 5));
    assert_eq!(vm.run(&long).unwrap().text.len(), COMMAND_BYTES_MAX - 5 + 1);
    assert!(matches!(vm.run(&(long + "x")), Err(Error::BadCommand)));
    assert!(matches!(vm.run("echo\ntwo"), Err(Error::BadCommand)));
}

fn jobs_at_once(vm: &mut Vm) {
    let sleeper = vm.start("echo started; exec sleep 1000").unwrap();
    vm.wait_for_output(&sleeper, "started", LIMIT).unwrap();
    assert_eq!(vm.run("echo meanwhile").unwrap().text, "meanwhile\n");
    assert_eq!(vm.output_so_far(&sleeper), "started");
    assert!(vm.run_as_root("killall -9 sleep").unwrap().success());
    let missing = vm.wait_for_output(&sleeper, "never", LIMIT);
    assert!(
        matches!(missing, Err(Error::NotPrinted { status: 137, .. })),
        "{missing:?}"
    );
    assert_eq!(vm.wait(sleeper).unwrap().status, 137);
}

fn monitor(vm: &mut Vm) {
    assert_eq!(vm.qmp("query-status", json!({})).unwrap()["status"], "running");
    assert!(matches!(
        vm.qmp("no-such-command", json!({})),
        Err(Error::Qmp { .. })
    ));
    assert!(
        vm.run_as_root("echo to the console > /dev/console")
            .unwrap()
            .success()
    );
    assert_eq!(
        vm.wait_for_line("to the console", LIMIT).unwrap(),
        "to the console"
    );
}

fn reset(vm: &mut Vm) {
    let lost = vm.start("echo started; sleep 1000").unwrap();
    vm.wait_for_output(&lost, "started", LIMIT).unwrap();
    vm.reset().unwrap();
    assert_eq!(vm.boots(), 2);
    assert!(matches!(vm.wait(lost), Err(Error::Reset { .. })));
    assert!(vm.run("true").unwrap().success());
}

fn panic_and_recovery(vm: &mut Vm) {
    let died = vm.run_as_root("echo c > /proc/sysrq-trigger");
    assert!(matches!(died, Err(Error::Panicked { .. })), "{died:?}");
    assert!(!vm.kernel_complaints().is_empty());
    vm.reset().unwrap();
    assert!(vm.run("true").unwrap().success());
}
