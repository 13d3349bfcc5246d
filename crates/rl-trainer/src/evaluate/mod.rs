//! What a model is worth: accuracy, tokens, FLOPs and time; and how a policy meets a budget.

mod calibrate;
mod embedded;
mod evaluation;
mod settings;
mod truth;

pub use calibrate::{calibrate, calibrate_budgets};
pub use evaluation::{ClassAccuracy, Evaluation, LayerTokens, evaluate, evaluate_each};
pub(crate) use evaluation::{check_finite, dense_answers, sides};
pub use settings::EvaluationSettings;
