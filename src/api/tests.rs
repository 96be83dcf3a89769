//! The API as values: requests in, answers out, on a real store. One test goes through every layer by sockets.

mod datastores;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::call::{Reply, Request};
use crate::api::router::{Access, ROUTES, Router};
use crate::api::{Api, HttpSettings, Limits};
use crate::clock::Deadline;
use crate::domain::id::{InstanceId, RecoveryId};
use crate::domain::instance::InstanceStatus;
use crate::domain::recovery::RecoveryState;
use crate::service::bench::Bench;
use crate::service::hex_of;

const TOKEN: &str = "secret-token";

struct Rig {
    bench: Bench,
    router: Arc<Router>,
}

fn rig() -> Rig {
    rig_of(Bench::new())
}

fn rig_of(bench: Bench) -> Rig {
    bench.store.write(|tx| tx.insert_token(&hex_of(TOKEN), "first")).unwrap();
    let router = Arc::new(Router::new(bench.service.clone(), "appliance".to_owned()));
    Rig { bench, router }
}

impl Rig {
    fn send(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let reply = self.router.answer(&request(method, target, body));
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    /// Below the tenant.
    fn get(&self, path: &str) -> Value {
        let (status, value) = self.send("GET", &format!("/v1.0/appliance{path}"), "");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", &format!("/v1.0/appliance{path}"), &body.to_string())
    }
}

fn request(method: &str, target: &str, body: &str) -> Request {
    Request {
        method: method.to_owned(),
        target: target.to_owned(),
        content_type: (!body.is_empty()).then(|| "application/json".to_owned()),
        accept: Some("application/json".to_owned()),
        token: Some(TOKEN.to_owned()),
        authorization: None,
        body: body.as_bytes().to_vec(),
    }
}

/// The path of a route with something in the place of each parameter.
fn example(pattern: &str) -> String {
    let id = InstanceId::random().to_string();
    let segments = pattern.split('/').map(|segment| match segment {
        "{tenant}" => "appliance",
        "{file}" => "style.css",
        segment if segment.starts_with('{') => id.as_str(),
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

fn no_nulls(value: &Value, path: &str) {
    match value {
        // Plain strings that Trove itself sends as null.
        Value::Null => assert!(path.ends_with("/parent_id") || path.ends_with("/locationRef"), "{path} is null"),
        Value::Object(members) => members.iter().for_each(|(name, member)| no_nulls(member, &format!("{path}/{name}"))),
        Value::Array(items) => items.iter().for_each(|item| no_nulls(item, path)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_route_without_a_token_is_401_but_the_open_ones() {
    let rig = rig();
    let mut open = Vec::new();
    for route in ROUTES {
        for token in [None, Some("wrong"), Some("notused"), Some("")] {
            let mut request = request(route.method, &example(route.path), "");
            request.token = token.map(str::to_owned);
            let reply = rig.router.answer(&request);
            match route.access {
                Access::Open => {
                    assert_eq!(reply.status, 200, "{}", route.path);
                    open.push(route.path);
                }
                Access::Token => {
                    assert_eq!(reply.status, 401, "{} {}", route.method, route.path);
                    assert!(String::from_utf8_lossy(&reply.body).starts_with("{\"unauthorized\":{\"code\":401,"));
                    assert!(reply.headers.iter().any(|(name, _)| *name == "WWW-Authenticate"));
                }
            }
        }
    }
    open.dedup();
    assert_eq!(open, ["/", "/static/{file}", "/healthz"]);
    // What is not there tells nobody so without a token either.
    for path in ["/nothing", "/v1.0/other/instances", "/v1.0/appliance/mgmt/instances"] {
        let mut request = request("GET", path, "");
        request.token = None;
        assert_eq!(rig.router.answer(&request).status, 401, "{path}");
    }
}

#[test]
fn every_route_reaches_its_handler() {
    let rig = rig();
    for route in ROUTES {
        let (status, value) = rig.send(route.method, &example(route.path), "");
        // Missing bodies are 400, random ids 404: but never "no such resource" or "no such method".
        assert!(matches!(status, 200 | 400 | 404), "{} {}: {status}", route.method, route.path);
        assert!(!value.to_string().contains("resource could not be found"), "{} {}", route.method, route.path);
    }
}

#[test]
fn what_is_not_there_says_so_in_troves_shape() {
    let rig = rig();
    for (method, path, status, name) in [
        ("GET", "/nothing", 404, "itemNotFound"),
        ("GET", "/v1.0/instances", 404, "itemNotFound"),
        ("GET", "/v1.0/other/instances", 404, "itemNotFound"),
        ("GET", "/v1.0/appliance", 404, "itemNotFound"),
        ("GET", "/v1.0/appliance//instances", 404, "itemNotFound"),
        ("GET", "/v1.0/appliance/instances/db1", 404, "itemNotFound"),
        ("GET", "/v1.0/appliance/instances/..%2f..%2fetc", 404, "itemNotFound"),
        ("GET", "/v1.0/appliance/instances/%zz", 400, "badRequest"),
        ("PUT", "/v1.0/appliance/backups", 405, "badMethod"),
        ("PATCH", "/v1.0/appliance/instances/x", 501, "notImplemented"),
        ("GET", "/v1.0/appliance/clusters", 501, "notImplemented"),
        ("GET", "/v1.0/appliance/mgmt/instances?deleted=False", 501, "notImplemented"),
        ("POST", "/v1.0/appliance/instances/x/root", 501, "notImplemented"),
        ("GET", "/v1.0/appliance/instances/x/users/u/databases", 501, "notImplemented"),
        ("GET", "/static/..%2fsecret", 404, "itemNotFound"),
        ("GET", "/v3", 404, "itemNotFound"),
        ("POST", "/v3/auth/tokens", 404, "itemNotFound"),
    ] {
        let (got, value) = rig.send(method, path, "");
        assert_eq!(got, status, "{method} {path}: {value}");
        assert_eq!(value[name]["code"], json!(status), "{method} {path}: {value}");
        assert!(value[name]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let mut anonymous = request("GET", "/v3", "");
    anonymous.token = None;
    assert_eq!(rig.router.answer(&anonymous).status, 404, "a 401 there hangs Trove's clients");
}

#[test]
fn bad_bodies_are_400_naming_the_member_and_the_remedy() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    let other = InstanceId::random();
    let recover = format!("/v1.0/appliance/instances/{id}/recover");
    let recovery = |members: &str| (recover.clone(), format!("{{\"recovery\":{members}}}"));
    let backup = |members: &str| ("/v1.0/appliance/backups".to_owned(), format!("{{\"backup\":{members}}}"));
    let instance = |members: &str| ("/v1.0/appliance/instances".to_owned(), format!("{{\"instance\":{members}}}"));
    for ((path, body), named) in [
        ((recover.clone(), String::new()), "not valid JSON"),
        ((recover.clone(), "{".to_owned()), "not valid JSON"),
        ((recover.clone(), "{\"recovery\":{\"latest\":true}} x".to_owned()), "not valid JSON"),
        ((recover.clone(), "[".repeat(60_000)), "not valid JSON"),
        ((recover.clone(), "[]".to_owned()), "the body is a list"),
        ((recover.clone(), "{}".to_owned()), "`recovery` is missing"),
        ((recover.clone(), "{\"recover\":{\"latest\":true}}".to_owned()), "`recover`"),
        (recovery("5"), "`recovery` is a number"),
        (recovery("{}"), "`recovery` holds no target"),
        (recovery("{\"latest\":false}"), "`recovery` holds no target"),
        (recovery("{\"latest\":\"yes\"}"), "`recovery.latest`"),
        (recovery("{\"latest\":true,\"lates\":1}"), "`recovery.lates`"),
        (recovery("{\"latest\":true,\"latest\":true}"), "`latest` stands twice"),
        (recovery("{\"backup\":\"b1\"}"), "`recovery.backup`"),
        (recovery("{\"backup\":5}"), "`recovery.backup`"),
        (recovery("{\"timeline\":\"1\",\"latest\":true}"), "`recovery.timeline`"),
        (recovery("{\"point_in_time\":\"2026-01-31T14:03:06\"}"), "`recovery.point_in_time`"),
        (recovery("{\"point_in_time\":\"yesterday\"}"), "`recovery.point_in_time`"),
        (recovery("{\"point_in_time\":1738147200}"), "`recovery.point_in_time`"),
        (recovery("{\"gtid\":\"0-1\"}"), "`recovery.gtid`"),
        (recovery("{\"before_gtid\":\"-1-1-1\"}"), "`recovery.before_gtid`"),
        (recovery("{\"position\":\"binlog.000001\"}"), "`recovery.position`"),
        (recovery("{\"before_position\":\"../x.000001:4\"}"), "`recovery.before_position`"),
        (recovery("{\"latest\":true,\"skip\":\"0-1-1\"}"), "`recovery.skip`"),
        (recovery("{\"latest\":true,\"skip\":[\"x\"]}"), "`recovery.skip`"),
        (recovery("{\"latest\":true,\"skip\":[5]}"), "`recovery.skip`"),
        (recovery("{\"latest\":true,\"plan_only\":1}"), "`recovery.plan_only`"),
        (recovery("{\"latest\":true,\"gtid\":\"0-1-1\"}"), "`recovery.gtid` and `recovery.latest`"),
        (
            recovery("{\"point_in_time\":\"2026-01-31T14:03:06Z\",\"before_gtid\":\"0-1-1\"}"),
            "`recovery.point_in_time` and `recovery.before_gtid`",
        ),
        (recovery(&format!("{{\"instance\":\"{other}\",\"latest\":true}}")), "`recovery.instance`"),
        (backup("{\"name\":\"b\"}"), "`backup.instance` is missing"),
        (backup(&format!("{{\"instance\":\"{id}\"}}")), "`backup.name` is missing"),
        (backup(&format!("{{\"instance\":\"{id}\",\"name\":5}}")), "`backup.name`"),
        (backup(&format!("{{\"instance\":\"{id}\",\"name\":\"--\"}}")), "`name`"),
        (backup("{\"instance\":\"db1\",\"name\":\"b\"}"), "`backup.instance`"),
        (backup(&format!("{{\"instance\":\"{id}\",\"name\":\"b\",\"size\":1}}")), "`backup.size`"),
        (instance("{\"port\":3306}"), "`instance.name` is missing"),
        (instance("{\"name\":\"a\",\"port\":70000}"), "`instance.port`"),
        (instance("{\"name\":\"a\",\"port\":\"3306\"}"), "`instance.port`"),
        (instance("{\"name\":\"a\",\"adopt\":{}}"), "`instance.adopt.socket`"),
        (instance("{\"name\":\"a\",\"adopt\":{\"socket\":\"/s\"}}"), "`instance.adopt.defaults_file`"),
        (instance("{\"name\":\"a\",\"adopt\":{\"socket\":\"/s\",\"defaults_file\":\"/d\"}}"), "systemd_unit"),
        (
            instance("{\"name\":\"a\",\"adopt\":{\"socket\":\"/s\",\"defaults_file\":\"/d\",\"start\":[\"/a\"]}}"),
            "`instance.adopt.stop`",
        ),
        (
            instance("{\"name\":\"a\",\"adopt\":{\"socket\":\"s\",\"defaults_file\":\"/d\",\"systemd_unit\":\"m\"}}"),
            "`adopt.socket`",
        ),
        ((format!("/v1.0/appliance/instances/{id}/action"), "{}".to_owned()), "no action"),
        ((format!("/v1.0/appliance/instances/{id}/action"), "{\"stop\":{}}".to_owned()), "`stop`"),
        (
            (format!("/v1.0/appliance/instances/{id}/action"), "{\"verify\":{\"slice\":\"8/7\"}}".to_owned()),
            "`verify.slice`",
        ),
        ((format!("/v1.0/appliance/instances/{id}/action"), "{\"verify\":{\"all\":1}}".to_owned()), "`verify.all`"),
        ((format!("/v1.0/appliance/backups/{other}/action"), "{}".to_owned()), "no action"),
    ] {
        let mut request = request("POST", &path, &body);
        request.content_type = Some("application/json; charset=utf-8".to_owned());
        let reply = rig.router.answer(&request);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 400, "{body}: {text}");
        let message =
            serde_json::from_str::<Value>(&text).unwrap()["badRequest"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(named), "{body}: {message}");
        let (_, remedy) = message.split_once(". ").unwrap_or_else(|| panic!("no remedy: {message}"));
        assert!(remedy.ends_with('.') || remedy.ends_with("4711."), "{message}");
    }
    assert!(rig.bench.service.recoveries(id).unwrap().is_empty());
    assert_eq!(rig.bench.service.instances().unwrap().len(), 1);
}

#[test]
fn a_verification_is_asked_for_as_an_action_and_what_it_finds_stands_in_the_views() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    let backup = rig.bench.completed(id, "b1").id;
    assert_eq!(rig.get(&format!("/backups/{backup}"))["backup"]["verification"], "NEVER");
    let (status, answer) = rig.post(&format!("/backups/{backup}/action"), &json!({"verify": {"slice": "2/7"}}));
    assert_eq!((status, &answer["verification"]["slice"]), (202, &json!("2/7")), "{answer}");
    let (status, answer) = rig.post(&format!("/instances/{id}/action"), &json!({"verify": {}}));
    assert_eq!((status, &answer["verification"]["slice"]), (202, &json!("1/1")), "{answer}");
    let view = rig.get(&format!("/instances/{id}"))["instance"].clone();
    assert_eq!(view["operating_status"], "HEALTHY", "a verification changes nothing for the server");
    assert_eq!(view["verification"]["run"]["task"], answer["verification"]["task"]);
    let view = rig.get(&format!("/backups/{backup}"))["backup"].clone();
    assert_eq!(
        (&view["task"]["kind"], &view["task"]["id"]),
        (&json!("verify_backup"), &view["verification_run"]["task"])
    );
    no_nulls(&view, "/backup");
    assert_eq!(rig.post(&format!("/backups/{}/action", Bench::nobody()), &json!({"verify": {}})).0, 404);
}

#[test]
fn only_json_is_taken() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    for (content_type, body) in [
        (Some("application/x-www-form-urlencoded"), "restart="),
        (Some("text/plain"), "{\"restart\":{}}"),
        (Some("multipart/form-data; boundary=x"), ""),
        (None, "{\"restart\":{}}"),
    ] {
        let mut request = request("POST", &format!("/v1.0/appliance/instances/{id}/action"), body);
        request.content_type = content_type.map(str::to_owned);
        let reply = rig.router.answer(&request);
        assert_eq!(reply.status, 415, "{content_type:?}");
        assert!(String::from_utf8_lossy(&reply.body).starts_with("{\"badMediaType\":"));
    }
}

#[test]
fn what_trove_offers_and_coffer_does_not_is_501_and_never_ignored() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    for (path, body) in [
        ("/instances", json!({"instance": {"name": "a", "restorePoint": {"backupRef": id}}})),
        ("/instances", json!({"instance": {"name": "a", "replica_of": id}})),
        ("/instances", json!({"instance": {"name": "a", "databases": [{"name": "d"}]}})),
        ("/backups", json!({"backup": {"name": "b", "instance": id, "incremental": 1}})),
        ("/backups", json!({"backup": {"name": "b", "instance": id, "incremental": 0, "parent_id": id}})),
        ("/backups", json!({"backup": {"name": "b", "restore_from": {"remote_location": "http://x"}}})),
        (&format!("/instances/{id}/action"), json!({"resize": {"volume": {"size": 2}}})),
        (&format!("/instances/{id}/action"), json!({"eject_replica_source": {}})),
    ] {
        let (status, value) = rig.post(path, &body);
        assert_eq!((status, value["notImplemented"]["code"].clone()), (501, json!(501)), "{body}: {value}");
    }
}

#[test]
fn an_instance_is_created_as_troves_client_does_it() {
    let rig = rig();
    let body = json!({"instance": {
        "name": "db1", "flavorRef": "host", "volume": {"size": 10, "type": null}, "access": {"is_public": false},
        "datastore": {"type": "mariadb", "version": "10.11"}, "databases": [], "users": [], "replica_of": null,
    }});
    let (status, value) = rig.post("/instances", &body);
    assert_eq!(status, 200, "{value}");
    let created = &value["instance"];
    assert_eq!(created["status"], "BUILD");
    assert_eq!(created["control"], "created");
    assert_eq!(created["task"]["kind"], "create_instance");
    assert_eq!(rig.post("/instances", &body).0, 409);
    let adopt = json!({"instance": {"name": "db2", "port": null, "adopt": {
        "socket": "/run/mysqld/mysqld.sock", "defaults_file": "/etc/coffer/db2.cnf", "systemd_unit": "mariadb.service",
    }}});
    let (status, value) = rig.post("/instances", &adopt);
    assert_eq!((status, &value["instance"]["control"]["systemd"]["unit"]), (200, &json!("mariadb.service")), "{value}");
    let list = rig.get("/instances?include_clustered=False");
    assert_eq!(list["instances"].as_array().unwrap().len(), 2);
    no_nulls(&list, "");
}

#[test]
fn views_have_what_troves_client_needs_and_no_nulls() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    let backup = rig.bench.completed(id, "b1");
    let shown = rig.get(&format!("/instances/{id}"));
    let instance = &shown["instance"];
    for (member, expected) in [
        ("/flavor/id", json!("host")),
        ("/datastore/type", json!("mariadb")),
        ("/datastore/version", json!("10.11")),
        ("/datastore/version_number", json!("10.11.6")),
        ("/status", json!("ACTIVE")),
        ("/operating_status", json!("HEALTHY")),
        ("/timeline/number", json!(1)),
        ("/recoverable/earliest", json!("2025-01-29T10:40:00Z")),
    ] {
        assert_eq!(instance.pointer(member), Some(&expected), "{member}");
    }
    assert!(instance.get("task").is_none() && instance.get("fault").is_none());
    let shown = rig.get(&format!("/backups/{}", backup.id));
    for (member, expected) in [
        ("/backup/size", json!(3.0)),
        ("/backup/status", json!("COMPLETED")),
        ("/backup/instance_id", json!(id)),
        ("/backup/project_id", json!("appliance")),
        ("/backup/parent_id", Value::Null),
        ("/backup/datastore/version", json!("10.11")),
        ("/backup/end/position", json!("binlog.000001:400")),
        ("/backup/end/gtid", json!("0-1-2")),
    ] {
        assert_eq!(shown.pointer(member), Some(&expected), "{member}");
    }
    let datastore = rig.get("/datastores/mariadb");
    let versions = datastore["datastore"]["versions"].as_array().unwrap();
    assert!(versions.iter().any(|version| version["id"] == datastore["datastore"]["default_version"]));
    assert_eq!(rig.get("/datastores/mariadb/versions/10.11")["version"]["name"], "10.11");
    assert_eq!(rig.get("/limits")["limits"][0]["verb"], "ABSOLUTE");
    for path in ["/backups", "/datastores", "/datastores/mariadb/versions", "/flavors", "/flavors/host", "/limits"] {
        no_nulls(&rig.get(path), path);
    }
    no_nulls(&rig.get(&format!("/instances/{id}")), "");
    no_nulls(&rig.get(&format!("/instances/{id}/timelines")), "");
}

#[test]
fn backups_are_cast_listed_by_page_and_deleted() {
    let rig = rig();
    let (one, other) = (rig.bench.active("db1").id, rig.bench.active("db2").id);
    for n in 0..3 {
        rig.bench.completed(one, &format!("b{n}"));
        rig.bench.completed(other, &format!("o{n}"));
    }
    // From the second page on Trove's client sends the marker alone; the filter must survive that.
    let mut seen = Vec::new();
    let mut path = format!("/backups?instance_id={one}&limit=2");
    for _ in 0..5 {
        let page = rig.get(&path);
        seen.extend(page["backups"].as_array().unwrap().iter().map(|backup| backup["name"].clone()));
        let Some(link) = page["links"][0]["href"].as_str() else { break };
        path = format!("/backups?{}&limit=2", link.split_once('?').unwrap().1);
    }
    assert_eq!(seen, ["b2", "b1", "b0"]);
    assert_eq!(rig.get(&format!("/instances/{other}/backups"))["backups"].as_array().unwrap().len(), 3);

    let body = json!({"backup": {"name": "n", "incremental": 0, "instance": one, "swift_container": "c"}});
    let (status, value) = rig.post("/backups", &body);
    assert_eq!((status, &value["backup"]["status"]), (202, &json!("NEW")), "{value}");
    let (status, value) = rig.post("/backups", &body);
    assert_eq!((status, &value["unprocessableEntity"]["code"]), (422, &json!(422)), "{value}");
    let path = format!("/v1.0/appliance/backups/{}", rig.get("/backups")["backups"][0]["id"].as_str().unwrap());
    assert_eq!(rig.send("DELETE", &path, "").0, 422);
    rig.bench.end_tasks(one);
    assert_eq!(rig.send("DELETE", "/v1.0/appliance/backups/b0", "").0, 404);
}

#[test]
fn a_recovery_is_completed_only_when_its_task_has_ended_too() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    rig.bench.completed(id, "b1");
    let mut recovery = rig.bench.begin(id, false).recovery;
    let path = format!("/instances/{id}/recoveries/{}", recovery.id);
    let status = || rig.get(&path)["recovery"]["status"].clone();
    assert_eq!(status(), "BUILDING");
    recovery.state = RecoveryState::Retained;
    rig.bench.store.write(|tx| tx.update_recovery(&recovery)).unwrap();
    assert_eq!(status(), "BUILDING", "an undo asked for now would be refused");
    rig.bench.end_tasks(id);
    assert_eq!(status(), "COMPLETED");
}

#[test]
fn a_recovery_is_planned_begun_watched_and_promoted() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    let backup = rig.bench.completed(id, "b1");
    let recover = format!("/instances/{id}/recover");
    let plan_only = json!({"recovery": {"before_gtid": "0-1-5", "plan_only": true, "skip": ["0-1-3"]}});
    let (status, value) = rig.post(&recover, &plan_only);
    assert_eq!(status, 200, "{value}");
    let plan = &value["plan"];
    assert_eq!(plan["base"], json!(backup.id));
    assert_eq!(plan["first_excluded"]["begins_at"], "binlog.000001:600");
    assert_eq!(plan["target"], "just before transaction 0-1-5, without 0-1-3");
    assert_eq!(plan["stop"]["commit_time"], "2025-01-29T10:41:00Z");
    assert_eq!(rig.bench.status(id), InstanceStatus::Active, "planning changes nothing");

    // The blueprint's body, with a pause.
    let body = json!({"recovery": {"instance": id, "backup": backup.id, "pause": true}});
    let (status, value) = rig.post(&format!("/instances/{id}/restore"), &body);
    assert_eq!(status, 202, "{value}");
    no_nulls(&value, "");
    let begun = &value["recovery"];
    assert_eq!(begun["id"], json!(id), "as the blueprint has it");
    assert_eq!(begun["status"], "BUILDING");
    assert_eq!(begun["datastore"], "mariadb");
    assert_eq!(begun["recovered_from_backup"], json!(backup.id));
    assert_eq!(begun["point_in_time"], "2025-01-29T10:41:00Z");
    assert_eq!(rig.post(&recover, &body).0, 409);

    let rid: RecoveryId = begun["recovery_id"].as_str().unwrap().parse().unwrap();
    let path = format!("/instances/{id}/recoveries/{rid}");
    let (status, value) = rig.post(&format!("{path}/promote"), &json!({}));
    assert_eq!(status, 409, "{value}");
    let view = rig.bench.service.recovery(id, rid).unwrap();
    rig.bench.bring(&view, RecoveryState::Replayed, true);
    let shown = rig.get(&path);
    assert_eq!((&shown["recovery"]["id"], &shown["recovery"]["status"]), (&json!(rid), &json!("PAUSED")));
    assert_eq!(rig.post(&format!("{path}/promote"), &json!({"force": true})).0, 400);
    let (status, value) = rig.send("POST", &format!("/v1.0/appliance{path}/promote"), "");
    assert_eq!((status, &value["recovery"]["status"]), (202, &json!("BUILDING")), "{value}");
    let view = rig.bench.service.recovery(id, rid).unwrap();
    rig.bench.bring(&view, RecoveryState::Retained, false);
    assert_eq!(rig.get(&format!("/instances/{id}/recoveries"))["recoveries"][0]["status"], "COMPLETED");
    assert_eq!(rig.post(&format!("{path}/abort"), &json!({})).0, 409);
    assert_eq!(rig.post(&format!("{path}/undo"), &json!({})).0, 202);
    assert_eq!(rig.post(&format!("{path}/release"), &json!({})).0, 409);
}

#[test]
fn a_refused_plan_is_a_conflict_with_its_facts_and_remedy() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    *rig.bench.planning.refusal.lock().unwrap() = Some("binlog is missing after binlog.000003:4711");
    for plan_only in [true, false] {
        let body = json!({"recovery": {"latest": true, "plan_only": plan_only}});
        let (status, value) = rig.post(&format!("/instances/{id}/recover"), &body);
        assert_eq!(status, 409);
        let expected = "binlog is missing after binlog.000003:4711. Choose an earlier target.";
        assert_eq!(value["conflict"]["message"], expected);
    }
}

#[test]
fn transactions_are_filtered_as_asked() {
    let rig = rig();
    let id = rig.bench.active("db1").id;
    let path = format!("/instances/{id}/transactions");
    let query = "since=2026-01-01T00:00:00.5Z&until=2026-01-02T01:00:00%2B01:00&table=shop.orders&destructive&limit=7";
    let value = rig.get(&format!("{path}?{query}"));
    let transaction = &value["transactions"][0];
    assert_eq!(transaction["begins_at"], "binlog.000001:600");
    assert_eq!(transaction["destructive"], true);
    let filter = rig.bench.planning.filters.lock().unwrap().pop().unwrap();
    assert_eq!((filter.since, filter.until), (Some(1_767_225_600_500_000), Some(1_767_312_000_000_000)));
    assert_eq!((filter.table.as_deref(), filter.destructive, filter.limit), (Some("shop.orders"), true, 7));
    rig.get(&path);
    let filter = rig.bench.planning.filters.lock().unwrap().pop().unwrap();
    assert!(!filter.destructive && filter.limit == 100 && filter.since.is_none());
    for query in ["since=today", "tables=orders", "limit=0", "limit=1001", "destructive=perhaps", "limit=1&limit=2"] {
        let (status, value) = rig.send("GET", &format!("/v1.0/appliance{path}?{query}"), "");
        assert_eq!(status, 400, "{query}");
        let name = query.split('=').next().unwrap();
        assert!(value["badRequest"]["message"].as_str().unwrap().contains(&format!("`{name}`")), "{value}");
    }
}

#[test]
fn the_page_is_for_browsers_and_lets_nothing_else_in() {
    let rig = rig();
    let mut browser = request("GET", "/", "");
    browser.accept = Some("text/html,application/xhtml+xml,*/*;q=0.8".to_owned());
    browser.token = None;
    let page = rig.router.answer(&browser);
    let header = |reply: &Reply, name| reply.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    assert!(page.content_type.starts_with("text/html"));
    assert!(header(&page, "Content-Security-Policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    assert_eq!(header(&page, "X-Frame-Options"), Some("DENY"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(!text.contains("<script>") && !text.contains(" onclick") && !text.contains("<style"), "nothing inline");
    let (_, versions) = rig.send("GET", "/", "");
    assert_eq!(versions["versions"][0]["id"], "v1.0");
    assert_eq!(rig.send("GET", "/v1.0/", "").1["version"]["status"], "CURRENT");
}

#[test]
fn a_request_goes_through_every_layer_and_back() {
    let rig = rig();
    let id = rig.bench.active("db <1>").id;
    let settings = HttpSettings {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        tenant: "appliance".to_owned(),
        hosts: Vec::new(),
        tls: None,
        socket_dir: rig.bench.dir.to_path_buf(),
        workers: 2,
        limits: Limits::default(),
    };
    let api = Api::start(rig.bench.service.clone(), settings).unwrap();
    let address = api.address();
    assert_eq!(api.url(), format!("http://{address}"));
    let send = |head: &str, body: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let text = format!(
            "{head} HTTP/1.1\r\nHost: {address}\r\nX-Auth-Token: {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = send(&format!("GET /v1.0/appliance/instances/{id}"), "");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nX-Content-Type-Options: nosniff\r\n"));
    assert!(answer.contains("\"name\":\"db <1>\""), "{answer}");
    let body = json!({"backup": {"name": "b", "instance": id}}).to_string();
    let answer = send("POST /v1.0/appliance/backups", &body);
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    let answer = send(&format!("DELETE /v1.0/appliance/instances/{id}"), "");
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(send("GET /metrics", "").contains("coffer_instance_up{instance=\"db <1>\"} 1\n"));
    assert!(send("HEAD /healthz", "").ends_with("\r\n\r\n"));
    api.stop();
    assert!(TcpStream::connect(address).is_err());
    // The thread of the last connection may be just about to let go of the server.
    let deadline = Deadline::after(Duration::from_secs(5));
    let is_left = || {
        let mut entries = std::fs::read_dir(&*rig.bench.dir).unwrap().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".sock"))
    };
    while is_left() {
        assert!(!deadline.has_passed(), "a socket is left behind");
        std::thread::sleep(Duration::from_millis(5));
    }
}
