//! The pool map while this program runs: read again, or changed at somebody's request.
use crate::daemon::Daemon;
use crate::requests::Refused;
use anyhow::{Context, Result, bail};
use diffy::{DiffOptions, Line, Patch};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vgpu_pool_map::{EditError, PoolMap};
use vgpu_sched_api::messages::{Edit, Refusal};
use vgpu_sched_core::Event;

/// Bytes of a text's hash that are its version: no two texts have the same by chance, nor by somebody's effort.
const VERSION_LEN: usize = 16;

/// Said of a pool map's text that is another one and means the same.
const MEANS_THE_SAME: &str = "the pool map's file: comments, order or layout, and nothing that counts";

/// Said of a pool map's file that another than this program has changed.
const BY_HAND: &str = "was changed by hand and is not in use yet: `vgpu-admin reload --dry-run` says what it changes, and \
    `vgpu-admin reload` has it used";

/// How old a change of a file is before another one is sure to be told by its times, which are no finer than the kernel's clock.
const SETTLED: Duration = Duration::from_secs(1);

/// The pool map's file as it was when it was last compared with what is in use.
#[derive(Debug)]
pub(crate) struct Compared {
    stamp: Stamp,
    differs: bool,
}

/// What is another one after every change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: [u64; 2],
    len: u64,
    modified: [i64; 2],
    changed: [i64; 2],
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            place: [file.dev(), file.ino()],
            len: file.len(),
            modified: [file.mtime(), file.mtime_nsec()],
            changed: [file.ctime(), file.ctime_nsec()],
        }
    }

    /// Whether the file cannot change again without this being another one.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let [seconds, nanoseconds] = self.changed.map(|part| u64::try_from(part).unwrap_or(0));
        now.saturating_sub(Duration::new(seconds, 0) + Duration::from_nanos(nanoseconds)) > SETTLED
    }
}

/// What a change did, or would do.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// A line each; none if all was so already.
    pub(crate) changes: Vec<String>,
    /// What does not follow, and whoever asked should know.
    pub(crate) notes: Vec<String>,
    /// What of the pool map's file is different.
    pub(crate) diff: String,
    /// The version of the pool map's text that was tried, if that is not the one in use.
    pub(crate) tried: Option<String>,
}

impl Done {
    /// What has nothing to do with the pool map's file.
    pub(crate) fn of(changes: Vec<String>) -> Self {
        Self {
            changes,
            ..Self::default()
        }
    }
}

impl Daemon {
    /// The text of the pool map's file, which must be of that version if one is given.
    pub(crate) fn read_map(&self, seen: Option<&str>) -> Result<String, Refused> {
        let text = vgpu_pool_map::read_text(&self.config)
            .context("cannot be read")
            .map_err(|error| self.failed(&error))?;
        let found = version(&text);
        let Some(seen) = seen.filter(|seen| *seen != found) else {
            return Ok(text);
        };
        let changed = match text == self.map_text {
            true => "was changed since it was looked at".to_owned(),
            false => BY_HAND.to_owned(),
        };
        let message = format!(
            "{} {changed}: expected version {seen}, and it is {found}",
            self.config.display()
        );
        Err((Refusal::Conflict, message))
    }

    /// The same, to be changed: not if somebody has changed it by hand. A change would have that used as well, which nobody
    /// asked for, and say nothing of it.
    pub(crate) fn read_map_in_use(&self, seen: Option<&str>) -> Result<String, Refused> {
        let text = self.read_map(seen)?;
        if text == self.map_text {
            return Ok(text);
        }
        Err((Refusal::Conflict, format!("{} {BY_HAND}", self.config.display())))
    }

    /// What is to be known of the pool map's file if it is not what is in use. It is read only if it may be another one than when
    /// it was last read.
    pub(crate) fn map_differs(&mut self) -> Option<String> {
        let file = self.config.display();
        let read = || {
            let stamp = Stamp::of(&std::fs::metadata(&self.config)?);
            match &self.compared {
                Some(compared) if compared.stamp == stamp => Ok((stamp, compared.differs)),
                _ => {
                    Ok::<_, std::io::Error>((stamp, vgpu_pool_map::read_text(&self.config)? != self.map_text))
                }
            }
        };
        match read() {
            Ok((stamp, differs)) => {
                let said = format!(
                    "the pool map in {file} differs from the one in use: vgpu-admin reload (or reload --dry-run to see)"
                );
                self.compared = stamp.is_settled().then_some(Compared { stamp, differs });
                differs.then_some(said)
            }
            Err(error) => {
                let said =
                    format!("the pool map in {file} cannot be read, and the one in use stays: {error}");
                self.compared = None;
                Some(said)
            }
        }
    }

    /// Uses what the pool map's file says now; the old map stays if that is wrong.
    pub(crate) fn reload(&mut self, text: String, dry_run: bool) -> Result<Done, Refused> {
        let map = self.parse(&text)?;
        let mut done = self.what_changes(&map, &text);
        done.tried = dry_run.then(|| version(&text));
        if !dry_run {
            done.diff = diff(&self.map_text, &text);
            self.use_map(map, text);
        }
        Ok(done)
    }

    /// What another map than that in use changes.
    fn what_changes(&self, map: &PoolMap, text: &str) -> Done {
        let mut changes = vgpu_pool_map::differences(&self.map, map);
        if changes.is_empty() && text != self.map_text {
            changes.push(MEANS_THE_SAME.to_owned());
        }
        Done {
            changes,
            notes: self.what_stays(map),
            ..Done::default()
        }
    }

    /// Edits the pool map's file, or says what would change.
    pub(crate) fn edit(&mut self, text: &str, edits: &[Edit], dry_run: bool) -> Result<Done, Refused> {
        let resolve = |name: &str| self.inventory.resolve(name);
        let edited = vgpu_pool_map::apply(text, edits, &resolve).map_err(|error| match error {
            EditError::NotFound(message) => (Refusal::NotFound, message),
            EditError::Refused(message) => (Refusal::Invalid, message),
            EditError::Map(error) => (Refusal::BadConfig, error.of_file(&self.config).to_string()),
        })?;
        if edited.changes.is_empty() {
            return Ok(Done::default());
        }
        Ok(Done {
            changes: edited.changes,
            ..self.put(text, edited.text, dry_run)?
        })
    }

    /// Takes a change of the pool map's file back, if it was the last one.
    pub(crate) fn undo(&mut self, text: &str, number: u64, dry_run: bool) -> Result<Done, Refused> {
        let Some(record) = self.audit.get(number) else {
            let message = format!("there is no change {number}: {}", self.last_of_map());
            return Err((Refusal::NotFound, message));
        };
        if record.diff.is_empty() {
            let message = format!(
                "change {number} cannot be taken back: expected one of the pool map that was done, and was not too large to be \
                 kept; {}",
                self.last_of_map()
            );
            return Err((Refusal::Invalid, message));
        }
        if record.map_version != version(text) {
            let message = format!(
                "change {number} cannot be taken back: {} was changed since; {}",
                self.config.display(),
                self.last_of_map()
            );
            return Err((Refusal::Conflict, message));
        }
        let undone = before(text, &record.diff)
            .with_context(|| format!("change {number} cannot be taken back"))
            .map_err(|error| self.failed(&error))?;
        self.put(text, undone, dry_run)
    }

    /// Puts another text into the pool map's file, whose text is in use, and uses it.
    fn put(&mut self, old: &str, new: String, dry_run: bool) -> Result<Done, Refused> {
        let map = self.parse(&new)?;
        let mut done = self.what_changes(&map, &new);
        if !dry_run {
            match replace(&self.config, old, &new) {
                Ok(true) => {
                    done.diff = diff(old, &new);
                    self.use_map(map, new);
                }
                Ok(false) => {
                    let message = format!(
                        "{}: somebody else has changed it at this moment; try again",
                        self.config.display()
                    );
                    return Err((Refusal::Conflict, message));
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(done)
    }

    fn parse(&self, text: &str) -> Result<PoolMap, Refused> {
        let known = |uuid: &str| self.inventory.assignable(uuid);
        PoolMap::parse(text, Some(&known))
            .map_err(|error| (Refusal::BadConfig, error.of_file(&self.config).to_string()))
    }

    fn failed(&self, error: &anyhow::Error) -> Refused {
        (Refusal::Failed, format!("{}: {error:#}", self.config.display()))
    }

    /// A line for each VM with sessions that leaves its pool.
    fn sessions_that_stay(&self, new: &PoolMap) -> Vec<String> {
        let name = |map: &PoolMap, vm| map.pool_of(vm).map(|pool| pool.name.clone());
        let vms: BTreeSet<u32> = self.sessions.keys().map(|session| session.vm).collect();
        let moved = vms
            .into_iter()
            .filter(|vm| name(&self.map, *vm) != name(new, *vm));
        let line = |vm| {
            let count = self.sessions.keys().filter(|session| session.vm == vm).count();
            let sessions = if count == 1 {
                "its session stays on its GPUs until it ends".to_owned()
            } else {
                format!("its {count} sessions stay on their GPUs until they end")
            };
            format!("VM {vm}: {sessions}")
        };
        moved.map(line).collect()
    }

    /// What an edit leaves as it is, though one might think otherwise.
    fn what_stays(&self, new: &PoolMap) -> Vec<String> {
        [self.sessions_that_stay(new), self.quarantines_that_stay(new)].concat()
    }

    /// A line for each VM in quarantine that is in no pool any longer.
    fn quarantines_that_stay(&self, new: &PoolMap) -> Vec<String> {
        let in_pool = |map: &PoolMap, vm| map.pool_of(vm).is_some();
        let leave = self.quarantines.keys().copied();
        let leave = leave.filter(|vm| in_pool(&self.map, *vm) && !in_pool(new, *vm));
        let line = |vm| format!("VM {vm}: stays in quarantine: vgpu-admin release --vm-id {vm} ends that");
        leave.map(line).collect()
    }

    fn use_map(&mut self, map: PoolMap, text: String) {
        // What was used up to now is that of the pools that VMs were in.
        self.settle(true);
        let pools = self.map.pools.iter().map(|pool| pool.name.clone());
        self.earlier_pools.extend(pools);
        self.map = map;
        self.map_version = version(&text);
        self.map_text = text;
        self.compared = None;
        log::info!("pool map loaded; pools: {}", self.map.pools.len());
        for line in self.degraded() {
            log::warn!("{line}");
        }
        self.feed(Event::Configured(self.map.scheduler));
        self.set_pools();
        let clients = self.clients.values().filter_map(|client| client.vm);
        let vms: BTreeSet<u32> = clients
            .chain(self.sessions.keys().map(|session| session.vm))
            .collect();
        for vm in vms {
            // The sessions of a VM that is in no pool any longer run on as they were; it gets no new ones.
            if self.map.pool_of(vm).is_some() {
                self.set_terms(vm);
            }
        }
    }
}

/// The version of a pool map's text.
pub(crate) fn version(text: &str) -> String {
    let hash = Sha256::digest(text);
    hash.iter()
        .take(VERSION_LEN)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What of a text is different, as lines that went and came. Whoever has the new text gets the old one from it.
fn diff(old: &str, new: &str) -> String {
    // The version says which text it is for, so it needs no lines around to be found by.
    DiffOptions::new()
        .set_context_len(0)
        .create_patch(old, new)
        .to_string()
}

/// The text before what [`diff`] tells of it. Its lines are where they are said to be: to search for them, as tools do that apply
/// patches, could take others that are alike.
fn before(text: &str, diff: &str) -> Result<String> {
    let patch = Patch::from_str(diff)?;
    let mut lines = text.split_inclusive('\n');
    let (mut old, mut at) = (String::new(), 0);
    let mut next = |expected: Option<&str>| -> Result<&str> {
        let line = lines
            .next()
            .filter(|line| expected.is_none_or(|expected| expected == *line));
        line.context("what is kept of it does not fit the text")
    };
    for hunk in patch.hunks() {
        let range = hunk.new_range();
        // A place between lines is named by the line before it, from 1.
        let begin = if range.is_empty() {
            range.start()
        } else {
            range.start().saturating_sub(1)
        };
        while at < begin {
            old.push_str(next(None)?);
            at += 1;
        }
        for line in hunk.lines() {
            match line {
                Line::Delete(line) => old.push_str(line),
                Line::Insert(line) => {
                    next(Some(line))?;
                    at += 1;
                }
                Line::Context(line) => {
                    old.push_str(next(Some(line))?);
                    at += 1;
                }
            }
        }
    }
    old.extend(lines);
    Ok(old)
}

/// Replaces a file's text at once, keeping its owner and mode: whoever reads it finds the old text or the new one. Says
/// whether it still had the old one; if not, it stays.
fn replace(path: &Path, old: &str, new: &str) -> Result<bool> {
    // Where a link leads is replaced, not the link.
    let path = &path.canonicalize().context("cannot be found")?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("cannot be replaced");
    };
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = &folder.join(temporary);
    let write = || {
        let was = OpenOptions::new().write(true).open(path)?.metadata()?;
        // Left over from an attempt that was cut off.
        let _ = std::fs::remove_file(temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)
            .with_context(|| format!("no file can be made in {}", folder.display()))?;
        fchown(&file, Some(was.uid()), Some(was.gid())).context("its owner cannot be kept")?;
        file.set_permissions(Permissions::from_mode(was.permissions().mode() & 0o7777))?;
        file.write_all(new.as_bytes())?;
        file.sync_all()?;
        if vgpu_pool_map::read_text(path)? != old {
            return Ok(false);
        }
        std::fs::rename(temporary, path)?;
        Ok::<_, anyhow::Error>(true)
    };
    let written = write().context("cannot be written");
    if !matches!(written, Ok(true)) {
        // Not there if it could not be made.
        let _ = std::fs::remove_file(temporary);
        return written;
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .context("is written, but maybe not for good")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_behind_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(replace(&link, "old", "new").unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o604
        );
        assert!(link.is_symlink());

        assert!(
            !replace(&file, "old", "newer").unwrap(),
            "somebody else was faster"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing is left behind"
        );
        assert!(replace(&dir.path().join("none"), "", "").is_err());
    }

    proptest! {
        /// Whatever the texts are, also without a line's end at their ends.
        #[test]
        fn from_what_is_different_the_old_text_is_made_again(
            old in "([ab\\[\\]#-]{0,2}\r?\n){0,6}[ab]{0,2}", new in "([ab\\[\\]#+]{0,2}\r?\n){0,6}[ab]{0,2}",
        ) {
            prop_assert_eq!(before(&new, &diff(&old, &new)).unwrap(), old);
        }
    }

    /// The line that came is alike one of the VM before.
    #[test]
    fn a_line_that_came_goes_from_where_it_came() {
        let old = "[vm.1]\nweight = 2\n[vm.2]\n";
        let new = "[vm.1]\nweight = 2\n[vm.2]\nweight = 2\n";
        let diff = diff(old, new);
        assert_eq!(before(new, &diff).unwrap(), old);
        assert!(before(old, &diff).is_err());
    }
}
