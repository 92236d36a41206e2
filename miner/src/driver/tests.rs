use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use sealfarm_common::commitment::Digest;
use sealfarm_common::job::{AgentId, FinalSizes, Job, JobAsk, JobKind, JobOutput, JobResult, Outcome};
use sealfarm_common::membership::{AgentInfo, MembershipEvent};
use sealfarm_common::null_proof;
use sealfarm_common::sector::SectorNumber;
use sealfarm_nats::bus::{Acknowledge, Delivery, Entry, Message, Published};
use sealfarm_nats::streams::{BucketSpec, ConsumerSpec, StreamSpec};
use sealfarm_nats::wire;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;
use crate::chain::dev::{DevChain, DevChainConfig, DevChainSetup};
use crate::chain::verifier::NullVerifier;

mod late_chain;
mod moving;
mod reorgs;
mod take_over;

const MINER: MinerId = MinerId(1000);

/// A bus in memory: as much of it as the driver uses.
#[derive(Default)]
struct MemoryBus {
    inner: Arc<Mutex<Inner>>,
    arrived: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    messages: Vec<Message>,
    results: VecDeque<Message>,
    acked: Vec<String>,
    withdrawn: Vec<String>,
    entries: BTreeMap<String, (Bytes, u64)>,
    revision: u64,
}

struct MemoryAck {
    inner: Arc<Mutex<Inner>>,
    message: Message,
    arrived: Arc<Notify>,
}

#[async_trait]
impl Acknowledge for MemoryAck {
    async fn ack(&self) -> Result<(), BusError> {
        self.inner.lock().unwrap().acked.push(self.message.subject.clone());
        Ok(())
    }
    async fn nak(&self, delay: Duration) -> Result<(), BusError> {
        let (inner, message, arrived) = (self.inner.clone(), self.message.clone(), self.arrived.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            inner.lock().unwrap().results.push_back(message);
            arrived.notify_one();
        });
        Ok(())
    }
    async fn progress(&self) -> Result<(), BusError> {
        Ok(())
    }
    async fn term(&self, _reason: &str) -> Result<(), BusError> {
        Ok(())
    }
}

impl MemoryBus {
    /// The jobs published for an agent that nobody has seen before.
    fn new_jobs(&self, agent: &AgentId, seen: &mut usize) -> Vec<Job> {
        let inner = self.inner.lock().unwrap();
        let of_agent = format!(".job.{agent}.");
        let jobs = inner.messages.iter().filter(|m| m.subject.contains(&of_agent)).skip(*seen);
        let jobs: Vec<Job> = jobs.map(|m| wire::decode(&m.payload).unwrap()).collect();
        *seen += jobs.len();
        jobs
    }

    fn answer(&self, message: Message) {
        self.inner.lock().unwrap().results.push_back(message);
        self.arrived.notify_one();
    }

    fn subjects(&self, part: &str) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.messages.iter().filter(|m| m.subject.contains(part)).map(|m| m.subject.clone()).collect()
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn ensure_stream(&self, _spec: &StreamSpec) -> Result<(), BusError> {
        Ok(())
    }
    async fn ensure_consumer(&self, _spec: &ConsumerSpec) -> Result<(), BusError> {
        Ok(())
    }
    async fn ensure_bucket(&self, _spec: &BucketSpec) -> Result<(), BusError> {
        Ok(())
    }
    async fn publish(&self, message: Message) -> Result<Published, BusError> {
        let mut inner = self.inner.lock().unwrap();
        let id = message.headers.value(wire::MESSAGE_ID);
        if id.is_some() && inner.messages.iter().any(|m| m.headers.value(wire::MESSAGE_ID) == id) {
            return Ok(Published::Duplicate);
        }
        inner.messages.push(message);
        Ok(Published::Stored(inner.messages.len() as u64))
    }
    async fn pull(
        &self,
        _stream: &str,
        _consumer: &str,
        most: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BusError> {
        let until = Instant::now() + wait;
        loop {
            let mut taken = Vec::new();
            {
                let mut inner = self.inner.lock().unwrap();
                while taken.len() < most {
                    let Some(message) = inner.results.pop_front() else { break };
                    let ack = MemoryAck {
                        inner: self.inner.clone(),
                        message: message.clone(),
                        arrived: self.arrived.clone(),
                    };
                    taken.push(Delivery::new(message, 1, 1, Box::new(ack)));
                }
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
            let wait = tokio::time::timeout_at(until, self.arrived.notified());
            let Some(Ok(())) = stop.run_until_cancelled(wait).await else { return Ok(taken) };
        }
    }
    async fn tell(&self, _message: Message) -> Result<(), BusError> {
        Ok(())
    }
    async fn listen(&self, _pattern: &str) -> Result<BoxStream<'static, Message>, BusError> {
        Ok(Box::pin(futures::stream::pending()))
    }
    async fn ask(&self, message: Message, _wait: Duration) -> Result<Message, BusError> {
        Ok(message)
    }
    async fn numbered(
        &self,
        _stream: &str,
        pattern: &str,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, Message)>, BusError> {
        let inner = self.inner.lock().unwrap();
        let stored = (1..).zip(&inner.messages).filter(|(n, m)| *n > after && m.subject == pattern);
        Ok(stored.take(most).map(|(n, m)| (n, m.clone())).collect())
    }
    async fn remove(&self, _stream: &str, _sequence: u64) -> Result<bool, BusError> {
        Ok(false)
    }
    async fn withdraw(&self, _stream: &str, pattern: &str) -> Result<u64, BusError> {
        // The messages stay where the tests look at them.
        self.inner.lock().unwrap().withdrawn.push(pattern.to_owned());
        Ok(0)
    }
    async fn shed(&self, _stream: &str, _share: u64) -> Result<u64, BusError> {
        Ok(0)
    }
    async fn entry(&self, _bucket: &str, key: &str) -> Result<Option<Entry>, BusError> {
        let inner = self.inner.lock().unwrap();
        Ok(inner.entries.get(key).map(|(value, revision)| Entry {
            key: key.to_owned(),
            value: value.clone(),
            revision: *revision,
        }))
    }
    async fn entries(&self, _bucket: &str) -> Result<Vec<Entry>, BusError> {
        let inner = self.inner.lock().unwrap();
        let entry = |(key, (value, revision)): (&String, &(Bytes, u64))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        Ok(inner.entries.iter().map(entry).collect())
    }
    async fn put_entry(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<u64, BusError> {
        let mut inner = self.inner.lock().unwrap();
        if inner.entries.get(key).map_or(0, |(_, revision)| *revision) != expected {
            return Err(BusError::Conflict { bucket: bucket.into(), key: key.into(), expected });
        }
        inner.revision += 1;
        let revision = inner.revision;
        inner.entries.insert(key.to_owned(), (value, revision));
        Ok(revision)
    }
}

/// A clock that goes with tokio's.
fn clock() -> Clock {
    let (start, begin) = (Timestamp::from_second(1_790_000_000).unwrap(), Instant::now());
    Clock::from_fn(move || start + begin.elapsed())
}

struct Farm {
    bus: Arc<MemoryBus>,
    chain: Arc<DevChain>,
    clock: Clock,
    members: watch::Sender<Members>,
    leadership: watch::Sender<Leadership>,
}

impl Farm {
    async fn new() -> Self {
        let clock = clock();
        let setup = DevChainSetup {
            miner: MINER,
            sector_size: SectorSize::KiB2,
            config: DevChainConfig { challenge_delay: Some(2), ..DevChainConfig::default() },
            dir: None,
            rng_seed: Some([1; 32]),
            verifier: Arc::new(NullVerifier),
            clock: clock.clone(),
        };
        let chain = Arc::new(DevChain::open(setup).await.unwrap());
        let (members, _) = watch::channel(Members::default());
        let (leadership, _) = watch::channel(Leadership::Leader { fence_revision: 1 });
        Self { bus: Arc::default(), chain, clock, members, leadership }
    }

    fn agent_joins(&self, id: &str) {
        let info = AgentInfo {
            id: id.parse().unwrap(),
            serve: String::new(),
            version: "0.1.0".into(),
            sector_sizes: vec![SectorSize::KiB2],
            prover: ProverKind::Null,
            slots: JobKind::ALL.into_iter().map(|kind| (kind, 2)).collect(),
            free_store_bytes: 0,
            workers: BTreeMap::new(),
            draining: false,
            condition: Default::default(),
        };
        let now = self.clock.now();
        self.members.send_modify(|members| drop(members.apply(MembershipEvent::Put(info), now)));
    }

    fn agent_goes(&self, id: &str) {
        let (now, gone) = (self.clock.now(), MembershipEvent::Delete(id.parse().unwrap()));
        self.members.send_modify(|members| drop(members.apply(gone, now)));
    }

    fn miner(&self) -> (Handle, CancellationToken, tokio::task::JoinHandle<()>) {
        self.candidate(self.leadership.subscribe(), Tenure::unlimited())
    }

    /// A miner process with an election of its own.
    fn candidate(
        &self,
        leadership: watch::Receiver<Leadership>,
        tenure: Tenure,
    ) -> (Handle, CancellationToken, tokio::task::JoinHandle<()>) {
        self.candidate_on(self.chain.clone(), leadership, tenure)
    }

    /// The same, which sees the chain its own way.
    fn candidate_on(
        &self,
        chain: Arc<dyn Chain>,
        leadership: watch::Receiver<Leadership>,
        tenure: Tenure,
    ) -> (Handle, CancellationToken, tokio::task::JoinHandle<()>) {
        let shutdown = CancellationToken::new();
        let (handle, driver) = Driver::new(Parts {
            bus: self.bus.clone(),
            chain,
            verifier: Arc::new(NullVerifier),
            members: self.members.subscribe(),
            leadership,
            tenure,
            clock: self.clock.clone(),
            miner: MINER,
            sector_size: SectorSize::KiB2,
            prover: ProverKind::Null,
            crash: CrashPoints::none(),
            limits: Limits::default(),
            shutdown: shutdown.clone(),
        });
        (handle, shutdown, tokio::spawn(driver.run()))
    }

    /// Answers jobs like a site would, for ever.
    fn site(&self, agent: &str) -> tokio::task::JoinHandle<()> {
        let (bus, agent): (_, AgentId) = (self.bus.clone(), agent.parse().unwrap());
        tokio::spawn(async move {
            let mut seen = 0;
            loop {
                for job in bus.new_jobs(&agent, &mut seen) {
                    let result = answer(&job, &agent);
                    // Delivered twice, as may happen.
                    bus.answer(wire::job_result_message(&result).unwrap());
                    bus.answer(wire::job_result_message(&result).unwrap());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }
}

fn answer(job: &Job, agent: &sealfarm_common::job::AgentId) -> JobResult {
    let sealing = *job.ask.sealing();
    let output = match &job.ask {
        JobAsk::PreCommit { .. } => JobOutput::PreCommitted {
            comm_d: null_proof::comm_d(SectorSize::KiB2),
            comm_r: null_proof::comm_r(job.sector, sealing.ticket, sealing.proof),
        },
        JobAsk::Commit { comm_r, seed, .. } => JobOutput::Proven {
            seed: *seed,
            proof: null_proof::proof_bytes(job.sector, *comm_r, sealing.ticket, *seed, sealing.proof),
        },
        JobAsk::Finalize { .. } => JobOutput::Finalized {
            sizes: FinalSizes {
                sealed_bytes: 2048,
                cache_bytes: 0,
                cache_files: 0,
                sealed_sha256: Digest([0; 32]),
            },
        },
        JobAsk::Remove { .. } => JobOutput::Removed { files: 2, bytes: 2048 },
    };
    JobResult {
        id: job.id,
        sector: job.sector,
        kind: job.kind(),
        fence: job.fence,
        agent: agent.clone(),
        prover: ProverKind::Null,
        phases: BTreeMap::new(),
        outcome: Outcome::Done(output),
    }
}

async fn until_proving(handle: &Handle, count: usize) {
    loop {
        let overview = handle.overview().await.unwrap();
        if overview.sectors.get("Proving") == Some(&count) {
            return;
        }
        assert_eq!(overview.sectors.get("Failed"), None, "{:?}", handle.sectors().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_sectors_go_from_pledge_to_proving_with_every_result_delivered_twice() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, shutdown, running) = farm.miner();
    let numbers = handle.pledge(100).await.unwrap();
    assert_eq!(numbers.len(), 100);
    until_proving(&handle, 100).await;
    for number in &numbers {
        assert!(farm.chain.sector_info(*number).await.unwrap().is_some(), "{number} is on the chain");
    }
    assert_eq!(farm.bus.subjects(".job.").len(), 300);
    let history = farm.bus.subjects(".event.miner.1.");
    let what: Vec<&str> = history.iter().map(|subject| subject.rsplit('.').next().unwrap()).collect();
    assert_eq!(
        what,
        [
            "precommitting",
            "precommitsubmitting",
            "precommitsubmitting",
            "waitseed",
            "committing",
            "commitsubmitting",
            "commitsubmitting",
            "finalizing",
            "proving"
        ]
    );
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(farm.bus.inner.lock().unwrap().acked.len(), 600, "dropped repetitions are acknowledged too");
}

#[tokio::test(start_paused = true)]
async fn a_miner_stopped_at_any_moment_goes_on_where_it_was() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, shutdown, running) = farm.miner();
    handle.pledge(5).await.unwrap();
    shutdown.cancel();
    running.await.unwrap();
    for milliseconds in [1, 30, 400, 1_000, 1_500, 700, 60, 2_000] {
        let (_handle, shutdown, running) = farm.miner();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        shutdown.cancel();
        running.await.unwrap();
    }
    let (handle, ..) = farm.miner();
    until_proving(&handle, 5).await;
    assert_eq!(handle.pledge(1).await.unwrap(), [SectorNumber(6)], "numbers go on");
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_nothing_is_pledged_and_no_number_is_used() {
    let farm = Farm::new().await;
    let (handle, ..) = farm.miner();
    let error = handle.pledge(3).await.unwrap_err();
    assert!(error.to_string().starts_with("can not found any server"), "{error}");
    assert!(handle.sectors().await.unwrap().is_empty());
    farm.agent_joins("site-1");
    assert_eq!(handle.pledge(1).await.unwrap(), [SectorNumber(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_taken_in_the_bucket_is_never_used_again() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    handle.overview().await.unwrap();
    farm.bus.put_entry("t01000-sectors", "2", Bytes::from_static(b"not a record"), 0).await.unwrap();
    assert_eq!(handle.pledge(2).await.unwrap(), [SectorNumber(1), SectorNumber(3)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_set_aside_or_dropped_and_counted_and_the_rest_goes_on() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    handle.overview().await.unwrap();
    let garbage = Message {
        subject: "seal.t01000.result.site-1.commit.4".into(),
        headers: Default::default(),
        payload: Bytes::from_static(b"garbage"),
    };
    farm.bus.answer(garbage);
    let job = Job::new(
        sealfarm_common::sector::SectorId { miner: MINER, number: SectorNumber(99) },
        sealfarm_common::job::Fence(1),
        None,
        JobAsk::PreCommit {
            sealing: sealfarm_common::job::Sealing {
                proof: SectorSize::KiB2.seal_proof(),
                prover: ProverKind::Null,
                ticket: sealfarm_common::commitment::Ticket([0; 32]),
            },
        },
    );
    let stray = answer(&job, &"site-1".parse().unwrap());
    let mut disguised = wire::job_result_message(&stray).unwrap();
    disguised.subject = "seal.t01000.result.site-2.pre-commit.99".into();
    farm.bus.answer(disguised);
    farm.bus.answer(wire::job_result_message(&stray).unwrap());
    let _site = farm.site("site-1");
    handle.pledge(1).await.unwrap();
    until_proving(&handle, 1).await;
    assert_eq!(farm.bus.subjects(".dead.results").len(), 2);
    assert_eq!(handle.overview().await.unwrap().dropped.get("unknown-sector"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_miner_that_does_not_lead_stands_by_and_takes_over() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    farm.leadership.send_replace(Leadership::Standby);
    let (handle, ..) = farm.miner();
    assert_eq!(handle.pledge(1).await.unwrap_err(), CommandError::Standby);
    farm.leadership.send_replace(Leadership::Leader { fence_revision: 2 });
    tokio::time::sleep(Duration::from_millis(1)).await;
    handle.pledge(1).await.unwrap();
    farm.leadership.send_replace(Leadership::Standby);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(handle.sectors().await.unwrap_err(), CommandError::Standby);
    farm.leadership.send_replace(Leadership::Leader { fence_revision: 3 });
    tokio::time::sleep(Duration::from_millis(1)).await;
    until_proving(&handle, 1).await;
}
