//! A farm of real processes wholly under TLS, with a CA of the test's own: etcd and the hub ask for
//! client certificates, the site's server and the ports of miner and agent show theirs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use sealfarm_common::bundle::BundleFacts;
use sealfarm_common::configuration::template::{Filling, filled, quoted};
use sealfarm_common::rpc::{create_token, read_secret};
use sealfarm_common::tls::Identity;
use sealfarm_common::token::{ApiInfo, Permission, Secret};
use sealfarm_tests::harness::{Ca, Ground, NatsServer, PortBlock, Process, SecureEtcd, ports};
use serde_json::Value;
use xtask::farm::command;
use xtask::process::Finished;
use xtask::wait;

/// The longest anything here may take; it takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Ports of a process from its base: `[API] ListenAddress`, and from the next on `ServePort`, +1 and +100.
const PORTS: [u16; 4] = [0, 1, 2, 101];

/// The farm, as far as it has been set up.
struct Farm {
    ground: Ground,
    ca: Ca,
    /// What every server of it shows.
    server: Identity,
    etcd: SecureEtcd,
    miner: PathBuf,
    /// The first of its ports.
    miner_port: u16,
    agent: PathBuf,
    /// Running processes, in the order of their start.
    running: Vec<Process>,
    _servers: Vec<NatsServer>,
    _ports: Vec<PortBlock>,
}

impl Farm {
    /// Starts etcd, the hub and the miner, and makes the repository of an agent from its bundle.
    fn with_miner(name: &str) -> Self {
        let ground = Ground::new(name).unwrap();
        let ca = Ca::new("ours").unwrap();
        let server = ca.issue("127.0.0.1").unwrap();
        let etcd = SecureEtcd::start(&server, &ca.cert).unwrap();
        let (miner, agent) = (ground.scratch().path().join("miner"), ground.scratch().path().join("agent"));
        let (miner_port, running, _servers, _ports) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut farm = Self { ground, ca, server, etcd, miner, miner_port, agent, running, _servers, _ports };
        farm.start_miner();
        farm
    }

    fn start_miner(&mut self) {
        let base = self.claim();
        self.miner_port = base;
        let etcd = self.etcd.endpoint("127.0.0.1").unwrap().to_string();
        let hub = self.nats("hub", &self.miner, "hub/hub.conf", |url| {
            let mut init = command("sealfarm-miner").unwrap();
            init.arg("--repo").arg(&self.miner).args(["init", "--actor", "t01000", "--sector-size", "2KiB"]);
            init.args(["--prover", "null", "--epoch-duration", "50ms", "--challenge-delay", "1"]);
            init.args(["--nats", url, "--etcd", &etcd]);
            init.arg("--hub-tls-client-ca").arg(&self.ca.cert);
            serves(&mut init, base);
            init
        });
        self._servers.push(hub);
        let (shown, ca) = (self.ca.issue("miner").unwrap(), self.ca.cert.clone());
        let mut values = client("NATS", Some(&ca), Some(&shown));
        values.extend(client("Etcd", Some(&ca), Some(&shown)));
        values.extend(self.https());
        set(&self.miner, &values);
        self.start("sealfarm-miner", &self.miner.clone());
    }

    /// The bundle of agent `site-1` as `sealfarm-miner pack` makes it.
    fn packed(&self) -> Vec<String> {
        let bundle = self.ground.scratch().path().join("bundle.tar.gz").display().to_string();
        self.miner_says(&["pack", "--agent", "site-1", "--out", &bundle]);
        vec!["--bundle".to_owned(), bundle]
    }

    /// The same where the running miner serves it, with what it takes to fetch it.
    fn served(&self) -> Vec<String> {
        let file = self.ground.scratch().path().join("miner.token").display().to_string();
        let token = self.miner_says(&["auth", "create-token", "--perm", "admin", "--valid-for", "10m"]);
        fs::write(&file, token).unwrap();
        let url = format!("https://127.0.0.1:{}/bundle/site-1", self.miner_port + 101);
        let ca = self.ca.cert.display().to_string();
        ["--bundle", &url, "--token-file", &file, "--bundle-ca", &ca].map(str::to_owned).to_vec()
    }

    /// An agent made with these flags of `init`, and a site's server with TLS.
    fn lay_out_agent(&mut self, bundle: Vec<String>) {
        let base = self.claim();
        let site = self.nats("site", &self.agent, "site/site.conf", |url| {
            let mut init = command("sealfarm-agent").unwrap();
            init.arg("--repo").arg(&self.agent).arg("init").args(&bundle).args(["--site", url]);
            serves(&mut init, base);
            init
        });
        self._servers.push(site);
        // What the bundle cannot bring: this agent's certificate, and what its own site shows.
        let shown = self.ca.issue("agent").unwrap();
        let mut values = client("Hub", None, Some(&shown));
        values.extend(client("Etcd", None, Some(&shown)));
        values.extend(client("Site", Some(&self.ca.cert), None));
        values.extend(self.https());
        set(&self.agent, &values);
    }

    /// Ports that speak TLS, and a command line that trusts them.
    fn https(&self) -> Vec<Filling<'static>> {
        let mut values = client("API", None, Some(&self.server));
        values.extend(client("CLI", Some(&self.ca.cert), None));
        values
    }

    fn claim(&mut self) -> u16 {
        let claim = ports::claim(&PORTS).unwrap();
        let base = claim.base();
        self._ports.push(claim);
        base
    }

    /// Starts a server that shows our certificate, with the configuration that `init` writes into `repo`.
    fn nats(&self, name: &str, repo: &Path, config: &str, init: impl Fn(&str) -> Command) -> NatsServer {
        let flag = |what: &str| format!("--{name}-{what}");
        self.ground
            .nats(name, |ports, data| {
                // Made for ports that somebody else has taken meanwhile.
                let _ = fs::remove_dir_all(repo);
                let client = format!("127.0.0.1:{}", ports.client);
                let mut init = init(&format!("tls://{client}"));
                init.args([flag("listen"), client]);
                init.args([flag("monitor"), format!("127.0.0.1:{}", ports.monitor)]);
                init.arg(flag("data")).arg(data);
                init.arg(flag("tls-cert")).arg(&self.server.cert);
                init.arg(flag("tls-key")).arg(&self.server.key);
                self.ground.run("init", &mut init, LIMIT).unwrap().success().unwrap();
                fs::read_to_string(repo.join(config)).unwrap()
            })
            .unwrap()
    }

    /// Starts a process of a repository and waits until it serves.
    fn start(&mut self, binary: &str, repo: &Path) {
        let mut run = command(binary).unwrap();
        run.arg("--repo").arg(repo).arg("run");
        let process = self.ground.spawn(binary, &mut run).unwrap();
        ready(&process);
        self.running.push(process);
    }

    fn says(&self, binary: &str, repo: &Path, arguments: &[&str]) -> Finished {
        let mut command = command(binary).unwrap();
        command.arg("--repo").arg(repo).args(arguments);
        self.ground.run("command", &mut command, LIMIT).unwrap()
    }

    fn miner_says(&self, arguments: &[&str]) -> String {
        self.says("sealfarm-miner", &self.miner, arguments).success().unwrap()
    }

    fn agent_says(&self, arguments: &[&str]) -> String {
        self.says("sealfarm-agent", &self.agent, arguments).success().unwrap()
    }

    /// What `auth api-info` of the agent prints, without the variable's name.
    fn agent_api_info(&self, permission: &str) -> ApiInfo {
        let line = self.agent_says(&["auth", "api-info", "--perm", permission]);
        line.trim().strip_prefix("AGENT_API_INFO=").unwrap().parse().unwrap()
    }

    /// A worker that is told nothing but the store and these variables.
    fn worker(&self, name: &str, variables: &[(&str, &str)]) -> Command {
        let mut run = command("sealfarm-worker").unwrap();
        for variable in ["AGENT_API_INFO", "MINER_AGENT_APIINFO", "STORAGE_API_INFO", "SITE_AGENT"] {
            run.env_remove(variable);
        }
        run.env("SECTOR_SIZE", "2KiB")
            .env("MINER_ADDR", "t01000")
            .env("WORKER_PATH", self.agent.join("store"));
        run.envs(variables.iter().copied()).args(["run", "--prover", "null", "--worker-id", name]);
        run
    }

    /// Pledges a sector, and waits until all that were pledged are Proving.
    fn pledge_to_proving(&self, worker: &Process) {
        self.miner_says(&["sectors", "pledge"]);
        wait::until(LIMIT, "every sector Proving", || -> Result<()> {
            ensure!(worker.exit_status()?.is_none(), "{}", worker.log_tail());
            let rows: Value = serde_json::from_str(&self.miner_says(&["sectors", "list", "--json"]))?;
            let rows = rows.as_array().cloned().unwrap_or_default();
            ensure!(rows.iter().all(|row| row["state"] == "Proving"), "{rows:?}");
            Ok(())
        })
        .unwrap();
    }
}

/// Where a process that `init` sets up serves.
fn serves(init: &mut Command, base: u16) {
    init.args(["--api", &format!("/ip4/127.0.0.1/tcp/{base}/http")]);
    init.args(["--serve-ip", "127.0.0.1", "--serve-port", &(base + 1).to_string()]);
}

/// The files of a section.
fn client(section: &'static str, ca: Option<&Path>, shown: Option<&Identity>) -> Vec<Filling<'static>> {
    let file = |path: &Path| quoted(path.to_str().unwrap());
    let shown = shown.map(|shown| [("CertFile", file(&shown.cert)), ("KeyFile", file(&shown.key))]);
    let values = ca.map(|ca| ("CaFile", file(ca))).into_iter().chain(shown.into_iter().flatten());
    values.map(|(key, value)| (section, key, value)).collect()
}

/// Edits the configuration of a repository, as an operator does.
fn set(repo: &Path, values: &[Filling<'_>]) {
    let path = repo.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, filled(&text, values)).unwrap();
}

/// Waits until a process says that it serves.
fn ready(process: &Process) {
    process
        .wait_ready(LIMIT, || {
            let text = process.stderr_text()?;
            ensure!(text.split_whitespace().any(|word| word == "ready"), "it has not said that it is ready");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_farm_wholly_under_tls_takes_sectors_to_proving_with_the_ca_of_its_bundle() {
    let mut farm = Farm::with_miner("tls-farm");
    let api = fs::read_to_string(farm.miner.join("api")).unwrap();
    assert!(api.trim().ends_with("/https"), "{api}");
    farm.miner_says(&["info"]);

    farm.lay_out_agent(farm.served());
    let (brought, ours) = (farm.agent.join("ca.pem"), fs::read(&farm.ca.cert).unwrap());
    assert_eq!(fs::read(&brought).unwrap(), ours, "the bundle brings the CA");
    let shown: Value = serde_json::from_str(&farm.agent_says(&["config", "show", "--json"])).unwrap();
    assert_eq!(
        (&shown["Hub.CaFile"]["value"], &shown["Etcd.CaFile"]["value"]),
        (&"ca.pem".into(), &"ca.pem".into())
    );
    // It is what the agent trusts, and nothing else is.
    fs::copy(&Ca::new("other").unwrap().cert, &brought).unwrap();
    let refused = farm.says("sealfarm-agent", &farm.agent, &["run"]);
    let named = ["not signed by a CA that is trusted here", brought.to_str().unwrap(), "CaFile"];
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);
    assert!(named.iter().all(|part| refused.stderr.contains(part)), "{}", refused.stderr);
    fs::write(&brought, ours).unwrap();
    farm.start("sealfarm-agent", &farm.agent.clone());
    farm.agent_says(&["info"]);

    let (ca, repo) = (farm.ca.cert.to_str().unwrap(), farm.agent.to_str().unwrap());
    let to_agent = farm.agent_api_info("write");
    assert!(to_agent.address.is_tls(), "{}", to_agent.address);
    let to_agent = to_agent.expose();
    let to_miner = farm.miner_says(&["auth", "api-info", "--perm", "read"]);
    let to_miner = to_miner.trim().strip_prefix("STORAGE_API_INFO=").unwrap();
    let facts = BundleFacts::of_repo(&farm.agent).unwrap().unwrap();
    let (owner, worker) = (facts.farm.wallets.owner.unwrap(), facts.farm.wallets.worker.unwrap());
    let with_f = format!("f{}", &worker.to_string()[1..]);
    for (name, variables) in [
        ("by-agent", vec![("AGENT_API_INFO", to_agent.as_str())]),
        ("by-owner", vec![("AGENT_API_INFO", to_agent.as_str()), ("MINER_ADDR", &owner.to_string())]),
        (
            "by-miner",
            vec![("STORAGE_API_INFO", to_miner), ("LOTUS_AGENT_PATH", repo), ("MINER_ADDR", &with_f)],
        ),
    ] {
        // The CA of the site's NATS is the agent's to say.
        let mut run = farm.worker(name, &variables);
        let process = farm.ground.spawn(name, run.env("JOIN_CA_FILE", ca)).unwrap();
        farm.pledge_to_proving(&process);
        process.stop(LIMIT).unwrap();
    }
}

#[test]
fn a_worker_without_the_right_token_or_ca_is_refused_over_https_with_what_it_lacks() {
    let mut farm = Farm::with_miner("tls-join");
    farm.lay_out_agent(farm.packed());
    farm.start("sealfarm-agent", &farm.agent.clone());
    let write = farm.agent_api_info("write");
    let secret = read_secret(&farm.agent, "token-secret").unwrap();
    let ended = "2020-01-01T00:00:00Z".parse().unwrap();
    let with = |token| ApiInfo { token: Some(token), address: write.address.clone() }.expose();
    let expired = with(create_token(&secret, Permission::Write, Some(ended)));
    let foreign = with(create_token(&Secret::from_random([7; 32]), Permission::Write, None));
    let read_only = farm.agent_api_info("read").expose();
    let in_the_clear = write.expose().replace("/https", "/http");
    let by_name = write.expose().replace("/ip4/127.0.0.1/", "/dns/localhost/");
    let write = write.expose();
    let other = Ca::new("other").unwrap();
    let (ours, other) = (farm.ca.cert.to_str().unwrap(), other.cert.to_str().unwrap());
    for (info, ca, parts) in [
        (&expired, ours, ["expired at 2020-01-01T00:00:00Z", "`write`", "auth create-token"]),
        (&foreign, ours, ["not signed by this process", "`write`", "auth create-token"]),
        (&read_only, ours, ["need `write`", "the token has `read`", "auth create-token"]),
        (&write, other, ["not signed by a CA that is trusted here", other, "[Join] CaFile"]),
        (&write, "", ["not signed by a CA that is trusted here", "the system's", "[Join] CaFile"]),
        (&write, "/nowhere/ca.pem", ["cannot use the TLS file", "/nowhere/ca.pem", "[Join] CaFile"]),
        (&by_name, ours, ["another name", "localhost", "AGENT_API_INFO"]),
        (&in_the_clear, ours, ["speaks https, and http was asked for", "write https", "AGENT_API_INFO"]),
    ] {
        let mut run = farm.worker("stranger", &[("AGENT_API_INFO", info), ("JOIN_CA_FILE", ca)]);
        let refused = farm.ground.run("stranger", &mut run, LIMIT).unwrap();
        assert!(matches!(refused.status.code(), Some(3 | 6)), "{parts:?}: {}", refused.stderr);
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{parts:?}: {}", refused.stderr);
        let token = info.split(':').next().unwrap();
        assert!(!refused.stderr.contains(token), "a token is shown: {}", refused.stderr);
    }
}
