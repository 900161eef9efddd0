//! Access tokens of credentials that renew themselves, kept in memory.
//!
//! Each instance makes its own: nothing is written. A token serves until about four fifths of its
//! life, or until the service refuses it. Of one connector's deliveries that need a new one, one
//! asks and the others wait for what it gets.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::{
    clock::{self, Timestamp},
    delivery::{Certainty, Reason, Verdict},
    destination::{ConnectorType, Credential, Mint, Minted, Request, Response},
    id::ConnectorKey,
    metrics::{Metrics, Renewal},
    outbound::{Connection, Outbound, SendError},
    redact::{Redactor, Secrets},
    view::Target,
};

/// The most connectors of which a token is kept; beyond that, those that were not used lately ask
/// anew.
pub const MAX_KEPT: usize = 10_000;
/// How long a token endpoint's answer may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often at most the operator is warned of an app that is refused.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A token is renewed after so much of its life, in percent: at random between the two, so that
/// instances and connectors that began together do not stay so.
const RENEW_AFTER_PERCENT: std::ops::RangeInclusive<u32> = 75..=80;

/// The access tokens of this instance.
#[derive(Default)]
pub struct Credentials {
    kept: Mutex<Generations>,
    /// When the operator was last warned of an app that is refused; as many as types at most.
    warned: Mutex<BTreeMap<ConnectorType, Instant>>,
    /// The stored tokens that were reported as refused, by their ends.
    reported: Mutex<BTreeMap<ConnectorKey, Timestamp>>,
    chance: RandomState,
}

/// Two generations stand for "recently used", as in the view's cache.
#[derive(Default)]
struct Generations {
    young: HashMap<ConnectorKey, Arc<Slot>>,
    old: HashMap<ConnectorKey, Arc<Slot>>,
}

/// One connector's token, made of one credential.
struct Slot {
    identity: [u8; 32],
    token: Mutex<Option<Arc<Token>>>,
    /// How often a token was asked for.
    rounds: AtomicU64,
    /// Held by the one that asks; what the last one got instead of a token.
    asking: tokio::sync::Mutex<Option<Verdict>>,
}

/// An access token. It has no `Debug`.
pub struct Token {
    header: HeaderValue,
    secret: Secrets,
    renew_at: Instant,
}

impl Token {
    /// One that is stored, so that it is kept here for one sender only.
    pub(super) fn of(secret: SecretString) -> Result<Arc<Self>, Verdict> {
        Self::new(secret, Instant::now()).map(Arc::new)
    }

    fn new(secret: SecretString, renew_at: Instant) -> Result<Self, Verdict> {
        let header = format!("Bearer {}", secret.expose_secret());
        let mut header = HeaderValue::from_str(&header).map_err(|_| {
            Verdict::retry(Reason::UnexpectedResponse, "the token cannot stand in a header")
        })?;
        header.set_sensitive(true);
        Ok(Self { header, secret: Secrets::new(vec![secret]), renew_at })
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Verdicts without the token, whatever the answers quote.
    pub fn redacted(&self, answers: &[Response], verdicts: Vec<Verdict>) -> Vec<Verdict> {
        self.secret.redactor().verdicts(answers, verdicts)
    }
}

/// What tokens are asked for with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// The sender.
    pub outbound: &'a Outbound,
    /// Metrics.
    pub metrics: &'a Metrics,
}

impl Credentials {
    /// A token of the target's credential: the kept one, unless it is `refused` or old.
    pub async fn token(
        &self,
        tools: Tools<'_>,
        target: &Target,
        credential: &Credential,
        refused: Option<&Arc<Token>>,
    ) -> Result<Arc<Token>, Verdict> {
        let slot = self.slot(&target.key, credential.identity());
        if let Some(token) = slot.usable(refused) {
            return Ok(token);
        }
        let round = slot.rounds.load(Ordering::Acquire);
        let mut last = slot.asking.lock().await;
        // Another delivery may have asked meanwhile: its answer is as good.
        if let Some(token) = slot.usable(refused) {
            return Ok(token);
        }
        if slot.rounds.load(Ordering::Acquire) != round
            && let Some(verdict) = &*last
        {
            return Err(verdict.clone());
        }
        let began = Instant::now();
        let made = make(tools, target, credential).await;
        let made = made.and_then(|minted| self.token_of(minted, began));
        tools.metrics.renewal(target.kind, outcome(made.as_ref().err()));
        slot.rounds.fetch_add(1, Ordering::Release);
        *last = made.as_ref().err().cloned();
        if let Some(Verdict::Retry { detail, .. }) =
            made.as_ref().err().filter(|verdict| credential.concerns_operator(verdict))
            && self.warns(target.kind, began)
        {
            let kind = target.kind;
            tracing::warn!(
                %kind, detail, connector = %target.key,
                "destinations.{kind}.client_id and destinations.{kind}.client_secret are refused: \
                 connectors with only a refreshToken get no access token until that is mended"
            );
        }
        let token = made?;
        *slot.token.lock() = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Whether a stored token that ends at this moment was not reported as refused yet. Forgetting it
    /// reports again, which changes nothing.
    pub fn reports_once(&self, key: &ConnectorKey, until: Timestamp) -> bool {
        let mut reported = self.reported.lock();
        if reported.len() >= MAX_KEPT {
            reported.clear();
        }
        reported.insert(key.clone(), until) != Some(until)
    }

    /// Whether it is time to warn of a type's app: every connector that has it meets the same.
    fn warns(&self, kind: ConnectorType, now: Instant) -> bool {
        let mut warned = self.warned.lock();
        let is_due = warned.get(&kind).is_none_or(|last| now - *last >= WARN_EVERY);
        if is_due {
            warned.insert(kind, now);
        }
        is_due
    }

    fn slot(&self, key: &ConnectorKey, identity: [u8; 32]) -> Arc<Slot> {
        let mut kept = self.kept.lock();
        let found = match kept.young.get(key) {
            Some(slot) => Some(Arc::clone(slot)),
            None => kept.old.remove(key),
        };
        let slot = found.filter(|slot| slot.identity == identity).unwrap_or_else(|| {
            Arc::new(Slot {
                identity,
                token: Mutex::new(None),
                rounds: AtomicU64::new(0),
                asking: tokio::sync::Mutex::new(None),
            })
        });
        if !kept.young.get(key).is_some_and(|known| Arc::ptr_eq(known, &slot)) {
            if kept.young.len() >= MAX_KEPT / 2 {
                kept.old = std::mem::take(&mut kept.young);
            }
            kept.young.insert(key.clone(), Arc::clone(&slot));
        }
        slot
    }

    fn token_of(&self, minted: Minted, began: Instant) -> Result<Arc<Token>, Verdict> {
        let (from, to) = (RENEW_AFTER_PERCENT.start(), RENEW_AFTER_PERCENT.end());
        let spread = u64::from((to - from) * 100);
        // In hundredths of a percent; below 10,000, so it fits.
        let chance = self.chance.hash_one(began) % (spread + 1);
        let part = u32::try_from(u64::from(from * 100) + chance).unwrap_or(from * 100);
        let renew_at = began + minted.life.mul_f64(f64::from(part) / 10_000.0);
        Token::new(minted.token, renew_at).map(Arc::new)
    }
}

impl Slot {
    /// The kept token, unless it is the refused one or old.
    fn usable(&self, refused: Option<&Arc<Token>>) -> Option<Arc<Token>> {
        let token = self.token.lock().clone()?;
        let is_refused = refused.is_some_and(|refused| Arc::ptr_eq(refused, &token));
        (!is_refused && Instant::now() < token.renew_at).then_some(token)
    }
}

pub fn outcome(failure: Option<&Verdict>) -> Renewal {
    match failure {
        None => Renewal::Renewed,
        Some(Verdict::Broken { certainty: Certainty::Certain, .. }) => Renewal::Refused,
        Some(_) => Renewal::Failed,
    }
}

/// Makes a token, by a call or without one.
pub async fn make(
    tools: Tools<'_>,
    target: &Target,
    credential: &Credential,
) -> Result<Minted, Verdict> {
    let (request, secret) = match credential.mint(clock::now(), &SystemRandom::new())? {
        Mint::Ready(minted) => return Ok(minted),
        Mint::Ask { request, secret } => (request, secret),
    };
    // What is said of the answer is shown to the owner: without what was sent to get it.
    let redacted = |answers: &[Response], verdict: Verdict| {
        let verdicts = target.secrets.redactor().verdicts(answers, vec![verdict]);
        let mut verdicts = Redactor::new(&[secret]).verdicts(answers, verdicts);
        verdicts.pop().unwrap_or_else(|| Verdict::dead(Reason::Bug, "no verdict"))
    };
    match ask(tools.outbound, request, credential.is_trusted()).await {
        Ok(answer) => credential.read(&answer).map_err(|verdict| redacted(&[answer], verdict)),
        Err(error) => {
            let detail = format!("the token endpoint: {}", error.detail);
            let verdict = match error.reason {
                reason @ Reason::AddressRefused => Verdict::broken(reason, detail),
                reason => Verdict::retry(reason, detail),
            };
            Err(redacted(&[], verdict))
        }
    }
}

async fn ask(outbound: &Outbound, request: Request, trusted: bool) -> Result<Response, SendError> {
    let sent = outbound.send_on(Connection::Kept, request.clone(), trusted, TOKEN_TIMEOUT).await;
    match sent {
        // The server had closed the connection before it saw the request.
        Err(error) if error.was_kept => {
            outbound.send_on(Connection::New, request, trusted, TOKEN_TIMEOUT).await
        }
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::atomic::AtomicUsize};

    use axum::{Json, Router, http::StatusCode, routing::post};
    use futures_util::future::join_all;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        connector::{Connector, ProjectState},
        egress::EgressPolicy,
        secrets::Keyring,
        view::{BaseUrls, Subscriptions},
    };

    const KEY: &str = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

    /// A token endpoint that counts its calls and answers this.
    struct Endpoint {
        url: String,
        calls: Arc<AtomicUsize>,
        answer: Arc<Mutex<(u16, Value)>>,
    }

    impl Endpoint {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/token", listener.local_addr().unwrap());
            let calls = Arc::new(AtomicUsize::new(0));
            let answer = Arc::new(Mutex::new((200, Value::Null)));
            let (counted, said) = (Arc::clone(&calls), Arc::clone(&answer));
            let handler = move || async move {
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let (status, mut body) = said.lock().clone();
                if body.is_null() {
                    body = json!({"access_token": format!("token-{number}"), "expires_in": 1800});
                }
                (StatusCode::from_u16(status).unwrap(), Json(body))
            };
            let app = Router::new().route("/token", post(handler));
            tokio::spawn(async move { axum::serve(listener, app).await });
            Self { url, calls, answer }
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }

        fn target(&self, secret: &str) -> Arc<Target> {
            let json = include_str!("../../tests/fixtures/records/state-connector-1.json");
            let mut json: Value = serde_json::from_str(json).unwrap();
            json["type"] = json!("xero");
            json["config"] = json!({"tenantId": "00000000-1111-2222-3333-444444444444",
                "clientId": "id", "clientSecret": secret});
            let connector = Connector::from_json(json.to_string().as_bytes()).unwrap();
            let id = connector.key.connector.clone();
            let connectors = [(id.clone(), connector)].into();
            let state = ProjectState { project: None, connectors };
            let mut urls = BaseUrls::default();
            urls.set_tokens(ConnectorType::Xero, Some(self.url.parse().unwrap()), None);
            let keyring = Keyring::parse(&[KEY.to_owned()]).unwrap();
            let subscriptions = Subscriptions::compile(&state, &keyring, &urls);
            Arc::clone(subscriptions.target(&id).unwrap())
        }
    }

    struct Bench {
        credentials: Credentials,
        outbound: Outbound,
        metrics: Metrics,
    }

    impl Bench {
        fn new() -> Self {
            let outbound = Outbound::new(EgressPolicy::default()).unwrap();
            let metrics = Metrics::new().unwrap();
            Self { credentials: Credentials::default(), outbound, metrics }
        }

        /// What sixteen deliveries get that need a token at the same time.
        async fn sixteen(
            &self,
            target: &Target,
            refused: Option<&Arc<Token>>,
        ) -> Vec<Result<Arc<Token>, Verdict>> {
            let tools = Tools { outbound: &self.outbound, metrics: &self.metrics };
            let credential = target.credential.as_ref().unwrap();
            let one = || self.credentials.token(tools, target, credential, refused);
            join_all((0..16).map(|_| one())).await
        }
    }

    #[tokio::test]
    async fn of_many_deliveries_one_asks() {
        let (endpoint, bench) = (Endpoint::start().await, Bench::new());
        let target = endpoint.target("one");
        let tokens = bench.sixteen(&target, None).await;
        let first = tokens[0].as_ref().unwrap_or_else(|_| panic!()).clone();
        assert!(tokens.iter().all(|t| t.as_ref().is_ok_and(|t| Arc::ptr_eq(t, &first))));
        assert_eq!((endpoint.calls(), first.header().to_str().unwrap()), (1, "Bearer token-1"));
        // All were refused with the same token: they get one new one.
        let tokens = bench.sixteen(&target, Some(&first)).await;
        let second = tokens[0].as_ref().unwrap_or_else(|_| panic!()).clone();
        assert!(tokens.iter().all(|t| t.as_ref().is_ok_and(|t| Arc::ptr_eq(t, &second))));
        assert_eq!((endpoint.calls(), second.header().to_str().unwrap()), (2, "Bearer token-2"));
        // The connector that was compiled anew has the same credential, and so the same token.
        bench.sixteen(&endpoint.target("one"), None).await;
        assert_eq!(endpoint.calls(), 2);
        // A new secret is used at once.
        bench.sixteen(&endpoint.target("two"), None).await;
        assert_eq!(endpoint.calls(), 3);
    }

    #[tokio::test]
    async fn a_refusal_is_shared_by_those_who_waited_and_asked_for_again_later() {
        let (endpoint, bench) = (Endpoint::start().await, Bench::new());
        let target = endpoint.target("canary-5e1f-canary");
        let says = json!({"error": "invalid_grant", "error_description": "canary-5e1f-canary"});
        *endpoint.answer.lock() = (400, says);
        for round in 1..=2 {
            for refused in bench.sixteen(&target, None).await {
                let Err(Verdict::Broken { detail, .. }) = refused else { panic!() };
                assert!(!detail.contains("canary"), "{detail}");
            }
            assert_eq!(endpoint.calls(), round);
        }
        *endpoint.answer.lock() = (200, Value::Null);
        assert!(bench.sixteen(&target, None).await.iter().all(Result::is_ok));
        assert_eq!(endpoint.calls(), 3);
    }

    #[tokio::test]
    async fn a_token_is_renewed_after_four_fifths_of_its_life() {
        let bench = Bench::new();
        let now = Instant::now();
        let mut seen = HashSet::new();
        for index in 0..100 {
            let began = now + Duration::from_secs(index);
            let minted =
                Minted { token: "t".into(), life: Duration::from_secs(1000), refresh: None };
            let token = bench.credentials.token_of(minted, began).unwrap_or_else(|_| panic!());
            let after = token.renew_at - began;
            let range = Duration::from_secs(750)..=Duration::from_secs(800);
            assert!(range.contains(&after), "{after:?}");
            seen.insert(after);
        }
        // Of 501 moments: the chance that a hundred draws meet fewer than twenty is nil.
        assert!(seen.len() > 20, "{seen:?}");
    }

    #[test]
    fn an_operator_is_warned_once_in_a_while() {
        let credentials = Credentials::default();
        let now = Instant::now();
        let warns = |kind, after: Duration| credentials.warns(kind, now + after);
        let almost = WARN_EVERY.saturating_sub(Duration::from_millis(1));
        assert!(warns(ConnectorType::Hubspot, Duration::ZERO));
        assert!(!warns(ConnectorType::Hubspot, almost));
        assert!(warns(ConnectorType::Xero, almost));
        assert!(warns(ConnectorType::Hubspot, WARN_EVERY));
    }

    #[tokio::test]
    async fn so_many_are_kept_and_no_more() {
        let credentials = Credentials::default();
        let key = |number: usize| ConnectorKey {
            project: "proj_1".parse().unwrap(),
            connector: format!("conn_{number}").parse().unwrap(),
        };
        let first = credentials.slot(&key(0), [0; 32]);
        for number in 0..3 * MAX_KEPT {
            credentials.slot(&key(number), [0; 32]);
            let again = credentials.slot(&key(0), [0; 32]);
            assert!(Arc::ptr_eq(&again, &first), "in use all the time");
        }
        let kept = credentials.kept.lock();
        assert!(kept.young.len() + kept.old.len() <= MAX_KEPT);
    }
}
