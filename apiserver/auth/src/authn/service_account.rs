//! Service account tokens: signature, issuer, time, and whether the objects a token is bound to are still the same.
//!
//! A token dies with its service account, its pod, its secret or its node: name and uid must match an object that is not
//! deleted (a deletion takes [`LEEWAY`] to count, as on other clocks it may not have happened yet). A token kept in a
//! Secret has an issuer and claims of its own, and no expiry: it is good as long as the Secret holds exactly it. Any other
//! token without an expiry is refused.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Authentication, Unauthorized};
use crate::lister::{Lister, text};
use crate::token::VerifyKey;
use crate::token::jws::Unverified;
use crate::user::{CREDENTIAL_ID, NODE_NAME, NODE_UID, POD_NAME, POD_UID, UserInfo};

/// How far clocks may differ, seconds.
const LEEWAY: i64 = 60;

/// Who signs the tokens that are kept in Secrets: the token controller.
const KEPT_ISSUER: &str = "kubernetes/serviceaccount";

/// What is needed to accept service account tokens.
pub struct ServiceAccounts {
    /// Every `--service-account-issuer`.
    pub issuers: Vec<String>,
    /// Every key in every `--service-account-key-file` (or the signing key's public half).
    pub keys: Vec<VerifyKey>,
}

impl ServiceAccounts {
    /// The user of a token; `Ok(None)` when it is not one of ours.
    pub(super) fn user(
        &self,
        token: &str,
        wanted: &[String],
        api_audiences: &[String],
        objects: &dyn Lister,
        now: Timestamp,
    ) -> Result<Option<Authentication>, Unauthorized> {
        let whole = token;
        let Some(token) = Unverified::parse(token) else {
            return Ok(None);
        };
        let issuer = text(&token.claims, "/iss");
        let kept = issuer == KEPT_ISSUER;
        if !kept && !self.issuers.iter().any(|i| i == issuer) {
            return Ok(None);
        }
        let mut candidates = self
            .keys
            .iter()
            .filter(|key| token.key_id().is_none_or(|id| id == key.id))
            .peekable();
        if candidates.peek().is_none() {
            return Err(Unauthorized::new("invalid signature, no keys found"));
        }
        if !candidates.any(|key| token.verified_by(key)) {
            return Err(Unauthorized::new("invalid signature"));
        }

        // From here on the claims are what an issuer with one of our keys said.
        let claims = token.claims;
        let audiences = audiences(&claims);
        let audiences = if audiences.is_empty() {
            api_audiences.to_vec()
        } else {
            audiences
        };
        let common: Vec<String> = audiences.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if common.is_empty() && !api_audiences.is_empty() {
            return Err(Unauthorized::new(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&audiences),
                quoted(wanted)
            )));
        }
        let user = if kept {
            kept_user(whole, &claims, objects)?
        } else {
            check_times(&claims, now)?;
            bound_user(&claims, objects, now)?
        };
        Ok(Some(Authentication {
            user: Arc::new(user),
            audiences: common,
        }))
    }
}

fn quoted(list: &[String]) -> String {
    format!(
        "[{}]",
        list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ")
    )
}

fn audiences(claims: &Value) -> Vec<String> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// A NumericDate, fractions cut; `None` when absent or not a number.
fn date(claims: &Value, name: &str) -> Option<i64> {
    let number = claims.get(name)?;
    // Out of range saturates, which reads as far in the past or the future, as it should.
    number.as_i64().or_else(|| number.as_f64().map(|f| f as i64))
}

fn check_times(claims: &Value, now: Timestamp) -> Result<(), Unauthorized> {
    let now = now.as_second();
    let Some(expiry) = date(claims, "exp") else {
        return Err(Unauthorized::new("service account token has no expiration"));
    };
    if expiry < now - LEEWAY {
        return Err(Unauthorized::new("service account token has expired"));
    }
    if date(claims, "nbf").is_some_and(|at| at > now + LEEWAY) {
        return Err(Unauthorized::new("service account token is not valid yet"));
    }
    if date(claims, "iat").is_some_and(|at| at > now + LEEWAY) {
        return Err(Unauthorized::new("service account token is issued in the future"));
    }
    Ok(())
}

/// The user of a token that is kept in a Secret, if it is still there, and its account too.
fn kept_user(token: &str, claims: &Value, objects: &dyn Lister) -> Result<UserInfo, Unauthorized> {
    let claim = |name: &str| {
        let key = format!("kubernetes.io/serviceaccount/{name}");
        claims.get(&key).and_then(Value::as_str).unwrap_or_default()
    };
    let (namespace, secret) = (claim("namespace"), claim("secret.name"));
    let (name, uid) = (claim("service-account.name"), claim("service-account.uid"));
    for (value, what) in [
        (namespace, "namespace"),
        (secret, "secretName"),
        (name, "serviceAccountName"),
        (uid, "serviceAccountUID"),
    ] {
        if value.is_empty() {
            return Err(Unauthorized::new(format!("{what} claim is missing")));
        }
    }
    if text(claims, "/sub") != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(Unauthorized::new("sub claim is invalid"));
    }
    let going = |object: &Value| !text(object, "/metadata/deletionTimestamp").is_empty();
    let gone = "Token has been invalidated";
    let found = objects.get("", "secrets", Some(namespace), secret);
    let found = found.ok_or_else(|| Unauthorized::stale(gone))?;
    if going(&found) {
        return Err(Unauthorized::new(gone));
    }
    // The secret may have been filled a moment ago.
    let held = STANDARD.decode(text(&found, "/data/token")).unwrap_or_default();
    if constant_time::verify_slices_are_equal(&held, token.as_bytes()).is_err() {
        return Err(Unauthorized::stale("Token does not match server's copy"));
    }
    let account = objects
        .get("", "serviceaccounts", Some(namespace), name)
        .ok_or_else(|| Unauthorized::stale(format!("serviceaccounts {name:?} not found")))?;
    if going(&account) {
        return Err(Unauthorized::new(format!(
            "ServiceAccount {namespace}/{name} has been deleted"
        )));
    }
    let found = text(&account, "/metadata/uid");
    if found != uid {
        return Err(Unauthorized::stale(format!(
            "ServiceAccount UID ({found}) does not match claim ({uid})"
        )));
    }
    Ok(UserInfo::service_account(namespace, name, uid))
}

/// The user, if everything the token is bound to still exists.
fn bound_user(claims: &Value, objects: &dyn Lister, now: Timestamp) -> Result<UserInfo, Unauthorized> {
    let private = claims.get("kubernetes.io").cloned().unwrap_or_default();
    let namespace = text(&private, "/namespace");
    let (name, uid) = (
        text(&private, "/serviceaccount/name"),
        text(&private, "/serviceaccount/uid"),
    );
    if namespace.is_empty() || name.is_empty() {
        return Err(Unauthorized::new("service account token names no service account"));
    }

    let account = objects
        .get("", "serviceaccounts", Some(namespace), name)
        .ok_or_else(|| Unauthorized::stale(format!("serviceaccounts {name:?} not found")))?;
    let found = text(&account, "/metadata/uid");
    if found != uid {
        return Err(Unauthorized::stale(format!(
            "service account UID ({found}) does not match claim ({uid})"
        )));
    }
    if deleted(&account, now) {
        return Err(Unauthorized::new(format!(
            "service account {namespace}/{name} has been deleted"
        )));
    }

    let mut user = UserInfo::service_account(namespace, name, uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.into(), vec![value.into()]);
        }
    };
    let bound = |kind: &str| private.get(kind).filter(|r| r.is_object());
    if let Some(secret) = bound("secret") {
        alive(secret, "secrets", Some(namespace), objects, now, |found, claimed| {
            format!("secret UID ({found}) does not match service account secret ref claim ({claimed})")
        })?;
    }
    let pod = bound("pod");
    if let Some(pod) = pod {
        alive(pod, "pods", Some(namespace), objects, now, |found, claimed| {
            format!("pod UID ({found}) does not match service account pod ref claim ({claimed})")
        })?;
        extra(POD_NAME, text(pod, "/name"));
        extra(POD_UID, text(pod, "/uid"));
    }
    if let Some(node) = bound("node") {
        // The node of a pod-bound token is information; the pod decides.
        if pod.is_none() {
            alive(node, "nodes", None, objects, now, |found, claimed| {
                format!("node UID ({found}) does not match service account node ref claim ({claimed})")
            })?;
        }
        extra(NODE_NAME, text(node, "/name"));
        extra(NODE_UID, text(node, "/uid"));
    }
    let id = text(claims, "/jti");
    if !id.is_empty() {
        user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
    }
    Ok(user)
}

/// Whether the object that a claim names exists, is the same one, and is not deleted.
fn alive(
    claim: &Value,
    plural: &str,
    namespace: Option<&str>,
    objects: &dyn Lister,
    now: Timestamp,
    other: impl FnOnce(&str, &str) -> String,
) -> Result<(), Unauthorized> {
    let (name, uid) = (text(claim, "/name"), text(claim, "/uid"));
    let gone = "service account token has been invalidated";
    let object = objects
        .get("", plural, namespace, name)
        .ok_or_else(|| Unauthorized::stale(gone))?;
    let found = text(&object, "/metadata/uid");
    if found != uid {
        return Err(Unauthorized::stale(other(found, uid)));
    }
    if deleted(&object, now) {
        Err(Unauthorized::new(gone))
    } else {
        Ok(())
    }
}

fn deleted(object: &Value, now: Timestamp) -> bool {
    let at = text(object, "/metadata/deletionTimestamp");
    // A time that cannot be read still says that the object is deleted.
    !at.is_empty()
        && at
            .parse::<Timestamp>()
            .map_or(true, |at| at.as_second() < now.as_second() - LEEWAY)
}
