//! `dunmore schemas`.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Common, Said, Usage, load,
    output::{self, Output},
    start_logs,
};
use crate::{
    codec::{Check, RecordKind, RegistryClient, kind_of, schemas::Schemas, subject},
    config::Config,
    kafka::{TopicKind, Topics},
};

#[derive(Subcommand, Debug)]
pub enum SchemasCommand {
    /// Register the schemas of all topics; what is registered already stays as it is.
    #[command(
        after_help = "Example:\n  DUNMORE_SCHEMA_REGISTRY__URL=http://localhost:8081 dunmore schemas register"
    )]
    Register,
    /// Say whether the registry has the schemas, or would take them; exit code 1 when it would not.
    /// With --file, the same for a schema of your own, and whether this program reads what is
    /// written with it.
    #[command(
        after_help = "Examples:\n  dunmore schemas check\n  dunmore schemas check --file payment-event.avsc"
    )]
    Check {
        /// A schema of your own (.avsc).
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// What is written with it.
        #[arg(long, default_value = "event", value_parser = record, value_name = "NAME")]
        record: RecordKind,
    },
    /// Print a schema, to generate code from or to build upon.
    #[command(after_help = "Example:\n  dunmore schemas show event > payment-event.avsc")]
    Show {
        /// Which: event, command, state, result, history, delivery-record, dead-letter, attempt.
        #[arg(value_parser = record, value_name = "NAME")]
        record: RecordKind,
    },
}

fn record(name: &str) -> Result<RecordKind, String> {
    RecordKind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
        let all: Vec<&str> = RecordKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("the schemas are {}", all.join(", "))
    })
}

/// What was found out about one subject.
struct Finding {
    subject: String,
    schema: String,
    verdict: String,
    ok: bool,
}

/// `dunmore schemas …`
pub async fn run(common: &Common, command: SchemasCommand) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    if let SchemasCommand::Show { record } = command {
        output::line(record.text().trim_end());
        return Ok(());
    }
    let config = load(common)?;
    let topics = config.topics();
    let found = match command {
        SchemasCommand::Register => register(&client(&config)?, &topics).await?,
        SchemasCommand::Check { file: Some(file), record } => {
            check_file(&config, &topics, &file, record).await?
        }
        _ => check(&client(&config)?, &topics).await?,
    };
    match common.output {
        Output::Json => {
            let rows: Vec<Value> = found
                .iter()
                .map(|f| {
                    json!({ "subject": f.subject, "schema": f.schema, "ok": f.ok, "verdict": f.verdict })
                })
                .collect();
            output::json(&json!({ "schemas": rows }))?;
        }
        Output::Table => output::table(
            ["subject", "schema", "ok", "verdict"],
            found.iter().map(|f| {
                let ok = if f.ok { "yes" } else { "NO" };
                [f.subject.clone(), f.schema.clone(), ok.to_owned(), f.verdict.clone()]
            }),
        ),
    }
    if found.iter().all(|finding| finding.ok) { Ok(()) } else { Err(Said.into()) }
}

fn client(config: &Config) -> anyhow::Result<RegistryClient> {
    let client = RegistryClient::new(&config.schema_registry).map_err(Usage)?;
    client.ok_or_else(|| {
        let help = "schema_registry.url is not set: name the registry in the settings file or in \
                    DUNMORE_SCHEMA_REGISTRY__URL, for example http://localhost:8081";
        Usage(help.to_owned()).into()
    })
}

/// The subjects of the topics that have a schema.
fn subjects(topics: &Topics) -> impl Iterator<Item = (String, RecordKind)> {
    let kinds = topics.all().into_iter();
    kinds.filter_map(|topic| Some((subject(topics, topic), kind_of(topic)?)))
}

async fn register(client: &RegistryClient, topics: &Topics) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (subject, kind) in subjects(topics) {
        let registered = match client.look_up(&subject, kind.text()).await {
            Ok(Some(id)) => Ok(format!("was registered, id {id}")),
            Ok(None) => {
                let id = client.register(&subject, kind.text()).await;
                id.map(|id| format!("registered, id {id}"))
            }
            Err(error) => Err(error),
        };
        let (ok, verdict) = match registered {
            Ok(verdict) => (true, verdict),
            Err(error) => (false, error.to_string()),
        };
        found.push(Finding { subject, schema: kind.name().to_owned(), verdict, ok });
    }
    Ok(found)
}

async fn check(client: &RegistryClient, topics: &Topics) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (subject, kind) in subjects(topics) {
        let (ok, verdict) = standing(client, &subject, kind.text()).await?;
        found.push(Finding { subject, schema: kind.name().to_owned(), verdict, ok });
    }
    Ok(found)
}

/// Whether a subject has this schema, or would take it.
async fn standing(
    client: &RegistryClient,
    subject: &str,
    schema: &str,
) -> anyhow::Result<(bool, String)> {
    match client.look_up(subject, schema).await {
        Ok(Some(id)) => Ok((true, format!("registered, id {id}"))),
        Ok(None) => verdict(client, subject, schema).await,
        Err(error) => Err(anyhow!(error)),
    }
}

async fn verdict(
    client: &RegistryClient,
    subject: &str,
    schema: &str,
) -> anyhow::Result<(bool, String)> {
    Ok(match client.check(subject, schema).await? {
        Check::New => (true, "not registered; the subject is new".to_owned()),
        Check::Compatible => {
            (true, "not registered; compatible with the latest version".to_owned())
        }
        Check::Incompatible(why) => (false, format!("incompatible with the latest version: {why}")),
    })
}

/// Whether all that is written with this schema can be read as records of the kind, by Avro's own
/// rules.
fn readable(theirs: &Schemas, kind: RecordKind) -> Result<(), String> {
    match SchemaCompatibility::can_read(&theirs.root, &kind.schema().root) {
        Ok(Compatibility::Full) => Ok(()),
        // A union of which one branch fits is compatible in part.
        Ok(Compatibility::Partial) => Err("not all of its records, by Avro's rules of \
             resolution: a branch of a union (such as a record within `data`) or a symbol does \
             not fit; compare with `dunmore schemas show`"
            .to_owned()),
        Err(error) => Err(format!("not by Avro's rules of resolution: {error}")),
    }
}

async fn check_file(
    config: &Config,
    topics: &Topics,
    file: &std::path::Path,
    kind: RecordKind,
) -> anyhow::Result<Vec<Finding>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let theirs = Schemas::of_writer(&text, &[]).map_err(|error| anyhow!("{name}: {error}"))?;
    let (ok, verdict_here) = match readable(&theirs, kind) {
        Ok(()) => (true, "its records are read".to_owned()),
        Err(error) => (false, error),
    };
    let mut found = vec![Finding {
        subject: format!("this program's {}", kind.name()),
        schema: name.clone(),
        verdict: verdict_here,
        ok,
    }];
    if let Some(client) = RegistryClient::new(&config.schema_registry).map_err(Usage)? {
        let of_kind = |topic: &TopicKind| kind_of(*topic) == Some(kind);
        for topic in topics.all().into_iter().filter(of_kind) {
            let subject = subject(topics, topic);
            let (ok, verdict) = standing(&client, &subject, &text).await?;
            found.push(Finding { subject, schema: name.clone(), verdict, ok });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_readable_as_a_whole_or_not_at_all() {
        for &kind in RecordKind::ALL {
            assert_eq!(readable(kind.schema(), kind), Ok(()), "{}", kind.name());
        }
        let mut event: Value = serde_json::from_str(RecordKind::Event.text()).unwrap();
        let settled = &mut event["fields"][4]["type"][1]["fields"];
        settled.as_array_mut().unwrap().push(json!({"name": "memo", "type": "string"}));
        let more = Schemas::parse(&event.to_string(), &[]).unwrap();
        assert_eq!(readable(&more, RecordKind::Event), Ok(()));
        // An amount that is a float is wrong in one record of eight.
        event["fields"][4]["type"][1]["fields"][3]["type"] = json!("double");
        let float = Schemas::parse(&event.to_string(), &[]).unwrap();
        assert!(readable(&float, RecordKind::Event).unwrap_err().contains("a branch of a union"));
    }
}
