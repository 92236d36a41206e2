//! What a miner and an agent serve over HTTP, as real processes: tokens, ports, pages, files; and how
//! fast they stop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sealfarm_common::bundle::Bundle;
use sealfarm_common::rpc::Method;
use sealfarm_common::token::{ApiInfo, Permission};
use sealfarm_tests::harness::{Scratch, Tools};
use serde_json::{Value, json};
use xtask::farm::{self, Farm, FarmOptions};
use xtask::process::{self, Finished, Process};
use xtask::wait;

/// The longest any of these may take; they take seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// The longest an idle process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

fn farm(name: &str, workers: usize) -> Farm {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents: 1,
        workers,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate().unwrap(), &Scratch::new(name).unwrap(), &options, |_| ()).unwrap()
}

/// A miner or an agent of the farm: its program, its repository, and the variable that names it.
#[derive(Clone, Copy)]
struct Served<'a> {
    farm: &'a Farm,
    binary: &'static str,
    repo: &'a Path,
    variable: &'static str,
}

impl<'a> Served<'a> {
    fn both(farm: &'a Farm) -> [Self; 2] {
        let (miner, agent) = (farm.miner_repo.as_path(), farm.sites[0].repo.as_path());
        [
            Served { farm, binary: "sealfarm-miner", repo: miner, variable: "STORAGE_API_INFO" },
            Served { farm, binary: "sealfarm-agent", repo: agent, variable: "AGENT_API_INFO" },
        ]
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = farm::command(self.binary).unwrap();
        command.arg("--repo").arg(self.repo).args(arguments);
        process::run("served", self.farm.scratch(), &mut command, LIMIT).unwrap()
    }

    fn token(&self, permission: Permission) -> String {
        let token = self.run(&["auth", "create-token", "--perm", permission.as_str()]).success().unwrap();
        token.trim().to_owned()
    }

    /// What `auth api-info` prints, without the variable's name.
    fn api_info(&self, permission: Permission) -> ApiInfo {
        let line = self.run(&["auth", "api-info", "--perm", permission.as_str()]).success().unwrap();
        line.trim().strip_prefix(&format!("{}=", self.variable)).unwrap().parse().unwrap()
    }

    /// Status and body of a call, as any HTTP client sees them.
    fn post(&self, method: &str, token: Option<&str>) -> (u16, Value) {
        let url = self.api_info(Permission::Read).address.rpc_url();
        let mut request = http().post(url).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        // Parameters that no method takes: what is allowed fails behind the check, without an effect.
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"nobody": "knows"}});
        let mut answer = request.send(body.to_string()).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    /// The advertised address, `above` the first port of it.
    fn url(&self, above: u16, path: &str) -> String {
        let shown = self.run(&["config", "show", "--json"]).success().unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let port = shown["SealAgent.ServePort"]["value"].as_u64().unwrap();
        format!("http://127.0.0.1:{}{path}", port + u64::from(above))
    }
}

fn http() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    config.timeout_global(Some(Duration::from_secs(10))).build().into()
}

fn get(url: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = http().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

#[test]
fn every_method_refuses_every_token_below_its_permission_with_401_naming_both() {
    let farm = farm("http-methods", 0);
    let tables: [&[Method]; 2] = [&sealfarm_miner::api::method::ALL, &sealfarm_agent::api::method::ALL];
    for (served, methods) in Served::both(&farm).into_iter().zip(tables) {
        let tokens = Permission::ALL.map(|level| (level, served.token(level)));
        for method in methods {
            let (status, body) = served.post(method.name, None);
            assert_eq!(status, 401, "{} without a token: {body}", method.name);
            assert_eq!(body["error"]["data"]["need"], method.permission.as_str(), "{body}");
            for (level, token) in &tokens {
                let (status, body) = served.post(method.name, Some(token));
                if *level >= method.permission {
                    assert_eq!(status, 200, "{} with {level}: {body}", method.name);
                    continue;
                }
                assert_eq!(status, 401, "{} with {level}: {body}", method.name);
                let message = body["error"]["message"].as_str().unwrap();
                let named = [method.permission.as_str(), level.as_str(), method.name];
                assert!(named.iter().all(|part| message.contains(part)), "{message}");
            }
        }
    }
}

#[test]
fn what_api_info_prints_reaches_the_process_until_it_is_revoked() {
    let farm = farm("http-revoke", 0);
    for served in Served::both(&farm) {
        let info = served.api_info(Permission::Read);
        let token = info.token.as_ref().unwrap().expose().to_owned();
        let method = if served.variable == "AGENT_API_INFO" { "Sealfarm.TasksList" } else { "Sealfarm.Info" };
        assert_eq!(served.post(method, Some(&token)).0, 200);
        served.run(&["auth", "revoke"]).success().unwrap();
        let (status, body) = served.post(method, Some(&token));
        assert_eq!(status, 401, "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("from before `auth revoke`") && message.contains("`read`"), "{message}");
        // The process's own command line goes on with the new `token`.
        served.run(&["info"]).success().unwrap();
    }
    let elsewhere = farm.scratch().dir("elsewhere").unwrap();
    let info = Served::both(&farm)[0].api_info(Permission::Read).expose();
    let miner = |arguments: &[&str]| {
        let mut command = farm::command("sealfarm-miner").unwrap();
        command.arg("--repo").arg(&elsewhere).env("STORAGE_API_INFO", &info).args(arguments);
        process::run("elsewhere", farm.scratch(), &mut command, LIMIT).unwrap()
    };
    miner(&["info"]).success().unwrap();
    let refused = miner(&["sectors", "pledge"]);
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("need `write`") && refused.stderr.contains("`read`"),
        "{}",
        refused.stderr
    );
}

#[test]
fn an_expired_token_is_refused_with_both_times() {
    let farm = farm("http-expired", 0);
    let [served, _] = Served::both(&farm);
    let secret = sealfarm_common::rpc::read_secret(served.repo, "secret").unwrap();
    let ended = "2020-01-01T00:00:00Z".parse().unwrap();
    let token = sealfarm_common::rpc::create_token(&secret, Permission::Admin, Some(ended));
    let (status, body) = served.post("Sealfarm.Info", Some(token.expose()));
    let message = body["error"]["message"].as_str().unwrap();
    assert_eq!(status, 401);
    assert!(message.contains("expired at 2020-01-01T00:00:00Z") && message.contains("clock"), "{message}");
}

#[test]
fn each_port_serves_what_it_is_for() {
    let farm = farm("http-ports", 1);
    farm.miner_command(&["sectors", "pledge", "--count", "2"]).unwrap().success().unwrap();
    let rows = wait::until(LIMIT, "both sectors Proving", || -> Result<_> {
        let rows = farm.sectors()?;
        ensure!(rows.iter().filter(|row| row.state == "Proving").count() == 2, "{rows:?}");
        Ok(rows)
    })
    .unwrap();
    let [miner, agent] = Served::both(&farm);
    for served in [miner, agent] {
        assert_eq!(get(&served.url(0, "/healthz"), &[]).0, 200);
    }
    let (_, page) = get(&miner.url(1, "/"), &[]);
    let shown = ["miner t01000", "<td>Proving</td><td>2</td>", "<td>site-1</td><td>live</td>", "NULL PROVER"];
    assert!(shown.iter().all(|part| page.contains(part)), "{page}");
    let (_, page) = get(&agent.url(1, "/"), &[]);
    let shown = ["agent site-1", "site-1-worker-1", "Store: 2 sectors", "Tasks"];
    assert!(shown.iter().all(|part| page.contains(part)), "{page}");
    let (_, metrics) = get(&miner.url(1, "/metrics"), &[]);
    assert!(metrics.contains("sealfarm_sectors{state=\"Proving\"} 2\n"), "{metrics}");
    assert!(metrics.contains("sealfarm_agents{state=\"live\"} 1\n"), "{metrics}");
    let (_, metrics) = get(&agent.url(1, "/metrics"), &[]);
    assert!(metrics.contains("sealfarm_workers{task=\"commit-2\"} 1\n"), "{metrics}");

    let manifest = agent.url(100, &format!("/store/manifest/s-t01000-{}.json", rows[0].number));
    let (status, body) = get(&manifest, &[]);
    assert!(status == 401 && body.contains("`read`"), "{status} {body}");
    let bearer = format!("Bearer {}", agent.token(Permission::Read));
    let (status, body) = get(&manifest, &[("authorization", &bearer)]);
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["sector"]["number"], rows[0].number);
    let (status, part) = get(&manifest, &[("authorization", &bearer), ("range", "bytes=0-0")]);
    assert_eq!((status, part.as_str()), (206, "{"));
    assert_eq!(get(&agent.url(100, "/store/sealfarm-store.json"), &[("authorization", &bearer)]).0, 403);
}

/// A worker that is told nothing but these variables, and the store.
fn worker(farm: &Farm, name: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = farm::command("sealfarm-worker").unwrap();
    command.env("SECTOR_SIZE", "2KiB").env("MINER_ADDR", "t01000").env("WORKER_PATH", &farm.sites[0].store);
    for variable in ["AGENT_API_INFO", "MINER_AGENT_APIINFO", "STORAGE_API_INFO", "SITE_AGENT", "SITE_NATS"] {
        command.env_remove(variable);
    }
    command.envs(variables.iter().copied());
    command.args(["run", "--prover", "null", "--worker-id", name]);
    command
}

#[test]
fn a_worker_joins_with_a_write_token_of_its_agent_or_by_way_of_the_miner() {
    let farm = farm("http-join", 0);
    let [miner, agent] = Served::both(&farm);
    let to_agent = agent.api_info(Permission::Write).expose();
    let to_miner = miner.api_info(Permission::Read).expose();
    let repo = farm.sites[0].repo.display().to_string();
    for (name, variables) in [
        ("by-agent", vec![("AGENT_API_INFO", to_agent.as_str())]),
        ("by-the-other-name", vec![("MINER_AGENT_APIINFO", to_agent.as_str())]),
        ("by-miner", vec![("STORAGE_API_INFO", to_miner.as_str()), ("LOTUS_AGENT_PATH", repo.as_str())]),
    ] {
        let mut command = worker(&farm, name, &variables);
        let process = Process::spawn(name, farm.scratch(), &mut command).unwrap();
        farm.miner_command(&["sectors", "pledge"]).unwrap().success().unwrap();
        wait::until(LIMIT, "every sector Proving", || {
            ensure!(process.exit_status()?.is_none(), "{}", process.log_tail());
            let rows = farm.sectors()?;
            ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
            Ok(())
        })
        .unwrap();
        let text = process.stderr_text().unwrap();
        assert!(!text.contains(to_agent.split(':').next().unwrap()), "a token is in the log: {text}");
        process.stop(LIMIT).unwrap();
    }
}

#[test]
fn a_worker_that_may_not_or_does_not_fit_is_refused_with_what_it_lacks() {
    let farm = farm("http-refused", 0);
    let [miner, agent] = Served::both(&farm);
    let to_agent = agent.api_info(Permission::Write).expose();
    let read_only = agent.api_info(Permission::Read).expose();
    let to_miner = miner.api_info(Permission::Read).expose();
    for (variables, parts) in [
        (vec![("AGENT_API_INFO", read_only.as_str())], ["`write`", "`read`", "auth create-token"]),
        (vec![("AGENT_API_INFO", to_agent.as_str()), ("SECTOR_SIZE", "8MiB")], ["8MiB", "2KiB", "next:"]),
        (
            vec![("AGENT_API_INFO", to_agent.as_str()), ("MINER_ADDR", "t02000")],
            ["t02000", "t01000", "next:"],
        ),
        (vec![("STORAGE_API_INFO", to_miner.as_str())], ["site-1", "token", "AGENT_API_INFO"]),
    ] {
        let mut command = worker(&farm, "stranger", &variables);
        let refused = process::run("stranger", farm.scratch(), &mut command, LIMIT).unwrap();
        assert!(matches!(refused.status.code(), Some(5 | 6)), "{variables:?}: {}", refused.stderr);
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{}", refused.stderr);
    }
}

/// What of a bundle does not change with the moment it was made.
fn parts(packed: &[u8]) -> [Option<Vec<u8>>; 3] {
    let bundle = Bundle::unpack(packed).unwrap();
    ["config.toml", "hub.creds", "ca.pem"].map(|name| bundle.file(name).map(<[u8]>::to_vec))
}

#[test]
fn the_miner_serves_the_bundle_that_pack_makes_to_an_admin_alone_and_refuses_what_it_does_not_know() {
    let farm = farm("http-bundle", 0);
    let [miner, _] = Served::both(&farm);
    let admin = miner.token(Permission::Admin);
    let fetch = |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let mut answer = http().get(miner.url(100, path)).header("authorization", bearer).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    };
    let file = farm.scratch().path().join("packed.tar.gz").display().to_string();
    let pack = ["pack", "--agent", "site-9", "--out", &file, "--hub", "tls://hub:4222", "--etcd", "a:1,b:2"];
    miner.run(&pack).success().unwrap();
    let (status, served) = fetch("/bundle/site-9?hub=tls://hub:4222&etcd=a:1,b:2", &admin);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&served));
    let packed = parts(&std::fs::read(&file).unwrap());
    // A token says when it was made; its user is whose seed follows.
    let user = |parts: &[Option<Vec<u8>>; 3]| {
        let credentials = String::from_utf8(parts[1].clone().expect("hub.creds")).unwrap();
        credentials.lines().find(|line| line.starts_with("SU")).map(str::to_owned)
    };
    let served = parts(&served);
    assert_eq!((&served[0], &served[2]), (&packed[0], &packed[2]));
    assert!(user(&served).is_some() && user(&served) == user(&packed), "the credentials are the same user's");

    let weak = miner.token(Permission::Sign);
    for (path, token, status, named) in [
        ("/bundle/site-9", weak.as_str(), 401, ["need `admin`", "`read, write, sign`"]),
        ("/bundle/site-9", "nonsense", 401, ["`admin`", "refused"]),
        ("/bundle/Site_9", admin.as_str(), 400, ["`Site_9`", "ask for /bundle/AGENT"]),
        ("/bundle/site-9?hubs=x", admin.as_str(), 400, ["no option `hubs`", "`hub` and `etcd`"]),
        ("/bundle/site-9?etcd=218.78,187.146:2379", admin.as_str(), 400, ["218.78", "etcd endpoint"]),
    ] {
        let (found, body) = fetch(path, token);
        let body = String::from_utf8_lossy(&body);
        assert_eq!(found, status, "{path}: {body}");
        assert!(named.iter().all(|part| body.contains(part)), "{named:?} are not in {body}");
    }
    assert_eq!(get(&miner.url(100, "/bundle/site-9"), &[]).0, 401);
}

#[test]
fn an_agent_is_set_up_with_the_bundle_its_miner_serves_or_nothing_of_it_is_kept() {
    let farm = farm("http-fetch", 0);
    let [miner, agent] = Served::both(&farm);
    let repo = farm.scratch().path().join("fetched");
    let file = |name: &str, text: &str| {
        let path = farm.scratch().path().join(name).display().to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let init = |url: &str, flags: &[&str]| {
        let mut command = farm::command("sealfarm-agent").unwrap();
        command.arg("--repo").arg(&repo).args(["init", "--bundle", url]).args(flags);
        process::run("fetch", farm.scratch(), &mut command, LIMIT).unwrap()
    };
    let (admin, weak) = (miner.token(Permission::Admin), miner.token(Permission::Write));
    let files = (file("admin", &admin), file("none", "\n"), file("weak", &weak));
    let (good, empty, weak_file) = (files.0.as_str(), files.1.as_str(), files.2.as_str());
    let url = miner.url(100, "/bundle/site-9");
    let (wrong_id, wrong_path) = (miner.url(100, "/bundle/Site_9"), miner.url(100, "/bundles/site-9"));
    let (an_agents, closed) = (agent.url(100, "/bundle/site-9"), "http://127.0.0.1:1/bundle/site-9");
    for (url, flags, code, named) in [
        (url.as_str(), vec![], 3, ["none is named", "--token-file"]),
        (url.as_str(), vec!["--token-file", empty], 3, ["holds no token", "create-token"]),
        (url.as_str(), vec!["--token-file", weak_file], 6, ["need `admin`", "the token has `read, write`"]),
        (wrong_id.as_str(), vec!["--token-file", good], 3, ["`Site_9`", "/bundle/AGENT"]),
        (wrong_path.as_str(), vec!["--token-file", good], 1, ["404", "check that the address"]),
        (an_agents.as_str(), vec!["--token-file", good], 1, ["404", "check that the address"]),
        (closed, vec!["--token-file", good], 4, ["no API answers at", "next:"]),
        (url.as_str(), vec!["--token-file", good, "--id", "site-8"], 6, ["site-9", "--id says site-8"]),
    ] {
        let refused = init(url, &flags);
        assert_eq!(refused.status.code(), Some(code), "{url} {flags:?}: {}", refused.stderr);
        assert!(named.iter().all(|part| refused.stderr.contains(part)), "{named:?}: {}", refused.stderr);
        let shown = [&admin, &weak].iter().any(|token| refused.stderr.contains(token.as_str()));
        assert!(!shown && !repo.exists(), "{}", refused.stderr);
    }
    let made = init(&url, &["--token-file", good]);
    assert!(made.stderr.contains("in the clear") && !made.stderr.contains(&admin), "{}", made.stderr);
    made.success().unwrap();
    let laid_out = ["config.toml", "bundle.json", "hub.creds", "token"];
    assert!(laid_out.iter().all(|name| repo.join(name).is_file()));
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let farm = farm("http-pipe", 0);
    for served in Served::both(&farm) {
        let mut command = farm::command(served.binary).unwrap();
        command.arg("--repo").arg(served.repo).args(["config", "default"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let finished = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(finished.status.success(), "{}", finished.status);
        assert_eq!(String::from_utf8_lossy(&finished.stderr), "");
    }
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_its_own_code_and_is_named() {
    let mut farm = farm("http-taken", 0);
    let ports = Served::both(&farm).map(|served| {
        [0, 1, 100].map(|above| served.url(above, "").rsplit(':').next().unwrap().parse::<u16>().unwrap())
    });
    farm.miner.take().unwrap().stop(LIMIT).unwrap();
    farm.sites[0].agent.take().unwrap().stop(LIMIT).unwrap();
    for (served, ports) in Served::both(&farm).into_iter().zip(ports) {
        for port in ports {
            let _holder = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            let refused = served.run(&["run"]);
            assert_eq!(refused.status.code(), Some(7), "{}", refused.stderr);
            let named = [format!("port {port}"), "ServePort".to_owned(), "next:".to_owned()];
            assert!(named.iter().all(|part| refused.stderr.contains(part)), "{}", refused.stderr);
        }
    }
}

#[test]
fn idle_processes_stop_at_once() {
    let mut farm = farm("http-stop", 1);
    let site = &mut farm.sites[0];
    let processes = [site.workers.remove(0), site.agent.take().unwrap(), farm.miner.take().unwrap()];
    for process in processes {
        let (name, started) = (process.name().to_owned(), Instant::now());
        let status = process.stop(LIMIT).unwrap();
        let took = started.elapsed();
        assert!(status.success(), "{name}: {status}");
        assert!(took < STOP_LIMIT, "{name} took {took:?}");
    }
}
