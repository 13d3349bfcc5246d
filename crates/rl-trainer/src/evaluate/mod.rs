//! What a model is worth: accuracy, tokens, FLOPs and time; and how a policy meets a budget.

mod answers;
mod calibrate;
mod certainty;
mod embedded;
mod evaluation;
mod settings;
mod truth;

pub(crate) use answers::{check_finite, dense_outputs, loader, sides};
pub use calibrate::{calibrate, calibrate_budgets};
pub use evaluation::{ClassAccuracy, Evaluation, LayerTokens, evaluate, evaluate_each};
pub use settings::EvaluationSettings;
