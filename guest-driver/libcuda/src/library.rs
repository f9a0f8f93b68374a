//! Libraries: code that belongs to no context. A module is loaded for each context that uses it, when it does.
use crate::abi::Host;
use crate::api::Variables;
use crate::handles::Entry;
use crate::lock;
use crate::objects::{Context, Function};
use crate::session::{Call, Session};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// Where a library's image is.
pub enum Image {
    /// The program keeps it where it is.
    Kept(Host),
    /// A copy.
    Own(Box<[u8]>),
}

impl Image {
    /// The image.
    pub fn host(&self) -> Host {
        match self {
            Self::Kept(host) => *host,
            // SAFETY: it lives as long as the library, and is only read.
            Self::Own(bytes) => unsafe { Host::new(bytes.as_ptr() as usize) },
        }
    }
}

// SAFETY: the memory is the program's, which promised to keep it, or never changes.
unsafe impl Send for Image {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Image {}

/// A library's code, with its managed variables in the guest's memory.
pub struct Rewritten {
    /// The code.
    pub image: Image,
    /// Bytes of it.
    pub len: u64,
    /// Its managed variables.
    pub variables: Arc<Variables>,
}

/// Where a library's managed variables are.
#[derive(Clone, Default)]
pub enum Managed {
    /// In its code, if there are any.
    #[default]
    Unknown,
    /// There are none, or none that could be taken out.
    None,
    /// Taken out.
    TakenOut(Arc<Rewritten>),
}

/// A library.
pub struct Library {
    /// Its number in the table.
    pub id: u32,
    /// Its code.
    pub image: Image,
    /// Bytes of it.
    pub len: u64,
    /// Options of the compiler that are numbers.
    pub options: Vec<vgpu_protocol::words::JitOption>,
    /// Whether its managed variables were taken out of its code, which is done when one of them is asked for.
    pub managed: Mutex<Managed>,
    /// Its modules' handles by their contexts' serial numbers.
    pub modules: Mutex<HashMap<u64, usize>>,
    /// Handles of the kernels that were asked for, by name.
    pub kernels: Mutex<HashMap<Vec<u8>, usize>>,
}

/// A library's kernel.
pub struct Kernel {
    /// Its number in the table.
    pub id: u32,
    /// Its library's handle.
    pub library: usize,
    /// Its name.
    pub name: CString,
    /// The functions that it is, by their contexts' serial numbers.
    functions: Mutex<Vec<(u64, Arc<Entry<Function>>)>>,
    /// Attributes that were set, by device, for functions that are still to be made.
    attributes: Mutex<Vec<(usize, i32, i32)>>,
}

impl Kernel {
    /// A kernel of which no function was asked for.
    pub fn new(id: u32, library: usize, name: CString) -> Self {
        Self {
            id,
            library,
            name,
            functions: Mutex::default(),
            attributes: Mutex::default(),
        }
    }

    /// Its function in a context.
    pub fn function(&self, call: &Call, context: &Arc<Entry<Context>>) -> Result<Arc<Entry<Function>>, Code> {
        let mut functions = lock(&self.functions);
        if let Some((_, function)) = functions.iter().find(|(serial, _)| *serial == context.serial) {
            return Ok(function.clone());
        }
        let library = call.session.libraries.get(self.library);
        let library = library.ok_or(result::INVALID_HANDLE)?;
        let module = library.module(call, context)?;
        let function = crate::api::module_function(call, module, self.name.to_bytes())?;
        let attributes = lock(&self.attributes).clone();
        for (_, attribute, value) in attributes.iter().filter(|set| set.0 == context.device) {
            function.set_attribute(call, *attribute, *value)?;
        }
        // Functions of contexts that are gone are of no use.
        let alive: Vec<_> = call.session.contexts.all().iter().map(|c| c.serial).collect();
        functions.retain(|(serial, _)| alive.contains(serial));
        functions.push((context.serial, function.clone()));
        Ok(function)
    }

    /// Sets an attribute for a device, in its contexts that there are and those that come.
    pub fn set_attribute(&self, call: &Call, device: usize, attribute: i32, value: i32) -> Result<(), Code> {
        // What is wrong with it is to be told now, so some context must have the function.
        let told = call.context_on(device).ok();
        if let Some(context) = &told {
            self.function(call, context)?
                .set_attribute(call, attribute, value)?;
        }
        let mut attributes = lock(&self.attributes);
        attributes.retain(|set| (set.0, set.1) != (device, attribute));
        attributes.push((device, attribute, value));
        drop(attributes);
        let told = told.map(|context| context.serial);
        let contexts = call.session.contexts.all();
        let functions = lock(&self.functions).clone();
        for (serial, function) in functions {
            let of_device = contexts.iter().any(|c| c.serial == serial && c.device == device);
            if of_device && Some(serial) != told {
                function.set_attribute(call, attribute, value)?;
            }
        }
        Ok(())
    }
}

impl Library {
    /// Its module in a context, loaded if it was not used there.
    pub fn module(&self, call: &Call, context: &Arc<Entry<Context>>) -> Result<usize, Code> {
        let mut modules = lock(&self.modules);
        if let Some(&module) = modules.get(&context.serial) {
            return Ok(module);
        }
        let module = crate::api::load_library_module(call, context, self)?;
        modules.insert(context.serial, module);
        Ok(module)
    }
}

impl Session {
    /// The library that a module is of, by the module's handle.
    pub fn library_of(&self, module: usize) -> Option<Arc<Entry<Library>>> {
        let is_its =
            |library: &Arc<Entry<Library>>| lock(&library.modules).values().any(|&its| its == module);
        self.libraries.all().into_iter().find(is_its)
    }
}

impl Function {
    /// The handle of the library's kernel that it is, if it is one that was asked for.
    pub fn kernel(&self, session: &Session) -> Option<usize> {
        let library = session.library_of(self.module)?;
        lock(&library.kernels).get(self.name.to_bytes()).copied()
    }

    /// Sets an attribute.
    pub fn set_attribute(&self, call: &Call, attribute: i32, value: i32) -> Result<(), Code> {
        let arguments = calls::cuFuncSetAttribute::In {
            function: self.id,
            attribute,
            value,
        };
        call.ask::<calls::cuFuncSetAttribute::Call>(self.context, arguments)?;
        lock(&self.answers).clear();
        self.proven.forget();
        Ok(())
    }
}

impl Call {
    /// The current context.
    pub fn current(&self) -> Result<Arc<Entry<Context>>, Code> {
        drop(self.context()?);
        let contexts = self.thread.contexts.borrow();
        contexts.last().cloned().ok_or(result::INVALID_CONTEXT)
    }

    /// A context of a device: the current one, or its primary context.
    pub fn context_on(&self, device: usize) -> Result<Arc<Entry<Context>>, Code> {
        match self.current() {
            Ok(context) if context.device == device => Ok(context),
            _ => crate::api::primary_of(self, device).ok_or(result::INVALID_CONTEXT),
        }
    }

    /// The function behind a handle, which may be a library's kernel: then it is that of the current context.
    pub fn function(&self, function: usize) -> Result<Arc<Entry<Function>>, Code> {
        if let Some(found) = self.session.functions.get(function) {
            return Ok(Arc::clone(&*found));
        }
        let kernel = self.session.kernels.get(function).ok_or(result::INVALID_HANDLE)?;
        kernel.function(self, &self.current()?)
    }
}
