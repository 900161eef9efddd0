//! Xero: a draft sales invoice per day, or per payment; the bookkeeper approves it.
//!
//! <https://developer.xero.com/documentation/api/accounting/invoices>. With PUT, an invoice number
//! that exists already is refused, so a repeat is never booked twice.

use std::{slice, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{
    NO_NOTICES,
    ACCESS_TOKEN, REFRESH_TOKEN, rotation, BatchLimits, Batching, Category, Checks, Credential, Destination, Field, Item, Rate, Request, Response,
    SettingError, Settings, Spec,
    accounting::{self, Booking, Books},
    Way, credential::{self, ClientIn, Endpoint}, cut, is_word, judge_alone, judge_status, judge_together,
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType, EventTypes},
};

pub const SPEC: Spec = Spec {
    title: "Xero",
    category: Category::Accounting,
    docs: "https://developer.xero.com/documentation/api/accounting/invoices",
    fields: &[
        credential::CLIENT_ID_FIELD,
        credential::CLIENT_SECRET_FIELD,
        credential::REFRESH_TOKEN_FIELD,
        Field::secret(
            "accessToken",
            "An OAuth access token with the scope accounting.transactions or \
             accounting.invoices; it lives 30 minutes, so it is for tests.",
            "eyJEXAMPLE.EXAMPLE.EXAMPLE",
        )
        .optional(),
        Field::text(
            "tenantId",
            "The organisation's tenant id.",
            "00000000-1111-2222-3333-444444444444",
        )
        .checked(check_tenant),
        Field::text("accountCode", "The code of the income account of each line.", "200")
            .checked(check_account)
            .optional(),
        Field::text(
            "taxType",
            "The tax type of each line (default: no tax). The tax is taken to be included.",
            "OUTPUT2",
        )
        .checked(check_tax_type)
        .optional(),
        Field::text(
            "contactName",
            "The contact that invoices are made out to (default: Dunmore API customers).",
            "API customers",
        )
        .checked(check_contact)
        .optional(),
    ],
    hidden: rotation::HIDDEN,
    ways: &[
        credential::OF_OWN_APP,
        credential::OF_OPERATORS_APP,
        Way {
            fields: &["clientId", "clientSecret"],
            what: "for production: a custom connection, of one organisation",
        },
        Way { fields: &[ACCESS_TOKEN], what: "for tests: it ends after 30 minutes" },
    ],
    // No scope is named: the token has those that the connection was given.
    credential: |settings| {
        let endpoint = Endpoint::Apart("https://identity.xero.com/connect/token");
        if settings.has(REFRESH_TOKEN) {
            Credential::rotating(settings, endpoint)
        } else {
            Credential::client_credentials(settings, endpoint, ClientIn::Header)
        }
    },
    // 60 requests a minute and 5 at once for one organisation.
    rate: Some(Rate { per_second: 0.9, burst: 5 }),
    concurrency: 4,
    timeout: Duration::from_secs(60),
    dedup: "InvoiceNumber is unique; Idempotency-Key for minutes",
    forgets_repeats_after: None,
    becomes: |kind| match kind {
        EventType::RevenueDailySummary => "a draft invoice for the day",
        EventType::PaymentSettled => "nothing unless named in eventTypes, then a draft invoice",
        kind if kind.is_notice() => NO_NOTICES,
        _ => "nothing",
    },
    check: accounting::check,
    make: |settings, event_types| Ok(Box::new(Xero::new(settings, event_types)?)),
    ..Spec::BASE
};

const TENANT: HeaderName = HeaderName::from_static("xero-tenant-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A day's limit can mean hours, and its Retry-After is not always there.
const DAY_WAIT: Duration = Duration::from_secs(3600);

const CONTACT: &str = "Dunmore API customers";
/// The beginnings of what Xero says when it is the connector that is wrong, or the organisation
/// that lacks something, in lower case.
const CONFIGURATION: &[&str] = &[
    "organisation is not subscribed to currency",
    "account code",
    "account is not",
    "accountcode",
    "taxtype",
    "tax type",
    "the taxtype",
    "the tax type",
    "contact name",
    "a contact must be specified",
    "the contact",
];

#[derive(Debug)]
struct Xero {
    url: Url,
    authorization: Option<HeaderValue>,
    tenant: String,
    books: Books,
    account: Option<String>,
    tax_type: Option<String>,
    contact: String,
}

impl Xero {
    fn new(settings: &Settings, event_types: &EventTypes) -> Result<Self, SettingError> {
        let url = "https://api.xero.com/api.xro/2.0/Invoices?summarizeErrors=false&unitdp=4";
        Ok(Self {
            url: settings.endpoint(url)?,
            authorization: settings.bearer()?,
            tenant: settings.text("tenantId")?.to_owned(),
            books: Books::of(event_types),
            account: settings.optional("accountCode").map(ToOwned::to_owned),
            tax_type: settings.optional("taxType").map(ToOwned::to_owned),
            contact: settings.optional("contactName").unwrap_or(CONTACT).to_owned(),
        })
    }

    /// The currency is always named: without it, Xero takes the amount for its own. A rate is
    /// never: Xero takes the day's, which is what it advises.
    /// <https://developer.xero.com/documentation/guides/how-to-guides/multicurrency-best-practice>
    fn invoice(&self, item: &Item<'_>) -> Result<Value, Verdict> {
        let booking = Booking::of(item.event)?;
        let mut line = json!({
            "Description": booking.line,
            "Quantity": 1,
            "UnitAmount": booking.amount,
        });
        if let Some(account) = &self.account {
            line["AccountCode"] = account.as_str().into();
        }
        if let Some(tax_type) = &self.tax_type {
            line["TaxType"] = tax_type.as_str().into();
        }
        Ok(json!({
            "Type": "ACCREC",
            "Status": "DRAFT",
            "InvoiceNumber": number(item),
            "Reference": cut(&booking.reference, 255),
            "Contact": {"Name": self.contact},
            "Date": booking.date,
            "CurrencyCode": booking.currency.code(),
            // What was paid is the total, whatever of it is tax.
            "LineAmountTypes": if self.tax_type.is_some() { "Inclusive" } else { "NoTax" },
            "LineItems": [line],
        }))
    }
}

fn check_account(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let good = (1..=10).contains(&value.chars().count())
        && value.trim() == value
        && !value.chars().any(char::is_control);
    if good { Ok(()) } else { Err("must be the code of an account, 1 to 10 characters".to_owned()) }
}

fn check_tax_type(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "_", 1..=50) {
        Ok(())
    } else {
        Err("must be a tax type such as OUTPUT2 or NONE".to_owned())
    }
}

fn check_contact(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let good = (1..=255).contains(&value.chars().count())
        && value.trim() == value
        && !value.chars().any(|c| c.is_control() || "<>".contains(c));
    if good { Ok(()) } else { Err("must be a name of 1 to 255 characters on one line".to_owned()) }
}

fn check_tenant(value: &str, _: &Checks<'_>) -> Result<(), String> {
    match Uuid::try_parse(value) {
        Ok(_) if value.len() == 36 => Ok(()),
        _ => Err("must be a UUID".to_owned()),
    }
}

fn number(item: &Item<'_>) -> String {
    format!("DUNMORE-{}", item.delivery_id)
}

/// A key for the request: the delivery's id, or for several what their ids make together.
fn idempotency_key(items: &[Item<'_>]) -> String {
    let ids = items.iter().map(|item| item.delivery_id.uuid());
    let key = ids.reduce(|key, id| Uuid::new_v5(&key, id.as_bytes()));
    key.unwrap_or_default().to_string()
}

impl Destination for Xero {
    fn skips(&self, event: &Event) -> Option<Skip> {
        self.books.skips(event)
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Batching::build(self, slice::from_ref(item))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        judge_alone(self, item, response)
    }

    fn batching(&self) -> Option<&dyn Batching> {
        Some(self)
    }
}

impl Batching for Xero {
    fn limits(&self) -> BatchLimits {
        // 50 are advised; their answers would be longer than what is kept of an answer.
        BatchLimits { items: 20, bytes: 3_500_000 }
    }

    /// What cannot be booked makes up a request of its own.
    fn takes(&self, batch: &[Item<'_>], next: &Item<'_>) -> bool {
        batch.iter().chain([next]).all(|item| Booking::of(item.event).is_ok())
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let invoices: Vec<Value> = items.iter().map(|item| self.invoice(item)).collect::<Result<_, _>>()?;
        let mut request = Request::post_value(self.url.clone(), &json!({"Invoices": invoices}))
            .accept_json()
            .bearer(self.authorization.as_ref())
            .header(TENANT, &self.tenant)
            .header(IDEMPOTENCY_KEY, idempotency_key(items));
        request.method = Method::PUT;
        Ok(request)
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let json = response.json();
        let detail = response.detail();
        let says = response.text().to_ascii_lowercase();
        let verdict = match response.status {
            // The key was used for a request that said it otherwise; it is forgotten in minutes,
            // and what was booked is recognised by its number then.
            400 | 409 | 422 if says.contains("idempotency") => {
                Verdict::retry(Reason::NotReady, detail)
            }
            // What was booked is refused the next time and so recognised.
            200..=299 | 400 if response.was_cut() => Verdict::dead(Reason::Rejected, detail),
            200..=299 => match json["Invoices"].as_array() {
                Some(invoices) => return judge_invoices(items, invoices),
                None => Verdict::retry(Reason::UnexpectedResponse, detail),
            },
            400 => match json["Elements"].as_array() {
                Some(invoices) if !invoices.is_empty() => return judge_invoices(items, invoices),
                _ => Verdict::dead(Reason::Rejected, detail),
            },
            // The token is good, but the organisation is not connected or the scope is missing.
            401 if says.contains("authenticationunsuccessful") => {
                Verdict::broken(Reason::Forbidden, detail)
            }
            412 => Verdict::retry(Reason::NotReady, detail),
            429 => {
                let problem = response.header("x-rate-limit-problem").unwrap_or_default();
                let is_day = problem.to_ascii_lowercase().contains("day");
                let after = response.retry_after().or(is_day.then_some(DAY_WAIT));
                let reason = if is_day { Reason::QuotaExceeded } else { Reason::RateLimited };
                Verdict::retry_after(reason, detail, after)
            }
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}

/// Each invoice has its own result, found by its number or, where all have one, by its place.
fn judge_invoices(items: &[Item<'_>], invoices: &[Value]) -> Vec<Verdict> {
    let judge = |(index, item): (usize, &Item<'_>)| {
        let number = number(item);
        let by_number = invoices.iter().find(|invoice| invoice["InvoiceNumber"] == *number);
        let by_place = if invoices.len() == items.len() { invoices.get(index) } else { None };
        match by_number.or(by_place) {
            Some(invoice) => judge_invoice(item, invoice),
            // Sent again, it is taken or recognised.
            None => Verdict::retry(Reason::UnexpectedResponse, "the answer lacks this invoice"),
        }
    };
    items.iter().enumerate().map(judge).collect()
}

fn judge_invoice(item: &Item<'_>, invoice: &Value) -> Verdict {
    let errors = invoice["ValidationErrors"].as_array().map_or(&[][..], Vec::as_slice);
    let status = invoice["StatusAttributeString"].as_str().unwrap_or_default();
    if errors.is_empty() && invoice["HasErrors"] != true && status != "ERROR" {
        return judge_booked(item, invoice);
    }
    let messages: Vec<&str> =
        errors.iter().filter_map(|error| error["Message"].as_str()).collect();
    if messages.iter().any(|message| message.contains("must be unique")) {
        return Verdict::Delivered;
    }
    let detail = if messages.is_empty() { "refused".to_owned() } else { messages.join("; ") };
    let detail = cut(&detail, super::MAX_DETAIL_CHARS);
    let is_configuration = |message: &&str| {
        let message = message.to_ascii_lowercase();
        CONFIGURATION.iter().any(|words| message.starts_with(words))
    };
    if messages.iter().any(is_configuration) {
        Verdict::broken(Reason::PrerequisiteMissing, detail)
    } else {
        Verdict::dead(Reason::Rejected, detail)
    }
}

/// Whether an invoice that was made says what was booked.
fn judge_booked(item: &Item<'_>, invoice: &Value) -> Verdict {
    let Ok(booking) = Booking::of(item.event) else { return Verdict::Delivered };
    let (code, stated) = (booking.currency.code(), invoice["CurrencyCode"].as_str());
    let total = invoice["Total"].as_f64();
    let is_total = total.is_none_or(|total| (total - booking.amount).abs() <= 0.005);
    if is_total && stated.is_none_or(|stated| stated == code) {
        return Verdict::Delivered;
    }
    let detail = format!(
        "invoice {} was made over {} {} instead of {} {code}: correct it by hand",
        number(item),
        invoice["Total"],
        cut(stated.unwrap_or(code), 16),
        booking.amount,
    );
    Verdict::dead(Reason::UnexpectedResponse, detail)
}
