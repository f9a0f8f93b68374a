//! What libcuda writes to this process' standard output and standard error: the `printf` of kernels, and what it says of an
//! assertion that failed. Both are pipes, read here, and what comes through them is the guest's to print.
//!
//! libcuda writes when this process waits for a stream or a context itself, and not when the GPU writes a fence. So the guest asks
//! for the text behind its own waiting ([`vgpu_protocol::ring::op::TEXT`]), but only in a session whose modules print.
use crate::image::Image;
use crate::session::Session;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vgpu_protocol::area;
use vgpu_protocol::limits::TEXT_LEN_MAX;

/// What a module that prints names, in PTX and in machine code alike.
const PRINTS: &[u8] = b"vprintf";
/// Bytes of an image that are unpacked at once to look for that.
const UNPACKED_MAX: usize = 256 << 20;
/// Images up to this length are looked at before they are loaded; longer ones beside.
const SHORT: usize = 1 << 20;
/// Images that are looked at beside at a time: each takes a thread and memory.
const LOOKING_MAX: u32 = 4;

/// The pipes' ends that are read.
static PIPES: OnceLock<[OwnedFd; 2]> = OnceLock::new();

/// Puts pipes in the place of standard output and standard error, and gives back what standard error was. Before there is
/// any other thread.
pub fn capture() -> rustix::io::Result<OwnedFd> {
    let before = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)?;
    let (out, out_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, error_end) = pipe_with(PipeFlags::CLOEXEC)?;
    for read in [&out, &error] {
        // Only the ends that are read: a library's writer waits for the reader, which always comes.
        rustix::io::ioctl_fionbio(read, true)?;
    }
    for (end, number) in [(&out_end, libc::STDOUT_FILENO), (&error_end, libc::STDERR_FILENO)] {
        // SAFETY: numbers that nobody owns: the standard streams are used by number alone.
        if unsafe { libc::dup2(end.as_raw_fd(), number) } < 0 {
            return Err(Errno::BADF);
        }
    }
    // Called once.
    let _ = PIPES.set([out, error]);
    Ok(before)
}

/// One stream's text that the guest has not got.
#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    /// Bytes that there was no room for.
    lost: u64,
}

impl Text {
    fn add(&mut self, more: &[u8]) {
        let room = TEXT_LEN_MAX - self.bytes.len();
        let (kept, lost) = more.split_at(more.len().min(room));
        self.bytes.extend_from_slice(kept);
        self.lost += lost.len() as u64;
    }

    /// The first `most` bytes, and behind the last of them what was left out.
    fn take(&mut self, most: usize) -> Vec<u8> {
        let len = self.bytes.len().min(most);
        let mut taken: Vec<u8> = self.bytes.drain(..len).collect();
        if self.bytes.is_empty() && self.lost > 0 {
            let note = format!("\n[vgpu: {} bytes were left out]\n", self.lost);
            if taken.len() + note.len() <= most {
                taken.extend_from_slice(note.as_bytes());
                self.lost = 0;
            }
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost == 0
    }
}

/// See the module.
#[derive(Default)]
pub struct Output {
    texts: Mutex<[Text; 2]>,
    /// What the area's word says ([`area::TEXT`]).
    word: AtomicU32,
    /// Images that are being looked at.
    looking: AtomicU32,
}

impl Output {
    fn texts(&self) -> MutexGuard<'_, [Text; 2]> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes bits of the area's word.
    fn say(&self, session: &Session, set: u32, clear: u32) {
        let change = |word: u32| Some((word & !clear) | set);
        let _ = self.word.fetch_update(SeqCst, SeqCst, change);
        if let Some(words) = session.area.words() {
            words.u32(area::TEXT).store(self.word.load(SeqCst), SeqCst);
        }
    }

    /// Reads what is in the pipes now.
    fn collect(&self, session: &Session) {
        let Some(pipes) = PIPES.get() else { return };
        let mut buffer = [0; 16 << 10];
        let mut texts = self.texts();
        for (pipe, text) in pipes.iter().zip(texts.iter_mut()) {
            loop {
                match rustix::io::read(pipe, &mut buffer) {
                    Ok(n @ 1..) => text.add(&buffer[..n]),
                    Err(Errno::INTR) => {}
                    _ => break,
                }
            }
        }
        let any = texts.iter().any(|text| !text.is_empty());
        drop(texts);
        let (set, clear) = if any {
            (area::TEXT_IS_THERE, 0)
        } else {
            (0, area::TEXT_IS_THERE)
        };
        self.say(session, set, clear);
    }

    /// The thread's work: empties the pipes, so that nobody who writes waits. Never returns.
    pub fn run(&self, session: &Session) -> ! {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let Some(pipes) = PIPES.get() else {
                std::thread::park();
                continue;
            };
            // Interrupted or not: what is there is read.
            let _ = poll(
                &mut [
                    PollFd::new(&pipes[0], PollFlags::IN),
                    PollFd::new(&pipes[1], PollFlags::IN),
                ],
                None,
            );
            self.collect(session);
        }
    }

    /// What was written, as much as fits into `most` bytes: of standard output, then of standard error; and whether there is more.
    pub fn take(&self, session: &Session, most: usize) -> ([Vec<u8>; 2], bool) {
        // The C library may have kept some.
        // SAFETY: flushes all streams of the C library.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        self.collect(session);
        let mut texts = self.texts();
        let out = texts[0].take(most);
        let error = texts[1].take(most - out.len());
        let more = texts.iter().any(|text| !text.is_empty());
        drop(texts);
        if !more {
            self.say(session, 0, area::TEXT_IS_THERE);
        }
        ([out, error], more)
    }

    /// The session ends: leaves the last of the text where the guest finds it.
    pub fn leave(&self, session: &Session) {
        let ([out, error], _) = self.take(session, area::LAST_TEXT_LEN);
        let Some(words) = session.area.words() else { return };
        words.copy_bytes_in(area::LAST_TEXT + 8, &[out.as_slice(), &error].concat());
        words.u32(area::LAST_TEXT).store(out.len() as u32, SeqCst);
        words.u32(area::LAST_TEXT + 4).store(error.len() as u32, SeqCst);
    }

    /// A module is to be loaded: looks whether it prints.
    pub fn look_at(&self, session: &'static Session, image: &Arc<Image>) {
        if self.word.load(SeqCst) & area::TEXT_PRINTS != 0 {
            return;
        }
        let devices = session
            .cuda
            .gpus()
            .map(|gpu| (gpu.attributes[75] * 10 + gpu.attributes[76]) as u32);
        let devices: Vec<_> = devices.collect();
        if image.bytes().len() <= SHORT || self.looking.load(SeqCst) >= LOOKING_MAX {
            if prints(image.bytes(), &devices) {
                self.say(session, area::TEXT_PRINTS, 0);
            }
            return;
        }
        // While it is not known, it may.
        self.looking.fetch_add(1, SeqCst);
        self.say(session, area::TEXT_MAY_PRINT, 0);
        let image = image.clone();
        crate::session::spawn("image", move || {
            let output = &session.output;
            if prints(image.bytes(), &devices) {
                output.say(session, area::TEXT_PRINTS, 0);
            }
            if output.looking.fetch_sub(1, SeqCst) == 1 {
                output.say(session, 0, area::TEXT_MAY_PRINT);
            }
        });
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    // Its first byte is looked for first: that is what the C library does fast.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == wanted[0]) {
        rest = &rest[at..];
        if rest.starts_with(wanted) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Whether kernels in an image for such devices print. What cannot be unpacked may.
fn prints(image: &[u8], devices: &[u32]) -> bool {
    if contains(image, PRINTS) {
        return true;
    }
    let entries = vgpu_fatbin::entries(image).unwrap_or_default();
    // Machine code for another device is never loaded; PTX may be.
    let loaded = |entry: &&vgpu_fatbin::Entry<'_>| {
        entry.is_ptx || devices.iter().any(|device| device / 10 == entry.device / 10)
    };
    entries.iter().filter(loaded).any(|entry| {
        entry
            .payload(UNPACKED_MAX)
            .is_none_or(|code| contains(&code, PRINTS))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_and_what_is_left_out_is_said() {
        let mut text = Text::default();
        text.add(&vec![b'x'; TEXT_LEN_MAX + 5]);
        assert_eq!(text.take(10), b"xxxxxxxxxx");
        let rest = text.take(2 * TEXT_LEN_MAX);
        assert!(rest.starts_with(b"xx") && rest.ends_with(b"\n[vgpu: 5 bytes were left out]\n"));
        assert!(text.is_empty());
    }

    #[test]
    fn who_prints_is_found() {
        assert!(prints(b".extern .func vprintf", &[90]));
        assert!(!prints(b".extern .func vvprint", &[90]));
        let zstd = include_bytes!("../../tests/kernels/fatbin/add-one-zstd.fatbin");
        assert!(!prints(zstd, &[90]));
        assert!(contains(b"vvprintf", PRINTS) && !contains(b"", PRINTS));
    }
}
