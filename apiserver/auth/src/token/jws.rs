//! Compact JWS (RFC 7515): three base64 parts, one signature.
//!
//! Written here instead of taken from a library because the key, not the token, must choose the algorithm, and because
//! upstream signs with ES512, which the JWT crates on aws-lc-rs lack. A token is at most [`MAX_LENGTH`] bytes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::key::{SigningKey, VerifyKey};

/// Longer tokens are refused unread. (Header lines are limited to less anyway; TokenReview carries tokens in its body.)
pub const MAX_LENGTH: usize = 64 << 10;

/// A token that has the shape of one; nothing about it is verified yet.
pub struct Unverified<'a> {
    signed: &'a str,
    header: Value,
    /// The claims as the token states them. Not to be trusted before [`Unverified::verified_by`] says so.
    pub claims: Value,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a compact token apart; `None` when it is not one.
    pub fn parse(token: &'a str) -> Option<Self> {
        if token.len() > MAX_LENGTH {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
        };
        // A second '.' in the claims part fails to decode, so there are exactly three parts.
        let (header, claims) = (object(header)?, object(claims)?);
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self {
            signed,
            header,
            claims,
            signature,
        })
    }

    /// The key id that the token names, if any.
    pub fn key_id(&self) -> Option<&str> {
        self.header
            .get("kid")
            .and_then(Value::as_str)
            .filter(|kid| !kid.is_empty())
    }

    /// Whether `key` signed this token with the key's own algorithm. A token with critical extensions is never accepted.
    pub fn verified_by(&self, key: &VerifyKey) -> bool {
        let algorithm = self.header.get("alg").and_then(Value::as_str);
        algorithm == Some(key.algorithm.name())
            && self.header.get("crit").is_none()
            && key.verifies(self.signed.as_bytes(), &self.signature)
    }
}

/// Signs claims; `None` when the system has no randomness.
pub fn sign(key: &SigningKey, claims: &Value) -> Option<String> {
    let header = json!({"alg": key.public.algorithm.name(), "kid": key.public.id});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = key.sign(signed.as_bytes())?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_chooses_neither_no_algorithm_nor_another_one() {
        let key = SigningKey::generate_rsa().expect("randomness");
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let good = sign(&key, &json!({"iss": "a"})).expect("signs");
        assert!(Unverified::parse(&good).is_some_and(|t| t.verified_by(&key.public)));
        let signature = good.rsplit('.').next().unwrap_or_default();
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"RS256","crit":["exp"]}"#,
            r#"{}"#,
        ] {
            for signature in ["", signature] {
                let token = format!("{}.{}.{signature}", part(header), part(r#"{"iss":"a"}"#));
                assert!(
                    !Unverified::parse(&token).is_some_and(|t| t.verified_by(&key.public)),
                    "{header}"
                );
            }
        }
    }

    #[test]
    fn only_three_parts_are_a_token() {
        for token in [
            "",
            ".",
            "..",
            "...",
            "a.b",
            "e30.e30",
            "e30.e30.e30.e30",
            "W10.e30.",
            "e30.W10.",
            "🦀.🦀.🦀",
        ] {
            assert!(
                Unverified::parse(token).is_none_or(|t| token == "e30.e30." && t.signature.is_empty()),
                "{token}"
            );
        }
        assert!(Unverified::parse(&"a".repeat(MAX_LENGTH + 1)).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(token in ".{0,200}") {
            let _ = Unverified::parse(&token);
        }

        #[test]
        fn no_flipped_byte_still_verifies(at in 0usize..1000, flip in 1u8..128) {
            let key = SigningKey::generate().expect("randomness");
            let good = sign(&key, &json!({"iss": "a", "sub": "b"})).expect("signs");
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(text) = String::from_utf8(bytes) {
                // The last character of a part has unused bits, which the decoder refuses when they are set.
                prop_assert!(!Unverified::parse(&text).is_some_and(|t| t.verified_by(&key.public)));
            }
        }
    }
}
