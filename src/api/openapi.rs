//! `/openapi.json`, made from the route table, so that it says what there is.

use serde_json::{Map, Value, json};

use crate::api::call::{Call, Reply};
use crate::api::router::{Access, ROUTES, Route, Router};
use crate::domain::datastore::Datastore;
use crate::error::Error;

pub(super) fn show(_: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &document()))
}

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "coffer", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
                "password": {"type": "http", "scheme": "basic"},
            },
            "responses": {
                "fault": {
                    "description": "One member that names the fault, with `code` and `message` in it",
                    "content": {"application/json": {"schema": {
                        "type": "object",
                        "minProperties": 1,
                        "maxProperties": 1,
                        "additionalProperties": {
                            "type": "object",
                            "required": ["code", "message"],
                            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
                        },
                    }}},
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(
        query_of(route).iter().map(|(name, kind)| json!({"name": name, "in": "query", "schema": {"type": kind}})),
    );
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            route.status.to_string(): {"description": "Done, or accepted and to be polled"},
            "default": {"$ref": "#/components/responses/fault"},
        },
        "security": match route.access {
            Access::Open => json!([]),
            Access::Token => json!([{"token": []}, {"password": []}]),
        },
    });
    if let (Some(body), Some(members)) = (body_of(route), operation.as_object_mut()) {
        members.insert(
            "requestBody".to_owned(),
            json!({"required": true, "content": {"application/json": {"schema": body}}}),
        );
    }
    operation
}

fn query_of(route: &Route) -> &'static [(&'static str, &'static str)] {
    match (route.method, route.path.rsplit('/').next().unwrap_or_default()) {
        ("GET", "transactions") => &[
            ("since", "string"),
            ("until", "string"),
            ("table", "string"),
            ("destructive", "boolean"),
            ("limit", "integer"),
        ],
        ("GET", "backups") if route.path.contains("{instance_id}") => &[("limit", "integer"), ("marker", "string")],
        ("GET", "backups") => &[("instance_id", "string"), ("limit", "integer"), ("marker", "string")],
        ("GET", "instances") => &[("limit", "integer"), ("marker", "string")],
        _ => &[],
    }
}

fn body_of(route: &Route) -> Option<Value> {
    let text = || json!({"type": "string"});
    let flag = || json!({"type": "boolean"});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let last = route.path.rsplit('/').next().unwrap_or_default();
    match (route.method, last) {
        ("POST", "instances") => Some(object(json!({"instance": object(json!({
            "name": text(),
            "port": {"type": "integer"},
            "datastore": object(json!({
                "type": {"type": "string", "enum": Datastore::ALL.map(Datastore::name)},
                "version": text(),
            })),
            "adopt": object(json!({
                "socket": text(),
                "defaults_file": text(),
                "systemd_unit": text(),
                "start": {"type": "array", "items": text()},
                "stop": {"type": "array", "items": text()},
            })),
        }))}))),
        ("POST", "action") => {
            let verify = object(json!({"slice": {"type": "string", "pattern": "^[0-9]+/[0-9]+$"}}));
            if route.path.contains("{backup_id}") {
                return Some(object(json!({"verify": verify})));
            }
            let nothing = object(json!({}));
            Some(object(json!({"restart": nothing, "reset_status": nothing, "verify": verify})))
        }
        ("POST", "backups") => Some(object(json!({"backup": object(json!({
            "name": text(), "instance": text(), "description": text(),
        }))}))),
        ("POST", "recover" | "restore") => Some(object(json!({"recovery": object(json!({
            "instance": text(),
            "backup": text(),
            "point_in_time": {"type": "string", "format": "date-time"},
            "gtid": text(),
            "before_gtid": text(),
            "position": text(),
            "before_position": text(),
            "latest": flag(),
            "timeline": text(),
            "skip": {"type": "array", "items": text()},
            "plan_only": flag(),
            "pause": flag(),
        }))}))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let document = document();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary);
            assert!(operation["responses"][route.status.to_string()].is_object());
        }
    }
}
