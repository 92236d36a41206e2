//! `sealfarm-agent store`, with the program itself over a store in which a file was altered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sealfarm_common::commitment::{ReplicaId, Ticket};
use sealfarm_common::job::{Fence, Sealing};
use sealfarm_common::manifest::{FileRecord, Manifest, layer_path};
use sealfarm_common::sector::{MinerId, ProverKind, SectorId, SectorNumber, SectorSize};
use sealfarm_common::store::{Store, digest_of_file};

fn agent(repo: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealfarm-agent"));
    command.env_remove("MINER_ADDR").env_remove("SECTOR_SIZE").env_remove("LOTUS_AGENT_PATH");
    command.arg("--repo").arg(repo).args(arguments).output().unwrap()
}

#[test]
fn a_check_ends_with_code_8_where_a_file_is_not_as_recorded_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("agent");
    let made = agent(&repo, &["init", "--id", "site-1", "--miner", "t01000", "--etcd", "127.0.0.1:1"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let store = Store::open(&repo).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    let path = layer_path(sector, 1);
    let layer = store.root().join(&path);
    fs::create_dir(store.cache(sector)).unwrap();
    fs::write(&layer, [1; 2048]).unwrap();
    let sealing = Sealing {
        proof: SectorSize::KiB2.seal_proof(),
        prover: ProverKind::Filecoin,
        ticket: Ticket([1; 32]),
    };
    let mut manifest = Manifest::new(sector, sealing, Fence(1));
    manifest.replica_id = Some(ReplicaId([1; 32]));
    manifest.set_layers(vec![FileRecord { path, bytes: 2048, sha256: digest_of_file(&layer).unwrap() }]);
    let lock = store.lock_manifest(sector).unwrap();
    store.put_manifest(&lock, &manifest).unwrap();

    let whole = agent(&repo, &["store", "check", "--full", "--json"]);
    assert_eq!(whole.status.code(), Some(0), "{}", String::from_utf8_lossy(&whole.stderr));
    let json: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((&json["files"], &json["bytes"]), (&1.into(), &2048.into()));

    fs::write(&layer, [2; 2048]).unwrap();
    let altered = agent(&repo, &["store", "check", "--sector", "7"]);
    assert_eq!(altered.status.code(), Some(8), "{}", String::from_utf8_lossy(&altered.stderr));
    let said = String::from_utf8_lossy(&altered.stdout);
    assert!(said.contains("sc-02-data-layer-1.dat has SHA-256"), "{said}");
    assert_eq!(fs::read(&layer).unwrap(), [2; 2048]);
    assert_eq!(store.manifest(sector).unwrap(), Some(manifest));
    assert_eq!(agent(&repo, &["store", "check", "--sector", "8"]).status.code(), Some(5));
}
