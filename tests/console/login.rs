//! Who gets in, and who does not.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::{PATIENCE, TOKEN, browser::Browser, markup::read, stage, support};

/// Every page, with ids that are not there; the rest of the tests look at those that are.
const PAGES: [&str; 15] = [
    "/console",
    "/console/",
    "/console/find?q=evt_1",
    "/console/letters",
    "/console/letters/heap",
    "/console/letters/redrive",
    "/console/letters/0:7",
    "/console/jobs/replay-1",
    "/console/replays",
    "/console/connectors",
    "/console/projects",
    "/console/projects/proj_1",
    "/console/projects/proj_1/history",
    "/console/projects/proj_1/connectors/conn_1",
    "/console/events/evt_1",
];

const CHANGES: [&str; 7] = [
    "/console/logout",
    "/console/letters/redrive",
    "/console/replays",
    "/console/jobs/replay-1/stop",
    "/console/jobs/replay-1/resume",
    "/console/projects/proj_1/connectors/conn_1/resume",
    "/console/projects/proj_1/connectors/conn_1/active",
];

#[test]
fn without_a_token_the_console_is_off_and_says_how_to_switch_it_on() {
    let Some((stage, _sink)) = support::scene::stage("1s", "") else { return };
    let serve = stage.serve("one");
    let mut browser = Browser::new(serve.admin);
    for path in ["/console", "/console/letters", "/console/login"] {
        let answer = browser.get(path);
        assert_eq!(answer.status, 403, "{path}");
        read(&answer.body);
        assert!(answer.body.contains("The console is off"), "{path}");
        assert!(answer.body.contains("dunmore token create --admin"), "{path}");
        assert!(answer.body.contains("admin.token_sha256"), "{path}");
    }
    assert_eq!(browser.post("/console/login", &[("token", TOKEN)]).status, 403);
    serve.stop();
}

#[test]
fn only_the_admin_token_opens_a_session_and_only_its_forms_change_anything() {
    let Some((stage, _sink)) = stage() else { return };
    let serve = stage.serve("one");
    let mut browser = Browser::new(serve.admin);

    // Nobody is logged in: each page leads to the login, which leads back.
    for path in PAGES {
        let answer = browser.get(path);
        assert_eq!(answer.status, 303, "{path}");
        assert!(answer.header("location").starts_with("/console/login?next=%2Fconsole"), "{path}");
        assert_eq!(answer.body, "", "{path}");
    }
    for path in CHANGES {
        let answer = browser.post(path, &[("csrf", "")]);
        assert_eq!(answer.status, 303, "{path}");
        assert_eq!(answer.header("location"), "/console/login?next=%2Fconsole", "{path}");
    }

    headers_forbid_all_but_our_own(&mut browser);

    // A wrong token, and a login that does not come from the form.
    let form = browser.page("/console/login?next=/console/letters%3Fa%3Db");
    let csrf = form.field("csrf");
    assert_eq!(form.field("next"), "/console/letters?a=b");
    let stranger =
        Browser::new(serve.admin).post("/console/login", &[("csrf", &csrf), ("token", TOKEN)]);
    assert_eq!((stranger.status, stranger.cookies().len()), (403, 1), "a new form, no session");
    for token in ["", "dmt_wrong", "dmt_tes"] {
        let refused = browser.post("/console/login", &[("csrf", &csrf), ("token", token)]);
        assert_eq!(refused.status, 401, "{token}");
        assert!(refused.body.contains("This is not the admin token."));
        assert!(!refused.cookies().iter().any(|cookie| cookie.starts_with("dunmore_console=")));
    }
    let elsewhere = browser.get("/console/login?next=//evil.example");
    assert_eq!(elsewhere.field("next"), "/console");

    // The right one.
    let answer = browser.post(
        "/console/login",
        &[("csrf", &csrf), ("token", TOKEN), ("next", "/console/letters?a=b")],
    );
    assert_eq!((answer.status, answer.header("location")), (303, "/console/letters?a=b"));
    let cookie = answer.cookies().into_iter().find(|one| one.starts_with("dunmore_console="));
    let cookie = cookie.unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/console", "Max-Age=43200"] {
        assert!(cookie.split("; ").any(|one| one == part), "{part} in {cookie}");
    }
    let value = cookie["dunmore_console=".len()..].split(';').next().unwrap();
    assert_eq!(value.len(), 64, "256 bits");
    let now = browser.page("/console");
    assert!(!now.body.contains(value), "scripts cannot see the cookie");

    // A form without the session's token changes nothing; nor does one of another session.
    let own = now.field("csrf");
    let other = Browser::logged_in(serve.admin).page("/console").field("csrf");
    assert_ne!(own, other);
    for csrf in ["", "x", &other, &own[1..]] {
        for path in CHANGES {
            let refused = browser.post(path, &[("csrf", csrf)]);
            assert_eq!(refused.status, 403, "{path}");
            read(&refused.body);
        }
    }
    assert_eq!(browser.get("/console/nothing").status, 404);
    let gone = browser.get("/console/projects/proj_1/connectors/conn_1");
    assert_eq!(gone.status, 404);
    read(&gone.body);

    // A logout ends the session here, not only in the browser.
    let answer = browser.submit(&now, "/console/logout", &[]);
    assert_eq!((answer.status, answer.header("location")), (303, "/console/login"));
    assert_eq!(browser.get("/console").status, 303);
    let mut thief = Browser::new(serve.admin);
    thief.keep("dunmore_console", value);
    assert_eq!(thief.get("/console").status, 303);

    // Everybody else is kept from guessing.
    let csrf = browser.page("/console/login").field("csrf");
    let mut refused = 0;
    support::wait_until("too many logins", PATIENCE, || {
        refused = browser.post("/console/login", &[("csrf", &csrf), ("token", "x")]).status;
        refused != 401
    });
    assert_eq!(refused, 429);
    let log = serve.log_text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    for words in ["POST /console/login", "POST /console/logout"] {
        assert!(lines.iter().any(|line| line.contains(words)), "{words} in\n{}", lines.join("\n"));
    }
    assert!(
        lines.iter().all(|line| line.contains("console") && !line.contains("unknown")),
        "{log}"
    );
    assert!(!log.contains(TOKEN) && !log.contains(value), "no secret is logged");
    serve.stop();
}

#[test]
fn a_login_that_did_not_see_its_form_is_answered_before_its_body() {
    let Some((stage, _sink)) = stage() else { return };
    let serve = stage.serve("one");
    let mut stream = TcpStream::connect(serve.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /console/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    serve.stop();
}

fn headers_forbid_all_but_our_own(browser: &mut Browser) {
    // What every answer says to the browser.
    let paths = ["/console", "/console/login", "/console/style.css", "/console/console.js"];
    for path in paths {
        let answer = browser.get(path);
        let policy = answer.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "style-src 'self'",
            "script-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.split("; ").any(|one| one == part), "{path}: {part} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
    let script = browser.get("/console/console.js");
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    assert!(script.body.lines().count() <= 200);
    assert_eq!(browser.get("/console/style.css").header("content-type"), "text/css; charset=utf-8");
}
