//! The secret without which a server does not answer.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The variable that holds the secret.
pub const API_KEY: &str = "APTVIT_API_KEY";

/// The secret that requests have to show: `Authorization: Bearer SECRET`.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// Of a secret. It is kept as its digest alone.
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Does a request show it? The time that this takes says nothing of the secret: digests of equal length are
    /// compared, in constant time.
    pub(crate) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let token = shown.and_then(|value| {
            let (scheme, token) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        let digest: [u8; 32] = Sha256::digest(token.unwrap_or_default()).into();
        bool::from(digest.ct_eq(&self.0)) && token.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_alone_opens() {
        let key = ApiKey::new("secret");
        let shown = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            key.is_shown(&headers)
        };
        assert!(shown("Bearer secret") && shown("bearer secret"));
        for wrong in [
            "Bearer secre",
            "Bearer secret ",
            "Bearer secrets",
            "secret",
            "Basic secret",
            "Bearer ",
            "",
        ] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!key.is_shown(&HeaderMap::new()));
    }
}
