//! How this instance is: what it waits for, what an operator should know of, and why it cannot go
//! on, if so. The admin server asks.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    admin::Health,
    codec::Codec,
    kafka::{Trouble, Watch},
    metrics::Metrics,
    pipeline::{Supervisor, ViewFeed},
};

/// How often the cluster is looked at.
const KAFKA_INTERVAL: Duration = Duration::from_secs(5);

/// What the admin server is asked for.
pub struct ServiceHealth {
    feed: ViewFeed,
    codec: Codec,
    supervisor: Supervisor,
    checks: Mutex<Checks>,
}

#[derive(Default)]
struct Checks {
    waiting_for: Vec<&'static str>,
    troubles: Vec<Trouble>,
    /// What the consumers and the view have to say.
    warnings: Vec<String>,
    failure: Option<String>,
    is_stopping: bool,
}

impl ServiceHealth {
    /// Of an instance whose view is fed like this, that reads and writes records like this, and
    /// whose tasks run like this.
    pub fn new(feed: ViewFeed, codec: Codec, supervisor: Supervisor) -> Self {
        Self { feed, codec, supervisor, checks: Mutex::default() }
    }

    /// The instance stops: from now on it is not ready.
    pub fn stop(&self) {
        self.checks.lock().is_stopping = true;
    }

    /// What an operator should know of at present; each is logged once.
    pub fn warn(&self, now: Vec<String>) {
        let mut checks = self.checks.lock();
        for warning in now.iter().filter(|warning| !checks.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        checks.warnings = now;
    }

    /// The view's feed.
    pub fn feed(&self) -> &ViewFeed {
        &self.feed
    }

    /// What has to happen before this instance is ready.
    pub fn wait_for(&self, what: Vec<&'static str>) {
        self.checks.lock().waiting_for = what;
    }

    /// The instance cannot go on. The first reason stays.
    pub fn fail(&self, why: String) {
        self.checks.lock().failure.get_or_insert(why);
    }

    /// What is wrong with the cluster at present; told once in the log when it changes.
    fn trouble(&self, now: Vec<Trouble>) {
        let mut checks = self.checks.lock();
        for trouble in now.iter().filter(|trouble| !checks.troubles.contains(trouble)) {
            tracing::warn!(kind = trouble.kind.as_str(), "{}", trouble.words);
        }
        if let Some(trouble) = now.iter().find(|trouble| trouble.kind.ends_instance()) {
            checks.failure.get_or_insert(trouble.words.clone());
        }
        if now.is_empty() && !checks.troubles.is_empty() {
            tracing::info!("Kafka is as it should be again");
        }
        checks.troubles = now;
    }
}

impl Health for ServiceHealth {
    fn not_ready(&self) -> Vec<String> {
        let checks = self.checks.lock();
        let mut waiting_for: Vec<String> =
            checks.waiting_for.iter().map(|what| (*what).to_owned()).collect();
        if checks.is_stopping {
            waiting_for.push("the end of this instance, which is stopping".to_owned());
        }
        if !self.feed.is_caught_up() {
            waiting_for.push("the view to catch up".to_owned());
        }
        if self.codec.is_waiting() {
            waiting_for.push("the schema registry to answer".to_owned());
        }
        let stopping = checks.troubles.iter().filter(|trouble| trouble.kind.stops_work());
        waiting_for.extend(stopping.map(|trouble| trouble.words.clone()));
        waiting_for
    }

    fn warnings(&self) -> Vec<String> {
        let checks = self.checks.lock();
        let others = checks.troubles.iter().filter(|trouble| !trouble.kind.stops_work());
        let others = others.map(|trouble| trouble.words.clone());
        others.chain(checks.warnings.iter().cloned()).collect()
    }

    fn failure(&self) -> Option<String> {
        let failure = self.checks.lock().failure.clone();
        failure.or_else(|| self.feed.failure()).or_else(|| self.supervisor.failure())
    }
}

/// Looks at the cluster for as long as this runs, and tells health and metrics what it finds.
pub async fn watch_kafka(watch: Watch, health: Arc<ServiceHealth>, metrics: Arc<Metrics>) {
    let watch = Arc::new(watch);
    loop {
        let looking = Arc::clone(&watch);
        match tokio::task::spawn_blocking(move || looking.look()).await {
            Ok(troubles) => {
                metrics.set_kafka_troubles(&troubles);
                health.trouble(troubles);
            }
            Err(error) => tracing::error!(%error, "the look at the cluster failed"),
        }
        tokio::time::sleep(KAFKA_INTERVAL).await;
    }
}
