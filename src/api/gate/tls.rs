//! The certificate and key of the gate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, ErrorKind};

/// Where certificate chain and key lie, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Reads both files. Fails when one is missing or they do not belong together.
pub(super) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| unreadable("certificate", &files.certificate, err))?;
    if chain.is_empty() {
        return Err(unreadable("certificate", &files.certificate, "it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|err| unreadable("key", &files.key, err))?;
    // Named, so that it does not matter which other crates bring a provider of their own.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|err| unreadable("certificate and key", &files.certificate, err))?;
    Ok(Arc::new(config))
}

fn unreadable(what: &str, path: &Path, err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("unable to use the TLS {what} `{}`", path.display()))
        .with_source(err)
        .hint("`tls_certificate` and `tls_key` in [http] name PEM files that belong together.")
}
