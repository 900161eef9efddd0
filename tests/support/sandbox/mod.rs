//! A sandbox of the vendors: one local server that imitates each service's endpoint, strict enough
//! to refuse a wrong request, with the service's own answers.
//!
//! It is written from the vendors' documentation and shares no code with the destinations, so that
//! a mistake in one is not repeated in the other. Each service has a port of its own, because
//! `destinations.<type>.base_url` replaces only scheme, host and port.

mod analytics;
mod books;
mod chat;
mod hooks;
mod monitoring;
mod records;
pub mod tokens;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

/// The types, by their names in the API.
pub const TYPES: &[&str] = &[
    "slack",
    "discord",
    "email",
    "telegram",
    "teams",
    "segment",
    "mixpanel",
    "amplitude",
    "ga4",
    "zapier",
    "n8n",
    "make",
    "pagerduty",
    "datadog",
    "opsgenie",
    "bigquery",
    "hubspot",
    "salesforce",
    "quickbooks",
    "xero",
];

/// What a service does with the next requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It works.
    Ok,
    /// It asks to slow down, with its own headers and words.
    RateLimited,
    /// It has an error of its own.
    ServerError,
    /// It refuses the credentials: revoked or expired.
    Unauthorized,
    /// The webhook, table, chat or account is gone.
    Gone,
    /// It has a new name for the place: a group became a supergroup, an account another host's.
    Moved,
    /// It refuses every second item of a batch, or the single item, for good.
    PartialFailure,
    /// It refuses the request for its size.
    TooLarge,
    /// It answers 200 with something else.
    Garbage,
    /// It answers this status and no body.
    Status(u16),
    /// It answers this status, this value of a header that some quote, and this body.
    Say(u16, String, String),
    /// It works, but takes its time.
    Slow(Duration),
    /// It never answers.
    Hang,
}

/// One item that a service took.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// What the service recognises repeats by; empty where it does not.
    pub key: String,
    /// The event's id, where it can be read in the item.
    pub event: String,
    /// The item.
    pub body: Value,
}

/// One request, as it came, and the status that it got.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
    pub status: u16,
    /// Whether it asked for something before a delivery.
    pub is_setup: bool,
}

/// A request that a service looks at.
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn param(&self, name: &str) -> &str {
        self.query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn is_json(&self) -> bool {
        self.header("content-type").starts_with("application/json") && !self.json().is_null()
    }
}

/// What a service answers, and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub accepted: Vec<Accepted>,
    pub is_setup: bool,
}

impl Answer {
    #[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
    pub fn new(status: u16, body: impl ToString) -> Self {
        let body = body.to_string();
        Self { status, headers: Vec::new(), body, accepted: Vec::new(), is_setup: false }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// The same, with an item that was taken.
    pub fn took(mut self, key: &str, body: &Value) -> Self {
        let event = event_id(&body.to_string());
        self.accepted.push(Accepted { key: key.to_owned(), event, body: body.clone() });
        self
    }

    pub fn setup(mut self) -> Self {
        self.is_setup = true;
        self
    }
}

/// The first text in some JSON that looks like an event's id; escaped Markdown has backslashes.
fn event_id(json: &str) -> String {
    let text = json.replace("\\n", " ").replace('\\', "");
    let Some(start) = text.find("evt_") else { return String::new() };
    let is_id = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    text[start..].chars().take_while(|c| is_id(*c)).collect()
}

/// What a service remembers.
pub struct Memory {
    /// The keys that it has seen, with the answer that the first request got.
    pub seen: BTreeMap<String, (Bytes, Answer)>,
    /// Names of things that were made there, such as properties.
    pub made: HashSet<String>,
    /// The contacts of a CRM by their wallets.
    pub contacts: BTreeMap<String, Value>,
    /// The incidents that are open, and how often each was reported.
    pub incidents: BTreeMap<String, usize>,
    /// The access tokens that were made, and until when they are good.
    pub tokens: BTreeMap<String, Instant>,
    /// The refresh tokens that change with each use, by what they are; in the order of their making.
    pub refresh: Vec<tokens::Refresh>,
    /// How long a used one is taken again, because the answer may have been lost.
    pub refresh_grace: Duration,
    /// How many renewals a refresh token made.
    pub refreshed: usize,
    /// Signed tokens that are good no more.
    pub revoked: HashSet<String>,
    /// What the token endpoint says next, instead of what it should.
    pub token_answers: VecDeque<Answer>,
    /// How long tokens live, as the endpoint says.
    pub token_life: Duration,
    /// How much longer they are good than that, for tests that must not depend on the clock.
    pub token_grace: Duration,
    script: VecDeque<(Behaviour, usize)>,
    limit: Option<(usize, Duration)>,
    answered_at: VecDeque<Instant>,
    requests: Vec<Recorded>,
    accepted: Vec<Accepted>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            made: HashSet::new(),
            contacts: BTreeMap::new(),
            incidents: BTreeMap::new(),
            tokens: BTreeMap::new(),
            refresh: Vec::new(),
            refresh_grace: tokens::USUAL_GRACE,
            refreshed: 0,
            revoked: HashSet::new(),
            token_answers: VecDeque::new(),
            token_life: tokens::USUAL_LIFE,
            token_grace: Duration::ZERO,
            script: VecDeque::new(),
            limit: None,
            answered_at: VecDeque::new(),
            requests: Vec::new(),
            accepted: Vec::new(),
        }
    }
}

impl Memory {
    /// The rest of a fact that begins so, or what it is by default.
    pub fn fact<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        let rest = self.made.iter().find_map(|fact| fact.strip_prefix(name)?.strip_prefix(' '));
        rest.unwrap_or(default)
    }

    fn note(&mut self, call: &Call, answer: &Answer) {
        self.requests.push(Recorded {
            method: call.method.clone(),
            path: call.path.clone(),
            headers: call.headers.clone(),
            body: call.body.clone(),
            status: answer.status,
            is_setup: answer.is_setup,
        });
    }

    /// What the service's limit makes of the next delivery.
    fn by_limit(&mut self) -> Behaviour {
        let Some((deliveries, within)) = self.limit else { return Behaviour::Ok };
        while self.answered_at.front().is_some_and(|at| at.elapsed() > within) {
            self.answered_at.pop_front();
        }
        if self.answered_at.len() < deliveries { Behaviour::Ok } else { Behaviour::RateLimited }
    }
}

/// How one service looks at a request; `refuse_odd` makes it refuse every second item.
type Service = fn(&Call, &mut Memory, bool) -> Answer;
/// How one service puts a behaviour into words.
type Script = fn(&Behaviour) -> Option<Answer>;

fn service(kind: &str) -> (Service, Script) {
    match kind {
        "slack" => (chat::slack, chat::slack_script),
        "discord" => (chat::discord, chat::discord_script),
        "email" => (chat::email, chat::email_script),
        "telegram" => (chat::telegram, chat::telegram_script),
        "teams" => (chat::teams, chat::teams_script),
        "segment" => (analytics::segment, analytics::segment_script),
        "mixpanel" => (analytics::mixpanel, analytics::mixpanel_script),
        "amplitude" => (analytics::amplitude, analytics::amplitude_script),
        "ga4" => (analytics::ga4, analytics::ga4_script),
        "zapier" => (hooks::zapier, hooks::zapier_script),
        "n8n" => (hooks::n8n, hooks::n8n_script),
        "make" => (hooks::make, hooks::make_script),
        "pagerduty" => (monitoring::pagerduty, monitoring::pagerduty_script),
        "datadog" => (monitoring::datadog, monitoring::datadog_script),
        "opsgenie" => (monitoring::opsgenie, monitoring::opsgenie_script),
        "bigquery" => (records::bigquery, records::bigquery_script),
        "hubspot" => (records::hubspot, records::hubspot_script),
        "salesforce" => (records::salesforce, records::salesforce_script),
        "quickbooks" => (books::quickbooks, books::quickbooks_script),
        "xero" => (books::xero, books::xero_script),
        _ => panic!("the sandbox does not know {kind:?}"),
    }
}

/// All services, each on a port of its own, until it is dropped.
pub struct Sandbox {
    services: BTreeMap<&'static str, (String, Arc<Mutex<Memory>>)>,
    _tasks: JoinSet<()>,
}

impl Sandbox {
    pub async fn start() -> Self {
        let mut tasks = JoinSet::new();
        let mut services = BTreeMap::new();
        for &kind in TYPES {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let memory = Arc::new(Mutex::new(Memory::default()));
            tasks.spawn(serve(kind, listener, Arc::clone(&memory)));
            services.insert(kind, (url, memory));
        }
        Self { services, _tasks: tasks }
    }

    /// What `destinations.<type>.base_url` must say.
    pub fn base_url(&self, kind: &str) -> &str {
        &self.services[kind].0
    }

    /// Makes the next so many deliveries to a service end like this. What was asked for before
    /// comes first.
    pub fn behave(&self, kind: &str, behaviour: Behaviour, times: usize) {
        self.memory(kind).script.push_back((behaviour, times));
    }

    /// Whether a service has still to behave in a way that it was made to.
    pub fn is_planned(&self, kind: &str) -> bool {
        !self.memory(kind).script.is_empty()
    }

    /// Makes a service ask to slow down when more deliveries come within a time.
    pub fn limit(&self, kind: &str, deliveries: usize, within: Duration) {
        self.memory(kind).limit = Some((deliveries, within));
    }

    /// Makes a fact true at a service: `moved` (Opsgenie's account is the successor's), the name
    /// of a field that Salesforce's tasks have, `home EUR` (a company's home currency), …
    pub fn fact(&self, kind: &str, name: &str) {
        self.memory(kind).made.insert(name.to_owned());
    }

    /// Every item that a service took, repeats that it recognised left out.
    pub fn accepted(&self, kind: &str) -> Vec<Accepted> {
        self.memory(kind).accepted.clone()
    }

    /// A CRM's contact.
    pub fn contact(&self, kind: &str, wallet: &str) -> Option<Value> {
        self.memory(kind).contacts.get(wallet).cloned()
    }

    /// A person types something into a contact.
    pub fn edit_contact(&self, kind: &str, wallet: &str, property: &str, value: &str) {
        if let Some(contact) = self.memory(kind).contacts.get_mut(wallet) {
            contact[property] = value.into();
        }
    }

    /// The open incidents, and how often each was reported.
    pub fn incidents(&self, kind: &str) -> BTreeMap<String, usize> {
        self.memory(kind).incidents.clone()
    }

    /// What a service's token endpoint says next.
    pub fn answer_token(&self, kind: &str, status: u16, body: &str) {
        self.memory(kind).token_answers.push_back(Answer::new(status, body));
    }

    /// How long the tokens live that a service makes from now on.
    pub fn token_life(&self, kind: &str, life: Duration) {
        self.memory(kind).token_life = life;
    }

    /// How much longer than they say the tokens are good that a service makes from now on.
    pub fn token_grace(&self, kind: &str, grace: Duration) {
        self.memory(kind).token_grace = grace;
    }

    /// A person connects the account anew: the refresh token that the app gets.
    pub fn connect(&self, kind: &str, token: &str) {
        self.memory(kind).refresh = vec![tokens::Refresh::new(token)];
    }

    /// How many renewals a service's refresh tokens made.
    pub fn refreshed(&self, kind: &str) -> usize {
        self.memory(kind).refreshed
    }

    /// How long a service takes a used refresh token again.
    pub fn refresh_grace(&self, kind: &str, grace: Duration) {
        self.memory(kind).refresh_grace = grace;
    }

    /// Every token that a service made or was shown is good no more.
    pub fn revoke_tokens(&self, kind: &str) {
        let mut memory = self.memory(kind);
        memory.tokens.clear();
        let shown = memory.requests.iter().filter_map(|request| {
            let token = request.headers.get("authorization")?.strip_prefix("Bearer ")?;
            Some(token.to_owned())
        });
        let shown: Vec<String> = shown.collect();
        memory.revoked.extend(shown);
    }

    /// How many tokens a service was asked for.
    pub fn token_calls(&self, kind: &str) -> usize {
        let is_token = |request: &&Recorded| {
            ["/token", "/tokens/bearer"].iter().any(|end| request.path.ends_with(end))
        };
        self.memory(kind).requests.iter().filter(is_token).count()
    }

    /// Every request that came for a service.
    pub fn requests(&self, kind: &str) -> Vec<Recorded> {
        self.memory(kind).requests.clone()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for (_, memory) in self.services.values() {
            *lock(memory) = Memory::default();
        }
    }

    fn memory(&self, kind: &str) -> std::sync::MutexGuard<'_, Memory> {
        lock(&self.services[kind].1)
    }
}

fn lock(memory: &Mutex<Memory>) -> std::sync::MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn serve(kind: &'static str, listener: TcpListener, memory: Arc<Mutex<Memory>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let memory = Arc::clone(&memory);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(kind, request, Arc::clone(&memory)));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    kind: &'static str,
    request: hyper::Request<Incoming>,
    memory: Arc<Mutex<Memory>>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers = parts.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let call = Call {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: query.into_owned().collect(),
        headers: headers.collect(),
        body,
    };
    let (answer, pause) = decide(kind, &call, &memory);
    match pause {
        Pause::None => {}
        Pause::For(time) => tokio::time::sleep(time).await,
        Pause::Forever => std::future::pending().await,
    }
    let mut response = hyper::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(Bytes::from(answer.body))).unwrap())
}

/// How long a service takes for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    For(Duration),
    Forever,
}

/// The answer, and how long to wait before it is given.
fn decide(kind: &str, call: &Call, memory: &Mutex<Memory>) -> (Answer, Pause) {
    let (service, script) = service(kind);
    let mut memory = lock(memory);
    if let Some(answer) = tokens::endpoint(kind, call, &mut memory) {
        memory.note(call, &answer);
        return (answer, Pause::None);
    }
    let planned = memory.script.front().map(|(behaviour, _)| behaviour.clone());
    let is_scripted = planned.is_some();
    let planned = planned.unwrap_or_else(|| memory.by_limit());
    let refuse_odd = planned == Behaviour::PartialFailure;
    let scripted = match &planned {
        Behaviour::Garbage => Some(Answer::new(200, "<html>We are moving!</html>")),
        Behaviour::Status(status) => Some(Answer::new(*status, "")),
        Behaviour::Say(status, header, body) => {
            Some(Answer::new(*status, body).header("x-rate-limit-problem", header))
        }
        Behaviour::ServerError => Some(script(&planned).unwrap_or(Answer::new(503, ""))),
        other => script(other),
    };
    // A question before a delivery is answered as ever, but for revoked credentials: a service
    // that does not know the key does not know it there either.
    let would_be = match &scripted {
        Some(_) => {
            let (made, contacts) = (memory.made.clone(), memory.contacts.clone());
            let (tokens, revoked) = (memory.tokens.clone(), memory.revoked.clone());
            let mut copy = Memory { made, contacts, tokens, revoked, ..Memory::default() };
            service(call, &mut copy, false)
        }
        None => service(call, &mut memory, refuse_odd),
    };
    let is_setup = would_be.is_setup;
    let answer = match scripted {
        Some(scripted) if !is_setup || planned == Behaviour::Unauthorized => scripted,
        Some(_) => service(call, &mut memory, false),
        None => would_be,
    };
    let mut pause = Pause::None;
    if !is_setup {
        pause = match planned {
            Behaviour::Slow(time) => Pause::For(time),
            Behaviour::Hang => Pause::Forever,
            _ => Pause::None,
        };
        if !is_scripted && planned == Behaviour::Ok {
            memory.answered_at.push_back(Instant::now());
        }
        if let Some((_, times)) = memory.script.front_mut() {
            *times = times.saturating_sub(1);
            if *times == 0 {
                memory.script.pop_front();
            }
        }
    }
    if pause != Pause::Forever {
        memory.accepted.extend(answer.accepted.iter().cloned());
    }
    memory.note(call, &Answer { is_setup, ..answer.clone() });
    (answer, pause)
}

/// Whether a value is a text of such a length, in characters.
pub fn is_text(value: &Value, lengths: std::ops::RangeInclusive<usize>) -> bool {
    value.as_str().is_some_and(|text| lengths.contains(&text.chars().count()))
}

/// Whether a text is a moment as RFC 3339 has it.
pub fn is_moment(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
}

/// Whether an object has no other fields than these.
pub fn has_only(value: &Value, names: &[&str]) -> bool {
    value.as_object().is_some_and(|fields| fields.keys().all(|name| names.contains(&&**name)))
}

/// The items of a list; none if it is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a text has nothing that changes how the rest of it is read.
pub fn is_clean(text: &str) -> bool {
    let is_bidi = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().all(|c| c == '\n' || !(c.is_control() || is_bidi(c)))
}

/// Whether each text in some JSON is clean.
pub fn all_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => is_clean(text),
        Value::Array(items) => items.iter().all(all_clean),
        Value::Object(fields) => fields.values().all(all_clean),
        _ => true,
    }
}

/// The currency codes that accounting services know, from Xero's published list.
const CURRENCIES: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND \
    BOB BRL BSD BTN BWP BYN CAD CDF CHF CLF CLP CNY COP CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP \
    ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK \
    JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK \
    MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN \
    PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD STN SVC SYP SZL THB TJS TMT \
    TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW";

/// Whether a value is the code of a currency.
pub fn is_currency(value: &Value) -> bool {
    value.as_str().is_some_and(|code| CURRENCIES.split_whitespace().any(|known| known == code))
}
