//! How many connectors are suspended, by type and reason: counted as state records come, because to
//! look for them would read the whole view.

use std::collections::BTreeMap;

use crate::connector::{Connector, SuspensionCode};

/// A suspended connector's field; few records have it.
const FIELD: &[u8] = b"\"suspendedReason\"";

/// What a suspended connector counts as: its type, and the code of the reason.
pub type Class = (String, String);

/// How many connectors are suspended, by type and code of the reason.
pub type Counts = BTreeMap<Class, u64>;

/// What a connector's JSON counts as; nothing when it is not suspended.
pub fn class(json: &[u8]) -> Option<Class> {
    // The cheap look first: most connectors work.
    memchr::memmem::find(json, FIELD)?;
    let connector = Connector::from_json(json).ok()?;
    let code = SuspensionCode::of(&connector.suspended_reason?);
    Some((connector.kind.as_str().to_owned(), code.to_string()))
}

/// Takes a change in.
pub fn change(counts: &mut Counts, before: Option<Class>, after: Option<Class>) {
    if before == after {
        return;
    }
    if let Some(before) = before
        && let Some(count) = counts.get_mut(&before)
    {
        *count = count.saturating_sub(1);
    }
    if let Some(after) = after {
        *counts.entry(after).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTOR: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");

    #[test]
    fn what_is_suspended_is_counted_by_type_and_code() {
        let suspended = |reason: &str| {
            let mut json: serde_json::Value = serde_json::from_str(CONNECTOR).unwrap();
            json["suspendedReason"] = serde_json::json!(reason);
            class(json.to_string().as_bytes())
        };
        let mut works: serde_json::Value = serde_json::from_str(CONNECTOR).unwrap();
        works.as_object_mut().unwrap().shift_remove("suspendedReason");
        assert_eq!(class(works.to_string().as_bytes()), None);
        works["suspendedReason"] = serde_json::Value::Null;
        assert_eq!(class(works.to_string().as_bytes()), None);
        assert_eq!(class(b"{\"suspendedReason\""), None);
        let gone = suspended("gone: HTTP 404: no_service");
        assert_eq!(gone, Some(("slack".to_owned(), "http_404".to_owned())));
        let mut counts = Counts::default();
        change(&mut counts, None, gone.clone());
        change(&mut counts, gone.clone(), gone.clone());
        change(&mut counts, None, gone.clone());
        change(&mut counts, gone.clone(), suspended("by hand"));
        change(&mut counts, None, None);
        let other = ("slack".to_owned(), "other".to_owned());
        assert_eq!(counts, Counts::from([(gone.clone().unwrap(), 1), (other, 1)]));
        change(&mut counts, gone.clone(), None);
        assert_eq!(counts[&gone.unwrap()], 0, "a series that was there stays, at 0");
    }
}
