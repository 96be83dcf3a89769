//! Datastores, flavors and limits: what Trove's clients ask before they ask for something. Fixed facts, as far as the
//! instances do not say otherwise.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::call::{Call, Reply, shorten};
use crate::api::router::Router;
use crate::error::{Error, ErrorKind};

/// The one flavor: what the host has.
pub(super) const FLAVOR: &str = "host";
/// Said of servers that never ran.
const UNKNOWN: &str = "unknown";
/// Ids of datastores and their versions are made from their names, so they stay the same everywhere.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2d_9c1b_37a4_5e58_8c0e_51d2_b7a9_4c33);

/// The release series of a server's exact version: `10.11` of `10.11.6`.
pub(super) fn series(version: &str) -> &str {
    match version.match_indices('.').nth(1) {
        Some((at, _)) => version.get(..at).unwrap_or(version),
        None if version.is_empty() => UNKNOWN,
        None => version,
    }
}

pub(super) fn version_id(datastore: &str, version: &str) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{datastore} {version}").as_bytes()).to_string()
}

pub(super) fn list(router: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &json!({ "datastores": [datastore(router)?] })))
}

pub(super) fn show(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    check_name(router, call)?;
    Ok(Reply::json(200, &json!({ "datastore": datastore(router)? })))
}

pub(super) fn versions(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    check_name(router, call)?;
    Ok(Reply::json(200, &json!({ "versions": version_views(router)? })))
}

pub(super) fn version(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    check_name(router, call)?;
    version_alone(router, call)
}

/// The id of a version says which datastore it belongs to.
pub(super) fn version_alone(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let asked = call.param("version");
    let found = version_views(router)?.into_iter().find(|view| [&view["id"], &view["name"]].contains(&&json!(asked)));
    found.map(|version| Reply::json(200, &json!({ "version": version }))).ok_or_else(|| not_found("version", asked))
}

pub(super) fn flavors(_: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &json!({ "flavors": [flavor_view()] })))
}

pub(super) fn flavor(_: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    match call.param("flavor") {
        FLAVOR => Ok(Reply::json(200, &json!({ "flavor": flavor_view() }))),
        other => Err(not_found("flavor", other)),
    }
}

/// Clients take the first row off and print it; without one they crash. There is no limit to run into.
pub(super) fn limits(_: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    let limits = json!({"verb": "ABSOLUTE", "max_instances": 1000, "max_backups": 1_000_000, "max_volumes": 1000});
    Ok(Reply::json(200, &json!({ "limits": [limits] })))
}

fn flavor_view() -> Value {
    json!({"id": FLAVOR, "str_id": FLAVOR, "name": FLAVOR, "ram": 0, "vcpus": 0, "disk": 0, "ephemeral": 0, "links": []})
}

fn datastore(router: &Router) -> Result<Value, Error> {
    let name = router.service.datastore().name();
    let versions = version_views(router)?;
    let default = versions.last().map_or(Value::Null, |version| version["id"].clone());
    Ok(json!({
        "id": version_id(name, ""), "name": name, "default_version": default, "versions": versions, "links": []
    }))
}

/// The series that instances run, oldest first; there is always one, since clients take the default from them.
fn version_views(router: &Router) -> Result<Vec<Value>, Error> {
    let name = router.service.datastore().name();
    let views = router.service.instances()?;
    let mut known: BTreeSet<&str> =
        views.iter().filter(|v| !v.instance.version.is_empty()).map(|v| series(&v.instance.version)).collect();
    if known.is_empty() {
        known.insert(UNKNOWN);
    }
    let view = |version: &str| json!({"id": version_id(name, version), "name": version, "version": version, "datastore": version_id(name, ""), "active": true, "links": []});
    Ok(known.into_iter().map(view).collect())
}

/// The path takes the name as well as the id.
fn check_name(router: &Router, call: &Call<'_>) -> Result<(), Error> {
    let name = router.service.datastore().name();
    let asked = call.param("datastore");
    if asked == name || asked == version_id(name, "") { Ok(()) } else { Err(not_found("datastore", asked)) }
}

fn not_found(noun: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{noun} `{}` cannot be found", shorten(name)))
        .hint(format!("The list of {noun}s shows what there is."))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_series_is_what_two_numbers_say() {
        for (version, series) in
            [("10.11.6", "10.11"), ("10.11.6-MariaDB-log", "10.11"), ("11.4", "11.4"), ("", "unknown")]
        {
            assert_eq!(super::series(version), series);
        }
    }
}
