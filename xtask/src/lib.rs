//! What the workshop's commands, the integration tests and the benchmarks share: finding and
//! bringing tools, starting real servers on ports of their own, and watching processes so that
//! none outlives who started it.
//!
//! This library stays light: it must never depend on a crate of the farm, nor on anything that
//! needs `protoc` to build, because it is what brings `protoc`.

pub mod command;
pub mod crash_points;
pub mod etcd_server;
pub mod farm;
pub mod http;
pub mod interrupt;
pub mod link;
pub mod lock;
pub mod namespace;
pub mod nats_server;
pub mod ports;
pub mod process;
pub mod scratch;
pub mod server;
pub mod tools;
pub mod wait;
pub mod workspace;
