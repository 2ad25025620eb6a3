//! `kubernetes.io/enforce-mountable-secrets: "true"` on a service account: its pods may only use the secrets it lists.

use serde_json::Value;
use steersman_auth::lister::{items, text};

pub(super) fn enforced(account: &Value) -> bool {
    // What Go's ParseBool takes for true.
    let value = text(
        account,
        "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets",
    );
    matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

/// Why the pod may not run, if it uses a secret that the account does not list. With `ephemeral`, only what its ephemeral
/// containers use counts.
pub(super) fn refused(account: &Value, pod: &Value, ephemeral: bool) -> Option<String> {
    let name = text(account, "/metadata/name");
    let lists = |pointer: &str, secret: &str| items(account, pointer).iter().any(|s| text(s, "/name") == secret);
    let not = format!("is not allowed because service account {name} does not reference that secret");
    let kinds: &[(&str, &str)] = if ephemeral {
        &[("/spec/ephemeralContainers", "ephemeral container")]
    } else {
        for volume in items(pod, "/spec/volumes") {
            let secret = text(volume, "/secret/secretName");
            if volume.get("secret").is_some_and(Value::is_object) && !lists("/secrets", secret) {
                return Some(format!("volume with secret.secretName=\"{secret}\" {not}"));
            }
        }
        &[
            ("/spec/initContainers", "init container"),
            ("/spec/containers", "container"),
        ]
    };
    for (list, word) in kinds {
        for container in items(pod, list) {
            let at = text(container, "/name");
            for env in items(container, "/env") {
                let secret = text(env, "/valueFrom/secretKeyRef/name");
                if env.pointer("/valueFrom/secretKeyRef").is_some_and(Value::is_object) && !lists("/secrets", secret) {
                    let variable = text(env, "/name");
                    let what = format!("{word} {at} with envVar {variable} referencing secret.secretName=\"{secret}\"");
                    return Some(format!("{what} {not}"));
                }
            }
            for source in items(container, "/envFrom") {
                let secret = text(source, "/secretRef/name");
                if source.get("secretRef").is_some_and(Value::is_object) && !lists("/secrets", secret) {
                    return Some(format!(
                        "{word} {at} with envFrom referencing secret.secretName=\"{secret}\" {not}"
                    ));
                }
            }
        }
    }
    if ephemeral {
        return None;
    }
    let pull = items(pod, "/spec/imagePullSecrets").iter().enumerate();
    pull.map(|(index, secret)| (index, text(secret, "/name")))
        .find(|(_, s)| !lists("/imagePullSecrets", s))
        .map(|(index, secret)| {
            format!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {name} does not \
                 reference that imagePullSecret"
            )
        })
}
