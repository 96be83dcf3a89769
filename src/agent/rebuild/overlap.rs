//! Which chunks are a timeline's history when several objects hold the same bytes of a file.
//!
//! A kill between storing a chunk and noting it leaves an object that nobody follows; shipping goes on with another one
//! that begins at the same place and reaches further. Each chunk names the digest of the one before it, so what the
//! chain goes through is provable: of objects that overlap those count that follow what lies before and are followed by
//! what comes after. At the end of a timeline, where nothing follows, the one that reaches furthest counts.

use crate::domain::chunk::{Chunk, ChunkFacts};

/// Objects that overlap each other, directly or in a row, are decided upon together, but no more than this many at once.
const CLUSTER_MAX: usize = 1000;

/// Takes chunks in the order of their keys and gives back those that are the history, in order.
#[derive(Default)]
pub(super) struct Chain {
    /// The last chunk that was given back.
    previous: Option<Link>,
    /// Chunks that overlap, not decided upon yet.
    cluster: Vec<Chunk>,
    /// One past the last byte of the cluster.
    reach: u64,
    /// Chunks left out, since others hold what they hold.
    pub(super) left_out: u64,
    /// Places at which the history does not follow what lies before.
    pub(super) holes: Vec<Hole>,
}

struct Link {
    ordinal: u32,
    end: u64,
    sha256: String,
    place: String,
}

/// A place before which something is missing, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole {
    /// Absent at the beginning of the timeline.
    pub(super) after: Option<String>,
    pub(super) before: String,
}

impl Chain {
    /// The chunks that are decided upon now that `chunk` has come.
    pub(super) fn push(&mut self, chunk: Chunk) -> Vec<Chunk> {
        let overlaps = self.cluster.first().is_some_and(|first| first.facts.ordinal == chunk.facts.ordinal)
            && chunk.facts.begin < self.reach;
        if overlaps && self.cluster.len() < CLUSTER_MAX {
            self.reach = self.reach.max(chunk.facts.end);
            self.cluster.push(chunk);
            return Vec::new();
        }
        let settled = self.settle(Some(&chunk.facts));
        self.reach = chunk.facts.end;
        self.cluster.push(chunk);
        settled
    }

    /// The rest, when no more chunks come.
    pub(super) fn finish(&mut self) -> Vec<Chunk> {
        self.settle(None)
    }

    fn settle(&mut self, next: Option<&ChunkFacts>) -> Vec<Chunk> {
        let mut cluster = std::mem::take(&mut self.cluster);
        let found = cluster.len();
        if let Some(previous) = &self.previous {
            cluster.retain(|chunk| (chunk.facts.ordinal, chunk.facts.begin) >= (previous.ordinal, previous.end));
        }
        let chosen = match cluster.len() {
            0 | 1 => cluster,
            _ => {
                let path = best_path(&cluster, self.previous.as_ref(), next);
                let mut chunks: Vec<Option<Chunk>> = cluster.into_iter().map(Some).collect();
                path.into_iter().filter_map(|at| chunks.get_mut(at).and_then(Option::take)).collect()
            }
        };
        self.left_out += (found - chosen.len()) as u64;
        for chunk in &chosen {
            self.note(&chunk.facts);
        }
        chosen
    }

    fn note(&mut self, facts: &ChunkFacts) {
        let goes_on =
            facts.gap_before.is_some() || self.previous.as_ref().is_none_or(|previous| previous.leads_to(facts));
        let begins = self.previous.is_some() || facts.gap_before.is_some() || (facts.ordinal, facts.begin) == (1, 0);
        if !goes_on || !begins {
            let after = self.previous.as_ref().map(|previous| previous.place.clone());
            self.holes.push(Hole { after, before: facts.begins_at().to_string() });
        }
        self.previous = Some(Link::of(facts));
    }
}

impl Link {
    fn of(facts: &ChunkFacts) -> Link {
        let place = facts.ends_at().to_string();
        Link { ordinal: facts.ordinal, end: facts.end, sha256: facts.sha256.clone(), place }
    }

    fn leads_to(&self, facts: &ChunkFacts) -> bool {
        follows(self.ordinal, self.end, &self.sha256, facts)
    }
}

/// Whether `facts` begins where the chunk ends that is given by its file, end and digest, and says so.
fn follows(ordinal: u32, end: u64, sha256: &str, facts: &ChunkFacts) -> bool {
    let same_file = facts.ordinal == ordinal && facts.begin == end;
    let next_file = ordinal.checked_add(1) == Some(facts.ordinal) && facts.begin == 0;
    (same_file || next_file) && facts.follows.as_deref() == Some(sha256)
}

fn leads(from: &ChunkFacts, to: &ChunkFacts) -> bool {
    follows(from.ordinal, from.end, &from.sha256, to)
}

/// How good the best way to a chunk is, and where it comes from.
#[derive(Clone, Copy)]
struct Way {
    /// It begins with a chunk that follows what lies before the cluster.
    is_linked: bool,
    begin: u64,
    from: Option<usize>,
}

/// The places in `cluster` (ordered by where its chunks begin) of the chunks that are the history.
fn best_path(cluster: &[Chunk], previous: Option<&Link>, next: Option<&ChunkFacts>) -> Vec<usize> {
    let mut ways: Vec<Way> = Vec::with_capacity(cluster.len());
    for (at, chunk) in cluster.iter().enumerate() {
        let facts = &chunk.facts;
        let is_linked = match previous {
            Some(previous) => previous.leads_to(facts) || facts.gap_before.is_some(),
            None => facts.follows.is_none(),
        };
        let mut way = Way { is_linked, begin: facts.begin, from: None };
        let before = cluster.iter().zip(&ways).enumerate().take(at);
        for (from, (_, reached)) in before.filter(|(_, (before, _))| leads(&before.facts, facts)) {
            if (reached.is_linked, std::cmp::Reverse(reached.begin)) > (way.is_linked, std::cmp::Reverse(way.begin)) {
                way = Way { from: Some(from), ..*reached };
            }
        }
        ways.push(way);
    }
    let quality = |(at, way): &(usize, &Way)| {
        let facts = cluster.get(*at).map(|chunk| &chunk.facts);
        let is_followed = facts.zip(next).is_some_and(|(facts, next)| leads(facts, next));
        let end = facts.map_or(0, |facts| facts.end);
        (u8::from(is_followed) + u8::from(way.is_linked), is_followed, end, std::cmp::Reverse(way.begin))
    };
    let mut at = ways.iter().enumerate().max_by_key(quality).map(|(at, _)| at);
    let mut path = Vec::new();
    while let Some(here) = at {
        path.push(here);
        at = ways.get(here).and_then(|way| way.from);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gtid::{BinlogState, GtidPosition};
    use crate::domain::id::{InstanceId, TimelineId};

    /// `2:100-200 b<a`: of file 2, with digest `b`, behind the one with digest `a`.
    fn chunk(text: &str) -> Chunk {
        let (place, digests) = text.split_once(' ').unwrap();
        let (ordinal, range) = place.split_once(':').unwrap();
        let (begin, end) = range.split_once('-').unwrap();
        let (sha256, follows) = digests.split_once('<').unwrap();
        let facts = ChunkFacts {
            instance: InstanceId::random(),
            timeline: TimelineId::random(),
            ordinal: ordinal.parse().unwrap(),
            file: format!("b.{ordinal}"),
            begin: begin.parse().unwrap(),
            end: end.parse().unwrap(),
            sha256: sha256.to_owned(),
            follows: (!follows.is_empty()).then(|| follows.to_owned()),
            gap_before: None,
            transactions: 0,
            first_gtid: None,
            last_gtid: None,
            ranges: Vec::new(),
            position_after: GtidPosition::default(),
            state_after: BinlogState::default(),
            clock_before: 0,
            first_commit: None,
            last_commit: None,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
        };
        Chunk { facts, key: text.to_owned(), stored_bytes: 1 }
    }

    #[track_caller]
    fn check(found: &str, expected: &str, holes: &[(&str, &str)]) {
        let mut chunks: Vec<Chunk> = found.split(", ").map(chunk).collect();
        chunks.sort_by_key(|chunk| (chunk.facts.ordinal, chunk.facts.begin, chunk.facts.end));
        let total = chunks.len();
        let mut chain = Chain::default();
        let mut chosen: Vec<Chunk> = chunks.into_iter().flat_map(|chunk| chain.push(chunk)).collect();
        chosen.extend(chain.finish());
        let names: Vec<&str> = chosen.iter().map(|chunk| chunk.facts.sha256.as_str()).collect();
        assert_eq!(names.join(""), expected, "{found}");
        assert_eq!(chain.left_out, (total - chosen.len()) as u64);
        let told: Vec<(&str, &str)> =
            chain.holes.iter().map(|hole| (hole.after.as_deref().unwrap_or(""), hole.before.as_str())).collect();
        assert_eq!(told, holes, "{found}");
    }

    #[test]
    fn what_follows_without_a_hole_is_the_history() {
        check("1:0-10 a<, 1:10-20 b<a, 2:0-5 c<b, 2:5-9 d<c", "abcd", &[]);
    }

    #[test]
    fn of_two_that_begin_at_one_place_the_one_that_is_followed_counts() {
        check("1:0-10 a<, 1:10-20 x<a, 1:10-30 b<a, 1:30-40 c<b", "abc", &[]);
        check("1:0-10 a<, 1:10-20 b<a, 1:10-30 x<a, 1:20-40 c<b, 2:0-5 d<c", "abcd", &[]);
        check("1:0-10 a<, 1:10-20 x<a, 1:10-30 b<a, 2:0-4 c<b", "abc", &[]);
        // Both chains go on; only one leads to what comes after them.
        check("1:0-10 a<, 1:10-20 b<a, 1:20-40 c<b, 1:10-30 x<a, 1:30-40 y<x, 1:40-50 d<c", "abcd", &[]);
    }

    #[test]
    fn at_the_end_the_one_that_reaches_furthest_counts() {
        check("1:0-10 a<, 1:10-20 x<a, 1:10-30 b<a", "ab", &[]);
        check("1:0-10 x<, 1:0-20 a<", "a", &[]);
        check("1:0-10 a<, 1:10-20 b<a, 1:10-15 x<a, 1:20-22 c<b", "abc", &[]);
    }

    #[test]
    fn of_another_history_in_the_same_place_nothing_is_taken() {
        check("1:0-10 a<, 1:10-20 b<a, 1:10-90 x<q, 1:20-30 c<b, 1:30-40 d<c, 2:0-5 e<d", "abcde", &[]);
    }

    #[test]
    fn what_is_missing_is_told_by_what_lies_around_it() {
        check("1:0-10 a<, 1:20-30 c<b, 2:0-5 d<c", "acd", &[("b.1:10", "b.1:20")]);
        check("1:10-20 b<a, 1:20-30 c<b", "bc", &[("", "b.1:10")]);
        check("1:0-10 a<, 3:0-5 d<c", "ad", &[("b.1:10", "b.3:0")]);
        check("1:0-10 a<, 1:10-20 b<z", "ab", &[("b.1:10", "b.1:10")]);
    }

    #[test]
    fn more_overlaps_than_can_be_kept_end_all_the_same() {
        let mut chain = Chain::default();
        let mut given = 0;
        for n in 0..10_000_u64 {
            given += chain.push(chunk(&format!("1:{n}-{} s{n}<s{}", n + 5_000, n.saturating_sub(1)))).len();
        }
        given += chain.finish().len();
        assert_eq!(given as u64 + chain.left_out, 10_000);
        assert!(chain.left_out > 9_000, "{}", chain.left_out);
    }
}
