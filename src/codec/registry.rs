//! A client of Confluent's Schema Registry protocol: the few calls that this program needs.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{schemas::Schemas, wire::SchemaRef};
use crate::{
    config::SchemaRegistrySettings,
    destination::{Request, Response},
    json::Object,
    outbound::OperatorClient,
    redact::Redactor,
    text::harmless,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes. Schemas are text; the largest in the wild have a few
/// hundred kilobytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Schemas that one schema may refer to, directly or not.
const MAX_REFERENCES: usize = 64;
/// The longest piece of an answer that is quoted, in characters.
const MAX_QUOTED_CHARS: usize = 600;
const CONTENT: &str = "application/vnd.schemaregistry.v1+json";

/// Why the registry did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It answers, and does not have it.
    #[error("the schema registry does not know it: {0}")]
    Unknown(String),
    /// It answers with an error that is not about what it knows: the request, the credentials or
    /// the schema are wrong, or it is in trouble.
    #[error("the schema registry refuses (HTTP {status}): {words}{}", help(*status))]
    Refused {
        /// The status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// It answers with something that is not its protocol.
    #[error("the schema registry's answer cannot be read: {0}")]
    Unreadable(String),
    /// It does not answer.
    #[error("the schema registry does not answer: {0}")]
    Away(String),
}

/// The settings that an answer is about.
const fn help(status: u16) -> &'static str {
    match status {
        401 | 403 => " (schema_registry.username, schema_registry.password)",
        _ => "",
    }
}

impl RegistryError {
    /// The names in a metric label.
    pub const OUTCOMES: &[&'static str] = &["ok", "unknown", "refused", "unreadable", "away"];

    /// The name in a metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Refused { .. } if self.is_away() => "away",
            Self::Refused { .. } => "refused",
            Self::Unreadable(_) => "unreadable",
            Self::Away(_) => "away",
        }
    }

    /// Whether the registry, or what stands in front of it, is not there to answer at present. A
    /// 404 that is not the registry's own comes from another service at its address.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refused { status, .. } => matches!(*status, 404 | 408 | 429 | 500..),
            Self::Unknown(_) | Self::Unreadable(_) => false,
        }
    }
}

/// A schema as the registry keeps it.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// Avro.
    Avro(Box<Schemas>),
    /// JSON Schema: the payload is JSON.
    Json,
    /// Something that this program does not read, and why.
    Other(String),
}

/// What the registry says about a new version of a subject's schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Check {
    /// The subject has no schema yet.
    New,
    /// It may be registered.
    Compatible,
    /// It may not, and why.
    Incompatible(String),
}

/// A client for one registry. Its `Debug` shows no credentials.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    client: OperatorClient,
    base: Url,
    authorization: Option<HeaderValue>,
    /// The password, to keep it out of what the registry says.
    secrets: Vec<SecretString>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaAnswer {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Deserialize)]
struct CheckAnswer {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl RegistryClient {
    /// A client for the registry of the settings, if they name one.
    pub fn new(settings: &SchemaRegistrySettings) -> Result<Option<Self>, String> {
        let Some(base) = settings.url.clone() else { return Ok(None) };
        let certificates = match &settings.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                format!("schema_registry.ca_file: cannot read {}: {error}", path.display())
            })?),
        };
        let client = OperatorClient::new(certificates.as_deref())
            .map_err(|error| format!("schema_registry.ca_file: {error}"))?;
        let authorization = match (&settings.username, &settings.password) {
            (Some(name), password) => {
                let password = password.as_ref().map_or("", |secret| secret.expose_secret());
                let encoded = BASE64.encode(format!("{name}:{password}"));
                let mut value = HeaderValue::from_str(&format!("Basic {encoded}"))
                    .map_err(|error| format!("schema_registry.username: {error}"))?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let secrets = settings.password.iter().cloned().collect();
        Ok(Some(Self { client, base, authorization, secrets }))
    }

    /// Whether the registry has a schema, whatever it is.
    pub async fn has(&self, schema: SchemaRef) -> bool {
        self.answer(schema).await.is_ok()
    }

    async fn answer(&self, schema: SchemaRef) -> Result<SchemaAnswer, RegistryError> {
        match schema {
            SchemaRef::Id(id) => self.get(&["schemas", "ids", &id.to_string()]).await,
            SchemaRef::Guid(guid) => self.get(&["schemas", "guids", &guid.to_string()]).await,
        }
    }

    /// A schema, with all that it refers to.
    pub async fn schema(&self, id: SchemaRef) -> Result<Fetched, RegistryError> {
        let found = self.answer(id).await?;
        match found.schema_type.as_deref() {
            None | Some("AVRO") => {}
            Some("JSON") => return Ok(Fetched::Json),
            Some(other) => {
                let words = format!("schema {id} is {other}; Avro and JSON are read");
                return Ok(Fetched::Other(words));
            }
        }
        let mut todo = found.references.unwrap_or_default();
        let mut texts: Vec<String> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(Reference { subject, version }) = todo.pop() {
            let version = version.to_string();
            if !seen.insert((subject.clone(), version.clone())) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                let words = format!("schema {id} refers to more than {MAX_REFERENCES} others");
                return Ok(Fetched::Other(words));
            }
            let found: SchemaAnswer =
                self.get(&["subjects", &subject, "versions", &version]).await?;
            todo.extend(found.references.unwrap_or_default());
            texts.push(found.schema);
        }
        Ok(match Schemas::of_writer(&found.schema, &texts) {
            Ok(schemas) => Fetched::Avro(Box::new(schemas)),
            Err(error) => Fetched::Other(format!(
                "schema {id} cannot be read: {}",
                crate::json::bounded(&error)
            )),
        })
    }

    /// The id under which a subject has this schema already.
    pub async fn look_up(&self, subject: &str, schema: &str) -> Result<Option<u32>, RegistryError> {
        let found = self.post(&["subjects", subject], None, schema).await;
        match found {
            Ok(IdAnswer { id }) => Ok(Some(id)),
            Err(RegistryError::Unknown(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Registers a schema as a subject's next version; registering it again changes nothing.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let found = self.post(&["subjects", subject, "versions"], None, schema).await;
        found.map(|IdAnswer { id }| id)
    }

    /// Whether a schema may become a subject's next version.
    pub async fn check(&self, subject: &str, schema: &str) -> Result<Check, RegistryError> {
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        match self.post::<CheckAnswer>(&path, Some("verbose=true"), schema).await {
            Ok(answer) if answer.is_compatible => Ok(Check::Compatible),
            Ok(answer) => {
                let mut words = answer.messages;
                words.extend(answer.reason);
                Ok(Check::Incompatible(words.join("; ").chars().take(MAX_QUOTED_CHARS).collect()))
            }
            Err(RegistryError::Unknown(_)) => Ok(Check::New),
            Err(error) => Err(error),
        }
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &[&str]) -> Result<T, RegistryError> {
        self.call(Method::GET, path, None, Bytes::new()).await
    }

    async fn post<T: for<'de> Deserialize<'de>>(
        &self,
        path: &[&str],
        query: Option<&str>,
        schema: &str,
    ) -> Result<T, RegistryError> {
        let body = json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        self.call(Method::POST, path, query, body.into()).await
    }

    async fn call<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Bytes,
    ) -> Result<T, RegistryError> {
        let mut url = self.base.clone();
        url.set_query(query);
        if let Ok(mut segments) = url.path_segments_mut() {
            // Each piece is escaped: a subject is named after a topic, which may hold anything.
            segments.pop_if_empty().extend(path);
        }
        let plain = |name: HeaderName| (name, HeaderValue::from_static(CONTENT));
        let mut headers = vec![plain(ACCEPT), plain(CONTENT_TYPE)];
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        let request = Request { method, url, headers, body };
        let response = self.client.send(request, TIMEOUT, MAX_ANSWER_BYTES).await;
        let response = response.map_err(|error| RegistryError::Away(error.to_string()))?;
        match response.status {
            200..300 if response.body.len() >= MAX_ANSWER_BYTES => Err(RegistryError::Unreadable(
                format!("it is longer than {MAX_ANSWER_BYTES} bytes"),
            )),
            200..300 => match serde_json::from_slice(&response.body) {
                Ok(Object(answer)) => Ok(answer),
                Err(error) => {
                    Err(RegistryError::Unreadable(crate::json::words(&response.body, &error)))
                }
            },
            404 if is_unknown(&response) => {
                Err(RegistryError::Unknown(words(&response, &self.secrets)))
            }
            status => {
                Err(RegistryError::Refused { status, words: words(&response, &self.secrets) })
            }
        }
    }
}

/// Whether a 404 is the registry's own: 40401 (subject), 40402 (version) or 40403 (schema).
fn is_unknown(response: &Response) -> bool {
    let code = response.json().get("error_code").and_then(Value::as_i64);
    code.is_some_and(|code| (40400..40500).contains(&code))
}

/// What the registry says, without the password that it may quote.
fn words(response: &Response, secrets: &[SecretString]) -> String {
    if Redactor::new(secrets).quoted_by(response) {
        return "its answer quotes the password and is left out".to_owned();
    }
    let json = response.json();
    let message = json.get("message").and_then(Value::as_str).map(str::to_owned);
    let message = message.unwrap_or_else(|| response.text());
    message.trim().chars().map(harmless).take(MAX_QUOTED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers each path as told, to callers that present these credentials; others get 401.
    fn registry(answers: &'static [(&'static str, u16, &'static str)]) -> SchemaRegistrySettings {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap() == 0 {
                        break;
                    }
                }
                let lower = head.to_ascii_lowercase();
                let length = lower.split("content-length: ").nth(1);
                let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default();
                // `name:secret` in base64.
                let (status, answer) = if head.contains("Basic bmFtZTpzZWNyZXQ=") {
                    let found = answers.iter().find(|(wanted, ..)| *wanted == path);
                    found.map_or((404, "<html>elsewhere</html>"), |(_, status, body)| {
                        (*status, *body)
                    })
                } else {
                    (401, r#"{"error_code":401,"message":"who are you?"}"#)
                };
                let length = answer.len();
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close");
                write!(stream, "{head}\r\n\r\n{answer}").unwrap();
            }
        });
        SchemaRegistrySettings {
            url: Some(url.parse().unwrap()),
            username: Some("name".to_owned()),
            password: Some("secret".into()),
            ca_file: None,
        }
    }

    fn client(settings: &SchemaRegistrySettings) -> RegistryClient {
        RegistryClient::new(settings).unwrap().unwrap()
    }

    #[tokio::test]
    async fn each_answer_is_understood() {
        let settings = registry(&[
            ("/base/schemas/ids/1", 200, r#"{"schema":"\"string\""}"#),
            (
                "/base/schemas/guids/01234567-89ab-cdef-0123-456789abcdef",
                200,
                r#"{"schema":"\"string\""}"#,
            ),
            ("/base/schemas/ids/9", 200, "<html>sign in</html>"),
            ("/base/schemas/ids/10", 200, r#"["\"string\""]"#),
            (
                "/base/schemas/ids/2",
                200,
                r#"{"schema":"{\"type\":\"record\",\"name\":\"x.E\",\"fields\":[{\"name\":\"m\",\"type\":\"x.M\"}]}","references":[{"name":"x.M","subject":"money","version":3}]}"#,
            ),
            (
                "/base/subjects/money/versions/3",
                200,
                r#"{"subject":"money","id":9,"version":3,"schema":"{\"type\":\"record\",\"name\":\"x.M\",\"fields\":[{\"name\":\"a\",\"type\":\"string\"}]}"}"#,
            ),
            ("/base/schemas/ids/3", 200, r#"{"schema":"{}","schemaType":"JSON"}"#),
            ("/base/schemas/ids/4", 200, r#"{"schema":"syntax","schemaType":"PROTOBUF"}"#),
            ("/base/schemas/ids/5", 404, r#"{"error_code":40403,"message":"Schema not found"}"#),
            ("/base/schemas/ids/6", 503, "busy"),
            ("/base/schemas/ids/7", 200, r#"{"schema":"{\"type\":\"oops\"}"}"#),
            ("/base/subjects/a%2Fb-value", 404, r#"{"error_code":40401,"message":"no subject"}"#),
            ("/base/subjects/a%2Fb-value/versions", 409, r#"{"error_code":409,"message":"no"}"#),
        ]);
        let client = client(&settings);
        let guid = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert!(matches!(client.schema(SchemaRef::Guid(guid)).await, Ok(Fetched::Avro(_))));
        assert!(matches!(client.schema(SchemaRef::Id(1)).await, Ok(Fetched::Avro(_))));
        assert!(matches!(client.schema(SchemaRef::Id(3)).await, Ok(Fetched::Json)));
        assert!(
            matches!(client.schema(SchemaRef::Id(4)).await, Ok(Fetched::Other(why)) if why.contains("PROTOBUF"))
        );
        assert!(matches!(client.schema(SchemaRef::Id(5)).await, Err(RegistryError::Unknown(_))));
        assert!(matches!(client.schema(SchemaRef::Id(6)).await, Err(error) if error.is_away()));
        assert!(matches!(client.schema(SchemaRef::Id(7)).await, Ok(Fetched::Other(_))));
        // Not the registry's own 404: a proxy's, or another service at this address.
        assert!(matches!(
            client.schema(SchemaRef::Id(8)).await,
            Err(RegistryError::Refused { status: 404, .. })
        ));
        assert!(matches!(client.schema(SchemaRef::Id(9)).await, Err(RegistryError::Unreadable(_))));
        assert!(matches!(
            client.schema(SchemaRef::Id(10)).await,
            Err(RegistryError::Unreadable(_))
        ));
        assert!(client.has(SchemaRef::Id(1)).await && !client.has(SchemaRef::Id(6)).await);
        assert_eq!(client.look_up("a/b-value", "\"string\"").await, Ok(None));
        let refused = client.register("a/b-value", "\"string\"").await;
        assert!(matches!(refused, Err(RegistryError::Refused { status: 409, .. })));
    }

    #[tokio::test]
    async fn credentials_are_sent_and_never_shown() {
        let mut settings = registry(&[("/base/schemas/ids/1", 200, r#"{"schema":"\"string\""}"#)]);
        let shown = format!("{settings:?} {:?}", client(&settings));
        assert!(!shown.contains("secret\"") && !shown.contains("bmFtZTpzZWNyZXQ="), "{shown}");
        assert!(client(&settings).schema(SchemaRef::Id(1)).await.is_ok());
        settings.password = Some("wrong".into());
        let refused = client(&settings).schema(SchemaRef::Id(1)).await;
        assert!(matches!(refused, Err(RegistryError::Refused { status: 401, .. })));
        assert!(refused.unwrap_err().to_string().contains("schema_registry.password"));
        settings.ca_file = Some("/no/such/file".into());
        assert!(RegistryClient::new(&settings).unwrap_err().contains("schema_registry.ca_file"));
    }

    #[tokio::test]
    async fn nobody_there_is_away() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = Some(format!("http://{address}").parse().unwrap());
        let settings = SchemaRegistrySettings { url, ..SchemaRegistrySettings::default() };
        assert!(matches!(
            client(&settings).schema(SchemaRef::Id(1)).await,
            Err(RegistryError::Away(_))
        ));
    }
}
