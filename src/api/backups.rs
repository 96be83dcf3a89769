//! Backups over HTTP.

use serde_json::{Value, json};

use crate::api::body::{Members, missing};
use crate::api::call::{Call, Reply, shorten};
use crate::api::instances;
use crate::api::router::Router;
use crate::api::views::{self, Object};
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::verification::{Slice, VerificationRun};
use crate::error::{Error, ErrorKind};
use crate::service::{BackupPage, NewBackup};

/// Listed at once unless a client asks for fewer.
const PAGE: usize = 1000;

pub(super) fn list(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let place = Place::of(call)?;
    let instance = match call.query.get("instance_id") {
        Some(text) => Some(text.parse().map_err(|err: Error| err.hint("Give the instance's UUID as `instance_id`."))?),
        None => place.instance,
    };
    let page = router.service.backups(instance, place.after, place.limit)?;
    Ok(answer(router, "backups", &page, instance))
}

pub(super) fn list_of_instance(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let place = Place::of(call)?;
    let id = instances::id(call)?;
    let page = router.service.backups_of(id, place.after, place.limit)?;
    Ok(answer(router, &format!("instances/{id}/backups"), &page, Some(id)))
}

pub(super) fn show(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let view = router.service.backup(id(call)?)?;
    Ok(Reply::json(200, &json!({ "backup": views::backup(&view, &router.tenant) })))
}

pub(super) fn create(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let mut members = Members::envelope(call.request, "backup")?;
    let name = members.required_text("name")?;
    let instance: Option<InstanceId> = members.parsed("instance")?;
    let description = members.text("description")?.unwrap_or_default();
    // The repository is configured, so where Trove would put a backup means nothing here.
    members.ignore(&["swift_container", "storage_driver"]);
    members.refuse(&["incremental", "parent_id"], "Every backup is a full one; leave it out.")?;
    members.refuse(&["restore_from"], "Backups of other systems cannot be imported.")?;
    members.end()?;
    let instance = instance.ok_or_else(|| missing("backup.instance", "Add the UUID of the instance to back up."))?;
    let view = router.service.create_backup(&NewBackup { instance, name, description })?;
    Ok(Reply::json(202, &json!({ "backup": views::backup(&view, &router.tenant) })))
}

pub(super) fn delete(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    router.service.delete_backup(id(call)?)?;
    Ok(Reply::accepted())
}

/// As the actions of an instance.
pub(super) fn action(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let id = id(call)?;
    let mut members = Members::of(call.request)?;
    let slice = slice(&mut members)?;
    members.end()?;
    let Some(slice) = slice else {
        return Err(Error::new(ErrorKind::InvalidInput, "the body names no action").hint("Send {\"verify\": {}}."));
    };
    Ok(begun(&router.service.verify_backup(id, slice)?))
}

/// What `{"verify": {"slice": "2/7"}}` asks for; without a slice it is everything.
pub(super) fn slice(members: &mut Members) -> Result<Option<Slice>, Error> {
    let Some(mut verify) = members.object("verify")? else { return Ok(None) };
    let slice = verify.parsed("slice")?.unwrap_or(Slice::WHOLE);
    verify.end()?;
    Ok(Some(slice))
}

/// A verification that was cast.
pub(super) fn begun(run: &VerificationRun) -> Reply {
    Reply::json(202, &json!({ "verification": views::verification_run(run) }))
}

fn id(call: &Call<'_>) -> Result<BackupId, Error> {
    call.id("backup_id", "backup")
}

/// Where a page begins. The marker carries the filter, because Trove's client drops it from the second page on.
struct Place {
    instance: Option<InstanceId>,
    after: Option<BackupId>,
    limit: usize,
}

impl Place {
    fn of(call: &Call<'_>) -> Result<Place, Error> {
        let limit = call.query.number("limit", PAGE, PAGE)?;
        let Some(marker) = call.query.get("marker") else { return Ok(Place { instance: None, after: None, limit }) };
        let (after, instance) = match marker.split_once('~') {
            Some((after, instance)) => (after.parse().ok(), instance.parse().ok().map(Some)),
            None => (marker.parse().ok(), Some(None)),
        };
        match (after, instance) {
            (Some(after), Some(instance)) => Ok(Place { instance, after: Some(after), limit }),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("parameter `marker`: `{}` is none", shorten(marker)))
                .hint("Take it from the link of the page before.")),
        }
    }
}

fn answer(router: &Router, path: &str, page: &BackupPage, instance: Option<InstanceId>) -> Reply {
    let backups: Vec<Value> = page.backups.iter().map(|view| views::backup(view, &router.tenant)).collect();
    let links = page.next.map(|next| {
        let marker = instance.map_or(next.to_string(), |instance| format!("{next}~{instance}"));
        json!([{"rel": "next", "href": format!("/v1.0/{}/{path}?marker={marker}", router.tenant)}])
    });
    Reply::json(200, &Object::default().with("backups", backups).with_some("links", links).into())
}
