//! What people and programs see: help, tables and JSON, and what a wrong call is told.

use serde_json::Value;

use super::{
    PATIENCE, n8n, stage,
    support::{
        events::event,
        kafka::Write,
        serve::{Stage, bare_command},
        sink::Reply,
        wait_until,
    },
    text,
};

fn help(arguments: &[&str]) -> String {
    // Help is as wide as the terminal says.
    let output = bare_command(arguments).arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<String> =
        text(&output.stdout).lines().map(|l| l.trim_end().to_owned()).collect();
    lines.join("\n").replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn help_has_examples() {
    for (name, arguments) in [
        ("replay", &["replay"][..]),
        ("dlq", &["dlq"]),
        ("dlq_list", &["dlq", "list"]),
        ("dlq_show", &["dlq", "show"]),
        ("dlq_redrive", &["dlq", "redrive"]),
        ("dlq_purge", &["dlq", "purge"]),
        ("dlq_export", &["dlq", "export"]),
        ("dlq_reinject", &["dlq", "reinject"]),
        ("deliveries_list", &["deliveries", "list"]),
        ("deliveries_tail", &["deliveries", "tail"]),
        ("event_trace", &["event", "trace"]),
    ] {
        insta::assert_snapshot!(format!("help_{name}"), help(arguments));
    }
}

#[test]
fn a_wrong_call_is_told_what_is_wrong() {
    let told = |arguments: &[&str]| {
        let arguments = [arguments, &["--bootstrap-servers", "127.0.0.1:1"]].concat();
        let output = bare_command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        text(&output.stderr)
    };
    for (arguments, expected) in [
        (&["replay"][..], "say from when"),
        (&["replay", "--from", "yesterday"], "2 days ago"),
        (&["replay", "--from", "1 hour ago", "--to", "2 hours ago"], "must be before"),
        (&["replay", "--from", "beginning", "--event-type", "paid"], "payment.settled"),
        (&["replay", "--from", "beginning", "--type", "slak"], "did you mean \"slack\"?"),
        (&["replay", "--from", "beginning", "--rate", "0"], "from 1 to"),
        (&["replay", "--offsets", "3"], "3:1000-2000"),
        (&["replay", "--resume", "x y"], "is no job"),
        (&["dlq", "redrive"], "--all"),
        (&["dlq", "redrive", "--all", "--canary", "2"], "1%"),
        (&["dlq", "list", "--reason", "gon"], "did you mean \"gone\"?"),
        (&["dlq", "show", "7"], "3:1207"),
        (&["dlq", "purge"], "--redriven"),
        (&["deliveries", "list", "--outcome", "lost"], "delivered"),
    ] {
        let error = told(arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_broker_that_is_away_is_told_in_a_sentence() {
    let arguments = ["dlq", "list", "--bootstrap-servers", "127.0.0.1:1"];
    let output = bare_command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("check kafka.bootstrap_servers"), "{output:?}");
}

/// The text with what differs from run to run replaced.
fn steady(stage: &Stage, printed: &str) -> String {
    let mut text = printed.replace(&stage.prefix, "PREFIX.");
    text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let numbers = |text: &str, form: &str, instead: &str| {
        let mut made = String::new();
        let mut rest = text;
        'next: while !rest.is_empty() {
            let mut end = rest.char_indices().map(|(at, c)| (at + c.len_utf8(), c));
            let mut length = 0;
            for wanted in form.chars() {
                match end.next() {
                    Some((at, c))
                        if c == wanted
                            || (wanted == '0' && c.is_ascii_digit())
                            || (wanted == 'x' && c.is_ascii_hexdigit()) =>
                    {
                        length = at;
                    }
                    _ => {
                        let first = rest.chars().next().unwrap();
                        made.push(first);
                        rest = &rest[first.len_utf8()..];
                        continue 'next;
                    }
                }
            }
            made.push_str(instead);
            rest = &rest[length..];
        }
        made
    };
    text = numbers(&text, "0000-00-00T00:00:00.000Z", "YYYY-MM-DDTHH:MM:SS.mmmZ");
    text = numbers(&text, "00000000t000000-xxxxxx", "JOB");
    let lines = text.lines().map(|line| {
        // How long it took is measured.
        let line = match line.split_once(" records in ") {
            Some((before, after)) => {
                let after = after.split_once("/s)").map_or(after, |(_, after)| after);
                format!("{before} records in N s (N/s){after}")
            }
            None => line.to_owned(),
        };
        let is_measured =
            line.trim_start().starts_with("\"seconds\"") || line.contains("\"durationMs\"");
        if is_measured {
            let (name, _) = line.split_once(':').unwrap();
            return format!("{name}: N");
        }
        let words: Vec<&str> = line.split("127.0.0.1:").collect();
        let local = words.iter().enumerate().map(|(index, part)| {
            if index == 0 {
                (*part).to_owned()
            } else {
                part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned()
            }
        });
        local.collect::<Vec<_>>().join("127.0.0.1:PORT").trim_end().to_owned()
    });
    let lines: Vec<String> = lines.map(|line| squeezed(&line)).collect();
    lines.join("\n")
}

/// A line without what follows from the width of values that differ.
fn squeezed(line: &str) -> String {
    if line.starts_with("  ") {
        return line.to_owned();
    }
    let mut made = String::new();
    for c in line.chars() {
        let run = made.chars().rev().take_while(|last| *last == c).count();
        if !(matches!(c, ' ' | '─' | '═') && run >= 2) {
            made.push(c);
        }
    }
    // How long an answer took.
    match format!("{made} ").split_once(" ms ") {
        Some((before, after)) if before.ends_with(|c: char| c.is_ascii_digit()) => {
            let before = before.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{before}N ms {after}").trim_end().to_owned()
        }
        _ => made,
    }
}

#[test]
fn tables_and_json_are_as_they_were() {
    let Some((stage, sink)) = stage("1s,30s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "bad", &["payment.settled"]), n8n(&sink, "off", &["*"])]);
    let off = serde_json::json!({"isActive": false});
    stage.set_up(&[super::support::events::update("cmd_switch_off", "proj_1", "off", &off)]);
    sink.script("/webhook/bad", &[], Reply::Status(400));
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("it is a dead letter", PATIENCE, || {
        stage.run_json(&["deliveries", "list", "--outcome", "dead"])["total"] == 1
    });
    let broken = Write::new("proj_1", b"\x01\xffbroken".to_vec());
    stage.kafka.write(&stage.topic("payments.events"), [broken]);
    wait_until("so is the broken one", PATIENCE, || stage.run_json(&["dlq", "list"])["total"] == 2);
    serve.stop();
    let letters = stage.run_json(&["dlq", "list"]);
    let position = |reason: &str| {
        let found = letters["letters"].as_array().unwrap().iter().find(|l| l["reason"] == reason);
        found.unwrap()["position"].as_str().unwrap().to_owned()
    };
    let (rejected, undecodable) = (position("rejected"), position("undecodable"));
    let screens: [(&str, &[&str]); 9] = [
        ("replay_dry_run", &["replay", "--from", "beginning", "--dry-run"]),
        ("dlq_list", &["dlq", "list"]),
        ("dlq_show", &["dlq", "show", &rejected]),
        ("dlq_show_raw", &["dlq", "show", &undecodable]),
        ("dlq_redrive_dry_run", &["dlq", "redrive", "--all", "--dry-run"]),
        ("event_trace", &["event", "trace", "evt_1"]),
        ("replay", &["replay", "--from", "beginning", "--yes"]),
        ("replay_list", &["replay", "--list"]),
        ("dlq_redrive", &["dlq", "redrive", "--all"]),
    ];
    for (name, arguments) in screens {
        for kind in ["table", "json"] {
            // Sending is done once.
            if kind == "json" && matches!(name, "replay" | "dlq_redrive") {
                continue;
            }
            let output = stage
                .command(arguments)
                .args(["--output", kind])
                .env("COLUMNS", "120")
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            if kind == "json" {
                serde_json::from_slice::<Value>(&output.stdout).unwrap();
            }
            let printed = steady(&stage, &text(&output.stdout));
            insta::assert_snapshot!(format!("{name}_{kind}"), printed);
        }
    }
}
