//! Modules and what is in them.
use super::cuda;
use crate::abi::{CUdeviceptr, CUfunction, CUmodule, Host, In, Out, Text};
use crate::handles::Entry;
use crate::lock;
use crate::objects::{Function, Module};
use crate::session::{Call, DeviceMemory};
use std::collections::HashMap;
use std::ffi::{OsStr, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls;
use vgpu_protocol::limits::{KERNEL_PARAMS_LEN_MAX, MODULE_LEN_MAX, NAME_LEN_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::KernelParam;
use zerocopy::FromBytes;

const FATBIN_MAGIC: u32 = 0xba55_ed50;
const FATBIN_WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// CU_MODULE_EAGER_LOADING: functions are there as soon as their module is.
const EAGER_LOADING: c_int = 1;

/// CUjit_option values whose results a caller may read.
const JIT_WALL_TIME: c_int = 2;
const JIT_INFO_LOG_BUFFER: c_int = 3;
const JIT_INFO_LOG_BUFFER_SIZE_BYTES: c_int = 4;
const JIT_ERROR_LOG_BUFFER: c_int = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]]).into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (0..8).fold(0, |word, i| word | u64::from(bytes[at + i]) << (8 * i))
}

/// Bytes of the image at `image`: a fat binary, an ELF file or PTX text with its terminator.
fn image_len(image: Host) -> Result<usize, Code> {
    let start = image.bytes(4)?;
    let len = if start == FATBIN_MAGIC.to_le_bytes() {
        // magic u32, version u16, header bytes u16, bytes after the header u64
        let header = image.bytes(16)?;
        u16_at(header, 6).saturating_add(u64_at(header, 8))
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
    Ok(len as usize)
}

/// Bytes of a 64-bit ELF file: up to the end of whatever its tables and their entries name.
fn elf_len(image: Host) -> Result<u64, Code> {
    const SHT_NOBITS: u32 = 8;
    let header = image.bytes(64)?;
    let (programs, sections) = (u64_at(header, 32), u64_at(header, 40));
    let (program_len, program_count) = (u16_at(header, 54), u16_at(header, 56));
    let (section_len, section_count) = (u16_at(header, 58), u16_at(header, 60));
    let mut end = 64.max(programs.saturating_add(program_len * program_count));
    end = end.max(sections.saturating_add(section_len * section_count));
    if end > MODULE_LEN_MAX || (section_count > 0 && section_len < 64) {
        return Err(result::INVALID_IMAGE);
    }
    let table = image.bytes(end as usize)?;
    for i in 0..section_count {
        let entry = &table[(sections + i * section_len) as usize..][..64];
        let kind = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        if kind != SHT_NOBITS {
            end = end.max(u64_at(entry, 24).saturating_add(u64_at(entry, 32)));
        }
    }
    Ok(end)
}

fn load(place: Out<CUmodule>, image: &[u8]) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    place.check()?;
    let session = call.session;
    let id = session.modules.reserve().ok_or(result::OUT_OF_MEMORY)?;
    // The host copies the image once, out of a buffer that it can reach.
    let loaded = session.alloc(image.len() as u64, false).and_then(|addr| {
        // SAFETY: a new buffer of at least this length, which nothing else uses.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), addr as *mut u8, image.len()) };
        let arguments = calls::cuModuleLoadData::In {
            image: addr,
            bytes: image.len() as u64,
            module: id,
        };
        let loaded = call.ask::<calls::cuModuleLoadData::Call>(context.id, arguments);
        let freed = session.free(addr, image.len() as u64);
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

fn load_image(place: Out<CUmodule>, image: Host) -> Result<(), Code> {
    let _ = Call::enter()?;
    load(place, image.bytes(image_len(image)?)?)
}

/// The image behind a pointer that may be one to a compiler's wrapper of it.
fn unwrapped(image: Host) -> Result<Host, Code> {
    // magic u32, version u32, address of the fat binary u64
    if image.bytes(4)? != FATBIN_WRAPPER_MAGIC.to_le_bytes() {
        return Ok(image);
    }
    let inner = u64_at(image.bytes(16)?, 8);
    // SAFETY: such a wrapper names the fat binary that it wraps.
    Ok(unsafe { Host::new(inner as usize) })
}

fn find(call: &Call, module: CUmodule) -> Result<Arc<Entry<Module>>, Code> {
    let found = call.session.modules.get(module);
    Ok(Arc::clone(&*found.ok_or(result::INVALID_HANDLE)?))
}

fn name_of(name: Text) -> Result<&'static [u8], Code> {
    let name = name.get()?.to_bytes();
    if name.is_empty() || name.len() > NAME_LEN_MAX {
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
        let _ = Call::enter()?;
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        let mut image = std::fs::read(path).map_err(|_| result::FILE_NOT_FOUND)?;
        // A file of PTX need not have a terminator.
        image.push(0);
        load(module, &image)
    }

    fn cuModuleLoadData(module: Out<CUmodule>, image: Host) {
        load_image(module, unwrapped(image)?)
    }

    fn cuModuleLoadDataEx(
        module: Out<CUmodule>, image: Host, options_len: c_uint, options: In<c_int>, values: In<Out<u8>>,
    ) {
        let loaded = load_image(module, unwrapped(image)?);
        // The host's compiler chooses as it does without options; logs are empty.
        for i in 0..options_len as usize {
            match options.at(i)? {
                JIT_INFO_LOG_BUFFER | JIT_ERROR_LOG_BUFFER => values.at(i)?.set_if_wanted(0),
                JIT_WALL_TIME | JIT_INFO_LOG_BUFFER_SIZE_BYTES | JIT_ERROR_LOG_BUFFER_SIZE_BYTES => {
                    values.place(i)?.set(0)?;
                }
                _ => {}
            }
        }
        loaded
    }

    fn cuModuleLoadFatBinary(module: Out<CUmodule>, image: Host) {
        load_image(module, unwrapped(image)?)
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
        let made = session.functions.insert(id, Function { id, context: entry.context, params, params_len, attributes });
        functions.insert(name.to_vec(), made.handle());
        function.set(made.handle())
    }

    fn cuModuleGetGlobal_v2(pointer: Out<CUdeviceptr>, bytes: Out<usize>, module: CUmodule, name: Text) {
        let call = Call::enter()?;
        let entry = find(&call, module)?;
        let name = name_of(name)?;
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
        mode.set(EAGER_LOADING)
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
    use zerocopy::IntoBytes;

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
