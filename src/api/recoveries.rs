//! Recoveries and history over HTTP.

use serde_json::{Value, json};

use crate::api::body::Members;
use crate::api::call::{Call, Reply};
use crate::api::instances;
use crate::api::recovery_views;
use crate::api::router::Router;
use crate::domain::gtid::Gtid;
use crate::domain::id::{BackupId, InstanceId, RecoveryId, TimelineId};
use crate::domain::target::{Point, RecoveryTarget};
use crate::error::{Error, ErrorKind};
use crate::recovery::TransactionFilter;
use crate::service::{NewRecovery, RecoveryView, Service};

const TRANSACTIONS: usize = 100;
const TRANSACTIONS_MAX: usize = 1000;

/// What the body of a recovery asks for.
struct Asked {
    target: RecoveryTarget,
    plan_only: bool,
    pause: bool,
}

/// `recover`, and `restore`, as the blueprint has both.
pub(super) fn recover(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let instance = instances::id(call)?;
    let asked = read_recovery(call, instance)?;
    if asked.plan_only {
        let plan = router.service.plan_recovery(instance, &asked.target)?;
        return Ok(Reply::json(200, &json!({ "plan": recovery_views::plan(&plan) })));
    }
    let view = router.service.begin_recovery(&NewRecovery { instance, target: asked.target, pause: asked.pause })?;
    Ok(accepted(&view))
}

pub(super) fn list(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let views = router.service.recoveries(instances::id(call)?)?;
    let recoveries: Vec<Value> =
        views.iter().map(|view| recovery_views::recovery(view, view.recovery.id.to_string())).collect();
    Ok(Reply::json(200, &json!({ "recoveries": recoveries })))
}

pub(super) fn show(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let view = router.service.recovery(instances::id(call)?, id(call)?)?;
    let recovery = recovery_views::recovery(&view, view.recovery.id.to_string());
    Ok(Reply::json(200, &json!({ "recovery": recovery })))
}

pub(super) fn promote(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    change(router, call, Service::promote_recovery)
}

pub(super) fn abort(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    change(router, call, Service::abort_recovery)
}

pub(super) fn undo(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    change(router, call, Service::undo_recovery)
}

pub(super) fn release(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    change(router, call, Service::release_recovery)
}

pub(super) fn timelines(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let views = router.service.timelines(instances::id(call)?)?;
    let timelines: Vec<Value> = views.iter().map(recovery_views::timeline).collect();
    Ok(Reply::json(200, &json!({ "timelines": timelines })))
}

pub(super) fn transactions(router: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    let id = instances::id(call)?;
    let query = &call.query;
    query.allow(&["since", "until", "table", "destructive", "limit"])?;
    let filter = TransactionFilter {
        // Commit times are whole microseconds: the first one at or after the time asked for.
        since: query.time("since")?.map(|at| at.as_microsecond() + i64::from(at.subsec_nanosecond() % 1000 > 0)),
        until: query.time("until")?.map(|at| at.as_microsecond()),
        table: query.get("table").map(str::to_owned),
        destructive: query.flag("destructive")?,
        limit: query.number("limit", TRANSACTIONS, TRANSACTIONS_MAX)?,
    };
    let found = router.service.transactions(id, &filter)?;
    let transactions: Vec<Value> = found.iter().map(recovery_views::transaction).collect();
    Ok(Reply::json(200, &json!({ "transactions": transactions })))
}

fn id(call: &Call<'_>) -> Result<RecoveryId, Error> {
    call.id("recovery_id", "recovery")
}

fn change(
    router: &Router,
    call: &Call<'_>,
    act: fn(&Service, InstanceId, RecoveryId) -> Result<RecoveryView, Error>,
) -> Result<Reply, Error> {
    let (instance, id) = (instances::id(call)?, id(call)?);
    if !call.request.body.is_empty() {
        Members::of(call.request)?.end()?;
    }
    act(&router.service, instance, id).map(|view| accepted(&view))
}

fn accepted(view: &RecoveryView) -> Reply {
    Reply::json(202, &json!({ "recovery": recovery_views::recovery(view, view.recovery.instance.to_string()) }))
}

fn read_recovery(call: &Call<'_>, instance: InstanceId) -> Result<Asked, Error> {
    let mut members = Members::envelope(call.request, "recovery")?;
    let named: Option<InstanceId> = members.parsed("instance")?;
    if named.is_some_and(|named| named != instance) {
        let message = "member `recovery.instance` is not the instance of the path";
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("Leave it out, or say the same in both."));
    }
    let backup: Option<BackupId> = members.parsed("backup")?;
    let points = [
        ("point_in_time", members.time("point_in_time")?.map(Point::PointInTime)),
        ("gtid", members.parsed("gtid")?.map(Point::Gtid)),
        ("before_gtid", members.parsed("before_gtid")?.map(Point::BeforeGtid)),
        ("position", members.parsed("position")?.map(Point::Position)),
        ("before_position", members.parsed("before_position")?.map(Point::BeforePosition)),
        ("latest", members.flag("latest")?.then_some(Point::Latest)),
    ];
    let timeline: Option<TimelineId> = members.parsed("timeline")?;
    let skip = members.texts("skip")?.unwrap_or_default();
    let plan_only = members.flag("plan_only")?;
    let pause = members.flag("pause")?;
    members.end()?;
    let skip = skip.iter().map(|text| text.parse::<Gtid>().map_err(|err| err.context("member `recovery.skip`")));
    let skip = skip.collect::<Result<Vec<Gtid>, Error>>()?;
    let (point, base) = choose_point(points, backup)?;
    Ok(Asked { target: RecoveryTarget { point, timeline, base, skip }, plan_only, pause })
}

/// The one point asked for. A backup beside another point is where to start from; alone it is the point.
fn choose_point(
    points: [(&'static str, Option<Point>); 6],
    backup: Option<BackupId>,
) -> Result<(Point, Option<BackupId>), Error> {
    let mut said: Vec<(&str, Point)> =
        points.into_iter().filter_map(|(name, point)| point.map(|point| (name, point))).collect();
    let hint = "Say one of backup, point_in_time, gtid, before_gtid, position, before_position, latest.";
    match (said.pop(), backup) {
        (Some((name, _)), _) if !said.is_empty() => {
            let mut names: Vec<String> = said.iter().map(|(name, _)| format!("`recovery.{name}`")).collect();
            names.push(format!("`recovery.{name}`"));
            let message = format!("members {} are more than one target", names.join(" and "));
            Err(Error::new(ErrorKind::InvalidInput, message).hint(hint))
        }
        (Some((_, point)), base) => Ok((point, base)),
        (None, Some(backup)) => Ok((Point::Backup(backup), None)),
        (None, None) => Err(Error::new(ErrorKind::InvalidInput, "member `recovery` holds no target").hint(hint)),
    }
}
