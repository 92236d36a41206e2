//! The bus on a real NATS server.

mod answers;
mod delivery;
mod publish;
mod room;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::StatusCode;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::kv;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config as StreamConfig, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::answers::{
    bounded, header_map, missing_or_unavailable, refused, setup_error, unavailable, unless_denied,
};
use self::delivery::{as_published, delivery, from_nats};
use crate::bus::{Bus, BusError, Delivery, Entry, Message, Published, REPLY_TO, shed_of};
use crate::connect::Client;
use crate::pull::{self, Request};
use crate::streams::{BucketSpec, ConsumerSpec, Keep, StreamSpec};

/// How long a request to JetStream may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Entries of a bucket read at the same time.
const ENTRIES_TOGETHER: usize = 64;
/// The shortest wait a server is asked for; zero would mean to wait for ever.
const PULL_WAIT_MIN: Duration = Duration::from_millis(1);

/// One NATS account's messaging.
pub struct JetStreamBus {
    client: Client,
    context: Context,
    replicas: usize,
    /// What consumers are made with, in place of what their specifications say.
    ack_wait: Option<Duration>,
    /// By stream and name: the ack wait of those that were seen.
    consumers: Mutex<HashMap<(String, String), Duration>>,
    buckets: Mutex<HashMap<String, kv::Store>>,
    /// Held while a bucket is given more room.
    widening: Mutex<()>,
}

impl JetStreamBus {
    /// On a connected client; streams are made with `replicas` copies (1, or 3 on a cluster).
    pub fn new(client: Client, replicas: usize) -> Self {
        let context = jetstream::ContextBuilder::new()
            .timeout(ANSWER_WITHIN)
            .ack_timeout(ANSWER_WITHIN)
            .build((*client).clone());
        Self {
            client,
            context,
            replicas,
            ack_wait: None,
            consumers: Mutex::default(),
            buckets: Mutex::default(),
            widening: Mutex::default(),
        }
    }

    /// The same; consumers are made with this ack wait, as an operator sets it, whatever their
    /// specifications say.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { ack_wait: Some(ack_wait), ..self }
    }

    /// The client under it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Looks a consumer up, once: a request at one that is not there would not be answered. Gives its
    /// ack wait.
    async fn expect_consumer(&self, stream: &str, name: &str) -> Result<Duration, BusError> {
        let key = (stream.to_owned(), name.to_owned());
        let mut consumers = self.consumers.lock().await;
        if let Some(ack_wait) = consumers.get(&key) {
            return Ok(*ack_wait);
        }
        let what = format!("consumer {name} on stream {stream}");
        let action = format!("look up {what}");
        let found = async {
            let found = self.context.get_consumer_from_stream(name, stream).await;
            found.map_err(|e| missing_or_unavailable(what, e))
        };
        let found: PullConsumer = self.ask_api(&action, stream, found).await?;
        let ack_wait = found.cached_info().config.ack_wait;
        consumers.insert(key, ack_wait);
        Ok(ack_wait)
    }

    /// A request at JetStream's own subjects about a stream, whose name is in them.
    async fn ask_api<T>(
        &self,
        action: &str,
        stream: &str,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let about = |subject: &str| subject.starts_with("$JS.API.") && subject.contains(stream);
        unless_denied(&self.client, action, about, work).await
    }

    async fn bucket(&self, name: &str) -> Result<kv::Store, BusError> {
        let mut buckets = self.buckets.lock().await;
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        let what = format!("bucket {name}");
        let action = format!("look up {what}");
        let found =
            async { self.context.get_key_value(name).await.map_err(|e| missing_or_unavailable(what, e)) };
        let bucket = self.ask_api(&action, name, found).await?;
        buckets.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }
}

#[async_trait]
impl Bus for JetStreamBus {
    async fn ensure_stream(&self, spec: &StreamSpec) -> Result<(), BusError> {
        let mut config = StreamConfig {
            name: spec.name.clone(),
            description: Some(spec.description.to_owned()),
            subjects: spec.subjects.clone(),
            retention: match spec.keep {
                Keep::UntilAcked => RetentionPolicy::WorkQueue,
                Keep::WithinLimits => RetentionPolicy::Limits,
            },
            discard: match spec.keep {
                Keep::UntilAcked => DiscardPolicy::New,
                Keep::WithinLimits => DiscardPolicy::Old,
            },
            max_messages_per_subject: if spec.one_a_subject { 1 } else { -1 },
            discard_new_per_subject: spec.one_a_subject,
            max_messages: spec.messages_max,
            max_bytes: spec.bytes_max,
            max_age: spec.age_max,
            duplicate_window: spec.duplicate_window,
            storage: StorageType::File,
            num_replicas: self.replicas,
            allow_direct: true,
            ..StreamConfig::default()
        };
        self.keep_raised_limits(&mut config).await?;
        let action = format!("make or update stream {}", spec.name);
        let made = Box::pin(async {
            self.context.create_or_update_stream(config).await.map(drop).map_err(|e| setup_error(&action, e))
        });
        self.ask_api(&action, &spec.name, made).await
    }

    async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let ack_wait = self.ack_wait.unwrap_or(spec.ack_wait);
        let config = PullConfig {
            durable_name: Some(spec.name.clone()),
            name: Some(spec.name.clone()),
            filter_subject: spec.filter.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            max_deliver: spec.deliver_max,
            max_ack_pending: spec.ack_pending_max,
            ..PullConfig::default()
        };
        let action = format!("make or update consumer {} on stream {}", spec.name, spec.stream);
        let made = async {
            let made = self.context.create_consumer_on_stream(config, spec.stream.clone()).await;
            made.map_err(|e| setup_error(&action, e))
        };
        self.ask_api(&action, &spec.stream, made).await?;
        self.consumers.lock().await.insert((spec.stream.clone(), spec.name.clone()), ack_wait);
        Ok(())
    }

    async fn ensure_bucket(&self, spec: &BucketSpec) -> Result<(), BusError> {
        let mut limits = StreamConfig {
            name: room::bucket_stream(&spec.name),
            max_bytes: spec.bytes_max,
            ..StreamConfig::default()
        };
        self.keep_raised_limits(&mut limits).await?;
        let config = kv::Config {
            bucket: spec.name.clone(),
            description: spec.description.to_owned(),
            history: spec.history,
            max_bytes: limits.max_bytes,
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        let action = format!("make or update bucket {}", spec.name);
        let made = Box::pin(async {
            self.context.create_or_update_key_value(config).await.map_err(|e| setup_error(&action, e))
        });
        let bucket = self.ask_api(&action, &spec.name, made).await?;
        self.buckets.lock().await.insert(spec.name.clone(), bucket);
        Ok(())
    }

    async fn publish(&self, message: Message) -> Result<Published, BusError> {
        let action = format!("publish to {}", message.subject);
        let subject = message.subject.clone();
        let stored = self.store(&action, message);
        unless_denied(&self.client, &action, |refused| refused == subject, stored).await
    }

    async fn pull(
        &self,
        stream: &str,
        consumer: &str,
        most: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BusError> {
        let action = format!("pull from {stream}/{consumer}");
        let ack_wait = self.expect_consumer(stream, consumer).await?;
        if stop.is_cancelled() {
            return Ok(Vec::new());
        }
        let end = Instant::now() + wait;
        let mut messages = Vec::new();
        let place = (stream, consumer);
        let pulled = async {
            if most > 1 {
                // What is there now, or else what comes first. Without `expires` a request that the
                // server cannot answer, or that is lost with its connection, would never end.
                let request = Request { batch: most, expires: wait, no_wait: true };
                pull::take(&self.context, place, request, stop, &mut messages).await?;
            }
            let left = end.saturating_duration_since(Instant::now());
            // The server turns such a request away at once where others wait for the same messages.
            if messages.is_empty() && !stop.is_cancelled() && (most == 1 || !left.is_zero()) {
                let request = Request { batch: 1, expires: left.max(PULL_WAIT_MIN), no_wait: false };
                pull::take(&self.context, place, request, stop, &mut messages).await?;
            }
            Ok::<(), String>(())
        };
        let pulled = async { pulled.await.map_err(|reason| unavailable(&action, reason)) };
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        if let Err(error) = unless_denied(&self.client, &action, |refused| refused == next, pulled).await {
            // Look it up again next time: it may be gone.
            self.consumers.lock().await.remove(&(stream.to_owned(), consumer.to_owned()));
            return Err(error);
        }
        let taken = |message| Ok(delivery(&self.client, &action, message)?.with_ack_wait(ack_wait));
        messages.into_iter().map(taken).collect()
    }

    async fn take_back(&self, stream: &str, consumer: &str) -> Result<(), BusError> {
        let action = format!("take back what others hold of consumer {consumer} on stream {stream}");
        // Servers before 2.14 do not know this, and nobody answers.
        let subject = format!("CONSUMER.RESET.{stream}.{consumer}");
        let answer = match self.context.request(subject, &serde_json::json!({})).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(()),
            Err(error) => return Err(unavailable(&action, error)),
        };
        match answer {
            Response::Ok(serde_json::Value::Object(_)) => Ok(()),
            Response::Ok(other) => Err(refused(&action, other)),
            Response::Err { error } => Err(refused(&action, error)),
        }
    }

    async fn tell(&self, message: Message) -> Result<(), BusError> {
        let action = format!("tell {}", message.subject);
        let sent =
            self.client.publish_with_headers(message.subject, header_map(&message.headers), message.payload);
        bounded(&action, sent).await
    }

    async fn listen(&self, pattern: &str) -> Result<BoxStream<'static, Message>, BusError> {
        let subscriber = self
            .client
            .subscribe(pattern.to_owned())
            .await
            .map_err(|e| unavailable(&format!("listen to {pattern}"), e))?;
        let heard = subscriber.map(|m| {
            let mut message = from_nats(&m.subject, m.headers.as_ref(), &m.payload);
            if let Some(reply) = m.reply {
                message.headers.set(REPLY_TO, reply.as_str());
            }
            message
        });
        Ok(heard.boxed())
    }

    async fn ask(&self, message: Message, wait: Duration) -> Result<Message, BusError> {
        let action = format!("ask {}", message.subject);
        let request = async_nats::Request::new()
            .payload(message.payload)
            .headers(header_map(&message.headers))
            .timeout(Some(wait));
        let subject = message.subject.clone();
        let asked = async {
            self.client.send_request(message.subject, request).await.map_err(|e| unavailable(&action, e))
        };
        let answer = unless_denied(&self.client, &action, |refused| refused == subject, asked).await?;
        Ok(from_nats(&answer.subject, answer.headers.as_ref(), &answer.payload))
    }

    async fn numbered(
        &self,
        stream: &str,
        pattern: &str,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, Message)>, BusError> {
        let action = format!("read {pattern} from stream {stream}");
        let handle = self.context.get_stream_no_info(stream).await.map_err(|e| unavailable(&action, e))?;
        let mut messages = Vec::new();
        let mut next = after.saturating_add(1);
        while messages.len() < most {
            match handle.direct_get_next_for_subject(pattern, Some(next)).await {
                Ok(found) => {
                    next = found.sequence + 1;
                    messages.push((found.sequence, as_published(&found)));
                }
                Err(e) => match e.kind() {
                    DirectGetErrorKind::NotFound => break,
                    DirectGetErrorKind::ErrorResponse(StatusCode::NO_RESPONDERS, reason) => {
                        return Err(BusError::Missing { what: format!("stream {stream}"), reason });
                    }
                    _ => return Err(unavailable(&action, e)),
                },
            }
        }
        Ok(messages)
    }

    async fn remove(&self, stream: &str, sequence: u64) -> Result<bool, BusError> {
        let action = format!("take message {sequence} out of stream {stream}");
        let handle = self.context.get_stream_no_info(stream).await.map_err(|e| unavailable(&action, e))?;
        let removed = Box::pin(async {
            match handle.delete_message(sequence).await {
                Ok(removed) => Ok(removed),
                // Error 10043 or 10057, by the server's release.
                Err(error) if error.to_string().contains("not found") => Ok(false),
                Err(error) => Err(unavailable(&action, error)),
            }
        });
        self.ask_api(&action, stream, removed).await
    }

    async fn withdraw(&self, stream: &str, pattern: &str) -> Result<u64, BusError> {
        let action = format!("withdraw {pattern} from stream {stream}");
        let handle = self.context.get_stream_no_info(stream).await.map_err(|e| unavailable(&action, e))?;
        let purged = bounded(&action, handle.purge().filter(pattern).into_future());
        let purge = format!("$JS.API.STREAM.PURGE.{stream}");
        let purged = unless_denied(&self.client, &action, |refused| refused == purge, purged).await?;
        Ok(purged.purged)
    }

    async fn shed(&self, stream: &str, share: u64) -> Result<u64, BusError> {
        let action = format!("take the oldest messages out of stream {stream}");
        let work = Box::pin(async {
            let handle = self.context.get_stream(stream).await.map_err(|e| unavailable(&action, e))?;
            let state = &handle.cached_info().state;
            let most = shed_of(state.messages, share);
            if most == 0 {
                return Ok(0);
            }
            // Under a filter the server counts what it keeps; without one it goes by sequence, and those of
            // a queue have gaps where something was acknowledged.
            let all = handle.cached_info().config.subjects.first().cloned().unwrap_or_default();
            let purge = handle.purge().filter(all).keep(state.messages - most);
            Ok(bounded(&action, purge.into_future()).await?.purged)
        });
        self.ask_api(&action, stream, work).await
    }

    async fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BusError> {
        let action = format!("read {bucket}/{key}");
        let entry = bounded(&action, self.bucket(bucket).await?.entry(key)).await?;
        Ok(entry.filter(|e| e.operation == kv::Operation::Put).map(|e| Entry {
            key: e.key,
            value: e.value,
            revision: e.revision,
        }))
    }

    async fn entries(&self, bucket: &str) -> Result<Vec<Entry>, BusError> {
        let action = format!("read bucket {bucket}");
        let store = self.bucket(bucket).await?;
        let keys: Vec<String> = {
            let keys = bounded(&action, store.keys()).await?;
            bounded(&action, keys.try_collect()).await?
        };
        let read = keys.into_iter().map(|key| async move { self.entry(bucket, &key).await });
        let entries: Vec<Option<Entry>> =
            futures::stream::iter(read).buffer_unordered(ENTRIES_TOGETHER).try_collect().await?;
        Ok(entries.into_iter().flatten().collect())
    }

    async fn put_entry(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<u64, BusError> {
        match self.try_put(bucket, key, value.clone(), expected).await {
            Err(BusError::Full { .. }) => {
                self.widen(bucket).await?;
                self.try_put(bucket, key, value, expected).await
            }
            written => written,
        }
    }
}
