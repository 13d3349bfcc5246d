//! How far a training is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The joint gradient norm of a training's last update, before clipping; 0 before the first. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastNorm(Arc<AtomicU32>);

impl LastNorm {
    pub fn set(&self, norm: f32) {
        self.0.store(norm.to_bits(), Ordering::Relaxed);
    }

    pub fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How far a training is, and how fast.
#[derive(Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    gradient_norm: LastNorm,
    /// Bits of the images a second of the last step; 0 in the first.
    images_per_s: AtomicU32,
    last_step: Mutex<Option<Instant>>,
}

impl Progress {
    pub fn of(steps_done: u64) -> Self {
        Self {
            steps: AtomicU64::new(steps_done),
            ..Default::default()
        }
    }

    /// Optimiser steps that are done.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Counts a step of so many images; returns how many are done.
    pub fn step(&self, images: usize) -> u64 {
        let mut last = self
            .last_step
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            let rate = images as f32 / (now - last).as_secs_f32();
            self.images_per_s.store(rate.to_bits(), Ordering::Relaxed);
        }
        self.steps.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The gradient norm of the last update.
    pub fn norm(&self) -> &LastNorm {
        &self.gradient_norm
    }

    /// Images a second of the last step; 0 in the first.
    pub fn images_per_s(&self) -> f64 {
        f64::from(f32::from_bits(self.images_per_s.load(Ordering::Relaxed)))
    }
}
