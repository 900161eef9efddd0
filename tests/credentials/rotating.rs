//! Refresh tokens that change with each use: one renewal for all instances, invisible to the owner.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, TENANT, World,
    stage::{Answer, connectors},
};

/// How long something is waited for that is known to come.
const PATIENCE: Duration = Duration::from_secs(60);

fn xero() -> Value {
    json!({ "tenantId": TENANT, "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET,
        "refreshToken": REFRESH_TOKEN })
}

fn quickbooks() -> Value {
    json!({ "realmId": "9130347798120106", "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET,
        "refreshToken": REFRESH_TOKEN })
}

impl World {
    async fn get(&self, id: &str) -> Answer {
        let path = format!("{}/{id}", connectors("proj_a"));
        self.client().send("GET", &path, &[], None).await.is(200)
    }

    async fn patch(&self, id: &str, config: &Value) {
        let path = format!("{}/{id}", connectors("proj_a"));
        self.client().json("PATCH", &path, &[], &json!({ "config": config })).await.is(200);
    }

    /// Waits until a sample event is delivered.
    async fn delivers(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        let path = format!("{}/{id}/test", connectors("proj_a"));
        loop {
            let answer = self.client().send("POST", &path, &[], None).await;
            // Trials of one connector are few.
            if answer.status != 429 {
                let trial = answer.is(200).body;
                if trial["verdict"] == "delivered" {
                    return;
                }
                assert_eq!(trial["reason"], "unauthorized", "{trial}");
            }
            assert!(Instant::now() < until, "not delivered");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn refreshed(&self, kind: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.sandbox.refreshed(kind) < times {
            assert!(Instant::now() < until, "{} of {times}", self.sandbox.refreshed(kind));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_keeper_renews_for_all_instances_and_the_owner_sees_no_change() {
    let Some(world) = World::start().await else { return };
    let other = world.another().await;
    // Used ones are not taken again, so a second caller would lose the account.
    for (kind, config) in [("xero", xero()), ("quickbooks", quickbooks())] {
        world.sandbox.refresh_grace(kind, Duration::ZERO);
        world.sandbox.token_life(kind, Duration::from_secs(10));
        let id = world.create(kind, &config).await;
        let created = world.get(&id).await;
        let began = Instant::now();
        world.delivers(&id).await;
        world.refreshed(kind, 3).await;
        world.delivers(&id).await;
        // Each life is ten seconds; the first begins at once.
        let lives = began.elapsed().as_secs() / 6 + 1;
        let refreshed = world.sandbox.refreshed(kind);
        assert!((3..=usize::try_from(lives).unwrap()).contains(&refreshed), "{refreshed}");
        let now = world.get(&id).await;
        assert_eq!((now.header("etag"), &now.body), (created.header("etag"), &created.body));
        // Nothing but renewals was asked for, and each with the newest token.
        let refused = world.sandbox.requests(kind).into_iter().filter(|r| r.status == 400).count();
        assert_eq!(refused, 0);
    }
    other.stop().await;
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_goes_on_with_the_newest_token() {
    let Some(world) = World::start().await else { return };
    world.sandbox.refresh_grace("xero", Duration::ZERO);
    world.sandbox.token_life("xero", Duration::from_secs(10));
    let id = world.create("xero", &xero()).await;
    world.delivers(&id).await;
    for _ in 0..2 {
        let other = world.another().await;
        let before = world.sandbox.refreshed("xero");
        world.refreshed("xero", before + 1).await;
        // Gracefully: what it has begun is finished.
        other.stop().await;
        let before = world.sandbox.refreshed("xero");
        world.refreshed("xero", before + 1).await;
    }
    world.delivers(&id).await;
    assert_eq!(world.get(&id).await.body.get("suspendedReason"), None);
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_refresh_token_suspends_once_and_a_new_one_mends_it() {
    let Some(world) = World::start().await else { return };
    world.sandbox.connect("xero", "another-refresh-token");
    let id = world.create("xero", &xero()).await;
    let until = Instant::now() + PATIENCE;
    let reason = loop {
        if let Some(reason) = world.get(&id).await.body["suspendedReason"].as_str() {
            break reason.to_owned();
        }
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(reason.contains("reconnect") && reason.contains("invalid_grant"), "{reason}");
    assert_eq!(world.sandbox.token_calls("xero"), 1, "not repeated in silence");
    world.patch(&id, &json!({ "refreshToken": "another-refresh-token" })).await;
    world.delivers(&id).await;
    assert_eq!(world.sandbox.token_calls("xero"), 2);
    // Given again by a tool that gives all settings each time: the chain goes on.
    world
        .patch(
            &id,
            &json!({ "refreshToken": "another-refresh-token", "contactName": "API customers" }),
        )
        .await;
    world.delivers(&id).await;
    assert_eq!(world.sandbox.refreshed("xero"), 1);

    // No token is in plain in any topic.
    let records = every_record(&world.bootstrap, &world.prefix);
    assert!(records["connectors.state"].contains("rotatedRefreshToken"));
    assert!(records["connectors.commands"].contains("connector.renewed"));
    assert!(!records["connectors.history"].contains("connector.renew"));
    for (topic, text) in &records {
        for secret in ["minted-", "refresh-xero", REFRESH_TOKEN, "another-refresh", CLIENT_SECRET] {
            assert!(!text.contains(secret), "{secret} in {topic}");
        }
    }
    world.instance.stop().await;
}

/// All that is in the topics of a prefix, by topic.
fn every_record(bootstrap: &str, prefix: &str) -> BTreeMap<String, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("{prefix}canary"))
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)) {
        for partition in topic.partitions() {
            list.add_partition_offset(topic.name(), partition.id(), Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&list).unwrap();
    let (mut left, mut texts) = (list.count(), BTreeMap::<String, String>::new());
    while left > 0 {
        match consumer.poll(PATIENCE).unwrap() {
            Ok(message) => {
                let topic = message.topic().trim_start_matches(prefix).to_owned();
                let text = texts.entry(topic).or_default();
                text.push_str(&String::from_utf8_lossy(message.payload().unwrap_or_default()));
            }
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => left -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    texts
}
