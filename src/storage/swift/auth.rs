//! What is said to an identity service, and what its answers mean. Nothing here touches the network.
//!
//! Auth v1 (TempAuth and its like) takes user and key in headers and answers with a token and the address of the account.
//! Keystone v3 takes a document and answers with a token and a catalog, in which the object store has to be found.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Uri;

use super::super::credentials::SwiftLogin;
use super::super::url::SwiftInterface;
use crate::error::{Error, ErrorKind};

const SERVICE: &str = "object-store";

/// What an identity service gives.
#[derive(PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) token: String,
    /// The account's address, without a slash at the end.
    pub(super) storage_url: String,
    /// How long the token is good, where the service says so.
    pub(super) life: Option<Duration>,
}

/// What a Keystone login asks a token for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Project,
    /// For nothing: only to see whether user and password are right.
    Nothing,
}

/// The document of a Keystone login; `None` when `login` is none for Keystone.
pub(super) fn keystone_document(login: &SwiftLogin, scope: Scope) -> Option<Value> {
    match login {
        SwiftLogin::V1 { .. } => None,
        SwiftLogin::ApplicationCredential { id, secret } => {
            // It is made for one project; naming a scope beside it is an error.
            let credential = json!({"id": id.reveal(), "secret": secret.reveal()});
            let identity = json!({"methods": ["application_credential"], "application_credential": credential});
            Some(json!({"auth": {"identity": identity}}))
        }
        SwiftLogin::Password { username, password, user_domain, project, project_domain } => {
            let user = json!({
                "name": username.reveal(),
                "domain": {"name": user_domain.reveal()},
                "password": password.reveal(),
            });
            let scope = match scope {
                Scope::Project => {
                    json!({"project": {"name": project.reveal(), "domain": {"name": project_domain.reveal()}}})
                }
                Scope::Nothing => json!({"unscoped": {}}),
            };
            let identity = json!({"methods": ["password"], "password": {"user": user}});
            Some(json!({"auth": {"identity": identity, "scope": scope}}))
        }
    }
}

/// Whom a login stands for, for people. Holds no secret.
pub(super) fn identity_of(login: &SwiftLogin) -> String {
    match login {
        SwiftLogin::V1 { user, .. } => format!("user `{}`", user.reveal()),
        SwiftLogin::Password { username, user_domain, .. } => {
            format!("user `{}` of domain `{}`", username.reveal(), user_domain.reveal())
        }
        SwiftLogin::ApplicationCredential { id, .. } => format!("application credential `{}`", id.reveal()),
    }
}

/// Reads the answer of auth v1, whose headers `header` gives.
pub(super) fn v1_grant<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Result<Grant, Error> {
    let missing = |what: &str| {
        Error::new(ErrorKind::InvalidInput, format!("the answer of `auth_url` has no {what}"))
            .hint("The `auth_url` of auth v1 mostly ends in /auth/v1.0, that of Keystone in /v3.")
    };
    let token = header("x-auth-token").or_else(|| header("x-storage-token"));
    let life = header("x-auth-token-expires").and_then(|seconds| seconds.trim().parse().ok());
    Ok(Grant {
        token: token.filter(|token| !token.is_empty()).ok_or_else(|| missing("X-Auth-Token"))?.to_owned(),
        storage_url: storage_url(header("x-storage-url").ok_or_else(|| missing("X-Storage-Url"))?)?,
        life: life.map(Duration::from_secs),
    })
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: Option<Timestamp>,
    issued_at: Option<Timestamp>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    /// `region` is the older name of the same.
    #[serde(alias = "region_id")]
    region: Option<String>,
    url: String,
}

/// Reads Keystone's answer; `token` is its `X-Subject-Token`.
pub(super) fn keystone_grant(
    token: Option<&str>,
    body: &[u8],
    region: Option<&str>,
    interface: SwiftInterface,
) -> Result<Grant, Error> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidInput, format!("the answer of `auth_url` {what}"));
    let Some(subject) = token.filter(|token| !token.is_empty()) else {
        return Err(bad("has no X-Subject-Token").hint("The `auth_url` of Keystone ends in /v3."));
    };
    let value: Value = serde_json::from_slice(body).map_err(|_| bad("is not JSON"))?;
    let answer: TokenAnswer = serde_json::from_value(without_doubles(value))
        .map_err(|err| bad("is not a Keystone token").with_source(err))?;
    let TokenAnswer { token } = answer;
    // Both times are Keystone's, so that its clock need not agree with ours.
    let life = match (token.expires_at, token.issued_at) {
        (Some(expires), Some(issued)) => Duration::try_from(expires.duration_since(issued)).ok(),
        _ => None,
    };
    let url = choose(&token.catalog, region, interface)?;
    Ok(Grant { token: subject.to_owned(), storage_url: storage_url(url)?, life })
}

/// Keystone names an endpoint's region twice, as `region` and `region_id`; both would be the same field here.
fn without_doubles(mut value: Value) -> Value {
    let services = value.pointer_mut("/token/catalog").and_then(Value::as_array_mut);
    for service in services.into_iter().flatten() {
        for endpoint in service.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(endpoint) = endpoint.as_object_mut().filter(|endpoint| endpoint.contains_key("region")) {
                endpoint.remove("region_id");
            }
        }
    }
    value
}

/// The object store in the catalog, or what the catalog offers instead.
fn choose<'a>(catalog: &'a [Service], region: Option<&str>, interface: SwiftInterface) -> Result<&'a str, Error> {
    let name = match interface {
        SwiftInterface::Public => "public",
        SwiftInterface::Internal => "internal",
    };
    let region_of = |endpoint: &Endpoint| endpoint.region.clone().unwrap_or_default();
    let offered: Vec<&Endpoint> =
        catalog.iter().filter(|service| service.kind == SERVICE).flat_map(|service| &service.endpoints).collect();
    if offered.is_empty() {
        let kinds: BTreeSet<&str> = catalog.iter().map(|service| service.kind.as_str()).collect();
        let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            ErrorKind::Refused,
            format!("the catalog of this project offers no {SERVICE}; it offers: {kinds}"),
        )
        .hint("Ask the cloud's operator for Swift in this project, or name another project."));
    }
    let fits = |endpoint: &&&Endpoint| {
        endpoint.interface == name && region.is_none_or(|region| endpoint.region.as_deref() == Some(region))
    };
    let mut found = offered.iter().filter(fits);
    let shown: BTreeSet<String> = offered
        .iter()
        .filter(|endpoint| ["public", "internal"].contains(&endpoint.interface.as_str()))
        .map(|endpoint| format!("region={}&interface={}", region_of(endpoint), endpoint.interface))
        .collect();
    let shown = shown.into_iter().collect::<Vec<_>>().join(", ");
    let Some(endpoint) = found.next() else {
        let wanted = region.map_or_else(String::new, |region| format!(" in region `{region}`"));
        return Err(Error::new(
            ErrorKind::Refused,
            format!("the catalog offers no {name} {SERVICE}{wanted}; it offers: {shown}"),
        )
        .hint("Write region and interface into the repository's address as the catalog has them."));
    };
    // Which of several comes first is chance, and another region's container is another repository.
    if found.any(|other| other.url != endpoint.url) {
        return Err(Error::new(ErrorKind::Refused, format!("the catalog offers {SERVICE} more than once: {shown}"))
            .hint("Name one with region= in the repository's address."));
    }
    Ok(&endpoint.url)
}

/// An account's address, without a slash at the end.
fn storage_url(text: &str) -> Result<String, Error> {
    let good = text.parse::<Uri>().is_ok_and(|uri| {
        let host = uri.host().is_some_and(|host| !host.is_empty());
        host && uri.query().is_none() && matches!(uri.scheme_str(), Some("http" | "https")) && !text.contains('@')
    });
    if good {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    let what = format!("the identity service names `{}` as the object store, which is no address", text.escape_debug());
    Err(Error::new(ErrorKind::InvalidInput, what).hint("Ask the cloud's operator to correct it."))
}

#[cfg(test)]
mod tests {
    use super::super::super::credentials::Secret;
    use super::*;

    fn password() -> SwiftLogin {
        SwiftLogin::Password {
            username: Secret::new("demo"),
            password: Secret::new("hush"),
            user_domain: Secret::new("Users"),
            project: Secret::new("shop"),
            project_domain: Secret::new("Projects"),
        }
    }

    #[test]
    fn a_login_is_written_as_keystone_reads_it() {
        let user = json!({"name": "demo", "domain": {"name": "Users"}, "password": "hush"});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let scope = json!({"project": {"name": "shop", "domain": {"name": "Projects"}}});
        assert_eq!(
            keystone_document(&password(), Scope::Project).unwrap(),
            json!({"auth": {"identity": identity, "scope": scope}})
        );
        assert_eq!(
            keystone_document(&password(), Scope::Nothing).unwrap(),
            json!({"auth": {"identity": identity, "scope": {"unscoped": {}}}})
        );
        let login = SwiftLogin::ApplicationCredential { id: Secret::new("i"), secret: Secret::new("s") };
        let credential = json!({"id": "i", "secret": "s"});
        let identity = json!({"methods": ["application_credential"], "application_credential": credential});
        assert_eq!(keystone_document(&login, Scope::Project).unwrap(), json!({"auth": {"identity": identity}}));
        assert!(!identity_of(&password()).contains("hush"));
    }

    fn v1(headers: &[(&str, &'static str)]) -> Result<Grant, Error> {
        v1_grant(|name| headers.iter().find(|(header, _)| *header == name).map(|(_, value)| *value))
    }

    #[test]
    fn the_headers_of_auth_v1_are_read() {
        let url = ("x-storage-url", "http://h:1/v1/AUTH_test/");
        let grant = v1(&[url, ("x-auth-token", "AUTH_tk1"), ("x-auth-token-expires", "86340")]).unwrap();
        assert_eq!((grant.token.as_str(), grant.storage_url.as_str()), ("AUTH_tk1", "http://h:1/v1/AUTH_test"));
        assert_eq!(grant.life, Some(Duration::from_secs(86_340)));
        assert!(v1(&[url, ("x-storage-token", "AUTH_tk1")]).unwrap().life.is_none());
        assert!(v1(&[url]).err().unwrap().message().contains("X-Auth-Token"));
        assert!(v1(&[("x-auth-token", "t")]).err().unwrap().message().contains("X-Storage-Url"));
        for bad in ["", "/v1/AUTH_test", "ftp://h/v1", "http:///v1", "http://u:p@h/v1", "http://h/v1?x=1"] {
            assert!(v1(&[("x-storage-url", bad), ("x-auth-token", "t")]).is_err(), "{bad}");
        }
    }

    /// Two regions, the second with an internal address of its own, as Keystone 22 writes them.
    fn catalog() -> Vec<u8> {
        let endpoint = |region: &str, interface: &str, host: &str| {
            json!({"id": "1", "interface": interface, "region_id": region, "region": region,
                   "url": format!("http://{host}/v1/AUTH_p")})
        };
        let catalog = json!([
            {"id": "1", "type": "identity", "name": "keystone", "endpoints": [endpoint("One", "public", "id")]},
            {"id": "2", "type": "object-store", "name": "swift", "endpoints": [
                endpoint("One", "public", "one"), endpoint("Two", "public", "two"),
                endpoint("Two", "internal", "two.lan"), endpoint("Two", "admin", "admin")]},
        ]);
        let token = json!({"token": {"expires_at": "2026-11-21T14:10:23.000000Z",
            "issued_at": "2026-11-21T13:10:23.000000Z", "catalog": catalog}});
        token.to_string().into_bytes()
    }

    #[test]
    fn the_object_store_is_found_by_region_and_interface() {
        let found = |region, interface| keystone_grant(Some("t"), &catalog(), region, interface);
        let grant = found(Some("One"), SwiftInterface::Public).unwrap();
        assert_eq!((grant.storage_url.as_str(), grant.life), ("http://one/v1/AUTH_p", Some(Duration::from_secs(3600))));
        assert_eq!(found(Some("Two"), SwiftInterface::Public).unwrap().storage_url, "http://two/v1/AUTH_p");
        // There is one internal address only, so none has to be named.
        assert_eq!(found(None, SwiftInterface::Internal).unwrap().storage_url, "http://two.lan/v1/AUTH_p");
    }

    #[test]
    fn what_the_catalog_offers_instead_is_told() {
        let refused = |region, interface| {
            let err = keystone_grant(Some("t"), &catalog(), region, interface).err().unwrap();
            assert_eq!(err.kind(), ErrorKind::Refused);
            err.message()
        };
        let offer = "region=One&interface=public, region=Two&interface=internal, region=Two&interface=public";
        assert_eq!(
            refused(Some("Three"), SwiftInterface::Public),
            format!("the catalog offers no public object-store in region `Three`; it offers: {offer}")
        );
        assert_eq!(
            refused(Some("One"), SwiftInterface::Internal),
            format!("the catalog offers no internal object-store in region `One`; it offers: {offer}")
        );
        assert_eq!(
            refused(None, SwiftInterface::Public),
            format!("the catalog offers object-store more than once: {offer}")
        );
        let body = br#"{"token":{"catalog":[{"type":"compute","endpoints":[]},{"type":"image"}]}}"#;
        let err = keystone_grant(Some("t"), body, None, SwiftInterface::Public).err().unwrap();
        assert!(err.message().ends_with("offers no object-store; it offers: compute, image"), "{err}");
    }

    #[test]
    fn an_answer_that_is_no_token_is_an_error() {
        let read = |token, body: &str| keystone_grant(token, body.as_bytes(), None, SwiftInterface::Public).is_err();
        assert!(read(None, "{}") && read(Some(""), "{}"));
        assert!(read(Some("t"), "{}") && read(Some("t"), "<html>") && read(Some("t"), r#"{"token":{"catalog":7}}"#));
    }
}
