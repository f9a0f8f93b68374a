//! The jail around libcuda: what a guest that took over this process could still ask of the kernel.
//!
//! Two parts, each in force before the first byte of a guest is read. [`close_files`] (Landlock) comes before any other thread
//! exists, since it holds for the thread that asks for it and those that it starts; [`close_calls`] (seccomp) comes when
//! libcuda is initialised, and holds for all threads. Neither is ever taken back. libcuda opens device nodes whenever a
//! context is made, so those stay open to it.
//!
//! `--no-jail` leaves both out. What is refused shows in the kernel's audit log ("type=1326" names the system call;
//! Landlock's own records need Linux 6.15).
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Descriptors that this process may have: what libcuda opens per context, and a few per ring.
const FILES_MAX: u64 = 4096;
/// The newest Landlock that the rules below were written for; an older kernel enforces what it knows.
const LANDLOCK: ABI = ABI::V7;
/// Libraries, and what libcuda and libc look up about the machine.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/share/nvidia",
    "/opt",
    "/nix/store",
    "/run/opengl-driver",
    "/etc/ld.so.cache",
    "/etc/nvidia",
    "/sys",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
];
/// Where libcuda has files of what processes share: those of events, `cuda.shm.UID.PID.N`, and those of MPS. They are their
/// user's alone.
const SHARED_MEMORY: &str = "/dev/shm";
/// Calls of the x32 ABI are numbered from here; no filter of x86-64 numbers sees them.
const X32: u32 = 0x4000_0000;

/// Why a part of the jail could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Landlock refused a rule.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter could not be made.
    #[error("seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refused the filter.
    #[error("seccomp: {0}")]
    Seccomp(io::Error),
    /// A limit could not be set.
    #[error("limit of {0}: {1}")]
    Limit(&'static str, rustix::io::Errno),
}

/// Leaves this thread, and those it will start, only the files that libcuda needs (and those of MPS, whose control daemon's
/// sockets are in that folder, if they are to share the GPU through it), no TCP, and no signals to others; and
/// bounds its descriptors. What is in force, in words.
pub fn close_files(mps: Option<&Path>) -> Result<String, JailError> {
    limit_files()?;
    let handled = AccessFs::from_all(LANDLOCK);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let mut opened = 0;
    for (path, access) in rules(mps) {
        let Ok(beneath) = PathFd::new(&path) else {
            log::debug!("jail: {} is not there", path.display());
            continue;
        };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(LANDLOCK)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(beneath, access))?;
        opened += 1;
    }
    let enforced = match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "Landlock in full",
        RulesetStatus::PartiallyEnforced => "Landlock as far as this kernel has it",
        RulesetStatus::NotEnforced => {
            log::warn!(
                "jail: this kernel has no Landlock: files are guarded by their owners and modes alone"
            );
            return Ok("no Landlock".into());
        }
    };
    Ok(format!("{enforced}, {opened} paths"))
}

/// Which paths stay open to which access. `mps` is the folder of the MPS control daemon's sockets, if the session is to
/// connect to it.
fn rules(mps: Option<&Path>) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let share = read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::Truncate;
    let mut rules: Vec<_> = READABLE.iter().map(|path| (PathBuf::from(path), read)).collect();
    // Where the operator's libcuda is, if it is not where libraries are, and what it is a link to.
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    for folder in std::env::split_paths(&libraries).filter(|folder| folder.is_absolute()) {
        let linked = folder.join("libcuda.so.1").canonicalize();
        rules.extend(linked.ok().map(|library| (library, read)));
        rules.push((folder, read));
    }
    rules.push(("/dev/null".into(), read | AccessFs::WriteFile));
    // cuInit fails if it cannot name its threads, by writing their `comm`. `/proc` as a whole, since the entries of a process
    // come and go behind its number. What others may write there their owners alone may, and Landlock itself keeps the
    // memory and descriptors of other processes closed.
    rules.push(("/proc".into(), read | AccessFs::WriteFile | AccessFs::Truncate));
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let nvidia = devices.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"nvidia"));
    rules.extend(nvidia.map(|entry| (entry.path(), device)));
    rules.extend(softgpu_share().map(|path| (path, share)));
    rules.push((SHARED_MEMORY.into(), share | AccessFs::RemoveFile));
    if let Some(pipes) = mps {
        rules.push((pipes.to_owned(), read | AccessFs::WriteFile));
    }
    rules
}

/// Where the software GPU's processes meet. It makes the folder itself if nobody did; here, while that is still allowed.
fn softgpu_share() -> Option<PathBuf> {
    match std::env::var_os("VGPU_SOFTGPU_DIR") {
        Some(dir) => Some(dir.into()),
        // Its own choice, where another libcuda than the machine's is used.
        None if std::env::var_os("LD_LIBRARY_PATH").is_some() => {
            let user = rustix::process::getuid().as_raw();
            let dir = Path::new("/dev/shm").join(format!("vgpu-softgpu-{user}"));
            // It may be there; if it cannot be made, the software GPU says so.
            let _ = std::fs::create_dir(&dir);
            Some(dir)
        }
        None => None,
    }
}

fn limit_files() -> Result<(), JailError> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let most = Some(hard.map_or(FILES_MAX, |hard| hard.min(FILES_MAX)));
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    rustix::process::setrlimit(Resource::Nofile, limit)
        .map_err(|errno| JailError::Limit("descriptors", errno))
}

/// Takes from all threads the system calls that no CUDA call needs: they fail with EPERM. What is in force, in words.
pub fn close_calls() -> Result<String, JailError> {
    let refused = refused()?;
    let count = refused.len();
    // glibc falls back to clone, whose flags can be seen.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    install(&program(clone3, libc::ENOSYS)?)?;
    install(&program(refused, libc::EPERM)?)?;
    Ok(format!("seccomp against {count} system calls"))
}

/// What is refused whatever its arguments are.
const REFUSED: &[libc::c_long] = &[
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    // Who it is.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    // Large parts of the kernel that it has no use for.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_modify_ldt,
    libc::SYS_memfd_secret,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
    // The machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_iopl,
    libc::SYS_ioperm,
];

/// System calls and when they are refused; no conditions mean always.
fn refused() -> Result<BTreeMap<i64, Vec<SeccompRule>>, JailError> {
    let when = |argument, operator, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    let own = u64::from(std::process::id());
    let thread = libc::CLONE_THREAD as u64;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|&call| (call, vec![])).collect();
    // A new process, but not a new thread.
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    rules.insert(
        libc::SYS_socket,
        vec![when(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?],
    );
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(0, SeccompCmpOp::Ne, own)?]);
    }
    let undoing = [
        libc::PR_SET_DUMPABLE,
        libc::PR_SET_PDEATHSIG,
        libc::PR_SET_PTRACER,
    ];
    let undoing: Result<_, _> = undoing
        .map(|what| when(0, SeccompCmpOp::Eq, what as u64))
        .into_iter()
        .collect();
    rules.insert(libc::SYS_prctl, undoing?);
    let limits = when(2, SeccompCmpOp::Ne, 0);
    // Reading a limit is what sysconf does.
    rules.insert(libc::SYS_prlimit64, vec![limits?]);
    rules.insert(libc::SYS_setrlimit, vec![]);
    Ok(rules)
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, JailError> {
    let refuse = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    // Number 0 of the data is the call's: from X32 on there is no such call.
    let statement = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut whole = vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
    ];
    whole.extend(program);
    Ok(whole)
}

/// Puts a filter over all threads; what it refuses is logged by the kernel.
fn install(program: &[sock_filter]) -> Result<(), JailError> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the kernel reads the program, whose statements have its own layout, and keeps no pointer to it.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) };
    match done {
        0 => Ok(()),
        -1 => Err(JailError::Seccomp(io::Error::last_os_error())),
        thread => Err(JailError::Seccomp(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        )))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    /// Set in the process that is jailed; the file that it must not read.
    const INSIDE: &str = "VGPU_TEST_JAILED";
    /// The folder of MPS' sockets, if it is to reach them.
    const MPS: &str = "VGPU_TEST_MPS";

    /// What a jailed process can do: the other half of the test below, in a process of its own, since nothing leaves a jail.
    #[test]
    fn inside() {
        let Ok(secret) = std::env::var(INSIDE) else { return };
        assert!(std::fs::read(&secret).is_ok());
        rustix::thread::set_no_new_privs(true).unwrap();
        let mps = std::env::var_os(MPS).map(PathBuf::from);
        let files = close_files(mps.as_deref()).unwrap();
        // A thread from before the filter is under it as well.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let early = std::thread::spawn(move || {
            wait.recv().unwrap();
            refused_calls();
        });
        let calls = close_calls().unwrap();
        go.send(()).unwrap();
        early.join().unwrap();
        std::thread::spawn(refused_calls).join().unwrap();
        refused_calls();

        if files != "no Landlock" {
            assert_eq!(std::fs::read(&secret).unwrap_err().kind(), PermissionDenied);
            let folder = Path::new(&secret).parent().unwrap();
            for folder in [folder, Path::new("/usr/lib"), Path::new("/dev"), Path::new("/")] {
                let made = std::fs::write(folder.join("vgpu-test-file"), b"");
                assert_eq!(made.unwrap_err().kind(), PermissionDenied, "{}", folder.display());
            }
            assert_eq!(std::fs::read("/etc/passwd").unwrap_err().kind(), PermissionDenied);
        }
        if let Some(pipes) = mps {
            let mut daemon = UnixStream::connect(pipes.join("control")).unwrap();
            daemon.write_all(b"client").unwrap();
            let log = std::fs::File::options().append(true).open(pipes.join("log"));
            log.unwrap().write_all(b"x").unwrap();
            let new = std::fs::write(pipes.join("new"), b"");
            assert!(files == "no Landlock" || new.is_err());
        }
        // What libcuda does.
        std::fs::read_to_string("/proc/self/maps").unwrap();
        std::fs::write("/dev/null", b"x").unwrap();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        std::fs::write(format!("/proc/self/task/{thread}/comm"), b"named").unwrap();
        assert_eq!(
            std::fs::read("/usr/lib/no such file").unwrap_err().kind(),
            NotFound
        );
        let shared = Path::new(SHARED_MEMORY).join(format!("vgpu-test-{}", std::process::id()));
        std::fs::write(&shared, b"x").unwrap();
        std::fs::remove_file(&shared).unwrap();
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        UnixStream::pair().unwrap();
        println!("jailed: {files}; {calls}");
    }

    /// Calls that fail with EPERM.
    fn refused_calls() {
        let refused = |what: &str, done: i64| {
            let error = io::Error::last_os_error();
            assert_eq!((done, error.raw_os_error()), (-1, Some(libc::EPERM)), "{what}");
        };
        let path = c"/bin/true".as_ptr();
        let arguments = [path, std::ptr::null()];
        // SAFETY: each is refused by the kernel before it looks at its arguments, which are valid all the same.
        unsafe {
            refused(
                "execve",
                libc::execve(path, arguments.as_ptr(), arguments.as_ptr().add(1)).into(),
            );
            refused("fork", libc::syscall(libc::SYS_fork));
            refused("clone", libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0));
            refused("inet", libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into());
            refused(
                "netlink",
                libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).into(),
            );
            refused("ptrace", libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0));
            refused("unshare", libc::unshare(libc::CLONE_NEWUSER).into());
            refused("setuid", libc::setuid(0).into());
            refused("kill", libc::kill(libc::getppid(), 0).into());
            refused("dumpable", libc::prctl(libc::PR_SET_DUMPABLE, 1).into());
            refused("io_uring", libc::syscall(libc::SYS_io_uring_setup, 1, 0));
            refused("bpf", libc::syscall(libc::SYS_bpf, 0, 0, 0));
            assert_eq!(libc::syscall(libc::SYS_clone3, 0, 0), -1);
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
            assert_eq!(libc::syscall(i64::from(X32) + libc::SYS_getpid), -1);
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
        }
    }

    /// Runs [`inside`] in a process of its own, with a folder in which it must not read.
    fn run_inside(dir: &Path, environment: &[(&str, &Path)]) {
        let secret = dir.join("secret");
        std::fs::write(&secret, b"secret").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "jail::tests::inside", "--nocapture"])
            .env(INSIDE, &secret)
            .envs(environment.iter().copied())
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("jailed: "), "{said}");
    }

    #[test]
    fn a_jailed_process_has_what_libcuda_needs_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        run_inside(dir.path(), &[]);
    }

    #[test]
    fn a_jailed_client_of_mps_reaches_its_daemon_and_nothing_else() {
        let (dir, pipes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let daemon = UnixListener::bind(pipes.path().join("control")).unwrap();
        std::fs::write(pipes.path().join("log"), b"").unwrap();
        run_inside(dir.path(), &[(MPS, pipes.path())]);
        let mut said = String::new();
        daemon.accept().unwrap().0.read_to_string(&mut said).unwrap();
        assert_eq!(said, "client");
        assert_eq!(std::fs::read(pipes.path().join("log")).unwrap(), b"x");
    }
}
