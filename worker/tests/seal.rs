//! The `seal` command of the built binary, with real proofs of 2 KiB sectors up to pre-commit 2.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sealfarm_common::crash::CRASH_AT_VARIABLE;
use serde_json::Value;
use tempfile::TempDir;

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// CommR of 2 KiB of zeros, miner 1000, sector 1, ticket of zeros.
const KNOWN_COMM_R: &str = "c647b998c78282296cfd1160714228d43f3b054dfbbb77172b68115ba3c3b762";

fn seal(home: &Path, more: &[&str]) -> Output {
    seal_until(home, more, "")
}

/// Seals until a child kills itself at a crash point.
fn seal_until(home: &Path, more: &[&str], crash_at: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealfarm-worker"))
        .args(["seal", "--miner", "t01000", "--sector", "1", "--ticket", ZEROS, "--zeros", "--json"])
        .args(more)
        .env("XDG_CACHE_HOME", home)
        .env("TMPDIR", home)
        .env(CRASH_AT_VARIABLE, crash_at)
        .env_remove("FIL_PROOFS_PARAMETER_CACHE")
        .env_remove("FIL_PROOFS_PARENT_CACHE")
        .output()
        .unwrap()
}

fn sealed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(output.stdout.is_empty());
}

fn store(home: &TempDir) -> String {
    let store = home.path().join("site");
    fs::create_dir_all(&store).unwrap();
    store.display().to_string()
}

#[test]
fn a_ticket_of_zeros_gives_the_known_comm_r_and_nothing_stays_behind() {
    let home = tempfile::tempdir().unwrap();
    let json = sealed(&seal(home.path(), &["--sector-size", "2KiB", "--until", "pre-commit-2"]));
    assert_eq!(json["comm_r"], KNOWN_COMM_R);
    assert_eq!(json["comm_d"], "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833");
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["sealfarm"], "only the cache stays");
}

#[test]
fn leftovers_of_a_dead_pre_commit_2_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    let site = store(&home);
    let arguments = ["--sector-size", "2KiB", "--until", "pre-commit-2", "--store", &site];
    assert_eq!(sealed(&seal(home.path(), &arguments))["comm_r"], KNOWN_COMM_R);
    // What upstream would trust: trees of full length with nothing in them, and an encoded replica.
    let site = Path::new(&site);
    let manifest = site.join("manifest/s-t01000-1.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let record = known["phases"].as_object_mut().unwrap().remove("pre-commit-2").unwrap();
    fs::write(&manifest, known.to_string()).unwrap();
    for file in record["files"].as_array().unwrap() {
        let path = site.join(file["path"].as_str().unwrap());
        let bytes = fs::metadata(&path).unwrap().len() as usize;
        fs::write(&path, vec![0; bytes]).unwrap();
    }
    let json = sealed(&seal(home.path(), &arguments));
    assert_eq!(json["comm_r"], KNOWN_COMM_R);
    assert_eq!(json["phases"]["pre-commit-1"]["answered"], true);
    assert_eq!(json["phases"]["pre-commit-2"]["answered"], false);
    let again = sealed(&seal(home.path(), &arguments));
    assert_eq!(again["phases"]["pre-commit-2"]["answered"], true);
}

#[test]
fn a_layer_that_was_cut_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let site = store(&home);
    let arguments = ["--sector-size", "2KiB", "--until", "pre-commit-2", "--store", &site];
    sealed(&seal(home.path(), &arguments));
    fs::write(Path::new(&site).join("cache/s-t01000-1/sc-02-data-layer-2.dat"), [0; 2048]).unwrap();
    let json = sealed(&seal(home.path(), &arguments));
    assert_eq!(json["comm_r"], KNOWN_COMM_R);
    assert_eq!(json["phases"]["add-piece"]["answered"], true);
    assert_eq!(json["phases"]["pre-commit-1"]["answered"], false);
}

/// A store whose pre-commit 1 was killed at a crash point, and what to call to go on in it.
struct Killed {
    home: TempDir,
    store: String,
}

impl Killed {
    fn at(point: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let killed = Self { store: store(&home), home };
        killed.die_at(point);
        killed
    }

    fn arguments(&self) -> [&str; 6] {
        ["--sector-size", "2KiB", "--until", "pre-commit-2", "--store", &self.store]
    }

    fn die_at(&self, point: &str) {
        refused(&seal_until(self.home.path(), &self.arguments(), point), 1, "SIGKILL (9)");
    }

    fn layer(&self, layer: u32) -> PathBuf {
        Path::new(&self.store).join(format!("cache/s-t01000-1/sc-02-data-layer-{layer}.dat"))
    }

    /// Seals on, to the known replica; how many layers were not made again.
    fn resumed(&self) -> u64 {
        let json = sealed(&seal(self.home.path(), &self.arguments()));
        assert_eq!(json["comm_r"], KNOWN_COMM_R);
        assert_eq!(json["phases"]["pre-commit-1"]["answered"], false);
        json["phases"]["pre-commit-1"]["resumed_layers"].as_u64().unwrap()
    }
}

#[test]
fn a_killed_pre_commit_1_goes_on_behind_its_last_recorded_layer_to_the_known_comm_r() {
    for (point, layers) in [
        ("worker.layer.linked", 0),
        ("worker.layer.recorded", 1),
        ("worker.layer.linked@2", 1),
        ("worker.layer.recorded@2", 2),
    ] {
        let killed = Killed::at(point);
        let left = fs::read_dir(Path::new(&killed.store).join("attempt")).unwrap().count();
        assert_eq!(left, 0, "{point}");
        assert_eq!(killed.resumed(), layers, "{point}");
    }
}

#[test]
fn a_layer_altered_or_cut_between_two_attempts_is_made_again_and_the_comm_r_is_known() {
    for (harm, harmed, left) in [(vec![7; 2048], 1, 0), (vec![7; 2048], 2, 1), (vec![], 1, 0), (vec![], 2, 1)]
    {
        let killed = Killed::at("worker.layer.recorded@2");
        fs::write(killed.layer(harmed), harm).unwrap();
        // Between what is forgotten and what is deleted it dies again.
        killed.die_at("worker.layer.forgotten");
        assert_eq!(killed.resumed(), left, "layer {harmed}");
    }
}

#[test]
fn layers_recorded_for_another_replica_are_not_gone_on_from() {
    let killed = Killed::at("worker.layer.recorded@2");
    let path = Path::new(&killed.store).join("manifest/s-t01000-1.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["labels"]["replica_id"] = ZEROS.into();
    fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(killed.resumed(), 0);
}

#[test]
fn a_large_tree_with_holes_is_found_by_the_proof_that_fails_and_made_again() {
    let home = tempfile::tempdir().unwrap();
    let site = store(&home);
    let arguments = |until| ["--sector-size", "8MiB", "--until", until, "--store", &site];
    let first = sealed(&seal(home.path(), &arguments("pre-commit-2")));
    let tree = Path::new(&site).join("cache/s-t01000-1/sc-02-data-tree-c.dat");
    let whole = fs::read(&tree).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&tree).unwrap();
    file.set_len(0).unwrap();
    file.set_len(whole.len() as u64).unwrap();
    refused(&seal(home.path(), &arguments("commit-1")), 1, "pre-commit-2 has to be run again");
    let again = sealed(&seal(home.path(), &arguments("commit-1")));
    assert_eq!(
        (&again["comm_r"], &again["phases"]["pre-commit-2"]["answered"]),
        (&first["comm_r"], &false.into())
    );
    assert_eq!(again["phases"]["pre-commit-1"]["answered"], true);
    assert_eq!(again["phases"]["commit-1"]["answered"], false);
    assert!(fs::read(&tree).unwrap() == whole);
}

#[test]
fn an_altered_parents_cache_is_built_again_before_it_spoils_a_replica() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--sector-size", "2KiB", "--until", "pre-commit-2"];
    sealed(&seal(home.path(), &arguments));
    let parents = home.path().join("sealfarm/parents");
    let is_cache = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cache");
    let cache = fs::read_dir(&parents).unwrap().map(|entry| entry.unwrap().path()).find(is_cache).unwrap();
    let whole = fs::read(&cache).unwrap();
    let mut altered = whole.clone();
    altered[1000] ^= 1;
    fs::write(&cache, altered).unwrap();
    let output = seal(home.path(), &arguments);
    assert_eq!(sealed(&output)["comm_r"], KNOWN_COMM_R);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("the parents cache is altered"), "{stderr}");
    assert!(fs::read(&cache).unwrap() == whole);
}

#[test]
fn the_null_prover_has_the_files_and_sizes_of_the_real_one() {
    let home = tempfile::tempdir().unwrap();
    let sizes = |prover: &str| {
        let site = home.path().join(prover);
        fs::create_dir_all(&site).unwrap();
        let site = site.display().to_string();
        let arguments =
            ["--sector-size", "2KiB", "--until", "pre-commit-2", "--store", &site, "--prover", prover];
        sealed(&seal(home.path(), &arguments));
        let manifest = fs::read(Path::new(&site).join("manifest/s-t01000-1.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut files: Vec<(String, u64)> = manifest["phases"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|record| record["files"].as_array().unwrap())
            .map(|file| (file["path"].as_str().unwrap().to_owned(), file["bytes"].as_u64().unwrap()))
            // These hold paths, so their sizes vary.
            .map(|(path, bytes)| {
                (path.clone(), if path.contains("t_aux") || path.contains(".json") { 0 } else { bytes })
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(sizes("null"), sizes("filecoin"));
}

#[test]
fn bad_input_is_refused_before_anything_is_sealed() {
    let home = tempfile::tempdir().unwrap();
    let seal = |more: &[&str]| seal(home.path(), more);
    refused(&seal(&["--sector-size", "16GiB"]), 2, "known sizes are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB");
    refused(&seal(&["--sector-size", "2KiB"]), 9, "sealfarm-worker params generate --sector-size 2KiB");
    let nowhere = home.path().join("nowhere").display().to_string();
    let until = ["--sector-size", "2KiB", "--until", "pre-commit-2", "--store"];
    refused(&seal(&[until.as_slice(), &[&nowhere]].concat()), 8, "no sector store at");
    let output = Command::new(env!("CARGO_BIN_EXE_sealfarm-worker"))
        .args([
            "seal",
            "--miner",
            "f1abc",
            "--sector",
            "1",
            "--ticket",
            ZEROS,
            "--zeros",
            "--sector-size",
            "2KiB",
        ])
        .output()
        .unwrap();
    refused(&output, 2, "f1abc");
}

#[test]
fn parameters_of_real_sectors_are_fetched_and_not_made() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sealfarm-worker"))
        .args(["params", "generate", "--sector-size", "32GiB"])
        .env("XDG_CACHE_HOME", home.path())
        .output()
        .unwrap();
    refused(&output, 3, "fetch");
}
