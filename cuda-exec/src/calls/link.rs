//! Linking at run time.
use super::BAD_HANDLE;
use super::module::{jit_options, name, take_image};
use crate::cuda::{Jit, Raw};
use crate::dispatch::handlers_of;
use crate::handles::Context;
use crate::image::{Image, Made};
use crate::ring::{Consumer, Failure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::limits::{JIT_LOG_LEN_MAX, JIT_OPTIONS_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::JitOption;
use zerocopy::FromBytes;

/// What the driver takes: CU_JIT_INPUT_CUBIN to CU_JIT_INPUT_NVVM.
const KINDS: std::ops::RangeInclusive<i32> = 0..=5;

/// A link that was begun.
pub struct Link {
    pub context: Arc<Context>,
    raw: Raw,
    state: Mutex<State>,
}

struct State {
    /// The library fills it in until the link is destroyed.
    jit: Jit,
    /// They count as images as long as the library may have them.
    inputs: Vec<Arc<Image>>,
    /// Where the library keeps the result, its bytes, and their count.
    image: Option<(*const u8, usize, Made)>,
}

// SAFETY: the pointer is to memory of libcuda's that lives as long as the link, and is only read.
unsafe impl Send for State {}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let session = self.context.session;
        let destroyed = self.context.make_current();
        session.survive(destroyed.and_then(|()| session.cuda.linker.destroy(self.raw)));
    }
}

/// What came of it, for results that say so themselves: what the linker had to say is told all the same.
fn outcome(ring: &Consumer, done: Result<(), Code>) -> Code {
    match done {
        Ok(()) => result::SUCCESS,
        Err(code) => {
            ring.session.look_at(code);
            code
        }
    }
}

macro_rules! said {
    ($ring:ident, $reply:ident, $state:ident, $done:expr $(, $more:ident: $value:expr)*) => {{
        let result = outcome($ring, $done);
        let said = $state.jit.said();
        $reply.extend_from_slice(&said.info);
        $reply.extend_from_slice(&said.error);
        Ok(Out {
            result,
            wall_time_bits: said.wall_time_bits,
            threads: said.threads,
            info_said: said.info.len() as u32,
            error_said: said.error.len() as u32,
            $($more: $value,)*
        })
    }};
}

handlers_of! {
    cuLinkCreate(ring, a, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let links = &session.objects.links;
        links.check_new(a.link).map_err(|_| BAD_HANDLE)?;
        if a.info_len.max(a.error_len) > JIT_LOG_LEN_MAX {
            return Err(result::INVALID_VALUE.into());
        }
        let mut jit = Jit::new(jit_options(blob)?, a.info_len as usize, a.error_len as usize);
        let (len, options, values) = jit.arrays();
        let mut raw = 0;
        // SAFETY: arrays of that length, and logs as long as they say, all of which the link keeps; a place for the result.
        unsafe { session.cuda.linker.create(len, options, values, &mut raw) }?;
        let state = State { jit, inputs: Vec::new(), image: None };
        let link = Link { context, raw, state: Mutex::new(state) };
        links.insert(a.link, link).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuLinkAddData(ring, a, blob, reply) {
        let session = ring.session;
        let link = session.objects.links.get(a.link).ok_or(BAD_HANDLE)?;
        let (options, label) = <[JitOption]>::ref_from_prefix_with_elems(blob, (a.options as usize).min(JIT_OPTIONS_MAX))
            .map_err(|_| result::INVALID_VALUE)?;
        if a.options as usize > JIT_OPTIONS_MAX || !KINDS.contains(&a.kind) {
            return Err(result::INVALID_VALUE.into());
        }
        let mut jit = Jit::silent(jit_options(zerocopy::IntoBytes::as_bytes(options))?);
        let label = name(label)?;
        let label = if label.is_empty() { std::ptr::null() } else { label.as_ptr() };
        let image = take_image(ring, a.image, a.bytes)?;
        link.context.make_current()?;
        let mut state = link.state();
        state.inputs.push(image.clone());
        let (len, options, values) = jit.arrays();
        // SAFETY: a sealed image of that length with a zero byte and an inaccessible page behind it, a terminated name or
        // none, arrays of that length; the library keeps none of them.
        let done = unsafe {
            session.cuda.linker.add_data(
                link.raw, a.kind, image.as_ptr().cast(), a.bytes as usize, label, len, options, values,
            )
        };
        said!(ring, reply, state, done)
    }

    cuLinkComplete(ring, a, _blob, reply) {
        let session = ring.session;
        let link = session.objects.links.get(a.link).ok_or(BAD_HANDLE)?;
        link.context.make_current()?;
        let mut state = link.state();
        let mut done = Ok(());
        if state.image.is_none() {
            let (mut image, mut len) = (std::ptr::null(), 0);
            // SAFETY: two places that outlive the call.
            done = unsafe { session.cuda.linker.complete(link.raw, &mut image, &mut len) };
            if done.is_ok() {
                let made = session.images.made(len as u64).map_err(|_| result::OUT_OF_MEMORY)?;
                state.image = Some((image, len, made));
            }
        }
        let bytes = match state.image {
            None => 0,
            Some((image, len, _)) => {
                if a.bytes != 0 {
                    copy_out(ring, image, len, a.to, a.bytes)?;
                }
                len as u64
            }
        };
        said!(ring, reply, state, done, image_bytes: bytes)
    }

    cuLinkDestroy(ring, a) {
        ring.session.objects.links.remove(a.link).ok_or(BAD_HANDLE)?;
        Ok(Out {})
    }
}

/// Copies the result to where the guest has room for all of it.
fn copy_out(ring: &Consumer, image: *const u8, len: usize, to: u64, bytes: u64) -> Result<(), Failure> {
    let view = ring.session.memory.view();
    let range = view.host(to, bytes).ok_or(result::INVALID_VALUE)?;
    if bytes != len as u64 {
        return Err(result::INVALID_VALUE.into());
    }
    // SAFETY: the library's own memory of that length, which lives as long as the link.
    range.fill(unsafe { std::slice::from_raw_parts(image, len) });
    Ok(())
}
