//! A farm that things are done to: kept full of sectors in every phase, looked at, and held to account.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use sealfarm_common::null_proof;
use sealfarm_common::sector::MinerId;
use sealfarm_miner::sector::SectorRecord;
use sealfarm_nats::bus::{Bus, Message};
use sealfarm_nats::connect::{NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire::{self, SectorEvent};
use xtask::command;
use xtask::farm::{Farm, FarmOptions};
use xtask::scratch::Scratch;
use xtask::tools::{Tool, Tools};
use xtask::wait;

/// The longest until something that must happen has happened, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(120);
/// The longest until all sectors are through.
const SETTLE_LIMIT: Duration = Duration::from_secs(240);
/// Sectors pledged at a time when too few are under way.
const PLEDGED_AT_ONCE: u64 = 6;
/// With fewer sectors pre-committing, some phases would run dry.
const PRE_COMMITTING_MIN: u64 = 8;
/// Pause between two looks at a whole farm.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of the events of one farm, no more are read.
const EVENTS_MAX: usize = 1_000_000;

/// Where a sector is on its way, finer than its record's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its data is written.
    AddPiece,
    /// Its layers are made.
    PreCommit1,
    /// Its replica is made.
    PreCommit2,
    /// Its pre-commit is on its way to the chain.
    PreCommitSubmitting,
    /// The challenge delay runs.
    WaitSeed,
    /// The vanilla proof is made.
    Commit1,
    /// The proof is made.
    Commit2,
    /// The proof is on its way to the chain.
    CommitSubmitting,
    /// Layers and trees are removed.
    Finalizing,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::AddPiece,
        Self::PreCommit1,
        Self::PreCommit2,
        Self::PreCommitSubmitting,
        Self::WaitSeed,
        Self::Commit1,
        Self::Commit2,
        Self::CommitSubmitting,
        Self::Finalizing,
    ];

    /// The event with which a sector leaves it: its source's last tokens.
    const fn left_with(self) -> &'static str {
        match self {
            Self::AddPiece => "add-piece.finished",
            Self::PreCommit1 => "pre-commit-1.finished",
            Self::PreCommit2 => "precommitsubmitting",
            Self::PreCommitSubmitting => "waitseed",
            Self::WaitSeed => "committing",
            Self::Commit1 => "commit-1.finished",
            Self::Commit2 => "commitsubmitting",
            Self::CommitSubmitting => "finalizing",
            Self::Finalizing => "proving",
        }
    }

    /// The stage of a task that runs.
    fn of_task(kind: &str) -> Option<Self> {
        Some(match kind {
            "add-piece" => Self::AddPiece,
            "pre-commit-1" => Self::PreCommit1,
            "pre-commit-2" => Self::PreCommit2,
            "commit-1" => Self::Commit1,
            "commit-2" => Self::Commit2,
            "finalize" => Self::Finalizing,
            _ => return None,
        })
    }
}

/// A farm under faults.
pub struct Faulty {
    /// The farm.
    pub farm: Farm,
    /// The numbers it gave out.
    pub pledged: Vec<u64>,
}

/// How the farm stands this moment.
struct Look {
    stages: BTreeSet<Stage>,
    pre_committing: u64,
}

/// The way of one sector: when it left each stage.
pub type Way = BTreeMap<Stage, Timestamp>;

impl Faulty {
    /// What every farm under faults begins with: the null prover, waits that are short, phases that are
    /// long enough to be hit.
    pub fn options() -> FarmOptions {
        let phases = ["add-piece", "pre-commit-1", "pre-commit-2", "commit-1", "commit-2", "finalize"];
        let environment = [
            ("SEALFARM_SITE_ACK_WAIT", "3s"),
            ("SEALFARM_NATS_ACK_WAIT", "3s"),
            ("SEALFARM_AGENT_TTL", "3s"),
            ("SEALFARM_ELECTION_TTL", "3s"),
            ("SEALFARM_MAX_SECTORS_IN_FLIGHT", "64"),
        ];
        FarmOptions {
            prover: "null".to_owned(),
            workers: 2,
            epoch_duration: "500ms".to_owned(),
            challenge_delay: 2,
            null_durations: phases.iter().map(|phase| format!("{phase}=700ms")).collect(),
            environment: environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            ..FarmOptions::default()
        }
    }

    /// Starts one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(name: &str, options: &FarmOptions) -> Result<Self> {
        let farm = Farm::start(&Tools::locate()?, &Scratch::new(name)?, options, |_| ())?;
        Ok(Self { farm, pledged: Vec::new() })
    }

    /// Does `work` to the farm; its data and logs are kept where that fails.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn endure(mut self, work: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let endured = work(&mut self).await;
        if endured.is_err() {
            self.farm.scratch().keep();
        }
        endured?;
        self.farm.stop()
    }

    /// Pledges sectors.
    ///
    /// # Errors
    /// When the miner does not answer.
    pub fn pledge(&mut self, count: u64) -> Result<()> {
        let answer = self.farm.miner_json(&["sectors", "pledge", "--count", &count.to_string()])?;
        let numbers = answer["sectors"].as_array().context("no numbers")?;
        self.pledged.extend(numbers.iter().filter_map(serde_json::Value::as_u64));
        Ok(())
    }

    /// The stages in which a sector is this moment; of phases, those that run.
    ///
    /// # Errors
    /// When miner or agent do not answer.
    fn look(&self) -> Result<Look> {
        let mut stages = BTreeSet::new();
        for site in &self.farm.sites {
            let running = self.farm.tasks(site)?.into_iter().filter(|task| task.worker.is_some());
            stages.extend(running.filter_map(|task| Stage::of_task(&task.task)));
        }
        let info = self.farm.miner_json(&["info"])?;
        let count = |state: &str| info["sectors"][state].as_u64().unwrap_or_default();
        for (state, stage) in [
            ("PreCommitSubmitting", Stage::PreCommitSubmitting),
            ("WaitSeed", Stage::WaitSeed),
            ("CommitSubmitting", Stage::CommitSubmitting),
        ] {
            if count(state) > 0 {
                stages.insert(stage);
            }
        }
        Ok(Look { stages, pre_committing: count("PreCommitting") })
    }

    /// Waits until there is a sector in every stage of `wanted`, pledging more where the first ones run dry.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn fill(&mut self, wanted: &BTreeSet<Stage>) -> Result<()> {
        wait::until(LIMIT, "a sector in every stage", || {
            let Look { stages, pre_committing } = self.look()?;
            let missing: Vec<&Stage> = wanted.difference(&stages).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if pre_committing < PRE_COMMITTING_MIN {
                self.pledge(PLEDGED_AT_ONCE)?;
            }
            // Looking costs the farm something too.
            std::thread::sleep(LOOK_EVERY);
            bail!("nothing is in {missing:?}, {pre_committing} are pre-committing")
        })
    }

    /// Waits until every sector is Proving.
    ///
    /// # Errors
    /// When one fails, or does not come through.
    pub fn settle(&self) -> Result<()> {
        wait::until(SETTLE_LIMIT, "every sector Proving", || {
            let info = self.farm.miner_json(&["info"])?;
            let states = info["sectors"].as_object().context("no sectors")?;
            // A miner that stands by, or has not read its records yet, tells of none.
            let told: u64 = states.values().filter_map(serde_json::Value::as_u64).sum();
            ensure!(told >= self.pledged.len() as u64, "the miner tells of {told} sectors");
            let open: Vec<_> = states.iter().filter(|(state, _)| *state != "Proving").collect();
            if !open.is_empty() {
                std::thread::sleep(LOOK_EVERY);
                bail!("{open:?}");
            }
            Ok(())
        })
    }

    /// Holds the farm to account: every sector it gave a number to is Proving, once on the chain, with
    /// the CommR that an undisturbed farm gives for its ticket, and no phase was recorded twice.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub async fn account(&self) -> Result<()> {
        let audit = self.farm.audit(&self.pledged)?;
        ensure!(audit.wrong.is_empty(), "{}", audit.wrong.join("\n"));
        let bus = self.hub_bus().await?;
        let records = bus.entries(&Hub(MINER).sectors_bucket()).await?;
        ensure!(records.len() == audit.sectors, "{} records", records.len());
        for entry in records {
            let record: SectorRecord = wire::decode(&entry.value)?;
            let replica = record.state.replica().context("Proving without a replica")?;
            let expected = null_proof::comm_r(record.id(), replica.terms.ticket.ticket, record.proof);
            ensure!(
                replica.comm_r == expected,
                "sector {}: {} is not {expected}",
                record.number,
                replica.comm_r
            );
        }
        Ok(())
    }

    /// The miner that leads, as etcd knows it; none where its lease has run out.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn leader(&self) -> Result<Option<String>> {
        let mut etcdctl = Command::new(Tools::locate()?.path(Tool::Etcdctl)?);
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.farm.etcd.endpoint()]);
        etcdctl.args(["get", "--prefix", "--sort-by", "CREATE", "--limit", "1", "--print-value-only"]);
        let name = command::read(etcdctl.arg("/sealfarm/t01000/leader/"), LIMIT)?.success()?;
        Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty()))
    }

    /// Whether the miner says that the agent of a site is there: `live` or `gone`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn agent_state(&self, site: usize) -> Result<String> {
        let agents = self.farm.miner_json(&["agents", "list"])?;
        let id = self.farm.sites[site].id.as_str();
        let row = agents.as_array().into_iter().flatten().find(|row| row["info"]["id"] == id);
        row.and_then(|row| row["state"].as_str())
            .map(str::to_owned)
            .context("the miner does not know the agent")
    }

    /// Results and lines of histories that wait at a site for the hub.
    ///
    /// # Errors
    /// When the site's server does not answer.
    pub fn outbox(&self, site: usize) -> Result<u64> {
        let site = &self.farm.sites[site];
        let page = site.nats.monitor("/jsz?accounts=true&streams=true")?;
        let names = ["outbox", "history"].map(|name| format!("{}-{name}", site.id));
        let accounts = page["account_details"].as_array().into_iter().flatten();
        let streams = accounts.filter_map(|account| account["stream_detail"].as_array()).flatten();
        let owed = streams.filter(|stream| names.iter().any(|name| stream["name"] == name.as_str()));
        let waiting: Vec<u64> = owed.filter_map(|stream| stream["state"]["messages"].as_u64()).collect();
        ensure!(waiting.len() == names.len(), "no outbox");
        Ok(waiting.iter().sum())
    }

    /// The miner's messaging.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub async fn hub_bus(&self) -> Result<Arc<dyn Bus>> {
        let address = NatsAddress {
            url: self.farm.hub.url(),
            credentials: Some(self.farm.hub_credentials()),
            name: "miner".to_owned(),
            ..NatsAddress::default()
        };
        Ok(Arc::new(JetStreamBus::new(connect(&address).await?, 1)))
    }

    /// The ways of all sectors, by what miner and agents said in the hub's events.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn ways(&self) -> Result<BTreeMap<u64, Way>> {
        let (bus, hub) = (self.hub_bus().await?, Hub(MINER));
        let events = bus.stored(&hub.events_stream(), &hub.events(), EVENTS_MAX).await?;
        let mut ways: BTreeMap<u64, Way> = BTreeMap::new();
        for event in &events {
            let Some((number, stage, at)) = leaving(event) else { continue };
            let left = ways.entry(number).or_default().entry(stage).or_insert(at);
            *left = at.min(*left);
        }
        Ok(ways)
    }
}

const MINER: MinerId = MinerId(1000);

/// Which sector left which stage, if an event says so: `seal.t01000.event.<source>.<sector>.<what>`.
fn leaving(event: &Message) -> Option<(u64, Stage, Timestamp)> {
    let mut tokens = event.subject.splitn(6, '.');
    let number = tokens.nth(4)?.parse().ok()?;
    let what = tokens.next()?;
    let stage = Stage::ALL.into_iter().find(|stage| stage.left_with() == what)?;
    let told: SectorEvent = wire::decode(&event.payload).ok()?;
    Some((number, stage, told.at))
}

/// The stage a sector was in at a time; `None` before its first and after its last.
pub fn stage_at(way: &Way, at: Timestamp) -> Option<Stage> {
    Stage::ALL.into_iter().find(|stage| way.get(stage).is_some_and(|left| *left > at))
}
