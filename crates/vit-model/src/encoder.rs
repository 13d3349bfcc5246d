use std::ops::Range;

use burn::prelude::*;

use crate::attention::cls_attention;
use crate::kernels::mean_keys;
use crate::parked::Recalled;
use crate::precision::widen;
use crate::reading::corrected;
use crate::restart::restarted;
use crate::selected_rows::own_rows;
use crate::token_batch::Answered;
use crate::{
    Block, Heads, Kept, Keys, Observation, Park, Parked, Placement, TokenBatch, TokenReducer, Vit,
};

/// What happens to a token that a reducer removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExecutionMode {
    /// Nothing is removed; the reducer is not asked.
    Dense,
    /// It stays in the tensor, but no query attends to it any more.
    Mask,
    /// It leaves the tensor, and later blocks cost less.
    Drop,
}

/// How to run blocks: the mode, and who reduces.
#[derive(Clone, Copy)]
pub struct RunSettings<'a> {
    /// What happens to removed tokens.
    pub mode: ExecutionMode,
    /// Who decides; none is the same as [`ExecutionMode::Dense`].
    pub reducer: Option<&'a dyn TokenReducer>,
}

impl RunSettings<'_> {
    /// Nothing is removed.
    pub const DENSE: Self = Self {
        mode: ExecutionMode::Dense,
        reducer: None,
    };
}

/// What a reducer did in one block.
#[derive(Clone, Debug)]
pub struct LayerTrace {
    /// The block, 0-based.
    pub layer: usize,
    /// Where in the block.
    pub placement: Placement,
    /// Tokens of each image that it saw (CLS counted).
    pub seen: Vec<usize>,
    /// Tokens of each image that it left (CLS counted).
    pub left: Vec<usize>,
    /// Which tokens are still there afterwards.
    pub kept: Kept,
    /// The reducer's logits, `[rows, 2]`, for the rows it saw.
    pub logits: Option<Tensor<2>>,
    /// Tokens of each image that are parked from now on: read by CLS, and not computed.
    pub parked: Vec<usize>,
    /// Per image: does it start over, and go through all blocks with nothing removed?
    pub restarted: Vec<bool>,
}

/// Tokens after some blocks, and what was removed on the way.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The tokens.
    pub batch: TokenBatch,
    /// One entry for each block in which the reducer acted.
    pub trace: Vec<LayerTrace>,
}

/// Runs `layers` of the model's blocks over the batch and offers it to the reducer in each of them.
pub(crate) fn run_blocks(
    vit: &Vit,
    mut batch: TokenBatch,
    layers: Range<usize>,
    settings: RunSettings<'_>,
) -> Encoded {
    let mut trace = Vec::new();
    // Where images start over from.
    let reduces = settings.mode != ExecutionMode::Dense && settings.reducer.is_some();
    let whole = (reduces && layers.start == 0).then(|| batch.clone());
    for layer in layers {
        let block = &vit.blocks[layer];
        let reducer = match settings.mode {
            ExecutionMode::Dense => None,
            ExecutionMode::Mask | ExecutionMode::Drop => settings.reducer,
        };
        let acting = reducer.and_then(|reducer| Some((reducer, reducer.placement(layer)?)));

        if batch.sequences.batch() == 0 {
            trace.extend(acting.map(|(_, placement)| nothing_left(&batch, layer, placement)));
            continue;
        }
        let (tokens, qkv) = block.attend(batch.tokens, &batch.sequences, batch.key_mask.as_ref());
        batch.tokens = tokens;
        if let Some(parked) = batch.parked.take() {
            batch = read_parked(batch, parked, layer, block, &qkv);
        }
        // Attention is seen as it was in this block, before any of its tokens are removed.
        let seen = acting.map(|(reducer, _)| See::new(reducer, layer, block, &batch, qkv));
        if let (Some((reducer, Placement::AfterAttention)), Some(seen)) = (acting, &seen) {
            let (reduced, entry) = reduce(vit, batch, reducer, seen, settings.mode, whole.as_ref());
            batch = reduced;
            trace.push(entry);
        }
        batch.tokens = block.feed_forward(batch.tokens);
        batch.parked = batch.parked.map(|parked| parked.drift(layer, 1));
        if let (Some((reducer, Placement::AfterBlock)), Some(seen)) = (acting, &seen) {
            let (reduced, entry) = reduce(vit, batch, reducer, seen, settings.mode, whole.as_ref());
            batch = reduced;
            trace.push(entry);
        }
    }
    Encoded { batch, trace }
}

/// CLS reads what is parked, in block `layer`, whose attention used `qkv`, `[rows, 3 * hidden]`, of the others.
fn read_parked(
    mut batch: TokenBatch,
    mut parked: Parked,
    layer: usize,
    block: &Block,
    qkv: &Tensor<2>,
) -> TokenBatch {
    let bias = parked
        .readings
        .get(layer)
        .map(|reading| reading.bias.clone());
    let (sequences, mask) = (&batch.sequences, batch.key_mask.as_ref());
    let read = block.reader().zip(bias);
    let read = read.and_then(|(reader, bias)| reader.read(&parked, bias, sequences, qkv, mask));
    if let Some((slots, change, attention)) = read {
        batch.tokens = corrected(batch.tokens, sequences, &slots, change);
        parked.attention = attention;
    }
    batch.parked = Some(parked.drift(layer, 0));
    batch
}

/// What a reducer asked to see of a block's attention.
struct See {
    layer: usize,
    placement: Placement,
    cls_attention: Option<Vec<f32>>,
    keys: Option<Keys>,
}

impl See {
    fn new(
        reducer: &dyn TokenReducer,
        layer: usize,
        block: &Block,
        batch: &TokenBatch,
        qkv: Tensor<2>,
    ) -> Self {
        let needs = reducer.needs(layer);
        let own = |qkv: Tensor<2>| own_rows(qkv.without_autodiff(), &batch.sequences);
        let qkv = (needs.cls_attention || needs.keys).then(|| own(qkv));
        Self {
            layer,
            placement: reducer.placement(layer).unwrap_or(Placement::AfterBlock),
            cls_attention: qkv.as_ref().filter(|_| needs.cls_attention).map(|qkv| {
                let key_mask = batch.key_mask.as_ref();
                cls_attention(qkv, &batch.sequences, key_mask, block.attention.num_heads)
            }),
            keys: qkv
                .filter(|_| needs.keys)
                .map(|qkv| Keys::new(mean_keys(qkv, block.attention.num_heads))),
        }
    }
}

/// Every image is answered: a reducer sees nothing more.
fn nothing_left(batch: &TokenBatch, layer: usize, placement: Placement) -> LayerTrace {
    LayerTrace {
        layer,
        placement,
        seen: batch.sequences.counts(),
        left: batch.sequences.counts(),
        kept: Kept::from(batch.sequences.kept()),
        logits: None,
        parked: parked_counts(batch),
        restarted: flags(batch.sequences.num_images(), Vec::new()),
    }
}

fn reduce(
    vit: &Vit,
    batch: TokenBatch,
    reducer: &dyn TokenReducer,
    seen: &See,
    mode: ExecutionMode,
    whole: Option<&TokenBatch>,
) -> (TokenBatch, LayerTrace) {
    let counts = batch.sequences.counts();
    let reduction = reducer.reduce(&Observation {
        layer: seen.layer,
        hidden: widen(batch.own_tokens().without_autodiff()),
        sequences: &batch.sequences,
        cls_attention: seen.cls_attention.clone(),
        keys: seen.keys.clone(),
        parked: batch.parked.as_ref(),
        heads: Some(Heads::of(vit)),
    });
    let acts = mode != ExecutionMode::Dense;
    let merge = reduction.merge.as_ref().filter(|_| acts);
    let merged = merge.map(|merge| batch.sequences.merged_positions(merge));
    let exit = reduction.exit.filter(|_| acts);
    let answered = exit.map(|exit| Answered::new(exit, &batch, Heads::of(vit).tokens()));
    let restart = whole.filter(|_| acts && !reduction.restart.is_empty());
    let restart = restart.map(|whole| restarted(vit, whole, &batch, &reduction.restart));
    let restarts = restart.as_ref().map(|restart| restart.images().to_vec());
    let batch = match reduction.shift.filter(|_| acts) {
        Some(shift) => batch.shift(shift),
        None => batch,
    };
    // What no block can read is removed.
    let can_read = vit.blocks[seen.layer].can_read();
    let park = reduction.park.as_ref().filter(|_| acts && can_read);
    let (parked, recalled) = match park {
        Some(park) => moved(&batch, park, &reduction.keep),
        None => (batch.parked.clone(), None),
    };
    let batch = match reduction.mask.filter(|_| acts) {
        Some(mask) => batch.weigh_keys(mask),
        None => batch,
    };
    let batch = match (mode, &reduction.merge) {
        (ExecutionMode::Dense, _) => batch,
        (ExecutionMode::Mask, Some(merge)) => batch.merge(merge).hide(&reduction.keep),
        (ExecutionMode::Mask, None) => batch.hide(&reduction.keep),
        (ExecutionMode::Drop, Some(merge)) => batch.merge_and_drop(merge, &reduction.keep),
        (ExecutionMode::Drop, None) => batch.drop_rows(&reduction.keep),
    };
    let batch = match recalled {
        Some(recalled) => batch.take_back(recalled, mode == ExecutionMode::Mask),
        None => batch,
    };
    let batch = TokenBatch { parked, ..batch };
    let answered = answered.into_iter().chain(restart);
    let batch = answered.fold(batch, |batch, answered| {
        batch.answer(answered, mode == ExecutionMode::Drop)
    });
    let kept = Kept::from(batch.sequences.kept());
    let entry = LayerTrace {
        layer: seen.layer,
        placement: seen.placement,
        seen: counts,
        left: batch.sequences.counts(),
        kept: match merged {
            Some(merged) => kept.with_merged(merged),
            None => kept,
        },
        logits: reduction.logits,
        parked: parked_counts(&batch),
        restarted: flags(batch.sequences.num_images(), restarts.unwrap_or_default()),
    };
    (batch, entry)
}

/// What is parked once rows that are not kept are, and what comes back.
fn moved(batch: &TokenBatch, park: &Park, keep: &[bool]) -> (Option<Parked>, Option<Recalled>) {
    let (before, recalled) = match batch.parked.clone() {
        Some(parked) => parked.recall(&park.recall),
        None => (None, None),
    };
    let sequences = &batch.sequences;
    let rows = keep.iter().zip(&park.rows).enumerate();
    let goes = rows.map(|(row, (keep, parks))| !keep && *parks && sequences.can_go(row));
    let goes: Vec<bool> = goes.collect();
    let tokens = widen(batch.own_tokens());
    let parked = Parked::join(before, &tokens, sequences, &goes, &park.readings);
    (parked, recalled)
}

/// Which of so many images are these?
fn flags(count: usize, images: Vec<usize>) -> Vec<bool> {
    let mut flags = vec![false; count];
    images.into_iter().for_each(|image| flags[image] = true);
    flags
}

/// Parked tokens of each image of the batch.
fn parked_counts(batch: &TokenBatch) -> Vec<usize> {
    match &batch.parked {
        Some(parked) => parked.counts(),
        None => vec![0; batch.sequences.num_images()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Merge, Needs, Reduction, VitPreset};

    /// In each block, the last patch goes into the first one.
    struct LastIntoFirst;

    impl TokenReducer for LastIntoFirst {
        fn placement(&self, _: usize) -> Option<Placement> {
            Some(Placement::AfterBlock)
        }

        fn needs(&self, _: usize) -> Needs {
            Needs::default()
        }

        fn reduce(&self, observation: &Observation<'_>) -> Reduction {
            let sequences = observation.sequences;
            let rows = sequences.num_rows();
            let mut into: Vec<usize> = (0..rows).collect();
            for span in sequences.starts().windows(2) {
                let mut visible = (span[0]..span[1]).filter(|&row| sequences.visible()[row]);
                into[visible.next_back().unwrap()] = span[0] + 1;
            }
            let keep = (0..rows).map(|row| into[row] == row).collect();
            let merge = Merge {
                into,
                weights: vec![1.0; rows],
                proportion: Some(1.0),
            };
            Reduction {
                merge: Some(merge),
                ..Reduction::keep(keep)
            }
        }
    }

    #[test]
    fn the_trace_says_which_positions_merged_in_each_block() {
        let device = Device::default();
        let config = VitPreset::Tiny32.config();
        let vit = config.init(&device).unwrap();
        let last = config.num_tokens() - 1;
        for mode in [ExecutionMode::Drop, ExecutionMode::Mask] {
            let images = Tensor::ones([2, 3, 32, 32], &device);
            let reducer = Some(&LastIntoFirst as &dyn TokenReducer);
            let settings = RunSettings { mode, reducer };
            let trace = vit.forward(images, settings).trace;
            assert_eq!(trace[0].kept.merged(), vec![vec![(last, 1)]; 2]);
            assert_eq!(trace[2].kept.merged(), vec![vec![(last - 2, 1)]; 2]);
        }
    }
}
