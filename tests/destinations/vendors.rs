//! What the services did with what they got: booked, kept, opened. Their accounts differ by facts
//! that a connector must find out or be given, and each that is wrong is named.

use dunmore_connectors::{
    delivery::Verdict,
    destination::{
        Checks, ConnectorType as T, Destination, Item, Settings, docs::example_settings,
    },
    egress::EgressPolicy,
    event::{Event, EventTypes},
};
use serde_json::{Value, json};

use crate::{
    ask, client,
    events::{event, item},
    sandbox::Sandbox,
    send, set_up, words,
};

/// A connector of the example settings and some optional ones, and a line to its service.
struct Line<'a> {
    client: reqwest::Client,
    sandbox: &'a Sandbox,
    kind: T,
    destination: Box<dyn Destination>,
}

impl<'a> Line<'a> {
    fn new(sandbox: &'a Sandbox, kind: T, settings: &[(&str, &str)], names: &[&str]) -> Self {
        let base = sandbox.base_url(kind.as_str()).parse().unwrap();
        let mut all = example_settings(kind.spec(), Some(base));
        for (name, value) in settings {
            let field = kind.field(name).unwrap();
            let checks = Checks { egress: &EgressPolicy::default() };
            all.insert(field.name, Settings::read(field, &(*value).into(), &checks).unwrap());
        }
        let event_types = EventTypes::parse(names).unwrap();
        let destination = (kind.spec().make)(&all, &event_types).unwrap();
        Self { client: client(), sandbox, kind, destination }
    }

    /// Delivers events in one request, as the program does; the first one's verdict.
    async fn deliver(&self, events: &[&Event]) -> Verdict {
        let setup = match set_up(&self.client, &*self.destination).await {
            Ok(setup) => setup,
            Err(verdict) => return verdict,
        };
        self.deliver_after(&setup, events).await
    }

    async fn deliver_after(&self, setup: &str, events: &[&Event]) -> Verdict {
        let items: Vec<Item<'_>> = events.iter().map(|event| item(event, setup)).collect();
        let found =
            match ask(&self.client, |answers| self.destination.lookup(&items, answers)).await {
                Ok(found) => found,
                Err(verdict) => return verdict,
            };
        let items: Vec<Item<'_>> = items
            .iter()
            .map(|item| Item { setup: found.as_deref().unwrap_or(item.setup), ..*item })
            .collect();
        let built = match self.destination.batching() {
            Some(batching) => batching.build(&items),
            None => self.destination.build(&items[0]),
        };
        let request = match built {
            Ok(request) => request,
            Err(verdict) => return verdict,
        };
        let answer = send(&self.client, request).await;
        match self.destination.batching() {
            Some(batching) => batching.judge(&items, &answer).remove(0),
            None => self.destination.judge(&items[0], &answer),
        }
    }

    async fn outcome(&self, event: &Event) -> String {
        words(&self.deliver(&[event]).await)
    }

    /// What the service took last.
    fn last(&self) -> Value {
        self.sandbox.accepted(self.kind.as_str()).pop().unwrap().body
    }

    fn count(&self) -> usize {
        self.sandbox.accepted(self.kind.as_str()).len()
    }
}

fn day(id: &str, revenue: &str, currency: &str) -> Event {
    let data = json!({"date":"2026-11-19","revenue":revenue,"currency":currency,"paymentCount":3,
        "customerCount":2,"failedCount":0});
    event(id, "revenue.daily_summary", &data)
}

fn settled(id: &str, customer: &str) -> Event {
    let data = json!({"paymentId":"pay_1","endpointId":"ep_1","customerId":customer,
        "amount":"1.250000","currency":"USDC","network":"base","txHash":"0xab"});
    event(id, "payment.settled", &data)
}

fn failed(id: &str, endpoint: &str) -> Event {
    let data = json!({"paymentId":id,"endpointId":endpoint,"amount":"0.05","currency":"USDC",
        "stage":"settle","reason":"insufficient_funds"});
    event(id, "payment.failed", &data)
}

/// What was paid, in which currency it is to be booked, and the amount.
const PAID: &[(&str, &str, &str, f64)] = &[
    ("12.50", "USDC", "USD", 12.5),
    ("12.50", "usd", "USD", 12.5),
    ("1234567.895", "USDC.e", "USD", 1_234_567.9),
    ("12.50", "EURC", "EUR", 12.5),
    ("1000000", "JPY", "JPY", 1_000_000.0),
];

#[tokio::test]
async fn quickbooks_books_what_was_paid_whatever_the_companys_home_currency() {
    for home in ["USD", "EUR", "JPY"] {
        let sandbox = Sandbox::start().await;
        sandbox.fact("quickbooks", &format!("home {home}"));
        let line = Line::new(&sandbox, T::Quickbooks, &[], &["*"]);
        for (index, (amount, asset, code, booked)) in PAID.iter().enumerate() {
            let outcome = line.outcome(&day(&format!("evt_{index}"), amount, asset)).await;
            assert_eq!(outcome, "delivered", "{home} {amount} {asset}");
            let receipt = line.last();
            assert_eq!(receipt["CurrencyRef"]["value"], *code, "{home} {asset}");
            assert_eq!(receipt["TotalAmt"].as_f64(), Some(*booked), "{home} {asset}");
            let dollars = |code: &str| match code {
                "USD" => 1.0,
                "EUR" => 1.1,
                _ => 0.0064,
            };
            let expected = booked * dollars(code) / dollars(home);
            let stated = receipt["HomeTotalAmt"].as_f64().unwrap();
            assert!((stated - expected).abs() < 0.011, "{home} {asset}: {stated}, not {expected}");
        }
        for (id, amount, asset) in [("evt_e", "12.5", "ETH"), ("evt_b", "0.0049", "BTC")] {
            let before = line.count();
            let verdict = line.deliver(&[&day(id, amount, asset)]).await;
            let Verdict::Dead { detail, .. } = verdict else { panic!("{verdict:?}") };
            assert!(detail.starts_with(&format!("{amount} {asset} has no price")), "{detail}");
            assert_eq!(line.count(), before, "{asset} was booked");
        }
    }
}

#[tokio::test]
async fn quickbooks_says_what_a_company_lacks() {
    let sandbox = Sandbox::start().await;
    sandbox.fact("quickbooks", "country GB");
    sandbox.fact("quickbooks", "home GBP");
    let event = day("evt_1", "12.50", "GBP");
    // Without a tax code, nothing can be booked outside the United States.
    let plain = Line::new(&sandbox, T::Quickbooks, &[], &["*"]);
    let verdict = plain.deliver(&[&event]).await;
    let Verdict::Broken { detail, .. } = verdict else { panic!("{verdict:?}") };
    assert!(detail.contains("taxCodeId"), "{detail}");
    let wrong = Line::new(&sandbox, T::Quickbooks, &[("taxCodeId", "99")], &["*"]);
    assert_eq!(wrong.outcome(&event).await, "broken prerequisite_missing");
    let right = Line::new(&sandbox, T::Quickbooks, &[("taxCodeId", "5")], &["*"]);
    assert_eq!(right.outcome(&event).await, "delivered");
    // The tax is part of what was paid.
    assert_eq!(right.last()["TotalAmt"].as_f64(), Some(12.5));

    let of = |facts: &'static [&'static str], settings: &'static [(&str, &str)]| async move {
        let sandbox = Sandbox::start().await;
        for fact in facts {
            sandbox.fact("quickbooks", fact);
        }
        let line = Line::new(&sandbox, T::Quickbooks, settings, &["*"]);
        let outcome = line.outcome(&day("evt_1", "12.50", "EURC")).await;
        (outcome, line.count())
    };
    let broken = ("broken prerequisite_missing".to_owned(), 0);
    assert_eq!(of(&["lacks EUR"], &[]).await, broken);
    assert_eq!(of(&["home EUR", "lacks EUR"], &[]).await, broken);
    assert_eq!(of(&["only home"], &[]).await, broken);
    assert_eq!(of(&[], &[("itemId", "99")]).await, broken);
    assert_eq!(of(&[], &[("itemId", "3")]).await, ("delivered".to_owned(), 1));
    assert_eq!(of(&["no item"], &[]).await, ("delivered".to_owned(), 1));
}

#[tokio::test]
async fn xero_books_what_was_paid_and_says_what_an_organisation_lacks() {
    let sandbox = Sandbox::start().await;
    let line = Line::new(&sandbox, T::Xero, &[], &["*"]);
    for (index, (amount, asset, code, booked)) in PAID.iter().enumerate() {
        let outcome = line.outcome(&day(&format!("evt_{index}"), amount, asset)).await;
        assert_eq!(outcome, "delivered", "{amount} {asset}");
        let invoice = line.last();
        assert_eq!(
            (&invoice["CurrencyCode"], invoice["Total"].as_f64()),
            (&json!(code), Some(*booked))
        );
    }
    let before = line.count();
    assert_eq!(line.outcome(&day("evt_e", "12.5", "ETH")).await, "dead rejected");
    assert_eq!(line.count(), before);
    sandbox.fact("xero", "lacks GBP");
    let pounds = day("evt_p", "12.5", "GBP");
    assert_eq!(line.outcome(&pounds).await, "broken prerequisite_missing");
    let event = day("evt_s", "115", "USDC");
    let wrong = Line::new(&sandbox, T::Xero, &[("accountCode", "999")], &["*"]);
    assert_eq!(wrong.outcome(&event).await, "broken prerequisite_missing");
    let right = [("accountCode", "200"), ("taxType", "OUTPUT2"), ("contactName", "API & Co")];
    let right = Line::new(&sandbox, T::Xero, &right, &["*"]);
    // The key of the refused request is this one's too; what differs is looked at anew.
    assert_eq!(right.outcome(&event).await, "delivered");
    assert_eq!(right.last()["Total"].as_f64(), Some(115.0));
    assert_eq!(right.last()["Contact"]["Name"], "API & Co");
}

#[tokio::test]
async fn bigquery_keeps_every_amount_or_says_which_column_is_missing() {
    let event = settled("evt_1", "0x52");
    let of = |facts: &'static [&'static str]| {
        let event = event.clone();
        async move {
            let sandbox = Sandbox::start().await;
            for fact in facts {
                sandbox.fact("bigquery", fact);
            }
            let line = Line::new(&sandbox, T::Bigquery, &[], &["*"]);
            let verdict = line.deliver(&[&event]).await;
            let row = if line.count() == 0 { Value::Null } else { line.last()["json"].clone() };
            (verdict, row)
        }
    };
    let (verdict, row) = of(&[]).await;
    assert_eq!(verdict, Verdict::Delivered);
    assert_eq!((&row["amount"], &row["currency"]), (&json!("1.250000"), &json!("USDC")));
    let (verdict, row) = of(&["without txHash", "without network"]).await;
    assert_eq!((verdict, &row["txHash"]), (Verdict::Delivered, &Value::Null));
    let (verdict, row) = of(&["without amount", "without currency"]).await;
    assert!(verdict == Verdict::Delivered && row["payload"].as_str().unwrap().contains("1.250000"));
    for (facts, names) in [
        (&["without id", "without occurredAt"][..], &["id", "occurredAt"][..]),
        (&["without payload", "without amount"], &["amount"]),
        (&["without payload", "without currency"], &["currency"]),
        (&["no tables.get", "without txHash"], &["txHash"]),
    ] {
        let (verdict, row) = of(facts).await;
        let Verdict::Broken { detail, .. } = verdict else { panic!("{facts:?}: {verdict:?}") };
        assert!(names.iter().all(|name| detail.contains(name)), "{facts:?}: {detail}");
        assert!(row.is_null(), "{facts:?}");
    }
    let (verdict, _) = of(&["no tables.get"]).await;
    assert_eq!(verdict, Verdict::Delivered);
}

#[tokio::test]
async fn bigquery_looks_again_at_a_table_that_changed() {
    let sandbox = Sandbox::start().await;
    let line = Line::new(&sandbox, T::Bigquery, &[], &["*"]);
    let setup = set_up(&line.client, &*line.destination).await.unwrap();
    sandbox.fact("bigquery", "without network");
    let event = settled("evt_1", "0x52");
    let verdict = line.deliver_after(&setup, &[&event]).await;
    assert_eq!(words(&verdict), "retry prerequisite_missing");
    assert_eq!(line.outcome(&event).await, "delivered");
}

#[tokio::test]
async fn hubspot_names_a_contact_once_and_keeps_two_wallets_apart() {
    let sandbox = Sandbox::start().await;
    let line = Line::new(&sandbox, T::Hubspot, &[], &["*"]);
    let wallet = "0x52908400098527886e0f7030069857d2e4169ee7";
    let checksum = "0x52908400098527886E0F7030069857D2E4169EE7";
    assert_eq!(line.outcome(&settled("evt_1", checksum)).await, "delivered");
    assert_eq!(sandbox.contact("hubspot", wallet).unwrap()["lastname"], wallet);
    sandbox.edit_contact("hubspot", wallet, "lastname", "Lovelace");
    assert_eq!(line.outcome(&settled("evt_2", wallet)).await, "delivered");
    let contact = sandbox.contact("hubspot", wallet).unwrap();
    assert_eq!(contact["lastname"], "Lovelace");
    assert_eq!(contact["dunmore_last_amount"], "1.250000");
    // Two wallets that differ by their case alone, in one request.
    let solana = "7EcDhSYGxXyscszYEp35KHN8vvw3svAuLKTzXwCFLtV";
    let other = solana.to_ascii_lowercase();
    let events = [settled("evt_3", solana), settled("evt_4", &other)];
    let verdict = line.deliver(&[&events[0], &events[1]]).await;
    assert_eq!(words(&verdict), "delivered");
    for wallet in [solana, &other] {
        assert_eq!(sandbox.contact("hubspot", wallet).unwrap()["lastname"], *wallet);
    }
}

#[tokio::test]
async fn hubspot_never_overwrites_a_name_that_it_may_not_read() {
    let sandbox = Sandbox::start().await;
    let line = Line::new(&sandbox, T::Hubspot, &[], &["*"]);
    assert_eq!(line.outcome(&settled("evt_1", "0x52")).await, "delivered");
    sandbox.edit_contact("hubspot", "0x52", "lastname", "Lovelace");
    sandbox.fact("hubspot", "no contacts.read");
    assert_eq!(line.outcome(&settled("evt_2", "0x52")).await, "delivered");
    assert_eq!(sandbox.contact("hubspot", "0x52").unwrap()["lastname"], "Lovelace");
}

#[tokio::test]
async fn hubspots_own_rules_suspend_the_connector_in_one_request() {
    let sandbox = Sandbox::start().await;
    let line = Line::new(&sandbox, T::Hubspot, &[], &["*"]);
    sandbox.fact("hubspot", "required phone");
    let events: Vec<Event> =
        (0..6).map(|n| settled(&format!("evt_{n}"), &format!("0x{n}"))).collect();
    let verdict = line.deliver(&events.iter().collect::<Vec<_>>()).await;
    let Verdict::Broken { detail, .. } = verdict else { panic!("{verdict:?}") };
    assert!(detail.contains("phone"), "{detail}");
    let sent = sandbox.requests("hubspot");
    assert_eq!(sent.iter().filter(|request| !request.is_setup).count(), 1);
}

#[tokio::test]
async fn salesforce_says_that_a_field_is_no_external_id() {
    let sandbox = Sandbox::start().await;
    sandbox.fact("salesforce", "Dunmore_Delivery_Id__c");
    let line = Line::new(&sandbox, T::Salesforce, &[], &["*"]);
    let before = set_up(&line.client, &*line.destination).await.unwrap();
    sandbox.fact("salesforce", "not external");
    let event = settled("evt_1", "0x52");
    assert_eq!(line.outcome(&event).await, "broken prerequisite_missing");
    // It was one when it was asked for.
    let verdict = line.deliver_after(&before, &[&event]).await;
    let Verdict::Broken { detail, .. } = verdict else { panic!("{verdict:?}") };
    assert!(detail.contains("External ID"), "{detail}");
    assert_eq!(line.count(), 0);
}

#[tokio::test]
async fn telegram_writes_into_its_topic_while_that_is_open() {
    let sandbox = Sandbox::start().await;
    let event = settled("evt_1", "0x52");
    let line = Line::new(&sandbox, T::Telegram, &[("threadId", "42")], &["*"]);
    assert_eq!(line.outcome(&event).await, "delivered");
    assert_eq!(line.last()["message_thread_id"], 42);
    let elsewhere = Line::new(&sandbox, T::Telegram, &[("threadId", "7")], &["*"]);
    assert_eq!(elsewhere.outcome(&event).await, "broken gone");
    sandbox.fact("telegram", "topic closed");
    assert_eq!(line.outcome(&event).await, "broken gone");
}

#[tokio::test]
async fn forty_failures_of_one_endpoint_are_one_incident_until_it_works_again() {
    for kind in [T::Pagerduty, T::Opsgenie] {
        let sandbox = Sandbox::start().await;
        let settings = [("dedup", "endpoint"), ("resolve", "settled")];
        let names = ["payment.failed", "payment.settled"];
        let resolving = Line::new(&sandbox, kind, &settings, &names);
        let plain = Line::new(&sandbox, kind, &[], &["payment.failed"]);
        for number in 0..40 {
            let event = failed(&format!("evt_{number}"), "ep_1");
            assert_eq!(plain.outcome(&event).await, "delivered", "{kind}");
            assert_eq!(resolving.outcome(&event).await, "delivered", "{kind}");
        }
        assert_eq!(resolving.outcome(&failed("evt_x", "ep_2")).await, "delivered", "{kind}");
        let open = sandbox.incidents(kind.as_str());
        assert_eq!(open.len(), 3, "{kind}: {open:?}");
        let settled = settled("evt_up", "0x52");
        assert_eq!(resolving.outcome(&settled).await, "delivered", "{kind}");
        let left = sandbox.incidents(kind.as_str());
        assert_eq!(left.len(), 2, "{kind}: {left:?}");
        assert!(left.keys().any(|key| key.contains("ep_2")), "{kind}: {left:?}");
    }
}
