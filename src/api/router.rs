//! Which handler answers which request. The route table is the whole surface: tests and `/openapi.json` read it too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::api::call::{Call, Reply, Request, shorten, split_target};
use crate::api::metrics::Counts;
use crate::api::{auth, backups, datastores, instances, metrics, openapi, page, recoveries};
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::service::Service;

const LOGGED_CHARS_MAX: usize = 200;

/// Answers requests. Shared by the workers.
pub(super) struct Router {
    pub(super) service: Arc<Service>,
    pub(super) tenant: String,
    pub(super) counts: Counts,
}

/// Whether a route needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Open,
    Token,
}

pub(super) type Handler = fn(&Router, &Call<'_>) -> Result<Reply, Error>;

/// A row of the route table.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// Segments in braces take any one segment.
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) summary: &'static str,
    /// The status of success.
    pub(super) status: u16,
    pub(super) handler: Handler,
}

const fn open(method: &'static str, path: &'static str, summary: &'static str, handler: Handler) -> Route {
    Route { method, path, access: Access::Open, summary, status: 200, handler }
}

const fn route(
    method: &'static str,
    path: &'static str,
    status: u16,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route { method, path, access: Access::Token, summary, status, handler }
}

/// Everything there is.
pub(super) const ROUTES: &[Route] = &[
    open("GET", "/", "The status page for a browser, the list of API versions for a client", page::index),
    open("GET", "/static/{file}", "A file of the status page", page::file),
    open("GET", "/healthz", "Whether the appliance can do its work", metrics::health),
    route("GET", "/metrics", 200, "Figures for Prometheus", metrics::show),
    route("GET", "/openapi.json", 200, "This description", openapi::show),
    route("GET", "/v1.0", 200, "The API's version", page::version),
    route("GET", "/v1.0/{tenant}/instances", 200, "All instances", instances::list),
    route("POST", "/v1.0/{tenant}/instances", 200, "Create or adopt an instance", instances::create),
    route("GET", "/v1.0/{tenant}/instances/{instance_id}", 200, "An instance", instances::show),
    route("DELETE", "/v1.0/{tenant}/instances/{instance_id}", 202, "Delete an instance", instances::delete),
    route(
        "POST",
        "/v1.0/{tenant}/instances/{instance_id}/action",
        202,
        "Restart it, reset its status, verify what it has stored",
        instances::action,
    ),
    route("GET", "/v1.0/{tenant}/instances/{instance_id}/backups", 200, "Its backups", backups::list_of_instance),
    route("POST", "/v1.0/{tenant}/instances/{instance_id}/recover", 202, "Recover it in place", recoveries::recover),
    route("POST", "/v1.0/{tenant}/instances/{instance_id}/restore", 202, "The same as recover", recoveries::recover),
    route("GET", "/v1.0/{tenant}/instances/{instance_id}/recoveries", 200, "Its recoveries", recoveries::list),
    route(
        "GET",
        "/v1.0/{tenant}/instances/{instance_id}/recoveries/{recovery_id}",
        200,
        "A recovery",
        recoveries::show,
    ),
    route(
        "POST",
        "/v1.0/{tenant}/instances/{instance_id}/recoveries/{recovery_id}/promote",
        202,
        "Let a paused recovery go on",
        recoveries::promote,
    ),
    route(
        "POST",
        "/v1.0/{tenant}/instances/{instance_id}/recoveries/{recovery_id}/abort",
        202,
        "Give a recovery up before the switch",
        recoveries::abort,
    ),
    route(
        "POST",
        "/v1.0/{tenant}/instances/{instance_id}/recoveries/{recovery_id}/undo",
        202,
        "Bring the data from before a recovery back",
        recoveries::undo,
    ),
    route(
        "POST",
        "/v1.0/{tenant}/instances/{instance_id}/recoveries/{recovery_id}/release",
        202,
        "Free the data that an undo would bring back",
        recoveries::release,
    ),
    route(
        "GET",
        "/v1.0/{tenant}/instances/{instance_id}/transactions",
        200,
        "Its transactions",
        recoveries::transactions,
    ),
    route("GET", "/v1.0/{tenant}/instances/{instance_id}/timelines", 200, "Its timelines", recoveries::timelines),
    route("GET", "/v1.0/{tenant}/backups", 200, "All backups", backups::list),
    route("POST", "/v1.0/{tenant}/backups", 202, "Back an instance up", backups::create),
    route("GET", "/v1.0/{tenant}/backups/{backup_id}", 200, "A backup", backups::show),
    route("DELETE", "/v1.0/{tenant}/backups/{backup_id}", 202, "Delete a backup", backups::delete),
    route("POST", "/v1.0/{tenant}/backups/{backup_id}/action", 202, "Verify a backup", backups::action),
    route(
        "GET",
        "/v1.0/{tenant}/datastores",
        200,
        "The datastores: what is installed here, and what instances are",
        datastores::list,
    ),
    route("GET", "/v1.0/{tenant}/datastores/{datastore}", 200, "The datastore, by name or id", datastores::show),
    route("GET", "/v1.0/{tenant}/datastores/{datastore}/versions", 200, "Its versions", datastores::versions),
    route("GET", "/v1.0/{tenant}/datastores/{datastore}/versions/{version}", 200, "A version", datastores::version),
    route(
        "GET",
        "/v1.0/{tenant}/datastores/versions/{version}",
        200,
        "A version, whatever its datastore",
        datastores::version_alone,
    ),
    route(
        "GET",
        "/v1.0/{tenant}/datastores/{datastore}/versions/{version}/flavors",
        200,
        "The flavor for a version",
        datastores::flavors,
    ),
    route("GET", "/v1.0/{tenant}/flavors", 200, "The flavor: the host", datastores::flavors),
    route("GET", "/v1.0/{tenant}/flavors/{flavor}", 200, "The flavor", datastores::flavor),
    route("GET", "/v1.0/{tenant}/limits", 200, "The limits", datastores::limits),
];

/// Parts of Trove's API, below the tenant, that are answered 501: a client then prints the sentence.
const NOT_OFFERED: &[(&str, &str)] = &[
    ("backup_strategies", "Backups go to the configured repository, so there is no backup strategy to set"),
    ("clusters", "Clusters are not offered: an instance is one server"),
    ("configurations", "Configuration groups are not offered: edit the server's option file"),
    ("datastores/versions/{id}/parameters", "Configuration groups are not offered: edit the server's option file"),
    ("datastores/{id}/versions/{id}/parameters", "Configuration groups are not offered: edit the server's option file"),
    (
        "mgmt",
        "The management API is not offered: `instance list` lists all there is, `instance restart` restarts a server",
    ),
    ("modules", "Modules are not offered"),
    ("instances/{id}/configuration", "Configuration groups are not offered: edit the server's option file"),
    ("instances/{id}/databases", "Databases are not managed here: use SQL"),
    ("instances/{id}/log", "Server logs are not published here: they lie beside the server"),
    ("instances/{id}/modules", "Modules are not offered"),
    ("instances/{id}/root", "Accounts are not managed here: use SQL"),
    ("instances/{id}/ssl", "The server's TLS is not managed here: edit its option file"),
    ("instances/{id}/users", "Accounts are not managed here: use SQL"),
];

/// A route that fits a request.
struct Found {
    route: &'static Route,
    params: Vec<(&'static str, String)>,
}

impl Router {
    pub(super) fn new(service: Arc<Service>, tenant: String) -> Router {
        Router { service, tenant, counts: Counts::default() }
    }

    /// The answer, whatever happens: a panic in a handler is one 500 and not the end of a worker.
    pub(super) fn answer(&self, request: &Request) -> Reply {
        let answered = catch_unwind(AssertUnwindSafe(|| self.dispatch(request)));
        let reply = match answered {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                let reply = Reply::error(&error);
                if reply.status >= 500 && reply.status != 501 {
                    logging::error("api", format_args!("{} {}: {error}", request.method, path_of(request)));
                }
                reply
            }
            // The panic itself was logged where it happened.
            Err(_) => Reply::fault(500, "a fault of coffer's own; the log tells more"),
        };
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            logging::info("api", format_args!("{} {} {}", request.method, path_of(request), reply.status));
        }
        self.counts.add(reply.status);
        reply
    }

    fn dispatch(&self, request: &Request) -> Result<Reply, Error> {
        let (segments, query) = split_target(&request.target)?;
        // Trove's clients hang on a 401 here, so it is answered before anybody is asked for a token.
        if segments.first().is_some_and(|first| first == "v3") {
            return Err(Error::new(ErrorKind::NotFound, "there is no Keystone here")
                .hint("Use --os-auth-type admin_token with the endpoint /v1.0/<tenant> and the token."));
        }
        let found = find(&request.method, &segments);
        if !found.as_ref().is_ok_and(|found| found.route.access == Access::Open) {
            auth::check(&self.service, request)?;
        }
        self.check_tenant(&segments)?;
        match found {
            Ok(found) => {
                if !is_json_or_nothing(request) {
                    let remedy = "Send it with the header Content-Type: application/json.";
                    return Ok(Reply::fault(415, &format!("the body is not declared as JSON. {remedy}")));
                }
                let call = Call { request, query, params: found.params };
                (found.route.handler)(self, &call)
            }
            Err(other_method) => Ok(unrouted(&request.method, other_method, &segments)),
        }
    }

    /// What is below another tenant does not exist.
    fn check_tenant(&self, segments: &[String]) -> Result<(), Error> {
        match segments {
            [version, tenant, ..] if version == "v1.0" && *tenant != self.tenant => {
                Err(Error::new(ErrorKind::NotFound, format!("tenant `{}` cannot be found", shorten(tenant)))
                    .hint(format!("The endpoint of this appliance ends in /v1.0/{}.", self.tenant)))
            }
            _ => Ok(()),
        }
    }
}

fn unrouted(method: &str, other_method: bool, segments: &[String]) -> Reply {
    let below_tenant = segments.get(2..).unwrap_or_default();
    // Trove renames, upgrades and detaches with these.
    if let ("PUT" | "PATCH", [kind, _]) = (method, below_tenant)
        && kind == "instances"
    {
        let sentence =
            "An instance cannot be renamed, upgraded, detached or otherwise changed here: change the server itself";
        return Reply::fault(501, &format!("{sentence}."));
    }
    if let Some((_, sentence)) = NOT_OFFERED.iter().find(|(pattern, _)| begins_with(below_tenant, pattern)) {
        return Reply::fault(501, &format!("{sentence}."));
    }
    if other_method {
        return Reply::fault(405, "this method is not offered here");
    }
    Reply::fault(404, "The resource could not be found. GET /openapi.json lists what there is.")
}

/// The route for a method and path; if none fits, whether one would with another method.
fn find(method: &str, segments: &[String]) -> Result<Found, bool> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut other_method = false;
    for route in ROUTES {
        if let Some(params) = fit(route.path, segments) {
            if route.method == method {
                return Ok(Found { route, params });
            }
            other_method = true;
        }
    }
    Err(other_method)
}

fn fit(pattern: &'static str, segments: &[String]) -> Option<Vec<(&'static str, String)>> {
    let wanted: Vec<&str> = pattern.split('/').skip(1).collect();
    if wanted.len() != segments.len() {
        return None;
    }
    let mut params = Vec::new();
    for (wanted, segment) in wanted.into_iter().zip(segments) {
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(_) if segment.is_empty() => return None,
            Some(name) => params.push((name, segment.clone())),
            None if wanted == segment => {}
            None => return None,
        }
    }
    Some(params)
}

fn begins_with(segments: &[String], pattern: &str) -> bool {
    let wanted: Vec<&str> = pattern.split('/').collect();
    segments.len() >= wanted.len()
        && wanted.iter().zip(segments).all(|(wanted, segment)| wanted.starts_with('{') || wanted == segment)
}

/// What an HTML form can send is never taken.
fn is_json_or_nothing(request: &Request) -> bool {
    let essence = request.content_type.as_deref().map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => true,
        None => request.body.is_empty(),
        // A GET's content type says nothing, and some clients send one.
        Some(_) => request.body.is_empty() && matches!(request.method.as_str(), "GET" | "HEAD"),
    }
}

/// The path for the log, without the query. The log escapes what a client may have put there.
fn path_of(request: &Request) -> String {
    request.target.split('?').next().unwrap_or_default().chars().take(LOGGED_CHARS_MAX).collect()
}
