//! A command: what is read is written and read the same, and deciding it never panics and is the same
//! twice.

#![no_main]

use std::sync::LazyLock;

use dunmore_connectors::{
    clock::Timestamp,
    connector::{Change, Command, Context, Decision, ProjectState, Refused, StateKey, decide},
    egress::EgressPolicy,
    secrets::Keyring,
};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

static KEYRING: LazyLock<Keyring> =
    LazyLock::new(|| Keyring::parse(&[KEY.to_owned()]).expect("a key"));

/// A project on a paid tier with one connector, as the fixtures have it.
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
    let mut command = match Command::read(data) {
        Ok(command) => command,
        Err(Refused::Unanswerable(detail)) => return assert!(detail.len() < 4096),
        Err(Refused::Rejected { problem, .. }) => {
            return assert!(serde_json::to_string(&problem).expect("JSON").len() < 65_536);
        }
    };
    let again = Command::read(&command.to_json());
    assert_eq!(again.as_ref(), Ok(&command));
    let existing = command.body.connector().and_then(|id| STATE.connectors.get(id));
    if KEYRING.open_command(&mut command, existing.map(|found| found.kind)).is_err() {
        return;
    }
    let egress = EgressPolicy::default();
    let context = Context { at: Timestamp::from_millis(0), offset: 1000, egress: &egress };
    let decision = decide(&STATE, &command, &context);
    assert_eq!(decision, decide(&STATE, &command, &context));
    if let Decision::Accepted(mut change) = decision
        && KEYRING.seal_decided(&command, &mut change).is_ok()
    {
        let read = change.state_key().read(change.to_value().as_deref());
        assert_eq!(read.expect("a change of ours"), change);
        if let Change::ConnectorSet(connector) = &change {
            KEYRING.settings(connector, None).expect("what was just encrypted");
        }
    }
});
