//! The turns given lately.
use crate::paging;
use std::collections::VecDeque;
use vgpu_sched_api::messages::TurnRecord;

/// Turns kept.
const KEPT: usize = 10_000;

/// The last turns, numbered without gaps.
#[derive(Debug, Default)]
pub struct Ledger {
    turns: VecDeque<TurnRecord>,
}

impl Ledger {
    /// A turn began. Its number follows that of the one before it.
    pub fn begin(&mut self, turn: TurnRecord) {
        if self.turns.len() == KEPT {
            self.turns.pop_front();
        }
        self.turns.push_back(turn);
    }

    /// A turn ended, if it is still kept.
    pub fn end(&mut self, number: u64, held_us: u64, end: &str) {
        if let Some(turn) = self.index(number).and_then(|index| self.turns.get_mut(index)) {
            turn.held_us = Some(held_us);
            turn.end = Some(end.to_owned());
        }
    }

    /// The turns from a number on, as many as one answer holds, and the number to go on with.
    pub fn from(&self, number: u64) -> (Vec<TurnRecord>, u64) {
        let first = self.turns.front().map_or(number, |turn| turn.number);
        let skip = number.saturating_sub(first).min(self.turns.len() as u64) as usize;
        let turns = paging::that_fit(self.turns.iter().skip(skip).cloned());
        let next = turns.last().map_or(number.max(1), |turn| turn.number + 1);
        (turns, next)
    }

    fn index(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.turns.front()?.number)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched_api::messages::{Answer, PACKET_LEN_MAX, Policy, Priority};

    fn turn(number: u64) -> TurnRecord {
        TurnRecord {
            number,
            vm: u32::MAX,
            session: u32::MAX,
            gpu: "GPU-00000000-0000-0000-0000-000000000000".to_owned(),
            priority: Priority::Medium,
            policy: Policy::Priority,
            level: Some(Priority::Medium),
            granted_us: 1 << 50,
            waited_us: 1 << 40,
            held_us: None,
            end: None,
        }
    }

    #[test]
    fn the_last_turns_are_kept_and_read_in_parts() {
        let mut ledger = Ledger::default();
        for number in 1..=KEPT as u64 + 5 {
            ledger.begin(turn(number));
            ledger.end(number, 1 << 40, "released");
        }
        ledger.end(1, 7, "gone");
        let (mut read, mut next) = (Vec::new(), 0);
        loop {
            let (turns, after) = ledger.from(next);
            if turns.is_empty() {
                assert_eq!(after, next);
                break;
            }
            let answer = Answer::Turns {
                turns: turns.clone(),
                next: after,
            };
            assert!(serde_json::to_vec(&answer).unwrap().len() < PACKET_LEN_MAX);
            read.extend(turns);
            next = after;
        }
        let numbers: Vec<u64> = read.iter().map(|turn| turn.number).collect();
        assert_eq!(numbers, (6..=KEPT as u64 + 5).collect::<Vec<_>>());
        assert!(read.iter().all(|turn| turn.held_us == Some(1 << 40)));
    }
}
