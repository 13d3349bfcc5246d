//! A pruned pass with uniform counts does not cross between host and device.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{KeepRate, PolicyConfig, Selection, policies};
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
    let policy = |name: &str| {
        let policy = PolicyConfig::named(name).unwrap();
        policy.init(&config, &device).unwrap()
    };
    let mut counted = 0;
    for entry in policies() {
        let policy = policy(entry.name);
        let kept = policy.kept_for(&config, 0.6).unwrap_or_default();
        let reducer = policy.reducer(&Selection::Kept { kept }, &[0; 3]);
        if reducer.uniform().is_some() {
            let waited = count(ExecutionMode::Drop, Some(&*reducer));
            assert_eq!(waited, 0, "{}", entry.name);
            counted += 1;
        }
    }
    assert!(counted >= 5);
    let apt = policy("apt");
    let rates = [KeepRate::new(0.7).unwrap(); 3];
    let ragged = Selection::ragged(config.num_patches(), 3, &rates);
    let ragged = apt.reducer(&ragged, &[]);
    assert!(count(ExecutionMode::Drop, Some(&*ragged)) >= 3);
}
