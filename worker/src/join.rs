//! Joining a site: asked until somebody answers or patience ends, then repeated as a sign of life.

use std::time::Duration;

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::join::{Benched, HELLO_EVERY, JoinAnswer, JoinRequest};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::retry::Backoff;
use sealfarm_common::store::Store;
use sealfarm_nats::bus::{Bus, Headers, Message};
use sealfarm_nats::subjects::Site;
use sealfarm_nats::wire;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long an agent is asked before the worker gives up: agents and workers may be started together.
pub const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// How long one answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why a worker does not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers.
    #[error("no agent answers at site {site} ({reason}; tried for {tried_s} s)")]
    NoAnswer {
        /// The site's name.
        site: AgentId,
        /// What the last try said.
        reason: String,
        /// How long it was tried, in seconds.
        tried_s: u64,
    },
    /// The agent says no, or its farm is another one.
    #[error("site {site} does not take this worker: {reason}")]
    Refused {
        /// The site's name.
        site: AgentId,
        /// Both values named.
        reason: String,
    },
    /// Agent and worker have different stores.
    #[error("site {site} has the sector store {agents}, and the one mounted here at {path} is {here}")]
    OtherStore {
        /// The site's name.
        site: AgentId,
        /// The id of the agent's store.
        agents: Uuid,
        /// The id of ours.
        here: Uuid,
        /// Where ours is.
        path: String,
    },
}

impl From<JoinError> for ExitError {
    fn from(error: JoinError) -> Self {
        let (code, next) = match &error {
            JoinError::NoAnswer { site, .. } => (
                ExitCode::NotFound,
                format!("start `sealfarm-agent run` for site {site}, or name the right site with --agent"),
            ),
            JoinError::Refused { .. } => (
                ExitCode::Refused,
                "start the worker with the farm's values, or join another site".to_owned(),
            ),
            JoinError::OtherStore { .. } => {
                (ExitCode::Store, "mount the site's store and name it with --store or WORKER_PATH".to_owned())
            }
        };
        Self::new(code, error.to_string()).next(next)
    }
}

/// One worker that asks one site.
#[derive(Clone)]
pub struct Joiner<'a> {
    /// The site's messaging.
    pub bus: &'a dyn Bus,
    /// The site.
    pub site: &'a Site,
    /// The store mounted here.
    pub store: &'a Store,
    /// Told what the agent's last answer benches this worker for.
    pub benched: &'a watch::Sender<Benched>,
}

impl Joiner<'_> {
    /// Asks to join until an agent answers, at most for [`JOIN_WITHIN`].
    ///
    /// # Errors
    /// When nobody answers, the agent refuses, or its store is another one.
    pub async fn join(&self, request: &JoinRequest) -> Result<FarmInfo, JoinError> {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let reason = match self.ask(request).await {
                Ok(answer) => return self.judge(request, answer),
                Err(reason) => reason,
            };
            let pause = Backoff::RECONNECT.delay(tries, 0.5);
            if started.elapsed() + pause >= JOIN_WITHIN {
                let tried_s = started.elapsed().as_secs();
                return Err(JoinError::NoAnswer { site: self.site.0.clone(), reason, tried_s });
            }
            if tries == 0 {
                tracing::info!(site = %self.site.0, reason, "no agent answers yet");
            }
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// Says hello every [`HELLO_EVERY`], and at once when `draining` begins. Ends only when the agent
    /// no longer takes this worker, as after the farm or the store was replaced.
    pub async fn keep_saying_hello(
        &self,
        mut request: JoinRequest,
        draining: CancellationToken,
    ) -> JoinError {
        let mut silent = false;
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled(), if !request.draining => request.draining = true,
                () = tokio::time::sleep(HELLO_EVERY) => {}
            }
            match self.ask(&request).await {
                Ok(answer) => {
                    if let Err(error) = self.judge(&request, answer) {
                        return error;
                    }
                    if silent {
                        tracing::info!(site = %self.site.0, "the agent answers again");
                    }
                    silent = false;
                }
                Err(reason) => {
                    if !silent {
                        tracing::warn!(site = %self.site.0, reason, "the agent does not answer; working on");
                    }
                    silent = true;
                }
            }
        }
    }

    async fn ask(&self, request: &JoinRequest) -> Result<JoinAnswer, String> {
        let payload = wire::encode(request).map_err(|e| e.to_string())?;
        let message = Message { subject: self.site.join(), headers: Headers::default(), payload };
        let answer = self.bus.ask(message, ANSWER_WITHIN).await.map_err(|e| e.to_string())?;
        wire::decode(&answer.payload).map_err(|e| e.to_string())
    }

    fn judge(&self, request: &JoinRequest, answer: JoinAnswer) -> Result<FarmInfo, JoinError> {
        let refused = |reason| JoinError::Refused { site: self.site.0.clone(), reason };
        match answer {
            JoinAnswer::Refused { reason } => Err(refused(reason)),
            JoinAnswer::Welcome { farm, store, benched } => {
                if let Some(reason) = request.mismatch(&farm) {
                    return Err(refused(reason));
                }
                let here = self.store.identity().id;
                if store != here {
                    let path = self.store.root().display().to_string();
                    return Err(JoinError::OtherStore {
                        site: self.site.0.clone(),
                        agents: store,
                        here,
                        path,
                    });
                }
                self.note_benched(benched);
                Ok(farm)
            }
        }
    }

    fn note_benched(&self, benched: Benched) {
        self.benched.send_if_modified(|known| {
            for (kind, until) in benched.iter().filter(|(kind, until)| known.get(kind) != Some(until)) {
                tracing::warn!(site = %self.site.0, phase = %kind, %until, "benched: the agent found an output of this worker wrong; not taking such tasks");
            }
            for kind in known.keys().filter(|kind| !benched.contains_key(kind)) {
                tracing::info!(site = %self.site.0, phase = %kind, "no longer benched");
            }
            let changed = *known != benched;
            *known = benched;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sealfarm_common::address::ActorAddress;
    use sealfarm_common::exit::render;
    use sealfarm_common::membership::Wallets;
    use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

    use super::*;
    use crate::driver::tests::Bench;

    fn request() -> JoinRequest {
        JoinRequest {
            worker: "w".parse().unwrap(),
            version: "0.1.0".into(),
            host: "h".into(),
            miner: MinerId(1000).into(),
            sector_size: SectorSize::KiB2,
            prover: ProverKind::Null,
            slots: BTreeMap::new(),
            draining: false,
        }
    }

    fn welcome(size: SectorSize, store: Uuid) -> JoinAnswer {
        let farm = FarmInfo::new(MinerId(1000), size, ProverKind::Null);
        JoinAnswer::Welcome { farm, store, benched: Benched::new() }
    }

    /// Joins with these answers from the agent, made knowing the id of the store mounted here.
    async fn join(answers: impl FnOnce(Uuid) -> Vec<JoinAnswer>) -> Result<FarmInfo, JoinError> {
        join_as(MinerId(1000).into(), answers).await
    }

    /// The same, where `MINER_ADDR` names the miner so.
    async fn join_as(
        miner: ActorAddress,
        answers: impl FnOnce(Uuid) -> Vec<JoinAnswer>,
    ) -> Result<FarmInfo, JoinError> {
        let dir = tempfile::tempdir().unwrap();
        let site = Site("a".parse().unwrap());
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &site.0).unwrap();
        let bus = Bench::answering(answers(store.identity().id));
        let benched = watch::Sender::default();
        let request = JoinRequest { miner, ..request() };
        Joiner { bus: &bus, site: &site, store: &store, benched: &benched }.join(&request).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_fits_learns_what_the_farm_seals() {
        let farm = join(|store| vec![welcome(SectorSize::KiB2, store)]).await.unwrap();
        assert_eq!(farm, FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null));
    }

    #[tokio::test(start_paused = true)]
    async fn the_miner_may_be_named_by_its_owners_or_workers_wallet_with_the_prefix_of_either_network() {
        const OWNER: &str = "t15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdrq";
        let (worker, stranger) = (ActorAddress::of_bls_key(&[2; 48]), ActorAddress::of_bls_key(&[3; 48]));
        let wallets = Wallets { owner: Some(OWNER.parse().unwrap()), worker: Some(worker) };
        let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null).with_wallets(wallets);
        let welcome =
            |farm: FarmInfo| move |store| vec![JoinAnswer::Welcome { farm, store, benched: Benched::new() }];
        let worker = worker.to_string();
        assert!(worker.starts_with("t3"), "{worker}");
        for text in ["t01000", OWNER, &worker] {
            for name in [text.to_owned(), format!("f{}", &text[1..])] {
                let joined = join_as(name.parse().unwrap(), welcome(farm.clone())).await;
                assert_eq!(joined.as_ref(), Ok(&farm), "{name}");
            }
        }
        let error = join_as(stranger, welcome(farm)).await.unwrap_err();
        let (code, text) = render(&ExitError::from(error));
        assert_eq!(code, ExitCode::Refused);
        assert!(text.contains(&stranger.to_string()) && text.contains("t01000"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_without_an_agent_is_given_up_after_a_while_and_named() {
        let error = join(|_| vec![]).await.unwrap_err();
        let (code, text) = render(&ExitError::from(error));
        assert_eq!(code, ExitCode::NotFound);
        assert!(text.contains("no agent answers at site a") && text.contains("sealfarm-agent run"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_another_farm_and_another_store_each_end_the_worker_with_both_values() {
        let refused =
            |_| vec![JoinAnswer::Refused { reason: "the worker is set up for miner t01000, …".into() }];
        let check = |error: JoinError, code, parts: [&str; 2]| {
            let (found, text) = render(&ExitError::from(error));
            assert_eq!(found, code, "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        };
        check(join(refused).await.unwrap_err(), ExitCode::Refused, ["site a", "miner t01000"]);
        let other_farm = |store| vec![welcome(SectorSize::GiB32, store)];
        check(join(other_farm).await.unwrap_err(), ExitCode::Refused, ["2KiB", "32GiB"]);
        let other_store = |_| vec![welcome(SectorSize::KiB2, Uuid::nil())];
        let nil = Uuid::nil().to_string();
        check(join(other_store).await.unwrap_err(), ExitCode::Store, [&nil, "mounted here"]);
    }

    #[tokio::test(start_paused = true)]
    async fn hello_is_repeated_tells_of_draining_and_ends_with_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site("a".parse().unwrap());
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &site.0).unwrap();
        let id = store.identity().id;
        let refused = JoinAnswer::Refused { reason: "the farm is another one now".into() };
        let bus =
            Bench::answering(vec![welcome(SectorSize::KiB2, id), welcome(SectorSize::KiB2, id), refused]);
        let benched = watch::Sender::default();
        let joiner = Joiner { bus: &bus, site: &site, store: &store, benched: &benched };
        let draining = CancellationToken::new();
        let drain = draining.clone();
        let started = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(7)).await;
            drain.cancel();
        });
        let error = joiner.keep_saying_hello(request(), draining).await;
        assert!(matches!(error, JoinError::Refused { .. }));
        assert_eq!(started.elapsed(), Duration::from_secs(12));
        let log = bus.log.lock().unwrap().clone();
        assert_eq!(log, ["ask site.a.join", "ask site.a.join draining", "ask site.a.join draining"]);
    }
}
