//! Names that an operator gives: which of them exist, and which is meant where one does not.

use super::{NotThere, Operations};
use crate::{
    id::{ConnectorKey, ProjectId},
    replay::{ConnectorName, Connectors, DeadFilter, History, Position, Selection},
};

/// The farthest that a name may be from what was written to be suggested.
const MAX_DISTANCE: usize = 4;

/// `; did you mean …?` with the name that is nearest to what was written, if one is near.
pub(super) fn did_you_mean<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> String {
    // Of short names, one that is completely different is not near.
    let most = MAX_DISTANCE.min(written.chars().count() / 2);
    let nearest = known
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .min()
        .filter(|(distance, _)| *distance <= most);
    nearest.map_or_else(String::new, |(_, name)| format!("; did you mean {name}?"))
}

/// Fails when a project or a connector is named that is not there.
pub(super) fn check_names(
    projects: &[ProjectId],
    names: &[ConnectorName],
    connectors: &Connectors,
) -> Result<(), NotThere> {
    for project in projects {
        if !connectors.has_project(project) {
            let hint = did_you_mean(project.as_str(), connectors.projects());
            return Err(NotThere(format!("there is no project {project}{hint}")));
        }
    }
    for name in names {
        if connectors.all().any(|connector| name.means(&connector.key)) {
            continue;
        }
        let written = name.to_string();
        let known: Vec<String> = connectors
            .all()
            .map(|connector| {
                if written.contains('/') {
                    connector.key.to_string()
                } else {
                    connector.key.connector.to_string()
                }
            })
            .collect();
        let hint = did_you_mean(&written, known.iter().map(String::as_str));
        let what = if connectors.deleted().any(|key| name.means(key)) { "any more" } else { "" };
        let why = format!("there is no connector {name} {what}");
        return Err(NotThere(format!("{}{hint}", why.trim_end())));
    }
    Ok(())
}

impl Operations {
    /// Fails when a selection names a project or a connector that is not there; one that was
    /// deleted is there as long as the attempts tell of it.
    pub(super) fn check_selection(
        selection: &Selection,
        connectors: &Connectors,
        history: Option<&History>,
    ) -> Result<(), NotThere> {
        let gone: Vec<ConnectorKey> =
            history.into_iter().flat_map(History::connectors).map(|(key, _)| key).collect();
        let is_unknown = |name: &&ConnectorName| !gone.iter().any(|key| name.means(key));
        let names: Vec<ConnectorName> =
            selection.connectors.iter().filter(is_unknown).cloned().collect();
        check_names(&selection.projects, &names, connectors)
    }

    /// Fails when a filter that takes nothing names what is not there. Blocks.
    pub fn check_found(
        &self,
        projects: &[ProjectId],
        names: &[ConnectorName],
    ) -> anyhow::Result<()> {
        if projects.is_empty() && names.is_empty() {
            return Ok(());
        }
        Ok(check_names(projects, names, &self.connectors()?)?)
    }

    /// Fails when a position is named at which there is no dead letter. Blocks.
    pub(super) fn check_positions(&self, positions: &[Position]) -> anyhow::Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let filter = DeadFilter { positions: positions.to_vec(), ..DeadFilter::default() };
        let mut found = std::collections::BTreeSet::new();
        self.each_letter(&filter, |letter| {
            found.insert(letter.position);
            std::ops::ControlFlow::Continue(())
        })?;
        match positions.iter().find(|position| !found.contains(position)) {
            // The error of a single letter says what is there instead.
            Some(missing) => self.dead_letter(*missing).map(|_| ()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let known = ["conn_slack", "conn_bq", "proj_1"];
        let told = |written| did_you_mean(written, known.into_iter());
        assert_eq!(told("conn_slak"), "; did you mean conn_slack?");
        assert_eq!(told("proj_2"), "; did you mean proj_1?");
        assert_eq!(told("something_else"), "");
        assert_eq!(told("x"), "");
        assert_eq!(did_you_mean("conn_1", std::iter::empty()), "");
    }
}
