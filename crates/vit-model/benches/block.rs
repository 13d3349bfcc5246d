//! The halves of a block, forwards and backwards: `cargo bench -p apt-vit-model`.
//!
//! Ragged batches keep 0.4 of the first image's tokens and all of the last's, in equal steps
//! between.
#![allow(missing_docs)]

use std::fmt;

use apt_vit_model::{Block, BlockConfig, TokenBatch, VitPreset};
use burn::tensor::{Device, Distribution, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A block of a preset, and the batch it works on.
#[derive(Clone, Copy)]
struct Work {
    preset: &'static str,
    batch: usize,
    ragged: bool,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ragged = if self.ragged { ", ragged" } else { "" };
        write!(f, "{}, batch {}{ragged}", self.preset, self.batch)
    }
}

const WORK: [Work; 6] = [
    Work {
        preset: "vit-b16",
        batch: 8,
        ragged: false,
    },
    Work {
        preset: "vit-b16",
        batch: 8,
        ragged: true,
    },
    Work {
        preset: "vit-s16",
        batch: 1,
        ragged: false,
    },
    Work {
        preset: "vit-small32",
        batch: 1,
        ragged: false,
    },
    Work {
        preset: "vit-small32",
        batch: 64,
        ragged: false,
    },
    Work {
        preset: "vit-small32",
        batch: 64,
        ragged: true,
    },
];

impl Work {
    /// The block and its tokens, with autodiff if it is to `learn`.
    fn prepare(self, learn: bool) -> (Block, TokenBatch) {
        let plain = Device::default();
        let device = if learn { plain.autodiff() } else { plain };
        let Ok(preset) = VitPreset::from_name(self.preset) else {
            panic!("no preset {}", self.preset);
        };
        let model = preset.config();
        let shape = [self.batch, model.num_tokens(), model.hidden_size];
        let tokens = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let keep: Vec<bool> = (0..self.batch * shape[1])
            .map(|row| {
                let (image, token) = (row / shape[1], row % shape[1]);
                let rate = 0.4 + 0.6 * image as f64 / (self.batch - 1).max(1) as f64;
                !self.ragged || (token as f64) < rate * shape[1] as f64
            })
            .collect();
        let block = BlockConfig { model }.init(&device);
        (block, TokenBatch::full(tokens).drop_rows(&keep))
    }

    fn time(
        self,
        bencher: Bencher<'_, '_>,
        learn: bool,
        run: impl Fn(&Block, &TokenBatch) -> Tensor<2>,
    ) {
        let (block, batch) = self.prepare(learn);
        let rows = ItemsCount::new(batch.sequences.num_rows());
        bencher.counter(rows).bench_local(|| {
            let output = run(&block, &batch);
            match learn {
                true => drop(output.sum().backward()),
                false => drop(output),
            }
        });
    }
}

fn attend(block: &Block, batch: &TokenBatch) -> Tensor<2> {
    block.attend(batch.tokens.clone(), &batch.sequences).0
}

fn feed_forward(block: &Block, batch: &TokenBatch) -> Tensor<2> {
    block.feed_forward(batch.tokens.clone())
}

#[divan::bench(args = WORK, sample_count = 20)]
fn attention(bencher: Bencher<'_, '_>, work: Work) {
    work.time(bencher, false, attend);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn attention_learning(bencher: Bencher<'_, '_>, work: Work) {
    work.time(bencher, true, attend);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn mlp(bencher: Bencher<'_, '_>, work: Work) {
    work.time(bencher, false, feed_forward);
}

#[divan::bench(args = WORK, sample_count = 20)]
fn mlp_learning(bencher: Bencher<'_, '_>, work: Work) {
    work.time(bencher, true, feed_forward);
}
