//! Bootstrap tokens: signs what a joining node must believe, and removes tokens that have expired.
//!
//! Two controllers, off unless named by `--controllers`. The *signer* watches the ConfigMap kube-public/cluster-info and the
//! token Secrets of kube-system, and keeps one signature per token beside the kubeconfig (a detached JWS keyed with the
//! token's secret). The *cleaner* deletes token Secrets at their expiration. [`signed`] and [`life`] are pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::{Informer, Key, ListOptions};
use steersman_types::api::core::v1::{ConfigMap, Secret};
use tracing::{info, warn};

use crate::act::{Action, Executor};
use crate::context::Context;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const SIGNATURE: &str = "jws-kubeconfig-";
const CLUSTER_INFO: &str = "cluster-info";
const PUBLIC: &str = "kube-public";

fn secrets(context: &Context) -> Informer<Secret> {
    let of_type = ListOptions::in_namespace("kube-system").fields(&format!("type={TYPE}"));
    context.informers.of_with::<Secret>(of_type)
}

/// Starts the cleaner.
#[must_use]
pub fn start_cleaner(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let secrets = secrets(&context);
        let executor = context.executor("token-cleaner");
        secrets.synced().await;
        let queue = context.queue::<Key>();
        let adding = queue.clone();
        secrets.on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        queue
            .run("Secret", 1, move |key| clean(secrets.clone(), executor.clone(), key))
            .await;
        Ok(())
    })
}

/// Starts the signer.
#[must_use]
pub fn start_signer(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let secrets = secrets(&context);
        let name = format!("metadata.name={CLUSTER_INFO}");
        let maps = context
            .informers
            .of_with::<ConfigMap>(ListOptions::in_namespace(PUBLIC).fields(&name));
        let executor = context.executor("bootstrap-signer");
        secrets.synced().await;
        maps.synced().await;
        let queue = context.queue::<()>();
        let adding = queue.clone();
        secrets.on_event(move |_| adding.add(()));
        let adding = queue.clone();
        maps.on_event(move |_| adding.add(()));
        queue
            .run("ConfigMap", 1, move |()| {
                sign_all(secrets.clone(), maps.clone(), executor.clone())
            })
            .await;
        Ok(())
    })
}

fn field<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let value = secret.data.as_ref()?.get(key)?;
    std::str::from_utf8(&value.0).ok().filter(|text| !text.is_empty())
}

/// How long a token is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Forever,
    For(Duration),
    /// Or its expiration cannot be read.
    Over,
}

#[must_use]
pub fn life(secret: &Secret, now: Timestamp) -> Life {
    let Some(text) = field(secret, "expiration") else {
        return Life::Forever;
    };
    let left = text.parse::<Timestamp>().ok().map(|end| end.duration_since(now));
    match left.and_then(|left| Duration::try_from(left).ok()) {
        Some(left) if !left.is_zero() => Life::For(left),
        _ => Life::Over,
    }
}

/// Identity and secret of a token that may sign now.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = field(secret, "token-id")?;
    let named = secret.metadata.name.as_deref()?.strip_prefix(PREFIX)?;
    let valid = named == id && id.len() == 6 && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let signs = field(secret, "usage-bootstrap-signing") == Some("true");
    (valid && signs && life(secret, now) != Life::Over).then_some((id, field(secret, "token-secret")?))
}

/// A JWS of `content` without the content.
fn signature(content: &str, id: &str, secret: &str) -> String {
    // The identity is letters and digits: nothing to be escaped.
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// The map with the signatures of these tokens and no others; `None` when it has them.
#[must_use]
pub fn signed(map: &ConfigMap, secrets: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let before = map.data.clone()?;
    let content = before.get("kubeconfig")?.clone();
    let mut data: BTreeMap<String, String> = before.clone();
    data.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, secret) in secrets.iter().filter_map(|secret| signing(secret, now)) {
        data.insert(format!("{SIGNATURE}{id}"), signature(&content, id, secret));
    }
    (data != before).then(|| ConfigMap {
        data: Some(data),
        ..map.clone()
    })
}

async fn sign_all(
    secrets: Informer<Secret>,
    maps: Informer<ConfigMap>,
    executor: Executor,
) -> Result<Option<Duration>, String> {
    let Some(map) = maps.get(PUBLIC, CLUSTER_INFO) else {
        return Ok(None);
    };
    let (secrets, now) = (secrets.list(), Timestamp::now());
    if let Some(updated) = signed(&map, &secrets, now) {
        match executor.one(Action::update(&updated)).await {
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return Err(error.to_string()),
            Ok(_) => info!("signed cluster-info"),
        }
    }
    // A token that expires takes its signature along.
    let ends = secrets.iter().filter_map(|secret| match life(secret, now) {
        Life::For(left) => Some(left),
        _ => None,
    });
    Ok(ends.min())
}

async fn clean(secrets: Informer<Secret>, executor: Executor, key: Key) -> Result<Option<Duration>, String> {
    let Some(secret) = secrets.get_key(&key) else {
        return Ok(None);
    };
    match life(&secret, Timestamp::now()) {
        Life::Forever => Ok(None),
        Life::For(left) => Ok(Some(left)),
        Life::Over => {
            info!(secret = %key, "Deleting expired secret");
            if let Err(error) = executor.one(Action::delete(secret.as_ref())).await {
                warn!(secret = %key, %error, "Error deleting secret");
                return Err(error.to_string());
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn token(id: &str, expiration: &str, signs: bool) -> Arc<Secret> {
        let text = |value: &str| base64::engine::general_purpose::STANDARD.encode(value);
        let mut data =
            json!({"token-id": text(id), "token-secret": text("0123456789abcdef"), "expiration": text(expiration)});
        if signs {
            data["usage-bootstrap-signing"] = text("true").into();
        }
        let name = format!("bootstrap-token-{id}");
        Arc::new(Secret::from_value(&json!({"metadata": {"name": name}, "type": TYPE, "data": data})).unwrap())
    }

    fn map(data: serde_json::Value) -> ConfigMap {
        ConfigMap::from_value(&json!({"metadata": {"name": "cluster-info"}, "data": data})).unwrap()
    }

    #[test]
    fn a_signature_is_a_detached_jws() {
        let text = signature("payload", "abcdef", "key");
        let (header, tag) = text.split_once("..").unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.decode(header).unwrap(),
            br#"{"alg":"HS256","kid":"abcdef"}"#
        );
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode("payload"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        assert!(hmac::verify(&key, message.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).unwrap()).is_ok());
    }

    #[test]
    fn an_expiration_that_cannot_be_read_is_over() {
        assert_eq!(life(&token("abcdef", "", true), now()), Life::Forever);
        assert_eq!(life(&token("abcdef", "soon", true), now()), Life::Over);
        assert_eq!(life(&token("abcdef", "2025-12-31T23:59:59Z", true), now()), Life::Over);
        let minute = Life::For(Duration::from_secs(60));
        assert_eq!(life(&token("abcdef", "2026-01-01T01:01:00+01:00", true), now()), minute);
    }

    proptest! {
        #[test]
        fn exactly_the_tokens_that_may_sign_have_signatures(tokens in proptest::collection::btree_map("[a-z0-9]{6}", (any::<bool>(), any::<bool>()), 0..5)) {
            let secrets: Vec<_> = tokens.iter().map(|(id, (expired, signs))| {
                token(id, if *expired { "2025-01-01T00:00:00Z" } else { "" }, *signs)
            }).collect();
            let before = map(json!({"kubeconfig": "k", "jws-kubeconfig-zzzzzz!": "old"}));
            let after = signed(&before, &secrets, now()).unwrap();
            let keys: Vec<String> = after.data.iter().flatten().filter_map(|(k, _)| k.strip_prefix(SIGNATURE).map(str::to_owned)).collect();
            let wanted: Vec<String> = tokens.iter().filter(|(_, (expired, signs))| !expired && *signs).map(|(id, _)| id.clone()).collect();
            prop_assert_eq!(keys, wanted);
            prop_assert!(signed(&after, &secrets, now()).is_none());
        }
    }
}
