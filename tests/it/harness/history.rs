//! What the data must be: every acknowledged transaction with its id, and the tables that a prefix of them makes.

use std::collections::BTreeMap;

use super::sql::{self, Contents};

/// One change of a transaction, in terms a model of the tables can follow.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    CreateTable {
        table: String,
        columns: Vec<String>,
    },
    DropTable {
        table: String,
    },
    TruncateTable {
        table: String,
    },
    AddColumn {
        table: String,
        column: String,
        default: String,
    },
    Insert {
        table: String,
        key: String,
        row: Vec<String>,
    },
    /// Adds to a number and sets the columns behind it.
    Add {
        table: String,
        key: String,
        column: usize,
        amount: i64,
        then: Vec<String>,
    },
    Delete {
        table: String,
        key: String,
    },
}

/// A transaction whose commit the server acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) gtid: String,
    pub(crate) changes: Vec<Change>,
}

/// The acknowledged transactions of every timeline of a server.
#[derive(Debug, Default)]
pub(crate) struct History {
    lines: Vec<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// The line it branches off, and the last of that line's sequence numbers that is in its past. Its own may begin
    /// anew: a MySQL server has another UUID after a recovery.
    parent: Option<(usize, u64)>,
    committed: BTreeMap<u64, Committed>,
}

#[derive(Debug, Default)]
struct Table {
    columns: Vec<String>,
    defaults: Vec<String>,
    rows: BTreeMap<String, Vec<String>>,
}

impl History {
    /// A history with one timeline, number 0.
    pub(crate) fn new() -> History {
        History { lines: vec![Line::default()] }
    }

    /// A new timeline that goes on behind `sequence` of `parent`.
    pub(crate) fn branch(&mut self, parent: usize, sequence: u64) -> usize {
        self.lines.push(Line { parent: Some((parent, sequence)), committed: BTreeMap::new() });
        self.lines.len() - 1
    }

    pub(crate) fn record(&mut self, line: usize, committed: impl IntoIterator<Item = Committed>) {
        for one in committed {
            let replaced = self.lines[line].committed.insert(sql::sequence(&one.gtid), one);
            assert!(replaced.is_none(), "two acknowledged transactions with one GTID: {replaced:?}");
        }
    }

    /// Ids of the timeline's own transactions, in commit order.
    pub(crate) fn gtids(&self, line: usize) -> Vec<String> {
        self.lines[line].committed.values().map(|one| one.gtid.clone()).collect()
    }

    /// The tables once every transaction up to `last`, which is one of the timeline's own, and none after, is in.
    pub(crate) fn contents(&self, line: usize, last: u64) -> Contents {
        let mut tables = BTreeMap::new();
        self.replay(line, last, &mut tables);
        tables.into_iter().map(|(name, table)| (name, table.lines())).collect()
    }

    fn replay(&self, line: usize, last: u64, tables: &mut BTreeMap<String, Table>) {
        let line = &self.lines[line];
        if let Some((parent, branch)) = line.parent {
            self.replay(parent, branch, tables);
        }
        for one in line.committed.range(..=last).map(|(_, one)| one) {
            for change in &one.changes {
                apply(tables, change, &one.gtid);
            }
        }
    }
}

fn apply(tables: &mut BTreeMap<String, Table>, change: &Change, gtid: &str) {
    fn named<'a>(tables: &'a mut BTreeMap<String, Table>, name: &str, gtid: &str) -> &'a mut Table {
        tables.get_mut(name).unwrap_or_else(|| panic!("the model has no table {name} at {gtid}"))
    }
    match change {
        Change::CreateTable { table, columns } => {
            tables.insert(table.clone(), Table { columns: columns.clone(), ..Table::default() });
        }
        Change::DropTable { table } => {
            tables.remove(table);
        }
        Change::TruncateTable { table: name } => named(tables, name, gtid).rows.clear(),
        Change::AddColumn { table: name, column, default } => {
            let table = named(tables, name, gtid);
            table.columns.push(column.clone());
            table.defaults.push(default.clone());
            table.rows.values_mut().for_each(|row| row.push(default.clone()));
        }
        Change::Insert { table: name, key, row } => {
            let table = named(tables, name, gtid);
            let mut row = row.clone();
            row.extend(table.defaults.iter().cloned());
            assert!(table.rows.insert(key.clone(), row).is_none(), "{gtid} inserts {key} into {name} again");
        }
        Change::Add { table: name, key, column, amount, then } => {
            let row = named(tables, name, gtid)
                .rows
                .get_mut(key)
                .unwrap_or_else(|| panic!("{gtid} changes {key}, not in {name}"));
            row[*column] = (row[*column].parse::<i64>().unwrap() + amount).to_string();
            row[*column + 1..*column + 1 + then.len()].clone_from_slice(then);
        }
        Change::Delete { table: name, key } => {
            assert!(named(tables, name, gtid).rows.remove(key).is_some(), "{gtid} deletes {key}, not in {name}");
        }
    }
}

impl Table {
    fn lines(self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows.into_values().map(|row| row.join("\t")).collect();
        lines.sort();
        lines.insert(0, self.columns.join("\t"));
        lines
    }
}
