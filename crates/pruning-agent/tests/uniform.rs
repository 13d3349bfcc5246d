//! Decisions on the device are those of the host, and so is what becomes of the tokens.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../../vit-model/tests/common/mod.rs"]
mod common;

use apt_pruning_agent::{
    AgentNetwork, Amount, EvitReducer, KeepRate, KeptCounts, Merging, PolicyConfig, PolicyKind,
    PruningAgents, PruningAgentsConfig, RankedReducer,
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
        let mut vit = config.init(&device).unwrap();
        let normal = Distribution::Normal(0.0, 1.0);
        // The head starts at zero.
        vit.head.weight = vit.head.weight.map(|weight| weight.random_like(normal));
        let images = Tensor::random([5, 3, 32, 32], normal, &device);
        Self {
            config,
            vit,
            images,
            device,
        }
    }

    fn agents(&self, network: AgentNetwork) -> PruningAgents {
        let config = PruningAgentsConfig {
            layers: vec![0, 2, 3],
            network,
            ..Default::default()
        };
        let (hidden, layers) = (self.config.hidden_size, self.config.num_layers);
        let mut agents = config.init(hidden, layers, &self.device).unwrap();
        for pair in &mut agents.pairs {
            // They start with ToMe's preference and nothing else.
            let normal = Distribution::Normal(0.0, 1.0);
            let [width, _] = pair.output.dims();
            pair.output = Param::from_tensor(Tensor::random([width, 1], normal, &self.device));
        }
        agents
    }

    /// Block after block, decisions on the host.
    fn on_the_host(&self, settings: RunSettings<'_>) -> VitOutput {
        let batch = self.vit.embed(self.images.clone());
        let encoded = self
            .vit
            .run_blocks(batch, 0..self.config.num_layers, settings);
        VitOutput {
            logits: self.vit.classify(&encoded.batch),
            trace: encoded.trace,
        }
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

    fn check_policy(&self, name: &str, policy: PolicyConfig, agents: &PruningAgents) {
        for share in [0.85, 0.6, 0.45] {
            let kept = policy.kept_for(agents, &self.config, share).unwrap();
            let amount = Amount::Kept { kept };
            let reducer = policy.reducer(agents, &self.config, &amount, &[0; 5], None);
            self.check(&format!("{name} at {share}"), &*reducer);
        }
    }
}

#[test]
fn heuristics_decide_alike_on_host_and_device() {
    for distillation in [None, Some(Distillation::TokenAndHead)] {
        let setting = Setting::new(distillation);
        let agents = setting.agents(AgentNetwork::Interaction);
        for kind in [PolicyKind::Tome, PolicyKind::Evit, PolicyKind::ClsAttention] {
            let policy = PolicyConfig {
                kind,
                ..Default::default()
            };
            setting.check_policy(&format!("{kind:?}"), policy, &agents);
        }
    }
}

#[test]
fn a_single_token_that_goes_is_weighed_alike_on_host_and_device() {
    let setting = Setting::new(None);
    let patches = setting.config.num_patches();
    let all_but_one = KeepRate::new((patches - 1) as f64 / patches as f64).unwrap();
    let layers = vec![(1, all_but_one)];
    setting.check("evit, one goes", &EvitReducer { layers });
}

#[test]
fn agents_decide_alike_on_host_and_device() {
    let setting = Setting::new(None);
    for (network, merge) in [
        (AgentNetwork::Interaction, Merging::Lost),
        (AgentNetwork::Pair, Merging::Matched),
    ] {
        let policy = PolicyConfig {
            merge,
            uniform: true,
            ..Default::default()
        };
        setting.check_policy(&format!("{network:?}"), policy, &setting.agents(network));
    }
}

#[test]
fn equal_counts_decide_on_the_device_and_others_on_the_host() {
    let setting = Setting::new(None);
    let agents = setting.agents(AgentNetwork::Interaction);
    let rates = [0.7, 0.5, 0.9].map(|rate| KeepRate::new(rate).unwrap());
    let patches = setting.config.num_patches();
    let equal = RankedReducer {
        agents: &agents,
        kept: KeptCounts::uniform(patches, 5, &rates),
    };
    setting.check("ranked", &equal);
    let ragged = RankedReducer {
        agents: &agents,
        kept: KeptCounts::ragged(patches, 5, &rates),
    };
    assert!(ragged.uniform().is_none());
    assert!(agents.acting(0.5).uniform().is_none());
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
