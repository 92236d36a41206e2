//! Registration as NATS services, so that `nats micro ls`, `info` and `stats` show the farm.

use std::collections::HashMap;

use async_nats::service::{Service, ServiceExt as _};
use bytes::Bytes;
use futures::StreamExt as _;

/// Keeps a process registered while it lives.
pub struct Registered {
    service: Service,
}

/// Answers a control request that is not empty.
pub type Orders = Box<dyn Fn(&[u8]) -> Bytes + Send + Sync>;

/// Registers an instance of `name` (`sealfarm-agent`, `sealfarm-worker`) with an endpoint of its own.
///
/// The endpoint answers an empty request on `control_subject` with the metadata as JSON, so
/// `nats req <control subject> ''` asks one instance who it is. Others are `orders`' to answer; without
/// those they are answered like an empty one.
///
/// # Errors
/// When NATS does not accept the service's subjects.
pub async fn register(
    client: &async_nats::Client,
    name: &str,
    description: &str,
    control_subject: &str,
    metadata: HashMap<String, String>,
    orders: Option<Orders>,
) -> Result<Registered, async_nats::Error> {
    let who: Bytes = serde_json::to_vec(&metadata)?.into();
    let service = client
        .service_builder()
        .description(description)
        .metadata(metadata)
        .start(name, env!("CARGO_PKG_VERSION"))
        .await?;
    // One instance, one subject: no queue group shares it.
    let mut endpoint = service.endpoint_builder().name("control").add(control_subject).await?;
    tokio::spawn(async move {
        while let Some(request) = endpoint.next().await {
            let answer = match &orders {
                Some(orders) if !request.message.payload.is_empty() => orders(&request.message.payload),
                _ => who.clone(),
            };
            if let Err(error) = request.respond(Ok(answer)).await {
                tracing::debug!(%error, "a control request went unanswered");
            }
        }
    });
    Ok(Registered { service })
}

impl Registered {
    /// Takes the instance out of the list.
    pub async fn unregister(self) {
        if let Err(error) = self.service.stop().await {
            tracing::debug!(%error, "the service was not unregistered in order");
        }
    }
}
