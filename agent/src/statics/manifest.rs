//! The text of a file, or of what lies behind a URL, as pods of this node. Pure.

use std::fmt::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use steersman_schema::codec::{MediaType, decode};
use steersman_types::Typed;
use steersman_types::api::core::v1::{EnvVar, Pod, Toleration};
use steersman_types::jiff::Timestamp;

use super::defaults;
use crate::pod::{self, FILE, HASH, HTTP, SOURCE};

/// When the node saw this version of the pod first.
pub const SEEN: &str = "kubernetes.io/config.seen";

/// Where a pod is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A file's path.
    File(&'a str),
    Url(&'a str),
}

impl Origin<'_> {
    /// What the annotation [`SOURCE`] says.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::File(_) => FILE,
            Self::Url(_) => HTTP,
        }
    }
}

/// Reads a pod and makes it this node's: its name gets the node's, its uid follows from its content and origin.
///
/// # Errors
/// When the text is no pod, or a pod that a node cannot have by itself; one line.
pub fn parse(text: &str, origin: Origin<'_>, node: &str, now: Timestamp) -> Result<Pod, String> {
    own(single(text)?, origin, node, now)
}

/// Reads one pod, or a list of pods of which none may be wrong.
///
/// # Errors
/// As [`parse`]; one line, with the text itself when it is neither.
pub fn parse_all(text: &str, url: &str, node: &str, now: Timestamp) -> Result<Vec<Pod>, String> {
    let origin = Origin::Url(url);
    let no_pod = match single(text) {
        Ok(value) => return Ok(vec![own(value, origin, node, now)?]),
        Err(e) => e,
    };
    let items = list(text).map_err(|no_list| {
        format!("{url}: received '{text}', but couldn't parse as single ({no_pod}) or multiple pods ({no_list})")
    })?;
    items.into_iter().map(|item| own(item, origin, node, now)).collect()
}

fn decoded(text: &str) -> Result<Value, String> {
    Ok(decode(MediaType::Yaml, text.as_bytes(), None)
        .map_err(|e| e.to_string())?
        .value)
}

fn single(text: &str) -> Result<Value, String> {
    let value = decoded(text)?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err(format!(
            "invalid pod: kind {} of {}",
            value["kind"], value["apiVersion"]
        ));
    }
    Ok(value)
}

fn list(text: &str) -> Result<Vec<Value>, String> {
    let mut value = decoded(text)?;
    if value["kind"] != "PodList" || value["apiVersion"] != "v1" {
        return Err(format!(
            "invalid pods list: kind {} of {}",
            value["kind"], value["apiVersion"]
        ));
    }
    match value["items"].take() {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(Vec::new()),
        _ => Err("invalid pods list: items is no list".into()),
    }
}

fn own(mut value: Value, origin: Origin<'_>, node: &str, now: Timestamp) -> Result<Pod, String> {
    if !value.is_object() {
        return Err(format!("invalid pod: {value}"));
    }
    let own_uid = value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let uid = if own_uid.is_empty() {
        identity(&value, origin, node)
    } else {
        own_uid
    };
    defaults::apply(&mut value);
    // What it says about its state is not for a file to say.
    value["status"] = json!({"phase": "Pending"});
    let mut pod = Pod::from_value(&value).map_err(|e| e.to_string())?;
    let name = pod::name(&pod).to_owned();
    if name.is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    let containers = pod::main_containers(&pod);
    let complete = |c: &steersman_types::api::core::v1::Container| !c.name.is_empty() && c.image.is_some();
    if containers.is_empty() || !containers.iter().all(complete) {
        return Err("invalid pod: spec.containers: every container needs a name and an image".into());
    }
    if let Some(resource) = reference(&pod) {
        return Err(format!("static pods may not reference {resource}"));
    }
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(uid.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid);
    annotations.insert(SOURCE.into(), origin.source().into());
    annotations.insert(SEEN.into(), now.to_string());
    if let Some(spec) = pod.spec.as_mut() {
        spec.node_name = Some(node.to_owned());
        if let Origin::File(_) = origin {
            // Trouble of the node must not end them: nobody would start them elsewhere.
            let tolerations = spec.tolerations.get_or_insert_default();
            tolerations.push(Toleration {
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                ..Toleration::default()
            });
        }
    }
    Ok(pod)
}

/// 32 hexadecimal digits, as upstream's.
fn identity(value: &Value, origin: Origin<'_>, node: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(value.to_string());
    hash.update(match origin {
        Origin::File(path) => format!("host:{node}file:{path}"),
        Origin::Url(url) => format!("url:{url}"),
    });
    let mut text = String::with_capacity(32);
    for byte in hash.finalize().iter().take(16) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What of the API the pod needs, which it may not. Upstream's words.
fn reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod::spec(pod);
    let given = |name: &Option<String>| name.as_deref().is_some_and(|n| !n.is_empty());
    if given(&spec.service_account_name) || given(&spec.service_account) {
        return Some("serviceaccounts");
    }
    let containers = || pod::all_containers(pod).map(|(_, c)| c);
    let env = |is: fn(&EnvVar) -> bool| containers().any(|c| c.env.iter().flatten().any(is));
    let volumes = || spec.volumes.iter().flatten();
    let projected = || {
        volumes()
            .filter_map(|v| v.projected.as_ref())
            .flat_map(|p| p.sources.iter().flatten())
    };
    let secrets = spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty())
        || env(|e| e.value_from.as_ref().is_some_and(|f| f.secret_key_ref.is_some()))
        || containers().any(|c| c.env_from.iter().flatten().any(|f| f.secret_ref.is_some()))
        || volumes().any(|v| v.secret.is_some())
        || projected().any(|s| s.secret.is_some());
    if secrets {
        return Some("secrets");
    }
    let maps = env(|e| e.value_from.as_ref().is_some_and(|f| f.config_map_key_ref.is_some()))
        || containers().any(|c| c.env_from.iter().flatten().any(|f| f.config_map_ref.is_some()))
        || volumes().any(|v| v.config_map.is_some())
        || projected().any(|s| s.config_map.is_some());
    if maps {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("resourceclaims");
    }
    for volume in volumes() {
        if volume.csi.is_some() {
            return Some("csidrivers (via CSI volumes)");
        }
        if volume.persistent_volume_claim.is_some() {
            return Some("persistentvolumeclaims");
        }
        if volume.ephemeral.is_some() {
            return Some("persistentvolumeclaims (via ephemeral volumes)");
        }
    }
    if projected().any(|s| s.service_account_token.is_some()) {
        return Some("serviceaccounts (via projected volumes)");
    }
    if projected().any(|s| s.cluster_trust_bundle.is_some()) {
        return Some("clustertrustbundles");
    }
    projected()
        .any(|s| s.pod_certificate.is_some())
        .then_some("podcertificates")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  hostNetwork: true\n  containers:\n  \
        - {name: c, image: web, ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}},\n     resources: {limits: {cpu: 100m}}}\n";

    fn read(text: &str, origin: &str) -> Result<Pod, String> {
        parse(text, Origin::File(origin), "Node-1", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_files_pod_belongs_to_the_node_and_has_the_defaults_that_the_api_would_give() {
        let pod = read(WEB, "/m/web.yaml").unwrap();
        assert_eq!((pod::name(&pod), pod::namespace(&pod)), ("web-node-1", "default"));
        assert!(pod::uid(&pod).len() == 32 && pod::is_static(&pod) && pod::is_critical(&pod));
        let annotations = pod.metadata.annotations.clone().unwrap();
        assert_eq!(annotations[HASH], pod::uid(&pod));
        assert_eq!(annotations[SEEN], "1970-01-01T00:00:00Z");
        let spec = pod::spec(&pod);
        assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(
            spec.tolerations.as_ref().unwrap()[0].effect.as_deref(),
            Some("NoExecute")
        );
        let c = &spec.containers[0];
        assert_eq!(c.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(c.ports.as_ref().unwrap()[0].host_port, Some(80));
        assert_eq!(c.liveness_probe.as_ref().unwrap().period_seconds, Some(10));
        let requests = c.resources.as_ref().unwrap().requests.clone().unwrap();
        assert_eq!(requests["cpu"].0, "100m");
    }

    #[test]
    fn another_content_or_origin_is_another_pod() {
        let first = read(WEB, "/m/web.yaml").unwrap();
        let uid = |pod: &Pod| pod::uid(pod).to_owned();
        assert_eq!(
            uid(&first),
            uid(&parse(WEB, Origin::File("/m/web.yaml"), "Node-1", Timestamp::MAX).unwrap())
        );
        assert_ne!(uid(&first), uid(&read(WEB, "/m/other.yaml").unwrap()));
        assert_ne!(
            uid(&first),
            uid(&read(&WEB.replace("image: web", "image: web:2"), "/m/web.yaml").unwrap())
        );
    }

    #[test]
    fn what_no_file_can_hold_is_refused() {
        for (text, part) in [
            ("kind: Pod", "apiVersion"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}", "invalid pod"),
            (&WEB.replace("name: web,", ""), "name is needed"),
            (
                &WEB.replace("hostNetwork: true", "serviceAccountName: x"),
                "static pods may not reference serviceaccounts",
            ),
            (
                &WEB.replace("hostNetwork: true", "volumes: [{name: v, configMap: {name: x}}]"),
                "static pods may not reference configmaps",
            ),
            ("{", ""),
        ] {
            let error = read(text, "/m").unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_url_gives_one_pod_or_a_list_and_its_pods_tolerate_no_trouble_of_the_node() {
        let url = "http://127.0.0.1/pods";
        let read = |text: &str| parse_all(text, url, "Node-1", Timestamp::UNIX_EPOCH);
        let one = read(WEB).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].metadata.annotations.as_ref().unwrap()[SOURCE], "http");
        assert!(pod::is_static(&one[0]) && pod::spec(&one[0]).tolerations.is_none());
        assert_ne!(
            pod::uid(&one[0]),
            pod::uid(&self::read(WEB, url).unwrap()),
            "another origin"
        );
        let item =
            |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let list = |items: Value| json!({"apiVersion": "v1", "kind": "PodList", "items": items}).to_string();
        let two = read(&list(json!([item("a"), item("b")]))).unwrap();
        assert_eq!(two.iter().map(pod::name).collect::<Vec<_>>(), ["a-node-1", "b-node-1"]);
        assert!(read(&list(json!([]))).unwrap().is_empty());
        let error = read(&list(json!([item("a"), item("")]))).unwrap_err();
        assert_eq!(
            error, "invalid pod: name is needed for the pod",
            "one that is wrong is all wrong"
        );
        assert!(read(&list(json!([1]))).unwrap_err().contains("PodList.items"));
        let error = read("hello").unwrap_err();
        assert!(
            error.starts_with("http://127.0.0.1/pods: received 'hello', but couldn't parse as single ("),
            "{error}"
        );
        assert!(error.contains(") or multiple pods ("), "{error}");
    }
}
