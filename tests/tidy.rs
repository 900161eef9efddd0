//! Keeps the house in order: which room may know what, and how large a file may get.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rooms that do no I/O and get the time as an argument.
const PURE: &[&str] = &[
    "id.rs",
    "json.rs",
    "money.rs",
    "text.rs",
    "egress.rs",
    "redact.rs",
    "rs256.rs",
    "event",
    "filter",
    "connector",
    "destination",
    "delivery",
    "codec/cloudevents.rs",
    "codec/decode.rs",
    "codec/encode.rs",
    "codec/form.rs",
    "codec/plan.rs",
    "codec/schemas.rs",
    "codec/wire.rs",
    "lane",
    "offsets",
    "view/fold.rs",
    "view/freshness.rs",
    "replay",
];

/// What a pure room must not name: runtimes, clients, stores, files, the environment, clocks,
/// chance.
const IMPURE: &[&str] = &[
    "tokio",
    "rdkafka",
    "reqwest",
    "sled",
    "axum",
    "tracing::",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::thread",
    "SystemTime",
    "Instant",
    "clock::now",
    "Timestamp::now",
    "now_v7",
    "new_v4",
    "rand::rng",
    "rand::random",
    "thread_rng",
    "getrandom",
    "OsRng",
    "SystemRandom",
];

/// What only one room may name.
const OWNED: &[(&str, &[&str])] = &[
    ("rdkafka::", &["kafka"]),
    ("sled::", &["view/store.rs"]),
    ("reqwest", &["outbound.rs"]),
    ("std::env::", &["config.rs"]),
    // Tests and files apart, the wall clock is asked in one place.
    ("SystemTime", &["clock.rs"]),
    ("jiff::Timestamp::now", &["clock.rs"]),
];

/// A file says one thing, in so many lines before its tests. Those that are longer have a reason.
const MAX_LINES: usize = 500;
const LONGER: &[(&str, &str)] = &[
    ("connector/command.rs", "every command's form, read and written"),
    ("config.rs", "one list of settings, with its reading and its tests"),
    ("view/store.rs", "everything that knows sled"),
];

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 50, "the sources are not where they were");
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn is_in(name: &str, room: &str) -> bool {
    name == room || name.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
}

fn before_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The lines of code, without comments and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    before_tests(text).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn pure_rooms_do_no_io_and_ask_no_clock() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !PURE.iter().any(|room| is_in(&name, room)) || name.ends_with("tests.rs") {
            continue;
        }
        for (number, line) in code(&text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "pure rooms name impure things:\n{}", wrong.join("\n"));
}

#[test]
fn what_one_room_owns_no_other_names() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for (word, rooms) in OWNED {
            if rooms.iter().any(|room| is_in(&name, room)) || is_in(&name, "demo") {
                continue;
            }
            for (number, line) in code(&text) {
                if line.contains(word) {
                    wrong.push(format!("{name}:{}: {word} belongs to {rooms:?}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_say_one_thing_and_begin_with_it() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let lines = before_tests(&text).lines().count();
        if lines > MAX_LINES && !LONGER.iter().any(|(file, _)| *file == name) {
            wrong.push(format!("{name} has {lines} lines"));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{name} does not begin with what it is"));
        }
        for (number, line) in text.lines().enumerate() {
            let unfinished = ["todo!(", "unimplemented!(", "dbg!(", concat!("FIX", "ME")];
            if unfinished.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{name}:{}: unfinished", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
