//! JSON-RPC over HTTP between a process and its own command line: `POST /rpc/v0`, `POST /rpc/v1`,
//! `GET /healthz`.
//!
//! A process keeps the files `token`, `api` and a secret in its repository directory, as Lotus's
//! do; its command line reads the first two. What the methods do is the caller's: nothing
//! here knows a miner from an agent.

mod client;
mod methods;
mod repo;
mod server;
#[cfg(test)]
mod tests;

pub use axum::Router;
pub use client::Client;
pub use methods::Methods;
pub use repo::{create_token, ensure_secret, ensure_secret_in, publish_address, read_secret};
pub use server::{Health, bind, router, serve};
