//! How far a training is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How far a training is, and how fast.
#[derive(Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    /// Bits of the joint gradient norm of the last update; 0 before the first.
    gradient_norm: AtomicU32,
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

    pub fn set_gradient_norm(&self, norm: f32) {
        self.gradient_norm.store(norm.to_bits(), Ordering::Relaxed);
    }

    /// The joint gradient norm of the last update, before clipping.
    pub fn gradient_norm(&self) -> f64 {
        f64::from(f32::from_bits(self.gradient_norm.load(Ordering::Relaxed)))
    }

    /// Images a second of the last step; 0 in the first.
    pub fn images_per_s(&self) -> f64 {
        f64::from(f32::from_bits(self.images_per_s.load(Ordering::Relaxed)))
    }
}
