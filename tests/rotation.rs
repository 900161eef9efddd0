//! Ninety days of refresh tokens that change with each use, in simulated time: the product's own
//! keeper and decision, four instances that are killed, frozen and moved about, a vendor that forgets
//! what was used, answers that are lost, and clocks that differ.
//!
//! `DUNMORE_ROTATION_CONNECTORS` and `DUNMORE_ROTATION_SEED` choose another run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use dunmore_connectors::{
    clock::Timestamp,
    connector::{
        Command, ConfigValue, Connector, Context, Decision, INTENT_USE, Intent, Keeping, Next,
        ProjectState, RenewalStep, decide, renewal_due,
    },
    egress::EgressPolicy,
    id::{ConnectorId, ConnectorKey},
};
use serde_json::{Value, json};

const DAYS: i64 = 90;
const INSTANCES: usize = 4;
const PARTITIONS: usize = 12;
/// Seconds of a step.
const STEP: i64 = 5;
/// After so long a group takes the partitions of an instance that says nothing.
const SESSION: i64 = 45;
const BEGAN: i64 = 1_700_000_000;

/// What goes wrong, in parts of a million per step and instance.
const KILL: u64 = 200;
const FREEZE: u64 = 300;
const MOVE: u64 = 300;
/// In percent of the calls.
const LOST: u64 = 3;
const BUSY: u64 = 3;

/// `SplitMix64`: the same numbers for the same seed, for ever.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn happens(&mut self, part: u64, of: u64) -> bool {
        self.below(of) < part
    }

    fn within(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(to - from).unwrap())).unwrap()
    }
}

/// One account at a vendor.
struct Account {
    /// Seconds of an access token, and for which a used refresh token is taken again.
    life: i64,
    grace: i64,
    /// The newest refresh token, the one before, and when that one was used first.
    newest: u64,
    before: Option<(u64, i64)>,
    made: u64,
}

impl Account {
    /// Uses a refresh token; what it gives.
    fn refresh(&mut self, token: u64, now: i64) -> Option<u64> {
        match self.before {
            _ if token == self.newest => self.before = Some((token, now)),
            // The answer was lost; what it said is good no more.
            Some((before, used)) if token == before && now - used < self.grace => {}
            _ => return None,
        }
        self.made += 1;
        self.newest = self.made;
        Some(self.newest)
    }
}

enum Phase {
    /// The intent is stored.
    Ready,
    /// Its answer is there: nothing, or a token; or a refusal.
    Answered(Option<Result<u64, ()>>),
}

struct Call {
    account: usize,
    intent: String,
    phase: Phase,
}

#[derive(Default)]
struct Instance {
    /// What it believes to own, with the keeper of each.
    keepers: HashMap<usize, Keeping>,
    calls: Vec<Call>,
    /// It does nothing before.
    stands_until: i64,
    stood_since: i64,
    /// How far its clock is ahead.
    skew: i64,
}

struct World {
    chance: Chance,
    now: i64,
    accounts: Vec<Account>,
    states: Vec<ProjectState>,
    keys: Vec<ConnectorKey>,
    due: BTreeSet<(Timestamp, usize)>,
    due_of: Vec<Option<Timestamp>>,
    log: VecDeque<(usize, Timestamp, Value)>,
    offset: i64,
    owners: [usize; PARTITIONS],
    instances: Vec<Instance>,
    intents: u64,
    asks_first: bool,
    told: Told,
}

/// What came of it.
#[derive(Debug, Default)]
struct Told {
    calls: u64,
    renewals: u64,
    stored: u64,
    lost: u64,
    kills: u64,
    freezes: u64,
    moves: u64,
    suspended: u64,
    /// Minutes in which a connector had no good access token.
    without: u64,
    /// Tokens that were renewed before half of their life was over.
    early: u64,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((BEGAN + seconds) * 1000)
}

fn id() -> ConnectorId {
    "conn_1".parse().unwrap()
}

impl World {
    fn new(seed: u64, connectors: usize, asks_first: bool) -> Self {
        let mut world = Self {
            chance: Chance(seed),
            now: 0,
            accounts: Vec::new(),
            states: Vec::new(),
            keys: Vec::new(),
            due: BTreeSet::new(),
            due_of: vec![None; connectors],
            log: VecDeque::new(),
            offset: 0,
            owners: std::array::from_fn(|partition| partition % INSTANCES),
            instances: Vec::new(),
            intents: 0,
            asks_first,
            told: Told::default(),
        };
        for index in 0..connectors {
            // Xero and QuickBooks in turn.
            let (kind, place, life, grace) = if index % 2 == 0 {
                ("xero", "tenantId", 1800, 1800)
            } else {
                ("quickbooks", "realmId", 3600, 86_400)
            };
            let value = if index % 2 == 0 {
                "00000000-1111-2222-3333-444444444444"
            } else {
                "9130347798120106"
            };
            world.accounts.push(Account { life, grace, newest: 0, before: None, made: 0 });
            world.states.push(ProjectState::default());
            let project = format!("proj_{index}").parse().unwrap();
            world.keys.push(ConnectorKey { project, connector: id() });
            world.decide(index, at(0), &json!({ "type": "project.set_tier", "tier": "pro" }));
            let config = json!({ place: value, "refreshToken": "0", "clientId": "app",
                "clientSecret": "secret-of-the-app" });
            let connector = json!({ "type": kind, "config": config,
                "eventTypes": ["revenue.daily_summary"] });
            let create = json!({ "type": "connector.create", "connectorId": "conn_1",
                "connector": connector });
            world.decide(index, at(0), &create);
        }
        for index in 0..INSTANCES {
            let skew = world.chance.within(-20, 20);
            let mut instance = Instance { skew, ..Instance::default() };
            for partition in (0..PARTITIONS).filter(|partition| partition % INSTANCES == index) {
                instance.keepers.insert(partition, Keeping::default());
            }
            world.instances.push(instance);
        }
        world
    }

    fn connector(&self, account: usize) -> &Connector {
        &self.states[account].connectors[&id()]
    }

    fn text(&self, account: usize, name: &str) -> Option<&str> {
        match self.connector(account).config.get(name) {
            Some(ConfigValue::Plain(Value::String(text))) => Some(text),
            _ => None,
        }
    }

    /// Decides the next command of the log.
    fn decide(&mut self, account: usize, at: Timestamp, body: &Value) {
        let mut command = body.clone();
        command["id"] = json!(format!("cmd_{}", self.offset));
        command["projectId"] = json!(self.keys[account].project);
        let command = Command::from_value(command).unwrap();
        let egress = EgressPolicy::default();
        let context = Context { at, offset: self.offset, egress: &egress };
        self.offset += 1;
        let change = match decide(&self.states[account], &command, &context) {
            Decision::Accepted(change) => change,
            Decision::Rejected(problem) => {
                assert!(body["renewal"].is_object(), "{problem:?}");
                return;
            }
        };
        self.states[account].apply(&change);
        if !self.states[account].connectors.contains_key(&id()) {
            return;
        }
        self.told.stored += u64::from(body["renewal"]["tokens"].is_object());
        self.told.suspended += u64::from(self.connector(account).suspended_reason.is_some());
        let due = renewal_due(self.connector(account));
        if let Some(before) = std::mem::replace(&mut self.due_of[account], due) {
            self.due.remove(&(before, account));
        }
        self.due.extend(due.map(|due| (due, account)));
    }

    fn step(&mut self) {
        self.now += STEP;
        // What was written is decided one step later.
        for _ in 0..self.log.len() {
            let (account, at, body) = self.log.pop_front().unwrap();
            self.decide(account, at, &body);
        }
        for index in 0..INSTANCES {
            self.harm(index);
            if self.now >= self.instances[index].stands_until {
                self.run(index);
            }
        }
        self.group();
        if self.now % 60 == 0 && self.now > 600 {
            for account in 0..self.accounts.len() {
                let until = self.text(account, "rotatedUntil").unwrap();
                self.told.without += u64::from(at(self.now) >= Timestamp::parse(until).unwrap());
            }
        }
    }

    fn harm(&mut self, index: usize) {
        let stands = self.now < self.instances[index].stands_until;
        if !stands && self.chance.happens(KILL, 1_000_000) {
            self.told.kills += 1;
            let lost = self.instances[index]
                .calls
                .iter()
                .filter(|call| matches!(call.phase, Phase::Answered(Some(Ok(_)))));
            self.told.lost += lost.count() as u64;
            let skew = self.instances[index].skew;
            let stands_until = self.now + 30;
            self.instances[index] = Instance { stands_until, skew, ..Instance::default() };
            // Its partitions stay its own until the session ends, or it is back with none.
            self.instances[index].stood_since = self.now;
        } else if !stands && self.chance.happens(FREEZE, 1_000_000) {
            self.told.freezes += 1;
            let long = self.chance.within(5, 900);
            self.instances[index].stood_since = self.now;
            self.instances[index].stands_until = self.now + long;
        } else if self.chance.happens(MOVE, 1_000_000) {
            let partition = usize::try_from(self.chance.below(PARTITIONS as u64)).unwrap();
            let from = self.owners[partition];
            let is_idle = self.now >= self.instances[from].stands_until
                && !self.instances[from]
                    .calls
                    .iter()
                    .any(|call| call.account % PARTITIONS == partition);
            if is_idle {
                // Gracefully: what it has begun is finished.
                self.told.moves += 1;
                self.instances[from].keepers.remove(&partition);
                self.owners[partition] = (from + 1) % INSTANCES;
            }
        }
    }

    /// What the group does about instances that say nothing, and about partitions without a keeper.
    fn group(&mut self) {
        for partition in 0..PARTITIONS {
            let owner = &self.instances[self.owners[partition]];
            let is_silent = self.now < owner.stands_until && self.now - owner.stood_since > SESSION;
            if is_silent {
                let alive =
                    (0..INSTANCES).find(|index| self.now >= self.instances[*index].stands_until);
                self.owners[partition] = alive.unwrap_or(self.owners[partition]);
            }
        }
        for index in 0..INSTANCES {
            if self.now < self.instances[index].stands_until {
                continue;
            }
            let owners = self.owners;
            // One that stood still has acted once on what it believed; now it learns better.
            let instance = &mut self.instances[index];
            instance.keepers.retain(|partition, _| owners[*partition] == index);
            for partition in (0..PARTITIONS).filter(|partition| owners[*partition] == index) {
                instance.keepers.entry(partition).or_default();
            }
        }
    }

    fn run(&mut self, index: usize) {
        let own_time = Duration::from_secs(u64::try_from(self.now).unwrap());
        let wall = at(self.now + self.instances[index].skew);
        for call in std::mem::take(&mut self.instances[index].calls) {
            self.go_on(index, call, wall);
        }
        let until = self.due.iter().take_while(|(due, _)| *due <= wall);
        let due: Vec<usize> = until.map(|(_, account)| *account).collect();
        let mut keepers = std::mem::take(&mut self.instances[index].keepers);
        for (partition, keeping) in &mut keepers {
            let mine = due.iter().copied().filter(|account| account % PARTITIONS == *partition);
            let mine: Vec<usize> = mine.collect();
            let keys: HashSet<&ConnectorKey> = mine.iter().map(|one| &self.keys[*one]).collect();
            keeping.keep_only(&keys);
            for account in mine {
                let intent = Intent::of(self.connector(account));
                match keeping.next(&self.keys[account], intent.as_ref(), wall, own_time) {
                    Next::Wait => {}
                    Next::Ask => {
                        self.intents += 1;
                        let intent = format!("rnw_{}", self.intents);
                        keeping.asked(&self.keys[account], intent.clone(), own_time);
                        let begin = json!({ "type": RenewalStep::BEGIN, "connectorId": "conn_1",
                            "renewal": { "intent": intent } });
                        if self.asks_first {
                            self.log.push_back((account, wall, begin));
                        } else {
                            let call = Call { account, intent, phase: Phase::Ready };
                            self.instances[index].calls.push(call);
                        }
                    }
                    Next::Call => {
                        let intent = keeping.called(&self.keys[account]).unwrap();
                        let call = Call { account, intent, phase: Phase::Ready };
                        self.instances[index].calls.push(call);
                    }
                }
            }
        }
        self.instances[index].keepers = keepers;
    }

    /// A call goes on: the check and the request, then what comes of the answer.
    fn go_on(&mut self, index: usize, call: Call, wall: Timestamp) {
        let Call { account, intent, phase } = call;
        match phase {
            Phase::Ready => {
                let stored = Intent::of(self.connector(account));
                let is_own = stored.is_some_and(|stored| stored.id == intent);
                // The view is complete as of now; an intent that another one has replaced is over.
                if self.asks_first && !is_own {
                    return;
                }
                self.told.calls += 1;
                let token = self.text(account, "rotatedRefreshToken").unwrap_or("0");
                let token = token.parse().unwrap();
                let due = self.due_of[account];
                let answer = if self.chance.happens(BUSY, 100) {
                    None
                } else {
                    let until =
                        self.text(account, "rotatedUntil").map(|t| Timestamp::parse(t).unwrap());
                    let half = Duration::from_secs(
                        u64::try_from(self.accounts[account].life / 2).unwrap(),
                    );
                    let is_early = until.is_some_and(|until| until.since(wall) > half);
                    let answer = self.accounts[account].refresh(token, self.now).ok_or(());
                    self.told.renewals += u64::from(answer.is_ok());
                    self.told.early += u64::from(answer.is_ok() && is_early && due.is_some());
                    if self.chance.happens(LOST, 100) {
                        self.told.lost += u64::from(answer.is_ok());
                        None
                    } else {
                        Some(answer)
                    }
                };
                let phase = Phase::Answered(answer);
                self.instances[index].calls.push(Call { account, intent, phase });
            }
            Phase::Answered(None) => {
                let own_time = Duration::from_secs(u64::try_from(self.now).unwrap());
                let key = &self.keys[account];
                if let Some(keeping) =
                    self.instances[index].keepers.get_mut(&(account % PARTITIONS))
                {
                    keeping.failed(key, own_time);
                }
            }
            Phase::Answered(Some(answer)) => {
                let renewal = match answer {
                    Ok(token) => {
                        let life = Duration::from_secs(
                            u64::try_from(self.accounts[account].life).unwrap(),
                        );
                        json!({ "intent": intent, "from": "", "until": wall.plus(life), "tokens": {
                            "rotatedAccessToken": "access", "rotatedRefreshToken": token.to_string() } })
                    }
                    Err(()) => json!({ "intent": intent, "refused": "unauthorized: reconnect" }),
                };
                if !self.asks_first {
                    let begin = json!({ "type": RenewalStep::BEGIN, "connectorId": "conn_1",
                        "renewal": { "intent": intent } });
                    self.log.push_back((account, wall, begin));
                }
                let end = json!({ "type": RenewalStep::END, "connectorId": "conn_1",
                    "renewal": renewal });
                self.log.push_back((account, wall, end));
            }
        }
    }
}

fn run(seed: u64, connectors: usize, days: i64, asks_first: bool) -> Told {
    let mut world = World::new(seed, connectors, asks_first);
    while world.now < days * 86_400 {
        world.step();
    }
    world.told
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn ninety_days_need_nobody() {
    assert!(INTENT_USE.as_secs() > 2 * u64::try_from(STEP).unwrap());
    let connectors = usize::try_from(setting("DUNMORE_ROTATION_CONNECTORS", 8)).unwrap();
    let seed = setting("DUNMORE_ROTATION_SEED", 1);
    let told = run(seed, connectors, DAYS, true);
    println!("{connectors} connectors, seed {seed}: {told:?}");
    assert!(told.kills > 100 && told.freezes > 100 && told.moves > 100 && told.lost > 100);
    assert_eq!((told.suspended, told.without), (0, 0));
    // At most one for each life: all others had their answers lost.
    assert_eq!(told.early, 0);
    assert!(told.renewals <= told.stored + told.lost + told.freezes, "{told:?}");
}

#[test]
fn without_an_intent_before_the_call_tokens_are_lost() {
    let told = run(1, 8, DAYS, false);
    println!("{told:?}");
    assert!(told.suspended > 0 || told.early > 0, "{told:?}");
}
