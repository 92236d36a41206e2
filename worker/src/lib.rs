//! The worker: pulls tasks of a site and runs the proof phases.
//!
//! It must never speak to the chain, to etcd or to the hub, and never write into a store but through `phase`.

pub mod attempt;
pub mod child;
pub mod cli;
pub mod driver;
pub mod join;
pub mod params;
pub mod phase;
pub mod prover;
pub mod runner;
pub mod settings;
pub mod site;
