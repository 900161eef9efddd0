//! Settings: defaults, then a TOML file, then the environment, then flags. The one room that reads
//! the environment.

mod example;
mod wrong;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
    value::{Dict, Value},
};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};
use url::Url;

use crate::{
    delivery::{HOLD, MAX_DEFERRED_AGE, RetryPolicy},
    destination::{App, ConnectorType},
    egress::EgressPolicy,
    kafka::{Connection, StartFrom, Topics},
    lane::FIRST_REST,
    view::BaseUrls,
};

mod api;
mod notices;

pub use api::{ApiSettings, JwtSettings, MAX_CORS_ORIGINS, TokenSettings, read_tokens};
pub use example::example;
pub use notices::NoticeSettings;

/// The prefix of environment variables; `__` stands between levels.
pub const ENV_PREFIX: &str = "DUNMORE_";

/// Every setting's name, `<type>` and `*` standing for any name, with a word of help.
pub const KNOWN: &[(&str, &str)] = &[
    ("kafka.bootstrap_servers", "host:port list of the brokers"),
    ("kafka.properties.*", "passed to librdkafka as they are"),
    ("topics.prefix", "before every topic name"),
    ("topics.partitions", "for `topics ensure`"),
    ("topics.replication_factor", "for `topics ensure`"),
    (
        "topics.state_partitions",
        "partitions of the state topic when it was first used; only if it got more since",
    ),
    ("group.id", "the consumer group"),
    (
        "group.start",
        "where reading begins when the group's committed offsets are lost: beginning, end, or a time",
    ),
    (
        "group.revoke_timeout",
        "how long requests under way may take when the group gives their partition to another instance",
    ),
    ("data_dir", "where the view is kept"),
    ("api.listen", "address of the REST API"),
    ("api.tokens", "who may call the API: a list of { name, sha256, projects }"),
    ("api.tokens_file", "a file with more [[api.tokens]], read again when it changes"),
    ("api.cors_origins", "the origins whose pages may call the API, exactly as browsers send them"),
    ("api.requests_per_second", "of one caller; 0 = no limit"),
    ("api.jwt.key_file", "the key of signed tokens: a public key in PEM, or the shared key"),
    ("api.jwt.jwks_file", "the keys of signed tokens as a JWK set, instead of one key"),
    ("api.jwt.algorithm", "HS256, RS256, ES256 or EdDSA"),
    ("api.jwt.issuer", "the `iss` of signed tokens"),
    ("api.jwt.audience", "the `aud` of signed tokens"),
    ("api.jwt.projects_claim", "the claim with the caller's projects; default `projects`"),
    ("admin.listen", "address of /metrics, /healthz, /readyz, the admin API and the console"),
    (
        "admin.token_sha256",
        "the hash of the admin token; without one there is no admin API and no console",
    ),
    ("secrets.keys", "id:base64key list; the first encrypts, all decrypt"),
    ("egress.allow_cidrs", "private networks that users' URLs may name"),
    ("egress.allow_http", "plain http to those networks"),
    ("destinations.<type>.base_url", "replaces scheme, host and port of what the type calls"),
    ("destinations.<type>.token_url", "replaces the token endpoint of the type"),
    ("destinations.<type>.client_id", "the operator's own app, for a customer's refreshToken"),
    ("destinations.<type>.client_secret", "its secret"),
    ("destinations.<type>.rate_per_second", "requests per second and connector; 0 = no limit"),
    ("destinations.<type>.concurrency", "requests at once per connector"),
    ("destinations.<type>.timeout", "how long an answer may take"),
    ("delivery.retry_tiers", "the delays of the retry topics"),
    ("delivery.max_deferred_age", "how long a delivery may be deferred without a request"),
    ("delivery.hold", "how long the deliveries of a suspended connector wait for its owner"),
    ("delivery.max_in_flight", "deliveries at once per instance"),
    ("delivery.attempt_log", "all, failures or off"),
    ("delivery.shutdown_grace", "how long in-flight work may take at shutdown"),
    ("notices.webhook_url", "every notice of every project is posted there, as a CloudEvent"),
    ("notices.signing_secret", "signs what is posted there, by Standard Webhooks: whsec_…"),
    ("schema_registry.url", "a Confluent-compatible registry; with it Avro is read and written"),
    ("schema_registry.username", "for basic authentication at the registry"),
    ("schema_registry.password", "for basic authentication at the registry"),
    ("schema_registry.ca_file", "certificates in PEM that are trusted beside the usual ones"),
    (
        "telemetry.otlp_endpoint",
        "a collector of traces, http://host:4318; without it none are made",
    ),
    ("telemetry.sample_ratio", "the share of traces begun for events that bring none; default 1"),
    ("log.format", "auto, text or json"),
    ("log.filter", "which log lines are written, for example info or dunmore_connectors=debug"),
];

/// The settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaSettings,
    /// The topics.
    pub topics: TopicSettings,
    /// The consumer group.
    pub group: GroupSettings,
    /// Where the view is kept.
    pub data_dir: PathBuf,
    /// The REST API.
    pub api: ApiSettings,
    /// Metrics and health.
    pub admin: AdminSettings,
    /// Encryption of secrets.
    pub secrets: SecretSettings,
    /// Where users' URLs may point.
    pub egress: EgressSettings,
    /// Per destination type.
    pub destinations: BTreeMap<ConnectorType, DestinationSettings>,
    /// Delivery.
    pub delivery: DeliverySettings,
    /// Notices of connectors.
    pub notices: NoticeSettings,
    /// Schema registry.
    pub schema_registry: SchemaRegistrySettings,
    /// Traces.
    pub telemetry: TelemetrySettings,
    /// Logs.
    pub log: LogSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kafka: KafkaSettings::default(),
            topics: TopicSettings::default(),
            group: GroupSettings::default(),
            data_dir: "./data".into(),
            api: ApiSettings::default(),
            admin: AdminSettings::default(),
            secrets: SecretSettings::default(),
            egress: EgressSettings::default(),
            destinations: BTreeMap::new(),
            delivery: DeliverySettings::default(),
            notices: NoticeSettings::default(),
            schema_registry: SchemaRegistrySettings::default(),
            telemetry: TelemetrySettings::default(),
            log: LogSettings::default(),
        }
    }
}

/// `kafka.*`
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct KafkaSettings {
    /// The brokers' addresses.
    pub bootstrap_servers: Option<String>,
    /// For librdkafka, as they are. Their values may be secrets.
    #[serde(deserialize_with = "properties")]
    pub properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

/// `topics.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TopicSettings {
    /// Before every topic name.
    pub prefix: String,
    /// For `topics ensure`.
    pub partitions: i32,
    /// For `topics ensure`.
    pub replication_factor: i32,
    /// How many partitions the state topic had when it was first used, if it has more now.
    pub state_partitions: Option<i32>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            prefix: "dunmore.".to_owned(),
            partitions: 6,
            replication_factor: 1,
            state_partitions: None,
        }
    }
}

/// `group.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct GroupSettings {
    /// The consumer group's id.
    #[serde(deserialize_with = "text")]
    pub id: String,
    /// Where reading begins when the group's committed offsets are lost.
    #[serde(deserialize_with = "start_from")]
    pub start: Option<StartFrom>,
    /// How long what is under way may take when the group takes its partition.
    #[serde(deserialize_with = "duration")]
    pub revoke_timeout: Duration,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            id: "dunmore-connectors".to_owned(),
            start: None,
            // As long as the slowest type's answer may take.
            revoke_timeout: Duration::from_secs(60),
        }
    }
}

/// `admin.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct AdminSettings {
    /// Where metrics and health are served.
    pub listen: SocketAddr,
    /// The SHA-256, in hexadecimal digits, of the token that the admin API asks for. Without one
    /// there is no admin API.
    pub token_sha256: Option<String>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)), token_sha256: None }
    }
}

/// `secrets.*`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SecretSettings {
    /// `id:base64key`, the first encrypts.
    #[serde(deserialize_with = "secret_list")]
    pub keys: Vec<SecretString>,
}

/// `egress.*`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EgressSettings {
    /// Private networks that users' URLs may name.
    #[serde(deserialize_with = "cidr_list")]
    pub allow_cidrs: Vec<IpNet>,
    /// Plain http to those networks.
    pub allow_http: bool,
}

/// `destinations.<type>.*`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DestinationSettings {
    /// Replaces scheme, host and port of what the type calls.
    pub base_url: Option<Url>,
    /// Replaces the token endpoint of the type; a URL without a path keeps the vendor's.
    pub token_url: Option<Url>,
    /// The operator's own app, for connectors that have only a refresh token.
    #[serde(deserialize_with = "optional_text")]
    pub client_id: Option<String>,
    /// Its secret.
    #[serde(deserialize_with = "optional_secret")]
    pub client_secret: Option<SecretString>,
    /// Requests per second and connector; 0 = no limit.
    pub rate_per_second: Option<f64>,
    /// Requests at once per connector.
    pub concurrency: Option<u32>,
    /// How long an answer may take.
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
}

impl DestinationSettings {
    /// The operator's own app.
    #[must_use]
    pub fn app(&self) -> Option<App> {
        let app = self.client_id.clone().zip(self.client_secret.clone());
        app.map(|(client_id, client_secret)| App { client_id, client_secret })
    }
}

/// Which attempts are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptLogging {
    /// Every one.
    All,
    /// Those that were not delivered.
    Failures,
    /// None.
    Off,
}

/// The shortest `delivery.hold`: the keeper looks each second.
pub const SHORTEST_HOLD: Duration = Duration::from_secs(1);
/// The longest `delivery.hold`: the topic of held deliveries keeps its records so long.
pub const LONGEST_HOLD: Duration = Duration::from_secs(90 * 24 * 3600);

/// `delivery.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct DeliverySettings {
    /// The delays of the retry topics.
    #[serde(deserialize_with = "retry_policy")]
    pub retry_tiers: RetryPolicy,
    /// How long a delivery may be put off without a request.
    #[serde(deserialize_with = "duration")]
    pub max_deferred_age: Duration,
    /// How long the deliveries of a suspended connector wait for its owner.
    #[serde(deserialize_with = "hold")]
    pub hold: Duration,
    /// Deliveries at once per instance.
    pub max_in_flight: u32,
    /// Which attempts are recorded.
    pub attempt_log: AttemptLogging,
    /// How long in-flight work may take at shutdown.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            retry_tiers: RetryPolicy::default(),
            max_deferred_age: MAX_DEFERRED_AGE,
            hold: HOLD,
            max_in_flight: 4096,
            attempt_log: AttemptLogging::All,
            // With five seconds for the rest it is below the 30 s that Kubernetes waits by default.
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

impl DeliverySettings {
    /// The retry policy.
    #[must_use]
    pub fn policy(&self) -> RetryPolicy {
        self.retry_tiers.clone().with_max_deferred_age(self.max_deferred_age).with_hold(self.hold)
    }

    /// What works and is hardly meant so, in a sentence.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let total = self.retry_tiers.total();
        (total < FIRST_REST).then(|| {
            format!(
                "delivery.retry_tiers take {} together, less than the {} for which a failing \
                 destination is left alone: deliveries end before it is asked again",
                humantime::format_duration(total),
                humantime::format_duration(FIRST_REST),
            )
        })
    }
}

/// `schema_registry.*`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SchemaRegistrySettings {
    /// Where the registry is.
    pub url: Option<Url>,
    /// For basic authentication.
    #[serde(deserialize_with = "optional_text")]
    pub username: Option<String>,
    /// For basic authentication.
    #[serde(deserialize_with = "optional_secret")]
    pub password: Option<SecretString>,
    /// Certificates in PEM that are trusted beside the usual ones.
    pub ca_file: Option<PathBuf>,
}

/// `telemetry.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TelemetrySettings {
    /// Where spans go, over OTLP with HTTP.
    pub otlp_endpoint: Option<Url>,
    /// The share of traces begun for events that bring none.
    pub sample_ratio: f64,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    Auto,
    /// Readable.
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// How log lines look.
    pub format: LogFormat,
    /// Which are written.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

/// What is wrong with the settings, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the file (when one is named) and the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let (config, wrong) = Self::examine(file);
        if wrong.is_empty() { Ok(config) } else { Err(ConfigError(wrong.join("; "))) }
    }

    /// Reads the same, and everything that is wrong with it, in sentences; what is wrong has its
    /// default.
    #[must_use]
    pub fn examine(file: Option<&Path>) -> (Self, Vec<String>) {
        let names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        let mut wrong = wrong::unknown_variables(names.iter().map(String::as_str));
        let mut figment = Figment::new();
        match file.map(read_toml).transpose() {
            Ok(Some(text)) => figment = figment.merge(Toml::string(&text)),
            Ok(None) => {}
            Err(error) => wrong.push(error),
        }
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let figment = with_texts(figment.merge(environment()), variables);
        let (config, more) = Self::from_figment(&figment);
        wrong.extend(more);
        (config, wrong)
    }

    /// Reads settings from a TOML text alone, for tests and embedded runs.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let (config, wrong) = Self::from_figment(&Figment::new().merge(Toml::string(text)));
        if wrong.is_empty() { Ok(config) } else { Err(ConfigError(wrong.join("; "))) }
    }

    fn from_figment(figment: &Figment) -> (Self, Vec<String>) {
        let values: Dict = match figment.extract() {
            Ok(values) => values,
            Err(error) => return (Self::default(), vec![error.to_string()]),
        };
        let mut wrong = Vec::new();
        check_names(&values, "", &mut wrong);
        let (config, values) = wrong::extract(known_only(values, ""));
        wrong.extend(values);
        wrong.extend(config.check());
        (config, wrong)
    }

    /// What no single value shows, or its type does not.
    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut refuse = |is_wrong: bool, words: &str| {
            if is_wrong {
                wrong.push(words.to_owned());
            }
        };
        let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
        refuse(self.topics.partitions < 1, "topics.partitions must be at least 1");
        refuse(self.topics.replication_factor < 1, "topics.replication_factor must be at least 1");
        refuse(
            self.topics.state_partitions.is_some_and(|count| count < 1),
            "topics.state_partitions must be at least 1",
        );
        refuse(self.delivery.max_in_flight < 1, "delivery.max_in_flight must be at least 1");
        refuse(
            !(0.0..=1.0).contains(&self.telemetry.sample_ratio),
            "telemetry.sample_ratio must be between 0 and 1",
        );
        refuse(
            self.telemetry.otlp_endpoint.as_ref().is_some_and(|url| !is_web(url)),
            "telemetry.otlp_endpoint must be an http or https URL, for example http://localhost:4318",
        );
        let prefix = &self.topics.prefix;
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        refuse(
            !prefix.bytes().all(is_plain) || prefix.len() > 100,
            "topics.prefix may have letters, digits and . _ - only, at most 100",
        );
        let registry = self.schema_registry.url.as_ref();
        refuse(
            registry.is_some_and(|url| !is_web(url)),
            "schema_registry.url must be an http or https URL, for example http://localhost:8081",
        );
        refuse(
            registry.is_some_and(|url| !url.username().is_empty() || url.password().is_some()),
            "schema_registry.url must not hold credentials: use schema_registry.username and schema_registry.password",
        );
        let digest = self.admin.token_sha256.as_deref();
        refuse(
            digest.is_some_and(|d| d.len() != 64 || !d.bytes().all(|b| b.is_ascii_hexdigit())),
            "admin.token_sha256 must be 64 hexadecimal digits; `dunmore token create --admin` makes a token and prints them",
        );
        if let Err(error) = self.api.check() {
            refuse(true, &error.to_string());
        }
        self.notices.check().iter().for_each(|words| refuse(true, words));
        for (kind, set) in &self.destinations {
            for (name, url) in [("base_url", &set.base_url), ("token_url", &set.token_url)] {
                refuse(
                    url.as_ref().is_some_and(|url| !is_web(url)),
                    &format!(
                        "destinations.{kind}.{name} must be an http or https URL, for example https://gateway.example.com"
                    ),
                );
            }
            let has_more =
                |url: &Url| url.path() != "/" || url.query().is_some() || url.fragment().is_some();
            refuse(
                set.base_url.as_ref().is_some_and(|url| is_web(url) && has_more(url)),
                &format!(
                    "destinations.{kind}.base_url must end with the host and port: it replaces those, and the path stays that of the URL that the type calls"
                ),
            );
            refuse(
                set.client_id.is_some() != set.client_secret.is_some(),
                &format!(
                    "destinations.{kind}.client_id and destinations.{kind}.client_secret go together: set both or neither"
                ),
            );
        }
        wrong
    }

    /// What is called instead of the vendors, and as which apps.
    #[must_use]
    pub fn base_urls(&self) -> BaseUrls {
        let mut urls = BaseUrls::default();
        for (kind, set) in &self.destinations {
            if let Some(base) = &set.base_url {
                urls.insert(*kind, base.clone());
            }
            urls.set_tokens(*kind, set.token_url.clone(), set.app());
        }
        urls
    }

    /// The topics' names, and how they must be configured.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::new(&self.topics.prefix, &self.delivery.policy())
    }

    /// How to reach Kafka.
    pub fn connection(&self) -> Result<Connection, ConfigError> {
        let servers = self.kafka.bootstrap_servers.clone().filter(|servers| !servers.is_empty());
        let servers = servers.ok_or_else(|| {
            ConfigError(
                "kafka.bootstrap_servers is not set: name your brokers in the settings file or in \
                 DUNMORE_KAFKA__BOOTSTRAP_SERVERS, for example localhost:9092 (to only try this \
                 out, use `dunmore serve --embedded`)"
                    .to_owned(),
            )
        })?;
        Ok(Connection::new(servers, self.kafka.properties.clone()))
    }

    /// The key texts for encrypting secrets.
    pub fn secret_keys(&self) -> Result<Vec<String>, ConfigError> {
        if self.secrets.keys.is_empty() {
            return Err(ConfigError(
                "secrets.keys is not set: connectors' secrets are encrypted with it. Make one with \
                 `echo \"k1:$(openssl rand -base64 32)\"` and set it in the settings file or in \
                 DUNMORE_SECRETS__KEYS"
                    .to_owned(),
            ));
        }
        Ok(self.secrets.keys.iter().map(|key| key.expose_secret().to_owned()).collect())
    }

    /// Where users' URLs may point.
    pub fn egress_policy(&self) -> EgressPolicy {
        EgressPolicy {
            allow_cidrs: self.egress.allow_cidrs.clone(),
            allow_http: self.egress.allow_http,
        }
    }

    /// The effective settings as name and value, secrets masked.
    pub fn show(&self) -> Vec<(String, String)> {
        let mut rows = vec![
            row("kafka.bootstrap_servers", self.kafka.bootstrap_servers.as_deref().unwrap_or("")),
            row("topics.prefix", &self.topics.prefix),
            row("topics.partitions", self.topics.partitions),
            row("topics.replication_factor", self.topics.replication_factor),
            row("group.id", &self.group.id),
            row("group.start", self.group.start.map(|start| start.to_string()).unwrap_or_default()),
            row("group.revoke_timeout", humantime::format_duration(self.group.revoke_timeout)),
            row("data_dir", self.data_dir.display()),
            row("admin.listen", self.admin.listen),
            row("admin.token_sha256", self.admin.token_sha256.as_deref().unwrap_or_default()),
            row("secrets.keys", self.shown_keys()),
            row("egress.allow_cidrs", list(&self.egress.allow_cidrs)),
            row("egress.allow_http", self.egress.allow_http),
            row("delivery.retry_tiers", &self.delivery.retry_tiers),
            row(
                "delivery.max_deferred_age",
                humantime::format_duration(self.delivery.max_deferred_age),
            ),
            row("delivery.hold", humantime::format_duration(self.delivery.hold)),
            row("delivery.max_in_flight", self.delivery.max_in_flight),
            row("delivery.attempt_log", format!("{:?}", self.delivery.attempt_log).to_lowercase()),
            row(
                "delivery.shutdown_grace",
                humantime::format_duration(self.delivery.shutdown_grace),
            ),
            row(
                "schema_registry.url",
                self.schema_registry.url.as_ref().map(shown_url).unwrap_or_default(),
            ),
            row(
                "telemetry.otlp_endpoint",
                self.telemetry.otlp_endpoint.as_ref().map(shown_url).unwrap_or_default(),
            ),
            row("telemetry.sample_ratio", self.telemetry.sample_ratio),
            row("log.format", format!("{:?}", self.log.format).to_lowercase()),
            row("log.filter", &self.log.filter),
        ];
        let registry = &self.schema_registry;
        for (name, value) in [
            ("username", registry.username.clone()),
            ("password", registry.password.as_ref().map(|_| "…".to_owned())),
            ("ca_file", registry.ca_file.as_ref().map(|path| path.display().to_string())),
        ] {
            rows.extend(value.map(|value| row(&format!("schema_registry.{name}"), value)));
        }
        if let Some(count) = self.topics.state_partitions {
            rows.push(row("topics.state_partitions", count));
        }
        rows.extend(self.api.rows());
        rows.extend(self.notices.rows());
        for (key, value) in &self.kafka.properties {
            // Which properties are secrets is librdkafka's business; the harmless ones are known.
            let harmless = ["protocol", "mechanism", "mechanisms", "location", "timeout.ms"];
            let shown = if harmless.iter().any(|end| key.ends_with(end)) { value } else { "…" };
            rows.push(row(&format!("kafka.properties.{key}"), shown));
        }
        for (kind, settings) in &self.destinations {
            let mut add = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    rows.push(row(&format!("destinations.{kind}.{name}"), value));
                }
            };
            add("base_url", settings.base_url.as_ref().map(shown_url));
            add("token_url", settings.token_url.as_ref().map(shown_url));
            add("client_id", settings.client_id.clone());
            add("client_secret", settings.client_secret.as_ref().map(|_| "…".to_owned()));
            add("rate_per_second", settings.rate_per_second.map(|r| r.to_string()));
            add("concurrency", settings.concurrency.map(|c| c.to_string()));
            let timeout = settings.timeout.map(|t| humantime::format_duration(t).to_string());
            add("timeout", timeout);
        }
        rows.sort();
        rows
    }

    fn shown_keys(&self) -> String {
        let ids = self.secrets.keys.iter().map(|key| {
            // Without an id it may be the key itself.
            let id = key.expose_secret().split_once(':').map_or("", |(id, _)| id);
            format!("{id}:…")
        });
        ids.collect::<Vec<_>>().join(", ")
    }
}

/// Where the file is wrong, without the line itself: it may hold a secret.
fn no_toml(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let message = error.message().replace('\n', ", ");
    format!("{} is no valid TOML at line {line}, column {column}: {message}", path.display())
}

fn row(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The name of the user that runs this program, where the system says it.
#[must_use]
pub fn user() -> Option<String> {
    let names = ["USER", "LOGNAME", "USERNAME"].into_iter();
    names.filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty())
}

/// The environment's settings; other variables with the prefix are kept apart from them.
fn environment() -> Env {
    Env::prefixed(ENV_PREFIX)
        .filter(|key| {
            let variable = format!("{ENV_PREFIX}{}", key.as_str().to_ascii_uppercase());
            wrong::is_setting(&variable)
        })
        .split("__")
}

/// The text of a settings file that is TOML.
fn read_toml(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the settings file {}: {error}", path.display()))?;
    match toml::from_str::<toml::Table>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(no_toml(path, &text, &error)),
    }
}

/// The values that are settings.
fn known_only(values: Dict, path: &str) -> Dict {
    let known = values.into_iter().filter_map(|(key, value)| {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if KNOWN.iter().any(|(known, _)| matches_name(known, &name)) {
            return Some((key, value));
        }
        let is_branch = KNOWN.iter().any(|(known, _)| is_prefix(&name, known));
        match value {
            Value::Dict(tag, inner) if is_branch => {
                Some((key, Value::Dict(tag, known_only(inner, &name))))
            }
            _ => None,
        }
    });
    known.collect()
}

/// Settings that are texts whatever they look like: a password of digits keeps its leading zeros.
fn with_texts(figment: Figment, variables: impl Iterator<Item = (String, String)>) -> Figment {
    variables.fold(figment, |figment, (name, value)| {
        let Some(name) = name.strip_prefix(ENV_PREFIX) else { return figment };
        let name = name.to_ascii_lowercase().replace("__", ".");
        let is_text =
            matches!(name.as_str(), "schema_registry.username" | "schema_registry.password")
                || (name.starts_with("destinations.") && name.contains(".client_"))
                || name.starts_with("kafka.properties.");
        // In quotes it is a text already, without them.
        let looks_like_another =
            ["true", "false"].contains(&value.trim()) || value.trim().parse::<f64>().is_ok();
        if is_text && looks_like_another { figment.merge((name, value)) } else { figment }
    })
}

/// A URL as it may be shown: without a user's name, a password, or parameters.
fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    // Only URLs that have no host refuse this, and they have neither.
    if !url.username().is_empty() {
        let _ = shown.set_username("***");
    }
    if url.password().is_some() {
        let _ = shown.set_password(Some("***"));
    }
    if url.query().is_some() {
        shown.set_query(Some("***"));
    }
    shown.to_string()
}

/// Collects every name that is no setting, with the nearest that is.
fn check_names(values: &Dict, path: &str, unknown: &mut Vec<String>) {
    for (key, value) in values {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let is_leaf = KNOWN.iter().any(|(known, _)| matches_name(known, &name));
        let is_branch = KNOWN.iter().any(|(known, _)| is_prefix(&name, known));
        match value {
            _ if is_leaf => {}
            Value::Dict(_, inner) if is_branch => check_names(inner, &name, unknown),
            _ if is_branch => unknown.push(format!("{name} must be a table of settings")),
            _ => unknown.push(format!("unknown setting {name:?}{}", nearest(&name))),
        }
    }
}

fn matches_name(known: &str, name: &str) -> bool {
    let (mut known, mut name) = (known.split('.'), name.split('.'));
    loop {
        match (known.next(), name.next()) {
            (Some("*"), Some(_)) | (None, None) => return true,
            (Some("<type>"), Some(kind)) if kind.parse::<ConnectorType>().is_ok() => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

fn is_prefix(name: &str, known: &str) -> bool {
    let (mut known, mut parts) = (known.split('.'), name.split('.'));
    loop {
        match (known.next(), parts.next()) {
            (Some(_), None) => return true,
            (Some("<type>"), Some(kind)) if kind.parse::<ConnectorType>().is_ok() => {}
            (Some("*"), Some(_)) => return true,
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

fn nearest(name: &str) -> String {
    let types = ConnectorType::ALL.iter().map(|kind| kind.as_str());
    let candidates = KNOWN.iter().flat_map(|(known, _)| {
        if known.contains("<type>") {
            types.clone().map(|kind| known.replace("<type>", kind)).collect()
        } else {
            vec![(*known).to_owned()]
        }
    });
    // A misspelt table is compared with tables, not with what is in them.
    let depth = name.split('.').count();
    candidates
        .map(|known| known.split('.').take(depth).collect::<Vec<_>>().join("."))
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2)
        .map(|(_, known)| format!(", did you mean {known:?}?"))
        .unwrap_or_default()
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(scalar(&<Value as Deserialize>::deserialize(deserializer)?))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Char(_, c) => c.to_string(),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, n) => n
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| n.to_u128().map(|n| n.to_string()))
            .or_else(|| n.to_f64().map(|n| n.to_string()))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

/// Properties may be nested by their dots (TOML) or written with underscores (environment).
fn properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    fn flatten(values: &Dict, path: &str, flat: &mut BTreeMap<String, String>) {
        for (key, value) in values {
            let key = key.replace('_', ".");
            let name = if path.is_empty() { key } else { format!("{path}.{key}") };
            match value {
                Value::Dict(_, inner) => flatten(inner, &name, flat),
                value => {
                    flat.insert(name, scalar(value));
                }
            }
        }
    }
    let mut flat = BTreeMap::new();
    flatten(&Dict::deserialize(deserializer)?, "", &mut flat);
    Ok(flat)
}

/// A list, or one text with commas.
fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match <Value as Deserialize>::deserialize(deserializer)? {
        Value::Array(_, items) => Ok(items.iter().map(scalar).collect()),
        Value::Dict(..) => Err(de::Error::custom("must be a list of texts")),
        value => Ok(scalar(&value)
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()),
    }
}

fn secret_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    Ok(strings(deserializer)?.into_iter().map(SecretString::from).collect())
}

/// A text, also one that looks like a number. Its errors never quote it: it may be a password.
fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match <Value as Deserialize>::deserialize(deserializer)? {
        Value::Dict(..) | Value::Array(..) | Value::Empty(..) => {
            Err(de::Error::custom("must be a text"))
        }
        value => Ok(Some(scalar(&value))),
    }
}

fn optional_secret<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    Ok(optional_text(deserializer)?.map(SecretString::from))
}

fn cidr_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    strings(deserializer)?
        .iter()
        .map(|text| {
            let network = text.parse().ok();
            let network = network.or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)));
            network.ok_or_else(|| {
                de::Error::custom(format!("{text:?} is no network such as 10.0.0.0/8"))
            })
        })
        .collect()
}

fn retry_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RetryPolicy, D::Error> {
    strings(deserializer)?.join(",").parse().map_err(de::Error::custom)
}

fn start_from<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StartFrom>, D::Error> {
    let text = text(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = text(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("{text:?}: {error}; write for example 30s")))
}

fn hold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let hold = duration(deserializer)?;
    if hold < SHORTEST_HOLD || hold > LONGEST_HOLD {
        return Err(de::Error::custom(format!(
            "{}: write {} to {}",
            humantime::format_duration(hold),
            humantime::format_duration(SHORTEST_HOLD),
            humantime::format_duration(LONGEST_HOLD)
        )));
    }
    Ok(hold)
}

fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = Config::from_toml("").unwrap();
        let rows: Vec<String> =
            config.show().iter().map(|(name, value)| format!("{name} = {value}")).collect();
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn an_unknown_setting_is_named_with_the_nearest_known_one() {
        let error = |text: &str| Config::from_toml(text).unwrap_err().to_string();
        assert_eq!(
            error("[kafka]\nbootstrap_server = 'x'"),
            "unknown setting \"kafka.bootstrap_server\", did you mean \"kafka.bootstrap_servers\"?"
        );
        assert_eq!(
            error("[destinations.slack]\nbase_ur = 'x'"),
            "unknown setting \"destinations.slack.base_ur\", did you mean \"destinations.slack.base_url\"?"
        );
        assert!(error("[destinations.slak]\nbase_url = 'x'").contains("\"destinations.slack\""));
        assert!(error("datadir = 'x'").contains("data_dir"));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_name() {
        let error = |text: &str| Config::from_toml(text).unwrap_err().to_string();
        assert!(error("[topics]\npartitions = 'many'").contains("topics.partitions"));
        assert!(error("[delivery]\nretry_tiers = '5x'").contains("delivery.retry_tiers"));
        assert!(error("[egress]\nallow_cidrs = ['10/8']").contains("10.0.0.0/8"));
        assert!(error("[admin]\nlisten = 'here'").contains("admin.listen"));
        assert!(error("[topics]\npartitions = 0").contains("topics.partitions"));
    }

    #[test]
    fn a_password_of_digits_is_taken_and_never_told() {
        let config = Config::from_toml(
            "destinations.hubspot.client_id = 5\ndestinations.hubspot.client_secret = 12345\n\
             secrets.keys = [\"canarykey\"]",
        )
        .unwrap();
        let set = &config.destinations[&ConnectorType::Hubspot];
        assert_eq!(set.client_secret.as_ref().unwrap().expose_secret(), "12345");
        let shown: String = config.show().into_iter().map(|(_, value)| value).collect();
        assert!(!shown.contains("12345") && !shown.contains("canarykey"), "{shown}");
        let error = Config::from_toml("destinations.hubspot.client_secret = [12345]").unwrap_err();
        assert!(!error.to_string().contains("12345"), "{error}");
        let config = Config::from_toml("schema_registry.password = 12345").unwrap();
        let password = config.schema_registry.password.unwrap();
        assert_eq!(password.expose_secret(), "12345");
        let error = Config::from_toml("schema_registry.password = [12345]").unwrap_err();
        assert!(!error.to_string().contains("12345"), "{error}");
        let variables = [
            ("DUNMORE_SCHEMA_REGISTRY__PASSWORD", "007"),
            ("DUNMORE_KAFKA__PROPERTIES__SASL_PASSWORD", "0123"),
            ("DUNMORE_TOPICS__PARTITIONS", "3"),
            ("OTHER", "1"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let figment = Figment::new().merge(Toml::string("schema_registry.password = 7"));
        let (config, wrong) = Config::from_figment(&with_texts(figment, variables.into_iter()));
        assert_eq!(wrong, Vec::<String>::new());
        let password = config.schema_registry.password.unwrap();
        assert_eq!(password.expose_secret(), "007");
        assert_eq!(config.kafka.properties["sasl.password"], "0123");
    }

    #[test]
    fn credentials_in_urls_are_masked() {
        let config = Config::from_toml(
            "telemetry.otlp_endpoint = 'https://user:canary@collector:4318/v1?key=canary'\n\
             destinations.slack.base_url = 'https://canary:canary@gateway/'",
        );
        let shown = format!("{:?}", config.unwrap().show());
        assert!(!shown.contains("canary") && shown.contains("collector:4318"), "{shown}");
    }

    #[test]
    fn properties_are_taken_however_they_are_written() {
        let config = Config::from_toml(
            "[kafka.properties]\n\"security.protocol\" = 'SASL_SSL'\nsasl.mechanism = 'PLAIN'\n\
             sasl_password = 'secret'\n",
        );
        let config = config.unwrap();
        let properties = &config.kafka.properties;
        assert_eq!(properties["security.protocol"], "SASL_SSL");
        assert_eq!(properties["sasl.mechanism"], "PLAIN");
        assert_eq!(properties["sasl.password"], "secret");
        assert!(!format!("{config:?} {:?}", config.show()).contains("'secret'"));
        assert!(!config.show().iter().any(|(_, value)| value.contains("secret")));
    }
}
