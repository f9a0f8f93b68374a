//! Managed variables in managed memory of the guest's (see [`crate::managed`]).
use super::host_memory::{allocate_pinned, free_pinned};
use super::module::module_global;
use crate::managed::Plan;
use crate::objects::Module;
use crate::session::Call;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_protocol::result::{self, Code};

/// Where the managed variables of a module are, or of a library in every context.
pub struct Variables {
    base: u64,
    /// The context that they go with; 0 for a library's.
    context: u32,
    /// Address and bytes of each.
    by_name: HashMap<Vec<u8>, (u64, u64)>,
    /// Words that begin as addresses of ordinary variables, with what is added.
    links: Vec<(u64, Vec<u8>, i64)>,
    /// They have begun: a library's do once, with its first module.
    linked: AtomicBool,
}

impl Variables {
    /// Takes the managed variables out of an image, if it has any: where they are now, and the image without them.
    pub(super) fn place(call: &Call, context: u32, image: &[u8]) -> Result<Option<(Self, Vec<u8>)>, Code> {
        let Some(plan) = Plan::new(image) else {
            return Ok(None);
        };
        let len = plan.variables.len();
        let base = allocate_pinned(call, context, len, 0, true)?;
        // SAFETY: just allocated with this length, and nobody else knows it yet.
        let memory = unsafe { std::slice::from_raw_parts_mut(base as *mut u8, len) };
        memory.fill(0);
        let mut placed = Self {
            base,
            context,
            by_name: HashMap::new(),
            links: Vec::new(),
            linked: AtomicBool::new(false),
        };
        for variable in plan.variables.iter() {
            let at = base + variable.at as u64;
            memory[variable.at..][..variable.initial.len()].copy_from_slice(&variable.initial);
            placed
                .by_name
                .insert(variable.name.clone(), (at, variable.len as u64));
            let links = variable.links.iter();
            placed
                .links
                .extend(links.map(|link| (at + link.at as u64, link.symbol.clone(), link.addend)));
        }
        Ok(Some((placed, plan.image(base))))
    }

    /// Address and bytes of one.
    pub(super) fn get(&self, name: &[u8]) -> Option<(u64, u64)> {
        self.by_name.get(name).copied()
    }

    /// Whether some of them begin as addresses of variables of the module.
    pub(super) fn needs_module(&self) -> bool {
        !self.links.is_empty()
    }

    /// Stores the addresses of variables of the module that was just loaded, the first one that has them.
    pub(super) fn link(&self, call: &Call, module: &Module) -> Result<(), Code> {
        if self.linked.load(Ordering::Relaxed) {
            return Ok(());
        }
        for (at, symbol, addend) in &self.links {
            // Of functions nobody outside of the GPU knows the address.
            let (address, _) = module_global(call, module, symbol).map_err(|code| match code {
                result::NOT_FOUND => result::NOT_SUPPORTED,
                code => code,
            })?;
            let word = address.wrapping_add_signed(*addend);
            // SAFETY: a word of one of the variables, whose memory is there as long as this value.
            unsafe { (*at as *mut u64).write_unaligned(word) };
        }
        self.linked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Frees their memory.
    pub(super) fn free(&self, call: &Call) -> Result<(), Code> {
        // That of a context's is gone with the context.
        free_pinned(call, self.base).or_else(|code| match code {
            result::INVALID_VALUE => Ok(()),
            code => Err(code),
        })
    }

    /// The same, if they are a module's own.
    pub(super) fn free_own(&self, call: &Call) -> Result<(), Code> {
        match self.context {
            0 => Ok(()),
            _ => self.free(call),
        }
    }
}
