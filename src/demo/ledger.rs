//! The accounts: what must arrive, by what was produced, and what became of it, by what the third
//! parties took and what the topics say. The pipeline's own counters have no part in it.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::cast::{Manner, PARTS};

/// How a delivery ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The third party took it.
    Delivered,
    /// It is in the dead-letter topic.
    Dead,
    /// The connector did not want it any more.
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    sent_at: Instant,
    retried: bool,
    end: Option<End>,
}

/// The accounts of one connector.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Deliveries that there must be.
    pub expected: u64,
    /// Those that the third party took.
    pub delivered: u64,
    /// Those that waited in a retry tier at least once.
    pub retried: u64,
    /// Those in the dead-letter topic.
    pub dead: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// How often the third party took one that it had already.
    pub duplicates: u64,
    /// Requests that the third party got.
    pub calls: u64,
}

impl Account {
    /// Deliveries whose end is not known yet.
    pub fn open(&self) -> u64 {
        self.expected.saturating_sub(self.delivered + self.dead + self.cancelled)
    }
}

/// The sum of all accounts.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Events that were produced.
    pub events: u64,
    /// Those that nobody subscribes to.
    pub unmatched: u64,
    /// What arrived at a third party, or in a topic, that does not belong there.
    pub strays: u64,
    /// By connector, in the order of [`PARTS`].
    pub accounts: Vec<Account>,
    /// How long nothing has come to its end.
    pub quiet: Duration,
}

impl Snapshot {
    /// One figure over all connectors.
    pub fn total(&self, figure: impl Fn(&Account) -> u64) -> u64 {
        self.accounts.iter().map(figure).sum()
    }
}

/// The accounts, shared by the producer, the sink and the readers of topics.
pub struct Ledger {
    books: Mutex<Books>,
}

struct Books {
    events: u64,
    unmatched: u64,
    strays: u64,
    last_end: Instant,
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    account: Account,
    fates: HashMap<u64, Fate>,
    /// From being produced to being taken, for those that were taken, in microseconds.
    latencies: Vec<u32>,
    dead_reasons: BTreeMap<String, u64>,
}

impl Ledger {
    /// Empty accounts.
    pub fn new() -> Self {
        let rows = PARTS.iter().map(|_| Row::default()).collect();
        let books = Books { events: 0, unmatched: 0, strays: 0, last_end: Instant::now(), rows };
        Self { books: Mutex::new(books) }
    }

    /// An event is about to be produced for these connectors.
    pub fn expect(&self, event: u64, parts: impl Iterator<Item = usize>) {
        let mut books = self.books.lock();
        books.events += 1;
        let mut any = false;
        for part in parts {
            any = true;
            let row = &mut books.rows[part];
            row.account.expected += 1;
            let fate = Fate { sent_at: Instant::now(), retried: false, end: None };
            row.fates.insert(event, fate);
        }
        books.unmatched += u64::from(!any);
    }

    /// A third party was called.
    pub fn called(&self, part: usize) -> u64 {
        let calls = &mut self.books.lock().rows[part].account.calls;
        *calls += 1;
        *calls
    }

    /// A third party took an event.
    pub fn delivered(&self, part: usize, event: u64) {
        self.ended(part, event, End::Delivered);
    }

    /// A dead letter was read.
    pub fn dead(&self, part: usize, event: u64, reason: &str) {
        if self.ended(part, event, End::Dead) {
            let mut books = self.books.lock();
            *books.rows[part].dead_reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// A delivery was cancelled.
    pub fn cancelled(&self, part: usize, event: u64) {
        self.ended(part, event, End::Cancelled);
    }

    /// A delivery went to a retry tier.
    pub fn retried(&self, part: usize, event: u64) {
        let books = &mut *self.books.lock();
        let row = &mut books.rows[part];
        match row.fates.get_mut(&event) {
            None => books.strays += 1,
            Some(fate) if fate.retried => {}
            Some(fate) => {
                fate.retried = true;
                row.account.retried += 1;
            }
        }
    }

    /// Something came that does not belong where it was found.
    pub fn stray(&self) {
        self.books.lock().strays += 1;
    }

    /// True when it is the delivery's first end.
    fn ended(&self, part: usize, event: u64, end: End) -> bool {
        let books = &mut *self.books.lock();
        let row = &mut books.rows[part];
        let Some(fate) = row.fates.get_mut(&event) else {
            books.strays += 1;
            return false;
        };
        let account = &mut row.account;
        match (fate.end, end) {
            (Some(End::Delivered), End::Delivered) => account.duplicates += 1,
            (Some(earlier), End::Delivered) => {
                // It was given up and arrived all the same: what counts is that it arrived.
                *account.count(earlier) -= 1;
                account.delivered += 1;
                fate.end = Some(end);
            }
            (Some(_), _) => {}
            (None, _) => {
                *account.count(end) += 1;
                fate.end = Some(end);
                books.last_end = Instant::now();
                if end == End::Delivered {
                    let micros = fate.sent_at.elapsed().as_micros();
                    row.latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
                }
                return true;
            }
        }
        false
    }

    /// Whether fewer deliveries than these are open, in all and of each healthy connector.
    pub fn has_room(&self, most: u64, most_healthy: u64) -> bool {
        let books = self.books.lock();
        let mut open = 0;
        for (row, part) in books.rows.iter().zip(PARTS) {
            let here = row.account.open();
            open += here;
            if matches!(part.manner, Manner::Healthy(_)) && here >= most_healthy {
                return false;
            }
        }
        open < most
    }

    /// All accounts as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let books = self.books.lock();
        Snapshot {
            events: books.events,
            unmatched: books.unmatched,
            strays: books.strays,
            accounts: books.rows.iter().map(|row| row.account.clone()).collect(),
            quiet: books.last_end.elapsed(),
        }
    }

    /// How long deliveries took, in all the connectors that are named: the time that this share of
    /// them stayed under.
    pub fn latency(&self, parts: &[usize], percent: usize) -> Option<Duration> {
        let books = self.books.lock();
        let mut all: Vec<u32> =
            parts.iter().flat_map(|part| books.rows[*part].latencies.iter().copied()).collect();
        all.sort_unstable();
        let last = all.len().checked_sub(1)?;
        all.get(last * percent.min(100) / 100).map(|micros| Duration::from_micros((*micros).into()))
    }

    /// Why a connector's deliveries are dead letters, the most frequent reason first.
    pub fn dead_reasons(&self, part: usize) -> Vec<(String, u64)> {
        let reasons = self.books.lock().rows[part].dead_reasons.clone();
        let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        reasons
    }

    /// Some deliveries whose end is not known, as connector and event number.
    pub fn open_examples(&self, most: usize) -> Vec<(usize, u64)> {
        let books = self.books.lock();
        let open = books.rows.iter().enumerate().flat_map(|(part, row)| {
            let fates = row.fates.iter().filter(|(_, fate)| fate.end.is_none());
            fates.map(move |(event, _)| (part, *event))
        });
        open.take(most).collect()
    }
}

impl Account {
    const fn count(&mut self, end: End) -> &mut u64 {
        match end {
            End::Delivered => &mut self.delivered,
            End::Dead => &mut self.dead,
            End::Cancelled => &mut self.cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_delivery_has_one_end_and_repeats_are_counted() {
        let ledger = Ledger::new();
        ledger.expect(1, [0, 1].into_iter());
        ledger.expect(2, [0].into_iter());
        ledger.expect(3, std::iter::empty());
        assert_eq!(ledger.snapshot().total(Account::open), 3);
        assert!(ledger.has_room(4, 3) && !ledger.has_room(3, 3) && !ledger.has_room(4, 2));
        ledger.delivered(0, 1);
        ledger.delivered(0, 1);
        ledger.retried(1, 1);
        ledger.retried(1, 1);
        ledger.dead(1, 1, "gone");
        ledger.dead(1, 1, "gone");
        assert_eq!(ledger.open_examples(9), [(0, 2)]);
        ledger.delivered(2, 1);
        let found = ledger.snapshot();
        assert_eq!((found.events, found.unmatched, found.strays), (3, 1, 1));
        assert_eq!(found.total(|a| a.delivered), 1);
        assert_eq!(found.total(|a| a.duplicates), 1);
        assert_eq!((found.accounts[1].dead, found.accounts[1].retried), (1, 1));
        assert_eq!(ledger.dead_reasons(1), [("gone".to_owned(), 1)]);
        assert_eq!(ledger.snapshot().total(Account::open), 1);
    }

    #[test]
    fn a_dead_letter_that_arrived_all_the_same_is_delivered() {
        let ledger = Ledger::new();
        ledger.expect(1, [0].into_iter());
        ledger.dead(0, 1, "timeout");
        ledger.delivered(0, 1);
        let account = &ledger.snapshot().accounts[0];
        assert_eq!((account.delivered, account.dead, account.open()), (1, 0, 0));
    }
}
