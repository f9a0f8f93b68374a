//! Whether the guest's library answers as the library natively does: the programs `t0_*` print a line per call, and the
//! texts are compared.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use similar::{ChangeTag, TextDiff};

use crate::{Gpu, Stack};

/// The programs; `t0_procaddr` gets the list of the ABI's symbols.
const PROGRAMS: &[&str] = &[
    "t0_device",
    "t0_context",
    "t0_memory",
    "t0_module",
    "t0_stream",
    "t0_procaddr",
];
const SYMBOLS: &str = include_str!("../tests/abi-580.159.txt");

/// A folder to write both texts of every program to.
const TEXTS_ENV: &str = "VGPU_TEXTS";

/// Device attributes that are 0 for a guest because the calls that they tell of are not offered (or never will be).
const NOT_OFFERED: &[u32] = &[
    83, 88, 89, 92, 93, 95, 96, 98, 99, 102, 103, 113, 114, 115, 116, 119, 122, 125, 127, 132,
];

/// Runs every program natively and with the GPU of that VM; the differences, or how many lines were the same.
pub fn answers_are_the_native_librarys(stack: &Stack, vm: u32) -> Result<String> {
    let symbols = stack.dir().join("abi.txt");
    fs::write(&symbols, SYMBOLS)?;
    let (mut lines, mut differences) = (0, String::new());
    for name in PROGRAMS {
        let symbols = symbols.to_string_lossy();
        let arguments: &[&str] = if *name == "t0_procaddr" { &[&symbols] } else { &[] };
        let theirs = run(native(stack, name, arguments))?;
        let ours = run(stack.program(vm, name, arguments))?;
        store(name, &theirs, &ours)?;
        lines += theirs.lines().count();
        let difference = compare(&theirs, &ours);
        if !difference.is_empty() {
            differences += &format!("=== {name}: - native, + vgpu\n{difference}");
        }
    }
    ensure!(
        differences.is_empty(),
        "answers differ from the native library's:\n{differences}"
    );
    Ok(format!("{lines} lines"))
}

/// The program on the library that the stack's executors use.
fn native(stack: &Stack, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(stack.artifacts().program(name));
    command.args(arguments).env_remove("VGPU_SOCKET");
    match stack.gpu() {
        Gpu::Software => {
            command.env("LD_LIBRARY_PATH", stack.artifacts().softgpu_lib_dir());
            command.env("VGPU_SOFTGPU_DIR", stack.dir().join("softgpu"));
        }
        Gpu::Nvidia => {
            command.env_remove("LD_LIBRARY_PATH");
        }
    }
    command
}

/// What it printed. How it ends is in the text as well: each of its sections is a process of its own.
fn run(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        !text.is_empty(),
        "{command:?} ended with {} and printed nothing but {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn store(name: &str, theirs: &str, ours: &str) -> Result<()> {
    if let Some(folder) = std::env::var_os(TEXTS_ENV) {
        let folder = Path::new(&folder);
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{name}.native")), theirs)?;
        fs::write(folder.join(format!("{name}.vgpu")), ours)?;
    }
    Ok(())
}

/// The section that a line belongs to.
fn section(line: &str) -> &str {
    line.split(": ").next().unwrap_or_default()
}

/// What is compared: everything but the end of a section that the native library did not survive, and lines that are
/// meant to differ.
fn compared<'a>(text: &'a str, theirs: &str) -> Vec<&'a str> {
    let mut left: Vec<(&str, usize)> = Vec::new();
    for line in theirs.lines() {
        let name = section(line);
        if line.ends_with(": killed by a signal") {
            let before = theirs
                .lines()
                .filter(|l| section(l) == name && *l != line)
                .count();
            left.push((name, before));
        }
    }
    text.lines()
        .filter(|line| {
            let cut = left.iter_mut().find(|(name, _)| *name == section(line));
            match cut {
                Some((_, 0)) => false,
                Some((_, before)) => {
                    *before -= 1;
                    true
                }
                None => true,
            }
        })
        .filter(|line| {
            !NOT_OFFERED
                .iter()
                .any(|number| line.starts_with(&format!("attributes: attribute {number}: ")))
        })
        .collect()
}

/// The differing lines, each with the one before it.
fn compare(theirs: &str, ours: &str) -> String {
    let (old, new) = (compared(theirs, theirs), compared(ours, theirs));
    let mut said = String::new();
    for group in TextDiff::from_slices(&old, &new).grouped_ops(1) {
        for op in group {
            for change in TextDiff::from_slices(&old, &new).iter_changes(&op) {
                let sign = match change.tag() {
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                    ChangeTag::Equal => ' ',
                };
                said += &format!("{sign} {}\n", change.value());
            }
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_and_what_the_native_library_did_not_survive_is_not() {
        let theirs = "a: f() = SUCCESS\na: g() = INVALID_VALUE\nb: h() = SUCCESS\nb: killed by a signal\n";
        assert_eq!(compare(theirs, theirs), "");
        let survived =
            "a: f() = SUCCESS\na: g() = INVALID_VALUE\nb: h() = SUCCESS\nb: i() = SUCCESS\nb: end\n";
        assert_eq!(compare(theirs, survived), "");
        let other = survived.replace("g() = INVALID_VALUE", "g() = SUCCESS");
        assert!(compare(theirs, &other).contains("- a: g() = INVALID_VALUE\n+ a: g() = SUCCESS\n"));
        let early = "a: f() = SUCCESS\na: g() = INVALID_VALUE\nb: h() = NOT_READY\nb: killed by a signal\n";
        assert!(compare(theirs, early).contains("+ b: h() = NOT_READY"));
        let meant = "attributes: attribute 83: 1\n";
        assert_eq!(compare(meant, "attributes: attribute 83: 0\n"), "");
        assert_ne!(compare(meant, "attributes: attribute 84: 0\n"), "");
    }
}
