//! The last records of a kind, which operators read by number.
use crate::paging;
use serde::Serialize;
use std::collections::VecDeque;
use vgpu_sched_api::messages::{ChangeRecord, EventRecord};

/// What has a number of its own.
pub trait Numbered: Clone + Serialize {
    /// The number.
    fn number(&self) -> u64;
    /// The same under another number.
    fn numbered(self, number: u64) -> Self;
}

impl Numbered for ChangeRecord {
    fn number(&self) -> u64 {
        self.number
    }

    fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

impl Numbered for EventRecord {
    fn number(&self) -> u64 {
        self.number
    }

    fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

/// Records that are numbered without gaps, the oldest first; so many are kept.
#[derive(Debug)]
pub struct Ring<T> {
    records: VecDeque<T>,
    kept: usize,
}

impl<T: Numbered> Ring<T> {
    /// Goes on from those of earlier runs.
    pub fn new(saved: Vec<T>, kept: usize) -> Self {
        Self {
            records: saved.into(),
            kept,
        }
    }

    /// The number that the next one gets.
    fn next(&self) -> u64 {
        self.records.back().map_or(1, |last| last.number() + 1)
    }

    /// Keeps a record, under the next number.
    pub fn add(&mut self, record: T) -> &T {
        let record = record.numbered(self.next());
        if self.records.len() >= self.kept {
            self.records.pop_front();
        }
        self.records.push_back(record);
        &self.records[self.records.len() - 1]
    }

    /// The record of that number, if it is kept.
    pub fn get(&self, number: u64) -> Option<&T> {
        let found = self.records.get(self.place_of(number));
        found.filter(|record| record.number() == number)
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.records.iter()
    }

    /// Those from a number on that are wanted: as many as one answer holds, and the number to go on with.
    pub fn from(&self, number: u64, wanted: impl Fn(&T) -> bool) -> (Vec<T>, u64) {
        let later = self.records.range(self.place_of(number)..);
        let fit = paging::that_fit(later.filter(|record| wanted(record)));
        // If there is none, none is left that is wanted.
        let none_left = number.max(self.next());
        let next = fit.last().map_or(none_left, |last| last.number() + 1);
        (fit.into_iter().cloned().collect(), next)
    }

    /// Where the first one is that has this number or a later one.
    fn place_of(&self, number: u64) -> usize {
        self.records.partition_point(|record| record.number() < number)
    }
}
