//! `QuickBooks` Online: a sales receipt per day, or per payment.
//!
//! <https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/salesreceipt>.
//! A receipt's line must name an item. It is looked up once: the service called "Dunmore" if there
//! is one, else the first service.

use std::time::Duration;

use http::{HeaderValue, header::AUTHORIZATION};
use serde_json::{Value, json};
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Rate, Request, Response, SettingError, Settings,
    Setup, Spec,
    accounting::{self, Booking, Books},
    cut, iso_currency, judge_status,
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType, EventTypes},
};

pub const SPEC: Spec = Spec {
    title: "QuickBooks Online",
    category: Category::Accounting,
    docs: "https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/salesreceipt",
    fields: &[
        Field::secret(
            "accessToken",
            "An OAuth access token with the accounting scope; it lives an hour.",
            "eyJEXAMPLE.EXAMPLE.EXAMPLE",
        ),
        Field::text("realmId", "The company's id.", "9130347798120106").checked(check_realm),
    ],
    // 10 per second for one company, and 500 a minute.
    rate: Some(Rate { per_second: 8.0, burst: 8 }),
    concurrency: 4,
    timeout: Duration::from_secs(60),
    setup_example: "17",
    dedup: "requestid",
    forgets_repeats_after: None,
    becomes: |kind| match kind {
        EventType::RevenueDailySummary => "a sales receipt for the day",
        EventType::PaymentSettled => "nothing unless named in eventTypes, then a sales receipt",
        _ => "nothing",
    },
    check: accounting::check,
    make: |settings, event_types| Ok(Box::new(QuickBooks::new(settings, event_types)?)),
    ..Spec::BASE
};

/// How long Intuit asks to wait after a 429.
const THROTTLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct QuickBooks {
    receipts: Url,
    query: Url,
    authorization: HeaderValue,
    books: Books,
}

impl QuickBooks {
    fn new(settings: &Settings, event_types: &EventTypes) -> Result<Self, SettingError> {
        let realm = settings.text("realmId")?;
        let company = format!("https://quickbooks.api.intuit.com/v3/company/{realm}");
        let mut query = settings.endpoint(&format!("{company}/query?minorversion=75"))?;
        let question = "select Id, Name from Item where Active = true and Type = 'Service' \
                        maxresults 100";
        query.query_pairs_mut().append_pair("query", question);
        Ok(Self {
            receipts: settings.endpoint(&format!("{company}/salesreceipt?minorversion=75"))?,
            query,
            authorization: settings
                .secret_header("accessToken", |token| format!("Bearer {token}"))?,
            books: Books::of(event_types),
        })
    }
}

fn check_realm(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if (9..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()) {
        Ok(())
    } else {
        Err("must be a company id of 9 to 20 digits".to_owned())
    }
}

impl Destination for QuickBooks {
    fn skips(&self, event: &Event) -> Option<Skip> {
        self.books.skips(event)
    }

    fn setup(&self, answers: &[Response]) -> Setup {
        let Some(answer) = answers.first() else {
            let request = Request::get(self.query.clone());
            return Setup::Ask(request.secret_header(AUTHORIZATION, self.authorization.clone()));
        };
        let json = answer.json();
        if !answer.is_success() || !json["Fault"].is_null() || !json.is_object() {
            return Setup::failed(judge(answer, &json));
        }
        let items = json["QueryResponse"]["Item"].as_array().map_or(&[][..], Vec::as_slice);
        let is_ours = |item: &&Value| {
            item["Name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("dunmore"))
        };
        let item = items.iter().find(is_ours).or(items.first());
        match item.and_then(|item| item["Id"].as_str()) {
            Some(id) => Setup::Ready(id.into()),
            None => Setup::Failed(Verdict::broken(
                Reason::PrerequisiteMissing,
                "the company has no active item of type Service to book on: make one, called \
                 Dunmore for example",
            )),
        }
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let booking = Booking::of(item.event)?;
        let mut url = self.receipts.clone();
        url.query_pairs_mut().append_pair("requestid", &item.delivery_id.to_string());
        let mut body = json!({
            "TxnDate": booking.date,
            "PrivateNote": format!("dunmore {} {}", booking.reference, item.delivery_id),
            "Line": [{
                "Amount": booking.amount,
                "Description": booking.line,
                "DetailType": "SalesItemLineDetail",
                "SalesItemLineDetail": {
                    "ItemRef": {"value": item.setup},
                    "Qty": 1,
                    "UnitPrice": booking.amount,
                },
            }],
        });
        // A company with another currency must refuse this, not book it as its own.
        if let Some(currency) = iso_currency(booking.currency) {
            body["CurrencyRef"] = json!({"value": currency});
        }
        Ok(Request::post_value(url, &body)
            .accept_json()
            .secret_header(AUTHORIZATION, self.authorization.clone()))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        let json = response.json();
        let receipt = &json["SalesReceipt"];
        if !response.is_success() || !json["Fault"].is_null() || receipt["Id"].is_null() {
            return judge(response, &json);
        }
        let booked = receipt["TotalAmt"].as_f64();
        match Booking::of(item.event) {
            Ok(booking) if booked.is_some_and(|booked| (booked - booking.amount).abs() > 0.005) => {
                let detail = format!(
                    "receipt {} was made with a total of {} instead of {}: correct it by hand",
                    cut(&receipt["Id"].to_string(), 64),
                    receipt["TotalAmt"],
                    booking.amount
                );
                Verdict::dead(Reason::UnexpectedResponse, detail)
            }
            _ => Verdict::Delivered,
        }
    }
}

/// An answer without a receipt: a fault, which may come with status 200, or a status.
fn judge(response: &Response, json: &Value) -> Verdict {
    let fault = if json["Fault"].is_null() { &json["fault"] } else { &json["Fault"] };
    let error = fault["Error"].get(0).or(fault["error"].get(0)).unwrap_or(&Value::Null);
    let code = error["code"].as_str().unwrap_or_default().trim_start_matches('0').to_owned();
    let detail = response.detail();
    match (response.status, code.as_str()) {
        (401, _) | (_, "3200" | "100") => Verdict::broken(Reason::Unauthorized, detail),
        (_, "120" | "6190") => Verdict::broken(Reason::Forbidden, detail),
        (429, _) | (_, "3001") => {
            let after = response.retry_after().unwrap_or(THROTTLE);
            Verdict::retry_after(Reason::RateLimited, detail, after)
        }
        // The item is gone or inactive: it is looked up again.
        (_, "2500" | "610") => Verdict::retry(Reason::PrerequisiteMissing, detail),
        (200..=299, "") => Verdict::retry(Reason::UnexpectedResponse, detail),
        (200..=299, _) => Verdict::dead(Reason::Rejected, detail),
        _ => judge_status(response),
    }
}
