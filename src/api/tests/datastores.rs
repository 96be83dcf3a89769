//! Which servers are offered, and which one a new instance is.

use serde_json::json;

use super::{Rig, rig, rig_of};
use crate::domain::datastore::Datastore;
use crate::service::bench::Bench;

#[test]
fn an_instance_is_of_the_datastore_that_is_asked_for() {
    let rig = rig();
    let mysql = &rig.get("/datastores/mysql")["datastore"];
    let (id, version) = (&mysql["id"], &mysql["default_version"]);
    for (name, datastore, kind) in [
        ("default", json!({}), "mariadb"),
        ("by-name", json!({"type": "mysql"}), "mysql"),
        ("by-series", json!({"type": "mysql", "version": "9.7"}), "mysql"),
        ("exact", json!({"type": "mysql", "version": "9.7.4"}), "mysql"),
        ("by-id", json!({"type": id, "version": version}), "mysql"),
        ("by-version-alone", json!({"version": version}), "mysql"),
    ] {
        let (status, value) = rig.post("/instances", &json!({"instance": {"name": name, "datastore": datastore}}));
        assert_eq!((status, &value["instance"]["datastore"]["type"]), (200, &json!(kind)), "{name}: {value}");
    }
    for (datastore, member) in [
        (json!({"type": "postgresql"}), "type"),
        (json!({"type": "mysql", "version": "8.0"}), "version"),
        (json!({"type": "mariadb", "version": version}), "version"),
        (json!({"type": 1}), "type"),
        (json!({"type": "mysql", "flavour": "x"}), "flavour"),
    ] {
        let body = json!({"instance": {"name": "no", "datastore": datastore}});
        let (status, value) = rig.post("/instances", &body);
        let message = value["badRequest"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(&format!("`instance.datastore.{member}`")), "{datastore}: {value}");
    }
    let unknown = json!({"instance": {"name": "no", "datastore": {"type": "postgresql"}}});
    let message = rig.post("/instances", &unknown).1["badRequest"]["message"].to_string();
    assert!(message.contains("mariadb 10.11 and mysql 9.7"), "{message}");
    let adopt = json!({"instance": {"name": "no", "datastore": {"type": "mysql"}, "adopt": {
        "socket": "/s", "defaults_file": "/f", "systemd_unit": "mysql.service",
    }}});
    assert_eq!(rig.post("/instances", &adopt).0, 400, "an adopted server is asked");
}

#[test]
fn both_datastores_are_listed_where_both_are_installed_and_one_where_there_is_one() {
    let names = |rig: &Rig| -> Vec<String> {
        let datastores = rig.get("/datastores")["datastores"].as_array().unwrap().clone();
        datastores.iter().map(|it| format!("{} {}", it["name"], it["versions"][0]["name"]).replace('"', "")).collect()
    };
    let rig = rig();
    assert_eq!(names(&rig), ["mariadb 10.11", "mysql 9.7"]);
    assert_eq!(names(&rig_of(Bench::of(&[Datastore::Mysql]))), ["mysql 9.7"]);
    assert_eq!(names(&rig_of(Bench::of(&[]))), ["mariadb unknown"]);
    assert_eq!(rig.get("/datastores/mysql/versions")["versions"][0]["name"], "9.7");
    let id = rig.get("/datastores/mysql")["datastore"]["default_version"].clone();
    assert_eq!(rig.get(&format!("/datastores/versions/{}", id.as_str().unwrap()))["version"]["name"], "9.7");
    let (status, _) = rig.send("GET", "/v1.0/appliance/datastores/postgresql", "");
    assert_eq!(status, 404);
}
