//! What the dev chain knows of its miner, in a node's shapes.

use std::sync::Arc;

use fvm_shared::econ::TokenAmount;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::{Method, Methods};
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::token::Permission;
use serde_json::{Value, json};

use super::{NETWORK_VERSION, Node, failed, read};
use crate::chain::lotus::wire::{
    Actor, Atto, Link, MinerInfo, NetworkParams, PreCommit, PreCommitOnChain, Sector, TipsetKey,
};
use crate::chain::{AllocatedNumbers, ChainEpoch, PreCommitInfo, SectorOnChain, message};

const VERSION: Method = read("Filecoin.Version");
const NETWORK_NAME: Method = read("Filecoin.StateNetworkName");
const NETWORK: Method = read("Filecoin.StateNetworkVersion");
const NETWORK_PARAMS: Method = read("Filecoin.StateGetNetworkParams");
const LOOKUP_ID: Method = read("Filecoin.StateLookupID");
const MINER_INFO: Method = read("Filecoin.StateMinerInfo");
const ALLOCATED: Method = read("Filecoin.StateMinerAllocated");
const SECTOR_ALLOCATED: Method = read("Filecoin.StateMinerSectorAllocated");
const PRE_COMMIT: Method = read("Filecoin.StateSectorPreCommitInfo");
const SECTOR: Method = read("Filecoin.StateSectorGetInfo");
const DEPOSIT: Method = read("Filecoin.StateMinerPreCommitDepositForPower");
const PLEDGE: Method = read("Filecoin.StateMinerInitialPledgeForSector");
const ACCOUNT_KEY: Method = read("Filecoin.StateAccountKey");
const ACTOR: Method = read("Filecoin.StateGetActor");
const WALLET_HAS: Method = Method::new("Filecoin.WalletHas", Permission::Write);
const BALANCE: Method = read("Filecoin.WalletBalance");

type OfMiner = (ActorAddress, TipsetKey);
type OfSector = (ActorAddress, u64, TipsetKey);

pub(super) fn add(table: Methods, node: &Arc<Node>) -> Methods {
    let table = add_network(table, node);
    add_wallets(add_miner(table, node), node)
}

fn add_network(table: Methods, node: &Arc<Node>) -> Methods {
    let (name, params) = (node.clone(), node.clone());
    table
        .with(VERSION, |()| async {
            let text = format!("sealfarm-miner dev-chain {}", env!("CARGO_PKG_VERSION"));
            Ok::<Value, ExitError>(json!({"Version": text}))
        })
        .with(NETWORK_NAME, move |()| {
            let network = name.network;
            async move { Ok(network) }
        })
        .with(NETWORK, |(_key,): (TipsetKey,)| async { Ok(NETWORK_VERSION) })
        .with(NETWORK_PARAMS, move |()| {
            let policy = &params.chain.policy;
            let answer = NetworkParams {
                block_delay_secs: policy.epoch_duration.as_secs_f64(),
                pre_commit_challenge_delay: policy.challenge_delay,
            };
            async move { Ok(answer) }
        })
}

fn add_miner(table: Methods, node: &Arc<Node>) -> Methods {
    let [id, info, all, one, pre_commit, sector, deposit, pledge] = std::array::from_fn(|_| node.clone());
    table
        .with(LOOKUP_ID, move |(address, _key): OfMiner| {
            let answer = id.expect_miner(&address).map(|()| address);
            async move { answer }
        })
        .with(MINER_INFO, move |(address, _key): OfMiner| {
            let answer = info.miner_info(&address);
            async move { answer }
        })
        .with(ALLOCATED, move |(address, _key): OfMiner| {
            let answer = all.allocated(&address).map(|numbers| numbers.run_lengths());
            async move { answer }
        })
        .with(SECTOR_ALLOCATED, move |(address, number, _key): OfSector| {
            let answer = one.allocated(&address).map(|numbers| numbers.contains(SectorNumber(number)));
            async move { answer }
        })
        .with(PRE_COMMIT, move |(address, number, _key): OfSector| {
            let answer = pre_commit.pre_commit(&address, SectorNumber(number));
            async move { answer }
        })
        .with(SECTOR, move |(address, number, _key): OfSector| {
            let answer = sector.sector(&address, SectorNumber(number));
            async move { answer }
        })
        .with(DEPOSIT, move |(address, _info, _key): (ActorAddress, PreCommit, TipsetKey)| {
            let answer = deposit.expect_miner(&address).and_then(|()| deposit.deposit());
            async move { answer.map(Atto) }
        })
        .with(PLEDGE, move |_: (ChainEpoch, u64, u64, TipsetKey)| {
            // A dev chain keeps the deposit as the pledge.
            let answer = pledge.deposit();
            async move { answer.map(Atto) }
        })
}

fn add_wallets(table: Methods, node: &Arc<Node>) -> Methods {
    let [actor, has, balance] = std::array::from_fn(|_| node.clone());
    table
        .with(ACCOUNT_KEY, |(address, _key): OfMiner| async move { Ok::<_, ExitError>(address) })
        .with(ACTOR, move |(address, _key): OfMiner| {
            let answer = actor.actor(&address);
            async move { answer }
        })
        .with(WALLET_HAS, move |(address,): (ActorAddress,)| {
            let answer = address == has.worker();
            async move { Ok(answer) }
        })
        .with(BALANCE, move |(address,): (ActorAddress,)| {
            let answer = balance.balance(&address);
            async move { answer.map(Atto) }
        })
}

impl Node {
    fn miner_info(&self, address: &ActorAddress) -> Result<MinerInfo, ExitError> {
        self.expect_miner(address)?;
        let state = self.state()?;
        let genesis = state.ledger().genesis();
        Ok(MinerInfo {
            owner: self.owner(),
            worker: self.worker(),
            control_addresses: Vec::new(),
            // Window PoSt types 10 to 14 stand beside seal types 5 to 9.
            window_post_proof_type: genesis.proof().number() + 5,
            sector_size: genesis.sector_size.bytes(),
        })
    }

    fn allocated(&self, address: &ActorAddress) -> Result<AllocatedNumbers, ExitError> {
        self.expect_miner(address)?;
        Ok(self.state()?.ledger().allocated().iter().copied().collect())
    }

    fn pre_commit(
        &self,
        address: &ActorAddress,
        number: SectorNumber,
    ) -> Result<Option<PreCommitOnChain>, ExitError> {
        self.expect_miner(address)?;
        let found = self.state()?.ledger().pre_commit(number).cloned();
        Ok(found.map(|found| pre_commit_json(number, found)))
    }

    fn sector(&self, address: &ActorAddress, number: SectorNumber) -> Result<Option<Sector>, ExitError> {
        self.expect_miner(address)?;
        let found = self.state()?.ledger().sector(number).cloned();
        Ok(found.map(|found| sector_json(number, found)))
    }

    /// What a pre-commit costs.
    pub(super) fn deposit(&self) -> Result<TokenAmount, ExitError> {
        Ok(self.state()?.ledger().genesis().deposit.clone())
    }

    fn balance(&self, address: &ActorAddress) -> Result<TokenAmount, ExitError> {
        let free = self.state()?.ledger().funds().balance.clone();
        Ok(if *address == self.worker() { free } else { TokenAmount::default() })
    }

    fn actor(&self, address: &ActorAddress) -> Result<Actor, ExitError> {
        if *address != self.worker() {
            return Err(failed(format!("actor {address} not found")));
        }
        let nonce = self.state()?.landed_nonce();
        Ok(Actor { nonce, balance: Atto(self.balance(address)?) })
    }
}

fn pre_commit_json(number: SectorNumber, found: PreCommitInfo) -> PreCommitOnChain {
    PreCommitOnChain {
        info: PreCommit {
            seal_proof: found.proof.number(),
            sector_number: number.0,
            sealed_cid: Link(message::sealed_cid(found.comm_r)),
            seal_rand_epoch: found.ticket_epoch,
            deal_ids: Vec::new(),
            expiration: found.expiration,
            unsealed_cid: None,
        },
        pre_commit_deposit: Atto(found.deposit),
        pre_commit_epoch: found.epoch,
    }
}

fn sector_json(number: SectorNumber, found: SectorOnChain) -> Sector {
    Sector {
        sector_number: number.0,
        seal_proof: found.proof.number(),
        sealed_cid: Link(message::sealed_cid(found.comm_r)),
        activation: found.activation,
        expiration: found.expiration,
        initial_pledge: Atto(found.pledge),
    }
}
