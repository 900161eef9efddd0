//! On the embedded broker, which cannot look up by time, tell the members of a group, or delete.

use std::collections::BTreeMap;

use dunmore_connectors::kafka::{
    Bookmark, Bookmarks, Connection, EmbeddedBroker, MemberError, SoleMember, Topics,
};
use serde_json::{Value, json};

use super::{
    support::{
        events::event,
        kafka::{Kafka, Write},
        serve::bare_command,
    },
    text,
};

fn run(bootstrap: &str, arguments: &[&str]) -> Value {
    let output = bare_command(arguments)
        .args(["--bootstrap-servers", bootstrap, "--output", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_was_just_written_is_found_by_time() {
    let topics = Topics::new("dunmore.", &"5s,6h".parse().unwrap());
    let broker = EmbeddedBroker::start(&topics, 2).unwrap();
    let bootstrap = broker.bootstrap_servers();
    let kafka = Kafka { bootstrap: bootstrap.clone() };
    kafka.write_json(
        "dunmore.payments.events",
        [
            &event("evt_1", "payment.settled", "proj_1"),
            &event("evt_2", "payment.settled", "proj_1"),
        ],
    );
    let attempt = json!({
        "deliveryId": "6a0c1d4e-2a56-5a4b-9f0e-0d9b6f1c2a3b", "projectId": "proj_1",
        "connectorId": "one", "connectorType": "n8n", "eventId": "evt_1",
        "eventType": "payment.settled", "source": "live", "attempt": 1, "outcome": "delivered",
        "at": "2026-11-23T08:00:00.000Z",
    });
    kafka.write("dunmore.deliveries.attempts", [Write::new("proj_1", attempt.to_string())]);
    let story = run(&bootstrap, &["event", "trace", "evt_1"]);
    assert_eq!(story["consumed"].as_array().unwrap().len(), 1, "{story}");
    assert_eq!(story["deliveries"][0]["now"]["where"], "delivered");
    assert_eq!(run(&bootstrap, &["deliveries", "list"])["total"], 1);
    assert_eq!(run(&bootstrap, &["deliveries", "list", "--to", "1 hour ago"])["total"], 0);
    let later = run(&bootstrap, &["replay", "--from", "1 hour ago", "--dry-run"]);
    assert_eq!(later["scan"]["records"], 2);
    let earlier = ["replay", "--from", "2 hours ago", "--to", "1 hour ago", "--dry-run"];
    assert_eq!(run(&bootstrap, &earlier)["scan"]["records"], 0);
}

#[test]
fn a_group_has_one_member_that_keeps_positions() {
    let topics = Topics::new("dunmore.", &"5s,6h".parse().unwrap());
    let broker = EmbeddedBroker::start(&topics, 2).unwrap();
    let connection = Connection::new(broker.bootstrap_servers(), BTreeMap::new());
    let topic = "dunmore.payments.events";
    let join = || SoleMember::join(&connection, "job", topic);
    let first = join().unwrap();
    assert!(!first.may_write(), "nothing has confirmed that it is the member");
    let place = (topic.to_owned(), 1);
    let at =
        |offset| BTreeMap::from([(place.clone(), Bookmark { offset, note: "a note".to_owned() })]);
    first.write(&at(5)).unwrap();
    assert!(first.may_write());
    assert!(matches!(join(), Err(MemberError::Occupied(_))), "a second one is refused");
    // The first one goes on when the second has left.
    first.write(&at(6)).unwrap();
    assert!(first.may_write());
    let kept =
        Bookmarks::new(&connection, "job").unwrap().read(std::slice::from_ref(&place)).unwrap();
    assert_eq!(kept, at(6));
    drop(first);
    join().unwrap().write(&at(7)).unwrap();
}
