//! What an operator can get wrong before a process serves: each is refused by the real binary with the
//! value, the reason and an exit code, and nothing is left half written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use sealfarm_common::configuration::endpoints;
use sealfarm_common::etcd::Etcd as EtcdClient;
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_common::store::Store;
use sealfarm_tests::harness::{Etcd, Finished, Ground, NatsServer, PortBlock, ports};
use xtask::{command, farm};

/// The longest a refusal may take: a server is tried for ten seconds, a farm is waited for for thirty.
const LIMIT: Duration = Duration::from_secs(60);
const MINER: MinerId = MinerId(1000);

/// Exit codes, as docs/operate.md lists them.
const USAGE: i32 = 2;
const BAD_INPUT: i32 = 3;
const UNREACHABLE: i32 = 4;
const REFUSED: i32 = 6;
const PORT_IN_USE: i32 = 7;
const STORE: i32 = 8;
const PARAMETERS: i32 = 9;

/// A directory, and a command of one of the farm's binaries in it.
struct Place {
    ground: Ground,
    claimed: Mutex<Vec<PortBlock>>,
}

impl Place {
    fn new(name: &str) -> Self {
        Self { ground: Ground::new(name).unwrap(), claimed: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ground.scratch().path().join(name)
    }

    /// The first of some ports that stay free of others for as long as the place lives.
    fn ports(&self, offsets: &[u16]) -> u16 {
        let block = ports::claim(offsets).unwrap();
        let base = block.base();
        self.claimed.lock().unwrap().push(block);
        base
    }

    /// Somewhere nobody listens.
    fn nobody(&self) -> String {
        format!("127.0.0.1:{}", self.ports(&[0]))
    }

    fn command(&self, binary: &str, repo: &Path, arguments: &[&str]) -> Command {
        let mut command = farm::command(binary).unwrap();
        command.arg("--repo").arg(repo).args(arguments);
        command
    }

    /// Makes a miner's repository; `arguments` beat what is usual.
    fn init_miner(&self, name: &str, etcd: &str, nats: &str, arguments: &[&str]) -> PathBuf {
        let repo = self.path(name);
        let base = self.ports(&[0, 1, 2, 101]);
        let (api, serve) = (format!("/ip4/127.0.0.1/tcp/{base}/http"), (base + 1).to_string());
        let usual = ["init", "--actor", "t01000", "--sector-size", "2KiB", "--etcd", etcd, "--nats", nats];
        let mut init = self.command("sealfarm-miner", &repo, &usual);
        init.args(["--api", &api, "--serve-port", &serve]).args(arguments);
        command::read(&mut init, LIMIT).unwrap().success().unwrap();
        repo
    }

    /// Makes an agent's repository with its store inside.
    fn init_agent(&self, name: &str, etcd: &str, hub: &str, site: &str) -> PathBuf {
        let repo = self.path(name);
        let base = self.ports(&[0, 1, 2, 101]);
        let (api, serve) = (format!("/ip4/127.0.0.1/tcp/{base}/http"), (base + 1).to_string());
        let usual = ["init", "--id", "site-1", "--miner", "t01000", "--etcd", etcd];
        let mut init = self.command("sealfarm-agent", &repo, &usual);
        init.args(["--hub", hub, "--site", site, "--api", &api, "--serve-port", &serve]);
        command::read(&mut init, LIMIT).unwrap().success().unwrap();
        repo
    }

    fn run(&self, binary: &str, repo: &Path) -> Finished {
        command::read(&mut self.command(binary, repo, &["run"]), LIMIT).unwrap()
    }

    fn worker(&self, store: &Path, variables: &[(&str, &str)]) -> Command {
        let mut worker = farm::command("sealfarm-worker").unwrap();
        worker.env("SECTOR_SIZE", "2KiB").env("MINER_ADDR", "t01000").env("WORKER_PATH", store);
        worker.envs(variables.iter().copied()).args(["run", "--agent", "site-1"]);
        worker
    }

    fn run_worker(&self, store: &Path, variables: &[(&str, &str)]) -> Finished {
        command::read(&mut self.worker(store, variables), LIMIT).unwrap()
    }

    fn store(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        Store::create(&root, MINER, &"site-1".parse().unwrap()).unwrap();
        root
    }
}

/// An etcd that knows a farm, and an open NATS server for hub and site.
fn servers(place: &Place, size: SectorSize, prover: ProverKind) -> (Etcd, NatsServer) {
    let (etcd, nats) = (place.ground.etcd().unwrap(), place.ground.open_nats("nats").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = EtcdClient::connect(&endpoints(&[etcd.endpoint()], None).unwrap()).await.unwrap();
        client.create_farm(&FarmInfo::new(MINER, size, prover)).await.unwrap();
    });
    (etcd, nats)
}

#[track_caller]
fn refused(finished: &Finished, code: i32, parts: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{}", finished.stderr);
    for part in parts {
        assert!(finished.stderr.contains(part), "`{part}` is not in: {}", finished.stderr);
    }
    assert_eq!(finished.stdout, "", "an error is no data");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

/// Changes a repository's configuration.
fn edit(repo: &Path, from: &str, to: &str) {
    let file = repo.join("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "`{from}` is not in {text}");
    fs::write(&file, text.replace(from, to)).unwrap();
}

#[test]
fn an_unknown_sector_size_is_answered_with_the_five_there_are() {
    let place = Place::new("sizes");
    let five = ["3KiB", "2KiB", "8MiB", "512MiB", "32GiB", "64GiB"];
    let repo = place.path("miner");
    let arguments = ["init", "--actor", "t01000", "--sector-size", "3KiB"];
    let init = command::read(&mut place.command("sealfarm-miner", &repo, &arguments), LIMIT).unwrap();
    refused(&init, USAGE, &five);
    assert!(!repo.exists(), "a refused init leaves nothing");
    let worker = place.run_worker(&place.store("store"), &[("SECTOR_SIZE", "3KiB")]);
    refused(&worker, BAD_INPUT, &five);
}

#[test]
fn a_miner_address_that_does_not_parse_is_named_with_what_one_looks_like() {
    let place = Place::new("addresses");
    let (miner, agent) = (place.path("miner"), place.path("agent"));
    let told = ["miner-7", "t01000"];
    let mut init = place.command("sealfarm-miner", &miner, &["init", "--actor", "miner-7"]);
    refused(&command::read(&mut init, LIMIT).unwrap(), USAGE, &told);
    let mut init = place.command("sealfarm-agent", &agent, &["init", "--id", "a", "--miner", "miner-7"]);
    refused(&command::read(&mut init, LIMIT).unwrap(), USAGE, &told);
    assert!(!miner.exists() && !agent.exists(), "a refused init leaves nothing");
    let worker = place.run_worker(&place.store("store"), &[("MINER_ADDR", "miner-7")]);
    refused(&worker, BAD_INPUT, &told);
}

#[test]
fn a_server_that_cannot_be_reached_is_named_with_what_was_tried() {
    let place = Place::new("unreachable");
    let (etcd, nats) = servers(&place, SectorSize::KiB2, ProverKind::Null);
    let (etcd, nats) = (etcd.endpoint(), nats.url());
    let (no_etcd, no_nats) = (place.nobody(), format!("nats://{}", place.nobody()));
    let null = ["--prover", "null"];
    let of_nats = ["cannot reach NATS at", no_nats.as_str(), "tried for", "next:"];
    let of_etcd = ["etcd cannot be reached at", no_etcd.as_str(), "a status request", "next:"];
    // Side by side: each takes the ten seconds that a server is waited for.
    std::thread::scope(|scope| {
        let miner = |name: &'static str, etcd: &str, nats: &str| {
            let repo = place.init_miner(name, etcd, nats, &null);
            let place = &place;
            scope.spawn(move || place.run("sealfarm-miner", &repo))
        };
        let agent = |name: &'static str, etcd: &str, hub: &str, site: &str| {
            let repo = place.init_agent(name, etcd, hub, site);
            let place = &place;
            scope.spawn(move || place.run("sealfarm-agent", &repo))
        };
        let store = place.store("store");
        let (place, no_nats) = (&place, &no_nats);
        let worker = scope
            .spawn(move || place.run_worker(&store, &[("WORKER_PROVER", "null"), ("SITE_NATS", no_nats)]));
        let cases = [
            (miner("miner-without-nats", &etcd, no_nats), &of_nats),
            (miner("miner-without-etcd", &no_etcd, &nats), &of_etcd),
            (agent("agent-without-hub", &etcd, no_nats, &nats), &of_nats),
            (agent("agent-without-site", &etcd, &nats, no_nats), &of_nats),
            (agent("agent-without-etcd", &no_etcd, &nats, &nats), &of_etcd),
            (worker, &of_nats),
        ];
        for (case, parts) in cases {
            refused(&case.join().unwrap(), UNREACHABLE, parts);
        }
    });
}

#[test]
fn an_empty_list_of_etcd_endpoints_says_where_to_look() {
    let place = Place::new("endpoints");
    let told = ["client: no endpoints available", "[SealAgent] EtcdAddrs", "config.toml"];
    let miner = place.init_miner("miner", "127.0.0.1:2379", "nats://127.0.0.1:4222", &["--prover", "null"]);
    edit(&miner, r#"EtcdAddrs = ["127.0.0.1:2379"]"#, "EtcdAddrs = []");
    refused(&place.run("sealfarm-miner", &miner), BAD_INPUT, &told);
    let nats = "nats://127.0.0.1:4222";
    let agent = place.init_agent("agent", "127.0.0.1:2379", nats, nats);
    edit(&agent, r#"EtcdAddrs = ["127.0.0.1:2379"]"#, "EtcdAddrs = []");
    refused(&place.run("sealfarm-agent", &agent), BAD_INPUT, &told);
    let repo = place.path("other");
    let mut init = place.command("sealfarm-miner", &repo, &["init", "--actor", "t01000", "--etcd", ""]);
    refused(&command::read(&mut init, LIMIT).unwrap(), BAD_INPUT, &["client: no endpoints available"]);
    assert!(!repo.exists(), "a refused init leaves nothing");
}

#[test]
fn a_nats_server_that_is_too_old_is_refused_with_both_versions() {
    let place = Place::new("old-nats");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It greets as a server of that version does, and then waits for the client to go.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let info = format!(
            r#"INFO {{"server_id":"OLD","server_name":"old","version":"2.9.10","proto":1,"headers":true,"host":"127.0.0.1","port":{port},"max_payload":1048576,"jetstream":true}}"#
        );
        stream.write_all(format!("{info}\r\nPONG\r\n").as_bytes()).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let url = format!("nats://127.0.0.1:{port}");
    let repo = place.init_miner("miner", "127.0.0.1:2379", &url, &["--prover", "null"]);
    refused(&place.run("sealfarm-miner", &repo), REFUSED, &[&url, "2.9.10", "2.11", "next:"]);
    server.join().unwrap();
}

#[test]
fn a_port_in_use_is_named_with_the_key_that_sets_it() {
    let place = Place::new("ports");
    let strangers: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let taken: Vec<u16> = strangers.iter().map(|s| s.local_addr().unwrap().port()).collect();
    let nats = "nats://127.0.0.1:4222";
    let miner = place.init_miner("miner", "127.0.0.1:2379", nats, &["--prover", "null"]);
    let agent = place.init_agent("agent", "127.0.0.1:2379", nats, nats);
    for (binary, repo) in [("sealfarm-miner", &miner), ("sealfarm-agent", &agent)] {
        let config = fs::read_to_string(repo.join("config.toml")).unwrap();
        let line = |key: &str| config.lines().find(|line| line.starts_with(key)).unwrap();
        edit(repo, line("ServePort"), &format!("ServePort = {}", taken[0]));
        refused(&place.run(binary, repo), PORT_IN_USE, &[&taken[0].to_string(), "ServePort", "next:"]);
        let listen = format!(r#"ListenAddress = "/ip4/127.0.0.1/tcp/{}/http""#, taken[1]);
        edit(repo, line("ListenAddress"), &listen);
        refused(&place.run(binary, repo), PORT_IN_USE, &[&taken[1].to_string(), "ListenAddress", "next:"]);
    }
}

#[test]
fn a_store_that_is_missing_or_not_mounted_is_refused_by_agent_and_worker() {
    let place = Place::new("no-store");
    let nats = "nats://127.0.0.1:4222";
    let agent = place.init_agent("agent", "127.0.0.1:2379", nats, nats);
    let store = agent.join("store");
    fs::remove_dir_all(&store).unwrap();
    let told = ["no sector store at", store.to_str().unwrap(), "not mounted"];
    refused(&place.run("sealfarm-agent", &agent), STORE, &told);
    refused(&place.run_worker(&store, &[]), STORE, &told);
    // What is left of a mount point is an empty directory.
    fs::create_dir(&store).unwrap();
    refused(&place.run("sealfarm-agent", &agent), STORE, &told);
    refused(&place.run_worker(&store, &[]), STORE, &told);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "nothing is written where no store is");
}

#[test]
fn a_store_whose_agent_runs_already_is_refused_and_one_without_identity_is_adopted() {
    let place = Place::new("store-in-use");
    let nats = "nats://127.0.0.1:4222";
    let agent = place.init_agent("agent", "127.0.0.1:1", nats, nats);
    fs::remove_file(agent.join("store/sealfarm-store.json")).unwrap();
    let adopted = place.run("sealfarm-agent", &agent);
    assert_eq!(adopted.status.code(), Some(UNREACHABLE), "there is no etcd: {}", adopted.stderr);
    assert!(adopted.stderr.contains("it is this site's from now on"), "{}", adopted.stderr);
    let store = Store::open(&agent).unwrap();
    store.expect_owner(MINER, &"site-1".parse().unwrap()).unwrap();

    let _lock = store.lock_for_agent("process 7 on host x").unwrap();
    let told = ["in use by another agent", "process 7 on host x"];
    refused(&place.run("sealfarm-agent", &agent), STORE, &told);
}

#[test]
fn a_store_that_cannot_be_written_is_refused() {
    let place = Place::new("read-only");
    let store = place.store("store");
    let attempts = store.join("attempt");
    fs::set_permissions(&attempts, fs::Permissions::from_mode(0o555)).unwrap();
    let mut worker = without_privileges(&place.worker(&store, &[]));
    let told = ["cannot be written", store.to_str().unwrap(), "mount options"];
    refused(&command::read(&mut worker, LIMIT).unwrap(), STORE, &told);
    assert_eq!(fs::read_dir(&attempts).unwrap().count(), 0);
}

/// The same command without what lets root write where nobody may.
fn without_privileges(command: &Command) -> Command {
    let mut bare = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        bare.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    }
    bare.arg(command.get_program()).args(command.get_args());
    bare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bare
}

#[test]
fn a_store_too_small_for_a_sector_is_refused_with_both_figures() {
    let place = Place::new("small-store");
    let size = SectorSize::GiB64;
    let needed = size.sealing_bytes(ProverKind::Filecoin).to_string();
    let store = place.store("worker-store");
    if Store::open(&store).unwrap().free_bytes().unwrap() >= size.sealing_bytes(ProverKind::Filecoin) {
        // This machine has room for anything there is; the figures are tested beside the store.
        return;
    }
    let (etcd, nats) = servers(&place, size, ProverKind::Filecoin);
    let agent = place.init_agent("agent", &etcd.endpoint(), &nats.url(), &nats.url());
    let told = ["bytes free", needed.as_str(), "64GiB"];
    refused(&place.run("sealfarm-agent", &agent), STORE, &told);
    refused(&place.run_worker(&store, &[("SECTOR_SIZE", "64GiB")]), STORE, &told);
}

#[test]
fn parameters_that_are_missing_or_truncated_are_refused_before_anything_is_joined() {
    let place = Place::new("parameters");
    let (store, cache) = (place.store("store"), place.path("cache"));
    fs::create_dir(&cache).unwrap();
    let variables = [("FIL_PROOFS_PARAMETER_CACHE", cache.to_str().unwrap())];
    let missing = place.run_worker(&store, &variables);
    let next = "sealfarm-worker params generate --sector-size 2KiB";
    refused(&missing, PARAMETERS, &["are missing", cache.to_str().unwrap(), next]);
    let path = missing.stderr.split_once("no file ").unwrap().1.split_once(';').unwrap().0;
    fs::write(path, [1; 1000]).unwrap();
    refused(&place.run_worker(&store, &variables), PARAMETERS, &["truncated", path, "1000 bytes", next]);

    let miner = place.init_miner("miner", "127.0.0.1:2379", "nats://127.0.0.1:4222", &[]);
    let mut run = place.command("sealfarm-miner", &miner, &["run"]);
    run.envs(variables);
    refused(&command::read(&mut run, LIMIT).unwrap(), PARAMETERS, &[cache.to_str().unwrap(), next]);
}
