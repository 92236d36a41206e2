//! Carries attempts out: one consumer loop for every task kind the worker is enabled for, a permit
//! before every pull. What happens to an attempt is decided by `attempt`; this file decides nothing.

mod registry;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Outcome};
use sealfarm_common::join::Benched;
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::retry::Backoff;
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind, TaskProgress, TaskResult, WorkerId};
use sealfarm_nats::bus::{Bus, Delivery};
use sealfarm_nats::consume::{self, Source};
use sealfarm_nats::subjects::{Site, sector_of};
use sealfarm_nats::wire;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::registry::Registry;
use crate::attempt::{Answer, Effect, Event, State, Terms, left_to_others, step};
use crate::runner::{PhaseDone, PhaseRunner, ProgressSink, time_left};

/// After a failure of its surroundings a worker keeps the permit for a while, so that it does not
/// spoil one task after the other that a healthy worker could do.
const REST: Backoff = Backoff { initial: Duration::from_millis(500), ceiling: Duration::from_secs(30) };

/// What a driver is made of.
#[derive(Clone)]
pub struct Parts {
    /// The site's messaging.
    pub bus: Arc<dyn Bus>,
    /// The site's store.
    pub store: Store,
    /// Runs the phases.
    pub runner: Arc<dyn PhaseRunner>,
    /// Who works.
    pub worker: WorkerId,
    /// For which site.
    pub agent: AgentId,
    /// What the farm seals; a task that does not fit it is refused.
    pub farm: FarmInfo,
    /// Tasks at a time, per kind; a kind that is missing or 0 is not pulled.
    pub slots: BTreeMap<TaskKind, u32>,
    /// How long a phase may run; a kind without an entry has [`TIME_LIMIT`].
    pub time_limits: BTreeMap<TaskKind, Duration>,
    /// How long running phases may go on after the shutdown began.
    pub grace: Duration,
    /// For the deadlines of jobs. Waits are on tokio's clock.
    pub clock: Clock,
    /// Kinds of task that are not pulled for now, as the agent says.
    pub benched: watch::Receiver<Benched>,
    /// Told after every durable write; the runner has it too.
    pub crash: CrashPoints,
}

/// How long a phase may run where nothing else is set.
pub const TIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Pulls tasks and answers them.
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    site: Site,
    attempts: Registry,
}

impl Driver {
    /// A driver; nothing happens before [`run`](Self::run).
    pub fn new(parts: Parts) -> Self {
        let site = Site(parts.agent.clone());
        Self { inner: Arc::new(Inner { parts, site, attempts: Registry::default() }) }
    }

    /// Works until `shutdown`; then takes nothing new, lets running phases end within the grace, and
    /// hands the rest back. Returns once nothing is in hand; a pull in the air is waited for.
    pub async fn run(self, shutdown: CancellationToken) {
        let inner = self.inner;
        let cancels = tokio::spawn(inner.clone().hear_cancels());
        let mut loops = JoinSet::new();
        for (kind, slots) in inner.parts.slots.iter().filter(|(_, slots)| **slots > 0) {
            loops.spawn(inner.clone().work(*kind, *slots, shutdown.clone()));
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a consumer loop died");
            }
        }
        cancels.abort();
    }
}

type Phase<'a> = Pin<Box<dyn Future<Output = Result<PhaseDone, Failure>> + Send + 'a>>;

/// What an attempt listens to.
struct Ears<'a> {
    phase: Option<Phase<'a>>,
    progress: watch::Receiver<f64>,
    cancel: CancellationToken,
    cancelled: bool,
    shutdown: CancellationToken,
    draining: bool,
}

impl Ears<'_> {
    /// The next event; [`Event::Tick`] once `wakes_at` has come.
    async fn next(&mut self, wakes_at: Option<Instant>) -> Event {
        tokio::select! {
            biased;
            ended = ended(&mut self.phase) => {
                self.phase = None;
                Event::PhaseEnded(ended)
            }
            () = self.cancel.cancelled(), if !self.cancelled => {
                self.cancelled = true;
                Event::Cancelled
            }
            () = self.shutdown.cancelled(), if !self.draining => {
                self.draining = true;
                Event::Draining
            }
            Ok(()) = self.progress.changed() => Event::Progressed(*self.progress.borrow_and_update()),
            () = sleep_until(wakes_at) => Event::Tick,
        }
    }
}

async fn ended(phase: &mut Option<Phase<'_>>) -> Result<PhaseDone, Failure> {
    match phase {
        Some(phase) => phase.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wakes_at: Option<Instant>) {
    match wakes_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    /// The loop of one task kind. While the worker is benched for it, nothing is pulled; what is in hand
    /// comes to its end.
    async fn work(self: Arc<Self>, kind: TaskKind, slots: u32, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(usize::try_from(slots).unwrap_or(Semaphore::MAX_PERMITS)));
        let source = Source {
            stream: self.site.tasks_stream(),
            consumer: kind.as_str().to_owned(),
            permits,
            batch: 1,
        };
        let troubles = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let mut benched = self.parts.benched.clone();
        while allowed(kind, &mut benched, &shutdown).await {
            let pulling = shutdown.child_token();
            let (bench, mut told) = (pulling.clone(), benched.clone());
            let watch = tokio::spawn(async move {
                // An end of the channel benches nobody.
                if told.wait_for(|benched| benched.contains_key(&kind)).await.is_ok() {
                    bench.cancel();
                }
            });
            consume::consume(self.parts.bus.clone(), source.clone(), pulling, |delivery| {
                let (inner, shutdown, troubles) = (self.clone(), shutdown.clone(), troubles.clone());
                async move { inner.deliver(kind, delivery, shutdown, &troubles).await }
            })
            .await;
            watch.abort();
        }
    }

    /// Decodes a delivery and sees its attempt to the end.
    async fn deliver(
        &self,
        kind: TaskKind,
        delivery: Delivery,
        shutdown: CancellationToken,
        troubles: &std::sync::atomic::AtomicU32,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        let dead = self.site.dead("tasks");
        let decoded = consume::decode_or_bury::<Task>(&*self.parts.bus, &delivery, &dead).await;
        let Some(task) = decoded else { return };
        if let Some(delay) = left_to_others(&task, &self.parts.worker, delivery.delivered) {
            tracing::info!(sector = %task.job.sector, phase = %task.task, task = %task.id, "failed here before; left to another worker for a while");
            self.hand_back(&delivery, delay).await;
            return;
        }
        let span = tracing::info_span!(
            "attempt", sector = %task.job.sector, phase = %task.task, job = %task.job.id, task = %task.id,
            delivered = delivery.delivered
        );
        let class = self.attempt(kind, &delivery, task, shutdown.clone()).instrument(span).await;
        if class != Some(FailureClass::Infra) {
            troubles.store(0, Relaxed);
            return;
        }
        let rest = REST.delay(troubles.fetch_add(1, Relaxed), 0.5);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }

    /// One attempt: effects carried out, events fed back, until it has ended. The class of its
    /// failure, if it failed.
    async fn attempt(
        &self,
        kind: TaskKind,
        delivery: &Delivery,
        task: Task,
        shutdown: CancellationToken,
    ) -> Option<FailureClass> {
        let started = Instant::now();
        let (told, progress) = watch::channel(0.0);
        let sink: ProgressSink = Arc::new(move |fraction| {
            told.send_replace(fraction);
        });
        let (registered, kill) = (self.attempts.enter(task.job.sector.number), CancellationToken::new());
        let mut ears = Ears {
            phase: None,
            progress,
            cancel: registered.token(),
            cancelled: false,
            shutdown,
            draining: false,
        };
        let mut state = State::Received(self.terms(&task, delivery));
        let admitted = self.admit(kind, &task, delivery);
        let mut events = VecDeque::from([admitted.map_or_else(Event::Unfit, |()| Event::Admitted)]);
        let mut class = None;
        while state != State::Ended {
            let wakes_at = state.wakes_at().map(|at| started + at);
            let event = match events.pop_front() {
                Some(event) => event,
                None => ears.next(wakes_at).await,
            };
            let (next, effects) = step(&state, event, started.elapsed());
            state = next;
            for effect in effects {
                match effect {
                    Effect::StartPhase => {
                        let (runner, store) = (&self.parts.runner, &self.parts.store);
                        ears.phase = Some(runner.run(&task, store, sink.clone(), kill.clone()));
                    }
                    Effect::ProgressAck => self.progress_ack(delivery).await,
                    Effect::TellProgress { fraction, ended } => {
                        self.tell(&task, fraction, started.elapsed(), ended).await;
                    }
                    Effect::Kill => kill.cancel(),
                    Effect::PublishResult(answer) => {
                        // Dropping a phase that did not die stops it as well as can be.
                        ears.phase = None;
                        let (event, of) = self.publish(answer, &task, started.elapsed()).await;
                        class = of;
                        events.push_back(event);
                    }
                    Effect::Ack => events.push_back(self.ack(delivery).await),
                    Effect::Nak(delay) => events.push_back(self.hand_back(delivery, delay).await),
                }
            }
        }
        class
    }

    fn terms(&self, task: &Task, delivery: &Delivery) -> Terms {
        let left = task.job.deadline.map(|deadline| deadline.duration_since(self.parts.clock.now()));
        Terms {
            deadline: left.map(|left| Duration::try_from(left).unwrap_or_default()),
            time_limit: self.parts.time_limits.get(&task.task).copied().unwrap_or(TIME_LIMIT),
            grace: self.parts.grace,
            delivered: delivery.delivered,
            ack_wait: delivery.ack_wait,
        }
    }

    /// Whether the task is to be run here; the failure to answer with otherwise.
    fn admit(&self, kind: TaskKind, task: &Task, delivery: &Delivery) -> Result<(), Failure> {
        fits(&self.parts.farm, kind, task)?;
        time_left(task, self.parts.clock.now())?;
        if consume::is_last_delivery(delivery) {
            // After this one the queue keeps the task and gives it to nobody: answer while that is possible.
            return Err(Failure::new(
                FailureClass::Compute,
                format!(
                    "{} of {} ran out of deliveries: {} attempts ended without an answer, as when a worker is killed or its machine runs out of memory; see the workers' logs",
                    task.task,
                    task.job.sector,
                    delivery.delivered - 1
                ),
            ));
        }
        Ok(())
    }

    async fn progress_ack(&self, delivery: &Delivery) {
        if let Err(error) = delivery.progress().await {
            tracing::warn!(%error, "no sign of life given; another worker may get the task too");
        }
    }

    async fn tell(&self, task: &Task, fraction: Option<f64>, elapsed: Duration, ended: bool) {
        let progress = TaskProgress {
            id: task.id,
            sector: task.job.sector,
            task: task.task,
            worker: self.parts.worker.clone(),
            fraction,
            elapsed_s: elapsed.as_secs_f64(),
            ended,
        };
        let told = match wire::progress_message(&self.site, &progress) {
            Ok(message) => self.parts.bus.tell(message).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = told {
            tracing::debug!(error, "progress was not told");
        }
    }

    /// Publishes the answer; what became of it, and the class of a failure.
    async fn publish(&self, answer: Answer, task: &Task, ran: Duration) -> (Event, Option<FailureClass>) {
        let answered = matches!(&answer, Answer::Done(done) if done.answered);
        let result = answer.into_result(task.clone(), self.parts.worker.clone(), ran);
        let class = match &result.outcome {
            Outcome::Done(_) => {
                let prover = task.job.ask.sealing().prover;
                tracing::info!(seconds = result.seconds, answered, %prover, "done");
                None
            }
            Outcome::Failed(failure) => {
                tracing::warn!(class = %failure.class, reason = failure.reason, "failed");
                Some(failure.class)
            }
        };
        match self.store_result(&result).await {
            Ok(()) => {
                self.parts.crash.pass("worker.result.published");
                (Event::Published, class)
            }
            Err(reason) => {
                tracing::warn!(reason, "the result is not published; the task will come again");
                (Event::NotPublished, class)
            }
        }
    }

    async fn store_result(&self, result: &TaskResult) -> Result<(), String> {
        let message = wire::task_result_message(&self.site, result).map_err(|e| e.to_string())?;
        self.parts.bus.publish(message).await.map(drop).map_err(|e| e.to_string())
    }

    async fn ack(&self, delivery: &Delivery) -> Event {
        if let Err(error) = delivery.ack().await {
            tracing::debug!(%error, "not acknowledged; the task comes again and is answered from the manifest");
        }
        self.parts.crash.pass("worker.task.acknowledged");
        Event::Answered
    }

    async fn hand_back(&self, delivery: &Delivery, delay: Duration) -> Event {
        tracing::info!(delay_s = delay.as_secs_f64(), "handing the task back");
        if let Err(error) = delivery.nak(delay).await {
            tracing::debug!(%error, "not handed back; the task comes again by itself");
        }
        Event::Answered
    }

    /// Listens for cancels for as long as the worker runs.
    async fn hear_cancels(self: Arc<Self>) {
        let pattern = self.site.cancel_all();
        let mut failures = 0u32;
        loop {
            match self.parts.bus.listen(&pattern).await {
                Ok(mut cancels) => {
                    failures = 0;
                    while let Some(message) = cancels.next().await {
                        let Some(sector) = sector_of(&message.subject) else { continue };
                        let stopped = self.attempts.cancel(sector);
                        tracing::info!(%sector, attempts = stopped, "cancelled by the agent");
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot listen for cancels; trying on"),
            }
            tokio::time::sleep(Backoff::RECONNECT.delay(failures, 0.5)).await;
            failures = failures.saturating_add(1);
        }
    }
}

/// Waits until tasks of `kind` may be pulled; `false` at `shutdown`.
async fn allowed(
    kind: TaskKind,
    benched: &mut watch::Receiver<Benched>,
    shutdown: &CancellationToken,
) -> bool {
    let lifted = async {
        if benched.wait_for(|benched| !benched.contains_key(&kind)).await.is_err() {
            // Nobody is left who could lift the bench.
            std::future::pending::<()>().await;
        }
    };
    shutdown.run_until_cancelled(lifted).await.is_some()
}

/// Checks a task against the farm the worker has joined.
fn fits(farm: &FarmInfo, kind: TaskKind, task: &Task) -> Result<(), Failure> {
    let sealing = task.job.ask.sealing();
    let fields = [
        ("task", task.task.to_string(), kind.to_string(), "its queue is"),
        ("sector.miner", task.job.sector.miner.to_string(), farm.miner.to_string(), "the farm is"),
        ("proof", sealing.proof.to_string(), farm.proof.to_string(), "the farm's is"),
        ("prover", sealing.prover.to_string(), farm.prover.to_string(), "the farm's is"),
    ];
    match fields.into_iter().find(|(_, task, here, _)| task != here) {
        None => Ok(()),
        Some((field, task, here, whose)) => Err(Failure::new(
            FailureClass::Input,
            format!("field `{field}`: the task says {task}, and {whose} {here}"),
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests;
