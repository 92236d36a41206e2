//! The layers of a pre-commit 1 that has not ended: on record as each is whole, so that the next attempt
//! goes on behind the last one, whoever makes it.
//!
//! A layer is fsynced and digested, then, under the manifest's lock, linked into the store and recorded.
//! A link is a second name of the same file, so it costs no room. Upstream trusts a layer by its size;
//! here it is read and compared with its digest first, and the first that is not what was recorded is
//! deleted with all behind it.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::Failure;
use sealfarm_common::manifest::{FileRecord, Manifest, layer_path};
use sealfarm_common::store::{Store, StoreError, digest_all, sync_directory_of};
use sealfarm_common::task::{Task, TaskKind};

use super::attempt_dir::AttemptDir;
use super::{Attempt, inputs, io_failure, publish, store_failure};
use crate::prover::MadeFile;

/// The layers an attempt has, its own and those it found.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// How many were there before it began.
    resumed: usize,
    /// All of them so far, from layer 1; `None` once they are not to be recorded any more.
    known: Mutex<Option<Vec<FileRecord>>>,
}

impl Layers {
    fn known(&self) -> std::sync::MutexGuard<'_, Option<Vec<FileRecord>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many an earlier attempt had made.
    pub(super) fn resumed(&self) -> u32 {
        u32::try_from(self.resumed).unwrap_or(u32::MAX)
    }

    /// What is known of a file of this attempt without reading it again.
    pub(super) fn record_of(&self, path: &str) -> Option<FileRecord> {
        self.known().iter().flatten().find(|file| file.path == path).cloned()
    }
}

/// Proves the layers that are on record and links them into the attempt's directory, where upstream finds
/// them; deletes those that do not prove, and all behind them.
pub(super) fn resume(
    store: &Store,
    task: &Task,
    manifest: Option<&Manifest>,
    dir: &AttemptDir,
    crash: &CrashPoints,
) -> Result<Layers, Failure> {
    let recorded = match manifest {
        Some(manifest) if task.task == TaskKind::PreCommit1 => manifest.layers(&task.job),
        _ => return Ok(Layers::default()),
    };
    let up_to = digest_all(task.job.ask.sealing().prover);
    let broken: Vec<Option<String>> =
        recorded.par_iter().map(|file| inputs::broken(store, file, up_to)).collect::<Result<_, _>>()?;
    let mut proven = broken.iter().take_while(|broken| broken.is_none()).count();
    if let Some(Some(broken)) = broken.get(proven) {
        let layer = proven + 1;
        tracing::warn!(sector = %task.job.sector, layer, "{broken}; making this layer and all behind it again");
        forget_behind(store, task, recorded, proven, crash)?;
    }
    for (index, file) in recorded[..proven].iter().enumerate() {
        let (from, to) = (store.root().join(&file.path), dir.path().join(&file.path));
        if let Err(error) = fs::hard_link(&from, &to) {
            tracing::warn!(path = %from.display(), %error, "a finished layer cannot be linked; making it again");
            proven = index;
            break;
        }
    }
    if proven > 0 {
        tracing::info!(sector = %task.job.sector, layer = proven + 1, "pre-commit 1 goes on behind the layers of an earlier attempt");
    }
    Ok(Layers { resumed: proven, known: Mutex::new(Some(recorded[..proven].to_vec())) })
}

/// Takes `recorded` from behind the `proven` first of them off the record, and their files away; where
/// others have put other layers on record meanwhile, nothing.
fn forget_behind(
    store: &Store,
    task: &Task,
    recorded: &[FileRecord],
    proven: usize,
    crash: &CrashPoints,
) -> Result<(), Failure> {
    let lock = store.lock_manifest(task.job.sector).map_err(|e| store_failure(&e))?;
    let Some(mut manifest) = store.manifest(task.job.sector).map_err(|e| store_failure(&e))? else {
        return Ok(());
    };
    let now = manifest.layers(&task.job);
    if !now.starts_with(recorded) {
        return Ok(());
    }
    let unproven = now[proven..].to_vec();
    manifest.set_layers(recorded[..proven].to_vec());
    store.put_manifest(&lock, &manifest).map_err(|e| store_failure(&e))?;
    crash.pass("worker.layer.forgotten");
    for file in unproven {
        let path = store.root().join(&file.path);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_failure("remove", &path, &e)),
            _ => {}
        }
    }
    Ok(())
}

impl Attempt {
    /// How many layers an earlier attempt had made, and this one has.
    pub fn resumed_layers(&self) -> u32 {
        self.layers.resumed()
    }

    /// The next layer is whole: it is put on record. Where that fails the phase goes on, and more of it
    /// would be lost with it.
    pub(crate) fn keep_layer(&self, made: &MadeFile) {
        let mut known = self.layers.known();
        let Some(layers) = known.as_mut() else { return };
        let record = match publish::secure_one(self.dir.path(), made) {
            Ok(record) if record.path == layer_path(self.task.job.sector, layers.len() as u32 + 1) => record,
            Ok(record) => {
                tracing::warn!(
                    path = record.path,
                    "not the layer that was to come next; no more are recorded"
                );
                *known = None;
                return;
            }
            Err(failure) => {
                tracing::warn!(%failure, "a finished layer is not recorded");
                *known = None;
                return;
            }
        };
        layers.push(record);
        if let Err(failure) = self.put_layers(layers) {
            tracing::warn!(%failure, layer = layers.len(), "a finished layer is not recorded; the next one is tried with it");
        }
    }

    /// Links those of `layers` into the store that it does not have, and records them.
    fn put_layers(&self, layers: &[FileRecord]) -> Result<(), Failure> {
        let (store, job) = (&self.store, &self.task.job);
        let lock = store.lock_manifest(job.sector).map_err(|e| store_failure(&e))?;
        let mut manifest = publish::manifest_now(self)?;
        publish::same_inputs(self, &manifest)?;
        if manifest.answer(job, TaskKind::PreCommit1).is_some() {
            // Another attempt was faster; this one will hear of it.
            return Ok(());
        }
        let there = manifest.layers(job);
        if there.starts_with(layers) {
            return Ok(());
        }
        if !layers.starts_with(there) {
            let differs = there.iter().zip(layers).take_while(|(there, ours)| there == ours).count() + 1;
            return Err(publish::differ(self, &format!("layer {differs}")));
        }
        for file in &layers[there.len()..] {
            self.link(file).map_err(|e| store_failure(&e))?;
        }
        self.crash.pass("worker.layer.linked");
        manifest.set_layers(layers.to_vec());
        store.put_manifest(&lock, &manifest).map_err(|e| store_failure(&e))?;
        self.crash.pass("worker.layer.recorded");
        Ok(())
    }

    /// Gives a file of this attempt its name in the store too, durably.
    fn link(&self, file: &FileRecord) -> Result<(), StoreError> {
        let to = self.store.root().join(&file.path);
        if let Some(directory) = to.parent().filter(|directory| !directory.is_dir()) {
            fs::create_dir_all(directory).map_err(StoreError::io("make the directory of", &to))?;
            sync_directory_of(directory)?;
        }
        match fs::remove_file(&to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("remove", &to)(e)),
            _ => {}
        }
        fs::hard_link(self.dir.path().join(&file.path), &to)
            .map_err(StoreError::io("link a layer to", &to))?;
        sync_directory_of(&to)
    }
}
