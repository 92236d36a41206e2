//! Filecoin addresses, as far as the farm needs them: which miner is meant, and by which wallet.

use std::fmt;
use std::str::FromStr;

use fvm_shared::address::{Address, Network, Payload};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sector::MinerId;

/// Why a text is not a miner's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Not an address at all.
    #[error("`{value}` is not a Filecoin address: {reason}; a miner's looks like t01000 or f01000")]
    Malformed {
        /// The text given.
        value: String,
        /// What the address parser said.
        reason: String,
    },
    /// An address, but of a key or a contract.
    #[error("`{value}` is not a miner's ID address; it looks like t01000 or f01000")]
    NotAnId {
        /// The text given.
        value: String,
    },
}

/// Reads a miner's ID address with the prefix of either network.
///
/// # Errors
/// When the text is no address, or one of another kind; both name the text.
pub fn miner_id(text: &str) -> Result<MinerId, ParseAddressError> {
    let address: ActorAddress = text.parse()?;
    address.id().ok_or_else(|| ParseAddressError::NotAnId { value: text.to_owned() })
}

/// Any actor's address: an ID (`t0`), a wallet (`t1`, `t3`), an actor (`t2`) or a delegated one (`t4`).
///
/// The prefix of the network is no part of it: `f01000` equals `t01000`. It is shown with `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActorAddress(Address);

impl ActorAddress {
    /// The wallet address of a BLS public key, 48 bytes; `t3…`.
    ///
    /// # Panics
    /// Never: the length is the only thing that can be wrong with a key here.
    pub fn of_bls_key(key: &[u8; 48]) -> Self {
        Self(Address::new_bls(key).expect("a BLS public key of 48 bytes is an address"))
    }

    /// The actor's number, where this is an ID address.
    pub fn id(&self) -> Option<MinerId> {
        match self.0.payload() {
            Payload::ID(id) => Some(MinerId(*id)),
            _ => None,
        }
    }
}

impl From<MinerId> for ActorAddress {
    fn from(miner: MinerId) -> Self {
        Self(Address::new_id(miner.0))
    }
}

impl FromStr for ActorAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Not `Address::from_str`: that reads a process-wide network setting.
        let network = if text.starts_with('f') { Network::Mainnet } else { Network::Testnet };
        network
            .parse_address(text)
            .map(Self)
            .map_err(|e| ParseAddressError::Malformed { value: text.to_owned(), reason: e.to_string() })
    }
}

impl fmt::Display for ActorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library writes the prefix of its process-wide network setting.
        let text = self.0.to_string();
        f.pad(&format!("t{}", text.get(1..).unwrap_or_default()))
    }
}

impl Serialize for ActorAddress {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ActorAddress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_network_prefixes_name_the_same_miner() {
        assert_eq!(miner_id("t01000").unwrap(), MinerId(1000));
        assert_eq!(miner_id("f01000").unwrap(), MinerId(1000));
    }

    #[test]
    fn a_miner_address_that_does_not_parse_is_named_in_the_error() {
        for bad in ["", "1000", "t0", "t0abc", "x01000"] {
            let error = miner_id(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn addresses_of_every_kind_are_read_whatever_their_network_and_shown_with_t() {
        let bls = ActorAddress::of_bls_key(&[7; 48]).to_string();
        assert!(bls.starts_with("t3"), "{bls}");
        for text in ["t01000", "t15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdrq", &bls] {
            let address: ActorAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(format!("f{}", &text[1..]).parse::<ActorAddress>().unwrap(), address);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<ActorAddress>(&json).unwrap(), address);
        }
        assert_eq!("f01000".parse::<ActorAddress>().unwrap(), MinerId(1000).into());
    }

    #[test]
    fn a_wallet_address_is_no_miner() {
        let error = miner_id("t15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdrq").unwrap_err();
        assert!(matches!(error, ParseAddressError::NotAnId { .. }), "{error}");
    }
}
