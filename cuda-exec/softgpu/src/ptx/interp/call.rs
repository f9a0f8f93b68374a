//! Calls of functions: each activation has slots of its own, and a frame in its thread's local memory.

use super::{FaultKind, Machine, RESIDENT_BYTES, Stop, fault};
use crate::ptx::ir::{Ins, Passed, Place, Target};

/// A function that was called and has not returned.
pub(super) struct Activation {
    pub slots: Vec<u64>,
    /// Where its frame begins in local memory.
    pub frame: usize,
    routine: usize,
    /// The call site, and the instruction behind it.
    site: usize,
    back: usize,
}

impl Activation {
    /// Where its frame begins in local memory.
    pub(super) fn frame(&self) -> usize {
        self.frame
    }
}

impl Machine<'_> {
    /// Begins the call at `ins`, which is at `pc`; gives the first instruction of the function.
    pub(super) fn call(&mut self, thread: usize, ins: &Ins, pc: usize) -> Result<usize, Stop> {
        let kernel = self.kernel;
        let site = ins.imm as usize;
        let call = &kernel.calls[site];
        let routine = match call.target {
            Target::Routine(index) => index as usize,
            Target::Pointer(slot) => {
                let address = self.regs(thread).get(slot);
                match kernel.addresses.get(&address) {
                    Some(&index) => index as usize,
                    None => return Err(fault(FaultKind::InvalidPc, address, ins)),
                }
            }
        };
        let (caller, caller_routine) = match self.block.calls[thread].last() {
            Some(activation) => (activation.frame, activation.routine),
            None => (0, 0),
        };
        let frame = caller + kernel.routines[caller_routine].frame_bytes;
        let callee = &kernel.routines[routine];
        let passed = call.inputs.iter().chain(&call.outputs);
        let needed = passed
            .map(|p| p.there + p.size)
            .fold(callee.frame_bytes, usize::max);
        let slots_bytes = size_of_val(&callee.template[..]);
        // Every activation counts, even one that has no frame.
        if frame + needed > self.local_len || self.block.called_bytes + slots_bytes > RESIDENT_BYTES {
            return Err(fault(FaultKind::StackOverflow, 0, ins));
        }
        for passed in &call.inputs {
            self.pass_in(thread, passed, caller, frame);
        }
        let mut slots = self.spare.pop().unwrap_or_default();
        slots.clear();
        slots.extend_from_slice(&callee.template);
        for &(slot, what) in &callee.fixed {
            slots[slot as usize] = self.fixed(thread, what, frame);
        }
        self.block.called_bytes += slots_bytes;
        self.block.calls[thread].push(Activation {
            slots,
            frame,
            routine,
            site,
            back: pc + 1,
        });
        Ok(callee.start as usize)
    }

    /// Ends the latest call; gives the instruction behind it.
    pub(super) fn go_back(&mut self, thread: usize) -> Option<usize> {
        let kernel = self.kernel;
        let ended = self.block.calls[thread].pop()?;
        self.block.called_bytes -= size_of_val(&ended.slots[..]);
        let caller = self.block.calls[thread].last().map_or(0, |a| a.frame);
        for passed in &kernel.calls[ended.site].outputs {
            self.pass_out(thread, passed, caller, ended.frame);
        }
        self.spare.push(ended.slots);
        Some(ended.back)
    }

    fn pass_in(&mut self, thread: usize, passed: &Passed, caller: usize, callee: usize) {
        let to = callee + passed.there;
        match passed.here {
            Place::Slot(slot) => {
                let bytes = self.regs(thread).get(slot).to_le_bytes();
                self.local(thread)[to..to + passed.size].copy_from_slice(&bytes[..passed.size]);
            }
            Place::Frame(at) => {
                let from = caller + at;
                self.local(thread).copy_within(from..from + passed.size, to);
            }
        }
    }

    fn pass_out(&mut self, thread: usize, passed: &Passed, caller: usize, callee: usize) {
        let from = callee + passed.there;
        match passed.here {
            Place::Slot(slot) => {
                let mut bytes = [0; 8];
                bytes[..passed.size].copy_from_slice(&self.local(thread)[from..from + passed.size]);
                self.regs(thread).set(slot, u64::from_le_bytes(bytes));
            }
            Place::Frame(at) => {
                let to = caller + at;
                self.local(thread).copy_within(from..from + passed.size, to);
            }
        }
    }

    /// The local memory of a thread.
    pub(super) fn local(&mut self, thread: usize) -> &mut [u8] {
        let place = self.block.local.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes of a vector that has as many for each thread. Only this machine uses them.
        unsafe { std::slice::from_raw_parts_mut(place.add(thread * self.local_len), self.local_len) }
    }
}
