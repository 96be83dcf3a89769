//! JSON bodies, read member by member: every refusal names the member at fault and the remedy.
//!
//! Nothing is ignored by chance: a member nobody asked for is refused, and so is one that stands twice. A `null` is as
//! good as no member, since clients send it for what was not said.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::api::call::{Request, shorten};
use crate::error::{Error, ErrorKind};

pub(super) const TIME_HINT: &str =
    "Write a time as RFC 3339 says, with Z or an offset: 2026-01-31T14:03:06Z or 2026-01-31T15:03:06+01:00.";

/// The longest id, GTID or position there can be; what is wrong with it is said back whole.
const PARSED_BYTES_MAX: usize = 600;

/// The members of a JSON object, taken out one by one.
pub(super) struct Members {
    /// In front of each name in messages: `recovery.` or nothing.
    path: String,
    members: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Members {
    /// The body as an object.
    pub(super) fn of(request: &Request) -> Result<Members, Error> {
        let body: Strict = serde_json::from_slice(&request.body).map_err(|err| {
            Error::new(ErrorKind::InvalidInput, "the body is not valid JSON")
                .with_source(err)
                .hint("Send one JSON object.")
        })?;
        Members::at(String::new(), body.0)
    }

    /// The one member that a Trove body consists of: `{"backup": {...}}`.
    pub(super) fn envelope(request: &Request, name: &'static str) -> Result<Members, Error> {
        let mut outer = Members::of(request)?;
        let inner = outer.object(name)?;
        outer.end()?;
        inner.ok_or_else(|| missing(name, &format!("Send {{\"{name}\": {{...}}}}.")))
    }

    fn at(path: String, value: Value) -> Result<Members, Error> {
        match value {
            Value::Object(members) => Ok(Members { path, members, known: Vec::new() }),
            other => {
                let name = path.strip_suffix('.').unwrap_or(&path);
                let what = if name.is_empty() { "the body".to_owned() } else { format!("`{name}`") };
                Err(Error::new(ErrorKind::InvalidInput, format!("{what} is {} and not an object", kind(&other)))
                    .hint("Put its members in braces."))
            }
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// A member as it is.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.members.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "a string", "Put it in quotes.")),
        }
    }

    pub(super) fn required_text(&mut self, name: &'static str) -> Result<String, Error> {
        let path = self.name(name);
        self.text(name)?.ok_or_else(|| missing(&path, "Add it; it is a string."))
    }

    /// A string that is something: an id, a GTID, a position. The type's own words say what is wrong with it.
    pub(super) fn parsed<T: FromStr<Err = Error>>(&mut self, name: &'static str) -> Result<Option<T>, Error> {
        let path = self.name(name);
        let Some(text) = self.text(name)? else { return Ok(None) };
        if text.len() > PARSED_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, format!("member `{path}` is too long")).hint("Shorten it."));
        }
        text.parse().map(Some).map_err(|err: Error| {
            let error = Error::new(ErrorKind::InvalidInput, format!("member `{path}`: {}", err.message()));
            error.hint(err.hint_text().unwrap_or("Write it as 8-4-4-4-12 hexadecimal digits, as the lists show it."))
        })
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, Error> {
        let path = self.name(name);
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let message = format!("member `{path}`: `{}` is not a time with a zone", shorten(&text));
            Error::new(ErrorKind::InvalidInput, message).hint(TIME_HINT)
        })
    }

    /// Absent means no.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(name, &other, "true or false", "Write it without quotes.")),
        }
    }

    pub(super) fn number(&mut self, name: &'static str, max: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if number <= max => Ok(Some(number)),
            _ => Err(self.wrong(name, &value, &format!("a whole number up to {max}"), "Write it without quotes.")),
        }
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Result<Option<Vec<String>>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let texts = match &value {
            Value::Array(items) => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
            }
            _ => None,
        };
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.wrong(name, &value, "a list of strings", "Put the strings in brackets.")),
        }
    }

    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Members>, Error> {
        let path = format!("{}.", self.name(name));
        self.take(name).map(|value| Members::at(path, value)).transpose()
    }

    /// Members that are taken and mean nothing here.
    pub(super) fn ignore(&mut self, names: &[&'static str]) {
        for name in names {
            let _ = self.take(name);
        }
    }

    /// Members that would mean something but are not offered: taken as long as nothing is in them.
    pub(super) fn refuse(&mut self, names: &[&'static str], hint: &str) -> Result<(), Error> {
        for name in names {
            let is_empty = match self.take(name) {
                None => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(members)) => members.is_empty(),
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Number(number)) => number.as_u64() == Some(0),
                Some(Value::Bool(flag)) => !flag,
                Some(Value::Null) => true,
            };
            if !is_empty {
                let message = format!("member `{}` asks for something that is not offered yet", self.name(name));
                return Err(Error::new(ErrorKind::Unsupported, message).hint(hint));
            }
        }
        Ok(())
    }

    /// Refuses what is left: a misspelt member must not be taken for an absent one.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.known.sort_unstable();
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("member `{}` is not known", shorten(&self.name(name))))
                    .hint(match self.known.as_slice() {
                        [] => "Send an empty object.".to_owned(),
                        known => format!("Leave it out, or use one of {}.", known.join(", ")),
                    }))
            }
        }
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str, hint: &str) -> Error {
        let message = format!("member `{}` is {} and not {expected}", self.name(name), kind(value));
        Error::new(ErrorKind::InvalidInput, message).hint(hint)
    }
}

pub(super) fn missing(name: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("member `{name}` is missing")).hint(hint)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// JSON in which no member stands twice: which of the two is meant nobody can say.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if members.contains_key(&name) {
                return Err(serde::de::Error::custom(format!("member `{}` stands twice", shorten(&name))));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}
