//! Core messages: told, heard, asked, answered.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use sealfarm_nats::bus::{BusError, Message};
use tokio::time::{Instant, timeout};

use super::{Bench, PATIENCE, QUIET};

pub(super) async fn what_is_told_is_heard_by_listeners(b: Bench) -> Result<()> {
    let mut one = b.bus.listen(&b.subject("progress.*")).await?;
    let mut two = b.bus.listen(&b.subject(">")).await?;
    b.bus.tell(b.message("cancel.1", "")).await?;
    b.bus.tell(b.message("progress.2", "")).await?;
    let next = async |stream: &mut futures::stream::BoxStream<'static, Message>| {
        timeout(PATIENCE, stream.next()).await.context("nothing was heard")?.context("the listener ended")
    };
    ensure!(next(&mut one).await?.subject == b.subject("progress.2"));
    ensure!(next(&mut two).await?.subject == b.subject("cancel.1"));
    ensure!(next(&mut two).await?.subject == b.subject("progress.2"));
    Ok(())
}

pub(super) async fn a_question_is_answered(b: Bench) -> Result<()> {
    let mut heard = b.bus.listen(&b.subject("join")).await?;
    let answerer = async {
        let question = heard.next().await.context("the listener ended")?;
        let answer = question.answer(Bytes::from_static(b"welcome")).context("no way to answer")?;
        Ok::<_, anyhow::Error>(b.bus.tell(answer).await?)
    };
    let (answer, answered) = tokio::join!(b.bus.ask(b.message("join", ""), PATIENCE), answerer);
    answered?;
    ensure!(answer?.payload == "welcome");
    b.bus.tell(b.message("join", "")).await?;
    let told = heard.next().await.context("the listener ended")?;
    ensure!(told.answer(Bytes::new()).is_none(), "nobody waits for an answer to what is only told");

    let start = Instant::now();
    let answer = b.bus.ask(b.message("join", ""), QUIET).await;
    ensure!(matches!(answer, Err(BusError::Unavailable { .. })), "unanswered, it gave {answer:?}");
    ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    Ok(())
}

pub(super) async fn a_question_without_an_answerer(b: Bench) -> Result<()> {
    let start = Instant::now();
    let answer = b.bus.ask(b.message("x", ""), PATIENCE).await;
    ensure!(matches!(answer, Err(BusError::Unavailable { .. })), "it answered {answer:?}");
    ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    Ok(())
}
