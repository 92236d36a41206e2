use std::time::Duration;

use expect_test::{Expect, expect};
use serde::Deserialize;

use super::*;
use crate::sector::SectorSize;

const KEYS: &[Key] = &[
    Key::new("SectorSize").variable("SECTOR_SIZE"),
    Key::new("DeadAfter"),
    Key::new("SealAgent.EtcdAddrs").variable("ETCD_ADDRS").list(),
    Key::new("SealAgent.ServeIP"),
    Key::new("SealAgent.ServePort").variable("SERVE_PORT"),
    Key::new("API.ListenAddress"),
    Key::new("API.Token").variable("API_TOKEN").secret(),
];

const DEFAULTS: &str = r#"
# How large the sectors are.
SectorSize = "32GiB"
DeadAfter = "30m"

[SealAgent]
EtcdAddrs = []
ServeIP = "127.0.0.1"
ServePort = 40001

[API]
ListenAddress = "/ip4/127.0.0.1/tcp/23456/http"
Token = ""
"#;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sample {
    sector_size: SectorSize,
    #[serde(with = "duration_text")]
    dead_after: Duration,
    seal_agent: SealAgentSection,
    #[serde(rename = "API")]
    api: ApiSection,
}

fn load(
    file: &str,
    environment: &[(&str, &str)],
    port: Option<u32>,
) -> Result<Loaded<Sample>, ConfigurationError> {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    Loader::new(KEYS, DEFAULTS)
        .file(&path)
        .environment(move |name| environment.get(name).cloned())
        .flag("SealAgent.ServePort", port)
        .load()
}

fn check_error(file: &str, environment: &[(&str, &str)], expected: Expect) {
    let error = load(file, environment, None).unwrap_err();
    // The file stands in a directory of a random name: only its own is compared.
    let shown = error.to_string();
    let words = shown.split(' ').map(|word| match word.rfind("/config.toml") {
        Some(slash) => format!("{}{}", if word.starts_with('(') { "(" } else { "" }, &word[slash + 1..]),
        None => word.to_owned(),
    });
    let shown = words.collect::<Vec<_>>().join(" ");
    expected.assert_eq(&shown);
}

#[test]
fn each_layer_beats_the_one_below_and_every_value_knows_its_origin() {
    let file = "DeadAfter = '5m'\n[SealAgent]\nEtcdAddrs = ['a:2379', 'b:2379']\nServePort = 1\n";
    let environment = [("SECTOR_SIZE", "2KiB"), ("SERVE_PORT", "2"), ("API_TOKEN", "s3cret")];
    let loaded = load(file, &environment, Some(3)).unwrap();
    assert_eq!(loaded.value.sector_size, SectorSize::KiB2);
    assert_eq!(loaded.value.dead_after, Duration::from_secs(300));
    assert_eq!(loaded.value.seal_agent.etcd_addrs, ["a:2379", "b:2379"]);
    assert_eq!(loaded.value.seal_agent.serve_port, 3);
    assert_eq!(loaded.value.api.listen_address.socket_addr().unwrap().port(), 23456);

    let path = loaded.file.unwrap().display().to_string();
    let shown: Vec<String> = loaded
        .settings
        .iter()
        .map(|(key, setting)| {
            format!("{key} = {} # {}", setting.value, setting.origin).replace(&path, "config.toml")
        })
        .collect();
    expect![[r#"
        API.ListenAddress = "/ip4/127.0.0.1/tcp/23456/http" # default
        API.Token = "set" # environment API_TOKEN
        DeadAfter = "5m" # file config.toml
        SealAgent.EtcdAddrs = ["a:2379","b:2379"] # file config.toml
        SealAgent.ServeIP = "127.0.0.1" # default
        SealAgent.ServePort = "3" # flag
        SectorSize = "2KiB" # environment SECTOR_SIZE"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn a_refused_value_is_blamed_on_the_variable_that_set_it_and_not_on_the_file() {
    let file = "[SealAgent]\nEtcdAddrs = ['a:2379']\nServeIP = '0.0.0.0'\n";
    let loaded = load(file, &[("ETCD_ADDRS", "218.78,187.146:2379")], None).unwrap();
    let path = loaded.file.clone();
    let error = loaded.value.seal_agent.endpoints(path.as_deref()).unwrap_err();
    let shown = loaded.blame(error).to_string();
    assert!(shown.starts_with("[SealAgent] EtcdAddrs in environment ETCD_ADDRS: `218.78`"), "{shown}");
    let error = loaded.value.seal_agent.serve_addresses(path.as_deref()).unwrap_err();
    assert!(loaded.blame(error).to_string().contains("config.toml"), "the file has set this one");
}

#[test]
fn a_list_in_the_environment_is_split_at_commas_and_an_empty_variable_is_none() {
    let loaded = load("", &[("ETCD_ADDRS", "a:1, b:2"), ("SECTOR_SIZE", "")], None).unwrap();
    assert_eq!(loaded.value.seal_agent.etcd_addrs, ["a:1", "b:2"]);
    assert_eq!(loaded.settings["SectorSize"].origin, Origin::Default);
    assert_eq!(loaded.settings["API.Token"].value, "unset");
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_known_one() {
    check_error(
        "[SealAgent]\nEtcdAddr = ['a:1']\n",
        &[],
        expect![
            "config.toml: line 2: unknown key `SealAgent.EtcdAddr`; the nearest known one is `SealAgent.EtcdAddrs`"
        ],
    );
    check_error(
        "[sealagent]\nserveip = '10.0.0.1'\n",
        &[],
        expect![
            "config.toml: line 2: unknown key `sealagent.serveip`; the nearest known one is `SealAgent.ServeIP`"
        ],
    );
}

#[test]
fn what_is_wrong_is_said_with_key_value_and_origin() {
    check_error(
        "[SealAgent]\nServePort = 'x'\n",
        &[],
        expect![[
            r#"configuration key `SealAgent.ServePort` (file config.toml): string "x" was given where an integer is expected"#
        ]],
    );
    check_error(
        "[SealAgent]\nServePort = 70000\n",
        &[],
        expect![
            "configuration key `SealAgent.ServePort` (file config.toml): 64-bit unsigned integer `70000` was given where an unsigned 16 bit integer is expected"
        ],
    );
    check_error(
        "[SealAgent]\nServeIP = 'here'\n",
        &[],
        expect![
            "configuration key `SealAgent.ServeIP` (file config.toml): `here`: invalid IP address syntax"
        ],
    );
    check_error(
        "[SealAgent]\nEtcdAddrs = 'a:1'\n",
        &[],
        expect![[
            r#"configuration key `SealAgent.EtcdAddrs` (file config.toml): invalid type: string "a:1", expected a sequence"#
        ]],
    );
    check_error(
        "",
        &[("SECTOR_SIZE", "16GiB")],
        expect![
            "configuration key `SectorSize` (environment SECTOR_SIZE): unknown sector size `16GiB`: known sizes are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB"
        ],
    );
    check_error(
        "DeadAfter = 'soon'\n",
        &[],
        expect![
            "configuration key `DeadAfter` (file config.toml): `soon` is not a duration such as 30s or 5m: expected number at 0"
        ],
    );
    check_error(
        "[API]\nListenAddress = '127.0.0.1:80'\n",
        &[],
        expect![
            "configuration key `API.ListenAddress` (file config.toml): `127.0.0.1:80` is not an API address: it is neither a multiaddr nor a URL; it looks like /ip4/127.0.0.1/tcp/23456/http"
        ],
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_at_its_line_and_column() {
    check_error(
        "[SealAgent]\nServePort = = 3\n",
        &[],
        expect!["config.toml: line 2, column 13: extra `=`, expected nothing"],
    );
}

#[test]
fn a_file_that_must_exist_is_named_when_it_does_not() {
    let load = |loader: Loader<'_>| loader.load::<Sample>();
    let error = load(Loader::new(KEYS, DEFAULTS).file("/nowhere/config.toml")).unwrap_err();
    assert!(
        error.to_string().starts_with("configuration file /nowhere/config.toml cannot be read"),
        "{error}"
    );
    let loaded = load(Loader::new(KEYS, DEFAULTS).file_if_present("/nowhere/config.toml")).unwrap();
    assert_eq!(loaded.file, None);
}

#[test]
fn a_key_without_a_default_that_is_not_set_is_named_with_the_places_to_set_it() {
    let error = Loader::new(KEYS, "DeadAfter = '5m'").load::<Sample>().unwrap_err();
    assert!(matches!(&error, ConfigurationError::Missing { key, .. } if key == "SectorSize"), "{error}");
    assert_eq!(error.next_step().unwrap(), "set it in the environment variable SECTOR_SIZE");
}
