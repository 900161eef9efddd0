//! What became of everything: the summary, as a table with words for people and as one JSON
//! object for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use indicatif::HumanCount;
use serde_json::{Value, json};

use super::{
    cast::{Manner, PARTS, Part},
    ledger::{Account, Ledger, Snapshot},
    stream::Stream,
};

/// Lines for people are at most so long.
const WIDTH: usize = 80;

/// How the demo came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Everything is accounted for.
    Complete,
    /// For this long nothing came to its end any more.
    Stuck(Duration),
    /// The user broke it off.
    Interrupted,
    /// Something failed.
    Failed(String),
}

/// The summary of a demo.
#[derive(Debug)]
pub struct Summary {
    /// How it came to its end.
    pub ended: Ended,
    /// How long the stream and its deliveries took.
    pub took: Duration,
    /// The accounts.
    pub accounts: Snapshot,
    healthy: Option<(Duration, Duration)>,
    dead_reasons: Vec<Vec<(String, u64)>>,
    missing: Vec<String>,
}

impl Summary {
    /// Closes the accounts.
    pub fn new(ledger: &Ledger, ended: Ended, took: Duration) -> Self {
        let healthy: Vec<usize> =
            (0..PARTS.len()).filter(|at| matches!(PARTS[*at].manner, Manner::Healthy(_))).collect();
        let healthy = ledger.latency(&healthy, 50).zip(ledger.latency(&healthy, 99));
        let missing = ledger.open_examples(5).into_iter();
        let missing =
            missing.map(|(at, event)| format!("{} → {}", Stream::id(event), PARTS[at].connector));
        Self {
            ended,
            took,
            accounts: ledger.snapshot(),
            healthy,
            dead_reasons: (0..PARTS.len()).map(|at| ledger.dead_reasons(at)).collect(),
            missing: missing.collect(),
        }
    }

    /// Whether each delivery is where it belongs.
    pub fn is_complete(&self) -> bool {
        self.ended == Ended::Complete && self.lost() == 0 && self.accounts.strays == 0
    }

    /// Deliveries that are nowhere.
    pub fn lost(&self) -> u64 {
        self.accounts.total(Account::open)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let total = |figure: fn(&Account) -> u64| self.accounts.total(figure);
        let connectors: Vec<Value> = PARTS
            .iter()
            .zip(&self.accounts.accounts)
            .map(|(part, account)| {
                json!({
                    "connector": part.connector,
                    "type": part.kind,
                    "thirdParty": part.manner.words(),
                    "deliveries": account.expected,
                    "delivered": account.delivered,
                    "retried": account.retried,
                    "dead": account.dead,
                    "cancelled": account.cancelled,
                    "duplicates": account.duplicates,
                    "calls": account.calls,
                })
            })
            .collect();
        let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
        json!({
            "events": self.accounts.events,
            "deliveries": total(|a| a.expected),
            "delivered": total(|a| a.delivered),
            "retried": total(|a| a.retried),
            "dead": total(|a| a.dead),
            "cancelled": total(|a| a.cancelled),
            "lost": self.lost(),
            "duplicates": total(|a| a.duplicates),
            "unmatched": self.accounts.unmatched,
            "seconds": rounded(self.took.as_secs_f64()),
            "complete": self.is_complete(),
            "strays": self.accounts.strays,
            "healthyMedianMs": self.healthy.map(|(half, _)| rounded(millis(half))),
            "healthyP99Ms": self.healthy.map(|(_, most)| rounded(millis(most))),
            "connectors": connectors,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!("\n{}\n\n", self.table());
        for paragraph in self.words() {
            text.push_str(&wrapped(&paragraph));
            text.push('\n');
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        let titles =
            ["connector", "third party", "events", "delivered", "retried", "dead", "lost", "calls"];
        table.set_header(titles);
        let rows = PARTS.iter().zip(&self.accounts.accounts);
        for (part, account) in rows {
            let mut cells = vec![part.connector.to_owned(), part.manner.words()];
            cells.extend(figures(account));
            table.add_row(cells);
        }
        let mut all = Account::default();
        for account in &self.accounts.accounts {
            all.expected += account.expected;
            all.delivered += account.delivered;
            all.retried += account.retried;
            all.dead += account.dead;
            all.cancelled += account.cancelled;
            all.calls += account.calls;
        }
        let mut cells = vec!["all".to_owned(), String::new()];
        cells.extend(figures(&all));
        table.add_row(cells);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if at >= 2 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![self.result()];
        for (at, part) in PARTS.iter().enumerate() {
            let account = &self.accounts.accounts[at];
            if account.expected > 0 {
                words.extend(self.story(part, account, &self.dead_reasons[at]));
            }
        }
        words.extend(self.story_of_the_gone());
        words.push(
            "Next: `dunmore demo --events 20000` for a faster stream, or `dunmore serve \
             --embedded` to send your own events to the same service. With a real Kafka, \
             dead letters wait in the topic deliveries.dead, each with headers that say why."
                .to_owned(),
        );
        words
    }

    fn result(&self) -> String {
        let total = |figure: fn(&Account) -> u64| HumanCount(self.accounts.total(figure));
        let mut text = format!(
            "{} events made {} deliveries in {:.1} s: {} delivered, {} dead letters, {} cancelled, \
             {} lost, {} sent twice. {} of them waited in a retry tier at least once. {} events had \
             no subscriber.",
            HumanCount(self.accounts.events),
            total(|a| a.expected),
            self.took.as_secs_f64(),
            total(|a| a.delivered),
            total(|a| a.dead),
            total(|a| a.cancelled),
            HumanCount(self.lost()),
            total(|a| a.duplicates),
            total(|a| a.retried),
            HumanCount(self.accounts.unmatched),
        );
        match &self.ended {
            Ended::Complete if self.is_complete() => text.push_str(
                " Every event is accounted for, by what was produced, what the third parties \
                 took and what the topics hold; the service's own counters were not asked.",
            ),
            Ended::Complete => {}
            Ended::Stuck(quiet) => text.push_str(&format!(
                " NOT every event is accounted for: for {} s nothing more came to its end. \
                 Missing for example: {}.",
                quiet.as_secs(),
                self.missing.join(", "),
            )),
            Ended::Interrupted => {
                text.push_str(
                    " It was broken off, so what is counted as lost was still under way.",
                );
            }
            Ended::Failed(why) => text.push_str(&format!(" It failed: {why}.")),
        }
        if self.accounts.strays > 0 {
            text.push_str(&format!(
                " {} records or requests were not what they should have been.",
                HumanCount(self.accounts.strays)
            ));
        }
        text
    }

    fn story(&self, part: &Part, account: &Account, dead: &[(String, u64)]) -> Option<String> {
        let name = part.connector;
        let (expected, calls) = (HumanCount(account.expected), HumanCount(account.calls));
        let (delivered, retried) = (HumanCount(account.delivered), HumanCount(account.retried));
        let text = match part.manner {
            Manner::Healthy(_) | Manner::Gone => return None,
            Manner::Slow(delay) => {
                let mut text = format!(
                    "Slow: {name} takes {} ms for each call. Its lane holds no more than it soon \
                     sends; what is beyond that waits in a retry tier in Kafka and not in memory: \
                     {retried} of its {expected} deliveries. {delivered} arrived.",
                    delay.as_millis(),
                );
                if let Some((half, most)) = self.healthy {
                    text.push_str(&format!(
                        " Nobody else waits for it: the healthy connectors had half of their \
                         deliveries within {} ms and 99 of 100 within {} ms, of which up to 100 ms \
                         are the embedded broker's: it wakes a waiting reader only that often.",
                        half.as_millis(),
                        most.as_millis(),
                    ));
                }
                text
            }
            Manner::Recovers { failures } => format!(
                "Failing, then well: {name} answered its first {failures} calls with 500. That \
                 opened its circuit, and nothing was sent for 5 s; {retried} deliveries went \
                 through retry tiers meanwhile. {delivered} of {expected} arrived."
            ),
            Manner::Fails => format!(
                "Failing for good: {name} answers 500 to everything. Its circuit let only {calls} \
                 calls through for {expected} deliveries, of which {} are dead letters after the \
                 last retry tier{}.",
                HumanCount(account.dead),
                listed(dead),
            ),
        };
        Some(text)
    }

    fn story_of_the_gone(&self) -> Option<String> {
        let gone = PARTS.iter().enumerate().filter(|(at, part)| {
            part.manner == Manner::Gone && self.accounts.accounts[*at].expected > 0
        });
        let stories: Vec<String> = gone
            .map(|(at, part)| {
                let account = &self.accounts.accounts[at];
                format!(
                    "{} said so {}, and {} of its {} deliveries are dead letters{}",
                    part.connector,
                    times(account.calls),
                    HumanCount(account.dead),
                    HumanCount(account.expected),
                    listed(&self.dead_reasons[at]),
                )
            })
            .collect();
        if stories.is_empty() {
            return None;
        }
        Some(format!(
            "Gone: {}. The first such answer suspended the connector, and everything else was \
             held without a call, here for seconds and else for a week. A new webhookUrl would have \
             lifted the suspension and sent what was held.",
            stories.join("; "),
        ))
    }
}

/// Reasons in brackets, if there are any.
fn listed(reasons: &[(String, u64)]) -> String {
    let each: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{} {reason}", HumanCount(*count))).collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{} times", HumanCount(count)),
    }
}

fn figures(account: &Account) -> Vec<String> {
    let lost = account.open();
    [account.expected, account.delivered, account.retried, account.dead, lost, account.calls]
        .map(|figure| HumanCount(figure).to_string())
        .to_vec()
}

/// The text in lines of at most [`WIDTH`] characters, and an empty line.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > WIDTH {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word_length;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(ended: Ended) -> Summary {
        let ledger = Ledger::new();
        ledger.expect(0, [0, 4].into_iter());
        ledger.delivered(0, 0);
        Summary::new(&ledger, ended, Duration::from_millis(1500))
    }

    #[test]
    fn what_is_missing_is_lost_and_named() {
        let summary = summary(Ended::Stuck(Duration::from_secs(30)));
        assert!(!summary.is_complete());
        assert_eq!(summary.lost(), 1);
        assert!(summary.to_text().contains("evt_demo_0000000 → search-n8n"));
    }

    #[test]
    fn the_json_begins_with_the_contracted_names() {
        let json = summary(Ended::Complete).to_json().to_string();
        let expected = r#"{"events":1,"deliveries":2,"delivered":1,"retried":0,"dead":0,"cancelled":0,"lost":1,"duplicates":0,"unmatched":0,"seconds":1.5,"#;
        assert!(json.starts_with(expected), "{json}");
    }

    #[test]
    fn lines_are_short() {
        for line in summary(Ended::Complete).to_text().lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
