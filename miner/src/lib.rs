//! The miner: places sectors at sites and takes them through the chain.

pub mod chain;
