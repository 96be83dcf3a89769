//! `coffer timeline`: the histories of an instance.

use serde_json::Value;

use crate::cli;
use crate::client::http::{self, Api};
use crate::client::view::{self, Timeline};
use crate::client::{Client, instances, pick, render};
use crate::error::Error;

pub(super) fn list(client: &Client, wanted: &cli::Timeline) -> Result<(), Error> {
    let instance = instances::find(&client.api, &wanted.instance)?;
    let answer = client.api.get(&format!("/instances/{}/timelines", instance.id))?;
    client.print(&answer, || {
        let timelines: Vec<Timeline> = view::read(http::member(&answer, "timelines")?)?;
        let mut table = render::Table::new(&["NUMBER", "ID", "BECAUSE", "LEAVES", "AT", "BEGUN", "LAST COMMIT"]);
        for timeline in &timelines {
            let at = timeline.branch.as_ref().map_or("-", |branch| branch.gtid.as_deref().unwrap_or(&branch.position));
            table.row([
                format!("{}{}", timeline.number, if timeline.current { " *" } else { "" }),
                render::short(&timeline.id),
                because(&timeline.origin),
                timeline.parent.map_or_else(|| "-".to_owned(), |number| format!("timeline {number}")),
                at.to_owned(),
                client.time(timeline.begun),
                client.time(timeline.last_commit),
            ]);
        }
        let mut lines = table.lines();
        lines.push(String::new());
        lines.push(
            "* is the one the server writes now. Any point of any timeline stays a target of `coffer recover`."
                .to_owned(),
        );
        Ok(lines)
    })
}

/// The timelines of `instance`, by number.
pub(super) fn read(api: &Api, instance: &str) -> Result<Vec<Timeline>, Error> {
    let answer = api.get(&format!("/instances/{instance}/timelines"))?;
    view::read(http::member(&answer, "timelines")?)
}

/// The timeline that `wanted` names: by number, by id, or by its first characters.
pub(super) fn find(api: &Api, instance: &str, wanted: &str) -> Result<Timeline, Error> {
    let timelines = read(api, instance)?;
    if let Some(numbered) = timelines.iter().find(|timeline| timeline.number.to_string() == wanted) {
        return Ok(numbered.clone());
    }
    pick(&timelines, wanted, "timeline", |timeline| &timeline.id, |_| "").cloned()
}

/// `recovery 1a2b3c4d`: the one word or the object the API has for a timeline's origin.
fn because(origin: &Value) -> String {
    match origin {
        Value::String(text) => text.clone(),
        Value::Object(members) => match members.iter().next() {
            Some((kind, Value::String(id))) => format!("{kind} {}", render::short(id)),
            Some((kind, _)) => kind.clone(),
            None => "-".to_owned(),
        },
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{because, find, read};
    use crate::client::canned::Canned;

    #[test]
    fn timelines_say_why_they_began() {
        assert_eq!(because(&json!("initial")), "initial");
        assert_eq!(because(&json!({"recovery": "1a2b3c4d-5e6f"})), "recovery 1a2b3c4d");
        let canned = Canned::new(&[(
            "GET /v1.0/appliance/instances/i1/timelines",
            200,
            r#"{"timelines":[{"id":"t1","number":1,"origin":"initial","current":false},
               {"id":"t2","number":2,"parent":1,"parent_id":"t1","branch":{"position":"b.000001:9","gtid":"0-1-5"},"current":true}]}"#,
        )]);
        let timelines = read(&canned.api(), "i1").unwrap();
        assert_eq!(find(&canned.api(), "i1", "2").unwrap().id, "t2");
        assert_eq!(find(&canned.api(), "i1", "t1").unwrap().number, 1);
        assert!(find(&canned.api(), "i1", "3").is_err());
        assert_eq!(timelines.last().map(|timeline| (timeline.parent, timeline.current)), Some((Some(1), true)));
    }
}
