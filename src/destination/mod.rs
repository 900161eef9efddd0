//! Destinations: the third-party services that deliveries go to.
//!
//! A destination is a declaration ([`Spec`]) and a struct of its settings with pure functions:
//! build the request, judge the response. It has no client, no clock and no I/O. A new one is one
//! file and one line in the list at the end of this file.

mod accounting;
mod amount;
mod credential;
pub mod docs;
mod explorer;
mod incident;
mod message;
mod record;
mod rotation;
mod settings;
mod signing;
mod token_answer;
mod ways;
mod webhook;
mod wire;

use std::{fmt, slice, str::FromStr, sync::Arc, time::Duration};

pub use amount::Currency;
pub use credential::{ACCESS_TOKEN, App, Credential, Mint, Minted, REFRESH_TOKEN, RENEWING};
pub use explorer::transaction_url;
pub use message::{Fact, Message, Tone, blanked, cut, escaped, one_line};
pub use record::{Record, RecordValue, identity, wallet};
pub use rotation::{
    Kept, RENEWAL_FAILING, RENEWAL_INTENT, RENEWAL_INTENT_AT, RENEWAL_REFUSED, ROTATED_ACCESS,
    ROTATED_AT, ROTATED_FROM, ROTATED_REFRESH, ROTATED_UNTIL, digest,
};
pub use settings::{
    Checks, Field, MAX_FIELD_BYTES, MAX_LIST_ITEMS, Setting, SettingError, Settings, Shape,
    TRAILING_SLASH, is_word, one_of, parse_url, token, url_on,
};
pub use signing::{
    MAX_OVERLAP, PREVIOUS_SECRET, PREVIOUS_UNTIL, SIGNING_SECRET, Signing, signing_secret,
};
pub use ways::{Way, check as check_ways, is_in_a_way, listed as listed_ways};
pub use wire::{
    MAX_DETAIL_CHARS, MAX_RESPONSE_BYTES, Request, Response, SecretUrl, basic, json_seconds,
    seconds,
};

use crate::{
    clock::Timestamp,
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType, EventTypes},
    id::DeliveryId,
};

/// One event on its way to one connector.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// What happened.
    pub event: &'a Event,
    /// The stable id of this delivery, the key for the destination's deduplication.
    pub delivery_id: DeliveryId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it is sent. Nothing that takes part in deduplication may come from it.
    pub sent_at: Timestamp,
    /// What [`Destination::setup`] found out, or [`Destination::lookup`] for this very request.
    pub setup: &'a str,
}

/// What a destination needs to know before its first delivery.
#[derive(Debug)]
pub enum Setup {
    /// It knows: this text is kept and comes with every [`Item`].
    Ready(Arc<str>),
    /// It asks; the answer is appended to the answers of the next call.
    Ask(Request),
    /// It cannot work.
    Failed(Verdict),
}

impl Setup {
    /// It cannot work; a refusal of the question is nothing that an event should die of.
    #[must_use]
    pub fn failed(verdict: Verdict) -> Self {
        Self::Failed(match verdict {
            Verdict::Dead { detail, .. } => Verdict::broken(Reason::PrerequisiteMissing, detail),
            other => other,
        })
    }
}

/// The most questions that [`Destination::setup`] or [`Destination::lookup`] may ask.
pub const MAX_SETUP_STEPS: usize = 24;

/// Speaks one connector's service: builds requests, judges responses.
pub trait Destination: Send + Sync + fmt::Debug {
    /// Why this destination has nothing to do for an event, if so.
    fn skips(&self, _event: &Event) -> Option<Skip> {
        None
    }

    /// Whether something must be found out first: called with the answers so far until it is
    /// ready. The result is kept until a verdict has [`Reason::PrerequisiteMissing`].
    fn setup(&self, _answers: &[Response]) -> Setup {
        Setup::Ready("".into())
    }

    /// Whether something must be found out for these very items, which make up one request: called
    /// with the answers so far, like `setup`. What it is ready with stands in place of the items'
    /// setup for this request; it is not kept. `None` when nothing is to be found out.
    fn lookup(&self, _items: &[Item<'_>], _answers: &[Response]) -> Option<Setup> {
        None
    }

    /// The request for one event, or the verdict when there can be none.
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict>;

    /// What the answer means.
    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict;

    /// Whether an item may be sent again when no answer came although the service may have taken
    /// it. If not, it becomes a dead letter, which can still be sent again by hand.
    fn repeats_unanswered(&self, _item: &Item<'_>) -> bool {
        true
    }

    /// The ability to send several events in one request.
    fn batching(&self) -> Option<&dyn Batching> {
        None
    }
}

/// How large a batch may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most events.
    pub items: usize,
    /// The most bytes of the request's body.
    pub bytes: usize,
}

/// Sends several events in one request.
pub trait Batching: Send + Sync {
    /// How large a batch may get.
    fn limits(&self) -> BatchLimits;

    /// Whether `next` may join `batch`.
    fn takes(&self, _batch: &[Item<'_>], _next: &Item<'_>) -> bool {
        true
    }

    /// The request for all of them.
    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict>;

    /// What the answer means for each of them, in their order.
    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict>;
}

/// How fast a destination may be called, as a token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// How many may go at once after a pause.
    pub burst: u32,
}

/// What kind of service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Category {
    Communication,
    Analytics,
    Automation,
    Monitoring,
    Data,
    #[serde(rename = "CRM")]
    Crm,
    Accounting,
}

impl Category {
    /// Every category, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Communication,
        Self::Analytics,
        Self::Automation,
        Self::Monitoring,
        Self::Data,
        Self::Crm,
        Self::Accounting,
    ];

    /// The name in the documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Communication => "Communication",
            Self::Analytics => "Analytics",
            Self::Automation => "Automation",
            Self::Monitoring => "Monitoring",
            Self::Data => "Data",
            Self::Crm => "CRM",
            Self::Accounting => "Accounting",
        }
    }
}

/// The declaration of a destination.
#[derive(Debug)]
pub struct Spec {
    /// Its name for people.
    pub title: &'static str,
    /// What kind of service it is.
    pub category: Category,
    /// The vendor's documentation of the API that is called.
    pub docs: &'static str,
    /// Its configuration.
    pub fields: &'static [Field],
    /// What is kept beside it, for this program's own use: an owner neither gives nor sees it.
    pub hidden: &'static [Field],
    /// The ways to authenticate, of which exactly one must be given; the bare token is the last.
    /// None where the required fields are the way.
    pub ways: &'static [Way],
    /// Settings that look as if they should be there, and why they are not taken.
    pub refused: &'static [(&'static str, &'static str)],
    /// Makes what renews access tokens, where the settings have that.
    pub credential: fn(&Settings) -> Result<Option<Credential>, SettingError>,
    /// The vendor's published limit per connector, or a guess where it publishes none.
    pub rate: Option<Rate>,
    /// How many requests may be under way at once per connector.
    pub concurrency: u32,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether all connectors of the type share one fate at the vendor (an address ban, say).
    pub shared_address_limit: Option<SharedLimit>,
    /// What [`Destination::setup`] may find out, for examples.
    pub setup_example: &'static str,
    /// What the vendor does with a repeated delivery, in a few words.
    pub dedup: &'static str,
    /// For how long the vendor recognises a repeat: zero where it does not recognise each, `None`
    /// where no end of it is known.
    pub forgets_repeats_after: Option<Duration>,
    /// How old an event may be for the vendor to take it as of its time. An older one is sent
    /// without, and counts as of when it arrives.
    pub max_event_age: Option<Duration>,
    /// What becomes of an event type at the destination, in a few words.
    pub becomes: fn(EventType) -> &'static str,
    /// Checks that need more than one field.
    pub check: fn(&Settings, &EventTypes) -> Vec<(&'static str, String)>,
    /// Makes the destination from checked settings, for a connector that subscribes to these
    /// event types: what is named explicitly may become more than what `*` brings along.
    pub make: Make,
}

/// Makes a destination from a connector's settings and event types.
pub type Make = fn(&Settings, &EventTypes) -> Result<Box<dyn Destination>, SettingError>;

/// Refused calls that the vendor counts against the calling address, whoever's connector it was.
#[derive(Clone, Copy, Debug)]
pub struct SharedLimit {
    /// After so many refused calls …
    pub refused: u32,
    /// … within this time, the type is not called until they are older than it.
    pub within: Duration,
    /// Whether the vendor counts the call that it answered so.
    pub counts: fn(&Response) -> bool,
}

/// What becomes of a notice where none is taken.
const NO_NOTICES: &str = "not taken";

/// Refuses notices of connectors where nothing could become of them.
fn check_no_notices(event_types: &EventTypes, what: &str) -> Vec<(&'static str, String)> {
    let named = event_types.named().iter().filter(|kind| kind.is_notice());
    let names: Vec<&str> = named.map(|kind| kind.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let names = names.join(", ");
    vec![("eventTypes", format!("{names}: notices of connectors do not go into {what}"))]
}

impl Spec {
    /// A declaration to start from: the limits that most webhooks bear.
    pub const BASE: Self = Self {
        title: "",
        category: Category::Automation,
        docs: "",
        fields: &[],
        hidden: &[],
        ways: &[],
        refused: &[],
        credential: |_| Ok(None),
        rate: None,
        concurrency: 16,
        timeout: Duration::from_secs(30),
        shared_address_limit: None,
        setup_example: "",
        dedup: "none",
        forgets_repeats_after: Some(Duration::ZERO),
        max_event_age: None,
        becomes: |_| "the event as it is",
        check: |_, _| Vec::new(),
        make: |_, _| Err(SettingError { field: "type", message: "cannot be made".to_owned() }),
    };
}

impl Spec {
    /// The fields that the smallest configuration has: those that are required, and the bare token
    /// where there are several ways to authenticate.
    pub fn example_fields(&self) -> impl Iterator<Item = &'static Field> {
        let way = self.ways.last().map_or(&[][..], |way| way.fields);
        self.fields.iter().filter(move |field| field.required || way.contains(&field.name))
    }
}

macro_rules! destinations {
    ($($variant:ident => $module:ident, $name:literal;)*) => {
        $(mod $module;)*

        /// Which service a connector delivers to.
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug,
            serde::Serialize, serde::Deserialize,
        )]
        #[expect(missing_docs, reason = "the names say it")]
        pub enum ConnectorType {
            $(#[serde(rename = $name)] $variant,)*
            /// One that only a later version of this program knows. No command can name it.
            #[serde(rename = "unknown")]
            Unknown,
        }

        impl ConnectorType {
            /// Every type, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the API, settings and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Unknown => "unknown" }
            }

            /// The declaration.
            #[must_use]
            pub const fn spec(self) -> &'static Spec {
                match self { $(Self::$variant => &$module::SPEC,)* Self::Unknown => &UNKNOWN }
            }
        }

        impl FromStr for ConnectorType {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(format!("unknown connector type {text:?}{}", nearest(text))),
                }
            }
        }
    };
}

// One line makes a destination exist: in validation, the API, the command line, metrics,
// documentation and the tests that every destination must pass.
destinations! {
    Slack => slack, "slack";
    Discord => discord, "discord";
    Email => email, "email";
    Telegram => telegram, "telegram";
    Teams => teams, "teams";
    Segment => segment, "segment";
    Mixpanel => mixpanel, "mixpanel";
    Amplitude => amplitude, "amplitude";
    Ga4 => ga4, "ga4";
    Zapier => zapier, "zapier";
    N8n => n8n, "n8n";
    Make => make, "make";
    Pagerduty => pagerduty, "pagerduty";
    Datadog => datadog, "datadog";
    Opsgenie => opsgenie, "opsgenie";
    Bigquery => bigquery, "bigquery";
    Hubspot => hubspot, "hubspot";
    Salesforce => salesforce, "salesforce";
    Quickbooks => quickbooks, "quickbooks";
    Xero => xero, "xero";
}

/// What is known of a type that is unknown: nothing can be delivered to it.
static UNKNOWN: Spec = Spec::BASE;

impl ConnectorType {
    /// The position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The declared field of this name.
    #[must_use]
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.spec().fields.iter().find(|field| field.name == name)
    }

    /// Every field that a configuration may keep, the hidden ones last.
    pub fn kept_fields(self) -> impl Iterator<Item = &'static Field> {
        self.spec().fields.iter().chain(self.spec().hidden)
    }

    /// The field of this name, hidden or not.
    #[must_use]
    pub fn kept_field(self, name: &str) -> Option<&'static Field> {
        self.kept_fields().find(|field| field.name == name)
    }

    /// Whether its deliveries can be signed.
    #[must_use]
    pub fn signs(self) -> bool {
        self.field(SIGNING_SECRET).is_some()
    }
}

impl fmt::Display for ConnectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn nearest(text: &str) -> String {
    ConnectorType::ALL
        .iter()
        .map(|kind| (strsim::damerau_levenshtein(text, kind.as_str()), kind))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, kind)| format!(", did you mean {:?}?", kind.as_str()))
        .unwrap_or_default()
}

/// The verdict that a status deserves when the destination's own words say nothing else.
#[must_use]
pub fn judge_status(response: &Response) -> Verdict {
    use Reason as R;
    if response.is_success() {
        return Verdict::Delivered;
    }
    let detail = response.detail();
    match response.status {
        300..=399 => {
            let host = response.location_host();
            let to = host.map(|host| format!(" (to {host})")).unwrap_or_default();
            Verdict::doubtful(R::Redirected, format!("{detail}{to}"), response.retry_after())
        }
        408 | 425 => Verdict::retry_after(R::NotReady, detail, response.retry_after()),
        429 => Verdict::retry_after(R::RateLimited, detail, response.retry_after()),
        401 => Verdict::broken(R::Unauthorized, detail),
        // Whatever stands in front of the service says these two as well.
        403 => Verdict::doubtful(R::Forbidden, detail, response.retry_after()),
        404 => Verdict::doubtful(R::Gone, detail, response.retry_after()),
        410 => Verdict::broken(R::Gone, detail),
        413 => Verdict::dead(R::PayloadTooLarge, detail),
        400..=499 => Verdict::dead(R::Rejected, detail),
        500..=599 => Verdict::retry_after(R::ServerError, detail, response.retry_after()),
        _ => Verdict::retry(R::UnexpectedResponse, detail),
    }
}

/// One verdict for each item of a batch that was answered as a whole.
///
/// A refusal that may be one item's fault, or the size of them all, is not held against its
/// neighbours: each is to be tried in a smaller batch, see [`Verdict::asks_to_split`].
#[must_use]
pub fn judge_together(items: &[Item<'_>], verdict: Verdict) -> Vec<Verdict> {
    let verdict = match verdict {
        Verdict::Dead { reason, detail } if items.len() > 1 => Verdict::retry(reason, detail),
        other => other,
    };
    vec![verdict; items.len()]
}

/// The verdicts on a batch of which nothing was stored because of the items that are marked.
fn judge_culprits(is_culprit: &[bool], detail: &str) -> Vec<Verdict> {
    let judge = |&is_culprit: &bool| {
        if is_culprit {
            Verdict::dead(Reason::Rejected, detail)
        } else {
            Verdict::retry(Reason::Rejected, detail)
        }
    };
    is_culprit.iter().map(judge).collect()
}

/// The verdict on one item by the destination's own judgement of a batch of one.
fn judge_alone(batching: &dyn Batching, item: &Item<'_>, response: &Response) -> Verdict {
    let mut verdicts = batching.judge(slice::from_ref(item), response);
    verdicts.pop().unwrap_or_else(|| judge_status(response))
}
