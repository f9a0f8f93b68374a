//! Why there is no device, in words for who runs the program: what is wrong, and what to do.
use super::TransportError;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vgpu_protocol::limits::SESSIONS_MAX;
use vgpu_protocol::virtio::{DEVICE_ID, Status};

/// What the host's refusal to open a session means.
pub fn refused(status: Status) -> String {
    match status {
        Status::NoPool => {
            "the host has mapped this VM to no GPU: its operator does that (vgpu-admin register-vm)".into()
        }
        Status::NoGpu => {
            "none of the GPUs that the host has for this VM works at present: its operator finds out why \
             (vgpu-admin status)"
                .into()
        }
        Status::Limit => format!(
            "too many programs of this VM use the GPU, {SESSIONS_MAX} at most: end one of them and try again"
        ),
        Status::NoWindow => {
            "the host finds no room for this program's addresses: its operator finds out why \
                             (the log of vgpu-backend)"
                .into()
        }
        Status::NoScheduler => {
            "the host's scheduler does not answer: its operator starts it again (vgpud); then try again"
                .into()
        }
        Status::Lost => "the host ended the session".into(),
        Status::Quarantined => quarantined(0),
        Status::NotFound => "the GPUs that the host has for this VM have just changed: try again".into(),
        Status::Invalid | Status::HostError | Status::Taken | Status::Ok => format!(
            "the host could not start what serves this program ({status:?}): its operator finds out why \
             (the log of vgpu-backend)"
        ),
    }
}

/// For how many seconds the VM may not use the GPU; 0 if that does not end by itself.
pub fn quarantined(wait_s: u32) -> String {
    match wait_s {
        0 => "the host has put this VM in quarantine, until its operator releases it (vgpu-admin release)"
            .into(),
        wait_s => format!(
            "the host has put this VM in quarantine, for {wait_s} more {}: try again then",
            if wait_s == 1 { "second" } else { "seconds" }
        ),
    }
}

/// What is wrong if the device's file cannot be opened.
pub fn cannot_open(path: &str, error: io::Error) -> TransportError {
    TransportError::NoDevice(match error.raw_os_error() {
        Some(libc::ENOENT) => not_there(path, Path::new("/sys")),
        Some(libc::EACCES | libc::EPERM) => match fs::metadata(path) {
            Ok(node) => not_allowed(path, &node, &own_ids(), "/etc/group"),
            Err(_) => format!("{path}: {error}"),
        },
        Some(libc::ENODEV | libc::ENXIO) => gone(path),
        // It says nothing about the device: no descriptors, no memory.
        _ => return TransportError::Os(error),
    })
}

/// The host's end is gone.
pub fn gone(path: &str) -> String {
    format!("{path}: the host's end of the device is gone; its operator plugs in another one")
}

/// There is no file for the device: which step is missing.
fn not_there(path: &str, sys: &Path) -> String {
    let is_ours = |device: &Path| {
        let id = fs::read_to_string(device.join("device")).unwrap_or_default();
        u32::from_str_radix(id.trim().trim_start_matches("0x"), 16) == Ok(DEVICE_ID)
    };
    let devices = fs::read_dir(sys.join("bus/virtio/devices"));
    let has_device = devices.is_ok_and(|devices| devices.flatten().any(|device| is_ours(&device.path())));
    let has_driver = sys.join("module/vgpu").exists();
    match (has_device, has_driver) {
        (false, _) => format!("no {path}: this VM has no vgpu device; the host's operator adds one"),
        (true, false) => format!(
            "no {path}: the driver vgpu is not loaded; `modprobe vgpu` loads it, the package vgpu-guest brings it"
        ),
        (true, true) => format!(
            "no {path}, but its driver is loaded: a container is to be given {path}; else `dmesg` says what is wrong"
        ),
    }
}

/// The user and the groups that decide what this process may open.
struct Ids {
    user: u32,
    groups: Vec<u32>,
}

fn own_ids() -> Ids {
    let mut groups: Vec<u32> = vec![0; 1 << 10];
    // SAFETY: a place for that many groups; of more groups none is told, which makes the words below less exact.
    let count = unsafe { libc::getgroups(groups.len() as i32, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    // SAFETY: these calls have no conditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    groups.push(group);
    Ids { user, groups }
}

/// Whom the file's mode keeps out.
fn not_allowed(path: &str, node: &Metadata, ids: &Ids, group_file: &str) -> String {
    let user = ids.user;
    let mode = node.mode();
    // The bits that let somebody read and write.
    let all = mode & 0o006 == 0o006;
    let in_group = ids.groups.contains(&node.gid()) && mode & 0o060 == 0o060;
    if all || in_group || user == node.uid() && mode & 0o600 == 0o600 {
        return format!(
            "{path} may not be used here, though its mode lets user {user}: a container is to be given it"
        );
    }
    let group = group_name(node.gid(), group_file);
    if mode & 0o060 == 0o060 {
        return format!(
            "user {user} may not open {path}, which is for group {group}: add the user to it (usermod -aG {group} NAME) \
             and log in again"
        );
    }
    let mode = mode & 0o777;
    format!(
        "user {user} may not open {path}, whose mode {mode:o} is for user {} alone",
        node.uid()
    )
}

/// The name of a group, or else its number.
fn group_name(group: u32, group_file: &str) -> String {
    let file = fs::read_to_string(group_file).unwrap_or_default();
    let number = group.to_string();
    let name = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PATH: &str = "/dev/vgpu";

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("vgpu-reason-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn each_refusal_has_words_of_its_own() {
        let all = [
            Status::Invalid,
            Status::NotFound,
            Status::Limit,
            Status::NoWindow,
            Status::NoGpu,
            Status::Quarantined,
            Status::Lost,
            Status::HostError,
            Status::NoPool,
            Status::Taken,
            Status::NoScheduler,
        ];
        let mut words: Vec<String> = all.map(refused).to_vec();
        words.push(quarantined(7));
        assert!(words.last().unwrap().contains("7 more seconds"));
        // Whoever put it there: the host does not say whether a limit was broken.
        assert!(!words.last().unwrap().contains("limit"));
        assert!(quarantined(1).contains("1 more second:"));
        assert!(
            words
                .iter()
                .all(|words| !words.contains('\n') && !words.contains("  "))
        );
        words.sort();
        words.dedup();
        assert_eq!(words.len(), all.len() + 1);
    }

    #[test]
    fn a_missing_file_is_told_by_what_is_there_instead() {
        let sys = folder("sys");
        let devices = sys.join("bus/virtio/devices");
        assert!(not_there(PATH, &sys).contains("no vgpu device"));
        for (name, id) in [("virtio0", "0x0001\n"), ("virtio1", "0x0015\n")] {
            assert!(not_there(PATH, &sys).contains("no vgpu device"));
            fs::create_dir_all(devices.join(name)).unwrap();
            fs::write(devices.join(name).join("device"), id).unwrap();
        }
        assert!(not_there(PATH, &sys).contains("modprobe"));
        fs::create_dir_all(sys.join("module/vgpu")).unwrap();
        assert!(not_there(PATH, &sys).contains("container"));
        fs::remove_dir_all(sys).unwrap();
    }

    #[test]
    fn a_user_that_is_kept_out_is_told_which_group_may() {
        let folder = folder("mode");
        let (node, groups) = (folder.join("node"), folder.join("group"));
        fs::write(&node, "").unwrap();
        let owner = fs::metadata(&node).unwrap();
        fs::write(&groups, format!("other:x:999999:\ngpu:x:{}:me\n", owner.gid())).unwrap();
        let stranger = Ids {
            user: owner.uid() + 1,
            groups: vec![owner.gid() + 1],
        };
        let words = |mode: u32, ids: &Ids| {
            fs::set_permissions(&node, fs::Permissions::from_mode(mode)).unwrap();
            not_allowed(PATH, &fs::metadata(&node).unwrap(), ids, groups.to_str().unwrap())
        };
        assert!(words(0o660, &stranger).contains("group gpu: add the user to it (usermod -aG gpu NAME)"));
        assert!(words(0o600, &stranger).contains("mode 600"));
        assert!(words(0o666, &stranger).contains("container"));
        let member = Ids {
            user: stranger.user,
            groups: vec![owner.gid()],
        };
        assert!(words(0o660, &member).contains("container"));
        assert_eq!(group_name(1, "/nonexistent"), "1");
        fs::remove_dir_all(folder).unwrap();
    }
}
