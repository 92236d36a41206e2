//! The farm's NATS hop: subjects, streams, wire format, consumer loop, outbox.
//!
//! Everything that knows a subject's name, a stream's settings or a payload's envelope is here.
//! What a message means is decided by the crates above; this one never looks into a job.

pub mod authority;
pub mod bus;
pub mod connect;
pub mod consume;
pub mod denial;
pub mod jetstream;
pub mod jwt;
pub mod letters;
pub mod outbox;
mod pull;
pub mod role;
pub mod server_conf;
pub mod service;
pub mod streams;
pub mod subjects;
pub mod wire;
