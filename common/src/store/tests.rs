use std::fs;

use super::*;
use crate::commitment::{ReplicaId, Ticket};
use crate::job::{AgentId, Fence, Sealing};
use crate::manifest::{FileRecord, layer_path};
use crate::sector::{MinerId, SealProof, SectorNumber};

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

#[test]
fn a_store_made_twice_is_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let made = Store::create(&root, MinerId(1000), &agent("a")).unwrap();
    let again = Store::create(&root, MinerId(1000), &agent("a")).unwrap();
    assert_eq!(made.identity(), again.identity());
}

#[test]
fn a_store_of_another_site_is_refused_with_both_owners() {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let error = Store::create(dir.path(), MinerId(1000), &agent("b")).unwrap_err().to_string();
    assert!(error.contains("agent a") && error.contains("agent b"), "{error}");
}

#[test]
fn a_directory_with_other_things_in_it_does_not_become_a_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap_err().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
}

#[test]
fn a_store_is_found_by_its_agents_directory_too() {
    let dir = tempfile::tempdir().unwrap();
    let agent: AgentId = "site-1".parse().unwrap();
    let made = Store::create(&dir.path().join(STORE_DIR), MinerId(1000), &agent).unwrap();
    let found = Store::open(dir.path()).unwrap();
    assert_eq!((found.identity(), found.root()), (made.identity(), made.root()));
}

#[test]
fn an_unmounted_store_is_missing_and_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[test]
fn a_manifest_is_read_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    assert_eq!(store.manifest(sector).unwrap(), None);
    let sealing =
        Sealing { proof: SealProof::StackedDrg2KiBV1_1, prover: ProverKind::Null, ticket: Ticket([1; 32]) };
    let manifest = Manifest::new(sector, sealing, Fence(1));
    let lock = store.lock_manifest(sector).unwrap();
    store.put_manifest(&lock, &manifest).unwrap();
    assert_eq!(store.manifest(sector).unwrap(), Some(manifest.clone()));
    assert_eq!(store.manifests().unwrap(), [manifest]);
}

#[test]
fn a_damaged_manifest_is_named_and_not_taken_for_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    fs::write(dir.path().join("manifest/s-t01000-7.json"), "{").unwrap();
    let error = store.manifest(sector).unwrap_err().to_string();
    assert!(error.contains("s-t01000-7.json is damaged"), "{error}");
}

#[test]
fn a_store_too_small_for_a_sector_says_both_figures() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let needed = SectorSize::GiB64.sealing_bytes(ProverKind::Filecoin);
    if store.free_bytes().unwrap() < needed {
        let error = store.expect_room_for(SectorSize::GiB64, ProverKind::Filecoin).unwrap_err().to_string();
        assert!(error.contains(&needed.to_string()), "{error}");
    }
    store.expect_room_for(SectorSize::KiB2, ProverKind::Filecoin).unwrap();
    // Its large files are sparse: any store will do to rehearse.
    store.expect_room_for(SectorSize::GiB64, ProverKind::Null).unwrap();
}

/// As an unmounted file system: an empty directory where the store was. Gives the way back.
fn taken_away(store: &Store) -> std::path::PathBuf {
    let aside = store.root().with_extension("aside");
    fs::rename(store.root(), &aside).unwrap();
    fs::create_dir(store.root()).unwrap();
    aside
}

#[test]
fn a_store_that_went_away_knows_nothing_instead_of_knowing_no_sectors_and_is_the_same_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    let aside = taken_away(&store);
    let errors = [
        store.manifest(sector).map(drop),
        store.manifests().map(drop),
        store.lock_manifest(sector).map(drop),
        store.free_bytes().map(drop),
        store.lock_for_agent("me").map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("not mounted"), "{error}");
    }
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0, "nothing was made in its place");
    fs::remove_dir(store.root()).unwrap();
    fs::rename(aside, store.root()).unwrap();
    assert_eq!(store.manifest(sector).unwrap(), None);
}

#[test]
fn another_store_in_the_place_of_the_one_that_was_opened_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent("a")).unwrap();
    let aside = taken_away(&store);
    let other = Store::create(store.root(), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    let error = store.manifest(sector).unwrap_err();
    assert!(matches!(error, StoreError::Exchanged { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains(&other.identity().id.to_string()), "{error}");
    let error = Store::open_same(store.root(), store.identity()).unwrap_err();
    assert!(matches!(error, StoreError::Exchanged { .. }), "{error}");
    assert!(Store::open_same(&aside, store.identity()).is_ok());
}

#[test]
fn a_store_has_one_agent_and_another_hears_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let held = store.lock_for_agent("process 7 on host x").unwrap();
    let again = Store::open(dir.path()).unwrap();
    let error = again.lock_for_agent("process 8 on host y").unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("process 7 on host x"), "{error}");
    assert!(held.is_current().unwrap());
    drop(held);
    let held = again.lock_for_agent("8").unwrap();
    fs::remove_file(dir.path().join("sealfarm-agent.lock")).unwrap();
    fs::write(dir.path().join("sealfarm-agent.lock"), "").unwrap();
    assert!(!held.is_current().unwrap(), "the file was replaced");
}

#[test]
fn a_store_of_before_there_were_identities_is_adopted_once_and_an_empty_directory_never() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let adopt = |miner: u64| Store::open_or_adopt(&root, MinerId(miner), &agent("a"));
    assert!(matches!(adopt(1000).unwrap_err(), StoreError::Missing { .. }));
    fs::create_dir_all(root.join("sealed")).unwrap();
    assert!(matches!(adopt(1000).unwrap_err(), StoreError::Missing { .. }));
    fs::create_dir(root.join("manifest")).unwrap();
    fs::write(root.join("manifest/s-t01000-7.json"), "{}").unwrap();
    fs::write(root.join("notes.txt"), "").unwrap();
    assert!(matches!(adopt(1001).unwrap_err(), StoreError::Foreign { .. }));
    let (store, adopted) = adopt(1000).unwrap();
    assert!(adopted);
    let (again, adopted) = adopt(1000).unwrap();
    assert!(!adopted);
    assert_eq!(again.identity(), store.identity());
    assert!(matches!(adopt(1001).unwrap_err(), StoreError::Foreign { .. }));
    fs::write(root.join("sealfarm-store.json"), "{").unwrap();
    let error = adopt(1000).unwrap_err().to_string();
    assert!(error.contains("put it back from a copy"), "{error}");
}

#[test]
fn want_of_room_is_told_from_other_refusals() {
    let no_space = std::io::Error::from_raw_os_error(28);
    let quota = std::io::Error::from_raw_os_error(122);
    let broken = std::io::Error::from_raw_os_error(5);
    let of = |error| StoreError::io("write", Path::new("/x"))(error);
    assert!(matches!(of(no_space), StoreError::Full { .. }));
    assert!(matches!(of(quota), StoreError::Full { .. }));
    assert!(matches!(of(broken), StoreError::Io { .. }));
}

#[test]
fn what_is_set_aside_keeps_its_bytes_and_leaves_nothing_under_the_sectors_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    fs::create_dir(store.cache(sector)).unwrap();
    fs::write(store.cache(sector).join("p_aux"), "p").unwrap();
    fs::write(store.sealed(sector), "replica").unwrap();
    fs::write(dir.path().join("manifest/s-t01000-7.json"), "{}").unwrap();
    let lock = store.lock_manifest(sector).unwrap();
    let first = store.set_aside(&lock, sector).unwrap();
    assert_eq!(fs::read(first.join("sealed")).unwrap(), b"replica");
    assert_eq!(fs::read(first.join("cache/p_aux")).unwrap(), b"p");
    assert_eq!(fs::read(first.join("manifest.json")).unwrap(), b"{}");
    assert!(!store.sealed(sector).exists() && store.manifest(sector).unwrap().is_none());
    fs::write(store.sealed(sector), "another").unwrap();
    let second = store.set_aside(&lock, sector).unwrap();
    assert_ne!(first, second);
    assert_eq!(fs::read(first.join("sealed")).unwrap(), b"replica");
}

#[test]
fn a_check_names_what_is_missing_short_or_altered_and_what_is_on_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
    let sealing = Sealing {
        proof: SealProof::StackedDrg2KiBV1_1,
        prover: ProverKind::Filecoin,
        ticket: Ticket([1; 32]),
    };
    fs::create_dir(store.cache(sector)).unwrap();
    let mut manifest = Manifest::new(sector, sealing, Fence(1));
    manifest.replica_id = Some(ReplicaId([1; 32]));
    let contents = [vec![1; 100], vec![2; 2 << 20], vec![3; 100]];
    let file = |(n, content): (usize, &Vec<u8>)| {
        let path = layer_path(sector, n as u32 + 1);
        fs::write(store.root().join(&path), content).unwrap();
        let sha256 = digest_of_file(&store.root().join(&path)).unwrap();
        FileRecord { path, bytes: content.len() as u64, sha256 }
    };
    manifest.set_layers(contents.iter().enumerate().map(file).collect());
    let found = |full| store.check_sector(&manifest, full).unwrap();
    let whole = found(true);
    assert_eq!((whole.files, whole.bytes, whole.findings.len()), (3, (2 << 20) + 200, 0));
    fs::write(store.cache(sector).join("tree"), "").unwrap();
    fs::write(store.root().join(layer_path(sector, 2)), vec![0; 2 << 20]).unwrap();
    fs::remove_file(store.root().join(layer_path(sector, 3))).unwrap();
    let quick = found(false);
    assert_eq!((quick.files, quick.findings.len()), (2, 1), "a large file is not read: {quick:?}");
    assert!(quick.findings[0].what.contains("layer-3.dat is missing"), "{quick:?}");
    assert_eq!(quick.unrecorded, ["cache/s-t01000-7/tree"]);
    let full = found(true);
    assert!(full.findings[0].what.contains("layer-2.dat has SHA-256"), "{full:?}");
}
