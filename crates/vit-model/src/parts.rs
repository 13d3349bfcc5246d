//! Inference on the CPU, a part of the batch on each thread.
//!
//! Threads that share every operation wait for one another at the end of each, run what is not shared one at a
//! time, and read what others wrote from others' caches. A thread that runs images of its own, from their
//! patches to their classes, does none of that.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};

use burn::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::kernels::computes_here;
use crate::{ExecutionMode, LayerTrace, RunSettings, Vit, VitOutput};

/// A part, but for the last, has so many tokens at least: fewer would not be worth the passes over the weights.
const LEAST_ROWS: usize = 256;

/// The same of a part whose products are in a short precision,
const SHORT_ROWS: usize = 192;
/// and what its MLP's two products hand on has so many bytes at most, about: more leaves the core's own cache; with less,
/// each pass over the weights serves fewer images.
const MOST_SHORT_BYTES: usize = 5 << 19;

/// Runs the batch, if it is computed here and decisions allow it: in parts where that is worth it, and else as a whole.
pub(crate) fn forward(
    vit: &Vit,
    images: &Tensor<4>,
    settings: RunSettings<'_>,
) -> Option<VitOutput> {
    if !computes_here(&images.device()) {
        return None;
    }
    let mode = settings.mode;
    let reducer = match settings.reducer {
        Some(reducer) if mode != ExecutionMode::Dense => Some(reducer.by_image()?),
        _ => None,
    };
    let threads = rayon::current_num_threads();
    let [batch, ..] = images.dims();
    let [_, tokens, _] = vit.embedding.positions.dims();
    let parts = match vit.short_width() {
        Some(width) => small_ranges(batch, tokens, width, threads),
        None => ranges(batch, tokens, threads),
    };
    let settings = || RunSettings {
        mode,
        reducer: reducer.map(|reducer| reducer as _),
    };
    let Some(parts) = parts else {
        // On the pool: the caller's thread would compute beside all of its threads, one more than there are processors.
        let images = images.clone();
        return Some(rayon::scope(|_| vit.forward_from(images, 0, settings())));
    };
    let pools = SINGLE_THREADS.as_ref()?.get(..threads)?;
    let outputs: Vec<OnceLock<VitOutput>> = parts.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    on_each(pools, &|| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((part, output)) = parts.get(index).zip(outputs.get(index)) else {
                break;
            };
            let images = images.clone().narrow(0, part.start, part.len());
            output.get_or_init(|| vit.forward_from(images, part.start, settings()));
        }
    });
    outputs
        .into_iter()
        .map(OnceLock::into_inner)
        .collect::<Option<Vec<_>>>()
        .map(joined)
}

/// The parts of a batch of `batch` images for so many threads, if it is large enough for them. They become smaller,
/// so that all threads end together although images keep different numbers of tokens (guided self-scheduling,
/// Polychronopoulos and Kuck, 1987).
fn ranges(batch: usize, tokens: usize, threads: usize) -> Option<Vec<Range<usize>>> {
    let least = LEAST_ROWS.div_ceil(tokens);
    if threads < 2 || batch < 4 * threads * least {
        return None;
    }
    let mut parts = Vec::new();
    let mut start = 0;
    while start < batch {
        let rest = batch - start;
        let size = rest.div_ceil(2 * threads).max(least).min(rest);
        parts.push(start..start + size);
        start += size;
    }
    Some(parts)
}

/// The parts of a batch whose products are in a short precision, the MLPs' values in bfloat16: as many for each thread, and
/// of nearly the same size.
fn small_ranges(
    batch: usize,
    tokens: usize,
    width: usize,
    threads: usize,
) -> Option<Vec<Range<usize>>> {
    let least = SHORT_ROWS.div_ceil(tokens);
    let most = (MOST_SHORT_BYTES / (2 * width * tokens)).max(least);
    let parts = batch.div_ceil(most).next_multiple_of(threads);
    if parts == 1 || batch < least * parts {
        return None;
    }
    let cut = |part: usize| part * batch / parts;
    Some((0..parts).map(|part| cut(part)..cut(part + 1)).collect())
}

/// So many pools of one thread as there are threads: within one, everything runs on that thread.
static SINGLE_THREADS: LazyLock<Option<Vec<ThreadPool>>> = LazyLock::new(|| {
    let pool = |_| ThreadPoolBuilder::new().num_threads(1).build().ok();
    (0..rayon::current_num_threads()).map(pool).collect()
});

/// Runs `task` on each pool.
fn on_each(pools: &[ThreadPool], task: &(dyn Fn() + Sync)) {
    if let Some((pool, others)) = pools.split_first() {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| task());
            on_each(others, task);
        });
    }
}

/// The output of a batch, given those of its parts.
fn joined(parts: Vec<VitOutput>) -> VitOutput {
    let all = |of: fn(&VitOutput) -> Tensor<2>| Tensor::cat(parts.iter().map(of).collect(), 0);
    let logits = all(|part| part.logits.clone());
    let features = all(|part| part.features.clone());
    let mut traces = parts.into_iter().map(|part| part.trace);
    let mut trace = traces.next().unwrap_or_default();
    let mut others: Vec<_> = traces.map(Vec::into_iter).collect();
    for entry in &mut trace {
        let others = others.iter_mut().filter_map(Iterator::next).collect();
        join(entry, others);
    }
    VitOutput {
        logits,
        features,
        trace,
    }
}

/// Takes in what is known of the images after it.
fn join(entry: &mut LayerTrace, others: Vec<LayerTrace>) {
    let mut logits: Vec<_> = entry.logits.take().into_iter().collect();
    for other in others {
        entry.seen.extend(other.seen);
        entry.left.extend(other.left);
        entry.parked.extend(other.parked);
        entry.restarted.extend(other.restarted);
        entry.kept.extend(other.kept);
        logits.extend(other.logits);
    }
    entry.logits = (!logits.is_empty()).then(|| Tensor::cat(logits, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observation, Placement, Reduction, TokenReducer, VitPreset};
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn parts_cover_the_batch_and_become_smaller() {
        for (batch, tokens, threads) in [(100, 65, 2), (16, 197, 2), (1000, 50, 7), (33, 256, 8)] {
            let parts = ranges(batch, tokens, threads).unwrap();
            assert_eq!(parts[0].start, 0);
            assert_eq!(parts[parts.len() - 1].end, batch);
            assert_eq!(parts[0].len(), batch.div_ceil(2 * threads));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert!(pair[0].len() >= pair[1].len());
            }
        }
        assert_eq!(ranges(100, 65, 1), None);
        assert_eq!(ranges(15, 197, 2), None);
        assert_eq!(ranges(1, 197, 2), None);
    }

    #[test]
    fn short_parts_are_a_few_images_and_as_many_for_each_thread() {
        let sizes = |parts: Vec<Range<usize>>| parts.iter().map(Range::len).collect::<Vec<_>>();
        // ViT-S/16, ViT-B/16
        for (batch, width, threads, expected) in [
            (8, 1536, 2, Some(vec![4, 4])),
            (2, 1536, 2, Some(vec![1, 1])),
            (10, 1536, 2, Some(vec![2, 3, 2, 3])),
            (8, 1536, 1, Some(vec![4, 4])),
            (8, 3072, 2, Some(vec![2, 2, 2, 2])),
            // Threads share every operation of too few images.
            (1, 1536, 2, None),
            (3, 1536, 4, None),
            (4, 1536, 1, None),
        ] {
            let found = small_ranges(batch, 197, width, threads);
            assert_eq!(found.map(sizes), expected, "{batch} of {width}");
        }
    }

    /// Keeps of image `n` of the batch the first `n` patches, after the first block.
    struct AsItsNumber;

    impl TokenReducer for AsItsNumber {
        fn placement(&self, layer: usize) -> Option<Placement> {
            (layer == 0).then_some(Placement::AfterBlock)
        }

        fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
            Some(self)
        }

        fn reduce(&self, observation: &Observation<'_>) -> Reduction {
            let sequences = observation.sequences;
            let slots = 0..sequences.batch();
            let keep = slots.flat_map(|slot| {
                let positions = sequences.positions(slot).iter();
                positions.map(move |&position| position <= sequences.image(slot))
            });
            Reduction {
                logits: Some(observation.hidden.clone().narrow(1, 0, 2)),
                ..Reduction::keep(keep.collect())
            }
        }
    }

    #[test]
    fn a_batch_in_parts_comes_out_as_a_whole_one() {
        let device = Device::default();
        device.seed(4);
        let vit = VitPreset::Tiny32.config().init(&device).unwrap();
        let images = Tensor::random([70, 3, 32, 32], Distribution::Default, &device);
        let two = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for (mode, reducer) in [
            (ExecutionMode::Dense, None),
            (ExecutionMode::Mask, Some(AsItsNumber)),
            (ExecutionMode::Drop, Some(AsItsNumber)),
        ] {
            let reducer = reducer.as_ref();
            let whole = vit.forward_from(
                images.clone(),
                0,
                RunSettings {
                    mode,
                    reducer: reducer.map(|reducer| reducer as _),
                },
            );
            let in_parts = two.install(|| {
                let settings = RunSettings {
                    mode,
                    reducer: reducer.map(|reducer| reducer as _),
                };
                forward(&vit, &images, settings)
            });
            let Some(in_parts) = in_parts else {
                assert!(!computes_here(&device));
                continue;
            };
            let near = |a: Tensor<2>, b: Tensor<2>| {
                let tolerance = Tolerance::<f32>::absolute(1e-5);
                a.into_data().assert_approx_eq(&b.into_data(), tolerance);
            };
            near(in_parts.logits, whole.logits);
            assert_eq!(in_parts.trace.len(), whole.trace.len());
            for (part, whole) in in_parts.trace.into_iter().zip(whole.trace) {
                assert_eq!(part.seen, whole.seen);
                assert_eq!(part.left, whole.left);
                assert_eq!(part.kept.read(), whole.kept.read());
                near(part.logits.unwrap(), whole.logits.unwrap());
            }
        }
    }
}
