//! A site's store on a disk of its own that can be filled: a tmpfs of a bounded size, as root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The ballast's name on the disk.
const BALLAST: &str = "ballast";
/// Written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A mounted disk. Dropping it unmounts it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one of `bytes` at `path`, which is made.
    ///
    /// # Errors
    /// Without root, or where mounting is not allowed.
    pub(super) fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "sealfarm"]).arg(path).output()?;
        let words = String::from_utf8_lossy(&mounted.stderr).into_owned();
        ensure!(mounted.status.success(), "cannot mount a tmpfs at {}: {}", path.display(), words.trim());
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When it does something else than fill up.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.path.join(BALLAST))?;
        for chunk in [CHUNK_BYTES, 4096] {
            loop {
                match ballast.write_all(&vec![0; chunk]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When the ballast cannot be removed.
    pub fn relieve(&self) -> Result<()> {
        match fs::remove_file(self.path.join(BALLAST)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("cannot remove the ballast")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that has not quite ended may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
