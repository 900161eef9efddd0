//! The rules by themselves: valid, tested, and each alert with its entry in the runbook.

use std::{collections::BTreeSet, fs, process::Command};

use crate::{
    prometheus::{has, promtool, repository},
    support::serve::bare_command,
};

#[test]
fn the_rules_are_valid_and_each_alert_fires_when_it_should() {
    if !has("promtool") {
        return;
    }
    for arguments in [
        ["check", "rules", "slo.yml", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", "tests.yml", "tests-long.yml"],
    ] {
        let output = promtool(&arguments, "");
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}:\n{said}\n{wrong}");
    }
}

/// The names after `- alert: `.
fn alerts() -> BTreeSet<String> {
    let text = fs::read_to_string(repository("docker/prometheus/alerts.yml")).unwrap();
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn every_alert_is_tested_and_stands_in_the_runbook() {
    let rules = fs::read_to_string(repository("docker/prometheus/alerts.yml")).unwrap();
    let runbook = fs::read_to_string(repository("docs/RUNBOOK.md")).unwrap();
    let tests: String = ["tests.yml", "tests-long.yml"]
        .iter()
        .map(|file| fs::read_to_string(repository("docker/prometheus").join(file)).unwrap())
        .collect();
    let entries: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## Dunmore"))
        .map(|rest| format!("Dunmore{rest}"))
        .collect();
    assert_eq!(entries, alerts(), "the runbook's entries and the alerts");
    for alert in alerts() {
        let link = format!("runbook_url: docs/RUNBOOK.md#{}", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} does not link to its entry");
        let quiet = format!("alertname: {alert}, exp_alerts: []");
        assert!(tests.contains(&quiet), "no test in which {alert} does not fire");
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
    }
    for word in ["severity: ", "summary: ", "description: "] {
        assert_eq!(rules.matches(word).count(), alerts().len(), "{word}");
    }
}

#[test]
fn what_the_runbook_says_to_type_exists() {
    let runbook = fs::read_to_string(repository("docs/RUNBOOK.md")).unwrap();
    let mut commands: BTreeSet<&str> = BTreeSet::new();
    let mut in_block = false;
    for line in runbook.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let command = line.split(" #").next().unwrap_or_default();
        let command = command.rsplit("| ").next().unwrap_or_default().trim();
        if in_block && command.starts_with("dunmore ") {
            commands.insert(command);
        }
    }
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        let mut asked: Command = bare_command(&arguments);
        let output = asked.arg("--help").output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}
