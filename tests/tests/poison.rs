//! Messages that nobody can use, on a real farm: set aside with the reason or dropped and counted, and
//! the work goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Fence, JobKind, JobResult, Outcome, named_id};
use sealfarm_common::sector::{MinerId, ProverKind, SectorId, SectorNumber};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::bus::{Bus, Headers, Message, Published};
use sealfarm_nats::connect::{NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::streams::DELIVER_MAX;
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;
use sealfarm_tests::harness::{Scratch, Tools};
use tokio_util::sync::CancellationToken;
use xtask::farm::{Farm, FarmOptions};
use xtask::wait;

const LIMIT: Duration = Duration::from_secs(60);
const MINER: MinerId = MinerId(1000);

fn farm(name: &str) -> Farm {
    let options = FarmOptions {
        prover: "null".to_owned(),
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate().unwrap(), &Scratch::new(name).unwrap(), &options, |_| ()).unwrap()
}

/// Pledges two more sectors and waits until all there are are Proving.
fn seals_on(farm: &Farm) {
    farm.miner_command(&["sectors", "pledge", "--count", "2"]).unwrap().success().unwrap();
    wait::until(LIMIT, "every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    })
    .unwrap();
}

async fn bus(url: String, credentials: PathBuf, user: &str) -> JetStreamBus {
    let (credentials, name) = (Some(credentials), user.to_owned());
    let address = NatsAddress { url, credentials, name, ..NatsAddress::default() };
    JetStreamBus::new(connect(&address).await.unwrap(), 1)
}

async fn publish(bus: &JetStreamBus, subject: &str, payload: &str) {
    let headers = Headers::default().with(wire::MESSAGE_ID, format!("{subject} {payload}"));
    let message = Message { subject: subject.to_owned(), headers, payload: payload.to_owned().into() };
    // What was set aside leaves its place a moment after its letter is there.
    let stored = sealfarm_tests::harness::eventually(LIMIT, "a place in the queue", async || {
        let published = bus.publish(message.clone()).await?;
        ensure!(published != Published::AlreadyQueued, "taken");
        Ok(())
    });
    stored.await.unwrap();
}

/// The reasons of the dead letters that came from `subject`, once there are `count`.
async fn reasons(
    bus: &JetStreamBus,
    stream: &str,
    pattern: &str,
    subject: &str,
    count: usize,
) -> Result<Vec<String>> {
    sealfarm_tests::harness::eventually(LIMIT, "dead letters", async || {
        let letters = bus.stored(stream, pattern, 100).await?;
        let reasons: Vec<String> = letters
            .iter()
            .filter(|letter| letter.headers.value(wire::SUBJECT) == Some(subject))
            .filter_map(|letter| letter.headers.value(wire::REASON).map(str::to_owned))
            .collect();
        ensure!(reasons.len() == count, "{letters:?}");
        Ok(reasons)
    })
    .await
}

const GARBAGE: [&str; 2] = ["not json", r#"{"v":9}"#];

#[track_caller]
fn tell_both(reasons: &[String]) {
    assert!(reasons[0].contains("does not decode") && reasons[1].contains("version 9"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_decode_at_the_hub_is_set_aside_and_miner_and_agent_go_on() {
    let farm = farm("poison-hub");
    let (hub, agent): (Hub, AgentId) = (Hub(MINER), "site-1".parse().unwrap());
    let bus = bus(farm.hub.url(), farm.hub_credentials(), "miner").await;
    for subject in [
        hub.result(&agent, JobKind::Commit, SectorNumber(7)),
        hub.job(&agent, JobKind::PreCommit, SectorNumber(7)),
    ] {
        for (n, payload) in GARBAGE.into_iter().enumerate() {
            publish(&bus, &subject, payload).await;
            // The queue of jobs holds one message under a subject.
            let stream = hub.dead_stream();
            reasons(&bus, &stream, &hub.dead_letters(), &subject, n + 1).await.unwrap();
        }
        tell_both(&reasons(&bus, &hub.dead_stream(), &hub.dead_letters(), &subject, 2).await.unwrap());
    }
    seals_on(&farm);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_decode_at_a_site_is_set_aside_and_agent_and_worker_go_on() {
    let farm = farm("poison-site");
    let place = &farm.sites[0];
    let site = Site("site-1".parse().unwrap());
    let bus = bus(place.nats.url(), place.credentials(), "agent").await;
    for subject in
        [site.task(TaskKind::PreCommit1, SectorNumber(7)), site.result(TaskKind::PreCommit1, SectorNumber(7))]
    {
        for (n, payload) in GARBAGE.into_iter().enumerate() {
            publish(&bus, &subject, payload).await;
            let stream = site.dead_stream();
            reasons(&bus, &stream, &site.dead_letters(), &subject, n + 1).await.unwrap();
        }
        tell_both(&reasons(&bus, &site.dead_stream(), &site.dead_letters(), &subject, 2).await.unwrap());
    }
    seals_on(&farm);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_for_an_unknown_sector_or_with_an_old_fence_is_dropped_counted_and_logged_once() {
    let farm = farm("stale-results");
    seals_on(&farm);
    let bus = bus(farm.hub.url(), farm.hub_credentials(), "miner").await;
    let stale = |number: u64, fence: u64| JobResult {
        id: named_id(&format!("nobody asked for {number} {fence}")),
        sector: SectorId { miner: MINER, number: SectorNumber(number) },
        kind: JobKind::Commit,
        fence: Fence(fence),
        agent: "site-1".parse().unwrap(),
        prover: ProverKind::Null,
        phases: Default::default(),
        outcome: Outcome::Failed(Failure::new(FailureClass::Compute, "late")),
    };
    let before = farm.miner_json(&["sectors", "status", "1"]).unwrap();
    for result in [stale(404, 1), stale(1, 0)] {
        bus.publish(wire::job_result_message(&result).unwrap()).await.unwrap();
    }
    wait::until(LIMIT, "both counted", || {
        let info = farm.miner_json(&["info"])?;
        ensure!(info["dropped"]["unknown-sector"] == 1 && info["dropped"]["old-fence"] == 1, "{info}");
        Ok(())
    })
    .unwrap();
    let log = farm.miner.as_ref().unwrap().stderr_text().unwrap();
    for why in ["unknown-sector", "old-fence"] {
        assert_eq!(log.lines().filter(|line| line.contains(why)).count(), 1, "{log}");
    }
    assert_eq!(farm.miner_json(&["sectors", "status", "1"]).unwrap(), before, "the record is as it was");
    seals_on(&farm);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_nobody_can_decode_is_shown_with_its_sector_and_a_retry_asks_again() {
    let mut farm = farm("poison-retry");
    farm.sites[0].workers.drain(..).for_each(xtask::process::Process::kill);
    farm.miner_command(&["sectors", "pledge"]).unwrap().success().unwrap();
    let retry = || farm.miner_command(&["sectors", "retry", "1"]).unwrap();
    let refused = retry();
    assert_eq!(refused.status.code(), Some(6), "the site is at it: {}", refused.stderr);

    let bus = bus(farm.hub.url(), farm.hub_credentials(), "miner").await;
    let agent: AgentId = "site-1".parse().unwrap();
    let subject = Hub(MINER).result(&agent, JobKind::PreCommit, SectorNumber(1));
    publish(&bus, &subject, "not json").await;
    wait::until(LIMIT, "the reason shown", || {
        let why = farm.miner_json(&["jobs", "why", "1"])?;
        ensure!(why["turn"].as_str().is_some_and(|turn| turn.contains("set aside: the payload")), "{why}");
        Ok(())
    })
    .unwrap();
    let status = farm.miner_json(&["sectors", "status", "1"]).unwrap();
    assert_eq!(status["letters"][0]["subject"], subject.as_str(), "{status}");
    retry().success().unwrap();
    assert_eq!(farm.miner_json(&["sectors", "status", "1"]).unwrap()["record"]["fence"], 2);
    let worker = farm.start_worker(&farm.sites[0], 7).unwrap();
    farm.sites[0].workers.push(worker);
    seals_on(&farm);
}

/// A farm whose only sector waits for a worker, with the agent's messaging at its site.
async fn waiting_for_a_worker(name: &str) -> (Farm, JetStreamBus, Site) {
    let mut farm = farm(name);
    farm.sites[0].workers.drain(..).for_each(xtask::process::Process::kill);
    farm.miner_command(&["sectors", "pledge"]).unwrap().success().unwrap();
    let place = &farm.sites[0];
    let (bus, site) =
        (bus(place.nats.url(), place.credentials(), "agent").await, Site("site-1".parse().unwrap()));
    wait::until(LIMIT, "the first task in its queue", || {
        let tasks = farm.tasks(&farm.sites[0])?;
        ensure!(tasks.len() == 1 && tasks[0].task == "add-piece", "{tasks:?}");
        Ok(())
    })
    .unwrap();
    (farm, bus, site)
}

fn start_worker(farm: &mut Farm) {
    let worker = farm.start_worker(&farm.sites[0], 7).unwrap();
    farm.sites[0].workers.push(worker);
}

fn all_proving(farm: &Farm) {
    wait::until(LIMIT, "every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_nobody_can_decode_is_told_to_the_miner_asked_for_again_shown_and_put_back_by_command() {
    let (mut farm, bus, site) = waiting_for_a_worker("poison-task").await;
    let (stream, subject) = (site.tasks_stream(), site.task(TaskKind::AddPiece, SectorNumber(1)));
    let queued = bus.stored(&stream, &subject, 1).await.unwrap().remove(0);
    bus.withdraw(&stream, &subject).await.unwrap();
    let spoilt = Message { payload: "not json".into(), ..queued };
    let headers = spoilt.headers.clone().with(wire::MESSAGE_ID, "spoilt");
    bus.publish(Message { headers, ..spoilt }).await.unwrap();
    start_worker(&mut farm);
    all_proving(&farm);
    let status = farm.miner_json(&["sectors", "status", "1", "--log"]).unwrap();
    assert_eq!(status["letters"][0]["subject"], subject.as_str(), "{status}");
    assert_eq!(status["record"]["fence"], 2, "its job failed and was asked for again: {status}");
    assert_eq!(farm.agent_json(0, &["info"]).unwrap()["jobs_in_custody"], 0);

    let letters = farm.agent_json(0, &["dead", "list"]).unwrap();
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    assert_eq!((&letters[0]["sector"], &letters[0]["subject"]), (&1.into(), &subject.as_str().into()));
    let first = letters[0]["number"].clone();
    let number = first.to_string();
    let shown = farm.agent_command(0, &["dead", "show", &number]).unwrap().success().unwrap();
    assert!(shown.contains("the payload does not decode") && shown.contains("not json"), "{shown}");
    let back = farm.agent_command(0, &["dead", "requeue", &number]).unwrap().success().unwrap();
    assert!(back.contains(&subject), "{back}");
    // Nobody can decode it now either.
    wait::until(LIMIT, "another letter in its place", || {
        let letters = farm.agent_json(0, &["dead", "list"])?;
        ensure!(letters.as_array().is_some_and(|all| all.len() == 1), "{letters}");
        ensure!(letters[0]["number"] != first, "{letters}");
        Ok(())
    })
    .unwrap();
    let gone = farm.agent_command(0, &["dead", "requeue", &number]).unwrap();
    assert_eq!(gone.status.code(), Some(5), "{}", gone.stderr);
    let at_hub = farm.miner_json(&["dead", "list"]).unwrap();
    let at_hub = at_hub[0]["number"].to_string();
    let shown = farm.miner_command(&["dead", "show", &at_hub]).unwrap().success().unwrap();
    assert!(shown.contains(&subject) && shown.contains("the payload does not decode"), "{shown}");
    seals_on(&farm);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ran_out_of_deliveries_is_answered_shown_in_the_history_and_asked_for_again() {
    let (mut farm, bus, site) = waiting_for_a_worker("out-of-deliveries").await;
    for delivered in 1..DELIVER_MAX {
        let stop = CancellationToken::new();
        let taken = bus.pull(&site.tasks_stream(), "add-piece", 1, LIMIT, &stop).await.unwrap();
        assert_eq!(taken[0].delivered, delivered as u64);
        taken[0].nak(Duration::ZERO).await.unwrap();
    }
    start_worker(&mut farm);
    all_proving(&farm);
    let log = farm.miner_command(&["sectors", "status", "1", "--log"]).unwrap().success().unwrap();
    assert!(log.contains("ran out of deliveries: 19 attempts ended without an answer"), "{log}");
}
