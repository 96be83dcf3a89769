//! The day it matters most: the server is dead and its data is damaged or gone. `recover --latest` brings back what was
//! shipped, and the tail where binlog files survived, and says which of the two it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::{files_below, kill_and_wait};
use crate::harness::cell::Cell;
use crate::harness::history::{Committed, History};
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::{Random, sql};
use crate::matrix::on_every_server;

/// An instance whose last commits happened while nobody shipped them, with coffer and the server dead.
struct Ruin {
    appliance: Appliance,
    instance: Instance,
    history: History,
    /// Sequence number of the last transaction that was shipped.
    shipped: u64,
    binlogs: Vec<std::path::PathBuf>,
}

impl Ruin {
    fn new(cell: Cell, name: &str) -> Ruin {
        let mut random = Random::seeded(name);
        let mut appliance = Appliance::start_with(cell, name);
        let instance = Instance::create(&appliance, name);
        let mut history = History::new();
        history.record(0, load::prepare(&mut instance.conn()));
        instance.backup("base");
        let load = Load::start(&instance.socket, 2, Ddl::Yes, 0, &mut random);
        load.wait_commits(100);
        history.record(0, load.end_clean());
        let shipped = sql::sequence(&instance.ship());
        appliance.crash();
        let load = Load::start(&instance.socket, 2, Ddl::No, 100_000, &mut random);
        load.wait_commits(30);
        let tail: Vec<Committed> = load.end_clean();
        history.record(0, tail);
        let binlogs = sql::binlogs(&mut instance.conn());
        kill_and_wait(instance.server_pid());
        Ruin { appliance, instance, history, shipped, binlogs }
    }

    /// What an operator does: starts the appliance, asks for the latest point by the command line, waits.
    fn recover_latest(&mut self) -> Value {
        self.appliance.resume(&[]);
        let said = self.appliance.cli(&["recover", &self.instance.id, "--latest"]);
        assert_eq!(said.code, 0, "coffer recover --latest: {said:?}\n{}", self.appliance.log_text());
        self.instance.wait_active();
        let recoveries = self.instance.api.get(&self.instance.path("/recoveries")).expect(200);
        recoveries["recoveries"][0].clone()
    }

    #[track_caller]
    fn assert_holds(&self, last: u64, what: &str) {
        let found = sql::contents(&mut self.instance.conn(), load::SCHEMA);
        sql::assert_same(&found, &self.history.contents(0, last), what);
        // And it goes on: a write is shipped, a backup can be made.
        self.instance.ship();
        self.instance.backup("afterwards");
    }
}

/// Overwrites every byte of every file whose name ends so.
fn zero_files(dir: &Path, ends: &[&str]) -> usize {
    let zeros = vec![0_u8; 1 << 20];
    let files =
        files_below(dir).into_iter().filter(|path| ends.iter().any(|end| path.to_string_lossy().ends_with(end)));
    files
        .map(|path| {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let length = file.metadata().unwrap().len();
            for at in (0..length).step_by(zeros.len()) {
                let part = (length - at).min(zeros.len() as u64) as usize;
                file.write_all_at(&zeros[..part], at).unwrap();
            }
        })
        .count()
}

on_every_server!(zeroed_tablespaces_come_back_with_the_tail_of_the_surviving_binlog);

fn zeroed_tablespaces_come_back_with_the_tail_of_the_surviving_binlog(cell: Cell) {
    let mut ruin = Ruin::new(cell, "zeroed");
    assert!(zero_files(&ruin.instance.data_dir, &[".ibd", "ibdata1", "ib_logfile0"]) >= 5);
    let recovery = ruin.recover_latest();
    assert_eq!(text(&recovery["outcome"], "tail"), "files_survived", "{recovery}");
    ruin.assert_holds(u64::MAX, "every acknowledged commit, shipped or not");
}

on_every_server!(a_deleted_data_directory_comes_back_as_far_as_it_was_shipped);

fn a_deleted_data_directory_comes_back_as_far_as_it_was_shipped(cell: Cell) {
    let mut ruin = Ruin::new(cell, "deleted");
    fs::remove_dir_all(&ruin.instance.data_dir).unwrap();
    for path in ruin.binlogs.iter().filter(|path| path.exists()) {
        fs::remove_file(path).unwrap();
    }
    let recovery = ruin.recover_latest();
    assert_eq!(text(&recovery["outcome"], "tail"), "files_gone", "{recovery}");
    ruin.assert_holds(ruin.shipped, "every shipped commit, and no other");
}

on_every_server!(a_tail_torn_in_its_last_transaction_comes_back_without_it);

fn a_tail_torn_in_its_last_transaction_comes_back_without_it(cell: Cell) {
    let mut ruin = Ruin::new(cell, "torn");
    zero_files(&ruin.instance.data_dir, &[".ibd", "ibdata1", "ib_logfile0"]);
    let last = fs::OpenOptions::new().write(true).open(ruin.binlogs.last().unwrap()).unwrap();
    last.set_len(last.metadata().unwrap().len() - 7).unwrap();
    let recovery = ruin.recover_latest();
    assert_eq!(text(&recovery["outcome"], "tail"), "files_survived", "{recovery}");
    let gtids = ruin.history.gtids(0);
    let whole = sql::sequence(&gtids[gtids.len() - 2]);
    ruin.assert_holds(whole, "all but the transaction that lost its end");
}
