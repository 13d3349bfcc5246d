//! The training step: it runs passes and asks the algorithm.

use std::collections::BTreeMap;

use apt_data::{Batch, mix_seed};
use apt_inference::PruningVit;
use apt_vit_model::{ExecutionMode, FlopsCount, LayerTrace, RunSettings, vit_flops};
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::Gradients;
use burn::train::{InferenceStep, TrainOutput, TrainStep};

use super::gradients::merge;
use super::memory::peak_memory;
use super::optimizer::{clip_global_norm, split_off};
use super::pass::pruned_pass;
use super::recompute::pruned_pass_recomputed;
use super::schedule::WarmupSchedule;
use super::session::Session;
use super::trainee::Trainee;
use crate::TrainerError;
use crate::algorithm::losses::{accuracy, cross_entropy, soft_cross_entropy, value};
use crate::algorithm::{Pass, PolicyLosses, Purpose, Seeds};
use crate::log::Report;

/// The mean FLOPs share of a batch and the mean keep rate after each of the policy's blocks.
fn report_trace(
    model: &PruningVit,
    trace: &[LayerTrace],
    images: usize,
    values: &mut BTreeMap<String, f64>,
) {
    let shares: f64 = (0..images).map(|image| model.flops(trace, image).1).sum();
    values.insert("flops_share".into(), shares / images as f64);
    let patches = model.config().num_patches() as f64;
    let prefix = model.config().num_prefix_tokens();
    for entry in trace {
        let kept = entry.left.iter().map(|left| left.saturating_sub(prefix));
        let kept: usize = kept.sum();
        let rate = kept as f64 / patches / images as f64;
        values.insert(format!("keep_rate/{}", entry.layer), rate);
    }
}

impl Session {
    /// Seeds the dropout of a part of a pass.
    fn seed_dropout(&self, batch: &Batch, segment: u64) {
        let place = &batch.place;
        let purpose = Purpose::Dropout as u64;
        let mut seed = vec![self.settings.seed, purpose, place.number];
        // Other devices' parts of the batch, and blocks that are computed again, have their
        // own.
        if place.part.start > 0 || segment > 0 {
            seed.extend([place.part.start as u64, segment]);
        }
        batch.images.device().seed(mix_seed(&seed));
    }

    /// What every report says beside the losses.
    fn report(&self, pass: u64, values: &mut BTreeMap<String, f64>) {
        let rate = self.settings.learning_rate(pass);
        values.insert("learning_rate".into(), rate);
        let gradient_norm = f64::from(self.progress.norm().get());
        values.insert("gradient_norm".into(), gradient_norm);
        values.insert("images_per_s".into(), self.progress.images_per_s());
        if let Some(peak) = peak_memory() {
            values.insert("peak_memory_mib".into(), peak as f64 / f64::from(1 << 20));
        }
    }
}

/// The losses of a step that no backward pass has gone through yet, and the gradients so far.
struct Backward<'a> {
    model: &'a Trainee,
    /// Losses are multiplied by it.
    scale: f32,
    losses: Vec<Tensor<1>>,
    gradients: GradientsParams,
}

impl Backward<'_> {
    /// Goes through all losses there are; returns the gradients of what is no parameter, too.
    fn run<T>(&mut self, with: impl FnOnce(&Gradients) -> T) -> Option<T> {
        let loss = self.losses.drain(..).reduce(|sum, loss| sum + loss)?;
        let gradients = (loss * self.scale).backward();
        let found = with(&gradients);
        let more = GradientsParams::from_grads(gradients, self.model);
        merge(self.model, &mut self.gradients, more);
        Some(found)
    }
}

impl TrainStep for Trainee {
    type Input = Batch;
    type Output = Report;

    fn step(&self, batch: Batch) -> TrainOutput<Report> {
        let Some(session) = &self.session else {
            return TrainOutput {
                grads: GradientsParams::new(),
                item: Report::default(),
            };
        };
        let (settings, targets, place) = (&session.settings, &batch.targets, &batch.place);
        let frozen = PruningVit::new(self.vit.valid(), self.policy.valid(), self.config.clone());
        let seeds = Seeds::new(settings.seed, &batch);
        let is_dense = settings.is_dense(place.number);
        let selection = settings.selection(place.number);
        let images = || batch.images.clone();
        let scale = session.loss_scale() * place.share() as f32 / settings.accumulation as f32;

        // How the policy learns from this pass, if it does.
        let learns = settings.policy_learns(place.number);
        let learner = session.algorithm.as_ref().zip(self.policy.agents());
        let learner = learner.filter(|_| learns).map(|(algorithm, agents)| {
            let pass = Pass {
                vit: &self.vit,
                agents,
                critics: &self.critics,
                frozen: &frozen,
                selection,
                is_dense,
                images: images(),
                targets,
                seeds: &seeds,
                part: place.part.start,
                slot: place.number % settings.accumulation as u64,
            };
            (algorithm, pass)
        });
        let lesson = learner
            .as_ref()
            .map(|(algorithm, pass)| algorithm.begin(pass));

        // The model's own pass.
        let acting = frozen
            .policy
            .reducer(selection, &seeds.of(Purpose::Policy, 0));
        let usual = if is_dense {
            ExecutionMode::Dense
        } else {
            ExecutionMode::Drop
        };
        let (mode, reducer) = lesson
            .as_ref()
            .and_then(|lesson| lesson.own_pass())
            .unwrap_or((usual, &*acting));
        let mut backward = Backward {
            model: self,
            scale,
            losses: Vec::new(),
            gradients: GradientsParams::new(),
        };
        let pruned = if settings.recompute {
            let seed = |segment| session.seed_dropout(&batch, segment);
            let (vit, images) = (&self.vit, images());
            let (pass, gradients) =
                pruned_pass_recomputed(vit, reducer, mode, images, targets, seed, scale);
            backward.gradients = gradients;
            pass
        } else {
            session.seed_dropout(&batch, 0);
            let pass = pruned_pass(&self.vit, reducer, mode, images(), targets);
            backward.losses.push(pass.loss.clone());
            pass
        };
        let mut total = value(&pruned.loss);
        let mut values = BTreeMap::from([("loss".to_string(), total)]);
        let logits = pruned.logits.clone().without_autodiff();
        let name = if mode == ExecutionMode::Dense {
            "dense_accuracy"
        } else {
            "pruned_accuracy"
        };
        values.insert(name.into(), accuracy(&logits, targets));
        report_trace(&frozen, &pruned.trace, targets.len(), &mut values);

        // What the model learns beside the classes.
        if settings.distillation_weight > 0.0 && !is_dense {
            let plain = images().without_autodiff();
            let teacher = frozen.vit.forward(plain, RunSettings::DENSE).logits;
            values.insert("dense_accuracy".into(), accuracy(&teacher, targets));
            let loss = soft_cross_entropy(pruned.logits, teacher) * settings.distillation_weight;
            total += value(&loss);
            backward.losses.push(loss);
        }
        if let Some(loss) = lesson
            .as_ref()
            .and_then(|lesson| lesson.loss_beside_the_models())
        {
            total += value(&loss);
            backward.losses.push(loss);
        }

        // What the policy learns.
        let own_flops = self.own_flops(&frozen, &pruned.trace, targets.len());
        let learned = lesson.map_or_else(PolicyLosses::default, |lesson| {
            if lesson.wants_gradients() {
                let learned = backward.run(|gradients| lesson.losses(Some(gradients), scale));
                // Blocks that are computed anew leave no loss to go through; configs refuse that.
                return learned.unwrap_or_else(|| {
                    session.stop.fail(without_backward());
                    PolicyLosses::default()
                });
            }
            lesson.losses(None, scale)
        });
        values.extend(learned.values);
        values.insert("step_flops".into(), own_flops + learned.flops);
        for (loss, layer) in learned.of_blocks.iter().zip(self.policy.blocks()) {
            let agent_loss = value(loss);
            values.insert(format!("agent_loss/{layer}"), agent_loss);
            total += agent_loss;
        }
        let weight = learner.map_or(1.0, |(algorithm, _)| algorithm.loss_weight());
        backward
            .losses
            .extend(learned.of_blocks.into_iter().map(|loss| match weight {
                1.0 => loss,
                weight => loss * weight,
            }));

        session.check_loss(total, place.number);
        if session.stop.has_failed() {
            backward.gradients = GradientsParams::new();
        } else {
            backward.run(|_| ());
        }
        session.report(place.number, &mut values);
        TrainOutput {
            grads: backward.gradients,
            item: Report::new(targets.len(), values),
        }
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        lr_module: ModuleLearningRate,
        mut grads: GradientsParams,
    ) -> Self {
        let Some(session) = self
            .session
            .clone()
            .filter(|session| !session.stop.has_failed())
        else {
            return self;
        };
        let (clip, scale) = (session.settings.max_grad_norm, session.loss_scale());
        let (model, norm) = clip_global_norm(self, &mut grads, clip, scale);
        session.progress.norm().set(norm);
        if !session.accept(norm) {
            if !session.stop.has_failed() {
                model.finish_step(&session, optim);
            }
            return model;
        }
        let (rate, settings) = (lr_module.base(), &session.settings);
        let of_head = split_off(&model.vit.head, &mut grads);
        let of_second_head = split_off(&model.vit.distillation_head, &mut grads);
        let of_policy = split_off(&model.policy, &mut grads);
        let of_critics = split_off(&model.critics, &mut grads);
        let model = optim.step(rate, model, grads);
        let model = optim.step(rate * settings.head_factor, model, of_head);
        let model = optim.step(rate * settings.head_factor, model, of_second_head);
        let model = optim.step(rate * settings.agent_factor, model, of_policy);
        let model = optim.step(rate * settings.agent_factor, model, of_critics);
        model.finish_step(&session, optim);
        model
    }
}

/// An algorithm wants gradients that `train.gradient_checkpointing` does not leave.
fn without_backward() -> TrainerError {
    TrainerError::Field {
        field: "train.gradient_checkpointing".into(),
        found: "true".into(),
        expected: "must be false: the algorithm learns from the model's own backward pass".into(),
    }
}

impl Trainee {
    /// FLOPs of the model's own pass, forward and backward, the policy's decisions included; mean over the batch.
    fn own_flops(&self, frozen: &PruningVit, trace: &[LayerTrace], images: usize) -> f64 {
        let Some(session) = &self.session else {
            return 0.0;
        };
        let backward = session.settings.backward_share;
        let of_image = |image: usize| -> f64 {
            let own = vit_flops(&self.config, trace, image) as f64;
            let policy: FlopsCount = frozen.policy.trace_flops(&self.config, trace, image);
            own * (1.0 + backward) + policy as f64
        };
        (0..images).map(of_image).sum::<f64>() / images as f64
    }

    /// Counts a step; where the training has to stop, saves a checkpoint of this very step first.
    fn finish_step(&self, session: &Session, optimizer: &ModuleOptimizer) {
        if self.devices().first() != Some(&session.main_device) {
            return;
        }
        let step = session.progress.step(session.settings.images_per_step);
        // The last step of an epoch has its own evaluation and checkpoint.
        if step.is_multiple_of(session.settings.eval_interval) {
            return;
        }
        let Some(reason) = session.stop.reason() else {
            return;
        };
        let scheduler = WarmupSchedule::record_after(step as usize, session.progress.norm());
        let records = (self.clone().into_record(), optimizer.to_record(), scheduler);
        let saved = session.checkpoints.save_pause(step, records);
        match saved {
            Ok(path) => session.stop.pause_with(reason, path),
            Err(error) => session.stop.fail(error),
        }
    }
}

impl InferenceStep for Trainee {
    type Input = Batch;
    type Output = Report;

    /// Held-out images, dense and pruned.
    fn step(&self, batch: Batch) -> Report {
        let targets = &batch.targets;
        let Some(session) = &self.session else {
            return Report::default();
        };
        let model = self.pruning();
        let selection = session.settings.usual_selection();
        let seeds: Vec<u64> = batch.indices.iter().map(|&index| index as u64).collect();
        let run = |mode| model.run(batch.images.clone(), mode, selection, &seeds);
        let mut values = BTreeMap::new();
        let dense = run(ExecutionMode::Dense);
        values.insert("dense_accuracy".into(), accuracy(&dense.logits, targets));
        let pruned = run(ExecutionMode::Drop);
        values.insert("pruned_accuracy".into(), accuracy(&pruned.logits, targets));
        report_trace(&model, &pruned.trace, targets.len(), &mut values);
        values.insert("loss".into(), value(&cross_entropy(pruned.logits, targets)));
        Report::new(targets.len(), values)
    }
}
