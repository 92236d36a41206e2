//! The dev chain's rules: what a landed message does, and why it may not.
//!
//! Pure: no IO, no clock, no randomness but the genesis's; the epoch is an argument. A ledger is the
//! fold of its messages, so replaying them gives the same ledger. Rules: `builtin-actors`,
//! `actors/miner/src/lib.rs`, `pre_commit_sector_batch2` and `prove_commit_sectors3`.

use std::collections::{BTreeMap, BTreeSet};

use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode as ActorExitCode;
use sealfarm_common::commitment::{CommR, Seed, Ticket};
use sealfarm_common::sector::{SealProof, SectorId, SectorNumber};
use serde::{Deserialize, Serialize};

use super::genesis::Genesis;
use crate::chain::message::{self, PARAMS_BYTES_MAX};
use crate::chain::verifier::{SealClaim, Verdict, cc_comm_d};
use crate::chain::{ChainEpoch, ExitCode, PreCommitInfo, PreCommitParams, ProveCommitParams, SectorOnChain};

/// What a message asks the chain to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "kebab-case")]
pub enum Body {
    /// Method 28 for one CC sector.
    PreCommit(PreCommitParams),
    /// Method 34 for one CC sector.
    ProveCommit(ProveCommitParams),
}

impl Body {
    /// The method's number and its parameters in CBOR.
    pub fn encode(&self) -> (u64, Vec<u8>) {
        match self {
            Self::PreCommit(params) => (message::METHOD_PRE_COMMIT, message::pre_commit_cbor(params)),
            Self::ProveCommit(params) => (message::METHOD_PROVE_COMMIT, message::prove_commit_cbor(params)),
        }
    }
}

/// The rule a message broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Sector numbers end at 2^63-1.
    #[error("sector number {0} is above 2^63-1")]
    NumberTooLarge(SectorNumber),
    /// A number is used once, even if its pre-commit expired.
    #[error("sector number {0} is already allocated")]
    AlreadyAllocated(SectorNumber),
    /// All sectors of a miner have one proof type.
    #[error("proof type {given} is not this miner's {miners}")]
    WrongProofType {
        /// In the message.
        given: SealProof,
        /// On the chain.
        miners: SealProof,
    },
    /// A replica commitment is a non-zero field element.
    #[error("CommR {0} is not a sealed commitment: no non-zero element of the BLS12-381 scalar field")]
    InvalidCommR(CommR),
    /// The ticket must have been drawn before the message landed.
    #[error("ticket epoch {ticket_epoch} is not before epoch {epoch}")]
    TicketFromFuture {
        /// In the message.
        ticket_epoch: ChainEpoch,
        /// Where it landed.
        epoch: ChainEpoch,
    },
    /// The ticket is too old.
    #[error("ticket epoch {ticket_epoch} is more than {max_age} epochs before epoch {epoch}")]
    TicketTooOld {
        /// In the message.
        ticket_epoch: ChainEpoch,
        /// Where it landed.
        epoch: ChainEpoch,
        /// Of the policy.
        max_age: ChainEpoch,
    },
    /// The sector would live too short a time if it were proven at the last moment.
    #[error("expiration {expiration} is before {earliest}, the shortest life after the latest activation")]
    ExpirationTooSoon {
        /// In the message.
        expiration: ChainEpoch,
        /// The least allowed.
        earliest: ChainEpoch,
    },
    /// The sector would live too long.
    #[error("expiration {expiration} is after {latest}, the furthest ahead a sector may expire")]
    ExpirationTooLate {
        /// In the message.
        expiration: ChainEpoch,
        /// The most allowed.
        latest: ChainEpoch,
    },
    /// The deposit cannot be paid.
    #[error("the deposit of {deposit} FIL is above the balance of {balance} FIL")]
    InsufficientBalance {
        /// What the pre-commit locks.
        deposit: TokenAmount,
        /// What is there.
        balance: TokenAmount,
    },
    /// Messages have a bounded size.
    #[error("the parameters have {bytes} bytes, above {}", PARAMS_BYTES_MAX)]
    TooLong {
        /// Of the parameters.
        bytes: usize,
    },
    /// There is nothing to prove.
    #[error("sector {0} has no pre-commit")]
    NoPreCommit(SectorNumber),
    /// It is proven.
    #[error("sector {0} is already proven")]
    AlreadyProven(SectorNumber),
    /// The pre-commit was not proven in time.
    #[error("the pre-commit of sector {0} has expired and its deposit is burnt")]
    Expired(SectorNumber),
    /// The challenge is not known yet.
    #[error("sector {number} cannot be proven before epoch {from}, this is {epoch}")]
    TooEarly {
        /// The sector.
        number: SectorNumber,
        /// The first epoch its proof may land in.
        from: ChainEpoch,
        /// Where the message landed.
        epoch: ChainEpoch,
    },
    /// A proof's length follows from its type.
    #[error("the proof has {bytes} bytes, {proof} has {expected}")]
    WrongProofLength {
        /// In the message.
        bytes: usize,
        /// Of the proof type.
        expected: usize,
        /// The proof type.
        proof: SealProof,
    },
    /// The proof does not hold for what the chain itself knows.
    #[error("the proof of sector {number} is invalid: {reason}")]
    InvalidProof {
        /// The sector.
        number: SectorNumber,
        /// What the verifier said.
        reason: String,
    },
}

impl Refusal {
    /// The exit code an actor gives for it.
    pub fn code(&self) -> ActorExitCode {
        match self {
            Self::InsufficientBalance { .. } => ActorExitCode::USR_INSUFFICIENT_FUNDS,
            Self::NoPreCommit(_) => ActorExitCode::USR_NOT_FOUND,
            Self::TooEarly { .. } => ActorExitCode::USR_FORBIDDEN,
            _ => ActorExitCode::USR_ILLEGAL_ARGUMENT,
        }
    }
}

impl From<Refusal> for ExitCode {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { code: refusal.code().value(), reason: refusal.to_string() }
    }
}

/// Where the miner's money is. The sum never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funds {
    /// Free.
    pub balance: TokenAmount,
    /// Locked behind pre-commits.
    pub deposits: TokenAmount,
    /// Locked behind proven sectors.
    pub pledged: TokenAmount,
    /// Lost with pre-commits that expired.
    pub burnt: TokenAmount,
}

/// The chain's state at its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    genesis: Genesis,
    epoch: ChainEpoch,
    allocated: BTreeSet<SectorNumber>,
    pre_commits: BTreeMap<SectorNumber, PreCommitInfo>,
    /// The last epoch each pre-commit may be proven in: the order in which they expire.
    open: BTreeSet<(ChainEpoch, SectorNumber)>,
    sectors: BTreeMap<SectorNumber, SectorOnChain>,
    funds: Funds,
    /// The first epoch that each reorg replaced.
    forks: Vec<ChainEpoch>,
}

impl Ledger {
    /// The ledger at epoch 0.
    pub fn new(genesis: Genesis) -> Self {
        let none = TokenAmount::from_atto(0);
        let funds = Funds {
            balance: genesis.balance.clone(),
            deposits: none.clone(),
            pledged: none.clone(),
            burnt: none,
        };
        Self {
            genesis,
            epoch: 0,
            allocated: BTreeSet::new(),
            pre_commits: BTreeMap::new(),
            open: BTreeSet::new(),
            sectors: BTreeMap::new(),
            funds,
            forks: Vec::new(),
        }
    }

    /// The first epoch that each reorg replaced, in the order they happened.
    pub fn forks(&self) -> &[ChainEpoch] {
        &self.forks
    }

    /// How often `epoch` was replaced; later epochs differ with those they follow.
    pub fn fork_at(&self, epoch: ChainEpoch) -> u64 {
        self.forks.iter().filter(|from| **from <= epoch).count() as u64
    }

    /// The ticket of `epoch` as the chain now has it.
    pub fn ticket(&self, epoch: ChainEpoch) -> Ticket {
        self.genesis.ticket_on(epoch, self.fork_at(epoch))
    }

    /// The seed of `epoch` as the chain now has it.
    pub fn seed(&self, epoch: ChainEpoch) -> Seed {
        self.genesis.seed_on(epoch, self.fork_at(epoch))
    }

    /// All epochs from `from` on are others from now on. What landed there is not undone by this.
    pub fn fork(&mut self, from: ChainEpoch) {
        self.forks.push(from);
    }

    /// What is fixed.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Up to where it has come.
    pub fn epoch(&self) -> ChainEpoch {
        self.epoch
    }

    /// Every number ever pre-committed.
    pub fn allocated(&self) -> &BTreeSet<SectorNumber> {
        &self.allocated
    }

    /// A pre-commit that waits for its proof.
    pub fn pre_commit(&self, number: SectorNumber) -> Option<&PreCommitInfo> {
        self.pre_commits.get(&number)
    }

    /// A proven sector.
    pub fn sector(&self, number: SectorNumber) -> Option<&SectorOnChain> {
        self.sectors.get(&number)
    }

    /// Where the money is.
    pub fn funds(&self) -> &Funds {
        &self.funds
    }

    /// Goes on to `epoch`: pre-commits whose last epoch has passed expire and their deposits burn.
    pub fn advance(&mut self, epoch: ChainEpoch) {
        while let Some((until, number)) = self.open.first().copied().filter(|(until, _)| *until < epoch) {
            self.open.remove(&(until, number));
            if let Some(expired) = self.pre_commits.remove(&number) {
                self.funds.deposits -= &expired.deposit;
                self.funds.burnt += &expired.deposit;
            }
        }
        self.epoch = self.epoch.max(epoch);
    }

    /// Whether a message could land at `epoch`, its proof apart.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn check(&self, body: &Body, epoch: ChainEpoch) -> Result<(), Refusal> {
        match body {
            Body::PreCommit(params) => self.check_pre_commit(params, epoch),
            Body::ProveCommit(params) => self.claim(params, epoch).map(|_| ()),
        }
    }

    /// What the proof of a prove-commit landing at `epoch` must hold for. Every value but the proof
    /// is the chain's own.
    ///
    /// # Errors
    /// The first rule the message breaks.
    pub fn claim(&self, params: &ProveCommitParams, epoch: ChainEpoch) -> Result<SealClaim, Refusal> {
        let number = params.number;
        let policy = &self.genesis.policy;
        check_length(params.proof.0.len())?;
        if self.sectors.contains_key(&number) {
            return Err(Refusal::AlreadyProven(number));
        }
        let Some(info) = self.pre_commits.get(&number) else {
            let expired = self.allocated.contains(&number);
            return Err(if expired { Refusal::Expired(number) } else { Refusal::NoPreCommit(number) });
        };
        let from = policy.prove_from(info.epoch);
        if epoch < from {
            return Err(Refusal::TooEarly { number, from, epoch });
        }
        if epoch > policy.prove_until(info.epoch) {
            return Err(Refusal::Expired(number));
        }
        let (bytes, expected) = (params.proof.0.len(), info.proof.proof_bytes());
        if bytes != expected {
            return Err(Refusal::WrongProofLength { bytes, expected, proof: info.proof });
        }
        let cbor = message::prove_commit_cbor(params);
        check_length(cbor.len())?;
        Ok(SealClaim {
            sector: SectorId { miner: self.genesis.miner, number },
            proof: info.proof,
            comm_d: cc_comm_d(self.genesis.sector_size),
            comm_r: info.comm_r,
            ticket: self.ticket(info.ticket_epoch),
            seed: self.seed(policy.seed_epoch(info.epoch)),
            bytes: params.proof.clone(),
        })
    }

    /// Lands a message at `epoch`, which is never before an earlier message's. A refused one changes
    /// nothing. `verdict` is what the verifier said of the proof of [`Ledger::claim`].
    pub fn apply(&mut self, body: &Body, verdict: Option<&Verdict>, epoch: ChainEpoch) -> ExitCode {
        self.advance(epoch);
        let done = match body {
            Body::PreCommit(params) => self.pre_commit_sector(params, epoch),
            Body::ProveCommit(params) => self.prove_commit_sector(params, verdict, epoch),
        };
        done.map_or_else(ExitCode::from, |()| ExitCode::Ok)
    }

    fn check_pre_commit(&self, params: &PreCommitParams, epoch: ChainEpoch) -> Result<(), Refusal> {
        let policy = &self.genesis.policy;
        let PreCommitParams { number, proof, comm_r, ticket_epoch, expiration } = *params;
        if i64::try_from(number.0).is_err() {
            return Err(Refusal::NumberTooLarge(number));
        }
        if self.allocated.contains(&number) {
            return Err(Refusal::AlreadyAllocated(number));
        }
        if proof != self.genesis.proof() {
            return Err(Refusal::WrongProofType { given: proof, miners: self.genesis.proof() });
        }
        if !is_replica_commitment(comm_r) {
            return Err(Refusal::InvalidCommR(comm_r));
        }
        // Nothing was drawn before genesis either.
        if ticket_epoch >= epoch {
            return Err(Refusal::TicketFromFuture { ticket_epoch, epoch });
        }
        if ticket_epoch < (epoch - policy.max_ticket_age).max(0) {
            return Err(Refusal::TicketTooOld { ticket_epoch, epoch, max_age: policy.max_ticket_age });
        }
        let earliest = epoch + policy.prove_commit_window + policy.min_sector_life;
        if expiration < earliest {
            return Err(Refusal::ExpirationTooSoon { expiration, earliest });
        }
        let latest = epoch + policy.max_expiration_ahead;
        if expiration > latest {
            return Err(Refusal::ExpirationTooLate { expiration, latest });
        }
        if self.genesis.deposit > self.funds.balance {
            return Err(Refusal::InsufficientBalance {
                deposit: self.genesis.deposit.clone(),
                balance: self.funds.balance.clone(),
            });
        }
        Ok(())
    }

    fn pre_commit_sector(&mut self, params: &PreCommitParams, epoch: ChainEpoch) -> Result<(), Refusal> {
        self.check_pre_commit(params, epoch)?;
        let deposit = self.genesis.deposit.clone();
        self.funds.balance -= &deposit;
        self.funds.deposits += &deposit;
        self.allocated.insert(params.number);
        self.open.insert((self.genesis.policy.prove_until(epoch), params.number));
        let info = PreCommitInfo {
            epoch,
            proof: params.proof,
            comm_r: params.comm_r,
            ticket_epoch: params.ticket_epoch,
            expiration: params.expiration,
            deposit,
        };
        self.pre_commits.insert(params.number, info);
        Ok(())
    }

    fn prove_commit_sector(
        &mut self,
        params: &ProveCommitParams,
        verdict: Option<&Verdict>,
        epoch: ChainEpoch,
    ) -> Result<(), Refusal> {
        let number = params.number;
        self.claim(params, epoch)?;
        match verdict {
            Some(Verdict::Valid) => {}
            Some(Verdict::Invalid { reason }) => {
                return Err(Refusal::InvalidProof { number, reason: reason.clone() });
            }
            None => return Err(Refusal::InvalidProof { number, reason: "it was not verified".into() }),
        }
        let info = self.pre_commits.remove(&number).ok_or(Refusal::NoPreCommit(number))?;
        self.open.remove(&(self.genesis.policy.prove_until(info.epoch), number));
        self.funds.deposits -= &info.deposit;
        self.funds.pledged += &info.deposit;
        let sector = SectorOnChain {
            activation: epoch,
            proof: info.proof,
            comm_r: info.comm_r,
            expiration: info.expiration,
            pledge: info.deposit,
        };
        self.sectors.insert(number, sector);
        Ok(())
    }
}

fn check_length(bytes: usize) -> Result<(), Refusal> {
    if bytes > PARAMS_BYTES_MAX { Err(Refusal::TooLong { bytes }) } else { Ok(()) }
}

/// Whether these are the bytes, little-endian, of a non-zero number below the field's modulus.
fn is_replica_commitment(comm_r: CommR) -> bool {
    /// The order of BLS12-381's scalar field, big-endian.
    const MODULUS: [u8; 32] = [
        0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53,
        0xbd, 0xa4, 0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
    ];
    let mut big_endian = comm_r.0;
    big_endian.reverse();
    big_endian != [0; 32] && big_endian < MODULUS
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
