//! The harness itself, on real servers: that they start, keep their data and ports over a crash,
//! say what is wrong, and go when they should.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use sealfarm_tests::harness::Ground;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_nats_server_keeps_its_stream_and_its_ports_over_a_crash() {
    let ground = Ground::new("harness").unwrap();
    let mut server = ground.open_nats("nats").unwrap();
    let ports = server.ports();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = async_nats::jetstream::stream::Config {
        name: "kept".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept.one", "hello".into()).await.unwrap().await.unwrap();

    server.kill();
    assert!(server.monitor("/varz").is_err(), "a killed server answers no more");
    server.restart().unwrap();
    assert_eq!(server.ports(), ports);

    // A new client: how fast an old one comes back is not the harness's affair.
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut stream = jetstream.get_stream("kept").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}

#[test]
fn the_monitor_counts_what_a_server_has() {
    let ground = Ground::new("harness").unwrap();
    let server = ground.open_nats("nats").unwrap();
    assert_eq!(server.monitor("/jsz").unwrap()["streams"], 0);
    assert_eq!(server.monitor("/connz").unwrap()["num_connections"], 0);
}

#[test]
fn a_wrong_configuration_is_told_in_the_servers_own_words() {
    let ground = Ground::new("harness").unwrap();
    let error = ground.nats("nats", |_, _| "no_such_setting: true\n".to_owned()).unwrap_err().to_string();
    assert!(error.contains("ended before it was ready"), "{error}");
    assert!(error.contains("no_such_setting"), "{error}");
}

#[test]
fn a_configuration_with_another_client_port_is_an_error() {
    let ground = Ground::new("harness").unwrap();
    let error = ground
        .nats("nats", |ports, _| {
            format!("host: 127.0.0.1\nport: -1\nhttp: \"127.0.0.1:{}\"\n", ports.monitor)
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("must name client port"), "{error}");
}

#[test]
fn etcd_answers_again_on_the_same_endpoint_after_a_crash_and_after_a_stop() {
    let ground = Ground::new("harness").unwrap();
    let mut etcd = ground.etcd().unwrap();
    let endpoint = etcd.endpoint();
    etcd.kill();
    etcd.restart().unwrap();
    etcd.stop().unwrap();
    assert!(etcd.process().is_none());
    etcd.restart().unwrap();
    assert_eq!(etcd.endpoint(), endpoint);
}

#[test]
fn servers_end_when_the_process_that_started_them_is_killed() {
    // This test program, started again, plays the one that is killed.
    let ground = Ground::new("harness").unwrap();
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", "a_process_starts_a_server_and_hangs", "--nocapture"]).env(HANGER, "1");
    // It never gets to remove its own directory.
    command.env("TMPDIR", ground.scratch().path());
    let hanger = ground.spawn("hanger", &mut command).unwrap();
    let port = hanger
        .wait_ready(LIMIT, || {
            let text = hanger.stdout_text()?;
            let line = text.lines().find_map(|line| line.split_once("serving on "));
            line.context("no server yet")?.1.parse::<u16>().context("no whole line yet")
        })
        .unwrap();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port));
    connect().unwrap();

    // Only the leader, so that nobody but the guard can end the server, which leads its own group.
    let killed = Command::new("kill").args(["-KILL", &hanger.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    hanger.wait_exit(LIMIT).unwrap();
    xtask::wait::until(LIMIT, "the server's end", || match connect() {
        Ok(_) => bail!("it still listens"),
        Err(_) => Ok(()),
    })
    .unwrap();
}

const HANGER: &str = "SEALFARM_TEST_HANGER";

#[test]
fn a_process_starts_a_server_and_hangs() {
    let ground = Ground::new("hanger").unwrap();
    let server = ground.open_nats("nats").unwrap();
    if std::env::var_os(HANGER).is_none() {
        // By itself, this only checks that the server listens where it says.
        std::net::TcpStream::connect(("127.0.0.1", server.ports().client)).unwrap();
        return;
    }
    println!("\nserving on {}", server.ports().client);
    loop {
        std::thread::park();
    }
}
