//! Three-dimensional copies, as nodes of graphs describe them.

use super::error::{self, Result};
use super::memory::Kind;
use super::runtime::Runtime;
use super::work::Work;

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

/// `CUDA_MEMCPY3D`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Memcpy3d {
    pub from: Side,
    pub to: Side,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// One side of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Side {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    rows: usize,
}

impl Side {
    fn at(runtime: &Runtime, address: u64, len: usize) -> Side {
        let is_device = runtime
            .memory
            .find(address)
            .is_some_and(|range| range.kind == Kind::Device);
        Side {
            memory: if is_device { DEVICE } else { HOST },
            host: if is_device { 0 } else { address },
            device: if is_device { address } else { 0 },
            pitch: len,
            rows: 1,
            ..Side::default()
        }
    }

    fn address(&self) -> u64 {
        if self.memory == HOST {
            self.host
        } else {
            self.device
        }
    }

    /// Where a row of a copy begins.
    fn row(&self, width: usize, height: usize, y: usize, z: usize) -> Option<u64> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.rows == 0 { height } else { self.rows };
        let offset = self
            .z
            .checked_add(z)?
            .checked_mul(rows)?
            .checked_add(self.y)?
            .checked_add(y)?;
        let offset = offset.checked_mul(pitch)?.checked_add(self.x)?;
        self.address().checked_add(offset as u64)
    }
}

impl Memcpy3d {
    /// A copy of bytes in a row.
    pub fn linear(runtime: &Runtime, to: u64, from: u64, len: usize) -> Memcpy3d {
        Memcpy3d {
            from: Side::at(runtime, from, len),
            to: Side::at(runtime, to, len),
            width: len,
            height: 1,
            depth: 1,
        }
    }

    fn rows(&self) -> impl Iterator<Item = Option<(u64, u64)>> + '_ {
        let (width, height) = (self.width, self.height);
        (0..self.depth).flat_map(move |z| {
            (0..height).map(move |y| {
                Some((
                    self.to.row(width, height, y, z)?,
                    self.from.row(width, height, y, z)?,
                ))
            })
        })
    }

    /// Refuses one that names memory which is not there. Arrays are not offered.
    pub fn check(&self, runtime: &Runtime) -> Result {
        for side in [&self.from, &self.to] {
            match side.memory {
                HOST | DEVICE | UNIFIED => {}
                3 => return Err(error::NOT_SUPPORTED),
                _ => return Err(error::INVALID_VALUE),
            }
            if side.pitch != 0 && side.pitch < self.width.saturating_add(side.x) {
                return Err(error::INVALID_VALUE);
            }
        }
        if self.width == 0 || self.height == 0 || self.depth == 0 {
            return Err(error::INVALID_VALUE);
        }
        for row in self.rows() {
            let (to, from) = row.ok_or(error::INVALID_VALUE)?;
            for (side, address) in [(&self.to, to), (&self.from, from)] {
                let known = runtime.memory.is_accessible(address, self.width as u64, None);
                let pageable = side.memory == HOST && address != 0 && !runtime.memory.in_window(address);
                if !known && !pageable {
                    return Err(error::INVALID_VALUE);
                }
            }
        }
        Ok(())
    }

    /// The copies of its rows.
    pub fn work(&self) -> Vec<Work> {
        let copy = |(to, from)| Work::Copy {
            to,
            from,
            len: self.width,
        };
        self.rows().flatten().map(copy).collect()
    }
}
