//! What the services that add up money would add up is what was paid, or they get no figure and
//! the reason says so. Each request is read as its receiver reads it, defaults included.

use std::str::FromStr;

use bigdecimal::{BigDecimal, Signed, ToPrimitive};
use dunmore_connectors::{
    delivery::Verdict,
    destination::{ConnectorType as T, Destination, Item, Setup},
    event::{Event, EventType, EventTypes},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    events::{event, item},
    kit::{make, make_with, response},
};

/// What people pay with, the currency that it stands for, and the decimals of the books.
const ASSETS: &[(&str, Option<(&str, u32)>)] = &[
    ("USDC", Some(("USD", 2))),
    ("usdc", Some(("USD", 2))),
    ("USDC.e", Some(("USD", 2))),
    ("USDbC", Some(("USD", 2))),
    ("USDT", Some(("USD", 2))),
    ("PYUSD", Some(("USD", 2))),
    ("DAI", Some(("USD", 2))),
    ("USD", Some(("USD", 2))),
    ("usd", Some(("USD", 2))),
    ("EURC", Some(("EUR", 2))),
    ("EUR", Some(("EUR", 2))),
    ("GBP", Some(("GBP", 2))),
    ("JPY", Some(("JPY", 0))),
    ("KRW", Some(("KRW", 0))),
    ("KWD", Some(("KWD", 2))),
    ("ETH", None),
    ("WETH", None),
    ("BTC", None),
    ("cbBTC", None),
    ("SOL", None),
    ("POL", None),
    ("XRP", None),
    ("TON", None),
    ("BNB", None),
    ("DEGEN", None),
    ("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", None),
];

#[derive(Clone, Debug)]
struct Paid {
    asset: String,
    money: Option<(&'static str, u32)>,
    amount: String,
}

impl Paid {
    fn value(&self) -> BigDecimal {
        BigDecimal::from_str(&self.amount).unwrap()
    }

    /// Half of the smallest step that the books know.
    fn half_a_step(decimals: u32) -> BigDecimal {
        BigDecimal::new(5.into(), i64::from(decimals) + 1)
    }

    fn settled(&self) -> Event {
        let data = json!({"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52",
            "amount":self.amount,"currency":self.asset,"network":"base","txHash":"0xab"});
        event("evt_1", "payment.settled", &data)
    }

    fn day(&self) -> Event {
        let data = json!({"date":"2026-11-19","revenue":self.amount,"currency":self.asset,
            "paymentCount":3,"customerCount":2,"failedCount":0});
        event("evt_2", "revenue.daily_summary", &data)
    }

    fn milestone(&self) -> Event {
        let data = json!({"customerId":"0x52","milestone":"100","totalSpent":self.amount,
            "currency":self.asset});
        event("evt_3", "customer.milestone", &data)
    }
}

fn paid() -> impl Strategy<Value = Paid> {
    let known =
        proptest::sample::select(ASSETS).prop_map(|(asset, money)| (asset.to_owned(), money));
    // No currency has four letters or more, and no stablecoin begins like this.
    let unknown = "[W-Zw-z][A-Za-z.]{3,9}".prop_map(|asset| (asset, None));
    let amount = prop_oneof![
        4 => "(0|[1-9][0-9]{0,10})(\\.[0-9]{1,8})?",
        1 => "0\\.0[0-9]{1,8}",
        1 => "0(\\.0{1,6})?",
        1 => "[1-9][0-9]{12,30}",
        1 => "-[1-9]\\.[0-9]{1,4}",
    ];
    (prop_oneof![4 => known, 1 => unknown], amount).prop_map(|((asset, money), amount)| Paid {
        asset,
        money,
        amount,
    })
}

/// How a document came out: what its receiver books, or why there is none.
enum Booked {
    /// A currency, an amount in it, and how much of the home currency one is taken to be worth.
    Document {
        currency: String,
        total: BigDecimal,
        rate: f64,
    },
    Skipped(&'static str),
    Refused(String),
}

const RATE: f64 = 1.0837;

/// The figure as its receiver reads it: the shortest decimal of a double is what stood in the text.
fn figure(value: &Value) -> BigDecimal {
    BigDecimal::from_str(&value.as_f64().unwrap().to_string()).unwrap()
}

fn booked(destination: &dyn Destination, kind: T, event: &Event, home: &str) -> Booked {
    if let Some(why) = destination.skips(event) {
        return Booked::Skipped(why);
    }
    let setup = json!({"item": "17", "home": home}).to_string();
    let plain = item(event, &setup);
    let found = match destination.lookup(&[plain], &[]) {
        None => setup.clone(),
        Some(Setup::Ask(question)) => {
            let question = question.url;
            let source = question.query_pairs().find(|(name, _)| name == "sourcecurrencycode");
            let answer = json!({"ExchangeRate": {"Rate": RATE, "TargetCurrencyCode": home,
                "SourceCurrencyCode": source.unwrap().1}});
            let answer = response(200, &[], answer.to_string());
            match destination.lookup(&[plain], &[answer]) {
                Some(Setup::Ready(text)) => text.to_string(),
                other => panic!("{other:?}"),
            }
        }
        Some(other) => panic!("{other:?}"),
    };
    let request = match destination.build(&Item { setup: &found, ..plain }) {
        Ok(request) => request,
        Err(Verdict::Dead { detail, .. }) => return Booked::Refused(detail),
        Err(other) => panic!("{other:?}"),
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    if kind == T::Quickbooks {
        // What is left out is the home currency, and a rate of one.
        let currency = text(&body["CurrencyRef"]["value"]).unwrap_or_else(|| home.to_owned());
        let rate = body["ExchangeRate"].as_f64().unwrap_or(1.0);
        Booked::Document { currency, total: figure(&body["Line"][0]["Amount"]), rate }
    } else {
        let invoice = &body["Invoices"][0];
        assert!(invoice["CurrencyRate"].is_null());
        let currency = text(&invoice["CurrencyCode"]).unwrap_or_else(|| home.to_owned());
        // Xero takes the day's rate by itself.
        let rate = if currency == home { 1.0 } else { RATE };
        let total = figure(&invoice["LineItems"][0]["UnitAmount"]);
        Booked::Document { currency, total, rate }
    }
}

fn check_books(paid: &Paid, kind: T, home: &str) {
    for (event, by) in [
        (paid.settled(), EventTypes::Some(vec![EventType::PaymentSettled])),
        (paid.day(), EventTypes::All),
    ] {
        let destination = make(kind.spec(), &by);
        let value = paid.value();
        match (booked(&*destination, kind, &event, home), paid.money) {
            (Booked::Document { currency, total, rate }, Some((code, decimals))) => {
                assert_eq!(currency, code, "{kind} {paid:?}");
                let off = (&total - &value).abs();
                assert!(off <= Paid::half_a_step(decimals), "{kind} {paid:?}: {total}");
                let expected = if code == home { 1.0 } else { RATE };
                assert!((rate - expected).abs() < 1e-12, "{kind} {paid:?}: rate {rate}");
            }
            (Booked::Document { total, .. }, None) => panic!("{kind} {paid:?}: booked {total}"),
            (Booked::Skipped(why), money) => {
                let nothing = !value.is_positive() && !value.is_negative();
                let dust =
                    money.is_some_and(|(_, decimals)| value.abs() <= Paid::half_a_step(decimals));
                assert!(nothing || dust, "{kind} {paid:?}: skipped, {why}");
                assert_eq!(nothing, why == "the amount is zero", "{kind} {paid:?}: {why}");
            }
            (Booked::Refused(why), money) => {
                let is_odd = value.is_negative()
                    || value.to_f64().is_some_and(|value| value > 99_999_999_999.0);
                assert!(money.is_none() || is_odd, "{kind} {paid:?}: {why}");
                assert!(why.contains("book it by hand"), "{kind} {paid:?}: {why}");
                assert!(money.is_some() || why.contains("has no price"), "{kind} {paid:?}: {why}");
            }
        }
    }
}

fn body(kind: T, event: &Event) -> Value {
    let request = make(kind.spec(), &EventTypes::All).build(&item(event, "")).unwrap();
    serde_json::from_slice(&request.body).unwrap()
}

fn is_close(figure: &Value, paid: &Paid) -> bool {
    let wanted = paid.value().to_f64().unwrap();
    figure.as_f64().is_some_and(|figure| (figure - wanted).abs() <= wanted.abs() * 1e-12)
}

fn check_analytics(paid: &Paid) {
    let settled = paid.settled();
    let code = paid.money.map(|(code, _)| code);
    let check = |kind: T, revenue: &Value, currency: &Value, amount: &Value, asset: &Value| {
        assert_eq!(currency.as_str(), code, "{kind} {paid:?}");
        assert_eq!(!revenue.is_null(), code.is_some(), "{kind} {paid:?}: {revenue}");
        assert!(revenue.is_null() || is_close(revenue, paid), "{kind} {paid:?}: {revenue}");
        assert!(is_close(amount, paid), "{kind} {paid:?}: {amount}");
        assert_eq!(*asset, *paid.asset, "{kind} {paid:?}");
    };
    let segment = body(T::Segment, &settled);
    let fields = &segment["batch"][0]["properties"];
    check(T::Segment, &fields["revenue"], &fields["currency"], &fields["amount"], &fields["asset"]);
    let amplitude = body(T::Amplitude, &settled);
    let (entry, fields) = (&amplitude["events"][0], &amplitude["events"][0]["event_properties"]);
    check(
        T::Amplitude,
        &entry["revenue"],
        &entry["currency"],
        &fields["amount"],
        &fields["currency"],
    );
    let ga4 = body(T::Ga4, &settled);
    let fields = &ga4["events"][0]["params"];
    check(T::Ga4, &fields["value"], &fields["currency"], &fields["amount"], &fields["asset"]);
    assert_eq!(fields["items"][0]["price"], fields["value"], "{paid:?}");
    let mixpanel = body(T::Mixpanel, &settled);
    let fields = &mixpanel[0]["properties"];
    assert!(is_close(&fields["amount"], paid) && fields["currency"] == *paid.asset, "{paid:?}");
    // A day's revenue is no revenue of its own, or it would count twice.
    let day = paid.day();
    assert!(body(T::Segment, &day)["batch"][0]["properties"]["revenue"].is_null());
    assert!(body(T::Amplitude, &day)["events"][0]["revenue"].is_null());
    assert!(body(T::Ga4, &day)["events"][0]["params"]["value"].is_null());
}

fn check_records(paid: &Paid, other: &Paid) {
    let row = &body(T::Bigquery, &paid.settled())["rows"][0]["json"];
    assert_eq!((&row["amount"], &row["currency"]), (&json!(paid.amount), &json!(paid.asset)));
    let row = &body(T::Bigquery, &paid.day())["rows"][0]["json"];
    assert_eq!((&row["revenue"], &row["currency"]), (&json!(paid.amount), &json!(paid.asset)));
    // One contact gets both, and neither's currency becomes the other's.
    let (settled, milestone) = (paid.settled(), other.milestone());
    for events in [[&settled, &milestone], [&milestone, &settled]] {
        let items = events.map(|event| item(event, ""));
        let destination = make(T::Hubspot.spec(), &EventTypes::All);
        let request = destination.batching().unwrap().build(&items).unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let contact = &body["inputs"][0]["properties"];
        let pair =
            |amount: &str, currency: &str| (contact[amount].clone(), contact[currency].clone());
        assert_eq!(
            pair("dunmore_last_amount", "dunmore_last_currency"),
            (json!(paid.amount), json!(paid.asset))
        );
        assert_eq!(
            pair("dunmore_total_spent", "dunmore_total_currency"),
            (json!(other.amount), json!(other.asset))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_added_up_is_what_was_paid(
        paid in paid(),
        other in paid(),
        home in proptest::sample::select(vec!["USD", "EUR", "JPY", "GBP"]),
    ) {
        for kind in [T::Quickbooks, T::Xero] {
            check_books(&paid, kind, home);
        }
        check_analytics(&paid);
        check_records(&paid, &other);
    }
}

#[test]
fn an_asset_without_a_price_is_a_dead_letter_that_says_what_to_do() {
    for kind in [T::Quickbooks, T::Xero] {
        for (amount, asset, shown) in [
            ("12.5", "ETH", "12.5 ETH has no price"),
            ("0.0049", "BTC", "0.0049 BTC has no price"),
            ("1234567.890", "POL", "1,234,567.89 POL has no price"),
        ] {
            let paid = Paid { asset: asset.to_owned(), money: None, amount: amount.to_owned() };
            let destination = make(kind.spec(), &EventTypes::All);
            match booked(&*destination, kind, &paid.day(), "USD") {
                Booked::Refused(why) => assert!(why.starts_with(shown), "{kind}: {why}"),
                _ => panic!("{kind} {asset} is not refused"),
            }
        }
    }
}

#[test]
fn what_cannot_be_booked_does_not_hold_up_its_batch() {
    let destination = make(T::Xero.spec(), &EventTypes::All);
    let batching = destination.batching().unwrap();
    let paid = |asset: &str| Paid { asset: asset.to_owned(), money: None, amount: "5".to_owned() };
    let (dollars, ether) = (paid("USDC").day(), paid("ETH").day());
    let (dollars, ether) = (item(&dollars, ""), item(&ether, ""));
    assert!(batching.takes(&[dollars], &dollars));
    assert!(!batching.takes(&[dollars], &ether));
    assert!(!batching.takes(&[ether], &dollars));
}

#[test]
fn the_settings_of_the_books_are_used() {
    let day = Paid { asset: "EURC".to_owned(), money: None, amount: "1250.5".to_owned() }.day();
    let body = |kind: T, settings: &[(&str, &str)]| {
        let setup = r#"{"item":"17","home":"EUR"}"#;
        let destination = make_with(kind, settings, &EventTypes::All);
        let request = destination.build(&item(&day, setup)).unwrap();
        (request.url.to_string(), serde_json::from_slice::<Value>(&request.body).unwrap())
    };
    let (url, plain) = body(T::Quickbooks, &[]);
    assert!(url.starts_with("https://quickbooks.api.intuit.com/"), "{url}");
    let line = "/Line/0/SalesItemLineDetail";
    assert!(plain.pointer(&format!("{line}/TaxCodeRef")).is_none());
    assert!(plain["GlobalTaxCalculation"].is_null());
    assert_eq!(plain["CurrencyRef"]["value"], "EUR");
    let (url, taxed) =
        body(T::Quickbooks, &[("taxCodeId", "5"), ("environment", "sandbox"), ("itemId", "21")]);
    assert!(url.starts_with("https://sandbox-quickbooks.api.intuit.com/"), "{url}");
    assert_eq!(taxed.pointer(&format!("{line}/TaxCodeRef/value")), Some(&json!("5")));
    assert_eq!(taxed["GlobalTaxCalculation"], "TaxInclusive");
    // The United States know no tax that is included.
    let (_, taxed) = body(T::Quickbooks, &[("taxCodeId", "NON")]);
    assert_eq!(taxed.pointer(&format!("{line}/TaxCodeRef/value")), Some(&json!("NON")));
    assert!(taxed["GlobalTaxCalculation"].is_null());

    let (_, plain) = body(T::Xero, &[]);
    let invoice = &plain["Invoices"][0];
    assert_eq!(
        (&invoice["CurrencyCode"], &invoice["LineAmountTypes"]),
        (&json!("EUR"), &json!("NoTax"))
    );
    assert_eq!(invoice["Contact"]["Name"], "Dunmore API customers");
    assert!(invoice["LineItems"][0]["AccountCode"].is_null());
    let settings = [("accountCode", "200"), ("taxType", "OUTPUT2"), ("contactName", "API & Co")];
    let (_, set) = body(T::Xero, &settings);
    let invoice = &set["Invoices"][0];
    assert_eq!(invoice["LineItems"][0]["AccountCode"], "200");
    assert_eq!(invoice["LineItems"][0]["TaxType"], "OUTPUT2");
    assert_eq!(invoice["LineAmountTypes"], "Inclusive");
    assert_eq!(invoice["Contact"]["Name"], "API & Co");
}

#[test]
fn a_wallet_is_one_customer_however_it_is_written() {
    let pay = |customer: &str| {
        let data = json!({"paymentId":"pay_1","endpointId":"ep_1","customerId":customer,
            "amount":"1","currency":"USDC","network":"base","txHash":"0xab"});
        event("evt_1", "payment.settled", &data)
    };
    let customer_of = |kind: T, customer: &str| {
        let body = body(kind, &pay(customer));
        let place = match kind {
            T::Segment => "/batch/0/userId",
            T::Mixpanel => "/0/properties/distinct_id",
            T::Amplitude => "/events/0/user_id",
            T::Ga4 => "/client_id",
            T::Bigquery => "/rows/0/json/customerId",
            _ => "/inputs/0/id",
        };
        body.pointer(place).unwrap().as_str().unwrap().to_owned()
    };
    let checksum = "0x52908400098527886E0F7030069857D2E4169EE7";
    let solana = "7EcDhSYGxXyscszYEp35KHN8vvw3svAuLKTzXwCFLtV";
    for kind in [T::Segment, T::Mixpanel, T::Amplitude, T::Ga4, T::Bigquery, T::Hubspot] {
        assert_eq!(
            customer_of(kind, checksum),
            customer_of(kind, &checksum.to_ascii_lowercase()),
            "{kind}"
        );
        assert_ne!(
            customer_of(kind, solana),
            customer_of(kind, &solana.to_ascii_lowercase()),
            "{kind}"
        );
        let text = body(kind, &pay(checksum)).to_string();
        let payload = kind == T::Bigquery;
        assert_eq!(text.contains(checksum), payload, "{kind}: {text}");
    }
}

#[test]
fn a_contact_is_named_when_it_is_made_and_never_again() {
    let settled = Paid { asset: "USDC".to_owned(), money: None, amount: "1".to_owned() }.settled();
    let destination = make(T::Hubspot.spec(), &EventTypes::All);
    let name = |setup: &str| {
        let request = destination.build(&item(&settled, setup)).unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        body["inputs"][0]["properties"]["lastname"].clone()
    };
    assert_eq!(name("[]"), "0x52");
    assert_eq!(name(r#"["0x53"]"#), "0x52");
    assert_eq!(name(r#"["0x53","0x52"]"#), Value::Null);
    assert_eq!(name("unreadable"), Value::Null);
}
