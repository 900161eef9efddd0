//! Opens the view that this instance continues from.

use std::{fs, path::Path, sync::Arc};

use anyhow::anyhow;

use crate::{
    config::Config,
    kafka::{Admin, Bounds, Connection, Identities, REQUEST_TIMEOUT, Reader, TopicKind, Topics},
    metrics::Metrics,
    secrets::Keyring,
    view::View,
};

/// Opens the view, or makes it anew when it does not fit the topic that feeds it.
pub fn open_view(
    config: &Config,
    connection: &Connection,
    topics: &Topics,
    cluster_id: &str,
    keyring: Keyring,
    metrics: &Metrics,
) -> anyhow::Result<Arc<View>> {
    let base_urls = config.base_urls();
    let state = topics.name(TopicKind::State);
    // Of a topic that got more partitions everything is read anew, and looked at whether it fits.
    let partitions = Admin::new(connection)?.partitions(&state)?;
    let identity = format!("{cluster_id} {state} {partitions}");
    let keyring = Arc::new(keyring);
    if let Err(error) = keep_private(&config.data_dir) {
        let data_dir = config.data_dir.display();
        tracing::warn!(%data_dir, %error, "the data folder may be open to other users");
    }
    let facts = Identities::new(connection)?.of(&[state.as_str()], REQUEST_TIMEOUT)?;
    let topic = facts.get(&state).and_then(|facts| facts.id);
    let (mut view, mut rebuilt) =
        View::open(&config.data_dir, &identity, Arc::clone(&keyring), base_urls.clone())?;
    if rebuilt.is_none() {
        let then = view.store().state_topic()?;
        let is_another = matches!((then, topic), (Some(then), Some(now)) if then != now);
        let (connectors, _) = view.counts();
        if is_another && connectors > 0 && is_empty(connection, &state)? {
            return Err(anyhow!(
                "topic {state} was deleted and created anew and is empty, but the view in {} still holds \
                 {connectors} connectors: no event would be delivered any more. Restore the topic; or delete \
                 that folder to begin without connectors",
                config.data_dir.display()
            ));
        }
        if is_another || !fits(&view, connection, topics)? {
            drop(view);
            let (anew, reason) = View::open_anew(&config.data_dir, &identity, keyring, base_urls)?;
            (view, rebuilt) = (anew, Some(reason));
        }
    }
    if let Some(reason) = rebuilt {
        tracing::warn!(reason = reason.as_str(), "the view is rebuilt from Kafka");
        metrics.view_rebuilt(reason.as_str());
    }
    if let Some(topic) = topic {
        view.store().set_state_topic(topic)?;
    }
    Ok(Arc::new(view))
}

/// Whether a topic holds no record and never did.
fn is_empty(connection: &Connection, topic: &str) -> anyhow::Result<bool> {
    Ok(Bounds::of(connection, topic)?.whole().values().all(|span| span.to == 0))
}

/// Whether the state topic still has what the view continues from.
fn fits(view: &View, connection: &Connection, topics: &Topics) -> anyhow::Result<bool> {
    let topic = topics.name(TopicKind::State);
    let partitions = Admin::new(connection)?.partitions(&topic)?;
    let reader = Reader::new(connection, &topic, &std::collections::BTreeMap::new())?;
    for partition in 0..partitions {
        let next = view.position(partition).next_offset;
        let (low, high) = reader.watermarks(partition)?;
        if next > high || (next > 0 && next < low) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Only this program's user may look into its data: folders 0700, files 0600. What it holds is
/// encrypted where it is secret, but shows the projects and their destinations.
fn keep_private(data_dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    // For the files that are made later.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o600))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_data_folder_is_its_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("view")).unwrap();
        fs::write(data.join("view/db"), "x").unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(data.join("view/db"), fs::Permissions::from_mode(0o644)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        keep_private(&data).unwrap();
        assert_eq!((mode(&data), mode(&data.join("view"))), (0o700, 0o700));
        assert_eq!(mode(&data.join("view/db")), 0o600);
        fs::write(data.join("view/later"), "x").unwrap();
        assert_eq!(mode(&data.join("view/later")), 0o600);
        keep_private(&folder.path().join("a/b")).unwrap();
        assert_eq!(mode(&folder.path().join("a/b")), 0o700);
    }
}
