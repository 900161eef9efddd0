//! Brokers that want TLS, a certificate, or a password.

use std::time::Duration;

use crate::support::{
    broker::{OwnBroker, own_broker_with},
    certificates::{authority, certificate},
    events::{create, event, set_tier},
    kafka::Kafka,
    serve::{Stage, free_address},
    sink::Sink,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct-horse-battery";

struct Secure {
    broker: OwnBroker,
    folder: tempfile::TempDir,
    /// TLS and a password.
    sasl: u16,
    /// TLS and a certificate of the client.
    mutual: u16,
}

fn secure() -> Option<Secure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    authority(path, "ca");
    authority(path, "other");
    certificate(path, "broker");
    certificate(path, "client");
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    std::fs::write(path.join("keystore.pem"), read("broker.key") + &read("broker.pem")).unwrap();
    let (sasl, mutual) = (free_address().port(), free_address().port());
    let properties = format!(
        "listeners=BROKER://127.0.0.1:@BROKER_PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@,\
         PASSWORD://127.0.0.1:{sasl},MUTUAL://127.0.0.1:{mutual}\n\
         advertised.listeners=BROKER://127.0.0.1:@BROKER_PORT@,PASSWORD://localhost:{sasl},\
         MUTUAL://localhost:{mutual}\n\
         listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORD:SASL_SSL,\
         MUTUAL:SSL\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={folder}/keystore.pem\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={folder}/ca.pem\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.password.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN\n\
         listener.name.password.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         listener.name.password.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_dunmore=\"{PASSWORD}\";\n",
        folder = path.display()
    );
    let file = path.join("more.properties");
    std::fs::write(&file, properties).unwrap();
    let user = format!("dunmore:{PASSWORD}");
    let settings = [
        ("KAFKA_EXTRA_PROPERTIES_FILE", file.to_str().unwrap()),
        ("KAFKA_SCRAM_USER", user.as_str()),
    ];
    let broker = own_broker_with("secure", &settings)?;
    Some(Secure { broker, folder, sasl, mutual })
}

/// What `topics check` says with these settings over the stage's; empty when it has no complaint.
fn complaint(stage: &Stage, environment: &[(&str, &str)]) -> String {
    let output =
        stage.command(&["topics", "check"]).envs(environment.iter().copied()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), words.is_empty(), "{words}");
    words
}

#[test]
fn events_are_delivered_from_a_broker_that_wants_tls_and_a_password() {
    let Some(secure) = secure() else { return };
    let sink = Sink::start();
    let file = |name: &str| secure.folder.path().join(name).display().to_string();
    let more = format!(
        "kafka.properties.\"security.protocol\" = \"SASL_SSL\"\n\
         kafka.properties.\"ssl.ca.location\" = \"{}\"\n\
         kafka.properties.\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         kafka.properties.\"sasl.username\" = \"dunmore\"\n\
         kafka.properties.\"sasl.password\" = \"{PASSWORD}\"\n\
         kafka.properties.\"broker.address.family\" = \"v4\"\n\
         topics.partitions = 2\n{}",
        file("ca.pem"),
        sink.base_urls(&["zapier"])
    );
    let prefix = secure.broker.unique_prefix();
    let mut stage = Stage::new(&format!("localhost:{}", secure.sasl), &prefix, "300ms,1s", &more);
    // The test itself looks on through the listener without either.
    stage.kafka = Kafka { bootstrap: secure.broker.bootstrap.clone() };
    let serve = stage.serve("one");
    let url = "https://hooks.zapier.com/hooks/catch/1/secure/";
    stage.set_up(&[
        set_tier("tier", "proj_1", "pro"),
        create("create", "proj_1", "conn_1", "zapier", url, &["*"]),
    ]);
    // Produced by the program itself, so that this goes through TLS as well.
    let events = stage.folder.path().join("events.json");
    std::fs::write(&events, event("evt_1", "payment.settled", "proj_1").to_string()).unwrap();
    let sent = stage.run(&["event", "send", "--file", &events.display().to_string()]);
    assert!(sent.status.success(), "{sent:?}");
    wait_until("the event is delivered", PATIENCE, || sink.delivered_count() == 1);
    stage.wait_committed(PATIENCE);
    serve.stop();

    assert_eq!(complaint(&stage, &[]), "");
    assert_eq!(complaint(&stage, &[("DUNMORE_KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN")]), "");
    let mutual = format!("localhost:{}", secure.mutual);
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let to_mutual = [
        ("DUNMORE_KAFKA__BOOTSTRAP_SERVERS", mutual.as_str()),
        ("DUNMORE_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SSL"),
    ];
    let with_certificate = [
        ("DUNMORE_KAFKA__PROPERTIES__SSL_CERTIFICATE_LOCATION", certificate.as_str()),
        ("DUNMORE_KAFKA__PROPERTIES__SSL_KEY_LOCATION", key.as_str()),
    ];
    assert_eq!(complaint(&stage, &[to_mutual, with_certificate].concat()), "");

    // What is wrong is one sentence, which says what to do and never the password.
    let other = file("other.pem");
    let wrong_user = [("DUNMORE_KAFKA__PROPERTIES__SASL_PASSWORD", "wrong-canary")];
    let wrong_authority = [("DUNMORE_KAFKA__PROPERTIES__SSL_CA_LOCATION", other.as_str())];
    for (environment, expected) in [
        (&wrong_user[..], "check sasl.mechanism, sasl.username and sasl.password"),
        (&wrong_authority[..], "check that ssl.ca.location"),
        (&to_mutual[..], "ssl.certificate.location"),
    ] {
        let told = complaint(&stage, environment);
        assert!(told.contains(expected), "{told}");
        assert!(told.starts_with("dunmore: no connection to Kafka at localhost:"), "{told}");
        assert_eq!(told.trim().lines().count(), 1, "{told}");
        assert!(!told.contains(PASSWORD) && !told.contains("canary"), "{told}");
    }
    // The service says the same before it starts anything.
    let refused = stage.command(&["serve"]).envs(wrong_user).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sasl.password"), "{refused:?}");
}
