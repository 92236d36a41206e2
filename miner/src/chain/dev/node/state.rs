//! What the dev chain knows of its miners, in a node's shapes.

use fvm_shared::econ::TokenAmount;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Method;
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::token::Permission;
use serde_json::json;

use super::actors::Actor;
use super::{NETWORK_VERSION, Table, failed, read};
use crate::chain::lotus::wire::{
    Actor as ActorState, Atto, Link, MinerInfo, NetworkParams, PreCommit, PreCommitOnChain, Sector, TipsetKey,
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

type OfActor = (ActorAddress, TipsetKey);
type OfSector = (ActorAddress, u64, TipsetKey);

pub(super) fn add(table: Table) -> Table {
    add_wallets(add_miner(add_network(table)))
}

fn add_network(table: Table) -> Table {
    table
        .look(VERSION, |_, ()| {
            Ok(json!({"Version": format!("sealfarm-miner dev-chain {}", env!("CARGO_PKG_VERSION"))}))
        })
        .look(NETWORK_NAME, |actors, ()| Ok(actors.network()))
        .look(NETWORK, |_, (_key,): (TipsetKey,)| Ok(NETWORK_VERSION))
        .look(NETWORK_PARAMS, |actors, ()| {
            Ok(NetworkParams {
                block_delay_secs: actors.policy().epoch_duration.as_secs_f64(),
                pre_commit_challenge_delay: actors.policy().challenge_delay,
            })
        })
}

fn add_miner(table: Table) -> Table {
    table
        .look(LOOKUP_ID, |actors, (address, _key): OfActor| actors.miner(&address).map(|_| address))
        .look(MINER_INFO, |actors, (address, _key): OfActor| miner_info(actors.miner(&address)?))
        .look(ALLOCATED, |actors, (address, _key): OfActor| {
            Ok(allocated(actors.miner(&address)?)?.run_lengths())
        })
        .look(SECTOR_ALLOCATED, |actors, (address, number, _key): OfSector| {
            Ok(allocated(actors.miner(&address)?)?.contains(SectorNumber(number)))
        })
        .look(PRE_COMMIT, |actors, (address, number, _key): OfSector| {
            let number = SectorNumber(number);
            let found = actors.miner(&address)?.state()?.ledger().pre_commit(number).cloned();
            Ok(found.map(|found| pre_commit_json(number, found)))
        })
        .look(SECTOR, |actors, (address, number, _key): OfSector| {
            let number = SectorNumber(number);
            let found = actors.miner(&address)?.state()?.ledger().sector(number).cloned();
            Ok(found.map(|found| sector_json(number, found)))
        })
        .look(DEPOSIT, |actors, (address, _info, _key): (ActorAddress, PreCommit, TipsetKey)| {
            actors.miner(&address).map(|_| Atto(actors.genesis().deposit.clone()))
        })
        // A dev chain keeps the deposit as the pledge.
        .look(PLEDGE, |actors, _: (ChainEpoch, u64, u64, TipsetKey)| {
            Ok(Atto(actors.genesis().deposit.clone()))
        })
}

fn add_wallets(table: Table) -> Table {
    table
        .look(ACCOUNT_KEY, |_, (address, _key): OfActor| Ok(address))
        .look(ACTOR, |actors, (address, _key): OfActor| {
            let unknown = || failed(format!("actor {address} not found"));
            let actor = actors.of_worker(&address).ok_or_else(unknown)?;
            let nonce = actor.state()?.landed_nonce();
            Ok(ActorState { nonce, balance: Atto(free(actor)?) })
        })
        .look(WALLET_HAS, |actors, (address,): (ActorAddress,)| Ok(actors.of_worker(&address).is_some()))
        .look(BALANCE, |actors, (address,): (ActorAddress,)| {
            Ok(Atto(actors.of_worker(&address).map_or_else(|| Ok(TokenAmount::default()), free)?))
        })
}

fn miner_info(actor: &Actor) -> Result<MinerInfo, ExitError> {
    let state = actor.state()?;
    let genesis = state.ledger().genesis();
    Ok(MinerInfo {
        owner: actor.owner(),
        worker: actor.worker(),
        control_addresses: Vec::new(),
        // Window PoSt types 10 to 14 stand beside seal types 5 to 9.
        window_post_proof_type: genesis.proof().number() + 5,
        sector_size: genesis.sector_size.bytes(),
    })
}

fn allocated(actor: &Actor) -> Result<AllocatedNumbers, ExitError> {
    Ok(actor.state()?.ledger().allocated().iter().copied().collect())
}

/// What is neither deposit nor pledge.
fn free(actor: &Actor) -> Result<TokenAmount, ExitError> {
    Ok(actor.state()?.ledger().funds().balance.clone())
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
