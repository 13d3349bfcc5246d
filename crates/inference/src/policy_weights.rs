//! A policy's weights as safetensors, in PyTorch's layout.

use apt_pruning_agent::AnyPolicy;
use burn_store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};

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
/// Where a tensor is missing, unexpected, or of another shape.
pub fn load_policy(mut policy: AnyPolicy, bytes: Vec<u8>) -> Result<AnyPolicy, String> {
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
