//! What operators see of the control plane.

use std::time::Duration;

use super::Metrics;

impl Metrics {
    /// A command was decided.
    pub fn command(&self, name: &str, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "rejected" };
        self.commands.with_label_values(&[name, outcome]).inc();
    }

    /// A notice of a connector's transition was written.
    pub fn notice(&self, kind: &str) {
        self.notices.with_label_values(&[kind]).inc();
    }

    /// A batch of commands was decided, its state applied and its results written.
    pub fn registrar_batch(&self, commands: usize, duration: Duration) {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        self.registrar_batch.observe(f64::from(commands));
        self.registrar_seconds.observe(duration.as_secs_f64());
    }
}
