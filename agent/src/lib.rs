//! The agent: one per site. It takes jobs from the hub into the site's custody, fans them out to the
//! workers as tasks, and sends back what came of them.
//!
//! It must never touch a sector's files but to remove them where the miner asks by job, hold chain
//! authority, or remember anything that the streams and the store do not: an agent can be killed and
//! replaced at any moment.

pub mod api;
pub mod benches;
pub mod cli;
mod custody;
pub mod driver;
pub mod flights;
mod lost;
pub mod plan;
mod removing;
mod results;
pub mod room;
pub mod settings;
pub mod site;
pub mod site_server;
