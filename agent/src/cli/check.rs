//! `sealfarm-agent store check`: whether the store holds what its manifests say. It reads the store itself,
//! so the agent need not run, and may.

use std::path::Path;

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::store::{Checked, Store};

use super::{config, print_json};
use crate::api::store_error;
use crate::settings;

/// How much is read.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Reads every file whole and compares its SHA-256: about a second for 2 GB of a fast disk.
    #[arg(long)]
    full: bool,
    /// Only this sector.
    #[arg(long, value_name = "NUMBER")]
    sector: Option<SectorNumber>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Prints what is wrong; with exit code 8 where anything is.
pub(super) fn run(repo: &Path, args: &CheckArgs) -> Result<(), ExitError> {
    let settings = settings::load(repo).map_err(config::refused)?.value;
    let store = Store::open(&settings.store_path(repo)).map_err(store_error)?;
    let mut manifests = store.manifests().map_err(store_error)?;
    manifests.retain(|manifest| args.sector.is_none_or(|number| manifest.sector.number == number));
    manifests.sort_by_key(|manifest| manifest.sector.number);
    if let (Some(number), true) = (args.sector, manifests.is_empty()) {
        return Err(ExitError::new(ExitCode::NotFound, format!("the store knows no sector {number}")));
    }
    let mut all = Checked::default();
    for manifest in &manifests {
        let Checked { files, bytes, findings, unrecorded } =
            store.check_sector(manifest, args.full).map_err(store_error)?;
        all.files += files;
        all.bytes += bytes;
        all.findings.extend(findings);
        all.unrecorded.extend(unrecorded);
    }
    if args.json {
        print_json(&all)?;
    } else {
        for finding in &all.findings {
            sealfarm_common::outln!("{}: {}", finding.sector, finding.what);
        }
        for path in &all.unrecorded {
            sealfarm_common::outln!(
                "{path} is on no record: a leftover, or of an attempt that ends just now"
            );
        }
    }
    let (sectors, files, bytes) = (manifests.len(), all.files, all.bytes);
    sealfarm_common::errln!("{sectors} sectors: {files} files of {bytes} bytes are as recorded");
    match all.findings.len() {
        0 => Ok(()),
        found => Err(ExitError::new(ExitCode::Store, format!("{found} files are not as recorded")).next(
            "nothing was changed: phases that need such a file run again by themselves; look at the disk",
        )),
    }
}
