//! What people see while the demo runs: a view that redraws itself on a terminal, plain lines
//! elsewhere.

use std::{
    fmt::Write,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{
    HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use parking_lot::Mutex;

use super::{
    cast::{Manner, PARTS},
    ledger::Snapshot,
};

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
const REDRAWS_PER_SECOND: u8 = 10;

/// Where the demo talks to people: standard output, or standard error when standard output is for
/// a program.
pub struct Screen {
    to_error: bool,
    live: bool,
}

/// The view of a running demo.
pub struct Live<'a> {
    screen: &'a Screen,
    began: Instant,
    last_line: Mutex<Instant>,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    /// A bar that is dropped takes its line away.
    _head: ProgressBar,
    parts: Vec<ProgressBar>,
    overall: ProgressBar,
}

impl Screen {
    /// A screen on standard error, or on standard output.
    pub fn new(to_error: bool) -> Self {
        let live = if to_error {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Self { to_error, live }
    }

    /// Writes lines. Nobody is left to be told when that fails.
    pub fn say(&self, text: &str) {
        let _ = if self.to_error {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    /// Begins the view of so many deliveries.
    pub fn live(&self, deliveries: u64) -> Live<'_> {
        let bars = self.live.then(|| Bars::new(self.to_error, deliveries));
        let now = Instant::now();
        Live { screen: self, began: now, last_line: Mutex::new(now), bars }
    }
}

impl Live<'_> {
    /// Shows the accounts.
    pub fn show(&self, snapshot: &Snapshot, events: u64, deliveries: u64) {
        match &self.bars {
            Some(bars) => bars.show(snapshot, events),
            None => self.line(snapshot, events, deliveries),
        }
    }

    fn line(&self, snapshot: &Snapshot, events: u64, deliveries: u64) {
        let mut last_line = self.last_line.lock();
        if last_line.elapsed() < LINE_INTERVAL {
            return;
        }
        *last_line = Instant::now();
        let total = |figure: fn(&super::ledger::Account) -> u64| HumanCount(snapshot.total(figure));
        self.screen.say(&format!(
            "{:5.1} s  events {}/{}  delivered {}  dead {}  waiting {}  of {} deliveries",
            self.began.elapsed().as_secs_f64(),
            HumanCount(snapshot.events),
            HumanCount(events),
            total(|account| account.delivered),
            total(|account| account.dead),
            total(super::ledger::Account::open),
            HumanCount(deliveries),
        ));
    }

    /// Takes the view away.
    pub fn end(self) {
        if let Some(bars) = &self.bars {
            bars.end();
        }
    }
}

impl Bars {
    fn new(to_error: bool, deliveries: u64) -> Self {
        let target = if to_error {
            ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::stdout_with_hz(REDRAWS_PER_SECOND)
        };
        let all = MultiProgress::with_draw_target(target);
        let text = |template: &str| {
            let bar = ProgressBar::new(0);
            all.add(bar.clone());
            bar.set_style(style(template));
            bar
        };
        let head = text("{msg:.bold}");
        head.set_message(format!(
            "{:<15} {:<16} {:>9} {:>8} {:>8} {:>7}",
            "connector", "third party", "delivered", "retried", "waiting", "dead"
        ));
        head.tick();
        let parts = PARTS
            .iter()
            .map(|part| {
                let colour = match part.manner {
                    Manner::Healthy(_) => "green",
                    Manner::Slow(_) | Manner::Recovers { .. } => "yellow",
                    Manner::Fails | Manner::Gone => "red",
                };
                let bar = text(&format!(
                    "{part:<15} {{prefix:16.{colour}}} {{msg}}",
                    part = part.connector
                ));
                bar.set_prefix(part.manner.words());
                bar
            })
            .collect();
        let overall = ProgressBar::new(deliveries);
        all.add(overall.clone());
        overall.set_style(style(
            "{bar:16.cyan} {human_pos}/{human_len} deliveries, {pace}, {elapsed}, {msg}",
        ));
        Self { all, _head: head, parts, overall }
    }

    fn show(&self, snapshot: &Snapshot, events: u64) {
        for (bar, account) in self.parts.iter().zip(&snapshot.accounts) {
            bar.set_message(format!(
                "{:>9} {:>8} {:>8} {:>7}",
                HumanCount(account.delivered).to_string(),
                HumanCount(account.retried).to_string(),
                HumanCount(account.open()).to_string(),
                HumanCount(account.dead).to_string(),
            ));
        }
        let open = snapshot.total(super::ledger::Account::open);
        let message = if snapshot.events < events {
            format!("{}/{} events", HumanCount(snapshot.events), HumanCount(events))
        } else {
            format!("{} wait", HumanCount(open))
        };
        self.overall.set_message(message);
        self.overall.set_position(snapshot.total(|a| a.expected) - open);
    }

    fn end(&self) {
        // The drawing goes; the table of the summary stands in its place.
        let _ = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }
}

fn style(template: &str) -> ProgressStyle {
    let pace = |state: &ProgressState, out: &mut dyn Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("pace", pace)
}
