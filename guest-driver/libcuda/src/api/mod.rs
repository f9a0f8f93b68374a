//! The calls, one module per kind. Every `call` and `local` row of the table has its functions here, under the ABI's names.
mod array;
mod batch;
mod capture;
mod context;
mod copy;
mod device;
mod error;
mod event;
mod function;
mod graph;
mod graph_copy;
mod graph_dot;
mod graph_edges;
mod graph_edit;
mod graph_look;
mod graph_node;
mod host_fn;
mod host_memory;
mod init;
mod ipc;
mod launch;
mod library;
mod link;
mod log;
mod managed;
mod memory;
mod memset;
mod module;
mod peer;
mod pointer;
mod pool;
mod primary;
mod profiler;
mod resource;
mod rows;
mod stream;
mod stream_memory;
mod tensor_map;
#[cfg(test)]
mod tests;
mod texture;
mod user_object;
mod variables;
mod virtual_memory;

pub use array::*;
pub use batch::*;
pub use capture::*;
pub use context::*;
pub use copy::*;
pub use device::*;
pub use error::*;
pub use event::*;
pub use function::*;
pub use graph::*;
pub use graph_dot::*;
pub use graph_edges::*;
pub use graph_edit::*;
pub use graph_look::*;
pub use host_fn::*;
pub use host_memory::*;
pub use init::*;
pub use ipc::*;
pub use launch::*;
pub use library::*;
pub use link::*;
pub use log::*;
pub use managed::*;
pub use memory::*;
pub use memset::*;
pub use module::*;
pub use peer::*;
pub use pointer::*;
pub use pool::*;
pub use primary::*;
pub use profiler::*;
pub use resource::*;
pub use rows::*;
pub use stream::*;
pub use stream_memory::*;
pub use tensor_map::*;
pub use texture::*;
pub use user_object::*;
pub use variables::Variables;
pub use virtual_memory::*;

use crate::abi::{CUresult, CUstream};
use crate::objects::{Context, Stream, StreamKind};
use crate::session::{Call, NullStream};
use crate::trace::Said;
use crate::{abi, lock, trace};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::handle;

/// Runs a call's body. No panic leaves the library.
pub(crate) fn guard(name: &str, said: Said, body: impl FnOnce() -> Result<(), Code>) -> CUresult {
    let result = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => result::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => result::UNKNOWN,
    };
    trace::ended(name, said, result);
    result
}

/// Defines exported functions; their bodies are `Result<(), Code>`.
macro_rules! cuda {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name($($arg: $type),*) -> $crate::abi::CUresult {
            $crate::api::guard(stringify!($name), $crate::trace::said!($($arg),*), || $body)
        }
    )*};
}

/// Defines pairs of exported functions that differ in which stream a null handle is: `null` in their one body.
macro_rules! cuda_pairs {
    ($(fn $name:ident / $per_thread:ident($($arg:ident: $type:ty),* $(,)?) |$null:ident| $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name($($arg: $type),*) -> $crate::abi::CUresult {
            let $null = $crate::session::NullStream::Legacy;
            $crate::api::guard(stringify!($name), $crate::trace::said!($($arg),*), || $body)
        }
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $per_thread($($arg: $type),*) -> $crate::abi::CUresult {
            let $null = $crate::session::NullStream::PerThread;
            $crate::api::guard(stringify!($per_thread), $crate::trace::said!($($arg),*), || $body)
        }
    )*};
}
use {cuda, cuda_pairs};

impl Call {
    /// The stream of a handle, whatever its context; default streams are those of the current context.
    pub(crate) fn stream(&self, stream: CUstream, null: NullStream) -> Result<Arc<Stream>, Code> {
        let null = match stream {
            0 => null,
            abi::CU_STREAM_LEGACY => NullStream::Legacy,
            abi::CU_STREAM_PER_THREAD => NullStream::PerThread,
            created => {
                let found = self.session.streams.get(created);
                let found = found.ok_or(result::INVALID_HANDLE)?;
                return Ok(Arc::clone(&***found));
            }
        };
        let context = self.context()?;
        match null {
            NullStream::Legacy => Ok(context.legacy.clone()),
            NullStream::PerThread => self.per_thread_stream(&context),
        }
    }

    /// The stream of a handle, for work in the current context.
    fn work_stream(
        &self,
        context: &Context,
        stream: CUstream,
        null: NullStream,
    ) -> Result<Arc<Stream>, Code> {
        let stream = self.stream(stream, null)?;
        if stream.context == context.id {
            Ok(stream)
        } else {
            Err(result::INVALID_HANDLE)
        }
    }

    fn per_thread_stream(&self, context: &Context) -> Result<Arc<Stream>, Code> {
        let ring = self.thread.ring(self.session)?;
        let mut streams = lock(&ring.per_thread);
        streams.retain(|s| !s.is_dead());
        if let Some(stream) = streams.iter().find(|s| s.context == context.id) {
            return Ok(stream.clone());
        }
        let (slot, sequence) = self.session.reserve_slot()?;
        let word = handle::STREAM_PER_THREAD;
        let stream = Stream::new(slot, word, context.id, StreamKind::PerThread, sequence);
        let stream = Arc::new(stream.at_home(ring.index()));
        streams.push(stream.clone());
        context.add(stream.clone(), &self.session.area);
        Ok(stream)
    }
}
