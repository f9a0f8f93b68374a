//! Libraries and their kernels.
use super::capture::refuse_in_capture;
use super::function::{attribute, parameter};
use super::module::{
    Jit, LOOKED_THROUGH, Untouched, image_len, loads_eagerly, module_function_names, module_global, unwrapped,
};
use super::{Variables, cuda, device};
use crate::abi::{CUdevice, CUdeviceptr, CUfunction, CUkernel, CUlibrary, CUmodule, Host, In, Out, Text};
use crate::handles::{Entry, Found};
use crate::library::{Image, Kernel, Library, Managed, Rewritten};
use crate::lock;
use crate::objects::{Context, Module};
use crate::session::Call;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// CUlibraryOption: a table of the host's functions that code calls, and that the caller keeps the image where it is.
const HOST_FUNCTION_TABLE: c_int = 0;
const BINARY_IS_PRESERVED: c_int = 1;

fn find(call: &Call, library: CUlibrary) -> Result<Found<Library>, Code> {
    call.session.libraries.get(library).ok_or(result::INVALID_HANDLE)
}

fn kernel(call: &Call, kernel: CUkernel) -> Result<Found<Kernel>, Code> {
    call.session.kernels.get(kernel).ok_or(result::INVALID_HANDLE)
}

/// Makes a library of an image that is `len` bytes long.
fn make(call: &Call, place: Out<CUlibrary>, image: Image, len: u64, jit: &Jit) -> Result<(), Code> {
    let session = call.session;
    let id = session.libraries.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let library = Library {
        id,
        image,
        len,
        options: jit.numbers.clone(),
        managed: Mutex::default(),
        modules: Mutex::default(),
        kernels: Mutex::default(),
    };
    let entry = session.libraries.insert(id, library);
    place.set(entry.handle())
}

/// Options of a library; whether the image stays where it is.
fn library_options(len: usize, options: In<c_int>) -> Result<bool, Code> {
    let mut preserved = false;
    for i in 0..len {
        match options.at(i)? {
            BINARY_IS_PRESERVED => preserved = true,
            HOST_FUNCTION_TABLE => return Err(result::NOT_SUPPORTED),
            _ => return Err(result::INVALID_VALUE),
        }
    }
    Ok(preserved)
}

/// The kernel's handle; the same one whenever it is asked for.
fn kernel_handle(call: &Call, library: &Entry<Library>, name: &CStr) -> Result<CUkernel, Code> {
    let mut kernels = lock(&library.kernels);
    if let Some(&known) = kernels.get(name.to_bytes()) {
        return Ok(known);
    }
    let session = call.session;
    let id = session.kernels.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let made = Kernel::new(id, library.handle(), name.to_owned());
    // Whether there is such a kernel only a context's module tells. Without a context its first use does.
    if let Ok(context) = call.current()
        && let Err(code) = made.function(call, &context)
    {
        session.kernels.release(id);
        return Err(code);
    }
    let handle = session.kernels.insert(id, made).handle();
    kernels.insert(name.to_bytes().to_vec(), handle);
    Ok(handle)
}

/// Looks at something that needs a context, but no particular one: in the current one, in any other, or, if there is none, in
/// the first device's primary context, which then exists for as long as that takes.
fn with_context<R>(
    call: &Call,
    look: impl FnOnce(&Arc<Entry<Context>>) -> Result<R, Code>,
) -> Result<R, Code> {
    if let Ok(current) = call.current() {
        return look(&current);
    }
    let contexts = call.session.contexts.all();
    if let Some(context) = contexts.iter().find(|context| context.is_alive()) {
        return look(context);
    }
    let context = super::primary::retain(call, 0)?;
    let seen = look(&context);
    super::primary::release(0)?;
    seen
}

/// A library's module in the current context.
fn current_module(call: &Call, library: &Library) -> Result<Arc<Entry<Module>>, Code> {
    module_in(call, library, &call.current()?)
}

/// A library's module in a context.
fn module_in(
    call: &Call,
    library: &Library,
    context: &Arc<Entry<Context>>,
) -> Result<Arc<Entry<Module>>, Code> {
    let module = library.module(call, context)?;
    let found = call.session.modules.get(module);
    Ok(Arc::clone(&*found.ok_or(result::INVALID_HANDLE)?))
}

/// The library's managed variables, taken out of its code if they are not yet. That is too late where something of one of its modules was
/// handed out: `None`, as for a library without any. NVIDIA's runtime asks for them as the first thing.
fn take_out(call: &Call, library: &Library) -> Result<Option<Arc<Variables>>, Code> {
    // Nothing of it is loaded meanwhile.
    let loaded = lock(&library.modules);
    let mut managed = lock(&library.managed);
    match &*managed {
        Managed::None => return Ok(None),
        Managed::TakenOut(code) => return Ok(Some(code.variables.clone())),
        Managed::Unknown => {}
    }
    // Those of contexts that are gone are gone.
    let alive = loaded
        .values()
        .filter_map(|&module| call.session.modules.get(module));
    let modules: Vec<_> = alive.collect();
    let Some(untouched) = Untouched::all(&modules) else {
        return Ok(None);
    };
    let mut image = vec![0; library.len as usize];
    if !library.image.host().read(0, &mut image) {
        return Err(result::INVALID_IMAGE);
    }
    let Some((variables, image)) = Variables::place(call, 0, &image)? else {
        *managed = Managed::None;
        return Ok(None);
    };
    let code = Arc::new(Rewritten {
        len: image.len() as u64,
        image: Image::Own(image.into()),
        variables: Arc::new(variables),
    });
    if let Err(failed) = untouched.load_again(call, library, &code) {
        drop((untouched, managed, loaded));
        return code.variables.free(call).and(Err(failed));
    }
    *managed = Managed::TakenOut(code.clone());
    drop((untouched, managed, loaded));
    for module in &modules {
        code.variables.link(call, module)?;
    }
    Ok(Some(code.variables.clone()))
}

/// The same for the library of a module, if it is one's: before CUDA 13 NVIDIA's runtime loads a library's module, and asks that for them.
pub(super) fn take_out_of(call: &Call, module: CUmodule) -> Result<Option<Arc<Variables>>, Code> {
    match call.session.library_of(module) {
        Some(library) => take_out(call, &library),
        None => Ok(None),
    }
}

/// Address and bytes of a library's managed variable.
fn managed(call: &Call, library: &Library, name: &[u8]) -> Result<(u64, u64), Code> {
    if let Some(variables) = take_out(call, library)? {
        let found = variables.get(name).ok_or(result::NOT_FOUND)?;
        if variables.needs_module() {
            current_module(call, library)?;
        }
        return Ok(found);
    }
    // The host refuses to say where one is that was not taken out. An ordinary variable is none.
    module_global(call, &*current_module(call, library)?, name)?;
    Err(result::NOT_FOUND)
}

/// What is asked of a device's context is asked of the current one's, or of the primary one's.
fn with_function<R>(
    call: &Call,
    of: CUkernel,
    device: CUdevice,
    ask: impl FnOnce(&crate::objects::Function) -> Result<R, Code>,
) -> Result<R, Code> {
    device::gpu(call, device)?;
    let kernel = kernel(call, of)?;
    let context = call.context_on(device as usize)?;
    ask(&*kernel.function(call, &context)?)
}

cuda! {
    fn cuLibraryLoadData(
        library: Out<CUlibrary>, code: Host,
        jit_options: In<c_int>, jit_values: In<Out<u8>>, jit_len: c_uint,
        options: In<c_int>, _values: In<usize>, len: c_uint,
    ) {
        let call = Call::enter()?;
        library.check()?;
        let jit = Jit::new(jit_len as usize, jit_options, jit_values)?;
        let preserved = library_options(len as usize, options)?;
        let image = unwrapped(code)?;
        let bytes = image_len(image)?;
        let image = if preserved {
            Image::Kept(image)
        } else {
            let mut copy = vec![0; bytes as usize];
            if !image.read(0, &mut copy) {
                return Err(result::INVALID_IMAGE);
            }
            Image::Own(copy.into())
        };
        make(&call, library, image, bytes, &jit)
    }

    fn cuLibraryLoadFromFile(
        library: Out<CUlibrary>, path: Text,
        jit_options: In<c_int>, jit_values: In<Out<u8>>, jit_len: c_uint,
        options: In<c_int>, _values: In<usize>, len: c_uint,
    ) {
        let call = Call::enter()?;
        library.check()?;
        let jit = Jit::new(jit_len as usize, jit_options, jit_values)?;
        library_options(len as usize, options)?;
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        let mut image = std::fs::read(path).map_err(|_| result::FILE_NOT_FOUND)?;
        // A file of PTX need not have a terminator.
        image.push(0);
        let bytes = image.len() as u64;
        make(&call, library, Image::Own(image.into()), bytes, &jit)
    }

    fn cuLibraryUnload(library: CUlibrary) {
        let call = Call::enter()?;
        let session = call.session;
        drop(find(&call, library)?);
        refuse_in_capture(&call)?;
        let entry = session.libraries.remove(library).ok_or(result::INVALID_HANDLE)?;
        for (_, kernel) in lock(&entry.kernels).drain() {
            if let Some(kernel) = session.kernels.remove(kernel) {
                session.kernels.release(kernel.id);
            }
        }
        let modules: Vec<_> = lock(&entry.modules).drain().map(|(_, module)| module).collect();
        session.libraries.release(entry.id);
        for module in modules {
            // Those of contexts that are gone are gone.
            super::module::unload(&call, module).or_else(|code| match code {
                result::INVALID_HANDLE => Ok(()),
                code => Err(code),
            })?;
        }
        match std::mem::take(&mut *lock(&entry.managed)) {
            Managed::TakenOut(code) => code.variables.free(&call),
            Managed::Unknown | Managed::None => Ok(()),
        }
    }

    fn cuLibraryGetKernel(place: Out<CUkernel>, library: CUlibrary, name: Text) {
        let call = Call::enter()?;
        place.check()?;
        let library = find(&call, library)?;
        place.set(kernel_handle(&call, &library, name.get()?)?)
    }

    fn cuLibraryGetKernelCount(count: Out<c_uint>, library: CUlibrary) {
        let call = Call::enter()?;
        count.check()?;
        let library = find(&call, library)?;
        let names = with_context(&call, |context| {
            module_function_names(&call, &*module_in(&call, &library, context)?)
        })?;
        count.set(names.len() as c_uint)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<CUkernel>, len: c_uint, library: CUlibrary) {
        let call = Call::enter()?;
        kernels.check()?;
        let library = find(&call, library)?;
        let names = with_context(&call, |context| {
            module_function_names(&call, &*module_in(&call, &library, context)?)
        })?;
        for (i, name) in names.into_iter().take(len as usize).enumerate() {
            let name = CString::new(name).map_err(|_| result::UNKNOWN)?;
            kernels.set_at(i, kernel_handle(&call, &library, &name)?)?;
        }
        Ok(())
    }

    fn cuLibraryGetModule(module: Out<CUmodule>, library: CUlibrary) {
        let call = Call::enter()?;
        module.check()?;
        let library = find(&call, library)?;
        let context = call.current()?;
        // CUDA 12's runtime then has functions handed out before it asks for managed variables.
        if loads_eagerly() && library.len <= LOOKED_THROUGH {
            take_out(&call, &library)?;
        }
        module.set(library.module(&call, &context)?)
    }

    fn cuLibraryGetGlobal(pointer: Out<CUdeviceptr>, bytes: Out<usize>, library: CUlibrary, name: Text) {
        let call = Call::enter()?;
        let library = find(&call, library)?;
        let name = name.get()?.to_bytes();
        if pointer.is_null() && bytes.is_null() {
            return Err(result::INVALID_VALUE);
        }
        let module = current_module(&call, &library)?;
        let (addr, len) = module_global(&call, &module, name)?;
        pointer.set_if_wanted(addr);
        bytes.set_if_wanted(len as usize);
        Ok(())
    }

    fn cuLibraryGetManaged(pointer: Out<CUdeviceptr>, bytes: Out<usize>, library: CUlibrary, name: Text) {
        let call = Call::enter()?;
        let library = find(&call, library)?;
        let name = name.get()?.to_bytes();
        if pointer.is_null() && bytes.is_null() {
            return Err(result::INVALID_VALUE);
        }
        let (addr, len) = managed(&call, &library, name)?;
        pointer.set_if_wanted(addr);
        bytes.set_if_wanted(len as usize);
        Ok(())
    }

    fn cuKernelGetFunction(function: Out<CUfunction>, of: CUkernel) {
        let call = Call::enter()?;
        function.check()?;
        function.set(kernel(&call, of)?.function(&call, &call.current()?)?.handle())
    }

    fn cuKernelGetLibrary(library: Out<CUlibrary>, of: CUkernel) {
        library.set(kernel(&Call::local()?, of)?.library)
    }

    fn cuKernelGetName(name: Out<*const c_char>, of: CUkernel) {
        // It lives as long as the kernel.
        name.set(kernel(&Call::local()?, of)?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(of: CUkernel, index: usize, offset: Out<usize>, size: Out<usize>) {
        let call = Call::enter()?;
        parameter(&*kernel(&call, of)?.function(&call, &call.current()?)?, index, offset, size)
    }

    fn cuKernelGetAttribute(value: Out<c_int>, number: c_int, of: CUkernel, device: CUdevice) {
        let call = Call::enter()?;
        value.check()?;
        value.set(with_function(&call, of, device, |function| attribute(&call, function, number))?)
    }

    fn cuKernelSetAttribute(number: c_int, value: c_int, of: CUkernel, device: CUdevice) {
        let call = Call::enter()?;
        device::gpu(&call, device)?;
        kernel(&call, of)?.set_attribute(&call, device as usize, number, value)
    }

    fn cuKernelSetCacheConfig(of: CUkernel, config: c_int, device: CUdevice) {
        let call = Call::enter()?;
        with_function(&call, of, device, |function| {
            let arguments = calls::cuFuncSetCacheConfig::In { function: function.id, config };
            call.ask::<calls::cuFuncSetCacheConfig::Call>(function.context, arguments).map(drop)
        })
    }
}
