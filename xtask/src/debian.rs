//! A fresh Debian to install our packages in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::util::{Layout, capture, capture_text};
use crate::{fetch, kernel};

const SUITE: &str = "bookworm";

/// What there is of it, beside what is essential.
struct Kind {
    /// Raise the number when what is installed in it changes.
    name: &'static str,
    included: &'static str,
    /// What nobody reads there.
    without: &'static [&'static str],
    what: &'static str,
}

/// What the guest's package depends on, and the headers of one kernel.
const FOR_GUESTS: Kind = Kind {
    name: "debian-12-dkms-1",
    included: "apt,dkms,kmod,udev,libgcc-s1,linux-headers-cloud-amd64",
    without: &["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"],
    what: "fetching a Debian to install the guest's package in (about 130 MB)",
};

/// What the host's package depends on, and what reads manual pages.
const FOR_HOSTS: Kind = Kind {
    name: "debian-12-systemd-1",
    included: "apt,systemd-sysv,udev,libgcc-s1,man-db",
    without: &["/usr/share/locale/*"],
    what: "fetching a Debian to install the host's package in (about 60 MB)",
};

/// What apt, dpkg, dkms and systemctl keep of their own, whatever is installed.
const NOT_LOOKED_AT: [&str; 6] = [
    "/run/systemd",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/log",
];

/// Makes and installs a package with the name of NVIDIA's, with nothing in it.
const PACKAGE_OF_NVIDIAS: &str = "cd /tmp && mkdir -p other/DEBIAN && \
    printf 'Package: libcuda1\nVersion: 535\nArchitecture: amd64\nMaintainer: nobody\nDescription: a name\n' \
    >other/DEBIAN/control && dpkg-deb --build other other.deb && dpkg -i other.deb";

/// A Debian with systemd.
pub fn with_systemd(layout: &Layout) -> Result<PathBuf> {
    fetch_root(layout, &FOR_HOSTS)
}

fn fetch_root(layout: &Layout, kind: &Kind) -> Result<PathBuf> {
    layout.cached(kind.name, kind.what, |folder| {
        let mut make = Command::new("mmdebstrap");
        make.args(["--variant=essential", "--mode=root", "--include", kind.included]);
        for pattern in kind.without {
            make.arg(format!("--dpkgopt=path-exclude={pattern}"));
        }
        make.arg(SUITE).arg(folder).arg(fetch::source_line(SUITE)?);
        capture(&mut make).map(drop)
    })
}

/// A copy of it, to be changed.
struct Debian {
    root: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Debian {
    fn new(layout: &Layout, kind: &Kind) -> Result<Self> {
        let fresh = fetch_root(layout, kind)?;
        let scratch = tempfile::tempdir_in(&layout.target)?;
        let root = scratch.path().join("root");
        capture(Command::new("cp").arg("-a").arg(fresh).arg(&root))?;
        Ok(Self {
            root,
            _scratch: scratch,
        })
    }

    /// What a shell command prints that runs inside and must succeed.
    fn run(&self, command: &str) -> Result<String> {
        // Mounted for this command alone.
        let with_proc = "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" /bin/sh -c \"exec 2>&1; $2\"";
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "/bin/sh", "-c", with_proc, "sh"])
            .arg(&self.root)
            .arg(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        capture_text(&mut unshare).with_context(|| format!("inside of Debian: {command}"))
    }

    /// Every file and folder there.
    fn files(&self) -> Result<BTreeSet<String>> {
        let all = self.run("find / -xdev")?;
        let kept = |path: &&str| {
            !NOT_LOOKED_AT
                .iter()
                .any(|folder| Path::new(path).starts_with(folder))
        };
        Ok(all.lines().filter(kept).map(str::to_owned).collect())
    }

    /// Nothing but these is to be there, and all of them.
    fn must_have(&self, before: &BTreeSet<String>) -> Result<()> {
        let after = self.files()?;
        let left: Vec<_> = after.difference(before).collect();
        ensure!(left.is_empty(), "left when the package was removed: {left:?}");
        let lost: Vec<_> = before.difference(&after).collect();
        ensure!(lost.is_empty(), "gone with the package: {lost:?}");
        Ok(())
    }

    /// Which file a program gets for a library.
    fn library_of(&self, program: &str, name: &str) -> Result<String> {
        let loaded = self.run(&format!("ldd {program}"))?;
        let line = loaded.lines().find_map(|line| line.trim().strip_prefix(name));
        let line = line.with_context(|| format!("{program} does not use {name}:\n{loaded}"))?;
        Ok(line
            .trim_start_matches(" => ")
            .split(" (")
            .next()
            .unwrap_or(line)
            .to_owned())
    }
}

/// Installs the package, has a program use its library, builds the driver, installs it once more, removes all.
pub fn check_guest_package(layout: &Layout, package: &Path, program: &Path) -> Result<()> {
    let debian = Debian::new(layout, &FOR_GUESTS)?;
    // As the kernel's own package does, of which only the headers are there.
    debian.run("depmod $(ls /lib/modules)")?;
    let before = debian.files()?;

    fs::copy(package, debian.root.join("tmp/vgpu-guest.deb"))?;
    fs::copy(program, debian.root.join("tmp/program"))?;
    let install = "apt-get -o Dpkg::Use-Pty=0 install --yes --no-install-recommends /tmp/vgpu-guest.deb";
    debian.run(PACKAGE_OF_NVIDIAS)?;
    debian.run(install)?;
    let others = debian.run("! dpkg -L libcuda1")?;
    ensure!(
        others.contains("not installed"),
        "libcuda1 is still there:\n{others}"
    );
    the_driver_is_built(&debian)?;
    older_kernels_are_left_out(&debian, &kernel::module_version(layout)?)?;
    the_library_is_found(&debian)?;

    // Over itself, as an upgrade goes.
    debian.run(&format!("{install} --reinstall"))?;
    the_driver_is_built(&debian)?;

    debian.run("apt-get purge --yes vgpu-guest")?;
    debian.must_have(&before)?;
    let cached = debian.run("ldconfig -p")?;
    ensure!(
        !cached.contains("libcuda"),
        "still in the loader's cache:\n{cached}"
    );
    Ok(())
}

fn the_driver_is_built(debian: &Debian) -> Result<()> {
    let status = debian.run("dkms status -m vgpu")?;
    ensure!(
        status.contains(": installed"),
        "DKMS did not build the driver: {status:?}"
    );
    let info = debian.run("modinfo -k $(ls /lib/modules) vgpu")?;
    ensure!(
        info.contains("alias:          virtio:"),
        "the driver knows no device:\n{info}"
    );
    Ok(())
}

/// DKMS says that it leaves a kernel out which the driver does not build for, by a status that its callers take for no failure.
fn older_kernels_are_left_out(debian: &Debian, version: &str) -> Result<()> {
    const OLD: &str = "/lib/modules/5.15.0-old";
    let build = format!("dkms build vgpu/{version} -k 5.15.0-old; echo status $?");
    let said = debian.run(&format!("mkdir -p {OLD}/build/include; {build}; rm -r {OLD}"))?;
    ensure!(
        said.contains("BUILD_EXCLUSIVE") && said.contains("status 77"),
        "an old kernel is not left out:\n{said}"
    );
    Ok(())
}

fn the_library_is_found(debian: &Debian) -> Result<()> {
    const OURS: &str = "/usr/lib/vgpu/libcuda.so.1";
    let found = debian.library_of("/tmp/program", "libcuda.so.1")?;
    ensure!(found == OURS, "a program gets {found}");
    let said = debian.run("! /tmp/program")?;
    ensure!(
        said.contains("vgpu:") && said.contains("/dev/vgpu"),
        "a program said {said:?}"
    );
    let link = debian.run("readlink -e /usr/lib/x86_64-linux-gnu/libcuda.so")?;
    ensure!(link.trim() == OURS, "compilers link to {link}");

    // Remains of NVIDIA's do not come first.
    let remains = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
    debian.run(&format!("cp {OURS} {remains} && ldconfig"))?;
    let found = debian.library_of("/tmp/program", "libcuda.so.1")?;
    debian.run(&format!("rm {remains} && ldconfig"))?;
    if found != OURS {
        bail!("with another library on the machine a program gets {found}");
    }
    Ok(())
}

/// Says nothing of units that systemd takes.
const VERIFY: &str = "systemd-analyze verify vgpud.service vgpu-backend@3.service vgpu-panel.service";

/// Installs the host's package, looks at what it brings, installs it once more, removes all.
pub fn check_host_package(layout: &Layout, package: &Path) -> Result<()> {
    let debian = Debian::new(layout, &FOR_HOSTS)?;
    // As every boot does; what it keeps beside the accounts is then there before.
    debian.run("systemd-sysusers")?;
    let before = debian.files()?;

    fs::copy(package, debian.root.join("tmp/vgpu.deb"))?;
    let install = "apt-get -o Dpkg::Use-Pty=0 install --yes --no-install-recommends /tmp/vgpu.deb";
    debian.run(install)?;
    for (command, wanted) in [
        ("vgpud --version", "vgpud 0.1.0"),
        ("vgpu-admin --version", "vgpu-admin 0.1.0"),
        (
            "vgpu-backend --print-capabilities",
            r#"{"features":[],"type":"misc"}"#,
        ),
        ("vgpu-panel --version", "vgpu-panel 0.1.0"),
        ("man -w vgpu-admin", "/usr/share/man/man1/vgpu-admin.1.gz"),
        (
            "man -w vgpu-admin-set-pool",
            "/usr/share/man/man1/vgpu-admin-set-pool.1.gz",
        ),
        ("man -w vgpud", "/usr/share/man/man1/vgpud.1.gz"),
        // What a shell would offer behind these words.
        (
            "bash -c '. /usr/share/bash-completion/completions/vgpu-admin; COMP_WORDS=(vgpu-admin sta) COMP_CWORD=1; \
             _vgpu__admin vgpu-admin sta vgpu-admin; echo ${COMPREPLY[*]}'",
            "status stats",
        ),
        (
            "cd /usr/share/vgpu/monitoring && stat -c %U:%a:%n * | xargs",
            "root:644:vgpu-alerts.yml root:644:vgpu-dashboard.json",
        ),
        ("stat -c %U:%G:%a /etc/vgpu", "root:vgpud:1775"),
        ("stat -c %U:%G:%a /etc/vgpu/pools.toml", "vgpud:vgpud:644"),
        // It is vgpud's to write, so dpkg neither asks about it nor knows it.
        ("dpkg-query -W -f '${Conffiles}' vgpu | grep -c pools; true", "0"),
        ("stat -c %U:%G:%a /run/vgpu", "vgpud:vgpu:755"),
        (
            "vgpu-admin config check --offline /etc/vgpu/pools.toml >/dev/null; echo $?",
            "0",
        ),
        ("systemctl is-enabled vgpud vgpu-panel | sort -u", "disabled"),
        (VERIFY, ""),
        // With the drop-in for a pool with MPS.
        ("mkdir /etc/systemd/system/vgpu-backend@3.service.d", ""),
        (
            "cp /usr/share/doc/vgpu/examples/mps.conf /etc/systemd/system/vgpu-backend@3.service.d/",
            "",
        ),
        (VERIFY, ""),
        ("rm -r /etc/systemd/system/vgpu-backend@3.service.d", ""),
    ] {
        let said = debian.run(command)?;
        ensure!(said.trim() == wanted, "{command}: {said:?}, expected {wanted:?}");
    }

    // Over itself, as an upgrade goes, which leaves what the operator and vgpud have written, and makes what is not there.
    debian.run("echo '[scheduler]' >>/etc/vgpu/pools.toml")?;
    debian.run(&format!("{install} --reinstall"))?;
    debian.run(
        "grep -q scheduler /etc/vgpu/pools.toml && grep -q 'pool map of this host' /etc/vgpu/pools.toml",
    )?;
    debian.run("mv /etc/vgpu/pools.toml /tmp/kept")?;
    debian.run(&format!("{install} --reinstall"))?;
    debian
        .run("grep -q 'pool map of this host' /etc/vgpu/pools.toml && mv /tmp/kept /etc/vgpu/pools.toml")?;
    debian.run("systemctl enable vgpud vgpu-backend@3 vgpu-panel")?;

    debian.run("apt-get remove --yes vgpu && grep -q scheduler /etc/vgpu/pools.toml")?;
    debian.run("mkdir -p /var/lib/vgpu && touch /var/lib/vgpu/vgpu.db && apt-get purge --yes vgpu")?;
    debian.must_have(&before)
}
