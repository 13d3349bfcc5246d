//! What a change of a memory may say behind the question mark.

use serde::Deserialize;
use utoipa::IntoParams;

/// What is to be added.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Addition {
    /// The class that the pictures show.
    pub class: String,
    /// Where they come from, for people.
    pub source: Option<String>,
}

/// What is to be removed: one of these.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Removal {
    /// The picture with this id.
    pub id: Option<String>,
    /// All pictures of this class.
    pub class: Option<String>,
    /// All pictures that came from there.
    pub source: Option<String>,
}
