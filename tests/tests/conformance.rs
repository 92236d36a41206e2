//! One suite for every bus: the simulated one on virtual time, and a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use sealfarm_nats::connect::{NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_tests::conformance::suite;
use sealfarm_tests::harness::Ground;
use sealfarm_tests::sim::{SimBus, SimServer};

#[tokio::test(start_paused = true)]
async fn the_simulated_bus_conforms() {
    let bus = SimBus::perfect(&SimServer::new());
    suite(Arc::new(bus), "sim").await.unwrap();
}

#[tokio::test]
async fn a_real_server_conforms() {
    let ground = Ground::new("conformance").unwrap();
    let server = ground.open_nats("nats").unwrap();
    let address = NatsAddress { url: server.url(), name: "conformance".into(), ..NatsAddress::default() };
    let client = connect(&address).await.unwrap();
    suite(Arc::new(JetStreamBus::new(client, 1)), "real").await.unwrap();
}
