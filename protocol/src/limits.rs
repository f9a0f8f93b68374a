//! Every limit of the protocol, with its unit. Nothing else in the project defines one.

/// Sessions (guest processes that use the GPU) one VM may have open at a time.
pub const SESSIONS_MAX: u32 = 64;
/// Command rings of one session; further guest threads share rings.
pub const RINGS_MAX: u32 = 64;
/// Bytes of the data part of a command ring; a power of two.
pub const RING_DATA_LEN: u32 = 256 * 1024;
/// Bytes of one record at most, header and padding included.
pub const RECORD_LEN_MAX: u32 = 64 * 1024;
/// Bytes of one reply's words and blob at most.
pub const REPLY_LEN_MAX: u32 = 64 * 1024;
/// 64-bit words of arguments or results of one call at most.
pub const WORDS_MAX: usize = 24;
/// Positions in other rings that one dependency record may name.
pub const DEPS_MAX: usize = RINGS_MAX as usize;
/// Bytes of a kernel's packed parameters at most (CUDA 12.1 raised it from 4,096).
pub const KERNEL_PARAMS_LEN_MAX: usize = 32_764;
/// Attributes of a launch at most (CUDA 13.0 knows 17).
pub const LAUNCH_ATTRIBUTES_MAX: usize = 32;
/// Operations of a batch on words of memory at most, as many as the driver takes.
pub const BATCH_MEM_OPS_MAX: usize = 256;
/// Bytes of a symbol name at most, without a terminator.
pub const NAME_LEN_MAX: usize = 4096;
/// Bytes of each of the compiler's logs that a loaded module's answer carries at most.
pub const JIT_LOG_LEN_MAX: u32 = 24 * 1024;
/// Options of the compiler that a module may be loaded with at most.
pub const JIT_OPTIONS_MAX: usize = 64;
/// Bytes of text that a session's kernels printed, kept for the guest until it asks: of each of its two streams.
pub const TEXT_LEN_MAX: usize = 4 << 20;
/// Links of one session that were begun and not destroyed: each is memory of the host.
pub const LINKS_MAX: u32 = 256;
/// Bytes of a module image at most.
pub const MODULE_LEN_MAX: u64 = 1 << 30;
/// Bytes of all module images together that a session has loaded: each is kept on the host while it is.
pub const IMAGES_LEN_MAX: u64 = 4 << 30;

/// Streams of one session, the contexts' default streams included: one fence word each.
pub const STREAMS_MAX: u32 = 4096;
/// Events of one session.
pub const EVENTS_MAX: u32 = 65_536;
/// Contexts of one session: one error word each.
pub const CONTEXTS_MAX: u32 = 64;
/// Modules, functions, graphs and executable graphs of one session, each.
pub const OBJECTS_MAX: u32 = 65_536;
/// Memory pools of one session.
pub const POOLS_MAX: u32 = 1024;
/// Reserved ranges of addresses of one session.
pub const RESERVATIONS_MAX: usize = 65_536;
/// Atomic operations that are asked about with one call at most (CUDA 13.0 knows 16).
pub const ATOMIC_OPERATIONS_MAX: usize = 64;
/// Allocations, pools and events that one session shares with others of its VM.
pub const SHARES_MAX: usize = 4096;
/// Of those of all sessions of a VM, the ones for which its backend keeps a descriptor; it also keeps no more than half of the
/// descriptors that it may have.
pub const SHARED_FILES_MAX: usize = 16_384;
/// Entries of an array that says who may access memory.
pub const ACCESSES_MAX: usize = 64;
/// Nodes of graphs that have a name at a time.
pub const GRAPH_NODES_MAX: usize = 1 << 20;
/// Nodes of all graphs and executable graphs of one session, those of graphs in graphs included: many times what servers of
/// language models have, which capture a graph for each size of a batch.
pub const GRAPHS_WEIGHT_MAX: u64 = 1 << 20;
/// Host functions of one session that wait for their acknowledgement at a time.
pub const HOST_FUNCTIONS_MAX: usize = 256;
/// Physical GPUs a session may see.
pub const GPUS_MAX: u32 = 16;

/// Bytes of the session area.
pub const AREA_LEN: u64 = 64 * 1024;
/// Bytes of the address window that guest process and executor agree on.
pub const WINDOW_LEN: u64 = 4 << 40;
/// The first part of the window, in bytes: host memory. The rest is left to libcuda for device addresses.
pub const ARENA_LEN: u64 = 1 << 40;
/// Windows a guest may propose.
pub const WINDOW_CANDIDATES_MAX: usize = 8;
/// Bytes of shared memory that one session may have mapped in its executor.
pub const MAPPED_LEN_MAX: u64 = 256 << 30;
/// Bytes of one mapping at most (one registration of 512 GiB or more fails on driver 580).
pub const MAP_LEN_MAX: u64 = 128 << 30;
/// Mappings of one session.
pub const MAPS_MAX: usize = 16_384;
/// Ranges of a program's own memory that one session has registered: each is an object of the host's driver.
pub const REGISTERED_MAX: usize = 65_536;
/// No program's memory lies below: what is near address 0 stays inaccessible everywhere (`vm.mmap_min_addr`).
pub const ADDRESS_START: u64 = 64 << 10;
/// Addresses that a process may have on x86-64 with 4-level paging end here.
pub const ADDRESS_END: u64 = 1 << 47;
/// Scattered runs of guest pages that one session may have mapped: each costs the executor a kernel
/// mapping, and Linux gives a process 65,530 (`vm.max_map_count`).
pub const RUNS_MAX: u32 = 32_000;
/// Bytes that all sessions of a VM together may have mapped; pages that several of them map count in each.
pub const VM_MAPPED_LEN_MAX: u64 = 512 << 30;
/// Bytes of those that are or may be registered with CUDA: pinned, and in the tables of a GPU.
pub const VM_REGISTERED_LEN_MAX: u64 = 256 << 30;
/// Scattered runs that all sessions of a VM together may have mapped.
pub const VM_RUNS_MAX: u32 = 256_000;
/// Rings of all sessions of a VM together: each is a thread on the host.
pub const VM_RINGS_MAX: u32 = 1024;
/// Runs in one MAP message.
pub const RUNS_PER_MESSAGE_MAX: usize = 2048;
/// Granularity of mappings, in bytes.
pub const PAGE_LEN: u64 = 4096;

/// Processes that a VM is told of at most: each session on each of its GPUs.
pub const PROCESSES_MAX: u32 = SESSIONS_MAX * GPUS_MAX;
/// Bytes of what a VM is told of its GPUs at most: the body of a reply.
pub const GPUS_LEN_MAX: usize = 21_296;
/// Milliseconds for which what a VM was told of its GPUs is told again, before `vgpud` is asked anew.
pub const GPUS_AGE_MS: u64 = 100;
/// Front ends that a backend serves at a time: QEMU is one, and each process that reaches the device without a VM, be it
/// only to ask about the GPUs.
pub const FRONT_ENDS_MAX: u32 = 2 * SESSIONS_MAX;

/// Bytes of a control message's readable part at most.
pub const CONTROL_LEN_MAX: usize = 64 + 16 * RUNS_PER_MESSAGE_MAX;
/// Descriptors of each virtqueue.
pub const QUEUE_LEN: u16 = 256;
/// Guest memory regions a device accepts.
pub const MEMORY_REGIONS_MAX: usize = 32;

const _: () = assert!(RING_DATA_LEN.is_power_of_two());
const _: () = assert!(RECORD_LEN_MAX * 2 <= RING_DATA_LEN);
const _: () = assert!(ARENA_LEN < WINDOW_LEN);
const _: () = assert!(RUNS_MAX <= 65_530 / 2);
const _: () = assert!(MAPPED_LEN_MAX <= VM_MAPPED_LEN_MAX && VM_REGISTERED_LEN_MAX <= VM_MAPPED_LEN_MAX);
const _: () = assert!(RUNS_MAX <= VM_RUNS_MAX && RINGS_MAX <= VM_RINGS_MAX);
const _: () = assert!(2 * JIT_LOG_LEN_MAX + 256 <= REPLY_LEN_MAX);
const _: () = assert!(KERNEL_PARAMS_LEN_MAX + 256 <= RECORD_LEN_MAX as usize);
