//! What tells others how to verify our tokens: `/.well-known/openid-configuration` and `/openid/v1/jwks`.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::VerifyKey;

pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
pub const KEYS_PATH: &str = "/openid/v1/jwks";
/// `Cache-Control: public, max-age=` of both documents, seconds.
pub const MAX_AGE: u32 = 3600;

/// The provider document. `address` is `host:port` under which clients reach the server, used when no
/// `--service-account-jwks-uri` is given.
///
/// # Errors
/// When the issuer is not one that OpenID Connect allows: then upstream serves neither document.
pub fn configuration(issuer: &str, jwks_uri: Option<&str>, address: &str, keys: &[VerifyKey]) -> Result<Value, String> {
    if !issuer.starts_with("https://") {
        return Err(format!("issuer URL must use https scheme, got: {issuer}"));
    }
    if issuer.contains('?') {
        return Err(format!("issuer URL may not include a query, got: {issuer}"));
    }
    if issuer.contains('#') {
        return Err(format!("issuer URL may not include a fragment, got: {issuer}"));
    }
    let uri = match jwks_uri {
        Some(uri) if !uri.starts_with("https://") => {
            return Err(format!("jwksURI requires https scheme, parsed as: {uri}"));
        }
        Some(uri) => uri.to_owned(),
        None => format!("https://{address}{KEYS_PATH}"),
    };
    let algorithms: BTreeSet<&str> = keys.iter().map(|k| k.algorithm.name()).collect();
    Ok(json!({
        "issuer": issuer,
        "jwks_uri": uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    }))
}

/// The key set.
pub fn keys(keys: &[VerifyKey]) -> Value {
    json!({"keys": keys.iter().filter_map(VerifyKey::jwk).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SigningKey;

    #[test]
    fn the_documents_name_keys_issuer_and_algorithms() {
        let made = [SigningKey::generate(), SigningKey::generate_rsa()].map(|k| k.expect("randomness").public);
        let document = configuration("https://kubernetes.default.svc", None, "10.0.0.1:6443", &made).expect("valid");
        assert_eq!(document["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
        assert_eq!(
            document["id_token_signing_alg_values_supported"],
            json!(["ES256", "RS256"])
        );
        let set = keys(&made);
        assert_eq!(set["keys"].as_array().map(Vec::len), Some(2));
        assert_eq!(set["keys"][1]["e"], "AQAB");
        assert!(configuration("kubernetes/serviceaccount", None, "a", &made).is_err());
    }
}
