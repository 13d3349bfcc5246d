//! A policy's weights as safetensors, in PyTorch's layout.

use apt_pruning_agent::AnyPolicy;
use burn_store::{
    BurnToPyTorchAdapter, ModuleSnapshot, ModuleStore, PyTorchToBurnAdapter, SafetensorsStore,
};

use crate::finite::all_finite;

/// The weights, named by their place in the policy (`agents.0.query.weight`), linear layers as `[outputs, inputs]`; none
/// where it has no weights.
///
/// # Errors
///
/// Where a tensor cannot be read from its device.
pub fn policy_tensors(policy: &AnyPolicy) -> Result<Option<Vec<u8>>, String> {
    if burn::module::Module::num_params(policy) == 0 {
        return Ok(None);
    }
    let mut store = SafetensorsStore::from_bytes(None).with_to_adapter(BurnToPyTorchAdapter);
    policy
        .save_into(&mut store)
        .map_err(|error| error.to_string())?;
    let bytes = store.get_bytes().map_err(|error| error.to_string())?;
    Ok(Some(bytes))
}

/// Loads the weights into a policy of the same kind and sizes.
///
/// # Errors
///
/// Where a tensor is missing, unexpected, of another shape, or holds what is no number.
pub fn load_policy(mut policy: AnyPolicy, bytes: Vec<u8>) -> Result<AnyPolicy, String> {
    let mut plain = SafetensorsStore::from_bytes(Some(bytes.clone()));
    let tensors = plain.get_all_tensors().map_err(|error| error.to_string())?;
    all_finite(tensors.values())?;
    let mut store = SafetensorsStore::from_bytes(Some(bytes))
        .with_from_adapter(PyTorchToBurnAdapter)
        .validate(true);
    let result = policy
        .load_from(&mut store)
        .map_err(|error| error.to_string())?;
    if !result.missing.is_empty() || !result.unused.is_empty() {
        return Err(format!(
            "missing tensors {:?}, tensors that the policy does not have {:?}",
            result.missing, result.unused
        ));
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_pruning_agent::PolicyConfig;
    use apt_vit_model::VitPreset;
    use burn::tensor::Device;

    #[test]
    fn weights_that_are_no_numbers_are_refused_by_the_tensors_name() {
        let config = VitPreset::Tiny32.config();
        let policy = PolicyConfig::named("pairs").unwrap();
        let policy = policy.init(&config, &Device::default()).unwrap();
        let mut bytes = policy_tensors(&policy).unwrap().unwrap();
        load_policy(policy.clone(), bytes.clone()).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        let reason = load_policy(policy, bytes).unwrap_err();
        assert!(
            reason.contains("tensor '") && reason.contains("NaN"),
            "{reason}"
        );
    }
}
