//! One chain for several miners: the dev chain in a process of its own, reached as a full node by `LOTUS_PATH`.
//! Real processes and servers, the null prover.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sealfarm_tests::harness::{Finished, PortBlock, Process, Scratch, Tools, ports};
use serde_json::{Value, json};
use xtask::farm::{self, ChainDaemon, Farm, FarmOptions, Part, SectorRow};
use xtask::{process, wait};

const LIMIT: Duration = Duration::from_secs(120);
/// The longest a real sector may take; most of it is commit 2, about a minute of two cores.
const REAL_LIMIT: Duration = Duration::from_secs(900);
/// The lease of a leader.
const TTL: &str = "3s";

fn options() -> FarmOptions {
    FarmOptions {
        prover: "null".to_owned(),
        agents: 1,
        workers: 2,
        epoch_duration: "100ms".to_owned(),
        challenge_delay: 4,
        null_durations: vec!["pre-commit-2=300ms".to_owned()],
        shared_chain: true,
        environment: vec![("SEALFARM_ELECTION_TTL", TTL.to_owned())],
        ..FarmOptions::default()
    }
}

fn start(name: &str, options: &FarmOptions) -> Farm {
    Farm::start(&Tools::locate().unwrap(), &Scratch::new(name).unwrap(), options, |_| ()).unwrap()
}

fn pledge(farm: &Farm, count: usize) -> Vec<u64> {
    let pledged = farm.miner_json(&["sectors", "pledge", "--count", &count.to_string()]).unwrap();
    serde_json::from_value(pledged["sectors"].clone()).unwrap()
}

fn all_proving(rows: &[SectorRow], count: usize) -> Result<()> {
    let proving = rows.iter().filter(|row| row.state == "Proving").count();
    ensure!(proving == count, "{:?}", states(rows));
    Ok(())
}

fn states(rows: &[SectorRow]) -> Vec<&str> {
    rows.iter().map(|row| row.state.as_str()).collect()
}

/// A call to the chain as any client of Lotus makes it: address and token from the node's files.
fn ask(chain: &ChainDaemon, method: &str, params: Value) -> Result<Value> {
    let read = |name: &str| fs::read_to_string(chain.dir().join(name)).map(|text| text.trim().to_owned());
    let (api, token) = (read("api")?, read("token")?);
    let parts: Vec<&str> = api.split('/').collect();
    let ["", "ip4", ip, "tcp", port, "http"] = parts.as_slice() else { anyhow::bail!("api is {api}") };
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": format!("Filecoin.{method}"), "params": params});
    let mut answer = ureq::post(format!("http://{ip}:{port}/rpc/v1"))
        .header("Authorization", format!("Bearer {token}"))
        .header("Content-Type", "application/json")
        .send(request.to_string())?;
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
    answer.get("result").cloned().with_context(|| answer.to_string())
}

/// Every sector of the farm is on the chain as its record says.
fn expect_on_chain(chain: &ChainDaemon, rows: &[SectorRow]) {
    let mut commitments = BTreeSet::new();
    for row in rows {
        let sector = ask(chain, "StateSectorGetInfo", json!(["t01000", row.number, []])).unwrap();
        assert_eq!(sector["SectorNumber"], row.number, "{sector}");
        commitments.insert(sector["SealedCID"]["/"].as_str().unwrap().to_owned());
    }
    assert_eq!(commitments.len(), rows.len());
}

/// A second miner of the farm, with a repository of its own.
struct Second {
    repo: PathBuf,
    scratch: Scratch,
    process: Process,
    _ports: PortBlock,
}

impl Second {
    fn start(farm: &Farm, name: &str) -> Result<Self> {
        let chain = farm.chain.as_ref().context("the farm has a chain of its own")?;
        let (scratch, ports) = (Scratch::new(name)?, ports::claim(&[0, 1, 2, 101])?);
        let (repo, base) = (scratch.path().join("repo"), ports.base());
        let mut init = farm::command("sealfarm-miner")?;
        init.arg("--repo").arg(&repo).args(["init", "--actor", "t01000", "--sector-size", "2KiB"]);
        init.args(["--prover", "null"]).args(chain.init_flags());
        init.args(["--nats", &farm.hub.url(), "--etcd", &format!("127.0.0.1:{}", farm.etcd.port())]);
        init.arg("--nats-credentials").arg(farm.hub_credentials());
        init.args(["--api", &format!("/ip4/127.0.0.1/tcp/{base}/http")]);
        init.args(["--serve-ip", "127.0.0.1", "--serve-port", &(base + 1).to_string()]);
        process::run("init", &scratch, &mut init, LIMIT)?.success()?;
        let mut run = farm::command("sealfarm-miner")?;
        run.env("SEALFARM_ELECTION_TTL", TTL).env("LOTUS_PATH", chain.dir());
        run.arg("--repo").arg(&repo).arg("run");
        let process = Process::spawn("second", &scratch, &mut run)?;
        let second = Self { repo, scratch, process, _ports: ports };
        wait::until(LIMIT, "the second miner serves", || second.json(&["info"]).map(drop))?;
        Ok(second)
    }

    fn command(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = farm::command("sealfarm-miner")?;
        command.arg("--repo").arg(&self.repo).args(arguments);
        process::run("command", &self.scratch, &mut command, LIMIT)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.command(&[arguments, &["--json"]].concat())?.success()?;
        serde_json::from_str(&printed).context("it prints JSON")
    }

    fn sectors(&self) -> Result<Vec<SectorRow>> {
        serde_json::from_value(self.json(&["sectors", "list"])?).context("a list of sectors")
    }
}

#[test]
fn a_farm_with_lotus_path_at_the_chain_daemon_takes_sectors_to_proving() {
    let farm = start("shared-chain", &options());
    let info = farm.miner_json(&["info"]).unwrap();
    assert_eq!(info["chain"], "lotus");
    let notices = info["notices"].to_string();
    assert!(notices.contains("dev chain") && notices.contains("NULL PROVER"), "{notices}");
    let pledged = pledge(&farm, 4);
    wait::until(LIMIT, "every sector Proving", || all_proving(&farm.sectors()?, 4)).unwrap();
    let audit = farm.audit(&pledged).unwrap();
    assert_eq!((audit.wrong, audit.proving), (Vec::<String>::new(), 4));
    let chain = farm.chain.as_ref().unwrap();
    expect_on_chain(chain, &farm.sectors().unwrap());
    assert_eq!(ask(chain, "StateMinerAllocated", json!(["t01000", []])).unwrap(), json!([1, 4]));
    farm.stop().unwrap();
}

#[test]
fn the_leader_is_killed_and_a_second_miner_proves_every_sector_with_one_message_of_each_kind() {
    let mut farm = start("shared-chain-killed", &options());
    let second = Second::start(&farm, "shared-chain-second").unwrap();
    assert_eq!(second.json(&["info"]).unwrap()["leading"], false);
    let pledged = pledge(&farm, 12);
    wait::until(LIMIT, "sectors before, on and behind the chain", || {
        let rows = farm.sectors()?;
        let waits = |name: &str| rows.iter().any(|row| row.state == name);
        ensure!(waits("PreCommitting") || waits("PreCommitSubmitting"), "{:?}", states(&rows));
        ensure!(waits("WaitSeed") || waits("CommitSubmitting"), "{:?}", states(&rows));
        Ok(())
    })
    .unwrap();

    farm.kill(Part::Miner).unwrap();
    let killed = Instant::now();
    wait::until(LIMIT, "the second miner leads", || {
        ensure!(second.json(&["info"])?["leading"] == true, "not yet");
        Ok(())
    })
    .unwrap();
    let leads = killed.elapsed().as_secs_f64();
    wait::until(LIMIT, "it has the records", || second.sectors().map(drop)).unwrap();
    let acts = killed.elapsed().as_secs_f64();
    eprintln!(
        "the second miner leads {leads:.1} s after the first was killed, acts after {acts:.1} s, lease {TTL}"
    );
    wait::until(LIMIT, "every sector Proving", || all_proving(&second.sectors()?, 12)).unwrap();
    let more = second.json(&["sectors", "pledge"]).unwrap();
    assert_eq!(more["sectors"], json!([13]), "numbers go on");
    wait::until(LIMIT, "the next one Proving", || all_proving(&second.sectors()?, 13)).unwrap();

    second.process.stop(LIMIT).unwrap();
    farm.start_miner().unwrap();
    wait::until(LIMIT, "the first leads again", || all_proving(&farm.sectors()?, 13)).unwrap();
    let audit = farm.audit(&[pledged, vec![13]].concat()).unwrap();
    assert_eq!((audit.wrong, audit.proving), (Vec::<String>::new(), 13));
    expect_on_chain(farm.chain.as_ref().unwrap(), &farm.sectors().unwrap());
    farm.stop().unwrap();
}

#[test]
fn reorgs_by_command_with_sectors_under_way_end_with_all_proving() {
    let farm = start("shared-chain-reorg", &FarmOptions { challenge_delay: 10, ..options() });
    let chain = farm.chain.as_ref().unwrap();
    let count = 6;
    pledge(&farm, count);
    let in_state = |name: &str| {
        wait::until(LIMIT, name, || {
            let rows = farm.sectors()?;
            ensure!(rows.iter().any(|row| row.state == name), "{:?}", states(&rows));
            Ok(())
        })
        .unwrap();
    };
    in_state("WaitSeed");
    let done = chain.reorg(8, false).unwrap();
    eprintln!("with sectors waiting for their seeds: {done}");
    assert!(done["returned"].as_u64().unwrap() > 0, "{done}");
    in_state("Proving");
    let rows = farm.sectors().unwrap();
    let proven = rows.iter().find(|row| row.state == "Proving").unwrap();
    let sector = ask(chain, "StateSectorGetInfo", json!(["t01000", proven.number, []])).unwrap();
    let head = ask(chain, "ChainHead", json!([])).unwrap()["Height"].as_u64().unwrap();
    // A little below its proof, and not down to its seed, which lies seven epochs or more below.
    let epochs = head - sector["Activation"].as_u64().unwrap() + 3;
    let done = chain.reorg(u32::try_from(epochs).unwrap(), true).unwrap();
    eprintln!("with sectors proven, messages thrown away: {done}");
    wait::until(LIMIT, "the miner misses what was thrown away", || {
        ensure!(farm.log("miner")?.contains("the chain lost a message"), "not yet");
        Ok(())
    })
    .unwrap();
    wait::until(LIMIT, "every sector Proving", || {
        let rows = farm.sectors()?;
        all_proving(&rows, count)?;
        for row in &rows {
            let sector = ask(chain, "StateSectorGetInfo", json!(["t01000", row.number, []]))?;
            ensure!(!sector.is_null(), "sector {} is not on the chain", row.number);
        }
        Ok(())
    })
    .unwrap();
    expect_on_chain(chain, &farm.sectors().unwrap());
    farm.stop().unwrap();
}

#[test]
fn a_chain_that_is_killed_and_comes_back_costs_time_and_no_sector() {
    let mut farm = start("shared-chain-outage", &options());
    let pledged = pledge(&farm, 6);
    wait::until(LIMIT, "a sector on the chain", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().any(|row| row.state == "WaitSeed"), "{:?}", states(&rows));
        Ok(())
    })
    .unwrap();
    let chain = farm.chain.as_mut().unwrap();
    chain.kill();
    wait::until(LIMIT, "the miner misses the chain", || {
        ensure!(farm.log("miner")?.contains("the chain's head is not known"), "not yet");
        Ok(())
    })
    .unwrap();
    farm.chain.as_mut().unwrap().start_again().unwrap();
    wait::until(LIMIT, "every sector Proving", || all_proving(&farm.sectors()?, 6)).unwrap();
    let audit = farm.audit(&pledged).unwrap();
    assert_eq!((audit.wrong, audit.proving), (Vec::<String>::new(), 6));
    farm.stop().unwrap();
}

#[test]
fn a_real_proof_is_verified_by_the_chain_daemon() {
    let options = FarmOptions { shared_chain: true, workers: 2, ..FarmOptions::default() };
    let farm = start("shared-chain-real", &options);
    let pledged = pledge(&farm, 1);
    wait::until(REAL_LIMIT, "the sector Proving", || all_proving(&farm.sectors()?, 1)).unwrap();
    let audit = farm.audit(&pledged).unwrap();
    assert_eq!((audit.wrong, audit.proving), (Vec::<String>::new(), 1));
    let chain = farm.chain.as_ref().unwrap();
    assert_eq!(ask(chain, "StateNetworkName", json!([])).unwrap(), "devchain");
    expect_on_chain(chain, &farm.sectors().unwrap());
    farm.stop().unwrap();
}
