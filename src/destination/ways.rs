//! The ways to authenticate at a service, of which a configuration has exactly one.

use std::fmt;

use super::Settings;

/// One complete way to authenticate.
#[derive(Clone, Copy)]
pub struct Way {
    /// The fields that make it up.
    pub fields: &'static [&'static str],
    /// What it is good for, in a few words.
    pub what: &'static str,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(self.fields))
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A list of names as people write it.
fn joined(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Whether a field is part of a way, so that it is needed with some and refused with others.
#[must_use]
pub fn is_in_a_way(ways: &[Way], field: &str) -> bool {
    ways.iter().any(|way| way.fields.contains(&field))
}

/// The ways in words.
#[must_use]
pub fn listed(ways: &[Way]) -> String {
    ways.iter().map(Way::to_string).collect::<Vec<_>>().join("; or ")
}

/// What is wrong with the way that settings have, by field.
#[must_use]
pub fn check(ways: &[Way], settings: &Settings) -> Vec<(&'static str, String)> {
    let mut given: Vec<&'static str> = Vec::new();
    for field in ways.iter().flat_map(|way| way.fields) {
        if settings.has(field) && !given.contains(field) {
            given.push(*field);
        }
    }
    let (Some(last), all) = (ways.last(), listed(ways)) else { return Vec::new() };
    let takes = |way: &&Way| given.iter().all(|field| way.fields.contains(field));
    let is_whole = |way: &Way| way.fields.iter().all(|field| given.contains(field));
    if ways.iter().any(|way| takes(&way) && is_whole(way)) {
        return Vec::new();
    }
    let need = format!("give exactly one way to authenticate: {all}");
    if given.is_empty() {
        let field = last.fields.first().copied().unwrap_or_default();
        return vec![(field, format!("is missing: {need}"))];
    }
    // The way that lacks the least, or else the fullest one that is there: what is not in it is
    // too much.
    let nearest = ways.iter().filter(takes).min_by_key(|way| way.fields.len());
    if let Some(way) = nearest {
        let missing = way.fields.iter().filter(|field| !given.contains(field));
        return missing.map(|field| (*field, format!("is missing: {need}"))).collect();
    }
    let whole = ways.iter().rev().filter(|way| is_whole(way)).max_by_key(|way| way.fields.len());
    let kept = whole.map_or(&given[..1], |way| way.fields);
    let extra = given.iter().filter(|field| !kept.contains(field));
    extra.map(|field| (*field, format!("does not go with {}: {need}", joined(kept)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{ConnectorType, Setting};

    fn wrong(kind: ConnectorType, given: &[&'static str]) -> Vec<String> {
        let mut settings = Settings::new(None);
        for (index, field) in given.iter().enumerate() {
            assert!(kind.field(field).is_some(), "{kind} {field}");
            // A stored secret is as good as one that is given.
            let value = if index % 2 == 0 { Setting::Kept } else { Setting::Text("x".into()) };
            settings.insert(field, value);
        }
        let errors = check(kind.spec().ways, &settings);
        errors.iter().map(|(field, message)| format!("{field} {message}")).collect()
    }

    #[test]
    fn exactly_one_complete_way_is_taken() {
        use ConnectorType as T;
        for (kind, good) in [
            (T::Bigquery, &["serviceAccountKey"][..]),
            (T::Bigquery, &["accessToken"]),
            (T::Salesforce, &["clientId", "clientSecret"]),
            (T::Salesforce, &["clientId", "username", "privateKey"]),
            (T::Salesforce, &["accessToken"]),
            (T::Xero, &["clientId", "clientSecret"]),
            (T::Xero, &["accessToken"]),
            (T::Hubspot, &["clientId", "clientSecret", "refreshToken"]),
            (T::Hubspot, &["refreshToken"]),
            (T::Hubspot, &["accessToken"]),
            (T::Slack, &[]),
        ] {
            assert_eq!(wrong(kind, good), [""; 0], "{kind} {good:?}");
        }
        for (kind, bad, fields) in [
            (T::Bigquery, &[][..], &["accessToken is missing"][..]),
            (
                T::Bigquery,
                &["accessToken", "serviceAccountKey"],
                &["accessToken does not go with serviceAccountKey"],
            ),
            (T::Salesforce, &["clientId"], &["clientSecret is missing"]),
            (T::Salesforce, &["clientSecret"], &["clientId is missing"]),
            (T::Salesforce, &["privateKey"], &["clientId is missing", "username is missing"]),
            (
                T::Salesforce,
                &["clientId", "clientSecret", "username"],
                &["username does not go with clientId and clientSecret"],
            ),
            (
                T::Salesforce,
                &["clientId", "clientSecret", "username", "privateKey"],
                &["clientSecret does not go with clientId, username and privateKey"],
            ),
            (T::Xero, &["clientId"], &["clientSecret is missing"]),
            (T::Hubspot, &["clientId", "clientSecret"], &["refreshToken is missing"]),
            (
                T::Hubspot,
                &["refreshToken", "accessToken"],
                &["accessToken does not go with refreshToken"],
            ),
        ] {
            let wrong = wrong(kind, bad);
            assert_eq!(wrong.len(), fields.len(), "{kind} {bad:?}: {wrong:?}");
            for (error, expected) in wrong.iter().zip(fields) {
                assert!(error.starts_with(expected), "{error}");
                assert!(error.contains(&listed(kind.spec().ways)), "{error}");
            }
        }
    }
}
