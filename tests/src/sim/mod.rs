//! The simulated farm: the real drivers on a virtual clock, an in-memory bus and a dev chain.
//!
//! Run it on a current-thread runtime with tokio's time paused. The faults of a run follow from its
//! seed. Nothing here opens a socket.

mod bus;
mod chain;
mod farm;
mod invariants;
mod life;
mod link;
mod server;
mod stores;
pub mod storm;
mod stream;
mod trace;

pub use bus::SimBus;
pub use chain::{ChainWitness, MessageLog, WatchedChain};
pub use farm::{FarmPlan, SimFarm};
pub use life::Life;
pub use link::{FaultPlan, Link, Path};
pub use server::{SimServer, Witness};
pub use trace::{Line, Trace};
