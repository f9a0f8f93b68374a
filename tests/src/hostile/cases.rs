//! What a hostile guest tries, made from the table of calls: for every call, records that do not fit its row, and
//! records that do and whose arguments name what is not the guest's.
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use vgpu_protocol::calls::{self, Call};
use vgpu_protocol::limits::{ARENA_LEN, RING_DATA_LEN, STREAMS_MAX};
use vgpu_protocol::result;
use vgpu_protocol::ring::{self, RecordHeader, op};
use vgpu_protocol::structs::{
    Access, Array3DDescriptor, Copy3D, CopySide, HANDLE_TYPE_FILE, Location, ResourceDesc, TensorShape,
    TextureDesc,
};
use vgpu_protocol::words::handle::STREAM_LEGACY;
use zerocopy::IntoBytes;

use super::{
    Outcome, PINNED_AT, PLAIN_AT, PLAIN_LEN, PROGRAM_AT, PROGRAM_LEN, Random, Session, Vm, WINDOW, graphs,
    row,
};

/// A call of the table, with its arguments' names and types.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The row.
    pub call: &'static Call,
    /// Name and type of each argument.
    pub arguments: &'static [(&'static str, &'static str)],
    /// Name of each result.
    pub results: &'static [&'static str],
}

macro_rules! rows {
    ($($mode:ident $op:literal $name:ident { $($s:ident : $v:literal),* } { $($p:ident : $w:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        /// Every call that crosses the wire.
        pub fn rows() -> Vec<Row> {
            [$(one! { $mode $op ($($a : $at),*) ($($r),*) }),*].into_iter().flatten().collect()
        }
    };
}
macro_rules! one {
    (call $op:literal ($($a:ident : $at:ty),*) ($($r:ident),*)) => {
        Some(Row {
            call: calls::find_op($op).expect("the row's own number"),
            arguments: &[$((stringify!($a), stringify!($at))),*],
            results: &[$(stringify!($r)),*],
        })
    };
    ($mode:ident $op:literal ($($a:ident : $at:ty),*) ($($r:ident),*)) => {
        None
    };
}
vgpu_protocol::for_each_call!(rows);

/// What an argument is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names an object that exists.
    Handle,
    /// The number that a new object gets.
    New,
    /// A stream, or one of the default streams.
    Stream,
    /// An address.
    Pointer,
    /// The address of a word of up to 8 bytes.
    Word,
    /// Bytes or elements at an address.
    Length,
    /// Anything else.
    Number,
}

/// Calls whose last argument of that name is a new object's number.
const MAKERS: &[(&str, &str)] = &[
    ("cuCtxCreate", "context"),
    ("cuEventCreate", "event"),
    ("cuStreamCreate", "stream"),
    ("cuModuleLoadData", "module"),
    ("cuModuleLoadDataEx", "module"),
    ("cuModuleGetFunction", "function"),
    ("cuGraphInstantiateWithParams", "exec"),
    ("cuStreamEndCapture", "graph"),
    ("cuLinkCreate", "link"),
    ("cuDeviceGetDefaultMemPool", "pool"),
    ("cuMemPoolCreate", "pool"),
    ("cuMemPoolImportFromShareableHandle", "pool"),
    ("cuMemCreate", "allocation"),
    ("cuMemImportFromShareableHandle", "allocation"),
    ("cuGraphCreate", "graph"),
    ("cuGraphClone", "clone"),
    ("cuGraphChildGraphNodeGetGraph", "graph"),
    ("cuArray3DCreate", "array"),
    ("cuArrayGetPlane", "plane"),
    ("cuMipmappedArrayCreate", "mipmapped"),
    ("cuMipmappedArrayGetLevel", "array"),
    ("cuIpcOpenEventHandle", "event"),
];

impl Row {
    /// What an argument is.
    pub fn kind(&self, argument: usize) -> Kind {
        let (name, kind) = self.arguments[argument];
        if MAKERS.contains(&(self.call.name, name)) {
            return Kind::New;
        }
        match (name, kind) {
            // None is wanted yet.
            ("to" | "bytes", _) if self.call.name == "cuLinkComplete" => Kind::Number,
            ("stream", "u64") => Kind::Stream,
            ("to" | "from", _) if self.call.name == "cuStreamCopyAttributes" => Kind::Stream,
            (
                "context" | "event" | "start" | "end" | "function" | "graph" | "exec" | "module" | "stream"
                | "link" | "pool" | "allocation" | "node" | "source" | "array" | "mipmapped" | "texture"
                | "surface",
                _,
            ) => Kind::Handle,
            ("to" | "from" | "pointer" | "image", "u64") => Kind::Pointer,
            ("word", "u64") => Kind::Word,
            ("bytes" | "count", "u64") => Kind::Length,
            _ => Kind::Number,
        }
    }
}

/// Calls that the software GPU does not offer.
const NOT_OFFERED: &[&str] = &[
    "cuGraphConditionalHandleCreate",
    "cuOccupancyMaxActiveClusters",
    "cuOccupancyMaxPotentialClusterSize",
];
/// Calls that cannot succeed here: only special objects take them, or they want a second GPU or process.
const NEVER_DONE: &[&str] = &[
    "cuCtxEnablePeerAccess",
    "cuCtxDisablePeerAccess",
    "cuDeviceGetP2PAtomicCapabilities",
    "cuDeviceGetP2PAttribute",
    "cuIpcCloseMemHandle",
    "cuIpcGetEventHandle",
    "cuIpcGetMemHandle",
    "cuIpcOpenEventHandle",
    "cuIpcOpenMemHandle",
    "cuArrayGetMemoryRequirements",
    "cuArrayGetPlane",
    "cuArrayGetSparseProperties",
    "cuMipmappedArrayGetMemoryRequirements",
    "cuMipmappedArrayGetSparseProperties",
];

/// The stream that fixtures have.
pub const STREAM: u64 = OLD;
/// A registered range of a program's own memory.
const REGISTERED: u64 = WINDOW + PROGRAM_AT + PROGRAM_LEN / 2 + 100;
/// Bytes of which virtual memory is a multiple.
const GRANULE: u64 = 2 << 20;
/// Bytes of a fixture's device memory.
pub const DEVICE_LEN: u64 = 4096;
/// The number of each of a fixture's objects, of the pool that it has imported, and one that nothing has.
const OLD: u64 = 1;
const IMPORTED: u64 = 27;
const FREE: u64 = 29;
const PTX: &str = include_str!("../../../cuda-exec/tests/kernels.ptx");

/// One object of each kind in a session, and device memory.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The device memory's address.
    pub device: u64,
    /// A tensor map.
    map: Vec<u8>,
    /// A reserved range in which nothing is mapped, and one in which memory is; [`GRANULE`] bytes each.
    reserved: u64,
    mapped: u64,
    /// A texture and a surface.
    texture: u64,
    surface: u64,
    /// An allocation of the pool.
    pooled: u64,
    /// What each call that imports takes: the call and the token.
    tokens: Vec<(&'static str, Vec<u8>)>,
}

impl Fixture {
    /// Makes them.
    pub fn make(session: &mut Session<'_>) -> Result<Self> {
        let mut fixture = Self {
            device: 0,
            map: Vec::new(),
            reserved: 0,
            mapped: 0,
            texture: 0,
            surface: 0,
            pooled: 0,
            tokens: Vec::new(),
        };
        fixture.must(session, "cuCtxCreate", &[("context", OLD)], &[])?;
        session.put(0, op::SET_CONTEXT, false, &[OLD], &[])?;
        fixture.must(session, "cuMemAlloc", &[("bytes", DEVICE_LEN)], &[])?;
        fixture.device = session.results(0)[0];
        session.write(PLAIN_AT, PTX.as_bytes());
        session.write(PLAIN_AT + PTX.len() as u64, &[0]);
        let image = [
            ("image", WINDOW + PLAIN_AT),
            ("bytes", PTX.len() as u64 + 1),
            ("module", OLD),
        ];
        fixture.must(session, "cuModuleLoadData", &image, &[])?;
        fixture.function(session, OLD, "nothing")?;
        fixture.must(session, "cuStreamCreate", &[("stream", OLD)], &[])?;
        fixture.must(session, "cuEventCreate", &[("event", OLD)], &[])?;
        fixture.must(session, "cuEventRecord", &[("sequence", 0)], &[])?;
        fixture.must(session, "cuStreamBeginCapture", &[], &[])?;
        fixture.must(session, "cuMemsetD32Async", &[], &[])?;
        fixture.must(session, "cuStreamEndCapture", &[("graph", OLD)], &[])?;
        graphs::make(&fixture, session)?;
        fixture.must(session, "cuGraphInstantiateWithParams", &[("exec", OLD)], &[])?;
        fixture.must(session, "cuLinkCreate", &[("link", OLD)], &[])?;
        fixture.must(session, "cuLinkAddData", &[], &[])?;
        fixture.must(session, "cuTensorMapEncodeTiled", &[], tensor_shape().as_bytes())?;
        fixture.map = session.blob(0);
        let shareable = ("handle_types", u64::from(HANDLE_TYPE_FILE));
        fixture.must(session, "cuMemPoolCreate", &[("pool", OLD), shareable], &[])?;
        fixture.must(session, "cuMemAllocFromPoolAsync", &[], &[])?;
        fixture.pooled = session.results(0)[0];
        fixture.must(session, "cuMemAddressReserve", &[], &[])?;
        fixture.reserved = session.results(0)[0];
        fixture.must(session, "cuMemAddressReserve", &[], &[])?;
        fixture.mapped = session.results(0)[0];
        fixture.must(session, "cuMemCreate", &[("allocation", OLD), shareable], &[])?;
        for (export, import) in [
            ("cuMemExportToShareableHandle", "cuMemImportFromShareableHandle"),
            (
                "cuMemPoolExportToShareableHandle",
                "cuMemPoolImportFromShareableHandle",
            ),
            ("cuMemPoolExportPointer", "cuMemPoolImportPointer"),
        ] {
            fixture.must(session, export, &[], &[])?;
            fixture.tokens.push((import, session.blob(0)));
        }
        let token = fixture.token("cuMemPoolImportFromShareableHandle").to_vec();
        fixture.must(
            session,
            "cuMemPoolImportFromShareableHandle",
            &[("pool", IMPORTED)],
            &token,
        )?;
        fixture.must(session, "cuMemMap", &[("pointer", fixture.mapped)], &[])?;
        fixture.must(session, "cuMemSetAccess", &[], ACCESS.as_bytes())?;
        fixture.must(
            session,
            "cuArray3DCreate",
            &[("array", OLD)],
            array_descriptor().as_bytes(),
        )?;
        let mipmapped = [("levels", 2), ("mipmapped", OLD)];
        fixture.must(
            session,
            "cuMipmappedArrayCreate",
            &mipmapped,
            array_descriptor().as_bytes(),
        )?;
        fixture.must(session, "cuTexObjectCreate", &[], &texture_of(OLD))?;
        fixture.texture = session.results(0)[0];
        fixture.must(session, "cuSurfObjectCreate", &[], surface_of(OLD).as_bytes())?;
        fixture.surface = session.results(0)[0];
        fixture.must(session, "cuMemHostRegister", &[("pointer", REGISTERED)], &[])?;
        Ok(fixture)
    }

    /// Names a kernel of the module.
    pub fn function(&self, session: &mut Session<'_>, id: u64, name: &str) -> Result<u64> {
        self.must(
            session,
            "cuModuleGetFunction",
            &[("function", id)],
            name.as_bytes(),
        )?;
        Ok(id)
    }

    /// Makes a call that must succeed.
    pub fn must(
        &self,
        session: &mut Session<'_>,
        name: &str,
        values: &[(&str, u64)],
        blob: &[u8],
    ) -> Result<()> {
        let row = rows()
            .into_iter()
            .find(|row| row.call.name == name)
            .with_context(|| format!("{name} is no call"))?;
        let mut words = self.words(&row);
        for &(name, value) in values {
            let at = row.arguments.iter().position(|argument| argument.0 == name);
            words[at.with_context(|| format!("no argument {name}"))?] = value;
        }
        let outcome = session.call(row.call, &words, blob)?;
        ensure!(outcome == Outcome::Done, "{name} of a fixture: {outcome:?}");
        Ok(())
    }

    /// What a call that imports takes; nothing for any other one.
    fn token(&self, call: &str) -> &[u8] {
        let found = self.tokens.iter().find(|(import, _)| *import == call);
        found.map_or(&[], |(_, token)| token)
    }

    /// Arguments that do no harm.
    pub fn words(&self, row: &Row) -> Vec<u64> {
        let arguments = 0..row.arguments.len();
        arguments.map(|argument| self.word(row, argument)).collect()
    }

    fn word(&self, row: &Row, argument: usize) -> u64 {
        let name = row.arguments[argument].0;
        match row.kind(argument) {
            Kind::Handle if matches!(name, "node" | "source") => graphs::node(row.call.name),
            Kind::Handle if row.call.name == "cuGraphNodeFindInClone" => graphs::CLONE,
            Kind::Handle if row.call.name == "cuMemPoolImportPointer" => IMPORTED,
            Kind::Handle if name == "texture" => self.texture,
            Kind::Handle if name == "surface" => self.surface,
            Kind::Handle | Kind::Stream => OLD,
            Kind::New => FREE,
            Kind::Length
                if row.call.name.starts_with("cuModuleLoadData") || row.call.name == "cuLinkAddData" =>
            {
                PTX.len() as u64 + 1
            }
            Kind::Length if is_virtual(row.call.name) => GRANULE,
            Kind::Length => 64,
            Kind::Pointer => match (row.call.name, name) {
                (_, "image") => WINDOW + PLAIN_AT,
                ("cuMemPoolExportPointer", _) => self.pooled,
                ("cuMemHostRegister", _) => WINDOW + PROGRAM_AT + 10,
                ("cuMemHostUnregister", _) => REGISTERED,
                ("cuMemcpyDtoHAsync", "to") | ("cuMemcpyHtoDAsync", "from") => WINDOW + PINNED_AT,
                ("cuMemAddressFree" | "cuMemMap", _) => self.reserved,
                (call, _) if is_virtual(call) => self.mapped,
                _ => self.device,
            },
            Kind::Word => self.device,
            Kind::Number if row.call.name.starts_with("cuMemsetD2D") => match name {
                "pitch" => 64,
                _ => 16,
            },
            Kind::Number => match name {
                // CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
                "attribute" if row.call.name.starts_with("cuMemPool") => 4,
                // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                "attribute" if row.call.name == "cuFuncSetAttribute" => 8,
                // CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY
                "attribute" if row.call.name.starts_with("cuStream") => 3,
                // A wait for it is over at once.
                "value" if row.call.name.starts_with("cuStreamWait") => 0,
                "grid_x" | "grid_y" | "grid_z" | "block_x" | "block_y" | "block_z" => 1,
                "kind" if row.call.name.starts_with("cuGraph") => graphs::kind_of(row.call.name),
                "levels" => 2,
                // PTX.
                "kind" => 1,
                "slot" => 5,
                "rank" => 3,
                "address" => self.device,
                // CU_AD_FORMAT_FLOAT
                "format" => 0x20,
                "channels" if row.call.name.starts_with("cuDevice") => 1,
                "channels" | "pixels" => 16,
                "blocks" | "block" => 1,
                "width" | "height" | "element" => 16,
                "mode" if row.call.name.starts_with("cuTensorMap") => 0,
                "sequence" | "cookie" | "value" => 1,
                "mode" => 2,
                // The highest number so far can be set to 0.
                "attribute" if row.call.name == "cuDeviceSetGraphMemAttribute" => 1,
                _ => 0,
            },
        }
    }

    /// A blob that does no harm.
    fn blob(&self, row: &Row) -> Vec<u8> {
        match row.call.name {
            "cuModuleGetFunction" => b"nothing".to_vec(),
            "cuModuleGetGlobal" => b"answer".to_vec(),
            // CU_SYNC_POLICY_AUTO
            "cuStreamSetAttribute" => [1u64, 0, 0, 0, 0, 0, 0, 0].as_bytes().to_vec(),
            "cuTensorMapReplaceAddress" => self.map.clone(),
            "cuArray3DCreate" | "cuMipmappedArrayCreate" => array_descriptor().as_bytes().to_vec(),
            "cuTexObjectCreate" => texture_of(OLD),
            "cuSurfObjectCreate" => surface_of(OLD).as_bytes().to_vec(),
            name if name.starts_with("cuTensorMapEncode") => tensor_shape().as_bytes().to_vec(),
            // Additions.
            "cuDeviceGetHostAtomicCapabilities" => 0u32.as_bytes().to_vec(),
            "cuMemPoolSetAccess" | "cuMemSetAccess" => ACCESS.as_bytes().to_vec(),
            call if !self.token(call).is_empty() => self.token(call).to_vec(),
            "cuMemcpy3DAsync" => self.copy(self.device, WINDOW + PINNED_AT).as_bytes().to_vec(),
            call => graphs::blob(call).to_vec(),
        }
    }

    /// A copy of four rows from device memory to pinned memory.
    fn copy(&self, from: u64, to: u64) -> Copy3D {
        let side = |memory, address| CopySide {
            memory,
            address,
            pitch: 16,
            ..CopySide::default()
        };
        Copy3D {
            from: side(CopySide::DEVICE, from),
            to: side(CopySide::HOST, to),
            width: 16,
            height: 4,
            depth: 1,
        }
    }

    /// Copies of rows that reach where they must not.
    fn bad_copies(&self, foreign: &[u64]) -> Vec<Copy3D> {
        let good = self.copy(self.device, WINDOW + PINNED_AT);
        let mut bad = Vec::new();
        for &address in foreign {
            bad.push(self.copy(address, WINDOW + PINNED_AT));
            bad.push(self.copy(self.device, address));
            bad.push(self.copy(address, address));
        }
        for much in [u64::MAX, u64::MAX / 16, 1 << 60, 1 << 48, 257] {
            bad.push(Copy3D { height: much, ..good });
            bad.push(Copy3D { depth: much, ..good });
            bad.push(Copy3D {
                width: much.saturating_mul(16),
                ..good
            });
            for slices in [1, 4, u64::MAX] {
                let (mut from, mut to) = (good.from, good.to);
                let pitch = much.max(2048);
                (from.pitch, from.rows, to.pitch, to.rows) = (pitch, slices, pitch, slices);
                bad.push(Copy3D {
                    from,
                    depth: slices.min(4),
                    height: 4,
                    ..good
                });
                bad.push(Copy3D {
                    to,
                    depth: 2,
                    height: 2 + slices.min(1),
                    ..good
                });
            }
        }
        for memory in [0, 3, 4, u32::MAX] {
            bad.push(Copy3D {
                from: CopySide { memory, ..good.from },
                ..good
            });
            bad.push(Copy3D {
                to: CopySide {
                    memory,
                    array: 1,
                    ..good.to
                },
                ..good
            });
        }
        bad.push(Copy3D {
            from: CopySide { x: 1, ..good.from },
            ..good
        });
        bad.push(Copy3D {
            to: CopySide { array: 1, ..good.to },
            ..good
        });
        bad
    }
}

/// Who may access a fixture's memory.
const ACCESS: Access = Access {
    location: Location {
        kind: Location::DEVICE,
        id: 0,
    },
    flags: 3,
};

/// Whether a call is about virtual memory.
fn is_virtual(call: &str) -> bool {
    let about = [
        "cuMemAddress",
        "cuMemMap",
        "cuMemUnmap",
        "cuMemCreate",
        "cuMemSetAccess",
        "cuMemGetAccess",
    ];
    about.iter().any(|name| call.starts_with(name))
}

/// An array that there can be.
fn array_descriptor() -> Array3DDescriptor {
    Array3DDescriptor {
        width: 16,
        height: 16,
        // CU_AD_FORMAT_FLOAT, and CUDA_ARRAY3D_SURFACE_LDST.
        format: 0x20,
        channels: 1,
        flags: 2,
        ..Array3DDescriptor::default()
    }
}

/// What makes a surface of an array.
fn surface_of(array: u64) -> ResourceDesc {
    let mut resource = ResourceDesc::default();
    resource.words[0] = array;
    resource
}

/// What makes a texture of an array.
fn texture_of(array: u64) -> Vec<u8> {
    [surface_of(array).as_bytes(), TextureDesc::default().as_bytes()].concat()
}

/// A tensor that there can be a map of.
fn tensor_shape() -> TensorShape {
    TensorShape {
        dims: [16, 16, 16, 0, 0],
        strides: [64, 1024, 0, 0, 0],
        element_strides: [1, 1, 1, 0, 0],
        box_dims: [16, 16, 1, 0, 0],
        ..TensorShape::default()
    }
}

/// Addresses that are not the guest's.
fn foreign(fixture: &Fixture, executor: &[u64]) -> Vec<u64> {
    let mut addresses = vec![
        0,
        1,
        4096,
        u64::MAX,
        u64::MAX - 63,
        i64::MAX as u64,
        1 << 47,
        0xffff_8000_0000_0000,
        WINDOW - 32,
        WINDOW + ARENA_LEN - 32,
        WINDOW + ARENA_LEN,
        WINDOW + PLAIN_AT + PLAIN_LEN - 32,
        WINDOW + PROGRAM_AT - 32,
        WINDOW + PROGRAM_AT + PROGRAM_LEN - 32,
        REGISTERED - 32,
        REGISTERED + 62,
        WINDOW + (1 << 30),
        fixture.device + DEVICE_LEN - 32,
        fixture.device.wrapping_sub(32),
    ];
    addresses.extend(executor);
    addresses
}

/// Addresses at which the guest has no word, or no whole one.
fn foreign_words(fixture: &Fixture, executor: &[u64]) -> Vec<u64> {
    let last = fixture.device + DEVICE_LEN;
    let mut addresses = foreign(fixture, executor);
    addresses.retain(|address| !(fixture.device..last).contains(address));
    addresses.extend([fixture.device + 2, last - 2, last]);
    addresses
}

/// A place in each kind of memory that a process has: its own program, heap, stack, libraries, and memory of no file.
pub fn places_of(pid: u32) -> Result<Vec<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut kinds = BTreeSet::new();
    let mut places = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (range, access) = (fields[0], fields[1]);
        let name = fields
            .get(5)
            .copied()
            .unwrap_or("")
            .rsplit('/')
            .next()
            .unwrap_or("");
        // What lies in the window is the guest's, or nobody's.
        let start = u64::from_str_radix(range.split('-').next().unwrap_or(""), 16)?;
        let ours = (WINDOW..WINDOW + vgpu_protocol::limits::WINDOW_LEN).contains(&start)
            || (WINDOW + PROGRAM_AT..WINDOW + PROGRAM_AT + PROGRAM_LEN).contains(&start);
        if !ours && access != "---p" && kinds.insert((access.to_owned(), name.to_owned())) {
            places.push(start);
        }
    }
    ensure!(places.len() > 4, "the executor's memory is not known:\n{maps}");
    Ok(places)
}

/// What must become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is not carried out: the call fails, or the session ends.
    Refused,
    /// The call fails.
    Failed,
    /// The session ends.
    Ended,
    /// It is carried out.
    Done,
    /// Whatever: but what becomes of it hurts nobody else.
    Anything,
}

/// A record that fits its row.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with it.
    pub why: String,
    /// Its argument words.
    pub words: Vec<u64>,
    /// Its blob.
    pub blob: Vec<u8>,
    /// What must become of it.
    pub expected: Expected,
}

/// What else a number may be: bounds of its type, of tables, of what other arguments mean.
const NUMBERS: [u64; 10] = [
    0,
    2,
    3,
    64,
    4096,
    0x7fff_ffff,
    0x8000_0000,
    u32::MAX as u64,
    1 << 32,
    u64::MAX,
];

/// Whether an argument says how much work a call is.
fn takes_long(name: &str) -> bool {
    name.starts_with("grid") || name.starts_with("block")
}

/// Cases whose records fit the call's row: each makes one argument something else; then some that make all of them
/// anything.
pub fn cases(
    row: &Row,
    fixture: &Fixture,
    executor: &[u64],
    random: &mut Random,
    random_cases: usize,
) -> Vec<Case> {
    let good = fixture.words(row);
    let good_blob = &fixture.blob(row)[..];
    let mut cases = Vec::new();
    let mut add = |why: String, words: Vec<u64>, blob: &[u8], expected| {
        cases.push(Case {
            why,
            words,
            blob: blob.to_vec(),
            expected,
        });
    };
    for (argument, &(name, kind)) in row.arguments.iter().enumerate() {
        let (values, expected): (Vec<u64>, Expected) = match row.kind(argument) {
            Kind::Handle => (vec![FREE, 70_000, u64::from(u32::MAX)], Expected::Failed),
            Kind::New => (vec![OLD, 70_000, u64::from(u32::MAX)], Expected::Failed),
            Kind::Stream => (
                vec![
                    FREE,
                    u64::from(STREAMS_MAX),
                    u64::from(u32::MAX),
                    STREAM_LEGACY + 1,
                    3 << 32,
                    u64::MAX,
                ],
                Expected::Failed,
            ),
            Kind::Pointer => (foreign(fixture, executor), Expected::Refused),
            Kind::Word => (foreign_words(fixture, executor), Expected::Refused),
            Kind::Length => (vec![u64::MAX, u64::MAX / 2, 1 << 62, 1 << 48], Expected::Refused),
            // A grid of billions of blocks is allowed, and takes that long: what is not allowed is.
            Kind::Number if takes_long(name) => (
                vec![0, 2, 70_000, 0x8000_0000, u64::from(u32::MAX)],
                Expected::Anything,
            ),
            Kind::Number => {
                // A word outside its type breaks a rule of the wire: that is a case of its own, below.
                let fits =
                    |value: &u64| kind == "u64" || *value <= u64::from(u32::MAX) >> u32::from(kind == "i32");
                (NUMBERS.into_iter().filter(fits).collect(), Expected::Anything)
            }
        };
        for value in values {
            let mut words = good.clone();
            words[argument] = value;
            add(format!("{name} is {value:#x}"), words, good_blob, expected);
        }
        if row.kind(argument) == Kind::Length {
            let mut words = good.clone();
            words[argument] = 0;
            add(format!("{name} is 0"), words, good_blob, Expected::Anything);
        }
    }
    if row.call.blob_in {
        let long = vec![b'x'; 60_000];
        add("a long blob".into(), good.clone(), &long, Expected::Anything);
        add(
            "a blob of zeros".into(),
            good.clone(),
            &[0; 64],
            Expected::Anything,
        );
        add("an empty blob".into(), good.clone(), &[], Expected::Anything);
        add(
            "a blob that is no text".into(),
            good.clone(),
            &[0xff; 33],
            Expected::Anything,
        );
    }
    if !fixture.token(row.call.name).is_empty() {
        // Guessed, of a wrong length, and what stands for something else.
        let mut flipped = good_blob.to_vec();
        flipped[0] ^= 1;
        let mut bad = vec![vec![0; 64], vec![0xff; 64], flipped, good_blob[..63].to_vec()];
        let others = fixture.tokens.iter().filter(|(_, token)| token != good_blob);
        bad.extend(others.map(|(_, token)| token.clone()));
        for token in bad {
            add(
                format!("a token that is none: {token:x?}"),
                good.clone(),
                &token,
                Expected::Refused,
            );
        }
    }
    if row.call.name == "cuMemcpy3DAsync" {
        for bad in fixture.bad_copies(&foreign(fixture, executor)) {
            add(
                format!("{bad:x?}"),
                good.clone(),
                bad.as_bytes(),
                Expected::Refused,
            );
        }
    }
    if row.call.name == "cuGraphAddNode" {
        let kind = row.arguments.iter().position(|argument| argument.0 == "kind");
        for (of, blob) in graphs::strange(&foreign(fixture, executor)) {
            let mut words = good.clone();
            if let Some(kind) = kind {
                words[kind] = of.into();
            }
            add(
                format!("a strange node of kind {of}"),
                words,
                &blob,
                Expected::Refused,
            );
        }
    }
    let mut pool = foreign(fixture, executor);
    pool.extend(NUMBERS);
    pool.extend([
        OLD,
        FREE,
        fixture.device,
        WINDOW,
        WINDOW + PINNED_AT,
        WINDOW + PLAIN_AT,
        WINDOW + PROGRAM_AT,
        REGISTERED,
        STREAM_LEGACY,
        64,
    ]);
    for case in 0..random_cases {
        let words = (0..row.arguments.len())
            .map(|argument| {
                let (name, kind) = row.arguments[argument];
                let value = match random.any() % 4 {
                    _ if takes_long(name) => *random.of(&[0, 1, 2, 3, 16, u64::from(u32::MAX)]),
                    0 => good[argument],
                    1 => random.any(),
                    _ => *random.of(&pool),
                };
                match kind {
                    "u32" => value & 0xffff_ffff,
                    "i32" => value as u32 as i32 as i64 as u64,
                    _ => value,
                }
            })
            .collect();
        let len = if row.call.blob_in { random.any() % 512 } else { 0 };
        let blob: Vec<u8> = (0..len).map(|_| random.any() as u8).collect();
        add(format!("random case {case}"), words, &blob, Expected::Anything);
    }
    // Last, as it may take away what the others used.
    let possible = !NEVER_DONE.contains(&row.call.name);
    let expected = if possible {
        Expected::Done
    } else {
        Expected::Anything
    };
    add("nothing is wrong".into(), good.clone(), good_blob, expected);
    cases
}

/// A record that breaks a rule of the wire.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What is wrong with it.
    pub why: &'static str,
    header: RecordHeader,
    words: Vec<u64>,
    blob: Vec<u8>,
    /// How far the position moves; `None`: by the record's bytes.
    moved: Option<u64>,
}

impl Broken {
    /// Writes it.
    pub fn write(&self, session: &Session<'_>) -> Result<()> {
        let bytes = [self.header.as_bytes(), self.words.as_bytes(), &self.blob].concat();
        session.write_record(0, &bytes);
        let moved = self.moved.unwrap_or((bytes.len() as u64).next_multiple_of(8));
        session.publish(0, session.head(0).wrapping_add(moved))
    }
}

/// Records with that operation which end a session. A call's row says what its record must be, `None` for an operation
/// that is no call, with the words and the flag of a good one.
pub fn broken(op: u16, row: Option<&Row>, good: &[u64], reply: bool) -> Vec<Broken> {
    let header = |words: usize, blob: usize| RecordHeader {
        len: ring::record_len(words, blob) as u32,
        op,
        flags: if reply { ring::FLAG_REPLY } else { 0 },
        words: words as u16,
        reserved: 0,
        blob: blob as u32,
    };
    let mut all = Vec::new();
    let mut add = |why, header, words: &[u64], blob: &[u8], moved| {
        all.push(Broken {
            why,
            header,
            words: words.to_vec(),
            blob: blob.to_vec(),
            moved,
        });
    };
    let whole = header(good.len(), 0);
    let change = |f: &dyn Fn(&mut RecordHeader)| {
        let mut header = whole;
        f(&mut header);
        header
    };
    for (why, len) in [
        ("a length of 0", 0),
        ("a length shorter than a header", 8),
        ("a length that is not aligned", whole.len + 4),
        ("a length past the position", whole.len + 8),
        ("a length past any record", 1 << 17),
        ("the longest length", u32::MAX),
    ] {
        add(why, change(&|h| h.len = len), good, &[], None);
    }
    add(
        "more words than it holds",
        change(&|h| h.words += 1),
        good,
        &[],
        None,
    );
    add(
        "more words than any call has",
        change(&|h| h.words = u16::MAX),
        good,
        &[],
        None,
    );
    add("a blob past its end", change(&|h| h.blob = 8), good, &[], None);
    add(
        "the longest blob",
        change(&|h| h.blob = u32::MAX),
        good,
        &[],
        None,
    );
    add("an unknown flag", change(&|h| h.flags |= 0x8000), good, &[], None);
    add("a reserved field", change(&|h| h.reserved = 1), good, &[], None);
    // An answer may be asked for whatever needs none, if it is a call.
    if reply || row.is_none() {
        add(
            "the wrong flag for an answer",
            change(&|h| h.flags ^= ring::FLAG_REPLY),
            good,
            &[],
            None,
        );
    }
    let more = [good, &[0]].concat();
    add("one word more", header(more.len(), 0), &more, &[], None);
    if let Some((_, less)) = good.split_last() {
        add("one word less", header(less.len(), 0), less, &[], None);
    }
    if row.is_none_or(|row| !row.call.blob_in) {
        add("a blob", header(good.len(), 8), good, &[1; 8], None);
    }
    if let Some(row) = row {
        let narrow = row.arguments.iter().position(|argument| argument.1 != "u64");
        if let Some(narrow) = narrow {
            let mut words = good.to_vec();
            words[narrow] = 1 << 40;
            add("a word outside its type", whole, &words, &[], None);
        }
    }
    for (why, moved) in [
        ("a position that is not aligned", 4),
        ("a position past the ring", u64::from(RING_DATA_LEN) + 8),
        ("a position before the last one", 8u64.wrapping_neg()),
        ("a position that jumps far", 1 << 62),
    ] {
        add(why, whole, good, &[], Some(moved));
    }
    all
}

/// What was found of one call.
#[derive(Debug, Default)]
pub struct Found {
    /// Cases that were tried.
    pub cases: usize,
    /// Sessions that ended, as they should or may.
    pub ended: Vec<u32>,
}

/// Tries everything that fits a call's row. `executor_of` tells the process of a session's executor.
pub fn try_arguments(
    vm: &Vm,
    row: &Row,
    seed: u64,
    random_cases: usize,
    executor_of: &dyn Fn(u32) -> Result<u32>,
) -> Result<Found> {
    let mut found = Found::default();
    let name = row.call.name;
    let open = || -> Result<(Session<'_>, Fixture)> {
        let mut session = vm.open()?;
        let fixture = Fixture::make(&mut session)?;
        Ok((session, fixture))
    };
    let (mut session, mut fixture) = open()?;
    let executor = places_of(executor_of(session.number)?)?;
    let mut random = Random::new(seed ^ u64::from(row.call.op) << 32);
    let mut all = cases(row, &fixture, &executor, &mut random, random_cases);
    let last = all.pop().context("at least one case")?;
    for case in all.iter().chain([&last]) {
        if case.expected == Expected::Done {
            // It shows that the others failed for what is wrong with them, and not because nothing goes.
            session.close()?;
            (session, fixture) = open()?;
            let before: &[(&str, &str)] = &[
                ("cuStreamEndCapture", "cuStreamBeginCapture"),
                ("cuStreamUpdateCaptureDependencies", "cuStreamBeginCapture"),
                // Its events have come only then.
                ("cuEventElapsedTime", "cuCtxSynchronize"),
            ];
            if let Some((_, needed)) = before.iter().find(|(call, _)| *call == name) {
                fixture.must(&mut session, needed, &[], &[])?;
            }
        }
        found.cases += 1;
        let words = if case.expected == Expected::Done {
            fixture.words(row)
        } else {
            case.words.clone()
        };
        let good_blob = fixture.blob(row);
        let blob = if case.expected == Expected::Done {
            &good_blob
        } else {
            &case.blob
        };
        let outcome = session
            .call(row.call, &words, blob)
            .with_context(|| format!("{name}, {}: {words:x?}", case.why))?;
        let outcome = match outcome {
            // A call that has something to say about its failure says the failure in a result as well.
            Outcome::Done if row.results.first() == Some(&"result") => match session.results(0)[0] as i32 {
                0 => Outcome::Done,
                code => Outcome::Failed(code),
            },
            outcome => outcome,
        };
        let right = match case.expected {
            Expected::Refused => outcome != Outcome::Done,
            Expected::Failed => matches!(outcome, Outcome::Failed(_)),
            Expected::Ended => matches!(outcome, Outcome::Ended(_)),
            Expected::Done if NOT_OFFERED.contains(&name) => {
                outcome == Outcome::Failed(result::NOT_SUPPORTED)
            }
            Expected::Done => outcome == Outcome::Done || NEVER_DONE.contains(&name),
            Expected::Anything => true,
        };
        if !right {
            bail!(
                "{name}, {}: {outcome:?}, expected {:?}; {words:x?}",
                case.why,
                case.expected
            );
        }
        if let Outcome::Ended(_) = outcome {
            found.ended.push(session.number);
            session.close()?;
            (session, fixture) = open()?;
        }
    }
    session.close()?;
    Ok(found)
}

/// Writes each broken record in a session of its own, and sees it end.
pub fn try_broken(vm: &Vm, name: &str, broken: &[Broken]) -> Result<Found> {
    let mut found = Found::default();
    for case in broken {
        let session = vm.open()?;
        case.write(&session)?;
        session.ended().with_context(|| format!("{name}, {}", case.why))?;
        found.cases += 1;
        found.ended.push(session.number);
        session.close()?;
    }
    Ok(found)
}

/// Has kernels write to each kind of the executor's own memory, each in a session of its own: the GPU refuses, and the
/// session ends with what an illegal access gives.
pub fn try_kernels(vm: &Vm, executor_of: &dyn Fn(u32) -> Result<u32>) -> Result<Found> {
    let mut found = Found::default();
    let mut which = 0;
    loop {
        let mut session = vm.open()?;
        let fixture = Fixture::make(&mut session)?;
        let places = places_of(executor_of(session.number)?)?;
        let Some(&place) = places.get(which) else {
            session.close()?;
            return Ok(found);
        };
        which += 1;
        let function = fixture.function(&mut session, 2, "bump")?;
        let launch = [function, 1, 1, 1, 1, 1, 1, 0, STREAM];
        session.put(0, row("cuLaunchKernel").op, false, &launch, &place.to_le_bytes())?;
        let status = session.ended()?;
        ensure!(
            status == result::ILLEGAL_ADDRESS,
            "a kernel that wrote to the executor's {place:#x}: status {status}"
        );
        found.cases += 1;
        found.ended.push(session.number);
        session.close()?;
    }
}
