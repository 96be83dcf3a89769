//! `coffer demo`: a table is dropped on a busy server, and comes back.
//!
//! The demo starts an appliance of its own and does through the API what an operator would do through the commands,
//! while clients write all the time. Whether a recovery did what it said is decided by `proof` from the clients' own
//! records, and by nothing the appliance says.

mod appliance;
mod load;
mod proof;
mod record;
mod scene;
mod shop;
mod story;

use std::fs;

use crate::cli;
use crate::client::demo::appliance::Appliance;
use crate::client::demo::scene::Scene;
use crate::client::demo::story::Story;
use crate::client::output;
use crate::error::{Error, ErrorKind};

/// Runs the demo to its end.
pub(super) fn run(wanted: &cli::Demo) -> Result<(), Error> {
    let state_dir = appliance::make_state_dir(wanted)?;
    let mut story = Story::begin("A table is dropped on a busy server, and comes back in place.");
    story.step("Start an appliance of the demo's own.");
    let appliance = Appliance::start(&state_dir, wanted)?;
    story.tell(format!("It keeps its state in {}.", state_dir.display()));
    if let Some(url) = &wanted.repository {
        let (place, _) = url.split_once('?').unwrap_or((url, ""));
        story.tell(format!("Its repository is {place}."));
    }
    story.tell(format!("Its status page is {}", appliance.api.page()));
    let mut scene = Scene::new(&appliance, wanted.datastore);
    let played = scene.play(&mut story, wanted.rows);
    let holds = scene.holds();
    let stopped = if wanted.once { scene.stop(&mut story) } else { Ok(()) };
    drop(scene);
    match played {
        Ok(()) => story.end(),
        Err(err) => return Err(how_to_go_on(err, wanted, &appliance)),
    }
    if !holds {
        let err = Error::new(ErrorKind::Internal, "not every proof held; what differs is told above");
        return Err(how_to_go_on(err, wanted, &appliance));
    }
    stopped?;
    if wanted.once {
        if wanted.state_dir.is_none() {
            // The demo made it and nobody else knows of it; what can't be removed harms nobody.
            let _ = fs::remove_dir_all(&state_dir);
        }
        output::say("\nEvery proof held. Everything is stopped.");
        if wanted.repository.is_some() {
            output::say("What was stored stays in the repository.");
        }
    } else {
        tell_what_next(&appliance);
    }
    Ok(())
}

fn how_to_go_on(err: Error, wanted: &cli::Demo, appliance: &Appliance) -> Error {
    let dir = appliance.state_dir.display();
    let remains = if wanted.once {
        format!("Everything is stopped; the state is kept in {dir}.")
    } else {
        format!("Everything still runs, to look at: coffer status --state-dir {dir}; the log is {dir}/demo.log.")
    };
    match err.hint_text().map(str::to_owned) {
        Some(hint) => err.hint(format!("{hint} {remains}")),
        None => err.hint(remains),
    }
}

fn tell_what_next(appliance: &Appliance) {
    let dir = appliance.state_dir.display();
    let own = format!("--state-dir {dir}");
    output::say("\nEvery proof held. The server and its appliance go on running.");
    output::say(format!("\nStatus page:  {}", appliance.api.page()));
    output::say(format!("Its token:    cat {dir}/token"));
    output::say("\nTo try next:");
    for line in [
        format!("coffer status {own}"),
        format!("coffer transactions shop --destructive {own}"),
        format!("coffer recovery undo shop {own}"),
        format!("coffer timeline shop {own}"),
    ] {
        output::say(format!("  {line}"));
    }
    output::say("\nTo end it:");
    output::say(format!("  coffer instance delete shop {own}"));
    output::say(format!("  kill {}", appliance.pid()));
}
