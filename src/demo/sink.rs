//! The sink: one small server on a loopback port that plays every third party.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    cast::{Manner, PARTS, Part},
    ledger::Ledger,
    stream::{ID_PREFIX, Stream},
};
use crate::{
    destination::ConnectorType,
    id::{ConnectorKey, DeliveryId, EventId},
};

type Answer = (StatusCode, &'static str);

/// The running server. It ends when this is dropped.
pub struct Sink {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Shared {
    ledger: Arc<Ledger>,
    stream: Stream,
    by_path: HashMap<&'static str, usize>,
    keys: Vec<ConnectorKey>,
}

impl Sink {
    /// Listens on a free port.
    pub async fn start(ledger: Arc<Ledger>, stream: Stream) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot listen on a loopback port")?;
        let address = listener.local_addr().context("the sink's address")?;
        let by_path = PARTS.iter().enumerate().map(|(at, part)| (part.path, at)).collect();
        let keys = PARTS.iter().map(Part::key).collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared { ledger, stream, by_path, keys });
        let app = Router::new().fallback(take).with_state(shared);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the demo's sink stopped");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it is, as the beginning of a URL.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Some(at) = shared.by_path.get(uri.path()).copied() else {
        shared.ledger.stray();
        return (StatusCode::NOT_FOUND, "nobody here");
    };
    let part = &PARTS[at];
    let calls = shared.ledger.called(at);
    match part.manner {
        Manner::Healthy(delay) | Manner::Slow(delay) => {
            accept(&shared, at, delay, &headers, &body).await
        }
        Manner::Recovers { failures } if calls > failures => {
            accept(&shared, at, Duration::from_millis(4), &headers, &body).await
        }
        Manner::Recovers { .. } | Manner::Fails => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }
        Manner::Gone if part.kind == ConnectorType::Slack => (StatusCode::NOT_FOUND, "no_service"),
        Manner::Gone => (StatusCode::GONE, "Gone"),
    }
}

async fn accept(
    shared: &Shared,
    at: usize,
    delay: Duration,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    tokio::time::sleep(delay).await;
    let part = &PARTS[at];
    let event = if part.kind == ConnectorType::Slack {
        event_in_message(body)
    } else {
        shared.event_of_webhook(at, headers, body)
    };
    let belongs = event.filter(|event| *event < shared.stream.len());
    match belongs {
        Some(event) => shared.ledger.delivered(at, event),
        None => shared.ledger.stray(),
    }
    (StatusCode::OK, part.thanks())
}

impl Shared {
    /// The event of a generic webhook, if headers and body are what they must be.
    fn event_of_webhook(&self, at: usize, headers: &HeaderMap, body: &[u8]) -> Option<u64> {
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let id = header("dunmore-event-id")?;
        let index = Stream::index(id)?;
        let delivery = DeliveryId::new(&self.keys[at], &EventId::parse(id).ok()?);
        let as_produced = index < self.stream.len() && self.stream.json(index).as_bytes() == body;
        let named = header("dunmore-delivery-id") == Some(delivery.to_string().as_str());
        (as_produced && named).then_some(index)
    }
}

/// The event that a message for people names.
fn event_in_message(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(ID_PREFIX)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_event() {
        let body = br#"{"blocks":[{"text":"proj_maps / evt_demo_0000042"}]}"#;
        assert_eq!(event_in_message(body), Some(42));
        assert_eq!(event_in_message(b"{}"), None);
    }
}
