//! Whether the guest's library answers as the library natively does: the programs `t0_*` print a line per call, and the
//! texts are compared.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use similar::{ChangeTag, TextDiff};

use crate::{Gpu, Stack};

/// The programs; `t0_procaddr` gets the list of the ABI's symbols.
pub const PROGRAMS: &[&str] = &[
    "t0_device",
    "t0_visible",
    "t0_context",
    "t0_memory",
    "t0_stream",
    "t0_words",
    "t0_tensor",
    "t0_link",
    "t0_graph",
    "t0_capture",
    "t0_array",
    "t0_print",
    "t0_procaddr",
    "t1_pools",
    "t1_virtual",
    "t1_shared",
    "t1_rows",
    "t1_nowhere",
    "t1_peer",
    "t1_registered",
    // Some of what it loads NVIDIA's library never ends to load.
    "t0_module",
];
const SYMBOLS: &str = include_str!("../tests/abi-580.159.txt");

/// A folder to write both texts of every program to.
const TEXTS_ENV: &str = "VGPU_TEXTS";

/// Device attributes that are 0 for a guest because the calls that they tell of are not offered (or never will be); 119 tells of
/// several kinds of handles, of which one is offered.
const NOT_OFFERED: &[u32] = &[
    83, 88, 89, 96, 98, 112, 114, 116, 119, 121, 124, 128, 129, 132, 136, 137, 141, 142, 143, 144, 145, 146,
];

/// Lines of which the software GPU is known to make what NVIDIA's library would not, or what nobody knows of it: they begin so.
const SOFTWARE_OTHERWISE: &[&str] = &[
    // It names fewer results.
    "results: 1",
    "results: 2",
    "results: 3",
    "results: 4",
    "results: 5",
    "results: 6",
    "results: 7",
    "results: 8",
    "results: 9",
    // It looks at arguments in another order than an H100's library, and at some not at all.
    "devices: cuDeviceGet(NULL, 1000)",
    "pci: cuDeviceGetPCIBusId(text, ",
    "without_one: cuCtxPushCurrent_v2(NULL)",
    "without_one: cuCtxDestroy_v2(NULL)",
    "without_one: cuMemFree_v2(",
    "without_one: cuMemFreeHost(buffer)",
    "creating: cuCtxCreate_v2(&context, 0x7, 0)",
    "creating: cuCtxCreate_v2(&context, 0x3, 0)",
    "creating: current: ",
    "stack: cuCtxGetDevice(&device)",
    "filling: cuMemsetD16_v2(a + 1, 1, 0)",
    "pinned_memory: cuMemAllocHost_v2(&p, 0)",
    "pinned_memory: cuMemHostAlloc(&p, 0, 0)",
    "pinned_memory: cuMemFreeHost(NULL)",
    "events: cuEventElapsedTime(NULL, event, other)",
    "events: cuStreamWaitEvent(stream, event, 1)",
    "lookups: cuModuleGetFunction(&function, module, \"\")",
    "lookups: cuModuleGetGlobal_v2(NULL, NULL, module, \"table\")",
    "lookups: cuModuleGetGlobal_v2(&address, &bytes, module, \"\")",
    "a_fault: cuCtxDestroy_v2(context)",
    "one_device: cuDeviceGetP2PAttribute(NULL, 1, device, device)",
    // Not started, it answers all the same.
    "before_init: cuCtxGetDevice",
    "before_init: cuModuleGetLoadingMode",
    // It takes what is no PCI address for one of another device.
    "pci: cuDeviceGetByPCIBusId(&device, ",
    // NVIDIA's tables, of which it knows none.
    "export_table",
    // A kernel, an event and a stream must be of one context, and of the current one for a launch.
    "two_contexts: cuLaunchKernel",
    "two_contexts: cuEventRecord",
    // It wants both places.
    "allocating: cuMemGetInfo_v2",
    // It takes an address of its memory for host memory, and lets go of a module's variable.
    "copying_wrongly: cuMemcpyHtoD_v2(a, (void *)(uintptr_t)(a + 64), 16)",
    "copying_wrongly: cuMemcpyDtoH_v2((void *)(uintptr_t)(a + 64), a, 16)",
    "lookups: cuMemFree_v2(address)",
    "lookups: cuModuleUnload(module)",
    "lookups: cuMemsetD8_v2(address, 1, 1000)",
    // It takes parameters given twice, and a buffer of them that is nowhere.
    "a_buffer_of_nothing: ",
    "parameters_packed: cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, each, swapped)",
    "parameters_packed: cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, each, swapped)",
    // It looks at no header, and at no option of the compiler.
    "bad_images: cuModuleLoadData of a file's magic number",
    "jit_options",
    // Its legacy stream waits for no other unless there is work on it.
    "creating_streams: cuStreamQuery",
    // A captured copy by address is told with what the addresses were, and one of rows not at all.
    "copies_by_address: 100 x 1 x 1, memory of type",
    "copies_of_rows: cuGraphMemcpyNodeGetParams(nodes[i], &copy)",
    "copies_of_rows: 100 x 3 x 1, memory of type",
];

/// Lines of which NVIDIA's library makes what nobody should rely on: it writes past a buffer whose length is negative, and takes
/// contexts that are destroyed or never were. They begin so.
const NVIDIA_OTHERWISE: &[&str] = &[
    "devices: cuDeviceGetName(text, -1, 0)",
    "a_destroyed_one: ",
    "a_strange_one: ",
    "a_strange_event: ",
    "an_event_as_a_stream: ",
    "pci: cuDeviceGetPCIBusId(text, -1, 0)",
    // The text that it reads is what that call left.
    "pci: cuDeviceGetByPCIBusId(&device, text + 5)",
    "bad_images: cuModuleLoad(&loaded, \"/\")",
    // It refuses what compilers wrap, and is asked about nodes that went with their graph.
    "wrapped_images: ",
    "moving: cuGraphNodeGetType(add, &(unsigned){0})",
    // Sometimes success, sometimes the fault.
    "a_fault: cuCtxDestroy_v2(context)",
    // It does not look at these.
    "granularity: cuMemGetAllocationGranularity(&bytes, &props, 0)",
    "wrong_2d: copy.srcY = SIZE_MAX / 512",
];

/// Runs programs natively and with the GPU of that VM; the differences, or how many lines were the same.
pub fn answers_are_the_native_librarys(stack: &Stack, vm: u32, programs: &[&str]) -> Result<String> {
    let symbols = stack.dir().join("abi.txt");
    fs::write(&symbols, SYMBOLS)?;
    let (mut lines, mut differences) = (0, String::new());
    for name in programs {
        // The software GPU has what is needed of the ABI and no more.
        if *name == "t0_procaddr" && stack.gpu() == Gpu::Software {
            continue;
        }
        let symbols = symbols.to_string_lossy();
        let arguments: &[&str] = if *name == "t0_procaddr" { &[&symbols] } else { &[] };
        let theirs = run(native(stack, name, arguments))?;
        let ours = run(stack.program(vm, name, arguments))?;
        store(name, &theirs, &ours)?;
        lines += theirs.lines().count();
        let left_out: &[&str] = match stack.gpu() {
            Gpu::Software => SOFTWARE_OTHERWISE,
            Gpu::Nvidia => NVIDIA_OTHERWISE,
        };
        let difference = compare(&theirs, &ours, left_out);
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

/// Whether the native library did not survive a section, lacks a function that it calls, or refused what the rest needs.
fn is_cut(line: &str) -> bool {
    let refused = line.contains(": needed, but ");
    refused
        || [
            ": killed by a signal",
            ": killed by the alarm",
            ": exit status 127",
            ": exit status 1",
        ]
        .iter()
        .any(|end| line.ends_with(end))
}

/// What is compared: everything but the end of a section that the native library did not come to, and lines that are left out.
fn compared<'a>(text: &'a str, theirs: &str, left_out: &[&str]) -> Vec<&'a str> {
    let mut left: Vec<(&str, usize)> = Vec::new();
    for line in theirs.lines() {
        let name = section(line);
        if is_cut(line) {
            let before = theirs
                .lines()
                .filter(|l| section(l) == name && !is_cut(l))
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
            let starts = |number| line.starts_with(&format!("attributes: attribute {number}: "));
            !NOT_OFFERED.iter().any(starts) && !left_out.iter().any(|start| line.starts_with(start))
        })
        .collect()
}

/// The differing lines, each with the one before it.
fn compare(theirs: &str, ours: &str, left_out: &[&str]) -> String {
    let (old, new) = (
        compared(theirs, theirs, left_out),
        compared(ours, theirs, left_out),
    );
    let mut said = String::new();
    let difference = TextDiff::from_slices(&old, &new);
    for group in difference.grouped_ops(1) {
        for op in group {
            for change in difference.iter_changes(&op) {
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
    fn compare(theirs: &str, ours: &str) -> String {
        super::compare(theirs, ours, &["c: "])
    }

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
        let refused = "a: f() = SUCCESS\na: needed, but g() = INVALID_VALUE\na: exit status 1\n";
        assert_eq!(
            compare(refused, "a: f() = SUCCESS\na: h() = SUCCESS\na: end\n"),
            ""
        );
        assert_eq!(compare("c: f() = SUCCESS\n", "c: f() = INVALID_VALUE\n"), "");
        let meant = "attributes: attribute 83: 1\n";
        assert_eq!(compare(meant, "attributes: attribute 83: 0\n"), "");
        assert_ne!(compare(meant, "attributes: attribute 84: 0\n"), "");
    }
}
