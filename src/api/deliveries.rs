//! The latest attempts of a connector: a bounded store in memory, fed by the attempts topic from
//! where it ended when this instance started.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    blocking,
    commands::follow,
    connectors::{Shares, find},
    error::Failure,
    query::Query,
};
use crate::{
    codec::{Codec, RecordKind},
    delivery::AttemptRecord,
    id::{ConnectorId, ConnectorKey, ProjectId},
    kafka::{Connection, Offset, Reader},
};

/// Attempts that are kept in all, about half a KiB each.
pub const MAX_RECENT: usize = 50_000;
/// Attempts that are kept of one connector.
pub const MAX_RECENT_PER_CONNECTOR: usize = 100;
/// Attempts that are shown unless the caller says how many.
pub const DEFAULT_LIMIT: usize = 20;

/// The latest attempts.
pub struct Recent {
    store: Arc<Mutex<Store>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Store {
    next: u64,
    /// Every attempt in the order of its arrival, also those that are gone already.
    order: VecDeque<(u64, ConnectorKey)>,
    attempts: HashMap<ConnectorKey, VecDeque<(u64, AttemptRecord<'static>)>>,
}

impl Store {
    fn add(&mut self, key: ConnectorKey, attempt: AttemptRecord<'static>) {
        let number = self.next;
        self.next += 1;
        let of_connector = self.attempts.entry(key.clone()).or_default();
        of_connector.push_back((number, attempt));
        if of_connector.len() > MAX_RECENT_PER_CONNECTOR {
            of_connector.pop_front();
        }
        self.order.push_back((number, key));
        while self.order.len() > MAX_RECENT {
            let Some((number, key)) = self.order.pop_front() else { return };
            let Some(of_connector) = self.attempts.get_mut(&key) else { continue };
            if of_connector.front().is_some_and(|(oldest, _)| *oldest == number) {
                of_connector.pop_front();
            }
            if of_connector.is_empty() {
                self.attempts.remove(&key);
            }
        }
    }

    fn latest(&self, key: &ConnectorKey, limit: usize) -> Vec<AttemptRecord<'static>> {
        let of_connector = self.attempts.get(key).into_iter().flatten().rev();
        of_connector.take(limit).map(|(_, attempt)| attempt.clone()).collect()
    }
}

impl Recent {
    /// Starts to follow the topic.
    pub async fn start(
        connection: &Connection,
        topic: String,
        codec: &Codec,
    ) -> anyhow::Result<Self> {
        let (to, codec) = (connection.clone(), codec.clone());
        let store = Arc::new(Mutex::new(Store::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let recent = Self { store: Arc::clone(&store), stop: Arc::clone(&stop) };
        let (make_to, make_topic) = (to.clone(), topic.clone());
        let reader = blocking(move || Reader::all(&make_to, &make_topic, Offset::End)).await?;
        thread::Builder::new().name("attempts".to_owned()).spawn(move || {
            let make = || Reader::all(&to, &topic, Offset::End);
            follow(reader, make, &stop, |_, value| {
                let stopping = || stop.load(Ordering::Relaxed);
                let json = codec.decode_blocking(RecordKind::Attempt, value, stopping);
                let attempt = json
                    .ok()
                    .and_then(|json| serde_json::from_slice::<AttemptRecord<'static>>(&json).ok());
                // What cannot be read is of a later version, and of no use here.
                let Some(attempt) = attempt else { return };
                let project = ProjectId::parse(&attempt.project_id);
                let connector = ConnectorId::parse(&attempt.connector_id);
                if let (Ok(project), Ok(connector)) = (project, connector) {
                    store.lock().add(ConnectorKey { project, connector }, attempt);
                }
            });
        })?;
        Ok(recent)
    }

    /// Ends the reader.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// `GET …/connectors/:id/deliveries`
pub async fn list(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let mut query = Query::read(query.as_deref(), &["limit"])?;
    let limit = query.number("limit", 1..=MAX_RECENT_PER_CONNECTOR, DEFAULT_LIMIT);
    query.check()?;
    let deliveries = shared.recent.store.lock().latest(&found.key, limit);
    Ok(Json(json!({ "deliveries": deliveries })))
}
