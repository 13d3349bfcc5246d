//! HTTPS with a certificate made here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use crate::common::{Running, receive, start_with, testing};
use apt_server::{Server, Service, Settings, TlsFiles};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Writes a certificate for `localhost` and its key; the certificate is its own root.
fn certificate(folder: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let files = TlsFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    (files, cert.der().clone())
}

/// What `/health` answers to a client that trusts `root` alone.
fn health(server: &Running, root: CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, server.connect());
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn with_a_certificate_it_answers_over_tls_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path());
    let server = start_with(Settings::default(), Some(files));
    let answer = health(&server, root).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, other) = certificate(folder.path());
    assert!(health(&server, other).is_err());
    let mut plain: TcpStream = server.connect();
    plain
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(receive(&mut plain).status, 0);
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certificate(folder.path());
    let (other, _) = {
        let folder = folder.path().join("other");
        std::fs::create_dir(&folder).unwrap();
        certificate(&folder)
    };
    let pair = |certificate: &Path, key: &Path| TlsFiles {
        certificate: certificate.into(),
        key: key.into(),
    };
    let missing = folder.path().join("missing.pem");
    let models = vec![("tiny".into(), testing::tiny_model())];
    let service = Service::new(models, Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (files, word) in [
        (pair(&missing, &files.key), "missing.pem"),
        (pair(&files.key, &files.key), "key.pem"),
        (pair(&files.certificate, &files.certificate), "cert.pem"),
        (pair(&files.certificate, &other.key), "cert.pem"),
    ] {
        let server = Server::bind("127.0.0.1:0", Some(&files), Arc::clone(&service));
        let error = runtime.block_on(server).err().unwrap().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}
