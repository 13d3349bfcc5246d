use serde::Serialize;

/// What a model says of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The most probable classes, the first one first.
    pub classes: Vec<ClassProbability>,
    /// What a model without classes answers with; empty of others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<f32>,
    /// Tokens of an image before anything is removed, CLS counted.
    pub tokens: usize,
    /// What each block in which the policy acted left.
    pub layers: Vec<LayerAnswer>,
    /// Counted FLOPs, the policy's own included.
    pub flops: u64,
    /// Their share of the dense model's.
    pub flops_share: f64,
}

/// A class and how probable it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassProbability {
    /// Its name.
    pub class: String,
    /// Its place among the logits.
    #[serde(skip)]
    pub index: usize,
    /// From 0 to 1.
    pub probability: f32,
}

/// What one block left of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerAnswer {
    /// The block (0-based).
    pub layer: usize,
    /// Tokens that are left after it, CLS counted; none where the image is answered here.
    pub tokens: usize,
    /// Removed tokens that CLS goes on reading.
    #[serde(skip_serializing_if = "is_zero")]
    pub parked: usize,
    /// Does the image start over here, and go through all blocks with nothing removed?
    #[serde(skip_serializing_if = "is_false")]
    pub restarted: bool,
    /// FLOPs of a pass from which nothing more goes after this block, as a share of the dense model's.
    #[serde(skip)]
    pub flops_share: f64,
    /// Per patch, row by row: is it still there by itself?
    #[serde(skip)]
    pub kept: Vec<bool>,
    /// Per patch, row by row: the patch at whose place the token stands that it is part of. Its own where it is kept,
    /// another's where it merged into that one, none where it is gone. A device that decides by itself does not say
    /// what merged: there, merged patches are gone, too.
    #[serde(skip)]
    pub token: Vec<Option<usize>>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl LayerAnswer {
    /// Does the image's way end here? It is answered, or it starts over. Its patches are then those that the block saw.
    pub fn is_answer(&self) -> bool {
        self.tokens == 0
    }
}

/// What a pass removed of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduced {
    /// What each block in which the policy acted left.
    pub layers: Vec<LayerAnswer>,
    /// Counted FLOPs, the policy's own included.
    pub flops: u64,
    /// Their share of the dense model's.
    pub flops_share: f64,
}

/// The softmax of one image's logits.
pub fn probabilities(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = logits.iter().map(|logit| f64::from(logit - largest).exp());
    let powers: Vec<f64> = powers.collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

/// The token that each position of an image is part of, block by block.
#[derive(Clone, Debug)]
pub(crate) struct TokenOf(Vec<Option<usize>>);

impl TokenOf {
    /// So many positions, each a token of its own.
    pub fn whole(positions: usize) -> Self {
        Self((0..positions).map(Some).collect())
    }

    /// After a block in which these positions went into those, and that left the positions that are `kept`.
    pub fn follow(&mut self, merged: &[(usize, usize)], kept: &[bool]) {
        let mut target: Vec<usize> = (0..kept.len()).collect();
        for &(from, into) in merged {
            target[from] = into;
        }
        for token in &mut self.0 {
            *token = token.map(|at| target[at]).filter(|&at| kept[at]);
        }
        // What was parked may come back, as a token of its own.
        let back = self.0.iter_mut().enumerate().zip(kept);
        let back = back.filter(|((position, _), kept)| **kept && target[*position] == *position);
        for ((position, token), _) in back {
            *token = Some(position);
        }
    }

    /// The same of patches alone, which stand behind `prefix` other tokens.
    pub fn of_patches(&self, prefix: usize) -> Vec<Option<usize>> {
        let patches = self.0[prefix..].iter();
        patches
            .map(|token| token.and_then(|at| at.checked_sub(prefix)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_large_logits_add_up_to_one() {
        let found = probabilities(&[1000.0, 1000.0, 998.0]);
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((found[0] / found[2] - 2f32.exp()).abs() < 1e-3);
    }

    #[test]
    fn a_patch_follows_the_token_that_it_merged_into() {
        let mut token = TokenOf::whole(6);
        // CLS, then patches 0 to 4: 1 into 0, 3 into 2.
        token.follow(&[(2, 1), (4, 3)], &[true, true, false, true, false, true]);
        let first = [Some(0), Some(0), Some(2), Some(2), Some(4)];
        assert_eq!(token.of_patches(1), first);
        // Then what 0 and 1 became goes into 2's token.
        token.follow(&[(1, 3)], &[true, false, false, true, false, true]);
        let second = [Some(2), Some(2), Some(2), Some(2), Some(4)];
        assert_eq!(token.of_patches(1), second);
        // Then that token is dropped, and all of its patches go with it.
        token.follow(&[], &[true, false, false, false, false, true]);
        assert_eq!(token.of_patches(1), [None, None, None, None, Some(4)]);
        // And one comes back.
        token.follow(&[], &[true, false, true, false, false, true]);
        assert_eq!(token.of_patches(1), [None, Some(1), None, None, Some(4)]);
    }
}
