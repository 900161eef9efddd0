//! The operator's webhook: every notice is posted there, in the order of its partition, by the
//! instance that has the partition in a group of its own. While the webhook does not take one, the
//! notices behind it wait in Kafka, and nothing else does.

use std::{cmp::min, sync::Arc, time::Duration};

use http::{HeaderValue, header::CONTENT_TYPE};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::Supervisor;
use crate::{
    clock::{self, Timestamp},
    config::NoticeSettings,
    connector::Notice,
    destination::{Request, Signing},
    event::{Event, EventData},
    id::{ConnectorId, ConnectorKey, DeliveryId},
    kafka::{Assigned, GroupEvents, Partition, Record},
    offsets::Begin,
    outbound::OperatorClient,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an answer is read.
const MAX_ANSWER_BYTES: usize = 4 << 10;
/// A notice that was not taken is posted again after this, doubled each time …
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// … up to this, also where the webhook asks for more.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A partition that is given up is noticed within this time.
const NAP: Duration = Duration::from_millis(250);
/// A notice that is older is passed over: it says nothing that an operator could still act on, and a
/// webhook that is set for the first time does not get those of a month.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Posts notices.
pub struct NoticeHook {
    hook: Arc<Hook>,
    supervisor: Supervisor,
    runtime: tokio::runtime::Handle,
}

struct Hook {
    client: OperatorClient,
    url: Url,
    signing: Option<Signing>,
}

impl NoticeHook {
    /// Of the settings, where they name a webhook. It runs on the current runtime.
    pub fn of(settings: &NoticeSettings, supervisor: Supervisor) -> Result<Option<Self>, String> {
        let Some(url) = settings.webhook_url.clone() else { return Ok(None) };
        let secret = settings.signing_secret.as_ref();
        let signing = secret.map(|secret| Signing::with(secret.expose_secret())).transpose()?;
        let hook = Arc::new(Hook { client: OperatorClient::new(None)?, url, signing });
        Ok(Some(Self { hook, supervisor, runtime: tokio::runtime::Handle::current() }))
    }
}

impl GroupEvents for NoticeHook {
    fn assigned(&self, assigned: Assigned) {
        let run = run(Arc::clone(&self.hook), assigned);
        self.supervisor.spawn_on(&self.runtime, "posting notices", run);
    }

    fn released(&self, _: &[Arc<Partition>]) {}
}

async fn run(hook: Arc<Hook>, assigned: Assigned) {
    let Assigned { partition, mut records } = assigned;
    'all: while let Some(batch) = records.recv().await {
        for record in batch {
            partition.taken(record.size());
            match partition.begin(record.offset).await {
                None => break 'all,
                Some(Begin::AlreadyDone) => continue,
                Some(Begin::Work) => {}
            }
            if !hook.post(&partition, &record).await {
                break 'all;
            }
            partition.complete(record.offset);
        }
    }
    if !partition.is_released() {
        partition.fail();
    }
}

impl Hook {
    /// Posts a notice until it is taken; false when the partition was given up before.
    async fn post(&self, partition: &Partition, record: &Record) -> bool {
        let value = record.value.clone().unwrap_or_default();
        // Of what is no notice, the delivery of notices makes a dead letter.
        let Ok(event) = Notice::read(&value) else { return true };
        let mut backoff = FIRST_BACKOFF;
        let mut failures = 0_u32;
        while !partition.is_released() {
            let now = clock::now();
            if now.since(record.timestamp) >= GIVE_UP_AFTER {
                tracing::warn!(
                    notice = %event.id, partition = record.partition, offset = record.offset,
                    "a notice is too old to be posted to notices.webhook_url; it is passed over"
                );
                return true;
            }
            let request = self.request(&value, &event, now);
            let failed = match self.client.send(request, TIMEOUT, MAX_ANSWER_BYTES).await {
                Ok(response) if response.is_success() => {
                    if failures > 0 {
                        tracing::info!(failures, "notices.webhook_url takes notices again");
                    }
                    return true;
                }
                Ok(response) => (format!("HTTP {}", response.status), response.retry_after()),
                Err(error) => (error.to_string(), None),
            };
            let (error, after) = failed;
            failures = failures.saturating_add(1);
            // Once for each doubling: a webhook may be away for a day.
            if failures.is_power_of_two() {
                tracing::warn!(
                    error,
                    failures,
                    partition = record.partition,
                    offset = record.offset,
                    "notices.webhook_url does not take a notice; trying again"
                );
            }
            nap(partition, min(backoff.max(after.unwrap_or_default()), LONGEST_BACKOFF)).await;
            backoff = min(backoff * 2, LONGEST_BACKOFF);
        }
        false
    }

    fn request(&self, value: &[u8], event: &Event, now: Timestamp) -> Request {
        let mut request = Request::post_json(self.url.clone(), value.to_vec());
        for (name, content) in &mut request.headers {
            if *name == CONTENT_TYPE {
                *content = HeaderValue::from_static("application/cloudevents+json");
            }
        }
        match (&self.signing, id(event)) {
            (Some(signing), Some(id)) => signing.sign_as(request, id, now),
            _ => request,
        }
    }
}

/// The same for each attempt, and for the second record of a notice.
fn id(event: &Event) -> Option<DeliveryId> {
    let EventData::ConnectorNotice(notice) = &event.data else { return None };
    let connector = ConnectorId::parse(&notice.connector_id).ok()?;
    let key = ConnectorKey { project: event.project.clone(), connector };
    Some(DeliveryId::new(&key, &event.id))
}

/// Waits, unless the partition is given up.
async fn nap(partition: &Partition, long: Duration) {
    let until = Instant::now() + long;
    while !partition.is_released() && Instant::now() < until {
        tokio::time::sleep(NAP.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use standardwebhooks::Webhook;

    use super::*;

    const SECRET: &str = "whsec_RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE=";
    const NOTICE: &[u8] = br#"{"specversion":"1.0","id":"cmd_1","source":"/projects/proj_1/connectors/conn_1","type":"connector.suspended","subject":"conn_1","time":"2026-11-30T03:00:00.000Z","datacontenttype":"application/json","data":{"projectId":"proj_1","connectorId":"conn_1","connectorType":"slack","reason":"http_404","since":"2026-11-30T03:00:00.000Z"}}"#;

    #[test]
    fn what_is_posted_is_the_notice_and_is_signed() {
        let settings = NoticeSettings {
            webhook_url: Some(Url::parse("https://ops.example.com/canary").unwrap()),
            signing_secret: Some(SECRET.into()),
        };
        let signing = Signing::with(SECRET).unwrap();
        let client = OperatorClient::new(None).unwrap();
        let url = settings.webhook_url.unwrap();
        let hook = Hook { client, url, signing: Some(signing) };
        let event = Notice::read(NOTICE).unwrap();
        let request = hook.request(NOTICE, &event, clock::now());
        assert_eq!(request.body, Bytes::from_static(NOTICE));
        let headers: HeaderMap = request.headers.iter().cloned().collect();
        assert_eq!(headers[CONTENT_TYPE], "application/cloudevents+json");
        Webhook::new(SECRET).unwrap().verify(&request.body, &headers).unwrap();
        let later = hook.request(NOTICE, &event, Timestamp::from_millis(1));
        let id = |request: &Request| {
            request.headers.iter().find(|(name, _)| name == "webhook-id").unwrap().1.clone()
        };
        assert_eq!(id(&request), id(&later));
        assert!(!format!("{request:?}").contains("canary"));
    }
}
