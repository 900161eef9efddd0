//! The keeper: renews the access tokens of refresh tokens that change with each use, for the
//! connectors of the commands partitions that this instance owns.
//!
//! What to do when is decided by [`Keeping`]; an intent and a result are commands, so that their order
//! in the log decides, and not which instance believes to be the owner. See
//! `docs/decisions/02-rotating-refresh-tokens.md`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Map;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{BACKOFF, Registrar};
use crate::{
    clock::{self, Timestamp},
    connector::{CommandBody, INTENT_LIFE, INTENT_USE, Intent, Keeping, Next, RenewalStep},
    delivery::{Certainty, Reason, Verdict},
    destination::{Credential, Minted, ROTATED_ACCESS, ROTATED_REFRESH},
    id::ConnectorKey,
    kafka::{Partition, ProduceError},
    pipeline::credentials::{self, Tools},
    view::Target,
};

/// How often it looks for tokens that are due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most due connectors of a partition that are looked at in one round.
const MAX_DUE: usize = 10_000;
/// After so many calls in a row without a token, about a quarter of an hour, the connector's owner is
/// told; and a refusal is believed that something in front of the vendor may have said.
const MAX_FAILURES: u32 = 6;

/// The keeper of one partition.
pub(super) struct Keeper {
    registrar: Arc<Registrar>,
    partition: Arc<Partition>,
    began: Instant,
    keeping: Mutex<Keeping>,
}

impl Keeper {
    pub(super) fn new(registrar: Arc<Registrar>, partition: Arc<Partition>) -> Arc<Self> {
        let (began, keeping) = (Instant::now(), Mutex::default());
        Arc::new(Self { registrar, partition, began, keeping })
    }

    /// Renews until the partition is given up, and then ends what was begun.
    pub(super) async fn run(self: Arc<Self>) {
        let mut calls = JoinSet::new();
        while !self.partition.is_released() {
            self.look(&mut calls).await;
            while let Some(ended) = calls.try_join_next() {
                self.registrar.check_call(ended);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        while let Some(ended) = calls.join_next().await {
            self.registrar.check_call(ended);
        }
    }

    async fn look(self: &Arc<Self>, calls: &mut JoinSet<()>) {
        let (wall, view) = (clock::now(), &self.registrar.view);
        let due = match view.renewals(self.partition.number(), wall, MAX_DUE) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                return;
            }
        };
        self.keeping.lock().keep_only(&due.iter().collect::<HashSet<_>>());
        for key in due {
            let Ok(Some(connector)) = view.connector(&key) else { continue };
            let intent = Intent::of(&connector);
            let next = self.keeping.lock().next(&key, intent.as_ref(), wall, self.began.elapsed());
            match next {
                Next::Wait => {}
                Next::Ask => self.ask(&key).await,
                Next::Call => {
                    let called = self.keeping.lock().called(&key);
                    let Some(intent) = called else { continue };
                    // What was begun is finished before the partition goes to its next owner.
                    if !self.partition.enter() {
                        return;
                    }
                    let keeper = Arc::clone(self);
                    calls.spawn(async move {
                        keeper.call(key, intent).await;
                        keeper.partition.leave();
                    });
                }
            }
        }
    }

    /// Asks for a renewal.
    async fn ask(&self, key: &ConnectorKey) {
        let intent = format!("rnw_{}", Uuid::now_v7().simple());
        self.keeping.lock().asked(key, intent.clone(), self.began.elapsed());
        // When it cannot be written, the intent is not used, and another one is asked for.
        let step = RenewalStep::Begin { intent };
        if let Err(error) = self.send(key, step).await {
            tracing::warn!(%error, connector = %key, "a renewal could not be asked for");
        }
    }

    /// The one call of an intent, and what comes of it.
    async fn call(&self, key: ConnectorKey, intent: String) {
        let (registrar, at) = (&self.registrar, std::time::Instant::now());
        // What stood still must not call when another keeper has begun meanwhile.
        let partition = usize::try_from(self.partition.number()).unwrap_or_default();
        let is_late = || at.elapsed() >= INTENT_USE;
        let given_up = || self.partition.is_closed() || is_late();
        // A view that needed long for it may lack what another keeper has done since.
        if !registrar.view.as_of().complete(partition, at, given_up).await || is_late() {
            return;
        }
        let Ok(subscriptions) = registrar.view.subscriptions(&key.project) else { return };
        let Some(target) = subscriptions.target(&key.connector) else { return };
        let stored = registrar.view.connector(&key).ok().flatten();
        let is_own =
            stored.and_then(|connector| Intent::of(&connector)).is_some_and(|one| one.id == intent);
        if !is_own {
            return;
        }
        let asked_at = clock::now();
        let made = self.make(target).await;
        registrar.metrics.renewal(target.kind, credentials::outcome(made.as_ref().err()));
        let step = match made {
            Ok(minted) => self.done(target, intent, asked_at, &minted),
            Err(Verdict::Broken { reason, detail, certainty })
                if certainty == Certainty::Certain || self.failed(&key) >= MAX_FAILURES =>
            {
                tracing::warn!(
                    connector = %key, kind = %target.kind, %reason, detail,
                    "the refresh token is refused; suspending the connector until its owner acts"
                );
                RenewalStep::Refused { intent, reason: format!("{reason}: {detail}") }
            }
            Err(verdict) => {
                tracing::warn!(
                    connector = %key, kind = %target.kind, ?verdict,
                    "an access token was not renewed; it is tried again"
                );
                // A doubt is counted already, and is soon believed.
                let (Verdict::Retry { reason, detail, .. } | Verdict::Dead { reason, detail }) =
                    verdict
                else {
                    return;
                };
                if self.failed(&key) < MAX_FAILURES {
                    return;
                }
                let reason = format!("{reason}: the access token is not renewed: {detail}");
                RenewalStep::Failing { intent, reason }
            }
        };
        self.write(&key, step).await;
    }

    /// A call had no result; returns how many in a row had none.
    fn failed(&self, key: &ConnectorKey) -> u32 {
        self.keeping.lock().failed(key, self.began.elapsed())
    }

    async fn make(&self, target: &Target) -> Result<Minted, Verdict> {
        let Some(credential) = &target.credential else {
            let words = target.destination.as_ref().err().map_or("no credential", |words| words);
            return Err(Verdict::retry(Reason::Unusable, words));
        };
        let (outbound, metrics) = (&self.registrar.outbound, &*self.registrar.metrics);
        credentials::make(Tools { outbound, metrics }, target, credential).await
    }

    fn done(
        &self,
        target: &Target,
        intent: String,
        asked_at: Timestamp,
        minted: &Minted,
    ) -> RenewalStep {
        let keyring = self.registrar.view.keyring();
        let mut tokens = Map::new();
        let mut seal = |field: &str, secret: &SecretString| {
            let sealed = keyring.seal(&target.key, target.kind, field, secret.expose_secret());
            tokens.insert(field.to_owned(), sealed.to_value());
        };
        seal(ROTATED_ACCESS, &minted.token);
        if let Some(refresh) = &minted.refresh {
            seal(ROTATED_REFRESH, refresh);
        }
        let kept = target.credential.as_ref().and_then(Credential::kept);
        let from = kept.map(|kept| kept.from().to_owned()).unwrap_or_default();
        RenewalStep::Done { intent, from, until: asked_at.plus(minted.life), tokens }
    }

    /// Writes a result until it is durable: it exists nowhere else. After the life of its intent it
    /// would not be taken any more.
    async fn write(&self, key: &ConnectorKey, step: RenewalStep) {
        let writing = async {
            while let Err(error) = self.send(key, step.clone()).await {
                tracing::warn!(%error, connector = %key, "a renewal's result could not be written; trying again");
                tokio::time::sleep(BACKOFF).await;
            }
        };
        if timeout(INTENT_LIFE, writing).await.is_err() {
            tracing::error!(
                connector = %key,
                "a renewal's result could not be written: the token that was used is used again"
            );
        }
    }

    async fn send(&self, key: &ConnectorKey, step: RenewalStep) -> Result<(), ProduceError> {
        let body = CommandBody::Renewal { connector: key.connector.clone(), step };
        self.registrar.send_own(&key.project, body).await
    }
}
