//! Secrets at rest: what encrypts and decrypts the secret fields of connectors.
//!
//! AES-256-GCM with a random nonce for each value. Project, connector, its type and the field are
//! authenticated with it, so that an encrypted value cannot be moved to another place and be sent
//! to a host of another's choice. Values of the first versions are bound to no type: they can
//! be read, and `dunmore secrets rotate` binds them.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, AeadCore, OsRng, Payload, rand_core::RngCore},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    connector::{
        Change, Command, CommandBody, ConfigValue, Connector, FieldError, Problem, ProblemCode,
        Sealed, mask, to_setting,
    },
    destination::{
        ConnectorType, PREVIOUS_SECRET, PREVIOUS_UNTIL, SIGNING_SECRET, Setting, Settings,
        signing_secret,
    },
    id::ConnectorKey,
};

/// The length of a key, in bytes.
const KEY_BYTES: usize = 32;
/// The length of a new secret to sign requests with, in bytes: as long as the hash.
const SIGNING_BYTES: usize = 32;
/// The longest id of a key, in characters.
const MAX_KEY_ID_CHARS: usize = 64;

/// The keys of this installation: the first encrypts, all decrypt. Its `Debug` shows only ids.
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    id: String,
    cipher: Aes256Gcm,
}

/// An encrypted value cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// The key is not among those of the settings.
    #[error(
        "{field} was encrypted with key {key:?}, which secrets.keys does not have: \
         add that key behind the first one, or give the value again"
    )]
    UnknownKey {
        /// The field.
        field: String,
        /// The key's id.
        key: String,
    },
    /// The value does not belong here, or was damaged.
    #[error(
        "{field} cannot be decrypted with key {key:?}: \
         it was damaged, made for another connector, or the key is another one; \
         give the value again"
    )]
    Refused {
        /// The field.
        field: String,
        /// The key's id.
        key: String,
    },
}

impl Keyring {
    /// Reads a list of `id:base64key`.
    pub fn parse(list: &[String]) -> Result<Self, String> {
        let mut keys: Vec<Key> = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            let key = Key::parse(text).map_err(|error| format!("key {}: {error}", index + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(format!("key {}: the id {:?} is there twice", index + 1, key.id));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("at least one key is needed".to_owned());
        }
        Ok(Self { keys })
    }

    /// A fresh key as `id:base64key`, for the settings.
    #[must_use]
    pub fn generate() -> String {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        OsRng.fill_bytes(&mut *key);
        format!("k{:08x}:{}", OsRng.next_u32(), BASE64.encode(*key))
    }

    /// Encrypts the value of a connector's field.
    #[must_use]
    pub fn seal(
        &self,
        key: &ConnectorKey,
        kind: ConnectorType,
        field: &str,
        plain: &str,
    ) -> Sealed {
        // `parse` lets no empty ring through.
        let first = &self.keys[0];
        let nonce = Aes256Gcm::generate_nonce(&mut OsRng);
        let payload = Payload { msg: plain.as_bytes(), aad: &place(key, Some(kind), field) };
        // Only texts beyond 64 GiB are refused; fields have 8 KiB. Nothing would be kept of it.
        let ciphertext = first.cipher.encrypt(&nonce, payload).unwrap_or_default();
        Sealed {
            key_id: first.id.clone(),
            nonce: nonce.into(),
            ciphertext,
            mask: mask(plain),
            later: Map::new(),
        }
    }

    /// Decrypts the value of a field of a connector of this type.
    pub fn open(
        &self,
        key: &ConnectorKey,
        kind: ConnectorType,
        field: &str,
        sealed: &Sealed,
    ) -> Result<SecretString, SecretError> {
        let bound = self.open_at(&place(key, Some(kind), field), field, sealed);
        match bound {
            Err(SecretError::Refused { .. }) => {
                self.open_at(&place(key, None, field), field, sealed)
            }
            other => other,
        }
    }

    /// Whether a value that can be read is bound to no type: one of the first versions.
    #[must_use]
    pub fn is_unbound(&self, key: &ConnectorKey, field: &str, sealed: &Sealed) -> bool {
        self.open_at(&place(key, None, field), field, sealed).is_ok()
    }

    fn open_at(
        &self,
        place: &[u8],
        field: &str,
        sealed: &Sealed,
    ) -> Result<SecretString, SecretError> {
        let names = || (field.to_owned(), sealed.key_id.clone());
        let unknown = || {
            let (field, key) = names();
            SecretError::UnknownKey { field, key }
        };
        let refused = || {
            let (field, key) = names();
            SecretError::Refused { field, key }
        };
        let found = self.keys.iter().find(|key| key.id == sealed.key_id).ok_or_else(unknown)?;
        let payload = Payload { msg: &sealed.ciphertext, aad: place };
        let plain = found.cipher.decrypt(&sealed.nonce.into(), payload).map_err(|_| refused())?;
        let plain = Zeroizing::new(plain);
        let text = std::str::from_utf8(&plain).map_err(|_| refused())?;
        Ok(SecretString::from(text.to_owned()))
    }

    /// Encrypts every secret of a change that is still plain.
    pub fn seal_change(&self, change: &mut Change) {
        let Change::ConnectorSet(connector) = change else { return };
        let kind = connector.kind;
        for (name, value) in connector.config.iter_mut() {
            if kind.kept_field(name).is_some_and(|field| field.secret)
                && let ConfigValue::Plain(plain) = value
            {
                *value = ConfigValue::Sealed(self.seal_value(&connector.key, kind, name, plain));
            }
        }
    }

    /// The id of the key that encrypts.
    #[must_use]
    pub fn first_key(&self) -> &str {
        &self.keys[0].id
    }

    /// Encrypts the secrets of what a command changes, with the key that it names if it does.
    pub fn seal_decided(&self, command: &Command, change: &mut Change) -> Result<(), Problem> {
        if matches!(command.body, CommandBody::Update { overlap: Some(_), .. }) {
            self.bind_previous(change);
        }
        self.seal_change(change);
        match &command.body {
            CommandBody::Reencrypt { key, .. } => self.reseal_change(change, key),
            _ => Ok(()),
        }
    }

    /// Binds a signing secret that was replaced to the name under which it is kept now.
    fn bind_previous(&self, change: &mut Change) {
        let Change::ConnectorSet(connector) = change else { return };
        let (key, kind) = (&connector.key, connector.kind);
        let found = connector.config.iter_mut().find(|(name, _)| *name == PREVIOUS_SECRET);
        let Some((_, ConfigValue::Sealed(sealed))) = found else { return };
        if self.open(key, kind, PREVIOUS_SECRET, sealed).is_ok() {
            // The command was carried out before.
            return;
        }
        match self.open(key, kind, SIGNING_SECRET, sealed) {
            Ok(plain) => {
                *sealed = self.seal(key, kind, PREVIOUS_SECRET, plain.expose_secret());
            }
            // It signs nothing any more; the new one is what mends the connector.
            Err(error) => {
                tracing::warn!(%error, connector = %key, "a replaced signing secret is dropped");
                connector.config.remove(PREVIOUS_SECRET);
                connector.config.remove(PREVIOUS_UNTIL);
            }
        }
    }

    /// Encrypts the secrets of a change anew that another key than the first encrypted, or that are
    /// bound to no type. The first
    /// must be the one that the sender means: an instance with other settings would undo its work.
    fn reseal_change(&self, change: &mut Change, key: &str) -> Result<(), Problem> {
        if self.first_key() != key {
            let message = format!(
                "is not the first of secrets.keys where commands are decided, which is {:?}: give \
                 every instance the same keys, this one first",
                self.first_key()
            );
            let errors = vec![FieldError::new("key", message)];
            return Err(Problem::with_fields(ProblemCode::ValidationFailed, errors));
        }
        let Change::ConnectorSet(connector) = change else { return Ok(()) };
        let kind = connector.kind;
        let mut errors = Vec::new();
        for (name, value) in connector.config.iter_mut() {
            let ConfigValue::Sealed(sealed) = value else { continue };
            if sealed.key_id == key && !self.is_unbound(&connector.key, name, sealed) {
                continue;
            }
            match self.open(&connector.key, kind, name, sealed) {
                // The mask stays, whatever made it: somebody may send it back.
                Ok(plain) => {
                    let anew = self.seal(&connector.key, kind, name, plain.expose_secret());
                    *sealed = Sealed { mask: std::mem::take(&mut sealed.mask), ..anew };
                }
                Err(error) => {
                    errors.push(FieldError::new(format!("config.{name}"), error.to_string()));
                }
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::with_fields(ProblemCode::SecretUnreadable, errors))
        }
    }

    /// Encrypts every secret that a command brings, before it goes to a topic. An update does not
    /// say the connector's type, so the caller does.
    pub fn seal_command(&self, command: &mut Command, kind: ConnectorType) {
        let Some((key, config)) = place_of(command) else { return };
        for (name, value) in config.iter_mut() {
            let is_secret = kind.kept_field(name).is_some_and(|field| field.secret);
            if is_secret && (value.is_string() || value.is_number()) {
                *value = self.seal_value(&key, kind, name, value).to_value();
            }
        }
    }

    /// Replaces the encrypted values of a command by plain ones. An update does not say the
    /// connector's type, so the caller does: of a connector that is there.
    pub fn open_command(
        &self,
        command: &mut Command,
        existing: Option<ConnectorType>,
    ) -> Result<(), Problem> {
        let kind = match &command.body {
            CommandBody::Create { kind, .. } => Some(*kind),
            _ => existing,
        };
        // What is not there is refused for that reason, whatever its values.
        let Some(kind) = kind else { return Ok(()) };
        let Some((key, config)) = place_of(command) else { return Ok(()) };
        let mut errors = Vec::new();
        for (name, value) in config.iter_mut().filter(|(_, value)| Sealed::is_meant_by(value)) {
            let opened = Sealed::from_value(value).and_then(|sealed| {
                self.open(&key, kind, name, &sealed).map_err(|error| error.to_string())
            });
            match opened {
                Ok(plain) => *value = Value::String(plain.expose_secret().to_owned()),
                Err(error) => errors.push(FieldError::new(format!("config.{name}"), error)),
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::with_fields(ProblemCode::SecretUnreadable, errors))
        }
    }

    /// A connector's settings in plain, to make its destination from.
    pub fn settings(
        &self,
        connector: &Connector,
        base_url: Option<Url>,
    ) -> Result<Settings, SecretError> {
        let mut settings = Settings::new(base_url);
        for field in connector.kind.kept_fields() {
            let setting = match connector.config.get(field.name) {
                None => None,
                Some(ConfigValue::Plain(value)) => to_setting(field, value),
                Some(ConfigValue::Sealed(sealed)) => {
                    match self.open(&connector.key, connector.kind, field.name, sealed) {
                        Ok(plain) => Some(Setting::Text(plain)),
                        // What its owner does not see must not keep the connector from working.
                        Err(_) if connector.kind.field(field.name).is_none() => None,
                        Err(error) => return Err(error),
                    }
                }
            };
            if let Some(setting) = setting {
                settings.insert(field.name, setting);
            }
        }
        Ok(settings)
    }

    /// Encrypts a JSON value as text, and wipes the text that it had.
    fn seal_value(
        &self,
        key: &ConnectorKey,
        kind: ConnectorType,
        field: &str,
        value: &mut Value,
    ) -> Sealed {
        if let Value::String(text) = value {
            let sealed = self.seal(key, kind, field, text);
            text.zeroize();
            sealed
        } else {
            self.seal(key, kind, field, &Zeroizing::new(value.to_string()))
        }
    }
}

/// A new secret to sign requests with, for its owner.
#[must_use]
pub fn new_signing_secret() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; SIGNING_BYTES]);
    OsRng.fill_bytes(&mut *bytes);
    signing_secret(&*bytes)
}

fn place_of(command: &mut Command) -> Option<(ConnectorKey, &mut Map<String, Value>)> {
    let connector = command.body.connector()?.clone();
    let key = ConnectorKey { project: command.project.clone(), connector };
    Some((key, command.body.config_mut()?))
}

/// Where a value belongs, without ambiguity: each part behind its length. Without a type, as the
/// first versions had it.
fn place(key: &ConnectorKey, kind: Option<ConnectorType>, field: &str) -> Vec<u8> {
    let parts = [key.project.as_str(), key.connector.as_str(), field];
    let parts: Vec<&str> = kind.map(ConnectorType::as_str).into_iter().chain(parts).collect();
    let mut place = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        place.extend_from_slice(&(part.len() as u64).to_be_bytes());
        place.extend_from_slice(part.as_bytes());
    }
    place
}

impl Key {
    fn parse(text: &str) -> Result<Self, String> {
        let form = "must look like id:base64key, with a key of 32 bytes";
        let (id, key) = text.split_once(':').ok_or(form)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if id.is_empty() || id.len() > MAX_KEY_ID_CHARS || !id.chars().all(allowed) {
            return Err(format!(
                "its id must have 1 to {MAX_KEY_ID_CHARS} letters, digits and _ . -; {form}"
            ));
        }
        // The key itself must not get into the message.
        let bytes =
            BASE64.decode(key.trim()).map_err(|_| format!("{id:?} is no base64; {form}"))?;
        let bytes = Zeroizing::new(bytes);
        let cipher = Aes256Gcm::new_from_slice(&bytes)
            .map_err(|_| format!("{id:?} has {} bytes; {form}", bytes.len()))?;
        Ok(Self { id: id.to_owned(), cipher })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::Config;

    const URL: &str =
        "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX";

    fn key_text(id: &str, byte: u8) -> String {
        format!("{id}:{}", BASE64.encode([byte; KEY_BYTES]))
    }

    fn ring(keys: &[(&str, u8)]) -> Keyring {
        let list: Vec<String> = keys.iter().map(|(id, byte)| key_text(id, *byte)).collect();
        Keyring::parse(&list).unwrap()
    }

    fn connector() -> Connector {
        let json = include_str!("../tests/fixtures/records/state-connector-1.json");
        Connector::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_recorded_secret_is_opened_for_ever() {
        let ring = ring(&[("k2", 9), ("k1", 7)]);
        let settings = ring.settings(&connector(), None).unwrap();
        assert_eq!(settings.text("webhookUrl").unwrap(), URL);
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let old = ring(&[("k1", 7)]);
        let rotated = ring(&[("k2", 9), ("k1", 7)]);
        let key = connector().key;
        let kind = ConnectorType::Email;
        let sealed = old.seal(&key, kind, "apiKey", "canary-secret");
        assert_eq!(
            rotated.open(&key, kind, "apiKey", &sealed).unwrap().expose_secret(),
            "canary-secret"
        );
        let sealed = rotated.seal(&key, kind, "apiKey", "canary-secret");
        assert_eq!(sealed.key_id, "k2");
        let error = old.open(&key, kind, "apiKey", &sealed).unwrap_err();
        assert!(matches!(error, SecretError::UnknownKey { .. }), "{error}");
        assert_ne!(rotated.seal(&key, kind, "apiKey", "canary-secret").nonce, sealed.nonce);
    }

    #[test]
    fn a_secret_opens_only_where_it_was_sealed() {
        let ring = ring(&[("k1", 7)]);
        let key = connector().key;
        let kind = ConnectorType::Email;
        let sealed = ring.seal(&key, kind, "ab", "canary-secret");
        let mut shifted = key.clone();
        shifted.connector = format!("{}a", key.connector).parse().unwrap();
        let mut other = key.clone();
        other.project = "proj_2".parse().unwrap();
        let mut damaged = sealed.clone();
        damaged.ciphertext[0] ^= 1;
        for (key, kind, field, sealed) in [
            (&key, kind, "abc", &sealed),
            (&shifted, kind, "b", &sealed),
            (&other, kind, "ab", &sealed),
            (&key, kind, "ab", &damaged),
            // Deleted and created again as another type with the same field, whose host is another.
            (&key, ConnectorType::Amplitude, "ab", &sealed),
        ] {
            let error = ring.open(key, kind, field, sealed).unwrap_err();
            assert!(matches!(error, SecretError::Refused { .. }), "{error}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    #[test]
    fn a_recorded_value_is_bound_to_its_type_when_it_is_encrypted_anew() {
        let ring = ring(&[("k1", 7)]);
        let is_unbound = |connector: &Connector| match connector.config.get("webhookUrl") {
            Some(ConfigValue::Sealed(sealed)) => {
                ring.is_unbound(&connector.key, "webhookUrl", sealed)
            }
            other => panic!("{other:?}"),
        };
        assert!(is_unbound(&connector()));
        let mut change = Change::ConnectorSet(connector());
        ring.reseal_change(&mut change, "k1").unwrap();
        let Change::ConnectorSet(bound) = &change else { panic!() };
        assert!(!is_unbound(bound));
        assert_eq!(ring.settings(bound, None).unwrap().text("webhookUrl").unwrap(), URL);
        let mut other = bound.clone();
        other.kind = ConnectorType::Teams;
        assert!(matches!(ring.settings(&other, None), Err(SecretError::Refused { .. })));
    }

    #[test]
    fn wrong_keys_are_refused_without_showing_them() {
        let short = BASE64.encode([7; 16]);
        for (list, message) in [
            (vec![], "at least one"),
            (vec!["canary".to_owned()], "must look like id:base64key"),
            (vec![":canary".to_owned()], "its id"),
            (vec!["k1:canary!".to_owned()], "no base64"),
            (vec![format!("k1:{short}")], "has 16 bytes"),
            (vec![key_text("k1", 1), key_text("k1", 2)], "twice"),
        ] {
            let error = Keyring::parse(&list).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("canary") && !error.contains(&short), "{error}");
        }
        assert_eq!(format!("{:?}", ring(&[("k1", 7), ("k2", 9)])), r#"["k1", "k2"]"#);
        let (one, two) = (Keyring::generate(), Keyring::generate());
        assert_ne!(one, two);
        Keyring::parse(&[one, two]).unwrap();
    }

    #[test]
    fn a_change_is_sealed_once_and_keeps_nothing_plain() {
        let ring = ring(&[("k1", 7)]);
        let mut plain = connector();
        plain.config = Config::default();
        plain.config.insert("webhookUrl", ConfigValue::Plain(URL.into()));
        let mut change = Change::ConnectorSet(plain.clone());
        ring.seal_change(&mut change);
        let json = String::from_utf8(change.to_value().unwrap()).unwrap();
        assert!(!json.contains("T00000000"), "{json}");
        let sealed = change.clone();
        ring.seal_change(&mut change);
        assert_eq!(change, sealed);
        let Change::ConnectorSet(connector) = change else { panic!() };
        assert_eq!(
            connector.config.masked(connector.kind),
            plain.config.masked(plain.kind),
            "sealing must not change what the owner sees"
        );
        let settings = ring.settings(&connector, None).unwrap();
        assert_eq!(settings.text("webhookUrl").unwrap(), URL);
    }

    #[test]
    fn a_change_is_encrypted_anew_with_the_first_key_and_keeps_its_mask() {
        let rotated = ring(&[("k2", 9), ("k1", 7)]);
        let mut before = connector();
        let Some((_, ConfigValue::Sealed(sealed))) = before.config.iter_mut().next() else {
            panic!()
        };
        // As an earlier version of the mask may have been.
        "…earlier".clone_into(&mut sealed.mask);
        let mut change = Change::ConnectorSet(before.clone());
        rotated.reseal_change(&mut change, "k2").unwrap();
        let Change::ConnectorSet(after) = &change else { panic!() };
        assert_eq!(after.to_public_json(), before.to_public_json());
        let only_new = ring(&[("k2", 9)]);
        assert_eq!(only_new.settings(after, None).unwrap().text("webhookUrl").unwrap(), URL);
        // What has the key already is left as it is.
        let once = change.clone();
        rotated.reseal_change(&mut change, "k2").unwrap();
        assert_eq!(change, once);

        let problem = ring(&[("k1", 7), ("k2", 9)]).reseal_change(&mut change, "k2").unwrap_err();
        assert!(problem.code == ProblemCode::ValidationFailed && problem.detail.contains("k1"));
        let mut unreadable = Change::ConnectorSet(before);
        let problem = only_new.reseal_change(&mut unreadable, "k2").unwrap_err();
        assert_eq!(problem.code, ProblemCode::SecretUnreadable);
    }

    /// Whatever is wrong with a command, what it says of that goes to a topic and a log.
    #[test]
    fn no_refusal_of_a_command_quotes_a_value_of_its_configuration() {
        const CANARY: &str = "canary-5e1f";
        let ring = ring(&[("k1", 7)]);
        let shapes = [
            serde_json::json!(CANARY),
            serde_json::json!([CANARY]),
            serde_json::json!({ CANARY: CANARY }),
            serde_json::json!({ "$sealed": CANARY }),
            serde_json::json!({ "$sealed": { "key": 1, "nonce": CANARY } }),
            serde_json::json!({ "$sealed":
                { "key": "k1", "nonce": CANARY, "data": CANARY, "mask": CANARY } }),
            serde_json::json!(format!("https://{CANARY}@[{CANARY}]:{CANARY}/{CANARY}")),
            serde_json::json!(format!("http://127.0.0.1/{CANARY}")),
            serde_json::json!(format!("{CANARY} {CANARY}")),
            serde_json::json!(format!("…{CANARY}")),
        ];
        let egress = crate::egress::EgressPolicy::default();
        let context = crate::connector::Context {
            at: crate::clock::Timestamp::from_millis(0),
            offset: 0,
            egress: &egress,
        };
        let project = crate::connector::Project::from_json(include_bytes!(
            "../tests/fixtures/records/state-project-1.json"
        ));
        let state = crate::connector::ProjectState {
            project: Some(project.unwrap()),
            connectors: std::collections::BTreeMap::new(),
        };
        let mut told = 0;
        for kind in ConnectorType::ALL {
            for field in kind.spec().fields.iter().filter(|field| field.secret) {
                for shape in &shapes {
                    let json = serde_json::json!({ "id": "cmd_1", "type": "connector.create",
                        "projectId": "proj_1", "connectorId": "conn_1", "connector": { "type": kind,
                        "config": { field.name: shape }, "eventTypes": ["*"] } });
                    // Cut in the middle of the value, and unknown besides.
                    let cut = json.to_string().replace(CANARY, "canary-5e1f\u{1}");
                    let unknown = json.to_string().replace("\"config\"", "\"confg\"");
                    for text in [json.to_string(), cut, unknown] {
                        let problem = match Command::read(text.as_bytes()) {
                            Err(refused) => format!("{refused:?}"),
                            Ok(mut command) => match ring.open_command(&mut command, None) {
                                Err(problem) => format!("{problem:?}"),
                                Ok(()) => format!(
                                    "{:?}",
                                    crate::connector::decide(&state, &command, &context)
                                ),
                            },
                        };
                        told += 1;
                        assert!(!problem.contains("canary"), "{text}: {problem}");
                    }
                    let event = crate::event::Event::from_json(json.to_string().into());
                    assert!(!event.unwrap_err().to_string().contains("canary"));
                    let record =
                        crate::delivery::DeliveryRecord::from_json(json.to_string().as_bytes());
                    assert!(!record.unwrap_err().to_string().contains("canary"));
                }
            }
        }
        assert!(told > 500, "{told}");
    }

    #[test]
    fn a_signing_secret_that_was_replaced_is_bound_to_its_new_name() {
        let ring = ring(&[("k1", 7)]);
        let mut connector = connector();
        connector.kind = ConnectorType::Zapier;
        let key = connector.key.clone();
        let stored = ring.seal(&key, ConnectorType::Zapier, SIGNING_SECRET, "whsec_canary");
        connector.config.insert(PREVIOUS_SECRET, ConfigValue::Sealed(stored));
        connector.config.insert(SIGNING_SECRET, ConfigValue::Plain("whsec_new".into()));
        let command = Command::from_value(serde_json::json!({ "id": "cmd_1",
            "type": "connector.update", "projectId": "proj_1", "connectorId": "conn_1",
            "patch": { "config": { "signingSecret": "whsec_new" } }, "overlapSeconds": 60 }));
        let command = command.unwrap();
        let mut change = Change::ConnectorSet(connector);
        // The second time stands for a command that is decided again.
        for _ in 0..2 {
            ring.seal_decided(&command, &mut change).unwrap();
            let Change::ConnectorSet(connector) = &change else { panic!() };
            assert!(!String::from_utf8(connector.to_json()).unwrap().contains("canary"));
            let Some(ConfigValue::Sealed(sealed)) = connector.config.get(PREVIOUS_SECRET) else {
                panic!()
            };
            let open = |name| ring.open(&key, ConnectorType::Zapier, name, sealed);
            assert_eq!(open(PREVIOUS_SECRET).unwrap().expose_secret(), "whsec_canary");
            assert!(open(SIGNING_SECRET).is_err());
        }
        let Change::ConnectorSet(connector) = &mut change else { panic!() };
        let foreign =
            self::ring(&[("k2", 9)]).seal(&key, ConnectorType::Zapier, SIGNING_SECRET, "x");
        connector.config.insert(PREVIOUS_SECRET, ConfigValue::Sealed(foreign));
        connector.config.insert(PREVIOUS_UNTIL, ConfigValue::Plain("2026".into()));
        // What cannot be opened signs nothing, and does not keep the connector from working.
        let Change::ConnectorSet(connector) = &change else { panic!() };
        let settings = ring.settings(connector, None).unwrap();
        assert!(settings.optional(PREVIOUS_SECRET).is_none());
        ring.seal_decided(&command, &mut change).unwrap();
        let Change::ConnectorSet(connector) = &change else { panic!() };
        assert!(connector.config.get(PREVIOUS_SECRET).is_none());
        assert!(connector.config.get(PREVIOUS_UNTIL).is_none());
    }

    #[test]
    fn a_command_travels_sealed() {
        let ring = ring(&[("k1", 7)]);
        let record = include_str!("../tests/fixtures/records/command-create-1.json");
        let plain = Command::read(record.as_bytes()).unwrap();
        let mut command = plain.clone();
        ring.seal_command(&mut command, ConnectorType::Slack);
        let json = String::from_utf8(command.to_json()).unwrap();
        assert!(!json.contains("T00000000"), "{json}");
        let mut command = Command::read(json.as_bytes()).unwrap();
        ring.open_command(&mut command, None).unwrap();
        assert_eq!(command, plain);

        ring.seal_command(&mut command, ConnectorType::Slack);
        command.project = "proj_2".parse().unwrap();
        let problem = ring.open_command(&mut command, None).unwrap_err();
        assert_eq!(problem.code, ProblemCode::SecretUnreadable);
        assert_eq!(problem.errors[0].field, "config.webhookUrl");
    }
}
