//! Initial file systems of guests: archives in the cpio format that the kernel unpacks ("newc").
//!
//! Archives may follow one another in one file; a later one adds to or replaces what an earlier one brought.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR_DEVICE: u32 = 0o020_000;

/// Writes one archive. Everything belongs to root; folders above an entry are made as needed.
pub struct Initrd<W: Write> {
    out: W,
    folders: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Initrd<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            folders: BTreeSet::new(),
            inode: 0,
        }
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other("file too large for cpio"))?;
        let entry = cpio::newc::Builder::new(path)
            .ino(self.inode)
            .mode(mode)
            .rdev_major(device.0)
            .rdev_minor(device.1);
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn add_folders_above(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((above, _)) => self.folder(above, 0o755),
            None => Ok(()),
        }
    }

    /// A folder; one that exists already in this archive stays as it is.
    pub fn folder(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        self.add_folders_above(path)?;
        self.folders.insert(path.to_owned());
        self.add(path, DIRECTORY | permissions, (0, 0), &[])
    }

    /// A file with the given content.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.add_folders_above(path)?;
        self.add(path, REGULAR | permissions, (0, 0), content)
    }

    /// A copy of a file of this machine.
    pub fn copy(&mut self, path: &str, permissions: u32, from: &Path) -> io::Result<()> {
        let content =
            std::fs::read(from).map_err(|error| io::Error::other(format!("{}: {error}", from.display())))?;
        self.file(path, permissions, &content)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.add_folders_above(path)?;
        self.add(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    pub fn char_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.add_folders_above(path)?;
        self.add(path, CHAR_DEVICE | permissions, (major, minor), &[])
    }

    /// Ends the archive, padded so that another may follow.
    pub fn finish(mut self) -> io::Result<W> {
        cpio::newc::trailer(&mut self.out)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_reads_back_with_its_folders_once() {
        let mut initrd = Initrd::new(Vec::new());
        initrd.file("/a/b/one", 0o644, b"hello").unwrap();
        initrd.file("/a/b/two", 0o755, b"").unwrap();
        initrd.symlink("/a/link", "b/one").unwrap();
        let archive = initrd.finish().unwrap();
        assert_eq!(archive.len() % 4, 0);

        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mode = reader.entry().mode();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            seen.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("a", 0o040_755, &b""[..]),
            ("a/b", 0o040_755, b""),
            ("a/b/one", 0o100_644, b"hello"),
            ("a/b/two", 0o100_755, b""),
            ("a/link", 0o120_777, b"b/one"),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()))
        );
    }
}
