//! Filecoin addresses, as far as the farm needs them: which miner is meant.

use fvm_shared::address::{Network, Payload};

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
    // Not `Address::from_str`: that reads a process-wide network setting.
    let network = if text.starts_with('f') { Network::Mainnet } else { Network::Testnet };
    let address = network
        .parse_address(text)
        .map_err(|e| ParseAddressError::Malformed { value: text.to_owned(), reason: e.to_string() })?;
    match address.payload() {
        Payload::ID(id) => Ok(MinerId(*id)),
        _ => Err(ParseAddressError::NotAnId { value: text.to_owned() }),
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
    fn a_wallet_address_is_no_miner() {
        let error = miner_id("t15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdrq").unwrap_err();
        assert!(matches!(error, ParseAddressError::NotAnId { .. }), "{error}");
    }
}
