//! A session's turn page, mapped from the memfd that its backend handed over.
use crate::watch::monotonic_us;
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use vgpu_sched_api::turn::{PAGE_LEN, Page, Recorded, State, Word};
use vgpu_sched_core::Found;

/// A mapped turn page.
#[derive(Debug)]
pub struct TurnPage {
    page: NonNull<Page>,
}

/// Why a descriptor is not a turn page.
#[derive(Debug)]
pub enum PageError {
    /// It is not a memfd, or cannot be mapped.
    NotMapped(rustix::io::Errno),
    /// It is not [`PAGE_LEN`] bytes long.
    Length(u64),
    /// It could be shrunk under our feet.
    NotSealed,
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotMapped(error) => write!(f, "the turn page is no memfd that can be mapped: {error}"),
            Self::Length(len) => write!(f, "the turn page has {len} bytes, expected {PAGE_LEN}"),
            Self::NotSealed => write!(f, "the turn page is not sealed against shrinking"),
        }
    }
}

/// What became of an attempt to take or ask for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was idle and has no turn any longer.
    Yes,
    /// It had no turn.
    HadNone,
    /// It works, and was asked to give back if that was to be done.
    No,
}

impl TurnPage {
    /// Maps a page.
    pub fn map(memfd: impl AsFd) -> Result<Self, PageError> {
        let seals = rustix::fs::fcntl_get_seals(&memfd).map_err(PageError::NotMapped)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(PageError::NotSealed);
        }
        let len = rustix::fs::fstat(&memfd).map_err(PageError::NotMapped)?.st_size;
        if len != PAGE_LEN as i64 {
            return Err(PageError::Length(len as u64));
        }
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memfd,
                0,
            )
        };
        let address = address.map_err(PageError::NotMapped)?;
        match NonNull::new(address.cast()) {
            Some(page) => Ok(Self { page }),
            None => Err(PageError::NotMapped(rustix::io::Errno::FAULT)),
        }
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped by `map` until drop, page-aligned, of a size that cannot shrink (sealed); a `Page` is
        // atomics and padding, for which every content is valid.
        unsafe { self.page.as_ref() }
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.page().word().state
    }

    /// Calls done and operations in flight, as the executor counts them.
    pub fn counts(&self) -> (u64, u64) {
        self.page().counts()
    }

    /// A number that grows when some of the session's work is done, as its executor says.
    pub fn progress(&self) -> u64 {
        self.page().progress()
    }

    /// For how long the session has been idle by its executor's word, if it is, in microseconds.
    pub fn idle_us(&self) -> u64 {
        match self.page().idle_since() {
            // It said so when this was not told yet.
            0 => 0,
            since_us => monotonic_us().saturating_sub(since_us),
        }
    }

    /// The session's last calls, as its executor noted them.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.page().recorded()
    }

    /// The turn that the page says the session has.
    pub fn found(&self) -> Found {
        match self.state() {
            State::None => Found::Nothing,
            State::Held => Found::Held,
            State::Idle => Found::Idle,
            State::Yield => Found::Asked,
        }
    }

    /// Gives the turn, with the next generation. Returns the state that was found: [`State::None`], or the
    /// executor has broken the rules.
    pub fn grant(&self) -> State {
        let found = self.update(|word| {
            Some(Word {
                generation: word.generation.wrapping_add(1),
                state: State::Held,
            })
        });
        self.page().ring_bell();
        found.state
    }

    /// Takes the turn if it is idle.
    pub fn take_if_idle(&self) -> Taken {
        self.take(|_| None)
    }

    /// Takes the turn if it is idle, else asks for it.
    pub fn ask_back(&self) -> Taken {
        self.take(|word| {
            Some(Word {
                state: State::Yield,
                ..word
            })
        })
    }

    /// Takes the turn, whatever the executor does.
    pub fn revoke(&self) {
        self.update(|word| {
            Some(Word {
                state: State::None,
                ..word
            })
        });
        self.page().ring_bell();
    }

    /// Says whether somebody cares if it is idle.
    pub fn set_contended(&self, contended: bool) {
        self.page().set_contended(contended);
        self.page().ring_bell();
    }

    fn take(&self, if_held: impl Fn(Word) -> Option<Word>) -> Taken {
        let found = self.update(|word| match word.state {
            State::None | State::Yield => None,
            State::Idle => Some(Word {
                state: State::None,
                ..word
            }),
            State::Held => if_held(word),
        });
        self.page().ring_bell();
        match found.state {
            State::None => Taken::HadNone,
            State::Idle => Taken::Yes,
            State::Held | State::Yield => Taken::No,
        }
    }

    /// Changes the word as `to` says, unless it says `None`. Returns the word that was found.
    ///
    /// A change that fails was overtaken by the executor, which changes the word at most a few times per grant;
    /// one that does nothing else would keep us here, so after many attempts its word is taken as it is.
    fn update(&self, to: impl Fn(Word) -> Option<Word>) -> Word {
        const ATTEMPTS: u32 = 1000;
        let mut found = self.page().word();
        for _ in 0..ATTEMPTS {
            let Some(new) = to(found) else { break };
            match self.page().change(found, new) {
                Ok(()) => break,
                Err(other) => found = other,
            }
        }
        found
    }
}

impl Drop for TurnPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; nothing borrowed from it outlives `self`.
        // Failure would only leave the page mapped.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), PAGE_LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;

    fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
        let memfd = memfd_create("turn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, len).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    #[test]
    fn what_is_no_sealed_page_is_refused() {
        let page = PAGE_LEN as u64;
        assert!(TurnPage::map(memfd(page, SealFlags::SHRINK)).is_ok());
        assert!(matches!(
            TurnPage::map(memfd(page, SealFlags::GROW)),
            Err(PageError::NotSealed)
        ));
        assert!(matches!(
            TurnPage::map(memfd(page + 1, SealFlags::SHRINK)),
            Err(PageError::Length(4097))
        ));
        assert!(matches!(
            TurnPage::map(memfd(0, SealFlags::SHRINK)),
            Err(PageError::Length(0))
        ));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(TurnPage::map(null), Err(PageError::NotMapped(_))));
    }

    #[test]
    fn a_turn_is_given_asked_for_and_taken() {
        let memfd = memfd(PAGE_LEN as u64, SealFlags::SHRINK);
        let (ours, theirs) = (TurnPage::map(&memfd).unwrap(), TurnPage::map(&memfd).unwrap());
        let exec = theirs.page();
        assert_eq!(ours.take_if_idle(), Taken::HadNone);
        assert_eq!(ours.grant(), State::None);
        assert_eq!(
            exec.word(),
            Word {
                generation: 1,
                state: State::Held
            }
        );
        assert_eq!(exec.bell().load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(ours.take_if_idle(), Taken::No);
        assert_eq!(ours.state(), State::Held);
        exec.change(
            exec.word(),
            Word {
                generation: 1,
                state: State::Idle,
            },
        )
        .unwrap();
        assert_eq!(ours.idle_us(), 0);
        exec.set_idle_since(monotonic_us() - 1_000_000);
        assert!(ours.idle_us() >= 1_000_000);
        assert_eq!(ours.take_if_idle(), Taken::Yes);
        assert_eq!(ours.grant(), State::None);
        assert_eq!(ours.ask_back(), Taken::No);
        assert_eq!(
            exec.word(),
            Word {
                generation: 2,
                state: State::Yield
            }
        );
        assert_eq!(ours.found(), Found::Asked);
        ours.revoke();
        assert_eq!(
            exec.word(),
            Word {
                generation: 2,
                state: State::None
            }
        );
    }
}
