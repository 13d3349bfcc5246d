//! Results of a numbered job, in order, made ahead by background threads.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Results that a thread may have ready before they are asked for.
pub(crate) const AHEAD: usize = 2;

/// Iterates over `job(number)` for a range of numbers. Worker `w` of `n` makes every `n`-th result
/// from the `w`-th on, so that the order never depends on how fast the threads are.
///
/// A panic of a job reaches the thread that asks for its result. Dropping the iterator ends the
/// threads, after what each has at hand.
pub(crate) struct Prefetch<T> {
    numbers: Range<u64>,
    first: u64,
    source: Source<T>,
}

enum Source<T> {
    Inline(Box<dyn FnMut(u64) -> T>),
    Threads(Vec<Lane<T>>),
}

struct Lane<T> {
    /// `None` once this side has hung up.
    results: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// With no worker, each result is made when it is asked for.
    pub fn new<J>(numbers: Range<u64>, workers: usize, job: J) -> Self
    where
        J: FnMut(u64) -> T + Clone + Send + 'static,
    {
        let first = numbers.start;
        let needed = usize::try_from(numbers.end.saturating_sub(first)).unwrap_or(workers);
        let source = match workers.min(needed) {
            0 => Source::Inline(Box::new(job)),
            workers => Source::Threads(
                (0..workers)
                    .map(|worker| {
                        let mut job = job.clone();
                        let own = (numbers.clone()).skip(worker).step_by(workers);
                        let (results, receiver) = sync_channel(AHEAD);
                        let thread = std::thread::spawn(move || {
                            for number in own {
                                if results.send(job(number)).is_err() {
                                    break;
                                }
                            }
                        });
                        Lane {
                            results: Some(receiver),
                            thread: Some(thread),
                        }
                    })
                    .collect(),
            ),
        };
        Self {
            numbers,
            first,
            source,
        }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let number = self.numbers.next()?;
        match &mut self.source {
            Source::Inline(job) => Some(job(number)),
            Source::Threads(lanes) => {
                let turn = (number - self.first) % lanes.len() as u64;
                lanes[turn as usize].next()
            }
        }
    }
}

impl<T> Lane<T> {
    fn next(&mut self) -> Option<T> {
        if let Ok(result) = self.results.as_ref()?.recv() {
            return Some(result);
        }
        // A thread only ends before its time if its job panicked.
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        if let Source::Threads(lanes) = &mut self.source {
            for lane in lanes.iter_mut() {
                lane.results = None;
            }
            for lane in lanes {
                // A panic that nobody asked for has no one to go to.
                let _ = lane.thread.take().map(JoinHandle::join);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[test]
    fn order_does_not_depend_on_speed_or_workers() {
        let expected: Vec<u64> = (5..25).map(|n| n * n).collect();
        for workers in [0, 1, 2, 3, 50] {
            let results = Prefetch::new(5..25, workers, |n| {
                std::thread::sleep(Duration::from_micros(n % 4 * 200));
                n * n
            });
            assert_eq!(results.collect::<Vec<_>>(), expected, "{workers} workers");
        }
    }

    #[test]
    fn an_empty_range_has_no_result() {
        assert_eq!(Prefetch::new(3..3, 2, |n| n).count(), 0);
    }

    #[test]
    fn dropping_ends_the_threads() {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let mut results = Prefetch::new(0..1_000_000, 2, move |n| {
            counted.fetch_add(1, Ordering::SeqCst);
            n
        });
        assert_eq!(results.next(), Some(0));
        drop(results);
        let after_drop = calls.load(Ordering::SeqCst);
        // The closures are gone with their threads; nothing is left that could call.
        assert_eq!(Arc::strong_count(&calls), 1);
        assert!(after_drop < 20, "{after_drop} calls");
    }

    #[test]
    #[should_panic(expected = "job 3 broke")]
    fn a_panic_reaches_the_one_who_asks() {
        let results = Prefetch::new(0..6, 2, |n| {
            assert!(n != 3, "job {n} broke");
            n
        });
        assert!(results.count() < 6);
    }
}
