//! What a block's scores have to be at one price of computing.

/// What effects on the answer are divided by before agents take their logarithm as a score.
pub const EFFECT_SCALE: f32 = 0.005;

/// Blocks that a token does not go through which goes in block `layer` of `layers`, between its attention and its MLP: two thirds of
/// a block lie after its attention.
pub(crate) fn blocks_saved(layers: usize, layer: usize) -> f64 {
    (layers - 1 - layer) as f64 + 2.0 / 3.0
}

/// Per block, the least score that stays at one price: half the logarithm of what a token that goes there saves, plus `level`, the
/// same for all blocks. Scores are logarithms of how far the answer moves, and its error grows with the square of that, so that a
/// merge is worth it in every block alike.
pub fn least_scores_at(level: f64, blocks: &[usize], layers: usize) -> Vec<f64> {
    let scores = blocks.iter();
    scores
        .map(|&block| level + 0.5 * blocks_saved(layers, block).ln())
        .collect()
}
