//! From a record to its handler, generated from the one table of calls: a row without a handler does not compile.
use crate::ring::{Consumer, Failure, Record, Reply};
use vgpu_protocol::calls::{self, Call, Wire};
use vgpu_protocol::ring::RingError;
use vgpu_protocol::words::Words;

/// What a call does here.
pub trait Handle: Wire {
    /// Carries the call out. A blob that the reply carries is put into `reply`.
    fn handle(
        ring: &mut Consumer,
        arguments: Self::In,
        blob: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Self::Out, Failure>;
}

type Handler = fn(&mut Consumer, &Record<'_>, &mut Reply) -> Result<(), Failure>;

fn run<C: Handle>(ring: &mut Consumer, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
    let row: &Call = C::CALL;
    let bad = RingError::Arguments { op: record.op };
    let arguments = C::In::take(record.words).ok_or(bad)?;
    // A call that is answered must ask for it; any other may.
    if (row.reply && !record.reply) || (!row.blob_in && !record.blob.is_empty()) {
        return Err(bad.into());
    }
    let results = if row.forbidden {
        let session = ring.session;
        session.refuse_in_capture()?;
        // It comes before a capture that begins now.
        session.relaxed(|| C::handle(ring, arguments, record.blob, &mut reply.blob))?
    } else {
        C::handle(ring, arguments, record.blob, &mut reply.blob)?
    };
    results.put(&mut reply.words);
    reply.words_len = C::Out::LEN;
    Ok(())
}

macro_rules! handlers {
    ($($mode:ident $op:literal $name:ident { $($s:ident : $v:literal),* } { $($p:ident : $w:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        static HANDLERS: [Option<Handler>; calls::OP_END as usize] = {
            let mut handlers: [Option<Handler>; calls::OP_END as usize] = [None; calls::OP_END as usize];
            $(handler! { $mode handlers $op $name })*
            handlers
        };
    };
}
macro_rules! handler {
    (call $handlers:ident $op:literal $name:ident) => {
        $handlers[$op] = Some(run::<calls::$name::Call>);
    };
    ($mode:ident $handlers:ident $op:literal $name:ident) => {};
}
vgpu_protocol::for_each_call!(handlers);

fn handler(op: u16) -> Option<Handler> {
    HANDLERS.get(usize::from(op)).copied().flatten()
}

/// Carries a call out.
pub fn call(ring: &mut Consumer, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
    let handler = handler(record.op).ok_or(RingError::Op(record.op))?;
    handler(ring, record, reply)
}

/// Writes handlers without their boilerplate: `NAME(ring, arguments) { ... }` for a call without blobs, `NAME(ring, arguments,
/// blob, reply) { ... }` for one with. A body ends with the results.
macro_rules! handlers_of {
    ($($(#[$doc:meta])* $name:ident($ring:ident, $arguments:pat $(, $blob:ident, $reply:ident)?) $body:block)*) => {$(
        $(#[$doc])*
        impl $crate::dispatch::Handle for vgpu_protocol::calls::$name::Call {
            fn handle(
                $ring: &mut $crate::ring::Consumer,
                $arguments: vgpu_protocol::calls::$name::In,
                $crate::dispatch::handlers_of!(@name blob $($blob)?): &[u8],
                $crate::dispatch::handlers_of!(@name reply $($reply)?): &mut Vec<u8>,
            ) -> Result<vgpu_protocol::calls::$name::Out, $crate::ring::Failure> {
                #[allow(unused_imports, reason = "most results have no words")]
                use vgpu_protocol::calls::$name::Out;
                $body
            }
        }
    )*};
    (@name $default:ident $name:ident) => { $name };
    (@name $default:ident) => { _ };
}
pub(crate) use handlers_of;

/// What an operation is called, for the log.
pub fn name(op: u16) -> &'static str {
    calls::find_op(op).map_or("an operation that is no call", |call| call.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_that_crosses_the_wire_has_a_handler_and_nothing_else_has() {
        for op in 0..=u16::MAX {
            assert_eq!(handler(op).is_some(), calls::find_op(op).is_some(), "{op:#x}");
        }
    }
}
