//! The pool map while this program runs: read again, or changed at somebody's request.
use crate::daemon::Daemon;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use vgpu_pool_map::{EditError, PoolMap};
use vgpu_sched_api::messages::{Answer, Edit, Refusal};
use vgpu_sched_core::Event;

impl Daemon {
    /// Reads the pool map again; the old one stays if the new one is wrong.
    pub(crate) fn reload_map(&mut self) -> Result<()> {
        let known = |uuid: &str| self.inventory.assignable(uuid);
        let map = PoolMap::load(&self.config, Some(&known))?;
        self.use_map(map);
        Ok(())
    }

    /// Changes the pool map's file and uses it, or says what would change.
    pub(crate) fn edit(&mut self, edits: &[Edit], dry_run: bool) -> Result<Answer, (Refusal, String)> {
        let file = self.config.display().to_string();
        let failed = |error: anyhow::Error| (Refusal::Failed, format!("{file}: {error:#}"));
        let text = std::fs::read_to_string(&self.config)
            .context("cannot be read")
            .map_err(failed)?;
        let resolve = |name: &str| self.inventory.resolve(name);
        let edited = vgpu_pool_map::apply(&text, edits, &resolve).map_err(|error| match error {
            EditError::NotFound(message) => (Refusal::NotFound, message),
            EditError::Refused(message) => (Refusal::Invalid, message),
            EditError::Map(error) => (Refusal::BadConfig, error.of_file(&self.config).to_string()),
        })?;
        let known = |uuid: &str| self.inventory.assignable(uuid);
        let map = PoolMap::parse(&edited.text, Some(&known))
            .map_err(|error| (Refusal::BadConfig, error.of_file(&self.config).to_string()))?;
        let mut changes = edited.changes;
        if changes.is_empty() {
            return Ok(Answer::Edited { changes });
        }
        changes.extend(self.sessions_that_stay(&map));
        changes.extend(self.quarantines_that_stay(&map));
        if !dry_run {
            replace(&self.config, &text, &edited.text).map_err(failed)?;
            for change in &changes {
                log::info!("pool map changed: {change}");
            }
            self.use_map(map);
        }
        Ok(Answer::Edited { changes })
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

    /// A line for each VM in quarantine that is in no pool any longer.
    fn quarantines_that_stay(&self, new: &PoolMap) -> Vec<String> {
        let in_pool = |map: &PoolMap, vm| map.pool_of(vm).is_some();
        let leave = self.quarantines.keys().copied();
        let leave = leave.filter(|vm| in_pool(&self.map, *vm) && !in_pool(new, *vm));
        let line = |vm| format!("VM {vm}: stays in quarantine: vgpu-admin release --vm-id {vm} ends that");
        leave.map(line).collect()
    }

    fn use_map(&mut self, map: PoolMap) {
        self.map = map;
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

/// Replaces a file's text at once, keeping its owner and mode: whoever reads it finds the old text or the new one.
fn replace(path: &Path, old: &str, new: &str) -> Result<()> {
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
        if std::fs::read_to_string(path)? != old {
            bail!("somebody else has changed it at this moment; try again");
        }
        std::fs::rename(temporary, path)?;
        Ok::<_, anyhow::Error>(())
    };
    if let Err(error) = write() {
        // Not there if it could not be made.
        let _ = std::fs::remove_file(temporary);
        return Err(error.context("cannot be written"));
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .context("is written, but maybe not for good")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_behind_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "old", "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o604
        );
        assert!(link.is_symlink());

        let error = replace(&file, "old", "newer").unwrap_err();
        assert!(format!("{error:#}").contains("somebody else"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing is left behind"
        );
        assert!(replace(&dir.path().join("none"), "", "").is_err());
    }
}
