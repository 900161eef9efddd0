//! Why something did not simply work: one closed list for logs, metrics, headers and the API.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($name:ident => $text:literal, $help:literal;)*) => {
        /// Why a delivery was not delivered at once, or a record was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $(#[doc = $help] $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in logs, metric labels, headers and the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The reason of this name; a later release may have others.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)* }
            }
        }
    };
}

reasons! {
    // The way to the destination.
    Timeout => "timeout", "The destination did not answer in time; it may have acted all the same.";
    ConnectFailed => "connect_failed", "No connection to the destination could be made.";
    TlsFailed => "tls_failed", "The destination's certificate or TLS handshake was refused.";
    DnsFailed => "dns_failed", "The destination's host name could not be resolved.";
    ConnectionLost => "connection_lost", "The connection broke before the answer was complete.";
    AddressRefused => "address_refused", "The destination's address is private or otherwise not allowed.";
    ResponseTooLarge => "response_too_large", "The destination's answer exceeded the cap.";
    // What the destination said.
    RateLimited => "rate_limited", "The destination asked to slow down.";
    QuotaExceeded => "quota_exceeded", "The account's quota at the destination is used up.";
    ServerError => "server_error", "The destination had an error of its own.";
    NotReady => "not_ready", "The destination is temporarily not listening.";
    Unauthorized => "unauthorized", "The destination refused the credentials: they are wrong, revoked or expired.";
    Forbidden => "forbidden", "The credentials do not permit this.";
    Gone => "gone", "The webhook, table, chat or account does not exist (any more).";
    Rejected => "rejected", "The destination refused this event for good.";
    PayloadTooLarge => "payload_too_large", "The request is larger than the destination takes.";
    Redirected => "redirected", "The destination answered with a redirect, which is never followed.";
    UnexpectedResponse => "unexpected_response", "The destination's answer is not one that its documentation knows.";
    PrerequisiteMissing => "prerequisite_missing", "Something that the destination needs beforehand is missing there.";
    // Our own decisions about a delivery.
    LaneFull => "lane_full", "More is waiting for this connector than it takes at present.";
    CircuitOpen => "circuit_open", "The destination failed repeatedly and is given a rest.";
    Suspended => "suspended", "The connector is suspended until its owner changes its configuration.";
    Unusable => "unusable", "The connector's stored configuration cannot be read or used.";
    Bug => "bug", "This program failed on the delivery; please report it.";
    RecordTooLarge => "record_too_large", "The retry topic takes no record of this size (max.message.bytes).";
    // Why a delivery was cancelled.
    ConnectorDeleted => "connector_deleted", "The connector was deleted meanwhile.";
    ConnectorDisabled => "connector_disabled", "The connector was disabled meanwhile.";
    Unsubscribed => "unsubscribed", "The connector does not subscribe to this event type any more.";
    Filtered => "filtered", "The event does not pass the connector's filter any more.";
    // Why a record was refused.
    Undecodable => "undecodable", "The record's value is neither JSON nor Avro that can be read.";
    UnknownSchema => "unknown_schema", "The schema registry does not know the schema id of the record.";
    InvalidEvent => "invalid_event", "A field of the event is missing or has the wrong form.";
    UnknownEventType => "unknown_event_type", "The event's type is not one that this version knows.";
    MissingProject => "missing_project", "The event names no project.";
    EventTooLarge => "event_too_large", "The event is larger than the limit.";
    InvalidCommand => "invalid_command", "The record is no connector command, and it names no id to answer to.";
    InvalidRecord => "invalid_record", "A delivery record could not be read back.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_written_the_same_everywhere() {
        for reason in Reason::ALL {
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("{:?}", reason.as_str()));
        }
    }
}
