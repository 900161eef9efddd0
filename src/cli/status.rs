//! `dunmore status`: how the service is, on one screen of 80 columns and 24 lines.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::Method;
use url::Url;

use super::{
    Common, Said,
    cards::{WIDTH, one_line},
    lag::{left, open, since, waiting},
    load,
    output::{self, Output, span},
    reading, start_logs,
    watch::count,
};
use crate::{
    clock::Timestamp,
    destination::{Request, cut},
    operations::{Failing, InstanceFacts, Status, TopicLag},
    outbound::OperatorClient,
};

/// How long an instance may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Topics that are shown.
const MAX_TOPICS: usize = 4;
/// Reasons that are shown on a line.
const MAX_REASONS: usize = 6;
/// Lines about what was left out.
const MAX_LEFT_OUT: usize = 2;
/// Where the words of a line begin.
const INDENT: usize = 11;

#[derive(Args, Debug)]
pub struct StatusFlags {
    /// The admin port of an instance, which tells whether it is ready and which circuits are open;
    /// `admin.listen` unless it is said.
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// How far back failing connectors are looked for.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    within: Duration,
    /// How many failing connectors are shown.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=100))]
    top: u16,
}

/// `dunmore status`
pub async fn run(common: &Common, flags: StatusFlags) -> anyhow::Result<()> {
    start_logs(common, "off")?;
    let config = load(common)?;
    let operations = reading(&config)?;
    let address = flags.admin.unwrap_or_else(|| reachable(config.admin.listen).to_string());
    let status = operations.status(flags.within, flags.top.into(), ask(&address)).await;
    if common.output == Output::Json {
        output::json(&status)?;
    } else {
        for line in lines(&status, &config.topics.prefix) {
            output::line(&line);
        }
    }
    // Without the brokers there is nothing to tell.
    let is_known = status.instances.is_some() || status.topics.is_some();
    if is_known { Ok(()) } else { Err(Said.into()) }
}

/// Where an address that is listened on can be reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks an instance how it is.
async fn ask(address: &str) -> Result<InstanceFacts, String> {
    let unknown = |why: &str| {
        format!(
            "readiness and open circuits: no instance at {address} ({why}); name the admin port of \
             one with --admin HOST:PORT"
        )
    };
    let client = OperatorClient::new(None)?;
    let get = async |path: &str| {
        let url = Url::parse(&format!("http://{address}{path}")).map_err(|e| e.to_string())?;
        let (headers, body) = (Vec::new(), Bytes::new());
        let request = Request { method: Method::GET, url, headers, body };
        let answer = client.send(request, ANSWER, MAX_ANSWER_BYTES).await;
        answer.map(|answer| answer.body).map_err(|error| error.to_string())
    };
    let (ready, metrics) = tokio::join!(get("/readyz"), get("/metrics"));
    let (ready, metrics) = (ready.map_err(|why| unknown(&why))?, metrics.map_err(|e| unknown(&e))?);
    let facts = InstanceFacts::read(address, &ready, &String::from_utf8_lossy(&metrics));
    facts.ok_or_else(|| unknown("something else answers there"))
}

/// The screen. Topics are named without their prefix.
fn lines(status: &Status, prefix: &str) -> Vec<String> {
    let mut lines = vec![cut(&one_line(&format!("{} {}", status.at, status.group)), WIDTH)];
    let mut say = |name: &str, words: &str| {
        let words = cut(&one_line(words), WIDTH - INDENT);
        lines.push(format!("{name:<INDENT$}{words}").trim_end().to_owned());
    };
    say("instances", &instances(status));
    if let Some(facts) = &status.instance {
        for words in facts.failure.iter().chain(&facts.waiting_for).chain(&facts.warnings).take(2) {
            say("", words);
        }
    }
    if let Some(topics) = &status.topics {
        for (number, words) in behind(topics, prefix).iter().enumerate() {
            say(if number == 0 { "behind" } else { "" }, words);
        }
    }
    if let Some(suspended) = &status.suspended {
        let all: u64 = suspended.iter().map(|one| one.count).sum();
        let each = suspended.iter().map(|one| (format!("{} {}", one.kind, one.reason), one.count));
        say("suspended", &counted(all, each));
    }
    if let Some(facts) = &status.instance {
        for (name, by_type) in [("held", &facts.held), ("circuits", &facts.open_circuits)] {
            let each = by_type.iter().map(|(kind, count)| (kind.clone(), *count));
            say(name, &counted(by_type.values().sum(), each));
        }
    }
    if let Some(dead) = &status.dead_letters {
        let mut reasons: Vec<(String, u64)> = dead.reasons.clone().into_iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        say("dead", &counted(dead.waiting, reasons.into_iter()));
    }
    if let Some(failing) = &status.failing {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let within = span(status.failing_within_seconds as f64);
        let none = if failing.is_empty() { "none " } else { "" };
        say("failing", &format!("{none}in the last {within}"));
        for one in failing {
            lines.extend(failure(one, status.at));
        }
    }
    let more = status.left_out.len().saturating_sub(MAX_LEFT_OUT);
    for words in status.left_out.iter().take(MAX_LEFT_OUT) {
        lines.push(cut(&one_line(&format!("left out: {words}")), 2 * WIDTH));
    }
    if more > 0 {
        lines.push(format!("left out: {more} more (--output json)"));
    }
    lines
}

fn instances(status: &Status) -> String {
    let members = status.instances.as_ref().map_or_else(
        || "not known".to_owned(),
        |found| format!("{} deliver, {} decide commands", found.delivery, found.registrar),
    );
    match &status.instance {
        Some(facts) => {
            let state = if facts.ready { "is ready" } else { "is not ready" };
            format!("{members}; {} {state}", facts.address)
        }
        None => members,
    }
}

/// What waits where; topics in which nothing waits are not named.
fn behind(topics: &[TopicLag], prefix: &str) -> Vec<String> {
    let waits = topics.iter().filter(|topic| topic.waiting > 0);
    let mut words: Vec<String> = waits
        .map(|topic| {
            let facts = [waiting(topic), since(topic), left(topic)];
            let facts: Vec<&str> =
                facts.iter().map(String::as_str).filter(|fact| !fact.is_empty()).collect();
            let name = topic.topic.strip_prefix(prefix).unwrap_or(&topic.topic);
            format!("{name}: {}", facts.join(", "))
        })
        .collect();
    words.extend(topics.iter().filter(|topic| topic.behind_open_transaction > 0).map(open));
    if words.is_empty() {
        return vec!["nothing waits".to_owned()];
    }
    if words.len() > MAX_TOPICS {
        let more = words.len() - MAX_TOPICS + 1;
        words.truncate(MAX_TOPICS - 1);
        words.push(format!("and in {more} more: dunmore lag"));
    }
    words
}

/// A sum and what it is made of, the largest first.
fn counted(all: u64, each: impl Iterator<Item = (String, u64)>) -> String {
    if all == 0 {
        return "none".to_owned();
    }
    let each: Vec<(String, u64)> = each.collect();
    let shown = each.iter().take(MAX_REASONS);
    let mut words: Vec<String> =
        shown.map(|(name, number)| format!("{name} {}", count(*number))).collect();
    if each.len() > MAX_REASONS {
        words.push(format!("{} more", each.len() - MAX_REASONS));
    }
    format!("{}: {}", count(all), words.join(", "))
}

/// A connector that fails: its ids whole, and what its destination said last.
fn failure(one: &Failing, now: Timestamp) -> [String; 2] {
    let id = one_line(&format!("{}/{}", one.project_id, one.connector_id));
    let first = format!("  {id} ({})", one_line(&one.connector_type));
    let ago = span(now.since(one.last.at).as_secs_f64());
    let status = one.last.status.map_or_else(String::new, |status| format!("HTTP {status}: "));
    let detail = one.last.detail.as_deref().unwrap_or_else(|| one.last.reason.as_str());
    let said = if detail.starts_with(&status) { "" } else { &status };
    let words = format!(
        "    {} of {} failed, {ago} ago: {said}{detail}",
        count(one.failed),
        count(one.requests)
    );
    [first, cut(&one_line(&words), WIDTH)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        delivery::Reason,
        operations::{DeadWaiting, Instances, PartitionLag, Suspended},
        replay::Answer,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + second * 1_000)
    }

    fn topic(name: &str, waiting: u64) -> TopicLag {
        TopicLag {
            former_tier: false,
            topic: name.to_owned(),
            group: "dunmore-connectors".to_owned(),
            behind: waiting,
            waiting,
            behind_open_transaction: 0,
            oldest_at: Some(at(-40)),
            lag_seconds: Some(40.0),
            per_second: Some(100.0),
            #[expect(clippy::cast_precision_loss, reason = "a figure")]
            seconds_left: Some(waiting as f64 / 100.0),
            partitions: Vec::<PartitionLag>::new(),
        }
    }

    /// As much as there can be.
    fn worst() -> Status {
        let failing = (0..4).map(|number| Failing {
            project_id: "proj_01JD0000000000000000000000".to_owned(),
            connector_id: format!("conn_01JD000000000000000000000{number}"),
            connector_type: "slack".to_owned(),
            failed: 1_000,
            requests: 2_000,
            last: Answer {
                at: at(-40),
                status: Some(503),
                reason: Reason::ServerError,
                detail: Some("upstream\u{1b}[2J ".repeat(20)),
                to_this: false,
            },
        });
        let suspended = ["slack", "xero", "email", "teams", "ga4", "n8n", "make"];
        let reasons = Reason::ALL.iter().take(9).map(|reason| (reason.to_string(), 77));
        let reasons: BTreeMap<String, u64> = reasons.collect();
        Status {
            at: at(0),
            group: "dunmore-connectors".to_owned(),
            instances: Some(Instances { delivery: 3, registrar: 2, hosts: Vec::new() }),
            instance: Some(InstanceFacts {
                address: "127.0.0.1:9464".to_owned(),
                ready: false,
                waiting_for: vec!["the view to catch up".to_owned()],
                warnings: vec!["x".repeat(300), "y".to_owned()],
                failure: None,
                open_circuits: BTreeMap::from([("slack".to_owned(), 2), ("xero".to_owned(), 1)]),
                held: BTreeMap::from([("n8n".to_owned(), 3_001)]),
                suspended: Vec::new(),
            }),
            topics: Some((0..9).map(|n| topic(&format!("dunmore.topic.{n}"), 12_345)).collect()),
            suspended: Some(
                suspended
                    .iter()
                    .map(|kind| Suspended {
                        kind: (*kind).to_owned(),
                        reason: "http_404".to_owned(),
                        count: 3,
                    })
                    .collect(),
            ),
            dead_letters: Some(DeadWaiting { waiting: 857, reasons, not_read: 9 }),
            failing: Some(failing.collect()),
            failing_within_seconds: 900,
            left_out: (0..5).map(|n| format!("part {n}: {}", "z".repeat(30))).collect(),
        }
    }

    #[test]
    fn it_is_one_screen_whatever_there_is_to_tell() {
        let told = lines(&worst(), "dunmore.");
        assert!(told.len() <= 24, "{} lines\n{}", told.len(), told.join("\n"));
        for line in &told {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn nothing_wrong_is_said_in_few_words() {
        let quiet = Status {
            instance: None,
            topics: Some(vec![topic("dunmore.payments.events", 0)]),
            suspended: Some(Vec::new()),
            dead_letters: Some(DeadWaiting::default()),
            failing: Some(Vec::new()),
            left_out: Vec::new(),
            ..worst()
        };
        insta::assert_snapshot!(lines(&quiet, "dunmore.").join("\n"));
    }
}
