//! Kernels: what there is to know of them, their attributes, and how many of them fit.
use super::cuda;
use crate::abi::{CUfunction, CUmodule, Out};
use crate::lock;
use crate::objects::{Function, Question};
use crate::session::Call;
use std::ffi::{c_char, c_int, c_uint};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK; CU_DEVICE_ATTRIBUTE_WARP_SIZE and _MULTIPROCESSOR_COUNT.
const FUNCTION_MAX_THREADS: c_int = 0;
const DEVICE_WARP_SIZE: usize = 10;
const DEVICE_MULTIPROCESSORS: usize = 16;

/// A kernel's answer to a question, asked of the host once.
fn answer(
    function: &Function,
    question: Question,
    ask: impl FnOnce() -> Result<i64, Code>,
) -> Result<i64, Code> {
    let mut answers = lock(&function.answers);
    if let Some(&known) = answers.get(&question) {
        return Ok(known);
    }
    let answer = ask()?;
    answers.insert(question, answer);
    Ok(answer)
}

/// The value of a CUfunction_attribute.
pub(super) fn attribute(call: &Call, function: &Function, attribute: c_int) -> Result<c_int, Code> {
    let value = answer(function, Question::Attribute(attribute), || {
        let arguments = calls::cuFuncGetAttribute::In {
            attribute,
            function: function.id,
        };
        let out = call.ask::<calls::cuFuncGetAttribute::Call>(function.context, arguments)?;
        Ok(out.value.into())
    })?;
    Ok(value as c_int)
}

fn active_blocks(
    call: &Call,
    function: &Function,
    block: c_int,
    shared: usize,
    flags: c_uint,
) -> Result<c_int, Code> {
    let shared = shared as u64;
    let blocks = answer(function, Question::ActiveBlocks(block, shared, flags), || {
        use calls::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags as wire;
        let arguments = wire::In {
            function: function.id,
            block,
            shared,
            flags,
        };
        Ok(call.ask::<wire::Call>(function.context, arguments)?.blocks.into())
    })?;
    Ok(blocks as c_int)
}

/// Offset and bytes of a parameter.
pub(super) fn parameter(
    function: &Function,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Result<(), Code> {
    offset.check()?;
    let param = function.params.get(index).ok_or(result::INVALID_VALUE)?;
    offset.set(param.offset as usize)?;
    size.set_if_wanted(param.size as usize);
    Ok(())
}

/// CUoccupancyB2DSize: bytes of dynamic shared memory of a block with so many threads.
type SharedOf = unsafe extern "C" fn(c_int) -> usize;

/// The block size with which most threads are resident on a multiprocessor, the largest such, and as many blocks as the device
/// then holds.
fn best_block(
    call: &Call,
    (grid, block): (Out<c_int>, Out<c_int>),
    function: CUfunction,
    (shared_of, shared): (Option<SharedOf>, usize),
    limit: c_int,
    flags: c_uint,
) -> Result<(), Code> {
    let function = call.function(function)?;
    let context = call.context()?;
    grid.check()?;
    block.check()?;
    let attributes = &call.session.gpus[context.device].attributes;
    let (warp, multiprocessors) = (attributes[DEVICE_WARP_SIZE], attributes[DEVICE_MULTIPROCESSORS]);
    if warp <= 0 {
        return Err(result::NOT_SUPPORTED);
    }
    let most = attribute(call, &function, FUNCTION_MAX_THREADS)?;
    let most = if limit > 0 { most.min(limit) } else { most };
    let (mut best_threads, mut best) = (0, (0, 0));
    let mut size = (most.max(1) + warp - 1) / warp * warp;
    while size > 0 {
        let threads = size.min(most);
        let shared = match shared_of {
            // SAFETY: the caller passed the function to be asked for every size of block.
            Some(shared_of) => unsafe { shared_of(threads) },
            None => shared,
        };
        let blocks = active_blocks(call, &function, threads, shared, flags)?;
        if threads * blocks > best_threads {
            (best_threads, best) = (threads * blocks, (threads, blocks));
        }
        size -= warp;
    }
    grid.set(best.1 * multiprocessors)?;
    block.set(best.0)
}

cuda! {
    fn cuFuncGetAttribute(value: Out<c_int>, number: c_int, function: CUfunction) {
        let call = Call::enter()?;
        value.check()?;
        value.set(attribute(&call, &*call.function(function)?, number)?)
    }

    fn cuFuncSetAttribute(function: CUfunction, attribute: c_int, value: c_int) {
        let call = Call::enter()?;
        call.function(function)?.set_attribute(&call, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: CUfunction, config: c_int) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        let arguments = calls::cuFuncSetCacheConfig::In { function: function.id, config };
        call.ask::<calls::cuFuncSetCacheConfig::Call>(function.context, arguments).map(drop)
    }

    fn cuFuncGetModule(module: Out<CUmodule>, function: CUfunction) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        module.set(function.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: CUfunction) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        // It lives as long as the function.
        name.set(function.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: CUfunction, index: usize, offset: Out<usize>, size: Out<usize>) {
        let call = Call::enter()?;
        parameter(&*call.function(function)?, index, offset, size)
    }

    fn cuFuncIsLoaded(state: Out<c_int>, function: CUfunction) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        state.check()?;
        let arguments = calls::cuFuncIsLoaded::In { function: function.id };
        state.set(call.ask::<calls::cuFuncIsLoaded::Call>(function.context, arguments)?.state)
    }

    fn cuFuncLoad(function: CUfunction) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        let arguments = calls::cuFuncLoad::In { function: function.id };
        call.ask::<calls::cuFuncLoad::Call>(function.context, arguments).map(drop)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>, function: CUfunction, block: c_int, shared: usize,
    ) {
        let call = Call::enter()?;
        blocks.check()?;
        blocks.set(active_blocks(&call, &*call.function(function)?, block, shared, 0)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>, function: CUfunction, block: c_int, shared: usize, flags: c_uint,
    ) {
        let call = Call::enter()?;
        blocks.check()?;
        blocks.set(active_blocks(&call, &*call.function(function)?, block, shared, flags)?)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>, block: Out<c_int>, function: CUfunction, shared_of: Option<SharedOf>, shared: usize, limit: c_int,
    ) {
        best_block(&Call::enter()?, (grid, block), function, (shared_of, shared), limit, 0)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<c_int>, block: Out<c_int>, function: CUfunction, shared_of: Option<SharedOf>, shared: usize, limit: c_int,
        flags: c_uint,
    ) {
        best_block(&Call::enter()?, (grid, block), function, (shared_of, shared), limit, flags)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        shared: Out<usize>, function: CUfunction, blocks: c_int, block: c_int,
    ) {
        let call = Call::enter()?;
        let function = call.function(function)?;
        shared.check()?;
        let left = answer(&function, Question::AvailableShared(blocks, block), || {
            use calls::cuOccupancyAvailableDynamicSMemPerBlock as wire;
            let arguments = wire::In { function: function.id, blocks, block };
            Ok(call.ask::<wire::Call>(function.context, arguments)?.shared as i64)
        })?;
        shared.set(left as usize)
    }
}
