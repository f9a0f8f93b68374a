//! What the threads of a warp do together: shuffles, votes, matches, reductions.

use super::{Machine, State};
use crate::ptx::ir::{Ins, NONE, Redux, Run, Shuffle, WarpOp};
use std::ops::Range;

impl Machine<'_> {
    /// Carries out the warp operations whose members have all come; true if there were any. No thread of
    /// the warp is ready when this is called.
    pub(super) fn resolve_warp(&mut self, lanes: Range<usize>) -> bool {
        let first = lanes.start;
        let mut live = 0u32;
        let mut waiting = 0u32;
        for thread in lanes {
            let bit = 1 << (thread - first);
            match self.block.threads[thread].state {
                State::Exited => {}
                State::Warp => {
                    live |= bit;
                    waiting |= bit;
                }
                _ => live |= bit,
            }
        }
        let mut resolved = false;
        for lane in 0..32 {
            if waiting >> lane & 1 == 0 {
                continue;
            }
            let (what, mask) = self.warp_op(first + lane);
            let members = match mask {
                Some(mask) => (mask & live) | 1 << lane,
                // Those which came to the same place are taken as running together.
                None => (lane..32)
                    .filter(|&l| {
                        waiting >> l & 1 != 0
                            && self.block.threads[first + l].pc == self.block.threads[first + lane].pc
                    })
                    .fold(0, |m, l| m | 1 << l),
            };
            let complete = members & !waiting == 0
                && bits(members).all(|l| {
                    let (other, m) = self.warp_op(first + l);
                    other == what && m == mask
                });
            if complete {
                self.warp_execute(first, members, what);
                waiting &= !members;
                resolved = true;
            }
        }
        resolved
    }

    fn warp_ins(&self, thread: usize) -> Ins {
        self.kernel.code[self.block.threads[thread].pc]
    }

    /// The operation a thread waits at, and its member mask.
    fn warp_op(&mut self, thread: usize) -> (WarpOp, Option<u32>) {
        let ins = self.warp_ins(thread);
        let what = match ins.run {
            Run::Warp(what) => what,
            // Only warp operations put a thread into this state.
            _ => WarpOp::Sync,
        };
        let mask = (ins.imm != i64::from(NONE)).then(|| self.regs(thread).get(ins.imm as u16) as u32);
        (what, mask)
    }

    fn warp_execute(&mut self, first: usize, members: u32, what: WarpOp) {
        // Operands are read before any result is written.
        let mut a = [0u64; 32];
        for lane in bits(members) {
            let ins = self.warp_ins(first + lane);
            if ins.a != NONE {
                a[lane] = self.regs(first + lane).get(ins.a);
            }
        }
        let votes = bits(members).filter(|&l| a[l] != 0).fold(0u32, |m, l| m | 1 << l);
        for lane in bits(members) {
            let ins = self.warp_ins(first + lane);
            let regs = self.regs(first + lane);
            let (d, e) = match what {
                WarpOp::Shuffle(mode) => {
                    let (source, exists) =
                        shuffle_source(mode, lane as u32, regs.get(ins.b) as u32, regs.get(ins.c) as u32);
                    (a[source as usize] & 0xffff_ffff, u64::from(exists))
                }
                WarpOp::VoteAll => (u64::from(votes == members), 0),
                WarpOp::VoteAny => (u64::from(votes != 0), 0),
                WarpOp::VoteUniform => (u64::from(votes == members || votes == 0), 0),
                WarpOp::Ballot => (u64::from(votes), 0),
                WarpOp::MatchAny => (same(&a, members, a[lane]), 0),
                WarpOp::MatchAll => {
                    let all = same(&a, members, a[lane]) == u64::from(members);
                    (if all { u64::from(members) } else { 0 }, u64::from(all))
                }
                WarpOp::Redux(op) => (reduce(op, &a, members), 0),
                WarpOp::Sync => (0, 0),
                WarpOp::ActiveMask => (u64::from(members), 0),
            };
            if ins.d != NONE {
                regs.set(ins.d, d);
            }
            if ins.e != NONE {
                regs.set(ins.e, e);
            }
            let thread = &mut self.block.threads[first + lane];
            thread.pc += 1;
            thread.state = State::Ready;
        }
    }
}

fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 != 0)
}

/// The lane a shuffle reads, and whether it is inside the segment; if not, the own lane.
fn shuffle_source(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let b = b & 31;
    let clamp = c & 31;
    let segment = c >> 8 & 31;
    let min = lane & segment;
    let max = min | (clamp & !segment);
    let (source, exists) = match mode {
        Shuffle::Up => (lane.wrapping_sub(b), lane >= b && lane - b >= max),
        Shuffle::Down => (lane + b, lane + b <= max),
        Shuffle::Bfly => (lane ^ b, (lane ^ b) <= max),
        Shuffle::Idx => {
            let at = min | (b & !segment);
            (at, at <= max)
        }
    };
    if exists {
        (source & 31, true)
    } else {
        (lane, false)
    }
}

fn same(a: &[u64; 32], members: u32, value: u64) -> u64 {
    bits(members)
        .filter(|&l| a[l] == value)
        .fold(0, |m, l| m | 1 << l)
}

fn reduce(op: Redux, a: &[u64; 32], members: u32) -> u64 {
    let values = bits(members).map(|l| a[l] as u32);
    let result = match op {
        Redux::Add => values.fold(0, u32::wrapping_add),
        Redux::MinU => values.min().unwrap_or(0),
        Redux::MaxU => values.max().unwrap_or(0),
        Redux::MinS => values.map(|v| v as i32).min().unwrap_or(0) as u32,
        Redux::MaxS => values.map(|v| v as i32).max().unwrap_or(0) as u32,
        Redux::And => values.fold(u32::MAX, |x, y| x & y),
        Redux::Or => values.fold(0, |x, y| x | y),
        Redux::Xor => values.fold(0, |x, y| x ^ y),
    };
    u64::from(result)
}
