//! Managed variables in machine code: an ELF file in which a symbol's flag says that it is one. Code has its address from
//! relocations, in the bank of constants that holds addresses or in instructions that move a number into a register. They are carried
//! out here and taken out, and the symbol becomes that of an ordinary variable, which nothing uses.
use super::{Edit, Impossible, Link, Variables, Write};
use std::ops::Range;

/// Kinds of sections.
const SYMBOLS: u32 = 2;
const RELOCATIONS_WITH_ADDENDS: u32 = 4;
const NO_BITS: u32 = 8;
const RELOCATIONS: u32 = 9;
/// Relocations of code from which the driver makes other code, of which nothing more is known.
const OTHER_RELOCATIONS: [u32; 2] = [0x7000_0003, 0x7000_0082];

/// The kind of a symbol that is a variable, and the flag of one that is managed.
const VARIABLE: u8 = 1;
const MANAGED: u8 = 4;

/// R_CUDA_64 and R_CUDA_G64: an address as a word. R_CUDA_ABS32_LO_32 and _HI_32: half of one as the number in an instruction.
const WORD: u32 = 2;
const GENERIC_WORD: u32 = 4;
const LOWER: u32 = 0x38;
const UPPER: u32 = 0x39;
/// Where that number lies in an instruction.
const NUMBER_AT: usize = 4;

const SECTION_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Impossible> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end));
    found.and_then(|found| found.try_into().ok()).ok_or(Impossible)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize, Impossible> {
    number(bytes, at).map(|it| u16::from_le_bytes(it).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Impossible> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Impossible> {
    number(bytes, at).map(u64::from_le_bytes)
}

fn size_at(bytes: &[u8], at: usize) -> Result<usize, Impossible> {
    usize::try_from(u64_at(bytes, at)?).map_err(|_| Impossible)
}

/// A section.
struct Section {
    /// Where its entry in the table lies.
    entry: usize,
    kind: u32,
    range: Range<usize>,
    /// The section that it goes with, and one more thing that its kind says.
    link: usize,
    info: usize,
}

impl Section {
    /// What it holds; a section without bits holds nothing.
    fn bytes<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], Impossible> {
        match self.kind {
            NO_BITS => Ok(&[]),
            _ => file.get(self.range.clone()).ok_or(Impossible),
        }
    }
}

fn sections(file: &[u8]) -> Result<Vec<Section>, Impossible> {
    let (table, len, count) = (size_at(file, 40)?, u16_at(file, 58)?, u16_at(file, 60)?);
    // 64 bits, the least significant byte first.
    if file.get(4..6) != Some(&[2, 1]) || len != SECTION_LEN {
        return Err(Impossible);
    }
    let section = |index: usize| {
        let entry = index
            .checked_mul(len)
            .and_then(|at| at.checked_add(table))
            .ok_or(Impossible)?;
        let header = number::<SECTION_LEN>(file, entry)?;
        let start = size_at(&header, 24)?;
        Ok(Section {
            entry,
            kind: u32_at(&header, 4)?,
            range: start..start.checked_add(size_at(&header, 32)?).ok_or(Impossible)?,
            link: u32_at(&header, 40)? as usize,
            info: u32_at(&header, 44)? as usize,
        })
    };
    (0..count).map(section).collect()
}

/// A symbol.
struct Symbol<'a> {
    name: &'a [u8],
    is_managed: bool,
    /// Where its flags lie in the file.
    flags_at: usize,
    flags: u8,
    section: usize,
    /// Where it lies in its section.
    at: usize,
    len: usize,
}

fn symbols<'a>(file: &'a [u8], sections: &[Section], table: &Section) -> Result<Vec<Symbol<'a>>, Impossible> {
    let names = sections.get(table.link).ok_or(Impossible)?.bytes(file)?;
    let entries = table.bytes(file)?.as_chunks::<SYMBOL_LEN>().0;
    let symbol = |(index, entry): (usize, &[u8; SYMBOL_LEN])| {
        let rest = names.get(u32_at(entry, 0)? as usize..).ok_or(Impossible)?;
        let end = rest.iter().position(|&byte| byte == 0).ok_or(Impossible)?;
        Ok(Symbol {
            name: &rest[..end],
            is_managed: entry[4] & 0xf == VARIABLE && entry[5] & MANAGED != 0,
            flags_at: table.range.start + index * SYMBOL_LEN + 5,
            flags: entry[5],
            section: u16_at(entry, 6)?,
            at: size_at(entry, 8)?,
            len: size_at(entry, 16)?,
        })
    };
    entries.iter().enumerate().map(symbol).collect()
}

/// A relocation.
struct Relocation {
    /// Where it lies in its section, and bytes of it.
    entry: Range<usize>,
    kind: u32,
    symbol: usize,
    /// What it changes, in the section that is relocated.
    at: usize,
    /// What is added, if not what lies there says so.
    addend: Option<i64>,
}

fn relocations(file: &[u8], section: &Section) -> Result<Vec<Relocation>, Impossible> {
    let has_addends = section.kind == RELOCATIONS_WITH_ADDENDS;
    let len = if has_addends { 24 } else { 16 };
    let entries = section.bytes(file)?.chunks_exact(len).enumerate();
    let relocation = |(index, entry): (usize, &[u8])| {
        Ok(Relocation {
            entry: index * len..(index + 1) * len,
            kind: u32_at(entry, 8)?,
            symbol: u32_at(entry, 12)? as usize,
            at: size_at(entry, 0)?,
            addend: has_addends
                .then(|| u64_at(entry, 16))
                .transpose()?
                .map(u64::cast_signed),
        })
    };
    entries.map(relocation).collect()
}

/// What makes of machine code some without managed variables; nothing if it has none.
pub(super) fn edits(file: &[u8], variables: &mut Variables) -> Result<Vec<Edit>, Impossible> {
    let sections = sections(file)?;
    let mut tables = sections
        .iter()
        .enumerate()
        .filter(|(_, section)| section.kind == SYMBOLS);
    let Some((table, symbols_of)) = tables.next() else {
        return Ok(Vec::new());
    };
    let symbols = symbols(file, &sections, symbols_of)?;
    if !symbols.iter().any(|symbol| symbol.is_managed) {
        return Ok(Vec::new());
    }
    let is_other = |section: &Section| OTHER_RELOCATIONS.contains(&section.kind);
    if tables.next().is_some() || sections.iter().any(is_other) {
        return Err(Impossible);
    }
    let mut relocated = Vec::new();
    for section in &sections {
        if matches!(section.kind, RELOCATIONS | RELOCATIONS_WITH_ADDENDS) {
            if section.link != table {
                return Err(Impossible);
            }
            relocated.push((section, relocations(file, section)?));
        }
    }
    let mut edits = Vec::new();
    // Their places in the list of variables, by symbol.
    let mut places = vec![None; symbols.len()];
    for (symbol, place) in symbols
        .iter()
        .zip(&mut places)
        .filter(|(symbol, _)| symbol.is_managed)
    {
        *place = Some(declare(file, &sections, &relocated, &symbols, symbol, variables)?);
        edits.push(Edit {
            range: symbol.flags_at..symbol.flags_at + 1,
            write: Write::Bytes(vec![symbol.flags & !MANAGED]),
        });
    }
    for (section, relocations) in &relocated {
        let target = sections.get(section.info).ok_or(Impossible)?;
        let mut left = Vec::new();
        for relocation in relocations {
            match places.get(relocation.symbol).ok_or(Impossible)? {
                Some(variable) => edits.push(carried_out(file, target, relocation, *variable)?),
                None => left.extend_from_slice(&section.bytes(file)?[relocation.entry.clone()]),
            }
        }
        if left.len() < section.range.len() {
            edits.push(Edit {
                range: section.entry + 32..section.entry + 40,
                write: Write::Bytes((left.len() as u64).to_le_bytes().to_vec()),
            });
            edits.push(Edit {
                range: section.range.start..section.range.start + left.len(),
                write: Write::Bytes(left),
            });
        }
    }
    Ok(edits)
}

/// Adds the variable of a symbol to the list; its place there.
fn declare(
    file: &[u8],
    sections: &[Section],
    relocated: &[(&Section, Vec<Relocation>)],
    symbols: &[Symbol<'_>],
    symbol: &Symbol<'_>,
    variables: &mut Variables,
) -> Result<usize, Impossible> {
    // One that is declared only lies in no section.
    let section = match symbol.section {
        0 => return Err(Impossible),
        section => sections.get(section).ok_or(Impossible)?,
    };
    let range = symbol.at..symbol.at.checked_add(symbol.len).ok_or(Impossible)?;
    let initial = match section.kind {
        NO_BITS => Vec::new(),
        _ => section
            .bytes(file)?
            .get(range.clone())
            .ok_or(Impossible)?
            .to_vec(),
    };
    let inside = relocated.iter().filter(|(of, _)| of.info == symbol.section);
    let mut links = Vec::new();
    for relocation in inside.flat_map(|(_, relocations)| relocations) {
        if !range.contains(&relocation.at) {
            continue;
        }
        let at = relocation.at - range.start;
        // An addend that lies in the word itself is none of a compiler's that is in use.
        let in_place = initial
            .get(at..at + 8)
            .is_none_or(|word| word.iter().any(|&byte| byte != 0));
        if !matches!(relocation.kind, WORD | GENERIC_WORD) || in_place {
            return Err(Impossible);
        }
        links.push(Link {
            at,
            symbol: symbols.get(relocation.symbol).ok_or(Impossible)?.name.to_vec(),
            addend: relocation.addend.unwrap_or(0),
        });
    }
    links.sort_by_key(|link| link.at);
    if symbol.len == 0 || symbol.name.is_empty() {
        return Err(Impossible);
    }
    variables.declare(symbol.name, symbol.len, initial, links)
}

/// A relocation that names a managed variable, carried out.
fn carried_out(
    file: &[u8],
    target: &Section,
    relocation: &Relocation,
    variable: usize,
) -> Result<Edit, Impossible> {
    let (skipped, len) = match relocation.kind {
        WORD | GENERIC_WORD => (0, 8),
        LOWER | UPPER => (NUMBER_AT, 4),
        _ => return Err(Impossible),
    };
    let at = relocation.at.checked_add(skipped).ok_or(Impossible)?;
    let there = target.bytes(file)?.get(at..at + len).ok_or(Impossible)?;
    let addend = match relocation.addend {
        Some(addend) => addend,
        None if len == 8 => i64::from_le_bytes(number(there, 0)?),
        // Half of one does not say what the whole is.
        None if there.iter().any(|&byte| byte != 0) => return Err(Impossible),
        None => 0,
    };
    let start = target.range.start + at;
    Ok(Edit {
        range: start..start + len,
        write: match relocation.kind {
            LOWER => Write::Lower(variable, addend),
            UPPER => Write::Upper(variable, addend),
            _ => Write::Word(variable, addend),
        },
    })
}
