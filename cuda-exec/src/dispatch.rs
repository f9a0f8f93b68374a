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
    let results = C::handle(ring, arguments, record.blob, &mut reply.blob)?;
    results.put(&mut reply.words);
    reply.words_len = C::Out::LEN;
    Ok(())
}

macro_rules! handlers {
    ($($mode:ident $op:literal $name:ident { $($s:ident : $v:literal),* } { $($p:ident : $w:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        fn handler(op: u16) -> Option<Handler> {
            $(handler! { $mode op $op $name })*
            None
        }
    };
}
macro_rules! handler {
    (call $asked:ident $op:literal $name:ident) => {
        if $asked == $op {
            return Some(run::<calls::$name::Call>);
        }
    };
    ($mode:ident $asked:ident $op:literal $name:ident) => {};
}
vgpu_protocol::for_each_call!(handlers);

/// Carries a call out.
pub fn call(ring: &mut Consumer, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
    let handler = handler(record.op).ok_or(RingError::Op(record.op))?;
    handler(ring, record, reply)
}

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
