//! The guest's Debian package: what it installs, and what it says to dpkg. `cargo xtask test` installs it in a fresh Debian,
//! too; virtual machines have what it installs.
use std::process::Command;

use vgpu_vm::Artifacts;

fn dpkg_deb(arguments: &[&str]) -> String {
    let package = Artifacts::existing(Artifacts::from_env().guest_package()).unwrap();
    let output = Command::new("dpkg-deb")
        .args(arguments)
        .arg(package)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn field(name: &str) -> String {
    let shown = dpkg_deb(&["--show", &format!("--showformat=${{{name}}}")]);
    shown.trim().to_owned()
}

/// Mode and owner, and the path, of what is not a folder; a link with where it leads.
fn content() -> Vec<(String, String)> {
    let listed = dpkg_deb(&["--contents"]);
    let entries = listed.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[..2].join(" "), words[5..].join(" "))
    });
    entries.filter(|(mode, _)| !mode.starts_with('d')).collect()
}

#[test]
fn it_installs_libraries_the_driver_and_what_has_both_found() {
    let content = content();
    const FILE: &str = "-rw-r--r-- root/root";
    const LINK: &str = "lrwxrwxrwx root/root";
    for (mode, path) in [
        (FILE, "./usr/lib/vgpu/libcuda.so.1"),
        (LINK, "./usr/lib/vgpu/libcuda.so -> libcuda.so.1"),
        (
            LINK,
            "./usr/lib/x86_64-linux-gnu/libcuda.so -> ../vgpu/libcuda.so.1",
        ),
        (FILE, "./etc/ld.so.conf.d/00-vgpu.conf"),
        (FILE, "./usr/lib/udev/rules.d/70-vgpu.rules"),
        (FILE, "./usr/lib/modules-load.d/vgpu.conf"),
        (FILE, "./usr/src/vgpu-0.1.0/dkms.conf"),
        (FILE, "./usr/src/vgpu-0.1.0/Makefile"),
        (FILE, "./usr/src/vgpu-0.1.0/Kbuild"),
        (FILE, "./usr/src/vgpu-0.1.0/vgpu_main.c"),
        (FILE, "./usr/src/vgpu-0.1.0/uapi/vgpu.h"),
        (FILE, "./usr/share/doc/vgpu-guest/copyright"),
    ] {
        let wanted = (mode.to_owned(), path.to_owned());
        assert!(content.contains(&wanted), "{wanted:?} is not in {content:#?}");
    }
    let strange = content.iter().find(|(mode, path)| {
        let known = [
            "./usr/lib/",
            "./usr/src/vgpu-",
            "./usr/share/doc/vgpu-guest/",
            "./etc/ld.so.conf.d/",
        ];
        (mode != FILE && mode != LINK) || !known.iter().any(|folder| path.starts_with(folder))
    });
    assert_eq!(strange, None);
}

/// Each library of the artifacts is there, and NVIDIA's package of it must not be.
#[test]
fn it_takes_the_place_of_nvidias_libraries() {
    let libraries: Vec<String> = std::fs::read_dir(Artifacts::from_env().guest_lib_dir())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| !entry.file_type().unwrap().is_symlink())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let paths: Vec<String> = content().into_iter().map(|(_, path)| path).collect();
    let taken = |name: &str| match name {
        "libcuda.so.1" => "libcuda1",
        "libnvidia-ml.so.1" => "libnvidia-ml1",
        other => panic!("{other} is no library that a guest has"),
    };
    assert!(
        libraries.iter().any(|name| name == "libcuda.so.1"),
        "{libraries:?}"
    );
    for name in libraries {
        assert!(
            paths.contains(&format!("./usr/lib/vgpu/{name}")),
            "no {name} in {paths:?}"
        );
        for of in ["Provides", "Conflicts"] {
            let packages = field(of);
            let packages: Vec<&str> = packages.split(", ").collect();
            assert!(packages.contains(&taken(&name)), "{of}: {packages:?}");
        }
    }
}

#[test]
fn it_says_what_it_needs() {
    assert_eq!(field("Package"), "vgpu-guest");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(field("Architecture"), "amd64");
    assert_eq!(field("Depends"), "libc6 (>= 2.31), libgcc-s1, dkms, kmod, udev");
    assert!(field("Installed-Size").parse::<u32>().unwrap() > 100);
}

/// Scripts that a shell can read, with every value set in.
#[test]
fn its_scripts_are_shell() {
    let folder = tempfile::tempdir().unwrap();
    let package = Artifacts::from_env().guest_package();
    let unpacked = Command::new("dpkg-deb")
        .arg("--control")
        .args([package.as_path(), folder.path()])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["postinst", "prerm", "postrm"] {
        let path = folder.path().join(name);
        let parsed = Command::new("sh").arg("-n").arg(&path).status().unwrap();
        assert!(parsed.success(), "{name}");
        assert!(!text(name).contains('@'), "{}", text(name));
    }
    assert_eq!(text("triggers"), "activate-noawait ldconfig\n");
    assert_eq!(text("conffiles"), "/etc/ld.so.conf.d/00-vgpu.conf\n");
}
