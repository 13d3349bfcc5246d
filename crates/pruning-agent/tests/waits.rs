//! A pruned pass with uniform counts does not cross between host and device.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{
    AgentNetwork, Amount, KeepRate, KeptCounts, Merging, PolicyConfig, PolicyKind,
    PruningAgentsConfig, RankedReducer,
};
use apt_vit_model::host::waits;
use apt_vit_model::{ExecutionMode, RunSettings, TokenReducer, VitPreset};
use burn::tensor::{Device, Distribution, Tensor};

/// One test, since the count is the process' own.
#[test]
fn uniform_passes_wait_for_nothing_and_ragged_ones_once_a_decision() {
    let device = Device::default();
    let config = VitPreset::Tiny32.config();
    let vit = config.init(&device).unwrap().prepack();
    let images = Tensor::random([3, 3, 32, 32], Distribution::Default, &device);
    let agents = |network| {
        let agents = PruningAgentsConfig {
            layers: vec![0, 2, 3],
            network,
            ..Default::default()
        };
        agents
            .init(config.hidden_size, config.num_layers, &device)
            .unwrap()
    };
    let (apt, pairs) = (
        agents(AgentNetwork::Interaction),
        agents(AgentNetwork::Pair),
    );
    let count = |mode, reducer: Option<&dyn TokenReducer>| {
        let before = waits();
        let settings = RunSettings { mode, reducer };
        let output = match reducer.map_or(Some(()), |reducer| reducer.uniform().map(|_| ())) {
            Some(()) => vit.forward_uniformly(images.clone(), settings).unwrap(),
            None => vit.forward(images.clone(), settings),
        };
        let during = waits() - before;
        output.logits.into_data();
        during
    };
    assert_eq!(count(ExecutionMode::Dense, None), 0);
    for (kind, merge, agents) in [
        (PolicyKind::Tome, Merging::Lost, &apt),
        (PolicyKind::Evit, Merging::Lost, &apt),
        (PolicyKind::ClsAttention, Merging::Lost, &apt),
        (PolicyKind::Agents, Merging::Lost, &apt),
        (PolicyKind::Agents, Merging::Matched, &pairs),
    ] {
        let policy = PolicyConfig {
            kind,
            merge,
            ..Default::default()
        };
        let kept = policy.kept_for(agents, &config, 0.6).unwrap();
        let amount = Amount::Kept { kept };
        let reducer = policy.reducer(agents, &config, &amount, &[0; 3], None);
        let waited = count(ExecutionMode::Drop, Some(&*reducer));
        assert_eq!(waited, 0, "{kind:?}, {merge:?}");
    }
    let rates = [KeepRate::new(0.7).unwrap(); 3];
    let ragged = RankedReducer {
        agents: &apt,
        kept: KeptCounts::ragged(config.num_patches(), 3, &rates),
    };
    assert!(count(ExecutionMode::Drop, Some(&ragged)) >= 3);
}
