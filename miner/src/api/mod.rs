//! The API: JSON-RPC 2.0 over HTTP for the miner's own command line and for others with a token.
//!
//! It asks the driver through its handle and changes nothing itself.

pub mod methods;
pub mod views;

pub use self::methods::{Context, method, methods};
