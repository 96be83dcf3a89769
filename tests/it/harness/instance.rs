//! One instance as an operator handles it: create, back up, recover, wait, look.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mysql::Conn;
use serde_json::{Value, json};

use super::api::{Api, text};
use super::appliance::Appliance;
use super::{sql, wait_for};

/// How long a task may take on a busy machine.
pub(crate) const TASK_MAX: Duration = Duration::from_secs(180);
pub(crate) const ROOT: &str = "/v1.0/appliance";

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) api: Api,
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) data_dir: PathBuf,
}

impl Instance {
    /// Creates an instance and waits until it serves.
    pub(crate) fn create(appliance: &Appliance, name: &str) -> Instance {
        let datastore = json!({"type": appliance.bed.datastore().name()});
        let body = json!({"instance": {"name": name, "datastore": datastore}});
        let reply = appliance.api.post(&format!("{ROOT}/instances"), &body);
        Instance::begun(&appliance.api, &reply.expect(200))
    }

    /// An instance from the answer to its creation or adoption, once it serves.
    pub(crate) fn begun(api: &Api, answer: &Value) -> Instance {
        let id = text(&answer["instance"], "id");
        let mut instance = Instance { api: api.clone(), id, socket: PathBuf::new(), data_dir: PathBuf::new() };
        let view = instance.wait_active();
        instance.socket = PathBuf::from(text(&view, "socket"));
        instance.data_dir = PathBuf::from(text(&view, "data_dir"));
        instance
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("{ROOT}/instances/{}{rest}", self.id)
    }

    pub(crate) fn view(&self) -> Value {
        self.api.get(&self.path("")).expect(200)["instance"].clone()
    }

    /// Waits until it is ACTIVE and nothing runs on it.
    #[track_caller]
    pub(crate) fn wait_active(&self) -> Value {
        wait_for(&format!("instance {} to be ACTIVE", self.id), TASK_MAX, || {
            let view = self.view();
            assert_ne!(view["status"], "ERROR", "instance: {view}");
            (view["status"] == "ACTIVE" && view.get("task").is_none()).then_some(view)
        })
    }

    pub(crate) fn conn(&self) -> Conn {
        sql::connect(&self.socket).unwrap_or_else(|err| panic!("{}: {err}", self.socket.display()))
    }

    /// Waits until the server answers again.
    pub(crate) fn wait_conn(&self) -> Conn {
        wait_for("the server to answer", Duration::from_secs(60), || sql::connect(&self.socket).ok())
    }

    /// The pid of the instance's own server, as its pid file says.
    pub(crate) fn server_pid(&self) -> i32 {
        let file = PathBuf::from(sql::ask(&mut self.conn(), "SELECT @@pid_file"));
        let file = if file.is_absolute() { file } else { self.data_dir.join(file) };
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// Starts a backup; returns its id.
    pub(crate) fn begin_backup(&self, name: &str) -> String {
        let body = json!({"backup": {"name": name, "instance": self.id}});
        let answer = self.api.post(&format!("{ROOT}/backups"), &body).expect(202);
        text(&answer["backup"], "id")
    }

    /// Makes a full backup and waits until it is COMPLETED; returns its view.
    #[track_caller]
    pub(crate) fn backup(&self, name: &str) -> Value {
        let id = self.begin_backup(name);
        let view = self.wait_backup(&id);
        self.wait_active();
        view
    }

    #[track_caller]
    pub(crate) fn wait_backup(&self, id: &str) -> Value {
        wait_for(&format!("backup {id} to be COMPLETED"), TASK_MAX, || {
            let view = self.api.get(&format!("{ROOT}/backups/{id}")).expect(200)["backup"].clone();
            assert_ne!(view["status"], "FAILED", "backup: {view}");
            (view["status"] == "COMPLETED").then_some(view)
        })
    }

    /// Commits a marker and waits until it is in the repository: everything before it is there too.
    #[track_caller]
    pub(crate) fn ship(&self) -> String {
        let mut conn = self.conn();
        sql::run(&mut conn, "CREATE DATABASE IF NOT EXISTS marks");
        sql::run(&mut conn, "CREATE TABLE IF NOT EXISTS marks.m (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)");
        let gtid = sql::commit(&mut conn, "INSERT INTO marks.m (x) VALUES (1)");
        self.wait_shipped(&gtid);
        gtid
    }

    /// Waits until the shipper says that the transaction is stored; returns how long that took.
    #[track_caller]
    pub(crate) fn wait_shipped(&self, gtid: &str) -> Duration {
        let begin = Instant::now();
        wait_for(&format!("{gtid} to be shipped"), Duration::from_secs(60), || self.has_shipped(gtid).then_some(()));
        begin.elapsed()
    }

    pub(crate) fn has_shipped(&self, gtid: &str) -> bool {
        let shipping = &self.view()["shipping"];
        if sql::is_place(gtid) {
            let shipped_to = shipping["shipped_to"].as_str();
            return shipped_to.is_some_and(|place| sql::sequence(place) >= sql::sequence(gtid));
        }
        shipping["gtid"].as_str().is_some_and(|position| sql::covers(position, gtid))
    }

    /// Asks for a recovery; `members` is what stands in `"recovery"` beside the instance.
    pub(crate) fn ask_recovery(&self, members: &Value) -> super::api::Reply {
        let mut body = members.clone();
        body["instance"] = json!(self.id);
        self.api.post(&self.path("/recover"), &json!({ "recovery": body }))
    }

    /// The plan alone; nothing runs.
    #[track_caller]
    pub(crate) fn plan(&self, members: &Value) -> Value {
        let mut members = members.clone();
        members["plan_only"] = json!(true);
        self.ask_recovery(&members).expect(200)["plan"].clone()
    }

    /// Starts a recovery; returns its id.
    #[track_caller]
    pub(crate) fn begin_recovery(&self, members: &Value) -> String {
        let answer = self.ask_recovery(members).expect(202);
        assert_eq!(text(&answer["recovery"], "id"), self.id, "the blueprint's `id` is the instance's");
        assert_eq!(text(&answer["recovery"], "status"), "BUILDING");
        text(&answer["recovery"], "recovery_id")
    }

    /// Recovers and waits until everything that belongs to it is done; returns the recovery's view.
    #[track_caller]
    pub(crate) fn recover(&self, members: &Value) -> Value {
        let id = self.begin_recovery(members);
        let view = self.wait_recovery(&id, "COMPLETED");
        self.wait_active();
        view
    }

    pub(crate) fn recovery(&self, id: &str) -> Value {
        self.api.get(&self.path(&format!("/recoveries/{id}"))).expect(200)["recovery"].clone()
    }

    #[track_caller]
    pub(crate) fn wait_recovery(&self, id: &str, status: &str) -> Value {
        wait_for(&format!("recovery {id} to be {status}"), TASK_MAX, || {
            let view = self.recovery(id);
            let ended = ["COMPLETED", "FAILED", "ABORTED", "UNDONE"].iter().any(|end| view["status"] == *end);
            // Before an undo begins, the recovery is still COMPLETED.
            let may_change = status == "UNDONE" && view["status"] == "COMPLETED";
            assert!(!ended || may_change || view["status"] == status, "waiting for {status}: {view}");
            (view["status"] == status).then_some(view)
        })
    }

    /// `promote`, `abort`, `undo` or `release`.
    pub(crate) fn act(&self, recovery: &str, action: &str) -> super::api::Reply {
        self.api.post(&self.path(&format!("/recoveries/{recovery}/{action}")), &json!({}))
    }

    #[track_caller]
    pub(crate) fn undo(&self, recovery: &str) -> Value {
        self.act(recovery, "undo").expect(202);
        let view = self.wait_recovery(recovery, "UNDONE");
        self.wait_active();
        view
    }

    pub(crate) fn timelines(&self) -> Vec<Value> {
        self.api.get(&self.path("/timelines")).expect(200)["timelines"].as_array().unwrap().clone()
    }

    /// The id of the timeline the server writes now.
    pub(crate) fn timeline(&self) -> String {
        let timelines = self.timelines();
        let current: Vec<_> = timelines.iter().filter(|line| line["current"] == true).collect();
        assert_eq!(current.len(), 1, "one timeline is current: {timelines:?}");
        text(current[0], "id")
    }
}
