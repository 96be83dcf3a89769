//! How the demo tells what it does: numbered steps, plain sentences, figures with units, and a table at the end.

use crate::client::{output, render};
use crate::clock::Stopwatch;

/// A step that is over.
struct Step {
    title: String,
    took: String,
    /// How long the server was down in it; empty when it was not.
    down: String,
}

/// The telling.
pub(super) struct Story {
    steps: Vec<Step>,
    running: Option<(String, Stopwatch)>,
    down: String,
}

impl Story {
    pub(super) fn begin(title: &str) -> Story {
        output::say(title);
        Story { steps: Vec::new(), running: None, down: String::new() }
    }

    /// Ends the step before and begins the next.
    pub(super) fn step(&mut self, title: &str) {
        self.end_step();
        output::say(format!("\n{:>2}. {title}", self.steps.len() + 1));
        self.running = Some((title.trim_end_matches('.').to_owned(), Stopwatch::start()));
    }

    pub(super) fn tell(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            output::say(format!("    {line}"));
        }
    }

    /// Remembers for the table how long the server was down in this step.
    pub(super) fn note_down(&mut self, down: &str) {
        down.clone_into(&mut self.down);
    }

    /// What an operator would type for it.
    pub(super) fn command(&self, line: &str) {
        output::say(format!("    $ {line}"));
    }

    /// Ends the last step and shows what each took.
    pub(super) fn end(&mut self) {
        self.end_step();
        let mut table = render::Table::new(&["STEP", "", "TOOK", "SERVER DOWN"]);
        for (number, step) in self.steps.iter().enumerate() {
            let title = render::shorten(&step.title, 60);
            table.row([format!("{:>4}", number + 1), title, step.took.clone(), step.down.clone()]);
        }
        output::say("");
        table.lines().iter().for_each(output::say);
    }

    fn end_step(&mut self) {
        if let Some((title, begun)) = self.running.take() {
            let took = render::duration(begun.elapsed());
            output::say(format!("    Took {took}."));
            let down = std::mem::take(&mut self.down);
            self.steps.push(Step { title, took, down });
        }
    }
}
