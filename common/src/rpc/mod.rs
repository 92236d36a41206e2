//! What a process serves over HTTP: JSON-RPC for its command line and its workers (`POST /rpc/v0`,
//! `POST /rpc/v1`, `GET /healthz`), a web page, metrics, bulk data; and the client of the first. In the
//! clear, or over TLS where a certificate is configured.
//!
//! A process keeps the files `token`, `api` and a secret in its repository directory, as Lotus's
//! do; its command line reads the first two. What the methods do is the caller's.

mod access;
mod auth;
mod caller;
mod certificates;
mod client;
mod download;
pub mod joining;
mod listen;
mod methods;
pub mod metrics;
mod node;
pub mod page;
mod ports;
mod repo;
mod server;
#[cfg(test)]
mod tests;

pub use access::{Access, Denied, Keys};
pub use auth::{AuthCommand, AuthPlace};
pub use axum::Router;
pub use caller::Caller;
pub use certificates::Certificates;
pub use client::Client;
pub use download::{download, refuse};
pub use listen::{bind, serve};
pub use methods::{Method, Methods};
pub use node::{NodeClient, NodeError};
pub use ports::{Ports, Services, address_for_others};
pub use repo::{create_token, ensure_secret, publish_address, read_secret, replace_secret};
pub use server::{Health, router};
