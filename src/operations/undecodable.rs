//! Records that could not be read: out of the dead letters into files, byte for byte, and back to
//! where they came from when they are repaired.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Operations;
use crate::{
    codec::{ReadError, RecordKind},
    connector::Command,
    delivery::DeliveryRecord,
    kafka::{Outgoing, Record, TopicKind},
    replay::{DeadFilter, NOTE, NOTE_REDRIVEN, Position, RedrivenNote},
};

/// What belongs to an exported record beside its value: `POSITION.json` beside `POSITION.bin`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sidecar {
    /// Where the dead letter is.
    pub position: String,
    /// Why it is one.
    pub reason: String,
    /// In words.
    pub detail: String,
    /// The topic that it came from.
    pub source_topic: String,
    /// Its partition there.
    pub source_partition: i32,
    /// Its offset there.
    pub source_offset: i64,
    /// Its key, in Base64: it may be any bytes.
    pub key: String,
    /// Its own headers, values in Base64.
    pub headers: BTreeMap<String, String>,
}

/// What was exported.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// The files that hold the values.
    pub files: Vec<PathBuf>,
}

impl Operations {
    /// Writes the records that could not be read, of those that a filter takes, into a folder.
    /// Nothing that is there already is overwritten. Blocks.
    pub fn export(&self, filter: &DeadFilter, folder: &Path) -> anyhow::Result<Exported> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let spans = self.dead_spans(filter)?;
        let mut files = Vec::new();
        let mut failure = Ok(());
        let unanswered = self.unanswered();
        self.scan(&self.topic(TopicKind::Dead), &spans, |seen| {
            let Some(letter) = self.letter(seen).filter(|letter| filter.takes(letter)) else {
                return ControlFlow::Continue(());
            };
            // One that waits for its schema is not one that cannot be read.
            if letter.delivery().is_some() || self.unanswered() != unanswered {
                return ControlFlow::Continue(());
            }
            let record = seen.copy();
            let own = record.headers.iter().filter(|(key, _)| !key.starts_with("dunmore-"));
            let sidecar = Sidecar {
                position: letter.position.to_string(),
                reason: letter.reason,
                detail: letter.detail,
                source_topic: letter.source_topic,
                source_partition: letter.source_partition,
                source_offset: letter.source_offset,
                key: STANDARD.encode(record.key.as_deref().unwrap_or_default()),
                headers: own.map(|(key, value)| (key.clone(), STANDARD.encode(value))).collect(),
            };
            let name = format!("{}-{}", letter.position.partition, letter.position.offset);
            let file = folder.join(format!("{name}.bin"));
            let value = record.value.as_deref().unwrap_or_default();
            match write_both(&file, value, &folder.join(format!("{name}.json")), &sidecar) {
                Ok(()) => {
                    files.push(file);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failure = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failure?;
        Ok(Exported { files })
    }

    /// Writes an exported record back to where it came from, when it can be read now, and marks the
    /// dead letter as redriven. Returns the topic, the partition and the offset that it has now.
    pub async fn reinject(&self, file: &Path) -> anyhow::Result<String> {
        let sidecar = file.with_extension("json");
        let text = fs::read_to_string(&sidecar).with_context(|| {
            format!("cannot read {}, which must lie beside {}", sidecar.display(), file.display())
        })?;
        let sidecar: Sidecar = serde_json::from_str(&text)
            .with_context(|| format!("{} is not as it was exported", sidecar.display()))?;
        let value = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let position: Position = sidecar.position.parse().map_err(anyhow::Error::msg)?;
        let key = STANDARD.decode(&sidecar.key).context("the key in the sidecar is no Base64")?;
        let mut headers = Vec::new();
        for (name, value) in &sidecar.headers {
            let value = STANDARD.decode(value);
            headers.push((name.as_str(), value.with_context(|| format!("header {name}"))?));
        }
        let own = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into()));
        self.check_repaired(&sidecar.source_topic, &value, own.collect())
            .await
            .with_context(|| format!("{} is not repaired", file.display()))?;
        let record = Outgoing {
            topic: &sidecar.source_topic,
            partition: None,
            key: &key,
            value: Some(&value),
            headers,
        };
        let mut writer = self.writer(1.0)?;
        writer.note(&record).await?;
        let job = format!("reinjected-{position}");
        let note = serde_json::to_vec(&RedrivenNote { job, offsets: vec![position.offset] })?;
        let record = Outgoing {
            topic: &self.topic(TopicKind::Dead),
            partition: Some(position.partition),
            key: b"",
            value: Some(&note),
            headers: vec![(NOTE, NOTE_REDRIVEN.into())],
        };
        writer.note(&record).await?;
        Ok(sidecar.source_topic)
    }

    /// Whether the topic that a record came from would take it now.
    async fn check_repaired(
        &self,
        topic: &str,
        value: &[u8],
        headers: Vec<(String, Bytes)>,
    ) -> anyhow::Result<()> {
        let kinds = self.topics.all();
        let Some(kind) = kinds.into_iter().find(|kind| self.topics.name(*kind) == topic) else {
            bail!("it came from {topic:?}, which is none of this program's topics");
        };
        let value = Bytes::copy_from_slice(value);
        let decode = async |kind: RecordKind| {
            self.codec.decode(kind, &value, || false).await.map_err(refused)
        };
        match kind {
            TopicKind::Events => {
                let record = Record::unwritten(value.clone(), headers);
                self.codec.event(&record, || false).await.map_err(refused)?;
            }
            TopicKind::Retry(_) | TopicKind::Replay => {
                DeliveryRecord::from_json(&decode(RecordKind::Delivery).await?)?;
            }
            TopicKind::Commands => {
                let value = serde_json::from_slice(&decode(RecordKind::Command).await?)?;
                Command::from_value(value).map_err(|refused| anyhow!("{refused:?}"))?;
            }
            _ => bail!("nothing is written back to {topic}"),
        }
        Ok(())
    }
}

fn refused(error: ReadError) -> anyhow::Error {
    match error {
        ReadError::Refused(reason, detail) => anyhow!("{detail} ({reason})"),
        ReadError::GivenUp => anyhow!("the schema registry does not answer"),
    }
}

fn write_both(file: &Path, value: &[u8], beside: &Path, sidecar: &Sidecar) -> anyhow::Result<()> {
    let new = |path: &Path, bytes: &[u8]| {
        let mut file = fs::File::create_new(path)
            .with_context(|| format!("{} is there already or cannot be made", path.display()))?;
        std::io::Write::write_all(&mut file, bytes)
            .with_context(|| format!("cannot write {}", path.display()))
    };
    new(beside, &serde_json::to_vec_pretty(sidecar)?)?;
    new(file, value)
}
