//! TCP ports on the loopback interface that stay ours for as long as a [`PortBlock`] lives.
//!
//! Binding port 0 and letting go again leaves a gap in which anybody may take the port: another
//! test doing the same, or any outgoing connection, which draws its local port from the same range
//! (a client that reconnects to a dead server there may even reach itself). So ports are claimed
//! below the kernel's range for outgoing connections, and each claim is an abstract Unix socket:
//! exclusive among all processes that use this module, gone when its holder dies, and no file.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Result, bail};

/// Below 32768, where the kernel's range for outgoing connections begins unless told otherwise.
const CLAIMABLE: Range<u16> = 20_000..32_000;
/// How many places to look at before giving up.
const TRIES: u16 = 2_000;

/// Claimed ports at fixed distances from a base; dropping it gives them back.
#[derive(Debug)]
pub struct PortBlock {
    base: u16,
    claims: Vec<UnixListener>,
}

impl PortBlock {
    /// The port at offset 0.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// How many ports are claimed.
    pub fn count(&self) -> usize {
        self.claims.len()
    }
}

/// Claims one port.
///
/// # Errors
/// When no free port is found.
pub fn claim_one() -> Result<PortBlock> {
    claim(&[0])
}

/// Claims `base + offset` for every offset, all free on 127.0.0.1; for example `[0, 1, 100]` for a
/// miner's or an agent's `ServePort` and its neighbours.
///
/// # Errors
/// When no place with all of them free is found.
pub fn claim(offsets: &[u16]) -> Result<PortBlock> {
    let reach = offsets.iter().copied().max().unwrap_or(0);
    let places = (CLAIMABLE.end - CLAIMABLE.start).saturating_sub(reach);
    if places == 0 {
        bail!("offset {reach} does not fit into ports {}..{}", CLAIMABLE.start, CLAIMABLE.end);
    }
    let start = RandomState::new().hash_one(std::process::id()) % u64::from(places);
    let start = u16::try_from(start).expect("a remainder of a u16 fits a u16");
    for step in 0..TRIES.min(places) {
        let base = CLAIMABLE.start + ((u32::from(start) + u32::from(step)) % u32::from(places)) as u16;
        if let Some(claims) = claim_at(base, offsets) {
            return Ok(PortBlock { base, claims });
        }
    }
    bail!(
        "no free ports at offsets {offsets:?} between {} and {} on 127.0.0.1; end what listens there (ss -ltnp)",
        CLAIMABLE.start,
        CLAIMABLE.end
    )
}

fn claim_at(base: u16, offsets: &[u16]) -> Option<Vec<UnixListener>> {
    offsets.iter().map(|offset| claim_port(base + offset)).collect()
}

fn claim_port(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("sealfarm-port-{port}")).ok()?;
    let claim = UnixListener::bind_addr(&name).ok()?;
    // A stranger may listen there without knowing of claims.
    TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_never_share_a_port() {
        let blocks: Vec<_> = (0..50).map(|_| claim(&[0, 1, 100]).unwrap()).collect();
        let mut ports: Vec<_> =
            blocks.iter().flat_map(|b| [b.base(), b.base() + 1, b.base() + 100]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 150);
    }

    #[test]
    fn a_claimed_port_is_refused_until_it_is_given_back() {
        let block = claim_one().unwrap();
        assert!(claim_port(block.base()).is_none());
        let port = block.base();
        drop(block);
        assert!(claim_port(port).is_some());
    }

    #[test]
    fn a_port_with_a_stranger_listening_is_passed_over() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(claim_port(stranger.local_addr().unwrap().port()).is_none());
    }

    #[test]
    fn an_offset_beyond_the_range_is_an_error() {
        assert!(claim(&[0, 20_000]).unwrap_err().to_string().contains("does not fit"));
    }
}
