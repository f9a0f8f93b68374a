//! Modules and what is in them.
use super::capture::refuse_in_capture;
use super::{Variables, cuda};
use crate::abi::{CUdeviceptr, CUfunction, CUmodule, Host, In, Out, Text};
use crate::device_memory::DeviceMemory;
use crate::handles::{Entry, Found};
use crate::library::{Image, Library, Managed, Rewritten};
use crate::lock;
use crate::objects::{Context, Function, Module, Proven};
use crate::session::Call;
use std::collections::HashMap;
use std::ffi::{CString, OsStr, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use vgpu_protocol::calls;
use vgpu_protocol::limits::{
    JIT_LOG_LEN_MAX, JIT_OPTIONS_MAX, KERNEL_PARAMS_LEN_MAX, MODULE_LEN_MAX, NAME_LEN_MAX,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::{JitOption, KernelParam};
use zerocopy::{FromBytes, IntoBytes};

const FATBIN_MAGIC: u32 = 0xba55_ed50;
const FATBIN_WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// CUmoduleLoadingMode: functions are there as soon as their module is, or when they are first used.
const EAGER_LOADING: c_int = 1;
const LAZY_LOADING: c_int = 2;

/// CUjit_option values that are addresses or places for results.
const JIT_WALL_TIME: c_int = 2;
const JIT_INFO_LOG_BUFFER: c_int = 3;
const JIT_INFO_LOG_BUFFER_SIZE_BYTES: c_int = 4;
const JIT_ERROR_LOG_BUFFER: c_int = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;
/// CU_JIT_GLOBAL_SYMBOL_NAMES to _COUNT, CU_JIT_REFERENCED_KERNEL_NAMES to _VARIABLE_COUNT: the linker's.
const JIT_SYMBOLS: [std::ops::RangeInclusive<c_int>; 2] = [17..=19, 25..=28];

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]]).into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (0..8).fold(0, |word, i| word | u64::from(bytes[at + i]) << (8 * i))
}

/// `len` bytes of the image from `offset` on; an image that ends before is none.
fn part(image: Host, offset: u64, len: usize) -> Result<Vec<u8>, Code> {
    let mut bytes = vec![0; len];
    match image.read(offset, &mut bytes) {
        true => Ok(bytes),
        false => Err(result::INVALID_IMAGE),
    }
}

/// Bytes of the image at `image`: a fat binary, an ELF file or PTX text with its terminator.
pub(super) fn image_len(image: Host) -> Result<u64, Code> {
    if image.is_null() {
        return Err(result::INVALID_VALUE);
    }
    // A text may be shorter than a magic number.
    let start = part(image, 0, 4).unwrap_or_default();
    let len = if start == FATBIN_MAGIC.to_le_bytes() {
        // magic u32, version u16, header bytes u16, bytes after the header u64
        let header = part(image, 0, 16)?;
        u16_at(&header, 6).saturating_add(u64_at(&header, 8))
    } else if start == ELF_MAGIC {
        elf_len(image)?
    } else {
        // SAFETY: neither of the binary formats, so by the API's contract a zero-terminated text.
        let text = unsafe { Text::new(image.addr() as usize) };
        text.get()?.to_bytes_with_nul().len() as u64
    };
    if len > MODULE_LEN_MAX {
        return Err(result::INVALID_IMAGE);
    }
    Ok(len)
}

/// Bytes of a 64-bit ELF file: up to the end of whatever its tables and their entries name.
fn elf_len(image: Host) -> Result<u64, Code> {
    const SHT_NOBITS: u32 = 8;
    let header = part(image, 0, 64)?;
    // Of each table: its offset, the length and number of its entries, and in an entry of what length the offset and the bytes
    // of what it names are.
    let tables = [
        (
            u64_at(&header, 32),
            u16_at(&header, 54),
            u16_at(&header, 56),
            56,
            8,
            32,
        ),
        (
            u64_at(&header, 40),
            u16_at(&header, 58),
            u16_at(&header, 60),
            64,
            24,
            32,
        ),
    ];
    let mut end = 64;
    for (offset, entry_len, count, least, at, bytes_at) in tables {
        if count == 0 {
            continue;
        }
        let len = entry_len * count;
        let table_end = offset.saturating_add(len);
        if entry_len < least || table_end > MODULE_LEN_MAX {
            return Err(result::INVALID_IMAGE);
        }
        end = end.max(table_end);
        for entry in part(image, offset, len as usize)?.chunks(entry_len as usize) {
            let kind = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            if least == 56 || kind != SHT_NOBITS {
                end = end.max(u64_at(entry, at).saturating_add(u64_at(entry, bytes_at)));
            }
        }
    }
    Ok(end)
}

/// What the caller wants from the compiler.
#[derive(Default)]
pub(super) struct Jit {
    /// Options that are numbers.
    pub numbers: Vec<JitOption>,
    /// Where the information log goes and the error log, with the index of the option that has its size.
    logs: [(usize, Option<usize>); 2],
    /// The indices of the options whose values are replaced by the wall time and the threads per block.
    wall_time: Option<usize>,
    threads: Option<usize>,
}

impl Jit {
    pub fn new(len: usize, options: In<c_int>, values: In<Out<u8>>) -> Result<Self, Code> {
        let mut jit = Self::default();
        for i in 0..len {
            let value = values.place(i)?.get()?;
            match options.at(i)? {
                JIT_WALL_TIME => jit.wall_time = Some(i),
                JIT_INFO_LOG_BUFFER => jit.logs[0].0 = value,
                JIT_INFO_LOG_BUFFER_SIZE_BYTES => jit.logs[0].1 = Some(i),
                JIT_ERROR_LOG_BUFFER => jit.logs[1].0 = value,
                JIT_ERROR_LOG_BUFFER_SIZE_BYTES => jit.logs[1].1 = Some(i),
                option if JitOption::is_number(option) => {
                    if option == JitOption::THREADS_PER_BLOCK {
                        jit.threads = Some(i);
                    }
                    jit.numbers.push(JitOption {
                        option: option as u32,
                        value: value as u32,
                    });
                }
                option if JIT_SYMBOLS.iter().any(|range| range.contains(&option)) => {
                    return Err(result::NOT_SUPPORTED);
                }
                _ => return Err(result::INVALID_VALUE),
            }
        }
        if jit.numbers.len() > JIT_OPTIONS_MAX {
            return Err(result::INVALID_VALUE);
        }
        Ok(jit)
    }

    /// Bytes of a log that are wanted.
    pub(super) fn wanted(&self, log: usize, values: In<Out<u8>>) -> Result<u32, Code> {
        let (buffer, Some(size)) = self.logs[log] else {
            return Ok(0);
        };
        if buffer == 0 {
            return Ok(0);
        }
        let size = values.place(size)?.get()? as u64 & 0xffff_ffff;
        Ok(size.min(JIT_LOG_LEN_MAX.into()) as u32)
    }

    fn is_plain(&self) -> bool {
        self.numbers.is_empty() && self.is_numbers()
    }

    /// Whether nothing is to be said.
    pub(super) fn is_numbers(&self) -> bool {
        self.wall_time.is_none() && self.logs.iter().all(|log| log.1.is_none())
    }

    /// The options that are numbers.
    pub(super) fn numbers(&self) -> &[JitOption] {
        &self.numbers
    }

    /// Stores what was said where the caller wants it; then the outcome.
    pub(super) fn tell(
        &self,
        values: In<Out<u8>>,
        wanted: [u32; 2],
        answer: &JitAnswer<'_>,
    ) -> Result<(), Code> {
        let said = answer.said.map(|len| len as usize);
        if said[0].checked_add(said[1]) != Some(answer.logs.len()) {
            return Err(result::UNKNOWN);
        }
        let (info, error) = answer.logs.split_at(said[0]);
        for ((log, said), wanted) in self.logs.iter().zip([info, error]).zip(wanted) {
            set_log(log.0, wanted, said);
            if let (Some(size), true) = (log.1, wanted > 0) {
                values.place(size)?.set(said.len())?;
            }
        }
        for (place, value) in [
            (self.wall_time, answer.wall_time_bits),
            (self.threads, answer.threads),
        ] {
            if let Some(i) = place {
                values.place(i)?.set(value as usize)?;
            }
        }
        match answer.result {
            result::SUCCESS => Ok(()),
            code => Err(code),
        }
    }
}

/// What the compiler or the linker answered.
pub(super) struct JitAnswer<'a> {
    pub result: Code,
    pub wall_time_bits: u32,
    pub threads: u32,
    /// Bytes of the information log and of the error log.
    pub said: [u32; 2],
    /// Both.
    pub logs: &'a [u8],
}

/// Puts a log where the caller wants it, with a terminator if there is room.
fn set_log(buffer: usize, wanted: u32, said: &[u8]) {
    if wanted == 0 {
        return;
    }
    // SAFETY: the value of CU_JIT_INFO_LOG_BUFFER or CU_JIT_ERROR_LOG_BUFFER is a buffer of at least `wanted` bytes.
    let to = unsafe { Host::new(buffer) };
    let said = &said[..said.len().min(wanted as usize)];
    // SAFETY: `said` is a buffer of this library, which the caller's does not overlap.
    unsafe { to.copy_in(0, said.as_ptr(), said.len()) };
    if said.len() < wanted as usize {
        // SAFETY: as above: one byte more still is inside.
        unsafe { to.copy_in(said.len(), [0].as_ptr(), 1) };
    }
}

/// Managed variables are looked for in containers of packed code up to so many bytes: to unpack those of big libraries, which have none,
/// takes long.
pub(super) const LOOKED_THROUGH: u64 = 1 << 20;

/// Loads a module into a context: `ask` makes the host load it, with the module's number and bytes from the image's copy at an address.
/// Its handle.
fn load_with(
    call: &Call,
    context: u32,
    image: Host,
    len: u64,
    ask: impl FnOnce(u32, u64, u64) -> Result<(), Code>,
) -> Result<CUmodule, Code> {
    let is_container = part(image, 0, 4).is_ok_and(|start| start == FATBIN_MAGIC.to_le_bytes());
    if is_container && len > LOOKED_THROUGH {
        return load_as_is(call, context, image, len, None, ask);
    }
    let bytes = part(image, 0, len as usize)?;
    match Variables::place(call, context, &bytes)? {
        None => load_as_is(call, context, image, len, None, ask),
        Some((variables, image)) => {
            // SAFETY: it lives until the image is copied.
            let host = unsafe { Host::new(image.as_ptr() as usize) };
            load_as_is(
                call,
                context,
                host,
                image.len() as u64,
                Some(Arc::new(variables)),
                ask,
            )
        }
    }
}

/// Loads a module from an image from which its managed variables were taken. They are freed if that fails.
fn load_as_is(
    call: &Call,
    context: u32,
    image: Host,
    len: u64,
    managed: Option<Arc<Variables>>,
    ask: impl FnOnce(u32, u64, u64) -> Result<(), Code>,
) -> Result<CUmodule, Code> {
    let loaded = ask_to_load(call, context, image, len, managed.clone(), ask);
    let Some(variables) = managed else {
        return loaded;
    };
    let module = match loaded {
        Ok(module) => module,
        Err(code) => return variables.free_own(call).and(Err(code)),
    };
    let linked = find(call, module).and_then(|entry| variables.link(call, &entry));
    match linked {
        Ok(()) => Ok(module),
        Err(code) => unload(call, module).and(Err(code)),
    }
}

fn ask_to_load(
    call: &Call,
    context: u32,
    image: Host,
    len: u64,
    managed: Option<Arc<Variables>>,
    ask: impl FnOnce(u32, u64, u64) -> Result<(), Code>,
) -> Result<CUmodule, Code> {
    let session = call.session;
    let id = session.modules.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let loaded = copy_and_ask(call, image, len, |addr| ask(id, addr, len));
    if let Err(code) = loaded {
        session.modules.release(id);
        return Err(code);
    }
    let entry = session.modules.insert(
        id,
        Module {
            id,
            context,
            functions: Mutex::new(HashMap::new()),
            globals: Mutex::new(HashMap::new()),
            managed: managed.map_or_else(OnceLock::new, OnceLock::from),
        },
    );
    Ok(entry.handle())
}

/// Has the host load an image without options.
fn ask_plainly(call: &Call, context: u32) -> impl FnOnce(u32, u64, u64) -> Result<(), Code> {
    move |module, image, bytes| {
        let arguments = calls::cuModuleLoadData::In { image, bytes, module };
        call.ask::<calls::cuModuleLoadData::Call>(context, arguments)
            .map(drop)
    }
}

fn load(call: &Call, context: u32, image: Host, len: u64) -> Result<CUmodule, Code> {
    load_with(call, context, image, len, ask_plainly(call, context))
}

/// The module of a library in a context.
pub fn load_library_module(call: &Call, context: &Context, library: &Library) -> Result<CUmodule, Code> {
    let managed = lock(&library.managed).clone();
    let (image, len, managed) = match &managed {
        Managed::TakenOut(it) => (it.image.host(), it.len, Some(it.variables.clone())),
        Managed::Unknown | Managed::None => (library.image.host(), library.len, None),
    };
    let ask = ask_with_options(call, context.id, &library.options);
    load_as_is(call, context.id, image, len, managed, ask)
}

/// Has the host load an image with options of the compiler that are numbers.
fn ask_with_options(
    call: &Call,
    context: u32,
    options: &[JitOption],
) -> impl FnOnce(u32, u64, u64) -> Result<(), Code> {
    move |module, image, bytes| {
        if options.is_empty() {
            return ask_plainly(call, context)(module, image, bytes);
        }
        let arguments = calls::cuModuleLoadDataEx::In {
            image,
            bytes,
            module,
            info_len: 0,
            error_len: 0,
        };
        let options = options.as_bytes();
        let (out, _) = call.ask_with::<calls::cuModuleLoadDataEx::Call>(context, arguments, options)?;
        match out.result {
            result::SUCCESS => Ok(()),
            code => Err(code),
        }
    }
}

/// A module, held so that nothing of it is handed out.
struct Held<'a> {
    module: &'a Module,
    functions: MutexGuard<'a, HashMap<Vec<u8>, usize>>,
    globals: MutexGuard<'a, HashMap<Vec<u8>, (u64, u64)>>,
}

/// Modules of a library of which nothing was handed out, nor is meanwhile.
pub(super) struct Untouched<'a>(Vec<Held<'a>>);

impl<'a> Untouched<'a> {
    /// These, unless something was handed out of one of them.
    pub fn all(modules: &'a [Found<Module>]) -> Option<Self> {
        let hold = |module: &'a Found<Module>| Held {
            module,
            functions: lock(&module.functions),
            globals: lock(&module.globals),
        };
        let all: Vec<_> = modules.iter().map(hold).collect();
        let untouched = all
            .iter()
            .all(|held| held.functions.is_empty() && held.globals.is_empty());
        untouched.then_some(Self(all))
    }

    /// Has the host load other code of their library in their place. If that fails they have the code that they had, or, if even that fails,
    /// none: then the host refuses whatever is asked of them.
    pub fn load_again(&self, call: &Call, library: &Library, code: &Rewritten) -> Result<(), Code> {
        let load = |module: &Module, image: &Image, len: u64| {
            let unload = calls::cuModuleUnload::In { module: module.id };
            // The host may have let go of it already.
            let _ = call.ask::<calls::cuModuleUnload::Call>(module.context, unload);
            copy_and_ask(call, image.host(), len, |addr| {
                ask_with_options(call, module.context, &library.options)(module.id, addr, len)
            })
        };
        for Held { module, .. } in &self.0 {
            if let Err(failed) = load(module, &code.image, code.len) {
                for Held { module, .. } in &self.0 {
                    let _ = load(module, &library.image, library.len);
                }
                return Err(failed);
            }
        }
        for Held { module, .. } in &self.0 {
            // Nobody else does, since its library's variables are taken out once.
            let _ = module.managed.set(code.variables.clone());
        }
        Ok(())
    }
}

/// The host's library loads lazily unless it is told otherwise, as NVIDIA's does here.
pub(super) fn loads_eagerly() -> bool {
    std::env::var_os("CUDA_MODULE_LOADING").is_some_and(|mode| mode == "EAGER")
}

/// Has the host copy an image out of a buffer that it can reach, once.
fn copy_and_ask(
    call: &Call,
    image: Host,
    len: u64,
    ask: impl FnOnce(u64) -> Result<(), Code>,
) -> Result<(), Code> {
    call.with_buffer(len, |buffer, addr| match image.read(0, buffer) {
        true => ask(addr),
        false => Err(result::INVALID_IMAGE),
    })
}

/// Checks what comes before a look at the image; the call and its context.
fn may_load(place: Out<CUmodule>) -> Result<(Call, u32), Code> {
    let call = Call::enter()?;
    let context = call.context()?.id;
    place.check()?;
    Ok((call, context))
}

pub(crate) fn load_image(place: Out<CUmodule>, image: Host) -> Result<(), Code> {
    let (call, context) = may_load(place)?;
    let image = unwrapped(image)?;
    place.set(load(&call, context, image, image_len(image)?)?)
}

fn load_with_options(
    place: Out<CUmodule>,
    image: Host,
    len: usize,
    options: In<c_int>,
    values: In<Out<u8>>,
) -> Result<(), Code> {
    let (call, context) = may_load(place)?;
    let jit = Jit::new(len, options, values)?;
    if jit.is_plain() {
        return load_image(place, image);
    }
    let image = unwrapped(image)?;
    let bytes = image_len(image)?;
    let module = load_with(&call, context, image, bytes, |module, image, bytes| {
        let arguments = calls::cuModuleLoadDataEx::In {
            image,
            bytes,
            module,
            info_len: jit.wanted(0, values)?,
            error_len: jit.wanted(1, values)?,
        };
        let (out, logs) =
            call.ask_with::<calls::cuModuleLoadDataEx::Call>(context, arguments, jit.numbers.as_bytes())?;
        let answer = JitAnswer {
            result: out.result,
            wall_time_bits: out.wall_time_bits,
            threads: out.threads,
            said: [out.info_said, out.error_said],
            logs: &logs,
        };
        jit.tell(values, [arguments.info_len, arguments.error_len], &answer)
    })?;
    place.set(module)
}

/// The image behind a pointer that may be one to a compiler's wrapper of it.
pub(super) fn unwrapped(image: Host) -> Result<Host, Code> {
    if image.is_null() {
        return Err(result::INVALID_VALUE);
    }
    // magic u32, version u32, address of the fat binary u64
    let mut wrapper = [0; 16];
    if !image.read(0, &mut wrapper) || wrapper[..4] != FATBIN_WRAPPER_MAGIC.to_le_bytes() {
        return Ok(image);
    }
    // SAFETY: such a wrapper names the fat binary that it wraps.
    Ok(unsafe { Host::new(u64_at(&wrapper, 8) as usize) })
}

fn find(call: &Call, module: CUmodule) -> Result<Arc<Entry<Module>>, Code> {
    let found = call.session.modules.get(module);
    Ok(Arc::clone(&*found.ok_or(result::INVALID_HANDLE)?))
}

fn name_of(name: Text) -> Result<&'static [u8], Code> {
    let name = name.get()?.to_bytes();
    if name.is_empty() {
        return Err(result::INVALID_VALUE);
    }
    if name.len() > NAME_LEN_MAX {
        return Err(result::NOT_FOUND);
    }
    Ok(name)
}

/// The parameters in a reply's blob, and the bytes that they take when packed.
fn layout(blob: &[u8], count: u32) -> Option<(Box<[KernelParam]>, usize)> {
    let (params, rest) = blob.as_chunks::<{ size_of::<KernelParam>() }>();
    if !rest.is_empty() || params.len() != count as usize {
        return None;
    }
    let params: Box<[KernelParam]> = params
        .iter()
        .map(|bytes| KernelParam::read_from_bytes(bytes).ok())
        .collect::<Option<_>>()?;
    let ends = params.iter().map(|p| p.offset.checked_add(p.size));
    let len = ends.collect::<Option<Vec<_>>>()?.into_iter().max().unwrap_or(0) as usize;
    (len <= KERNEL_PARAMS_LEN_MAX).then_some((params, len))
}

/// Unloads a module.
pub(super) fn unload(call: &Call, module: CUmodule) -> Result<(), Code> {
    let session = call.session;
    let entry = session.modules.remove(module).ok_or(result::INVALID_HANDLE)?;
    let arguments = calls::cuModuleUnload::In { module: entry.id };
    let unloaded = call.ask::<calls::cuModuleUnload::Call>(entry.context, arguments);
    for (_, function) in lock(&entry.functions).drain() {
        if let Some(function) = session.functions.remove(function) {
            session.functions.release(function.id);
        }
    }
    session
        .device_memory()
        .retain(|_, memory| memory.module != Some(entry.id));
    session.modules.release(entry.id);
    let freed = entry
        .managed
        .get()
        .map_or(Ok(()), |managed| managed.free_own(call));
    unloaded.and(freed)
}

/// A module's function.
pub fn module_function(call: &Call, module: CUmodule, name: &[u8]) -> Result<Arc<Entry<Function>>, Code> {
    let session = call.session;
    let entry = find(call, module)?;
    let mut functions = lock(&entry.functions);
    let known = functions
        .get(name)
        .and_then(|&known| session.functions.get(known));
    if let Some(known) = known {
        return Ok(Arc::clone(&*known));
    }
    let id = session.functions.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let arguments = calls::cuModuleGetFunction::In {
        module: entry.id,
        function: id,
    };
    let found = call
        .ask_with::<calls::cuModuleGetFunction::Call>(entry.context, arguments, name)
        .and_then(|(out, blob)| {
            Ok((
                layout(&blob, out.params).ok_or(result::UNKNOWN)?,
                out.clusters != 0,
            ))
        });
    let ((params, params_len), clusters) = match found {
        Ok(found) => found,
        Err(code) => {
            session.functions.release(id);
            return Err(code);
        }
    };
    let made = session.functions.insert(
        id,
        Function {
            id,
            context: entry.context,
            module,
            name: CString::new(name).map_err(|_| result::INVALID_VALUE)?,
            params,
            params_len,
            clusters,
            answers: Mutex::default(),
            proven: Proven::default(),
        },
    );
    functions.insert(name.to_vec(), made.handle());
    Ok(made)
}

/// Address and bytes of a module's variable.
pub(super) fn module_global(call: &Call, module: &Module, name: &[u8]) -> Result<(u64, u64), Code> {
    // Its code may just be loaded anew.
    let mut globals = lock(&module.globals);
    let managed = module.managed.get().and_then(|managed| managed.get(name));
    if let Some(managed) = managed {
        return Ok(managed);
    }
    if let Some(&known) = globals.get(name) {
        return Ok(known);
    }
    let arguments = calls::cuModuleGetGlobal::In { module: module.id };
    let (out, _) = call.ask_with::<calls::cuModuleGetGlobal::Call>(module.context, arguments, name)?;
    globals.insert(name.to_vec(), (out.pointer, out.bytes));
    let memory = DeviceMemory {
        module: Some(module.id),
        ..DeviceMemory::allocated(out.bytes, module.context)
    };
    call.session.device_memory().insert(out.pointer, memory);
    Ok((out.pointer, out.bytes))
}

/// Names of all functions of a module.
pub fn module_function_names(call: &Call, module: &Module) -> Result<Vec<Vec<u8>>, Code> {
    let mut names = Vec::new();
    // Its code is not loaded anew meanwhile.
    let _functions = lock(&module.functions);
    loop {
        let from = u32::try_from(names.len()).map_err(|_| result::UNKNOWN)?;
        let arguments = calls::cuModuleEnumerateFunctions::In {
            module: module.id,
            from,
        };
        let (out, blob) =
            call.ask_with::<calls::cuModuleEnumerateFunctions::Call>(module.context, arguments, &[])?;
        let told: Vec<_> = blob
            .split_inclusive(|&byte| byte == 0)
            .filter_map(|name| name.strip_suffix(&[0]))
            .map(<[u8]>::to_vec)
            .collect();
        if told.len() != out.told as usize {
            return Err(result::UNKNOWN);
        }
        let more = !told.is_empty();
        names.extend(told);
        if names.len() >= out.total as usize || !more {
            return Ok(names);
        }
    }
}

cuda! {
    fn cuModuleLoad(module: Out<CUmodule>, path: Text) {
        let (call, context) = may_load(module)?;
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        let mut image = std::fs::read(path).map_err(|_| result::FILE_NOT_FOUND)?;
        // A file of PTX need not have a terminator.
        image.push(0);
        // SAFETY: the file's content, which outlives the call.
        let host = unsafe { Host::new(image.as_ptr() as usize) };
        module.set(load(&call, context, host, image.len() as u64)?)
    }

    fn cuModuleLoadData(module: Out<CUmodule>, image: Host) {
        load_image(module, image)
    }

    fn cuModuleLoadDataEx(
        module: Out<CUmodule>, image: Host, options_len: c_uint, options: In<c_int>, values: In<Out<u8>>,
    ) {
        load_with_options(module, image, options_len as usize, options, values)
    }

    fn cuModuleLoadFatBinary(module: Out<CUmodule>, image: Host) {
        load_image(module, image)
    }

    fn cuModuleUnload(module: CUmodule) {
        let call = Call::enter()?;
        drop(find(&call, module)?);
        refuse_in_capture(&call)?;
        unload(&call, module)
    }

    fn cuModuleGetFunction(function: Out<CUfunction>, module: CUmodule, name: Text) {
        let call = Call::enter()?;
        let entry = find(&call, module)?;
        function.check()?;
        drop(entry);
        function.set(module_function(&call, module, name_of(name)?)?.handle())
    }

    fn cuModuleGetGlobal_v2(pointer: Out<CUdeviceptr>, bytes: Out<usize>, module: CUmodule, name: Text) {
        let call = Call::enter()?;
        let entry = find(&call, module)?;
        let name = name_of(name)?;
        if pointer.is_null() && bytes.is_null() {
            return Err(result::INVALID_VALUE);
        }
        let (addr, len) = match module_global(&call, &entry, name) {
            // The host does not say where managed variables are.
            Err(result::NOT_SUPPORTED) => {
                let variables = super::library::take_out_of(&call, module)?.ok_or(result::NOT_SUPPORTED)?;
                variables.get(name).ok_or(result::NOT_SUPPORTED)?
            }
            found => found?,
        };
        pointer.set_if_wanted(addr);
        bytes.set_if_wanted(len as usize);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<c_int>) {
        let _ = Call::local()?;
        mode.set(if loads_eagerly() { EAGER_LOADING } else { LAZY_LOADING })
    }

    fn cuModuleGetFunctionCount(count: Out<c_uint>, module: CUmodule) {
        let call = Call::enter()?;
        let module = find(&call, module)?;
        count.check()?;
        count.set(module_function_names(&call, &module)?.len() as c_uint)
    }

    fn cuModuleEnumerateFunctions(functions: Out<CUfunction>, len: c_uint, module: CUmodule) {
        let call = Call::enter()?;
        let found = find(&call, module)?;
        functions.check()?;
        for (i, name) in module_function_names(&call, &found)?.iter().take(len as usize).enumerate() {
            functions.set_at(i, module_function(&call, module, name)?.handle())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bytes: &[u8]) -> Host {
        // SAFETY: the slice outlives its use in the test, and the functions only read it.
        unsafe { Host::new(bytes.as_ptr() as usize) }
    }

    #[test]
    fn an_image_says_how_long_it_is() {
        assert_eq!(image_len(host(b".version 7.8\0rest")), Ok(13));
        let mut fat = vec![0u8; 64];
        fat[..4].copy_from_slice(&FATBIN_MAGIC.to_le_bytes());
        fat[6] = 16;
        fat[8] = 48;
        assert_eq!(image_len(host(&fat)), Ok(64));
        fat[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(image_len(host(&fat)), Err(result::INVALID_IMAGE));
        let mut elf = vec![0u8; 64 + 2 * 64];
        elf[..4].copy_from_slice(ELF_MAGIC);
        elf[40] = 64; // section table
        elf[58] = 64;
        elf[60] = 2;
        elf[64 + 64 + 24] = 200; // second section: offset 200, 56 bytes
        elf[64 + 64 + 32] = 56;
        assert_eq!(image_len(host(&elf)), Ok(256));
        // A table where no memory is.
        elf[40..48].copy_from_slice(&(MODULE_LEN_MAX - 4096).to_le_bytes());
        assert_eq!(image_len(host(&elf)), Err(result::INVALID_IMAGE));
    }

    #[test]
    fn a_wrapper_names_its_image() {
        let image = b"image";
        let mut wrapper = [0u8; 24];
        wrapper[..4].copy_from_slice(&FATBIN_WRAPPER_MAGIC.to_le_bytes());
        wrapper[8..16].copy_from_slice(&(image.as_ptr() as u64).to_le_bytes());
        assert_eq!(
            unwrapped(host(&wrapper)).map(Host::addr),
            Ok(image.as_ptr() as u64)
        );
        assert_eq!(unwrapped(host(image)).map(Host::addr), Ok(image.as_ptr() as u64));
    }

    #[test]
    fn a_strange_layout_is_refused() {
        let params = [
            KernelParam { offset: 0, size: 8 },
            KernelParam { offset: 8, size: 4 },
        ];
        let blob = params.as_bytes();
        assert_eq!(layout(blob, 2).map(|(_, len)| len), Some(12));
        assert!(layout(blob, 3).is_none());
        assert!(layout(&blob[1..], 2).is_none());
        let huge = [KernelParam {
            offset: u32::MAX,
            size: 8,
        }];
        assert!(layout(huge.as_bytes(), 1).is_none());
    }
}
