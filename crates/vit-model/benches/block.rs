//! The halves of a block, forwards and backwards.
#![allow(clippy::disallowed_methods, missing_docs)]

use apt_vit_model::{Block, BlockConfig, TokenBatch, VitError, VitPreset};
use burn::tensor::{Device, Distribution, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A preset, the batch, and how much of its tokens the first image keeps: the last keeps all, those
/// between as many as an equal step allows.
type Work = (&'static str, usize, f64);

const WORK: [Work; 8] = [
    ("vit-b16", 1, 1.0),
    ("vit-b16", 1, 0.35),
    ("vit-b16", 8, 1.0),
    ("vit-b16", 8, 0.4),
    ("vit-s16", 1, 1.0),
    ("vit-small32", 1, 1.0),
    ("vit-small32", 64, 1.0),
    ("vit-small32", 64, 0.4),
];

/// The block and its tokens.
fn prepare((preset, batch, least): Work, device: &Device) -> Result<(Block, TokenBatch), VitError> {
    let model = VitPreset::from_name(preset)?.config();
    let count = model.num_tokens();
    let normal = Distribution::Normal(0.0, 1.0);
    let tokens = Tensor::<3>::random([batch, count, model.hidden_size], normal, device);
    let kept = |image: usize| {
        let last = (batch - 1).max(1) as f64;
        (count as f64 * (least + (1.0 - least) * image as f64 / last)) as usize
    };
    let keep: Vec<bool> = (0..batch)
        .flat_map(|image| {
            let kept = kept(image);
            (0..count).map(move |token| token < kept)
        })
        .collect();
    let block = BlockConfig { model }.init(device);
    let block = if device.is_autodiff() {
        block
    } else {
        block.prepack()
    };
    Ok((block, TokenBatch::full(tokens).drop_rows(&keep)))
}

/// Times a half of a block, and its backward pass if it is to `learn`.
fn time(
    bencher: Bencher<'_, '_>,
    work: Work,
    learn: bool,
    half: impl Fn(&Block, &TokenBatch) -> Tensor<2>,
) {
    let device = if learn {
        Device::default().autodiff()
    } else {
        Device::default()
    };
    let (block, batch) = prepare(work, &device).expect("a preset");
    let rows = ItemsCount::new(batch.sequences.num_rows());
    bencher.counter(rows).bench_local(|| {
        let output = half(&block, &batch);
        if learn {
            drop(output.sum().backward())
        } else {
            drop(output)
        }
    });
}

fn attend(block: &Block, batch: &TokenBatch) -> Tensor<2> {
    let tokens = batch.tokens.clone();
    block.attend(tokens, &batch.sequences, None).0
}

fn feed_forward(block: &Block, batch: &TokenBatch) -> Tensor<2> {
    block.feed_forward(batch.tokens.clone())
}

#[divan::bench(args = WORK, sample_count = 20)]
fn attention(bencher: Bencher<'_, '_>, work: Work) {
    time(bencher, work, false, attend);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn attention_learning(bencher: Bencher<'_, '_>, work: Work) {
    time(bencher, work, true, attend);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn mlp(bencher: Bencher<'_, '_>, work: Work) {
    time(bencher, work, false, feed_forward);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn mlp_learning(bencher: Bencher<'_, '_>, work: Work) {
    time(bencher, work, true, feed_forward);
}
