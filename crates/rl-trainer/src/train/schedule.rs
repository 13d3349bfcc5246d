use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use super::progress::LastNorm;
use crate::config::{Decay, OptimizerConfig, ScheduleConfig};

/// The record's name of the updates that are done.
const DONE: &str = "done";
/// The record's name of the bits of the last update's gradient norm.
const NORM: &str = "gradient_norm";

/// Linear warm-up, then a fall to zero: update k of w has k/w of the peak, and update w + k of
/// the r that remain has half a cosine or a straight line's share of it.
#[derive(Clone, Debug)]
pub struct WarmupSchedule {
    peak: f64,
    warmup: usize,
    decay: Decay,
    total: usize,
    done: usize,
    /// It is saved beside the updates that are done: what a training that goes on reports of its first step is what the
    /// unbroken one reports.
    norm: LastNorm,
}

impl WarmupSchedule {
    /// The schedule of a training of `total` updates.
    pub fn new(optimizer: &OptimizerConfig, schedule: &ScheduleConfig, total: usize) -> Self {
        Self {
            peak: optimizer.learning_rate,
            warmup: schedule.warmup_steps,
            decay: schedule.decay,
            total,
            done: 0,
            norm: LastNorm::default(),
        }
    }

    /// Saves and restores this gradient norm.
    pub(crate) fn with_norm(self, norm: LastNorm) -> Self {
        Self { norm, ..self }
    }

    /// The learning rate of update `update`, 1-based.
    pub fn learning_rate(&self, update: usize) -> f64 {
        if update <= self.warmup {
            return self.peak * update as f64 / self.warmup as f64;
        }
        let remaining = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((update - self.warmup) as f64 / remaining as f64).min(1.0);
        match self.decay {
            Decay::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Linear => self.peak * (1.0 - progress),
        }
    }

    /// What burn-train's learner saves of a schedule that has made `done` updates.
    pub(crate) fn record_after(done: usize, norm: &LastNorm) -> LrSchedulerRecord {
        let schedule = Self {
            done,
            norm: norm.clone(),
            ..Self::new(&OptimizerConfig::default(), &ScheduleConfig::default(), 0)
        };
        ModuleLrScheduler::new(schedule).to_record()
    }
}

impl LrScheduler for WarmupSchedule {
    fn step(&mut self) -> f64 {
        self.done += 1;
        self.learning_rate(self.done)
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new()
            .with_scalar(DONE, self.done as u64)
            .with_scalar(NORM, u64::from(self.norm.get().to_bits()))
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let Some(done) = record.scalar::<u64>(DONE) {
            self.done = done as usize;
        }
        // Earlier versions saved none.
        if let Some(bits) = record.scalar::<u64>(NORM) {
            self.norm.set(f32::from_bits(bits as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> WarmupSchedule {
        let optimizer = OptimizerConfig {
            learning_rate: 0.4,
            ..Default::default()
        };
        let schedule = ScheduleConfig {
            warmup_steps: 4,
            decay,
        };
        WarmupSchedule::new(&optimizer, &schedule, 12)
    }

    #[test]
    fn update_k_of_the_warm_up_has_k_shares_of_the_peak() {
        let mut schedule = schedule(Decay::Cosine);
        let rates: Vec<f64> = (0..4).map(|_| schedule.step()).collect();
        for (rate, expected) in rates.iter().zip([0.1, 0.2, 0.3, 0.4]) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn both_decays_are_half_way_down_in_the_middle_and_end_at_zero() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let schedule = schedule(decay);
            assert!((schedule.learning_rate(8) - 0.2).abs() < 1e-12);
            assert!(schedule.learning_rate(12).abs() < 1e-12);
        }
    }

    #[test]
    fn a_restored_schedule_goes_on_where_it_was() {
        let mut unbroken = schedule(Decay::Cosine);
        let mut broken = schedule(Decay::Cosine);
        for _ in 0..5 {
            unbroken.step();
            broken.step();
        }
        broken.norm.set(0.123);
        let mut resumed = schedule(Decay::Cosine);
        let seen = resumed.norm.clone();
        resumed.load_record(broken.to_record());
        assert_eq!(unbroken.step(), resumed.step());
        assert_eq!(seen.get(), 0.123);
    }
}
