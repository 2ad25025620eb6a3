//! Certificates of serving ports.
//!
//! A port uses the files that were configured, or makes itself a certificate (P-256, one year, own CA-less) and keeps it
//! in the certificate directory as `<name>.crt` and `<name>.key` like upstream. Client certificates are asked for and
//! accepted whoever signed them: the handshake proves possession of the key, [`super::Gate`] decides what it is worth.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use der::asn1::{Ia5String, OctetString};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::time::Validity;

use crate::flags::{ServingFlags, hostname};
use crate::pki;

/// A serving certificate with its key, as PEM.
#[derive(Clone)]
pub struct Serving {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("open {}: {e}", path.display()))
}

impl Serving {
    /// # Errors
    /// When a file cannot be read; one line that names it.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, String> {
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
        })
    }

    /// The configured files, or a certificate of our own for `name`.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn from_flags(flags: &ServingFlags, name: &str) -> Result<Self, String> {
        if let (Some(certificate), Some(key)) = (&flags.tls_cert_file, &flags.tls_private_key_file) {
            return Self::from_files(certificate, key);
        }
        let dir = Some(flags.cert_dir.as_str())
            .filter(|d| !d.is_empty())
            .map(PathBuf::from);
        Self::self_signed(dir.as_deref(), name)
    }

    /// A certificate of our own; kept in and reused from `dir` when there is one.
    ///
    /// # Errors
    /// When files cannot be written, or the system has no randomness.
    pub fn self_signed(dir: Option<&Path>, name: &str) -> Result<Self, String> {
        if let Some(dir) = dir {
            let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
            if let Ok(found) = Self::from_files(&certificate, &key) {
                return Ok(found);
            }
            let made = generate(name)?;
            write_private(dir, &key, &made.key)?;
            std::fs::write(&certificate, &made.certificate)
                .map_err(|e| format!("open {}: {e}", certificate.display()))?;
            return Ok(made);
        }
        generate(name)
    }
}

fn write_private(dir: &Path, path: &Path, content: &[u8]) -> Result<(), String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let written = std::fs::create_dir_all(dir).and_then(|()| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)
    });
    written.map_err(|e| format!("open {}: {e}", path.display()))
}

fn generate(name: &str) -> Result<Serving, String> {
    let text = |e: &dyn std::fmt::Display| format!("making a serving certificate: {e}");
    let (key, pem) = pki::SigningKey::generate().map_err(|e| text(&e))?;
    let subject = Name::from_str(&format!("CN={name}@{}", jiff::Timestamp::now().as_second())).map_err(|e| text(&e))?;
    let validity = Validity::from_now(Duration::from_secs(365 * 24 * 3600)).map_err(|e| text(&e))?;
    let mut names = vec![GeneralName::IpAddress(
        ip(IpAddr::V4(Ipv4Addr::LOCALHOST)).map_err(|e| text(&e))?,
    )];
    for host in [hostname(), "localhost".to_owned()].iter().filter(|h| !h.is_empty()) {
        names.push(GeneralName::DnsName(Ia5String::new(host).map_err(|e| text(&e))?));
    }
    let mut extensions = Vec::new();
    let usage = KeyUsage(KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment);
    extensions.push(usage.to_extension(&subject, &extensions).map_err(|e| text(&e))?);
    let server = ExtendedKeyUsage(vec![const_oid::db::rfc5280::ID_KP_SERVER_AUTH]);
    extensions.push(server.to_extension(&subject, &extensions).map_err(|e| text(&e))?);
    extensions.push(
        SubjectAltName(names)
            .to_extension(&subject, &extensions)
            .map_err(|e| text(&e))?,
    );
    let certificate = pki::self_signed(&key, subject, validity, extensions, rand::random()).map_err(|e| text(&e))?;
    Ok(Serving {
        certificate: certificate.into_bytes(),
        key: pem.into_bytes(),
    })
}

fn ip(address: IpAddr) -> Result<OctetString, der::Error> {
    match address {
        IpAddr::V4(v4) => OctetString::new(v4.octets().to_vec()),
        IpAddr::V6(v6) => OctetString::new(v6.octets().to_vec()),
    }
}

/// Certificates in a PEM file.
///
/// # Errors
/// When it holds none; one line that names the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_in(&read(path)?).map_err(|e| format!("{}: {e}", path.display()))
}

/// Certificates in PEM text.
///
/// # Errors
/// When there are none.
pub fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("data does not contain any valid RSA or ECDSA certificates".to_owned()),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates optional.
///
/// # Errors
/// When certificate and key do not fit together.
pub fn server_config(serving: &Serving) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates_in(&serving.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&serving.key).map_err(|e| format!("reading a private key: {e:?}"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AskOnly {
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| format!("serving certificate: {e}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A serving certificate that may change while a port is open; without one, handshakes fail.
#[derive(Default)]
pub struct Changing {
    current: parking_lot::RwLock<Option<Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Changing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changing")
    }
}

impl Changing {
    /// From now on, new connections are served with this certificate.
    ///
    /// # Errors
    /// When certificate and key do not fit together.
    pub fn set(&self, serving: &Serving) -> Result<(), String> {
        let chain = certificates_in(&serving.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&serving.key).map_err(|e| format!("reading a private key: {e:?}"))?;
        let made = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|e| format!("serving certificate: {e}"))?;
        *self.current.write() = Some(Arc::new(made));
        Ok(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.current.read().is_some()
    }
}

impl ResolvesServerCert for Changing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().clone()
    }
}

/// [`server_config`] with whatever certificate is current.
///
/// # Errors
/// When the library does not support the versions of TLS that we use.
pub fn changing_config(current: Arc<Changing>) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AskOnly {
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Asks for a client certificate and checks only that the peer has its key.
#[derive(Debug)]
struct AskOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskOnly {
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The provider that all of our TLS uses.
#[must_use]
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
