//! Changes to JSON that leave it JSON.

use serde_json::{Map, Value, json};

use super::Dice;

/// Changes a few values, names or lengths somewhere in `value`.
pub(crate) fn change(dice: &mut Dice, value: &mut Value) {
    for _ in 0..=dice.below(3) {
        let donor = random_place(dice, value).clone();
        let place = random_place(dice, value);
        *place = changed(dice, place, donor);
    }
}

fn random_place<'a>(dice: &mut Dice, value: &'a mut Value) -> &'a mut Value {
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    if count == 0 || dice.one_in(6) {
        return value;
    }
    let at = dice.below(count);
    match value {
        Value::Array(items) => random_place(dice, &mut items[at]),
        Value::Object(members) => random_place(dice, members.values_mut().nth(at).unwrap()),
        other => other,
    }
}

fn changed(dice: &mut Dice, value: &Value, donor: Value) -> Value {
    match (dice.below(12), value) {
        (0, _) => donor,
        (1..=4, Value::String(text)) => json!(changed_text(dice, text)),
        (1, Value::Number(_)) => json!(dice.number()),
        (2, Value::Number(_)) => json!(dice.number() as i64),
        (3, Value::Number(number)) => json!(number.as_u64().unwrap_or(0).wrapping_add(1)),
        (4, Value::Number(number)) => json!(number.as_u64().unwrap_or(0).wrapping_sub(1)),
        (1..=3, Value::Array(items)) => {
            let mut items = items.clone();
            super::mutate::shuffle(dice, &mut items, std::slice::from_ref(&donor));
            Value::Array(items)
        }
        (1..=3, Value::Object(members)) => {
            let mut members = members.clone();
            if let Some(name) = members.keys().nth(dice.below(members.len())).cloned() {
                let member = members.remove(&name).unwrap_or_default();
                if dice.one_in(2) {
                    members.insert(changed_text(dice, &name), member);
                }
            }
            Value::Object(members)
        }
        (5, _) => Value::Null,
        (6, _) => json!(dice.number()),
        (7, _) => json!(-1.5e300),
        (8, _) => {
            let length = 1_usize << dice.below(16);
            json!("9".repeat(length))
        }
        (9, _) => {
            let depth = dice.below(140);
            (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
        }
        (10, _) => Value::Object(Map::new()),
        _ => Value::Array(vec![donor; dice.below(40)]),
    }
}

fn changed_text(dice: &mut Dice, text: &str) -> String {
    const TELLING: [&str; 14] = [
        "",
        "0",
        "-1",
        "18446744073709551616",
        "../../etc/passwd",
        "/",
        "0-0-0",
        "4294967295-4294967295-18446744073709551615",
        "9999-12-31T23:59:59.999999999Z",
        "-009999-01-01T00:00:00Z",
        "1970-01-01T00:00:00+25:59",
        "00000000-0000-0000-0000-000000000000",
        "\u{0}\u{1F600}\u{202E}",
        "zstd",
    ];
    if dice.one_in(4) {
        return (*dice.pick(&TELLING)).to_owned();
    }
    let mut bytes = text.as_bytes().to_vec();
    super::mutate::change(dice, &mut bytes, b"0-1-2,3-4-5:6-7");
    String::from_utf8_lossy(&bytes).into_owned()
}
