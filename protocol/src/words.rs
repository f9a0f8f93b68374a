//! How arguments and results become 64-bit words.
//!
//! Every argument and every result of a call takes one word, in the order of its row in [`crate::calls`].
//! Unsigned numbers are zero-extended, signed ones sign-extended; a word out of its type's range is refused.
//! What is longer than a word (a name, packed kernel parameters, a parameter layout) is the record's or the
//! reply's one blob.

/// A type that fits one word.
pub trait Word: Copy {
    /// The word that stands for it.
    fn to_word(self) -> u64;
    /// The value, if the word is in range.
    fn from_word(word: u64) -> Option<Self>;
}

impl Word for u64 {
    fn to_word(self) -> u64 {
        self
    }
    fn from_word(word: u64) -> Option<Self> {
        Some(word)
    }
}
impl Word for u32 {
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    fn from_word(word: u64) -> Option<Self> {
        Self::try_from(word).ok()
    }
}
impl Word for i32 {
    fn to_word(self) -> u64 {
        i64::from(self) as u64
    }
    fn from_word(word: u64) -> Option<Self> {
        Self::try_from(word as i64).ok()
    }
}

/// The words of one side of a call: its arguments or its results.
pub trait Words: Copy + Sized {
    /// How many words.
    const LEN: usize;
    /// Writes the words into the first [`Self::LEN`] places of `to`.
    fn put(&self, to: &mut [u64; crate::limits::WORDS_MAX]);
    /// Reads them back; `None` if there are too few or too many, or one is out of range.
    fn take(words: &[u64]) -> Option<Self>;
}

/// Handles on the wire. All ids are chosen by the guest, unique within their kind while they live.
pub mod handle {
    /// A stream word below [`crate::limits::STREAMS_MAX`] is a stream that the guest created; these two name
    /// the default streams of the ring's current context.
    pub const STREAM_LEGACY: u64 = 1 << 32;
    /// The ring's own (per-thread) default stream.
    pub const STREAM_PER_THREAD: u64 = 2 << 32;
    /// A context word of 0 is no context; contexts are numbered from 1, below [`crate::limits::CONTEXTS_MAX`].
    pub const CONTEXT_NONE: u32 = 0;
}

/// One parameter of a kernel, as the blob of `cuModuleGetFunction`'s reply lists them.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct KernelParam {
    /// Bytes from the start of the packed parameters.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// One option of the compiler, as the blob of `cuModuleLoadDataEx` lists them: those whose value is a number that is read.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct JitOption {
    /// A CUjit_option.
    pub option: u32,
    /// Its value.
    pub value: u32,
}

impl JitOption {
    /// CU_JIT_THREADS_PER_BLOCK: a number that is read, and replaced by what was chosen.
    pub const THREADS_PER_BLOCK: i32 = 1;

    /// Whether that option's value is a number that is read, not an address or a place for a result.
    pub fn is_number(option: i32) -> bool {
        matches!(option, 0 | 1 | 7..=16 | 20..=24 | 29..=34)
    }
}

/// An attribute of a launch or of a stream (CUlaunchAttribute).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct LaunchAttribute {
    /// A CUlaunchAttributeID.
    pub id: u32,
    /// Nothing.
    pub reserved: u32,
    /// A CUlaunchAttributeValue.
    pub value: [u64; 8],
}

impl LaunchAttribute {
    /// CU_LAUNCH_ATTRIBUTE_COOPERATIVE.
    pub const COOPERATIVE: u32 = 2;
    /// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT: the value begins with an event.
    pub const PROGRAMMATIC_EVENT: u32 = 7;
    /// CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT: the value begins with an event.
    pub const LAUNCH_COMPLETION_EVENT: u32 = 12;
    /// CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE: the value names a node that kernels change by themselves.
    pub const DEVICE_UPDATABLE_NODE: u32 = 13;

    /// Whether it is one of those whose values are known to hold no address that the host's library follows: any other,
    /// which a later driver may bring, is refused.
    pub fn is_known(id: u32) -> bool {
        matches!(id, 0..=12 | 14 | 16)
    }

    /// Whether its value begins with an event.
    pub fn names_event(&self) -> bool {
        matches!(self.id, Self::PROGRAMMATIC_EVENT | Self::LAUNCH_COMPLETION_EVENT)
    }
}
