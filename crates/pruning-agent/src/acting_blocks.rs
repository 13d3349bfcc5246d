//! In which blocks a policy acts.

use apt_vit_model::VitConfig;

use crate::AgentError;

/// The published blocks (0-based).
const PUBLISHED: [usize; 3] = [2, 5, 8];

/// The blocks that a setting names; without one, the published ones, or a quarter, a half and three quarters through a
/// model that is not so deep.
///
/// # Errors
///
/// As [`check_blocks`].
pub fn acting_blocks(
    setting: Option<&Vec<usize>>,
    model: &VitConfig,
) -> Result<Vec<usize>, AgentError> {
    let num_layers = model.num_layers;
    let Some(layers) = setting else {
        return Ok(usual_blocks(num_layers));
    };
    check_blocks(layers, num_layers)?;
    Ok(layers.clone())
}

/// Are these blocks that a policy can act in, of a model of so many?
///
/// # Errors
///
/// Where there are none, they do not ascend, or the model has not so many.
pub fn check_blocks(layers: &[usize], num_layers: usize) -> Result<(), AgentError> {
    let ascending = layers.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || layers.last().is_none_or(|&last| last >= num_layers) {
        return Err(AgentError::Layers {
            layers: layers.to_vec(),
            num_layers,
        });
    }
    Ok(())
}

/// Every block but the last, after which no token is seen.
pub fn all_but_the_last(model: &VitConfig) -> Vec<usize> {
    (0..model.num_layers.saturating_sub(1)).collect()
}

fn usual_blocks(num_layers: usize) -> Vec<usize> {
    if PUBLISHED.iter().all(|&layer| layer + 1 < num_layers) {
        return PUBLISHED.to_vec();
    }
    let mut layers: Vec<usize> = (1..=3)
        .map(|quarter| (num_layers * quarter / 4).saturating_sub(1))
        .collect();
    layers.dedup();
    layers
}

/// What is kept in the blocks in which anything goes: block, and patches that stay. `extra` tokens beside the kept patches
/// are patches for the next block.
pub(crate) fn fewer_in(
    blocks: &[usize],
    kept: &[usize],
    patches: usize,
    extra: usize,
) -> Vec<(usize, usize)> {
    let mut before = patches;
    let layers = blocks.iter().zip(kept).filter_map(|(&layer, &kept)| {
        let goes = kept < before;
        if goes {
            before = kept + extra;
        }
        goes.then_some((layer, kept))
    });
    layers.collect()
}

/// What is said of a block, if anything is.
pub(crate) fn of_layer<T: Copy>(layers: &[(usize, T)], layer: usize) -> Option<T> {
    let mut layers = layers.iter();
    layers
        .find(|(acting, _)| *acting == layer)
        .map(|&(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::VitPreset;

    #[test]
    fn agents_act_within_any_model() {
        assert_eq!(usual_blocks(12), [2, 5, 8]);
        assert_eq!(usual_blocks(8), [1, 3, 5]);
        assert_eq!(usual_blocks(6), [0, 2, 3]);
        assert_eq!(usual_blocks(2), [0]);
        for blocks in 2..30 {
            let layers = usual_blocks(blocks);
            assert!(layers.is_sorted_by(|a, b| a < b), "{layers:?}");
            assert!(layers.iter().all(|&layer| layer + 1 < blocks));
        }
    }

    #[test]
    fn blocks_that_the_model_lacks_are_refused() {
        let model = VitPreset::Tiny32.config();
        for wrong in [
            vec![2, 5, 8],
            vec![3, 1],
            vec![1, 1],
            vec![],
            vec![usize::MAX],
        ] {
            let error = acting_blocks(Some(&wrong), &model).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("6 blocks"), "{message}");
            assert!(
                message.starts_with(&format!("policy.layers = {wrong:?}: must be ascending")),
                "{message}"
            );
        }
    }
}
