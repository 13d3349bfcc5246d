//! A policy's weights as safetensors, in PyTorch's layout.

use std::collections::BTreeMap;

use apt_pruning_agent::AnyPolicy;
use burn_store::{
    BurnToPyTorchAdapter, ModuleSnapshot, ModuleStore, PyTorchToBurnAdapter, SafetensorsStore,
};
use serde_json::Value;

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
    sorted_header(&bytes).map(Some)
}

/// The same safetensors with the keys of their header in order, which are written in any: the same weights give the same
/// bytes.
fn sorted_header(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let cut = || "a header that was cut short".to_string();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (header, tensors) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    Ok([&length[..], &header, tensors].concat())
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
        .validate(true)
        .allow_partial(true);
    let result = policy
        .load_from(&mut store)
        .map_err(|error| error.to_string())?;
    let missing = result.missing.iter().map(|(name, _)| name.as_str());
    let unused = result.unused.iter().map(String::as_str);
    let wrong = [
        counted(missing, "missing"),
        counted(unused, "not the policy's"),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    if wrong.is_empty() {
        Ok(policy)
    } else {
        Err(format!("does not fit the policy: {}", wrong.join("; ")))
    }
}

/// How many tensors these are, and the first one; `None` if there are none.
fn counted<'a>(mut names: impl ExactSizeIterator<Item = &'a str>, what: &str) -> Option<String> {
    let count = names.len();
    let first = names.next()?;
    Some(format!(
        "{count} tensors are {what}, the first is '{first}'"
    ))
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

    #[test]
    fn weights_of_another_policy_are_refused_in_one_line() {
        let config = VitPreset::Tiny32.config();
        let policy = |name: &str| {
            let policy = PolicyConfig::named(name).unwrap();
            policy.init(&config, &Device::default()).unwrap()
        };
        let bytes = policy_tensors(&policy("apt")).unwrap().unwrap();
        let reason = load_policy(policy("pairs"), bytes).unwrap_err();
        assert_eq!(reason.lines().count(), 1, "{reason}");
        assert!(
            reason.contains("are missing, the first is '")
                && reason.contains("not the policy's, the first is '"),
            "{reason}"
        );
    }

    #[test]
    fn the_same_weights_give_the_same_bytes() {
        let config = VitPreset::Tiny32.config();
        for name in ["apt", "pairs"] {
            let policy = PolicyConfig::named(name).unwrap();
            let policy = policy.init(&config, &Device::default()).unwrap();
            let first = policy_tensors(&policy).unwrap().unwrap();
            for _ in 0..16 {
                let again = policy_tensors(&policy).unwrap().unwrap();
                assert!(first == again, "{name}: other bytes");
            }
            load_policy(policy, first).unwrap();
        }
    }

    #[test]
    fn a_header_in_any_order_becomes_the_same_one() {
        let file = |header: &str| {
            let length = (header.len() as u64).to_le_bytes();
            [&length[..], header.as_bytes(), &[1, 2, 3, 4]].concat()
        };
        let tensor = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let one = format!(r#"{{"__metadata__":{{"x":"1","y":"2"}},{tensor}}}"#);
        let other = format!(r#"{{{tensor},"__metadata__":{{"y":"2","x":"1"}}}}"#);
        let sorted = sorted_header(&file(&one)).unwrap();
        assert_eq!(sorted, sorted_header(&file(&other)).unwrap());
        assert!(sorted.ends_with(&[1, 2, 3, 4]) && (sorted.len() - 4).is_multiple_of(8));
        assert!(sorted_header(&file(&one)[..20]).is_err());
    }
}
