//! The policies of a sweep, by name.

use apt_pruning_agent::{PolicyEntry, policies};

use crate::TrainerError;

/// A policy of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweptPolicy {
    /// What it is called.
    pub name: String,
    /// Which policy it is.
    pub base: &'static str,
    /// What its training's config says beside it, as `key=value`.
    pub overrides: Vec<String>,
}

impl SweptPolicy {
    /// Parses `NAME`, or `NAME:KEY=VALUE;KEY=VALUE`, which adds to the longest policy's name that it begins with.
    ///
    /// # Errors
    ///
    /// Where no policy's name is at its beginning.
    pub fn parse(text: &str) -> Result<Self, TrainerError> {
        let (name, said) = text.split_once(':').unwrap_or((text, ""));
        let known = policies();
        let base = known.iter().filter(|entry| name.starts_with(entry.name));
        let base = base.max_by_key(|entry| entry.name.len());
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let fits = |base: &PolicyEntry| plain && (!said.is_empty() || base.name == name);
        let Some(base) = base.filter(|base| fits(base)) else {
            let names: Vec<&str> = known.iter().map(|entry| entry.name).collect();
            return Err(TrainerError::Field {
                field: "policies".into(),
                found: text.into(),
                expected: format!(
                    "must be one of {}, or a name of letters, digits, - and _ that begins with one, with overrides, as in \
                     attentive-ppo:policy.algorithm=ppo",
                    names.join(", ")
                ),
            });
        };
        let said = said.split(';').filter(|part| !part.is_empty());
        Ok(Self {
            name: name.to_string(),
            base: base.name,
            overrides: said.map(String::from).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names_and_may_say_more() {
        let tome = SweptPolicy::parse("tome").unwrap();
        assert_eq!((tome.base, tome.overrides.len()), ("tome", 0));
        let mine = SweptPolicy::parse("attentive-ppo:policy.algorithm=ppo;seed=3").unwrap();
        assert_eq!((mine.base, mine.overrides.len()), ("attentive", 2));
        assert_eq!(mine.name, "attentive-ppo");
        for wrong in ["tomato", "tome-slow", "", "a/b:policy.merge=true"] {
            let error = SweptPolicy::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("cls-attention"), "{wrong}: {error}");
        }
    }
}
