//! What the farm's integration tests and benchmarks share.
//!
//! Nothing here is shipped. Tests that need no real server belong beside the code they test.

pub mod conformance;
pub mod harness;
pub mod sim;
