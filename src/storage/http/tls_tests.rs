//! Certificates that are wrong in one way each, and the sentence each of them gets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::testing::TempDir;

/// An authority of a test, and its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = dir.join("ca.pem");
        crate::durable::write(&file, issuer.pem().as_bytes(), 0o644).unwrap();
        Authority { issuer, file }
    }

    /// A server that answers one connection, and how its client fared with `ca_file`.
    fn meet(&self, params: CertificateParams, ca_file: Option<&Path>) -> Result<u16, String> {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (url, server) = serve(certificate.der().clone(), key.serialize_der());
        let access = Access { ca_file: ca_file.map(Path::to_owned), ..Access::default() };
        let outcome = Client::new(&access).unwrap().send(&Request::new(Method::GET, &url));
        server.join().unwrap();
        outcome.map(|answer| answer.status()).map_err(|failure| failure.error.to_string())
    }
}

fn serve(certificate: rustls::pki_types::CertificateDer<'static>, key: Vec<u8>) -> (String, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(key.into());
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let serve = move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        // A client that does not like the certificate goes away here.
        if matches!(stream.read(&mut [0; 4096]), Ok(read) if read > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.read(&mut [0]);
        }
    };
    (url, std::thread::Builder::new().spawn(serve).unwrap())
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

#[test]
fn each_fault_of_a_certificate_is_named() {
    let dir = TempDir::new();
    let authority = Authority::new(&dir);
    let trusted = Some(authority.file.as_path());
    assert_eq!(authority.meet(params("localhost"), trusted), Ok(200));

    let mut expired = params("localhost");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let mut future = params("localhost");
    future.not_before = date_time_ymd(2120, 1, 1);
    future.not_after = date_time_ymd(2121, 1, 1);
    for (params, named) in [(expired, "has expired"), (future, "not valid yet"), (params("other"), "another host name")]
    {
        let told = authority.meet(params, trusted).unwrap_err();
        assert!(told.contains(named), "{told}");
    }

    let other = TempDir::new();
    let stranger = Authority::new(&other);
    let told = authority.meet(params("localhost"), Some(&stranger.file)).unwrap_err();
    assert!(told.contains("not trusted here") && told.contains("ca_file"), "{told}");
    // By the system's certificates, of which there may be none.
    let told = authority.meet(params("localhost"), None).unwrap_err();
    assert!(told.contains("ca_file"), "{told}");
}

#[test]
fn a_ca_file_that_is_none_is_named() {
    let dir = TempDir::new();
    let path = dir.join("ca.pem");
    crate::durable::write(&path, b"no certificate", 0o644).unwrap();
    for path in [path, dir.join("none.pem")] {
        let err = Client::new(&Access { ca_file: Some(path), ..Access::default() }).err().unwrap();
        assert!(err.to_string().contains("ca_file"), "{err}");
    }
}
