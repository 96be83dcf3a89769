//! The clients: every subcommand that talks to a running appliance over HTTP, and the demo.
//!
//! They see nothing of the appliance but its API. One file per noun; `http` asks, `view` reads the answers, `render`
//! turns values into text, `progress` waits.

mod backups;
#[cfg(test)]
mod canned;
mod demo;
mod http;
mod instances;
mod output;
mod progress;
mod recoveries;
mod render;
mod status;
mod timelines;
mod transactions;
mod verifications;
mod view;

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::cli::{BackupAction, Command, Connection, InstanceAction, RecoveryAction};
use crate::client::http::Api;
use crate::client::progress::Show;
use crate::error::{Error, ErrorKind};

/// Carries a client command out. `serve`, `check` and `rebuild` are not among them.
pub(crate) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Demo(demo) => demo::run(&demo),
        Command::Status(status) => status::show(&Client::new(&status.connection())?),
        Command::Instance(instance) => match instance.action {
            InstanceAction::List(list) => instances::list(&Client::new(&list.connection())?),
            InstanceAction::Show(show) => instances::show(&Client::new(&show.connection())?, &show),
            InstanceAction::Create(create) => instances::create(&Client::new(&create.connection())?, &create),
            InstanceAction::Adopt(adopt) => instances::adopt(&Client::new(&adopt.connection())?, &adopt),
            InstanceAction::Delete(delete) => instances::delete(&Client::new(&delete.connection())?, &delete),
        },
        Command::Backup(backup) => match backup.action {
            BackupAction::List(list) => backups::list(&Client::new(&list.connection())?, &list),
            BackupAction::Show(show) => backups::show(&Client::new(&show.connection())?, &show),
            BackupAction::Create(create) => backups::create(&Client::new(&create.connection())?, &create),
            BackupAction::Verify(verify) => verifications::verify(&Client::new(&verify.connection())?, &verify),
            BackupAction::Delete(delete) => backups::delete(&Client::new(&delete.connection())?, &delete),
        },
        Command::Recover(recover) => recoveries::recover(&Client::new(&recover.connection())?, &recover),
        Command::Recovery(recovery) => match recovery.action {
            RecoveryAction::List(list) => recoveries::list(&Client::new(&list.connection())?, &list),
            RecoveryAction::Show(show) => recoveries::show(&Client::new(&show.connection())?, &show),
            RecoveryAction::Promote(promote) => recoveries::promote(&Client::new(&promote.connection())?, &promote),
            RecoveryAction::Abort(abort) => recoveries::abort(&Client::new(&abort.connection())?, &abort),
            RecoveryAction::Undo(undo) => recoveries::undo(&Client::new(&undo.connection())?, &undo),
            RecoveryAction::Release(release) => recoveries::release(&Client::new(&release.connection())?, &release),
        },
        Command::Transactions(wanted) => transactions::list(&Client::new(&wanted.connection())?, &wanted),
        Command::Timeline(timeline) => timelines::list(&Client::new(&timeline.connection())?, &timeline),
        Command::Serve(_) | Command::Check(_) | Command::Rebuild(_) => {
            Err(Error::new(ErrorKind::Internal, "`serve`, `check` and `rebuild` are not client commands"))
        }
    }
}

/// Tells what went wrong, on standard error: what happened, and on a line of its own what to do.
pub(crate) fn complain(err: &Error) {
    output::note(format!("coffer: {}", err.message()));
    if let Some(hint) = err.hint_text() {
        output::note(hint);
    }
}

/// A command's way to the appliance and to whoever typed it.
struct Client {
    api: Api,
    json: bool,
    /// The operator's own clock.
    zone: TimeZone,
}

impl Client {
    fn new(connection: &Connection) -> Result<Client, Error> {
        Ok(Client { api: Api::find(connection)?, json: connection.json, zone: TimeZone::system() })
    }

    /// For whoever found the appliance already and prints for people.
    fn beside(api: &Api) -> Client {
        Client { api: api.clone(), json: false, zone: TimeZone::system() }
    }

    fn show(&self) -> Show {
        Show::suitable(self.json)
    }

    /// Prints `answer` as it is for scripts, or the lines for people.
    fn print(&self, answer: &Value, lines: impl FnOnce() -> Result<Vec<String>, Error>) -> Result<(), Error> {
        if self.json {
            output::say_json(answer);
            return Ok(());
        }
        for line in lines()? {
            output::say(line);
        }
        Ok(())
    }

    fn time(&self, moment: Option<view::Moment>) -> String {
        render::time_or_dash(moment, &self.zone)
    }

    #[cfg(test)]
    fn of(canned: &canned::Canned) -> Client {
        Client { api: canned.api(), json: false, zone: TimeZone::UTC }
    }
}

/// The one of `things` that `wanted` names: by id, by the first four or more characters of it, or by name.
fn pick<'a, T>(
    things: &'a [T],
    wanted: &str,
    noun: &str,
    id: impl Fn(&T) -> &str,
    name: impl Fn(&T) -> &str,
) -> Result<&'a T, Error> {
    if let Some(exact) = things.iter().find(|thing| id(thing) == wanted) {
        return Ok(exact);
    }
    let mut found: Vec<&T> = things.iter().filter(|thing| !wanted.is_empty() && name(thing) == wanted).collect();
    if found.is_empty() && wanted.len() >= 4 {
        found = things.iter().filter(|thing| id(thing).starts_with(wanted)).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::new(ErrorKind::NotFound, format!("there is no {noun} `{wanted}`")).hint(list_hint(noun))),
        several => {
            Err(Error::new(ErrorKind::InvalidInput, format!("`{wanted}` names {} of the {noun}s", several.len()))
                .hint(format!("Give the whole id; `coffer {noun} list --json` shows it.")))
        }
    }
}

fn list_hint(noun: &str) -> String {
    match noun {
        "timeline" => "`coffer timeline INSTANCE --json` shows those there are.".to_owned(),
        noun => format!("`coffer {noun} list --json` shows those there are."),
    }
}

#[cfg(test)]
mod tests {
    use super::pick;
    use crate::error::ErrorKind;

    #[test]
    fn a_thing_is_named_by_id_by_its_beginning_or_by_name() {
        let things = [("abcdef01", "shop"), ("abcdxx02", "blog"), ("99999999", "blog")];
        let of = |wanted| pick(&things, wanted, "backup", |thing| thing.0, |thing| thing.1).map(|thing| thing.0);
        assert_eq!(of("shop").unwrap(), "abcdef01");
        assert_eq!(of("abcde").unwrap(), "abcdef01");
        assert_eq!(of("99999999").unwrap(), "99999999");
        assert_eq!(of("abcd").unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(of("blog").unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(of("999").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(of("").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
