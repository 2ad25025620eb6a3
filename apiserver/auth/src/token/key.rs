//! Keys that sign and verify service account tokens, read from PEM as upstream reads `--service-account-signing-key-file`
//! and `--service-account-key-file`.
//!
//! A key knows the one family of algorithms it may be used with, so a token's `alg` never chooses how it is checked. The
//! key id is upstream's: unpadded URL-safe base64 of the SHA-256 of the public key's PKIX form, so both programs name the
//! same key alike. Only keys: what is signed lives in [`super::jws`].

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, ParsedPublicKey, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A JWS signature algorithm of RFC 7518 that upstream signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }

    fn curve(self) -> Option<(&'static str, usize)> {
        match self {
            Self::Rs256 => None,
            Self::Es256 => Some(("P-256", 32)),
            Self::Es384 => Some(("P-384", 48)),
            Self::Es512 => Some(("P-521", 66)),
        }
    }
}

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("data does not contain any valid RSA or ECDSA public keys")]
    NoPublicKey,
    #[error("data does not contain a valid RSA or ECDSA private key")]
    NoPrivateKey,
    #[error("unusable key: {0}")]
    Unusable(String),
}

/// The public half: checks signatures. Cheap to clone.
#[derive(Clone)]
pub struct VerifyKey {
    pub algorithm: Algorithm,
    /// Upstream's derivation, see the module header.
    pub id: String,
    /// PKIX form, DER.
    spki: Vec<u8>,
    parsed: Arc<ParsedPublicKey>,
}

impl std::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyKey({} {})", self.algorithm.name(), self.id)
    }
}

impl VerifyKey {
    /// Every key in a PEM file: `PUBLIC KEY`, `RSA PUBLIC KEY`, `CERTIFICATE`, and the public halves of private keys.
    /// Blocks of other labels are skipped, as upstream does.
    ///
    /// # Errors
    /// When there is no usable key in it.
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for block in Pem::iter_from_buffer(pem).filter_map(Result::ok) {
            let spki = match block.label.as_str() {
                "PUBLIC KEY" => Some(block.contents.clone()),
                "RSA PUBLIC KEY" => rsa_spki(&block.contents),
                "CERTIFICATE" => block.parse_x509().ok().map(|c| c.public_key().raw.to_vec()),
                _ => SigningKey::from_block(&block).map(|key| key.public.spki),
            };
            if let Some(key) = spki.and_then(|spki| Self::from_spki(spki).ok()) {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            Err(KeyError::NoPublicKey)
        } else {
            Ok(keys)
        }
    }

    fn from_spki(spki: Vec<u8>) -> Result<Self, KeyError> {
        let unusable = |e: &dyn std::fmt::Display| KeyError::Unusable(e.to_string());
        let (_, info) = SubjectPublicKeyInfo::from_der(&spki).map_err(|e| unusable(&e))?;
        let algorithm = match info.parsed().map_err(|e| unusable(&e))? {
            PublicKey::RSA(_) => Algorithm::Rs256,
            PublicKey::EC(point) => match point.key_size() {
                256 => Algorithm::Es256,
                384 => Algorithm::Es384,
                521..=528 => Algorithm::Es512,
                bits => return Err(KeyError::Unusable(format!("a curve of {bits} bits"))),
            },
            _ => return Err(KeyError::Unusable("neither RSA nor ECDSA".into())),
        };
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(&spki));
        let parsed = ParsedPublicKey::new(algorithm.verification(), &spki).map_err(|e| unusable(&e))?;
        Ok(Self {
            algorithm,
            id,
            spki,
            parsed: Arc::new(parsed),
        })
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }

    /// The JSON Web Key, as `/openid/v1/jwks` shows it.
    pub fn jwk(&self) -> Option<Value> {
        let (_, info) = SubjectPublicKeyInfo::from_der(&self.spki).ok()?;
        let (alg, kid) = (self.algorithm.name(), &self.id);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match info.parsed().ok()? {
            PublicKey::RSA(key) => {
                let strip = |bytes: &[u8]| text(bytes.strip_prefix(&[0]).unwrap_or(bytes));
                let (n, e) = (strip(key.modulus), strip(key.exponent));
                Some(json!({"use": "sig", "kty": "RSA", "kid": kid, "alg": alg, "n": n, "e": e}))
            }
            PublicKey::EC(point) => {
                let (crv, size) = self.algorithm.curve()?;
                let data = point.data().strip_prefix(&[4])?;
                let (x, y) = (data.get(..size)?, data.get(size..)?);
                Some(json!({"use": "sig", "kty": "EC", "kid": kid, "crv": crv, "alg": alg, "x": text(x), "y": text(y)}))
            }
            _ => None,
        }
    }
}

/// The private half: signs. Its `Debug` form shows nothing of it.
pub struct SigningKey {
    pair: Pair,
    pub public: VerifyKey,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

impl SigningKey {
    /// The first private key in a PEM file: `RSA PRIVATE KEY`, `EC PRIVATE KEY` or `PRIVATE KEY`.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
        blocks
            .find_map(|block| Self::from_block(&block))
            .ok_or(KeyError::NoPrivateKey)
    }

    /// A fresh P-256 key, for tests and for servers that sign for nobody else.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let unusable = |_| KeyError::Unusable("no randomness".into());
        Self::from_ecdsa(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).map_err(unusable)?)
            .ok_or(KeyError::NoPrivateKey)
    }

    /// A fresh RSA key of 2048 bits.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate_rsa() -> Result<Self, KeyError> {
        let unusable = |_| KeyError::Unusable("no randomness".into());
        Self::from_rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(unusable)?).ok_or(KeyError::NoPrivateKey)
    }

    fn from_block(block: &Pem) -> Option<Self> {
        let der = block.contents.as_slice();
        match block.label.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok().and_then(Self::from_rsa),
            "EC PRIVATE KEY" => Self::ecdsa_of(der),
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(der)
                .ok()
                .and_then(Self::from_rsa)
                .or_else(|| Self::ecdsa_of(der)),
            _ => None,
        }
    }

    fn ecdsa_of(der: &[u8]) -> Option<Self> {
        const CURVES: [&EcdsaSigningAlgorithm; 3] = [
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ];
        let pair = CURVES
            .into_iter()
            .find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok())?;
        Self::from_ecdsa(pair)
    }

    fn from_rsa(pair: RsaKeyPair) -> Option<Self> {
        let spki = pair.public_key().as_der().ok()?.as_ref().to_vec();
        let public = VerifyKey::from_spki(spki).ok()?;
        Some(Self {
            pair: Pair::Rsa(pair),
            public,
        })
    }

    fn from_ecdsa(pair: EcdsaKeyPair) -> Option<Self> {
        let spki = pair.public_key().as_der().ok()?.as_ref().to_vec();
        let public = VerifyKey::from_spki(spki).ok()?;
        Some(Self {
            pair: Pair::Ecdsa(pair),
            public,
        })
    }

    /// The signature over `message`, in the form JWS wants; `None` when the system has no randomness.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out)
                    .ok()?;
                Some(out)
            }
            Pair::Ecdsa(pair) => pair.sign(&random, message).ok().map(|s| s.as_ref().to_vec()),
        }
    }
}

/// Wraps a PKCS#1 `RSAPublicKey` into its PKIX form.
fn rsa_spki(pkcs1: &[u8]) -> Option<Vec<u8>> {
    let key = ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, pkcs1).ok()?;
    key.as_der().ok().map(|der| der.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_verifies_what_it_signed_and_nothing_else() {
        for key in [SigningKey::generate(), SigningKey::generate_rsa()] {
            let key = key.expect("randomness");
            let signature = key.sign(b"message").expect("signs");
            assert!(key.public.verifies(b"message", &signature));
            assert!(!key.public.verifies(b"massage", &signature));
            assert!(key.public.jwk().is_some_and(|jwk| jwk["kid"] == key.public.id.as_str()));
        }
    }

    #[test]
    fn a_file_without_a_key_is_an_error_not_an_empty_list() {
        assert!(VerifyKey::from_pem(b"").is_err());
        assert!(VerifyKey::from_pem(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err());
        assert!(SigningKey::from_pem(b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n").is_err());
    }
}
