//! What happens when the network or a destination's server fails in the middle of something: the reason
//! that is told, whether it is tried again, and that nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dunmore_connectors::{
    delivery::{DeliveryRecord, Reason},
    destination::{Request, Response},
    egress::EgressPolicy,
    outbound::{Connection, Outbound, SendError},
};
use support::{
    broker::broker,
    events::{create, event, set_tier},
    fault_server::{Fault, FaultServer},
    serve::Stage,
    sink::Sink,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_millis(600);

fn outbound() -> Outbound {
    let policy =
        EgressPolicy { allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true };
    Outbound::new(policy).unwrap()
}

async fn send(outbound: &Outbound, url: &str) -> Result<Response, SendError> {
    let request = Request::post_json(url.parse().unwrap(), r#"{"id":"evt_1"}"#);
    outbound.send(request, false, TIMEOUT).await
}

/// Each fault has its reason; and the client is not harmed by it: it sends on at once.
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_reason() {
    let expected = [
        (Fault::Refused, Some(Reason::ConnectFailed)),
        (Fault::Silent, Some(Reason::Timeout)),
        (Fault::Closed, Some(Reason::ConnectionLost)),
        (Fault::ResetInTheHead, Some(Reason::ConnectionLost)),
        // A head is an answer, whatever becomes of its body.
        (Fault::ResetInTheBody, None),
        (Fault::SlowHead, Some(Reason::Timeout)),
        (Fault::SlowBody, None),
        // It is read up to the cap, and the status counts.
        (Fault::EndlessBody, None),
        (Fault::Garbage, Some(Reason::ConnectionLost)),
    ];
    let outbound = Arc::new(outbound());
    for (fault, reason) in expected {
        let server = tokio::task::spawn_blocking(move || FaultServer::start(fault)).await.unwrap();
        for _ in 0..2 {
            let sent = send(&outbound, &server.url("/hook")).await;
            assert_eq!(
                sent.as_ref().err().map(|error| error.reason),
                reason,
                "{fault:?}: {sent:?}"
            );
            if let Ok(response) = &sent {
                assert_eq!(response.status, 200, "{fault:?}");
                assert_eq!(response.is_incomplete, fault != Fault::EndlessBody, "{fault:?}");
            }
            if let Err(error) = sent {
                assert!(!error.was_kept, "{fault:?}: a new connection");
                let secret = ["/hook", "127.0.0.1"].iter().any(|word| error.detail.contains(word));
                assert!(!secret, "{fault:?}: {}", error.detail);
            }
        }
        let connections: Vec<usize> =
            server.arrivals().iter().map(|arrival| arrival.connection).collect();
        let expected: &[usize] = if fault == Fault::Refused { &[] } else { &[0, 1] };
        assert_eq!(connections, expected, "{fault:?}: a broken connection is not used again");
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_certificates_that_fail_have_their_reasons() {
    let outbound = outbound();
    let sent = send(&outbound, "https://no-such-host.invalid/hook").await;
    assert_eq!(sent.unwrap_err().reason, Reason::DnsFailed);
    let server = tokio::task::spawn_blocking(|| FaultServer::start(Fault::NoTls)).await.unwrap();
    let url = format!("https://127.0.0.1:{}/hook", server.address.port());
    let sent = send(&outbound, &url).await;
    assert_eq!(sent.unwrap_err().reason, Reason::TlsFailed);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// A kept connection that the server has half closed: what would be sent on it is surely lost. The client
/// sees the end of the stream before it sends, so each request gets a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_connection_costs_no_request() {
    let outbound = outbound();
    let server = tokio::task::spawn_blocking(|| FaultServer::start(Fault::HalfClosedWhenIdle))
        .await
        .unwrap();
    for request in 0..20 {
        assert_eq!(send(&outbound, &server.url("/hook")).await.unwrap().status, 200);
        // The server's end of the stream travels; on loopback, once the client's runtime has run.
        while server.arrivals().len() <= request {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let arrivals = server.arrivals();
    assert!(arrivals.iter().all(|arrival| arrival.answered), "{arrivals:?}");
    assert_eq!(arrivals.len(), 20);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// A server that closes a kept connection when the next request is on its way: nobody can know whether it
/// was carried out, so the sender is told, and decides; the client never sends it again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_on_reuse_is_told_and_not_repeated_in_secret() {
    let outbound = outbound();
    let server =
        tokio::task::spawn_blocking(|| FaultServer::start(Fault::ClosedOnReuse)).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        outcomes.push(send(&outbound, &server.url("/hook")).await);
    }
    let ended: Vec<Option<(Reason, bool)>> = outcomes
        .iter()
        .map(|sent| sent.as_ref().err().map(|error| (error.reason, error.was_kept)))
        .collect();
    let lost = Some((Reason::ConnectionLost, true));
    assert_eq!(ended, [None, lost, None, lost, None, lost]);
    assert_eq!(server.arrivals().len(), 6, "each request was sent once");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// On a connection of its own each request is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_is_new_whatever_is_kept() {
    let outbound = outbound();
    let server =
        tokio::task::spawn_blocking(|| FaultServer::start(Fault::ClosedOnReuse)).await.unwrap();
    let url = server.url("/hook");
    assert_eq!(send(&outbound, &url).await.unwrap().status, 200);
    for _ in 0..5 {
        let request = Request::post_json(url.parse().unwrap(), "{}");
        let sent = outbound.send_on(Connection::New, request, false, TIMEOUT).await;
        assert_eq!(sent.unwrap().status, 200);
    }
    let connections: Vec<usize> =
        server.arrivals().iter().map(|arrival| arrival.connection).collect();
    assert_eq!(connections, [0, 1, 2, 3, 4, 5]);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// A server that closes each connection when it is used a second time: what nothing was said to is said
/// again at once, on a new one.
#[test]
fn connections_that_close_on_reuse_cost_no_tier() {
    const EVENTS: usize = 12;
    let Some(broker) = broker() else { return };
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "30s", more);
    let serve = stage.serve("one");
    let server = FaultServer::start(Fault::ClosedOnReuse);
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "enterprise"),
        create("cmd_1", "proj_1", "conn_1", "n8n", &server.url("/webhook/x"), &["*"]),
    ]);
    let delivered = || serve.count("dunmore_deliveries_total", &[("outcome", "delivered")]);
    for number in 0..EVENTS {
        stage.events(&[event(&format!("evt_{number}"), "payment.settled", "proj_1")]);
        wait_until("it is delivered", PATIENCE, || delivered() == number + 1);
    }
    assert_eq!(serve.count("dunmore_retries_total", &[]), 0);
    serve.stop();
    let attempts = stage.kafka.read(&stage.topic("deliveries.attempts"));
    let numbers: Vec<_> = attempts.iter().map(|a| a.json()["attempt"].clone()).collect();
    assert_eq!(numbers, vec![1; EVENTS], "none counts as an attempt");
    let lost = server.arrivals().iter().filter(|arrival| !arrival.answered).count();
    assert!(lost > 0, "no connection was used again");
}

/// All of it at once in the running service: one connector for each fault beside a healthy one.
#[test]
fn a_failing_network_ends_in_dead_letters_with_reasons_and_concerns_nobody_else() {
    const EVENTS: usize = 60;
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = "topics.partitions = 1\ndestinations.n8n.timeout = \"600ms\"";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "200ms,400ms", more);
    let serve = stage.serve("one");
    let faults = [
        (Fault::Refused, "connect_failed"),
        (Fault::Silent, "timeout"),
        (Fault::Closed, "connection_lost"),
        (Fault::ResetInTheHead, "connection_lost"),
        (Fault::SlowHead, "timeout"),
        (Fault::Garbage, "connection_lost"),
    ];
    let servers = faults.map(|(fault, _)| FaultServer::start(fault));
    let mut commands = vec![set_tier("cmd_tier", "proj_1", "enterprise")];
    let mut expected = BTreeMap::new();
    let mut connector = |name: String, url: String, reason: &'static str, attempts: u32| {
        commands.push(create(
            &format!("cmd_{name}"),
            "proj_1",
            &name,
            "n8n",
            &url,
            &["payment.settled"],
        ));
        expected.insert(name, (reason.to_owned(), attempts));
    };
    for ((fault, reason), server) in faults.iter().zip(&servers) {
        connector(format!("{fault:?}"), server.url("/webhook/x"), reason, 3);
    }
    connector(
        "Dns".to_owned(),
        "https://no-such-host.invalid/webhook/x".to_owned(),
        "dns_failed",
        3,
    );
    let plain = FaultServer::start(Fault::NoTls);
    let url = format!("https://127.0.0.1:{}/webhook/x", plain.address.port());
    connector("Tls".to_owned(), url, "tls_failed", 3);
    // A head with 200 is a delivery, whatever becomes of the body.
    let taken = [Fault::EndlessBody, Fault::ResetInTheBody, Fault::SlowBody].map(|fault| {
        let (name, server) = (format!("{fault:?}"), FaultServer::start(fault));
        let (id, url) = (format!("cmd_{name}"), server.url("/webhook/x"));
        commands.push(create(&id, "proj_1", &name, "n8n", &url, &["payment.settled"]));
        server
    });
    let url = sink.url("/webhook/healthy");
    commands.push(create("cmd_healthy", "proj_1", "Healthy", "n8n", &url, &["*"]));
    stage.set_up(&commands);

    // One event that all want, in the midst of those that only the healthy one wants.
    let kind = |n: usize| if n == EVENTS / 2 { "payment.settled" } else { "payment.failed" };
    let events = (0..EVENTS).map(|n| event(&format!("evt_{n}"), kind(n), "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    wait_until("the healthy one has all", PATIENCE, || sink.count() == EVENTS);
    let dead = || stage.kafka.read(&stage.topic("deliveries.dead"));
    wait_until("all others have ended", PATIENCE, || dead().len() == expected.len());
    stage.wait_committed(PATIENCE);
    let found: BTreeMap<String, (String, u32)> = dead()
        .iter()
        .map(|letter| {
            let record = DeliveryRecord::from_json(letter.value.as_deref().unwrap()).unwrap();
            let reason = letter.header("dunmore-error-reason").to_owned();
            (letter.header("dunmore-connector-id").to_owned(), (reason, record.attempts))
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(sink.count(), EVENTS, "nothing of the healthy one was repeated");
    for server in &taken {
        assert_eq!(server.arrivals().len(), 1);
    }
    serve.stop();
    let attempts = stage.kafka.read(&stage.topic("deliveries.attempts"));
    let of_healthy =
        attempts.iter().map(support::kafka::Read::json).filter(|a| a["connectorId"] == "Healthy");
    assert!(
        of_healthy.into_iter().all(|attempt| attempt["outcome"] == "delivered"),
        "none was put off"
    );
}
