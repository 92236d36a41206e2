//! The calls to a full node, each by its name with its positional parameters. It decides nothing.

use cid::Cid;
use fvm_shared::econ::TokenAmount;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::rpc::{NodeClient, NodeError};
use sealfarm_common::sector::{MinerId, SectorNumber, SectorSize};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{
    Actor, Atto, Base64, Link, Message, MessageLookup, MinerInfo, NetworkParams, PreCommit, PreCommitOnChain,
    Sector, SendSpec, SignedMessage, Tipset, TipsetMessage,
};
use crate::chain::randomness::{self, Tag};
use crate::chain::{AllocatedNumbers, ChainEpoch, ChainError};

/// The head's state, whichever tipset that is.
const HEAD: [Link; 0] = [];
/// A search goes back as far as it takes.
const NO_LIMIT: ChainEpoch = -1;

/// One miner's view of one node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    client: NodeClient,
    miner: MinerId,
    address: ActorAddress,
}

type Answer<T> = Result<T, NodeError>;

impl Node {
    pub(super) fn new(client: NodeClient, miner: MinerId) -> Self {
        Self { client, miner, address: miner.into() }
    }

    pub(super) fn place(&self) -> &str {
        self.client.place()
    }

    pub(super) const fn address(&self) -> ActorAddress {
        self.address
    }

    async fn call<R: DeserializeOwned>(&self, method: &str, params: impl Serialize) -> Answer<R> {
        self.client.call(&format!("Filecoin.{method}"), params).await
    }

    pub(super) async fn head(&self) -> Answer<Tipset> {
        self.call("ChainHead", [(); 0]).await
    }

    pub(super) async fn tipset(&self, key: &[Link]) -> Answer<Tipset> {
        self.call("ChainGetTipSet", (key,)).await
    }

    /// The first tipset at `height` or above.
    pub(super) async fn tipset_from(&self, height: ChainEpoch) -> Answer<Tipset> {
        self.call("ChainGetTipSetAfterHeight", (height, HEAD)).await
    }

    /// What was carried out for a block: the messages of the tipset below it.
    pub(super) async fn parent_messages(&self, block: Link) -> Answer<Vec<TipsetMessage>> {
        let messages: Option<_> = self.call("ChainGetParentMessages", (block,)).await?;
        Ok(messages.unwrap_or_default())
    }

    pub(super) async fn network_name(&self) -> Answer<String> {
        self.call("StateNetworkName", [(); 0]).await
    }

    pub(super) async fn network_version(&self) -> Answer<u32> {
        self.call("StateNetworkVersion", (HEAD,)).await
    }

    pub(super) async fn network_params(&self) -> Answer<NetworkParams> {
        self.call("StateGetNetworkParams", [(); 0]).await
    }

    pub(super) async fn miner_info(&self) -> Answer<MinerInfo> {
        self.call("StateMinerInfo", (&self.address, HEAD)).await
    }

    /// Draws a ticket as the tipset `tsk` has it.
    pub(super) async fn ticket(&self, epoch: ChainEpoch, tsk: &[Link]) -> Answer<[u8; 32]> {
        self.randomness("StateGetRandomnessFromTickets", Tag::SealRandomness, epoch, tsk).await
    }

    /// Draws a seed as the tipset `tsk` has it.
    pub(super) async fn seed(&self, epoch: ChainEpoch, tsk: &[Link]) -> Answer<[u8; 32]> {
        self.randomness("StateGetRandomnessFromBeacon", Tag::InteractiveSealChallengeSeed, epoch, tsk).await
    }

    async fn randomness(&self, method: &str, tag: Tag, epoch: ChainEpoch, tsk: &[Link]) -> Answer<[u8; 32]> {
        let entropy = Base64(randomness::miner_entropy(self.miner));
        let drawn: Base64 = self.call(method, (tag as i64, epoch, entropy, tsk)).await?;
        drawn.0.try_into().map_err(|bytes: Vec<u8>| {
            self.nonsense(method, format!("{} bytes of randomness where 32 are due", bytes.len()))
        })
    }

    /// An answer that no full node gives.
    pub(super) fn nonsense(&self, method: &str, reason: String) -> NodeError {
        NodeError::NoNode { method: method.to_owned(), place: self.place().to_owned(), reason }
    }

    pub(super) async fn is_allocated(&self, number: SectorNumber) -> Answer<bool> {
        self.call("StateMinerSectorAllocated", (&self.address, number.0, HEAD)).await
    }

    pub(super) async fn allocated(&self) -> Answer<AllocatedNumbers> {
        let lengths: Option<Vec<u64>> = self.call("StateMinerAllocated", (&self.address, HEAD)).await?;
        AllocatedNumbers::from_run_lengths(&lengths.unwrap_or_default())
            .map_err(|error| self.nonsense("StateMinerAllocated", error.to_string()))
    }

    pub(super) async fn pre_commit(&self, number: SectorNumber) -> Answer<Option<PreCommitOnChain>> {
        match self.call("StateSectorPreCommitInfo", (&self.address, number.0, HEAD)).await {
            // Nodes of before v1 of the API say so in an error.
            Err(NodeError::Answer { message, .. }) if message.contains("is not exists") => Ok(None),
            answer => answer,
        }
    }

    pub(super) async fn sector(&self, number: SectorNumber) -> Answer<Option<Sector>> {
        self.call("StateSectorGetInfo", (&self.address, number.0, HEAD)).await
    }

    pub(super) async fn deposit(&self, info: &PreCommit) -> Answer<TokenAmount> {
        let amount: Atto =
            self.call("StateMinerPreCommitDepositForPower", (&self.address, info, HEAD)).await?;
        Ok(amount.0)
    }

    /// What must stand behind a CC sector that is to live for `duration` epochs.
    pub(super) async fn pledge(&self, duration: ChainEpoch, size: SectorSize) -> Answer<TokenAmount> {
        const VERIFIED_BYTES: u64 = 0;
        let params = (duration, size.bytes(), VERIFIED_BYTES, HEAD);
        let amount: Atto = self.call("StateMinerInitialPledgeForSector", params).await?;
        Ok(amount.0)
    }

    pub(super) async fn account_key(&self, address: &ActorAddress) -> Answer<ActorAddress> {
        self.call("StateAccountKey", (address, HEAD)).await
    }

    pub(super) async fn wallet_has(&self, key: &ActorAddress) -> Answer<bool> {
        self.call("WalletHas", (key,)).await
    }

    pub(super) async fn balance(&self, address: &ActorAddress) -> Answer<TokenAmount> {
        let amount: Atto = self.call("WalletBalance", (address,)).await?;
        Ok(amount.0)
    }

    /// A dry run of a message; the same with gas.
    pub(super) async fn estimate(&self, message: &Message, spec: &SendSpec) -> Answer<Message> {
        self.call("GasEstimateMessageGas", (message, spec, HEAD)).await
    }

    pub(super) async fn push(&self, message: &Message, spec: &SendSpec) -> Answer<SignedMessage> {
        self.call("MpoolPushMessage", (message, spec)).await
    }

    /// Everything that waits in the node's pool.
    pub(super) async fn pending(&self) -> Answer<Vec<SignedMessage>> {
        let messages: Option<_> = self.call("MpoolPending", (HEAD,)).await?;
        Ok(messages.unwrap_or_default())
    }

    /// The nonce of the sender's next message, those in the pool counted.
    pub(super) async fn next_nonce(&self, from: &ActorAddress) -> Answer<u64> {
        self.call("MpoolGetNonce", (from,)).await
    }

    /// What was carried out of a sender's messages.
    pub(super) async fn actor(&self, address: &ActorAddress) -> Answer<Actor> {
        self.call("StateGetActor", (address, HEAD)).await
    }

    pub(super) async fn message(&self, id: Cid) -> Answer<Message> {
        self.call("ChainGetMessage", (Link(id),)).await
    }

    /// Where a message, or one that replaces it, was carried out.
    pub(super) async fn search(&self, id: Cid) -> Answer<Option<MessageLookup>> {
        self.call("StateSearchMsg", (HEAD, Link(id), NO_LIMIT, true)).await
    }

    /// What the node calls itself.
    pub(super) async fn version(&self) -> Answer<String> {
        #[derive(serde::Deserialize)]
        struct Version {
            #[serde(rename = "Version")]
            text: String,
        }
        let version: Version = self.call("Version", [(); 0]).await?;
        Ok(version.text)
    }
}

/// Whatever a node answers instead of a result is no refusal by itself: who asks knows which answers are.
impl From<NodeError> for ChainError {
    fn from(error: NodeError) -> Self {
        Self::Unreachable { reason: error.to_string() }
    }
}
