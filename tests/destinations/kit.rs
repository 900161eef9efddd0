//! The rules that hold for every destination, whoever wrote it.

use std::collections::BTreeSet;

use base64::Engine as _;
use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    delivery::Verdict,
    destination::{
        Checks, ConnectorType, Destination, Item, Response, Settings, Shape, Spec,
        docs::example_settings,
    },
    egress::EgressPolicy,
    event::{EventType, EventTypes},
    redact::{LEFT_OUT, Redactor},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use secrecy::ExposeSecret;

use crate::events::{item, large, nasty, notices, plain};

/// Every destination, each with event types of both sorts.
fn each(mut test: impl FnMut(ConnectorType, &dyn Destination)) {
    for &kind in ConnectorType::ALL {
        for event_types in [EventTypes::All, EventTypes::Some(vec![EventType::PaymentSettled])] {
            test(kind, &*make(kind.spec(), &event_types));
        }
    }
}

pub fn make(spec: &Spec, event_types: &EventTypes) -> Box<dyn Destination> {
    (spec.make)(&example_settings(spec, None), event_types).unwrap()
}

/// A destination of the example settings and some optional ones.
pub fn make_with(
    kind: ConnectorType,
    settings: &[(&str, &str)],
    event_types: &EventTypes,
) -> Box<dyn Destination> {
    let mut all = example_settings(kind.spec(), None);
    for (name, value) in settings {
        let field = kind.field(name).unwrap();
        let checks = Checks { egress: &EgressPolicy::default() };
        all.insert(field.name, Settings::read(field, &(*value).into(), &checks).unwrap());
    }
    let errors = (kind.spec().check)(&all, event_types);
    assert!(errors.is_empty(), "{errors:?}");
    (kind.spec().make)(&all, event_types).unwrap()
}

pub fn response(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::try_from(*name).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let received_at = Timestamp::parse("2026-11-20T10:16:31Z").unwrap();
    Response { status, headers, body: body.into(), received_at, is_incomplete: false }
}

/// What `setup` finds out at the services that need it, as the tests have it.
pub fn setup_of(kind: &str) -> &'static str {
    kind.parse::<ConnectorType>().map_or("", |kind| kind.spec().setup_example)
}

/// The rules about the declaration alone.
pub fn check_declaration(spec: &Spec) {
    let checks = Checks { egress: &EgressPolicy::default() };
    assert!(!spec.title.is_empty() && spec.docs.starts_with("https://"), "{spec:?}");
    assert!(spec.concurrency > 0 && !spec.dedup.is_empty(), "{spec:?}");
    assert!(spec.fields.iter().any(|field| field.secret), "{spec:?}");
    let names: BTreeSet<&str> = spec.fields.iter().map(|field| field.name).collect();
    assert_eq!(names.len(), spec.fields.len(), "a field twice");
    for field in spec.fields {
        let json = match field.shape {
            Shape::Text => field.example.into(),
            Shape::List => vec![field.example].into(),
        };
        // A form of something that is too long to be an example has gaps.
        if !field.example.contains('…') {
            Settings::read(field, &json, &checks)
                .unwrap_or_else(|error| panic!("{}: the example {error}", field.name));
        }
        for wrong in ["", "two words\n", "a\u{0}b"] {
            let is_wrong = Settings::read(field, &wrong.into(), &checks).is_err();
            assert!(is_wrong, "{} takes {wrong:?}", field.name);
        }
        assert!(Settings::read(field, &serde_json::json!({}), &checks).is_err());
        assert!(field.help.ends_with('.') || field.help.ends_with(')'), "{}", field.help);
    }
    for &kind in EventType::ALL {
        assert!(!(spec.becomes)(kind).is_empty());
    }
}

/// The rules about what a destination does with events.
pub fn check_requests(name: &str, spec: &Spec, event_types: &EventTypes) {
    let settings = example_settings(spec, None);
    let secrets = settings.secrets(spec.fields);
    let (one, other) = (make(spec, event_types), make(spec, event_types));
    for secret in &secrets {
        let secret = secret.expose_secret();
        assert!(!format!("{one:?} {settings:?}").contains(secret), "{name}: {one:?}");
    }
    for (event_name, event) in plain().into_iter().chain(nasty()).chain(notices()) {
        let item = item(&event, setup_of(name));
        assert_eq!(one.skips(&event), other.skips(&event));
        if one.skips(&event).is_some() {
            continue;
        }
        let later =
            Item { attempt: 4, sent_at: Timestamp::parse("2026-11-20T20:00:00Z").unwrap(), ..item };
        let (first, again) = (one.build(&item), other.build(&item));
        let (Ok(first), Ok(again), Ok(later)) = (&first, &again, one.build(&later)) else {
            assert!(matches!(first, Err(Verdict::Dead { .. })), "{name} {event_name}: {first:?}");
            continue;
        };
        assert_eq!(first.url, again.url, "{name} {event_name}");
        assert_eq!(first.body, again.body, "{name} {event_name}");
        assert_eq!(first.headers, again.headers, "{name} {event_name}");
        // A later attempt says the same, so that it is recognised as a repeat.
        assert_eq!(first.url, later.url, "{name} {event_name}");
        assert_eq!(first.body, later.body, "{name} {event_name}");
        assert_eq!(first.url.scheme(), "https", "{name} {event_name}");
        let shown = format!("{first:?}");
        for secret in &secrets {
            assert!(!shown.contains(secret.expose_secret()), "{name}: {shown}");
        }
        if !first.body.is_empty() {
            let types: Vec<_> = first.headers.iter().filter(|(n, _)| n == "content-type").collect();
            assert_eq!(types.len(), 1, "{name} {event_name}");
            assert_eq!(types[0].1, "application/json", "{name} {event_name}");
        }
    }
}

#[test]
fn declarations_are_complete_and_their_examples_pass() {
    for &kind in ConnectorType::ALL {
        check_declaration(kind.spec());
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert_eq!(ConnectorType::ALL[kind.index()], kind);
    }
    assert_eq!(ConnectorType::ALL.len(), 20);
}

#[test]
fn an_unknown_setting_is_refused() {
    for &kind in ConnectorType::ALL {
        assert!(kind.field("nonsense").is_none());
        for field in kind.spec().fields {
            assert_eq!(kind.field(field.name).map(|found| found.name), Some(field.name));
        }
        let without = (kind.spec().make)(&Settings::default(), &EventTypes::All);
        assert!(without.is_err(), "{kind} is made of nothing");
    }
    let error = "disord".parse::<ConnectorType>().unwrap_err();
    assert_eq!(error, "unknown connector type \"disord\", did you mean \"discord\"?");
}

#[test]
fn requests_are_a_function_of_the_event() {
    for &kind in ConnectorType::ALL {
        check_requests(kind.as_str(), kind.spec(), &EventTypes::All);
        for &event in EventType::ALL {
            check_requests(kind.as_str(), kind.spec(), &EventTypes::Some(vec![event]));
        }
    }
}

#[test]
fn an_operators_base_url_replaces_the_host_and_nothing_else() {
    let base = "http://127.0.0.1:4711".parse::<url::Url>().unwrap();
    for &kind in ConnectorType::ALL {
        let spec = kind.spec();
        let event_types = EventTypes::All;
        let direct = make(spec, &event_types);
        let rebased =
            (spec.make)(&example_settings(spec, Some(base.clone())), &event_types).unwrap();
        for (name, event) in plain() {
            if direct.skips(&event).is_some() {
                continue;
            }
            let item = item(&event, setup_of(kind.as_str()));
            let (direct, rebased) = (direct.build(&item).unwrap(), rebased.build(&item).unwrap());
            assert_eq!(rebased.url.origin(), base.origin(), "{kind} {name}");
            assert_eq!(direct.url.path(), rebased.url.path(), "{kind} {name}");
            assert_eq!(direct.url.query(), rebased.url.query(), "{kind} {name}");
            assert_eq!(direct.body, rebased.body, "{kind} {name}");
        }
    }
}

/// Where each service looks to recognise a repeat; the others have no such place.
#[test]
fn the_delivery_id_stands_where_the_service_looks_for_repeats() {
    let events = plain();
    let settled = &events[1].1;
    let failed = &events[2].1;
    let summary = &events[7].1;
    let id = item(settled, "").delivery_id.to_string();
    let places = [
        (ConnectorType::Segment, "/batch/0/messageId"),
        (ConnectorType::Mixpanel, "/0/properties/$insert_id"),
        (ConnectorType::Amplitude, "/events/0/insert_id"),
        (ConnectorType::Ga4, "/events/0/params/transaction_id"),
        (ConnectorType::Bigquery, "/rows/0/insertId"),
        (ConnectorType::Hubspot, "/inputs/0/objectWriteTraceId"),
    ];
    for (kind, place) in places {
        let request = make(kind.spec(), &EventTypes::All).build(&item(settled, "")).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body.pointer(place).and_then(|id| id.as_str()), Some(&*id), "{kind}");
    }
    let build = |kind: ConnectorType, event, setup| {
        make(kind.spec(), &EventTypes::All).build(&item(event, setup)).unwrap()
    };
    let id = item(failed, "").delivery_id.to_string();
    let body = |request: &dunmore_connectors::destination::Request| {
        serde_json::from_slice::<serde_json::Value>(&request.body).unwrap()
    };
    let header = |request: &dunmore_connectors::destination::Request, name: &str| {
        let found = request.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let each = |kind: ConnectorType| {
        make_with(kind, &[("dedup", "event")], &EventTypes::All).build(&item(failed, "")).unwrap()
    };
    assert_eq!(body(&each(ConnectorType::Pagerduty))["dedup_key"], *id);
    assert_eq!(body(&each(ConnectorType::Opsgenie))["alias"], *id);
    assert_eq!(header(&build(ConnectorType::Email, failed, ""), "idempotency-key"), id);
    assert_eq!(header(&build(ConnectorType::N8n, failed, ""), "idempotency-key"), id);
    for kind in [ConnectorType::Zapier, ConnectorType::N8n, ConnectorType::Make] {
        assert_eq!(header(&build(kind, failed, ""), "dunmore-delivery-id"), id);
    }
    let task = body(&build(ConnectorType::Salesforce, failed, "external-id"));
    assert_eq!(task["records"][0]["Dunmore_Delivery_Id__c"], *id);
    let id = item(summary, "").delivery_id.to_string();
    let receipt = build(ConnectorType::Quickbooks, summary, setup_of("quickbooks"));
    assert!(receipt.url.query_pairs().any(|(name, value)| name == "requestid" && value == id));
    let invoice = build(ConnectorType::Xero, summary, "");
    assert_eq!(header(&invoice, "idempotency-key"), id);
    assert_eq!(body(&invoice)["Invoices"][0]["InvoiceNumber"], format!("DUNMORE-{id}"));
}

/// The vendors' limits on a request's body, in bytes; where they publish none, what is sensible.
fn max_body(kind: ConnectorType) -> usize {
    match kind {
        ConnectorType::Slack => 40_000,
        ConnectorType::Teams => 28_000,
        ConnectorType::Segment => 32_000,
        ConnectorType::Ga4 => 130_000,
        ConnectorType::Pagerduty => 512_000,
        ConnectorType::Make => 5_000_000,
        ConnectorType::Zapier | ConnectorType::Bigquery => 10_000_000,
        ConnectorType::N8n => 16_000_000,
        ConnectorType::Mixpanel | ConnectorType::Amplitude => 1_000_000,
        _ => 100_000,
    }
}

#[test]
fn large_events_stay_within_the_services_limits() {
    let events = large();
    assert!(events.len() > 60);
    let kinds: Vec<EventTypes> =
        EventType::ALL.iter().map(|kind| EventTypes::Some(vec![*kind])).collect();
    for &kind in ConnectorType::ALL {
        for (name, event) in &events {
            let destination = make(kind.spec(), &kinds[event.kind.index()]);
            if destination.skips(event).is_some() {
                continue;
            }
            let request = match destination.build(&item(event, setup_of(kind.as_str()))) {
                Ok(request) => request,
                // An asset of a million letters has no price.
                Err(verdict) => {
                    assert!(matches!(kind, ConnectorType::Quickbooks | ConnectorType::Xero));
                    assert!(matches!(verdict, Verdict::Dead { .. }), "{kind} {name}: {verdict:?}");
                    continue;
                }
            };
            let size = request.body.len();
            assert!(size <= max_body(kind), "{kind} {name}: {size} bytes");
        }
    }
}

#[test]
fn batches_of_one_two_and_the_most_are_answered_item_by_item() {
    let events = plain();
    each(|kind, destination| {
        let Some(batching) = destination.batching() else { return };
        let wanted: Vec<Item<'_>> = events
            .iter()
            .filter(|(_, event)| destination.skips(event).is_none())
            .map(|(_, event)| item(event, setup_of(kind.as_str())))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let limits = batching.limits();
        assert!(limits.items > 1 && limits.bytes > 10_000);
        for count in [1, 2, limits.items] {
            let mut batch: Vec<Item<'_>> = Vec::new();
            for item in wanted.iter().cycle().take(count) {
                if batching.takes(&batch, item) {
                    batch.push(*item);
                }
            }
            assert!(!batch.is_empty());
            let request = batching.build(&batch).unwrap();
            assert!(request.body.len() <= limits.bytes, "{kind}: {}", request.body.len());
            for status in [200, 204, 207, 400, 401, 413, 429, 500] {
                let verdicts = batching.judge(&batch, &response(status, &[], "{}"));
                assert_eq!(verdicts.len(), batch.len(), "{kind} {status}");
            }
            // A batch that is too large is split; one event that is too large is lost.
            let too_large = batching.judge(&batch, &response(413, &[], "too large"));
            for verdict in too_large {
                assert_eq!(verdict.asks_to_split(), batch.len() > 1, "{kind}: {verdict:?}");
                assert_eq!(matches!(verdict, Verdict::Dead { .. }), batch.len() == 1, "{kind}");
            }
        }
    });
}

/// Texts that services use in their answers, so that random answers reach the deep branches.
const WORDS: &[&str] = &[
    "ok",
    "error",
    "errors",
    "code",
    "message",
    "retry_after",
    "parameters",
    "migrate_to_chat_id",
    "description",
    "failed_records",
    "index",
    "insertErrors",
    "reason",
    "invalid",
    "stopped",
    "success",
    "statusCode",
    "errorCode",
    "results",
    "context",
    "objectWriteTraceId",
    "Invoices",
    "Elements",
    "ValidationErrors",
    "Message",
    "HasErrors",
    "Fault",
    "Error",
    "SalesReceipt",
    "Id",
    "TotalAmt",
    "events_with_invalid_fields",
    "throttled_events",
    "embeds",
    "0",
    "1",
    "name",
    "status",
    "requestId",
    "policyName",
    "QueryResponse",
    "Item",
    "Name",
    "silenced_events",
    "category",
    "InvoiceNumber",
    "no_service",
    "must be unique",
];

fn json() -> impl Strategy<Value = serde_json::Value> {
    let word = proptest::sample::select(WORDS);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        (0_u64..600).prop_map(serde_json::Value::from),
        proptest::sample::select(vec![10_015_u64, 20_028, 40_333, 50_035, 220_001])
            .prop_map(serde_json::Value::from),
        word.clone().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            proptest::collection::vec((word.clone(), inner), 0..6).prop_map(|fields| {
                let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
                serde_json::Value::Object(fields.collect())
            }),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        json().prop_map(|json| json.to_string().into_bytes()),
        proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        Just(vec![b'['; 70_000]),
    ]
}

const STATUSES: &[u16] = &[
    200, 201, 202, 204, 207, 301, 400, 401, 402, 403, 404, 408, 409, 410, 412, 413, 422, 423, 425,
    429, 477, 500, 502, 503,
];

fn any_response() -> impl Strategy<Value = Response> {
    let status = prop_oneof![proptest::sample::select(STATUSES), 100_u16..1000];
    let names = [
        "retry-after",
        "x-ratelimit-reset",
        "x-rate-limit-problem",
        "x-ratelimit-period-in-sec",
        "content-type",
    ];
    let value = prop_oneof![
        "[ -~]{0,20}",
        (0_u64..100_000).prop_map(|seconds| seconds.to_string()),
        Just("1e300".to_owned()),
        Just("Fri, 20 Nov 2026 10:20:00 GMT".to_owned()),
    ];
    let headers =
        proptest::collection::vec((proptest::sample::select(names.to_vec()), value), 0..4);
    (status, headers, body()).prop_map(|(status, headers, body)| {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        response(status, &headers, body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_makes_a_destination_panic(answers in proptest::collection::vec(any_response(), 1..4)) {
        let events = plain();
        let answer = &answers[0];
        for &kind in ConnectorType::ALL {
            let destination = make(kind.spec(), &EventTypes::All);
            let items: Vec<Item<'_>> = events
                .iter()
                .filter(|(_, event)| destination.skips(event).is_none())
                .map(|(_, event)| item(event, setup_of(kind.as_str())))
                .collect();
            for item in &items {
                let verdict = destination.judge(item, answer);
                if answer.status >= 400 && answer.status < 600 {
                    // Delivered only where the service says that it has it already, or stored it.
                    let may = matches!(kind, ConnectorType::Mixpanel | ConnectorType::Xero);
                    prop_assert!(may || verdict != Verdict::Delivered, "{} {:?}", kind, answer);
                }
            }
            if let Some(batching) = destination.batching() {
                for count in 1..=items.len() {
                    let verdicts = batching.judge(&items[..count], answer);
                    prop_assert_eq!(verdicts.len(), count, "{}", kind);
                }
            }
            for count in 0..=answers.len() {
                let _ = destination.setup(&answers[..count]);
                for item in &items {
                    let _ = destination.lookup(&[*item], &answers[..count]);
                }
            }
        }
    }
}

#[test]
fn a_redirect_is_never_a_success() {
    each(|kind, destination| {
        let events = plain();
        let item = item(&events[2].1, setup_of(kind.as_str()));
        for status in [301, 302, 307, 308] {
            let answer = response(status, &[("location", "https://evil.example/")], "");
            let verdict = destination.judge(&item, &answer);
            assert!(matches!(verdict, Verdict::Broken { .. }), "{kind} {status}: {verdict:?}");
        }
    });
}

#[test]
fn revenue_is_never_booked_twice() {
    let settings = Settings::default();
    for kind in [ConnectorType::Quickbooks, ConnectorType::Xero] {
        let check =
            |names: &[&str]| (kind.spec().check)(&settings, &EventTypes::parse(names).unwrap());
        assert!(check(&["*"]).is_empty());
        assert!(check(&["payment.settled"]).is_empty());
        assert!(check(&["revenue.daily_summary", "payment.failed"]).is_empty());
        let errors = check(&["payment.settled", "revenue.daily_summary"]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].0, "eventTypes");
        assert!(errors[0].1.contains("booked twice"), "{errors:?}");
        // By whatever list, a day's money and its payments are never both booked.
        let events = plain();
        for names in [&["*"][..], &["payment.settled"], &["revenue.daily_summary"]] {
            let destination = make(kind.spec(), &EventTypes::parse(names).unwrap());
            let books = |index: usize| destination.skips(&events[index].1).is_none();
            assert!(!(books(1) && books(7)), "{kind} {names:?}");
        }
    }
}

/// A secret in the forms in which services quote what they were sent.
fn quoted_forms(secret: &str) -> [String; 5] {
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let json = serde_json::Value::from(secret).to_string().replace('/', "\\/");
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let basic = base64(&format!("{secret}:"));
    [secret.to_owned(), percent, json.trim_matches('"').to_owned(), base64(secret), basic]
}

/// Whatever a service says, and wherever in its answer: nothing of a secret is in a verdict.
#[test]
fn no_verdict_quotes_a_secret() {
    let events = plain();
    let mut left_out = 0;
    each(|kind, destination| {
        let item = item(&events[1].1, setup_of(kind.as_str()));
        let secrets = example_settings(kind.spec(), None).secrets(kind.spec().fields);
        let redactor = Redactor::new(&secrets);
        for secret in secrets.iter().map(ExposeSecret::expose_secret) {
            for form in quoted_forms(secret) {
                let bodies = [
                    form.clone(),
                    format!("{}{form}", "x".repeat(290)),
                    format!("{{\"message\":\"{form}\",\"description\":\"{form}\"}}"),
                    format!("{{\"errors\":[{{\"message\":\"{form}\",\"reason\":\"{form}\"}}]}}"),
                    format!("[{{\"errorCode\":\"{form}\",\"message\":\"{form}\"}}]"),
                    format!("{}{form}", " ".repeat(50_000)),
                ];
                for (body, status) in
                    bodies.iter().flat_map(|b| [200, 400, 401, 404, 429, 500].map(|s| (b, s)))
                {
                    let headers = [("x-rate-limit-problem", form.as_str())];
                    let answer = response(status, &headers, body.clone());
                    let judged = destination.judge(&item, &answer);
                    let shown =
                        redactor.verdicts(std::slice::from_ref(&answer), vec![judged.clone()]);
                    // Only the words are others.
                    assert_eq!(
                        std::mem::discriminant(&shown[0]),
                        std::mem::discriminant(&judged),
                        "{kind}"
                    );
                    assert_eq!(shown[0].failure(), judged.failure(), "{kind}");
                    let shown = format!("{:?}", shown[0]);
                    left_out += usize::from(shown.contains(LEFT_OUT));
                    for piece in [&form[form.len() - 6..], &secret[secret.len() - 6..]] {
                        assert!(!shown.contains(piece), "{kind} {status}: {shown}");
                    }
                }
            }
        }
    });
    assert!(left_out > 1_000, "{left_out}");
}
