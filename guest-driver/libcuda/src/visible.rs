//! `CUDA_VISIBLE_DEVICES`: which GPUs a program wants to see, and in which order. It is looked at once, when the process
//! initialises CUDA, and becomes the list of GPUs that its session is opened with: nothing above the session knows of it.
//!
//! What it means is what NVIDIA's library makes of it: a list, parted by commas, of ordinals (as there are without the variable), or
//! of UUIDs or their beginnings: which of both, the first entry says. The list ends at the first entry that names no GPU, or is of
//! the other kind. A number is read as `strtol` does, after blanks, with a sign, and cut to 32 bits; whatever follows a number or a
//! UUID is ignored. A GPU must not be named twice.
use crate::session::OpenError;
use std::time::Duration;
use vgpu_protocol::gpus::{GpuName, text};
use vgpu_protocol::limits::GPUS_AGE_MS;
use vgpu_protocol::virtio::Status;
use vgpu_transport::{Transport, TransportError};

const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
/// How often the host is asked for the VM's GPUs if they change just then.
const ATTEMPTS: u32 = 3;

/// What the variable says, as far as it makes sense whatever GPUs there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    Ordinals(Vec<usize>),
    /// UUIDs, or how they begin.
    Uuids(Vec<String>),
}

/// A number as `strtol` reads it and an `int` keeps it; `None` for one below 0, or none at all.
fn ordinal(entry: &str) -> Option<usize> {
    // Those of `isspace`.
    let number = entry.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, negative) = (&digits[..end], number.starts_with('-'));
    if digits.is_empty() {
        return None;
    }
    let most = if negative { i64::MIN } else { i64::MAX };
    let number = digits
        .parse()
        .map_or(most, |number: i64| if negative { -number } else { number });
    usize::try_from(number as i32).ok()
}

/// A UUID as far as it is one, in small letters.
fn uuid(entry: &str) -> Option<String> {
    let digits = entry
        .strip_prefix("GPU-")
        .or_else(|| entry.strip_prefix("MIG-"))?;
    let end = digits
        .find(|c: char| !c.is_ascii_hexdigit() && c != '-')
        .unwrap_or(digits.len());
    (end > 0).then(|| entry[..end + 4].to_ascii_lowercase())
}

/// The one GPU whose UUID begins so.
fn with_uuid(uuid: &str, gpus: &[GpuName]) -> Option<GpuName> {
    let fits = |gpu: &&GpuName| text(*gpu).to_ascii_lowercase().starts_with(uuid);
    let mut meant = gpus.iter().filter(fits);
    meant.next().filter(|_| meant.next().is_none()).copied()
}

impl Visible {
    /// What the environment says; `None` if all GPUs are to be seen.
    pub fn from_environment() -> Option<Self> {
        let value = std::env::var_os(VARIABLE)?;
        Some(Self::parse(&value.to_string_lossy()))
    }

    fn parse(value: &str) -> Self {
        let entries = value.split(',');
        if value.starts_with("GPU-") || value.starts_with("MIG-") {
            Self::Uuids(entries.map_while(uuid).collect())
        } else {
            Self::Ordinals(entries.map_while(ordinal).collect())
        }
    }

    /// Whether no GPU is to be seen, whichever there are.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Ordinals(ordinals) => ordinals.is_empty(),
            Self::Uuids(uuids) => uuids.is_empty(),
        }
    }

    /// Those of the VM's GPUs that are to be seen.
    fn among(&self, gpus: &[GpuName]) -> Result<Vec<GpuName>, OpenError> {
        let named: Vec<GpuName> = match self {
            Self::Ordinals(ordinals) => ordinals.iter().map_while(|at| gpus.get(*at).copied()).collect(),
            Self::Uuids(uuids) => uuids.iter().map_while(|uuid| with_uuid(uuid, gpus)).collect(),
        };
        if named.is_empty() {
            return Err(OpenError::Hidden);
        }
        if (1..named.len()).any(|at| named[..at].contains(&named[at])) {
            return Err(OpenError::NamedTwice);
        }
        Ok(named)
    }

    /// Opens a session with the GPUs that are to be seen: its window.
    pub fn open(&self, transport: &dyn Transport, windows: &[u64]) -> Result<u64, OpenError> {
        let changed = TransportError::Refused(Status::NotFound);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                // What the host tells may be so old.
                std::thread::sleep(Duration::from_millis(GPUS_AGE_MS));
            }
            let told = transport.gpus();
            let gpus: Vec<GpuName> = match &told {
                Ok(told) => told.gpus.iter().map(|gpu| gpu.uuid).collect(),
                Err(_) => Vec::new(),
            };
            if gpus.is_empty() {
                // Why there are none is told to who opens a session. If one is opened all the same it is not the one that was
                // wished for, and ends with the transport.
                transport.open(windows, &[])?;
                return Err(told.err().unwrap_or(changed).into());
            }
            match transport.open(windows, &self.among(&gpus)?) {
                Err(TransportError::Refused(Status::NotFound)) => {}
                opened => return Ok(opened?),
            }
        }
        Err(changed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use vgpu_protocol::gpus::{Gpu, Gpus, Reply, padded};
    use zerocopy::FromZeros;

    const GPUS: [&str; 4] = ["GPU-aa-11", "GPU-ab-22", "GPU-cc-33", "MIG-aa-11"];

    fn names(gpus: &[&str]) -> Vec<GpuName> {
        gpus.iter().map(|gpu| padded(gpu)).collect()
    }

    /// The places of those that are seen; none where one is named twice.
    fn seen(value: &str) -> Vec<usize> {
        let gpus = names(&GPUS);
        let visible = Visible::parse(value).among(&gpus).unwrap_or_default();
        let place = |gpu| gpus.iter().position(|other| other == gpu).unwrap();
        visible.iter().map(place).collect()
    }

    #[test]
    fn ordinals_and_uuids_are_seen_in_their_order() {
        assert_eq!(seen("0"), [0]);
        assert_eq!(seen("2,0"), [2, 0]);
        assert_eq!(seen("3,2,1,0"), [3, 2, 1, 0]);
        assert_eq!(seen("GPU-aa-11"), [0]);
        assert_eq!(seen("GPU-c,GPU-ab"), [2, 1]);
        assert_eq!(seen("MIG-,GPU-aa"), [0; 0]);
        assert_eq!(seen("MIG-a,GPU-aa"), [3, 0]);
        assert_eq!(seen("GPU-AA-11,GPU-Ab"), [0, 1], "in any letters");
        assert_eq!(seen("GPU-aa-11x,GPU-ab "), [0, 1], "what follows is ignored");
    }

    #[test]
    fn the_list_ends_at_what_names_no_gpu() {
        assert_eq!(seen("0,4,1"), [0]);
        assert_eq!(seen("0,2,-1,1"), [0, 2]);
        assert_eq!(seen("1,,0"), [1]);
        assert_eq!(seen("1,one,0"), [1]);
        assert_eq!(seen("GPU-ab,GPU-d,GPU-aa"), [1]);
        assert_eq!(seen("GPU-cc,GPU-a,GPU-ab"), [2], "two GPUs begin so");
        assert_eq!(seen("GPU-cc,GPU-aa-112,GPU-ab"), [2], "longer than a UUID");
        assert_eq!(seen("0,99999999999999999999,1"), [0]);
        assert_eq!(seen("0,4,0"), [0], "what comes behind is not looked at");
        assert_eq!(seen("0,GPU-ab"), [0], "the first is an ordinal");
        assert_eq!(seen("GPU-ab,0"), [1], "the first is a UUID");
        assert_eq!(seen("GPU-ab, GPU-aa"), [1], "no UUID follows a blank");
    }

    #[test]
    fn nothing_is_seen_if_the_first_names_no_gpu() {
        for value in [
            "",
            " ",
            "-1",
            "-1,0",
            ",0",
            "none",
            "NoDevFiles",
            "- 1",
            "+",
            "GP",
            "gpu-aa-11",
            " GPU-aa-11",
            "GPU-",
            "GPU-x",
            "MIG-GPU-aa-11/1/0",
        ] {
            assert!(Visible::parse(value).is_nothing(), "{value:?}");
            assert_eq!(seen(value), [0; 0], "{value:?}");
        }
        for value in ["4", "GPU-d", "MIG-b"] {
            assert!(!Visible::parse(value).is_nothing(), "{value:?}");
            assert_eq!(seen(value), [0; 0], "{value:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_strtol_does() {
        assert_eq!(seen(" 1 ,\t2\n, +3, -0"), [1, 2, 3, 0]);
        assert_eq!(seen("1gpu2,2ampere"), [1, 2]);
        assert_eq!(seen("01, 0x3"), [1, 0]);
        assert_eq!(seen("1;2"), [1]);
        assert_eq!(seen("1-2"), [1]);
        assert_eq!(seen("4294967298,1"), [2, 1], "cut to 32 bits");
        assert_eq!(seen("1,2147483648"), [1]);
    }

    #[test]
    fn one_that_is_named_twice_is_an_error() {
        let gpus = names(&GPUS);
        for value in ["0,0", "0,1,0", "2,0,2,-1", "0,00", "GPU-aa,GPU-aa-1"] {
            let visible = Visible::parse(value).among(&gpus);
            assert!(matches!(visible, Err(OpenError::NamedTwice)), "{value:?}");
        }
    }

    /// A host that tells a list each time it is asked, and refuses GPUs that are not in the next one.
    struct Scripted {
        lists: Mutex<Vec<Result<Vec<GpuName>, Status>>>,
        /// What an opening without a wish is answered.
        whole: Result<u64, Status>,
        opened: Mutex<Vec<Vec<GpuName>>>,
    }

    impl Scripted {
        fn new(lists: &[Result<&[&str], Status>], whole: Result<u64, Status>) -> Self {
            let lists = lists.iter().rev().map(|list| list.map(names)).collect();
            Self {
                lists: Mutex::new(lists),
                whole,
                opened: Mutex::default(),
            }
        }

        fn open_with(&self, value: &str) -> Result<u64, OpenError> {
            Visible::parse(value).open(self, &[7])
        }
    }

    impl Transport for Scripted {
        fn gpus(&self) -> Result<Reply, TransportError> {
            let list = self.lists.lock().unwrap().pop().unwrap();
            let gpu = |uuid| Gpu {
                uuid,
                ..Gpu::new_zeroed()
            };
            let gpus: Vec<Gpu> = list
                .map_err(TransportError::Refused)?
                .into_iter()
                .map(gpu)
                .collect();
            Ok(Reply {
                head: Gpus::new_zeroed(),
                gpus,
                processes: Vec::new(),
            })
        }

        fn open(&self, windows: &[u64], gpus: &[GpuName]) -> Result<u64, TransportError> {
            self.opened.lock().unwrap().push(gpus.to_vec());
            if gpus.is_empty() {
                return self.whole.map_err(TransportError::Refused);
            }
            match self.lists.lock().unwrap().last() {
                Some(Ok(list)) if !gpus.iter().all(|gpu| list.contains(gpu)) => {
                    Err(TransportError::Refused(Status::NotFound))
                }
                Some(Err(status)) => Err(TransportError::Refused(*status)),
                _ => Ok(windows[0]),
            }
        }

        fn alloc(&self, _: u64, _: u64, _: bool) -> Result<(), TransportError> {
            unreachable!()
        }
        fn free(&self, _: u64, _: u64) -> Result<(), TransportError> {
            unreachable!()
        }
        fn pin(&self, _: u64, _: u64) -> Result<(), TransportError> {
            unreachable!()
        }
        fn unpin(&self, _: u64, _: u64) -> Result<(), TransportError> {
            unreachable!()
        }
        fn ring_create(&self, _: u32, _: u64) -> Result<(), TransportError> {
            unreachable!()
        }
        fn ring_destroy(&self, _: u32) -> Result<(), TransportError> {
            unreachable!()
        }
        fn doorbell(&self, _: u32) -> Result<(), TransportError> {
            unreachable!()
        }
        fn wait(&self, _: u64, _: u64) -> Result<u64, TransportError> {
            unreachable!()
        }
    }

    #[test]
    fn a_session_is_opened_with_what_is_seen_alone() {
        let host = Scripted::new(&[Ok(&GPUS)], Err(Status::HostError));
        assert_eq!(host.open_with("2,1").unwrap(), 7);
        assert_eq!(*host.opened.lock().unwrap(), [names(&["GPU-cc-33", "GPU-ab-22"])]);
        let host = Scripted::new(&[Ok(&GPUS)], Ok(7));
        assert!(matches!(host.open_with("9"), Err(OpenError::Hidden)));
        assert!(host.opened.lock().unwrap().is_empty());
    }

    #[test]
    fn a_list_that_changes_meanwhile_is_asked_for_again() {
        let host = Scripted::new(&[Ok(&["GPU-1", "GPU-2"]), Ok(&["GPU-2", "GPU-3"])], Ok(7));
        assert_eq!(host.open_with("0").unwrap(), 7);
        assert_eq!(
            *host.opened.lock().unwrap(),
            [names(&["GPU-1"]), names(&["GPU-2"])]
        );
        // One that is gone is none.
        let host = Scripted::new(&[Ok(&["GPU-1"]), Ok(&["GPU-2"])], Ok(7));
        assert!(matches!(host.open_with("GPU-1"), Err(OpenError::Hidden)));
        // Not for ever.
        let lists: [Result<&[&str], Status>; 4] = [Ok(&["a"]), Ok(&["b"]), Ok(&["c"]), Ok(&["d"])];
        let host = Scripted::new(&lists, Ok(7));
        let refused = host.open_with("0").unwrap_err();
        assert!(refused.to_string().contains("just changed"), "{refused}");
        assert_eq!(host.opened.lock().unwrap().len(), ATTEMPTS as usize);
    }

    #[test]
    fn why_a_vm_has_no_gpu_is_told_by_who_refuses_a_session() {
        for (told, whole, expected) in [
            (Ok(&[][..]), Err(Status::NoPool), Status::NoPool),
            (
                Err(Status::HostError),
                Err(Status::NoScheduler),
                Status::NoScheduler,
            ),
            // There is a session after all, of all GPUs: not what was wished for.
            (Ok(&[]), Ok(7), Status::NotFound),
            (Err(Status::Invalid), Ok(7), Status::Invalid),
        ] {
            let error = Scripted::new(&[told], whole).open_with("0").unwrap_err();
            assert!(
                matches!(error, OpenError::Transport(TransportError::Refused(status)) if status == expected),
                "{error:?}"
            );
        }
        // Any other refusal is what it is.
        let host = Scripted::new(&[Ok(&["a"]), Err(Status::Limit)], Ok(7));
        let error = host.open_with("0").unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Transport(TransportError::Refused(Status::Limit))
            ),
            "{error:?}"
        );
    }

    proptest! {
        #[test]
        fn any_value_shows_some_of_the_gpus_each_once(value: String, count in 0usize..5) {
            let gpus = names(&GPUS[..count.min(GPUS.len())]);
            let visible = Visible::parse(&value).among(&gpus).unwrap_or_default();
            prop_assert!(visible.iter().all(|gpu| gpus.contains(gpu)));
            prop_assert!((1..visible.len()).all(|n| !visible[..n].contains(&visible[n])));
        }

        #[test]
        fn ordinals_are_seen_up_to_the_first_that_is_none(ordinals in prop::collection::vec(-1i64..6, 0..6)) {
            let value = ordinals.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            let of = |ordinal: &i64| usize::try_from(*ordinal).ok().filter(|ordinal| *ordinal < GPUS.len());
            let mut expected: Vec<usize> = ordinals.iter().map_while(of).collect();
            if (1..expected.len()).any(|n| expected[..n].contains(&expected[n])) {
                expected.clear();
            }
            prop_assert_eq!(seen(&value), expected);
        }
    }
}
