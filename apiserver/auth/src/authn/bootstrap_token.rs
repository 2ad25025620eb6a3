//! Bootstrap tokens (`--enable-bootstrap-token-auth`): short-lived secrets in kube-system with which a new node asks for
//! its certificate. The token is `<id>.<secret>`, the Secret is `bootstrap-token-<id>`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::lister::{Lister, text};
use crate::user::UserInfo;

const DEFAULT_GROUP: &str = "system:bootstrappers";

/// The user of a bootstrap token; `None` when it is not one, or no valid Secret backs it.
pub(super) fn user(token: &str, objects: &dyn Lister, now: Timestamp) -> Option<UserInfo> {
    let (id, secret) = token.split_once('.')?;
    let fits = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if !fits(id, 6) || !fits(secret, 16) {
        return None;
    }
    let object = objects.get("", "secrets", Some("kube-system"), &format!("bootstrap-token-{id}"))?;
    let refuse = |why: &str| {
        tracing::info!(secret = id, why, "bootstrap token refused");
        None
    };
    if !text(&object, "/metadata/deletionTimestamp").is_empty() {
        return refuse("is deleted and awaiting removal");
    }
    if text(&object, "/type") != "bootstrap.kubernetes.io/token" {
        return refuse("has invalid type, expected bootstrap.kubernetes.io/token.");
    }
    if verify_slices_are_equal(data(&object, "token-secret").as_bytes(), secret.as_bytes()).is_err() {
        return refuse("has invalid value for key token-secret.");
    }
    if data(&object, "token-id") != id {
        return refuse("has invalid value for key token-id.");
    }
    let expiration = data(&object, "expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |at| at <= now) {
        return refuse("has expired");
    }
    if data(&object, "usage-bootstrap-authentication") != "true" {
        return refuse("not marked usage-bootstrap-authentication=true.");
    }
    let extra = data(&object, "auth-extra-groups");
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_group(group) {
            return refuse("has invalid value for key auth-extra-groups");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(UserInfo {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..UserInfo::default()
    })
}

fn data(secret: &Value, key: &str) -> String {
    let encoded = secret
        .get("data")
        .and_then(|d| d.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default();
    STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// `system:bootstrappers:` and 1 to 256 of `[a-z0-9:-]`, the last a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lister::Fixed;
    use serde_json::json;

    fn secret(change: impl FnOnce(&mut Value)) -> Fixed {
        let b64 = |text: &str| STANDARD.encode(text);
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
            "data": {
                "token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef"),
                "usage-bootstrap-authentication": b64("true"), "expiration": b64("2030-01-01T00:00:00Z"),
                "auth-extra-groups": b64("system:bootstrappers:kubeadm:default-node-token"),
            },
        });
        change(&mut object);
        let mut objects = Fixed::default();
        objects.put("", "secrets", object);
        objects
    }

    #[test]
    fn a_valid_secret_makes_a_user_and_every_fault_refuses() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let token = "abcdef.0123456789abcdef";
        let user_of = |objects: &Fixed, token: &str| user(token, objects, now);
        let good = secret(|_| {});
        let got = user_of(&good, token).expect("valid");
        assert_eq!(got.name, "system:bootstrap:abcdef");
        assert_eq!(
            got.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:kubeadm:default-node-token"
            ]
        );
        for bad in [
            "abcdef.0123456789abcdeX",
            "abcdef.0123456789abcdee",
            "abcdeg.0123456789abcdef",
            "abcdef.",
            "x",
        ] {
            assert_eq!(user_of(&good, bad), None, "{bad}");
        }
        let faults: [fn(&mut Value); 6] = [
            |s| s["type"] = "Opaque".into(),
            |s| s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            |s| s["data"]["expiration"] = STANDARD.encode("2025-01-01T00:00:00Z").into(),
            |s| s["data"]["expiration"] = STANDARD.encode("soon").into(),
            |s| s["data"]["usage-bootstrap-authentication"] = Value::Null,
            |s| s["data"]["auth-extra-groups"] = STANDARD.encode("system:masters").into(),
        ];
        for fault in faults {
            assert_eq!(user_of(&secret(fault), token), None);
        }
    }
}
