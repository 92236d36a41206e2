//! The simulated farm: the real drivers on a virtual clock, an in-memory bus and a dev chain.
//!
//! Run it on a current-thread runtime with tokio's time paused. The faults of a run follow from its
//! seed. Nothing here opens a socket.

mod bus;
mod chain;
mod farm;
mod invariants;
mod link;
mod server;
mod stream;

pub use bus::SimBus;
pub use chain::{MessageLog, WatchedChain};
pub use farm::{FarmPlan, SimFarm};
pub use link::{FaultPlan, Life, Link};
pub use server::SimServer;
