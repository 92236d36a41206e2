//! Setting aside: what is not understood keeps its bytes and loses its place.

use std::fs;
use std::path::PathBuf;

use uuid::Uuid;

use super::{ManifestLock, Store, StoreError, sync_directory_of};
use crate::sector::SectorId;

/// Where what is set aside lies, in a directory for each time.
const ASIDE_DIR: &str = "aside";

impl Store {
    /// Moves all files of `sector` out of their places, its manifest last, and says where to. Killed on the
    /// way, the rest goes the same way the next time. Nothing ever removes it but an operator.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub fn set_aside(&self, _lock: &ManifestLock, sector: SectorId) -> Result<PathBuf, StoreError> {
        self.expect_present()?;
        let place = self.root().join(ASIDE_DIR).join(format!("{sector}.{}", Uuid::new_v4()));
        fs::create_dir_all(&place).map_err(StoreError::io("make the directory", &place))?;
        let files = [
            (self.unsealed(sector), "unsealed"),
            (self.sealed(sector), "sealed"),
            (self.cache(sector), "cache"),
            (self.manifest_path(sector), "manifest.json"),
        ];
        for (from, name) in files {
            let to = place.join(name);
            if from.symlink_metadata().is_ok() {
                fs::rename(&from, &to).map_err(StoreError::io("set aside", &from))?;
                sync_directory_of(&to)?;
                sync_directory_of(&from)?;
            }
        }
        sync_directory_of(&place)?;
        Ok(place)
    }
}
