//! A directory for one run's data and logs: removed when the run ends well, kept and named on
//! stderr when it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A handle on the directory. The directory goes with the last clone, so it outlives the processes
/// that write into it ([`crate::process::Process`] holds one).
#[derive(Clone, Debug)]
pub struct Scratch {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: Option<TempDir>,
    keep: AtomicBool,
    /// Everything but the logs was removed.
    only_logs: AtomicBool,
}

impl Scratch {
    /// Makes `sealfarm-<name>-<random>` in the system's temporary directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(name: &str) -> Result<Scratch> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("sealfarm-{name}-"))
            .tempdir()
            .context("cannot make a scratch directory; is the temporary directory writable?")?;
        Ok(Scratch { inner: Arc::new(Inner { dir: Some(dir), keep: false.into(), only_logs: false.into() }) })
    }

    /// The directory itself.
    ///
    /// # Panics
    /// Never: the directory is given up only when the last handle is dropped.
    pub fn path(&self) -> &Path {
        self.inner.dir.as_ref().expect("the directory lives as long as its handles").path()
    }

    /// A directory inside, made when missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Keeps the directory when the last handle is dropped, and names it then on stderr. A panic of
    /// the thread that drops a handle does the same by itself; a test that *returns* an error does
    /// not panic, so it calls this first.
    pub fn keep(&self) {
        self.inner.keep.store(true, Ordering::Relaxed);
    }

    /// Keeps only the logs: everything else in the directory is removed now, and the directory is
    /// named on stderr when the last handle is dropped.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn keep_logs(&self) -> Result<()> {
        self.keep();
        let path = self.path();
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            let entry = entry?.path();
            if entry.is_dir() {
                fs::remove_dir_all(&entry).with_context(|| format!("cannot remove {}", entry.display()))?;
            } else if entry.extension().is_none_or(|e| e != "log") {
                fs::remove_file(&entry).with_context(|| format!("cannot remove {}", entry.display()))?;
            }
        }
        self.inner.only_logs.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.keep.get_mut()
            && let Some(dir) = self.dir.take()
        {
            let what = if *self.only_logs.get_mut() { "logs" } else { "data and logs" };
            eprintln!("{what} are kept in {}", dir.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_last_handle() {
        let scratch = Scratch::new("unit").unwrap();
        let other = scratch.clone();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(path.is_dir());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn a_panic_keeps_the_directory() {
        let path = std::thread::spawn(|| {
            let scratch = Scratch::new("unit").unwrap();
            std::panic::panic_any(scratch.path().to_owned());
        })
        .join()
        .unwrap_err();
        let path = path.downcast_ref::<PathBuf>().unwrap();
        assert!(path.is_dir());
        fs::remove_dir_all(path).unwrap();
    }
}
