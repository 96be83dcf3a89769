//! The token: fetched when it is needed, renewed before it runs out and once when the store refuses it.
//!
//! One thread asks for a new token while the others wait for what it gets, be it a token or a failure: many transfers
//! that find their token dead together log in once, and a wrong password is tried once and not until the account is locked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::credentials::{self, SwiftLogin};
use super::super::http::{Answer, Client, Method, Payload, Request, place_of};
use super::super::retry::{Again, Failure};
use super::super::url::{SwiftAddress, SwiftAuth};
use super::auth::{self, Grant, Scope};
use crate::clock::Deadline;
use crate::error::{Error, ErrorKind};
use crate::logging;

/// A token is renewed this long before its end, or a tenth of its life, whichever is less.
const RENEWAL_MARGIN_MAX: Duration = Duration::from_secs(60);
/// A token whose end nobody names is used this long.
const LIFE_UNKNOWN: Duration = Duration::from_secs(3600);
/// The identity service is down and the token still good: it is asked again after this.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// What requests need to be let in.
pub(super) struct Session {
    pub(super) token: String,
    /// The account's address, without a slash at the end.
    pub(super) storage_url: String,
    end: Deadline,
}

/// Where the tokens come from.
pub(super) struct Tokens {
    client: Client,
    address: SwiftAddress,
    credentials_file: Option<PathBuf>,
    /// How often a login was tried. Whoever waited while it grew takes that login's outcome.
    logins: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    /// When the session should be renewed.
    due: Option<Deadline>,
    /// How the last login failed.
    failed: Option<Failure>,
}

impl Tokens {
    pub(super) fn new(client: Client, address: SwiftAddress, credentials_file: Option<PathBuf>) -> Tokens {
        Tokens { client, address, credentials_file, logins: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A session that is not `refused`, the one that a store has just answered with 401.
    pub(super) fn session(&self, refused: Option<&Arc<Session>>) -> Result<Arc<Session>, Failure> {
        let logins_seen = self.logins.load(Ordering::SeqCst);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let usable =
            state.session.clone().filter(|session| refused.is_none_or(|refused| !Arc::ptr_eq(refused, session)));
        if let Some(session) = &usable
            && state.due.is_some_and(|due| !due.has_passed())
        {
            return Ok(session.clone());
        }
        if self.logins.load(Ordering::SeqCst) != logins_seen
            && let Some(failure) = &state.failed
        {
            return Err(retold(failure));
        }
        let outcome = self.log_in();
        self.logins.fetch_add(1, Ordering::SeqCst);
        match outcome {
            Ok(grant) => {
                let life = grant.life.unwrap_or(LIFE_UNKNOWN);
                state.due = Some(Deadline::after(due_after(life)));
                state.failed = None;
                let session =
                    Session { token: grant.token, storage_url: grant.storage_url, end: Deadline::after(life) };
                Ok(state.session.insert(Arc::new(session)).clone())
            }
            Err(failure) => {
                if let Some(session) = usable.filter(|session| !session.end.has_passed())
                    && failure.again != Again::Never
                {
                    logging::warn("storage", format_args!("the token is not renewed yet: {}", failure.error.message()));
                    state.due = Some(Deadline::after(RENEWAL_PAUSE));
                    return Ok(session);
                }
                state.failed = Some(retold(&failure));
                Err(failure)
            }
        }
    }

    /// Makes the token one that should be renewed.
    #[cfg(test)]
    pub(super) fn make_due(&self) {
        self.state.lock().unwrap().due = Some(Deadline::after(Duration::ZERO));
    }

    /// The error of a store that refuses a token right after it was issued.
    pub(super) fn refused_for_good(&self, storage_url: &str) -> Error {
        let store = place_of(storage_url);
        let what = format!("{store} does not accept the token that `{}` has just issued", self.address.auth_url);
        Error::new(ErrorKind::Unauthorized, what).hint(
            "The store and its identity service have to belong together: check `auth_url`, region and interface in the \
             repository's address, and the clocks of both servers.",
        )
    }

    /// Asks the identity service once, with the credentials as they stand in their file now.
    fn log_in(&self) -> Result<Grant, Failure> {
        let login = credentials::swift(self.credentials_file.as_deref())?;
        let grant = match (self.address.auth, &login) {
            (SwiftAuth::V1, SwiftLogin::V1 { user, key }) => self.log_in_v1(&login, user.reveal(), key.reveal())?,
            (SwiftAuth::V3, SwiftLogin::Password { .. } | SwiftLogin::ApplicationCredential { .. }) => {
                self.log_in_keystone(&login)?
            }
            (SwiftAuth::V1, _) => return Err(self.mismatch("auth v1, which takes user and key").into()),
            (SwiftAuth::V3, _) => {
                let what = "Keystone v3, which takes username, password and project, or an application credential";
                return Err(self.mismatch(what).into());
            }
        };
        stays_private(&self.address.auth_url, &grant.storage_url)?;
        Ok(grant)
    }

    fn log_in_v1(&self, login: &SwiftLogin, user: &str, key: &str) -> Result<Grant, Failure> {
        let request =
            Request::new(Method::GET, &self.address.auth_url).header("x-auth-user", user).header("x-auth-key", key);
        let answer = self.client.send(&request)?;
        if answer.is_success() {
            let grant = auth::v1_grant(|name| answer.header(name))?;
            answer.small_body()?;
            return Ok(grant);
        }
        let who = auth::identity_of(login);
        let error = match answer.status() {
            401 | 403 => Some(self.rejected(&format!("{who}: user or key is wrong"), "user and key")),
            _ => None,
        };
        Err(self.failure_of(answer, error))
    }

    fn log_in_keystone(&self, login: &SwiftLogin) -> Result<Grant, Failure> {
        let answer = self.ask_keystone(login, Scope::Project)?;
        if answer.is_success() {
            let token = answer.header("x-subject-token").map(str::to_owned);
            let SwiftAddress { region, interface, .. } = &self.address;
            return Ok(auth::keystone_grant(token.as_deref(), &answer.small_body()?, region.as_deref(), *interface)?);
        }
        let who = auth::identity_of(login);
        let error = match (answer.status(), login) {
            (401, SwiftLogin::Password { project, project_domain, .. }) => {
                // Keystone does not say what is wrong. Without the project it may let the user in.
                let known = self.ask_keystone(login, Scope::Nothing).is_ok_and(|answer| answer.is_success());
                let (project, domain) = (project.reveal(), project_domain.reveal());
                Some(if known {
                    let what = format!(
                        "{who} for project `{project}` of domain `{domain}`: user and password are right, but there is no \
                         such project or the user has no role in it"
                    );
                    self.rejected(&what, "project and project_domain")
                } else {
                    let what = format!("{who}: user, domain or password is wrong, or the user is disabled");
                    self.rejected(&what, "username, user_domain and password")
                })
            }
            (401 | 404, SwiftLogin::ApplicationCredential { .. }) => Some(self.rejected(
                &format!("{who}: there is none with this id, its secret is another one, or it has expired"),
                "application_credential_id and application_credential_secret",
            )),
            (403, _) => Some(self.rejected(&format!("{who}: it may not log in here"), "the login")),
            _ => None,
        };
        Err(self.failure_of(answer, error))
    }

    fn ask_keystone(&self, login: &SwiftLogin, scope: Scope) -> Result<Answer, Failure> {
        let body = auth::keystone_document(login, scope).map(|document| document.to_string()).unwrap_or_default();
        // The address may go on behind `/v3`, as it stands in many a settings file.
        let base = self.address.auth_url.find("/v3").map_or(&*self.address.auth_url, |at| &self.address.auth_url[..at]);
        let url = format!("{base}/v3/auth/tokens");
        let request = Request::new(Method::POST, &url)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Payload::Bytes(body.as_bytes()));
        self.client.send(&request)
    }

    /// The failure an answer stands for; `error` when it is already known what it means. Not by `Answer::refusal`: a
    /// wrong clock is no reason here, and telling it would hide the wrong password.
    fn failure_of(&self, answer: Answer, error: Option<Error>) -> Failure {
        let (status, again) = (answer.status(), answer.again());
        let url = &self.address.auth_url;
        let error = error.unwrap_or_else(|| {
            if again != Again::Never {
                return Error::new(ErrorKind::Unavailable, format!("the identity service `{url}` answers {status}"))
                    .hint("Look at the log of the identity service.");
            }
            Error::new(ErrorKind::InvalidInput, format!("there is no identity service at `{url}`: it answers {status}"))
                .hint("The `auth_url` of auth v1 mostly ends in /auth/v1.0, that of Keystone in /v3.")
        });
        Failure { error, again }
    }

    fn rejected(&self, what: &str, keys: &str) -> Error {
        Error::new(ErrorKind::Unauthorized, format!("`{}` refuses {what}", self.address.auth_url))
            .hint(format!("Correct {keys} under [swift] in {}.", self.file_shown()))
    }

    fn mismatch(&self, what: &str) -> Error {
        let error = format!("`auth_url` of the repository is {what}, but {} holds another login", self.file_shown());
        Error::new(ErrorKind::InvalidInput, error).hint("Change [swift] there, or `auth_url` in the address.")
    }

    fn file_shown(&self) -> String {
        self.credentials_file.as_ref().map_or("the credentials".to_owned(), |file| format!("`{}`", file.display()))
    }
}

/// Refuses an object store to which a token from a private connection would go in the clear.
fn stays_private(auth_url: &str, storage_url: &str) -> Result<(), Error> {
    if !auth_url.starts_with("https:") || storage_url.starts_with("https:") {
        return Ok(());
    }
    let what = format!("`{auth_url}` is asked by https, but names {} as the object store", place_of(storage_url));
    Err(Error::new(ErrorKind::Refused, what)
        .hint("Tokens and backups would go there in the clear. Ask the cloud's operator for an https address."))
}

/// When a token that lives so long should be renewed. A second at least: a service that hands out the last second of an
/// old token must not be asked before each request.
fn due_after(life: Duration) -> Duration {
    (life - (life / 10).min(RENEWAL_MARGIN_MAX)).max(Duration::from_secs(1))
}

/// The same failure, for somebody else who waited for it.
fn retold(failure: &Failure) -> Failure {
    let error = Error::new(failure.error.kind(), failure.error.message());
    let error = match failure.error.hint_text() {
        Some(hint) => error.hint(hint),
        None => error,
    };
    Failure { error, again: failure.again }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_leave_tls() {
        for (auth_url, storage_url, good) in [
            ("https://id/v3", "https://swift/v1/a", true),
            ("http://id/v3", "http://swift/v1/a", true),
            ("http://id/v3", "https://swift/v1/a", true),
            ("https://id/v3", "http://swift/v1/a", false),
        ] {
            assert_eq!(stays_private(auth_url, storage_url).is_ok(), good, "{auth_url} {storage_url}");
        }
    }

    #[test]
    fn a_token_is_renewed_before_its_end() {
        for (life, due) in [(86_400, 86_340), (600, 540), (100, 90), (1, 1), (0, 1)] {
            assert_eq!(due_after(Duration::from_secs(life)), Duration::from_secs(due), "{life}");
        }
    }
}
