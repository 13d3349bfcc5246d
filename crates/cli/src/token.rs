//! The secret that a lender of devices and its borrowers share.

/// The variable that holds the secret which lender and trainings share.
pub const TOKEN: &str = "APTVIT_TOKEN";

/// The shared secret, if there is one.
#[cfg(feature = "remote")]
pub fn token() -> Option<String> {
    std::env::var(TOKEN).ok().filter(|token| !token.is_empty())
}
