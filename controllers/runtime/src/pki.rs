//! Making X.509 certificates: the CSR signer's and the components' self-signed ones.
//!
//! Callers: the certificate signing controller and [`crate::serve`]. Keys are RSA, ECDSA (P-256, P-384) or Ed25519 in
//! PEM. A name is taken over as it is encoded, so every one of several `O=` survives. What it does not do: decide who
//! may have which certificate.

pub mod request;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256,
};
use der::asn1::{Any, BitString, Int, Null, ObjectIdentifier};
use der::{Decode, DecodePem, Encode, EncodePem, Sequence};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Validity;

/// A key or certificate that cannot be used. One line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PkiError(String);

fn bad(what: &str, error: impl std::fmt::Display) -> PkiError {
    PkiError(format!("{what}: {error}"))
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key that signs certificates.
pub struct SigningKey {
    key: Key,
}

const SHA256_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

impl SigningKey {
    /// Reads a PEM key: PKCS#8, PKCS#1 (RSA) or SEC1 (EC).
    ///
    /// # Errors
    /// When it holds no key of a kind that we can sign with.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| bad("reading a private key", format!("{e:?}")))?;
        let unusable = || PkiError("unsupported private key: not RSA, ECDSA P-256 or P-384, or Ed25519".to_owned());
        let ec = |der: &[u8]| {
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
                .map(Key::P256)
                .or_else(|_| EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, der).map(Key::P384))
        };
        let key = match key {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map(|k| Key::Rsa(Box::new(k))),
            PrivateKeyDer::Sec1(der) => ec(der.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                RsaKeyPair::from_pkcs8(der)
                    .map(|k| Key::Rsa(Box::new(k)))
                    .or_else(|_| ec(der))
                    .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Key::Ed25519))
            }
            _ => return Err(unusable()),
        };
        key.map(|key| Self { key }).map_err(|_| unusable())
    }

    /// A new P-256 key and its PKCS#8 PEM.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<(Self, String), PkiError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|e| bad("making a key", e))?;
        let pem = pem("PRIVATE KEY", document.as_ref());
        Ok((Self::from_pem(pem.as_bytes())?, pem))
    }

    fn algorithm(&self) -> AlgorithmIdentifierOwned {
        let (oid, parameters) = match self.key {
            Key::Rsa(_) => (SHA256_RSA, Some(Any::from(Null))),
            Key::P256(_) => (ECDSA_SHA256, None),
            Key::P384(_) => (ECDSA_SHA384, None),
            Key::Ed25519(_) => (ED25519, None),
        };
        AlgorithmIdentifierOwned { oid, parameters }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|e| bad("signing", e))?;
                Ok(signature)
            }
            Key::P256(key) | Key::P384(key) => key
                .sign(&random, message)
                .map(|s| s.as_ref().to_vec())
                .map_err(|e| bad("signing", e)),
            Key::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }

    /// The public half, for a certificate about this very key. Only keys made by [`SigningKey::generate`].
    fn public(&self) -> Result<SubjectPublicKeyInfoOwned, PkiError> {
        let Key::P256(key) = &self.key else {
            return Err(PkiError("not a P-256 key".to_owned()));
        };
        Ok(SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned {
                oid: EC_KEY,
                parameters: Some(Any::from(&P256)),
            },
            subject_public_key: BitString::from_bytes(key.public_key().as_ref()).map_err(|e| bad("public key", e))?,
        })
    }
}

/// What a certificate says, apart from its serial number and issuer.
pub struct Contents {
    pub subject: Name,
    pub public_key: SubjectPublicKeyInfoOwned,
    pub validity: Validity,
    /// In the order in which they are written.
    pub extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct ToBeSigned {
    /// 2 means v3.
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: Int,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Signed {
    contents: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// A certificate authority: its certificate and key.
pub struct Authority {
    certificate: Certificate,
    key: SigningKey,
}

impl Authority {
    /// # Errors
    /// When one of both is not PEM, or not of a kind that we know.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let certificate = Certificate::from_pem(certificate).map_err(|e| bad("reading a CA certificate", e))?;
        Ok(Self {
            certificate,
            key: SigningKey::from_pem(key)?,
        })
    }

    #[must_use]
    pub fn validity(&self) -> &Validity {
        self.certificate.tbs_certificate().validity()
    }

    /// An authority key identifier naming this authority; `None` when its own certificate has no key identifier.
    #[must_use]
    pub fn key_identifier(&self) -> Option<AuthorityKeyIdentifier> {
        let found = self
            .certificate
            .tbs_certificate()
            .get_extension::<SubjectKeyIdentifier>()
            .ok()
            .flatten();
        found.map(|(_, id)| AuthorityKeyIdentifier {
            key_identifier: Some(id.0),
            ..AuthorityKeyIdentifier::default()
        })
    }

    /// Signs `contents` under a new random serial number; PEM.
    ///
    /// # Errors
    /// When something in it cannot be encoded.
    pub fn issue(&self, contents: Contents, serial: [u8; 16]) -> Result<String, PkiError> {
        sign(
            contents,
            self.certificate.tbs_certificate().subject().clone(),
            serial,
            &self.key,
        )
    }
}

/// A certificate about `key` itself.
///
/// # Errors
/// When something in it cannot be encoded.
pub fn self_signed(
    key: &SigningKey,
    subject: Name,
    validity: Validity,
    extensions: Vec<Extension>,
    serial: [u8; 16],
) -> Result<String, PkiError> {
    let contents = Contents {
        subject: subject.clone(),
        public_key: key.public()?,
        validity,
        extensions,
    };
    sign(contents, subject, serial, key)
}

fn sign(contents: Contents, issuer: Name, mut serial: [u8; 16], key: &SigningKey) -> Result<String, PkiError> {
    // Positive and of full length: no leading zero to strip, no sign bit.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let tbs = ToBeSigned {
        version: 2,
        serial: Int::new(&serial).map_err(|e| bad("serial number", e))?,
        signature: key.algorithm(),
        issuer,
        validity: contents.validity,
        subject: contents.subject,
        public_key: contents.public_key,
        extensions: contents.extensions,
    };
    let tbs = tbs.to_der().map_err(|e| bad("encoding a certificate", e))?;
    let signature = key.sign(&tbs)?;
    let signed = Signed {
        contents: Any::from_der(&tbs).map_err(|e| bad("encoding a certificate", e))?,
        algorithm: key.algorithm(),
        signature: BitString::from_bytes(&signature).map_err(|e| bad("encoding a certificate", e))?,
    };
    let der = signed.to_der().map_err(|e| bad("encoding a certificate", e))?;
    // Read back: whatever leaves here is a certificate.
    let certificate = Certificate::from_der(&der).map_err(|e| bad("encoding a certificate", e))?;
    certificate
        .to_pem(der::pem::LineEnding::LF)
        .map_err(|e| bad("encoding a certificate", e))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
