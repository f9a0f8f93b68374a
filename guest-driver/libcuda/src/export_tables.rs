//! The driver's private tables, as far as NVIDIA's runtime and libraries are known to use them: each is found by its UUID and is an
//! array of functions, most with the table's size in bytes at its start. A place whose function nobody is known to call
//! holds one that refuses.
use crate::abi::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream, CUuuid, Host, In, Out};
use crate::api::{self, guard};
use crate::integrity::{self, Claim, Device};
use crate::session::{Call, NullStream};
use crate::storage::Destructor;
use crate::trace::said;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use vgpu_protocol::result::{self, Code};

/// A function of a table, or its size.
#[repr(transparent)]
struct Slot(*const ());

// SAFETY: an address of a function, or a number: nothing that it points to changes.
unsafe impl Sync for Slot {}

/// The size of a table with so many places.
const fn size(places: usize) -> Slot {
    Slot(ptr::without_provenance(places * size_of::<Slot>()))
}

const REFUSED: Slot = Slot(refused as *const ());

extern "C" fn refused() -> CUresult {
    result::NOT_SUPPORTED
}

/// A table of `N` places with its size in front, and some functions.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident[$places:literal] { $($at:literal: $function:path),* }) => {
        $(#[$doc])*
        static $name: [Slot; $places] = {
            let mut slots = [const { REFUSED }; $places];
            slots[0] = size($places);
            $(slots[$at] = Slot($function as *const ());)*
            slots
        };
    };
}

table! {
    /// What the runtime needs beside the driver API.
    INTERFACE[13] { 1: load_wrapped, 2: primary_context, 6: load_extended, 7: unregistered, 8: load_fatbin, 12: nothing }
}
table! {
    /// Flags by which profilers switch callbacks on: all off.
    TOOLS_CALLBACKS[7] { 2: callbacks_of_calls, 6: callbacks_of_domains }
}
table! {
    /// The thread's context.
    TOOLS_THREAD[4] { 2: current_context }
}
table! {
    /// Whether a context is sound.
    CONTEXT_CHECKS[4] { 2: check_context, 3: check }
}
table! {
    /// Whether the driver is in the process that the runtime thinks.
    INTEGRITY[3] { 1: check_integrity }
}
table! {
    /// Contexts' and streams' numbers.
    TOOLS_CONTEXT[93] { 4: context_id, 39: stream_id, 51: stream_object }
}
table! {
    /// Functions of modules.
    TOOLS_MODULE[120] { 7: each_function }
}
table! {
    /// For CUPTI, which since CUDA 13.2 wants the table before it tells as much as its version, and in 13.2 and 13.3 asks which function
    /// stands for each of its own.
    TOOLS[128] { 67: own_function }
}
table! {
    /// Hints for libraries' heuristics, of which there are none; but its callers want the table.
    HINTS[8] {}
}
/// Context-local storage. It has no size, but a null at its end.
static STORAGE: [Slot; 4] = [
    Slot(storage_put as *const ()),
    Slot(storage_delete as *const ()),
    Slot(storage_get as *const ()),
    Slot(ptr::null()),
];

/// The table with that UUID.
pub fn find(id: CUuuid) -> Option<usize> {
    let table = match u128::from_be_bytes(id.0) {
        0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9 => INTERFACE.as_ptr(),
        0xa094798c_2e74_2e74_93f2_0800200c0a66 => TOOLS_CALLBACKS.as_ptr(),
        0x42d85a81_23f6_cb47_8298_f6e78a3aecdc => TOOLS_THREAD.as_ptr(),
        0xc693336e_1121_df11_a8c3_68f355d89593 => STORAGE.as_ptr(),
        0x263e8860_7cd2_6143_92f6_bbd5006dfa7e => CONTEXT_CHECKS.as_ptr(),
        0xd4082055_bde6_704b_8d34_ba123c66e1f2 => INTEGRITY.as_ptr(),
        0x21318c60_9714_3248_8ca6_41ff7324c8f2 => TOOLS_CONTEXT.as_ptr(),
        0x6e163fbe_b958_444d_835c_e182aff1991e => TOOLS_MODULE.as_ptr(),
        0x7cb63f9b_9ca4_8e42_a484_beb66e6aed7f => TOOLS.as_ptr(),
        0x1734dc26_800d_4745_8726_c0f1e7dd8bca => HINTS.as_ptr(),
        _ => return None,
    };
    Some(table as usize)
}

extern "C" fn load_wrapped(module: Out<CUmodule>, image: Host) -> CUresult {
    guard("private load_wrapped", said!(module, image), || {
        api::load_image(module, image)
    })
}

extern "C" fn load_extended(
    module: Out<CUmodule>,
    image: Host,
    first: usize,
    second: usize,
    third: c_uint,
) -> CUresult {
    guard(
        "private load_extended",
        said!(module, image, first, second, third),
        || match (first, second, third) {
            (0, 0, 0) => api::load_image(module, image),
            _ => Err(result::NOT_SUPPORTED),
        },
    )
}

extern "C" fn load_fatbin(image: Host, module: Out<CUmodule>, _: usize, _: usize, _: c_uint) -> CUresult {
    guard("private load_fatbin", said!(image, module), || {
        api::load_image(module, image)
    })
}

/// The function at that place of CUPTI's own ones: nobody stands in for it.
extern "C" fn own_function(place: Out<usize>, own: In<usize>, index: usize, count: usize) -> CUresult {
    guard("private own_function", said!(place, own, index, count), || {
        if index >= count {
            return Err(result::INVALID_VALUE);
        }
        place.set(own.at(index)?)
    })
}

extern "C" fn unregistered(_: usize) {}

extern "C" fn nothing() -> CUresult {
    result::SUCCESS
}

/// The handle of a device's primary context, whether it exists or not.
extern "C" fn primary_context(context: Out<CUcontext>, device: CUdevice) -> CUresult {
    guard("private primary_context", said!(context, device), || {
        context.set(api::primary_handle(&Call::enter()?, device)?)
    })
}

/// A profiler's flags: nobody has set one.
fn flags<const N: usize>(flags: &'static [u32; N], place: Out<*const u32>, len: Out<usize>, count: usize) {
    place.set_if_wanted(flags.as_ptr());
    len.set_if_wanted(count);
}

extern "C" fn callbacks_of_calls(place: Out<*const u32>, len: Out<usize>) {
    static FLAGS: [u32; 1024] = [0; 1024];
    flags(&FLAGS, place, len, FLAGS.len());
}

extern "C" fn callbacks_of_domains(place: Out<*const u32>, len: Out<usize>) {
    static FLAGS: [u32; 14] = [0; 14];
    flags(&FLAGS, place, len, FLAGS.len());
}

extern "C" fn current_context(context: Out<CUcontext>) -> CUresult {
    api::cuCtxGetCurrent(context)
}

extern "C" fn check_context(_: CUcontext, flags: Out<c_uint>, _: Out<usize>) -> CUresult {
    flags.set_if_wanted(0);
    result::SUCCESS
}

extern "C" fn check() -> c_uint {
    0
}

extern "C" fn check_integrity(version: c_uint, seconds: u64, place: Out<[u64; 2]>) -> CUresult {
    guard("private check_integrity", said!(version, seconds, place), || {
        let call = Call::local()?;
        let devices = call.session.gpus.iter().map(|info| {
            let pci = api::pci(info)?;
            Ok(Device {
                uuid: info.uuid,
                pci: [pci.domain, pci.bus, pci.device],
            })
        });
        let devices = devices.collect::<Result<Vec<_>, Code>>()?;
        let claim = Claim {
            driver_version: api::driver_version(),
            version,
            process: std::process::id(),
            // SAFETY: takes nothing and always succeeds.
            thread: unsafe { libc::pthread_self() } as u32,
            interface: INTERFACE.as_ptr() as u64,
            table: INTEGRITY.as_ptr() as u64,
            function: check_integrity as *const () as u64,
            seconds,
        };
        place.set(integrity::answer(&claim, devices.into_iter()))
    })
}

extern "C" fn context_id(context: CUcontext, id: Out<u64>) -> CUresult {
    api::cuCtxGetId(context, id)
}

/// What stands for a stream among the next two functions: its number, which its callers use as a key and nothing else.
extern "C" fn stream_object(
    _: CUcontext,
    stream: CUstream,
    object: Out<usize>,
    per_thread: c_int,
) -> CUresult {
    guard("private stream_object", said!(stream, object, per_thread), || {
        let call = Call::enter()?;
        let null = match per_thread {
            0 => NullStream::Legacy,
            _ => NullStream::PerThread,
        };
        object.set(call.stream(stream, null)?.serial as usize)
    })
}

extern "C" fn stream_id(_: CUcontext, object: usize, id: Out<u64>) -> CUresult {
    guard("private stream_id", said!(object, id), || id.set(object as u64))
}

/// Calls a function with each kernel of a module; how many there are.
extern "C" fn each_function(
    _: CUcontext,
    module: CUmodule,
    each: Option<unsafe extern "C" fn(*mut c_void, CUfunction, u64)>,
    opaque: *mut c_void,
) -> u64 {
    let mut count = 0;
    let _ = guard("private each_function", said!(module, each, opaque), || {
        let call = Call::enter()?;
        let found = call.session.modules.get(module).ok_or(result::INVALID_HANDLE)?;
        for name in api::module_function_names(&call, &found)? {
            let function = api::module_function(&call, module, &name)?.handle();
            if let Some(each) = each {
                // SAFETY: the caller passed the function to be called so.
                unsafe { each(opaque, function, module as u64) };
            }
            count += 1;
        }
        Ok(())
    });
    count
}

/// The context that a null handle means is the current one.
fn own_or_current(call: &Call, context: CUcontext) -> Result<CUcontext, Code> {
    match context {
        0 => {
            let contexts = call.thread.contexts.borrow();
            Ok(contexts.last().ok_or(result::INVALID_CONTEXT)?.handle())
        }
        context => Ok(context),
    }
}

extern "C" fn storage_put(
    context: CUcontext,
    key: usize,
    value: usize,
    destructor: Option<Destructor>,
) -> CUresult {
    guard(
        "private storage_put",
        said!(context, key, value, destructor),
        || {
            let call = Call::local()?;
            let context = own_or_current(&call, context)?;
            call.session.storage.put(context, key, value, destructor);
            Ok(())
        },
    )
}

extern "C" fn storage_delete(context: CUcontext, key: usize) -> CUresult {
    guard("private storage_delete", said!(context, key), || {
        let call = Call::local()?;
        let context = own_or_current(&call, context)?;
        match call.session.storage.delete(context, key) {
            true => Ok(()),
            false => Err(result::INVALID_HANDLE),
        }
    })
}

extern "C" fn storage_get(value: Out<usize>, context: CUcontext, key: usize) -> CUresult {
    guard("private storage_get", said!(value, context, key), || {
        let call = Call::local()?;
        let context = own_or_current(&call, context)?;
        let found = call.session.storage.get(context, key);
        value.set(found.ok_or(result::INVALID_HANDLE)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cupti_has_its_own_functions() {
        const TABLE: u128 = 0x7cb63f9b_9ca4_8e42_a484_beb66e6aed7f;
        const AT: usize = 67;
        type Ask = extern "C" fn(*mut usize, *const usize, usize, usize) -> CUresult;
        let table = find(CUuuid(TABLE.to_be_bytes())).unwrap() as *const usize;
        // SAFETY: the table is as long as its first word says, and there is this function.
        let ask: Ask = unsafe {
            assert!(*table > AT * size_of::<usize>());
            std::mem::transmute(*table.add(AT))
        };
        let (own, mut found) = ([11, 12, 13], 0);
        let none = ptr::null_mut();
        assert_eq!(
            (ask(&mut found, own.as_ptr(), 2, 3), found),
            (result::SUCCESS, 13)
        );
        assert_eq!(ask(&mut found, own.as_ptr(), 3, 3), result::INVALID_VALUE);
        assert_eq!(ask(&mut found, ptr::null(), 0, 3), result::INVALID_VALUE);
        assert_eq!(ask(none, own.as_ptr(), 0, 3), result::INVALID_VALUE);
        assert_eq!(found, 13);
    }
}
