//! Reminders: what was not told of outages when it happened, because something else of the project
//! had just been told, is told when it is time. The registrar sends itself the report once more.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::Registrar;
use crate::{
    clock,
    connector::{Command, CommandBody, OWN_ACTOR, ProjectState, Turn, Untold, partition_of},
    id::{CommandId, ConnectorId, ProjectId},
    kafka::{Outgoing, Partition, ProduceError, TopicKind},
};

/// How often a project of which something is still to be told is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The field of a connector of which something was reported; few have it.
const HEALTH: &str = "\"health\"";

/// The projects of a partition of which something may still have to be told, and when to look at
/// them. At most those that have a connector with an outage.
pub(super) type Reminders = BTreeMap<ProjectId, Instant>;

impl Registrar {
    /// What earlier owners of the partition left untold.
    pub(super) async fn recall(self: &Arc<Self>, partition: i32) {
        let registrar = Arc::clone(self);
        let found = super::blocking(move || {
            let all = registrar.view.store().connectors_with(HEALTH).filter_map(Result::ok);
            let partitions = registrar.partitions;
            let own = all.filter(|one| {
                one.health.outage.is_some()
                    && partition_of(one.key.project.as_str(), partitions) == partition
            });
            let now = Instant::now();
            Ok(own.map(|one| (one.key.project, now)).collect::<Reminders>())
        });
        match found.await {
            Ok(found) => {
                self.reminders.lock().insert(partition, found);
            }
            // A later report of any of them tells of all.
            Err(error) => tracing::error!(error, partition, "looking for untold outages failed"),
        }
    }

    /// Something was reported of these projects.
    pub(super) fn note_reported(
        &self,
        partition: i32,
        projects: impl IntoIterator<Item = ProjectId>,
    ) {
        let later = Instant::now() + LOOK_EVERY;
        let mut reminders = self.reminders.lock();
        let own = reminders.entry(partition).or_default();
        for project in projects {
            own.entry(project).or_insert(later);
        }
    }

    /// Sends what it is time for.
    pub(super) async fn remind(&self, partition: &Partition) {
        let (number, now) = (partition.number(), Instant::now());
        let due: Vec<ProjectId> = {
            let reminders = self.reminders.lock();
            let own = reminders.get(&number).into_iter().flatten();
            own.filter(|(_, at)| **at <= now).map(|(project, _)| project.clone()).collect()
        };
        for project in due {
            if partition.is_released() {
                return;
            }
            let is_done = match self.view.project(&project) {
                Ok(state) => self.remind_of(&project, &state).await,
                Err(error) => {
                    tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                    false
                }
            };
            let mut reminders = self.reminders.lock();
            let Some(own) = reminders.get_mut(&number) else { return };
            if is_done {
                own.remove(&project);
            } else {
                own.insert(project, now + LOOK_EVERY);
            }
        }
    }

    /// Whether nothing of the project is left to be told.
    async fn remind_of(&self, project: &ProjectId, state: &ProjectState) -> bool {
        let untold = Untold::of(state, clock::now());
        for (turn, connector) in &untold.due {
            if let Some(body) = report(state, *turn, connector) {
                let name = body.name();
                if let Err(error) = self.send_own(project, body).await {
                    tracing::warn!(%error, command = name, "a reminder was not sent; later again");
                }
            }
        }
        untold == Untold::default()
    }

    /// Sends a command of this program's own.
    pub(super) async fn send_own(
        &self,
        project: &ProjectId,
        body: CommandBody,
    ) -> Result<(), ProduceError> {
        let command = Command {
            id: CommandId::from_uuid(Uuid::now_v7()),
            project: project.clone(),
            actor: Some(OWN_ACTOR.to_owned()),
            body,
        };
        let value = self.codec.encode(TopicKind::Commands, command.to_json());
        let record = Outgoing {
            topic: &self.topics.name(TopicKind::Commands),
            partition: None,
            key: project.as_str().as_bytes(),
            value: Some(&value),
            headers: Vec::new(),
        };
        self.producer.send(&record).await.map(|_| ())
    }
}

/// The report that was not told, once more.
fn report(state: &ProjectState, turn: Turn, id: &ConnectorId) -> Option<CommandBody> {
    let connector = id.clone();
    let outage = state.connectors.get(id)?.health.outage.as_ref()?;
    Some(match turn {
        Turn::Failing => CommandBody::Failing {
            connector,
            reason: outage.reason.clone(),
            since: outage.since,
            if_version: None,
        },
        Turn::Recovered => CommandBody::Recovered { connector },
    })
}
