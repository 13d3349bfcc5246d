//! Who is served first.

use std::str::FromStr;

use serde::Serialize;

/// Who is served first. Each priority's budget follows the wait that the queue means for that priority: what stands
/// behind a request does not make it cheaper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// Usual.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// All, the first served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in a request.
    pub fn name(self) -> &'static str {
        ["high", "normal", "low"][self.index()]
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|priority| priority.name() == text)
            .ok_or_else(|| format!("priority = {text}: expected high, normal or low"))
    }
}
