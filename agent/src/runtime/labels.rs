//! Labels and annotations on sandboxes and containers: what survives a restart of the agent.

use std::collections::HashMap;

use steersman_types::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::pod;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

pub const HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
pub const PORTS: &str = "io.kubernetes.container.ports";
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a pod's sandbox: the pod's own and the three that identify it.
#[must_use]
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let own = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()));
    own.chain(identity(pod)).collect()
}

/// Annotations of a pod's sandbox: the pod's own.
#[must_use]
pub fn sandbox_annotations(pod: &Pod) -> HashMap<String, String> {
    pod.metadata
        .annotations
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[must_use]
pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    identity(pod)
        .into_iter()
        .chain([(CONTAINER_NAME.to_owned(), container.name.clone())])
        .collect()
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.into(), pod::name(pod).into()),
        (POD_NAMESPACE.into(), pod::namespace(pod).into()),
        (POD_UID.into(), pod::uid(pod).into()),
    ]
}

/// Annotations of a container: how to stop it, where its last words are, and how often it was restarted.
#[must_use]
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: i32) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut put = |key: &str, value: String| all.insert(key.to_owned(), value);
    put(HASH, container_hash(container));
    put(RESTART_COUNT, restart_count.to_string());
    put(
        MESSAGE_PATH,
        container.termination_message_path.clone().unwrap_or_default(),
    );
    put(
        MESSAGE_POLICY,
        container.termination_message_policy.clone().unwrap_or_default(),
    );
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        put(DELETION_GRACE, grace.to_string());
    }
    if let Some(grace) = pod::spec(pod).termination_grace_period_seconds {
        put(TERMINATION_GRACE, grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(hook)
    {
        put(PRE_STOP, json);
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        put(PORTS, json);
    }
    all
}

/// The preStop hook with which a container was made, for one whose pod is no longer known.
#[must_use]
pub fn pre_stop(annotations: &HashMap<String, String>) -> Option<LifecycleHandler> {
    serde_json::from_str(annotations.get(PRE_STOP)?).ok()
}

/// Changes when a container's image or name does: the only parts of a container that may change and need a new one.
///
/// Upstream's value: FNV-1a (32 bit) over Go's detailed print of the bytes of `{"image":…,"name":…}`, in hex.
#[must_use]
pub fn container_hash(container: &Container) -> String {
    let quote = |text: &str| {
        let json = serde_json::to_string(text).unwrap_or_default();
        // Go's JSON escapes these three for the sake of HTML.
        json.replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
    };
    let image = quote(container.image.as_deref().unwrap_or_default());
    let json = format!(r#"{{"image":{image},"name":{}}}"#, quote(&container.name));
    let printed: Vec<String> = json.bytes().map(|b| b.to_string()).collect();
    let printed = format!("([]uint8)[{}]", printed.join(" "));
    let hash = printed
        .bytes()
        .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}
