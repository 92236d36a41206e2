//! The words of the farm's domain, pure, and behind features what every process needs at its edge.
//!
//! Without features this crate builds without tokio and does no IO of its own. It must never know
//! about NATS subjects, the chain's transport or a prover's library: those live in the rooms that
//! use them.

pub mod address;
pub mod clock;
pub mod commitment;
pub mod crash;
pub mod failure;
pub mod job;
pub mod join;
pub mod manifest;
pub mod membership;
pub mod name;
pub mod null_proof;
pub mod order;
pub mod removal;
pub mod retry;
pub mod sector;
pub mod store;
pub mod task;
pub mod tls;
pub mod token;

#[cfg(feature = "bundle")]
pub mod bundle;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "process")]
pub mod configuration;
#[cfg(feature = "process")]
pub mod exit;
#[cfg(feature = "process")]
pub mod output;
#[cfg(feature = "process")]
pub mod readiness;
#[cfg(feature = "process")]
pub mod repository;
#[cfg(feature = "process")]
pub mod shutdown;
#[cfg(feature = "process")]
pub mod telemetry;

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "tls")]
pub mod handshake;
#[cfg(feature = "rpc")]
pub mod rpc;
