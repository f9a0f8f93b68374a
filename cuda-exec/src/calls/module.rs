//! Modules, their kernels and variables.
use super::BAD_HANDLE;
use crate::cuda::{Cuda, Jit, JitSaid, Raw};
use crate::dispatch::{Handle, handlers_of};
use crate::handles::{Function, Module};
use crate::image::Image;
use crate::ring::{Consumer, Failure};
use std::ffi::CString;
use std::sync::Arc;
use vgpu_protocol::calls::{
    cuFuncGetAttribute, cuModuleGetFunction, cuModuleGetGlobal, cuModuleLoadData, cuModuleLoadDataEx,
    cuModuleUnload,
};
use vgpu_protocol::limits::{
    JIT_LOG_LEN_MAX, JIT_OPTIONS_MAX, KERNEL_PARAMS_LEN_MAX, MODULE_LEN_MAX, NAME_LEN_MAX, REPLY_LEN_MAX,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::{JitOption, KernelParam};
use zerocopy::{FromBytes, IntoBytes};

/// Parameters that a reply can list, beside two words.
const PARAMS_MAX: usize = (REPLY_LEN_MAX as usize - 16) / size_of::<KernelParam>();

/// CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH.
const REQUIRED_CLUSTER_WIDTH: i32 = 11;

pub(super) fn name(blob: &[u8]) -> Result<CString, Code> {
    if blob.len() > NAME_LEN_MAX {
        return Err(result::INVALID_VALUE);
    }
    CString::new(blob).map_err(|_| result::INVALID_VALUE)
}

/// Copies an image out of guest memory.
pub(super) fn take_image(ring: &Consumer, image: u64, bytes: u64) -> Result<Arc<Image>, Failure> {
    if bytes == 0 || bytes > MODULE_LEN_MAX {
        return Err(result::INVALID_IMAGE.into());
    }
    let view = ring.session.memory.view();
    let range = view.host(image, bytes).ok_or(result::INVALID_VALUE)?;
    let taken = ring.session.images.take(&range).map_err(|error| {
        log::error!("copying a module image of {bytes} bytes: {error}");
        match error.kind() {
            std::io::ErrorKind::OutOfMemory => result::OUT_OF_MEMORY,
            _ => result::OPERATING_SYSTEM,
        }
    })?;
    Ok(taken)
}

/// The compiler's options in a blob: none but numbers.
pub(super) fn jit_options(blob: &[u8]) -> Result<&[JitOption], Code> {
    let options = <[JitOption]>::ref_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
    let numbers = options
        .iter()
        .all(|o| i32::try_from(o.option).is_ok_and(JitOption::is_number));
    if numbers && options.len() <= JIT_OPTIONS_MAX {
        Ok(options)
    } else {
        Err(result::INVALID_VALUE)
    }
}

/// Takes an image and has `load` load it.
fn load(
    ring: &mut Consumer,
    image: u64,
    bytes: u64,
    module: u32,
    mut load: impl FnMut(&Cuda, &Image) -> Result<Raw, Code>,
) -> Result<(), Failure> {
    let session = ring.session;
    session
        .objects
        .modules
        .check_new(module)
        .map_err(|_| BAD_HANDLE)?;
    let image = take_image(ring, image, bytes)?;
    session.output.look_at(session, &image);
    let context = ring.context()?;
    let (raw, charge) = context.make(
        || load(&session.cuda, &image),
        |raw| session.cuda.module_unload(raw),
    )?;
    let loaded = Module {
        context,
        id: module,
        raw,
        charge,
        _image: image,
    };
    session
        .objects
        .modules
        .insert(module, loaded)
        .map_err(|_| BAD_HANDLE)?;
    Ok(())
}

impl Handle for cuModuleLoadData::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuModuleLoadData::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuModuleLoadData::Out, Failure> {
        let cuModuleLoadData::In { image, bytes, module } = arguments;
        load(ring, image, bytes, module, |cuda, image| cuda.module_load(image))?;
        Ok(cuModuleLoadData::Out {})
    }
}

impl Handle for cuModuleLoadDataEx::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuModuleLoadDataEx::In,
        blob: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<cuModuleLoadDataEx::Out, Failure> {
        let a = arguments;
        let options = jit_options(blob)?;
        if a.info_len.max(a.error_len) > JIT_LOG_LEN_MAX {
            return Err(result::INVALID_VALUE.into());
        }
        let mut said = JitSaid::default();
        let loaded = load(ring, a.image, a.bytes, a.module, |cuda, image| {
            let mut jit = Jit::new(options, a.info_len as usize, a.error_len as usize);
            let loaded = cuda.module_load_with(image, &mut jit);
            said = jit.said();
            loaded
        });
        let result = match loaded {
            Ok(()) => result::SUCCESS,
            Err(Failure::Cuda(code)) => {
                ring.session.look_at(code);
                code
            }
            Err(other) => return Err(other),
        };
        reply.extend_from_slice(&said.info);
        reply.extend_from_slice(&said.error);
        Ok(cuModuleLoadDataEx::Out {
            result,
            wall_time_bits: said.wall_time_bits,
            threads: said.threads,
            info_said: said.info.len() as u32,
            error_said: said.error.len() as u32,
        })
    }
}

impl Handle for cuModuleUnload::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuModuleUnload::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuModuleUnload::Out, Failure> {
        let session = ring.session;
        let module = session
            .objects
            .modules
            .remove(arguments.module)
            .ok_or(BAD_HANDLE)?;
        session.memory.remove_module(module.id);
        session
            .objects
            .functions
            .remove_all(|function| Arc::ptr_eq(&function.module, &module));
        Ok(cuModuleUnload::Out {})
    }
}

impl Handle for cuModuleGetFunction::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuModuleGetFunction::In,
        blob: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<cuModuleGetFunction::Out, Failure> {
        let cuModuleGetFunction::In { module, function } = arguments;
        let session = ring.session;
        let module = session.objects.modules.get(module).ok_or(BAD_HANDLE)?;
        session
            .objects
            .functions
            .check_new(function)
            .map_err(|_| BAD_HANDLE)?;
        module.context.make_current()?;
        let raw = session.cuda.module_get_function(module.raw, &name(blob)?)?;
        let mut params = Vec::new();
        loop {
            let (offset, size) = match session.cuda.func_get_param_info(raw, params.len()) {
                Ok(param) => param,
                Err(result::INVALID_VALUE) => break,
                Err(code) => return Err(code.into()),
            };
            if offset
                .checked_add(size)
                .is_none_or(|end| end > KERNEL_PARAMS_LEN_MAX)
            {
                return Err(result::INVALID_IMAGE.into());
            }
            if params.len() == PARAMS_MAX {
                return Err(result::NOT_SUPPORTED.into());
            }
            params.push(KernelParam {
                offset: offset as u32,
                size: size as u32,
            });
        }
        reply.extend_from_slice(params.as_bytes());
        let width = session.cuda.func_get_attribute(raw, REQUIRED_CLUSTER_WIDTH);
        let clusters = width.is_ok_and(|width| width > 0).into();
        let count = params.len() as u32;
        let found = Function { module, raw, params };
        session
            .objects
            .functions
            .insert(function, found)
            .map_err(|_| BAD_HANDLE)?;
        Ok(cuModuleGetFunction::Out {
            params: count,
            clusters,
        })
    }
}

impl Handle for cuModuleGetGlobal::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuModuleGetGlobal::In,
        blob: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuModuleGetGlobal::Out, Failure> {
        let session = ring.session;
        let module = session.objects.modules.get(arguments.module).ok_or(BAD_HANDLE)?;
        module.context.make_current()?;
        let (pointer, bytes) = session.cuda.module_get_global(module.raw, &name(blob)?)?;
        // It lies in managed memory of this process, where the guest cannot look.
        if session.cuda.memories.is_managed(pointer) {
            return Err(result::NOT_SUPPORTED.into());
        }
        session
            .memory
            .add_variable(pointer, bytes, module.context.id, module.id);
        // Unloaded meanwhile, it has taken what it knew of with it.
        let still = session.objects.modules.get(arguments.module);
        if !still.is_some_and(|still| std::sync::Arc::ptr_eq(&still, &module)) {
            session.memory.remove_module(module.id);
            return Err(BAD_HANDLE);
        }
        Ok(cuModuleGetGlobal::Out { pointer, bytes })
    }
}

impl Handle for cuFuncGetAttribute::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuFuncGetAttribute::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuFuncGetAttribute::Out, Failure> {
        let function = ring
            .session
            .objects
            .functions
            .get(arguments.function)
            .ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        let value = ring
            .session
            .cuda
            .func_get_attribute(function.raw, arguments.attribute)?;
        Ok(cuFuncGetAttribute::Out { value })
    }
}

handlers_of! {
    cuModuleEnumerateFunctions(ring, arguments, _blob, reply) {
        let session = ring.session;
        let module = session.objects.modules.get(arguments.module).ok_or(BAD_HANDLE)?;
        module.context.make_current()?;
        let total = session.cuda.contexts.module_function_count(module.raw)?;
        let mut functions = vec![0; total as usize];
        // SAFETY: as many places as is said, which outlive the call.
        unsafe { session.cuda.contexts.module_functions(functions.as_mut_ptr(), total, module.raw) }?;
        let mut told = 0;
        for &function in functions.iter().skip(arguments.from as usize) {
            let mut name = std::ptr::null();
            // SAFETY: a place that outlives the call.
            unsafe { session.cuda.contexts.func_name(&mut name, function) }?;
            // SAFETY: libcuda's own text, which lives as long as the module.
            let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_bytes_with_nul();
            if reply.len() + name.len() > REPLY_LEN_MAX as usize - 16 {
                break;
            }
            reply.extend_from_slice(name);
            told += 1;
        }
        Ok(Out { total, told })
    }

    cuFuncSetAttribute(ring, arguments) {
        let function = ring.session.objects.functions.get(arguments.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        ring.session.cuda.contexts.func_set_attribute(function.raw, arguments.attribute, arguments.value)?;
        Ok(Out {})
    }

    cuFuncSetCacheConfig(ring, arguments) {
        let function = ring.session.objects.functions.get(arguments.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        ring.session.cuda.contexts.func_set_cache_config(function.raw, arguments.config)?;
        Ok(Out {})
    }

    cuFuncIsLoaded(ring, arguments) {
        let function = ring.session.objects.functions.get(arguments.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        let state = ring.session.cuda.contexts.func_is_loaded(function.raw)?;
        Ok(Out { state })
    }

    cuFuncLoad(ring, arguments) {
        let function = ring.session.objects.functions.get(arguments.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        ring.session.cuda.contexts.func_load(function.raw)?;
        Ok(Out {})
    }
}
