//! The miner: places sectors at sites and takes them through the chain.
//!
//! Decisions are pure ([`sector`], [`placement`]); [`driver`] carries them out. This crate never
//! touches sector data, and never removes a file of a site.

pub mod api;
pub mod bundle;
pub mod chain;
pub mod cli;
pub mod driver;
pub mod hub;
pub mod placement;
pub mod records;
pub mod sector;
pub mod settings;
pub mod why;
