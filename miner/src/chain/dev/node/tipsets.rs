//! Heads and tipsets of the dev chain: one block an epoch, its CID made of the epoch and of how often that
//! was replaced, so that it can be found again from the CID alone.

use std::sync::Arc;

use cid::Cid;
use cid::multihash::Multihash;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::{Method, Methods};

use super::{Node, failed, head_of, read};
use crate::chain::ChainEpoch;
use crate::chain::dev::genesis::{Genesis, Source};
use crate::chain::dev::state::State;
use crate::chain::lotus::wire::{Base64, Block, Link, Tipset, TipsetKey};

const HEAD: Method = read("Filecoin.ChainHead");
const TIPSET: Method = read("Filecoin.ChainGetTipSet");
const TIPSET_FROM: Method = read("Filecoin.ChainGetTipSetAfterHeight");
const TICKETS: Method = read("Filecoin.StateGetRandomnessFromTickets");
const BEACON: Method = read("Filecoin.StateGetRandomnessFromBeacon");

pub(super) fn add(table: Methods, node: &Arc<Node>) -> Methods {
    let (head, by_key, from) = (node.clone(), node.clone(), node.clone());
    let (tickets, beacon) = (node.clone(), node.clone());
    table
        .with(HEAD, move |()| {
            let answer = head.state().map(|state| tipset(&state, head_of(&state)));
            async move { answer }
        })
        .with(TIPSET, move |(key,): (TipsetKey,)| {
            let answer = by_key.state().and_then(|state| Ok(tipset(&state, height(&state, &key)?)));
            async move { answer }
        })
        .with(TIPSET_FROM, move |(epoch, _key): (ChainEpoch, TipsetKey)| {
            let answer = from.state().and_then(|state| match head_of(&state) {
                head if epoch > head => Err(failed(format!(
                    "looking for tipset with height greater than start point: {epoch} > {head}"
                ))),
                _ => Ok(tipset(&state, epoch.max(0))),
            });
            async move { answer }
        })
        .with(TICKETS, move |asked: Draw| {
            let answer = tickets.state().and_then(|state| draw(&state, Source::Ticket, &asked));
            async move { answer }
        })
        .with(BEACON, move |asked: Draw| {
            let answer = beacon.state().and_then(|state| draw(&state, Source::Beacon, &asked));
            async move { answer }
        })
}

/// The purpose, the epoch, the entropy, and the tipset to look back from.
type Draw = (i64, ChainEpoch, Base64, TipsetKey);

fn draw(state: &State, source: Source, asked: &Draw) -> Result<Base64, ExitError> {
    let (tag, epoch, entropy, key) = asked;
    height(state, key)?;
    let head = head_of(state);
    if !(0..=head).contains(epoch) {
        return Err(failed(format!("cannot draw randomness from epoch {epoch} at epoch {head}")));
    }
    let ledger = state.ledger();
    Ok(Base64(ledger.genesis().draw(source, *tag, *epoch, ledger.fork_at(*epoch), &entropy.0).to_vec()))
}

/// The tipset at a height up to the head's.
pub(super) fn tipset(state: &State, height: ChainEpoch) -> Tipset {
    let genesis = state.ledger().genesis();
    let key = |height| vec![Link(block(genesis, height, state.ledger().fork_at(height)))];
    let parents = if height > 0 { key(height - 1) } else { Vec::new() };
    // The head appears when the epoch of the messages below it begins.
    let time = genesis.time_of(height - 1);
    let timestamp = u64::try_from(time.as_second()).unwrap_or_default();
    Tipset { cids: key(height), blocks: vec![Block { parents, height, timestamp }], height }
}

/// The height that a key stands for; an empty one is the head's.
pub(super) fn height(state: &State, key: &[Link]) -> Result<ChainEpoch, ExitError> {
    let [Link(cid)] = key else {
        return match key {
            [] => Ok(head_of(state)),
            _ => Err(failed("tipsets of this chain have one block")),
        };
    };
    let unknown = || failed(format!("loading tipset {cid}: ipld: could not find {cid}"));
    let (epoch, fork) = named(cid).ok_or_else(unknown)?;
    let ledger = state.ledger();
    let is_ours = epoch <= head_of(state)
        && fork == ledger.fork_at(epoch)
        && *cid == block(ledger.genesis(), epoch, fork);
    if is_ours { Ok(epoch) } else { Err(unknown()) }
}

const BLAKE2B_256: u64 = 0xb220;
/// Bytes of a block's name that are the chain's own.
const OWN_BYTES: usize = 16;

/// The CID of a block: half of the name that the genesis gives to it, its epoch, and how often that was
/// replaced. It looks like a hash and is none.
fn block(genesis: &Genesis, epoch: ChainEpoch, fork: u64) -> Cid {
    let mut digest = genesis.block(epoch, fork);
    digest[OWN_BYTES..24].copy_from_slice(&epoch.to_be_bytes());
    digest[24..].copy_from_slice(&fork.to_be_bytes());
    let hash = Multihash::wrap(BLAKE2B_256, &digest).expect("32 bytes fit a multihash of 64");
    Cid::new_v1(fvm_ipld_encoding::DAG_CBOR, hash)
}

/// Epoch and fork of a block's CID.
fn named(cid: &Cid) -> Option<(ChainEpoch, u64)> {
    let digest: [u8; 32] = cid.hash().digest().try_into().ok()?;
    let eight = |from: usize| digest[from..from + 8].try_into().ok();
    let epoch = ChainEpoch::from_be_bytes(eight(OWN_BYTES)?);
    (epoch >= 0).then_some((epoch, u64::from_be_bytes(eight(24)?)))
}
