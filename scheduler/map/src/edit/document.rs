//! The map's text as a document that remembers how it is written, and the few changes that edits make to it.
use super::array;
use crate::error::MapError;
use crate::range::{self, VmRange};
use toml_edit::visit_mut::{self, VisitMut};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};
use vgpu_sched_api::messages::Rung;

/// A pool map's text. Pools are named by their place among the pools.
pub struct Document {
    doc: DocumentMut,
}

impl Document {
    pub fn parse(text: &str) -> Result<Self, MapError> {
        let doc = text.parse::<DocumentMut>().map_err(|error| {
            let span = error.span().unwrap_or_default();
            MapError::at(text, span, error.message())
        })?;
        Ok(Self { doc })
    }

    pub fn text(&self) -> String {
        self.doc.to_string()
    }

    pub fn add_pool(&mut self, name: &str, gpu: &str) {
        // In a file of comments alone these are the end; they stay above what comes.
        let comments = match self.doc.is_empty() {
            true => self.doc.trailing().as_str().unwrap_or_default().to_owned(),
            false => String::new(),
        };
        if !comments.is_empty() {
            self.doc.set_trailing("");
        }
        let tables = Item::ArrayOfTables(ArrayOfTables::new());
        let gpus = Value::Array(Array::from_iter([gpu]));
        match self.doc.entry("pool").or_insert(tables) {
            Item::Value(Value::Array(pools)) => {
                let mut pool = InlineTable::new();
                pool.insert("name", name.into());
                pool.insert("gpus", gpus);
                array::insert(pools, pools.len(), pool.into());
            }
            Item::ArrayOfTables(pools) => {
                let mut pool = Table::new();
                if !comments.is_empty() {
                    pool.decor_mut().set_prefix(format!("{comments}\n"));
                }
                pool.insert("name", name.into());
                pool.insert("gpus", gpus.into());
                pools.push(pool);
            }
            // Not what a map that was read can have.
            Item::None | Item::Table(_) | Item::Value(_) => {}
        }
    }

    /// The comments above it stay.
    pub fn remove_pool(&mut self, pool: usize) {
        match self.doc.get_mut("pool") {
            Some(Item::ArrayOfTables(pools)) if pool < pools.len() => {
                let removed = pools.remove(pool);
                self.keep_comments_above(&removed);
            }
            Some(Item::Value(Value::Array(pools))) if pool < pools.len() => array::remove(pools, pool),
            _ => {}
        }
    }

    pub fn add_gpu(&mut self, pool: usize, uuid: &str) {
        if let Some(gpus) = self.array_of(pool, "gpus") {
            array::insert(gpus, gpus.len(), uuid.into());
        }
    }

    /// Takes away the one for which `is` holds.
    pub fn remove_gpu(&mut self, pool: usize, is: impl Fn(&str) -> bool) {
        if let Some(gpus) = self.array_of(pool, "gpus") {
            let index = gpus.iter().position(|gpu| gpu.as_str().is_some_and(&is));
            if let Some(index) = index {
                array::remove(gpus, index);
            }
        }
    }

    /// Adds VMs; ranges that this joins become one.
    pub fn add_vms(&mut self, pool: usize, vms: VmRange) {
        let Some(listed) = self.array_of(pool, "vms") else {
            return;
        };
        let ranges: Vec<VmRange> = listed.iter().filter_map(range_of).collect();
        let near: Vec<usize> = (0..ranges.len())
            .filter(|i| ranges[*i].joined(vms).is_some())
            .collect();
        let Some((first, others)) = near.split_first() else {
            let index = ranges
                .iter()
                .position(|range| *range > vms)
                .unwrap_or(listed.len());
            array::insert(listed, index, value_of(vms));
            return;
        };
        let joined = near
            .iter()
            .fold(vms, |all, i| all.joined(ranges[*i]).unwrap_or(all));
        if joined != ranges[*first] {
            array::replace(listed, *first, value_of(joined));
        }
        for index in others.iter().rev() {
            array::remove(listed, *index);
        }
    }

    /// Takes VMs away; a range in whose middle they are becomes two.
    pub fn remove_vms(&mut self, pool: usize, vms: VmRange) {
        let Some(listed) = self.array_of(pool, "vms") else {
            return;
        };
        for index in (0..listed.len()).rev() {
            let Some(range) = listed.get(index).and_then(range_of) else {
                continue;
            };
            match range.without(vms)[..] {
                [rest] if rest == range => {}
                [] => array::remove(listed, index),
                [first, ref more @ ..] => {
                    array::replace(listed, index, value_of(first));
                    for rest in more {
                        array::insert(listed, index + 1, value_of(*rest));
                    }
                }
            }
        }
    }

    /// Sets a key of `[vm.N]`, which is made if it is not there.
    pub fn set_vm(&mut self, vm: u32, key: &str, value: Value) {
        let parent = self.doc.entry("vm").or_insert_with(|| {
            let mut parent = Table::new();
            parent.set_implicit(true);
            Item::Table(parent)
        });
        let inline = parent.is_inline_table();
        let Some(parent) = parent.as_table_like_mut() else {
            return;
        };
        let name = spelling(parent, vm).unwrap_or_else(|| vm.to_string());
        let entry = parent.entry(&name).or_insert_with(|| match inline {
            true => InlineTable::new().into(),
            false => Table::new().into(),
        });
        if let Some(table) = entry.as_table_like_mut() {
            set(table, key, value);
        }
    }

    /// Sets a key of a pool.
    pub fn set_pool(&mut self, pool: usize, key: &str, value: Value) {
        if let Some(pool) = self.pool(pool) {
            set(pool, key, value);
        }
    }

    /// Sets which rungs a pool's ladder has; `wanted` is in rising order.
    pub fn set_ladder(&mut self, pool: usize, wanted: &[Rung]) {
        let Some(listed) = self.array_of(pool, "ladder") else {
            return;
        };
        let rungs = |listed: &Array| -> Vec<Option<Rung>> {
            let names = listed.iter().map(Value::as_str);
            names
                .map(|name| {
                    Rung::ALL
                        .into_iter()
                        .find(|rung| Some(rung.to_string().as_str()) == name)
                })
                .collect()
        };
        for (index, rung) in rungs(listed).iter().enumerate().rev() {
            if rung.is_none_or(|rung| !wanted.contains(&rung)) {
                array::remove(listed, index);
            }
        }
        for rung in wanted {
            let there = rungs(listed);
            if !there.contains(&Some(*rung)) {
                let above = there.iter().position(|other| *other > Some(*rung));
                array::insert(listed, above.unwrap_or(there.len()), rung.to_string().into());
            }
        }
    }

    /// Takes `[vm.N]` away. The comments above it stay.
    pub fn remove_vm(&mut self, vm: u32) {
        let Some(parent) = self.doc.get_mut("vm").and_then(Item::as_table_like_mut) else {
            return;
        };
        let removed = spelling(parent, vm).and_then(|name| parent.remove(&name));
        if let Some(Item::Table(removed)) = removed {
            self.keep_comments_above(&removed);
        }
    }

    /// An array of a pool, made if it is not there.
    fn array_of(&mut self, pool: usize, key: &str) -> Option<&mut Array> {
        let array = self.pool(pool)?.entry(key).or_insert(Array::new().into());
        array.as_array_mut()
    }

    fn pool(&mut self, pool: usize) -> Option<&mut dyn TableLike> {
        Some(match self.doc.get_mut("pool")? {
            Item::ArrayOfTables(pools) => pools.get_mut(pool)?,
            Item::Value(Value::Array(pools)) => pools.get_mut(pool)?.as_inline_table_mut()?,
            _ => return None,
        })
    }

    /// What stood above the header of a table that went is put above the next one.
    fn keep_comments_above(&mut self, removed: &Table) {
        let above = removed.decor().prefix().and_then(|prefix| prefix.as_str());
        let (Some(above), Some(position)) = (above.filter(|above| above.contains('#')), removed.position())
        else {
            return;
        };
        let mut next = Next {
            position,
            found: None,
        };
        next.visit_document_mut(&mut self.doc);
        match next.found {
            Some(position) => Prepend { position, above }.visit_document_mut(&mut self.doc),
            None => {
                let trailing = self.doc.trailing().as_str().unwrap_or_default().to_owned();
                self.doc.set_trailing(format!("{above}{trailing}"));
            }
        }
    }
}

/// Sets a key of a table. What stands around the value it had stays.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(key, value.into());
        }
    }
}

/// Finds the first table after a position.
struct Next {
    position: isize,
    found: Option<isize>,
}

impl VisitMut for Next {
    fn visit_table_mut(&mut self, table: &mut Table) {
        if let Some(position) = header(table).filter(|position| *position > self.position) {
            self.found = Some(self.found.map_or(position, |found| found.min(position)));
        }
        visit_mut::visit_table_mut(self, table);
    }
}

/// Puts text above the table at a position.
struct Prepend<'a> {
    position: isize,
    above: &'a str,
}

impl VisitMut for Prepend<'_> {
    fn visit_table_mut(&mut self, table: &mut Table) {
        if header(table) == Some(self.position) {
            let own = table.decor().prefix().and_then(|prefix| prefix.as_str());
            let both = format!("{}{}", self.above, own.unwrap_or_default());
            table.decor_mut().set_prefix(both);
        }
        visit_mut::visit_table_mut(self, table);
    }
}

/// The position of a table that has a header.
fn header(table: &Table) -> Option<isize> {
    table
        .position()
        .filter(|_| !table.is_implicit() && !table.is_dotted())
}

/// How the file spells a VM's number.
fn spelling(parent: &dyn TableLike, vm: u32) -> Option<String> {
    let mut names = parent.iter().map(|(name, _)| name);
    names
        .find(|name| range::number(name) == Some(vm))
        .map(str::to_owned)
}

fn range_of(value: &Value) -> Option<VmRange> {
    match value {
        Value::Integer(vm) => u32::try_from(*vm.value()).ok().map(VmRange::from),
        value => value.as_str()?.parse().ok(),
    }
}

fn value_of(range: VmRange) -> Value {
    if range.count() == 1 {
        i64::from(range.first()).into()
    } else {
        range.to_string().into()
    }
}
