//! How many patches to keep for a share of the FLOPs, by the counted FLOPs of model and policy.

use apt_vit_model::{FlopsCount, Kept, LayerTrace, VitConfig, vit_flops};

use crate::{AgentError, Policy};

/// Steps in which a rate or a total is searched.
const STEPS: usize = 1000;

/// In every block of the policy, the same share of what was left before stays.
///
/// # Errors
///
/// Where the policy cannot compute so little or so much.
pub fn kept_at_equal_rates<P: Policy + ?Sized>(
    policy: &P,
    model: &VitConfig,
    share: f64,
) -> Result<Vec<usize>, AgentError> {
    let (patches, blocks) = (model.num_patches(), policy.blocks().len());
    let search = Search {
        policy,
        model,
        share,
        least: vec![1; blocks],
        may_go: |before| before,
    };
    search.run(|step| rates(patches, step as f64 / STEPS as f64, blocks))
}

/// In every block of the policy, the same number of patches merges, but no more than half of those that are left
/// (Bolya et al., "Token Merging: Your ViT But Faster", 2023, section 3).
///
/// # Errors
///
/// Where the policy cannot compute so little or so much.
pub fn kept_at_equal_counts<P: Policy + ?Sized>(
    policy: &P,
    model: &VitConfig,
    share: f64,
) -> Result<Vec<usize>, AgentError> {
    let (patches, blocks) = (model.num_patches(), policy.blocks().len());
    // So many go in all, at most: half of them in each block.
    let most = patches as f64 / 2.0 * blocks as f64;
    let search = Search {
        policy,
        model,
        share,
        least: counts(patches, most, blocks),
        may_go: |before| before / 2,
    };
    search.run(|step| counts(patches, most * (STEPS - step) as f64 / STEPS as f64, blocks))
}

/// A search for the counts that compute the most within a share of the FLOPs.
struct Search<'a, P: ?Sized> {
    policy: &'a P,
    model: &'a VitConfig,
    share: f64,
    /// The fewest that can be kept.
    least: Vec<usize>,
    /// Of so many patches, how many may go in one block?
    may_go: fn(usize) -> usize,
}

impl<P: Policy + ?Sized> Search<'_, P> {
    /// `counts` says what is kept at each of the steps, from the fewest to all.
    fn run(self, counts: impl Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, AgentError> {
        let all = vec![self.model.num_patches(); self.policy.blocks().len()];
        let possible = self.share > 0.0 && self.share <= 1.0;
        if !possible || !self.fits(&self.least) || (self.share < 1.0 && self.fits(&all)) {
            return Err(AgentError::Share {
                share: self.share,
                least: counted_share(self.policy, self.model, &self.least),
                most: counted_share(self.policy, self.model, &all),
            });
        }
        let mut best = self.least.clone();
        for step in 1..=STEPS {
            let kept = counts(step);
            if self.fits(&kept) {
                best = kept;
            }
        }
        // The last blocks get what rounding left over: a token costs least there.
        for block in (0..best.len()).rev() {
            loop {
                best[block] += 1;
                if !self.can_be(&best) || !self.fits(&best) {
                    best[block] -= 1;
                    break;
                }
            }
        }
        Ok(best)
    }

    fn fits(&self, kept: &[usize]) -> bool {
        counted_share(self.policy, self.model, kept) <= self.share + 1e-9
    }

    fn can_be(&self, kept: &[usize]) -> bool {
        let patches = self.model.num_patches();
        let before = std::iter::once(&patches).chain(kept);
        let mut pairs = before.zip(kept);
        pairs.all(|(&before, &kept)| kept <= before && kept >= before - (self.may_go)(before))
    }
}

/// The FLOPs of one image with so many patches kept after each of the policy's blocks: the model's, and the policy's own.
pub fn counted_flops<P: Policy + ?Sized>(
    policy: &P,
    model: &VitConfig,
    kept: &[usize],
) -> [FlopsCount; 2] {
    let mut seen = model.num_tokens();
    let mut own = 0;
    let mut parked = 0;
    let blocks = policy.blocks().iter().zip(kept);
    let entries = blocks.map(|(&layer, &kept)| {
        let left = policy.left(model, seen, kept);
        own += own_flops(policy, layer, model, seen, left);
        parked += seen - left;
        let entry = LayerTrace {
            layer,
            placement: policy.placement(),
            seen: vec![seen],
            left: vec![left],
            kept: Kept::default(),
            logits: None,
            parked: policy.parks().then_some(parked).into_iter().collect(),
            restarted: Vec::new(),
        };
        seen = left;
        entry
    });
    let trace: Vec<LayerTrace> = entries.collect();
    [vit_flops(model, &trace, 0), own]
}

/// What the policy's decision costs in a block where it sees so many tokens and leaves so many: nothing where the image was
/// answered before; where it is answered here, what judging it costs.
pub(crate) fn own_flops<P: Policy + ?Sized>(
    policy: &P,
    layer: usize,
    model: &VitConfig,
    seen: usize,
    left: usize,
) -> FlopsCount {
    if seen == 0 {
        return 0;
    }
    let left = if left == 0 { seen } else { left };
    policy.flops_in(layer, model, seen, left)
}

/// Their share of the dense FLOPs.
fn counted_share<P: Policy + ?Sized>(policy: &P, model: &VitConfig, kept: &[usize]) -> f64 {
    let flops: FlopsCount = counted_flops(policy, model, kept).iter().sum();
    flops as f64 / vit_flops(model, &[], 0) as f64
}

/// `rate` of what was left before, `blocks` times.
fn rates(patches: usize, rate: f64, blocks: usize) -> Vec<usize> {
    let mut left = patches as f64;
    let kept = (0..blocks).map(|_| {
        left *= rate;
        (left.round() as usize).max(1)
    });
    kept.collect()
}

/// `total` patches fewer after `blocks` blocks, the same number in each, but no more than half of what is left.
fn counts(patches: usize, total: f64, blocks: usize) -> Vec<usize> {
    let each = total / blocks as f64;
    let (mut left, mut gone, mut planned) = (patches, 0, 0.0);
    let kept = (0..blocks).map(|_| {
        planned += each;
        // What rounding leaves over goes in the next block.
        let fewer = (planned.round() as usize).saturating_sub(gone);
        gone += fewer;
        left -= fewer.min(left / 2);
        left
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PolicyConfig, policies};
    use apt_vit_model::{ExecutionMode, RunSettings, VitPreset};
    use burn::tensor::{Device, Distribution, Tensor};

    #[test]
    fn every_policy_computes_the_share_that_its_counts_were_found_for() {
        let device = Device::default();
        device.seed(2);
        let model = VitPreset::Tiny32.config();
        let vit = model.init(&device).unwrap();
        let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Default, &device);
        for entry in policies().iter().filter(|entry| entry.name != "dense") {
            let policy = PolicyConfig::named(entry.name).unwrap();
            let policy = policy.init(&model, &device).unwrap();
            for share in [0.9, 0.7, 0.6] {
                let kept = policy.kept_for(&model, share).unwrap();
                let selection = crate::Selection::Kept { kept };
                let reducer = policy.reducer(&selection, &[7, 8]);
                let settings = RunSettings {
                    mode: ExecutionMode::Drop,
                    reducer: Some(&*reducer),
                };
                let trace = vit.forward(images.clone(), settings).trace;
                for image in 0..2 {
                    let flops = vit_flops(&model, &trace, image)
                        + policy.trace_flops(&model, &trace, image);
                    let found = flops as f64 / vit_flops(&model, &[], 0) as f64;
                    assert!(found <= share + 1e-6, "{}: {found} for {share}", entry.name);
                    // Whole blocks go, where nothing else can.
                    let step = if entry.name == "early-exit" {
                        1.0 / model.num_layers as f64
                    } else {
                        0.03
                    };
                    assert!(share - found < step, "{}: {found} for {share}", entry.name);
                }
            }
        }
    }

    #[test]
    fn policies_that_rest_where_nothing_goes_keep_all_at_full_compute() {
        let device = Device::default();
        let model = VitPreset::Tiny32.config();
        for name in ["tome", "cls-attention", "evit", "random"] {
            let policy = PolicyConfig::named(name).unwrap();
            let policy = policy.init(&model, &device).unwrap();
            let all = vec![model.num_patches(); policy.blocks().len()];
            assert_eq!(policy.kept_for(&model, 1.0).unwrap(), all, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_met_is_refused() {
        let device = Device::default();
        let model = VitPreset::Tiny32.config();
        let policy = PolicyConfig::named("apt").unwrap();
        let policy = policy.init(&model, &device).unwrap();
        for share in [0.1, 0.0, -1.0, 1.1, 50.0, f64::NAN] {
            let error = policy.kept_for(&model, share).unwrap_err();
            assert!(error.to_string().contains(&share.to_string()), "{error}");
        }
    }
}
