//! The removal of one sector's files from a store: asked for by a job of the miner, and by nothing else.
//!
//! The manifest goes first: it forgets every phase and keeps the job's fence, durably. Killed after that,
//! what is left is leftovers, and the same job removes the rest. A task of a lower fence that comes late
//! finds itself outdated, so nothing of the sector comes back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::job::{Fence, Job};
use crate::manifest::{Manifest, Standing};
use crate::sector::SectorId;
use crate::store::{Store, StoreError};

/// Directories in which a sector's name is no sector's file.
const NOT_OF_SECTORS: [&str; 2] = ["manifest", "attempt"];

/// What a removal removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removal {
    /// Files.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The sector was written under a higher fence since.
    #[error("fence {asked} may not remove {sector}, which was written under fence {found}")]
    Outdated {
        /// The sector.
        sector: SectorId,
        /// The fence of the removal.
        asked: Fence,
        /// The fence of the manifest.
        found: Fence,
    },
    /// There are files, and the farm has not made them.
    #[error("{path} exists and no manifest knows {sector}: it is none of this farm's, remove it by hand")]
    Unknown {
        /// The sector.
        sector: SectorId,
        /// One of the files.
        path: PathBuf,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Removes every file of the job's sector. Where there are none, the store remembers that there are
    /// to be none. `forgotten` is called between the two: the manifest knows nothing, the files are there.
    ///
    /// # Errors
    /// When a higher fence has written, when the files are not this farm's, or when the store fails;
    /// in the last case some may be gone.
    pub fn remove_sector(&self, job: &Job, forgotten: impl FnOnce()) -> Result<Removal, RemovalError> {
        let sector = job.sector;
        let lock = self.lock_manifest(sector)?;
        let places = self.places_of(sector)?;
        match self.manifest(sector)? {
            Some(known) => {
                if let Standing::Outdated { manifest: found } = known.standing(job) {
                    return Err(RemovalError::Outdated { sector, asked: job.fence, found });
                }
            }
            None => {
                // An add-piece that was killed before its record leaves its file, and no manifest yet.
                let unsealed = self.unsealed(sector);
                if let Some(path) = places.iter().find(|path| **path != unsealed).cloned() {
                    return Err(RemovalError::Unknown { sector, path });
                }
            }
        }
        self.put_manifest(&lock, &Manifest::new(sector, *job.ask.sealing(), job.fence))?;
        forgotten();
        let mut removal = Removal::default();
        for path in places {
            remove(&path, &mut removal).map_err(StoreError::io("remove", &path))?;
        }
        Ok(removal)
    }

    /// Whatever bears the sector's name, in any directory for sectors' files.
    fn places_of(&self, sector: SectorId) -> Result<Vec<PathBuf>, StoreError> {
        let root = self.root();
        let mut places = Vec::new();
        for entry in fs::read_dir(root).map_err(StoreError::io("list", root))? {
            let directory = entry.map_err(StoreError::io("list", root))?;
            let of_sectors = !NOT_OF_SECTORS.iter().any(|name| directory.file_name() == *name);
            let place = directory.path().join(sector.to_string());
            if of_sectors && place.symlink_metadata().is_ok() {
                places.push(place);
            }
        }
        places.sort();
        Ok(places)
    }
}

/// Removes a file, or a directory with what is in it; links are removed and not followed.
fn remove(path: &Path, removal: &mut Removal) -> io::Result<()> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            remove(&entry?.path(), removal)?;
        }
        return fs::remove_dir(path);
    }
    fs::remove_file(path)?;
    removal.files += 1;
    removal.bytes += meta.len();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commitment::Ticket;
    use crate::job::{AgentId, JobAsk, Sealing};
    use crate::sector::{MinerId, ProverKind, SealProof, SectorNumber};

    const SECTOR: SectorId = SectorId { miner: MinerId(1000), number: SectorNumber(42) };

    fn agent() -> AgentId {
        "site-1".parse().unwrap()
    }

    fn sealing() -> Sealing {
        let proof = SealProof::StackedDrg2KiBV1_1;
        Sealing { proof, prover: ProverKind::Null, ticket: Ticket([1; 32]) }
    }

    fn job(fence: u64) -> Job {
        Job::new(SECTOR, Fence(fence), None, JobAsk::Remove { sealing: sealing(), site: agent() })
    }

    /// A store with files of two sectors, and a manifest of the first under fence 3.
    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent()).unwrap();
        let other = SectorId { number: SectorNumber(43), ..SECTOR };
        for sector in [SECTOR, other] {
            fs::write(store.sealed(sector), [0; 100]).unwrap();
            fs::create_dir(store.cache(sector)).unwrap();
            fs::write(store.cache(sector).join("p_aux"), [0; 10]).unwrap();
        }
        let lock = store.lock_manifest(SECTOR).unwrap();
        store.put_manifest(&lock, &Manifest::new(SECTOR, sealing(), Fence(3))).unwrap();
        (dir, store)
    }

    #[test]
    fn all_files_of_the_sector_go_and_no_other_and_the_fence_stays() {
        let (_dir, store) = store();
        assert_eq!(store.remove_sector(&job(4), || ()).unwrap(), Removal { files: 2, bytes: 110 });
        assert!(!store.sealed(SECTOR).exists() && !store.cache(SECTOR).exists());
        let other = SectorId { number: SectorNumber(43), ..SECTOR };
        assert!(store.sealed(other).exists() && store.cache(other).join("p_aux").exists());
        let left = store.manifest(SECTOR).unwrap().unwrap();
        assert_eq!((left.fence, left.phases.len()), (Fence(4), 0));
        assert_eq!(store.remove_sector(&job(4), || ()).unwrap(), Removal::default(), "twice is once");
    }

    #[test]
    fn a_removal_under_an_older_fence_removes_nothing() {
        let (_dir, store) = store();
        let refused = store.remove_sector(&job(2), || ()).unwrap_err();
        assert!(matches!(refused, RemovalError::Outdated { found: Fence(3), .. }), "{refused}");
        assert!(store.sealed(SECTOR).exists());
    }

    #[test]
    fn files_without_a_manifest_are_not_this_farms_and_stay() {
        let (_dir, store) = store();
        let other = Job::new(
            SectorId { number: SectorNumber(43), ..SECTOR },
            Fence(9),
            None,
            JobAsk::Remove { sealing: sealing(), site: agent() },
        );
        let refused = store.remove_sector(&other, || ()).unwrap_err();
        assert!(matches!(refused, RemovalError::Unknown { .. }), "{refused}");
        assert!(store.sealed(other.sector).exists());
    }

    #[test]
    fn what_an_add_piece_left_that_was_killed_before_its_record_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent()).unwrap();
        fs::write(store.unsealed(SECTOR), [0; 100]).unwrap();
        assert_eq!(store.remove_sector(&job(4), || ()).unwrap(), Removal { files: 1, bytes: 100 });
        assert!(!store.unsealed(SECTOR).exists());
    }

    #[test]
    fn where_nothing_was_made_nothing_can_be_begun_late() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent()).unwrap();
        assert_eq!(store.remove_sector(&job(4), || ()).unwrap(), Removal::default());
        let late = Job::new(SECTOR, Fence(3), None, JobAsk::PreCommit { sealing: sealing() });
        let known = store.manifest(SECTOR).unwrap().unwrap();
        assert_eq!(known.standing(&late), Standing::Outdated { manifest: Fence(4) });
    }
}
