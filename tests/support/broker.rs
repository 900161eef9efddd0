//! Real Kafka brokers for integration tests.
//!
//! [`broker`] is for tests that only need one: all of them share it and keep apart by topic prefix.
//! [`own_broker`] is for tests that stop, freeze or kill it. Where no broker can be had (no Java, no Maven
//! for the first start), both give nothing: the test returns early, and the reason is printed even when
//! the test harness captures output. With `DUNMORE_REQUIRE_BROKER=1` that is a failure instead.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A broker that the tests of this process share, and other processes too where
/// `KAFKA_BOOTSTRAP_SERVERS` names it.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) bootstrap: String,
}

/// The shared broker: the one that `KAFKA_BOOTSTRAP_SERVERS` names, else one that is started at the first
/// call and ends with this process. `None` means that the test cannot run here.
pub(crate) fn broker() -> Option<&'static Broker> {
    static BROKER: OnceLock<Option<Broker>> = OnceLock::new();
    BROKER.get_or_init(|| or_skip(find_or_start().map(|bootstrap| Broker { bootstrap }))).as_ref()
}

impl Broker {
    /// A topic prefix that no other test uses, on any run.
    #[expect(
        clippy::unused_self,
        reason = "asked of a broker, so that a test cannot forget to have one"
    )]
    pub(crate) fn unique_prefix(&self) -> String {
        unique_prefix()
    }
}

/// A broker that belongs to one test, which may do with it what it likes. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    pub(crate) bootstrap: String,
    name: String,
}

/// Starts a broker for this test alone. `name` shows in its folder's name.
pub(crate) fn own_broker(name: &str) -> Option<OwnBroker> {
    let name = format!("{name}-{}", unique());
    or_skip(start(&name).map(|bootstrap| OwnBroker { bootstrap, name }))
}

/// The same with more of the script's settings, by their names in the environment.
pub(crate) fn own_broker_with(name: &str, settings: &[(&str, &str)]) -> Option<OwnBroker> {
    let name = format!("{name}-{}", unique());
    let started = kafka_script(&name, "start", settings);
    or_skip(started.map(|bootstrap| OwnBroker { bootstrap, name }))
}

impl OwnBroker {
    /// A topic prefix that no other test uses, on any run.
    #[expect(
        clippy::unused_self,
        reason = "asked of a broker, so that a test cannot forget to have one"
    )]
    pub(crate) fn unique_prefix(&self) -> String {
        unique_prefix()
    }

    /// Stops it in good order, unless it was killed, and starts it again with the same address and data.
    /// Returns when it answers; after a kill that takes some seconds, until its former session has ended.
    pub(crate) fn restart(&self) {
        self.must("restart");
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&self) {
        self.must("kill");
    }

    /// Freezes it: connections stay open and new ones are accepted, but nothing answers.
    pub(crate) fn pause(&self) {
        self.must("pause");
    }

    /// Lets it go on after [`OwnBroker::pause`].
    pub(crate) fn resume(&self) {
        self.must("resume");
    }

    fn must(&self, command: &str) {
        if let Err(why) = kafka_script(&self.name, command, &[]) {
            panic!("{why}");
        }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        // The script's watcher stops it too, when this process ends: nothing is lost if this fails.
        let _ = kafka_script(&self.name, "stop", &[]);
    }
}

fn find_or_start() -> Result<String, String> {
    let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") else {
        return start(&format!("tests-{}", unique()));
    };
    // A broker that is named but gone would show as one timeout per test.
    let reachable = bootstrap.split(',').any(|server| {
        let Ok(mut addresses) = server.trim().to_socket_addrs() else {
            return false;
        };
        addresses
            .any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok())
    });
    if reachable {
        Ok(bootstrap)
    } else {
        Err(format!("KAFKA_BOOTSTRAP_SERVERS={bootstrap} cannot be reached"))
    }
}

fn start(name: &str) -> Result<String, String> {
    kafka_script(name, "start", &[])
}

/// Runs `scripts/kafka` for the broker of that name, and gives what it prints.
fn kafka_script(name: &str, command: &str, settings: &[(&str, &str)]) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let output = Command::new(&script)
        .arg(command)
        .envs(settings.iter().copied())
        .env("KAFKA_NAME", name)
        // A process cannot be relied on to clean up when it is killed, so the script watches this one.
        .env("KAFKA_OWNER_PID", std::process::id().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", script.display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("`scripts/kafka {command}` failed: {}", why.trim()))
    }
}

fn or_skip<T>(outcome: Result<T, String>) -> Option<T> {
    static SAY_IT: Once = Once::new();
    match outcome {
        Ok(found) => Some(found),
        Err(why) if std::env::var("DUNMORE_REQUIRE_BROKER").is_ok_and(|value| value == "1") => {
            panic!("DUNMORE_REQUIRE_BROKER=1, but there is no Kafka broker: {why}")
        }
        Err(why) => {
            // Not `eprintln!`: the harness hides what passing tests print that way.
            SAY_IT.call_once(|| {
                let _ = writeln!(std::io::stderr(), "SKIPPED: needs a real Kafka broker: {why}");
            });
            None
        }
    }
}

/// Begins with the test's name, so that a topic list tells which test left what.
fn unique_prefix() -> String {
    let thread = std::thread::current();
    let test: String = thread
        .name()
        .unwrap_or("test")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(80)
        .collect();
    format!("{test}-{}.", unique())
}

fn unique() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{now:x}-{number}", std::process::id())
}
