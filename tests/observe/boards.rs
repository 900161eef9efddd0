//! The dashboards as files: nothing without unit and description, no dead links. That they have
//! Grafana's schema is checked by `scripts/dashboards --check`.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::prometheus::repository;

/// Every dashboard by the name of its file.
pub(crate) fn dashboards() -> BTreeMap<String, Value> {
    let folder = repository("docker/grafana/dashboards");
    let found: BTreeMap<String, Value> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect();
    assert!(found.len() >= 4, "{:?}", found.keys());
    found
}

/// The panels that show something.
pub(crate) fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let all = dashboard["panels"].as_array().into_iter().flatten();
    all.filter(|panel| panel["type"] != "row")
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit() {
    let mut wrong = Vec::new();
    for (name, dashboard) in dashboards() {
        let mut ids = std::collections::BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = format!("{name}: {}", panel["title"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if text(&panel["description"]).len() < 15 {
                wrong.push(format!("{title} has no description"));
            }
            if !ids.insert(panel["id"].as_u64()) {
                wrong.push(format!("{title} has another panel's id"));
            }
            if panel["type"] == "text" {
                continue;
            }
            if text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty() {
                wrong.push(format!("{title} has no unit"));
            }
            let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array();
            if steps.is_none_or(Vec::is_empty) {
                wrong.push(format!("{title} has no thresholds"));
            }
            for target in panel["targets"].as_array().unwrap() {
                if text(&target["expr"]).is_empty() || text(&target["legendFormat"]).is_empty() {
                    wrong.push(format!("{title} has a query without words"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_lead_to_panels_that_exist() {
    let all = dashboards();
    let mut links = 0;
    for (name, dashboard) in &all {
        for panel in panels(dashboard) {
            for link in panel["links"].as_array().into_iter().flatten() {
                let url = link["url"].as_str().unwrap();
                let (uid, rest) = url["/d/".len()..].split_once("?viewPanel=panel-").unwrap();
                let id: u64 = rest.split('&').next().unwrap().parse().unwrap();
                let other = all.values().find(|other| other["uid"] == uid);
                let there = other.is_some_and(|other| panels(other).any(|p| p["id"] == id));
                assert!(there, "{name}: {} links to {url}", panel["title"]);
                links += 1;
            }
        }
    }
    assert!(links > 50, "{links}");
    // Each alert's entry in the runbook can be reached from a panel.
    let text = serde_json::to_string(&all).unwrap();
    for panel in panels(&all["runbook"]) {
        let title = panel["title"].as_str().unwrap();
        let linked = text.contains(&format!("What to do: {title}\""));
        let by_itself = ["First look", "DunmoreNoInstance", "DunmoreInstanceDown"].contains(&title);
        if !linked && !by_itself {
            println!("{title} is reached from its alert only");
        }
    }
}
