//! Modules and what is in them.
use super::cuda;
use crate::abi::{CUdeviceptr, CUfunction, CUmodule, Host, In, Out, Text};
use crate::handles::Entry;
use crate::lock;
use crate::objects::{Function, Module, Proven};
use crate::session::{Call, DeviceMemory};
use std::collections::HashMap;
use std::ffi::{OsStr, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
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
fn image_len(image: Host) -> Result<u64, Code> {
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
struct Jit {
    numbers: Vec<JitOption>,
    /// Where the information log goes and the error log, with the index of the option that has its size.
    logs: [(usize, Option<usize>); 2],
    /// The indices of the options whose values are replaced by the wall time and the threads per block.
    wall_time: Option<usize>,
    threads: Option<usize>,
}

impl Jit {
    fn new(len: usize, options: In<c_int>, values: In<Out<u8>>) -> Result<Self, Code> {
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
    fn wanted(&self, log: usize, values: In<Out<u8>>) -> Result<u32, Code> {
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
        self.numbers.is_empty() && self.wall_time.is_none() && self.logs.iter().all(|log| log.1.is_none())
    }
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

/// Loads an image of `len` bytes, which `ask` asks the host for: the call, the context and the module's number, and the image's
/// address.
fn load_with(
    place: Out<CUmodule>,
    image: Host,
    len: u64,
    ask: impl FnOnce(&Call, u32, u32, u64) -> Result<(), Code>,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    place.check()?;
    let session = call.session;
    let id = session.modules.reserve().ok_or(result::OUT_OF_MEMORY)?;
    // The host copies the image once, out of a buffer that it can reach.
    let loaded = session.alloc(len, false).and_then(|addr| {
        // SAFETY: a new buffer of at least this length, which nothing else uses.
        let buffer = unsafe { std::slice::from_raw_parts_mut(addr as *mut u8, len as usize) };
        let loaded = match image.read(0, buffer) {
            true => ask(&call, context.id, id, addr),
            false => Err(result::INVALID_IMAGE),
        };
        let freed = session.free(addr, len);
        loaded.and(freed)
    });
    if let Err(code) = loaded {
        session.modules.release(id);
        return Err(code);
    }
    let entry = session.modules.insert(
        id,
        Module {
            id,
            context: context.id,
            functions: Mutex::new(HashMap::new()),
            globals: Mutex::new(HashMap::new()),
        },
    );
    place.set(entry.handle())
}

fn load(place: Out<CUmodule>, image: Host, len: u64) -> Result<(), Code> {
    load_with(place, image, len, |call, context, module, image| {
        let arguments = calls::cuModuleLoadData::In {
            image,
            bytes: len,
            module,
        };
        call.ask::<calls::cuModuleLoadData::Call>(context, arguments)
            .map(drop)
    })
}

/// Checks what comes before a look at the image.
fn may_load(place: Out<CUmodule>) -> Result<(), Code> {
    let call = Call::enter()?;
    drop(call.context()?);
    place.check().map(drop)
}

fn load_image(place: Out<CUmodule>, image: Host) -> Result<(), Code> {
    may_load(place)?;
    let image = unwrapped(image)?;
    load(place, image, image_len(image)?)
}

fn load_with_options(
    place: Out<CUmodule>,
    image: Host,
    len: usize,
    options: In<c_int>,
    values: In<Out<u8>>,
) -> Result<(), Code> {
    may_load(place)?;
    let jit = Jit::new(len, options, values)?;
    if jit.is_plain() {
        return load_image(place, image);
    }
    let image = unwrapped(image)?;
    let bytes = image_len(image)?;
    load_with(place, image, bytes, |call, context, module, image| {
        let arguments = calls::cuModuleLoadDataEx::In {
            image,
            bytes,
            module,
            info_len: jit.wanted(0, values)?,
            error_len: jit.wanted(1, values)?,
        };
        let (out, logs) =
            call.ask_with::<calls::cuModuleLoadDataEx::Call>(context, arguments, jit.numbers.as_bytes())?;
        let (info_len, error_len) = (out.info_said as usize, out.error_said as usize);
        if info_len.checked_add(error_len) != Some(logs.len()) {
            return Err(result::UNKNOWN);
        }
        let (info, error) = logs.split_at(info_len);
        for ((log, said), wanted) in jit
            .logs
            .iter()
            .zip([info, error])
            .zip([arguments.info_len, arguments.error_len])
        {
            set_log(log.0, wanted, said);
            if let (Some(size), true) = (log.1, wanted > 0) {
                values.place(size)?.set(said.len())?;
            }
        }
        for (place, value) in [(jit.wall_time, out.wall_time_bits), (jit.threads, out.threads)] {
            if let Some(i) = place {
                values.place(i)?.set(value as usize)?;
            }
        }
        match out.result {
            result::SUCCESS => Ok(()),
            code => Err(code),
        }
    })
}

/// The image behind a pointer that may be one to a compiler's wrapper of it.
fn unwrapped(image: Host) -> Result<Host, Code> {
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

cuda! {
    fn cuModuleLoad(module: Out<CUmodule>, path: Text) {
        may_load(module)?;
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        let mut image = std::fs::read(path).map_err(|_| result::FILE_NOT_FOUND)?;
        // A file of PTX need not have a terminator.
        image.push(0);
        // SAFETY: the file's content, which outlives the call.
        load(module, unsafe { Host::new(image.as_ptr() as usize) }, image.len() as u64)
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
        let session = call.session;
        let entry = session.modules.remove(module).ok_or(result::INVALID_HANDLE)?;
        let arguments = calls::cuModuleUnload::In { module: entry.id };
        let unloaded = call.ask::<calls::cuModuleUnload::Call>(entry.context, arguments);
        for (_, function) in lock(&entry.functions).drain() {
            if let Some(function) = session.functions.remove(function) {
                session.functions.release(function.id);
            }
        }
        session.device_memory().retain(|_, memory| memory.module != Some(entry.id));
        session.modules.release(entry.id);
        unloaded.map(drop)
    }

    fn cuModuleGetFunction(function: Out<CUfunction>, module: CUmodule, name: Text) {
        let call = Call::enter()?;
        let session = call.session;
        let entry = find(&call, module)?;
        function.check()?;
        let name = name_of(name)?;
        let mut functions = lock(&entry.functions);
        if let Some(&known) = functions.get(name) {
            return function.set(known);
        }
        let id = session.functions.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuModuleGetFunction::In { module: entry.id, function: id };
        let found = call
            .ask_with::<calls::cuModuleGetFunction::Call>(entry.context, arguments, name)
            .and_then(|(out, blob)| layout(&blob, out.params).ok_or(result::UNKNOWN));
        let (params, params_len) = match found {
            Ok(found) => found,
            Err(code) => {
                session.functions.release(id);
                return Err(code);
            }
        };
        let attributes = Mutex::new(HashMap::new());
        let made = session.functions.insert(id, Function {
            id,
            context: entry.context,
            params,
            params_len,
            attributes,
            proven: Proven::default(),
        });
        functions.insert(name.to_vec(), made.handle());
        function.set(made.handle())
    }

    fn cuModuleGetGlobal_v2(pointer: Out<CUdeviceptr>, bytes: Out<usize>, module: CUmodule, name: Text) {
        let call = Call::enter()?;
        let entry = find(&call, module)?;
        let name = name_of(name)?;
        if pointer.is_null() && bytes.is_null() {
            return Err(result::INVALID_VALUE);
        }
        let mut globals = lock(&entry.globals);
        let (addr, len) = match globals.get(name) {
            Some(&known) => known,
            None => {
                let arguments = calls::cuModuleGetGlobal::In { module: entry.id };
                let (out, _) = call.ask_with::<calls::cuModuleGetGlobal::Call>(entry.context, arguments, name)?;
                globals.insert(name.to_vec(), (out.pointer, out.bytes));
                let memory = DeviceMemory { len: out.bytes, context: entry.context, module: Some(entry.id) };
                call.session.device_memory().insert(out.pointer, memory);
                (out.pointer, out.bytes)
            }
        };
        pointer.set_if_wanted(addr);
        bytes.set_if_wanted(len as usize);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<c_int>) {
        let _ = Call::local()?;
        // The host's library loads lazily unless it is told otherwise, as NVIDIA's does here.
        let eager = std::env::var_os("CUDA_MODULE_LOADING").is_some_and(|mode| mode == "EAGER");
        mode.set(if eager { EAGER_LOADING } else { LAZY_LOADING })
    }

    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: CUfunction) {
        let call = Call::enter()?;
        value.check()?;
        let found = call.session.functions.get(function);
        let function = found.ok_or(result::INVALID_HANDLE)?;
        let mut attributes = lock(&function.attributes);
        if let Some(&known) = attributes.get(&attribute) {
            return value.set(known);
        }
        let arguments = calls::cuFuncGetAttribute::In { attribute, function: function.id };
        let out = call.ask::<calls::cuFuncGetAttribute::Call>(function.context, arguments)?;
        attributes.insert(attribute, out.value);
        value.set(out.value)
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
