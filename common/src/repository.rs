//! A process's directory with its configuration: made whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{ExitCode, ExitError};

/// Makes `dir` hold what `fill` writes into the directory it is given, and nothing if that fails.
///
/// A directory that is not there yet, or is empty, appears at once under its name. One that is there
/// and cannot be replaced, such as a mount point, gets the files one by one, and at the very end
/// `last`: the file that makes it a repository. Nothing that is there is overwritten.
///
/// # Errors
/// That of `fill`; or `dir` holds one of the files already, or cannot be written.
pub fn create(
    dir: &Path,
    last: &str,
    fill: impl FnOnce(&Path) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    let exists = dir.is_dir();
    let beside = beside(dir, exists);
    let made = (|| {
        if let Some(parent) = beside.parent() {
            fs::create_dir_all(parent).map_err(|e| cannot_make(dir, e))?;
        }
        fs::create_dir(&beside).map_err(|e| cannot_make(dir, e))?;
        fill(&beside)?;
        if exists {
            move_into(&beside, dir, last)
        } else {
            fs::rename(&beside, dir).map_err(|e| cannot_make(dir, e))
        }
    })();
    if exists || made.is_err() {
        // What is half written is of no use to anybody; that it cannot be removed changes nothing.
        let _ = fs::remove_dir_all(&beside);
    }
    made
}

/// Where `dir` is filled: on the same file system, and out of sight.
fn beside(dir: &Path, exists: bool) -> PathBuf {
    let unique = uuid::Uuid::new_v4().simple();
    if exists {
        return dir.join(format!(".init-{unique}"));
    }
    let name = dir.file_name().map_or_else(|| "repository".into(), |name| name.to_string_lossy());
    dir.with_file_name(format!(".{name}.init-{unique}"))
}

fn move_into(from: &Path, dir: &Path, last: &str) -> Result<(), ExitError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut names = fs::read_dir(from)?
            .map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_by_key(|name| (name == Path::new(last), name.clone()));
        Ok(names)
    };
    let names = list().map_err(|e| cannot_make(dir, e))?;
    if let Some(taken) = names.iter().find(|name| dir.join(name).symlink_metadata().is_ok()) {
        let message = format!("{} exists already; nothing was overwritten", dir.join(taken).display());
        return Err(ExitError::new(ExitCode::BadInput, message)
            .next("move it away, or name another directory with --repo"));
    }
    let mut moved = Vec::new();
    for name in &names {
        if let Err(error) = fs::rename(from.join(name), dir.join(name)) {
            // In front of the last file: the directory is no repository yet.
            moved.iter().for_each(|name: &&PathBuf| drop(fs::rename(dir.join(name), from.join(name))));
            return Err(cannot_make(dir, error));
        }
        moved.push(name);
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| cannot_make(dir, e))
}

fn cannot_make(dir: &Path, error: io::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, format!("cannot make {}", dir.display()))
        .because(error)
        .next("check that the place exists and belongs to the user who runs this")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn fill(dir: &Path) -> Result<(), ExitError> {
        for name in ["config.toml", "token", "zone"] {
            fs::write(dir.join(name), name).unwrap();
        }
        Ok(())
    }

    fn fail(dir: &Path) -> Result<(), ExitError> {
        fill(dir)?;
        Err(ExitError::new(ExitCode::Failure, "half way"))
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all_and_leaves_nothing_beside() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        assert!(create(&dir, "config.toml", fail).is_err());
        assert_eq!(names(&root.path().join("a")), Vec::<String>::new());
        create(&dir, "config.toml", fill).unwrap();
        assert_eq!(names(&dir), ["config.toml", "token", "zone"]);
        assert_eq!(names(&root.path().join("a")), ["b"]);
    }

    #[test]
    fn a_directory_that_is_there_is_filled_or_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lost+found"), "").unwrap();
        assert!(create(dir.path(), "config.toml", fail).is_err());
        assert_eq!(names(dir.path()), ["lost+found"]);
        create(dir.path(), "config.toml", fill).unwrap();
        assert_eq!(names(dir.path()), ["config.toml", "lost+found", "token", "zone"]);
    }

    #[test]
    fn what_is_there_is_named_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "mine").unwrap();
        let error = create(dir.path(), "config.toml", fill).unwrap_err();
        assert!(error.to_string().contains("/token exists already"), "{error}");
        assert_eq!(names(dir.path()), ["token"]);
        assert_eq!(fs::read_to_string(dir.path().join("token")).unwrap(), "mine");
    }
}
