//! The services that run on this host, as far as `/proc` shows them.
use std::fs;
use std::path::{Path, PathBuf};

/// A service's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub pid: u32,
    pub user: User,
    pub arguments: Vec<String>,
    /// Where relative paths in its arguments begin.
    pub folder: PathBuf,
    /// `None` if they could not be read.
    pub limits: Option<Limits>,
}

/// As whom a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gids: Vec<u32>,
}

/// What a process may be allowed to have; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub files: Option<u64>,
    pub stack: Option<u64>,
    pub addresses: Option<u64>,
    pub locked: Option<u64>,
}

impl Service {
    /// What it was given for an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(name) {
                Some("") => return arguments.next().map(String::as_str),
                Some(value) if value.starts_with('=') => return Some(&value[1..]),
                _ => {}
            }
        }
        None
    }

    /// Whether it is this program.
    pub fn is(&self, program: &str) -> bool {
        let name = self.arguments.first().map(Path::new).and_then(Path::file_name);
        name.is_some_and(|name| name == program)
    }

    /// The VM that a backend serves.
    pub fn vm(&self) -> Option<u32> {
        self.option("--vm-id")?.parse().ok()
    }

    /// The path that it was given for an option.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.option(name).map(|path| self.folder.join(path))
    }
}

/// The schedulers that listen at that socket: one at most, but for others' in another view of the file system.
pub fn schedulers(socket: &Path) -> Vec<Service> {
    of(socket, "vgpud", "--socket")
}

/// The backends that ask the scheduler at that socket.
pub fn backends(socket: &Path) -> Vec<Service> {
    of(socket, "vgpu-backend", "--vgpud")
}

/// The processes of a program that were given that socket. There may be others, for a test say.
fn of(socket: &Path, program: &str, option: &str) -> Vec<Service> {
    let mut all = running(program);
    all.retain(|service| service.path(option).is_some_and(|path| is_same(&path, socket)));
    all
}

/// Whether two paths lead to the same place: they may be relative to this program's folder, or through links.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    place(one).is_some_and(|place_of_one| place(other) == Some(place_of_one))
}

/// The processes of a program.
fn running(program: &str) -> Vec<Service> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let folder = Path::new("/proc").join(pid.to_string());
        // One that is gone meanwhile is none.
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        if name.trim_end() != program {
            return None;
        }
        let arguments = fs::read(folder.join("cmdline")).ok()?;
        let arguments = arguments.split(|byte| *byte == 0);
        Some(Service {
            pid,
            user: user(&fs::read_to_string(folder.join("status")).ok()?)?,
            arguments: arguments
                .map(|one| String::from_utf8_lossy(one).into_owned())
                .collect(),
            folder: fs::read_link(folder.join("cwd")).unwrap_or_default(),
            limits: limits(&folder),
        })
    })
    .collect()
}

/// The limits of the process in that folder of `/proc`.
pub fn limits(folder: &Path) -> Option<Limits> {
    read_limits(&fs::read_to_string(folder.join("limits")).ok()?)
}

/// From the text of `/proc/PID/limits`: the hard ones, since a service raises the soft ones itself.
fn read_limits(text: &str) -> Option<Limits> {
    let hard = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        match line.split_whitespace().nth(1)? {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        }
    };
    Some(Limits {
        files: hard("Max open files")?,
        stack: hard("Max stack size")?,
        addresses: hard("Max address space")?,
        locked: hard("Max locked memory")?,
    })
}

/// From the text of `/proc/PID/status`: the effective user and all groups.
fn user(text: &str) -> Option<User> {
    let numbers = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(
            line.split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect::<Vec<u32>>(),
        )
    };
    let mut gids = numbers("Groups:")?;
    gids.push(*numbers("Gid:")?.get(1)?);
    Some(User {
        uid: *numbers("Uid:")?.get(1)?,
        gids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_options_are_found() {
        let service = Service {
            arguments: ["vgpud", "--config", "pools.toml", "--state-dir=/s", "--socket"]
                .map(str::to_owned)
                .to_vec(),
            folder: "/srv".into(),
            ..Service::default()
        };
        assert_eq!(service.path("--config"), Some("/srv/pools.toml".into()));
        assert_eq!(service.path("--state-dir"), Some("/s".into()));
        assert_eq!(
            (service.option("--socket"), service.option("--state")),
            (None, None)
        );
    }

    #[test]
    fn a_place_is_the_same_however_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link) = (dir.path().join("socket"), dir.path().join("link"));
        fs::write(&socket, "").unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert!(is_same(&socket, &socket) && is_same(&link, &socket));
        assert!(!is_same(&socket, &dir.path().join("other")));
        // Tests run in their crate's folder. What is not there has a place all the same.
        let folder = std::env::current_dir().unwrap();
        assert!(is_same(&folder.join("Cargo.toml"), Path::new("./Cargo.toml")));
        assert!(is_same(&folder.join("none"), Path::new("none")) && !is_same(Path::new("none"), &socket));
    }

    #[test]
    fn what_the_kernel_tells_of_a_process_is_read() {
        let status = "Name:\tvgpud\nUid:\t1\t990\t1\t1\nGid:\t1\t991\t1\t1\nFDSize:\t64\nGroups:\t5 6 \n";
        let expected = User {
            uid: 990,
            gids: vec![5, 6, 991],
        };
        assert_eq!(user(status), Some(expected));
        let text = "\
Limit                     Soft Limit           Hard Limit           Units
Max stack size            8388608              unlimited            bytes
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
Max address space         unlimited            unlimited            bytes
";
        let expected = Limits {
            files: Some(524_288),
            stack: None,
            addresses: None,
            locked: Some(8_388_608),
        };
        assert_eq!(read_limits(text), Some(expected));
        assert_eq!(read_limits("nonsense"), None);
        // This process tells of itself.
        assert!(limits(Path::new("/proc/self")).is_some());
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let found = running(own.trim_end());
        let own = found
            .iter()
            .find(|service| service.pid == std::process::id())
            .unwrap();
        assert_eq!(own.user.uid, rustix::process::geteuid().as_raw());
    }
}
