//! `QuickBooks` Online: a sales receipt per day, or per payment.
//!
//! <https://developer.intuit.com/app/developer/qbo/docs/api/accounting/all-entities/salesreceipt>.
//! A receipt's line must name an item: the configured one, else the one called "Dunmore", else the
//! first service; it is looked up once. So is the company's home currency. A receipt without a
//! currency is booked in that one, and a receipt in another without a rate at the rate 1: each
//! receipt names its currency, and the rate of its day is asked for where it needs one.
//! <https://developer.intuit.com/app/developer/qbo/docs/workflows/manage-multiple-currencies>

use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::{
    NO_NOTICES,
    ACCESS_TOKEN, Category, Checks, Credential, Currency, Destination, Field, Item, Rate, Request,
    Response, SettingError, Settings, Setup, Spec, Way,
    accounting::{self, Booking, Books},
    credential::{self, Endpoint}, rotation,
    cut, is_word, judge_status,
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
        credential::CLIENT_ID_FIELD,
        credential::CLIENT_SECRET_FIELD,
        credential::REFRESH_TOKEN_FIELD,
        Field::secret(
            "accessToken",
            "An OAuth access token with the scope com.intuit.quickbooks.accounting; it lives an \
             hour, so it is for tests.",
            "eyJEXAMPLE.EXAMPLE.EXAMPLE",
        )
        .optional(),
        Field::text("realmId", "The company's id.", "9130347798120106").checked(check_realm),
        Field::text(
            "itemId",
            "The id of the product or service to book on (default: the one called Dunmore, else \
             the first active service).",
            "17",
        )
        .checked(check_item)
        .optional(),
        Field::text(
            "taxCodeId",
            "The id of the tax code of each line; companies outside the United States need one. \
             The tax is taken to be included.",
            "5",
        )
        .checked(check_tax_code)
        .optional(),
        Field::text(
            "environment",
            "Where the company is: \"production\" (default) or \"sandbox\".",
            "production",
        )
        .one_of(&["production", SANDBOX])
        .optional(),
    ],
    hidden: rotation::HIDDEN,
    ways: &[
        credential::OF_OWN_APP,
        credential::OF_OPERATORS_APP,
        Way { fields: &[ACCESS_TOKEN], what: "for tests: it ends after an hour" },
    ],
    credential: |settings| {
        let url = "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer";
        Credential::rotating(settings, Endpoint::Apart(url))
    },
    // 10 per second for one company, and 500 a minute; a receipt may need the day's rate first.
    rate: Some(Rate { per_second: 4.0, burst: 1 }),
    concurrency: 4,
    timeout: Duration::from_secs(60),
    setup_example: r#"{"item":"17","home":"USD","rate":1.0837}"#,
    dedup: "requestid",
    forgets_repeats_after: None,
    becomes: |kind| match kind {
        EventType::RevenueDailySummary => "a sales receipt for the day",
        EventType::PaymentSettled => "nothing unless named in eventTypes, then a sales receipt",
        kind if kind.is_notice() => NO_NOTICES,
        _ => "nothing",
    },
    check: accounting::check,
    make: |settings, event_types| Ok(Box::new(QuickBooks::new(settings, event_types)?)),
    ..Spec::BASE
};

const SANDBOX: &str = "sandbox";
/// The item that is looked for first.
const ITEM_NAME: &str = "Dunmore";
/// The tax codes of companies in the United States, which know no tax that is included.
const US_TAX_CODES: &[&str] = &["TAX", "NON"];
/// How long Intuit asks to wait after a 429.
const THROTTLE: Duration = Duration::from_secs(60);
/// How far a converted total may be off, as a part of it: rates have six decimals or more.
const RATE_TOLERANCE: f64 = 1e-6;

#[derive(Debug)]
struct QuickBooks {
    company: Url,
    authorization: Option<HeaderValue>,
    books: Books,
    item: Option<String>,
    tax_code: Option<String>,
}

/// What is known of the company, as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    /// The id of the item to book on.
    item: String,
    /// The company's home currency.
    home: String,
    /// Whether the company books in its home currency only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    only_home: bool,
    /// How much of the home currency a unit of the receipt's is worth on its day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

impl Known {
    fn read(text: &str) -> Result<Self, Verdict> {
        serde_json::from_str(text).map_err(|_| {
            Verdict::retry(Reason::PrerequisiteMissing, "the company has not been asked yet")
        })
    }

    fn to_setup(&self) -> Setup {
        match serde_json::to_string(self) {
            Ok(text) => Setup::Ready(text.into()),
            Err(error) => Setup::Failed(Verdict::dead(Reason::Bug, error.to_string())),
        }
    }
}

impl QuickBooks {
    fn new(settings: &Settings, event_types: &EventTypes) -> Result<Self, SettingError> {
        let realm = settings.text("realmId")?;
        let host = match settings.optional("environment") {
            Some(SANDBOX) => "sandbox-quickbooks.api.intuit.com",
            _ => "quickbooks.api.intuit.com",
        };
        let optional = |field| settings.optional(field).map(ToOwned::to_owned);
        Ok(Self {
            company: settings.endpoint(&format!("https://{host}/v3/company/{realm}"))?,
            authorization: settings.bearer()?,
            books: Books::of(event_types),
            item: optional("itemId"),
            tax_code: optional("taxCodeId"),
        })
    }

    /// The URL of one of the company's resources.
    fn resource(&self, name: &str, parameters: &[(&str, &str)]) -> Url {
        let mut url = self.company.clone();
        url.set_path(&format!("{}/{name}", self.company.path()));
        url.query_pairs_mut().append_pair("minorversion", "75").extend_pairs(parameters);
        url
    }

    fn ask(&self, name: &str, parameters: &[(&str, &str)]) -> Setup {
        let request = Request::get(self.resource(name, parameters));
        Setup::Ask(request.bearer(self.authorization.as_ref()))
    }

    fn ask_items(&self, condition: &str) -> Setup {
        let question = format!("select Id, Name from Item where Active = true and {condition}");
        self.ask("query", &[("query", &question)])
    }
}

fn check_realm(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if (9..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()) {
        Ok(())
    } else {
        Err("must be a company id of 9 to 20 digits".to_owned())
    }
}

fn check_item(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if (1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()) {
        Ok(())
    } else {
        Err("must be the id of a product or service, a number such as 17".to_owned())
    }
}

fn check_tax_code(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "", 1..=20) {
        Ok(())
    } else {
        Err("must be the id of a tax code such as 5, or TAX or NON".to_owned())
    }
}

/// The answer to a question, or why there is none.
fn answered(response: &Response) -> Result<Value, Verdict> {
    let json = response.json();
    if response.is_success() && json["Fault"].is_null() && json.is_object() {
        Ok(json)
    } else {
        Err(judge(response, &json))
    }
}

fn items(json: &Value) -> &[Value] {
    json["QueryResponse"]["Item"].as_array().map_or(&[], Vec::as_slice)
}

fn id(item: &Value) -> Option<String> {
    item["Id"].as_str().map(ToOwned::to_owned)
}

/// What the company's own settings say, once the item is known.
fn known(item: String, answer: &Response) -> Setup {
    let json = match answered(answer) {
        Ok(json) => json,
        Err(verdict) => return Setup::failed(verdict),
    };
    let preferences = &json["Preferences"]["CurrencyPrefs"];
    match preferences["HomeCurrency"]["value"].as_str() {
        Some(home) if is_word(home, "", 3..=3) => {
            let only_home = preferences["MultiCurrencyEnabled"] == false;
            Known { item, home: home.to_owned(), only_home, rate: None }.to_setup()
        }
        _ => Setup::Failed(Verdict::broken(
            Reason::PrerequisiteMissing,
            format!("the company's preferences name no home currency ({})", answer.detail()),
        )),
    }
}

impl Destination for QuickBooks {
    fn skips(&self, event: &Event) -> Option<Skip> {
        self.books.skips(event)
    }

    /// Finds the item by its name, then among the services, then the company's home currency.
    fn setup(&self, answers: &[Response]) -> Setup {
        let mut answers = answers.iter();
        let item = if let Some(item) = &self.item {
            item.clone()
        } else {
            let Some(by_name) = answers.next() else {
                return self.ask_items(&format!("Name = '{ITEM_NAME}' maxresults 1"));
            };
            let json = match answered(by_name) {
                Ok(json) => json,
                Err(verdict) => return Setup::failed(verdict),
            };
            let is_ours = |item: &&Value| {
                item["Name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(ITEM_NAME))
            };
            let mut found = items(&json).iter().find(is_ours).and_then(id);
            if found.is_none() {
                let Some(services) = answers.next() else {
                    return self.ask_items("Type = 'Service' maxresults 1");
                };
                match answered(services) {
                    Ok(json) => found = items(&json).first().and_then(id),
                    Err(verdict) => return Setup::failed(verdict),
                }
            }
            let Some(item) = found else {
                return Setup::Failed(Verdict::broken(
                    Reason::PrerequisiteMissing,
                    "the company has no active item of type Service to book on: make one, \
                         called Dunmore for example, or name one in itemId",
                ));
            };
            item
        };
        match answers.next() {
            Some(preferences) => known(item, preferences),
            None => self.ask("preferences", &[]),
        }
    }

    /// Asks for the rate of the receipt's day when it is not in the home currency.
    fn lookup(&self, batch: &[Item<'_>], answers: &[Response]) -> Option<Setup> {
        let [item] = batch else { return None };
        // `build` refuses what cannot be booked.
        let booking = Booking::of(item.event).ok()?;
        let known = Known::read(item.setup).ok()?;
        let code = booking.currency.code();
        if code == known.home {
            return None;
        }
        if known.only_home {
            return Some(Setup::Failed(Verdict::broken(
                Reason::PrerequisiteMissing,
                format!(
                    "{} {code} cannot be booked: the company books in {} only; turn its \
                     multicurrency on",
                    booking.amount, known.home
                ),
            )));
        }
        let Some(answer) = answers.first() else {
            let parameters = [("sourcecurrencycode", code), ("asofdate", &booking.date)];
            return Some(self.ask("exchangerate", &parameters));
        };
        let json = match answered(answer) {
            Ok(json) => json,
            // The question is a right one, so it is the currency that the company does not have.
            Err(Verdict::Retry { reason: Reason::PrerequisiteMissing, .. }) => Value::Null,
            Err(verdict) => return Some(Setup::failed(verdict)),
        };
        let rate = &json["ExchangeRate"];
        let is = |field: &str, code: &str| rate[field].as_str().is_none_or(|stated| stated == code);
        let is_ours = is("SourceCurrencyCode", code) && is("TargetCurrencyCode", &known.home);
        match rate["Rate"].as_f64() {
            Some(rate) if is_ours && rate.is_finite() && rate > 0.0 => {
                Some(Known { rate: Some(rate), ..known }.to_setup())
            }
            _ => Some(Setup::Failed(Verdict::broken(
                Reason::PrerequisiteMissing,
                format!(
                    "the company has no rate of {code} in {} on {}: add the currency to its list \
                     ({})",
                    known.home,
                    booking.date,
                    answer.detail()
                ),
            ))),
        }
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let booking = Booking::of(item.event)?;
        let known = Known::read(item.setup)?;
        let code = booking.currency.code();
        let mut line = json!({
            "ItemRef": {"value": known.item},
            "Qty": 1,
            "UnitPrice": booking.amount,
        });
        let mut body = json!({
            "TxnDate": booking.date,
            "PrivateNote": format!("dunmore {} {}", booking.reference, item.delivery_id),
            "CurrencyRef": {"value": code},
        });
        if code != known.home {
            let Some(rate) = known.rate else {
                let detail = format!("the rate of {code} on {} is not known", booking.date);
                return Err(Verdict::retry(Reason::PrerequisiteMissing, detail));
            };
            body["ExchangeRate"] = rate.into();
        }
        if let Some(tax_code) = &self.tax_code {
            line["TaxCodeRef"] = json!({"value": tax_code});
            // What was paid is the total, whatever of it is tax.
            if !US_TAX_CODES.contains(&&**tax_code) {
                line["TaxInclusiveAmt"] = booking.amount.into();
                body["GlobalTaxCalculation"] = "TaxInclusive".into();
            }
        }
        body["Line"] = json!([{
            "Amount": booking.amount,
            "Description": booking.line,
            "DetailType": "SalesItemLineDetail",
            "SalesItemLineDetail": line,
        }]);
        let id = item.delivery_id.to_string();
        Ok(Request::post_value(self.resource("salesreceipt", &[("requestid", &id)]), &body)
            .accept_json()
            .bearer(self.authorization.as_ref()))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        let json = response.json();
        let receipt = &json["SalesReceipt"];
        if !response.is_success() || !json["Fault"].is_null() || receipt["Id"].is_null() {
            return self.judge_fault(response, &json);
        }
        let Ok(booking) = Booking::of(item.event) else { return Verdict::Delivered };
        match differences(&booking, Known::read(item.setup).ok().as_ref(), receipt) {
            wrong if wrong.is_empty() => Verdict::Delivered,
            wrong => {
                let receipt = cut(&receipt["Id"].to_string(), 64);
                let detail = format!(
                    "receipt {receipt} was made with {}: correct it by hand",
                    wrong.join(" and ")
                );
                Verdict::dead(Reason::UnexpectedResponse, detail)
            }
        }
    }
}

/// What a receipt says of itself that is not what was booked.
fn differences(booking: &Booking, known: Option<&Known>, receipt: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let total = &receipt["TotalAmt"];
    if total.as_f64().is_some_and(|total| (total - booking.amount).abs() > 0.005) {
        wrong.push(format!("a total of {total} instead of {}", booking.amount));
    }
    let code = booking.currency.code();
    if let Some(stated) = receipt["CurrencyRef"]["value"].as_str()
        && stated != code
    {
        wrong.push(format!("the currency {} instead of {code}", cut(stated, 16)));
    }
    let Some(known) = known else { return wrong };
    let rate = if code == known.home { Some(1.0) } else { known.rate };
    // The total is rounded in the home currency.
    let decimals = Currency::of(&known.home).map_or(2, Currency::book_decimals);
    if let Some(rate) = rate
        && let Some(stated) = receipt["HomeTotalAmt"].as_f64()
    {
        let expected = booking.amount * rate;
        let step = 0.1_f64.powi(i32::from(decimals));
        if (stated - expected).abs() > step + expected * RATE_TOLERANCE {
            wrong.push(format!("{stated} {} instead of {expected:.2}", known.home));
        }
    }
    wrong
}

impl QuickBooks {
    /// An answer without a receipt, and which of the settings is to blame.
    fn judge_fault(&self, response: &Response, json: &Value) -> Verdict {
        let fault = Fault::of(json);
        let detail = response.detail();
        let element = fault.element.to_ascii_lowercase();
        let broken =
            |hint: &str| Verdict::broken(Reason::PrerequisiteMissing, format!("{hint} ({detail})"));
        match &*fault.code {
            "2500" | "610" if element.contains("currency") => {
                broken("the company does not have the receipt's currency: add it to its list")
            }
            "2500" | "610" if element.contains("taxcode") => {
                broken("the company does not have the tax code of taxCodeId")
            }
            "2500" | "610" if self.item.is_some() => {
                broken("the company does not have the item of itemId")
            }
            "6000" if self.tax_code.is_none() => {
                broken("the company's own rules refuse the receipt; perhaps it needs taxCodeId")
            }
            "6000" => broken("the company's own rules refuse the receipt"),
            _ => judge(response, json),
        }
    }
}

/// The first error of an answer.
struct Fault {
    code: String,
    /// Which part of the request is wrong: in a field of its own, or in the words.
    element: String,
}

impl Fault {
    fn of(json: &Value) -> Self {
        let fault = if json["Fault"].is_null() { &json["fault"] } else { &json["Fault"] };
        let error = fault["Error"].get(0).or(fault["error"].get(0)).unwrap_or(&Value::Null);
        let text = |name: &str| error[name].as_str().unwrap_or_default();
        let element = match text("element") {
            "" if text("Detail").is_empty() => text("detail"),
            "" => text("Detail"),
            element => element,
        };
        Self { code: text("code").trim_start_matches('0').to_owned(), element: element.to_owned() }
    }
}

/// An answer that is no success: a fault, which may come with status 200, or a status.
fn judge(response: &Response, json: &Value) -> Verdict {
    let detail = response.detail();
    match (response.status, &*Fault::of(json).code) {
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
