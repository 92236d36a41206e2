//! What the miner serves: JSON-RPC 2.0 over HTTP for its own command line and for others with a token,
//! a web page, and bundles for agents.
//!
//! It asks the driver through its handle and changes nothing itself.

pub mod bulk;
mod dead;
mod draining;
mod hosts;
mod jobs;
pub mod methods;
pub mod views;
pub mod web;

pub use self::methods::{Context, method, methods};
