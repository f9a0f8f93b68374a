//! Debian packages of any suite, downloaded and unpacked without installing them.
//!
//! `apt` does the work, with folders of its own, so that the machine's package state is neither used nor
//! changed: its signatures and proxies apply, its mirror is the one that the machine's sources name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::util::{capture, capture_text, files_below};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One entry of apt's sources.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// Parses sources in the one-line form: `deb [options] URI SUITE COMPONENT…`.
fn parse_list(text: &str) -> Vec<Source> {
    let entry = |line: &str| {
        let rest = line
            .trim()
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        let rest = if rest.starts_with('[') {
            rest.split_once(']')?.1
        } else {
            rest
        };
        let mut words = rest.split('#').next()?.split_whitespace().map(str::to_owned);
        Some(Source {
            uris: vec![words.next()?],
            suites: vec![words.next()?],
            components: words.collect(),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Parses sources in the stanza form (`Types:`, `URIs:`, …).
fn parse_stanzas(text: &str) -> Vec<Source> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = text.split(|line| line.trim().is_empty());
    let entry = |stanza: &[&str]| {
        let mut fields: Vec<(String, Vec<String>)> = Vec::new();
        for line in stanza {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            if line.starts_with([' ', '\t']) {
                fields.last_mut()?.1.extend(words(line));
            } else {
                let (name, value) = line.split_once(':')?;
                fields.push((name.to_ascii_lowercase(), words(value)));
            }
        }
        let get = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, words)| words.clone())
        };
        let is_off = get("enabled").is_some_and(|value| value == ["no"]);
        if is_off || !get("types")?.iter().any(|kind| kind == "deb") {
            return None;
        }
        Some(Source {
            uris: get("uris")?,
            suites: get("suites")?,
            components: get("components")?,
        })
    };
    stanzas.filter_map(entry).collect()
}

/// The mirror from which `sources` take the suite `codename` itself.
fn mirror_of(sources: &[Source], codename: &str) -> Option<String> {
    let has = |words: &[String], word: &str| words.iter().any(|one| one == word);
    let source = sources
        .iter()
        .find(|source| has(&source.suites, codename) && has(&source.components, "main"))?;
    source.uris.first().cloned()
}

/// The Debian mirror of this machine.
fn machine_mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME")?
        .trim_matches('"');
    let mut sources = parse_list(&fs::read_to_string("/etc/apt/sources.list").unwrap_or_default());
    let parts = Path::new("/etc/apt/sources.list.d");
    if parts.exists() {
        for path in files_below(parts, &|_| true)? {
            let text = fs::read_to_string(&path).unwrap_or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => sources.extend(parse_list(&text)),
                Some("sources") => sources.extend(parse_stanzas(&text)),
                _ => {}
            }
        }
    }
    mirror_of(&sources, codename)
        .with_context(|| format!("the apt sources of this machine name no mirror for the suite {codename}"))
}

/// The line of apt's sources for a suite of the machine's mirror.
pub fn source_line(suite: &str) -> Result<String> {
    Ok(format!(
        "deb [signed-by={KEYRING}] {} {suite} main",
        machine_mirror()?
    ))
}

/// An `apt` with folders of its own.
pub struct Apt {
    folder: PathBuf,
    /// The suite that wins where several have a package.
    release: String,
}

impl Apt {
    /// Reads the package lists of `suites` into `folder`; the last suite is preferred.
    pub fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("archives/partial"))?;
        // An empty status: apt believes that nothing is installed, and downloads whole dependency trees.
        fs::write(folder.join("status"), "")?;
        let lines: Result<Vec<_>> = suites.iter().map(|suite| source_line(suite)).collect();
        fs::write(folder.join("sources.list"), lines?.join("\n") + "\n")?;
        let release = (*suites.last().context("no suite given")?).to_owned();
        let apt = Self {
            folder: folder.to_owned(),
            release,
        };
        capture(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let options = [
            format!("Dir::State={}", at("")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("")),
            format!("Dir::Cache::archives={}", at("archives")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            // The user apt would drop to may not look into this folder.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .current_dir(self.folder.join("archives"));
        for option in options {
            command.arg("-o").arg(option);
        }
        command.arg("-t").arg(&self.release);
        command
    }

    /// Names of the packages that `package` depends on.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = capture_text(
            self.command("apt-cache")
                .args(["show", "--no-all-versions", package]),
        )?;
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix("Depends:"))
            .with_context(|| format!("{package} depends on nothing"))?;
        Ok(line
            .split(',')
            .filter_map(|one| one.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Downloads these packages alone and unpacks them into `into`.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        capture(self.command("apt-get").arg("download").args(packages))?;
        self.unpack_archives(into)
    }

    /// The same with everything they depend on.
    pub fn unpack_with_dependencies(&self, package: &str, into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args([
            "--yes",
            "--download-only",
            "--no-install-recommends",
            "install",
            package,
        ]);
        capture(&mut command)?;
        self.unpack_archives(into)
    }

    fn unpack_archives(&self, into: &Path) -> Result<()> {
        let is_package = |path: &Path| path.extension().is_some_and(|extension| extension == "deb");
        let archives = files_below(&self.folder.join("archives"), &is_package)?;
        if archives.is_empty() {
            bail!("nothing was downloaded");
        }
        fs::create_dir_all(into)?;
        for archive in archives {
            capture(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
            fs::remove_file(archive)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_are_read() {
        let sources = parse_list(
            "# deb http://no.invalid/debian bookworm main\n\
             deb-src http://src.invalid/debian bookworm main\n\
             deb [arch=amd64 signed-by=/x] http://tools.invalid/apt bookworm-tools main # ours\n\
             deb http://security.invalid/debian-security bookworm-security main\n\
             deb\thttp://mirror.invalid/debian bookworm main contrib\n",
        );
        assert_eq!(sources.len(), 3);
        assert_eq!(
            mirror_of(&sources, "bookworm").as_deref(),
            Some("http://mirror.invalid/debian")
        );
        assert_eq!(mirror_of(&sources, "trixie"), None);
    }

    #[test]
    fn stanzas_are_read() {
        let sources = parse_stanzas(
            "Types: deb\nEnabled: no\nURIs: http://off.invalid/debian\nSuites: bookworm\nComponents: main\n\n\
             Types: deb deb-src\n# a note\nURIs: http://mirror.invalid/debian\n\
             Suites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /x\n\n\
             Types: deb-src\nURIs: http://src.invalid/debian\nSuites: bookworm\nComponents: main\n",
        );
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(
            mirror_of(&sources, "bookworm").as_deref(),
            Some("http://mirror.invalid/debian")
        );
    }
}
