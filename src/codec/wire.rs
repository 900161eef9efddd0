//! Confluent's wire format: a zero byte, the schema's id, the payload.

use std::fmt;

use uuid::Uuid;

/// The first byte of a framed value. JSON never begins with it.
pub const MAGIC: u8 = 0;
/// The magic byte and the id.
pub const HEADER_BYTES: usize = 5;

/// How a value names its schema.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SchemaRef {
    /// By the registry's id.
    Id(u32),
    /// By the schema's GUID, which is the same at every registry.
    Guid(Uuid),
}

impl fmt::Display for SchemaRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Guid(guid) => write!(f, "GUID {guid}"),
        }
    }
}

/// The header of values that are written with this schema.
#[must_use]
pub fn header(schema: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = schema.to_be_bytes();
    [MAGIC, a, b, c, d]
}
