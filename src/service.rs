//! The service: the parts of `dunmore serve`, put together and taken apart.

mod open_view;
mod role;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use futures_util::future::join_all;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    admin::{self, Health as _},
    api::{Api, ApiOptions, Callers},
    codec::Codec,
    config::{AttemptLogging, Config},
    console::Console,
    health::{ServiceHealth, watch_kafka},
    kafka::{
        Admin, AttemptLog, Connection, GroupConsumer, GroupEvents, GroupHandle, GroupOptions,
        Producer, ServiceGroup, TopicKind, Topics, Watch, recover_lost_offsets,
    },
    listen,
    metrics::{KafkaClient, Metrics},
    outbound::Outbound,
    pipeline::{
        DeliveryEvents, DispatchOptions, Dispatcher, HeldEvents, NoticeHook, Registrar,
        RegistrarEvents, Supervisor, TypeLimits, ViewFeed, watch_view_ends,
    },
    secrets::Keyring,
    telemetry::Traces,
    view::View,
};

use open_view::open_view;
pub use role::Role;

/// How often the service looks after itself.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// What a stop may take beyond `delivery.shutdown_grace`.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// What of that is for what comes after the groups are left.
const FLUSH_MARGIN: Duration = Duration::from_secs(2);
/// The API answers for a little longer than the instance is ready: a load balancer has to notice.
const API_LINGER: Duration = Duration::from_secs(1);
/// A view that has not had everything for so long shows in `/readyz`.
const VIEW_BEHIND: Duration = Duration::from_secs(10);

/// A running service.
pub struct Service {
    config: Config,
    metrics: Arc<Metrics>,
    health: Arc<ServiceHealth>,
    view: Arc<View>,
    dispatcher: Option<Arc<Dispatcher>>,
    /// What each consumer's partitions are called, and the consumer.
    groups: Vec<(&'static str, GroupConsumer)>,
    supervisor: Supervisor,
    /// Over how many partitions the projects are spread.
    partitions: i32,
    attempt_log: Option<Arc<AttemptLog>>,
    traces: Option<Arc<Traces>>,
    api: Option<Api>,
    console: Arc<Console>,
    producer: Producer,
    codec: Codec,
    admin_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts the service. It returns when the view has caught up and the consumers have joined;
    /// the admin server answers from the beginning.
    pub async fn start(config: Config, roles: &BTreeSet<Role>) -> anyhow::Result<Self> {
        listen::raise_file_limit();
        let connection = config.connection()?;
        let keyring =
            Keyring::parse(&config.secret_keys()?).map_err(|e| anyhow!("secrets.keys: {e}"))?;
        let topics = config.topics();
        let metrics = Arc::new(Metrics::new().context("metrics")?);
        let listener =
            admin::bind("admin.listen", config.admin.listen).await.map_err(|e| anyhow!(e))?;
        let admin_address = listener.local_addr().context("admin.listen")?;

        // Refused at once, before anything is joined.
        let api = if roles.contains(&Role::Api) {
            let callers = Arc::new(Callers::new(&config.api).map_err(|e| anyhow!(e))?);
            let address = config.api.listen;
            Some((callers, admin::bind("api.listen", address).await.map_err(|e| anyhow!(e))?))
        } else {
            None
        };
        let telemetry = &config.telemetry;
        let traces = telemetry
            .otlp_endpoint
            .as_ref()
            .map(|endpoint| Traces::start(endpoint, telemetry.sample_ratio, Arc::clone(&metrics)));
        let traces = traces.transpose().map_err(|e| anyhow!(e))?;
        let kafka_admin = Admin::new(&connection)?;
        let cluster_id = kafka_admin.cluster_id().await?;
        kafka_admin.require(&topics)?;
        let view = open_view(&config, &connection, &topics, &cluster_id, keyring, &metrics)?;
        let state = topics.name(TopicKind::State);
        let codec = Codec::new(&config.schema_registry, Arc::clone(&metrics));
        let codec = codec.map_err(|error| anyhow!(error))?;
        let feed = ViewFeed::start(
            &connection,
            &state,
            Arc::clone(&view),
            codec.clone(),
            Arc::clone(&metrics),
            config.topics.state_partitions,
        )?;
        let partitions = feed.partitions();
        kafka_admin.require_commands(&topics, partitions)?;
        let supervisor = Supervisor::default();
        let health = Arc::new(ServiceHealth::new(feed, codec.clone(), supervisor.clone()));
        health.wait_for(vec!["the consumers to join their groups"]);
        let console =
            Console::new(&config, &codec, &metrics, Arc::clone(&health) as _, &view, partitions)?;
        let mut tasks = Vec::new();
        {
            let (metrics, health) = (Arc::clone(&metrics), Arc::clone(&health));
            let routes = console.router()?;
            tasks.push(tokio::spawn(async move {
                admin::serve(listener, metrics, health, routes).await;
            }));
        }
        // Until the registry has our schemas nothing is written: an instance that wrote JSON
        // meanwhile would surprise those who read Avro.
        codec.prepare(&topics, || health.failure().is_some()).await.map_err(|e| anyhow!(e))?;
        health.feed().caught_up().await;
        if let Some(failure) = health.failure() {
            return Err(anyhow!(failure));
        }
        let watch = Watch::new(&connection, topics.clone())?;
        tasks.push(tokio::spawn(watch_kafka(watch, Arc::clone(&health), Arc::clone(&metrics))));
        let (failed, connected) = (supervisor.clone(), connection.clone());
        let watching = watch_view_ends(connected, state, Arc::clone(&view), partitions);
        tasks.push(tokio::spawn(async move {
            if let Err(error) = watching.await {
                failed.fail(format!("the ends of the state topic: {error}"));
            }
        }));

        let producer = Producer::new(&connection, metrics.kafka_client(KafkaClient::Producer))?;
        let mut service = Self {
            config,
            metrics,
            health,
            view,
            dispatcher: None,
            groups: Vec::new(),
            supervisor,
            partitions,
            attempt_log: None,
            traces,
            api: None,
            console,
            producer,
            codec,
            admin_address,
            tasks,
        };
        if roles.contains(&Role::Registrar) {
            service.start_registrar(&connection, &topics, partitions)?;
        }
        if roles.contains(&Role::Delivery) {
            service.start_delivery(&connection, &topics)?;
        }
        let callers = api.as_ref().map(|(callers, _)| Arc::clone(callers));
        if let Some((callers, listener)) = api {
            service.start_api(&connection, &topics, partitions, callers, listener).await?;
        }
        service.watch(callers);
        Ok(service)
    }

    fn start_registrar(
        &mut self,
        connection: &Connection,
        topics: &Topics,
        partitions: i32,
    ) -> anyhow::Result<()> {
        let registrar = Registrar::new(
            connection,
            topics.clone(),
            Arc::clone(&self.view),
            self.config.egress_policy(),
            Outbound::new(self.config.egress_policy()).map_err(|e| anyhow!(e))?,
            self.codec.clone(),
            self.producer.clone(),
            partitions,
            Arc::clone(&self.metrics),
        )?;
        let options = GroupOptions {
            group: ServiceGroup::Registrar.id(&self.config.group.id),
            topics: ServiceGroup::Registrar.subscription(topics),
            revoke_timeout: self.config.group.revoke_timeout,
            metrics: self.metrics.kafka_client(KafkaClient::Registrar),
        };
        let events = Arc::new(RegistrarEvents(Arc::clone(&registrar)));
        let consumer = GroupConsumer::start(connection, &options, events)?;
        self.groups.push((REGISTRAR_PARTITIONS, consumer));
        let health = Arc::clone(&self.health);
        self.tasks.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(WATCH_INTERVAL).await;
                if let Some(failure) = registrar.failure() {
                    health.fail(failure);
                }
            }
        }));
        Ok(())
    }

    async fn start_api(
        &mut self,
        connection: &Connection,
        topics: &Topics,
        partitions: i32,
        callers: Arc<Callers>,
        listener: TcpListener,
    ) -> anyhow::Result<()> {
        let keeping_up = Callers::keep_up(Arc::downgrade(&callers));
        self.supervisor.spawn_endless("reading api.tokens_file", keeping_up);
        let options = ApiOptions {
            connection: connection.clone(),
            topics: topics.clone(),
            codec: self.codec.clone(),
            partitions,
            view: Arc::clone(&self.view),
            dispatcher: self.dispatcher.clone(),
            egress: self.config.egress_policy(),
            callers,
            cors_origins: self.config.api.cors_origins.clone(),
            requests_per_second: self.config.api.requests_per_second,
            operations: self.console.operations().clone(),
            metrics: Arc::clone(&self.metrics),
        };
        self.api = Some(Api::start(listener, options).await?);
        Ok(())
    }

    fn start_delivery(&mut self, connection: &Connection, topics: &Topics) -> anyhow::Result<()> {
        let delivery = &self.config.delivery;
        if delivery.attempt_log != AttemptLogging::Off {
            self.attempt_log = Some(Arc::new(AttemptLog::new(
                connection,
                topics.name(TopicKind::Attempts),
                self.metrics.kafka_client(KafkaClient::AttemptLog),
                self.metrics.attempts_dropped(),
            )?));
        }
        let limits = self.config.destinations.iter();
        let limits = limits.map(|(kind, set)| (*kind, TypeLimits::from(set)));
        if let Some(warning) = delivery.warning() {
            tracing::warn!("{warning}");
        }
        let outbound = Outbound::new(self.config.egress_policy()).map_err(|e| anyhow!(e))?;
        let dispatcher = Dispatcher::start(DispatchOptions {
            view: Arc::clone(&self.view),
            outbound,
            producer: self.producer.clone(),
            attempt_log: self.attempt_log.clone(),
            attempt_logging: delivery.attempt_log,
            topics: topics.clone(),
            codec: self.codec.clone(),
            policy: delivery.policy(),
            limits: limits.collect(),
            state_partitions: self.partitions,
            supervisor: self.supervisor.clone(),
            max_in_flight: delivery.max_in_flight,
            traces: self.traces.clone(),
            metrics: Arc::clone(&self.metrics),
        });
        let events: Arc<dyn GroupEvents> =
            Arc::new(DeliveryEvents::new(Arc::clone(&dispatcher), topics));
        let keepers: Arc<dyn GroupEvents> =
            Arc::new(HeldEvents::new(Arc::clone(&dispatcher), connection.clone()));
        // A group for each kind of topic: the sticky assignment shares out the partitions of all of
        // a group's topics together, so in one group an instance may get every partition of the
        // events and another one only those of idle tiers.
        let group = &self.config.group;
        let groups = ServiceGroup::DELIVERING.map(|one| one.reads(&group.id, topics));
        recover_lost_offsets(connection, &groups, &topics.name(TopicKind::Attempts), group.start)?;
        for (name, one, client, events) in [
            ("the delivery group's partitions", ServiceGroup::Live, KafkaClient::Events, &events),
            ("the notice group's partitions", ServiceGroup::Notices, KafkaClient::Notices, &events),
            ("the retry group's partitions", ServiceGroup::Retry, KafkaClient::Retry, &events),
            ("the replay group's partitions", ServiceGroup::Replay, KafkaClient::Replay, &events),
            ("the held group's partitions", ServiceGroup::Held, KafkaClient::Held, &keepers),
        ] {
            let options = GroupOptions {
                group: one.id(&group.id),
                topics: one.subscription(topics),
                revoke_timeout: group.revoke_timeout,
                metrics: self.metrics.kafka_client(client),
            };
            let consumer = GroupConsumer::start(connection, &options, Arc::clone(events))?;
            self.groups.push((name, consumer));
        }
        let hook = NoticeHook::of(&self.config.notices, self.supervisor.clone());
        if let Some(hook) = hook.map_err(|e| anyhow!(e))? {
            let options = GroupOptions {
                group: ServiceGroup::Webhook.id(&group.id),
                topics: ServiceGroup::Webhook.subscription(topics),
                revoke_timeout: group.revoke_timeout,
                metrics: self.metrics.kafka_client(KafkaClient::Webhook),
            };
            let consumer = GroupConsumer::start(connection, &options, Arc::new(hook))?;
            self.groups.push(("the webhook group's partitions", consumer));
        }
        self.console.delivers(&dispatcher);
        self.dispatcher = Some(dispatcher);
        Ok(())
    }

    /// Keeps readiness and the figures that need looking up to date.
    fn watch(&mut self, callers: Option<Arc<Callers>>) {
        let groups: Vec<(&'static str, GroupHandle)> =
            self.groups.iter().map(|(name, consumer)| (*name, consumer.handle())).collect();
        let handles: Vec<GroupHandle> = groups.iter().map(|(_, handle)| handle.clone()).collect();
        self.metrics.repeat_bound_from(move || {
            let partitions = handles.iter().flat_map(GroupHandle::partitions);
            partitions.map(|partition| partition.repeat_bound()).sum()
        });
        let health = Arc::clone(&self.health);
        let (metrics, view) = (Arc::clone(&self.metrics), Arc::clone(&self.view));
        let look = move || {
            let (mut waiting_for, mut warnings, mut stalled) = (Vec::new(), Vec::new(), 0);
            for (name, group) in &groups {
                if !group.is_assigned() {
                    waiting_for.push(*name);
                }
                if let Some(failure) = group.fatal() {
                    health.fail(failure);
                }
                warnings.extend(group.replaced().into_iter().map(|topic| {
                    format!("topic {topic} was created anew: it is read from its beginning")
                }));
                for partition in group.stalled(Instant::now()) {
                    stalled += 1;
                    warnings.push(format!(
                        "partition {} of {} has something to do and does not move",
                        partition.number(),
                        partition.topic()
                    ));
                }
            }
            metrics.set_partitions_stalled(stalled);
            if let Some(age) = view.as_of().age() {
                metrics.set_view_age(age);
                if age >= VIEW_BEHIND {
                    warnings.push(
                        "the view is behind the state topic: events wait until it is known which \
                         connectors want them"
                            .to_owned(),
                    );
                }
            }
            warnings.extend(callers.as_ref().and_then(|callers| callers.warning()));
            health.wait_for(waiting_for);
            health.warn(warnings);
        };
        look();
        self.tasks.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(WATCH_INTERVAL).await;
                look();
            }
        }));
    }

    /// Waits until the service is ready.
    pub async fn ready(&self) {
        while !self.health.not_ready().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the service cannot go on; returns why.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(failure) = self.health.failure() {
                return failure;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Where metrics and health are served; with port 0 in the settings, the port that was found.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The dispatcher, when this instance delivers.
    pub fn dispatcher(&self) -> Option<&Arc<Dispatcher>> {
        self.dispatcher.as_ref()
    }

    /// Where the API listens, when this instance serves it.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(Api::address)
    }

    /// Stops: not ready from now on, no new records, what is in flight is finished within the grace
    /// time and committed as it ends, the groups are left. False when a broker that does not answer
    /// kept this from its end: threads of the client library still run then.
    pub async fn stop(mut self) -> bool {
        let until = Instant::now() + self.config.delivery.shutdown_grace + STOP_MARGIN;
        let groups_until = until.checked_sub(FLUSH_MARGIN).unwrap_or(until);
        self.health.stop();
        let mut groups = std::mem::take(&mut self.groups);
        let is_registrar = |(name, _): &(&str, _)| *name == REGISTRAR_PARTITIONS;
        let registrar: Vec<_> = groups.extract_if(.., |group| is_registrar(group)).collect();
        let delivery = groups.into_iter().map(|(_, consumer)| consumer.stopped(groups_until));
        let (api, console) = (self.api.take(), Arc::clone(&self.console));
        let control = async {
            let console = console.stopped();
            if let Some(api) = api {
                tokio::time::sleep(API_LINGER).await;
                api.stopped().await;
            }
            // Requests that were under way needed the registrar.
            let registrar = registrar.into_iter().map(|(_, one)| one.stopped(groups_until));
            let (left, ()) = tokio::join!(join_all(registrar), console);
            left
        };
        let (delivery, control) = tokio::join!(join_all(delivery), control);
        let are_left = delivery.into_iter().chain(control).all(|is_left| is_left);
        let left = || until.saturating_duration_since(Instant::now());
        self.supervisor.stopped(left()).await;
        let log = self.attempt_log.take();
        let log = async {
            if let Some(log) = log {
                log.flush(left()).await;
            }
        };
        tokio::join!(log, self.producer.flush(left()));
        if let Some(traces) = self.traces.take() {
            let _ = tokio::time::timeout(left(), traces.stopped()).await;
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = self.view.store().flush() {
            tracing::warn!(%error, "the view was not flushed; Kafka supplies what is missing");
        }
        if !are_left {
            tracing::warn!("Kafka did not answer in time: what was not committed may repeat");
            // Taking the clients down would wait for the brokers once more.
            std::mem::forget(self);
        }
        are_left
    }
}

const REGISTRAR_PARTITIONS: &str = "the registrar group's partitions";
