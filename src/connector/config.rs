//! A connector's configuration as it is kept: plain values, and secrets that are encrypted.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};
use url::Url;

use crate::destination::{ConnectorType, Field, Setting, Settings, Shape};

/// The one key of the JSON object that stands for an encrypted value.
pub const SEALED: &str = "$sealed";

/// Stands for what a mask leaves out. No setting that is sent to a vendor contains it.
pub(super) const ELLIPSIS: char = '…';

/// The shortest text of which a mask shows the end, in characters.
const MIN_RECOGNISABLE_CHARS: usize = 12;

/// An encrypted secret, and the mask by which people recognise it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The key that it was encrypted with.
    pub key_id: String,
    /// AES-GCM's nonce, random for each value.
    pub nonce: [u8; 12],
    /// The encrypted text and its authentication tag.
    pub ciphertext: Vec<u8>,
    /// What is shown instead of the text.
    pub mask: String,
    /// What a later version wrote beside that.
    pub later: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct SealedWire {
    key: String,
    nonce: String,
    data: String,
    mask: String,
    #[serde(flatten)]
    later: Map<String, Value>,
}

impl Sealed {
    /// Whether a JSON value is meant to be an encrypted one.
    #[must_use]
    pub fn is_meant_by(value: &Value) -> bool {
        matches!(value, Value::Object(map) if map.contains_key(SEALED))
    }

    /// The JSON form, `{"$sealed": {…}}`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({ SEALED: SealedWire {
            key: self.key_id.clone(),
            nonce: BASE64.encode(self.nonce),
            data: BASE64.encode(&self.ciphertext),
            mask: self.mask.clone(),
            later: self.later.clone(),
        }})
    }

    /// Reads the JSON form.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let inner = value.get(SEALED).ok_or("is no encrypted value")?;
        // The parser's own words would quote what was given instead, which may be a secret.
        let wire = SealedWire::deserialize(inner)
            .map_err(|_| format!("{SEALED} must have key, nonce, data and mask, each a text"))?;
        let bytes = |name: &str, text: &str| {
            BASE64.decode(text).map_err(|_| format!("{SEALED}.{name} is no base64"))
        };
        let nonce = bytes("nonce", &wire.nonce)?;
        Ok(Self {
            key_id: wire.key,
            nonce: nonce.try_into().map_err(|_| format!("{SEALED}.nonce must have 12 bytes"))?,
            ciphertext: bytes("data", &wire.data)?,
            mask: wire.mask,
            later: wire.later,
        })
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {:?})", self.key_id)
    }
}

/// One value of a configuration. Its `Debug` shows no value.
#[derive(Clone, PartialEq, Eq)]
pub enum ConfigValue {
    /// As the user gave it.
    Plain(Value),
    /// Encrypted.
    Sealed(Sealed),
}

impl ConfigValue {
    /// What is shown instead of a secret.
    #[must_use]
    pub fn mask(&self) -> String {
        match self {
            Self::Plain(Value::String(text)) => mask(text),
            Self::Plain(_) => ELLIPSIS.to_string(),
            Self::Sealed(sealed) => sealed.mask.clone(),
        }
    }

    /// The text, where it is a plain one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn from_value(value: Value) -> Result<Self, String> {
        if Sealed::is_meant_by(&value) {
            Sealed::from_value(&value).map(Self::Sealed)
        } else {
            Ok(Self::Plain(value))
        }
    }
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain"),
            Self::Sealed(sealed) => sealed.fmt(f),
        }
    }
}

/// A connector's configuration: field name to value. Its `Debug` shows only names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config(BTreeMap<String, ConfigValue>);

impl Config {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&ConfigValue> {
        self.0.get(field)
    }

    /// Sets a field.
    pub fn insert(&mut self, field: impl Into<String>, value: ConfigValue) {
        self.0.insert(field.into(), value);
    }

    /// Removes a field; tells whether it was there.
    pub fn remove(&mut self, field: &str) -> bool {
        self.0.remove(field).is_some()
    }

    /// The fields, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ConfigValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The fields, ordered by name, to change their values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut ConfigValue)> {
        self.0.iter_mut().map(|(name, value)| (name.as_str(), value))
    }

    /// The configuration as the API shows it: in the declared order, secrets masked. What this
    /// version does not know could be a secret of a later one, so it is masked too.
    #[must_use]
    pub fn masked(&self, kind: ConnectorType) -> Map<String, Value> {
        let known = kind.spec().fields.iter().filter_map(|field| {
            let value = match (field.secret, self.get(field.name)?) {
                (false, ConfigValue::Plain(value)) => value.clone(),
                (_, value) => Value::String(value.mask()),
            };
            Some((field.name.to_owned(), value))
        });
        let later = self
            .iter()
            .filter(|(name, _)| kind.kept_field(name).is_none())
            .map(|(name, value)| (name.to_owned(), Value::String(value.mask())));
        known.chain(later).collect()
    }

    /// The values that are plain, and which others there are, as settings: enough for checks, not
    /// for deliveries.
    #[must_use]
    pub(super) fn plain_settings(&self, kind: ConnectorType) -> Settings {
        let mut settings = Settings::new(None);
        for field in kind.spec().fields {
            let setting = match self.get(field.name) {
                Some(ConfigValue::Plain(value)) => to_setting(field, value),
                Some(ConfigValue::Sealed(_)) => Some(Setting::Kept),
                None => None,
            };
            if let Some(setting) = setting {
                settings.insert(field.name, setting);
            }
        }
        settings
    }
}

/// A kept value as a setting; `None` when it does not have the field's shape.
#[must_use]
pub(crate) fn to_setting(field: &Field, value: &Value) -> Option<Setting> {
    match (field.shape, value) {
        (Shape::Text, Value::String(text)) => Some(Setting::Text(text.clone().into())),
        (Shape::Text, Value::Number(number)) => Some(Setting::Text(number.to_string().into())),
        (Shape::List, Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(Setting::List),
        _ => None,
    }
}

/// A setting as a value to keep: numbers that were given for texts have become texts.
#[must_use]
pub(super) fn to_value(setting: &Setting) -> Value {
    match setting {
        Setting::Text(text) => Value::String(text.expose_secret().to_owned()),
        Setting::List(items) => Value::from(items.clone()),
        // What is read from a command is there in plain.
        Setting::Kept => Value::Null,
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| {
            let value = match value {
                ConfigValue::Plain(value) => value.clone(),
                ConfigValue::Sealed(sealed) => sealed.to_value(),
            };
            (name, value)
        }))
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, Value>::deserialize(deserializer)?
            .into_iter()
            .map(|(name, value)| {
                let value = ConfigValue::from_value(value)
                    .map_err(|error| de::Error::custom(format_args!("config.{name}: {error}")))?;
                Ok((name, value))
            })
            .collect::<Result<_, D::Error>>()
            .map(Self)
    }
}

/// What is shown instead of a secret text: always the same for the same text, and enough for its
/// owner to recognise it. A URL keeps scheme and host, a long text its last four characters.
#[must_use]
pub fn mask(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            let origin = url.origin().ascii_serialization();
            let hidden = &url[url::Position::BeforePath..];
            format!("{origin}/{ELLIPSIS}/{}", masked_tail(hidden))
        }
        _ => masked_tail(text),
    }
}

fn masked_tail(text: &str) -> String {
    let count = text.chars().count();
    let kept = if count < MIN_RECOGNISABLE_CHARS { 0 } else { 4 };
    std::iter::once(ELLIPSIS).chain(text.chars().skip(count - kept)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_recognisable_and_gives_little_away() {
        let cases = [
            (
                "https://hooks.slack.com/services/T0/B0/secretab3f",
                "https://hooks.slack.com/…/…ab3f",
            ),
            (
                "https://u:pw@n8n.example.com:8443/webhook/0000ab3f",
                "https://n8n.example.com:8443/…/…ab3f",
            ),
            ("https://example.com/x", "https://example.com/…/…"),
            ("xoxb-000000ab3f", "…ab3f"),
            ("elevenchars", "…"),
            ("éééééééééééé", "…éééé"),
            ("", "…"),
        ];
        for (text, expected) in cases {
            assert_eq!(mask(text), expected);
        }
    }

    #[test]
    fn no_value_is_shown() {
        let mut config = Config::default();
        config.insert("webhookUrl", ConfigValue::Plain(json!("https://canary.example/secret")));
        config.insert("region", ConfigValue::Plain(json!("canary")));
        assert_eq!(format!("{config:?}"), r#"{"region", "webhookUrl"}"#);
        let values: Vec<_> = config.iter().collect();
        assert!(!format!("{values:?}").contains("canary"));
        let masked = Value::Object(config.masked(ConnectorType::Slack)).to_string();
        assert!(!masked.contains("secret"), "{masked}");
    }

    #[test]
    fn only_texts_are_secret_because_only_texts_are_encrypted() {
        for kind in ConnectorType::ALL {
            for field in kind.spec().fields {
                assert!(!field.secret || field.shape == Shape::Text, "{kind} {field:?}");
            }
        }
    }

    #[test]
    fn a_damaged_encrypted_value_is_an_error_not_a_plain_value() {
        for text in [
            r#"{"a":{"$sealed":{}}}"#,
            r#"{"a":{"$sealed":{"key":"k","nonce":"AAAA","data":"","mask":""}}}"#,
            r#"{"a":{"$sealed":{"key":"k","nonce":"?","data":"","mask":""}}}"#,
        ] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text}");
        }
    }
}
