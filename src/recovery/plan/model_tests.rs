//! Random histories and random targets: a plan brings back exactly what the naive truth says, or is refused when no way
//! leads there. The truth is what the server's data held after each transaction, noted while the history was written.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::domain::gtid::Gtid;
use crate::domain::transaction::MICROSECONDS;
use crate::recovery::plan::PlanError;
use crate::recovery::plan::testing::{Catalog, State, fold};

const HISTORIES: u64 = 1500;
const TARGETS: usize = 12;

/// A small generator (xorshift64*), so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(value).unwrap() % limit
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len())) }
    }
}

/// A history in the notation.
struct History {
    text: String,
    sequences: [u64; 4],
    seconds: i64,
}

impl History {
    fn random(random: &mut Random) -> String {
        let mut history = History { text: String::new(), sequences: [0; 4], seconds: 10 };
        for number in 1..=1 + random.below(4) {
            history.timeline(random, number);
            for file in 1..=random.below(4) {
                history.file(random, file);
            }
            history.backups(random, number);
        }
        history.text
    }

    fn timeline(&mut self, random: &mut Random, number: usize) {
        if number == 1 {
            self.text.push_str("timeline 1\n");
            return;
        }
        self.seconds += i64::try_from(random.below(5)).unwrap();
        let catalog = Catalog::parse(&self.text);
        let parent = random.below(number - 1);
        let shipped: Vec<&State> = catalog.states.iter().filter(|s| s.timeline == parent && !s.lost).collect();
        let last = shipped.last().copied();
        let is_begun = |state: &State| state.gtid.is_some();
        let Some(state) = random.pick(&shipped).copied() else { return };
        let (words, state) = match (state.gtid, last.filter(|last| is_begun(last))) {
            (_, Some(last)) if random.one_in(4) => ("end".to_owned(), last),
            (Some(gtid), _) => (format!("after {gtid}"), state),
            (None, _) if catalog.timelines[parent].branch.is_some() => ("begin".to_owned(), state),
            // The first timeline has no beginning to branch from.
            (None, Some(last)) => (format!("after {}", last.gtid.unwrap()), last),
            (None, None) => return self.text.push_str(&format!("timeline {number}\n")),
        };
        write!(self.text, "timeline {number} from {} {words}", parent + 1).unwrap();
        if let Some(gtid) = random.pick(&state.data).filter(|_| random.one_in(3)) {
            write!(self.text, " skipping {gtid}").unwrap();
        }
        self.text.push('\n');
    }

    fn file(&mut self, random: &mut Random, number: usize) {
        write!(self.text, "file b.{number:06}:").unwrap();
        let count = random.below(5);
        for index in 0..count {
            if random.one_in(3) {
                self.text.push_str(" |");
            }
            let item = self.transaction(random);
            // The end of a timeline is always shipped, so that `latest` has one meaning.
            if random.one_in(8) && index + 1 < count {
                write!(self.text, " ({item})").unwrap();
            } else {
                write!(self.text, " {item}").unwrap();
            }
        }
        self.text.push('\n');
        if random.one_in(10) {
            let (lost, shipped) = (self.transaction(random), self.transaction(random));
            writeln!(self.text, "file lost.{number:06}: ({lost})\nfile after.{number:06}: {shipped}").unwrap();
        }
    }

    fn transaction(&mut self, random: &mut Random) -> String {
        self.seconds += i64::try_from(random.below(3)).unwrap();
        let server = if random.one_in(3) { random.below(4) } else { 0 };
        self.sequences[server] += 1;
        format!("{}-{}-{}@{}", server / 2, 1 + server % 2, self.sequences[server], self.seconds)
    }

    fn backups(&mut self, random: &mut Random, number: usize) {
        let catalog = Catalog::parse(&self.text);
        for index in 0..random.below(3) {
            let shipped: Vec<&State> =
                catalog.states.iter().filter(|state| state.timeline == number - 1 && !state.lost).collect();
            match random.pick(&shipped).map(|state| state.gtid) {
                Some(Some(gtid)) => writeln!(self.text, "backup full-{number}-{index} after {gtid}").unwrap(),
                Some(None) => writeln!(self.text, "backup full-{number}-{index} begin").unwrap(),
                None => {}
            }
        }
    }
}

/// The naive truth: the states that the server went through on the way to the end of a timeline.
fn states_of(catalog: &Catalog, timeline: usize) -> Vec<usize> {
    let mut states = Vec::new();
    if let Some(branch) = &catalog.timelines[timeline].branch {
        let parent = catalog.timelines.iter().position(|parent| parent.id == branch.at.timeline).unwrap();
        states = states_of(catalog, parent);
        states.retain(|index| {
            let state = &catalog.states[*index];
            state.timeline != parent || state.gtid.is_none() || state.at.order() <= branch.at.order()
        });
    }
    states.extend((0..catalog.states.len()).filter(|index| catalog.states[*index].timeline == timeline));
    states
}

/// What a target means: the history it lies in and the index in it, or nothing when it is not in the repository.
struct Meaning {
    history: Vec<usize>,
    at: usize,
    /// The next transaction was never shipped, or this one was not: a time cannot be told from what was lost.
    beside_a_hole: bool,
}

fn meaning(catalog: &Catalog, history: Vec<usize>, at: usize) -> Meaning {
    let lost = |index: usize| history.get(index).is_some_and(|state| catalog.states[*state].lost);
    // The beginning of a timeline stands for the same place as the end before it.
    let next = (at + 1..history.len()).find(|index| catalog.states[history[*index]].gtid.is_some());
    let beside_a_hole = lost(at) || next.is_some_and(lost);
    Meaning { history, at, beside_a_hole }
}

fn history_with(catalog: &Catalog, wanted: usize) -> Option<(Vec<usize>, usize)> {
    let current = catalog.timelines.len() - 1;
    for timeline in [current, catalog.states[wanted].timeline] {
        let history = states_of(catalog, timeline);
        if let Some(at) = history.iter().position(|state| *state == wanted) {
            return Some((history, at));
        }
    }
    None
}

fn random_target(catalog: &Catalog, random: &mut Random) -> Option<(String, Meaning)> {
    let current = states_of(catalog, catalog.timelines.len() - 1);
    let shipped: Vec<usize> = (0..catalog.states.len())
        .filter(|index| catalog.states[*index].gtid.is_some() && !catalog.states[*index].lost)
        .collect();
    let kind = random.below(7);
    if kind == 0 {
        let at = current.len() - 1;
        return Some(("latest".to_owned(), meaning(catalog, current, at)));
    }
    if kind == 1 {
        let clock = catalog.states.iter().map(|state| state.clock / MICROSECONDS).max().unwrap() + 2;
        let first = catalog.states.iter().map(|state| state.clock / MICROSECONDS).filter(|clock| *clock > 0).min()?;
        let time = first - 1 + i64::try_from(random.below(usize::try_from(clock - first + 2).unwrap())).unwrap();
        let behind = current.iter().position(|state| catalog.states[*state].clock > time * MICROSECONDS);
        let at = behind.unwrap_or(current.len()).checked_sub(1)?;
        return Some((format!("time {}", time - Catalog::clock(0) / MICROSECONDS), meaning(catalog, current, at)));
    }
    if kind == 2 {
        let index = random.below(catalog.backups.len().max(1));
        let backup = catalog.backups.get(index)?;
        let (history, at) = history_with(catalog, catalog.backup_states[index])?;
        return Some((format!("backup {}", backup.name), meaning(catalog, history, at)));
    }
    let wanted = *random.pick(&shipped)?;
    let state = &catalog.states[wanted];
    let (history, at) = history_with(catalog, wanted)?;
    match kind {
        3 | 4 => Some((format!("gtid {}", state.gtid?), meaning(catalog, history, at))),
        5 => Some((format!("before-gtid {}", state.gtid?), meaning(catalog, history, at - 1))),
        _ => {
            let history = states_of(catalog, state.timeline);
            let at = history.iter().position(|index| *index == wanted)?;
            let (begin, end) = (state.begin, state.at.position);
            let offset = begin + u64::try_from(random.below(101)).unwrap();
            let (word, is_in) =
                if random.one_in(2) { ("position", begin < offset) } else { ("before-position", end <= offset) };
            let target = format!("{word} {}:{offset} timeline {}", state.at.file, state.timeline + 1);
            Some((target, meaning(catalog, history, if is_in { at } else { at - 1 })))
        }
    }
}

/// Whether any backup leads to the data, by the naive rule: it holds nothing that shall not be there, and nothing was
/// lost between.
fn is_reachable(catalog: &Catalog, meaning: &Meaning, wanted: &[Gtid]) -> bool {
    let wanted: BTreeSet<Gtid> = wanted.iter().copied().collect();
    let way = &meaning.history[..=meaning.at];
    catalog.backup_states.iter().any(|held| {
        let Some(begin) = way.iter().position(|state| state == held) else { return false };
        let unbroken = !way[begin + 1..].iter().any(|state| catalog.states[*state].lost);
        unbroken && catalog.states[*held].data.iter().all(|gtid| wanted.contains(gtid))
    })
}

fn check(catalog: &Catalog, target: &str, meaning: &Meaning, skip: Option<Gtid>) -> bool {
    let state = &catalog.states[meaning.history[meaning.at]];
    let wanted: Vec<Gtid> = state.data.iter().copied().filter(|gtid| Some(*gtid) != skip).collect();
    let reachable = is_reachable(catalog, meaning, &wanted);
    let plan = match catalog.plan(&catalog.target(target)) {
        Ok(plan) => plan,
        Err(
            refusal @ (PlanError::BinlogGap(_)
            | PlanError::NoBackupBefore { .. }
            | PlanError::SkipNotInRange { .. }
            | PlanError::BaseNotUsable { .. }),
        ) => {
            let by_time = target.starts_with("time") && meaning.beside_a_hole;
            assert!(!reachable || by_time, "{target} is refused: {}", catalog.render_refusal(refusal));
            return false;
        }
        Err(refusal) => panic!("{target}: {}", catalog.render_refusal(refusal)),
    };
    if target.starts_with("time") && state.lost {
        // What is left of the very second is planned, with a warning.
        assert!(plan.warnings.iter().any(|warning| warning.contains("never shipped")), "{target}: {:?}", plan.warnings);
        return false;
    }
    assert!(reachable, "{target} is planned, but nothing leads there");
    let base = catalog.backups.iter().position(|backup| backup.id == plan.base).unwrap();
    let mut data = catalog.states[catalog.backup_states[base]].data.clone();
    let replayed = catalog.replayed(&plan);
    data.extend(&replayed);
    assert_eq!(data, wanted, "{target}");
    assert_eq!(plan.position, fold(&wanted), "{target}");
    assert_eq!(plan.transactions, replayed.len() as u64, "{target}");
    assert_eq!(plan.last_included.and_then(|last| last.gtid), replayed.last().copied(), "{target}");
    assert_eq!(plan.stop_clock, state.clock, "{target}");
    let next = meaning.history[meaning.at + 1..].iter().find(|state| catalog.states[**state].gtid.is_some());
    let next = next.filter(|state| !catalog.states[**state].lost).and_then(|state| catalog.states[*state].gtid);
    assert_eq!(plan.first_excluded.and_then(|first| first.gtid), next, "{target}");
    let given_up = given_up(catalog, &state.data);
    assert_eq!(plan.given_up_transactions, given_up, "{target}");
    true
}

fn given_up(catalog: &Catalog, kept: &[Gtid]) -> u64 {
    let kept: BTreeSet<Gtid> = kept.iter().copied().collect();
    let lost: BTreeSet<Option<Gtid>> =
        catalog.states.iter().filter(|state| state.lost).map(|state| state.gtid).collect();
    let current = catalog.states.last().unwrap();
    current.data.iter().filter(|gtid| !kept.contains(gtid) && !lost.contains(&Some(**gtid))).count() as u64
}

#[test]
fn a_plan_brings_back_exactly_what_the_naive_model_says() {
    let (mut planned, mut refused) = (0, 0);
    for seed in 1..=HISTORIES {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let history = History::random(&mut random);
        let catalog = Catalog::parse(&history);
        for _ in 0..TARGETS {
            let Some((mut target, meaning)) = random_target(&catalog, &mut random) else { continue };
            let mut skip = None;
            if random.one_in(4) {
                let replayed = catalog.plan(&catalog.target(&target)).map(|plan| catalog.replayed(&plan));
                skip = replayed.ok().and_then(|replayed| random.pick(&replayed).copied());
                target.extend(skip.map(|gtid| format!(" skip {gtid}")));
            }
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&catalog, &target, &meaning, skip)));
            match outcome {
                Ok(true) => planned += 1,
                Ok(false) => refused += 1,
                Err(_) => panic!("seed {seed}, target `{target}`\n{history}"),
            }
        }
    }
    assert!(
        planned > 3000 && refused > 1000,
        "the histories have become too easy: {planned} planned, {refused} refused"
    );
}
