//! The destinations against the sandbox of the vendors, over real HTTP on the loopback: right
//! requests are taken, wrong ones are refused, and every way to fail is judged as it should be.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "destinations/events.rs"]
mod events;
#[expect(dead_code, reason = "other tests look at more of it")]
#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "destinations/vendors.rs"]
mod vendors;

use std::{collections::HashSet, time::Duration};

use dunmore_connectors::{
    clock,
    delivery::Verdict,
    destination::{
        ConnectorType, Destination, Item, MAX_RESPONSE_BYTES, Request, Response, Setup,
        docs::example_settings,
    },
    event::{Event, EventType, EventTypes},
};
use events::{item, large, nasty, plain};
use sandbox::{Behaviour, Sandbox, TYPES};

fn client() -> reqwest::Client {
    // Only the first call installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

async fn send(client: &reqwest::Client, request: Request) -> Response {
    let mut builder = client.request(request.method, request.url).body(request.body);
    for (name, value) in request.headers {
        builder = builder.header(name, value);
    }
    let answer = builder.send().await.unwrap();
    Response {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: {
            // What is longer is cut, as the shell does it.
            let body = answer.bytes().await.unwrap();
            body.slice(..body.len().min(MAX_RESPONSE_BYTES))
        },
        received_at: clock::now(),
        is_incomplete: false,
    }
}

fn make(sandbox: &Sandbox, kind: ConnectorType, event_types: &EventTypes) -> Box<dyn Destination> {
    let base = sandbox.base_url(kind.as_str()).parse().unwrap();
    (kind.spec().make)(&example_settings(kind.spec(), Some(base)), event_types).unwrap()
}

async fn set_up(
    client: &reqwest::Client,
    destination: &dyn Destination,
) -> Result<String, Verdict> {
    let found = ask(client, |answers| Some(destination.setup(answers))).await?;
    Ok(found.unwrap_or_default())
}

async fn ask(
    client: &reqwest::Client,
    next: impl Fn(&[Response]) -> Option<Setup>,
) -> Result<Option<String>, Verdict> {
    let mut answers = Vec::new();
    loop {
        match next(&answers) {
            None => return Ok(None),
            Some(Setup::Ready(text)) => return Ok(Some(text.to_string())),
            Some(Setup::Failed(verdict)) => return Err(verdict),
            Some(Setup::Ask(request)) => answers.push(send(client, request).await),
        }
        assert!(answers.len() <= dunmore_connectors::destination::MAX_SETUP_STEPS);
    }
}

/// The event that a type surely sends, and the event types that make it do so.
fn sure(kind: ConnectorType) -> (EventTypes, Event) {
    let wanted = match kind {
        ConnectorType::Quickbooks | ConnectorType::Xero => EventType::RevenueDailySummary,
        _ => EventType::PaymentFailed,
    };
    (EventTypes::Some(vec![wanted]), plain().remove(wanted.index()).1)
}

#[test]
fn the_sandbox_plays_every_type() {
    let names: Vec<&str> = ConnectorType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names, TYPES);
}

#[tokio::test]
async fn right_requests_are_taken() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    for &kind in ConnectorType::ALL {
        let mut sent = 0;
        for (name, event) in plain().into_iter().chain(nasty()) {
            for event_types in [EventTypes::All, EventTypes::Some(vec![event.kind])] {
                let destination = make(&sandbox, kind, &event_types);
                if destination.skips(&event).is_some() {
                    continue;
                }
                let setup = set_up(&client, &*destination).await.unwrap();
                let item = item(&event, &setup);
                let Ok(request) = destination.build(&item) else { continue };
                let answer = send(&client, request).await;
                let verdict = destination.judge(&item, &answer);
                assert_eq!(verdict, Verdict::Delivered, "{kind} {name}: {}", answer.detail());
                sent += 1;
            }
        }
        let accepted = sandbox.accepted(kind.as_str());
        assert!(!accepted.is_empty() && accepted.len() <= sent, "{kind}");
        assert!(
            sandbox.requests(kind.as_str()).iter().all(|r| r.is_setup || r.status < 300),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn requests_of_the_largest_events_are_taken() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let events: Vec<_> = large()
        .into_iter()
        .filter(|(name, _)| {
            name.contains("all texts of ampersands") || name.contains("all texts of emoji")
        })
        .collect();
    for &kind in ConnectorType::ALL {
        for (name, event) in &events {
            let destination = make(&sandbox, kind, &EventTypes::Some(vec![event.kind]));
            if destination.skips(event).is_some() {
                continue;
            }
            let setup = set_up(&client, &*destination).await.unwrap();
            let item = item(event, &setup);
            let request = match destination.build(&item) {
                Ok(request) => request,
                // An asset of a million letters has no price.
                Err(verdict) => {
                    assert_eq!(words(&verdict), "dead rejected", "{kind} {name}");
                    assert!(matches!(kind, ConnectorType::Quickbooks | ConnectorType::Xero));
                    continue;
                }
            };
            let answer = send(&client, request).await;
            let verdict = destination.judge(&item, &answer);
            assert_eq!(verdict, Verdict::Delivered, "{kind} {name}: {}", answer.detail());
        }
    }
}

/// What each service cannot do without, taken away or spoilt in turn.
#[tokio::test]
async fn wrong_requests_are_refused() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    for &kind in ConnectorType::ALL {
        let (event_types, event) = sure(kind);
        let destination = make(&sandbox, kind, &event_types);
        let setup = set_up(&client, &*destination).await.unwrap();
        let item = item(&event, &setup);
        let right = destination.build(&item).unwrap();
        let before = sandbox.accepted(kind.as_str()).len();
        let mut wrong: Vec<(String, Request)> = Vec::new();
        // No authorization: the header, or the secret in the URL or the body.
        let mut request = right.clone();
        let is_auth = |name: &str| ["authorization", "dd-api-key"].contains(&name);
        let had = request.headers.len();
        request.headers.retain(|(name, _)| !is_auth(name.as_str()));
        if request.headers.len() == had {
            request = without_secret(kind, &right);
        }
        wrong.push(("no authorization".to_owned(), request));
        let mut request = right.clone();
        request.headers.retain(|(name, _)| name != "content-type");
        wrong.push(("no content type".to_owned(), request));
        let mut request = right.clone();
        request.method = http::Method::DELETE;
        wrong.push(("another method".to_owned(), request));
        let mut request = right.clone();
        request.url.set_path("/somewhere/else");
        wrong.push(("another path".to_owned(), request));
        let mut request = right.clone();
        request.body = b"{\"text\":".to_vec().into();
        wrong.push(("half a body".to_owned(), request));
        for field in required(kind) {
            let mut request = right.clone();
            request.body = without(&right.body, field).into();
            assert_ne!(request.body, right.body, "{kind} has no {field}");
            wrong.push((format!("no {field}"), request));
        }
        for (name, request) in wrong {
            let answer = send(&client, request).await;
            let verdict = destination.judge(&item, &answer);
            assert_ne!(verdict, Verdict::Delivered, "{kind} took {name}: {}", answer.detail());
        }
        assert_eq!(sandbox.accepted(kind.as_str()).len(), before, "{kind}");
        let answer = send(&client, right).await;
        assert_eq!(destination.judge(&item, &answer), Verdict::Delivered, "{kind}");
    }
}

/// The request with its secret part emptied, where that is not a header.
fn without_secret(kind: ConnectorType, right: &Request) -> Request {
    let mut request = right.clone();
    match kind {
        ConnectorType::Amplitude => request.body = without(&right.body, "/api_key").into(),
        ConnectorType::Pagerduty => request.body = without(&right.body, "/routing_key").into(),
        ConnectorType::Ga4 | ConnectorType::Teams => request.url.set_query(None),
        _ => request.url.set_path("/services/T0/B0"),
    }
    request
}

/// Pointers to what the services' pages call required.
fn required(kind: ConnectorType) -> &'static [&'static str] {
    use ConnectorType as T;
    match kind {
        T::Unknown => &[],
        T::Slack => &["/text", "/blocks/0/text/text"],
        T::Discord => &["/embeds/0/title", "/allowed_mentions"],
        T::Email => &["/from", "/to", "/subject", "/text"],
        T::Telegram => &["/chat_id", "/text"],
        T::Teams => &["/type", "/attachments/0/contentType", "/attachments/0/content/body"],
        T::Segment => &["/batch/0/type", "/batch/0/event", "/batch/0/userId", "/batch/0/messageId"],
        T::Mixpanel => &[
            "/0/event",
            "/0/properties/time",
            "/0/properties/$insert_id",
            "/0/properties/distinct_id",
        ],
        T::Amplitude => &["/events/0/event_type", "/events/0/user_id", "/events/0/insert_id"],
        T::Ga4 => &["/client_id", "/events/0/name", "/events/0/params"],
        T::Zapier | T::N8n | T::Make => &["/id", "/type", "/data"],
        T::Pagerduty => &[
            "/dedup_key",
            "/event_action",
            "/payload/summary",
            "/payload/source",
            "/payload/severity",
        ],
        T::Datadog => &["/title", "/text", "/alert_type"],
        T::Opsgenie => &["/message", "/alias", "/priority"],
        T::Bigquery => &["/rows/0/json", "/rows/0/insertId", "/rows/0/json/occurredAt"],
        T::Hubspot => &["/inputs/0/id", "/inputs/0/idProperty", "/inputs/0/properties/lastname"],
        T::Salesforce => {
            &["/records/0/attributes", "/records/0/Subject", "/records/0/Status", "/allOrNone"]
        }
        T::Quickbooks => &[
            "/Line/0/Amount",
            "/Line/0/DetailType",
            "/Line/0/SalesItemLineDetail/ItemRef",
            "/TxnDate",
        ],
        T::Xero => &[
            "/Invoices/0/Type",
            "/Invoices/0/InvoiceNumber",
            "/Invoices/0/Contact",
            "/Invoices/0/LineItems",
        ],
    }
}

/// The JSON without the field that a pointer names.
fn without(body: &[u8], pointer: &str) -> Vec<u8> {
    let mut json: serde_json::Value = serde_json::from_slice(body).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    if let Some(parent) = json.pointer_mut(parent).and_then(|parent| parent.as_object_mut()) {
        parent.shift_remove(name);
    }
    json.to_string().into_bytes()
}

/// What a behaviour of the sandbox must come to, in the words of the table of answers.
fn expected(kind: ConnectorType, behaviour: &Behaviour) -> &'static str {
    use ConnectorType as T;
    match (behaviour, kind) {
        (Behaviour::RateLimited, T::Slack | T::Email) => "retry rate_limited 1s",
        (Behaviour::RateLimited, T::Discord) => "retry rate_limited 0.75s",
        (Behaviour::RateLimited, T::Telegram | T::Segment | T::Ga4) => "retry rate_limited 3s",
        (Behaviour::RateLimited, T::Teams) => "retry rate_limited 4s",
        (Behaviour::RateLimited, T::Amplitude | T::Pagerduty) => "retry rate_limited 30s",
        (Behaviour::RateLimited, T::Zapier | T::Make) => "retry rate_limited 2s",
        (Behaviour::RateLimited, T::Datadog) => "retry rate_limited 7s",
        (Behaviour::RateLimited, T::Opsgenie | T::Quickbooks) => "retry rate_limited 60s",
        (Behaviour::RateLimited, T::Hubspot) => "retry rate_limited 10s",
        (Behaviour::RateLimited, T::Salesforce) => "retry quota_exceeded 3600s",
        (Behaviour::RateLimited, T::Xero) => "retry rate_limited 17s",
        (Behaviour::RateLimited, _) => "retry rate_limited",
        (Behaviour::ServerError | Behaviour::Status(500), _) => "retry server_error",
        (Behaviour::Unauthorized, T::Opsgenie) => "retry prerequisite_missing",
        (Behaviour::Gone, T::N8n) => "retry not_ready",
        (Behaviour::Unauthorized, T::Ga4)
        | (
            Behaviour::Gone,
            T::Email | T::Opsgenie | T::Hubspot | T::Salesforce | T::Quickbooks | T::Xero,
        ) => "broken forbidden",
        (Behaviour::Unauthorized, _) | (Behaviour::Gone, T::Pagerduty) => "broken unauthorized",
        // A malformed hook address is all that Zapier's 400 is known to mean.
        (Behaviour::Gone, _) | (Behaviour::PartialFailure, T::Zapier) => "broken gone",
        (Behaviour::PartialFailure, _) | (Behaviour::TooLarge, T::Slack | T::Telegram) => {
            "dead rejected"
        }
        (Behaviour::TooLarge, _) => "dead payload_too_large",
        // These have nothing in their answers that could be checked.
        (Behaviour::Garbage, T::Teams | T::Ga4 | T::Zapier | T::N8n | T::Make) => "delivered",
        (Behaviour::Garbage, _) => "retry unexpected_response",
        other => panic!("what should {other:?} come to?"),
    }
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Delivered => "delivered".to_owned(),
        Verdict::Retry { reason, after: None, .. } => format!("retry {reason}"),
        Verdict::Retry { reason, after: Some(after), .. } => {
            format!("retry {reason} {}s", after.as_secs_f64())
        }
        Verdict::Dead { reason, .. } => format!("dead {reason}"),
        Verdict::Broken { reason, .. } => format!("broken {reason}"),
        Verdict::Moved { field, value } => format!("moved {field}={value}"),
    }
}

#[tokio::test]
async fn every_way_to_fail_is_judged_as_it_should_be() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let behaviours = [
        Behaviour::RateLimited,
        Behaviour::ServerError,
        Behaviour::Unauthorized,
        Behaviour::Gone,
        Behaviour::PartialFailure,
        Behaviour::TooLarge,
        Behaviour::Garbage,
        Behaviour::Status(500),
    ];
    let mut wrong = Vec::new();
    for &kind in ConnectorType::ALL {
        let (event_types, event) = sure(kind);
        let destination = make(&sandbox, kind, &event_types);
        let setup = set_up(&client, &*destination).await.unwrap();
        let item = item(&event, &setup);
        for behaviour in &behaviours {
            sandbox.behave(kind.as_str(), behaviour.clone(), 1);
            let answer = send(&client, destination.build(&item).unwrap()).await;
            let verdict = words(&destination.judge(&item, &answer));
            if verdict != expected(kind, behaviour) {
                wrong.push(format!("{kind} {behaviour:?}: {verdict}"));
            }
        }
        // Nothing was taken so far, and the delivery that was refused so often is taken now.
        assert!(sandbox.accepted(kind.as_str()).is_empty(), "{kind}");
        let answer = send(&client, destination.build(&item).unwrap()).await;
        assert_eq!(words(&destination.judge(&item, &answer)), "delivered", "{kind}");
        assert_eq!(sandbox.accepted(kind.as_str()).len(), 1, "{kind}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A batch of different events, as one lane would have them waiting.
fn many(kind: ConnectorType, count: usize) -> (EventTypes, Vec<Event>) {
    let (event_types, event) = sure(kind);
    let json: serde_json::Value = serde_json::from_slice(&event.json).unwrap();
    let one = |index: usize| {
        let mut data = json["data"].clone();
        // Google Analytics takes one client's events together; to the others each is another's.
        if kind != ConnectorType::Ga4 && data.get("customerId").is_some() {
            data["customerId"] = format!("0x{index}").into();
        }
        events::event(&format!("evt_{index}"), event.kind.as_str(), &data)
    };
    (event_types, (0..count).map(one).collect())
}

#[tokio::test]
async fn the_largest_batches_are_taken_and_half_refused_ones_are_told_apart() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let mut batching_types = 0;
    for &kind in ConnectorType::ALL {
        let (event_types, events) = many(kind, 2_000);
        let destination = make(&sandbox, kind, &event_types);
        let Some(batching) = destination.batching() else { continue };
        batching_types += 1;
        let setup = set_up(&client, &*destination).await.unwrap();
        let mut batch: Vec<Item<'_>> = Vec::new();
        for event in events.iter().take(batching.limits().items) {
            let next = item(event, &setup);
            if batching.takes(&batch, &next) {
                batch.push(next);
            }
        }
        assert!(batch.len() == batching.limits().items, "{kind}: {}", batch.len());
        let request = batching.build(&batch).unwrap();
        assert!(request.body.len() <= batching.limits().bytes, "{kind}: {}", request.body.len());

        let knows_items = !matches!(kind, ConnectorType::Segment | ConnectorType::Ga4);
        sandbox.behave(kind.as_str(), Behaviour::PartialFailure, 1);
        let answer = send(&client, request.clone()).await;
        let verdicts = batching.judge(&batch, &answer);
        assert_eq!(verdicts.len(), batch.len(), "{kind}");
        let taken = sandbox.accepted(kind.as_str()).len();
        let delivered = verdicts.iter().filter(|v| **v == Verdict::Delivered).count();
        // An answer that is too long to be kept tells nothing: the items go again, in halves.
        let is_known = knows_items && !answer.was_cut();
        assert!(!is_known || delivered == taken, "{kind}: {}", answer.detail());
        let dead = verdicts.iter().filter(|v| matches!(v, Verdict::Dead { .. })).count();
        if is_known {
            assert_eq!(dead, batch.len() / 2, "{kind}: {}", answer.detail());
        } else {
            assert!(verdicts.iter().all(Verdict::asks_to_split), "{kind}: {:?}", verdicts[0]);
        }

        // The whole batch again: what was taken before is recognised, where there is a way to.
        let answer = send(&client, request).await;
        let verdicts = batching.judge(&batch, &answer);
        let delivered = verdicts.iter().filter(|v| **v == Verdict::Delivered).count();
        if kind != ConnectorType::Xero {
            assert_eq!(delivered, batch.len(), "{kind}: {}", answer.detail());
        }
        let keys: Vec<String> =
            sandbox.accepted(kind.as_str()).into_iter().map(|accepted| accepted.key).collect();
        let different: HashSet<&String> = keys.iter().collect();
        let dedups = !matches!(
            kind,
            ConnectorType::Discord
                | ConnectorType::Salesforce
                | ConnectorType::Ga4
                | ConnectorType::Hubspot
        );
        assert!(!dedups || different.len() == keys.len(), "{kind}");
    }
    assert_eq!(batching_types, 9);
}

#[tokio::test]
async fn a_repeat_is_dropped_where_the_service_can() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let can = [
        "email",
        "segment",
        "mixpanel",
        "amplitude",
        "pagerduty",
        "opsgenie",
        "bigquery",
        "quickbooks",
        "xero",
    ];
    for &kind in ConnectorType::ALL {
        let (event_types, event) = sure(kind);
        let destination = make(&sandbox, kind, &event_types);
        let setup = set_up(&client, &*destination).await.unwrap();
        for attempt in 1..=3 {
            let item = Item { attempt, sent_at: clock::now(), ..item(&event, &setup) };
            let answer = send(&client, destination.build(&item).unwrap()).await;
            assert_eq!(destination.judge(&item, &answer), Verdict::Delivered, "{kind}");
        }
        let accepted = sandbox.accepted(kind.as_str());
        let expected = if can.contains(&kind.as_str()) { 1 } else { 3 };
        assert_eq!(accepted.len(), expected, "{kind}");
        let id = item(&event, &setup).delivery_id.to_string();
        assert!(accepted.iter().all(|a| a.key.is_empty() || a.key == id), "{kind}: {accepted:?}");
        let knows_event = !matches!(kind.as_str(), "hubspot" | "quickbooks" | "xero");
        assert!(!knows_event || accepted.iter().all(|a| a.event == event.id.as_str()), "{kind}");
    }
}

#[tokio::test]
async fn places_that_moved_are_found_again() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let (event_types, event) = sure(ConnectorType::Telegram);
    let destination = make(&sandbox, ConnectorType::Telegram, &event_types);
    sandbox.behave("telegram", Behaviour::Moved, 1);
    let item_of_chat = item(&event, "");
    let answer = send(&client, destination.build(&item_of_chat).unwrap()).await;
    let verdict = destination.judge(&item_of_chat, &answer);
    assert_eq!(words(&verdict), "moved chatId=-1009876543210");

    // The account moves between two deliveries: the next set-up finds the successor.
    let destination = make(&sandbox, ConnectorType::Opsgenie, &event_types);
    let first = set_up(&client, &*destination).await.unwrap();
    sandbox.fact("opsgenie", "moved");
    let before = item(&event, &first);
    let answer = send(&client, destination.build(&before).unwrap()).await;
    assert_eq!(words(&destination.judge(&before, &answer)), "retry prerequisite_missing");
    let second = set_up(&client, &*destination).await.unwrap();
    assert_ne!(first, second);
    let after = item(&event, &second);
    let answer = send(&client, destination.build(&after).unwrap()).await;
    assert_eq!(destination.judge(&after, &answer), Verdict::Delivered);
    // A revoked key is known to neither.
    sandbox.behave("opsgenie", Behaviour::Unauthorized, 1);
    let refused = set_up(&client, &*destination).await.unwrap_err();
    assert_eq!(words(&refused), "broken unauthorized");
}

#[tokio::test]
async fn salesforce_upserts_by_the_field_that_an_organisation_added() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    sandbox.fact("salesforce", "Dunmore_Delivery_Id__c");
    let (event_types, event) = sure(ConnectorType::Salesforce);
    let destination = make(&sandbox, ConnectorType::Salesforce, &event_types);
    let setup = set_up(&client, &*destination).await.unwrap();
    for _ in 0..2 {
        let item = item(&event, &setup);
        let answer = send(&client, destination.build(&item).unwrap()).await;
        assert_eq!(destination.judge(&item, &answer), Verdict::Delivered);
    }
    let accepted = sandbox.accepted("salesforce");
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].key, item(&event, "").delivery_id.to_string());
}

#[tokio::test]
async fn a_limit_is_kept() {
    let (client, sandbox) = (client(), Sandbox::start().await);
    let (event_types, event) = sure(ConnectorType::Datadog);
    let destination = make(&sandbox, ConnectorType::Datadog, &event_types);
    sandbox.limit("datadog", 2, Duration::from_secs(60));
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        let item = item(&event, "");
        let answer = send(&client, destination.build(&item).unwrap()).await;
        verdicts.push(words(&destination.judge(&item, &answer)));
    }
    assert_eq!(verdicts, ["delivered", "delivered", "retry rate_limited 7s"]);
}

#[tokio::test]
async fn what_was_taken_but_not_answered_is_slow_or_lost() {
    let (sandbox, hasty) = (Sandbox::start().await, client());
    let (event_types, event) = sure(ConnectorType::Zapier);
    let destination = make(&sandbox, ConnectorType::Zapier, &event_types);
    let build = || destination.build(&item(&event, "")).unwrap();
    sandbox.behave("zapier", Behaviour::Slow(Duration::from_millis(50)), 1);
    assert_eq!(send(&hasty, build()).await.status, 200);
    sandbox.behave("zapier", Behaviour::Hang, 1);
    let hanging = tokio::time::timeout(Duration::from_millis(200), send(&hasty, build())).await;
    assert!(hanging.is_err());
    assert_eq!(sandbox.accepted("zapier").len(), 1);
    sandbox.reset();
    assert!(sandbox.requests("zapier").is_empty());
}
