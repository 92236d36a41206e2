//! Opening: everything that must be so before a farm works on a node's chain, each with its own words.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::clock::Clock;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::handshake::Keys;
use sealfarm_common::membership::Wallets;
use sealfarm_common::rpc::{Caller, NodeClient, NodeError};
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_common::tls::ClientTls;
use sealfarm_common::token::Token;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use super::heads::{Heads, behind};
use super::node::Node;
use super::place::{Place, Source};
use super::wire::{MinerInfo, NetworkParams};
use super::{LotusChain, head_of};
use crate::chain::{ChainEpoch, Head, Policy, prover_of_dev_network};

/// How many epochs must lie on a seed before it is drawn (`InteractivePoRepConfidence`).
const SEED_CONFIDENCE: ChainEpoch = 6;
/// The first network version that knows PreCommitSectorBatch2 and ProveCommitSectors3.
const NETWORK_VERSION_MIN: u32 = 22;

/// Everything a node's chain is opened with.
pub struct LotusSetup {
    /// Where the node is.
    pub place: Place,
    /// Whom to trust where it is reached by https.
    pub tls: ClientTls,
    /// Whose sectors.
    pub miner: MinerId,
    /// The size that the farm seals.
    pub sector_size: SectorSize,
    /// The prover whose results are used.
    pub prover: ProverKind,
    /// The network that is meant; empty: whichever the node is on, but for a dev chain's.
    pub network: String,
    /// [`Policy::confidence`].
    pub confidence: ChainEpoch,
    /// The time.
    pub clock: Clock,
}

impl LotusChain {
    /// Asks the node who it is, and follows its head from then on. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the node cannot be reached, refuses the token, is behind its network or on another than is
    /// meant; when the miner is not known there or seals sectors of another size; when the network takes
    /// no proofs of this farm's prover. Each says what to do.
    pub async fn open(setup: LotusSetup) -> Result<Self, ExitError> {
        let LotusSetup { place, tls, miner, sector_size, prover, network: meant, confidence, clock } = setup;
        let Place { info, source } = place;
        if let Some(allowed) = info.token.as_ref().and_then(allowed_by).filter(|all| !may_sign(all)) {
            let message =
                format!("the token of {source} allows {}, and `sign` is needed", allowed.join(", "));
            return Err(ExitError::new(ExitCode::Refused, message).next(source.renew_token()));
        }
        let keys = Keys { section: "[Chain]", address: "the node's address" };
        let node = Node::new(NodeClient::new(&info, Caller { tls, keys })?, miner);
        let asked = |error| unanswered(error, &source);

        let network = node.network_name().await.map_err(asked)?;
        expect_network(&network, &meant, prover, &node)?;
        let version = node.network_version().await.map_err(asked)?;
        if version < NETWORK_VERSION_MIN {
            let message =
                format!("the network {network} is of version {version}, before {NETWORK_VERSION_MIN}");
            return Err(ExitError::new(ExitCode::Refused, message)
                .next("upgrade the network: its miner actors do not know the messages that are sent"));
        }
        let policy = policy_of(&node.network_params().await.map_err(asked)?, confidence, &node)?;
        let tipset = node.head().await.map_err(asked)?;
        let head = head_of(&tipset, Follower::default().reorgs());
        expect_synced(&head, &policy, &clock, &node)?;
        let info = node.miner_info().await.map_err(|error| no_miner(error, &network, miner, &source))?;
        expect_size(&info, sector_size, miner)?;
        let wallets = wallets_of(&node, &info).await.map_err(asked)?;
        warn_of_missing_keys(&node, &info).await.map_err(asked)?;
        let software = node.version().await.map_err(asked)?;
        tracing::info!(node = node.place(), %network, %software, epoch = head.epoch, "the chain is a full node's");

        let mut follower = Follower::default();
        follower.take(vec![tipset]);
        let (sender, heads) = watch::channel(head);
        let stop = CancellationToken::new();
        let following = Heads {
            node: node.clone(),
            follower,
            heads: sender,
            epoch_duration: policy.epoch_duration,
            clock,
            stop: stop.clone(),
        };
        tokio::spawn(following.run());
        let _stop_at_drop = stop.clone().drop_guard();
        Ok(Self { node, network, sector_size, policy, wallets, heads, stop, _stop_at_drop })
    }
}

/// What a token says that it allows; `None` where it is none of Lotus's. Only the node can tell if it is true.
fn allowed_by(token: &Token) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Claims {
        #[serde(rename = "Allow")]
        allow: Vec<String>,
    }
    let claims = token.expose().split('.').nth(1)?;
    let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    serde_json::from_slice(&claims).ok().map(|claims: Claims| claims.allow)
}

fn may_sign(allowed: &[String]) -> bool {
    allowed.iter().any(|permission| permission == "sign")
}

/// A node that gave no answer at all.
fn unanswered(error: NodeError, source: &Source) -> ExitError {
    let (code, next) = match &error {
        NodeError::Unreachable { .. } => (
            ExitCode::Unreachable,
            format!(
                "start the node, or correct its address in {source}; `lotus sync wait` says when it is ready"
            ),
        ),
        NodeError::Denied { .. } => (ExitCode::Refused, source.renew_token()),
        NodeError::Answer { message, .. } if message.contains("missing permission") => {
            (ExitCode::Refused, source.renew_token())
        }
        NodeError::Answer { .. } => (ExitCode::Failure, "look at the end of the node's log".to_owned()),
        NodeError::NoNode { .. } => {
            (ExitCode::Failure, format!("check that the address in {source} is a full node's, with /rpc/v1"))
        }
    };
    ExitError::new(code, error.to_string()).next(next)
}

fn expect_network(network: &str, meant: &str, prover: ProverKind, node: &Node) -> Result<(), ExitError> {
    let refuse = |message: String, next: String| Err(ExitError::new(ExitCode::Refused, message).next(next));
    let place = node.place();
    let takes = prover_of_dev_network(network);
    if meant.is_empty() && takes.is_some() {
        return refuse(
            format!("the node at {place} serves a dev chain, {network}, where nothing is worth anything"),
            format!("set [Chain] Network = \"{network}\" if it is meant, or name another node"),
        );
    }
    if !meant.is_empty() && meant != network {
        return refuse(
            format!("the node at {place} is on the network {network}, and [Chain] Network says {meant}"),
            "name a node of that network, or correct [Chain] Network".to_owned(),
        );
    }
    let takes = takes.unwrap_or(ProverKind::Filecoin);
    if takes != prover {
        return refuse(
            format!("the network {network} takes proofs of the prover {takes}, and this farm's is {prover}"),
            "name another network, or make a farm with the other prover".to_owned(),
        );
    }
    Ok(())
}

fn policy_of(params: &NetworkParams, confidence: ChainEpoch, node: &Node) -> Result<Policy, ExitError> {
    let duration = Duration::try_from_secs_f64(params.block_delay_secs).unwrap_or_default();
    let delay = params.pre_commit_challenge_delay;
    if duration.is_zero() || delay < 1 {
        let message = format!(
            "the node at {} says that an epoch lasts {} s and a challenge comes after {delay} epochs",
            node.place(),
            params.block_delay_secs
        );
        return Err(ExitError::new(ExitCode::Failure, message).next("check that it is a full node"));
    }
    Ok(Policy::of_network(duration, delay, SEED_CONFIDENCE, confidence))
}

fn expect_synced(head: &Head, policy: &Policy, clock: &Clock, node: &Node) -> Result<(), ExitError> {
    let Some(age) = behind(head, policy.epoch_duration, clock) else { return Ok(()) };
    let message = format!(
        "the node at {} is not synced: its head is epoch {} of {:.0}, {} s ago",
        node.place(),
        head.epoch,
        head.at,
        age.as_secs()
    );
    Err(ExitError::new(ExitCode::Unreachable, message)
        .next("wait until `lotus sync wait` ends, and look whether the clocks of both hosts agree"))
}

/// A node that answers and does not know the miner; or that does not answer.
fn no_miner(error: NodeError, network: &str, miner: MinerId, source: &Source) -> ExitError {
    match error {
        NodeError::Answer { message, .. } if !message.contains("missing permission") => ExitError::new(
            ExitCode::Refused,
            format!("the network {network} has no miner {miner}: {message}"),
        )
        .next("correct [Farm] Miner, or name a node of the network the miner is on"),
        error => unanswered(error, source),
    }
}

fn expect_size(info: &MinerInfo, size: SectorSize, miner: MinerId) -> Result<(), ExitError> {
    if info.sector_size == size.bytes() {
        return Ok(());
    }
    let theirs = SectorSize::from_bytes(info.sector_size)
        .map_or_else(|_| format!("{} bytes", info.sector_size), |size| size.to_string());
    let message =
        format!("miner {miner} has sectors of {theirs} on the chain, and [Farm] SectorSize is {size}");
    Err(ExitError::new(ExitCode::Refused, message)
        .next("make a farm of that size, or for another miner: a miner's sectors have one size for ever"))
}

/// The wallets behind the miner's IDs; an owner that is a contract stays as it is.
async fn wallets_of(node: &Node, info: &MinerInfo) -> Result<Wallets, NodeError> {
    let key = async |address: ActorAddress| match node.account_key(&address).await {
        Err(NodeError::Answer { .. }) => Ok(address),
        answer => answer,
    };
    Ok(Wallets { owner: Some(key(info.owner).await?), worker: Some(key(info.worker).await?) })
}

async fn warn_of_missing_keys(node: &Node, info: &MinerInfo) -> Result<(), NodeError> {
    for address in info.control_addresses.iter().chain([&info.worker]) {
        let key = node.account_key(address).await?;
        if node.wallet_has(&key).await? {
            return Ok(());
        }
    }
    tracing::warn!(
        node = node.place(),
        worker = %info.worker,
        "the node holds no key of the miner's worker or a control address: nothing can be sent; import one"
    );
    Ok(())
}
