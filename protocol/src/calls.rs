//! The calls, made from the one table (`table.rs`).
#[macro_use]
mod table;

use crate::limits::WORDS_MAX;
use crate::words::{Word, Words};

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It crosses the wire.
    Call,
    /// The guest's library alone.
    Local,
    /// Nobody: CUDA_ERROR_NOT_SUPPORTED.
    None,
}

/// An exported function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name in the library.
    pub name: &'static str,
    /// CUDA version that brought it.
    pub since: u32,
    /// Whether its null stream is the per-thread default stream.
    pub per_thread: bool,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Who answers it.
    pub mode: Mode,
    /// The operation, 0 if it does not cross the wire.
    pub op: u16,
    /// Name without a version.
    pub name: &'static str,
    /// Its exported functions.
    pub symbols: &'static [Symbol],
    /// Argument words.
    pub arguments: usize,
    /// Result words.
    pub results: usize,
    /// The guest waits for the answer.
    pub reply: bool,
    /// It needs the GPU's compute engine.
    pub turn: bool,
    /// It need not follow what other rings submitted.
    pub unordered: bool,
    /// It takes locks of the whole driver: a limit of its own rations it.
    pub driver: bool,
    /// libcuda refuses it beside a capture that it could disturb, and ends that.
    pub forbidden: bool,
    /// Its record carries a blob.
    pub blob_in: bool,
    /// Its reply carries a blob.
    pub blob_out: bool,
    /// Why it is not offered: one of [`REASONS`].
    pub reason: Option<&'static str>,
}

/// Why calls are not offered: the word in a `none` row's flags, and what it means to a program.
pub const REASONS: &[(&str, &str)] = &[
    (
        "obsolete",
        "NVIDIA has replaced it long ago and advises against it; a program that calls it is told so by the same error as on later drivers",
    ),
    (
        "graphics",
        "shares memory with OpenGL, Vulkan, EGL or VDPAU, or takes memory and semaphores of another driver: a guest has no other driver for the GPU",
    ),
    (
        "descriptor",
        "hands out a handle of the host's driver, which would reach beyond the VM; the device's attribute for it is 0, and programs take their other way",
    ),
    (
        "files",
        "writes files on the machine where the driver runs, which is not the guest",
    ),
    (
        "operator",
        "suspends and resumes processes: the host does that for its sessions by itself",
    ),
    (
        "hardware",
        "needs several GPUs that NVSwitch connects, or a driver's interface that is not reachable from here",
    ),
    (
        "host_code",
        "calls functions of the program from the GPU, or has the GPU read memory that is not registered",
    ),
    (
        "primary",
        "divides the GPU among parts of the primary context of the process that calls the driver. On the host that is the executor, and a guest's contexts, its primary ones too, are ordinary ones there",
    ),
    ("missing", "has not been written yet"),
    (
        "windows",
        "exists on Windows only; NVIDIA's library for Linux answers the same",
    ),
];

/// What one call puts into its record and its reply.
pub trait Wire {
    /// The operation in the record's header.
    const OP: u16;
    /// The row.
    const CALL: &'static Call;
    /// Argument words.
    type In: Words;
    /// Result words.
    type Out: Words;
}

const fn mode(name: &str) -> Mode {
    match name.as_bytes() {
        b"call" => Mode::Call,
        b"local" => Mode::Local,
        b"none" => Mode::None,
        _ => panic!("a row's mode is call, local or none"),
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn has(flags: &[&str], flag: &str) -> bool {
    let mut i = 0;
    let mut found = false;
    while i < flags.len() {
        assert!(
            same(flags[i], "reply")
                || same(flags[i], "turn")
                || same(flags[i], "unordered")
                || same(flags[i], "driver")
                || same(flags[i], "forbidden")
                || same(flags[i], "blob_in")
                || same(flags[i], "blob_out")
                || reason_of(&[flags[i]]).is_some(),
            "a row's flag is unknown"
        );
        found |= same(flags[i], flag);
        i += 1;
    }
    found
}

/// The reason among a row's flags.
const fn reason_of(flags: &[&str]) -> Option<&'static str> {
    let mut i = 0;
    while i < flags.len() {
        let mut j = 0;
        while j < REASONS.len() {
            if same(flags[i], REASONS[j].0) {
                return Some(REASONS[j].0);
            }
            j += 1;
        }
        i += 1;
    }
    None
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($field:ident : $type:ty),* }) => {
        $(#[$doc])*
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type),* }
        impl Words for $name {
            const LEN: usize = <[&str]>::len(&[$(stringify!($field)),*]);
            fn put(&self, to: &mut [u64; WORDS_MAX]) {
                let words: [u64; Self::LEN] = [$(self.$field.to_word()),*];
                to[..Self::LEN].copy_from_slice(&words);
            }
            fn take(words: &[u64]) -> Option<Self> {
                let [$($field),*] = words else { return None };
                Some(Self { $($field: Word::from_word(*$field)?),* })
            }
        }
    };
}

macro_rules! table {
    ($($mode:ident $op:literal $name:ident { $($symbol:ident : $since:literal),* } { $($pt:ident : $pts:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        /// Every row of the table.
        pub const CALLS: &[Call] = &[$(Call {
            mode: mode(stringify!($mode)),
            op: $op,
            name: stringify!($name),
            symbols: &[
                $(Symbol { name: stringify!($symbol), since: $since, per_thread: false },)*
                $(Symbol { name: stringify!($pt), since: $pts, per_thread: true },)*
            ],
            arguments: <[&str]>::len(&[$(stringify!($a)),*]),
            results: <[&str]>::len(&[$(stringify!($r)),*]),
            reply: has(&[$(stringify!($flag)),*], "reply"),
            turn: has(&[$(stringify!($flag)),*], "turn"),
            unordered: has(&[$(stringify!($flag)),*], "unordered"),
            driver: has(&[$(stringify!($flag)),*], "driver"),
            forbidden: has(&[$(stringify!($flag)),*], "forbidden"),
            blob_in: has(&[$(stringify!($flag)),*], "blob_in"),
            blob_out: has(&[$(stringify!($flag)),*], "blob_out"),
            reason: reason_of(&[$(stringify!($flag)),*]),
        }),*];
        $(row! { $mode $op $name ($($a : $at),*) ($($r : $rt),*) })*
    };
}

macro_rules! row {
    (call $op:literal $name:ident ($($a:ident : $at:ty),*) ($($r:ident : $rt:ty),*)) => {
        #[doc = concat!("What `", stringify!($name), "` puts on the wire.")]
        #[allow(non_snake_case)]
        pub mod $name {
            use super::*;
            words! { /// Its arguments.
                In { $($a : $at),* } }
            words! { /// Its results.
                Out { $($r : $rt),* } }
            /// Names the call where a type is wanted.
            #[derive(Clone, Copy, Debug)]
            pub struct Call;
            impl Wire for Call {
                const OP: u16 = $op;
                const CALL: &'static super::Call = by_op($op);
                type In = In;
                type Out = Out;
            }
            /// The operation in the record's header.
            pub const OP: u16 = $op;
        }
    };
    ($mode:ident $op:literal $name:ident () ()) => {
        const _: () = assert!($op == 0, "only a call has a number");
    };
}

for_each_call!(table);

const fn by_op(op: u16) -> &'static Call {
    let mut i = 0;
    while i < CALLS.len() {
        if CALLS[i].op == op {
            return &CALLS[i];
        }
        i += 1;
    }
    panic!("every number in the table has a row")
}

/// The row of the call with this operation.
pub fn find_op(op: u16) -> Option<&'static Call> {
    BY_OP.get(usize::from(op)).copied().flatten()
}

/// Above every call's number.
pub const OP_END: u16 = 0x400;

static BY_OP: [Option<&Call>; OP_END as usize] = {
    let mut by_op = [None; OP_END as usize];
    let mut i = 0;
    while i < CALLS.len() {
        let call = &CALLS[i];
        if matches!(call.mode, Mode::Call) {
            assert!(call.op >= OP_FIRST, "lower numbers are the rings' own operations");
            assert!(by_op[call.op as usize].is_none(), "two calls have one number");
            by_op[call.op as usize] = Some(call);
        }
        i += 1;
    }
    by_op
};

/// The row of the call with this unversioned name.
pub fn find_name(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}

/// No call has a lower number.
pub const OP_FIRST: u16 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_rise_and_names_are_unique() {
        let numbered: Vec<_> = CALLS.iter().filter(|c| c.mode == Mode::Call).collect();
        assert!(numbered.is_sorted_by(|a, b| a.op < b.op), "the table is in order");
        for call in numbered {
            assert_eq!(find_op(call.op).map(|c| c.name), Some(call.name));
        }
        assert!(find_op(OP_FIRST - 1).is_none());
        assert!(find_op(u16::MAX).is_none());
        let mut names = HashSet::new();
        assert!(CALLS.iter().all(|c| names.insert(c.name)));
        let mut symbols = HashSet::new();
        assert!(
            CALLS
                .iter()
                .flat_map(|c| c.symbols)
                .all(|s| symbols.insert(s.name))
        );
        assert!(CALLS.iter().all(|c| !c.symbols.is_empty()));
    }

    #[test]
    fn only_a_call_that_is_answered_has_results() {
        for call in CALLS {
            assert!(
                call.reply || (call.results == 0 && !call.blob_out),
                "{}",
                call.name
            );
            assert!(
                call.arguments <= WORDS_MAX && call.results <= WORDS_MAX,
                "{}",
                call.name
            );
        }
    }

    macro_rules! round_trips {
        ($($mode:ident $op:literal $name:ident { $($s:ident : $v:literal),* } { $($p:ident : $w:literal),* }
           ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
            $(round_trip! { $mode $name ($($a : $at),*) ($($r : $rt),*) })*
        };
    }
    macro_rules! round_trip {
        (call $name:ident ($($a:ident : $at:ty),*) ($($r:ident : $rt:ty),*)) => {
            #[allow(non_snake_case)]
            mod $name {
                use crate::calls::$name::{In, Out};
                use crate::words::Words;
                use proptest::prelude::*;
                proptest! {
                    #![proptest_config(ProptestConfig::with_cases(64))]
                    #[test]
                    fn round_trip($($a: $at,)* $($r: $rt,)* other in any::<[u64; crate::limits::WORDS_MAX]>()) {
                        let mut words = other;
                        let arguments = In { $($a),* };
                        arguments.put(&mut words);
                        prop_assert_eq!(In::take(&words[..In::LEN]), Some(arguments));
                        prop_assert_eq!(In::take(&words[..In::LEN + 1]), None);
                        if In::LEN > 0 {
                            prop_assert_eq!(In::take(&words[..In::LEN - 1]), None);
                        }
                        let results = Out { $($r),* };
                        results.put(&mut words);
                        prop_assert_eq!(Out::take(&words[..Out::LEN]), Some(results));
                        // Whatever the words are, decoding them again gives the same words or nothing.
                        if let Some(decoded) = In::take(&other[..In::LEN]) {
                            let mut again = other;
                            decoded.put(&mut again);
                            prop_assert_eq!(again, other);
                        }
                    }
                }
            }
        };
        ($mode:ident $name:ident () ()) => {};
    }
    mod generated {
        for_each_call!(round_trips);
    }
}
