//! `docs/compatibility.md` is made from the call table, the programs that call each function, and what runs on a GPU
//! were seen to call. `VGPU_WRITE=1 cargo test -p vgpu-tests --test compatibility` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use similar::TextDiff;
use vgpu_protocol::calls::{CALLS, Call, Mode, REASONS};

/// Ends the part of the page that people write.
const MARK: &str =
    "<!-- made from the call table; VGPU_WRITE=1 cargo test -p vgpu-tests --test compatibility -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Sources below a folder with one of these endings: path from the root, text.
fn sources(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings
                .iter()
                .any(|ending| path.to_string_lossy().ends_with(ending))
            {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Whether a text names a function, with or without its version.
fn names(text: &str, call: &Call) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let whole = |name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let before = text[..at].chars().next_back().is_none_or(|c| !is_word(c));
            before && text[at + name.len()..].chars().next().is_none_or(|c| !is_word(c))
        })
    };
    whole(call.name) || call.symbols.iter().any(|symbol| whole(symbol.name))
}

/// Symbols that programs on a GPU were seen to call, and how often.
fn seen() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("tests/compat/calls.txt")).unwrap_or_default();
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let (symbol, programs) = line.split_once(' ')?;
        Some((symbol.to_owned(), programs.to_owned()))
    })
    .collect()
}

fn answered_by(call: &Call) -> String {
    match (call.mode, call.reason) {
        (Mode::Call, _) => "host".into(),
        (Mode::Local, _) => "guest".into(),
        (Mode::None, reason) => format!("not offered: {}", reason.unwrap_or("?")),
    }
}

fn table() -> String {
    let programs = sources("tests/programs", &[".c"]);
    let compat = sources("tests/compat", &[".cu", ".py"]);
    let seen = seen();
    let mut page = String::new();
    let count = |mode| CALLS.iter().filter(|call| call.mode == mode).count();
    let (host, guest, none) = (count(Mode::Call), count(Mode::Local), count(Mode::None));
    writeln!(
        page,
        "\nOf {} functions {} are offered: {host} are carried out by the host's library, {guest} are answered in the guest. {none} are \
         not.\n",
        CALLS.len(),
        host + guest
    )
    .unwrap();
    page += "Why a function is not offered:\n\n";
    for (reason, text) in REASONS {
        writeln!(page, "- **{reason}**: {text}").unwrap();
    }
    page += "\n| function | answered by | programs that name it | calls seen on a GPU |\n| --- | --- | --- | --- |\n";
    let mut calls: Vec<_> = CALLS.iter().collect();
    calls.sort_by_key(|call| call.name);
    for call in calls {
        let mut by: Vec<_> = programs
            .iter()
            .chain(&compat)
            .filter(|(_, text)| names(text, call))
            .map(|(name, _)| name.rsplit('/').next().unwrap().to_owned())
            .collect();
        let more = by.len().saturating_sub(3);
        by.truncate(3);
        if more > 0 {
            by.push(format!("{more} more"));
        }
        let calls = call.symbols.iter().filter_map(|symbol| seen.get(symbol.name));
        let calls: u64 = calls.map(|calls| calls.parse::<u64>().unwrap()).sum();
        let seen = if calls > 0 {
            calls.to_string()
        } else {
            String::new()
        };
        writeln!(
            page,
            "| {} | {} | {} | {seen} |",
            call.name,
            answered_by(call),
            by.join(", ")
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = root().join("docs/compatibility.md");
    let page = fs::read_to_string(&path).unwrap();
    let at = page.find(MARK).expect("the mark is in the page") + MARK.len();
    let wanted = format!("{}{}", &page[..at], table());
    if std::env::var_os("VGPU_WRITE").is_some() {
        fs::write(&path, wanted).unwrap();
        return;
    }
    let diff = TextDiff::from_lines(page.as_str(), wanted.as_str());
    let diff = diff.unified_diff().context_radius(0).to_string();
    assert!(
        diff.is_empty(),
        "docs/compatibility.md is not up to date:\n{diff}"
    );
}

#[test]
fn what_is_not_offered_has_a_reason_and_nothing_else_has() {
    for call in CALLS {
        assert_eq!(call.mode == Mode::None, call.reason.is_some(), "{}", call.name);
    }
}
