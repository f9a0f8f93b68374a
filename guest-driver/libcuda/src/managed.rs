//! `__managed__` variables. Natively they lie in managed memory that the driver allocates with the module. The host's driver
//! would put them where the guest cannot read them, so they are taken out of the code before it is loaded: they lie in managed
//! memory of the guest's, and the code has their addresses, which are numbers by then.
//!
//! In PTX a declaration vanishes, and each use becomes the address ([`ptx`]); in machine code the relocations that name the
//! variable are carried out here ([`cubin`]). What cannot be done so stays as it is: such a variable works in kernels, and the
//! host refuses to tell where it lies.
mod cubin;
mod ptx;

use std::ops::Range;
use vgpu_fatbin::Entry;
use vgpu_protocol::limits::MODULE_LEN_MAX;

/// Where variables may lie. The first one does not lie where their memory starts, so that nobody frees it as an allocation.
const ALIGN: usize = 256;

/// Code uses a managed variable in a way that cannot be written anew.
#[derive(Debug, PartialEq, Eq)]
struct Impossible;

/// A managed variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: Vec<u8>,
    /// Where it lies in the memory of all.
    pub at: usize,
    /// Bytes of it.
    pub len: usize,
    /// What it begins as; zeros follow.
    pub initial: Vec<u8>,
    /// Words of it that begin as addresses of the module's other variables.
    pub links: Vec<Link>,
}

/// A word that begins as the address of an ordinary variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the word lies in its variable.
    pub at: usize,
    /// The ordinary variable.
    pub symbol: Vec<u8>,
    /// What is added to its address.
    pub addend: i64,
}

/// The managed variables of a module.
#[derive(Clone, Debug, Default)]
pub struct Variables(Vec<Variable>);

impl Variables {
    /// Bytes of memory that all of them take.
    pub fn len(&self) -> usize {
        self.0.last().map_or(ALIGN, |last| last.at + last.len)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Variable> {
        self.0.iter()
    }

    /// The place of one in the list; the same for code for several devices, which must agree on it.
    fn declare(
        &mut self,
        name: &[u8],
        len: usize,
        mut initial: Vec<u8>,
        links: Vec<Link>,
    ) -> Result<usize, Impossible> {
        initial.truncate(
            initial
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1),
        );
        if let Some(known) = self.named(name) {
            let it = &self.0[known];
            let same = it.len == len && it.initial == initial && it.links == links;
            return if same { Ok(known) } else { Err(Impossible) };
        }
        let at = self.len().checked_next_multiple_of(ALIGN).ok_or(Impossible)?;
        if at
            .checked_add(len)
            .is_none_or(|end| end > MODULE_LEN_MAX as usize)
        {
            return Err(Impossible);
        }
        self.0.push(Variable {
            name: name.to_vec(),
            at,
            len,
            initial,
            links,
        });
        Ok(self.0.len() - 1)
    }

    fn named(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|variable| variable.name == name)
    }
}

/// Bytes of code that become others.
#[derive(Debug)]
struct Edit {
    range: Range<usize>,
    write: Write,
}

/// What bytes become. Variables are named by their place in the list.
#[derive(Debug)]
enum Write {
    Bytes(Vec<u8>),
    /// An address in digits.
    Digits(usize),
    /// PTX that puts the addresses into registers of the variables' names.
    Registers(Vec<usize>),
    /// An address and a number added to it, as a word of 64 bits.
    Word(usize, i64),
    /// The lower and the upper half of that.
    Lower(usize, i64),
    Upper(usize, i64),
}

/// Code with its edits, by where they begin.
struct Code {
    bytes: Vec<u8>,
    edits: Vec<Edit>,
}

impl Code {
    /// The code, with the variables' memory at `base`.
    fn write(&self, variables: &Variables, base: u64) -> Vec<u8> {
        let address = |variable: usize| base + variables.0[variable].at as u64;
        let sum = |variable: usize, addend: i64| address(variable).wrapping_add_signed(addend);
        let mut code = Vec::with_capacity(self.bytes.len());
        let mut from = 0;
        for Edit { range, write } in &self.edits {
            code.extend_from_slice(&self.bytes[from..range.start]);
            match write {
                Write::Bytes(bytes) => code.extend_from_slice(bytes),
                Write::Digits(variable) => code.extend_from_slice(address(*variable).to_string().as_bytes()),
                Write::Registers(used) => {
                    for &variable in used {
                        let name = &variables.0[variable].name;
                        let parts: [&[u8]; 4] = [b" .reg .b64 ", name, b"; mov.b64 ", name];
                        code.extend_from_slice(&parts.concat());
                        code.extend_from_slice(format!(", {};", address(variable)).as_bytes());
                    }
                }
                Write::Word(variable, addend) => {
                    code.extend_from_slice(&sum(*variable, *addend).to_le_bytes());
                }
                Write::Lower(variable, addend) => {
                    code.extend_from_slice(&sum(*variable, *addend).to_le_bytes()[..4]);
                }
                Write::Upper(variable, addend) => {
                    code.extend_from_slice(&sum(*variable, *addend).to_le_bytes()[4..]);
                }
            }
            from = range.end;
        }
        code.extend_from_slice(&self.bytes[from..]);
        code
    }
}

/// One part of a container of code.
enum Part<'a> {
    Kept(Entry<'a>),
    Written(Entry<'a>, Code),
}

enum Shape<'a> {
    Code(Code),
    /// The container and what it will contain.
    Container(&'a [u8], Vec<Part<'a>>),
}

/// A module's image and how to write it anew.
pub struct Plan<'a> {
    /// Its managed variables; not none.
    pub variables: Variables,
    shape: Shape<'a>,
}

impl<'a> Plan<'a> {
    /// How to write an image anew, if it has managed variables and that can be done.
    pub fn new(image: &'a [u8]) -> Option<Self> {
        let mut variables = Variables::default();
        let shape = match vgpu_fatbin::entries(image) {
            Some(entries) => {
                let mut parts = Vec::new();
                for entry in entries {
                    let code = entry.payload(MODULE_LEN_MAX as usize)?;
                    match code_of(code.into_owned(), &mut variables) {
                        Ok(code) if code.edits.is_empty() => parts.push(Part::Kept(entry)),
                        Ok(code) => parts.push(Part::Written(entry, code)),
                        // Another part will do, or none.
                        Err(Impossible) => {}
                    }
                }
                Shape::Container(image, parts)
            }
            None => Shape::Code(code_of(image.to_vec(), &mut variables).ok()?),
        };
        (!variables.0.is_empty()).then_some(Self { variables, shape })
    }

    /// The image, with the variables' memory at `base`.
    pub fn image(&self, base: u64) -> Vec<u8> {
        match &self.shape {
            Shape::Code(code) => code.write(&self.variables, base),
            Shape::Container(container, parts) => {
                let parts = parts.iter().map(|part| match part {
                    Part::Kept(entry) => entry.bytes().to_vec(),
                    Part::Written(entry, code) => entry.with_payload(&code.write(&self.variables, base)),
                });
                vgpu_fatbin::with_entries(container, parts)
            }
        }
    }
}

/// Code and its edits. It adds its variables to those that there are.
fn code_of(bytes: Vec<u8>, variables: &mut Variables) -> Result<Code, Impossible> {
    // What is impossible has declared nothing.
    let mut declared = variables.clone();
    let mut edits = match bytes.starts_with(b"\x7fELF") {
        true => cubin::edits(&bytes, &mut declared)?,
        false => ptx::edits(&bytes, &mut declared)?,
    };
    edits.sort_by_key(|edit| edit.range.start);
    if edits
        .windows(2)
        .any(|pair| pair[0].range.end > pair[1].range.start)
    {
        return Err(Impossible);
    }
    *variables = declared;
    Ok(Code { bytes, edits })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &[u8] = include_bytes!("../../../tests/kernels/fatbin/managed.fatbin");
    const LINKED: &[u8] = include_bytes!("../../../tests/kernels/fatbin/managed-linked.cubin");
    const BASE: u64 = 0x7001_2345_6000;

    fn has(code: &[u8], part: &[u8]) -> bool {
        code.windows(part.len()).any(|found| found == part)
    }

    fn named<'a>(plan: &'a Plan<'_>, name: &str) -> &'a Variable {
        let known = plan.variables.named(name.as_bytes());
        &plan.variables.0[known.unwrap_or_else(|| panic!("no variable {name}"))]
    }

    /// What `managed.cu` declares.
    fn check_variables(plan: &Plan<'_>) {
        let mut names: Vec<_> = plan.variables.iter().map(|it| it.name.as_slice()).collect();
        names.sort();
        assert_eq!(
            names,
            [b"array".as_slice(), b"pair", b"pointer", b"text", b"total"]
        );
        for (name, len, initial) in [
            ("total", 4, [3].as_slice()),
            ("array", 256, &[]),
            (
                "pair",
                16,
                &[255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 224, 63],
            ),
            ("pointer", 8, &[]),
            ("text", 8, b"hello"),
        ] {
            let it = named(plan, name);
            assert_eq!((it.len, it.initial.as_slice()), (len, initial), "{name}");
            assert!(it.at >= ALIGN && it.at.is_multiple_of(ALIGN) && it.at + len <= plan.variables.len());
        }
        let link = Link {
            at: 0,
            symbol: b"ordinary".to_vec(),
            addend: 0,
        };
        assert_eq!(named(plan, "pointer").links, [link]);
        assert!(named(plan, "total").links.is_empty());
    }

    #[test]
    fn a_compilers_container_loses_its_managed_variables() {
        let plan = Plan::new(CONTAINER).unwrap();
        check_variables(&plan);
        let image = plan.image(BASE);
        assert!(Plan::new(&image).is_none());
        let address = |name: &str| BASE + named(&plan, name).at as u64;
        let mut entries = vgpu_fatbin::entries(&image).unwrap();
        assert_eq!(entries.len(), vgpu_fatbin::entries(CONTAINER).unwrap().len());
        entries.sort_by_key(|entry| entry.is_ptx);
        let [code, ptx] = [&entries[0], &entries[1]].map(|entry| entry.payload(1 << 20).unwrap());
        for name in ["total", "array", "pair", "pointer", "text"] {
            assert!(has(&code, &address(name).to_le_bytes()), "{name}");
        }
        let ptx = std::str::from_utf8(&ptx).unwrap().trim_end_matches('\0');
        assert!(!ptx.contains(".managed"), "{ptx}");
        for line in [
            format!(".reg .b64 total; mov.b64 total, {};", address("total")),
            format!("mov.u64 %rd6, {};", address("array")),
            "ld.global.u32 %r2, [total];".to_owned(),
            "st.global.u32 [array+20], %r4;".to_owned(),
            ".global .align 4 .u32 ordinary = 4;".to_owned(),
        ] {
            assert!(ptx.contains(&line), "{line} is not in {ptx}");
        }
    }

    #[test]
    fn linked_code_has_addresses_in_its_instructions() {
        let plan = Plan::new(LINKED).unwrap();
        check_variables(&plan);
        let image = plan.image(BASE);
        assert_eq!(image.len(), LINKED.len());
        assert!(Plan::new(&image).is_none());
        let changed = (0..image.len()).filter(|&at| image[at] != LINKED[at]).count();
        // Two halves for each of five variables, five flags, and the table of relocations with its length.
        assert!((30..600).contains(&changed), "{changed}");
        let lower = (BASE as u32 + named(&plan, "total").at as u32).to_le_bytes();
        // `MOV register, number` and `UMOV register, number`.
        let moves = |register: u8, number: [u8; 4]| {
            let is_moved = |opcode: u8| has(&image, &[[opcode, 0x78, register, 0x00], number].concat());
            is_moved(0x02) || is_moved(0x82)
        };
        let upper = ((BASE >> 32) as u32).to_le_bytes();
        assert!((0..32).any(|register| moves(register, lower)));
        assert!((0..32).any(|register| moves(register, upper)));
    }

    fn ptx(body: &str) -> String {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n\
             .visible .global .attribute(.managed) .align 4 .u32 count[2] = {{ 0x10, -2 }};\n{body}\0"
        )
    }

    fn written(body: &str) -> Option<String> {
        let text = ptx(body);
        let plan = Plan::new(text.as_bytes())?;
        Some(String::from_utf8(plan.image(4096)).unwrap())
    }

    #[test]
    fn each_use_in_ptx_becomes_an_address() {
        assert_eq!(
            named(&Plan::new(ptx("").as_bytes()).unwrap(), "count").initial,
            [16, 0, 0, 0, 254, 255, 255, 255]
        );
        for (body, expected) in [
            // Names in comments and texts are none.
            (
                "// count\n/* count */ .file 1 \"count\"",
                "// count\n/* count */ .file 1 \"count\"",
            ),
            (".global .u64 a = count;", ".global .u64 a = 4352;"),
            (
                ".global .u64 a[2] = {generic(count)+4, 1};",
                ".global .u64 a[2] = {4352+4, 1};",
            ),
            (
                ".section .debug_info { .b64 count\n}",
                ".section .debug_info { .b64 4352\n}",
            ),
            (
                ".func f() { mov.u64 %rd1, count+4; }",
                ".func f() { mov.u64 %rd1, 4352+4; }",
            ),
            // A function that is only declared has no body.
            (
                ".func g(.param .b64 x);\n.func f() { st.u32 [recount], 1; }",
                ".func f() { st.u32 [recount], 1; }",
            ),
            (
                ".entry f() .pragma \"nounroll\"; { { st.global.u32 [count + 4], 1; } }",
                "{ .reg .b64 count; mov.b64 count, 4352; { st.global.u32 [count + 4], 1; } }",
            ),
        ] {
            let written = written(body).unwrap_or_else(|| panic!("{body} cannot be written anew"));
            assert!(written.contains(expected), "{written}");
            assert!(!written.contains(".managed"));
        }
    }

    #[test]
    fn what_cannot_be_written_anew_stays() {
        for body in [
            // A byte of an address, an element by its number, one that another module has.
            ".global .b8 a[1] = {0xff(count)};",
            ".global .b8 a[1] = {0xff(generic(count))};",
            ".func f() { ld.global.u32 %r1, count[1]; }",
            ".extern .global .attribute(.managed) .u32 other;",
            ".global .attribute(.managed) .u32 other, another;",
            ".global .attribute(.managed) .b32 other[2] = {1.5, 2};",
            ".global .attribute(.managed) .u32 other[] = {};",
            ".global .attribute(.managed .u32 other;",
            ".global .attribute(.managed) .u32 count;",
            "\"",
            "/*",
        ] {
            assert_eq!(written(body), None, "{body}");
        }
        assert!(
            Plan::new(b".version 8.0\n.target sm_80\n.address_size 64\n.global .u32 managed;\0").is_none()
        );
        assert!(Plan::new(b"").is_none());
    }

    #[test]
    fn whatever_the_bytes_there_is_an_end() {
        for image in [CONTAINER, LINKED] {
            for cut in (0..image.len()).step_by(31) {
                let _ = Plan::new(&image[..cut]);
            }
            for at in (0..image.len()).step_by(7) {
                let mut changed = image.to_vec();
                changed[at] ^= 0xff;
                if let Some(plan) = Plan::new(&changed) {
                    plan.image(BASE);
                }
            }
        }
    }
}
