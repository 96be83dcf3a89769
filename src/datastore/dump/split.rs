//! Cuts the text of one run of the tool into files, one for each table's structure and one for its rows.
//!
//! What begins a part is a comment of the tool's that stands between two statements (`scan` tells it from text that only
//! looks like one); the name of a part is taken from its statements, where names are quoted without ambiguity. Whatever
//! is not as expected is an error: a dump that is cut in a wrong place is none.
//!
//! Each file stands alone: it begins with the tool's own settings for a session and a `USE`.

use crate::datastore::dump::manifest::{Entry, FORMAT, HEAD, Head, Kind, LIST, Library, render};
use crate::datastore::dump::members::{Members, file_name};
use crate::datastore::dump::scan::{Scanner, Sink, Statement};
use crate::datastore::dump::system::{Role, role};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};

/// The file that makes the schemas.
pub(super) const SCHEMAS: &str = "schemas.sql";
/// So much of a statement is looked at. What makes a schema fits whole, with a comment of 1024 characters.
const LOOKED_AT_BYTES: usize = 16 * 1024;
/// Settings before the first part, or of a part before its name is known.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// The most a server takes at once is a GiB, with some bytes around it.
const STATEMENT_BYTES_MAX: u64 = (1 << 30) - 1024;
/// The last comment of a dump that is whole.
pub(super) const COMPLETED: &str = "-- Dump completed";

/// What the tool is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Head,
    Schema,
    Table,
    Sequence,
    Placeholder,
    Rows,
    View,
    Foot,
}

/// What becomes of the statement that is passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is not known yet.
    Unknown,
    Written,
    Dropped,
}

/// The part that is passing, once its name is known.
struct Part {
    name: String,
    /// `None` when nothing is kept of it.
    path: Option<String>,
}

/// Takes the tool's text and makes files of it.
pub(super) struct Splitter {
    scanner: Scanner,
    cut: Cut,
}

struct Cut {
    members: Members,
    head: HeadFacts,
    position: Option<BinlogPosition>,
    section: Section,
    /// What every file begins with.
    settings: Vec<u8>,
    schema: String,
    /// Statements that wait for their part's name.
    held: Vec<u8>,
    part: Option<Part>,
    /// The table whose rows may follow.
    entry: Option<Entry>,
    /// The beginning of the statement that passes.
    statement: Vec<u8>,
    fate: Fate,
    counts: Counts,
    is_complete: bool,
    /// Whether the first file is written.
    has_head: bool,
}

/// What the first file says beside the position.
#[derive(Debug, Clone)]
pub(super) struct HeadFacts {
    pub(super) flavour: Datastore,
    pub(super) server_version: String,
    pub(super) tool: String,
    pub(super) tool_version: String,
    pub(super) engines: Vec<Library>,
    pub(super) warnings: Vec<String>,
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    number: u64,
    pub(super) entries: u64,
    pub(super) rows: u64,
    /// Tables, sequences and views outside the server's own schemas, as `schema.name`.
    pub(super) names: Vec<String>,
}

impl Splitter {
    pub(super) fn new(head: HeadFacts) -> Splitter {
        let cut = Cut {
            members: Members::default(),
            head,
            position: None,
            section: Section::Head,
            settings: Vec::new(),
            schema: String::new(),
            held: Vec::new(),
            part: None,
            entry: None,
            statement: Vec::new(),
            fate: Fate::Unknown,
            counts: Counts::default(),
            is_complete: false,
            has_head: false,
        };
        Splitter { scanner: Scanner::new(), cut }
    }

    /// Takes the texts of runs that name neither schema nor place: their tables are held still at this one.
    pub(super) fn of_held(head: HeadFacts, position: BinlogPosition) -> Splitter {
        let mut splitter = Splitter::new(head);
        splitter.cut.position = Some(position);
        splitter
    }

    /// The text of a run follows whose tables are all of this schema.
    pub(super) fn begin_text(&mut self, schema: &str) {
        self.scanner = Scanner::new();
        self.cut.section = Section::Head;
        self.cut.settings.clear();
        self.cut.is_complete = false;
        schema.clone_into(&mut self.cut.schema);
    }

    /// Takes the next bytes of the tool's text.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.scanner.push(bytes, &mut self.cut)
    }

    /// Where the rows are from, once the tool has said it.
    pub(super) fn position(&self) -> Option<&BinlogPosition> {
        self.cut.position.as_ref()
    }

    /// The text has ended. Fails when it is not whole; more texts and files may follow.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.scanner.finish()?;
        if !self.cut.is_complete {
            return Err(corrupt("the tool's text ends without saying that it is complete"));
        }
        self.cut.end_part()?;
        self.cut.end_entry()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.cut.counts
    }

    pub(super) fn head(&self) -> &HeadFacts {
        &self.cut.head
    }

    pub(super) fn members(&mut self) -> &mut Members {
        &mut self.cut.members
    }
}

impl Sink for Cut {
    fn comment(&mut self, line: &[u8]) -> Result<(), Error> {
        const MARKS: [(&str, Section); 8] = [
            ("-- Current Database: ", Section::Schema),
            ("-- Table structure for table ", Section::Table),
            ("-- Sequence structure for ", Section::Sequence),
            ("-- Temporary table structure for view ", Section::Placeholder),
            ("-- Temporary view structure for view ", Section::Placeholder),
            ("-- Dumping data for table ", Section::Rows),
            ("-- Final view structure for view ", Section::View),
            (COMPLETED, Section::Foot),
        ];
        let Some((mark, section)) = MARKS.into_iter().find(|(mark, _)| line.starts_with(mark.as_bytes())) else {
            if self.section == Section::Head && line.starts_with(b"-- CHANGE ") {
                self.position = Some(parse_position(line)?);
            }
            return Ok(());
        };
        self.is_complete |= mark == COMPLETED;
        self.enter(section)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match (self.fate, self.part.as_ref().and_then(|part| part.path.as_deref())) {
            (Fate::Dropped, _) | (Fate::Written, None) => Ok(()),
            (Fate::Written, Some(path)) => {
                self.members.write(path, bytes);
                Ok(())
            }
            (Fate::Unknown, _) => {
                let room = LOOKED_AT_BYTES.saturating_sub(self.statement.len());
                let (looked_at, rest) = bytes.split_at(room.min(bytes.len()));
                self.statement.extend_from_slice(looked_at);
                if self.statement.len() < LOOKED_AT_BYTES {
                    return Ok(());
                }
                self.decide()?;
                self.bytes(rest)
            }
        }
    }

    fn end(&mut self, statement: Statement) -> Result<(), Error> {
        if self.fate == Fate::Unknown {
            self.decide()?;
        }
        if statement.bytes > STATEMENT_BYTES_MAX {
            let name = self.part.as_ref().map_or("", |part| &part.name);
            let what = format!("a row of `{}`.`{name}` is too large for a dump: no server would take it", self.schema);
            return Err(Error::new(ErrorKind::Unsupported, what).hint("Take physical backups of this server."));
        }
        if self.fate == Fate::Written
            && let Some(path) = self.part.as_ref().and_then(|part| part.path.as_deref())
        {
            self.members.write(path, b"\n");
        }
        if self.section == Section::Rows && self.statement.starts_with(b"INSERT ") {
            // The first group are the columns' names.
            let Some(rows) = statement.groups.checked_sub(1).filter(|rows| *rows > 0) else {
                return Err(corrupt(&format!("an INSERT without rows in `{}`", self.schema)));
            };
            if let Some(entry) = &mut self.entry {
                entry.rows += rows;
            }
        }
        self.statement.clear();
        self.fate = Fate::Unknown;
        Ok(())
    }

    fn sandbox(&mut self, line: &[u8]) {
        self.settings.extend_from_slice(line);
    }
}

impl Cut {
    /// Another part begins.
    fn enter(&mut self, section: Section) -> Result<(), Error> {
        if self.section == Section::Foot && section != Section::Foot {
            return Err(corrupt("the tool's text goes on behind its end"));
        }
        if self.section == Section::Head {
            let Some(position) = self.position.clone() else {
                return Err(corrupt("the tool does not say where in the binlog its dump is from"));
            };
            let head = self.head.clone();
            let head = Head {
                format: FORMAT,
                flavour: head.flavour,
                server_version: head.server_version,
                tool: head.tool,
                tool_version: head.tool_version,
                position,
                engines: head.engines,
                warnings: head.warnings,
            };
            if !std::mem::replace(&mut self.has_head, true) {
                self.members.write(HEAD, &render(&head)?);
                self.members.end(HEAD);
                self.members.write(SCHEMAS, &self.settings);
            }
        }
        self.end_part()?;
        self.section = section;
        Ok(())
    }

    /// The statement that passes has been seen far enough to know what it is.
    fn decide(&mut self) -> Result<(), Error> {
        let statement = std::mem::take(&mut self.statement);
        self.fate = self.fate_of(&statement)?;
        if self.fate == Fate::Written
            && let Some(path) = self.part.as_ref().and_then(|part| part.path.as_deref())
        {
            self.members.write(path, &statement);
        }
        self.statement = statement;
        Ok(())
    }

    fn fate_of(&mut self, statement: &[u8]) -> Result<Fate, Error> {
        if self.section == Section::Head {
            // A server-wide setting that several sessions would save and restore at the same time.
            if !contains(statement, b"SET GLOBAL") {
                hold(&mut self.settings, statement)?;
            }
            return Ok(Fate::Dropped);
        }
        if self.section == Section::Foot || is_of_foot(statement) {
            self.enter(Section::Foot)?;
            return Ok(Fate::Dropped);
        }
        let name = first_name(statement)?;
        if statement.starts_with(b"USE ") {
            self.schema = name.ok_or_else(|| corrupt("a USE without a name"))?;
            return Ok(Fate::Dropped);
        }
        if self.section == Section::Schema {
            return self.take_schema(statement, name);
        }
        let does = |words: &[&[u8]]| words.iter().any(|word| statement.starts_with(word));
        let is_good = match self.section {
            Section::Rows => !does(&[b"CREATE ", b"DROP "]),
            _ => !does(&[b"INSERT ", b"REPLACE "]),
        };
        if !is_good {
            return Err(corrupt(&format!("a statement in `{}` that does not belong there", self.schema)));
        }
        match (name, &self.part) {
            (None, None) => {
                hold(&mut self.held, statement)?;
                Ok(Fate::Dropped)
            }
            (Some(name), None) => {
                self.begin_part(name)?;
                Ok(Fate::Written)
            }
            (Some(name), Some(part)) if does(&[b"INSERT "]) && part.name != name => {
                Err(corrupt(&format!("rows of `{name}` among those of `{}`", part.name)))
            }
            (_, Some(_)) => Ok(Fate::Written),
        }
    }

    fn take_schema(&mut self, statement: &[u8], name: Option<String>) -> Result<Fate, Error> {
        let Some(name) = name.filter(|_| statement.starts_with(b"CREATE DATABASE ")) else {
            return Err(corrupt("a statement outside every table that does not belong there"));
        };
        check_whole(statement)?;
        if !matches!(name.as_str(), "mysql" | "sys") {
            self.members.write(SCHEMAS, statement);
            self.members.write(SCHEMAS, b"\n");
        }
        Ok(Fate::Dropped)
    }

    /// The name of the part is known: its file begins.
    fn begin_part(&mut self, name: String) -> Result<(), Error> {
        let role = role(self.head.flavour, &self.schema, &name);
        let is_of_server = matches!(self.schema.as_str(), "mysql" | "sys");
        let (kind, dir) = match (self.section, role) {
            // What stands in for a view until there is one is not needed, see `load`.
            (Section::Placeholder, _) | (_, Role::Server) | (Section::Table, Role::Account) => (Kind::Table, None),
            (Section::Table, Role::Own) => (Kind::Table, Some("tables")),
            (Section::Sequence, _) => (Kind::Sequence, Some("sequences")),
            (Section::View, _) => (Kind::View, Some("views").filter(|_| !is_of_server)),
            (Section::Rows, Role::Account) => (Kind::Account, Some("accounts")),
            _ => (Kind::Table, Some("data")),
        };
        let is_same = |entry: &Entry| entry.schema == self.schema && entry.name == name;
        if self.section != Section::Rows || !self.entry.as_ref().is_some_and(is_same) {
            self.end_entry()?;
            self.counts.number += u64::from(dir.is_some());
        }
        let path = dir.map(|dir| format!("{dir}/{}", file_name(self.counts.number, &self.schema, &name)));
        if let Some(path) = &path {
            self.begin_file(&path.clone(), &name, kind);
            let of = |schema: &str| Entry {
                kind,
                schema: schema.to_owned(),
                name: name.clone(),
                structure: None,
                data: None,
                rows: 0,
                has_history: false,
            };
            let entry = self.entry.get_or_insert_with(|| of(&self.schema));
            match self.section {
                Section::Rows if kind == Kind::Table && entry.structure.is_none() => {
                    return Err(corrupt(&format!("rows of `{}`.`{name}` without the table", self.schema)));
                }
                Section::Rows => entry.data = Some(path.clone()),
                _ => entry.structure = Some(path.clone()),
            }
            if self.section == Section::Rows {
                entry.has_history = contains(&self.held, b"system_versioning_insert_history=1");
            }
        }
        let held = std::mem::take(&mut self.held);
        if let Some(path) = &path {
            self.members.write(path, &held);
        }
        self.part = Some(Part { name, path });
        Ok(())
    }

    fn begin_file(&mut self, path: &str, name: &str, kind: Kind) {
        self.members.write(path, &self.settings);
        if self.section != Section::Rows {
            // Files go where the new server keeps its own, and what an older setting let through is let through again.
            self.members.write(path, b"SET SQL_MODE=CONCAT(@@SQL_MODE,',NO_DIR_IN_CREATE'), innodb_strict_mode=OFF;\n");
            if self.head.flavour == Datastore::Mysql {
                self.members.write(path, b"/*!80400 SET restrict_fk_on_non_standard_key=OFF */;\n");
            }
        }
        self.members.write(path, format!("USE {};\n", quoted(&self.schema)).as_bytes());
        if kind == Kind::Account {
            self.members.write(path, format!("DELETE FROM {};\n", quoted(name)).as_bytes());
        }
    }

    fn end_part(&mut self) -> Result<(), Error> {
        if let Some(part) = self.part.take() {
            if let Some(path) = part.path {
                self.members.end(&path);
            }
        } else if !self.held.is_empty() {
            return Err(corrupt(&format!("a part in `{}` that names no table", self.schema)));
        }
        Ok(())
    }

    /// No more comes of a table.
    fn end_entry(&mut self) -> Result<(), Error> {
        let Some(entry) = self.entry.take() else { return Ok(()) };
        self.counts.entries += 1;
        self.counts.rows += entry.rows;
        let is_of_server = matches!(entry.schema.as_str(), "mysql" | "sys");
        if matches!(entry.kind, Kind::Table | Kind::Sequence | Kind::View) && !is_of_server {
            self.counts.names.push(format!("{}.{}", entry.schema, entry.name));
        }
        self.members.write(LIST, &render(&entry)?);
        Ok(())
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Fails when more of the statement may come than was looked at.
fn check_whole(statement: &[u8]) -> Result<(), Error> {
    if statement.len() < LOOKED_AT_BYTES {
        return Ok(());
    }
    Err(corrupt(&format!("a statement of more than {LOOKED_AT_BYTES} bytes that is no row and makes no table")))
}

fn hold(held: &mut Vec<u8>, statement: &[u8]) -> Result<(), Error> {
    check_whole(statement)?;
    held.extend_from_slice(statement);
    held.push(b'\n');
    if held.len() > HELD_BYTES_MAX {
        return Err(corrupt("more settings than a dump has"));
    }
    Ok(())
}

/// `/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */`: the first settings are undone.
fn is_of_foot(statement: &[u8]) -> bool {
    const SET: &[u8] = b" SET ";
    let digits = statement.strip_prefix(b"/*!").unwrap_or_default();
    let behind = digits.iter().position(|byte| !byte.is_ascii_digit()).and_then(|at| digits.get(at..));
    // Such statements hold no names and no data.
    behind.is_some_and(|rest| rest.starts_with(SET) && contains(rest, b"=@OLD_"))
}

/// The first name in backticks.
fn first_name(statement: &[u8]) -> Result<Option<String>, Error> {
    let Some(begin) = statement.iter().position(|byte| *byte == b'`') else { return Ok(None) };
    let mut rest = statement.get(begin + 1..).unwrap_or_default();
    let mut name = Vec::new();
    loop {
        let Some(at) = rest.iter().position(|byte| *byte == b'`') else {
            return Err(corrupt("a name that does not end"));
        };
        name.extend_from_slice(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 1..).unwrap_or_default();
        let Some(more) = rest.strip_prefix(b"`") else { break };
        name.push(b'`');
        rest = more;
    }
    String::from_utf8(name).map(Some).map_err(|_| corrupt("a name that is no UTF-8"))
}

/// `-- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=1466;`, or with SOURCE for MASTER.
fn parse_position(line: &[u8]) -> Result<BinlogPosition, Error> {
    let text = String::from_utf8_lossy(line);
    let behind = |mark: &str| text.split_once(mark).map(|(_, rest)| rest);
    let file = behind("_LOG_FILE='").and_then(|rest| rest.split_once('\'')).map(|(file, _)| file);
    let position = behind("_LOG_POS=").map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
    let file = file.map(|file| file.rsplit('/').next().unwrap_or(file));
    let parsed = file.zip(position).and_then(|(file, position)| format!("{file}:{position}").parse().ok());
    parsed.ok_or_else(|| corrupt(&format!("no place in the binlog: {text}")))
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the dump is not as it must be: {why}"))
}

#[cfg(test)]
mod tests;
