use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use apt_data::{Batch, mix_seed};
use apt_pruning_agent::{Amount, PolicyConfig, PolicyKind, PruningAgents};
use apt_vit_model::{
    CheckpointHead, ExecutionMode, LayerTrace, Precision, RunSettings, TokenReducer, Vit,
    VitConfig, VitOutput, vit_flops,
};
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::train::{InferenceStep, TrainOutput, TrainStep};

use crate::config::{AlgorithmKind, Execution, ExperimentConfig, Freeze, FrozenPart};
use crate::counterfactual::{
    CutPass, DensePass, PrunedPass, choose_cuts, cross_entropy, soft_cross_entropy, stream_0,
    stream_1, stream_2,
};
use crate::dynamic_vit::soft_pass;
use crate::first_order::{self, Probe};
use crate::optimizer::{clip_global_norm, split_off};
use crate::policy_gradient::{Sample, Sampling, advantages, losses, sample};
use crate::ppo::Rollout;
use crate::recompute::{merge, stream_1_recomputed};
use crate::session::{Session, StepSettings};
use crate::{Choice, Report, RunFolder, TrainerError, peak_memory};

/// Which random choice a seed is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Weights = 1,
    Dropout = 2,
    Cut = 3,
    Budget = 4,
    Policy = 5,
}

/// A Vision Transformer and its pruning agents: what is trained, saved and run.
#[derive(Module, Debug)]
pub struct PruningVit {
    /// The model.
    pub vit: Vit,
    /// Its agents.
    pub agents: PruningAgents,
    /// How it is trained; none in inference.
    #[module(skip)]
    session: Option<Arc<Session>>,
    #[module(skip)]
    config: VitConfig,
    #[module(skip)]
    policy: PolicyConfig,
}

impl PruningVit {
    /// Creates the model of a config with fresh weights, or those that it names, on `device`.
    ///
    /// # Errors
    ///
    /// Where sizes do not fit together or pretrained weights do not load.
    pub fn new(
        config: &ExperimentConfig,
        num_classes: usize,
        device: &Device,
    ) -> Result<Self, TrainerError> {
        let sizes = config.model.resolve(num_classes)?;
        device.seed(mix_seed(&[config.seed, Purpose::Weights as u64]));
        let vit = sizes.init(device)?;
        let agents = config
            .agents
            .init(sizes.hidden_size, sizes.num_layers, device)?;
        let agents = match config.algorithm.kind {
            AlgorithmKind::Ppo => {
                agents.with_critics(sizes.hidden_size, sizes.hidden_size / 3, device)
            }
            _ => agents,
        };
        let mut model = Self {
            vit,
            agents,
            session: None,
            config: sizes,
            policy: config.policy,
        };
        model.initialize();
        if let Some(mut checkpoint) = config.model.checkpoint()? {
            let (head, resize) = (CheckpointHead::Fresh, config.model.positions);
            model.vit = checkpoint.load(model.vit, &model.config, head, resize)?;
        }
        let precision = config.train.dtype;
        check_precision(precision, device)?;
        model.vit = model.vit.with_precision(precision);
        model.freeze_part(config.train.freeze)
    }

    /// Part of the model does not learn.
    fn freeze_part(mut self, freeze: Option<Freeze>) -> Result<Self, TrainerError> {
        let layers = self.vit.blocks.len();
        let (blocks, norm) = match freeze {
            None => return Ok(self),
            Some(Freeze::Blocks(blocks)) => (blocks, false),
            Some(Freeze::Part(FrozenPart::Backbone)) => (layers, true),
        };
        if blocks > layers {
            return Err(TrainerError::Field {
                field: "train.freeze".into(),
                found: blocks.to_string(),
                expected: format!("must be at most the {layers} blocks of the model"),
            });
        }
        self.vit.embedding = self.vit.embedding.freeze();
        let numbered = self.vit.blocks.into_iter().enumerate();
        let frozen = numbered.map(|(layer, block)| match layer < blocks {
            true => block.freeze(),
            false => block,
        });
        self.vit.blocks = frozen.collect();
        if norm {
            self.vit.norm = self.vit.norm.freeze();
        }
        Ok(self)
    }

    /// Parameters are made when first used; this uses each once, in order, so that they depend
    /// on the seed alone.
    fn initialize(&self) {
        struct Touch;
        impl ModuleVisitor for Touch {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                param.val();
            }
        }
        self.visit(&mut Touch);
    }

    /// The model's sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// What its matrix products are computed in.
    pub fn precision(&self) -> Precision {
        self.vit.precision()
    }

    /// The model for inference alone; see [`Vit::prepack`].
    pub fn prepack(mut self) -> Self {
        self.vit = self.vit.prepack();
        self
    }

    pub(crate) fn with_session(mut self, session: Arc<Session>) -> Self {
        self.session = Some(session);
        self
    }

    /// Who decides which tokens stay.
    pub fn policy(&self) -> &PolicyConfig {
        &self.policy
    }

    /// The blocks (0-based) in which the policy acts.
    pub fn acting_blocks(&self) -> Vec<usize> {
        self.policy.blocks(&self.agents, &self.config)
    }

    /// How many patches the policy leaves after each of its layers to compute `share` of the dense FLOPs.
    ///
    /// # Errors
    ///
    /// Where no number of patches computes that.
    pub fn kept_for(&self, share: f64) -> Result<Vec<usize>, TrainerError> {
        Ok(self.policy.kept_for(&self.agents, &self.config, share)?)
    }

    /// Does the policy leave the same number of patches in every image? Then it needs no calibration.
    pub fn counts_tokens(&self) -> bool {
        self.policy.kind != PolicyKind::Agents || self.policy.uniform
    }

    /// How much goes in training: the published threshold, or what meets each of the budgets. Agents
    /// share a batch's tokens among its images.
    pub(crate) fn amounts(&self, config: &ExperimentConfig) -> Result<Vec<Amount>, TrainerError> {
        let shares = &config.budget.flops;
        if shares.is_empty() {
            return Ok(vec![Amount::Threshold {
                threshold: config.agents.threshold,
            }]);
        }
        let amounts = shares.iter().map(|&share| {
            let kept = self.kept_for(share)?;
            Ok(match self.counts_tokens() {
                true => Amount::Kept { kept },
                false => Amount::KeptOfBatch { kept },
            })
        });
        amounts.collect()
    }

    /// The same with the weights of the best dense checkpoint of another run, head included.
    ///
    /// # Errors
    ///
    /// Where that run has no checkpoint, or a model of other sizes or classes.
    pub fn starting_from(mut self, folder: &Path) -> Result<Self, TrainerError> {
        let run = RunFolder::open(folder)?;
        let found = &run.description.model;
        if *found != self.config {
            let text = |config: &VitConfig| serde_json::to_string(config).unwrap_or_default();
            return Err(TrainerError::Field {
                field: "model.start".into(),
                found: format!("{}, a model of {}", folder.display(), text(found)),
                expected: format!("must be a run whose model is {}", text(&self.config)),
            });
        }
        let device = self.vit.devices().first().cloned().unwrap_or_default();
        let start = run.load_model(&run.checkpoint(Choice::BestDense)?, &device)?;
        self.vit = self
            .vit
            .try_load_record(start.vit.into_record())
            .map_err(|error| TrainerError::RunFolder {
                path: folder.to_path_buf(),
                reason: format!("its model does not fit: {error}"),
            })?;
        Ok(self)
    }

    /// Runs the model, its policy removing `amount` unless the mode is dense.
    ///
    /// `images` is `[batch, 3, height, width]`; `seeds` has one entry for each, which chance draws from
    /// where the policy is chance.
    pub fn run(
        &self,
        images: Tensor<4>,
        mode: ExecutionMode,
        amount: &Amount,
        seeds: &[u64],
    ) -> VitOutput {
        let reducer = self
            .policy
            .reducer(&self.agents, &self.config, amount, seeds, None);
        let settings = RunSettings {
            mode,
            reducer: Some(&*reducer),
        };
        self.vit.forward(images, settings)
    }

    /// FLOPs of image `image` of a batch, the policy's included, and its share of the dense model's.
    pub fn flops(&self, trace: &[LayerTrace], image: usize) -> (u64, f64) {
        let dense = vit_flops(&self.config, &[], image);
        let policy = self.policy.flops(&self.agents, &self.config, trace, image);
        let flops = vit_flops(&self.config, trace, image) + policy;
        (flops, flops as f64 / dense as f64)
    }

    /// The mean FLOPs share of a batch and the mean keep rate after each agent layer.
    fn report_trace(
        &self,
        trace: &[LayerTrace],
        images: usize,
        values: &mut BTreeMap<String, f64>,
    ) {
        let shares: f64 = (0..images).map(|image| self.flops(trace, image).1).sum();
        values.insert("flops_share".into(), shares / images as f64);
        let patches = self.config.num_patches() as f64;
        for entry in trace {
            let prefix = self.config.num_prefix_tokens();
            let kept: usize = entry.left.iter().map(|left| left - prefix).sum();
            let rate = kept as f64 / patches / images as f64;
            values.insert(format!("keep_rate/{}", entry.layer), rate);
        }
    }
}

impl PruningVit {
    /// The agents' losses by the published algorithm, one for each layer.
    fn learn_from_cuts(
        &self,
        vit: &Vit,
        settings: &StepSettings,
        dense: &DensePass,
        targets: &[usize],
        seeds: &dyn Fn(Purpose, u64) -> Vec<u64>,
        values: &mut BTreeMap<String, f64>,
    ) -> Vec<Tensor<1>> {
        let (cuts, margin) = (settings.algorithm.cuts, settings.algorithm.margin as f32);
        let count = (targets.len() * cuts) as f64;
        let of_layer = |index: usize| {
            let passes: Vec<CutPass> = (0..cuts as u64)
                .map(|cut| {
                    let chosen = choose_cuts(&dense.observed[index], &seeds(Purpose::Cut, cut));
                    stream_2(vit, &self.agents, index, dense, &chosen, targets, margin)
                })
                .collect();
            let layer = self.agents.layers[index];
            let reward: f32 = passes.iter().flat_map(|pass| &pass.rewards).sum();
            let positive: usize = passes.iter().flat_map(|pass| &pass.labels).sum();
            values.insert(format!("reward/{layer}"), f64::from(reward) / count);
            values.insert(format!("positive/{layer}"), positive as f64 / count);
            let sum = passes
                .into_iter()
                .map(|pass| pass.loss)
                .reduce(|sum, loss| sum + loss);
            sum.map(|sum| if cuts == 1 { sum } else { sum / cuts as f32 })
        };
        (0..self.agents.layers.len()).filter_map(of_layer).collect()
    }
}

/// # Errors
///
/// Where the device does not compute in such floats.
pub(crate) fn check_precision(precision: Precision, device: &Device) -> Result<(), TrainerError> {
    if precision.is_supported(device) {
        return Ok(());
    }
    let able = Precision::ALL.into_iter();
    let able = able.filter(|precision| precision.is_supported(device));
    let able: Vec<&str> = able.map(Precision::name).collect();
    Err(TrainerError::Field {
        field: "train.dtype".into(),
        found: precision.name().into(),
        expected: format!(
            "this device cannot compute in it; it can in {}",
            able.join(", ")
        ),
    })
}

/// The share of rows whose largest logit is the target's.
pub(crate) fn accuracy(logits: &Tensor<2>, targets: &[usize]) -> f64 {
    let predicted = predictions(logits);
    let correct = predicted
        .iter()
        .zip(targets)
        .filter(|(a, b)| a == b)
        .count();
    correct as f64 / targets.len() as f64
}

/// The class with the largest logit in each row.
pub(crate) fn predictions(logits: &Tensor<2>) -> Vec<usize> {
    let classes = logits.clone().argmax(1).into_data();
    classes.iter::<i64>().map(|class| class as usize).collect()
}

fn value(loss: &Tensor<1>) -> f64 {
    loss.to_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

impl TrainStep for PruningVit {
    type Input = Batch;
    type Output = Report;

    fn step(&self, batch: Batch) -> TrainOutput<Report> {
        let Some(session) = &self.session else {
            return TrainOutput {
                grads: GradientsParams::new(),
                item: Report::default(),
            };
        };
        let (settings, targets) = (&session.settings, &batch.targets);
        let mut values = BTreeMap::new();
        let (place, device) = (&batch.place, batch.images.device());
        let seed_dropout = |segment: u64| {
            let mut seed = vec![settings.seed, Purpose::Dropout as u64, place.number];
            // Other devices' parts of the batch, and blocks that are computed again, have their
            // own.
            if place.part.start > 0 || segment > 0 {
                seed.extend([place.part.start as u64, segment]);
            }
            device.seed(mix_seed(&seed));
        };
        let scale = session.loss_scale() * place.share() as f32 / settings.accumulation as f32;

        let agents = self.agents.valid();
        let mode = match settings.execution {
            _ if settings.is_dense(place.number) => ExecutionMode::Dense,
            Execution::Mask => ExecutionMode::Mask,
            Execution::Drop => ExecutionMode::Drop,
        };
        let seeds = |purpose: Purpose, more: u64| -> Vec<u64> {
            let of_image = |&index: &usize| {
                let (seed, number) = (settings.seed, place.number);
                match more {
                    0 => mix_seed(&[seed, purpose as u64, number, index as u64]),
                    more => mix_seed(&[seed, purpose as u64, number, index as u64, more]),
                }
            };
            batch.indices.iter().map(of_image).collect()
        };
        let learns =
            settings.policy.kind == PolicyKind::Agents && settings.agents_learn(place.number);
        let algorithm = &settings.algorithm;
        let probes = learns && algorithm.probes();
        // Where nothing is removed they learn of every token.
        let nothing = Amount::Scores { scores: Vec::new() };
        let (mode, amount) = match mode {
            ExecutionMode::Dense if probes => (ExecutionMode::Drop, &nothing),
            _ => (mode, settings.amount(place.number)),
        };
        let acting = settings.policy.reducer(
            &agents,
            &self.config,
            amount,
            &seeds(Purpose::Policy, 0),
            (settings.algorithm.exploration > 0.0).then_some(settings.algorithm.exploration as f32),
        );
        let probe = Probe::new(&*acting, settings.policy.merge, device.clone());
        let reducer: &dyn TokenReducer = match probes {
            true => &probe,
            false => &*acting,
        };
        let images = batch.images.clone();
        let (pruned, mut grads) = match settings.recompute {
            true => stream_1_recomputed(
                &self.vit,
                reducer,
                mode,
                images,
                targets,
                seed_dropout,
                scale,
            ),
            false if learns && algorithm.kind == AlgorithmKind::DynamicVit => {
                seed_dropout(0);
                let Amount::Kept { kept } = amount else {
                    unreachable!("DynamicViT counts tokens: the config is checked for that")
                };
                let seeds = seeds(Purpose::Policy, 0);
                let temperature = algorithm.temperature as f32;
                let (vit, agents) = (&self.vit, &self.agents);
                let pass = soft_pass(vit, agents, kept, images, targets, &seeds, temperature);
                values.insert("ratio_loss".into(), value(&pass.ratio_loss));
                let pass = PrunedPass {
                    logits: pass.logits,
                    loss: pass.loss + pass.ratio_loss,
                    trace: pass.trace,
                };
                (pass, GradientsParams::new())
            }
            false => {
                seed_dropout(0);
                let pass = stream_1(&self.vit, reducer, mode, images, targets);
                (pass, GradientsParams::new())
            }
        };
        values.insert("loss".into(), value(&pruned.loss));
        let logits = pruned.logits.clone().without_autodiff();
        values.insert("pruned_accuracy".into(), accuracy(&logits, targets));
        self.report_trace(&pruned.trace, targets.len(), &mut values);

        // What has to be differentiated yet: the model's own loss, unless that was done block by
        // block, and each agent's.
        let mut parts = match settings.recompute {
            true => Vec::new(),
            false => vec![pruned.loss.clone()],
        };
        let mut total = value(&pruned.loss);
        let vit = self.vit.valid();
        if settings.distill > 0.0 && mode != ExecutionMode::Dense {
            let images = batch.images.clone().without_autodiff();
            let teacher = vit.forward(images, RunSettings::DENSE).logits;
            values.insert("dense_accuracy".into(), accuracy(&teacher, targets));
            let loss = soft_cross_entropy(pruned.logits.clone(), teacher) * settings.distill;
            total += value(&loss);
            parts.push(loss);
        }
        let of_agents = match settings.algorithm.kind {
            _ if !learns => Vec::new(),
            // They are part of the model's own loss.
            AlgorithmKind::DynamicVit => Vec::new(),
            AlgorithmKind::Counterfactual if algorithm.first_order => {
                match probes && !session.has_failed() {
                    false => Vec::new(),
                    true => {
                        // Stream 1's backward pass comes first: the agents learn from it.
                        let loss = parts.drain(..).reduce(|sum, part| sum + part);
                        let gradients = loss.map(|loss| (loss * scale).backward());
                        gradients.map_or_else(Vec::new, |gradients| {
                            let rewards = probe.rewards(&gradients, scale);
                            for (decision, rewards) in &rewards {
                                let rows = decision.judged_rows();
                                let kept: Vec<f32> = rows.iter().map(|&row| rewards[row]).collect();
                                let (count, layer) = (kept.len().max(1) as f64, decision.layer);
                                let positive = kept.iter().filter(|&&reward| reward > 0.0).count();
                                let sum: f32 = kept.iter().sum();
                                values.insert(format!("reward/{layer}"), f64::from(sum) / count);
                                values.insert(format!("positive/{layer}"), positive as f64 / count);
                            }
                            let more = GradientsParams::from_grads(gradients, self);
                            merge(self, &mut grads, more);
                            let lesson = algorithm.lesson(settings.policy.uniform);
                            first_order::losses(&self.agents, &rewards, lesson)
                        })
                    }
                }
            }
            AlgorithmKind::Counterfactual => {
                let images = batch.images.clone().without_autodiff();
                let dense = stream_0(&vit, &self.config, &agents, images, targets);
                values.insert("dense_accuracy".into(), accuracy(&dense.logits, targets));
                self.learn_from_cuts(&vit, settings, &dense, targets, &seeds, &mut values)
            }
            AlgorithmKind::PolicyGradient | AlgorithmKind::Ppo => {
                let sampling = Sampling {
                    policy: &settings.policy,
                    amount,
                    temperature: settings.algorithm.temperature as f32,
                };
                let collect = || -> Vec<Sample> {
                    let tokens = vit.embed(batch.images.clone().without_autodiff());
                    let samples = (1..=algorithm.samples as u64).map(|number| {
                        let seeds = seeds(Purpose::Policy, number);
                        let (tokens, model) = (tokens.clone(), &self.config);
                        sample(&vit, model, &agents, sampling, tokens, targets, &seeds)
                    });
                    samples.collect()
                };
                let temperature = sampling.temperature;
                let (reward, losses) = match algorithm.kind {
                    AlgorithmKind::Ppo => {
                        let part = place.part.start;
                        let (rollout, times) = session.rollout(part).unwrap_or_else(|| {
                            (
                                Rollout::new(&agents, collect(), temperature),
                                algorithm.epochs,
                            )
                        });
                        let losses = rollout.losses(&self.agents, temperature);
                        let reward = rollout.mean_reward();
                        session.keep_rollout(part, rollout, times - 1);
                        (reward, losses)
                    }
                    _ => {
                        let samples = collect();
                        let advantages = advantages(&samples);
                        let rewards = samples.iter().flat_map(|sample| &sample.rewards);
                        let sum: f64 = rewards.map(|&reward| f64::from(reward)).sum();
                        let reward = sum / (samples.len() * targets.len()) as f64;
                        (
                            reward,
                            losses(&self.agents, &samples, &advantages, temperature),
                        )
                    }
                };
                for layer in &self.agents.layers {
                    values.insert(format!("reward/{layer}"), reward);
                }
                losses
            }
        };
        for (loss, layer) in of_agents.iter().zip(&self.agents.layers) {
            let agent_loss = value(loss);
            values.insert(format!("agent_loss/{layer}"), agent_loss);
            total += agent_loss;
        }
        let weight = algorithm.weight as f32;
        parts.extend(of_agents.into_iter().map(|loss| match weight {
            1.0 => loss,
            weight => loss * weight,
        }));
        session.check_loss(total, place.number);
        let loss = parts.into_iter().reduce(|sum, loss| sum + loss);
        if session.has_failed() {
            grads = GradientsParams::new();
        } else if let Some(loss) = loss {
            let more = GradientsParams::from_grads((loss * scale).backward(), self);
            merge(self, &mut grads, more);
        }
        values.insert("gradient_norm".into(), session.gradient_norm());
        if let Some(peak) = peak_memory() {
            values.insert("peak_memory_mib".into(), peak as f64 / f64::from(1 << 20));
        }
        values.insert("images_per_s".into(), session.images_per_s());
        TrainOutput {
            grads,
            item: Report::new(targets.len(), values),
        }
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        lr_module: ModuleLearningRate,
        mut grads: GradientsParams,
    ) -> Self {
        let Some(session) = self.session.clone().filter(|session| !session.has_failed()) else {
            return self;
        };
        let (clip, scale) = (session.settings.clip_norm, session.loss_scale());
        let (model, norm) = clip_global_norm(self, &mut grads, clip, scale);
        session.set_gradient_norm(norm);
        if !session.accept(norm) {
            if !session.has_failed() {
                session.finish_step(&model, optim);
            }
            return model;
        }
        let (rate, settings) = (lr_module.base(), &session.settings);
        let heads = (&model.vit.head, &model.vit.distillation_head);
        let of_head = split_off(heads.0, &mut grads);
        let of_second_head = split_off(heads.1, &mut grads);
        let of_agents = split_off(&model.agents, &mut grads);
        let model = optim.step(rate, model, grads);
        let model = optim.step(rate * settings.head_factor, model, of_head);
        let model = optim.step(rate * settings.head_factor, model, of_second_head);
        let model = optim.step(rate * settings.agents_factor, model, of_agents);
        session.finish_step(&model, optim);
        model
    }
}

impl InferenceStep for PruningVit {
    type Input = Batch;
    type Output = Report;

    /// Held-out images, dense and pruned.
    fn step(&self, batch: Batch) -> Report {
        let targets = &batch.targets;
        let Some(session) = &self.session else {
            return Report::default();
        };
        let amount = session.settings.usual_amount();
        let seeds: Vec<u64> = batch.indices.iter().map(|&index| index as u64).collect();
        let mut values = BTreeMap::new();
        let dense = self.run(batch.images.clone(), ExecutionMode::Dense, amount, &seeds);
        values.insert("dense_accuracy".into(), accuracy(&dense.logits, targets));
        let pruned = self.run(batch.images, ExecutionMode::Drop, amount, &seeds);
        values.insert("pruned_accuracy".into(), accuracy(&pruned.logits, targets));
        self.report_trace(&pruned.trace, targets.len(), &mut values);
        values.insert("loss".into(), value(&cross_entropy(pruned.logits, targets)));
        Report::new(targets.len(), values)
    }
}
