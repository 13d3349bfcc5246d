//! Losses and rewards of logits.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};

/// Mean cross-entropy of `[rows, classes]` logits, `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[usize]) -> Tensor<1> {
    let device = logits.device();
    let targets: Vec<i64> = targets.iter().map(|&target| target as i64).collect();
    let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &device);
    CrossEntropyLossConfig::new()
        .init(&device)
        .forward(logits, targets)
}

/// How far the answers are from those of a teacher: the mean cross-entropy of its probabilities, `[1]`.
///
/// Both are `[rows, classes]`; no gradient reaches the teacher.
pub fn soft_cross_entropy(logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let targets = softmax(teacher.without_autodiff(), 1);
    -(log_softmax(logits, 1) * targets).sum_dim(1).mean()
}

/// `log_softmax(logits)[target]` of each row.
pub fn log_probabilities(logits: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    of_targets(log_softmax(logits, 1), targets)
}

/// `softmax(logits)[target]` of each row.
pub fn true_class_probabilities(logits: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    of_targets(softmax(logits, 1), targets)
}

fn of_targets(values: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    let [_, classes] = values.dims();
    let values: Vec<f32> = values.into_data().iter::<f32>().collect();
    let rows = values.chunks_exact(classes).zip(targets);
    rows.map(|(row, &target)| row[target]).collect()
}

/// The share of rows whose largest logit is the target's.
pub fn accuracy(logits: &Tensor<2>, targets: &[usize]) -> f64 {
    let predicted = predictions(logits);
    let pairs = predicted.iter().zip(targets);
    let correct = pairs.filter(|(a, b)| a == b).count();
    correct as f64 / targets.len() as f64
}

/// The class with the largest logit in each row.
pub fn predictions(logits: &Tensor<2>) -> Vec<usize> {
    let classes = logits.clone().argmax(1).into_data();
    classes.iter::<i64>().map(|class| class as usize).collect()
}

/// The number in a loss, `[1]`.
pub fn value(loss: &Tensor<1>) -> f64 {
    loss.to_data().iter::<f64>().next().unwrap_or(f64::NAN)
}
