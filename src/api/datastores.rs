//! Datastores, flavors and limits: what Trove's clients ask before they ask for something.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::body::Members;
use crate::api::call::{Call, Reply, shorten};
use crate::api::router::Router;
use crate::domain::datastore::Datastore;
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
    let datastores: Vec<Value> = offers(router)?.iter().map(view).collect();
    Ok(Reply::json(200, &json!({ "datastores": datastores })))
}

pub(super) fn show(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &json!({ "datastore": view(&find(router, call)?) })))
}

pub(super) fn versions(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &json!({ "versions": version_views(&find(router, call)?) })))
}

pub(super) fn version(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    version_of(&[find(router, call)?], call)
}

/// The id of a version says which datastore it belongs to.
pub(super) fn version_alone(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    version_of(&offers(router)?, call)
}

fn version_of(offers: &[Offer], call: &Call<'_>) -> Result<Reply, Error> {
    let asked = call.param("version");
    let mut views = offers.iter().flat_map(version_views);
    let found = views.find(|view| [&view["id"], &view["name"]].contains(&&json!(asked)));
    found.map(|version| Reply::json(200, &json!({ "version": version }))).ok_or_else(|| not_found("version", asked))
}

/// What a new instance shall be, by Trove's `{"type": ..., "version": ...}`, each by name or id. `None` when it says
/// neither.
pub(super) fn wanted(router: &Router, mut members: Members) -> Result<Option<Datastore>, Error> {
    let (kind, version) = (members.text("type")?, members.text("version")?);
    members.end()?;
    let offers = offers(router)?;
    let is_of_kind = |offer: &&Offer| {
        let name = offer.datastore.name();
        kind.as_deref().is_none_or(|kind| kind == name || kind == version_id(name, ""))
    };
    let of_kind: Vec<&Offer> = offers.iter().filter(|offer| offer.installed.is_some()).filter(is_of_kind).collect();
    let Some(first) = of_kind.first() else {
        let kind = kind.unwrap_or_default();
        return Err(refused("type", &kind, &offers));
    };
    let Some(version) = version else { return Ok(kind.map(|_| first.datastore)) };
    let is_of_version = |offer: &&&Offer| {
        let exact = offer.installed.as_deref().unwrap_or_default();
        let series = series(exact);
        version == exact || version == series || version == version_id(offer.datastore.name(), series)
    };
    let found = of_kind.iter().find(is_of_version);
    found.map(|offer| Some(offer.datastore)).ok_or_else(|| refused("version", &version, &offers))
}

fn refused(member: &str, asked: &str, offers: &[Offer]) -> Error {
    let names: Vec<String> = offers
        .iter()
        .filter_map(|offer| Some(format!("{} {}", offer.datastore.name(), series(offer.installed.as_deref()?))))
        .collect();
    let offered = if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") };
    let message = format!("member `instance.datastore.{member}`: `{}` is not installed on this host", shorten(asked));
    Error::new(ErrorKind::InvalidInput, message).hint(format!("Leave it out, or ask for what is: {offered}."))
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

/// A datastore and its series.
struct Offer {
    datastore: Datastore,
    /// The exact version of new instances; `None` when none can be made.
    installed: Option<String>,
    /// That and what instances run; there is always one, since clients take the default from them.
    series: BTreeSet<String>,
}

impl Offer {
    fn default_series(&self) -> &str {
        match &self.installed {
            Some(version) => series(version),
            None => self.series.last().map_or(UNKNOWN, String::as_str),
        }
    }
}

/// What is installed here and what instances are. On a host without either it is MariaDB: no client knows what to do with
/// an empty list.
fn offers(router: &Router) -> Result<Vec<Offer>, Error> {
    let views = router.service.instances()?;
    let mut offers: Vec<Offer> = Vec::new();
    for datastore in Datastore::ALL {
        let installed = router.service.installed().iter().find(|installed| installed.datastore == datastore);
        let instances = views.iter().map(|view| &view.instance).filter(|instance| instance.datastore == datastore);
        let mut known: BTreeSet<String> = instances
            .filter(|instance| !instance.version.is_empty())
            .map(|it| series(&it.version).to_owned())
            .collect();
        known.extend(installed.map(|installed| series(&installed.version).to_owned()));
        let is_last_resort = datastore == Datastore::Mariadb && router.service.installed().is_empty();
        if known.is_empty() && is_last_resort {
            known.insert(UNKNOWN.to_owned());
        }
        if !known.is_empty() {
            let installed = installed.map(|installed| installed.version.clone());
            offers.push(Offer { datastore, installed, series: known });
        }
    }
    Ok(offers)
}

fn view(offer: &Offer) -> Value {
    let name = offer.datastore.name();
    json!({
        "id": version_id(name, ""), "name": name, "default_version": version_id(name, offer.default_series()),
        "versions": version_views(offer), "links": []
    })
}

fn version_views(offer: &Offer) -> Vec<Value> {
    let name = offer.datastore.name();
    let view = |version: &String| json!({"id": version_id(name, version), "name": version, "version": version, "datastore": version_id(name, ""), "active": true, "links": []});
    offer.series.iter().map(view).collect()
}

/// The path takes the name as well as the id.
fn find(router: &Router, call: &Call<'_>) -> Result<Offer, Error> {
    let asked = call.param("datastore");
    let is_asked = |offer: &Offer| asked == offer.datastore.name() || asked == version_id(offer.datastore.name(), "");
    offers(router)?.into_iter().find(is_asked).ok_or_else(|| not_found("datastore", asked))
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
