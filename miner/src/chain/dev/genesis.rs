//! How a dev chain begins: its configuration, its constants and its source of randomness.
//!
//! Pure. A genesis is written once and never changes; all later values are drawn from it.

use std::time::Duration;

use fvm_shared::econ::TokenAmount;
use jiff::Timestamp;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::commitment::{Digest, Seed, Ticket};
use sealfarm_common::configuration::duration_text;
use sealfarm_common::membership::Wallets;
use sealfarm_common::sector::{MinerId, ProverKind, SealProof, SectorSize};
use serde::{Deserialize, Serialize};

use crate::chain::randomness::{self, Tag};
use crate::chain::{ChainEpoch, Policy, default_confidence};

/// Journals of another version are not read.
pub const JOURNAL_VERSION: u32 = 1;

const EPOCHS_IN_DAY: ChainEpoch = 2_880;
/// What the miner owns at genesis, in FIL.
const BALANCE_FIL: i64 = 1_000_000;
/// Deposit of a pre-commit, in attoFIL: 0.1 FIL.
const DEPOSIT_ATTO: u64 = 100_000_000_000_000_000;

/// Whose constants a dev chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// Those of a local test network: challenge delay 10, one epoch of confidence in a seed.
    #[default]
    #[serde(rename = "2k")]
    TwoK,
    /// Those of mainnet: challenge delay 150, six epochs of confidence in a seed.
    #[serde(rename = "mainnet")]
    Mainnet,
}

/// What an operator can set of the dev chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct DevChainConfig {
    /// How long an epoch lasts: `1s` unless set, at least `10ms`.
    #[serde(with = "duration_text")]
    pub epoch_duration: Duration,
    /// From a pre-commit to its seed, in epochs: the profile's unless set, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_delay: Option<ChainEpoch>,
    /// All other constants: `2k` unless set, or `mainnet`.
    pub profile: Profile,
    /// [`Policy::confidence`]; a key of `[Chain]`, because it is the miner's and not the chain's.
    #[serde(skip)]
    pub confidence: Option<ChainEpoch>,
}

impl Default for DevChainConfig {
    fn default() -> Self {
        let (epoch_duration, profile) = (Duration::from_secs(1), Profile::default());
        Self { epoch_duration, challenge_delay: None, profile, confidence: None }
    }
}

/// A dev chain cannot have these constants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Epochs too short to be told apart.
    #[error("EpochDuration of the dev chain is {}, it must be at least 10ms", humantime::format_duration(*.0))]
    EpochDuration(Duration),
    /// A seed must lie after its pre-commit.
    #[error("ChallengeDelay of the dev chain is {0}, it must be 1 to 86400 epochs")]
    ChallengeDelay(ChainEpoch),
}

impl DevChainConfig {
    /// The constants of a chain configured so.
    ///
    /// # Errors
    /// When epochs are shorter than 10 ms or the challenge delay is not 1 to 86,400.
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        if self.epoch_duration < Duration::from_millis(10) {
            return Err(ConfigError::EpochDuration(self.epoch_duration));
        }
        let (profile_delay, seed_confidence) = match self.profile {
            Profile::TwoK => (10, 1),
            Profile::Mainnet => (150, 6),
        };
        let challenge_delay = self.challenge_delay.unwrap_or(profile_delay);
        if !(1..=30 * EPOCHS_IN_DAY).contains(&challenge_delay) {
            return Err(ConfigError::ChallengeDelay(challenge_delay));
        }
        let confidence = self.confidence.unwrap_or(default_confidence());
        Ok(Policy::of_network(self.epoch_duration, challenge_delay, seed_confidence, confidence))
    }
}

/// The wallets of a miner on a dev chain, where no configuration names others. They follow from the
/// miner's ID, so every process knows them before the chain begins; nobody holds their keys, and
/// nothing is signed with them.
pub fn wallets(miner: MinerId) -> Wallets {
    let wallet = |role: &str| {
        let half =
            |n: u8| randomness::blake2b256(format!("sealfarm dev chain {role} {miner} {n}").as_bytes());
        let mut key = [0; 48];
        key[..32].copy_from_slice(&half(0));
        key[32..].copy_from_slice(&half(1)[..16]);
        Some(ActorAddress::of_bls_key(&key))
    };
    Wallets { owner: wallet("owner"), worker: wallet("worker") }
}

/// What randomness is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The tickets of blocks.
    Ticket,
    /// The random beacon.
    Beacon,
}

/// The first record of a dev chain: everything that is fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Of the journal's format.
    pub version: u32,
    /// The only miner of this chain.
    pub miner: MinerId,
    /// The size of all its sectors.
    pub sector_size: SectorSize,
    /// Whose proofs it accepts.
    pub prover: ProverKind,
    /// When epoch 0 began.
    pub genesis_time: Timestamp,
    /// What all its randomness is drawn from.
    pub rng_seed: Digest,
    /// Its constants.
    pub policy: Policy,
    /// What the miner owns at the start.
    #[serde(with = "crate::chain::atto_text")]
    pub balance: TokenAmount,
    /// What a pre-commit locks, and a proven sector keeps locked as its pledge.
    #[serde(with = "crate::chain::atto_text")]
    pub deposit: TokenAmount,
}

impl Genesis {
    /// The beginning of a chain for one miner.
    pub fn new(
        miner: MinerId,
        sector_size: SectorSize,
        prover: ProverKind,
        policy: Policy,
        genesis_time: Timestamp,
        rng_seed: [u8; 32],
    ) -> Self {
        Self {
            version: JOURNAL_VERSION,
            miner,
            sector_size,
            prover,
            genesis_time,
            rng_seed: Digest(rng_seed),
            policy,
            balance: TokenAmount::from_whole(BALANCE_FIL),
            deposit: TokenAmount::from_atto(DEPOSIT_ATTO),
        }
    }

    /// The proof type of all its sectors.
    pub const fn proof(&self) -> SealProof {
        self.sector_size.seal_proof()
    }

    /// The ticket a replica is bound to when it was drawn at `epoch`, where that was never replaced.
    pub fn ticket(&self, epoch: ChainEpoch) -> Ticket {
        self.ticket_on(epoch, 0)
    }

    /// The seed of `epoch`, where that was never replaced.
    pub fn seed(&self, epoch: ChainEpoch) -> Seed {
        self.seed_on(epoch, 0)
    }

    /// The ticket of `epoch` after it was replaced `fork` times.
    pub fn ticket_on(&self, epoch: ChainEpoch, fork: u64) -> Ticket {
        let entropy = randomness::miner_entropy(self.miner);
        Ticket(self.draw(Source::Ticket, Tag::SealRandomness as i64, epoch, fork, &entropy))
    }

    /// The seed of `epoch` after it was replaced `fork` times.
    pub fn seed_on(&self, epoch: ChainEpoch, fork: u64) -> Seed {
        let entropy = randomness::miner_entropy(self.miner);
        Seed(self.draw(Source::Beacon, Tag::InteractiveSealChallengeSeed as i64, epoch, fork, &entropy))
    }

    /// Draws for a purpose (`tag`, as in [`Tag`]) and an entropy, from what `source` holds at `epoch`
    /// after that was replaced `fork` times.
    pub fn draw(&self, source: Source, tag: i64, epoch: ChainEpoch, fork: u64, entropy: &[u8]) -> [u8; 32] {
        let name = match source {
            Source::Ticket => "ticket",
            Source::Beacon => "beacon",
        };
        randomness::draw(tag, &self.base(name, epoch, fork), epoch, entropy)
    }

    /// 32 bytes that name the block of `epoch` after it was replaced `fork` times.
    pub fn block(&self, epoch: ChainEpoch, fork: u64) -> [u8; 32] {
        self.base("block", epoch, fork)
    }

    /// Stands where a block's ticket or a beacon entry does on a real chain.
    fn base(&self, name: &str, epoch: ChainEpoch, fork: u64) -> [u8; 32] {
        let mut base = format!("sealfarm dev chain {name}").into_bytes();
        base.extend(self.rng_seed.0);
        base.extend(epoch.to_be_bytes());
        if fork > 0 {
            base.extend(fork.to_be_bytes());
        }
        randomness::blake2b256(&base)
    }

    /// The epoch at `now`; 0 before genesis.
    pub fn epoch_at(&self, now: Timestamp) -> ChainEpoch {
        let since = now.duration_since(self.genesis_time).as_nanos().max(0);
        let length = i128::try_from(self.policy.epoch_duration.as_nanos()).unwrap_or(i128::MAX);
        ChainEpoch::try_from(since / length).unwrap_or(ChainEpoch::MAX)
    }

    /// When `epoch` begins.
    pub fn time_of(&self, epoch: ChainEpoch) -> Timestamp {
        let epochs = i128::from(epoch);
        let length = i128::try_from(self.policy.epoch_duration.as_nanos()).unwrap_or(i128::MAX);
        let nanos = self.genesis_time.as_nanosecond().saturating_add(epochs.saturating_mul(length));
        Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis(rng_seed: u8) -> Genesis {
        let policy = DevChainConfig::default().policy().unwrap();
        let time = "2026-11-22T10:00:00Z".parse().unwrap();
        Genesis::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null, policy, time, [rng_seed; 32])
    }

    #[test]
    fn the_mainnet_profile_has_the_networks_constants() {
        let config = DevChainConfig { profile: Profile::Mainnet, ..Default::default() };
        let policy = config.policy().unwrap();
        assert_eq!(policy.challenge_delay, 150);
        assert_eq!(policy.prove_commit_window, 86_550);
        assert_eq!(policy.max_ticket_age, 3_780);
        assert_eq!(policy.min_sector_life, 518_400);
        assert_eq!(policy.max_expiration_ahead, 3_680_640);
        assert_eq!(policy.default_expiration_ahead, 1_555_200 - 5_760);
    }

    #[test]
    fn constants_that_no_chain_can_have_are_refused_by_name() {
        let short = DevChainConfig { epoch_duration: Duration::from_millis(9), ..Default::default() };
        assert!(short.policy().unwrap_err().to_string().contains("9ms"));
        for delay in [0, -1, 86_401] {
            let config = DevChainConfig { challenge_delay: Some(delay), ..Default::default() };
            assert_eq!(config.policy().unwrap_err(), ConfigError::ChallengeDelay(delay));
        }
    }

    #[test]
    fn the_configuration_reads_durations_and_profiles_as_text() {
        let json = r#"{"EpochDuration":"250ms","ChallengeDelay":2,"Profile":"mainnet"}"#;
        let config: DevChainConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.epoch_duration, Duration::from_millis(250));
        assert_eq!((config.challenge_delay, config.profile), (Some(2), Profile::Mainnet));
        assert_eq!(serde_json::to_string(&config).unwrap(), json);
        assert_eq!(serde_json::from_str::<DevChainConfig>("{}").unwrap(), DevChainConfig::default());
    }

    #[test]
    fn a_miners_wallets_are_its_own_and_always_the_same() {
        let one = wallets(MinerId(1000));
        assert_eq!(one, wallets(MinerId(1000)));
        assert_ne!(one.owner, one.worker);
        assert_ne!(one.owner, wallets(MinerId(1001)).owner);
        assert!(one.owner.unwrap().to_string().starts_with("t3"));
    }

    #[test]
    fn tickets_and_seeds_follow_from_the_seed_of_the_source_alone() {
        assert_eq!(genesis(1).ticket(7), genesis(1).ticket(7));
        assert_ne!(genesis(1).ticket(7), genesis(2).ticket(7));
        assert_ne!(genesis(1).ticket(7), genesis(1).ticket(8));
        assert_ne!(genesis(1).ticket(7).0, genesis(1).seed(7).0);
    }

    #[test]
    fn epochs_and_times_are_each_others_inverse() {
        let genesis = genesis(1);
        for epoch in [0, 1, 2, 1_000_000] {
            let time = genesis.time_of(epoch);
            assert_eq!(genesis.epoch_at(time), epoch);
            assert_eq!(genesis.epoch_at(time + Duration::from_millis(999)), epoch);
        }
        assert_eq!(genesis.epoch_at(genesis.genesis_time - Duration::from_secs(5)), 0);
    }
}
