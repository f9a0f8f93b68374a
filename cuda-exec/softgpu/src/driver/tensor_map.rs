//! Tensor maps: their parameters, checked and packed. No kernel here uses one.

use super::abi::{In, Out, api};
use super::error::{self, Result};

/// `CUtensorMap`
pub type Map = [u8; 128];
/// How maps made here begin.
const MAGIC: [u8; 4] = *b"TMAP";
/// Where in a map the address lies.
const ADDRESS: std::ops::Range<usize> = 8..16;
const RANK_MAX: usize = 5;
/// Bytes of an element, by `CUtensorMapDataType`; those of 4 and 6 bits are not known here.
const ELEMENTS: [u64; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

/// What all maps have.
struct Common {
    data_type: i32,
    rank: u32,
    address: u64,
    dims: In<u64>,
    strides: In<u64>,
    element_strides: In<u32>,
    interleave: i32,
    swizzle: i32,
    promotion: i32,
    fill: i32,
}

fn check(good: bool) -> Result {
    if good { Ok(()) } else { Err(error::INVALID_VALUE) }
}

fn check_place(map: Out<Map>) -> Result {
    check(!map.0.is_null() && map.0.addr().is_multiple_of(64))
}

/// Packs what all maps have behind what kind of map it is; `rest` packs what else this one has.
fn encode(map: Out<Map>, kind: u8, c: &Common, rest: impl FnOnce(&mut Vec<u8>, usize) -> Result) -> Result {
    check_place(map)?;
    let rank = c.rank as usize;
    check((1..=RANK_MAX).contains(&rank))?;
    let known = usize::try_from(c.data_type).ok().and_then(|i| ELEMENTS.get(i));
    known.ok_or(error::INVALID_VALUE)?;
    check(c.address.is_multiple_of(16))?;
    check((0..=2).contains(&c.interleave) && (0..=6).contains(&c.swizzle))?;
    check((0..=3).contains(&c.promotion) && (0..=1).contains(&c.fill))?;
    check(c.interleave == 0 || rank >= 3)?;
    let mut packed = MAGIC.to_vec();
    packed.extend([kind, c.data_type as u8, c.rank as u8, c.interleave as u8]);
    packed.extend(c.address.to_le_bytes());
    packed.extend([c.swizzle as u8, c.promotion as u8, c.fill as u8]);
    for i in 0..rank {
        let dim = c.dims.at(i)?;
        check((1..=1 << 32).contains(&dim))?;
        packed.extend(((dim - 1) as u32).to_le_bytes());
        let step = c.element_strides.at(i)?;
        check((1..=8).contains(&step))?;
        packed.push(step as u8);
    }
    for i in 0..rank - 1 {
        let stride = c.strides.at(i)?;
        check(stride.is_multiple_of(16) && stride < 1 << 40)?;
        packed.extend(&stride.to_le_bytes()[..5]);
    }
    rest(&mut packed, rank)?;
    let mut full = [0; 128];
    full[..packed.len()].copy_from_slice(&packed);
    map.set(full)
}

/// The pixels' box of a map from images to columns.
fn pixels(packed: &mut Vec<u8>, channels: u32, pixels: u32) -> Result {
    check(channels <= 256 && pixels <= 1024)?;
    packed.extend((channels as u16).to_le_bytes());
    packed.extend((pixels as u16).to_le_bytes());
    Ok(())
}

api! { SYMBOLS;
    fn cuTensorMapEncodeTiled(
        map: Out<Map>, data_type: i32, rank: u32, address: u64, dims: In<u64>, strides: In<u64>, box_dims: In<u32>,
        element_strides: In<u32>, interleave: i32, swizzle: i32, promotion: i32, fill: i32,
    ) {
        let common = Common {
            data_type, rank, address, dims, strides, element_strides, interleave, swizzle, promotion, fill,
        };
        encode(map, 1, &common, |packed, rank| {
            for i in 0..rank {
                let elements = box_dims.at(i)?;
                check((1..=256).contains(&elements))?;
                packed.push((elements - 1) as u8);
            }
            let row = u64::from(box_dims.at(0)?) * ELEMENTS[data_type as usize];
            check(interleave != 0 || row.is_multiple_of(16))
        })
    }

    fn cuTensorMapEncodeIm2col(
        map: Out<Map>, data_type: i32, rank: u32, address: u64, dims: In<u64>, strides: In<u64>, lower: In<i32>,
        upper: In<i32>, channels: u32, columns: u32, element_strides: In<u32>, interleave: i32, swizzle: i32,
        promotion: i32, fill: i32,
    ) {
        let common = Common {
            data_type, rank, address, dims, strides, element_strides, interleave, swizzle, promotion, fill,
        };
        encode(map, 2, &common, |packed, rank| {
            check(rank >= 3)?;
            for i in 0..rank - 2 {
                packed.extend((lower.at(i)? as i16).to_le_bytes());
                packed.extend((upper.at(i)? as i16).to_le_bytes());
            }
            pixels(packed, channels, columns)
        })
    }

    fn cuTensorMapEncodeIm2colWide(
        map: Out<Map>, data_type: i32, rank: u32, address: u64, dims: In<u64>, strides: In<u64>, lower: i32, upper: i32,
        channels: u32, columns: u32, element_strides: In<u32>, interleave: i32, mode: i32, swizzle: i32,
        promotion: i32, fill: i32,
    ) {
        let common = Common {
            data_type, rank, address, dims, strides, element_strides, interleave, swizzle, promotion, fill,
        };
        encode(map, 3, &common, |packed, rank| {
            check(rank >= 3 && (0..=1).contains(&mode))?;
            packed.push(mode as u8);
            packed.extend((lower as i16).to_le_bytes());
            packed.extend((upper as i16).to_le_bytes());
            pixels(packed, channels, columns)
        })
    }

    fn cuTensorMapReplaceAddress(map: Out<Map>, address: u64) {
        check_place(map)?;
        let mut full = map.get()?;
        check(full[..4] == MAGIC && address.is_multiple_of(16))?;
        full[ADDRESS].copy_from_slice(&address.to_le_bytes());
        map.set(full)
    }
}
