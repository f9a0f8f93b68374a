//! The guest's library exports what NVIDIA's does, and the guest's libraries load in the oldest guest.
use std::path::{Path, PathBuf};

use object::elf::{FileHeader64, SHF_ALLOC};
use object::read::elf::{FileHeader, SectionHeader};
use vgpu_vm::Artifacts;

/// The functions that libcuda.so.1 of driver 580.159 exports, without the debugger's.
const SYMBOLS: &str = include_str!("abi-580.159.txt");
/// The oldest glibc that a guest may have, as docs/guest.md promises.
const GLIBC: [u32; 2] = [2, 31];

#[test]
fn every_abi_symbol_is_exported() {
    let library = Artifacts::from_env().guest_lib_dir().join("libcuda.so.1");
    // SAFETY: the library is ours; loading it runs no initialiser that touches anything but itself.
    let library = unsafe { libloading::Library::new(&library) }.unwrap();
    let missing: Vec<_> = SYMBOLS
        .lines()
        .filter(|name| {
            // SAFETY: the symbol is looked up, not called.
            unsafe { library.get::<*const ()>(name.as_bytes()) }.is_err()
        })
        .collect();
    assert!(SYMBOLS.lines().count() > 600);
    assert!(missing.is_empty(), "not exported: {missing:?}");
}

/// The symbol versions that a file needs of other files: "GLIBC_2.30" and the like.
fn needed_versions(path: &Path) -> Vec<String> {
    let data = std::fs::read(path).unwrap();
    let header = FileHeader64::<object::Endianness>::parse(&*data).unwrap();
    let endian = header.endian().unwrap();
    let sections = header.sections(endian, &*data).unwrap();
    let mut found = Vec::new();
    for section in sections.iter() {
        let Some((mut needs, strings)) = section.gnu_verneed(endian, &*data).unwrap() else {
            continue;
        };
        assert_ne!(section.sh_flags(endian) & u64::from(SHF_ALLOC), 0);
        let strings = sections.strings(endian, &*data, strings).unwrap();
        while let Some((_, mut versions)) = needs.next().unwrap() {
            while let Some(version) = versions.next().unwrap() {
                let name = version.name(endian, strings).unwrap();
                found.push(String::from_utf8(name.to_vec()).unwrap());
            }
        }
    }
    found
}

/// Those of glibc that are newer than the oldest one has.
fn too_new(versions: &[String]) -> Vec<&str> {
    let is_too_new = |name: &&str| {
        let Some(version) = name.strip_prefix("GLIBC_") else {
            return false;
        };
        // What is no number (GLIBC_PRIVATE) is no version that any other glibc has.
        let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
        numbers.map_or(true, |numbers| numbers[..] > GLIBC[..])
    };
    versions.iter().map(String::as_str).filter(is_too_new).collect()
}

#[test]
fn the_guests_libraries_and_programs_need_no_newer_glibc() {
    let artifacts = Artifacts::from_env();
    let mut libraries = 0;
    for folder in [artifacts.guest_lib_dir(), artifacts.programs_dir()] {
        let entries = std::fs::read_dir(folder).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            let versions = needed_versions(&path);
            let name = path.display();
            assert!(
                versions.iter().any(|one| one.starts_with("GLIBC_")),
                "{name}: {versions:?}"
            );
            assert_eq!(too_new(&versions), [""; 0], "{name}");
            libraries += u32::from(path.file_name().is_some_and(|name| name == "libcuda.so.1"));
        }
    }
    assert_eq!(
        libraries, 1,
        "the guest's libcuda.so.1 is not among the artifacts"
    );
}

/// What this machine's own programs need shows that newer versions would be found.
#[test]
fn newer_glibc_versions_are_told() {
    let names = [
        "GLIBC_2.31",
        "GLIBC_2.2.5",
        "GLIBC_2.31.1",
        "GLIBC_2.34",
        "GLIBC_PRIVATE",
        "GCC_3.0",
    ];
    let names = names.map(str::to_owned);
    assert_eq!(too_new(&names), ["GLIBC_2.31.1", "GLIBC_2.34", "GLIBC_PRIVATE"]);
    let own: PathBuf = std::env::current_exe().unwrap();
    assert!(!needed_versions(&own).is_empty());
}
