//! Benchmarks: the release binary against the hand recipe on the same data. Each prints a table for people and, as its
//! last line, one JSON object with the figures and `"ratio"`, ours divided by the hand recipe's.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a driver from outside, like the tests, whose harness it shares"
)]

mod backups;
mod clone;
mod downtime;
#[path = "../it/harness/mod.rs"]
mod harness;
mod load;
mod replay;
mod store;

use std::process::ExitCode;

use crate::harness::cell::{Cell, Datastore};

struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(Cell, &[u64]),
    datastores: &'static [Datastore],
}

const MARIADB: &[Datastore] = &[Datastore::Mariadb];
const BOTH: &[Datastore] = &[Datastore::Mariadb, Datastore::Mysql];

const ALL: [Benchmark; 4] = [
    Benchmark {
        name: "replay",
        about: "same base, same binlogs (default 500 MiB): `mariadb-binlog | mariadb` against the replay of a recovery",
        run: replay::run,
        datastores: BOTH,
    },
    Benchmark {
        name: "downtime",
        about: "last answered query to first answered query around a recovery, by size of the data (default 200 2000 MiB)",
        run: |_, sizes| downtime::run(sizes),
        datastores: MARIADB,
    },
    Benchmark {
        name: "store",
        about: "backup and restore (default 1200 MiB, 3 runs) with a real S3 server: `mariadb-backup | zstd | aws s3 cp` against ours",
        run: |_, sizes| store::run(sizes),
        datastores: MARIADB,
    },
    Benchmark {
        name: "backup",
        about: "backup (default 1200 MiB, MySQL 3000, 3 runs) into a folder against `mariadb-backup --stream=mbstream > /dev/null`, or \
                on MySQL against CLONE LOCAL and reading its files; there also what the server's clients notice of it",
        run: |cell, sizes| if cell.datastore.is_mysql() { clone::run(sizes) } else { store::run_local(sizes) },
        datastores: BOTH,
    },
];

const USAGE: &str = "usage: scripts/bench NAME [--datastore mariadb|mysql] [SIZE...]; scripts/bench alone lists them";

fn main() -> ExitCode {
    // Cargo adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if arguments.is_empty() {
        for benchmark in &ALL {
            let datastores: Vec<&str> = benchmark.datastores.iter().map(|datastore| datastore.name()).collect();
            println!("scripts/bench {:10} [--datastore {}] [SIZE...]", benchmark.name, datastores.join("|"));
            println!("  {}", benchmark.about);
        }
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Ok((benchmark, cell, sizes)) => {
            (benchmark.run)(cell, &sizes);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The benchmark by its name, on the datastore that is asked for, with its sizes.
fn parse(arguments: &[String]) -> Result<(&'static Benchmark, Cell, Vec<u64>), String> {
    let (mut name, mut cell, mut sizes) = (None, Cell::mariadb(), Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--datastore") {
            let value = option.strip_prefix('=').or_else(|| words.next().map(String::as_str));
            cell = match value {
                Some("mariadb") => Cell::mariadb(),
                Some("mysql") => Cell::mysql(),
                _ => return Err("--datastore is mariadb or mysql".to_owned()),
            };
        } else if name.is_none() {
            name = Some(word);
        } else {
            sizes.push(word.parse().map_err(|_| format!("`{word}` is no size"))?);
        }
    }
    let name = name.ok_or("no benchmark is named")?;
    let benchmark = ALL.iter().find(|one| one.name == name).ok_or_else(|| format!("no benchmark `{name}`"))?;
    if !benchmark.datastores.contains(&cell.datastore) {
        return Err(format!("`{name}` has no recipe to compare with on {}", cell.datastore.name()));
    }
    Ok((benchmark, cell, sizes))
}
