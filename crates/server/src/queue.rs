//! Jobs in the order in which they are served, and what they will cost.

use std::collections::VecDeque;

use crate::Priority;

/// What a queue has to know of what stands in it.
pub trait Queued {
    /// Who is served first.
    fn priority(&self) -> Priority;
    /// The share of the dense FLOPs that it will cost whatever the load; none where the load decides.
    fn fixed_share(&self) -> Option<f64>;
    /// Does nobody wait for it any more?
    fn is_dead(&self) -> bool;
}

/// Jobs of each priority, first in, first out.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: [VecDeque<T>; Priority::ALL.len()],
}

/// What stands in a queue: so many images that the load decides about, and the shares of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Images whose share the load decides.
    pub elastic: usize,
    /// Shares of the others, added.
    pub fixed: f64,
    /// All images.
    pub images: usize,
}

impl Backlog {
    /// Both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            elastic: self.elastic + other.elastic,
            fixed: self.fixed + other.fixed,
            images: self.images + other.images,
        }
    }

    /// Of one job.
    pub fn of(job: &impl Queued) -> Self {
        let fixed = job.fixed_share();
        Self {
            elastic: usize::from(fixed.is_none()),
            fixed: fixed.unwrap_or(0.0),
            images: 1,
        }
    }
}

impl<T: Queued> Queue<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            lanes: std::array::from_fn(|_| VecDeque::new()),
        }
    }

    /// At the end of its priority.
    pub fn push(&mut self, job: T) {
        self.lanes[job.priority().index()].push_back(job);
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<T> {
        self.lanes.iter_mut().find_map(VecDeque::pop_front)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Takes out those for which nobody waits.
    pub fn take_dead(&mut self) -> Vec<T> {
        let mut dead = Vec::new();
        for lane in &mut self.lanes {
            if !lane.iter().any(Queued::is_dead) {
                continue;
            }
            let (gone, left): (Vec<T>, Vec<T>) = lane.drain(..).partition(Queued::is_dead);
            dead.extend(gone);
            lane.extend(left);
        }
        dead
    }

    /// What is served no later than a job of `priority`.
    pub fn backlog(&self, priority: Priority) -> Backlog {
        let lanes = self.lanes[..=priority.index()].iter().flatten();
        lanes
            .map(Backlog::of)
            .fold(Backlog::default(), Backlog::plus)
    }

    /// The next jobs while the sum of what `cost` says of them is at most `most`; one in any case, if there is one.
    pub fn fill(&mut self, most: f64, cost: impl Fn(&T) -> f64) -> Vec<T> {
        let (mut jobs, mut sum) = (Vec::new(), 0.0);
        for lane in &mut self.lanes {
            while let Some(job) = lane.front() {
                sum += cost(job);
                if !jobs.is_empty() && sum > most {
                    return jobs;
                }
                jobs.extend(lane.pop_front());
            }
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Job {
        priority: Priority,
        share: Option<f64>,
        dead: bool,
    }

    impl Queued for Job {
        fn priority(&self) -> Priority {
            self.priority
        }
        fn fixed_share(&self) -> Option<f64> {
            self.share
        }
        fn is_dead(&self) -> bool {
            self.dead
        }
    }

    fn job() -> impl Strategy<Value = Job> {
        let share = prop::option::of(0.2..1.0f64);
        (0usize..3, share, any::<bool>()).prop_map(|(priority, share, dead)| Job {
            priority: Priority::ALL[priority],
            share,
            dead,
        })
    }

    proptest! {
        #[test]
        fn batches_hold_what_fits_and_nothing_is_lost_or_overtaken(
            jobs in prop::collection::vec(job(), 0..40),
            most in 0.1f64..8.0,
        ) {
            let mut queue = Queue::new();
            jobs.iter().cloned().for_each(|job| queue.push(job));
            let whole = queue.backlog(Priority::Low);
            prop_assert_eq!(whole.images, jobs.len());
            let cost = |job: &Job| job.share.unwrap_or(0.5);
            let mut served = Vec::new();
            while !queue.is_empty() {
                let batch = queue.fill(most, cost);
                let sum: f64 = batch.iter().map(cost).sum();
                prop_assert!(batch.len() == 1 || sum <= most);
                served.extend(batch);
            }
            let mut expected = jobs;
            expected.sort_by_key(|job| job.priority);
            prop_assert_eq!(served, expected);
        }
    }

    #[test]
    fn the_dead_go_and_the_others_keep_their_order() {
        let mut queue = Queue::new();
        for (share, dead) in [(0.1, false), (0.2, true), (0.3, false)] {
            queue.push(Job {
                priority: Priority::Normal,
                share: Some(share),
                dead,
            });
        }
        assert_eq!(queue.take_dead().len(), 1);
        let left: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(
            left.iter().filter_map(|job| job.share).collect::<Vec<_>>(),
            [0.1, 0.3]
        );
    }

    #[test]
    fn what_stands_behind_a_priority_is_not_in_its_backlog() {
        let mut queue = Queue::new();
        for priority in Priority::ALL {
            queue.push(Job {
                priority,
                share: None,
                dead: false,
            });
        }
        let found = Priority::ALL.map(|priority| queue.backlog(priority).elastic);
        assert_eq!(found, [1, 2, 3]);
    }
}
