//! What a kernel uses of its module: the functions it may call and the shared variables.

use crate::ptx::PtxError;
use crate::ptx::parse::{Arg, Function, Init, Module};
use crate::ptx::types::Space;
use std::collections::{HashMap, HashSet};

/// Shared memory of one block may have this many bytes.
const MAX_SHARED: usize = 228 * 1024;

/// See the module.
pub struct Reach<'m> {
    /// The kernel, then functions in the order in which they were found.
    pub functions: Vec<&'m Function>,
    /// Offsets of the shared variables; by function and name, or by name alone.
    pub shared: HashMap<(Option<&'m str>, &'m str), u64>,
    /// Bytes of shared memory whose size is known.
    pub shared_bytes: usize,
    /// Where shared memory starts whose size is given at launch.
    pub dynamic_at: usize,
}

/// The address of a function: no memory is there.
pub fn code_address(module: &Module, name: &str) -> Option<u64> {
    let at = module.functions.iter().position(|f| is_function(f, name))?;
    Some((1 << 63) + 16 * (at as u64 + 1))
}

fn is_function(function: &Function, name: &str) -> bool {
    function.has_body && !function.is_entry && function.name == name
}

impl<'m> Reach<'m> {
    /// Follows every name, from the kernel on.
    pub fn of(module: &'m Module, kernel: &'m Function) -> Result<Self, PtxError> {
        let functions: HashMap<&str, &Function> = module
            .functions
            .iter()
            .filter(|f| is_function(f, &f.name))
            .map(|f| (f.name.as_str(), f))
            .collect();
        let vars: HashMap<&str, _> = module.vars.iter().map(|v| (v.name.as_str(), v)).collect();
        let mut reach = Reach {
            functions: vec![kernel],
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_at: 0,
        };
        let mut seen: HashSet<&str> = HashSet::new();
        let mut dynamic = Vec::new();
        let mut at = 0;
        while let Some(&function) = reach.functions.get(at) {
            at += 1;
            for var in function.vars.iter().filter(|v| v.space == Space::Shared) {
                let offset = reach.place(var.align, var.size, var.line)?;
                reach.shared.insert((Some(&function.name), &var.name), offset);
            }
            let mut names = Vec::new();
            for stmt in &function.body {
                stmt.args.iter().for_each(|arg| collect(arg, &mut names));
            }
            while let Some(name) = names.pop() {
                if !seen.insert(name) {
                    continue;
                }
                reach.functions.extend(functions.get(name));
                let Some(var) = vars.get(name) else { continue };
                match var.space {
                    Space::Shared if var.size == 0 => dynamic.push((name, var.align)),
                    Space::Shared => {
                        let offset = reach.place(var.align, var.size, var.line)?;
                        reach.shared.insert((None, name), offset);
                    }
                    // It may hold the address of a function.
                    _ => names.extend(var.init.iter().filter_map(|init| match init {
                        Init::Address(name, _) => Some(name.as_str()),
                        Init::Literal(_) => None,
                    })),
                }
            }
        }
        let align = dynamic.iter().map(|(_, align)| *align).fold(16, usize::max);
        reach.dynamic_at = reach.shared_bytes.next_multiple_of(align);
        for (name, _) in dynamic {
            reach.shared.insert((None, name), reach.dynamic_at as u64);
        }
        Ok(reach)
    }

    fn place(&mut self, align: usize, size: usize, line: u32) -> Result<u64, PtxError> {
        let at = self.shared_bytes.next_multiple_of(align);
        self.shared_bytes = at + size;
        if self.shared_bytes > MAX_SHARED {
            return Err(PtxError::new(line, "too much shared memory"));
        }
        Ok(at as u64)
    }
}

fn collect<'m>(arg: &'m Arg, names: &mut Vec<&'m str>) {
    match arg {
        Arg::Symbol(name, _) => names.push(name),
        Arg::Address(base, _) => collect(base, names),
        Arg::Pair(first, second) => [first, second].iter().for_each(|arg| collect(arg, names)),
        Arg::Vector(list) | Arg::List(list) => list.iter().for_each(|arg| collect(arg, names)),
        Arg::Reg(_) | Arg::NotReg(_) | Arg::Special(_) | Arg::Literal(_) | Arg::Sink => {}
    }
}
