//! Rules of the tree that are said in `docs/architecture.md`, checked: who may depend on whom, and that the
//! tests that the documents name exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, TargetKind};

/// Crates that only one folder may use, and that folder.
const SOLE_USERS: [(&str, &str); 1] = [("cudarc", "cuda-exec")];
/// The folder that may use the rust-vmm crates, and what the front end of the guest's libraries may
/// use of them: the front end, and the crate whose types its interface takes.
const RUST_VMM_USER: &str = "vhost-backend";
const FRONT_END: &str = "guest-driver/transport";
const FRONT_END_PARTS: [&str; 2] = ["vhost", "vmm-sys-util"];
/// Of the same origin, but nothing of a virtual machine's: the executor's filter of system calls.
const JAIL: (&str, &str) = ("cuda-exec", "seccompiler");
/// What a crate's own tests may use besides: the software GPU, to run on, and the front end, to ask through.
const FOR_TESTS: [(&str, &str); 4] = [
    ("cuda-exec", "cuda-exec/softgpu"),
    ("scheduler", "cuda-exec/softgpu/device"),
    ("scheduler", "cuda-exec/softgpu/nvml"),
    ("vhost-backend", "guest-driver/transport"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn metadata() -> Metadata {
    let options = ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned);
    MetadataCommand::new()
        .current_dir(root())
        .other_options(options)
        .exec()
        .unwrap()
}

/// The folder of a package of this workspace, such as `scheduler/core`.
fn folder_of(package: &Package) -> String {
    let folder = package.manifest_path.parent().unwrap();
    folder
        .strip_prefix(root().to_str().unwrap())
        .unwrap()
        .as_str()
        .to_owned()
}

/// Rows of the table in `docs/architecture.md`: folder, and what it may depend on (`None`: anything).
fn table() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let [folder, _, allowed, ""] = cells[..] else {
            return None;
        };
        let folder = folder.strip_suffix("/`")?.to_owned();
        let allowed = match allowed {
            "anything" => None,
            "-" | "nothing here" => Some(BTreeSet::new()),
            names => Some(names.split(',').map(|name| name.trim().to_owned()).collect()),
        };
        Some((folder, allowed))
    };
    text.lines().filter_map(row).collect()
}

/// The row for a folder: its own, or that of the folder it is in.
fn row_for<'a, T>(table: &'a BTreeMap<String, T>, folder: &str) -> Option<(&'a str, &'a T)> {
    let at = |path: &Path| {
        table
            .get_key_value(path.to_str()?)
            .map(|(key, value)| (key.as_str(), value))
    };
    Path::new(folder).ancestors().find_map(at)
}

/// Whether a name of the table, which leaves out the folders above where that is clear, means this folder.
fn means(name: &str, folder: &str) -> bool {
    folder == name || folder.ends_with(&format!("/{name}"))
}

#[test]
fn dependencies_follow_the_table() {
    let metadata = metadata();
    let table = table();
    let members = metadata.workspace_packages();
    assert!(table.len() >= 10, "the table was not found: {table:?}");
    let mut wrong = Vec::new();
    for package in &members {
        let folder = folder_of(package);
        let Some((row, allowed)) = row_for(&table, &folder) else {
            wrong.push(format!("{folder} is not in the table"));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(used) = members.iter().find(|member| *member.name == *dependency.name) else {
                continue;
            };
            let used = folder_of(used);
            let for_tests = dependency.kind == DependencyKind::Development
                && FOR_TESTS.contains(&(folder.as_str(), used.as_str()));
            let inside = row_for(&table, &used).is_some_and(|(of_used, _)| of_used == row);
            let listed = allowed
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| means(name, &used)));
            if !for_tests && !inside && !listed {
                wrong.push(format!("{folder} depends on {used}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn nothing_depends_on_a_binary() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    // What has a library may have programs as well: it is the library that is depended on.
    let is_binary = |package: &Package| {
        let has = |kind: TargetKind| package.targets.iter().any(|target| target.is_kind(kind.clone()));
        has(TargetKind::Bin) && !has(TargetKind::Lib) && !has(TargetKind::RLib)
    };
    let binaries: BTreeSet<&str> = members
        .iter()
        .filter(|package| is_binary(package))
        .map(|package| package.name.as_str())
        .collect();
    assert!(binaries.contains("vgpud"), "no binaries were found");
    for package in &members {
        for dependency in &package.dependencies {
            assert!(
                !binaries.contains(dependency.name.as_str()),
                "{} uses {}",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn libraries_with_one_user_have_no_other() {
    let metadata = metadata();
    let rust_vmm: BTreeSet<&str> = metadata
        .packages
        .iter()
        .filter(|package| {
            package
                .repository
                .as_deref()
                .is_some_and(|url| url.contains("github.com/rust-vmm/"))
        })
        .map(|package| package.name.as_str())
        .collect();
    assert!(
        rust_vmm.contains("vhost-user-backend") && rust_vmm.contains("vm-memory"),
        "{rust_vmm:?}"
    );
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let folder = folder_of(package);
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let front_end = FRONT_END == folder && FRONT_END_PARTS.contains(&name);
            let allowed = folder == RUST_VMM_USER || front_end || JAIL == (folder.as_str(), name);
            let of_rust_vmm = rust_vmm.contains(name) && !allowed;
            let of_another = SOLE_USERS
                .iter()
                .any(|&(sole, user)| sole == name && user != folder);
            if of_rust_vmm || of_another {
                wrong.push(format!("{folder} uses {name}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_crate_inherits_the_lints() {
    for package in metadata().workspace_packages() {
        let manifest: toml::Table = fs::read_to_string(&package.manifest_path)
            .unwrap()
            .parse()
            .unwrap();
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            inherits.and_then(toml::Value::as_bool),
            Some(true),
            "{}",
            package.manifest_path
        );
    }
}

/// Files below `folder` with one of these extensions, without what is built or downloaded.
fn sources(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !matches!(name, "target" | "dist") && !name.starts_with('.') {
                sources(&path, extensions, found);
            }
        } else if path
            .extension()
            .is_some_and(|end| extensions.iter().any(|one| end == *one))
        {
            found.push(path);
        }
    }
}

/// Names of the functions marked as tests: attributes and comments may stand between the mark and the name.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("pub fn ")) {
            if std::mem::take(&mut marked) {
                names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
        } else if !line.is_empty() && !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
    names
}

/// Tests that a document names: "(test: `name`)", "(tests: `one`, `two`)".
fn named_tests(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for mark in ["(test: ", "(tests: "] {
        for after in text.split(mark).skip(1) {
            let inside = after.split(')').next().unwrap_or(after);
            // Every second part stands between backquotes.
            names.extend(inside.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

#[test]
fn the_tests_that_documents_name_exist() {
    let mut code = Vec::new();
    sources(&root(), &["rs"], &mut code);
    let tests: BTreeSet<String> = code
        .iter()
        .flat_map(|path| tests_in(&fs::read_to_string(path).unwrap()))
        .collect();
    assert!(tests.contains("the_tests_that_documents_name_exist"));

    let mut documents = Vec::new();
    sources(&root().join("docs"), &["md"], &mut documents);
    assert!(!documents.is_empty());
    let mut missing = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for name in named_tests(&text) {
            // A name may say its module as well.
            if !tests.contains(name.rsplit("::").next().unwrap()) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}

#[test]
fn each_invariant_names_a_test() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let invariants: Vec<&str> = text.split("\n**I").skip(1).collect();
    assert!(!invariants.is_empty(), "no invariants were found");
    for (at, invariant) in invariants.iter().enumerate() {
        let own = invariant.split("\n\n").next().unwrap();
        assert!(
            own.starts_with(&format!("{}**", at + 1)),
            "invariant {} is not in its place: {own}",
            at + 1
        );
        assert!(!named_tests(own).is_empty(), "no test is named: I{own}");
    }
}

#[test]
fn names_of_tests_are_found() {
    let code = "#[test]\nfn one() {\n#[test]\n#[ignore]\n// why\npub fn two<T>() {}\nfn three() {}\n";
    assert_eq!(tests_in(code), ["one", "two"].map(str::to_owned).into());
    let text = "**I1** (test: `a::b`) x (tests: `c`,\n`d`) `e` (test `f`)";
    assert_eq!(named_tests(text), ["a::b", "c", "d"]);
}
