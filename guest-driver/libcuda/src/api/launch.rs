//! Launching kernels.
use super::{cuda, cuda_pairs};
use crate::abi::{CUfunction, CUstream, Host, In, Out};
use crate::handles::Entry;
use crate::objects::{Function, Stream};
use crate::session::{Call, NullStream};
use std::ffi::{c_int, c_uint};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use vgpu_protocol::calls::{self, cuLaunchKernel as wire};
use vgpu_protocol::limits::{KERNEL_PARAMS_LEN_MAX, LAUNCH_ATTRIBUTES_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::LaunchAttribute;
use zerocopy::IntoBytes;

/// CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE.
const PARAM_END: usize = 0;
const PARAM_BUFFER_POINTER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

/// Where a launch's parameters come from.
pub(super) enum Params {
    /// One pointer per parameter.
    Each(In<Host>),
    /// All of them, packed.
    Packed(Host, usize),
}

impl Params {
    pub fn new(function: &Function, each: In<Host>, extra: In<usize>) -> Result<Self, Code> {
        if !each.is_null() {
            if !extra.is_null() {
                return Err(result::INVALID_VALUE);
            }
            for i in 0..function.params.len() {
                if each.at(i)?.is_null() {
                    return Err(result::INVALID_VALUE);
                }
            }
            return Ok(Self::Each(each));
        }
        if extra.is_null() {
            return if function.params.is_empty() {
                Ok(Self::Each(each))
            } else {
                Err(result::INVALID_VALUE)
            };
        }
        let (mut buffer, mut size) = (0, 0);
        for at in (0..).step_by(2) {
            match extra.at(at)? {
                PARAM_END => break,
                PARAM_BUFFER_POINTER => buffer = extra.at(at + 1)?,
                PARAM_BUFFER_SIZE => {
                    // SAFETY: the value of this entry is the address of a size_t.
                    let place = unsafe { Host::new(extra.at(at + 1)?) };
                    let bytes = place.bytes(size_of::<usize>())?;
                    size = bytes
                        .iter()
                        .rev()
                        .fold(0, |word, &byte| word << 8 | usize::from(byte));
                }
                _ => return Err(result::INVALID_VALUE),
            }
        }
        if size > KERNEL_PARAMS_LEN_MAX
            || (size > 0 && buffer == 0)
            || (buffer == 0 && function.params_len > 0)
        {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: the value of CU_LAUNCH_PARAM_BUFFER_POINTER is the address of the packed parameters.
        Ok(Self::Packed(unsafe { Host::new(buffer) }, size))
    }

    /// Bytes.
    pub fn len(&self, function: &Function) -> usize {
        match self {
            Self::Each(_) => function.params_len,
            Self::Packed(_, size) => *size,
        }
    }

    /// Packs them.
    pub fn pack(&self, function: &Function, to: &mut [u8]) {
        match *self {
            Self::Each(each) => {
                // Gaps between parameters carry nothing of this process.
                to.fill(0);
                for (i, param) in function.params.iter().enumerate() {
                    let place = &mut to[param.offset as usize..][..param.size as usize];
                    // The array was checked to be there and to hold no null.
                    if let Ok(bytes) = each.at(i).and_then(|at| at.bytes(param.size as usize)) {
                        place.copy_from_slice(bytes);
                    }
                }
            }
            Self::Packed(buffer, size) => {
                if let Ok(bytes) = buffer.bytes(size) {
                    to.copy_from_slice(bytes);
                }
            }
        }
    }
}

struct Launch {
    function: CUfunction,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: CUstream,
}

/// A launch whose handles and shape are checked.
struct Checked {
    function: Arc<Entry<Function>>,
    stream: Arc<Stream>,
    params: Params,
    /// Bytes of the packed parameters.
    len: usize,
    /// A capture is under way somewhere: what it forbids only the host's library knows.
    captures: bool,
}

impl Launch {
    fn check(
        &self,
        call: &Call,
        each: In<Host>,
        extra: In<usize>,
        null: NullStream,
    ) -> Result<Checked, Code> {
        let context = call.context()?;
        let function = call.function(self.function)?;
        let stream = call.stream(self.stream, null)?;
        // Kernel and stream belong together; the current context may be another.
        if function.context != stream.context {
            return Err(result::INVALID_HANDLE);
        }
        // In a capture a launch beyond them invalidates the capture, so the host's library is to see it.
        let captures = call.session.captures.any();
        if !captures && !context.limits.allow(self.grid, self.block) {
            return Err(result::INVALID_VALUE);
        }
        let params = Params::new(&function, each, extra)?;
        Ok(Checked {
            len: params.len(&function),
            function,
            stream,
            params,
            captures,
        })
    }
}

fn launch(
    call: &Call,
    launch: &Launch,
    each: In<Host>,
    extra: In<usize>,
    null: NullStream,
) -> Result<(), Code> {
    let checked = launch.check(call, each, extra, null)?;
    if checked.function.clusters {
        return launch_with(call, launch, checked, (Vec::new(), true));
    }
    let Checked {
        function,
        stream,
        params,
        len,
        captures,
    } = checked;
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    let arguments = wire::In {
        function: function.id,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared: launch.shared,
        stream: stream.word,
    };
    // Outside a capture the shape is within the device's limits, and this product fits.
    let threads = block_x.wrapping_mul(block_y).wrapping_mul(block_z);
    let proven = function.proven.covers(threads, launch.shared) && len == function.params_len;
    if proven && !captures {
        call.submit_with::<wire::Call>(stream.context, arguments, len, |to| params.pack(&function, to))?;
    } else {
        let mut packed = vec![0; len];
        params.pack(&function, &mut packed);
        call.submit_answered::<wire::Call>(stream.context, arguments, &packed)?;
        function.proven.learn(threads, launch.shared);
    }
    launched(call, &stream)
}

/// A kernel was given to a stream. Where launches block, it has ended then, and the launch fails if it did.
fn launched(call: &Call, stream: &Stream) -> Result<(), Code> {
    stream.did_submit();
    if call.session.blocking_launches && stream.capture() == 0 {
        call.finish_stream(stream)?;
    }
    Ok(())
}

/// A CUlaunchConfig.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: CUstream,
    attributes: In<LaunchAttribute>,
    attributes_len: c_uint,
}

/// The attributes of a launch as they go over the wire, and whether what the host says of one launch is what it would say of
/// another one like it.
fn attributes(call: &Call, config: &LaunchConfig) -> Result<(Vec<LaunchAttribute>, bool), Code> {
    let len = config.attributes_len as usize;
    if len > LAUNCH_ATTRIBUTES_MAX {
        return Err(result::INVALID_VALUE);
    }
    let mut repeatable = true;
    let mut attributes = Vec::with_capacity(len);
    for i in 0..len {
        let mut attribute = config.attributes.at(i)?;
        attribute.reserved = 0;
        if attribute.id == LaunchAttribute::DEVICE_UPDATABLE_NODE {
            return Err(result::NOT_SUPPORTED);
        }
        if attribute.names_event() {
            let event = call.session.events.get(attribute.value[0] as usize);
            attribute.value[0] = event.ok_or(result::INVALID_HANDLE)?.id.into();
            repeatable = false;
        }
        attributes.push(attribute);
    }
    Ok((attributes, repeatable))
}

/// What a launch is, but for its stream and its parameters.
fn fingerprint(launch: &Launch, attributes: &[LaunchAttribute], len: usize) -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    let keys = KEYS.get_or_init(RandomState::new);
    keys.hash_one((
        launch.grid,
        launch.block,
        launch.shared,
        len,
        attributes.as_bytes(),
    ))
}

/// A launch with attributes.
fn launch_with(
    call: &Call,
    launch: &Launch,
    Checked {
        function,
        stream,
        params,
        len,
        captures,
    }: Checked,
    (attributes, repeatable): (Vec<LaunchAttribute>, bool),
) -> Result<(), Code> {
    use calls::cuLaunchKernelEx as wire;
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    let arguments = wire::In {
        function: function.id,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared: launch.shared,
        stream: stream.word,
        attributes: attributes.len() as u32,
    };
    let known = attributes.as_bytes();
    let fill = |to: &mut [u8]| {
        let (first, rest) = to.split_at_mut(known.len());
        first.copy_from_slice(known);
        params.pack(&function, rest);
    };
    let print = fingerprint(launch, &attributes, len);
    if repeatable && !captures && function.proven.knows(print) {
        call.submit_with::<wire::Call>(stream.context, arguments, known.len() + len, fill)?;
    } else {
        let mut blob = vec![0; known.len() + len];
        fill(&mut blob);
        call.submit_answered::<wire::Call>(stream.context, arguments, &blob)?;
        function.proven.learn_whole(print);
    }
    launched(call, &stream)
}

/// What a question about a launch asks: its function and its words on the wire.
macro_rules! ask_about {
    ($wire:ident, $call:expr, $function:expr, $config:expr) => {{
        use calls::$wire as wire;
        let function = $call.function($function)?;
        let config = $config.get()?;
        let (attributes, _) = attributes(&$call, &config)?;
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (config.grid, config.block);
        let arguments = wire::In {
            function: function.id,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            shared: config.shared,
            attributes: attributes.len() as u32,
        };
        $call
            .ask_with::<wire::Call>(function.context, arguments, attributes.as_bytes())?
            .0
    }};
}

cuda! {
    fn cuOccupancyMaxActiveClusters(clusters: Out<c_int>, function: CUfunction, config: In<LaunchConfig>) {
        let call = Call::enter()?;
        clusters.check()?;
        clusters.set(ask_about!(cuOccupancyMaxActiveClusters, call, function, config).clusters)
    }

    fn cuOccupancyMaxPotentialClusterSize(size: Out<c_int>, function: CUfunction, config: In<LaunchConfig>) {
        let call = Call::enter()?;
        size.check()?;
        size.set(ask_about!(cuOccupancyMaxPotentialClusterSize, call, function, config).size)
    }
}

cuda_pairs! {
    fn cuLaunchKernelEx / cuLaunchKernelEx_ptsz(
        config: In<LaunchConfig>, function: CUfunction, params: In<Host>, extra: In<usize>,
    ) |null| {
        let config = config.get()?;
        let call = Call::enter()?;
        let LaunchConfig { grid, block, shared, stream, attributes_len, .. } = config;
        let plain = Launch { function, grid, block, shared, stream };
        if attributes_len == 0 {
            return launch(&call, &plain, params, extra, null);
        }
        let attributes = attributes(&call, &config)?;
        launch_with(&call, &plain, plain.check(&call, params, extra, null)?, attributes)
    }

    fn cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream, params: In<Host>,
    ) |null| {
        let call = Call::enter()?;
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        let cooperative = LaunchAttribute {
            id: LaunchAttribute::COOPERATIVE,
            reserved: 0,
            value: [1, 0, 0, 0, 0, 0, 0, 0],
        };
        let plain = Launch { function, grid, block, shared, stream };
        let checked = plain.check(&call, params, In::none(), null)?;
        launch_with(&call, &plain, checked, (vec![cooperative], true))
    }

    fn cuLaunchKernel / cuLaunchKernel_ptsz(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream,
        params: In<Host>, extra: In<usize>,
    ) |null| {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        launch(&Call::enter()?, &Launch { function, grid, block, shared, stream }, params, extra, null)
    }
}
