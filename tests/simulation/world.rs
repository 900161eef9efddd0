//! The simulated world: machines around a broker, and the steps that chance picks.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
};

use dunmore_connectors::{
    clock::Timestamp,
    connector::{CommandsLog, Progress, Recent},
    id::ConnectorKey,
    kafka::Partition,
    lane::Lanes,
    offsets::{CompletionMap, Tracker},
    view::{Freshness, is_stale},
};

use crate::{
    breaks::Break,
    broker::{Mood, Owner, PARTITIONS, Topic, index},
    chance::Chance,
    delivery::{event, is_owner},
    ledger::{Violation, fold},
    machine::{Duty, Held, Live, Machine, Sight},
    profile::{Kind, Profile},
    shared::{Nature, Shared},
};

/// How long a partition that is revoked may finish what is under way.
const REVOKE_GRACE_MS: u64 = 2_000;
/// Not longer than a view that is up to date may stand still.
const DAY_MS: u64 = 23 * 3600 * 1000;
/// What a partition's worker does in one round at most.
const MAX_AT_ONCE: usize = 64;
/// After the trouble, everything must come to rest within so many rounds.
const MAX_ROUNDS: usize = 60_000;
/// … and never wait so often in a row without anything that happens.
const MAX_IDLE_ROUNDS: usize = 1_000;

/// One step: what happens, and the chance it happens with. Leaving a step out changes nothing of
/// the others' chance, so a failing run can be shortened.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kind: Kind,
    pub noise: u64,
}

/// The steps of a seed.
pub fn steps_of(seed: u64, profile: &Profile) -> Vec<Step> {
    let mut chance = Chance::new(seed);
    let step = |_| Step { kind: profile.pick(&mut chance), noise: chance.draw() };
    (0..profile.steps).map(step).collect()
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Run {
    pub violation: Option<Violation>,
    pub trace: Vec<String>,
    pub deliveries: u64,
}

pub struct World {
    shared: Shared,
    machines: Vec<Machine>,
    incarnations: u64,
    sent: Vec<(Vec<u8>, Option<i32>)>,
}

/// Runs these steps, then lets everything come to rest, and looks at the end.
pub fn run(
    seed: u64,
    profile: &Profile,
    steps: &[Step],
    breaks: Option<Break>,
    tracing: bool,
) -> Run {
    let mut world = World::new(seed, profile.clone(), breaks, tracing);
    for step in steps {
        world.shared.chance = Chance::new(step.noise);
        world.step(step.kind);
        world.shared.now += world.shared.chance.between(0, 20);
        if world.shared.ledger.violation.is_some() {
            break;
        }
    }
    if world.shared.ledger.violation.is_none() {
        world.shared.note(|| "-- no more trouble --".to_owned());
        world.rest();
    }
    let Shared { ledger, trace, .. } = world.shared;
    Run { deliveries: ledger.deliveries, violation: ledger.violation, trace }
}

impl World {
    fn new(seed: u64, profile: Profile, breaks: Option<Break>, tracing: bool) -> Self {
        let shared = Shared::new(seed, profile, breaks, tracing);
        let machine = |_| Machine { live: None, disk: Sight::new(shared.time()) };
        let machines = (0..shared.profile.machines).map(machine).collect();
        let mut world = Self { shared, machines, incarnations: 0, sent: Vec::new() };
        for project in world.shared.profile.projects.clone() {
            world.command(project, "project.set_tier", r#""tier":"pro""#);
        }
        for project in world.shared.profile.projects.clone() {
            for number in 1..=world.shared.profile.connectors {
                world.create(project, &format!("conn_{number}"));
            }
        }
        if world.shared.profile.connectors > 0 {
            world.settle_down();
        }
        if world.shared.profile.flood > 0 {
            let key = ConnectorKey {
                project: "proj_1".parse().unwrap(),
                connector: "conn_1".parse().unwrap(),
            };
            world.shared.natures.insert(key, Nature::Failing);
            for _ in 0..world.shared.profile.flood {
                world.event("proj_1", 0);
            }
            world.shared.broker.mood.refuses = 100;
        }
        world
    }

    fn step(&mut self, kind: Kind) {
        let at = self.shared.chance.below(self.machines.len());
        match kind {
            Kind::Event => {
                let project = self.project();
                let partition = self.shared.chance.below(2);
                self.event(project, partition);
            }
            Kind::Command => self.any_command(),
            Kind::Coordinate => self.coordinate(at),
            Kind::Rebalance => self.rebalance(),
            Kind::Expel => self.expel(),
            Kind::Crash => self.crash(at, "crashes"),
            Kind::PowerCut => {
                for at in 0..self.machines.len() {
                    self.crash(at, "crashes with all others");
                }
            }
            Kind::LoseDisk => {
                if self.machines[at].live.is_none() {
                    self.machines[at].disk = Sight::new(self.shared.time());
                    self.shared.note(|| format!("machine {at} loses its disk"));
                }
            }
            Kind::Mood => {
                let (refuses, loses_answer) = match self.shared.chance.below(4) {
                    0 => (30, 0),
                    1 => (0, 20),
                    2 => (15, 10),
                    _ => (0, 0),
                };
                self.shared.broker.mood = Mood { refuses, loses_answer };
                let mood = self.shared.broker.mood;
                self.shared.note(|| format!("the broker: {mood:?}"));
            }
            Kind::Compact => self.compact(),
            Kind::LongTime => self.long_time(),
            Kind::Anew => self.make_commands_anew(),
            Kind::Wait => {
                let millis = self.shared.chance.between(0, 5_000);
                self.shared.now += millis;
                self.with(at, Live::sweep);
            }
            _ => self.work(kind, self.who_can(kind, at)),
        }
    }

    /// This machine, or the next one that has something of the kind to do.
    fn who_can(&self, kind: Kind, first: usize) -> usize {
        let count = self.machines.len();
        let can = |at: &usize| {
            let Some(live) = &self.machines[*at].live else { return false };
            match kind {
                Kind::Poll | Kind::Commit => !live.held.is_empty(),
                Kind::Registrar => {
                    let mut held = live.held.iter().chain(&live.orphans);
                    held.any(|held| matches!(held.topic, Topic::Commands(_)))
                }
                Kind::Answer => !live.running.is_empty(),
                Kind::Write => !live.writes.is_empty(),
                Kind::Send => !live.commands.is_empty(),
                Kind::FinishRevoke => live.held.iter().any(|held| held.revoking.is_some()),
                _ => true,
            }
        };
        (0..count).map(|next| (first + next) % count).find(can).unwrap_or(first)
    }

    /// Something that a running machine does.
    fn work(&mut self, kind: Kind, at: usize) {
        let Machine { live, disk } = &mut self.machines[at];
        let Some(live) = live else { return };
        let shared = &mut self.shared;
        let held = live.held.len();
        match kind {
            Kind::Feed if shared.profile.slow_view == Some(at) && shared.chance.percent(70) => {}
            Kind::Feed => {
                let partition = i32::try_from(shared.chance.below(2)).unwrap();
                let most = 1 + shared.chance.below(8);
                live.feed(partition, most, shared);
                live.join(shared);
                if shared.chance.percent(10) {
                    live.check_view(shared);
                }
            }
            Kind::Poll if held > 0 => {
                let first = shared.chance.below(held);
                let most = if shared.profile.flood > 0 { 64 } else { 1 + shared.chance.below(3) };
                // The first partition that has something.
                let found =
                    (0..held).map(|i| (first + i) % held).find(|i| live.poll(*i, shared).is_some());
                if let Some(found) = found {
                    for _ in 1..most {
                        live.poll(found, shared);
                    }
                }
            }
            Kind::Start => {
                live.start(shared);
            }
            Kind::Answer => {
                let many = if shared.profile.flood > 0 { 64 } else { 1 };
                for _ in 0..many {
                    let ready = |r: &crate::machine::Running| r.ready_at <= shared.now;
                    let found: Vec<usize> =
                        (0..live.running.len()).filter(|i| ready(&live.running[*i])).collect();
                    if !found.is_empty() {
                        let pick = found[shared.chance.below(found.len())];
                        live.answer(pick, shared);
                    } else if let Some(soonest) = live.running.iter().map(|r| r.ready_at).min() {
                        shared.now = shared.now.max(soonest.min(shared.now + 1_000));
                    }
                }
            }
            Kind::Write if !live.writes.is_empty() => {
                let pick = shared.chance.below(live.writes.len());
                live.write(pick, shared);
            }
            Kind::Send => {
                live.send(shared);
            }
            Kind::Commit if held > 0 => {
                // A group commits all its partitions together.
                let registrar = shared.chance.percent(30);
                for i in 0..held {
                    if matches!(live.held[i].topic, Topic::Commands(_)) == registrar {
                        live.commit(i, shared);
                    }
                }
            }
            Kind::Registrar => {
                for _ in 0..=shared.chance.below(6) {
                    let orphans = live.orphans.len();
                    if orphans > 0 && shared.chance.percent(40) {
                        let pick = shared.chance.below(orphans);
                        live.registrar(true, pick, shared);
                        live.orphans.retain(|held| !matches!(held.duty, Duty::Stopped));
                    } else if held > 0 {
                        let first = shared.chance.below(held);
                        let _: Option<usize> = (0..held).map(|i| (first + i) % held).find(|i| {
                            matches!(live.held[*i].topic, Topic::Commands(_))
                                && live.registrar(false, *i, shared)
                        });
                    }
                    if live.failed || shared.ledger.violation.is_some() {
                        break;
                    }
                }
            }
            Kind::Flush => *disk = live.sight.clone(),
            Kind::FinishRevoke => self.finish_revoke(at, false),
            Kind::Notice => self.notice(at),
            _ => {}
        }
        self.stop_failed(at);
    }

    fn stop_failed(&mut self, at: usize) {
        if self.machines[at].live.as_ref().is_some_and(|live| live.failed) {
            self.crash(at, "stops, because state could not be written, or its view is too old");
        }
    }

    fn with<T: Default>(&mut self, at: usize, f: impl FnOnce(&mut Live, &mut Shared) -> T) -> T {
        match &mut self.machines[at].live {
            Some(live) => f(live, &mut self.shared),
            None => T::default(),
        }
    }

    // What the world asks for.

    fn project(&mut self) -> &'static str {
        let projects = &self.shared.profile.projects;
        projects[self.shared.chance.below(projects.len())]
    }

    fn event(&mut self, project: &str, partition: usize) {
        let number = self.shared.number();
        let value = Arc::new(event(project, number));
        let log = &mut self.shared.broker.events[partition];
        let offset = log.append(self.shared.now, value, &mut self.shared.chance);
        self.shared.note(|| format!("event evt_{number} of {project} at {partition}/{offset}"));
    }

    fn command(&mut self, project: &str, kind: &str, rest: &str) {
        let number = self.shared.number();
        let fix = if rest.contains("webhookUrl") && kind.ends_with("update") { "fix_" } else { "" };
        let value = format!(
            r#"{{"id":"cmd_{fix}{number}","type":"{kind}","projectId":"{project}",{rest}}}"#
        );
        self.shared.send_command(value.clone().into_bytes(), None);
        self.sent.push((value.into_bytes(), None));
    }

    fn create(&mut self, project: &str, connector: &str) {
        let number = self.shared.number();
        let hook = hook(number);
        self.command(
            project,
            "connector.create",
            &format!(
                r#""connectorId":"{connector}","connector":{{"type":"slack","config":{{"webhookUrl":"{hook}"}},"eventTypes":["payment.settled"]}}"#
            ),
        );
        let key = ConnectorKey {
            project: project.parse().unwrap(),
            connector: connector.parse().unwrap(),
        };
        let natures = [
            Nature::Healthy,
            Nature::Healthy,
            Nature::Slow,
            Nature::Flaky,
            Nature::Failing,
            Nature::Limited,
            Nature::Hanging,
            Nature::Gone,
        ];
        let nature = natures[self.shared.chance.below(natures.len())];
        self.shared.natures.entry(key).or_insert(nature);
    }

    fn any_command(&mut self) {
        let project = self.project();
        let connector = format!("conn_{}", 1 + self.shared.chance.below(6));
        let number = self.shared.number();
        match self.shared.chance.below(19) {
            0 => {
                let tiers = ["starter", "pro", "pro", "business"];
                let tier = tiers[self.shared.chance.below(4)];
                self.command(project, "project.set_tier", &format!(r#""tier":"{tier}""#));
            }
            1..=7 => self.create(project, &connector),
            8..=9 => {
                let rest = format!(r#""connectorId":"{connector}""#);
                self.command(project, "connector.delete", &rest);
            }
            10..=11 => {
                let hook = hook(number);
                let patch = format!(r#"{{"config":{{"webhookUrl":"{hook}"}}}}"#);
                let rest = format!(r#""connectorId":"{connector}","patch":{patch}"#);
                self.command(project, "connector.update", &rest);
            }
            12 => {
                let on = self.shared.chance.percent(60);
                let patch = format!(r#"{{"isActive":{on}}}"#);
                let rest = format!(r#""connectorId":"{connector}","patch":{patch}"#);
                self.command(project, "connector.update", &rest);
            }
            13 => {
                // Its producer sends a command once more.
                if !self.sent.is_empty() {
                    let pick = self.shared.chance.below(self.sent.len());
                    let (value, partition) = self.sent[pick].clone();
                    self.shared.send_command(value, partition);
                }
            }
            16..=17 => {
                let since = Timestamp::from_millis(1_000);
                let rest =
                    format!(r#""connectorId":"{connector}","reason":"timeout","since":"{since}""#);
                self.command(project, "connector.failing", &rest);
            }
            18 => {
                let rest = format!(r#""connectorId":"{connector}""#);
                self.command(project, "connector.recovered", &rest);
            }
            14 => {
                // With another partitioner.
                let rest = format!(r#""connectorId":"{connector}""#);
                let value = format!(
                    r#"{{"id":"cmd_{number}","type":"connector.delete","projectId":"{project}",{rest}}}"#
                );
                let wrong = i32::try_from(self.shared.chance.below(2)).unwrap();
                self.shared.send_command(value.clone().into_bytes(), Some(wrong));
                self.sent.push((value.into_bytes(), Some(wrong)));
            }
            _ => {
                let bad = [
                    "not a command",
                    r#"{"id":"cmd_bad","type":"connector.paint","projectId":"proj_1"}"#,
                ];
                let value = bad[self.shared.chance.below(2)];
                let value = value.replace("cmd_bad", &format!("cmd_bad_{number}"));
                self.shared.send_command(value.into_bytes(), None);
            }
        }
    }

    // What happens to machines and to the group.

    fn boot(&mut self, at: usize) {
        self.incarnations += 1;
        let mut sight = self.machines[at].disk.clone();
        if self.shared.is(Break::RepairsForgotten) {
            for known in &mut sight.known {
                known.overtaken.clear();
            }
        }
        let now = self.shared.time();
        if is_stale(sight.complete_at, now) && !self.shared.is(Break::StaleViewKept) {
            self.shared.note(|| format!("machine {at} reads the state anew"));
            sight = Sight::new(now);
        }
        let freshness = Freshness::new(sight.complete_at);
        let start_ends = self.shared.broker.state.iter().map(|log| log.end).collect();
        self.machines[at].live = Some(Live {
            machine: at,
            incarnation: self.incarnations,
            started: self.shared.now,
            start_ends,
            freshness,
            caught_up: false,
            joined: false,
            sight,
            lanes: Lanes::new(
                self.shared.profile.max_running,
                self.shared.profile.max_running.div_ceil(2),
            ),
            held: Vec::new(),
            orphans: Vec::new(),
            running: Vec::new(),
            writes: Vec::new(),
            commands: Vec::new(),
            suspending: BTreeMap::new(),
            not_before: BTreeMap::new(),
            broken: BTreeMap::new(),
            hoard: Vec::new(),
            failed: false,
        });
        self.shared.note(|| format!("machine {at} starts"));
        self.with(at, |live, shared| live.ask(shared));
    }

    fn crash(&mut self, at: usize, how: &str) {
        let Some(mut live) = self.machines[at].live.take() else { return };
        self.shared.note(|| format!("machine {at} {how}"));
        // The store has written lately, or not; never a part of one step.
        if self.shared.chance.percent(50) {
            self.machines[at].disk = live.sight.clone();
        }
        for held in live.held.drain(..) {
            cut_off(&held, &mut self.shared);
        }
        // Its partitions are free when the coordinator has noticed.
        for slot in self.shared.broker.slots.values_mut() {
            if slot.owner.is_some_and(|owner| owner.incarnation == live.incarnation) {
                slot.owner = None;
            }
        }
    }

    /// The coordinator's rounds: machines start, and free partitions get an owner.
    fn coordinate(&mut self, at: usize) {
        if self.machines[at].live.is_none() {
            return self.boot(at);
        }
        let free: Vec<Topic> = {
            let slots = self.shared.broker.slots.iter();
            slots.filter(|(_, slot)| slot.owner.is_none()).map(|(topic, _)| *topic).collect()
        };
        let most = 1 + self.shared.chance.below(6);
        for topic in free.into_iter().take(most) {
            self.assign(at, topic);
        }
    }

    fn assign(&mut self, at: usize, topic: Topic) {
        let Some(live) = &mut self.machines[at].live else { return };
        if !live.joined || live.held.iter().any(|held| held.topic == topic) {
            return;
        }
        let incarnation = live.incarnation;
        let shared = &mut self.shared;
        if shared.is(Break::RepairsForgotten)
            && let Topic::Commands(partition) = topic
        {
            live.sight.known[index(partition)].overtaken.clear();
        }
        let epoch = shared.broker.next_epoch();
        let slot = shared.broker.slots.get_mut(&topic).unwrap();
        slot.owner = Some(Owner { machine: at, incarnation, epoch });
        let position = slot.committed.as_ref().map_or(0, |(offset, _)| *offset);
        let map = match shared.breaks {
            Some(Break::MapIgnored) => CompletionMap::default(),
            _ => slot.map(),
        };
        let (name, number) = match topic {
            Topic::Commands(partition) => ("commands", partition),
            Topic::Events(partition) => ("events", partition),
            Topic::Tier(tier) => ("tier", i32::try_from(tier).unwrap()),
        };
        let partition = Arc::new(Partition::new(name.into(), number, Tracker::new(map)));
        shared.current.insert(topic, Arc::clone(&partition));
        shared.note(|| format!("machine {at} gets {topic:?} from {position}"));
        let held = Held {
            topic,
            epoch,
            partition,
            position,
            taking: VecDeque::new(),
            head: None,
            revoking: None,
            duty: Duty::Arrived,
            commands_life: shared.broker.commands_life,
            log: CommandsLog::default(),
            recent: Recent::default(),
            taken_over_at: Progress::default(),
        };
        self.machines[at].live.as_mut().unwrap().held.push(held);
    }

    /// Any partition, those of the commands more often than their number says.
    fn some_topic(&mut self) -> Topic {
        let chance = &mut self.shared.chance;
        if chance.percent(if self.shared.profile.relay { 80 } else { 40 }) {
            return Topic::Commands(i32::try_from(chance.below(2)).unwrap());
        }
        let topics: Vec<Topic> = self.shared.broker.slots.keys().copied().collect();
        topics[chance.below(topics.len())]
    }

    /// A partition is taken from its owner in order.
    fn rebalance(&mut self) {
        let topic = self.some_topic();
        let Some(owner) = self.shared.broker.slots[&topic].owner else { return };
        let shared = &mut self.shared;
        let Some(live) = &mut self.machines[owner.machine].live else { return };
        let Some(at) = live.held.iter().position(|held| held.epoch == owner.epoch) else { return };
        if live.held[at].revoking.is_none() {
            shared.note(|| format!("machine {} is asked for {topic:?}", owner.machine));
            live.release(at, shared);
            live.held[at].revoking = Some(shared.now + REVOKE_GRACE_MS);
        }
    }

    /// What was begun for revoked partitions has ended, or its time is over.
    fn finish_revoke(&mut self, at: usize, now: bool) {
        let shared = &mut self.shared;
        let Some(live) = &mut self.machines[at].live else { return };
        let mut i = 0;
        while i < live.held.len() {
            let held = &live.held[i];
            let quiet = held.partition.is_quiet();
            let is_over = held.revoking.is_some_and(|until| now || quiet || shared.now >= until);
            if !is_over {
                i += 1;
                continue;
            }
            held.partition.close();
            let committed = shared.is(Break::CommitsOnTimerOnly) || live.commit(i, shared);
            let held = live.held.remove(i);
            shared.note(|| format!("machine {at} lets {:?} go (quiet {quiet})", held.topic));
            if !(quiet && committed) {
                cut_off(&held, shared);
            }
            if is_owner(&held, shared) {
                shared.broker.slots.get_mut(&held.topic).unwrap().owner = None;
            }
            live.orphans.push(held);
        }
    }

    /// The coordinator gives a machine up that knows nothing of it: from now on it is a zombie.
    fn expel(&mut self) {
        let topic = self.some_topic();
        let Some(owner) = self.shared.broker.slots[&topic].owner else { return };
        self.shared.note(|| format!("machine {} loses {topic:?} unknowingly", owner.machine));
        if let Some(live) = &self.machines[owner.machine].live {
            for held in live.held.iter().filter(|held| held.epoch == owner.epoch) {
                cut_off(held, &mut self.shared);
            }
        }
        self.shared.broker.slots.get_mut(&topic).unwrap().owner = None;
    }

    /// A zombie learns what it lost.
    fn notice(&mut self, at: usize) {
        let shared = &mut self.shared;
        let Some(live) = &mut self.machines[at].live else { return };
        let mut i = 0;
        while i < live.held.len() {
            if is_owner(&live.held[i], shared) {
                i += 1;
                continue;
            }
            live.release(i, shared);
            live.held[i].partition.close();
            let held = live.held.remove(i);
            shared.note(|| format!("machine {at} notices that {:?} is lost", held.topic));
            live.orphans.push(held);
        }
    }

    fn compact(&mut self) {
        for partition in 0..PARTITIONS {
            let removed = self.shared.broker.compact(partition, self.shared.now);
            if removed > 0 {
                self.shared
                    .note(|| format!("{removed} records of state {partition} are compacted"));
            }
        }
    }

    /// Some days pass; some machines work on, others are frozen or stopped for all that time. A
    /// partition's registrar works at least once a day: what waits for it is done.
    fn long_time(&mut self) {
        if !self.are_commands_done() {
            return;
        }
        let (awake, frozen): (Vec<usize>, Vec<usize>) =
            (0..self.machines.len()).partition(|_| self.shared.chance.percent(60));
        for at in frozen {
            self.freeze(at);
        }
        let awake: Vec<usize> =
            awake.into_iter().filter(|at| self.machines[*at].live.is_some()).collect();
        if !awake.is_empty() && self.shared.chance.percent(70) {
            // What those who stand still do not hear of.
            let project = self.project();
            let connector = format!("conn_{}", 1 + self.shared.chance.below(6));
            let rest = format!(r#""connectorId":"{connector}""#);
            self.command(project, "connector.delete", &rest);
        }
        let days = 1 + self.shared.chance.below(3);
        for _ in 0..days {
            for round in 0.. {
                let mut moved = false;
                for at in &awake {
                    moved |= self.round(*at);
                    self.stop_failed(*at);
                }
                if !moved || round > MAX_IDLE_ROUNDS {
                    break;
                }
            }
            if !self.are_commands_done() {
                return;
            }
            self.shared.now += DAY_MS;
            // After that time a command is not known any more to have been decided.
            self.sent.clear();
            self.shared.note(|| "a day passes".to_owned());
        }
        self.compact();
    }

    /// The commands topic is deleted and made again, when what was in it is decided.
    fn make_commands_anew(&mut self) {
        if !self.shared.broker.has_ids {
            return;
        }
        for _ in 0..MAX_IDLE_ROUNDS {
            let mut moved = false;
            for at in 0..self.machines.len() {
                moved |= self.round(at);
                self.stop_failed(at);
            }
            if !moved {
                break;
            }
        }
        if self.are_commands_done() {
            self.shared.broker.make_commands_anew();
            // What was rejected was known from the log.
            self.sent.clear();
            self.shared.note(|| "the commands topic is made anew".to_owned());
        }
    }

    /// Whether all commands are decided and committed, and the state topic is in order.
    fn are_commands_done(&mut self) -> bool {
        let in_order = self.shared.broker.history.iter().all(|history| {
            let newest = fold(history);
            newest.iter().all(|(key, written)| {
                let last = history.iter().rev().find(|other| other.record.key == **key).unwrap();
                last.record.command_offset == written.record.command_offset
            })
        });
        let needs_repair = !in_order
            && !self.shared.is(Break::NoRepairs)
            && !self.shared.is(Break::RepairsForgotten);
        self.commit_all();
        !needs_repair
            && !self.shared.ledger.open_commands()
            && self.are_committed(|topic| matches!(topic, Topic::Commands(_)))
    }

    /// A machine stands still for so long that the coordinator gives it up. Its registrars write
    /// nothing more of what they began before.
    fn freeze(&mut self, at: usize) {
        let Some(live) = &mut self.machines[at].live else { return };
        for held in live.held.iter_mut().chain(&mut live.orphans) {
            cut_off(held, &mut self.shared);
            if matches!(held.duty, Duty::Writing { .. } | Duty::Repairing { .. }) {
                held.partition.leave();
            }
            if matches!(held.topic, Topic::Commands(_)) {
                held.duty = Duty::Stopped;
            }
        }
        let incarnation = live.incarnation;
        for slot in self.shared.broker.slots.values_mut() {
            if slot.owner.is_some_and(|owner| owner.incarnation == incarnation) {
                slot.owner = None;
            }
        }
        self.shared.note(|| format!("machine {at} is frozen"));
    }

    // The end.

    /// No more trouble: everything that was begun must come to an end.
    fn rest(&mut self) {
        self.shared.broker.mood = Mood::default();
        if self.shared.profile.flood > 0 {
            self.shared.natures.clear();
        }
        self.settle_down();
        if self.shared.ledger.violation.is_some() {
            return;
        }
        self.shared.ledger.check_commands(&self.shared.broker);
        self.shared.ledger.check_pairs();
        for at in 0..self.machines.len() {
            self.with(at, |live, shared| live.check_view(shared));
        }
        self.check_suspended();
        // Whoever reads the topic from its beginning, now or after compaction, sees the same.
        for days in [0, 3] {
            self.shared.now += days * DAY_MS;
            self.compact();
            self.boot(0);
            self.with(0, |live, shared| {
                live.sight = Sight::new(shared.time());
                for partition in 0..PARTITIONS {
                    while live.feed(partition, 3, shared) {}
                }
                live.check_view(shared);
            });
        }
    }

    fn check_suspended(&mut self) {
        for machine in &self.machines {
            let Some(live) = &machine.live else { continue };
            for (key, (version, _)) in &live.broken {
                let mut targets = live.sight.project(&key.project).connectors;
                let Some(connector) = targets.remove(&key.connector) else { continue };
                if connector.version == *version {
                    self.shared.ledger.fail("a broken connector is suspended", || key.to_string());
                }
            }
        }
    }

    fn settle_down(&mut self) {
        let mut idle = 0;
        for round in 0.. {
            let mut moved = false;
            for at in 0..self.machines.len() {
                moved |= self.round(at);
                if self.shared.ledger.violation.is_some() {
                    return;
                }
            }
            if moved {
                idle = 0;
                continue;
            }
            idle += 1;
            self.commit_all();
            if self.is_at_rest() {
                return;
            }
            if round > MAX_ROUNDS || idle > MAX_IDLE_ROUNDS {
                let open = self.what_is_open();
                self.shared.ledger.fail("everything comes to rest", || open);
                return;
            }
            self.pass_time();
        }
    }

    /// Everything that a machine can do now.
    fn round(&mut self, at: usize) -> bool {
        self.notice(at);
        self.finish_revoke(at, true);
        if self.machines[at].live.is_none() {
            self.boot(at);
        }
        let mut moved = false;
        let shared = &mut self.shared;
        let live = self.machines[at].live.as_mut().unwrap();
        for partition in 0..PARTITIONS {
            moved |= live.feed(partition, 100, shared);
        }
        if live.failed {
            self.stop_failed(at);
            return true;
        }
        live.join(shared);
        let free: Vec<Topic> = {
            let slots = shared.broker.slots.iter();
            slots.filter(|(_, slot)| slot.owner.is_none()).map(|(topic, _)| *topic).collect()
        };
        for topic in free {
            self.assign(at, topic);
        }
        let shared = &mut self.shared;
        let live = self.machines[at].live.as_mut().unwrap();
        for i in 0..live.orphans.len() {
            moved |= live.registrar(true, i, shared);
        }
        live.orphans.retain(|held| !matches!(held.duty, Duty::Stopped));
        for i in 0..live.held.len() {
            for _ in 0..MAX_AT_ONCE {
                let went_on = match live.held[i].topic {
                    Topic::Commands(_) => live.registrar(false, i, shared),
                    _ => live.poll(i, shared).is_some(),
                };
                moved |= went_on;
                if !went_on || live.failed {
                    break;
                }
            }
        }
        live.sweep(shared);
        while let Some(ready) = live.running.iter().position(|r| r.ready_at <= shared.now) {
            live.answer(ready, shared);
            moved = true;
        }
        while !live.writes.is_empty() {
            live.write(0, shared);
            moved = true;
        }
        while live.send(shared).is_some() {
            moved = true;
        }
        moved
    }

    fn commit_all(&mut self) {
        for at in 0..self.machines.len() {
            self.with(at, |live, shared| {
                for i in 0..live.held.len() {
                    live.commit(i, shared);
                }
            });
        }
    }

    fn is_at_rest(&self) -> bool {
        let lives = self.machines.iter().filter_map(|machine| machine.live.as_ref());
        let is_repaired = |live: &Live| {
            live.held.iter().all(|held| match held.topic {
                Topic::Commands(partition) => {
                    live.sight.known[index(partition)].overtaken.is_empty()
                }
                _ => true,
            })
        };
        self.are_committed(|_| true)
            && (self.shared.is(Break::NoRepairs) || lives.into_iter().all(is_repaired))
    }

    /// Whether all records of these topics are done, by what was committed.
    fn are_committed(&self, of: impl Fn(&Topic) -> bool) -> bool {
        let broker = &self.shared.broker;
        broker.slots.iter().filter(|(topic, _)| of(topic)).all(|(topic, slot)| {
            let map = slot.map();
            broker.offsets_from(*topic, 0).iter().all(|offset| slot.covers(&map, *offset))
        })
    }

    fn what_is_open(&self) -> String {
        let mut open = String::new();
        for (topic, slot) in &self.shared.broker.slots {
            let map = slot.map();
            let offsets = self.shared.broker.offsets_from(*topic, 0);
            let left: Vec<_> = offsets.iter().filter(|o| !slot.covers(&map, **o)).collect();
            if !left.is_empty() {
                let _ = write!(open, "{topic:?} {left:?} ");
            }
        }
        open
    }

    /// To the next moment at which something can happen.
    fn pass_time(&mut self) {
        let now = self.shared.now;
        let mut next = now + 600_000;
        for live in self.machines.iter().filter_map(|machine| machine.live.as_ref()) {
            let ready = live.running.iter().map(|running| running.ready_at);
            let wake = live
                .lanes
                .wake_at()
                .into_iter()
                .map(|moment| live.started + u64::try_from(moment.as_millis()).unwrap() + 1);
            // A stalled lane is noticed by its sweep.
            let sweep =
                (live.lanes.queued() > 0 && live.lanes.running() > 0).then_some(now + 1_000);
            let heads = live.held.iter().filter_map(|held| {
                let (_, since) = held.head?;
                let Topic::Tier(tier) = held.topic else { return None };
                let longest = self.shared.policy.tiers()[tier].delay();
                Some(since + u64::try_from(longest.as_millis()).unwrap())
            });
            for at in ready.chain(wake).chain(sweep).chain(heads) {
                if at > now {
                    next = next.min(at);
                }
            }
        }
        self.shared.now = next;
    }
}

/// What no commit covers of a partition that is lost this way may repeat.
fn cut_off(held: &Held, shared: &mut Shared) {
    let bound = held.partition.repeat_bound();
    let slot = &shared.broker.slots[&held.topic];
    if is_owner(held, shared) {
        shared.ledger.cut_off(held.topic, held.epoch, slot, bound);
    }
}

fn hook(number: u64) -> String {
    format!("https://hooks.slack.com/services/T00000000/B00000000/{number:012}")
}
