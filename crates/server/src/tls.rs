//! TLS from a certificate and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::ServerError;

/// A certificate with the chain to its root, and its private key, both as PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// # Errors
///
/// Where a file cannot be read, or they do not belong together.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let TlsFiles { certificate, key } = files;
    let read = |path: &Path| {
        let text = std::fs::read(path);
        text.map_err(|error| ServerError::certificate(path, format!("cannot read it: {error}")))
    };
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain
        .map_err(|error| ServerError::certificate(certificate, format!("{error}: expected PEM")))?;
    if chain.is_empty() {
        let reason = "holds no certificate; expected PEM";
        return Err(ServerError::certificate(certificate, reason));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| {
        ServerError::certificate(key, format!("{error}: expected a private key as PEM"))
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, secret))
        .map_err(|error| ServerError::certificate(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
