//! Every expression of every panel and rule, asked of a Prometheus that scrapes a running service
//! under a load in which things go wrong.

use std::{
    collections::BTreeSet,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    boards::{dashboards, panels},
    prometheus::{Prometheus, has, promtool},
    support::{
        broker::broker,
        events::{TYPES, create, event, set_tier},
        kafka::Write,
        serve::{Serve, Stage, free_address, get},
        sink::{Reply, Sink},
        wait_until,
    },
};

/// Expressions that are empty while all is well, and why.
const EMPTY_WHEN_WELL: &[(&str, &str)] = &[(
    r#"dunmore_http_requests_total{route!="/readyz",status=~"5.."}"#,
    "no request of the API has failed",
)];

/// What Grafana makes of its own variable at a scrape interval of one second and this test's range.
const RATE_INTERVAL: &str = "15s";

/// A service under load, and Prometheus.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    sink: Sink,
    pub(crate) serve: Serve,
    api: std::net::SocketAddr,
    /// Deliveries that failed, to be replayed.
    failed: OnceLock<Vec<Write>>,
    pub(crate) prometheus: Prometheus,
}

impl Scene {
    /// `None` where it cannot be played.
    pub(crate) fn open() -> Option<Self> {
        let broker = broker()?;
        if !has("prometheus") || !has("promtool") {
            return None;
        }
        let sink = Sink::start();
        let more =
            format!("topics.partitions = 2\n{}", sink.base_urls(&["slack", "zapier", "make"]));
        let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s,2s", &more);
        let api = free_address();
        let environment = [
            ("DUNMORE_API__LISTEN", api.to_string()),
            ("DUNMORE_TELEMETRY__OTLP_ENDPOINT", sink.url("")),
        ];
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut serve = stage.start_with("one", &environment);
        serve.wait_ready();
        let prometheus = Prometheus::start(&[serve.admin]);

        sink.script("/webhook/failing", &[], Reply::Status(500));
        sink.script("/webhook/flaky", &[Reply::Status(503)], Reply::Status(200));
        sink.script("/webhook/gone", &[], Reply::Status(410));
        sink.delay("/webhook/slow", Duration::from_millis(300));
        let n8n = |name: &str| {
            let url = sink.url(&format!("/webhook/{name}"));
            create(&format!("cmd_{name}"), "proj_1", name, "n8n", &url, &["*"])
        };
        let hook = |kind: &str, url: &str| {
            create(&format!("cmd_{kind}"), "proj_1", kind, kind, url, &["payment.settled"])
        };
        stage.set_up(&[
            set_tier("cmd_tier", "proj_1", "enterprise"),
            n8n("healthy"),
            n8n("failing"),
            n8n("flaky"),
            n8n("refusing"),
            n8n("gone"),
            n8n("slow"),
            hook("slack", "https://hooks.slack.com/services/T1/B1/secret"),
            hook("zapier", "https://hooks.zapier.com/hooks/catch/1/abcdef/"),
            hook("make", "https://hook.eu1.make.com/abcdefghijklmn"),
        ]);
        Some(Self { stage, sink, serve, api, failed: OnceLock::new(), prometheus })
    }

    /// One second's load: every event type, what is no event, what nobody wants, commands that are
    /// refused, calls of the API, and a replay of what failed before.
    pub(crate) fn play(&self, second: usize) {
        let mut events: Vec<Value> = TYPES
            .iter()
            .flat_map(|kind| {
                (0..3).map(move |n| event(&format!("evt_{second}_{kind}_{n}"), kind, "proj_1"))
            })
            .collect();
        events.push(event(&format!("evt_{second}_nobody"), TYPES[1], "proj_2"));
        events.push(json!({"id": "evt_bad", "type": "payment.settled", "projectId": "proj_1"}));
        self.stage.events(&events);
        let sixth = ["/webhook/failing", "/webhook/flaky"][second % 2];
        if second.is_multiple_of(8) {
            self.sink.script(sixth, &[Reply::Status(503)], Reply::Status(500));
        }
        // Fewer in a row than suspend a connector.
        let refused = [const { Reply::Status(400) }; 3];
        self.sink.script("/webhook/refusing", &refused, Reply::Status(200));
        let url = self.sink.url("/webhook/none");
        let refused = create(&format!("cmd_{second}"), "proj_2", "conn", "n8n", &url, &["*"]);
        let accepted = set_tier(&format!("cmd_tier_{second}"), "proj_3", "pro");
        self.stage.command_all(&[refused, accepted]);
        let _ = get(self.api, "/api/projects/proj_1/connectors");
        if second < 5 {
            return;
        }
        // Read once: the topic grows, and this is asked every second.
        let again = self.failed.get_or_init(|| {
            let waiting = self.stage.kafka.read(&self.stage.topic("deliveries.retry.1s"));
            let records = waiting.into_iter().take(5);
            records.filter_map(|r| Some(Write::new(&r.key_text(), r.value?))).collect()
        });
        self.stage.kafka.write(&self.stage.topic("deliveries.replay"), again.iter().cloned());
    }
}

/// An expression as Grafana would send it.
fn resolved(expression: &str, instance: &str, kind: &str) -> String {
    let text = expression
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$instance", instance)
        .replace("$type", kind);
    assert!(!text.contains('$'), "a variable that this test does not know: {text}");
    text
}

/// Whether an answer shows something: a number in at least one series.
fn shows(answer: &[Value]) -> bool {
    answer.iter().any(|series| {
        let value = series["value"][1].as_str().or_else(|| series[1].as_str());
        value.is_some_and(|value| value != "NaN")
    })
}

/// Everything that must not be empty: a name, and the expression.
fn expressions(prometheus: &Prometheus, instance: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, dashboard) in dashboards() {
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            // label_values(metric, label)
            let query = variable["query"]["query"].as_str().unwrap();
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (metric, label) = inner.split_once(", ").unwrap();
            let title = format!("{name}: variable {}", variable["name"]);
            found.push((title, format!("count by ({label}) ({metric})")));
        }
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                let title = format!("{name}: {}", panel["title"]);
                found.push((title.clone(), resolved(expression, ".*", ".*")));
                // One value of each variable: an answer, which may be empty.
                let one = resolved(expression, instance, "n8n");
                if let Err(error) = prometheus.query(&one) {
                    panic!("{title}: {one}: {error}");
                }
            }
        }
    }
    let rules = prometheus.json("/api/v1/rules").unwrap();
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap())
    {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        assert!(rule["lastError"].is_null(), "{name}: {}", rule["lastError"]);
        if rule["type"] == "recording" {
            found.push((name.to_owned(), query.to_owned()));
            continue;
        }
        if let Err(error) = prometheus.query(query) {
            panic!("{name}: {query}: {error}");
        }
        // An alert's answer is empty when all is well, but nothing that it looks at may be.
        for selector in selectors(query) {
            found.push((format!("{name} looks at"), selector));
        }
    }
    found
}

/// The metrics that an expression names, each with its matchers.
fn selectors(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        let matchers = if after.starts_with('{') {
            let close = after.find('}').unwrap() + 1;
            rest = &after[close..];
            &after[..close]
        } else {
            ""
        };
        if word.starts_with("dunmore") || word.starts_with("process_") || word == "up" {
            found.insert(format!("{word}{matchers}"));
        }
    }
    found
}

#[test]
fn selectors_are_found_with_their_matchers() {
    let expression = "sum by (type) (dunmore_a{b=\"c\"}) > 0.5 * up{job=\"d\"} and dunmore:e:f > 1";
    let expected = ["dunmore:e:f", "dunmore_a{b=\"c\"}", "up{job=\"d\"}"];
    assert!(selectors(expression).iter().map(String::as_str).eq(expected));
}

#[test]
fn every_expression_of_every_panel_and_rule_has_an_answer() {
    let Some(scene) = Scene::open() else { return };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut second = 0;
            while !done.load(Ordering::Relaxed) {
                scene.play(second);
                second += 1;
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        // Ends the load even when an assertion fails.
        let _stop = Stop(&done);
        let instance = scene.serve.admin.to_string();
        let mut empty = Vec::new();
        let mut count = 0;
        wait_until_shown(&mut empty, || {
            let all = expressions(&scene.prometheus, &instance);
            count = all.len();
            all.into_iter()
                .filter(|(name, expression)| {
                    let answer = scene.prometheus.query(expression);
                    let answer = answer.unwrap_or_else(|e| panic!("{name}: {expression}: {e}"));
                    let expected = EMPTY_WHEN_WELL.iter().any(|(known, _)| known == expression);
                    !shows(&answer) && !expected
                })
                .map(|(name, expression)| format!("{name}: {expression}"))
                .collect()
        });
        assert!(empty.is_empty(), "no answer to:\n{}", empty.join("\n"));
        println!("{count} expressions, each with an answer");

        let (_, text) = get(scene.serve.admin, "/metrics").unwrap();
        let lint = promtool(&["check", "metrics"], &text);
        let said = String::from_utf8_lossy(&lint.stderr);
        assert!(lint.status.success(), "promtool check metrics:\n{said}");
    });
}

/// Asks again until nothing is empty, or patience ends; leaves what was empty last.
fn wait_until_shown(empty: &mut Vec<String>, mut look: impl FnMut() -> Vec<String>) {
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        *empty = look();
        if empty.is_empty() || std::time::Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Plays for some minutes, then has the dashboards drawn from what Prometheus saw:
/// `cargo test --test observe pictures -- --ignored`
#[test]
#[ignore = "takes some minutes, and writes the pictures in docs/images"]
fn pictures() {
    const SECONDS: usize = 90;
    let scene = Scene::open().unwrap();
    for second in 0..SECONDS {
        scene.play(second);
        std::thread::sleep(Duration::from_millis(700));
    }
    let url = format!("http://{}", scene.prometheus.address);
    let script = crate::prometheus::repository("scripts/dashboard-pictures");
    let drawn = std::process::Command::new(script).arg(url).status().unwrap();
    assert!(drawn.success());
    wait_until("the service has not failed", Duration::from_secs(5), || {
        get(scene.serve.admin, "/healthz").is_some_and(|(status, _)| status == 200)
    });
}
