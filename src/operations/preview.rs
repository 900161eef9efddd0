//! The request that a delivery would become, with the connector as it is now, secrets masked.

use http::{HeaderValue, header::USER_AGENT};
use secrecy::SecretString;

use super::Operations;
use crate::{
    clock,
    config::Config,
    connector::ProjectState,
    delivery::{DeliveryRecord, Verdict},
    destination::{
        Item, Request,
        docs::{self, Preview},
    },
    event::Event,
    id::DeliveryId,
    outbound::AGENT,
    secrets::Keyring,
    view::{Subscriptions, Target},
};

/// A request with what the sender adds to each, secrets masked.
pub fn shown(mut request: Request, secrets: &[SecretString]) -> Preview {
    if !request.headers.iter().any(|(name, _)| name == USER_AGENT) {
        request.headers.insert(0, (USER_AGENT, HeaderValue::from_static(AGENT)));
    }
    docs::preview(&request, secrets)
}

impl Operations {
    /// The request that a delivery would become now, or why there is none. Blocks.
    pub fn preview(
        &self,
        config: &Config,
        delivery: &DeliveryRecord,
    ) -> anyhow::Result<Result<Preview, String>> {
        let connectors = self.connectors()?;
        let Some(connector) = connectors.get(&delivery.connector) else {
            return Ok(Err("the connector is deleted".to_owned()));
        };
        let keys = match config.secret_keys() {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let keyring = match Keyring::parse(&keys) {
            Ok(keyring) => keyring,
            Err(error) => return Ok(Err(format!("secrets.keys: {error}"))),
        };
        let base_urls = config.base_urls();
        let id = connector.key.connector.clone();
        let only = [(id.clone(), connector.clone())].into();
        let state = ProjectState { project: None, connectors: only };
        let subscriptions = Subscriptions::compile(&state, &keyring, &base_urls);
        let Some(target) = subscriptions.target(&id) else {
            return Ok(Err("the connector is deleted".to_owned()));
        };
        Ok(request_of(target, &delivery.event, delivery.delivery_id, delivery.attempts + 1))
    }
}

/// The request that this attempt to deliver an event would be, secrets masked, or why there is none.
pub fn request_of(
    target: &Target,
    event: &Event,
    delivery_id: DeliveryId,
    attempt: u32,
) -> Result<Preview, String> {
    let destination = match &target.destination {
        Ok(destination) => destination,
        Err(error) => return Err(error.clone()),
    };
    if let Some(why) = destination.skips(event) {
        return Err(format!("skipped: {why}"));
    }
    let item = Item {
        event,
        delivery_id,
        attempt,
        sent_at: clock::now(),
        setup: target.kind.spec().setup_example,
    };
    let built = match destination.batching() {
        Some(batching) => batching.build(&[item]),
        None => destination.build(&item),
    };
    match built {
        Ok(request) => {
            let request = request.with_token_to_come(target.credential.is_some());
            Ok(shown(request, target.secrets.known()))
        }
        Err(
            Verdict::Retry { detail, .. }
            | Verdict::Dead { detail, .. }
            | Verdict::Broken { detail, .. },
        ) => Err(detail),
        Err(_) => Err("nothing to send".to_owned()),
    }
}
