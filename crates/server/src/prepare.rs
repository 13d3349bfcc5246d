//! The threads that decode pictures, so that a batch is ready when the one before it ends.

use std::sync::PoisonError;
use std::time::Instant;

use crate::Priority;
use crate::engine::Shared;
use crate::job::{Input, Job, JobError, Prepared, Ticket};
use crate::line::Line;
use crate::picture::{PictureError, Seen, values};
use crate::queue::Queued;

/// Decodes what waits, one batch ahead of what is computed, until the engine closes and nothing waits any more.
pub(crate) fn run(shared: &Shared) {
    while let Some(job) = next(shared) {
        let Job { ticket, input } = job;
        let started = Instant::now();
        let found = prepared(shared, input);
        let took = started.elapsed();
        let mut line = shared.line();
        line.preparing -= 1;
        match found {
            Ok((values, seen)) => {
                shared.metrics.prepare.record(took.as_secs_f64());
                line.ready.push(Prepared {
                    ticket,
                    values,
                    seen,
                    took,
                });
            }
            Err(error) => ticket.answer(Err(JobError::Picture(error))),
        }
        drop(line);
        shared.to_compute.notify_one();
    }
    // The others may wait for this one's last image.
    shared.to_prepare.notify_all();
    shared.to_compute.notify_all();
}

fn next(shared: &Shared) -> Option<Job> {
    let mut line = shared.line();
    loop {
        for job in line.waiting.take_dead() {
            bury(shared, job.ticket);
        }
        if !is_batch_ready(&line)
            && let Some(job) = line.waiting.pop()
        {
            line.preparing += 1;
            return Some(job);
        }
        if line.is_closing && line.waiting.is_empty() {
            return None;
        }
        line = shared
            .to_prepare
            .wait(line)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Is enough decoded for the next batch?
fn is_batch_ready(line: &Line) -> bool {
    let backlog = line.ready.backlog(Priority::Low);
    let elastic = (backlog.elastic + line.preparing) as f64 * line.share(Priority::Normal);
    elastic + backlog.fixed >= line.batch()
}

fn prepared(shared: &Shared, input: Input) -> Result<(Vec<f32>, Option<Seen>), PictureError> {
    match input {
        Input::Values(values) => Ok((values, None)),
        Input::Picture(bytes) => {
            let description = shared.model.description();
            // A decoder that panics has met a bug of its own; it costs that picture alone.
            let decode = || values(&bytes, description);
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
            let (values, seen) = found.unwrap_or(Err(PictureError::Undecodable))?;
            Ok((values, Some(seen)))
        }
    }
}

/// Counts an image that nobody waits for, and tells the client where it is the deadline that passed.
pub(crate) fn bury(shared: &Shared, ticket: Ticket) {
    if ticket.reply.is_closed() {
        shared.metrics.cancelled.increment(1);
    } else {
        debug_assert!(ticket.is_dead());
        shared.metrics.late.increment(1);
        ticket.answer(Err(JobError::Late));
    }
}
