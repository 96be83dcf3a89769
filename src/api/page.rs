//! The status page, embedded, and the version documents.

use serde_json::{Value, json};

use crate::api::call::{Call, Reply};
use crate::api::router::Router;
use crate::error::{Error, ErrorKind};

const INDEX: &str = include_str!("../../static/index.html");
const STYLE: &str = include_str!("../../static/style.css");
const ICON: &str = include_str!("../../static/icon.svg");
const SCRIPT: &str = include_str!("../../static/status.js");

/// Only what this host serves itself: no inline script, no frame around it, no form that leaves.
const HEADERS: [(&str, &str); 6] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
];

/// The page for whoever prefers HTML, the version list for all others, as Trove gives it.
pub(super) fn index(_: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    if call.request.accept.as_deref().is_some_and(|accept| accept.contains("text/html")) {
        return Ok(asset("text/html; charset=utf-8", INDEX));
    }
    Ok(Reply::json(200, &json!({ "versions": [version_view()] })))
}

pub(super) fn file(_: &Router, call: &Call<'_>) -> Result<Reply, Error> {
    match call.param("file") {
        "style.css" => Ok(asset("text/css; charset=utf-8", STYLE)),
        "icon.svg" => Ok(asset("image/svg+xml", ICON)),
        "status.js" => Ok(asset("text/javascript; charset=utf-8", SCRIPT)),
        _ => Err(Error::new(ErrorKind::NotFound, "there is no such file")),
    }
}

pub(super) fn version(_: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    Ok(Reply::json(200, &json!({ "version": version_view() })))
}

fn version_view() -> Value {
    json!({
        "id": "v1.0",
        "status": "CURRENT",
        "updated": "2012-08-01T00:00:00Z",
        "links": [{"rel": "self", "href": "/v1.0/"}],
    })
}

fn asset(content_type: &'static str, text: &str) -> Reply {
    let mut reply = Reply::new(200, content_type, text);
    reply.headers.extend(HEADERS);
    reply
}
