//! Waiting for what the appliance does by itself, and showing how far it has come.
//!
//! The work goes on whether anybody watches or not; watching is a `GET` now and then. On a terminal there is a bar,
//! elsewhere a line whenever there is something new, and with `--json` nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::http::Api;
use crate::client::output;
use crate::client::render;
use crate::client::view;
use crate::clock::{Deadline, Stopwatch};
use crate::error::{Error, ErrorKind};

/// How often to ask at first; things that take long are asked about less often.
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);
/// An appliance may be restarted while somebody watches.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Without a terminal, a line at least this often while figures move.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Bar,
    Lines,
    Nothing,
}

impl Show {
    /// What suits the caller: a bar for people, lines for logs, nothing beside JSON.
    pub(crate) fn suitable(json: bool) -> Show {
        if json {
            Show::Nothing
        } else if output::is_watched() {
            Show::Bar
        } else {
            Show::Lines
        }
    }
}

/// What an answer means for somebody who waits.
pub(crate) enum Settled {
    /// Not yet.
    Running(view::Progress),
    Done,
    Failed(Error),
}

/// Asks for `path` until `judge` says that it is settled; the last answer is returned.
pub(crate) fn follow(
    api: &Api,
    path: &str,
    show: Show,
    mut judge: impl FnMut(&Value) -> Result<Settled, Error>,
) -> Result<Value, Error> {
    let mut display = Display::new(show);
    let mut silence = Deadline::after(SILENCE_MAX);
    let mut pause = POLL_MIN;
    loop {
        match api.get(path) {
            Ok(answer) => {
                silence = Deadline::after(SILENCE_MAX);
                match judge(&answer)? {
                    Settled::Done => return Ok(answer),
                    Settled::Failed(err) => return Err(err),
                    Settled::Running(progress) => display.update(&progress),
                }
            }
            Err(err) if err.kind() == ErrorKind::Unavailable && !silence.has_passed() => {}
            Err(err) if err.kind() == ErrorKind::Unavailable => {
                return Err(
                    err.hint("What was begun goes on as soon as the appliance runs; look with `coffer status`.")
                );
            }
            Err(err) => return Err(err),
        }
        std::thread::sleep(pause);
        pause = (pause * 5 / 4).min(POLL_MAX);
    }
}

/// As `follow`, for what is being deleted: `Null` once it is gone.
pub(crate) fn follow_to_its_end(
    api: &Api,
    path: &str,
    show: Show,
    judge: impl FnMut(&Value) -> Result<Settled, Error>,
) -> Result<Value, Error> {
    match follow(api, path, show, judge) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Value::Null),
        other => other,
    }
}

/// Shows one progress after the other.
struct Display {
    show: Show,
    bar: Option<ProgressBar>,
    last: view::Progress,
    since_line: Stopwatch,
}

impl Display {
    fn new(show: Show) -> Display {
        Display { show, bar: None, last: view::Progress::default(), since_line: Stopwatch::start() }
    }

    fn update(&mut self, progress: &view::Progress) {
        match self.show {
            Show::Nothing => {}
            Show::Bar => self.draw(progress),
            Show::Lines => self.line(progress),
        }
        self.last = progress.clone();
    }

    fn draw(&mut self, progress: &view::Progress) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let template = if progress.total > 0 {
            "{spinner} {elapsed_precise} {prefix:<12} {bar:30} {percent:>3} %  {msg}"
        } else {
            "{spinner} {elapsed_precise} {prefix:<12} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("##-"));
        }
        bar.set_prefix(output::clean(&step_name(progress)));
        bar.set_message(figures(progress));
        if progress.total > 0 {
            bar.set_length(progress.total);
            bar.set_position(progress.done.min(progress.total));
        }
    }

    fn line(&mut self, progress: &view::Progress) {
        let is_new_step = progress.step != self.last.step && !progress.step.is_empty();
        let has_moved = progress != &self.last && self.since_line.elapsed() >= LINE_EVERY;
        if is_new_step || has_moved {
            output::note(format!("  {} {}", step_name(progress), figures(progress)).trim_end());
            self.since_line = Stopwatch::start();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn step_name(progress: &view::Progress) -> String {
    if progress.step.is_empty() { "waiting".to_owned() } else { progress.step.clone() }
}

/// `1.2 GiB of 3.0 GiB`, `12 000 of 250 580 transactions`, or nothing before there are figures.
pub(crate) fn figures(progress: &view::Progress) -> String {
    if progress.done == 0 && progress.total == 0 {
        return String::new();
    }
    match (progress.unit.as_str(), progress.total) {
        ("transactions", 0) => render::counted(progress.done, "transaction"),
        ("transactions", total) => {
            format!("{} of {}", render::count(progress.done), render::counted(total, "transaction"))
        }
        (_, 0) => render::bytes(progress.done),
        (_, total) => format!("{} of {}", render::bytes(progress.done), render::bytes(total)),
    }
}

/// The error that a fault in an answer stands for.
pub(crate) fn fault_error(fault: Option<&view::Fault>, otherwise: &str) -> Error {
    let Some(fault) = fault.filter(|fault| !fault.message.is_empty()) else {
        return Error::new(ErrorKind::Internal, otherwise);
    };
    let err = Error::new(ErrorKind::Internal, fault.message.trim_end_matches('.').to_owned());
    match &fault.details {
        Some(details) if !details.is_empty() => err.hint(details.clone()),
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::{Settled, Show, figures, follow};
    use crate::client::canned::Canned;
    use crate::client::view::{self, Progress};
    use crate::error::{Error, ErrorKind};

    #[test]
    fn following_ends_when_the_thing_is_settled() {
        let path = "GET /v1.0/appliance/x";
        let canned = Canned::new(&[
            (path, 200, r#"{"status":"BUILD"}"#),
            (path, 503, r#"{"serviceUnavailable":{"code":503,"message":"starting"}}"#),
            (path, 200, r#"{"status":"ACTIVE"}"#),
        ]);
        let answer = follow(&canned.api(), "/x", Show::Nothing, |answer| {
            Ok(if answer["status"] == "ACTIVE" { Settled::Done } else { Settled::Running(Progress::default()) })
        })
        .unwrap();
        assert_eq!(answer["status"], "ACTIVE");
        assert_eq!(canned.seen().len(), 3);
    }

    #[test]
    fn a_failure_ends_it_with_the_fault() {
        let canned = Canned::new(&[("GET /v1.0/appliance/x", 200, "{}")]);
        let fault = view::Fault { message: "no space".into(), details: Some("Free some.".into()), created: None };
        let err = follow(&canned.api(), "/x", Show::Nothing, |_| {
            Ok(Settled::Failed(super::fault_error(Some(&fault), "it failed")))
        })
        .unwrap_err();
        assert_eq!(err.to_string(), "no space. Free some.");
        let gone = follow(&canned.api(), "/y", Show::Nothing, |_| Err(Error::new(ErrorKind::Internal, "never")));
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn figures_say_how_much_of_how_much() {
        let progress = |done, total, unit: &str| Progress { step: "s".into(), done, total, unit: unit.into() };
        assert_eq!(figures(&progress(0, 0, "bytes")), "");
        assert_eq!(figures(&progress(2048, 4096, "bytes")), "2.0 KiB of 4.0 KiB");
        assert_eq!(figures(&progress(2048, 0, "")), "2.0 KiB");
        assert_eq!(figures(&progress(12_000, 250_580, "transactions")), "12 000 of 250 580 transactions");
    }
}
