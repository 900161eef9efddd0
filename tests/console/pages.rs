//! What the pages show of a service in which things go wrong, with markup in every text that others
//! choose.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use serde_json::{Value, json};

use super::{
    PATIENCE,
    browser::Browser,
    markup::{plain, read},
    stage,
    support::{
        events::{create, event, suspend},
        kafka::Write,
        scene::n8n,
        wait_until,
    },
};

/// Texts that would run, or break out, if a page took them for markup.
const NASTY: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)' x='",
    "</title></pre></details><svg/onload=alert(1)>",
    "<a href=\"javascript:alert(1)\">here</a>",
    "{{7*7}}${7*7}<style>*{display:none}</style>&lt;b&gt;",
];

/// A vendor that refuses every request with all of it.
fn vendor() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A new connection for each request, so one reading is the whole of it or its beginning.
            let mut head = vec![0; 64 * 1024];
            let _ = stream.read(&mut head);
            let body = NASTY.concat();
            let _ = write!(
                stream,
                "HTTP/1.1 422 No\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    format!("http://{address}/hook")
}

/// An event with markup in every field that its producer chooses.
fn nasty_event(id: &str) -> Value {
    let mut event = event(id, "payment.failed", "proj_1");
    event["data"]["reason"] = json!(NASTY.concat());
    event["data"]["stage"] = json!(NASTY[0]);
    event["data"]["endpointId"] = json!(NASTY[1]);
    event["data"]["<i>field</i>"] = json!({ "\"<b>": NASTY });
    event
}

#[test]
fn every_page_says_what_is_wrong_and_nothing_from_outside_becomes_markup() {
    let Some((stage, sink)) = stage() else { return };
    let serve = stage.serve("one");
    let failed = &["payment.failed"];
    let mut bad = create("c_bad", "proj_1", "conn_bad", "n8n", &vendor(), failed);
    bad["connector"]["name"] = json!(NASTY[1]);
    bad["actor"] = json!(NASTY[0]);
    stage.set_up(&[
        bad,
        n8n(&sink, "conn_good", failed),
        n8n(&sink, "conn_held", failed),
        suspend("s_held", "proj_1", "conn_held", NASTY[3]),
    ]);
    let events: Vec<Value> = (0..3).map(|n| nasty_event(&format!("evt_{n}"))).collect();
    stage.events(&events);
    stage.kafka.write(&stage.topic("payments.events"), [Write::new("proj_1", NASTY.concat())]);
    wait_until("the good ones arrived", PATIENCE, || sink.hits().len() == 3);

    let mut browser = Browser::logged_in(serve.admin);
    let mut letters = String::new();
    wait_until("the refused ones are dead letters", PATIENCE, || {
        letters = browser.page("/console/letters").body;
        letters.contains("4 dead letters wait")
    });
    // The largest heap comes first, with the vendor's words.
    let (rejected, undecodable) =
        (letters.find("n8n: rejected").unwrap(), letters.find(">undecodable<").unwrap());
    assert!(rejected < undecodable, "{letters}");
    assert!(letters.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{letters}");

    let now = browser.page("/console").body;
    for words in [
        "<b>1</b>instances deliver",
        "<b>1</b>connectors suspended",
        "<b>4</b>dead letters",
        "/console/projects/proj_1/connectors/conn_bad",
        "3 of 3 failed",
        "HTTP 422",
        "<td class=\"number\">3</td>",
    ] {
        assert!(now.contains(words), "{words} in\n{now}");
    }

    of_letters(&mut browser);
    of_lists(&mut browser);
    of_connectors_and_events(&mut browser);
    ids_lead_to_their_pages(&mut browser);
    serve.stop();
}

fn of_letters(browser: &mut Browser) {
    let heap = browser.page("/console/letters/heap?type=n8n&reason=rejected").body;
    for words in ["3 dead letters wait here", "evt_0", "evt_1", "evt_2", "Plan to send 3 again"] {
        assert!(heap.contains(words), "{words} in\n{heap}");
    }
    let is_letter = |href: &str| href.starts_with("/console/letters/") && href.contains("%3A");
    let elements = read(&heap);
    let links: Vec<String> = elements
        .iter()
        .filter_map(|one| one.attribute("href"))
        .filter(|href| is_letter(href))
        .map(str::to_owned)
        .collect();
    assert_eq!(links.len(), 3, "{heap}");
    let letter = browser.page(&links[0]).body;
    for words in ["conn_bad", "Plan to send it again", "POST http", "Dunmore-Event-Id", ">waiting<"]
    {
        assert!(letter.to_lowercase().contains(&words.to_lowercase()), "{words} in\n{letter}");
    }
    assert!(plain(&letter).contains("\"<i>field</i>\""), "the event as it was produced");
    let raw = browser.page("/console/letters/heap?reason=undecodable").body;
    let elements = read(&raw);
    let mut links = elements.iter().filter_map(|one| one.attribute("href"));
    let raw = browser.page(links.find(|href| is_letter(href)).unwrap()).body;
    assert!(raw.contains("Value, in base64") && raw.contains("dunmore dlq export"), "{raw}");
}

fn of_lists(browser: &mut Browser) {
    let list = browser.page("/console/connectors").body;
    assert!(list.contains("3 connectors") && list.contains("conn_held"), "{list}");
    let held = browser.page("/console/connectors?state=suspended&type=n8n&q=held").body;
    assert!(held.contains("One connector") && !held.contains("conn_bad"), "{held}");
    assert!(browser.page("/console/connectors?q=nothing").body.contains("No connector is meant"));
    assert_eq!(browser.get("/console/connectors?state=strange").status, 400);
    assert_eq!(browser.get("/console/connectors?colour=red").status, 400);

    let projects = browser.page("/console/projects").body;
    assert!(projects.contains("/console/projects/proj_1\""), "{projects}");
    let project = browser.page("/console/projects/proj_1").body;
    for words in
        ["Project proj_1: 1 of 3 connectors are suspended", "enterprise", "without a limit"]
    {
        assert!(project.contains(words), "{words} in\n{project}");
    }
    let history = browser.page("/console/projects/proj_1/history").body;
    for words in ["connector.create", "connector.suspend", "project.set_tier", "&lt;script&gt;"] {
        assert!(history.contains(words), "{words} in\n{history}");
    }
}

fn of_connectors_and_events(browser: &mut Browser) {
    let bad =
        browser.page("/console/projects/proj_1/connectors/conn_bad?event=payment.failed").body;
    for words in ["is active", "HTTP 422", "evt_2", "Headers and body, secrets masked", "POST http"]
    {
        assert!(bad.contains(words), "{words} in\n{bad}");
    }
    assert!(!bad.contains("/hook"), "a webhook's path is a secret:\n{bad}");
    let held = browser.page("/console/projects/proj_1/connectors/conn_held").body;
    for words in ["is suspended", "Resume the connector", "3 deliveries wait"] {
        assert!(held.contains(words), "{words} in\n{held}");
    }

    let event = browser.page("/console/events/evt_1").body;
    for words in [
        "Event evt_1 is done at 1 of 3 connectors, one is a dead letter",
        "taken on",
        "conn_good",
        "HTTP 422",
        "held since",
        "Event, as it was produced",
    ] {
        assert!(event.contains(words), "{words} in\n{event}");
    }
    let unknown = browser.page("/console/events/evt_none").body;
    assert!(unknown.contains("Nothing is known of event evt_none"), "{unknown}");
    assert!(unknown.contains("Looked in"), "{unknown}");
    assert!(browser.page("/console/replays").body.contains("None is known"));
}

fn ids_lead_to_their_pages(browser: &mut Browser) {
    // An id of any kind leads to its page.
    for (text, place) in [
        ("evt_1", "/console/events/evt_1"),
        (" conn_held ", "/console/projects/proj_1/connectors/conn_held"),
        ("proj_1/conn_bad", "/console/projects/proj_1/connectors/conn_bad"),
        ("proj_1", "/console/projects/proj_1"),
        ("0:7", "/console/letters/0%3A7"),
        ("replay-20261125t081500-1a2b3c", "/console/jobs/replay-20261125t081500-1a2b3c"),
        ("resend-20261125t081500-1a2b3c", "/console/jobs/resend-20261125t081500-1a2b3c"),
        ("", "/console"),
    ] {
        let query = text.replace(' ', "+");
        let answer = browser.get(&format!("/console/find?q={query}"));
        assert_eq!((answer.status, answer.header("location")), (303, place), "{text}");
    }
    // What letters and attempts name has a page, also where nothing else is kept of it.
    for kind in ["replay", "redrive", "resend"] {
        let page = browser.page(&format!("/console/jobs/{kind}-20261125t081500-1a2b3c")).body;
        let words = format!("dunmore deliveries list --job {kind}-20261125t081500-1a2b3c");
        assert!(page.contains("Nothing is kept of job") && page.contains(&words), "{page}");
    }
    assert_eq!(browser.get("/console/jobs/no_job").status, 404);
    for (query, words) in [
        ("reason=of_a_later_release", "This release knows no reason of_a_later_release"),
        ("reason=rejected&type=later", "This release knows no type later"),
    ] {
        let page = browser.page(&format!("/console/letters/heap?{query}")).body;
        assert!(page.contains(words) && page.contains("All dead letters"), "{page}");
    }
    for text in NASTY {
        let query: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let answer = browser.get(&format!("/console/find?q={query}"));
        assert_eq!(answer.status, 303, "{text}");
        let place = answer.header("location").to_owned();
        let page = browser.get(&place);
        assert_eq!(page.status, 400, "no event can be called {text}");
        read(&page.body);
        for path in ["letters/heap?reason=", "projects/proj_1/history?connector=", "connectors?q="]
        {
            read(&browser.get(&format!("/console/{path}{query}")).body);
        }
    }
}
