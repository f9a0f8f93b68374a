//! Launching kernels, and how many of them fit.
use super::BAD_HANDLE;
use crate::cuda::{Grid, LaunchConfig};
use crate::dispatch::handlers_of;
use crate::handles::{Event, Function};
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use std::borrow::Cow;
use std::sync::Arc;
use vgpu_protocol::calls::{Wire, cuLaunchKernel, cuLaunchKernelEx};
use vgpu_protocol::limits::LAUNCH_ATTRIBUTES_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::RingError;
use vgpu_protocol::words::LaunchAttribute;
use zerocopy::FromBytes;

/// A buffer of another length than the kernel's is libcuda's to judge, but it never reads past ours.
pub fn padded<'a>(function: &Function, params: &'a [u8]) -> Cow<'a, [u8]> {
    match function.params_len().checked_sub(params.len()) {
        Some(missing @ 1..) => Cow::Owned([params, &vec![0; missing]].concat()),
        _ => Cow::Borrowed(params),
    }
}

/// A launch's attributes, as libcuda takes them.
struct Attributes {
    list: Vec<LaunchAttribute>,
    /// Keeps the events that the list names.
    events: Vec<Arc<Event>>,
}

/// Takes `count` attributes off a blob's start.
fn attributes<'a>(
    ring: &Consumer,
    op: u16,
    count: u32,
    blob: &'a [u8],
) -> Result<(Attributes, &'a [u8]), Failure> {
    let bad = Failure::Broken(RingError::Arguments { op });
    if count as usize > LAUNCH_ATTRIBUTES_MAX {
        return Err(bad);
    }
    let (list, rest) =
        <[LaunchAttribute]>::ref_from_prefix_with_elems(blob, count as usize).map_err(|_| bad)?;
    let mut list = list.to_vec();
    let mut events = Vec::new();
    for attribute in &mut list {
        if attribute.id == LaunchAttribute::DEVICE_UPDATABLE_NODE {
            return Err(result::NOT_SUPPORTED.into());
        }
        if !LaunchAttribute::is_known(attribute.id) {
            return Err(result::INVALID_VALUE.into());
        }
        if attribute.names_event() {
            let id = u32::try_from(attribute.value[0]).map_err(|_| bad)?;
            let event = ring.event(id)?;
            attribute.value[0] = event.raw? as u64;
            events.push(event);
        }
    }
    Ok((Attributes { list, events }, rest))
}

/// Asks something about a launch, whose shape and attributes are the arguments'.
fn about(
    ring: &Consumer,
    (function, grid): (u32, Grid),
    attributes: &[LaunchAttribute],
    ask: impl FnOnce(usize, &LaunchConfig<'_>) -> Result<(), Code>,
) -> Result<(), Failure> {
    let function = ring.session.objects.functions.get(function).ok_or(BAD_HANDLE)?;
    function.module.context.make_current()?;
    // Nothing of it depends on the stream.
    Ok(ask(function.raw, &LaunchConfig::new(grid, 0, attributes))?)
}

macro_rules! grid {
    ($arguments:ident) => {
        Grid {
            blocks: [$arguments.grid_x, $arguments.grid_y, $arguments.grid_z],
            threads: [$arguments.block_x, $arguments.block_y, $arguments.block_z],
            shared: $arguments.shared,
        }
    };
}

handlers_of! {
    cuLaunchKernel(ring, a, blob, _reply) {
        let session = ring.session;
        let function = session.objects.functions.get(a.function);
        let function = function.ok_or(BAD_HANDLE)?;
        let stream = ring.stream(a.stream)?;
        let params = padded(&function, blob);
        ring.submit(&stream, Work::data(cuLaunchKernel::Call::CALL.turn), |raw, to| {
            to.keep(&function);
            session.cuda.launch_kernel(function.raw, grid!(a), raw, &params, blob.len())
        })?;
        Ok(Out {})
    }

    cuLaunchKernelEx(ring, a, blob, _reply) {
        let session = ring.session;
        let function = session.objects.functions.get(a.function);
        let function = function.ok_or(BAD_HANDLE)?;
        let stream = ring.stream(a.stream)?;
        let (attributes, packed) = attributes(ring, cuLaunchKernelEx::OP, a.attributes, blob)?;
        let params = padded(&function, packed);
        ring.submit(&stream, Work::data(cuLaunchKernelEx::Call::CALL.turn), |raw, to| {
            to.keep(&function);
            attributes.events.iter().for_each(|event| to.keep(event));
            let config = LaunchConfig::new(grid!(a), raw, &attributes.list);
            session.cuda.launch_kernel_ex(function.raw, &config, &params, packed.len())
        })?;
        Ok(Out {})
    }

    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(ring, a) {
        let function = ring.session.objects.functions.get(a.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        let shared = usize::try_from(a.shared).map_err(|_| result::INVALID_VALUE)?;
        let blocks = ring.session.cuda.contexts.max_active_blocks(function.raw, a.block, shared, a.flags)?;
        Ok(Out { blocks })
    }

    cuOccupancyAvailableDynamicSMemPerBlock(ring, a) {
        let function = ring.session.objects.functions.get(a.function).ok_or(BAD_HANDLE)?;
        function.module.context.make_current()?;
        let shared = ring.session.cuda.contexts.available_shared(function.raw, a.blocks, a.block)? as u64;
        Ok(Out { shared })
    }

    cuOccupancyMaxActiveClusters(ring, a, blob, _reply) {
        let op = vgpu_protocol::calls::cuOccupancyMaxActiveClusters::OP;
        let (attributes, _) = attributes(ring, op, a.attributes, blob)?;
        let mut clusters = 0;
        about(ring, (a.function, grid!(a)), &attributes.list, |function, config| {
            // SAFETY: a place and a configuration that outlive the call.
            unsafe { ring.session.cuda.contexts.max_active_clusters(&mut clusters, function, config) }
        })?;
        Ok(Out { clusters })
    }

    cuOccupancyMaxPotentialClusterSize(ring, a, blob, _reply) {
        let op = vgpu_protocol::calls::cuOccupancyMaxPotentialClusterSize::OP;
        let (attributes, _) = attributes(ring, op, a.attributes, blob)?;
        let mut size = 0;
        about(ring, (a.function, grid!(a)), &attributes.list, |function, config| {
            // SAFETY: a place and a configuration that outlive the call.
            unsafe { ring.session.cuda.contexts.max_cluster_size(&mut size, function, config) }
        })?;
        Ok(Out { size })
    }
}
