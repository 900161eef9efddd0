//! The dispatcher: offers deliveries to lanes and starts what the lanes let go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    attempt, budget::Budgets, credentials::Credentials, park, reports::Reports, sender::Judged,
    supervisor::Supervisor, work::Delivery,
};
use crate::{
    clock,
    codec::Codec,
    config::{AttemptLogging, DestinationSettings},
    delivery::{Held, Reason, RetryPolicy},
    destination::{ConnectorType, Rate, Response},
    id::{ConnectorKey, ProjectId},
    kafka::{AttemptLog, Partition, Producer, TopicKind, Topics},
    lane::{
        Answer, Arrival, Deferral, LaneLimits, Lanes, Moment, Offer, Patience, Report,
        SharedAddress, Start, Suspicions, Ticket,
    },
    metrics::{LaneCounts, Metrics},
    outbound::Outbound,
    telemetry::Traces,
    view::{Subscriptions, Target, View},
};

/// How often lanes are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Requests per core that may be under way to destinations that answer at once: at two milliseconds
/// each that is 8,000 deliveries per second, about what a core can do.
const MAX_NEAR_PER_CORE: usize = 16;
/// How often a lane that is full but fast is offered a delivery again.
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// What an operator set for a destination type.
#[derive(Clone, Copy, Debug, Default)]
pub struct TypeLimits {
    /// Requests per second; 0 = no limit.
    pub rate_per_second: Option<f64>,
    /// Requests at once.
    pub concurrency: Option<u32>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

impl From<&DestinationSettings> for TypeLimits {
    fn from(set: &DestinationSettings) -> Self {
        Self {
            rate_per_second: set.rate_per_second,
            concurrency: set.concurrency,
            timeout: set.timeout,
        }
    }
}

/// What a dispatcher is made of.
pub struct DispatchOptions {
    /// The connectors.
    pub view: Arc<View>,
    /// The sender.
    pub outbound: Outbound,
    /// The producer for retries, dead letters and commands.
    pub producer: Producer,
    /// The log of attempts, and which of them it gets.
    pub attempt_log: Option<Arc<AttemptLog>>,
    /// Which attempts are recorded.
    pub attempt_logging: AttemptLogging,
    /// The topics' names.
    pub topics: Topics,
    /// The form of their records.
    pub codec: Codec,
    /// The retry policy.
    pub policy: RetryPolicy,
    /// What the operator set per type.
    pub limits: BTreeMap<ConnectorType, TypeLimits>,
    /// Over how many partitions of the state topic the projects are spread.
    pub state_partitions: i32,
    /// Runs the tasks.
    pub supervisor: Supervisor,
    /// Deliveries at once.
    pub max_in_flight: u32,
    /// Traces, when there is a collector.
    pub traces: Option<Arc<Traces>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// Hands deliveries to lanes and runs what they start.
pub struct Dispatcher {
    pub(super) options: DispatchOptions,
    pub(super) retry_topics: Vec<String>,
    pub(super) dead_topic: String,
    pub(super) held_topic: String,
    pub(super) commands_topic: String,
    lanes: Mutex<Lanes<ConnectorKey, Delivery>>,
    lane_limits: Vec<(LaneLimits, LaneLimits)>,
    timeouts: Vec<Duration>,
    /// For types whose vendor counts refused calls against our address; most have none.
    shared: Vec<Option<Mutex<SharedAddress>>>,
    began: Instant,
    /// Wakes the housekeeping when a timer was set that is due before its next round.
    wake: Notify,
    next_round: AtomicU64,
    pub(super) budgets: Budgets,
    pub(super) credentials: Credentials,
    /// By connector, the version of which a change was asked for.
    asked: Mutex<BTreeMap<ConnectorKey, i64>>,
    suspicions: Mutex<Suspicions<ConnectorKey>>,
    pub(super) reports: Mutex<Reports>,
    /// What each keeper of held deliveries of this instance counts.
    pub(super) held: Mutex<Vec<Arc<Mutex<Held>>>>,
}

impl Dispatcher {
    /// A dispatcher with its housekeeping task on the current runtime.
    pub fn start(options: DispatchOptions) -> Arc<Self> {
        let tiers = 0..options.policy.tiers().len();
        let retry_topics = tiers.map(|tier| options.topics.name(TopicKind::Retry(tier))).collect();
        let permits = options.max_in_flight as usize;
        let limits = ConnectorType::ALL.iter().map(|kind| lane_limits(*kind, &options.limits));
        let timeouts = ConnectorType::ALL.iter().map(|kind| {
            let set = options.limits.get(kind).and_then(|limits| limits.timeout);
            set.unwrap_or(kind.spec().timeout)
        });
        let dispatcher = Arc::new(Self {
            retry_topics,
            held_topic: options.topics.name(TopicKind::Held),
            dead_topic: options.topics.name(TopicKind::Dead),
            commands_topic: options.topics.name(TopicKind::Commands),
            lanes: Mutex::new(Lanes::new(permits, max_near())),
            lane_limits: limits.collect(),
            timeouts: timeouts.collect(),
            shared: ConnectorType::ALL.iter().map(|kind| shared_address(*kind)).collect(),
            began: Instant::now(),
            wake: Notify::new(),
            next_round: AtomicU64::new(0),
            budgets: Budgets::new(permits),
            credentials: Credentials::default(),
            asked: Mutex::new(BTreeMap::new()),
            suspicions: Mutex::default(),
            reports: Mutex::default(),
            held: Mutex::default(),
            options,
        });
        dispatcher.options.metrics.set_in_flight_limit(dispatcher.budgets.limit());
        let housekeeping = housekeeping(Arc::downgrade(&dispatcher));
        dispatcher.supervisor().spawn_endless("looking after the lanes", housekeeping);
        dispatcher
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.options.metrics
    }

    pub(super) fn view(&self) -> &View {
        &self.options.view
    }

    pub(super) fn codec(&self) -> &Codec {
        &self.options.codec
    }

    pub(super) fn traces(&self) -> Option<&Arc<Traces>> {
        self.options.traces.as_ref()
    }

    /// Runs the tasks of the delivery plane.
    pub fn supervisor(&self) -> &Supervisor {
        &self.options.supervisor
    }

    /// Whether nothing was asked for yet because of this version of the connector.
    pub(super) fn asks_once(&self, target: &Target) -> bool {
        let mut asked = self.asked.lock();
        if asked.len() >= park::MAX_ASKED {
            asked.clear();
        }
        asked.insert(target.key.clone(), target.version) != Some(target.version)
    }

    /// Who of a project wants what. The view is on local disk: when it cannot be read, nothing can
    /// be decided, so this waits until it can.
    pub async fn subscriptions(&self, project: &ProjectId) -> Arc<Subscriptions> {
        loop {
            match self.options.view.subscriptions(project) {
                Ok(subscriptions) => return subscriptions,
                Err(error) => {
                    tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// The dispatcher's clock for lanes.
    pub fn moment(&self) -> Moment {
        self.began.elapsed()
    }

    /// How long an answer of this type may take.
    pub fn timeout(&self, kind: ConnectorType) -> Duration {
        self.timeouts[kind.index()]
    }

    /// How long no connector of this type may call, if so.
    pub(super) fn shared_pause(&self, kind: ConnectorType) -> Option<Duration> {
        let shared = self.shared[kind.index()].as_ref()?;
        shared.lock().pause(self.moment())
    }

    /// Counts an answer that the vendor holds against our address.
    pub(super) fn note_answer(&self, kind: ConnectorType, response: &Response) {
        let Some(shared) = &self.shared[kind.index()] else { return };
        let limit = kind.spec().shared_address_limit;
        if limit.is_some_and(|limit| (limit.counts)(response))
            && shared.lock().refuse(self.moment())
        {
            tracing::warn!(
                %kind,
                "so many calls were refused that the vendor may ban this address; \
                 all connectors of the type pause"
            );
        }
    }

    /// The judgements in the light of those before them: what has failed in the same way often
    /// enough is its connector's fault.
    pub(super) fn weigh(&self, deliveries: &[Delivery], judged: Vec<Judged>) -> Vec<Judged> {
        let mut suspicions = self.suspicions.lock();
        let concerns = |one: &Judged| Suspicions::<ConnectorKey>::concerns(&one.verdict);
        if suspicions.is_empty() && !judged.iter().any(concerns) {
            return judged;
        }
        let now = self.moment();
        let weigh = |(delivery, judged): (&Delivery, Judged)| {
            let answer = Answer {
                version: delivery.target.version,
                status: judged.status,
                event: delivery.event.json_text(),
            };
            let verdict = suspicions.weigh(&delivery.target.key, answer, judged.verdict, now);
            Judged { verdict, ..judged }
        };
        deliveries.iter().zip(judged).map(weigh).collect()
    }

    /// Counts one more request of a start against its lane's rate. Tells how long it has to wait.
    pub(super) fn spend(&self, ticket: Ticket) -> Duration {
        self.lanes.lock().spend(ticket, self.moment())
    }

    /// Hands a delivery to its lane. Waits only for a lane that is full but fast, and no longer than
    /// the partition's patience lasts.
    pub async fn offer(self: &Arc<Self>, mut delivery: Delivery, patience: &mut Patience) {
        let target = Arc::clone(&delivery.target);
        if let Some((reason, words)) = target.held() {
            park::spawn_held(self, delivery, reason, words.to_owned());
            return;
        }
        if let Some(wait) = self.shared_pause(target.kind) {
            let reason = Reason::RateLimited;
            park::spawn_deferral(self, Deferral { item: delivery, reason, wait });
            return;
        }
        if let Some(wait) = delivery.history.left_to_ask(clock::now()) {
            let reason = Reason::RateLimited;
            park::spawn_deferral(self, Deferral { item: delivery, reason, wait });
            return;
        }
        let limits = self.limits(&target);
        let source = delivery.source;
        let mut arrival = Arrival {
            version: target.version,
            source,
            crowded: self.budgets.is_short(source) || delivery.work.partition().is_crowded(),
            patient: true,
            is_last: self.options.policy.is_last(delivery.history.steps),
        };
        loop {
            let now = self.moment();
            arrival.patient = patience.is_left(now);
            let (offer, starts) = {
                let mut lanes = self.lanes.lock();
                let offer = lanes.offer(&target.key, limits, arrival, delivery, now);
                let starts = take_starts(&mut lanes, now);
                self.note_timer(lanes.wake_at());
                (offer, starts)
            };
            self.launch(starts);
            match offer {
                Offer::Queued => return,
                Offer::Deferred(deferral) => {
                    park::spawn_deferral(self, deferral);
                    return;
                }
                Offer::Busy(back) => {
                    if back.work.is_given_up() {
                        return;
                    }
                    delivery = back;
                    tokio::time::sleep(BUSY_WAIT).await;
                    patience.held_up(now, self.moment());
                }
            }
        }
    }

    fn limits(&self, target: &Target) -> LaneLimits {
        let (vendor, trusted) = self.lane_limits[target.kind.index()];
        let mut limits = if target.trusted { trusted } else { vendor };
        if let Ok(destination) = &target.destination
            && let Some(batching) = destination.batching()
        {
            limits.batch_items = batching.limits().items;
        }
        limits
    }

    /// Runs each start in a task of its own.
    pub(super) fn launch(self: &Arc<Self>, starts: Vec<Start<Delivery>>) {
        for start in starts {
            self.supervisor().spawn("sending a delivery", attempt::run(Arc::clone(self), start));
        }
    }

    /// Reports a finished request to its lane; returns what may start next.
    pub(super) fn finish(self: &Arc<Self>, ticket: Ticket, report: Report) -> Vec<Start<Delivery>> {
        let (evicted, starts) = {
            let now = self.moment();
            let mut lanes = self.lanes.lock();
            let evicted = lanes.finish(ticket, report, now);
            let starts = take_starts(&mut lanes, now);
            self.note_timer(lanes.wake_at());
            (evicted, starts)
        };
        for deferral in evicted {
            park::spawn_deferral(self, deferral);
        }
        starts
    }

    fn note_timer(&self, timer: Option<Moment>) {
        let micros = timer.map(|at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        if micros.is_some_and(|at| at < self.next_round.load(Ordering::Relaxed)) {
            self.wake.notify_one();
        }
    }

    /// For how long the circuit of a connector's lane has been open, if it is.
    pub(super) fn open_for(&self, key: &ConnectorKey) -> Option<Duration> {
        let since = self.lanes.lock().open_since(key)?;
        Some(self.moment().saturating_sub(since))
    }

    /// A task that the shutdown waits for.
    pub(super) fn spawn(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.supervisor().spawn(what, task);
    }

    /// Drops what waits for partitions that are given up: their next owner delivers it. Records of
    /// which something was started are finished.
    pub fn release(&self, partitions: &[Arc<Partition>]) {
        let dropped = self.lanes.lock().drain(|delivery| {
            let own = delivery.work.partition();
            delivery.work.is_given_up() && partitions.iter().any(|one| Arc::ptr_eq(one, own))
        });
        drop(dropped);
    }

    /// Waits until every task has ended, at most so long.
    pub async fn stopped(&self, timeout: Duration) {
        self.supervisor().stopped(timeout).await;
    }

    fn sweep(self: &Arc<Self>) {
        let (evicted, starts, counts) = {
            let now = self.moment();
            let mut lanes = self.lanes.lock();
            let evicted = lanes.sweep(now);
            (evicted, take_starts(&mut lanes, now), LaneCounts::of(lanes.states()))
        };
        for deferral in evicted {
            park::spawn_deferral(self, deferral);
        }
        self.launch(starts);
        self.metrics().set_lanes(&counts);
        self.metrics().set_in_flight(self.budgets.in_flight());
    }
}

/// Starts what timers allow, sweeps lanes and sets gauges, as long as the dispatcher lives.
async fn housekeeping(dispatcher: std::sync::Weak<Dispatcher>) {
    let mut last_sweep = Instant::now();
    loop {
        let Some(dispatcher) = dispatcher.upgrade() else { return };
        let pause = {
            if last_sweep.elapsed() >= SWEEP_INTERVAL {
                last_sweep = Instant::now();
                dispatcher.sweep();
            }
            let (starts, wake_at) = {
                let now = dispatcher.moment();
                let mut lanes = dispatcher.lanes.lock();
                (take_starts(&mut lanes, now), lanes.wake_at())
            };
            dispatcher.launch(starts);
            let now = dispatcher.moment();
            let until_timer = wake_at.map(|at| at.saturating_sub(now));
            let pause = until_timer.unwrap_or(SWEEP_INTERVAL);
            let pause = pause.clamp(Duration::from_millis(1), SWEEP_INTERVAL);
            let round = u64::try_from((now + pause).as_micros()).unwrap_or(u64::MAX);
            dispatcher.next_round.store(round, Ordering::Relaxed);
            pause
        };
        // Woken early or not, the next round looks at everything again.
        let _ = tokio::time::timeout(pause, dispatcher.wake.notified()).await;
    }
}

fn take_starts(lanes: &mut Lanes<ConnectorKey, Delivery>, now: Moment) -> Vec<Start<Delivery>> {
    std::iter::from_fn(|| lanes.next(now)).collect()
}

fn max_near() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) * MAX_NEAR_PER_CORE
}

fn shared_address(kind: ConnectorType) -> Option<Mutex<SharedAddress>> {
    kind.spec().shared_address_limit.map(SharedAddress::new).map(Mutex::new)
}

/// The limits of a type: for the vendor itself, and for what the operator calls instead.
fn lane_limits(
    kind: ConnectorType,
    set: &BTreeMap<ConnectorType, TypeLimits>,
) -> (LaneLimits, LaneLimits) {
    let spec = kind.spec();
    let set = set.get(&kind).copied().unwrap_or_default();
    let rate = |default: Option<Rate>| match set.rate_per_second {
        None => default,
        Some(0.0) => None,
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        Some(per_second) => Some(Rate { per_second, burst: per_second.ceil().max(1.0) as u32 }),
    };
    let concurrency = set.concurrency.unwrap_or(spec.concurrency).max(1);
    let vendor = LaneLimits {
        label: kind.index(),
        same_place: false,
        concurrency,
        rate: rate(spec.rate),
        batch_items: 1,
    };
    // The vendor's published limits say nothing of a gateway that stands in its place.
    let trusted = LaneLimits {
        concurrency: set.concurrency.unwrap_or(spec.concurrency.max(TRUSTED_CONCURRENCY)).max(1),
        rate: rate(None),
        same_place: true,
        ..vendor
    };
    (vendor, trusted)
}

/// Requests at once per connector to what an operator set in the vendor's place.
const TRUSTED_CONCURRENCY: u32 = 32;
