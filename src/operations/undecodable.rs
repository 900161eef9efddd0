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
    kafka::{Bounds, Record, Seen, Span, Spans, TopicKind, Verbatim},
    replay::{DeadFilter, DeadLetter, Letter, Position},
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
    /// Its key, in Base64: it may be any bytes, and null is none.
    pub key: Option<String>,
    /// Its own headers.
    pub headers: SidecarHeaders,
}

/// A record's headers beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SidecarHeaders {
    /// Each in its place: names may repeat, values may be null.
    List(Vec<SidecarHeader>),
    /// As the first release wrote them: values in Base64.
    Map(BTreeMap<String, String>),
}

/// A header of a record.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarHeader {
    name: String,
    /// In Base64.
    value: Option<String>,
}

/// A record's headers with their values as bytes.
type Headers = Vec<(String, Option<Vec<u8>>)>;

impl SidecarHeaders {
    fn of(headers: &[(String, Option<Bytes>)]) -> Self {
        let header = |(name, value): &(String, Option<Bytes>)| SidecarHeader {
            name: name.clone(),
            value: value.as_ref().map(|value| STANDARD.encode(value)),
        };
        Self::List(headers.iter().map(header).collect())
    }

    fn read(&self) -> anyhow::Result<Headers> {
        let decode = |name: &str, value: &str| {
            STANDARD.decode(value).with_context(|| format!("header {name} is not Base64"))
        };
        match self {
            Self::List(list) => list
                .iter()
                .map(|header| {
                    let value = header.value.as_deref();
                    let value = value.map(|value| decode(&header.name, value)).transpose()?;
                    Ok((header.name.clone(), value))
                })
                .collect(),
            Self::Map(map) => map
                .iter()
                .map(|(name, value)| Ok((name.clone(), Some(decode(name, value)?))))
                .collect(),
        }
    }
}

/// What of a record is needed to write it again.
struct Original {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
}

/// A record written back.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reinjected {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that it has now.
    pub offset: i64,
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
            let record = self.original(&letter, seen);
            let value = record.value.as_deref().unwrap_or_default();
            let sidecar = Sidecar {
                position: letter.position.to_string(),
                reason: letter.reason,
                detail: letter.detail,
                source_topic: letter.source_topic,
                source_partition: letter.source_partition,
                source_offset: letter.source_offset,
                key: record.key.as_ref().map(|key| STANDARD.encode(key)),
                headers: SidecarHeaders::of(&record.headers),
            };
            let name = format!("{}-{}", letter.position.partition, letter.position.offset);
            let file = folder.join(format!("{name}.bin"));
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

    /// The record of a dead letter as it was. A letter shows null keys, values and headers as empty
    /// ones: where there are such, the record is looked up where it came from, if it is still there.
    fn original(&self, letter: &DeadLetter, seen: &Seen<'_>) -> Original {
        let headers = seen.nullable_headers().into_iter();
        let headers = headers.filter(|(name, _)| !name.starts_with("dunmore-")).collect();
        let record = seen.copy();
        let kept = Original { key: record.key, value: record.value, headers };
        let is_empty = |bytes: &Option<Bytes>| bytes.as_ref().is_some_and(Bytes::is_empty);
        let is_in_doubt = is_empty(&kept.key)
            || is_empty(&kept.value)
            || kept.headers.iter().any(|(_, value)| is_empty(value));
        if is_in_doubt { self.source_of(letter).unwrap_or(kept) } else { kept }
    }

    fn source_of(&self, letter: &DeadLetter) -> Option<Original> {
        let topic = letter.source_topic.as_str();
        if !self.topics.all().into_iter().any(|kind| self.topics.name(kind) == topic) {
            return None;
        }
        let bounds = Bounds::of(&self.connection, topic).ok()?;
        let (partition, offset) = (letter.source_partition, letter.source_offset);
        let whole = bounds.whole().get(&partition)?;
        if offset < whole.from || offset >= whole.to {
            return None;
        }
        let span = Span { from: offset, to: offset + 1 };
        let mut found = None;
        let read = self.scan(topic, &Spans::from([(partition, span)]), |seen| {
            let record = seen.copy();
            let headers = seen.nullable_headers();
            found = Some(Original { key: record.key, value: record.value, headers });
            ControlFlow::Break(())
        });
        // A topic that was made anew has another record there.
        let is_same = |found: &Original| match &letter.letter {
            Letter::Raw(bytes) => {
                bytes.is_empty() || found.value.as_deref().unwrap_or_default() == bytes
            }
            Letter::Delivery(_) => false,
        };
        read.ok().and(found).filter(is_same)
    }

    /// The dead letters of exported records that were written back or redriven already. Blocks.
    pub fn reinjected(&self, files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        let marks = self.marks(None)?;
        let mut again = Vec::new();
        for file in files {
            let position = read_sidecar(file)?.position;
            if marks.has(position.parse().map_err(anyhow::Error::msg)?) {
                again.push(file.clone());
            }
        }
        Ok(again)
    }

    /// Writes an exported record back to where it came from, when it can be read now, and marks the
    /// dead letter as redriven. Returns where it is now.
    pub async fn reinject(&self, file: &Path) -> anyhow::Result<Reinjected> {
        let sidecar = read_sidecar(file)?;
        let value = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let position: Position = sidecar.position.parse().map_err(anyhow::Error::msg)?;
        let key = sidecar.key.as_deref().map(|key| STANDARD.decode(key)).transpose();
        let key = key.context("the key in the sidecar is not Base64")?;
        let headers = sidecar.headers.read()?;
        let own = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default().into()));
        self.check_repaired(&sidecar.source_topic, &value, own.collect())
            .await
            .with_context(|| format!("{} is not repaired", file.display()))?;
        let record = Verbatim {
            topic: &sidecar.source_topic,
            partition: sidecar.source_partition,
            key: key.as_deref(),
            value: Some(&value),
            headers: &headers,
        };
        let mut writer = self.writer(1.0)?;
        let (partition, offset) = writer.verbatim(&record).await?;
        let note = Self::note_of(&format!("reinjected-{position}"), &[position.offset])?;
        writer.note(&self.note_record(position.partition, &note)).await?;
        Ok(Reinjected { topic: sidecar.source_topic, partition, offset })
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
            TopicKind::Notices => {
                self.codec.notice(&Record::unwritten(value.clone(), headers)).map_err(refused)?;
            }
            TopicKind::Retry(_) | TopicKind::Replay | TopicKind::Held => {
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

fn read_sidecar(file: &Path) -> anyhow::Result<Sidecar> {
    let sidecar = file.with_extension("json");
    let text = fs::read_to_string(&sidecar).with_context(|| {
        format!("cannot read {}, which must lie beside {}", sidecar.display(), file.display())
    })?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not as it was exported", sidecar.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_keeps_headers_that_repeat_and_values_that_are_null() {
        let headers = vec![
            ("a".to_owned(), Some(Bytes::from_static(b"\xff"))),
            ("a".to_owned(), None),
            ("b".to_owned(), Some(Bytes::new())),
        ];
        let json = serde_json::to_string(&SidecarHeaders::of(&headers)).unwrap();
        let read = serde_json::from_str::<SidecarHeaders>(&json).unwrap().read().unwrap();
        let same = headers.into_iter().map(|(name, value)| (name, value.map(|v| v.to_vec())));
        assert_eq!(read, same.collect::<Vec<_>>());
    }

    #[test]
    fn a_sidecar_of_the_first_release_is_read() {
        let text = r#"{"position":"1:7","reason":"undecodable","detail":"","sourceTopic":"t",
            "sourcePartition":1,"sourceOffset":3,"key":"cHJval8x","headers":{"a":"eA=="}}"#;
        let sidecar: Sidecar = serde_json::from_str(text).unwrap();
        assert_eq!(sidecar.key.as_deref(), Some("cHJval8x"));
        assert_eq!(sidecar.headers.read().unwrap(), [("a".to_owned(), Some(b"x".to_vec()))]);
    }
}
