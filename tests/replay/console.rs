//! The admin API: the same operations as JSON, for whoever has the token.

use serde_json::{Value, json};

use super::{
    PATIENCE, n8n, stage,
    support::{events::event, serve::call, wait_until},
};

const TOKEN: &str = "dmt_test";

#[test]
fn the_admin_api_does_what_the_command_line_does() {
    let digest = dunmore_connectors::tokens::digest_of(TOKEN);
    let more = format!("admin.token_sha256 = \"{digest}\"");
    let Some((stage, sink)) = stage("1s,5s", &more) else { return };
    let serve = stage.serve("one");
    let none = Value::Null;
    let get = |path: &str| call(serve.admin, Some(TOKEN), "GET", path, &none);
    let post = |path: &str, body: &Value| call(serve.admin, Some(TOKEN), "POST", path, body);

    for path in ["/admin/v1/replays", "/admin/v1/dead-letters", "/admin/v1/deliveries"] {
        for token in [None, Some("dmt_wrong"), Some("")] {
            let (status, problem) = call(serve.admin, token, "GET", path, &none);
            assert_eq!((status, &problem["code"]), (401, &"unauthorized".into()), "{path}");
        }
        assert_eq!(get(path).0, 200, "{path}");
    }

    let events: Vec<Value> =
        (0..20).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1")).collect();
    stage.events(&events);
    stage.wait_committed(PATIENCE);
    stage.set_up(&[n8n(&sink, "one", &["payment.settled"])]);
    let (status, wrong) = post("/admin/v1/replays", &json!({"rate": 0, "types": ["slak"]}));
    assert_eq!((status, &wrong["code"]), (400, &"validation_failed".into()));
    assert_eq!(wrong["errors"].as_array().unwrap().len(), 3, "{wrong}");
    let unknown = post("/admin/v1/replays", &json!({"form": "beginning"}));
    assert_eq!(unknown.0, 400, "{unknown:?}");
    let asked = json!({"from": "beginning", "connectors": ["proj_1/one"], "dryRun": true});
    let (status, plan) = post("/admin/v1/replays", &asked);
    assert_eq!((status, &plan["plan"]["send"]), (200, &20.into()));
    let asked = json!({"from": "beginning", "connectors": ["proj_1/one"], "rate": 1000});
    let (status, started) = post("/admin/v1/replays", &asked);
    assert_eq!(status, 202, "{started}");
    let job = started["job"].as_str().unwrap();
    wait_until("it has arrived", PATIENCE, || sink.count() == 20);
    wait_until("the job has ended", PATIENCE, || {
        let (_, told) = get(&format!("/admin/v1/replays/{job}"));
        told["state"] == "done" && told["runsHere"] == false
    });
    assert_eq!(get("/admin/v1/replays/replay-0").0, 404);
    assert_eq!(post(&format!("/admin/v1/jobs/{job}/stop"), &none).0, 409);
    // The second time it warns, and wants to be told.
    let (status, warned) = post(
        "/admin/v1/replays",
        &json!({"from": "beginning", "onlyMissing": false, "dryRun": true}),
    );
    assert_eq!((status, &warned["warnings"][0]["code"]), (200, &"repeats".into()), "{warned}");

    let (status, told) = get(&format!("/admin/v1/deliveries?job={job}&limit=5"));
    assert_eq!((status, &told["total"]), (200, &20.into()));
    assert_eq!(get("/admin/v1/deliveries?outcome=lost").0, 400);
    let (status, story) = get("/admin/v1/events/evt_3/trace");
    assert_eq!((status, &story["deliveries"][0]["now"]["where"]), (200, &"delivered".into()));
    assert_eq!(get("/admin/v1/events/evt_99/trace").0, 404);

    stage.kafka.write(
        &stage.topic("payments.events"),
        [super::support::kafka::Write::new("proj_1", "broken")],
    );
    wait_until("a record is refused", PATIENCE, || {
        get("/admin/v1/dead-letters?reason=undecodable").1["total"] == 1
    });
    let position =
        get("/admin/v1/dead-letters").1["letters"][0]["position"].as_str().unwrap().to_owned();
    let (status, letter) = get(&format!("/admin/v1/dead-letters/{position}"));
    assert_eq!((status, &letter["valueBase64"]), (200, &"YnJva2Vu".into()));
    assert_eq!(get("/admin/v1/dead-letters/0:99999").0, 404);
    assert_eq!(post("/admin/v1/dead-letters/redrive", &json!({})).0, 400, "it must say which");
    let (status, redriven) = post("/admin/v1/dead-letters/redrive", &json!({"all": true}));
    assert_eq!((status, &redriven["undecodable"]), (200, &1.into()));
    let (status, plan) = post("/admin/v1/dead-letters/purge", &json!({"before": "now"}));
    assert_eq!((status, &plan["letters"], &plan["deleted"]), (200, &1.into(), &false.into()));
    let gone = post("/admin/v1/dead-letters/purge", &json!({"before": "now", "confirm": true})).1;
    assert_eq!(gone["deleted"], true);
    assert_eq!(get("/admin/v1/dead-letters").1["total"], 0);
    serve.stop();
}

#[test]
fn without_a_token_there_is_no_admin_api() {
    let Some((stage, _sink)) = stage("1s,5s", "") else { return };
    let serve = stage.serve("one");
    let (status, problem) =
        call(serve.admin, Some("any"), "GET", "/admin/v1/replays", &Value::Null);
    assert_eq!((status, &problem["code"]), (403, &"admin_disabled".into()));
    assert!(problem["detail"].as_str().unwrap().contains("dunmore token create --admin"));
    serve.stop();
}
