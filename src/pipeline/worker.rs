//! The worker of one partition: of the events, of the notices, of a retry tier, or of what is replayed. It decodes,
//! matches, and hands deliveries on without waiting for them.
//!
//! What is matched with the view of this moment goes out at once. Whether that was all is known when
//! the view has everything that was in the state topic before the record was read; until then the
//! record is not done (`Confirmation`). So a view that is behind delays nothing that it knows, and
//! loses nothing that it does not know yet.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::{
    TRACEPARENT,
    choose::Chosen,
    dispatch::Dispatcher,
    park,
    records::Records,
    refuse::{self, Refused},
    work::{Delivery, RecordWork, Share},
};
use crate::{
    clock,
    codec::{ReadError, RecordKind, cloudevents},
    connector::partition_of,
    delivery::{DeliveryRecord, EnvelopeError, History, Origin, Reason, Source, left_to_wait},
    event::Event,
    id::ProjectId,
    kafka::{Assigned, Partition, Record},
    lane::Patience,
    offsets::Begin,
    view::{Subscriptions, Target},
};

/// The clock is asked again after at most this, so that a change of it is noticed.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The partition was given up: its next owner goes on.
struct GivenUp;

/// Works until the partition is given up. Records wait in Kafka: the queue in front of this worker
/// is bounded, and a full one is not filled further; no other partition waits.
pub async fn run(dispatcher: Arc<Dispatcher>, assigned: Assigned, kind: Records) {
    let Assigned { partition, mut records } = assigned;
    // At most as many as offsets may be incomplete.
    let (confirm, confirmations) = mpsc::unbounded_channel();
    let confirming = confirm_all(Arc::clone(&dispatcher), Arc::clone(&partition), confirmations);
    dispatcher.supervisor().spawn("confirming what was matched", confirming);
    let patience = Patience::new(dispatcher.moment());
    let mut worker = Worker {
        dispatcher,
        partition: Arc::clone(&partition),
        kind,
        patience,
        confirm,
        has_begun: false,
    };
    'all: while let Some(batch) = records.recv().await {
        for record in batch {
            partition.taken(record.size());
            if worker.work_on(record).await.is_err() {
                break 'all;
            }
        }
    }
    if !partition.is_released() {
        partition.fail();
    }
}

struct Worker {
    dispatcher: Arc<Dispatcher>,
    partition: Arc<Partition>,
    kind: Records,
    patience: Patience,
    confirm: mpsc::UnboundedSender<Confirmation>,
    /// Whether the record in hand was begun.
    has_begun: bool,
}

impl Worker {
    /// One record. A panic on the way costs this record and no other: it becomes a dead letter.
    async fn work_on(&mut self, record: Record) -> Result<(), GivenUp> {
        self.has_begun = false;
        let worked = match self.kind {
            Records::Events | Records::Notices => {
                AssertUnwindSafe(self.event(&record)).catch_unwind().await
            }
            Records::Retries(_) | Records::Replays => {
                AssertUnwindSafe(self.waiting(&record)).catch_unwind().await
            }
        };
        let refused = match worked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Failed::GivenUp)) => return Err(GivenUp),
            Ok(Err(Failed::Refused(reason, detail))) => Refused { reason, detail },
            Err(_) => Refused { reason: Reason::Bug, detail: Reason::Bug.help().to_owned() },
        };
        if !self.has_begun && !self.begin(&record).await? {
            return Ok(());
        }
        self.dispatcher.metrics().event_rejected(refused.reason);
        refuse::refuse(&self.dispatcher, &self.partition, self.kind.source(), record, refused)
            .await;
        Ok(())
    }

    /// Whether the record is to be worked on; waits while too many are incomplete.
    async fn begin(&mut self, record: &Record) -> Result<bool, GivenUp> {
        let begin = self.partition.begin(record.offset).await.ok_or(GivenUp)?;
        self.has_begun = true;
        Ok(begin == Begin::Work)
    }

    /// An event, or a notice, goes to each connector that wants it.
    async fn event(&mut self, record: &Record) -> Result<(), Failed> {
        if !self.begin(record).await? {
            return Ok(());
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        let partition = &self.partition;
        fault_point!("decode");
        let event = match self.kind {
            Records::Notices => dispatcher.codec().notice(record)?,
            _ => dispatcher.codec().event(record, || partition.is_released()).await?,
        };
        let metrics = dispatcher.metrics();
        metrics.event_consumed(event.kind);
        let value = record.value.as_deref().unwrap_or_default();
        let carried = cloudevents::traceparent(&record.headers, value);
        let mut step = dispatcher.traces().and_then(|traces| {
            let from = (record.partition, record.offset);
            traces.event(carried.as_deref(), partition.topic(), from, &event)
        });
        fault_point!("match");
        // First, so that what is matched is at least as new.
        let is_complete = dispatcher.is_complete(&event.project, record);
        let subscriptions = dispatcher.subscriptions(&event.project).await;
        let chosen = dispatcher.choose(&subscriptions, &event);
        let targets = &*chosen.passed;
        if is_complete {
            dispatcher.count_filtered(&chosen.filtered);
        }
        if targets.is_empty() && is_complete {
            metrics.event_unmatched(event.kind);
            partition.complete(record.offset);
            return Ok(());
        }
        let bytes = dispatcher.budgets.event(Source::Live, event.json.len()).await;
        // What follows belongs to this step; where nothing is traced, to the producer's.
        let traceparent: Option<Arc<str>> = match &mut step {
            Some(step) => {
                step.matched(targets.len());
                Some(step.traceparent().into())
            }
            None => carried.as_deref().map(Arc::from),
        };
        let origin = Origin {
            topic: Arc::clone(partition.topic()),
            partition: record.partition,
            offset: record.offset,
        };
        let matched =
            Matched { event: Arc::new(event), accepted_at: record.timestamp, origin, traceparent };
        let count = targets.len() + usize::from(!is_complete);
        let mut shares =
            RecordWork::shares(Arc::clone(partition), record.offset, count, bytes).into_iter();
        if !is_complete && let Some(share) = shares.next() {
            let confirmation = Confirmation {
                matched: matched.clone(),
                subscriptions: Arc::clone(&subscriptions),
                judged: chosen.is_own().then(|| Chosen {
                    passed: Cow::Owned(chosen.passed.to_vec()),
                    filtered: chosen.filtered.clone(),
                }),
                record: record.clone(),
                share,
            };
            // The other end is there for as long as this worker, or has failed the instance.
            let _ = self.confirm.send(confirmation);
        }
        for (target, work) in targets.iter().zip(shares) {
            let delivery = matched.delivery(target, work);
            deliver(&dispatcher, delivery, &mut self.patience).await;
        }
        Ok(())
    }

    /// A delivery that waits: when it is due, the connector is looked up as it is now.
    async fn waiting(&mut self, record: &Record) -> Result<(), Failed> {
        fault_point!("decode");
        let read = self.read(record).await;
        let due = match &read {
            Ok(waited) => Some((waited.due_at, record.age())),
            Err(Unread::Foreign) => {
                Some((record.timestamp.plus(self.kind.longest_wait()), record.age()))
            }
            Err(Unread::Failed(Failed::GivenUp)) => return Err(Failed::GivenUp),
            Err(Unread::Failed(Failed::Refused(..))) => None,
        };
        if let Some((due_at, age)) = due {
            self.partition.set_waits_until_due(true);
            let is_due = self.wait_until(due_at, age).await;
            self.partition.set_waits_until_due(false);
            if !is_due {
                return Err(Failed::GivenUp);
            }
        }
        if !self.begin(record).await? {
            return Ok(());
        }
        match read {
            Ok(waited) => self.due(record, waited).await,
            Err(Unread::Foreign) => self.foreign(record),
            Err(Unread::Failed(failed)) => Err(failed),
        }
    }

    async fn read(&self, record: &Record) -> Result<DeliveryRecord, Unread> {
        let value = record.value.clone().unwrap_or_default();
        let partition = &self.partition;
        let codec = self.dispatcher.codec();
        let json = codec.decode(RecordKind::Delivery, &value, || partition.is_released()).await;
        let json = json.map_err(|error| Unread::Failed(error.into()))?;
        DeliveryRecord::from_json(&json).map_err(|error| match error {
            EnvelopeError::Foreign => Unread::Foreign,
            other => Unread::Failed(Failed::Refused(Reason::InvalidRecord, other.to_string())),
        })
    }

    /// False when the partition was given up meanwhile.
    async fn wait_until(&self, due_at: clock::Timestamp, age: Duration) -> bool {
        let read_at = std::time::Instant::now();
        loop {
            if self.partition.is_released() {
                return false;
            }
            let waited = age + read_at.elapsed();
            let left = left_to_wait(due_at, clock::now(), waited, self.kind.longest_wait());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(LONGEST_NAP)).await;
        }
    }

    async fn due(&mut self, record: &Record, waited: DeliveryRecord) -> Result<(), Failed> {
        let (dispatcher, source) = (Arc::clone(&self.dispatcher), self.kind.source());
        let traceparent =
            record.header_text(TRACEPARENT).filter(|text| cloudevents::is_traceparent(text));
        let bytes = dispatcher.budgets.event(source, waited.event.json.len()).await;
        let shares = RecordWork::shares(Arc::clone(&self.partition), record.offset, 1, bytes);
        let Some(work) = shares.into_iter().next() else { return Ok(()) };
        fault_point!("match");
        let target = match self.still_wanted(record, &waited).await {
            Ok(target) => target,
            Err(None) => return Err(Failed::GivenUp),
            Err(Some(reason)) => {
                park::cancel(&dispatcher, &waited, source, reason, traceparent);
                work.done();
                return Ok(());
            }
        };
        let delivery = Delivery {
            target,
            history: waited.history(),
            event: Arc::new(waited.event),
            id: waited.delivery_id,
            source,
            accepted_at: waited.accepted_at,
            origin: waited.origin,
            job: waited.job,
            traceparent: traceparent.map(Arc::from),
            work,
            permit: None,
        };
        deliver(&dispatcher, delivery, &mut self.patience).await;
        Ok(())
    }

    /// The connector of a delivery that has waited, if it is still wanted; else why not, or nothing
    /// when the partition was given up. Only a view that has everything may say no.
    async fn still_wanted(
        &self,
        record: &Record,
        waited: &DeliveryRecord,
    ) -> Result<Arc<Target>, Option<Reason>> {
        let (dispatcher, partition) = (&self.dispatcher, &self.partition);
        let project = &waited.connector.project;
        loop {
            let is_complete = dispatcher.is_complete(project, record);
            let subscriptions = dispatcher.subscriptions(project).await;
            let connector = &waited.connector.connector;
            match subscriptions.still_wanted(
                connector,
                waited.event.kind,
                waited.connector_created_at,
            ) {
                Ok(target) if dispatcher.still_passes(target, &waited.event) => {
                    return Ok(Arc::clone(target));
                }
                Ok(_) if is_complete => return Err(Some(Reason::Filtered)),
                Err(reason) if is_complete => return Err(Some(reason)),
                Ok(_) | Err(_) => {
                    let given_up = || partition.is_released();
                    if !dispatcher.complete(project, record, given_up).await {
                        return Err(None);
                    }
                }
            }
        }
    }

    /// A delivery that a newer release wrote, of a kind that this one cannot deliver: it waits in
    /// its tier, unchanged and without a step, for an instance that can.
    fn foreign(&self, record: &Record) -> Result<(), Failed> {
        let age = clock::now().since(refuse::deferred_since(record));
        if age >= self.dispatcher.options.policy.max_deferred_age() {
            let detail = "a newer release wrote it, and no instance of that release took it up";
            return Err(Failed::Refused(Reason::InvalidRecord, detail.to_owned()));
        }
        refuse::put_back(&self.dispatcher, &self.partition, record);
        Ok(())
    }
}

/// Why a record is not worked on to its end.
enum Failed {
    /// The partition was given up.
    GivenUp,
    /// It cannot be understood.
    Refused(Reason, String),
}

impl From<GivenUp> for Failed {
    fn from(_: GivenUp) -> Self {
        Self::GivenUp
    }
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::GivenUp => Self::GivenUp,
            ReadError::Refused(reason, detail) => Self::Refused(reason, detail),
        }
    }
}

/// Why a delivery record was not read.
enum Unread {
    /// A newer release wrote it.
    Foreign,
    Failed(Failed),
}

/// An event and where it came from.
#[derive(Clone)]
struct Matched {
    event: Arc<Event>,
    accepted_at: clock::Timestamp,
    origin: Origin,
    traceparent: Option<Arc<str>>,
}

impl Matched {
    fn delivery(&self, target: &Arc<Target>, work: Share) -> Delivery {
        Delivery {
            id: target.namespace.delivery(&self.event.id),
            target: Arc::clone(target),
            event: Arc::clone(&self.event),
            source: Source::Live,
            history: History::default(),
            accepted_at: self.accepted_at,
            origin: self.origin.clone(),
            job: None,
            traceparent: self.traceparent.clone(),
            work,
            permit: None,
        }
    }
}

/// An event that was matched with a view of which it is not known yet whether it had everything.
struct Confirmation {
    matched: Matched,
    /// What it was matched with.
    subscriptions: Arc<Subscriptions>,
    /// Who got it by that, where not all of its type did.
    judged: Option<Chosen<'static>>,
    record: Record,
    share: Share,
}

/// Looks again at what was matched, once the view has everything; until the partition's worker ends.
async fn confirm_all(
    dispatcher: Arc<Dispatcher>,
    partition: Arc<Partition>,
    mut confirmations: mpsc::UnboundedReceiver<Confirmation>,
) {
    let mut patience = Patience::new(dispatcher.moment());
    while let Some(confirmation) = confirmations.recv().await {
        let record = confirmation.record.clone();
        let confirmed = confirm(&dispatcher, confirmation, &mut patience);
        if AssertUnwindSafe(confirmed).catch_unwind().await.is_err() {
            dispatcher.metrics().event_rejected(Reason::Bug);
            let refused = Refused { reason: Reason::Bug, detail: Reason::Bug.help().to_owned() };
            refuse::refuse(&dispatcher, &partition, Source::Live, record, refused).await;
        }
    }
}

async fn confirm(
    dispatcher: &Arc<Dispatcher>,
    confirmation: Confirmation,
    patience: &mut Patience,
) {
    let Confirmation { matched, subscriptions, judged, record, share } = confirmation;
    let event = &matched.event;
    if !dispatcher.complete(&event.project, &record, || share.is_given_up()).await {
        return;
    }
    fault_point!("confirm");
    let now = dispatcher.subscriptions(&event.project).await;
    let before = judged.unwrap_or_else(|| Chosen {
        passed: Cow::Borrowed(subscriptions.matching(event.kind)),
        filtered: Vec::new(),
    });
    let is_unmatched = if Arc::ptr_eq(&now, &subscriptions) {
        dispatcher.count_filtered(&before.filtered);
        before.passed.is_empty()
    } else {
        let missed = dispatcher.choose_missed(&now, event, &before);
        dispatcher.count_filtered(&missed.filtered);
        let shares = share.split(missed.passed.len());
        for (target, work) in missed.passed.iter().zip(shares) {
            deliver(dispatcher, matched.delivery(target, work), patience).await;
        }
        before.passed.is_empty() && missed.passed.is_empty()
    };
    if is_unmatched {
        dispatcher.metrics().event_unmatched(event.kind);
    }
    share.done();
}

/// Hands a delivery to its lane, unless the destination has nothing to do for it.
async fn deliver(dispatcher: &Arc<Dispatcher>, delivery: Delivery, patience: &mut Patience) {
    fault_point!("skip");
    if let Some(delivery) = park::skip(dispatcher, delivery) {
        let permit = dispatcher.budgets.delivery(delivery.source).await;
        dispatcher.offer(Delivery { permit, ..delivery }, patience).await;
    }
}

impl Dispatcher {
    /// Whether the view has everything that was accepted for a project before a record was read.
    fn is_complete(&self, project: &ProjectId, record: &Record) -> bool {
        self.view().as_of().is_complete(self.state_partition(project), record.read_at())
    }

    /// Waits until it has; false when that is given up.
    async fn complete(
        &self,
        project: &ProjectId,
        record: &Record,
        is_given_up: impl Fn() -> bool,
    ) -> bool {
        let partition = self.state_partition(project);
        self.view().as_of().complete(partition, record.read_at(), is_given_up).await
    }

    /// The partition of the state topic that a project belongs to.
    pub(super) fn state_partition(&self, project: &ProjectId) -> usize {
        usize::try_from(partition_of(project.as_str(), self.options.state_partitions)).unwrap_or(0)
    }
}
