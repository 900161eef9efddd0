//! The only member of a consumer group: how one process at a time works on something, and how it
//! learns that it does so no longer.
//!
//! The group's generation fences commits: the broker refuses those of a member that it has given
//! up. Records cannot be fenced so; therefore a member may write only for a short time after a
//! commit of its own was accepted, and the group gives a silent member up later than that.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    groups::GroupInfo,
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
};

use super::{Admin, BookmarkMap, Connection, KafkaError, REQUEST_TIMEOUT, bookmarks::is_passing};
use crate::clock::{self, Timestamp};

/// After so long without a heartbeat the group gives a member up. Longer than [`LEASE`], a
/// heartbeat and the longest time for which a record may be under way ([`WRITE_TIMEOUT`]) together.
pub const SESSION: Duration = Duration::from_secs(12);
/// For so long after an accepted commit a member may write.
pub const LEASE: Duration = Duration::from_secs(3);
/// A record of a member is written within this time or not at all.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long joining may take: the group waits for a member that died.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the first of several newcomers waits for the others to leave.
const ALONE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a commit may be put off by the group's coordinator.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(100);

/// Another process is a member of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its client id: host and process.
    pub client: String,
    /// Its address.
    pub host: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.client, self.host.trim_start_matches('/'))
    }
}

/// Why a process is not, or no longer, the only member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Another process is.
    #[error("another process is a member of the group {0}")]
    Occupied(String),
    /// The group gave this member up: it stood still, or the broker could not be reached.
    #[error(
        "the consumer group {0} gave this process up, because it stood still or could not reach the broker for {seconds} s; nothing more was written",
        seconds = SESSION.as_secs()
    )]
    Lost(String),
    /// Something else.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Between two generations.
    Joining,
    /// The only member.
    Sole,
    /// One of several; the first is the one that was given the topic's first partition.
    Crowded { is_first: bool },
    /// Given up by the group, for good.
    Lost,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    is_over: AtomicBool,
}

impl Shared {
    fn set(&self, next: State) {
        let mut state = self.state.lock();
        if *state != State::Lost {
            *state = next;
        }
        self.changed.notify_all();
    }

    fn get(&self) -> State {
        *self.state.lock()
    }

    fn wait(&self, until: Instant) {
        self.changed.wait_until(&mut self.state.lock(), until);
    }
}

struct Context {
    shared: Arc<Shared>,
    /// The topic's partitions: a member that is given all of them is alone.
    all: usize,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::producer::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.shared.set(State::Lost);
        }
        tracing::warn!(%error, reason, "Kafka group member");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let answered = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // An empty list may be a null pointer, which must not be looked into.
            let numbers: Vec<i32> = match list.count() {
                0 => Vec::new(),
                _ => list.elements().iter().map(TopicPartitionListElem::partition).collect(),
            };
            let next = if numbers.len() >= self.all {
                State::Sole
            } else {
                State::Crowded { is_first: numbers.contains(&0) }
            };
            // Membership is all that is wanted: nothing is read.
            let answered = consumer.assign(&TopicPartitionList::new());
            self.shared.set(next);
            answered
        } else {
            // Noted before the client library forgets it.
            let is_lost = consumer.assignment_lost()
                || code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS;
            self.shared.set(if is_lost { State::Lost } else { State::Joining });
            consumer.unassign()
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "Kafka group member");
        }
    }
}

/// A moment by two clocks: the one stands still while the machine sleeps, the other can be set.
#[derive(Clone, Copy)]
struct Moment(Instant, Timestamp);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), clock::now())
    }

    fn age(self) -> Duration {
        self.0.elapsed().max(clock::now().since(self.1))
    }
}

/// The only member of a group. It leaves when it is dropped.
pub struct SoleMember {
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
    connection: Connection,
    group: String,
    /// When the last commit that was accepted was sent.
    confirmed: Mutex<Option<Moment>>,
    thread: Option<JoinHandle<()>>,
}

impl SoleMember {
    /// Joins a group; its members subscribe to `topic`, which none of them reads. Waits for a
    /// member that died, and fails when there is one that lives. Blocks.
    pub fn join(connection: &Connection, group: &str, topic: &str) -> Result<Self, MemberError> {
        let count = Admin::new(connection)?.partitions(topic)?;
        if count == 0 {
            return Err(KafkaError::TopicMissing(topic.to_owned()).into());
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Joining),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let mut config = connection.client(&[]);
        // Set over the operator's properties, which are meant for consumers that read.
        config
            .set("group.id", group)
            .set("client.id", client_id())
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string())
            .set("enable.auto.commit", "false")
            .remove("group.instance.id");
        let all = usize::try_from(count).unwrap_or_default();
        let context = Context { shared: Arc::clone(&shared), all };
        let consumer: BaseConsumer<Context> =
            config.create_with_context(context).map_err(|e| KafkaError::settings(&e))?;
        consumer.subscribe(&[topic]).map_err(|e| KafkaError::request(connection, &e))?;
        let consumer = Arc::new(consumer);
        let (polled, ends) = (Arc::clone(&consumer), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("kafka member".to_owned())
            .spawn(move || {
                while !ends.is_over.load(Ordering::Relaxed) {
                    if let Some(Err(error)) = polled.poll(POLL) {
                        tracing::debug!(%error, "Kafka group member");
                    }
                }
            })
            .map_err(|e| KafkaError::Other(format!("cannot start a thread: {e}")))?;
        let member = Self {
            consumer,
            shared,
            connection: connection.clone(),
            group: group.to_owned(),
            confirmed: Mutex::new(None),
            thread: Some(thread),
        };
        member.become_alone()?;
        if all == 1 {
            member.wait_for_others()?;
        }
        Ok(member)
    }

    /// Of a topic with one partition one member has all, though there are several.
    fn wait_for_others(&self) -> Result<(), MemberError> {
        let deadline = Instant::now() + ALONE_PATIENCE;
        while let Ok(members) = members(&self.connection, &self.group)
            && members.len() > 1
        {
            if Instant::now() >= deadline {
                return Err(MemberError::Occupied(self.group.clone()));
            }
            self.shared.wait(Instant::now() + PAUSE);
        }
        self.become_alone()
    }

    fn become_alone(&self) -> Result<(), MemberError> {
        let began = Instant::now();
        let mut crowded_since = None;
        loop {
            let until = match self.shared.get() {
                State::Sole => return Ok(()),
                State::Lost => return Err(MemberError::Lost(self.group.clone())),
                State::Crowded { is_first: false } => {
                    return Err(MemberError::Occupied(self.group.clone()));
                }
                State::Crowded { is_first: true } => {
                    *crowded_since.get_or_insert_with(Instant::now) + ALONE_PATIENCE
                }
                State::Joining => began + JOIN_PATIENCE,
            };
            if Instant::now() >= until {
                return Err(match crowded_since {
                    Some(_) => MemberError::Occupied(self.group.clone()),
                    None => KafkaError::Other(format!(
                        "the consumer group {} could not be joined within {} s",
                        self.group,
                        JOIN_PATIENCE.as_secs()
                    ))
                    .into(),
                });
            }
            self.shared.wait(until.min(Instant::now() + PAUSE));
        }
    }

    /// Whether records may be written now: the group has just confirmed that this is its member.
    /// Otherwise a commit ([`Self::write`]) confirms it, or tells that it is not so any more.
    pub fn may_write(&self) -> bool {
        let confirmed = *self.confirmed.lock();
        self.shared.get() == State::Sole && confirmed.is_some_and(|at| at.age() < LEASE)
    }

    /// Keeps these positions, over what was kept for their partitions. Blocks.
    pub fn write(&self, bookmarks: &BookmarkMap) -> Result<(), MemberError> {
        let other = |error: ClientError| KafkaError::Other(error.to_string());
        let mut list = TopicPartitionList::new();
        for ((topic, partition), bookmark) in bookmarks {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(bookmark.offset)).map_err(other)?;
            // Set once only: the client library's binding leaks what was set before.
            element.set_metadata(bookmark.note.as_str());
        }
        let lost = || MemberError::Lost(self.group.clone());
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            match self.shared.get() {
                State::Lost => return Err(lost()),
                State::Sole => {}
                // A newcomer has come, and leaves when it sees that it is not alone.
                _ if Instant::now() < deadline => {
                    self.shared.wait(Instant::now() + PAUSE);
                    continue;
                }
                _ => return Err(MemberError::Occupied(self.group.clone())),
            }
            let began = Moment::now();
            let committed = self.consumer.commit(&list, CommitMode::Sync);
            // Given up meanwhile, the client library commits as a client that is no member at all,
            // which the broker takes while the group is empty.
            if self.consumer.assignment_lost() || self.shared.get() == State::Lost {
                return Err(lost());
            }
            match committed {
                Ok(()) => {
                    *self.confirmed.lock() = Some(began);
                    return Ok(());
                }
                Err(error) if is_fenced(&error) => {
                    self.shared.set(State::Lost);
                    return Err(lost());
                }
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    tracing::debug!(%error, "a commit is tried again");
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(KafkaError::request(&self.connection, &error).into()),
            }
        }
    }
}

impl Drop for SoleMember {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that polled a Kafka group member panicked");
        }
    }
}

fn is_fenced(error: &ClientError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::Fatal | Code::Fenced)
    )
}

/// Names this process to others that find it in a group.
fn client_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host: String = host.chars().filter(plain).take(64).collect();
    format!("dunmore-{host}-{}", std::process::id())
}

/// The members of a group. Blocks.
pub fn members(connection: &Connection, group: &str) -> Result<Vec<Holder>, KafkaError> {
    let consumer: BaseConsumer = connection
        .client(&[("group.id", "dunmore-reader")])
        .create()
        .map_err(|e| KafkaError::settings(&e))?;
    let groups = consumer
        .fetch_group_list(Some(group), REQUEST_TIMEOUT / 2)
        .map_err(|e| KafkaError::request(connection, &e))?;
    let members = groups.groups().iter().flat_map(GroupInfo::members);
    Ok(members
        .map(|member| {
            // The client library's accessors panic on names that are not UTF-8.
            let named = || Holder {
                client: member.client_id().to_owned(),
                host: member.client_host().to_owned(),
            };
            catch_unwind(AssertUnwindSafe(named)).unwrap_or_else(|_| Holder {
                client: "a client with an unreadable name".to_owned(),
                host: "an unknown address".to_owned(),
            })
        })
        .collect())
}
