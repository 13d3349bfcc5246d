//! Images that are answered before the last block: whatever else happens to their tokens, in every mode and with gradients.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use apt_vit_model::{
    ExecutionMode, Exit, Observation, Placement, Reduction, RunSettings, TokenReducer, Vit,
    VitConfig, VitOutput, VitPreset, vit_flops,
};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{Distribution, Tolerance};

const BATCH: usize = 7;

/// Image `n` is answered in block `n % 4 + 1` if that is one of the first four, by twice its CLS token; before that, each image
/// loses patches, another number in each block.
struct Early {
    drops: bool,
}

impl Early {
    fn block_of(image: usize) -> usize {
        image % 4 + 1
    }
}

impl TokenReducer for Early {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer < 4).then_some(if layer.is_multiple_of(2) {
            Placement::AfterBlock
        } else {
            Placement::AfterAttention
        })
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let starts = sequences.starts();
        let ends = |slot: &usize| Self::block_of(sequences.image(*slot)) == observation.layer;
        let slots: Vec<usize> = (0..sequences.batch()).filter(ends).collect();
        let keep = (0..sequences.batch()).flat_map(|slot| {
            let goes = move |position: usize| {
                position % (3 + sequences.image(slot)) == observation.layer + 1
            };
            let positions = sequences.positions(slot).iter();
            positions.map(move |&position| !self.drops || !goes(position))
        });
        let rows: Vec<i32> = slots.iter().map(|&slot| starts[slot] as i32).collect();
        let tokens = (!rows.is_empty()).then(|| {
            let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &observation.hidden.device());
            observation.hidden.clone().select(0, rows)
        });
        Reduction {
            exit: Some(Exit {
                slots,
                shifts: tokens.into_iter().collect(),
            }),
            ..Reduction::keep(keep.collect())
        }
    }
}

fn model(device: &Device) -> (Vit, VitConfig, Tensor<4>) {
    device.seed(5);
    let mut config = VitPreset::Tiny32.config();
    config.dropout = 0.0;
    let vit = config.init(device).unwrap();
    let vit = vit.map_head(|weight| weight.random_like(Distribution::Normal(0.0, 1.0)));
    let images = Tensor::random([BATCH, 3, 32, 32], Distribution::Default, device);
    (vit, config, images)
}

fn run(vit: &Vit, images: Tensor<4>, mode: ExecutionMode, drops: bool) -> VitOutput {
    let early = Early { drops };
    let settings = RunSettings {
        mode,
        reducer: Some(&early),
    };
    vit.forward(images, settings)
}

fn near(a: Tensor<2>, b: Tensor<2>) {
    let tolerance = Tolerance::<f32>::absolute(1e-4);
    a.into_data().assert_approx_eq(&b.into_data(), tolerance);
}

#[test]
fn an_early_answer_is_that_of_the_given_token() {
    let device = Device::default();
    let (vit, _, images) = model(&device);
    let found = run(&vit, images.clone(), ExecutionMode::Drop, false).logits;
    for image in (0..BATCH).filter(|&image| Early::block_of(image) < 4) {
        let block = Early::block_of(image);
        let batch = vit.embed(images.clone().narrow(0, image, 1));
        let before = vit.run_blocks(batch, 0..block, RunSettings::DENSE).batch;
        let tokens = if block.is_multiple_of(2) {
            let after = vit.run_blocks(before, block..block + 1, RunSettings::DENSE);
            after.batch.tokens
        } else {
            vit.blocks[block]
                .attend(before.tokens, &before.sequences, None)
                .0
        };
        let cls = tokens.narrow(0, 0, 1) * 2.0;
        let wanted = vit.head.as_ref().unwrap().forward(vit.norm.forward(cls));
        near(found.clone().narrow(0, image, 1), wanted);
    }
}

#[test]
fn masking_and_dropping_agree_also_where_every_image_is_answered_early() {
    let device = Device::default();
    let (vit, config, images) = model(&device);
    let [mask, drop] = [ExecutionMode::Mask, ExecutionMode::Drop]
        .map(|mode| run(&vit, images.clone(), mode, true));
    near(mask.logits.clone(), drop.logits.clone());
    assert_eq!(mask.trace.len(), drop.trace.len());
    for (mask, drop) in mask.trace.iter().zip(&drop.trace) {
        assert_eq!((&mask.seen, &mask.left), (&drop.seen, &drop.left));
        assert_eq!(mask.kept.read(), drop.kept.read());
    }
    for (image, left) in drop.trace[3].left.iter().enumerate() {
        assert_eq!(*left == 0, Early::block_of(image) <= 3);
        assert_eq!(drop.trace[0].left[image] == 0, Early::block_of(image) == 0);
    }
    // Who is answered sooner costs less.
    let flops: Vec<u64> = (0..4)
        .map(|image| vit_flops(&config, &drop.trace, image))
        .collect();
    assert!(flops.windows(2).all(|pair| pair[0] < pair[1]), "{flops:?}");
    // In a batch of which nothing is left, and beside others, an answer is the same.
    let alone = run(&vit, images.narrow(0, 0, 1), ExecutionMode::Drop, true);
    near(alone.logits, drop.logits.clone().narrow(0, 0, 1));
    assert_eq!(alone.trace.len(), 4);
    assert_eq!(alone.trace[3].seen, [0]);
}

#[test]
fn gradients_reach_the_blocks_before_an_exit_and_none_after_it() {
    let device = Device::default();
    let (vit, _, images) = model(&device);
    let vit = vit.train();
    let gradients: Vec<[bool; 2]> = [ExecutionMode::Mask, ExecutionMode::Drop]
        .map(|mode| {
            // The last of these is answered in block 3.
            let images = images.clone().narrow(0, 0, 3).autodiff();
            let logits = run(&vit, images, mode, true).logits;
            let gradients = logits.powi_scalar(2).sum().backward();
            let reached = |block: usize| {
                let weight = vit.blocks[block].mlp.expand.weight.val();
                weight
                    .grad(&gradients)
                    .is_some_and(|gradient| gradient.abs().sum().into_scalar::<f32>() > 0.0)
            };
            [reached(1), reached(5)]
        })
        .to_vec();
    assert_eq!(gradients, [[true, false], [true, false]]);
}
