//! `dunmore` as a child process: its settings, the service, and the other commands.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    kafka::{Kafka, Read},
    wait_until,
};

/// The program; `DUNMORE_TEST_PROGRAM` names another build of it.
fn program() -> std::ffi::OsString {
    std::env::var_os("DUNMORE_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_dunmore").into())
}
/// A start reads the view and joins two groups; the machine may be busy.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the grace that the program gives itself.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// After so long the group gives the partitions of a killed member away. The default would make every
/// test that kills one wait for 45 s.
const SESSION_TIMEOUT_MS: u32 = 3000;

/// The settings of one test and its folder; topics of its own.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: PathBuf,
    pub(crate) prefix: String,
    pub(crate) group: String,
    pub(crate) kafka: Kafka,
}

impl Stage {
    /// Settings for a broker, with these retry tiers and more lines of TOML; creates the topics.
    pub(crate) fn new(bootstrap: &str, prefix: &str, tiers: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("dunmore.toml");
        let group = format!("{prefix}group");
        // A test may choose its own session timeout.
        let session = if more.contains("session.timeout.ms") {
            String::new()
        } else {
            format!(
                "kafka.properties.\"session.timeout.ms\" = \"{SESSION_TIMEOUT_MS}\"\n\
                 kafka.properties.\"heartbeat.interval.ms\" = \"500\"\n"
            )
        };
        let text = format!(
            "kafka.bootstrap_servers = \"{bootstrap}\"\n\
             {session}\
             topics.prefix = \"{prefix}\"\n\
             group.id = \"{group}\"\n\
             secrets.keys = [\"k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"]\n\
             egress.allow_cidrs = [\"127.0.0.0/8\"]\n\
             egress.allow_http = true\n\
             delivery.retry_tiers = \"{tiers}\"\n\
             {more}\n"
        );
        std::fs::write(&config, text).unwrap();
        let kafka = Kafka { bootstrap: bootstrap.to_owned() };
        let stage = Self { folder, config, prefix: prefix.to_owned(), group, kafka };
        let created = stage.run(&["topics", "ensure"]);
        assert!(created.status.success(), "{created:?}");
        stage
    }

    /// A topic's full name.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The program with these settings, and none from this process's environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command(arguments);
        command.arg("--config").arg(&self.config);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command with `--output json` that succeeds; returns what it prints.
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).args(["--output", "json"]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts the service and waits until it is ready. Each name has a data folder of its own.
    pub(crate) fn serve(&self, name: &str) -> Serve {
        let mut serve = self.start(name);
        serve.wait_ready();
        serve
    }

    /// Starts the service.
    pub(crate) fn start(&self, name: &str) -> Serve {
        self.start_with(name, &[])
    }

    /// Starts the service with more environment variables.
    pub(crate) fn start_with(&self, name: &str, environment: &[(&str, &str)]) -> Serve {
        let admin = free_address();
        let log = self.folder.path().join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = self
            .command(&["serve"])
            .env("DUNMORE_ADMIN__LISTEN", admin.to_string())
            .env("DUNMORE_API__LISTEN", free_address().to_string())
            .env("DUNMORE_DATA_DIR", self.data_dir(name))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        Serve { child, admin, log }
    }

    /// The data folder of an instance.
    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.data"))
    }

    /// Whether a group of the program has committed all of a topic.
    pub(crate) fn is_committed(&self, topic: &str) -> bool {
        // The program reads each kind of topic in a group of its own.
        let suffix = match topic.split('.').nth(1) {
            Some("retry") => ".retry",
            Some("replay") => ".replay",
            Some("commands") => ".registrar",
            Some("notices") => ".notices",
            _ => "",
        };
        let group = format!("{}{suffix}", self.group);
        self.kafka.is_committed_to_the_end(&group, &self.topic(topic))
    }

    /// Waits until the delivery group has committed all of the events.
    pub(crate) fn wait_committed(&self, patience: Duration) {
        wait_until("the events are committed to the end", patience, || {
            self.is_committed("payments.events")
        });
    }

    /// Writes commands in their order.
    pub(crate) fn command_all(&self, commands: &[Value]) {
        self.kafka.write_json(&self.topic("connectors.commands"), commands);
    }

    /// Writes events in their order.
    pub(crate) fn events(&self, events: &[Value]) {
        self.kafka.write_json(&self.topic("payments.events"), events);
    }

    /// Waits for the result of a command.
    pub(crate) fn result(&self, command: &str) -> Value {
        super::wait_for(&format!("{command} has a result"), Duration::from_secs(30), || {
            let results = self.kafka.read(&self.topic("connectors.results"));
            results.iter().rev().find(|result| result.key_text() == command).map(Read::json)
        })
    }

    /// The same with an instance that runs for it alone.
    pub(crate) fn set_up_with(&self, name: &str, commands: &[Value]) {
        let serve = self.serve(name);
        self.set_up(commands);
        serve.stop();
    }

    /// Writes commands and waits until the last one's result is there; all must be accepted.
    pub(crate) fn set_up(&self, commands: &[Value]) {
        self.command_all(commands);
        let wanted: std::collections::BTreeSet<&str> =
            commands.iter().filter_map(|command| command["id"].as_str()).collect();
        wait_until("every command has its result", Duration::from_secs(60), || {
            let results = self.kafka.read(&self.topic("connectors.results"));
            for result in results.iter().filter(|r| wanted.contains(r.key_text().as_str())) {
                assert_eq!(result.json()["outcome"], "accepted", "{}", result.json());
            }
            let found: std::collections::BTreeSet<String> =
                results.iter().map(super::kafka::Read::key_text).collect();
            wanted.iter().all(|id| found.contains(*id))
        });
    }
}

/// The program without settings.
pub(crate) fn bare_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DUNMORE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    command
}

/// An address that nobody listens on. Below the ports that the system gives to outgoing connections, so
/// that none of them can take it meanwhile.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        // Test processes that run side by side begin at different places.
        let port = 10_000 + (std::process::id() * 97 + step) % 8000;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A running `dunmore serve`. It is killed when this is dropped.
pub(crate) struct Serve {
    child: Child,
    pub(crate) admin: SocketAddr,
    log: PathBuf,
}

impl Serve {
    pub(crate) fn wait_ready(&mut self) {
        wait_until("the service is ready", START_PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended instead of getting ready");
            get(self.admin, "/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    /// The same; it stays here, to be asked what can be asked of a dead process.
    pub(crate) fn kill_now(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM).
    pub(crate) fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "does not end:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it in good order.
    pub(crate) fn stop(mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log_tail());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// What `/readyz` answers.
    pub(crate) fn readiness(&self) -> (u16, String) {
        get(self.admin, "/readyz").unwrap_or_default()
    }

    /// What `/healthz` answers.
    pub(crate) fn health(&self) -> (u16, String) {
        get(self.admin, "/healthz").unwrap_or_default()
    }

    /// Whether the process still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself; whether it ended well.
    pub(crate) fn ended(mut self) -> bool {
        self.wait().success()
    }

    /// Resident memory in MB.
    pub(crate) fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The sum of a metric over the series that have all these labels; 0 when there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).into_iter().filter_map(|v| v.parse::<f64>().ok()).sum()
    }

    /// The same of a metric that counts.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.series(name, labels).into_iter().filter_map(|v| v.parse::<usize>().ok()).sum()
    }

    fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let Some((200, text)) = get(self.admin, "/metrics") else { return Vec::new() };
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        });
        lines.filter_map(|line| Some(line.rsplit(' ').next()?.to_owned())).collect()
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the last of {}:\n{}", self.log.display(), self.log_tail());
        }
    }
}

/// A request to the admin API or the REST API; the status and the JSON of the answer.
pub(crate) fn call(
    at: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let token =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status >= 400 {
        assert!(head.to_lowercase().contains("application/problem+json"), "{answer}");
    }
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// A plain GET; `None` when nobody answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Every byte of every file in a folder.
pub(crate) fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(bytes_below(&path));
        } else {
            all.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
    all
}
