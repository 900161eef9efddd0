//! `dunmore demo`.

/// What the demo does.
pub struct DemoOptions {
    /// How many events.
    pub events: u64,
    /// Print the summary as JSON.
    pub json: bool,
}

/// Runs it; true when every event is accounted for.
pub async fn run(_options: DemoOptions) -> anyhow::Result<bool> {
    anyhow::bail!("the demo is not built yet")
}
