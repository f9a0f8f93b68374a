//! PTX with words replaced, removed and doubled: whatever comes of it is refused or run, and nothing panics.

use proptest::prelude::*;
use softgpu_cuda::ptx::interp::{Aborted, Gate, Launch, Memory, Span, run};
use softgpu_cuda::ptx::lower::{Symbols, lower};
use softgpu_cuda::ptx::parse::parse;
use std::cell::Cell;

const TEXTS: [&str; 2] = [include_str!("kernels.ptx"), include_str!("compiled.ptx")];

struct One(Span);

impl Memory for One {
    fn span(&self, address: u64) -> Option<Span> {
        (address >= self.0.start && address < self.0.end).then_some(self.0)
    }
}

struct Limit(Cell<u32>);

impl Gate for Limit {
    fn pause(&self) -> Result<(), Aborted> {
        self.0.set(self.0.get().checked_sub(1).ok_or(Aborted)?);
        Ok(())
    }
}

/// The text as words, brackets and the blanks between them.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || "%_.$".contains(c);
        let len = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (piece, after) = rest.split_at(len);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[derive(Clone, Debug)]
enum Change {
    Copy { to: usize, from: usize },
    Remove(usize),
    Double(usize),
    Number { at: usize, value: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>();
    prop_oneof![
        4 => (at, at).prop_map(|(to, from)| Change::Copy { to, from }),
        1 => at.prop_map(Change::Remove),
        1 => at.prop_map(Change::Double),
        1 => (at, any::<u64>()).prop_map(|(at, value)| Change::Number { at, value: value >> (value % 64) }),
    ]
}

fn apply(text: &str, changes: &[Change]) -> String {
    let mut pieces: Vec<String> = pieces(text).into_iter().map(str::to_owned).collect();
    for change in changes {
        let len = pieces.len();
        match change {
            // Near words fit better than far ones.
            Change::Copy { to, from } => pieces[to % len] = pieces[(to % len + from % 400) % len].clone(),
            Change::Remove(at) => pieces[at % len].clear(),
            Change::Double(at) => pieces[at % len] = pieces[at % len].repeat(2),
            Change::Number { at, value } => {
                let digits = |p: &String| p.bytes().next().is_some_and(|b| b.is_ascii_digit());
                if let Some(n) = (0..len)
                    .map(|n| (at % len + n) % len)
                    .find(|n| digits(&pieces[*n]))
                {
                    pieces[n] = value.to_string();
                }
            }
        }
    }
    pieces.concat()
}

fn try_all(text: &str) {
    let Ok(module) = parse(text) else { return };
    let mut words = vec![0u64; 64];
    let start = words.as_mut_ptr() as u64;
    let memory = One(Span {
        start,
        end: start + 512,
        writable: true,
    });
    let symbols: Symbols = module.vars.iter().map(|v| (v.name.clone(), start)).collect();
    for function in module.functions.iter().filter(|f| f.is_entry) {
        let Ok(kernel) = lower(&module, function, &symbols) else {
            continue;
        };
        let params: Vec<u8> = start
            .to_le_bytes()
            .into_iter()
            .cycle()
            .take(kernel.param_bytes.max(8))
            .collect();
        let launch = Launch {
            kernel: &kernel,
            grid: [2, 1, 1],
            block: [33, 1, 1],
            dynamic_shared: 64,
            stack: 1 << 12,
            params: &params,
            memory: &memory,
            gate: &Limit(Cell::new(2)),
            id: 0,
        };
        // Any end will do.
        let _ = run(&launch);
    }
}

#[test]
fn as_they_are_they_run() {
    TEXTS.iter().for_each(|text| try_all(text));
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn mangled_text_does_no_harm(which in 0..TEXTS.len(), changes in prop::collection::vec(change(), 1..6)) {
        try_all(&apply(TEXTS[which], &changes));
    }
}
