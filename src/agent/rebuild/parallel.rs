//! Many small reads at once, in bounded memory: an object store answers each in its own time.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};

/// Reads in flight.
const READERS: usize = 16;
/// What a batch's objects may take in memory together, unless it is a single one.
const BATCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Items of a batch, and so of a transaction.
const BATCH_ITEMS_MAX: usize = 1000;

/// Cuts `items` into batches that fit into memory. `bytes` is what an item takes at most.
pub(super) fn batches<T>(items: &[T], bytes: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let mut batches = Vec::new();
    let (mut begin, mut sum) = (0, 0_u64);
    for (at, item) in items.iter().enumerate() {
        let weight = bytes(item);
        if at > begin && (at - begin >= BATCH_ITEMS_MAX || sum.saturating_add(weight) > BATCH_BYTES_MAX) {
            batches.extend(items.get(begin..at));
            (begin, sum) = (at, 0);
        }
        sum = sum.saturating_add(weight);
    }
    batches.extend(items.get(begin..).filter(|rest| !rest.is_empty()));
    batches
}

/// `work` done on every item by several threads; the results in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Result<Vec<R>, Error> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS.min(items.len()))
            .map(|n| std::thread::Builder::new().name(format!("rebuild-{n}")).spawn_scoped(scope, run))
            .collect::<Result<_, _>>()
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err))?;
        let mut done = Vec::new();
        for thread in threads {
            done.extend(thread.join().map_err(|_| Error::new(ErrorKind::Internal, "a reading thread panicked"))?);
        }
        Ok::<_, Error>(done)
    })?;
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_items() {
        let items: Vec<u64> = (0..1000).collect();
        let doubled = in_parallel(&items, |item| {
            std::thread::sleep(std::time::Duration::from_micros(1000 - item));
            item * 2
        });
        assert_eq!(doubled.unwrap(), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert!(in_parallel(&[] as &[u8], |_| ()).unwrap().is_empty());
    }

    #[test]
    fn batches_hold_every_item_once_and_no_more_than_fits() {
        let mb = |n: u64| n << 20;
        let items = [mb(60), mb(3), mb(2), mb(200), mb(1), mb(1)];
        let cut: Vec<Vec<u64>> = batches(&items, |item| *item).into_iter().map(<[u64]>::to_vec).collect();
        assert_eq!(cut, [vec![mb(60), mb(3)], vec![mb(2)], vec![mb(200)], vec![mb(1), mb(1)]]);
        let many = vec![1_u64; 2500];
        assert_eq!(batches(&many, |item| *item).iter().map(|batch| batch.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
        assert!(batches(&[] as &[u64], |item| *item).is_empty());
    }
}
