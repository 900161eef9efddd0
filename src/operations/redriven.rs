//! How a redrive ended, for programs and for people.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::replay::RedrivePlan;

/// The state of a redrive whose sample failed, so that the rest was not sent.
pub const CANARY_FAILED: &str = "canary_failed";

/// How a redrive ended.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// The redrive's name, which its attempts carry.
    pub job: String,
    /// What it meant to do; `sent` is what was sent in the end.
    #[serde(flatten)]
    pub plan: RedrivePlan,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// How the sample did, when there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryOutcome>,
}

/// How a sample did.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryOutcome {
    /// Letters in it.
    pub sent: u64,
    /// Those that arrived, or are not wanted any more.
    pub arrived: u64,
    /// Those that failed again, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Those of which nothing was heard in time.
    pub unheard: u64,
}

impl CanaryOutcome {
    /// Whether the rest may follow.
    pub(super) fn is_good(&self) -> bool {
        self.failed.is_empty() && self.unheard == 0
    }

    /// Why the rest did not follow.
    #[must_use]
    pub fn words(&self) -> String {
        let reasons: Vec<String> =
            self.failed.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let reasons = reasons.join(", ");
        let what = match (reasons.is_empty(), self.unheard) {
            (false, 0) => format!("the canary failed again ({reasons})"),
            (false, unheard) => {
                format!("the canary failed again ({reasons}), {unheard} unheard of")
            }
            (true, unheard) => format!(
                "nothing was heard of {unheard} letters of the canary in time: does an instance \
                 deliver, and is its delivery.attempt_log `all`?"
            ),
        };
        format!("{what}; the rest was not sent")
    }
}

impl Redriven {
    /// A redrive that had nothing to do.
    #[must_use]
    pub fn nothing(job: String, plan: RedrivePlan) -> Self {
        Self { job, plan, ..Self::default() }
    }

    /// How it ended: `done`, `stopped`, or `canary_failed`, where the rest was not sent.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.failed_canary(), self.stopped) {
            (Some(_), _) => CANARY_FAILED,
            (None, true) => "stopped",
            (None, false) => "done",
        }
    }

    /// The sample, where it kept the rest from being sent. One that was not waited for is none.
    #[must_use]
    pub fn failed_canary(&self) -> Option<&CanaryOutcome> {
        let is_bad = |canary: &&CanaryOutcome| {
            !canary.failed.is_empty() || (canary.unheard > 0 && !self.stopped)
        };
        self.canary.as_ref().filter(is_bad)
    }

    /// The redrive as programs read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut told = json!(self);
        told["state"] = self.state().into();
        if let Some(canary) = self.failed_canary() {
            told["detail"] = canary.words().into();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_redrive_ended_is_told_with_its_canary() {
        let ended = |failed: &[(&str, u64)], unheard, stopped| {
            let failed = failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
            let canary =
                CanaryOutcome { sent: 5, failed: failed.collect(), unheard, ..Default::default() };
            let done = Redriven { canary: Some(canary), stopped, ..Redriven::default() };
            let told = done.to_json();
            let detail = told["detail"].as_str().unwrap_or_default().to_owned();
            (told["state"].as_str().unwrap().to_owned(), detail)
        };
        let failed = "the canary failed again (2 gone); the rest was not sent";
        let told = ended(&[("gone", 2)], 0, false);
        assert_eq!(told, ("canary_failed".to_owned(), failed.to_owned()));
        assert_eq!(ended(&[("gone", 2)], 1, true).0, "canary_failed");
        let unheard = ended(&[], 3, false);
        assert_eq!(unheard.0, "canary_failed");
        assert!(unheard.1.starts_with("nothing was heard of 3 letters"), "{}", unheard.1);
        assert_eq!(ended(&[], 3, true), ("stopped".to_owned(), String::new()));
        assert_eq!(ended(&[], 0, false), ("done".to_owned(), String::new()));
        assert_eq!(Redriven::default().state(), "done");
    }
}
