//! The delivery plane as the simulation plays it: the steps of `pipeline`, one at a time, around
//! the product's decisions.

use std::{sync::Arc, time::Duration};

use dunmore_connectors::{
    connector::{Command, CommandBody},
    delivery::{
        Ask, Ending, History, Next, Origin, Outcome, Reason, Source, Verdict, left_to_wait,
    },
    event::{Event, EventType, sample},
    id::CommandId,
    kafka::NotNow,
    lane::{Arrival, Deferral, MAX_IDLE, Offer, Report, Start},
    offsets::{Begin, Commit, MAX_INCOMPLETE, MAX_METADATA_BYTES},
    pipeline::{Delivery, RecordWork},
    view::Target,
};

use crate::{
    breaks::Break,
    broker::{Topic, index},
    ledger::{Pair, fold},
    machine::{Held, Item, Live, Running, Write},
    shared::{Nature, Shared, stamp},
};

/// From acceptance to the end of a delivery: each step through the tiers takes at most the longest
/// tier and three days of a busy lane, and outages come on top.
const MAX_LIFE_MS: u64 = 40 * 24 * 3600 * 1000;
/// What the workers of all partitions hold of one record each, and what a lane may hold.
const MAX_TAKING: usize = 24;
const MAX_LANE: usize = 1024;

impl Live {
    /// The worker of a partition takes its next step: `None` when it has nothing to do.
    pub fn poll(&mut self, at: usize, shared: &mut Shared) -> Option<()> {
        if !self.held[at].taking.is_empty() {
            return self.hand_on(at, shared);
        }
        if self.held[at].partition.is_released() {
            return None;
        }
        match self.held[at].topic {
            Topic::Commands(_) => None,
            Topic::Events(partition) => self.poll_events(at, partition, shared),
            Topic::Tier(tier) => self.poll_tier(at, tier, shared),
        }
    }

    fn begin(&self, at: usize, offset: i64, shared: &mut Shared) -> Option<Begin> {
        let partition = &self.held[at].partition;
        let begin = match partition.try_begin(offset) {
            Ok(begin) => Some(begin),
            Err(NotNow::Full) if shared.is(Break::NoCap) => {
                Some(partition.tracker().lock().begin(offset))
            }
            Err(_) => None,
        };
        let incomplete = partition.tracker().lock().incomplete();
        if incomplete > MAX_INCOMPLETE {
            shared.ledger.fail("at most 1,000 offsets are incomplete", || {
                format!("{:?} has {incomplete}", self.held[at].topic)
            });
        }
        begin
    }

    fn take(&self, at: usize, offset: i64, pairs: Vec<Pair>, shared: &mut Shared) -> usize {
        let held = &self.held[at];
        let is_zombie = !is_owner(held, shared);
        shared.ledger.take(held.topic, offset, held.epoch, pairs, is_zombie)
    }

    fn poll_events(&mut self, at: usize, number: i32, shared: &mut Shared) -> Option<()> {
        let log = &shared.broker.events[index(number)];
        let entry = log.from(self.held[at].position).first()?;
        let (offset, event) = (entry.offset, Arc::clone(&entry.value));
        let accepted_at = stamp(entry.at);
        let begin = self.begin(at, offset, shared)?;
        self.held[at].position = offset + 1;
        if begin == Begin::AlreadyDone {
            shared.note(|| format!("machine {} skips event {number}/{offset}", self.machine));
            return Some(());
        }
        let subscriptions = self.sight.subscriptions(&event.project, &shared.keyring);
        let targets = subscriptions.matching(event.kind);
        self.check_matching(&event, targets, shared);
        let pair = |t: &Arc<Target>| (event.id.to_string(), t.key.clone());
        let task = self.take(at, offset, targets.iter().map(pair).collect(), shared);
        shared.note(|| {
            let names: Vec<_> = targets.iter().map(|t| t.key.connector.as_str()).collect();
            format!("machine {} takes event {number}/{offset} for {names:?}", self.machine)
        });
        let partition = Arc::clone(&self.held[at].partition);
        if targets.is_empty() {
            partition.complete(offset);
            return Some(());
        }
        let shares = RecordWork::shares(Arc::clone(&partition), offset, targets.len(), None);
        for (share, (target, work)) in targets.iter().zip(shares).enumerate() {
            let delivery = Delivery {
                id: target.namespace.delivery(&event.id),
                target: Arc::clone(target),
                event: Arc::clone(&event),
                source: Source::Live,
                history: History::default(),
                accepted_at,
                origin: Origin { topic: "events".into(), partition: number, offset },
                job: None,
                traceparent: None,
                work,
                permit: None,
            };
            self.held[at].taking.push_back(Item { delivery, task, share });
        }
        self.hand_on(at, shared)
    }

    /// Whoever was there when this instance started, and has not changed since, is matched.
    fn check_matching(&self, event: &Event, targets: &[Arc<Target>], shared: &mut Shared) {
        let mut missing = None;
        for (partition, history) in shared.broker.history.iter().enumerate() {
            let end = self.start_ends[partition];
            for written in fold(history).values().filter(|written| written.offset < end) {
                if let Some(connector) = &written.connector
                    && connector.key.project == event.project
                    && connector.is_active
                    && connector.event_types.contains(event.kind)
                    && !targets.iter().any(|target| target.key == connector.key)
                {
                    missing = Some(connector.key.clone());
                }
            }
        }
        if let Some(key) = missing {
            shared.ledger.fail("no pair is lost", || format!("{} is not sent to {key}", event.id));
        }
    }

    fn poll_tier(&mut self, at: usize, tier: usize, shared: &mut Shared) -> Option<()> {
        let entry = shared.broker.tiers[tier].from(self.held[at].position).first()?;
        let offset = entry.offset;
        let due_at = entry.value.due_at;
        let since = match self.held[at].head {
            Some((head, since)) if head == offset => since,
            _ => shared.now,
        };
        self.held[at].head = Some((offset, since));
        let longest = shared.policy.tiers()[tier].delay();
        let waited = Duration::from_millis(shared.now - since);
        let left = left_to_wait(due_at, shared.time(), waited, longest);
        if !left.is_zero() && !shared.is(Break::NotDueTaken) {
            return None;
        }
        let begin = self.begin(at, offset, shared)?;
        self.held[at].position = offset + 1;
        self.held[at].head = None;
        if begin == Begin::AlreadyDone {
            return Some(());
        }
        let record = shared.broker.tiers[tier].from(offset)[0].value.clone();
        let early = record.due_at.since(shared.time());
        if !early.is_zero() {
            shared.ledger.fail("nothing is tried before it is due", || {
                format!("{} is due in {early:?}", record.delivery_id)
            });
        }
        let pair = (record.event.id.to_string(), record.connector.clone());
        let task = self.take(at, offset, vec![pair], shared);
        shared.note(|| {
            let connector = &record.connector.connector;
            format!("machine {} takes tier {tier}/{offset} for {connector}", self.machine)
        });
        let partition = Arc::clone(&self.held[at].partition);
        let work = RecordWork::shares(partition, offset, 1, None).pop().unwrap();
        let subscriptions = self.sight.subscriptions(&record.connector.project, &shared.keyring);
        let kind = record.event.kind;
        let Ok(target) = subscriptions.still_wanted(
            &record.connector.connector,
            kind,
            record.connector_created_at,
        ) else {
            shared.ledger.durable(task, 0, true);
            work.done();
            return Some(());
        };
        let delivery = Delivery {
            history: record.history(),
            target: Arc::clone(target),
            event: Arc::new(record.event),
            id: record.delivery_id,
            source: Source::Retry,
            accepted_at: record.accepted_at,
            origin: record.origin,
            job: None,
            traceparent: None,
            work,
            permit: None,
        };
        self.held[at].taking.push_back(Item { delivery, task, share: 0 });
        self.hand_on(at, shared)
    }

    /// Offers what the worker has in hand to its lane.
    fn hand_on(&mut self, at: usize, shared: &mut Shared) -> Option<()> {
        let mut moved = None;
        while let Some(item) = self.held[at].taking.pop_front() {
            if let Some(back) = self.offer(item, shared) {
                self.held[at].taking.push_front(back);
                break;
            }
            moved = Some(());
        }
        moved
    }

    /// Gives the delivery back when its lane is full but fast.
    fn offer(&mut self, item: Item, shared: &mut Shared) -> Option<Item> {
        let target = Arc::clone(&item.delivery.target);
        if let Some((reason, words)) = target.held() {
            self.defer(item, reason, words.to_owned(), Duration::ZERO, shared);
            return None;
        }
        let now = shared.time();
        if let Some(left) = item.delivery.history.left_to_ask(now) {
            let reason = Reason::RateLimited;
            self.defer(item, reason, reason.help().to_owned(), left, shared);
            return None;
        }
        // A newer version may have another destination.
        if self.not_before.get(&target.key).is_some_and(|(_, known)| *known < target.version) {
            self.not_before.remove(&target.key);
        }
        let (limits, now) = (shared.profile.limits, self.moment(shared.now));
        let arrival = Arrival {
            version: target.version,
            source: item.delivery.source,
            crowded: item.delivery.work.partition().is_crowded(),
            patient: shared.chance.percent(80),
            is_last: shared.policy.is_last(item.delivery.history.steps),
        };
        let offer = self.lanes.offer(&target.key, limits, arrival, item, now);
        self.start(shared);
        match offer {
            Offer::Queued => None,
            Offer::Busy(item) if item.delivery.work.is_given_up() => None,
            Offer::Busy(item) => Some(item),
            Offer::Deferred(deferral) => {
                self.hand_back(deferral, shared);
                None
            }
        }
    }

    fn hand_back(&mut self, deferral: Deferral<Item>, shared: &mut Shared) {
        let Deferral { item, reason, wait } = deferral;
        if shared.is(Break::HoardsInMemory) {
            self.hoard.push(item);
        } else {
            self.defer(item, reason, reason.help().to_owned(), wait, shared);
        }
    }

    fn defer(
        &mut self,
        mut item: Item,
        reason: Reason,
        detail: String,
        wait: Duration,
        shared: &mut Shared,
    ) {
        if !item.delivery.work.start() {
            drop_item(item, shared);
            return;
        }
        let history = &mut item.delivery.history;
        if shared.is(Break::NoAttemptCap) {
            history.steps = 0;
        }
        let park = history.after_deferral(&shared.policy, reason, detail, wait, shared.time());
        self.writes.push(Write { item, park });
    }

    /// Starts what the lanes let go, and looks after them.
    pub fn start(&mut self, shared: &mut Shared) -> bool {
        let mut started = false;
        while let Some(start) = self.lanes.next(self.moment(shared.now)) {
            self.launch(start, shared);
            started = true;
        }
        self.check_memory(shared);
        started
    }

    pub fn sweep(&mut self, shared: &mut Shared) {
        for deferral in self.lanes.sweep(self.moment(shared.now)) {
            self.hand_back(deferral, shared);
        }
        for item in std::mem::take(&mut self.hoard) {
            if let Some(back) = self.offer(item, shared) {
                self.hoard.push(back);
            }
        }
        self.start(shared);
    }

    fn check_memory(&self, shared: &mut Shared) {
        let most = self.lanes.len() * MAX_LANE;
        let waiting = self.hoard.len() + self.held.iter().map(|h| h.taking.len()).sum::<usize>();
        let running = self.lanes.running();
        if running > shared.profile.max_running
            || self.lanes.queued() > most
            || waiting > MAX_TAKING
        {
            shared.ledger.fail("memory is bounded", || {
                format!("{running} requests, {} in lanes, {waiting} outside", self.lanes.queued())
            });
        }
    }

    fn launch(&mut self, start: Start<Item>, shared: &mut Shared) {
        let Start { ticket, items } = start;
        let (items, dropped): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| item.delivery.work.start());
        for item in dropped {
            drop_item(item, shared);
        }
        let Some(first) = items.first() else {
            let now = self.moment(shared.now);
            for deferral in self.lanes.finish(ticket, Report::Unused, now) {
                self.hand_back(deferral, shared);
            }
            return;
        };
        let target = Arc::clone(&first.delivery.target);
        self.check_launch(&target, &items, shared);
        for item in &items {
            shared.ledger.tasks[item.task].launched = true;
        }
        let (latency, answers) = ask(&target, items.len(), shared);
        let acts = answers.iter().map(|(_, acts)| *acts).collect();
        let answers = answers.into_iter().map(|(verdict, _)| verdict).collect();
        let mut running = Running {
            ticket,
            began: shared.now,
            ready_at: shared.now + latency,
            items,
            answers,
            acts,
            acted: false,
        };
        if shared.chance.percent(50) {
            act(&mut running, shared);
        }
        self.running.push(running);
    }

    fn check_launch(&self, target: &Target, items: &[Item], shared: &mut Shared) {
        if let Some((until, _)) = self.not_before.get(&target.key)
            && shared.now < *until
        {
            shared.ledger.fail("a destination is left alone for as long as it asked", || {
                format!("{} is called {} ms too early", target.key, until - shared.now)
            });
        }
        // A lane is forgotten when nothing has used it for so long; by then it may be asked again.
        let is_remembered = |at: u64| Duration::from_millis(shared.now - at) < MAX_IDLE / 2;
        let known = self.broken.get(&target.key);
        if known.is_some_and(|(version, at)| target.version <= *version && is_remembered(*at)) {
            shared.ledger.fail("a broken connector is not called", || target.key.to_string());
        }
        if items.len() > shared.profile.limits.batch_items {
            shared.ledger.fail("memory is bounded", || format!("a batch of {}", items.len()));
        }
        let most = items.iter().map(|item| item.delivery.history.attempts + 1).max();
        // The first request, one after each tier, and one when the destination asked to wait once
        // more. Until a suspension is known everywhere, each instance asks.
        let allowed = u32::try_from(shared.policy.tiers().len() + 2).unwrap();
        let is_gone = shared.natures.get(&target.key) == Some(&Nature::Gone);
        if most > Some(allowed) && !is_gone {
            shared.ledger.fail("attempts are bounded", || format!("attempt {most:?}"));
        }
    }

    /// An answer arrives: the lane learns of it, then each delivery goes its way.
    pub fn answer(&mut self, at: usize, shared: &mut Shared) {
        let mut running = self.running.swap_remove(at);
        act(&mut running, shared);
        let Running { ticket, began, items, answers, .. } = running;
        let version = |item: &Item| item.delivery.target.version;
        let verdicts = items.iter().map(version).zip(&answers);
        let mut report = Report::of(verdicts);
        let key = items[0].delivery.target.key.clone();
        match report {
            Report::SlowDown(after) | Report::Failing(after) => {
                let least = match report {
                    Report::SlowDown(_) => Duration::from_secs(1),
                    _ => Duration::ZERO,
                };
                let after = after.unwrap_or(least);
                let until = shared.now + u64::try_from(after.as_millis()).unwrap();
                let version = items[0].delivery.target.version;
                let known = self.not_before.entry(key.clone()).or_default();
                *known = (known.0.max(until), known.1.max(version));
                if shared.is(Break::RetryAfterIgnored) {
                    report = Report::Failing(None);
                }
            }
            Report::Broken { version } => {
                self.broken.insert(key.clone(), (version, shared.now));
            }
            _ => {}
        }
        shared.note(|| {
            let names: Vec<_> = items.iter().map(|i| i.delivery.event.id.as_str()).collect();
            format!("machine {}: {} answers {report:?} to {names:?}", self.machine, key.connector)
        });
        for deferral in self.lanes.finish(ticket, report, self.moment(shared.now)) {
            self.hand_back(deferral, shared);
        }
        let duration = Duration::from_millis(shared.now - began);
        for (item, verdict) in items.into_iter().zip(answers) {
            self.settle(item, verdict, duration, shared);
        }
        self.start(shared);
    }

    fn settle(&mut self, mut item: Item, verdict: Verdict, took: Duration, shared: &mut Shared) {
        if verdict.asks() == Some(Ask::Suspend) {
            self.suspend(&item.delivery.target, shared);
        }
        let history = &mut item.delivery.history;
        if shared.is(Break::NoAttemptCap) {
            history.steps = 0;
        }
        match history.after_attempt(&shared.policy, verdict, Some(took), shared.time()) {
            Ending::Delivered => complete(item, true, shared),
            Ending::Parked(park) => self.writes.push(Write { item, park }),
        }
    }

    fn suspend(&mut self, target: &Target, shared: &mut Shared) {
        let known = self.suspending.insert(target.key.clone(), target.version);
        if known == Some(target.version) {
            return;
        }
        let id = CommandId::parse(&format!("cmd_suspend_{}", shared.number())).unwrap();
        let body = CommandBody::Suspend {
            connector: target.key.connector.clone(),
            reason: "gone".to_owned(),
            if_version: Some(target.version),
        };
        let project = target.key.project.clone();
        let command = Command { id, project, actor: None, body };
        self.commands.push(command.to_json());
    }

    /// A record for a tier or the dead letters is written, or not.
    pub fn write(&mut self, at: usize, shared: &mut Shared) {
        let mood = shared.broker.mood;
        if shared.chance.percent(mood.refuses) {
            if shared.is(Break::JumpsOverFailure) {
                self.writes.swap_remove(at).item.delivery.work.done();
            } else if self.writes[at].item.delivery.work.partition().is_closed() {
                self.writes.swap_remove(at);
            }
            return;
        }
        let write = &self.writes[at];
        // The keeper of held deliveries is played by the longest tier.
        let longest = shared.policy.tiers().len() - 1;
        let (tier, due_at) = match write.park.next {
            Next::Wait { tier, .. } => (Some(tier), write.park.due_at),
            Next::Hold => {
                (Some(longest), shared.time().plus(shared.policy.tiers()[longest].delay()))
            }
            Next::Dead => (None, write.park.due_at),
        };
        let record = write.item.delivery.record(due_at);
        if let Some(tier) = tier {
            let log = &mut shared.broker.tiers[tier];
            log.append(shared.now, record.clone(), &mut shared.chance);
            shared.note(|| {
                let connector = &record.connector.connector;
                format!("machine {}: {connector} goes to tier {tier}", self.machine)
            });
        }
        shared.ledger.tasks[write.item.task].launched = true;
        if shared.chance.percent(mood.loses_answer) {
            // It is written, but nobody knows: it will be written once more.
            let pair = (record.event.id.to_string(), record.connector);
            shared.ledger.excuse(&pair);
            return;
        }
        let Write { item, park } = self.writes.swap_remove(at);
        complete(item, park.outcome == Outcome::Dead, shared);
    }

    /// Sends a command of this instance's own.
    pub fn send(&mut self, shared: &mut Shared) -> Option<()> {
        let value = self.commands.first()?.clone();
        if shared.chance.percent(shared.broker.mood.refuses) {
            if shared.is(Break::SuspensionForgotten) {
                self.commands.remove(0);
            }
            return None;
        }
        self.commands.remove(0);
        shared.send_command(value, None);
        Some(())
    }

    /// Commits what the trackers say; true when the broker's answer arrived.
    pub fn commit(&self, at: usize, shared: &mut Shared) -> bool {
        let held = &self.held[at];
        let Some(commit) = held.partition.tracker().lock().commit() else { return true };
        let (answered, taken) = commit_at_broker(held, &commit, shared);
        if answered || (!taken && shared.is(Break::LostAnswerCounts)) {
            held.partition.tracker().lock().committed(&commit);
        }
        answered
    }

    /// Gives a partition up: nothing more starts for it.
    pub fn release(&mut self, at: usize, shared: &mut Shared) {
        let partition = Arc::clone(&self.held[at].partition);
        partition.release();
        let dropped = self.lanes.drain(|item| {
            let work = &item.delivery.work;
            work.is_given_up() && Arc::ptr_eq(work.partition(), &partition)
        });
        for item in dropped {
            drop_item(item, shared);
        }
    }
}

/// Whether the coordinator agrees that this instance owns the partition.
pub fn is_owner(held: &Held, shared: &Shared) -> bool {
    shared.broker.slots[&held.topic].owner.is_some_and(|owner| owner.epoch == held.epoch)
}

/// Whether an answer arrived, and whether the commit was taken.
fn commit_at_broker(held: &Held, commit: &Commit, shared: &mut Shared) -> (bool, bool) {
    if commit.metadata.len() > MAX_METADATA_BYTES {
        shared.ledger.fail("metadata fits the broker's limit", || {
            format!("{} bytes", commit.metadata.len())
        });
    }
    let mood = shared.broker.mood;
    if !is_owner(held, shared) || shared.chance.percent(mood.refuses / 2) {
        return (false, false);
    }
    let slot = &shared.broker.slots[&held.topic];
    let (before, map_before) = (slot.committed.clone(), slot.map());
    let from = before.as_ref().map_or(0, |(offset, _)| *offset);
    let slot = shared.broker.slots.get_mut(&held.topic).unwrap();
    let was_covered = |offset| {
        before.as_ref().is_some_and(|(committed, _)| offset < *committed)
            || map_before.is_done(offset)
    };
    slot.committed = Some((commit.offset, commit.metadata.clone()));
    let map = slot.map();
    if commit.offset < from {
        shared.ledger.fail("no commit goes back", || format!("{:?}", held.topic));
    }
    let slot = &shared.broker.slots[&held.topic];
    let offsets = shared.broker.offsets_from(held.topic, from);
    let forgotten = offsets.iter().find(|o| was_covered(**o) && !slot.covers(&map, **o)).copied();
    let newly: Vec<i64> =
        offsets.into_iter().filter(|o| slot.covers(&map, *o) && !was_covered(*o)).collect();
    if let Some(offset) = forgotten {
        shared.ledger.fail("no commit goes back", || format!("{:?} forgot {offset}", held.topic));
    }
    if !matches!(held.topic, Topic::Commands(_)) {
        shared.ledger.committed(held.topic, held.epoch, &newly);
    }
    shared.note(|| format!("commit {:?} at {} (+{newly:?})", held.topic, commit.offset));
    (!shared.chance.percent(mood.loses_answer), true)
}

/// Drops what belongs to the partition's next owner.
fn drop_item(item: Item, shared: &Shared) {
    if shared.is(Break::DroppedIsDone) {
        item.delivery.work.done();
    }
}

/// Ends a delivery's part in its record.
fn complete(item: Item, ended: bool, shared: &mut Shared) {
    let task = &shared.ledger.tasks[item.task];
    let (topic, offset) = (task.topic, task.offset);
    let life = shared.time().since(item.delivery.accepted_at);
    if ended && life > Duration::from_millis(MAX_LIFE_MS) {
        shared.ledger.fail("every delivery ends in time", || format!("after {life:?}"));
    }
    shared.ledger.durable(item.task, item.share, ended);
    if shared.is(Break::OldEpochAccepted)
        && let Some(current) = shared.current.get(&topic)
        && !Arc::ptr_eq(current, item.delivery.work.partition())
    {
        current.complete(offset);
    }
    item.delivery.work.done();
}

/// The destination acts, if it has not yet.
fn act(running: &mut Running, shared: &mut Shared) {
    if std::mem::replace(&mut running.acted, true) {
        return;
    }
    for ((item, verdict), acts) in running.items.iter().zip(&running.answers).zip(&running.acts) {
        if *acts {
            let pair = shared.ledger.tasks[item.task].pairs[item.share].clone();
            shared.ledger.delivered(&pair);
            if *verdict != Verdict::Delivered {
                // It took the event and nobody knows.
                shared.ledger.excuse(&pair);
            }
        }
    }
}

/// What the destination will answer, after how long, and whether it takes the event.
fn ask(target: &Target, items: usize, shared: &mut Shared) -> (u64, Vec<(Verdict, bool)>) {
    let nature = shared.natures.get(&target.key).copied().unwrap_or(Nature::Healthy);
    // What is asked for is about what the tiers can wait: else a record goes round for hours.
    let longest = shared.policy.tiers().last().map_or(6, |tier| tier.delay().as_secs() + 1);
    let chance = &mut shared.chance;
    let delivered = || (Verdict::Delivered, true);
    let failing = || (Verdict::retry(Reason::ServerError, "HTTP 500"), false);
    match nature {
        Nature::Healthy => (chance.between(1, 200), vec![delivered(); items]),
        Nature::Slow => (chance.between(1_000, 10_000), vec![delivered(); items]),
        Nature::Failing => (chance.between(1, 500), vec![failing(); items]),
        Nature::Hanging => {
            let answers = (0..items)
                .map(|_| (Verdict::retry(Reason::Timeout, "no answer"), chance.percent(20)));
            (30_000, answers.collect())
        }
        Nature::Flaky => {
            let answers = (0..items).map(|_| match chance.below(10) {
                0..=5 => delivered(),
                6..=7 => failing(),
                8 => (Verdict::retry(Reason::ConnectionLost, "reset"), true),
                _ => (Verdict::dead(Reason::Rejected, "no"), false),
            });
            let answers = answers.collect();
            (chance.between(1, 300), answers)
        }
        Nature::Limited if chance.percent(50) => {
            let after = match chance.below(4) {
                0 => None,
                1 => Some(Duration::from_secs(chance.between(1, 4))),
                2 => Some(Duration::from_secs(chance.between(6, longest.min(120)))),
                _ => Some(Duration::from_secs(chance.between(6, longest.min(3_590) + 10))),
            };
            let verdict = if chance.percent(50) {
                Verdict::retry_after(Reason::RateLimited, "HTTP 429", after)
            } else {
                Verdict::retry_after(Reason::ServerError, "HTTP 503", after)
            };
            (20, vec![(verdict, false); items])
        }
        Nature::Limited => (20, vec![delivered(); items]),
        Nature::Gone => {
            let is_fixed = shared.fixed_at.get(&target.key).is_some_and(|at| target.version >= *at);
            let gone = (Verdict::broken(Reason::Gone, "HTTP 410"), false);
            (50, vec![if is_fixed { delivered() } else { gone }; items])
        }
    }
}

/// An event as a payment service writes it.
pub fn event(project: &str, number: u64) -> Event {
    let id = format!("evt_{number}");
    let json = sample(EventType::PaymentSettled).replace("evt_sample_2", &id);
    Event::from_json(json.replace("proj_1", project).into()).unwrap()
}
