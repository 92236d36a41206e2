//! Real servers and real binaries for a test, in a directory of its own and on ports of its own.
//!
//! A test makes a [`Ground`], starts on it what it needs, and looks at what happens with
//! [`eventually`]. Whatever ends the test ends the processes too; the directory with their logs is
//! removed when it passes, and kept and named on stderr when it panics.

mod ca;
mod eventually;
mod faulty;
mod ground;
mod guarded;

pub use ca::{Ca, SecureEtcd};
pub use eventually::eventually;
pub use faulty::{Faulty, Stage, Way, stage_at};
pub use ground::Ground;
pub use guarded::Guarded;
pub use xtask::etcd_server::Etcd;
pub use xtask::nats_server::{NatsServer, ServerPorts};
pub use xtask::ports::{self, PortBlock};
pub use xtask::process::{Finished, Process};
pub use xtask::scratch::Scratch;
pub use xtask::tools::{Tool, Tools};
