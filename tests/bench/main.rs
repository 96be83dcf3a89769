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

mod downtime;
#[path = "../it/harness/mod.rs"]
mod harness;
mod replay;
mod store;

use std::process::ExitCode;

struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&[u64]),
}

const ALL: [Benchmark; 4] = [
    Benchmark {
        name: "replay",
        about: "same base, same binlogs (default 500 MiB): `mariadb-binlog | mariadb` against the replay of a recovery",
        run: replay::run,
    },
    Benchmark {
        name: "downtime",
        about: "last answered query to first answered query around a recovery, by size of the data (default 200 2000 MiB)",
        run: downtime::run,
    },
    Benchmark {
        name: "store",
        about: "backup and restore (default 1200 MiB, 3 runs) with a real S3 server: `mariadb-backup | zstd | aws s3 cp` against ours",
        run: store::run,
    },
    Benchmark {
        name: "backup",
        about: "backup (default 1200 MiB, 3 runs) into a folder against `mariadb-backup --stream=mbstream > /dev/null`",
        run: store::run_local,
    },
];

fn main() -> ExitCode {
    // Cargo adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some((name, sizes)) = arguments.split_first() else {
        for benchmark in &ALL {
            println!("scripts/bench {:10} [MIB...]  {}", benchmark.name, benchmark.about);
        }
        return ExitCode::SUCCESS;
    };
    let sizes: Result<Vec<u64>, _> = sizes.iter().map(|word| word.parse()).collect();
    match (ALL.iter().find(|benchmark| benchmark.name == name), sizes) {
        (Some(benchmark), Ok(sizes)) => {
            (benchmark.run)(&sizes);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("no benchmark `{}`; scripts/bench alone lists them", arguments.join(" "));
            ExitCode::from(2)
        }
    }
}
