//! Why brokers turn this program away: wrong passwords and certificates.
//!
//! Whoever asks a broker only learns from the client library that no answer came in time. Why that
//! is so, it tells whoever polls for its errors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{Connection, KafkaError};

/// How long a client of its own may take to be turned away.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// What is wrong and what to do, once a broker has turned the client away. It keeps the client
/// library's log in ours, where lost connections are no errors.
#[derive(Clone, Default)]
pub(super) struct Listening(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    /// The sentence.
    refused: Option<String>,
    /// The client library's last words about one broker.
    last: Option<String>,
    /// Every broker was tried.
    all_down: bool,
}

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::producer::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        let mut heard = self.0.lock();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            heard.all_down = true;
        } else {
            heard.refused = explain(reason).or(heard.refused.take());
            heard.last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Listening {}

impl KafkaError {
    /// The same error; where brokers did not answer, with the reason if they turned this program
    /// away. That takes a connection of its own, and so some time.
    pub(super) fn with_reason(self, connection: &Connection) -> Self {
        let Self::Unreachable { servers, .. } = &self else { return self };
        let context = Listening::default();
        let listening = context.clone();
        let client = connection.client(&[]).create_with_context(listening);
        let Ok(client): Result<BaseConsumer<Listening>, _> = client else { return self };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            // What comes is told to the context.
            let _ = client.poll(POLL);
            let heard = context.0.lock();
            if let Some(detail) = heard.refused.clone() {
                return Self::Refused { servers: servers.clone(), detail };
            }
            if heard.all_down {
                break;
            }
        }
        match context.0.lock().last.take() {
            Some(detail) => Self::Unreachable { servers: servers.clone(), detail },
            None => self,
        }
    }
}

/// The client library's words about a connection that was refused, as a sentence.
fn explain(message: &str) -> Option<String> {
    let words = |mark: &str| {
        let at = message.find(mark)?;
        let rest = message[at + mark.len()..].trim_start_matches(':').trim();
        // Where in its states the library was is of no use to an operator.
        Some(rest.split(" (after ").next().unwrap_or(rest).trim().to_owned())
    };
    if let Some(words) = words("SASL authentication error") {
        return Some(format!(
            "the broker refuses who we say we are ({words}); check sasl.mechanism, sasl.username \
             and sasl.password in kafka.properties"
        ));
    }
    if message.contains("certificate verify failed") {
        return Some(
            "the broker's certificate cannot be verified; check that ssl.ca.location in \
             kafka.properties names the authority that signed it, and that it is for this name"
                .to_owned(),
        );
    }
    if message.contains("certificate required") || message.contains("alert bad certificate") {
        return Some(
            "the broker asks for a certificate, or for another one; check \
             ssl.certificate.location and ssl.key.location in kafka.properties"
                .to_owned(),
        );
    }
    let words = words("SSL handshake failed")?;
    Some(format!(
        "the TLS handshake failed ({words}); check security.protocol, the port, and \
         ssl.certificate.location if the broker asks for a certificate, in kafka.properties"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_words_become_sentences() {
        let line = |rest: &str| {
            format!("[thrd:sasl_ssl://k:9093/bootstrap]: sasl_ssl://k:9093/bootstrap: {rest}")
        };
        for (rest, expected) in [
            (
                "SASL authentication error: Authentication failed during authentication due to \
                 invalid credentials with SASL mechanism SCRAM-SHA-512 (after 312ms in state AUTH_REQ)",
                "invalid credentials with SASL mechanism SCRAM-SHA-512); check sasl.mechanism",
            ),
            (
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified (after 5ms in state SSL_HANDSHAKE)",
                "check that ssl.ca.location",
            ),
            (
                "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL \
                 alert number 42 (after 1ms in state APIVERSION_QUERY)",
                "check ssl.certificate.location",
            ),
            (
                "SSL handshake failed: Disconnected: peer (after 1ms in state X)",
                "(Disconnected: peer); check",
            ),
        ] {
            let told = explain(&line(rest)).unwrap();
            assert!(told.contains(expected) && !told.contains("after"), "{told}");
        }
        assert_eq!(explain(&line("Connect to ipv4#127.0.0.1:1 failed: Connection refused")), None);
    }
}
