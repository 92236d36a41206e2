use sealfarm_nats::bus::Headers;
use sealfarm_nats::streams::Keep;
use sealfarm_nats::wire::MESSAGE_ID;

use super::*;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(600);

fn plan(change: impl Fn(&mut FaultPlan)) -> FaultPlan {
    let mut plan = FaultPlan { rng_seed: 1, ..FaultPlan::NONE };
    change(&mut plan);
    plan
}

/// A server with a queue, a good connection and one with the plan's faults.
async fn faulty(plan: FaultPlan, life: &Life) -> (SimBus, SimBus, Arc<Link>) {
    let server = SimServer::new();
    let good = SimBus::perfect(&server);
    let stream = StreamSpec {
        name: "q".into(),
        description: "a queue",
        subjects: vec!["q.>".into()],
        keep: Keep::UntilAcked,
        one_a_subject: false,
        messages_max: 100,
        bytes_max: 1 << 20,
        age_max: Duration::ZERO,
        duplicate_window: Duration::from_secs(120),
    };
    good.ensure_stream(&stream).await.unwrap();
    let consumer = ConsumerSpec {
        stream: "q".into(),
        name: "c".into(),
        filter: "q.>".into(),
        ack_wait: Duration::from_secs(60),
        deliver_max: -1,
        ack_pending_max: 100,
    };
    good.ensure_consumer(&consumer).await.unwrap();
    let link = Link::new(plan, life.clone());
    (good, SimBus::new(&server, link.clone()), link)
}

fn message(id: &str) -> Message {
    let headers = Headers::default().with(MESSAGE_ID, id);
    Message { subject: "q.1".into(), headers, payload: Bytes::from_static(b"12345") }
}

fn silent<T>(result: &Result<T, BusError>) -> bool {
    matches!(result, Err(BusError::Unavailable { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_has_no_effect_and_a_lost_answer_has() {
    let (good, bad, _) = faulty(plan(|p| p.request_lost = 1.0), &Life::unlimited()).await;
    assert!(silent(&bad.publish(message("1")).await));
    assert_eq!(good.publish(message("1")).await.unwrap(), Published::Stored(1));

    let (good, bad, _) = faulty(plan(|p| p.answer_lost = 1.0), &Life::unlimited()).await;
    assert!(silent(&bad.publish(message("1")).await));
    assert_eq!(good.publish(message("1")).await.unwrap(), Published::Duplicate);
    let pulled = bad.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await;
    assert!(silent(&pulled));
    assert_eq!(
        good.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap()[0].delivered,
        2,
        "the lost one counts"
    );
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_ack_and_an_early_repetition_bring_a_message_again() {
    let (good, bad, link) = faulty(plan(|p| p.ack_forgotten = 1.0), &Life::unlimited()).await;
    good.publish(message("1")).await.unwrap();
    bad.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap()[0].ack().await.unwrap();
    assert_eq!(good.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap()[0].delivered, 2);
    assert_eq!(link.faults(), 1);

    let (good, bad, _) = faulty(plan(|p| p.delivered_twice = 1.0), &Life::unlimited()).await;
    good.publish(message("1")).await.unwrap();
    let start = Instant::now();
    bad.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap();
    assert_eq!(good.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap()[0].delivered, 2);
    assert!(start.elapsed() < Duration::from_secs(60), "before the ack wait");
}

#[tokio::test(start_paused = true)]
async fn a_life_ends_in_the_middle_of_its_last_operation() {
    let life = Life::of_operations(2);
    let (good, bad, _) = faulty(FaultPlan::NONE, &life).await;
    bad.publish(message("1")).await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(20), bad.publish(message("2"))).await;
    assert!(second.is_err(), "the dead get no answer");
    assert!(life.is_over());
    assert_eq!(good.publish(message("2")).await.unwrap(), Published::Duplicate, "it was carried out");
    assert!(tokio::time::timeout(Duration::from_secs(20), bad.publish(message("3"))).await.is_err());
    assert_eq!(good.publish(message("3")).await.unwrap(), Published::Stored(3), "the dead do nothing");
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_carries_nothing_until_it_is_mended_and_counts_what_it_carries() {
    let (good, bad, link) = faulty(FaultPlan::NONE, &Life::unlimited()).await;
    let mut heard = bad.listen("q.>").await.unwrap();
    link.set_cut(true);
    assert!(silent(&bad.publish(message("1")).await));
    good.tell(message("lost")).await.unwrap();
    link.set_cut(false);
    bad.publish(message("1")).await.unwrap();
    assert_eq!(heard.next().await.unwrap().headers.value(MESSAGE_ID), Some("1"));
    bad.pull("q", "c", 1, PATIENCE, &CancellationToken::new()).await.unwrap();
    assert_eq!(link.payload_bytes().into_values().sum::<u64>(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_has_the_same_faults() {
    let run = async |rng_seed| {
        let plan = FaultPlan { rng_seed, request_lost: 0.5, ..FaultPlan::NONE };
        let (_, bad, _) = faulty(plan, &Life::unlimited()).await;
        let mut lost = Vec::new();
        for id in 0..32 {
            lost.push(bad.publish(message(&id.to_string())).await.is_err());
        }
        lost
    };
    assert_eq!(run(3).await, run(3).await);
    assert_ne!(run(3).await, run(4).await);
}
