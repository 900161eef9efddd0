//! When access tokens that are stored are to be renewed: found as state records come.

use crate::{
    clock::Timestamp,
    connector::{Connector, renewal_due},
    destination::REFRESH_TOKEN,
};

/// When the access token of a connector's JSON is to be renewed; nothing when it has none to renew.
pub fn due(json: &[u8]) -> Option<Timestamp> {
    // The cheap look first: few connectors have a refresh token.
    memchr::memmem::find(json, REFRESH_TOKEN.as_bytes())?;
    renewal_due(&Connector::from_json(json).ok()?)
}
