//! What `vgpud` orders, over one connection.
use crate::session::{Session, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::packet::{self, PacketError};

/// Carries out what is ordered, in a thread of its own. What was said already is in force when this returns: a session has
/// its limits before its guest's program makes a call.
pub fn serve(session: &'static Session, socket: OwnedFd) {
    let connection = session.preempt.connected(session);
    session.suspension.connected(session);
    while is_ready(&socket, Some(Duration::ZERO)) && next(session, &socket) {}
    spawn("orders", move || {
        session.relax_this_thread();
        loop {
            let timeout = session.preempt.time_stopped();
            if is_ready(&socket, timeout) && !next(session, &socket) {
                break;
            }
        }
        session.preempt.disconnected(connection);
    });
}

fn is_ready(socket: &OwnedFd, timeout: Option<Duration>) -> bool {
    let timeout = timeout.map(|left| Timespec {
        tv_sec: left.as_secs() as _,
        tv_nsec: left.subsec_nanos() as _,
    });
    let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref());
    matches!(ready, Ok(n) if n > 0)
}

/// Carries out one order; whether there may be more.
fn next(session: &Session, socket: &OwnedFd) -> bool {
    let (order, fds) = match packet::receive::<ToExec>(socket) {
        Ok(received) => received,
        Err(PacketError::Io(rustix::io::Errno::AGAIN)) => return true,
        Err(error) => {
            log::info!("vgpud is gone: {error}");
            return false;
        }
    };
    let start = Instant::now();
    let preempt = &session.preempt;
    let (sequence, done) = match order {
        ToExec::Window { operations, depth } => {
            session.set_window(operations);
            session.load.set_depth(depth);
            return true;
        }
        ToExec::VmPage { slot, columns } => {
            let page = fds.into_iter().next();
            let page = page.ok_or_else(|| std::io::Error::other("there is no page"));
            if let Err(error) = page.and_then(|page| session.limits.connect(page, slot, &columns)) {
                log::error!("the VM page: {error}");
            }
            return true;
        }
        ToExec::MemoryInUse { bytes, asked } => {
            session.limits.told(&bytes, asked);
            return true;
        }
        ToExec::End { code, why } => session.ordered_to_end(code, &why),
        ToExec::Suspend => {
            session.suspension.suspend(session);
            return true;
        }
        ToExec::Slice {
            sequence,
            microseconds,
        } => {
            session.set_slice(microseconds);
            (sequence, preempt.set_slice(microseconds))
        }
        ToExec::Stop { sequence, deadman_ms } => (sequence, preempt.stop(Duration::from_millis(deadman_ms))),
        ToExec::Resume { sequence } => (sequence, preempt.resume()),
    };
    let microseconds = start.elapsed().as_micros() as u64;
    if let Err(error) = done {
        log::warn!("order {sequence} failed: {error}");
    }
    session.turn.tell(&FromExec::Done {
        sequence,
        ok: done.is_ok(),
        microseconds,
    });
    true
}
