//! What a model is worth: accuracy, tokens, FLOPs and time; and how a policy meets a budget.

mod calibrate;
mod evaluation;
mod settings;

pub use calibrate::{calibrate, calibrate_budgets};
pub(crate) use evaluation::sides;
pub use evaluation::{ClassAccuracy, Evaluation, LayerTokens, evaluate, evaluate_each};
pub use settings::EvaluationSettings;
