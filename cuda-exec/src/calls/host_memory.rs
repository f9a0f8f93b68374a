//! A program's own memory, registered: pinned where it lies, for as long as the program says.
use crate::dispatch::handlers_of;
use crate::handles::Context;
use crate::ring::Failure;
use crate::session::Session;
use vgpu_protocol::result::{self, Code};

/// CU_MEMHOSTREGISTER_PORTABLE | DEVICEMAP | READ_ONLY: all memory is the first two, since addresses are unified.
const FLAGS: u32 = 1 | 2 | 8;

/// Has libcuda register a range that was claimed.
fn register(session: &Session, addr: u64, len: u64, flags: u32) -> Result<(), Code> {
    // SAFETY: the claim keeps the range mapped until it is given up, which is after it was unregistered.
    let pointer = unsafe { session.cuda.host_register(addr, len, flags) }?;
    if pointer != addr {
        log::error!("a program's memory at {addr:#x} is at {pointer:#x} for the GPU");
        session.survive(session.cuda.host_unregister(addr));
        return Err(result::NOT_SUPPORTED);
    }
    Ok(())
}

/// Has libcuda forget a range that was withdrawn.
fn unregister(session: &Session, addr: u64) -> Result<(), Code> {
    let done = session.cuda.host_unregister(addr);
    match done {
        Ok(()) => session.memory.give_up(addr),
        // As during a capture: it stays what it was.
        Err(_) => session.memory.use_claimed(addr),
    }
    done
}

/// Takes back what a context that ends has registered, whose work is done.
pub fn unregister_of(session: &Session, context: u32) {
    for addr in session.memory.withdraw_context(context) {
        session.survive(unregister(session, addr));
    }
}

/// Takes it back if its context was destroyed meanwhile, which took only what it knew of.
fn still_there(session: &Session, context: &Context, addr: u64) -> Result<(), Failure> {
    if !context.is_destroyed() {
        return Ok(());
    }
    if session.memory.withdraw(addr).is_ok() {
        session.survive(unregister(session, addr));
    }
    Err(result::CONTEXT_IS_DESTROYED.into())
}

handlers_of! {
    cuMemHostRegister(ring, arguments) {
        let context = ring.context()?;
        let session = ring.session;
        let (addr, len) = (arguments.pointer, arguments.bytes);
        if arguments.flags & !FLAGS != 0 {
            return Err(result::INVALID_VALUE.into());
        }
        session.memory.claim(addr, len, context.id)?;
        register(session, addr, len, arguments.flags).inspect_err(|_| session.memory.give_up(addr))?;
        session.memory.use_claimed(addr);
        still_there(session, &context, addr)?;
        Ok(Out {})
    }

    cuMemHostUnregister(ring, arguments) {
        let _context = ring.context()?;
        let session = ring.session;
        session.memory.withdraw(arguments.pointer)?;
        unregister(session, arguments.pointer)?;
        Ok(Out {})
    }
}
