//! The demo's steps, in order.

use std::path::Path;
use std::time::Duration;

use mysql::prelude::Queryable;
use serde_json::{Map, Value, json};

use crate::client::demo::appliance::Appliance;
use crate::client::demo::load::{CLIENTS, Load};
use crate::client::demo::proof::{self, Beginning, Claim, Orders, Rule};
use crate::client::demo::record::Fate;
use crate::client::demo::shop::{self, Door, Size, sql_error};
use crate::client::demo::story::Story;
use crate::client::http;
use crate::client::progress::{self, Settled, Show};
use crate::client::recoveries::{self, Wish};
use crate::client::view::{self, Instance, Outcome, Recovery, Transaction};
use crate::client::{Client, backups, instances, render, timelines, transactions};
use crate::clock::Deadline;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::{Gtid, GtidPosition};
use crate::error::{Error, ErrorKind};

/// Transactions of each client before the DROP, and after each turn of the story.
const TRANSACTIONS_BEFORE: usize = 1000;
const TRANSACTIONS_EACH: usize = 250;
/// How long the clients may take for them.
const LOAD_LIMIT: Duration = Duration::from_secs(240);
/// A DROP must be seen in the shipped history by then; 2 s are promised.
const SHIPPED_LIMIT: Duration = Duration::from_secs(30);
/// How long the instance may be busy with the backup that follows a recovery.
const BUSY_LIMIT: Duration = Duration::from_secs(300);

/// How often an instance that does nothing may say that it is busy.
const IDLE_ANSWERS_MAX: u32 = 4;

/// Everything the steps share.
pub(super) struct Scene<'a> {
    appliance: &'a Appliance,
    /// What the server shall be.
    wanted: Option<Datastore>,
    client: Client,
    instance: Option<Instance>,
    load: Option<Load>,
    beginning: Beginning,
    /// The first run of the server of each phase: original, recovered, undone, redone.
    phases: Vec<usize>,
    /// The timelines that were current, one after the other.
    timelines: Vec<String>,
    failed_proofs: usize,
    proofs: usize,
}

impl<'a> Scene<'a> {
    pub(super) fn new(appliance: &'a Appliance, wanted: Option<Datastore>) -> Scene<'a> {
        Scene {
            appliance,
            wanted,
            client: Client::beside(&appliance.api),
            instance: None,
            load: None,
            beginning: Beginning::default(),
            phases: vec![0],
            timelines: Vec::new(),
            failed_proofs: 0,
            proofs: 0,
        }
    }

    /// Whether every proof held.
    pub(super) fn holds(&self) -> bool {
        self.proofs > 0 && self.failed_proofs == 0
    }

    pub(super) fn play(&mut self, story: &mut Story, rows: u64) -> Result<(), Error> {
        let size = Size::of(rows);
        self.create_instance(story)?;
        self.load_shop(story, size)?;
        self.back_up(story)?;
        self.start_clients(story, size)?;
        let cut = self.drop_orders(story)?;
        self.find_drop(story, cut)?;
        self.plan(story, cut)?;

        let first = self.recover(story, cut, "Recover to just before the DROP, while the clients go on.")?;
        self.prove_recovered(story, cut, &first)?;
        self.undo(story, &first)?;
        self.prove_undone(story)?;
        let second = self.recover(story, cut, "Recover again: an undo can be undone as well.")?;
        self.prove_recovered(story, cut, &second)?;
        self.end_clients(story)
    }

    /// Stops the server and the appliance. Tries everything, tells the first thing that went wrong.
    pub(super) fn stop(&mut self, story: &mut Story) -> Result<(), Error> {
        story.step("Stop everything.");
        self.load = None;
        let deleted = self.instance.as_ref().map_or(Ok(()), |instance| self.delete_instance(instance));
        let stopped = self.appliance.stop();
        if let (Err(_), Some(instance)) = (&deleted, &self.instance) {
            // Nobody looks after the server any more; it is asked itself. It may be gone already, which is as good.
            let _ = door_of(instance).and_then(|door| door.open()).and_then(|mut conn| {
                conn.query_drop("SHUTDOWN").map_err(|err| sql_error("unable to stop the server", err))
            });
        }
        deleted.and(stopped)
    }

    fn create_instance(&mut self, story: &mut Story) -> Result<(), Error> {
        story.step("Create the instance `shop`, a server of its own.");
        let mut body = json!({"instance": {"name": "shop"}});
        let mut command = "instance create shop".to_owned();
        if let Some(datastore) = self.wanted {
            body["instance"]["datastore"] = json!({"type": datastore});
            command.push_str(&format!(" --datastore {datastore}"));
        }
        story.command(&self.command(&command));
        let answer = self.appliance.api.post("/instances", &body)?;
        // Remembered at once, so that it is removed again whatever comes.
        self.instance = Some(view::read(http::member(&answer, "instance")?)?);
        let answer = instances::settle(&self.client, &answer)?;
        let instance: Instance = view::read(http::member(&answer, "instance")?)?;
        let version = instance.datastore.version_number.as_ref().unwrap_or(&instance.datastore.version);
        let title = instance.datastore.kind.parse::<Datastore>()?.title();
        story.tell(format!("{title} {version} serves on {}.", instance.socket));
        self.instance = Some(instance);
        Ok(())
    }

    fn load_shop(&mut self, story: &mut Story, size: Size) -> Result<(), Error> {
        story.step("Load a shop.");
        let door = self.door()?;
        shop::load(&door, size)?;
        self.beginning = shop::read_beginning(&mut door.open()?)?;
        story.tell(format!(
            "{} in customers, products, stock, orders, order_items and payments.",
            render::counted(size.rows(), "row")
        ));
        Ok(())
    }

    fn back_up(&mut self, story: &mut Story) -> Result<(), Error> {
        story.step("Back it up while it serves.");
        story.command(&self.command("backup create shop"));
        let body = json!({"backup": {"name": "demo", "instance": self.instance()?.id}});
        let answer = self.until_free(story, || self.appliance.api.post("/backups", &body))?;
        let answer = backups::settle(&self.client, &answer)?;
        let backup: view::Backup = view::read(http::member(&answer, "backup")?)?;
        story.tell(format!(
            "{} of data, {} in the repository.",
            render::bytes(backup.raw_bytes),
            render::bytes(backup.stored_bytes)
        ));
        Ok(())
    }

    fn start_clients(&mut self, story: &mut Story, size: Size) -> Result<(), Error> {
        story.step("Let customers in.");
        let load = Load::start(&self.door()?, size)?;
        let load = self.load.insert(load);
        load.wait_for(0, TRANSACTIONS_BEFORE, LOAD_LIMIT)?;
        story.tell(format!(
            "{CLIENTS} clients write from here on to the end. Every transaction touches several tables; each client\n\
             keeps a record of what it wrote, of every COMMIT that was acknowledged, and of the GTID it was given."
        ));
        Ok(())
    }

    fn drop_orders(&mut self, story: &mut Story) -> Result<Gtid, Error> {
        story.step("Somebody drops the wrong table.");
        let door = self.door()?;
        let mut conn = door.open()?;
        story.tell("> DROP TABLE shop.orders;");
        conn.query_drop("DROP TABLE shop.orders").map_err(|err| sql_error("unable to drop the table", err))?;
        let load = self.load()?;
        load.mark_dropped();
        let gtid = door.committed(&mut conn).map_err(|err| sql_error("unable to ask for the GTID", err))?;
        let refused_before = load.refused();
        load.wait_for(0, acknowledged_least(load) + TRANSACTIONS_EACH, LOAD_LIMIT)?;
        story.tell(format!(
            "Orders are gone. The clients got {} since, and go on with the other tables.",
            render::counted(load.refused() - refused_before, "error")
        ));
        gtid.ok_or_else(|| Error::new(ErrorKind::Internal, "the server did not tell the GTID of the DROP"))
    }

    fn find_drop(&mut self, story: &mut Story, dropped: Gtid) -> Result<(), Error> {
        story.step("Find what happened.");
        story.command(&self.command("transactions shop --destructive"));
        let instance = &self.instance()?.id;
        let deadline = Deadline::after(SHIPPED_LIMIT);
        let wanted = dropped.to_string();
        let found: Transaction = loop {
            let listed = transactions::destructive(&self.appliance.api, instance)?;
            if let Some(found) = listed.iter().find(|transaction| transaction.gtid.as_ref() == Some(&wanted)) {
                break found.clone();
            }
            if deadline.has_passed() {
                let newest =
                    listed.first().and_then(|transaction| transaction.gtid.as_deref()).unwrap_or("none at all");
                let limit = SHIPPED_LIMIT.as_secs();
                let message =
                    format!("the DROP {dropped} was not listed within {limit} s; the newest listed is {newest}");
                return Err(Error::new(ErrorKind::Internal, message));
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        story.tell(format!("committed  {}", self.client.time(found.commit_time)));
        story.tell(format!("GTID       {}", found.gtid.as_deref().unwrap_or("-")));
        story.tell(format!("position   {}", found.begins_at));
        story.tell(format!("statement  {}", render::shorten(found.statement.as_deref().unwrap_or("-"), 80)));
        story.tell("That is the GTID the server itself gave to the DROP.");
        Ok(())
    }

    fn plan(&mut self, story: &mut Story, cut: Gtid) -> Result<(), Error> {
        story.step("Look at the plan before anything is done.");
        story.command(&self.command(&format!("recover shop --before-gtid {cut} --plan")));
        let answer = recoveries::plan(&self.appliance.api, &self.instance()?.id, before(cut))?;
        let plan = view::read(http::member(&answer, "plan")?)?;
        recoveries::plan_lines(&plan, &self.client.zone).iter().for_each(|line| story.tell(line));
        Ok(())
    }

    fn recover(&mut self, story: &mut Story, cut: Gtid, title: &str) -> Result<Recovery, Error> {
        story.step(title);
        story.command(&self.command(&format!("recover shop --before-gtid {cut}")));
        self.turn(story, |scene, story| {
            let api = &scene.appliance.api;
            let id = &scene.instance()?.id;
            let answer = scene.until_free(story, || recoveries::begin(api, id, before(cut)))?;
            let begun: Recovery = view::read(http::member(&answer, "recovery")?)?;
            recoveries::settle(&scene.client, id, &begun.recovery_id, Wish::Recovered)
        })
    }

    fn undo(&mut self, story: &mut Story, recovery: &Recovery) -> Result<(), Error> {
        story.step("Undo the recovery: bring the DROPped state and all that was written then back.");
        story.command(&self.command("recovery undo shop"));
        let id = if recovery.recovery_id.is_empty() { &recovery.id } else { &recovery.recovery_id };
        self.turn(story, |scene, story| {
            let api = &scene.appliance.api;
            let instance = &scene.instance()?.id;
            scene.until_free(story, || recoveries::ask(api, instance, id, "undo"))?;
            recoveries::settle_after(&scene.client, instance, id, Wish::Undone, recovery.fault.as_ref())
        })?;
        Ok(())
    }

    /// Switches the server's data by `switch`: afterwards the clients write to another run of the server.
    fn turn(
        &mut self,
        story: &mut Story,
        switch: impl FnOnce(&Scene<'a>, &Story) -> Result<Value, Error>,
    ) -> Result<Recovery, Error> {
        self.remember_timeline()?;
        self.load()?.begin_gap();
        // The next run of the server that a client meets is the first on the other data.
        let next_boot = self.load()?.boots();
        let answer = switch(self, story)?;
        let recovery: Recovery = view::read(http::member(&answer, "recovery")?)?;
        self.phases.push(next_boot);
        self.load()?.wait_for(next_boot, TRANSACTIONS_EACH, LOAD_LIMIT)?;
        let outcome = recovery.outcome.clone().unwrap_or_default();
        if recovery.status == "COMPLETED" {
            tell_outcome(story, &outcome);
        }
        let gap = render::duration(self.load()?.longest_gap());
        story.note_down(&gap);
        story.tell(format!("The server was down for {gap}, from the last answered query to the first."));
        if let Some(down) = outcome.down_milliseconds().filter(|_| recovery.status == "COMPLETED") {
            story.tell(format!("By the appliance's own clock, from stop to answer: {}.", render::milliseconds(down)));
        }
        Ok(recovery)
    }

    fn prove_recovered(&mut self, story: &mut Story, cut: Gtid, recovery: &Recovery) -> Result<(), Error> {
        story.step("Prove it, row by row, from the clients' own records.");
        let last = self.phases.len() - 1;
        let rule = |phase: usize| match phase {
            0 => Rule::Before(cut),
            phase if phase == last => Rule::Current,
            _ => Rule::Nothing,
        };
        let claim = Claim { phases: self.rules(rule), orders: Orders::There };
        self.prove(story, &claim, "before the DROP", "from the DROP on")?;
        self.prove_fence(story, last, recovery.outcome.as_ref())?;
        self.prove_apart(story)
    }

    fn prove_undone(&mut self, story: &mut Story) -> Result<(), Error> {
        story.step("Prove that the undo lost nothing.");
        let last = self.phases.len() - 1;
        let rule = |phase: usize| match phase {
            0 => Rule::All,
            phase if phase == last => Rule::Current,
            _ => Rule::Nothing,
        };
        let claim = Claim { phases: self.rules(rule), orders: Orders::Dropped };
        self.prove(story, &claim, "before and after the DROP, up to the recovery", "between recovery and undo")?;
        self.prove_apart(story)
    }

    fn rules(&self, rule: impl Fn(usize) -> Rule) -> Vec<(usize, Rule)> {
        self.phases.iter().enumerate().map(|(phase, first)| (*first, rule(phase))).collect()
    }

    fn prove(&mut self, story: &Story, claim: &Claim, kept: &str, given_up: &str) -> Result<(), Error> {
        let load = self.load()?;
        let before = load.attempts();
        let found = shop::read(&mut self.door()?.open()?)?;
        let after = load.attempts();
        load.check()?;
        let proof = proof::prove(claim, &self.beginning, &before, &after, &found);
        let mut table = render::Table::default();
        for (count, what) in [
            (proof.kept, format!("acknowledged {kept}: all there, whole")),
            (proof.current, "acknowledged since the switch: all there, whole".to_owned()),
            (proof.given_up, format!("sent {given_up}: none there")),
            (proof.rolled_back, "rolled back or refused: none there".to_owned()),
            (proof.either, "never answered, or under way while this was read: whole or not there".to_owned()),
        ] {
            table.row([format!("{:>8}", render::count(count)), what]);
        }
        if proof.holds() {
            table.lines().iter().for_each(|line| story.tell(line));
            story.tell(format!(
                "{} compared, every cell; what was loaded before the clients came is as it was.",
                render::counted(proof.rows_compared, "row")
            ));
        }
        self.judge(story, proof.holds(), proof.differences_count, &proof.differences);
        Ok(())
    }

    /// Where the appliance says it cut the old history off, against the clients' records.
    fn prove_fence(&mut self, story: &Story, phase: usize, outcome: Option<&Outcome>) -> Result<(), Error> {
        let Some(fence) = outcome.and_then(|outcome| outcome.fence_position.as_ref()) else { return Ok(()) };
        let fence: GtidPosition = fence.parse()?;
        let first = self.phases.get(phase).copied().unwrap_or(0);
        // What was cut off is what the server had been writing until then; of a history given up before that, MySQL's
        // fence says nothing.
        let before = phase.checked_sub(1).and_then(|before| self.phases.get(before)).copied().unwrap_or(0);
        let mut wrong = Vec::new();
        for attempt in self.load()?.attempts().into_iter().filter(|attempt| attempt.boot >= before) {
            let Fate::Acknowledged { gtid: Some(gtid) } = attempt.fate else { continue };
            let Some(is_before) = fence.includes(&gtid) else { continue };
            if (attempt.boot >= first) == is_before {
                wrong.push(format!("{gtid} lies on the wrong side of the fence at {fence}"));
            }
        }
        if !wrong.is_empty() {
            self.judge(story, false, wrong.len() as u64, wrong.get(..3).unwrap_or(&wrong));
        }
        Ok(())
    }

    fn prove_apart(&mut self, story: &Story) -> Result<(), Error> {
        self.remember_timeline()?;
        let mut wrong = proof::prove_histories_apart(&self.phases, &self.load()?.attempts());
        let mut distinct = self.timelines.clone();
        distinct.sort();
        distinct.dedup();
        if distinct.len() != self.phases.len() {
            wrong.push(format!("there were {} switches, but {} timelines", self.phases.len() - 1, distinct.len()));
        }
        story.tell(format!(
            "No GTID was given twice; the server now writes its timeline number {}.",
            self.current_timeline()?.number
        ));
        self.judge(story, wrong.is_empty(), wrong.len() as u64, &wrong);
        Ok(())
    }

    fn judge(&mut self, story: &Story, holds: bool, count: u64, differences: &[String]) {
        self.proofs += 1;
        if holds {
            story.tell("=> It holds.");
            return;
        }
        self.failed_proofs += 1;
        story.tell(format!("=> IT DOES NOT HOLD: {}.", render::counted(count, "difference")));
        differences.iter().for_each(|text| story.tell(format!("   {}", render::shorten(text, 300))));
    }

    fn end_clients(&mut self, story: &mut Story) -> Result<(), Error> {
        story.step("Close the shop.");
        let load = self.load()?;
        load.check()?;
        let attempts = load.attempts();
        let acknowledged = attempts.iter().filter(|attempt| matches!(attempt.fate, Fate::Acknowledged { .. })).count();
        story.tell(format!(
            "The clients tried {} and had {} acknowledged, in {} of the server.",
            render::counted(attempts.len() as u64, "transaction"),
            render::count(acknowledged as u64),
            render::counted(load.boots() as u64, "run")
        ));
        self.load = None;
        Ok(())
    }

    fn delete_instance(&self, instance: &Instance) -> Result<(), Error> {
        let path = format!("/instances/{}", instance.id);
        let deadline = Deadline::after(BUSY_LIMIT);
        loop {
            match self.appliance.api.delete(&path) {
                Ok(_) => break,
                Err(err) if is_busy(&err) && !deadline.has_passed() => std::thread::sleep(Duration::from_millis(500)),
                Err(err) => return Err(err),
            }
        }
        let gone = progress::follow(&self.appliance.api, &path, Show::Nothing, |_| {
            if deadline.has_passed() {
                let message = "the instance was not deleted in time";
                return Ok(Settled::Failed(Error::new(ErrorKind::Internal, message)));
            }
            Ok(Settled::Running(view::Progress::default()))
        });
        match gone {
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
            Ok(_) => Ok(()),
        }
    }

    /// Repeats `ask` while the instance is busy, which it is with a backup after every recovery.
    fn until_free(&self, story: &Story, ask: impl Fn() -> Result<Value, Error>) -> Result<Value, Error> {
        let deadline = Deadline::after(BUSY_LIMIT);
        let mut idle_answers = 0;
        for attempt in 0.. {
            match ask() {
                Err(err) if is_busy(&err) && !deadline.has_passed() => {
                    // It may have become free between the two questions; a refusal that stays has another reason.
                    idle_answers = if self.is_working()? { 0 } else { idle_answers + 1 };
                    if idle_answers > IDLE_ANSWERS_MAX {
                        return Err(err);
                    }
                    if attempt == 0 {
                        story.tell("(Waiting for what the instance is busy with.)");
                    }
                    std::thread::sleep(Duration::from_millis(250));
                }
                other => return other,
            }
        }
        Err(Error::new(ErrorKind::Internal, "the instance is busy for ever"))
    }

    fn is_working(&self) -> Result<bool, Error> {
        let answer = self.appliance.api.get(&format!("/instances/{}", self.instance()?.id))?;
        let instance: Instance = view::read(http::member(&answer, "instance")?)?;
        Ok(instance.task.is_some() || instance.status != "ACTIVE")
    }

    fn remember_timeline(&mut self) -> Result<(), Error> {
        let current = self.current_timeline()?.id;
        if self.timelines.last() != Some(&current) {
            self.timelines.push(current);
        }
        Ok(())
    }

    fn current_timeline(&self) -> Result<view::Timeline, Error> {
        let timelines = timelines::read(&self.appliance.api, &self.instance()?.id)?;
        timelines
            .into_iter()
            .find(|timeline| timeline.current)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no timeline of the instance is the current one"))
    }

    fn instance(&self) -> Result<&Instance, Error> {
        self.instance.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "there is no instance yet"))
    }

    fn load(&self) -> Result<&Load, Error> {
        self.load.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the clients do not run"))
    }

    fn door(&self) -> Result<Door, Error> {
        door_of(self.instance()?)
    }

    fn command(&self, line: &str) -> String {
        format!("coffer {line} --state-dir {}", self.appliance.state_dir.display())
    }
}

fn acknowledged_least(load: &Load) -> usize {
    load.acknowledged_since(0).into_iter().min().unwrap_or(0)
}

fn door_of(instance: &Instance) -> Result<Door, Error> {
    Ok(Door::new(Path::new(&instance.socket), instance.datastore.kind.parse()?))
}

fn before(cut: Gtid) -> Map<String, Value> {
    Map::from_iter([("before_gtid".to_owned(), json!(cut))])
}

fn is_busy(err: &Error) -> bool {
    matches!(err.kind(), ErrorKind::Conflict | ErrorKind::Refused)
}

fn tell_outcome(story: &Story, outcome: &Outcome) {
    let steps: Vec<String> =
        outcome.steps.iter().map(|step| format!("{} {}", step.step, render::milliseconds(step.milliseconds))).collect();
    if !steps.is_empty() {
        story.tell(format!("{}.", steps.join(", ")));
    }
    story.tell(format!(
        "{} replayed; reached GTID {}.",
        render::counted(outcome.replayed_transactions, "transaction"),
        outcome.reached.as_deref().unwrap_or("-")
    ));
}
