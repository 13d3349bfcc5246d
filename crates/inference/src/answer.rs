use serde::Serialize;

/// What a model says of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The most probable classes, the first one first.
    pub classes: Vec<ClassProbability>,
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
    /// Tokens that are left after it, CLS counted.
    pub tokens: usize,
    /// Per patch, row by row: is it still there by itself?
    #[serde(skip)]
    pub kept: Vec<bool>,
}
