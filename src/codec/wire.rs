//! Confluent's wire format: a zero byte, the schema's id, the payload.

/// The first byte of a framed value. JSON never begins with it.
pub const MAGIC: u8 = 0;
/// The magic byte and the id.
pub const HEADER_BYTES: usize = 5;

/// A value by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form<'a> {
    /// Not framed: JSON, or what else it may be.
    Bare(&'a [u8]),
    /// Framed.
    Framed {
        /// The registry's id of the writer's schema.
        schema: u32,
        /// What follows the header.
        payload: &'a [u8],
    },
    /// Begins like a framed value and ends within the header.
    CutShort,
}

/// Tells a framed value from a bare one.
#[must_use]
pub fn form(value: &[u8]) -> Form<'_> {
    match value {
        [MAGIC, a, b, c, d, payload @ ..] => {
            Form::Framed { schema: u32::from_be_bytes([*a, *b, *c, *d]), payload }
        }
        [MAGIC, ..] => Form::CutShort,
        bare => Form::Bare(bare),
    }
}

/// The header of values that are written with this schema.
#[must_use]
pub fn header(schema: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = schema.to_be_bytes();
    [MAGIC, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_value_is_told_from_a_bare_one() {
        let framed = [&header(258)[..], b"payload"].concat();
        assert_eq!(form(&framed), Form::Framed { schema: 258, payload: b"payload" });
        assert_eq!(form(&header(7)), Form::Framed { schema: 7, payload: b"" });
        assert_eq!(form(&[0, 0, 0, 1]), Form::CutShort);
        assert_eq!(form(b"{}"), Form::Bare(b"{}"));
        assert_eq!(form(b""), Form::Bare(b""));
    }
}
