//! What a decision looks at first: the version that its sender means, and what this release knows.

use super::{Connector, Problem, ProblemCode};

/// The next version; or the present one where the two differ in nothing that their owner sees.
pub(super) fn unless_same(connector: &Connector, next: Connector) -> Connector {
    let Connector { updated_at, version, ref command_id, .. } = *connector;
    let same = Connector { updated_at, version, command_id: command_id.clone(), ..next.clone() };
    if same == *connector { same } else { next }
}

/// The sender looked at a version of the connector and means no later one.
pub(super) fn check_version(connector: &Connector, if_version: Option<i64>) -> Result<(), Problem> {
    if if_version.is_none_or(|version| version >= connector.version) {
        return Ok(());
    }
    Err(Problem::new(
        ProblemCode::ConnectorChanged,
        format!(
            "Connector {} has changed since you looked at it. Look again and repeat what you want.",
            connector.key.connector
        ),
    ))
}

/// What a later version of this program wrote cannot be checked together with what is given.
pub(super) fn check_known(connector: &Connector) -> Result<(), Problem> {
    let Some(words) = connector.later.unusable() else { return Ok(()) };
    Err(Problem::new(
        ProblemCode::Conflict,
        format!(
            "Connector {} can only be switched on and off, suspended, resumed and deleted here: \
             {words}.",
            connector.key.connector
        ),
    ))
}
