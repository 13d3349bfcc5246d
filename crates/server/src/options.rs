//! What a request may say behind the question mark.

use std::time::{Duration, Instant};

use axum::extract::Query;
use axum::http::Uri;
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use crate::Priority;
use crate::engine::Engine;
use crate::job::{Task, Wish};
use crate::limits::Limits;
use crate::refusal::Refusal;

/// Classes of an answer, where a request does not say how many.
const TOP: usize = 5;

/// What a request may say behind the question mark.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Options {
    /// The share of the dense model's FLOPs, above 0 and at most 1, rounded to thousandths. It is kept to, whatever the
    /// load. Without it the server's budget holds.
    pub flops: Option<f64>,
    /// How many classes to answer, 1 or more; 5 where absent.
    pub top: Option<usize>,
    /// Say which patches each block kept or merged.
    #[serde(default)]
    pub explain: bool,
    /// Who is served first: `high`, `normal` or `low`.
    #[serde(default, deserialize_with = "priority")]
    #[param(value_type = Option<String>)]
    pub priority: Priority,
    /// Milliseconds after which the answer is not wanted any more, 1 or more.
    pub timeout_ms: Option<u64>,
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Priority, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Options {
    /// Those of a request.
    ///
    /// # Errors
    ///
    /// Where one has no such value, or there is no such option.
    pub fn of(uri: &Uri) -> Result<Self, Refusal> {
        let found = Query::<Self>::try_from_uri(uri);
        let Query(options) = found.map_err(|error| Refusal::unprocessable(error.body_text()))?;
        if options.top == Some(0) {
            return Err(Refusal::unprocessable("top = 0: expected 1 or more"));
        }
        Ok(options)
    }

    /// How many classes to answer.
    pub fn top(&self) -> usize {
        self.top.unwrap_or(TOP)
    }

    /// What they ask of an engine.
    ///
    /// # Errors
    ///
    /// Where the policy meets no such share, and where there is no time.
    pub fn wish(&self, engine: &Engine, task: Task, limits: &Limits) -> Result<Wish, Refusal> {
        let budget = self.flops.map(|share| {
            if share.is_nan() || share <= 0.0 || share > 1.0 {
                let message = format!("flops = {share}: expected a share above 0 and at most 1");
                return Err(Refusal::unprocessable(message));
            }
            let found = engine.budget(share);
            found.map_err(|error| Refusal::unprocessable(format!("flops = {share}: {error}")))
        });
        if self.timeout_ms == Some(0) {
            let message = "timeout_ms = 0: expected 1 or more";
            return Err(Refusal::unprocessable(message));
        }
        let named = self.timeout_ms.map(Duration::from_millis);
        let time = named.unwrap_or(limits.deadline).min(limits.deadline);
        Ok(Wish {
            task,
            budget: budget.transpose()?,
            priority: self.priority,
            deadline: Instant::now() + time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_what_is_none_is_named() {
        let of = |text: &str| Options::of(&text.parse().unwrap());
        let options = of("/x?flops=0.5&top=3&explain=true&priority=low&timeout_ms=10").unwrap();
        assert_eq!(
            (options.flops, options.top(), options.explain),
            (Some(0.5), 3, true)
        );
        assert_eq!(options.priority, Priority::Low);
        assert_eq!(of("/x").unwrap().top(), TOP);
        for (text, word) in [
            ("/x?flop=0.5", "flop"),
            ("/x?flops=half", "float"),
            ("/x?priority=urgent", "urgent"),
            ("/x?top=-1", "digit"),
            ("/x?top=0", "expected 1 or more"),
        ] {
            let refusal = of(text).unwrap_err();
            assert_eq!(refusal.status(), 422);
            assert!(refusal.message().contains(word), "{}", refusal.message());
        }
    }
}
