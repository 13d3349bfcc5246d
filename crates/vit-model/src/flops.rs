use crate::{Heads, LayerTrace, Placement, VitConfig};

/// Floating-point operations of one image. A multiplication and an addition count as two;
/// counted are the matrix products (patch projection, linear layers, attention scores and
/// their weighted sums, heads) and a stem's convolutions, which is what the literature counts.
pub type FlopsCount = u64;

/// The patch projection of one image, and the stem before it where there is one.
pub fn patch_embedding_flops(config: &VitConfig) -> FlopsCount {
    let stem = config.stem.as_ref();
    let stem = stem.map_or(0, |stem| stem.flops(config.image_size));
    stem + 2 * (config.num_patches() * config.patch_inputs() * config.hidden_size) as u64
}

/// One block over `attended` tokens in its attention and `processed` tokens in its MLP.
pub fn block_flops(config: &VitConfig, attended: usize, processed: usize) -> FlopsCount {
    let (d, m) = (config.hidden_size as u64, config.mlp_dim as u64);
    let (n, p) = (attended as u64, processed as u64);
    2 * n * d * (4 * d) + 4 * n * n * d + 4 * p * d * m
}

/// What reading `parked` tokens costs the CLS token in a block that computes `attended`.
pub fn reading_flops(config: &VitConfig, attended: usize, parked: usize) -> FlopsCount {
    if parked == 0 || attended == 0 {
        return 0;
    }
    let (d, heads) = (config.hidden_size as u64, config.num_heads as u64);
    let (n, p) = (attended as u64, parked as u64);
    // The query backwards, what is read forwards, the output; CLS's own attention, weighed twice; the tokens, in each head.
    6 * d * d + 6 * n * d + 4 * p * d * heads
}

/// The whole model for image `image` of a batch, where `trace` says what was removed; an empty
/// trace is the dense model. What the reducer itself computes is not included.
pub fn vit_flops(config: &VitConfig, trace: &[LayerTrace], image: usize) -> FlopsCount {
    let mut tokens = config.num_tokens();
    let mut parked = 0;
    let mut flops = patch_embedding_flops(config);
    let starts = trace
        .iter()
        .filter(|entry| entry.restarted.get(image) == Some(&true));
    let whole = block_flops(config, config.num_tokens(), config.num_tokens());
    flops += (starts.count() * config.num_layers) as u64 * whole;
    for layer in 0..config.num_layers {
        let attended = tokens;
        let reading = reading_flops(config, attended, parked);
        let mut processed = tokens;
        for entry in trace.iter().filter(|entry| entry.layer == layer) {
            tokens = entry.left[image];
            parked = entry.parked.get(image).copied().unwrap_or(0);
            if entry.placement == Placement::AfterAttention {
                processed = tokens;
            }
        }
        flops += block_flops(config, attended, processed) + reading;
    }
    flops + Heads::flops(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kept, VitPreset};

    #[test]
    fn dense_vit_b16_has_the_published_flops() {
        let config = VitConfig {
            num_classes: 1000,
            ..VitPreset::B16.config()
        };
        // 17.56 GMACs (fvcore, with attention), 2 FLOPs each.
        let gflops = vit_flops(&config, &[], 0) as f64 / 1e9;
        assert!((gflops - 35.13).abs() < 0.1, "{gflops}");
    }

    #[test]
    fn removing_tokens_saves_what_the_later_blocks_would_have_cost() {
        let config = VitPreset::Tiny32.config();
        let entry = LayerTrace {
            layer: 2,
            placement: Placement::AfterBlock,
            seen: vec![65],
            left: vec![33],
            kept: Kept::default(),
            logits: None,
            parked: Vec::new(),
            restarted: Vec::new(),
        };
        let saved = vit_flops(&config, &[], 0) - vit_flops(&config, &[entry], 0);
        let later = 3 * (block_flops(&config, 65, 65) - block_flops(&config, 33, 33));
        assert_eq!(saved, later);
    }
}
