//! Logs: to standard error, readable on a terminal and JSON elsewhere; and what is said of a panic.
//! Traces: to a collector.

mod traces;

use std::{backtrace::Backtrace, io::IsTerminal, panic, thread};

use tokio::task::JoinError;
use tracing_subscriber::EnvFilter;

pub use traces::{Attempt, Step, Traces};

use crate::{
    api::audit,
    config::{LogFormat, LogSettings},
};

/// Starts logging. Only the first call has an effect.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    let filter = filter(settings)?;
    // The audit trail is written whatever else is not, unless the filter names it.
    let filter = match audit::TARGET.parse() {
        Ok(directive) if !settings.filter.contains(audit::TARGET) => {
            filter.add_directive(directive)
        }
        _ => filter,
    };
    let json = match settings.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (tests) finds logging already there, which is fine.
    let _ = if json {
        lines.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    Ok(())
}

/// Whether logging could begin with these settings.
pub fn check(settings: &LogSettings) -> Result<(), String> {
    filter(settings).map(|_| ())
}

fn filter(settings: &LogSettings) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("log.filter {:?}: {error}", settings.filter))
}

/// From now on a panic tells where it happened and nothing else: its text may quote a secret that
/// the code had in hand.
pub fn keep_panics_quiet() {
    panic::set_hook(Box::new(|panicked| {
        let place = panicked.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Names of functions and lines; captured only where RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, thread, %backtrace, "a bug of this program; please report it");
        } else {
            eprintln!("dunmore: a bug of this program at {place}; please report it\n{backtrace}");
        }
    }));
}

/// What is said of a task that ended early: the error's own words would quote its panic.
#[must_use]
pub fn early_end(error: &JoinError) -> String {
    let why = if error.is_panic() { "it has a bug; please report it" } else { "it was cancelled" };
    format!("a task of this program ended early: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panicked_does_not_quote_it() {
        let error = tokio::spawn(async { panic!("canary") }).await.unwrap_err();
        assert!(error.to_string().contains("canary"), "why this is needed");
        assert!(early_end(&error).contains("bug") && !early_end(&error).contains("canary"));
    }
}
