//! The worker.
pub mod params;
pub mod prover;
