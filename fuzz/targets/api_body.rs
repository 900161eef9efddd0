//! What a caller of the API sends: a body as a new connector and as a change of one, and a query. What is
//! wrong is said in few words.

#![no_main]

use std::sync::LazyLock;

use dunmore_connectors::{
    api::query::Query,
    clock::Timestamp,
    connector::{Command, Context, Decision, ProjectState, Refused, StateKey, decide},
    egress::EgressPolicy,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const MAX_PROBLEM_BYTES: usize = 65_536;

static STATE: LazyLock<ProjectState> = LazyLock::new(|| {
    let mut state = ProjectState::default();
    for (key, value) in [
        ("proj_1", include_str!("../../tests/fixtures/records/state-project-1.json")),
        ("proj_1/conn_1", include_str!("../../tests/fixtures/records/state-connector-1.json")),
    ] {
        let key = StateKey::parse(key).expect("a key");
        state.apply(&key.read(Some(value.as_bytes())).expect("a fixture"));
    }
    state
});

fuzz_target!(|data: &[u8]| {
    if let Ok(query) = std::str::from_utf8(data)
        && let Ok(mut read) = Query::read(Some(query), &["limit", "cursor", "type"])
    {
        assert!((1..=100).contains(&read.number("limit", 1..=100, 20)));
        if let Err(problem) = read.check() {
            assert!(serde_json::to_string(&problem).expect("JSON").len() < MAX_PROBLEM_BYTES);
        }
    }
    let Ok(body) = serde_json::from_slice::<Value>(data) else { return };
    let egress = EgressPolicy::default();
    let context = Context { at: Timestamp::from_millis(0), offset: 1000, egress: &egress };
    for (name, part, connector) in
        [("connector.create", "connector", "conn_2"), ("connector.update", "patch", "conn_1")]
    {
        let command = json!({ "id": "cmd_1", "type": name, "projectId": "proj_1",
            "connectorId": connector, part: body });
        let problem = match Command::from_value(command) {
            Ok(command) => match decide(&STATE, &command, &context) {
                Decision::Accepted(_) => continue,
                Decision::Rejected(problem) => problem,
            },
            Err(Refused::Rejected { problem, .. }) => problem,
            Err(Refused::Unanswerable(detail)) => panic!("{detail}"),
        };
        assert!(serde_json::to_string(&problem).expect("JSON").len() < MAX_PROBLEM_BYTES);
    }
});
