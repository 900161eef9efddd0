//! Asks where the state topic ends, so that the view knows as of when it has everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    kafka::{Connection, Ends, KafkaError},
    telemetry,
    view::View,
};

/// While nothing needs a newer view, it is asked so often.
const IDLE: Duration = Duration::from_secs(1);
/// Between two questions: one request to each leader, of some tens of microseconds.
const LEAST: Duration = Duration::from_millis(8);
/// How often it is looked whether the view has reached the ends.
const LOOK: Duration = Duration::from_millis(1);
/// Ends that were not reached for so long are asked for anew.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks for as long as the future is polled. From this call on, not only from the first answer, the
/// view is not taken for complete.
pub fn watch(
    connection: Connection,
    topic: String,
    view: Arc<View>,
    partitions: i32,
) -> impl Future<Output = Result<(), KafkaError>> + Send {
    view.as_of().watch(usize::try_from(partitions).unwrap_or_default());
    ask(connection, topic, view, partitions)
}

async fn ask(
    connection: Connection,
    topic: String,
    view: Arc<View>,
    partitions: i32,
) -> Result<(), KafkaError> {
    let ends = Arc::new(Ends::new(&connection, &topic, partitions)?);
    loop {
        let asked_at = Instant::now();
        let asking = Arc::clone(&ends);
        match tokio::task::spawn_blocking(move || asking.ask()).await {
            Ok(Ok(found)) => reach(&view, asked_at, found).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the ends of the state topic");
                tokio::time::sleep(PATIENCE).await;
            }
            Err(error) => {
                let error = telemetry::early_end(&error);
                tracing::error!(error, "the ends of the state topic could not be asked for");
                tokio::time::sleep(PATIENCE).await;
            }
        }
        tokio::time::sleep_until((asked_at + LEAST).into()).await;
        let _ = tokio::time::timeout(IDLE, view.as_of().wanted()).await;
    }
}

/// Waits until the view has what was in the topic at this moment.
async fn reach(view: &View, asked_at: Instant, mut ends: Vec<(i32, i64)>) {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        ends.retain(|(partition, end)| {
            let is_there = view.position(*partition).next_offset >= *end;
            if is_there {
                view.as_of().reached(usize::try_from(*partition).unwrap_or_default(), asked_at);
            }
            !is_there
        });
        view.as_of().publish();
        if ends.is_empty() || Instant::now() >= give_up_at {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
