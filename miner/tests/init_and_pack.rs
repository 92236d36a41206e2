//! `sealfarm-miner init` and `pack`, with the program itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sealfarm_common::bundle::Bundle;
use sealfarm_common::sector::{MinerId, SectorSize};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn miner(&self, arguments: &[&str]) -> Output {
        self.miner_with(&[], arguments)
    }

    fn miner_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealfarm-miner"));
        for name in [
            "LOTUS_STORAGE_PATH",
            "LOTUS_PATH",
            "FULLNODE_API_INFO",
            "MINER_ADDR",
            "SECTOR_SIZE",
            "SEALFARM_ETCD_ADDRS",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        command.current_dir(self.dir.path()).arg("--repo").arg(self.path("lotusstorage")).args(arguments);
        command.output().unwrap()
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.miner(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command that must be refused with code 3 and leave everything as it is.
    fn refused(&self, arguments: &[&str], parts: &[&str]) {
        let before = contents(self.dir.path());
        let output = self.miner(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        for part in parts.iter().chain(&["error: ", "next: "]) {
            assert!(said.contains(part), "`{part}` is missing in: {said}");
        }
        assert!(contents(self.dir.path()) == before, "something was written: {said}");
    }
}

/// Every file below a directory with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(contents(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

const INIT: [&str; 9] =
    ["init", "--actor", "t01000", "--sector-size", "2KiB", "--prover", "null", "--etcd", "10.0.0.1:2379"];

#[test]
fn init_makes_a_whole_store_and_a_second_one_changes_nothing() {
    let place = Place::new();
    place.done(&INIT);
    let repo = place.path("lotusstorage");
    for name in ["config.toml", "secret", "token", "api", "hub/hub.conf", "hub/miner.creds"] {
        assert!(repo.join(name).is_file(), "{name}");
    }
    let config = fs::read_to_string(repo.join("config.toml")).unwrap();
    assert!(config.contains("# ") && config.contains("EtcdAddrs = [\"10.0.0.1:2379\"]"), "{config}");
    place.refused(&INIT, &["lotusstorage exists and is not empty"]);
    place.refused(&["init", "--actor", "t02000"], &["lotusstorage exists and is not empty"]);
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_store_for_a_full_nodes_chain_shows_where_its_path_comes_from_and_no_token() {
    let place = Place::new();
    place.done(&[&INIT[..], &["--chain", "lotus", "--network", "devchain-null"]].concat());
    let config = fs::read_to_string(place.path("lotusstorage/config.toml")).unwrap();
    for line in ["Kind = \"lotus\"", "LotusPath = \"~/.lotus\"", "Network = \"devchain-null\""] {
        assert!(config.contains(line), "{line} is missing in: {config}");
    }
    let variables =
        [("LOTUS_PATH", "/data/lotus"), ("FULLNODE_API_INFO", "s3cret:/ip4/127.0.0.1/tcp/1/http")];
    let output = place.miner_with(&variables, &["config", "show", "--json"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let path =
        serde_json::json!({"value": "/data/lotus", "origin": {"from": "environment", "name": "LOTUS_PATH"}});
    assert_eq!(settings["Chain.LotusPath"], path);
    assert_eq!(settings["Chain.ApiInfo"]["origin"]["name"], "FULLNODE_API_INFO");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn init_that_fails_leaves_nothing_half_written() {
    let place = Place::new();
    fs::write(place.path("lotusstorage"), "a file").unwrap();
    let output = place.miner(&INIT);
    assert!(!output.status.success());
    assert_eq!(fs::read(place.path("lotusstorage")).unwrap(), b"a file");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1);
}

#[test]
fn a_store_that_is_an_empty_mount_point_is_filled_in_place() {
    let place = Place::new();
    fs::create_dir(place.path("lotusstorage")).unwrap();
    place.done(&INIT);
    assert!(place.path("lotusstorage/config.toml").is_file());
    let hidden = fs::read_dir(place.path("lotusstorage")).unwrap().map(Result::unwrap);
    assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[test]
fn a_bundle_holds_what_its_agent_needs_and_none_of_the_miners_secrets() {
    let place = Place::new();
    place.done(&INIT);
    place.done(&["pack", "--agent", "site-1", "--hub", "nats://10.0.0.2:4222"]);
    let path = place.path("lotusstorage.cfg.tar.gz");
    let listed = Command::new("tar").arg("tzf").arg(&path).output().unwrap();
    let mut names: Vec<String> =
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["bundle.json", "config.toml", "hub.creds"]);

    let bundle = Bundle::read(&path).unwrap();
    let farm = &bundle.facts().farm;
    assert_eq!((farm.miner, farm.sector_size), (MinerId(1000), SectorSize::KiB2));
    assert!(farm.wallets.worker.is_some() && farm.wallets.owner.is_some());
    let config = String::from_utf8(bundle.file("config.toml").unwrap().to_vec()).unwrap();
    for line in [
        "Id = \"site-1\"",
        "Miner = \"t01000\"",
        "EtcdAddrs = [\"10.0.0.1:2379\"]",
        "Url = \"nats://10.0.0.2:4222\"",
        "Credentials = \"hub.creds\"",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }

    // Every line of the store that looks like a key or a token, but what the bundle is for.
    let mut unpacked = String::new();
    for name in &names {
        unpacked.push_str(&String::from_utf8_lossy(bundle.file(name).unwrap()));
    }
    let mut secrets = 0;
    for (path, bytes) in contents(&place.path("lotusstorage")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for line in text.lines().filter(|line| is_secret(line)) {
            secrets += 1;
            assert!(!unpacked.contains(line.trim()), "{} is in the bundle", path.display());
        }
    }
    assert!(secrets >= 5, "secret, token, and the keys of operator, account and miner: {secrets}");
    assert!(unpacked.contains("BEGIN NATS USER JWT"), "the agent's own credentials");
}

/// A hex secret, a token, an nkey seed or a JWT of the hub's keys.
fn is_secret(line: &str) -> bool {
    let line = line.trim();
    let long = line.len() >= 48;
    let seed = line.starts_with('S') && line.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let hex = line.bytes().all(|b| b.is_ascii_hexdigit());
    long && (seed || hex || line.starts_with("eyJ"))
}

#[test]
fn packing_again_gives_the_agent_the_same_user_and_overwrites_nothing() {
    let place = Place::new();
    place.done(&INIT);
    place.done(&["pack", "--agent", "site-1"]);
    place.refused(&["pack", "--agent", "site-1"], &["lotusstorage.cfg.tar.gz exists already"]);
    place.done(&["agents", "add", "--agent", "site-1", "-o", "again.tar.gz"]);
    place.done(&["pack", "--agent", "site-2", "-o", "other.tar.gz"]);
    let seed = |name: &str| {
        let bundle = Bundle::read(&place.path(name)).unwrap();
        let text = String::from_utf8(bundle.file("hub.creds").unwrap().to_vec()).unwrap();
        text.lines().find(|line| line.starts_with("SU")).unwrap().to_owned()
    };
    assert_eq!(seed("lotusstorage.cfg.tar.gz"), seed("again.tar.gz"));
    assert_ne!(seed("again.tar.gz"), seed("other.tar.gz"));
}

#[test]
fn a_bundle_that_only_this_host_could_use_says_so() {
    let place = Place::new();
    place.done(&INIT);
    let output = place.miner(&["pack", "--agent", "site-1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("the hub is nats://127.0.0.1:4222 in this bundle") && said.contains("--hub"),
        "{said}"
    );
    assert!(!said.contains("etcd is"), "{said}");
}

#[test]
fn a_bundle_tells_a_hub_of_this_host_with_the_advertised_address() {
    let place = Place::new();
    let init = ["init", "--actor", "t01000", "--sector-size", "2KiB", "--serve-ip", "10.0.0.2"];
    place.done(&[&init[..], &["--etcd", "10.0.0.2:2379"]].concat());
    let packed = place.miner(&["pack", "--agent", "site-1"]);
    let said = String::from_utf8_lossy(&packed.stderr).into_owned();
    assert!(packed.status.success() && !said.contains("this host only"), "{said}");
    let bundle = Bundle::read(&place.path("lotusstorage.cfg.tar.gz")).unwrap();
    let config = String::from_utf8(bundle.file("config.toml").unwrap().to_vec()).unwrap();
    assert!(config.contains("Url = \"nats://10.0.0.2:4222\""), "{config}");
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_before_anything_is_connected() {
    let place = Place::new();
    place.done(&INIT);
    let config = place.path("lotusstorage/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let check = |old: &str, new: &str, parts: &[&str]| {
        fs::write(&config, text.replace(old, new)).unwrap();
        place.refused(&["run"], parts);
    };
    let etcd = "EtcdAddrs = [\"10.0.0.1:2379\"]";
    check(
        etcd,
        "EtcdAddrs = []",
        &["client: no endpoints available", "[SealAgent] EtcdAddrs", "config.toml"],
    );
    let mistyped = "EtcdAddrs = [\"218.78,187.146:2379\"]";
    check(etcd, mistyped, &["at character 7", "    218.78,187.146:2379\n          ^\n"]);
    let nearest = "the nearest known one is `SealAgent.ServePort`";
    check("ServePort =", "ServPort =", &["line ", "`SealAgent.ServPort`", nearest]);
}

#[test]
fn help_shows_the_order_of_steps() {
    let place = Place::new();
    for command in ["init", "pack", "run"] {
        let output = place.miner(&[command, "--help"]);
        let said = String::from_utf8_lossy(&output.stdout);
        let said = &said[said.find("Order of steps").unwrap()..];
        let at = |step: &str| said.find(step).unwrap_or_else(|| panic!("{command}: no `{step}` in {said}"));
        let steps = [
            "sealfarm-miner init",
            "sealfarm-miner run",
            "sealfarm-miner pack",
            "sealfarm-agent init --bundle",
            "sealfarm-agent run",
            "sealfarm-worker run",
        ];
        let places: Vec<usize> = steps.iter().map(|step| at(step)).collect();
        assert!(places.is_sorted(), "{command}: {said}");
    }
}
