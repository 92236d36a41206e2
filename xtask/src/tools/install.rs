//! Putting a file, a link or a directory in its place in one step, so that whoever looks sees the
//! old one or the new one, never half of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

/// One of protoc's well-known definitions, relative to the tools directory.
const WELL_KNOWN: &str = "include/google/protobuf/any.proto";

/// Whether a file lies there itself, not a link to one.
pub(super) fn is_plain_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Whether protoc's well-known definitions are in `dir/include`.
pub(super) fn has_includes(dir: &Path) -> bool {
    dir.join(WELL_KNOWN).is_file()
}

/// Puts an executable file with these contents at `place`.
///
/// # Errors
/// When the directory cannot be made or written.
pub(super) fn put(contents: &[u8], place: &Path) -> Result<()> {
    let parent = make_parent(place)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempfile_in(parent)
        .with_context(|| format!("cannot write in {}", parent.display()))?;
    file.write_all(contents).with_context(|| format!("cannot write {}", place.display()))?;
    // Closed before it is renamed: a program that is still open for writing cannot be started.
    file.into_temp_path().persist(place).with_context(|| format!("cannot put {}", place.display()))
}

/// Puts a copy of the executable `from` at `place`.
///
/// # Errors
/// When it cannot be read or put.
pub(super) fn copy(from: &Path, place: &Path) -> Result<()> {
    let contents = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    put(&contents, place)
}

/// Puts a link to `target` at `place`.
///
/// # Errors
/// When it cannot be put.
pub(super) fn link(target: &Path, place: &Path) -> Result<()> {
    let parent = make_parent(place)?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let fresh = temporary.path().join("link");
    symlink(target, &fresh)
        .and_then(|()| fs::rename(&fresh, place))
        .with_context(|| format!("cannot link {} to {}", place.display(), target.display()))
}

/// Puts a copy of the directory tree `from` at `place`, in the stead of what is there.
///
/// # Errors
/// When it cannot be read or put.
pub(super) fn copy_tree(from: &Path, place: &Path) -> Result<()> {
    let parent = make_parent(place)?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let fresh = temporary.path().join("tree");
    copy_entries(from, &fresh).with_context(|| format!("cannot copy {}", from.display()))?;
    if place.exists() {
        fs::rename(place, temporary.path().join("old"))?;
    }
    fs::rename(&fresh, place).with_context(|| format!("cannot put {}", place.display()))
}

fn copy_entries(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_entries(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn make_parent(place: &Path) -> Result<&Path> {
    let parent = place.parent().context("a tool's place lies in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_file_is_executable_and_replaces_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("bin/tool");
        link(Path::new("/bin/sh"), &place).unwrap();
        assert!(!is_plain_file(&place));
        put(b"#!/bin/sh\n", &place).unwrap();
        assert!(is_plain_file(&place));
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path().join("bin")).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn a_copied_tree_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/c"), "new").unwrap();
        let place = dir.path().join("include");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("stale"), "old").unwrap();
        copy_tree(&from, &place).unwrap();
        assert_eq!(fs::read_to_string(place.join("a/b/c")).unwrap(), "new");
        assert!(!place.join("stale").exists());
    }
}
