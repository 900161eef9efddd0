//! The number of series does not grow with the number of projects.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    broker::broker,
    events::{create, event, set_tier},
    serve::{Serve, Stage, get},
    sink::Sink,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(240);

/// The names and labels of all series.
fn series(serve: &Serve) -> BTreeSet<String> {
    let (_, text) = get(serve.admin, "/metrics").unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn ten_thousand_projects_add_no_series() {
    const FEW: usize = 10;
    const PROJECTS: usize = 10_000;
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s,5s", "");
    let serve = stage.serve("one");
    let round = |projects: std::ops::Range<usize>| {
        let end = projects.end;
        let commands: Vec<Value> = projects
            .clone()
            .flat_map(|p| {
                let (project, url) = (format!("proj_{p}"), sink.url(&format!("/webhook/{p}")));
                let connector = format!("cmd_{p}");
                [
                    set_tier(&format!("cmd_tier_{p}"), &project, "pro"),
                    create(&connector, &project, "conn", "n8n", &url, &["payment.settled"]),
                ]
            })
            .collect();
        stage.command_all(&commands);
        wait_until("the view has all connectors", PATIENCE, || {
            serve.count("dunmore_view_connectors", &[]) == end
        });
        let events: Vec<Value> = projects
            .map(|p| event(&format!("evt_{p}"), "payment.settled", &format!("proj_{p}")))
            .collect();
        stage.events(&events);
        wait_until("everything is delivered", PATIENCE, || sink.delivered_count() == end);
        // The client library tells of lag and connections every five seconds.
        stage.wait_committed(PATIENCE);
        std::thread::sleep(Duration::from_secs(6));
    };
    round(0..FEW);
    let few = series(&serve);
    round(FEW..PROJECTS);
    let lanes = serve.metric("dunmore_lanes", &[]);
    let began = Instant::now();
    let many = series(&serve);
    println!(
        "{} series with {FEW} projects, {} with {PROJECTS}; {lanes} lanes, scraped in {:?}",
        few.len(),
        many.len(),
        began.elapsed()
    );
    let new: Vec<&String> = many.difference(&few).collect();
    println!("new among them: {new:#?}");
    // Outcomes and reasons that the few happened not to have are in closed lists.
    let open = new.iter().filter(|name| name.contains("proj_") || name.contains("evt_")).count();
    assert_eq!(open, 0, "{new:?}");
    assert!(new.len() <= 20, "{new:?}");
    serve.stop();
}
