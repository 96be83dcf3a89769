//! Events of the server's scheduler, written as statements.
//!
//! Not by the tool: it looks for a delimiter that is not in the text of an event and, where `;;` is, looks for ever
//! (`create_delimiter` of MariaDB 10.11's and MySQL's tools counts up the wrong variable).

use std::collections::BTreeMap;

use crate::datastore::dump::EVENTS;
use crate::datastore::dump::members::Members;
use crate::datastore::dump::split::quoted;
use crate::datastore::dump::survey::own_schemas;
use crate::datastore::sql::Sql;
use crate::error::{Error, ErrorKind};

/// Writes the file that makes them all again. They keep whom and what modes they were made by, and whether they run.
/// `at` is the time of the dump: an event whose time has come since would be gone as soon as it is made.
pub(super) fn write(sql: &mut Sql, at: u64, members: &mut Members) -> Result<(), Error> {
    members.write(EVENTS, format!("SET TIMESTAMP={at};\n").as_bytes());
    let names = sql.rows(&format!(
        "SELECT e.EVENT_SCHEMA, e.EVENT_NAME, s.DEFAULT_COLLATION_NAME FROM information_schema.EVENTS e \
         JOIN information_schema.SCHEMATA s ON s.SCHEMA_NAME = e.EVENT_SCHEMA \
         WHERE e.EVENT_SCHEMA NOT IN {} ORDER BY 1, 2",
        own_schemas()
    ))?;
    // Text comes in the character set it was written in.
    sql.execute("SET SESSION character_set_results = NULL")?;
    for row in names {
        let Ok([schema, name, collation]) = <[String; 3]>::try_from(row) else { continue };
        let shown = sql.raw_records(&format!("SHOW CREATE EVENT {}.{}", quoted(&schema), quoted(&name)))?;
        let gone = || Error::new(ErrorKind::Conflict, format!("the event `{schema}.{name}` went while it was dumped"));
        let event = shown.first().ok_or_else(gone)?;
        members.write(EVENTS, &statements(&schema, &collation, event)?);
    }
    sql.execute("SET SESSION character_set_results = utf8mb4")?;
    members.end(EVENTS);
    Ok(())
}

fn statements(schema: &str, collation: &str, event: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, Error> {
    let bytes = |name: &str| event.get(name).map(Vec::as_slice).unwrap_or_default();
    let setting = |name: &str| -> Result<String, Error> {
        let text = String::from_utf8_lossy(bytes(name)).into_owned();
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_,+-:/ ".contains(&byte);
        if text.bytes().all(is_good) {
            return Ok(text);
        }
        Err(Error::new(ErrorKind::Unsupported, format!("an event in `{schema}` has the setting {name} `{text}`")))
    };
    let create = bytes("Create Event");
    if create.is_empty() {
        return Err(Error::new(ErrorKind::Forbidden, format!("an event in `{schema}` is not shown"))
            .hint("Give coffer's account EVENT on *.*."));
    }
    let schema = quoted(schema);
    let own_collation = setting("Database Collation")?;
    let alter = |collation: &str| {
        let charset = collation.split('_').next().unwrap_or(collation);
        format!("ALTER DATABASE {schema} CHARACTER SET {charset} COLLATE {collation};\n")
    };
    let is_other = !own_collation.is_empty() && own_collation != collation;
    let end = delimiter(create);
    let before = format!(
        "SET NAMES utf8mb4;\n{}USE {schema};\nSET character_set_client='{}', collation_connection='{}', \
         sql_mode='{}', time_zone='{}';\nDELIMITER {end}\n",
        if is_other { alter(&own_collation) } else { String::new() },
        setting("character_set_client")?,
        setting("collation_connection")?,
        setting("sql_mode")?,
        setting("time_zone")?,
    );
    let after = format!(
        "\n{end}\nDELIMITER ;\nSET NAMES utf8mb4, sql_mode='';\n{}",
        if is_other { alter(collation) } else { String::new() }
    );
    Ok([before.as_bytes(), create, after.as_bytes()].concat())
}

/// Something that is not in the text.
fn delimiter(text: &[u8]) -> String {
    let mut delimiter = "$$".to_owned();
    while text.windows(delimiter.len()).any(|window| window == delimiter.as_bytes()) {
        delimiter.push('$');
    }
    delimiter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_where_its_text_ends_and_keeps_its_settings() {
        let fields = [
            ("Create Event", "CREATE EVENT `e` DO SET @a = '$$;;'"),
            ("sql_mode", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"),
            ("time_zone", "+02:00"),
            ("character_set_client", "latin1"),
            ("collation_connection", "latin1_swedish_ci"),
            ("Database Collation", "latin2_general_ci"),
        ];
        let event = |fields: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            fields.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let text = String::from_utf8(statements("a`b", "utf8mb4_bin", &event(&fields)).unwrap()).unwrap();
        let expected = "SET NAMES utf8mb4;\nALTER DATABASE `a``b` CHARACTER SET latin2 COLLATE latin2_general_ci;\n\
            USE `a``b`;\nSET character_set_client='latin1', collation_connection='latin1_swedish_ci', \
            sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone='+02:00';\nDELIMITER $$$\n\
            CREATE EVENT `e` DO SET @a = '$$;;'\n$$$\nDELIMITER ;\nSET NAMES utf8mb4, sql_mode='';\n\
            ALTER DATABASE `a``b` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n";
        assert_eq!(text, expected);
        for (at, text) in [(0, ""), (1, "x'; DROP"), (2, "\n")] {
            let mut fields = fields;
            fields[at].1 = text;
            assert!(statements("a", "utf8mb4_bin", &event(&fields)).is_err(), "{text}");
        }
    }
}
