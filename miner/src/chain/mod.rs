//! The chain as the miner sees it: what it asks, what it sends, and how either can fail.
//!
//! Two implementations: [`dev`], embedded, and [`lotus`], a full node over JSON-RPC. Nothing here decides
//! what a sector does next; that is the sector machine's business.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use fvm_shared::econ::TokenAmount;
use jiff::Timestamp;
use sealfarm_common::commitment::{CommR, SealProofBytes, Seed, Ticket};
use sealfarm_common::configuration::duration_text;
use sealfarm_common::sector::{ProverKind, SealProof, SectorNumber};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub mod allocated;
pub mod dev;
pub mod lotus;
pub mod message;
pub mod randomness;
pub mod verifier;

pub use fvm_shared::clock::ChainEpoch;

pub use self::allocated::AllocatedNumbers;

/// The name of the network that `dev-chain run` serves. One for null proofs says so in its name.
pub const fn dev_network(prover: ProverKind) -> &'static str {
    match prover {
        ProverKind::Filecoin => "devchain",
        ProverKind::Null => "devchain-null",
    }
}

/// Whose proofs a network of [`dev_network`] takes; `None` for every other network.
pub fn prover_of_dev_network(network: &str) -> Option<ProverKind> {
    [ProverKind::Filecoin, ProverKind::Null].into_iter().find(|prover| dev_network(*prover) == network)
}

/// The chain's newest epoch, as this process knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its height; 0 at genesis.
    pub epoch: ChainEpoch,
    /// When that epoch began.
    pub at: Timestamp,
    /// What was replaced below it.
    #[serde(default)]
    pub reorgs: Reorgs,
}

/// The reorgs a process has seen: epochs whose blocks, and what they held, gave way to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reorgs {
    /// How many. A number skipped means that their epochs are not known.
    pub count: u64,
    /// The first epoch that the newest of them replaced; it replaced all from there to its head.
    pub from: ChainEpoch,
}

impl Head {
    /// When `epoch` begins or began, as far as can be told from here.
    pub fn time_of(&self, epoch: ChainEpoch, policy: &Policy) -> Timestamp {
        let epochs = u32::try_from((epoch - self.epoch).unsigned_abs()).unwrap_or(u32::MAX);
        let distance = policy.epoch_duration.saturating_mul(epochs);
        if epoch >= self.epoch {
            self.at.saturating_add(distance).unwrap_or(Timestamp::MAX)
        } else {
            self.at.saturating_sub(distance).unwrap_or(Timestamp::MIN)
        }
    }
}

/// The chain's constants, in epochs unless said otherwise (`builtin-actors`, `runtime/policy.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long an epoch lasts.
    #[serde(with = "duration_text")]
    pub epoch_duration: Duration,
    /// From the landing of a pre-commit to the epoch its seed is drawn at.
    pub challenge_delay: ChainEpoch,
    /// A pre-commit is refused when its ticket is older.
    pub max_ticket_age: ChainEpoch,
    /// From the landing of a pre-commit to the last epoch its proof may land in (86,550 on mainnet).
    pub prove_commit_window: ChainEpoch,
    /// How far behind the head tickets are drawn.
    pub ticket_lookback: ChainEpoch,
    /// How many epochs must lie on top of the seed's before it is drawn.
    pub seed_confidence: ChainEpoch,
    /// The shortest life of a sector, counted from its activation.
    pub min_sector_life: ChainEpoch,
    /// A sector's expiration lies at most this far ahead of now.
    pub max_expiration_ahead: ChainEpoch,
    /// The expiration Lotus asks for when nothing else is configured, counted from now.
    pub default_expiration_ahead: ChainEpoch,
    /// A landing with so many epochs on top is looked at once more, whatever the chain said of reorgs.
    #[serde(default = "default_confidence")]
    pub confidence: ChainEpoch,
    /// What has so many epochs on top is never replaced.
    #[serde(default = "default_finality")]
    pub finality: ChainEpoch,
}

/// [`Policy::confidence`] unless configured.
pub const fn default_confidence() -> ChainEpoch {
    10
}

/// [`Policy::finality`] on every network (`policy.ChainFinality`).
pub const fn default_finality() -> ChainEpoch {
    900
}

/// Epochs of a day on every network, whatever their length.
const EPOCHS_IN_DAY: ChainEpoch = 2_880;

impl Policy {
    /// The constants of a network whose epochs are so long and whose challenges come so late; all others
    /// are the same on every network.
    pub const fn of_network(
        epoch_duration: Duration,
        challenge_delay: ChainEpoch,
        seed_confidence: ChainEpoch,
        confidence: ChainEpoch,
    ) -> Self {
        Self {
            epoch_duration,
            challenge_delay,
            max_ticket_age: EPOCHS_IN_DAY + default_finality(),
            prove_commit_window: 30 * EPOCHS_IN_DAY + challenge_delay,
            ticket_lookback: default_finality(),
            seed_confidence,
            min_sector_life: 180 * EPOCHS_IN_DAY,
            max_expiration_ahead: 1_278 * EPOCHS_IN_DAY,
            default_expiration_ahead: 540 * EPOCHS_IN_DAY - 2 * EPOCHS_IN_DAY,
            confidence,
            finality: default_finality(),
        }
    }

    /// The epoch the seed of a pre-commit that landed at `pre_commit` is drawn at.
    pub const fn seed_epoch(&self, pre_commit: ChainEpoch) -> ChainEpoch {
        pre_commit + self.challenge_delay
    }

    /// The head at which a seed of `seed_epoch` can be drawn.
    pub const fn seed_ready(&self, seed_epoch: ChainEpoch) -> ChainEpoch {
        seed_epoch + self.seed_confidence
    }

    /// The first epoch a prove-commit may land in.
    pub const fn prove_from(&self, pre_commit: ChainEpoch) -> ChainEpoch {
        pre_commit + self.challenge_delay + 1
    }

    /// The last epoch a prove-commit may land in; afterwards the pre-commit's deposit burns.
    pub const fn prove_until(&self, pre_commit: ChainEpoch) -> ChainEpoch {
        pre_commit + self.prove_commit_window
    }

    /// The last epoch a pre-commit with a ticket of `ticket_epoch` may land in.
    pub const fn ticket_until(&self, ticket_epoch: ChainEpoch) -> ChainEpoch {
        ticket_epoch + self.max_ticket_age
    }

    /// The expiration to ask for a CC sector whose pre-commit is sent at `now`.
    pub const fn cc_expiration(&self, now: ChainEpoch) -> ChainEpoch {
        now + self.default_expiration_ahead
    }
}

/// Randomness for pre-commit 1, and where on the chain it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketDraw {
    /// What the replica is bound to.
    pub ticket: Ticket,
    /// Goes into the pre-commit message; the chain draws the ticket again from it.
    pub epoch: ChainEpoch,
}

/// What a pre-commit message says of one CC sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreCommitParams {
    /// The sector.
    pub number: SectorNumber,
    /// How it is sealed.
    pub proof: SealProof,
    /// The replica's commitment.
    pub comm_r: CommR,
    /// Where its ticket was drawn.
    pub ticket_epoch: ChainEpoch,
    /// When the sector's life ends.
    pub expiration: ChainEpoch,
}

/// What a prove-commit message says of one CC sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveCommitParams {
    /// The sector.
    pub number: SectorNumber,
    /// 192 bytes a partition.
    pub proof: SealProofBytes,
}

/// A pre-commit that stands on the chain and waits for its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreCommitInfo {
    /// Where it landed: the seed's epoch is counted from here.
    pub epoch: ChainEpoch,
    /// How the sector is sealed.
    pub proof: SealProof,
    /// The replica's commitment.
    pub comm_r: CommR,
    /// Where its ticket was drawn.
    pub ticket_epoch: ChainEpoch,
    /// When the sector's life ends.
    pub expiration: ChainEpoch,
    /// What burns if the proof never comes.
    #[serde(with = "atto_text")]
    pub deposit: TokenAmount,
}

/// A proven sector, as the chain knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorOnChain {
    /// Where its proof landed.
    pub activation: ChainEpoch,
    /// How it is sealed.
    pub proof: SealProof,
    /// The replica's commitment.
    pub comm_r: CommR,
    /// When its life ends.
    pub expiration: ChainEpoch,
    /// What stands behind it.
    #[serde(with = "atto_text")]
    pub pledge: TokenAmount,
}

/// A message's CID, as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainMessageId(pub String);

impl fmt::Display for ChainMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a landed message ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCode {
    /// It took effect.
    Ok,
    /// It had no effect.
    Refused {
        /// The actor's exit code (`fvm_shared::error::ExitCode`).
        code: u32,
        /// The rule, with the values that broke it.
        reason: String,
    },
}

impl ExitCode {
    /// Whether the message took effect.
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// A message that is on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// Where.
    pub epoch: ChainEpoch,
    /// What came of it.
    pub exit: ExitCode,
}

/// Why the chain did not answer as hoped; the variants differ in what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Ask again later: nothing is wrong with the question.
    #[error("the chain cannot be asked: {reason}")]
    Unreachable {
        /// What failed, and where.
        reason: String,
    },
    /// Ask again when the head has reached `epoch`.
    #[error("too early for the chain: wait for epoch {epoch}")]
    NotYet {
        /// The first head at which the answer can differ.
        epoch: ChainEpoch,
    },
    /// This message will never be accepted as it is.
    #[error("the chain refuses: {reason}")]
    Refused {
        /// The rule, with the values that broke it.
        reason: String,
    },
}

/// One miner's view of one chain.
///
/// Every method can be repeated: the pushes are idempotent by uuid, as Lotus's `MsgUuid` is.
#[async_trait]
pub trait Chain: Send + Sync {
    /// Which implementation this is: `dev` or `lotus`.
    fn name(&self) -> &'static str;

    /// The chain's constants.
    fn policy(&self) -> &Policy;

    /// The head and its changes. Everything that landed below a head can be seen once it is here.
    fn heads(&self) -> watch::Receiver<Head>;

    /// The head now.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn head(&self) -> Result<Head, ChainError>;

    /// Draws a ticket behind the head (`ticket_lookback`), with the miner's address as entropy.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn draw_ticket(&self) -> Result<TicketDraw, ChainError>;

    /// Draws the seed of `epoch`, which is [`Policy::seed_epoch`] of a landed pre-commit.
    ///
    /// # Errors
    /// [`ChainError::NotYet`] until the head is at [`Policy::seed_ready`] of it.
    async fn draw_seed(&self, epoch: ChainEpoch) -> Result<Seed, ChainError>;

    /// Whether the chain has ever seen this number; it must then never be used again.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn sector_allocated(&self, number: SectorNumber) -> Result<bool, ChainError>;

    /// All numbers the chain has ever seen.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn allocated_numbers(&self) -> Result<AllocatedNumbers, ChainError>;

    /// The sector's pre-commit, while it waits for its proof.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn sector_pre_commit_info(&self, number: SectorNumber)
    -> Result<Option<PreCommitInfo>, ChainError>;

    /// The sector, once it is proven.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`].
    async fn sector_info(&self, number: SectorNumber) -> Result<Option<SectorOnChain>, ChainError>;

    /// Sends a pre-commit. A repeated `uuid` returns the message of the first time.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the chain can tell now that the message would fail,
    /// [`ChainError::Unreachable`].
    async fn push_pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError>;

    /// Sends a prove-commit. A repeated `uuid` returns the message of the first time.
    ///
    /// # Errors
    /// [`ChainError::NotYet`] before the seed's epoch has passed, [`ChainError::Refused`] when the
    /// chain can tell now that the message would fail, [`ChainError::Unreachable`].
    async fn push_prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError>;

    /// Where a pushed message landed, and how it ended; `None` while it waits, also where it waits again
    /// after a reorg.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for a message this chain was never given, or has lost,
    /// [`ChainError::Unreachable`].
    async fn search_message(&self, id: &ChainMessageId) -> Result<Option<Landed>, ChainError>;
}

/// An amount as a decimal string of attoFIL, as in the chain's JSON.
pub(crate) mod atto_text {
    use fvm_shared::bigint::BigInt;
    use fvm_shared::econ::TokenAmount;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &TokenAmount, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value.atto())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TokenAmount, D::Error> {
        let text = String::deserialize(d)?;
        let atto: BigInt = text
            .parse()
            .map_err(|e| serde::de::Error::custom(format!("`{text}` is not an amount in attoFIL: {e}")))?;
        Ok(TokenAmount::from_atto(atto))
    }
}
