//! Destinations as documentation: the table of them all, settings to try one with, and a request
//! as it would be sent.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    BatchLimits, Batching, ConnectorType, Request, Setting, Settings, Shape, Spec, is_in_a_way,
};
use crate::{
    event::{EventType, EventTypes},
    redact::{MASK, Redactor},
};

/// The Markdown table of all types.
#[must_use]
pub fn table() -> String {
    let mut table = String::from(
        "| type | category | config | what an event becomes | batch | against repeats | limits |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for &kind in ConnectorType::ALL {
        let spec = kind.spec();
        let cells = [
            format!("[{kind}]({})", spec.docs),
            spec.category.as_str().to_owned(),
            fields(spec),
            becomes(spec),
            batch(spec),
            spec.dedup.to_owned(),
            limits(spec),
        ];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}

/// The names of its fields.
#[must_use]
pub fn fields(spec: &Spec) -> String {
    let (ways, plain): (Vec<_>, Vec<_>) =
        spec.fields.iter().partition(|field| is_in_a_way(spec.ways, field.name));
    let name = |field: &&super::Field| match (field.required, field.shape) {
        (true, Shape::Text) => format!("`{}`", field.name),
        (true, Shape::List) => format!("`{}` (list)", field.name),
        (false, _) => format!("`{}` (optional)", field.name),
    };
    let mut cells: Vec<String> = plain.iter().map(name).collect();
    if !ways.is_empty() {
        let way = |way: &super::Way| {
            way.fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" + ")
        };
        let ways: Vec<String> = spec.ways.iter().map(way).collect();
        cells.push(format!("one of: {}", ways.join("; ")));
    }
    cells.join(", ")
}

/// What event types become, those that become the same together: the largest group comes last
/// and needs no names.
#[must_use]
pub fn becomes(spec: &Spec) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for &kind in EventType::ALL {
        let text = (spec.becomes)(kind);
        match groups.iter_mut().find(|(known, _)| *known == text) {
            Some((_, kinds)) => kinds.push(kind.as_str()),
            None => groups.push((text, vec![kind.as_str()])),
        }
    }
    groups.sort_by_key(|(_, kinds)| kinds.len());
    let last = groups.len().saturating_sub(1);
    let describe = |(index, (text, kinds)): (usize, &(&str, Vec<&str>))| match (index == last, last)
    {
        (true, 0) => (*text).to_owned(),
        (true, _) => format!("others: {text}"),
        (false, _) => format!("{}: {text}", kinds.join(", ")),
    };
    groups.iter().enumerate().map(describe).collect::<Vec<_>>().join("; ")
}

/// How large its batches may get, where it takes batches.
#[must_use]
pub fn batch_limits(spec: &Spec) -> Option<BatchLimits> {
    let made = (spec.make)(&example_settings(spec, None), &EventTypes::All).ok()?;
    made.batching().map(Batching::limits)
}

/// How large its batches are.
#[must_use]
pub fn batch(spec: &Spec) -> String {
    match batch_limits(spec) {
        Some(limits) => {
            let size = match limits.bytes {
                1_000_000.. => format!("{} MB", limits.bytes / 1_000_000),
                _ => format!("{} kB", limits.bytes / 1_000),
            };
            format!("{} events, {size}", limits.items)
        }
        None => "no".to_owned(),
    }
}

/// How fast it is called.
#[must_use]
pub fn limits(spec: &Spec) -> String {
    let at_once = format!("{} at once", spec.concurrency);
    match spec.rate {
        Some(rate) => format!("{}/s, {at_once}", rate.per_second),
        None => at_once,
    }
}

/// Settings made of the fields' examples, without the optional ones.
#[must_use]
pub fn example_settings(spec: &Spec, base_url: Option<Url>) -> Settings {
    let mut settings = Settings::new(base_url);
    for field in spec.example_fields() {
        let setting = match field.shape {
            Shape::Text => Setting::Text(field.example.into()),
            Shape::List => Setting::List(vec![field.example.to_owned()]),
        };
        settings.insert(field.name, setting);
    }
    settings
}

/// A request as it would be sent, secrets masked.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Preview {
    /// The method.
    pub method: String,
    /// The URL; of a user's webhook only the host.
    pub url: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body, to the letter.
    pub body: String,
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.method, self.url)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        if self.body.is_empty() { Ok(()) } else { writeln!(f, "\n{}", self.body) }
    }
}

/// The request as it would be sent, secrets masked.
#[must_use]
pub fn preview(request: &Request, secrets: &[SecretString]) -> Preview {
    let redactor = Redactor::new(secrets);
    let headers = request.headers.iter().map(|(name, value)| {
        let value = if value.is_sensitive() {
            MASK.to_owned()
        } else {
            redactor.masked(&String::from_utf8_lossy(value.as_bytes()))
        };
        (name.as_str().to_owned(), value)
    });
    Preview {
        method: request.method.to_string(),
        url: masked_url(&request.url, secrets, &redactor),
        headers: headers.collect(),
        body: redactor.masked(&String::from_utf8_lossy(&request.body)),
    }
}

/// A URL may be a secret as a whole: a user's webhook. Its path tells, because the operator may
/// have replaced the host, and the destination may have added parameters.
fn masked_url(url: &Url, secrets: &[SecretString], redactor: &Redactor) -> String {
    let is_webhook = |secret: &SecretString| {
        Url::parse(secret.expose_secret()).is_ok_and(|webhook| webhook.path() == url.path())
    };
    if secrets.iter().any(is_webhook) {
        let origin = url.origin().ascii_serialization();
        return format!("{origin}/{MASK}");
    }
    redactor.masked(url.as_str())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        clock::Timestamp,
        destination::Item,
        event::Event,
        id::{ConnectorId, ConnectorKey, DeliveryId, ProjectId},
    };

    const EVENT: &str = r#"{"id":"evt_1","type":"payment.failed","projectId":"proj_1",
        "occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_1","endpointId":"ep_1",
        "customerId":"0x52","amount":"1.25","currency":"USDC","stage":"settle","reason":"timeout"}}"#;

    #[test]
    fn every_type_has_a_row() {
        let table = table();
        insta::assert_snapshot!(table);
        assert_eq!(table.lines().count(), 2 + ConnectorType::ALL.len());
        for line in table.lines() {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 8, "{line}");
        }
    }

    #[test]
    fn a_preview_shows_the_request_and_no_secret() {
        let event = Event::from_json(Bytes::from_static(EVENT.as_bytes())).unwrap();
        let key = ConnectorKey {
            project: ProjectId::parse("proj_1").unwrap(),
            connector: ConnectorId::parse("conn_1").unwrap(),
        };
        let item = Item {
            event: &event,
            delivery_id: DeliveryId::new(&key, &event.id),
            attempt: 1,
            sent_at: Timestamp::from_millis(0),
            setup: "",
        };
        let mut shown = 0;
        for &kind in ConnectorType::ALL {
            let spec = kind.spec();
            let settings = example_settings(spec, None);
            let destination = (spec.make)(&settings, &EventTypes::All).unwrap();
            if destination.skips(&event).is_some() {
                continue;
            }
            let request = destination.build(&item).unwrap();
            let secrets = settings.secrets(spec.fields);
            assert!(!secrets.is_empty(), "{kind}");
            let preview = preview(&request, &secrets).to_string();
            for secret in &secrets {
                let secret = secret.expose_secret();
                assert!(!preview.contains(secret), "{kind}: {preview}");
                let tail = &secret[secret.len() - 20..];
                assert!(!preview.contains(tail), "{kind}: {preview}");
            }
            assert!(preview.starts_with(&format!("{} ", request.method)), "{kind}");
            shown += 1;
        }
        assert_eq!(shown, ConnectorType::ALL.len() - 2, "the accounts skip a failed payment");
    }
}
