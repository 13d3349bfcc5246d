//! Decisions on the device are those of the host, and so is what becomes of the tokens.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../../vit-model/tests/common/mod.rs"]
mod common;

use apt_pruning_agent::{
    AptSettings, KeepRate, Pairs, PairsSettings, Policy, PolicyConfig, PolicySettings, Selection,
    policies,
};
use apt_vit_model::{
    Distillation, ExecutionMode, RunSettings, TokenReducer, Vit, VitConfig, VitOutput, VitPreset,
};
use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

struct Setting {
    config: VitConfig,
    vit: Vit,
    images: Tensor<4>,
    device: Device,
}

impl Setting {
    fn new(distillation: Option<Distillation>) -> Self {
        let device = common::device();
        device.seed(7);
        let config = VitConfig {
            distillation,
            ..VitPreset::Tiny32.config()
        };
        let vit = config.init(&device).unwrap();
        let normal = Distribution::Normal(0.0, 1.0);
        // The head starts at zero.
        let vit = vit.map_head(|weight| weight.random_like(normal));
        let images = Tensor::random([5, 3, 32, 32], normal, &device);
        Self {
            config,
            vit,
            images,
            device,
        }
    }

    /// Pairs start with ToMe's preference and nothing else; these have another one.
    fn pairs(&self) -> Pairs {
        let mut pairs = PairsSettings::default()
            .init(&self.config, &self.device)
            .unwrap();
        for agent in &mut pairs.agents {
            let normal = Distribution::Normal(0.0, 1.0);
            let [width, _] = agent.output.dims();
            agent.output = Param::from_tensor(Tensor::random([width, 1], normal, &self.device));
        }
        pairs
    }

    /// Block after block, decisions on the host.
    fn on_the_host(&self, settings: RunSettings<'_>) -> VitOutput {
        let batch = self.vit.embed(self.images.clone());
        let encoded = self
            .vit
            .run_blocks(batch, 0..self.config.num_layers, settings);
        self.vit.answer(encoded)
    }

    fn check(&self, name: &str, reducer: &dyn TokenReducer) {
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(reducer),
        };
        let host = self.on_the_host(settings);
        let device = self
            .vit
            .forward_uniformly(self.images.clone(), settings)
            .unwrap();
        assert!(!host.trace.is_empty(), "{name}");
        assert_eq!(host.trace.len(), device.trace.len(), "{name}");
        for (host, device) in host.trace.iter().zip(&device.trace) {
            let layer = host.layer;
            assert_eq!(host.layer, device.layer, "{name}");
            assert_eq!(host.placement, device.placement, "{name}, block {layer}");
            assert_eq!(host.seen, device.seen, "{name}, block {layer}");
            assert_eq!(host.left, device.left, "{name}, block {layer}");
            assert_eq!(
                host.kept.read(),
                device.kept.read(),
                "{name}, block {layer}"
            );
        }
        let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-4);
        device
            .logits
            .into_data()
            .assert_approx_eq(&host.logits.into_data(), tolerance);
    }

    fn check_policy(&self, name: &str, policy: &dyn Policy) {
        for share in [0.85, 0.6, 0.45] {
            let kept = policy.kept_for(&self.config, share).unwrap();
            let reducer = policy.reducer(&Selection::Kept { kept }, &[0; 5]);
            self.check(&format!("{name} at {share}"), &*reducer);
        }
    }
}

#[test]
fn every_policy_that_decides_on_the_device_decides_as_on_the_host() {
    for distillation in [None, Some(Distillation::TokenAndHead)] {
        let setting = Setting::new(distillation);
        let mut checked = Vec::new();
        for entry in policies() {
            let policy = PolicyConfig::named(entry.name).unwrap();
            let policy = policy.init(&setting.config, &setting.device).unwrap();
            let kept = vec![20; policy.blocks().len()];
            let reducer = policy.reducer(&Selection::Kept { kept }, &[0; 5]);
            if reducer.uniform().is_some() && !policy.blocks().is_empty() {
                setting.check_policy(entry.name, &*policy);
                checked.push(entry.name);
            }
        }
        for name in ["pairs", "tome", "apt", "evit", "cls-attention"] {
            assert!(checked.contains(&name), "{name}");
        }
    }
    let setting = Setting::new(None);
    setting.check_policy("learned pairs", &setting.pairs());
}

#[test]
fn a_single_token_that_goes_is_weighed_alike_on_host_and_device() {
    let setting = Setting::new(None);
    let patches = setting.config.num_patches();
    let settings = [("layers".to_string(), serde_json::json!([1]))];
    let evit = PolicyConfig::with_settings("evit", settings.into_iter().collect()).unwrap();
    let evit = evit.init(&setting.config, &setting.device).unwrap();
    let kept = vec![patches - 1];
    let reducer = evit.reducer(&Selection::Kept { kept }, &[]);
    setting.check("evit, one goes", &*reducer);
}

#[test]
fn equal_counts_decide_on_the_device_and_others_on_the_host() {
    let setting = Setting::new(None);
    let apt = AptSettings::default();
    let apt = apt.init(&setting.config, &setting.device).unwrap();
    let rates = [0.7, 0.5, 0.9].map(|rate| KeepRate::new(rate).unwrap());
    let patches = setting.config.num_patches();
    let equal = apt.reducer(&Selection::at_rates(patches, &rates), &[]);
    setting.check("equal counts", &*equal);
    for other in [
        Selection::ragged(patches, 5, &rates),
        Selection::Threshold { threshold: 0.5 },
        Selection::LeastScores { scores: vec![0.0] },
    ] {
        assert!(apt.reducer(&other, &[]).uniform().is_none());
    }
}

#[test]
fn dense_and_uniform_passes_are_the_same_without_a_reducer() {
    let setting = Setting::new(Some(Distillation::TokenAndHead));
    let whole = setting
        .vit
        .forward_uniformly(setting.images.clone(), RunSettings::DENSE)
        .unwrap();
    let host = setting.on_the_host(RunSettings::DENSE);
    let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-5);
    whole
        .logits
        .into_data()
        .assert_approx_eq(&host.logits.into_data(), tolerance);
    assert!(whole.trace.is_empty());
}
