//! Prometheus itself as a child process, asked over its API; and promtool.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{serve::free_address, wait_until};

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whether a program of the Debian package `prometheus` is here. Where a broker is required, these are.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    let required = std::env::var("DUNMORE_REQUIRE_BROKER").is_ok_and(|value| value == "1");
    assert!(found || !required, "{program} is missing: apt-get install prometheus");
    if !found {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs {program}: apt-get install prometheus");
    }
    found
}

/// Runs promtool in the folder of the rules, with this on its standard input.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(repository("docker/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A running Prometheus with the rules of this repository. It ends when this is dropped.
pub(crate) struct Prometheus {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes these targets, and evaluates the rules, every second.
    pub(crate) fn start(targets: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let rules = |name| repository("docker/prometheus").join(name).display().to_string();
        let targets: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [\"{}\", \"{}\"]\n\
             scrape_configs:\n  - job_name: dunmore\n    static_configs: [{{ targets: [{}] }}]\n",
            rules("slo.yml"),
            rules("alerts.yml"),
            targets.join(", ")
        );
        std::fs::write(&config, text).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self { child, address, _folder: folder };
        wait_until("Prometheus is ready", Duration::from_secs(60), || {
            prometheus.get("/-/ready").is_some_and(|(status, _)| status == 200)
        });
        prometheus
    }

    /// The answer to an instant query, or Prometheus's complaint.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let answer = self.json(&format!("/api/v1/query?query={encoded}"))?;
        Ok(match answer["resultType"].as_str() {
            Some("scalar") => vec![answer["result"].clone()],
            _ => answer["result"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// The `data` of an answer of the API.
    pub(crate) fn json(&self, path: &str) -> Result<Value, String> {
        let (_, body) = self.get(path).ok_or("no answer")?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// A GET of HTTP/1.0, whose answer is not chunked.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
