//! Modules and functions.

use super::abi::{CUcontext, CUdeviceptr, CUfunction, CUmodule, In, Out, Text, api};
use super::context::{Context, current};
use super::device::{SHARED_DEFAULT, SHARED_OPTIN};
use super::error::{self, Result};
use super::fatbin;
use super::memory::Origin;
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use crate::ptx::PtxError;
use crate::ptx::ir::Kernel;
use crate::ptx::lower::{Symbols, code_address, lower};
use crate::ptx::parse::{self, Init, Literal, Var};
use crate::ptx::types::Space;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

/// A loaded module.
pub struct Module {
    pub handle: CUmodule,
    pub context: CUcontext,
    kernels: HashMap<String, Arc<Kernel>>,
    /// Address and size of each global variable.
    globals: HashMap<String, (u64, usize)>,
    /// Handles given out so far.
    functions: Mutex<HashMap<String, CUfunction>>,
}

/// A kernel of a module.
pub struct Function {
    pub context: CUcontext,
    pub module: CUmodule,
    pub kernel: Arc<Kernel>,
    /// Most dynamic shared memory a launch may ask for, in bytes.
    pub max_dynamic_shared: AtomicI32,
}

/// What a module image is, by its first bytes.
pub(crate) fn image_text(image: *const c_void) -> Result<String> {
    let first: u32 = In(image.cast()).get()?;
    match first {
        fatbin::WRAPPER => fatbin::ptx(fatbin::unwrap(In(image.cast()))?),
        fatbin::CONTAINER => fatbin::ptx(In(image.cast())),
        // ELF: a cubin.
        0x464c_457f => {
            eprintln!("softgpu: only PTX can be loaded, not machine code");
            Err(error::NO_BINARY_FOR_GPU)
        }
        _ => {
            // SAFETY: as part of the C interface a text image is terminated.
            let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
            text.to_str().map(str::to_owned).map_err(|_| error::INVALID_IMAGE)
        }
    }
}

/// Where a compiler's messages go: `CU_JIT_ERROR_LOG_BUFFER` and its size.
pub(crate) struct ErrorLog(pub In<i32>, pub In<u64>, pub usize);

const JIT_ERROR_LOG_BUFFER: i32 = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: i32 = 6;

impl ErrorLog {
    /// The value of an option, if it was given.
    fn option(&self, id: i32) -> Option<u64> {
        let at = (0..self.2).find(|n| self.0.at(*n) == Ok(id))?;
        self.1.at(at).ok()
    }

    /// Stores a message with its end, as much of it as there is room for.
    pub(crate) fn write(&self, message: &str) {
        let (buffer, size) = (
            self.option(JIT_ERROR_LOG_BUFFER),
            self.option(JIT_ERROR_LOG_BUFFER_SIZE_BYTES),
        );
        if let (Some(buffer), Some(room @ 1..)) = (buffer, size.map(|size| size as u32 as usize)) {
            let kept = message.bytes().take(room - 1).chain([0]);
            for (at, byte) in kept.enumerate() {
                Out((buffer as *mut u8).wrapping_add(at)).set_if_wanted(byte);
            }
        }
    }
}

/// Loads PTX into a context.
fn load(runtime: &Runtime, context: &Arc<Context>, text: &str, log: &ErrorLog) -> Result<CUmodule> {
    let refused = |e: PtxError| {
        eprintln!("softgpu: PTX {e}");
        log.write(&format!("PTX {e}\n"));
        error::INVALID_PTX
    };
    let parsed = parse::parse(text).map_err(refused)?;
    let mut owned = Owned {
        runtime,
        addresses: Vec::new(),
    };
    let mut globals = HashMap::new();
    let mut symbols = Symbols::new();
    for var in parsed
        .vars
        .iter()
        .filter(|v| matches!(v.space, Space::Global | Space::Const))
    {
        let address = runtime.memory.allocate(context, var.size.max(1) as u64)?;
        owned.addresses.push(address);
        if var.managed {
            runtime.memory.set_origin(address, Origin::Managed);
        }
        symbols.insert(var.name.clone(), address);
        globals.insert(var.name.clone(), (address, var.size));
    }
    for function in &parsed.functions {
        if let Some(address) = code_address(&parsed, &function.name) {
            symbols.insert(function.name.clone(), address);
        }
    }
    for var in parsed.vars.iter().filter(|v| globals.contains_key(&v.name)) {
        initialise(var, &symbols).map_err(refused)?;
    }
    let mut kernels = HashMap::new();
    for function in parsed.functions.iter().filter(|f| f.is_entry) {
        let kernel = lower(&parsed, function, &symbols).map_err(refused)?;
        kernels.insert(function.name.clone(), Arc::new(kernel));
    }
    owned.addresses.clear();
    let handle = new_handle();
    let module = Module {
        handle,
        context: context.handle,
        kernels,
        globals,
        functions: Mutex::default(),
    };
    runtime.modules.add(handle, Arc::new(module));
    Ok(handle)
}

/// Gives back the variables of a module that could not be loaded.
struct Owned<'a> {
    runtime: &'a Runtime,
    addresses: Vec<u64>,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        for &address in &self.addresses {
            // Each was allocated just before.
            let _ = self.runtime.memory.free(self.runtime, address);
        }
    }
}

fn initialise(var: &Var, symbols: &Symbols) -> std::result::Result<(), PtxError> {
    let address = symbols[&var.name];
    // Freed memory is handed out again as it is, but variables begin as zeros.
    // SAFETY: the variable was allocated with this size, and nobody knows its address yet.
    let bytes = unsafe {
        std::ptr::write_bytes(address as *mut u8, 0, var.size);
        std::slice::from_raw_parts_mut(address as *mut u8, var.size)
    };
    let size = var.ty.size();
    for (value, place) in var.init.iter().zip(bytes.chunks_exact_mut(size)) {
        let bits = match value {
            Init::Literal(Literal::Int(v)) => *v,
            Init::Literal(Literal::F32(v)) if size == 8 => f64::from(f32::from_bits(*v)).to_bits(),
            Init::Literal(Literal::F32(v)) => u64::from(*v),
            Init::Literal(Literal::F64(v)) if size == 4 => u64::from((f64::from_bits(*v) as f32).to_bits()),
            Init::Literal(Literal::F64(v)) => *v,
            Init::Address(name, offset) => match symbols.get(name) {
                Some(base) => base.wrapping_add(*offset as u64),
                None => return Err(PtxError::new(var.line, format!("unknown symbol {name}"))),
            },
        };
        if size > 8 {
            return Err(PtxError::new(
                var.line,
                "initial values of that type are not supported",
            ));
        }
        place.copy_from_slice(&bits.to_le_bytes()[..size]);
    }
    Ok(())
}

/// The function handle of a kernel; always the same for the same kernel.
pub(crate) fn function(runtime: &Runtime, module: &Module, name: &str) -> Result<CUfunction> {
    let kernel = module.kernels.get(name).ok_or(error::NOT_FOUND)?;
    let mut functions = module.functions.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(&handle) = functions.get(name) {
        return Ok(handle);
    }
    let handle = new_handle();
    let limit = SHARED_DEFAULT - (kernel.shared_bytes as i32).min(SHARED_DEFAULT);
    let function = Function {
        context: module.context,
        module: module.handle,
        kernel: kernel.clone(),
        max_dynamic_shared: AtomicI32::new(limit),
    };
    runtime.functions.add(handle, Arc::new(function));
    functions.insert(name.to_owned(), handle);
    Ok(handle)
}

/// `CUfunction_attribute`
fn attribute(function: &Function, id: i32) -> Result<i32> {
    let kernel = &function.kernel;
    Ok(match id {
        0 => kernel.max_threads as i32,
        1 => kernel.shared_bytes as i32,
        2 => 0,
        3 => kernel.local_bytes as i32,
        4 => kernel.registers as i32,
        5 | 6 => 90,
        7 => 0,
        8 => function.max_dynamic_shared.load(Ordering::Relaxed),
        9 => -1,
        10..=15 => 0,
        _ => return Err(error::INVALID_VALUE),
    })
}

api! { SYMBOLS;
    fn cuModuleLoadData(out: Out<CUmodule>, image: *const c_void) {
        let context = current()?;
        let runtime = runtime()?;
        let log = ErrorLog(In(std::ptr::null()), In(std::ptr::null()), 0);
        out.set(load(runtime, &context, &image_text(image)?, &log)?)
    }

    fn cuModuleLoadDataEx(
        out: Out<CUmodule>, image: *const c_void, count: u32, options: In<i32>, values: In<u64>,
    ) {
        let context = current()?;
        let runtime = runtime()?;
        let log = ErrorLog(options, values, count as usize);
        out.set(load(runtime, &context, &image_text(image)?, &log)?)
    }

    fn cuModuleLoadFatBinary(out: Out<CUmodule>, image: *const c_void) {
        let context = current()?;
        let runtime = runtime()?;
        let log = ErrorLog(In(std::ptr::null()), In(std::ptr::null()), 0);
        out.set(load(runtime, &context, &image_text(image)?, &log)?)
    }

    fn cuModuleUnload(handle: CUmodule) {
        let context = current()?;
        let runtime = initialised()?;
        runtime.captures.forbid()?;
        let module = runtime.modules.remove(handle)?;
        context.drain();
        runtime.check()?;
        runtime.functions.retain(|function| function.module != handle);
        for (address, _) in module.globals.values() {
            runtime.memory.free(runtime, *address)?;
        }
        Ok(())
    }

    fn cuModuleGetFunction(out: Out<CUfunction>, module: CUmodule, name: Text) {
        let runtime = runtime()?;
        out.set(function(runtime, &*runtime.modules.get(module)?, &name.get()?)?)
    }

    fn cuModuleGetFunctionCount(out: Out<u32>, module: CUmodule) {
        out.set(runtime()?.modules.get(module)?.kernels.len() as u32)
    }

    fn cuModuleEnumerateFunctions(out: Out<CUfunction>, len: u32, module: CUmodule) {
        let runtime = runtime()?;
        let module = runtime.modules.get(module)?;
        let mut names: Vec<_> = module.kernels.keys().collect();
        names.sort();
        for (i, name) in names.into_iter().take(len as usize).enumerate() {
            Out(out.0.wrapping_add(i)).set(function(runtime, &module, name)?)?;
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(address: Out<CUdeviceptr>, len: Out<usize>, module: CUmodule, name: Text) {
        let module = runtime()?.modules.get(module)?;
        let (at, size) = *module.globals.get(&name.get()?).ok_or(error::NOT_FOUND)?;
        address.set_if_wanted(at);
        len.set_if_wanted(size);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<i32>) {
        // CU_MODULE_EAGER_LOADING
        mode.set(1)
    }

    fn cuFuncGetModule(out: Out<CUmodule>, function: CUfunction) {
        out.set(runtime()?.functions.get(function)?.module)
    }

    fn cuFuncGetAttribute(out: Out<i32>, id: i32, function: CUfunction) {
        out.set(attribute(&*runtime()?.functions.get(function)?, id)?)
    }

    fn cuFuncSetAttribute(function: CUfunction, id: i32, value: i32) {
        let function = runtime()?.functions.get(function)?;
        match id {
            8 if value < 0 || value > SHARED_OPTIN - function.kernel.shared_bytes as i32 => {
                Err(error::INVALID_VALUE)
            }
            8 => {
                function.max_dynamic_shared.store(value, Ordering::Relaxed);
                Ok(())
            }
            // A preference for shared memory over cache: there is no cache to divide.
            9 => Ok(()),
            _ => Err(error::INVALID_VALUE),
        }
    }

    fn cuFuncIsLoaded(out: Out<i32>, function: CUfunction) {
        runtime()?.functions.get(function)?;
        // CU_FUNCTION_LOADING_STATE_LOADED: all of a module is there with it.
        out.set(1)
    }

    fn cuFuncLoad(function: CUfunction) {
        runtime()?.functions.get(function).map(|_| ())
    }

    fn cuFuncSetCacheConfig(function: CUfunction, _config: i32) {
        runtime()?.functions.get(function).map(|_| ())
    }

    fn cuFuncGetParamInfo(function: CUfunction, index: usize, offset: Out<usize>, size: Out<usize>) {
        let function = runtime()?.functions.get(function)?;
        let (at, len) = *function.kernel.params.get(index).ok_or(error::INVALID_VALUE)?;
        offset.set(at)?;
        size.set_if_wanted(len);
        Ok(())
    }

    fn cuFuncGetName(out: Out<*const c_char>, function: CUfunction) {
        let function = runtime()?.functions.get(function)?;
        out.set(function.kernel.c_name.as_ptr())
    }
}
