//! The server's side of TLS: which certificate it shows, and client certificates taken without judging them.
//!
//! A client certificate is only checked for possession of its key here. Whether it is from a trusted authority, still
//! valid and meant for clients is the authenticator's question: a request with an expired certificate gets a 401, or is
//! authenticated by its token, instead of a broken connection (as upstream does with `RequestClientCert`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

/// How often the files are looked at again; upstream does so every minute and on file events.
const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Why the server cannot speak TLS. The text is one line and names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("unable to load server certificate: open {}: {reason}", .file.display())]
    Read { file: PathBuf, reason: String },
    #[error("unable to load server certificate: {} holds no {what}", .file.display())]
    Empty { file: PathBuf, what: &'static str },
    #[error("unable to load server certificate: {}: {reason}", .file.display())]
    Pair { file: PathBuf, reason: String },
    #[error("unable to make a self-signed certificate: {0}")]
    SelfSigned(String),
    #[error("unable to set up TLS: {0}")]
    Config(#[from] rustls::Error),
}

/// The installed crypto provider; installs it first when nobody has.
pub fn provider() -> Arc<CryptoProvider> {
    if CryptoProvider::get_default().is_none() {
        // Losing this race means that somebody else installed the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// The server's certificate, replaced when its files change.
#[derive(Debug)]
pub struct ServerCert {
    files: (PathBuf, PathBuf),
    current: ArcSwap<CertifiedKey>,
}

impl ServerCert {
    /// Reads the pair.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let pair = read_pair(cert, key)?;
        Ok(Arc::new(Self {
            files: (cert.to_owned(), key.to_owned()),
            current: ArcSwap::from_pointee(pair),
        }))
    }

    /// Looks at the files now and then, for as long as the server runs. A pair that does not load is logged and the old
    /// one stays.
    pub async fn follow_files(self: Arc<Self>) {
        let mut seen = contents(&self.files);
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let now = contents(&self.files);
            if now == seen {
                continue;
            }
            match read_pair(&self.files.0, &self.files.1) {
                Ok(pair) => {
                    self.current.store(Arc::new(pair));
                    tracing::info!(file = %self.files.0.display(), "serving certificate replaced");
                    seen = now;
                }
                Err(error) => tracing::warn!(%error, "serving certificate changed but cannot be used"),
            }
        }
    }

    /// The leaf certificate, DER.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.load().cert.first().cloned()
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn contents(files: &(PathBuf, PathBuf)) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((std::fs::read(&files.0).ok()?, std::fs::read(&files.1).ok()?))
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| TlsError::Read {
            file: file.to_owned(),
            reason: error.to_string(),
        })
    };
    let wrong = |file: &Path, reason: String| TlsError::Pair {
        file: file.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            file: cert.to_owned(),
            what: "certificate",
        });
    }
    let key_der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TlsError::Empty {
        file: key.to_owned(),
        what: "private key",
    })?;
    CertifiedKey::from_der(chain, key_der, &provider()).map_err(|error| wrong(cert, error.to_string()))
}

/// The certificate files, made when they are not there: what upstream does with `--cert-dir`.
///
/// # Errors
/// When the files can neither be read nor made.
pub fn self_signed(dir: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (dir.join("apiserver.crt"), dir.join("apiserver.key"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let failed = |error: &dyn std::fmt::Display| TlsError::SelfSigned(error.to_string());
    let mut parameters = rcgen::CertificateParams::new(names.to_vec()).map_err(|error| failed(&error))?;
    let name = format!(
        "{}@{}",
        names.first().map_or("localhost", String::as_str),
        jiff::Timestamp::now().as_second()
    );
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters
        .extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let pair = rcgen::KeyPair::generate().map_err(|error| failed(&error))?;
    let made = parameters.self_signed(&pair).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    write_private(&key, pair.serialize_pem().as_bytes()).map_err(|error| failed(&error))?;
    std::fs::write(&cert, made.pem()).map_err(|error| failed(&error))?;
    Ok((cert, key))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// The server's TLS settings: HTTP/2 preferred, client certificates asked for and not judged.
///
/// # Errors
/// When the provider lacks the wanted version.
pub fn server_config(cert: Arc<ServerCert>, only_13: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] = if only_13 {
        &[&rustls::version::TLS13]
    } else {
        rustls::ALL_VERSIONS
    };
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(AnyClientCert { provider }))
        .with_cert_resolver(cert);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Certificates are judged once per connection: resumed sessions bring theirs along.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Takes any client certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyClientCert {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClientCert {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
