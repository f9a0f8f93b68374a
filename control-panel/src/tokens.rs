//! Who may do what: a file with a line for each token, of which it has the hash alone.
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What a token begins with, so that one that got lost is known for what it is.
const PREFIX: &str = "vgpu_";
/// Random bytes of a token: it cannot be guessed, so its hash need not be slow.
const RANDOM_LEN: usize = 32;
/// Bytes of a name at most, as `vgpud` takes them.
const NAME_LEN_MAX: usize = 64;
/// What is expected of a line.
const EXPECTED: &str = "expected ROLE NAME sha256:HASH, such as `vgpu-panel token` writes";

/// A hash of a token's text.
pub type Hash = [u8; 32];

/// What its owner may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    ReadOnly,
    /// Look, and change things.
    Admin,
}

impl Role {
    /// What it is called, wherever it is.
    fn name(self) -> String {
        let named = self.to_possible_value().expect("none is left out");
        named.get_name().to_owned()
    }
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: String,
    pub role: Role,
}

/// Those that the file lists, by their hashes.
pub type Listed = HashMap<Hash, Owner>;

/// The file, which is read again when it is another one.
pub struct Tokens {
    path: PathBuf,
    last: Mutex<(Stamp, Arc<Listed>)>,
}

/// Tells a file from what it was before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    len: u64,
}

impl Tokens {
    pub fn open(path: PathBuf) -> Result<Self> {
        let last = read(&path)?;
        Ok(Self {
            path,
            last: Mutex::new(last),
        })
    }

    /// What the file says now. Nobody is let in by what it said before.
    pub fn listed(&self) -> Result<Arc<Listed>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::fs::metadata(&self.path).map(|now| stamp(&now));
        if now.ok() != Some(last.0) {
            *last = read(&self.path)?;
            log::info!("{}: {} tokens", self.path.display(), last.1.len());
        }
        Ok(last.1.clone())
    }
}

/// The hash under which a token is listed.
pub fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

/// A text that nobody can guess.
pub fn random() -> Result<String> {
    let mut bytes = [0; RANDOM_LEN];
    getrandom::fill(&mut bytes).context("no random number is to be had")?;
    Ok(hex(&bytes))
}

/// Makes a token, adds its line to the file, and gives it: it is nowhere else.
pub fn add(path: &Path, role: Role, name: &str) -> Result<String> {
    check_name(name).map_err(anyhow::Error::msg)?;
    let token = format!("{PREFIX}{}", random()?);
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.with_context(|| format!("{}: cannot be written", path.display()))?);
    let text = text_of(path, &mut file)?;
    parse(&text).map_err(|message| anyhow::anyhow!("{}: {message}", path.display()))?;
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let line = format!("{end}{} {name} sha256:{}\n", role.name(), hex(&hash(&token)));
    file.write_all(line.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(token)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stamp(file: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: file.ino(),
        changed: (file.ctime(), file.ctime_nsec()),
        len: file.len(),
    }
}

fn read(path: &Path) -> Result<(Stamp, Arc<Listed>)> {
    let mut file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let stamp = stamp(&file.metadata()?);
    let text = text_of(path, &mut file)?;
    let listed = parse(&text).map_err(|message| anyhow::anyhow!("{}: {message}", path.display()))?;
    Ok((stamp, Arc::new(listed)))
}

/// The text of a file that is nobody else's.
fn text_of(path: &Path, file: &mut File) -> Result<String> {
    must_be_private(path, file)?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(text)
}

/// Whoever could write such a file would be let in, and nobody need read it.
pub fn must_be_private(path: &Path, file: &File) -> Result<()> {
    let about = file.metadata()?;
    ensure!(about.is_file(), "{}: expected a file", path.display());
    let mode = about.mode() & 0o7777;
    if mode & 0o027 != 0 {
        bail!(
            "{}: its mode is {mode:o}: expected 0600 or 0640, so that others cannot read it nor its group write it: \
             chmod 0600 {}",
            path.display(),
            path.display()
        );
    }
    Ok(())
}

fn parse(text: &str) -> Result<Listed, String> {
    let mut listed = Listed::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |message: &str| Err(format!("line {}: {message}", number + 1));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [role, name, hash] = words[..] else {
            return wrong(EXPECTED);
        };
        let Ok(role) = Role::from_str(role, false) else {
            let known: Vec<String> = Role::value_variants().iter().map(|role| role.name()).collect();
            return wrong(&format!("\"{role}\": expected the role {}", known.join(" or ")));
        };
        if let Err(message) = check_name(name) {
            return wrong(&message);
        }
        let Some(hash) = hash.strip_prefix("sha256:").and_then(unhex) else {
            return wrong(EXPECTED);
        };
        let owner = Owner {
            name: name.to_owned(),
            role,
        };
        if listed.insert(hash, owner).is_some() {
            return wrong("this token is listed already");
        }
    }
    Ok(listed)
}

fn check_name(name: &str) -> Result<(), String> {
    let wrong = |char: char| char.is_control() || char.is_whitespace();
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(wrong) || name.starts_with('#') {
        return Err(format!(
            "\"{}\": expected a name of 1 to {NAME_LEN_MAX} bytes without blanks",
            name.escape_debug()
        ));
    }
    Ok(())
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_listed_by_its_hash_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let anna = add(&path, Role::Admin, "anna").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        // A line that somebody left without its end is not spoilt.
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("admin anna sha256:") && !text.contains(&anna),
            "{text}"
        );
        std::fs::write(&path, format!("# ours\n\n{}", text.trim_end())).unwrap();
        let bob = add(&path, Role::ReadOnly, "bob").unwrap();
        assert_ne!(anna, bob);
        assert!(
            anna.starts_with(PREFIX) && anna.len() == PREFIX.len() + 64,
            "{anna}"
        );

        let tokens = Tokens::open(path.clone()).unwrap();
        let owner = |token: &str| tokens.listed().unwrap().get(&hash(token)).cloned();
        let is = |name: &str, role| {
            Some(Owner {
                name: name.to_owned(),
                role,
            })
        };
        assert_eq!(owner(&anna), is("anna", Role::Admin));
        assert_eq!(owner(&bob), is("bob", Role::ReadOnly));
        assert_eq!(owner(&bob[1..]), None);
        // One whose line goes is no token any longer; nor is any while the file is wrong.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("admin anna", "# admin anna")).unwrap();
        assert_eq!(owner(&anna), None);
        assert_eq!(owner(&bob), is("bob", Role::ReadOnly));
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(tokens.listed().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(tokens.listed().is_err());
    }

    #[test]
    fn a_file_that_others_could_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        add(&path, Role::Admin, "anna").unwrap();
        for (mode, right) in [
            (0o600, true),
            (0o640, true),
            (0o400, true),
            (0o644, false),
            (0o660, false),
            (0o602, false),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Tokens::open(path.clone()).err().map(|error| format!("{error:#}"));
            assert_eq!(error.is_none(), right, "{mode:o}: {error:?}");
            assert!(error.is_none_or(|error| error.contains("expected 0600 or 0640")));
        }
        let error = add(&path, Role::Admin, "anna").unwrap_err();
        assert!(format!("{error:#}").contains("602"), "{error:#}");
        let error = Tokens::open(dir.path().to_owned()).err().unwrap();
        assert!(format!("{error:#}").contains("expected a file"), "{error:#}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let hash = "0f".repeat(32);
        for (line, told) in [
            ("admin anna".to_owned(), "line 3: expected ROLE NAME sha256:HASH"),
            (
                format!("root anna sha256:{hash}"),
                "line 3: \"root\": expected the role",
            ),
            (
                format!("admin anna sha256:{}", &hash[1..]),
                "line 3: expected ROLE",
            ),
            (format!("admin anna {hash}"), "line 3: expected ROLE"),
            (format!("admin {} sha256:{hash}", "a".repeat(65)), "1 to 64 bytes"),
            (
                format!("admin a sha256:{hash}\nadmin b sha256:{hash}"),
                "line 4: this token is listed already",
            ),
        ] {
            let error = parse(&format!("# ours\n\n{line}\n")).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a b", "a\n", "#a", &"a".repeat(65)] {
            assert!(
                add(&dir.path().join("tokens"), Role::Admin, name).is_err(),
                "{name}"
            );
        }
        assert!(!dir.path().join("tokens").exists());
    }
}
