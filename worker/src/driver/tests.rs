use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use sealfarm_common::commitment::Ticket;
use sealfarm_common::job::{Fence, Job, JobAsk, Sealing};
use sealfarm_common::join::{JoinAnswer, JoinRequest};
use sealfarm_common::sector::{MinerId, ProverKind, SectorId, SectorNumber, SectorSize};
use sealfarm_common::task::TaskOutput;
use sealfarm_nats::bus::{Acknowledge, BusError, Entry, Message, Published};
use sealfarm_nats::streams::{BucketSpec, ConsumerSpec, DELIVER_MAX, StreamSpec};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::runner::{InProcessRunner, cancelled};

/// What the driver did to the bus, in order, one line each.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// A bus that holds one queue of deliveries and writes down what it is told.
pub(crate) struct Bench {
    queue: Mutex<VecDeque<Delivery>>,
    cancels: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    results: Mutex<Vec<TaskResult>>,
    down: bool,
    pub(crate) log: Log,
    /// What an ask is answered with, one after the other; then nobody answers.
    answers: Mutex<VecDeque<JoinAnswer>>,
}

impl Bench {
    /// A bus on which nothing is but these answers.
    pub(crate) fn answering(answers: Vec<JoinAnswer>) -> Self {
        Self {
            queue: Mutex::default(),
            cancels: Mutex::default(),
            results: Mutex::default(),
            down: false,
            log: Log::default(),
            answers: Mutex::new(answers.into()),
        }
    }
}

struct Noted(Log);

#[async_trait]
impl Acknowledge for Noted {
    async fn ack(&self) -> Result<(), BusError> {
        self.0.lock().unwrap().push("ack".into());
        Ok(())
    }
    async fn nak(&self, delay: Duration) -> Result<(), BusError> {
        self.0.lock().unwrap().push(format!("nak {}", humantime::format_duration(delay)));
        Ok(())
    }
    async fn progress(&self) -> Result<(), BusError> {
        self.0.lock().unwrap().push("progress ack".into());
        Ok(())
    }
    async fn term(&self, _reason: &str) -> Result<(), BusError> {
        self.0.lock().unwrap().push("term".into());
        Ok(())
    }
}

fn absent<T>() -> Result<T, BusError> {
    Err(BusError::Refused { action: "anything else".into(), reason: "not on this bench".into() })
}

#[async_trait]
impl Bus for Bench {
    async fn ensure_stream(&self, _: &StreamSpec) -> Result<(), BusError> {
        absent()
    }
    async fn ensure_consumer(&self, _: &ConsumerSpec) -> Result<(), BusError> {
        absent()
    }
    async fn ensure_bucket(&self, _: &BucketSpec) -> Result<(), BusError> {
        absent()
    }
    async fn publish(&self, message: Message) -> Result<Published, BusError> {
        if self.down {
            self.log.lock().unwrap().push("not published".into());
            return Err(BusError::Unavailable { action: "publish".into(), reason: "down".into() });
        }
        self.log.lock().unwrap().push(format!("publish {}", message.subject));
        if let Ok(result) = wire::decode(&message.payload) {
            self.results.lock().unwrap().push(result);
        }
        Ok(Published::Stored(1))
    }
    async fn pull(
        &self,
        _: &str,
        consumer: &str,
        _: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BusError> {
        let mine = |d: &Delivery| d.message.subject.contains(&format!(".task.{consumer}."));
        let found = {
            let mut queue = self.queue.lock().unwrap();
            queue.iter().position(mine).and_then(|i| queue.remove(i))
        };
        match found {
            Some(delivery) => Ok(vec![delivery]),
            None => {
                let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                Ok(vec![])
            }
        }
    }
    async fn tell(&self, message: Message) -> Result<(), BusError> {
        let told: TaskProgress = wire::decode(&message.payload).unwrap();
        let fraction = told.fraction.map_or_else(|| "?".to_owned(), |f| format!("{f:.1}"));
        let ended = if told.ended { " ended" } else { "" };
        self.log.lock().unwrap().push(format!("tell {fraction} after {} s{ended}", told.elapsed_s));
        Ok(())
    }
    async fn listen(&self, _: &str) -> Result<BoxStream<'static, Message>, BusError> {
        let cancels = self.cancels.lock().unwrap().take();
        Ok(match cancels {
            Some(cancels) => {
                futures::stream::unfold(cancels, |mut c| async move { c.recv().await.map(|m| (m, c)) })
                    .boxed()
            }
            None => futures::stream::pending().boxed(),
        })
    }
    async fn ask(&self, message: Message, _: Duration) -> Result<Message, BusError> {
        let request: JoinRequest = wire::decode(&message.payload).unwrap();
        let draining = if request.draining { " draining" } else { "" };
        self.log.lock().unwrap().push(format!("ask {}{draining}", message.subject));
        match self.answers.lock().unwrap().pop_front() {
            Some(answer) => Ok(Message { payload: wire::encode(&answer).unwrap(), ..message }),
            None => Err(BusError::Unavailable { action: "ask".into(), reason: "no responders".into() }),
        }
    }
    async fn numbered(&self, _: &str, _: &str, _: u64, _: usize) -> Result<Vec<(u64, Message)>, BusError> {
        absent()
    }
    async fn remove(&self, _: &str, _: u64) -> Result<bool, BusError> {
        absent()
    }
    async fn withdraw(&self, _: &str, _: &str) -> Result<u64, BusError> {
        absent()
    }
    async fn shed(&self, _: &str, _: u64) -> Result<u64, BusError> {
        absent()
    }
    async fn entry(&self, _: &str, _: &str) -> Result<Option<Entry>, BusError> {
        absent()
    }
    async fn entries(&self, _: &str) -> Result<Vec<Entry>, BusError> {
        absent()
    }
    async fn put_entry(&self, _: &str, _: &str, _: Bytes, _: u64) -> Result<u64, BusError> {
        absent()
    }
}

/// Never ends of itself; counts how many run, and the most that ran together.
#[derive(Default)]
struct Hangs {
    running: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl PhaseRunner for Hangs {
    async fn run(
        &self,
        task: &Task,
        _: &Store,
        _: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        cancel.cancelled().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Err(cancelled(task))
    }
}

const EPOCH: Timestamp = Timestamp::UNIX_EPOCH;

fn site() -> Site {
    Site("a".parse().unwrap())
}

fn task(number: u64, prover: ProverKind, deadline_s: Option<i64>) -> Task {
    let sealing = Sealing { proof: SectorSize::KiB2.seal_proof(), prover, ticket: Ticket([7; 32]) };
    let sector = SectorId { miner: MinerId(1000), number: SectorNumber(number) };
    let deadline = deadline_s.map(|s| Timestamp::from_second(s).unwrap());
    Task::new(Job::new(sector, Fence(1), deadline, JobAsk::PreCommit { sealing }), TaskKind::AddPiece, 0)
}

/// A worker with its bus and its store.
struct Shop {
    _dir: TempDir,
    parts: Parts,
    bench: Arc<Bench>,
    cancels: mpsc::UnboundedSender<Message>,
    log: Log,
}

impl Shop {
    fn new(runner: Option<Arc<dyn PhaseRunner>>, slots: u32, down: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent: AgentId = "a".parse().unwrap();
        let worker: WorkerId = "w".parse().unwrap();
        let started = Instant::now();
        let clock = Clock::from_fn(move || EPOCH + started.elapsed());
        let durations = BTreeMap::from([(TaskKind::AddPiece, Duration::from_secs(30))]);
        let null = Arc::new(InProcessRunner::new(worker.clone(), durations, clock.clone()));
        let log = Log::default();
        let (cancels, heard) = mpsc::unbounded_channel();
        let bench = Arc::new(Bench {
            queue: Mutex::default(),
            cancels: Mutex::new(Some(heard)),
            results: Mutex::default(),
            down,
            log: log.clone(),
            answers: Mutex::default(),
        });
        let parts = Parts {
            bus: bench.clone(),
            store: Store::create(&dir.path().join("store"), MinerId(1000), &agent).unwrap(),
            runner: runner.unwrap_or(null),
            worker,
            agent,
            farm: FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null),
            slots: BTreeMap::from([(TaskKind::AddPiece, slots)]),
            time_limits: BTreeMap::new(),
            grace: Duration::from_secs(20),
            clock,
            benched: watch::channel(Benched::new()).1,
            crash: CrashPoints::none(),
        };
        Self { _dir: dir, parts, bench, cancels, log }
    }

    fn queue(&self, message: Message, delivered: u64) {
        let delivery = Delivery::new(message, 1, delivered, Box::new(Noted(self.log.clone())));
        self.bench.queue.lock().unwrap().push_back(delivery);
    }

    fn queue_task(&self, task: &Task, delivered: u64) {
        self.queue(wire::task_message(&site(), task).unwrap(), delivered);
    }

    /// Works for `seconds` of tokio's paused time and then stops; what was done, line by line.
    async fn work(&self, seconds: u64) -> Vec<String> {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stopper.cancel();
        });
        Driver::new(self.parts.clone()).run(stop).await;
        self.log.lock().unwrap().clone()
    }

    fn only_result(&self) -> TaskResult {
        let results = self.bench.results.lock().unwrap();
        assert_eq!(results.len(), 1, "{results:?}");
        results[0].clone()
    }

    fn only_failure(&self) -> Failure {
        match self.only_result().outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Done(output) => panic!("{output:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_run_told_about_published_and_then_acknowledged() {
    let shop = Shop::new(None, 1, false);
    shop.queue_task(&task(1, ProverKind::Null, None), 1);
    let log = shop.work(60).await;
    let expected = [
        "tell ? after 0 s",
        "tell 0.1 after 3 s",
        "tell 0.2 after 6 s",
        "tell 0.3 after 9 s",
        "tell 0.4 after 12 s",
        "tell 0.5 after 15 s",
        "tell 0.6 after 18 s",
        "progress ack",
        "tell 0.7 after 21 s",
        "tell 0.8 after 24 s",
        "tell 0.9 after 27 s",
        "tell 1.0 after 30 s ended",
        "publish site.a.result.add-piece.1",
        "ack",
    ];
    assert_eq!(log, expected);
    let result = shop.only_result();
    assert_eq!((result.seconds, result.worker.as_str()), (30.0, "w"));
    assert!(matches!(result.outcome, Outcome::Done(TaskOutput::PieceAdded { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_task_delivered_again_is_answered_from_the_manifest() {
    let shop = Shop::new(None, 1, false);
    let task = task(1, ProverKind::Null, None);
    shop.queue_task(&task, 1);
    shop.queue_task(&task, 2);
    shop.work(60).await;
    let results = shop.bench.results.lock().unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0], results[1]);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_taken_than_there_are_slots() {
    let hangs = Arc::new(Hangs::default());
    let shop = Shop::new(Some(hangs.clone()), 3, false);
    for number in 0..10 {
        shop.queue_task(&task(number, ProverKind::Null, None), 1);
    }
    let log = shop.work(10).await;
    assert_eq!(hangs.most.load(Ordering::SeqCst), 3);
    assert_eq!(shop.bench.queue.lock().unwrap().len(), 7);
    assert_eq!(log.iter().filter(|line| *line == "nak 0s").count(), 3, "handed back after the grace");
    assert!(shop.bench.results.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_attempts_at_its_sector_and_no_other() {
    let hangs = Arc::new(Hangs::default());
    let shop = Shop::new(Some(hangs), 2, false);
    shop.queue_task(&task(1, ProverKind::Null, None), 1);
    shop.queue_task(&task(2, ProverKind::Null, None), 1);
    let cancels = shop.cancels.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let subject = site().cancel(SectorNumber(2));
        let message = Message { subject, headers: Default::default(), payload: Bytes::new() };
        cancels.send(message).unwrap();
    });
    shop.work(10).await;
    let result = shop.only_result();
    assert_eq!(result.task.job.sector.number, SectorNumber(2));
    assert_eq!(result.seconds, 3.0);
    assert_eq!(shop.only_failure().class, FailureClass::Infra);
}

#[tokio::test(start_paused = true)]
async fn a_hung_phase_ends_at_the_jobs_deadline_and_its_task_is_answered() {
    let shop = Shop::new(Some(Arc::new(Hangs::default())), 1, false);
    shop.queue_task(&task(1, ProverKind::Null, Some(90)), 1);
    let log = shop.work(1_000).await;
    assert_eq!(shop.only_failure().class, FailureClass::Deadline);
    assert_eq!(shop.only_result().seconds, 90.0);
    assert_eq!(log.last().unwrap(), "ack");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_fit_is_late_or_out_of_deliveries_is_answered_without_a_run() {
    for (task, delivered, class, part) in [
        (
            task(1, ProverKind::Filecoin, None),
            1,
            FailureClass::Input,
            "field `prover`: the task says filecoin",
        ),
        (task(1, ProverKind::Null, Some(-5)), 1, FailureClass::Deadline, "1969-12-31T23:59:55Z, is past"),
        (
            task(1, ProverKind::Null, None),
            DELIVER_MAX as u64,
            FailureClass::Compute,
            "ran out of deliveries: 19",
        ),
    ] {
        let shop = Shop::new(None, 1, false);
        shop.queue_task(&task, delivered);
        assert_eq!(shop.work(1).await, ["publish site.a.result.add-piece.1", "ack"]);
        let failure = shop.only_failure();
        assert_eq!(failure.class, class);
        assert!(failure.reason.contains(part), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_benched_worker_ends_what_it_has_takes_no_more_and_goes_on_once_that_is_lifted() {
    let mut shop = Shop::new(None, 1, false);
    let (told, benched) = watch::channel(Benched::new());
    shop.parts.benched = benched;
    for number in 0..4 {
        shop.queue_task(&task(number, ProverKind::Null, None), 1);
    }
    let bench = shop.bench.clone();
    let (stood, heard) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(40)).await;
        told.send_replace(Benched::from([(TaskKind::AddPiece, EPOCH)]));
        tokio::time::sleep(Duration::from_secs(100)).await;
        stood.send(bench.results.lock().unwrap().len()).unwrap();
        told.send_replace(Benched::new());
        tokio::time::sleep(Duration::from_secs(1_000)).await;
    });
    shop.work(300).await;
    assert_eq!(heard.await.unwrap(), 2, "the one that ran was finished");
    assert_eq!(shop.bench.results.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_failed_here_is_left_to_others_for_a_while_and_then_run() {
    let shop = Shop::new(None, 1, false);
    let avoiding = task(1, ProverKind::Null, None).again_after(&shop.parts.worker, true);
    shop.queue_task(&avoiding, 1);
    shop.queue_task(&avoiding, 2);
    assert_eq!(shop.work(20).await, ["nak 2s", "nak 4s"]);
    shop.queue_task(&avoiding, crate::attempt::HAND_BACKS_MAX + 1);
    assert_eq!(shop.work(60).await.last().unwrap(), "ack");
    assert_eq!(shop.only_result().task, avoiding);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_decode_goes_to_the_dead_stream_and_the_next_task_is_done() {
    let shop = Shop::new(None, 1, false);
    let good = wire::task_message(&site(), &task(1, ProverKind::Null, None)).unwrap();
    shop.queue(Message { payload: Bytes::from_static(b"{}"), ..good.clone() }, 1);
    shop.queue(good, 1);
    let log = shop.work(60).await;
    assert_eq!(log[..2], ["publish site.a.dead.tasks", "term"]);
    assert_eq!(log.last().unwrap(), "ack");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_published_leaves_the_task_in_the_queue() {
    let shop = Shop::new(None, 1, true);
    shop.queue_task(&task(1, ProverKind::Null, None), 1);
    let log = shop.work(60).await;
    assert_eq!(log[log.len() - 2..], ["not published", "nak 150ms"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_vanished_fails_the_attempt_and_the_worker_rests_before_the_next() {
    let shop = Shop::new(None, 1, false);
    std::fs::remove_dir_all(shop.parts.store.root()).unwrap();
    for number in 0..100 {
        shop.queue_task(&task(number, ProverKind::Null, None), 1);
    }
    shop.work(60).await;
    let results = shop.bench.results.lock().unwrap();
    assert!((2..10).contains(&results.len()), "{}", results.len());
    let infra = |r: &TaskResult| matches!(&r.outcome, Outcome::Failed(f) if f.class == FailureClass::Infra);
    assert!(results.iter().all(infra));
}
