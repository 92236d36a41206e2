//! What `cargo xtask bench` measures against: bare JetStream, on a server with the farm's settings.
//!
//! `round-trips` publishes durably, one message after another. `dispatch` compares a task's way from
//! published to started with a bare message's way from published to pulled, in turn, in one run. `double`
//! publishes again, at a running farm's hub, what was published before: for `cargo xtask soak`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use sealfarm_common::commitment::Ticket;
use sealfarm_common::job::{AgentId, Fence, Job, JobAsk, Sealing};
use sealfarm_common::join::JoinAnswer;
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::sector::{MinerId, ProverKind, SectorId, SectorNumber, SectorSize};
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind};
use sealfarm_miner::sector::{SectorRecord, asked_job};
use sealfarm_nats::bus::{Bus, Headers, Message, Published};
use sealfarm_nats::connect::{NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::streams::{self, ConsumerSpec, Keep, StreamSpec};
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;
use sealfarm_tests::harness::Ground;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bytes of a bare message: about a task's.
const PAYLOAD_BYTES: usize = 700;
/// No single step of a probe takes longer.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// Results looked through for the latest.
const MESSAGES_MAX: usize = 100_000;

#[derive(Parser)]
#[command(about = "Measures bare JetStream beside the farm")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Durable publishes, one after another
    RoundTrips {
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Task published to task started, beside bare publish to pull
    Dispatch {
        /// How many of each
        #[arg(long, default_value_t = 300)]
        samples: u32,
    },
    /// Publish the jobs that are asked for, and the latest results, once more under new message ids
    Double {
        /// The hub
        #[arg(long)]
        hub: String,
        /// The miner's credentials
        #[arg(long)]
        credentials: PathBuf,
        /// At most so many of each
        #[arg(long, default_value_t = 16)]
        most: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let answer = match Arguments::parse().command {
        Command::RoundTrips { count } => round_trips(count).await?,
        Command::Dispatch { samples } => dispatch(samples).await?,
        Command::Double { hub, credentials, most } => double(hub, credentials, most).await?,
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

/// What a sender does that did not hear its acknowledgement, long after the server has forgotten the ids.
async fn double(url: String, credentials: PathBuf, most: usize) -> Result<serde_json::Value> {
    let (credentials, name) = (Some(credentials), "miner".to_owned());
    let address = NatsAddress { url, credentials, name, ..NatsAddress::default() };
    let bus = JetStreamBus::new(connect(&address).await?, 1);
    let hub = Hub(MinerId(1000));
    let mut again = Vec::new();
    for entry in bus.entries(&hub.sectors_bucket()).await? {
        let record: SectorRecord = wire::decode(&entry.value)?;
        if let Some(job) = asked_job(&record) {
            again.push(wire::job_message(&record.agent, &job)?);
        }
    }
    again.truncate(most);
    let results = bus.stored(&hub.results_stream(), &hub.results(), MESSAGES_MAX).await?;
    again.extend(results.into_iter().rev().take(most));
    let mut doubled = 0;
    for mut message in again {
        message.headers.set(wire::MESSAGE_ID, Uuid::new_v4().to_string());
        if bus.publish(message).await? != Published::AlreadyQueued {
            doubled += 1;
        }
    }
    Ok(serde_json::json!({"doubled": doubled}))
}

async fn bus(url: &str, name: &str) -> Result<Arc<dyn Bus>> {
    let address = NatsAddress { url: url.to_owned(), name: name.to_owned(), ..NatsAddress::default() };
    Ok(Arc::new(JetStreamBus::new(connect(&address).await?, 1)))
}

fn bare_stream() -> StreamSpec {
    StreamSpec {
        name: "bare".to_owned(),
        description: "bare messages to measure against",
        subjects: vec!["bare.>".to_owned()],
        keep: Keep::UntilAcked,
        one_a_subject: false,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
        age_max: Duration::ZERO,
        duplicate_window: Duration::from_secs(120),
    }
}

fn bare_message(n: u32) -> Message {
    Message {
        subject: format!("bare.{n}"),
        headers: Headers::default().with(wire::MESSAGE_ID, format!("bare {n}")),
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
    }
}

async fn round_trips(count: u32) -> Result<serde_json::Value> {
    let ground = Ground::new("round-trips")?;
    let server = ground.open_nats("nats")?;
    let bus = bus(&server.url(), "probe").await?;
    bus.ensure_stream(&bare_stream()).await?;
    let started = Instant::now();
    for n in 0..count {
        bus.publish(bare_message(n)).await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(serde_json::json!({"count": count, "seconds": seconds, "per_second": f64::from(count) / seconds}))
}

async fn dispatch(samples: u32) -> Result<serde_json::Value> {
    let ground = Ground::new("dispatch")?;
    let server = ground.open_nats("nats")?;
    let agent: AgentId = "probe".parse()?;
    let site = Site(agent.clone());
    let miner = MinerId(1000);
    let store = Store::create(&ground.scratch().path().join("store"), miner, &agent)?;
    let bus = bus(&server.url(), "probe").await?;
    for spec in streams::site_streams(&agent) {
        bus.ensure_stream(&spec).await?;
    }
    for spec in streams::site_consumers(&agent) {
        bus.ensure_consumer(&spec).await?;
    }
    let farm = FarmInfo::new(miner, SectorSize::KiB2, ProverKind::Null);
    let joins = bus.listen(&site.join()).await?;
    tokio::spawn(answer_joins(
        bus.clone(),
        joins,
        JoinAnswer::Welcome { farm, store: store.identity().id, benched: Default::default() },
    ));

    let mut command = ground.command("sealfarm-worker")?;
    command.args([
        "run",
        "--sector-size",
        "2KiB",
        "--miner",
        "t01000",
        "--agent",
        "probe",
        "--prover",
        "null",
    ]);
    command.args(["--worker-id", "probe-worker", "--tasks", "add-piece", "--site-nats", &server.url()]);
    command.arg("--store").arg(store.root());
    let worker = ground.spawn("worker", &mut command)?;
    worker.wait_ready(STEP_LIMIT, || {
        ensure!(worker.stderr_text()?.contains("ready"), "the worker has not joined");
        Ok(())
    })?;

    let mut pulled = start_bare_puller(&server.url()).await?;
    let mut progress = bus.listen(&site.progress_all()).await?;
    let (mut bare, mut task) = (Vec::new(), Vec::new());
    for n in 0..samples {
        let started = Instant::now();
        bus.publish(bare_message(n)).await?;
        tokio::time::timeout(STEP_LIMIT, pulled.recv()).await?.context("the bare puller ended")?;
        bare.push(started.elapsed());
        task.push(time_task(&*bus, &site, miner, &mut progress, n).await?);
    }
    worker.stop(STEP_LIMIT)?;
    Ok(serde_json::json!({"samples": samples, "bare": percentiles(bare), "task": percentiles(task)}))
}

async fn answer_joins(
    bus: Arc<dyn Bus>,
    mut joins: BoxStream<'static, Message>,
    answer: JoinAnswer,
) -> Result<()> {
    while let Some(question) = joins.next().await {
        if let Some(answer) = question.answer(wire::encode(&answer)?) {
            bus.tell(answer).await?;
        }
    }
    Ok(())
}

/// A puller that always waits, as an idle worker does; it says when a message is in hand.
async fn start_bare_puller(url: &str) -> Result<mpsc::Receiver<()>> {
    let bus = bus(url, "puller").await?;
    bus.ensure_stream(&bare_stream()).await?;
    bus.ensure_consumer(&ConsumerSpec {
        stream: "bare".to_owned(),
        name: "bare".to_owned(),
        filter: "bare.>".to_owned(),
        ack_wait: streams::ACK_WAIT,
        deliver_max: streams::DELIVER_MAX,
        ack_pending_max: streams::ACK_PENDING_MAX,
    })
    .await?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while !sender.is_closed() {
            let Ok(deliveries) =
                bus.pull("bare", "bare", 1, Duration::from_secs(5), &CancellationToken::new()).await
            else {
                continue;
            };
            for delivery in deliveries {
                if sender.send(()).await.is_err() || delivery.ack().await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

/// From the publish of a task to the worker's first sign of progress.
async fn time_task(
    bus: &dyn Bus,
    site: &Site,
    miner: MinerId,
    progress: &mut BoxStream<'static, Message>,
    n: u32,
) -> Result<Duration> {
    let sector = SectorId { miner, number: SectorNumber(u64::from(n) + 1) };
    let sealing =
        Sealing { proof: SectorSize::KiB2.seal_proof(), prover: ProverKind::Null, ticket: Ticket([1; 32]) };
    let job = Job::new(sector, Fence(1), None, JobAsk::PreCommit { sealing });
    let message = wire::task_message(site, &Task::new(job, TaskKind::AddPiece, 0))?;
    let started = Instant::now();
    bus.publish(message).await?;
    let wanted = site.progress(sector.number);
    let mut first = None;
    // The attempt's last message too, so that the worker is idle again for the next sample.
    loop {
        let heard =
            tokio::time::timeout(STEP_LIMIT, progress.next()).await?.context("no progress any more")?;
        if heard.subject != wanted {
            continue;
        }
        let elapsed = *first.get_or_insert(started.elapsed());
        let told: BTreeMap<String, serde_json::Value> = wire::decode(&heard.payload)?;
        if told.get("ended") == Some(&serde_json::Value::Bool(true)) {
            return Ok(elapsed);
        }
    }
}

fn percentiles(mut samples: Vec<Duration>) -> serde_json::Value {
    samples.sort_unstable();
    let at = |share: f64| {
        let index = ((samples.len() as f64 - 1.0) * share).round() as usize;
        samples.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    serde_json::json!({"p50_ms": at(0.50), "p99_ms": at(0.99)})
}
