//! The runner that compares programs on a GPU with the native library, without a GPU.
use std::path::Path;
use std::process::Command;

#[test]
fn the_runner_of_programs_finds_what_differs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat");
    let output = Command::new("/usr/bin/python3")
        .arg("test_run.py")
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
