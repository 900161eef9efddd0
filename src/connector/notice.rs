//! What the owner of a connector must know: the value of a `connectors.notices` record, a
//! `CloudEvent` in JSON.
//!
//! A notice is decided together with the command that causes it, and only a transition causes one:
//! a connector that is suspended once more has none. Its id is the command's, so that a command
//! that is decided again makes the same notice.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Change, Command, CommandBody, Connector, HealthNotice, MAX_NAMED, ProjectState, RenewalStep,
    SuspensionCode, Turn, is_renewal_failing,
};
use crate::{
    clock::Timestamp,
    destination::cut,
    event::{Event, EventError},
    id::{CommandId, ConnectorId, ConnectorKey},
    json,
};

/// The longest words of a notice, in characters.
const MAX_DETAIL_CHARS: usize = super::MAX_SUSPENDED_REASON_CHARS;

/// What happened to a connector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoticeKind {
    /// Its deliveries are held from now on.
    Suspended,
    /// They are held no longer.
    Resumed,
    /// Its service fails.
    Failing,
    /// Its service works again.
    Recovered,
    /// Its access token is not renewed, so it will end, and some time later its refresh token.
    CredentialExpiring,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Suspended, Self::Resumed, Self::Failing, Self::Recovered, Self::CredentialExpiring];

    /// The `type` of the event, and the metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "connector.suspended",
            Self::Resumed => "connector.resumed",
            Self::Failing => "connector.failing",
            Self::Recovered => "connector.recovered",
            Self::CredentialExpiring => "connector.credential_expiring",
        }
    }
}

/// A transition of a connector. It shows no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The command that caused it.
    pub command_id: CommandId,
    /// What happened.
    pub kind: NoticeKind,
    /// To which connector.
    pub connector: ConnectorKey,
    /// Of which type it is.
    pub connector_type: String,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Why it is suspended, or was.
    pub reason: SuspensionCode,
    /// The same in words.
    pub detail: String,
    /// Since when it is suspended, or was.
    pub since: Timestamp,
    /// When it happened.
    pub at: Timestamp,
    /// The other connectors of the project of which the same is told, the newest ones first.
    pub others: Vec<ConnectorId>,
}

/// A record of the topic, as far as it becomes an event.
#[derive(Deserialize)]
struct Cloud<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Of<'a> {
    #[serde(borrow)]
    project_id: Cow<'a, str>,
}

impl Notice {
    /// Reads a record's value as the event that connectors get. It has the form of a payment event,
    /// so that whoever takes those, and a filter, can take it.
    pub fn read(value: &[u8]) -> Result<Event, EventError> {
        let not_json = |error: &serde_json::Error| {
            EventError::NotJson(format!("it is no notice: {}", json::words(value, error)))
        };
        let cloud: Cloud<'_> = serde_json::from_slice(value).map_err(|e| not_json(&e))?;
        let of: Of<'_> = serde_json::from_str(cloud.data.get()).map_err(|e| not_json(&e))?;
        let event = json!({
            "id": cloud.id,
            "type": cloud.kind,
            "projectId": of.project_id,
            "occurredAt": cloud.time,
            "data": cloud.data,
        });
        let event = Event::from_json(Bytes::from(event.to_string()))?;
        if event.kind.is_notice() {
            return Ok(event);
        }
        Err(EventError::NotJson(format!("it is no notice but an event of type {}", event.kind)))
    }

    /// Of a command that made this change to this state, when that is a transition. A connector
    /// that is deleted resumes nothing.
    #[must_use]
    pub fn of(
        command: &Command,
        at: Timestamp,
        state: &ProjectState,
        change: &Change,
    ) -> Option<Self> {
        let Change::ConnectorSet(after) = change else { return None };
        let before = state.connectors.get(&after.key.connector);
        if let Some(told) = before.and_then(|before| HealthNotice::of(state, before, after)) {
            return Some(Self {
                kind: match told.turn {
                    Turn::Failing => NoticeKind::Failing,
                    Turn::Recovered => NoticeKind::Recovered,
                },
                reason: told.reason(),
                detail: cut(&told.outage.reason, MAX_DETAIL_CHARS),
                since: told.outage.since,
                others: told.others,
                ..Self::about(command, at, after)
            });
        }
        if let CommandBody::Renewal { step: RenewalStep::Failing { reason, .. }, .. } =
            &command.body
            && before.is_some_and(|before| !is_renewal_failing(before))
        {
            return Some(Self {
                kind: NoticeKind::CredentialExpiring,
                reason: SuspensionCode::of(reason),
                detail: cut(reason, MAX_DETAIL_CHARS),
                ..Self::about(command, at, after)
            });
        }
        let was = before.filter(|before| before.suspended_reason.is_some());
        let (kind, suspended) = match (was, &after.suspended_reason) {
            (None, Some(_)) => (NoticeKind::Suspended, after),
            (Some(before), None) => (NoticeKind::Resumed, before),
            _ => return None,
        };
        let reason = suspended.suspended_reason.as_deref().unwrap_or_default();
        Some(Self {
            kind,
            reason: SuspensionCode::of(reason),
            detail: cut(reason, MAX_DETAIL_CHARS),
            since: suspended.suspended_at.unwrap_or(at),
            ..Self::about(command, at, after)
        })
    }

    fn about(command: &Command, at: Timestamp, connector: &Connector) -> Self {
        Self {
            command_id: command.id.clone(),
            kind: NoticeKind::Suspended,
            connector: connector.key.clone(),
            connector_type: connector.type_name().to_owned(),
            name: connector.name.clone(),
            reason: SuspensionCode::Other,
            detail: String::new(),
            since: at,
            at,
            others: Vec::new(),
        }
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let ConnectorKey { project, connector } = &self.connector;
        let mut event: Value = json!({
            "specversion": "1.0",
            "id": self.command_id,
            "source": format!("/projects/{project}/connectors/{connector}"),
            "type": self.kind.as_str(),
            "subject": connector,
            "time": self.at,
            "datacontenttype": "application/json",
            "data": {
                "projectId": project,
                "connectorId": connector,
                "connectorType": self.connector_type,
                "reason": self.reason.to_string(),
            },
        });
        if let Some(name) = &self.name {
            event["data"]["name"] = json!(name);
        }
        if !self.detail.is_empty() {
            event["data"]["detail"] = json!(self.detail);
        }
        event["data"]["since"] = json!(self.since);
        if !self.others.is_empty() {
            event["data"]["more"] = json!(self.others.len());
            event["data"]["moreConnectorIds"] =
                self.others.iter().take(MAX_NAMED).map(ConnectorId::as_str).collect();
        }
        event.to_string().into_bytes()
    }
}
