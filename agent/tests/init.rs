//! `sealfarm-agent init` and what it refuses, with the program itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sealfarm_common::address::ActorAddress;
use sealfarm_common::bundle::{AGENT_CONFIG, Bundle, BundleFacts};
use sealfarm_common::configuration::template::{filled, quoted};
use sealfarm_common::membership::{FarmInfo, Wallets};
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

/// An agent's directory-to-be, and a bundle beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("agentstorage")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn agent(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealfarm-agent"));
        for name in ["LOTUS_AGENT_PATH", "MINER_ADDR", "SECTOR_SIZE", "SEALFARM_ETCD_ADDRS", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied()).arg("--repo").arg(self.repo()).args(arguments);
        command.output().unwrap()
    }

    /// Runs a command that must be refused with code 3 or 6 and leave everything as it is.
    fn refused(&self, environment: &[(&str, &str)], arguments: &[&str], parts: &[&str]) {
        let before = contents(self.dir.path());
        let output = self.agent(environment, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(3 | 6)), "{said}");
        for part in parts.iter().chain(&["error: ", "next: "]) {
            assert!(said.contains(part), "`{part}` is missing in: {said}");
        }
        assert!(contents(self.dir.path()) == before, "something was written: {said}");
    }

    fn initialised(&self, environment: &[(&str, &str)], arguments: &[&str]) {
        let output = self.agent(environment, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Every file below a directory with its content; of a directory, its name.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(contents(&entry.path()));
            found.insert(entry.path(), Vec::new());
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn wallets() -> Wallets {
    let wallet = |byte| Some(ActorAddress::of_bls_key(&[byte; 48]));
    Wallets { owner: wallet(1), worker: wallet(2) }
}

/// What `sealfarm-miner pack` would make, with nobody's credentials and nobody's etcd.
fn bundle(miner: u64, sector_size: SectorSize) -> Bundle {
    let farm = FarmInfo::new(MinerId(miner), sector_size, ProverKind::Null).with_wallets(wallets());
    let facts = BundleFacts::new("site-1".parse().unwrap(), farm, "2026-11-22T10:00:00Z".parse().unwrap());
    let values = [
        ("Agent", "Id", quoted("site-1")),
        ("Farm", "Miner", quoted(&MinerId(miner).to_string())),
        ("SealAgent", "EtcdAddrs", "[\"127.0.0.1:1\"]".to_owned()),
        ("Hub", "Credentials", quoted("hub.creds")),
    ];
    Bundle::new(facts, filled(AGENT_CONFIG, &values), Some("the hub's\n".into()))
}

fn packed(miner: u64, sector_size: SectorSize) -> Vec<u8> {
    bundle(miner, sector_size).pack().unwrap()
}

#[test]
fn a_bundle_becomes_a_repository_with_a_store_a_token_and_a_commented_configuration() {
    let place = Place::new();
    let file = place.file("lotusstorage.cfg.tar.gz", &packed(1000, SectorSize::KiB2));
    place.initialised(&[], &["init", "--bundle", &file, "--serve-ip", "10.1.2.3"]);
    for name in ["config.toml", "bundle.json", "hub.creds", "token", "api", "store/sealfarm-store.json"] {
        assert!(place.repo().join(name).is_file(), "{name}");
    }
    let config = fs::read_to_string(place.repo().join("config.toml")).unwrap();
    assert!(config.contains("Id = \"site-1\"") && config.contains("ServeIP = \"10.1.2.3\""), "{config}");
    assert_eq!(config.matches('#').count(), AGENT_CONFIG.matches('#').count());

    let shown = place.agent(&[("SEALFARM_SERVE_PORT", "41000")], &["config", "show", "--etcd", "e:2379"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for (key, value, from) in [
        ("SealAgent.ServePort", "41000", "environment SEALFARM_SERVE_PORT"),
        ("SealAgent.EtcdAddrs", "e:2379", "flag"),
        ("Site.Url", "nats://127.0.0.1:4223", "file "),
    ] {
        let line = shown.lines().find(|line| line.contains(key)).unwrap_or_default();
        assert!(line.contains(value) && line.contains(from), "{key}: {shown}");
    }
}

#[test]
fn a_second_init_is_refused_whoever_the_new_agent_would_be() {
    let place = Place::new();
    let mine = place.file("mine.tar.gz", &packed(1000, SectorSize::KiB2));
    let anothers = place.file("anothers.tar.gz", &packed(2000, SectorSize::KiB2));
    let larger = place.file("larger.tar.gz", &packed(1000, SectorSize::GiB32));
    place.initialised(&[], &["init", "--bundle", &mine]);
    let nothing = "nothing was overwritten";
    place.refused(&[], &["init", "--bundle", &mine], &["exists already", nothing]);
    place.refused(&[], &["init", "--bundle", &anothers], &["t01000", "t02000", nothing]);
    place.refused(&[], &["init", "--bundle", &larger], &["2KiB", "32GiB", nothing]);
    let flags = ["init", "--id", "site-2", "--miner", "t02000"];
    place.refused(&[], &flags, &["site-1 of miner t01000", "site-2 of miner t02000", nothing]);
}

#[test]
fn a_damaged_truncated_or_strange_archive_leaves_nothing() {
    let place = Place::new();
    let good = packed(1000, SectorSize::KiB2);
    let cut = place.file("cut.tar.gz", &good[..good.len() / 2]);
    place.refused(
        &[],
        &["init", "--bundle", &cut],
        &["cut.tar.gz", "damaged, truncated", "nothing was unpacked"],
    );
    let other = place.file("other.tar.gz", b"not an archive");
    place.refused(&[], &["init", "--bundle", &other], &["other.tar.gz", "damaged, truncated"]);
    place.refused(&[], &["init", "--bundle", "/nowhere/x.tar.gz"], &["/nowhere/x.tar.gz"]);
    assert!(!place.repo().exists());

    // Archives as tar writes them: a path that climbs out, an absolute one, a link.
    let inside = place.dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(place.dir.path().join("outside"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inside.join("hub.creds")).unwrap();
    let absolute = place.dir.path().join("outside").display().to_string();
    for (name, member, part) in [
        ("climbs.tar.gz", "../outside", "climbs out"),
        ("absolute.tar.gz", &absolute, "an absolute path"),
        ("link.tar.gz", "hub.creds", "a link"),
    ] {
        let archive = place.dir.path().join(name).display().to_string();
        let tar = Command::new("tar").args(["czPf", &archive, "-C"]).arg(&inside).arg(member).status();
        assert!(tar.unwrap().success());
        place.refused(&[], &["init", "--bundle", &archive], &[name, member, part]);
    }
}

#[test]
fn flags_and_environment_must_agree_with_the_bundle() {
    let place = Place::new();
    let file = place.file("b.tar.gz", &packed(1000, SectorSize::KiB2));
    let init = ["init", "--bundle", &file];
    place.refused(&[("MINER_ADDR", "t02000")], &init, &["t01000", "t02000", "MINER_ADDR"]);
    place.refused(&[("SECTOR_SIZE", "32GiB")], &init, &["2KiB", "32GiB", "SECTOR_SIZE"]);
    place.refused(&[], &["init", "--bundle", &file, "--id", "site-9"], &["site-1", "site-9"]);
    let stranger = ActorAddress::of_bls_key(&[9; 48]).to_string();
    place.refused(&[("MINER_ADDR", &stranger)], &init, &["t01000", &stranger]);
    let worker = wallets().worker.unwrap().to_string();
    place.initialised(&[("MINER_ADDR", &worker), ("SECTOR_SIZE", "2048")], &init);
}

#[test]
fn a_store_of_another_miner_is_not_taken_over() {
    let place = Place::new();
    let mine = place.file("mine.tar.gz", &packed(1000, SectorSize::KiB2));
    let store = place.dir.path().join("sectors").display().to_string();
    place.initialised(&[], &["init", "--bundle", &mine, "--store", &store]);
    let (other, anothers) = (Place::new(), packed(2000, SectorSize::KiB2));
    let file = other.file("b.tar.gz", &anothers);
    let output = other.agent(&[], &["init", "--bundle", &file, "--store", &store]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(said.contains("t01000") && said.contains("t02000"), "{said}");
    assert!(!other.repo().exists(), "{said}");
}

#[test]
fn a_bundle_unpacked_by_hand_is_completed_at_the_first_run() {
    let place = Place::new();
    let file = place.file("b.tar.gz", &packed(1000, SectorSize::KiB2));
    fs::create_dir(place.repo()).unwrap();
    let tar = Command::new("tar").args(["xzf", &file, "-C"]).arg(place.repo()).status();
    assert!(tar.unwrap().success());
    // Nobody answers at the bundle's etcd: it gets that far and no further.
    let output =
        place.agent(&[], &["run", "--serve-port", "47321", "--api", "/ip4/127.0.0.1/tcp/47320/http"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(4 | 7)), "{said}");
    for name in ["store/sealfarm-store.json", "token"] {
        assert!(place.repo().join(name).is_file(), "{name}: {said}");
    }
    let init = ["init", "--bundle", &file];
    place.refused(&[], &init, &["exists already", "sealfarm-agent run"]);
}

#[test]
fn a_configuration_edited_to_another_miner_does_not_fit_the_bundle_beside_it() {
    let place = Place::new();
    let file = place.file("b.tar.gz", &packed(1000, SectorSize::KiB2));
    place.initialised(&[], &["init", "--bundle", &file]);
    place.refused(&[("MINER_ADDR", "t02000")], &["run"], &["t02000", "t01000", "config.toml"]);
}

#[test]
fn what_is_wrong_with_etcd_and_the_address_is_said_in_the_words_operators_know() {
    let place = Place::new();
    let file = place.file("b.tar.gz", &packed(1000, SectorSize::KiB2));
    place.initialised(&[], &["init", "--bundle", &file]);
    let config = place.repo().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let check = |old: &str, new: &str, parts: &[&str]| {
        fs::write(&config, text.replace(old, new)).unwrap();
        place.refused(&[], &["run"], parts);
    };
    let etcd = "EtcdAddrs = [\"127.0.0.1:1\"]";
    check(
        etcd,
        "EtcdAddrs = []",
        &["client: no endpoints available", "[SealAgent] EtcdAddrs", "config.toml"],
    );
    let mistyped = "EtcdAddrs = [\"218.78,187.146:2379\"]";
    check(etcd, mistyped, &["at character 7", "    218.78,187.146:2379\n          ^\n"]);
    let nearest = "the nearest known one is `SealAgent.EtcdAddrs`";
    check("EtcdAddrs =", "EtcdAddr =", &["line ", "`SealAgent.EtcdAddr`", nearest]);
    check("ServeIP = \"127.0.0.1\"", "ServeIP = \"0.0.0.0\"", &["`0.0.0.0`", "no address others can reach"]);
}
