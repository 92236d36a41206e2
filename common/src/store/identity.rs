//! Whose store a directory is: a file written once, when the store is made, and looked for at every access
//! to a manifest. Without it nothing is known there, however empty or full the directory is.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Store, StoreError, is_full, put_json, read_json};
use crate::job::AgentId;
use crate::sector::MinerId;

/// The file that says whose store a directory is.
const IDENTITY_FILE: &str = "sealfarm-store.json";
/// Where an agent's store lies in its directory, unless configured otherwise.
pub const STORE_DIR: &str = "store";
/// Where the manifests of a store lie.
const MANIFEST_DIR: &str = "manifest";
/// The directories of a store; all exist from the start.
const DIRECTORIES: [&str; 5] = ["unsealed", "sealed", "cache", MANIFEST_DIR, "attempt"];

/// Whose store this is. Written once, when the store is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Made with the store.
    pub id: Uuid,
    /// Whose sectors it holds.
    pub miner: MinerId,
    /// Which site's store it is.
    pub agent: AgentId,
}

/// What is written at `root`, if anything.
fn identity_at(root: &Path) -> Result<Option<StoreIdentity>, StoreError> {
    match read_json(&root.join(IDENTITY_FILE)) {
        Err(StoreError::Damaged { reason, .. }) => {
            let reason =
                format!("its identity {IDENTITY_FILE} does not read, put it back from a copy: {reason}");
            Err(StoreError::Missing { path: root.to_owned(), reason })
        }
        read => read,
    }
}

fn without_identity(root: &Path) -> StoreError {
    let reason = format!("the file {IDENTITY_FILE} is not in it");
    StoreError::Missing { path: root.to_owned(), reason }
}

fn owner(miner: MinerId, agent: &AgentId) -> String {
    format!("miner {miner}, agent {agent}")
}

impl Store {
    /// Makes a store in an empty or new directory, or opens it where it is already this site's.
    ///
    /// # Errors
    /// When the directory holds something else, belongs to another site, or cannot be written.
    pub fn create(root: &Path, miner: MinerId, agent: &AgentId) -> Result<Self, StoreError> {
        if root.join(IDENTITY_FILE).exists() {
            let store = Self::open(root)?;
            store.expect_owner(miner, agent)?;
            return Ok(store);
        }
        fs::create_dir_all(root).map_err(StoreError::io("make the directory", root))?;
        let strange = fs::read_dir(root)
            .map_err(StoreError::io("list", root))?
            .filter_map(Result::ok)
            .find(|entry| !DIRECTORIES.iter().any(|known| entry.file_name() == *known));
        if let Some(entry) = strange {
            return Err(StoreError::Missing {
                path: root.to_owned(),
                reason: format!(
                    "the directory already holds `{}` and is no store of ours; name an empty directory",
                    entry.file_name().display()
                ),
            });
        }
        Self::identify(root, miner, agent)
    }

    /// Makes what is missing of a store's directories and then its identity.
    fn identify(root: &Path, miner: MinerId, agent: &AgentId) -> Result<Self, StoreError> {
        for name in DIRECTORIES {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(StoreError::io("make the directory", &path))?;
        }
        let identity = StoreIdentity { id: Uuid::new_v4(), miner, agent: agent.clone() };
        put_json(&root.join(IDENTITY_FILE), &identity)?;
        Ok(Self { root: root.to_owned(), identity })
    }

    /// Opens a store that exists: in `root`, or in `store` there, where `root` is its agent's directory.
    ///
    /// # Errors
    /// When it is missing, not a store, damaged, or cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let within = root.join(STORE_DIR);
        let is_agents = !root.join(IDENTITY_FILE).exists() && within.join(IDENTITY_FILE).exists();
        let root = if is_agents { &within } else { root };
        let missing = |reason: String| StoreError::Missing { path: root.to_owned(), reason };
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(missing("it is not a directory".into())),
            Err(e) => return Err(missing(e.to_string())),
        }
        let identity = identity_at(root)?.ok_or_else(|| without_identity(root))?;
        let store = Self { root: root.to_owned(), identity };
        store.probe_writable()?;
        Ok(store)
    }

    /// Opens the store of this site. One that was made without an identity, which its manifests show, is
    /// given one; whether that was so is told too. A directory without manifests is not taken for a store.
    ///
    /// # Errors
    /// As [`open`](Self::open); when the store, or a sector in it, is another miner's or another site's.
    pub fn open_or_adopt(root: &Path, miner: MinerId, agent: &AgentId) -> Result<(Self, bool), StoreError> {
        match Self::open(root) {
            Err(StoreError::Missing { .. })
                if identity_at(root)?.is_none() && root.join(MANIFEST_DIR).is_dir() =>
            {
                expect_manifests_of(root, miner)?;
                Ok((Self::identify(root, miner, agent)?, true))
            }
            opened => {
                let store = opened?;
                store.expect_owner(miner, agent)?;
                Ok((store, false))
            }
        }
    }

    /// Opens the store that another process has open.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreError::Exchanged`] when it is another one.
    pub fn open_same(root: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        let store = Self { identity: identity.clone(), ..Self::open(root)? };
        store.expect_present()?;
        Ok(store)
    }

    fn probe_writable(&self) -> Result<(), StoreError> {
        let probe = self.root.join("attempt").join(format!(".probe-{}", Uuid::new_v4()));
        let made = File::create(&probe).and_then(|_| fs::remove_file(&probe));
        made.map_err(|source| match is_full(&source) {
            true => StoreError::io("write", &probe)(source),
            false => StoreError::ReadOnly { path: self.root.clone(), source },
        })
    }

    /// Whose store it is.
    pub fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// Checks that what lies there now is the store that was opened.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where there is none, as when its file system is not mounted any more;
    /// [`StoreError::Exchanged`] where it is another one.
    pub fn expect_present(&self) -> Result<(), StoreError> {
        let found = identity_at(&self.root)?.ok_or_else(|| without_identity(&self.root))?;
        if found == self.identity {
            return Ok(());
        }
        let (found, expected) = (found.id, self.identity.id);
        Err(StoreError::Exchanged { path: self.root.clone(), found, expected })
    }

    /// Checks whose store it is.
    ///
    /// # Errors
    /// [`StoreError::Foreign`], naming both owners.
    pub fn expect_owner(&self, miner: MinerId, agent: &AgentId) -> Result<(), StoreError> {
        if self.identity.miner == miner && self.identity.agent == *agent {
            return Ok(());
        }
        Err(StoreError::Foreign {
            path: self.root.clone(),
            found: owner(self.identity.miner, &self.identity.agent),
            expected: owner(miner, agent),
        })
    }
}

/// Refuses a directory of manifests in which a sector of another miner is known.
fn expect_manifests_of(root: &Path, miner: MinerId) -> Result<(), StoreError> {
    let dir = root.join(MANIFEST_DIR);
    let ours = format!("s-{miner}-");
    for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
        let name = entry.map_err(StoreError::io("list", &dir))?.file_name().to_string_lossy().into_owned();
        if name.starts_with("s-t0") && name.ends_with(".json") && !name.starts_with(&ours) {
            return Err(StoreError::Foreign {
                path: root.to_owned(),
                found: format!("whoever made {MANIFEST_DIR}/{name}"),
                expected: format!("miner {miner}"),
            });
        }
    }
    Ok(())
}
