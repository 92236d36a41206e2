//! Heads and tipsets of the dev chain: one block an epoch, its CID made of the epoch and of how often that
//! was replaced, so that it can be found again from the CID alone.

use cid::Cid;
use cid::multihash::Multihash;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Method;

use super::{Actors, Table, failed, read};
use crate::chain::ChainEpoch;
use crate::chain::dev::genesis::{Genesis, Source};
use crate::chain::lotus::wire::{Base64, Block, Link, Tipset, TipsetKey};

const HEAD: Method = read("Filecoin.ChainHead");
const TIPSET: Method = read("Filecoin.ChainGetTipSet");
const TIPSET_FROM: Method = read("Filecoin.ChainGetTipSetAfterHeight");
const TICKETS: Method = read("Filecoin.StateGetRandomnessFromTickets");
const BEACON: Method = read("Filecoin.StateGetRandomnessFromBeacon");

pub(super) fn add(table: Table) -> Table {
    table
        .look(HEAD, |actors, ()| Ok(tipset(actors, actors.head())))
        .look(TIPSET, |actors, (key,): (TipsetKey,)| Ok(tipset(actors, height(actors, &key)?)))
        .look(TIPSET_FROM, |actors, (epoch, _key): (ChainEpoch, TipsetKey)| match actors.head() {
            head if epoch > head => Err(failed(format!(
                "looking for tipset with height greater than start point: {epoch} > {head}"
            ))),
            _ => Ok(tipset(actors, epoch.max(0))),
        })
        .look(TICKETS, |actors, asked: Draw| draw(actors, Source::Ticket, &asked))
        .look(BEACON, |actors, asked: Draw| draw(actors, Source::Beacon, &asked))
}

/// The purpose, the epoch, the entropy, and the tipset to look back from.
type Draw = (i64, ChainEpoch, Base64, TipsetKey);

fn draw(actors: &Actors, source: Source, asked: &Draw) -> Result<Base64, ExitError> {
    let (tag, epoch, entropy, key) = asked;
    height(actors, key)?;
    let head = actors.head();
    if !(0..=head).contains(epoch) {
        return Err(failed(format!("cannot draw randomness from epoch {epoch} at epoch {head}")));
    }
    let drawn = actors.genesis().draw(source, *tag, *epoch, actors.fork_at(*epoch), &entropy.0);
    Ok(Base64(drawn.to_vec()))
}

/// The tipset at a height up to the head's.
pub(super) fn tipset(actors: &Actors, height: ChainEpoch) -> Tipset {
    let genesis = actors.genesis();
    let key = |height| vec![Link(block(genesis, height, actors.fork_at(height)))];
    let parents = if height > 0 { key(height - 1) } else { Vec::new() };
    // The head appears when the epoch of the messages below it begins.
    let time = genesis.time_of(height - 1);
    let timestamp = u64::try_from(time.as_second()).unwrap_or_default();
    Tipset { cids: key(height), blocks: vec![Block { parents, height, timestamp }], height }
}

/// The height that a key stands for; an empty one is the head's.
pub(super) fn height(actors: &Actors, key: &[Link]) -> Result<ChainEpoch, ExitError> {
    let [Link(cid)] = key else {
        return match key {
            [] => Ok(actors.head()),
            _ => Err(failed("tipsets of this chain have one block")),
        };
    };
    let unknown = || failed(format!("loading tipset {cid}: ipld: could not find {cid}"));
    let (epoch, fork) = named(cid).ok_or_else(unknown)?;
    let is_ours = epoch <= actors.head()
        && fork == actors.fork_at(epoch)
        && *cid == block(actors.genesis(), epoch, fork);
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
