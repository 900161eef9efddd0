//! The one place where tasks of the delivery plane are spawned.
//!
//! A panic costs one record or one delivery where it is caught for it. One that gets as far as here
//! ends the instance with a reason: what the task was about would never move again, while health
//! looks good.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

/// Spawns tasks and notes why the instance cannot go on.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tasks: TaskTracker,
    failure: Arc<Mutex<Option<String>>>,
}

impl Supervisor {
    /// Runs a task on the current runtime; a panic of it ends the instance.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&tokio::runtime::Handle::current(), what, task);
    }

    /// Runs a task that ends with the process: [`Self::stopped`] does not wait for it.
    pub fn spawn_endless(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        tokio::spawn(self.watched(what, task));
    }

    /// The same on this runtime.
    pub fn spawn_on(
        &self,
        runtime: &tokio::runtime::Handle,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn_on(self.watched(what, task), runtime);
    }

    fn watched(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let supervisor = self.clone();
        async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                supervisor.fail(format!("a task panicked: {what}"));
            }
        }
    }

    /// The instance cannot go on. The first reason stays.
    pub fn fail(&self, why: String) {
        tracing::error!("{why}; restart this instance");
        self.failure.lock().get_or_insert(why);
    }

    /// Why the instance cannot go on, if so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Waits until every task has ended, at most so long.
    pub async fn stopped(&self, timeout: Duration) {
        self.tasks.close();
        // What is left repeats; the commits say so already.
        let _ = tokio::time::timeout(timeout, self.tasks.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_with_a_reason_and_the_first_one_stays() {
        let supervisor = Supervisor::default();
        supervisor.spawn("writing an outcome", async {});
        supervisor.stopped(Duration::from_secs(10)).await;
        assert_eq!(supervisor.failure(), None);
        supervisor.spawn("writing an outcome", async { panic!("on purpose") });
        supervisor.stopped(Duration::from_secs(10)).await;
        supervisor.fail("something later".to_owned());
        assert!(supervisor.failure().unwrap().contains("writing an outcome"));
    }
}
