//! Asking `vgpud`.
use crate::failure::{Failure, Kind};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vgpu_sched_api::messages::{
    Answer, Arrival, ChangeRecord, Changed, EventRecord, GpuUsageRecord, Refusal, Request, Scanned, Stats,
    Status, TurnRecord, UsageRecord, Wanted, WantedUsage,
};
use vgpu_sched_api::packet::{self, PacketError};

/// How long an answer may take. `vgpud` gives up on its database sooner.
const LIMIT: Duration = Duration::from_secs(5);
/// The same of what is to be done: looking for GPUs is given up by `vgpud` after a minute.
const ORDER_LIMIT: Duration = Duration::from_secs(75);

/// A connection to `vgpud`.
pub struct Client {
    socket: OwnedFd,
    path: PathBuf,
    limit: Duration,
    order_limit: Duration,
    /// Who is told that what is to be done takes its time.
    waiting: fn(&str),
}

impl Client {
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let socket = connect(path, LIMIT).map_err(|error| unreachable(path, error))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            limit: LIMIT,
            order_limit: ORDER_LIMIT,
            waiting: |_| {},
        })
    }

    /// Has it said if what is to be done is waited for longer than any answer.
    pub fn saying(self, waiting: fn(&str)) -> Self {
        Self { waiting, ..self }
    }

    /// Asks one thing. What `vgpud` refuses is a failure.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let is_order = matches!(request, Request::Scan | Request::Change(_));
        packet::send(&self.socket, request, &[]).map_err(|error| self.broken(error, is_order))?;
        let answer = match self.receive(self.limit) {
            Err(PacketError::Io(Errno::AGAIN)) if is_order => {
                (self.waiting)(&format!(
                    "vgpud at {} has not answered for {} s; it is waited for up to {} s",
                    self.path.display(),
                    self.limit.as_secs(),
                    self.order_limit.as_secs()
                ));
                self.receive(self.order_limit.saturating_sub(self.limit))
            }
            answer => answer,
        };
        match answer.map_err(|error| self.broken(error, is_order))? {
            Answer::Refused { why, message } => Err(refused(why, message)),
            answer => Ok(answer),
        }
    }

    fn receive(&self, limit: Duration) -> Result<Answer, PacketError> {
        sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(limit)).map_err(PacketError::Io)?;
        Ok(packet::receive(&self.socket)?.0)
    }

    pub fn status(&self) -> Result<Status, Failure> {
        let part = |from_vm| match self.ask(&Request::Status { from_vm })? {
            Answer::Status { status, next_vm } => Ok((*status, next_vm)),
            other => Err(unexpected(&other)),
        };
        let (mut all, mut next) = part(0)?;
        while let Some(from_vm) = next {
            let (more, after) = part(from_vm)?;
            for pool in more.pools {
                // One that came or went meanwhile is in the next status.
                if let Some(known) = all.pools.iter_mut().find(|known| known.name == pool.name) {
                    known.vms.extend(pool.vms);
                }
            }
            all.in_no_pool.extend(more.in_no_pool);
            next = after.filter(|after| *after > from_vm);
        }
        Ok(all)
    }

    pub fn stats(&self) -> Result<Stats, Failure> {
        let part = |from_vm| match self.ask(&Request::Stats { from_vm })? {
            Answer::Stats { stats, next_vm } => Ok((*stats, next_vm)),
            other => Err(unexpected(&other)),
        };
        let (mut all, mut next) = part(0)?;
        while let Some(from_vm) = next {
            let (more, after) = part(from_vm)?;
            all.vms.extend(more.vms);
            next = after.filter(|after| *after > from_vm);
        }
        Ok(all)
    }

    /// Has it look for GPUs again.
    pub fn scan(&self) -> Result<Scanned, Failure> {
        match self.ask(&Request::Scan)? {
            Answer::Scanned(scanned) => Ok(scanned),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of the turns that were given, from that number on, and where the next one begins.
    pub fn turns(&self, from: u64) -> Result<(Vec<TurnRecord>, u64), Failure> {
        match self.ask(&Request::Turns { from })? {
            Answer::Turns { turns, next } => Ok((turns, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of what happened.
    pub fn events(&self, from: u64, vm: Option<u32>) -> Result<(Vec<EventRecord>, u64), Failure> {
        match self.ask(&Request::Events { from, vm })? {
            Answer::Events { events, next } => Ok((events, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of who changed what.
    pub fn changes(&self, from: u64) -> Result<(Vec<ChangeRecord>, u64), Failure> {
        match self.ask(&Request::Changes { from })? {
            Answer::Changes { changes, next } => Ok((changes, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// Has something changed, or says what would change.
    pub fn change(&self, wanted: Wanted) -> Result<Changed, Failure> {
        match self.ask(&Request::Change(wanted))? {
            Answer::Changed(changed) => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of when work came.
    pub fn arrivals(&self, from: u64) -> Result<(Vec<Arrival>, u64), Failure> {
        match self.ask(&Request::Arrivals { from })? {
            Answer::Arrivals { arrivals, next } => Ok((arrivals, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// A part of what VMs used, and what to ask with for the next one, if there is more.
    pub fn usage(&self, wanted: &WantedUsage) -> Result<(Vec<UsageRecord>, Option<String>), Failure> {
        match self.ask(&Request::Usage(wanted.clone()))? {
            Answer::Usage { usage, next } => Ok((usage, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// The same of GPUs.
    pub fn gpu_usage(&self, wanted: &WantedUsage) -> Result<(Vec<GpuUsageRecord>, Option<String>), Failure> {
        match self.ask(&Request::GpuUsage(wanted.clone()))? {
            Answer::GpuUsage { gpus, next } => Ok((gpus, next)),
            other => Err(unexpected(&other)),
        }
    }

    fn broken(&self, error: PacketError, is_order: bool) -> Failure {
        let path = self.path.display();
        match error {
            PacketError::Closed | PacketError::Io(Errno::PIPE | Errno::CONNRESET) => Failure::new(
                Kind::Unreachable,
                format!("vgpud at {path} hung up without an answer"),
            )
            .hint("it may have been stopped, or is of another version than this program: `vgpud --version`"),
            PacketError::Io(Errno::AGAIN) if is_order => silent(&self.path, self.order_limit).hint(
                "it may do it all the same once it goes on: `vgpu-admin audit` and `vgpu-admin status` tell",
            ),
            PacketError::Io(Errno::AGAIN) => silent(&self.path, self.limit),
            PacketError::Io(error) => Failure::new(Kind::Unreachable, format!("vgpud at {path}: {error}")),
            error @ (PacketError::Json(_) | PacketError::TooLong) => {
                Failure::new(Kind::Failed, format!("the answer of vgpud at {path}: {error}"))
                    .hint("it may be of another version than this program: `vgpud --version`")
            }
        }
    }
}

/// Reads pages from that number on until there is nothing more, and says where what comes later begins.
pub fn pages<T>(
    from: u64,
    read: impl Fn(u64) -> Result<(Vec<T>, u64), Failure>,
    mut each: impl FnMut(Vec<T>) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut from = from;
    loop {
        let (page, next) = read(from)?;
        // Numbers only rise, whatever the answer says.
        if next <= from {
            return Ok(from);
        }
        from = next;
        each(page)?;
    }
}

/// The last of what there is, the oldest first, and where what comes later begins.
pub fn last<T>(
    count: usize,
    read: impl Fn(u64) -> Result<(Vec<T>, u64), Failure>,
) -> Result<(Vec<T>, u64), Failure> {
    let mut last = Vec::new();
    let next = pages(0, read, |page| {
        last.extend(page);
        last.drain(..last.len().saturating_sub(count));
        Ok(())
    })?;
    Ok((last, next))
}

/// An answer to another question.
pub fn unexpected(answer: &Answer) -> Failure {
    Failure::new(Kind::Failed, format!("vgpud answered something else: {answer:?}"))
}

/// It is there, and does not answer.
fn silent(path: &Path, limit: Duration) -> Failure {
    let message = format!(
        "vgpud at {} did not answer within {} s",
        path.display(),
        limit.as_secs()
    );
    Failure::new(Kind::Unreachable, message).hint(
        "it is busy or hangs: `systemctl status vgpud` and `journalctl -u vgpud` tell more; systemd ends and restarts one that hangs",
    )
}

fn connect(path: &Path, limit: Duration) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        sockopt::set_socket_timeout(&socket, timeout, Some(limit))?;
    }
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn unreachable(path: &Path, error: Errno) -> Failure {
    // So many wait for it already that there is no place for one more.
    if error == Errno::AGAIN {
        return silent(path, LIMIT);
    }
    // The kernel says the same of a socket at which nobody listens and of what is no socket.
    let is_other = |found: std::fs::Metadata| !found.file_type().is_socket();
    let no_socket = error == Errno::CONNREFUSED && std::fs::metadata(path).is_ok_and(is_other);
    let hint = match error {
        _ if no_socket => "vgpud's socket is named with --socket",
        Errno::NOENT => "is vgpud running? Another socket is named with --socket",
        Errno::CONNREFUSED => "the socket is left over from a vgpud that has ended: start vgpud again",
        Errno::ACCESS | Errno::PERM => "only root, vgpud's user and its group may",
        Errno::PROTOTYPE => "this is a socket of something else; vgpud's is named with --socket",
        _ => "vgpud's socket is named with --socket",
    };
    let why = match no_socket {
        true => "there is a file that is no socket".to_owned(),
        false => error.to_string(),
    };
    Failure::new(
        Kind::Unreachable,
        format!("vgpud cannot be reached at {}: {why}", path.display()),
    )
    .hint(hint)
}

fn refused(why: Refusal, message: String) -> Failure {
    let kind = match why {
        Refusal::NotFound | Refusal::NotMapped | Refusal::NoGpu => Kind::NotFound,
        Refusal::BadConfig | Refusal::Invalid => Kind::Usage,
        Refusal::Conflict => Kind::Conflict,
        Refusal::Failed | Refusal::NotAllowed | Refusal::Quarantined { .. } | Refusal::Duplicate => {
            Kind::Failed
        }
    };
    let failure = Failure::new(kind, message);
    match why {
        Refusal::BadConfig => {
            failure.hint("vgpud goes on with the map it has; correct the file, then `vgpu-admin reload`")
        }
        Refusal::NotAllowed => failure.hint("try sudo"),
        Refusal::Conflict => failure.hint("look at what it is now, then try again"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten numbers from 1 on, at most three a page.
    fn read(from: u64) -> Result<(Vec<u64>, u64), Failure> {
        let page: Vec<u64> = (from.max(1)..=10).take(3).collect();
        let next = page.last().map_or(from.max(1), |last| last + 1);
        Ok((page, next))
    }

    #[test]
    fn each_way_of_not_being_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let told = || {
            let failure = Client::connect(&path).err().unwrap();
            (failure.message, failure.hint.unwrap())
        };
        assert!(told().1.starts_with("is vgpud running?"));
        std::fs::write(&path, "").unwrap();
        let (message, hint) = told();
        assert!(
            message.ends_with("there is a file that is no socket"),
            "{message}"
        );
        assert!(hint.contains("--socket"), "{hint}");
        std::fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let stream = told();
        drop(std::fs::remove_file(&path));
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let listener = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(listener);
        for (_, hint) in [stream, told()] {
            assert!(hint.contains("left over"), "{hint}");
        }
    }

    /// One that hangs is given up on; what is to be done may take longer, which is said.
    #[test]
    fn one_that_does_not_answer_is_given_up_on() {
        static SAID: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (socket, other) = rustix::net::socketpair(kind.0, kind.1, kind.2, None).unwrap();
        let client = Client {
            socket,
            path: "/run/vgpud.sock".into(),
            limit: Duration::from_millis(10),
            order_limit: Duration::from_millis(2_020),
            waiting: |_| {},
        }
        .saying(|said| SAID.lock().unwrap().push(said.to_owned()));
        let failure = client.status().unwrap_err();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert_eq!(
            failure.message,
            "vgpud at /run/vgpud.sock did not answer within 0 s"
        );
        assert!(SAID.lock().unwrap().is_empty());
        let answers = std::thread::spawn(move || {
            for _ in 0..2 {
                packet::receive::<Request>(&other).unwrap();
            }
            // Once it is said that this takes long.
            while SAID.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            packet::send(&other, &Answer::Scanned(Scanned::default()), &[]).unwrap();
            packet::receive::<Request>(&other).unwrap();
            other
        });
        assert_eq!(client.scan(), Ok(Scanned::default()));
        let said = SAID.lock().unwrap().join("\n");
        assert_eq!(
            said,
            "vgpud at /run/vgpud.sock has not answered for 0 s; it is waited for up to 2 s"
        );
        let failure = client.scan().unwrap_err();
        assert_eq!(
            failure.message,
            "vgpud at /run/vgpud.sock did not answer within 2 s"
        );
        assert!(failure.hint.unwrap().contains("all the same"));
        drop(answers.join());
    }

    /// What is to be done is not what was said already.
    #[test]
    fn who_may_not_is_told_so_once() {
        let failure = refused(Refusal::NotAllowed, "only root may".to_owned());
        assert_eq!(
            (failure.message.as_str(), failure.hint.as_deref()),
            ("only root may", Some("try sudo"))
        );
    }

    #[test]
    fn pages_are_read_to_their_end() {
        let mut all = Vec::new();
        let next = pages(5, read, |page| {
            all.extend(page);
            Ok(())
        });
        assert_eq!((all, next), ((5..=10).collect(), Ok(11)));
        assert_eq!(last(4, read), Ok((vec![7, 8, 9, 10], 11)));
        assert_eq!(last(0, read), Ok((Vec::new(), 11)));
        assert_eq!(last(99, read).unwrap().0.len(), 10);
        // One that never gets on is not asked for ever.
        assert_eq!(last(4, |_| Ok((vec![1], 0))), Ok((Vec::new(), 0)));
    }
}
