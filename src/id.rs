//! Ids: what names a project, a connector, an event, a command, a delivery.
//!
//! Ids from outside are non-empty, at most [`MAX_ID_CHARS`] characters of `[A-Za-z0-9_.:-]`, so
//! that they can stand in a Kafka key, a header and a log line without escaping.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The longest id that is accepted, in characters (all of them ASCII, so also bytes).
pub const MAX_ID_CHARS: usize = 128;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`MAX_ID_CHARS`].
    #[error("must have at most {MAX_ID_CHARS} characters, has {0}")]
    TooLong(usize),
    /// A character outside `[A-Za-z0-9_.:-]`.
    #[error("must consist of letters, digits and _ . : - only, has {0:?}")]
    Character(char),
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_CHARS {
        return Err(IdError::TooLong(text.chars().count()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-');
    match text.bytes().position(|b| !allowed(b)) {
        None => Ok(()),
        Some(at) => Err(IdError::Character(text[at..].chars().next().unwrap_or('\u{fffd}'))),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and makes it an id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an id (a string)")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(|error| E::custom(format_args!("an id {error}")))
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

text_id!(
    /// A project: the owner of endpoints and connectors.
    ProjectId
);
text_id!(
    /// A connector, unique within its project.
    ConnectorId
);
text_id!(
    /// A payment event; the producer makes it unique.
    EventId
);
text_id!(
    /// A connector command; the sender makes it unique.
    CommandId
);

impl CommandId {
    /// A new command id, ordered by time.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(format!("cmd_{}", uuid.simple()).into())
    }
}

impl ConnectorId {
    /// A new connector id, ordered by time.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(format!("conn_{}", uuid.simple()).into())
    }
}

/// A connector's full name: connector ids are unique only within their project.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectorKey {
    /// The project that owns the connector.
    pub project: ProjectId,
    /// The connector within it.
    pub connector: ConnectorId,
}

impl fmt::Display for ConnectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.connector)
    }
}

/// The namespace of all delivery ids (a `UUIDv4` chosen once; never change it, or every
/// destination's deduplication forgets what it has seen).
const DELIVERIES: Uuid = Uuid::from_u128(0x6b0c_9a3e_52d1_4f7b_9c1d_0e8f_a47c_21b5);

/// The stable name of one delivery: `UUIDv5` of connector and event (RFC 9562, section 5.5).
///
/// Every attempt, retry, replay and redrive of the same pair has the same id, and destinations
/// that deduplicate get it as their key. The project is part of it because connector ids are
/// unique only within a project, and some destinations deduplicate over all their customers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(Uuid);

impl DeliveryId {
    /// The id of the delivery of an event to a connector.
    #[must_use]
    pub fn new(connector: &ConnectorKey, event: &EventId) -> Self {
        DeliveryNamespace::of(connector).delivery(event)
    }

    /// The bare UUID.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for DeliveryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The connector's half of its delivery ids, worked out once per connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryNamespace(Uuid);

impl DeliveryNamespace {
    /// The namespace of a connector's deliveries.
    #[must_use]
    pub fn of(connector: &ConnectorKey) -> Self {
        Self(Uuid::new_v5(&DELIVERIES, connector.to_string().as_bytes()))
    }

    /// The id of the delivery of this event to this connector.
    #[must_use]
    pub fn delivery(self, event: &EventId) -> DeliveryId {
        DeliveryId(Uuid::new_v5(&self.0, event.as_str().as_bytes()))
    }
}

/// The id that Kafka gave a topic when it was created (KIP-516). A topic that is deleted and created
/// again under its name has another one, and its offsets mean other records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(Uuid);

impl TopicId {
    /// The id in these two halves; `None` for the nil id, which a broker without topic ids answers.
    #[must_use]
    pub fn from_halves(most_significant: u64, least_significant: u64) -> Option<Self> {
        let id = Uuid::from_u64_pair(most_significant, least_significant);
        (!id.is_nil()).then_some(Self(id))
    }

    /// Reads what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let id = Uuid::from_bytes(bytes);
        (!id.is_nil()).then_some(Self(id))
    }
}

impl fmt::Display for TopicId {
    /// As Kafka's own tools print it: 22 characters of base64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_only_the_allowed_characters() {
        assert!(EventId::parse("evt_01JD.a:b-c").is_ok());
        assert_eq!(EventId::parse(""), Err(IdError::Empty));
        assert_eq!(EventId::parse("a b"), Err(IdError::Character(' ')));
        assert_eq!(EventId::parse("aé"), Err(IdError::Character('é')));
        assert_eq!(EventId::parse(&"x".repeat(129)), Err(IdError::TooLong(129)));
        assert!(EventId::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn a_delivery_id_never_changes() {
        let key = ConnectorKey {
            project: ProjectId::parse("proj_1").unwrap(),
            connector: ConnectorId::parse("conn_1").unwrap(),
        };
        let event = EventId::parse("evt_1").unwrap();
        let id = DeliveryId::new(&key, &event);
        insta::assert_snapshot!(id, @"29add280-1bd3-5738-8b64-5cb6457b81ad");
        assert_eq!(id.uuid().get_version_num(), 5);
        let other = ConnectorKey { project: ProjectId::parse("proj_2").unwrap(), ..key };
        assert_ne!(id, DeliveryId::new(&other, &event));
    }
}
