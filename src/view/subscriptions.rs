//! Who wants what: a project's connectors, compiled for the hot path.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;
use url::Url;

use crate::{
    clock::Timestamp,
    connector::{Connector, ProjectState},
    delivery::Reason,
    destination::{App, ConnectorType, Credential, Destination, Settings},
    event::{EventType, EventTypes},
    filter::{Facts, Filter, FilterError},
    id::{ConnectorId, ConnectorKey, DeliveryNamespace},
    redact::Secrets,
    secrets::Keyring,
};

/// Per connector type, what the operator calls instead of the vendor, and as which app.
#[derive(Clone, Debug, Default)]
pub struct BaseUrls {
    bases: BTreeMap<ConnectorType, Url>,
    token_urls: BTreeMap<ConnectorType, Url>,
    apps: BTreeMap<ConnectorType, App>,
}

impl BaseUrls {
    /// Sets the base of a type.
    pub fn insert(&mut self, kind: ConnectorType, base: Url) {
        self.bases.insert(kind, base);
    }

    /// The base of a type, when the operator set one.
    #[must_use]
    pub fn get(&self, kind: ConnectorType) -> Option<&Url> {
        self.bases.get(&kind)
    }

    /// Sets a type's token endpoint, and the operator's own app there.
    pub fn set_tokens(&mut self, kind: ConnectorType, url: Option<Url>, app: Option<App>) {
        self.token_urls.extend(url.map(|url| (kind, url)));
        self.apps.extend(app.map(|app| (kind, app)));
    }

    /// Whether the operator has an app of its own at the type's vendor.
    #[must_use]
    pub fn has_app(&self, kind: ConnectorType) -> bool {
        self.apps.contains_key(&kind)
    }

    fn tokens(&self, kind: ConnectorType, settings: Settings) -> Settings {
        settings.with_tokens(self.token_urls.get(&kind).cloned(), self.apps.get(&kind).cloned())
    }
}

impl FromIterator<(ConnectorType, Url)> for BaseUrls {
    fn from_iter<I: IntoIterator<Item = (ConnectorType, Url)>>(items: I) -> Self {
        Self { bases: items.into_iter().collect(), ..Self::default() }
    }
}

/// One connector, ready to be delivered to. Its `Debug` shows no secrets.
pub struct Target {
    /// Its full name.
    pub key: ConnectorKey,
    /// The service.
    pub kind: ConnectorType,
    /// The version that this was compiled from.
    pub version: i64,
    /// The event types that it wants.
    pub event_types: EventTypes,
    /// Which of them it wants; an error is why that cannot be said, and then it wants all.
    pub filter: Option<Result<Filter, FilterError>>,
    /// Whether its owner has it switched on.
    pub is_active: bool,
    /// When it was created: an id may be used again after a deletion.
    pub created_at: Timestamp,
    /// Why its deliveries are held, if they are.
    pub suspended: Option<String>,
    /// Whether its service is known to fail. It says nothing of what may be delivered.
    pub is_failing: bool,
    /// Its half of the delivery ids.
    pub namespace: DeliveryNamespace,
    /// What speaks the service, or why nothing can.
    pub destination: Result<Box<dyn Destination>, String>,
    /// What makes its access tokens, where they renew themselves.
    pub credential: Option<Credential>,
    /// Its secrets, to keep them out of what others said.
    pub secrets: Secrets,
    /// Whether the operator chose where its requests go, so that the rules for users' URLs do
    /// not apply.
    pub trusted: bool,
    /// What the destination found out before its first delivery.
    pub setup: Mutex<Option<Arc<str>>>,
}

impl Target {
    fn compile(connector: &Connector, keyring: &Keyring, base_urls: &BaseUrls) -> Self {
        let base_url = base_urls.get(connector.kind);
        let settings = keyring.settings(connector, base_url.cloned());
        let settings = settings.map(|settings| base_urls.tokens(connector.kind, settings));
        let secrets = match &settings {
            Ok(settings) => settings.secrets(connector.kind.kept_fields()),
            Err(_) => Vec::new(),
        };
        let made = match connector.later.unusable() {
            Some(words) => Err(words.to_owned()),
            None => settings
                .map_err(|error| error.to_string())
                .and_then(|settings| make(connector, &settings)),
        };
        let (destination, credential) = match made {
            Ok((destination, credential)) => (Ok(destination), credential),
            Err(words) => (Err(words), None),
        };
        Self {
            key: connector.key.clone(),
            kind: connector.kind,
            version: connector.version,
            event_types: connector.event_types.clone(),
            // What a later release accepted may be unknown here.
            filter: connector.filter.as_deref().map(Filter::compile),
            is_active: connector.is_active,
            created_at: connector.created_at,
            suspended: connector.suspended_reason.clone(),
            is_failing: connector.health.is_failing(),
            namespace: DeliveryNamespace::of(&connector.key),
            destination,
            credential,
            secrets: Secrets::new(secrets),
            trusted: base_url.is_some(),
            setup: Mutex::new(None),
        }
    }

    /// Why nothing can be delivered to it at present, if so.
    #[must_use]
    pub fn held(&self) -> Option<(Reason, &str)> {
        match (&self.suspended, &self.destination) {
            (Some(words), _) => Some((Reason::Suspended, words)),
            (None, Err(words)) => Some((Reason::Unusable, words)),
            (None, Ok(_)) => None,
        }
    }

    /// Whether an event passes its filter; an error where the filter cannot say, and then it does.
    pub fn passes(&self, facts: &Facts<'_>) -> Result<bool, FilterError> {
        match &self.filter {
            None => Ok(true),
            Some(Ok(filter)) => filter.passes(facts),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Whether its access token is a stored one.
    #[must_use]
    pub fn has_kept_token(&self) -> bool {
        self.credential.as_ref().is_some_and(|credential| credential.kept().is_some())
    }

    /// Whether it wants events of this type now; a suspended one does.
    #[must_use]
    pub fn wants(&self, kind: EventType) -> bool {
        self.is_active && self.event_types.contains(kind)
    }
}

/// The one place where destinations are made.
fn make(connector: &Connector, settings: &Settings) -> Result<Made, String> {
    let spec = connector.kind.spec();
    let credential = (spec.credential)(settings).map_err(|error| error.to_string())?;
    let destination =
        (spec.make)(settings, &connector.event_types).map_err(|error| error.to_string())?;
    Ok((destination, credential))
}

type Made = (Box<dyn Destination>, Option<Credential>);

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("key", &self.key)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("event_types", &self.event_types)
            .field("is_active", &self.is_active)
            .field("suspended", &self.suspended)
            .field("usable", &self.destination.is_ok())
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

/// The connectors of one project, by event type and by id.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_type: [Box<[Arc<Target>]>; EventType::ALL.len()],
    by_id: HashMap<ConnectorId, Arc<Target>>,
    /// Whether any of them has a filter.
    has_filters: bool,
}

impl Subscriptions {
    /// Compiles a project's connectors.
    #[must_use]
    pub fn compile(state: &ProjectState, keyring: &Keyring, base_urls: &BaseUrls) -> Self {
        let targets: Vec<Arc<Target>> = state
            .connectors
            .values()
            .map(|connector| Arc::new(Target::compile(connector, keyring, base_urls)))
            .collect();
        let mut by_type = <[Box<[Arc<Target>]>; EventType::ALL.len()]>::default();
        for kind in EventType::ALL {
            let wanting = targets.iter().filter(|target| target.wants(*kind));
            by_type[kind.index()] = wanting.cloned().collect();
        }
        let has_filters = targets.iter().any(|target| target.filter.is_some());
        let by_id = targets.into_iter().map(|t| (t.key.connector.clone(), t)).collect();
        Self { by_type, by_id, has_filters }
    }

    /// The connectors that are switched on and want this type, suspended ones too.
    #[must_use]
    pub fn matching(&self, kind: EventType) -> &[Arc<Target>] {
        &self.by_type[kind.index()]
    }

    /// Whether an event must be looked at to know which of them want it.
    #[must_use]
    pub const fn has_filters(&self) -> bool {
        self.has_filters
    }

    /// A connector of the project, switched on or not.
    #[must_use]
    pub fn target(&self, connector: &ConnectorId) -> Option<&Arc<Target>> {
        self.by_id.get(connector)
    }

    /// The connector of a delivery that has waited, if it is still wanted; else why not. A connector
    /// that was created at another time than the delivery's is another one with the same id.
    pub fn still_wanted(
        &self,
        connector: &ConnectorId,
        kind: EventType,
        created_at: Option<Timestamp>,
    ) -> Result<&Arc<Target>, Reason> {
        let is_it = |target: &&Arc<Target>| created_at.is_none_or(|at| at == target.created_at);
        let target = self.target(connector).filter(is_it).ok_or(Reason::ConnectorDeleted)?;
        if !target.is_active {
            Err(Reason::ConnectorDisabled)
        } else if !target.event_types.contains(kind) {
            Err(Reason::Unsubscribed)
        } else {
            Ok(target)
        }
    }

    /// All connectors of the project, in no order.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.by_id.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(id: &str, names: &[&str]) -> Connector {
        let json = include_str!("../../tests/fixtures/records/state-connector-1.json");
        let mut connector = Connector::from_json(json.as_bytes()).unwrap();
        connector.key.connector = id.parse().unwrap();
        connector.event_types = EventTypes::parse(names).unwrap();
        connector
    }

    fn keyring(id: &str) -> Keyring {
        Keyring::parse(&[format!("{id}:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")]).unwrap()
    }

    fn compile(connectors: Vec<Connector>, keyring: &Keyring) -> Subscriptions {
        let connectors = connectors.into_iter().map(|c| (c.key.connector.clone(), c)).collect();
        let state = ProjectState { project: None, connectors };
        Subscriptions::compile(&state, keyring, &BaseUrls::default())
    }

    fn ids(targets: &[Arc<Target>]) -> Vec<&str> {
        targets.iter().map(|target| target.key.connector.as_str()).collect()
    }

    #[test]
    fn an_event_matches_who_subscribes_and_is_switched_on() {
        let mut off = connector("conn_3", &["*"]);
        off.is_active = false;
        let connectors = vec![
            connector("conn_1", &["payment.settled"]),
            connector("conn_2", &["*"]),
            off,
            connector("conn_4", &["payment.failed"]),
        ];
        let subscriptions = compile(connectors, &keyring("k1"));
        assert_eq!(ids(subscriptions.matching(EventType::PaymentSettled)), ["conn_1", "conn_2"]);
        assert_eq!(ids(subscriptions.matching(EventType::PaymentFailed)), ["conn_2", "conn_4"]);
        assert_eq!(ids(subscriptions.matching(EventType::EndpointCreated)), ["conn_2"]);
        assert!(subscriptions.target(&"conn_3".parse().unwrap()).is_some());
        assert_eq!(subscriptions.targets().count(), 4);
    }

    #[test]
    fn a_target_shows_no_secret_and_knows_them() {
        let subscriptions = compile(vec![connector("conn_1", &["*"])], &keyring("k1"));
        let target = subscriptions.target(&"conn_1".parse().unwrap()).unwrap();
        assert!(target.destination.is_ok(), "{target:?}");
        assert_eq!(target.secrets.known().len(), 1);
        assert!(!target.trusted && target.suspended.is_some());
        assert!(!format!("{subscriptions:?}").contains("hooks.slack.com"));
    }

    #[test]
    fn a_secret_that_cannot_be_opened_leaves_a_target_that_says_so() {
        let subscriptions = compile(vec![connector("conn_1", &["*"])], &keyring("other"));
        let target = &subscriptions.matching(EventType::PaymentSettled)[0];
        let error = target.destination.as_ref().unwrap_err();
        assert!(error.contains("secrets.keys"), "{error}");
    }

    #[test]
    fn what_only_a_later_version_can_deliver_is_held() {
        let json = include_str!("../../tests/fixtures/records/state-connector-1.json");
        let json = json.replace("\"slack\"", "\"carrier-pigeon\"");
        let mut later = Connector::from_json(json.as_bytes()).unwrap();
        later.resume();
        let subscriptions = compile(vec![later], &keyring("k1"));
        let target = &subscriptions.matching(EventType::PaymentSettled)[0];
        let (reason, words) = target.held().unwrap();
        assert_eq!(reason, Reason::Unusable);
        assert!(words.contains("carrier-pigeon") && words.contains("upgrade"), "{words}");
        let id = "conn_1".parse().unwrap();
        assert!(subscriptions.still_wanted(&id, EventType::PaymentSettled, None).is_ok());
    }

    #[test]
    fn an_operators_base_makes_a_target_trusted() {
        let one = connector("conn_1", &["*"]);
        let connectors = [(one.key.connector.clone(), one)].into();
        let state = ProjectState { project: None, connectors };
        let base = Url::parse("http://127.0.0.1:9999").unwrap();
        let base_urls = [(ConnectorType::Slack, base)].into_iter().collect();
        let subscriptions = Subscriptions::compile(&state, &keyring("k1"), &base_urls);
        assert!(subscriptions.matching(EventType::PaymentSettled)[0].trusted);
    }
}
