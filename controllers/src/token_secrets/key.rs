//! The key that signs the tokens kept in Secrets, read as upstream reads `--service-account-private-key-file`.
//!
//! The API server has the public half and verifies; the key id is the one both derive from it (unpadded URL-safe base64
//! of the SHA-256 of its PKIX form). The claims are [`super::claims`]'.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

enum Pair {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

/// See the module. Its `Debug` form shows nothing of the key.
pub struct TokenKey {
    pair: Pair,
    algorithm: &'static str,
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({} {})", self.algorithm, self.id)
    }
}

impl TokenKey {
    /// The first private key in a PEM file.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let mut blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
        blocks
            .find_map(|block| Self::from_block(&block))
            .ok_or("data does not contain a valid RSA or ECDSA private key")
    }

    fn from_block(block: &Pem) -> Option<Self> {
        let der = block.contents.as_slice();
        match block.label.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok().and_then(Self::rsa),
            "EC PRIVATE KEY" => Self::ecdsa(der),
            "PRIVATE KEY" => {
                let rsa = RsaKeyPair::from_pkcs8(der).ok().and_then(Self::rsa);
                rsa.or_else(|| Self::ecdsa(der))
            }
            _ => None,
        }
    }

    fn rsa(pair: RsaKeyPair) -> Option<Self> {
        let public = pair.public_key().as_der().ok()?.as_ref().to_vec();
        Some(Self {
            pair: Pair::Rsa(pair),
            algorithm: "RS256",
            id: id(&public),
        })
    }

    fn ecdsa(der: &[u8]) -> Option<Self> {
        let curves = [
            ("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            ("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            ("ES512", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        ];
        let (algorithm, pair) = curves.into_iter().find_map(|(name, curve)| {
            let pair = EcdsaKeyPair::from_private_key_der(curve, der).ok()?;
            Some((name, pair))
        })?;
        let public = pair.public_key().as_der().ok()?.as_ref().to_vec();
        Some(Self {
            pair: Pair::Ecdsa(pair),
            algorithm,
            id: id(&public),
        })
    }

    /// A compact JWS over the claims; `None` when the system has no randomness.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": self.algorithm, "kid": self.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut out)
                    .ok()?;
                out
            }
            Pair::Ecdsa(pair) => pair.sign(&random, signed.as_bytes()).ok()?.as_ref().to_vec(),
        };
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn id(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, public))
}
