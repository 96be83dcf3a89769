//! Instances over HTTP.

use serde_json::{Value, json};

use crate::api::body::{Members, missing};
use crate::api::call::{Call, Reply};
use crate::api::router::Router;
use crate::api::views;
use crate::api::{backups, datastores};
use crate::domain::id::InstanceId;
use crate::domain::instance::Control;
use crate::error::{Error, ErrorKind};
use crate::service::{Adoption, InstanceView, NewInstance};

/// Trove's members that say what a host of its own has fixed already.
const IGNORED: [&str; 10] = [
    "flavorRef",
    "volume",
    "access",
    "nics",
    "availability_zone",
    "region_name",
    "locality",
    "modules",
    "replica_count",
    "slave_of",
];
/// Trove's members that would change what the instance holds.
const REFUSED: [&str; 5] = ["restorePoint", "replica_of", "databases", "users", "configuration"];

pub(super) fn list(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let limit = call.query.number("limit", usize::MAX, usize::MAX)?;
    let views = router.service.instances()?;
    // The marker is the last instance of the page before, as in Trove.
    let marker = call.query.get("marker");
    let begin = match marker {
        None => 0,
        Some(marker) => {
            views.iter().position(|view| view.instance.id.to_string() == marker).map_or(views.len(), |at| at + 1)
        }
    };
    let instances: Vec<Value> = views.iter().skip(begin).take(limit).map(views::instance).collect();
    let mut answer = json!({ "instances": instances });
    if let Some(notice) = router.service.notice()? {
        answer["notice"] = json!(notice);
    }
    Ok(Reply::json(200, &answer))
}

pub(super) fn show(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    Ok(answer(&router.service.instance(id(call)?)?))
}

pub(super) fn create(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let mut members = Members::envelope(call.request, "instance")?;
    let name = members.required_text("name")?;
    let port = members.number("port", u64::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok());
    let adopt = members.object("adopt")?;
    let datastore = members.object("datastore")?;
    let has_datastore = datastore.is_some();
    let datastore = datastore.map(|members| datastores::wanted(router, members)).transpose()?.flatten();
    members.ignore(&IGNORED);
    members.refuse(&REFUSED, "Create an empty instance; a backup comes back by a recovery of its own instance.")?;
    members.end()?;
    let view = match adopt {
        None => router.service.create_instance(&NewInstance { name, port, datastore })?,
        Some(_) if port.is_some() || has_datastore => {
            let given = if port.is_some() { "port" } else { "datastore" };
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("members `{given}` and `adopt` contradict each other"),
            )
            .hint(format!("Leave `{given}` out: an adopted server is asked for its own.")));
        }
        Some(adopt) => router.service.adopt_instance(&adoption(name, adopt)?)?,
    };
    Ok(answer(&view))
}

pub(super) fn delete(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    router.service.delete_instance(id(call)?)?;
    Ok(Reply::accepted())
}

/// Trove's way to ask for what is no resource of its own.
pub(super) fn action(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let id = id(call)?;
    let mut members = Members::of(call.request)?;
    let restart = members.take("restart").is_some();
    let reset = members.take("reset_status").is_some();
    let verify = backups::slice(&mut members)?;
    for name in ["resize", "promote_to_replica_source", "eject_replica_source", "upgrade", "rebuild", "reboot"] {
        if members.take(name).is_some() {
            return Err(Error::new(ErrorKind::Unsupported, format!("the action `{name}` is not offered"))
                .hint("The actions are restart, reset_status and verify."));
        }
    }
    members.end()?;
    match (restart, reset, verify) {
        (true, false, None) => router.service.restart_instance(id)?,
        (false, true, None) => router.service.reset_instance_status(id)?,
        (false, false, Some(slice)) => return Ok(backups::begun(&router.service.verify_instance(id, slice)?)),
        _ => {
            return Err(Error::new(ErrorKind::InvalidInput, "the body names no action, or two at once")
                .hint("Send {\"restart\": {}}, {\"reset_status\": {}} or {\"verify\": {}}."));
        }
    }
    Ok(Reply::accepted())
}

pub(super) fn id(call: &Call<'_>) -> Result<InstanceId, Error> {
    call.id("instance_id", "instance")
}

fn answer(view: &InstanceView) -> Reply {
    Reply::json(200, &json!({ "instance": views::instance(view) }))
}

fn adoption(name: String, mut adopt: Members) -> Result<Adoption, Error> {
    let socket = adopt.required_text("socket")?;
    let defaults_file = adopt.required_text("defaults_file")?;
    let unit = adopt.text("systemd_unit")?;
    let start = adopt.texts("start")?;
    let stop = adopt.texts("stop")?;
    adopt.end()?;
    let hint = "Give either `systemd_unit`, or both `start` and `stop`.";
    let control = match (unit, start, stop) {
        (Some(unit), None, None) => Control::Systemd { unit },
        (None, Some(start), Some(stop)) => Control::Argv { start, stop },
        (None, None, None) => return Err(missing("instance.adopt.systemd_unit", hint)),
        (None, Some(_), None) => return Err(missing("instance.adopt.stop", hint)),
        (None, None, Some(_)) => return Err(missing("instance.adopt.start", hint)),
        (Some(_), _, _) => {
            let message = "members `instance.adopt.systemd_unit` and `start` or `stop` contradict each other";
            return Err(Error::new(ErrorKind::InvalidInput, message).hint(hint));
        }
    };
    Ok(Adoption { name, socket: socket.into(), defaults_file: defaults_file.into(), control })
}
