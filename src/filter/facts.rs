//! The event as an expression sees it: the variable `event`, with what the producer wrote.

use std::{cell::OnceCell, collections::HashMap, fmt, sync::Arc};

use cel::{
    Context,
    common::{
        types::{
            CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
        },
        value::Val,
    },
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{ENVIRONMENT, FilterError};

/// The name of the variable.
pub(super) const EVENT: &str = "event";
/// The largest event that filters look at, in bytes of its JSON text.
pub const MAX_EVENT_BYTES: usize = 16 * 1024;
/// The most items of a list or object in it.
pub const MAX_EVENT_ITEMS: usize = 100;
/// How deep lists and objects may stand within each other.
pub const MAX_EVENT_DEPTH: usize = 16;

/// One event for any number of filters: read when the first one looks at it.
pub struct Facts<'e> {
    json: &'e [u8],
    context: OnceCell<Result<Context<'e, 'e>, FilterError>>,
}

impl<'e> Facts<'e> {
    /// Those of an event's JSON text.
    #[must_use]
    pub const fn of(json: &'e [u8]) -> Self {
        Self { json, context: OnceCell::new() }
    }

    pub(super) fn context(&self) -> Result<&Context<'e, 'e>, FilterError> {
        self.context.get_or_init(|| self.read()).as_ref().map_err(Clone::clone)
    }

    fn read(&self) -> Result<Context<'e, 'e>, FilterError> {
        if self.json.len() > MAX_EVENT_BYTES {
            let words = format!("the event has more than {MAX_EVENT_BYTES} bytes");
            return Err(FilterError::new(words));
        }
        let mut reader = serde_json::Deserializer::from_slice(self.json);
        let read = Node { depth: 0 }.deserialize(&mut reader);
        let event = read.and_then(|event| reader.end().map(|()| event));
        let event = event
            .map_err(|error| FilterError::new(format_args!("the event cannot be read: {error}")))?;
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_variable_as_val(EVENT, event);
        Ok(context)
    }
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

/// A JSON value as one of the expression language; its texts are borrowed.
#[derive(Clone, Copy)]
struct Node {
    depth: usize,
}

type Boxed<'e> = Box<dyn Val + 'e>;

impl Node {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_EVENT_DEPTH {
            return Err(E::custom(format_args!("it is more than {MAX_EVENT_DEPTH} deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

fn too_many<E: Error>() -> E {
    E::custom(format_args!("a list or object has more than {MAX_EVENT_ITEMS} items"))
}

impl<'e> DeserializeSeed<'e> for Node {
    type Value = Boxed<'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Boxed<'e>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for Node {
    type Value = Boxed<'e>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Boxed<'e>, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Ok(Box::new(CelUInt::from(value))),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'e str) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelString::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Boxed<'e>, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut items: A) -> Result<Boxed<'e>, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            if list.len() >= MAX_EVENT_ITEMS {
                return Err(too_many());
            }
            list.push(item);
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'e>>(self, mut fields: A) -> Result<Boxed<'e>, A::Error> {
        let inner = self.inner()?;
        let mut map = HashMap::new();
        while let Some(name) = fields.next_key::<String>()? {
            if map.len() >= MAX_EVENT_ITEMS {
                return Err(too_many());
            }
            map.insert(CelMapKey::from(name), fields.next_value_seed(inner)?);
        }
        Ok(Box::new(CelMap::from(map)))
    }
}
