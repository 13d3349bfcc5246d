//! The thread that computes: it takes what is ready, as much as a batch's FLOPs allow, and waits for no timer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use apt_inference::{NotFinite, Reduced, rows};
use apt_pruning_agent::Selection;
use burn::tensor::{Tensor, TensorData};

use crate::budget::Budget;
use crate::engine::Shared;
use crate::fidelity::Sample;
use crate::job::{JobError, Prepared, Reply, Task};
use crate::prepare::bury;
use crate::queue::Queued;

/// How often a lowered budget is chosen again while nothing arrives.
const LOOK: Duration = Duration::from_millis(100);

/// An image, and how much of the model it gets.
type Budgeted = (Arc<Budget>, Prepared);

/// What is to be done next.
enum Next {
    Batch(Vec<Budgeted>),
    Sample(Sample),
    End,
}

/// Computes until the engine closes and all is answered.
pub(crate) fn run(shared: &Shared) {
    let mut pruned = 0;
    loop {
        match next(shared) {
            Next::Batch(batch) => {
                for images in grouped(batch, shared.mixes_budgets()) {
                    answer(shared, images, &mut pruned);
                }
                let mut line = shared.line();
                line.busy_until = Instant::now();
                line.computing = 0;
                shared.show(&line);
            }
            Next::Sample(sample) => compare(shared, &sample),
            Next::End => return,
        }
    }
}

fn next(shared: &Shared) -> Next {
    let mut line = shared.line();
    loop {
        let dead = line.ready.take_dead();
        if !dead.is_empty() {
            // Those that decode took them for the next batch.
            shared.to_prepare.notify_all();
        }
        for image in dead {
            bury(shared, image.ticket);
        }
        let now = Instant::now();
        line.follow_load(now);
        let shares = crate::Priority::ALL.map(|priority| line.share(priority));
        let share = |image: &Prepared| {
            let fixed = image.fixed_share();
            fixed.unwrap_or(shares[image.priority().index()])
        };
        let levels = line.elastic.map(|elastic| elastic.level());
        let most = line.batch();
        let images = line.ready.fill(most, share);
        if !images.is_empty() {
            let seconds = images.iter().map(|image| line.speed.seconds(share(image)));
            let seconds: f64 = seconds.sum();
            line.busy_until = now + Duration::from_secs_f64(seconds);
            line.computing = images.len();
            shared.show(&line);
            drop(line);
            shared.to_prepare.notify_all();
            let of_load = |image: &Prepared| {
                let level = levels[image.priority().index()];
                Arc::clone(&shared.budgets.levels()[level])
            };
            let with_budget = images.into_iter().map(|image| {
                let named = image.ticket.wish.budget.clone();
                (named.unwrap_or_else(|| of_load(&image)), image)
            });
            return Next::Batch(with_budget.collect());
        }
        shared.show(&line);
        if line.is_idle() {
            if line.is_closing {
                return Next::End;
            }
            if let Some(sample) = line.samples.pop_front() {
                return Next::Sample(sample);
            }
        }
        line = if line.is_lowered() {
            let woken = shared.to_compute.wait_timeout(line, LOOK);
            woken.unwrap_or_else(PoisonError::into_inner).0
        } else {
            let woken = shared.to_compute.wait(line);
            woken.unwrap_or_else(PoisonError::into_inner)
        };
    }
}

/// The images that run together: those of one task, and where budgets do not mix, of one budget.
fn grouped(batch: Vec<Budgeted>, mixes_budgets: bool) -> Vec<Vec<Budgeted>> {
    let mut groups: Vec<Vec<Budgeted>> = Vec::new();
    for (budget, image) in batch {
        let task = image.ticket.wish.task;
        let same = groups.iter_mut().find(|images| {
            images.iter().all(|(other, image)| {
                image.ticket.wish.task == task && (mixes_budgets || *other == budget)
            })
        });
        match same {
            Some(images) => images.push((budget, image)),
            None => groups.push(vec![(budget, image)]),
        }
    }
    groups
}

/// Computes images of one task and sends the replies.
fn answer(shared: &Shared, images: Vec<Budgeted>, pruned: &mut u64) {
    let started = Instant::now();
    let task = images
        .first()
        .map_or(Task::Classify, |(_, image)| image.ticket.wish.task);
    let values: Vec<&[f32]> = images.iter().map(|(_, image)| &image.values[..]).collect();
    let selections: Vec<&Selection> = images.iter().map(|(budget, _)| &budget.selection).collect();
    let pass = || pass(shared, &values, task, &selections);
    // A panic costs this batch, not the server.
    let found = catch_unwind(AssertUnwindSafe(pass));
    let computed = started.elapsed();
    let (metrics, batch) = (&shared.metrics, images.len());
    let Ok((outputs, features, reduced)) = found else {
        metrics.failed.increment(batch as u64);
        for (_, image) in images {
            image.ticket.answer(Err(JobError::Failed));
        }
        return;
    };
    metrics.compute.record(computed.as_secs_f64());
    metrics.batch.record(batch as f64);
    metrics.images.increment(batch as u64);
    metrics
        .flops
        .increment(reduced.iter().map(|image| image.flops).sum());
    let cost: f64 = images.iter().map(|(budget, _)| budget.cost()).sum();
    let mut samples = Vec::new();
    let outputs = outputs.into_iter().zip(features);
    for (((budget, image), (values, features)), reduced) in
        images.into_iter().zip(outputs).zip(reduced)
    {
        let computed_values = [(task.output(), &values), ("features", &features)];
        let found = computed_values.map(|(what, values)| NotFinite::check(what, values));
        if let Err(error) = found.into_iter().collect::<Result<(), _>>() {
            metrics.failed.increment(1);
            image.ticket.answer(Err(error.into()));
            continue;
        }
        if task.names_classes() && !budget.is_dense() {
            if pruned.is_multiple_of(shared.settings.sample_every) {
                samples.push(Sample {
                    values: image.values,
                    logits: values.clone(),
                });
            }
            *pruned += 1;
        }
        let waited = started.saturating_duration_since(image.ticket.enqueued);
        let queued = waited.saturating_sub(image.took);
        metrics.queue.record(queued.as_secs_f64());
        image.ticket.answer(Ok(Reply {
            values,
            features,
            reduced,
            share: budget.share,
            seen: image.seen,
            queued,
            prepared: image.took,
            computed,
            batch,
        }));
    }
    let mut line = shared.line();
    if task.names_classes() || shared.model.class_names().is_empty() {
        let seconds = computed.as_secs_f64() / batch as f64;
        line.speed.measure(cost / batch as f64, seconds, batch);
    }
    line.answers.add(Instant::now(), batch);
    for sample in samples {
        line.keep_sample(sample);
    }
}

/// The outputs of each image, its features where they are to be looked up, and what was removed of it by its selection.
fn pass(
    shared: &Shared,
    images: &[&[f32]],
    task: Task,
    selections: &[&Selection],
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, Vec<Reduced>) {
    let model = &shared.model;
    let size = model.description().model.image_size;
    let data = TensorData::new(images.concat(), [images.len(), 3, size.height, size.width]);
    let tensor = Tensor::from_data(data, &model.device());
    let output = model.forward_each(tensor, selections);
    let (outputs, features) = match task {
        Task::Classify => (rows(output.logits), vec![Vec::new(); images.len()]),
        Task::Embed => (rows(output.features), vec![Vec::new(); images.len()]),
        Task::LookUp => (rows(output.logits), rows(output.features)),
    };
    (
        outputs,
        features,
        model.reductions_of_each(&output.trace, selections),
    )
}

/// Computes an answer again, dense, and says how near the pruned one was.
fn compare(shared: &Shared, sample: &Sample) {
    let nothing = [&Selection::All];
    let dense = || pass(shared, &[&sample.values], Task::Classify, &nothing);
    let Ok((logits, ..)) = catch_unwind(AssertUnwindSafe(dense)) else {
        return;
    };
    let mut line = shared.line();
    for logits in logits {
        match line.fidelity.add(&logits, &sample.logits) {
            Ok(()) => shared.metrics.samples.increment(1),
            Err(error) => tracing::warn!("a sample cannot be compared: {error}"),
        }
    }
    if let (Some(divergence), Some(agreement)) =
        (line.fidelity.divergence(), line.fidelity.agreement())
    {
        shared.metrics.divergence.set(divergence);
        shared.metrics.agreement.set(agreement);
    }
}
