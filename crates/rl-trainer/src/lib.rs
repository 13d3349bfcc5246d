//! x
pub mod counterfactual;
