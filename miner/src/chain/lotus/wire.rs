//! The JSON of a full node's API, as far as it is used here: Lotus's shapes, which Forest has too.
//!
//! Values alone: what is asked when is the node's and the adapter's business. Fields that nobody reads are
//! left out, and ignored where they come. Shapes: Lotus, `documentation/en/api-methods-v1-stable.md`.

use cid::Cid;
use data_encoding::BASE64;
use fvm_shared::econ::TokenAmount;
use sealfarm_common::address::ActorAddress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::chain::{ChainEpoch, atto_text};

/// A CID: `{"/":"bafy…"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link(pub Cid);

#[derive(Serialize, Deserialize)]
struct LinkText {
    #[serde(rename = "/")]
    text: String,
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        LinkText { text: self.0.to_string() }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let LinkText { text } = LinkText::deserialize(d)?;
        text.parse().map(Self).map_err(|e| serde::de::Error::custom(format!("`{text}` is no CID: {e}")))
    }
}

/// The blocks of a tipset, which name it; empty: the head, whichever that is.
pub type TipsetKey = Vec<Link>;

/// Bytes as base64; none may come as `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(d)?.unwrap_or_default();
        let bytes = BASE64.decode(text.as_bytes());
        bytes.map(Self).map_err(|e| serde::de::Error::custom(format!("not base64: {e}")))
    }
}

/// An amount as a decimal string of attoFIL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Atto(#[serde(with = "atto_text")] pub TokenAmount);

/// A tipset: all blocks of one height that have the same parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tipset {
    /// Its key.
    pub cids: TipsetKey,
    /// The blocks, in the order of their CIDs.
    pub blocks: Vec<Block>,
    /// Of all its blocks.
    pub height: ChainEpoch,
}

/// A block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Block {
    /// The tipset below, whose messages are carried out for this one.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub parents: TipsetKey,
    /// Its epoch.
    pub height: ChainEpoch,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
}

impl Tipset {
    /// The key of the tipset below.
    pub fn parents(&self) -> &[Link] {
        self.blocks.first().map_or(&[], |block| &block.parents)
    }
}

/// A message as it is pushed, and as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    /// 0.
    pub version: u64,
    /// Whom it is for.
    pub to: ActorAddress,
    /// Who pays for it and signs it.
    pub from: ActorAddress,
    /// The sender's count; 0 where the node is to choose it.
    pub nonce: u64,
    /// What is sent along.
    pub value: Atto,
    /// 0 where the node is to estimate it.
    pub gas_limit: i64,
    /// Likewise.
    pub gas_fee_cap: Atto,
    /// Likewise.
    pub gas_premium: Atto,
    /// The actor's method.
    pub method: u64,
    /// Its parameters in CBOR.
    pub params: Base64,
}

/// What goes beside a message that is pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SendSpec {
    /// 0: the node's own limit.
    pub max_fee: Atto,
    /// Lotus gives the earlier message for one that it has seen; Forest ignores it.
    #[serde(default)]
    pub msg_uuid: Uuid,
    /// Whether to offer the limit from the start.
    #[serde(default)]
    pub maximize_fee_cap: bool,
}

/// What became of a message that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignedMessage {
    /// With its nonce and its gas.
    pub message: Message,
    /// Which names it.
    #[serde(rename = "CID")]
    pub cid: Link,
}

/// A message of a tipset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TipsetMessage {
    /// Which names it.
    pub cid: Link,
    /// It.
    pub message: Message,
}

/// Where a message was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MessageLookup {
    /// The message that landed: another one than asked for where it was replaced by one with other fees.
    pub message: Link,
    /// How it ended.
    pub receipt: Receipt,
    /// The tipset that has the receipt: the one above that of the message.
    #[serde(rename = "TipSet")]
    pub tipset: TipsetKey,
    /// Its height.
    pub height: ChainEpoch,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Receipt {
    /// 0: as asked.
    pub exit_code: u32,
}

/// A miner actor's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerInfo {
    /// Whom it belongs to.
    pub owner: ActorAddress,
    /// Who signs for it.
    pub worker: ActorAddress,
    /// Who may, too.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub control_addresses: Vec<ActorAddress>,
    /// 10 to 14 for sectors of 2 KiB to 64 GiB.
    #[serde(rename = "WindowPoStProofType")]
    pub window_post_proof_type: i64,
    /// In bytes.
    pub sector_size: u64,
}

/// A network's constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkParams {
    /// The length of an epoch. Whole on every network; a dev chain's may be a fraction.
    pub block_delay_secs: f64,
    /// From a pre-commit to its seed.
    pub pre_commit_challenge_delay: ChainEpoch,
}

/// What a pre-commit says of a sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreCommit {
    /// The seal proof's number.
    pub seal_proof: i64,
    /// The sector.
    pub sector_number: u64,
    /// The replica's commitment.
    #[serde(rename = "SealedCID")]
    pub sealed_cid: Link,
    /// Where its ticket was drawn.
    pub seal_rand_epoch: ChainEpoch,
    /// None for a CC sector.
    #[serde(rename = "DealIDs", default, deserialize_with = "null_is_empty")]
    pub deal_ids: Vec<u64>,
    /// When the sector's life ends.
    pub expiration: ChainEpoch,
    /// None for a CC sector.
    #[serde(default)]
    pub unsealed_cid: Option<Link>,
}

/// A pre-commit that waits for its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreCommitOnChain {
    /// As it was sent.
    pub info: PreCommit,
    /// What burns if the proof never comes.
    pub pre_commit_deposit: Atto,
    /// Where it was carried out.
    pub pre_commit_epoch: ChainEpoch,
}

/// A proven sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sector {
    /// Its number.
    pub sector_number: u64,
    /// The seal proof's number.
    pub seal_proof: i64,
    /// The replica's commitment.
    #[serde(rename = "SealedCID")]
    pub sealed_cid: Link,
    /// Where its proof was carried out.
    pub activation: ChainEpoch,
    /// When its life ends.
    pub expiration: ChainEpoch,
    /// What stands behind it.
    pub initial_pledge: Atto,
}

/// Any actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    /// How many of its messages were carried out.
    pub nonce: u64,
    /// What it owns.
    pub balance: Atto,
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(d).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CID: &str = "bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4";

    #[test]
    fn a_message_is_written_as_the_network_reads_it() {
        // Method 28 for sector 1, the known answer of the CBOR.
        let params = "8181870501d82a5829000182e20381e80220c647b998c78282296cfd1160714228d43f3b054dfbbb77172b68115ba3c3b7621864801a000f4240f6";
        let message = Message {
            version: 0,
            to: "t01000".parse().unwrap(),
            from: "t01001".parse().unwrap(),
            nonce: 0,
            value: Atto(TokenAmount::from_whole(1)),
            gas_limit: 0,
            gas_fee_cap: Atto::default(),
            gas_premium: Atto::default(),
            method: 28,
            params: Base64(hex::decode(params).unwrap()),
        };
        let known = json!({
            "Version": 0, "To": "t01000", "From": "t01001", "Nonce": 0, "Value": "1000000000000000000",
            "GasLimit": 0, "GasFeeCap": "0", "GasPremium": "0", "Method": 28,
            "Params": "gYGHBQHYKlgpAAGC4gOB6AIgxke5mMeCgils/RFgcUIo1D87BU37u3cXK2gRW6PDt2IYZIAaAA9CQPY=",
        });
        assert_eq!(serde_json::to_value(&message).unwrap(), known);
        // Nodes of mainnet write addresses with `f`, and add what is of no use here.
        let mut read = known;
        (read["To"], read["From"], read["CID"]) = ("f01000".into(), "f01001".into(), json!({"/": CID}));
        assert_eq!(serde_json::from_value::<Message>(read).unwrap(), message);
    }

    #[test]
    fn a_send_spec_carries_the_uuid_of_the_push() {
        let msg_uuid = "07070707-0707-0707-0707-070707070707".parse().unwrap();
        let spec = SendSpec { max_fee: Atto::default(), msg_uuid, maximize_fee_cap: false };
        let known = json!({"MaxFee": "0", "MsgUuid": "07070707-0707-0707-0707-070707070707", "MaximizeFeeCap": false});
        assert_eq!(serde_json::to_value(spec).unwrap(), known);
    }

    /// The texts are Lotus's own, from the examples of its documentation.
    #[test]
    fn what_lotus_answers_is_read() {
        let lookup = format!(
            r#"{{"Message":{{"/":"{CID}"}},"Receipt":{{"ExitCode":16,"Return":"Ynl0ZSBhcnJheQ==","GasUsed":9,
            "EventsRoot":null}},"ReturnDec":{{}},"TipSet":[{{"/":"{CID}"}}],"Height":10101}}"#
        );
        let lookup: MessageLookup = serde_json::from_str(&lookup).unwrap();
        assert_eq!((lookup.receipt.exit_code, lookup.height, lookup.tipset.len()), (16, 10101, 1));
        assert_eq!(lookup.message.0.to_string(), CID);

        let info = r#"{"Owner":"f01234","Worker":"f01235","NewWorker":"<empty>","ControlAddresses":null,
            "WorkerChangeEpoch":-1,"PeerId":"12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf",
            "Multiaddrs":["Ynl0ZSBhcnJheQ=="],"WindowPoStProofType":13,"SectorSize":34359738368,
            "WindowPoStPartitionSectors":2349,"ConsensusFaultElapsed":-1}"#;
        let info: MinerInfo = serde_json::from_str(info).unwrap();
        assert_eq!((info.window_post_proof_type, info.sector_size), (13, 1 << 35));
        assert!(info.control_addresses.is_empty());
        assert_eq!(info.worker, "t01235".parse().unwrap());

        let on_chain = format!(
            r#"{{"Info":{{"SealProof":8,"SectorNumber":9,"SealedCID":{{"/":"{CID}"}},"SealRandEpoch":10101,
            "DealIDs":null,"Expiration":10101,"UnsealedCid":null}},"PreCommitDeposit":"7","PreCommitEpoch":10100}}"#
        );
        let on_chain: PreCommitOnChain = serde_json::from_str(&on_chain).unwrap();
        assert_eq!((on_chain.pre_commit_epoch, on_chain.info.sector_number), (10100, 9));
        assert_eq!(on_chain.pre_commit_deposit.0, TokenAmount::from_atto(7));

        let params = r#"{"NetworkName":"mainnet","BlockDelaySecs":30,"ConsensusMinerMinPower":"0",
            "PreCommitChallengeDelay":150,"Eip155ChainID":314,"GenesisTimestamp":42}"#;
        let params: NetworkParams = serde_json::from_str(params).unwrap();
        assert_eq!((params.block_delay_secs, params.pre_commit_challenge_delay), (30.0, 150));
    }

    #[test]
    fn bytes_are_base64_and_none_may_come_as_null() {
        assert_eq!(serde_json::to_string(&Base64(b"byte array".to_vec())).unwrap(), r#""Ynl0ZSBhcnJheQ==""#);
        assert_eq!(serde_json::from_str::<Base64>("null").unwrap(), Base64(Vec::new()));
        assert!(serde_json::from_str::<Base64>("\"?\"").is_err());
        assert!(serde_json::from_str::<Link>(r#"{"/":"bafy"}"#).unwrap_err().to_string().contains("`bafy`"));
    }
}
