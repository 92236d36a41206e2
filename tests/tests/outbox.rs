//! What a site owes the hub, on real servers: results wait however long the hub takes, lines of histories
//! give way, and no phase waits for either.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use bytes::Bytes;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::job::JobKind;
use sealfarm_common::sector::{MinerId, SectorNumber};
use sealfarm_nats::bus::{Bus, BusError, Headers, Message};
use sealfarm_nats::connect::{Client, NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::streams::{self, StreamSpec};
use sealfarm_nats::subjects::{Hub, Site, Source};
use sealfarm_nats::{outbox, wire};
use sealfarm_tests::harness::{Ground, NatsServer, Scratch, Tools, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use xtask::farm::{Farm, FarmOptions, WanKind};
use xtask::link::Weather;
use xtask::wait;

const LIMIT: Duration = Duration::from_secs(60);
const HUB: Hub = Hub(MinerId(1000));

fn site() -> Site {
    Site("site-1".parse().unwrap())
}

fn result(sector: u64, bytes: usize) -> Message {
    let subject = HUB.result(&site().0, JobKind::Commit, SectorNumber(sector));
    message(subject, &format!("result {sector}"), bytes)
}

fn line(sector: u64) -> Message {
    let site = site();
    message(HUB.event(Source::Agent(&site.0), SectorNumber(sector), "done"), &format!("line {sector}"), 2)
}

fn message(subject: String, id: &str, bytes: usize) -> Message {
    let headers = Headers::default().with(wire::MESSAGE_ID, id);
    Message { subject, headers, payload: Bytes::from(vec![b' '; bytes]) }
}

async fn client(server: &NatsServer) -> Client {
    let address = NatsAddress { url: server.url(), name: "test".into(), ..NatsAddress::default() };
    connect(&address).await.unwrap()
}

async fn bus(server: &NatsServer) -> Arc<JetStreamBus> {
    Arc::new(JetStreamBus::new(client(server).await, 1))
}

/// The site's streams and consumers, those for the hub with room for `most` messages each.
async fn set_up_site(bus: &JetStreamBus, most: i64) {
    let owed = [site().outbox_stream(), site().history_stream()];
    for spec in streams::site_streams(&site().0) {
        let messages_max = if owed.contains(&spec.name) { most } else { spec.messages_max };
        bus.ensure_stream(&StreamSpec { messages_max, bytes_max: 1 << 20, ..spec }).await.unwrap();
    }
    for spec in streams::site_consumers(&site().0) {
        bus.ensure_consumer(&spec).await.unwrap();
    }
}

/// The hub's streams, without a limit of their own that would set room aside.
async fn set_up_hub(bus: &JetStreamBus) {
    for spec in streams::hub_streams(HUB.0) {
        bus.ensure_stream(&StreamSpec { bytes_max: -1, ..spec }).await.unwrap();
    }
}

async fn stored(bus: &JetStreamBus, stream: String) -> Vec<String> {
    let messages = bus.stored(&stream, ">", 1_000).await.unwrap();
    messages.into_iter().map(|message| message.subject).collect()
}

/// Forwards until it is cancelled.
fn drain(at_site: &Arc<JetStreamBus>, at_hub: &Arc<JetStreamBus>) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let parts = (at_site.clone(), at_hub.clone(), site(), CrashPoints::none(), stop.clone());
    (stop, tokio::spawn(outbox::drain(parts.0, parts.1, parts.2, parts.3, parts.4)))
}

/// How often messages of a stream were delivered for the hub.
fn delivered(server: &NatsServer, stream: &str) -> u64 {
    let page = server.monitor("/jsz?accounts=true&streams=true&consumers=true").unwrap();
    let accounts = page["account_details"].as_array().unwrap();
    let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
    let found = streams.find(|found| found["name"] == stream).unwrap();
    found["consumer_detail"][0]["delivered"]["consumer_seq"].as_u64().unwrap()
}

async fn emptied(at_site: &JetStreamBus) {
    eventually(LIMIT, "nothing waits for the hub", async || {
        let waits =
            [stored(at_site, site().outbox_stream()).await, stored(at_site, site().history_stream()).await];
        ensure!(waits.iter().all(Vec::is_empty), "{waits:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lines_without_room_push_out_the_oldest_and_are_counted_and_a_result_is_refused_instead() {
    let ground = Ground::new("bounds").unwrap();
    let server = ground.open_nats("site").unwrap();
    let (bus, site) = (bus(&server).await, site());
    set_up_site(&bus, 4).await;
    let dropped = AtomicU64::new(0);
    for sector in 1..=10 {
        outbox::post_line(&*bus, &site, line(sector), &dropped).await.unwrap();
    }
    let kept: Vec<String> = (7..=10).map(|sector| site.history(&line(sector).subject)).collect();
    assert_eq!(stored(&bus, site.history_stream()).await, kept);
    assert_eq!(dropped.load(Ordering::Relaxed), 6);

    for sector in 1..=4 {
        outbox::post(&*bus, &site, result(sector, 2)).await.unwrap();
    }
    let full = outbox::post(&*bus, &site, result(5, 2)).await.unwrap_err();
    assert!(matches!(full, BusError::Full { .. }), "{full}");
    let kept: Vec<String> = (1..=4).map(|sector| site.outbox(&result(sector, 2).subject)).collect();
    assert_eq!(stored(&bus, site.outbox_stream()).await, kept);
}

#[tokio::test]
async fn a_hub_out_of_resources_is_waited_for_and_nothing_is_set_aside() {
    let ground = Ground::new("exhausted").unwrap();
    let hub = ground.nats("hub", |ports, data| {
        format!(
            "host: 127.0.0.1\nport: {}\nhttp: \"127.0.0.1:{}\"\njetstream {{ store_dir: {data:?}, max_file_store: 1MB }}\n",
            ports.client, ports.monitor
        )
    });
    let (hub, server) = (hub.unwrap(), ground.open_nats("site").unwrap());
    let (at_hub, at_site, site) = (bus(&hub).await, bus(&server).await, site());
    set_up_hub(&at_hub).await;
    set_up_site(&at_site, 100).await;
    let filler = StreamSpec {
        name: "filler".into(),
        subjects: vec!["filler".into()],
        bytes_max: -1,
        ..streams::hub_streams(HUB.0).remove(1)
    };
    at_hub.ensure_stream(&filler).await.unwrap();
    let refused = eventually(LIMIT, "the hub out of resources", async || {
        let filled = at_hub.publish(message("filler".into(), "", 60 << 10)).await;
        filled.err().ok_or_else(|| anyhow::anyhow!("it still takes some"))
    });
    let refused = refused.await.unwrap();
    assert!(matches!(refused, BusError::NotNow { .. }), "{refused}");

    for sector in 1..=5 {
        outbox::post(&*at_site, &site, result(sector, 2)).await.unwrap();
        outbox::post_line(&*at_site, &site, line(sector), &AtomicU64::new(0)).await.unwrap();
    }
    let (stop, draining) = drain(&at_site, &at_hub);
    for stream in [site.outbox_stream(), site.history_stream()] {
        let refused = eventually(LIMIT, "each refused four times", async || {
            let delivered = delivered(&server, &stream);
            ensure!(delivered >= 20, "{delivered} deliveries of {stream}");
            Ok(())
        });
        refused.await.unwrap();
    }
    assert_eq!(stored(&at_site, site.outbox_stream()).await.len(), 5);
    assert_eq!(stored(&at_site, site.history_stream()).await.len(), 5);
    assert_eq!(stored(&at_site, site.dead_stream()).await, Vec::<String>::new());
    at_hub.withdraw("filler", "filler").await.unwrap();
    emptied(&at_site).await;
    stop.cancel();
    draining.await.unwrap();
    assert_eq!(stored(&at_hub, HUB.results_stream()).await.len(), 5);
    assert_eq!(stored(&at_hub, HUB.events_stream()).await.len(), 5);
    assert_eq!(stored(&at_site, site.dead_stream()).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_the_hub_can_never_take_is_set_aside_with_the_reason_and_the_rest_goes_on() {
    let ground = Ground::new("never").unwrap();
    let (hub, server) = (ground.open_nats("hub").unwrap(), ground.open_nats("site").unwrap());
    let (at_hub, at_site, site) = (bus(&hub).await, bus(&server).await, site());
    set_up_hub(&at_hub).await;
    set_up_site(&at_site, 100).await;
    let context = jetstream::new((*client(&hub).await).clone());
    let mut results = context.get_stream(HUB.results_stream()).await.unwrap().cached_info().config.clone();
    results.max_message_size = 1024;
    context.update_stream(results).await.unwrap();

    outbox::post(&*at_site, &site, result(1, 2048)).await.unwrap();
    let foreign = HUB.result(&"site-2".parse().unwrap(), JobKind::Commit, SectorNumber(2));
    outbox::post(&*at_site, &site, message(foreign, "foreign", 2)).await.unwrap();
    outbox::post(&*at_site, &site, result(3, 2)).await.unwrap();
    let (stop, draining) = drain(&at_site, &at_hub);
    emptied(&at_site).await;
    stop.cancel();
    draining.await.unwrap();
    assert_eq!(stored(&at_hub, HUB.results_stream()).await, [result(3, 2).subject]);
    let letters = at_site.stored(&site.dead_stream(), ">", 10).await.unwrap();
    let mut reasons: Vec<&str> =
        letters.iter().map(|letter| letter.headers.value(wire::REASON).unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("message size exceeds"), "{reasons:?}");
    assert!(reasons[1].contains("the hub lets site-1 publish nothing under"), "{reasons:?}");
}

#[tokio::test]
async fn what_an_earlier_release_left_in_one_stream_reaches_the_hub() {
    let ground = Ground::new("one-stream").unwrap();
    let (hub, server) = (ground.open_nats("hub").unwrap(), ground.open_nats("site").unwrap());
    let (at_hub, at_site, site) = (bus(&hub).await, bus(&server).await, site());
    set_up_hub(&at_hub).await;
    let owed = |spec: &StreamSpec| spec.name == site.outbox_stream();
    let before = streams::site_streams(&site.0).into_iter().find(owed).unwrap();
    at_site.ensure_stream(&StreamSpec { bytes_max: 1 << 20, ..before }).await.unwrap();
    for waiting in [line(1), result(1, 2), line(2)] {
        outbox::post(&*at_site, &site, waiting).await.unwrap();
    }
    set_up_site(&at_site, 1_000_000).await;
    let (stop, draining) = drain(&at_site, &at_hub);
    emptied(&at_site).await;
    stop.cancel();
    draining.await.unwrap();
    assert_eq!(stored(&at_hub, HUB.results_stream()).await, [result(1, 2).subject]);
    assert_eq!(stored(&at_hub, HUB.events_stream()).await, [line(1).subject, line(2).subject]);
}

/// The agent's way to its site's server.
async fn at_site(farm: &Farm) -> Client {
    let place = &farm.sites[0];
    let (credentials, name) = (Some(place.credentials()), "agent".to_owned());
    let address = NatsAddress { url: place.nats.url(), credentials, name, ..NatsAddress::default() };
    connect(&address).await.unwrap()
}

/// Lowers how many messages a site's stream may hold.
async fn lower(client: &Client, stream: String, messages_max: i64) {
    let context = jetstream::new((**client).clone());
    let mut config = context.get_stream(&stream).await.unwrap().cached_info().config.clone();
    config.max_messages = messages_max;
    context.update_stream(config).await.unwrap();
}

fn finished(farm: &Farm, phase: &str) -> Result<usize> {
    let rows = farm.agent_json(0, &["store", "list"])?;
    Ok(rows.as_array().into_iter().flatten().filter(|row| row["phases"].get(phase).is_some()).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_cut_off_without_room_for_results_and_lines_goes_on_and_loses_no_result() {
    let options = FarmOptions {
        prover: "null".to_owned(),
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        null_durations: vec!["add-piece=3s".to_owned()],
        wan: WanKind::Relays,
        ..FarmOptions::default()
    };
    let scratch = Scratch::new("no-room").unwrap();
    let farm = Farm::start(&Tools::locate().unwrap(), &scratch, &options, |_| ()).unwrap();
    let client = at_site(&farm).await;
    lower(&client, site().outbox_stream(), 1).await;
    lower(&client, site().history_stream(), 1).await;
    farm.miner_command(&["sectors", "pledge", "--count", "3"]).unwrap().success().unwrap();
    wait::until(LIMIT, "three sectors in custody", || {
        let tasks = farm.tasks(&farm.sites[0])?;
        ensure!(tasks.len() == 3, "{} tasks", tasks.len());
        Ok(())
    })
    .unwrap();
    farm.sites[0].wan.as_ref().unwrap().set(Weather::CUT).unwrap();
    wait::until(LIMIT, "every replica finished at the site that is cut off", || {
        let done = finished(&farm, "pre-commit-2")?;
        ensure!(done == 3, "{done} of 3");
        Ok(())
    })
    .unwrap();
    let info = farm.agent_json(0, &["info"]).unwrap();
    assert!(info["lines_dropped"].as_u64().unwrap() >= 3, "{info}");
    let log = farm.sites[0].agent.as_ref().unwrap().stderr_text().unwrap();
    assert!(log.contains("lines of sectors' histories dropped"), "{log}");

    farm.sites[0].wan.as_ref().unwrap().set(Weather::GOOD).unwrap();
    wait::until(LIMIT, "every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    })
    .unwrap();
    let dead = stored(&JetStreamBus::new(client, 1), site().dead_stream()).await;
    assert_eq!(dead, Vec::<String>::new());
    farm.stop().unwrap();
}
